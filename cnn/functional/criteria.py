"""Losses as functions of values and of arrays. Of values they give what a loss of one's own adds up: one number per
image, whose mean over the batch a Trainer takes. The derivations are in docs/gradients.md.
"""
from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from cnn import shapes
from cnn.functional.common import computed
from cnn.graph import build, means
from cnn.graph.value import Value

if TYPE_CHECKING:
    from collections.abc import Callable

    from cnn.engine.parameter import Parameter
    from cnn.functional.common import Images

    Weight = np.ndarray | Parameter | None

REDUCTIONS = ("none", "mean", "sum")
IGNORED = -100      # the target that does not count unless another is said, as in PyTorch


def reduction_of(owner: str, value: str, choices: tuple[str, ...] = REDUCTIONS) -> str:
    """`reduction`, checked."""
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{owner}: reduction must be {', '.join(map(repr, choices))}, got {value!r}")
    return value


def l1_loss(x: Images, target: Images, *, reduction: str = "mean") -> Any:
    """|x - target|. x, target: values, or arrays, of one shape, (N, C, H, W), (N, H, W), (N, features) or (N,).

    reduction: "none", "mean" or "sum" of the elements; of values those of each image, (N,), of arrays of all, a float.
    Arrays may be one element, (), too.
    """
    return _loss("l1_loss", lambda x, t: _difference("l1_loss", x, t).abs(), {"x": x, "target": target}, reduction)


def mse_elements(x: Value, target: Value) -> Value:
    """(x - target)^2"""
    d = _difference("mse_loss", x, target)
    return d * d


def smooth_l1_loss(x: Images, target: Images, *, reduction: str = "mean", beta: float = 1.0) -> Any:
    """d^2 / (2 beta) where |d| < beta, else |d| - beta / 2, with d = x - target. Girshick 2015.

    x, target: values, or arrays, of one shape; reduction as in `l1_loss`; beta: a number, at least 0, which gives
    `l1_loss`.
    """
    name, beta = "smooth_l1_loss", shapes.number("smooth_l1_loss", "beta", beta, 0)

    def elements(x: Value, t: Value) -> Value:
        size = _difference(name, x, t).abs()
        return _capped(size, beta) / beta if beta else size
    return _loss(name, elements, {"x": x, "target": target}, reduction, beta)


def huber_loss(x: Images, target: Images, reduction: str = "mean", delta: float = 1.0) -> Any:
    """d^2 / 2 where |d| < delta, else delta (|d| - delta / 2), with d = x - target. Huber 1964.

    x, target: values, or arrays, of one shape; reduction as in `l1_loss`; delta: a number above 0.
    """
    name, delta = "huber_loss", shapes.number("huber_loss", "delta", delta, above=0)
    return _loss(name, lambda x, t: _capped(_difference(name, x, t).abs(), delta), {"x": x, "target": target},
                 reduction, delta)


def binary_cross_entropy_with_logits(x: Images, target: Images, weight: Weight = None, *,
                                     reduction: str = "mean", pos_weight: Weight = None) -> Any:
    """-(p t log s + (1 - t) log(1 - s)) with s = sigmoid(x), t = target, p = pos_weight; without overflow.

    x: scores, target: from 0 to 1; values, or arrays, of one shape; reduction as in `l1_loss`. weight, pos_weight:
    arrays that are broadcast to an image, or None: of each element, and of the share of t. With these, arrays x and
    target of shape (K,) are one image.
    """
    name = "binary_cross_entropy_with_logits"
    if (weight is not None or pos_weight is not None) and all(
            isinstance(given, np.ndarray) and given.ndim == 1 for given in (x, target)):
        return _of_one(reduction, lambda x, t: binary_cross_entropy_with_logits(
            x, t, weight, reduction=reduction, pos_weight=pos_weight), x, target)
    weight, pos_weight = _frozen(weight, x), _frozen(pos_weight, x)
    weights = {what: w for what, w in (("weight", weight), ("pos_weight", pos_weight)) if w is not None}

    def elements(x: Value, t: Value) -> Value:
        for what, w in weights.items():
            broadcastable(name, what, w, x.image)
        soft = build.mapped("softplus", -x, name, beta=1.0, threshold=math.inf)     # -log s
        if pos_weight is not None:
            soft = soft * (1 + t * (_constant(name, "pos_weight", pos_weight, x) - 1))
        y = (1 - t) * _alike(name, x, t) + soft
        return y if weight is None else y * _constant(name, "weight", weight, x)
    return _loss(name, elements, {"x": x, "target": target}, reduction, *_bytes(weights))


