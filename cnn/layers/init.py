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
from typing import TYPE_CHECKING, NoReturn, TypeVar

import numpy as np

from cnn import hints, shapes
from cnn.engine.data import generator as default_generator
from cnn.engine.parameter import Parameter

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import DTypeLike

Tensor = TypeVar("Tensor", Parameter, np.ndarray)


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


# ---------------------------------------------------------------- in place, as torch.nn.init has them

GAINS = {**dict.fromkeys(("linear", "conv1d", "conv2d", "conv_transpose1d", "conv_transpose2d", "sigmoid"), 1.0),
         "tanh": 5 / 3, "relu": math.sqrt(2), "selu": 3 / 4}


def calculate_gain(nonlinearity: str, param: float | None = None) -> float:
    """By how much weights before an activation are larger than those before none, as PyTorch has it. nonlinearity:
    "linear", "conv2d" and the like, "sigmoid", "tanh", "relu", "leaky_relu" of slope `param`, 0.01 by default, or
    "selu". Raises ValueError for another."""
    if nonlinearity == "leaky_relu":
        slope = 0.01 if param is None else shapes.number("calculate_gain", "param", param)
        return math.sqrt(2 / (1 + slope**2))
    if not isinstance(nonlinearity, str) or nonlinearity not in GAINS:
        raise ValueError(f"calculate_gain: nonlinearity must be one of {', '.join([*GAINS, 'leaky_relu'])}, got "
                         f"{shapes.shown(nonlinearity)}")
    return GAINS[nonlinearity]


def uniform_(tensor: Tensor, a: float = 0.0, b: float = 1.0, generator: np.random.Generator | None = None) -> Tensor:
    """Fill with U(a, b). tensor: a Parameter or an array of floats, here and below, which is returned. generator: a
    numpy.random.Generator; by default one for the whole process, which begins with seed 0. Raises TypeError or
    ValueError for other arguments."""
    low, high = shapes.number("uniform_", "a", a), shapes.number("uniform_", "b", b)
    if low > high:
        raise ValueError(f"uniform_: b must be at least a, {low:g}, got {high:g}")
    return _filled("uniform_", tensor, lambda shape: _drawing(generator).uniform(low, high, shape))


def normal_(tensor: Tensor, mean: float = 0.0, std: float = 1.0,
            generator: np.random.Generator | None = None) -> Tensor:
    """Fill with normal numbers of this mean and standard deviation, `std`; tensor, generator: see `uniform_`."""
    mean, std = shapes.number("normal_", "mean", mean), shapes.number("normal_", "std", std, 0)
    return _filled("normal_", tensor, lambda shape: _drawing(generator).normal(mean, std, shape))


def trunc_normal_(tensor: Tensor, mean: float = 0.0, std: float = 1.0, a: float = -2.0, b: float = 2.0,
                  generator: np.random.Generator | None = None) -> Tensor:
    """Fill with normal numbers of this mean and standard deviation, `std`, from a to b only; tensor, generator: see
    `uniform_`. Raises ValueError, too, where a thousandth of the normal numbers or fewer lie there."""
    name = "trunc_normal_"
    mean, std = shapes.number(name, "mean", mean), shapes.number(name, "std", std, above=0)
    low, high = ((shapes.number(name, what, end) - mean) / std for what, end in (("a", a), ("b", b)))
    if math.erf(high / math.sqrt(2)) - math.erf(low / math.sqrt(2)) < 2e-3:
        raise ValueError(f"{name}: a and b must be ends between which normal numbers of mean {mean:g} and std {std:g} "
                         f"lie, got {a} and {b}")

    def drawn(shape: tuple[int, ...]) -> np.ndarray:
        numbers = _drawing(generator).standard_normal(shape)
        while (outside := (numbers < low) | (numbers > high)).any():
            numbers[outside] = _drawing(generator).standard_normal(np.count_nonzero(outside))
        return mean + std * numbers
    return _filled(name, tensor, drawn)


def constant_(tensor: Tensor, val: float) -> Tensor:
    """Fill with a number, `val`; tensor: see `uniform_`."""
    return _filled("constant_", tensor, lambda shape: np.full(shape, shapes.number("constant_", "val", val)))


def zeros_(tensor: Tensor) -> Tensor:
    """Fill with 0; tensor: see `uniform_`."""
    return _filled("zeros_", tensor, np.zeros)


