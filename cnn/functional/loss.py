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


def targets(name: str, value: np.ndarray, count: int, classes: int) -> np.ndarray:
    """Class numbers as int64 (count,), checked to lie in [0, classes)."""
    value = np.asarray(value)
    if value.dtype.kind not in "iu":
        raise TypeError(f"{name}: targets must be integers, got {value.dtype}")
    if value.shape != (count,):
        raise ValueError(f"{name}: targets must have shape ({count},), got {value.shape}")
    if count and not 0 <= value.min() <= value.max() < classes:
        raise ValueError(f"{name}: targets must lie in [0, {classes}), got {value.min()} to {value.max()}")
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


def cross_entropy(logits: np.ndarray | Value, targets_: np.ndarray | Value,
                  weight: Sequence[float] | np.ndarray | None = None, *, ignore_index: int | None = None,
                  reduction: str = "mean", label_smoothing: float = 0.0) -> Any:
    """Softmax and log loss, fused: L = -log softmax(logits)[target], the (weighted) mean over the batch.

    Of arrays, logits: (N, K); targets_: integers (N,) in [0, K), or ignore_index, None: -100, which does not count;
    weight: (K,) or None; label_smoothing in [0, 1]. Derivation: docs/gradients.md. Returns the loss (float) and dlogits
    (N, K). Of an empty batch, and where all targets have weight 0 or do not count, the loss is NaN, as in PyTorch; the
    gradient is then 0.

    Of values, logits: (N, K) or (N, K, H, W); targets_: numbers of classes, (N,) or (N, H, W), of which ignore_index
    does not count, or distributions over the classes, of logits' shape. Returns one loss per image, a value (N,), by
    `reduction` "mean" or "sum" of its pixels; or with "none" one per pixel. "mean" is that of the pixels whose target
    is not -100, 0 if there are none: without such targets PyTorch's mean over the batch. To divide by the weights, or
    the counted targets, of a batch takes all its images, so that "mean" of classes with a weight or an ignore_index
    raises ValueError; CrossEntropyLoss as the criterion does that.
    """
    name = "cross_entropy"
    reduction_of(name, reduction)
    if ignore_index is not None:
        ignore_index = shapes.integer(name, "ignore_index", ignore_index, -2**31)
    if isinstance(logits, Value) and isinstance(targets_, Value):
        given: Any = np.asarray(weight) if isinstance(weight, (list, tuple)) else weight
        return cross_entropy_value(logits, targets_, label_smoothing, given, ignore_index, reduction)
    if reduction != "mean":
        raise ValueError(f"{name}: of arrays, reduction must be 'mean', got {reduction!r}; CrossEntropyLoss has others")
    found = np.asarray(targets_)
    if found.dtype.kind in "iu" and found.ndim == 1 and found.shape == np.shape(logits)[:1]:
        counted = found != (IGNORED if ignore_index is None else ignore_index)
        if not counted.all():
            logits = shapes.array(name, "logits", logits, ("N", "K"))
            gradient = np.zeros_like(logits)
            value, gradient[counted] = cross_entropy_arrays(logits[counted], found[counted], weight, label_smoothing)
            return value, gradient
    return cross_entropy_arrays(logits, found, weight, label_smoothing)


def cross_entropy_arrays(logits: Any, targets_: Any, weight: Sequence[float] | np.ndarray | None = None,
                         label_smoothing: float = 0.0) -> tuple[float, np.ndarray]:
    """`cross_entropy` of arrays whose targets all count."""
    name = "cross_entropy"
    logits = shapes.array(name, "logits", logits, ("N", "K"))
    classes = shapes.integer(name, "the number of classes", logits.shape[1], 1)
    target = targets(name, np.asarray(targets_), len(logits), classes)
    smoothing = shapes.number(name, "label_smoothing", label_smoothing, 0, 1)
    shares = class_weights(name, weight, classes)
    if backend.by_twins():
        from cnn import reference  # here, because most programs do without
        return reference.cross_entropy(logits, target, smoothing,
                                       None if shares is None else shares.astype(logits.dtype))
    total = np.array([float(len(target)) if shares is None else shares[target].sum()])
    dlogits = np.empty_like(logits)

    def write(program: Program) -> None:
        z = program.input(classes, flat=True)
        dz, program.loss = loss.cross_entropy(program, z, Slot("total"), smoothing,
                                                 None if shares is None else Slot("weight"))
        program.output(dz)
    with run((name, classes, smoothing, shares is None), logits.dtype, len(logits), write) as program:
        program.run(len(logits), x=logits, y=dlogits, target=target, total=total,
                    **({} if shares is None else {"weight": shares}))
        summed = float(program.loss.array[0, 0])
    return summed / float(total[0]) if total[0] else math.nan, dlogits


def mse_loss(prediction: np.ndarray | Value, target: np.ndarray | Value, *, reduction: str = "mean") -> Any:
    """Mean squared error over all elements: L = sum of (prediction - target)^2 / count (docs/gradients.md).

    prediction, target: arrays of one shape, (N, C, H, W) or (N, features). Returns the loss (float) and its gradient by
    the prediction. Of an empty batch the loss is NaN. Of values, of any one shape: one loss per image, a value (N,), by
    `reduction` "mean" or "sum" of its elements; or with "none" one per element.
    """
    name = "mse_loss"
    if isinstance(prediction, Value) and isinstance(target, Value):
        return _reduced(mse_elements(prediction, target), reduction_of(name, reduction))
    if reduction != "mean":
        raise ValueError(f"{name}: of arrays, reduction must be 'mean', got {reduction!r}; MSELoss has others")
    prediction = shapes.array(name, "prediction", prediction)
    if prediction.ndim not in (2, 4) or 0 in prediction.shape[1:]:
        raise ValueError(f"{name}: prediction must have shape (N, C, H, W) or (N, features), got {prediction.shape}")
    target = shapes.array(name, "target", target, prediction.shape, prediction.dtype)
    if backend.by_twins() and prediction.size:
        from cnn import reference  # here, because most programs do without
        return reference.mse(prediction, target)
    gradient = np.empty_like(prediction)

    def write(program: Program) -> None:
        size, flat = prediction.shape[1:], prediction.ndim == 2
        y = program.input(*size, flat=flat)
        dy, program.loss = loss.mse(program, y, program.input(*size, flat=flat, name="t"))
        program.output(dy)
    with run((name, prediction.shape[1:]), prediction.dtype, len(prediction), write) as program:
        program.run(len(prediction), x=prediction, t=target, y=gradient)
        loss_sum = program.loss.array[0, 0]
    with np.errstate(invalid="ignore"):
        return float(np.divide(loss_sum, np.float64(prediction.size))), gradient
