"""PyTorch's modules, functions and methods as our operations: one row each of MODULES, SHARED, TORCH, METHODS or
OPERATORS.

A row is a function of the import and of what PyTorch's takes, under PyTorch's names, with its defaults; it returns a
value. Rows of MODULES get the module first. https://pytorch.org/docs/stable/nn.html
"""
from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Any

import numpy as np

from cnn import functional
from cnn.engine.parameter import Parameter
from cnn.export import pytorch_attention as attention
from cnn.export import pytorch_shapes as shaped
from cnn.export.pytorch_values import FOLLOWS, N, Refused, WithIndices, only, settled, value_of
from cnn.export.pytorch_windows import (
    adaptive,
    avg_pool1d,
    avg_pool2d,
    batch_norm,
    batch_norm_module,
    conv1d,
    conv2d,
    conv_module,
    conv_transpose1d,
    conv_transpose2d,
    conv_transpose_module,
    group_norm,
    instance_norm,
    instance_norm_module,
    layer_norm,
    linear,
    max_pool1d,
    max_pool2d,
)
from cnn.graph import Value, build, moving
from cnn.graph.count import Count
from cnn.graph.derived import OWN

if TYPE_CHECKING:
    from collections.abc import Callable


# ---------------------------------------------------------------- functions of each element

def _map(name, **fixed):
    return lambda t, input, inplace=False: getattr(functional, name)(value_of(input), **fixed)


def _gelu(t, input, approximate="none"):
    only("approximate", approximate, "none", "tanh")
    return functional.gelu(value_of(input), approximate=approximate)


def _clamp(t, input, min=None, max=None):
    if any(isinstance(bound, (Value, Parameter, np.ndarray)) for bound in (min, max)):
        raise Refused("min and max must be numbers")
    return functional.clamp(value_of(input), min, max)


def _selu(t, input, inplace=False):
    """scale (max(0, x) + min(0, alpha (e^x - 1))); Klambauer et al. 2017."""
    return functional.elu(value_of(input), 1.6732632423543772848170429916717) * 1.0507009873554804934193349852946


def _dropout(whole):
    def row(t, input, p=0.5, training=True, inplace=False):
        if training is True and p:
            raise Refused("training must be self.training or False, got True")
        return t.dropout(value_of(input), p, whole, training is FOLLOWS)
    return row


def _dropout1d(t, input, p=0.5, training=True, inplace=False):
    x = value_of(input)
    return build.without_rows(SHARED["dropout2d"](t, build.as_rows("dropout1d", x), p, training))


def _softmax(name):
    def row(t, input, dim=None, _stacklevel=3, dtype=None):
        only("dtype", dtype, None)
        if dim is None:
            raise Refused("dim must be given, got None")
        return getattr(functional, name)(value_of(input), dim)
    return row


def _binary(kind):
    def row(t, input, other, alpha=1, rounding_mode=None, out=None):
        only("rounding_mode", rounding_mode, None)
        only("out", out, None)
        a, b = settled(input), settled(other)
        return _of_two(kind, a, b * alpha if alpha != 1 else b)
    return row


def _of_two(kind, a, b):
    for x in (a, b):
        if not isinstance(x, (Value, *OWN, np.ndarray, int, float)) or isinstance(x, bool):
            raise Refused(f"it takes values, weights and numbers, got {type(x).__name__}")
    if not any(isinstance(x, Value) for x in (a, b)):
        raise Refused("one of its inputs must depend on the images, or be a weight")
    return build.arithmetic(kind, *(_number(x, like) for x, like in ((a, b), (b, a))))


def _number(x, like):
    """A tensor of one element is a number here."""
    return float(x) if isinstance(x, np.ndarray) and x.ndim == 0 else x


def matmul(t, input, other):
    return functional.matmul(settled(input), settled(other))


def _turned(kind):
    return lambda t, input, other: _of_two(kind, settled(other), settled(input))


def _pow(t, input, exponent):
    if isinstance(exponent, (Value, Parameter, np.ndarray)) or not isinstance(input, Value):
        raise Refused("the exponent must be a number, and the base depend on the images")
    return value_of(input) * value_of(input) if exponent == 2 else functional.pow(value_of(input), exponent)


def _where(t, condition, input, other):
    return functional.where(*(_number(settled(x), None) for x in (condition, input, other)))


# ---------------------------------------------------------------- reductions

