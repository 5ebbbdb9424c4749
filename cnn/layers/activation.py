"""Activations and dropout. Any shape (N, C, H, W) or (N, features), but for Dropout2d. What has `by_element` also takes
Parameters alone in a forward, see `on_parameters`."""
from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cnn import functional, shapes
from cnn.engine.parameter import Parameter
from cnn.functional.pointwise import gelu_kernel
from cnn.graph import apply, build, derived
from cnn.layers.module import Module
from cnn.ops import pointwise
from cnn.ops.operation import spatial

if TYPE_CHECKING:
    from numpy.typing import DTypeLike

    from cnn.graph import Value


class _Activation(Module):
    """kernel: name of the forward kernel; saved: what the backward kernel needs besides dy, "x" or "y"."""

    by_element, kernel, saved = True, "", ""

    def scalars(self) -> dict[str, float]:
        """What the kernels take besides arrays: a dict of floats."""
        return {}

    def forward(self, x: Value) -> Value:
        return apply(pointwise.Activation(type(self).__name__, self.kernel, self.saved, **self.scalars()), x)


class InPlace(Module):
    """An activation without arguments but `inplace`."""

    by_element = True

    def __init__(self, inplace: bool = False) -> None:
        super().__init__()
        unused_inplace(self, inplace)


class ReLU(InPlace):
    """max(x, 0); its derivative at 0 is 0. NaN stays NaN.

    inplace: for code that comes from PyTorch; nothing changes, here and in the other activations. The input always
    keeps its elements, so that what reads it afterwards gets those and not the result, of which a warning tells.
    """

    def forward(self, x: Value) -> Value:
        return apply(pointwise.ReLU(type(self).__name__), x)


class LeakyReLU(_Activation):
    """x where x > 0, else negative_slope * x. inplace: nothing changes, see ReLU. Raises TypeError or ValueError unless
    negative_slope is a finite number."""

    kernel, saved = "leaky_relu", "x"

    def __init__(self, negative_slope: float = 0.01, inplace: bool = False) -> None:
        super().__init__()
        unused_inplace(self, inplace)
        self.negative_slope = shapes.number("LeakyReLU", "negative_slope", negative_slope)

    def scalars(self) -> dict[str, float]:
        """The slope, checked."""
        return {"slope": shapes.number("LeakyReLU", "negative_slope", self.negative_slope)}

    def extra_repr(self) -> str:
        return f"negative_slope={self.negative_slope}"


class Tanh(_Activation):
    """tanh(x), with derivative 1 - y^2."""

    kernel, saved = "tanh", "y"


class Sigmoid(_Activation):
    """1 / (1 + exp(-x)), with derivative y (1 - y)."""

    kernel, saved = "sigmoid", "y"


class SiLU(_Activation, InPlace):
    """x sigmoid(x), also called swish. Elfwing et al. 2018. inplace: nothing changes, see ReLU."""

    kernel, saved = "silu", "x"


class GELU(Module):
    """x P(x), where P is the normal distribution function. Hendrycks and Gimpel 2016.

    approximate: "none", or "tanh" for x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2.
    Raises ValueError for another word.
    """

    by_element = True

    def __init__(self, approximate: str = "none") -> None:
        super().__init__()
        gelu_kernel("GELU", approximate)
        self.approximate = approximate

    def forward(self, x: Value) -> Value:
        return apply(pointwise.Activation(type(self).__name__, gelu_kernel("GELU", self.approximate), "x"), x)

    def extra_repr(self) -> str:
        return f"approximate={self.approximate!r}"


class ReLU6(InPlace):
    """min(max(x, 0), 6). Howard et al. 2017. inplace: nothing changes, see ReLU."""

    def forward(self, x: Value) -> Value:
        return functional.relu6(x)


class Hardtanh(Module):
    """min(max(x, min_val), max_val), whose derivative at both limits is 0. inplace: nothing changes, see ReLU. Raises
    TypeError or ValueError unless both limits are finite numbers and min_val <= max_val."""

    by_element = True

    def __init__(self, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False) -> None:
        super().__init__()
        unused_inplace(self, inplace)
        self.min_val = shapes.number("Hardtanh", "min_val", min_val)
        self.max_val = shapes.number("Hardtanh", "max_val", max_val, self.min_val)

    def forward(self, x: Value) -> Value:
        return functional.hardtanh(x, self.min_val, self.max_val)

    def extra_repr(self) -> str:
        return f"min_val={self.min_val}, max_val={self.max_val}"


class ELU(Module):
    """x where x > 0, else alpha (e^x - 1). Clevert et al. 2016. inplace: nothing changes, see ReLU. Raises TypeError or
    ValueError unless alpha is a finite number."""

    by_element = True

    def __init__(self, alpha: float = 1.0, inplace: bool = False) -> None:
        super().__init__()
        unused_inplace(self, inplace)
        self.alpha = shapes.number("ELU", "alpha", alpha)

    def forward(self, x: Value) -> Value:
        return functional.elu(x, self.alpha)

    def extra_repr(self) -> str:
        return f"alpha={self.alpha}"


class Hardswish(InPlace):
    """x min(max(x + 3, 0), 6) / 6. Howard et al. 2019. inplace: nothing changes, see ReLU."""

    def forward(self, x: Value) -> Value:
        return functional.hardswish(x)


class Hardsigmoid(InPlace):
    """min(max(x + 3, 0), 6) / 6. inplace: nothing changes, see ReLU."""

    def forward(self, x: Value) -> Value:
        return functional.hardsigmoid(x)


class Mish(InPlace):
    """x tanh(log(1 + e^x)). Misra 2020. inplace: nothing changes, see ReLU."""

    def forward(self, x: Value) -> Value:
        return functional.mish(x)


