"""Convolution with fewer multiplications: Winograd's F(m x m, r x r), forward and backward, of one block.

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

Tiles are those of interpolation at 0, P, -P, Q, -Q and infinity with P = 5/8 and Q = 3/2 (n = 6: F(4x4, 3x3) and
F(2x2, 5x5)) or 0, 1, -1 and infinity (n = 4: F(2x2, 3x3)). With P = 1 and Q = 2, as published, rounding errors would be
three to five times as large; all powers of P and Q that occur are exact in float32. Each scalar here is a row of
sixteen images, see vec.pxd. The plain-NumPy twin is `winograd_conv2d` in cnn/reference.py.

So that large numbers stay finite, B^T for n = 6 is halved here, and the values at Q and -Q in A^T of F(4x4, 3x3) are
quartered; G makes up for it.
"""
from libc.string cimport memcpy, memset

from cnn._ext.normed cimport Normed, normed_input, read_normed
from cnn._ext.op cimport Op, Place, array, begin, end
from cnn._ext.vec cimport (LANES, ROWV, TILE_VECS, VL, integer, real, transpose, vec, vec_load, vec_relu, vec_splat,
                           vec_store)
from cnn._ext.window cimport window_row

cdef extern from *:
    """
    #define LEAST(a, b) ((a) < (b) ? (a) : (b))
    /* Register tiles: WIDE or NARROW outputs by TILES tiles, or SINGLE outputs where there is one tile only. */
    #define WIDE LEAST(6, TILE_VECS / ROWV)
    #define NARROW ((2 * WIDE + 1) / 3)
    #define SINGLE LEAST(16, TILE_VECS / ROWV)
    #define TILES (TILE_VECS / (WIDE * ROWV))
    /* rows of a register tile of `outer` */
    #define ROWS (TILES >= 4 ? 4 : TILES >= 2 ? 2 : 1)
    #define L1_BYTES 24576     /* of a matrix that is to stay in the first cache */
    #define ROWS_EACH 64       /* rows of weights of a task */
    /* a number times a vector */
    #define scaled(s, v) ((real)(s) * (v))
    #define P 0.625
    #define Q 1.5
    #define P2 (P * P)
    #define Q2 (Q * Q)
    """
    const double P, Q, P2, Q2
    enum:
        WIDE
        NARROW
        SINGLE
        TILES
        ROWS
        L1_BYTES
        ROWS_EACH
    vec scaled(double s, vec v) nogil


# ---------------------------------------------------------------- one-dimensional transforms

cdef inline void input_line(const vec* x, vec* v, int N) noexcept nogil:
    """v = B^T x."""
    cdef vec even, odd, last
    if N == 4:
        v[0] = x[0] - x[2]
        v[1] = x[1] + x[2]
        v[2] = x[2] - x[1]
        v[3] = x[1] - x[3]
    else:
        last = scaled(0.5, x[4])
        v[0] = scaled(0.5 * P2 * Q2, x[0]) - scaled(0.5 * (P2 + Q2), x[2]) + last
        even = last - scaled(0.5 * Q2, x[2])
        odd = x[3] - scaled(Q2, x[1])
        v[1] = even + scaled(0.5 * P, odd)
        v[2] = even - scaled(0.5 * P, odd)
        even = last - scaled(0.5 * P2, x[2])
        odd = x[3] - scaled(P2, x[1])
        v[3] = even + scaled(0.5 * Q, odd)
        v[4] = even - scaled(0.5 * Q, odd)
        v[5] = scaled(0.5 * P2 * Q2, x[1]) - scaled(0.5 * (P2 + Q2), x[3]) + scaled(0.5, x[5])


cdef inline void input_line_backward(const vec* v, vec* x, int N) noexcept nogil:
    """x = B v."""
    cdef vec sum1, sum2, difference1, difference2
    if N == 4:
        x[0] = v[0]
        x[1] = v[1] - v[2] + v[3]
        x[2] = v[1] + v[2] - v[0]
        x[3] = -v[3]
    else:
        sum1 = v[1] + v[2]
        difference1 = v[1] - v[2]
        sum2 = v[3] + v[4]
        difference2 = v[3] - v[4]
        x[0] = scaled(0.5 * P2 * Q2, v[0])
        x[1] = scaled(0.5 * P2 * Q2, v[5]) - scaled(0.5 * P * Q2, difference1) - scaled(0.5 * P2 * Q, difference2)
        x[2] = -scaled(0.5 * (P2 + Q2), v[0]) - scaled(0.5 * Q2, sum1) - scaled(0.5 * P2, sum2)
        x[3] = scaled(0.5 * P, difference1) + scaled(0.5 * Q, difference2) - scaled(0.5 * (P2 + Q2), v[5])
        x[4] = scaled(0.5, v[0] + sum1 + sum2)
        x[5] = scaled(0.5, v[5])


cdef inline void output_line(const vec* p, vec* y, int M, int N) noexcept nogil:
    """y = A^T p."""
    cdef vec sum1, sum2, difference1, difference2
    sum1 = p[1] + p[2]
    difference1 = p[1] - p[2]
    if N == 4:
        y[0] = p[0] + sum1
        y[1] = difference1 - p[3]
        return
    sum2 = p[3] + p[4]
    difference2 = p[3] - p[4]
    if M == 2:
        y[0] = p[0] + sum1 + sum2
        y[1] = scaled(P, difference1) + scaled(Q, difference2) + p[5]
    else:
        y[0] = p[0] + sum1 + scaled(0.25, sum2)
        y[1] = scaled(P, difference1) + scaled(0.25 * Q, difference2)
        y[2] = scaled(P2, sum1) + scaled(0.25 * Q2, sum2)
        y[3] = scaled(P * P2, difference1) + scaled(0.25 * Q * Q2, difference2) + p[5]


cdef inline void output_line_backward(const vec* y, vec* d, int M, int N) noexcept nogil:
    """d = A y."""
    cdef vec even, odd
    d[0] = y[0]
    if N == 4:
        d[1] = y[0] + y[1]
        d[2] = y[0] - y[1]
        d[3] = -y[1]
    elif M == 2:
        d[1] = y[0] + scaled(P, y[1])
        d[2] = y[0] - scaled(P, y[1])
        d[3] = y[0] + scaled(Q, y[1])
        d[4] = y[0] - scaled(Q, y[1])
        d[5] = y[1]
    else:
        even = y[0] + scaled(P2, y[2])
        odd = y[1] + scaled(P2, y[3])
        d[1] = even + scaled(P, odd)
        d[2] = even - scaled(P, odd)
        even = scaled(0.25, y[0]) + scaled(0.25 * Q2, y[2])
        odd = y[1] + scaled(Q2, y[3])
        d[3] = even + scaled(0.25 * Q, odd)
        d[4] = even - scaled(0.25 * Q, odd)
        d[5] = y[3]


