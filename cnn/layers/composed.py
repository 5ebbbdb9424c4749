"""Layers that are made of functions: more activations, RMS norm, tables of rows, windows, comparisons. They take images
(N, C, H, W), sequences (N, C, L) and vectors (N, features), where nothing else is said."""
from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from cnn import functional, shapes
from cnn.engine import parameter
from cnn.engine.parameter import Parameter
from cnn.functional.layer_norm import sizes
from cnn.graph import derived
from cnn.layers.activation import InPlace, unused_inplace
from cnn.layers.module import Module

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import DTypeLike

    from cnn.graph import Value
    from cnn.shapes import Size


class GLU(Module):
    """a sigmoid(b), a and b being the halves of x along the axis `dim`. Dauphin et al. 2017. Raises TypeError or
    ValueError for an axis that does not fit, on the first use for an odd size."""

    def __init__(self, dim: int = -1) -> None:
        super().__init__()
        self.dim = shapes.integer("GLU", "dim", dim, -4, 3)

    def forward(self, x: Value) -> Value:
        return functional.glu(x, self.dim)

    def extra_repr(self) -> str:
        return f"dim={self.dim}"


class SELU(InPlace):
    """scale (x where x > 0, else alpha (e^x - 1)); Klambauer et al. 2017. inplace: a bool, else TypeError; nothing
    changes, see ReLU."""

    def forward(self, x: Value) -> Value:
        return functional.selu(x)


class CELU(Module):
    """x where x > 0, else alpha (e^(x / alpha) - 1). Barron 2017. alpha: a number above 0, else ValueError. inplace:
    nothing changes, see ReLU."""

    by_element = True

    def __init__(self, alpha: float = 1.0, inplace: bool = False) -> None:
        super().__init__()
        unused_inplace(self, inplace)
        self.alpha = shapes.number("CELU", "alpha", alpha, above=0)

    def forward(self, x: Value) -> Value:
        return functional.celu(x, self.alpha)

    def extra_repr(self) -> str:
        return f"alpha={self.alpha}"


class LogSigmoid(Module):
    """log(1 / (1 + e^-x)), without overflows."""

    by_element = True

    def forward(self, x: Value) -> Value:
        return functional.logsigmoid(x)


class Softsign(Module):
    """x / (1 + |x|)."""

    by_element = True

    def forward(self, x: Value) -> Value:
        return functional.softsign(x)


class Tanhshrink(Module):
    """x - tanh(x)."""

    by_element = True

    def forward(self, x: Value) -> Value:
        return functional.tanhshrink(x)


class Hardshrink(Module):
    """x where |x| > lambd, else 0. lambd: a number, at least 0, else ValueError."""

    by_element = True

    def __init__(self, lambd: float = 0.5) -> None:
        super().__init__()
        self.lambd = shapes.number("Hardshrink", "lambd", lambd, 0)

    def forward(self, x: Value) -> Value:
        return functional.hardshrink(x, self.lambd)

    def extra_repr(self) -> str:
        return f"{self.lambd}"


class Softshrink(Module):
    """x less lambd, of the same sign, where |x| > lambd, else 0. lambd: a number, at least 0, else ValueError."""

    by_element = True

    def __init__(self, lambd: float = 0.5) -> None:
        super().__init__()
        self.lambd = shapes.number("Softshrink", "lambd", lambd, 0)

    def forward(self, x: Value) -> Value:
        return functional.softshrink(x, self.lambd)

    def extra_repr(self) -> str:
        return f"{self.lambd}"


class Threshold(Module):
    """x where x > threshold, else value; both numbers, else TypeError or ValueError. inplace: nothing changes, see
    ReLU."""

    by_element = True

    def __init__(self, threshold: float, value: float, inplace: bool = False) -> None:
        super().__init__()
        unused_inplace(self, inplace)
        self.threshold = shapes.number("Threshold", "threshold", threshold)
        self.value = shapes.number("Threshold", "value", value)

    def forward(self, x: Value) -> Value:
        return functional.threshold(x, self.threshold, self.value)

    def extra_repr(self) -> str:
        return f"threshold={self.threshold}, value={self.value}"


