"""Parts of values, several in one, padding and resampling."""
from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from cnn import shapes
from cnn.functional.common import also_one, computed
from cnn.graph import build, derived, moving
from cnn.graph.build import dims_of, value_of
from cnn.graph.value import Value
from cnn.graph.views import View

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from cnn.functional.common import Images
    from cnn.shapes import Length, Size


def flatten(x: Images, start_dim: int = 1, end_dim: int = -1) -> Images:
    """Axes in one: (N, C, H, W) to (N, C * H * W). x: a value or an array, (N, C, H, W), (N, H, W) or (N, features);
    start_dim, end_dim: the first and the last axis of those that become one. Vectors stay as they are."""
    name = "flatten"
    if isinstance(x, np.ndarray):
        x = shapes.array(name, "x", x)
        if not 2 <= x.ndim <= 4:
            raise ValueError(f"{name}: x must have shape (N, C, H, W), (N, H, W) or (N, features), got {x.shape}")
        ends = [shapes.integer(name, what, dim, -x.ndim, x.ndim - 1) % x.ndim
                for what, dim in (("start_dim", start_dim), ("end_dim", end_dim))]
        if not 1 <= ends[0] <= ends[1]:
            raise ValueError(f"{name}: start_dim and end_dim must be axes of an image, 1 and up, in this order, got "
                             f"{start_dim} and {end_dim}")
        return x.reshape(*x.shape[:ends[0]], math.prod(x.shape[ends[0]:ends[1] + 1]), *x.shape[ends[1] + 1:]).copy()
    if isinstance(x, View):
        return x.flatten(start_dim, end_dim)
    if not isinstance(x, Value):
        raise TypeError(f"{name}: x must be a value or an array, got {type(x).__name__}")
    return moving.flatten(x, start_dim, end_dim)


def unsqueeze(x: Images, dim: int) -> Images:
    """x with one more axis, of size 1. x: a value or an array of at most three axes, (N, H, W), (N, features) or (N,);
    dim: the axis of the result, 1 and up, or negative. Raises TypeError or ValueError for anything else."""
    dim = shapes.integer("unsqueeze", "dim", dim, -2**31)
    return computed("unsqueeze", lambda x: moving.unsqueeze(x, dim), {"x": x}, (dim,))


def squeeze(x: Images, dim: int | Sequence[int] | None = None) -> Images:
    """x without axes of size 1. x: a value or an array, (N, C, H, W), (N, H, W), (N, features) or (N,); dim: an axis,
    1 and up or negative, or several, of which those of another size stay; None: all but that of the images. Raises
    TypeError or ValueError for anything else."""
    dims = dims_of("squeeze", dim)
    return computed("squeeze", lambda x: moving.squeeze(x, dims), {"x": x}, (dims,))


def permute(x: Images, dims: Sequence[int]) -> Images:
    """The axes in another order. x: a value or an array, (N, C, H, W), (N, H, W) or (N, features); dims: which axis of
    x each axis of the result is, all of them, from 0 or negative; 0, that of the images, stays first. Raises TypeError
    or ValueError for anything else."""
    listed = tuple(shapes.integer("permute", "dims", dim, -2**31)
                   for dim in shapes.listed("permute", "dims", dims, "integers"))
    if isinstance(x, View):
        return x.permute(listed)
    return computed("permute", lambda x: moving.permute(x, listed), {"x": x}, (listed,))


def transpose(x: Images, dim0: int, dim1: int) -> Images:
    """Two axes in each other's place. x: a value or an array, (N, C, H, W), (N, H, W) or (N, features); dim0, dim1: the
    axes, 1 and up, or negative. Raises TypeError or ValueError for anything else, the axis of the images, 0, among
    it."""
    dims = tuple(shapes.integer("transpose", what, dim, -2**31) for what, dim in (("dim0", dim0), ("dim1", dim1)))
    if isinstance(x, View):
        return x.transpose(*dims)
    return computed("transpose", lambda x: moving.transpose(x, *dims), {"x": x}, dims)


def pad(x: Images, pad: Sequence[int], mode: str = "constant", value: float | None = None) -> Images:
    """x with elements around it. x: a value or an array, (N, C, H, W), (N, H, W) or (N, features).

    pad: (left, right), (left, right, top, bottom) or, of images in the mode "constant", (left, right, top, bottom,
    first, last) with channels before the first and after the last, in elements; negative numbers cut. mode:
    "constant", `value` outside; "reflect", mirrored at the edge, which is not repeated; or "replicate", the edge
    repeated. value: a number, which may be infinite; None is 0.
    """
    if not isinstance(pad, (tuple, list)):
        raise TypeError(f"pad: pad must be a tuple of integers, got {shapes.shown(pad)}")
    sides = tuple(shapes.integer("pad", "pad", n, -2**31) for n in pad)
    if len(sides) not in (2, 4, 6):
        raise ValueError(f"pad: pad must be (left, right), (left, right, top, bottom) or these and two numbers of "
                         f"channels, got {sides}")
    if not isinstance(mode, str) or mode not in moving.MODES:
        raise ValueError(f"pad: mode must be one of {', '.join(map(repr, moving.MODES))}, got {mode!r}")
    value = moving.around("pad", 0.0 if value is None else value)
    return computed("pad", lambda x: moving.pad(x, sides, mode, value), {"x": x}, (sides, mode, value))


