"""Depthwise convolution with 3 x 3 kernels: every channel has one of its own. Strides 1 and 2, any padding.

    y[c, i, j] = b[c] + sum_{r, s} w[c, r, s] x[c, i*stride + r - top, j*stride + s - left]

`correlate` would load every pixel nine times, because a register tile of it has many outputs of the same input, and
here there is one. So a few rows of outputs are made at a time (as many as registers allow), column by column of x:
each pixel is loaded once and multiplied by all the weights that meet it. x has a border of zeros left and right; rows
of padding are read from a row of zeros. The input gradient of stride 1 is the same with w turned around; that of
stride 2 makes a square of 2 x 2 pixels from 2 x 2 pixels of dy.

The plain-NumPy twins are `conv2d` and `conv2d_backward` in cnn/reference.py.
"""
from cnn._ext.op cimport Op, Place, array, begin, end
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


cdef void depthwise(const Op* op, const Place* place) noexcept nogil:
    """y[c, i, j] = b[c] + sum_{r, s} w[c, r, s] x[c, i*stride + r - top, j*stride + s - left], perhaps a ReLU of it;
    with `turned`, w[c, 2 - r, 2 - s]."""
    cdef const real* w = <const real*>array(op, 1, place)        # IN  (C, 3, 3)
    cdef const real* b = <const real*>array(op, 2, place)        # IN  (C,) or NULL
    cdef const real* zero = <const real*>array(op, 4, place)     # IN  as many zeros as a row of x has numbers
    cdef Py_ssize_t C = op.n[0], H = op.n[1], out_h = op.n[2], out_w = op.n[3], stride = op.n[4], top = op.n[5]
    cdef Py_ssize_t left = op.n[6], x_row = op.args[0].row, y_row = op.args[3].row, c, i, T = DEPTH if stride == 1 else 2
    cdef bint relu = op.n[7], turned = op.n[8]
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
            x = <const real*>array(op, 0, place) + c * op.args[0].plane - left * LANES + h * VL  # IN  (C, H, W, 16)
            y = <real*>array(op, 3, place) + c * op.args[3].plane + h * VL                       # OUT (C, OH, OW, 16)
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


cdef void depthwise_dx(const Op* op, const Place* place) noexcept nogil:
    """dx[c, u, v] = sum of dy[c, i, j] w[c, r, s] over all (i, j, r, s) with 2i + r - top = u, 2j + s - left = v.

    Where u + top = 2a, r is 0 and i = a, or r is 2 and i = a - 1; where it is 2a + 1, r is 1 and i = a.
    """
    cdef const real* w = <const real*>array(op, 1, place)        # IN  (C, 3, 3)
    cdef const real* zero = <const real*>array(op, 3, place)     # IN  as many zeros as a row of dy has numbers
    cdef Py_ssize_t C = op.n[0], H = op.n[1], W = op.n[2], out_h = op.n[3], top = op.n[4], left = op.n[5]
    cdef Py_ssize_t edge = op.n[6]      # columns of dy left of its first that are read
    cdef Py_ssize_t dy_row = op.args[0].row, dx_row = op.args[2].row, c, a, u
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
            dy = <const real*>array(op, 0, place) + c * op.args[0].plane + h * VL    # IN  (C, OH, OW, 16)
            dx = <real*>array(op, 2, place) + c * op.args[2].plane + h * VL          # OUT (C, H, W, 16)
            for a in range(top // 2, (top + H - 1) // 2 + 1):
                u = 2 * a - top
                rows_of(dy, dy_row, out_h, zero + edge * LANES, a - 1, rows, 2)
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


cdef void depthwise_dw(const Op* op, const Place* place) noexcept nogil:
    """dw[c, r, s] += sum_{i, j} dy[c, i, j] x[c, i*stride + r - top, j*stride + s - left] of one block."""
    cdef real* dw = <real*>array(op, 2, place)                   # OUT (C, 3, 3) of a shard
    cdef const real* zero = <const real*>array(op, 3, place)     # IN  as many zeros as a row of x has numbers
    cdef Py_ssize_t C = op.n[0], H = op.n[1], out_h = op.n[2], out_w = op.n[3], stride = op.n[4], top = op.n[5]
    cdef Py_ssize_t left = op.n[6], x_row = op.args[0].row, dy_row = op.args[1].row, c, i, T = DEPTH if stride == 1 else 2
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
            x = <const real*>array(op, 0, place) + c * op.args[0].plane - left * LANES + h * VL  # IN  (C, H, W, 16)
            dy = <const real*>array(op, 1, place) + c * op.args[1].plane + h * VL                # IN  (C, OH, OW, 16)
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
KERNELS = {
    "depthwise": (<size_t>&depthwise, ("x", "w", "b", "y", "zero"),
                  ("channels", "height", "out_h", "out_w", "stride", "top", "left", "relu", "turned"), ()),
    "depthwise_dx": (<size_t>&depthwise_dx, ("dy", "w", "dx", "zero"),
                     ("channels", "height", "width", "out_h", "top", "left", "edge"), ()),
    "depthwise_dw": (<size_t>&depthwise_dw, ("x", "dy", "dw", "zero"),
                     ("channels", "height", "out_h", "out_w", "stride", "top", "left"), ()),
}
