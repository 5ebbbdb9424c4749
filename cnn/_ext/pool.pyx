"""Pooling of one block, forward and backward. Twins: `max_pool2d`, `avg_pool2d` and their
`..._backward` in cnn/reference.

Where the windows lie is a table for the rows and one for the columns (cnn/ops/pool.py): for each of them
the first pixel of the input, one past the last, and its share of what an average is divided by. The pixels
lie a step apart, the dilation. So the same kernels serve strides, padding, dilation and adaptive pooling.

Maximum: y[c, i, j] = max over the window of x, with PyTorch's rules: of equal values the first in row-major
order wins, a NaN wins over everything, padding never wins. The index of the winner, kept for each
image, counts through the unpadded H x W plane; the gradient goes to the winner alone, and where
windows overlap the gradients add up.

A ReLU before the maximum can be part of it: max(relu(x)) = relu(max(x)), and a window without a
positive value has no winner (index -1), so that no gradient passes.

Average: y[c, i, j] = sum over the window of x / divisor, and every pixel of it gets dy / divisor.
"""
from libc.string cimport memset

from cnn._ext.op cimport Image, Indices, Place, begin, end, pixels
from cnn._ext.vec cimport (LANES, ROWV, VL, integer, ivec, ivec_eq, ivec_load, ivec_splat, real, vec, vec_clear,
                           vec_div, vec_keep, vec_load, vec_splat, vec_store, vec_sum)
from cnn._ext.window cimport window_max, window_pairs


ctypedef struct Side:           # the rows or the columns of a window
    int first
    int stop                    # the last, plus one
    int share                   # of what an average is divided by

ctypedef struct Windows:
    const Side* rows            # IN  (OH,)
    const Side* columns         # IN  (OW,)
    Py_ssize_t channels, height, width, out_h, out_w
    Py_ssize_t row_step, column_step        # from pixel to pixel of a window
    Py_ssize_t tiles            # whether the windows cover every pixel once
    Py_ssize_t pairs            # whether they are 2 x 2 and side by side


ctypedef struct MaxPool:
    Image x                     # IN  (C, H, W, 16)
    Image y                     # OUT (C, OH, OW, 16)
    Indices index               # OUT (C, OH, OW, 16) or NULL
    Windows win
    Py_ssize_t relu             # whether a ReLU comes before

cdef void max_pool(const MaxPool* a, const Place* place) noexcept nogil:
    """y[c, i, j] = max over the window of x; index: where it is."""
    cdef integer* index = a.index.data
    cdef const Side* rows = a.win.rows
    cdef const Side* columns = a.win.columns
    cdef Py_ssize_t down = a.win.row_step, right = a.win.column_step
    cdef Py_ssize_t C = a.win.channels, W = a.win.width, out_h = a.win.out_h, out_w = a.win.out_w
    cdef Py_ssize_t row = a.x.row, c, i, j, u0, u1, v0, v1
    cdef bint pairs = a.win.pairs, relu = a.relu
    cdef const real* xc
    cdef real* yp
    cdef integer* ip = NULL
    for c in range(begin(C, place), end(C, place)):
        xc = pixels(&a.x, c, 0)
        for i in range(out_h):
            yp = pixels(&a.y, c, i)
            if index:
                ip = index + c * a.index.plane + i * a.index.row
            u0 = rows[i].first
            u1 = rows[i].stop
            if pairs:
                window_pairs(xc + u0 * row, row, u0 * W, W, out_w, yp, ip, relu)
                continue
            for j in range(out_w):
                v0 = columns[j].first
                v1 = columns[j].stop
                window_max(xc, row, u0, u1, v0, v1, down, right, W, yp, ip, relu)
                yp += LANES
                if index:
                    ip += LANES


cdef inline void window_spread(
    const real* dy,         # IN  (16,)
    const integer* index,   # IN  (16,)
    real* dx,               # OUT one plane
    Py_ssize_t row,
    Py_ssize_t u0, Py_ssize_t u1, Py_ssize_t v0, Py_ssize_t v1,
    Py_ssize_t down, Py_ssize_t right,      # steps from pixel to pixel
    Py_ssize_t W,
    bint add,               # 0 where no other window reaches these pixels: assign
) noexcept nogil:
    cdef vec gradient, share
    cdef ivec where
    cdef real* to
    cdef Py_ssize_t u, v
    cdef int q
    for q in range(ROWV):
        gradient = vec_load(dy + q * VL)
        where = ivec_load(index + q * VL)
        u = u0
        while u < u1:
            v = v0
            while v < v1:
                to = dx + u * row + v * LANES + q * VL
                share = vec_keep(ivec_eq(where, ivec_splat(u * W + v)), gradient)
                if add:
                    share = share + vec_load(to)
                vec_store(to, share)
                v += right
            u += down


