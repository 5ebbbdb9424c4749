"""Softmax over the channels, and its logarithm. Twins: `softmax`, `log_softmax` and their backward passes in
cnn/reference.

    y_c = exp(x_c - t) / sum_k exp(x_k - t),  dx_c = y_c (dy_c - sum_k dy_k y_k)
    y_c = x_c - t - log sum_k exp(x_k - t),   dx_c = dy_c - exp(y_c) sum_k dy_k     of the logarithm

with t = max x_k, so that nothing overflows. Sixteen images side by side go from channel to channel, a pixel at a time;
sixteen channels side by side (`..._channels`, one image) add up at the end, and the lanes without a channel, which hold
anything, are left out.
"""
from cnn._ext.elementary cimport vec_exp_limited, vec_log
from cnn._ext.op cimport Image, Place, begin, end, held_channels, pixels
from cnn._ext.vec cimport (LANES, ROWV, VL, ivec, prefetch_second, prefetch_write, real, vec, vec_div,
                           vec_gt, vec_keep, vec_load, vec_most, vec_select, vec_splat, vec_store, vec_sum)


ctypedef struct Softmax:
    Image x                     # IN
    Image y                     # OUT
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


cdef inline vec shifted_exp(const real* x, Py_ssize_t x_step, real* y, Py_ssize_t y_step, Py_ssize_t C,
                            vec* top) noexcept nogil:
    """y_c = exp(x_c - top), where top is the largest of C numbers (y NULL: not kept); returns their sum."""
    cdef vec v, total = vec_splat(0)
    cdef Py_ssize_t c
    top[0] = vec_load(x)
    for c in range(1, C):
        v = vec_load(x + c * x_step)
        prefetch_second(x + c * x_step + 4 * LANES)
        top[0] = vec_select(vec_gt(v, top[0]), v, top[0])
    for c in range(C):
        v = vec_exp_limited(vec_load(x + c * x_step) - top[0])
        total = total + v
        if y:
            prefetch_write(y + c * y_step + 4 * LANES)
            vec_store(y + c * y_step, v)
    return total


cdef void softmax(const Softmax* a, const Place* place) noexcept nogil:
    """y_c = exp(x_c) / sum over the channels k of exp(x_k), shifted by the largest x"""
    cdef Py_ssize_t C = a.channels, H = a.height, W = a.width, c, h, i
    cdef Py_ssize_t x_step = a.x.plane, y_step = a.y.plane
    cdef const real* x
    cdef real* y
    cdef vec top, share
    for h in range(begin(H, place), end(H, place)):
        for i in range(W * ROWV):
            x = pixels(&a.x, 0, h) + i * VL
            y = pixels(&a.y, 0, h) + i * VL
            share = vec_div(vec_splat(1), shifted_exp(x, x_step, y, y_step, C, &top))
            for c in range(C):
                vec_store(y + c * y_step, vec_load(y + c * y_step) * share)


cdef inline void gradient(const SoftmaxBackward* a, const Place* place, bint logs) noexcept nogil:
    """dx of `softmax`, or with `logs`, a constant, of `log_softmax`"""
    cdef Py_ssize_t C = a.channels, H = a.height, W = a.width, c, h, i
    cdef Py_ssize_t dy_step = a.dy.plane, y_step = a.y.plane, dx_step = a.dx.plane
    cdef const real* dy
    cdef const real* y
    cdef real* dx
    cdef vec v, u, total
    for h in range(begin(H, place), end(H, place)):
        for i in range(W * ROWV):
            dy = pixels(&a.dy, 0, h) + i * VL
            y = pixels(&a.y, 0, h) + i * VL
            dx = pixels(&a.dx, 0, h) + i * VL
            total = vec_splat(0)
            for c in range(C):
                v = vec_load(dy + c * dy_step)
                total = total + (v if logs else v * vec_load(y + c * y_step))
            for c in range(C):          # and what the next pixels take
                prefetch_second(dy + c * dy_step + 4 * LANES)
                prefetch_second(y + c * y_step + 4 * LANES)
                prefetch_write(dx + c * dx_step + 4 * LANES)
                v, u = vec_load(y + c * y_step), vec_load(dy + c * dy_step)
                vec_store(dx + c * dx_step, u - vec_exp_limited(v) * total if logs else v * (u - total))


cdef void softmax_backward(const SoftmaxBackward* a, const Place* place) noexcept nogil:
    """dx_c = y_c (dy_c - sum over the channels k of dy_k y_k)"""
    gradient(a, place, False)


cdef void log_softmax(const Softmax* a, const Place* place) noexcept nogil:
    """y_c = x_c - log of the sum over the channels k of exp(x_k), shifted by the largest x"""
    cdef Py_ssize_t C = a.channels, H = a.height, W = a.width, c, h, i
    cdef Py_ssize_t x_step = a.x.plane, y_step = a.y.plane
    cdef const real* x
    cdef real* y
    cdef vec top, logs
    for h in range(begin(H, place), end(H, place)):
        for i in range(W * ROWV):
            x = pixels(&a.x, 0, h) + i * VL
            y = pixels(&a.y, 0, h) + i * VL
            logs = vec_log(shifted_exp(x, x_step, NULL, 0, C, &top))
            for c in range(C):
                vec_store(y + c * y_step, vec_load(x + c * x_step) - top - logs)


cdef void log_softmax_backward(const SoftmaxBackward* a, const Place* place) noexcept nogil:
    """dx_c = dy_c - exp(y_c) times the sum over the channels k of dy_k"""
    gradient(a, place, True)


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


SPLITS = ("softmax", "softmax_backward", "log_softmax", "log_softmax_backward", "softmax_channels",
          "softmax_channels_backward")
include "kernels/softmax.pxi"       # KERNELS
