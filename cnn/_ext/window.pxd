"""The maximum of one window, for `max_pool` and for convolutions that end in one."""
from cnn._ext.vec cimport (LANES, ROWV, VL, integer, ivec, ivec_or, ivec_select, ivec_splat, ivec_store, real, vec,
                           vec_clear, vec_gt, vec_isnan, vec_le, vec_load, vec_select, vec_splat, vec_store)


cdef inline void window_max(
    const real* x,          # IN  one plane
    Py_ssize_t row,         # elements from one row of x to the next
    Py_ssize_t u0, Py_ssize_t u1, Py_ssize_t v0, Py_ssize_t v1,     # the window
    Py_ssize_t down, Py_ssize_t right,      # steps from pixel to pixel
    Py_ssize_t W,           # columns of the unpadded plane
    real* y,                # OUT (16,)
    integer* index,         # OUT (16,) or NULL
    bint relu,
) noexcept nogil:
    cdef vec best, value
    cdef ivec where, wins, dead
    cdef Py_ssize_t u, v
    cdef int q
    for q in range(ROWV):
        best = vec_load(x + u0 * row + v0 * LANES + q * VL)
        where = ivec_splat(u0 * W + v0)
        u = u0
        while u < u1:
            v = v0
            while v < v1:
                value = vec_load(x + u * row + v * LANES + q * VL)
                wins = ivec_or(vec_gt(value, best), vec_isnan(value))
                best = vec_select(wins, value, best)
                where = ivec_select(wins, ivec_splat(u * W + v), where)
                v += right
            u += down
        if relu:
            dead = vec_le(best, vec_splat(0))
            best = vec_clear(dead, best)
            where = ivec_select(dead, ivec_splat(-1), where)
        vec_store(y + q * VL, best)
        if index:
            ivec_store(index + q * VL, where)


cdef inline void window_pairs(const real* x, Py_ssize_t row, Py_ssize_t first, Py_ssize_t W, Py_ssize_t count, real* y,
                              integer* index, bint relu) noexcept nogil:
    """A row of `count` windows of two by two pixels, side by side: `window_max` without tables. first: number of the
    first pixel. index: OUT or NULL."""
    cdef vec best, value
    cdef ivec where, wins, dead, base = ivec_splat(first)
    cdef ivec none = ivec_splat(-1), right = ivec_splat(1), down = ivec_splat(W), across = ivec_splat(W + 1)
    cdef Py_ssize_t j
    cdef const real* p
    cdef int q
    for j in range(count):
        for q in range(ROWV):
            p = x + 2 * j * LANES + q * VL
            best = vec_load(p)
            value = vec_load(p + LANES)
            wins = ivec_or(vec_gt(value, best), vec_isnan(value))
            best = vec_select(wins, value, best)
            where = ivec_select(wins, right, ivec_splat(0))
            value = vec_load(p + row)
            wins = ivec_or(vec_gt(value, best), vec_isnan(value))
            best = vec_select(wins, value, best)
            where = ivec_select(wins, down, where)
            value = vec_load(p + row + LANES)
            wins = ivec_or(vec_gt(value, best), vec_isnan(value))
            best = vec_select(wins, value, best)
            where = base + ivec_select(wins, across, where)
            if relu:
                dead = vec_le(best, vec_splat(0))
                best = vec_clear(dead, best)
                where = ivec_select(dead, none, where)
            vec_store(y + j * LANES + q * VL, best)
            if index:
                ivec_store(index + j * LANES + q * VL, where)
        base = base + right + right


cdef inline void window_row(const real* x, Py_ssize_t height, Py_ssize_t width, Py_ssize_t W, Py_ssize_t first,
                            Py_ssize_t count, real* y, integer* index, bint relu) noexcept nogil:
    """A row of `count` windows of height by width pixels, side by side, of an x with W columns; row 0 of x is row
    `first` of its plane. index: OUT or NULL."""
    cdef Py_ssize_t j
    if height == 2 and width == 2:
        window_pairs(x, W * LANES, first * W, W, count, y, index, relu)
        return
    x -= first * W * LANES
    for j in range(count):
        window_max(x, W * LANES, first, first + height, j * width, (j + 1) * width, 1, 1, W, y, index, relu)
        y += LANES
        if index:
            index += LANES
