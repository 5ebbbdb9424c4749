"""Activations, softmax and dropout of one block, forward and backward. Twins in cnn/reference.py.

Every array here is (C, H, W, 16); forward and backward may work in place.
"""
from libc.stdint cimport uint32_t, uint64_t

from cnn._ext.elementary cimport vec_exp, vec_normal, vec_sigmoid, vec_tanh
from cnn._ext.op cimport Op, Place, array
from cnn._ext.vec cimport (LANES, ROWV, VL, ivec, real, real_log, vec, vec_clear, vec_div, vec_gt, vec_le, vec_load,
                           vec_relu, vec_select, vec_splat, vec_store)


cdef extern from *:
    """
    #define SQRT_2_PI 0.79788456080286535588        /* sqrt(2 / pi) */
    #define INV_SQRT_2PI 0.39894228040143267794     /* 1 / sqrt(2 pi) */
    """
    const real SQRT_2_PI, INV_SQRT_2PI


cdef inline real* pixels(const Op* op, int i, const Place* place, Py_ssize_t c,
                         Py_ssize_t h) noexcept nogil:
    """Row h of channel c of array i."""
    return <real*>array(op, i, place) + c * op.args[i].plane + h * op.args[i].row


cdef void relu(const Op* op, const Place* place) noexcept nogil:
    """y = max(x, 0)"""
    cdef Py_ssize_t C = op.n[0], H = op.n[1], W = op.n[2], c, h, i
    cdef const real* x
    cdef real* y
    for c in range(C):
        for h in range(H):
            x = pixels(op, 0, place, c, h)                       # IN
            y = pixels(op, 1, place, c, h)                       # OUT
            for i in range(W * ROWV):
                vec_store(y + i * VL, vec_relu(vec_load(x + i * VL)))


cdef void relu_backward(const Op* op, const Place* place) noexcept nogil:
    """dx = dy where y > 0 (or NaN), else 0"""
    cdef Py_ssize_t C = op.n[0], H = op.n[1], W = op.n[2], c, h, i
    cdef const real* dy
    cdef const real* y
    cdef real* dx
    for c in range(C):
        for h in range(H):
            dy = pixels(op, 0, place, c, h)                      # IN
            y = pixels(op, 1, place, c, h)                       # IN
            dx = pixels(op, 2, place, c, h)                      # OUT
            for i in range(W * ROWV):
                vec_store(dx + i * VL, vec_clear(vec_le(vec_load(y + i * VL), vec_splat(0)), vec_load(dy + i * VL)))


cdef void add(const Op* op, const Place* place) noexcept nogil:
    """y = a + b, or max(a + b, 0)"""
    cdef Py_ssize_t C = op.n[0], H = op.n[1], W = op.n[2], c, h, i
    cdef bint relu = op.n[3]
    cdef const real* a
    cdef const real* b
    cdef real* y
    for c in range(C):
        for h in range(H):
            a = pixels(op, 0, place, c, h)                       # IN
            b = pixels(op, 1, place, c, h)                       # IN
            y = pixels(op, 2, place, c, h)                       # OUT
            if relu:
                for i in range(W * ROWV):
                    vec_store(y + i * VL, vec_relu(vec_load(a + i * VL) + vec_load(b + i * VL)))
            else:
                for i in range(W * ROWV):
                    vec_store(y + i * VL, vec_load(a + i * VL) + vec_load(b + i * VL))


cdef void leaky_relu(const Op* op, const Place* place) noexcept nogil:
    """y = x where x > 0, else slope * x"""
    cdef Py_ssize_t C = op.n[0], H = op.n[1], W = op.n[2], c, h, i
    cdef real slope = <real>op.f[0]
    cdef const real* x
    cdef real* y
    cdef vec v
    for c in range(C):
        for h in range(H):
            x = pixels(op, 0, place, c, h)                       # IN
            y = pixels(op, 1, place, c, h)                       # OUT
            for i in range(W * ROWV):
                v = vec_load(x + i * VL)
                vec_store(y + i * VL, vec_select(vec_gt(v, vec_splat(0)), v, slope * v))


