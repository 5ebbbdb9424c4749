"""Rows of a GraphModule's operations with tables, axes and statistics: how to apply them, and how to tell their
attributes."""
import math

import numpy as np

from cnn import functional, shapes
from cnn.engine.data import own
from cnn.functional.layer_norm import local_response
from cnn.graph import apply, build, moving
from cnn.graph.once import Held, same_for_all
from cnn.ops import arithmetic, local_norm, norm, reshaping
from cnn.ops.weighted import Awaited, Weighted, plain


def conv_transpose2d(module, node, values, things, *, stride=1, padding=0, output_padding=0, groups=1, dilation=1):
    return functional.conv_transpose2d(*values, things["weight"], things.get("bias"), stride, padding, output_padding,
                                       groups, dilation)


def tell_conv_transpose2d(operation):
    return {name: getattr(operation, name) for name in ("stride", "padding", "output_padding", "groups", "dilation")}


def pick(module, node, values, things, *, tables, value=0.0, plane=False):
    """See Pick in cnn/ops/reshaping.py, which checks the tables."""
    name = node.operation
    if not isinstance(tables, (tuple, list)) or len(tables) != 3:
        raise ValueError(f"{name}: tables must be three lists or None, got {shapes.shown(tables)}")
    arrays = [None if table is None else integers(name, table) for table in tables]
    return apply(reshaping.Pick(name, arrays, moving.around(name, value), bool(plane)), *values)


def integers(name, table):
    if not isinstance(table, (tuple, list)) or not table:
        raise TypeError(f"{name}: a table must be a list of integers, got {shapes.shown(table)}")
    return np.array([shapes.integer(name, "table", n, -1) for n in table], np.int32)


def tell_pick(operation):
    return {"tables": [None if table is None else table.tolist() for table in operation.tables],
            "value": float(operation.value), "plane": bool(operation.plane)}


def bilinear(module, node, values, things, *, rows, columns):
    pairs = [(integers("bilinear", [n for two in table for n in two]).reshape(-1, 2),
              np.array([shapes.number("bilinear", "share", n, 0, 1) for n in shares]))
             for table, shares in (rows, columns)]
    return apply(reshaping.Bilinear("bilinear", *pairs), *values)


def tell_bilinear(operation):
    return {name: [array.tolist() for array in getattr(operation, name)] for name in ("rows", "columns")}


def reduced(kind):
    return lambda module, node, values, things, *, dim: build.reduced(kind, *values, dim, keepdim=True)


def clamp(module, node, values, things, *, min=None, max=None):
    return build.clamp(*values, min, max)


def tell_clamp(operation):
    return {name: None if np.isinf(n) else n for name, n in operation.numbers.items()}


def tell_dim(operation):
    return {"dim": operation.axis + 1}


def tell_batch_norm(operation):
    """frozen: it normalises by the running statistics in training mode, too."""
    told = {"momentum": operation.momentum} if operation.training else {"frozen": True}
    return {"eps": operation.eps, **told} | ({} if operation.unbiased else {"unbiased": False})


def layer_norm(module, node, values, things, *, normalized_shape, eps=1e-5):
    return functional.layer_norm(*values, normalized_shape, things.get("weight"), things.get("bias"), eps)


def tell_layer_norm(operation):
    return {"normalized_shape": list(operation.normalized_shape), "eps": operation.eps}


def layer_norm2d(module, node, values, things, *, eps=1e-5):
    return functional.layer_norm2d(*values, things.get("weight"), things.get("bias"), eps)


def local_response_norm(module, node, values, things, *, size, alpha=1e-4, beta=0.75, k=1.0, before=None):
    name = "local_response_norm"
    given = local_response(name, size, alpha, beta, k)
    before = None if before is None else shapes.integer(name, "before", before, 0, given[0] - 1)
    return apply(local_norm.LocalResponseNorm(name, *given, before), *values)


def affine(module, node, values, things, *, factor, summand=0.0):
    x, = values
    return apply(arithmetic.Affine(*(shapes.number("affine", name, value) for name, value in
                                     (("factor", factor), ("summand", summand)))), x)


def reciprocal(module, node, values, things, *, number=1.0):
    x, = values
    return apply(arithmetic.Reciprocal(shapes.number("reciprocal", "number", number)), x)