class Softplus(Module):
    """log(1 + e^(beta x)) / beta, or x itself where beta x is above `threshold`. Raises TypeError or ValueError unless
    both are finite numbers and beta is above 0."""

    by_element = True

    def __init__(self, beta: float = 1.0, threshold: float = 20.0) -> None:
        super().__init__()
        self.beta = shapes.number("Softplus", "beta", beta, above=0)
        self.threshold = shapes.number("Softplus", "threshold", threshold)

    def forward(self, x: Value) -> Value:
        return functional.softplus(x, self.beta, self.threshold)

    def extra_repr(self) -> str:
        return f"beta={self.beta}, threshold={self.threshold}"


class PReLU(Module):
    """x where x > 0, else weight x, where the weight is learnt. He et al. 2015.

    num_parameters: 1, or the number of channels (or features) of x, for a weight of each. init: the first weight, a
    finite number. dtype: float32 or float64. Parameter: weight (num_parameters,). Raises TypeError or ValueError for
    other arguments.
    """

    def __init__(self, num_parameters: int = 1, init: float = 0.25, *, dtype: DTypeLike = np.float32) -> None:
        super().__init__()
        count = shapes.integer("PReLU", "num_parameters", num_parameters, 1)
        self.num_parameters = count
        self.weight = Parameter(np.full(count, shapes.number("PReLU", "init", init), shapes.float_type("PReLU", dtype)))

    def forward(self, x: Value) -> Value:
        return functional.prelu(x, self.weight)

    def extra_repr(self) -> str:
        return f"num_parameters={self.num_parameters}"


class Softmax(Module):
    """exp(x_i) / sum of exp(x_k) over an axis, by default the channels (or features); shifted by the largest x, so that
    nothing overflows. dim: the axis, 1 and up or negative; raises ValueError or TypeError for another.

    CrossEntropyLoss wants scores and has its own softmax.
    """

    kernel, of_parameters = "softmax", True

    def __init__(self, dim: int = 1) -> None:
        super().__init__()
        self.dim = shapes.integer(type(self).__name__, "dim", dim, -3, 3)
        if not self.dim:
            raise ValueError(f"{type(self).__name__}: dim must not be that of the images, 0, got {dim}")

    def forward(self, x: Value) -> Value:
        if derived.computes(x):
            return getattr(functional, self.kernel)(x, self.dim)
        return build.softmax(self.kernel, x, self.dim, type(self).__name__)

    def extra_repr(self) -> str:
        return f"dim={self.dim}"


class LogSoftmax(Softmax):
    """log of `Softmax`: x_c - log of the sum of exp(x_k), shifted by the largest x."""

    kernel = "log_softmax"


class Dropout(Module):
    """Zeroes each element with probability p while training and scales the others by 1 / (1 - p).

    Srivastava et al. 2014. The mask depends on the seed, the number of the forward pass, the image's
    place in the batch and the element: the same for any number of threads. Without a seed, a `Sequential`
    gives each of its dropout layers another. `step` (int) counts the forward passes in training mode and may
    be set, so that a resumed run draws the same masks. inplace: nothing changes, see ReLU.

    Raises ValueError unless 0 <= p <= 1.
    """

    whole = False       # whether the elements are whole channels

    def __init__(self, p: float = 0.5, inplace: bool = False, *, seed: int | None = None) -> None:
        super().__init__()
        unused_inplace(self, inplace)
        self.p = p
        self.seed = seed if seed is None else shapes.integer(type(self).__name__, "seed", seed, 0, 2**32 - 1)
        self._key = np.array([self.seed or 0, 0], np.int64)

    @property
    def p(self) -> float:
        """The probability."""
        return self._p

    @p.setter
    def p(self, value: float) -> None:
        self._p = shapes.number(type(self).__name__, "p", value, 0, 1)

    @property
    def number(self) -> int:
        """What the masks are drawn with: the seed or, where none was given, the layer's number in its model."""
        return int(self._key[0])

    @number.setter
    def number(self, value: int) -> None:
        self._key[0] = shapes.integer(type(self).__name__, "number", value, 0, 2**32 - 1)

    @property
    def step(self) -> int:
        """How many forward passes in training mode there have been (int)."""
        return int(self._key[1]) % 2**32

    @step.setter
    def step(self, value: int) -> None:
        self._key[1] = shapes.integer(type(self).__name__, "step", value, 0, 2**32 - 1)

    def forward(self, x: Value) -> Value:
        if not self.training or self.p == 0:
            return x
        return apply(pointwise.Dropout(type(self).__name__, self.p, self.whole, self._key), x)

    def extra_repr(self) -> str:
        return f"p={self.p}"


class Dropout2d(Dropout):
    """Zeroes each channel of each image as a whole, with probability p, while training, and scales the others
    by 1 / (1 - p). x: (N, C, H, W). Tompson et al. 2015. Its masks are drawn as those of `Dropout`.

    Raises ValueError unless 0 <= p <= 1, and on the first use for vectors.
    """

    whole = True

    def forward(self, x: Value) -> Value:
        spatial(type(self).__name__, x.image)
        return super().forward(x)


class Dropout1d(Dropout2d):
    """Zeroes each channel of each sequence as a whole, with probability p, while training, and scales the others by
    1 / (1 - p). x: (N, C, L). Tompson et al. 2015. Its masks are drawn as those of `Dropout`.

    Raises ValueError unless 0 <= p <= 1, and on the first use for images and vectors.
    """

    def forward(self, x: Value) -> Value:
        return build.without_rows(super().forward(build.as_rows(type(self).__name__, x)))


def unused_inplace(layer: Module, inplace: bool) -> None:
    """Check an argument that changes nothing, see ReLU."""
    layer.inplace = shapes.flag(type(layer).__name__, "inplace", inplace)
