"""Arithmetic, comparisons and functions of each element, and reductions; of values and of arrays."""
from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from cnn import shapes
from cnn.engine.parameter import Parameter
from cnn.functional.common import computed, in_place
from cnn.graph import build, derived, means
from cnn.graph.methods import root_of
from cnn.graph.value import Value
from cnn.graph.wide import Wide

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cnn.functional.common import Images, Operand


def maximum(x: Operand, other: Operand) -> Any:
    """The larger of x and other, element by element; NaN if one is. Each a value, an array or a number; shapes are
    broadcast. Where both are equal each gets half of the gradient."""
    return computed("maximum", lambda x, other: build.extreme("maximum", x, other), {"x": x, "other": other},
                    by_element=True)


def minimum(x: Operand, other: Operand) -> Any:
    """The smaller of x and other, otherwise as `maximum`."""
    return computed("minimum", lambda x, other: build.extreme("minimum", x, other), {"x": x, "other": other},
                    by_element=True)


def where(condition: Operand, x: Operand, other: Operand) -> Any:
    """x where the condition is not 0, else other. condition: a comparison of values or of arrays, or any value or float
    array; x, other: values, arrays or numbers; shapes are broadcast. What is not chosen gets the gradient 0."""
    traced = any(isinstance(y, Value) for y in (x, other)) or derived.computes(x, other)
    if isinstance(condition, np.ndarray) and condition.dtype == bool and not traced:
        like = next((y.dtype for y in (x, other) if isinstance(y, (np.ndarray, Value, Parameter))),
                    np.dtype(np.float32))
        condition = condition.astype(like if like in shapes.FLOATS else np.float32)
    return computed("where", build.where, {"condition": condition, "x": x, "other": other}, by_element=True)


def matmul(x: Operand, other: Operand) -> Any:
    """The product of matrices x and other, for each image: (N, A, B) times (N, B, C) gives (N, A, C). x, other: values
    or arrays; of values, one may be a Parameter or an array of two axes, the same for every image, and x then (N, B) or
    (N, heads, A, B), too. (N, heads, A, B) times (N, heads, B, C) is the product of each head; one head goes with all.
    Raises ValueError for what would couple images, as (N, B) times (N, B)."""
    if isinstance(x, Value) or isinstance(other, Value):
        return build.matmul(x, other)
    if isinstance(x, Wide):
        return x @ other
    if derived.computes(x, other):
        return derived.product(x, other)
    return computed("matmul", build.matmul, {"x": x, "other": other})


def bmm(x: Operand, mat2: Operand) -> Any:
    """`matmul` of x, (N, A, B), and mat2, (N, B, C)."""
    return matmul(x, mat2)


def abs(x: Images) -> Images:
    """|x|; the derivative at 0 is 0. x: a value or an array (N, ...)."""
    return _mapped("abs", "absolute", x)


def exp(x: Images) -> Images:
    """e^x. x: a value or an array (N, ...)."""
    return _mapped("exp", "exp", x)


def log(x: Images) -> Images:
    """The natural logarithm: NaN below 0, -infinity at 0. x: a value or an array (N, ...)."""
    return _mapped("log", "log", x)


def sqrt(x: Images) -> Images:
    """The square root; NaN below 0. x: a value or an array (N, ...)."""
    return _mapped("sqrt", "sqrt", x)


def sin(x: Images) -> Images:
    """The sine of x, in radians. x: a value or an array (N, ...)."""
    return _mapped("sin", "sin", x)


def cos(x: Images) -> Images:
    """The cosine of x, in radians. x: a value or an array (N, ...)."""
    return _mapped("cos", "cos", x)


