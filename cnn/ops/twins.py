"""How each operation calls its twin: a table from the names in `Operation.twin` to functions.

Each function is called as function(operation, n, *xs), with the arrays that the operation reads for n images. It
returns y and a function for the backward pass: back(dy) returns a list of the gradients of xs and a dict of those of
the operation's parameters, by name.

The twins are looked up in cnn.reference at each call, so that one that has been replaced there is used from then on.
"""
from typing import NamedTuple

import numpy as np

from cnn import reference
from cnn.ops.pointwise import FROM_OUTPUT, MAPS


def refuse_unknown(owner, graph):
    """Raise NotImplementedError for a graph with an operation that has no twin; layers in NumPy need none."""
    for node in graph.nodes:
        operation = node.operation
        if not hasattr(operation, "layer") and operation.twin not in TWINS:
            where = f" (module {node.modules[0]})" if node.modules[0] else ""
            raise NotImplementedError(f"{owner}: the operation {operation.name}{where} has no twin in cnn.reference, "
                                      f'so that backend="reference" cannot run it')


def _data(operation, *names):
    """The arrays of these parameters, None where the operation has none of that name."""
    return [operation.parameters[name].data if name in operation.parameters else None for name in names]


def _conv2d(operation, n, x):
    w, b = _data(operation, "weight", "bias")
    shape, w = w.shape, operation.weights(w)
    sizes = operation.stride, operation.padding, operation.dilation, operation.groups

    def back(dy):
        dx, dw, db = reference.conv2d_backward(dy, x, w, *sizes)
        return [dx], {"weight": dw.reshape(shape), "bias": db}
    return reference.conv2d(x, w, b, *sizes), back


def _conv_transpose2d(operation, n, x):
    w, b = _data(operation, "weight", "bias")
    shape, w = w.shape, operation.weights(w)
    sizes = operation.stride, operation.padding, operation.output_padding, operation.groups, operation.dilation

    def back(dy):
        dx, dw, db = reference.conv_transpose2d_backward(dy, x, w, *sizes)
        return [dx], {"weight": dw.reshape(shape), "bias": db}
    return reference.conv_transpose2d(x, w, b, *sizes), back


def _linear(operation, n, x):
    w, b = _data(operation, "weight", "bias")

    def back(dy):
        dx, dw, db = reference.linear_backward(dy, x, w)
        return [dx], {"weight": dw, "bias": db}
    return reference.linear(x, w, b), back


def _weighted(operation, n, x, *values):
    """An operation of which some parameters are values, the same for all images."""
    given = {name: Given(value[0].reshape(p.shape))
             for (name, p), value in zip(operation.awaited.items(), values, strict=True)}
    y, pull = TWINS[operation.operation.twin](operation.taking(given), n, x)

    def back(dy):
        dxs, named = pull(dy)
        gradients = [np.zeros_like(value) for value in values]
        for name, gradient in zip(operation.awaited, gradients, strict=True):
            gradient[0] = named[name].reshape(gradient.shape[1:])       # it is what all images are computed with
        return [*dxs, *gradients], {name: named[name] for name in operation.parameters}
    return y, back


class Given(NamedTuple):
    """An array in a Parameter's place."""

    data: np.ndarray


def _batch_norm(operation, n, x):
    (w, b), constant = _data(operation, "weight", "bias"), {}
    if operation.training:
        if operation.tracked is not None:
            operation.tracked[...] += 1
        momentum = operation.factor(int(1 if operation.tracked is None else operation.tracked), n, x.shape[1:])
    else:
        momentum, constant = 0.0, {"mean": operation.mean, "var": operation.var}
    y = reference.batch_norm(x, operation.mean, operation.var, w, b, operation.training, momentum, operation.eps,
                             operation.unbiased)

    def back(dy):
        dx, dw, db = reference.batch_norm_backward(dy, x, w, operation.eps, **constant)
        return [dx], {"weight": dw, "bias": db}
    return y, back


def _group_norm(operation, n, x):
    w, b = _data(operation, "weight", "bias")

    def back(dy):
        dx, dw, db = reference.group_norm_backward(dy, x, operation.groups, w, operation.eps)
        return [dx], {"weight": dw, "bias": db}
    return reference.group_norm(x, operation.groups, w, b, operation.eps), back


