"""Winograd's F(2, 5) of rows of pixels: convolution with few channels, whose sums over one frequency of two dimensions
would be too short.

Rows of M outputs are made of N inputs; what remains is a convolution of N groups with a kernel of R x 1, which the
kernels of direct convolution do, see cnn/ops/conv/winograd_rows.py:

    V[f] = B^T x,  U[f] = G w,  M[f, k] = sum_{c, r} U[f, k, c, r] V[f, c, r],  y = A^T M + b
    D[f] = A dy,  dx = B dV,  dw = G^T dU

The matrices are in transforms.pxd. The plain-NumPy twin is `winograd_rows_conv2d` in cnn/reference.
"""
from libc.string cimport memcpy, memset

from cnn._ext.op cimport Image, Indices, Place, begin, end, pixels
from cnn._ext.transforms cimport (input_line, input_line_backward, output_line, output_line_backward, weight_line,
                                  weight_line_backward)
from cnn._ext.tree cimport tree_sum
from cnn._ext.vec cimport LANES, ROWV, VL, integer, real, vec, vec_load, vec_relu, vec_splat, vec_store
from cnn._ext.window cimport window_row

cdef enum:
    M = 2
    N = 6
    R = 5
    ROWS_EACH = 64      # rows of weights of a task


ctypedef struct WinogradRows:
    Image x                     # IN  (C, H, W, 16), bordered
    Image v                     # OUT (N * C, H, wide, 16)
    Py_ssize_t channels, height
    Py_ssize_t wide             # tiles in a row
    Py_ssize_t left             # columns of padding

cdef void winograd_rows(const WinogradRows* a, const Place* place) noexcept nogil:
    """V[f, c, h, t] = B^T x of tile t of row h."""
    cdef Py_ssize_t C = a.channels, H = a.height, wide = a.wide, left = a.left, step = C * a.v.plane, c, h, t
    cdef const real* xp
    cdef real* vp
    cdef vec line[6]
    cdef vec done[6]
    cdef int i, q
    for c in range(begin(C, place), end(C, place)):
        for h in range(H):
            xp = pixels(&a.x, c, h) - left * LANES
            vp = pixels(&a.v, c, h)
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


ctypedef struct WinogradRowsY:
    Image p                     # IN  (N * K, out_h, wide, 16)
    const real* b               # IN  (K,) or NULL
    Image y                     # OUT (K, out_h, out_w, 16)
    Py_ssize_t outputs, out_h
    Py_ssize_t wide             # tiles in a row
    Py_ssize_t out_w
    Py_ssize_t relu             # whether a ReLU follows

cdef void winograd_rows_y(const WinogradRowsY* a, const Place* place) noexcept nogil:
    """y[k, i] = A^T M + b[k], with ReLU if wanted."""
    cdef const real* b = a.b
    cdef Py_ssize_t K = a.outputs, out_h = a.out_h, wide = a.wide, out_w = a.out_w, step = K * a.p.plane, k, h
    cdef bint relu = a.relu
    for k in range(begin(K, place), end(K, place)):
        for h in range(out_h):
            row_output(pixels(&a.p, k, h), step, pixels(&a.y, k, h), vec_splat(b[k] if b else 0), relu, wide, out_w)


ctypedef struct WinogradRowsPool:
    Image p                     # IN  (N * K, out_h, wide, 16)
    const real* b               # IN  (K,) or NULL
    Image y                     # OUT (K, windows down and across, 16)
    Indices index               # OUT as y, or NULL
    real* rows                  # (win_h, out_w, 16) scratch
    Py_ssize_t outputs
    Py_ssize_t width            # of a row before pooling
    Py_ssize_t wide             # tiles in a row
    Py_ssize_t relu             # whether a ReLU comes before the maximum
    Py_ssize_t win_h            # rows of a window
    Py_ssize_t win_w            # and its columns
    Py_ssize_t out_h, out_w     # windows

cdef void winograd_rows_pool(const WinogradRowsPool* a, const Place* place) noexcept nogil:
    """The maximum, as in pool.pyx, over windows of y that lie side by side; y is kept nowhere."""
    cdef const real* b = a.b
    cdef integer* index = a.index.data
    cdef real* rows = a.rows
    cdef Py_ssize_t K = a.outputs, out_w = a.width, wide = a.wide, win_h = a.win_h, win_w = a.win_w, down = a.out_h
    cdef Py_ssize_t across = a.out_w, step = K * a.p.plane, k, i, h
    for k in range(begin(K, place), end(K, place)):
        for i in range(down):
            for h in range(win_h):
                row_output(pixels(&a.p, k, i * win_h + h), step, rows + h * out_w * LANES,
                           vec_splat(b[k] if b else 0), 0, wide, out_w)
            window_row(rows, win_h, win_w, out_w, i * win_h, across, pixels(&a.y, k, i),
                       index + k * a.index.plane + i * a.index.row if index else NULL, a.relu)


