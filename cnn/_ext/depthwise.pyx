"""Depthwise convolution with 3 x 3 kernels: every channel has one of its own. Strides 1 and 2, any padding.

    y[c, i, j] = b[c] + sum_{r, s} w[c, r, s] x[c, i*stride + r - top, j*stride + s - left]

`correlate` would load every pixel nine times, because a register tile of it has many outputs of the same input, and
here there is one. So a few rows of outputs are made at a time (as many as registers allow), column by column of x:
each pixel is loaded once and multiplied by all the weights that meet it. x has a border of zeros left and right; rows
of padding are read from a row of zeros. The input gradient of stride 1 is the same with w turned around; that of
stride 2 makes a square of 2 x 2 pixels from 2 x 2 pixels of dy.

The plain-NumPy twins are `conv2d` and `conv2d_backward` in cnn/reference.
"""
from cnn._ext.op cimport Image, Place, begin, end
from cnn._ext.vec cimport (LANES, ROWV, TILE_VECS, VL, real, vec, vec_load, vec_relu, vec_splat, vec_store, vec_sum,
                           vec_sum4)

cdef extern from *:
    """
    #define DEPTH (TILE_VECS == 24 ? 4 : 2)     /* rows of outputs at a time, of stride 1; of stride 2 they are two */
    """
    enum:
        DEPTH


cdef inline void rows_of(const real* x, Py_ssize_t row, Py_ssize_t height, const real* zero, Py_ssize_t first,
                         const real** rows, int count) noexcept nogil:
    """Pointers to `count` rows from number `first`, which may lie outside."""
    cdef int r
    for r in range(count):
        rows[r] = x + (first + r) * row if 0 <= first + r < height else zero


# ---------------------------------------------------------------- forward, and dx of stride 1

cdef inline void outputs_1(const real* const* rows, const vec* w, vec b, real* y, Py_ssize_t y_row, Py_ssize_t width,
                           bint relu, int T) noexcept nogil:
    """T rows of outputs, stride 1. Column j of x belongs to the outputs j - 2 (which it completes), j - 1 and j."""
    cdef vec done[4]
    cdef vec half[4]
    cdef vec fresh[4]
    cdef vec x
    cdef Py_ssize_t j
    cdef int t, r
    for t in range(T):
        done[t] = half[t] = b
    for j in range(width + 2):
        for r in range(T + 2):
            x = vec_load(rows[r] + j * LANES)
            for t in range(T):
                if 0 <= r - t <= 2:
                    done[t] = done[t] + w[3 * (r - t) + 2] * x
                    half[t] = half[t] + w[3 * (r - t) + 1] * x
                    fresh[t] = (b if r == t else fresh[t]) + w[3 * (r - t)] * x
        for t in range(T):
            if j >= 2:
                vec_store(y + t * y_row + (j - 2) * LANES, vec_relu(done[t]) if relu else done[t])
            done[t] = half[t]
            half[t] = fresh[t]


cdef inline void outputs_2(const real* const* rows, const vec* w, vec b, real* y, Py_ssize_t y_row, Py_ssize_t width,
                           bint relu, int T) noexcept nogil:
    """T rows of outputs, stride 2. Every other column of x belongs to two outputs."""
    cdef vec acc[2]
    cdef vec fresh[2]
    cdef vec x
    cdef Py_ssize_t j
    cdef int t, r
    for t in range(T):
        acc[t] = b
        for r in range(3):
            acc[t] = acc[t] + w[3 * r] * vec_load(rows[2 * t + r])
    for j in range(width):
        for r in range(2 * T + 1):
            x = vec_load(rows[r] + (2 * j + 1) * LANES)
            for t in range(T):
                if 0 <= r - 2 * t <= 2:
                    acc[t] = acc[t] + w[3 * (r - 2 * t) + 1] * x
            x = vec_load(rows[r] + (2 * j + 2) * LANES)
            for t in range(T):
                if 0 <= r - 2 * t <= 2:
                    acc[t] = acc[t] + w[3 * (r - 2 * t) + 2] * x
                    fresh[t] = (b if r == 2 * t else fresh[t]) + w[3 * (r - 2 * t)] * x
        for t in range(T):
            vec_store(y + t * y_row + j * LANES, vec_relu(acc[t]) if relu else acc[t])
            acc[t] = fresh[t]


# One function for each tile, so that the compiler gives each its registers.
cdef void outputs_1_tile(const real* const* rows, const vec* w, vec b, real* y, Py_ssize_t y_row, Py_ssize_t width,
                         bint relu) noexcept nogil:
    if relu:
        outputs_1(rows, w, b, y, y_row, width, 1, DEPTH)
    else:
        outputs_1(rows, w, b, y, y_row, width, 0, DEPTH)

