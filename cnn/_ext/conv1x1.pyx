"""Convolution of single pixels, 1 x 1 with stride 1: a matrix product of weights and pixels.

    y[k, p] = b[k] + sum_c w[k, c] x[c, p]

The input gradient is the same with w transposed; the weight gradient is `pointwise_dw` in winograd.pyx. A few pixels
of x, brought together from all channels, stay in the first cache for all outputs, while the packed weights stream by:
`correlate` has it the other way round, since its inputs are many taps of many pixels. Where x comes from a batch norm,
it is normalised on the way.

The plain-NumPy twins are `conv2d` and `conv2d_backward` in cnn/reference.
"""
from cnn._ext.instances cimport Tile
from cnn._ext.normed cimport Norm, find_scale, read_normalised
from cnn._ext.op cimport Image, Place, begin, end
from cnn._ext.vec cimport LANES, ROWV, TILE_VECS, VL, real, vec, vec_load, vec_relu, vec_splat, vec_store

cdef extern from *:
    """
    /* A register tile is up to MATRIX_K outputs by MATRIX_J pixels. */
    #define MATRIX_K (TILE_VECS / ROWV < 6 ? TILE_VECS / ROWV : 6)
    #define MATRIX_J (TILE_VECS / (MATRIX_K * ROWV))
    """
    enum:
        MATRIX_K
        MATRIX_J

cdef enum:
    GATHERED = 64               # pixels that are brought together at a time, at most: each plane's are a page
    GATHERED_NUMBERS = 8192     # of pixels times channels that stay in the second cache

ctypedef struct PixelSum:
    const real* x           # IN  (channels, pixels, 16)
    Py_ssize_t x_plane
    Py_ssize_t pixels       # MATRIX_J or 1
    const real* w           # IN  (channels, KT)
    Py_ssize_t channels
    const real* b           # IN  (KT,)
    real* y                 # OUT (KT, pixels, 16)
    Py_ssize_t y_plane
    bint relu


cdef inline void tile(const PixelSum* s, bint relu, int KT, int JT) noexcept nogil:
    """y[k, p] = b[k] + sum_c w[c, k] x[c, p] for KT outputs and JT pixels.

    No branch touches `acc`, which would cost a trip through memory.
    """
    cdef vec acc[6 * 4 * 8]
    cdef vec xv[4 * 8]
    cdef const real* x = s.x
    cdef const real* w = s.w
    cdef const real* b = s.b
    cdef real* y = s.y
    cdef Py_ssize_t c, channels = s.channels, x_plane = s.x_plane, y_plane = s.y_plane
    cdef int q
    for q in range(KT * JT * ROWV):
        acc[q] = vec_splat(b[q // (JT * ROWV)])
    for c in range(channels):
        for q in range(JT * ROWV):
            xv[q] = vec_load(x + q * VL)
        for q in range(KT * JT * ROWV):
            acc[q] = acc[q] + w[q // (JT * ROWV)] * xv[q % (JT * ROWV)]
        x += x_plane
        w += KT
    for q in range(KT * JT * ROWV):
        if relu:
            acc[q] = vec_relu(acc[q])
        vec_store(y + q // (JT * ROWV) * y_plane + q % (JT * ROWV) * VL, acc[q])


cdef inline void sum_of "sum_of"(void* sum, int KT) noexcept nogil:
    cdef const PixelSum* s = <const PixelSum*>sum
    if s.pixels == MATRIX_J:
        if s.relu:
            tile(s, 1, KT, MATRIX_J)
        else:
            tile(s, 0, KT, MATRIX_J)
    else:
        tile(s, s.relu, KT, 1)


cdef extern from *:
    """
    TILES(sum_of, MATRIX_K)
    """
    const Tile* sum_of_tiles    # by the number of outputs


cdef inline Py_ssize_t pixels_at_a_time(Py_ssize_t channels) noexcept nogil:
    return max(MATRIX_J, min(GATHERED, GATHERED_NUMBERS // channels // MATRIX_J * MATRIX_J))


ctypedef struct Conv1x1:
    Image x                     # IN  (C, H, W, 16)
    const real* w               # IN  (tiles, C, kt): K outputs
    const real* b               # IN  (K,)
    Image y                     # OUT (K, H, W, 16)
    real* rows                  # (scratch(C),)
    Norm norm                   # of x
    Py_ssize_t channels, outputs, height, width
    Py_ssize_t tiles            # see `split`
    Py_ssize_t relu             # whether a ReLU follows

cdef void conv1x1(const Conv1x1* a, const Place* place) noexcept nogil:
    """y[k, p] = b[k] + sum_c w[k, c] x[c, p], perhaps a ReLU of it."""
    cdef PixelSum s
    cdef const real* x = a.x.data
    cdef const real* w = a.w
    cdef const real* b = a.b
    cdef real* y = a.y.data
    cdef real* rows = a.rows
    cdef Py_ssize_t C = a.channels, K = a.outputs, H = a.height, W = a.width, tiles = a.tiles
    cdef Py_ssize_t first = begin(H, place), last = end(H, place), x_row = a.x.row, y_row = a.y.row
    cdef Py_ssize_t h, i, j, k, kt, c, p, count, most = pixels_at_a_time(C)
    cdef real* scale = rows + C * most * LANES
    s.x_plane, s.y_plane, s.relu = most * LANES, a.y.plane, a.relu
    s.channels = C
    find_scale(&a.norm, C, scale)
    if x_row == y_row == W * LANES and first < last:    # without borders they are one long row
        x += first * x_row
        y += first * y_row
        W *= last - first
        first, last = 0, 1
    for h in range(first, last):
        p = 0
        while p < W:
            count = min(most, W - p)
            for c in range(C):
                read_normalised(&a.norm, scale, c, x + h * x_row + c * a.x.plane + p * LANES, count,
                                rows + c * most * LANES)
            k = 0
            for i in range(tiles):
                kt = K // tiles + (i < K % tiles)
                s.w = w + k * C
                s.b = b + k
                j = 0
                while j < count:
                    s.pixels = MATRIX_J if count - j >= MATRIX_J else 1
                    s.x = rows + j * LANES
                    s.y = y + h * y_row + k * s.y_plane + (p + j) * LANES
                    sum_of_tiles[kt](&s)
                    j += s.pixels
                k += kt
            p += count


def scratch(Py_ssize_t channels):
    """How many numbers of scratch `conv1x1` needs."""
    return channels * (pixels_at_a_time(channels) * LANES + 1)


def split(Py_ssize_t outputs):
    """Into how many tiles, as equal as can be, `conv1x1` cuts `outputs` outputs: packed weights hold each tile's
    (channels, kt) after the other, the larger tiles first."""
    return (outputs + MATRIX_K - 1) // MATRIX_K


SPLITS = ("conv1x1",)
include "kernels/conv1x1.pxi"   # KERNELS