def reshape(module, node, values, things, *, image):
    x, = values
    if not isinstance(image, (tuple, list)) or len(image) > 3:
        raise ValueError(f"reshape: image must be (C, H, W), (H, W), (features,) or (), got {shapes.shown(image)}")
    return build.reshaped(x, tuple(shapes.integer("reshape", "image", n, 1) for n in image))


def parameter(module, node, values, things, *, image):
    like, = values      # says which graph: its elements are not read
    image = tuple(shapes.integer("parameter", "image", n, 1) for n in image)
    p = things["parameter"]
    p = Held(p if p.dtype == like.dtype else p.astype(like.dtype)) if isinstance(p, np.ndarray) else p
    if p.numel() != math.prod(image) or len(image) > 3:
        raise ValueError(f"parameter: image must be of {p.numel()} elements, got {image}")
    return build.constant(p, image, like)


def store(module, node, values, things):
    """A buffer that steps in training mode set to what has been computed; else the buffer."""
    x, = values
    array = things["array"]
    if not isinstance(array, np.ndarray) or array.dtype != x.dtype or array.size != math.prod(x.image):
        raise ValueError(f"store: array must be a buffer of {math.prod(x.image)} elements of {x.dtype}")
    if not same_for_all(x):
        raise ValueError("store: what is kept must be computed from parameters alone, got what depends on an input")
    if module.training:
        return apply(reshaping.Store(array), x)
    return build.constant(Held(array), x.image, x)


def slice(module, node, values, things, *, first, stop):
    x, = values
    return x[:, shapes.integer("slice", "first", first):shapes.integer("slice", "stop", stop)]


def things_of(operation):
    """(what an operation calls it, Parameter or array) of its parameters and buffers."""
    result = [(role, thing._data if isinstance(thing, Held) else thing) for role, thing in operation.parameters.items()]
    operation = plain(operation)
    if isinstance(operation, reshaping.Store):
        result.append(("array", operation.array))
    if isinstance(operation, norm.BatchNorm2d) and operation.mean is not None:
        result += [("running_mean", own(operation.mean)), ("running_var", own(operation.var))]
        result += [("num_batches_tracked", operation.tracked)] if operation.tracked is not None else []
    return result


# ---------------------------------------------------------------- parameters that are values, see cnn.ops.weighted

def tell_awaited(operation):
    """The attribute of an operation some of whose parameters are values: their shapes, in the values' order."""
    return {"values": {role: list(p.shape) for role, p in operation.awaited.items()}} if isinstance(
        operation, Weighted) else {}


def awaited_roles(node, roles):
    """Which of the roles of a node are values. Raises ValueError where it has no such role."""
    sizes = node.attributes.get("values", {})
    where = f"GraphModule: node {shapes.shown(node.name or node.output)}"
    if not isinstance(sizes, dict) or len(sizes) >= max(1, len(node.inputs)):
        raise ValueError(f"{where}: values must be a dict of shapes, of fewer than its inputs, got "
                         f"{shapes.shown(sizes)}")
    for role in sizes:
        if role not in roles and f"{role}?" not in roles or role in node.parameters:
            raise ValueError(f"{where}: {node.operation} has no parameter {shapes.shown(role)} that is a value")
    return list(sizes)


def received(node, values):
    """What a node gets: values, an Awaited for each parameter that is a value, and its other attributes."""
    attributes = dict(node.attributes)
    sizes = attributes.pop("values", {})
    inner, given, awaited = values[:len(values) - len(sizes)], values[len(values) - len(sizes):], {}
    for (role, size), value in zip(sizes.items(), given, strict=True):
        shape = tuple(shapes.integer(node.operation, role, n, 1) for n in shapes.listed(
            node.operation, role, size, "sizes"))
        if math.prod(shape) != math.prod(value.image):
            raise ValueError(f"{node.operation}: {role} must have {math.prod(value.image)} elements, got shape {shape}")
        if not same_for_all(value):
            raise ValueError(f"{node.operation}: {role} must be computed from parameters alone, got what depends on "
                             f"an input")
        awaited[role] = Awaited(value, shape)
    return inner, awaited, attributes
