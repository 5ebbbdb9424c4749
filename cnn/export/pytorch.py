"""Models as PyTorch modules: the graph's nodes, each by PyTorch's own function."""
from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cnn.ops.weighted import Weighted, plain

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from cnn.layers import Module


def _conv2d(F, operation, p, x):
    stride, padding, dilation = operation.stride, operation.padding, operation.dilation
    padding = 0 if padding == "valid" else padding
    if isinstance(padding, str) and max(stride) > 1:        # which PyTorch does not have: it depends on the size
        padding = operation.geometry(tuple(x.shape[1:])).padding
    if not isinstance(padding, (str, int)) and not isinstance(padding[0], int):
        x, padding = F.pad(x, (*padding[1], *padding[0])), 0
    w, b = p["weight"], p.get("bias")
    if w.dim() > 3:
        return F.conv2d(x, w, b, stride, padding, dilation, operation.groups)
    if w.dim() == 2:        # a linear layer of each pixel
        return F.linear(x.permute(0, 2, 3, 1), w, b).permute(0, 3, 1, 2)
    padding = padding if isinstance(padding, (str, int)) else padding[1]        # sequences, as images of one row
    return F.conv1d(x.squeeze(2), w, b, stride[1], padding, dilation[1], operation.groups).unsqueeze(2)


def _conv_transpose2d(F, operation, p, x):
    padding = operation.padding
    own = not isinstance(padding, int) and not isinstance(padding[0], int)      # each side has its own
    w, b, both = p["weight"], p.get("bias"), 0 if own else padding
    if w.dim() > 3:
        y = F.conv_transpose2d(x, w, b, operation.stride, both, operation.output_padding, operation.groups,
                               operation.dilation)
    else:       # sequences, as images of one row
        y = F.conv_transpose1d(x.squeeze(2), w, b, operation.stride[1], both and padding[1],
                               operation.output_padding[1], operation.groups, operation.dilation[1]).unsqueeze(2)
    if own:
        (top, bottom), (left, right) = padding
        y = y[:, :, top:y.shape[2] - bottom, left:y.shape[3] - right]
    return y


def _batch_norm(F, operation, p, x):
    module = p["module"]
    if operation.mean is None:
        return F.batch_norm(x, None, None, p.get("weight"), p.get("bias"), True, 0.0, operation.eps)
    mean, var = module.buffer(operation.mean), module.buffer(operation.var)
    training = operation.training and module.training
    if training:
        count = module.buffer(operation.tracked)
        count += 1
    momentum = operation.momentum if operation.momentum is not None or not training else 1 / float(count)
    if training and not operation.unbiased:
        n = x.numel() // x.shape[1]
        before = var.clone()
        y = F.batch_norm(x, mean, var, p.get("weight"), p.get("bias"), True, momentum, operation.eps)
        var.sub_(before).mul_((n - 1) / n).add_(before * (1 - momentum / n))    # the share of the batch is that of n
        return y
    return F.batch_norm(x, mean, var, p.get("weight"), p.get("bias"), training, momentum or 0.0, operation.eps)


def _local_response_norm(F, operation, p, x):
    """PyTorch has size // 2 channels before a channel; as many after it, with the channels in reverse."""
    numbers = operation.size, operation.alpha, operation.beta, operation.k
    if operation.before == operation.size // 2:
        return F.local_response_norm(x, *numbers)
    if operation.size - 1 - operation.before != operation.size // 2:
        raise ValueError(f"to_torch: {operation.before} channels before one in windows of {operation.size} are not "
                         f"PyTorch's")
    return F.local_response_norm(x.flip(1), *numbers).flip(1)


