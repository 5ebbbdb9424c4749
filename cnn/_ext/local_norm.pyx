"""Local response normalisation (Krizhevsky, Sutskever & Hinton 2012). Twins: `local_response_norm` and
`local_response_norm_backward` in cnn/reference.

    y_c = x_c b_c^-beta,  b_c = k + a sum of x_j^2 over the channels j from c - before to c + after

x_c reaches y_c directly, and through the b of all channels in whose windows it is:

    dx_c = dy_c b_c^-beta - 2 a beta x_c sum of r_j over j from c - after to c + before,  r = dy y / b
"""
from cnn._ext.elementary cimport vec_pow
from cnn._ext.op cimport Image, Place, begin, end, held, pixels, put, streams
from cnn._ext.vec cimport (LANES, ROWV, VL, ivec, prefetch_second, real, vec, vec_div, vec_fence, vec_keep, vec_load,
                           vec_splat, vec_sqrt, vec_store)


cdef enum:
    AHEAD = 64      # pixels of a plane that the forward pass asks for before it comes to them
    BAND = 512      # pixels of a plane, at least a row, that the backward pass takes at once


cdef inline vec to_minus(vec b, vec inverse, real beta) noexcept nogil:
    """b^-beta, inverse being 1 / b; the usual 3/4, and 1/2, by square roots, which take as long as a division."""
    if beta == 0.75:
        return vec_sqrt(vec_sqrt(b)) * inverse
    if beta == 0.5:
        return vec_sqrt(b) * inverse
    return vec_pow(b, -beta)


