"""Maps of one element by itself: y = f(x) and dx = dy f'(x), each with up to two numbers a and b. Twins in
cnn/reference, of the names in MAPS (cnn/ops/pointwise.py).

A formula is a case of `formula`, value and derivative side by side; everything else is the same for all. In lanes
without an image y and dx are 0, whatever f(0) is.
"""
from cnn._ext.elementary cimport vec_exp, vec_exp_limited, vec_expm1, vec_log, vec_pow, vec_sigmoid, vec_softplus, vec_turn
from cnn._ext.instances cimport Tile
from cnn._ext.op cimport Image, Place, begin, end, held, pixels
from cnn._ext.vec cimport (LANES, ROWV, VL, ivec, real, vec, vec_abs, vec_clear, vec_div, vec_gt, vec_keep, vec_le,
                           vec_load, vec_lt, vec_select, vec_splat, vec_sqrt, vec_store)

cdef enum:      # as MAPS in cnn/ops/pointwise.py
    CLAMP = 1
    HARDTANH, ELU, HARDSWISH, HARDSIGMOID, MISH, SOFTPLUS, ABS, EXP, LOG, SQRT, POWER, SIN_, COS_


cdef inline vec limited(vec x, vec low, vec high) noexcept nogil:
    """x, but at least `low` and at most `high`; NaN stays NaN."""
    x = vec_select(vec_lt(x, low), low, x)
    return vec_select(vec_gt(x, high), high, x)


cdef inline vec formula(int kind, bint slope, vec x, real a, real b) noexcept nogil:
    """f(x), or with `slope` its derivative; of EXP and SQRT that gets y = f(x) in place of x."""
    cdef vec e, limit, n, t, zero = vec_splat(0), one = vec_splat(1)
    if kind == CLAMP:               # min(max(x, a), b); its derivative is 1 at a and b, too
        if slope:
            return vec_clear(vec_gt(x, vec_splat(b)), vec_clear(vec_lt(x, vec_splat(a)), one))
        return limited(x, vec_splat(a), vec_splat(b))
    if kind == HARDTANH:            # the same with derivative 0 there
        if slope:
            return vec_clear(vec_le(vec_splat(b), x), vec_clear(vec_le(x, vec_splat(a)), one))
        return limited(x, vec_splat(a), vec_splat(b))
    if kind == ELU:                 # x where x > 0, else a (e^x - 1)
        if slope:
            return vec_select(vec_gt(x, zero), one, vec_splat(a) * vec_exp(x))
        return vec_select(vec_gt(x, zero), x, vec_splat(a) * vec_expm1(x))
    if kind == HARDSWISH:           # x min(max(x + 3, 0), 6) / 6
        if slope:
            t = vec_select(vec_lt(x, vec_splat(3)), x * vec_splat(1.0 / 3) + vec_splat(0.5), one)
            return vec_clear(vec_le(x, vec_splat(-3)), t)
        return x * limited(x + vec_splat(3), zero, vec_splat(6)) * vec_splat(1.0 / 6)
    if kind == HARDSIGMOID:         # min(max(x + 3, 0), 6) / 6
        if slope:
            return vec_keep(vec_lt(vec_abs(x), vec_splat(3)), vec_splat(1.0 / 6))
        return limited(x + vec_splat(3), zero, vec_splat(6)) * vec_splat(1.0 / 6)
    if kind == MISH:                # x t with t = tanh(log(1 + e)) = n / (n + 2), e = e^x, n = e^2 + 2e
        limit = vec_select(vec_gt(x, vec_splat(20)), vec_splat(20), x)      # where t is 1, and its slope 0
        e = vec_exp_limited(limit)
        n = e * (e + vec_splat(2))
        t = vec_div(n, n + vec_splat(2))
        if slope:                   # t + x (1 - t^2) e / (1 + e)
            return t + limit * vec_div(vec_splat(4) * (one + e) * e, (n + vec_splat(2)) * (n + vec_splat(2)))
        return x * t
    if kind == SOFTPLUS:            # log(1 + e^ax) / a where ax <= b, else x
        e = vec_splat(a) * x
        return vec_select(vec_gt(e, vec_splat(b)), one, vec_sigmoid(e)) if slope else vec_softplus(x, a, b)
    if kind == ABS:
        if slope:
            return vec_keep(vec_gt(x, zero), one) - vec_keep(vec_lt(x, zero), one)
        return vec_abs(x)
    if kind == EXP:
        return x if slope else vec_exp(x)
    if kind == LOG:
        return vec_div(one, x) if slope else vec_log(x)
    if kind == SQRT:
        return vec_div(vec_splat(0.5), x) if slope else vec_sqrt(x)
    if kind == POWER:               # x^a
        if slope:
            return vec_splat(a) * vec_pow(x, a - 1) if a != 0 else zero
        return vec_pow(x, a)
    if kind == SIN_:
        return vec_turn(x, slope)
    if kind == COS_:
        return zero - vec_turn(x, False) if slope else vec_turn(x, True)
    return x


