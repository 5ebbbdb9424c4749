"""One image at a time, sixteen channels side by side: (C / 16, H, W, 16).

A row of sixteen numbers is then not a pixel of sixteen images but sixteen channels of one pixel; the last rows may hold
fewer. Lanes without a channel hold anything, and are never read as numbers. Maps of each element by itself, and
pooling, are the very kernels that work on sixteen images. Here is what differs. All work on one image, a block of its
own.

Twins: none but where it is said, most of it is NumPy's own indexing.
"""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from cnn._ext.op cimport PER_BLOCK, Image, Place, begin, end, held_channels, pixels
from cnn._ext.random cimport element_hash, image_hash
from cnn._ext.taps cimport Taps, first_output, first_row, last_output, last_row
from cnn._ext.vec cimport (LANES, ROWV, VL, ivec, ivec_or, real, vec, vec_gt, vec_isnan, vec_keep, vec_load, vec_most,
                           vec_relu, vec_select, vec_splat, vec_store, vec_sum)

cdef extern from *:
    """
    #define LEAST(a, b) ((a) < (b) ? (a) : (b))
    #define AT_ONCE LEAST(4, TILE_VECS / ROWV)      /* pixels of a tile of `depthwise_channels` */
    """
    enum:
        AT_ONCE

ctypedef struct PackChannels:
    const real* x               # IN  (N, C, H, W), or (C, H, W) for all images
    Image y                     # OUT (C / 16, H, W, 16)
    Py_ssize_t channels, height, width
    Py_ssize_t size             # C H W, or 0 where all images have the same numbers

