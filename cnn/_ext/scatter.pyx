"""The input gradient of a convolution, tap by tap.

    dx[c, out[p] + shift[r, s]] += sum_k w[k, c, r, s] dy[k, pixel[p]]

Every multiplication counts here, while `correlate` visits taps that lie outside dy; but sums go through memory once
for each tap. Where the pixels and taps lie are tables of offsets, see cnn/ops/conv/windows.py.

The plain-NumPy twin is `conv2d_backward` in cnn/reference.
"""
from libc.string cimport memset

from cnn._ext.op cimport Image, Place
from cnn._ext.sweep cimport Sweep, sweep_tiles
from cnn._ext.vec cimport real


ctypedef struct Scatter:
    Image x                     # IN  (groups * K, OH, OW, 16) dy
    const real* w               # IN  packed, (groups, taps, tiles, K, ct)
    Image y                     # OUT (groups * C, H, W, 16) dx
    const int* pixel            # IN  (pixels,) offset of each pixel in a plane of dy
    const int* out              # IN  (pixels,) and of what it sends to the first tap, in a plane of dx
    const int* shift            # IN  (taps,) offset of each tap from there
    const int* tap              # IN  (K,) offset of each channel of dy
    Py_ssize_t channels         # C
    Py_ssize_t outputs          # K
    Py_ssize_t groups
    Py_ssize_t tiles            # see `split` in correlate.pyx
    Py_ssize_t taps, pixels

cdef void scatter(const Scatter* a, const Place* place) noexcept nogil:
    """dx[c, out[p] + shift[t]] = sum over taps t and k of w[t, k, c] dy[k, pixel[p]]"""
    cdef Sweep s
    cdef real* y = a.y.data
    cdef const int* shift = a.shift
    cdef Py_ssize_t C = a.channels, K = a.outputs, groups = a.groups, tiles = a.tiles, taps = a.taps
    cdef Py_ssize_t g, i, t, c, ct
    s.x = a.x.data
    s.w = a.w
    s.pixel = a.pixel
    s.out = a.out
    s.tap = a.tap
    s.pixels, s.segments, s.taps, s.skip = a.pixels, 1, K, 0
    s.b, s.plane, s.relu, s.add, s.ahead, s.end = NULL, a.y.plane, 0, 1, NULL, NULL
    memset(y, 0, groups * C * s.plane * sizeof(real))
    for g in range(groups):
        for t in range(taps):
            c = 0
            for i in range(tiles):
                ct = C // tiles + (i < C % tiles)
                s.y = y + (g * C + c) * s.plane + shift[t]
                s.w_step = ct
                sweep_tiles[ct](&s)
                s.w += K * ct
                c += ct
        s.x += K * a.x.plane


include "kernels/scatter.pxi"   # KERNELS
