"""A loss for each output of a model, and their weighted sum."""
from __future__ import annotations

import copy
import math
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np

from cnn import shapes
from cnn.graph.trace import pack as pack
from cnn.layers.criterion import Criterion
from cnn.layers.criterion import taken_apart as taken_apart
from cnn.layers.module import Module

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from cnn.engine.program import Program
    from cnn.engine.tensors import Slot, Tensor
    from cnn.graph import Graph
    from cnn.layers.criterion import Fused


class PerOutput:
    """The sum of the losses of a model's outputs, each multiplied by its weight.

        >>> loss = cnn.losses.PerOutput({"digit": cnn.CrossEntropyLoss(), "angle": cnn.MSELoss()}, {"angle": 0.5})
        >>> outputs = {"digit": np.log([[1.0, 2, 5]]), "angle": np.array([[2.0]])}
        >>> targets = {"digit": np.array([1]), "angle": np.array([[1.0]])}
        >>> round(loss(outputs, targets), 4)                    # log 4 + 0.5 * 1
        1.8863
        >>> {name: dy.round(3).tolist() for name, dy in loss.backward().items()}
        {'digit': [[0.125, -0.75, 0.625]], 'angle': [[1.0]]}

    losses: by the output's name a loss, or a function or Module as Criterion takes them; None for an output that has
    none. Where the model returns a tuple, they are in its order, and the names are free. weights: of some of them by
    name, finite numbers above 0; default: 1. A Trainer takes a dict of losses for a PerOutput with equal weights.

    Targets are a dict of arrays (N, ...) by the same names, or the structured array that a Dataset makes of one; or one
    array that all outputs have in common. `backward` returns the gradients by the outputs, in a dict or tuple like
    these. Attributes, dicts: losses; weights; values and totals, the loss of each output in the last call and what its
    sum was divided by. Where nothing of an output counts, as with `ignore_index`, it is left out. Raises TypeError or
    ValueError for what does not fit.
    """

    reduction = "mean"
    losses: dict[str, Any]
    weights: dict[str, float]

    def __init__(self, losses: Mapping[str, Callable | None], weights: Mapping[str, float] | None = None) -> None:
        if not isinstance(losses, dict) or not all(isinstance(name, str) and name for name in losses):
            raise TypeError(f"PerOutput: losses must be a dict of losses by the outputs' names, got "
                            f"{shapes.shown(losses)}")
        made = [_loss(name, loss) for name, loss in losses.items()]
        # each has one of its own, because a loss remembers its last call
        self.losses = {name: copy.copy(loss) if any(loss is other for other in made[:i]) else loss
                       for i, (name, loss) in enumerate(zip(losses, made, strict=True))}
        if not any(self.losses.values()):
            raise ValueError(f"PerOutput: losses must hold a loss for one output at least, got {losses}")
        if not isinstance(weights := {} if weights is None else weights, dict):
            raise TypeError(f"PerOutput: weights must be a dict of numbers by the outputs' names, got "
                            f"{shapes.shown(weights)}")
        if extra := [name for name in weights if self.losses.get(name) is None]:
            raise ValueError(f"PerOutput: weights must belong to outputs with a loss, got one for {extra[0]!r}")
        self.weights = {name: shapes.number("PerOutput", f"weights[{name!r}]", weights.get(name, 1), above=0)
                        for name, loss in self.losses.items() if loss is not None}
        if not all(map(math.isfinite, self.weights.values())):
            raise ValueError(f"PerOutput: weights must be finite, got {weights}")
        self.values: dict[str, float] = {}
        self.totals: dict[str, float] = {}
        self._gradients: Any = None

    def __copy__(self) -> PerOutput:
        other = PerOutput.__new__(PerOutput)
        vars(other).update(vars(self), losses={name: copy.copy(loss) for name, loss in self.losses.items()})
        return other

    def figures(self) -> list[str]:
        """Names of what a pass over a data set measures of each output: its loss, and the accuracy for classes."""
        return [f"{name}_{what}" for name in self.weights for what in (
            ("loss", "accuracy") if self.of_classes(name) else ("loss",))]

    def of_classes(self, name: str) -> bool:
        """Whether the loss of an output is one of classes."""
        return hasattr(self.losses[name], "ignore_index")

    def arranged(self, structure: Any, parts: Sequence[Any]) -> dict[str, Any]:
        """What there is for each output, by the names of the losses. structure: see cnn.graph.trace.pack."""
        names = structure if isinstance(structure, tuple) else range(1 if structure is None else structure)
        if len(names) != len(self.losses) or (isinstance(structure, tuple) and set(names) != set(self.losses)):
            raise ValueError(f"PerOutput: there must be a loss, or None, for each of the model's outputs "
                             f"{', '.join(map(str, names))}, got {', '.join(self.losses)}")
        return dict(zip(names if isinstance(structure, tuple) else self.losses, parts, strict=True))

    def targets(self, name: str, labels: Any) -> np.ndarray:
        """The targets of an output. Raises ValueError where labels have several, and none of this name."""
        names = tuple(labels) if isinstance(labels, dict) else np.asarray(labels).dtype.names
        if names is None:
            return np.asarray(labels)
        if name not in names:
            raise ValueError(f"PerOutput: the targets must have the name {name!r} among them, got {', '.join(names)}")
        return np.ascontiguousarray(labels[name])

    # ------------------------------------------------------------ of arrays

    def __call__(self, outputs: Any, targets: Any) -> float:
        return self.call(outputs, targets)

    def call(self, outputs: Any, targets: Any, divisors: Mapping[str, float] | None = None) -> float:
        """As calling it; divisors: by the outputs' names, what the sums of the losses are divided by for the
        gradients; default: what each loss itself divides by."""
        structure, parts = taken_apart(outputs)
        found = self.arranged(structure, parts)
        if len({len(part) for part in found.values()}) > 1:
            raise ValueError(f"PerOutput: outputs must be of as many images each, got "
                             f"{', '.join(str(len(part)) for part in found.values())}")
        self.values = {name: self._named(name, loss, found[name], self.targets(name, targets))
                       for name, loss in self.losses.items() if loss is not None}
        self.totals = {name: self.losses[name].total for name in self.weights}
        shares = {name: weight * (self.totals[name] / divisors[name] if divisors else 1)
                  for name, weight in self.weights.items()}
        dys = {name: self.losses[name].backward() * y.dtype.type(shares[name]) if name in shares else None
               for name, y in found.items()}
        self._gradients = pack(structure, list(dys.values()))
        means = [weight * self.values[name] for name, weight in self.weights.items() if self.totals[name]]
        return float(sum(means)) if means else math.nan

    def divisors(self, labels: Any) -> dict[str, float]:
        """By the outputs' names, what the sum of each loss is divided by for such labels."""
        return {name: float(self.losses[name].divisor(self.targets(name, labels))) for name in self.weights}

    def _named(self, name: str, function: Callable, *arguments: Any) -> Any:
        """What a function returns; its errors say of which output."""
        try:
            return function(*arguments)
        except (TypeError, ValueError) as error:
            kind = TypeError if isinstance(error, TypeError) else ValueError
            raise kind(f"PerOutput: output {name}: {error}") from error

    def backward(self) -> Any:
        """The gradients by the outputs of the last call, None for those without a loss."""
        if self._gradients is None:
            raise RuntimeError("PerOutput: backward needs a call before it")
        return self._gradients

    # ------------------------------------------------------------ in a program

    def parts(self) -> list[Any]:
        """The losses that there are."""
        return [loss for loss in self.losses.values() if loss is not None]

    def key(self) -> tuple:
        """What a program with this loss is made from."""
        return PerOutput, *((name, self.weights.get(name), loss and loss.key()) for name, loss in self.losses.items())

    def in_program(self, images: dict[str, tuple[int, ...]], labels: Any, dtype: np.dtype,
                   learns: bool) -> dict[str, Graph | None]:
        """The graph of each loss, for outputs of these image shapes and such labels."""
        return {name: self._named(name, Criterion.in_program, self.losses[name], images[name],
                                  self.targets(name, labels), dtype, learns) for name in self.weights}

    def emit(self, program: Program, outputs: dict[str, Tensor], need_gradient: bool, chosen: Slot | None,
             graphs: dict[str, Graph | None], classes: dict[str, bool]) -> FusedPerOutput:
        """Add the losses to a program; arguments: as of Criterion.emit, by the outputs' names."""
        fused = {name: Criterion.emit(self.losses[name], program, outputs[name], need_gradient, chosen, graphs[name],
                                      classes[name], f"target {name}") for name in self.weights}
        return FusedPerOutput(self, fused, [fused[name].gradients[0] if name in fused else None for name in outputs])