def _padded(F, x, options, value):
    """x and the options of a pooling, where each side has a padding of its own padded before it."""
    from cnn import shapes
    padding = options.get("padding", (0, 0))
    if isinstance(padding, str):
        padding = shapes.padding("to_torch", padding, options["kernel_size"], options["stride"],
                                 options.get("dilation", (1, 1)), x.shape[2:])
        options = {**options, "ceil_mode": False}       # the windows fit
        if padding[0][0] == padding[0][1] and padding[1][0] == padding[1][1]:
            padding = padding[0][0], padding[1][0]
    if isinstance(padding[0], int):
        return x, {**options, "padding": padding} if "padding" in options else options
    if options["ceil_mode"] or not options.get("count_include_pad", True):
        raise ValueError(f"to_torch: padding {padding} with ceil_mode or without count_include_pad is not PyTorch's")
    return F.pad(x, (*padding[1], *padding[0]), value=value), {**options, "padding": 0}


def _max_pool2d(F, operation, p, x):
    x, options = _padded(F, F.relu(x) if operation.relu else x, operation.options, -float("inf"))
    return (F.adaptive_max_pool2d if "output_size" in operation.options else F.max_pool2d)(x, **options)


def _avg_pool2d(F, operation, p, x):
    x, options = _padded(F, x, operation.options, 0.0)
    y = (F.adaptive_avg_pool2d if "output_size" in options else F.avg_pool2d)(x, **options)
    return y.flatten(1) if operation.flat else y


def _cat(F, operation, p, *xs):
    import torch
    return torch.cat(xs, 1 + getattr(operation, "axis", 0))


def _pick(F, operation, p, x):
    """By the tables of its operation."""
    import torch
    device = next((tensor.device for tensor in p["module"]._tensors.values()), None)
    for dim, table in enumerate(operation.tables[operation.plane:], 1):
        if table is not None:
            x = x.index_select(dim, torch.as_tensor(table.clip(0), device=device).long())
            if (table < 0).any():
                outside = torch.as_tensor(table < 0, device=device).reshape(-1, *(1,) * (3 - operation.plane - dim))
                x = torch.where(outside, operation.value, x)
    return x


def _bilinear(F, operation, p, x):
    import torch

    def matrix(size, table, share):
        made = np.zeros((len(table), size))
        np.add.at(made, (np.arange(len(table)), table[:, 0]), 1 - share)
        np.add.at(made, (np.arange(len(table)), table[:, 1]), share)
        return torch.as_tensor(made, dtype=x.dtype, device=x.device)
    return matrix(x.shape[2], *operation.rows) @ x @ matrix(x.shape[3], *operation.columns).T


def _where(F, operation, p, condition, a, b):
    import torch
    return torch.where(condition != 0, a, b)


def _store(F, operation, p, x):
    import torch
    buffer = p["module"].buffer(operation.array)
    if not p["module"].training:
        return buffer.reshape(x.shape)
    with torch.no_grad():
        buffer.copy_(x.reshape(buffer.shape))
    return x


def _dims(operation):
    return [i + 1 for i in operation.axes]