cdef inline void pairs_spread(const real* dy, const integer* index, real* dx, Py_ssize_t row, Py_ssize_t first,
                              Py_ssize_t W, Py_ssize_t count, vec* total) noexcept nogil:
    """The gradient of `window_pairs`: `window_spread` without tables. Adds what it spreads to `total`."""
    cdef vec gradient
    cdef ivec where, base = ivec_splat(first)
    cdef ivec none = ivec_splat(-1), here = ivec_splat(0), right = ivec_splat(1), down = ivec_splat(W)
    cdef ivec across = ivec_splat(W + 1)
    cdef Py_ssize_t j
    cdef real* to
    cdef int q
    for j in range(count):
        for q in range(ROWV):
            gradient = vec_load(dy + j * LANES + q * VL)
            where = ivec_load(index + j * LANES + q * VL)
            total[q] = total[q] + vec_clear(ivec_eq(where, none), gradient)
            where = where - base
            to = dx + 2 * j * LANES + q * VL
            vec_store(to, vec_keep(ivec_eq(where, here), gradient))
            vec_store(to + LANES, vec_keep(ivec_eq(where, right), gradient))
            vec_store(to + row, vec_keep(ivec_eq(where, down), gradient))
            vec_store(to + row + LANES, vec_keep(ivec_eq(where, across), gradient))
        base = base + right + right


ctypedef struct MaxPoolBackward:
    Image dy                    # IN  (C, OH, OW, 16)
    Indices index               # IN  (C, OH, OW, 16)
    Image dx                    # OUT (C, H, W, 16)
    real* sums                  # OUT (C,) of a shard, or NULL
    Windows win

cdef void max_pool_backward(const MaxPoolBackward* a, const Place* place) noexcept nogil:
    """dx[c, u, v] = sum of dy[c, i, j] over the windows (i, j) whose maximum is at (u, v).

    `sums`, with `pairs` only, get the sum over all pixels of dx[c]: fewer windows than pixels have to be added.
    """
    cdef const integer* index = a.index.data
    cdef const Side* rows = a.win.rows
    cdef const Side* columns = a.win.columns
    cdef Py_ssize_t down = a.win.row_step, right = a.win.column_step
    cdef Py_ssize_t C = a.win.channels, H = a.win.height, W = a.win.width, out_h = a.win.out_h, out_w = a.win.out_w
    cdef Py_ssize_t row = a.dx.row, c, i, j, u, u0, u1, v0, v1
    cdef const real* dp
    cdef const integer* ip
    cdef real* dxc
    cdef real* sums = a.sums
    cdef vec total[8]
    cdef int q
    # windows that tile the plane write every pixel once; any others add to zeros
    cdef bint tiles = a.win.tiles, pairs = a.win.pairs
    for c in range(begin(C, place), end(C, place)):
        dxc = pixels(&a.dx, c, 0)
        if not tiles:
            for u in range(H):
                memset(dxc + u * row, 0, W * LANES * sizeof(real))
        for q in range(ROWV):
            total[q] = vec_splat(0)
        for i in range(out_h):
            dp = pixels(&a.dy, c, i)
            ip = index + c * a.index.plane + i * a.index.row
            u0 = rows[i].first
            u1 = rows[i].stop
            if pairs:
                pairs_spread(dp, ip, dxc + u0 * row, row, u0 * W, W, out_w, total)
                continue
            for j in range(out_w):
                v0 = columns[j].first
                v1 = columns[j].stop
                window_spread(dp, ip, dxc, row, u0, u1, v0, v1, down, right, W, not tiles)
                dp += LANES
                ip += LANES
        if sums:
            for q in range(1, ROWV):
                total[0] = total[0] + total[q]
            sums[c] = vec_sum(total[0]) if place.first else sums[c] + vec_sum(total[0])


ctypedef struct MaxPoolScatter:
    Image dy                    # IN  (C, OH, OW, 16)
    Indices index               # IN  (C, OH, OW, 16)
    Image dx                    # OUT (C, H, W, 16), no border
    Py_ssize_t channels, height, width
    Py_ssize_t pixels           # of a channel of dy

cdef void max_pool_scatter(const MaxPoolScatter* a, const Place* place) noexcept nogil:
    """dx[c, index] += dy where only the indices are known, not the windows they came from."""
    cdef const integer* index = a.index.data
    cdef Py_ssize_t C = a.channels, H = a.height, W = a.width, c, p, lane
    cdef const real* dp
    cdef const integer* ip
    cdef real* dxc
    for c in range(begin(C, place), end(C, place)):
        dp = pixels(&a.dy, c, 0)
        ip = index + c * a.index.plane
        dxc = pixels(&a.dx, c, 0)
        memset(dxc, 0, H * W * LANES * sizeof(real))
        for p in range(a.pixels):
            for lane in range(LANES):
                dxc[ip[p * LANES + lane] * LANES + lane] += dp[p * LANES + lane]


