"""Rows of a GraphModule's operations with tables, axes and statistics: how to apply them, and how to tell their
attributes."""
import numpy as np

from cnn import functional, shapes
from cnn.functional.layer_norm import local_response
from cnn.graph import apply, build, moving
from cnn.ops import local_norm, reshaping


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