cdef inline void weight_line(const vec* w, vec* u, int R, int N) noexcept nogil:
    """u = G w."""
    cdef vec even, odd
    if N == 4:
        even = scaled(0.5, w[0] + w[2])
        odd = scaled(0.5, w[1])
        u[0] = w[0]
        u[1] = even + odd
        u[2] = even - odd
        u[3] = w[2]
        return
    u[0] = scaled(2 / (P2 * Q2), w[0])
    even = w[0] + scaled(P2, w[2])
    odd = scaled(P, w[1])
    if R == 5:
        even = even + scaled(P2 * P2, w[4])
        odd = odd + scaled(P * P2, w[3])
    u[1] = scaled(1 / (P2 * (P2 - Q2)), even + odd)
    u[2] = scaled(1 / (P2 * (P2 - Q2)), even - odd)
    even = w[0] + scaled(Q2, w[2])
    odd = scaled(Q, w[1])
    if R == 5:
        even = even + scaled(Q2 * Q2, w[4])
        odd = odd + scaled(Q * Q2, w[3])
    u[3] = scaled((4 if R == 3 else 1) / (Q2 * (Q2 - P2)), even + odd)
    u[4] = scaled((4 if R == 3 else 1) / (Q2 * (Q2 - P2)), even - odd)
    u[5] = scaled(2, w[R - 1])


cdef inline void weight_line_backward(const vec* u, vec* w, int R, int N) noexcept nogil:
    """w = G^T u."""
    cdef vec sum1, sum2, difference1, difference2
    if N == 4:
        w[0] = u[0] + scaled(0.5, u[1] + u[2])
        w[1] = scaled(0.5, u[1] - u[2])
        w[2] = scaled(0.5, u[1] + u[2]) + u[3]
        return
    sum1 = scaled(1 / (P2 * (P2 - Q2)), u[1] + u[2])
    difference1 = scaled(1 / (P2 * (P2 - Q2)), u[1] - u[2])
    sum2 = scaled((4 if R == 3 else 1) / (Q2 * (Q2 - P2)), u[3] + u[4])
    difference2 = scaled((4 if R == 3 else 1) / (Q2 * (Q2 - P2)), u[3] - u[4])
    w[0] = scaled(2 / (P2 * Q2), u[0]) + sum1 + sum2
    w[1] = scaled(P, difference1) + scaled(Q, difference2)
    w[2] = scaled(P2, sum1) + scaled(Q2, sum2)
    if R == 5:
        w[3] = scaled(P * P2, difference1) + scaled(Q * Q2, difference2)
        w[4] = scaled(P2 * P2, sum1) + scaled(Q2 * Q2, sum2)
    w[R - 1] = w[R - 1] + scaled(2, u[5])


# ---------------------------------------------------------------- two-dimensional transforms of one tile

cdef inline void input_tile(const real* const* row, real* v, Py_ssize_t v_step, int N) noexcept nogil:
    """v = B^T x B, where `row` has the address of each row of the tile."""
    cdef vec line[6]
    cdef vec done[6]
    cdef vec half[36]
    cdef int i, j, h
    for h in range(ROWV):
        for j in range(N):
            for i in range(N):
                line[i] = vec_load(row[i] + j * LANES + h * VL)
            input_line(line, done, N)
            for i in range(N):
                half[i * N + j] = done[i]
        for i in range(N):
            input_line(&half[i * N], done, N)
            for j in range(N):
                vec_store(v + (i * N + j) * v_step + h * VL, done[j])


cdef inline void input_tile_backward(const real* v, Py_ssize_t v_step, real* x, Py_ssize_t x_row,
                                     Py_ssize_t top, Py_ssize_t bottom, Py_ssize_t left, Py_ssize_t right,
                                     int N) noexcept nogil:
    """x += B v B^T, at the pixels from (top, left) to before (bottom, right) of the tile."""
    cdef vec line[6]
    cdef vec done[6]
    cdef vec half[36]
    cdef Py_ssize_t u
    cdef real* to
    cdef int i, j, h
    for h in range(ROWV):
        for j in range(N):
            for i in range(N):
                line[i] = vec_load(v + (i * N + j) * v_step + h * VL)
            input_line_backward(line, done, N)
            for i in range(N):
                half[i * N + j] = done[i]
        for u in range(top, bottom):
            input_line_backward(&half[u * N], done, N)
            to = x + u * x_row + h * VL
            if left == 0 and right == N:
                for j in range(N):
                    vec_store(to + j * LANES, vec_load(to + j * LANES) + done[j])
            else:
                for j in range(left, right):
                    vec_store(to + j * LANES, vec_load(to + j * LANES) + done[j])


cdef inline void output_tile(const real* p, Py_ssize_t p_step, real* y, Py_ssize_t y_row, real b, bint relu,
                             Py_ssize_t rows, Py_ssize_t columns, int M, int N) noexcept nogil:
    """y = A^T p A + b, with ReLU if wanted, of which the first `rows` by `columns` pixels exist."""
    cdef vec line[6]
    cdef vec done[4]
    cdef vec half[24]
    cdef vec bias = vec_splat(b)
    cdef Py_ssize_t u
    cdef int i, j, h
    for h in range(ROWV):
        for j in range(N):
            for i in range(N):
                line[i] = vec_load(p + (i * N + j) * p_step + h * VL)
            output_line(line, done, M, N)
            for i in range(M):
                half[i * N + j] = done[i]
        for u in range(rows):
            output_line(&half[u * N], done, M, N)
            for j in range(M):
                done[j] = done[j] + bias
                if relu:
                    done[j] = vec_relu(done[j])
            if columns == M:
                for j in range(M):
                    vec_store(y + u * y_row + j * LANES + h * VL, done[j])
            else:
                for j in range(columns):
                    vec_store(y + u * y_row + j * LANES + h * VL, done[j])


cdef inline void output_tile_backward(const real* dy, Py_ssize_t dy_row, real* d, Py_ssize_t d_step,
                                      Py_ssize_t rows, Py_ssize_t columns, int M, int N) noexcept nogil:
    """d = A dy A^T, where dy has `rows` by `columns` pixels and is zero beyond."""
    cdef vec line[4]
    cdef vec done[6]
    cdef vec half[24]
    cdef int i, j, h
    for h in range(ROWV):
        for j in range(M):
            for i in range(M):
                if i < rows and j < columns:
                    line[i] = vec_load(dy + i * dy_row + j * LANES + h * VL)
                else:
                    line[i] = vec_splat(0)
            output_line_backward(line, done, M, N)
            for i in range(N):
                half[i * M + j] = done[i]
        for i in range(N):
            output_line_backward(&half[i * M], done, M, N)
            for j in range(N):
                vec_store(d + (i * N + j) * d_step + h * VL, done[j])


