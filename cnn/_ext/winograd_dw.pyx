"""The weight gradient of Winograd's algorithm; the other formulas stand in winograd.pyx.

    dU[f, k, c] = sum over tiles and images of D[f, k, t] V[f, c, t]
    dw          = G^T dU G

Sixteen channels c (or k) lie side by side here, as `transpose` puts them, so that nothing is summed across lanes. There
is one dU for each shard, or for wide layers, whose V and D are smaller than dU, V and D of all blocks are kept.

The plain-NumPy twin is `conv2d_backward` in cnn/reference.
"""
from cnn._ext.op cimport Image, Place
from cnn._ext.outer cimport outers, to_numbers
from cnn._ext.tiles cimport Chunk, Tiling, input_tiles_sized, output_tiles_backward_sized
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


cdef void winograd_dw(const WinogradDw* a, const Place* place) noexcept nogil:
    """dU[f, k, c] += sum over tiles and images of D[f, k, t] V[f, c, t], of one block."""
    cdef Py_ssize_t m = a.t.tile, r = a.t.kernel, tiles = a.t.tiles, chunk = a.t.chunk
    cdef Py_ssize_t padded = a.padded, swapped = a.swapped
    # one side is read as numbers, the other as rows of sixteen channels
    cdef Py_ssize_t groups = ((a.t.outputs if swapped else a.t.channels) + LANES - 1) // LANES
    cdef Py_ssize_t a_step = (padded * chunk + 1) * LANES, b_step = (groups * LANES * chunk + 1) * LANES
    cdef Py_ssize_t first = 0, count, f
    cdef const real* numbers = a.v if swapped else a.d
    cdef const real* others = a.d if swapped else a.v
    cdef Chunk v, d
    v.t, v.image, v.zero, v.numbers, v.step = &a.t, &a.x, a.zero, a.v, a_step if swapped else b_step
    d.t, d.image, d.numbers, d.step = &a.t, &a.dy, a.d, b_step if swapped else a_step
    while first < tiles:
        count = min(chunk, tiles - first)
        v.first = d.first = first
        v.end = d.end = first + count
        input_tiles_sized(&v, m, r)
        output_tiles_backward_sized(&d, m, r)
        for f in range((m + r - 1) * (m + r - 1)):
            to_numbers(others + f * b_step, chunk * LANES, a.rows, groups, chunk, count)
            outers(numbers + f * a_step, chunk * LANES, a.rows, chunk * LANES * LANES,
                   a.du + f * (padded * groups + 1) * LANES, padded, a.at, groups, count, place.first and first == 0)
        first += chunk


ctypedef struct Summed:         # dU of one number, to become dw
    const real* du
    Py_ssize_t f_step           # elements from one frequency to the next
    Py_ssize_t shards, shard_step
    real* dw
    Py_ssize_t rows             # channels side by side
    Py_ssize_t to_row           # elements of dw from one to the next


cdef inline void weight_tiles_backward "weight_tiles_backward"(void* summed, int M, int R) noexcept nogil:
    """dw = G^T (sum of dU over the shards, see tree.pxd) G."""
    cdef const Summed* s = <const Summed*>summed
    cdef int N = M + R - 1
    cdef Py_ssize_t f_step = s.f_step, g = 0, n, lane
    cdef const real* at
    cdef vec line[6]
    cdef vec done[6]
    cdef vec half[30]
    cdef real numbers[25 * 16]
    cdef int i, j, h
    while g < s.rows:
        for h in range(ROWV):
            for j in range(N):
                for i in range(N):
                    at = s.du + (i * N + j) * f_step + g + h * VL
                    line[i] = tree_sum(at, s.shards, s.shard_step)
                weight_line_backward(line, done, R, N)
                for i in range(R):
                    half[i * N + j] = done[i]
            for i in range(R):
                weight_line_backward(&half[i * N], done, R, N)
                for j in range(R):
                    vec_store(numbers + (i * R + j) * LANES + h * VL, done[j])
        n = min(LANES, s.rows - g)
        for lane in range(n):
            for i in range(R * R):
                s.dw[(g + lane) * s.to_row + i] = numbers[i * LANES + lane]
        g += LANES


cdef extern from *:
    """
    SIZES(weight_tiles_backward)
    """
    void weight_tiles_backward_sized(void* summed, Py_ssize_t m, Py_ssize_t r) nogil


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
    cdef Py_ssize_t groups = (a.rows + LANES - 1) // LANES
    cdef Summed s
    s.du, s.f_step = a.du + place.task * groups * LANES, (a.padded * groups + 1) * LANES
    s.shards, s.shard_step = place.shards, a.step
    s.dw, s.rows, s.to_row = a.dw + place.task * a.to_number, a.rows, a.to_row
    weight_tiles_backward_sized(&s, a.tile, a.kernel)


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
    cdef Py_ssize_t m = a.t.tile, r = a.t.kernel, tiles = a.t.tiles, f
    cdef Py_ssize_t groups = (a.t.channels + LANES - 1) // LANES, v_step = (groups * LANES * tiles + 1) * LANES
    cdef Chunk v, d
    v.t, v.image, v.zero, v.numbers, v.step = &a.t, &a.x, a.zero, a.v, v_step
    d.t, d.image, d.numbers, d.step = &a.t, &a.dy, a.d, (a.padded * tiles + 1) * LANES
    v.first = d.first = 0
    v.end = d.end = tiles
    input_tiles_sized(&v, m, r)
    output_tiles_backward_sized(&d, m, r)
    for f in range((m + r - 1) * (m + r - 1)):
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
    cdef Py_ssize_t C = a.channels, m = a.tile, r = a.kernel, tiles = a.tiles, each = a.each
    cdef Py_ssize_t groups = (C + LANES - 1) // LANES
    cdef Py_ssize_t v_step = (groups * LANES * tiles + 1) * LANES, d_step = (a.padded * tiles + 1) * LANES
    cdef Py_ssize_t k0 = place.task * each, n = min(each, a.padded - k0), f, block, k
    cdef Summed s
    for f in range((m + r - 1) * (m + r - 1)):
        for block in range(place.blocks):
            outers(a.d + block * a.d_block + f * d_step + k0 * tiles * LANES, tiles * LANES,
                   a.rows + block * a.rows_block + f * v_step, tiles * LANES * LANES,
                   a.du + f * (each * groups + 1) * LANES, n, a.at, groups, tiles, block == 0)
    s.f_step, s.shards, s.shard_step = (each * groups + 1) * LANES, place.blocks > 0, 0
    s.rows, s.to_row = C, r * r
    for k in range(min(n, a.outputs - k0)):
        s.du, s.dw = a.du + k * groups * LANES, a.dw + (k0 + k) * C * r * r
        weight_tiles_backward_sized(&s, m, r)


include "kernels/winograd_dw.pxi"   # KERNELS
