"""Losses of margins, embeddings and distributions: of scores and targets, and of three values."""
from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from cnn import functional, shapes
from cnn.functional.criteria import reduction_of
from cnn.functional.loss import class_weights
from cnn.functional.loss import targets as class_numbers
from cnn.layers.of_elements import OfElements

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cnn.functional.common import Images
    from cnn.graph import Value


class SoftMarginLoss(OfElements):
    """log(1 + e^(-t x)) of scores x and targets t, 1 or -1, arrays of one shape. reduction: "mean", "sum" or "none".
    Raises TypeError or ValueError for arguments that do not fit."""

    def forward(self, scores: Value, target: Value) -> Value:
        """One loss per image, or element, of values."""
        return functional.soft_margin_loss(scores, target, reduction=self.reduction)


class HingeEmbeddingLoss(OfElements):
    """x where the target is 1, max(margin - x, 0) where it is -1, arrays of one shape. margin: a number. reduction:
    "mean", "sum" or "none". Raises TypeError or ValueError for arguments that do not fit."""

    def __init__(self, margin: float = 1.0, *, reduction: str = "mean") -> None:
        self.margin = shapes.number("HingeEmbeddingLoss", "margin", margin)
        super().__init__(reduction=reduction)

    def forward(self, scores: Value, target: Value) -> Value:
        """One loss per image, or element, of values."""
        return functional.hinge_embedding_loss(scores, target, self.margin, reduction=self.reduction)


class PoissonNLLLoss(OfElements):
    """e^x - t x, or without log_input x - t log(x + eps), of scores x and counts t, arrays of one shape. full: whether
    Stirling's approximation of log t! is added, for t above 1; eps: a number above 0. reduction: "mean", "sum" or
    "none". Raises TypeError or ValueError for arguments that do not fit."""

    def __init__(self, log_input: bool = True, full: bool = False, *, eps: float = 1e-8,
                 reduction: str = "mean") -> None:
        self.log_input, self.full = (shapes.flag("PoissonNLLLoss", what, flag) for what, flag in (
            ("log_input", log_input), ("full", full)))
        self.eps = shapes.number("PoissonNLLLoss", "eps", eps, above=0)
        super().__init__(reduction=reduction)

    def forward(self, scores: Value, target: Value) -> Value:
        """One loss per image, or element, of values."""
        return functional.poisson_nll_loss(scores, target, self.log_input, self.full, eps=self.eps,
                                           reduction=self.reduction)


class MultiLabelSoftMarginLoss(OfElements):
    """The mean over the classes of -(t log s + (1 - t) log(1 - s)), s = sigmoid(x), of scores x and targets t, (N, K).
    weight: (K,) or None. reduction: "mean", "sum" or "none". Raises TypeError or ValueError for arguments that do not
    fit."""

    def __init__(self, weight: Sequence[float] | np.ndarray | None = None, *, reduction: str = "mean") -> None:
        class_weights("MultiLabelSoftMarginLoss", weight)
        self.weight = weight
        super().__init__(reduction=reduction)

    def forward(self, scores: Value, target: Value) -> Value:
        """One loss per image of values."""
        return functional.multilabel_soft_margin_loss(scores, target, _weights(self, scores), reduction=self.reduction)


class MultiMarginLoss(OfElements):
    """The mean over the classes i of w_g max(margin - x_g + x_i, 0)^p, without the target's class g itself, of scores
    (N, K) and targets (N,), integers from 0 to K - 1. p: 1 or 2; weight (w): (K,) or None. reduction: "mean", "sum" or
    "none". Raises TypeError or ValueError for arguments that do not fit."""

    def __init__(self, p: int = 1, margin: float = 1.0, weight: Sequence[float] | np.ndarray | None = None, *,
                 reduction: str = "mean") -> None:
        self.p, self.margin = shapes.integer("MultiMarginLoss", "p", p, 1, 2), shapes.number(
            "MultiMarginLoss", "margin", margin)
        class_weights("MultiMarginLoss", weight)
        self.weight = weight
        super().__init__(reduction=reduction)

    def _is_one(self, scores: np.ndarray, target: np.ndarray) -> bool:
        return scores.ndim == 1 and target.ndim == 0

    def checked(self, targets: np.ndarray, image: tuple[int, ...]) -> np.ndarray:
        """Numbers of classes, int64 (n,)."""
        if len(image) != 1 or targets.ndim != 1:
            raise ValueError(f"MultiMarginLoss: scores must have shape (N, K) and target (N,), got "
                             f"{shapes.batch(image)} and {targets.shape}")
        return class_numbers("MultiMarginLoss", targets, len(targets), image[0])

    def forward(self, scores: Value, target: Value) -> Value:
        """One loss per image of values."""
        return functional.multi_margin_loss(scores, target, self.p, self.margin, _weights(self, scores),
                                            reduction=self.reduction)


