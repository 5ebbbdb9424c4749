"""Moving numbers between layouts: NCHW arrays and blocks, weights and packed weights, shards and sums.

Twins: none, all of it is NumPy's own indexing and sums.
"""
from libc.stdint cimport int64_t, uint8_t
from libc.string cimport memcpy

from cnn._ext.op cimport CHUNK, PER_BLOCK, Image, Place, begin, end, pixels
from cnn._ext.system cimport flush_subnormals, restore_mode
from cnn._ext.tree cimport tree_sum
from cnn._ext.vec cimport LANES, VL, integer, real, transpose, vec, vec_load, vec_store

cdef extern from *:
    """
    /* to[i, lane] = rows[lane][at + i]: sixteen bytes of each of sixteen rows change places, rows 0 and 8, 1 and 9, ...
       byte by byte, four times. */
    static inline void transpose_bytes(const uint8_t** rows, Py_ssize_t at, uint8_t* to) {
    #ifdef __clang__
        for (int i = 0; i < 16; i++)
            for (int lane = 0; lane < 16; lane++) to[i * 16 + lane] = rows[lane][at + i];
    #else
        typedef uint8_t row __attribute__((vector_size(16)));
        const row low = {0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23}, high = low + 8;
        row a[16], b[16];
        for (int i = 0; i < 16; i++) memcpy(&a[i], rows[i] + at, 16);
        for (int turn = 0; turn < 4; turn++) {
            for (int i = 0; i < 8; i++) {
                b[2 * i] = __builtin_shuffle(a[i], a[i + 8], low);
                b[2 * i + 1] = __builtin_shuffle(a[i], a[i + 8], high);
            }
            memcpy(a, b, sizeof(a));
        }
        memcpy(to, a, sizeof(a));
    #endif
    }
    static inline void normalise_bytes(const uint8_t* restrict x, real scale, real shift, real* restrict y) {
        for (int lane = 0; lane < LANES; lane++) y[lane] = x[lane] * scale + shift;
    }
    """
    void normalise_bytes(const uint8_t* x, real scale, real shift, real* y) nogil
    void transpose_bytes(const uint8_t** rows, Py_ssize_t at, uint8_t* to) nogil


ctypedef struct Pack:
    const real* x               # IN  (N, C, H, W)
    Image y                     # OUT (C, H, W, 16)
    Py_ssize_t channels, height, width