def ones_(tensor: Tensor) -> Tensor:
    """Fill with 1; tensor: see `uniform_`."""
    return _filled("ones_", tensor, np.ones)


def xavier_uniform_(tensor: Tensor, gain: float = 1.0, generator: np.random.Generator | None = None) -> Tensor:
    """Fill as `glorot_uniform`, times `gain`; tensor, generator: see `uniform_`."""
    gain = shapes.number("xavier_uniform_", "gain", gain, 0)
    return _filled("xavier_uniform_", tensor,
                   lambda shape: gain * glorot_uniform(shape, _drawing(generator), np.float64))


def xavier_normal_(tensor: Tensor, gain: float = 1.0, generator: np.random.Generator | None = None) -> Tensor:
    """Fill as `glorot_normal`, times `gain`; tensor, generator: see `uniform_`."""
    gain = shapes.number("xavier_normal_", "gain", gain, 0)
    return _filled("xavier_normal_", tensor,
                   lambda shape: gain * glorot_normal(shape, _drawing(generator), np.float64))


def kaiming_uniform_(tensor: Tensor, a: float = 0.0, mode: str = "fan_in", nonlinearity: str = "leaky_relu",
                     generator: np.random.Generator | None = None) -> Tensor:
    """Fill with U(-s √3, s √3), s as in `kaiming_normal_`, with its a, mode, nonlinearity; tensor, generator: see
    `uniform_`."""
    return _filled("kaiming_uniform_", tensor, lambda shape: _drawing(generator).uniform(-1, 1, shape) * math.sqrt(3)
                   * _deviation("kaiming_uniform_", shape, a, mode, nonlinearity))


def kaiming_normal_(tensor: Tensor, a: float = 0.0, mode: str = "fan_in", nonlinearity: str = "leaky_relu",
                    generator: np.random.Generator | None = None) -> Tensor:
    """Fill with normal numbers of standard deviation gain / √fan: He et al. 2015.

    a: the slope of "leaky_relu". mode: "fan_in" or "fan_out", see `fans`. nonlinearity: as `calculate_gain` takes it.
    tensor, generator: see `uniform_`. Raises ValueError, too, for another mode or nonlinearity.
    """
    return _filled("kaiming_normal_", tensor, lambda shape: _drawing(generator).normal(0, 1, shape)
                   * _deviation("kaiming_normal_", shape, a, mode, nonlinearity))


def orthogonal_(tensor: Tensor, gain: float = 1.0, generator: np.random.Generator | None = None) -> Tensor:
    """Fill with a matrix (out, everything else) whose rows, or columns if there are fewer, are orthogonal and of length
    `gain`: Saxe, McClelland & Ganguli 2014. tensor, generator: see `uniform_`."""
    gain = shapes.number("orthogonal_", "gain", gain)

    def drawn(shape: tuple[int, ...]) -> np.ndarray:
        if len(shape) < 2:
            raise ValueError(f"orthogonal_: tensor must have at least 2 axes, got shape {shape}")
        flat = _drawing(generator).standard_normal((shape[0], math.prod(shape[1:])))
        q, r = np.linalg.qr(flat.T if flat.shape[0] < flat.shape[1] else flat)
        q = q * np.where(np.diag(r) < 0, -1, 1)
        return gain * (q.T if flat.shape[0] < flat.shape[1] else q).reshape(shape)
    return _filled("orthogonal_", tensor, drawn)


def _deviation(owner: str, shape: tuple[int, ...], a: float, mode: str, nonlinearity: str) -> float:
    if mode not in ("fan_in", "fan_out"):
        raise ValueError(f"{owner}: mode must be fan_in or fan_out, got {shapes.shown(mode)}")
    return calculate_gain(nonlinearity, a) / math.sqrt(fans(shape)[mode == "fan_out"])


def _drawing(generator: np.random.Generator | None) -> np.random.Generator:
    return default_generator() if generator is None else _generator(generator)


def _filled(owner: str, tensor: Tensor, made: Callable[[tuple[int, ...]], np.ndarray]) -> Tensor:
    if not isinstance(tensor, Parameter) and not (isinstance(tensor, np.ndarray) and tensor.dtype.kind == "f"):
        raise TypeError(f"{owner}: tensor must be a Parameter or an array of floats, got {type(tensor).__name__}")
    if isinstance(tensor, Parameter):
        tensor.data = made(tensor.shape)
    else:
        tensor[...] = made(tensor.shape)
    return tensor


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
