"""Means over a batch inside a loss: a value is of one image, so what all targets of a batch decide comes from outside,
as an input of the graph."""
from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from cnn.engine.parameter import Parameter
from cnn.graph.line import line

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import ArrayLike

    from cnn.graph.graph import Graph
    from cnn.graph.value import Value


def counted(targets: np.ndarray, ignored: int | None) -> np.ndarray:
    """The targets that count; see Share."""
    return targets if ignored is None else targets[targets != ignored]


def weight_of(targets: np.ndarray, weight: ArrayLike | None, ignored: int | None) -> float:
    """The sum of the weights of all targets that count, numbers of classes; see Share."""
    found = counted(targets, ignored)
    return float(found.size if weight is None else np.asarray(weight, np.float64)[found].sum())


class Share(NamedTuple):
    """Of a loss of classes: what an image's sum is multiplied by, so that the mean over the images is the sum of all
    divided by the weights of all targets that count.

    target: which of the loss's targets. weight: (classes,), or None: all 1. ignored: the target that does not count, or
    None.
    """

    target: int
    classes: int
    weight: np.ndarray | Parameter | None
    ignored: int | None

    def of(self, targets: np.ndarray, divisor: float) -> float:
        """For the targets of a batch, (n, ...), whose sum of losses is divided by `divisor`; 0 where none counts."""
        classes = targets[(targets >= 0) & (targets < self.classes)].astype(np.int64)
        total = weight_of(classes, self.weight.data if isinstance(self.weight, Parameter) else self.weight,
                          self.ignored)
        return divisor / total if total else 0.0


class Asked:
    """What a loss, while it is traced, asks for: `shares`. values: their inputs, as far as there are any yet."""

    def __init__(self, targets: Sequence[Value], values: Sequence[Value]) -> None:
        self.targets, self.values = targets, values
        self.shares: list[Share] = []
        self.whole: dict[int, tuple[Value, str, str]] = {}      # by id: what has been reduced to a number, how, where

    def share(self, target: Value, *more: Any) -> Value | float | None:
        """The value of Share(target, *more); None where the target is none of the loss's, whatever its shape."""
        made = {id(node.output): node for node in target.graph.nodes} if target.graph else {}
        while id(target) in made and made[id(target)].operation.name == "reshape":
            target = made[id(target)].inputs[0]
        found = [i for i, value in enumerate(self.targets) if value is target]
        if not found:
            return None
        self.shares.append(Share(found[0], *more))
        return self.values[len(self.shares) - 1] if len(self.shares) <= len(self.values) else 1.0


_asked: ContextVar[Asked | None] = ContextVar("asked", default=None)


@contextmanager
def asking(targets: Sequence[Value], values: Sequence[Value]) -> Iterator[Asked]:
    """While a loss of these targets is traced."""
    asked = Asked(targets, values)
    token = _asked.set(asked)
    try:
        yield asked
    finally:
        _asked.reset(token)


def share(target: Value, *more: Any) -> Value | float | None:
    """As Asked.share; None outside of a loss."""
    asked = _asked.get()
    return None if asked is None else asked.share(target, *more)


def noted(kind: str, dim: object, y: Value) -> Value:
    """What a sum, mean or extreme of a value is, noted where it is one over all axes inside a loss: PyTorch's is over
    the batch, too."""
    asked = _asked.get()
    if asked is not None and dim is None and kind in WEIGHTY:
        asked.whole[id(y)] = y, kind, line()
    return y


WEIGHTY = "amax", "amin", "sum", "mean"     # what is told of first
OWN_MEANT = "Where each image's own is meant, name the axes, as in {}((1, 2, 3)), of a loss with reduction='none'."
# operations that are linear in what they read
LINEAR = {"add", "subtract", "affine", "reshape", "cat", "cat_along", "slice", "strided_slice", "permute", "sum",
          "mean", "interpolate"}


def unlike_the_batch(graph: Graph, whole: dict[int, tuple[Value, str, str]]) -> str:
    """What to tell of a loss that is another number than that of the whole batch would be, because what is taken over
    all axes is each image's own; "" of others."""
    once: set[int] = set()      # values that are the same for every image
    known = {id(value): whole[id(value)][1:] for value in graph.inputs if id(value) in whole}
    for node in graph.nodes:
        read = [known[id(value)] for value in node.inputs if id(value) in known]
        single = [value for value in node.inputs if id(value) not in once]
        if not single:
            once.add(id(node.output))
            continue
        name = node.operation.name
        if read:
            kind, where = min(read, key=lambda found: WEIGHTY.index(found[0]))
            linear = name in LINEAR or name == "multiply" and len(single) == 1 or (
                name == "divide" and single == [node.inputs[0]])
            if not linear:
                return (f"{where}in a loss the {kind} over all axes is each image's own, and the {name} of it gives "
                        f"another loss than that of the whole batch, which PyTorch takes. {OWN_MEANT.format(kind)}")
            known[id(node.output)] = kind, where
        if id(node.output) in whole:
            known[id(node.output)] = whole[id(node.output)][1:]
    kinds = {known[id(value)] for value in graph.outputs if id(value) in known}
    for kind, where in kinds:
        if kind in ("amax", "amin"):
            return (f"{where}in a loss the {kind} over all axes is each image's own, PyTorch's that of the "
                    f"whole batch. {OWN_MEANT.format(kind)}")
    where = next((where for kind, where in kinds if kind == "sum"), None)
    if where is None:
        return ""
    return (f"{where}in a loss the sum over all axes is each image's own, and the loss is their mean: PyTorch's sum is "
            f"larger, by the number of images. {OWN_MEANT.format('sum')}")
