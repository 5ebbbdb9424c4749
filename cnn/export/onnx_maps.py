"""ONNX's functions of each element, comparisons, and operators that choose or resample elements: rows of TABLE in
onnx_operators.py."""
from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from cnn.export.onnx_arithmetic import NONZERO, ones
from cnn.export.onnx_folding import axis_in
from cnn.export.onnx_reading import Refused
from cnn.export.onnx_shapes import picked
from cnn.export.onnx_values import Known, Live, Part, number_of, shown

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from cnn.export.onnx_importing import Importer
    from cnn.export.onnx_values import NodeView

MOST = 2**20        # pixels of padding a side, and of a resampled side


def plain(operation: str) -> Callable:
    """A function of each element without numbers."""
    return lambda i, node: i.emit(operation, [node.live()])


def elu(i: Importer, node: NodeView) -> Live:
    return i.emit("elu", [node.live()], None, {"alpha": node.number("alpha", 1.0)})


def selu(i: Importer, node: NodeView) -> Live:
    """gamma elu(x)"""
    y = i.emit("elu", [node.live()], None, {"alpha": node.number("alpha", 1.6732632)})
    return i.emit("affine", [y], None, {"factor": node.number("gamma", 1.0507010)})


def hard_sigmoid(i: Importer, node: NodeView) -> Live:
    """max(0, min(1, alpha x + beta))"""
    x, alpha, beta = node.live(), node.number("alpha", 0.2), node.number("beta", 0.5)
    if math.isclose(alpha, 1 / 6, rel_tol=1e-6) and beta == 0.5:
        return i.emit("hardsigmoid", [x])
    return i.emit("clamp", [i.emit("affine", [x], None, {"factor": alpha, "summand": beta})], None,
                  {"min": 0.0, "max": 1.0})


def softplus(i: Importer, node: NodeView) -> Live:
    """log(1 + e^x), which is x above the threshold but for rounding."""
    return i.emit("softplus", [node.live()], None, {"beta": 1.0, "threshold": 40.0})


def clip(i: Importer, node: NodeView) -> Live:
    x, bounds = node.live(), []
    for j, name in ((1, "min"), (2, "max")):
        if node.opset < 11:
            bounds.append(node.get(name))
        elif node.has(j):
            number = node.known(j, name).array
            if number.size != 1:
                raise Refused(f"{name} (input {j}) must be a number, got {shown(number)}")
            bounds.append(float(number.reshape(-1)[0]))
        else:
            bounds.append(None)
    low, high = (None if bound is None or abs(bound) > 3.4e38 else float(bound) for bound in bounds)
    return x if low is None and high is None else i.emit("clamp", [x], None, {"min": low, "max": high})


def extreme(kind: str) -> Callable:
    """The largest or smallest of any number of inputs."""
    def run(i: Importer, node: NodeView) -> Any:
        total: Any
        total, *rest = node.inputs
        for value in rest:
            total = _of_two(i, kind, total, value)
        return total
    return run


def _of_two(i, kind, a, b):
    rank = max(x.rank for x in (a, b) if isinstance(x, Live)) if any(isinstance(x, Live) for x in (a, b)) else 0
    if not rank or any(isinstance(x, Live) and x.rank != rank for x in (a, b)):
        raise Refused("its inputs must have the same number of axes, one of them depending on the graph's input")
    return i.emit(kind, [_live(i, x, rank) for x in (a, b)], rank)


def _live(i: Importer, x: Any, rank: int) -> Live:
    """A value, or a constant beside others of this rank."""
    if isinstance(x, Live):
        return x
    if isinstance(x, Part) and x.kind in ("mask", NONZERO):
        return ones(i, x)
    if not isinstance(x, Known):
        raise Refused("an input is missing, or a part of something else")
    number = number_of(x)
    if number is not None:
        return i.constant(Known(np.full(1, number, i.dtype), f"{x.name}.number"), rank)
    return i.constant(Known(x.array.astype(i.dtype), x.name) if x.array.dtype.kind in "biu" else x, rank)


def compared(kind: str, turned: bool = False) -> Callable:
    """A comparison: a mask of ones and zeros, which Where, Cast and logic read."""
    def run(i: Importer, node: NodeView) -> Part:
        a, b = node.inputs
        y = _of_two(i, kind, *((b, a) if turned else (a, b)))
        return Part("mask", y)
    return run


def _mask(i: Importer, x: Any) -> Live:
    if not isinstance(x, Part) or x.kind not in ("mask", NONZERO):
        raise Refused("its input must be the result of a comparison")
    return ones(i, x)


def logic(kind: str) -> Callable:
    """Not, And, Or of masks."""
    def run(i: Importer, node: NodeView) -> Part:
        masks = [_mask(i, x) for x in node.inputs]
        if kind == "not":
            return Part("mask", i.emit("affine", masks, None, {"factor": -1.0, "summand": 1.0}))
        if masks[0].rank != masks[1].rank:
            raise Refused("its inputs must have the same number of axes")
        return Part("mask", i.emit(kind, masks))
    return run


