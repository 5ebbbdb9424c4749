"""ONNX's operators that change shapes, and sums over axes: rows of TABLE in onnx_operators.py."""
from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from cnn.export import onnx_batch, onnx_pixels
from cnn.export.onnx_arithmetic import NONZERO, ones
from cnn.export.onnx_folding import axes_of, axis_in, slices
from cnn.export.onnx_reading import Refused
from cnn.export.onnx_values import Known, Live, N, Part, shown
from cnn.graph.build import COMPARISONS

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from cnn.export.onnx_importing import Importer
    from cnn.export.onnx_values import NodeView


def reshape(i: Importer, node: NodeView) -> Live | Part:
    given, known = node.inputs[0], node.known(1, "shape")
    x = given.of if onnx_pixels.is_cut(given) else node.live()
    now = given.more["dims"] if onnx_pixels.is_cut(given) else x.dims
    target = known.array.reshape(-1).tolist()
    keeps = not node.integer("allowzero", 0)
    count = math.prod(now)
    dims: list[Any] = []
    for j, n in enumerate(target):
        n = ([N, *now][j] if j <= len(now) else 0) if keeps and isinstance(n, int) and n == 0 else n
        dims.append(n)
    first, rest = (dims[0], dims[1:]) if dims else (1, [])
    if not dims or any(n is N for n in rest) or rest.count(-1) > 1 or 0 in rest:
        raise Refused(f"shape must be (N, C, H, W), (N, C, L) or (N, features), got {shown(known.array)}")
    if -1 in rest:
        others = math.prod(n for n in rest if n != -1)
        if first == -1 or count % others:
            raise Refused(f"shape {shown(known.array)} does not fit {count} elements per image")
        rest = [count // others if n == -1 else n for n in rest]
    if math.prod(rest) != count:
        raise Refused(f"shape must keep the {count} elements per image, got {shown(known.array)}")
    if onnx_pixels.is_cut(given):
        return onnx_pixels.joined(i, given, rest)
    if x.rank == 4 and len(rest) > 3:
        return onnx_pixels.cut(x, rest)
    return _norm_back(i, i.reshaped(x, rest)) if x.rank == 3 else i.reshaped(x, rest)


def _norm_back(i: Importer, y: Live) -> Live:
    """A group norm, where PyTorch has written it as an instance norm of each group as one channel."""
    back = i.made.get(y.name)
    inner = back and back.operation == "reshape" and i.made.get(back.inputs[0])
    if not inner or inner.operation != "group_norm" or inner.parameters:
        return y
    there = i.made.get(inner.inputs[0])
    x = i.live[there.inputs[0]] if there and there.operation == "reshape" else None
    if x is None or x.value.image != y.value.image:
        return y
    return i.emit("group_norm", [x], y.rank, dict(inner.attributes))


def flatten(i: Importer, node: NodeView) -> Live:
    x = node.live()
    axis = node.integer("axis", 1)
    if axis not in (1, 1 - x.rank):
        node.refuse("axis", axis, "1")
    return i.reshaped(x, (math.prod(x.dims),))


def squeeze(i: Importer, node: NodeView) -> Live:
    x = node.live()
    axes = axes_of(node, x.rank)
    if axes is None:
        axes = [j + 1 for j, n in enumerate(x.dims) if n == 1]
    if 0 in axes or any(x.dims[axis - 1] != 1 for axis in axes):
        node.refuse("axes", axes, "of size 1, and not the images'")
    return i.reshaped(x, [n for j, n in enumerate(x.dims, 1) if j not in axes])


def unsqueeze(i: Importer, node: NodeView) -> Live:
    x = node.live()
    axes = node.ints(1, "axes") if node.opset >= 13 else node.get("axes")
    rank = x.rank + len(axes)
    axes = sorted(axis_in(node, axis, rank) for axis in axes)
    if 0 in axes:
        node.refuse("axes", axes, "others than 0, the images'")
    dims = iter(x.dims)
    return i.reshaped(x, [1 if j in axes else next(dims) for j in range(1, rank)])


def transpose(i: Importer, node: NodeView) -> Live | Part:
    given = node.inputs[0]
    if onnx_pixels.is_cut(given):
        return onnx_pixels.transposed(node, given)
    x = node.live()
    perm = node.integers("perm", list(range(x.rank))[::-1])
    sizes: list[Any] = [N, *x.dims]
    if sorted(perm) != list(range(x.rank)) or perm[0] != 0:
        node.refuse("perm", perm, "an order of all axes, that of the images first")
    moved = [j for j in perm if sizes[j] != 1]
    if moved == sorted(moved):
        return i.reshaped(x, [sizes[j] for j in perm[1:]])
    dims = [0, 3, 2, 1] if x.rank == 3 else perm        # (N, C, L) is (N, C, 1, L)
    before = i.before(x, "permute", alone=False)
    if before is None:
        return i.emit("permute", [x], None, {"dims": dims})
    first = i.live[before.inputs[0]]
    dims = [before.attributes["dims"][j] for j in dims]
    if dims == sorted(dims):
        return Live(first.value, first.name, x.rank)
    return i.emit("permute", [first], x.rank, {"dims": dims})


def expand(i: Importer, node: NodeView) -> Live:
    target = node.known(1, "shape").array.reshape(-1).tolist()
    if isinstance(node.inputs[0], Known):       # the same for every image
        if not target or target[0] is not N:
            raise Refused(f"shape must begin with the number of images, got {shown(node.inputs[1].array)}")
        return i.constant(node.inputs[0], len(target))
    x = node.live()
    if len(target) > x.rank or any(n is not N and n not in (1, m) for n, m in zip(
            target[::-1], [N, *x.dims][::-1], strict=False)):
        raise Refused(f"shape must be that of its input, got {shown(node.inputs[1].array)}")
    return x


def dim_of(x: Live, axis: int) -> int:
    """The axis of our value, 1 to 3, that an axis in the file is."""
    return 3 if x.rank == 3 and axis == 2 else axis


def picked(i: Importer, x: Live, tables: dict[int, list[int]], operation: str = "strided_slice",
           value: float = 0.0) -> Live:
    """Elements of x by tables of the file's axes; an entry of -1, but for channels, stands for a number."""
    if not tables:
        return x
    three: list[list[int] | None] = [None, None, None]
    for axis, table in tables.items():
        three[dim_of(x, axis) - 1] = table
    i.spend(sum(map(len, tables.values())))
    if x.rank == 2 and min(tables[1]) < 0:
        wide = i.emit(operation, [i.reshaped(x, (1, 1, x.dims[0]))], 4, {"tables": [None, None, tables[1]],
                                                                         "value": value})
        return i.reshaped(wide, wide.dims[2:])
    return i.emit(operation, [x], None, {"tables": three, "value": value})


def sliced(i: Importer, node: NodeView) -> Live:
    x, tables = node.live(), {}
    for axis, start, end, step in slices(node, x.rank):
        if axis == 0:
            if start != 0 or end < 2**31 - 1 or step != 1:
                node.refuse("axes", f"0 with starts {start}, ends {end}, steps {step}", "others than the images'")
            continue
        if step == 0:
            raise Refused("steps must not be 0")
        n = x.dims[axis - 1]
        chosen = range(n)[slice(start, None if step < 0 and end <= -n - 1 else end, step)]
        if not chosen:
            raise Refused(f"it must leave something of {n}, got {start} to {end}")
        if chosen != range(n):
            tables[axis] = chosen
    return _parts(i, x, tables)


def _parts(i: Importer, x: Live, tables: dict[int, range]) -> Live:
    first = tables.get(1)
    if set(tables) == {1} and first is not None and first.step == 1:
        return i.emit("slice", [x], None, {"first": first.start, "stop": first.stop})
    return picked(i, x, {axis: list(chosen) for axis, chosen in tables.items()})


def split(i: Importer, node: NodeView) -> list:
    x = node.live()
    axis = axis_in(node, node.integer("axis", 0), x.rank)
    if axis == 0:
        node.refuse("axis", axis, "another than the images'")
    n = x.dims[axis - 1]
    sizes = (node.ints(1, "split") if node.has(1) else None) if node.opset >= 13 else node.get("split")
    count = node.integer("num_outputs", len(node.outputs))
    if sizes is None:
        if not 1 <= count <= n:
            node.refuse("num_outputs", count, f"from 1 to {n}")
        each = -(-n // count)
        sizes = [each] * (count - 1) + [n - each * (count - 1)]
    if sum(sizes) != n or min(sizes) < 1 or len(sizes) != len(node.outputs):
        raise Refused(f"split must be {len(node.outputs)} sizes that add up to {n}, got {sizes}")
    ends = np.cumsum(sizes).tolist()
    return [_parts(i, x, {axis: range(end - size, end)}) for size, end in zip(sizes, ends, strict=True)]


def concat(i: Importer, node: NodeView) -> Live:
    xs = [node.live(j) for j in range(len(node.inputs))]
    axis = axis_in(node, node.get("axis", 1), xs[0].rank)
    if len({x.rank for x in xs}) > 1:
        raise Refused("its inputs must have the same number of axes")
    if axis == 1:
        return i.emit("cat", xs) if len(xs) > 1 else xs[0]
    if axis == 0:
        node.refuse("axis", axis, "another than the images'")
    if any(math.prod(x.dims[:axis - 1]) != 1 for x in xs):
        return i.emit("cat_along", xs, None, {"dim": dim_of(xs[0], axis)})
    dims = (*xs[0].dims[:axis - 1], sum(x.dims[axis - 1] for x in xs), *xs[0].dims[axis:])
    return i.reshaped(i.emit("cat", [i.reshaped(x, x.dims[axis - 1:]) for x in xs]), dims)


def reduce(kind: str, since: int) -> Callable:
    """A sum, mean or maximum over neighbouring axes. since: the opset from which axes are an input."""
    def run(i: Importer, node: NodeView) -> Live | Part:
        x = (onnx_batch.squares(node.inputs[0]) if kind == "mean" else None) or node.live()
        axes, keep = axes_of(node, x.rank, 1, since) or [], bool(node.integer("keepdims", 1))
        if not axes:
            if node.integer("noop_with_empty_axes", 0):
                return x
            node.refuse("axes", "none", "some, and not the images'")
        node.get("noop_with_empty_axes")
        of_batch = onnx_batch.mean(node, x, axes, keep) if kind == "mean" else None
        if of_batch is not None:
            return of_batch
        x = node.live()     # and not a step of a batch norm
        dims = [1 if j in axes else n for j, n in enumerate(x.dims, 1)]
        wide = sorted({j for j in axes if j == 0 or x.dims[j - 1] > 1})     # others are summed already
        y, last = x, x.rank - 1
        if 0 in axes:
            node.refuse("axes", axes, "others than the images'")
        if kind == "min" or (1 in wide and wide != list(range(1, wide[-1] + 1))):       # no neighbours
            name = {"min": "amin", "max": "amax"}.get(kind, kind)
            if wide:
                y = i.emit(name, [y], None, {"dim": [dim_of(x, j) for j in wide]})
            return i.reshaped(y, dims if keep else [n for j, n in enumerate(dims, 1) if j not in axes])
        if 1 in wide:       # as rows of an image of one channel
            split = wide[-1]
            y, wide = i.reshaped(x, (1, math.prod(x.dims[:split]), math.prod(x.dims[split:]))), [2]
        elif last == 2:
            wide = [3 if j == 2 else j for j in wide]
        if wide and kind == "sum":
            y = i.emit("sum", [y], 4, {"dim": wide})
        elif wide:
            size = [1 if j in wide else n for j, n in enumerate(y.value.image, 1)][1:]
            y = i.emit("max_pool2d" if kind == "max" else "avg_pool2d", [y], 4, {"output_size": size})
        return i.reshaped(y, dims if keep else [n for j, n in enumerate(dims, 1) if j not in axes])
    return run


def same(i: Importer, node: NodeView) -> Live | Part:
    return node.inputs[0]


def cast(i: Importer, node: NodeView) -> Live | Part:
    kind, mask = node.integer("to", 0), node.inputs[0]
    if isinstance(mask, Part) and mask.kind in ("mask", NONZERO):
        if kind == 9:       # BOOL
            return mask
        x = ones(i, mask)
    else:
        x = node.live()
        if kind == 9:
            made = i.made.get(x.name)
            return Part("mask" if made and made.operation in COMPARISONS else NONZERO, x)
    if {1: np.float32, 11: np.float64}.get(kind) != i.dtype:
        node.refuse("to", kind, f"{i.dtype}, the type of the graph's input")
    return x
