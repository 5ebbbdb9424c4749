"""ONNX nodes without images in them, computed when a file is read: mostly the shapes for Reshape.

FOLDED has one row an operator: a function of the node and its arrays. Results are bounded by the file's size.
"""
from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from cnn.export.onnx_reading import Refused
from cnn.export.onnx_values import N, shown

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

SPARE = 2**20       # elements that constants may have beyond those of the file

TYPES = {1: np.float32, 11: np.float64, 6: np.int32, 7: np.int64, 9: np.bool_, 2: np.uint8, 3: np.int8,
         10: np.float16}


def axes_of(node: Any, rank: int, i: int = 1, since: int = 13) -> list[int] | None:
    """The axes that a node names, by an attribute before opset `since`, then by its i-th input; None without any."""
    axes = node.get("axes") if node.opset < since else node.ints(i, "axes") if node.has(i) else None
    return None if axes is None else [axis_in(node, axis, rank) for axis in axes]


def axis_in(node: Any, axis: Any, rank: int) -> int:
    """An axis, counted from the front. Raises Refused for one that is not there."""
    if not isinstance(axis, int) or not -rank <= axis < rank:
        node.refuse("axis", axis, f"from {-rank} to {rank - 1}")
    return axis % rank


def _gather(node, array, indices):
    axis = axis_in(node, node.integer("axis", 0), array.ndim)
    return array.take(indices, axis)


def slices(node: Any, rank: int) -> list[tuple[int, int, int, int]]:
    """(axis, start, end, step) of a Slice."""
    if node.opset < 10:
        starts, ends = node.get("starts"), node.get("ends")
        axes, steps = node.get("axes"), None
    else:
        starts, ends = node.ints(1, "starts"), node.ints(2, "ends")
        axes, steps = (node.ints(i, what) if node.has(i) else None for i, what in ((3, "axes"), (4, "steps")))
    axes = list(range(len(starts))) if axes is None else axes
    steps = [1] * len(starts) if steps is None else steps
    if not len(starts) == len(ends) == len(axes) == len(steps):
        raise Refused("starts, ends, axes and steps must be equally many")
    return [(axis_in(node, axis, rank), *rest) for axis, *rest in zip(axes, starts, ends, steps, strict=True)]


def _slice(node, array, *more):
    index = [slice(None)] * array.ndim
    for axis, start, end, step in slices(node, array.ndim):
        if step == 0:
            raise Refused("steps must not be 0")
        far = -array.shape[axis] - 1
        index[axis] = slice(start, None if step < 0 and end <= far else end, step)
    return array[tuple(index)]


def _squeeze(node, array, *more):
    axes = axes_of(node, array.ndim)
    if axes is None:
        axes = [i for i, n in enumerate(array.shape) if n == 1]
    return array.reshape([n for i, n in enumerate(array.shape) if i not in axes or n != 1])


def _unsqueeze(node, array, *more):
    axes = node.ints(1, "axes") if node.opset >= 13 else node.get("axes")
    rank = array.ndim + len(axes)
    for axis in sorted(axis_in(node, axis, rank) for axis in axes):
        array = np.expand_dims(array, axis)
    return array


def _reshape(node, array, shape):
    sizes = [array.shape[i] if n == 0 and not node.integer("allowzero", 0) else int(n)
             for i, n in enumerate(shape.tolist())]
    return array.reshape(sizes)


def _flatten(node, array):
    axis = node.integer("axis", 1) % max(1, array.ndim + 1)
    return array.reshape(math.prod(array.shape[:axis]), -1)


def _constant_of_shape(node, shape):
    value = node.get("value", np.zeros(1, np.float32))
    if N in shape.tolist():
        raise Refused("the number of images must not be a size of a constant")
    return np.full(bounded([int(n) for n in shape]), value.reshape(-1)[0])


def bounded(shape: list[int]) -> list[int]:
    """Sizes of a new array, checked before there is one. Raises Refused."""
    if any(n < 0 for n in shape) or math.prod(shape) > SPARE:
        raise Refused(f"a constant of shape {shape[:9]} is larger than {SPARE} elements")
    return shape


def _expand(node, array, shape):
    return np.broadcast_to(array, np.broadcast_shapes(array.shape, tuple(bounded([int(n) for n in shape]))))


def _tile(node, array, repeats):
    bounded([array.size, *(int(n) for n in repeats)])
    return np.tile(array, repeats)


def _range(node, start, limit, delta):
    count = math.ceil((limit.item() - start.item()) / delta.item())
    bounded([max(0, count)])
    return np.arange(start.item(), limit.item(), delta.item(), start.dtype)


def _concat(node, *arrays):
    return np.concatenate(arrays, axis_in(node, node.integer("axis", 0), arrays[0].ndim))


