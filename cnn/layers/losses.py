"""Losses: a value to report and the gradient to start the backward pass from."""
from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from cnn import functional, shapes
from cnn.functional.criteria import (
    IGNORED,
    REDUCTIONS,
    broadcastable,
    cross_entropy_value,
    nll_elements,
    nll_value,
    reduction_of,
)
from cnn.functional.loss import class_weights, cross_entropy_arrays
from cnn.functional.loss import targets as class_numbers
from cnn.graph import Value
from cnn.graph.means import counted, weight_of
from cnn.layers.criterion import Criterion as Criterion
from cnn.layers.margins import CosineEmbeddingLoss as CosineEmbeddingLoss
from cnn.layers.margins import GaussianNLLLoss as GaussianNLLLoss
from cnn.layers.margins import HingeEmbeddingLoss as HingeEmbeddingLoss
from cnn.layers.margins import MarginRankingLoss as MarginRankingLoss
from cnn.layers.margins import MultiLabelSoftMarginLoss as MultiLabelSoftMarginLoss
from cnn.layers.margins import MultiMarginLoss as MultiMarginLoss
from cnn.layers.margins import PoissonNLLLoss as PoissonNLLLoss
from cnn.layers.margins import SoftMarginLoss as SoftMarginLoss
from cnn.layers.margins import TripletMarginLoss as TripletMarginLoss
from cnn.layers.module import Module
from cnn.layers.of_elements import OfElements
from cnn.layers.per_output import PerOutput as PerOutput
from cnn.ops import loss as ops

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cnn.engine.program import Program
    from cnn.engine.tensors import Slot, Table, Tensor
    from cnn.graph import Graph


