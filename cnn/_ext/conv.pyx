"""Convolution and linear layers: one correlation kernel for all of them, and the weight gradients.

All work on one block: sixteen images side by side, (C, H, W, 16), see vec.pxd.

Forward, y[k, p] = b[k] + sum_t w[k, t] x[pixel[p] + tap[t]]: where output pixel p reads its first
input, and how far every kernel tap (c, r, s) lies from there, are two tables of offsets, made once in
Python (cnn/windows.py). Stride, dilation, padding and groups are then nothing but numbers in the tables.
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
from libc.string cimport memcpy

from cnn._ext.op cimport Op, Place, array
from cnn._ext.vec cimport (LANES, ROWV, TILE_VECS, VL, real, vec, vec_load, vec_relu, vec_splat,
                           vec_store, vec_sum, vec_sum4)

cdef extern from *:
    """
    #define LEAST(a, b) ((a) < (b) ? (a) : (b))
    /* A register tile is kt outputs by TILE_J(kt) pixels: as many accumulators as registers allow. */
    #define TILE_J(kt) (TILE_VECS / ((kt) * ROWV) < 1 ? 1 : LEAST(8, TILE_VECS / ((kt) * ROWV)))
    #define TILE_K LEAST(TILE_VECS == 24 ? 8 : 6, TILE_VECS / ROWV)
    #define TILE_K_SINGLE LEAST(16, TILE_VECS / ROWV)
    /* The weight gradient's tile is kt outputs by TILE_T taps. */
    #define DW_TILE_K (TILE_VECS == 24 ? 4 : 3)
    #define DW_TILE_T (TILE_VECS == 24 ? 5 : 3)
    """
    int TILE_J(int kt) nogil
    enum:
        TILE_K
        TILE_K_SINGLE
        DW_TILE_K
        DW_TILE_T


# ---------------------------------------------------------------- correlation

cdef inline void tile(
    const real* x,          # IN  input of this block
    const int* pixel,       # IN  (JT,) offset of each pixel's first input
    const int* tap,         # IN  offset of each tap from there
    Py_ssize_t segments,    # ranges of taps, `skip` taps from one's end to the next one's start
    Py_ssize_t taps,        # taps of a range
    Py_ssize_t skip,
    const real* w,          # IN  (all taps, KT) with w_step numbers from one tap to the next
    Py_ssize_t w_step,
    const real* b,          # IN  (KT,) or NULL
    real* y,                # OUT KT planes
    const int* out,         # IN  (JT,) offset of each pixel in its plane
    Py_ssize_t plane,
    bint relu,
    int KT, int JT,
) noexcept nogil:
    """y[k, p] = b[k] + sum_t w[t, k] x[pixel[p] + tap[t]] for KT outputs and JT pixels.

    KT and JT are constants once inlined, so `acc` lives in registers.
    """
    cdef vec acc[16 * 8]
    cdef vec xv[8 * 8]
    cdef const real* xs[8]
    cdef Py_ssize_t t, i
    cdef int q
    for q in range(JT):
        xs[q] = x + pixel[q]
    for q in range(KT * JT * ROWV):
        acc[q] = vec_splat(b[q // (JT * ROWV)] if b else 0)
    for i in range(segments if JT == 1 else 1):     # tiles of several pixels come with one range
        for t in range(taps):
            for q in range(JT * ROWV):
                xv[q] = vec_load(xs[q // ROWV] + tap[t] + (q % ROWV) * VL)
            for q in range(KT * JT * ROWV):
                acc[q] = acc[q] + w[q // (JT * ROWV)] * xv[q % (JT * ROWV)]
            w += w_step
        w += skip * w_step
        tap += taps + skip
    for q in range(KT * JT * ROWV):
        if relu:
            acc[q] = vec_relu(acc[q])
        vec_store(y + (q // (JT * ROWV)) * plane + out[q % (JT * ROWV) // ROWV] + (q % ROWV) * VL,
                  acc[q])


cdef inline void sweep(const real* x, const int* pixel, Py_ssize_t pixels, const int* tap,
                       Py_ssize_t segments, Py_ssize_t taps, Py_ssize_t skip, const real* w, Py_ssize_t w_step, const real* b, real* y,
                       const int* out, Py_ssize_t plane, bint relu, int KT) noexcept nogil:
    """All pixels for KT outputs. The last tile is moved back to end at the last pixel."""
    cdef Py_ssize_t p = 0
    if pixels >= TILE_J(KT):
        while p < pixels:
            p = min(p, pixels - TILE_J(KT))
            tile(x, pixel + p, tap, segments, taps, skip, w, w_step, b, y, out + p, plane, relu, KT, TILE_J(KT))
            p += TILE_J(KT)
    else:
        for p in range(pixels):
            tile(x, pixel + p, tap, segments, taps, skip, w, w_step, b, y, out + p, plane, relu, KT, 1)


cdef void sweep_any(const real* x, const int* pixel, Py_ssize_t pixels, const int* tap,
                    Py_ssize_t segments, Py_ssize_t taps, Py_ssize_t skip, const real* w, Py_ssize_t w_step, const real* b, real* y,
                    const int* out, Py_ssize_t plane, bint relu, int kt) noexcept nogil:
    """`sweep` with the constant that `kt` names."""
    if kt == 1:
        sweep(x, pixel, pixels, tap, segments, taps, skip, w, w_step, b, y, out, plane, relu, 1)
    elif kt == 2 and TILE_K >= 2:
        sweep(x, pixel, pixels, tap, segments, taps, skip, w, w_step, b, y, out, plane, relu, 2)
    elif kt == 3 and TILE_K >= 3:
        sweep(x, pixel, pixels, tap, segments, taps, skip, w, w_step, b, y, out, plane, relu, 3)
    elif kt == 4 and TILE_K >= 4:
        sweep(x, pixel, pixels, tap, segments, taps, skip, w, w_step, b, y, out, plane, relu, 4)
    elif kt == 5 and TILE_K >= 5:
        sweep(x, pixel, pixels, tap, segments, taps, skip, w, w_step, b, y, out, plane, relu, 5)
    elif kt == 6 and TILE_K >= 6:
        sweep(x, pixel, pixels, tap, segments, taps, skip, w, w_step, b, y, out, plane, relu, 6)
    elif kt == 7 and TILE_K >= 7:
        sweep(x, pixel, pixels, tap, segments, taps, skip, w, w_step, b, y, out, plane, relu, 7)
    elif kt == 8 and TILE_K >= 8:
        sweep(x, pixel, pixels, tap, segments, taps, skip, w, w_step, b, y, out, plane, relu, 8)


cdef void single_any(const real* x, const int* pixel, const int* tap, Py_ssize_t taps,
                     const real* w, Py_ssize_t w_step, const real* b, real* y, const int* out,
                     Py_ssize_t plane, bint relu, int kt) noexcept nogil:
    """One pixel (a linear layer) for up to TILE_K_SINGLE outputs."""
    if kt <= TILE_K:
        sweep_any(x, pixel, 1, tap, 1, taps, 0, w, w_step, b, y, out, plane, relu, kt)
    elif kt == 16 and TILE_K_SINGLE >= 16:
        tile(x, pixel, tap, 1, taps, 0, w, w_step, b, y, out, plane, relu, 16, 1)
    elif kt == 15 and TILE_K_SINGLE >= 15:
        tile(x, pixel, tap, 1, taps, 0, w, w_step, b, y, out, plane, relu, 15, 1)
    elif kt == 14 and TILE_K_SINGLE >= 14:
        tile(x, pixel, tap, 1, taps, 0, w, w_step, b, y, out, plane, relu, 14, 1)
    elif kt == 13 and TILE_K_SINGLE >= 13:
        tile(x, pixel, tap, 1, taps, 0, w, w_step, b, y, out, plane, relu, 13, 1)
    elif kt == 12 and TILE_K_SINGLE >= 12:
        tile(x, pixel, tap, 1, taps, 0, w, w_step, b, y, out, plane, relu, 12, 1)
    elif kt == 11 and TILE_K_SINGLE >= 11:
        tile(x, pixel, tap, 1, taps, 0, w, w_step, b, y, out, plane, relu, 11, 1)
    elif kt == 10 and TILE_K_SINGLE >= 10:
        tile(x, pixel, tap, 1, taps, 0, w, w_step, b, y, out, plane, relu, 10, 1)
    elif kt == 9 and TILE_K_SINGLE >= 9:
        tile(x, pixel, tap, 1, taps, 0, w, w_step, b, y, out, plane, relu, 9, 1)
    elif kt == 8 and TILE_K_SINGLE >= 8:
        tile(x, pixel, tap, 1, taps, 0, w, w_step, b, y, out, plane, relu, 8, 1)
    elif kt == 7 and TILE_K_SINGLE >= 7:
        tile(x, pixel, tap, 1, taps, 0, w, w_step, b, y, out, plane, relu, 7, 1)
    elif kt == 6 and TILE_K_SINGLE >= 6:
        tile(x, pixel, tap, 1, taps, 0, w, w_step, b, y, out, plane, relu, 6, 1)
    elif kt == 5 and TILE_K_SINGLE >= 5:
        tile(x, pixel, tap, 1, taps, 0, w, w_step, b, y, out, plane, relu, 5, 1)
    elif kt == 4 and TILE_K_SINGLE >= 4:
        tile(x, pixel, tap, 1, taps, 0, w, w_step, b, y, out, plane, relu, 4, 1)


cdef void correlate(const Op* op, const Place* place) noexcept nogil:
    """y[k, p] = b[k] + sum_t w[k, t] x[pixel[p] + tap[t]], group by group, one block."""
    cdef const real* x = <const real*>array(op, 0, place)        # IN  (groups * C, H, W, 16)
    cdef const real* w = <const real*>array(op, 1, place)        # IN  packed, see `split`
    cdef const real* b = <const real*>array(op, 2, place)        # IN  (groups * K,) or NULL
    cdef real* y = <real*>array(op, 3, place)                    # OUT (groups * K, OH, OW, 16)
    cdef const int* pixel = <const int*>array(op, 4, place)      # IN  (pixels,)
    cdef const int* out = <const int*>array(op, 5, place)        # IN  (pixels,)
    cdef const int* tap = <const int*>array(op, 6, place)        # IN  (taps,)
    cdef const int* run = <const int*>array(op, 7, place)        # IN  (runs, 6) first pixel, pixels,
                                                                 #     first tap, segments, taps, skip
    cdef Py_ssize_t K = op.n[0], taps = op.n[1], runs = op.n[2], groups = op.n[3]
    cdef Py_ssize_t x_group = op.n[4], tiles = op.n[5], relu = op.n[6], single = op.n[7]
    cdef Py_ssize_t plane = op.args[3].plane
    cdef Py_ssize_t g, i, r, kt, p, t
    for g in range(groups):
        for i in range(tiles):
            kt = K // tiles + (i < K % tiles)
            if single:
                single_any(x, pixel, tap, taps, w, kt, b, y, out, plane, relu, kt)
            else:
                for r in range(runs):
                    p = run[6 * r]
                    t = run[6 * r + 2]
                    sweep_any(x, pixel + p, run[6 * r + 1], tap + t, run[6 * r + 3], run[6 * r + 4],
                              run[6 * r + 5], w + t * kt, kt, b, y, out + p, plane, relu, kt)
            w += kt * taps
            y += kt * plane
            if b:
                b += kt
        x += x_group


def split(Py_ssize_t outputs, Py_ssize_t pixels):
    """Into how many tiles `correlate` cuts `outputs` output channels of `pixels` pixels each.

    The tiles are as equal as can be, the larger first; packed weights hold each tile's (taps, kt)
    after the other.
    """
    cdef Py_ssize_t most = TILE_K_SINGLE if pixels == 1 else TILE_K
    return (outputs + most - 1) // most


# ---------------------------------------------------------------- gradients of weights and biases

cdef inline void dw_tile(
    const real* x,          # IN  input of this block
    const real* dy,         # IN  KT planes
    Py_ssize_t plane,
    const int* x_at,        # IN  (pixels,) where each output pixel reads its first input
    const int* dy_at,       # IN  (pixels,) and where it lies in its plane
    Py_ssize_t pixels,
    const int* tap,         # IN  (TT,) offset of each tap in x
    const int* to,          # IN  (TT,) and in a row of dw
    real* dw,               # OUT KT rows, w_step apart
    Py_ssize_t w_step,
    bint first, int KT, int TT,
) noexcept nogil:
    """dw[k, t] (+)= sum over pixels and images of dy[k, p] x[p + tap[t]], KT outputs by TT taps."""
    cdef vec acc[16 * 8]
    cdef vec d[8]
    cdef const real* xs[8]
    cdef const real* ds[8]
    cdef real sums[32]
    cdef real* o
    cdef Py_ssize_t p, xp, dp
    cdef int q, h
    for q in range(TT):
        xs[q] = x + tap[q]
    for q in range(KT):
        ds[q] = dy + q * plane
    for q in range(KT * TT):
        acc[q] = vec_splat(0)
    for p in range(pixels):
        xp = x_at[p]
        dp = dy_at[p]
        for h in range(ROWV):
            for q in range(KT):
                d[q] = vec_load(ds[q] + dp + h * VL)
            for q in range(KT * TT):
                acc[q] = acc[q] + d[q // TT] * vec_load(xs[q % TT] + xp + h * VL)
    for q in range(KT * TT, (KT * TT + 3) // 4 * 4):
        acc[q] = vec_splat(0)
    for q in range((KT * TT + 3) // 4):
        vec_sum4(acc[4 * q], acc[4 * q + 1], acc[4 * q + 2], acc[4 * q + 3], sums + 4 * q)
    for q in range(KT * TT):
        o = dw + q // TT * w_step + to[q % TT]
        o[0] = sums[q] if first else o[0] + sums[q]


cdef inline void dw_taps(const real* x, const real* dy, Py_ssize_t plane, const int* x_at,
                         const int* dy_at, Py_ssize_t pixels, const int* tap, const int* to,
                         Py_ssize_t taps, real* dw, Py_ssize_t w_step, bint first, int KT) noexcept nogil:
    """All taps of one kernel row for KT outputs, in tiles as equal as can be."""
    cdef Py_ssize_t tiles = (taps + DW_TILE_T - 1) // DW_TILE_T
    cdef Py_ssize_t i, tt
    for i in range(tiles):
        tt = taps // tiles + (i < taps % tiles)
        if tt == 1:
            dw_tile(x, dy, plane, x_at, dy_at, pixels, tap, to, dw, w_step, first, KT, 1)
        elif tt == 2:
            dw_tile(x, dy, plane, x_at, dy_at, pixels, tap, to, dw, w_step, first, KT, 2)
        elif tt == 3:
            dw_tile(x, dy, plane, x_at, dy_at, pixels, tap, to, dw, w_step, first, KT, 3)
        elif tt == 4 and DW_TILE_T >= 4:
            dw_tile(x, dy, plane, x_at, dy_at, pixels, tap, to, dw, w_step, first, KT, 4)
        elif tt == 5 and DW_TILE_T >= 5:
            dw_tile(x, dy, plane, x_at, dy_at, pixels, tap, to, dw, w_step, first, KT, 5)
        tap += tt
        to += tt


cdef void conv_dw(const Op* op, const Place* place) noexcept nogil:
    """dw[k, (c, r, s)] += sum_{i, j} dy[k, i, j] x[c, i*stride + r, j*stride + s] of one block.

    The first block of a shard assigns, the others add: nothing has to be zeroed.
    """
    cdef const real* x = <const real*>array(op, 0, place)        # IN  (groups * C, H, W, 16)
    cdef const real* dy = <const real*>array(op, 1, place)       # IN  (groups * K, OH, OW, 16)
    cdef real* dw = <real*>array(op, 2, place)                   # OUT (groups * K, taps)
    cdef const int* tap = <const int*>array(op, 3, place)        # IN  (taps,) ordered by kernel row
    cdef const int* to = <const int*>array(op, 4, place)         # IN  (taps,) their places in dw
    cdef const int* span = <const int*>array(op, 5, place)       # IN  (kernel_h, 2) first and last
                                                                 #     pixel whose window has that row
    cdef const int* x_at = <const int*>array(op, 6, place)       # IN  (pixels,) offsets in x
    cdef const int* dy_at = <const int*>array(op, 7, place)      # IN  (pixels,) offsets in a plane of dy
    cdef Py_ssize_t K = op.n[0], taps = op.n[1], groups = op.n[2], x_group = op.n[3]
    cdef Py_ssize_t kernel_h = op.n[4]
    cdef Py_ssize_t plane = op.args[1].plane
    cdef Py_ssize_t tiles = (K + DW_TILE_K - 1) // DW_TILE_K, each = taps // kernel_h
    cdef Py_ssize_t g, i, r, kt, p, n
    cdef const int* t
    cdef const int* o
    cdef bint first = place.first
    for g in range(groups):
        for i in range(tiles):
            kt = K // tiles + (i < K % tiles)
            for r in range(kernel_h):
                p = span[2 * r]
                n = span[2 * r + 1] - p
                t = tap + r * each
                o = to + r * each
                if kt == 1:
                    dw_taps(x, dy, plane, x_at + p, dy_at + p, n, t, o, each, dw, taps, first, 1)
                elif kt == 2:
                    dw_taps(x, dy, plane, x_at + p, dy_at + p, n, t, o, each, dw, taps, first, 2)
                elif kt == 3:
                    dw_taps(x, dy, plane, x_at + p, dy_at + p, n, t, o, each, dw, taps, first, 3)
                elif kt == 4 and DW_TILE_K >= 4:
                    dw_taps(x, dy, plane, x_at + p, dy_at + p, n, t, o, each, dw, taps, first, 4)
            dy += kt * plane
            dw += kt * taps
        x += x_group


cdef void bias_grad(const Op* op, const Place* place) noexcept nogil:
    """db[k] += sum over pixels and images of dy[k] of one block."""
    cdef const real* dy = <const real*>array(op, 0, place)       # IN  (K, OH, OW, 16)
    cdef real* db = <real*>array(op, 1, place)                   # OUT (K,)
    cdef Py_ssize_t K = op.n[0], out_h = op.n[1], out_w = op.n[2]
    cdef const real* p
    cdef Py_ssize_t k, i, j
    cdef int q
    cdef vec acc[8]
    cdef real total
    for k in range(K):
        for q in range(ROWV):
            acc[q] = vec_splat(0)
        for i in range(out_h):
            p = dy + k * op.args[0].plane + i * op.args[0].row
            for j in range(out_w):
                for q in range(ROWV):
                    acc[q] = acc[q] + vec_load(p + q * VL)
                p += LANES
        for q in range(1, ROWV):
            acc[0] = acc[0] + acc[q]
        total = vec_sum(acc[0])
        db[k] = total if place.first else db[k] + total


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
    cdef Py_ssize_t K = op.n[0], C = op.n[1], dy_step = op.n[2]
    cdef Py_ssize_t i = place.task, each = K // op.tasks, more = K % op.tasks
    cdef Py_ssize_t k0 = i * each + min(i, more), kt = each + (i < more)
    cdef Py_ssize_t whole = C // LANES, rest = C % LANES, k, n
    cdef real edge[8 * 16]
    cdef int zero = 0
    cdef real total
    sweep_any(x, lane, whole, image, 1, place.total, 0, dy + k0, dy_step, NULL, dw + k0 * C, lane, C, 0, kt)
    if rest:
        sweep_any(x + whole * LANES, &zero, 1, image, 1, place.total, 0, dy + k0, dy_step, NULL, edge,
                  &zero, LANES, 0, kt)
        for k in range(kt):
            memcpy(dw + (k0 + k) * C + whole * LANES, edge + k * LANES, rest * sizeof(real))
    if db:
        for k in range(k0, k0 + kt):
            total = 0
            for n in range(place.total):
                total += dy[n * dy_step + k]
            db[k] = total


def tile_pixels(Py_ssize_t outputs):
    """The most pixels that a register tile has, where so many output channels are cut into tiles."""
    return TILE_J(<int>(outputs // split(outputs, 0)))


def linear_dw_tasks(Py_ssize_t outputs):
    """Into how many tasks the weight gradient of `outputs` outputs is cut."""
    return (outputs + TILE_K - 1) // TILE_K


KERNELS = {
    "correlate": (<size_t>&correlate, ("x", "w", "b", "y", "pixel", "out", "tap", "run"),
                  ("outputs", "taps", "runs", "groups", "x_group", "tiles", "relu", "single"), ()),
    "conv_dw": (<size_t>&conv_dw, ("x", "dy", "dw", "tap", "to", "span", "x_at", "dy_at"),
                ("outputs", "taps", "groups", "x_group", "kernel_h"), ()),
    "bias_grad": (<size_t>&bias_grad, ("dy", "db"), ("outputs", "out_h", "out_w"), ()),
    "linear_dw": (<size_t>&linear_dw, ("x", "dy", "dw", "db", "image", "lane"),
                  ("outputs", "inputs", "dy_step"), ()),
}
