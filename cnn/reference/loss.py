"""Losses and their gradients."""

import math

import numpy as np

from cnn.reference.pointwise import log_softmax


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
