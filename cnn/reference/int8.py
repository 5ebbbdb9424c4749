"""Networks in int8: what the C files of `cnn.export.c` compute, to the same bits.

A number r is stored as q, int8, with r = scale (q - zero); sums are int32. A product of a sum with a real factor is a
multiplication by an int32 and a shift, rounded as in LiteRT's reference kernels and gemmlowp (Jacob et al. 2018,
"Quantization and training of neural networks for efficient integer-arithmetic-only inference", section 2).

Arrays of images are int8 (N, C, H, W) or (N, features).
"""
import math

import numpy as np

from cnn.reference.conv import conv2d


def multiplier(factor):
    """(m, shift), ints with factor = m 2^(shift - 31) and 2^30 <= m < 2^31; (0, 0) for what is too small or 0."""
    if factor == 0:
        return 0, 0
    mantissa, shift = math.frexp(factor)
    m = math.floor(mantissa * 2**31 + 0.5)
    if m == 2**31:
        m, shift = m // 2, shift + 1
    return (0, 0) if shift < -31 else (m, shift)


def multiplied(x, m, shift):
    """x m 2^(shift - 31), rounded twice: after the multiplication halves go up, after a shift to the right away from 0.

    x: integers; m, shift: ints, or int64 arrays that are broadcast to x. Returns int64.
    """
    x, m, shift = np.broadcast_arrays(np.asarray(x, np.int64), np.asarray(m, np.int64), np.asarray(shift, np.int64))
    product = (x << np.maximum(shift, 0)) * m
    nudged = product + np.where(product >= 0, 1 << 30, 1 - (1 << 30))
    high = np.where(nudged >= 0, nudged >> 31, -(-nudged >> 31))        # C's division: towards zero
    right = np.maximum(-shift, 0)
    mask = (np.int64(1) << right) - 1
    return (high >> right) + ((high & mask) > (mask >> 1) + (high < 0))


def quantise(x, scale, zero):
    """float32 to int8: x / scale, rounded half away from zero, plus zero; what is out of range is clipped."""
    with np.errstate(over="ignore"):
        quotient = (x.astype(np.float32) / np.float32(scale)).astype(np.float64)
    away = np.trunc(quotient + np.copysign(0.5, quotient))
    return np.clip(np.clip(away, -1e6, 1e6).astype(np.int64) + zero, -128, 127).astype(np.int8)


def dequantise(q, scale, zero):
    """int8 to float32: scale (q - zero)."""
    return (q.astype(np.int32) - zero).astype(np.float32) * np.float32(scale)


def requantised(sums, m, shift, zero, low=-128):
    """Sums to int8: multiplied, plus zero, clipped to low .. 127."""
    return np.clip(multiplied(sums, m, shift) + zero, low, 127).astype(np.int8)


def conv2d_int8(x, weight, bias, zero_x, m, shift, zero_y, low=-128, stride=1, padding=0, dilation=1, groups=1):
    """A convolution. weight: int8 (K, C / groups, R, S). bias: integers (K,). m, shift: ints (K,). low: the least
    result, zero_y for a ReLU. Padding is what stands for 0."""
    exact = conv2d(x.astype(np.float64) - zero_x, weight.astype(np.float64), bias.astype(np.float64), stride, padding,
                   dilation, groups)        # integers below 2^53
    shape = (-1, 1, 1)
    return requantised(exact.astype(np.int64), m.reshape(shape), shift.reshape(shape), zero_y, low)


def linear_int8(x, weight, bias, zero_x, m, shift, zero_y, low=-128):
    """A linear map. weight: int8 (outputs, inputs). The rest as in `conv2d_int8`."""
    sums = (x.astype(np.float64) - zero_x) @ weight.T.astype(np.float64) + bias
    return requantised(sums.astype(np.int64), m, shift, zero_y, low)


def max_pool2d_int8(x, rows, columns, low=-128, steps=(1, 1)):
    """The maximum of each window, at least `low`. rows, columns: int (windows, 3): first, one past the last, and the
    pixels to divide by, which an average needs. steps: from pixel to pixel, (down, right)."""
    down, right = steps
    y = np.stack([np.stack([x[:, :, a:b:down, c:d:right].max((2, 3), initial=low) for c, d, _ in columns], -1)
                  for a, b, _ in rows], -2)
    return y.astype(np.int8)


def avg_pool2d_int8(x, rows, columns, zero):
    """The mean of each window, rounded half away from zero; padding that counts is `zero`. rows, columns as above."""
    def mean(a, b, down, c, d, across):
        count = down * across
        sums = x[:, :, a:b, c:d].sum((2, 3), dtype=np.int64) + zero * (count - (b - a) * (d - c))
        half = count // 2
        return np.where(sums > 0, (sums + half) // count, -((half - sums) // count))
    y = np.stack([np.stack([mean(*row, *column) for column in columns], -1) for row in rows], -2)
    return np.clip(y, -128, 127).astype(np.int8)


def add_int8(a, b, zeros, factors, shifts, zero_y, low=-128):
    """a + b of one shape: each 2^20 times as fine while they are added. zeros: of a and b; factors, shifts: of a, b and
    the sum."""
    parts = [multiplied((x.astype(np.int64) - z) << 20, m, s)
             for x, z, m, s in zip((a, b), zeros, factors, shifts, strict=False)]
    return requantised(parts[0] + parts[1], factors[2], shifts[2], zero_y, low)
