"""Losses and their gradients."""

import math

import numpy as np

from cnn.reference.pointwise import log_softmax, sigmoid


def cross_entropy(x, target, label_smoothing=0.0, weight=None, ignore_index=None, image_weight=None):
    """Log loss of p = softmax(x), averaged over the images (or pixels), and its gradient.

    For one image of class g with scores x it is L = -log p_g, and dL/dx_i = p_i - [i = g].

    In general the image's wanted distribution is q_i = (1 - ε) [i = g] + ε/K with label smoothing ε, times
    weight_i if classes are weighted, and times the image's own weight; then L = -Σ_i q_i log p_i and
    dL/dx_i = p_i Σ_j q_j - q_i. The mean over the images divides by their number, or by the sum of their classes'
    weights (PyTorch's rule), times their own. Where that is 0, L is NaN, and its gradient is taken as 0.

    x: (N, K) or (N, K, H, W). target: (N,) or (N, H, W), integers in [0, K), or `ignore_index`, which does not
    count; or floats, distributions t over the classes, shaped as x, of which the mean divides by their number:
    q_i = (1 - ε) t_i + ε/K. label_smoothing: ε in [0, 1]. weight: (K,) or None. image_weight: (N,) or None.
    Returns loss (a float) and dx, shaped as x. Raises ValueError for a target outside [0, K).
    """
    classes = x.shape[1]
    weight = np.ones(classes, x.dtype) if weight is None else weight
    per_class = weight.reshape(-1, *(1,) * (x.ndim - 2))
    if target.dtype.kind == "f":
        wanted = ((1 - label_smoothing) * target + label_smoothing / classes) * per_class
        total = target.size / classes
    else:
        hot, total = _one_hot("cross_entropy", target, x, weight, ignore_index)
        wanted = ((1 - label_smoothing) * hot + label_smoothing / classes * hot.sum(1, keepdims=True)) * per_class
    if image_weight is not None:
        wanted *= image_weight.reshape(-1, *(1,) * (x.ndim - 1))
        total = (weight[target] * image_weight).sum()

    log_p = log_softmax(x)
    counts = wanted != 0  # 0·log p is 0, even where p is 0 and its logarithm infinite
    loss = -(wanted[counts] * log_p[counts]).sum() / total if total else math.nan
    dx = (np.exp(log_p) * wanted.sum(axis=1, keepdims=True) - wanted) / (total or math.inf)
    return float(loss), dx


def _one_hot(name, target, like, weight, ignore_index):
    """1 for each target's class along axis 1, shaped as `like`, 0 where it is ignored; and the sum of the weights."""
    counted = np.ones(target.shape, bool) if ignore_index is None else target != ignore_index
    if np.any(counted & ((target < 0) | (target >= like.shape[1]))):
        raise ValueError(f"{name}: target must be in [0, {like.shape[1]})")
    numbers = np.arange(like.shape[1]).reshape(-1, *(1,) * (like.ndim - 2))
    hot = ((target[:, np.newaxis] == numbers) & counted[:, np.newaxis]).astype(like.dtype)
    return hot, weight[target[counted]].sum()


def nll(log_p, target, weight=None, ignore_index=-100):
    """Negative log likelihood L = -Σ w_g log p_g / Σ w_g over the images (or pixels) of classes g; dL/dlog p_g =
    -w_g / Σ w_g.

    log_p: (N, K) or (N, K, H, W). target: integers (N,) or (N, H, W). weight: (K,) or None. Returns loss (a float) and
    its gradient, shaped as log_p.
    """
    weight = np.ones(log_p.shape[1], log_p.dtype) if weight is None else weight
    hot, total = _one_hot("nll", target, log_p, weight, ignore_index)
    gradient = -hot * weight.reshape(-1, *(1,) * (log_p.ndim - 2)) / (total or math.inf)
    return float((gradient * log_p).sum()) if total else math.nan, gradient


def l1(x, target):
    """Mean of |d|, d = x - target; its gradient is sign(d) / n. Returns loss (a float) and gradient."""
    d = x - target
    return float(np.abs(d).mean()), np.sign(d) / d.size


def huber(x, target, delta=1.0):
    """Mean of d²/2 where |d| < δ, else δ (|d| - δ/2), d = x - target (Huber 1964); its gradient is d,
    limited to ±δ, over n. Returns loss (a float) and gradient."""
    d = x - target
    loss = np.where(np.abs(d) < delta, d * d / 2, delta * (np.abs(d) - delta / 2))
    return float(loss.mean()), np.clip(d, -delta, delta) / d.size


def smooth_l1(x, target, beta=1.0):
    """`huber` with δ = β, divided by β (Girshick 2015); for β = 0 it is `l1`."""
    if beta == 0:
        return l1(x, target)
    loss, gradient = huber(x, target, beta)
    return loss / beta, gradient / beta


def bce_with_logits(x, target, weight=1.0, pos_weight=1.0):
    """Mean of -w (p t log s + (1 - t) log(1 - s)), s = sigmoid(x), t = target, p = pos_weight; the gradient by
    x is w ((1 - t) s - p t (1 - s)) / n.

    weight, pos_weight: numbers or arrays that are broadcast. Returns loss (a float) and gradient.
    """
    s = sigmoid(x)
    loss = weight * ((1 - target) * np.logaddexp(0, x) + pos_weight * target * np.logaddexp(0, -x))
    gradient = weight * ((1 - target) * s - pos_weight * target * (1 - s))
    return float(loss.mean()), gradient / x.size


def bce(p, target, weight=1.0):
    """Mean of -w (t log p + (1 - t) log(1 - p)), t = target, logarithms at least -100; the gradient by p is
    w (p - t) / (p (1 - p)) / n, where both are not 0. weight: a number or an array that is broadcast. Returns loss (a
    float) and gradient."""
    with np.errstate(divide="ignore"):
        log_p, log_q = np.maximum(np.log(p), -100), np.maximum(np.log(1 - p), -100)
    loss = -weight * (target * log_p + (1 - target) * log_q)
    return float(loss.mean()), weight * (p - target) / (p * (1 - p)) / p.size


def kl_div(log_p, target, log_target=False):
    """Mean of t (log t - log p), 0 where t is 0, t = target (or its logarithm, with log_target); its gradient by log p
    is -t / n. Returns loss (a float) and gradient."""
    t = np.exp(target) if log_target else target
    there = t > 0
    loss = np.where(there, t * (np.log(np.where(there, t, 1)) - log_p), 0)
    return float(loss.mean()), -t / t.size


def mse(x, target, image_weight=None):
    """Mean squared error L = 1/n Σ (x - t)² over all n elements, t = target; dL/dx = 2/n (x - t).

    With a weight w of each image it is the mean with these weights, and dL/dx = 2 w (x - t) / Σ w over all elements,
    0 where all w are 0. x, target: the same shape. image_weight: (N,) or None. Returns loss (a float) and
    dx, shaped as x.
    """
    difference = x - target
    if image_weight is not None:
        shares = image_weight.reshape(-1, *(1,) * (difference.ndim - 1)) / ((image_weight.sum() or math.inf)
                                                                           * (difference.size // len(difference)))
        loss = float((shares * difference * difference).sum()) if image_weight.any() else math.nan
        return loss, 2 * shares * difference
    return float(np.mean(difference * difference)), 2 / difference.size * difference