def where(i: Importer, node: NodeView) -> Live:
    rank = max((x.of if isinstance(x, Part) else x).rank for x in node.inputs if isinstance(x, (Live, Part)))
    condition = node.inputs[0]
    if isinstance(condition, Live):
        raise Refused("the condition (input 0) must be the result of a comparison, or a constant")
    first = condition.of if isinstance(condition, Part) and condition.kind == NONZERO else condition
    values = [_live(i, x, rank) for x in (first, *node.inputs[1:])]
    if any(x.rank != rank for x in values):
        raise Refused("its inputs must have the same number of axes")
    return i.emit("where", values, rank)


def gather(i: Importer, node: NodeView) -> Live:
    """Elements at constant places along an axis."""
    x, known = node.live(), node.known(1, "indices")
    axis = axis_in(node, node.integer("axis", 0), x.rank)
    if axis == 0 or known.array.ndim > 1 or known.array.dtype.kind not in "iu":
        raise Refused(f"it must choose along another axis than the images', by integers in one axis at most, got axis "
                      f"{axis} and {shown(known.array)}")
    size = x.dims[axis - 1]
    indices = [int(n) for n in known.array.reshape(-1)]
    if any(not -size <= n < size for n in indices):
        raise Refused(f"indices must be from {-size} to {size - 1}, got {shown(known.array)}")
    y = picked(i, x, {axis: [n % size for n in indices]})
    return y if known.array.ndim else i.reshaped(y, [n for j, n in enumerate(y.dims, 1) if j != axis])


def padded(i: Importer, node: NodeView, x: Live, pads: list[int], value: float, mode: str) -> Live:
    """With elements around it. pads: of all axes before, then of all after."""
    tables = {}
    for axis in range(x.rank):
        before, after = pads[axis], pads[axis + x.rank]
        if not before and not after:
            continue
        if axis == 0:
            node.refuse("pads", pads, "0 for the images' axis")
        n = x.dims[axis - 1]
        at = np.arange(-before, n + after)
        if not at.size or (mode != "constant" and min(before, after) < 0) or (mode == "reflect" and max(
                before, after) >= n):
            node.refuse("pads", pads, f"such that something is left, and with reflect less than the size {n}")
        at = np.where((at < 0) | (at >= n), -1, at) if mode == "constant" else at.clip(0, n - 1) if mode == "edge" \
            else at % n if mode == "wrap" else n - 1 - np.abs(n - 1 - np.abs(at))
        tables[axis] = at.tolist()
    first, rest = tables.pop(1, None), tables
    y = picked(i, x, rest, "pad", value)
    if first is None:
        return y
    if min(first) >= 0:
        return picked(i, y, {1: first})
    dims = y.dims       # channels, as rows of a plane: those outside are no channel of it
    flat = i.reshaped(y, (1, dims[0], math.prod(dims[1:])))
    made = i.emit("pad", [flat], None, {"tables": [None, first, None], "value": value})
    return i.reshaped(made, (len(first), *dims[1:]))


# ---------------------------------------------------------------- resampling

def _places(node: NodeView, how: str, n: int, out: int, scale: float) -> np.ndarray:
    """Where the outputs lie between the inputs, float64 (out,)."""
    at = np.arange(out, dtype=np.float64)
    if how == "asymmetric":
        return at / scale
    if how == "align_corners":
        return at * ((n - 1) / (out - 1)) if out > 1 else at
    if how == "half_pixel" or (how == "pytorch_half_pixel" and out > 1):
        return (at + 0.5) / scale - 0.5
    if how == "pytorch_half_pixel":
        return at * 0
    node.refuse("coordinate_transformation_mode", how, "half_pixel, pytorch_half_pixel, asymmetric or align_corners")
    raise AssertionError


ROUNDED: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "round_prefer_floor": lambda at: np.ceil(at - 0.5), "round_prefer_ceil": lambda at: np.floor(at + 0.5),
    "floor": np.floor, "ceil": np.ceil}


