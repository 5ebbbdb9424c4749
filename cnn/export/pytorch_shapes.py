"""PyTorch's functions that change shapes or choose elements: rows of the tables in pytorch_rows.py."""
from __future__ import annotations

import math
from typing import Any

import numpy as np

from cnn import functional
from cnn.export.pytorch_values import Moved, N, Refused, WithIndices, only, value_of
from cnn.graph import Value, apply, build, moving
from cnn.graph.derived import OWN
from cnn.graph.methods import as_sizes
from cnn.graph.views import View
from cnn.ops import reshaping


def size(t, input, dim=None):
    sizes = (N, *sizes_of(input))
    return sizes if dim is None else sizes[dim]


def sizes_of(x):
    if not isinstance(x, (Value, Moved)):
        raise Refused(f"its input must depend on the images, got {type(x).__name__}")
    return x.image


def attribute(t, input, name):
    if isinstance(input, WithIndices) and name == "values":
        return input.values
    if name == "shape":
        return size(t, input)
    if name == "ndim":
        return 1 + len(sizes_of(input))
    if name == "mT":
        return transpose(t, input, -2, -1)
    raise Refused(f"attribute {name} must be shape, ndim or mT")


def view(t, input, *shape):
    sizes = list(as_sizes(shape))
    count = math.prod(sizes_of(input))
    if not sizes or not all(n is N or isinstance(n, int) for n in sizes):
        raise Refused(f"shape must be integers, the first of them -1 or that of the input, got {tuple(sizes)}")
    first, rest = sizes[0], sizes[1:]
    if rest.count(-1) == 1 and first is N:
        others = math.prod(n for n in rest if n != -1)
        rest = [count // others if n == -1 and others else n for n in rest]
    if (first is not N and first != -1) or any(n is N or n < 1 for n in rest) or math.prod(rest) != count:
        raise Refused(f"shape must keep the {count} elements of each image, and their number, got {tuple(sizes)}")
    return reshaped(input, rest)


def reshaped(x, image):
    image = tuple(image)
    if isinstance(x, Moved) or len(image) > 3:
        return (x if isinstance(x, Moved) else Moved(x)).viewed(image)
    last = x.graph.nodes[-1] if x.graph.nodes else None
    pooled = last is not None and last.output is x and last.operation.name == "avg_pool2d" and not last.operation.flat
    if pooled and len(image) == 1 and last.operation.options.get("output_size") == (1, 1):
        return build.reduced("mean", last.inputs[0], (2, 3), False)     # one operation, as GlobalAvgPool2d is
    return build.reshaped(x, image)


def axis_of(x, dim, more=0):
    """An axis without the images, from 0."""
    rank = 1 + len(sizes_of(x)) + more
    if not isinstance(dim, int) or not -rank <= dim < rank or dim % rank == 0:
        raise Refused(f"dim must be an axis of the images' elements, 1 to {rank - 1}, got {dim}")
    return dim % rank - 1


def flatten(t, input, start_dim=0, end_dim=-1):
    image, first, last = sizes_of(input), axis_of(input, start_dim), axis_of(input, end_dim)
    return reshaped(input, (*image[:first], math.prod(image[first:last + 1]), *image[last + 1:]))


def unflatten(t, input, dim, sizes):
    image, axis = sizes_of(input), axis_of(input, dim)
    sizes = [image[axis] // -math.prod(sizes) if n == -1 else n for n in sizes]
    return reshaped(input, (*image[:axis], *sizes, *image[axis + 1:]))


def squeeze(t, input, dim=None):
    if dim is None:
        raise Refused("dim must be given: without it a batch of one image loses its axis")
    axes = [axis_of(input, d) for d in (dim if isinstance(dim, (tuple, list)) else (dim,))]
    return reshaped(input, [n for i, n in enumerate(sizes_of(input)) if i not in axes or n != 1])


def unsqueeze(t, input, dim):
    axis = axis_of(input, dim, 1)
    return reshaped(input, (*sizes_of(input)[:axis], 1, *sizes_of(input)[axis:]))


def permute(t, input, *dims):
    dims = as_sizes(dims)
    rank = 1 + len(sizes_of(input))
    axes = [d % rank for d in dims]
    if sorted(axes) != list(range(rank)):
        raise Refused(f"dims must be all axes, got {tuple(dims)}")
    if axes[0] != 0:        # as in qkv.permute(2, 0, 3, 1, 4), of which each part has the images first
        moved = input if isinstance(input, Moved) else Moved(input)
        return View(moved.of, moved.index[None]).permute(axes)
    return (input if isinstance(input, Moved) else Moved(input)).permuted([axis - 1 for axis in axes[1:]])


def transpose(t, input, dim0, dim1):
    a, b = axis_of(input, dim0), axis_of(input, dim1)
    axes = list(range(len(sizes_of(input))))
    axes[a], axes[b] = axes[b], axes[a]
    return (input if isinstance(input, Moved) else Moved(input)).permuted(axes)


def unbind(t, input, dim=0):
    """The parts along an axis, of which one that is not the images' may be first."""
    return input.unbind(dim) if isinstance(input, View) else value_of(input).unbind(axis_of(input, dim) + 1)


def getitem(t, input, index):
    if not isinstance(input, (Value, Moved)):
        return input[index]
    x, parts = value_of(input), list(index) if isinstance(index, tuple) else [index]
    if any(part is ... for part in parts):
        at = next(i for i, part in enumerate(parts) if part is ...)
        given = sum(part is not None and part is not ... for part in parts)
        parts[at:at + 1] = [slice(None)] * (x.ndim - given)
    for part in parts:
        if not (part is None or isinstance(part, (int, slice, list)) or isinstance(part, np.ndarray) and (
                part.dtype in (np.int32, np.int64))):       # of bytes PyTorch makes a mask
            raise Refused(f"a value is cut by slices, integers, lists of integers, None and ... here, got {index}")
    y = moving.sliced(x, tuple(part for part in parts if part is not None))
    if None not in [part for part in parts if part is None]:
        return y
    image: list[int] = []
    sizes = iter(y.image)
    for part in parts[1:]:
        if part is None or not isinstance(part, int):
            image.append(1 if part is None else next(sizes))
    return reshaped(y, [*image, *sizes])


def cat(t, tensors, dim=0, axis=None):
    return moving.cat([x if isinstance(x, OWN) else value_of(x, "each of tensors") for x in tensors],
                      dim if axis is None else axis)


def index_select(t, input, dim, index):
    x, axis = value_of(input), axis_of(input, dim)
    if not isinstance(index, np.ndarray):
        raise Refused("index must be a constant")
    plane = len(x.image) == 2
    tables: list[Any] = [None, None, None]
    tables[axis + plane] = index
    return apply(reshaping.Pick("strided_slice", tables, plane=plane), x)


def pad(t, input, pad, mode="constant", value=None):
    x, sides = value_of(input), list(pad)
    value = 0.0 if value is None else value
    if len(sides) == 6 and len(x.image) == 3:       # channels, as rows of a plane
        x, (front, back), sides = functional.pad(x, tuple(sides[:4]), mode, value), sides[4:], []
        only("mode", mode, "constant")
        channels, height, width = x.image
        y = functional.pad(build.reshaped(x, (1, channels, height * width)), (0, 0, front, back), mode, value)
        return build.reshaped(y, (y.image[1], height, width))
    return functional.pad(x, tuple(sides), mode, value)


def pad_module(mode, value=lambda m: 0.0):
    return lambda t, m, x: pad(t, x, m.padding, mode, value(m))


def interpolate(t, input, size=None, scale_factor=None, mode="nearest", align_corners=None,
                 recompute_scale_factor=None, antialias=False):
    only("antialias", antialias, False)
    x = value_of(input)
    if recompute_scale_factor and scale_factor is not None:
        factors = scale_factor if isinstance(scale_factor, (tuple, list)) else (
            scale_factor,) * (len(x.image) - 1)
        size, scale_factor = tuple(math.floor(n * f) for n, f in zip(x.image[1:], factors, strict=True)), None
    return functional.interpolate(x, size, scale_factor, mode, align_corners)


def same(t, input, *others, memory_format=None):
    return input


def same_type(kind):
    def row(t, input):
        if value_of(input).dtype != kind:
            raise Refused(f"it must keep the dtype {value_of(input).dtype}")
        return input
    return row
