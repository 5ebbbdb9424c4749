"""Layer normalisation over the channels of each pixel. Twins: `layer_norm2d` and `layer_norm2d_backward` in
cnn/reference. The formulas stand in layer_norm.pyx; here the n elements are the C channels of a pixel, and dgamma and
dbeta sums over all pixels.

Some pixels at a time go through all passes over their channels, which stay in the L1 cache meanwhile.
"""
from cnn._ext.op cimport Image, Place, begin, end, held, held_channels, pixels, put, sixteen_numbers, streams
from cnn._ext.vec cimport (LANES, ROWV, VL, ivec, prefetch_second, prefetch_write, real, vec, vec_div, vec_fence,
                           vec_keep, vec_load, vec_relu, vec_splat, vec_sqrt, vec_store, vec_sum)

cdef enum:
    SUMMED = 64       # channels that are summed before their sum is added to others
    CHUNK = 8       # vectors of pixels whose channels are normalised at once


ctypedef struct LayerNorm2d:
    Image x                     # IN  (C, H, W, 16); with channels side by side (C / 16, H, W, 16)
    Image y                     # OUT (C, H, W, 16), likewise
    Image stats                 # OUT (3, H, W, 16): of each pixel centre, shift and 1 / s
    const real* gamma           # IN  (C,) or NULL: 1
    const real* beta            # IN  (C,) or NULL: 0
    Py_ssize_t channels, height, width
    double eps

ctypedef struct LayerNorm2dBackward:
    Image dy                    # IN  (C, H, W, 16), as x
    Image x                     # IN  (C, H, W, 16), as in `layer_norm2d`
    Image stats                 # IN  as that has left it
    Image dx                    # OUT (C, H, W, 16), as x; NULL where it is not wanted
    const real* gamma           # IN  (C,) or NULL: 1
    real* dgamma                # I/O (C,) of a shard, or NULL
    real* dbeta                 # I/O (C,) of a shard, or NULL
    Py_ssize_t channels, height, width


cdef inline void scales(const real* numbers, real otherwise, Py_ssize_t c, Py_ssize_t C, bint lanes, vec* to
                        ) noexcept nogil:
    """The number of channel c in all lanes, or with `lanes` those of sixteen channels."""
    cdef int q
    if lanes:
        sixteen_numbers(numbers, otherwise, c, C, to)
        return
    for q in range(ROWV):
        to[q] = vec_splat(numbers[c] if numbers else otherwise)


cdef inline void masks(const Place* place, Py_ssize_t channels, bint lanes, ivec* counts) noexcept nogil:
    """Which lanes hold an image, or with `lanes` a channel of the last sixteen."""
    if lanes:
        held_channels(channels, counts)
    else:
        held(place, counts)


