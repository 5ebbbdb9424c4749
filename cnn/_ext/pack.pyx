"""Moving numbers between layouts: NCHW arrays and blocks, weights and packed weights, shards and sums."""
from libc.stdint cimport int64_t, uint8_t
from libc.string cimport memcpy

from cnn._ext.op cimport CHUNK, Op, Place, array, begin, end
from cnn._ext.vec cimport LANES, integer, real, transpose

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


cdef void pack(const Op* op, const Place* place) noexcept nogil:
    """Sixteen images of an NCHW array into a block; lanes without an image become zero."""
    cdef const real* x = <const real*>array(op, 0, place)        # IN  (N, C, H, W)
    cdef real* y = <real*>array(op, 1, place)                    # OUT (C, H, W, 16)
    cdef Py_ssize_t C = op.n[0], H = op.n[1], W = op.n[2], c, h, j, lane, size = C * H * W
    cdef Py_ssize_t squares = W // LANES * LANES if place.images == LANES else 0
    cdef const real* xp
    cdef real* yp
    x += place.at[1] * LANES * size
    for c in range(C):
        for h in range(begin(H, place), end(H, place)):
            xp = x + (c * H + h) * W
            yp = y + c * op.args[1].plane + h * op.args[1].row
            for j in range(W // LANES if squares else 0):
                transpose(xp + j * LANES, size, yp + j * LANES * LANES, LANES)
            for j in range(squares, W):
                for lane in range(place.images):
                    yp[j * LANES + lane] = xp[lane * size + j]
                for lane in range(place.images, LANES):
                    yp[j * LANES + lane] = 0


cdef void unpack(const Op* op, const Place* place) noexcept nogil:
    """The images of a block back into an NCHW array."""
    cdef const real* x = <const real*>array(op, 0, place)        # IN  (C, H, W, 16)
    cdef real* y = <real*>array(op, 1, place)                    # OUT (N, C, H, W)
    cdef Py_ssize_t C = op.n[0], H = op.n[1], W = op.n[2], c, h, j, lane, size = C * H * W
    cdef Py_ssize_t squares = W // LANES * LANES if place.images == LANES else 0
    cdef const real* xp
    cdef real* yp
    y += place.at[1] * LANES * size
    for c in range(C):
        for h in range(begin(H, place), end(H, place)):
            xp = x + c * op.args[0].plane + h * op.args[0].row
            yp = y + (c * H + h) * W
            for j in range(W // LANES if squares else 0):
                transpose(xp + j * LANES * LANES, LANES, yp + j * LANES, size)
            for lane in range(place.images):
                for j in range(squares, W):
                    yp[lane * size + j] = xp[j * LANES + lane]


cdef void pack_bytes(const Op* op, const Place* place) noexcept nogil:
    """Sixteen images of bytes, chosen by number or (without `chosen`) all of x, normalised: y = x * scale + shift."""
    cdef const uint8_t* x = <const uint8_t*>array(op, 0, place)  # IN  (any, C, H, W)
    cdef const int64_t* chosen = <const int64_t*>array(op, 1, place)  # IN  (N,)
    cdef const real* scale = <const real*>array(op, 2, place)    # IN  (C,)
    cdef const real* shift = <const real*>array(op, 3, place)    # IN  (C,)
    cdef real* y = <real*>array(op, 4, place)                    # OUT (C, H, W, 16)
    cdef Py_ssize_t C = op.n[0], W = op.n[2], plane = op.n[1] * W, chunks = (plane + LANES - 1) // LANES, size = C * plane
    cdef Py_ssize_t c, chunk, at, h, i, j, lane
    cdef const uint8_t* image[16]
    cdef uint8_t square[16 * 16]
    cdef real* yp
    for lane in range(LANES):
        # a lane without an image shows the first one again, and is set to zero below
        i = lane if lane < place.images else 0
        image[lane] = x + (chosen[place.at[1] * LANES + i] if chosen != NULL else i) * size
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
                yp = y + c * op.args[4].plane + h * op.args[4].row + j * LANES
                normalise_bytes(square + i * LANES, scale[c], shift[c], yp)
                for lane in range(place.images, LANES):
                    yp[lane] = 0
                j += 1
                if j == W:
                    j = 0
                    h += 1


cdef void pack_index(const Op* op, const Place* place) noexcept nogil:
    """Pooling indices of an NCHW int64 array into a block of integers as wide as `real`."""
    cdef const int64_t* x = <const int64_t*>array(op, 0, place)  # IN  (N, C, H, W)
    cdef integer* y = <integer*>array(op, 1, place)          # OUT (C, H, W, 16)
    cdef Py_ssize_t size = op.n[0], i, lane
    x += place.at[1] * LANES * size
    for i in range(size):
        for lane in range(LANES):
            y[i * LANES + lane] = <integer>x[lane * size + i] if lane < place.images else 0


cdef void unpack_index(const Op* op, const Place* place) noexcept nogil:
    """The opposite of `pack_index`."""
    cdef const integer* x = <const integer*>array(op, 0, place)  # IN  (C, H, W, 16)
    cdef int64_t* y = <int64_t*>array(op, 1, place)              # OUT (N, C, H, W)
    cdef Py_ssize_t size = op.n[0], i, lane
    y += place.at[1] * LANES * size
    for i in range(size):
        for lane in range(place.images):
            y[lane * size + i] = x[i * LANES + lane]


cdef void copy(const Op* op, const Place* place) noexcept nogil:
    """A tensor into another, which may have other borders."""
    cdef const real* x = <const real*>array(op, 0, place)        # IN  (C, H, W, 16)
    cdef real* y = <real*>array(op, 1, place)                    # OUT (C, H, W, 16)
    cdef Py_ssize_t C = op.n[0], H = op.n[1], W = op.n[2], c, h
    for c in range(C):
        for h in range(H):
            memcpy(y + c * op.args[1].plane + h * op.args[1].row,
                   x + c * op.args[0].plane + h * op.args[0].row, W * LANES * sizeof(real))


cdef void to_rows(const Op* op, const Place* place) noexcept nogil:
    """A block of vectors into one row of numbers per image, for `linear_dw`."""
    cdef const real* x = <const real*>array(op, 0, place)        # IN  (C, 1, 1, 16)
    cdef real* y = <real*>array(op, 1, place)                    # OUT (16, step), PER_BLOCK
    cdef Py_ssize_t C = op.n[0], step = op.n[1], plane = op.args[0].plane, c, lane
    for c in range(C // LANES):
        transpose(x + c * LANES * plane, plane, y + c * LANES, step)
    for c in range(C // LANES * LANES, C):
        for lane in range(LANES):
            y[lane * step + c] = x[c * plane + lane]


cdef void gather(const Op* op, const Place* place) noexcept nogil:
    """y[i] = x[index[i]], one chunk a task: weights into the order in which a kernel reads them."""
    cdef const real* x = <const real*>array(op, 0, place)        # IN
    cdef const int* index = <const int*>array(op, 1, place)      # IN  (count,)
    cdef real* y = <real*>array(op, 2, place)                    # OUT (count,)
    cdef Py_ssize_t i, first = place.task * CHUNK
    for i in range(first, min(first + CHUNK, op.n[0])):
        y[i] = x[index[i]]


cdef void sum_shards(const Op* op, const Place* place) noexcept nogil:
    """y[i] = sum over the shards, in their order, of x[shard, i], one chunk a task."""
    cdef const real* x = <const real*>array(op, 0, place)        # IN  (shards, step)
    cdef real* y = <real*>array(op, 1, place)                    # OUT (count,)
    cdef Py_ssize_t count = op.n[0], step = op.n[1], s, i, first = place.task * CHUNK
    cdef Py_ssize_t last = min(first + CHUNK, count)
    if place.shards == 0:
        for i in range(first, last):
            y[i] = 0
        return
    memcpy(y + first, x + first, (last - first) * sizeof(real))
    for s in range(1, place.shards):
        for i in range(first, last):
            y[i] += x[s * step + i]


cdef void accumulate(const Op* op, const Place* place) noexcept nogil:
    """y[i] += x[i], one chunk a task."""
    cdef const real* x = <const real*>array(op, 0, place)        # IN     (count,)
    cdef real* y = <real*>array(op, 1, place)                    # IN/OUT (count,)
    cdef Py_ssize_t i, first = place.task * CHUNK
    for i in range(first, min(first + CHUNK, op.n[0])):
        y[i] += x[i]


def chunks(Py_ssize_t count):
    """Into how many tasks a flat array of `count` elements is cut."""
    return (count + CHUNK - 1) // CHUNK


PIXELS = ("channels", "height", "width")
SPLITS = ("pack", "unpack", "pack_bytes")
KERNELS = {
    "pack": (<size_t>&pack, ("x", "y"), PIXELS, ()),
    "unpack": (<size_t>&unpack, ("x", "y"), PIXELS, ()),
    "pack_bytes": (<size_t>&pack_bytes, ("x", "chosen", "scale", "shift", "y"), PIXELS, ()),
    "copy": (<size_t>&copy, ("x", "y"), PIXELS, ()),
    "pack_index": (<size_t>&pack_index, ("x", "y"), ("size",), ()),
    "unpack_index": (<size_t>&unpack_index, ("x", "y"), ("size",), ()),
    "to_rows": (<size_t>&to_rows, ("x", "y"), ("channels", "step"), ()),
    "gather": (<size_t>&gather, ("x", "index", "y"), ("count",), ()),
    "sum_shards": (<size_t>&sum_shards, ("x", "y"), ("count", "step"), ()),
    "accumulate": (<size_t>&accumulate, ("x", "y"), ("count",), ()),
}