def _layer_norm(operation, n, x):
    w, b = _data(operation, "weight", "bias")
    axes = (operation.normalized_shape,) if operation.name == "layer_norm" else ()
    forward, backward = getattr(reference, operation.name), getattr(reference, f"{operation.name}_backward")

    def back(dy):
        dx, dw, db = backward(dy, x, *axes, w, operation.eps)
        return [dx], {"weight": dw, "bias": db}
    return forward(x, *axes, w, b, operation.eps), back


def _local_response_norm(operation, n, x):
    given = operation.size, operation.alpha, operation.beta, operation.k, operation.before
    return (reference.local_response_norm(x, *given),
            lambda dy: ([reference.local_response_norm_backward(dy, x, *given)], {}))


def _max_pool2d(operation, n, x):
    pool = reference.adaptive_max_pool2d if "output_size" in operation.options else reference.max_pool2d
    y, indices = pool(x, **operation.options)
    return y, lambda dy: ([reference.max_pool2d_backward(dy, indices, x.shape)], {})


def _avg_pool2d(operation, n, x):
    if "output_size" in operation.options:
        y, pull, sizes = reference.adaptive_avg_pool2d(x, **operation.options), "adaptive_avg_pool2d_backward", {}
    else:
        y, pull, sizes = reference.avg_pool2d(x, **operation.options), "avg_pool2d_backward", operation.options

    def back(dy):
        return [getattr(reference, pull)(dy.reshape(y.shape), x.shape, **sizes)], {}
    return y.reshape(len(x), -1) if operation.flat else y, back


def _activation(name, saved, **more):
    """An activation whose backward pass wants its input ("x") or its output ("y")."""
    def run(operation, n, x):
        scalars = {**operation.scalars, **more}
        y = getattr(reference, name)(x, **scalars)
        kept = x if saved == "x" else y
        return y, lambda dy: ([getattr(reference, f"{name}_backward")(dy, kept, **scalars)], {})
    return run


def _map(name, saved="x"):
    """A map with its numbers."""
    def run(operation, n, x):
        numbers = operation.numbers.values()
        y = getattr(reference, name)(x, *numbers)
        kept = x if saved == "x" else y
        return y, lambda dy: ([getattr(reference, f"{name}_backward")(dy, kept, *numbers)], {})
    return run


def _softmax(name):
    def run(operation, n, x):
        dim = operation.axis + 1
        y = getattr(reference, name)(x, dim)
        return y, lambda dy: ([getattr(reference, f"{name}_backward")(dy, y, dim)], {})
    return run


def _dropout(operation, n, x):
    operation.own[1] += 1
    drop = reference.dropout2d if operation.whole else reference.dropout
    draw = operation.p, int(operation.own[0]), int(operation.own[1]) % 2**32
    return drop(x, *draw), lambda dy: ([drop(dy, *draw)], {})


def _binary(name):
    """Arithmetic of two values."""
    def run(operation, n, a, b):
        return (getattr(reference, name)(a, b),
                lambda dy: (list(getattr(reference, f"{name}_backward")(dy, a, b)), {}))
    return run


def _comparison(name):
    """What has no gradient."""
    def run(operation, n, a, b):
        return getattr(reference, name)(a, b), lambda dy: ([np.zeros_like(a), np.zeros_like(b)], {})
    return run


def _where(operation, n, condition, a, b):
    return (reference.where(condition, a, b),
            lambda dy: ([np.zeros_like(condition), *reference.where_backward(dy, condition, a, b)], {}))


def _affine(operation, n, x):
    return (reference.affine(x, operation.factor, operation.summand),
            lambda dy: ([reference.affine_backward(dy, operation.factor)], {}))


def _reciprocal(operation, n, x):
    return (reference.reciprocal(x, operation.number),
            lambda dy: ([reference.reciprocal_backward(dy, x, operation.number)], {}))


def _reduce_sum(operation, n, x):
    return (reference.reduce_sum(x, [i + 1 for i in operation.axes]),
            lambda dy: ([reference.reduce_sum_backward(dy, x.shape)], {}))


def _reduce_mean(operation, n, x):
    return (reference.reduce_mean(x, [i + 1 for i in operation.axes]),
            lambda dy: ([reference.reduce_mean_backward(dy, x.shape)], {}))