cdef void pack(const Pack* a, const Place* place) noexcept nogil:
    """Sixteen images of an NCHW array into a block; lanes without an image become zero."""
    cdef const real* x = a.x
    cdef Py_ssize_t C = a.channels, H = a.height, W = a.width, c, h, j, lane, size = C * H * W
    cdef Py_ssize_t squares = W // LANES * LANES if place.images == LANES else 0
    cdef const real* xp
    cdef real* yp
    x += place.at[PER_BLOCK] * LANES * size
    for c in range(C):
        for h in range(begin(H, place), end(H, place)):
            xp = x + (c * H + h) * W
            yp = pixels(&a.y, c, h)
            for j in range(W // LANES if squares else 0):
                transpose(xp + j * LANES, size, yp + j * LANES * LANES, LANES)
            for j in range(squares, W):
                for lane in range(place.images):
                    yp[j * LANES + lane] = xp[lane * size + j]
                for lane in range(place.images, LANES):
                    yp[j * LANES + lane] = 0


ctypedef struct Unpack:
    Image x                     # IN  (C, H, W, 16)
    real* y                     # OUT (N, C, H, W)
    Py_ssize_t channels, height, width

cdef void unpack(const Unpack* a, const Place* place) noexcept nogil:
    """The images of a block back into an NCHW array."""
    cdef real* y = a.y
    cdef Py_ssize_t C = a.channels, H = a.height, W = a.width, c, h, j, lane, size = C * H * W
    cdef Py_ssize_t squares = W // LANES * LANES if place.images == LANES else 0
    cdef const real* xp
    cdef real* yp
    y += place.at[PER_BLOCK] * LANES * size
    for c in range(C):
        for h in range(begin(H, place), end(H, place)):
            xp = pixels(&a.x, c, h)
            yp = y + (c * H + h) * W
            for j in range(W // LANES if squares else 0):
                transpose(xp + j * LANES * LANES, LANES, yp + j * LANES, size)
            for lane in range(place.images):
                for j in range(squares, W):
                    yp[lane * size + j] = xp[j * LANES + lane]


ctypedef struct PackBytes:
    const uint8_t* x            # IN  (any, C, H, W)
    const int64_t* chosen       # IN  (N,) numbers of the images, or NULL
    const real* scale           # IN  (C,)
    const real* shift           # IN  (C,)
    Image y                     # OUT (C, H, W, 16)
    Py_ssize_t channels, height, width

cdef void pack_bytes(const PackBytes* a, const Place* place) noexcept nogil:
    """Sixteen images of bytes, chosen by number or (without `chosen`) all of x, normalised: y = x * scale + shift."""
    cdef const uint8_t* x = a.x
    cdef const int64_t* chosen = a.chosen
    cdef const real* scale = a.scale
    cdef const real* shift = a.shift
    cdef Py_ssize_t C = a.channels, W = a.width, plane = a.height * W, size = C * plane
    cdef Py_ssize_t chunks = (plane + LANES - 1) // LANES, c, chunk, at, h, i, j, lane
    cdef const uint8_t* image[16]
    cdef uint8_t square[16 * 16]
    cdef real* yp
    for lane in range(LANES):
        # a lane without an image shows the first one again, and is set to zero below
        i = lane if lane < place.images else 0
        image[lane] = x + (chosen[place.at[PER_BLOCK] * LANES + i] if chosen != NULL else i) * size
    for c in range(C):
        for chunk in range(begin(chunks, place), end(chunks, place)):   # sixteen pixels, of any rows
            at = chunk * LANES
            if plane - at >= LANES:
                transpose_bytes(image, c * plane + at, square)
            else:
                for i in range(plane - at):
                    for lane in range(LANES):
                        square[i * LANES + lane] = image[lane][c * plane + at + i]
            h = at // W
            j = at % W
            for i in range(min(LANES, plane - at)):
                yp = pixels(&a.y, c, h) + j * LANES
                normalise_bytes(square + i * LANES, scale[c], shift[c], yp)
                for lane in range(place.images, LANES):
                    yp[lane] = 0
                j += 1
                if j == W:
                    j = 0
                    h += 1


ctypedef struct PackIndex:
    const int64_t* x            # IN  (N, C, H, W)
    integer* y                  # OUT (C, H, W, 16)
    Py_ssize_t size             # elements of an image

cdef void pack_index(const PackIndex* a, const Place* place) noexcept nogil:
    """Pooling indices of an NCHW int64 array into a block of integers as wide as `real`."""
    cdef const int64_t* x = a.x
    cdef integer* y = a.y
    cdef Py_ssize_t size = a.size, i, lane
    x += place.at[PER_BLOCK] * LANES * size
    for i in range(size):
        for lane in range(LANES):
            y[i * LANES + lane] = <integer>x[lane * size + i] if lane < place.images else 0


ctypedef struct UnpackIndex:
    const integer* x            # IN  (C, H, W, 16)
    int64_t* y                  # OUT (N, C, H, W)
    Py_ssize_t size             # elements of an image

cdef void unpack_index(const UnpackIndex* a, const Place* place) noexcept nogil:
    """The opposite of `pack_index`."""
    cdef const integer* x = a.x
    cdef int64_t* y = a.y
    cdef Py_ssize_t size = a.size, i, lane
    y += place.at[PER_BLOCK] * LANES * size
    for i in range(size):
        for lane in range(place.images):
            y[lane * size + i] = x[i * LANES + lane]


ctypedef struct Copy:
    Image x                     # IN  (C, H, W, 16)
    Image y                     # OUT (C, H, W, 16)
    Py_ssize_t channels, height, width

cdef void copy(const Copy* a, const Place* place) noexcept nogil:
    """A tensor into another, which may have other borders."""
    cdef Py_ssize_t C = a.channels, H = a.height, W = a.width, c, h
    for c in range(C):
        for h in range(begin(H, place), end(H, place)):
            memcpy(pixels(&a.y, c, h), pixels(&a.x, c, h), W * LANES * sizeof(real))


ctypedef struct ToRows:
    Image x                     # IN  (C, 1, 1, 16)
    real* y                     # OUT (16, step), PER_BLOCK
    Py_ssize_t channels
    Py_ssize_t step             # numbers from one row to the next

cdef void to_rows(const ToRows* a, const Place* place) noexcept nogil:
    """A block of vectors into one row of numbers per image, for `linear_dw`."""
    cdef const real* x = a.x.data
    cdef real* y = a.y
    cdef Py_ssize_t C = a.channels, step = a.step, plane = a.x.plane, c, lane
    for c in range(C // LANES):
        transpose(x + c * LANES * plane, plane, y + c * LANES, step)
    for c in range(C // LANES * LANES, C):
        for lane in range(LANES):
            y[lane * step + c] = x[c * plane + lane]


ctypedef struct Gather:
    const real* x               # IN  (any,)
    const int* index            # IN  (count,)
    real* y                     # OUT (count,)
    Py_ssize_t count            # elements

cdef void gather(const Gather* a, const Place* place) noexcept nogil:
    """y[i] = x[index[i]], one chunk a task: weights into the order in which a kernel reads them."""
    cdef const real* x = a.x
    cdef const int* index = a.index
    cdef real* y = a.y
    cdef Py_ssize_t i, first = place.task * CHUNK
    for i in range(first, min(first + CHUNK, a.count)):
        y[i] = x[index[i]]


ctypedef struct SumShards:
    const real* x               # IN  (shards, step), rows of whole vectors
    real* y                     # OUT (count,)
    Py_ssize_t count            # elements
    Py_ssize_t step             # numbers from one shard's to the next one's

cdef void sum_shards(const SumShards* a, const Place* place) noexcept nogil:
    """y[i] = sum over the shards, see tree.pxd, of x[shard, i], one chunk a task."""
    cdef Py_ssize_t i = place.task * CHUNK, last = min(i + CHUNK, a.count)
    cdef real rest[16]
    while i + VL <= last:
        vec_store(a.y + i, tree_sum(a.x + i, place.shards, a.step))
        i += VL
    if i < last:
        vec_store(rest, tree_sum(a.x + i, place.shards, a.step))
        memcpy(a.y + i, rest, (last - i) * sizeof(real))


ctypedef struct Accumulate:
    const real* x               # IN     (count,)
    real* y                     # IN/OUT (count,)
    Py_ssize_t count            # elements

cdef void accumulate(const Accumulate* a, const Place* place) noexcept nogil:
    """y[i] += x[i], one chunk a task."""
    cdef const real* x = a.x
    cdef real* y = a.y
    cdef Py_ssize_t i, first = place.task * CHUNK
    for i in range(first, min(first + CHUNK, a.count)):
        y[i] += x[i]


def add_rows(size_t x, Py_ssize_t step, Py_ssize_t count, rows, sums):
    """Sum rows of an array, `step` numbers apart, into the first of them, as a tree: after each row comes how often the
    last two that there are are added. x: its address; count: numbers of a row, to whole vectors."""
    cdef Py_ssize_t i, k, top, m, n = len(rows)
    cdef Py_ssize_t row[256]
    cdef Py_ssize_t add[256]
    cdef vec s[64]
    cdef real* at = <real*>x
    cdef size_t mode
    cdef bint even = 1 < n <= 16        # whether they are the shards of a batch, or subtrees of one size
    row[0] = row[1] = 0
    for k in range(n):
        row[k], add[k] = rows[k], sums[k]
    for k in range(n):
        even = even and row[k] - row[0] == k * (row[1] - row[0])
    with nogil:
        mode = flush_subnormals()
        i = 0
        while i < count and even:
            vec_store(at + row[0] * step + i, tree_sum(at + row[0] * step + i, n, (row[1] - row[0]) * step))
            i += VL
        while i < count and n:
            top = -1
            for k in range(n):
                top += 1
                s[top] = vec_load(at + row[k] * step + i)
                for m in range(add[k]):
                    top -= 1
                    s[top] = s[top] + s[top + 1]
            vec_store(at + row[0] * step + i, s[0])
            i += VL
        restore_mode(mode)


def chunks(Py_ssize_t count):
    """Into how many tasks a flat array of `count` elements is cut."""
    return (count + CHUNK - 1) // CHUNK


SPLITS = ("pack", "unpack", "pack_bytes", "copy")
include "kernels/pack.pxi"      # KERNELS
