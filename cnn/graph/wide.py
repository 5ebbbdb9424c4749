"""Computing with values of more than four axes: axes that lie side by side, and are all computed with in one way, are
seen as one, until there are three of them for each image."""
from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from cnn import shapes
from cnn.engine.parameter import Parameter, Shaped
from cnn.graph import build
from cnn.graph.derived import Derived
from cnn.graph.line import line
from cnn.graph.value import Value, number, refusal

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

EACH = ("relu", "sigmoid", "tanh", "abs", "exp", "log", "sqrt", "sin", "cos", "pow", "clamp", "square", "reciprocal",
        "rsqrt", "sign", "clamp_min", "clamp_max", "clip", "detach", "log1p", "expm1", "float", "contiguous", "clone")
KINDS = {"add": "add", "sub": "subtract", "mul": "multiply", "truediv": "divide", "gt": "greater",
         "ge": "greater_equal", "lt": "less", "le": "less_equal", "eq": "equal", "ne": "not_equal"}


class Wide:
    """What a View computes; its subclass. index: for each element its number; at: the images' axis of it."""

    __array_ufunc__ = None      # arrays leave operators to it
    of: Value
    index: np.ndarray
    at: int

    @property
    def graph(self) -> Any:
        """The graph that it belongs to."""
        return self.of.graph

    @property
    def dtype(self) -> np.dtype:
        """float32 or float64."""
        return self.of.dtype

    def _sizes(self) -> tuple[int, ...]:
        """Of all axes but the images'."""
        return tuple(np.delete(self.index.shape, self.at).tolist())

    def _seen_as(self, image: Sequence[int]) -> Value:
        """The value whose images have this shape of at most three axes, with the elements in order."""
        from cnn.graph.views import View, settled
        return settled(View(self.of, np.moveaxis(self.index, self.at, 0).reshape(1, *image)))

    def _made(self, value: Value, sizes: Sequence[int], at: int | None = None) -> Any:
        """A value, in order, in axes of these sizes besides that of the images."""
        from cnn.graph.views import View, settled
        index = np.arange(math.prod(sizes)).reshape(1, *sizes)
        at = self.at if at is None else at
        return settled(View(value, np.moveaxis(index, 0, at), at))

    def each(self, function: Callable[[Value], Value]) -> Any:
        """What a function of each element makes of it."""
        return self._made(function(self._seen_as((self.index.size,))), self._sizes())

    def same(self, owner: str, dim: int, function: Callable[[Value, int], Value]) -> Any:
        """What `function(value, dim)`, whose result has its value's shape, makes of it over an axis."""
        (first, _), = self._runs(owner, dim)
        sizes = self._sizes()
        value = self._seen_as((math.prod(sizes[:first]), sizes[first], math.prod(sizes[first + 1:])))
        return self._made(function(value, 2), sizes)

    def over(self, owner: str, dim: Any, keepdim: bool, function: Callable[[Value, int], Value]) -> Any:
        """What `function(value, dim)`, which leaves size 1, makes of it over axes, those side by side at once."""
        sizes, value, found = list(self._sizes()), None, self._runs(owner, dim)
        for first, stop in found:
            image = math.prod(sizes[:first]), math.prod(sizes[first:stop]), math.prod(sizes[stop:])
            value = function(self._seen_as(image) if value is None else build.reshaped(value, image), 2)
            sizes[first:stop] = [1] * (stop - first)
        if shapes.flag(owner, "keepdim", keepdim):
            return self._made(value, sizes)     # type: ignore[arg-type]
        left = [axis for axis in range(len(sizes)) if not any(first <= axis < stop for first, stop in found)]
        at = sum(axis < self.at for axis in left)
        return self._made(value, [sizes[axis] for axis in left], at)        # type: ignore[arg-type]

    def joined(self, values: Sequence[Any], dim: int) -> Any:
        """This and others of so many axes, along one of them; see cnn.functional.cat."""
        from cnn.graph import moving
        (axis, _), = self._runs("cat", dim)
        sizes = self._sizes()
        parts = []
        for x in values:
            if not isinstance(x, Wide) or x.at != self.at or (*x._sizes()[:axis], *x._sizes()[axis + 1:]) != (
                    *sizes[:axis], *sizes[axis + 1:]):
                raise ValueError(f"cat: all values must have the shape {_shape(self)} but for axis {dim}, got "
                                 f"{_shape(x)}")
            parts.append(x._seen_as((math.prod(sizes[:axis]), x._sizes()[axis], math.prod(sizes[axis + 1:]))))
        y = moving.cat(parts, 2)
        return self._made(y, (*sizes[:axis], y.image[1], *sizes[axis + 1:]))

    def _runs(self, owner: str, dim: Any) -> list[tuple[int, int]]:
        """Axes without the images', as runs (first, one past the last) of those side by side."""
        rank = self.index.ndim
        given = dim if isinstance(dim, (tuple, list)) else tuple(i for i in range(rank) if i != self.at) if (
            dim is None) else (dim,)
        axes = sorted(shapes.integer(owner, "dim", d, -rank, rank - 1) % rank for d in given)
        if self.at in axes or len(set(axes)) < len(axes) or not axes:
            raise ValueError(f"{owner}: dim must be different axes, and not that of the images, {self.at}, got {dim}")
        found: list[list[int]] = []
        for axis in (a - (a > self.at) for a in axes):
            if found and found[-1][1] == axis:
                found[-1][1] += 1
            else:
                found.append([axis, axis + 1])
        return [(first, stop) for first, stop in found]

    # ------------------------------------------------------------ methods, as values have them

    def softmax(self, dim: int) -> Any:
        """exp(x) / sum of exp(x) over the axis `dim`."""
        return self.same("softmax", dim, Value.softmax)

    def log_softmax(self, dim: int) -> Any:
        """The logarithm of `softmax`."""
        return self.same("log_softmax", dim, Value.log_softmax)

    def norm(self, p: float = 2.0, dim: Any = None, keepdim: bool = False) -> Any:
        """(sum of |x|^p)^(1/p) over the axes `dim`."""
        return self.over("norm", dim, keepdim, lambda value, axis: value.norm(p, axis, True))

    def var(self, dim: int, unbiased: bool = True, keepdim: bool = False, *, correction: float | None = None) -> Any:
        """See Value.var; over one axis, or several side by side."""
        if len(self._runs("var", dim)) > 1:
            raise ValueError(f"var: dim must be axes side by side, got {dim}")
        return self.over("var", dim, keepdim, lambda value, axis: value.var(
            axis, unbiased, True, correction=correction))

    def std(self, dim: int, unbiased: bool = True, keepdim: bool = False, *, correction: float | None = None) -> Any:
        """See Value.std; over one axis, or several side by side."""
        if len(self._runs("std", dim)) > 1:
            raise ValueError(f"std: dim must be axes side by side, got {dim}")
        return self.over("std", dim, keepdim, lambda value, axis: value.std(
            axis, unbiased, True, correction=correction))

    def max(self, dim: int, keepdim: bool = False) -> Any:
        """The largest elements over the axis `dim` and their places; see Value.max."""
        return self._extremes("amax", "argmax", dim, keepdim)

    def min(self, dim: int, keepdim: bool = False) -> Any:
        """As `max`, the smallest."""
        return self._extremes("amin", "argmin", dim, keepdim)

    def _extremes(self, kind: str, place: str, dim: int, keepdim: bool) -> Any:
        from cnn.graph.spelled import Extremes
        return Extremes(*(self.over(kind, dim, keepdim, lambda value, axis, name=name: getattr(value, name)(
            axis, keepdim=True)) for name in (kind, place)))        # type: ignore[misc]

    def argmax(self, dim: int, keepdim: bool = False) -> Any:
        """The places of the largest elements; see Value.argmax."""
        return self.max(dim, keepdim)[1]

    def argmin(self, dim: int, keepdim: bool = False) -> Any:
        """The places of the smallest elements."""
        return self.min(dim, keepdim)[1]

    def flip(self, *dims: Any) -> Any:
        """The elements in reverse order along the axes `dims`."""
        from cnn.graph.views import View, settled
        axes = [first for first, stop in self._runs("flip", dims[0] if len(dims) == 1 else dims) for first in range(
            first, stop)]
        return settled(View(self.of, np.flip(self.index, tuple(axis + (axis >= self.at) for axis in axes)), self.at))

    def maximum(self, other: Any) -> Any:
        """The larger of two."""
        return _of_two("maximum", self, other)

    def minimum(self, other: Any) -> Any:
        """The smaller of two."""
        return _of_two("minimum", self, other)

    def __neg__(self) -> Any:
        return self.each(lambda value: -value)

    def __abs__(self) -> Any:
        return self.each(lambda value: value.abs())

    def __pow__(self, exponent: float) -> Any:
        return self.each(lambda value: value.pow(exponent)) if number(exponent) else NotImplemented

    def __matmul__(self, other: Any) -> Any:
        if not isinstance(other, Wide) or self.at or other.at or self.index.shape[:-2] != other.index.shape[:-2] or (
                self.index.shape[-1] != other.index.shape[-2]):
            raise ValueError(f"matmul: values of more than four axes must have shapes (N, ..., A, B) and (N, ..., B, "
                             f"C), got {_shape(self)} and {_shape(other)}")
        *heads, rows, inner = self._sizes()
        columns = other.index.shape[-1]
        y = build.matmul(self._seen_as((math.prod(heads), rows, inner)),
                         other._seen_as((math.prod(heads), inner, columns)))
        return self._made(y, (*heads, rows, columns))

    def matmul(self, other: Any) -> Any:
        """x @ other."""
        return self @ other

    bmm = matmul

    __hash__ = object.__hash__

    def __bool__(self) -> bool:
        raise refusal("whether it is true")


