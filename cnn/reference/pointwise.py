"""Activations, softmax and dropout, forward and backward.

Activations take arrays of any shape, element by element. A NaN stays a NaN.
"""

import math

import numpy as np


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


def clamp(x, low, high):
    """y = min(max(x, low), high)."""
    return np.clip(x, low, high)


def clamp_backward(dy, x, low, high):
    """dx = dy where low <= x <= high, else 0."""
    return np.where((x < low) | (x > high), 0, dy)


def hardtanh(x, low=-1.0, high=1.0):
    """y = min(max(x, low), high); with 0 and 6 it is ReLU6."""
    return np.clip(x, low, high)


def hardtanh_backward(dy, x, low=-1.0, high=1.0):
    """dx = dy where low < x < high, else 0."""
    return np.where((x <= low) | (x >= high), 0, dy)


def elu(x, alpha=1.0):
    """y = x where x > 0, else α (e^x - 1) (Clevert et al. 2016)."""
    return np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0)))


def elu_backward(dy, x, alpha=1.0):
    """dx = dy where x > 0, else dy α e^x."""
    return dy * np.where(x > 0, 1, alpha * np.exp(np.minimum(x, 0)))


def hardswish(x):
    """y = x min(max(x + 3, 0), 6) / 6 (Howard et al. 2019)."""
    return x * np.clip(x + 3, 0, 6) / 6


def hardswish_backward(dy, x):
    """dx = dy (x / 3 + 1/2) between -3 and 3, 0 below and dy above."""
    return dy * np.where(x <= -3, 0, np.where(x < 3, x / 3 + 0.5, 1))


def hardsigmoid(x):
    """y = min(max(x + 3, 0), 6) / 6."""
    return np.clip(x + 3, 0, 6) / 6


def hardsigmoid_backward(dy, x):
    """dx = dy / 6 between -3 and 3, else 0."""
    return np.where(np.abs(x) < 3, dy / 6, 0)


def mish(x):
    """y = x tanh(log(1 + e^x)) (Misra 2020)."""
    return x * np.tanh(np.logaddexp(x, 0))


def mish_backward(dy, x):
    """dx = dy (t + x (1 - t²) σ(x)) with t = tanh(log(1 + e^x)), σ the sigmoid."""
    t = np.tanh(np.logaddexp(x, 0))
    return dy * (t + x * (1 - t * t) * sigmoid(x))


def softplus(x, beta=1.0, threshold=20.0):
    """y = log(1 + e^{βx}) / β, or x where βx is above the threshold."""
    return np.where(beta * x > threshold, x, np.logaddexp(beta * x, 0) / beta)


def softplus_backward(dy, x, beta=1.0, threshold=20.0):
    """dx = dy σ(βx), or dy above the threshold."""
    return dy * np.where(beta * x > threshold, 1, sigmoid(beta * x))


def prelu(x, weight):
    """y = x where x > 0, else w_c x (He et al. 2015). weight: w, (C,), C the channels, or (1,)."""
    return np.where(x > 0, x, _per_channel(weight, x) * x)


def prelu_backward(dy, x, weight):
    """dx = dy where x > 0, else w_c dy; dw_c = Σ dy x over the elements of the channel where x <= 0."""
    negative = x <= 0
    axes = tuple(i for i in range(x.ndim) if i != 1 or len(weight) == 1)
    dw = np.where(negative, dy * x, 0).sum(axes).reshape(weight.shape)
    return np.where(negative, _per_channel(weight, x) * dy, dy), dw


def _per_channel(w, x):
    return w.reshape(-1, *(1,) * (x.ndim - 2))


def absolute(x):
    """y = |x|."""
    return np.abs(x)


def absolute_backward(dy, x):
    """dx = dy sign(x), 0 at 0."""
    return dy * np.sign(x)


def exp(x):
    """y = e^x."""
    return np.exp(x)


def exp_backward(dy, y):
    """dx = dy y."""
    return dy * y


def log(x):
    """y = log x."""
    return np.log(x)


def log_backward(dy, x):
    """dx = dy / x."""
    return dy / x


def sqrt(x):
    """y = √x."""
    return np.sqrt(x)


def sqrt_backward(dy, y):
    """dx = dy / 2y."""
    return dy / (2 * y)


def sin(x):
    """y = sin x."""
    return np.sin(x)


def sin_backward(dy, x):
    """dx = dy cos x."""
    return dy * np.cos(x)


def cos(x):
    """y = cos x."""
    return np.cos(x)


def cos_backward(dy, x):
    """dx = -dy sin x."""
    return -dy * np.sin(x)


def power(x, exponent):
    """y = x^n."""
    return x ** exponent


def power_backward(dy, x, exponent):
    """dx = dy n x^{n-1}."""
    return dy * exponent * x ** (exponent - 1) if exponent else np.zeros_like(x)


def softmax(x, dim=1):
    """p_i = e^{x_i} / Σ_j e^{x_j} over an axis; shifting x by its maximum changes nothing but the overflow."""
    exp = np.exp(x - x.max(axis=dim, keepdims=True))
    return exp / exp.sum(axis=dim, keepdims=True)


def softmax_backward(dy, y, dim=1):
    """dx_i = y_i (dy_i - Σ_j dy_j y_j), from dy_j/dx_i = y_j ([i = j] - y_i)."""
    return y * (dy - (dy * y).sum(axis=dim, keepdims=True))


def log_softmax(x, dim=1):
    """log p_i = x_i - log Σ_j e^{x_j} over an axis, shifted by the maximum."""
    shifted = x - x.max(axis=dim, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=dim, keepdims=True))


def log_softmax_backward(dy, y, dim=1):
    """dx_i = dy_i - e^{y_i} Σ_j dy_j."""
    return dy - np.exp(y) * dy.sum(axis=dim, keepdims=True)


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
        element = np.arange(math.prod(x.shape[1:]), dtype=np.uint32) * np.uint32(0x9E3779B1)
        keep = h(image[:, None] ^ element) >= p * 2.0**32
    return np.where(keep.reshape(x.shape), x * (1 / (1 - p) if p < 1 else 0), 0)


def dropout2d(x, p, seed, step):
    """`dropout` of whole channels: the elements e are the channels of an image. x: (N, C, H, W)."""
    scale = dropout(np.ones(x.shape[:2], x.dtype), p, seed, step)[:, :, np.newaxis, np.newaxis]
    return np.where(scale > 0, x * scale, 0)
