"""Normalisation."""
import numpy as np

from cnn import shapes
from cnn.engine.plan import Slot
from cnn.functional.common import numbers, parameter
from cnn.functional.common import program as run
from cnn.graph import Value, apply
from cnn.ops import norm


def batch_norm(x, running_mean=None, running_var=None, weight=None, bias=None, training=False, momentum=0.1,
               eps=1e-5):
    """Batch normalisation of each channel: y = weight (x - mean) / sqrt(var + eps) + bias.

    x: (N, C, H, W); all others (C,) or None. With `training` mean and (biased) variance are the batch's, and the
    running ones, where given, are changed in place: r = (1 - momentum) r + momentum new, with the unbiased
    variance. Otherwise they are the running ones. Returns y like x.

    Raises ValueError for a batch with a single value per channel in training, or running statistics that are
    missing otherwise.
    """
    name = "batch_norm"
    if isinstance(x, Value):
        return _batch_norm_value(x, running_mean, running_var, weight, bias, training, momentum, eps)
    weight, bias = numbers(weight, bias)
    x, w, b = _batch_norm_arrays(name, x, weight, bias)
    channels = x.shape[1]
    given = {"running_mean": running_mean, "running_var": running_var}
    if (running_mean is None) != (running_var is None) or (running_mean is None and not training):
        raise ValueError(f"{name}: running_mean and running_var must both be given"
                         f"{', or none of them' if training else ' where training is false'}")
    if training and x.size == channels:
        raise ValueError(f"{name}: x must hold more than one value per channel in training, got shape {x.shape}")
    running = {what: shapes.array(name, what, value, (channels,), x.dtype).copy()
               for what, value in given.items() if value is not None}
    factor = np.array([shapes.number(name, "momentum", momentum, 0, 1)])
    eps = shapes.number(name, "eps", eps, 0)
    arrays = {"w": w, "b": b, **running}
    slots = {what: None if arrays.get(what) is None else Slot(what) for what in ("w", "b", *given)}

    def write(program):
        t = program.input(*x.shape[1:])
        statistics = slots["running_mean"], slots["running_var"]
        if training:
            kept = norm.batch_statistics(program, t, slots["w"], slots["b"], eps, statistics, Slot("factor"))
        else:
            kept = norm.Norm(*statistics, slots["w"], slots["b"], eps, relu=False)
        program.output(norm.normalise(program, t, kept))
    key = (name, x.shape[1:], bool(training), eps, *(slot is None for slot in slots.values()))
    y = np.empty_like(x)
    with run(key, x.dtype, len(x), write) as program:
        program.run(len(x), x=x, y=y, factor=factor, **{what: a for what, a in arrays.items() if a is not None})
    if training:
        for what, value in running.items():
            given[what][...] = value
    return y


def _batch_norm_value(x, mean, var, weight, bias, training, momentum, eps):
    """`batch_norm` of a value; the running statistics are arrays, which training changes in place."""
    name, shape = "batch_norm", tuple(x.image[:1])
    w, source = parameter(name, "weight", weight, x.dtype)
    b, other = parameter(name, "bias", bias, x.dtype)
    if (mean is None) != (var is None) or (mean is None and not training):
        raise ValueError(f"{name}: running_mean and running_var must both be given"
                         f"{', or none of them' if training else ' where training is false'}")
    if mean is None:
        mean, var = np.zeros(shape, x.dtype), np.ones(shape, x.dtype)
    for what, value in (("running_mean", mean), ("running_var", var), ("weight", w), ("bias", b)):
        if value is not None and (value.shape != shape or value.dtype != x.dtype):
            raise ValueError(f"{name}: {what} must have shape {shape} and dtype {x.dtype}, got {value.shape} and "
                             f"{value.dtype}")
    eps, momentum = shapes.number(name, "eps", eps, 0), shapes.number(name, "momentum", momentum, 0, 1)
    tracked = np.zeros((), np.int64)
    operation = norm.BatchNorm2d(name, w, b, mean, var, eps, bool(training), momentum, tracked)
    return apply(operation.changed(sources=source + other), x)


def batch_norm_backward(dy, x, weight=None, eps=1e-5):
    """Gradients of `batch_norm` in training. dy: the gradient of the loss by y, like x.

    Returns dx like x, dweight and dbias (C,), each summed over the batch but dx.
    """
    name = "batch_norm_backward"
    x, w, _ = _batch_norm_arrays(name, x, weight, None)
    dy = shapes.array(name, "dy", dy, x.shape, x.dtype)
    eps = shapes.number(name, "eps", eps, 0)

    def write(program):
        t, tdy = program.input(*x.shape[1:]), program.input(*x.shape[1:], name="dy")
        kept = norm.batch_statistics(program, t, None if w is None else Slot("w"), None, eps)
        program.output(norm.normalise_backward(program, tdy, t, kept, Slot("dw"), Slot("db")), "dx")
    dx, dw, db = np.empty_like(x), np.empty(x.shape[1], x.dtype), np.empty(x.shape[1], x.dtype)
    with run((name, x.shape[1:], eps, w is None), x.dtype, len(x), write) as program:
        program.run(len(x), x=x, dy=dy, dx=dx, dw=dw, db=db, **({} if w is None else {"w": w}))
    return dx, dw, db


def _batch_norm_arrays(name, x, weight, bias):
    x = shapes.array(name, "x", x, ("N", "C", "H", "W"))
    if 0 in x.shape[1:]:
        raise ValueError(f"{name}: every image of x must have pixels, got shape {x.shape}")
    shapes.element_count(name, *x.shape)
    w, b = (None if value is None else shapes.array(name, what, value, (x.shape[1],), x.dtype)
            for what, value in (("weight", weight), ("bias", bias)))
    return x, w, b
