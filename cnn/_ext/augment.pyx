"""Random changes to images, each with numbers of its own for every image: NCHW bytes (or floats) in and out.

A kind of change is a function of one image. `change` calls it within a step, for the images of a block; `apply` for
a whole array. Whoever calls draws the numbers and makes sure that they, and all lengths, fit.
Positions are integers, so that bytes come out the same on every processor. Twins: `crop`, `cutout`
and `affine_map` in cnn/reference; NumPy's own indexing for a flip.
"""
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

from cnn._ext.executor import run
from cnn._ext.op cimport PER_ACTIVE_THREAD, PER_BLOCK, Address, Op, Place, begin, end

cdef extern from *:
    # nothing else points there: without that word, loops that fetch from computed places are not vectorised
    ctypedef uint8_t* bytes_alone "uint8_t* __restrict"
    ctypedef float* floats_alone "float* __restrict"
    void prefetch "__builtin_prefetch"(const void*) nogil

ctypedef fused pixel:
    uint8_t
    float

cdef enum:      # the kinds
    CROP
    FLIP
    CUTOUT
    AFFINE


cdef inline Py_ssize_t reflected(Py_ssize_t i, Py_ssize_t n) noexcept nogil:
    """-1, -2, ... become 1, 2, ..., and n, n + 1, ... become n - 2, n - 3, ...: the edge is not repeated."""
    return -i if i < 0 else 2 * (n - 1) - i if i >= n else i


cdef void crop(const pixel* x, Py_ssize_t C, Py_ssize_t H, Py_ssize_t W, Py_ssize_t top, Py_ssize_t left,
               bint reflect, pixel* y) noexcept nogil:
    """y[c, i, j] = x[c, i + top, j + left]; outside of x is zero, or x reflected at its edges.

    Reflection wants offsets that are less than the sides.
    """
    cdef Py_ssize_t c, i, j, row, first = min(max(0, -left), W), last = max(min(W, W - left), first)
    cdef const pixel* xp
    for c in range(C):
        for i in range(H):
            row = reflected(i + top, H) if reflect else i + top
            if 0 <= row < H:
                xp = x + (c * H + row) * W
                memcpy(y + first, xp + first + left, (last - first) * sizeof(pixel))
                for j in range(first):
                    y[j] = xp[reflected(j + left, W)] if reflect else 0
                for j in range(last, W):
                    y[j] = xp[reflected(j + left, W)] if reflect else 0
            else:
                memset(y, 0, W * sizeof(pixel))
            y += W


cdef void flip(const pixel* x, Py_ssize_t rows, Py_ssize_t W, bint mirrored, pixel* y) noexcept nogil:
    """y[i, j] = x[i, W - 1 - j] if mirrored, else x[i, j]."""
    cdef Py_ssize_t i, j
    if not mirrored:
        memcpy(y, x, rows * W * sizeof(pixel))
        return
    for i in range(rows):
        for j in range(W):
            y[i * W + j] = x[i * W + W - 1 - j]


cdef void cutout(const pixel* x, Py_ssize_t C, Py_ssize_t H, Py_ssize_t W, Py_ssize_t top, Py_ssize_t left,
                 Py_ssize_t size, const pixel* fill, pixel* y) noexcept nogil:
    """y = x, but fill[c] in rows top to top + size - 1 and columns left to left + size - 1."""
    cdef Py_ssize_t c, i, j
    memcpy(y, x, C * H * W * sizeof(pixel))
    for c in range(C):
        for i in range(max(0, top), min(H, top + size)):
            for j in range(max(0, left), min(W, left + size)):
                y[(c * H + i) * W + j] = fill[c]


cdef void locate(const int64_t* matrix, Py_ssize_t H, Py_ssize_t W, int32_t* at, uint32_t* weights) noexcept nogil:
    """Where each pixel comes from: the first of its four neighbours in an image with a border of one pixel, and how
    far it is from there, in 1 / 65536 of a pixel to the right, and down times 65536. What is outside comes from row
    H + 1, which with the next one is border only.

    Writes up to 15 elements more than there are pixels, so that compilers make loops of whole vectors.
    """
    cdef Py_ssize_t i, j
    cdef int64_t du = matrix[0], dv = matrix[3], u, v, last_u, last_v
    cdef uint32_t wide = <uint32_t>(W + 1) << 16, high = <uint32_t>(H + 1) << 16, step = <uint32_t>(W + 2)
    cdef uint32_t outside = <uint32_t>(H + 1) * step, whole = <uint32_t>(W + 15) & ~<uint32_t>15, k, a, b
    for i in range(H):
        u = matrix[1] * i + matrix[2] + 65536    # from the border's corner, which is pixel (-1, -1)
        v = matrix[4] * i + matrix[5] + 65536
        last_u = u + (W - 1) * du
        last_v = v + (W - 1) * dv
        if u == <int32_t>u and v == <int32_t>v and last_u == <int32_t>last_u and last_v == <int32_t>last_v:
            for k in range(whole):
                a = <uint32_t>u + k * <uint32_t>du
                b = <uint32_t>v + k * <uint32_t>dv
                at[k] = <int32_t>((b >> 16) * step + (a >> 16) if (a < wide) & (b < high) else outside)
                weights[k] = (a & 0xFFFF) | b << 16
        else:                                       # far away, or a pixel blown up
            for j in range(W):
                at[j] = <int32_t>outside
                if <uint64_t>(u + j * du) < wide and <uint64_t>(v + j * dv) < high:
                    a = <uint32_t>(u + j * du)
                    b = <uint32_t>(v + j * dv)
                    at[j] = <int32_t>((b >> 16) * step + (a >> 16))
                    weights[j] = (a & 0xFFFF) | b << 16
        at += W
        weights += W