# from the names of our operations: a function of torch.nn.functional, the operation, its parameters by name, its inputs
TABLE = {
    "conv2d": _conv2d, "conv_transpose2d": _conv_transpose2d, "batch_norm": _batch_norm,
    "max_pool2d": _max_pool2d, "avg_pool2d": _avg_pool2d,
    "group_norm": lambda F, o, p, x: F.group_norm(x, o.groups, p.get("weight"), p.get("bias"), o.eps),
    "layer_norm": lambda F, o, p, x: F.layer_norm(x, o.normalized_shape, p.get("weight"), p.get("bias"), o.eps),
    "layer_norm2d": lambda F, o, p, x: F.layer_norm(x.permute(0, 2, 3, 1), (o.channels,), p.get("weight"),
                                                    p.get("bias"), o.eps).permute(0, 3, 1, 2),
    "local_response_norm": _local_response_norm,
    "linear": lambda F, o, p, x: F.linear(x, p["weight"], p.get("bias")),
    "relu": lambda F, o, p, x: F.relu(x),
    "leaky_relu": lambda F, o, p, x: F.leaky_relu(x, o.scalars["slope"]),
    "tanh": lambda F, o, p, x: x.tanh(),
    "sigmoid": lambda F, o, p, x: x.sigmoid(),
    "silu": lambda F, o, p, x: F.silu(x),
    "gelu": lambda F, o, p, x: F.gelu(x),
    "gelu_tanh": lambda F, o, p, x: F.gelu(x, approximate="tanh"),
    **dict.fromkeys(("softmax", "softmax_over"), lambda F, o, p, x: x.softmax(o.axis + 1)),
    **dict.fromkeys(("log_softmax", "log_softmax_over"), lambda F, o, p, x: x.log_softmax(o.axis + 1)),
    "clamp": lambda F, o, p, x: x.clamp(*o.numbers.values()),
    "hardtanh": lambda F, o, p, x: F.hardtanh(x, *o.numbers.values()),
    "elu": lambda F, o, p, x: F.elu(x, *o.numbers.values()),
    "hardswish": lambda F, o, p, x: F.hardswish(x),
    "hardsigmoid": lambda F, o, p, x: F.hardsigmoid(x),
    "mish": lambda F, o, p, x: F.mish(x),
    "softplus": lambda F, o, p, x: F.softplus(x, *o.numbers.values()),
    "absolute": lambda F, o, p, x: x.abs(),
    "exp": lambda F, o, p, x: x.exp(),
    "log": lambda F, o, p, x: x.log(),
    "sqrt": lambda F, o, p, x: x.sqrt(), "sin": lambda F, o, p, x: x.sin(), "cos": lambda F, o, p, x: x.cos(),
    "power": lambda F, o, p, x: x ** o.numbers["exponent"],
    "dropout": lambda F, o, p, x: (F.dropout2d if o.whole else F.dropout)(x, o.p, p["module"].training),
    "add": lambda F, o, p, a, b: a + b,
    "subtract": lambda F, o, p, a, b: a - b,
    "multiply": lambda F, o, p, a, b: a * b,
    "matmul": lambda F, o, p, a, b: a @ b,
    "divide": lambda F, o, p, a, b: a / b,
    "affine": lambda F, o, p, x: o.factor * x + o.summand,
    "reciprocal": lambda F, o, p, x: o.number / x,
    "maximum": lambda F, o, p, a, b: a.maximum(b),
    "minimum": lambda F, o, p, a, b: a.minimum(b),
    "greater": lambda F, o, p, a, b: (a > b).to(a.dtype),
    "greater_equal": lambda F, o, p, a, b: (a >= b).to(a.dtype),
    "equal": lambda F, o, p, a, b: (a == b).to(a.dtype),
    "not_equal": lambda F, o, p, a, b: (a != b).to(a.dtype),
    "where": _where,
    "sum": lambda F, o, p, x: x.sum(_dims(o), keepdim=True),
    "mean": lambda F, o, p, x: x.mean(_dims(o), keepdim=True),
    "amax": lambda F, o, p, x: x.amax(_dims(o), keepdim=True),
    "amin": lambda F, o, p, x: x.amin(_dims(o), keepdim=True),
    "detach": lambda F, o, p, x: x.detach(), "store": _store,
    "reshape": lambda F, o, p, x: x.reshape(x.shape[0], *o.image),
    "parameter": lambda F, o, p: p["parameter"].reshape(1, *o.image),
    "cat": _cat, "cat_along": _cat, "bilinear": _bilinear,
    "slice": lambda F, o, p, x: x[:, o.first:o.stop],
    **dict.fromkeys(("strided_slice", "pad", "interpolate", "permute_channels"), _pick),
    "permute": lambda F, o, p, x: x.permute(o.attributes()["dims"]),
    "pixel_shuffle": lambda F, o, p, x: F.pixel_shuffle(x, o.factor),
    "pixel_unshuffle": lambda F, o, p, x: F.pixel_unshuffle(x, o.factor),
}


def _things(operation):
    """The Parameters and buffers of an operation."""
    return [*operation.parameters.values(), *(array for array in (getattr(plain(operation), name, None) for name in (
        "mean", "var", "tracked")) if isinstance(array, np.ndarray))]


