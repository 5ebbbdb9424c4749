"""Elements in other places: resampled, padded, permuted. All of one image at a time, or of sixteen side by side;
twins in cnn/reference.

    pick:           y[c, i, j] = x[of channel c, of row i, of column j], by a table for each axis
    bilinear:       y[c, i, j] = the mean of four pixels of x, weighted by how near they are
    pixel_shuffle:  y[c, i r + m, j r + n] = x[c r^2 + m r + n, i, j]
    permute:        y[c, i, j] = x[j, c, i], or any other order of the three

With channels side by side an element is one lane, else it is the row of sixteen images. A table entry of -1 stands for
a place outside of x. In lanes without an image y is 0.
"""
from libc.string cimport memcpy

from cnn._ext.op cimport Image, Place, begin, end, held, pixels, put, streams
from cnn._ext.vec cimport LANES, ROWV, VL, ivec, real, vec, vec_fence, vec_keep, vec_load, vec_splat, vec_store

cdef enum:
    NEIGHBOURS = 8      # rows of sixteen images that `permute` takes together: half a kilobyte


cdef inline real* _lane(const Image* x, Py_ssize_t c, Py_ssize_t h) noexcept nogil:
    """Where row h of channel c begins, with channels side by side."""
    return pixels(x, c // LANES, h) + c % LANES


ctypedef struct Pick:
    Image x                     # IN  (C', H', W', 16)
    const int* channel          # IN  (C,) of each of y's channels, or NULL: the same
    const int* row              # IN  (H,) of each of y's rows
    const int* column           # IN  (W,) of each of y's columns
    Image y                     # OUT (C, H, W, 16)
    Py_ssize_t channels, height, width      # of y; without `channel` planes
    Py_ssize_t lanes            # whether an element is one lane: channels are side by side, and change places
    double value                # of what is outside

cdef void pick(const Pick* a, const Place* place) noexcept nogil:
    """y[c, i, j] = x[channel c, row i, column j], or a value outside"""
    cdef Py_ssize_t item, c, i, j
    cdef int q
    cdef const real* x
    cdef real* y
    cdef real outside = <real>a.value
    cdef ivec holds[8]
    held(place, holds)
    if a.lanes:         # by rows, so that no two threads write into the same sixteen channels
        for i in range(begin(a.height, place), end(a.height, place)):
            for c in range(a.channels):
                x = _lane(&a.x, a.channel[c] if a.channel else c, a.row[i])
                y = _lane(&a.y, c, i)
                for j in range(a.width):
                    y[j * LANES] = outside if a.row[i] < 0 or a.column[j] < 0 else x[a.column[j] * LANES]
        return
    for item in range(begin(a.channels * a.height, place), end(a.channels * a.height, place)):
        c, i = item // a.height, item % a.height
        x = pixels(&a.x, a.channel[c] if a.channel else c, a.row[i])
        y = pixels(&a.y, c, i)
        for j in range(a.width):
            for q in range(ROWV):
                if a.row[i] < 0 or a.column[j] < 0:
                    vec_store(y + j * LANES + q * VL, vec_keep(holds[q], vec_splat(outside)))
                else:
                    vec_store(y + j * LANES + q * VL, vec_load(x + a.column[j] * LANES + q * VL))


ctypedef struct PickBackward:
    Image dy                    # IN  (C, H, W, 16)
    const int* channel          # IN  as in Pick
    const int* row              # IN
    const int* column           # IN
    Image dx                    # OUT (C', H', W', 16)
    Py_ssize_t channels, height, width      # of y
    Py_ssize_t x_channels, x_height, x_width        # of x; without `channel` planes
    Py_ssize_t lanes

cdef void pick_backward(const PickBackward* a, const Place* place) noexcept nogil:
    """dx[c, h, w] = the sum of dy over all places that were taken from there"""
    cdef Py_ssize_t c, i, j, to_channel
    cdef int q
    cdef const real* dy
    cdef real* dx
    for c in range(a.x_channels):
        for i in range(a.x_height):
            dx = _lane(&a.dx, c, i) if a.lanes else pixels(&a.dx, c, i)
            for j in range(a.x_width):
                if a.lanes:
                    dx[j * LANES] = 0
                else:
                    for q in range(ROWV):
                        vec_store(dx + j * LANES + q * VL, vec_splat(0))
    for c in range(a.channels):
        to_channel = a.channel[c] if a.channel else c
        for i in range(a.height):
            if a.row[i] < 0:
                continue
            dy = _lane(&a.dy, c, i) if a.lanes else pixels(&a.dy, c, i)
            dx = _lane(&a.dx, to_channel, a.row[i]) if a.lanes else pixels(&a.dx, to_channel, a.row[i])
            for j in range(a.width):
                if a.column[j] < 0:
                    continue
                if a.lanes:
                    dx[a.column[j] * LANES] += dy[j * LANES]
                else:
                    for q in range(ROWV):
                        vec_store(dx + a.column[j] * LANES + q * VL, vec_load(
                            dx + a.column[j] * LANES + q * VL) + vec_load(dy + j * LANES + q * VL))


ctypedef struct Bilinear:
    Image x                     # IN  (C, H', W', 16)
    const int* row              # IN  (H, 2) rows above and below
    const double* down          # IN  (H,) the share of the one below
    const int* column           # IN  (W, 2) columns to the left and right
    const double* right         # IN  (W,) the share of the one to the right
    Image y                     # OUT (C, H, W, 16)
    Py_ssize_t channels, height, width      # of y

cdef void bilinear(const Bilinear* a, const Place* place) noexcept nogil:
    """y = (1 - d) ((1 - r) x[above, left] + r x[above, right]) + d ((1 - r) x[below, left] + r x[below, right])"""
    cdef Py_ssize_t item, c, i, j, left, right
    cdef int q
    cdef const real* above
    cdef const real* below
    cdef real* y
    cdef real d, r
    cdef vec upper, lower, one = vec_splat(1)
    for item in range(begin(a.channels * a.height, place), end(a.channels * a.height, place)):
        c, i = item // a.height, item % a.height
        above, below = pixels(&a.x, c, a.row[2 * i]), pixels(&a.x, c, a.row[2 * i + 1])
        y = pixels(&a.y, c, i)
        d = <real>a.down[i]
        for j in range(a.width):
            r = <real>a.right[j]
            left, right = a.column[2 * j] * LANES, a.column[2 * j + 1] * LANES
            for q in range(ROWV):
                upper = (one - r) * vec_load(above + left + q * VL) + r * vec_load(above + right + q * VL)
                lower = (one - r) * vec_load(below + left + q * VL) + r * vec_load(below + right + q * VL)
                vec_store(y + j * LANES + q * VL, (one - d) * upper + d * lower)


ctypedef struct BilinearBackward:
    Image dy                    # IN  (C, H, W, 16)
    const int* row              # IN  as in Bilinear
    const double* down          # IN
    const int* column           # IN
    const double* right         # IN
    Image dx                    # OUT (C, H', W', 16)
    Py_ssize_t channels, height, width      # of y
    Py_ssize_t x_height, x_width

cdef inline void _share(real* above, real* below, vec dy, real d) noexcept nogil:
    vec_store(above, vec_load(above) + <real>(1 - d) * dy)
    vec_store(below, vec_load(below) + d * dy)

cdef void bilinear_backward(const BilinearBackward* a, const Place* place) noexcept nogil:
    """Each of the four pixels gets its share of dy. As j goes to the right, the right column of some pixels is mostly
    the left one of the next, so that its sum goes on as theirs."""
    cdef Py_ssize_t c, i, j, left, right, to_left, to_right
    cdef int q
    cdef const real* dy
    cdef real* above
    cdef real* below
    cdef real d, r
    cdef vec at_left[8]         # sums along a row, of what two neighbouring columns get
    cdef vec at_right[8]
    for c in range(begin(a.channels, place), end(a.channels, place)):
        for i in range(a.x_height):
            for j in range(a.x_width * ROWV):
                vec_store(pixels(&a.dx, c, i) + j * VL, vec_splat(0))
        for i in range(a.height):
            dy = pixels(&a.dy, c, i)
            above, below = pixels(&a.dx, c, a.row[2 * i]), pixels(&a.dx, c, a.row[2 * i + 1])
            d = <real>a.down[i]
            left, right = a.column[0] * LANES, a.column[1] * LANES
            for q in range(ROWV):
                at_left[q], at_right[q] = vec_splat(0), vec_splat(0)
            for j in range(a.width):
                to_left, to_right = a.column[2 * j] * LANES, a.column[2 * j + 1] * LANES
                if to_left != left or to_right != right:
                    for q in range(ROWV):
                        _share(above + left + q * VL, below + left + q * VL, at_left[q], d)
                        at_left[q] = at_right[q]
                        at_right[q] = vec_splat(0)
                    if to_left != right:
                        for q in range(ROWV):
                            _share(above + right + q * VL, below + right + q * VL, at_left[q], d)
                            at_left[q] = vec_splat(0)
                    left, right = to_left, to_right
                r = <real>a.right[j]
                for q in range(ROWV):
                    at_left[q] = at_left[q] + <real>(1 - r) * vec_load(dy + j * LANES + q * VL)
                    at_right[q] = at_right[q] + r * vec_load(dy + j * LANES + q * VL)
            for q in range(ROWV):
                _share(above + left + q * VL, below + left + q * VL, at_left[q], d)
                _share(above + right + q * VL, below + right + q * VL, at_right[q], d)


ctypedef struct PixelShuffle:
    Image small                 # (C r^2, H, W, 16)
    Image large                 # (C, H r, W r, 16)
    Py_ssize_t channels, height, width      # C, H, W
    Py_ssize_t factor           # r
    Py_ssize_t lanes            # whether channels are side by side
    Py_ssize_t back             # whether `small` is made of `large`

cdef void pixel_shuffle(const PixelShuffle* a, const Place* place) noexcept nogil:
    """large[c, i r + m, j r + n] = small[c r^2 + m r + n, i, j], or the other way round"""
    cdef Py_ssize_t item, c, i, j, m, n, k, r = a.factor
    cdef bint past = not a.back and streams(a.channels * r * r, a.height, a.width)
    cdef int q
    cdef real* s
    cdef real* t
    if a.lanes:         # by rows, as in pick
        for i in range(begin(a.height, place), end(a.height, place)):
            for k in range(a.channels * r * r):
                c, m, n = k // (r * r), k // r % r, k % r
                s = _lane(&a.small, k, i)
                t = _lane(&a.large, c, i * r + m) + n * LANES
                for j in range(a.width):
                    if a.back:
                        s[j * LANES] = t[j * r * LANES]
                    else:
                        t[j * r * LANES] = s[j * LANES]
        return
    for item in range(begin(a.channels * a.height * r, place), end(a.channels * a.height * r, place)):
        c, i, m = item // (a.height * r), item // r % a.height, item % r
        t = pixels(&a.large, c, i * r + m)
        s = pixels(&a.small, c * r * r + m * r, i)
        for j in range(a.width):
            for n in range(r):
                for q in range(ROWV):
                    if a.back:
                        vec_store(s + n * a.small.plane + j * LANES + q * VL, vec_load(t + (j * r + n) * LANES + q * VL))
                    else:
                        put(t + (j * r + n) * LANES + q * VL, vec_load(s + n * a.small.plane + j * LANES + q * VL), past)
    if past:
        vec_fence()


ctypedef struct Permute:
    Image x                     # IN  (C', H', W', 16)
    Image y                     # OUT (C, H, W, 16)
    Py_ssize_t channels, height, width      # of y
    Py_ssize_t channel, row, column         # which axis of y, 0 to 2, that of x's channels, rows, columns has become
    Py_ssize_t lanes            # whether channels are side by side

cdef inline real* _at(const Permute* a, Py_ssize_t c, Py_ssize_t i, Py_ssize_t j) noexcept nogil:
    """The element of x that becomes y[c, i, j]."""
    cdef Py_ssize_t at[3]
    at[0], at[1], at[2] = c, i, j
    if a.lanes:
        return _lane(&a.x, at[a.channel], at[a.row]) + at[a.column] * LANES
    return pixels(&a.x, at[a.channel], at[a.row]) + at[a.column] * LANES

cdef inline void permute_some(const Permute* a, Py_ssize_t outer, Py_ssize_t first, int count, bint past) noexcept nogil:
    """`count` neighbours of x, from y[first, outer] or y[outer, first] on, for all columns of y."""
    cdef bint by_channels = a.column == 0
    cdef Py_ssize_t c = first if by_channels else outer, i = outer if by_channels else first, j
    cdef Py_ssize_t step = a.y.plane if by_channels else a.y.row
    cdef const real* x
    cdef real* y = pixels(&a.y, c, i)
    cdef int k, q
    for j in range(a.width):
        x = _at(a, c, i, j)
        for k in range(count):
            for q in range(ROWV):
                put(y + k * step + j * LANES + q * VL, vec_load(x + k * LANES + q * VL), past)


cdef void permute(const Permute* a, const Place* place) noexcept nogil:
    """y[c, i, j] = x[the same three numbers in another order]. Where the columns of x are no columns of y, some go their
    ways at once, because memory gives more than one at a time."""
    cdef Py_ssize_t inner = a.channels if a.column == 0 else a.height, outer = a.height if a.column == 0 else a.channels
    cdef Py_ssize_t runs = (inner + NEIGHBOURS - 1) // NEIGHBOURS, item, c, i, j, first
    cdef bint past = streams(a.channels, a.height, a.width)
    cdef real* y
    if a.lanes:         # by rows, as in pick
        for i in range(begin(a.height, place), end(a.height, place)):
            for c in range(a.channels):
                y = _lane(&a.y, c, i)
                for j in range(a.width):
                    y[j * LANES] = _at(a, c, i, j)[0]
        return
    if a.column == 2:
        for item in range(begin(a.channels * a.height, place), end(a.channels * a.height, place)):
            c, i = item // a.height, item % a.height
            memcpy(pixels(&a.y, c, i), _at(a, c, i, 0), a.width * LANES * sizeof(real))
        return
    for item in range(begin(outer * runs, place), end(outer * runs, place)):
        first = item % runs * NEIGHBOURS
        if first + NEIGHBOURS <= inner:
            permute_some(a, item // runs, first, NEIGHBOURS, past)
            continue
        for j in range(first, inner):
            permute_some(a, item // runs, j, 1, past)
    if past:
        vec_fence()


SPLITS = ("pick", "bilinear", "bilinear_backward", "pixel_shuffle", "permute")
include "kernels/moving.pxi"      # KERNELS