cdef void leaky_relu_backward(const Op* op, const Place* place) noexcept nogil:
    """dx = dy where x > 0, else slope * dy"""
    cdef Py_ssize_t C = op.n[0], H = op.n[1], W = op.n[2], c, h, i
    cdef real slope = <real>op.f[0]
    cdef const real* dy
    cdef const real* x
    cdef real* dx
    cdef vec v
    for c in range(C):
        for h in range(H):
            dy = pixels(op, 0, place, c, h)                      # IN
            x = pixels(op, 1, place, c, h)                       # IN
            dx = pixels(op, 2, place, c, h)                      # OUT
            for i in range(W * ROWV):
                v = vec_load(dy + i * VL)
                vec_store(dx + i * VL, vec_select(vec_gt(vec_load(x + i * VL), vec_splat(0)), v, slope * v))


cdef void tanh(const Op* op, const Place* place) noexcept nogil:
    """y = tanh(x)"""
    cdef Py_ssize_t C = op.n[0], H = op.n[1], W = op.n[2], c, h, i
    cdef const real* x
    cdef real* y
    for c in range(C):
        for h in range(H):
            x = pixels(op, 0, place, c, h)                       # IN
            y = pixels(op, 1, place, c, h)                       # OUT
            for i in range(W * ROWV):
                vec_store(y + i * VL, vec_tanh(vec_load(x + i * VL)))


cdef void tanh_backward(const Op* op, const Place* place) noexcept nogil:
    """dx = dy * (1 - y^2)"""
    cdef Py_ssize_t C = op.n[0], H = op.n[1], W = op.n[2], c, h, i
    cdef const real* dy
    cdef const real* y
    cdef real* dx
    cdef vec v
    for c in range(C):
        for h in range(H):
            dy = pixels(op, 0, place, c, h)                      # IN
            y = pixels(op, 1, place, c, h)                       # IN
            dx = pixels(op, 2, place, c, h)                      # OUT
            for i in range(W * ROWV):
                v = vec_load(y + i * VL)
                vec_store(dx + i * VL, vec_load(dy + i * VL) * (vec_splat(1) - v * v))


cdef void sigmoid(const Op* op, const Place* place) noexcept nogil:
    """y = 1 / (1 + exp(-x))"""
    cdef Py_ssize_t C = op.n[0], H = op.n[1], W = op.n[2], c, h, i
    cdef const real* x
    cdef real* y
    for c in range(C):
        for h in range(H):
            x = pixels(op, 0, place, c, h)                       # IN
            y = pixels(op, 1, place, c, h)                       # OUT
            for i in range(W * ROWV):
                vec_store(y + i * VL, vec_sigmoid(vec_load(x + i * VL)))


cdef void sigmoid_backward(const Op* op, const Place* place) noexcept nogil:
    """dx = dy * y * (1 - y)"""
    cdef Py_ssize_t C = op.n[0], H = op.n[1], W = op.n[2], c, h, i
    cdef const real* dy
    cdef const real* y
    cdef real* dx
    cdef vec v
    for c in range(C):
        for h in range(H):
            dy = pixels(op, 0, place, c, h)                      # IN
            y = pixels(op, 1, place, c, h)                       # IN
            dx = pixels(op, 2, place, c, h)                      # OUT
            for i in range(W * ROWV):
                v = vec_load(y + i * VL)
                vec_store(dx + i * VL, vec_load(dy + i * VL) * v * (vec_splat(1) - v))


cdef void silu(const Op* op, const Place* place) noexcept nogil:
    """y = x s with s = sigmoid(x)"""
    cdef Py_ssize_t C = op.n[0], H = op.n[1], W = op.n[2], c, h, i
    cdef const real* x
    cdef real* y
    cdef vec v
    for c in range(C):
        for h in range(H):
            x = pixels(op, 0, place, c, h)                       # IN
            y = pixels(op, 1, place, c, h)                       # OUT
            for i in range(W * ROWV):
                v = vec_load(x + i * VL)
                vec_store(y + i * VL, v * vec_sigmoid(v))


cdef void silu_backward(const Op* op, const Place* place) noexcept nogil:
    """dx = dy s (1 + x (1 - s))"""
    cdef Py_ssize_t C = op.n[0], H = op.n[1], W = op.n[2], c, h, i
    cdef const real* dy
    cdef const real* x
    cdef real* dx
    cdef vec v, s
    for c in range(C):
        for h in range(H):
            dy = pixels(op, 0, place, c, h)                      # IN
            x = pixels(op, 1, place, c, h)                       # IN
            dx = pixels(op, 2, place, c, h)                      # OUT
            for i in range(W * ROWV):
                v = vec_load(x + i * VL)
                s = vec_sigmoid(v)
                vec_store(dx + i * VL, vec_load(dy + i * VL) * s * (vec_splat(1) + v * (vec_splat(1) - s)))