def pow(x: Images, exponent: Any) -> Images:
    """x to the power of a number, `exponent`. x: a value or an array (N, ...). Beside a value the exponent may also be
    one, a Parameter or an array, of a shape that is broadcast; x is then at least 0, where the derivative is 0, and NaN
    comes of less."""
    if hasattr(exponent, "shape") and not isinstance(exponent, np.number) and not (
            isinstance(x, np.ndarray) and isinstance(exponent, np.ndarray)):
        return computed("pow", build.power, {"x": x, "exponent": exponent}, by_element=True)
    exponent = shapes.number("pow", "exponent", exponent)
    return computed("pow", lambda x: build.power(x, exponent), {"x": x}, (exponent,), by_element=True)


def clamp(x: Images, min: float | None = None, max: float | None = None) -> Images:
    """x, but at least `min` and at most `max`, numbers, which may be infinite, and of which one may be missing. x: a
    value or an array (N, ...)."""
    low, high = build.limits("clamp", min, max)
    return computed("clamp", lambda x: build.clamp(x, low, high), {"x": x}, (low, high), by_element=True)


def hardtanh(x: Images, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False) -> Images:
    """min(max(x, min_val), max_val); the derivative at both limits is 0. x: a value or an array (N, ...). inplace:
    nothing changes, see `relu`."""
    in_place("hardtanh", x, inplace)
    low, high = shapes.number("hardtanh", "min_val", min_val), shapes.number("hardtanh", "max_val", max_val)
    if low > high:
        raise ValueError(f"hardtanh: max_val must be at least min_val, {low}, got {high}")
    return _mapped("hardtanh", "hardtanh", x, min_val=low, max_val=high)


def relu6(x: Images, inplace: bool = False) -> Images:
    """min(max(x, 0), 6). x: a value or an array (N, ...). Howard et al. 2017. inplace: nothing changes, see `relu`."""
    in_place("relu6", x, inplace)
    return _mapped("relu6", "hardtanh", x, min_val=0.0, max_val=6.0)


def elu(x: Images, alpha: float = 1.0, inplace: bool = False) -> Images:
    """x where x > 0, else alpha (e^x - 1). x: a value or an array (N, ...). Clevert et al. 2016. inplace:
    nothing changes, see `relu`."""
    in_place("elu", x, inplace)
    return _mapped("elu", "elu", x, alpha=shapes.number("elu", "alpha", alpha))


def hardswish(x: Images, inplace: bool = False) -> Images:
    """x min(max(x + 3, 0), 6) / 6. x: a value or an array (N, ...). Howard et al. 2019. inplace:
    nothing changes, see `relu`."""
    in_place("hardswish", x, inplace)
    return _mapped("hardswish", "hardswish", x)


def hardsigmoid(x: Images, inplace: bool = False) -> Images:
    """min(max(x + 3, 0), 6) / 6. x: a value or an array (N, ...). inplace: nothing changes, see `relu`."""
    in_place("hardsigmoid", x, inplace)
    return _mapped("hardsigmoid", "hardsigmoid", x)


def mish(x: Images, inplace: bool = False) -> Images:
    """x tanh(log(1 + e^x)). x: a value or an array (N, ...). Misra 2020. inplace: nothing changes, see `relu`."""
    in_place("mish", x, inplace)
    return _mapped("mish", "mish", x)


def softplus(x: Images, beta: float = 1.0, threshold: float = 20.0) -> Images:
    """log(1 + e^(beta x)) / beta, or x itself where beta x is above `threshold`. x: a value or an array (N, ...);
    beta: a number above 0."""
    return _mapped("softplus", "softplus", x, beta=shapes.number("softplus", "beta", beta, above=0),
                   threshold=shapes.number("softplus", "threshold", threshold))


def prelu(x: Images, weight: Operand) -> Images:
    """x where x > 0, else weight x. x: a value or an array (N, ...); weight: a Parameter or an array, (C,) or (1,), of
    x's dtype. He et al. 2015."""
    if isinstance(x, Value):
        return build.prelu(x, weight)
    slopes = shapes.array("prelu", "weight", weight.data if isinstance(weight, Parameter) else weight, ("C",))
    x = shapes.array("prelu", "x", x, None)
    if x.dtype != slopes.dtype:
        raise TypeError(f"prelu: weight must be {x.dtype}, as x is, got {slopes.dtype}")
    kept = Parameter(slopes, requires_grad=False)       # a copy
    return computed("prelu", lambda x: build.prelu(x, kept), {"x": x}, (slopes.tobytes(),))


