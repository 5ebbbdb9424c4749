"""Activations and dropout of one block, forward and backward. Twins: those of the same names in
cnn/reference, `gelu` for `gelu_tanh`, too; NumPy's own sum for `add`.

Every image here is (C, H, W, 16); forward and backward may work in place.
"""
from libc.stdint cimport uint32_t, uint64_t

from cnn._ext.elementary cimport vec_normal, vec_sigmoid, vec_tanh
from cnn._ext.op cimport PER_BLOCK, Image, Place, begin, end, pixels
from cnn._ext.random cimport element_hash, image_hash
from cnn._ext.vec cimport (LANES, ROWV, VL, real, vec, vec_clear, vec_gt, vec_le, vec_load, vec_relu, vec_select,
                           vec_splat, vec_store)


cdef extern from *:
    """
    #define SQRT_2_PI 0.79788456080286535588        /* sqrt(2 / pi) */
    #define INV_SQRT_2PI 0.39894228040143267794     /* 1 / sqrt(2 pi) */
    """
    const real SQRT_2_PI, INV_SQRT_2PI


ctypedef struct Map:
    Image x                     # IN
    Image y                     # OUT
    Py_ssize_t channels, height, width

ctypedef struct FromOutput:     # of a gradient that needs what came out
    Image dy                    # IN
    Image y                     # IN
    Image dx                    # OUT
    Py_ssize_t channels, height, width

ctypedef struct FromInput:      # of one that needs what went in
    Image dy                    # IN
    Image x                     # IN
    Image dx                    # OUT
    Py_ssize_t channels, height, width


cdef void relu(const Map* a, const Place* place) noexcept nogil:
    """y = max(x, 0)"""
    cdef Py_ssize_t C = a.channels, H = a.height, W = a.width, c, h, i
    cdef const real* x
    cdef real* y
    for c in range(C):
        for h in range(begin(H, place), end(H, place)):
            x = pixels(&a.x, c, h)
            y = pixels(&a.y, c, h)
            for i in range(W * ROWV):
                vec_store(y + i * VL, vec_relu(vec_load(x + i * VL)))


cdef void relu_backward(const FromOutput* a, const Place* place) noexcept nogil:
    """dx = dy where y > 0 (or NaN), else 0"""
    cdef Py_ssize_t C = a.channels, H = a.height, W = a.width, c, h, i
    cdef const real* dy
    cdef const real* y
    cdef real* dx
    for c in range(C):
        for h in range(begin(H, place), end(H, place)):
            dy = pixels(&a.dy, c, h)
            y = pixels(&a.y, c, h)
            dx = pixels(&a.dx, c, h)
            for i in range(W * ROWV):
                vec_store(dx + i * VL, vec_clear(vec_le(vec_load(y + i * VL), vec_splat(0)), vec_load(dy + i * VL)))


ctypedef struct Add:
    Image a                     # IN
    Image b                     # IN
    Image y                     # OUT
    Py_ssize_t channels, height, width
    Py_ssize_t relu             # whether a ReLU follows

cdef void add(const Add* a, const Place* place) noexcept nogil:
    """y = a + b, or max(a + b, 0)"""
    cdef Py_ssize_t C = a.channels, H = a.height, W = a.width, c, h, i
    cdef bint relu = a.relu
    cdef const real* left
    cdef const real* right
    cdef real* y
    for c in range(C):
        for h in range(begin(H, place), end(H, place)):
            left = pixels(&a.a, c, h)
            right = pixels(&a.b, c, h)
            y = pixels(&a.y, c, h)
            if relu:
                for i in range(W * ROWV):
                    vec_store(y + i * VL, vec_relu(vec_load(left + i * VL) + vec_load(right + i * VL)))
            else:
                for i in range(W * ROWV):
                    vec_store(y + i * VL, vec_load(left + i * VL) + vec_load(right + i * VL))


ctypedef struct LeakyRelu:
    Image x                     # IN
    Image y                     # OUT
    Py_ssize_t channels, height, width
    double slope

