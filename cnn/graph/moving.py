"""What slices, concatenation, padding and resampling of values add to their graph."""
from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from cnn import shapes
from cnn.graph.build import axes_of, reduced, reshaped, value_of, where
from cnn.graph.count import Count
from cnn.graph.trace import apply
from cnn.graph.value import Value
from cnn.ops import reshaping

if TYPE_CHECKING:
    from collections.abc import Sequence


def sliced(x, index):
    """x[:, a:b, c:d:s]; x[:, 2], which leaves the axis out; x[:, [2, 0, 1]]; x[:, None], a new axis; x[..., 1:]."""
    chosen, image = [], []      # indices of each axis; sizes of the result, None for axes that are left out
    parts = _parts(x, index)
    lists = sum(_is_list(part) for part in parts)
    if lists > 1 or lists and any(isinstance(part, (int, np.integer)) for part in parts):
        raise TypeError(f"a value must be cut by one list of integers, with slices beside it, got "
                        f"{shapes.shown(index)}; one axis after the other is x[:, 0][:, [2, 1]]")
    for part in parts:
        if part is None:
            image.append(1)
            continue
        axis = len(chosen)
        chosen.append(_chosen(x.image[axis], axis + 1, part))
        if not isinstance(part, (int, np.integer)):
            image.append(len(chosen[-1]))
    return in_axes(_taken(x, chosen), image)


def _parts(x, index):
    """The parts of an index for all axes but the images', without `...`; None is a new axis."""
    index = index if isinstance(index, tuple) else (index,)
    dots = [i for i, part in enumerate(index) if part is Ellipsis]
    given = sum(part is not None and part is not Ellipsis for part in index)
    if len(dots) > 1 or given > x.ndim:
        raise TypeError(f"a value of {x.ndim} axes must be cut as in x[:, 2:5], with all images, got "
                        f"{shapes.shown(index)}")
    at = dots[0] if dots else len(index)
    parts = [*index[:at], *[slice(None)] * (x.ndim - given), *index[at + 1:]]
    first = parts[0]
    if not index or not isinstance(first, slice) or any(b is not None for b in (first.start, first.stop, first.step)):
        raise TypeError(f"a value of {x.ndim} axes must be cut as in x[:, 2:5], with all images, got "
                        f"{shapes.shown(index)}")
    return parts[1:]


def _is_list(part):
    return isinstance(part, (list, tuple, range, np.ndarray))


def _chosen(n, axis, part):
    """The indices from 0 that a part of an index chooses of n: a range or a list."""
    if isinstance(part, slice):
        if not all(bound is None or isinstance(bound, (int, np.integer)) for bound in (part.start, part.stop)):
            raise TypeError(f"slice: bounds must be integers or None, got [{shapes.shown(part.start)}:"
                            f"{shapes.shown(part.stop)}]")
        if part.step is not None and shapes.integer("slice", "step", part.step, -2**31) < 1:
            raise ValueError(f"slice: step must be at least 1, got {part.step}")
        chosen = range(*part.indices(n))
        if not chosen:
            raise ValueError(f"slice: there must be something left of the {n} of axis {axis}, got "
                             f"[{part.start}:{part.stop}]")
        return chosen
    indices = list(part) if _is_list(part) and getattr(part, "ndim", 1) == 1 else [part]
    if not all(isinstance(i, (int, np.integer)) and not isinstance(i, bool) for i in indices):
        raise TypeError(f"a value must be cut by slices, integers, a list of integers, None and ..., got "
                        f"{shapes.shown(part)}; a mask goes into cnn.functional.where(mask, x, 0)")
    for i in indices:
        if not -n <= i < n:
            raise ValueError(f"slice: index {i} is beyond the {n} of axis {axis}")
    if not indices:
        raise ValueError(f"slice: there must be something left of the {n} of axis {axis}, got []")
    return [i % n for i in indices] if _is_list(part) else range(indices[0] % n, indices[0] % n + 1)


def _taken(x, chosen):
    """x at these indices of each axis."""
    whole = [list(indices) == list(range(n)) for indices, n in zip(chosen, x.image, strict=True)]
    if all(whole):
        return x
    plane = len(x.image) == 2
    first = chosen[0]
    if not plane and all(whole[1:]) and isinstance(first, range) and first.step == 1:
        return apply(reshaping.Channels(first.start, first.stop), x)
    tables = [None if entire else np.array(indices) for indices, entire in zip(chosen, whole, strict=True)]
    tables = [None] * plane + tables
    words = {"index": ", ".join(["all", *(
        f"{c.start}:{c.stop}:{c.step}" if isinstance(c, range) else shapes.shown(c) for c in chosen)])}
    return apply(reshaping.Pick("strided_slice", tables + [None] * (3 - len(tables)), plane=plane, words=words), x)


