"""Softmax over the channels, and its logarithm. Twins: `softmax`, `log_softmax` and their backward passes in
cnn/reference.

    y_c = exp(x_c - t) / sum_k exp(x_k - t),  dx_c = y_c (dy_c - sum_k dy_k y_k)
    y_c = x_c - t - log sum_k exp(x_k - t),   dx_c = dy_c - exp(y_c) sum_k dy_k     of the logarithm

with t = max x_k, so that nothing overflows. Sixteen images side by side go from channel to channel, a pixel at a time;
sixteen channels side by side (`..._channels`, one image) add up at the end, and the lanes without a channel, which hold
anything, are left out.
"""
from cnn._ext.elementary cimport vec_exp_limited, vec_log
from cnn._ext.op cimport Image, Place, begin, end, held_channels, pixels, put, streams
from cnn._ext.vec cimport (LANES, ROWV, VL, ivec, prefetch_second, prefetch_write, real, vec, vec_div, vec_fence,
                           vec_gt, vec_keep, vec_load, vec_most, vec_select, vec_splat, vec_store, vec_sum)

cdef extern from *:
    """
    /* vectors of pixels that go through their channels at once */
    #define TOGETHER (ROWV == 1 ? 2 : ROWV < 4 ? 4 : ROWV)
    #define LINE (64 / (int)sizeof(real))       /* numbers of a cache line */
    """
    enum:
        TOGETHER
        LINE


ctypedef struct Softmax:
    Image x                     # IN
    Image y                     # OUT
    real* room                  # (C, TOGETHER vectors) scratch
    Py_ssize_t channels, height, width

ctypedef struct SoftmaxBackward:
    Image dy                    # IN
    Image y                     # IN
    Image dx                    # OUT
    Py_ssize_t channels, height, width

ctypedef struct SoftmaxChannels:
    Image x                     # IN  (C / 16, H, W, 16)
    Image y                     # OUT (C / 16, H, W, 16)
    Py_ssize_t channels, height, width      # channels: C
    Py_ssize_t logs             # whether the logarithms are wanted

ctypedef struct SoftmaxChannelsBackward:
    Image dy                    # IN  (C / 16, H, W, 16)
    Image y                     # IN  (C / 16, H, W, 16)
    Image dx                    # OUT (C / 16, H, W, 16)
    Py_ssize_t channels, height, width      # channels: C
    Py_ssize_t logs             # whether y are logarithms


cdef inline void some_pixels(const Softmax* a, Py_ssize_t h, Py_ssize_t i, int n, bint logs, bint past) noexcept nogil:
    """`n` vectors of pixels of row h from vector i on, which are brought together in `room`, because each of their
    planes lies on a page of its own. logs: of the logarithm."""
    cdef Py_ssize_t C = a.channels, x_step = a.x.plane, y_step = a.y.plane, c
    cdef const real* x = pixels(&a.x, 0, h) + i * VL
    cdef real* y = pixels(&a.y, 0, h) + i * VL
    cdef vec top[8]
    cdef vec other[8]           # of every second channel: one comparison would wait for the one before
    cdef vec total[8]
    cdef vec u, v
    cdef int q
    for q in range(n):
        top[q] = other[q] = vec_load(x + q * VL)
        total[q] = vec_splat(0)
    for c in range(0, C - 1, 2):
        for q in range(n):
            u, v = vec_load(x + c * x_step + q * VL), vec_load(x + (c + 1) * x_step + q * VL)
            vec_store(a.room + (c * n + q) * VL, u)
            vec_store(a.room + ((c + 1) * n + q) * VL, v)
            top[q] = vec_select(vec_gt(u, top[q]), u, top[q])
            other[q] = vec_select(vec_gt(v, other[q]), v, other[q])
    for q in range(n):
        if C % 2:
            v = vec_load(x + (C - 1) * x_step + q * VL)
            vec_store(a.room + ((C - 1) * n + q) * VL, v)
            top[q] = vec_select(vec_gt(v, top[q]), v, top[q])
        top[q] = vec_select(vec_gt(other[q], top[q]), other[q], top[q])
    for c in range(C):
        for q in range(n):
            if q * VL % LINE == 0:  # of the pixels that come next
                prefetch_second(x + c * x_step + (n + q) * VL)
            u = vec_load(a.room + (c * n + q) * VL) - top[q]
            v = vec_exp_limited(u)
            total[q] = total[q] + v
            vec_store(a.room + (c * n + q) * VL, u if logs else v)
    for q in range(n):
        total[q] = vec_log(total[q]) if logs else vec_div(vec_splat(1), total[q])
    for c in range(C):
        for q in range(n):
            if not past:
                prefetch_write(y + c * y_step + (n + q) * VL)
            v = vec_load(a.room + (c * n + q) * VL)
            put(y + c * y_step + q * VL, v - total[q] if logs else v * total[q], past)