def binary_cross_entropy(x: Images, target: Images, weight: Weight = None, *, reduction: str = "mean") -> Any:
    """-(t log x + (1 - t) log(1 - x)) of probabilities x, from 0 to 1, and t = target; logarithms are at least -100,
    and the derivative is (x - t) / max(x (1 - x), 1e-12), as PyTorch has it. `binary_cross_entropy_with_logits` of
    scores is more exact.

    x, target: values, or arrays, of one shape; weight: an array that is broadcast to an image, or None; reduction: as
    in `l1_loss`. With a weight, arrays x and target of shape (K,) are one image.
    """
    name = "binary_cross_entropy"
    if weight is not None and all(isinstance(given, np.ndarray) and given.ndim == 1 for given in (x, target)):
        return _of_one(reduction, lambda x, t: binary_cross_entropy(x, t, weight, reduction=reduction), x, target)
    weight = _frozen(weight, x)

    def log(p: Value) -> Value:
        there = p != 0      # so is NaN
        return build.where(there, build.clamp(build.where(there, p, 1.0).log(), low=-100.0), -100.0)

    def elements(x: Value, t: Value) -> Value:
        p = _alike(name, x, t).detach()
        slope = (p - t) / build.clamp(p * (1 - p), low=1e-12)
        y = -t * log(p) - (1 - t) * log(1 - p) + (x - p) * slope.detach()
        if weight is None:
            return y
        broadcastable(name, "weight", weight, x.image)
        return y * _constant(name, "weight", weight, x)
    return _loss(name, elements, {"x": x, "target": target}, reduction,
                 *_bytes({} if weight is None else {"weight": weight}))


def kl_div(x: Images, target: Images, *, reduction: str = "mean", log_target: bool = False) -> Any:
    """Kullback-Leibler divergence t (log t - x), where x are logarithms of probabilities, and t = target.

    x, target: values, or arrays, of one shape; log_target: whether the target, too, is given by logarithms; reduction:
    as in `l1_loss`, or "batchmean", the sum of each image.
    """
    log_target = shapes.flag("kl_div", "log_target", log_target)

    def elements(x: Value, t: Value) -> Value:
        _alike("kl_div", x, t)
        if log_target:
            return t.exp() * (t - x)
        there = t != 0      # the logarithm of a negative target, and of NaN, is NaN
        return build.where(there, t * build.where(there, t, 1.0).log(), 0.0) - t * x
    return _loss("kl_div", elements, {"x": x, "target": target}, reduction, log_target,
                 choices=(*REDUCTIONS, "batchmean"))


def one_hot(target: Images, num_classes: int) -> Images:
    """1 for the target's class, else 0, along a last axis: (N,) gives (N, K), (N, L) gives (N, L, K), (N, H, W) gives
    (N, H, W, K); movedim(-1, 1) has the classes where those of scores are. target: a value, or a float array, of
    numbers of classes; num_classes: K."""
    count = shapes.integer("one_hot", "num_classes", num_classes, 1)

    def of_value(t: Value) -> Value:
        if len(t.image) > 2:
            raise ValueError(f"one_hot: target must have shape (N,), (N, L) or (N, H, W), got {shapes.batch(t.image)}")
        return build.arithmetic("equal", build.reshaped(t, (*t.image, 1)), np.arange(count, dtype=t.dtype))
    return computed("one_hot", of_value, {"target": target}, (count,))