class _OfClasses(Criterion):
    """A loss of targets that are numbers of classes, perhaps with weights; the mean divides by the sum of these."""

    several = False

    def __init__(self, weight: Any, ignore_index: int | None, reduction: str) -> None:
        owner = type(self).__name__
        class_weights(owner, weight)
        self.weight = weight
        self.ignore_index = ignore_index if ignore_index is None else shapes.integer(
            owner, "ignore_index", ignore_index, -2**31)
        self.reduction = reduction_of(owner, reduction)
        self._prepare()

    def _weights(self, classes: int, dtype: np.dtype | None = None) -> np.ndarray | None:
        kept = class_weights(type(self).__name__, self.weight, classes)
        return kept if kept is None or dtype is None else kept.astype(dtype)

    def _is_one(self, scores: np.ndarray, target: np.ndarray) -> bool:
        return scores.ndim == 1 and (
            target.ndim == 0 or self.soft and target.dtype.kind == "f" and target.shape == scores.shape)

    def divisor(self, targets: np.ndarray) -> float:
        """The sum of the weights of all targets that count."""
        if self.reduction == "sum":
            return 1.0
        if targets.dtype.kind == "f":       # distributions over the classes
            return float(targets.size // max(1, targets.shape[1]))
        return weight_of(targets, self.weight, self.ignore_index)

    def _fewer(self, targets: np.ndarray, image: tuple[int, ...]) -> str:
        """What to do about targets over other classes than the scores are of, as mixed ones are."""
        if not self.soft or targets.ndim < 2 or targets.shape[2:] != tuple(image[1:]):
            return ""
        return (f"; the data set's classes, or num_classes= of a MixUp or CutMix, must be the {image[0]} that the "
                f"scores are of")

    def checked(self, targets: np.ndarray, image: tuple[int, ...]) -> np.ndarray:
        """Numbers of classes, int64 (n, ...), or distributions over them as they are."""
        owner = type(self).__name__
        self._weights(image[0] if image else 0)
        if targets.dtype.kind == "f":
            if targets.shape[1:] != tuple(image) or not self.soft:
                raise (ValueError if self.soft and targets.ndim > 1 else TypeError)(
                    f"{owner}: target must be integers"
                    f"{f', or floats of shape (N, {self._sizes(image)})' * self.soft}, got {targets.dtype} "
                    f"{targets.shape}{self._fewer(targets, image)}")
            return targets
        if targets.shape[1:] != tuple(image[1:]) or not image:
            raise ValueError(f"{owner}: scores must have shape (N, K) and target (N,), or (N, K, ...) and (N, ...), "
                             f"got (N, {self._sizes(image)}) and {targets.shape}")
        found = counted(targets, self.ignore_index)
        class_numbers(owner, found.ravel().astype(np.int64), found.size, image[0])
        return targets.astype(np.int64)

    def _sizes(self, image: tuple[int, ...]) -> str:
        return ", ".join(map(str, image))


class CrossEntropyLoss(_OfClasses):
    """Softmax and log loss, the mean over the batch: L = -log softmax(z)[g] (docs/gradients.md).

    weight: (K,), the weight of each class's images in the mean. ignore_index: a target that does not count; None: all
    do. reduction: "mean", "sum", or "none" for each loss by itself. label_smoothing: a share of the target, from 0 to
    1, that is spread evenly over the K classes. All are defined as in PyTorch, but a batch in which all images have
    weight 0, or do not count, has the gradient 0.

        >>> loss = cnn.CrossEntropyLoss()
        >>> logits, targets = np.log([[1.0, 2, 5], [3, 3, 2]]), np.array([1, 0])    # (N, K) and integers (N,)
        >>> round(loss(logits, targets), 4)                     # the mean of log 4 and log(8/3)
        1.1836
        >>> (2 * loss.backward()).round(3).tolist()             # of N images: softmax, less 1 for the target
        [[0.125, -0.75, 0.625], [-0.625, 0.375, 0.25]]

    Scores (N, K, H, W) have targets (N, H, W), the class of each pixel, (N, K, L) have (N, L). Targets may be floats of
    the scores' shape, too: distributions over the classes. Scores (K,) are one image, whose target is an integer or a
    distribution (K,); `backward` then gives (K,), and reduction "none" an array (). `model.backward(loss.backward())`
    sets the gradients of a model. Attribute `total`: the sum of the weights of the targets of the last call, by which
    the sum of the losses was divided. Called inside a loss of one's own it is cnn.functional.cross_entropy of values.

    Raises TypeError or ValueError for arguments that do not fit.
    """

    soft = True

    def __init__(self, weight: Sequence[float] | np.ndarray | None = None, *, ignore_index: int | None = IGNORED,
                 reduction: str = "mean", label_smoothing: float = 0.0) -> None:
        self.label_smoothing = shapes.number("CrossEntropyLoss", "label_smoothing", label_smoothing, 0, 1)
        super().__init__(weight, ignore_index, reduction)

    def forward(self, scores: Value, target: Value) -> Value:
        """One loss per image (or, with reduction "none", per target) of values."""
        return cross_entropy_value(scores, target, self.label_smoothing, self._weights(scores.image[0], scores.dtype),
                                   self.ignore_index, "none" if self.reduction == "none" else "sum", checked=True)

    def of_values(self, scores: Value, target: Value) -> Value:
        """As NLLLoss's."""
        return cross_entropy_value(scores, target, self.label_smoothing, self._weights(scores.image[0], scores.dtype),
                                   self.ignore_index, self.reduction, "CrossEntropyLoss")

    def has_kernel(self, targets: Any) -> bool:
        """Whether there is a kernel for such targets, of scores (N, K)."""
        targets = np.asarray(targets)
        ignores = targets.dtype.kind in "iu" and self.ignore_index is not None and (targets == self.ignore_index).any()
        return targets.dtype.kind not in "fV" and self.reduction == "mean" and not ignores

    def _of_batch(self, scores: Any, targets: Any) -> Any:
        if np.ndim(scores) != 2 or isinstance(targets, dict) or not self.has_kernel(targets):
            return super()._of_batch(scores, targets)
        value, self._gradient = cross_entropy_arrays(scores, targets, self.weight, self.label_smoothing,
                                                     "CrossEntropyLoss", "scores")
        weight = self._weights(scores.shape[1])
        self.total = float(len(targets) if weight is None else weight[np.asarray(targets)].sum())
        return value

    def in_program(self, scores: tuple[int, ...], targets: np.ndarray, dtype: np.dtype, learns: bool) -> Graph | None:
        """As Criterion's, of images of scores and of targets (n, ...) of a program of this dtype, which learns or not.
        Raises ValueError for what does not fit."""
        if not scores:
            raise ValueError(f"CrossEntropyLoss: the model's output must have shape (N, K) or (N, K, ...), got "
                             f"{shapes.batch(scores)}")
        if np.ndim(targets) == 1 and len(scores) > 1 and np.asarray(targets).dtype.kind != "f":
            raise ValueError(f"CrossEntropyLoss: the model's output must have shape (N, K), got "
                             f"{shapes.batch(scores)}")
        if len(scores) == 1 and self.has_kernel(targets):
            return None
        return super().in_program(scores, targets, dtype, learns)

    def emit(self, program: Program, scores: Tensor, need_gradient: bool = True, chosen: Slot | None = None,
             graph: Graph | None = None, labels: bool = False, slot: str = "target") -> Any:
        """Add the loss to a program.

        scores: the tensor of the scores. need_gradient: whether there is to be a backward pass. chosen: a Slot for the
        numbers of the targets, or None. graph: what `in_program` returned; without one a `FusedCrossEntropy` is
        returned, for scores (N, K) and integers (N,). labels: whether to count which images are right. slot: of the
        targets, where there is a graph. Raises ValueError for scores that are no vectors.
        """
        if graph is not None:
            return super().emit(program, scores, need_gradient, chosen, graph, labels, slot)
        if not scores.flat:
            raise ValueError(f"CrossEntropyLoss: the model's output must have shape (N, K), got "
                             f"(N, {', '.join(map(str, scores.shape))})")
        weight = self._weights(scores.channels)
        total = program.per_step(1)
        dy, sums = ops.cross_entropy(program, scores, total, self.label_smoothing, weight, need_gradient, chosen)
        return FusedCrossEntropy(dy, sums, weight, total, scores.channels)


class NLLLoss(_OfClasses):
    """Negative log likelihood: L = -x[g], where x are logarithms of probabilities, as `LogSoftmax` gives them.

    Scores (N, K) have targets (N,), integers; (N, K, L) have (N, L), (N, K, H, W) have (N, H, W); (K,), one image, has
    an integer. weight: (K,), the weights of the classes in the mean. ignore_index: a target that does not count; None:
    all do. reduction: "mean", "sum" or "none". All as in PyTorch. Raises TypeError or ValueError for arguments that do
    not fit.
    """

    def __init__(self, weight: Sequence[float] | np.ndarray | None = None, *, ignore_index: int | None = IGNORED,
                 reduction: str = "mean") -> None:
        super().__init__(weight, ignore_index, reduction)

    def forward(self, scores: Value, target: Value) -> Value:
        """One loss per image (or, with reduction "none", per target) of values."""
        y, _ = nll_elements("NLLLoss", scores, target, self._weights(scores.image[0], scores.dtype), self.ignore_index)
        return y if self.reduction == "none" else y.sum()

    def of_values(self, scores: Value, target: Value) -> Value:
        """One loss per image, whose mean another loss takes, see cnn.functional.nll_loss."""
        return nll_value("NLLLoss", scores, target, self._weights(scores.image[0], scores.dtype), self.ignore_index,
                         self.reduction)


class L1Loss(OfElements):
    """|x - t| of scores x and targets t, arrays of one shape. reduction: "mean", "sum" or "none". Raises TypeError or
    ValueError for arguments that do not fit."""

    def forward(self, scores: Value, target: Value) -> Value:
        """One loss per image, or element, of values."""
        return functional.l1_loss(scores, target, reduction=self.reduction)


class SmoothL1Loss(OfElements):
    """d^2 / (2 beta) where |d| < beta, else |d| - beta / 2, with d = x - t, of scores x and targets t, arrays of one
    shape. Girshick 2015. reduction: "mean", "sum" or "none". Raises TypeError or ValueError for arguments that do not
    fit."""

    def __init__(self, *, reduction: str = "mean", beta: float = 1.0) -> None:
        self.beta = shapes.number("SmoothL1Loss", "beta", beta, 0)
        super().__init__(reduction=reduction)

    def forward(self, scores: Value, target: Value) -> Value:
        """One loss per image, or element, of values."""
        return functional.smooth_l1_loss(scores, target, reduction=self.reduction, beta=self.beta)


class HuberLoss(OfElements):
    """d^2 / 2 where |d| < delta, else delta (|d| - delta / 2), with d = x - t, of scores x and targets t, arrays of one
    shape. Huber 1964. reduction: "mean", "sum" or "none". Raises TypeError or ValueError for arguments that do not
    fit."""

    def __init__(self, reduction: str = "mean", delta: float = 1.0) -> None:
        self.delta = shapes.number("HuberLoss", "delta", delta, above=0)
        super().__init__(reduction=reduction)

    def forward(self, scores: Value, target: Value) -> Value:
        """One loss per image, or element, of values."""
        return functional.huber_loss(scores, target, self.reduction, self.delta)


class BCEWithLogitsLoss(OfElements):
    """Sigmoid and binary log loss -(p t log s + (1 - t) log(1 - s)), s = sigmoid(x), of scores x and targets t from 0
    to 1, arrays of one shape.

    weight, pos_weight (p): arrays that are broadcast to an image, or None: the weight of each element, and of the share
    of t. reduction: "mean", "sum" or "none". As in PyTorch. Raises TypeError or ValueError for arguments that do not
    fit.
    """

    def __init__(self, weight: np.ndarray | None = None, *, reduction: str = "mean",
                 pos_weight: np.ndarray | None = None) -> None:
        self.weight, self.pos_weight = (self._weight(what, w) for what, w in (
            ("weight", weight), ("pos_weight", pos_weight)))
        super().__init__(reduction=reduction)

    def _weight(self, what: str, value: Any) -> np.ndarray | None:
        array = None if value is None else np.asarray(value)
        if array is not None and array.dtype.kind not in "fiub":
            raise TypeError(f"{type(self).__name__}: {what} must be an array of numbers, got {value!r}")
        return array if array is None or array.ndim else array.reshape(1)

    def _is_one(self, scores: np.ndarray, target: np.ndarray) -> bool:
        weighted = self.weight is not None or self.pos_weight is not None   # of the elements of scores (K,), too
        return super()._is_one(scores, target) or weighted and scores.ndim == target.ndim == 1

    def checked(self, targets: np.ndarray, image: tuple[int, ...]) -> np.ndarray:
        """Targets of the scores' shape."""
        for what, weight in (("weight", self.weight), ("pos_weight", self.pos_weight)):
            broadcastable(type(self).__name__, what, weight, image)
        return super().checked(targets, image)

    def forward(self, scores: Value, target: Value) -> Value:
        """One loss per image, or element, of values."""
        return functional.binary_cross_entropy_with_logits(scores, target, self.weight, reduction=self.reduction,
                                                           pos_weight=self.pos_weight)


class BCELoss(BCEWithLogitsLoss):
    """Binary log loss -(t log p + (1 - t) log(1 - p)) of probabilities p and targets t, from 0 to 1, arrays of one
    shape; see cnn.functional.binary_cross_entropy. weight, reduction: as BCEWithLogitsLoss's."""

    def __init__(self, weight: np.ndarray | None = None, *, reduction: str = "mean") -> None:
        super().__init__(weight, reduction=reduction)

    def forward(self, scores: Value, target: Value) -> Value:
        """One loss per image, or element, of values."""
        return functional.binary_cross_entropy(scores, target, self.weight, reduction=self.reduction)


class KLDivLoss(OfElements):
    """Kullback-Leibler divergence t (log t - x) of scores x, logarithms of probabilities, and targets t, probabilities,
    or their logarithms with log_target; arrays of one shape.

    reduction: "mean" of all elements, "batchmean", the sum of each image, "sum" or "none". As in PyTorch. Raises
    TypeError or ValueError for arguments that do not fit.
    """

    def __init__(self, *, reduction: str = "mean", log_target: bool = False) -> None:
        self.log_target = shapes.flag("KLDivLoss", "log_target", log_target)
        self.reduction = reduction_of("KLDivLoss", reduction, (*REDUCTIONS, "batchmean"))
        self._prepare()

    def forward(self, scores: Value, target: Value) -> Value:
        """One loss per image, or element, of values."""
        return functional.kl_div(scores, target, reduction=self.reduction, log_target=self.log_target)


class FusedCrossEntropy:
    """A cross-entropy inside a program, whose slot `target` takes int64 numbers in [0, classes).

    dy: the tensor of the gradient, the only one of `gradients`. sums: the table of the losses and of how many images
    are right. classes: how many there are. weight: (classes,) float64, or None. total: float64 (steps, 1), the sum of
    the targets' weights in each step, to be set before a run.
    """

    def __init__(self, dy: Tensor, sums: Table, weight: np.ndarray | None, total: Table, classes: int) -> None:
        self.gradients: list[Tensor | None] = [dy]
        self.weight, self.classes, self.total, self._sums = weight, classes, total.array, sums.array

    def given(self, batch: Any) -> dict[str, np.ndarray]:
        """The targets of `batch`, a Batch, as slots take them; sets `total`. Raises TypeError or ValueError for targets
        that are no classes of the scores."""
        steps, count = batch.steps, batch.count
        if batch.dataset is not None and batch.dataset.num_classes > self.classes:
            raise ValueError(f"Trainer: the data set has {batch.dataset.num_classes} classes, but the model's output "
                             f"only {self.classes}")
        found = batch.labels
        if batch.dataset is None:
            found = class_numbers("Trainer", found, count, self.classes, "targets")
        elif not batch.dataset.classes:     # nobody has checked the labels
            self.blame(batch)
        self.total[:steps, 0] = count if self.weight is None else self.weight[batch.targets].sum(-1)
        return {"target": found}

    def blame(self, batch: Any) -> None:
        """Raises ValueError if the targets of `batch` are to blame for a loss that is not finite."""
        class_numbers("Trainer", batch.targets.ravel(), batch.steps * batch.count, self.classes, "targets")

    def results(self, steps: int) -> list[tuple[float, float, int]]:
        """Of each step of the last run: the sum of the losses, what to divide it by for the mean, and how many images
        have their largest score at their target."""
        return [(loss, total, int(correct)) for (loss, correct), (total,) in
                zip(self._sums[:steps].tolist(), self.total[:steps].tolist(), strict=True)]


class MSELoss(OfElements):
    """Mean squared error over all elements, with gradient 2 (y - t) / count (docs/gradients.md).

    Called with the prediction y and the target t, float arrays of one shape; returns the value (float). reduction:
    "mean", "sum" or "none". Raises TypeError or ValueError for others.
    """

    def forward(self, scores: Value, target: Value) -> Value:
        """One loss per image, or element, of values."""
        return functional.mse_loss(scores, target, reduction=self.reduction)


def criterion_of(owner: str, criterion: Any, loss: Any) -> Any:
    """What a Trainer minimises, `criterion` or `loss`, two names for the same: a function or a Module becomes a
    Criterion, a dict of losses a PerOutput, None cross entropy. Raises TypeError where both are given, or what is no
    loss. owner: who speaks in an error."""
    if criterion is not None and loss is not None:
        raise TypeError(f"{owner}: criterion and loss are the same, and only one of them must be given")
    chosen = loss if criterion is None else criterion
    if chosen is None:
        return CrossEntropyLoss()
    if isinstance(chosen, dict):
        return PerOutput(chosen)
    if isinstance(chosen, type) or not callable(chosen):
        raise TypeError(f"{owner}: {'criterion' if loss is None else 'loss'} must be a loss such as "
                        f"cnn.CrossEntropyLoss(), a function of scores and targets, a Module, or a dict of these by "
                        f"the names of the outputs, got {shapes.shown(chosen)}")
    if isinstance(chosen, Module) or (callable(chosen) and not hasattr(chosen, "backward")):
        return Criterion(chosen)
    return chosen