cdef void gelu(const Op* op, const Place* place) noexcept nogil:
    """y = x P(x), where P is the normal distribution function (Hendrycks and Gimpel 2016)"""
    cdef Py_ssize_t C = op.n[0], H = op.n[1], W = op.n[2], c, h, i
    cdef const real* x
    cdef real* y
    cdef vec v, bell
    for c in range(C):
        for h in range(H):
            x = pixels(op, 0, place, c, h)                       # IN
            y = pixels(op, 1, place, c, h)                       # OUT
            for i in range(W * ROWV):
                v = vec_load(x + i * VL)
                vec_store(y + i * VL, v * vec_normal(v, &bell))


cdef void gelu_backward(const Op* op, const Place* place) noexcept nogil:
    """dx = dy (P(x) + x exp(-x^2 / 2) / sqrt(2 pi))"""
    cdef Py_ssize_t C = op.n[0], H = op.n[1], W = op.n[2], c, h, i
    cdef const real* dy
    cdef const real* x
    cdef real* dx
    cdef vec v, bell, s
    for c in range(C):
        for h in range(H):
            dy = pixels(op, 0, place, c, h)                      # IN
            x = pixels(op, 1, place, c, h)                       # IN
            dx = pixels(op, 2, place, c, h)                      # OUT
            for i in range(W * ROWV):
                v = vec_load(x + i * VL)
                s = vec_normal(v, &bell)
                vec_store(dx + i * VL, vec_load(dy + i * VL) * (s + v * bell * vec_splat(INV_SQRT_2PI)))


cdef void gelu_tanh(const Op* op, const Place* place) noexcept nogil:
    """y = x (1 + t) / 2 with t = tanh(sqrt(2 / pi) (x + 0.044715 x^3))"""
    cdef Py_ssize_t C = op.n[0], H = op.n[1], W = op.n[2], c, h, i
    cdef const real* x
    cdef real* y
    cdef vec v, t
    for c in range(C):
        for h in range(H):
            x = pixels(op, 0, place, c, h)                       # IN
            y = pixels(op, 1, place, c, h)                       # OUT
            for i in range(W * ROWV):
                v = vec_load(x + i * VL)
                t = vec_tanh(vec_splat(SQRT_2_PI) * (v + vec_splat(0.044715) * v * v * v))
                vec_store(y + i * VL, vec_splat(0.5) * v * (vec_splat(1) + t))


cdef void gelu_tanh_backward(const Op* op, const Place* place) noexcept nogil:
    """dx = dy ((1 + t) / 2 + x (1 - t^2) sqrt(2 / pi) (1 + 3 * 0.044715 x^2) / 2)"""
    cdef Py_ssize_t C = op.n[0], H = op.n[1], W = op.n[2], c, h, i
    cdef const real* dy
    cdef const real* x
    cdef real* dx
    cdef vec v, t, slope
    for c in range(C):
        for h in range(H):
            dy = pixels(op, 0, place, c, h)                      # IN
            x = pixels(op, 1, place, c, h)                       # IN
            dx = pixels(op, 2, place, c, h)                      # OUT
            for i in range(W * ROWV):
                v = vec_load(x + i * VL)
                t = vec_tanh(vec_splat(SQRT_2_PI) * (v + vec_splat(0.044715) * v * v * v))
                slope = vec_splat(SQRT_2_PI) * (vec_splat(1) + vec_splat(0.134145) * v * v)
                slope = vec_splat(1) + t + v * (vec_splat(1) - t * t) * slope
                vec_store(dx + i * VL, vec_splat(0.5) * vec_load(dy + i * VL) * slope)


# ---------------------------------------------------------------- softmax

cdef inline vec shifted_exp(const real* x, Py_ssize_t x_step, real* y, Py_ssize_t y_step, Py_ssize_t C,
                            vec* top) noexcept nogil:
    """y_c = exp(x_c - top), where top is the largest of C numbers (y NULL: not kept); returns their sum."""
    cdef vec v, total = vec_splat(0)
    cdef Py_ssize_t c
    top[0] = vec_load(x)
    for c in range(1, C):
        v = vec_load(x + c * x_step)
        top[0] = vec_select(vec_gt(v, top[0]), v, top[0])
    for c in range(C):
        v = vec_exp(vec_load(x + c * x_step) - top[0])
        total = total + v
        if y:
            vec_store(y + c * y_step, v)
    return total


