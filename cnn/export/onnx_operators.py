"""ONNX's operators as our operations: one row of TABLE each.

A row is a function of the importer and the node; it returns what the node computes, or a list where that is several.
The standard: https://onnx.ai/onnx/operators/.
"""
from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from cnn.export import onnx_batch, onnx_maps, onnx_pixels, onnx_shapes
from cnn.export.onnx_arithmetic import binary, erf, neg, power, reciprocal, step_of_gelu, variadic
from cnn.export.onnx_conv import MOST, conv, conv_transpose, flat_or_not, padded, sizes, told, window
from cnn.export.onnx_folding import axis_in
from cnn.export.onnx_norms import layer_norm, local_response_norm
from cnn.export.onnx_reading import Refused
from cnn.export.onnx_values import Known, Live, Part

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from cnn.export.onnx_importing import Importer
    from cnn.export.onnx_values import NodeView

# ---------------------------------------------------------------- windows

def _pool(kind: str) -> Callable:
    def run(i: Importer, node: NodeView) -> Live:
        x, pad = padded(node)
        kernel, stride = sizes(node, x, "kernel_shape", 1), sizes(node, x, "strides", 1)
        if node.get("kernel_shape") is None:
            raise Refused("attribute kernel_shape is missing")
        dilation = sizes(node, x, "dilations", 1)
        if kind == "avg_pool2d" and dilation != (1, 1):
            node.refuse("dilations", node.get("dilations"), "1")
        sides = window(node, x, kernel, stride, dilation)
        more: dict[str, Any] = {"ceil_mode": bool(node.integer("ceil_mode", 0))}
        if node.get("auto_pad", "NOTSET") != "NOTSET":
            more["ceil_mode"] = False       # the output's size is given
        if kind == "avg_pool2d":
            more["count_include_pad"] = bool(node.integer("count_include_pad", 0))
        else:
            node.only("storage_order", 0, 1)       # of the indices only
            more["dilation"] = list(dilation)
        if pad is not None:
            sides = _pad_of_average(node, kind, x, pad, sides, kernel, stride, more)
        return i.emit(kind, [x], x.rank, {"kernel_size": list(kernel), "stride": list(stride),
                                          "padding": told(sides, kernel), **more})
    return run


def _pad_of_average(node, kind, x, pad, sides, kernel, stride, more):
    """Zeros padded before an average are padding that counts; ours does so with ceil_mode, too."""
    from cnn.shapes import pool_output
    if kind == "avg_pool2d" and not any(map(any, sides)):
        more["count_include_pad"] = True
        return pad
    whole = [side + sum(p) for side, p in zip(x.value.image[1:], pad, strict=True)]
    out = pool_output("AveragePool", whole, kernel, stride, tuple(sides), False)
    if kind == "avg_pool2d" and not more["count_include_pad"] and sides[0][0] == sides[1][0] == 0 \
            and pool_output("AveragePool", x.value.image[1:], kernel, stride, tuple(pad), True) == out:
        more |= {"count_include_pad": True, "ceil_mode": True}
        return pad
    raise Refused("a Pad before it is understood without pads of its own only")


def _global_pool(kind: str) -> Callable:
    def run(i: Importer, node: NodeView) -> Live:
        x = node.live()
        flat_or_not(node, x)
        return i.emit(kind, [x], x.rank, {"output_size": [1, 1]})
    return run


def _pad(i: Importer, node: NodeView) -> Live | Part:
    x = node.live()
    mode = node.get("mode", "constant")
    if mode not in ("constant", "reflect", "edge", "wrap"):
        node.refuse("mode", mode, "constant, reflect, edge or wrap")
    if node.opset < 11:
        pads, value = node.get("pads"), node.number("value", 0.0)
    else:
        pads = node.ints(1, "pads")
        value = float(node.known(2, "the value").array.reshape(-1)[0]) if node.has(2) else 0.0
        if node.has(3):
            axes = [axis_in(node, axis, x.rank) for axis in node.ints(3, "axes")]
            every = [0] * (2 * x.rank)
            for j, axis in enumerate(axes):
                every[axis], every[axis + x.rank] = pads[j], pads[j + len(axes)]
            pads = every
    if len(pads) != 2 * x.rank or not all(isinstance(n, int) and abs(n) <= MOST for n in pads):
        node.refuse("pads", pads, f"{2 * x.rank} integers")
    if not any(pads):
        return x
    if any(pads[:2]) or any(pads[x.rank:x.rank + 2]) or value != 0 or x.rank < 3 or mode != "constant" or min(pads) < 0:
        return onnx_maps.padded(i, node, x, pads, value, mode)
    before, after = pads[2:x.rank], pads[x.rank + 2:]
    sides = list(zip(before, after, strict=True))
    return Part("Pad", x, {"sides": ((0, 0), sides[0]) if x.rank == 3 else (sides[0], sides[1])})


