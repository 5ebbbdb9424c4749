"""Convolution of single pixels, 1 x 1 with stride 1: a matrix product of weights and pixels.

    y[k, p] = b[k] + sum_c w[k, c] x[c, p]

The input gradient is the same with w transposed; the weight gradient is `pointwise_dw` in winograd.pyx. A few pixels
of x, brought together from all channels, stay in the first cache for all outputs, while the packed weights stream by:
`correlate` has it the other way round, since its inputs are many taps of many pixels. Where x comes from a batch norm,
it is normalised on the way.

The plain-NumPy twins are `conv2d` and `conv2d_backward` in cnn/reference.py.
"""
from cnn._ext.normed cimport Normed, normed_input, read_normed
from cnn._ext.op cimport Op, Place, array, begin, end
from cnn._ext.vec cimport LANES, ROWV, TILE_VECS, VL, real, vec, vec_load, vec_relu, vec_splat, vec_store

cdef extern from *:
    """
    /* A register tile is up to TILE_K outputs by TILE_J pixels. */
    #define TILE_K (TILE_VECS / ROWV < 6 ? TILE_VECS / ROWV : 6)
    #define TILE_J (TILE_VECS / (TILE_K * ROWV))
    """
    enum:
        TILE_K
        TILE_J

cdef enum:
    PIXELS = 64         # that are brought together at a time, at most: each plane's are a page
    NUMBERS = 8192      # of pixels times channels that stay in the second cache

ctypedef struct Sum:
    const real* x           # IN  (channels, pixels, 16)
    Py_ssize_t x_plane
    const real* w           # IN  (channels, KT)
    Py_ssize_t channels
    const real* b           # IN  (KT,)
    real* y                 # OUT (KT, pixels, 16)
    Py_ssize_t y_plane
    bint relu

ctypedef void (*SumKernel)(const Sum* s, Py_ssize_t pixels) noexcept nogil


cdef inline void tile(const Sum* s, bint relu, int KT, int JT) noexcept nogil:
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


cdef inline void sum_of(const Sum* s, Py_ssize_t pixels, int KT) noexcept nogil:
    if pixels == TILE_J:
        if s.relu:
            tile(s, 1, KT, TILE_J)
        else:
            tile(s, 0, KT, TILE_J)
    else:
        tile(s, s.relu, KT, 1)


# One function for each number of outputs, so that the compiler gives each its registers.
cdef void sum_1(const Sum* s, Py_ssize_t pixels) noexcept nogil:
    sum_of(s, pixels, 1)

cdef void sum_2(const Sum* s, Py_ssize_t pixels) noexcept nogil:
    if TILE_K >= 2:
        sum_of(s, pixels, 2)

cdef void sum_3(const Sum* s, Py_ssize_t pixels) noexcept nogil:
    if TILE_K >= 3:
        sum_of(s, pixels, 3)

cdef void sum_4(const Sum* s, Py_ssize_t pixels) noexcept nogil:
    if TILE_K >= 4:
        sum_of(s, pixels, 4)

cdef void sum_5(const Sum* s, Py_ssize_t pixels) noexcept nogil:
    if TILE_K >= 5:
        sum_of(s, pixels, 5)

cdef void sum_6(const Sum* s, Py_ssize_t pixels) noexcept nogil:
    if TILE_K >= 6:
        sum_of(s, pixels, 6)


cdef SumKernel SUM[7]       # by the number of outputs
SUM[:] = [NULL, sum_1, sum_2, sum_3, sum_4, sum_5, sum_6]


cdef inline Py_ssize_t pixels_at_a_time(Py_ssize_t channels) noexcept nogil:
    return max(TILE_J, min(PIXELS, NUMBERS // channels // TILE_J * TILE_J))


cdef void conv1x1(const Op* op, const Place* place) noexcept nogil:
    """y[k, p] = b[k] + sum_c w[k, c] x[c, p], perhaps a ReLU of it."""
    cdef Sum s
    cdef const real* x = <const real*>array(op, 0, place)        # IN  (C, H, W, 16)
    cdef const real* w = <const real*>array(op, 1, place)        # IN  (tiles, C, kt): K outputs
    cdef const real* b = <const real*>array(op, 2, place)        # IN  (K,)
    cdef real* y = <real*>array(op, 3, place)                    # OUT (K, H, W, 16)
    cdef real* rows = <real*>array(op, 4, place)                 # (scratch(C),)
    # arrays 5 to 8                                              # IN  how x is normalised, see Normed
    cdef Py_ssize_t C = op.n[0], K = op.n[1], H = op.n[2], W = op.n[3], tiles = op.n[4]
    cdef Py_ssize_t first = begin(H, place), last = end(H, place), x_row = op.args[0].row, y_row = op.args[3].row
    cdef Py_ssize_t h, i, j, k, kt, c, p, n, count, most = pixels_at_a_time(C)
    cdef Normed normed = normed_input(op, 5, place, C, rows + C * most * LANES, op.n[6])
    s.x_plane, s.y_plane, s.relu = most * LANES, op.args[3].plane, op.n[5]
    s.channels = C
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
                read_normed(&normed, c, x + h * x_row + c * op.args[0].plane + p * LANES, count,
                            rows + c * most * LANES)
            k = 0
            for i in range(tiles):
                kt = K // tiles + (i < K % tiles)
                s.w = w + k * C
                s.b = b + k
                j = 0
                while j < count:
                    n = TILE_J if count - j >= TILE_J else 1
                    s.x = rows + j * LANES
                    s.y = y + h * y_row + k * s.y_plane + (p + j) * LANES
                    SUM[kt](&s, n)
                    j += n
                k += kt
            p += count


def scratch(Py_ssize_t channels):
    """How many numbers of scratch `conv1x1` needs."""
    return channels * (pixels_at_a_time(channels) * LANES + 1)


def split(Py_ssize_t outputs):
    """Into how many tiles, as equal as can be, `conv1x1` cuts `outputs` outputs: packed weights hold each tile's
    (channels, kt) after the other, the larger tiles first."""
    return (outputs + TILE_K - 1) // TILE_K


SPLITS = ("conv1x1",)
KERNELS = {
    "conv1x1": (<size_t>&conv1x1, ("x", "w", "b", "y", "rows", "mean", "var", "gamma", "beta"),
                ("channels", "outputs", "height", "width", "tiles", "relu", "input_relu"), ("eps",)),
}
