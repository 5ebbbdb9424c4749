"""Arrays of up to four axes as values, whose images have three at most.

Of the axes (K, C, R, S), those of the weights of a convolution, the last two are side by side in one, (K, C, R S);
where the first has size 1 it is left out instead. A matrix (K, C) is (K, 1, C): channels lie side by side in vectors,
and what has a single one leaves them mostly empty.
"""
from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from cnn import shapes
from cnn.graph.count import Count
from cnn.graph.methods import as_sizes

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from cnn.graph.value import Value

Shape = tuple[int, ...]


def image_of(shape: Shape) -> Shape:
    """The image in which an array of this shape lies. Raises ValueError for more than four axes."""
    if len(shape) > 4:
        raise ValueError(f"parameter: what is computed from Parameters and arrays alone must have at most 4 axes, got "
                         f"{shapes.shown(shape)}: view(-1) where the shape does not matter")
    if len(shape) == 2:
        return shape[0], 1, shape[1]
    if len(shape) < 4:
        return shape
    return shape[1:] if shape[0] == 1 else (*shape[:2], shape[2] * shape[3])


def shaped(value: Value, image: Shape) -> Value:
    """The value, with as many elements in another image."""
    from cnn.graph import build
    return build.reshaped(value, image)


def repeated(value: Value, shape: Shape, like: Shape) -> Value:
    """An array of one shape, such that it goes together, as in NumPy, with those of another that is as large or larger:
    axes of size 1 are put in front, and only what lies side by side is repeated."""
    shape = (1,) * (len(like) - len(shape)) + shape
    if len(like) < 4 or like[0] == 1:
        return shaped(value, image_of(shape))
    if shape[2:] not in ((1, 1), like[2:]):
        planes = math.prod(shape[:2])
        value = shaped(value, (planes, *shape[2:])).expand(-1, planes, *like[2:])
        shape = (*shape[:2], *like[2:])
    return shaped(value, (*shape[:2], math.prod(shape[2:])))


def over(value: Value, shape: Shape, axes: Sequence[int], function: Callable[[Value, Any], Value]) -> Value:
    """What `function(value, dim)` makes of an array, which keeps its axes, over axes of the array."""
    if len(shape) == 2:
        return function(value, tuple(1 + 2 * axis for axis in axes))
    if len(shape) < 4:
        return function(value, tuple(axis + 1 for axis in axes))
    if shape[0] == 1:
        inner = tuple(axis for axis in axes if axis)
        return function(value, inner) if inner else shaped(function(shaped(value, (1, math.prod(shape))), (1,)),
                                                           shape[1:])
    single, rest = [axis for axis in axes if axis > 1], [axis + 1 for axis in axes if axis < 2]
    if len(single) == 2:
        rest.append(3)
    elif single:        # a row or a column of each kernel
        planes = math.prod(shape[:2])
        value = function(shaped(value, (planes, *shape[2:])), tuple(single))
        value = shaped(value, (*shape[:2], math.prod(value.image[1:])))
    return function(value, tuple(rest)) if rest else value


def picked(value: Value, shape: Shape, index: Callable[[np.ndarray], np.ndarray]) -> tuple[Value, Shape]:
    """The elements that `index` takes of an array of numbers, perhaps in another order, and their shape."""
    from cnn.graph import views
    numbers = index(np.arange(math.prod(shape)).reshape(shape))
    image = image_of(numbers.shape)
    if not numbers.size:
        raise ValueError(f"index: it must leave some of the elements of shape {shape}")
    return views.settled(views.View(value, numbers.reshape(1, *image))), numbers.shape


def indexed(numbers: np.ndarray, parts: tuple) -> np.ndarray:
    """An array cut as PyTorch does it: first by numbers and slices, then by one list, whose axis stays in its place."""
    parts = tuple(np.asarray(part) if isinstance(part, list) else part for part in parts)
    lists = [part for part in parts if isinstance(part, np.ndarray)]
    if len(lists) > 1 or any(part.dtype.kind not in "iu" or part.ndim != 1 for part in lists):
        raise TypeError(f"index: one list of whole numbers may be among slices and numbers, got {shapes.shown(parts)}")
    try:
        cut = numbers[tuple(slice(None) if isinstance(part, np.ndarray) else part for part in parts)]
        if lists:
            cut = np.take(cut, lists[0], _place(parts, numbers.ndim))
    except (IndexError, ValueError, OverflowError, TypeError) as error:
        raise ValueError(f"index: {error}, got {shapes.shown(parts)} of shape {numbers.shape}") from None
    return cut


def _place(parts: tuple, rank: int) -> int:
    """Which axis of the result a list among the parts cuts."""
    at = next(i for i, part in enumerate(parts) if isinstance(part, np.ndarray))
    before = [part for part in parts[:at] if not isinstance(part, (int, np.integer))]
    given = sum(part is not None and part is not Ellipsis for part in parts)
    return len(before) + (rank - given - 1 if any(part is Ellipsis for part in parts[:at]) else 0)