cdef inline void normalised(const Softmax* a, const Place* place, bint logs) noexcept nogil:
    cdef Py_ssize_t vectors = a.width * ROWV, h, i
    cdef bint past = streams(a.channels, a.height, a.width)
    for h in range(begin(a.height, place), end(a.height, place)):
        for i in range(vectors // TOGETHER):
            some_pixels(a, h, i * TOGETHER, TOGETHER, logs, past)
        for i in range(vectors // TOGETHER * TOGETHER, vectors):
            some_pixels(a, h, i, 1, logs, False)
    if past:
        vec_fence()


cdef inline void some_gradients(const SoftmaxBackward* a, Py_ssize_t h, Py_ssize_t i, int n, bint logs,
                                bint past) noexcept nogil:
    """dx of `n` vectors of pixels of row h from vector i on."""
    cdef Py_ssize_t C = a.channels, dy_step = a.dy.plane, y_step = a.y.plane, dx_step = a.dx.plane, c
    cdef const real* dy = pixels(&a.dy, 0, h) + i * VL
    cdef const real* y = pixels(&a.y, 0, h) + i * VL
    cdef real* dx = pixels(&a.dx, 0, h) + i * VL
    cdef vec total[8]
    cdef vec v, u
    cdef int q
    for q in range(n):
        total[q] = vec_splat(0)
    for c in range(C):
        for q in range(n):
            v = vec_load(dy + c * dy_step + q * VL)
            total[q] = total[q] + (v if logs else v * vec_load(y + c * y_step + q * VL))
    for c in range(C):
        for q in range(n):          # and what the next pixels take
            prefetch_second(dy + c * dy_step + (n + q) * VL)
            prefetch_second(y + c * y_step + (n + q) * VL)
            if not past:
                prefetch_write(dx + c * dx_step + (n + q) * VL)
            v, u = vec_load(y + c * y_step + q * VL), vec_load(dy + c * dy_step + q * VL)
            put(dx + c * dx_step + q * VL, u - vec_exp_limited(v) * total[q] if logs else v * (u - total[q]), past)


cdef inline void gradients(const SoftmaxBackward* a, const Place* place, bint logs) noexcept nogil:
    cdef Py_ssize_t vectors = a.width * ROWV, h, i
    cdef bint past = streams(a.channels, a.height, a.width)
    for h in range(begin(a.height, place), end(a.height, place)):
        for i in range(vectors // TOGETHER):
            some_gradients(a, h, i * TOGETHER, TOGETHER, logs, past)
        for i in range(vectors // TOGETHER * TOGETHER, vectors):
            some_gradients(a, h, i, 1, logs, False)
    if past:
        vec_fence()


cdef void softmax(const Softmax* a, const Place* place) noexcept nogil:
    """y_c = exp(x_c) / sum over the channels k of exp(x_k), shifted by the largest x"""
    normalised(a, place, False)


cdef void softmax_backward(const SoftmaxBackward* a, const Place* place) noexcept nogil:
    """dx_c = y_c (dy_c - sum over the channels k of dy_k y_k)"""
    gradients(a, place, False)


cdef void log_softmax(const Softmax* a, const Place* place) noexcept nogil:
    """y_c = x_c - log of the sum over the channels k of exp(x_k), shifted by the largest x"""
    normalised(a, place, True)


cdef void log_softmax_backward(const SoftmaxBackward* a, const Place* place) noexcept nogil:
    """dx_c = dy_c - exp(y_c) times the sum over the channels k of dy_k"""
    gradients(a, place, True)


cdef void softmax_channels(const SoftmaxChannels* a, const Place* place) noexcept nogil:
    """`softmax`, or with `logs` `log_softmax`, of sixteen channels side by side"""
    cdef Py_ssize_t groups = (a.channels + LANES - 1) // LANES, h, i, g
    cdef const real* x
    cdef real* y
    cdef ivec has[8]
    cdef vec v, top, total, share
    cdef int q
    held_channels(a.channels, has)
    for h in range(begin(a.height, place), end(a.height, place)):
        for i in range(a.width):
            x, y = pixels(&a.x, 0, h) + i * LANES, pixels(&a.y, 0, h) + i * LANES
            top, total = vec_splat(x[0]), vec_splat(0)
            for g in range(groups):
                for q in range(ROWV):
                    v = vec_load(x + g * a.x.plane + q * VL)
                    if g == groups - 1:
                        v = vec_select(has[q], v, top)
                    top = vec_select(vec_gt(v, top), v, top)
            top = vec_splat(vec_most(top))
            for g in range(groups):
                for q in range(ROWV):
                    v = vec_exp_limited(vec_load(x + g * a.x.plane + q * VL) - top)
                    if not a.logs:
                        vec_store(y + g * a.y.plane + q * VL, v)
                    total = total + (vec_keep(has[q], v) if g == groups - 1 else v)
            share = vec_splat(vec_sum(total))
            share = vec_log(share) if a.logs else vec_div(vec_splat(1), share)
            for g in range(groups):
                for q in range(ROWV):
                    if a.logs:
                        v = vec_load(x + g * a.x.plane + q * VL) - top - share
                    else:
                        v = vec_load(y + g * a.y.plane + q * VL) * share
                    vec_store(y + g * a.y.plane + q * VL, v)


cdef void softmax_channels_backward(const SoftmaxChannelsBackward* a, const Place* place) noexcept nogil:
    """`softmax_backward`, or with `logs` `log_softmax_backward`, of sixteen channels side by side"""
    cdef Py_ssize_t groups = (a.channels + LANES - 1) // LANES, h, i, g
    cdef const real* dy
    cdef const real* y
    cdef real* dx
    cdef ivec has[8]
    cdef vec v, u, total
    cdef int q
    held_channels(a.channels, has)
    for h in range(begin(a.height, place), end(a.height, place)):
        for i in range(a.width):
            dy, y, dx = pixels(&a.dy, 0, h) + i * LANES, pixels(&a.y, 0, h) + i * LANES, pixels(&a.dx, 0, h) + i * LANES
            total = vec_splat(0)
            for g in range(groups):
                for q in range(ROWV):
                    v = vec_load(dy + g * a.dy.plane + q * VL)
                    if not a.logs:
                        v = v * vec_load(y + g * a.y.plane + q * VL)
                    total = total + (vec_keep(has[q], v) if g == groups - 1 else v)
            total = vec_splat(vec_sum(total))
            for g in range(groups):
                for q in range(ROWV):
                    v = vec_load(y + g * a.y.plane + q * VL)
                    u = vec_load(dy + g * a.dy.plane + q * VL)
                    vec_store(dx + g * a.dx.plane + q * VL,
                              u - vec_exp_limited(v) * total if a.logs else v * (u - total))


ROOM = TOGETHER * VL    # numbers of scratch for each channel
SPLITS = ("softmax", "softmax_backward", "log_softmax", "log_softmax_backward", "softmax_channels",
          "softmax_channels_backward")
include "kernels/softmax.pxi"       # KERNELS
