"""Losses that are functions of values: computed and differentiated as networks are."""
from __future__ import annotations

import math
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from cnn import shapes
from cnn.engine import backend
from cnn.engine.programs import Pool, circumstances
from cnn.graph import Value, means, trace
from cnn.graph.lower import few, slot, write, written
from cnn.graph.passes import optimised
from cnn.graph.trace import pack
from cnn.layers.running import run_backward, traced
from cnn.layers.snapshot import snapshot
from cnn.ops import loss as ops
from cnn.ops.operation import laid

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from cnn.engine.program import Program
    from cnn.engine.tensors import Slot, Table, Tensor
    from cnn.graph import Graph
    from cnn.graph.means import Share


class Criterion:
    """A loss of scores and targets, written with values.

        >>> def focal(scores, target):                          # Lin et al. 2017
        ...     p = (scores.softmax(1) * cnn.functional.one_hot(target, 3)).sum(1)
        ...     return -((1 - p) ** 2 * p.log())
        >>> loss = cnn.losses.Criterion(focal)
        >>> round(loss(np.log([[1.0, 2, 5], [3, 3, 2]]), np.array([2, 0])), 4)
        0.2249

    function: of two values, the scores and the targets, that returns one number per image, a value (N,), whose mean
    over the batch is the loss; or a Module whose forward does. A subclass has a method `forward` instead. Where a model
    has several outputs, the function gets them as the model returns them, a tuple or a dict; where the data's labels
    are a dict, the targets are one, too. Targets are floats in a program, also the numbers of classes. Losses of
    cnn.functional with `reduction="mean"` give the mean of each image, whose mean over the batch is PyTorch's. Those of
    classes divide by the weights of all targets of the batch that count, as PyTorch does, or give 0 if none does;
    `Trainer(accumulate=K)` of a model with batch norm by those of each of the K batches.

    Called with arrays, scores (N, ...) of float32 or float64 and targets (N, ...) of any numbers, or tuples and dicts
    of them, it returns the loss, a float, and `backward` its gradient by the scores, put together as these. Attribute
    `total`: what the last call has divided the sum of the losses by. Raises TypeError or ValueError for what does not
    fit.
    """

    reduction = "mean"
    several = True      # whether it takes several outputs of a model, and targets that are a dict
    soft = False        # whether targets may be distributions over the classes of scores (N, K)

    def __init__(self, function: Callable[[Value, Value], Value]) -> None:
        if not callable(function):
            raise TypeError(f"Criterion: function must be a function of scores and targets, got {function!r}")
        self.function = function
        self._prepare()

    def _prepare(self) -> None:
        self._gradient: Any = None
        self._last: tuple[Any, Any] | None = None
        self._programs = Pool()
        self._known: dict[tuple, tuple[Share, ...]] = {}    # of graphs, by what they are of
        self._one = False       # whether the last call was of one image, without its axis
        self._structure: Any = None     # of its scores, where a loss of one output got a tuple or dict
        self.total = math.nan

    def forward(self, scores: Value, target: Value) -> Value:
        """One loss per image, (N,), for values of scores and targets."""
        return self.function(scores, target)

    def of_values(self, scores: Value, target: Value) -> Value:
        """What calling it inside another loss returns: one loss per image, (N,), whose mean that takes."""
        return self.forward(scores, target)

    def divisor(self, targets: np.ndarray) -> float:
        """What the sum of the images' losses is divided by for these targets, (N, ...): their number."""
        return 1.0 if self.reduction == "sum" else float(len(apart(targets)[1][0]))

    def checked(self, targets: Any, image: Any) -> Any:
        """Targets (n, ...), or a dict of them, that suit scores of images (...); raises TypeError or ValueError for
        others."""
        return targets

    def arranged(self, structure: Any, parts: list[Any]) -> Any:
        """What the loss takes of what there is for each output of a model, whose `structure` is as in
        cnn.graph.trace.pack: that of the only one, or a list or dict for several."""
        if not self.several:
            return only_output(self.owner(), structure, parts)
        return parts if isinstance(structure, int) else pack(structure, parts)

    def owner(self) -> str:
        """Who speaks in an error."""
        kind = type(self).__name__
        return kind if kind != "Criterion" else getattr(self.function, "__name__", type(self.function).__name__)

    # ------------------------------------------------------------ of arrays

    def __call__(self, scores: Any, target: Any) -> Any:
        if traced((scores, target), {}) is not None:
            return self.of_values(scores, target)
        structure, parts = taken_apart(scores) if isinstance(scores, (tuple, dict)) else (None, [scores])
        if not self.several:        # then the only output of a model, however that returns it
            scores = self.arranged(structure, parts)
        target = target if isinstance(target, dict) else shapes.as_array(self.owner(), "target", target)
        one = isinstance(scores, np.ndarray) and isinstance(target, np.ndarray) and self._is_one(scores, target)
        y = self._of_batch(scores[None], target[None]) if one else self._of_batch(scores, target)
        self._one, self._structure = one, None if self.several else structure
        return y[0, ...] if one and self.reduction == "none" else y

    def _is_one(self, scores: np.ndarray, target: np.ndarray) -> bool:
        """Whether these are one image, without the axis of images."""
        return False

    def _of_batch(self, scores: Any, targets: Any) -> Any:
        scores = self._scores(scores)
        first = apart(scores)[1][0]
        targets = self._targets(targets, len(first) if first.ndim else 0, each(_image, scores))
        self.total = self.divisor(targets)
        self._last = scores, each(lambda array: np.ascontiguousarray(array, first.dtype), targets)
        if self.reduction == "none":
            self._gradient = None
            return self._run(*self._last)[0]
        y, self._gradient = self._run(*self._last, 1 / self.total if self.total else 0.0)
        with np.errstate(all="ignore"):
            return float(np.divide(y.sum(dtype=np.float64), self.total))

    def backward(self, dy: np.ndarray | None = None) -> Any:
        """The gradient by the scores of the last call, put together as these. dy: with reduction "none" only, the
        gradient by the losses that the call returned, an array like these."""
        if self.reduction == "none" and self._last is not None and dy is not None:
            dx = self._run(*self._last, dy[None] if self._one and isinstance(dy, np.ndarray) else dy)[1]
        elif self._gradient is not None:
            dx = self._gradient
        else:
            raise RuntimeError(f"{self.owner()}: backward needs a call before it, and with reduction 'none' dy")
        dx = dx[0, ...] if self._one else dx
        return dx if self._structure is None else pack(self._structure, [dx])

    def _scores(self, scores: Any) -> Any:
        """Scores, checked: an array, or a list or dict of arrays, of one dtype and of as many images each."""
        structure, parts = taken_apart(scores) if self.several else (None, [scores])
        if not parts:
            raise ValueError(f"{self.owner()}: scores must be an array or several, got {shapes.shown(scores)}")
        checked: list[np.ndarray] = []
        for name, part in zip(structure if isinstance(structure, tuple) else range(len(parts)), parts, strict=True):
            name = "scores" if structure is None else f"scores[{name!r}]"
            checked.append(shapes.array(self.owner(), name, part, dtype=checked[0].dtype if checked else None))
        if len({array.shape[:1] for array in checked}) > 1:
            raise ValueError(f"{self.owner()}: scores must be of as many images each, got "
                             f"{', '.join(str(array.shape) for array in checked)}")
        return self.arranged(structure, checked)

    def _targets(self, targets: Any, count: int | None, scores: Any) -> Any:
        """Targets of so many images, None: any number, checked, for scores of images of these shapes: an array
        (count, ...), or a dict of these."""
        names = tuple(targets) if isinstance(targets, dict) else getattr(targets, "dtype", np.dtype(float)).names
        if names is not None:
            if not (names and self.several):
                raise ValueError(f"{self.owner()}: the labels are a dict, {', '.join(names)}: give a loss by the name "
                                 f"of its targets, criterion={{name: loss}}, or a function of the scores and all of "
                                 f"them")
            return self.checked({name: _numbers(self.owner(), targets[name], count) for name in names}, scores)
        return self.checked(_numbers(self.owner(), targets, count), scores)

    def _run(self, scores: Any, targets: Any, dy: Any = None) -> tuple[np.ndarray, Any]:
        """The losses of each image, or element, and the gradient by the scores for that of the losses, an array or a
        number."""
        (structure, ys), (names, ts) = apart(scores), apart(targets)
        n, dtype, images = len(ys[0]), ys[0].dtype, (each(_image, scores), each(_image, targets))
        dxs: list[Any] = [None] * len(ys)
        of = (structure, *map(_image, ys)), (names, *map(_image, ts)), dtype, self.key()
        graph = None if of in self._known else self.graph(*images, dtype)
        if graph is not None:
            self._known[of] = graph.shares
        if self._known[of]:
            ts = [*ts, *shares_of(self._known[of], ts, self.divisor(targets))]
        wanted = (True,) * len(ys) + (False,) * len(ts)

        def gradients(y: np.ndarray) -> list[np.ndarray]:
            if not isinstance(dy, np.ndarray):
                return [np.full(y.shape, dy, dtype)]
            return [shapes.array(self.owner(), "dy", dy, y.shape, dtype)]
        if backend.by_twins():
            from cnn.layers.interpreted import Interpreted  # here, because most programs do without
            (y,), state = Interpreted(self.owner(), graph or self.graph(*images, dtype)).forward(None, None, [
                *ys, *(np.asarray(t, dtype) for t in ts)])
            if dy is not None:
                dxs = state.backward(gradients(y), wanted)
        else:
            program = self._programs.take((*of, few(n, True), circumstances()), n, lambda: written(
                optimised(graph or self.graph(*images, dtype), True), dtype, n, True))
            try:
                y = np.empty((n, *program.shapes[0]), dtype)
                program.run(n, **{slot("x", i): np.asarray(array, dtype) for i, array in enumerate([*ys, *ts])},
                            **{slot("y", 0): y})
                if dy is not None:
                    dxs, _ = run_backward(program, gradients(y), wanted, ())
            finally:
                self._programs.give(program)
        return y, pack(structure, [np.zeros_like(array) if dx is None else dx
                                   for array, dx in zip(ys, dxs, strict=False)])

    # ------------------------------------------------------------ in a program

    def key(self) -> tuple:
        """What a program with this loss is made from."""
        own = {name: value for name, value in vars(self).items() if not name.startswith("_") and name != "total"}
        return type(self), snapshot(own, set())

    def _traced(self, scores: Any, target: Any, dtype: np.dtype) -> Graph:
        (structure, ys), (names, ts) = apart(scores), apart(target)
        shares: list[Share] = []
        whole: dict = {}

        def loss(*values: Value) -> Value:
            first, last = values[len(ys):len(ys) + len(ts)], values[len(ys) + len(ts):]
            with means.asking(first, last) as asked:
                y = self.forward(pack(structure, values[:len(ys)]), pack(names, first))
            shares[:] = asked.shares
            whole.update(asked.whole)
            return y
        graph = trace(loss, [*ys, *ts], dtype, self.owner())
        own = type(self) is Criterion or not type(self).__module__.startswith("cnn.")
        told = means.unlike_the_batch(graph, whole) if own and self.reduction == "mean" else ""
        if told:
            warnings.warn(f"{self.owner()}: {told}", stacklevel=2)
        if shares:      # once more, with an input for each
            graph = trace(loss, [*ys, *ts, *([()] * len(shares))], dtype, self.owner())
            graph.shares = tuple(shares)
        return graph


    def graph(self, scores: Any, target: Any, dtype: np.dtype) -> Graph:
        """The loss as a graph, for images of scores and of targets of these shapes, tuples, or lists and dicts of them.
        Raises ValueError unless it is one number per image."""
        graph = self._traced(scores, target, dtype)
        if len(graph.outputs) != 1 or self.reduction != "none" and math.prod(graph.outputs[0].image) != 1:
            got = ", ".join(shapes.batch(value.image) for value in graph.outputs)
            raise ValueError(f"{self.owner()}: a loss must be one number per image, (N,), got {got}: take its mean() "
                             f"or sum()")
        return graph

    def in_program(self, scores: Any, targets: Any, dtype: np.dtype, learns: bool) -> Graph | None:
        """What `emit` is given: the graph of the loss for scores of images of these shapes, as `arranged` returns them,
        and such targets (n, ...), or None where there is a kernel for it."""
        if self.reduction == "none":
            raise ValueError(f"{self.owner()}: reduction must be 'mean' or 'sum' to train with, got 'none'")
        targets = self._targets(targets, len(targets) if targets.ndim else None, scores)
        return optimised(self.graph(scores, each(_image, targets), dtype), learns)

    def emit(self, program: Program, scores: Any, need_gradient: bool = True, chosen: Slot | None = None,
             graph: Graph | None = None, labels: bool = False, slot: str = "target") -> Fused:
        """Add the loss to a program.

        scores: the tensor of the scores, or a list or dict of tensors, as `arranged` returns them. need_gradient:
        whether there is to be a backward pass. chosen: a Slot for the numbers of the targets, or None; with it the
        targets' slot has an array for each step. graph: what `in_program` returned. labels: whether targets are the
        classes of scores (N, K), or distributions over them, to count which images are right. slot: the name of the
        targets' slot. Raises ValueError for a loss that does not depend on the scores.
        """
        if graph is None:
            raise TypeError(f"{self.owner()}: graph must be what in_program returned, got None")
        tensors = apart(scores)[1]
        count, per_step = len(tensors), chosen is not None
        read = {id(value) for node in graph.nodes for value in node.inputs}
        read |= {id(graph.inputs[count])} if labels else set()
        inputs = {f"{slot}{i or ''}": value for i, value in enumerate(graph.inputs[count:])}
        targets = [program.input(**laid(value.image), name=name, per_step=per_step) if id(value) in read else None
                   for name, value in inputs.items()]
        (y,), backward = write(program, graph, [*tensors, *targets])
        total, dscores = program.per_step(1), list[Any]([None] * count)
        counted = targets[0]
        if labels and graph.inputs[count].image:
            counted = program.input(**laid(()), name=f"largest of {slot}", per_step=per_step)
        dy, sums = ops.per_image(program, y, total, need_gradient, *((tensors[0], counted) if labels else ()))
        if need_gradient:
            dscores = backward([dy], [True] * count + [False] * len(targets))[:count]
            if all(gradient is None for gradient in dscores):
                raise ValueError(f"{self.owner()}: the loss must depend on the scores")
        images = self.arranged(apart(scores)[0], [value.image for value in graph.inputs[:count]])
        slots = [name if tensor is not None else None for name, tensor in zip(inputs, targets, strict=True)]
        return Fused(self, dscores, sums, total, program.dtype, images, labels, slots, graph.shares)


