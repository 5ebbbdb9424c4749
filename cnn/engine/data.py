"""The array of a Parameter as users get it: NumPy's, with what PyTorch's tensors have to change them in place."""
from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from typing import Any, Self


@cache
def generator() -> np.random.Generator:
    """What numbers are drawn with where no generator is given: one for the whole process, which begins with seed 0."""
    return np.random.default_rng(0)


class Data(np.ndarray):
    """A NumPy array; what is computed from it is a plain one. Methods whose names end in _ change it and return it."""

    def __array_wrap__(self, array: np.ndarray, context: Any = None, return_scalar: bool = False) -> Any:
        if array is self:
            return self
        return array[()] if return_scalar else array.view(np.ndarray)

    def __reduce__(self) -> Any:    # a plain array is what is pickled
        return self.view(np.ndarray).__reduce__()

    def __deepcopy__(self, memo: Any) -> Any:
        return np.array(self)

    def view(self, *shape: Any, **more: Any) -> Any:
        """NumPy's view of a dtype or a class; of sizes, the elements in another shape."""
        if shape and all(isinstance(n, (int, np.integer, tuple, list)) for n in shape) and not more:
            return self.reshape(*shape)
        return super().view(*shape, **more)

    def normal_(self, mean: float = 0.0, std: float = 1.0, *, generator: np.random.Generator | None = None) -> Self:
        """Fill with normal numbers of this mean and standard deviation."""
        self[...] = _drawing(generator).normal(mean, std, self.shape)
        return self

    def uniform_(self, low: float = 0.0, high: float = 1.0, *, generator: np.random.Generator | None = None) -> Self:
        """Fill with numbers from low to high, each alike."""
        self[...] = _drawing(generator).uniform(low, high, self.shape)
        return self

    def fill_(self, value: float) -> Self:
        """Fill with a number."""
        self[...] = value
        return self

    def zero_(self) -> Self:
        """Fill with zeros."""
        return self.fill_(0)

    def copy_(self, source: Any) -> Self:
        """Take the numbers of an array, or of a Parameter, whose shape is broadcast."""
        self[...] = _plain(source)
        return self

    def add_(self, other: Any, *, alpha: float = 1) -> Self:
        """Add alpha other."""
        self += _plain(other) * alpha
        return self

    def sub_(self, other: Any, *, alpha: float = 1) -> Self:
        """Subtract alpha other."""
        self -= _plain(other) * alpha
        return self

    def mul_(self, other: Any) -> Self:
        """Multiply by other."""
        self *= _plain(other)
        return self

    def div_(self, other: Any) -> Self:
        """Divide by other."""
        self /= _plain(other)
        return self

    def lerp_(self, end: Any, weight: float) -> Self:
        """Go on to `end` by a share, `weight`, of the way."""
        self += weight * (_plain(end) - self)
        return self

    def clamp_(self, min: float | None = None, max: float | None = None) -> Self:
        """Bring into the limits min and max, of which one may be missing."""
        bounds: Any = min, max
        self[...] = self.clip(*bounds)
        return self

    def clone(self) -> np.ndarray:
        """A copy, a plain array."""
        return np.array(self)

    def detach(self) -> Self:
        """The array itself."""
        return self

    cpu = numpy = detach

    def numel(self) -> int:
        """Number of elements."""
        return self.size

    def norm(self) -> float:
        """The root of the sum of squares."""
        return float(np.sqrt(np.square(self, dtype=np.float64).sum()))


def _plain(thing: Any) -> Any:
    return getattr(thing, "data", thing) if not isinstance(thing, (np.ndarray, np.generic)) else thing


def _drawing(given: np.random.Generator | None) -> np.random.Generator:
    if given is not None and not isinstance(given, np.random.Generator):
        raise TypeError(f"data: generator must be a numpy.random.Generator, got {type(given).__name__}")
    return generator() if given is None else given