class Parts(tuple):
    """What a step has measured: the sum of the losses, what to divide it by, and how many images are right, the mean of
    the outputs with classes. Attribute `outputs`: the same of each output by name, unweighted."""

    outputs: dict[str, tuple[float, float, float]]

    @classmethod
    def of(cls, loss: PerOutput, outputs: dict[str, tuple[float, float, float]], count: int) -> Parts:
        """The whole of `outputs`, for so many images; with weight 0 where no target counts."""
        means = [loss.weights[name] * value / total for name, (value, total, _) in outputs.items() if total]
        summed = all(loss.losses[name].reduction == "sum" for name in outputs)
        weight = (1.0 if summed else float(count)) if means else 0.0
        right = [right for *_, right in outputs.values() if right == right]
        result = cls((sum(means) * weight, weight, sum(right) / len(right) if right else math.nan))
        result.outputs = outputs
        return result


def add_outputs(sums: dict[str, tuple[float, ...]], measured: Any) -> None:
    """Add what a step has measured of each output, if it was a PerOutput's, to sums by the outputs' names."""
    for name, found in getattr(measured, "outputs", {}).items():
        sums[name] = tuple(map(sum, zip(sums.get(name, (0.0, 0.0, 0.0)), found, strict=True)))


class FusedPerOutput:
    """A PerOutput inside a program. gradients: tensors of the gradients by the outputs, None where there is none."""

    def __init__(self, loss: PerOutput, fused: dict[str, Fused], gradients: list[Tensor | None]) -> None:
        self.gradients, self._loss, self._fused, self._count = gradients, loss, fused, 0
        self._own: dict[str, list[float]] = {}      # what the losses themselves divide by, for each step

    def given(self, batch: Any) -> dict[str, np.ndarray]:
        """The targets of `batch`, a Batch, as slots take them. Raises TypeError or ValueError where they do not fit."""
        given: dict[str, np.ndarray] = {}
        targets, self._count = batch.targets, batch.count
        for name, fused in self._fused.items():
            given |= self._loss._named(name, fused.given, SimpleNamespace(
                targets=self._loss.targets(name, targets), dataset=batch.dataset, count=batch.count))
            self._own[name] = fused.total[:batch.steps, 0].tolist()
            if batch.divisors:
                fused.total[:batch.steps] = batch.divisors[name]
            fused.total[:batch.steps] /= self._loss.weights[name]       # so that the gradient has the weight
        return given

    def blame(self, batch: Any) -> None:
        """Nothing: the targets of `batch` have been checked."""

    def results(self, steps: int) -> list[Parts]:
        """Of each step of the last run."""
        each = {name: [(loss, total, right) for (loss, _, right), total in zip(
            fused.results(steps), self._own[name], strict=False)] for name, fused in self._fused.items()}
        return [Parts.of(self._loss, {name: results[step] for name, results in each.items()}, self._count)
                for step in range(steps)]


def _loss(name: str, loss: Any) -> Any:
    if loss is None:
        return None
    if isinstance(loss, Module) or (callable(loss) and not isinstance(loss, type) and not hasattr(loss, "backward")):
        return Criterion(loss)
    if not isinstance(loss, Criterion):
        raise TypeError(f"PerOutput: losses[{name!r}] must be a loss, a function or a Module, got "
                        f"{shapes.shown(loss)}")
    if loss.reduction == "none":
        raise ValueError(f"PerOutput: losses[{name!r}] must have the reduction 'mean' or 'sum' to train with, got "
                         f"'none'")
    return loss
