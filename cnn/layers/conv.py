"""2-D convolution and its transpose."""
from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cnn import shapes
from cnn.engine.parameter import Parameter
from cnn.graph import apply
from cnn.layers import init
from cnn.layers.module import Module
from cnn.ops import conv
from cnn.ops.conv import transposed

if TYPE_CHECKING:
    from numpy.typing import DTypeLike

    from cnn.graph import Value
    from cnn.shapes import Padding, Size


class Conv2d(Module):
    """2-D convolution (cross-correlation, as everywhere in deep learning) with optional bias.

    x: (N, in_channels, H, W); weight: (out_channels, in_channels / groups, R, S); bias: (out_channels,);
    y: (N, out_channels, OH, OW) with OH = (H + top + bottom - dilation*(R - 1) - 1) // stride + 1.

    kernel_size, stride, dilation: an int or a pair (height, width). padding: an int, a pair,
    ((top, bottom), (left, right)), "valid" (none) or "same" (OH = ceil(H / stride), the odd row or column at the end).
    groups: number of independent convolutions that the channels are divided into; groups = in_channels is a depthwise
    convolution. init: a name from cnn.init.INITIALISERS; seed: int, or a numpy Generator to draw from; dtype: float32
    or float64.

        >>> conv = cnn.Conv2d(3, 16, kernel_size=5, stride=2, padding=2)
        >>> conv(np.zeros((1, 3, 32, 32), np.float32)).shape
        (1, 16, 16, 16)
        >>> {name: p.shape for name, p in conv.named_parameters()}
        {'weight': (16, 3, 5, 5), 'bias': (16,)}

    Raises TypeError or ValueError for wrong arguments and, on first use, for inputs of a wrong shape or dtype.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: Size, stride: Size = 1,
                 padding: Padding | str = 0, dilation: Size = 1, groups: int = 1, bias: bool = True, *,
                 init: str = "kaiming_uniform", seed: int | np.random.Generator = 0,
                 dtype: DTypeLike = np.float32) -> None:
        super().__init__()
        name = type(self).__name__
        self.in_channels, self.out_channels, self.groups = channels_of(name, in_channels, out_channels, groups)
        self.kernel_size = shapes.pair(name, "kernel_size", kernel_size, 1)
        self.stride = shapes.pair(name, "stride", stride, 1)
        self.dilation = shapes.pair(name, "dilation", dilation, 1)
        self.padding = shapes.check_padding(name, padding)
        self.weight, self.bias = initial(name, (self.out_channels, self.in_channels // self.groups,
                                                *self.kernel_size), bias, init, seed, dtype)

    def image_axes(self) -> int | None:
        return 3

    def forward(self, x: Value) -> Value:
        name = type(self).__name__
        kernel, stride, dilation = (shapes.pair(name, what, getattr(self, what), 1)
                                    for what in ("kernel_size", "stride", "dilation"))
        outputs, groups = (shapes.integer(name, what, getattr(self, what), 1) for what in ("out_channels", "groups"))
        w, b = self._weight(x.dtype, (outputs, self.in_channels // groups, *kernel), outputs)
        return apply(conv.Conv2d(name, w, b, stride, self.padding, dilation, groups), x)

    def extra_repr(self) -> str:
        text = f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}"
        plain = {"stride": (1, 1), "padding": 0, "dilation": (1, 1), "groups": 1}
        for name, usual in plain.items():
            if getattr(self, name) != usual:
                text += f", {name}={getattr(self, name)!r}"
        return text + ("" if self.bias else ", bias=False")


class ConvTranspose2d(Module):
    """Transposed 2-D convolution ("deconvolution"), the input gradient of a Conv2d, with optional bias: makes images
    larger.

    x: (N, in_channels, H, W); weight: (in_channels, out_channels / groups, R, S); bias: (out_channels,);
    y: (N, out_channels, OH, OW) with OH = (H - 1)*stride - top - bottom + dilation*(R - 1) + output_padding + 1.

    kernel_size, stride, dilation: an int or a pair (height, width). padding: what is taken away at the edges of y: an
    int, a pair or ((top, bottom), (left, right)). output_padding: rows and columns that y has more at its end, an int
    or a pair, less than stride or less than dilation. groups: number of independent convolutions that the channels are
    divided into. init: a name from cnn.init.INITIALISERS, whose fan_in is that of this weight, out_channels / groups *
    R * S, as in PyTorch; seed: int, or a numpy Generator to draw from; dtype: float32 or float64.

        >>> up = cnn.ConvTranspose2d(16, 8, kernel_size=2, stride=2)
        >>> up(np.zeros((1, 16, 7, 7), np.float32)).shape
        (1, 8, 14, 14)
        >>> {name: p.shape for name, p in up.named_parameters()}
        {'weight': (16, 8, 2, 2), 'bias': (8,)}

    Raises TypeError or ValueError for wrong arguments and, on first use, for inputs of a wrong shape or dtype.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: Size, stride: Size = 1, padding: Padding = 0,
                 output_padding: Size = 0, groups: int = 1, bias: bool = True, dilation: Size = 1, *,
                 init: str = "kaiming_uniform", seed: int | np.random.Generator = 0,
                 dtype: DTypeLike = np.float32) -> None:
        super().__init__()
        name = type(self).__name__
        self.in_channels, self.out_channels, self.groups = channels_of(name, in_channels, out_channels, groups)
        self.kernel_size = shapes.pair(name, "kernel_size", kernel_size, 1)
        self.stride = shapes.pair(name, "stride", stride, 1)
        self.dilation = shapes.pair(name, "dilation", dilation, 1)
        shapes.sides(name, padding)
        self.padding = padding
        self.output_padding = shapes.output_padding(name, output_padding, self.stride, self.dilation)
        self.weight, self.bias = initial(name, (self.in_channels, self.out_channels // self.groups, *self.kernel_size),
                                         bias, init, seed, dtype, self.out_channels)

    def image_axes(self) -> int | None:
        return 3

    def forward(self, x: Value) -> Value:
        name = type(self).__name__
        kernel, stride, dilation = (shapes.pair(name, what, getattr(self, what), 1)
                                    for what in ("kernel_size", "stride", "dilation"))
        outputs, groups = (shapes.integer(name, what, getattr(self, what), 1) for what in ("out_channels", "groups"))
        more = shapes.output_padding(name, self.output_padding, stride, dilation)
        w, b = self._weight(x.dtype, (self.in_channels, outputs // groups, *kernel), outputs)
        return apply(transposed.ConvTranspose2d(name, w, b, stride, self.padding, more, groups, dilation), x)

    def extra_repr(self) -> str:
        text = f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}"
        plain = {"stride": (1, 1), "padding": 0, "output_padding": (0, 0), "groups": 1, "dilation": (1, 1)}
        for name, usual in plain.items():
            if getattr(self, name) != usual:
                text += f", {name}={getattr(self, name)!r}"
        return text + ("" if self.bias else ", bias=False")


def channels_of(owner: str, in_channels: int, out_channels: int, groups: int) -> tuple[int, int, int]:
    """The numbers of channels and groups of a convolution, checked. Raises TypeError or ValueError."""
    inputs, outputs = (shapes.integer(owner, name, count, 1) for name, count in (
        ("in_channels", in_channels), ("out_channels", out_channels)))
    groups = shapes.integer(owner, "groups", groups, 1)
    for name, count in (("in_channels", inputs), ("out_channels", outputs)):
        if count % groups:
            raise ValueError(f"{owner}: {name} {count} must be divisible by groups {groups}")
    return inputs, outputs, groups


def initial(owner: str, shape: tuple[int, ...], bias: bool, name: str, seed: int | np.random.Generator,
            dtype: DTypeLike, outputs: int | None = None) -> tuple[Parameter, Parameter | None]:
    """Weight of this shape and bias (outputs,), or None, of a layer, drawn from `seed` (an int or a Generator).
    outputs: as many as the weight's first axis has, by default."""
    shapes.element_count(owner, *shape)
    if name not in init.INITIALISERS:
        raise ValueError(f"{owner}: init must be one of {', '.join(init.INITIALISERS)}, got {name!r}")
    dtype = shapes.float_type(owner, dtype)
    if not isinstance(seed, np.random.Generator):
        seed = np.random.default_rng(shapes.integer(owner, "seed", seed, 0, 2**64 - 1))
    weight = Parameter(init.INITIALISERS[name](shape, seed, dtype))
    if not shapes.flag(owner, "bias", bias):
        return weight, None
    # as PyTorch: the bias is drawn from the weight's fan-in; other initialisers start it at zero
    count = (shape[0] if outputs is None else outputs,)
    start = init.bias_uniform(count, init.fans(shape)[0], seed, dtype) if name == "kaiming_uniform" \
        else np.zeros(count, dtype)
    return weight, Parameter(start)
