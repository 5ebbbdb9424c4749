"""One image at a time, sixteen channels side by side: (C / 16, H, W, 16).

A row of sixteen numbers is then not a pixel of sixteen images but sixteen channels of one pixel; the last rows may hold
fewer. Lanes without a channel hold anything, and are never read as numbers. Maps of each element by itself, and
pooling, are the very kernels that work on sixteen images. Here is what differs. All work on one image, a block of its
own.

Twins: none but where it is said, most of it is NumPy's own indexing.
"""
from libc.string cimport memcpy

from cnn._ext.op cimport PER_BLOCK, Image, Place, begin, end, pixels
from cnn._ext.taps cimport Taps, first_row, last_row
from cnn._ext.vec cimport LANES, ROWV, VL, real, vec, vec_load, vec_relu, vec_splat, vec_store

cdef extern from *:
    """
    #define LEAST(a, b) ((a) < (b) ? (a) : (b))
    #define AT_ONCE LEAST(4, TILE_VECS / ROWV)      /* pixels of a tile of `depthwise_channels` */
    """
    enum:
        AT_ONCE

cdef extern from "<math.h>" nogil:
    double exp(double x)
    double log(double x)
    double sqrt(double x)


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


ctypedef struct GroupNormChannels:
    Image x                     # IN  (C / 16, H, W, 16)
    Image y                     # OUT (C / 16, H, W, 16)
    const real* gamma           # IN  (C,) or NULL
    const real* beta            # IN  (C,) or NULL
    Py_ssize_t channels, height, width
    Py_ssize_t groups
    double eps

cdef void group_norm_channels(const GroupNormChannels* a, const Place* place) noexcept nogil:
    """y = gamma (x - mean) / sqrt(var + eps) + beta, mean and variance being those of a group's channels in this
    image, see group_norm.pyx; in float64."""
    cdef Py_ssize_t each = a.channels // a.groups, n = each * a.height * a.width, group, c, h, j
    cdef double mean, var, scale, shift
    cdef const real* x
    cdef real* y
    for group in range(begin(a.groups, place), end(a.groups, place)):
        mean = var = 0
        for c in range(group * each, (group + 1) * each):
            for h in range(a.height):
                x = pixels(&a.x, c // LANES, h) + c % LANES
                for j in range(a.width):
                    mean += x[j * LANES]
        mean /= n
        for c in range(group * each, (group + 1) * each):
            for h in range(a.height):
                x = pixels(&a.x, c // LANES, h) + c % LANES
                for j in range(a.width):
                    var += (x[j * LANES] - mean) * (x[j * LANES] - mean)
        for c in range(group * each, (group + 1) * each):
            scale = (a.gamma[c] if a.gamma else 1) / sqrt(var / n + a.eps)
            shift = a.beta[c] if a.beta else 0
            for h in range(a.height):
                x = pixels(&a.x, c // LANES, h) + c % LANES
                y = pixels(&a.y, c // LANES, h) + c % LANES
                for j in range(a.width):
                    y[j * LANES] = <real>((x[j * LANES] - mean) * scale + shift)


ctypedef struct SoftmaxChannels:
    Image x                     # IN  (C / 16, H, W, 16)
    Image y                     # OUT (C / 16, H, W, 16)
    Py_ssize_t channels, height, width
    Py_ssize_t logs             # whether the logarithms are wanted

cdef void softmax_channels(const SoftmaxChannels* a, const Place* place) noexcept nogil:
    """y_c = exp(x_c) / sum over the channels k of exp(x_k), or its logarithm, shifted by the largest x. Twins:
    `softmax` and `log_softmax` in cnn/reference."""
    cdef Py_ssize_t h, i, c
    cdef const real* x
    cdef real* y
    cdef real top, total
    for h in range(begin(a.height, place), end(a.height, place)):
        for i in range(a.width):
            x = pixels(&a.x, 0, h) + i * LANES
            y = pixels(&a.y, 0, h) + i * LANES
            top = x[0]
            for c in range(a.channels):
                if x[c // LANES * a.x.plane + c % LANES] > top:
                    top = x[c // LANES * a.x.plane + c % LANES]
            total = 0
            for c in range(a.channels):
                y[c // LANES * a.y.plane + c % LANES] = x[c // LANES * a.x.plane + c % LANES] - top
                total += <real>exp(y[c // LANES * a.y.plane + c % LANES])
            for c in range(a.channels):
                if a.logs:
                    y[c // LANES * a.y.plane + c % LANES] -= <real>log(total)
                else:
                    y[c // LANES * a.y.plane + c % LANES] = <real>exp(y[c // LANES * a.y.plane + c % LANES]) / total


ctypedef struct PackDepthwise:
    const real* w               # IN  (C, 1, R, S)
    real* y                     # OUT (C / 16, R S, 16)
    Py_ssize_t channels, taps

cdef void pack_depthwise(const PackDepthwise* a, const Place* place) noexcept nogil:
    """Weights in the order in which `depthwise_channels` reads them."""
    cdef Py_ssize_t c, t
    for c in range(a.channels):
        for t in range(a.taps):
            a.y[(c // LANES * a.taps + t) * LANES + c % LANES] = a.w[c * a.taps + t]


ctypedef struct DepthwiseChannels:
    Image x                     # IN  (C / 16, H, W, 16), with columns of zeros left and right
    const real* w               # IN  (C / 16, rows, columns, 16)
    const real* scale           # IN  (C / 16, 16)
    const real* shift           # IN  (C / 16, 16)
    Image y                     # OUT (C / 16, OH, OW, 16)
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
        vec_store(y + q // ROWV * LANES + q % ROWV * VL, vec_relu(v) if a.t.relu else v)

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
                     a.shift + g * LANES, y + j * LANES, AT_ONCE)
            j += AT_ONCE
        for j in range(j, a.t.out_w):
            _outputs(a, x + j * a.t.stride_w * LANES, first, last, a.w + g * taps * LANES, a.scale + g * LANES,
                     a.shift + g * LANES, y + j * LANES, 1)


SPLITS = ("pack_channels", "unpack_channels", "move_channels", "spread_channel", "scale_channels",
          "group_norm_channels", "softmax_channels", "depthwise_channels")
include "kernels/channels.pxi"      # KERNELS