def classes_first(target: Value, count: int) -> Value:
    """As `one_hot`, with the classes in axis 1, as scores have them."""
    numbers = np.arange(count, dtype=target.dtype).reshape(count, *(1,) * len(target.image))
    return build.arithmetic("equal", build.reshaped(target, (1, *target.image)), numbers)


def nll_elements(name: str, log_p: Value, target: Value, weight: Weight, ignore_index: int | None,
                 smoothing: float = 0.0) -> tuple[Value, Value]:
    """The losses -w_g log p_g of each pixel (or image) of class g, 0 where it is ignored, and their weights.

    smoothing: the share of the target that is spread evenly over all classes.
    """
    classes, *pixels = log_p.image
    if tuple(target.image) != tuple(pixels):
        raise ValueError(f"{name}: target must have shape {shapes.batch(pixels) if pixels else '(N,)'} for scores "
                         f"{shapes.batch(log_p.image)}, got {shapes.batch(target.image) if target.image else '(N,)'}")
    hot = classes_first(target, classes)
    if ignore_index is not None and 0 <= ignore_index < classes:
        hot = hot * (build.reshaped(target, (1, *target.image)) != float(ignore_index))
    weighted = hot if weight is None else hot * _per_class(name, weight, log_p)
    weights = build.reduced("sum", weighted, 1, False)
    y = -build.reduced("sum", build.where(weighted, log_p * weighted, 0.0), 1, False)
    if smoothing:
        counts = build.reduced("sum", hot, 1, False)        # 0 where it is ignored
        all_p = log_p if weight is None else log_p * _per_class(name, weight, log_p)
        y = (1 - smoothing) * y - smoothing / classes * counts * build.reduced("sum", all_p, 1, False)
    return y, weights


def soft_elements(name: str, log_p: Value, target: Value, weight: Weight, smoothing: float) -> Value:
    """The losses -sum of w_c t_c log p_c of each pixel (or image), t being a distribution over the classes c."""
    t = _alike(name, target, log_p)
    if smoothing:
        t = t * (1 - smoothing) + smoothing / log_p.image[0]
    t = t if weight is None else t * _per_class(name, weight, log_p)
    return -build.reduced("sum", t * log_p, 1, False)


def nll_loss(x: Images, target: Images, weight: Weight = None, *, ignore_index: int = IGNORED,
             reduction: str = "mean") -> Any:
    """-w_g x_g, where x are logarithms of probabilities and g is the target's class.

    x: (N, K, H, W), (N, K, L) or (N, K); target: numbers of classes, (N, H, W), (N, L) or (N,), of a value as floats;
    both values or both arrays. Of arrays x may also be one image, (K,), whose target is a number. weight: (K,) or None.
    Where the target is ignore_index the loss is 0. reduction: "none", "sum", or "mean", which divides by the sum of the
    weights of all targets.

    Values are of one image, and a Criterion takes the mean over the images, which with "mean" is PyTorch's mean over
    the batch; 0 if no target counts. It knows the batch's weights where `target` is one of its targets, perhaps
    reshaped. Of other values "mean" is that of an image's targets other than -100, and raises ValueError with a weight
    or another ignore_index.
    """
    weight = _frozen(weight, x)
    ignored = shapes.integer("nll_loss", "ignore_index", ignore_index, -2**31)
    if isinstance(x, Value) or isinstance(target, Value):
        for what, given in (("x", x), ("target", target)):
            if not isinstance(given, Value):
                raise TypeError(f"nll_loss: {what} must be a value, as the other is, got {type(given).__name__}")
        return nll_value("nll_loss", x, target, weight, ignored, reduction)
    if isinstance(x, np.ndarray):
        if shapes.as_array("nll_loss", "target", target).dtype.kind in "iu":
            target = np.asarray(target, x.dtype)
        if x.ndim == 1 and np.ndim(target) == 0:
            return _of_one(reduction, lambda x, t: nll_loss(
                x, t, weight, ignore_index=ignored, reduction=reduction), x, target)
    return _weighted("nll_loss", lambda x, t: nll_elements("nll_loss", x, t, weight, ignored), x, target, reduction,
                     ignored, *_bytes({} if weight is None else {"weight": weight}))


