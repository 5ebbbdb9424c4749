"""Batch normalisation (Ioffe & Szegedy 2015). Twins: `batch_norm` and `batch_norm_backward` in
cnn/reference.

    y = gamma xhat + beta,  xhat = (x - mean) / s,  s = sqrt(var + eps)

mean and var of a channel are taken over all n images and pixels of the batch. They depend on every x, so the
gradient has three parts: dL/dxhat_i = gamma dy_i reaches x_i directly, through the mean and through s,

    dx_i = gamma / s (dy_i - mean(dy) - xhat_i mean(dy xhat))
    dgamma = sum dy xhat,  dbeta = sum dy

because d mean/dx_i = 1/n, d s/dx_i = xhat_i / n, and xhat sums to 0. In evaluation mode mean and var are the
running ones, constants, and the two means vanish.

Both directions come in two passes over a block, with the whole batch brought together between them:
`moments`, `statistics`, `normalise` forward and `gradient_moments`, `gradients`, `normalise_backward` back.
Lanes without an image count nowhere. A ReLU that follows is a part of both directions: backward finds out again
where y was 0, which costs less than reading y.
"""
from libc.math cimport sqrt
from libc.string cimport memset

from cnn._ext.op cimport Image, Place, add_plane, add_row, begin, end, held, pixels, sixteen_numbers, to_row
from cnn._ext.vec cimport (DVL, LANES, ROWV, VL, dvec, dvec_load, dvec_store, dvec_zero, ivec, real, vec, vec_clear,
                           vec_keep, vec_le, vec_load, vec_relu, vec_splat, vec_store)

cdef enum:
    CHANNELS = 16       # of a task that brings the blocks together
    UNROLL = 4          # pixels at a time, because one sum would wait for itself
    MOST = 1024         # pixels, and up to a row more, that are summed in the array's precision


cdef inline double lanes_sum(vec* acc, Py_ssize_t images) noexcept nogil:
    """Sum of UNROLL rows, which become 0, over the lanes that hold an image."""
    cdef real lanes[16]
    cdef double total = 0
    cdef Py_ssize_t i
    cdef vec v
    cdef int q, h
    for h in range(ROWV):
        v = acc[h]
        for q in range(1, UNROLL):
            v = v + acc[q * ROWV + h]
        vec_store(lanes + h * VL, v)
    for q in range(UNROLL * ROWV):
        acc[q] = vec_splat(0)
    for i in range(images):
        total += lanes[i]
    return total