class Fused:
    """A Criterion inside a program, whose slots for targets take arrays (n, ...) or (steps, n, ...).

    gradients: tensors of the gradients by the scores, None where the loss does not depend on them. images: the shapes
    of images of the scores, as `arranged` returns them. slots: of the targets in their order, and of the shares, None
    for those that are not read. shares: see cnn.graph.means. total: float64 (steps, 1), what the sum of each step's
    losses is divided by.
    """

    def __init__(self, criterion: Criterion, gradients: list[Tensor | None], sums: Table, total: Table, dtype: np.dtype,
                 images: Any, labels: bool, slots: list[str | None], shares: Sequence[Share]) -> None:
        self.criterion, self.gradients, self.total, self._sums = criterion, gradients, total.array, sums.array
        self.dtype, self.images, self.labels, self.slots, self.shares = dtype, images, labels, slots, shares

    def given(self, batch: Any) -> dict[str, np.ndarray]:
        """The targets of `batch`, a Batch, as slots take them; sets `total`. Raises TypeError or ValueError for targets
        that do not fit."""
        found = np.asarray(batch.targets)
        steps = found if batch.dataset is not None else found[None]
        made = []       # the shares of each step
        for step, targets in enumerate(steps):
            total = self.criterion.divisor(self.criterion._targets(targets, batch.count, self.images))
            self.total[step, 0] = total
            made.append(shares_of(self.shares, _named(targets), total))
        arrays = _named(found) + [np.stack(each) if batch.dataset is not None else each[0]
                                  for each in zip(*made, strict=True)]
        given = {slot: np.ascontiguousarray(array, self.dtype)
                 for slot, array in zip(self.slots, arrays, strict=True) if slot is not None}
        if self.labels and steps.ndim > 2:      # distributions
            given[f"largest of {self.slots[0]}"] = found.argmax(-1).astype(self.dtype)
        return given

    def blame(self, batch: Any) -> None:
        """Nothing: the targets of `batch` have been checked."""

    def results(self, steps: int) -> list[tuple[float, float, float]]:
        """As FusedCrossEntropy's; NaN in place of how many images are right where targets are no classes."""
        return [(loss, total, int(right) if self.labels else math.nan) for (loss, right), (total,) in
                zip(self._sums[:steps].tolist(), self.total[:steps].tolist(), strict=True)]


