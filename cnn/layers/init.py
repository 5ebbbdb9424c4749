"""Initial values for weights, all drawn from a NumPy Generator that the caller has seeded.

Values are drawn in float64 and then rounded to `dtype`, so that one seed gives the same weights to a float32
and a float64 network. Each initialiser takes (shape, rng, dtype) and returns a new array:

- shape: (K, C/groups, R, S) for a convolution's weights or (out, in) for a Linear layer's.
- rng: numpy.random.Generator.
- dtype: float32 or float64.

They raise TypeError for another rng or dtype, and ValueError for a shape whose fans are unknown.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NoReturn

import numpy as np

from cnn import hints, shapes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import DTypeLike


def fans(shape: Sequence[int]) -> tuple[int, int]:
    """Return (fan_in, fan_out): how many inputs feed an output, and how many outputs an input feeds.

    For OIHW weights these are I·H·W and O·H·W, for (O, I, L) I·L and O·L; for (out, in) they are in and out.
    Raises ValueError unless the shape has 2 to 4 axes, each of length 1 or more.
    """
    if len(shape) not in (2, 3, 4):
        raise ValueError(f"fans: shape must be (out, in), (O, I, L) or (O, I, H, W), got {tuple(shape)}")
    outputs, inputs, *kernel = (shapes.integer("fans", "a side of shape", side, minimum=1) for side in shape)
    taps = math.prod(kernel)
    return inputs * taps, outputs * taps


def kaiming_uniform(shape: Sequence[int], rng: np.random.Generator, dtype: DTypeLike = np.float32) -> np.ndarray:
    """U(-1/√fan_in, 1/√fan_in): PyTorch's default for Conv2d and Linear weights.

    That is the rule of He et al. 2015, "Delving Deep into Rectifiers", for leaky ReLUs of slope √5.
    """
    fan_in, _ = fans(shape)
    return _uniform(shape, 1 / math.sqrt(fan_in), rng, dtype)


def bias_uniform(shape: Sequence[int], fan_in: int, rng: np.random.Generator,
                 dtype: DTypeLike = np.float32) -> np.ndarray:
    """U(-1/√fan_in, 1/√fan_in): PyTorch's default for the biases beside weights of that fan_in."""
    fan_in = shapes.integer("bias_uniform", "fan_in", fan_in, minimum=1)
    return _uniform(shape, 1 / math.sqrt(fan_in), rng, dtype)


def glorot_uniform(shape: Sequence[int], rng: np.random.Generator, dtype: DTypeLike = np.float32) -> np.ndarray:
    """U(-a, a) with a = √(6 / (fan_in + fan_out)).

    Glorot and Bengio 2010, "Understanding the difficulty of training deep feedforward neural networks".
    """
    return _uniform(shape, math.sqrt(6 / sum(fans(shape))), rng, dtype)


def glorot_normal(shape: Sequence[int], rng: np.random.Generator, dtype: DTypeLike = np.float32) -> np.ndarray:
    """Normal with standard deviation √(2 / (fan_in + fan_out)), not truncated; paper as `glorot_uniform`."""
    return _normal(shape, math.sqrt(2 / sum(fans(shape))), rng, dtype)


def he_uniform(shape: Sequence[int], rng: np.random.Generator, dtype: DTypeLike = np.float32) -> np.ndarray:
    """U(-a, a) with a = √(6 / fan_in): keeps the variance through ReLUs.

    He et al. 2015, "Delving Deep into Rectifiers".
    """
    fan_in, _ = fans(shape)
    return _uniform(shape, math.sqrt(6 / fan_in), rng, dtype)


def he_normal(shape: Sequence[int], rng: np.random.Generator, dtype: DTypeLike = np.float32) -> np.ndarray:
    """Normal with standard deviation √(2 / fan_in), not truncated; paper as `he_uniform`."""
    fan_in, _ = fans(shape)
    return _normal(shape, math.sqrt(2 / fan_in), rng, dtype)


def zeros(shape: Sequence[int], rng: np.random.Generator | None = None, dtype: DTypeLike = np.float32) -> np.ndarray:
    """All 0, for any shape; rng is not used."""
    return np.zeros(shape, shapes.float_type("init", dtype))


def ones(shape: Sequence[int], rng: np.random.Generator | None = None, dtype: DTypeLike = np.float32) -> np.ndarray:
    """All 1, for any shape; rng is not used."""
    return np.ones(shape, shapes.float_type("init", dtype))


INITIALISERS = {
    "kaiming_uniform": kaiming_uniform,
    "glorot_uniform": glorot_uniform,
    "glorot_normal": glorot_normal,
    "he_uniform": he_uniform,
    "he_normal": he_normal,
    "zeros": zeros,
    "ones": ones,
}


def _uniform(shape: Sequence[int], bound: float, rng: np.random.Generator, dtype: DTypeLike) -> np.ndarray:
    return _generator(rng).uniform(-bound, bound, shape).astype(shapes.float_type("init", dtype))


def _normal(shape: Sequence[int], deviation: float, rng: np.random.Generator, dtype: DTypeLike) -> np.ndarray:
    return _generator(rng).normal(0.0, deviation, shape).astype(shapes.float_type("init", dtype))


def _generator(rng: np.random.Generator) -> np.random.Generator:
    if not isinstance(rng, np.random.Generator):
        raise TypeError(f"init: rng must be a numpy.random.Generator, got {type(rng).__name__}")
    return rng


def __getattr__(name: str) -> NoReturn:
    raise hints.missing("module 'cnn.init'", name, hints.OF_INIT)