def _mapped(owner: str, name: str, x: Images, **numbers: float) -> Images:
    return computed(owner, lambda x: build.mapped(name, x, owner, **numbers), {"x": x}, tuple(numbers.values()),
                    by_element=True)


def sum(x: Images, dim: int | Sequence[int] | None = None, keepdim: bool = False) -> Images:
    """The sum over axes of each image. x: a value or an array, (N, C, H, W), (N, H, W), (N, features) or (N,); dim: an
    axis or several, 1 and up or negative, by default all; keepdim: whether they stay, with size 1."""
    return _reduced("sum", x, dim, keepdim)


def mean(x: Images, dim: int | Sequence[int] | None = None, keepdim: bool = False) -> Images:
    """The mean over axes of each image. x: a value or an array, (N, C, H, W), (N, H, W), (N, features) or (N,); dim and
    keepdim as in `sum`."""
    return _reduced("mean", x, dim, keepdim)


def amax(x: Images, dim: int | Sequence[int] | None = None, keepdim: bool = False) -> Images:
    """The largest element over axes of each image; equal ones share the gradient evenly. x: a value or an array,
    (N, C, H, W), (N, H, W), (N, features) or (N,); dim and keepdim as in `sum`."""
    return _reduced("amax", x, dim, keepdim)


def amin(x: Images, dim: int | Sequence[int] | None = None, keepdim: bool = False) -> Images:
    """The smallest element over axes of each image, otherwise as `amax`. x: a value or an array, (N, C, H, W),
    (N, H, W), (N, features) or (N,); dim and keepdim as in `sum`."""
    return _reduced("amin", x, dim, keepdim)


def _reduced(kind: str, x: Images, dim: int | Sequence[int] | None, keepdim: bool) -> Images:
    dims, kept = build.dims_of(kind, dim), shapes.flag(kind, "keepdim", keepdim)
    if isinstance(x, Wide):
        return getattr(x, kind)(dims, kept)
    if derived.computes(x):
        return derived.reduced(kind, lambda x, dims: build.reduced(kind, x, dims, True), x, dims, kept)
    return computed(kind, lambda x: means.noted(kind, dims, build.reduced(kind, x, dims, kept)), {"x": x}, (dims, kept))


def normalize(x: Images, p: float = 2.0, dim: int | Sequence[int] = 1, eps: float = 1e-12) -> Images:
    """x / max(|x|, eps), where |x| = (sum of |x_i|^p)^(1/p) over the axes `dim`; for p = 2 the Euclidean length.

    x: a value or an array, (N, C, H, W), (N, H, W) or (N, features); p, eps: numbers above 0.
    """
    if isinstance(x, Wide):
        return x.same("normalize", dim, lambda x, axis: normalize(x, p, axis, eps))
    if derived.computes(x):
        return derived.over_axes("normalize", lambda x, dims: normalize(x, p, dims, eps), x, dim)
    p, dims = shapes.number("normalize", "p", p, above=0), build.dims_of("normalize", dim)
    eps = shapes.number("normalize", "eps", eps, above=0)

    def total(x: Value) -> Value:
        return build.reduced("sum", x, dims, True, "normalize")

    def of_value(x: Value) -> Value:
        if p == 2:      # under the root, whose slope at 0 is infinite
            return x / build.clamp(total(x * x), max(eps**2, math.ulp(0.0))).sqrt()
        size = x.abs()
        if p == 1:
            return x / build.clamp(total(size), eps)
        return x / build.clamp(root_of(total(size**p), p), eps)
    return computed("normalize", of_value, {"x": x}, (p, dims, eps))