def in_axes(x, image):
    """A value in another shape of as many elements; with more than four axes it is a View."""
    if len(image) < 4:
        return reshaped(x, image)
    from cnn.graph import views
    return views.viewed(x, np.arange(math.prod(x.image)), (-1, *image))


def permuted(x, order):
    """Channels in another order: y[:, c] = x[:, order[c]]."""
    order = [shapes.integer("permute_channels", "order", c, 0, x.image[0] - 1) for c in order]
    words = {"order": shapes.shown(order)}
    return apply(reshaping.Pick("permute_channels", [np.array(order), None, None], words=words), x)


def cat(values: Sequence[Any], dim: int = 1) -> Value:
    """cnn.functional.cat of values."""
    if not isinstance(values, (str, bytes)) and any(hasattr(value, "joined") for value in values):
        return next(value for value in values if hasattr(value, "joined")).joined(values, dim)
    listed = _all_values("cat", values)
    axis, = axes_of("cat", listed[0], dim)
    if len(listed) == 1:
        return listed[0]
    plane = len(listed[0].image) == 2
    if not axis and not plane:
        return apply(reshaping.Concat(), *listed)
    return apply(reshaping.ConcatAlong(axis + plane, plane), *listed)


def stack(values: Sequence[Any], dim: int = 1) -> Value:
    """cnn.functional.stack of values."""
    values = _all_values("stack", values)
    image = values[0].image
    if any(value.image != image for value in values):
        raise ValueError(f"stack: all values must have one shape, got {', '.join(str(v.shape) for v in values)}")
    axis = shapes.integer("stack", "dim", dim, -len(image) - 1, len(image) + 1) % (len(image) + 2) - 1
    if axis < 0:
        raise ValueError(f"stack: dim must not be that of the images, 0, got {dim}")
    if len(image) == 1 and axis == 1:       # (N, F, 1): planes, of which the columns are joined
        return cat([reshaped(value, (*image, 1)) for value in values], 2)
    if len(image) == 3:
        before, after = math.prod(image[:axis]), math.prod(image[axis:])
        y = cat([reshaped(value, (before, 1, after)) for value in values], 2)
        return in_axes(y, (*image[:axis], len(values), *image[axis:]))
    return cat([reshaped(value, (*image[:axis], 1, *image[axis:])) for value in values], axis + 1)


def _all_values(owner, values):
    listed = shapes.listed(owner, "values", values, "values, or of arrays")
    like = next((value for value in listed if isinstance(value, Value)), None)
    if like is not None:        # Parameters and arrays among them are the same for every image
        listed = [value_of(owner, value, like) for value in listed]
    if not listed or not all(isinstance(value, Value) for value in listed):
        raise TypeError(f"{owner}: values must be a list of values, or one of arrays, at least one, got "
                        f"{', '.join(type(value).__name__ for value in listed) or 'none'}")
    return listed


def split(x: Value, split_size: int | Sequence[int], dim: int = 1) -> tuple[Value, ...]:
    """cnn.functional.split of a value."""
    return tuple(sliced(x, index) for index in parts(x, split_size, dim))


def parts(x: Value, split_size: int | Sequence[int], dim: int) -> list[tuple[slice, ...]]:
    """What cuts x, a value, into the parts that `split` returns."""
    if not isinstance(x, Value):
        raise TypeError(f"split: x must be a value or an array, got {type(x).__name__}")
    axis, = axes_of("split", x, dim)
    n = x.image[axis]
    if isinstance(split_size, (tuple, list)):
        sizes = [shapes.integer("split", "split_size", size, 1) for size in split_size]
        if sum(sizes) != n:
            raise ValueError(f"split: split_size must add up to {n}, got {sizes}")
    else:
        size = shapes.integer("split", "split_size", split_size, 1)
        sizes = [min(size, n - first) for first in range(0, n, size)]
    ends = np.cumsum([0, *sizes]).tolist()
    whole = (slice(None),) * (axis + 1)
    return [(*whole, slice(first, last)) for first, last in zip(ends, ends[1:], strict=False)]


def chunk(x: Value, chunks: int, dim: int = 1) -> tuple[Value, ...]:
    """cnn.functional.chunk of a value."""
    return split(x, chunk_size(x, chunks, dim), dim)