def _reduced(kind):
    def row(t, input, dim=None, keepdim=False, dtype=None, axis=None):
        only("dtype", dtype, None)
        dim = axis if dim is None else dim
        if dim is None:
            raise Refused("dim must be given: without it the images are averaged, too")
        return build.reduced(kind, value_of(input), dim, keepdim)
    return row


def _extreme(kind, of_two):
    """max and min: of two values, or over an axis."""
    def row(t, input, dim=None, keepdim=False, other=None):
        if isinstance(dim, (Value, Parameter, np.ndarray)) or other is not None:
            return _of_two(of_two, settled(input), settled(dim if other is None else other))
        if dim is None:
            raise Refused("dim must be given: without it the largest element is one of all images")
        return WithIndices(build.reduced(kind, value_of(input), dim, keepdim))
    return row


def _method(name, needs=None):
    """A row that is a method of values. needs: an argument that must be given, because PyTorch means the images, too,
    where it is not."""
    def row(t, input, *given, **options):
        if needs and not given and options.get(needs) is None:
            raise Refused(f"{needs} must be given: without it the images are taken together, too")
        options.pop("out", None)
        return getattr(value_of(input), name)(*map(settled, given), **{key: settled(x) for key, x in options.items()})
    return row


def of_weights(name, method, first, *more, **options):
    """What a function of this name, or a method, makes of weights alone."""
    if method and name == "where":      # whose condition is second
        return functional.where(more[0], first, *more[1:])
    options = {key: value for key, value in options.items() if value is not None and not (
               isinstance(value, str) and value == "fro") and key not in ("_stacklevel", "out", "inplace")}
    others = [Count() if part is N else 2.0 if isinstance(part, str) and part == "fro" else part for part in more]
    if name == "getattr":
        return getattr(first, *others)
    if name == "size":      # of a Parameter it is the number of elements
        return first.shape[others[0]] if others else first.shape
    name = {"div": "truediv", "true_divide": "truediv", "bmm": "matmul", "multiply": "mul", "divide": "truediv",
            "subtract": "sub"}.get(name, name)
    operate = getattr(operator, name) if name in OPERATORS else None
    if operate is not None and not options:
        return operate(first, *others)
    if name in functional.__all__ and name not in ("permute", "transpose", "unsqueeze", "squeeze", "flatten"):
        return getattr(functional, name)(first, *others, **options)
    found = getattr(first, name, None) if isinstance(first, OWN) else None
    if found is None:
        raise Refused("it is not done here with weights alone")
    return found(*others, **options) if callable(found) else found


def _norm(t, input, p=2.0, dim=None, keepdim=False, out=None, dtype=None):
    only("out", out, None)
    only("dtype", dtype, None)
    if dim is None:
        raise Refused("dim must be given: without it the images are taken together, too")
    return value_of(input).norm(2.0 if p in (None, "fro") else p, dim, keepdim)


def _attention(t, query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False):
    only("dropout_p", dropout_p, 0.0, 0)
    only("enable_gqa", enable_gqa, False)
    return functional.scaled_dot_product_attention(*map(value_of, (query, key, value)), settled(attn_mask), 0.0,
                                                   is_causal, scale)


# ---------------------------------------------------------------- the tables

