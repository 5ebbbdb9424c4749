"""Convolution and linear layers: one correlation kernel for all of them, and the weight gradients.

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
    linear weights  taps n (images), "pixels" sixteen inputs each: dw[k, c] = sum_n dy[n, k] x[n, c]

The plain-NumPy twins are `conv2d`, `conv2d_backward`, `linear` and `linear_backward` in
cnn/reference.py.
"""
from libc.string cimport memcpy, memset

from cnn._ext.op cimport Op, Place, array, begin, end
from cnn._ext.vec cimport (LANES, ROWV, TILE_VECS, VL, integer, prefetch_second, prefetch_write, real, vec, vec_load,
                           vec_relu, vec_splat, vec_store, vec_sum, vec_sum4)
from cnn._ext.window cimport window_row

cdef extern from *:
    """
    #define LEAST(a, b) ((a) < (b) ? (a) : (b))
    /* A register tile is kt outputs by TILE_J(kt) pixels: as many accumulators as registers allow. */
    #define TILE_J(kt) (TILE_VECS / ((kt) * ROWV) < 1 ? 1 : LEAST(8, TILE_VECS / ((kt) * ROWV)))
    #define TILE_K LEAST(TILE_VECS == 24 ? 8 : 6, TILE_VECS / ROWV)
    #define TILE_K_SINGLE LEAST(16, TILE_VECS / ROWV)
    /* The weight gradient's tile is kt outputs by TILE_T taps. */
    #define DW_TILE_K 4
    #define X_BYTES 262144
    #define AT_ONCE (ROWV == 1 ? 4 : 2)
    #define DW_TILE_T (TILE_VECS == 24 ? 5 : 3)
    """
    int TILE_J(int kt) nogil
    enum:
        TILE_K
        TILE_K_SINGLE
        DW_TILE_K
        X_BYTES
        AT_ONCE
        DW_TILE_T


# ---------------------------------------------------------------- correlation

ctypedef struct Sweep:
    const real* x           # IN  input of this block
    const int* pixel        # IN  (pixels,) offset of each pixel's first input
    Py_ssize_t pixels
    const int* tap          # IN  offset of each tap from there
    Py_ssize_t segments     # ranges of taps, `skip` taps from one's end to the next one's start
    Py_ssize_t taps         # taps of a range
    Py_ssize_t skip
    const real* w           # IN  (all taps, KT) with w_step numbers from one tap to the next
    Py_ssize_t w_step
    const real* b           # IN  (KT,) or NULL
    real* y                 # OUT KT planes
    const int* out          # IN  (pixels,) offset of each pixel in its plane
    Py_ssize_t plane
    bint relu
    bint add                # to y, instead of setting it
    real** ahead            # up to `end`: the lines of memory that this thread writes later while other cores have
    real** end              # them in their caches; each tile asks for some

cdef enum:
    ASKED = 6               # not more at once than the processor can wait for

ctypedef void (*SweepKernel)(Sweep* s) noexcept nogil


