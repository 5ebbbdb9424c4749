"""The weight gradient of Winograd's algorithm; the other formulas stand in winograd.pyx.

    dU[f, k, c] = sum over tiles and images of D[f, k, t] V[f, c, t]
    dw          = G^T dU G

Sixteen channels c (or k) lie side by side here, as `transpose` puts them, so that nothing is summed across lanes. There
is one dU for each shard, or for wide layers, whose V and D are smaller than dU, V and D of all blocks are kept.

The plain-NumPy twin is `conv2d_backward` in cnn/reference.
"""
from cnn._ext.op cimport Image, Place
from cnn._ext.outer cimport outers, to_numbers
from cnn._ext.tiles cimport Tiling, gradient_tiles, input_tiles
from cnn._ext.transforms cimport weight_line_backward
from cnn._ext.tree cimport tree_sum
from cnn._ext.vec cimport LANES, ROWV, VL, real, vec, vec_store


# ---------------------------------------------------------------- dU of each shard

ctypedef struct WinogradDw:
    Image x                     # IN  (C, H, W, 16), bordered
    Image dy                    # IN  (K, OH, OW, 16)
    const real* zero            # IN  as many zeros as a row of x has numbers
    real* du                    # OUT (N * N, padded, wide rows) of a shard
    real* v                     # (N * N, v_step) scratch
    real* d                     # (N * N, d_step) scratch
    real* rows                  # (groups, chunk * 16, 16) scratch
    Tiling t
    Py_ssize_t at               # numbers at a time, see `register_tile`
    Py_ssize_t padded           # numbers, up to a multiple of `at`
    Py_ssize_t swapped          # whether the numbers are those of C, and the rows those of K


cdef inline void backward_weights(const WinogradDw* a, bint fresh, int M, int R) noexcept nogil:
    cdef int squares = (M + R - 1) * (M + R - 1)
    cdef Py_ssize_t C = a.t.channels, K = a.t.outputs, tiles = a.t.tiles, chunk = a.t.chunk
    cdef Py_ssize_t padded = a.padded, swapped = a.swapped
    # one side is read as numbers, the other as rows of sixteen channels
    cdef Py_ssize_t groups = ((K if swapped else C) + LANES - 1) // LANES
    cdef Py_ssize_t a_step = (padded * chunk + 1) * LANES, b_step = (groups * LANES * chunk + 1) * LANES
    cdef Py_ssize_t first = 0, count, f
    cdef const real* numbers = a.v if swapped else a.d
    cdef const real* others = a.d if swapped else a.v
    while first < tiles:
        count = min(chunk, tiles - first)
        input_tiles(&a.t, &a.x, a.zero, a.v, a_step if swapped else b_step, first, count, M, R)
        gradient_tiles(&a.t, &a.dy, a.d, b_step if swapped else a_step, first, count, M, R)
        for f in range(squares):
            to_numbers(others + f * b_step, chunk * LANES, a.rows, groups, chunk, count)
            outers(numbers + f * a_step, chunk * LANES, a.rows, chunk * LANES * LANES,
                   a.du + f * (padded * groups + 1) * LANES, padded, a.at, groups, count, fresh and first == 0)
        first += chunk


cdef void _dw_2_3(const WinogradDw* a, bint fresh) noexcept nogil:
    backward_weights(a, fresh, 2, 3)

cdef void _dw_4_3(const WinogradDw* a, bint fresh) noexcept nogil:
    backward_weights(a, fresh, 4, 3)

cdef void _dw_2_5(const WinogradDw* a, bint fresh) noexcept nogil:
    backward_weights(a, fresh, 2, 5)


cdef void winograd_dw(const WinogradDw* a, const Place* place) noexcept nogil:
    """dU[f, k, c] += sum over tiles and images of D[f, k, t] V[f, c, t], of one block."""
    if a.t.kernel == 5:
        _dw_2_5(a, place.first)
    elif a.t.tile == 2:
        _dw_2_3(a, place.first)
    else:
        _dw_4_3(a, place.first)


cdef inline void weights_backward(const real* du, Py_ssize_t f_step, Py_ssize_t shards, Py_ssize_t shard_step,
                                  real* dw, Py_ssize_t to_row, Py_ssize_t rows, int R, int N) noexcept nogil:
    """dw = G^T (sum of dU over the shards, see tree.pxd) G, for `rows` channels side by side."""
    cdef Py_ssize_t g = 0, n, lane
    cdef const real* at
    cdef vec line[6]
    cdef vec done[6]
    cdef vec half[30]
    cdef real numbers[25 * 16]
    cdef int i, j, h
    while g < rows:
        for h in range(ROWV):
            for j in range(N):
                for i in range(N):
                    at = du + (i * N + j) * f_step + g + h * VL
                    line[i] = tree_sum(at, shards, shard_step)
                weight_line_backward(line, done, R, N)
                for i in range(R):
                    half[i * N + j] = done[i]
            for i in range(R):
                weight_line_backward(&half[i * N], done, R, N)
                for j in range(R):
                    vec_store(numbers + (i * R + j) * LANES + h * VL, done[j])
        n = min(LANES, rows - g)
        for lane in range(n):
            for i in range(R * R):
                dw[(g + lane) * to_row + i] = numbers[i * LANES + lane]
        g += LANES


ctypedef struct WinogradDwSum:
    const real* du              # IN  (shards, step) of (N * N, padded, wide rows)
    real* dw                    # OUT (K, C, R, R)
    Py_ssize_t tile             # m
    Py_ssize_t kernel           # r
    Py_ssize_t rows             # channels that lie side by side: C, or if swapped K
    Py_ssize_t padded           # see WinogradDw
    Py_ssize_t step             # elements from one shard to the next
    Py_ssize_t to_number        # elements of dw from one number to the next
    Py_ssize_t to_row           # and from one channel of the rows to the next