cdef void leaky_relu(const LeakyRelu* a, const Place* place) noexcept nogil:
    """y = x where x > 0, else slope * x"""
    cdef Py_ssize_t C = a.channels, H = a.height, W = a.width, c, h, i
    cdef real slope = <real>a.slope
    cdef const real* x
    cdef real* y
    cdef vec v
    for c in range(C):
        for h in range(begin(H, place), end(H, place)):
            x = pixels(&a.x, c, h)
            y = pixels(&a.y, c, h)
            for i in range(W * ROWV):
                v = vec_load(x + i * VL)
                vec_store(y + i * VL, vec_select(vec_gt(v, vec_splat(0)), v, slope * v))


ctypedef struct LeakyReluBackward:
    Image dy                    # IN
    Image x                     # IN
    Image dx                    # OUT
    Py_ssize_t channels, height, width
    double slope

cdef void leaky_relu_backward(const LeakyReluBackward* a, const Place* place) noexcept nogil:
    """dx = dy where x > 0, else slope * dy"""
    cdef Py_ssize_t C = a.channels, H = a.height, W = a.width, c, h, i
    cdef real slope = <real>a.slope
    cdef const real* dy
    cdef const real* x
    cdef real* dx
    cdef vec v
    for c in range(C):
        for h in range(begin(H, place), end(H, place)):
            dy = pixels(&a.dy, c, h)
            x = pixels(&a.x, c, h)
            dx = pixels(&a.dx, c, h)
            for i in range(W * ROWV):
                v = vec_load(dy + i * VL)
                vec_store(dx + i * VL, vec_select(vec_gt(vec_load(x + i * VL), vec_splat(0)), v, slope * v))


cdef void tanh(const Map* a, const Place* place) noexcept nogil:
    """y = tanh(x)"""
    cdef Py_ssize_t C = a.channels, H = a.height, W = a.width, c, h, i
    cdef const real* x
    cdef real* y
    for c in range(C):
        for h in range(begin(H, place), end(H, place)):
            x = pixels(&a.x, c, h)
            y = pixels(&a.y, c, h)
            for i in range(W * ROWV):
                vec_store(y + i * VL, vec_tanh(vec_load(x + i * VL)))


cdef void tanh_backward(const FromOutput* a, const Place* place) noexcept nogil:
    """dx = dy * (1 - y^2)"""
    cdef Py_ssize_t C = a.channels, H = a.height, W = a.width, c, h, i
    cdef const real* dy
    cdef const real* y
    cdef real* dx
    cdef vec v
    for c in range(C):
        for h in range(begin(H, place), end(H, place)):
            dy = pixels(&a.dy, c, h)
            y = pixels(&a.y, c, h)
            dx = pixels(&a.dx, c, h)
            for i in range(W * ROWV):
                v = vec_load(y + i * VL)
                vec_store(dx + i * VL, vec_load(dy + i * VL) * (vec_splat(1) - v * v))


cdef void sigmoid(const Map* a, const Place* place) noexcept nogil:
    """y = 1 / (1 + exp(-x))"""
    cdef Py_ssize_t C = a.channels, H = a.height, W = a.width, c, h, i
    cdef const real* x
    cdef real* y
    for c in range(C):
        for h in range(begin(H, place), end(H, place)):
            x = pixels(&a.x, c, h)
            y = pixels(&a.y, c, h)
            for i in range(W * ROWV):
                vec_store(y + i * VL, vec_sigmoid(vec_load(x + i * VL)))


cdef void sigmoid_backward(const FromOutput* a, const Place* place) noexcept nogil:
    """dx = dy * y * (1 - y)"""
    cdef Py_ssize_t C = a.channels, H = a.height, W = a.width, c, h, i
    cdef const real* dy
    cdef const real* y
    cdef real* dx
    cdef vec v
    for c in range(C):
        for h in range(begin(H, place), end(H, place)):
            dy = pixels(&a.dy, c, h)
            y = pixels(&a.y, c, h)
            dx = pixels(&a.dx, c, h)
            for i in range(W * ROWV):
                v = vec_load(y + i * VL)
                vec_store(dx + i * VL, vec_load(dy + i * VL) * v * (vec_splat(1) - v))