# ---------------------------------------------------------------- matrix products of one frequency

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
    matmul(u, v, p, taps, chunk, add, WIDE, TILES)

cdef void matmul_narrow(const real* u, const real* v, real* p, Py_ssize_t taps, Py_ssize_t chunk,
                        bint add) noexcept nogil:
    matmul(u, v, p, taps, chunk, add, NARROW, TILES)

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
        while c < taps:     # as many channels as stay in the first cache for all outputs
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


# ---------------------------------------------------------------- all channels of some tiles

cdef inline void input_tiles(const Op* op, const Place* place, const real* zero, real* v, Py_ssize_t v_step,
                             Py_ssize_t first, Py_ssize_t count, int M, int R) noexcept nogil:
    """V of `count` tiles, from array 0 of the op, x."""
    cdef int N = M + R - 1
    cdef const real* x = <const real*>array(op, 0, place)
    cdef Py_ssize_t C = op.n[2], H = op.n[4], top = op.n[7], left = op.n[8], wide = op.n[9], chunk = op.n[11]
    cdef Py_ssize_t x_row = op.args[0].row, x_plane = op.args[0].plane, t, c, i, j, q, h
    cdef const real* row[6]
    cdef Py_ssize_t step[6]
    for t in range(count):
        i = (first + t) // wide * M
        j = (first + t) % wide * M
        for q in range(N):
            h = i - top + q
            row[q] = (x + h * x_row if 0 <= h < H else zero + left * LANES) + (j - left) * LANES
            step[q] = x_plane if 0 <= h < H else 0
        for c in range(C):
            input_tile(row, v + (c * chunk + t) * LANES, v_step, N)
            for q in range(N):
                row[q] += step[q]


cdef inline void gradient_tiles(const Op* op, const Place* place, int dy_array, real* d, Py_ssize_t d_step,
                                Py_ssize_t first, Py_ssize_t count, int M, int R) noexcept nogil:
    """D of `count` tiles, from array `dy_array` of the op."""
    cdef int N = M + R - 1
    cdef const real* dy = <const real*>array(op, dy_array, place)
    cdef Py_ssize_t K = op.n[3], out_h = op.n[5], out_w = op.n[6], wide = op.n[9], chunk = op.n[11]
    cdef Py_ssize_t dy_row = op.args[dy_array].row, dy_plane = op.args[dy_array].plane, t, k, i, j
    for t in range(count):
        i = (first + t) // wide * M
        j = (first + t) % wide * M
        for k in range(K):
            output_tile_backward(dy + k * dy_plane + i * dy_row + j * LANES, dy_row, d + (k * chunk + t) * LANES,
                                 d_step, out_h - i, out_w - j, M, N)


# ---------------------------------------------------------------- forward

cdef inline void forward(const Op* op, const Place* place, int M, int R) noexcept nogil:
    cdef int N = M + R - 1
    # array 0                                                    # IN  x, (C, H, W, 16), bordered
    cdef const real* u = <const real*>array(op, 1, place)        # IN  (N * N, K / kt, C, kt), K padded
    cdef const real* b = <const real*>array(op, 2, place)        # IN  (K,) or NULL
    cdef real* y = <real*>array(op, 3, place)                    # OUT (K, OH, OW, 16)
    cdef const real* zero = <const real*>array(op, 4, place)     # IN  a row of zeros
    cdef real* v = <real*>array(op, 5, place)                    # (N * N, v_step) scratch
    cdef real* p = <real*>array(op, 6, place)                    # (N * N, p_step) scratch
    cdef Py_ssize_t C = op.n[2], K = op.n[3], out_h = op.n[5], out_w = op.n[6]
    cdef Py_ssize_t wide = op.n[9], tiles = op.n[10], chunk = op.n[11]
    cdef Py_ssize_t kt = op.n[12], padded = op.n[13], group = op.n[14], relu = op.n[15]
    cdef Py_ssize_t y_row = op.args[3].row, y_plane = op.args[3].plane
    cdef Py_ssize_t v_step = (C * chunk + 1) * LANES, p_step = (group * chunk + 1) * LANES
    cdef Py_ssize_t first = 0, count, t, k, k0, i, j
    while first < tiles:
        count = min(chunk, tiles - first)
        input_tiles(op, place, zero, v, v_step, first, count, M, R)
        k0 = 0
        while k0 < padded:
            products(u + k0 * C, padded * C + LANES, v, v_step, p, p_step, C, min(group, padded - k0), kt, chunk, N * N)
            for k in range(k0, min(k0 + group, K)):
                for t in range(count):
                    i = (first + t) // wide * M
                    j = (first + t) % wide * M
                    output_tile(p + ((k - k0) * chunk + t) * LANES, p_step, y + k * y_plane + i * y_row + j * LANES,
                                y_row, b[k] if b else 0, relu, min(M, out_h - i), min(M, out_w - j), M, N)
            k0 += group
        first += chunk


cdef void forward_2_3(const Op* op, const Place* place) noexcept nogil:
    forward(op, place, 2, 3)

cdef void forward_4_3(const Op* op, const Place* place) noexcept nogil:
    forward(op, place, 4, 3)

cdef void forward_2_5(const Op* op, const Place* place) noexcept nogil:
    forward(op, place, 2, 5)


cdef void winograd(const Op* op, const Place* place) noexcept nogil:
    """y = A^T sum_c (G w G^T * B^T x B) A + b, tile by tile."""
    if op.n[1] == 5:
        forward_2_5(op, place)
    elif op.n[0] == 2:
        forward_2_3(op, place)
    else:
        forward_4_3(op, place)


# ---------------------------------------------------------------- backward to the input