class Softmin(Module):
    """Softmax of -x over the axis `dim`, 1 and up or negative. Raises TypeError or ValueError for another."""

    def __init__(self, dim: int = 1) -> None:
        super().__init__()
        self.dim = shapes.integer("Softmin", "dim", dim, -4, 3)

    def forward(self, x: Value) -> Value:
        return functional.softmin(x, self.dim)

    def extra_repr(self) -> str:
        return f"dim={self.dim}"


class Softmax2d(Module):
    """Softmax over the channels of each pixel of images (N, C, H, W)."""

    def image_axes(self) -> int | None:
        return 3

    def forward(self, x: Value) -> Value:
        if x.ndim != 4:
            raise ValueError(f"Softmax2d: x must have shape (N, C, H, W), got {shapes.batch(x.image)}")
        return functional.softmax(x, 1)


class Unflatten(Module):
    """The axis `dim` as several of the sizes `unflattened_size`, of which one may be -1. Raises TypeError or ValueError
    for what does not fit, on the first use."""

    def __init__(self, dim: int, unflattened_size: Sequence[int]) -> None:
        super().__init__()
        self.dim, self.unflattened_size = shapes.integer("Unflatten", "dim", dim, -4, 3), tuple(shapes.listed(
            "Unflatten", "unflattened_size", unflattened_size, "sizes"))

    def forward(self, x: Value) -> Value:
        return x.unflatten(self.dim, self.unflattened_size)

    def extra_repr(self) -> str:
        return f"dim={self.dim}, unflattened_size={self.unflattened_size}"


class Unfold(Module):
    """The windows of a convolution as columns, (N, C, H, W) to (N, C R S, OH OW), each window's elements in the order
    of (C, R, S). kernel_size (R, S), dilation, padding, stride: int or pair. Raises TypeError or ValueError for sizes
    that do not fit, on the first use."""

    def __init__(self, kernel_size: Size, dilation: Size = 1, padding: Size = 0, stride: Size = 1) -> None:
        super().__init__()
        self.kernel_size, self.dilation, self.padding, self.stride = kernel_size, dilation, padding, stride

    def image_axes(self) -> int | None:
        return 3

    def forward(self, x: Value) -> Value:
        return functional.unfold(x, self.kernel_size, self.dilation, self.padding, self.stride)

    def extra_repr(self) -> str:
        return (f"kernel_size={self.kernel_size}, dilation={self.dilation}, padding={self.padding}, "
                f"stride={self.stride}")


class RMSNorm(Module):
    """x / sqrt(mean of x^2 + eps) weight, over the last axes of each image. Zhang & Sennrich 2019.

    normalized_shape: sizes of these axes, or of the last one; weight: a Parameter of this shape, 1 at first, or None
    without elementwise_affine; eps: a number, at least 0, by default that of the dtype, float32 or float64. Raises
    TypeError or ValueError for what does not fit, on the first use for inputs.
    """

    def __init__(self, normalized_shape: int | Sequence[int], eps: float | None = None,
                 elementwise_affine: bool = True, *, dtype: DTypeLike = np.float32) -> None:
        super().__init__()
        self.normalized_shape = sizes("RMSNorm", normalized_shape)
        self.eps = eps if eps is None else shapes.number("RMSNorm", "eps", eps, 0)
        self.elementwise_affine = shapes.flag("RMSNorm", "elementwise_affine", elementwise_affine)
        self.weight = Parameter(np.ones(self.normalized_shape, shapes.float_type(
            "RMSNorm", dtype))) if elementwise_affine else None

    def forward(self, x: Value) -> Value:
        return functional.rms_norm(x, self.normalized_shape, self.weight, self.eps)

    def extra_repr(self) -> str:
        return f"{self.normalized_shape}, eps={self.eps}, elementwise_affine={self.elementwise_affine}"