# functions of torch, of torch.nn.functional, and methods of a tensor, where they have the name
SHARED: dict[str, Callable] = {
    **{name: _map(name) for name in ("relu", "sigmoid", "tanh", "silu", "hardswish", "hardsigmoid", "mish", "relu6",
                                     "abs", "exp", "log", "sqrt", "sin", "cos")},
    "gelu": _gelu, "selu": _selu, "clamp": _clamp, "clip": _clamp, "absolute": _map("abs"),
    "leaky_relu": lambda t, input, negative_slope=0.01, inplace=False: functional.leaky_relu(
        value_of(input), negative_slope),
    "elu": lambda t, input, alpha=1.0, inplace=False: functional.elu(value_of(input), alpha),
    "hardtanh": lambda t, input, min_val=-1.0, max_val=1.0, inplace=False: functional.hardtanh(
        value_of(input), min_val, max_val),
    "softplus": lambda t, input, beta=1.0, threshold=20.0: functional.softplus(value_of(input), beta, threshold),
    "logsigmoid": lambda t, input: -functional.softplus(-value_of(input)),
    "prelu": lambda t, input, weight: functional.prelu(value_of(input), weight),
    "rsqrt": lambda t, input: 1 / value_of(input).sqrt(), "square": lambda t, input: _pow(t, input, 2),
    "reciprocal": lambda t, input: 1 / value_of(input), "neg": lambda t, input: -value_of(input),
    "negative": lambda t, input: -value_of(input), "pow": _pow,
    "softmax": _softmax("softmax"), "log_softmax": _softmax("log_softmax"),
    "dropout": _dropout(False), "dropout1d": _dropout1d, "dropout2d": _dropout(True),
    **{name: _binary(kind) for name, kind in (
        ("add", "add"), ("sub", "subtract"), ("subtract", "subtract"), ("mul", "multiply"), ("multiply", "multiply"),
        ("div", "divide"), ("divide", "divide"), ("true_divide", "divide"), ("maximum", "maximum"),
        ("minimum", "minimum"), ("gt", "greater"), ("ge", "greater_equal"), ("lt", "less"), ("le", "less_equal"),
        ("eq", "equal"), ("ne", "not_equal"))},
    "where": _where, "mean": _reduced("mean"), "sum": _reduced("sum"), "amax": _reduced("amax"),
    "amin": _reduced("amin"), "max": _extreme("amax", "maximum"), "min": _extreme("amin", "minimum"),
    **{name: getattr(shaped, name) for name in ("flatten", "unflatten", "squeeze", "unsqueeze", "permute", "transpose",
                                                "index_select", "cat", "pad", "interpolate")},
    "reshape": shaped.view, "swapaxes": shaped.transpose, "concat": shaped.cat, "concatenate": shaped.cat,
    "clone": shaped.same, "unbind": shaped.unbind, "norm": _norm, "scaled_dot_product_attention": _attention,
    "glu": lambda t, input, dim=-1: functional.glu(value_of(input), dim),
    **{name: _method(name) for name in ("sign", "lerp", "masked_fill", "clamp_min", "clamp_max", "flip", "narrow",
                                        "select", "repeat", "detach", "tril", "triu", "movedim", "moveaxis", "tile",
                                        "broadcast_to", "log1p", "expm1", "log2", "log10", "logical_not",
                                        "logical_and", "logical_or")},
    "roll": _method("roll", "shifts"),
    **{name: _method(name, "dim") for name in ("var", "std", "logsumexp", "repeat_interleave", "argmax", "argmin",
                                               "cumsum")},
    "mm": lambda t, input, mat2: matmul(t, input, mat2),
    "chunk": lambda t, input, chunks, dim=0: moving.chunk(value_of(input), chunks, dim),
    "split": lambda t, tensor, split_size_or_sections, dim=0: moving.split(
        value_of(tensor), split_size_or_sections, dim),
    "pixel_shuffle": lambda t, input, upscale_factor: functional.pixel_shuffle(value_of(input), upscale_factor),
    "pixel_unshuffle": lambda t, input, downscale_factor: functional.pixel_unshuffle(value_of(input), downscale_factor),
    "channel_shuffle": lambda t, input, groups: functional.channel_shuffle(value_of(input), groups),
    "stack": lambda t, tensors, dim=0: moving.stack(
        [x if isinstance(x, OWN) else value_of(x, "each of tensors") for x in tensors], dim),
    "matmul": matmul, "bmm": lambda t, input, mat2: matmul(t, input, mat2),
    "conv1d": conv1d, "conv2d": conv2d, "conv_transpose1d": conv_transpose1d,
    "conv_transpose2d": conv_transpose2d, "layer_norm": layer_norm,
    "instance_norm": instance_norm, "max_pool1d": max_pool1d, "avg_pool1d": avg_pool1d,
    "adaptive_avg_pool1d": adaptive("adaptive_avg_pool1d"), "adaptive_max_pool1d": adaptive("adaptive_max_pool1d"),
    "local_response_norm": lambda t, input, size, alpha=1e-4, beta=0.75, k=1.0: functional.local_response_norm(
        value_of(input), size, alpha, beta, k),
    "batch_norm": batch_norm, "group_norm": group_norm, "linear": linear, "max_pool2d": max_pool2d,
    "avg_pool2d": avg_pool2d, "adaptive_avg_pool2d": adaptive("adaptive_avg_pool2d"),
    "adaptive_max_pool2d": adaptive("adaptive_max_pool2d"),
    "normalize": lambda t, input, p=2.0, dim=1, eps=1e-12, out=None: functional.normalize(value_of(input), p, dim, eps),
}
# of torch, where its arguments differ from those in torch.nn.functional
TORCH: dict[str, Callable] = {
    "dropout": lambda t, input, p, train: SHARED["dropout"](t, input, p, train),
    "layer_norm": lambda t, input, normalized_shape, weight=None, bias=None, eps=1e-5, cudnn_enable=True:
        layer_norm(t, input, normalized_shape, weight, bias, eps),
    "instance_norm": lambda t, input, weight, bias, mean, var, use_input_stats, momentum, eps, cudnn_enabled:
        instance_norm(t, input, mean, var, weight, bias, eps=eps),
    "batch_norm": lambda t, input, weight, bias, running_mean, running_var, training, momentum, eps, cudnn_enabled:
        batch_norm(t, input, running_mean, running_var, weight, bias, training, momentum, eps),
}
METHODS: dict[str, Callable] = {
    **SHARED, "where": lambda t, input, condition, other: _where(t, condition, input, other),
    "view": shaped.view, "size": shaped.size, "contiguous": shaped.same,
    "dim": lambda t, input: 1 + len(shaped.sizes_of(input)),
    "float": shaped.same_type(np.float32), "double": shaped.same_type(np.float64),
    "flatten": lambda t, input, start_dim=0, end_dim=-1: shaped.flatten(t, input, start_dim, end_dim),
    "view_as": lambda t, input, other: shaped.view(t, input, shaped.size(t, other)),
    "reshape_as": lambda t, input, other: shaped.view(t, input, shaped.size(t, other)),
}
for _name in ("conv1d", "conv2d", "conv_transpose1d", "conv_transpose2d", "layer_norm", "instance_norm",
              "local_response_norm", "max_pool1d", "avg_pool1d", "adaptive_avg_pool1d", "adaptive_max_pool1d",
              "batch_norm", "group_norm", "linear", "max_pool2d", "avg_pool2d", "adaptive_avg_pool2d",
              "adaptive_max_pool2d", "pad", "interpolate", "normalize", "cat", "concat", "stack", "dropout"):
    METHODS.pop(_name, None)
