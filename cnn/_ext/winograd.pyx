"""Convolution with fewer multiplications: Winograd's F(m x m, r x r), forward and input gradient, of one
block.

A tile of m by m outputs is y = A^T [(G w G^T) * (B^T x B)] A, where * is element by element: n^2 products,
n = m + r - 1, instead of m^2 r^2 (Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", 2016).
With all channels, the products become n^2 small matrix products, one for each *frequency* f:

    V[f, c, t] = B^T x B            of tile t               input_tile
    U[f, k, c] = G w G^T            once a step             winograd_weights
    M[f, k, t] = sum_c U[f, k, c] V[f, c, t]                matmul
    y[k, t]    = A^T M A + b[k]                             output_tile

The backward pass is that of these very formulas, the transposed matrices in the opposite order:

    D[f, k, t]  = A dy A^T                                  output_tile_backward
    dV[f, c, t] = sum_k U[f, k, c] D[f, k, t]               matmul
    dx[c]      += B dV B^T, tiles overlap by r - 1 pixels   input_tile_backward

The one-dimensional transforms are in transforms.pxd, those of tiles in tiles.pxd; the weight gradient is in
winograd_dw.pyx. Each scalar here is a row of sixteen images, see vec.pxd. The plain-NumPy twin is `winograd_conv2d` in
cnn/reference.
"""
from libc.string cimport memcmp, memcpy, memset

from cnn._ext.op cimport Image, Place, begin, end, pixels
from cnn._ext.outer cimport DEEP, NARROW, WIDE
from cnn._ext.tiles cimport Tiling, gradient_tiles, input_tile_backward, input_tiles, output_tile
from cnn._ext.transforms cimport weight_line
from cnn._ext.vec cimport LANES, ROWV, VL, real, vec, vec_load, vec_splat, vec_store

cdef extern from *:
    """
    /* Register tiles: WIDE or NARROW outputs by DEEP tiles, or SINGLE outputs where there is one tile only. */
    #define SINGLE LEAST(16, TILE_VECS / ROWV)
    """
    enum:
        SINGLE

cdef enum:
    L1_BYTES = 24576        # of V that all outputs read in turn: three quarters of an L1 cache of 32 KB


# ---------------------------------------------------------------- matrix products of one frequency

ctypedef struct Products:       # M = U V, how it is cut
    Py_ssize_t kt               # outputs at a time, see `register_tile`
    Py_ssize_t padded           # outputs, up to a multiple of kt
    Py_ssize_t group            # outputs whose M is kept


