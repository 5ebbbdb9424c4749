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
from cnn._ext.tiles cimport (Chunk, Tiling, input_tiles_backward_sized, input_tiles_sized, output_tiles_backward_sized,
                             output_tiles_sized)
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


cdef void winograd(const Winograd* a, const Place* place) noexcept nogil:
    """y = A^T sum_c (G w G^T * B^T x B) A + b, tile by tile.

    Threads that share the block take some of the chunks each; or, where there are too few, some of the outputs, whose
    input tiles then each of them transforms."""
    cdef Py_ssize_t m = a.t.tile, r = a.t.kernel, squares = (m + r - 1) * (m + r - 1)
    cdef Py_ssize_t C = a.t.channels, K = a.t.outputs, tiles = a.t.tiles, chunk = a.t.chunk
    cdef Py_ssize_t padded = a.m.padded, group = a.m.group
    cdef Py_ssize_t v_step = (C * chunk + 1) * LANES, p_step = (group * chunk + 1) * LANES
    cdef Py_ssize_t chunks = (tiles + chunk - 1) // chunk, first = 0, end_tile = tiles, begin_k = 0, end_k = padded, k
    cdef Chunk v, p
    v.t, v.image, v.zero, v.numbers, v.step = &a.t, &a.x, a.zero, a.v, v_step
    p.t, p.image, p.b, p.relu, p.numbers, p.step = &a.t, &a.y, a.b, a.relu, a.p, p_step
    if chunks >= place.parts:
        first, end_tile = begin(chunks, place) * chunk, min(tiles, end(chunks, place) * chunk)
    else:
        begin_k, end_k = begin(padded // a.m.kt, place) * a.m.kt, end(padded // a.m.kt, place) * a.m.kt
    while first < end_tile and begin_k < end_k:
        v.first = p.first = first
        v.end = p.end = min(first + chunk, tiles)
        input_tiles_sized(&v, m, r)
        k = begin_k
        while k < end_k:
            products(a.u + k * C, padded * C + LANES, a.v, v_step, a.p, p_step, C, min(group, end_k - k), a.m.kt,
                     chunk, squares)
            p.channel, p.after = k, min(k + group, end_k, K)
            output_tiles_sized(&p, m, r)
            k += group
        first += chunk


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


cdef void winograd_dx(const WinogradDx* a, const Place* place) noexcept nogil:
    """dx += B sum_k (G w G^T * A dy A^T) B^T, tile by tile.

    Threads that share the block take some of the channels each, because tiles of dx overlap."""
    cdef Py_ssize_t m = a.t.tile, r = a.t.kernel, squares = (m + r - 1) * (m + r - 1)
    cdef Py_ssize_t C = a.t.channels, K = a.t.outputs, tiles = a.t.tiles, chunk = a.t.chunk
    cdef Py_ssize_t padded = a.m.padded, group = a.m.group
    cdef Py_ssize_t d_step = (K * chunk + 1) * LANES, p_step = (group * chunk + 1) * LANES
    cdef Py_ssize_t begin_c = begin(padded // a.m.kt, place) * a.m.kt, end_c = end(padded // a.m.kt, place) * a.m.kt
    cdef Py_ssize_t first = 0, c, i
    cdef Chunk d, p
    d.t, d.image, d.numbers, d.step = &a.t, &a.dy, a.d, d_step
    p.t, p.image, p.width, p.numbers, p.step = &a.t, &a.dx, a.width, a.p, p_step
    for c in range(begin_c, min(end_c, C)):
        for i in range(a.t.height):
            memset(pixels(&a.dx, c, i), 0, a.width * LANES * sizeof(real))
    while first < tiles and begin_c < end_c:
        d.first = p.first = first
        d.end = p.end = min(first + chunk, tiles)
        output_tiles_backward_sized(&d, m, r)
        c = begin_c
        while c < end_c:
            products(a.u + c * K, padded * K + LANES, a.d, d_step, a.p, p_step, K, min(group, end_c - c), a.m.kt,
                     chunk, squares)
            p.channel, p.after = c, min(c + group, end_c, C)
            input_tiles_backward_sized(&p, m, r)
            c += group
        first += chunk


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


ctypedef struct Transform:
    const WinogradWeights* a
    Py_ssize_t k                # the first of kt outputs


cdef inline void weight_tiles "weight_tiles"(void* s, int M, int R) noexcept nogil:
    """U of kt outputs."""
    cdef const WinogradWeights* a = (<const Transform*>s).a
    cdef int N = M + R - 1
    cdef Py_ssize_t taps = a.taps, kt = a.kt, padded = a.padded, to_tap = a.to_tap, to_output = a.to_output
    cdef Py_ssize_t k0 = (<const Transform*>s).k, c, lane, n = min(kt, a.outputs - k0), turned = a.turned
    cdef vec line[6]
    cdef vec done[6]
    cdef vec half[30]
    cdef real numbers[36 * 16]      # sixteen outputs side by side
    cdef const real* wp
    cdef real* up
    cdef int i, j, h
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


cdef extern from *:
    """
    SIZES(weight_tiles)
    """
    void weight_tiles_sized(void* s, Py_ssize_t m, Py_ssize_t r) nogil


cdef void winograd_weights(const WinogradWeights* a, const Place* place) noexcept nogil:
    """u = G w G^T for a register tile of outputs a task, in the order in which `matmul` reads it. Weights that are what
    they were when they were `seen` last stay as they are."""
    cdef Transform s
    cdef Py_ssize_t at = place.task * a.kt * a.to_output
    cdef Py_ssize_t size = min(a.kt, a.outputs - place.task * a.kt) * a.to_output * <Py_ssize_t>sizeof(real)
    if a.seen:
        if memcmp(a.seen + at, a.w + at, size) == 0:
            return
        memcpy(a.seen + at, a.w + at, size)
    s.a, s.k = a, place.task * a.kt
    weight_tiles_sized(&s, a.tile, a.kernel)


def register_tile(Py_ssize_t outputs):
    """How many of the outputs `matmul` takes at a time, and how many tiles: the wider tile, unless it wastes more
    than a twelfth. `outer` takes as many numbers."""
    return WIDE if (WIDE - outputs % WIDE) % WIDE * 12 <= outputs else NARROW, DEEP


SINGLE_TILE = SINGLE    # outputs at a time where there is one tile only
SPLITS = ("winograd", "winograd_dx")
include "kernels/winograd.pxi"  # KERNELS
