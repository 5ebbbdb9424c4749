"""Activations and dropout of one block, forward and backward. Twins in cnn/reference.py.

Every array here is (C, H, W, 16); forward and backward may work in place.
"""
from libc.stdint cimport uint32_t, uint64_t

from cnn._ext.op cimport Op, Place, array
from cnn._ext.vec cimport (LANES, ROWV, VL, ivec, real, real_exp, real_tanh, vec, vec_clear, vec_gt,
                           vec_le, vec_load, vec_relu, vec_select, vec_splat, vec_store)


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
            for i in range(W * LANES):
                y[i] = real_tanh(x[i])


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
    """y = 1 / (1 + exp(-x)), as exp(x) / (1 + exp(x)) where x < 0 so that exp cannot overflow"""
    cdef Py_ssize_t C = op.n[0], H = op.n[1], W = op.n[2], c, h, i
    cdef const real* x
    cdef real* y
    cdef real e
    for c in range(C):
        for h in range(H):
            x = pixels(op, 0, place, c, h)                       # IN
            y = pixels(op, 1, place, c, h)                       # OUT
            for i in range(W * LANES):
                e = real_exp(-x[i] if x[i] > 0 else x[i])
                y[i] = (e if x[i] < 0 else 1) / (1 + e)


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


# ---------------------------------------------------------------- dropout

cdef inline uint32_t scramble(uint32_t h) noexcept nogil:
    """A bijection of 32 bits in which every input bit moves every output bit (murmur3's finaliser)."""
    h = (h ^ (h >> 16)) * <uint32_t>0x85EBCA6B
    h = (h ^ (h >> 13)) * <uint32_t>0xC2B2AE35
    return h ^ (h >> 16)


cdef void dropout(const Op* op, const Place* place) noexcept nogil:
    """y = x / (1 - p) where the element's hash reaches p * 2^32, else 0. Backward is the same map.

    The hash depends on the seed, the step, the image's place in the batch and the element alone, so
    that any number of threads draws the same mask, and backward draws it again instead of storing it.
    """
    cdef Py_ssize_t C = op.n[0], H = op.n[1], W = op.n[2], c, h, i, lane
    cdef const uint64_t* key = <const uint64_t*>array(op, 2, place)      # IN  (2,) seed, step
    cdef uint64_t threshold = <uint64_t>(op.f[0] * 4294967296.0)
    cdef real scale = <real>(1 / (1 - op.f[0])) if op.f[0] < 1 else 0
    cdef Py_ssize_t at
    cdef ivec dead
    cdef uint32_t image[16]
    cdef uint32_t element = 0
    cdef real keep[16]
    cdef const real* x
    cdef real* y
    for lane in range(LANES):
        image[lane] = scramble(scramble(scramble(<uint32_t>key[0]) ^ <uint32_t>key[1])
                               ^ <uint32_t>(place.at[1] * LANES + lane))
    for c in range(C):
        for h in range(H):
            x = pixels(op, 0, place, c, h)                       # IN
            y = pixels(op, 1, place, c, h)                       # OUT
            for i in range(W):
                for lane in range(LANES):
                    keep[lane] = scramble(image[lane] ^ (element * <uint32_t>0x9E3779B1)) >= threshold
                for lane in range(ROWV):
                    at = i * LANES + lane * VL
                    dead = vec_le(vec_load(keep + lane * VL), vec_splat(0))
                    vec_store(y + at, vec_clear(dead, vec_load(x + at) * scale))
                element += 1


PIXELS = ("channels", "height", "width")
KERNELS = {
    "relu": (<size_t>&relu, ("x", "y"), PIXELS, ()),
    "relu_backward": (<size_t>&relu_backward, ("dy", "y", "dx"), PIXELS, ()),
    "leaky_relu": (<size_t>&leaky_relu, ("x", "y"), PIXELS, ("slope",)),
    "leaky_relu_backward": (<size_t>&leaky_relu_backward, ("dy", "x", "dx"), PIXELS, ("slope",)),
    "tanh": (<size_t>&tanh, ("x", "y"), PIXELS, ()),
    "tanh_backward": (<size_t>&tanh_backward, ("dy", "y", "dx"), PIXELS, ()),
    "sigmoid": (<size_t>&sigmoid, ("x", "y"), PIXELS, ()),
    "sigmoid_backward": (<size_t>&sigmoid_backward, ("dy", "y", "dx"), PIXELS, ()),
    "dropout": (<size_t>&dropout, ("x", "y", "key"), PIXELS, ("p",)),
}
