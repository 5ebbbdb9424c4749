"""Rows of the ONNX writer for functions of each element, comparisons, reductions, and elements in other places."""
from __future__ import annotations

import numpy as np


def _clip(w, node, x):
    low, high = node.operation.numbers.values()
    return w.add("Clip", x, w.constant(low), w.constant(high))


def _softplus(w, node, x):
    """log(1 + e^(b x)) / b, x itself where b x is above the threshold."""
    beta, threshold = node.operation.numbers.values()
    scaled = x if beta == 1 else w.add("Mul", x, w.constant(beta))
    y = w.add("Softplus", scaled)
    y = y if beta == 1 else w.add("Div", y, w.constant(beta))
    return w.add("Where", w.add("Greater", scaled, w.constant(threshold)), x, y)


def _mish(w, node, x):
    """Mish is of opset 18."""
    return w.add("Mish", x) if w.opset >= 18 else w.add("Mul", x, w.add("Tanh", w.add("Softplus", x)))


def _compared(kind, negated=False):
    def write(w, node, a, b):
        y = w.add(kind, a, b)
        return w.add("Cast", w.add("Not", y) if negated else y, to=w.onnx.helper.np_dtype_to_tensor_dtype(w.dtype))
    return write


def _where(w, node, condition, a, b):
    return w.add("Where", w.add("Cast", condition, to=w.onnx.TensorProto.BOOL), a, b)


def _reduced(kind):
    """Axes are an input from opset 18 on."""
    def write(w, node, x):
        axes = [i + 1 for i in node.operation.axes]
        if w.opset >= 18:
            return w.add(kind, x, w.constant(axes, np.int64), keepdims=1)
        return w.add(kind, x, axes=axes, keepdims=1)
    return write


def _softmax(kind):
    return lambda w, node, x: w.add(kind, x, axis=node.operation.axis + 1)


def pick(w, node, x):
    """By a table for each axis; where an entry is -1 there is a number."""
    o, rank = node.operation, len(node.output.image)
    for axis, table in enumerate(o.tables[o.plane:rank + o.plane], 1):
        if table is not None:
            x = w.add("Gather", x, w.constant(table.clip(0), np.int64), axis=axis)
            if (table < 0).any():
                outside = (table < 0).reshape(-1, *(1,) * (rank - axis))
                x = w.add("Where", w.constant(outside, bool), w.constant(o.value), x)
    return x


def _bilinear(w, node, x):
    """A matrix from the left, one from the right."""
    def matrix(size, table, share):
        made = np.zeros((len(table), size))
        np.add.at(made, (np.arange(len(table)), table[:, 0]), 1 - share)
        np.add.at(made, (np.arange(len(table)), table[:, 1]), share)
        return made
    o, (_, height, width) = node.operation, node.inputs[0].image
    x = w.add("MatMul", w.constant(matrix(height, *o.rows)), x)
    return w.add("MatMul", x, w.constant(matrix(width, *o.columns).T))


def _pixel_unshuffle(w, node, x):
    (channels, height, width), r = node.inputs[0].image, node.operation.factor
    cut = w.constant((0, channels, height // r, r, width // r, r), np.int64)
    x = w.add("Transpose", w.add("Reshape", x, cut), perm=(0, 1, 3, 5, 2, 4))
    return w.add("Reshape", x, w.constant((0, *node.output.image), np.int64))


def _plain(kind):
    return lambda w, node, *xs: w.add(kind, *xs)


ROWS = {
    "clamp": _clip, "hardtanh": _clip, "hardswish": _plain("HardSwish"),
    "hardsigmoid": lambda w, node, x: w.add("HardSigmoid", x, alpha=1 / 6, beta=0.5),
    "elu": lambda w, node, x: w.add("Elu", x, alpha=node.operation.numbers["alpha"]), "mish": _mish,
    "softplus": _softplus, "absolute": _plain("Abs"), "exp": _plain("Exp"), "log": _plain("Log"),
    "sqrt": _plain("Sqrt"),
    "power": lambda w, node, x: w.add("Pow", x, w.constant(node.operation.numbers["exponent"])),
    "maximum": _plain("Max"), "minimum": _plain("Min"), "greater": _compared("Greater"),
    "greater_equal": _compared("GreaterOrEqual"), "equal": _compared("Equal"),
    "not_equal": _compared("Equal", negated=True), "where": _where, "mean": _reduced("ReduceMean"),
    "amax": _reduced("ReduceMax"), "amin": _reduced("ReduceMin"),
    **dict.fromkeys(("softmax", "softmax_over"), _softmax("Softmax")),
    **dict.fromkeys(("log_softmax", "log_softmax_over"), _softmax("LogSoftmax")),
    **dict.fromkeys(("strided_slice", "pad", "interpolate", "permute_channels"), pick),
    "bilinear": _bilinear, "pixel_unshuffle": _pixel_unshuffle,
    "pixel_shuffle": lambda w, node, x: w.add("DepthToSpace", x, blocksize=node.operation.factor, mode="CRD"),
    **dict.fromkeys(("cat", "cat_along"), lambda w, node, *xs: w.add(
        "Concat", *xs, axis=1 + getattr(node.operation, "axis", 0))),
}
BROADCASTING = {"maximum", "minimum", "greater", "greater_equal", "equal", "not_equal", "where"}
