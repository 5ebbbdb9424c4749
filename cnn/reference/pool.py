"""Pooling, forward and backward."""

import numpy as np

from cnn import shapes
from cnn.reference.windows import pool_windows


def max_pool2d(x, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False):
    """The largest pixel of each window, per image and channel

        y[c,i,j] = max_{r,s} x[c, i·stride + r·dilation, j·stride + s·dilation]

    By PyTorch's rules: of equal pixels the first in row-major order wins; a NaN beats every number (and a
    later NaN an earlier one); padding never wins.

    x: (N, C, H, W). stride: kernel_size if None. padding: also "same" or "valid". ceil_mode: a last window may
    hang over the far edge.
    Returns y: (N, C, out_h, out_w) and indices: int64, as y, the winner's place u·W + v in its H×W plane.
    Raises ValueError if the padding is more than half the kernel, no window fits or one sees padding only.
    """
    height, width = x.shape[2:]
    pads, _, out, taps = pool_windows("max_pool2d", (height, width), kernel_size, stride, padding, ceil_mode,
                                      dilation)
    padded = np.pad(x, ((0, 0), (0, 0), *pads))
    places = np.pad(np.arange(height * width).reshape(height, width), pads, constant_values=-1)

    y = np.zeros(x.shape[:2] + out, x.dtype)
    indices = np.full(y.shape, -1, np.int64)
    for _, _, rows, columns in taps:
        value, place = padded[..., rows, columns], places[rows, columns]
        wins = (value > y) | np.isnan(value) | (indices < 0)  # a window's first pixel wins unopposed
        wins &= place >= 0  # padding never wins
        y = np.where(wins, value, y)
        indices = np.where(wins, place, indices)
    if (indices < 0).any():
        raise ValueError(f"max_pool2d: every window must see a pixel of the input {height}×{width}, but one sees none")
    return y, indices


def max_pool2d_backward(dy, indices, input_shape):
    """Gradient of `max_pool2d`: each window hands its dy to its winner, and overlapping windows add up

        dx[c,u,v] = Σ dy[c,i,j] over the windows (i,j) whose maximum is at (u,v)

    dy: (N, C, out_h, out_w). indices: int64, as `max_pool2d` returns. input_shape: (N, C, H, W).
    Returns dx: (N, C, H, W).
    """
    n, c, height, width = input_shape
    dx = np.zeros((n * c, height * width), dy.dtype)
    planes = np.arange(n * c)[:, np.newaxis]
    windows = dy.shape[2] * dy.shape[3]
    np.add.at(dx, (planes, indices.reshape(n * c, windows)), dy.reshape(n * c, windows))
    return dx.reshape(input_shape)


def avg_pool2d(x, kernel_size, stride=None, padding=0, ceil_mode=False, count_include_pad=True, divisor_override=None):
    """The average of each window, per image and channel

        y[c,i,j] = Σ_{r,s} x[c, i·stride + r, j·stride + s] / count[i,j]

    where count is the number of pixels in the window. By PyTorch's rules the padding counts, as zeros, if
    count_include_pad; what a window of ceil_mode sees beyond the far padding never does. divisor_override: what to
    divide by instead.

    x: (N, C, H, W). The other arguments are those of `max_pool2d`. Returns y: (N, C, out_h, out_w).
    """
    windows = pool_windows("avg_pool2d", x.shape[2:], kernel_size, stride, padding, ceil_mode)
    pads, _, out, taps = windows
    padded = np.pad(x, ((0, 0), (0, 0), *pads))
    y = np.zeros(x.shape[:2] + out, x.dtype)
    for _, _, rows, columns in taps:
        y += padded[..., rows, columns]
    return y / _divisors(x.shape[2:], windows, count_include_pad, divisor_override).astype(x.dtype)


def avg_pool2d_backward(dy, input_shape, kernel_size, stride=None, padding=0, ceil_mode=False, count_include_pad=True,
                        divisor_override=None):
    """Gradient of `avg_pool2d`: each pixel of a window gets its share, and overlapping windows add up

        dx[c,u,v] = Σ dy[c,i,j] / count[i,j] over the windows (i,j) that see (u,v)

    dy: (N, C, out_h, out_w). input_shape: (N, C, H, W). Returns dx: (N, C, H, W).
    """
    height, width = input_shape[2:]
    windows = pool_windows("avg_pool2d", (height, width), kernel_size, stride, padding, ceil_mode)
    pads, _, _, taps = windows
    share = dy / _divisors((height, width), windows, count_include_pad, divisor_override).astype(dy.dtype)
    dx = np.pad(np.zeros(input_shape, dy.dtype), ((0, 0), (0, 0), *pads))
    for _, _, rows, columns in taps:
        dx[..., rows, columns] += share
    (top, _), (left, _) = pads
    return dx[..., top : top + height, left : left + width]


