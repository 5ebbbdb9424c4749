"""Arithmetic of values, and other shapes of them, forward and backward."""

import numpy as np


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


def matmul(a, b):
    """The products of matrices, each image's own. a: (N, ..., I, K), b: (N, ..., K, J)."""
    return a @ b


def matmul_backward(dy, a, b):
    """da = dy b^T, db = a^T dy"""
    return dy @ b.swapaxes(-1, -2), a.swapaxes(-1, -2) @ dy


def maximum(a, b):
    """The larger of a and b; NaN if one is."""
    return np.maximum(a, b)


def maximum_backward(dy, a, b):
    """dy goes to the larger one, half of it to each where they are equal (PyTorch's rule)."""
    share = np.where(a == b, 0.5, ~(a < b))
    return _summed(dy * share, a.shape), _summed(dy * np.where(a == b, 0.5, ~(b < a)), b.shape)


def minimum(a, b):
    """The smaller of a and b; NaN if one is."""
    return np.minimum(a, b)


def minimum_backward(dy, a, b):
    """As `maximum_backward`, with the roles swapped."""
    return maximum_backward(dy, -a, -b)


def greater(a, b):
    """1 where a > b, else 0; it has no gradient."""
    return (a > b).astype(a.dtype)


def greater_equal(a, b):
    """1 where a >= b, else 0; it has no gradient."""
    return (a >= b).astype(a.dtype)


def equal(a, b):
    """1 where a = b, else 0; it has no gradient."""
    return (a == b).astype(a.dtype)


def not_equal(a, b):
    """0 where a = b, else 1; it has no gradient."""
    return (a != b).astype(a.dtype)


def where(condition, a, b):
    """a where the condition is not 0, else b."""
    return np.where(condition != 0, a, b)


def where_backward(dy, condition, a, b):
    """dy goes to a where the condition holds, else to b."""
    return _summed(np.where(condition != 0, dy, 0), a.shape), _summed(np.where(condition != 0, 0, dy), b.shape)


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


def reduce_mean(x, axes):
    """The means of x over these axes, which stay with size 1."""
    return x.mean(tuple(axes), keepdims=True)


def reduce_mean_backward(dy, x_shape):
    """Every number of a mean gets its share of the gradient."""
    return np.broadcast_to(dy, x_shape) * (dy.size / np.prod(x_shape))


def amax(x, axes):
    """The largest elements of x over these axes, which stay with size 1."""
    return x.max(tuple(axes), keepdims=True)


def amin(x, axes):
    """The smallest elements of x over these axes, which stay with size 1."""
    return x.min(tuple(axes), keepdims=True)


def extreme_backward(dy, x, y, axes):
    """The gradient of `amax` and `amin`: all elements of x that equal y share dy evenly."""
    winners = x == y
    return winners * (dy / winners.sum(tuple(axes), keepdims=True))


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