cdef void silu(const Map* a, const Place* place) noexcept nogil:
    """y = x s with s = sigmoid(x)"""
    cdef Py_ssize_t C = a.channels, H = a.height, W = a.width, c, h, i
    cdef const real* x
    cdef real* y
    cdef vec v
    for c in range(C):
        for h in range(begin(H, place), end(H, place)):
            x = pixels(&a.x, c, h)
            y = pixels(&a.y, c, h)
            for i in range(W * ROWV):
                v = vec_load(x + i * VL)
                vec_store(y + i * VL, v * vec_sigmoid(v))


cdef void silu_backward(const FromInput* a, const Place* place) noexcept nogil:
    """dx = dy s (1 + x (1 - s))"""
    cdef Py_ssize_t C = a.channels, H = a.height, W = a.width, c, h, i
    cdef const real* dy
    cdef const real* x
    cdef real* dx
    cdef vec v, s
    for c in range(C):
        for h in range(begin(H, place), end(H, place)):
            dy = pixels(&a.dy, c, h)
            x = pixels(&a.x, c, h)
            dx = pixels(&a.dx, c, h)
            for i in range(W * ROWV):
                v = vec_load(x + i * VL)
                s = vec_sigmoid(v)
                vec_store(dx + i * VL, vec_load(dy + i * VL) * s * (vec_splat(1) + v * (vec_splat(1) - s)))


cdef void gelu(const Map* a, const Place* place) noexcept nogil:
    """y = x P(x), where P is the normal distribution function (Hendrycks and Gimpel 2016)"""
    cdef Py_ssize_t C = a.channels, H = a.height, W = a.width, c, h, i
    cdef const real* x
    cdef real* y
    cdef vec v, bell
    for c in range(C):
        for h in range(begin(H, place), end(H, place)):
            x = pixels(&a.x, c, h)
            y = pixels(&a.y, c, h)
            for i in range(W * ROWV):
                v = vec_load(x + i * VL)
                vec_store(y + i * VL, v * vec_normal(v, &bell))


cdef void gelu_backward(const FromInput* a, const Place* place) noexcept nogil:
    """dx = dy (P(x) + x exp(-x^2 / 2) / sqrt(2 pi))"""
    cdef Py_ssize_t C = a.channels, H = a.height, W = a.width, c, h, i
    cdef const real* dy
    cdef const real* x
    cdef real* dx
    cdef vec v, bell, s
    for c in range(C):
        for h in range(begin(H, place), end(H, place)):
            dy = pixels(&a.dy, c, h)
            x = pixels(&a.x, c, h)
            dx = pixels(&a.dx, c, h)
            for i in range(W * ROWV):
                v = vec_load(x + i * VL)
                s = vec_normal(v, &bell)
                vec_store(dx + i * VL, vec_load(dy + i * VL) * (s + v * bell * vec_splat(INV_SQRT_2PI)))


cdef void gelu_tanh(const Map* a, const Place* place) noexcept nogil:
    """y = x (1 + t) / 2 with t = tanh(sqrt(2 / pi) (x + 0.044715 x^3))"""
    cdef Py_ssize_t C = a.channels, H = a.height, W = a.width, c, h, i
    cdef const real* x
    cdef real* y
    cdef vec v, t
    for c in range(C):
        for h in range(begin(H, place), end(H, place)):
            x = pixels(&a.x, c, h)
            y = pixels(&a.y, c, h)
            for i in range(W * ROWV):
                v = vec_load(x + i * VL)
                t = vec_tanh(vec_splat(SQRT_2_PI) * (v + vec_splat(0.044715) * v * v * v))
                vec_store(y + i * VL, vec_splat(0.5) * v * (vec_splat(1) + t))


