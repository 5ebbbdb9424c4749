"""Batch, group, layer and local response norm, forward and backward."""

import numpy as np


def batch_norm(x, running_mean=None, running_var=None, weight=None, bias=None, training=False, momentum=0.1, eps=1e-5,
               unbiased=True):
    """Normalise each channel (Ioffe and Szegedy 2015): y = γ x̂ + β with x̂ = (x - mean) / √(var + eps)

    In training mean and var are those of the n numbers that the channel has in the batch, var the biased one
    (divided by n), and the running ones, where given, are moved in place: r ← (1 - momentum)·r + momentum·new,
    running_var by the unbiased variance (divided by n - 1), or without `unbiased` by var. Otherwise mean and var are
    the running ones.

    x: (N, C, H, W). running_mean, running_var: (C,). weight: γ, bias: β, (C,) or None for 1 and 0. Returns y.
    """
    if training:
        mean, var = _moments(x)
        if running_mean is not None:
            n = x.size // x.shape[1]
            running_mean += momentum * (mean - running_mean)
            running_var += momentum * (var * n / (n - unbiased) - running_var)
    else:
        mean, var = running_mean, running_var
    y = _by_channel(x, mean, np.sqrt(var + eps))
    return y * _planes(1 if weight is None else weight) + _planes(0 if bias is None else bias)


