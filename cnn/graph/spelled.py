"""Methods of values that are less common, and other names of some: as PyTorch's tensors have them."""
from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from cnn import shapes
from cnn.graph.count import Count
from cnn.graph.line import line

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from cnn.graph.value import Value


class Extremes(NamedTuple):
    """What `max` and `min` over an axis return: the elements, and their places along it, as floats."""

    values: Value
    indices: Value


class Spelled:
    """A base class of Value. `dim` is an axis, 1 and up or negative; that of the images, 0, is refused. Wrong arguments
    raise TypeError or ValueError."""

    __slots__ = ()
    image: tuple[int, ...]

    def detach(self: Any) -> Value:
        """The value itself, through which no gradient goes back: a constant for what reads it."""
        from cnn.graph.trace import apply
        from cnn.ops.reshaping import Detach
        return apply(Detach(), self)

    # ------------------------------------------------------------ largest and smallest

    def max(self: Any, dim: Any = None, keepdim: bool = False, *, other: Any = None) -> Any:
        """The largest elements over the axis `dim` and their places, as (values, indices); without `dim` the largest
        element of each image; of another value or an array, the larger of both. Equal ones share the gradient."""
        return _extreme("max", self, dim, keepdim, other)

    def min(self: Any, dim: Any = None, keepdim: bool = False, *, other: Any = None) -> Any:
        """As `max`, the smallest."""
        return _extreme("min", self, dim, keepdim, other)

    def argmax(self: Any, dim: int, keepdim: bool = False) -> Value:
        """The place of the largest element along the axis `dim`, the first of equal ones, as a float. It has no
        gradient."""
        return _place(self, self.amax(dim, keepdim=True), dim, keepdim)

    def argmin(self: Any, dim: int, keepdim: bool = False) -> Value:
        """The place of the smallest element; see `argmax`."""
        return _place(self, self.amin(dim, keepdim=True), dim, keepdim)

    # ------------------------------------------------------------ element by element

    def log1p(self: Any) -> Value:
        """log(1 + x), without its precision near 0."""
        return (1 + self).log()

    def expm1(self: Any) -> Value:
        """exp(x) - 1, without its precision near 0."""
        return self.exp() - 1

    def log2(self: Any) -> Value:
        """The logarithm to the base 2."""
        return self.log() / math.log(2)

    def log10(self: Any) -> Value:
        """The logarithm to the base 10."""
        return self.log() / math.log(10)

    def logical_not(self: Any) -> Value:
        """1 where x is 0, else 0."""
        return self == 0

    def logical_and(self: Any, other: Any) -> Value:
        """1 where neither x nor `other`, a value or a bool, is 0, else 0."""
        return (self != 0) * _truth(other)

    def logical_or(self: Any, other: Any) -> Value:
        """1 where x or `other`, a value or a bool, is not 0, else 0."""
        return ((self != 0) + _truth(other)) > 0

    # ------------------------------------------------------------ over and along axes

    def cumsum(self: Any, dim: int) -> Value:
        """The sums of the elements along the axis `dim` up to each."""
        from cnn.graph import moving
        from cnn.graph.build import axes_of
        axis, = axes_of("cumsum", self, dim)
        n, last, by = self.image[axis], len(self.image), 1
        y = self.transpose(axis + 1, last)
        while by < n:       # Hillis & Steele 1986
            y, by = y + moving.pad(y, (by, -by), "constant", 0.0), 2 * by
        return y.transpose(axis + 1, last)

    def tril(self: Any, diagonal: int = 0) -> Value:
        """The matrices of the last two axes, 0 above the diagonal of this number."""
        return _within("tril", self, np.tril, diagonal)

    def triu(self: Any, diagonal: int = 0) -> Value:
        """The matrices of the last two axes, 0 below the diagonal of this number."""
        return _within("triu", self, np.triu, diagonal)

    def movedim(self: Any, source: int, destination: int) -> Value:
        """The axis `source` at the place `destination`, the others in order."""
        from cnn.graph.build import axes_of
        a, b = (axes_of("movedim", self, dim)[0] + 1 for dim in (source, destination))
        order = [axis for axis in range(self.ndim) if axis != a]
        order.insert(b, a)
        return self.permute(order)

    moveaxis = movedim

    def broadcast_to(self: Any, size: Sequence[int]) -> Value:
        """`expand` to `size`."""
        return self.expand(*size)

    def tile(self: Any, dims: Sequence[int]) -> Value:
        """`repeat` by `dims`."""
        return self.repeat(*dims)

    # ------------------------------------------------------------ other names

    def mm(self: Any, mat2: Any) -> Value:
        """x @ mat2."""
        return self @ mat2

    def absolute(self: Any) -> Value:
        """|x|."""
        return self.abs()

    def negative(self: Any) -> Value:
        """-x."""
        return -self

    def subtract(self: Any, other: Any) -> Value:
        """x - other."""
        return self - other

    def multiply(self: Any, other: Any) -> Value:
        """x * other."""
        return self * other

    def divide(self: Any, other: Any) -> Value:
        """x / other."""
        return self / other

    true_divide = divide

    def greater(self: Any, other: Any) -> Value:
        """x > other."""
        return self > other

    def greater_equal(self: Any, other: Any) -> Value:
        """x >= other."""
        return self >= other

    def less(self: Any, other: Any) -> Value:
        """x < other."""
        return self < other

    def less_equal(self: Any, other: Any) -> Value:
        """x <= other."""
        return self <= other

    def not_equal(self: Any, other: Any) -> Value:
        """x != other."""
        return self != other

    def to(self: Any, *where: Any) -> Value:
        """The value itself, for "cpu" and for its own dtype. Raises TypeError for another."""
        for thing in where:
            if not (isinstance(thing, str) and thing == self.device) and thing != self.dtype:
                raise TypeError(f"to: a value is on the cpu and of {self.dtype}, which its model decides, got "
                                f"{shapes.shown(thing)}")
        return self

    @property
    def device(self) -> str:
        """"cpu"."""
        return "cpu"

    @property
    def data(self: Any) -> Value:
        """`detach`."""
        return self.detach()

    def cpu(self: Any) -> Value:
        """The value itself."""
        return self

    def new_zeros(self: Any, *size: Any) -> Any:
        """An array of zeros of the value's dtype, the same for every image; a value where `size` begins with the number
        of images."""
        return _filled("new_zeros", self, size, 0)

    def new_ones(self: Any, *size: Any) -> Any:
        """Ones; see `new_zeros`."""
        return _filled("new_ones", self, size, 1)

    def __and__(self: Any, other: Any) -> Value:
        return self.logical_and(other)

    def __or__(self: Any, other: Any) -> Value:
        return self.logical_or(other)

    __rand__, __ror__ = __and__, __or__

    def __invert__(self: Any) -> Value:
        return self.logical_not()

    def __rpow__(self: Any, base: float) -> Value:
        return (self * math.log(shapes.number("pow", "the base", base, above=0))).exp()

    def __setitem__(self, index: Any, value: Any) -> None:
        raise TypeError(f"{line()}a value does not change: cnn.cat of its parts, or cnn.functional.where with an array "
                        f"as the mask, make another")

    def is_contiguous(self) -> bool:
        """True: values have no layout."""
        return True