def _weights(loss: Any, scores: Value) -> np.ndarray | None:
    kept = class_weights(type(loss).__name__, loss.weight, scores.image[0] if scores.image else 0)
    return None if kept is None else kept.astype(scores.dtype)


class _OfThree:
    """A loss of three values, inside a network or another loss, or of three arrays; of these it returns a float."""

    def __init__(self, reduction: str) -> None:
        self.reduction = reduction_of(type(self).__name__, reduction)


class TripletMarginLoss(_OfThree):
    """max(d(anchor, positive) - d(anchor, negative) + margin, 0), d being the p-norm of the difference + eps. margin,
    p: numbers above 0; eps: a number; swap: whether the negative is as far as the nearer of anchor and positive.
    reduction: "mean", "sum" or "none". Raises TypeError or ValueError for arguments that do not fit."""

    def __init__(self, margin: float = 1.0, p: float = 2.0, eps: float = 1e-6, swap: bool = False, *,
                 reduction: str = "mean") -> None:
        super().__init__(reduction)
        name = "TripletMarginLoss"
        self.margin, self.p = shapes.number(name, "margin", margin, above=0), shapes.number(name, "p", p, above=0)
        self.eps, self.swap = shapes.number(name, "eps", eps), shapes.flag(name, "swap", swap)

    def __call__(self, anchor: Images, positive: Images, negative: Images) -> Any:
        return functional.triplet_margin_loss(anchor, positive, negative, self.margin, self.p, self.eps, self.swap,
                                              reduction=self.reduction)


class MarginRankingLoss(_OfThree):
    """max(-target (input1 - input2) + margin, 0), target being 1 or -1. margin: a number. reduction: "mean", "sum" or
    "none". Raises TypeError or ValueError for arguments that do not fit."""

    def __init__(self, margin: float = 0.0, *, reduction: str = "mean") -> None:
        super().__init__(reduction)
        self.margin = shapes.number("MarginRankingLoss", "margin", margin)

    def __call__(self, input1: Images, input2: Images, target: Images) -> Any:
        return functional.margin_ranking_loss(input1, input2, target, self.margin, reduction=self.reduction)


class CosineEmbeddingLoss(_OfThree):
    """1 - c where target is 1, max(c - margin, 0) where it is -1, c being the cosine of the angle between two vectors,
    (N, features). margin: a number from -1 to 1. reduction: "mean", "sum" or "none". Raises TypeError or ValueError for
    arguments that do not fit."""

    def __init__(self, margin: float = 0.0, *, reduction: str = "mean") -> None:
        super().__init__(reduction)
        self.margin = shapes.number("CosineEmbeddingLoss", "margin", margin, -1, 1)

    def __call__(self, input1: Images, input2: Images, target: Images) -> Any:
        return functional.cosine_embedding_loss(input1, input2, target, self.margin, reduction=self.reduction)


class GaussianNLLLoss(_OfThree):
    """(log v + (x - target)^2 / v) / 2, v = max(var, eps). full: whether its constant, log(2 pi) / 2, is added; eps: a
    number above 0. reduction: "mean", "sum" or "none". Raises TypeError or ValueError for arguments that do not fit."""

    def __init__(self, *, full: bool = False, eps: float = 1e-6, reduction: str = "mean") -> None:
        super().__init__(reduction)
        self.full = shapes.flag("GaussianNLLLoss", "full", full)
        self.eps = shapes.number("GaussianNLLLoss", "eps", eps, above=0)

    def __call__(self, x: Images, target: Images, var: Images) -> Any:
        return functional.gaussian_nll_loss(x, target, var, self.full, self.eps, self.reduction)