def _cast(node, array):
    kind = node.integer("to", 1)
    if kind not in TYPES:
        node.refuse("to", kind, "a number type of ONNX's that is known here")
    if array.dtype == object:       # a shape with the number of images in it
        return array
    return array.astype(TYPES[kind])


def _broadcast(function: Callable) -> Callable:
    """A function of arrays that are repeated to one shape."""
    def run(node, *arrays):
        shape = np.broadcast_shapes(*(array.shape for array in arrays))
        bounded(list(shape) if math.prod(shape) > max(array.size for array in arrays) else [1])
        with np.errstate(all="ignore"):
            result = function(*arrays)
        kept = arrays[0].dtype
        return np.asarray(result, kept) if kept.kind in "fiu" and result.dtype.kind in "fiu" else result
    return run


def _div(a, b):
    if a.dtype.kind == "f":
        return a / b
    if not b.all():
        raise Refused("an integer is divided by 0")
    return np.trunc(a / b).astype(a.dtype)


def _constant(node):
    for name in ("value", "value_float", "value_floats", "value_int", "value_ints"):
        value = node.get(name)
        if value is not None:
            dtype = np.float32 if "float" in name else np.int64 if "int" in name else None
            return np.asarray(value, dtype)
    raise Refused("its value must be an array, numbers or integers")


# from the names of ONNX's operators: a function of the node and its arrays
FOLDED: dict[str, Callable] = {
    "Constant": _constant, "ConstantOfShape": _constant_of_shape, "Gather": _gather, "Slice": _slice,
    "Squeeze": _squeeze, "Unsqueeze": _unsqueeze, "Reshape": _reshape, "Flatten": _flatten, "Concat": _concat,
    "Cast": _cast, "Expand": _expand, "Tile": _tile, "Range": _range,
    "Identity": lambda node, array: array,
    "Transpose": lambda node, array: array.transpose(node.get("perm") or range(array.ndim)[::-1]),
    "Size": lambda node, array: np.int64(array.size), "Shape": lambda node, array: shape_of(node, list(array.shape)),
    "Add": _broadcast(np.add), "Sub": _broadcast(np.subtract), "Mul": _broadcast(np.multiply),
    "Div": _broadcast(_div), "Neg": _broadcast(np.negative), "Sqrt": _broadcast(np.sqrt), "Exp": _broadcast(np.exp),
    "Reciprocal": _broadcast(lambda a: 1 / a), "Floor": _broadcast(np.floor), "Ceil": _broadcast(np.ceil),
    "Pow": _broadcast(np.power), "Equal": _broadcast(np.equal), "Where": _broadcast(np.where),
    "Greater": _broadcast(np.greater), "GreaterOrEqual": _broadcast(np.greater_equal), "Less": _broadcast(np.less),
    "LessOrEqual": _broadcast(np.less_equal), "Not": _broadcast(np.logical_not), "And": _broadcast(np.logical_and),
    "Or": _broadcast(np.logical_or), "Abs": _broadcast(np.abs), "Log": _broadcast(np.log), "Sin": _broadcast(np.sin),
    "Cos": _broadcast(np.cos), "Tanh": _broadcast(np.tanh),
    "Relu": _broadcast(lambda a: np.maximum(a, 0)), "Sigmoid": _broadcast(lambda a: 1 / (1 + np.exp(-a))),
    "Min": _broadcast(lambda *arrays: np.minimum.reduce(arrays)),
    "Max": _broadcast(lambda *arrays: np.maximum.reduce(arrays)),
}
KEEP = {"Identity", "Reshape", "Squeeze", "Unsqueeze", "Flatten"}       # those that only change a shape


def shape_of(node: Any, dims: list) -> np.ndarray:
    """What Shape returns for these sizes, among which N may be."""
    part = dims[node.get("start", 0):node.get("end", None)]
    return np.array(part, object if N in part else np.int64)


def fold(node: Any, arrays: list[np.ndarray | None]) -> np.ndarray:
    """The result of a node whose inputs are arrays. Raises Refused."""
    if node.op not in FOLDED:
        raise Refused(f"{node.op} of constants ({', '.join('none' if a is None else shown(a) for a in arrays)}) is not "
                      f"computed here")
    try:
        result = np.asarray(FOLDED[node.op](node, *arrays))
        plain = result.dtype == object and not any(n is N for n in result.flat)     # sizes without the images
        return result.astype(np.int64) if plain else result
    except Refused:
        raise
    except (ValueError, TypeError, LookupError, ArithmeticError, AttributeError) as error:
        shapes = ", ".join("none" if a is None else shown(a) for a in arrays)
        raise Refused(f"it cannot be computed of {shapes} ({type(error).__name__})") from None