def interpolate(x: Images, size: Size | Length | None = None, scale_factor: float | tuple[float, ...] | None = None,
                mode: str = "nearest", align_corners: bool | None = None) -> Images:
    """x resampled. x: a value or an array, (N, C, H, W) or (N, C, L).

    size: of the result, an int or (height, width), of sequences an int; or scale_factor, by how much larger it is, a
    number or, of images, a pair. mode: "nearest", or "bilinear", of sequences "linear", with align_corners as in
    PyTorch: whether the corners' centres stay where they are, instead of their outer edges. Raises TypeError or
    ValueError for anything else.
    """
    name = "interpolate"
    if (size is None) == (scale_factor is None):
        raise ValueError(f"{name}: size or scale_factor must be given, and not both")
    row = getattr(x, "ndim", 4) == 3
    smooth, what = ("linear", "sequences (N, C, L)") if row else ("bilinear", "images (N, C, H, W)")
    if not isinstance(mode, str) or mode not in ("nearest", smooth):
        raise ValueError(f"{name}: mode must be 'nearest' or {smooth!r} for {what}, got {mode!r}")
    if mode == "nearest" and align_corners is not None:
        raise ValueError(f"{name}: align_corners must be None with mode 'nearest', got {align_corners!r}")
    pair = None if size is None else (shapes.row if row else shapes.pair)(name, "size", size, 1)
    factors: tuple | None = None if scale_factor is None else tuple(scale_factor) if isinstance(
        scale_factor, (tuple, list)) else (scale_factor,) * (2 - row)
    if factors is not None:
        factors = tuple(shapes.number(name, "scale_factor", f, above=0) for f in factors)
        if len(factors) != 2 - row:
            raise ValueError(f"{name}: scale_factor must be a number{'' if row else ' or a pair'}, got "
                             f"{shapes.shown(scale_factor)}")
        factors = (1.0,) * row + factors

    def of_value(x: Value) -> Value:
        sizes = (1, *x.image[1:]) if row else x.image[-2:]
        to = pair or tuple(int(min(n * f, shapes.MAX_SIZE)) for n, f in zip(sizes, factors or (), strict=True))
        if min(to) < 1:
            raise ValueError(f"{name}: scale_factor must leave a pixel, got {scale_factor} for {shapes.batch(x.image)}")
        images = build.as_rows(name, x) if row else x
        y = moving.interpolated(images, to, mode, bool(align_corners), factors or (None, None))
        return build.without_rows(y) if row else y
    return computed(name, of_value, {"x": x}, (pair, factors, mode, bool(align_corners)))


@also_one(3)
def pixel_shuffle(x: Images, upscale_factor: int) -> Images:
    """(N, C r^2, H, W) to (N, C, H r, W r): y[c, i r + m, j r + n] = x[c r^2 + m r + n, i, j]. x: a value or an array;
    upscale_factor: r. Shi et al. 2016."""
    factor = shapes.integer("pixel_shuffle", "upscale_factor", upscale_factor, 1)
    return computed("pixel_shuffle", lambda x: moving.shuffled(x, factor, False, "pixel_shuffle"), {"x": x}, (factor,))


@also_one(3)
def pixel_unshuffle(x: Images, downscale_factor: int) -> Images:
    """`pixel_shuffle` the other way round: (N, C, H r, W r) to (N, C r^2, H, W). x: a value or an array;
    downscale_factor: r."""
    factor = shapes.integer("pixel_unshuffle", "downscale_factor", downscale_factor, 1)
    return computed("pixel_unshuffle", lambda x: moving.shuffled(x, factor, True, "pixel_unshuffle"), {"x": x},
                    (factor,))


