"""Batch normalisation (Ioffe & Szegedy 2015). Twins: `batch_norm*` in cnn/reference.py.

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

from cnn._ext.op cimport Op, Place, array, begin, end
from cnn._ext.vec cimport (DVL, LANES, ROWV, VL, dvec, dvec_load, dvec_store, dvec_zero, ivec, real, vec, vec_clear,
                           vec_gt, vec_keep, vec_le, vec_load, vec_relu, vec_splat, vec_store)

cdef enum:
    CHANNELS = 16       # of a task that brings the blocks together
    UNROLL = 4          # pixels at a time, because one sum would wait for itself


cdef inline double lanes_sum(const vec* acc, Py_ssize_t images) noexcept nogil:
    """Sum of UNROLL rows over the lanes that hold an image."""
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
    cdef Py_ssize_t h, i, most = W // UNROLL
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
    return lanes_sum(t, images)


cdef void moments(const Op* op, const Place* place) noexcept nogil:
    """moments[c] = mean, sum of (x - mean)^2 over one block's images and pixels.

    First the mean, then the squares around it, corrected by what rounding it took away: nothing cancels.
    """
    cdef const real* x = <const real*>array(op, 0, place)        # IN  (C, H, W, 16)
    cdef double* m = <double*>array(op, 1, place)                # OUT (C, 2)
    cdef Py_ssize_t C = op.n[0], H = op.n[1], W = op.n[2], row = op.args[0].row, c
    cdef double n = <double>(H * W * place.images), mean, off
    x += begin(C, place) * op.args[0].plane
    for c in range(begin(C, place), end(C, place)):
        mean = plane_sum(x, row, H, W, place.images) / n
        off = mean - <real>mean
        m[2 * c] = mean
        m[2 * c + 1] = plane_squares(x, row, H, W, place.images, <real>mean) - n * off * off
        x += op.args[0].plane


cdef void statistics(const Op* op, const Place* place) noexcept nogil:
    """mean and biased var of the batch from the blocks' moments, in their order, and the running ones:
    r = (1 - f) r + f new, where the running variance takes the unbiased one."""
    cdef const double* m = <const double*>array(op, 0, place)    # IN  (blocks, step) moments
    cdef real* mean = <real*>array(op, 1, place)                 # OUT (C,)
    cdef real* var = <real*>array(op, 2, place)                  # OUT (C,)
    cdef real* running_mean = <real*>array(op, 3, place)         # IN/OUT (C,) or NULL
    cdef real* running_var = <real*>array(op, 4, place)          # IN/OUT (C,) or NULL
    cdef const double* factor = <const double*>array(op, 5, place)  # IN  (1,) f, or NULL
    cdef Py_ssize_t C = op.n[0], pixels = op.n[1], step = op.n[2], c, b
    cdef double k, total, centre, squares, d
    if place.total == 0:
        return
    for c in range(place.task * CHANNELS, min((place.task + 1) * CHANNELS, C)):
        total = centre = squares = 0
        for b in range(place.blocks):
            k = <double>(pixels * min(16, place.total - 16 * b))
            total += k
            centre += k * m[b * step + 2 * c]
        centre /= total
        for b in range(place.blocks):
            k = <double>(pixels * min(16, place.total - 16 * b))
            d = m[b * step + 2 * c] - centre
            squares += m[b * step + 2 * c + 1] + k * d * d
        mean[c] = <real>centre
        var[c] = <real>(squares / total)
        if running_mean:
            running_mean[c] = <real>((1 - factor[0]) * running_mean[c] + factor[0] * centre)
            running_var[c] = <real>((1 - factor[0]) * running_var[c] + factor[0] * (squares / (total - 1)))


cdef inline real inverse(const Op* op, real var) noexcept nogil:
    """1 / sqrt(var + eps)"""
    return <real>(1 / sqrt(var + op.f[0]))


cdef void normalise(const Op* op, const Place* place) noexcept nogil:
    """y = gamma (x - mean) / sqrt(var + eps) + beta, then perhaps a ReLU"""
    cdef const real* x
    cdef real* y
    cdef const real* mean = <const real*>array(op, 2, place)     # IN  (C,)
    cdef const real* var = <const real*>array(op, 3, place)      # IN  (C,)
    cdef const real* gamma = <const real*>array(op, 4, place)    # IN  (C,) or NULL: 1
    cdef const real* beta = <const real*>array(op, 5, place)     # IN  (C,) or NULL: 0
    cdef Py_ssize_t C = op.n[0], H = op.n[1], W = op.n[2], c, h, i
    cdef bint relu = op.n[3]
    cdef vec centre, scale, shift, v
    for c in range(begin(C, place), end(C, place)):
        centre = vec_splat(mean[c])
        scale = vec_splat(inverse(op, var[c]) * (gamma[c] if gamma else 1))
        shift = vec_splat(beta[c] if beta else 0)
        for h in range(H):
            x = <const real*>array(op, 0, place) + c * op.args[0].plane + h * op.args[0].row    # IN  (C, H, W, 16)
            y = <real*>array(op, 1, place) + c * op.args[1].plane + h * op.args[1].row          # OUT (C, H, W, 16)
            if relu:
                for i in range(W * ROWV):
                    v = (vec_load(x + i * VL) - centre) * scale + shift
                    vec_store(y + i * VL, vec_relu(v))
            else:
                for i in range(W * ROWV):
                    v = (vec_load(x + i * VL) - centre) * scale + shift
                    vec_store(y + i * VL, v)


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


cdef void gradient_moments(const Op* op, const Place* place) noexcept nogil:
    """sums[c] = sum of dy, sum of dy xhat over one block"""
    cdef const real* dy = <const real*>array(op, 0, place)       # IN  (C, H, W, 16)
    cdef const real* x = <const real*>array(op, 1, place)        # IN  (C, H, W, 16)
    cdef const real* mean = <const real*>array(op, 2, place)     # IN  (C,)
    cdef const real* var = <const real*>array(op, 3, place)      # IN  (C,)
    cdef const real* gamma = <const real*>array(op, 4, place)    # IN  (C,) or NULL
    cdef const real* beta = <const real*>array(op, 5, place)     # IN  (C,) or NULL
    cdef double* sums = <double*>array(op, 6, place)             # OUT (C, 2)
    cdef Py_ssize_t C = op.n[0], H = op.n[1], W = op.n[2], dy_row = op.args[0].row, x_row = op.args[1].row
    cdef Py_ssize_t c, h, most = W // UNROLL
    cdef bint relu = op.n[3]
    cdef vec s[4 * 8]
    cdef vec t[4 * 8]
    cdef vec centre, scale, shift
    cdef const real* d
    cdef const real* v
    cdef int q
    for c in range(begin(C, place), end(C, place)):
        centre = vec_splat(mean[c])
        scale = vec_splat(inverse(op, var[c]) * (gamma[c] if gamma else 1))
        shift = vec_splat(beta[c] if beta else 0)
        for q in range(UNROLL * ROWV):
            s[q] = vec_splat(0)
            t[q] = vec_splat(0)
        for h in range(H):
            d = dy + c * op.args[0].plane + h * dy_row
            v = x + c * op.args[1].plane + h * x_row
            if relu:
                gradient_sums(d, v, most, centre, scale, shift, 1, UNROLL, s, t)
            else:
                gradient_sums(d, v, most, centre, scale, shift, 0, UNROLL, s, t)
            gradient_sums(d + most * UNROLL * LANES, v + most * UNROLL * LANES, W - most * UNROLL, centre, scale,
                          shift, relu, 1, s, t)
        sums[2 * c] = lanes_sum(s, place.images)
        sums[2 * c + 1] = lanes_sum(t, place.images) * inverse(op, var[c])


cdef void gradients(const Op* op, const Place* place) noexcept nogil:
    """dgamma, dbeta and the two means of the batch from the blocks' sums, in their order."""
    cdef const double* sums = <const double*>array(op, 0, place)  # IN  (blocks, step)
    cdef real* dgamma = <real*>array(op, 1, place)               # OUT (C,) or NULL
    cdef real* dbeta = <real*>array(op, 2, place)                # OUT (C,) or NULL
    cdef real* mean_dy = <real*>array(op, 3, place)              # OUT (C,) or NULL
    cdef real* mean_dy_xhat = <real*>array(op, 4, place)         # OUT (C,) or NULL
    cdef Py_ssize_t C = op.n[0], pixels = op.n[1], step = op.n[2], c, b
    cdef double s, t, n = <double>max(1, pixels * place.total)
    for c in range(place.task * CHANNELS, min((place.task + 1) * CHANNELS, C)):
        s = t = 0
        for b in range(place.blocks):
            s += sums[b * step + 2 * c]
            t += sums[b * step + 2 * c + 1]
        if dgamma:
            dgamma[c] = <real>t
        if dbeta:
            dbeta[c] = <real>s
        if mean_dy:
            mean_dy[c] = <real>(s / n)
            mean_dy_xhat[c] = <real>(t / n)