OPERATORS: dict[str, Callable] = {
    **{name: SHARED[name] for name in ("add", "sub", "mul", "neg", "pow", "gt", "ge", "lt", "le", "eq", "ne", "abs")},
    "truediv": SHARED["div"], "iadd": SHARED["add"], "isub": SHARED["sub"], "imul": SHARED["mul"],
    "itruediv": SHARED["div"], "getitem": shaped.getitem, "matmul": matmul, "pos": lambda t, input: input,
}
TAKES_BUFFERS = {batch_norm, TORCH["batch_norm"]}
# what may share the memory of its first argument in PyTorch, besides modules
PARTS = {"view", "reshape", "flatten", "unflatten", "squeeze", "unsqueeze", "permute", "transpose", "swapaxes", "chunk",
         "split", "getitem", "view_as", "reshape_as", "contiguous", "dropout", "dropout1d",
         "dropout2d"}


def functions(torch: Any) -> dict[Any, Callable]:
    """The rows of functions by the functions themselves."""
    found: dict[Any, Callable] = {getattr: shaped.attribute}
    spaces = ((torch, {**SHARED, **TORCH}), (torch.nn.functional, SHARED), (operator, OPERATORS))
    for space, table in spaces:
        found |= {getattr(space, name): row for name, row in table.items() if hasattr(space, name)}
    return found


def is_plain(function: Any) -> bool:
    """Whether a function is one of numbers, which may be called on sizes; or one of torch.fx that only asserts."""
    return getattr(function, "__module__", None) in ("_operator", "operator", "math") or function in (
        getattr, int, float, max, min, sum, round, abs, len) or getattr(function, "__name__", "") in (
        "_assert", "_assert_is_none")


def _of_function(name: str, *attributes: str) -> Callable:
    """A module as the function of this name, with these attributes as its arguments."""
    return lambda t, m, x: SHARED[name](t, x, **{attribute: getattr(m, attribute) for attribute in attributes})