# ---------------------------------------------------------------- linear maps

def _weight_of_linear(i, node, known, transposed):
    """The name of the weight (outputs, inputs) of a matrix (inputs, outputs), or of its transpose."""
    if known.array.ndim != 2:
        raise Refused(f"the matrix (input 1) must have 2 axes, got shape {known.array.shape}")
    array = known.array if transposed else known.array.T
    return i.parameter(known, array, turned=not transposed, trained=True)


def _matmul(i: Importer, node: NodeView) -> Live:
    if len(node.inputs) == 2 and all(isinstance(x, Live) and x.rank in (3, 4) for x in node.inputs):
        a, b = node.live(0), node.live(1)
        if a.rank != b.rank or a.dims[-1] != b.dims[-2] or a.dims[:-2] != b.dims[:-2]:
            raise Refused(f"its inputs must have shapes (N, A, B) and (N, B, C), or (N, heads, A, B) and (N, heads, B, "
                          f"C), got (N, {', '.join(map(str, a.dims))}) and (N, {', '.join(map(str, b.dims))})")
        y = i.emit("matmul", [i.reshaped(x, (1, *x.dims)[-3:]) for x in (a, b)], 4)
        return i.reshaped(y, (*a.dims[:-1], b.dims[-1]))
    if any(isinstance(x, Live) and x.rank == 4 for x in node.inputs):
        return onnx_maps.interpolated(i, node)
    x, known = node.live(0), node.known(1, "the matrix")
    if x.rank not in (2, 3):
        raise Refused(f"its input must have shape (N, features) or (N, rows, features), got (N, "
                      f"{', '.join(map(str, x.dims))})")
    return i.emit("linear", [x], x.rank, {}, {"weight": _weight_of_linear(i, node, known, False)})


def _gemm(i: Importer, node: NodeView) -> Live:
    x, known = node.live(0), node.known(1, "the matrix")
    if x.rank != 2:
        raise Refused(f"its input must have shape (N, features), got (N, {', '.join(map(str, x.dims))})")
    node.only("transA", 0)
    node.only("broadcast", 0, 1)
    alpha, beta = node.number("alpha", 1.0), node.number("beta", 1.0)
    turned = bool(node.integer("transB", 0))
    if alpha != 1:      # it is a part of the weight
        known = Known(known.array * np.asarray(alpha, known.array.dtype), f"{node.name}.weight", True)
        i.spend(known.array.size)
    things = {"weight": _weight_of_linear(i, node, known, turned)}
    outputs = known.array.shape[0 if turned else 1]
    if node.has(2) and beta != 0:
        c = node.known(2, "C")
        if c.array.size not in (1, outputs) or (c.array.ndim == 2 and c.array.shape[0] != 1) or c.array.ndim > 2:
            raise Refused(f"C must have {outputs} elements, the same for every image, got shape {c.array.shape}")
        if c.array.size == outputs and beta == 1:
            things["bias"] = i.parameter(c, c.array.reshape(outputs), trained=True)
        else:
            array = np.broadcast_to(c.array.reshape(-1) * np.asarray(beta, c.array.dtype), outputs)
            things["bias"] = i.parameter(Known(array, f"{node.name}.bias", True), array)
    return i.emit("linear", [x], 2, {}, things)


# ---------------------------------------------------------------- norms

def _is(known: Known, number: float) -> bool:
    return not known.trained and bool((known.array == number).all())


def _batch_norm(i: Importer, node: NodeView) -> Live:
    x = node.live()
    if x.rank == 2:     # vectors are images of one pixel
        return i.reshaped(_batch_norm_of(i, node, i.reshaped(x, (*x.dims, 1, 1))), x.dims)
    return _batch_norm_of(i, node, x)


