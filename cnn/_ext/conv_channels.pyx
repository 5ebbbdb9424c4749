"""Convolution and linear layers of one image, sixteen channels side by side: (C / 16, H, W, 16), see channels.pyx.

    y[k, i, j] = scale[k] sum_{c, m, n} x[c, i s + m d - p, j s + n d - p] w[k, c, m, n] + shift[k]  [+ z[k, i, j]]

A register tile holds some neighbouring pixels of a row for sixteen outputs, or twice sixteen: a number of x is
multiplied by the weights of all these outputs, so that nothing is summed across lanes. `scale` and `shift` hold the
bias and what a batch normalisation with constant statistics does; z is what a residual connection adds, and a ReLU may
follow. x has a border of zeros left and right; rows of padding are never visited. Weights lie in the order in which
they are used, see `pack_conv`.

Groups: the sixteen outputs of a vector read the `count` channels from `first` on; weights of channels that are not in
an output's group are 0. The plain-NumPy twins are `conv2d` and `linear` in cnn/reference.
"""
from libc.string cimport memcmp, memcpy

from cnn._ext.instances cimport Tile
from cnn._ext.op cimport Image, Place, begin, end, pixels
from cnn._ext.taps cimport Taps, first_output, first_row, last_output, last_row
from cnn._ext.vec cimport LANES, ROWV, VL, real, transpose, vec, vec_load, vec_relu, vec_splat, vec_store

cdef extern from *:
    """
    #define LEAST(a, b) ((a) < (b) ? (a) : (b))
    #define PIXELS LEAST(TILE_VECS == 24 ? 14 : 6, TILE_VECS / ROWV)        /* of a tile of sixteen outputs */
    #define PIXELS_OF_TWO LEAST(12, TILE_VECS < 2 * ROWV ? 1 : TILE_VECS / (2 * ROWV))  /* of one of twice sixteen */
    #define GROUPS LEAST(8, TILE_VECS / ROWV)       /* sixteens of outputs of a tile of one pixel */
    #define NUMBERS LEAST(16, TILE_VECS < ROWV ? 1 : TILE_VECS / ROWV)  /* of x in a tile of the weight gradient */
    """
    enum:
        PIXELS
        PIXELS_OF_TWO
        GROUPS
        NUMBERS

cdef enum:
    BAND = 128          # pixels that the weight gradient takes at a time: 8 KB of sixteen channels
    TAPS = 25           # of the kernel at a time, at most
    SPARSE = 3          # with fewer channels than that a tile of it is made of columns

ctypedef struct Sum:            # a tile
    const real* x               # IN  first input of its first pixel
    Py_ssize_t x_plane, x_row, x_tap        # elements to the next sixteen channels, and to the next tap down and right
    Py_ssize_t x_pixel          # and to the next pixel
    Py_ssize_t rows, columns    # taps
    Py_ssize_t channels         # of each
    const real* w               # IN  (rows, columns, channels, 16)
    Py_ssize_t w_group          # elements to the next sixteen outputs
    const real* scale
    const real* shift
    const real* z               # IN  as y, or NULL
    real* y                     # OUT
    Py_ssize_t z_plane, y_plane, y_pixel
    bint relu


