"""Arrays of Parameters and buffers as users get them: NumPy's, with what PyTorch's tensors have."""
from __future__ import annotations

from contextvars import ContextVar
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from cnn.engine.watch import Stamp

if TYPE_CHECKING:
    from typing import Any, Self

# while a network is traced: a function of a Parameter and the name of an attribute of what can be computed with, and
# `of`, which makes that of a Parameter or an array
computing: ContextVar = ContextVar("computing", default=None)


@cache
def generator() -> np.random.Generator:
    """What numbers are drawn with where no generator is given: one for the whole process, which begins with seed 0."""
    return np.random.default_rng(0)


class Data(np.ndarray):
    """A NumPy array; what is computed from it is a plain one. Methods whose names end in _ change it and return it.

    origin: the array that it is all of, where that is known. stamp: of the module whose buffer it is, or a part of;
    what NumPy computes from it while a network is traced, the program keeps, until it is changed in place.
    """

    origin: np.ndarray | None = None
    stamp: Stamp | None = None

    def __array_finalize__(self, of: Any) -> None:
        self.stamp = getattr(of, "stamp", None)
        if self.stamp is not None and not np.may_share_memory(self, of):
            self.noted()

    def noted(self) -> None:
        """Note that its numbers are read, if a network is traced."""
        if self.stamp is not None and computing.get() is not None:
            self.stamp.read = True

    def _change(self) -> None:
        if self.stamp is None:
            return
        if computing.get() is not None:
            raise TypeError("a buffer was changed in place while a network is traced, which would happen then and "
                            "in no later run: change it outside of `forward`, or in a layer written in NumPy")
        if self.stamp.read:
            self.stamp.new()

    def __setitem__(self, index: Any, value: Any) -> None:
        self._change()
        super().__setitem__(index, value)

    def __getitem__(self, index: Any) -> Any:
        part = super().__getitem__(index)
        if not isinstance(part, np.ndarray):
            self.noted()
        return part

    def __array_function__(self, func: Any, types: Any, arguments: Any, options: Any) -> Any:
        self.noted()
        return super().__array_function__(func, types, arguments, options)

    def __array_wrap__(self, array: np.ndarray, context: Any = None, return_scalar: bool = False) -> Any:
        if array is self:       # in place, or as `out`
            self._change()
            return self
        self.noted()
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

    def unsqueeze(self, dim: int) -> Self:
        """With one more axis, `dim`, of size 1."""
        at = dim % (self.ndim + 1)
        return self.reshape(*self.shape[:at], 1, *self.shape[at:])      # type: ignore[return-value]

    def permute(self, *dims: Any) -> Self:
        """The axes in the order `dims`."""
        return self.transpose(*dims)

    def expand(self, *sizes: Any) -> Any:
        """Axes of size 1 repeated to `sizes`, -1 as it is; the first may be the number of images, in `forward`."""
        given = tuple(sizes[0]) if len(sizes) == 1 and isinstance(sizes[0], (tuple, list)) else sizes
        if given and not isinstance(given[0], (int, np.integer)) and computing.get() is not None:
            return computing.get().of(self).expand(*given)
        old = (1,) * (len(given) - self.ndim) + self.shape
        if len(old) != len(given):
            raise ValueError(f"expand: sizes must be at least as many as the axes of {self.shape}, got {given}")
        return np.broadcast_to(self, [m if n == -1 else n for m, n in zip(old, given, strict=True)], subok=True)

    def repeat(self, *sizes: Any, **more: Any) -> Any:
        """Copies along each axis, of which the first may be the number of images, in `forward`. Of one or two integers
        NumPy's, of how many of each element, and an axis."""
        given = tuple(sizes[0]) if len(sizes) == 1 and isinstance(sizes[0], tuple) else sizes
        if len(given) > 1 and not isinstance(given[0], (int, np.integer)) and computing.get() is not None:
            return computing.get().of(self).repeat(*given)
        if len(given) < 3 or more:
            return super().repeat(*sizes, **more)
        return np.tile(self.view(np.ndarray), given)

    def to(self, *where: Any) -> Self:
        """The array itself, for "cpu" and a dtype: its own, or of integers and bools any, as beside values they have
        theirs. Raises TypeError for another of floats."""
        for thing in where:
            if str(thing) != "cpu" and not _is_dtype(thing, self.dtype) and self.dtype.kind == "f":
                raise TypeError(f"to: an array is on the cpu and of {self.dtype}, got {thing!r}")
        return self

    def type_as(self, other: Any) -> Self:
        """The array itself: beside values it has their dtype."""
        return self

    def float(self) -> Self:
        """The array itself: beside values it has their dtype."""
        return self

    def normal_(self, mean: Any = 0.0, std: Any = 1.0, *, generator: np.random.Generator | None = None) -> Self:
        """Fill with normal numbers of this mean and standard deviation."""
        self[...] = _drawing(generator).normal(mean, std, self.shape)
        return self

    def uniform_(self, low: Any = 0.0, high: Any = 1.0, *, generator: np.random.Generator | None = None) -> Self:
        """Fill with numbers from low to high, each alike."""
        self[...] = _drawing(generator).uniform(low, high, self.shape)
        return self

    def fill_(self, value: Any) -> Self:
        """Fill with a number."""
        self[...] = _plain(value)
        return self

    def zero_(self) -> Self:
        """Fill with zeros."""
        return self.fill_(0)

    def copy_(self, source: Any) -> Self:
        """Take the numbers of an array, or of a Parameter, whose shape is broadcast."""
        self[...] = _plain(source)
        return self

    def add_(self, other: Any, *, alpha: Any = 1) -> Self:
        """Add alpha other."""
        self += _plain(other) * alpha
        return self

    def sub_(self, other: Any, *, alpha: Any = 1) -> Self:
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

    def lerp_(self, end: Any, weight: Any) -> Self:
        """Go on to `end` by a share, `weight`, of the way."""
        self += weight * (_plain(end) - self)
        return self

    def clamp_(self, min: Any = None, max: Any = None) -> Self:
        """Bring into the limits min and max, of which one may be missing."""
        bounds: Any = min, max
        self[...] = self.clip(*bounds)
        return self

    def clone(self) -> np.ndarray:
        """A copy, a plain array."""
        self.noted()
        return np.array(self)

    def detach(self) -> Self:
        """The array itself."""
        return self

    cpu = numpy = detach

    def numel(self) -> int:
        """Number of elements."""
        return self.size

    def norm(self) -> Any:
        """The root of the sum of squares."""
        return np.sqrt(np.square(self, dtype=np.float64).sum()).item()


