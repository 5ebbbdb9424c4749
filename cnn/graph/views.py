"""Values of more than four axes, on the way from a `view` through `permute` to the next `view`."""
from __future__ import annotations

import math
from typing import Any

import numpy as np

from cnn import shapes
from cnn.graph import moving
from cnn.graph.build import reshaped
from cnn.graph.count import Count
from cnn.graph.line import line
from cnn.graph.methods import as_sizes
from cnn.graph.value import Value


class View:
    """The elements of each image in any number of axes, in any order: a channel shuffle, heads or patches by `view` and
    `permute`. It can be permuted, viewed and cut along a first axis; with four axes or fewer, the images first, it is a
    Value again. Anything else raises AttributeError or TypeError.

    of: the value. index: for each element its number among those of one image of `of`; the images' axis, `at`, has
    size 1.
    """

    def __init__(self, of: Value, index: np.ndarray, at: int = 0) -> None:
        self.of, self.index, self.at = of, index, at

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes of all axes; -1 is that of the images."""
        return (*self.index.shape[:self.at], Count(), *self.index.shape[self.at + 1:])

    @property
    def ndim(self) -> int:
        """Number of axes (int)."""
        return self.index.ndim

    def size(self, dim: int | None = None) -> Any:
        """`shape`, or the size of one axis."""
        return self.shape if dim is None else self.shape[self._axis("dim", dim)]

    def dim(self) -> int:
        """`ndim`."""
        return self.ndim

    def permute(self, *dims: Any) -> Any:
        """The axes in the order `dims`."""
        listed = as_sizes(dims)
        axes = [self._axis("dims", d) for d in listed]
        if sorted(axes) != list(range(self.ndim)):
            raise ValueError(f"permute: dims must be all axes of {self.shape}, got {tuple(listed)}")
        return settled(View(self.of, self.index.transpose(axes), axes.index(self.at)))

    def transpose(self, dim0: int, dim1: int) -> Any:
        """Two axes in each other's place."""
        axes, a, b = list(range(self.ndim)), self._axis("dim0", dim0), self._axis("dim1", dim1)
        axes[a], axes[b] = b, a
        return self.permute(axes)

    def reshape(self, *shape: Any) -> Any:
        """In another shape, the images first."""
        if self.at:
            raise ValueError(f"reshape: the images must be the first axis, got {self.shape}: permute them there")
        sizes = as_sizes(shape)
        return viewed(self.of, self.index, sizes)

    view = reshape

    def flatten(self, start_dim: int = 1, end_dim: int = -1) -> Any:
        """Axes in one."""
        first, last = self._axis("start_dim", start_dim), self._axis("end_dim", end_dim)
        return self.reshape(*self.shape[:first], math.prod(self.shape[first:last + 1]), *self.shape[last + 1:])

    def contiguous(self) -> View:
        """The same."""
        return self

    def __getitem__(self, i: int) -> Any:
        if not self.at or not isinstance(i, (int, np.integer)) or not -len(self.index) <= i < len(self.index):
            raise TypeError(f"{line()}a value of {self.ndim} axes can be cut by an integer along a first axis that is "
                            f"not the images', got {shapes.shown(i)} of {self.shape}")
        return settled(View(self.of, self.index[i], self.at - 1))

    def unbind(self, dim: int = 0) -> tuple:
        """All parts along the first axis."""
        if dim != 0 or not self.at:
            raise TypeError(f"{line()}unbind: dim must be 0, and not the images' axis, got {dim} of {self.shape}")
        return tuple(self[i] for i in range(len(self.index)))

    def __iter__(self) -> Any:
        return iter(self.unbind())

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"a value of {self.ndim} axes has no attribute {name!r}: it can be permuted, viewed and "
                             f"cut, and computed with once it has 4 axes, the images first")

    def _axis(self, what: str, dim: int) -> int:
        return shapes.integer("permute", what, dim, -self.ndim, self.ndim - 1) % self.ndim


def viewed(x: Value, index: np.ndarray, sizes: Any) -> Any:
    """Elements of x, those of `index`, in a shape whose first size is the images'; one size may be -1."""
    rest = [-1 if isinstance(n, Count) else shapes.integer("reshape", "shape", n, -1) for n in sizes]
    known = math.prod(n for n in rest[1:] if n != -1)
    if not rest or rest[0] != -1 or 0 in rest or rest[1:].count(-1) > 1 or index.size % known or (
            -1 not in rest[1:] and known != index.size):
        raise ValueError(f"reshape: shape must be that of {index.size} elements per image, the images, -1 or "
                         f"x.size(0), first, and at most one other size -1, got {tuple(sizes)}")
    return settled(View(x, index.reshape(1, *(index.size // known if n == -1 else n for n in rest[1:]))))


def settled(view: View) -> Any:
    """The value that a view is, if it has at most four axes, the images' first."""
    if view.ndim > 4 or view.at:
        return view
    x, index = view.of, view.index[0]
    flat = index.ravel()
    if np.array_equal(flat, np.arange(math.prod(x.image))):
        return reshaped(x, index.shape)
    plane = math.prod(index.shape[1:])
    whole = flat.size == math.prod(x.image) and np.array_equal(
        flat.reshape(-1, plane), flat[::plane, None] + np.arange(plane)) and not (flat[::plane] % plane).any()
    if index.ndim == 3 and whole:       # channels in another order
        return moving.permuted(reshaped(x, index.shape), (flat[::plane] // plane).tolist())
    found = moving.transpose_of(index) if flat.size == math.prod(x.image) else None
    if found:
        sizes, axes = found
        return reshaped(moving.in_order(reshaped(x, sizes), axes, "permute"), index.shape)
    return reshaped(moving.sliced(reshaped(x, (math.prod(x.image),)), (slice(None), flat.tolist())), index.shape)


def _refuse(self: View, *operands: Any) -> Any:
    raise TypeError(f"{line()}a value of {self.ndim} axes, {self.shape}, must be permuted or viewed to 4 axes, the "
                    f"images first, before it is computed with")


for _name in ("add", "radd", "sub", "rsub", "mul", "rmul", "truediv", "rtruediv", "matmul", "rmatmul", "neg", "pow"):
    setattr(View, f"__{_name}__", _refuse)
