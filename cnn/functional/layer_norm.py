"""Layer normalisation, and normalisation by neighbouring channels."""
from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cnn import shapes
from cnn.engine.tensors import Slot
from cnn.functional.common import also_sequences, computed, numbers, parameter
from cnn.functional.common import program as run
from cnn.functional.norm import group_norm
from cnn.graph import Value, apply
from cnn.ops import layer_norm as ops
from cnn.ops import local_norm
from cnn.ops.operation import laid

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from cnn.engine.parameter import Parameter
    from cnn.engine.program import Program
    from cnn.functional.common import Images


def layer_norm(x: Images, normalized_shape: int | Sequence[int], weight: np.ndarray | Parameter | None = None,
               bias: np.ndarray | Parameter | None = None, eps: float = 1e-5) -> Images:
    """Layer normalisation (Ba, Kiros & Hinton 2016): y = weight (x - mean) / sqrt(var + eps) + bias, with mean and
    (biased) variance over the last axes of each image.

    x: (N, C, H, W), (N, H, W) or (N, features). normalized_shape: the sizes of these axes, (C, H, W), (H, W) or (W,) of
    images, (features,) of vectors; one integer is one size. weight, bias: of this shape, or None. Returns y like x.

    Raises ValueError where x does not end in these sizes.
    """
    name = "layer_norm"
    shape, eps = sizes(name, normalized_shape), shapes.number(name, "eps", eps, 0)
    return _normalised(name, x, weight, bias, shape, lambda w, b: ops.LayerNorm(name, shape, w, b, eps), (shape, eps))


def layer_norm2d(x: Images, weight: np.ndarray | Parameter | None = None, bias: np.ndarray | Parameter | None = None,
                 eps: float = 1e-5) -> Images:
    """Layer normalisation over the channels of each pixel, as in ConvNeXt (Liu et al. 2022): y = weight (x - mean) /
    sqrt(var + eps) + bias, with mean and (biased) variance of a pixel's C numbers.

    x: (N, C, H, W). weight, bias: (C,) or None. Returns y like x.
    """
    name = "layer_norm2d"
    eps = shapes.number(name, "eps", eps, 0)
    channels = x.image[0] if isinstance(x, Value) and x.image else np.shape(x)[1] if np.ndim(x) > 1 else 0
    return _normalised(name, x, weight, bias, (channels,), lambda w, b: ops.LayerNorm2d(name, channels, w, b, eps),
                       (eps,))


@also_sequences(3)
def instance_norm(x: Images, *, weight: np.ndarray | Parameter | None = None,
                  bias: np.ndarray | Parameter | None = None, eps: float = 1e-5) -> Images:
    """Instance normalisation (Ulyanov et al. 2016): y = weight (x - mean) / sqrt(var + eps) + bias, with mean and
    (biased) variance of each channel of each image.

    x: (N, C, H, W) or (N, C, L). weight, bias: (C,) or None. Returns y like x. Raises ValueError for images of a single
    pixel.
    """
    name = "instance_norm"
    image = x.image if isinstance(x, Value) else shapes.array(name, "x", x, ("N", "C", "H", "W")).shape[1:]
    return group_norm(x, instances(name, image), weight, bias, eps)


@also_sequences(3)
def local_response_norm(x: Images, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0) -> Images:
    """Local response normalisation (Krizhevsky, Sutskever & Hinton 2012): y_c = x_c / (k + alpha / size sum
    x_j^2)^beta, the sum being over the `size` channels j from c - size // 2 on; zeros beyond the first and last.

    x: (N, C, H, W) or (N, C, L). Returns y like x.
    """
    name = "local_response_norm"
    given = local_response(name, size, alpha, beta, k)
    return computed(name, lambda x: apply(local_norm.LocalResponseNorm(name, *given), x), {"x": x}, given)


def sizes(owner: str, normalized_shape: int | Sequence[int]) -> tuple[int, ...]:
    """`normalized_shape` as a tuple of one to three integers from 1."""
    given = normalized_shape if isinstance(normalized_shape, (tuple, list)) else (normalized_shape,)
    if not 1 <= len(given) <= 3:
        raise ValueError(f"{owner}: normalized_shape must be (C, H, W), (H, W), (W,) or (features,), got "
                         f"{shapes.shown(normalized_shape)}")
    return tuple(shapes.integer(owner, "normalized_shape", n, 1) for n in given)


def instances(owner: str, image: tuple[int, ...]) -> int:
    """The channels of images of more than one pixel."""
    if len(image) == 3 and image[1] * image[2] == 1:
        raise ValueError(f"{owner}: images must have more than one pixel, got shape {shapes.batch(image)}")
    return image[0] if image else 1


def local_response(owner: str, size: int, alpha: float, beta: float, k: float) -> tuple[int, float, float, float]:
    """What `local_response_norm` takes, checked."""
    return (shapes.integer(owner, "size", size, 1),
            *(shapes.number(owner, what, n) for what, n in (("alpha", alpha), ("beta", beta), ("k", k))))


def _normalised(name: str, x: Images, weight: np.ndarray | Parameter | None, bias: np.ndarray | Parameter | None,
                shape: tuple[int, ...], operation: Callable, key: tuple) -> Images:
    """What `operation(weight, bias)` makes of a value, or of an array. shape: of weight and bias."""
    if isinstance(x, Value):
        (w, source), (b, other) = (parameter(name, what, value, x.dtype) for what, value in
                                   (("weight", weight), ("bias", bias)))
        for what, value in (("weight", w), ("bias", b)):
            if value is not None and tuple(value.shape) != shape:
                raise ValueError(f"{name}: {what} must have shape {shape}, got {tuple(value.shape)}")
        return apply(operation(w, b).changed(sources=source + other), x)
    x = shapes.array(name, "x", x)
    if not 2 <= x.ndim <= 4 or 0 in x.shape[1:]:
        raise ValueError(f"{name}: x must have shape (N, C, H, W), (N, H, W) or (N, features), got {x.shape}")
    shapes.element_count(name, *x.shape)
    made = operation(None, None)
    made.shape(x.shape[1:])
    given: dict[str, np.ndarray] = {}
    for what, value in zip(("weight", "bias"), numbers(weight, bias), strict=True):
        if value is not None:
            given[what] = shapes.array(name, what, value, shape, x.dtype)
    gamma, beta = (Slot(what) if what in given else None for what in ("weight", "bias"))

    def write(program: Program) -> None:
        program.output(made.written(program, program.input(**laid(x.shape[1:])), gamma, beta)[0])
    y = np.empty_like(x)
    with run((name, x.shape[1:], key, *given), x.dtype, len(x), write) as program:
        program.run(len(x), x=x, y=y, **given)
    return y
