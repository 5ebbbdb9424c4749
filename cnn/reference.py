"""Every operation in plain NumPy: the formulas to read first, and the twins that the fast kernels must match.

Each forward pass has its backward pass as a neighbour. `dy` always means dL/dy, the gradient of the loss L
with respect to the operation's output y; the backward pass turns it into dx = dL/dx (and dw, db for weights w
and bias b) by the chain rule.

Arrays are of any float dtype, the same for all arrays of a call. Images are NCHW (image, channel, row,
column), convolution weights OIHW (output channel, input channel, kernel row, kernel column), Linear weights
(out, in). Sizes are an int or a pair (height, width), in pixels. Nothing is changed in place, except
running statistics and what the optimizers update. Shapes that do not fit together raise ValueError.
"""

import math

import numpy as np

from cnn import shapes

# ------------------------------------------------------------------------------------------ convolution


def conv2d(x, w, b=None, stride=1, padding=0, dilation=1, groups=1):
    """Convolution with weights w (a cross-correlation: the kernel is not flipped), per image

        y[k,i,j] = b[k] + Σ_{c,r,s} x[c, i·stride + r·dilation, j·stride + s·dilation] w[k,c,r,s]

    where x is first padded with zeros. With groups the channels fall into that many independent convolutions.

    x: (N, C, H, W). w: (K, C/groups, R, S). b: (K,) or None. padding: also "same" or "valid".
    Returns y: (N, K, out_h, out_w). Raises ValueError if the kernel is larger than the padded input.
    """
    n, (k, c) = len(x), w.shape[:2]
    pads, out, taps = _geometry(x, w, stride, padding, dilation, groups)
    x = _by_group(np.pad(x, ((0, 0), (0, 0), *pads)), groups)
    w = w.reshape(groups, k // groups, *w.shape[1:])
    y = np.zeros((n, groups, k // groups, out[0] * out[1]), x.dtype)
    for r, s, rows, columns in taps:
        seen = x[..., rows, columns].reshape(n, groups, c, out[0] * out[1])  # what tap (r, s) sees of x
        y += w[..., r, s] @ seen
    y = y.reshape(n, k, *out)
    return y if b is None else y + b.reshape(1, k, 1, 1)


def conv2d_backward(dy, x, w, stride=1, padding=0, dilation=1, groups=1):
    """Gradients of `conv2d`, from x and w as they were in the forward pass.

        dw[k,c,r,s] = Σ_{i,j} dy[k,i,j] x[c, i·stride + r·dilation, j·stride + s·dilation]   (and over images)
        db[k]       = Σ_{i,j} dy[k,i,j]                                                      (and over images)
        dx[c,u,v]   = Σ dy[k,i,j] w[k,c,r,s] over every (k,i,j,r,s) with
                      i·stride + r·dilation = u and j·stride + s·dilation = v

    dy: (N, K, out_h, out_w). Returns dx, dw, db, shaped as x, w and b.
    """
    n, (k, c) = len(x), w.shape[:2]
    pads, out, taps = _geometry(x, w, stride, padding, dilation, groups)
    padded = _by_group(np.pad(x, ((0, 0), (0, 0), *pads)), groups)
    grouped = w.reshape(groups, k // groups, *w.shape[1:])
    dy = dy.reshape(n, groups, k // groups, out[0] * out[1])
    dpadded, dw = np.zeros_like(padded), np.zeros_like(grouped)
    for r, s, rows, columns in taps:
        seen = padded[..., rows, columns].reshape(n, groups, c, out[0] * out[1])
        dw[..., r, s] = (dy @ seen.swapaxes(-1, -2)).sum(axis=0)
        # Where taps overlap in x their shares add up. Within one tap no pixel appears twice, so += is safe.
        share = grouped[..., r, s].swapaxes(-1, -2) @ dy
        dpadded[..., rows, columns] += share.reshape(*share.shape[:-1], *out)
    (top, _), (left, _) = pads
    height, width = x.shape[2:]
    dx = dpadded[..., top : top + height, left : left + width].reshape(x.shape)  # the padding is no input
    return dx, dw.reshape(w.shape), dy.sum(axis=(0, 3)).reshape(k)


def winograd_conv2d(x, w, m=2, padding=0):
    """Convolution (stride 1) tile by tile with Winograd's F(m x m, r x r): as `conv2d`, with fewer multiplications.

        y = A^T [ sum_c (G w G^T) * (B^T x B) ] A    for every tile of m x m outputs and n x n inputs, n = m + r - 1

    where * is element by element. In one dimension, correlating n numbers with r gives m: the transposed of
    multiplying a polynomial of m coefficients by one of r, which n of their values determine. A and G evaluate
    at n - 1 points and infinity (the leading coefficient), B^T is the transposed of the interpolation. G is scaled by
    what B^T then need not divide by.

    x: (N, C, H, W). w: (K, C, r, r). Returns y: (N, K, out_h, out_w). Source: Lavin and Gray, 2016.
    """
    r = w.shape[2]
    at, g, bt = winograd_matrices(m, r)
    pads, out, _ = _geometry(x, w, 1, padding, 1, 1)
    rows, columns = -(-out[0] // m), -(-out[1] // m)
    n = m + r - 1
    (top, _), (left, _) = pads
    whole = np.zeros((*x.shape[:2], rows * m + r - 1, columns * m + r - 1), x.dtype)
    height, width = min(x.shape[2], whole.shape[2] - top), min(x.shape[3], whole.shape[3] - left)
    whole[:, :, top : top + height, left : left + width] = x[:, :, :height, :width]
    u = g @ w @ g.T  # (K, C, n, n)
    y = np.zeros((len(x), len(w), rows * m, columns * m), x.dtype)
    for i in range(0, rows * m, m):
        for j in range(0, columns * m, m):
            v = bt @ whole[:, :, i : i + n, j : j + n] @ bt.T  # (N, C, n, n)
            y[:, :, i : i + m, j : j + m] = at @ np.einsum("kcij,ncij->nkij", u, v) @ at.T
    return y[:, :, : out[0], : out[1]]


def winograd_rows_conv2d(x, w, m=2, padding=0):
    """Convolution (stride 1) with Winograd's F(m, s) along the rows alone: as `conv2d`, with fewer multiplications.

        y[k, i] = A^T [ sum_{c, r} (G w[k, c, r]) * (B^T x[c, i + r]) ]    for every piece of m outputs of a row

    x: (N, C, H, W). w: (K, C, R, S). Returns y: (N, K, out_h, out_w).
    """
    r, s = w.shape[2:]
    at, g, bt = winograd_matrices(m, s)
    pads, out, _ = _geometry(x, w, 1, padding, 1, 1)
    columns = -(-out[1] // m) * m
    (top, _), (left, _) = pads
    whole = np.zeros((*x.shape[:2], out[0] + r - 1, columns + s - 1), x.dtype)
    height, width = min(x.shape[2], whole.shape[2] - top), min(x.shape[3], whole.shape[3] - left)
    whole[:, :, top : top + height, left : left + width] = x[:, :, :height, :width]
    u = w @ g.T  # (K, C, R, n)
    y = np.zeros((len(x), len(w), out[0], columns), x.dtype)
    for j in range(0, columns, m):
        v = whole[..., j : j + m + s - 1] @ bt.T  # (N, C, H, n)
        for i in range(out[0]):
            y[:, :, i, j : j + m] = np.einsum("kcrf,ncrf->nkf", u, v[:, :, i : i + r]) @ at.T
    return y[..., : out[1]]


def winograd_matrices(m, r, points=None):
    """A^T (m, n), G (n, r) and B^T (n, n) of `winograd_conv2d`, float64, from their definition.

    points: n - 1 different numbers; by default those of the kernels, with the smallest rounding errors.
    """
    n = m + r - 1
    points = np.array(points or ([0, 1, -1] if n <= 4 else [0, 5 / 8, -5 / 8, 3 / 2, -3 / 2])[: n - 1], float)
    powers = points[:, None] ** np.arange(n)
    infinity = np.eye(n)[-1:]
    at = np.vstack([powers[:, :m], infinity[:, n - m :]]).T
    g = np.vstack([powers[:, :r], infinity[:, n - r :]])
    # the values at n points determine the product of two polynomials: its coefficients are V^-1 times them
    bt = np.linalg.inv(np.vstack([powers, infinity])).T
    scale = np.array([np.prod(p - np.delete(points, i)) for i, p in enumerate(points)] + [1.0])
    return at, g / scale[:, None], bt * scale[:, None]


def _geometry(x, w, stride, padding, dilation, groups):
    """Check the sizes; return ((top, bottom), (left, right)) padding, (out_h, out_w) and the list of taps."""
    kernel = w.shape[2:]
    stride = shapes.pair("conv2d", "stride", stride, minimum=1)
    dilation = shapes.pair("conv2d", "dilation", dilation, minimum=1)
    groups = shapes.integer("conv2d", "groups", groups, minimum=1)
    if x.shape[1] != groups * w.shape[1] or len(w) % groups:
        raise ValueError(f"conv2d: x {x.shape} and w {w.shape} do not fit together in {groups} groups")
    pads = shapes.padding("conv2d", padding, kernel, stride, dilation)
    out = shapes.conv_output("conv2d", x.shape[2:], kernel, stride, pads, dilation)
    return pads, out, _taps(kernel, out, stride, dilation)


def _taps(kernel, out, stride, dilation):
    """List (r, s, rows, columns) for each kernel tap, in row-major order.

    The slices rows and columns pick from the padded input the pixel under tap (r, s) of every window.
    """

    def under(tap, axis):
        first = tap * dilation[axis]
        return slice(first, first + (out[axis] - 1) * stride[axis] + 1, stride[axis])

    return [(r, s, under(r, 0), under(s, 1)) for r in range(kernel[0]) for s in range(kernel[1])]


def _by_group(x, groups):
    n, channels, height, width = x.shape
    return x.reshape(n, groups, channels // groups, height, width)


# ---------------------------------------------------------------------------------------------- pooling


def max_pool2d(x, kernel_size, stride=None, padding=0, ceil_mode=False):
    """The largest pixel of each window, per image and channel

        y[c,i,j] = max_{r,s} x[c, i·stride + r, j·stride + s]

    By PyTorch's rules: of equal pixels the first in row-major order wins; a NaN beats every number (and a
    later NaN an earlier one); padding never wins.

    x: (N, C, H, W). stride: kernel_size if None. ceil_mode: a last window may hang over the far edge.
    Returns y: (N, C, out_h, out_w) and indices: int64, as y, the winner's place u·W + v in its H×W plane.
    Raises ValueError if the padding is more than half the kernel or no window fits.
    """
    height, width = x.shape[2:]
    pads, _, out, taps = _windows("max_pool2d", (height, width), kernel_size, stride, padding, ceil_mode)
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


def avg_pool2d(x, kernel_size, stride=None, padding=0, ceil_mode=False, count_include_pad=True):
    """The average of each window, per image and channel

        y[c,i,j] = Σ_{r,s} x[c, i·stride + r, j·stride + s] / count[i,j]

    where count is the number of pixels in the window. By PyTorch's rules the padding counts, as zeros, if
    count_include_pad; what a window of ceil_mode sees beyond the far padding never does.

    x: (N, C, H, W). The other arguments are those of `max_pool2d`. Returns y: (N, C, out_h, out_w).
    """
    windows = _windows("avg_pool2d", x.shape[2:], kernel_size, stride, padding, ceil_mode)
    pads, _, out, taps = windows
    padded = np.pad(x, ((0, 0), (0, 0), *pads))
    y = np.zeros(x.shape[:2] + out, x.dtype)
    for _, _, rows, columns in taps:
        y += padded[..., rows, columns]
    return y / _window_counts(x.shape[2:], windows, count_include_pad).astype(x.dtype)


def avg_pool2d_backward(dy, input_shape, kernel_size, stride=None, padding=0, ceil_mode=False, count_include_pad=True):
    """Gradient of `avg_pool2d`: each pixel of a window gets its share, and overlapping windows add up

        dx[c,u,v] = Σ dy[c,i,j] / count[i,j] over the windows (i,j) that see (u,v)

    dy: (N, C, out_h, out_w). input_shape: (N, C, H, W). Returns dx: (N, C, H, W).
    """
    height, width = input_shape[2:]
    windows = _windows("avg_pool2d", (height, width), kernel_size, stride, padding, ceil_mode)
    pads, _, _, taps = windows
    share = dy / _window_counts((height, width), windows, count_include_pad).astype(dy.dtype)
    dx = np.pad(np.zeros(input_shape, dy.dtype), ((0, 0), (0, 0), *pads))
    for _, _, rows, columns in taps:
        dx[..., rows, columns] += share
    (top, _), (left, _) = pads
    return dx[..., top : top + height, left : left + width]


def _windows(owner, size, kernel_size, stride, padding, ceil_mode):
    """Check the sizes of a pooling; return how far to pad, ((top, bottom), (left, right)), up to the end of
    the last window, what of it is the padding that was asked for, (out_h, out_w) and the list of taps."""
    kernel = shapes.pair(owner, "kernel_size", kernel_size, minimum=1)
    stride = kernel if stride is None else shapes.pair(owner, "stride", stride, minimum=1)
    pad = shapes.pair(owner, "padding", padding)
    out = shapes.pool_output(owner, size, kernel, stride, pad, ceil_mode)
    ends = [(o - 1) * s + k for o, s, k in zip(out, stride, kernel, strict=True)]
    pads = [(p, max(end - p - side, 0)) for end, p, side in zip(ends, pad, size, strict=True)]
    asked = [(p, min(p, after)) for p, (_, after) in zip(pad, pads, strict=True)]
    return pads, asked, out, _taps(kernel, out, stride, dilation=(1, 1))


def _window_counts(size, windows, count_include_pad):
    """How many pixels each window sees, (out_h, out_w): of the input, or of the input and its padding."""
    pads, asked, out, taps = windows
    seen = np.pad(np.ones(size, np.int64), asked, constant_values=int(count_include_pad))
    beyond = [(0, after - some) for (_, after), (_, some) in zip(pads, asked, strict=True)]
    seen = np.pad(seen, beyond)
    return sum((seen[rows, columns] for _, _, rows, columns in taps), np.zeros(out, np.int64))


def adaptive_avg_pool2d(x, output_size):
    """The average of each of output_size windows, (height, width), spread over the plane: window i of n
    reaches from row ⌊i·H/n⌋ to ⌈(i+1)·H/n⌉, and likewise the columns.

    x: (N, C, H, W). Returns y: (N, C, *output_size).
    """
    y = np.zeros(x.shape[:2] + shapes.pair("adaptive_avg_pool2d", "output_size", output_size, 1), x.dtype)
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
    y = np.zeros(x.shape[:2] + shapes.pair("adaptive_max_pool2d", "output_size", output_size, 1), x.dtype)
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


# ----------------------------------------------------------------------------------------------- linear


def linear(x, w, b=None):
    """y = W x + b for each image; x: (N, in), w: (out, in), b: (out,) or None. Returns y: (N, out)."""
    y = x @ w.T
    return y if b is None else y + b


def linear_backward(dy, x, w):
    """Gradients of `linear`, per image dx = Wᵀ dy, dW = dy xᵀ, db = dy; dw and db are summed over the images.

    dy: (N, out). Returns dx: (N, in), dw: (out, in), db: (out,).
    """
    return dy @ w, dy.T @ x, dy.sum(axis=0)


# ------------------------------------------------------------------------------------------ batch norm


def batch_norm(x, running_mean=None, running_var=None, weight=None, bias=None, training=False, momentum=0.1, eps=1e-5):
    """Normalise each channel (Ioffe and Szegedy 2015): y = γ x̂ + β with x̂ = (x - mean) / √(var + eps)

    In training mean and var are those of the n numbers that the channel has in the batch, var the biased one
    (divided by n), and the running ones, where given, are moved in place: r ← (1 - momentum)·r + momentum·new,
    running_var by the unbiased variance (divided by n - 1). Otherwise mean and var are the running ones.

    x: (N, C, H, W). running_mean, running_var: (C,). weight: γ, bias: β, (C,) or None for 1 and 0. Returns y.
    """
    if training:
        mean, var = _moments(x)
        if running_mean is not None:
            n = x.size // x.shape[1]
            running_mean += momentum * (mean - running_mean)
            running_var += momentum * (var * n / (n - 1) - running_var)
    else:
        mean, var = running_mean, running_var
    y = _by_channel(x, mean, np.sqrt(var + eps))
    return y * _planes(1 if weight is None else weight) + _planes(0 if bias is None else bias)


def batch_norm_backward(dy, x, weight=None, eps=1e-5):
    """Gradients of `batch_norm` in training. dx_i gets a share from x_i itself, from the mean and from the variance:

        dx_i = γ/s (dy_i - mean(dy) - x̂_i mean(dy x̂)),  s = √(var + eps);   dγ = Σ dy x̂;   dβ = Σ dy

    because ∂mean/∂x_i = 1/n, ∂s/∂x_i = x̂_i/n and Σ x̂ = 0. dy: as x. Returns dx, dweight, dbias.
    """
    mean, var = _moments(x)
    s = np.sqrt(var + eps)
    xhat = _by_channel(x, mean, s)
    n = max(1, x.size // x.shape[1])
    dbias, dweight = dy.sum(axis=(0, 2, 3)), (dy * xhat).sum(axis=(0, 2, 3))
    dx = dy - _planes(dbias / n) - xhat * _planes(dweight / n)
    return dx * _planes((1 if weight is None else weight) / s), dweight, dbias


def _moments(x):
    """Mean and biased variance of each channel, 0 where there is nothing."""
    n = max(1, x.size // x.shape[1])
    mean = x.sum(axis=(0, 2, 3)) / n
    return mean, np.square(x - _planes(mean)).sum(axis=(0, 2, 3)) / n


def _by_channel(x, mean, s):
    return (x - _planes(mean)) / _planes(s)


def _planes(values):
    """One number for each channel, in the shape that NCHW arrays want."""
    return np.reshape(values, (-1, 1, 1))


# ------------------------------------------------------------------------------------------ activations
# Arrays of any shape, element by element. A NaN stays a NaN.


def relu(x):
    """y = max(x, 0)."""
    return np.maximum(x, 0)


def relu_backward(dy, y):
    """dx = dy where y > 0, else 0 (also at the kink). At a NaN dy passes, as in PyTorch."""
    return np.where(y <= 0, 0, dy)


def leaky_relu(x, slope):
    """y = x where x > 0, else slope·x."""
    return np.where(x > 0, x, slope * x)


def leaky_relu_backward(dy, x, slope):
    """dx = dy where x > 0, else slope·dy (also at a NaN)."""
    return np.where(x > 0, dy, slope * dy)


def tanh(x):
    """y = (e^x - e^-x) / (e^x + e^-x)."""
    return np.tanh(x)


def tanh_backward(dy, y):
    """dx = dy (1 - y²)."""
    return dy * (1 - y * y)


def sigmoid(x):
    """y = 1 / (1 + e^-x), computed from e^-|x|, which cannot overflow."""
    small = np.exp(-np.abs(x))
    return np.where(x >= 0, 1, small) / (1 + small)


def sigmoid_backward(dy, y):
    """dx = dy y (1 - y)."""
    return dy * y * (1 - y)


def silu(x):
    """y = x σ(x) with σ = sigmoid (Elfwing et al. 2018)."""
    return x * sigmoid(x)


def silu_backward(dy, x):
    """dx = dy (σ + x σ (1 - σ)) with σ = sigmoid(x)."""
    s = sigmoid(x)
    return dy * s * (1 + x * (1 - s))


def gelu(x, approximate="none"):
    """y = x Φ(x), Φ(x) = (1 + erf(x/√2)) / 2 the normal distribution function (Hendrycks and Gimpel 2016),
    or approximately, with approximate="tanh", y = x (1 + tanh(√(2/π) (x + 0.044715 x³))) / 2."""
    if approximate == "tanh":
        return x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2
    return x * _normal(x)


def gelu_backward(dy, x, approximate="none"):
    """dx = dy (Φ(x) + x φ(x)) with φ(x) = e^{-x²/2} / √(2π); or the derivative of the approximation."""
    if approximate == "tanh":
        t = np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))
        inner = math.sqrt(2 / math.pi) * (1 + 3 * 0.044715 * x * x)
        return dy * (1 + t + x * (1 - t * t) * inner) / 2
    return dy * (_normal(x) + x * np.exp(-x * x / 2) / math.sqrt(2 * math.pi))


def _normal(x):
    """Φ(x) = erfc(-x/√2) / 2."""
    return np.vectorize(lambda v: math.erfc(-v / math.sqrt(2)) / 2, otypes=[x.dtype])(x)


def softmax(x):
    """p_i = e^{x_i} / Σ_j e^{x_j} over axis 1; shifting x by its maximum changes nothing but the overflow."""
    exp = np.exp(x - x.max(axis=1, keepdims=True))
    return exp / exp.sum(axis=1, keepdims=True)


def softmax_backward(dy, y):
    """dx_i = y_i (dy_i - Σ_j dy_j y_j), from dy_j/dx_i = y_j ([i = j] - y_i)."""
    return y * (dy - (dy * y).sum(axis=1, keepdims=True))


def log_softmax(x):
    """log p_i = x_i - log Σ_j e^{x_j} over axis 1, shifted by the maximum."""
    shifted = x - x.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def log_softmax_backward(dy, y):
    """dx_i = dy_i - e^{y_i} Σ_j dy_j."""
    return dy - np.exp(y) * dy.sum(axis=1, keepdims=True)


# ------------------------------------------------------------------------------------------ arithmetic of values


def _summed(d, shape):
    """The sum of d over the axes that were repeated: the gradient of an operand of this shape."""
    axes = tuple(i for i, (m, n) in enumerate(zip(d.shape, shape, strict=True)) if m != n)
    return d.sum(axes, keepdims=True) if axes else d


def add(a, b):
    """a + b. Where one of them has one channel, row or column that is repeated, as in all four of these."""
    return a + b


def add_backward(dy, a, b):
    return _summed(dy, a.shape), _summed(dy, b.shape)


def subtract(a, b):
    """a - b"""
    return a - b


def subtract_backward(dy, a, b):
    return _summed(dy, a.shape), _summed(-dy, b.shape)


def multiply(a, b):
    """a b"""
    return a * b


def multiply_backward(dy, a, b):
    return _summed(dy * b, a.shape), _summed(dy * a, b.shape)


def divide(a, b):
    """a / b"""
    return a / b


def divide_backward(dy, a, b):
    """da = dy / b, db = -dy a / b^2"""
    return _summed(dy / b, a.shape), _summed(-dy * a / b**2, b.shape)


def affine(x, factor, summand):
    """factor x + summand, with two numbers."""
    return factor * x + summand


def affine_backward(dy, factor):
    return factor * dy


def reciprocal(x, number):
    """number / x"""
    return number / x


def reciprocal_backward(dy, x, number):
    """dx = -dy number / x^2"""
    return -dy * number / x**2


def reduce_sum(x, axes):
    """The sums of x over these axes, which stay with size 1."""
    return x.sum(tuple(axes), keepdims=True)


def reduce_sum_backward(dy, x_shape):
    """Every number of a sum gets its gradient."""
    return np.broadcast_to(dy, x_shape)


def spread(p, n, image):
    """p for each of n images, in the shape of an image."""
    return np.broadcast_to(p.reshape(1, *image), (n, *image))


def spread_backward(dy, p_shape):
    return dy.sum(0).reshape(p_shape)


def cat(arrays):
    """The channels of all arrays one after the other."""
    return np.concatenate(arrays, 1)


def cat_backward(dy, channels):
    """The share of each array, of which `channels` says how many it has."""
    return np.split(dy, np.cumsum(channels)[:-1], 1)


def slice_channels(x, first, stop):
    """Channels first to stop - 1."""
    return x[:, first:stop]


def slice_channels_backward(dy, first, x_shape):
    """dx is 0 in all other channels."""
    dx = np.zeros(x_shape, dy.dtype)
    dx[:, first : first + dy.shape[1]] = dy
    return dx


def reshape(x, image):
    """The numbers of each image in another shape."""
    return x.reshape(len(x), *image)


def reshape_backward(dy, x_shape):
    return dy.reshape(x_shape)


def fold(w, b, mean, var, gamma=None, beta=None, eps=1e-5):
    """Weight and bias of a convolution that also does the batch norm after it, whose statistics are constant:

        s = gamma / sqrt(var + eps);  w' = s w;  b' = s (b - mean) + beta
    """
    s = (1 if gamma is None else gamma) / np.sqrt(var + eps)
    b = s * ((0 if b is None else b) - mean) + (0 if beta is None else beta)
    return w * s.reshape(-1, 1, 1, 1), b


# ----------------------------------------------------------------------------------------------- losses


def cross_entropy(logits, targets, label_smoothing=0.0, weight=None):
    """Log loss of p = softmax(logits), averaged over the images, and its gradient.

    For one image of class g with scores y it is L = -log p_g, and dL/dy_i = p_i - [i = g].

    In general the image's wanted distribution is q_i = (1 - ε) [i = g] + ε/K with label smoothing ε, times
    weight_i if classes are weighted; then L = -Σ_i q_i log p_i and dL/dy_i = p_i Σ_j q_j - q_i. The mean over
    the images divides by their number, or by the sum of their classes' weights (PyTorch's rule). Where that is 0,
    L is NaN, and its gradient is taken as 0.

    logits: (N, K). targets: (N,) integers in [0, K). label_smoothing: ε in [0, 1]. weight: (K,) or None.
    Returns loss (a float) and dlogits: (N, K). Raises ValueError for a target outside [0, K).
    """
    n, classes = logits.shape
    if np.any((targets < 0) | (targets >= classes)):
        raise ValueError(f"cross_entropy: targets must be in [0, {classes})")
    weight = np.ones(classes, logits.dtype) if weight is None else weight
    wanted = np.full((n, classes), label_smoothing / classes, logits.dtype)
    wanted[np.arange(n), targets] += 1 - label_smoothing
    wanted *= weight
    total = weight[targets].sum()

    log_p = log_softmax(logits)
    counts = wanted != 0  # 0·log p is 0, even where p is 0 and its logarithm infinite
    loss = -(wanted[counts] * log_p[counts]).sum() / total if total else math.nan
    dlogits = (np.exp(log_p) * wanted.sum(axis=1, keepdims=True) - wanted) / (total or math.inf)
    return float(loss), dlogits


def mse(prediction, target):
    """Mean squared error L = 1/n Σ (prediction - target)² over all n elements; dL/dp = 2/n (p - t).

    prediction, target: the same shape. Returns loss (a float) and dprediction, shaped as prediction.
    """
    difference = prediction - target
    return float(np.mean(difference * difference)), 2 / difference.size * difference


# --------------------------------------------------------------------------------------------- optimizers
# One step each, by PyTorch's rules. w, g and the state are flat arrays of one shape and dtype; w and the
# state are changed in place, g is not. The state starts as zeros.


def sgd_update(w, g, velocity, lr, momentum, nesterov, weight_decay, first):
    """Stochastic gradient descent with momentum, u the velocity:

        g ← g + weight_decay·w;   u ← momentum·u + g;   w ← w - lr·u   (Nesterov: w - lr·(g + momentum·u))

    velocity: may be None if momentum is 0. first: whether this is the first step, which sets u to g.
    """
    g = g + weight_decay * w
    if momentum:
        velocity[:] = g if first else momentum * velocity + g
        g = g + momentum * velocity if nesterov else velocity
    w -= lr * g


def adam_update(w, g, m, v, step, lr, beta1, beta2, eps, weight_decay, decoupled):
    """Adam (Kingma and Ba 2015), or AdamW (Loshchilov and Hutter 2019) if decoupled. With t = step:

        Adam: g ← g + weight_decay·w;   AdamW: w ← w - lr·weight_decay·w
        m ← beta1·m + (1 - beta1)·g;    v ← beta2·v + (1 - beta2)·g²
        w ← w - lr · (m / (1 - beta1^t)) / (√(v / (1 - beta2^t)) + eps)

    m, v: running means of the gradient and its square. step: the number of this step, from 1.
    """
    if decoupled:
        w *= 1 - lr * weight_decay
    else:
        g = g + weight_decay * w
    m[...] = beta1 * m + (1 - beta1) * g
    v *= beta2
    v += (1 - beta2) * g * g
    denominator = np.sqrt(v) / math.sqrt(1 - beta2**step) + eps
    w -= lr / (1 - beta1**step) * m / denominator


def rmsprop_update(w, g, square, grad_avg, velocity, lr, alpha, eps, weight_decay, momentum, centered):
    """RMSprop (Tieleman and Hinton 2012), s and a running means of g² and g, u the velocity:

        g ← g + weight_decay·w
        s ← alpha·s + (1 - alpha)·g²;   a ← alpha·a + (1 - alpha)·g
        u ← momentum·u + g / (√s + eps)   (centered: √(s - a²));   w ← w - lr·u

    square: s. grad_avg: a, may be None unless centered. velocity: u, may be None if momentum is 0.
    """
    g = g + weight_decay * w
    square *= alpha
    square += (1 - alpha) * g * g
    variance = square
    if centered:
        grad_avg += (1 - alpha) * (g - grad_avg)
        variance = np.maximum(square - grad_avg * grad_avg, 0)      # below 0 by rounding only
    g = g / (np.sqrt(variance) + eps)
    if momentum:
        velocity *= momentum
        velocity += g
        g = velocity
    w -= lr * g


def average_update(slow, w, decay, copy_back):
    """Exponential moving average of weights, slow ← decay·slow + (1 - decay)·w; Lookahead then sets w ← slow.

    slow, w: arrays of one shape, changed in place. copy_back: whether w is set. Zhang et al. 2019, "Lookahead".
    """
    slow *= decay
    slow += (1 - decay) * w
    if copy_back:
        w[...] = slow


def dropout(x, p, seed, step):
    """y = x / (1 - p) where the element's hash reaches p * 2^32, else 0; the gradient is the same map of dy.

    x: (N, ...) float. p: probability of a zero. seed, step: integers below 2^32, the layer's seed and the
    number of its forward pass. The hash is murmur3's finaliser, `h`, of seed, step, image n and element e:
    h(h(h(h(seed) ^ step) ^ n) ^ (e * 0x9E3779B1)), all modulo 2^32.
    """
    def h(a):
        a = (a ^ (a >> np.uint32(16))) * np.uint32(0x85EBCA6B)
        a = (a ^ (a >> np.uint32(13))) * np.uint32(0xC2B2AE35)
        return a ^ (a >> np.uint32(16))

    with np.errstate(over="ignore"):
        image = h(h(h(np.uint32(seed)) ^ np.uint32(step)) ^ np.arange(len(x), dtype=np.uint32))
        element = np.arange(x[0].size, dtype=np.uint32) * np.uint32(0x9E3779B1)
        keep = h(image[:, None] ^ element) >= p * 2.0**32
    return np.where(keep.reshape(x.shape), x * (1 / (1 - p) if p < 1 else 0), 0)


def dropout2d(x, p, seed, step):
    """`dropout` of whole channels: the elements e are the channels of an image. x: (N, C, H, W)."""
    scale = dropout(np.ones(x.shape[:2], x.dtype), p, seed, step)[:, :, np.newaxis, np.newaxis]
    return np.where(scale > 0, x * scale, 0)


# --------------------------------------------------------------------------------------- images changed at random


def crop(x, top, left, reflect):
    """y[n, c, i, j] = x[n, c, i + top[n], j + left[n]]; outside is zero, or x reflected at its edges.

    x: (N, C, H, W) of any type. top, left: integers (N,); with reflect between -(side - 1) and side - 1.
    """
    height, width = x.shape[2:]
    if not reflect:     # further out there is nothing new
        top, left = np.clip(top, -height, height), np.clip(left, -width, width)
    pads = (0, 0), (height - reflect,) * 2, (width - reflect,) * 2
    y = np.empty_like(x)
    for n, image in enumerate(x):
        padded = np.pad(image, pads, "reflect" if reflect else "constant")
        i, j = pads[1][0] + top[n], pads[2][0] + left[n]
        y[n] = padded[:, i : i + height, j : j + width]
    return y


def cutout(x, top, left, size, fill):
    """x with fill[c] in rows top[n] to top[n] + size - 1 and columns left[n] to left[n] + size - 1 of image n.

    x: (N, C, H, W) of any type. top, left: integers (N,). fill: (C,).
    """
    y = x.copy()
    for n, image in enumerate(y):
        rows, columns = (slice(max(0, first), max(0, first + size)) for first in (top[n], left[n]))
        image[:, rows, columns] = np.reshape(fill, (-1, 1, 1))
    return y


def affine_map(x, matrix, fill):
    """y[n, c, i, j] = x[n, c] at column m0·j + m1·i + m2, row m3·j + m4·i + m5, where m = matrix[n] is rounded to
    1/65536. Between pixels p the bilinear mean, where fill[c] stands for pixels outside:

        y = (1 - b) ((1 - a) p[r, s] + a p[r, s+1]) + b ((1 - a) p[r+1, s] + a p[r+1, s+1])

    for row r + b, column s + a. Bytes use the first 8 bits of a and b behind the point, and y is rounded.

    x: (N, C, H, W), uint8 or float. matrix: float64 (N, 6). fill: (C,).
    """
    height, width = x.shape[2:]
    i, j = np.mgrid[:height, :width]
    y = np.empty_like(x)
    whole = x.dtype == np.uint8
    one = 256 if whole else x.dtype.type(1)
    for n, image in enumerate(x):
        m = np.rint(np.clip(matrix[n] * 65536, -(2.0**40), 2.0**40)).astype(np.int64)
        columns, rows = m[0] * j + m[1] * i + m[2], m[3] * j + m[4] * i + m[5]
        a, b = ((at & 65535) // 256 if whole else (at & 65535).astype(x.dtype) / 65536 for at in (columns, rows))

        def pixel(r, s, image=image):
            outside = (r < 0) | (r >= height) | (s < 0) | (s >= width)
            inside = image[:, np.clip(r, 0, height - 1), np.clip(s, 0, width - 1)].astype(int if whole else x.dtype)
            return np.where(outside, np.reshape(fill, (-1, 1, 1)), inside)

        r, s = rows >> 16, columns >> 16
        upper = (one - a) * pixel(r, s) + a * pixel(r, s + 1)
        lower = (one - a) * pixel(r + 1, s) + a * pixel(r + 1, s + 1)
        mean = (one - b) * upper + b * lower
        y[n] = (mean + 32768) // 65536 if whole else mean
    return y