cdef inline void together(vec* rows, int n) noexcept nogil:
    """Every lane of n vectors of pixels becomes the sum of its pixel's."""
    cdef vec v
    cdef int p, q
    for p in range(n // ROWV):
        v = rows[p * ROWV]
        for q in range(1, ROWV):
            v = v + rows[p * ROWV + q]
        v = vec_splat(vec_sum(v))
        for q in range(ROWV):
            rows[p * ROWV + q] = v


cdef inline void pixel_sums(const Image* x, Py_ssize_t h, Py_ssize_t i, int n, Py_ssize_t planes, bint partial,
                            const ivec* counts, const vec* centre, vec* s, vec* t) noexcept nogil:
    """s += d, t += d^2 over the channels of n vectors of pixels, d = x - centre. partial: whether the last channels do
    not fill a row."""
    cdef Py_ssize_t run, c
    cdef const real* row
    cdef vec some[8]
    cdef vec squares[8]
    cdef vec d
    cdef int q
    for q in range(n):
        s[q], t[q] = vec_splat(0), vec_splat(0)
    for run in range((planes + SUMMED - 1) // SUMMED):
        for q in range(n):
            some[q], squares[q] = vec_splat(0), vec_splat(0)
        for c in range(run * SUMMED, min((run + 1) * SUMMED, planes)):
            row = pixels(x, c, h) + i * LANES
            for q in range(n):
                d = vec_load(row + q * VL) - centre[q]
                if partial and c == planes - 1:
                    d = vec_keep(counts[q % ROWV], d)
                some[q] = some[q] + d
                squares[q] = squares[q] + d * d
        for q in range(n):
            s[q] = s[q] + some[q]
            t[q] = t[q] + squares[q]


cdef inline void normal(const LayerNorm2d* a, const ivec* counts, Py_ssize_t h, Py_ssize_t i, int n, bint lanes,
                        bint past) noexcept nogil:
    """`n` vectors of pixels from pixel i of row h on. lanes: whether channels lie side by side; past: whether y goes past
    the caches."""
    cdef Py_ssize_t planes = (a.channels + LANES - 1) // LANES if lanes else a.channels, c
    cdef bint partial = lanes and a.channels % LANES != 0
    cdef const real* x
    cdef real* y
    cdef vec centre[8]
    cdef vec inverse[8]
    cdef vec shift[8]
    cdef vec gamma[8]
    cdef vec beta[8]
    cdef vec d, share = vec_splat(1 / <double>a.channels)
    cdef int q
    for q in range(n):
        centre[q] = vec_splat(0)
    pixel_sums(&a.x, h, i, n, planes, partial, counts, centre, shift, inverse)
    if lanes:
        together(shift, n)
    for q in range(n):
        centre[q] = shift[q] * share
    pixel_sums(&a.x, h, i, n, planes, partial, counts, centre, shift, inverse)
    if lanes:
        together(shift, n)
        together(inverse, n)
    for q in range(n):
        d = shift[q] * share
        inverse[q] = vec_div(vec_splat(1), vec_sqrt(vec_relu(inverse[q] * share - d * d) + vec_splat(a.eps)))
        shift[q] = vec_splat(0) - d * inverse[q]
        vec_store(pixels(&a.stats, 0, h) + i * LANES + q * VL, centre[q])
        vec_store(pixels(&a.stats, 1, h) + i * LANES + q * VL, shift[q])
        vec_store(pixels(&a.stats, 2, h) + i * LANES + q * VL, inverse[q])
    for c in range(planes):
        x = pixels(&a.x, c, h) + i * LANES
        y = pixels(&a.y, c, h) + i * LANES
        scales(a.gamma, 1, c, a.channels, lanes, gamma)
        scales(a.beta, 0, c, a.channels, lanes, beta)
        for q in range(n):
            prefetch_second(x + (n + q) * VL)   # of the pixels that come next
            if not past:
                prefetch_write(y + (n + q) * VL)
            d = gamma[q % ROWV] * ((vec_load(x + q * VL) - centre[q]) * inverse[q] + shift[q]) + beta[q % ROWV]
            put(y + q * VL, d if lanes else vec_keep(counts[q % ROWV], d), past)


cdef inline void rows_of_pixels(const LayerNorm2d* a, const Place* place, bint lanes) noexcept nogil:
    cdef Py_ssize_t h, i, wide = CHUNK // ROWV, most = a.width // wide
    cdef bint past = not lanes and streams(a.channels, a.height, a.width)
    cdef ivec counts[8]
    masks(place, a.channels, lanes, counts)
    for h in range(begin(a.height, place), end(a.height, place)):
        for i in range(most):
            normal(a, counts, h, i * wide, CHUNK, lanes, past)
        for i in range(most * wide, a.width):
            normal(a, counts, h, i, ROWV, lanes, past)
    if past:
        vec_fence()


cdef void layer_norm2d(const LayerNorm2d* a, const Place* place) noexcept nogil:
    """y = gamma xhat + beta over the channels of each pixel, for sixteen images."""
    rows_of_pixels(a, place, False)


cdef void layer_norm2d_channels(const LayerNorm2d* a, const Place* place) noexcept nogil:
    """The same of one image with its channels side by side."""
    rows_of_pixels(a, place, True)


cdef inline void back(const LayerNorm2dBackward* a, const ivec* counts, Py_ssize_t h, Py_ssize_t i, int n, bint lanes,
                      bint some, bint assign, bint past) noexcept nogil:
    """`n` vectors of pixels from pixel i of row h on. some: whether not all lanes hold an image; assign: whether dgamma
    and dbeta are to be written, not added to; past: whether dx goes past the caches."""
    cdef Py_ssize_t planes = (a.channels + LANES - 1) // LANES if lanes else a.channels, c, k
    cdef bint last = False
    cdef const real* x
    cdef const real* dy
    cdef real* dx
    cdef real numbers[2 * 16]
    cdef vec centre[8]
    cdef vec inverse[8]
    cdef vec shift[8]
    cdef vec s[8]
    cdef vec t[8]
    cdef vec along[8]
    cdef vec plain[8]
    cdef vec gamma[8]
    cdef vec d, u, share = vec_splat(1 / <double>a.channels)
    cdef int q
    for q in range(n):
        centre[q] = vec_load(pixels(&a.stats, 0, h) + i * LANES + q * VL)
        shift[q] = vec_load(pixels(&a.stats, 1, h) + i * LANES + q * VL)
        inverse[q] = vec_load(pixels(&a.stats, 2, h) + i * LANES + q * VL)
        s[q], t[q] = vec_splat(0), vec_splat(0)
    for c in range(planes):
        x = pixels(&a.x, c, h) + i * LANES
        dy = pixels(&a.dy, c, h) + i * LANES
        scales(a.gamma, 1, c, a.channels, lanes, gamma)
        last = some and (c == planes - 1 or not lanes)
        for q in range(ROWV):
            along[q], plain[q] = vec_splat(0), vec_splat(0)
        for q in range(n):
            d = (vec_load(x + q * VL) - centre[q]) * inverse[q] + shift[q]
            u = vec_load(dy + q * VL)
            if last:        # other lanes may be NaN
                d, u = vec_keep(counts[q % ROWV], d), vec_keep(counts[q % ROWV], u)
            s[q] = s[q] + gamma[q % ROWV] * u
            t[q] = t[q] + gamma[q % ROWV] * u * d
            plain[q % ROWV] = plain[q % ROWV] + u
            along[q % ROWV] = along[q % ROWV] + u * d
        if lanes:
            for q in range(ROWV):
                vec_store(numbers + q * VL, along[q])
                vec_store(numbers + LANES + q * VL, plain[q])
            for k in range(min(LANES, a.channels - c * LANES)):
                if a.dgamma:
                    a.dgamma[c * LANES + k] = numbers[k] + (0 if assign else a.dgamma[c * LANES + k])
                if a.dbeta:
                    a.dbeta[c * LANES + k] = numbers[LANES + k] + (0 if assign else a.dbeta[c * LANES + k])
            continue
        for q in range(1, ROWV):
            along[0] = along[0] + along[q]
            plain[0] = plain[0] + plain[q]
        if a.dgamma:
            a.dgamma[c] = vec_sum(along[0]) + (0 if assign else a.dgamma[c])
        if a.dbeta:
            a.dbeta[c] = vec_sum(plain[0]) + (0 if assign else a.dbeta[c])
    if a.dx.data == NULL:
        return
    if lanes:
        together(s, n)
        together(t, n)
    for q in range(n):
        s[q], t[q] = s[q] * share, t[q] * share
    for c in range(planes):
        x = pixels(&a.x, c, h) + i * LANES
        dy = pixels(&a.dy, c, h) + i * LANES
        dx = pixels(&a.dx, c, h) + i * LANES
        scales(a.gamma, 1, c, a.channels, lanes, gamma)
        for q in range(n):
            prefetch_second(x + (n + q) * VL)
            prefetch_second(dy + (n + q) * VL)
            if not past:
                prefetch_write(dx + (n + q) * VL)
            d = (vec_load(x + q * VL) - centre[q]) * inverse[q] + shift[q]
            u = (gamma[q % ROWV] * vec_load(dy + q * VL) - s[q] - d * t[q]) * inverse[q]
            put(dx + q * VL, u if lanes else vec_keep(counts[q % ROWV], u), past)


cdef inline void back_rows(const LayerNorm2dBackward* a, const Place* place, bint lanes) noexcept nogil:
    cdef Py_ssize_t h, i, wide = CHUNK // ROWV, most = a.width // wide
    cdef bint some = a.channels % LANES != 0 if lanes else place.images < LANES
    cdef bint past = not lanes and streams(a.channels, a.height, a.width)
    cdef ivec counts[8]
    masks(place, a.channels, lanes, counts)
    for h in range(a.height):
        for i in range(most):
            back(a, counts, h, i * wide, CHUNK, lanes, some, place.first and h == 0 and i == 0, past)
        for i in range(most * wide, a.width):
            back(a, counts, h, i, ROWV, lanes, some, place.first and h == 0 and i == 0, past)
    if past:
        vec_fence()


cdef void layer_norm2d_backward(const LayerNorm2dBackward* a, const Place* place) noexcept nogil:
    """dx, and dgamma and dbeta of one block of sixteen images."""
    back_rows(a, place, False)


cdef void layer_norm2d_channels_backward(const LayerNorm2dBackward* a, const Place* place) noexcept nogil:
    """The same of one image with its channels side by side."""
    back_rows(a, place, True)


SPLITS = ("layer_norm2d", "layer_norm2d_channels")
include "kernels/layer_norm2d.pxi"  # KERNELS