class Embedding(Module):
    """The row of a table for each number: (N,) to (N, embedding_dim), (N, L) to (N, L, embedding_dim). By a product
    with ones and zeros, so for tables of some hundred rows.

    x: whole numbers below num_embeddings, as a float or an integer array; another number gives zeros. weight:
    (num_embeddings, embedding_dim), drawn from N(0, 1). padding_idx: None, or the number of a row that is 0 at first
    and gets no gradient. seed: int, or a numpy Generator; dtype: float32 or float64. Raises TypeError or ValueError for
    what does not fit.
    """

    of_numbers = True

    def __init__(self, num_embeddings: int, embedding_dim: int, padding_idx: int | None = None, *,
                 seed: int | np.random.Generator = 0, dtype: DTypeLike = np.float32) -> None:
        super().__init__()
        self.num_embeddings = shapes.integer("Embedding", "num_embeddings", num_embeddings, 1)
        self.embedding_dim = shapes.integer("Embedding", "embedding_dim", embedding_dim, 1)
        self.padding_idx = padding_idx if padding_idx is None else shapes.integer(
            "Embedding", "padding_idx", padding_idx, -num_embeddings, num_embeddings - 1) % num_embeddings
        rows = np.random.default_rng(seed).standard_normal((num_embeddings, embedding_dim))
        if self.padding_idx is not None:
            rows[self.padding_idx] = 0
        self.weight = Parameter(rows.astype(shapes.float_type("Embedding", dtype)))

    def forward(self, x: Value) -> Value:
        return functional.one_hot(x, self.num_embeddings) @ self._rows()

    def __call__(self, x: Any) -> Any:
        """As `forward`; of an array of integers, while a network is traced, the rows, the same for every image."""
        if not isinstance(x, np.ndarray) or parameter.computing.get() is None:
            return super().__call__(x)
        if x.dtype.kind not in "iu" or x.ndim not in (1, 2) or not x.size or x.min() < 0 or (
                x.max() >= self.num_embeddings):
            raise ValueError(f"Embedding: an array must hold one or two axes of integers from 0 to "
                             f"{self.num_embeddings - 1}, got {x.dtype} {x.shape}")
        return self._rows()[x.ravel()].reshape(*x.shape, self.embedding_dim)

    __call__.runs = True        # type: ignore[attr-defined]

    def _rows(self) -> Any:
        weight: Any = self.weight
        if self.padding_idx is not None:
            kept = (np.arange(self.num_embeddings) != self.padding_idx)[:, np.newaxis]
            weight = weight * kept + (weight * ~kept).detach()
        return weight if isinstance(weight, derived.Derived) else derived.of(weight, derived.computed_in())

    def extra_repr(self) -> str:
        return f"{self.num_embeddings}, {self.embedding_dim}" + (
            "" if self.padding_idx is None else f", padding_idx={self.padding_idx}")


class CosineSimilarity(Module):
    """The cosine of the angle between x1 and x2 along the axis `dim`, 1 and up or negative. eps: the least product of
    lengths, a number above 0. Raises TypeError or ValueError for wrong arguments."""

    def __init__(self, dim: int = 1, eps: float = 1e-8) -> None:
        super().__init__()
        self.dim = shapes.integer("CosineSimilarity", "dim", dim, -4, 3)
        self.eps = shapes.number("CosineSimilarity", "eps", eps, above=0)

    def forward(self, x1: Value, x2: Value) -> Value:
        return functional.cosine_similarity(x1, x2, self.dim, self.eps)


class PairwiseDistance(Module):
    """The p-norm of x1 - x2 + eps over the last axis, which stays with size 1 if keepdim. p: a number above 0; eps: a
    number. Raises TypeError or ValueError for wrong arguments."""

    def __init__(self, p: float = 2.0, eps: float = 1e-6, keepdim: bool = False) -> None:
        super().__init__()
        self.p, self.eps = shapes.number("PairwiseDistance", "p", p, above=0), shapes.number(
            "PairwiseDistance", "eps", eps)
        self.keepdim = shapes.flag("PairwiseDistance", "keepdim", keepdim)

    def forward(self, x1: Value, x2: Value) -> Value:
        return functional.pairwise_distance(x1, x2, self.p, self.eps, self.keepdim)
