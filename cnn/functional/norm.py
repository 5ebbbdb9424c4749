"""Normalisation."""
from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cnn import shapes
from cnn.engine.program import Program
from cnn.engine.tensors import Slot
from cnn.functional.common import also_sequences, numbers, parameter
from cnn.functional.common import program as run
from cnn.graph import Value, apply
from cnn.ops import group_norm as group_ops
from cnn.ops import norm

if TYPE_CHECKING:
    from cnn.engine.parameter import Parameter
    from cnn.functional.common import Images


@also_sequences(2)
def batch_norm(x: Images, running_mean: np.ndarray | None = None, running_var: np.ndarray | None = None,
               weight: np.ndarray | Parameter | None = None, bias: np.ndarray | Parameter | None = None,
               training: bool = False, momentum: float = 0.1, eps: float = 1e-5) -> Images:
    """Batch normalisation of each channel (Ioffe & Szegedy 2015): y = weight (x - mean) / sqrt(var + eps) + bias.

    x: (N, C, H, W), (N, C, L) or (N, C); running_mean, running_var, weight, bias: (C,) or None. With `training` mean
    and (biased) variance are the batch's, and the running ones, where given, are changed in place: r = (1 - momentum) r
    + momentum new, with the unbiased variance. Otherwise they are the running ones. Returns y like x.

    Raises ValueError for a batch with a single value per channel in training, or running statistics that are
    missing otherwise.
    """
    name = "batch_norm"
    if isinstance(x, Value):
        return _batch_norm_value(x, running_mean, running_var, weight, bias, training, momentum, eps)
    x, w, b = _batch_norm_arrays(name, x, *numbers(weight, bias))
    channels = x.shape[1]
    given = {what: value for what, value in (("running_mean", running_mean), ("running_var", running_var))
             if value is not None}
    if (running_mean is None) != (running_var is None) or (running_mean is None and not training):
        raise ValueError(f"{name}: running_mean and running_var must both be given"
                         f"{', or none of them' if training else ' where training is false'}")
    if training and x.size == channels:
        raise ValueError(f"{name}: x must hold more than one value per channel in training, got shape {x.shape}")
    running = {what: shapes.array(name, what, value, (channels,), x.dtype).copy()
               for what, value in given.items()}
    factor = np.array([shapes.number(name, "momentum", momentum, 0, 1)])
    eps = shapes.number(name, "eps", eps, 0)
    arrays = {"w": w, "b": b, **running}
    slots: dict[str, Slot | None] = {
        what: None if arrays.get(what) is None else Slot(what) for what in ("w", "b", "running_mean", "running_var")}

    def write(program: Program) -> None:
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


def _batch_norm_value(x: Value, mean: np.ndarray | None, var: np.ndarray | None, weight: np.ndarray | Parameter | None,
                      bias: np.ndarray | Parameter | None, training: bool, momentum: float, eps: float) -> Value:
    """`batch_norm` of a value; the running statistics are arrays, which training changes in place."""
    name, shape = "batch_norm", tuple(x.image[:1])
    w, source = parameter(name, "weight", weight, x.dtype)
    b, other = parameter(name, "bias", bias, x.dtype)
    if (mean is None) != (var is None) or (mean is None and not training):
        raise ValueError(f"{name}: running_mean and running_var must both be given"
                         f"{', or none of them' if training else ' where training is false'}")
    for what, value in (("running_mean", mean), ("running_var", var), ("weight", w), ("bias", b)):
        if value is not None and (value.shape != shape or value.dtype != x.dtype):
            raise ValueError(f"{name}: {what} must have shape {shape} and dtype {x.dtype}, got {value.shape} and "
                             f"{value.dtype}")
    eps, momentum = shapes.number(name, "eps", eps, 0), shapes.number(name, "momentum", momentum, 0, 1)
    if mean is None:
        operation = norm.BatchNorm2d(name, w, b, None, None, eps, True, channels=x.image[0])
    else:
        operation = norm.BatchNorm2d(name, w, b, mean, var, eps, bool(training), momentum,
                                     np.zeros((), np.int64) if training else None)
    return apply(operation.changed(sources=source + other), x)