def chunk_size(x: Value, chunks: int, dim: int) -> int:
    """The size of the parts that `chunk` returns."""
    if not isinstance(x, Value):
        raise TypeError(f"chunk: x must be a value or an array, got {type(x).__name__}")
    axis, = axes_of("chunk", x, dim)
    return -(-x.image[axis] // shapes.integer("chunk", "chunks", chunks, 1))


def flatten(x, start_dim=1, end_dim=-1):
    """Axes start_dim to end_dim in one."""
    (first,), (last,) = axes_of("flatten", x, start_dim), axes_of("flatten", x, end_dim)
    if last < first:
        raise ValueError(f"flatten: end_dim must not be before start_dim, got {start_dim} and {end_dim}")
    return reshaped(x, (*x.image[:first], math.prod(x.image[first:last + 1]), *x.image[last + 1:]))


def unsqueeze(x, dim):
    """A new axis of size 1 before the axis `dim`."""
    axis = shapes.integer("unsqueeze", "dim", dim, -x.ndim - 1, x.ndim) % (x.ndim + 1) - 1
    if axis < 0:
        raise ValueError(f"unsqueeze: dim must not be that of the images, 0, got {dim}")
    return in_axes(x, (*x.image[:axis], 1, *x.image[axis:]))


def squeeze(x, dim=None):
    """Without the axes `dim`, one or several, that are of size 1; None: without all of size 1 but the images'."""
    axes = axes_of("squeeze", x, dim, None)
    return reshaped(x, [n for axis, n in enumerate(x.image) if axis not in axes or n != 1])


def gather(x, dim, index):
    """The element of x at the index that a value has for each row along an axis, which stays with size 1; NaN where
    there is no such element."""
    axis, = axes_of("gather", x, dim)
    one = (*x.image[:axis], 1, *x.image[axis + 1:])
    if not isinstance(index, Value) or index.image != one:
        raise ValueError(f"gather: index must be a value of shape {shapes.batch(one)}, one index for each row of "
                         f"{shapes.batch(x.image)}, got {getattr(index, 'shape', type(index).__name__)}")
    there = index == np.arange(x.image[axis]).reshape(-1, *(1,) * (len(x.image) - axis - 1))
    return reduced("sum", where(there, x, 0.0), axis + 1, True) / reduced(
        "sum", there, axis + 1, True)


def expand(x, sizes):
    """Axes of size 1 repeated to `sizes`, the images' first; -1: as it is."""
    sizes = [-1 if isinstance(n, Count) else shapes.integer("expand", "sizes", n, -1) for n in sizes]
    if len(sizes) != x.ndim or sizes[0] != -1 or any(
            n != old and not (n > 0 and old == 1) for n, old in zip(sizes[1:], x.image, strict=False) if n != -1):
        raise ValueError(f"expand: sizes must be those of {shapes.batch(x.image)}, the images' -1 or x.size(0), where "
                         f"only axes of size 1 may grow, got {tuple(sizes)}")
    grown = [1 if n in (-1, old) else n for n, old in zip(sizes[1:], x.image, strict=True)]
    return x if math.prod(grown) == 1 else x * np.ones(grown)


def permute(x, dims):
    """The axes in the order `dims`, of which the first is 0."""
    dims = [shapes.integer("permute", "dims", dim, -x.ndim, x.ndim - 1) % x.ndim for dim in dims]
    if sorted(dims) != list(range(x.ndim)) or dims[0] != 0:
        raise ValueError(f"permute: dims must be all axes of {shapes.batch(x.image)}, 0, that of the images, first, "
                         f"got {tuple(dims)}")
    return in_order(x, [dim - 1 for dim in dims[1:]], "permute")


def transpose(x, dim0, dim1):
    """Two axes in each other's place."""
    (a,), (b,) = axes_of("transpose", x, dim0), axes_of("transpose", x, dim1)
    axes = list(range(len(x.image)))
    axes[a], axes[b] = b, a
    return in_order(x, axes, "transpose")


def in_order(x, axes, owner):
    """The axes of an image in another order."""
    moved = [axis for axis in axes if x.image[axis] != 1]
    if moved == sorted(moved):      # no element changes its place
        return reshaped(x, [x.image[axis] for axis in axes])
    return apply(reshaping.Permute(owner, axes), x)


def transpose_of(index):
    """(shape, axes) of at most three axes: numbers from 0 in this shape, transposed by these axes, are in the order of
    those in `index`, an array of any shape. None where it takes more axes, or is no transpose."""
    runs, first = [], index.ravel()     # (step, count), the innermost first
    while first.size > 1:
        ends = np.flatnonzero(np.diff(first) != first[1] - first[0])
        count = int(ends[0]) + 1 if len(ends) else first.size
        if first.size % count or len(runs) == 3:
            return None
        runs.append((int(first[1] - first[0]), count))
        first = first[::count]
    order = sorted(runs, reverse=True)
    shape, axes = [count for _, count in order], [order.index(run) for run in reversed(runs)]
    if not np.array_equal(np.arange(index.size).reshape(shape).transpose(axes).ravel(), index.ravel()):
        return None
    return shape, axes


MODES = ("constant", "reflect", "replicate")


def around(owner, value, name="value"):
    """A number that elements are filled with, which may be infinite. Raises TypeError or ValueError for no number."""
    infinite = isinstance(value, (float, np.floating)) and np.isinf(value)
    return float(value) if infinite else shapes.number(owner, name, value)


def pad(x, sides, mode, value):
    """sides: (left, right), (left, right, top, bottom) or these and (first, last) of channels; negative ones cut."""
    if len(sides) == 6:
        return _with_channels(pad(x, sides[:4], mode, value) if any(sides[:4]) else x, sides[4:], mode, value)
    pairs = [tuple(sides[i:i + 2]) for i in range(0, len(sides), 2)]
    plane, rank = len(x.image) == 2, len(x.image)
    if len(pairs) > min(rank, 2):
        raise ValueError(f"pad: pad must have two numbers for each of the last axes, {2 * min(rank, 2)} at most for "
                         f"{shapes.batch(x.image)}, got {len(sides)}")
    tables = [None, None, None]
    for k, (before, after) in enumerate(pairs):
        axis = rank - 1 - k
        n = x.image[axis]
        left = n + min(before, 0) + min(after, 0)
        if left < 0 or n + before + after < 1 or (mode == "reflect" and max(before, after) >= n):
            raise ValueError(f"pad: pad must cut at most {n} elements, leave one, and with reflect be less than the "
                             f"size, got {(before, after)}")
        shapes.block("pad", "output", n + before + after)       # before a table is made for it
        at = np.arange(-before, n + after)
        if mode == "constant":
            at = np.where((at < 0) | (at >= n), -1, at)
        else:
            at = np.clip(at, 0, n - 1) if mode == "replicate" else n - 1 - np.abs(n - 1 - np.abs(at))
        tables[axis + plane] = at
        if rank == 1 and mode == "constant" and (before > 0 or after > 0):      # channels have no table entry of -1
            wide = pad(reshaped(x, (1, n)), sides, mode, value)
            return reshaped(wide, wide.image[1:])
    return apply(reshaping.Pick("pad", tables, value, plane, {"pad": tuple(sides), "mode": mode}), x)


def _with_channels(x, sides, mode, value):
    """x with channels of a number before its first and after its last; without some where that is negative."""
    count = x.image[0] + sum(sides)
    if len(x.image) != 3 or mode != "constant" or min(x.image[0] + min(n, 0) for n in sides) < 0 or count < 1:
        raise ValueError(f"pad: pad must add channels to images (N, C, H, W) in the mode 'constant', and leave one, "
                         f"got {sides} for {shapes.batch(x.image)} and {mode!r}")
    shapes.block("pad", "output", count, *x.image[1:])
    first, last = sides
    x = x[:, max(0, -first):x.image[0] + min(0, last)]
    around = [value_of("pad", np.full((n, *x.image[1:]), value, x.dtype), x) if n > 0 else None for n in sides]
    return cat([part for part in (around[0], x, around[1]) if part is not None])


def interpolated(x, size, mode, align, scales):
    """Nearest or bilinear, to a size (H, W); scales: (rows, columns), where they are given."""
    if len(x.image) != 3:
        raise ValueError(f"interpolate: x must have shape (N, C, H, W), got {shapes.batch(x.image)}")
    shapes.block("interpolate", "output", x.image[0], *size)    # before tables are made for it
    words = {"size": shapes.times(size), "mode": mode}
    if mode == "nearest":
        tables = [reshaping.nearest(n, out, scale) for n, out, scale in zip(x.image[1:], size, scales, strict=True)]
        return apply(reshaping.Pick("interpolate", [None, *tables], words=words), x)
    rows, columns = (reshaping.neighbours(n, out, align, scale)
                     for n, out, scale in zip(x.image[1:], size, scales, strict=True))
    return apply(reshaping.Bilinear("interpolate", rows, columns, words | {"align_corners": align}), x)


def shuffled(x, factor, back, owner):
    if len(x.image) != 3:
        raise ValueError(f"{owner}: x must have shape (N, C, H, W), got {shapes.batch(x.image)}")
    return apply(reshaping.PixelShuffle(owner, factor, back), x)