def _batch_norm_of(i, node, x):
    node.only("spatial", 1)
    node.only("is_test", 1 if node.opset < 7 else 0, 1)
    node.only("training_mode", 0)
    momentum = round(1 - node.number("momentum", 0.9), 6)
    scale, bias, mean, var = (node.known(j, what) for j, what in enumerate(("scale", "B", "mean", "var"), 1))
    things = {"running_mean": i.buffer(mean, x.value.image[:1]), "running_var": i.buffer(var, x.value.image[:1])}
    things |= {role: i.parameter(known, known.array, trained=True)
               for role, known, fill in (("weight", scale, 1), ("bias", bias, 0)) if not _is(known, fill)}
    if not 0 <= momentum <= 1:
        node.refuse("momentum", node.get("momentum"), "from 0 to 1")
    return i.emit("batch_norm", [x], x.rank, {"eps": node.number("epsilon", 1e-5), "momentum": momentum}, things)


def _norm_of_groups(i, node, x, groups, per_channel):
    scale, bias = node.known(1, "scale"), node.known(2, "bias")
    things, channels = {}, x.value.image[0]
    before = i.made.get(x.name)
    # a step of PyTorch's group norm, whose own weights follow: some exporters make initializers of these constants
    step = x.rank == 3 and before and before.operation == "reshape" and i.live[before.inputs[0]].rank == 4
    plain = step and bool((scale.array == 1).all() and (bias.array == 0).all())
    if not plain and not (_is(scale, 1) and _is(bias, 0)):
        for role, known in (("weight", scale), ("bias", bias)):
            if known.array.shape != (channels if per_channel else groups,):
                raise Refused(f"{role} must have shape ({channels if per_channel else groups},), got "
                              f"{known.array.shape}")
            if not per_channel:
                i.spend(channels)
                known = Known(np.repeat(known.array, channels // groups), f"{known.name}.repeated", True)
            things[role] = i.parameter(known, known.array, trained=True)
    return i.emit("group_norm", [x], x.rank, {"groups": groups, "eps": node.number("epsilon", 1e-5)}, things)


def _instance_norm(i: Importer, node: NodeView) -> Live:
    x = node.live()
    flat_or_not(node, x)
    return _norm_of_groups(i, node, x, x.value.image[0], True)


def _group_norm(i: Importer, node: NodeView) -> Live:
    x = node.live()
    flat_or_not(node, x)
    node.only("stash_type", 1)
    groups = node.integer("num_groups", 0)
    if groups < 1 or x.value.image[0] % groups:
        node.refuse("num_groups", groups, f"a divisor of {x.value.image[0]}")
    return _norm_of_groups(i, node, x, groups, node.opset >= 21)


# ---------------------------------------------------------------- activations

def _plain(operation: str) -> Callable:
    return lambda i, node: i.emit(operation, [node.live()])


def _leaky_relu(i: Importer, node: NodeView) -> Live:
    return i.emit("leaky_relu", [node.live()], None, {"negative_slope": node.number("alpha", 0.01)})


def _prelu(i: Importer, node: NodeView) -> Live:
    """max(x, 0) - slope max(-x, 0), which is the same."""
    x, slope = node.live(), node.known(1, "slope")
    if slope.array.size == 1 and not slope.array.ndim:
        return i.emit("leaky_relu", [x], None, {"negative_slope": float(slope.array)})
    if node.opset < 7 and slope.array.ndim == 1:        # one a channel
        slope = Known(slope.array.reshape(-1, *(1,) * (x.rank - 2)), slope.name, slope.trained)
    below = i.emit("relu", [i.emit("affine", [x], None, {"factor": -1.0})])
    scaled = i.emit("multiply", [below, i.constant(slope, x.rank)])
    return i.emit("subtract", [i.emit("relu", [x]), scaled])


def _gelu(i: Importer, node: NodeView) -> Live:
    kind = node.get("approximate", "none")
    if kind not in ("none", "tanh"):
        node.refuse("approximate", kind, "none or tanh")
    return i.emit("gelu" if kind == "none" else "gelu_tanh", [node.live()])


def _softmax(operation: str) -> Callable:
    def run(i: Importer, node: NodeView) -> Live:
        x = node.live()
        axis = axis_in(node, node.integer("axis", -1 if node.opset >= 13 else 1), x.rank)
        if node.opset < 13 and axis == 1 and x.rank > 2:        # over all that follows, too
            return i.reshaped(i.emit(operation, [i.reshaped(x, (math.prod(x.dims),))]), x.dims)
        after = x.dims[axis - 1:]
        plain = node.opset >= 13 or math.prod(after) == x.dims[axis - 1]
        if axis > 1 and plain and math.prod(x.dims[:axis - 1]) == 1:
            return i.reshaped(i.emit(operation, [i.reshaped(x, (x.dims[axis - 1], *x.dims[axis:]))]), x.dims)
        if axis == 0 or (axis > 1 and not plain):
            node.refuse("axis", axis, "another than the images', and before opset 13 the last or 1")
        if axis > 1:
            return i.emit(f"{operation}_over", [x], None, {"dim": onnx_shapes.dim_of(x, axis)})
        return i.emit(operation, [x])
    return run


def _tanh(i: Importer, node: NodeView) -> Live | Part:
    x = node.inputs[0]
    if isinstance(x, Part) and x.kind == "gelu's tanh":
        return Part("tanh", x.of, {"kind": "gelu_tanh"})
    step = step_of_gelu(i, x) if isinstance(x, Part) else None
    return i.emit("tanh", [step or node.live()])


def _dropout(i: Importer, node: NodeView) -> Live:
    """Dropped in training mode only, as everywhere."""
    x = node.live()
    node.get("seed")
    node.only("is_test", 0, 1)
    if node.opset < 12:
        p = node.number("ratio", 0.5)
    else:
        p = float(node.known(1, "ratio").array) if node.has(1) else 0.5
        if node.has(2) and bool(node.known(2, "training_mode").array):
            raise Refused("training_mode (input 2) must be false: its random numbers are not ours")
    return i.emit("dropout", [x], None, {"p": round(p, 7)})


# from the names of ONNX's operators
TABLE: dict[str, Callable] = {
    "Conv": conv, "ConvTranspose": conv_transpose, "MaxPool": _pool("max_pool2d"), "AveragePool": _pool("avg_pool2d"),
    "GlobalMaxPool": _global_pool("max_pool2d"), "GlobalAveragePool": _global_pool("avg_pool2d"), "Pad": _pad,
    "Gemm": _gemm, "MatMul": _matmul,
    "BatchNormalization": _batch_norm, "InstanceNormalization": _instance_norm, "GroupNormalization": _group_norm,
    "LayerNormalization": layer_norm, "LRN": local_response_norm,
    "Relu": _plain("relu"), "Sigmoid": _plain("sigmoid"), "Tanh": _tanh, "LeakyRelu": _leaky_relu, "PRelu": _prelu,
    "Gelu": _gelu, "Erf": erf, "Pow": power, "Softmax": _softmax("softmax"), "LogSoftmax": _softmax("log_softmax"),
    "Dropout": _dropout,
    "Add": binary("add"), "Sub": binary("subtract"), "Mul": binary("multiply"), "Div": binary("divide"),
    "Neg": neg, "Reciprocal": reciprocal, "Sum": variadic(1), "Mean": variadic(None),
    **{name: getattr(onnx_shapes, name.lower()) for name in (
        "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Expand", "Split", "Concat")},
    "Slice": onnx_shapes.sliced, "Identity": onnx_shapes.same, "Cast": onnx_shapes.cast,
    "ReduceSum": onnx_shapes.reduce("sum", 13), "ReduceMean": onnx_shapes.reduce("mean", 18),
    "ReduceMax": onnx_shapes.reduce("max", 18), "ReduceMin": onnx_shapes.reduce("min", 18),
    **{name: onnx_maps.plain(operation) for name, operation in (
        ("Abs", "absolute"), ("Exp", "exp"), ("Log", "log"), ("Sin", "sin"), ("Cos", "cos"), ("HardSwish", "hardswish"),
        ("Mish", "mish"))},
    "Sqrt": onnx_batch.sqrt, "Elu": onnx_maps.elu, "Selu": onnx_maps.selu, "HardSigmoid": onnx_maps.hard_sigmoid,
    "Softplus": onnx_maps.softplus, "Clip": onnx_maps.clip, "Min": onnx_maps.extreme("minimum"),
    "Max": onnx_maps.extreme("maximum"), "Greater": onnx_maps.compared("greater"),
    "GreaterOrEqual": onnx_maps.compared("greater_equal"), "Less": onnx_maps.compared("greater", turned=True),
    "LessOrEqual": onnx_maps.compared("greater_equal", turned=True), "Equal": onnx_maps.compared("equal"),
    "Not": onnx_maps.logic("not"), "And": onnx_maps.logic("minimum"), "Or": onnx_maps.logic("maximum"),
    "Where": onnx_maps.where, "Gather": onnx_maps.gather, "Resize": onnx_maps.resize,
    "DepthToSpace": onnx_pixels.depth_to_space, "SpaceToDepth": onnx_pixels.space_to_depth,
}