cdef inline void backward(const Op* op, const Place* place, int M, int R) noexcept nogil:
    cdef int N = M + R - 1
    # array 0                                                    # IN  dy, (K, OH, OW, 16)
    cdef const real* u = <const real*>array(op, 1, place)        # IN  (N * N, C / kt, K, kt), C padded
    cdef real* dx = <real*>array(op, 2, place)                   # OUT (C, H, W, 16)
    cdef real* d = <real*>array(op, 3, place)                    # (N * N, d_step) scratch
    cdef real* p = <real*>array(op, 4, place)                    # (N * N, p_step) scratch
    cdef Py_ssize_t C = op.n[2], K = op.n[3], H = op.n[4]
    cdef Py_ssize_t top = op.n[7], left = op.n[8], wide = op.n[9], tiles = op.n[10], chunk = op.n[11]
    cdef Py_ssize_t kt = op.n[12], padded = op.n[13], group = op.n[14], W = op.n[15]
    cdef Py_ssize_t dx_row = op.args[2].row, dx_plane = op.args[2].plane
    cdef Py_ssize_t d_step = (K * chunk + 1) * LANES, p_step = (group * chunk + 1) * LANES
    cdef Py_ssize_t first, count, t, c, c0, i, j
    for c in range(C):
        for i in range(H):
            memset(dx + c * dx_plane + i * dx_row, 0, W * LANES * sizeof(real))
    first = 0
    while first < tiles:
        count = min(chunk, tiles - first)
        gradient_tiles(op, place, 0, d, d_step, first, count, M, R)
        c0 = 0
        while c0 < padded:
            products(u + c0 * K, padded * K + LANES, d, d_step, p, p_step, K, min(group, padded - c0), kt, chunk, N * N)
            for c in range(c0, min(c0 + group, C)):
                for t in range(count):
                    i = (first + t) // wide * M - top
                    j = (first + t) % wide * M - left
                    input_tile_backward(p + ((c - c0) * chunk + t) * LANES, p_step,
                                        dx + c * dx_plane + i * dx_row + j * LANES, dx_row, max(0, -i),
                                        min(N, H - i), max(0, -j), min(N, W - j), N)
            c0 += group
        first += chunk


cdef void backward_2_3(const Op* op, const Place* place) noexcept nogil:
    backward(op, place, 2, 3)

cdef void backward_4_3(const Op* op, const Place* place) noexcept nogil:
    backward(op, place, 4, 3)

cdef void backward_2_5(const Op* op, const Place* place) noexcept nogil:
    backward(op, place, 2, 5)


cdef void winograd_dx(const Op* op, const Place* place) noexcept nogil:
    """dx += B sum_k (G w G^T * A dy A^T) B^T, tile by tile."""
    if op.n[1] == 5:
        backward_2_5(op, place)
    elif op.n[0] == 2:
        backward_2_3(op, place)
    else:
        backward_4_3(op, place)


# ---------------------------------------------------------------- backward to the weights