def apart(things: Any) -> tuple[Any, list[Any]]:
    """The structure, see cnn.graph.trace.pack, and the parts of what a loss takes: one thing, or a list or dict."""
    if isinstance(things, dict):
        return tuple(things), list(things.values())
    return (len(things), things) if isinstance(things, list) else (None, [things])


def shares_of(shares: Sequence[Share], targets: Sequence[np.ndarray], divisor: float) -> list[np.ndarray]:
    """The inputs of a loss's graph besides the targets of a batch, (n, ...), whose sum is divided by `divisor`: (n,)
    each."""
    return [np.full(len(targets[0]), share.of(targets[share.target], divisor)) for share in shares]


def _named(targets: np.ndarray) -> list[np.ndarray]:
    """The arrays that an array of targets has by name, or that one."""
    return [targets[name] for name in targets.dtype.names or ()] or [targets]


def only_output(owner: str, structure: Any, parts: list[Any]) -> Any:
    """The only part of a model's outputs; raises ValueError where there are several. owner: who speaks in an error."""
    if structure is not None and len(parts) != 1:
        raise ValueError(f"{owner}: the model must return one output, got {len(parts)}: give a loss for each, "
                         f"criterion={{name: loss, ...}}, or a function of them all and the targets")
    return parts[0]


def each(function: Callable[[Any], Any], things: Any) -> Any:
    """What a function makes of each of such things, put together as these."""
    structure, parts = apart(things)
    made = list(map(function, parts))
    return made if isinstance(structure, int) else pack(structure, made)


def taken_apart(outputs: Any) -> tuple[Any, list[Any]]:
    """The same of outputs of a model, of which several may be a tuple, too."""
    return apart(list(outputs) if isinstance(outputs, tuple) else outputs)


def _image(array: np.ndarray) -> tuple[int, ...]:
    return array.shape[1:]


def _numbers(owner: str, targets: Any, count: int | None) -> np.ndarray:
    """Targets as an array of numbers (count, ...); None: any number."""
    targets = shapes.as_array(owner, "target", targets)
    if targets.dtype.kind not in "fiub":
        raise TypeError(f"{owner}: target must be numbers, got {targets.dtype}")
    if not 1 <= targets.ndim <= 4 or count not in (None, len(targets)):
        raise ValueError(f"{owner}: target must have shape ({'N' if count is None else count}, ...) and at most 4 "
                         f"axes, got {targets.shape}")
    return targets