cdef void softmax(const Op* op, const Place* place) noexcept nogil:
    """y_c = exp(x_c) / sum over the channels k of exp(x_k), shifted by the largest x"""
    cdef Py_ssize_t C = op.n[0], H = op.n[1], W = op.n[2], c, h, i
    cdef Py_ssize_t x_step = op.args[0].plane, y_step = op.args[1].plane
    cdef const real* x
    cdef real* y
    cdef vec top, share
    for h in range(H):
        for i in range(W * ROWV):
            x = pixels(op, 0, place, 0, h) + i * VL              # IN
            y = pixels(op, 1, place, 0, h) + i * VL              # OUT
            share = vec_div(vec_splat(1), shifted_exp(x, x_step, y, y_step, C, &top))
            for c in range(C):
                vec_store(y + c * y_step, vec_load(y + c * y_step) * share)


cdef void softmax_backward(const Op* op, const Place* place) noexcept nogil:
    """dx_c = y_c (dy_c - sum over the channels k of dy_k y_k)"""
    cdef Py_ssize_t C = op.n[0], H = op.n[1], W = op.n[2], c, h, i
    cdef Py_ssize_t dy_step = op.args[0].plane, y_step = op.args[1].plane, dx_step = op.args[2].plane
    cdef const real* dy
    cdef const real* y
    cdef real* dx
    cdef vec total
    for h in range(H):
        for i in range(W * ROWV):
            dy = pixels(op, 0, place, 0, h) + i * VL             # IN
            y = pixels(op, 1, place, 0, h) + i * VL              # IN
            dx = pixels(op, 2, place, 0, h) + i * VL             # OUT
            total = vec_splat(0)
            for c in range(C):
                total = total + vec_load(dy + c * dy_step) * vec_load(y + c * y_step)
            for c in range(C):
                vec_store(dx + c * dx_step, vec_load(y + c * y_step) * (vec_load(dy + c * dy_step) - total))


cdef void log_softmax(const Op* op, const Place* place) noexcept nogil:
    """y_c = x_c - log of the sum over the channels k of exp(x_k), shifted by the largest x"""
    cdef Py_ssize_t C = op.n[0], H = op.n[1], W = op.n[2], c, h, i, lane
    cdef Py_ssize_t x_step = op.args[0].plane, y_step = op.args[1].plane
    cdef const real* x
    cdef real* y
    cdef real logs[16]
    cdef vec top
    for h in range(H):
        for i in range(W * ROWV):
            x = pixels(op, 0, place, 0, h) + i * VL              # IN
            y = pixels(op, 1, place, 0, h) + i * VL              # OUT
            vec_store(logs, shifted_exp(x, x_step, NULL, 0, C, &top))
            for lane in range(VL):
                logs[lane] = real_log(logs[lane])
            for c in range(C):
                vec_store(y + c * y_step, vec_load(x + c * x_step) - top - vec_load(logs))


cdef void log_softmax_backward(const Op* op, const Place* place) noexcept nogil:
    """dx_c = dy_c - exp(y_c) times the sum over the channels k of dy_k"""
    cdef Py_ssize_t C = op.n[0], H = op.n[1], W = op.n[2], c, h, i
    cdef Py_ssize_t dy_step = op.args[0].plane, y_step = op.args[1].plane, dx_step = op.args[2].plane
    cdef const real* dy
    cdef const real* y
    cdef real* dx
    cdef vec total
    for h in range(H):
        for i in range(W * ROWV):
            dy = pixels(op, 0, place, 0, h) + i * VL             # IN
            y = pixels(op, 1, place, 0, h) + i * VL              # IN
            dx = pixels(op, 2, place, 0, h) + i * VL             # OUT
            total = vec_splat(0)
            for c in range(C):
                total = total + vec_load(dy + c * dy_step)
            for c in range(C):
                vec_store(dx + c * dx_step, vec_load(dy + c * dy_step) - vec_exp(vec_load(y + c * y_step)) * total)


# ---------------------------------------------------------------- dropout

cdef inline uint32_t scramble(uint32_t h) noexcept nogil:
    """A bijection of 32 bits in which every input bit moves every output bit (murmur3's finaliser)."""
    h = (h ^ (h >> 16)) * <uint32_t>0x85EBCA6B
    h = (h ^ (h >> 13)) * <uint32_t>0xC2B2AE35
    return h ^ (h >> 16)


