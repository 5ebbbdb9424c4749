"""Losses of margins, embeddings and distributions: of values and of arrays, as PyTorch has them.

Each is one number per element, or per image, then reduced: "none", "mean" or "sum"; of values those of each image,
(N,), of arrays of all, a float.
"""
from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from cnn import shapes
from cnn.functional.activations import FAR, logsigmoid
from cnn.functional.common import computed
from cnn.functional.criteria import _alike, _per_class, _reduced, one_hot, reduction_of
from cnn.graph import Value, build

if TYPE_CHECKING:
    from collections.abc import Callable

    from cnn.functional.common import Images
    from cnn.functional.criteria import Weight

TINY = 1e-12        # below the root of a length, as in PyTorch


def _loss(name: str, elements: Callable[..., Value], operands: dict[str, Any], reduction: str, *key: Any) -> Any:
    """The losses of elements or images, reduced."""
    reduction, (first, *rest) = reduction_of(name, reduction), operands
    operands = {first: operands[first]} | {what: x.astype(operands[first].dtype) if isinstance(
        x, np.ndarray) and x.dtype.kind in "iub" and isinstance(operands[first], np.ndarray) else x
        for what, x in operands.items() if what in rest}
    y = computed(name, lambda *values: _reduced(elements(*values), reduction), operands, (reduction, *key))
    if isinstance(y, Value) or reduction == "none":
        return y
    with np.errstate(all="ignore"):
        return float(y.sum(dtype=np.float64) if reduction == "sum" else np.divide(y.sum(dtype=np.float64), y.size))


def margin_ranking_loss(input1: Images, input2: Images, target: Images, margin: float = 0.0, *,
                        reduction: str = "mean") -> Any:
    """max(-target (input1 - input2) + margin, 0), target being 1 where input1 shall be larger, else -1. All: values, or
    arrays, of one shape; margin: a number; reduction: "none", "mean" or "sum"."""
    name, margin = "margin_ranking_loss", shapes.number("margin_ranking_loss", "margin", margin)
    return _loss(name, lambda a, b, t: build.relu(margin - _alike(name, t, a) * (_alike(name, a, b) - b)),
                 {"input1": input1, "input2": input2, "target": target}, reduction, margin)


def hinge_embedding_loss(x: Images, target: Images, margin: float = 1.0, *, reduction: str = "mean") -> Any:
    """x where target is 1, max(margin - x, 0) where it is -1. x, target: values, or arrays, of one shape; margin: a
    number; reduction: "none", "mean" or "sum"."""
    name, margin = "hinge_embedding_loss", shapes.number("hinge_embedding_loss", "margin", margin)

    def elements(x: Value, t: Value) -> Value:
        return build.where(t == -1.0, 0.0, _alike(name, x, t)) + build.where(t == 1.0, 0.0, build.relu(margin - x))
    return _loss(name, elements, {"x": x, "target": target}, reduction, margin)


def cosine_embedding_loss(input1: Images, input2: Images, target: Images, margin: float = 0.0, *,
                          reduction: str = "mean") -> Any:
    """1 - c where target is 1, max(c - margin, 0) where it is -1, c being the cosine of the angle between two
    vectors. input1, input2: values, or arrays, (N, features); target: (N,); margin: a number from -1 to 1;
    reduction: "none", "mean" or "sum"."""
    name, margin = "cosine_embedding_loss", shapes.number("cosine_embedding_loss", "margin", margin, -1, 1)

    def elements(a: Value, b: Value, t: Value) -> Value:
        if len(a.image) != 1 or t.image:
            raise ValueError(f"{name}: input1 must have shape (N, features) and target (N,), got "
                             f"{shapes.batch(a.image)} and {shapes.batch(t.image)}")
        def total(x: Value) -> Value:
            return build.reduced("sum", x, 1, False)
        lengths = (total(a * a) + TINY) * (total(b * b) + TINY)
        c = total(_alike(name, a, b) * b) / lengths.sqrt()
        return build.where(t == 1.0, 1 - c, 0.0) + build.where(t == -1.0, build.relu(c - margin), 0.0)
    return _loss(name, elements, {"input1": input1, "input2": input2, "target": target}, reduction, margin)


def soft_margin_loss(x: Images, target: Images, *, reduction: str = "mean") -> Any:
    """log(1 + e^(-target x)), without overflow, target being 1 or -1. x, target: values, or arrays, of one shape;
    reduction: "none", "mean" or "sum"."""
    return _loss("soft_margin_loss", lambda x, t: build.mapped(
        "softplus", -_alike("soft_margin_loss", x, t) * t, beta=1.0, threshold=FAR), {"x": x, "target": target},
        reduction)


