"""Methods of values that are made of others, as PyTorch's tensors have them."""
from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from cnn import shapes
from cnn.graph.spelled import Spelled, as_sizes

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from cnn.graph.value import Value


class Methods(Spelled):
    """A base class of Value. `dim` is an axis, 1 and up or negative; that of the images, 0, is refused. Wrong arguments
    raise TypeError or ValueError."""

    __slots__ = ()
    image: tuple[int, ...]

    # ------------------------------------------------------------ arithmetic

    def add(self: Any, other: Any, *, alpha: float = 1.0) -> Value:
        """x + alpha other."""
        return self + _times(other, alpha)

    def sub(self: Any, other: Any, *, alpha: float = 1.0) -> Value:
        """x - alpha other."""
        return self - _times(other, alpha)

    def mul(self: Any, other: Any) -> Value:
        """x * other."""
        return self * other

    def div(self: Any, other: Any) -> Value:
        """x / other."""
        return self / other

    def neg(self: Any) -> Value:
        """-x."""
        return -self

    def gt(self: Any, other: Any) -> Value:
        """x > other."""
        return self > other

    def ge(self: Any, other: Any) -> Value:
        """x >= other."""
        return self >= other

    def lt(self: Any, other: Any) -> Value:
        """x < other."""
        return self < other

    def le(self: Any, other: Any) -> Value:
        """x <= other."""
        return self <= other

    def eq(self: Any, other: Any) -> Value:
        """x == other."""
        return self == other

    def ne(self: Any, other: Any) -> Value:
        """x != other."""
        return self != other

    def square(self: Any) -> Value:
        """x * x."""
        return self * self

    def reciprocal(self: Any) -> Value:
        """1 / x."""
        return 1 / self

    def rsqrt(self: Any) -> Value:
        """1 / sqrt(x)."""
        return 1 / self.sqrt()

    def sign(self: Any) -> Value:
        """1 where x > 0, -1 where x < 0, else 0. It has no gradient."""
        return (self > 0) - (self < 0)

    def lerp(self: Any, end: Any, weight: Any) -> Value:
        """x + weight (end - x)."""
        return self + weight * (end - self)

    def masked_fill(self: Any, mask: Any, value: float) -> Value:
        """x, but `value`, a number, where the mask is not 0. mask: a comparison of values, or an array for each image
        alike."""
        from cnn.graph import build, moving
        return build.where(mask, moving.around("masked_fill", value), self)

    def clamp_min(self: Any, min: float) -> Value:
        """x, but at least `min`, a number."""
        return self.clamp(min=min)

    def clamp_max(self: Any, max: float) -> Value:
        """x, but at most `max`, a number."""
        return self.clamp(max=max)

    def clip(self: Any, min: float | None = None, max: float | None = None) -> Value:
        """`clamp` to min and max, numbers."""
        return self.clamp(min, max)

    def clone(self: Any) -> Value:
        """The value itself: values do not change."""
        return self

    def type_as(self: Any, other: Any) -> Value:
        """The value itself: all values of a graph have one dtype, that of `other`, too."""
        return self

    # ------------------------------------------------------------ over axes; dim None: all but that of the images

    def var(self: Any, dim: int | Sequence[int] | None = None, unbiased: bool = True, keepdim: bool = False, *,
            correction: float | None = None) -> Value:
        """The sum of (x - mean)^2 over the axes `dim`, divided by their elements less `correction`, 1 unless
        `unbiased` is false; `keepdim` keeps the axes with size 1."""
        from cnn.graph.build import axes_of
        n = math.prod(self.image[axis] for axis in axes_of("var", self, dim, None))
        less = correction_of(unbiased, correction)
        if n <= less:
            raise ValueError(f"var: dim must be axes of more than {less:g} elements, got {dim} of "
                             f"{shapes.batch(self.image)}")
        centred = self - self.mean(dim, keepdim=True)
        return (centred * centred).sum(dim, keepdim) / (n - less)

    def std(self: Any, dim: int | Sequence[int] | None = None, unbiased: bool = True, keepdim: bool = False, *,
            correction: float | None = None) -> Value:
        """The square root of `var` with the same dim, unbiased, keepdim and correction; its slope at 0 is 0."""
        return root_of(self.var(dim, unbiased, keepdim, correction=correction), 2)

    def norm(self: Any, p: float = 2.0, dim: int | Sequence[int] | None = None, keepdim: bool = False) -> Value:
        """(sum of |x|^p)^(1/p) over the axes `dim`, of p infinite the largest |x|; `keepdim` keeps them with size 1."""
        size = self.abs()
        if p == math.inf:
            return size.amax(dim, keepdim)
        p = shapes.number("norm", "p", p, above=0)
        if p == 2:
            return root_of((self * self).sum(dim, keepdim), 2)
        if p == 1:
            return size.sum(dim, keepdim)
        powers = root_of(size, 1 / p) if p < 1 else size ** p
        return root_of(powers.sum(dim, keepdim), p)

    def logsumexp(self: Any, dim: int | Sequence[int], keepdim: bool = False) -> Value:
        """log of the sum of exp(x) over the axes `dim`, without overflows; `keepdim` keeps them with size 1."""
        end = float(np.finfo(self.dtype).max)
        most = self.amax(dim, keepdim=True).clamp(-end, end)        # an infinite one is not taken from itself
        y = (self - most).exp().sum(dim, keepdim=True).log() + most
        return y if keepdim else y.squeeze(dim)

    # ------------------------------------------------------------ parts and places

    def select(self: Any, dim: int, index: int) -> Value:
        """x[:, index] of the axis `dim`, which is left out."""
        return self[self._at("select", dim, shapes.integer("select", "index", index, -2**31))]

    def narrow(self: Any, dim: int, start: int, length: int) -> Value:
        """`length` elements of the axis `dim` from `start` on."""
        n = self._size("narrow", dim)
        first = shapes.integer("narrow", "start", start, 0, n)
        count = shapes.integer("narrow", "length", length, 1, n - first)
        return self[self._at("narrow", dim, slice(first, first + count))]

    def index_select(self: Any, dim: int, index: Sequence[int] | np.ndarray) -> Value:
        """The elements of the axis `dim` whose numbers are in `index`, a list or an array of integers."""
        listed = np.asarray(index)
        if listed.dtype.kind not in "iu":
            raise TypeError(f"index_select: index must be a list or an array of integers, got {shapes.shown(index)}")
        return self[self._at("index_select", dim, listed.ravel().tolist())]

    def unbind(self: Any, dim: int = 1) -> tuple[Value, ...]:
        """The parts of size 1 along the axis `dim`, which is left out."""
        return tuple(self.select(dim, i) for i in range(self._size("unbind", dim)))

    def flip(self: Any, *dims: int | Sequence[int]) -> Value:
        """The elements in reverse order along the axes `dims`."""
        from cnn.graph.build import axes_of
        y = self
        for axis in axes_of("flip", self, as_sizes(dims), None):
            y = y.index_select(axis + 1, range(self.image[axis] - 1, -1, -1))
        return y

    def roll(self: Any, shifts: int | Sequence[int], dims: int | Sequence[int]) -> Value:
        """The elements moved by `shifts` along the axes `dims`; those at the end come to the front."""
        by, along = (tuple(a) if isinstance(a, (tuple, list)) else (a,) for a in (shifts, dims))
        if len(by) != len(along):
            raise ValueError(f"roll: shifts and dims must be equally many, got {shifts} and {dims}")
        y = self
        for shift, dim in zip(by, along, strict=True):
            n = self._size("roll", dim)
            y = y.index_select(dim, [(i - shapes.integer("roll", "shifts", shift, -2**31)) % n for i in range(n)])
        return y

    def repeat(self: Any, *sizes: int | Sequence[int]) -> Value:
        """As many copies along each axis as `sizes` say, the first of which, for the images, is 1."""
        counts = [shapes.integer("repeat", "sizes", n, 1) for n in as_sizes(sizes)]
        if len(counts) != self.ndim or counts[0] != 1:
            raise ValueError(f"repeat: sizes must be {self.ndim} numbers of copies, of which the first, for the "
                             f"images, is 1, got {tuple(counts)}")
        y = self
        for dim, n in enumerate(counts):
            if n > 1:
                y = y.index_select(dim, list(range(y.size(dim))) * n)
        return y

    def repeat_interleave(self: Any, repeats: int, dim: int) -> Value:
        """Each element of the axis `dim` `repeats` times, one after the other."""
        count = shapes.integer("repeat_interleave", "repeats", repeats, 1)
        return self.index_select(dim, [i for i in range(self._size("repeat_interleave", dim)) for _ in range(count)])

    def unflatten(self: Any, dim: int, sizes: Sequence[int]) -> Value:
        """The axis `dim` as several of these sizes, of which one may be -1."""
        from cnn.graph.build import axes_of
        axis, = axes_of("unflatten", self, dim)
        given = [shapes.integer("unflatten", "sizes", n, -1) for n in shapes.listed("unflatten", "sizes", sizes,
                                                                                    "integers")]
        if -1 in given:
            rest = -math.prod(given)
            given[given.index(-1)] = self.image[axis] // rest if rest > 0 and given.count(-1) == 1 else 0
        if math.prod(given) != self.image[axis]:
            raise ValueError(f"unflatten: sizes must be those of {self.image[axis]} elements, got {tuple(sizes)}")
        return self.reshape(-1, *self.image[:axis], *given, *self.image[axis + 1:])

    def swapaxes(self: Any, axis0: int, axis1: int) -> Value:
        """`transpose` of axis0 and axis1."""
        return self.transpose(axis0, axis1)

    @property
    def mT(self: Any) -> Value:
        """The matrices of the last two axes, transposed."""
        return self.transpose(-2, -1)

    def view_as(self: Any, other: Value) -> Value:
        """The elements in the shape of `other`."""
        if not hasattr(other, "image"):
            raise TypeError(f"view_as: other must be a value, got {type(other).__name__}")
        return self.reshape(*other.shape)

    reshape_as = view_as

    def _size(self, owner: str, dim: int) -> int:
        """The size of an axis that is not the images'."""
        from cnn.graph.build import axes_of
        return self.image[axes_of(owner, self, dim)[0]]

    def _at(self, owner: str, dim: int, part: Any) -> tuple:
        """The index of a part of an axis."""
        from cnn.graph.build import axes_of
        axis, = axes_of(owner, self, dim)
        return (*(slice(None),) * (axis + 1), part)


def _times(other: Any, alpha: float) -> Any:
    return other if alpha == 1 else other * shapes.number("add", "alpha", alpha)


def correction_of(unbiased: bool, correction: float | None) -> float:
    """By how much what a variance is divided by is less than the number of elements."""
    return shapes.number("var", "correction", float(shapes.flag("var", "unbiased", unbiased))
                         if correction is None else correction, 0)


def root_of(total: Any, p: float) -> Any:
    """total^(1/p), whose slope at 0 is 0 instead of infinite."""
    from cnn.graph import build
    some = total != 0
    return build.where(some, total, 1.0) ** (1 / p) * some