class Moves:
    """A base class of Derived: the same elements in other shapes and orders."""

    shape: tuple[int, ...]
    value: Value
    if TYPE_CHECKING:
        @property
        def ndim(self) -> int: ...
        _axis: Callable[[str, int], int]
        _axes: Callable[[str, Any], tuple[int, ...]]
        _picked: Callable[[Callable[[np.ndarray], np.ndarray]], Any]
        _with: Callable[..., Any]
        numel: Callable[[], int]

    @property
    def T(self) -> Any:
        """With the axes in reverse order, the transpose of a matrix."""
        return self._picked(lambda numbers: numbers.T)

    def t(self) -> Any:
        """`T`, of two axes at most."""
        if self.ndim > 2:
            raise ValueError(f"t: an array must have two axes at most, got shape {self.shape}")
        return self.T

    def transpose(self, dim0: int, dim1: int) -> Any:
        """The axes dim0 and dim1 in each other's place."""
        a, b = self._axis("transpose", dim0), self._axis("transpose", dim1)
        return self._picked(lambda numbers: numbers.swapaxes(a, b))

    def permute(self, *dims: Any) -> Any:
        """The axes in the order `dims`."""
        axes = self._axes("permute", as_sizes(dims))
        if len(axes) != self.ndim:
            raise ValueError(f"permute: dims must be all {self.ndim} axes, got {as_sizes(dims)}")
        return self._picked(lambda numbers: numbers.transpose(axes))

    def flip(self, *dims: Any) -> Any:
        """The elements in reverse order along the axes `dims`."""
        axes = self._axes("flip", as_sizes(dims))
        return self._picked(lambda numbers: np.flip(numbers, axes))

    def reshape(self, *shape: Any) -> Any:
        """The elements in another shape, of which one size may be -1."""
        given = as_sizes(shape)
        sizes = [shapes.integer("reshape", "shape", n, -1) for n in given]
        known = math.prod(n for n in sizes if n != -1)
        if 0 in sizes or sizes.count(-1) > 1 or self.numel() % known or -1 not in sizes and known != self.numel():
            raise ValueError(f"reshape: shape must be of {self.numel()} elements, got {shapes.shown(given)}")
        return self._with(tuple(self.numel() // known if n == -1 else n for n in sizes))

    view = reshape

    def flatten(self, start_dim: int = 0, end_dim: int = -1) -> Any:
        """The axes from start_dim to end_dim in one, by default all."""
        if not self.shape:
            return self.reshape(1)
        first, last = self._axis("flatten", start_dim), self._axis("flatten", end_dim) + 1
        return self.reshape(*self.shape[:first], math.prod(self.shape[first:last]), *self.shape[last:])

    def unsqueeze(self, dim: int) -> Any:
        """With one more axis, `dim`, of size 1."""
        at = shapes.integer("unsqueeze", "dim", dim, -self.ndim - 1, self.ndim) % (self.ndim + 1)
        return self._with((*self.shape[:at], 1, *self.shape[at:]))

    def squeeze(self, dim: int | Sequence[int] | None = None) -> Any:
        """Without the axes `dim` of size 1, by default all."""
        axes = self._axes("squeeze", dim)
        return self._with(tuple(n for i, n in enumerate(self.shape) if n > 1 or i not in axes))

    def expand(self, *sizes: Any) -> Any:
        """Axes of size 1 repeated to `sizes`; where the first is the number of images, a value."""
        given = as_sizes(sizes)
        if given and isinstance(given[0], Count):
            inner = self.shape[1:] if len(given) == self.ndim and self.shape[:1] == (1,) else self.shape
            inner = (1,) * (len(given) - 1 - len(inner)) + inner
            if len(inner) + 1 != len(given):
                raise ValueError(f"expand: sizes must be those of {self.shape}, the number of images first, got "
                                 f"{shapes.shown(given)}")
            return shaped(self.value, inner).expand(-1, *given[1:])
        whole = [shapes.integer("expand", "sizes", n, -1) for n in given]
        old = (1,) * (len(whole) - self.ndim) + self.shape
        shape = tuple(m if n == -1 else n for m, n in zip(old, whole, strict=False))
        if len(old) > len(whole) or any(m not in (1, n) for m, n in zip(old, shape, strict=True)):
            raise ValueError(f"expand: sizes must be those of {self.shape}, of which 1 may become any, got "
                             f"{shapes.shown(given)}")
        shapes.element_count("expand", *shape)
        value = repeated(self.value, self.shape, shape)
        return self._with(shape, value.expand(-1, *image_of(shape)))

    def expand_as(self, other: Any) -> Any:
        """`expand` to the shape of another array."""
        if not hasattr(other, "shape"):
            raise TypeError(f"expand_as: other must be an array, got {type(other).__name__}")
        return self.expand(*other.shape)

    def repeat(self, *sizes: Any) -> Any:
        """As many copies along each axis as `sizes` say; the first may be the number of images, which gives a value."""
        given = as_sizes(sizes)
        counts = [1 if isinstance(n, Count) else shapes.integer("repeat", "sizes", n, 1) for n in given]
        if len(counts) < self.ndim or math.prod(counts) > 2**31:
            raise ValueError(f"repeat: sizes must be a number of copies for each axis of {self.shape}, got "
                             f"{shapes.shown(given)}")
        made = self._picked(lambda numbers: np.tile(numbers, counts))
        return made.expand(given[0], *made.shape[1:]) if given and isinstance(given[0], Count) else made
