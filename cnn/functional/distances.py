"""Distances and similarities of vectors, and the loss of triplets, as functions of values and of arrays."""
from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cnn import shapes
from cnn.functional.common import computed
from cnn.functional.criteria import reduction_of
from cnn.graph import build, means
from cnn.graph.value import Value

if TYPE_CHECKING:
    from cnn.functional.common import Images


def pairwise_distance(x1: Images, x2: Images, p: float = 2.0, eps: float = 1e-6, keepdim: bool = False) -> Images:
    """(sum of |x1 - x2 + eps|^p)^(1/p) over the last axis. x1, x2: values or arrays, (N, features), say, whose shapes
    are broadcast; p: a number above 0; eps: a number; keepdim: whether the axis stays, with size 1."""
    p, eps = shapes.number("pairwise_distance", "p", p, above=0), shapes.number("pairwise_distance", "eps", eps)
    kept = shapes.flag("pairwise_distance", "keepdim", keepdim)
    return computed("pairwise_distance", lambda x1, x2: _distance(x1, x2, p, eps, kept), {"x1": x1, "x2": x2},
                    (p, eps, kept))


def cosine_similarity(x1: Images, x2: Images, dim: int = 1, eps: float = 1e-8) -> Images:
    """x1 x2 / (max(|x1|, eps) max(|x2|, eps)) over an axis, with Euclidean lengths. x1, x2: values or arrays,
    (N, features), say, whose shapes are broadcast; dim: the axis, 1 and up or negative, which is left out; eps: a
    number above 0."""
    dim = shapes.integer("cosine_similarity", "dim", dim, -2**31)
    eps = shapes.number("cosine_similarity", "eps", eps, above=0)

    def of_values(x1: Value, x2: Value) -> Value:
        def length(x: Value) -> Value:
            return build.clamp(build.reduced("sum", x * x, dim, False, "cosine_similarity"), low=eps**2).sqrt()
        return build.reduced("sum", x1 * x2, dim, False, "cosine_similarity") / (length(x1) * length(x2))
    return computed("cosine_similarity", of_values, {"x1": x1, "x2": x2}, (dim, eps))


def triplet_margin_loss(anchor: Images, positive: Images, negative: Images, margin: float = 1.0, p: float = 2.0,
                        eps: float = 1e-6, swap: bool = False, *, reduction: str = "mean") -> Any:
    """max(d(anchor, positive) - d(anchor, negative) + margin, 0), d being `pairwise_distance` with p and eps. Schroff
    et al. 2015.

    anchor, positive, negative: values or arrays, (N, features), say; margin: a number above 0; swap: whether the
    negative is as far as the nearer of anchor and positive. reduction: "none", "mean" or "sum"; of values those of each
    image, (N,), of arrays of all, a float.
    """
    name = "triplet_margin_loss"
    margin, p = shapes.number(name, "margin", margin, above=0), shapes.number(name, "p", p, above=0)
    eps, swap, reduction = shapes.number(name, "eps", eps), shapes.flag(name, "swap", swap), reduction_of(
        name, reduction)

    def of_values(anchor: Value, positive: Value, negative: Value) -> Value:
        far = _distance(anchor, negative, p, eps)
        if swap:
            far = build.extreme("minimum", far, _distance(positive, negative, p, eps))
        y = build.relu(_distance(anchor, positive, p, eps) - far + margin)
        return y if reduction == "none" else means.noted(reduction, None, build.reduced(reduction, y, None, False))
    y = computed(name, of_values, {"anchor": anchor, "positive": positive, "negative": negative},
                 (margin, p, eps, swap, reduction))
    if isinstance(y, Value) or reduction == "none":
        return y
    return float(y.sum() if reduction == "sum" else y.mean())


def _distance(a: Value, b: Value, p: float, eps: float, keepdim: bool = False) -> Value:
    """The distance of values over their last axis."""
    d = a - b + eps
    total = build.reduced("sum", d * d if p == 2 else d.abs() if p == 1 else d.abs() ** p, -1, keepdim,
                          "pairwise_distance")
    return total if p == 1 else total.sqrt() if p == 2 else total ** (1 / p)
