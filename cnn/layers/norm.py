"""Normalisation."""
from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cnn import shapes
from cnn.engine.parameter import Parameter
from cnn.graph import apply
from cnn.layers.module import Module
from cnn.ops import group_norm, norm

if TYPE_CHECKING:
    from numpy.typing import DTypeLike

    from cnn.graph import Value


class BatchNorm2d(Module):
    """y = gamma (x - mean) / sqrt(var + eps) + beta for each channel (Ioffe & Szegedy 2015), by PyTorch's rules.

    x, y: (N, num_features, H, W). In training mode mean and (biased) variance are those of the batch, and the
    running ones move towards them: r = (1 - momentum) r + momentum new, with the unbiased variance; momentum=None
    takes the mean of all batches so far. In evaluation mode the running ones are used.

    weight (gamma), bias (beta): (num_features,), or None without `affine`. running_mean, running_var:
    (num_features,) of the parameters' dtype, and num_batches_tracked: int64 (), are arrays to be changed in place;
    they are part of the state, but not parameters.

    Raises TypeError or ValueError for arguments, and on use for inputs, that do not fit: among them, in training
    mode, a batch with a single value per channel.
    """

    def __init__(self, num_features: int, eps: float = 1e-5, momentum: float | None = 0.1, affine: bool = True, *,
                 dtype: DTypeLike = np.float32) -> None:
        super().__init__()
        name = type(self).__name__
        self.num_features = shapes.integer(name, "num_features", num_features, 1)
        self.eps = shapes.epsilon(name, eps)
        self.momentum = momentum if momentum is None else shapes.number(name, "momentum", momentum, 0, 1)
        if np.dtype(dtype) not in shapes.FLOATS:
            raise TypeError(f"{name}: dtype must be float32 or float64, got {np.dtype(dtype)}")
        shape = (self.num_features,)
        self.weight = Parameter(np.ones(shape, dtype)) if affine else None
        self.bias = Parameter(np.zeros(shape, dtype)) if affine else None
        self._buffers = {"running_mean": np.zeros(shape, dtype), "running_var": np.ones(shape, dtype),
                         "num_batches_tracked": np.zeros((), np.int64)}

    @property
    def running_mean(self) -> np.ndarray:
        return self._buffers["running_mean"]

    @property
    def running_var(self) -> np.ndarray:
        return self._buffers["running_var"]

    @property
    def num_batches_tracked(self) -> np.ndarray:
        return self._buffers["num_batches_tracked"]

    def forward(self, x: Value) -> Value:
        name, shape = type(self).__name__, (self.num_features,)
        eps = shapes.epsilon(name, self.eps)
        w, b = (self._owned(what, shape, x.dtype) for what in ("weight", "bias"))
        mean, var = (self._buffer(what, shape, x.dtype) for what in ("running_mean", "running_var"))
        if not self.training:
            return apply(norm.BatchNorm2d(name, w, b, mean, var, eps), x)
        tracked = self._buffer("num_batches_tracked", (), np.dtype(np.int64))
        momentum = self.momentum if self.momentum is None else shapes.number(name, "momentum", self.momentum, 0, 1)
        return apply(norm.BatchNorm2d(name, w, b, mean, var, eps, True, momentum, tracked), x)

    def _buffer(self, name: str, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        """A buffer that the kernels can change in place."""
        array = self._buffers[name]
        usable = isinstance(array, np.ndarray) and array.flags.carray and array.shape == shape and array.dtype == dtype
        if not usable:
            raise ValueError(f"{type(self).__name__}: {name} must be a contiguous, writeable array of shape {shape} "
                             f"and dtype {dtype}, got {array!r}")
        return array

    def extra_repr(self) -> str:
        return (f"{self.num_features}, eps={self.eps}, momentum={self.momentum}"
                + ("" if self.weight else ", affine=False"))


class GroupNorm(Module):
    """y = gamma (x - mean) / sqrt(var + eps) + beta, with mean and variance of each image's groups of channels (Wu & He
    2018): the same in training and evaluation, whatever the batch.

    num_groups: into how many groups of neighbours the num_channels channels are divided, evenly; one is a layer norm
    over C, H and W, as many as there are channels an instance norm. x, y: (N, num_channels, H, W).

    weight (gamma), bias (beta): (num_channels,), or None without `affine`. eps: above 0. dtype: float32 or float64.

    Raises TypeError or ValueError for arguments, and on use for inputs, that do not fit.
    """

    def __init__(self, num_groups: int, num_channels: int, eps: float = 1e-5, affine: bool = True, *,
                 dtype: DTypeLike = np.float32) -> None:
        super().__init__()
        name = type(self).__name__
        self.num_channels = shapes.integer(name, "num_channels", num_channels, 1)
        self.num_groups = shapes.divisor(name, "num_groups", num_groups, self.num_channels)
        self.eps = shapes.epsilon(name, eps)
        if np.dtype(dtype) not in shapes.FLOATS:
            raise TypeError(f"{name}: dtype must be float32 or float64, got {np.dtype(dtype)}")
        self.weight = Parameter(np.ones(self.num_channels, dtype)) if affine else None
        self.bias = Parameter(np.zeros(self.num_channels, dtype)) if affine else None

    def forward(self, x: Value) -> Value:
        name, channels = type(self).__name__, self.num_channels
        groups, eps = shapes.divisor(name, "num_groups", self.num_groups, channels), shapes.epsilon(name, self.eps)
        w, b = (self._owned(what, (channels,), x.dtype) for what in ("weight", "bias"))
        return apply(group_norm.GroupNorm(name, groups, channels, w, b, eps), x)

    def extra_repr(self) -> str:
        return f"{self.num_groups}, {self.num_channels}, eps={self.eps}" + ("" if self.weight else ", affine=False")
