"""Arithmetic of one block: values with each other and with numbers, repeated and summed. Twins in cnn/reference.

    binary:      y = a + b, a - b, a * b, a / b, max(a, b), ...; or a itself, repeated
    where:       y = a where a condition holds, else b
    affine:      y = factor x + summand
    reciprocal:  y = number / x
    reduce:      y[c', h', w'] = the sum or an extreme of x[c, h, w] over the axes of which y has one

In lanes without an image y is 0, whatever is divided there.
"""
from libc.math cimport INFINITY

from cnn._ext.instances cimport Tile
from cnn._ext.op cimport Image, Place, begin, end, held, pixels
from cnn._ext.vec cimport (LANES, ROWV, VL, ivec, ivec_or, prefetch_second, real, vec, vec_clear, vec_div, vec_eq,
                           vec_gt, vec_isnan, vec_keep, vec_le, vec_load, vec_lt, vec_select, vec_splat, vec_store)

cdef enum:      # as KINDS in cnn/ops/arithmetic.py
    ADD = 1
    SUBTRACT, MULTIPLY, DIVIDE, REPEAT, MAXIMUM, MINIMUM, GREATER, GREATER_EQUAL, EQUAL, UNEQUAL, SHARE, KEEP, DROP


cdef inline vec combined(int kind, vec a, vec b) noexcept nogil:
    """Comparisons are 1 where they hold, else 0. A NaN wins a maximum or minimum, as in NumPy."""
    cdef vec zero = vec_splat(0), one = vec_splat(1)
    if kind == ADD:
        return a + b
    if kind == SUBTRACT:
        return a - b
    if kind == MULTIPLY:
        return a * b
    if kind == DIVIDE:
        return vec_div(a, b)
    if kind == MAXIMUM:
        return vec_select(ivec_or(vec_gt(a, b), vec_isnan(a)), a, b)
    if kind == MINIMUM:
        return vec_select(ivec_or(vec_lt(a, b), vec_isnan(a)), a, b)
    if kind == GREATER:
        return vec_keep(vec_gt(a, b), one)
    if kind == GREATER_EQUAL:
        return vec_keep(vec_le(b, a), one)
    if kind == EQUAL:
        return vec_keep(vec_eq(a, b), one)
    if kind == UNEQUAL:
        return vec_clear(vec_eq(a, b), one)
    if kind == SHARE:       # of a in the gradient of max(a, b)
        return vec_select(vec_eq(a, b), vec_splat(0.5), vec_clear(vec_lt(a, b), one))
    if kind == KEEP:        # a where b is not 0
        return vec_clear(vec_eq(b, zero), a)
    if kind == DROP:        # a where b is 0
        return vec_keep(vec_eq(b, zero), a)
    return a


ctypedef struct Binary:
    Image a                     # IN  (C, H, W, 16), or with one channel, row or column that is repeated
    Image b                     # IN  likewise
    Image y                     # OUT (C, H, W, 16)
    Py_ssize_t kind
    Py_ssize_t a_channel, a_row, a_pixel    # numbers to the next channel and row, pixels to the next; 0: it is repeated
    Py_ssize_t b_channel, b_row, b_pixel
    Py_ssize_t channels, height, width

cdef struct Call:
    const void* a
    const Place* place

cdef inline void combine "combine"(void* address, int kind) noexcept nogil:
    cdef const Binary* a = <const Binary*>(<Call*>address).a
    cdef const Place* place = (<Call*>address).place
    cdef Py_ssize_t item, c, h, i, u_step = a.a_pixel * LANES, v_step = a.b_pixel * LANES
    cdef int q
    cdef const real* u
    cdef const real* v
    cdef real* y
    cdef ivec lanes[8]
    held(place, lanes)
    for item in range(begin(a.channels * a.height, place), end(a.channels * a.height, place)):
        c, h = item // a.height, item % a.height
        u = a.a.data + c * a.a_channel + h * a.a_row
        v = a.b.data + c * a.b_channel + h * a.b_row
        y = pixels(&a.y, c, h)
        for i in range(a.width):
            for q in range(ROWV):
                vec_store(y + i * LANES + q * VL, vec_keep(lanes[q], combined(
                    kind, vec_load(u + i * u_step + q * VL), vec_load(v + i * v_step + q * VL))))

cdef extern from *:
    """
    TILES(combine, 14)
    """
    const Tile* combine_tiles       # by the kind