def resize(i: Importer, node: NodeView) -> Live:
    x = node.live()
    if node.opset < 11:
        raise Refused(f"its opset must be at least 11, got {node.opset}: older ones say another thing")
    mode, rounding = node.get("mode", "nearest"), node.get("nearest_mode", "round_prefer_floor")
    how = node.get("coordinate_transformation_mode", "half_pixel")
    node.only("antialias", 0)
    node.only("exclude_outside", 0)
    node.only("keep_aspect_ratio_policy", "stretch")
    for name in ("cubic_coeff_a", "extrapolation_value"):       # of modes that are refused
        node.get(name)
    if x.rank != 4:
        raise Refused(f"its input must have shape (N, C, H, W), got (N, {', '.join(map(str, x.dims))})")
    if mode not in ("nearest", "linear"):
        node.refuse("mode", mode, "nearest or linear")
    if rounding not in ROUNDED:
        node.refuse("nearest_mode", rounding, ", ".join(ROUNDED))
    scales, sizes = _scales(node, x)
    if scales[0] != 1 or scales[1] != 1:
        raise Refused(f"it must leave images and channels as they are, got scales {scales}")
    if how == "align_corners" and any(n * scale != out for n, out, scale in zip(
            x.dims[1:], sizes, scales[2:], strict=True)):
        raise Refused(f"with align_corners its scales must give whole sizes, got {scales}")
    places = [_places(node, how, n, out, scale) for n, out, scale in zip(x.dims[1:], sizes, scales[2:], strict=True)]
    if mode == "nearest":
        tables = [ROUNDED[rounding](at).clip(0, n - 1).astype(int).tolist() for n, at in zip(
            x.dims[1:], places, strict=True)]
        return i.emit("interpolate", [x], None, {"tables": [None, *tables]})
    pairs = []
    for n, at in zip(x.dims[1:], places, strict=True):
        at = at.clip(0, n - 1)
        first = np.minimum(np.floor(at).astype(int), n - 1)
        pairs.append([np.stack([first, np.minimum(first + 1, n - 1)], 1).tolist(), (at - first).tolist()])
    return i.emit("bilinear", [x], None, {"rows": pairs[0], "columns": pairs[1]})


def interpolated(i: Importer, node: NodeView) -> Live:
    """Images by a constant matrix that interpolates along a side: bilinear resampling is one from the left, of the
    rows, and one from the right, of the columns."""
    left = not isinstance(node.inputs[0], Live)
    x, known = node.live(int(left)), node.known(1 - left, "the matrix")
    ours, other = ("rows", "columns") if left else ("columns", "rows")
    pairs = None if known.trained else _pairs(known.array if left else known.array.T, x.dims[1 if left else 2])
    if pairs is None:
        raise Refused(f"its input must have shape (N, features), got (N, {', '.join(map(str, x.dims))}): images are "
                      f"multiplied by matrices of a Constant that interpolate only, two neighbours at most, whose "
                      f"shares add up to 1")
    size = x.dims[2 if left else 1]
    same = [[[j, j] for j in range(size)], [0.0] * size]
    i.spend(3 * (len(pairs[1]) + size))
    before = i.before(x, "bilinear")
    if before is not None and before.attributes[ours] == [[[j, j] for j in range(x.dims[1 if left else 2])],
                                                          [0.0] * x.dims[1 if left else 2]]:
        x, same = i.live[before.inputs[0]], before.attributes[other]
    return i.emit("bilinear", [x], None, {ours: pairs, other: same})


def _pairs(matrix: np.ndarray, size: int) -> list | None:
    """The pairs of neighbours, and the share of the second, of a matrix (outputs, size) that interpolates; None for
    another one."""
    if matrix.ndim != 2 or matrix.shape[1] != size or not matrix.size or matrix.dtype.kind != "f" or matrix.min() < 0:
        return None
    row, first = np.arange(len(matrix)), (matrix != 0).argmax(1)
    after = np.minimum(first + 1, size - 1)
    own, share = matrix[row, first], np.where(after > first, matrix[row, after], 0)
    if np.count_nonzero(matrix) != np.count_nonzero(own) + np.count_nonzero(share) or not (
            abs(own.astype(float) + share - 1) <= 1e-6).all():
        return None
    return [np.stack([first, after], 1).tolist(), share.clip(0, 1).astype(float).tolist()]


def _scales(node: NodeView, x: Live) -> tuple[list[float], list[int]]:
    """Scales of all axes, and the sizes (H, W) of the result."""
    axes = node.get("axes")
    axes = list(range(4)) if axes is None else [axis_in(node, axis, 4) for axis in axes]
    scales = [1.0] * 4
    given = [node.known(j, what).array.reshape(-1).tolist() if node.has(j) else []
             for j, what in ((2, "scales"), (3, "sizes"))]
    numbers = given[0] or given[1]
    if len(numbers) != len(axes) or bool(given[0]) == bool(given[1]):
        raise Refused(f"it must have {len(axes)} scales or sizes, got {numbers}")
    made = {}
    for axis, number in zip(axes, numbers, strict=True):
        if axis == 0 and given[1]:
            continue        # whatever number of images the file has
        size = None if axis == 0 else x.dims[axis - 1]
        if not isinstance(number, (int, float)) or not number > 0 or (size or 1) * (number if given[0] else 1) > MOST:
            raise Refused(f"scales and sizes must be numbers above 0, got {numbers}")
        scales[axis] = float(number) if given[0] or size is None else number / size
        if size is not None:
            made[axis] = math.floor(size * number) if given[0] else int(number)
    sizes = [made.get(axis, x.dims[axis - 1]) for axis in (2, 3)]
    if min(sizes) < 1 or max(sizes) > MOST:
        raise Refused(f"it must leave a pixel, got {sizes}")
    return scales, sizes
