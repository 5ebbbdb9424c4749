"""Convolution and linear layers: one correlation kernel for all of them.

All work on one block: sixteen images side by side, (C, H, W, 16), see vec.pxd.

Forward, y[k, p] = b[k] + sum_t w[k, t] x[pixel[p] + tap[t]]: where output pixel p reads its first
input, and how far every kernel tap (c, r, s) lies from there, are two tables of offsets, made once in
Python (cnn/ops/conv/windows.py). Stride, dilation, padding and groups are then nothing but numbers in the tables.
Padding costs little: taps are ordered (r, s, c), and every run of pixels names the ranges of taps that it
needs. Where a register tile holds several pixels of a row it visits the taps of the whole row's windows,
and x has a border of zeros left and right; rows of padding are never visited. The same kernel serves

    forward         taps (c, r, s), pixels (i, j)
    input gradient  taps (k, r, s), pixels (u, v), w flipped; one op per residue of (u, v) by the stride
    linear          taps c, a single pixel; its input gradient taps k

The plain-NumPy twins are `conv2d`, `conv2d_backward`, `linear` and `linear_backward` in cnn/reference.
"""
from cnn._ext.instances cimport Tile
from cnn._ext.op cimport Image, Indices, Place, begin, end, pixels
from cnn._ext.sweep cimport TILE_J, TILE_K, Sweep, sweep_tiles, tile
from cnn._ext.vec cimport LANES, ROWV, VL, integer, real, vec, vec_load, vec_relu, vec_splat, vec_store
from cnn._ext.window cimport window_row

cdef extern from *:
    """
    /* A tile of a single pixel has more outputs. */
    #define TILE_K_SINGLE LEAST(16, TILE_VECS / ROWV)
    #define AT_ONCE (ROWV == 1 ? 4 : 2)     /* taps, whose x stay in registers for all outputs */
    """
    enum:
        TILE_K_SINGLE
        AT_ONCE

cdef enum:
    X_BYTES = 1 << 18       # of x that are used for all outputs in turn: what every L2 cache can hold


# ---------------------------------------------------------------- tiles of a single pixel (a linear layer)

cdef inline void single "single"(void* s, int KT) noexcept nogil:
    """y[k] = b[k] + sum_t w[t, k] x[tap[t]] for KT outputs."""
    tile(<const Sweep*>s, 0, KT, 1)


