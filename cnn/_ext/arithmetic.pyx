"""Arithmetic of one block: values with each other and with numbers, repeated and summed. Twins in cnn/reference.

    binary:      y = a + b, a - b, a * b, a / b; or a itself, repeated
    affine:      y = factor x + summand
    reciprocal:  y = number / x
    reduce_sum:  y[c', h', w'] = sum of x[c, h, w] over the axes of which y has one

In lanes without an image y is 0, whatever is divided there.
"""
from cnn._ext.op cimport Image, Place, begin, end, pixels
from cnn._ext.vec cimport LANES, ROWV, VL, ivec, real, vec, vec_div, vec_gt, vec_keep, vec_load, vec_splat, vec_store

cdef enum:
    ADD, SUBTRACT, MULTIPLY, DIVIDE, REPEAT     # as KINDS in cnn/ops/arithmetic.py


cdef inline void _holds(const Place* place, ivec* holds) noexcept nogil:
    """Which lanes hold an image."""
    cdef real lanes[16]
    cdef int i, q
    for i in range(LANES):
        lanes[i] = i < place.images
    for q in range(ROWV):
        holds[q] = vec_gt(vec_load(lanes + q * VL), vec_splat(0))


ctypedef struct Binary:
    Image a                     # IN  (C, H, W, 16), or with one channel, row or column that is repeated
    Image b                     # IN  likewise
    Image y                     # OUT (C, H, W, 16)
    Py_ssize_t kind
    Py_ssize_t a_channel, a_row, a_pixel    # numbers to the next channel and row, pixels to the next; 0: it is repeated
    Py_ssize_t b_channel, b_row, b_pixel
    Py_ssize_t channels, height, width

cdef void binary(const Binary* a, const Place* place) noexcept nogil:
    """y = a + b, a - b, a * b or a / b, or y = a"""
    cdef Py_ssize_t c, h, i
    cdef int q
    cdef const real* u
    cdef const real* v
    cdef real* y
    cdef vec s, t
    cdef ivec holds[8]
    _holds(place, holds)
    for c in range(begin(a.channels, place), end(a.channels, place)):
        for h in range(a.height):
            u = a.a.data + c * a.a_channel + h * a.a_row
            v = a.b.data + c * a.b_channel + h * a.b_row
            y = pixels(&a.y, c, h)
            for i in range(a.width):
                for q in range(ROWV):
                    s = vec_load(u + i * a.a_pixel * LANES + q * VL)
                    t = vec_load(v + i * a.b_pixel * LANES + q * VL)
                    if a.kind == ADD:
                        s = s + t
                    elif a.kind == SUBTRACT:
                        s = s - t
                    elif a.kind == MULTIPLY:
                        s = s * t
                    elif a.kind == DIVIDE:
                        s = vec_div(s, t)
                    vec_store(y + i * LANES + q * VL, vec_keep(holds[q], s))


ctypedef struct Affine:
    Image x                     # IN  (C, H, W, 16); not read where the factor is 0
    Image y                     # OUT (C, H, W, 16)
    Py_ssize_t channels, height, width
    double factor, summand

cdef void affine(const Affine* a, const Place* place) noexcept nogil:
    """y = factor x + summand. May work in place."""
    cdef Py_ssize_t c, h, i
    cdef int q
    cdef const real* x
    cdef real* y
    cdef vec factor = vec_splat(<real>a.factor), summand = vec_splat(<real>a.summand), v
    cdef ivec holds[8]
    _holds(place, holds)
    for c in range(begin(a.channels, place), end(a.channels, place)):
        for h in range(a.height):
            x = pixels(&a.x, c, h)
            y = pixels(&a.y, c, h)
            for i in range(a.width):
                for q in range(ROWV):
                    v = summand if a.factor == 0 else factor * vec_load(x + i * LANES + q * VL) + summand
                    vec_store(y + i * LANES + q * VL, vec_keep(holds[q], v))


ctypedef struct Reciprocal:
    Image x                     # IN  (C, H, W, 16)
    Image y                     # OUT (C, H, W, 16)
    Py_ssize_t channels, height, width
    double number

cdef void reciprocal(const Reciprocal* a, const Place* place) noexcept nogil:
    """y = number / x"""
    cdef Py_ssize_t c, h, i
    cdef int q
    cdef const real* x
    cdef real* y
    cdef vec number = vec_splat(<real>a.number)
    cdef ivec holds[8]
    _holds(place, holds)
    for c in range(begin(a.channels, place), end(a.channels, place)):
        for h in range(a.height):
            x = pixels(&a.x, c, h)
            y = pixels(&a.y, c, h)
            for i in range(a.width):
                for q in range(ROWV):
                    vec_store(y + i * LANES + q * VL,
                              vec_keep(holds[q], vec_div(number, vec_load(x + i * LANES + q * VL))))


ctypedef struct ReduceSum:
    Image x                     # IN  (C, H, W, 16)
    Image y                     # OUT (C', H', W', 16), each C' and so on either C or 1
    Py_ssize_t y_channels, y_height, y_width
    Py_ssize_t channels, height, width

cdef void reduce_sum(const ReduceSum* a, const Place* place) noexcept nogil:
    """y = sums of x"""
    cdef Py_ssize_t c, h, i, first = 0, stop = a.channels
    cdef bint over = a.y_channels < a.channels, rows = a.y_height < a.height, columns = a.y_width < a.width
    cdef int q
    cdef const real* x
    cdef real* y
    cdef vec s
    if over:                    # one thread does it all
        if place.part:
            return
    else:
        first, stop = begin(a.channels, place), end(a.channels, place)
    for c in range(first, stop):
        if c == first or not over:
            for h in range(a.y_height):
                y = pixels(&a.y, 0 if over else c, h)
                for i in range(a.y_width * ROWV):
                    vec_store(y + i * VL, vec_splat(0))
        for h in range(a.height):
            x = pixels(&a.x, c, h)
            y = pixels(&a.y, 0 if over else c, 0 if rows else h)
            for q in range(ROWV):
                if columns:
                    s = vec_load(y + q * VL)
                    for i in range(a.width):
                        s = s + vec_load(x + i * LANES + q * VL)
                    vec_store(y + q * VL, s)
                else:
                    for i in range(a.width):
                        vec_store(y + i * LANES + q * VL,
                                  vec_load(y + i * LANES + q * VL) + vec_load(x + i * LANES + q * VL))


ctypedef struct Spread:
    const real* x               # IN  (C,)
    Image y                     # OUT (C, 1, 1, 16)
    Py_ssize_t channels

cdef void spread(const Spread* a, const Place* place) noexcept nogil:
    """y[c, lane] = x[c] for every image: a parameter as a value. Its gradient is `bias_grad`."""
    cdef Py_ssize_t c
    cdef int q
    cdef ivec holds[8]
    _holds(place, holds)
    for c in range(begin(a.channels, place), end(a.channels, place)):
        for q in range(ROWV):
            vec_store(pixels(&a.y, c, 0) + q * VL, vec_keep(holds[q], vec_splat(a.x[c])))


SPLITS = ("binary", "affine", "reciprocal", "reduce_sum", "spread")
include "kernels/arithmetic.pxi"      # KERNELS