cdef void blend_bytes(const uint8_t* x, Py_ssize_t step, const int32_t* at, const uint32_t* weights, uint32_t* fours,
                      Py_ssize_t positions, bytes_alone y, Py_ssize_t count) noexcept nogil:
    """The weighted mean of the four neighbours of each pixel, with 8 bits of each weight, rounded once.

    fours: the neighbours of each position in x, to be fetched by one load.
    """
    cdef Py_ssize_t j
    cdef uint32_t four, left, right, columns, above, below, across, down
    for j in range(positions):
        fours[j] = x[j] | x[j + 1] << 8 | x[j + step] << 16 | <uint32_t>x[j + step + 1] << 24
    for j in range(count):
        four = fours[at[j]]
        across = weights[j] >> 8 & 0xFF
        down = weights[j] >> 24
        left = four & 0x00FF00FF                # the upper one in the low half, the lower one in the high half
        right = four >> 8 & 0x00FF00FF
        columns = (left << 8) + (right - left) * across     # both at once: no half overflows in the end
        above = columns & 0xFFFF
        below = columns >> 16
        y[j] = <uint8_t>((above << 8) + (below - above) * down + (1 << 15) >> 16)


cdef void blend_floats(const float* x, Py_ssize_t step, const int32_t* at, const uint32_t* weights,
                       floats_alone y, Py_ssize_t count) noexcept nogil:
    """The same with all 16 bits of each weight."""
    cdef Py_ssize_t j
    cdef const float* p
    cdef float across, down, above, below
    for j in range(count):
        p = x + at[j]
        across = <float><int32_t>(weights[j] & 0xFFFF) / 65536
        down = <float><int32_t>(weights[j] >> 16) / 65536
        above = p[0] + (p[1] - p[0]) * across
        below = p[step] + (p[step + 1] - p[step]) * across
        y[j] = above + (below - above) * down


cdef void affine(const pixel* x, Py_ssize_t C, Py_ssize_t H, Py_ssize_t W, const int64_t* matrix, const pixel* fill,
                 char* room, pixel* y) noexcept nogil:
    """y[c, i, j] = x[c] at column m0·j + m1·i + m2 and row m3·j + m4·i + m5, where m = matrix / 65536: bilinear
    between pixels, and fill[c] outside.

    Sides must be less than 32768, numbers of the matrix at most 2**40. room: as `room` says.
    """
    cdef Py_ssize_t size = H * W, step = W + 2, positions = (H + 3) * step, c, i
    cdef int32_t* at = <int32_t*>room
    cdef uint32_t* weights = <uint32_t*>(at + size + 16)
    cdef uint32_t* fours = weights + size + 16
    cdef pixel* padded = <pixel*>(fours + positions if pixel is uint8_t else fours)
    locate(matrix, H, W, at, weights)
    for c in range(C):
        for i in range(positions):
            padded[i] = fill[c]
        for i in range(H):
            memcpy(padded + (i + 1) * step + 1, x + (c * H + i) * W, W * sizeof(pixel))
        if pixel is uint8_t:
            blend_bytes(padded, step, at, weights, fours, (H + 1) * step + 1, y + c * size, size)
        else:
            blend_floats(padded, step, at, weights, y + c * size, size)


def room(Py_ssize_t kind, Py_ssize_t H, Py_ssize_t W):
    """Bytes that a thread needs to work in, a multiple of 64."""
    return 8 * (H * W + 16) + 5 * (H + 3) * (W + 2) + 63 & -64 if kind == AFFINE else 64


