"""Normalisation."""
from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from cnn import shapes
from cnn.engine.parameter import Parameter
from cnn.functional.layer_norm import instances, local_response, sizes
from cnn.graph import apply, build
from cnn.layers.module import Module
from cnn.ops import group_norm, layer_norm, local_norm, norm

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import DTypeLike

    from cnn.graph import Value


class BatchNorm2d(Module):
    """y = gamma (x - mean) / sqrt(var + eps) + beta for each channel (Ioffe & Szegedy 2015), by PyTorch's rules.

    x, y: (N, num_features, H, W). In training mode mean and (biased) variance are those of the batch, and the
    running ones move towards them: r = (1 - momentum) r + momentum new, with the unbiased variance, or without
    `unbiased`, as in Keras and ONNX, with the biased one; momentum=None takes the mean of all batches so far. In
    evaluation mode the running ones are used. Without `track_running_stats` there are none, and both modes take the
    batch's.

    weight (gamma): (num_features,), or None without `affine`. bias (beta): likewise, or None without `bias`.
    running_mean, running_var: (num_features,) of the parameters' dtype, and num_batches_tracked: int64 (), are arrays
    to be changed in place, or None; they are part of the state, but not parameters.

    Raises TypeError or ValueError for arguments, and on use for inputs, that do not fit: among them, where the batch's
    statistics are taken, a batch with a single value per channel.
    """

    def __init__(self, num_features: int, eps: float = 1e-5, momentum: float | None = 0.1, affine: bool = True,
                 track_running_stats: bool = True, *, bias: bool = True, unbiased: bool = True,
                 dtype: DTypeLike = np.float32) -> None:
        super().__init__()
        name = type(self).__name__
        self.num_features = shapes.integer(name, "num_features", num_features, 1)
        self.eps = shapes.epsilon(name, eps)
        self.momentum = momentum if momentum is None else shapes.number(name, "momentum", momentum, 0, 1)
        self.unbiased = shapes.flag(name, "unbiased", unbiased)
        shape = (self.num_features,)
        self.weight, self.bias = _scale_and_shift(name, shape, affine, bias, dtype)
        self._buffers = {"running_mean": np.zeros(shape, dtype), "running_var": np.ones(shape, dtype),
                         "num_batches_tracked": np.zeros((), np.int64)} if shapes.flag(
                             name, "track_running_stats", track_running_stats) else {}

    @property
    def running_mean(self) -> np.ndarray | None:
        return self._buffers.get("running_mean")

    @property
    def running_var(self) -> np.ndarray | None:
        return self._buffers.get("running_var")

    @property
    def num_batches_tracked(self) -> np.ndarray | None:
        return self._buffers.get("num_batches_tracked")

    @property
    def track_running_stats(self) -> bool:
        return bool(self._buffers)

    def forward(self, x: Value) -> Value:
        name, shape = type(self).__name__, (self.num_features,)
        eps = shapes.epsilon(name, self.eps)
        w, b = (self._owned(what, shape, x.dtype) for what in ("weight", "bias"))
        if not self.track_running_stats:
            return apply(norm.BatchNorm2d(name, w, b, None, None, eps, True, channels=self.num_features), x)
        mean, var = (self._buffer(what, shape, x.dtype) for what in ("running_mean", "running_var"))
        if not self.training:
            return apply(norm.BatchNorm2d(name, w, b, mean, var, eps, unbiased=self.unbiased), x)
        tracked = self._buffer("num_batches_tracked", (), np.dtype(np.int64))
        momentum = self.momentum if self.momentum is None else shapes.number(name, "momentum", self.momentum, 0, 1)
        return apply(norm.BatchNorm2d(name, w, b, mean, var, eps, True, momentum, tracked, self.unbiased), x)

    def _buffer(self, name: str, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        """A buffer that the kernels can change in place."""
        array = self._buffers[name]
        usable = isinstance(array, np.ndarray) and array.flags.carray and array.shape == shape and array.dtype == dtype
        if not usable:
            raise ValueError(f"{type(self).__name__}: {name} must be a contiguous, writeable array of shape {shape} "
                             f"and dtype {dtype}, got {array!r}")
        return array

    def extra_repr(self) -> str:
        return (f"{self.num_features}, eps={self.eps}, momentum={self.momentum}{_missing(self, 'affine')}"
                + ("" if self.track_running_stats else ", track_running_stats=False")
                + ("" if self.unbiased else ", unbiased=False"))


class GroupNorm(Module):
    """y = gamma (x - mean) / sqrt(var + eps) + beta, with mean and variance of each image's groups of channels (Wu & He
    2018): the same in training and evaluation, whatever the batch.

    num_groups: into how many groups of neighbours the num_channels channels are divided, evenly; one is a layer norm
    over C, H and W, as many as there are channels an instance norm. x, y: (N, num_channels, H, W),
    (N, num_channels, L) or (N, num_channels).

    weight (gamma), bias (beta): (num_channels,), or None without `affine`, bias also without `bias`. eps: above 0.
    dtype: float32 or float64.

    Raises TypeError or ValueError for arguments, and on use for inputs, that do not fit.
    """

    def __init__(self, num_groups: int, num_channels: int, eps: float = 1e-5, affine: bool = True, *,
                 bias: bool = True, dtype: DTypeLike = np.float32) -> None:
        super().__init__()
        name = type(self).__name__
        self.num_channels = shapes.integer(name, "num_channels", num_channels, 1)
        self.num_groups = shapes.divisor(name, "num_groups", num_groups, self.num_channels)
        self.eps = shapes.epsilon(name, eps)
        self.weight, self.bias = _scale_and_shift(name, (self.num_channels,), affine, bias, dtype)

    def forward(self, x: Value) -> Value:
        name, channels = type(self).__name__, self.num_channels
        groups, eps = shapes.divisor(name, "num_groups", self.num_groups, channels), shapes.epsilon(name, self.eps)
        w, b = (self._owned(what, (channels,), x.dtype) for what in ("weight", "bias"))
        operation = group_norm.GroupNorm(name, groups, channels, w, b, eps)
        return build.reshaped(apply(operation, build.as_images(name, x)), x.image)

    def extra_repr(self) -> str:
        return f"{self.num_groups}, {self.num_channels}, eps={self.eps}{_missing(self, 'affine')}"


class InstanceNorm2d(Module):
    """y = gamma (x - mean) / sqrt(var + eps) + beta, with mean and variance of each channel of each image (Ulyanov et
    al. 2016): the same in training and evaluation, whatever the batch.

    num_features: channels. x, y: (N, num_features, H, W). eps: above 0. affine: whether there are weight (gamma) and,
    unless `bias` is false, bias (beta), (num_features,); else they are None. momentum, track_running_stats: as
    PyTorch's, for its calls; there are no running statistics, which only `BatchNorm2d` has. dtype: float32 or float64.

    Raises TypeError or ValueError for arguments, and on use for inputs, that do not fit: among them images of a single
    pixel.
    """

    def __init__(self, num_features: int, eps: float = 1e-5, momentum: float | None = 0.1, affine: bool = False,
                 track_running_stats: bool = False, *, bias: bool = True, dtype: DTypeLike = np.float32) -> None:
        super().__init__()
        name = type(self).__name__
        self.num_features = shapes.integer(name, "num_features", num_features, 1)
        self.eps = shapes.epsilon(name, eps)
        if momentum is not None:
            shapes.number(name, "momentum", momentum, 0, 1)
        if track_running_stats:
            raise ValueError(f"{name}: track_running_stats must be False, got {track_running_stats}: it normalises by "
                             f"each image's own statistics; BatchNorm2d keeps running ones")
        self.weight, self.bias = _scale_and_shift(name, (self.num_features,), affine, bias, dtype)

    def image_axes(self) -> int | None:
        return 3

    def forward(self, x: Value) -> Value:
        name, channels = type(self).__name__, self.num_features
        w, b = (self._owned(what, (channels,), x.dtype) for what in ("weight", "bias"))
        operation = group_norm.GroupNorm(name, channels, channels, w, b, shapes.epsilon(name, self.eps))
        instances(name, operation.shape(x.image))
        return apply(operation, x)

    def extra_repr(self) -> str:
        affine = "" if self.weight is None else ", affine=True" + _missing(self, "")
        return f"{self.num_features}, eps={self.eps}{affine}"


class LayerNorm(Module):
    """y = gamma (x - mean) / sqrt(var + eps) + beta, with mean and variance over the last axes of each image (Ba, Kiros
    & Hinton 2016), by PyTorch's rules.

    normalized_shape: sizes of these axes, (C, H, W), (H, W) or (W,) of images (N, C, H, W), (features,) of vectors
    (N, features); an integer is one size. `LayerNorm2d` normalises over the channels of each pixel. y is like x.

    weight (gamma), bias (beta): of normalized_shape; None without `elementwise_affine`, bias also without `bias`. eps:
    above 0. dtype: float32 or float64.

    Raises TypeError or ValueError for arguments, and on use for inputs, that do not fit.
    """

    def __init__(self, normalized_shape: int | Sequence[int], eps: float = 1e-5, elementwise_affine: bool = True,
                 bias: bool = True, *, dtype: DTypeLike = np.float32) -> None:
        super().__init__()
        name = type(self).__name__
        self.normalized_shape = sizes(name, normalized_shape)
        self.eps = shapes.epsilon(name, eps)
        self.weight, self.bias = _scale_and_shift(name, self.normalized_shape, elementwise_affine, bias,
                                                  dtype, "elementwise_affine")

    def forward(self, x: Value) -> Value:
        name, shape = type(self).__name__, sizes(type(self).__name__, self.normalized_shape)
        w, b = (self._owned(what, shape, x.dtype) for what in ("weight", "bias"))
        return apply(layer_norm.LayerNorm(name, shape, w, b, shapes.epsilon(name, self.eps)), x)

    def extra_repr(self) -> str:
        shape = self.normalized_shape
        return f"{shape[0] if len(shape) == 1 else shape}, eps={self.eps}" + _missing(self, "elementwise_affine")


class LayerNorm2d(Module):
    """y = gamma (x - mean) / sqrt(var + eps) + beta, with mean and variance over the channels of each pixel: the layer
    norm of ConvNeXt (Liu et al. 2022), whose eps is 1e-6. PyTorch has it as torchvision.ops.misc.LayerNorm2d.

    num_channels: C. x, y: (N, C, H, W). weight (gamma), bias (beta): (C,); None without `elementwise_affine`, bias also
    without `bias`. eps: above 0. dtype: float32 or float64.

    Raises TypeError or ValueError for arguments, and on use for inputs, that do not fit.
    """

    def __init__(self, num_channels: int, eps: float = 1e-5, elementwise_affine: bool = True, bias: bool = True, *,
                 dtype: DTypeLike = np.float32) -> None:
        super().__init__()
        name = type(self).__name__
        self.num_channels = shapes.integer(name, "num_channels", num_channels, 1)
        self.eps = shapes.epsilon(name, eps)
        self.weight, self.bias = _scale_and_shift(name, (self.num_channels,), elementwise_affine, bias,
                                                  dtype, "elementwise_affine")

    def forward(self, x: Value) -> Value:
        name, channels = type(self).__name__, self.num_channels
        w, b = (self._owned(what, (channels,), x.dtype) for what in ("weight", "bias"))
        return apply(layer_norm.LayerNorm2d(name, channels, w, b, shapes.epsilon(name, self.eps)), x)

    def extra_repr(self) -> str:
        return f"{self.num_channels}, eps={self.eps}" + _missing(self, "elementwise_affine")


class LocalResponseNorm(Module):
    """y_c = x_c / (k + alpha / size sum x_j^2)^beta, the sum being over the `size` channels j from c - size // 2 on,
    zeros beyond the first and last (Krizhevsky, Sutskever & Hinton 2012), as in AlexNet and GoogLeNet.

    x, y: (N, C, H, W) or (N, C, L). size: from 1; alpha, beta, k: numbers. Without parameters.

    Raises TypeError or ValueError for arguments, and on use for inputs, that do not fit.
    """

    def __init__(self, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0) -> None:
        super().__init__()
        self.size, self.alpha, self.beta, self.k = local_response(type(self).__name__, size, alpha, beta, k)

    def forward(self, x: Value) -> Value:
        name = type(self).__name__
        given = local_response(name, self.size, self.alpha, self.beta, self.k)
        images = build.as_rows(name, x) if len(x.image) == 2 else x
        return build.reshaped(apply(local_norm.LocalResponseNorm(name, *given), images), x.image)

    def extra_repr(self) -> str:
        return f"{self.size}, alpha={self.alpha}, beta={self.beta}, k={self.k}"


def _scale_and_shift(owner: str, shape: tuple[int, ...], affine: bool, bias: bool, dtype: DTypeLike,
                     name: str = "affine") -> tuple[Parameter | None, Parameter | None]:
    """Ones and zeros of this shape, or None. name: of the argument `affine`."""
    dtype, scales = shapes.float_type(owner, dtype), shapes.flag(owner, name, affine)
    shifts = shapes.flag(owner, "bias", bias) and scales
    return Parameter(np.ones(shape, dtype)) if scales else None, Parameter(np.zeros(shape, dtype)) if shifts else None


def _missing(layer: Any, argument: str) -> str:
    """The arguments by which there is no weight, or no bias."""
    return f", {argument}=False" if layer.weight is None else ", bias=False" if layer.bias is None else ""