def _of_two(kind: str, a: Any, b: Any) -> Any:
    """a + b and the like, of which one has more than four axes: shapes are broadcast as in NumPy."""
    wide = a if isinstance(a, Wide) else b
    if number(a) or number(b):
        return wide.each(lambda value: (build.extreme if kind in ("maximum", "minimum") else build.arithmetic)(
            kind, *(value if x is wide else x for x in (a, b))))
    if not all(isinstance(x, (Wide, Value, Parameter, Shaped, Derived, np.ndarray)) for x in (a, b)):
        return NotImplemented
    rank = max(len(_shape(x)) for x in (a, b))
    sizes = [_sizes_in(kind, x, rank, wide) for x in (a, b)]
    try:
        result = np.broadcast_shapes(*sizes)
    except ValueError:
        raise ValueError(f"{kind}: {_shape(a)} and {_shape(b)} do not go together") from None
    groups: list[list[int]] = []        # sizes in a, in b and in the result of axes that are seen as one
    before = None
    for m, n, k in zip(*sizes, result, strict=True):
        status = (m == k, n == k)
        if groups and (k == 1 or before in (status, None)):
            groups[-1] = [old * new for old, new in zip(groups[-1], (m, n, k), strict=True)]
            before = status if before is None else before
        else:
            groups.append([m, n, k])
            before = None if k == 1 else status
    if len(groups) > 3:     # axes that are not side by side are repeated: every element is named
        groups = [[math.prod(result)] * 3]
        a, b = (_repeated(kind, x, own, result, wide) for x, own in zip((a, b), sizes, strict=True))
    values = [_value(kind, x, [group[i] for group in groups], wide) for i, x in enumerate((a, b))]
    made = build.extreme(kind, *values) if kind in ("maximum", "minimum") else build.arithmetic(kind, *values)
    return wide._made(made, result)


