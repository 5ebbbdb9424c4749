"""How well a classifier does: confusion matrix, accuracy, precision, recall, F1, IoU, top-k, average precision.

A figure of a single class that is 0/0 is NaN. The means over the classes count it as 0, as scikit-learn does.
"""
from __future__ import annotations

import math
import warnings
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from cnn import shapes
from cnn.layers.per_output import pack, taken_apart

if TYPE_CHECKING:
    from collections.abc import Callable


def confusion_matrix(targets: np.ndarray, predictions: np.ndarray, num_classes: int | None = None) -> np.ndarray:
    """How many images of class i (row) were taken for class j (column): int64 (K, K).

    targets, predictions: integers (N,) in [0, K); N may be 0. num_classes: K; default the largest of both + 1.
    Raises TypeError or ValueError for anything else.
    """
    owner = "confusion_matrix"
    targets, predictions = _labels(owner, "targets", targets), _labels(owner, "predictions", predictions)
    if len(targets) != len(predictions):
        raise ValueError(f"{owner}: predictions must have shape ({len(targets)},), one for each target, got "
                         f"({len(predictions)},)")
    highest = max(targets.max(initial=-1), predictions.max(initial=-1))
    k = int(highest) + 1 if num_classes is None else shapes.integer(owner, "num_classes", num_classes, 1)
    for name, values in (("targets", targets), ("predictions", predictions)):
        if len(values) and not 0 <= values.min() <= values.max() < k:
            wrong = values.min() if values.min() < 0 else values.max()
            raise ValueError(f"{owner}: {name} must lie in [0, {k}), got {wrong}")
    shapes.element_count(owner, k, k)
    return np.bincount(targets * k + predictions, minlength=k * k).reshape(k, k)


def accuracy(matrix: np.ndarray) -> float:
    """Share of the images that lie on the diagonal of a confusion matrix (K, K), a float; NaN without images."""
    matrix = _matrix("accuracy", matrix)
    return float(_ratio(np.trace(matrix), matrix.sum()))


class UndefinedMetricWarning(UserWarning):
    """A figure of some classes is 0/0, and counts as 0 in a mean over the classes."""


def accuracy_interval(right: int, total: int, confidence: float = 0.95) -> tuple[float, float]:
    """The lowest and highest accuracy, floats, that fit `right` of `total` images being right; NaN without images.

    right: int from 0 to total. total: int. confidence: share of such intervals that hold the true accuracy, between 0
    and 1. Wilson's score interval: the accuracies p with |right / total - p| <= z sqrt(p (1 - p) / total), where z is
    the quantile of the normal distribution (Wilson 1927, "Probable inference, the law of succession, and statistical
    inference"). Raises TypeError or ValueError for anything else.
    """
    owner = "accuracy_interval"
    total = shapes.integer(owner, "total", total)
    right = shapes.integer(owner, "right", right, 0, total)
    confidence = shapes.number(owner, "confidence", confidence, above=0, below=1)
    if not total:
        return float("nan"), float("nan")
    from statistics import NormalDist  # here, to keep "import cnn" fast
    z2 = NormalDist().inv_cdf(0.5 + confidence / 2) ** 2
    share = right / total
    middle = share + z2 / (2 * total)
    reach = (z2 * (share * (1 - share) / total + z2 / (4 * total**2))) ** 0.5
    low, high = (middle - reach) / (1 + z2 / total), (middle + reach) / (1 + z2 / total)
    return max(0.0, low), min(1.0, high)