cdef inline void window_mean(
    const real* x,          # IN  one plane
    Py_ssize_t row,
    Py_ssize_t u0, Py_ssize_t u1, Py_ssize_t v0, Py_ssize_t v1,
    Py_ssize_t down, Py_ssize_t right,      # steps from pixel to pixel
    real divisor,
    real* y,                # OUT (16,)
) noexcept nogil:
    """Row by row, and then the rows' sums: of a large window, one sum after the other would lose digits."""
    cdef vec total, part
    cdef Py_ssize_t u, v
    cdef int q
    for q in range(ROWV):
        total = vec_splat(0)
        u = u0
        while u < u1:
            part = vec_splat(0)
            v = v0
            while v < v1:
                part = part + vec_load(x + u * row + v * LANES + q * VL)
                v += right
            total = total + part
            u += down
        vec_store(y + q * VL, vec_div(total, vec_splat(divisor)))


ctypedef struct AvgPool:
    Image x                     # IN  (C, H, W, 16)
    Image y                     # OUT (C, OH, OW, 16)
    Windows win

cdef void avg_pool(const AvgPool* a, const Place* place) noexcept nogil:
    """y[c, i, j] = sum over the window of x / divisor"""
    cdef const Side* rows = a.win.rows
    cdef const Side* columns = a.win.columns
    cdef Py_ssize_t down = a.win.row_step, right = a.win.column_step
    cdef Py_ssize_t C = a.win.channels, out_h = a.win.out_h, out_w = a.win.out_w
    cdef Py_ssize_t row = a.x.row, c, i, j, u0, u1, v0, v1
    cdef real divisor
    cdef const real* xc
    cdef real* yp
    for c in range(begin(C, place), end(C, place)):
        xc = pixels(&a.x, c, 0)
        for i in range(out_h):
            yp = pixels(&a.y, c, i)
            u0 = rows[i].first
            u1 = rows[i].stop
            for j in range(out_w):
                v0 = columns[j].first
                v1 = columns[j].stop
                divisor = <real>rows[i].share * <real>columns[j].share
                if down == right == 1 and u1 - u0 == 2 and v1 - v0 == 2:
                    window_mean(xc, row, u0, u0 + 2, v0, v0 + 2, 1, 1, divisor, yp)
                else:
                    window_mean(xc, row, u0, u1, v0, v1, down, right, divisor, yp)
                yp += LANES


cdef inline void window_share(
    const real* dy,         # IN  (16,)
    real divisor,
    real* dx,               # OUT one plane
    Py_ssize_t row,
    Py_ssize_t u0, Py_ssize_t u1, Py_ssize_t v0, Py_ssize_t v1,
    Py_ssize_t down, Py_ssize_t right,      # steps from pixel to pixel
    bint add,               # 0 where no other window reaches these pixels: assign
) noexcept nogil:
    cdef vec share
    cdef real* to
    cdef Py_ssize_t u, v
    cdef int q
    for q in range(ROWV):
        share = vec_div(vec_load(dy + q * VL), vec_splat(divisor))
        u = u0
        while u < u1:
            v = v0
            while v < v1:
                to = dx + u * row + v * LANES + q * VL
                if add:
                    vec_store(to, share + vec_load(to))
                else:
                    vec_store(to, share)
                v += right
            u += down


ctypedef struct AvgPoolBackward:
    Image dy                    # IN  (C, OH, OW, 16)
    Image dx                    # OUT (C, H, W, 16)
    Windows win

cdef void avg_pool_backward(const AvgPoolBackward* a, const Place* place) noexcept nogil:
    """dx[c, u, v] = sum of dy[c, i, j] / divisor over the windows (i, j) that see (u, v)."""
    cdef const Side* rows = a.win.rows
    cdef const Side* columns = a.win.columns
    cdef Py_ssize_t down = a.win.row_step, right = a.win.column_step
    cdef Py_ssize_t C = a.win.channels, H = a.win.height, W = a.win.width, out_h = a.win.out_h, out_w = a.win.out_w
    cdef Py_ssize_t row = a.dx.row, c, i, j, u, u0, u1, v0, v1
    cdef bint tiles = a.win.tiles
    cdef real divisor
    cdef const real* dp
    cdef real* dxc
    for c in range(begin(C, place), end(C, place)):
        dxc = pixels(&a.dx, c, 0)
        if not tiles:
            for u in range(H):
                memset(dxc + u * row, 0, W * LANES * sizeof(real))
        for i in range(out_h):
            dp = pixels(&a.dy, c, i)
            u0 = rows[i].first
            u1 = rows[i].stop
            for j in range(out_w):
                v0 = columns[j].first
                v1 = columns[j].stop
                divisor = <real>rows[i].share * <real>columns[j].share
                if tiles and u1 - u0 == 2 and v1 - v0 == 2:
                    window_share(dp, divisor, dxc, row, u0, u0 + 2, v0, v0 + 2, 1, 1, 0)
                else:
                    window_share(dp, divisor, dxc, row, u0, u1, v0, v1, down, right, not tiles)
                dp += LANES


SPLITS = ("max_pool", "max_pool_backward", "max_pool_scatter", "avg_pool", "avg_pool_backward")
include "kernels/pool.pxi"      # KERNELS