def batch_norm_backward(dy: np.ndarray, x: np.ndarray, weight: np.ndarray | None = None,
                        eps: float = 1e-5) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Gradients of `batch_norm` in training. dy: the gradient of the loss by y, like x: (N, C, H, W), (N, C, L) or
    (N, C).

    weight: (C,) or None, and eps as in `batch_norm`. Returns dx like x, dweight and dbias (C,); dweight and dbias are
    summed over the batch.
    """
    name = "batch_norm_backward"
    like = x
    dy, x = (_as_images(a) for a in (dy, x))
    x, w, _ = _batch_norm_arrays(name, x, weight, None)
    dy = shapes.array(name, "dy", dy, x.shape, x.dtype)
    eps = shapes.number(name, "eps", eps, 0)

    def write(program: Program) -> None:
        t, tdy = program.input(*x.shape[1:]), program.input(*x.shape[1:], name="dy")
        kept = norm.batch_statistics(program, t, None if w is None else Slot("w"), None, eps)
        program.output(norm.normalise_backward(program, tdy, t, kept, Slot("dw"), Slot("db")), "dx")
    dx, dw, db = np.empty_like(x), np.empty(x.shape[1], x.dtype), np.empty(x.shape[1], x.dtype)
    with run((name, x.shape[1:], eps, w is None), x.dtype, len(x), write) as program:
        program.run(len(x), x=x, dy=dy, dx=dx, dw=dw, db=db, **({} if w is None else {"w": w}))
    return dx.reshape(like.shape), dw, db


def _as_images(x: np.ndarray) -> np.ndarray:
    """(N, C, L) and (N, C) as (N, C, 1, L) and (N, C, 1, 1); all else as it is."""
    if not isinstance(x, np.ndarray) or x.ndim not in (2, 3):
        return x
    return x.reshape(*x.shape[:2], *(1,) * (4 - x.ndim), *x.shape[2:])


def _batch_norm_arrays(name: str, x: np.ndarray, weight: np.ndarray | None,
                       bias: np.ndarray | None) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
    x = shapes.array(name, "x", x, ("N", "C", "H", "W"))
    if 0 in x.shape[1:]:
        raise ValueError(f"{name}: every image of x must have pixels, got shape {x.shape}")
    shapes.element_count(name, *x.shape)
    w, b = (None if value is None else shapes.array(name, what, value, (x.shape[1],), x.dtype)
            for what, value in (("weight", weight), ("bias", bias)))
    return x, w, b


@also_sequences(2)
def group_norm(x: Images, num_groups: int, weight: np.ndarray | Parameter | None = None,
               bias: np.ndarray | Parameter | None = None, eps: float = 1e-5) -> Images:
    """Group normalisation (Wu & He 2018): y = weight (x - mean) / sqrt(var + eps) + bias, with mean and (biased)
    variance of each image's `num_groups` groups of neighbouring channels.

    x: (N, C, H, W), (N, C, L) or (N, C), num_groups a divisor of C; weight, bias: (C,) or None. Returns y like x.
    """
    name = "group_norm"
    eps = shapes.number(name, "eps", eps, 0)
    if isinstance(x, Value):
        (w, source), (b, other) = (parameter(name, what, value, x.dtype) for what, value in
                                   (("weight", weight), ("bias", bias)))
        channels = x.image[0]
        for what, value in (("weight", w), ("bias", b)):
            if value is not None and value.shape != (channels,):
                raise ValueError(f"{name}: {what} must have shape ({channels},), got {value.shape}")
        groups = shapes.divisor(name, "num_groups", num_groups, channels)
        return apply(group_ops.GroupNorm(name, groups, channels, w, b, eps).changed(sources=source + other), x)
    x, w, b = _batch_norm_arrays(name, x, *numbers(weight, bias))
    groups = shapes.divisor(name, "num_groups", num_groups, x.shape[1])
    given: dict[str, np.ndarray] = {what: value for what, value in (("w", w), ("b", b)) if value is not None}
    gamma, beta = (Slot(what) if what in given else None for what in ("w", "b"))

    def write(program: Program) -> None:
        program.output(group_ops.group_norm(program, program.input(*x.shape[1:]), gamma, beta, groups,
                                            eps)[0])
    y = np.empty_like(x)
    with run((name, x.shape[1:], groups, eps, *given), x.dtype, len(x), write) as program:
        program.run(len(x), x=x, y=y, **given)
    return y


def group_norm_backward(dy: np.ndarray, x: np.ndarray, num_groups: int, weight: np.ndarray | Parameter | None = None,
                        eps: float = 1e-5) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Gradients of `group_norm`. dy: the gradient of the loss by y, like x: (N, C, H, W), (N, C, L) or (N, C).

    num_groups, weight: (C,) or None, and eps as in `group_norm`. Returns dx like x, dweight and dbias (C,); dweight and
    dbias are summed over the batch.
    """
    name = "group_norm_backward"
    like = x
    dy, x = (_as_images(a) for a in (dy, x))
    x, w, _ = _batch_norm_arrays(name, x, numbers(weight)[0], None)
    dy = shapes.array(name, "dy", dy, x.shape, x.dtype)
    groups, eps = shapes.divisor(name, "num_groups", num_groups, x.shape[1]), shapes.number(name, "eps", eps, 0)
    gamma = None if w is None else Slot("w")

    def write(program: Program) -> None:
        t, tdy = program.input(*x.shape[1:]), program.input(*x.shape[1:], name="dy")
        _, stats = group_ops.group_norm(program, t, None, None, groups, eps)
        program.output(group_ops.group_norm_backward(program, tdy, t, stats, gamma, groups, Slot("dw"), Slot("db")),
                       "dx")
    dx, dw, db = np.empty_like(x), np.empty(x.shape[1], x.dtype), np.empty(x.shape[1], x.dtype)
    with run((name, x.shape[1:], groups, eps, w is None), x.dtype, len(x), write) as program:
        program.run(len(x), x=x, dy=dy, dx=dx, dw=dw, db=db, **({} if w is None else {"w": w}))
    return dx.reshape(like.shape), dw, db