cdef void outputs_1_row(const real* const* rows, const vec* w, vec b, real* y, Py_ssize_t y_row, Py_ssize_t width,
                        bint relu) noexcept nogil:
    outputs_1(rows, w, b, y, y_row, width, relu, 1)

cdef void outputs_2_tile(const real* const* rows, const vec* w, vec b, real* y, Py_ssize_t y_row, Py_ssize_t width,
                         bint relu) noexcept nogil:
    if relu:
        outputs_2(rows, w, b, y, y_row, width, 1, 2)
    else:
        outputs_2(rows, w, b, y, y_row, width, 0, 2)

cdef void outputs_2_row(const real* const* rows, const vec* w, vec b, real* y, Py_ssize_t y_row, Py_ssize_t width,
                        bint relu) noexcept nogil:
    outputs_2(rows, w, b, y, y_row, width, relu, 1)


ctypedef struct Depthwise:
    Image x                     # IN  (C, H, W, 16)
    const real* w               # IN  (C, 3, 3)
    const real* b               # IN  (C,) or NULL
    Image y                     # OUT (C, OH, OW, 16)
    const real* zero            # IN  as many zeros as a row of x has numbers
    Py_ssize_t channels, height, out_h, out_w, stride
    Py_ssize_t top              # rows of padding
    Py_ssize_t left             # columns of padding
    Py_ssize_t relu             # whether a ReLU follows
    Py_ssize_t turned           # whether the kernel is turned around

cdef void depthwise(const Depthwise* a, const Place* place) noexcept nogil:
    """y[c, i, j] = b[c] + sum_{r, s} w[c, r, s] x[c, i*stride + r - top, j*stride + s - left], perhaps a ReLU of it;
    with `turned`, w[c, 2 - r, 2 - s]."""
    cdef const real* w = a.w
    cdef const real* b = a.b
    cdef const real* zero = a.zero
    cdef Py_ssize_t C = a.channels, H = a.height, out_h = a.out_h, out_w = a.out_w, stride = a.stride, top = a.top
    cdef Py_ssize_t left = a.left, x_row = a.x.row, y_row = a.y.row, c, i, T = DEPTH if stride == 1 else 2
    cdef bint relu = a.relu, turned = a.turned
    cdef const real* x
    cdef real* y
    cdef const real* rows[6]
    cdef vec ws[9]
    cdef vec bias
    cdef int t, h
    for c in range(begin(C, place), end(C, place)):
        for t in range(9):
            ws[t] = vec_splat(w[9 * c + (8 - t if turned else t)])
        bias = vec_splat(b[c] if b else 0)
        for h in range(ROWV):
            x = a.x.data + c * a.x.plane - left * LANES + h * VL
            y = a.y.data + c * a.y.plane + h * VL
            i = 0
            while i < out_h:
                if out_h >= T:
                    i = min(i, out_h - T)       # the last tile is moved back to end at the last row
                    rows_of(x, x_row, H, zero, i * stride - top, rows, <int>((T - 1) * stride + 3))
                    if stride == 1:
                        outputs_1_tile(rows, ws, bias, y + i * y_row, y_row, out_w, relu)
                    else:
                        outputs_2_tile(rows, ws, bias, y + i * y_row, y_row, out_w, relu)
                    i += T
                else:
                    rows_of(x, x_row, H, zero, i * stride - top, rows, 3)
                    if stride == 1:
                        outputs_1_row(rows, ws, bias, y + i * y_row, y_row, out_w, relu)
                    else:
                        outputs_2_row(rows, ws, bias, y + i * y_row, y_row, out_w, relu)
                    i += 1


# ---------------------------------------------------------------- dx of stride 2

cdef inline void squares(const real* d, const real* above, const vec* w, real* even, real* odd, Py_ssize_t first,
                         Py_ssize_t last, Py_ssize_t left, Py_ssize_t width) noexcept nogil:
    """The pixels 2 b - left and 2 b + 1 - left of two rows of dx (which may be NULL) from b and b - 1 of two of dy."""
    cdef vec a00 = vec_load(above + (first - 1) * LANES), a10 = vec_load(d + (first - 1) * LANES), a01, a11
    cdef Py_ssize_t b, v
    for b in range(first, last + 1):
        a01 = vec_load(above + b * LANES)
        a11 = vec_load(d + b * LANES)
        v = 2 * b - left
        if v >= 0:
            if even:
                vec_store(even + v * LANES, w[0] * a11 + w[2] * a10 + (w[6] * a01 + w[8] * a00))
            if odd:
                vec_store(odd + v * LANES, w[3] * a11 + w[5] * a10)
        v += 1
        if v < width:
            if even:
                vec_store(even + v * LANES, w[1] * a11 + w[7] * a01)
            if odd:
                vec_store(odd + v * LANES, w[4] * a11)
        a00 = a01
        a10 = a11