ctypedef struct WinogradRowsDy:
    Image dy                    # IN  (K, out_h, out_w, 16)
    Image d                     # OUT (N * K, out_h, wide, 16)
    Py_ssize_t outputs, out_h
    Py_ssize_t wide             # tiles in a row
    Py_ssize_t out_w

cdef void winograd_rows_dy(const WinogradRowsDy* a, const Place* place) noexcept nogil:
    """D[f, k, i, t] = A dy."""
    cdef Py_ssize_t K = a.outputs, out_h = a.out_h, wide = a.wide, out_w = a.out_w, step = K * a.d.plane, k, h, t
    cdef const real* yp
    cdef real* dp
    cdef vec line[4]
    cdef vec done[6]
    cdef int i, q
    for k in range(begin(K, place), end(K, place)):
        for h in range(out_h):
            yp = pixels(&a.dy, k, h)
            dp = pixels(&a.d, k, h)
            for t in range(wide):
                for q in range(ROWV):
                    for i in range(M):
                        line[i] = vec_load(yp + (t * M + i) * LANES + q * VL) if t * M + i < out_w else vec_splat(0)
                    output_line_backward(line, done, M, N)
                    for i in range(N):
                        vec_store(dp + i * step + t * LANES + q * VL, done[i])


ctypedef struct WinogradRowsDx:
    Image dv                    # IN  (N * C, H, wide, 16)
    Image dx                    # OUT (C, H, W, 16)
    Py_ssize_t channels, height
    Py_ssize_t wide             # tiles in a row
    Py_ssize_t left             # columns of padding
    Py_ssize_t width

cdef void winograd_rows_dx(const WinogradRowsDx* a, const Place* place) noexcept nogil:
    """dx[c, h] = B dV, overlapping tiles summed."""
    cdef Py_ssize_t C = a.channels, H = a.height, wide = a.wide, left = a.left, W = a.width
    cdef Py_ssize_t step = C * a.dv.plane, c, h, t, j
    cdef const real* vp
    cdef real* xp
    cdef vec line[6]
    cdef vec done[6]
    cdef vec carry[4]       # sums of the pixels that this tile shares with the next
    cdef int i, q
    for c in range(begin(C, place), end(C, place)):
        for h in range(H):
            vp = pixels(&a.dv, c, h)
            xp = pixels(&a.dx, c, h)
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


ctypedef struct WinogradRowsWeights:
    const real* w               # IN  (rows, R)
    const int* row              # IN  (rows,)
    real* u                     # OUT (N, rows)
    Py_ssize_t rows             # K C R, kernel rows

cdef void winograd_rows_weights(const WinogradRowsWeights* a, const Place* place) noexcept nogil:
    """U[f] = G w, the rows of w in the order `row`."""
    cdef const real* w = a.w
    cdef const int* row = a.row
    cdef real* u = a.u
    cdef Py_ssize_t rows = a.rows, first = place.task * ROWS_EACH, last = min(first + ROWS_EACH, rows), lane, n
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


ctypedef struct WinogradRowsDw:
    const real* du              # IN  (shards, step) of (N, rows)
    real* dw                    # OUT (rows, R)
    Py_ssize_t rows             # K C R, kernel rows
    Py_ssize_t step             # elements from one shard to the next

cdef void winograd_rows_dw(const WinogradRowsDw* a, const Place* place) noexcept nogil:
    """dw[k, c, r] = G^T (sum of dU over the shards, see tree.pxd)."""
    cdef const real* du = a.du
    cdef real* dw = a.dw
    cdef Py_ssize_t rows = a.rows, step = a.step, first = place.task * ROWS_EACH
    cdef Py_ssize_t last = min(first + ROWS_EACH, rows), lane
    cdef vec line[6]
    cdef vec done[6]
    cdef real numbers[5 * 16]
    cdef int i, q
    while first < last:
        for q in range(ROWV):
            for i in range(N):
                line[i] = tree_sum(du + i * rows + first + q * VL, place.shards, step)
            weight_line_backward(line, done, R, N)
            for i in range(R):
                vec_store(numbers + i * LANES + q * VL, done[i])
        for lane in range(min(LANES, last - first)):
            for i in range(R):
                dw[(first + lane) * R + i] = numbers[i * LANES + lane]
        first += LANES


def tasks(Py_ssize_t rows):
    """Into how many tasks the transform of so many rows of weights is cut."""
    return (rows + ROWS_EACH - 1) // ROWS_EACH


SPLITS = ("winograd_rows", "winograd_rows_dx", "winograd_rows_y", "winograd_rows_pool", "winograd_rows_dy")
include "kernels/winograd_rows.pxi"     # KERNELS
