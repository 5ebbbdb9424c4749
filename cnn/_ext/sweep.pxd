"""The register tile of direct convolution: y[k, p] = b[k] + sum_t w[k, t] x[pixel[p] + tap[t]]."""
from cnn._ext.instances cimport Tile
from cnn._ext.vec cimport LANES, ROWV, VL, prefetch_write, real, vec, vec_load, vec_relu, vec_splat, vec_store

cdef extern from *:
    """
    #define LEAST(a, b) ((a) < (b) ? (a) : (b))
    /* A register tile is kt outputs by TILE_J(kt) pixels: as many accumulators as registers allow. */
    #define TILE_J(kt) (TILE_VECS / ((kt) * ROWV) < 1 ? 1 : LEAST(8, TILE_VECS / ((kt) * ROWV)))
    #define TILE_K LEAST(TILE_VECS == 24 ? 8 : 6, TILE_VECS / ROWV)
    """
    int TILE_J(int kt) nogil
    enum:
        TILE_K

cdef enum:
    ASKED = 6               # lines of memory that a tile asks for: no more than the processor can wait for

ctypedef struct Sweep:
    const real* x           # IN  input of this block
    const int* pixel        # IN  (pixels,) offset of each pixel's first input
    Py_ssize_t pixels
    const int* tap          # IN  offset of each tap from there
    Py_ssize_t segments     # ranges of taps, `skip` taps from one's end to the next one's start
    Py_ssize_t taps         # taps of a range
    Py_ssize_t skip
    const real* w           # IN  (all taps, KT) with w_step numbers from one tap to the next
    Py_ssize_t w_step
    const real* b           # IN  (KT,) or NULL
    real* y                 # OUT KT planes
    const int* out          # IN  (pixels,) offset of each pixel in its plane
    Py_ssize_t plane
    bint relu
    bint add                # to y, instead of setting it
    real** ahead            # up to `end`: the lines of memory that this thread writes later while other cores have
    real** end              # them in their caches; each tile asks for some


cdef inline void tile(const Sweep* s, Py_ssize_t first, int KT, int JT) noexcept nogil:
    """y[k, p] = b[k] + sum_t w[t, k] x[pixel[p] + tap[t]] for KT outputs and JT pixels from `first`.

    KT and JT are constants once inlined, so `acc` lives in registers.
    """
    cdef vec acc[16 * 8]
    cdef vec xv[8 * 8]
    cdef const real* xs[8]
    cdef real* ys[8]
    cdef const int* tap = s.tap
    cdef const real* w = s.w
    cdef const real* b = s.b
    cdef Py_ssize_t t, i, taps = s.taps, w_step = s.w_step, plane = s.plane
    cdef int q
    for q in range(JT):
        xs[q] = s.x + s.pixel[first + q]
        ys[q] = s.y + s.out[first + q]
    if s.add:
        for q in range(KT * JT * ROWV):
            acc[q] = vec_load(ys[q % (JT * ROWV) // ROWV] + (q // (JT * ROWV)) * plane + (q % ROWV) * VL)
    elif b:
        for q in range(KT * JT * ROWV):
            acc[q] = vec_splat(b[q // (JT * ROWV)])
    else:
        for q in range(KT * JT * ROWV):
            acc[q] = vec_splat(0)
    for i in range(s.segments if JT == 1 else 1):   # tiles of several pixels come with one range
        for t in range(taps):
            for q in range(JT * ROWV):
                xv[q] = vec_load(xs[q // ROWV] + tap[t] + (q % ROWV) * VL)
            for q in range(KT * JT * ROWV):
                acc[q] = acc[q] + w[q // (JT * ROWV)] * xv[q % (JT * ROWV)]
            w += w_step
        w += s.skip * w_step
        tap += taps + s.skip
    if s.relu:
        for q in range(KT * JT * ROWV):
            acc[q] = vec_relu(acc[q])
    for q in range(KT * JT * ROWV):
        vec_store(ys[q % (JT * ROWV) // ROWV] + (q // (JT * ROWV)) * plane + (q % ROWV) * VL, acc[q])


cdef inline void sweep "sweep"(void* address, int KT) noexcept nogil:
    """All pixels of a Sweep for KT outputs. What is left of them is a tile moved back to end at the last pixel, where
    that is faster than single pixels (whose sums take four cycles to add) and would not add sums twice."""
    cdef Sweep* s = <Sweep*>address
    cdef Py_ssize_t p = 0, q
    while p + TILE_J(KT) <= s.pixels:
        for q in range(min(ASKED, s.end - s.ahead)):
            prefetch_write(s.ahead[q])
        s.ahead += min(ASKED, s.end - s.ahead)
        tile(s, p, KT, TILE_J(KT))
        p += TILE_J(KT)
    if 0 < p < s.pixels and 2 * max(4, KT * ROWV // 2) * (s.pixels - p) >= KT * ROWV * TILE_J(KT) and not s.add:
        tile(s, s.pixels - TILE_J(KT), KT, TILE_J(KT))
    else:
        for p in range(p, s.pixels):
            tile(s, p, KT, 1)


cdef extern from *:
    """
    TILES(sweep, TILE_K)
    """
    const Tile* sweep_tiles     # by the number of outputs