cdef void binary(const Binary* a, const Place* place) noexcept nogil:
    """y = a + b and the like, see `combined`"""
    cdef Call call = Call(a, place)
    combine_tiles[a.kind](&call)


ctypedef struct Where:
    Image condition             # IN  (C, H, W, 16), or with one channel, row or column that is repeated
    Image a                     # IN  likewise
    Image b                     # IN  likewise
    Image y                     # OUT (C, H, W, 16)
    Py_ssize_t condition_channel, condition_row, condition_pixel        # steps, as in Binary
    Py_ssize_t a_channel, a_row, a_pixel
    Py_ssize_t b_channel, b_row, b_pixel
    Py_ssize_t channels, height, width

cdef void where(const Where* a, const Place* place) noexcept nogil:
    """y = a where the condition is not 0, else b"""
    cdef Py_ssize_t item, c, h, i
    cdef int q
    cdef const real* t
    cdef const real* u
    cdef const real* v
    cdef real* y
    cdef ivec lanes[8]
    held(place, lanes)
    for item in range(begin(a.channels * a.height, place), end(a.channels * a.height, place)):
        c, h = item // a.height, item % a.height
        t = a.condition.data + c * a.condition_channel + h * a.condition_row
        u = a.a.data + c * a.a_channel + h * a.a_row
        v = a.b.data + c * a.b_channel + h * a.b_row
        y = pixels(&a.y, c, h)
        for i in range(a.width):
            for q in range(ROWV):
                vec_store(y + i * LANES + q * VL, vec_keep(lanes[q], vec_select(
                    vec_eq(vec_load(t + i * a.condition_pixel * LANES + q * VL), vec_splat(0)),
                    vec_load(v + i * a.b_pixel * LANES + q * VL), vec_load(u + i * a.a_pixel * LANES + q * VL))))


ctypedef struct Affine:
    Image x                     # IN  (C, H, W, 16); not read where the factor is 0
    Image y                     # OUT (C, H, W, 16)
    Py_ssize_t channels, height, width
    double factor, summand

cdef void affine(const Affine* a, const Place* place) noexcept nogil:
    """y = factor x + summand. May work in place."""
    cdef Py_ssize_t c, h, i
    cdef int q
    cdef const real* x
    cdef real* y
    cdef vec factor = vec_splat(<real>a.factor), summand = vec_splat(<real>a.summand), v
    cdef ivec holds[8]
    held(place, holds)
    for c in range(begin(a.channels, place), end(a.channels, place)):
        for h in range(a.height):
            x = pixels(&a.x, c, h)
            y = pixels(&a.y, c, h)
            for i in range(a.width):
                for q in range(ROWV):
                    v = summand if a.factor == 0 else factor * vec_load(x + i * LANES + q * VL) + summand
                    vec_store(y + i * LANES + q * VL, vec_keep(holds[q], v))


ctypedef struct Reciprocal:
    Image x                     # IN  (C, H, W, 16)
    Image y                     # OUT (C, H, W, 16)
    Py_ssize_t channels, height, width
    double number

cdef void reciprocal(const Reciprocal* a, const Place* place) noexcept nogil:
    """y = number / x"""
    cdef Py_ssize_t c, h, i
    cdef int q
    cdef const real* x
    cdef real* y
    cdef vec number = vec_splat(<real>a.number)
    cdef ivec holds[8]
    held(place, holds)
    for c in range(begin(a.channels, place), end(a.channels, place)):
        for h in range(a.height):
            x = pixels(&a.x, c, h)
            y = pixels(&a.y, c, h)
            for i in range(a.width):
                for q in range(ROWV):
                    vec_store(y + i * LANES + q * VL,
                              vec_keep(holds[q], vec_div(number, vec_load(x + i * LANES + q * VL))))


cdef enum:      # as REDUCTIONS in cnn/ops/arithmetic.py
    SUM = 1
    LARGEST, SMALLEST

    CACHED = 256                # pixels, 16 kB of floats

cdef inline vec merged(int kind, vec s, vec v) noexcept nogil:
    """s + v, or the larger or smaller of both; a NaN wins."""
    if kind == SUM:
        return s + v
    if kind == LARGEST:
        return vec_select(ivec_or(vec_gt(v, s), vec_isnan(v)), v, s)
    return vec_select(ivec_or(vec_lt(v, s), vec_isnan(v)), v, s)