def _in_place(name: str) -> Any:
    def change(self: Data, other: Any) -> Any:
        self._change()
        return getattr(np.ndarray, name)(self, other)
    return change


def _reading(name: str) -> Any:
    def read(self: Data, *arguments: Any) -> Any:
        self.noted()
        return getattr(np.ndarray, name)(self, *arguments)
    return read


for _name in ("iadd", "isub", "imul", "itruediv", "ipow", "iand", "ior"):
    setattr(Data, f"__{_name}__", _in_place(f"__{_name}__"))
for _name in ("__iter__", "__float__", "__int__", "__bool__", "__index__", "item", "tolist"):
    setattr(Data, _name, _reading(_name))


def own(array: Any) -> Any:
    """The array that it is all of, by which models know it."""
    origin = getattr(array, "origin", None)
    return array if origin is None else origin


def seen(array: np.ndarray, stamp: Stamp) -> Data:
    """A buffer as users get it. stamp: of its module."""
    made = array.view(Data)
    made.origin, made.stamp = array, stamp
    return made


def _is_dtype(thing: Any, dtype: np.dtype) -> bool:
    try:
        return np.dtype(thing) == dtype
    except TypeError:
        return False


def _plain(thing: Any) -> Any:
    if thing is None:
        raise TypeError("data: what it takes must be an array, a Parameter or a number, got None")
    return getattr(thing, "data", thing) if not isinstance(thing, (np.ndarray, np.generic)) else thing


def _drawing(given: np.random.Generator | None) -> np.random.Generator:
    if given is not None and not isinstance(given, np.random.Generator):
        raise TypeError(f"data: generator must be a numpy.random.Generator, got {type(given).__name__}")
    return generator() if given is None else given
