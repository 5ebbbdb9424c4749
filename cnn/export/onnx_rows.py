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


def by_the_batch(w, o, x):
    """A batch norm that always takes the batch's statistics, which ONNX has for training only."""
    def mean(x):
        if w.opset >= 18:
            return w.add("ReduceMean", x, w.constant((0, 2, 3), np.int64), keepdims=1)
        return w.add("ReduceMean", x, axes=(0, 2, 3), keepdims=1)
    x = w.add("Sub", x, mean(x))
    s = w.add("Sqrt", w.add("Add", mean(w.add("Mul", x, x)), w.constant(o.eps)))
    y = w.add("Div", x, s)
    for kind, p in (("Mul", o.weight), ("Add", o.bias)):
        if p is not None:
            y = w.add(kind, y, w.add("Reshape", w.array(p), w.constant((1, -1, 1, 1), np.int64)))
    return y


def _layer_norm(w, node, x):
    """Without a weight by ones, which the operator wants."""
    o = node.operation
    shape = o.normalized_shape if o.name == "layer_norm" else (o.channels,)
    scale = w.constant(np.ones(shape)) if o.weight is None else w.array(o.weight)
    return w.add("LayerNormalization", x, scale, *(() if o.bias is None else (w.array(o.bias),)), axis=-len(shape),
                 epsilon=o.eps)


def _layer_norm2d(w, node, x):
    y = _layer_norm(w, node, w.add("Transpose", x, perm=(0, 2, 3, 1)))
    return w.add("Transpose", y, perm=(0, 3, 1, 2))


def _local_response_norm(w, node, x):
    """Windows of an even size are sums by a 1 x 1 convolution: ONNX has one channel less before than after, and ONNX
    Runtime refuses them."""
    o, channels = node.operation, node.output.image[0]
    if o.before == o.size - 1 - o.before:
        return w.add("LRN", x, size=o.size, alpha=o.alpha, beta=o.beta, bias=o.k)
    place = np.arange(channels) - np.arange(channels)[:, None] + o.before       # of an input in an output's window
    within = ((place >= 0) & (place < o.size)) * (o.alpha / o.size)
    sums = w.add("Conv", w.add("Mul", x, x), w.constant(within[..., None, None]), w.constant(np.full(channels, o.k)))
    return w.add("Mul", x, w.add("Pow", sums, w.constant(-o.beta)))


def _plain(kind):
    return lambda w, node, *xs: w.add(kind, *xs)


ROWS = {
    "layer_norm": _layer_norm, "layer_norm2d": _layer_norm2d, "local_response_norm": _local_response_norm,
    "clamp": _clip, "hardtanh": _clip, "hardswish": _plain("HardSwish"),
    "hardsigmoid": lambda w, node, x: w.add("HardSigmoid", x, alpha=1 / 6, beta=0.5),
    "elu": lambda w, node, x: w.add("Elu", x, alpha=node.operation.numbers["alpha"]), "mish": _mish,
    "softplus": _softplus, "absolute": _plain("Abs"), "exp": _plain("Exp"), "log": _plain("Log"),
    "sqrt": _plain("Sqrt"), "sin": _plain("Sin"), "cos": _plain("Cos"),
    "power": lambda w, node, x: w.add("Pow", x, w.constant(node.operation.numbers["exponent"])),
    "maximum": _plain("Max"), "minimum": _plain("Min"), "greater": _compared("Greater"),
    "greater_equal": _compared("GreaterOrEqual"), "equal": _compared("Equal"),
    "not_equal": _compared("Equal", negated=True), "where": _where, "mean": _reduced("ReduceMean"),
    "amax": _reduced("ReduceMax"), "amin": _reduced("ReduceMin"),
    **dict.fromkeys(("softmax", "softmax_over"), _softmax("Softmax")),
    **dict.fromkeys(("log_softmax", "log_softmax_over"), _softmax("LogSoftmax")),
    **dict.fromkeys(("strided_slice", "pad", "interpolate", "permute_channels"), pick),
    "bilinear": _bilinear, "pixel_unshuffle": _pixel_unshuffle,
    "permute": lambda w, node, x: w.add("Transpose", x, perm=node.operation.attributes()["dims"]),
    "pixel_shuffle": lambda w, node, x: w.add("DepthToSpace", x, blocksize=node.operation.factor, mode="CRD"),
    **dict.fromkeys(("cat", "cat_along"), lambda w, node, *xs: w.add(
        "Concat", *xs, axis=1 + getattr(node.operation, "axis", 0))),
}
BROADCASTING = {"maximum", "minimum", "greater", "greater_equal", "equal", "not_equal", "where"}
