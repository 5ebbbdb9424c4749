"""Sums over the shards of a batch, as a fixed binary tree: of neighbours, then of these sums, and so on; where a number
is left over, it waits for the next level. A process that has some of the shards can sum its own subtrees, and whoever
sums these gets the same bits: see cnn/training/exchange.py."""
from cnn._ext.vec cimport real, vec, vec_load, vec_splat


cdef inline vec two(const real* x, Py_ssize_t step) noexcept nogil:
    return vec_load(x) + vec_load(x + step)


cdef inline vec four(const real* x, Py_ssize_t step) noexcept nogil:
    return two(x, step) + two(x + 2 * step, step)


cdef inline vec eight(const real* x, Py_ssize_t step) noexcept nogil:
    return four(x, step) + four(x + 4 * step, step)


cdef inline vec tree_sum(const real* x, Py_ssize_t shards, Py_ssize_t step) noexcept nogil:
    """The sum of a vector of each of the shards, `step` numbers apart."""
    if shards <= 16:
        return small_tree_sum(x, shards, step)
    cdef vec s[32]
    cdef Py_ssize_t i = 0, width, m, top = -1
    while i < shards:       # subtrees of 16; after each as many sums as it ends larger subtrees
        top += 1
        s[top] = small_tree_sum(x + i * step, min(16, shards - i), step)
        i += 16
        m = i // 16
        while top and (m % 2 == 0 or i >= shards):
            top -= 1
            s[top] = s[top] + s[top + 1]
            m = m // 2
    return s[0]


cdef inline vec small_tree_sum(const real* x, Py_ssize_t shards, Py_ssize_t step) noexcept nogil:
    """The same of at most 16."""
    cdef vec s = vec_splat(0)
    cdef Py_ssize_t rest = shards % 8
    cdef const real* end = x + shards // 8 * 8 * step
    if shards == 16:
        return eight(x, step) + eight(x + 8 * step, step)
    if rest == 1:
        s = vec_load(end)
    elif rest == 2:
        s = two(end, step)
    elif rest == 3:
        s = two(end, step) + vec_load(end + 2 * step)
    elif rest == 4:
        s = four(end, step)
    elif rest == 5:
        s = four(end, step) + vec_load(end + 4 * step)
    elif rest == 6:
        s = four(end, step) + two(end + 4 * step, step)
    elif rest == 7:
        s = four(end, step) + (two(end + 4 * step, step) + vec_load(end + 6 * step))
    if shards < 8:
        return s
    return eight(x, step) + s if rest else eight(x, step)