cdef inline void draw(const uint32_t* image, uint32_t element, uint64_t threshold, real* keep) noexcept nogil:
    """keep = 1 for the images that keep this element, else 0, all (16,)"""
    cdef int lane
    for lane in range(LANES):
        keep[lane] = scramble(image[lane] ^ (element * <uint32_t>0x9E3779B1)) >= threshold


cdef inline void drop(const real* x, const real* keep, real scale, real* y) noexcept nogil:
    cdef int q
    for q in range(ROWV):
        vec_store(y + q * VL, vec_clear(vec_le(vec_load(keep + q * VL), vec_splat(0)),
                                        vec_load(x + q * VL) * scale))


cdef void dropout(const Op* op, const Place* place) noexcept nogil:
    """y = x / (1 - p) where the element's hash reaches p * 2^32, else 0. Backward is the same map. The elements
    are the pixels, or with `whole` the channels.

    The hash depends on the seed, the step, the image's place in the batch and the element alone, so
    that any number of threads draws the same mask, and backward draws it again instead of storing it.
    """
    cdef Py_ssize_t C = op.n[0], H = op.n[1], W = op.n[2], c, h, i
    cdef int lane
    cdef bint whole = op.n[3]
    cdef const uint64_t* key = <const uint64_t*>array(op, 2, place)      # IN  (2,) seed, step
    cdef uint64_t threshold = <uint64_t>(op.f[0] * 4294967296.0)
    cdef real scale = <real>(1 / (1 - op.f[0])) if op.f[0] < 1 else 0
    cdef uint32_t image[16]
    cdef uint32_t element = 0
    cdef real keep[16]
    cdef const real* x
    cdef real* y
    for lane in range(LANES):
        image[lane] = scramble(scramble(scramble(<uint32_t>key[0]) ^ <uint32_t>key[1])
                               ^ <uint32_t>(place.at[1] * LANES + lane))
    for c in range(C):
        if whole:
            draw(image, <uint32_t>c, threshold, keep)
        for h in range(H):
            x = pixels(op, 0, place, c, h)                       # IN
            y = pixels(op, 1, place, c, h)                       # OUT
            if whole:
                for i in range(W):
                    drop(x + i * LANES, keep, scale, y + i * LANES)
            else:
                for i in range(W):
                    draw(image, element, threshold, keep)
                    drop(x + i * LANES, keep, scale, y + i * LANES)
                    element += 1


PIXELS = ("channels", "height", "width")
KERNELS = {
    "relu": (<size_t>&relu, ("x", "y"), PIXELS, ()),
    "relu_backward": (<size_t>&relu_backward, ("dy", "y", "dx"), PIXELS, ()),
    "add": (<size_t>&add, ("a", "b", "y"), (*PIXELS, "relu"), ()),
    "leaky_relu": (<size_t>&leaky_relu, ("x", "y"), PIXELS, ("slope",)),
    "leaky_relu_backward": (<size_t>&leaky_relu_backward, ("dy", "x", "dx"), PIXELS, ("slope",)),
    "tanh": (<size_t>&tanh, ("x", "y"), PIXELS, ()),
    "tanh_backward": (<size_t>&tanh_backward, ("dy", "y", "dx"), PIXELS, ()),
    "sigmoid": (<size_t>&sigmoid, ("x", "y"), PIXELS, ()),
    "sigmoid_backward": (<size_t>&sigmoid_backward, ("dy", "y", "dx"), PIXELS, ()),
    "silu": (<size_t>&silu, ("x", "y"), PIXELS, ()),
    "silu_backward": (<size_t>&silu_backward, ("dy", "x", "dx"), PIXELS, ()),
    "gelu": (<size_t>&gelu, ("x", "y"), PIXELS, ()),
    "gelu_backward": (<size_t>&gelu_backward, ("dy", "x", "dx"), PIXELS, ()),
    "gelu_tanh": (<size_t>&gelu_tanh, ("x", "y"), PIXELS, ()),
    "gelu_tanh_backward": (<size_t>&gelu_tanh_backward, ("dy", "x", "dx"), PIXELS, ()),
    "softmax": (<size_t>&softmax, ("x", "y"), PIXELS, ()),
    "softmax_backward": (<size_t>&softmax_backward, ("dy", "y", "dx"), PIXELS, ()),
    "log_softmax": (<size_t>&log_softmax, ("x", "y"), PIXELS, ()),
    "log_softmax_backward": (<size_t>&log_softmax_backward, ("dy", "y", "dx"), PIXELS, ()),
    "dropout": (<size_t>&dropout, ("x", "y", "key"), (*PIXELS, "whole"), ("p",)),
}