cdef inline void sum_tile(const Sum* s, int P, int G, Py_ssize_t x_pixel) noexcept nogil:
    """P pixels of G sixteens of outputs. All but `s` are constants once inlined, so `acc` lives in registers."""
    cdef vec acc[32 * 4]
    cdef const real* x
    cdef const real* w = s.w
    cdef Py_ssize_t m, n, c, g, i
    cdef int q, p, k
    cdef vec v
    for q in range(P * G * ROWV):
        acc[q] = vec_splat(0)
    for m in range(s.rows):
        for n in range(s.columns):
            x = s.x + m * s.x_row + n * s.x_tap
            i = 0
            while i < s.channels:
                c = min(i + LANES, s.channels)
                while i < c:        # over a range of at most LANES it would be unrolled, for nothing
                    for q in range(P * G * ROWV):
                        acc[q] = acc[q] + x[q // (G * ROWV) * x_pixel] * vec_load(
                            w + q // ROWV % G * s.w_group + q % ROWV * VL)
                    w += LANES
                    x += 1
                    i += 1
                x += s.x_plane - LANES
    for p in range(P):
        for k in range(G):
            for q in range(ROWV):
                v = acc[(p * G + k) * ROWV + q] * vec_load(s.scale + k * LANES + q * VL) + vec_load(
                    s.shift + k * LANES + q * VL)
                if s.z:
                    v = v + vec_load(s.z + k * s.z_plane + p * LANES + q * VL)
                vec_store(s.y + k * s.y_plane + p * s.y_pixel + q * VL, vec_relu(v) if s.relu else v)


cdef inline void near "near"(void* s, int P) noexcept nogil:
    sum_tile(<const Sum*>s, P, 1, LANES)

cdef inline void near_two "near_two"(void* s, int P) noexcept nogil:
    sum_tile(<const Sum*>s, P, 2, LANES)

cdef inline void apart "apart"(void* s, int P) noexcept nogil:
    sum_tile(<const Sum*>s, P, 1, 2 * LANES)

cdef inline void apart_two "apart_two"(void* s, int P) noexcept nogil:
    sum_tile(<const Sum*>s, P, 2, 2 * LANES)

cdef inline void one "one"(void* s, int G) noexcept nogil:
    sum_tile(<const Sum*>s, 1, G, LANES)


cdef extern from *:
    """
    TILES(near, PIXELS)
    TILES(near_two, PIXELS_OF_TWO)
    TILES(apart, PIXELS)
    TILES(apart_two, PIXELS_OF_TWO)
    TILES(one, GROUPS)
    """
    const Tile* near_tiles      # by the number of pixels, side by side
    const Tile* near_two_tiles
    const Tile* apart_tiles     # those of stride 2
    const Tile* apart_two_tiles
    const Tile* one_tiles       # by the number of sixteens of outputs


ctypedef struct ConvChannels:
    Image x                     # IN  (C / 16, H, W, 16)
    const real* w               # IN  (K / 16, rows, columns, count, 16)
    const real* scale           # IN  (K / 16, 16)
    const real* shift           # IN  (K / 16, 16)
    Image z                     # IN  as y, or NULL
    Image y                     # OUT (K / 16, OH, OW, 16)
    const int* first            # IN  (K / 16,) the first channel that the outputs read, a multiple of 16
    Py_ssize_t count            # channels that they read
    Py_ssize_t y_pixel          # elements to the next pixel of y
    Taps t

cdef void conv_channels(const ConvChannels* a, const Place* place) noexcept nogil:
    """y, of one image."""
    cdef Sum s
    cdef Py_ssize_t OH = a.t.out_h, OW = a.t.out_w, w_row = a.t.columns * a.count * LANES
    cdef Py_ssize_t G, P, i, k, g, h, j, p, item, first, tiles, across
    cdef bint level = a.t.stride_w == 1, two
    s.x_plane, s.x_row, s.x_tap = a.x.plane, a.t.dilation_h * a.x.row, a.t.dilation_w * LANES
    s.x_pixel, s.columns, s.channels = a.t.stride_w * LANES, a.t.columns, a.count
    s.w_group, s.z_plane, s.y_plane, s.relu = a.t.rows * w_row, a.z.plane, a.y.plane, a.t.relu
    s.y_pixel = a.y_pixel
    # sixteens of outputs of a tile: as many as make the fuller one of rows of this width; of one group
    G = GROUPS if OW == 1 else 1 if a.t.sixteens == 1 or _filled(OW, PIXELS) >= 2 * _filled(OW, PIXELS_OF_TWO) else 2
    for g in range(1, a.t.sixteens):
        if a.first[g] != a.first[g - 1]:
            G = 1
    tiles = (a.t.sixteens + G - 1) // G
    for item in range(begin(tiles * OH, place), end(tiles * OH, place)):
        i, h = item // OH, item % OH
        k = a.t.sixteens * i // tiles
        g = a.t.sixteens * (i + 1) // tiles - k
        first = first_row(&a.t, h)
        s.rows = max(0, last_row(&a.t, h) - first)
        s.w = a.w + k * s.w_group + first * w_row
        s.scale, s.shift = a.scale + k * LANES, a.shift + k * LANES
        two = G == 2 and g == 2
        P = 1 if OW == 1 or a.t.stride_w > 2 else PIXELS_OF_TWO if two else PIXELS
        across = (OW + P - 1) // P
        for j in range(across):
            p = OW * j // across
            P = OW * (j + 1) // across - p
            s.x = (a.x.data + a.first[k] // LANES * a.x.plane
                   + (h * a.t.stride_h + first * a.t.dilation_h - a.t.top) * a.x.row
                   + (p * a.t.stride_w - a.t.left) * LANES)
            s.y = pixels(&a.y, k, h) + p * a.y_pixel
            s.z = pixels(&a.z, k, h) + p * LANES if a.z.data else NULL
            if P == 1 and G != 2:
                one_tiles[g](&s)
            elif two:
                (near_two_tiles[P] if level else apart_two_tiles[P])(&s)
            else:
                (near_tiles[P] if level else apart_tiles[P])(&s)


cdef inline Py_ssize_t _filled(Py_ssize_t pixels, Py_ssize_t most) noexcept nogil:
    """How many pixels a tile holds, where a row is cut into tiles of `most` or fewer."""
    cdef Py_ssize_t tiles = (pixels + most - 1) // most
    return (pixels + tiles - 1) // tiles


ctypedef struct PackConv:
    const real* w               # IN  (K, C, R, S)
    real* seen                  # I/O as w, or NULL: what was packed last
    const int* first            # IN  (K / 16,), see ConvChannels
    real* y                     # I/O (K / 16, R, S, count, 16)
    Py_ssize_t outputs          # K
    Py_ssize_t channels         # C, of a group
    Py_ssize_t taps             # R S
    Py_ssize_t count
    Py_ssize_t group            # K / groups, outputs of a group

cdef void pack_conv(const PackConv* a, const Place* place) noexcept nogil:
    """The weights of sixteen outputs, in the order in which `conv_channels` reads them: a task. Weights that are what
    they were when they were packed last stay as they are."""
    cdef Py_ssize_t size = a.channels * a.taps, k = place.task * LANES, lanes = min(LANES, a.outputs - k)
    cdef Py_ssize_t lane, c, t, at, i = 0
    cdef real square[16 * 16]
    cdef const real* w = a.w + k * size
    cdef real* y = a.y + place.task * a.taps * a.count * LANES
    cdef const real* from_
    if a.seen:
        if memcmp(a.seen + k * size, w, lanes * size * sizeof(real)) == 0:
            return
        memcpy(a.seen + k * size, w, lanes * size * sizeof(real))
    at = k // a.group * a.channels - a.first[place.task]
    if lanes == LANES and (k + LANES - 1) // a.group == k // a.group:      # of one group: sixteen by sixteen weights
        while i + LANES <= size:
            if a.taps == 1:
                transpose(w + i, size, y + (at + i) * LANES, LANES)
            else:
                transpose(w + i, size, square, LANES)
                for lane in range(LANES):
                    memcpy(y + ((i + lane) % a.taps * a.count + at + (i + lane) // a.taps) * LANES,
                           square + lane * LANES, LANES * sizeof(real))
            i += LANES
    for lane in range(lanes):
        at = (k + lane) // a.group * a.channels - a.first[place.task]
        for c in range(i // a.taps, a.channels):
            from_ = w + (lane * a.channels + c) * a.taps
            for t in range(a.taps):
                y[(t * a.count + at + c) * LANES + lane] = from_[t]


ctypedef struct TurnConv:
    const real* x               # IN  (K / 16, R S, C, 16), as `pack_conv` left them
    const int* tap              # IN  (taps,) those of R S that are wanted, in this order
    const int* first            # IN  (groups C / 16,) the first of the outputs k that these channels go into
    real* y                     # OUT (groups C / 16, taps, count, 16)
    Py_ssize_t channels         # C, of a group
    Py_ssize_t all_taps         # R S
    Py_ssize_t taps
    Py_ssize_t count            # K / groups

cdef void turn_conv(const TurnConv* a, const Place* place) noexcept nogil:
    """Weights in the order in which `conv_channels` reads them for the input gradient, where channels are what comes
    out: those of sixteen channels are a task, sixteen by sixteen at a time."""
    cdef Py_ssize_t c = place.task * LANES % a.channels if a.channels % LANES == 0 else place.task * LANES, k, t
    cdef real square[16 * 16]
    cdef const real* x
    cdef real* y
    for t in range(a.taps):
        y = a.y + (place.task * a.taps + t) * a.count * LANES
        k = 0
        while k < a.count:
            x = a.x + (((a.first[place.task] + k) // LANES * a.all_taps + a.tap[t]) * a.channels + c) * LANES
            if k + LANES <= a.count:
                transpose(x, LANES, y + k * LANES, LANES)
            else:
                transpose(x, LANES, square, LANES)
                memcpy(y + k * LANES, square, (a.count - k) * LANES * sizeof(real))
            k += LANES


ctypedef struct Fit:
    const real* bias            # IN  (K,) or NULL
    const real* mean            # IN  (K,) or NULL: then there is no normalisation
    const real* var             # IN  (K,)
    const real* gamma           # IN  (K,) or NULL
    const real* beta            # IN  (K,) or NULL
    real* scale                 # OUT (K,)
    real* shift                 # OUT (K,)
    Py_ssize_t channels         # K
    double eps

cdef void fit(const Fit* a, const Place* place) noexcept nogil:
    """scale = gamma / sqrt(var + eps) and shift = (bias - mean) scale + beta; 1 and the bias without normalisation."""
    cdef Py_ssize_t k
    for k in range(a.channels):
        a.scale[k] = 1
        a.shift[k] = a.bias[k] if a.bias else 0
        if a.mean:
            a.scale[k] = <real>((a.gamma[k] if a.gamma else 1) / _root(a.var[k] + a.eps))
            a.shift[k] = (a.shift[k] - a.mean[k]) * a.scale[k] + (a.beta[k] if a.beta else 0)


# ---------------------------------------------------------------- the gradients of weights and biases

ctypedef struct Products:
    const real* x               # IN  numbers, and the distances from image to image, row to row and so on
    const real* dy              # IN  (sixteen outputs)
    Py_ssize_t x_image, x_row, x_pixel, x_number
    Py_ssize_t dy_image, dy_row
    Py_ssize_t images, rows, pixels
    real* sums                  # I/O rows of sixteen, `step` apart
    Py_ssize_t step
    bint first                  # assign to sums instead of adding


cdef inline void products_of(const Products* s, int A, Py_ssize_t number) noexcept nogil:
    """sums[a] (+)= sum of x[a] dy over images, rows and pixels, for A numbers x and sixteen outputs."""
    cdef vec acc[16 * 8]
    cdef const real* x
    cdef const real* dy
    cdef Py_ssize_t n, h, j
    cdef int q
    for q in range(A * ROWV):
        acc[q] = vec_splat(0) if s.first else vec_load(s.sums + q // ROWV * s.step + q % ROWV * VL)
    for n in range(s.images):
        for h in range(s.rows):
            x = s.x + n * s.x_image + h * s.x_row
            dy = s.dy + n * s.dy_image + h * s.dy_row
            for j in range(s.pixels):
                for q in range(A * ROWV):
                    acc[q] = acc[q] + x[q // ROWV * number] * vec_load(dy + q % ROWV * VL)
                x += s.x_pixel
                dy += LANES
    for q in range(A * ROWV):
        vec_store(s.sums + q // ROWV * s.step + q % ROWV * VL, acc[q])

cdef inline void beside "beside"(void* s, int A) noexcept nogil:
    products_of(<const Products*>s, A, 1)

cdef inline void spaced "spaced"(void* s, int A) noexcept nogil:
    products_of(<const Products*>s, A, (<const Products*>s).x_number)


cdef extern from *:
    """
    TILES(beside, NUMBERS)
    TILES(spaced, NUMBERS)
    """
    const Tile* beside_tiles    # by how many numbers, of neighbouring channels
    const Tile* spaced_tiles    # of neighbouring taps


ctypedef struct ConvChannelsDw:
    Image x                     # IN  (images, C / 16, H, W, 16), with columns of zeros left and right
    Image dy                    # IN  (images, K / 16, OH, OW, 16)
    real* dw                    # OUT (K, count, rows, columns)
    Py_ssize_t x_image, dy_image            # elements from one image to the next
    Py_ssize_t outputs          # K
    Py_ssize_t count            # channels that an output reads: those of a group
    Py_ssize_t group            # outputs of a group
    Py_ssize_t together         # sixteens of channels of a task
    Py_ssize_t kernel_rows      # rows of the kernel of a task, of at most TAPS taps
    Taps t

cdef void _square(const ConvChannelsDw* a, Py_ssize_t images, Py_ssize_t m0, Py_ssize_t m1, Py_ssize_t n0,
                  Py_ssize_t n1, Py_ssize_t c, Py_ssize_t k) noexcept nogil:
    """dw of sixteen outputs from k on and as many channels from c on, for rows [m0, m1) and columns [n0, n1)."""
    cdef Py_ssize_t OH = a.t.out_h, OW = a.t.out_w, S = a.t.columns, wide = n1 - n0, image, i, m, n, q, lane, tile
    cdef Py_ssize_t tiles, channels = min(LANES, a.count - c), lanes = min(LANES, a.outputs - k), first, last, at
    # a band of pixels, small enough that its x and dy stay in the L1 cache: some rows of an image, or some images
    cdef Py_ssize_t rows = max(1, BAND // max(1, OW)), together = max(1, BAND // max(1, OH * OW))
    cdef Py_ssize_t taps = (m1 - m0) * wide, size = a.t.rows * S
    cdef bint columns = channels < SPARSE       # then a tile is made of columns instead of channels
    cdef real sums[TAPS * 16 * 16]
    cdef real* to
    cdef Products s
    cdef const real* x = a.x.data + (k // a.group * a.count + c) // LANES * a.x.plane
    s.x_image, s.x_row, s.x_pixel = a.x_image, a.t.stride_h * a.x.row, a.t.stride_w * LANES
    s.x_number, s.dy_image, s.dy_row, s.pixels = a.t.dilation_w * LANES, a.dy_image, a.dy.row, OW
    s.step = LANES if columns else taps * LANES
    tile = wide if columns else channels
    tiles = (tile + NUMBERS - 1) // NUMBERS
    image = 0
    while image < images or image == 0:
        s.images = min(together, images - image)
        i = 0
        while i < OH or i == 0:
            s.first = image == i == 0
            for m in range(m0, m1):
                first, last = max(i, first_output(&a.t, m)), min(i + rows, last_output(&a.t, m))
                s.rows = max(0, last - first)
                if s.rows == 0 and not s.first:
                    continue
                s.dy = pixels(&a.dy, k // LANES, first) + image * a.dy_image
                for n in range(0 if columns else n0, channels if columns else n1):
                    # `n` is a channel or a column, and numbers are the other
                    for q in range(tiles):
                        at = tile * q // tiles
                        s.x = x + image * a.x_image + (
                            first * a.t.stride_h + m * a.t.dilation_h - a.t.top) * a.x.row + (
                            ((n0 + at if columns else n) * a.t.dilation_w - a.t.left) * LANES + (n if columns else at))
                        s.sums = sums + (n * taps + (m - m0) * wide + at if columns else
                                         at * taps + (m - m0) * wide + n - n0) * LANES
                        (spaced_tiles if columns else beside_tiles)[tile * (q + 1) // tiles - at](&s)
            i += rows
        image += together
    to = a.dw + (k * a.count + c) * size
    if taps == size and lanes == channels == LANES:
        for q in range(taps):
            transpose(sums + q * LANES * LANES, LANES, to + q * LANES, a.count * size)
        return
    for lane in range(lanes):
        for q in range(channels):
            for m in range(m0, m1):
                for n in range(n0, n1):
                    to[(lane * a.count + q) * size + m * S + n] = sums[
                        (q * taps + (m - m0) * wide + n - n0) * LANES + lane]



cdef void conv_channels_dw(const ConvChannelsDw* a, const Place* place) noexcept nogil:
    """dw[k, c, m, n] = sum over images, i and j of dy[k, i, j] x[c, i s + m d - p, j s + n d - p]: a task is some rows
    m of the kernel, for sixteen outputs k and some sixteens of channels c."""
    cdef Py_ssize_t bands = (a.t.rows + a.kernel_rows - 1) // a.kernel_rows
    cdef Py_ssize_t each = ((a.count + LANES - 1) // LANES + a.together - 1) // a.together
    cdef Py_ssize_t m = place.task % bands * a.kernel_rows, k = place.task // bands // each * LANES
    cdef Py_ssize_t c = place.task // bands % each * a.together * LANES, n
    cdef Py_ssize_t last = min(a.count, c + a.together * LANES)
    while c < last:
        n = 0
        while n < a.t.columns:
            _square(a, place.total, m, min(a.t.rows, m + a.kernel_rows), n, min(a.t.columns, n + TAPS), c, k)
            n += TAPS
        c += LANES


ctypedef struct BiasChannels:
    Image dy                    # IN  (images, K / 16, H, W, 16)
    real* db                    # OUT (K,)
    Py_ssize_t dy_image         # elements from one image to the next
    Py_ssize_t outputs, height, width

cdef void bias_channels(const BiasChannels* a, const Place* place) noexcept nogil:
    """db[k] = sum of dy[k] over images and pixels; sixteen k are a task."""
    cdef Py_ssize_t k = place.task * LANES, n, h, j
    cdef vec acc[4 * 8]         # four pixels at a time, because one sum would wait for itself
    cdef real sums[16]
    cdef const real* dy
    cdef int q
    for q in range(4 * ROWV):
        acc[q] = vec_splat(0)
    for n in range(place.total):
        for h in range(a.height):
            dy = pixels(&a.dy, place.task, h) + n * a.dy_image
            for j in range(a.width // 4):
                for q in range(4 * ROWV):
                    acc[q] = acc[q] + vec_load(dy + q * VL)
                dy += 4 * LANES
            for j in range(a.width % 4):
                for q in range(ROWV):
                    acc[q] = acc[q] + vec_load(dy + q * VL)
                dy += LANES
    for q in range(ROWV):
        vec_store(sums + q * VL, acc[q] + acc[ROWV + q] + (acc[2 * ROWV + q] + acc[3 * ROWV + q]))
    for j in range(min(LANES, a.outputs - k)):
        a.db[k + j] = sums[j]


cdef extern from "<math.h>" nogil:
    double _root "sqrt"(double x)


SPLITS = ("conv_channels",)
include "kernels/conv_channels.pxi"     # KERNELS
