"""The weight gradient of a 1 x 1 convolution with stride 1.

    dw[k, c] = sum over pixels and images of dy[k] x[c]

Sixteen channels c lie side by side here, so that nothing is summed across lanes. Where x comes from a batch norm, it is
normalised on the way.

The plain-NumPy twin is `conv2d_backward` in cnn/reference.
"""
from cnn._ext.normed cimport Norm, find_scale, read_normalised
from cnn._ext.op cimport Image, Place
from cnn._ext.outer cimport NARROW, WIDE, outers, to_numbers
from cnn._ext.vec cimport LANES, real


ctypedef struct PointwiseDw:
    Image x                     # IN  (C, H, W, 16), C a multiple of 16
    Image dy                    # IN  (K, H, W, 16), K a multiple of `at`
    real* dw                    # OUT (K, C) of a shard
    real* rows                  # (C / 16, band * 16, 16) scratch
    real* pixels                # (C, most, 16) and (C,) scratch
    Norm norm                   # of x
    Py_ssize_t channels         # C
    Py_ssize_t outputs          # K
    Py_ssize_t height, width
    Py_ssize_t most             # pixels that are read at a time
    Py_ssize_t band             # pixels of which the products are summed at a time
    Py_ssize_t at               # outputs at a time, see `numbers_at_a_time`

cdef void pointwise_dw(const PointwiseDw* a, const Place* place) noexcept nogil:
    """dw[k, c] += sum over pixels and images of dy[k] x[c], of one block."""
    cdef real* pixels = a.pixels
    cdef Py_ssize_t C = a.channels, K = a.outputs, H = a.height, W = a.width, band = a.band
    cdef Py_ssize_t groups = C // LANES, h, first, count, x_row = a.x.row, dy_row = a.dy.row
    cdef bint fresh = place.first
    cdef Py_ssize_t most = a.most, c, p, n
    cdef real* scale = pixels + C * most * LANES
    find_scale(&a.norm, C, scale)
    if x_row == dy_row == W * LANES:    # without borders they are one long row
        H, W = 1, H * W
    for h in range(H):
        first = 0
        while first < W:
            count = min(most, W - first)
            for c in range(C):
                read_normalised(&a.norm, scale, c, a.x.data + h * x_row + c * a.x.plane + first * LANES, count,
                                pixels + c * most * LANES)
            p = 0
            while p < count:
                n = min(band, count - p)
                to_numbers(pixels + p * LANES, most * LANES, a.rows, groups, band, n)
                outers(a.dy.data + h * dy_row + (first + p) * LANES, a.dy.plane, a.rows, band * LANES * LANES, a.dw, K,
                       a.at, groups, n, fresh)
                fresh = 0
                p += n
            first += count


def numbers_at_a_time(Py_ssize_t count):
    """How many of `count` numbers `outer` can take at a time without padding; 0 if it can't."""
    return WIDE if count % WIDE == 0 else NARROW if count % NARROW == 0 else 0


include "kernels/conv1x1_dw.pxi"    # KERNELS
