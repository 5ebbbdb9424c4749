"""Winograd's transforms of tiles, m by m outputs and n by n inputs with n = m + r - 1; the formulas stand in
winograd.pyx."""
from cnn._ext.instances cimport Tile    # SIZES
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


# ---------------------------------------------------------------- some channels of some tiles

ctypedef struct Chunk:
    const Tiling* t
    const Image* image          # IN or OUT: x, dy, y or dx
    const real* zero            # IN  as many zeros as a row of x has numbers
    const real* b               # IN  of y, or NULL
    real* numbers               # OUT or IN: V, D, P or dV, from their first channel on
    Py_ssize_t step             # elements from one frequency to the next
    Py_ssize_t first, end       # tiles
    Py_ssize_t channel, after   # channels
    Py_ssize_t width            # of dx
    bint relu                   # whether a ReLU follows y


cdef inline void input_tiles "input_tiles"(void* chunk, int M, int R) noexcept nogil:
    """V of x, which has the border that the tiles read; all channels."""
    cdef const Chunk* s = <const Chunk*>chunk
    cdef int N = M + R - 1
    cdef Py_ssize_t C = s.t.channels, H = s.t.height, top = s.t.top, left = s.t.left, wide = s.t.wide
    cdef Py_ssize_t each = s.t.chunk, step = s.step, t, c, i, j, q, h
    cdef const real* row[6]
    cdef Py_ssize_t plane[6]
    for t in range(s.first, s.end):
        i = t // wide * M
        j = t % wide * M
        for q in range(N):
            h = i - top + q
            row[q] = (<const real*>pixels(s.image, 0, h) if 0 <= h < H else s.zero + left * LANES) + (j - left) * LANES
            plane[q] = s.image.plane if 0 <= h < H else 0
        for c in range(C):
            input_tile(row, s.numbers + (c * each + t - s.first) * LANES, step, N)
            for q in range(N):
                row[q] += plane[q]


cdef inline void output_tiles "output_tiles"(void* chunk, int M, int R) noexcept nogil:
    """y, of P."""
    cdef const Chunk* s = <const Chunk*>chunk
    cdef Py_ssize_t wide = s.t.wide, each = s.t.chunk, step = s.step, out_h = s.t.out_h, out_w = s.t.out_w
    cdef Py_ssize_t y_row = s.image.row, t, k, i, j
    for k in range(s.channel, s.after):
        for t in range(s.first, s.end):
            i = t // wide * M
            j = t % wide * M
            output_tile(s.numbers + ((k - s.channel) * each + t - s.first) * LANES, step,
                        pixels(s.image, k, i) + j * LANES, y_row, s.b[k] if s.b else 0, s.relu, min(M, out_h - i),
                        min(M, out_w - j), M, M + R - 1)


cdef inline void output_tiles_backward "output_tiles_backward"(void* chunk, int M, int R) noexcept nogil:
    """D, of dy; all channels."""
    cdef const Chunk* s = <const Chunk*>chunk
    cdef Py_ssize_t K = s.t.outputs, out_h = s.t.out_h, out_w = s.t.out_w, wide = s.t.wide, each = s.t.chunk
    cdef Py_ssize_t step = s.step, dy_row = s.image.row, t, k, i, j
    for t in range(s.first, s.end):
        i = t // wide * M
        j = t % wide * M
        for k in range(K):
            output_tile_backward(pixels(s.image, k, i) + j * LANES, dy_row,
                                 s.numbers + (k * each + t - s.first) * LANES, step, out_h - i, out_w - j, M,
                                 M + R - 1)


cdef inline void input_tiles_backward "input_tiles_backward"(void* chunk, int M, int R) noexcept nogil:
    """dx += what dV makes of it."""
    cdef const Chunk* s = <const Chunk*>chunk
    cdef int N = M + R - 1
    cdef Py_ssize_t H = s.t.height, W = s.width, top = s.t.top, left = s.t.left, wide = s.t.wide, each = s.t.chunk
    cdef Py_ssize_t step = s.step, dx_row = s.image.row, t, c, i, j
    for c in range(s.channel, s.after):
        for t in range(s.first, s.end):
            i = t // wide * M - top
            j = t % wide * M - left
            input_tile_backward(s.numbers + ((c - s.channel) * each + t - s.first) * LANES, step,
                                pixels(s.image, c, i) + j * LANES, dx_row, max(0, -i), min(N, H - i), max(0, -j),
                                min(N, W - j), N)


cdef extern from *:
    """
    SIZES(input_tiles)
    SIZES(output_tiles)
    SIZES(output_tiles_backward)
    SIZES(input_tiles_backward)
    """
    void input_tiles_sized(void* chunk, Py_ssize_t m, Py_ssize_t r) nogil
    void output_tiles_sized(void* chunk, Py_ssize_t m, Py_ssize_t r) nogil
    void output_tiles_backward_sized(void* chunk, Py_ssize_t m, Py_ssize_t r) nogil
    void input_tiles_backward_sized(void* chunk, Py_ssize_t m, Py_ssize_t r) nogil
