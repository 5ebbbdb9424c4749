"""Models as ONNX files: the graph's nodes, each by ONNX's operators.

A new operation is one row of TABLE. The standard: https://onnx.ai/onnx/operators/.
"""
from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING

import numpy as np

from cnn import files, shapes
from cnn.export import told
from cnn.export.onnx_extra import require_onnx
from cnn.export.onnx_rows import BROADCASTING as REPEATING
from cnn.export.onnx_rows import ROWS, by_the_batch

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence
    from typing import Any

    from cnn.graph import Graph, Value
    from cnn.layers import Module

OPSETS = range(17, 24)      # what can be written; 20 has Gelu
LARGEST = 2**31 - 1         # bytes of a file, protobuf's limit


class Writer:
    """ONNX nodes and arrays, as rows of TABLE add them. opset: the version that is written; dtype: of all values."""

    def __init__(self, onnx: Any, opset: int, dtype: np.dtype, names: dict[int, str]) -> None:
        self.onnx, self.opset, self.dtype = onnx, opset, dtype
        self.nodes: list[Any] = []
        self.initializers: dict[str, Any] = {}
        self.used = set(names.values())
        self.names = names          # of Parameters and buffers, by id
        self.values: dict[int, str] = {}
        self.constants: dict[int, tuple[str, tuple[int, ...]]] = {}     # values that are the same for every image
        self.where = ""
        self.modules: dict[str, Module] = {}

    def fresh(self, name: str) -> str:
        """A name that nothing else has."""
        found, i = name, 0
        while found in self.used:
            i += 1
            found = f"{name}_{i}"
        self.used.add(found)
        return found

    def add(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Add a node; returns the name of its output."""
        output = self.fresh(f"{self.where}/{kind}" if self.where else kind)
        node = self.onnx.helper.make_node(kind, inputs, [output], output, **attributes)
        self.nodes.append(node)
        return output

    def constant(self, array: Any, dtype: Any = None) -> str:
        """The name of an array that is no parameter: a node of its own, so that no import trains it."""
        array = np.asarray(array, dtype or self.dtype)
        return self.add("Constant", value=self.onnx.numpy_helper.from_array(array))

    def array(self, thing: Any) -> str:
        """The name of a Parameter or buffer: an initializer under its name in the model; a constant if it has none."""
        data = thing if isinstance(thing, np.ndarray) else thing.data
        if id(thing) not in self.names:
            return self.constant(data)
        name = self.names[id(thing)]
        if name not in self.initializers:
            self.initializers[name] = self.onnx.numpy_helper.from_array(np.ascontiguousarray(data), name)
        return name

    def read(self, value: Value) -> str:
        """The name of a value, as an array with an axis of images."""
        if id(value) not in self.constants:
            return self.values[id(value)]
        name, image = self.constants[id(value)]
        count = self.add("Shape", next(iter(self.values.values())), start=0, end=1)
        shape = self.add("Concat", count, self.constant(image, np.int64), axis=0)
        shaped = self.add("Reshape", name, self.constant((1, *image), np.int64))
        return self.add("Expand", shaped, shape)

    def operand(self, value: Value) -> str:
        """The name of a value for operators that repeat what is the same for every image."""
        name, image = self.constants.get(id(value)) or (self.read(value), None)
        if image is None:
            return name
        return self.add("Reshape", name, self.constant((1, *image), np.int64))


# ---------------------------------------------------------------- rows: the writer, a node and its inputs' names

def _conv2d(w, node, x):
    o, p, pads = node.operation, node.operation.parameters, _pads(node.operation.geometry(node.inputs[0].image).padding)
    row = len(p["weight"].shape) == 3       # of sequences
    x = w.add("Squeeze", x, w.constant([2], np.int64)) if row else x
    weight = w.array(p["weight"])
    if len(p["weight"].shape) == 2:         # of a linear layer
        weight = w.add("Unsqueeze", weight, w.constant([2, 3], np.int64))
    y = w.add("Conv", x, weight, *([w.array(p["bias"])] if "bias" in p else []),
              kernel_shape=o.kernel[row:], strides=o.stride[row:], dilations=o.dilation[row:], group=o.groups,
              pads=pads[1::2] if row else pads)
    return w.add("Unsqueeze", y, w.constant([2], np.int64)) if row else y


def _conv_transpose2d(w, node, x):
    o, p = node.operation, node.operation.parameters
    if any(more >= s for more, s in zip(o.output_padding, o.stride, strict=True)):
        raise ValueError(f"output_padding must be less than stride {shapes.times(o.stride)} in ONNX, got "
                         f"{shapes.times(o.output_padding)}")
    row, pads = len(p["weight"].shape) == 3, _pads(shapes.sides(o.owner, o.padding))
    x = w.add("Squeeze", x, w.constant([2], np.int64)) if row else x
    y = w.add("ConvTranspose", x, *(w.array(p[role]) for role in ("weight", "bias") if role in p),
              kernel_shape=o.kernel[row:], strides=o.stride[row:], dilations=o.dilation[row:], group=o.groups,
              pads=pads[1::2] if row else pads, output_padding=o.output_padding[row:])
    return w.add("Unsqueeze", y, w.constant([2], np.int64)) if row else y


def _pads(sides):
    """ONNX's order: what is before on each axis, then what is after."""
    (top, bottom), (left, right) = sides
    return top, left, bottom, right


def _linear(w, node, x):
    p = node.operation.parameters
    return w.add("Gemm", x, *(w.array(p[role]) for role in ("weight", "bias") if role in p), transB=1)


def _batch_norm(w, node, x):
    o = node.operation
    if o.mean is None:
        return by_the_batch(w, o, x)
    scale, bias = (w.constant(np.full(o.channels, n)) if p is None else w.array(p)
                   for p, n in ((o.weight, 1), (o.bias, 0)))
    momentum = getattr(w.modules.get(node.modules[0]), "momentum", None)
    more = {} if momentum is None else {"momentum": 1 - momentum}
    return w.add("BatchNormalization", x, scale, bias, w.array(o.mean), w.array(o.var), epsilon=o.eps, **more)


def _group_norm(w, node, x):
    """By instance norm of each group as one channel, as PyTorch writes it: one way for all opsets."""
    o, image = node.operation, node.output.image
    if o.groups == o.channels:
        scale, bias = (w.constant(np.full(o.channels, n)) if p is None else w.array(p)
                       for p, n in ((o.weight, 1), (o.bias, 0)))
        return w.add("InstanceNormalization", x, scale, bias, epsilon=o.eps)
    groups = w.add("Reshape", x, w.constant((0, o.groups, -1), np.int64))
    y = w.add("InstanceNormalization", groups, w.constant(np.ones(o.groups)), w.constant(np.zeros(o.groups)),
              epsilon=o.eps)
    y = w.add("Reshape", y, w.constant((0, *image), np.int64))
    for kind, p in (("Mul", o.weight), ("Add", o.bias)):
        if p is not None:
            y = w.add(kind, y, w.add("Reshape", w.array(p), w.constant((1, -1, 1, 1), np.int64)))
    return y


def _pool(kind):
    def write(w, node, x):
        o, image = node.operation, node.inputs[0].image
        if "output_size" in o.options:
            size = o.options["output_size"]
            if tuple(size) == (1, 1):
                y = w.add(f"Global{kind}Pool", x)
            else:
                tall, wide = (side / n for side, n in zip(image[1:], size, strict=True))
                if not tall.is_integer() or not wide.is_integer():
                    raise ValueError(f"output_size must divide the input {shapes.times(image[1:])}, or its windows "
                                     f"would be of several sizes, got {shapes.times(size)}")
                y = w.add(f"{kind}Pool", x, kernel_shape=(int(tall), int(wide)), strides=(int(tall), int(wide)))
        else:
            y = _windows(w, kind, o, image[1:], node.output.image[1:], x)
        return w.add("Flatten", y, axis=1) if getattr(o, "flat", False) else y
    return write


def _windows(w, kind, o, size, out, x):
    """A pooling by windows of one size. ceil_mode is written as padding: versions of ONNX differ in what it means."""
    kernel, stride, dilation = o.options["kernel_size"], o.options["stride"], o.options.get("dilation", (1, 1))
    pads = shapes.padding(o.owner, o.options["padding"], kernel, stride, dilation, size)
    counts = o.options.get("count_include_pad", False)
    over = [max(0, (n - 1) * s + d * (k - 1) + 1 - side - sum(p)) if o.options["ceil_mode"] else 0
            for n, s, k, d, side, p in zip(out, stride, kernel, dilation, size, pads, strict=True)]
    divisor = o.options.get("divisor_override")
    if divisor is None and counts and any(over):    # the padding counts, what hangs over it does not
        if any(map(any, pads)):
            x = w.add("Pad", x, w.constant((0, 0, *_pads(pads)[:2], 0, 0, *_pads(pads)[2:]), np.int64))
        pads, counts = ((0, 0), (0, 0)), False
    pads = [(before, after + more) for (before, after), more in zip(pads, over, strict=True)]
    more = {"dilations": dilation} if kind == "Max" else {"count_include_pad": int(counts or divisor is not None)}
    y = w.add(f"{kind}Pool", x, kernel_shape=kernel, strides=stride, pads=_pads(pads), **more)
    return y if divisor is None else w.add("Mul", y, w.constant(math.prod(kernel) / divisor))


def _plain(kind, **attributes):
    return lambda w, node, *xs: w.add(kind, *xs, **attributes)


def _silu(w, node, x):
    return w.add("Mul", x, w.add("Sigmoid", x))


def _gelu(w, node, x):
    """Gelu is of opset 20. Before, x (1 + erf(x / sqrt(2))) / 2."""
    if w.opset >= 20:
        return w.add("Gelu", x)
    erf = w.add("Erf", w.add("Div", x, w.constant(math.sqrt(2))))
    return w.add("Mul", w.add("Mul", x, w.add("Add", erf, w.constant(1.0))), w.constant(0.5))


def _gelu_tanh(w, node, x):
    """Before opset 20, x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2."""
    if w.opset >= 20:
        return w.add("Gelu", x, approximate="tanh")
    cube = w.add("Mul", w.add("Pow", x, w.constant(3.0)), w.constant(0.044715))
    inner = w.add("Mul", w.add("Add", x, cube), w.constant(math.sqrt(2 / math.pi)))
    return w.add("Mul", w.add("Mul", x, w.add("Add", w.add("Tanh", inner), w.constant(1.0))), w.constant(0.5))


def _affine(w, node, x):
    factor, summand = node.operation.factor, node.operation.summand
    if factor == -1 and summand:
        return w.add("Sub", w.constant(summand), x)
    if factor != 1 or not summand:
        x = w.add("Neg", x) if factor == -1 else w.add("Mul", x, w.constant(factor))
    return w.add("Add", x, w.constant(summand)) if summand else x


def _reciprocal(w, node, x):
    number = node.operation.number
    return w.add("Reciprocal", x) if number == 1 else w.add("Div", w.constant(number), x)


def _sum(w, node, x):
    return w.add("ReduceSum", x, w.constant([i + 1 for i in node.operation.axes], np.int64), keepdims=1)


def _reshape(w, node, x):
    image = node.operation.image
    return w.add("Flatten", x, axis=1) if len(image) == 1 else w.add("Reshape", x, w.constant((0, *image), np.int64))


def _slice(w, node, x):
    return w.add("Slice", x, *(w.constant([n], np.int64) for n in (node.operation.first, node.operation.stop, 1)))


# from the names of our operations: a function of the writer, the node and the names of its inputs
TABLE = {
    "conv2d": _conv2d, "conv_transpose2d": _conv_transpose2d, "linear": _linear,
    "batch_norm": _batch_norm, "group_norm": _group_norm,
    "max_pool2d": _pool("Max"), "avg_pool2d": _pool("Average"),
    "relu": _plain("Relu"), "tanh": _plain("Tanh"), "sigmoid": _plain("Sigmoid"), "silu": _silu,
    "leaky_relu": lambda w, node, x: w.add("LeakyRelu", x, alpha=node.operation.scalars["slope"]),
    "gelu": _gelu, "gelu_tanh": _gelu_tanh,
    "add": _plain("Add"), "subtract": _plain("Sub"), "multiply": _plain("Mul"), "divide": _plain("Div"),
    "matmul": _plain("MatMul"),
    "detach": _plain("Identity"), "affine": _affine, "reciprocal": _reciprocal, "sum": _sum, "reshape": _reshape,
    "slice": _slice,
    **ROWS,
}
BROADCASTING = {"add", "subtract", "multiply", "divide", *REPEATING}      # they repeat what is the same for every image


def onnx(model: Module, path: str | os.PathLike, *image_shapes: Sequence[int], opset: int = 20,
         classes: Sequence[str] | None = None, mean: Sequence[float] | None = None,
         std: Sequence[float] | None = None, pixels: str = "uint8", normalise: bool = False) -> None:
    """Write a model, as it is in evaluation mode, to an ONNX file: whole or not at all.

    path: the file. image_shapes: of one image of each input, (C, H, W) or (features,); the number of images stays
    open. opset: version of ONNX's operators, 17 to 23. classes: names; mean, std: one number a channel; they go into
    the file's metadata ("classes", "mean", "std": JSON). pixels: what the model was trained on, "uint8", so that mean
    and std are in units of pixel / 255, or "float32", where they are in the images' own. normalise: whether the file's
    graph begins with (x / 255 - mean) / std (or (x - mean) / std), such that it takes images as they are, as floats;
    the metadata tells ("input").

    Inputs are named x, x1, ..., outputs y, y1, ... or by the keys of a dict, parameters as in `state_dict`.

    Raises ModuleNotFoundError without the package onnx, TypeError or ValueError for wrong arguments and, naming module,
    operation and attribute, for what ONNX cannot express; OSError naming the file.
    """
    package = require_onnx("export.onnx")
    opset = shapes.integer("export.onnx", "opset", opset, OPSETS[0], OPSETS[-1])
    from cnn.graph.once import once
    from cnn.graph.passes import prune, without_detached
    from cnn.layers.parts import image_shape, in_evaluation, named_modules
    from cnn.layers.running import graph_of
    images = [image_shape("export.onnx", shape) for shape in image_shapes]
    if not images:
        raise TypeError("export.onnx: image_shapes must be one (C, H, W) or (features,) for each input, got none")
    graph = without_detached(in_evaluation(model, graph_of, model, images))
    graph = prune(once(graph, weights_only=True))
    names = {id(p): name for name, p in model.named_parameters()} | {
        id(array): name for name, array in model.named_buffers()}
    writer = Writer(package, opset, graph.inputs[0].dtype, names)
    writer.modules = dict(named_modules(model))
    outputs = list(graph.structure) if isinstance(graph.structure, tuple) else [
        f"y{i or ''}" for i in range(len(graph.outputs))]
    outputs = [writer.fresh(str(name)) for name in outputs]
    metadata = _metadata(images[0], classes, mean, std, pixels, normalise)
    told.check_count("export.onnx", classes, graph)
    inputs = [writer.fresh(f"x{i or ''}") for i in range(len(images))]
    writer.values = {id(value): name for value, name in zip(graph.inputs, inputs, strict=True)}
    if normalise:
        writer.values[id(graph.inputs[0])] = _normalised(writer, inputs[0], images[0], mean, std, pixels)
    _write_nodes(writer, graph)
    for name, value in zip(outputs, graph.outputs, strict=True):
        writer.where = ""
        writer.nodes.append(package.helper.make_node("Identity", [writer.read(value)], [name], f"{name}/Identity"))
    _to_file(package, writer, graph, path, inputs, outputs, metadata)


def _write_nodes(writer: Writer, graph: Graph) -> None:
    for node in graph:
        operation, writer.where = node.operation, node.modules[0]
        if operation.name == "parameter":
            writer.constants[id(node.output)] = writer.array(operation.parameters["parameter"]), operation.image
            continue
        constant = all(id(value) in writer.constants for value in node.inputs)
        if operation.name == "reshape" and constant:
            writer.constants[id(node.output)] = writer.constants[id(node.inputs[0])][0], operation.image
            continue
        if operation.name not in TABLE or hasattr(operation, "layer"):
            raise ValueError(f"export.onnx: module {node.modules[0]!r}: ONNX has no {operation.name}, or no row of the "
                             f"table says which")
        read = writer.operand if operation.name in BROADCASTING else writer.read
        try:
            name = TABLE[operation.name](writer, node, *(read(value) for value in node.inputs))
        except ValueError as error:
            raise ValueError(f"export.onnx: module {node.modules[0]!r}: {operation.name}: {error}") from None
        if constant and operation.name in BROADCASTING:     # what others make has an axis of images by now
            writer.constants[id(node.output)] = name, node.output.image
        writer.values[id(node.output)] = name


def _metadata(image, classes, mean, std, pixels, normalise):
    """The file's metadata: texts by name."""
    result = {}
    if classes is not None:
        result["classes"] = json.dumps(told.class_names("export.onnx", classes))
    for name, numbers in (("mean", mean), ("std", std)):
        if numbers is not None:
            result[name] = json.dumps(told.per_channel("export.onnx", name, numbers, image[0]))
    told.white("export.onnx", pixels)
    if normalise and ("mean" not in result or "std" not in result):
        raise ValueError("export.onnx: normalise needs mean and std, got none")
    if mean is not None and std is not None:
        whole, part = ("pixels from 0 to 255", "pixels / 255") if pixels == "uint8" else ("pixels", "pixels")
        result["input"] = f"{whole}, as floats: the graph normalises them" if normalise else f"({part} - mean) / std"
    return result


def _normalised(writer, x, image, mean, std, pixels):
    """x / 255, or x, less the mean, by the standard deviation."""
    shape = (1, -1, *(1,) * (len(image) - 1))
    mean, std = (np.asarray(numbers, np.float64).reshape(shape) for numbers in (mean, std))
    writer.where = "normalise"
    x = writer.add("Mul", x, writer.constant(1 / (told.white("export.onnx", pixels) * std)))
    return writer.add("Sub", x, writer.constant(mean / std))


def _to_file(package, writer, graph, path, inputs, outputs, metadata):
    kind = package.helper.np_dtype_to_tensor_dtype(writer.dtype)
    ends = [package.helper.make_tensor_value_info(name, kind, ["N", *value.image]) for name, value in (
        *zip(inputs, graph.inputs, strict=True), *zip(outputs, graph.outputs, strict=True))]
    made = package.helper.make_graph(writer.nodes, graph.title, ends[:len(inputs)], ends[len(inputs):],
                                     list(writer.initializers.values()))
    whole = package.helper.make_model(made, opset_imports=[package.helper.make_opsetid("", writer.opset)],
                                      producer_name="cnn",
                                      ir_version=package.helper.OP_SET_ID_VERSION_MAP[("ai.onnx", writer.opset)])
    package.helper.set_model_props(whole, metadata)
    if whole.ByteSize() > LARGEST:
        raise ValueError(f"export.onnx: the model must take less than 2 GiB, got {whole.ByteSize()} bytes")
    files.write(path, whole.SerializeToString(deterministic=True))