ctypedef struct DepthwiseDx:
    Image dy                    # IN  (C, OH, OW, 16)
    const real* w               # IN  (C, 3, 3)
    Image dx                    # OUT (C, H, W, 16)
    const real* zero            # IN  as many zeros as a row of dy has numbers
    Py_ssize_t channels, height, width, out_h
    Py_ssize_t top              # rows of padding
    Py_ssize_t left             # columns of padding
    Py_ssize_t edge             # columns of dy left of its first that are read

cdef void depthwise_dx(const DepthwiseDx* a, const Place* place) noexcept nogil:
    """dx[c, u, v] = sum of dy[c, i, j] w[c, r, s] over all (i, j, r, s) with 2i + r - top = u, 2j + s - left = v.

    Where u + top = 2m, r is 0 and i = m, or r is 2 and i = m - 1; where it is 2m + 1, r is 1 and i = m.
    """
    cdef const real* w = a.w
    cdef const real* zero = a.zero
    cdef Py_ssize_t C = a.channels, H = a.height, W = a.width, out_h = a.out_h, top = a.top, left = a.left
    cdef Py_ssize_t dy_row = a.dy.row, dx_row = a.dx.row, c, m, u
    cdef Py_ssize_t first = left // 2, last = (left + W - 1) // 2
    cdef const real* dy
    cdef real* dx
    cdef const real* rows[2]
    cdef vec ws[9]
    cdef int t, h
    for c in range(begin(C, place), end(C, place)):
        for t in range(9):
            ws[t] = vec_splat(w[9 * c + t])
        for h in range(ROWV):
            dy = a.dy.data + c * a.dy.plane + h * VL
            dx = a.dx.data + c * a.dx.plane + h * VL
            for m in range(top // 2, (top + H - 1) // 2 + 1):
                u = 2 * m - top
                rows_of(dy, dy_row, out_h, zero + a.edge * LANES, m - 1, rows, 2)
                squares(rows[1], rows[0], ws, dx + u * dx_row if u >= 0 else NULL,
                        dx + (u + 1) * dx_row if u + 1 < H else NULL, first, last, left, W)


# ---------------------------------------------------------------- weight gradient

cdef inline void products_1(const real* const* rows, const real* dy, Py_ssize_t dy_row, Py_ssize_t width,
                            vec* acc, int T) noexcept nogil:
    """acc[r, s] += sum of dy x for T rows of dy, stride 1. Column j of x meets the outputs j, j - 1, j - 2."""
    cdef vec sums[9]
    cdef vec d[12]      # (3, T)
    cdef vec x
    cdef Py_ssize_t j
    cdef int t, r, s
    for t in range(9):
        sums[t] = acc[t]
    for t in range(3 * T):
        d[t] = vec_splat(0)
    for j in range(width):
        for t in range(T):
            d[2 * T + t] = d[T + t]
            d[T + t] = d[t]
            d[t] = vec_load(dy + t * dy_row + j * LANES)
        for r in range(T + 2):
            x = vec_load(rows[r] + j * LANES)
            for t in range(T):
                if 0 <= r - t <= 2:
                    for s in range(3):
                        sums[3 * (r - t) + s] = sums[3 * (r - t) + s] + d[s * T + t] * x
    for r in range(T + 2):
        x = vec_load(rows[r] + width * LANES)
        for t in range(T):
            if 0 <= r - t <= 2:
                sums[3 * (r - t) + 1] = sums[3 * (r - t) + 1] + d[t] * x
                sums[3 * (r - t) + 2] = sums[3 * (r - t) + 2] + d[T + t] * x
        x = vec_load(rows[r] + (width + 1) * LANES)
        for t in range(T):
            if 0 <= r - t <= 2:
                sums[3 * (r - t) + 2] = sums[3 * (r - t) + 2] + d[t] * x
    for t in range(9):
        acc[t] = sums[t]


cdef inline void products_2(const real* const* rows, const real* dy, Py_ssize_t dy_row, Py_ssize_t width,
                            vec* acc, int T) noexcept nogil:
    """The same for stride 2. Column 2 j of x meets the outputs j and j - 1, column 2 j + 1 output j."""
    cdef vec sums[9]
    cdef vec d[2]
    cdef vec before[2]
    cdef vec x
    cdef Py_ssize_t j
    cdef int t, r
    for t in range(9):
        sums[t] = acc[t]
    for t in range(T):
        d[t] = vec_splat(0)
    for j in range(width):
        for t in range(T):
            before[t] = d[t]
            d[t] = vec_load(dy + t * dy_row + j * LANES)
        for r in range(2 * T + 1):
            x = vec_load(rows[r] + 2 * j * LANES)
            for t in range(T):
                if 0 <= r - 2 * t <= 2:
                    sums[3 * (r - 2 * t)] = sums[3 * (r - 2 * t)] + d[t] * x
                    sums[3 * (r - 2 * t) + 2] = sums[3 * (r - 2 * t) + 2] + before[t] * x
            x = vec_load(rows[r] + (2 * j + 1) * LANES)
            for t in range(T):
                if 0 <= r - 2 * t <= 2:
                    sums[3 * (r - 2 * t) + 1] = sums[3 * (r - 2 * t) + 1] + d[t] * x
    for r in range(2 * T + 1):
        x = vec_load(rows[r] + 2 * width * LANES)
        for t in range(T):
            if 0 <= r - 2 * t <= 2:
                sums[3 * (r - 2 * t) + 2] = sums[3 * (r - 2 * t) + 2] + d[t] * x
    for t in range(9):
        acc[t] = sums[t]


cdef void products_1_tile(const real* const* rows, const real* dy, Py_ssize_t dy_row, Py_ssize_t width,
                          vec* acc) noexcept nogil:
    products_1(rows, dy, dy_row, width, acc, DEPTH)

cdef void products_1_row(const real* const* rows, const real* dy, Py_ssize_t dy_row, Py_ssize_t width,
                         vec* acc) noexcept nogil:
    products_1(rows, dy, dy_row, width, acc, 1)

cdef void products_2_tile(const real* const* rows, const real* dy, Py_ssize_t dy_row, Py_ssize_t width,
                          vec* acc) noexcept nogil:
    products_2(rows, dy, dy_row, width, acc, 2)

cdef void products_2_row(const real* const* rows, const real* dy, Py_ssize_t dy_row, Py_ssize_t width,
                         vec* acc) noexcept nogil:
    products_2(rows, dy, dy_row, width, acc, 1)


ctypedef struct DepthwiseDw:
    Image x                     # IN  (C, H, W, 16)
    Image dy                    # IN  (C, OH, OW, 16)
    real* dw                    # OUT (C, 3, 3) of a shard
    const real* zero            # IN  as many zeros as a row of x has numbers
    Py_ssize_t channels, height, out_h, out_w, stride
    Py_ssize_t top              # rows of padding
    Py_ssize_t left             # columns of padding

cdef void depthwise_dw(const DepthwiseDw* a, const Place* place) noexcept nogil:
    """dw[c, r, s] += sum_{i, j} dy[c, i, j] x[c, i*stride + r - top, j*stride + s - left] of one block."""
    cdef real* dw = a.dw
    cdef const real* zero = a.zero
    cdef Py_ssize_t C = a.channels, H = a.height, out_h = a.out_h, out_w = a.out_w, stride = a.stride, top = a.top
    cdef Py_ssize_t left = a.left, x_row = a.x.row, dy_row = a.dy.row, c, i, T = DEPTH if stride == 1 else 2
    cdef const real* x
    cdef const real* dy
    cdef const real* rows[6]
    cdef vec acc[9]
    cdef real sums[9]
    cdef int t, h
    for c in range(begin(C, place), end(C, place)):
        for t in range(9):
            acc[t] = vec_splat(0)
        for h in range(ROWV):
            x = a.x.data + c * a.x.plane - left * LANES + h * VL
            dy = a.dy.data + c * a.dy.plane + h * VL
            i = 0
            while i < out_h:
                if i + T <= out_h:
                    rows_of(x, x_row, H, zero, i * stride - top, rows, <int>((T - 1) * stride + 3))
                    if stride == 1:
                        products_1_tile(rows, dy + i * dy_row, dy_row, out_w, acc)
                    else:
                        products_2_tile(rows, dy + i * dy_row, dy_row, out_w, acc)
                    i += T
                else:
                    rows_of(x, x_row, H, zero, i * stride - top, rows, 3)
                    if stride == 1:
                        products_1_row(rows, dy + i * dy_row, dy_row, out_w, acc)
                    else:
                        products_2_row(rows, dy + i * dy_row, dy_row, out_w, acc)
                    i += 1
        for t in range(0, 8, 4):
            vec_sum4(acc[t], acc[t + 1], acc[t + 2], acc[t + 3], sums + t)
        sums[8] = vec_sum(acc[8])
        for t in range(9):
            dw[9 * c + t] = sums[t] if place.first else dw[9 * c + t] + sums[t]


SPLITS = ("depthwise", "depthwise_dx", "depthwise_dw")
include "kernels/depthwise.pxi" # KERNELS