cdef inline void outer(const real* a, Py_ssize_t a_step, const real* b, Py_ssize_t b_step, real* o,
                       Py_ssize_t o_step, Py_ssize_t count, bint first, int AT, int BT) noexcept nogil:
    """o[a, b] (+)= sum_i a[i] b[i] for AT numbers a and BT rows b of sixteen numbers at each of `count` i."""
    cdef vec acc[6 * 2 * 8]
    cdef vec bv[2 * 8]
    cdef const real* ap[6]
    cdef Py_ssize_t i
    cdef real* to
    cdef int q
    for q in range(AT):
        ap[q] = a + q * a_step
    for q in range(AT * BT * ROWV):
        acc[q] = vec_splat(0)
    for i in range(count):
        for q in range(BT * ROWV):
            bv[q] = vec_load(b + q // ROWV * b_step + i * LANES + q % ROWV * VL)
        for q in range(AT * BT * ROWV):
            acc[q] = acc[q] + ap[q // (BT * ROWV)][i] * bv[q % (BT * ROWV)]
    for q in range(AT * BT * ROWV):
        to = o + q // (BT * ROWV) * o_step + q % (BT * ROWV) * VL
        vec_store(to, acc[q] if first else vec_load(to) + acc[q])


cdef void outer_wide_4(const real* a, Py_ssize_t a_step, const real* b, Py_ssize_t b_step, real* o,
                     Py_ssize_t o_step, Py_ssize_t count, bint first) noexcept nogil:
    if ROWS >= 4:
        outer(a, a_step, b, b_step, o, o_step, count, first, WIDE, 4)

cdef void outer_wide_2(const real* a, Py_ssize_t a_step, const real* b, Py_ssize_t b_step, real* o,
                       Py_ssize_t o_step, Py_ssize_t count, bint first) noexcept nogil:
    if ROWS >= 2:
        outer(a, a_step, b, b_step, o, o_step, count, first, WIDE, 2)

cdef void outer_wide_1(const real* a, Py_ssize_t a_step, const real* b, Py_ssize_t b_step, real* o,
                       Py_ssize_t o_step, Py_ssize_t count, bint first) noexcept nogil:
    outer(a, a_step, b, b_step, o, o_step, count, first, WIDE, 1)

cdef void outer_narrow_4(const real* a, Py_ssize_t a_step, const real* b, Py_ssize_t b_step, real* o,
                       Py_ssize_t o_step, Py_ssize_t count, bint first) noexcept nogil:
    if ROWS >= 4:
        outer(a, a_step, b, b_step, o, o_step, count, first, NARROW, 4)

cdef void outer_narrow_2(const real* a, Py_ssize_t a_step, const real* b, Py_ssize_t b_step, real* o,
                         Py_ssize_t o_step, Py_ssize_t count, bint first) noexcept nogil:
    if ROWS >= 2:
        outer(a, a_step, b, b_step, o, o_step, count, first, NARROW, 2)

cdef void outer_narrow_1(const real* a, Py_ssize_t a_step, const real* b, Py_ssize_t b_step, real* o,
                         Py_ssize_t o_step, Py_ssize_t count, bint first) noexcept nogil:
    outer(a, a_step, b, b_step, o, o_step, count, first, NARROW, 1)


ctypedef void (*OuterKernel)(const real* a, Py_ssize_t a_step, const real* b, Py_ssize_t b_step, real* o,
                             Py_ssize_t o_step, Py_ssize_t count, bint first) noexcept nogil

cdef OuterKernel OUTER_WIDE[5]      # by the number of rows
cdef OuterKernel OUTER_NARROW[5]
OUTER_WIDE[:] = [NULL, outer_wide_1, outer_wide_2, NULL, outer_wide_4]
OUTER_NARROW[:] = [NULL, outer_narrow_1, outer_narrow_2, NULL, outer_narrow_4]


cdef void outers(const real* a, Py_ssize_t a_step, const real* b, Py_ssize_t b_step, real* o, Py_ssize_t numbers,
                 Py_ssize_t at, Py_ssize_t groups, Py_ssize_t count, bint first) noexcept nogil:
    """o[a, b] (+)= sum over `count` tiles of a b: `numbers` numbers, `at` at a time, and `groups` rows."""
    cdef Py_ssize_t g = 0, bt, k, o_step = groups * LANES
    cdef OuterKernel kernel
    while g < groups:       # the rows stay in the first cache for all numbers
        bt = ROWS if groups - g >= ROWS else 2 if ROWS > 2 and groups - g >= 2 else 1
        kernel = OUTER_WIDE[bt] if at == WIDE else OUTER_NARROW[bt]
        k = 0
        while k < numbers:
            kernel(a + k * a_step, a_step, b + g * b_step, b_step, o + k * o_step + g * LANES, o_step, count * LANES,
                   first)
            k += at
        g += bt


cdef void to_numbers(const real* b, Py_ssize_t plane, real* rows, Py_ssize_t groups, Py_ssize_t chunk,
                     Py_ssize_t count) noexcept nogil:
    """(channel, tile, image), channels `plane` numbers apart, as (sixteen channels, tile and image, channel)."""
    cdef Py_ssize_t g, t
    for g in range(groups):
        for t in range(count):
            transpose(b + g * LANES * plane + t * LANES, plane, rows + (g * chunk + t) * LANES * LANES, LANES)


cdef inline void backward_weights(const Op* op, const Place* place, int M, int R) noexcept nogil:
    cdef int squares = (M + R - 1) * (M + R - 1)
    # arrays 0 and 1                                             # IN  x, bordered, and dy
    cdef const real* zero = <const real*>array(op, 2, place)     # IN  a row of zeros
    cdef real* du = <real*>array(op, 3, place)                   # OUT (N * N, padded, wide rows) of a shard
    cdef real* v = <real*>array(op, 4, place)                    # (N * N, v_step) scratch
    cdef real* d = <real*>array(op, 5, place)                    # (N * N, d_step) scratch
    cdef real* rows = <real*>array(op, 6, place)                 # (groups, chunk * 16, 16) scratch
    cdef Py_ssize_t C = op.n[2], K = op.n[3], tiles = op.n[10], chunk = op.n[11], kt = op.n[12], padded = op.n[13]
    cdef Py_ssize_t swapped = op.n[14]
    # one side is read as numbers, the other as rows of sixteen channels
    cdef Py_ssize_t groups = ((K if swapped else C) + LANES - 1) // LANES
    cdef Py_ssize_t a_step = (padded * chunk + 1) * LANES, b_step = (groups * LANES * chunk + 1) * LANES
    cdef Py_ssize_t first = 0, count, f
    cdef const real* a = v if swapped else d
    cdef const real* b = d if swapped else v
    while first < tiles:
        count = min(chunk, tiles - first)
        input_tiles(op, place, zero, v, a_step if swapped else b_step, first, count, M, R)
        gradient_tiles(op, place, 1, d, b_step if swapped else a_step, first, count, M, R)
        for f in range(squares):
            to_numbers(b + f * b_step, chunk * LANES, rows, groups, chunk, count)
            outers(a + f * a_step, chunk * LANES, rows, chunk * LANES * LANES, du + f * (padded * groups + 1) * LANES,
                   padded, kt, groups, count, place.first and first == 0)
        first += chunk


cdef void backward_weights_2_3(const Op* op, const Place* place) noexcept nogil:
    backward_weights(op, place, 2, 3)

cdef void backward_weights_4_3(const Op* op, const Place* place) noexcept nogil:
    backward_weights(op, place, 4, 3)

cdef void backward_weights_2_5(const Op* op, const Place* place) noexcept nogil:
    backward_weights(op, place, 2, 5)


cdef void winograd_dw(const Op* op, const Place* place) noexcept nogil:
    """dU[f, k, c] += sum over tiles and images of D[f, k, t] V[f, c, t], of one block.

    Sixteen channels c lie side by side here, as `transpose` puts them, so that nothing is summed across lanes;
    `swapped`: sixteen k.
    """
    if op.n[1] == 5:
        backward_weights_2_5(op, place)
    elif op.n[0] == 2:
        backward_weights_2_3(op, place)
    else:
        backward_weights_4_3(op, place)


cdef void winograd_tiles(const Op* op, const Place* place) noexcept nogil:
    """V, sixteen channels side by side, and D of one block, kept for `winograd_dw_all`."""
    cdef Py_ssize_t C = op.n[2], tiles = op.n[10], padded = op.n[13]
    cdef Py_ssize_t groups = (C + LANES - 1) // LANES
    cdef Py_ssize_t v_step = (groups * LANES * tiles + 1) * LANES, d_step = (padded * tiles + 1) * LANES, f
    cdef const real* zero = <const real*>array(op, 2, place)     # IN  a row of zeros
    cdef real* d = <real*>array(op, 3, place)                    # OUT (N * N, d_step)
    cdef real* v = <real*>array(op, 4, place)                    # (N * N, v_step) scratch
    cdef real* rows = <real*>array(op, 5, place)                 # OUT (N * N, v_step)
    cdef int squares = 16 if op.n[0] == 2 and op.n[1] == 3 else 36
    if op.n[1] == 5:
        input_tiles(op, place, zero, v, v_step, 0, tiles, 2, 5)
        gradient_tiles(op, place, 1, d, d_step, 0, tiles, 2, 5)
    elif op.n[0] == 2:
        input_tiles(op, place, zero, v, v_step, 0, tiles, 2, 3)
        gradient_tiles(op, place, 1, d, d_step, 0, tiles, 2, 3)
    else:
        input_tiles(op, place, zero, v, v_step, 0, tiles, 4, 3)
        gradient_tiles(op, place, 1, d, d_step, 0, tiles, 4, 3)
    for f in range(squares):
        to_numbers(v + f * v_step, tiles * LANES, rows + f * v_step, groups, tiles, tiles)


cdef void winograd_dw_all(const Op* op, const Place* place) noexcept nogil:
    """dw = G^T dU G for a few outputs a task, dU summed over all blocks in their order.

    For wide layers, whose V and D are smaller than dU.
    """
    cdef const real* d = <const real*>array(op, 0, place)        # IN  (blocks, N * N, d_step)
    cdef const real* rows = <const real*>array(op, 1, place)     # IN  (blocks, N * N, v_step)
    cdef real* du = <real*>array(op, 2, place)                   # (N * N, each, wide rows) scratch
    cdef real* dw = <real*>array(op, 3, place)                   # OUT (K, C, R, R)
    cdef Py_ssize_t C = op.n[2], K = op.n[3], tiles = op.n[4], kt = op.n[5], padded = op.n[6], each = op.n[7]
    cdef Py_ssize_t d_block = op.n[8], rows_block = op.n[9]
    cdef Py_ssize_t groups = (C + LANES - 1) // LANES, R = op.n[1]
    cdef Py_ssize_t v_step = (groups * LANES * tiles + 1) * LANES, d_step = (padded * tiles + 1) * LANES
    cdef Py_ssize_t k0 = place.task * each, n = min(each, padded - k0), f, block, k
    cdef int squares = 16 if op.n[0] == 2 and R == 3 else 36
    for f in range(squares):
        for block in range(place.blocks):
            outers(d + block * d_block + f * d_step + k0 * tiles * LANES, tiles * LANES,
                   rows + block * rows_block + f * v_step, tiles * LANES * LANES,
                   du + f * (each * groups + 1) * LANES, n, kt, groups, tiles, block == 0)
    for k in range(min(n, K - k0)):
        if R == 5:
            weights_backward(du + k * groups * LANES, (each * groups + 1) * LANES, place.blocks > 0, 0,
                             dw + (k0 + k) * C * 25, 25, C, 5, 6)
        elif squares == 16:
            weights_backward(du + k * groups * LANES, (each * groups + 1) * LANES, place.blocks > 0, 0,
                             dw + (k0 + k) * C * 9, 9, C, 3, 4)
        else:
            weights_backward(du + k * groups * LANES, (each * groups + 1) * LANES, place.blocks > 0, 0,
                             dw + (k0 + k) * C * 9, 9, C, 3, 6)


cdef inline void weights_backward(const real* du, Py_ssize_t f_step, Py_ssize_t shards, Py_ssize_t shard_step,
                                  real* dw, Py_ssize_t to_row, Py_ssize_t rows, int R, int N) noexcept nogil:
    """dw = G^T (sum of dU over the shards, in their order) G, for `rows` channels side by side."""
    cdef Py_ssize_t g = 0, n, lane, s
    cdef const real* at
    cdef vec total
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
                    total = vec_splat(0)
                    for s in range(shards):
                        total = total + vec_load(at + s * shard_step)
                    line[i] = total
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


cdef void winograd_dw_sum(const Op* op, const Place* place) noexcept nogil:
    """dw = G^T (sum of dU over the shards, in their order) G, of one output (or input, if swapped) a task."""
    cdef Py_ssize_t rows = op.n[2], padded = op.n[3], step = op.n[4], to_row = op.n[6], k = place.task
    cdef Py_ssize_t groups = (rows + LANES - 1) // LANES, f_step = (padded * groups + 1) * LANES
    cdef const real* du = <const real*>array(op, 0, place) + k * groups * LANES  # IN  (shards, step)
    cdef real* dw = <real*>array(op, 1, place) + k * op.n[5]                     # OUT (K, C, R, R)
    if op.n[1] == 5:
        weights_backward(du, f_step, place.shards, step, dw, to_row, rows, 5, 6)
    elif op.n[0] == 2:
        weights_backward(du, f_step, place.shards, step, dw, to_row, rows, 3, 4)
    else:
        weights_backward(du, f_step, place.shards, step, dw, to_row, rows, 3, 6)


cdef void pointwise_dw(const Op* op, const Place* place) noexcept nogil:
    """dw[k, c] += sum over pixels and images of dy[k] x[c], of one block, for a 1 x 1 convolution.

    F(1 x 1, 1 x 1): nothing is transformed, and sixteen channels c lie side by side as in `winograd_dw`.
    """
    cdef const real* x = <const real*>array(op, 0, place)        # IN  (C, H, W, 16), C a multiple of 16
    cdef const real* dy = <const real*>array(op, 1, place)       # IN  (K, H, W, 16), K a multiple of `at`
    cdef real* dw = <real*>array(op, 2, place)                   # OUT (K, C) of a shard
    cdef real* rows = <real*>array(op, 3, place)                 # (C / 16, band * 16, 16) scratch
    cdef real* pixels = <real*>array(op, 4, place)               # (C, most, 16) and (C,) scratch
    # arrays 5 to 8                                              # IN  how x is normalised, see Normed
    cdef Py_ssize_t C = op.n[0], K = op.n[1], H = op.n[2], W = op.n[3], band = op.n[4], at = op.n[5]
    cdef Py_ssize_t groups = C // LANES, h, first, count, x_row = op.args[0].row, dy_row = op.args[1].row
    cdef bint fresh = place.first
    cdef Py_ssize_t most = op.n[7], c, p, n
    cdef Normed normed = normed_input(op, 5, place, C, pixels + C * most * LANES, op.n[6])
    if x_row == dy_row == W * LANES:    # without borders they are one long row
        H, W = 1, H * W
    for h in range(H):
        first = 0
        while first < W:
            count = min(most, W - first)
            for c in range(C):
                read_normed(&normed, c, x + h * x_row + c * op.args[0].plane + first * LANES, count,
                            pixels + c * most * LANES)
            p = 0
            while p < count:
                n = min(band, count - p)
                to_numbers(pixels + p * LANES, most * LANES, rows, groups, band, n)
                outers(dy + h * dy_row + (first + p) * LANES, op.args[1].plane, rows, band * LANES * LANES, dw, K, at,
                       groups, n, fresh)
                fresh = 0
                p += n
            first += count


# ---------------------------------------------------------------- one dimension: F(2, 5) of rows of pixels

# For few channels, whose sums over one frequency of two dimensions would be too short. Rows of M outputs are made
# of N inputs; what remains is a convolution of N groups with a kernel of R x 1, see cnn/ops/conv/winograd_rows.py.
cdef enum:
    M = 2
    N = 6
    R = 5


cdef void winograd_rows(const Op* op, const Place* place) noexcept nogil:
    """V[f, c, h, t] = B^T x of tile t of row h."""
    cdef const real* x = <const real*>array(op, 0, place)        # IN  (C, H, W, 16), bordered
    cdef real* v = <real*>array(op, 1, place)                    # OUT (N * C, H, wide, 16)
    cdef Py_ssize_t C = op.n[0], H = op.n[1], wide = op.n[2], left = op.n[3], step = C * op.args[1].plane, c, h, t
    cdef const real* xp
    cdef real* vp
    cdef vec line[6]
    cdef vec done[6]
    cdef int i, q
    for c in range(begin(C, place), end(C, place)):
        for h in range(H):
            xp = x + c * op.args[0].plane + h * op.args[0].row - left * LANES
            vp = v + c * op.args[1].plane + h * op.args[1].row
            for t in range(wide):
                for q in range(ROWV):
                    for i in range(N):
                        line[i] = vec_load(xp + (t * M + i) * LANES + q * VL)
                    input_line(line, done, N)
                    for i in range(N):
                        vec_store(vp + i * step + t * LANES + q * VL, done[i])


cdef inline void row_output(const real* p, Py_ssize_t step, real* y, vec bias, bint relu, Py_ssize_t wide,
                            Py_ssize_t out_w) noexcept nogil:
    """One row of y."""
    cdef vec line[6]
    cdef vec done[4]
    cdef Py_ssize_t t
    cdef int i, q
    for t in range(wide):
        for q in range(ROWV):
            for i in range(N):
                line[i] = vec_load(p + i * step + t * LANES + q * VL)
            output_line(line, done, M, N)
            for i in range(M):
                done[i] = done[i] + bias
                if relu:
                    done[i] = vec_relu(done[i])
                if t * M + i < out_w:
                    vec_store(y + (t * M + i) * LANES + q * VL, done[i])


cdef void winograd_rows_y(const Op* op, const Place* place) noexcept nogil:
    """y[k, i] = A^T M + b[k], with ReLU if wanted."""
    cdef const real* p = <const real*>array(op, 0, place)        # IN  (N * K, out_h, wide, 16)
    cdef const real* b = <const real*>array(op, 1, place)        # IN  (K,) or NULL
    cdef real* y = <real*>array(op, 2, place)                    # OUT (K, out_h, out_w, 16)
    cdef Py_ssize_t K = op.n[0], out_h = op.n[1], wide = op.n[2], out_w = op.n[3], step = K * op.args[0].plane, k, h
    cdef bint relu = op.n[4]
    for k in range(begin(K, place), end(K, place)):
        for h in range(out_h):
            row_output(p + k * op.args[0].plane + h * op.args[0].row, step,
                       y + k * op.args[2].plane + h * op.args[2].row, vec_splat(b[k] if b else 0), relu, wide, out_w)


cdef void winograd_rows_pool(const Op* op, const Place* place) noexcept nogil:
    """The maximum, as in pool.pyx, over windows of y that lie side by side; y is kept nowhere."""
    cdef const real* p = <const real*>array(op, 0, place)        # IN  (N * K, out_h, wide, 16)
    cdef const real* b = <const real*>array(op, 1, place)        # IN  (K,) or NULL
    cdef real* y = <real*>array(op, 2, place)                    # OUT (K, windows down and across, 16)
    cdef integer* index = <integer*>array(op, 3, place)          # OUT as y, or NULL
    cdef real* rows = <real*>array(op, 4, place)                 # (win_h, out_w, 16) scratch
    cdef Py_ssize_t K = op.n[0], out_w = op.n[1], wide = op.n[2], win_h = op.n[4], win_w = op.n[5], down = op.n[6]
    cdef Py_ssize_t across = op.n[7], step = K * op.args[0].plane, k, i, h
    for k in range(begin(K, place), end(K, place)):
        for i in range(down):
            for h in range(win_h):
                row_output(p + k * op.args[0].plane + (i * win_h + h) * op.args[0].row, step, rows + h * out_w * LANES,
                           vec_splat(b[k] if b else 0), 0, wide, out_w)
            window_row(rows, win_h, win_w, out_w, i * win_h, across, y + k * op.args[2].plane + i * op.args[2].row,
                       index + k * op.args[3].plane + i * op.args[3].row if index else NULL, op.n[3])


cdef void winograd_rows_dy(const Op* op, const Place* place) noexcept nogil:
    """D[f, k, i, t] = A dy."""
    cdef const real* dy = <const real*>array(op, 0, place)       # IN  (K, out_h, out_w, 16)
    cdef real* d = <real*>array(op, 1, place)                    # OUT (N * K, out_h, wide, 16)
    cdef Py_ssize_t K = op.n[0], out_h = op.n[1], wide = op.n[2], out_w = op.n[3], step = K * op.args[1].plane, k, h, t
    cdef const real* yp
    cdef real* dp
    cdef vec line[4]
    cdef vec done[6]
    cdef int i, q
    for k in range(begin(K, place), end(K, place)):
        for h in range(out_h):
            yp = dy + k * op.args[0].plane + h * op.args[0].row
            dp = d + k * op.args[1].plane + h * op.args[1].row
            for t in range(wide):
                for q in range(ROWV):
                    for i in range(M):
                        line[i] = vec_load(yp + (t * M + i) * LANES + q * VL) if t * M + i < out_w else vec_splat(0)
                    output_line_backward(line, done, M, N)
                    for i in range(N):
                        vec_store(dp + i * step + t * LANES + q * VL, done[i])


cdef void winograd_rows_dx(const Op* op, const Place* place) noexcept nogil:
    """dx[c, h] = B dV, overlapping tiles summed."""
    cdef const real* dv = <const real*>array(op, 0, place)       # IN  (N * C, H, wide, 16)
    cdef real* dx = <real*>array(op, 1, place)                   # OUT (C, H, W, 16)
    cdef Py_ssize_t C = op.n[0], H = op.n[1], wide = op.n[2], left = op.n[3], W = op.n[4]
    cdef Py_ssize_t step = C * op.args[0].plane, c, h, t, j
    cdef const real* vp
    cdef real* xp
    cdef vec line[6]
    cdef vec done[6]
    cdef vec carry[4]       # sums of the pixels that this tile shares with the next
    cdef int i, q
    for c in range(begin(C, place), end(C, place)):
        for h in range(H):
            vp = dv + c * op.args[0].plane + h * op.args[0].row
            xp = dx + c * op.args[1].plane + h * op.args[1].row
            for q in range(ROWV):
                for i in range(N - M):
                    carry[i] = vec_splat(0)
                for t in range(wide):
                    for i in range(N):
                        line[i] = vec_load(vp + i * step + t * LANES + q * VL)
                    input_line_backward(line, done, N)
                    for i in range(N - M):
                        done[i] = done[i] + carry[i]
                    for i in range(M):
                        j = t * M + i - left
                        if 0 <= j < W:
                            vec_store(xp + j * LANES + q * VL, done[i])
                    for i in range(N - M):
                        carry[i] = done[M + i]
                for i in range(N - M):
                    j = wide * M + i - left
                    if 0 <= j < W:
                        vec_store(xp + j * LANES + q * VL, carry[i])


cdef void winograd_rows_weights(const Op* op, const Place* place) noexcept nogil:
    """U[f] = G w, the rows of w in the order `row`."""
    cdef const real* w = <const real*>array(op, 0, place)        # IN  (rows, R)
    cdef const int* row = <const int*>array(op, 1, place)        # IN  (rows,)
    cdef real* u = <real*>array(op, 2, place)                    # OUT (N, rows)
    cdef Py_ssize_t rows = op.n[0], first = place.task * ROWS_EACH, last = min(first + ROWS_EACH, rows), lane, n
    cdef vec line[6]
    cdef vec done[6]
    cdef real numbers[6 * 16]
    cdef int i, q
    memset(numbers, 0, sizeof(numbers))
    while first < last:
        n = min(LANES, last - first)
        for lane in range(n):
            for i in range(R):
                numbers[i * LANES + lane] = w[row[first + lane] * R + i]
        for q in range(ROWV):
            for i in range(R):
                line[i] = vec_load(numbers + i * LANES + q * VL)
            weight_line(line, done, R, N)
            for i in range(N):
                vec_store(numbers + i * LANES + q * VL, done[i])
        for i in range(N):
            memcpy(u + i * rows + first, numbers + i * LANES, n * sizeof(real))
        first += LANES


cdef void winograd_rows_dw(const Op* op, const Place* place) noexcept nogil:
    """dw[k, c, r] = G^T (sum of dU over the shards, in their order)."""
    cdef const real* du = <const real*>array(op, 0, place)       # IN  (shards, step) of (N, rows)
    cdef real* dw = <real*>array(op, 1, place)                   # OUT (rows, R)
    cdef Py_ssize_t rows = op.n[0], step = op.n[1], first = place.task * ROWS_EACH
    cdef Py_ssize_t last = min(first + ROWS_EACH, rows), lane, s
    cdef vec line[6]
    cdef vec done[6]
    cdef vec total
    cdef real numbers[5 * 16]
    cdef int i, q
    while first < last:
        for q in range(ROWV):
            for i in range(N):
                total = vec_splat(0)
                for s in range(place.shards):
                    total = total + vec_load(du + s * step + i * rows + first + q * VL)
                line[i] = total
            weight_line_backward(line, done, R, N)
            for i in range(R):
                vec_store(numbers + i * LANES + q * VL, done[i])
        for lane in range(min(LANES, last - first)):
            for i in range(R):
                dw[(first + lane) * R + i] = numbers[i * LANES + lane]
        first += LANES


# ---------------------------------------------------------------- weights

cdef inline void transform_weights(const Op* op, const Place* place, int R, int N) noexcept nogil:
    cdef const real* w = <const real*>array(op, 0, place)        # IN  (K, C, R, R)
    cdef real* u = <real*>array(op, 1, place)                    # OUT (N * N, outputs / kt, taps, kt), padded
    cdef Py_ssize_t outputs = op.n[2], taps = op.n[3], kt = op.n[4], padded = op.n[5]
    cdef Py_ssize_t to_tap = op.n[6], to_output = op.n[7]        # numbers of w apart
    cdef Py_ssize_t k0 = place.task * kt, c, lane, n = min(kt, outputs - k0)
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
            wp = w + (k0 + lane) * to_output + c * to_tap
            for i in range(R * R):
                numbers[i * LANES + lane] = wp[i]
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
        up = u + (k0 * taps + c * kt)
        for i in range(N * N):
            for lane in range(kt):
                up[lane] = numbers[i * LANES + lane] if lane < n else 0
            # frequencies are never a power of two apart, because they would share cache sets
            up += padded * taps + LANES


cdef void winograd_weights(const Op* op, const Place* place) noexcept nogil:
    """u = G w G^T for a register tile of outputs a task, in the order in which `matmul` reads it."""
    if op.n[1] == 5:
        transform_weights(op, place, 5, 6)
    elif op.n[0] == 2:
        transform_weights(op, place, 3, 4)
    else:
        transform_weights(op, place, 3, 6)


def numbers_at_a_time(Py_ssize_t count):
    """How many of `count` numbers `outer` can take at a time without padding; 0 if it can't."""
    return WIDE if count % WIDE == 0 else NARROW if count % NARROW == 0 else 0


def register_tile(Py_ssize_t outputs):
    """How many of the outputs `matmul` takes at a time, and how many tiles: the wider tile, unless it wastes more
    than a twelfth. `outer` takes as many numbers."""
    return WIDE if (WIDE - outputs % WIDE) % WIDE * 12 <= outputs else NARROW, TILES


def rows_tasks(Py_ssize_t rows):
    """Into how many tasks the transform of so many rows of weights is cut."""
    return (rows + ROWS_EACH - 1) // ROWS_EACH


SINGLE_TILE = SINGLE    # outputs at a time where there is one tile only
CONVOLUTION = ("tile", "kernel", "channels", "outputs", "height", "out_h", "out_w", "top", "left", "wide", "tiles")
SPLITS = ("winograd_rows", "winograd_rows_dx", "winograd_rows_y", "winograd_rows_pool", "winograd_rows_dy")
KERNELS = {
    "winograd_rows": (<size_t>&winograd_rows, ("x", "v"), ("channels", "height", "wide", "left"), ()),
    "winograd_rows_dx": (<size_t>&winograd_rows_dx, ("dv", "dx"),
                         ("channels", "height", "wide", "left", "width"), ()),
    "winograd_rows_y": (<size_t>&winograd_rows_y, ("p", "b", "y"),
                        ("outputs", "out_h", "wide", "out_w", "relu"), ()),
    "winograd_rows_pool": (<size_t>&winograd_rows_pool, ("p", "b", "y", "index", "rows"),
                           ("outputs", "width", "wide", "relu", "win_h", "win_w", "out_h", "out_w"), ()),
    "winograd_rows_dy": (<size_t>&winograd_rows_dy, ("dy", "d"), ("outputs", "out_h", "wide", "out_w"), ()),
    "winograd_rows_weights": (<size_t>&winograd_rows_weights, ("w", "row", "u"), ("rows",), ()),
    "winograd_rows_dw": (<size_t>&winograd_rows_dw, ("du", "dw"), ("rows", "step"), ()),
    "winograd": (<size_t>&winograd, ("x", "u", "b", "y", "zero", "v", "p"),
                 (*CONVOLUTION, "chunk", "kt", "padded", "group", "relu"), ()),
    "winograd_dx": (<size_t>&winograd_dx, ("dy", "u", "dx", "d", "p"),
                    (*CONVOLUTION, "chunk", "kt", "padded", "group", "width"), ()),
    "winograd_dw": (<size_t>&winograd_dw, ("x", "dy", "zero", "du", "v", "d", "rows"),
                    (*CONVOLUTION, "chunk", "at", "padded", "swapped"), ()),
    "winograd_dw_sum": (<size_t>&winograd_dw_sum, ("du", "dw"),
                        ("tile", "kernel", "rows", "padded", "step", "to_number", "to_row"), ()),
    "winograd_tiles": (<size_t>&winograd_tiles, ("x", "dy", "zero", "d", "v", "rows"),
                       (*CONVOLUTION, "chunk", "at", "padded"), ()),
    "winograd_dw_all": (<size_t>&winograd_dw_all, ("d", "rows", "du", "dw"),
                        ("tile", "kernel", "channels", "outputs", "tiles", "at", "padded", "each", "d_block",
                         "rows_block"), ()),
    "pointwise_dw": (<size_t>&pointwise_dw, ("x", "dy", "dw", "rows", "pixels", "mean", "var", "gamma", "beta"),
                     ("channels", "outputs", "height", "width", "band", "at", "input_relu", "most"), ("eps",)),
    "winograd_weights": (<size_t>&winograd_weights, ("w", "u"),
                         ("tile", "kernel", "outputs", "taps", "kt", "padded", "to_tap", "to_output"), ()),
}