def multilabel_soft_margin_loss(x: Images, target: Images, weight: Weight = None, *, reduction: str = "mean") -> Any:
    """The mean over the classes of -(t log s + (1 - t) log(1 - s)), s = sigmoid(x), t = target. x, target: values, or
    arrays, (N, K); weight: (K,) or None; reduction: "none", "mean" or "sum"."""
    name = "multilabel_soft_margin_loss"

    def elements(x: Value, t: Value) -> Value:
        y = -(t * logsigmoid(_alike(name, x, t)) + (1 - t) * logsigmoid(-x))
        y = y if weight is None else y * _per_class(name, weight, x)
        return build.reduced("mean", y, 1, False)
    return _loss(name, elements, {"x": x, "target": target}, reduction, *_bytes(weight))


def multi_margin_loss(x: Images, target: Images, p: int = 1, margin: float = 1.0, weight: Weight = None, *,
                      reduction: str = "mean") -> Any:
    """The mean over the classes i of w_g max(margin - x_g + x_i, 0)^p, without the target's class g itself. x: values,
    or arrays, (N, K); target: numbers of classes, (N,), as floats; p: 1 or 2; margin: a number; weight (w): (K,) or
    None; reduction: "none", "mean" or "sum"."""
    name, p, margin = "multi_margin_loss", shapes.integer("multi_margin_loss", "p", p, 1, 2), shapes.number(
        "multi_margin_loss", "margin", margin)

    def elements(x: Value, t: Value) -> Value:
        hot = one_hot(t, x.image[0])
        own = build.reduced("sum", x * hot, 1, True)
        far = build.relu(margin - own + x) * (1 - hot)
        y = far * far if p == 2 else far
        if weight is not None:
            y = y * build.reduced("sum", hot * _per_class(name, weight, x), 1, True)
        return build.reduced("mean", y, 1, False)
    return _loss(name, elements, {"x": x, "target": target}, reduction, p, margin, *_bytes(weight))


def poisson_nll_loss(x: Images, target: Images, log_input: bool = True, full: bool = False, *, eps: float = 1e-8,
                     reduction: str = "mean") -> Any:
    """e^x - target x, or without log_input x - target log(x + eps): the negative logarithm of a Poisson distribution.
    x, target: values, or arrays, of one shape; full: with Stirling's approximation of log target!, of targets above 1;
    eps: a number above 0; reduction: "none", "mean" or "sum"."""
    name = "poisson_nll_loss"
    logs, full, eps = (shapes.flag(name, "log_input", log_input), shapes.flag(name, "full", full),
                       shapes.number(name, "eps", eps, above=0))

    def elements(x: Value, t: Value) -> Value:
        y = _alike(name, x, t).exp() - t * x if logs else _alike(name, x, t) - t * (x + eps).log()
        if not full:
            return y
        some = build.where(t > 1.0, t, 1.0)
        return y + build.where(t > 1.0, some * some.log() - some + 0.5 * (2 * math.pi * some).log(), 0.0)
    return _loss(name, elements, {"x": x, "target": target}, reduction, logs, full, eps)


def gaussian_nll_loss(x: Images, target: Images, var: Images, full: bool = False, eps: float = 1e-6,
                      reduction: str = "mean") -> Any:
    """(log v + (x - target)^2 / v) / 2, v = max(var, eps): the negative logarithm of a normal distribution (Nix &
    Weigend 1994). x, target: values, or arrays, of one shape; var: of the same, or with a last axis of size 1; full:
    with its constant, log(2 pi) / 2; eps: a number above 0, to which the gradient is blind; reduction: "none",
    "mean" or "sum"."""
    name = "gaussian_nll_loss"
    full, eps = shapes.flag(name, "full", full), shapes.number(name, "eps", eps, above=0)

    def elements(x: Value, t: Value, var: Value) -> Value:
        if var.image not in (x.image, (*x.image[:-1], 1)):
            raise ValueError(f"{name}: var must have the shape of x, {shapes.batch(x.image)}, or 1 as its last size, "
                             f"got {shapes.batch(var.image)}")
        v = var + (build.clamp(var, low=eps) - var).detach()
        d = _alike(name, x, t) - t
        return 0.5 * (v.log() + d * d / v) + (0.5 * math.log(2 * math.pi) if full else 0.0)
    return _loss(name, elements, {"x": x, "target": target, "var": var}, reduction, full, eps)


def _bytes(weight: Any) -> tuple:
    """What a program with this array as a constant is looked up by."""
    return () if weight is None or not isinstance(weight, np.ndarray) else (weight.shape, weight.tobytes())
