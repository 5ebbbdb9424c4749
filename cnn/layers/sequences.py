"""Layers of sequences, (N, C, L): those of images of one row."""
from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cnn import functional, shapes
from cnn.graph import build
from cnn.layers.conv import channels_of, initial
from cnn.layers.module import Module
from cnn.layers.norm import BatchNorm2d, InstanceNorm2d

if TYPE_CHECKING:
    from numpy.typing import DTypeLike

    from cnn.graph import Value
    from cnn.shapes import Length, RowPadding


class Conv1d(Module):
    """1-D convolution (cross-correlation) with optional bias.

    x: (N, in_channels, L); weight: (out_channels, in_channels / groups, R); bias: (out_channels,);
    y: (N, out_channels, OL) with OL = (L + left + right - dilation*(R - 1) - 1) // stride + 1.

    kernel_size, stride, dilation: an int. padding: an int, a pair (left, right), "valid" (none) or "same" (OL =
    ceil(L / stride), the odd one at the end). groups, init, seed, dtype: as in `Conv2d`.

        >>> cnn.Conv1d(2, 4, kernel_size=3)(np.zeros((1, 2, 10), np.float32)).shape
        (1, 4, 8)

    Raises TypeError or ValueError for wrong arguments and, on first use, for inputs of a wrong shape or dtype.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: Length, stride: Length = 1,
                 padding: RowPadding = 0, dilation: Length = 1, groups: int = 1, bias: bool = True, *,
                 init: str = "kaiming_uniform", seed: int | np.random.Generator = 0,
                 dtype: DTypeLike = np.float32) -> None:
        super().__init__()
        name = type(self).__name__
        self.in_channels, self.out_channels, self.groups = channels_of(name, in_channels, out_channels, groups)
        self.kernel_size = shapes.row(name, "kernel_size", kernel_size, 1)[1]
        self.stride = shapes.row(name, "stride", stride, 1)[1]
        self.dilation = shapes.row(name, "dilation", dilation, 1)[1]
        shapes.row_padding(name, padding)
        self.padding = padding
        self.weight, self.bias = initial(name, (self.out_channels, self.in_channels // self.groups, self.kernel_size),
                                         bias, init, seed, dtype)

    def image_axes(self) -> int | None:
        return 2

    def forward(self, x: Value) -> Value:
        shape = (self.out_channels, self.in_channels // self.groups, self.kernel_size)
        w, b = self._weight(x.dtype, shape, self.out_channels)
        build.sequences(type(self).__name__, x)     # refuses another shape in the layer's name
        return functional.conv1d(x, w, b, self.stride, self.padding, self.dilation, self.groups)

    def extra_repr(self) -> str:
        text = f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}"
        for name, usual in {"stride": 1, "padding": 0, "dilation": 1, "groups": 1}.items():
            if getattr(self, name) != usual:
                text += f", {name}={getattr(self, name)!r}"
        return text + ("" if self.bias else ", bias=False")


class ConvTranspose1d(Module):
    """Transposed 1-D convolution, the input gradient of a Conv1d, with optional bias: makes sequences longer.

    x: (N, in_channels, L); weight: (in_channels, out_channels / groups, R); bias: (out_channels,);
    y: (N, out_channels, OL) with OL = (L - 1)*stride - left - right + dilation*(R - 1) + output_padding + 1.

    kernel_size, stride, dilation, output_padding: an int. padding: an int or a pair (left, right). groups, init, seed,
    dtype and all else as in `ConvTranspose2d`.

        >>> cnn.ConvTranspose1d(4, 2, kernel_size=2, stride=2)(np.zeros((1, 4, 5), np.float32)).shape
        (1, 2, 10)

    Raises TypeError or ValueError for wrong arguments and, on first use, for inputs of a wrong shape or dtype.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: Length, stride: Length = 1,
                 padding: Length | tuple[int, int] = 0, output_padding: Length = 0, groups: int = 1, bias: bool = True,
                 dilation: Length = 1, *, init: str = "kaiming_uniform", seed: int | np.random.Generator = 0,
                 dtype: DTypeLike = np.float32) -> None:
        super().__init__()
        name = type(self).__name__
        self.in_channels, self.out_channels, self.groups = channels_of(name, in_channels, out_channels, groups)
        self.kernel_size, self.stride, self.dilation = (shapes.row(name, what, value, 1)[1] for what, value in (
            ("kernel_size", kernel_size), ("stride", stride), ("dilation", dilation)))
        shapes.row_padding(name, padding, words=False)
        self.padding = padding
        more = shapes.row(name, "output_padding", output_padding)[1]
        self.output_padding = shapes.output_padding(name, (0, more), (1, self.stride), (1, self.dilation))[1]
        self.weight, self.bias = initial(name, (self.in_channels, self.out_channels // self.groups, self.kernel_size),
                                         bias, init, seed, dtype, self.out_channels)

    def image_axes(self) -> int | None:
        return 2

    def forward(self, x: Value) -> Value:
        shape = (self.in_channels, self.out_channels // self.groups, self.kernel_size)
        w, b = self._weight(x.dtype, shape, self.out_channels)
        build.sequences(type(self).__name__, x)     # refuses another shape in the layer's name
        return functional.conv_transpose1d(x, w, b, self.stride, self.padding, self.output_padding, self.groups,
                                           self.dilation)

    def extra_repr(self) -> str:
        text = f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}"
        plain = {"stride": 1, "padding": 0, "output_padding": 0, "groups": 1, "dilation": 1}
        for name, usual in plain.items():
            if getattr(self, name) != usual:
                text += f", {name}={getattr(self, name)!r}"
        return text + ("" if self.bias else ", bias=False")


class _Pool1d(Module):
    """Windows of one size, every `stride` elements."""

    def __init__(self, kernel_size: Length, stride: Length | None, padding: RowPadding, ceil_mode: bool) -> None:
        super().__init__()
        name = type(self).__name__
        self.kernel_size = shapes.row(name, "kernel_size", kernel_size, 1)[1]
        self.stride = self.kernel_size if stride is None else shapes.row(name, "stride", stride, 1)[1]
        shapes.row_padding(name, padding)
        self.padding, self.ceil_mode = padding, shapes.flag(name, "ceil_mode", ceil_mode)

    def image_axes(self) -> int | None:
        return 2

    def extra_repr(self) -> str:
        text = f"kernel_size={self.kernel_size}, stride={self.stride}"
        text += f", padding={self.padding!r}" if self.padding != 0 else ""
        return text + (", ceil_mode=True" if self.ceil_mode else "")


class MaxPool1d(_Pool1d):
    """The largest value of each window of a sequence; the gradient goes to that value alone.

    x: (N, C, L); y: (N, C, OL). kernel_size, stride (default: kernel_size), dilation: an int. padding: an int, a pair
    (left, right), "valid" or "same". ceil_mode and all else as in `MaxPool2d`. Raises TypeError or ValueError for
    arguments, and on the first use for inputs, that do not fit.
    """

    def __init__(self, kernel_size: Length, stride: Length | None = None, padding: RowPadding = 0,
                 dilation: Length = 1, *, ceil_mode: bool = False) -> None:
        super().__init__(kernel_size, stride, padding, ceil_mode)
        self.dilation = shapes.row(type(self).__name__, "dilation", dilation, 1)[1]

    def forward(self, x: Value) -> Value:
        build.sequences(type(self).__name__, x)
        return functional.max_pool1d(x, self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode)

    def extra_repr(self) -> str:
        return super().extra_repr() + (f", dilation={self.dilation}" if self.dilation != 1 else "")


class AvgPool1d(_Pool1d):
    """The average of each window of a sequence.

    x: (N, C, L); y: (N, C, OL). kernel_size, stride (default: kernel_size): an int. padding: an int, a pair (left,
    right), "valid" or "same". ceil_mode, count_include_pad and all else as in `AvgPool2d`. Raises TypeError or
    ValueError for arguments, and on the first use for inputs, that do not fit.
    """

    def __init__(self, kernel_size: Length, stride: Length | None = None, padding: RowPadding = 0,
                 ceil_mode: bool = False, count_include_pad: bool = True) -> None:
        super().__init__(kernel_size, stride, padding, ceil_mode)
        self.count_include_pad = shapes.flag(type(self).__name__, "count_include_pad", count_include_pad)

    def forward(self, x: Value) -> Value:
        build.sequences(type(self).__name__, x)
        return functional.avg_pool1d(x, self.kernel_size, self.stride, self.padding, self.ceil_mode,
                                     self.count_include_pad)

    def extra_repr(self) -> str:
        return super().extra_repr() + ("" if self.count_include_pad else ", count_include_pad=False")


class _AdaptivePool1d(Module):
    def __init__(self, output_size: Length) -> None:
        super().__init__()
        self.output_size = shapes.row(type(self).__name__, "output_size", output_size, 1)[1]

    def image_axes(self) -> int | None:
        return 2

    def extra_repr(self) -> str:
        return f"output_size={self.output_size}"


class AdaptiveAvgPool1d(_AdaptivePool1d):
    """The average of each of `output_size` windows of a sequence, an int.

    x: (N, C, L); y: (N, C, output_size). The windows are those of `AdaptiveMaxPool2d`. Raises TypeError or ValueError
    for arguments, and on the first use for inputs, that do not fit.
    """

    def forward(self, x: Value) -> Value:
        build.sequences(type(self).__name__, x)
        return functional.adaptive_avg_pool1d(x, self.output_size)


class AdaptiveMaxPool1d(_AdaptivePool1d):
    """The largest value of each of `output_size` windows of a sequence, an int.

    x: (N, C, L); y: (N, C, output_size). The windows are those of `AdaptiveMaxPool2d`. Raises TypeError or ValueError
    for arguments, and on the first use for inputs, that do not fit.
    """

    def forward(self, x: Value) -> Value:
        build.sequences(type(self).__name__, x)
        return functional.adaptive_max_pool1d(x, self.output_size)


class BatchNorm1d(BatchNorm2d):
    """Batch normalisation of vectors or sequences: `BatchNorm2d`, with its arguments, attributes and errors.

    x, y: (N, num_features), over the batch, or (N, num_features, L), over batch and L.
    """

    def forward(self, x: Value) -> Value:
        if len(x.image) == 1:
            return build.reshaped(super().forward(build.reshaped(x, (*x.image, 1, 1))), x.image)
        return build.without_rows(super().forward(build.as_rows(type(self).__name__, x)))


class InstanceNorm1d(InstanceNorm2d):
    """Instance normalisation of sequences: `InstanceNorm2d`, with its arguments, attributes and errors.

    x, y: (N, num_features, L), L above 1.
    """

    def image_axes(self) -> int | None:
        return 2

    def forward(self, x: Value) -> Value:
        return build.without_rows(super().forward(build.as_rows(type(self).__name__, x)))
