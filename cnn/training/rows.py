"""A loss with a weight per image, and the data set that goes with it."""
from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from cnn import reference
from cnn.data import Dataset
from cnn.engine.tensors import Slot
from cnn.layers.criterion import only_output
from cnn.ops import loss as ops

if TYPE_CHECKING:
    from cnn.engine.program import Program
    from cnn.engine.tensors import Table, Tensor


class NumberedImages(Dataset):
    """Images whose labels are their own numbers, 0 to N - 1: the rows of the table of targets that `RowLoss` has."""

    def __init__(self, images: np.ndarray, mean: np.ndarray, std: np.ndarray) -> None:
        super().__init__(images, np.zeros(len(images), np.int64), ["row"], mean, std)
        self._labels, self.classes = np.arange(len(images)), ()


class RowLoss:
    """The mean loss of images with a weight each: sum of w_n L_n over the batch, divided by its sum of w_n.

    targets: int64 (N,), classes, for the cross-entropy of scores (n, K); or floats (N, outputs) for the mean squared
    error of scores (n, outputs). weights: float64 (N,), or None for equal ones. Labels are numbers of rows of these.
    Where all weights of a batch are 0, so is the gradient. Derivation: docs/gradients.md.
    """

    def __init__(self, targets: np.ndarray, weights: np.ndarray | None = None) -> None:
        self.targets, self.weights = targets, np.ones(len(targets)) if weights is None else weights

    @property
    def squared(self) -> bool:
        """Whether it is the mean squared error."""
        return self.targets.dtype.kind == "f"

    def __call__(self, scores: np.ndarray, labels: np.ndarray) -> float:
        """The loss of scores (n, K), for rows int64 (n,)."""
        targets, weights = self.targets[labels], self.weights[labels]
        if self.squared:
            value, self._gradient = reference.mse(scores, targets.astype(scores.dtype), weights)
        else:
            value, self._gradient = reference.cross_entropy(scores, targets, image_weight=weights)
        self._gradient = self._gradient.astype(scores.dtype)
        self.total = float(weights.sum())
        return value

    def backward(self) -> np.ndarray:
        """The gradient by the scores of the last call."""
        return self._gradient

    def arranged(self, structure: Any, parts: list[Any]) -> Any:
        """The only output of a model."""
        return only_output("Trainer", structure, parts)

    def in_program(self, *_: Any) -> None:
        """No graph: it has kernels."""

    def key(self) -> tuple:
        """What a program with this loss is made from."""
        return RowLoss, self.squared

    def emit(self, program: Program, scores: Tensor, need_gradient: bool = True, chosen: Slot | None = None,
             *more: Any) -> Fused:
        """Add the loss to a program, for scores (N, K), see `Fused`; `chosen` is not needed."""
        wanted = self.targets.shape[1:] or (scores.channels,)
        if not scores.flat or wanted != (scores.channels,):
            raise ValueError(f"Trainer: the model's output must have shape (N, {wanted[0] if self.squared else 'K'}), "
                             f"got (N, {', '.join(map(str, scores.shape))})")
        total, share = program.per_step(1), Slot("image_weights", True)
        if self.squared:
            target = program.input(scores.channels, flat=True, name="target", per_step=True)
            dy, sums = ops.mse(program, scores, target, share, total)
        else:
            dy, sums = ops.cross_entropy(program, scores, total, need_dz=need_gradient, share=share,
                                         target=Slot("target", True))
        return Fused(self, dy, sums, total, scores.channels, program.dtype)


class Fused:
    """A `RowLoss` inside a program. dy: the tensor of the gradient, the only one of `gradients`. total: float64
    (steps, 1), the sums of weights."""

    def __init__(self, loss: RowLoss, dy: Tensor, sums: Table, total: Table, classes: int, dtype: np.dtype) -> None:
        self.gradients: list[Tensor | None] = [dy]
        self.total, self.classes = total.array, classes
        self._loss, self._sums, self._dtype = loss, sums.array, dtype

    def given(self, batch: Any) -> dict[str, np.ndarray]:
        """What slots take for `batch`, a Batch whose labels are rows; sets `total`."""
        rows = np.reshape(batch.targets, (batch.steps, batch.count))
        share = self._loss.weights[rows]
        self.total[:batch.steps, 0] = share.sum(1)
        targets = self._loss.targets[rows]
        return {"target": targets.astype(self._dtype) if self._loss.squared else targets, "image_weights": share}

    def blame(self, batch: Any) -> None:
        """Nothing: the targets of `batch` are those that the loss was made with."""

    def results(self, steps: int) -> list[tuple[float, float, int]]:
        """Of each step of the last run: the sum of the weighted losses, what to divide it by for the mean, and how many
        images have their largest score at their class."""
        each = self.classes if self._loss.squared else 1
        return [(loss, total * each, int(correct)) for (loss, correct), (total,) in
                zip(self._sums[:steps].tolist(), self.total[:steps].tolist(), strict=True)]
