"""Instances of inline functions of which an argument is a number of registers: one function for each number, by name
`f "f"(void* s, int n)`, so that the compiler gives each its registers. They stand in tables, by that number.

    cdef extern from *:
        '''
        TILES(f, most)
        '''
        const Tile* f_tiles

Numbers beyond `most`, a constant, are not compiled: their tiles would not fit the registers. TILES2(f, most_m, most_n)
is the same for `f "f"(void* s, int m, int n)`.

SIZES(f) makes the instances of `f "f"(void* s, int m, int r)` for the sizes F(m, r) of Winograd's algorithm, and

    void f_sized(void* s, Py_ssize_t m, Py_ssize_t r) nogil

which chooses one.
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
    #define TILE2(f, m, n, most_m, most_n) \
        static void f##_##m##_##n(void* s) { if ((m) <= (most_m) && (n) <= (most_n)) f(s, m, n); }
    #define TILE2_ROW(f, m, most_m, most_n) \
        TILE2(f, m, 1, most_m, most_n) TILE2(f, m, 2, most_m, most_n) TILE2(f, m, 3, most_m, most_n) \
        TILE2(f, m, 4, most_m, most_n) TILE2(f, m, 5, most_m, most_n)
    #define TILES2(f, most_m, most_n) \
        static CYTHON_INLINE void f(void*, int, int); \
        TILE2_ROW(f, 1, most_m, most_n) TILE2_ROW(f, 2, most_m, most_n) \
        TILE2_ROW(f, 3, most_m, most_n) TILE2_ROW(f, 4, most_m, most_n) \
        static Tile f##_tiles[5][6] = { \
            {0}, {0, f##_1_1, f##_1_2, f##_1_3, f##_1_4, f##_1_5}, {0, f##_2_1, f##_2_2, f##_2_3, f##_2_4, f##_2_5}, \
            {0, f##_3_1, f##_3_2, f##_3_3, f##_3_4, f##_3_5}, {0, f##_4_1, f##_4_2, f##_4_3, f##_4_4, f##_4_5}};
    #define SIZES(f) \
        static CYTHON_INLINE void f(void*, int, int); \
        static void f##_2_3(void* s) { f(s, 2, 3); } \
        static void f##_4_3(void* s) { f(s, 4, 3); } \
        static void f##_2_5(void* s) { f(s, 2, 5); } \
        static CYTHON_INLINE void f##_sized(void* s, Py_ssize_t m, Py_ssize_t r) { \
            (r == 5 ? f##_2_5 : m == 2 ? f##_2_3 : f##_4_3)(s); \
        }
    #endif
    """
ctypedef void (*Tile)(void* s) noexcept nogil
