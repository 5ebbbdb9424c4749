"""Products of matrices, for each image and channel: y = a b, and with one matrix turned the gradients

    y[i, j] = sum_k a[i, k] b[k, j],   da = dy b^T,   db = a^T dy

Sixteen images, or channels, lie side by side: an element is a row of sixteen numbers. The plain-NumPy twin is `matmul`
in cnn/reference.
"""
from cnn._ext.op cimport Image, Place, begin, end, pixels
from cnn._ext.vec cimport LANES, ROWV, VL, real, vec, vec_load, vec_splat, vec_store

cdef extern from *:
    """
    /* a register tile of y; what is left of the rows is taken singly */
    #define DOWN (TILE_VECS / (4 * ROWV) >= 4 ? 4 : TILE_VECS / (4 * ROWV) >= 2 ? 2 : 1)
    #define ACROSS 4
    """
    enum:
        DOWN
        ACROSS

ctypedef struct Matmul:
    Image a                     # IN  (C, I, K, 16), turned (C, K, I, 16)
    Image b                     # IN  (C, K, J, 16), turned (C, J, K, 16)
    Image y                     # OUT (C, I, J, 16)
    Py_ssize_t channels, height, width      # C, I, J
    Py_ssize_t inner            # K
    Py_ssize_t a_turned, b_turned


cdef inline void product(const Matmul* a, Py_ssize_t c, Py_ssize_t i, Py_ssize_t j, int rows,
                         int columns) noexcept nogil:
    """A tile of y from (i, j) on."""
    cdef Py_ssize_t a_row = LANES if a.a_turned else a.a.row, a_next = a.a.row if a.a_turned else LANES
    cdef Py_ssize_t b_column = a.b.row if a.b_turned else LANES, b_next = LANES if a.b_turned else a.b.row, k
    cdef const real* ap = pixels(&a.a, c, 0) + i * a_row
    cdef const real* bp = pixels(&a.b, c, 0) + j * b_column
    cdef real* y = pixels(&a.y, c, i) + j * LANES
    cdef vec acc[4 * 4 * 8]
    cdef vec bv[4 * 8]
    cdef vec v
    cdef int p, q
    for q in range(rows * columns * ROWV):
        acc[q] = vec_splat(0)
    for k in range(a.inner):
        for q in range(columns * ROWV):
            bv[q] = vec_load(bp + q // ROWV * b_column + q % ROWV * VL)
        for p in range(rows * ROWV):
            v = vec_load(ap + p // ROWV * a_row + p % ROWV * VL)
            for q in range(columns):
                acc[p * columns + q] = acc[p * columns + q] + v * bv[q * ROWV + p % ROWV]
        ap += a_next
        bp += b_next
    for p in range(rows * ROWV):
        for q in range(columns):
            vec_store(y + p // ROWV * a.y.row + q * LANES + p % ROWV * VL, acc[p * columns + q])


# One function for each tile, so that the compiler gives it its registers.
cdef void _tile(const Matmul* a, Py_ssize_t c, Py_ssize_t i, Py_ssize_t j) noexcept nogil:
    product(a, c, i, j, DOWN, ACROSS)

cdef void _row(const Matmul* a, Py_ssize_t c, Py_ssize_t i, Py_ssize_t j) noexcept nogil:
    product(a, c, i, j, 1, ACROSS)

cdef void _column(const Matmul* a, Py_ssize_t c, Py_ssize_t i, Py_ssize_t j) noexcept nogil:
    product(a, c, i, j, DOWN, 1)

cdef void _single(const Matmul* a, Py_ssize_t c, Py_ssize_t i, Py_ssize_t j) noexcept nogil:
    product(a, c, i, j, 1, 1)


cdef void matmul(const Matmul* a, const Place* place) noexcept nogil:
    """y = a b. The last tile of a row begins earlier, where it would not be full."""
    cdef Py_ssize_t I = a.height, J = a.width, whole = I // DOWN, tiles = whole + I % DOWN, item, c, i, j
    cdef Py_ssize_t wide = ACROSS if J >= ACROSS else 1
    for item in range(begin(a.channels * tiles, place), end(a.channels * tiles, place)):
        c, i = item // tiles, item % tiles
        j = 0
        while j < J:
            j = min(j, J - wide)
            if i < whole:
                (_tile if wide > 1 else _column)(a, c, i * DOWN, j)
            else:
                (_row if wide > 1 else _single)(a, c, whole * (DOWN - 1) + i, j)
            j += wide


SPLITS = ("matmul",)
include "kernels/matmul.pxi"        # KERNELS
