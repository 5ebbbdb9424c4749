"""Losses: the value, and the gradient by the scores."""
from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from cnn import shapes
from cnn.engine import backend
from cnn.engine.program import Program
from cnn.engine.tensors import Slot
from cnn.functional.common import program as run
from cnn.functional.criteria import IGNORED, _reduced, cross_entropy_value, mse_elements, reduction_of
from cnn.graph.value import Value
from cnn.ops import loss

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any


def targets(name: str, value: np.ndarray, count: int, classes: int, what: str = "target") -> np.ndarray:
    """Class numbers as int64 (count,), checked to lie in [0, classes). name, what: who speaks in an error, of what."""
    value = shapes.as_array(name, what, value)
    if value.dtype.kind not in "iu":
        raise TypeError(f"{name}: {what} must be integers, got {value.dtype}")
    if value.shape != (count,):
        raise ValueError(f"{name}: {what} must have shape ({count},), got {value.shape}")
    if count and not 0 <= value.min() <= value.max() < classes:
        raise ValueError(f"{name}: {what} must lie in [0, {classes}), got {value.min()} to {value.max()}")
    return np.ascontiguousarray(value, np.int64)


def class_weights(name: str, weight: Sequence[float] | np.ndarray | None,
                  classes: int | None = None) -> np.ndarray | None:
    """Weights as float64 (classes,), by default of any number, finite and not negative; None stays None."""
    if weight is None:
        return None
    try:
        kind, values = np.asarray(weight).dtype.kind, np.asarray(weight, np.float64, order="C")
    except (TypeError, ValueError):
        kind, values = "O", np.zeros(0)
    if kind not in "fiu":
        raise TypeError(f"{name}: weight must have one element per class, got {weight!r}")
    if values.ndim != 1 or classes not in (None, len(values)):
        raise ValueError(f"{name}: weight must have shape ({'K' if classes is None else classes},), got {values.shape}")
    if not (np.isfinite(values).all() and (values >= 0).all()):
        raise ValueError(f"{name}: weight must be finite and not negative, got {values}")
    if not values.any():
        raise ValueError(f"{name}: weight must be above 0 for one class at least, got {values}")
    return values


def cross_entropy(x: np.ndarray | Value, target: np.ndarray | Value | int,
                  weight: Sequence[float] | np.ndarray | None = None, *, ignore_index: int = IGNORED,
                  reduction: str = "mean", label_smoothing: float = 0.0) -> Any:
    """Softmax and log loss of scores x, fused: L = -log softmax(x)[target], the (weighted) mean over the batch.

    Of arrays, x: (N, K); target: integers (N,) in [0, K), or ignore_index, which does not count; or of one image x:
    (K,), and target: an integer. weight: (K,) or None; label_smoothing in [0, 1]. Derivation: docs/gradients.md.
    Returns the loss (float) and dx like x. Of an empty batch, and where all targets have weight 0 or do not count, the
    loss is NaN, as in PyTorch; the gradient is then 0.

    Of values, x: (N, K), (N, K, L) or (N, K, H, W); target: numbers of classes, (N,), (N, L) or (N, H, W), of which
    ignore_index does not count, or distributions over the classes, of x's shape. Returns one loss per image, a value
    (N,), by `reduction` "mean" or "sum" of its pixels; or with "none" one per pixel. "mean" of classes is as `nll_loss`
    says, in a loss of one's own PyTorch's mean over the batch.
    """
    name = "cross_entropy"
    reduction_of(name, reduction)
    ignore_index = shapes.integer(name, "ignore_index", ignore_index, -2**31)
    if isinstance(x, Value) and isinstance(target, Value):
        given: Any = np.asarray(weight) if isinstance(weight, (list, tuple)) else weight
        return cross_entropy_value(x, target, label_smoothing, given, ignore_index, reduction)
    if reduction != "mean":
        raise ValueError(f"{name}: of arrays, reduction must be 'mean', got {reduction!r}; CrossEntropyLoss has others")
    found = shapes.as_array(name, "target", target)
    if isinstance(x, np.ndarray) and x.ndim == 1 and found.ndim == 0:
        value, dx = cross_entropy(x[None], found[None], weight, ignore_index=ignore_index,
                                  label_smoothing=label_smoothing)
        return value, dx[0]
    if found.dtype.kind in "iu" and found.ndim == 1 and found.shape == np.shape(x)[:1]:
        counted = found != ignore_index
        if not counted.all():
            x = shapes.array(name, "x", x, ("N", "K"))
            dx = np.zeros_like(x)
            value, dx[counted] = cross_entropy_arrays(x[counted], found[counted], weight, label_smoothing)
            return value, dx
    return cross_entropy_arrays(x, found, weight, label_smoothing)