cdef inline void tile(const Sweep* s, Py_ssize_t first, int KT, int JT) noexcept nogil:
    """y[k, p] = b[k] + sum_t w[t, k] x[pixel[p] + tap[t]] for KT outputs and JT pixels from `first`.

    KT and JT are constants once inlined, so `acc` lives in registers.
    """
    cdef vec acc[16 * 8]
    cdef vec xv[8 * 8]
    cdef const real* xs[8]
    cdef real* ys[8]
    cdef const int* tap = s.tap
    cdef const real* w = s.w
    cdef const real* b = s.b
    cdef Py_ssize_t t, i, taps = s.taps, w_step = s.w_step, plane = s.plane
    cdef int q
    for q in range(JT):
        xs[q] = s.x + s.pixel[first + q]
        ys[q] = s.y + s.out[first + q]
    if s.add:
        for q in range(KT * JT * ROWV):
            acc[q] = vec_load(ys[q % (JT * ROWV) // ROWV] + (q // (JT * ROWV)) * plane + (q % ROWV) * VL)
    elif b:
        for q in range(KT * JT * ROWV):
            acc[q] = vec_splat(b[q // (JT * ROWV)])
    else:
        for q in range(KT * JT * ROWV):
            acc[q] = vec_splat(0)
    for i in range(s.segments if JT == 1 else 1):   # tiles of several pixels come with one range
        for t in range(taps):
            for q in range(JT * ROWV):
                xv[q] = vec_load(xs[q // ROWV] + tap[t] + (q % ROWV) * VL)
            for q in range(KT * JT * ROWV):
                acc[q] = acc[q] + w[q // (JT * ROWV)] * xv[q % (JT * ROWV)]
            w += w_step
        w += s.skip * w_step
        tap += taps + s.skip
    if s.relu:
        for q in range(KT * JT * ROWV):
            acc[q] = vec_relu(acc[q])
    for q in range(KT * JT * ROWV):
        vec_store(ys[q % (JT * ROWV) // ROWV] + (q // (JT * ROWV)) * plane + (q % ROWV) * VL, acc[q])


cdef inline void sweep(Sweep* s, int KT) noexcept nogil:
    """All pixels for KT outputs. What is left of them is a tile moved back to end at the last pixel, where that
    is faster than single pixels (whose sums take four cycles to add) and would not add sums twice."""
    cdef Py_ssize_t p = 0, q
    while p + TILE_J(KT) <= s.pixels:
        for q in range(min(ASKED, s.end - s.ahead)):
            prefetch_write(s.ahead[q])
        s.ahead += min(ASKED, s.end - s.ahead)
        tile(s, p, KT, TILE_J(KT))
        p += TILE_J(KT)
    if 0 < p < s.pixels and 2 * max(4, KT * ROWV // 2) * (s.pixels - p) >= KT * ROWV * TILE_J(KT) and not s.add:
        tile(s, s.pixels - TILE_J(KT), KT, TILE_J(KT))
    else:
        for p in range(p, s.pixels):
            tile(s, p, KT, 1)


# One function for each number of outputs, so that the compiler gives each its registers; `if` keeps it
# from compiling tiles that would not fit.
cdef void sweep_1(Sweep* s) noexcept nogil:
    sweep(s, 1)

cdef void sweep_2(Sweep* s) noexcept nogil:
    if TILE_K >= 2:
        sweep(s, 2)

cdef void sweep_3(Sweep* s) noexcept nogil:
    if TILE_K >= 3:
        sweep(s, 3)

cdef void sweep_4(Sweep* s) noexcept nogil:
    if TILE_K >= 4:
        sweep(s, 4)

cdef void sweep_5(Sweep* s) noexcept nogil:
    if TILE_K >= 5:
        sweep(s, 5)

cdef void sweep_6(Sweep* s) noexcept nogil:
    if TILE_K >= 6:
        sweep(s, 6)

cdef void sweep_7(Sweep* s) noexcept nogil:
    if TILE_K >= 7:
        sweep(s, 7)

cdef void sweep_8(Sweep* s) noexcept nogil:
    if TILE_K >= 8:
        sweep(s, 8)

cdef void single_2(Sweep* s) noexcept nogil:
    if TILE_K_SINGLE >= 2:
        tile(s, 0, 2, 1)

cdef void single_3(Sweep* s) noexcept nogil:
    if TILE_K_SINGLE >= 3:
        tile(s, 0, 3, 1)

cdef void single_4(Sweep* s) noexcept nogil:
    if TILE_K_SINGLE >= 4:
        tile(s, 0, 4, 1)

cdef void single_5(Sweep* s) noexcept nogil:
    if TILE_K_SINGLE >= 5:
        tile(s, 0, 5, 1)

cdef void single_6(Sweep* s) noexcept nogil:
    if TILE_K_SINGLE >= 6:
        tile(s, 0, 6, 1)

cdef void single_7(Sweep* s) noexcept nogil:
    if TILE_K_SINGLE >= 7:
        tile(s, 0, 7, 1)

cdef void single_8(Sweep* s) noexcept nogil:
    if TILE_K_SINGLE >= 8:
        tile(s, 0, 8, 1)

cdef void single_9(Sweep* s) noexcept nogil:
    if TILE_K_SINGLE >= 9:
        tile(s, 0, 9, 1)

cdef void single_10(Sweep* s) noexcept nogil:
    if TILE_K_SINGLE >= 10:
        tile(s, 0, 10, 1)

cdef void single_11(Sweep* s) noexcept nogil:
    if TILE_K_SINGLE >= 11:
        tile(s, 0, 11, 1)

cdef void single_12(Sweep* s) noexcept nogil:
    if TILE_K_SINGLE >= 12:
        tile(s, 0, 12, 1)

cdef void single_13(Sweep* s) noexcept nogil:
    if TILE_K_SINGLE >= 13:
        tile(s, 0, 13, 1)

cdef void single_14(Sweep* s) noexcept nogil:
    if TILE_K_SINGLE >= 14:
        tile(s, 0, 14, 1)

cdef void single_15(Sweep* s) noexcept nogil:
    if TILE_K_SINGLE >= 15:
        tile(s, 0, 15, 1)

cdef void single_16(Sweep* s) noexcept nogil:
    if TILE_K_SINGLE >= 16:
        tile(s, 0, 16, 1)


cdef inline void row_tile(const Sweep* s, int KT) noexcept nogil:
    """y[k] = b[k] + sum_t w[k, t] x[tap[t]] for KT outputs of a single pixel, whose weights lie in rows `w_step`
    apart: each row's place is worked out once for AT_ONCE taps."""
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


cdef void row_1(Sweep* s) noexcept nogil:
    row_tile(s, 1)

cdef void row_2(Sweep* s) noexcept nogil:
    if TILE_K_SINGLE >= 2:
        row_tile(s, 2)

cdef void row_3(Sweep* s) noexcept nogil:
    if TILE_K_SINGLE >= 3:
        row_tile(s, 3)

cdef void row_4(Sweep* s) noexcept nogil:
    if TILE_K_SINGLE >= 4:
        row_tile(s, 4)

cdef void row_5(Sweep* s) noexcept nogil:
    if TILE_K_SINGLE >= 5:
        row_tile(s, 5)

cdef void row_6(Sweep* s) noexcept nogil:
    if TILE_K_SINGLE >= 6:
        row_tile(s, 6)

cdef void row_7(Sweep* s) noexcept nogil:
    if TILE_K_SINGLE >= 7:
        row_tile(s, 7)

cdef void row_8(Sweep* s) noexcept nogil:
    if TILE_K_SINGLE >= 8:
        row_tile(s, 8)

cdef void row_9(Sweep* s) noexcept nogil:
    if TILE_K_SINGLE >= 9:
        row_tile(s, 9)

cdef void row_10(Sweep* s) noexcept nogil:
    if TILE_K_SINGLE >= 10:
        row_tile(s, 10)

cdef void row_11(Sweep* s) noexcept nogil:
    if TILE_K_SINGLE >= 11:
        row_tile(s, 11)

cdef void row_12(Sweep* s) noexcept nogil:
    if TILE_K_SINGLE >= 12:
        row_tile(s, 12)

cdef void row_13(Sweep* s) noexcept nogil:
    if TILE_K_SINGLE >= 13:
        row_tile(s, 13)

cdef void row_14(Sweep* s) noexcept nogil:
    if TILE_K_SINGLE >= 14:
        row_tile(s, 14)

cdef void row_15(Sweep* s) noexcept nogil:
    if TILE_K_SINGLE >= 15:
        row_tile(s, 15)

cdef void row_16(Sweep* s) noexcept nogil:
    if TILE_K_SINGLE >= 16:
        row_tile(s, 16)

cdef SweepKernel SWEEP[9]       # by the number of outputs
SWEEP[:] = [NULL, sweep_1, sweep_2, sweep_3, sweep_4, sweep_5, sweep_6, sweep_7, sweep_8]
cdef SweepKernel SINGLE[17]     # for a single pixel (a linear layer)
SINGLE[:] = [NULL, sweep_1, single_2, single_3, single_4, single_5, single_6, single_7, single_8,
             single_9, single_10, single_11, single_12, single_13, single_14, single_15, single_16]
cdef SweepKernel ROWS[17]       # likewise, with weights in rows
ROWS[:] = [NULL, row_1, row_2, row_3, row_4, row_5, row_6, row_7, row_8, row_9, row_10, row_11, row_12, row_13, row_14,
           row_15, row_16]


cdef void correlate(const Op* op, const Place* place) noexcept nogil:
    """y[k, p] = b[k] + sum_t w[k, t] x[pixel[p] + tap[t]], group by group, one block."""
    cdef Sweep s
    cdef const int* pixel = <const int*>array(op, 4, place)      # IN  (pixels,)
    cdef const int* out = <const int*>array(op, 5, place)        # IN  (pixels,)
    cdef const int* tap = <const int*>array(op, 6, place)        # IN  (taps,)
    cdef const int* run = <const int*>array(op, 7, place)        # IN  (runs, 6) first pixel, pixels,
                                                                 #     first tap, segments, taps, skip
    cdef Py_ssize_t K = op.n[0], taps = op.n[1], runs = op.n[2], groups = op.n[3]
    cdef Py_ssize_t x_group = op.n[4], tiles = op.n[5], single = op.n[7]
    cdef Py_ssize_t w_tap = op.n[8], w_output = op.n[9]     # of a single pixel's weights: numbers from one tap's to
                                                            # the next, from one output's; one of them is 1
    # pixels of which x stays in the second cache while all outputs are made
    cdef Py_ssize_t band = max(16, X_BYTES // (max(1, taps) * LANES * <Py_ssize_t>sizeof(real)))
    cdef Py_ssize_t g, i, r, k, kt, p, last
    cdef const real* x = <const real*>array(op, 0, place)        # IN  (groups * C, H, W, 16)
    cdef const real* w = <const real*>array(op, 1, place)        # IN  packed, see `split`; for a single pixel
                                                                 #     as it is, see w_tap
    cdef const real* b = <const real*>array(op, 2, place)        # IN  (groups * K,) or NULL
    cdef real* y = <real*>array(op, 3, place)                    # OUT (groups * K, OH, OW, 16)
    s.plane = op.args[3].plane
    s.relu = op.n[6]
    s.add = 0
    s.ahead = <real**>array(op, 8, place)                        # (ahead_size,) or NULL
    s.end = s.ahead + op.n[10] if place.part == 0 else s.ahead
    if single:
        s.x, s.pixel, s.out, s.pixels, s.tap, s.segments, s.taps, s.skip = x, pixel, out, 1, tap, 1, taps, 0
        k = 0
        for i in range(tiles):
            kt = K // tiles + (i < K % tiles)
            if begin(tiles, place) <= i < end(tiles, place):
                s.w_step = w_tap if w_output == 1 else w_output
                s.w = w + k * w_output
                s.b = b + k if b else NULL
                s.y = y + k * s.plane
                if w_output == 1:
                    SINGLE[kt](&s)
                else:
                    ROWS[kt](&s)
            k += kt
        return
    for g in range(groups):
        s.x = x + g * x_group
        for r in range(runs):
            p = begin(run[6 * r + 1], place)
            last = end(run[6 * r + 1], place)
            s.tap = tap + run[6 * r + 2]
            s.segments = run[6 * r + 3]
            s.taps = run[6 * r + 4]
            s.skip = run[6 * r + 5]
            while p < last:
                s.pixel = pixel + run[6 * r] + p
                s.out = out + run[6 * r] + p
                s.pixels = last - p if last - p < 2 * band else band
                k = g * K
                for i in range(tiles):
                    kt = K // tiles + (i < K % tiles)
                    s.w_step = kt
                    s.w = w + k * taps + run[6 * r + 2] * kt
                    s.b = b + k if b else NULL
                    s.y = y + k * s.plane
                    SWEEP[kt](&s)
                    k += kt
                p += s.pixels


cdef void correlate_pool(const Op* op, const Place* place) noexcept nogil:
    """The maximum, as in pool.pyx, over windows that lie side by side, of what `correlate` makes of one group.

    A row of windows is pooled as soon as its pixels are there, in the first cache: they are kept nowhere else.
    """
    cdef Sweep s
    cdef const int* pixel = <const int*>array(op, 4, place)      # IN  (pixels,)
    cdef const int* out = <const int*>array(op, 5, place)        # IN  (pixels of a row of windows,)
    cdef const int* tap = <const int*>array(op, 6, place)        # IN  (taps,)
    cdef const int* run = <const int*>array(op, 7, place)        # IN  (runs, 6) as for `correlate`
    cdef Py_ssize_t K = op.n[0], taps = op.n[1], runs = op.n[2], tiles = op.n[3], win_h = op.n[5], win_w = op.n[6]
    cdef Py_ssize_t W = op.n[7], out_h = op.n[8], out_w = op.n[9], size = win_h * W, i, r, t, k, kt, first, last
    cdef bint relu = op.n[4]
    cdef const real* x = <const real*>array(op, 0, place)        # IN  (C, H, W, 16)
    cdef const real* w = <const real*>array(op, 1, place)        # IN  packed, see `split`
    cdef const real* b = <const real*>array(op, 2, place)        # IN  (K,) or NULL
    cdef real* y = <real*>array(op, 3, place)                    # OUT (K, out_h, out_w, 16)
    cdef integer* index = <integer*>array(op, 8, place)          # OUT (K, out_h, out_w, 16) or NULL
    cdef real* rows = <real*>array(op, 9, place)                 # (K, win_h, W, 16) scratch
    s.x, s.plane, s.relu, s.add = x, size * LANES, 0, 0
    s.ahead = <real**>array(op, 10, place)                       # (ahead_size,) or NULL
    s.end = s.ahead + op.n[10] if place.part == 0 else s.ahead
    for i in range(begin(out_h, place), end(out_h, place)):
        for r in range(runs):
            first = max(run[6 * r], i * size)
            last = min(run[6 * r] + run[6 * r + 1], (i + 1) * size)
            if first >= last:
                continue
            s.tap = tap + run[6 * r + 2]
            s.segments, s.taps, s.skip = run[6 * r + 3], run[6 * r + 4], run[6 * r + 5]
            s.pixel, s.out, s.pixels = pixel + first, out + first - i * size, last - first
            k = 0
            for t in range(tiles):
                kt = K // tiles + (t < K % tiles)
                s.w_step = kt
                s.w = w + k * taps + run[6 * r + 2] * kt
                s.b = b + k if b else NULL
                s.y = rows + k * s.plane
                SWEEP[kt](&s)
                k += kt
        for k in range(K):
            window_row(rows + k * s.plane, win_h, win_w, W, i * win_h, out_w,
                       y + k * op.args[3].plane + i * op.args[3].row,
                       index + k * op.args[8].plane + i * op.args[8].row if index else NULL, relu)


cdef void scatter(const Op* op, const Place* place) noexcept nogil:
    """dx[c, out[p] + shift[r, s]] += sum_k w[k, c, r, s] dy[k, pixel[p]], tap by tap.

    Every multiplication counts here, while `correlate` visits taps that lie outside dy; but sums go
    through memory once for each tap.
    """
    cdef Sweep s
    cdef real* y = <real*>array(op, 2, place)                    # OUT (groups * C, H, W, 16)
    cdef const int* shift = <const int*>array(op, 5, place)      # IN  (taps,)
    cdef Py_ssize_t C = op.n[0], K = op.n[1], groups = op.n[2], tiles = op.n[3], taps = op.n[4]
    cdef Py_ssize_t g, i, t, c, ct
    s.x = <const real*>array(op, 0, place)                       # IN  (groups * K, OH, OW, 16)
    s.w = <const real*>array(op, 1, place)                       # IN  packed, (groups, taps, tiles, K, ct)
    s.pixel = <const int*>array(op, 3, place)                    # IN  (pixels,)
    s.out = <const int*>array(op, 4, place)                      # IN  (pixels,)
    s.tap = <const int*>array(op, 6, place)                      # IN  (K,)
    s.pixels, s.segments, s.taps, s.skip = op.n[5], 1, K, 0
    s.b, s.plane, s.relu, s.add, s.ahead, s.end = NULL, op.args[2].plane, 0, 1, NULL, NULL
    memset(y, 0, groups * C * s.plane * sizeof(real))
    for g in range(groups):
        for t in range(taps):
            c = 0
            for i in range(tiles):
                ct = C // tiles + (i < C % tiles)
                s.y = y + (g * C + c) * s.plane + shift[t]
                s.w_step = ct
                SWEEP[ct](&s)
                s.w += K * ct
                c += ct
        s.x += K * op.args[0].plane


cpdef Py_ssize_t split(Py_ssize_t outputs, Py_ssize_t pixels) noexcept nogil:
    """Into how many tiles `correlate` cuts `outputs` output channels of `pixels` pixels each.

    The tiles are as equal as can be, the larger first; packed weights hold each tile's (taps, kt)
    after the other.
    """
    cdef Py_ssize_t most = TILE_K_SINGLE if pixels == 1 else TILE_K
    return (outputs + most - 1) // most


# ---------------------------------------------------------------- gradients of weights and biases

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

ctypedef void (*ProductsKernel)(const Products* s) noexcept nogil


cdef inline void products(const Products* s, int KT, int TT) noexcept nogil:
    """dw[k, t] (+)= sum over pixels and images of dy[k, p] x[p + tap[t]], KT outputs by TT taps."""
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


cdef void products_1_1(const Products* s) noexcept nogil:
    if DW_TILE_K >= 1 and DW_TILE_T >= 1:
        products(s, 1, 1)

cdef void products_1_2(const Products* s) noexcept nogil:
    if DW_TILE_K >= 1 and DW_TILE_T >= 2:
        products(s, 1, 2)

cdef void products_1_3(const Products* s) noexcept nogil:
    if DW_TILE_K >= 1 and DW_TILE_T >= 3:
        products(s, 1, 3)

cdef void products_1_4(const Products* s) noexcept nogil:
    if DW_TILE_K >= 1 and DW_TILE_T >= 4:
        products(s, 1, 4)

cdef void products_1_5(const Products* s) noexcept nogil:
    if DW_TILE_K >= 1 and DW_TILE_T >= 5:
        products(s, 1, 5)

cdef void products_2_1(const Products* s) noexcept nogil:
    if DW_TILE_K >= 2 and DW_TILE_T >= 1:
        products(s, 2, 1)

cdef void products_2_2(const Products* s) noexcept nogil:
    if DW_TILE_K >= 2 and DW_TILE_T >= 2:
        products(s, 2, 2)

cdef void products_2_3(const Products* s) noexcept nogil:
    if DW_TILE_K >= 2 and DW_TILE_T >= 3:
        products(s, 2, 3)

cdef void products_2_4(const Products* s) noexcept nogil:
    if DW_TILE_K >= 2 and DW_TILE_T >= 4:
        products(s, 2, 4)

cdef void products_2_5(const Products* s) noexcept nogil:
    if DW_TILE_K >= 2 and DW_TILE_T >= 5:
        products(s, 2, 5)

cdef void products_3_1(const Products* s) noexcept nogil:
    if DW_TILE_K >= 3 and DW_TILE_T >= 1:
        products(s, 3, 1)

cdef void products_3_2(const Products* s) noexcept nogil:
    if DW_TILE_K >= 3 and DW_TILE_T >= 2:
        products(s, 3, 2)

cdef void products_3_3(const Products* s) noexcept nogil:
    if DW_TILE_K >= 3 and DW_TILE_T >= 3:
        products(s, 3, 3)

cdef void products_3_4(const Products* s) noexcept nogil:
    if DW_TILE_K >= 3 and DW_TILE_T >= 4:
        products(s, 3, 4)

cdef void products_3_5(const Products* s) noexcept nogil:
    if DW_TILE_K >= 3 and DW_TILE_T >= 5:
        products(s, 3, 5)

cdef void products_4_1(const Products* s) noexcept nogil:
    if DW_TILE_K >= 4 and DW_TILE_T >= 1:
        products(s, 4, 1)

cdef void products_4_2(const Products* s) noexcept nogil:
    if DW_TILE_K >= 4 and DW_TILE_T >= 2:
        products(s, 4, 2)

cdef void products_4_3(const Products* s) noexcept nogil:
    if DW_TILE_K >= 4 and DW_TILE_T >= 3:
        products(s, 4, 3)

cdef void products_4_4(const Products* s) noexcept nogil:
    if DW_TILE_K >= 4 and DW_TILE_T >= 4:
        products(s, 4, 4)

cdef void products_4_5(const Products* s) noexcept nogil:
    if DW_TILE_K >= 4 and DW_TILE_T >= 5:
        products(s, 4, 5)

cdef ProductsKernel PRODUCTS[5][6]      # by the numbers of outputs and taps
PRODUCTS[1][:] = [NULL, products_1_1, products_1_2, products_1_3, products_1_4, products_1_5]
PRODUCTS[2][:] = [NULL, products_2_1, products_2_2, products_2_3, products_2_4, products_2_5]
PRODUCTS[3][:] = [NULL, products_3_1, products_3_2, products_3_3, products_3_4, products_3_5]
PRODUCTS[4][:] = [NULL, products_4_1, products_4_2, products_4_3, products_4_4, products_4_5]


cdef void conv_dw(const Op* op, const Place* place) noexcept nogil:
    """dw[k, (c, r, s)] += sum_{i, j} dy[k, i, j] x[c, i*stride + r, j*stride + s] of one block.

    The first block of a shard assigns, the others add: nothing has to be zeroed.
    """
    cdef Products s
    cdef const real* x = <const real*>array(op, 0, place)        # IN  (groups * C, H, W, 16)
    cdef const int* tap = <const int*>array(op, 3, place)        # IN  (taps,) ordered by kernel row
    cdef const int* to = <const int*>array(op, 4, place)         # IN  (taps,) their places in dw
    cdef const int* span = <const int*>array(op, 5, place)       # IN  (spans, 2) first and last pixel
                                                                 #     whose window has those taps
    cdef const int* x_at = <const int*>array(op, 6, place)       # IN  (pixels,) offsets in x
    cdef const int* dy_at = <const int*>array(op, 7, place)      # IN  (pixels,) offsets in a plane of dy
    cdef Py_ssize_t K = op.n[0], taps = op.n[1], groups = op.n[2], x_group = op.n[3]
    cdef Py_ssize_t spans = op.n[4], each = taps // spans
    cdef Py_ssize_t k_tiles = (K + DW_TILE_K - 1) // DW_TILE_K, t_tiles = (each + DW_TILE_T - 1) // DW_TILE_T
    cdef Py_ssize_t g, i, j, k, r, kt, tt, t, p, first, pixels = op.n[5], band = op.n[6]
    cdef const real* dy = <const real*>array(op, 1, place)       # IN  (groups * K, OH, OW, 16)
    cdef real* dw = <real*>array(op, 2, place)                   # OUT (groups * K, taps)
    s.plane = op.args[1].plane
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
                    first = max(p, span[2 * r])
                    s.x_at = x_at + first
                    s.dy_at = dy_at + first
                    s.pixels = max(0, min(p + band, span[2 * r + 1]) - first)
                    s.first = place.first and p == 0
                    for j in range(t_tiles):
                        tt = each // t_tiles + (j < each % t_tiles)
                        s.tap = tap + t
                        s.to = to + t
                        PRODUCTS[kt][tt](&s)
                        t += tt
                k += kt
            p += band


cdef void bias_grad(const Op* op, const Place* place) noexcept nogil:
    """db[k] += sum over pixels and images of dy[k] of one block."""
    cdef const real* dy = <const real*>array(op, 0, place)       # IN  (K, OH, OW, 16)
    cdef real* db = <real*>array(op, 1, place)                   # OUT (K,)
    cdef Py_ssize_t K = op.n[0], out_h = op.n[1], out_w = op.n[2]
    cdef const real* p
    cdef Py_ssize_t k, i, j, most = out_w // 4 * 4
    cdef int q
    cdef vec acc[4 * 8]     # four pixels at a time, because one sum would wait for itself
    for k in range(begin(K, place), end(K, place)):
        for q in range(4 * ROWV):
            acc[q] = vec_splat(0)
        for i in range(out_h):
            p = dy + k * op.args[0].plane + i * op.args[0].row
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


# ---------------------------------------------------------------- linear: weight gradient

cdef void linear_dw(const Op* op, const Place* place) noexcept nogil:
    """dw[k, c] = sum_n dy[n, k] x[n, c] over the whole batch, for one task's tile of outputs.

    The images are the taps here and sixteen neighbouring inputs c the lanes, so that nothing has to
    be summed across lanes. `db`, where wanted, comes along: db[k] = sum_n dy[n, k].
    """
    cdef const real* x = <const real*>array(op, 0, place)        # IN  (N, x_step), rows padded with zeros
    cdef const real* dy = <const real*>array(op, 1, place)       # IN  (N, dy_step)
    cdef real* dw = <real*>array(op, 2, place)                   # OUT (K, C)
    cdef real* db = <real*>array(op, 3, place)                   # OUT (K,) or NULL
    cdef const int* image = <const int*>array(op, 4, place)      # IN  (N,) n * x_step
    cdef const int* lane = <const int*>array(op, 5, place)       # IN  (C / 16,) 16 * i
    cdef const real* w = <const real*>array(op, 6, place)        # the weights (K, C)
    cdef Py_ssize_t K = op.n[0], C = op.n[1], dy_step = op.n[2]
    cdef Py_ssize_t i = place.task, each = K // op.tasks, more = K % op.tasks
    cdef Py_ssize_t k0 = i * each + min(i, more), count = each + (i < more), tiles = split(count, 0), kt
    cdef Py_ssize_t whole = C // LANES, rest = C % LANES, k, n, p = 0, at, pixels
    cdef real edge[8 * 16]
    cdef real total[4 * 8]      # as many as `linear_dw_tasks` has in a task
    cdef Sweep s
    s.tap, s.segments, s.taps, s.skip = image, 1, place.total, 0
    s.w_step, s.b, s.relu, s.add, s.plane, s.ahead, s.end = dy_step, NULL, 0, 0, C, NULL, NULL
    while p < whole:    # so few inputs that they stay in the first cache for all outputs
        pixels = min(whole - p, TILE_J(<int>((count + tiles - 1) // tiles)))
        at = k0
        for i in range(tiles):
            kt = count // tiles + (i < count % tiles)
            s.x, s.pixel, s.out, s.pixels = x, lane + p, lane + p, pixels
            s.w, s.y = dy + at, dw + at * C
            for k in range(kt):     # what the update is about to write lies in other cores' caches, too
                for n in range(pixels):
                    prefetch_write(w + (at + k) * C + (p + n) * LANES)
            for n in range(place.total * i // tiles, place.total * (i + 1) // tiles):   # x of the next pixels
                for k in range(min(pixels, whole - p - pixels)):
                    prefetch_second(x + image[n] + (p + pixels + k) * LANES)
            SWEEP[kt](&s)
            at += kt
        p += pixels
    if rest:    # the last inputs do not fill a vector: they go by way of a buffer
        at = k0
        for i in range(tiles):
            kt = count // tiles + (i < count % tiles)
            s.x, s.pixel, s.out, s.pixels = x + whole * LANES, lane, lane, 1
            s.w, s.y, s.plane = dy + at, edge, LANES
            SWEEP[kt](&s)
            for k in range(kt):
                memcpy(dw + (at + k) * C + whole * LANES, edge + k * LANES, rest * sizeof(real))
            at += kt
    if db:
        for k in range(count):
            total[k] = 0
        for n in range(place.total):
            for k in range(count):
                total[k] += dy[n * dy_step + k0 + k]
        memcpy(db + k0, total, count * sizeof(real))


def tile_pixels(Py_ssize_t outputs):
    """The most pixels that a register tile has, where so many output channels are cut into tiles."""
    return TILE_J(<int>(outputs // split(outputs, 0)))


def linear_dw_tasks(Py_ssize_t outputs):
    """Into how many tasks the weight gradient of `outputs` outputs is cut."""
    return (outputs + 4 * TILE_K - 1) // (4 * TILE_K)


SPLITS = ("correlate", "correlate_pool", "conv_dw", "bias_grad")
KERNELS = {
    "correlate": (<size_t>&correlate, ("x", "w", "b", "y", "pixel", "out", "tap", "run", "ahead"),
                  ("outputs", "taps", "runs", "groups", "x_group", "tiles", "relu", "single", "w_tap", "w_output",
                   "ahead_size"), ()),
    "correlate_pool": (<size_t>&correlate_pool,
                       ("x", "w", "b", "y", "pixel", "out", "tap", "run", "index", "rows", "ahead"),
                       ("outputs", "taps", "runs", "tiles", "relu", "win_h", "win_w", "width", "out_h", "out_w",
                        "ahead_size"), ()),
    "scatter": (<size_t>&scatter, ("x", "w", "y", "pixel", "out", "shift", "tap"),
                ("channels", "outputs", "groups", "tiles", "taps", "pixels"), ()),
    "conv_dw": (<size_t>&conv_dw, ("x", "dy", "dw", "tap", "to", "span", "x_at", "dy_at"),
                ("outputs", "taps", "groups", "x_group", "spans", "pixels", "band"), ()),
    "bias_grad": (<size_t>&bias_grad, ("dy", "db"), ("outputs", "out_h", "out_w"), ()),
    "linear_dw": (<size_t>&linear_dw, ("x", "dy", "dw", "db", "image", "lane", "w"),
                  ("outputs", "inputs", "dy_step"), ()),
}