def batch_norm_backward(dy, x, weight=None, eps=1e-5, mean=None, var=None):
    """Gradients of `batch_norm` in training. dx_i gets a share from x_i itself, from the mean and from the variance:

        dx_i = γ/s (dy_i - mean(dy) - x̂_i mean(dy x̂)),  s = √(var + eps);   dγ = Σ dy x̂;   dβ = Σ dy

    because ∂mean/∂x_i = 1/n, ∂s/∂x_i = x̂_i/n and Σ x̂ = 0. Otherwise mean and var, (C,), are given. They are
    constants then, and the first share is all: dx_i = γ/s dy_i. dy: as x. Returns dx, dweight, dbias.
    """
    constant = mean is not None
    if not constant:
        mean, var = _moments(x)
    s = np.sqrt(var + eps)
    xhat = _by_channel(x, mean, s)
    n = max(1, x.size // x.shape[1])
    dbias, dweight = dy.sum(axis=(0, 2, 3)), (dy * xhat).sum(axis=(0, 2, 3))
    dx = dy if constant else dy - _planes(dbias / n) - xhat * _planes(dweight / n)
    return dx * _planes((1 if weight is None else weight) / s), dweight, dbias


def group_norm(x, num_groups, weight=None, bias=None, eps=1e-5):
    """Normalise each image's groups of channels (Wu and He 2018): y = γ x̂ + β with x̂ = (x - mean) / √(var + eps)

    mean and (biased) var are those of the n numbers of a group. x: (N, C, H, W). weight, bias: (C,) or None.
    """
    xhat, _ = _group_xhat(x, num_groups, eps)
    return xhat * _planes(1 if weight is None else weight) + _planes(0 if bias is None else bias)


def group_norm_backward(dy, x, num_groups, weight=None, eps=1e-5):
    """Gradients of `group_norm`; with g = γ dy and the means over the group, as for `batch_norm_backward`:

        dx_i = (g_i - mean(g) - x̂_i mean(g x̂)) / s;   dγ = Σ dy x̂;   dβ = Σ dy
    """
    xhat, s = _group_xhat(x, num_groups, eps)
    g = _groups(dy * _planes(1 if weight is None else weight), num_groups)
    h = _groups(xhat, num_groups)
    dx = (g - g.mean(-1, keepdims=True) - h * (g * h).mean(-1, keepdims=True)) / s
    return dx.reshape(x.shape), (dy * xhat).sum(axis=(0, 2, 3)), dy.sum(axis=(0, 2, 3))


def layer_norm(x, normalized_shape, weight=None, bias=None, eps=1e-5):
    """Normalise over the last axes (Ba, Kiros and Hinton 2016): y = γ x̂ + β with x̂ = (x - mean) / √(var + eps)

    mean and (biased) var are those of the elements along these axes. x: (N, ...). normalized_shape: sizes of the axes,
    a tuple; weight, bias: of this shape, or None.
    """
    xhat, _ = _xhat(x, tuple(range(x.ndim - len(normalized_shape), x.ndim)), eps)
    return xhat * (1 if weight is None else weight) + (0 if bias is None else bias)


def layer_norm_backward(dy, x, normalized_shape, weight=None, eps=1e-5):
    """Gradients of `layer_norm`; with g = γ dy and the means over the axes, as for `batch_norm_backward`:

        dx_i = (g_i - mean(g) - x̂_i mean(g x̂)) / s;   dγ_i = Σ dy_i x̂_i;   dβ_i = Σ dy_i

    the sums being over all that share γ_i.
    """
    first = x.ndim - len(normalized_shape)
    dx, xhat = _through_xhat(dy * (1 if weight is None else weight), x, tuple(range(first, x.ndim)), eps)
    others = tuple(range(first))
    return dx, (dy * xhat).sum(axis=others), dy.sum(axis=others)


def layer_norm2d(x, weight=None, bias=None, eps=1e-5):
    """The same over the channels of each pixel. x: (N, C, H, W). weight, bias: (C,) or None."""
    xhat, _ = _xhat(x, (1,), eps)
    return xhat * _planes(1 if weight is None else weight) + _planes(0 if bias is None else bias)


def layer_norm2d_backward(dy, x, weight=None, eps=1e-5):
    """Gradients of `layer_norm2d`, as for `layer_norm`."""
    dx, xhat = _through_xhat(dy * _planes(1 if weight is None else weight), x, (1,), eps)
    return dx, (dy * xhat).sum(axis=(0, 2, 3)), dy.sum(axis=(0, 2, 3))


def local_response_norm(x, size, alpha=1e-4, beta=0.75, k=1.0, before=None):
    """Divide by the size of neighbouring channels (Krizhevsky, Sutskever and Hinton 2012): y_c = x_c b_c^-β with
    b_c = k + α / size Σ x_j² over the `size` channels j from c - before on, size // 2 by default; zeros beyond.
    """
    return x * (k + alpha / size * _windows(x * x, size, size // 2 if before is None else before)) ** -beta


def local_response_norm_backward(dy, x, size, alpha=1e-4, beta=0.75, k=1.0, before=None):
    """Gradient of `local_response_norm`. x_c is in its own y_c and in the b_i of all i in whose windows it is:

        dx_c = dy_c b_c^-β - 2 α β / size x_c Σ dy_i y_i / b_i,  ∂b_i/∂x_c = 2 α / size x_c
    """
    before = size // 2 if before is None else before
    b = k + alpha / size * _windows(x * x, size, before)
    r = dy * x * b ** (-beta - 1)
    return dy * b ** -beta - 2 * alpha * beta / size * x * _windows(r, size, size - 1 - before)


def _windows(x, size, before):
    """Of each channel c the sum of `size` channels from c - before on."""
    padded = np.pad(x, ((0, 0), (before, size - 1 - before), (0, 0), (0, 0)))
    return sum((padded[:, i:i + x.shape[1]] for i in range(size)), np.zeros_like(x))


def _xhat(x, axes, eps):
    """x̂ and s = √(var + eps), over axes."""
    centred = x - x.mean(axis=axes, keepdims=True)
    s = np.sqrt(np.square(centred).mean(axis=axes, keepdims=True) + eps)
    return centred / s, s


def _through_xhat(g, x, axes, eps):
    """dx for the gradient g of x̂, and x̂."""
    xhat, s = _xhat(x, axes, eps)
    return (g - g.mean(axis=axes, keepdims=True) - xhat * (g * xhat).mean(axis=axes, keepdims=True)) / s, xhat


def _group_xhat(x, num_groups, eps):
    groups = _groups(x, num_groups)
    centred = groups - groups.mean(-1, keepdims=True)
    s = np.sqrt(np.square(centred).mean(-1, keepdims=True) + eps)
    return (centred / s).reshape(x.shape), s


def _groups(x, num_groups):
    """(N, groups, numbers of a group)"""
    return x.reshape(len(x), num_groups, x[0].size // num_groups if len(x) else 1)


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