class PerClass(NamedTuple):
    """Figures of each class, arrays (K,): `support` (int64) is the number of its images, the others are float64.

    precision: of the images predicted as the class, the share that are of it; NaN where none was predicted.
    recall: of the images of the class, the share predicted as it; NaN where there are none.
    f1: 2 TP / (2 TP + FP + FN), their harmonic mean; NaN where the class neither occurs nor was predicted.
    """

    precision: np.ndarray
    recall: np.ndarray
    f1: np.ndarray
    support: np.ndarray

    def macro(self, zero_division: float | str = "warn") -> dict[str, float]:
        """Plain means over the classes that occur or were predicted: {"precision", "recall", "f1"}, floats.

        zero_division: what a figure that is 0/0 counts as: 0, 1, or NaN, which leaves it out of the mean; "warn", the
        default, is 0 with an UndefinedMetricWarning that names the classes by number. A class that neither occurs nor
        was predicted never counts. NaN where no class is left. The same as scikit-learn's average="macro", with its
        zero_division and its default labels. Raises ValueError for another zero_division.
        """
        value = _zero_division("macro", zero_division)
        result = {}
        for name in ("precision", "recall", "f1"):
            figures = getattr(self, name)[~np.isnan(self.f1)]
            undefined = np.isnan(figures)
            result[name] = _mean(np.where(undefined, value, figures))
            if undefined.any() and zero_division == "warn":
                numbers = ", ".join(map(str, np.flatnonzero(np.isnan(getattr(self, name)) & ~np.isnan(self.f1))))
                why = "never predicted" if name == "precision" else "no images"
                warnings.warn(f"macro: {name} is 0/0 and counts as 0 for class {numbers} ({why})",
                              UndefinedMetricWarning, stacklevel=2)
        return result

    def never_predicted(self) -> np.ndarray:
        """Numbers of the classes that have images but were predicted for none: int64, ascending."""
        return np.flatnonzero(np.isnan(self.precision) & (self.support > 0))


def per_class(matrix: np.ndarray) -> PerClass:
    """Precision, recall, F1 and support of each class, from a confusion matrix (K, K); see PerClass."""
    matrix = _matrix("per_class", matrix)
    right, named, support = np.diag(matrix), matrix.sum(axis=0), matrix.sum(axis=1)
    return PerClass(_ratio(right, named), _ratio(right, support), _ratio(2 * right, named + support), support)


def iou(matrix: np.ndarray) -> np.ndarray:
    """Intersection over union of each class, TP / (TP + FP + FN), float64 (K,): of pixels, how well segmentation does.

    matrix: integers (K, K), as confusion_matrix counts pixels. NaN where a class neither occurs nor was predicted.
    Raises TypeError or ValueError for anything else.
    """
    matrix = _matrix("iou", matrix)
    right = np.diag(matrix)
    return _ratio(right, matrix.sum(axis=0) + matrix.sum(axis=1) - right)


def average_precision(scores: np.ndarray, targets: np.ndarray, positives: int | None = None) -> np.ndarray | float:
    """Average precision, the area below the steps of precision over recall: a float, or float64 (K,).

    scores: float (N,), or (N, K) for K classes that are there or not, independently. targets: of the same shape, 1
    (or True) where the class is there, else 0. positives: how many there are to be found, where some have no score,
    such as objects that a detector missed; at least as many as `targets` hold; default that number.

    AP = sum over thresholds n of (R_n - R_{n-1}) P_n, where precision P_n and recall R_n count the scores of at least
    the n-th largest value as found; equal scores are found together. The same as scikit-learn's
    average_precision_score. NaN where nothing is to be found. Its mean over the classes is known as mAP.
    Raises TypeError or ValueError for anything else, such as a score that is NaN.
    """
    owner = "average_precision"
    scores, targets = np.asarray(scores), np.asarray(targets)
    if scores.dtype.kind != "f":
        raise TypeError(f"{owner}: scores must be floats, got {scores.dtype}")
    if scores.ndim not in (1, 2) or targets.shape != scores.shape:
        raise ValueError(f"{owner}: scores and targets must both have shape (N,) or (N, K), got {scores.shape} and "
                         f"{targets.shape}")
    if np.isnan(scores).any():
        raise ValueError(f"{owner}: scores must be numbers, got NaN")
    if targets.dtype.kind not in "biuf" or not np.isin(targets, (0, 1)).all():
        raise ValueError(f"{owner}: targets must be 0 or 1")
    if scores.ndim == 2:
        if positives is not None:
            raise ValueError(f"{owner}: positives must be None for scores (N, K), got {positives!r}")
        return np.array([average_precision(*column) for column in zip(scores.T, targets.T, strict=True)], np.float64)
    there = int(targets.sum())
    positives = there if positives is None else shapes.integer(owner, "positives", positives, there)
    if not positives:
        return float("nan")
    order = np.argsort(-scores, kind="stable")
    last = np.append(np.diff(scores[order]) != 0, True)[:len(order)]    # of each run of equal scores
    found = np.cumsum(targets[order], dtype=np.float64)[last]
    precision = found / (np.flatnonzero(last) + 1)
    return float(np.sum(np.diff(found, prepend=0.0) * precision) / positives)