def cross_entropy_arrays(x: Any, target: Any, weight: Sequence[float] | np.ndarray | None = None,
                         label_smoothing: float = 0.0, name: str = "cross_entropy",
                         what: str = "x") -> tuple[float, np.ndarray]:
    """`cross_entropy` of arrays whose targets all count. name, what: who speaks in an error, and its word for x."""
    x = shapes.array(name, what, x, ("N", "K"))
    classes = shapes.integer(name, "the number of classes", x.shape[1], 1)
    target = targets(name, target, len(x), classes)
    smoothing = shapes.number(name, "label_smoothing", label_smoothing, 0, 1)
    shares = class_weights(name, weight, classes)
    if backend.by_twins():
        from cnn import reference  # here, because most programs do without
        return reference.cross_entropy(x, target, smoothing, None if shares is None else shares.astype(x.dtype))
    total = np.array([float(len(target)) if shares is None else shares[target].sum()])
    dx = np.empty_like(x)

    def write(program: Program) -> None:
        z = program.input(classes, flat=True)
        dz, program.loss = loss.cross_entropy(program, z, Slot("total"), smoothing,
                                                 None if shares is None else Slot("weight"))
        program.output(dz)
    with run(("cross_entropy", classes, smoothing, shares is None), x.dtype, len(x), write) as program:
        program.run(len(x), x=x, y=dx, target=target, total=total,
                    **({} if shares is None else {"weight": shares}))
        summed = float(program.loss.array[0, 0])
    return summed / float(total[0]) if total[0] else math.nan, dx


def mse_loss(x: np.ndarray | Value, target: np.ndarray | Value, *, reduction: str = "mean") -> Any:
    """Mean squared error over all elements: L = sum of (x - target)^2 / count (docs/gradients.md).

    x, target: arrays of one shape of at most 4 axes. Returns the loss (float) and its gradient by x. Of an empty batch
    the loss is NaN. Of values, of any one shape: one loss per image, a value (N,), by `reduction` "mean" or "sum" of
    its elements; or with "none" one per element.
    """
    name = "mse_loss"
    if isinstance(x, Value) and isinstance(target, Value):
        return _reduced(mse_elements(x, target), reduction_of(name, reduction))
    if reduction != "mean":
        raise ValueError(f"{name}: of arrays, reduction must be 'mean', got {reduction!r}; MSELoss has others")
    x = shapes.array(name, "x", x)
    if x.ndim > 4 or 0 in x.shape[1:]:
        raise ValueError(f"{name}: x must have at most 4 axes, and elements in each image, got {x.shape}")
    target = shapes.array(name, "target", target, x.shape, x.dtype)
    if x.ndim not in (2, 4):
        rows = len(x) if x.ndim else 1, math.prod(x.shape[1:])
        value, dx = mse_loss(x.reshape(rows), target.reshape(rows))
        return value, dx.reshape(x.shape)
    if backend.by_twins() and x.size:
        from cnn import reference  # here, because most programs do without
        return reference.mse(x, target)
    dx = np.empty_like(x)

    def write(program: Program) -> None:
        size, flat = x.shape[1:], x.ndim == 2
        y = program.input(*size, flat=flat)
        dy, program.loss = loss.mse(program, y, program.input(*size, flat=flat, name="t"))
        program.output(dy)
    with run((name, x.shape[1:]), x.dtype, len(x), write) as program:
        program.run(len(x), x=x, t=target, y=dx)
        loss_sum = program.loss.array[0, 0]
    with np.errstate(invalid="ignore"):
        return float(np.divide(loss_sum, np.float64(x.size))), dx