def channel_shuffle(x: Images, groups: int) -> Images:
    """Channels c of g groups of n in the order (c mod g) n + c div g: those of all groups in turn. x: a value or an
    array, (N, C, H, W); groups: g, a divisor of C. Zhang et al. 2018."""
    shapes.integer("channel_shuffle", "groups", groups, 1)

    def of_value(x: Value) -> Value:
        if len(x.image) != 3:
            raise ValueError(f"channel_shuffle: x must have shape (N, C, H, W), got {shapes.batch(x.image)}")
        channels = x.image[0]
        g = shapes.divisor("channel_shuffle", "groups", groups, channels)
        return moving.permuted(x, np.arange(channels).reshape(g, -1).T.ravel().tolist())
    return computed("channel_shuffle", of_value, {"x": x}, (groups,))


def cat(values: Sequence[Images], dim: int | None = None) -> Images:
    """All values one after the other along an axis. values: a list of values or of arrays, (N, C, H, W), (N, H, W) or
    (N, features), at least one, of shapes that differ in that axis only; dim: 1, the default (channels or features),
    and up, or negative. Of Parameters alone, and what is computed from them, any axis, by default 0. Raises TypeError
    or ValueError for anything else."""
    return _joined("cat", moving.cat, values, dim)


def stack(values: Sequence[Images], dim: int | None = None) -> Images:
    """Values of one shape side by side along a new axis. values: a list of values or of arrays, (N, H, W),
    (N, features) or (N,); dim: the axis of the result, 1, the default, and up, or negative; of Parameters alone as in
    `cat`. Raises TypeError or ValueError for anything else."""
    return _joined("stack", moving.stack, values, dim)


def _joined(name: str, function: Callable[..., Value], values: Sequence[Images], dim: int | None) -> Any:
    listed = shapes.listed(name, "values", values, "values, or of arrays")
    if derived.computes(*listed) and not any(isinstance(value, (Value, View)) for value in listed):
        return derived.joined(name, listed, 0 if dim is None else dim)
    dim = 1 if dim is None else dim
    if not listed or not all(isinstance(value, np.ndarray) for value in listed):
        return function(listed, dim)
    dim = shapes.integer(name, "dim", dim, -2**31)
    return computed(name, lambda *values: function(values, dim), {
        f"values[{i}]": value for i, value in enumerate(listed)}, (dim,))


def split(x: Images, split_size: int | Sequence[int], dim: int = 1) -> tuple[Images, ...]:
    """x cut along an axis. x: a value or an array, (N, C, H, W), (N, H, W) or (N, features); split_size: the size of
    each part, of which the last may be smaller, or a list of sizes; dim: the axis, 1 and up, or negative. Returns a
    tuple of values or arrays. Raises TypeError or ValueError for anything else."""
    if not isinstance(x, np.ndarray):
        return moving.split(x, split_size, dim)
    x, like = _checked("split", x)
    return tuple(x[index].copy() for index in moving.parts(like, split_size, dim))


def chunk(x: Images, chunks: int, dim: int = 1) -> tuple[Images, ...]:
    """x cut into so many parts of one size, of which the last may be smaller and some missing, as in PyTorch. x: a
    value or an array, (N, C, H, W), (N, H, W) or (N, features); chunks: a number, at least 1; dim: the axis. Returns a
    tuple of values or arrays."""
    if not isinstance(x, np.ndarray):
        return moving.chunk(x, chunks, dim)
    x, like = _checked("chunk", x)
    return split(x, moving.chunk_size(like, chunks, dim), dim)


def _checked(name: str, x: np.ndarray) -> tuple[np.ndarray, Value]:
    """An array of images, checked, and a value of its shape."""
    x = shapes.array(name, "x", x)
    if not 2 <= x.ndim <= 4:
        raise ValueError(f"{name}: x must have shape (N, C, H, W), (N, H, W) or (N, features), got {x.shape}")
    return x, Value(None, x.shape[1:], x.dtype)


def upsample(x: Images, size: Size | Length | None = None, scale_factor: float | tuple[float, ...] | None = None,
             mode: str = "nearest", align_corners: bool | None = None) -> Images:
    """`interpolate`, by its name before, of the same x, (N, C, H, W) or (N, C, L), size, scale_factor, mode and
    align_corners."""
    return interpolate(x, size, scale_factor, mode, align_corners)


def full_like(x: Images, fill_value: float) -> Images:
    """The number `fill_value` in the shape of x, a value or an array (N, ...), through which no gradient goes.
    fill_value: a number, which may be infinite."""
    number = moving.around("full_like", fill_value, "fill_value")
    if isinstance(x, Value):
        return value_of("full_like", np.full(x.image, number, x.dtype), x)
    return np.full_like(shapes.array("full_like", "x", x), number)


def zeros_like(x: Images) -> Images:
    """Zeros in the shape of x, a value or an array (N, ...)."""
    return full_like(x, 0.0)


def ones_like(x: Images) -> Images:
    """Ones in the shape of x, a value or an array (N, ...)."""
    return full_like(x, 1.0)