cdef void change_image(Py_ssize_t kind, Py_ssize_t option, const int64_t* numbers, const pixel* fill, const pixel* x,
                       Py_ssize_t C, Py_ssize_t H, Py_ssize_t W, char* room, pixel* y) noexcept nogil:
    if kind == CROP:
        crop(x, C, H, W, numbers[0], numbers[1], option, y)
    elif kind == FLIP:
        flip(x, C * H, W, numbers[0], y)
    elif kind == CUTOUT:
        cutout(x, C, H, W, numbers[0], numbers[1], option, fill, y)
    else:
        affine(x, C, H, W, numbers, fill, room, y)


ctypedef struct Change:
    const void* x               # IN  (any, C, H, W) bytes or floats
    const int64_t* chosen       # IN  (N,) numbers of the images, or NULL: the first of x and so on
    const int64_t* numbers      # IN  (N, columns)
    const void* fill            # IN  (C,) as x
    char* room                  # as many bytes as `room` says
    void* y                     # OUT (images, C, H, W) as x
    Py_ssize_t channels, height, width
    Py_ssize_t kind             # CROP, ...
    Py_ssize_t option           # of that kind
    Py_ssize_t columns          # numbers that an image is changed by
    Py_ssize_t images           # of a block: 16 or 1

cdef inline void change_images(const Change* a, const Place* place, const pixel* x, const pixel* fill,
                               pixel* y) noexcept nogil:
    """The images of a block, chosen by number or (without `chosen`) all of x, each changed by its numbers."""
    cdef const int64_t* chosen = a.chosen
    cdef const int64_t* numbers = a.numbers + a.images * place.at[PER_BLOCK] * a.columns
    cdef Py_ssize_t C = a.channels, H = a.height, W = a.width, size = C * H * W
    cdef Py_ssize_t lane, i, count = min(place.images, a.images), last = end(count, place)
    cdef const pixel* image
    cdef const pixel* following
    if chosen != NULL:
        chosen += a.images * place.at[PER_BLOCK]
    for lane in range(begin(count, place), last):
        image = x + (chosen[lane] if chosen != NULL else lane) * size
        if chosen != NULL and lane + 1 < last:      # the next one lies anywhere: it takes a while to arrive
            following = x + chosen[lane + 1] * size
            for i in range(0, min(size, 4096), 64):
                prefetch(following + i)
        change_image(a.kind, a.option, numbers + lane * a.columns, fill, image, C, H, W, a.room, y + lane * size)


cdef void change(const Change* a, const Place* place) noexcept nogil:
    """`change_images` of bytes, within a step."""
    change_images(a, place, <const uint8_t*>a.x, <const uint8_t*>a.fill, <uint8_t*>a.y)


cdef void _change_floats(const Change* a, const Place* place) noexcept nogil:
    change_images(a, place, <const float*>a.x, <const float*>a.fill, <float*>a.y)


cdef Address moving(const Op* op, void* field, Py_ssize_t step, Py_ssize_t per) noexcept:
    """Says that a field of the op's struct has copies."""
    return Address(<Py_ssize_t*>field - op.words, step, per)


def apply(Py_ssize_t kind, Py_ssize_t option, size_t numbers, Py_ssize_t columns, size_t fill, bint floats, size_t x,
          Py_ssize_t N, Py_ssize_t C, Py_ssize_t H, Py_ssize_t W, int threads, size_t y):
    """N images at one address into as many at another. `numbers` holds a row of int64 for each."""
    cdef Py_ssize_t block = 16 * C * H * W * <Py_ssize_t>(sizeof(float) if floats else 1), need = room(kind, H, W)
    cdef Py_ssize_t[3] segment = [0, 1, 0]      # of one operation, block by block
    cdef Op op
    cdef Change* a = <Change*>op.words
    cdef char* rooms = <char*>malloc(threads * need)
    if rooms == NULL:
        raise MemoryError("augment.apply: no memory to work in")
    memset(&op, 0, sizeof(op))
    op.kernel = <void*>_change_floats if floats else <void*>change
    op.splits = 1
    a.x, a.numbers, a.fill, a.room, a.y = <void*>x, <int64_t*>numbers, <void*>fill, rooms, <void*>y
    a.channels, a.height, a.width, a.kind, a.option, a.columns, a.images = C, H, W, kind, option, columns, 16
    op.n_words = sizeof(Change) // sizeof(op.words[0])
    op.addresses[0] = moving(&op, &a.x, block, PER_BLOCK)
    op.addresses[1] = moving(&op, &a.room, need, PER_ACTIVE_THREAD)
    op.addresses[2] = moving(&op, &a.y, block, PER_BLOCK)
    op.n_addresses = 3
    try:
        run(<size_t>&op, <size_t>segment, 1, N, 1, threads)
    finally:
        free(rooms)


KINDS = {"crop": CROP, "flip": FLIP, "cutout": CUTOUT, "affine": AFFINE}
SPLITS = ("change",)
include "kernels/augment.pxi"   # KERNELS