cdef inline void in_rows "in_rows"(void* address, int KT) noexcept nogil:
    """y[k] = b[k] + sum_t w[k, t] x[tap[t]] for KT outputs of a single pixel, whose weights lie in rows `w_step`
    apart: each row's place is worked out once for AT_ONCE taps."""
    cdef const Sweep* s = <const Sweep*>address
    cdef vec acc[16 * 8]
    cdef vec xv[4 * 8]
    cdef const real* row
    cdef Py_ssize_t t = 0
    cdef int q, u, h
    for q in range(KT * ROWV):
        acc[q] = vec_splat(s.b[q // ROWV]) if s.b else vec_splat(0)
    while t + AT_ONCE <= s.taps:
        for q in range(AT_ONCE * ROWV):
            xv[q] = vec_load(s.x + s.tap[t + q // ROWV] + (q % ROWV) * VL)
        for q in range(KT):
            row = s.w + q * s.w_step + t
            for u in range(AT_ONCE):
                for h in range(ROWV):
                    acc[q * ROWV + h] = acc[q * ROWV + h] + row[u] * xv[u * ROWV + h]
        t += AT_ONCE
    while t < s.taps:
        for q in range(KT):
            for h in range(ROWV):
                acc[q * ROWV + h] = acc[q * ROWV + h] + s.w[q * s.w_step + t] * vec_load(s.x + s.tap[t] + h * VL)
        t += 1
    for q in range(KT * ROWV):
        if s.relu:
            acc[q] = vec_relu(acc[q])
        vec_store(s.y + (q // ROWV) * s.plane + (q % ROWV) * VL, acc[q])


cdef extern from *:
    """
    TILES(single, TILE_K_SINGLE)
    TILES(in_rows, TILE_K_SINGLE)
    """
    const Tile* single_tiles    # by the number of outputs
    const Tile* in_rows_tiles


# ---------------------------------------------------------------- kernels

ctypedef struct Run:            # neighbouring pixels that need the same taps
    int first                   # number of the first pixel
    int pixels
    int tap                     # number of the first tap
    int segments                # ranges of taps, see Sweep
    int taps                    # of a range
    int skip                    # between ranges

ctypedef struct Correlate:
    Image x                     # IN  (groups * C, H, W, 16)
    const real* w               # IN  packed, see `split`; for a single pixel as it is, see w_tap
    const real* b               # IN  (groups * K,) or NULL
    Image y                     # OUT (groups * K, OH, OW, 16)
    const int* pixel            # IN  (pixels,) offset of each pixel's first input
    const int* out              # IN  (pixels,) offset of each pixel in its plane of y
    const int* tap              # IN  (taps,) offset of each tap from a pixel's first input
    const Run* run              # IN  (runs,)
    real** ahead                # IN  (ahead_size,) lines that this thread writes later, see Sweep; or NULL
    Py_ssize_t outputs          # K
    Py_ssize_t taps, runs, groups
    Py_ssize_t x_group          # elements from one group of x to the next
    Py_ssize_t tiles            # see `split`
    Py_ssize_t relu             # whether a ReLU follows
    Py_ssize_t single           # whether there is one pixel only
    Py_ssize_t w_tap            # elements from one tap's weights to the next, for a single pixel
    Py_ssize_t w_output         # and from one output's; one of the two is 1
    Py_ssize_t ahead_size

cdef void correlate(const Correlate* a, const Place* place) noexcept nogil:
    """y[k, p] = b[k] + sum_t w[k, t] x[pixel[p] + tap[t]], group by group, one block."""
    cdef Sweep s
    cdef const int* pixel = a.pixel
    cdef const int* out = a.out
    cdef const int* tap = a.tap
    cdef const Run* run = a.run
    cdef Py_ssize_t K = a.outputs, taps = a.taps, runs = a.runs, groups = a.groups
    cdef Py_ssize_t x_group = a.x_group, tiles = a.tiles
    # pixels of which x stays in the L2 cache
    cdef Py_ssize_t band = max(16, X_BYTES // (max(1, taps) * LANES * <Py_ssize_t>sizeof(real)))
    cdef Py_ssize_t g, i, r, k, kt, p, last
    cdef const real* x = a.x.data
    cdef const real* w = a.w
    cdef const real* b = a.b
    cdef real* y = a.y.data
    s.plane = a.y.plane
    s.relu = a.relu
    s.add = 0
    s.ahead = a.ahead
    s.end = s.ahead + a.ahead_size if place.part == 0 else s.ahead
    if a.single:
        s.x, s.pixel, s.out, s.pixels, s.tap, s.segments, s.taps, s.skip = x, pixel, out, 1, tap, 1, taps, 0
        k = 0
        for i in range(tiles):
            kt = K // tiles + (i < K % tiles)
            if begin(tiles, place) <= i < end(tiles, place):
                s.w_step = a.w_tap if a.w_output == 1 else a.w_output
                s.w = w + k * a.w_output
                s.b = b + k if b else NULL
                s.y = y + k * s.plane
                if a.w_output == 1:
                    single_tiles[kt](&s)
                else:
                    in_rows_tiles[kt](&s)
            k += kt
        return
    for g in range(groups):
        s.x = x + g * x_group
        for r in range(runs):
            p = begin(run[r].pixels, place)
            last = end(run[r].pixels, place)
            s.tap = tap + run[r].tap
            s.segments = run[r].segments
            s.taps = run[r].taps
            s.skip = run[r].skip
            while p < last:
                s.pixel = pixel + run[r].first + p
                s.out = out + run[r].first + p
                s.pixels = last - p if last - p < 2 * band else band
                k = g * K
                for i in range(tiles):
                    kt = K // tiles + (i < K % tiles)
                    s.w_step = kt
                    s.w = w + k * taps + run[r].tap * kt
                    s.b = b + k if b else NULL
                    s.y = y + k * s.plane
                    sweep_tiles[kt](&s)
                    k += kt
                p += s.pixels


ctypedef struct CorrelatePool:
    Image x                     # IN  (C, H, W, 16)
    const real* w               # IN  packed, see `split`
    const real* b               # IN  (K,) or NULL
    Image y                     # OUT (K, out_h, out_w, 16)
    const int* pixel            # IN  (pixels,) as for `correlate`
    const int* out              # IN  (pixels of a row of windows,)
    const int* tap              # IN  (taps,) as for `correlate`
    const Run* run              # IN  (runs,)
    Indices index               # OUT (K, out_h, out_w, 16) or NULL
    real* rows                  # (K, win_h, W, 16) scratch
    real** ahead                # IN  (ahead_size,) as for `correlate`, or NULL
    Py_ssize_t outputs          # K
    Py_ssize_t taps, runs
    Py_ssize_t tiles            # see `split`
    Py_ssize_t relu             # whether a ReLU comes before the maximum
    Py_ssize_t win_h, win_w     # size of a window
    Py_ssize_t width            # W, pixels of a row before pooling
    Py_ssize_t out_h, out_w     # windows
    Py_ssize_t ahead_size

cdef void correlate_pool(const CorrelatePool* a, const Place* place) noexcept nogil:
    """The maximum, as in pool.pyx, over windows that lie side by side, of what `correlate` makes of one group.

    A row of windows is pooled as soon as its pixels are there, in the L1 cache: they are kept nowhere else.
    """
    cdef Sweep s
    cdef const int* pixel = a.pixel
    cdef const int* out = a.out
    cdef const int* tap = a.tap
    cdef const Run* run = a.run
    cdef Py_ssize_t K = a.outputs, taps = a.taps, runs = a.runs, tiles = a.tiles, win_h = a.win_h, win_w = a.win_w
    cdef Py_ssize_t W = a.width, out_h = a.out_h, out_w = a.out_w, size = win_h * W, i, r, t, k, kt, first, last
    cdef bint relu = a.relu
    cdef const real* x = a.x.data
    cdef const real* w = a.w
    cdef const real* b = a.b
    cdef integer* index = a.index.data
    cdef real* rows = a.rows
    s.x, s.plane, s.relu, s.add = x, size * LANES, 0, 0
    s.ahead = a.ahead
    s.end = s.ahead + a.ahead_size if place.part == 0 else s.ahead
    for i in range(begin(out_h, place), end(out_h, place)):
        for r in range(runs):
            first = max(run[r].first, i * size)
            last = min(run[r].first + run[r].pixels, (i + 1) * size)
            if first >= last:
                continue
            s.tap = tap + run[r].tap
            s.segments, s.taps, s.skip = run[r].segments, run[r].taps, run[r].skip
            s.pixel, s.out, s.pixels = pixel + first, out + first - i * size, last - first
            k = 0
            for t in range(tiles):
                kt = K // tiles + (t < K % tiles)
                s.w_step = kt
                s.w = w + k * taps + run[r].tap * kt
                s.b = b + k if b else NULL
                s.y = rows + k * s.plane
                sweep_tiles[kt](&s)
                k += kt
        for k in range(K):
            window_row(rows + k * s.plane, win_h, win_w, W, i * win_h, out_w, pixels(&a.y, k, i),
                       index + k * a.index.plane + i * a.index.row if index else NULL, relu)


def split(Py_ssize_t outputs, Py_ssize_t pixels):
    """Into how many tiles `correlate` cuts `outputs` output channels of `pixels` pixels each.

    The tiles are as equal as can be, the larger first; packed weights hold each tile's (taps, kt)
    after the other.
    """
    cdef Py_ssize_t most = TILE_K_SINGLE if pixels == 1 else TILE_K
    return (outputs + most - 1) // most


def tile_pixels(Py_ssize_t outputs):
    """The most pixels that a register tile has, where so many output channels are cut into tiles."""
    return TILE_J(<int>(outputs // split(outputs, 0)))


SPLITS = ("correlate", "correlate_pool")
include "kernels/correlate.pxi" # KERNELS