def _divisors(size, windows, count_include_pad, divisor_override):
    """What to divide by, (out_h, out_w): how many pixels each window sees, of the input or of the input and its
    padding; or divisor_override."""
    pads, asked, out, taps = windows
    if divisor_override is not None:
        return np.full(out, divisor_override)
    seen = np.pad(np.ones(size, np.int64), asked, constant_values=int(count_include_pad))
    beyond = [(0, after - some) for (_, after), (_, some) in zip(pads, asked, strict=True)]
    seen = np.pad(seen, beyond)
    return sum((seen[rows, columns] for _, _, rows, columns in taps), np.zeros(out, np.int64))


def _output_size(owner, value, shape):
    """(OH, OW); None stands for as many windows as pixels."""
    sides = value if isinstance(value, (tuple, list)) and None in value else (value, value) if value is None else None
    if sides is not None:
        value = tuple(own if n is None else n for n, own in zip(sides, shape[2:], strict=True))
    return shapes.pair(owner, "output_size", value, 1)


def adaptive_avg_pool2d(x, output_size):
    """The average of each of output_size windows, (height, width), spread over the plane: window i of n
    reaches from row ⌊i·H/n⌋ to ⌈(i+1)·H/n⌉, and likewise the columns.

    x: (N, C, H, W). Returns y: (N, C, *output_size).
    """
    y = np.zeros(x.shape[:2] + _output_size("adaptive_avg_pool2d", output_size, x.shape), x.dtype)
    for i, j, rows, columns in _adaptive_windows(x.shape[2:], y.shape[2:]):
        y[..., i, j] = x[..., rows, columns].mean(axis=(2, 3))
    return y


def adaptive_avg_pool2d_backward(dy, input_shape):
    """Gradient of `adaptive_avg_pool2d`: dy spread evenly over each window; overlapping windows add up.

    dy: (N, C, out_h, out_w). input_shape: (N, C, H, W). Returns dx: (N, C, H, W).
    """
    dx = np.zeros(input_shape, dy.dtype)
    for i, j, rows, columns in _adaptive_windows(input_shape[2:], dy.shape[2:]):
        window = dx[..., rows, columns]     # a view
        window += dy[..., i, j, np.newaxis, np.newaxis] / (window.shape[2] * window.shape[3])
    return dx


def adaptive_max_pool2d(x, output_size):
    """The largest pixel of each of output_size windows; the windows are those of `adaptive_avg_pool2d`, the
    rules and the gradient (`max_pool2d_backward`) those of `max_pool2d`.

    x: (N, C, H, W). Returns y: (N, C, *output_size) and indices: int64, as `max_pool2d`.
    """
    y = np.zeros(x.shape[:2] + _output_size("adaptive_max_pool2d", output_size, x.shape), x.dtype)
    indices = np.zeros(y.shape, np.int64)
    height, width = x.shape[2:]
    places = np.arange(height * width).reshape(height, width)
    for i, j, rows, columns in _adaptive_windows((height, width), y.shape[2:]):
        seen = places[rows, columns].ravel()
        pixels = x.reshape(*x.shape[:2], height * width)[..., seen]
        nan = np.isnan(pixels)
        last_nan = len(seen) - 1 - nan[..., ::-1].argmax(axis=2)
        winner = np.where(nan.any(axis=2), last_nan, pixels.argmax(axis=2))
        y[..., i, j] = np.take_along_axis(pixels, winner[..., np.newaxis], axis=2)[..., 0]
        indices[..., i, j] = seen[winner]
    return y, indices


def _adaptive_windows(size, out):
    """List (i, j, rows, columns) of the windows."""
    def reach(i, axis):
        return slice(i * size[axis] // out[axis], -(-(i + 1) * size[axis] // out[axis]))

    return [(i, j, reach(i, 0), reach(j, 1)) for i in range(out[0]) for j in range(out[1])]
