"""Instances of inline functions of which an argument is a number of registers: one function for each number, by name
`f "f"(void* s, int n)`, so that the compiler gives each its registers. They stand in tables, by that number.

    cdef extern from *:
        '''
        TILES(f, most)
        '''
        const Tile* f_tiles

Numbers beyond `most`, a constant, are not compiled: their tiles would not fit the registers.
"""
cdef extern from *:
    """
    #ifndef CNN_INSTANCES_H
    #define CNN_INSTANCES_H
    typedef void (*const Tile)(void*);
    #define TILE(f, n, most) static void f##_##n(void* s) { if ((n) <= (most)) f(s, n); }
    #define TILES(f, most) \
        static CYTHON_INLINE void f(void*, int); \
        TILE(f, 1, most) TILE(f, 2, most) TILE(f, 3, most) TILE(f, 4, most) TILE(f, 5, most) TILE(f, 6, most) \
        TILE(f, 7, most) TILE(f, 8, most) TILE(f, 9, most) TILE(f, 10, most) TILE(f, 11, most) TILE(f, 12, most) \
        TILE(f, 13, most) TILE(f, 14, most) TILE(f, 15, most) TILE(f, 16, most) \
        static Tile f##_tiles[17] = { \
            0, f##_1, f##_2, f##_3, f##_4, f##_5, f##_6, f##_7, f##_8, f##_9, f##_10, f##_11, f##_12, f##_13, f##_14, \
            f##_15, f##_16};
    #endif
    """
ctypedef void (*Tile)(void* s) noexcept nogil