def _extreme(name):
    def run(operation, n, x):
        axes = [i + 1 for i in operation.axes]
        y = getattr(reference, name)(x, axes)
        return y, lambda dy: ([reference.extreme_backward(dy, x, y, axes)], {})
    return run


def _reshape(operation, n, x):
    return reference.reshape(x, operation.image), lambda dy: ([reference.reshape_backward(dy, x.shape)], {})


def _cat(operation, n, *xs):
    return reference.cat(xs), lambda dy: (list(reference.cat_backward(dy, [x.shape[1] for x in xs])), {})


def _slice_channels(operation, n, x):
    return (reference.slice_channels(x, operation.first, operation.stop),
            lambda dy: ([reference.slice_channels_backward(dy, operation.first, x.shape)], {}))


def _tables(operation, x):
    return operation.tables[operation.plane:] if x.ndim > 2 else operation.tables[:1]


def _pick(operation, n, x):
    tables = _tables(operation, x)
    return (reference.pick(x, tables, operation.value),
            lambda dy: ([reference.pick_backward(dy, x.shape, tables)], {}))


def _permute(operation, n, x):
    return reference.permute(x, operation.axes), lambda dy: ([reference.permute_backward(dy, operation.axes)], {})


def _cat_along(operation, n, *xs):
    axis = operation.axis + 1
    return (reference.cat_along(xs, axis),
            lambda dy: (list(reference.cat_along_backward(dy, [x.shape[axis] for x in xs], axis)), {}))


def _bilinear(operation, n, x):
    return (reference.bilinear(x, operation.rows, operation.columns),
            lambda dy: ([reference.bilinear_backward(dy, x.shape, operation.rows, operation.columns)], {}))


def _pixel_shuffle(operation, n, x):
    there, back = ((reference.pixel_unshuffle, reference.pixel_shuffle) if operation.back else
                   (reference.pixel_shuffle, reference.pixel_unshuffle))
    return there(x, operation.factor), lambda dy: ([back(dy, operation.factor)], {})


def _spread(operation, n):
    p, = _data(operation, "parameter")
    return (reference.spread(p, n, operation.image),
            lambda dy: ([], {"parameter": reference.spread_backward(dy, p.shape)}))


def _store(operation, n, x):
    operation.array[...] = x[0].reshape(operation.array.shape)
    return x, lambda dy: ([np.zeros_like(x)], {})


TWINS = {
    "conv2d": _conv2d, "conv_transpose2d": _conv_transpose2d, "linear": _linear, "batch_norm": _batch_norm,
    "group_norm": _group_norm, "layer_norm": _layer_norm, "layer_norm2d": _layer_norm,
    "local_response_norm": _local_response_norm,
    "max_pool2d": _max_pool2d, "avg_pool2d": _avg_pool2d, "dropout": _dropout,
    "relu": _activation("relu", "y"), "tanh": _activation("tanh", "y"), "sigmoid": _activation("sigmoid", "y"),
    "softmax": _softmax("softmax"), "log_softmax": _softmax("log_softmax"),
    **{name: _map(name, "y" if name in FROM_OUTPUT else "x") for name in MAPS},
    "leaky_relu": _activation("leaky_relu", "x"), "silu": _activation("silu", "x"), "gelu": _activation("gelu", "x"),
    "gelu_tanh": _activation("gelu", "x", approximate="tanh"),
    **{name: _binary(name) for name in ("add", "subtract", "multiply", "divide", "maximum", "minimum", "matmul")},
    **{name: _comparison(name) for name in ("greater", "greater_equal", "equal", "not_equal")}, "where": _where,
    "affine": _affine, "reciprocal": _reciprocal, "reduce_sum": _reduce_sum,
    "reduce_mean": _reduce_mean, "amax": _extreme("amax"), "amin": _extreme("amin"), "reshape": _reshape, "cat": _cat,
    "slice_channels": _slice_channels, "pick": _pick, "permute": _permute,
    "cat_along": _cat_along, "bilinear": _bilinear,
    "pixel_shuffle": _pixel_shuffle, "pixel_unshuffle": _pixel_shuffle, "spread": _spread,
    "weighted": _weighted, "store": _store, "detach": lambda operation, n, x: (x, lambda dy: ([np.zeros_like(x)], {})),

}