def nll_value(name: str, x: Value, target: Value, weight: Weight, ignore_index: int | None, reduction: str,
              smoothing: float = 0.0, checked: bool = False) -> Value:
    """`nll_loss` of values, or with smoothing; ignore_index: an int, or None. checked: whether all targets are known to
    be classes; else the loss of one that is none is NaN."""
    share = means.share(target, x.image[0], weight, ignore_index) if reduction_of(name, reduction) == "mean" else None
    if reduction == "mean" and share is None:
        for what, given, usual in (("weight", weight, None), ("ignore_index", ignore_index, IGNORED)):
            if given is not None and (usual is None or given != usual):
                raise ValueError(
                    f"{name}: {what} must be {usual} with reduction 'mean' of values that are no targets of a loss, as "
                    f"they came in: the mean divides by the weights of all targets of a batch, and values are of one "
                    f"image, got {shapes.shown(given)}: take reduction='sum' or 'none' and divide yourself")
    y, counts = nll_elements(name, x, target, weight, ignore_index, smoothing)
    if not checked:
        known = counts if weight is None else build.reduced("sum", classes_first(target, x.image[0]), 1, False)
        if ignore_index is not None:
            known = known + (target == float(ignore_index))
        y = build.where(known, y, math.nan)
    if reduction != "mean":
        return _reduced(y, reduction)
    if share is not None:
        return means.noted("mean", None, build.reduced("sum", y, None, False) * share)
    return means.noted("mean", None, build.reduced("sum", y, None, False) / build.clamp(
        build.reduced("sum", counts, None, False), low=1.0))


def cross_entropy_value(x: Value, target: Value, label_smoothing: float, weight: Weight, ignore_index: int | None,
                        reduction: str, name: str = "cross_entropy", checked: bool = False) -> Value:
    """`cross_entropy` of values; checked: see `nll_value`."""
    smoothing = shapes.number(name, "label_smoothing", label_smoothing, 0, 1)
    log_p = build.softmax("log_softmax", x, 1, name)
    if tuple(target.image) == tuple(x.image):
        return _reduced(soft_elements(name, log_p, target, weight, smoothing), reduction)
    return nll_value(name, log_p, target, weight, ignore_index, reduction, smoothing, checked)


def _weighted(name: str, elements: Callable[..., tuple[Value, Value]], x: Any, target: Any, reduction: str,
              *key: Any) -> Any:
    """A loss of arrays whose mean divides by weights."""
    reduction = reduction_of(name, reduction)
    operands = {"x": x, "target": target}
    y = computed(name, lambda x, t: elements(x, t)[0], operands, key)
    if reduction == "none":
        return y
    total = computed(f"{name} ", lambda x, t: elements(x, t)[1], operands, key).sum(dtype=np.float64)
    with np.errstate(all="ignore"):
        return float(y.sum(dtype=np.float64) / (total if reduction == "mean" else 1))


def _loss(name: str, elements: Callable[..., Value], operands: dict[str, Any], reduction: str, *key: Any,
          choices: tuple[str, ...] = REDUCTIONS) -> Any:
    """The losses of elements, reduced."""
    reduction = reduction_of(name, reduction, choices)
    if all(isinstance(operand, (np.ndarray, np.floating)) and operand.ndim == 0 for operand in operands.values()):
        return _of_one(reduction, lambda x, t: _loss(
            name, elements, {"x": x, "target": t}, reduction, *key, choices=choices), *operands.values())
    y = computed(name, lambda *values: _reduced(elements(*values), reduction), operands, (reduction, *key))
    if isinstance(y, Value) or reduction == "none":
        return y
    total = y.sum(dtype=np.float64)
    with np.errstate(all="ignore"):
        return float(total if reduction == "sum" else np.divide(total, len(y)))