ctypedef struct Map:
    Image x                     # IN
    Image y                     # OUT
    Py_ssize_t channels, height, width
    Py_ssize_t kind             # one of the numbers above
    double a, b

ctypedef struct MapBackward:
    Image dy                    # IN
    Image x                     # IN  of EXP and SQRT y
    Image dx                    # OUT
    Py_ssize_t channels, height, width
    Py_ssize_t kind
    double a, b

cdef struct Call:
    const void* a
    const Place* place


cdef extern from *:
    """
    #define PIXELS (ROWV == 1 ? 2 : 1)
    """
    enum:
        PIXELS      # taken side by side, because each is a long chain of operations that wait for one another


cdef inline bint gapless(const Image* x, Py_ssize_t height, Py_ssize_t width) noexcept nogil:
    """Whether rows and channels follow each other without anything between them."""
    return x.row == width * LANES and x.plane == height * x.row


cdef inline Py_ssize_t vector(Py_ssize_t pixel, Py_ssize_t last, int q) noexcept nogil:
    """Where vector q of PIXELS pixels is; after the last pixel, the last one again."""
    pixel += q // ROWV
    return (pixel if pixel < last else last) * LANES + q % ROWV * VL


cdef inline void mapped(int kind, bint slope, const Image* from_x, const Image* from_dy, const Image* into,
                        Py_ssize_t channels, Py_ssize_t H, Py_ssize_t W, real a, real b, const Place* place
                        ) noexcept nogil:
    """f(x), or with `slope` dy f'(x)."""
    cdef Py_ssize_t item = begin(channels * H, place), last = end(channels * H, place), rows = 1, last_pixel, i
    cdef const real* x
    cdef const real* dy = NULL
    cdef real* y
    cdef ivec lanes[8]
    cdef vec row[8]
    cdef Py_ssize_t at[8]
    cdef int q
    held(place, lanes)
    if gapless(from_x, H, W) and gapless(into, H, W) and (not slope or gapless(from_dy, H, W)):
        rows = last - item
    while item < last:
        x = pixels(from_x, item // H, item % H)
        y = pixels(into, item // H, item % H)
        if slope:
            dy = pixels(from_dy, item // H, item % H)
        item += rows
        last_pixel = rows * W - 1
        i = 0
        while i <= last_pixel:
            for q in range(PIXELS * ROWV):
                at[q] = vector(i, last_pixel, q)
                row[q] = formula(kind, slope, vec_load(x + at[q]), a, b)
                if slope:
                    row[q] = vec_load(dy + at[q]) * row[q]
            for q in range(PIXELS * ROWV):
                vec_store(y + at[q], vec_keep(lanes[q % ROWV], row[q]))
            i += PIXELS


cdef inline void forward "map_forward"(void* address, int kind) noexcept nogil:
    cdef const Map* a = <const Map*>(<Call*>address).a
    mapped(kind, False, &a.x, NULL, &a.y, a.channels, a.height, a.width, a.a, a.b, (<Call*>address).place)


cdef inline void backward "map_slope"(void* address, int kind) noexcept nogil:
    cdef const MapBackward* a = <const MapBackward*>(<Call*>address).a
    mapped(kind, True, &a.x, &a.dy, &a.dx, a.channels, a.height, a.width, a.a, a.b, (<Call*>address).place)


cdef extern from *:
    """
    TILES(map_forward, 14)
    TILES(map_slope, 14)
    """
    const Tile* map_forward_tiles       # by the number of the formula
    const Tile* map_slope_tiles


cdef void map(const Map* a, const Place* place) noexcept nogil:
    """y = f(x)"""
    cdef Call call = Call(a, place)
    map_forward_tiles[a.kind](&call)


cdef void map_backward(const MapBackward* a, const Place* place) noexcept nogil:
    """dx = dy f'(x)"""
    cdef Call call = Call(a, place)
    map_slope_tiles[a.kind](&call)


SPLITS = ("map", "map_backward")
include "kernels/maps.pxi"      # KERNELS