cdef void normalise_backward(const Op* op, const Place* place) noexcept nogil:
    """dx = gamma / s (dy - mean(dy) - xhat mean(dy xhat)); 0 in lanes without an image. May work in place."""
    cdef const real* dy
    cdef const real* x
    cdef real* dx
    cdef const real* mean = <const real*>array(op, 3, place)     # IN  (C,)
    cdef const real* var = <const real*>array(op, 4, place)      # IN  (C,)
    cdef const real* gamma = <const real*>array(op, 5, place)    # IN  (C,) or NULL
    cdef const real* beta = <const real*>array(op, 6, place)     # IN  (C,) or NULL
    cdef const real* mean_dy = <const real*>array(op, 7, place)  # IN  (C,) or NULL: both means are 0
    cdef const real* mean_dy_xhat = <const real*>array(op, 8, place)    # IN  (C,)
    cdef Py_ssize_t C = op.n[0], H = op.n[1], W = op.n[2], c, h, i
    cdef bint relu = op.n[3]
    cdef real lanes[16]
    cdef ivec holds[8]
    cdef vec centre, scale, shift, a, b, d, g
    cdef real s
    cdef int q
    for i in range(LANES):
        lanes[i] = i < place.images
    for q in range(ROWV):
        holds[q] = vec_gt(vec_load(lanes + q * VL), vec_splat(0))
    for c in range(begin(C, place), end(C, place)):
        s = inverse(op, var[c])
        centre = vec_splat(mean[c])
        scale = vec_splat(s * (gamma[c] if gamma else 1))
        shift = vec_splat(beta[c] if beta else 0)
        a = vec_splat(mean_dy[c] if mean_dy else 0)
        b = vec_splat(mean_dy_xhat[c] * s if mean_dy else 0)
        for h in range(H):
            dy = <const real*>array(op, 0, place) + c * op.args[0].plane + h * op.args[0].row   # IN  (C, H, W, 16)
            x = <const real*>array(op, 1, place) + c * op.args[1].plane + h * op.args[1].row    # IN  (C, H, W, 16)
            dx = <real*>array(op, 2, place) + c * op.args[2].plane + h * op.args[2].row         # OUT (C, H, W, 16)
            for i in range(W):
                for q in range(ROWV):
                    d = vec_load(x + i * LANES + q * VL) - centre
                    g = vec_load(dy + i * LANES + q * VL)
                    if relu:
                        g = vec_clear(vec_le(d * scale + shift, vec_splat(0)), g)
                    vec_store(dx + i * LANES + q * VL, vec_keep(holds[q], scale * (g - a - d * b)))


