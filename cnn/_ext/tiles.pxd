"""Winograd's transforms of tiles, m by m outputs and n by n inputs with n = m + r - 1; the formulas stand in
winograd.pyx."""
from cnn._ext.op cimport Image, pixels
from cnn._ext.transforms cimport input_line, input_line_backward, output_line, output_line_backward
from cnn._ext.vec cimport LANES, ROWV, VL, real, vec, vec_load, vec_relu, vec_splat, vec_store

ctypedef struct Tiling:         # of a convolution
    Py_ssize_t tile             # m
    Py_ssize_t kernel           # r
    Py_ssize_t channels         # C
    Py_ssize_t outputs          # K
    Py_ssize_t height           # of x
    Py_ssize_t out_h, out_w
    Py_ssize_t top, left        # rows and columns of padding
    Py_ssize_t wide             # tiles in a row
    Py_ssize_t tiles            # of an image
    Py_ssize_t chunk            # tiles at a time


# ---------------------------------------------------------------- one tile

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


cdef inline void output_columns(const real* p, Py_ssize_t p_step, vec* half, int M, int N) noexcept nogil:
    """half = A^T p, (M, N), of one vector of each frequency's products."""
    cdef vec line[6]
    cdef vec done[4]
    cdef int i, j
    for j in range(N):
        for i in range(N):
            line[i] = vec_load(p + (i * N + j) * p_step)
        output_line(line, done, M, N)
        for i in range(M):
            half[i * N + j] = done[i]


cdef inline void output_tile(const real* p, Py_ssize_t p_step, real* y, Py_ssize_t y_row, real b, bint relu,
                             Py_ssize_t rows, Py_ssize_t columns, int M, int N) noexcept nogil:
    """y = A^T p A + b, with ReLU if wanted, of which the first `rows` by `columns` pixels exist."""
    cdef vec done[4]
    cdef vec half[24]
    cdef vec bias = vec_splat(b)
    cdef Py_ssize_t u
    cdef int j, h
    for h in range(ROWV):
        output_columns(p + h * VL, p_step, half, M, N)
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


# ---------------------------------------------------------------- all channels of some tiles

cdef inline void input_tiles(const Tiling* tiling, const Image* x, const real* zero, real* v, Py_ssize_t v_step,
                             Py_ssize_t first, Py_ssize_t count, int M, int R) noexcept nogil:
    """V of `count` tiles of x, which has the border that they read; zero: as many zeros as a row of x has numbers."""
    cdef int N = M + R - 1
    cdef Py_ssize_t C = tiling.channels, H = tiling.height, top = tiling.top, left = tiling.left
    cdef Py_ssize_t wide = tiling.wide, chunk = tiling.chunk, t, c, i, j, q, h
    cdef const real* row[6]
    cdef Py_ssize_t step[6]
    for t in range(count):
        i = (first + t) // wide * M
        j = (first + t) % wide * M
        for q in range(N):
            h = i - top + q
            row[q] = (<const real*>pixels(x, 0, h) if 0 <= h < H else zero + left * LANES) + (j - left) * LANES
            step[q] = x.plane if 0 <= h < H else 0
        for c in range(C):
            input_tile(row, v + (c * chunk + t) * LANES, v_step, N)
            for q in range(N):
                row[q] += step[q]


cdef inline void gradient_tiles(const Tiling* tiling, const Image* dy, real* d, Py_ssize_t d_step, Py_ssize_t first,
                                Py_ssize_t count, int M, int R) noexcept nogil:
    """D of `count` tiles of dy."""
    cdef int N = M + R - 1
    cdef Py_ssize_t K = tiling.outputs, out_h = tiling.out_h, out_w = tiling.out_w
    cdef Py_ssize_t wide = tiling.wide, chunk = tiling.chunk, dy_row = dy.row, t, k, i, j
    for t in range(count):
        i = (first + t) // wide * M
        j = (first + t) % wide * M
        for k in range(K):
            output_tile_backward(pixels(dy, k, i) + j * LANES, dy_row, d + (k * chunk + t) * LANES, d_step, out_h - i,
                                 out_w - j, M, N)