cdef inline void matmul(const real* u, const real* v, real* p, Py_ssize_t taps, Py_ssize_t chunk, bint add, int KT,
                        int TT) noexcept nogil:
    """p[k, t] (+)= sum_c u[c, k] v[c, t] for KT outputs and `chunk` tiles, TT of them in registers at a time."""
    cdef vec acc[16 * 8]
    cdef vec vv[4 * 8]
    cdef const real* up
    cdef const real* vp
    cdef Py_ssize_t t = 0, c, step = chunk * LANES
    cdef int q
    while t < chunk:
        for q in range(KT * TT * ROWV):
            acc[q] = vec_splat(0)
        if add:
            for q in range(KT * TT * ROWV):
                acc[q] = vec_load(p + q // (TT * ROWV) * step + t * LANES + q % (TT * ROWV) * VL)
        up = u
        vp = v + t * LANES
        for c in range(taps):
            for q in range(TT * ROWV):
                vv[q] = vec_load(vp + q * VL)
            for q in range(KT * TT * ROWV):
                acc[q] = acc[q] + up[q // (TT * ROWV)] * vv[q % (TT * ROWV)]
            up += KT
            vp += step
        for q in range(KT * TT * ROWV):
            vec_store(p + q // (TT * ROWV) * step + t * LANES + q % (TT * ROWV) * VL, acc[q])
        t += TT


# One function for each register tile, so that the compiler gives it its registers.
cdef void matmul_wide(const real* u, const real* v, real* p, Py_ssize_t taps, Py_ssize_t chunk,
                      bint add) noexcept nogil:
    matmul(u, v, p, taps, chunk, add, WIDE, DEEP)

cdef void matmul_narrow(const real* u, const real* v, real* p, Py_ssize_t taps, Py_ssize_t chunk,
                        bint add) noexcept nogil:
    matmul(u, v, p, taps, chunk, add, NARROW, DEEP)

cdef void matmul_single(const real* u, const real* v, real* p, Py_ssize_t taps, Py_ssize_t chunk,
                        bint add) noexcept nogil:
    matmul(u, v, p, taps, chunk, add, SINGLE, 1)


cdef void products(const real* u, Py_ssize_t u_step, const real* v, Py_ssize_t v_step, real* p, Py_ssize_t p_step,
                   Py_ssize_t taps, Py_ssize_t outputs, Py_ssize_t kt, Py_ssize_t chunk,
                   Py_ssize_t squares) noexcept nogil:
    """p[f] = u[f] v[f] for every frequency f and `outputs` outputs, `kt` of them at a time."""
    cdef Py_ssize_t most = max(1, L1_BYTES // (chunk * LANES * <Py_ssize_t>sizeof(real))), f, k, c, n
    for f in range(squares):
        c = 0
        while c < taps:     # as many channels as stay in the L1 cache for all outputs
            n = min(most, taps - c)
            k = 0
            while k < outputs:
                if chunk == 1:
                    matmul_single(u + k * taps + c * kt, v + c * chunk * LANES, p + k * chunk * LANES, n, chunk, c > 0)
                elif kt == WIDE:
                    matmul_wide(u + k * taps + c * kt, v + c * chunk * LANES, p + k * chunk * LANES, n, chunk, c > 0)
                else:
                    matmul_narrow(u + k * taps + c * kt, v + c * chunk * LANES, p + k * chunk * LANES, n, chunk, c > 0)
                k += kt
            c += n
        u += u_step
        v += v_step
        p += p_step


# ---------------------------------------------------------------- forward

ctypedef struct Winograd:
    Image x                     # IN  (C, H, W, 16), bordered
    const real* u               # IN  (N * N, K / kt, C, kt), K padded
    const real* b               # IN  (K,) or NULL
    Image y                     # OUT (K, OH, OW, 16)
    const real* zero            # IN  as many zeros as a row of x has numbers
    real* v                     # (N * N, v_step) scratch
    real* p                     # (N * N, p_step) scratch
    Tiling t
    Products m                  # of K outputs
    Py_ssize_t relu             # whether a ReLU follows


cdef inline void forward(const Winograd* a, const Place* place, int M, int R) noexcept nogil:
    """Threads that share the block take some of the chunks each; or, where there are too few, some of the outputs,
    whose input tiles then each of them transforms."""
    cdef int N = M + R - 1
    cdef const real* b = a.b
    cdef Py_ssize_t C = a.t.channels, K = a.t.outputs, out_h = a.t.out_h, out_w = a.t.out_w
    cdef Py_ssize_t wide = a.t.wide, tiles = a.t.tiles, chunk = a.t.chunk
    cdef Py_ssize_t padded = a.m.padded, group = a.m.group, relu = a.relu, y_row = a.y.row
    cdef Py_ssize_t v_step = (C * chunk + 1) * LANES, p_step = (group * chunk + 1) * LANES
    cdef Py_ssize_t chunks = (tiles + chunk - 1) // chunk, first = 0, end_k = padded, end_tile = tiles
    cdef Py_ssize_t count, t, k, k0, begin_k = 0, i, j
    if chunks >= place.parts:
        first, end_tile = begin(chunks, place) * chunk, min(tiles, end(chunks, place) * chunk)
    else:
        begin_k, end_k = begin(padded // a.m.kt, place) * a.m.kt, end(padded // a.m.kt, place) * a.m.kt
    while first < end_tile and begin_k < end_k:
        count = min(chunk, tiles - first)
        input_tiles(&a.t, &a.x, a.zero, a.v, v_step, first, count, M, R)
        k0 = begin_k
        while k0 < end_k:
            products(a.u + k0 * C, padded * C + LANES, a.v, v_step, a.p, p_step, C, min(group, end_k - k0), a.m.kt,
                     chunk, N * N)
            for k in range(k0, min(k0 + group, end_k, K)):
                for t in range(count):
                    i = (first + t) // wide * M
                    j = (first + t) % wide * M
                    output_tile(a.p + ((k - k0) * chunk + t) * LANES, p_step, pixels(&a.y, k, i) + j * LANES, y_row,
                                b[k] if b else 0, relu, min(M, out_h - i), min(M, out_w - j), M, N)
            k0 += group
        first += chunk


cdef void _forward_2_3(const Winograd* a, const Place* place) noexcept nogil:
    forward(a, place, 2, 3)

cdef void _forward_4_3(const Winograd* a, const Place* place) noexcept nogil:
    forward(a, place, 4, 3)

cdef void _forward_2_5(const Winograd* a, const Place* place) noexcept nogil:
    forward(a, place, 2, 5)


cdef void winograd(const Winograd* a, const Place* place) noexcept nogil:
    """y = A^T sum_c (G w G^T * B^T x B) A + b, tile by tile."""
    if a.t.kernel == 5:
        _forward_2_5(a, place)
    elif a.t.tile == 2:
        _forward_2_3(a, place)
    else:
        _forward_4_3(a, place)


# ---------------------------------------------------------------- backward to the input

ctypedef struct WinogradDx:
    Image dy                    # IN  (K, OH, OW, 16)
    const real* u               # IN  (N * N, C / kt, K, kt), C padded
    Image dx                    # OUT (C, H, W, 16)
    real* d                     # (N * N, d_step) scratch
    real* p                     # (N * N, p_step) scratch
    Tiling t
    Products m                  # of C outputs
    Py_ssize_t width            # W


cdef inline void backward(const WinogradDx* a, const Place* place, int M, int R) noexcept nogil:
    """Threads that share the block take some of the channels each, because tiles of dx overlap."""
    cdef int N = M + R - 1
    cdef Py_ssize_t C = a.t.channels, K = a.t.outputs, H = a.t.height, W = a.width, top = a.t.top, left = a.t.left
    cdef Py_ssize_t wide = a.t.wide, tiles = a.t.tiles, chunk = a.t.chunk
    cdef Py_ssize_t padded = a.m.padded, group = a.m.group, dx_row = a.dx.row
    cdef Py_ssize_t d_step = (K * chunk + 1) * LANES, p_step = (group * chunk + 1) * LANES
    cdef Py_ssize_t begin_c = begin(padded // a.m.kt, place) * a.m.kt, end_c = end(padded // a.m.kt, place) * a.m.kt
    cdef Py_ssize_t first, count, t, c, c0, i, j
    for c in range(begin_c, min(end_c, C)):
        for i in range(H):
            memset(pixels(&a.dx, c, i), 0, W * LANES * sizeof(real))
    first = 0
    while first < tiles and begin_c < end_c:
        count = min(chunk, tiles - first)
        gradient_tiles(&a.t, &a.dy, a.d, d_step, first, count, M, R)
        c0 = begin_c
        while c0 < end_c:
            products(a.u + c0 * K, padded * K + LANES, a.d, d_step, a.p, p_step, K, min(group, end_c - c0), a.m.kt,
                     chunk, N * N)
            for c in range(c0, min(c0 + group, end_c, C)):
                for t in range(count):
                    i = (first + t) // wide * M - top
                    j = (first + t) % wide * M - left
                    input_tile_backward(a.p + ((c - c0) * chunk + t) * LANES, p_step,
                                        pixels(&a.dx, c, i) + j * LANES, dx_row, max(0, -i), min(N, H - i),
                                        max(0, -j), min(N, W - j), N)
            c0 += group
        first += chunk


cdef void _dx_2_3(const WinogradDx* a, const Place* place) noexcept nogil:
    backward(a, place, 2, 3)

cdef void _dx_4_3(const WinogradDx* a, const Place* place) noexcept nogil:
    backward(a, place, 4, 3)

cdef void _dx_2_5(const WinogradDx* a, const Place* place) noexcept nogil:
    backward(a, place, 2, 5)


cdef void winograd_dx(const WinogradDx* a, const Place* place) noexcept nogil:
    """dx += B sum_k (G w G^T * A dy A^T) B^T, tile by tile."""
    if a.t.kernel == 5:
        _dx_2_5(a, place)
    elif a.t.tile == 2:
        _dx_2_3(a, place)
    else:
        _dx_4_3(a, place)


# ---------------------------------------------------------------- weights

ctypedef struct WinogradWeights:
    const real* w               # IN  (K, C, R, R)
    real* seen                  # I/O as w, or NULL: what was transformed last
    real* u                     # OUT (N * N, outputs / kt, taps, kt), padded
    Py_ssize_t tile             # m
    Py_ssize_t kernel           # r
    Py_ssize_t outputs          # K, or C for the input gradient
    Py_ssize_t taps             # the other one
    Py_ssize_t kt, padded       # see Products
    Py_ssize_t to_tap           # elements of w from one tap to the next
    Py_ssize_t to_output        # and from one output to the next
    Py_ssize_t turned           # whether kernels are to be turned around


cdef inline void transform_weights(const WinogradWeights* a, Py_ssize_t task, int R, int N) noexcept nogil:
    cdef Py_ssize_t taps = a.taps, kt = a.kt, padded = a.padded, to_tap = a.to_tap, to_output = a.to_output
    cdef Py_ssize_t k0 = task * kt, c, lane, n = min(kt, a.outputs - k0), turned = a.turned
    cdef vec line[6]
    cdef vec done[6]
    cdef vec half[30]
    cdef real numbers[36 * 16]      # sixteen outputs side by side
    cdef const real* wp
    cdef real* up
    cdef int i, j, h
    if a.seen:
        wp = a.w + k0 * to_output
        if memcmp(a.seen + k0 * to_output, wp, n * to_output * sizeof(real)) == 0:
            return
        memcpy(a.seen + k0 * to_output, wp, n * to_output * sizeof(real))
    memset(numbers, 0, sizeof(numbers))
    for c in range(taps):
        for lane in range(n):
            wp = a.w + (k0 + lane) * to_output + c * to_tap
            for i in range(R * R):
                numbers[i * LANES + lane] = wp[R * R - 1 - i if turned else i]
        for h in range((kt + VL - 1) // VL):
            for j in range(R):
                for i in range(R):
                    line[i] = vec_load(numbers + (i * R + j) * LANES + h * VL)
                weight_line(line, done, R, N)
                for i in range(N):
                    half[i * R + j] = done[i]
            for i in range(N):
                weight_line(&half[i * R], done, R, N)
                for j in range(N):
                    vec_store(numbers + (i * N + j) * LANES + h * VL, done[j])
        up = a.u + (k0 * taps + c * kt)
        for i in range(N * N):
            for lane in range(kt):
                up[lane] = numbers[i * LANES + lane] if lane < n else 0
            # frequencies are never a power of two apart, because they would share cache sets
            up += padded * taps + LANES


cdef void winograd_weights(const WinogradWeights* a, const Place* place) noexcept nogil:
    """u = G w G^T for a register tile of outputs a task, in the order in which `matmul` reads it. Weights that are what
    they were when they were `seen` last stay as they are."""
    if a.kernel == 5:
        transform_weights(a, place.task, 5, 6)
    elif a.tile == 2:
        transform_weights(a, place.task, 3, 4)
    else:
        transform_weights(a, place.task, 3, 6)


def register_tile(Py_ssize_t outputs):
    """How many of the outputs `matmul` takes at a time, and how many tiles: the wider tile, unless it wastes more
    than a twelfth. `outer` takes as many numbers."""
    return WIDE if (WIDE - outputs % WIDE) % WIDE * 12 <= outputs else NARROW, DEEP


SINGLE_TILE = SINGLE    # outputs at a time where there is one tile only
SPLITS = ("winograd", "winograd_dx")
include "kernels/winograd.pxi"  # KERNELS
