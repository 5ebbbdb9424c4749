"""Gradients of a convolution's weights and biases, by direct convolution.

    dw[k, (c, r, s)] = sum over pixels and images of dy[k, i, j] x[c, i*stride + r, j*stride + s]
    db[k] = sum over pixels and images of dy[k, i, j]

Where the pixels and taps lie are tables of offsets, as for `correlate`; see cnn/ops/conv/windows.py. The first block of
a shard assigns, the others add: nothing has to be zeroed.

The plain-NumPy twin is `conv2d_backward` in cnn/reference.
"""
from cnn._ext.instances cimport Tile
from cnn._ext.op cimport Image, Place, begin, end, pixels
from cnn._ext.vec cimport LANES, ROWV, VL, real, vec, vec_load, vec_splat, vec_sum, vec_sum4

cdef extern from *:
    """
    /* A register tile is up to TILE_OUTPUTS outputs by TILE_TAPS taps; x of the taps takes TILE_TAPS registers,
       dy one. */
    #define TILE_OUTPUTS 4
    #define TILE_TAPS (TILE_VECS == 24 ? 5 : 3)
    """
    enum:
        TILE_OUTPUTS
        TILE_TAPS

ctypedef struct Products:
    const real* x           # IN  input of this block
    const real* dy          # IN  KT planes
    Py_ssize_t plane
    const int* x_at         # IN  (pixels,) where each output pixel reads its first input
    const int* dy_at        # IN  (pixels,) and where it lies in its plane
    Py_ssize_t pixels
    const int* tap          # IN  (TT,) offset of each tap in x
    const int* to           # IN  (TT,) and in a row of dw
    real* dw                # OUT KT rows, w_step apart
    Py_ssize_t w_step
    bint first              # assign to dw instead of adding