cdef inline void window_channels(const Image* x, Py_ssize_t c, Py_ssize_t h, Py_ssize_t at, Py_ssize_t before,
                                 Py_ssize_t after, Py_ssize_t channels, bint square, vec* total) noexcept nogil:
    """The sums of x, or of x^2, over the channels around each of the sixteen channels from c on, which lie side by
    side, of the numbers `at` of row h."""
    cdef real near[3 * 16]      # the channels from c - 16 on; 0 where there is none
    cdef Py_ssize_t j, g, lane
    cdef real n, sum_
    cdef vec v
    cdef int q
    if before <= LANES and after <= LANES:
        for j in range(3):
            g = c // LANES + j - 1
            for q in range(ROWV):
                v = vec_splat(0)
                if 0 <= g and g * LANES < channels:
                    v = vec_load(pixels(x, g, h) + at + q * VL)
                vec_store(near + j * LANES + q * VL, v * v if square else v)
            for lane in range(max(0, channels - g * LANES), LANES):
                near[j * LANES + lane] = 0
        for q in range(ROWV):
            total[q] = vec_splat(0)
            for j in range(LANES - before, LANES + after + 1):
                total[q] = total[q] + vec_load(near + j + q * VL)
        return
    for lane in range(LANES):
        sum_ = 0
        for j in range(max(0, c + lane - before), min(channels, c + lane + after + 1)):
            n = (pixels(x, j // LANES, h) + at)[j % LANES]
            sum_ += n * n if square else n
        near[lane] = sum_
    for q in range(ROWV):
        total[q] = vec_load(near + q * VL)


ctypedef struct LocalResponseNorm:
    Image x                     # IN  (C, H, W, 16); with channels side by side (C / 16, H, W, 16), as all
    Image y                     # OUT (C, H, W, 16)
    Image b                     # OUT (C, H, W, 16)
    Py_ssize_t channels, height, width
    Py_ssize_t before, after    # channels of a window besides its own
    double factor               # of the sum of squares
    double beta, k

ctypedef struct LocalResponseNormBackward:
    Image dy                    # IN  (C, H, W, 16), as x
    Image x                     # IN  (C, H, W, 16), as in `local_response_norm`
    Image b                     # IN  (C, H, W, 16), as that has left it
    Image r                     # OUT (C, H, W, 16)
    Image dx                    # OUT (C, H, W, 16)
    Py_ssize_t channels, height, width
    Py_ssize_t before, after
    double factor
    double beta


cdef inline void normal_row(const real* first, Py_ssize_t plane, Py_ssize_t size, const real* x, real* b, real* y,
                            Py_ssize_t width, real k, real factor, real beta, const ivec* holds, bint past
                            ) noexcept nogil:
    """A row of b and y. first: that of x in the first of the `size` channels of the window, a plane apart."""
    cdef Py_ssize_t i, j
    cdef int q
    cdef vec total, v
    for i in range(width):
        for q in range(ROWV):
            prefetch_second(first + (size - 1) * plane + AHEAD * LANES)
            total = vec_splat(0)
            for j in range(size):
                v = vec_load(first + j * plane)
                total = total + v * v
            total = vec_splat(k) + vec_splat(factor) * total
            put(b, total, past)
            put(y, vec_keep(holds[q], vec_load(x) * to_minus(total, vec_div(vec_splat(1), total), beta)), past)
            first, x, b, y = first + VL, x + VL, b + VL, y + VL


cdef void local_response_norm(const LocalResponseNorm* a, const Place* place) noexcept nogil:
    """y, and b for the backward pass"""
    cdef Py_ssize_t c, h, first, size
    cdef bint past = streams(a.channels, a.height, a.width)
    cdef ivec holds[8]
    held(place, holds)
    for c in range(a.channels):
        first = max(0, c - a.before)
        size = min(a.channels, c + a.after + 1) - first
        for h in range(begin(a.height, place), end(a.height, place)):
            if size == 5:   # the usual window, unrolled: 1.2 times as fast with AVX2, and not if decided further inside
                normal_row(pixels(&a.x, first, h), a.x.plane, 5, pixels(&a.x, c, h), pixels(&a.b, c, h),
                           pixels(&a.y, c, h), a.width, a.k, a.factor, a.beta, holds, past)
            else:
                normal_row(pixels(&a.x, first, h), a.x.plane, size, pixels(&a.x, c, h), pixels(&a.b, c, h),
                           pixels(&a.y, c, h), a.width, a.k, a.factor, a.beta, holds, past)
    if past:
        vec_fence()


cdef void local_response_norm_channels(const LocalResponseNorm* a, const Place* place) noexcept nogil:
    """The same of one image with its channels side by side."""
    cdef Py_ssize_t c, h, i, q, at
    cdef ivec holds[8]
    cdef vec sums[8]
    cdef vec b
    held(place, holds)
    for c in range((a.channels + LANES - 1) // LANES):
        for h in range(begin(a.height, place), end(a.height, place)):
            for i in range(a.width):
                window_channels(&a.x, c * LANES, h, i * LANES, a.before, a.after, a.channels, True, sums)
                for q in range(ROWV):
                    at = i * LANES + q * VL
                    b = vec_splat(a.k) + vec_splat(a.factor) * sums[q]
                    vec_store(pixels(&a.b, c, h) + at, b)
                    vec_store(pixels(&a.y, c, h) + at, vec_keep(holds[q], vec_load(pixels(&a.x, c, h) + at)
                                                                * to_minus(b, vec_div(vec_splat(1), b), a.beta)))


cdef inline void share_row(const real* dy, const real* x, const real* b, real* r, real* dx, Py_ssize_t vectors,
                           real beta) noexcept nogil:
    """A row of dy b^-beta, which dx gets first, and of r."""
    cdef Py_ssize_t i
    cdef vec g, v, inverse
    for i in range(vectors):
        v = vec_load(b + i * VL)
        inverse = vec_div(vec_splat(1), v)
        g = vec_load(dy + i * VL) * to_minus(v, inverse, beta)
        vec_store(dx + i * VL, g)
        vec_store(r + i * VL, g * vec_load(x + i * VL) * inverse)


cdef inline void backward_row(const real* first, Py_ssize_t plane, Py_ssize_t size, const real* x, real* dx,
                              Py_ssize_t width, real slope, const ivec* holds) noexcept nogil:
    """The rest of a row of dx; first: as in `normal_row`, of r."""
    cdef Py_ssize_t i, j
    cdef int q
    cdef vec total
    for i in range(width):
        for q in range(ROWV):
            total = vec_splat(0)
            for j in range(size):
                total = total + vec_load(first + j * plane)
            vec_store(dx, vec_keep(holds[q], vec_load(dx) - vec_splat(slope) * vec_load(x) * total))
            first, x, dx = first + VL, x + VL, dx + VL


cdef void local_response_norm_backward(const LocalResponseNormBackward* a, const Place* place) noexcept nogil:
    """dx; dy y / b goes to r first.

    Each plane gets dy b^-beta and r, and the rest as soon as the r of its windows are there: of some rows at once,
    because one plane after the other is what memory is fast at."""
    cdef Py_ssize_t top = begin(a.height, place), last = end(a.height, place), some = max(1, BAND // a.width)
    cdef Py_ssize_t band, h0, h, c, d, first, size
    cdef real slope = 2 * a.factor * a.beta
    cdef ivec holds[8]
    held(place, holds)
    for band in range((last - top + some - 1) // some):
        h0 = top + band * some
        for c in range(a.channels + a.before):
            for h in range(h0, min(last, h0 + some) if c < a.channels else h0):
                share_row(pixels(&a.dy, c, h), pixels(&a.x, c, h), pixels(&a.b, c, h), pixels(&a.r, c, h),
                          pixels(&a.dx, c, h), a.width * ROWV, a.beta)
            d = c - a.before
            first = max(0, d - a.after)
            size = min(a.channels, c + 1) - first
            for h in range(h0, min(last, h0 + some) if d >= 0 else h0):
                if size == 5:
                    backward_row(pixels(&a.r, first, h), a.r.plane, 5, pixels(&a.x, d, h), pixels(&a.dx, d, h),
                                 a.width, slope, holds)
                else:
                    backward_row(pixels(&a.r, first, h), a.r.plane, size, pixels(&a.x, d, h), pixels(&a.dx, d, h),
                                 a.width, slope, holds)


cdef void local_response_norm_channels_backward(const LocalResponseNormBackward* a, const Place* place) noexcept nogil:
    """The same of one image with its channels side by side, in which r is whole before it is summed."""
    cdef Py_ssize_t planes = (a.channels + LANES - 1) // LANES, c, h, i, q, at
    cdef ivec holds[8]
    cdef vec sums[8]
    held(place, holds)
    for h in range(begin(a.height, place), end(a.height, place)):
        for c in range(planes):
            share_row(pixels(&a.dy, c, h), pixels(&a.x, c, h), pixels(&a.b, c, h), pixels(&a.r, c, h),
                      pixels(&a.dx, c, h), a.width * ROWV, a.beta)
        for c in range(planes):
            for i in range(a.width):
                window_channels(&a.r, c * LANES, h, i * LANES, a.after, a.before, a.channels, False, sums)
                for q in range(ROWV):
                    at = i * LANES + q * VL
                    vec_store(pixels(&a.dx, c, h) + at, vec_keep(holds[q], vec_load(pixels(&a.dx, c, h) + at)
                              - vec_splat(2 * a.factor * a.beta) * vec_load(pixels(&a.x, c, h) + at) * sums[q]))


SPLITS = ("local_response_norm", "local_response_norm_channels", "local_response_norm_backward",
          "local_response_norm_channels_backward")
include "kernels/local_norm.pxi"    # KERNELS