def to_torch(model: Module, *image_shapes: Sequence[int]) -> Any:
    """A torch.nn.Module that computes what the model does, with its parameters and buffers under the same names.

    image_shapes: of one image of each input, (C, H, W) or (features,). The structure is that of the model's present
    mode; `train` and `eval` switch dropout and batch norm. Raises ModuleNotFoundError where PyTorch is missing,
    ValueError for a layer that is written in NumPy, and for what PyTorch cannot express.
    """
    try:
        import torch
    except ModuleNotFoundError:
        raise ModuleNotFoundError("to_torch needs PyTorch: pip install 'cnn[torch]'") from None
    from cnn.layers.parts import names_in, refuse_norms_in_training
    from cnn.layers.running import graph_of
    refuse_norms_in_training("to_torch", model, image_shapes)
    graph = graph_of(model, image_shapes)
    for node in graph:
        if node.operation.name not in TABLE or hasattr(node.operation, "layer"):
            raise ValueError(f"to_torch: PyTorch has no {node.operation.name} (module {node.modules[0]!r})")

    once: set[int] = set()      # values that are there once and not for each image: of Parameters alone
    for node in graph:
        if all(id(value) in once for value in node.inputs):
            once.add(id(node.output))

    class Part(torch.nn.Module):
        """Parameters and buffers of one module."""

    class Network(Part):
        def forward(self, *inputs):
            values = {id(value): x for value, x in zip(graph.inputs, inputs, strict=True)}
            for node in graph:
                own = {name: self._tensors[id(p)] for name, p in node.operation.parameters.items()}
                given = [values[id(v)] for v in node.inputs]
                if isinstance(node.operation, Weighted):
                    given, weights = given[:1], given[1:]
                    own |= {name: w[0].reshape(p.shape) for (name, p), w in zip(
                        node.operation.awaited.items(), weights, strict=True)}
                if TABLE[node.operation.name] is _cat and id(node.output) not in once:
                    count = next(x for x, v in zip(given, node.inputs, strict=True) if id(v) not in once).size(0)
                    given = [x.expand(count, *v.image) if id(v) in once else x
                             for x, v in zip(given, node.inputs, strict=True)]
                values[id(node.output)] = TABLE[node.operation.name](
                    torch.nn.functional, plain(node.operation), {**own, "module": self}, *given)
            from cnn.graph.trace import pack
            return pack(graph.structure, [values[id(value)] for value in graph.outputs])

        def buffer(self, array):
            return self._tensors[id(array)]

        def _apply(self, function, recurse=True):       # `to` and the like may replace tensors
            result = super()._apply(function, recurse)
            self._find()
            return result

        def _find(self):
            named = dict(self.named_parameters(remove_duplicate=False)) | dict(self.named_buffers())
            object.__setattr__(self, "_tensors", {key: named[name] for key, name in self._names.items()})

    network = Network()
    network._names, made = {}, {}
    things: list[tuple[str, Any]] = [*model._named(""), *model.named_buffers()]
    named = {id(thing) for _, thing in things}
    for constant, name in names_in(model, graph).items():
        if constant not in named:       # it stands for a buffer
            network._names[constant] = name
            named.add(constant)
    for thing in (thing for node in graph for thing in _things(node.operation) if id(thing) not in named):
        network._names[id(thing)] = name = f"constant{len(network._names)}"     # no part of the state, as in the model
        named.add(id(thing))
        array = thing if isinstance(thing, np.ndarray) else thing.data
        network.register_buffer(name, torch.tensor(array), persistent=False)
    for name, thing in things:
        *path, last = name.split(".")
        part = network
        for step in path:
            if step not in dict(part.named_children()):
                part.add_module(step, Part())
            part = getattr(part, step)
        if hasattr(thing, "requires_grad"):
            if id(thing) not in made:
                made[id(thing)] = torch.nn.Parameter(torch.tensor(thing.data), thing.requires_grad)
            part.register_parameter(last, made[id(thing)])
        else:
            part.register_buffer(last, torch.tensor(thing))
        network._names[id(thing)] = name
    network._kept = model, graph        # whose parts the names are of
    network._find()
    return network.train(model.training)