def _of_one(reduction: str, loss: Callable[..., Any], *operands: Any) -> Any:
    """What `loss` gives for arrays of one image, less the axis of images."""
    y = loss(*(np.asarray(operand)[None] for operand in operands))
    return y[0, ...] if reduction == "none" else y


def _reduced(y: Value, reduction: str) -> Value:
    """Of each image the mean or the sum, (N,), or all elements."""
    if reduction == "none":
        return y
    if reduction == "batchmean":        # the mean over the images of these sums, as PyTorch's
        return build.reduced("sum", y, None, False)
    kind = "mean" if reduction == "mean" else "sum"
    return means.noted(kind, None, build.reduced(kind, y, None, False))


def _capped(size: Value, limit: float) -> Value:
    """size^2 / 2 where it is below the limit, else a straight line from there on."""
    c = build.clamp(size, high=limit)
    return 0.5 * c * c + limit * (size - c)     # c size - c^2 / 2 would have the slope 0 times infinity at infinity


def _difference(name: str, x: Value, target: Value) -> Value:
    return _alike(name, x, target) - target


def _alike(name: str, x: Value, target: Value) -> Value:
    """x; refuse what has another shape."""
    for what, value in (("x", x), ("target", target)):
        if not isinstance(value, Value):
            raise TypeError(f"{name}: {what} must be a value, as the other is, got {type(value).__name__}")
    if x.image != target.image:
        raise ValueError(f"{name}: target must have the shape of x, {tuple(x.shape)}, got {tuple(target.shape)}")
    return x


def broadcastable(name: str, what: str, weight: Any, image: tuple[int, ...]) -> None:
    """Refuse weights, an array or a Parameter, that cannot be broadcast to an image of this shape."""
    own = tuple(getattr(weight, "shape", ()))
    own = own[1:] if len(own) == len(image) + 1 and own[0] == 1 else own
    pairs = zip(reversed(own), reversed(image), strict=False)
    if len(own) > len(image) or not all(n in (1, wanted) for n, wanted in pairs):
        raise ValueError(f"{name}: {what} must have a shape that is broadcast to that of an image, "
                         f"{tuple(image)}, got {tuple(weight.shape)}")


def _constant(name: str, what: str, weight: Any, like: Value) -> Value:
    """An array or a Parameter as a value."""
    value, _ = build.values(f"{name}: {what}", weight, like)
    if value is NotImplemented:
        raise TypeError(f"{name}: {what} must be an array, got {type(weight).__name__}")
    return value


def _per_class(name: str, weight: Any, like: Value) -> Value:
    """Weights of classes, beside scores."""
    classes, *pixels = like.image
    if tuple(getattr(weight, "shape", ())) != (classes,):
        raise ValueError(f"{name}: weight must have shape ({classes},), got {getattr(weight, 'shape', weight)}")
    return build.reshaped(_constant(name, "weight", weight.reshape(-1, *(1,) * len(pixels)) if isinstance(
        weight, np.ndarray) else weight, like), (classes, *(1,) * len(pixels)))


def _frozen(weight: Any, x: Any) -> Any:
    """Weights beside arrays: a copy, which nobody changes while a program is kept for them."""
    if weight is None or isinstance(x, Value):
        return weight
    return np.array(getattr(weight, "data", weight) if not isinstance(weight, np.ndarray) else weight)


def _bytes(weights: dict[str, Any]) -> tuple:
    """What a program with these arrays as constants is looked up by."""
    return tuple((what, np.shape(w), np.asarray(w).tobytes()) for what, w in weights.items())