cdef void gelu_tanh_backward(const FromInput* a, const Place* place) noexcept nogil:
    """dx = dy ((1 + t) / 2 + x (1 - t^2) sqrt(2 / pi) (1 + 3 * 0.044715 x^2) / 2)"""
    cdef Py_ssize_t C = a.channels, H = a.height, W = a.width, c, h, i
    cdef const real* dy
    cdef const real* x
    cdef real* dx
    cdef vec v, t, slope
    for c in range(C):
        for h in range(begin(H, place), end(H, place)):
            dy = pixels(&a.dy, c, h)
            x = pixels(&a.x, c, h)
            dx = pixels(&a.dx, c, h)
            for i in range(W * ROWV):
                v = vec_load(x + i * VL)
                t = vec_tanh(vec_splat(SQRT_2_PI) * (v + vec_splat(0.044715) * v * v * v))
                slope = vec_splat(SQRT_2_PI) * (vec_splat(1) + vec_splat(0.134145) * v * v)
                slope = vec_splat(1) + t + v * (vec_splat(1) - t * t) * slope
                vec_store(dx + i * VL, vec_splat(0.5) * vec_load(dy + i * VL) * slope)


# ---------------------------------------------------------------- dropout

cdef inline void draw(const uint32_t* image, uint32_t element, uint64_t threshold, real* keep) noexcept nogil:
    """keep = 1 for the images that keep this element, else 0, all (16,)"""
    cdef int lane
    for lane in range(LANES):
        keep[lane] = element_hash(image[lane], element) >= threshold


cdef inline void drop(const real* x, const real* keep, real scale, real* y) noexcept nogil:
    cdef int q
    for q in range(ROWV):
        vec_store(y + q * VL, vec_clear(vec_le(vec_load(keep + q * VL), vec_splat(0)),
                                        vec_load(x + q * VL) * scale))


ctypedef struct Dropout:
    Image x                     # IN
    Image y                     # OUT
    const uint64_t* key         # IN  (2,) seed, step
    Py_ssize_t channels, height, width
    Py_ssize_t whole            # whether the elements are channels instead of pixels
    double p                    # the share of elements that becomes 0

cdef void dropout(const Dropout* a, const Place* place) noexcept nogil:
    """y = x / (1 - p) where the element's hash reaches p * 2^32, else 0. Backward is the same map. The elements
    are the pixels, or with `whole` the channels.

    The hash depends on the seed, the step, the image's place in the batch and the element alone, so
    that any number of threads draws the same mask, and backward draws it again instead of storing it.
    """
    cdef Py_ssize_t C = a.channels, H = a.height, W = a.width, c, h, i
    cdef int lane
    cdef bint whole = a.whole
    cdef uint64_t threshold = <uint64_t>(a.p * 4294967296.0)
    cdef real scale = <real>(1 / (1 - a.p)) if a.p < 1 else 0
    cdef uint32_t image[16]
    cdef uint32_t element = 0
    cdef real keep[16]
    cdef const real* x
    cdef real* y
    for lane in range(LANES):
        image[lane] = image_hash(a.key, place.at[PER_BLOCK] * LANES + lane)
    for c in range(C):
        if whole:
            draw(image, <uint32_t>c, threshold, keep)
        for h in range(H):
            x = pixels(&a.x, c, h)
            y = pixels(&a.y, c, h)
            if whole:
                for i in range(W):
                    drop(x + i * LANES, keep, scale, y + i * LANES)
            else:
                for i in range(W):
                    draw(image, element, threshold, keep)
                    drop(x + i * LANES, keep, scale, y + i * LANES)
                    element += 1


SPLITS = ("relu", "relu_backward", "add", "leaky_relu", "leaky_relu_backward", "tanh", "tanh_backward", "sigmoid",
          "sigmoid_backward", "silu", "silu_backward", "gelu", "gelu_backward", "gelu_tanh", "gelu_tanh_backward")
include "kernels/pointwise.pxi"     # KERNELS