def _extreme(name: str, x: Any, dim: Any, keepdim: bool, other: Any) -> Any:
    if other is None and not (dim is None or isinstance(dim, (int, np.integer))):
        dim, other = None, dim
    if other is not None:
        return (x.maximum if name == "max" else x.minimum)(other)
    found = (x.amax if name == "max" else x.amin)(dim, keepdim=True)
    if dim is None:
        return found.reshape(-1)
    return Extremes(found if shapes.flag(name, "keepdim", keepdim) else found.squeeze(dim),
                    _place(x, found, dim, keepdim))


def _place(x: Any, found: Any, dim: int, keepdim: bool) -> Any:
    """Where along an axis x equals what was found there, first."""
    from cnn.graph import build
    axis, = build.axes_of("dim", x, dim)
    n = x.image[axis]
    numbers = np.arange(n, dtype=x.dtype).reshape(n, *(1,) * (len(x.image) - axis - 1))
    places = build.where((x == found) | (x != x), numbers, float(n - 1)).amin(dim, keepdim=True).detach()
    return places if keepdim else places.squeeze(dim)


def _filled(name: str, x: Any, size: tuple, number: float) -> Any:
    from cnn.graph import build
    sizes = as_sizes(size)
    if not sizes or not isinstance(sizes[0], Count):
        return np.full(sizes, number, x.dtype)
    parameter, sources = build.operand_of(name, np.full(sizes[1:], number, x.dtype), x.dtype)
    return build.constant(parameter, sizes[1:], x, sources)


def _truth(other: Any) -> Any:
    return float(other) if isinstance(other, (bool, np.bool_)) else other != 0


def _within(name: str, x: Any, part: Any, diagonal: int) -> Any:
    """x where `part` of a matrix is, else 0."""
    from cnn.graph import build
    diagonal = shapes.integer(name, "diagonal", diagonal, -2**31)
    if len(x.image) < 2:
        raise ValueError(f"{name}: x must have matrices, (N, H, W) or (N, C, H, W), got {shapes.batch(x.image)}")
    return build.where(part(np.ones(x.image[-2:], x.dtype), diagonal), x, 0.0)


def as_sizes(given: tuple) -> tuple:
    """Sizes or axes that are given one by one, or as one tuple or list."""
    return tuple(given[0]) if len(given) == 1 and isinstance(given[0], (tuple, list)) else given