def _repeated(kind: str, x: Any, sizes: tuple[int, ...], result: tuple[int, ...], wide: Wide) -> Any:
    """It with all elements of the result's axes, the images first."""
    from cnn.graph.views import View
    value = _value(kind, x, [math.prod(sizes)], wide)
    index = np.broadcast_to(np.arange(math.prod(sizes)).reshape(sizes), result)
    return View(value, index[None])


def _shape(x: Any) -> tuple:
    return tuple(getattr(x, "shape", ()))


def _sizes_in(kind: str, x: Any, rank: int, wide: Wide) -> tuple[int, ...]:
    """The sizes of all axes but the images', with others in front of them."""
    if isinstance(x, Wide):
        if x.at != wide.at:
            raise ValueError(f"{kind}: {_shape(x)} and {_shape(wide)} must have the images in the same place")
        sizes = x._sizes()
    elif isinstance(x, Value):
        if wide.at or len(x.image) + 1 != rank:
            raise ValueError(f"{kind}: {_shape(x)} and {_shape(wide)} do not go together: both must have all axes, the "
                             f"images first")
        return x.image
    else:
        sizes = _shape(x)
        if len(sizes) == rank:
            if sizes[wide.at] != 1:
                raise ValueError(f"{kind}: an array of shape {sizes} must have size 1 for the images")
            sizes = (*sizes[:wide.at], *sizes[wide.at + 1:])
        elif wide.at:
            raise ValueError(f"{kind}: {_shape(x)} and {_shape(wide)} must have the images in the same place")
    return (1,) * (rank - 1 - len(sizes)) + tuple(sizes)


def _value(kind: str, x: Any, image: list[int], wide: Wide) -> Value:
    """It as a value whose images have this shape."""
    if isinstance(x, Wide):
        return x._seen_as(image)
    if isinstance(x, Value):
        return build.reshaped(x, image)
    if isinstance(x, Derived):
        return build.reshaped(x.value, image)
    parameter, sources = build.operand_of(kind, x, wide.dtype)
    return build.constant(parameter, tuple(image), wide.of, sources)


def _each(name: str) -> Callable:
    def method(self: Wide, *arguments: Any, **options: Any) -> Any:
        return self.each(lambda value: getattr(value, name)(*arguments, **options))
    method.__doc__ = f"Value.{name}."
    return method


def _over(name: str) -> Callable:
    def method(self: Wide, dim: Any = None, keepdim: bool = False) -> Any:
        return self.over(name, dim, keepdim, lambda value, axis: getattr(value, name)(axis, keepdim=True))
    method.__doc__ = f"Value.{name}."
    return method


def _operator(kind: str, turned: bool) -> Callable:
    def operate(self: Wide, other: Any) -> Any:
        return _of_two(kind, other, self) if turned else _of_two(kind, self, other)
    return operate


for _name in EACH:
    setattr(Wide, _name, _each(_name))
for _name in ("sum", "mean", "amax", "amin"):
    setattr(Wide, _name, _over(_name))
for _short in ("add", "sub", "mul", "div"):
    setattr(Wide, _short, _operator(KINDS["truediv" if _short == "div" else _short], False))
for _short, _kind in KINDS.items():
    setattr(Wide, f"__{_short}__", _operator(_kind, False))
    if _short in ("add", "sub", "mul", "truediv"):
        setattr(Wide, f"__r{_short}__", _operator(_kind, True))


def refused(self: Any, *operands: Any) -> Any:
    """What cannot be done with so many axes."""
    raise TypeError(f"{line()}a value of {self.index.ndim} axes, {_shape(self)}, must be permuted or viewed to 4 axes, "
                    f"the images first, for this")
