"""Linear layer, and the flattening before it."""
from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cnn import shapes
from cnn.graph import build
from cnn.layers.conv import initial
from cnn.layers.module import Module

if TYPE_CHECKING:
    from numpy.typing import DTypeLike

    from cnn.graph import Value


class Linear(Module):
    """y = x W^T + b, over the last axis of x.

    x: (N, in_features), (N, L, in_features) or (N, H, W, in_features); weight: (out_features, in_features); bias:
    (out_features,); y: like x, but for the last axis, out_features. Of more than one vector for each image, the
    products are stored before they are added: L * in_features * out_features elements for each image.
    init: a name from cnn.init.INITIALISERS; seed: int, or a numpy Generator to draw from; dtype: float32 or float64.

    Raises TypeError or ValueError for arguments, and on the first use for inputs, that do not fit.
    """

    def __init__(self, in_features: int, out_features: int, bias: bool = True, *, init: str = "kaiming_uniform",
                 seed: int | np.random.Generator = 0, dtype: DTypeLike = np.float32) -> None:
        super().__init__()
        name = type(self).__name__
        self.in_features = shapes.integer(name, "in_features", in_features, 1)
        self.out_features = shapes.integer(name, "out_features", out_features, 1)
        self.weight, self.bias = initial(name, (self.out_features, self.in_features), bias, init, seed, dtype)

    def image_axes(self) -> int | None:
        return 1

    def forward(self, x: Value) -> Value:
        outputs = shapes.integer(type(self).__name__, "out_features", self.out_features, 1)
        return build.linear(type(self).__name__, x, *self._weight(x.dtype, (outputs, self.in_features), outputs))

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}" + ("" if self.bias else ", bias=False")


class Flatten(Module):
    """(N, C, H, W) to (N, C * H * W); vectors stay as they are. Costs nothing. start_dim, end_dim: the first and the
    last axis of those that become one, 1 and up or negative. Raises TypeError or ValueError for others."""

    def __init__(self, start_dim: int = 1, end_dim: int = -1) -> None:
        super().__init__()
        self.start_dim = shapes.integer("Flatten", "start_dim", start_dim, -3, 3)
        self.end_dim = shapes.integer("Flatten", "end_dim", end_dim, -3, 3)

    def forward(self, x: Value) -> Value:
        return x.flatten(self.start_dim, self.end_dim)

    def extra_repr(self) -> str:
        whole = (self.start_dim, self.end_dim) == (1, -1)
        return "" if whole else f"start_dim={self.start_dim}, end_dim={self.end_dim}"
