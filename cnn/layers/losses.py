"""Losses: a value to report and the gradient to start the backward pass from."""
from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cnn import functional, shapes
from cnn.functional.loss import class_weights
from cnn.ops import loss as ops

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cnn.engine.program import Program
    from cnn.engine.tensors import Slot, Table, Tensor


class CrossEntropyLoss:
    """Softmax and log loss, the mean over the batch: L = -log softmax(z)[g] (docs/gradients.md).

    label_smoothing: a share of the target, from 0 to 1, that is spread evenly over the K classes. weight: (K,), the
    weight of each class's images in the mean. Both are defined as in PyTorch, but a batch in which all images have
    weight 0 has the gradient 0.

        >>> loss = cnn.CrossEntropyLoss()
        >>> logits, targets = np.log([[1.0, 2, 5], [3, 3, 2]]), np.array([1, 0])    # (N, K) and integers (N,)
        >>> round(loss(logits, targets), 4)                     # the mean of log 4 and log(8/3)
        1.1836
        >>> (2 * loss.backward()).round(3).tolist()             # of N images: softmax, less 1 for the target
        [[0.125, -0.75, 0.625], [-0.625, 0.375, 0.25]]

    `model.backward(loss.backward())` then sets the gradients of a model. Attribute `total`: the sum of the weights of
    the images of the last call, by which the sum of the losses was divided.

    Raises TypeError or ValueError for arguments that do not fit.
    """

    def __init__(self, label_smoothing: float = 0.0, weight: Sequence[float] | np.ndarray | None = None) -> None:
        self.label_smoothing = shapes.number("CrossEntropyLoss", "label_smoothing", label_smoothing, 0, 1)
        self.weight = weight
        self._gradient: np.ndarray | None = None

    def __call__(self, logits: np.ndarray, targets: np.ndarray) -> float:
        value, self._gradient = functional.cross_entropy(logits, targets, self.label_smoothing, self.weight)
        weight = class_weights("CrossEntropyLoss", self.weight, logits.shape[1])
        self.total = float(len(targets) if weight is None else weight[np.asarray(targets)].sum())
        return value

    def backward(self) -> np.ndarray:
        """The gradient by the logits of the last call."""
        if self._gradient is None:
            raise RuntimeError("CrossEntropyLoss: backward needs a call before it")
        return self._gradient

    def key(self) -> tuple:
        """What a program with this loss is made from."""
        weight = self.weight if self.weight is None else np.asarray(self.weight).tobytes()
        return self.label_smoothing, weight

    def emit(self, program: Program, scores: Tensor, need_gradient: bool = True,
             chosen: Slot | None = None) -> FusedCrossEntropy:
        """Add the loss to a program, see `FusedCrossEntropy`.

        scores: the tensor of the logits. need_gradient: whether there is to be a backward pass. chosen: a Slot for the
        numbers of the targets, or None. Raises ValueError for scores that are no vectors.
        """
        if not scores.flat:
            raise ValueError(f"CrossEntropyLoss: the model's output must have shape (N, K), got "
                             f"(N, {', '.join(map(str, scores.shape))})")
        weight = class_weights("CrossEntropyLoss", self.weight, scores.channels)
        total = program.per_step(1)
        dy, sums = ops.cross_entropy(program, scores, total, self.label_smoothing, weight, need_gradient, chosen)
        return FusedCrossEntropy(dy, sums, weight, total, scores.channels)


class FusedCrossEntropy:
    """A cross-entropy inside a program, whose slot `target` takes int64 numbers in [0, classes).

    dy: the tensor of the gradient. sums: the table of the losses and of how many images are right. classes: how many
    there are. weight: (classes,) float64, or None. total: float64 (steps, 1), the sum of the targets' weights in each
    step, to be set before a run.
    """

    def __init__(self, dy: Tensor, sums: Table, weight: np.ndarray | None, total: Table, classes: int) -> None:
        self.dy, self.weight, self.classes, self.total, self._sums = dy, weight, classes, total.array, sums.array

    def results(self, steps: int) -> list[tuple[float, float, int]]:
        """Of each step of the last run: the sum of the losses, what to divide it by for the mean, and how many images
        have their largest score at their target."""
        return [(loss, total, int(correct)) for (loss, correct), (total,) in
                zip(self._sums[:steps].tolist(), self.total[:steps].tolist(), strict=True)]


class MSELoss:
    """Mean squared error over all elements, with gradient 2 (y - t) / count (docs/gradients.md).

    Called with the prediction y and the target t, float arrays of one shape; returns the value (float). Raises
    TypeError or ValueError for others.
    """

    def __init__(self) -> None:
        self._gradient: np.ndarray | None = None

    def __call__(self, prediction: np.ndarray, target: np.ndarray) -> float:
        value, self._gradient = functional.mse_loss(prediction, target)
        return value

    def backward(self) -> np.ndarray:
        """The gradient by the prediction of the last call."""
        if self._gradient is None:
            raise RuntimeError("MSELoss: backward needs a call before it")
        return self._gradient
