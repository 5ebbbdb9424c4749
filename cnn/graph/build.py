"""What operators, methods and functions of values add to their graph."""
from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from cnn import shapes
from cnn.engine.parameter import Parameter
from cnn.graph.trace import add, apply
from cnn.graph.value import Value, number
from cnn.ops import arithmetic as ops
from cnn.ops import pointwise, pool

if TYPE_CHECKING:
    from collections.abc import Iterable


def arithmetic(kind, a, b):
    """a + b and the like; either may be a number, a Parameter or an array instead of a value."""
    if number(b):
        return _with_number(kind, a, float(b))
    if number(a):
        return _from_number(kind, float(a), b)
    value = a if isinstance(a, Value) else b
    a, b = (_value(kind, operand, value) for operand in (a, b))
    if a is NotImplemented or b is NotImplemented:
        return NotImplemented
    if kind == "add" and a.image == b.image:
        return apply(ops.Add(), a, b)
    return apply(ops.Arithmetic(kind), a, b)


def _with_number(kind, x, n):
    if kind == "divide" and n == 0:
        raise ValueError("divide: a value must not be divided by 0")
    factor, summand = {"add": (1.0, n), "subtract": (1.0, -n), "multiply": (n, 0.0)}.get(kind) or (1 / n, 0.0)
    return apply(ops.Affine(factor, summand), x)


def _from_number(kind, n, x):
    if kind == "divide":
        return apply(ops.Reciprocal(n), x)
    factor, summand = {"add": (1.0, n), "subtract": (-1.0, n), "multiply": (n, 0.0)}[kind]
    return apply(ops.Affine(factor, summand), x)


def _value(kind, operand, like):
    """An operand as a value of the same graph: a Parameter or an array is the same for every image."""
    if isinstance(operand, Value):
        return operand
    sources = ()
    if isinstance(operand, np.ndarray):
        if operand.dtype.kind not in "fiub":
            raise TypeError(f"{kind}: an array beside a value must hold numbers, got {operand.dtype}")
        array, operand = operand, Parameter(np.asarray(operand, like.dtype), requires_grad=False)
        sources = (array, operand),
    if not isinstance(operand, Parameter):
        return NotImplemented
    shape = operand.shape
    if len(shape) == len(like.image) + 1 and shape[0] == 1:
        shape = shape[1:]
    shape = (1,) * (len(like.image) - len(shape)) + shape
    if len(shape) != len(like.image):
        raise ValueError(f"{kind}: a parameter of shape {operand.shape} does not go together with "
                         f"{shapes.batch(like.image)}")
    return constant(operand, shape, like, sources)


def constant(parameter, image, like, sources=()):
    """A Parameter as a value, beside another of its graph."""
    if not parameter.size:
        raise ValueError(f"parameter: it must not be empty, got shape {parameter.shape}")
    if parameter.dtype != like.dtype:
        raise TypeError(f"parameter: it must be of {like.dtype}, as the values beside it, got {parameter.dtype}")
    return add(like.graph, ops.Constant(parameter, image).changed(sources=sources), (), like.dtype)


def relu(x):
    return apply(pointwise.ReLU(), x)


def flatten(x: Value, start_dim: int = 1) -> Value:
    """(N, C, H, W) to (N, C * H * W). x: a value; start_dim: 1, there is no other. Vectors stay as they are."""
    if isinstance(x, np.ndarray):
        x = shapes.images("flatten", "x", x)
    elif not isinstance(x, Value):
        raise TypeError(f"flatten: x must be a value or an array, got {type(x).__name__}")
    if shapes.integer("flatten", "start_dim", start_dim, -3) not in (1, 1 - x.ndim):
        raise ValueError(f"flatten: start_dim must be 1, got {start_dim}")
    if isinstance(x, np.ndarray):
        return x.reshape(len(x), math.prod(x.shape[1:])).copy()
    return x if len(x.image) == 1 else apply(ops.Reshape("flatten", (math.prod(x.image),)), x)


def reshape(x, shape):
    sizes = [shapes.integer("reshape", "shape", n, -1) for n in shape]
    if len(sizes) not in (2, 4) or sizes[0] != -1 or 0 in sizes or sizes[1:].count(-1) > 1:
        raise ValueError(f"reshape: shape must be (-1, C, H, W) or (-1, features), -1 being the images and at most one "
                         f"other size, got {tuple(shape)}")
    count, known = math.prod(x.image), math.prod(n for n in sizes[1:] if n != -1)
    image = tuple(count // known if n == -1 else n for n in sizes[1:])
    return x if image == x.image else apply(ops.Reshape("reshape", image), x)


def channels(x, index):
    """x[:, a:b]"""
    index = index if isinstance(index, tuple) else (index,)
    whole = slice(None)
    if len(index) < 2 or index[0] != whole or any(part != whole for part in index[2:]) or len(index) > x.ndim \
            or not isinstance(index[1], slice) or index[1].step not in (None, 1):
        raise TypeError("a value can be cut along its channels only, as in x[:, 2:5]")
    first, stop, _ = index[1].indices(x.image[0])
    if stop <= first:
        raise ValueError(f"slice: there must be a channel left of {x.image[0]}, got [{first}:{stop}]")
    return x if (first, stop) == (0, x.image[0]) else apply(ops.Channels(first, stop), x)


def cat(values: Iterable[Value], dim: int = 1) -> Value:
    """The channels (or features) of all values one after the other. values: a list of values, at least one, of shapes
    that differ in channels only; dim: 1, there is no other. Raises TypeError or ValueError for anything else."""
    values = list(values)
    if not values or not all(isinstance(value, Value) for value in values):
        raise TypeError("cat: it must get a list of values, at least one, in a module's forward")
    if shapes.integer("cat", "dim", dim, -3) not in (1, 1 - values[0].ndim):
        raise ValueError(f"cat: dim must be 1 (channels or features), got {dim}")
    return values[0] if len(values) == 1 else apply(ops.Concat(), *values)


def reduced(kind, x, dim, keepdim):
    """The mean, sum or maximum over rows and columns."""
    if len(x.image) != 3:
        raise ValueError(f"{kind}: x must have shape (N, C, H, W), got {shapes.batch(x.image)}")
    dims = (dim,) if isinstance(dim, (int, np.integer)) else tuple(dim)
    axes = sorted({shapes.integer(kind, "dim", d, -2) % 4 - 1 for d in dims})
    if not axes or not set(axes) <= {1, 2} or len(axes) != len(dims):
        raise ValueError(f"{kind}: dim must be of H and W, (2, 3), 2 or 3, got {dim}")
    if len(axes) < 2 and not keepdim:
        raise ValueError(f"{kind}: over one axis only keepdim=True makes sense here, because values have four axes or "
                         f"two")
    if kind == "mean" and axes == [1, 2] and not keepdim:
        return apply(pool.AvgPool2d(kind, output_size=(1, 1)).changed(flat=True), x)
    if kind == "sum":
        y = apply(ops.Sum(tuple(axes)), x)
    else:
        size = tuple(1 if i in axes else x.image[i] for i in (1, 2))
        y = apply((pool.MaxPool2d if kind == "amax" else pool.AvgPool2d)(kind, output_size=size), x)
    return y if keepdim else flatten(y)
