"""Sums of products by the names of axes."""
from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from cnn import shapes
from cnn.graph import Value, build, derived
from cnn.graph.views import View, settled

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cnn.functional.common import Images


def einsum(equation: str, *operands: Images) -> Images:
    """Sums of products, Einstein's summation: "nhid,nhjd->nhij" multiplies elements of two operands and sums over d,
    which the result does not have.

    equation: the axes of each operand by letters, and after "->" those of the result; without it, all that occur once,
    in the order of the alphabet. operands: values or arrays, (N, ...) of up to five axes, whose first letter, that of
    the images, is the first of the result, too; of one dtype. Beside a value also Parameters and arrays without that
    letter, the same for every image. Raises TypeError or ValueError for anything else, and for a letter that stands
    twice in an operand.
    """
    inputs, output = _parsed(equation, operands)
    if all(isinstance(x, np.ndarray) for x in operands) and not derived.computes(*operands):
        found = [shapes.array("einsum", f"operands[{i}]", x) for i, x in enumerate(operands)]
        _sizes(equation, inputs, [x.shape for x in found])
        return np.einsum(f"{','.join(inputs)}->{output}", *found)
    like = next((x for x in operands if isinstance(x, (Value, View))), None)
    if like is None:
        raise TypeError(f"einsum: one of the operands must be a value, got "
                        f"{', '.join(type(x).__name__ for x in operands) or 'none'}")
    image = inputs[next(i for i, x in enumerate(operands) if x is like)][0]
    _sizes(equation, inputs, [tuple(x.shape) for x in operands])
    parts = [_Part(x, labels, like, image) for x, labels in zip(operands, inputs, strict=True)]
    if output[:1] != image:
        raise ValueError(f"einsum: the result must begin with the images' letter, {image!r}, got {equation!r}")
    found = parts.pop(0)
    while parts:
        following = parts.pop(0)
        kept = set(output).union(*(part.labels for part in parts))
        found = _product(found, following, kept, like, image)
    return found.summed(set(output)).ordered(output)


class _Part:
    """An operand. sizes: by letters, in order, without the images'; index: of elements of `value`, whose images have
    them; alone: whether it is the same for every image."""

    def __init__(self, x: Any, labels: str, like: Any, image: str) -> None:
        self.alone = image not in labels
        if self.alone == isinstance(x, (Value, View)) or not self.alone and labels[0] != image:
            raise ValueError(f"einsum: the images' letter, {image!r}, must be the first of a value, got {labels!r}")
        self.labels = labels.replace(image, "")
        if isinstance(x, View):
            if x.at:
                raise ValueError(f"einsum: the images must be the first axis, got {x.shape}")
            self.value, self.index = x.of, x.index[0]
            return
        if not isinstance(x, Value):
            own = derived.of(x, like.graph)
            self.value, self.index = own.value, np.arange(own.numel()).reshape(own.shape)
            return
        self.value, self.index = x, np.arange(math.prod(x.image)).reshape(x.image)

    def of(self, value: Value, labels: str, sizes: Sequence[int], alone: bool) -> _Part:
        """Another, in order."""
        made = object.__new__(_Part)
        made.value, made.labels, made.alone = value, labels, alone
        made.index = np.arange(math.prod(sizes)).reshape(tuple(sizes))
        return made

    def size(self, label: str) -> int:
        return self.index.shape[self.labels.index(label)]

    def seen_as(self, order: str, image: Sequence[int]) -> Value:
        """Its elements, the axes in this order, as images of a shape."""
        index = self.index.transpose([self.labels.index(label) for label in order])
        return settled(View(self.value, index.reshape(1, *image)))

    def summed(self, kept: set[str]) -> _Part:
        """Summed over all other letters."""
        left = "".join(label for label in self.labels if label in kept)
        gone = "".join(label for label in self.labels if label not in kept)
        if not gone:
            return self
        sizes = [self.size(label) for label in left]
        value = self.seen_as(left + gone, (math.prod(sizes), math.prod(map(self.size, gone))))
        return self.of(build.reduced("sum", value, 2, False), left, sizes, self.alone)

    def ordered(self, labels: str) -> Any:
        """The value with the axes in this order, behind that of the images."""
        order = labels[1:]
        index = self.index.transpose([self.labels.index(label) for label in order])
        return settled(View(self.value, index[np.newaxis]))


def _product(a: _Part, b: _Part, kept: set[str], like: Any, image: str) -> _Part:
    """The product of two, summed over the letters that nobody wants any more."""
    a, b = a.summed(kept | set(b.labels)), b.summed(kept | set(a.labels))
    both = [label for label in a.labels if label in b.labels]
    heads = "".join(label for label in both if label in kept)
    inner = "".join(label for label in both if label not in kept)
    rows = "".join(label for label in a.labels if label not in b.labels)
    columns = "".join(label for label in b.labels if label not in a.labels)
    count, i, k, j = (math.prod([(a if label in a.labels else b).size(label) for label in labels])
                      for labels in (heads, rows, inner, columns))
    if b.alone and not a.alone and not heads:       # a linear map of the rows
        w = derived.Derived(b.seen_as(columns + inner, (j, 1, k)), (j, k))
        y = build.linear("einsum", a.seen_as(rows + inner, (i, k)), derived.awaited(w), None)
    else:
        y = build.matmul(a.seen_as(heads + rows + inner, (count, i, k)),
                         b.seen_as(heads + inner + columns, (count, k, j)))
    sizes = [(a if label in a.labels else b).size(label) for label in heads + rows + columns]
    return a.of(build.reshaped(y, (math.prod(sizes),)), heads + rows + columns, sizes, a.alone and b.alone)


def _parsed(equation: str, operands: Sequence[Any]) -> tuple[list[str], str]:
    if not isinstance(equation, str):
        raise TypeError(f"einsum: equation must be a text, got {type(equation).__name__}")
    text = equation.replace(" ", "")
    left, arrow, output = text.partition("->")
    inputs = left.split(",")
    if not arrow:
        output = "".join(sorted({label for label in left if left.count(label) == 1} - {","}))
    wrong = [part for part in (*inputs, output) if not part.isalpha() and part or len(set(part)) < len(part)]
    if wrong or "" in inputs or not set(output) <= set(left) or len(inputs) != len(operands):
        raise ValueError(f"einsum: equation must name the axes of {len(operands)} operands by letters, each once, as "
                         f"in 'nij,njk->nik', got {equation!r}")
    return inputs, output


def _sizes(equation: str, inputs: Sequence[str], found: Sequence[tuple]) -> None:
    """Refuse shapes that do not fit."""
    known: dict[str, Any] = {}
    for labels, shape in zip(inputs, found, strict=True):
        if len(labels) != len(shape) or any(known.setdefault(label, n) != n for label, n in zip(
                labels, shape, strict=True)):
            raise ValueError(f"einsum: shapes {', '.join(map(str, found))} do not fit {equation!r}")