cdef void winograd_dw_sum(const WinogradDwSum* a, const Place* place) noexcept nogil:
    """dw = G^T (sum of dU over the shards, see tree.pxd) G, of one output (or input, if swapped) a task."""
    cdef Py_ssize_t rows = a.rows, step = a.step, to_row = a.to_row, k = place.task
    cdef Py_ssize_t groups = (rows + LANES - 1) // LANES, f_step = (a.padded * groups + 1) * LANES
    cdef const real* du = a.du + k * groups * LANES
    cdef real* dw = a.dw + k * a.to_number
    if a.kernel == 5:
        weights_backward(du, f_step, place.shards, step, dw, to_row, rows, 5, 6)
    elif a.tile == 2:
        weights_backward(du, f_step, place.shards, step, dw, to_row, rows, 3, 4)
    else:
        weights_backward(du, f_step, place.shards, step, dw, to_row, rows, 3, 6)


# ---------------------------------------------------------------- V and D of all blocks

ctypedef struct WinogradTiles:
    Image x                     # IN  (C, H, W, 16), bordered
    Image dy                    # IN  (K, OH, OW, 16)
    const real* zero            # IN  as many zeros as a row of x has numbers
    real* d                     # OUT (N * N, d_step) of a block
    real* v                     # (N * N, v_step) scratch
    real* rows                  # OUT (N * N, v_step) of a block
    Tiling t
    Py_ssize_t padded           # K, up to a multiple of `at`

cdef void winograd_tiles(const WinogradTiles* a, const Place* place) noexcept nogil:
    """V, sixteen channels side by side, and D of one block, kept for `winograd_dw_all`."""
    cdef Py_ssize_t C = a.t.channels, tiles = a.t.tiles
    cdef Py_ssize_t groups = (C + LANES - 1) // LANES
    cdef Py_ssize_t v_step = (groups * LANES * tiles + 1) * LANES, d_step = (a.padded * tiles + 1) * LANES, f
    cdef int squares = 16 if a.t.tile == 2 and a.t.kernel == 3 else 36
    if a.t.kernel == 5:
        input_tiles(&a.t, &a.x, a.zero, a.v, v_step, 0, tiles, 2, 5)
        gradient_tiles(&a.t, &a.dy, a.d, d_step, 0, tiles, 2, 5)
    elif a.t.tile == 2:
        input_tiles(&a.t, &a.x, a.zero, a.v, v_step, 0, tiles, 2, 3)
        gradient_tiles(&a.t, &a.dy, a.d, d_step, 0, tiles, 2, 3)
    else:
        input_tiles(&a.t, &a.x, a.zero, a.v, v_step, 0, tiles, 4, 3)
        gradient_tiles(&a.t, &a.dy, a.d, d_step, 0, tiles, 4, 3)
    for f in range(squares):
        to_numbers(a.v + f * v_step, tiles * LANES, a.rows + f * v_step, groups, tiles, tiles)


ctypedef struct WinogradDwAll:
    const real* d               # IN  (blocks, d_block) of (N * N, d_step)
    const real* rows            # IN  (blocks, rows_block) of (N * N, v_step)
    real* du                    # (N * N, each, wide rows) scratch
    real* dw                    # OUT (K, C, R, R)
    Py_ssize_t tile             # m
    Py_ssize_t kernel           # r
    Py_ssize_t channels         # C
    Py_ssize_t outputs          # K
    Py_ssize_t tiles            # of an image
    Py_ssize_t at, padded       # see WinogradDw
    Py_ssize_t each             # outputs of a task
    Py_ssize_t d_block          # elements of d from one block to the next
    Py_ssize_t rows_block       # and of rows

cdef void winograd_dw_all(const WinogradDwAll* a, const Place* place) noexcept nogil:
    """dw = G^T dU G for a few outputs a task, dU summed over all blocks in their order.

    For wide layers, whose V and D are smaller than dU.
    """
    cdef Py_ssize_t C = a.channels, K = a.outputs, tiles = a.tiles, padded = a.padded, each = a.each
    cdef Py_ssize_t groups = (C + LANES - 1) // LANES, R = a.kernel
    cdef Py_ssize_t v_step = (groups * LANES * tiles + 1) * LANES, d_step = (padded * tiles + 1) * LANES
    cdef Py_ssize_t k0 = place.task * each, n = min(each, padded - k0), f, block, k
    cdef int squares = 16 if a.tile == 2 and R == 3 else 36
    for f in range(squares):
        for block in range(place.blocks):
            outers(a.d + block * a.d_block + f * d_step + k0 * tiles * LANES, tiles * LANES,
                   a.rows + block * a.rows_block + f * v_step, tiles * LANES * LANES,
                   a.du + f * (each * groups + 1) * LANES, n, a.at, groups, tiles, block == 0)
    for k in range(min(n, K - k0)):
        if R == 5:
            weights_backward(a.du + k * groups * LANES, (each * groups + 1) * LANES, place.blocks > 0, 0,
                             a.dw + (k0 + k) * C * 25, 25, C, 5, 6)
        elif squares == 16:
            weights_backward(a.du + k * groups * LANES, (each * groups + 1) * LANES, place.blocks > 0, 0,
                             a.dw + (k0 + k) * C * 9, 9, C, 3, 4)
        else:
            weights_backward(a.du + k * groups * LANES, (each * groups + 1) * LANES, place.blocks > 0, 0,
                             a.dw + (k0 + k) * C * 9, 9, C, 3, 6)


include "kernels/winograd_dw.pxi"   # KERNELS
