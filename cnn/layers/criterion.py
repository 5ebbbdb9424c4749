"""Losses that are functions of values: computed and differentiated as networks are."""
from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from cnn import shapes
from cnn.engine import backend
from cnn.engine.program import circumstances
from cnn.engine.programs import Pool
from cnn.graph import Value, trace
from cnn.graph.lower import few, slot, write, written
from cnn.graph.passes import optimised
from cnn.layers.running import run_backward
from cnn.layers.snapshot import snapshot
from cnn.ops import loss as ops
from cnn.ops.operation import laid

if TYPE_CHECKING:
    from collections.abc import Callable

    from cnn.engine.program import Program
    from cnn.engine.tensors import Slot, Table, Tensor
    from cnn.graph import Graph


class Criterion:
    """A loss of scores and targets, written with values.

        >>> def focal(scores, target):                          # Lin et al. 2017
        ...     p = (scores.softmax(1) * cnn.functional.one_hot(target, 3)).sum(1)
        ...     return -((1 - p) ** 2 * p.log())
        >>> loss = cnn.losses.Criterion(focal)
        >>> round(loss(np.log([[1.0, 2, 5], [3, 3, 2]]), np.array([2, 0])), 4)
        0.2249

    function: of two values, the scores and the targets, that returns one number per image, a value (N,), whose mean
    over the batch is the loss; or a Module whose forward does. A subclass has a method `forward` instead. Targets are
    floats in a program, also the numbers of classes. Losses of cnn.functional with `reduction="mean"` give the mean of
    each image, over its targets other than -100, or 0 if it has none; the loss is the mean of these. PyTorch divides by
    the number of such targets in the whole batch, or by the sum of their weights: CrossEntropyLoss and NLLLoss do that,
    given as the loss themselves; inside one of your own they refuse weights with "mean".

    Called with arrays, scores (N, ...) of float32 or float64 and targets (N, ...) of any numbers, it returns the loss,
    a float, and `backward` its gradient by the scores. Attribute `total`: what the last call has divided the sum of the
    losses by. Raises TypeError or ValueError for what does not fit.
    """

    reduction = "mean"
    soft = False        # whether targets may be distributions over the classes of scores (N, K)

    def __init__(self, function: Callable[[Value, Value], Value]) -> None:
        if not callable(function):
            raise TypeError(f"Criterion: function must be a function of scores and targets, got {function!r}")
        self.function = function
        self._prepare()

    def _prepare(self) -> None:
        self._gradient: np.ndarray | None = None
        self._last: tuple[np.ndarray, np.ndarray] | None = None
        self._programs = Pool()
        self._one = False       # whether the last call was of one image, without its axis
        self.total = math.nan

    def forward(self, scores: Value, target: Value) -> Value:
        """One loss per image, (N,), for values of scores and targets."""
        return self.function(scores, target)

    def of_values(self, scores: Value, target: Value) -> Value:
        """What calling it inside another loss returns: one loss per image, (N,), whose mean that takes."""
        return self.forward(scores, target)

    def divisor(self, targets: np.ndarray) -> float:
        """What the sum of the images' losses is divided by for these targets, (N, ...): their number."""
        return 1.0 if self.reduction == "sum" else float(len(targets))

    def checked(self, targets: np.ndarray, image: tuple[int, ...]) -> np.ndarray:
        """Targets (n, ...) that suit scores of images (...); raises TypeError or ValueError for others."""
        return targets

    def owner(self) -> str:
        """Who speaks in an error."""
        kind = type(self).__name__
        return kind if kind != "Criterion" else getattr(self.function, "__name__", type(self.function).__name__)

    # ------------------------------------------------------------ of arrays

    def __call__(self, scores: Any, target: Any) -> Any:
        if isinstance(scores, Value) or isinstance(target, Value):
            return self.of_values(scores, target)
        one = isinstance(scores, np.ndarray) and self._is_one(scores, np.asarray(target))
        y = self._of_batch(scores[None], np.asarray(target)[None]) if one else self._of_batch(scores, target)
        self._one = one
        return y[0, ...] if one and self.reduction == "none" else y

    def _is_one(self, scores: np.ndarray, target: np.ndarray) -> bool:
        """Whether these are one image, without the axis of images."""
        return False

    def _of_batch(self, scores: Any, targets: Any) -> Any:
        scores = shapes.array(self.owner(), "scores", scores)
        targets = self.checked(_numbers(self.owner(), targets, len(scores) if scores.ndim else 0), scores.shape[1:])
        self.total = self.divisor(targets)
        self._last = scores, np.ascontiguousarray(targets, scores.dtype)
        if self.reduction == "none":
            self._gradient = None
            return self._run(*self._last)[0]
        y, self._gradient = self._run(*self._last, 1 / self.total if self.total else 0.0)
        with np.errstate(all="ignore"):
            return float(np.divide(y.sum(dtype=np.float64), self.total))

    def backward(self, dy: np.ndarray | None = None) -> np.ndarray:
        """The gradient by the scores of the last call. dy: with reduction "none" only, the gradient by the losses that
        the call returned, an array like these."""
        if self.reduction == "none" and self._last is not None and dy is not None:
            dx = self._run(*self._last, dy[None] if self._one and isinstance(dy, np.ndarray) else dy)[1]
        elif self._gradient is not None:
            dx = self._gradient
        else:
            raise RuntimeError(f"{self.owner()}: backward needs a call before it, and with reduction 'none' dy")
        return dx[0, ...] if self._one else dx

    def _run(self, scores: np.ndarray, targets: np.ndarray, dy: Any = None) -> tuple[np.ndarray, Any]:
        """The losses of each image, or element, and the gradient by the scores for that of the losses, an array or a
        number."""
        n, dtype, images = len(scores), scores.dtype, (scores.shape[1:], targets.shape[1:])
        dx = None

        def gradients(y: np.ndarray) -> list[np.ndarray]:
            if not isinstance(dy, np.ndarray):
                return [np.full(y.shape, dy, dtype)]
            return [shapes.array(self.owner(), "dy", dy, y.shape, dtype)]
        if backend.by_twins():
            from cnn.layers.interpreted import Interpreted  # here, because most programs do without
            (y,), state = Interpreted(self.owner(), self.graph(*images, dtype)).forward(None, None, [scores, targets])
            if dy is not None:
                dx = state.backward(gradients(y), (True, False))[0]
        else:
            key = images, dtype, self.key(), few(n, True), circumstances()
            program = self._programs.take(key, n, lambda: written(
                optimised(self.graph(*images, dtype), True), dtype, n, True))
            try:
                y = np.empty((n, *program.shapes[0]), dtype)
                program.run(n, **{slot("x", 0): scores, slot("x", 1): targets, slot("y", 0): y})
                if dy is not None:
                    dx = run_backward(program, gradients(y), (True, False), ())[0]
            finally:
                self._programs.give(program)
        return y, np.zeros_like(scores) if dx is None else dx

    # ------------------------------------------------------------ in a program

    def key(self) -> tuple:
        """What a program with this loss is made from."""
        own = {name: value for name, value in vars(self).items() if not name.startswith("_") and name != "total"}
        return type(self), snapshot(own, set())

    def _traced(self, scores: tuple[int, ...], target: tuple[int, ...], dtype: np.dtype) -> Graph:
        return trace(self.forward, [scores, target], dtype, self.owner())

    def graph(self, scores: tuple[int, ...], target: tuple[int, ...], dtype: np.dtype) -> Graph:
        """The loss as a graph, for images of scores and of targets of these shapes. Raises ValueError unless it is
        one number per image."""
        graph = self._traced(scores, target, dtype)
        if len(graph.outputs) != 1 or self.reduction != "none" and math.prod(graph.outputs[0].image) != 1:
            got = ", ".join(shapes.batch(value.image) for value in graph.outputs)
            raise ValueError(f"{self.owner()}: a loss must be one number per image, (N,), got {got}: take its mean() "
                             f"or sum()")
        return graph

    def in_program(self, scores: tuple[int, ...], targets: np.ndarray, dtype: np.dtype, learns: bool) -> Graph | None:
        """What `emit` is given: the graph of the loss for such scores and targets (n, ...), or None where there is a
        kernel for it."""
        if self.reduction == "none":
            raise ValueError(f"{self.owner()}: reduction must be 'mean' or 'sum' to train with, got 'none'")
        targets = self.checked(_numbers(self.owner(), targets, len(targets)), scores)
        return optimised(self.graph(scores, targets.shape[1:], dtype), learns)

    def emit(self, program: Program, scores: Tensor, need_gradient: bool = True, chosen: Slot | None = None,
             graph: Graph | None = None, labels: bool = False, slot: str = "target") -> Fused:
        """Add the loss to a program.

        scores: the tensor of the scores. need_gradient: whether there is to be a backward pass. chosen: a Slot for the
        numbers of the targets, or None; with it the targets' slot has an array for each step. graph: what `in_program`
        returned. labels: whether targets are the classes of scores (N, K), or distributions over them, to count which
        images are right. slot: the name of the targets' slot. Raises ValueError for a loss that does not depend on the
        scores.
        """
        if graph is None:
            raise TypeError(f"{self.owner()}: graph must be what in_program returned, got None")
        image = graph.inputs[1].image
        target = program.input(**laid(image), name=slot, per_step=chosen is not None)
        (y,), backward = write(program, graph, [scores, target])
        total, dscores = program.per_step(1), None
        counted = target
        if labels and image:
            counted = program.input(**laid(()), name=f"largest of {slot}", per_step=chosen is not None)
        dy, sums = ops.per_image(program, y, total, need_gradient, *((scores, counted) if labels else ()))
        if need_gradient:
            dscores = backward([dy], [True, False])[0]
            if dscores is None:
                raise ValueError(f"{self.owner()}: the loss must depend on the scores")
        return Fused(self, dscores, sums, total, program.dtype, graph.inputs[0].image, labels, slot)


