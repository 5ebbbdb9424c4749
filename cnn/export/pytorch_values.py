"""What an import from PyTorch knows of values, sizes and flags that `forward` computes with."""
from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from cnn.graph import Value, build, moving
from cnn.reference import pixel_shuffle, pixel_unshuffle

if TYPE_CHECKING:
    from collections.abc import Sequence


class Refused(ValueError):
    """Something that has no operation here; the message does not tell yet where it is."""


class Buffer(NamedTuple):
    """A buffer of the PyTorch module, as long as nobody computes with it."""

    name: str
    array: np.ndarray


class _Images:
    """The number of images, in sizes: it may be the first size of a view, and nothing else."""

    def __repr__(self) -> str:
        return "N"

    def _refuse(self, *others: Any) -> Any:
        raise Refused("the number of images is open: it may be the first size of a view or reshape, and nothing else")

    __eq__ = __lt__ = __gt__ = __add__ = __radd__ = __mul__ = __rmul__ = __floordiv__ = __index__ = _refuse
    __rfloordiv__ = __sub__ = __rsub__ = __truediv__ = __int__ = __float__ = __mod__ = __le__ = __ge__ = _refuse
    __hash__ = object.__hash__


class _Follows:
    """A flag that is True in training mode and False in evaluation mode."""

    def __repr__(self) -> str:
        return "self.training"


N, FOLLOWS = _Images(), _Follows()


class WithIndices(NamedTuple):
    """What max and min over an axis return."""

    values: Value
    indices: str = "indices"


def only(name: str, value: Any, *allowed: Any) -> None:
    """Refuse an argument or attribute that is none of these."""
    if not any(value is one or type(value) is type(one) and value == one for one in allowed):
        raise Refused(f"{name} must be {' or '.join(map(str, allowed))}, got {value}")


def settled(x: Any) -> Any:
    """A value that operations take."""
    if not isinstance(x, Moved):
        return x
    if len(x.image) > 3:
        raise Refused(f"its input must have at most 4 axes here, got (N, {', '.join(map(str, x.image))})")
    found = moving.transpose_of(x.index)
    if found is None:
        raise Refused("its input has been permuted or viewed as no operation does it here: only transposes of at most "
                      "three axes, channel shuffle, pixel shuffle and its inverse are understood")
    shape, axes = found
    return build.reshaped(moving.in_order(build.reshaped(x.of, shape), axes, "permute"), x.image)


def value_of(x: Any, what: str = "input") -> Value:
    x = settled(x)
    if not isinstance(x, Value):
        raise Refused(f"{what} must depend on the images, got {type(x).__name__}")
    return x


class Moved:
    """Elements on the way to other places, in as many axes as it takes: a channel or pixel shuffle by view and permute.

    of: the value. index: for each element its number among those of one image of `of`, of any shape.
    """

    def __init__(self, of: Value, index: np.ndarray | None = None) -> None:
        self.of = of
        self.index = np.arange(math.prod(of.image)).reshape(of.image) if index is None else index

    @property
    def image(self) -> tuple[int, ...]:
        """Sizes without the images."""
        return self.index.shape

    @property
    def has_channels_last(self) -> bool:
        """Whether it is `of`, (C, H, W), as (H, W, C)."""
        return len(self.of.image) == 3 and np.array_equal(self.index, Moved(self.of).index.transpose(1, 2, 0))

    def viewed(self, image: Sequence[int]) -> Value | Moved:
        """In another shape."""
        return Moved(self.of, self.index.reshape(tuple(image))).settled()

    def permuted(self, axes: Sequence[int]) -> Value | Moved:
        """With its axes in another order; they count from 0, without the images."""
        return Moved(self.of, self.index.transpose(axes)).settled()

    def settled(self) -> Value | Moved:
        """The value that this is, where an operation makes it, else this."""
        of, image = self.of, self.image
        if len(image) > 3:
            return self
        flat = np.ascontiguousarray(self.index).ravel()
        if np.array_equal(flat, np.arange(flat.size)):
            return build.reshaped(of, image)
        if len(image) != 3:
            return self
        channels, height, width = image
        first = self.index.reshape(channels, -1)[:, 0]
        plane = np.arange(height * width)
        if not (first % plane.size).any() and np.array_equal(flat, (first[:, None] + plane).ravel()):
            return moving.permuted(build.reshaped(of, image), (first // plane.size).tolist())
        for r in range(2, 1 + max(height, width, math.isqrt(channels))):
            for large, back, shuffle in (((channels * r * r, height / r, width / r), False, pixel_shuffle),
                                         ((channels / (r * r), height * r, width * r), True, pixel_unshuffle)):
                if any(n != int(n) for n in large):
                    continue
                source = tuple(map(int, large))
                if np.array_equal(shuffle(np.arange(flat.size).reshape(1, *source), r).ravel(), flat):
                    return moving.shuffled(build.reshaped(of, source), r, back, shuffle.__name__)
        return self