cdef void pack_channels(const PackChannels* a, const Place* place) noexcept nogil:
    """An image of an NCHW array."""
    cdef Py_ssize_t C = a.channels, H = a.height, W = a.width, g, h, j, lane, lanes, plane = H * W
    cdef const real* x = a.x + place.at[PER_BLOCK] * a.size
    cdef const real* xp
    cdef real* yp
    for g in range((C + LANES - 1) // LANES):
        lanes = min(LANES, C - g * LANES)
        for h in range(begin(H, place), end(H, place)):
            xp = x + (g * LANES * H + h) * W
            yp = pixels(&a.y, g, h)
            for j in range(W):
                for lane in range(lanes):
                    yp[j * LANES + lane] = xp[lane * plane + j]


ctypedef struct PackBytesChannels:
    const uint8_t* x            # IN  (any, C, H, W); without `chosen`, this image alone
    const int64_t* chosen       # IN  (N,) numbers of the images, or NULL
    const real* scale           # IN  (C,)
    const real* shift           # IN  (C,)
    Image y                     # OUT (C / 16, H, W, 16)
    Py_ssize_t channels, height, width

cdef void pack_bytes_channels(const PackBytesChannels* a, const Place* place) noexcept nogil:
    """An image of bytes, normalised: y = x * scale + shift."""
    cdef Py_ssize_t H = a.height, W = a.width, c, h, j
    cdef const uint8_t* x = a.x
    cdef real* y
    if a.chosen:
        x += a.chosen[place.at[PER_BLOCK]] * a.channels * H * W
    for c in range(a.channels):
        for h in range(begin(H, place), end(H, place)):
            y = pixels(&a.y, c // LANES, h) + c % LANES
            for j in range(W):
                y[j * LANES] = x[(c * H + h) * W + j] * a.scale[c] + a.shift[c]


ctypedef struct UnpackChannels:
    Image x                     # IN  (C / 16, H, W, 16)
    real* y                     # OUT (N, C, H, W)
    Py_ssize_t channels, height, width

cdef void unpack_channels(const UnpackChannels* a, const Place* place) noexcept nogil:
    """The image back into an NCHW array."""
    cdef Py_ssize_t C = a.channels, H = a.height, W = a.width, c, h, j
    cdef real* y = a.y + place.at[PER_BLOCK] * C * H * W
    cdef const real* xp
    for c in range(C):
        for h in range(begin(H, place), end(H, place)):
            xp = pixels(&a.x, c // LANES, h) + c % LANES
            for j in range(W):
                y[(c * H + h) * W + j] = xp[j * LANES]


ctypedef struct Regroup:
    Image x                     # IN  (C / 16, H, W, 16)
    Image y                     # OUT (C' / 16, H', W', 16), with as many elements
    Py_ssize_t channels, height, width
    Py_ssize_t y_channels, y_height, y_width

cdef void regroup(const Regroup* a, const Place* place) noexcept nogil:
    """The elements of x, in the order (c, h, w), in another shape. Twin: numpy.reshape."""
    cdef Py_ssize_t H = a.height, W = a.width, H2 = a.y_height, W2 = a.y_width, c, h, j, d = 0, i = 0, k = 0
    cdef const real* xp
    for c in range(a.channels):
        for h in range(H):
            xp = pixels(&a.x, c // LANES, h) + c % LANES
            if H2 == 1 and W2 == 1:
                for j in range(W):
                    (a.y.data + (d + j) // LANES * a.y.plane)[(d + j) % LANES] = xp[j * LANES]
                d += W
                continue
            for j in range(W):
                (pixels(&a.y, d // LANES, i) + d % LANES)[k * LANES] = xp[j * LANES]
                k += 1
                if k == W2:
                    k = 0
                    i += 1
                    if i == H2:
                        i = 0
                        d += 1


ctypedef struct MoveChannels:
    Image x                     # IN  (C / 16, H, W, 16)
    Image y                     # OUT (C' / 16, H, W, 16)
    Py_ssize_t x_first, y_first # channels
    Py_ssize_t channels         # so many of them
    Py_ssize_t height, width

cdef void move_channels(const MoveChannels* a, const Place* place) noexcept nogil:
    """y[y_first + c] = x[x_first + c]. Twins: `cat` and `slice_channels` in cnn/reference."""
    cdef Py_ssize_t c = 0, h, j, lane, x_lane, y_lane, lanes
    cdef const real* xp
    cdef real* yp
    while c < a.channels:
        x_lane, y_lane = (a.x_first + c) % LANES, (a.y_first + c) % LANES
        lanes = min(a.channels - c, LANES - max(x_lane, y_lane))
        for h in range(begin(a.height, place), end(a.height, place)):
            xp = pixels(&a.x, (a.x_first + c) // LANES, h) + x_lane
            yp = pixels(&a.y, (a.y_first + c) // LANES, h) + y_lane
            if lanes == LANES:
                memcpy(yp, xp, a.width * LANES * sizeof(real))
                continue
            for j in range(a.width):
                for lane in range(lanes):
                    yp[j * LANES + lane] = xp[j * LANES + lane]
        c += lanes


ctypedef struct SpreadChannel:
    Image x                     # IN  (1, H, W, 16), of which only the first lane counts
    Image y                     # OUT (1, H, W, 16)
    Py_ssize_t height, width

cdef void spread_channel(const SpreadChannel* a, const Place* place) noexcept nogil:
    """y[h, w, lane] = x[h, w, 0]: one channel, to be read as any."""
    cdef Py_ssize_t h, j, q
    for h in range(begin(a.height, place), end(a.height, place)):
        for j in range(a.width):
            for q in range(ROWV):
                vec_store(pixels(&a.y, 0, h) + j * LANES + q * VL, vec_splat(pixels(&a.x, 0, h)[j * LANES]))


ctypedef struct ReduceChannels:
    Image x                     # IN  (C / 16, H, W, 16)
    Image y                     # OUT (1, H, W, 16), of which only the first lane counts
    Py_ssize_t kind             # 1: sum, 2: largest, 3: smallest, as REDUCTIONS in cnn/ops/arithmetic.py
    Py_ssize_t channels, height, width

cdef void reduce_channels(const ReduceChannels* a, const Place* place) noexcept nogil:
    """y[h, w] = sum, largest or smallest over the channels c of x[c, h, w]; a NaN wins. Twins: `reduce_sum`, `amax` and
    `amin` in cnn/reference."""
    cdef Py_ssize_t planes = (a.channels + LANES - 1) // LANES, h, j, g
    cdef const real* x
    cdef real* y
    cdef real broken
    cdef ivec has[8]
    cdef vec v, total, sign = vec_splat(-1 if a.kind == 3 else 1)
    cdef int q
    held_channels(a.channels, has)
    for h in range(begin(a.height, place), end(a.height, place)):
        for j in range(a.width):
            x, y = pixels(&a.x, 0, h) + j * LANES, pixels(&a.y, 0, h) + j * LANES
            total = vec_splat(0 if a.kind == 1 else x[0]) * sign
            for g in range(planes):
                for q in range(ROWV):
                    v = vec_load(x + g * a.x.plane + q * VL) * sign     # the smallest is the largest of -x
                    if a.kind == 1:
                        total = total + (vec_keep(has[q], v) if g == planes - 1 else v)
                    else:
                        v = vec_select(has[q], v, total) if g == planes - 1 else v
                        total = vec_select(ivec_or(vec_gt(v, total), vec_isnan(v)), v, total)
            if a.kind == 1:
                y[0] = vec_sum(total)
                continue
            broken = vec_sum(vec_keep(vec_isnan(total), total))
            y[0] = broken if broken != broken else vec_most(total) * (-1 if a.kind == 3 else 1)


ctypedef struct SumImages:
    Image x                     # IN  (images, C / 16, H, W, 16)
    real* y                     # OUT (C, H, W)
    Py_ssize_t x_image          # elements from one image to the next
    Py_ssize_t channels, height, width

cdef void sum_images(const SumImages* a, const Place* place) noexcept nogil:
    """y = the sum of all images, the gradient of a parameter that is the same for each; a task is a channel."""
    cdef Py_ssize_t c = place.task, h, j, n
    cdef const real* x
    cdef real total
    for h in range(a.height):
        x = pixels(&a.x, c // LANES, h) + c % LANES
        for j in range(a.width):
            total = 0
            for n in range(place.total):
                total += x[n * a.x_image + j * LANES]
            a.y[(c * a.height + h) * a.width + j] = total


ctypedef struct DropoutChannels:
    Image x                     # IN  (C / 16, H, W, 16)
    Image y                     # OUT (C / 16, H, W, 16)
    const uint64_t* key         # IN  (2,) seed, step
    Py_ssize_t channels, height, width
    Py_ssize_t whole            # whether the elements are channels instead of pixels
    double p                    # the share of elements that becomes 0

cdef void dropout_channels(const DropoutChannels* a, const Place* place) noexcept nogil:
    """`dropout` in pointwise.pyx, of one image: it draws the same masks."""
    cdef Py_ssize_t H = a.height, W = a.width, c, h, j
    cdef uint64_t threshold = <uint64_t>(a.p * 4294967296.0)
    cdef uint32_t image = image_hash(a.key, place.at[PER_BLOCK])
    cdef real scale = <real>(1 / (1 - a.p)) if a.p < 1 else 0
    cdef bint keep = 0
    cdef const real* x
    cdef real* y
    for c in range(a.channels):
        for h in range(begin(H, place), end(H, place)):
            x = pixels(&a.x, c // LANES, h) + c % LANES
            y = pixels(&a.y, c // LANES, h) + c % LANES
            for j in range(W):
                keep = element_hash(image, <uint32_t>(c if a.whole else (c * H + h) * W + j)) >= threshold
                y[j * LANES] = x[j * LANES] * scale if keep else 0


ctypedef struct ScaleChannels:
    Image x                     # IN  (C / 16, H, W, 16)
    Image y                     # OUT (C / 16, H, W, 16)
    const real* scale           # IN  (C / 16, 16)
    const real* shift           # IN  (C / 16, 16)
    Py_ssize_t channels, height, width      # channels: C / 16
    Py_ssize_t relu             # whether a ReLU follows

cdef void scale_channels(const ScaleChannels* a, const Place* place) noexcept nogil:
    """y[c] = scale[c] x[c] + shift[c]: a batch normalisation by constants, see `fit` in conv_channels.pyx."""
    cdef Py_ssize_t g, h, i
    cdef int q
    cdef vec v
    for g in range(a.channels):
        for h in range(begin(a.height, place), end(a.height, place)):
            for i in range(a.width):
                for q in range(ROWV):
                    v = vec_load(pixels(&a.x, g, h) + i * LANES + q * VL) * vec_load(
                        a.scale + g * LANES + q * VL) + vec_load(a.shift + g * LANES + q * VL)
                    vec_store(pixels(&a.y, g, h) + i * LANES + q * VL, vec_relu(v) if a.relu else v)


ctypedef struct PackDepthwise:
    const real* w               # IN  (C, 1, R, S)
    const int* tap              # IN  (taps,) those of R S that are wanted, in this order
    real* y                     # OUT (C / 16, taps, 16)
    Py_ssize_t channels, all_taps, taps

cdef void pack_depthwise(const PackDepthwise* a, const Place* place) noexcept nogil:
    """Weights in the order in which `depthwise_channels` reads them."""
    cdef Py_ssize_t c, t
    for c in range(a.channels):
        for t in range(a.taps):
            a.y[(c // LANES * a.taps + t) * LANES + c % LANES] = a.w[c * a.all_taps + a.tap[t]]


ctypedef struct DepthwiseChannels:
    Image x                     # IN  (C / 16, H, W, 16), with columns of zeros left and right
    const real* w               # IN  (C / 16, rows, columns, 16)
    const real* scale           # IN  (C / 16, 16)
    const real* shift           # IN  (C / 16, 16)
    Image y                     # OUT (C / 16, OH, OW, 16)
    Py_ssize_t y_pixel          # elements to the next pixel of y
    Taps t

cdef inline void _outputs(const DepthwiseChannels* a, const real* x, Py_ssize_t first, Py_ssize_t last, const real* w,
                          const real* scale, const real* shift, real* y, int P) noexcept nogil:
    """P neighbouring outputs of sixteen channels; x: the first input of the first, in row `first` of the kernel."""
    cdef vec acc[4 * 8]
    cdef vec v
    cdef Py_ssize_t m, n, step = a.t.stride_w * LANES, tap = a.t.dilation_w * LANES
    cdef int q
    for q in range(P * ROWV):
        acc[q] = vec_splat(0)
    for m in range(first, last):
        for n in range(a.t.columns):
            for q in range(P * ROWV):
                acc[q] = acc[q] + vec_load(x + n * tap + q // ROWV * step + q % ROWV * VL) * vec_load(
                    w + (m * a.t.columns + n) * LANES + q % ROWV * VL)
        x += a.t.dilation_h * a.x.row
    for q in range(P * ROWV):
        v = acc[q] * vec_load(scale + q % ROWV * VL) + vec_load(shift + q % ROWV * VL)
        vec_store(y + q // ROWV * a.y_pixel + q % ROWV * VL, vec_relu(v) if a.t.relu else v)

cdef void depthwise_channels(const DepthwiseChannels* a, const Place* place) noexcept nogil:
    """y[c, i, j] = scale[c] sum_{m, n} w[c, m, n] x[c, i s + m d - p, j s + n d - p] + shift[c]. The twin is `conv2d`
    in cnn/reference."""
    cdef Py_ssize_t item, g, h, j, first, last, taps = a.t.rows * a.t.columns
    cdef const real* x
    cdef real* y
    for item in range(begin(a.t.sixteens * a.t.out_h, place), end(a.t.sixteens * a.t.out_h, place)):
        g, h = item // a.t.out_h, item % a.t.out_h
        first, last = first_row(&a.t, h), last_row(&a.t, h)
        x = (a.x.data + g * a.x.plane + (h * a.t.stride_h + first * a.t.dilation_h - a.t.top) * a.x.row
             - a.t.left * LANES)
        y = pixels(&a.y, g, h)
        j = 0
        while j + AT_ONCE <= a.t.out_w:
            _outputs(a, x + j * a.t.stride_w * LANES, first, last, a.w + g * taps * LANES, a.scale + g * LANES,
                     a.shift + g * LANES, y + j * a.y_pixel, AT_ONCE)
            j += AT_ONCE
        for j in range(j, a.t.out_w):
            _outputs(a, x + j * a.t.stride_w * LANES, first, last, a.w + g * taps * LANES, a.scale + g * LANES,
                     a.shift + g * LANES, y + j * a.y_pixel, 1)


ctypedef struct DepthwiseChannelsDw:
    Image x                     # IN  (images, C / 16, H, W, 16), with columns of zeros left and right
    Image dy                    # IN  (images, C / 16, OH, OW, 16)
    real* dw                    # OUT (C, rows, columns)
    Py_ssize_t x_image, dy_image            # elements from one image to the next
    Py_ssize_t channels
    Taps t

cdef void depthwise_channels_dw(const DepthwiseChannelsDw* a, const Place* place) noexcept nogil:
    """dw[c, m, n] = sum over images, i and j of dy[c, i, j] x[c, i s + m d - p, j s + n d - p]; sixteen channels are a
    task."""
    cdef Py_ssize_t g = place.task, S = a.t.columns, lanes = min(LANES, a.channels - g * LANES), m, n, n0, i, j, image
    cdef Py_ssize_t tap = a.t.dilation_w * LANES
    cdef const real* x
    cdef const real* dy
    cdef vec acc[4 * 8]
    cdef vec d
    cdef real sums[4 * 16]
    cdef int q, k
    for m in range(a.t.rows):
        n0 = 0
        while n0 < S:               # four columns at a time
            for q in range(4 * ROWV):
                acc[q] = vec_splat(0)
            for image in range(place.total):
                for i in range(first_output(&a.t, m), last_output(&a.t, m)):
                    dy = pixels(&a.dy, g, i) + image * a.dy_image
                    x = (a.x.data + image * a.x_image + g * a.x.plane + (n0 * a.t.dilation_w - a.t.left) * LANES
                         + (i * a.t.stride_h + m * a.t.dilation_h - a.t.top) * a.x.row)
                    for j in range(a.t.out_w):
                        for q in range(ROWV):
                            d = vec_load(dy + q * VL)
                            for k in range(4):
                                if n0 + k < S:
                                    acc[k * ROWV + q] = acc[k * ROWV + q] + d * vec_load(x + k * tap + q * VL)
                        x += a.t.stride_w * LANES
                        dy += LANES
            for q in range(4 * ROWV):
                vec_store(sums + q * VL, acc[q])
            for i in range(lanes):
                for n in range(n0, min(S, n0 + 4)):
                    a.dw[((g * LANES + i) * a.t.rows + m) * S + n] = sums[(n - n0) * LANES + i]
            n0 += 4


SPLITS = ("pack_channels", "pack_bytes_channels", "unpack_channels", "move_channels", "spread_channel",
          "reduce_channels", "dropout_channels", "scale_channels", "depthwise_channels")
include "kernels/channels.pxi"      # KERNELS