def tasks(Py_ssize_t channels):
    """Into how many tasks `statistics` and `gradients` are cut."""
    return (channels + CHANNELS - 1) // CHANNELS


SPLITS = ("moments", "normalise", "gradient_moments", "normalise_backward")
PIXELS = ("channels", "height", "width")
KERNELS = {
    "moments": (<size_t>&moments, ("x", "moments"), PIXELS, ()),
    "statistics": (<size_t>&statistics, ("moments", "mean", "var", "running_mean", "running_var", "factor"),
                   ("channels", "pixels", "step"), ()),
    "normalise": (<size_t>&normalise, ("x", "y", "mean", "var", "gamma", "beta"), (*PIXELS, "relu"), ("eps",)),
    "gradient_moments": (<size_t>&gradient_moments, ("dy", "x", "mean", "var", "gamma", "beta", "sums"),
                         (*PIXELS, "relu"), ("eps",)),
    "gradients": (<size_t>&gradients, ("sums", "dgamma", "dbeta", "mean_dy", "mean_dy_xhat"),
                  ("channels", "pixels", "step"), ()),
    "normalise_backward": (<size_t>&normalise_backward,
                           ("dy", "x", "dx", "mean", "var", "gamma", "beta", "mean_dy", "mean_dy_xhat"),
                           (*PIXELS, "relu"), ("eps",)),
}
