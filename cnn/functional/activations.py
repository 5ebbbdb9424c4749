"""Functions of each element, and RMS norm, that are made of others: of values and of arrays."""
from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from cnn import shapes
from cnn.functional.common import computed, in_place
from cnn.functional.layer_norm import sizes
from cnn.graph import Value, build

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from cnn.engine.parameter import Parameter
    from cnn.functional.common import Images

FAR = 100.0     # from which on log(1 + e^x) is x
SELU_ALPHA, SELU_SCALE = 1.6732632423543772848170429916717, 1.0507009873554804934193349852946


def _of_each(name: str, function: Callable[[Value], Value], x: Images, key: tuple = ()) -> Images:
    return computed(name, function, {"x": x}, key, by_element=True)


def celu(x: Images, alpha: float = 1.0, inplace: bool = False) -> Images:
    """x where x > 0, else alpha (e^(x / alpha) - 1). Barron 2017. x: a value or an array of any shape; alpha: a number
    above 0. inplace: nothing changes, see `relu`."""
    in_place("celu", x, inplace)
    alpha = shapes.number("celu", "alpha", alpha, above=0)
    return _of_each("celu", lambda x: build.relu(x) + alpha * (build.clamp(x, high=0.0) / alpha).exp() - alpha, x,
                    (alpha,))


def selu(x: Images, inplace: bool = False) -> Images:
    """scale (x where x > 0, else alpha (e^x - 1)), scale 1.0507..., alpha 1.6732.... Klambauer et al. 2017. x: a value
    or an array of any shape. inplace: nothing changes, see `relu`."""
    in_place("selu", x, inplace)
    return _of_each("selu", lambda x: SELU_SCALE * build.mapped("elu", x, alpha=SELU_ALPHA), x)


def logsigmoid(x: Images) -> Images:
    """log(1 / (1 + e^-x)), without overflows. x: a value or an array of any shape."""
    return _of_each("logsigmoid", lambda x: -build.mapped("softplus", -x, beta=1.0, threshold=FAR), x)


def softsign(x: Images) -> Images:
    """x / (1 + |x|). x: a value or an array of any shape."""
    return _of_each("softsign", lambda x: x / (1 + x.abs()), x)


def tanhshrink(x: Images) -> Images:
    """x - tanh(x). x: a value or an array of any shape."""
    return _of_each("tanhshrink", lambda x: x - x.tanh(), x)


def hardshrink(x: Images, lambd: float = 0.5) -> Images:
    """x where |x| > lambd, else 0. x: a value or an array of any shape; lambd: a number, at least 0."""
    lambd = shapes.number("hardshrink", "lambd", lambd, 0)
    return _of_each("hardshrink", lambda x: build.where(x.abs() <= lambd, 0.0, x), x, (lambd,))


def softshrink(x: Images, lambd: float = 0.5) -> Images:
    """x less lambd, of the same sign, where |x| > lambd, else 0. x: a value or an array of any shape; lambd: a number,
    at least 0."""
    lambd = shapes.number("softshrink", "lambd", lambd, 0)
    return _of_each("softshrink", lambda x: x - build.clamp(x, -lambd, lambd), x, (lambd,))


def threshold(x: Images, threshold: float, value: float, inplace: bool = False) -> Images:
    """x where x > threshold, else value. x: a value or an array of any shape; threshold, value: numbers. inplace:
    nothing changes, see `relu`."""
    in_place("threshold", x, inplace)
    limit, other = (shapes.number("threshold", what, n) for what, n in (("threshold", threshold), ("value", value)))
    return _of_each("threshold", lambda x: build.where(x <= limit, other, x), x, (limit, other))


def softmin(x: Images, dim: int = 1) -> Images:
    """`softmax` of -x over the axis `dim`, 1 and up or negative. x: a value or an array, (N, C, H, W), (N, H, W) or
    (N, features)."""
    dim = shapes.integer("softmin", "dim", dim, -2**31)
    return computed("softmin", lambda x: build.softmax("softmax", -x, dim, "softmin"), {"x": x}, (dim,))


def rms_norm(x: Images, normalized_shape: int | Sequence[int], weight: np.ndarray | Parameter | None = None,
             eps: float | None = None) -> Images:
    """x / sqrt(mean of x^2 + eps) weight, over the last axes of each image. Zhang & Sennrich 2019.

    x: a value or an array, (N, features), (N, L, features) or (N, C, H, W); normalized_shape: sizes of these axes, or
    of the last one; weight: of this shape, or None; eps: a number, at least 0, by default that of the dtype. Raises
    TypeError or ValueError for what does not fit.
    """
    name, given = "rms_norm", sizes("rms_norm", normalized_shape)
    least = None if eps is None else shapes.number(name, "eps", eps, 0)

    def of_values(x: Value, *weights: Any) -> Value:
        if tuple(x.image[-len(given):]) != given:
            raise ValueError(f"{name}: the last axes of x must be {given}, got {shapes.batch(x.image)}")
        mean = (x * x).mean(tuple(range(-len(given), 0)), keepdim=True)
        y = x * (mean + (float(np.finfo(x.dtype).eps) if least is None else least)).rsqrt()
        return y * weights[0] if weights else y
    if weight is not None and tuple(weight.shape) != given:
        raise ValueError(f"{name}: weight must have shape {given}, got {tuple(weight.shape)}")
    if isinstance(x, Value) or weight is None:
        return of_values(x, weight) if weight is not None else computed(name, of_values, {"x": x}, (given, least))
    array = getattr(weight, "data", weight) if not isinstance(weight, np.ndarray) else weight
    return computed(name, of_values, {"x": x}, (given, least)) * np.asarray(array, np.asarray(x).dtype)