ctypedef struct Reduce:
    Image x                     # IN  (C, H, W, 16)
    Image y                     # OUT (C', H', W', 16), each C' and so on either C or 1
    Py_ssize_t kind
    Py_ssize_t y_channels, y_height, y_width
    Py_ssize_t channels, height, width

cdef inline void merge(const Reduce* a, int kind, Py_ssize_t c, Py_ssize_t first, Py_ssize_t stop, vec none
                       ) noexcept nogil:
    """These rows of channel c into theirs of y."""
    cdef bint over = a.y_channels < a.channels, rows = a.y_height < a.height, columns = a.y_width < a.width
    cdef Py_ssize_t h, i
    cdef int q
    cdef const real* x
    cdef real* y
    cdef vec s
    for h in range(first, stop):
        x = pixels(&a.x, c, h)
        y = pixels(&a.y, 0 if over else c, 0 if rows else h)
        if columns:
            for q in range(ROWV):
                s = none        # of each row by itself: shorter sums round less
                for i in range(a.width):
                    s = merged(kind, s, vec_load(x + i * LANES + q * VL))
                vec_store(y + q * VL, merged(kind, vec_load(y + q * VL), s))
        else:
            for i in range(a.width * ROWV):
                if over:        # what comes next is a plane away
                    prefetch_second(x + a.x.plane + i * VL)
                vec_store(y + i * VL, merged(kind, vec_load(y + i * VL), vec_load(x + i * VL)))

cdef inline void fill(const Image* y, Py_ssize_t c, Py_ssize_t first, Py_ssize_t stop, Py_ssize_t width, vec none
                      ) noexcept nogil:
    """These rows of y begin so."""
    cdef Py_ssize_t h, i
    for h in range(first, stop):
        for i in range(width * ROWV):
            vec_store(pixels(y, c, h) + i * VL, none)

cdef inline void reduce_by "reduce_by"(void* address, int kind) noexcept nogil:
    cdef const Reduce* a = <const Reduce*>(<Call*>address).a
    cdef const Place* place = (<Call*>address).place
    cdef bint over = a.y_channels < a.channels, rows = a.y_height < a.height
    cdef Py_ssize_t c, first, stop, last, together = max(1, CACHED // a.width)
    cdef vec none = vec_splat(0 if kind == SUM else <real>(-INFINITY if kind == LARGEST else INFINITY))
    if not over:
        for c in range(begin(a.channels, place), end(a.channels, place)):
            fill(&a.y, c, 0, a.y_height, a.y_width, none)
            merge(a, kind, c, 0, a.height, none)
    elif not rows:              # a few rows of y at a time, which stay in the first cache
        first, last = begin(a.height, place), end(a.height, place)
        while first < last:
            stop = min(first + together, last)
            fill(&a.y, 0, first, stop, a.y_width, none)
            for c in range(a.channels):
                merge(a, kind, c, first, stop, none)
            first = stop
    elif place.part == 0:       # one thread does it all
        fill(&a.y, 0, 0, 1, a.y_width, none)
        for c in range(a.channels):
            merge(a, kind, c, 0, a.height, none)

cdef extern from *:
    """
    TILES(reduce_by, 3)
    """
    const Tile* reduce_by_tiles     # by the kind

cdef void reduce(const Reduce* a, const Place* place) noexcept nogil:
    """y = sums or extremes of x"""
    cdef Call call = Call(a, place)
    reduce_by_tiles[a.kind](&call)


ctypedef struct Spread:
    const real* x               # IN  (C,)
    Image y                     # OUT (C, 1, 1, 16)
    Py_ssize_t channels

cdef void spread(const Spread* a, const Place* place) noexcept nogil:
    """y[c, lane] = x[c] for every image: a parameter as a value. Its gradient is `bias_grad`."""
    cdef Py_ssize_t c
    cdef int q
    cdef ivec holds[8]
    held(place, holds)
    for c in range(begin(a.channels, place), end(a.channels, place)):
        for q in range(ROWV):
            vec_store(pixels(&a.y, c, 0) + q * VL, vec_keep(holds[q], vec_splat(a.x[c])))


SPLITS = ("binary", "where", "affine", "reciprocal", "reduce", "spread")
include "kernels/arithmetic.pxi"      # KERNELS