cdef inline double plane_sum(const real* x, Py_ssize_t row, Py_ssize_t H, Py_ssize_t W,
                             Py_ssize_t images) noexcept nogil:
    """Sum of x over one channel of a block, in double precision: what is left where numbers cancel must be exact."""
    cdef dvec s[8]
    cdef double lanes[8 * 8]
    cdef double total = 0
    cdef Py_ssize_t h, i, together = 8 * DVL // LANES, most = W // together
    cdef int q
    for q in range(8):
        s[q] = dvec_zero()
    for h in range(H):
        for i in range(most):
            for q in range(8):
                s[q] = s[q] + dvec_load(x + h * row + i * 8 * DVL + q * DVL)
        for i in range(most * together, W):
            for q in range(LANES // DVL):
                s[q] = s[q] + dvec_load(x + h * row + i * LANES + q * DVL)
    for q in range(8):
        dvec_store(lanes + q * DVL, s[q])
    for i in range(images):
        for q in range(together):
            total += lanes[q * LANES + i]
    return total


cdef inline double plane_squares(const real* x, Py_ssize_t row, Py_ssize_t H, Py_ssize_t W, Py_ssize_t images,
                                 real centre) noexcept nogil:
    """Sum of (x - centre)^2 over one channel of a block."""
    cdef vec t[4 * 8]
    cdef vec c = vec_splat(centre), d
    cdef Py_ssize_t h, i, most = W // UNROLL, since = 0
    cdef double total = 0
    cdef int q
    for q in range(UNROLL * ROWV):
        t[q] = vec_splat(0)
    for h in range(H):
        for i in range(most):
            for q in range(UNROLL * ROWV):
                d = vec_load(x + h * row + i * UNROLL * LANES + q * VL) - c
                t[q] = t[q] + d * d
        for i in range(most * UNROLL, W):
            for q in range(ROWV):
                d = vec_load(x + h * row + i * LANES + q * VL) - c
                t[q] = t[q] + d * d
        since += W
        if since >= MOST:
            since = 0
            total += lanes_sum(t, images)
    return total + lanes_sum(t, images)


ctypedef struct Moments:
    Image x                     # IN  (C, H, W, 16)
    double* moments             # OUT (C, 2)
    Py_ssize_t channels, height, width

cdef void moments(const Moments* a, const Place* place) noexcept nogil:
    """moments[c] = mean, sum of (x - mean)^2 over one block's images and pixels.

    First the mean, then the squares around it, corrected by what rounding it took away: nothing cancels.
    """
    cdef Py_ssize_t C = a.channels, H = a.height, W = a.width, row = a.x.row, c
    cdef double n = <double>(H * W * place.images), mean, off
    cdef double* m = a.moments
    cdef const real* x
    for c in range(begin(C, place), end(C, place)):
        x = pixels(&a.x, c, 0)
        mean = plane_sum(x, row, H, W, place.images) / n
        off = mean - <real>mean
        m[2 * c] = mean
        m[2 * c + 1] = plane_squares(x, row, H, W, place.images, <real>mean) - n * off * off


ctypedef struct Statistics:
    const double* moments       # IN  (blocks, step)
    real* mean                  # OUT (C,)
    real* var                   # OUT (C,) biased
    real* running_mean          # IN/OUT (C,) or NULL
    real* running_var           # IN/OUT (C,) or NULL
    const double* factor        # IN  (1,) f, or NULL
    Py_ssize_t channels
    Py_ssize_t pixels, images   # of an image, of a block
    Py_ssize_t step             # numbers from one block's moments to the next one's
    Py_ssize_t unbiased         # 1 or 0

cdef void statistics(const Statistics* a, const Place* place) noexcept nogil:
    """mean and biased var of the batch from the blocks' moments, in their order, and the running ones:
    r = (1 - f) r + f new, where the running variance takes the unbiased one, or not."""
    cdef const double* m = a.moments
    cdef Py_ssize_t step = a.step, c, b
    cdef double k, total, centre, squares, d, f
    if place.total == 0:
        return
    for c in range(place.task * CHANNELS, min((place.task + 1) * CHANNELS, a.channels)):
        total = centre = squares = 0
        for b in range(place.blocks):
            k = <double>(a.pixels * min(a.images, place.total - a.images * b))
            total += k
            centre += k * m[b * step + 2 * c]
        centre /= total
        for b in range(place.blocks):
            k = <double>(a.pixels * min(a.images, place.total - a.images * b))
            d = m[b * step + 2 * c] - centre
            squares += m[b * step + 2 * c + 1] + k * d * d
        a.mean[c] = <real>centre
        a.var[c] = <real>(squares / total)
        if a.running_mean:
            f = a.factor[0]
            a.running_mean[c] = <real>((1 - f) * a.running_mean[c] + f * centre)
            a.running_var[c] = <real>((1 - f) * a.running_var[c] + f * (squares / (total - a.unbiased)))


cdef inline real inverse(real var, double eps) noexcept nogil:
    """1 / sqrt(var + eps)"""
    return <real>(1 / sqrt(var + eps))


ctypedef struct Normalise:
    Image x                     # IN  (C, H, W, 16)
    Image y                     # OUT (C, H, W, 16)
    const real* mean            # IN  (C,)
    const real* var             # IN  (C,)
    const real* gamma           # IN  (C,) or NULL: 1
    const real* beta            # IN  (C,) or NULL: 0
    Py_ssize_t channels, height, width
    Py_ssize_t relu             # whether a ReLU follows
    double eps

cdef void normalise(const Normalise* a, const Place* place) noexcept nogil:
    """y = gamma (x - mean) / sqrt(var + eps) + beta, then perhaps a ReLU"""
    cdef Py_ssize_t C = a.channels, H = a.height, W = a.width, c, h, i
    cdef bint relu = a.relu
    cdef const real* x
    cdef real* y
    cdef vec centre, scale, shift, v
    for c in range(begin(C, place), end(C, place)):
        centre = vec_splat(a.mean[c])
        scale = vec_splat(inverse(a.var[c], a.eps) * (a.gamma[c] if a.gamma else 1))
        shift = vec_splat(a.beta[c] if a.beta else 0)
        for h in range(H):
            x = pixels(&a.x, c, h)
            y = pixels(&a.y, c, h)
            for i in range(W * ROWV):
                v = (vec_load(x + i * VL) - centre) * scale + shift
                vec_store(y + i * VL, vec_relu(v) if relu else v)


cdef inline void gradient_sums(const real* dy, const real* x, Py_ssize_t pixels, vec centre, vec scale, vec shift,
                               bint relu, int unroll, vec* s, vec* t) noexcept nogil:
    """s += dy, t += dy (x - centre), `unroll` pixels at a time, where the ReLU let x through."""
    cdef Py_ssize_t i
    cdef vec d, g
    cdef int q
    for i in range(pixels):
        for q in range(unroll * ROWV):
            d = vec_load(x + q * VL) - centre
            g = vec_load(dy + q * VL)
            if relu:
                g = vec_clear(vec_le(d * scale + shift, vec_splat(0)), g)
            s[q] = s[q] + g
            t[q] = t[q] + g * d
        x += unroll * LANES
        dy += unroll * LANES


ctypedef struct GradientMoments:
    Image dy                    # IN  (C, H, W, 16)
    Image x                     # IN  (C, H, W, 16)
    const real* mean            # IN  (C,)
    const real* var             # IN  (C,)
    const real* gamma           # IN  (C,) or NULL: 1
    const real* beta            # IN  (C,) or NULL: 0
    double* sums                # OUT (C, 2)
    Py_ssize_t channels, height, width
    Py_ssize_t relu             # whether a ReLU followed
    double eps

cdef void gradient_moments(const GradientMoments* a, const Place* place) noexcept nogil:
    """sums[c] = sum of dy, sum of dy xhat over one block"""
    cdef Py_ssize_t C = a.channels, H = a.height, W = a.width, c, h, most = W // UNROLL, since
    cdef bint relu = a.relu
    cdef double plain, along
    cdef vec s[4 * 8]
    cdef vec t[4 * 8]
    cdef vec centre, scale, shift
    cdef const real* d
    cdef const real* v
    cdef int q
    for q in range(UNROLL * ROWV):
        s[q], t[q] = vec_splat(0), vec_splat(0)
    for c in range(begin(C, place), end(C, place)):
        centre = vec_splat(a.mean[c])
        scale = vec_splat(inverse(a.var[c], a.eps) * (a.gamma[c] if a.gamma else 1))
        shift = vec_splat(a.beta[c] if a.beta else 0)
        plain = along = since = 0
        for h in range(H):
            d = pixels(&a.dy, c, h)
            v = pixels(&a.x, c, h)
            if relu:
                gradient_sums(d, v, most, centre, scale, shift, 1, UNROLL, s, t)
            else:
                gradient_sums(d, v, most, centre, scale, shift, 0, UNROLL, s, t)
            gradient_sums(d + most * UNROLL * LANES, v + most * UNROLL * LANES, W - most * UNROLL, centre, scale,
                          shift, relu, 1, s, t)
            since += W
            if since >= MOST:
                since = 0
                plain += lanes_sum(s, place.images)
                along += lanes_sum(t, place.images)
        a.sums[2 * c] = plain + lanes_sum(s, place.images)
        a.sums[2 * c + 1] = (along + lanes_sum(t, place.images)) * inverse(a.var[c], a.eps)


ctypedef struct Gradients:
    const double* sums          # IN  (blocks, step)
    real* dgamma                # OUT (C,) or NULL
    real* dbeta                 # OUT (C,) or NULL
    real* mean_dy               # OUT (C,) or NULL
    real* mean_dy_xhat          # OUT (C,) or NULL
    Py_ssize_t channels
    Py_ssize_t pixels           # of an image
    Py_ssize_t step             # numbers from one block's sums to the next one's

cdef void gradients(const Gradients* a, const Place* place) noexcept nogil:
    """dgamma, dbeta and the two means of the batch from the blocks' sums, in their order."""
    cdef Py_ssize_t c, b
    cdef double s, t, n = <double>max(1, a.pixels * place.total)
    for c in range(place.task * CHANNELS, min((place.task + 1) * CHANNELS, a.channels)):
        s = t = 0
        for b in range(place.blocks):
            s += a.sums[b * a.step + 2 * c]
            t += a.sums[b * a.step + 2 * c + 1]
        if a.dgamma:
            a.dgamma[c] = <real>t
        if a.dbeta:
            a.dbeta[c] = <real>s
        if a.mean_dy:
            a.mean_dy[c] = <real>(s / n)
            a.mean_dy_xhat[c] = <real>(t / n)


ctypedef struct NormaliseBackward:
    Image dy                    # IN  (C, H, W, 16)
    Image x                     # IN  (C, H, W, 16)
    Image dx                    # OUT (C, H, W, 16), may be dy
    const real* mean            # IN  (C,)
    const real* var             # IN  (C,)
    const real* gamma           # IN  (C,) or NULL: 1
    const real* beta            # IN  (C,) or NULL: 0
    const real* mean_dy         # IN  (C,) or NULL: both means are 0
    const real* mean_dy_xhat    # IN  (C,)
    Py_ssize_t channels, height, width
    Py_ssize_t relu             # whether a ReLU followed
    double eps

cdef void normalise_backward(const NormaliseBackward* a, const Place* place) noexcept nogil:
    """dx = gamma / s (dy - mean(dy) - xhat mean(dy xhat)); 0 in lanes without an image."""
    cdef Py_ssize_t C = a.channels, H = a.height, W = a.width, c, h, i
    cdef bint relu = a.relu
    cdef const real* dy
    cdef const real* x
    cdef real* dx
    cdef ivec holds[8]
    cdef vec centre, scale, shift, mean, slope, d, g
    cdef real s
    cdef int q
    held(place, holds)
    for c in range(begin(C, place), end(C, place)):
        s = inverse(a.var[c], a.eps)
        centre = vec_splat(a.mean[c])
        scale = vec_splat(s * (a.gamma[c] if a.gamma else 1))
        shift = vec_splat(a.beta[c] if a.beta else 0)
        mean = vec_splat(a.mean_dy[c] if a.mean_dy else 0)
        slope = vec_splat(a.mean_dy_xhat[c] * s if a.mean_dy else 0)
        for h in range(H):
            dy = pixels(&a.dy, c, h)
            x = pixels(&a.x, c, h)
            dx = pixels(&a.dx, c, h)
            for i in range(W):
                for q in range(ROWV):
                    d = vec_load(x + i * LANES + q * VL) - centre
                    g = vec_load(dy + i * LANES + q * VL)
                    if relu:
                        g = vec_clear(vec_le(d * scale + shift, vec_splat(0)), g)
                    vec_store(dx + i * LANES + q * VL, vec_keep(holds[q], scale * (g - mean - d * slope)))


ctypedef struct Fold:
    const real* w               # IN  (C, taps)
    const real* b               # IN  (C,) or NULL
    const real* mean            # IN  (C,)
    const real* var             # IN  (C,)
    const real* gamma           # IN  (C,) or NULL: 1
    const real* beta            # IN  (C,) or NULL: 0
    real* folded_w              # OUT (C, taps)
    real* folded_b              # OUT (C,)
    Py_ssize_t channels, taps
    double eps

cdef void fold(const Fold* a, const Place* place) noexcept nogil:
    """Weights of a convolution that normalises by constants, too: with scale = gamma / s, w' = scale w and
    b' = scale (b - mean) + beta."""
    cdef Py_ssize_t c, t
    cdef real scale
    for c in range(place.task * CHANNELS, min((place.task + 1) * CHANNELS, a.channels)):
        scale = inverse(a.var[c], a.eps) * (a.gamma[c] if a.gamma else 1)
        for t in range(a.taps):
            a.folded_w[c * a.taps + t] = scale * a.w[c * a.taps + t]
        a.folded_b[c] = scale * ((a.b[c] if a.b else 0) - a.mean[c]) + (a.beta[c] if a.beta else 0)


# ---------------------------------------------------------------- one image, channels side by side

ctypedef struct Sixteen:        # what sixteen channels are normalised by; lanes without a channel compute anything
    vec centre[8]
    vec inverse[8]
    vec scale[8]
    vec shift[8]
    vec mean_dy[8]              # backward only
    vec mean_dy_xhat[8]


cdef inline Sixteen sixteen(const real* mean, const real* var, const real* gamma, const real* beta, double eps,
                            Py_ssize_t g, Py_ssize_t channels) noexcept nogil:
    cdef Sixteen s
    cdef real lanes[16]
    cdef int i
    for i in range(LANES):
        lanes[i] = inverse(var[g * LANES + i], eps) if g * LANES + i < channels else 0
    sixteen_numbers(mean, 0, g, channels, s.centre)
    sixteen_numbers(gamma, 1, g, channels, s.scale)
    sixteen_numbers(beta, 0, g, channels, s.shift)
    for i in range(ROWV):
        s.inverse[i] = vec_load(lanes + i * VL)
        s.scale[i] = s.inverse[i] * s.scale[i]
    return s


cdef inline vec let_through(vec dy, vec d, const Sixteen* s, int q, bint relu) noexcept nogil:
    """dy, where the ReLU that may follow let d = x - mean through."""
    return vec_clear(vec_le(d * s.scale[q] + s.shift[q], vec_splat(0)), dy) if relu else dy


cdef void moments_channels(const Moments* a, const Place* place) noexcept nogil:
    """`moments` of one image; channels: C / 16, for which there are moments of all lanes."""
    cdef Py_ssize_t n = a.height * a.width, g, h, i, since
    cdef double means[16]
    cdef double squares[16]
    cdef vec centre[8]
    cdef vec row[8]
    cdef vec d
    cdef int q
    for g in range(begin(a.channels, place), end(a.channels, place)):
        memset(means, 0, sizeof(means))
        memset(squares, 0, sizeof(squares))
        add_plane(means, &a.x, g, a.height, a.width)
        for i in range(LANES):
            means[i] /= n
        to_row(means, centre)
        memset(row, 0, sizeof(row))
        since = 0
        for h in range(a.height):
            for i in range(a.width):
                for q in range(ROWV):
                    d = vec_load(pixels(&a.x, g, h) + i * LANES + q * VL) - centre[q]
                    row[q] = row[q] + d * d
            since += a.width
            if since >= MOST or h == a.height - 1:
                since = 0
                add_row(squares, row)
        for i in range(LANES):
            a.moments[2 * (g * LANES + i)] = means[i]
            a.moments[2 * (g * LANES + i) + 1] = squares[i] - n * (means[i] - <real>means[i]) ** 2


cdef void normalise_channels(const Normalise* a, const Place* place) noexcept nogil:
    """`normalise` of one image."""
    cdef Py_ssize_t g, h, i, q
    cdef Sixteen s
    cdef vec v
    for g in range((a.channels + LANES - 1) // LANES):
        s = sixteen(a.mean, a.var, a.gamma, a.beta, a.eps, g, a.channels)
        for h in range(begin(a.height, place), end(a.height, place)):
            for i in range(a.width):
                for q in range(ROWV):
                    v = (vec_load(pixels(&a.x, g, h) + i * LANES + q * VL) - s.centre[q]) * s.scale[q] + s.shift[q]
                    vec_store(pixels(&a.y, g, h) + i * LANES + q * VL, vec_relu(v) if a.relu else v)


cdef void gradient_moments_channels(const GradientMoments* a, const Place* place) noexcept nogil:
    """`gradient_moments` of one image; there are sums of all lanes."""
    cdef Py_ssize_t planes = (a.channels + LANES - 1) // LANES, g, h, i, q, since
    cdef Sixteen s
    cdef vec plain[8]
    cdef vec along[8]
    cdef vec d, e
    cdef double sums[2 * 16]
    cdef real numbers[16]
    for g in range(begin(planes, place), end(planes, place)):
        s = sixteen(a.mean, a.var, a.gamma, a.beta, a.eps, g, a.channels)
        memset(plain, 0, sizeof(plain))
        memset(along, 0, sizeof(along))
        memset(sums, 0, sizeof(sums))
        since = 0
        for h in range(a.height):
            for i in range(a.width):
                for q in range(ROWV):
                    d = vec_load(pixels(&a.x, g, h) + i * LANES + q * VL) - s.centre[q]
                    e = let_through(vec_load(pixels(&a.dy, g, h) + i * LANES + q * VL), d, &s, q, a.relu)
                    plain[q] = plain[q] + e
                    along[q] = along[q] + e * d
            since += a.width
            if since >= MOST or h == a.height - 1:
                since = 0
                add_row(sums, plain)
                add_row(sums + LANES, along)
        for q in range(ROWV):
            vec_store(numbers + q * VL, s.inverse[q])
        for i in range(LANES):
            a.sums[2 * (g * LANES + i)] = sums[i]
            a.sums[2 * (g * LANES + i) + 1] = sums[LANES + i] * numbers[i]


cdef void normalise_backward_channels(const NormaliseBackward* a, const Place* place) noexcept nogil:
    """`normalise_backward` of one image."""
    cdef Py_ssize_t g, h, i, q
    cdef Sixteen s
    cdef vec d, e
    for g in range((a.channels + LANES - 1) // LANES):
        s = sixteen(a.mean, a.var, a.gamma, a.beta, a.eps, g, a.channels)
        sixteen_numbers(a.mean_dy, 0, g, a.channels, s.mean_dy)
        sixteen_numbers(a.mean_dy_xhat, 0, g, a.channels, s.mean_dy_xhat)
        for h in range(begin(a.height, place), end(a.height, place)):
            for i in range(a.width):
                for q in range(ROWV):
                    d = vec_load(pixels(&a.x, g, h) + i * LANES + q * VL) - s.centre[q]
                    e = let_through(vec_load(pixels(&a.dy, g, h) + i * LANES + q * VL), d, &s, q, a.relu)
                    vec_store(pixels(&a.dx, g, h) + i * LANES + q * VL,
                              s.scale[q] * (e - s.mean_dy[q] - d * s.mean_dy_xhat[q] * s.inverse[q]))


def tasks(Py_ssize_t channels):
    """Into how many tasks `statistics`, `gradients` and `fold` are cut."""
    return (channels + CHANNELS - 1) // CHANNELS


SPLITS = ("moments", "normalise", "gradient_moments", "normalise_backward", "moments_channels", "normalise_channels",
          "gradient_moments_channels", "normalise_backward_channels")
include "kernels/norm.pxi"      # KERNELS