def top_k_accuracy(scores: np.ndarray, targets: np.ndarray, k: int = 5) -> float:
    """Share of the images whose class is among the k with the largest scores (float); NaN without images.

    scores: float (N, K); targets: integers (N,) in [0, K); k: at least 1, and from K on the result is 1. Of
    equal scores the lower class comes first, as with argmax. An image with a NaN among its scores is wrong.
    Raises TypeError or ValueError for anything else.
    """
    owner = "top_k_accuracy"
    scores = shapes.array(owner, "scores", scores, ("N", "K"))
    targets = _labels(owner, "targets", targets)
    k = shapes.integer(owner, "k", k, 1)
    if len(targets) != len(scores):
        raise ValueError(f"{owner}: targets must have shape ({len(scores)},), got ({len(targets)},)")
    classes = scores.shape[1]
    if len(targets) and not 0 <= targets.min() <= targets.max() < classes:
        wrong = targets.min() if targets.min() < 0 else targets.max()
        raise ValueError(f"{owner}: targets must lie in [0, {classes}), got {wrong}")
    own = np.take_along_axis(scores, targets[:, None], axis=1)
    before = (scores > own) | ((scores == own) & (np.arange(classes) < targets[:, None]))
    right = (before.sum(axis=1) < k) & ~np.isnan(scores).any(axis=1)
    return float(right.mean()) if len(right) else float("nan")


def _labels(owner: str, name: str, value: np.ndarray) -> np.ndarray:
    value = np.asarray(value)
    if value.size == 0 and value.ndim == 1:
        return value.astype(np.int64)
    if value.dtype.kind not in "iu":
        raise TypeError(f"{owner}: {name} must be integers, got {value.dtype}")
    if value.ndim != 1:
        raise ValueError(f"{owner}: {name} must have shape (N,), got {value.shape}")
    return value.astype(np.int64)


def _matrix(owner: str, value: np.ndarray) -> np.ndarray:
    value = np.asarray(value)
    if value.dtype.kind not in "iu":
        raise TypeError(f"{owner}: matrix must hold integers, got {value.dtype}")
    if value.ndim != 2 or value.shape[0] != value.shape[1]:
        raise ValueError(f"{owner}: matrix must have shape (K, K), got {value.shape}")
    return value


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """part / whole in float64; 0/0 is NaN."""
    with np.errstate(invalid="ignore"):
        return np.true_divide(part, whole)


def _zero_division(owner: str, value: float | str) -> float:
    """What 0/0 counts as, a float."""
    if isinstance(value, str) and value == "warn":
        return 0.0
    if isinstance(value, (int, float)) and not isinstance(value, bool) and (value in (0, 1) or math.isnan(value)):
        return float(value)
    raise ValueError(f"{owner}: zero_division must be 0, 1, NaN or 'warn', got {value!r}")


def _mean(values: np.ndarray) -> float:
    values = values[~np.isnan(values)]
    return float(values.mean()) if len(values) else float("nan")


class OverAll:
    """A metric for `Trainer(metrics=...)` that needs all scores at once, such as the area under a curve.

    function: of scores (N, ...) and targets (N, ...), arrays of all images of the data set, that returns a number.
    They are all kept until then.

        >>> middle = cnn.metrics.OverAll(lambda scores, targets: np.median(np.abs(scores - targets)))
        >>> middle.update(np.array([[1.0], [2]]), np.array([[1.5], [4]]))
        >>> middle.update(np.array([[3.0]]), np.array([[2]]))
        >>> float(middle.compute())
        1.0

    Raises TypeError for what is no function, ValueError where there are no images.
    """

    def __init__(self, function: Callable[[np.ndarray, np.ndarray], float]) -> None:
        if not callable(function):
            raise TypeError(f"OverAll: function must be a function of scores and targets, got {shapes.shown(function)}")
        self.function = function
        self._parts: list[tuple[np.ndarray, np.ndarray]] = []

    def update(self, scores: np.ndarray, targets: np.ndarray) -> None:
        """Keep a portion: scores (n, ...) and targets (n, ...)."""
        structure, arrays = taken_apart(scores)
        self._parts.append((pack(structure, [array.copy() for array in arrays]), targets.copy()))

    def compute(self) -> float:
        """What the function returns for all portions; a float."""
        if not self._parts:
            raise ValueError("OverAll: there must be at least one image, got none")
        structure, _ = taken_apart(self._parts[0][0])
        scores = zip(*(taken_apart(scores)[1] for scores, _ in self._parts), strict=True)
        return self.function(pack(structure, [np.concatenate(arrays) for arrays in scores]),
                             np.concatenate([targets for _, targets in self._parts]))