_WINDOW = "kernel_size", "stride", "padding"
MODULES: dict[str, Callable] = {
    "Conv1d": conv_module(conv1d), "Conv2d": conv_module(conv2d),
    "ConvTranspose1d": conv_transpose_module(conv_transpose1d),
    "ConvTranspose2d": conv_transpose_module(conv_transpose2d),
    "LayerNorm": lambda t, m, x: layer_norm(t, x, m.normalized_shape, t.parameter(m.weight), t.parameter(m.bias),
                                            m.eps),
    "InstanceNorm1d": instance_norm_module, "InstanceNorm2d": instance_norm_module,
    "LocalResponseNorm": _of_function("local_response_norm", "size", "alpha", "beta", "k"),
    "MaxPool1d": _of_function("max_pool1d", *_WINDOW, "dilation", "ceil_mode", "return_indices"),
    "AvgPool1d": _of_function("avg_pool1d", *_WINDOW, "ceil_mode", "count_include_pad"),
    "AdaptiveAvgPool1d": _of_function("adaptive_avg_pool1d", "output_size"),
    "AdaptiveMaxPool1d": _of_function("adaptive_max_pool1d", "output_size", "return_indices"),
    "BatchNorm2d": batch_norm_module, "BatchNorm1d": batch_norm_module,
    "Linear": lambda t, m, x: linear(t, x, t.parameter(m.weight), t.parameter(m.bias)),
    "GroupNorm": lambda t, m, x: group_norm(t, x, m.num_groups, t.parameter(m.weight), t.parameter(m.bias), m.eps),
    "MaxPool2d": _of_function("max_pool2d", *_WINDOW, "dilation", "ceil_mode", "return_indices"),
    "AvgPool2d": _of_function("avg_pool2d", *_WINDOW, "ceil_mode", "count_include_pad", "divisor_override"),
    "AdaptiveAvgPool2d": _of_function("adaptive_avg_pool2d", "output_size"),
    "AdaptiveMaxPool2d": _of_function("adaptive_max_pool2d", "output_size", "return_indices"),
    **{kind: _of_function(kind.lower()) for kind in ("ReLU", "Sigmoid", "Tanh", "SiLU", "Hardswish", "Hardsigmoid",
                                                     "Mish", "ReLU6", "SELU", "LogSigmoid")},
    "GELU": _of_function("gelu", "approximate"), "LeakyReLU": _of_function("leaky_relu", "negative_slope"),
    "ELU": _of_function("elu", "alpha"), "Hardtanh": _of_function("hardtanh", "min_val", "max_val"),
    "Softplus": _of_function("softplus", "beta", "threshold"),
    "PReLU": lambda t, m, x: functional.prelu(value_of(x), t.parameter(m.weight)),
    "Softmax": _of_function("softmax", "dim"), "LogSoftmax": _of_function("log_softmax", "dim"),
    "MultiheadAttention": attention.multihead_attention, "TransformerEncoderLayer": attention.encoder_layer,
    "TransformerEncoder": attention.encoder,
    "Softmax2d": lambda t, m, x: functional.softmax(value_of(x), 1),
    "Dropout": lambda t, m, x: t.dropout(value_of(x), m.p, False, not t.frozen(m)),
    "Dropout2d": lambda t, m, x: t.dropout(value_of(x), m.p, True, not t.frozen(m)),
    "Dropout1d": lambda t, m, x: build.without_rows(t.dropout(
        build.as_rows("Dropout1d", value_of(x)), m.p, True, not t.frozen(m))),
    "Flatten": _of_function("flatten", "start_dim", "end_dim"),
    "Unflatten": lambda t, m, x: shaped.unflatten(t, x, m.dim, m.unflattened_size), "Identity": lambda t, m, x: x,
    "Upsample": _of_function("interpolate", "size", "scale_factor", "mode", "align_corners", "recompute_scale_factor"),
    "UpsamplingNearest2d": _of_function("interpolate", "size", "scale_factor", "mode"),
    "UpsamplingBilinear2d": _of_function("interpolate", "size", "scale_factor", "mode", "align_corners"),
    "PixelShuffle": _of_function("pixel_shuffle", "upscale_factor"),
    "PixelUnshuffle": _of_function("pixel_unshuffle", "downscale_factor"),
    "ChannelShuffle": _of_function("channel_shuffle", "groups"), "ZeroPad2d": shaped.pad_module("constant"),
    "ConstantPad2d": shaped.pad_module("constant", lambda m: m.value), "ReflectionPad2d": shaped.pad_module("reflect"),
    "ReplicationPad2d": shaped.pad_module("replicate"), "ZeroPad1d": shaped.pad_module("constant"),
    "ConstantPad1d": shaped.pad_module("constant", lambda m: m.value), "ReflectionPad1d": shaped.pad_module("reflect"),
    "ReplicationPad1d": shaped.pad_module("replicate"),
}
