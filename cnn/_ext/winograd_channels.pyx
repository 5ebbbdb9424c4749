"""Convolution of one image with fewer multiplications, sixteen channels side by side, see winograd.pyx for the formulas
and conv_channels.pyx for what scale, shift, z and a ReLU do:

    V[f, c, t] = B^T x B,   P[f, k, t] = sum_c U[f, k, c] V[f, c, t],   y[k, t] = scale[k] A^T P A + shift[k]  [+ z]

For each frequency f the sums over c are a convolution of one pixel, of an image whose pixels are the tiles t: the
register tiles of conv_channels.pyx compute it. The plain-NumPy twin is `winograd_conv2d` in cnn/reference.
"""
from cnn._ext.op cimport Image, Place, begin, end, pixels
from cnn._ext.tiles cimport Chunk, Tiling, input_tiles_sized, output_columns
from cnn._ext.transforms cimport output_line
from cnn._ext.vec cimport LANES, ROWV, VL, real, vec, vec_load, vec_relu, vec_store


ctypedef struct WinogradChannels:
    Image x                     # IN  (C / 16, H, W, 16), bordered
    const real* u               # IN  (N * N, K / 16, C, 16), LANES numbers between frequencies
    const real* scale           # IN  (K / 16, 16)
    const real* shift           # IN  (K / 16, 16)
    Image z                     # IN  as y, or NULL
    Image y                     # OUT (K / 16, OH, OW, 16)
    const real* zero            # IN  as many zeros as a row of x has numbers
    real* v                     # (N * N, v_step) scratch
    real* p                     # (N * N, p_step) scratch
    Tiling t                    # channels and outputs: C / 16 and K / 16
    Py_ssize_t count            # C
    Py_ssize_t relu             # whether a ReLU follows


ctypedef struct Fitted:         # some tiles of y
    const WinogradChannels* a
    Py_ssize_t p_step           # elements from one frequency to the next
    Py_ssize_t first, end       # tiles
    Py_ssize_t k, after         # sixteens of outputs


cdef inline void fitted_tile(const WinogradChannels* a, const real* p, Py_ssize_t p_step, Py_ssize_t k, Py_ssize_t i,
                             Py_ssize_t j, int M, int N) noexcept nogil:
    """The tile of y whose first pixel is (i, j), of the sixteen outputs from 16 k on; p: their products."""
    cdef Py_ssize_t rows = min(M, a.t.out_h - i), columns = min(M, a.t.out_w - j), u
    cdef vec done[4]
    cdef vec half[24]
    cdef vec scale, shift
    cdef real* y
    cdef const real* z
    cdef int n, h
    for h in range(ROWV):
        scale, shift = vec_load(a.scale + k * LANES + h * VL), vec_load(a.shift + k * LANES + h * VL)
        output_columns(p + h * VL, p_step, half, M, N)
        for u in range(rows):
            output_line(&half[u * N], done, M, N)
            y = pixels(&a.y, k, i + u) + j * LANES + h * VL
            z = pixels(&a.z, k, i + u) + j * LANES + h * VL
            for n in range(M):
                if n < columns:
                    done[n] = done[n] * scale + shift
                    if a.z.data:
                        done[n] = done[n] + vec_load(z + n * LANES)
                    vec_store(y + n * LANES, vec_relu(done[n]) if a.relu else done[n])


cdef inline void fitted_tiles "fitted_tiles"(void* fitted, int M, int R) noexcept nogil:
    """y, of P."""
    cdef const Fitted* s = <const Fitted*>fitted
    cdef Py_ssize_t wide = s.a.t.wide, chunk = s.a.t.chunk, k, t
    for k in range(s.k, s.after):
        for t in range(s.first, s.end):
            fitted_tile(s.a, s.a.p + (k * chunk + t - s.first) * LANES, s.p_step, k, t // wide * M, t % wide * M, M,
                        M + R - 1)


cdef extern from *:
    """
    SIZES(fitted_tiles)
    """
    void fitted_tiles_sized(void* fitted, Py_ssize_t m, Py_ssize_t r) nogil


cdef inline void tile_products(Sum* s, Py_ssize_t sixteens, Py_ssize_t count) noexcept nogil:
    """P of one frequency, of `count` tiles and so many sixteens of outputs, one or two."""
    cdef Py_ssize_t most = PIXELS if sixteens == 1 else PIXELS_OF_TWO
    cdef Py_ssize_t across = (count + most - 1) // most, j, first, P
    cdef const real* x = s.x
    cdef real* y = s.y
    for j in range(across):
        first = count * j // across
        P = count * (j + 1) // across - first
        s.x, s.y = x + first * LANES, y + first * LANES
        (near_tiles[P] if sixteens == 1 else near_two_tiles[P])(s)


cdef void winograd_channels(const WinogradChannels* a, const Place* place) noexcept nogil:
    """y, of one image, tile by tile.

    Threads that share the image take some of the tiles each; or, where there are too few, some of the outputs, whose
    input tiles then each of them transforms."""
    cdef Py_ssize_t m = a.t.tile, r = a.t.kernel, C = a.t.channels, K = a.t.outputs, chunk = a.t.chunk
    cdef Py_ssize_t tiles = a.t.tiles, v_step = (C * chunk + 1) * LANES, p_step = (K * chunk + 1) * LANES
    cdef Py_ssize_t u_step = (K * a.count + 1) * LANES, first = 0, last = tiles, first_k = 0, last_k = K, f, k, each
    cdef real ones[2 * 16]
    cdef real zeros[2 * 16]
    cdef Sum s
    cdef Chunk v
    cdef Fitted y
    for k in range(2 * LANES):
        ones[k], zeros[k] = 1, 0
    if tiles >= place.parts * PIXELS_OF_TWO:
        first, last = begin(tiles, place), end(tiles, place)
    else:
        first_k, last_k = begin(K, place), end(K, place)
    s.x_plane, s.x_row, s.x_tap, s.x_pixel = chunk * LANES, 0, 0, LANES
    s.rows, s.columns, s.channels, s.w_group = 1, 1, a.count, a.count * LANES
    s.scale, s.shift = ones, zeros
    s.z, s.z_plane, s.y_plane, s.y_pixel, s.relu = NULL, 0, chunk * LANES, LANES, False
    v.t, v.image, v.zero, v.numbers, v.step = &a.t, &a.x, a.zero, a.v, v_step
    y.a, y.p_step, y.k, y.after = a, p_step, first_k, last_k
    while first < last and first_k < last_k:
        v.first = y.first = first
        v.end = y.end = min(first + chunk, last)
        input_tiles_sized(&v, m, r)
        for f in range((m + r - 1) * (m + r - 1)):
            k = first_k
            while k < last_k:
                each = 2 if k + 1 < last_k else 1
                s.x, s.w = a.v + f * v_step, a.u + f * u_step + k * s.w_group
                s.y = a.p + f * p_step + k * s.y_plane
                tile_products(&s, each, v.end - first)
                k += each
        fitted_tiles_sized(&y, m, r)
        first += chunk


SPLITS = ("winograd_channels",)
include "kernels/winograd_channels.pxi"     # KERNELS