cdef inline void products "products"(void* address, int KT, int TT) noexcept nogil:
    """dw[k, t] (+)= sum over pixels and images of dy[k, p] x[p + tap[t]], KT outputs by TT taps."""
    cdef const Products* s = <const Products*>address
    cdef vec acc[16 * 8]
    cdef vec xv[8]
    cdef vec d = vec_splat(0)
    cdef const real* xs[8]
    cdef const real* ds[8]
    cdef real sums[32]
    cdef real* o
    cdef const int* x_at = s.x_at
    cdef const int* dy_at = s.dy_at
    cdef Py_ssize_t p, xp, dp
    cdef int q, h
    for q in range(TT):
        xs[q] = s.x + s.tap[q]
    for q in range(KT):
        ds[q] = s.dy + q * s.plane
    for q in range((KT * TT + 3) // 4 * 4):
        acc[q] = vec_splat(0)
    for p in range(s.pixels):
        xp = x_at[p]
        dp = dy_at[p]
        for h in range(ROWV):
            for q in range(TT):
                xv[q] = vec_load(xs[q] + xp + h * VL)
            for q in range(KT * TT):
                if q % TT == 0:     # one at a time: registers are scarce
                    d = vec_load(ds[q // TT] + dp + h * VL)
                acc[q] = acc[q] + d * xv[q % TT]
    for q in range((KT * TT + 3) // 4):
        vec_sum4(acc[4 * q], acc[4 * q + 1], acc[4 * q + 2], acc[4 * q + 3], sums + 4 * q)
    for q in range(KT * TT):
        o = s.dw + q // TT * s.w_step + s.to[q % TT]
        o[0] = sums[q] if s.first else o[0] + sums[q]


cdef extern from *:
    """
    TILES2(products, TILE_OUTPUTS, TILE_TAPS)
    """
    Tile products_tiles[5][6]   # by the numbers of outputs and taps


ctypedef struct Span:
    int first                   # number of the first pixel
    int stop                    # and of the last, plus one

ctypedef struct ConvDw:
    Image x                     # IN  (groups * C, H, W, 16)
    Image dy                    # IN  (groups * K, OH, OW, 16)
    real* dw                    # OUT (groups * K, taps) of a shard
    const int* tap              # IN  (taps,) offsets in x, ordered by kernel row
    const int* to               # IN  (taps,) their places in dw
    const Span* span            # IN  (spans,) the pixels whose windows have those taps
    const int* x_at             # IN  (pixels,) offsets in x
    const int* dy_at            # IN  (pixels,) offsets in a plane of dy
    Py_ssize_t outputs          # K
    Py_ssize_t taps, groups
    Py_ssize_t x_group          # elements from one group of x to the next
    Py_ssize_t spans            # into which the taps are cut equally
    Py_ssize_t pixels
    Py_ssize_t band             # pixels at a time, whose x and dy stay in the caches

cdef void conv_dw(const ConvDw* a, const Place* place) noexcept nogil:
    """dw[k, (c, r, s)] += sum_{i, j} dy[k, i, j] x[c, i*stride + r, j*stride + s] of one block.

    The first block of a shard assigns, the others add: nothing has to be zeroed.
    """
    cdef Products s
    cdef const real* x = a.x.data
    cdef const int* tap = a.tap
    cdef const int* to = a.to
    cdef const Span* span = a.span
    cdef const int* x_at = a.x_at
    cdef const int* dy_at = a.dy_at
    cdef Py_ssize_t K = a.outputs, taps = a.taps, groups = a.groups, x_group = a.x_group
    cdef Py_ssize_t spans = a.spans, each = taps // spans
    cdef Py_ssize_t k_tiles = (K + TILE_OUTPUTS - 1) // TILE_OUTPUTS, t_tiles = (each + TILE_TAPS - 1) // TILE_TAPS
    cdef Py_ssize_t g, i, j, k, r, kt, tt, t, p, first, pixels = a.pixels, band = a.band
    cdef const real* dy = a.dy.data
    cdef real* dw = a.dw
    s.plane = a.dy.plane
    s.w_step = taps
    for g in range(groups):
        s.x = x + g * x_group
        p = 0
        while p < pixels or p == 0:     # a band of pixels, small enough that its x and dy stay in the caches
            k = g * K
            for i in range(k_tiles):
                kt = K // k_tiles + (i < K % k_tiles)
                s.dy = dy + k * s.plane
                s.dw = dw + k * taps
                t = 0
                for r in range(spans if begin(groups * k_tiles, place) <= g * k_tiles + i
                               < end(groups * k_tiles, place) else 0):
                    first = max(p, span[r].first)
                    s.x_at = x_at + first
                    s.dy_at = dy_at + first
                    s.pixels = max(0, min(p + band, span[r].stop) - first)
                    s.first = place.first and p == 0
                    for j in range(t_tiles):
                        tt = each // t_tiles + (j < each % t_tiles)
                        s.tap = tap + t
                        s.to = to + t
                        products_tiles[kt][tt](&s)
                        t += tt
                k += kt
            p += band


ctypedef struct BiasGrad:
    Image dy                    # IN  (K, OH, OW, 16)
    real* db                    # OUT (K,) of a shard
    Py_ssize_t outputs          # K
    Py_ssize_t out_h, out_w

cdef void bias_grad(const BiasGrad* a, const Place* place) noexcept nogil:
    """db[k] += sum over pixels and images of dy[k] of one block."""
    cdef real* db = a.db
    cdef Py_ssize_t K = a.outputs, out_h = a.out_h, out_w = a.out_w
    cdef const real* p
    cdef Py_ssize_t k, i, j, most = out_w // 4 * 4
    cdef int q
    cdef vec acc[4 * 8]     # four pixels at a time, because one sum would wait for itself
    for k in range(begin(K, place), end(K, place)):
        for q in range(4 * ROWV):
            acc[q] = vec_splat(0)
        for i in range(out_h):
            p = pixels(&a.dy, k, i)
            for j in range(most // 4):
                for q in range(4 * ROWV):
                    acc[q] = acc[q] + vec_load(p + q * VL)
                p += 4 * LANES
            for j in range(most, out_w):
                for q in range(ROWV):
                    acc[q] = acc[q] + vec_load(p + q * VL)
                p += LANES
        for q in range(1, 4 * ROWV):
            acc[0] = acc[0] + acc[q]
        db[k] = vec_sum(acc[0]) if place.first else db[k] + vec_sum(acc[0])


SPLITS = ("conv_dw", "bias_grad")
include "kernels/conv_dw.pxi"   # KERNELS
