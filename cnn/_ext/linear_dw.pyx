"""The weight gradient of a linear layer, over the whole batch at once.

    dw[k, c] = sum_n dy[n, k] x[n, c],  db[k] = sum_n dy[n, k]

The images are the taps of a correlation here and sixteen neighbouring inputs c its lanes, so that nothing has to be
summed across lanes.

The plain-NumPy twin is `linear_backward` in cnn/reference.
"""
from libc.string cimport memcpy

from cnn._ext.op cimport Place
from cnn._ext.sweep cimport TILE_J, TILE_K, Sweep, sweep_tiles
from cnn._ext.vec cimport LANES, prefetch_second, prefetch_write, real

cdef enum:
    EACH = 4        # tiles of a task


ctypedef struct LinearDw:
    const real* x               # IN  (N, x_step), rows padded with zeros
    const real* dy              # IN  (N, dy_step)
    real* dw                    # OUT (K, C)
    real* db                    # OUT (K,) or NULL
    const int* image            # IN  (N,) n * x_step
    const int* lane             # IN  (C / 16,) 16 * i
    const real* w               # (K, C) weights, to be written soon
    Py_ssize_t outputs          # K
    Py_ssize_t inputs           # C
    Py_ssize_t dy_step          # elements from one image of dy to the next

cdef void linear_dw(const LinearDw* a, const Place* place) noexcept nogil:
    """dw[k, c] = sum_n dy[n, k] x[n, c], and where it is wanted db[k] = sum_n dy[n, k], for one task's outputs."""
    cdef const real* x = a.x
    cdef const real* dy = a.dy
    cdef real* dw = a.dw
    cdef real* db = a.db
    cdef const int* image = a.image
    cdef const int* lane = a.lane
    cdef const real* w = a.w
    cdef Py_ssize_t K = a.outputs, C = a.inputs, dy_step = a.dy_step
    cdef Py_ssize_t i = place.task, each = K // place.tasks, more = K % place.tasks
    cdef Py_ssize_t k0 = i * each + min(i, more), count = each + (i < more), tiles = (count + TILE_K - 1) // TILE_K, kt
    cdef Py_ssize_t whole = C // LANES, rest = C % LANES, k, n, p = 0, at, pixels
    cdef real edge[8 * 16]
    cdef real total[4 * 8]      # as many as `tasks` has in a task
    cdef Sweep s
    s.tap, s.segments, s.taps, s.skip = image, 1, place.total, 0
    s.w_step, s.b, s.relu, s.add, s.plane, s.ahead, s.end = dy_step, NULL, 0, 0, C, NULL, NULL
    while p < whole:    # so few inputs that they stay in the L1 cache for all outputs
        pixels = min(whole - p, TILE_J(<int>((count + tiles - 1) // tiles)))
        at = k0
        for i in range(tiles):
            kt = count // tiles + (i < count % tiles)
            s.x, s.pixel, s.out, s.pixels = x, lane + p, lane + p, pixels
            s.w, s.y = dy + at, dw + at * C
            for k in range(kt):     # what the update is about to write lies in other cores' caches, too
                for n in range(pixels):
                    prefetch_write(w + (at + k) * C + (p + n) * LANES)
            for n in range(place.total * i // tiles, place.total * (i + 1) // tiles):   # x of the next pixels
                for k in range(min(pixels, whole - p - pixels)):
                    prefetch_second(x + image[n] + (p + pixels + k) * LANES)
            sweep_tiles[kt](&s)
            at += kt
        p += pixels
    if rest:    # the last inputs do not fill a vector: they go by way of a buffer
        at = k0
        for i in range(tiles):
            kt = count // tiles + (i < count % tiles)
            s.x, s.pixel, s.out, s.pixels = x + whole * LANES, lane, lane, 1
            s.w, s.y, s.plane = dy + at, edge, LANES
            sweep_tiles[kt](&s)
            for k in range(kt):
                memcpy(dw + (at + k) * C + whole * LANES, edge + k * LANES, rest * sizeof(real))
            at += kt
    if db:
        for k in range(count):
            total[k] = 0
        for n in range(place.total):
            for k in range(count):
                total[k] += dy[n * dy_step + k0 + k]
        memcpy(db + k0, total, count * sizeof(real))


def tasks(Py_ssize_t outputs):
    """Into how many tasks the weight gradient of `outputs` outputs is cut."""
    return (outputs + EACH * TILE_K - 1) // (EACH * TILE_K)


include "kernels/linear_dw.pxi" # KERNELS