class Fused:
    """A Criterion inside a program, whose slot for targets takes arrays (n, ...) or (steps, n, ...).

    dy: the tensor of the gradient by the scores. total: float64 (steps, 1), what the sum of each step's losses is
    divided by.
    """

    def __init__(self, criterion: Criterion, dy: Tensor | None, sums: Table, total: Table, dtype: np.dtype,
                 image: tuple[int, ...], labels: bool, slot: str) -> None:
        self.criterion, self.dy, self.total, self._sums = criterion, dy, total.array, sums.array
        self.dtype, self.image, self.labels, self.slot = dtype, image, labels, slot

    def given(self, batch: Any) -> dict[str, np.ndarray]:
        """The targets of `batch`, a Batch, as slots take them; sets `total`. Raises TypeError or ValueError for targets
        that do not fit."""
        found = np.asarray(batch.targets)
        steps = found if batch.dataset is not None else found[None]
        for step, targets in enumerate(steps):
            targets = self.criterion.checked(_numbers(self.criterion.owner(), targets, batch.count), self.image)
            self.total[step, 0] = self.criterion.divisor(targets)
        given = {self.slot: np.ascontiguousarray(found, self.dtype)}
        if self.labels and steps.ndim > 2:      # distributions
            given[f"largest of {self.slot}"] = found.argmax(-1).astype(self.dtype)
        return given

    def blame(self, batch: Any) -> None:
        """Nothing: the targets of `batch` have been checked."""

    def results(self, steps: int) -> list[tuple[float, float, float]]:
        """As FusedCrossEntropy's; NaN in place of how many images are right where targets are no classes."""
        return [(loss, total, int(right) if self.labels else math.nan) for (loss, right), (total,) in
                zip(self._sums[:steps].tolist(), self.total[:steps].tolist(), strict=True)]


def _numbers(owner: str, targets: Any, count: int) -> np.ndarray:
    """Targets as an array of numbers (count, ...)."""
    targets = np.asarray(targets)
    if targets.dtype.kind not in "fiub":
        raise TypeError(f"{owner}: target must be numbers, got {targets.dtype}")
    if not 1 <= targets.ndim <= 4 or len(targets) != count:
        raise ValueError(f"{owner}: target must have shape ({count}, ...) and at most 4 axes, got {targets.shape}")
    return targets
