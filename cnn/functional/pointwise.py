"""Activations, element by element or over the channels."""
from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cnn import shapes
from cnn.functional.common import computed, in_place
from cnn.functional.common import program as run
from cnn.graph import Value, apply, build, derived
from cnn.graph.wide import Wide
from cnn.ops import pointwise

if TYPE_CHECKING:
    from cnn.engine.program import Program
    from cnn.functional.common import Images

# what the backward kernel of an activation needs of the forward pass: its input or its output
SAVED = {"relu": "y", "leaky_relu": "x", "tanh": "y", "sigmoid": "y", "silu": "x", "gelu": "x", "gelu_tanh": "x"}


def _pointwise(name: str, kernel: str, saved: str | None, arrays: dict[str, Images], **scalars: float) -> Images:
    """Run an activation, or its backward where `saved` says what it gets besides dy; arrays of any shape."""
    first = next(iter(arrays.values()))
    if isinstance(first, Wide):
        return first.each(lambda x: _pointwise(name, kernel, saved, {"x": x}, **scalars))
    if derived.computes(first):
        return derived.through(lambda x: _pointwise(name, kernel, saved, {"x": x}, **scalars), first)
    if isinstance(first, Value):
        if saved is not None:
            raise TypeError(f"{name}: it takes arrays; values are differentiated by themselves")
        return apply(pointwise.ReLU() if kernel == "relu" else pointwise.Activation(kernel, kernel, SAVED[kernel],
                                                                                   **scalars), first)
    checked = [shapes.array(name, what, value, None if i == 0 else arrays["dy"].shape,
                            None if i == 0 else arrays["dy"].dtype)
               for i, (what, value) in enumerate(arrays.items())]
    shape, dtype = checked[0].shape, checked[0].dtype
    # whatever the shape, it is a row of numbers: cut it into images of up to 256
    width = min(256, max(1, -(-checked[0].size // 16)))
    count = -(-checked[0].size // width)
    padded = [np.zeros(count * width, dtype) for _ in checked]
    for flat, value in zip(padded, checked, strict=True):
        flat[:value.size] = value.ravel()

    def write(program: Program) -> None:
        tensors = [program.input(width, flat=True, name=what) for what in arrays]
        if saved is None:
            program.output(pointwise.forward(program, kernel, *tensors, **scalars), "out")
        else:
            dy, kept = tensors
            program.output(pointwise.backward(program, kernel, dy, kept, saved, **scalars), "out")
    out = np.empty(count * width, dtype)
    with run((name, kernel, width, *scalars.values()), dtype, count, write) as program:
        program.run(count, out=out, **dict(zip(arrays, padded, strict=True)))
    return out[:checked[0].size].reshape(shape)


def relu(x: Images, inplace: bool = False) -> Images:
    """max(x, 0); NaN stays NaN. x of any shape. inplace: for code that comes from PyTorch; nothing changes, here and in
    the other activations: x keeps its elements."""
    in_place("relu", x, inplace)
    return _pointwise("relu", "relu", None, {"x": x})


def relu_backward(dy: np.ndarray, y: np.ndarray) -> np.ndarray:
    """dx = dy where y > 0 (or NaN), else 0. dy, y: arrays of any shape, the same; y is what `relu` returned."""
    return _pointwise("relu_backward", "relu", "y", {"dy": dy, "y": y})


def leaky_relu(x: Images, negative_slope: float = 0.01, inplace: bool = False) -> Images:
    """x where x > 0, else negative_slope * x. x of any shape. inplace: nothing changes, see `relu`."""
    in_place("leaky_relu", x, inplace)
    slope = shapes.number("leaky_relu", "negative_slope", negative_slope)
    return _pointwise("leaky_relu", "leaky_relu", None, {"x": x}, slope=slope)


def leaky_relu_backward(dy: np.ndarray, x: np.ndarray, negative_slope: float = 0.01) -> np.ndarray:
    """dx = dy where x > 0, else negative_slope * dy. dy, x: arrays of any shape, the same."""
    slope = shapes.number("leaky_relu_backward", "negative_slope", negative_slope)
    return _pointwise("leaky_relu_backward", "leaky_relu", "x", {"dy": dy, "x": x}, slope=slope)


def tanh(x: Images) -> Images:
    """tanh(x). x of any shape."""
    return _pointwise("tanh", "tanh", None, {"x": x})


def tanh_backward(dy: np.ndarray, y: np.ndarray) -> np.ndarray:
    """dx = dy (1 - y^2). dy, y: arrays of any shape, the same; y is what `tanh` returned."""
    return _pointwise("tanh_backward", "tanh", "y", {"dy": dy, "y": y})


def sigmoid(x: Images) -> Images:
    """1 / (1 + exp(-x)). x of any shape."""
    return _pointwise("sigmoid", "sigmoid", None, {"x": x})


def sigmoid_backward(dy: np.ndarray, y: np.ndarray) -> np.ndarray:
    """dx = dy y (1 - y). dy, y: arrays of any shape, the same; y is what `sigmoid` returned."""
    return _pointwise("sigmoid_backward", "sigmoid", "y", {"dy": dy, "y": y})


def silu(x: Images, inplace: bool = False) -> Images:
    """x sigmoid(x). x of any shape. Elfwing et al. 2018. inplace: nothing changes, see `relu`."""
    in_place("silu", x, inplace)
    return _pointwise("silu", "silu", None, {"x": x})


def silu_backward(dy: np.ndarray, x: np.ndarray) -> np.ndarray:
    """dx = dy s (1 + x (1 - s)) with s = sigmoid(x). dy, x: arrays of any shape, the same."""
    return _pointwise("silu_backward", "silu", "x", {"dy": dy, "x": x})


def gelu_kernel(name: str, approximate: str) -> str:
    """The kernel for a choice of `approximate`, checked."""
    kernels = {"none": "gelu", "tanh": "gelu_tanh"}
    if not isinstance(approximate, str) or approximate not in kernels:
        raise ValueError(f'{name}: approximate must be "none" or "tanh", got {approximate!r}')
    return kernels[approximate]


def gelu(x: Images, approximate: str = "none") -> Images:
    """x P(x), P the normal distribution function, or with approximate="tanh"
    x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2. x of any shape. Hendrycks and Gimpel 2016."""
    return _pointwise("gelu", gelu_kernel("gelu", approximate), None, {"x": x})


def gelu_backward(dy: np.ndarray, x: np.ndarray, approximate: str = "none") -> np.ndarray:
    """dx = dy times the derivative of `gelu` at x. dy, x: arrays of any shape, the same; approximate as in `gelu`."""
    return _pointwise("gelu_backward", gelu_kernel("gelu_backward", approximate), "x", {"dy": dy, "x": x})


def softmax(x: Images, dim: int = 1) -> Images:
    """exp(x_i) / sum of exp(x_k) over the axis `dim`, 1 (channels or features) and up; x: a value or an array,
    (N, C, H, W), (N, H, W) or (N, features)."""
    dim = shapes.integer("softmax", "dim", dim, -2**31)
    if isinstance(x, Wide):
        return x.softmax(dim)
    if derived.computes(x):
        return derived.over_axes("softmax", softmax, x, dim)
    return computed("softmax", lambda x: build.softmax("softmax", x, dim), {"x": _with_elements("softmax", x)}, (dim,))


def softmax_backward(dy: np.ndarray, y: np.ndarray, dim: int = 1) -> np.ndarray:
    """dx_c = y_c (dy_c - sum of dy_k y_k).

    dy, y: (N, C, H, W) or (N, features); y is what `softmax` returned; dim: 1.
    """
    return _over_channels("softmax", {"dy": dy, "y": y}, dim)


def log_softmax(x: Images, dim: int = 1) -> Images:
    """log of `softmax`, without its overflows: x_i - log of the sum of exp(x_k) over the axis `dim`.

    x: a value or an array, (N, C, H, W), (N, H, W) or (N, features); dim: 1 and up.
    """
    dim = shapes.integer("log_softmax", "dim", dim, -2**31)
    if isinstance(x, Wide):
        return x.log_softmax(dim)
    if derived.computes(x):
        return derived.over_axes("log_softmax", log_softmax, x, dim)
    return computed("log_softmax", lambda x: build.softmax("log_softmax", x, dim),
                    {"x": _with_elements("log_softmax", x)}, (dim,))


def log_softmax_backward(dy: np.ndarray, y: np.ndarray, dim: int = 1) -> np.ndarray:
    """dx_c = dy_c - exp(y_c) times the sum of dy_k.

    dy, y: (N, C, H, W) or (N, features); y is what `log_softmax` returned; dim: 1.
    """
    return _over_channels("log_softmax", {"dy": dy, "y": y}, dim)


def _with_elements(name: str, x: Images) -> Images:
    if isinstance(x, np.ndarray) and (not 2 <= x.ndim <= 4 or 0 in x.shape[1:]):
        raise ValueError(f"{name}: x must have shape (N, C, H, W), (N, H, W) or (N, features), and every image "
                         f"elements, got {x.shape}")
    return x


def _over_channels(kernel: str, arrays: dict[str, np.ndarray], dim: int) -> np.ndarray:
    """Run the backward pass of softmax or of its logarithm."""
    name = f"{kernel}_backward"
    if shapes.integer(name, "dim", dim, -2**31) != 1:
        raise ValueError(f"{name}: dim must be 1 (channels or features), got {dim}")
    for what, value in arrays.items():
        if isinstance(value, Value):
            raise TypeError(f"{name}: {what} must be an array; values are differentiated by themselves")
    checked = {"dy": shapes.images(name, "dy", arrays["dy"])}
    if checked["dy"].ndim == 3:
        raise ValueError(f"{name}: dy must have shape (N, C, H, W) or (N, features), got {checked['dy'].shape}")
    shape, dtype = checked["dy"].shape, checked["dy"].dtype
    if 0 in shape[1:]:
        raise ValueError(f"{name}: every image of dy must have pixels, got shape {shape}")
    shapes.element_count(name, *shape)
    checked["y"] = shapes.array(name, "y", arrays["y"], shape, dtype)

    def write(program: Program) -> None:
        dy, y = (program.input(*shape[1:], flat=len(shape) == 2, name=what) for what in arrays)
        program.output(pointwise.backward(program, kernel, dy, y, "y"), "out")
    out = np.empty(shape, dtype)
    with run((name, shape[1:]), dtype, len(checked["dy"]), write) as program:
        program.run(len(out), out=out, **checked)
    return out
