"""Values of more than four axes, on the way from a `view` through `permute` to the next `view`."""
from __future__ import annotations

import math
from typing import Any

import numpy as np

from cnn import shapes
from cnn.graph import moving
from cnn.graph.arranged import indexed
from cnn.graph.build import reshaped
from cnn.graph.count import Count
from cnn.graph.line import line
from cnn.graph.methods import as_sizes
from cnn.graph.value import Value
from cnn.graph.wide import Wide, refused


class View(Wide):
    """The elements of each image in any number of axes, in any order: a channel shuffle, heads or patches by `view` and
    `permute`. It can be permuted, viewed, cut and computed with; with four axes or fewer, the images first, it is a
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

    def __getitem__(self, index: Any) -> Any:
        parts = index if isinstance(index, tuple) else (index,)
        told = f"{shapes.shown(index)} of {self.shape}"
        if self.at and not (len(parts) == 1 and isinstance(index, (int, np.integer)) and (
                -len(self.index) <= index < len(self.index))):
            raise TypeError(f"{line()}a value of {self.ndim} axes whose images are not first can be cut by an integer "
                            f"along its first axis, got {told}")
        if self.at:
            return settled(View(self.of, self.index[index], self.at - 1))
        if not parts or parts[0] is not Ellipsis and not (isinstance(parts[0], slice) and parts[0] == slice(None)):
            raise TypeError(f"{line()}a value of {self.ndim} axes must be cut as in x[:, 2:5], with all images, got "
                            f"{told}")
        found = indexed(self.index, parts)
        if not found.size:
            raise ValueError(f"{line()}an index must leave some of the elements, got {told}")
        return settled(View(self.of, found))

    def unsqueeze(self, dim: int) -> Any:
        """With one more axis, `dim`, of size 1."""
        axis = shapes.integer("unsqueeze", "dim", dim, -self.ndim - 1, self.ndim) % (self.ndim + 1)
        return settled(View(self.of, np.expand_dims(self.index, axis), self.at + (axis <= self.at)))

    def squeeze(self, dim: int | None = None) -> Any:
        """Without the axis `dim`, if its size is 1, by default without all such axes but the images'."""
        axes = [i for i, n in enumerate(self.index.shape) if n == 1 and i != self.at] if dim is None else [
            self._axis("dim", dim)]
        if self.at in axes:
            raise ValueError(f"squeeze: dim must not be that of the images, {self.at}, got {dim}")
        axes = [i for i in axes if self.index.shape[i] == 1]
        return settled(View(self.of, self.index.squeeze(tuple(axes)), self.at - sum(i < self.at for i in axes)))

    def expand(self, *sizes: Any) -> Any:
        """Axes of size 1 repeated to `sizes`; -1 leaves one as it is."""
        given = as_sizes(sizes)
        whole = [old if isinstance(n, Count) or i == self.at or n == -1 else shapes.integer("expand", "sizes", n, 1)
                 for i, (n, old) in enumerate(zip(given, self.index.shape, strict=False))]
        if len(given) != self.ndim or any(old not in (1, n) for n, old in zip(whole, self.index.shape, strict=True)):
            raise ValueError(f"expand: sizes must be those of {self.shape}, of which 1 may become any, got {given}")
        return settled(View(self.of, np.broadcast_to(self.index, whole), self.at))

    def unbind(self, dim: int = 0) -> tuple:
        """All parts along an axis."""
        axis = self._axis("dim", dim)
        if axis == self.at:
            raise TypeError(f"{line()}unbind: dim must not be the images' axis, got {dim} of {self.shape}")
        return tuple(settled(View(self.of, np.take(self.index, i, axis), self.at - (axis < self.at)))
                     for i in range(self.index.shape[axis]))

    def expand_as(self, other: Any) -> Any:
        """`expand` to the shape of another value."""
        return self.expand(*other.shape)

    def __iter__(self) -> Any:
        return iter(self.unbind())

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"a value of {self.ndim} axes has no attribute {name!r}, which those of 4 axes have, the "
                             f"images first: view or permute it")

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


for _name in ("rmatmul", "rpow", "floordiv", "mod"):
    setattr(View, f"__{_name}__", refused)
