"""Sums of outer products, for weight gradients: one side is read number by number, the other in rows of sixteen
channels, so that nothing is summed across lanes."""
from cnn._ext.instances cimport Tile
from cnn._ext.vec cimport LANES, ROWV, VL, real, transpose, vec, vec_load, vec_splat, vec_store

cdef extern from *:
    """
    #define LEAST(a, b) ((a) < (b) ? (a) : (b))
    /* A register tile of a matrix product: WIDE or NARROW numbers by DEEP rows. */
    #define WIDE LEAST(6, TILE_VECS / ROWV)
    #define NARROW ((2 * WIDE + 1) / 3)
    #define DEEP (TILE_VECS / (WIDE * ROWV))
    /* rows of one of `outer`: a power of two, for which instances are made */
    #define ROWS (DEEP >= 4 ? 4 : DEEP >= 2 ? 2 : 1)
    """
    enum:
        WIDE
        NARROW
        DEEP
        ROWS

ctypedef struct Outer:
    const real* a           # IN  numbers, a_step apart
    Py_ssize_t a_step
    const real* b           # IN  rows, b_step apart
    Py_ssize_t b_step
    real* o                 # OUT rows of each number, o_step apart
    Py_ssize_t o_step
    Py_ssize_t count        # terms of a sum
    bint first              # assign to o instead of adding


cdef inline void outer(const Outer* s, int AT, int BT) noexcept nogil:
    """o[a, b] (+)= sum_i a[i] b[i] for AT numbers a and BT rows b of sixteen numbers at each of `count` i."""
    cdef vec acc[6 * 2 * 8]
    cdef vec bv[2 * 8]
    cdef const real* ap[6]
    cdef const real* b = s.b
    cdef Py_ssize_t i, b_step = s.b_step
    cdef real* to
    cdef int q
    for q in range(AT):
        ap[q] = s.a + q * s.a_step
    for q in range(AT * BT * ROWV):
        acc[q] = vec_splat(0)
    for i in range(s.count):
        for q in range(BT * ROWV):
            bv[q] = vec_load(b + q // ROWV * b_step + i * LANES + q % ROWV * VL)
        for q in range(AT * BT * ROWV):
            acc[q] = acc[q] + ap[q // (BT * ROWV)][i] * bv[q % (BT * ROWV)]
    for q in range(AT * BT * ROWV):
        to = s.o + q // (BT * ROWV) * s.o_step + q % (BT * ROWV) * VL
        vec_store(to, acc[q] if s.first else vec_load(to) + acc[q])


cdef inline void outer_wide "outer_wide"(void* s, int BT) noexcept nogil:
    outer(<const Outer*>s, WIDE, BT)

cdef inline void outer_narrow "outer_narrow"(void* s, int BT) noexcept nogil:
    outer(<const Outer*>s, NARROW, BT)


cdef extern from *:
    """
    TILES(outer_wide, ROWS)
    TILES(outer_narrow, ROWS)
    """
    const Tile* outer_wide_tiles    # by the number of rows
    const Tile* outer_narrow_tiles


cdef inline void outers(const real* a, Py_ssize_t a_step, const real* b, Py_ssize_t b_step, real* o, Py_ssize_t numbers,
                 Py_ssize_t at, Py_ssize_t groups, Py_ssize_t count, bint first) noexcept nogil:
    """o[a, b] (+)= sum over `count` tiles of a b: `numbers` numbers, `at` at a time, and `groups` rows."""
    cdef Py_ssize_t g = 0, bt, k
    cdef Outer s
    cdef Tile tile
    s.a_step, s.b_step, s.o_step, s.count, s.first = a_step, b_step, groups * LANES, count * LANES, first
    while g < groups:       # the rows stay in the L1 cache for all numbers
        bt = ROWS if groups - g >= ROWS else 2 if ROWS > 2 and groups - g >= 2 else 1
        tile = outer_wide_tiles[bt] if at == WIDE else outer_narrow_tiles[bt]
        s.b = b + g * b_step
        k = 0
        while k < numbers:
            s.a, s.o = a + k * a_step, o + k * s.o_step + g * LANES
            tile(&s)
            k += at
        g += bt


cdef inline void to_numbers(const real* b, Py_ssize_t plane, real* rows, Py_ssize_t groups, Py_ssize_t chunk,
                     Py_ssize_t count) noexcept nogil:
    """(channel, tile, image), channels `plane` numbers apart, as (sixteen channels, tile and image, channel)."""
    cdef Py_ssize_t g, t
    for g in range(groups):
        for t in range(count):
            transpose(b + g * LANES * plane + t * LANES, plane, rows + (g * chunk + t) * LANES * LANES, LANES)
