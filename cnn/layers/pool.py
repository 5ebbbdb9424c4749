"""Pooling. Images (N, C, H, W) only."""
from __future__ import annotations

from typing import TYPE_CHECKING

from cnn import shapes
from cnn.graph import apply
from cnn.layers.module import Module
from cnn.ops import pool

if TYPE_CHECKING:
    from cnn.graph import Value
    from cnn.shapes import Padding, Size


class _Windows(Module):
    """What all have in common."""

    def image_axes(self) -> int | None:
        return 3

    def options(self, image: tuple[int, ...]) -> dict:
        """What the operation takes, checked, for an image of this shape."""
        raise NotImplementedError


class _Pool(_Windows):
    """Windows of one size, every `stride` pixels."""

    def __init__(self, kernel_size: Size, stride: Size | None, padding: Padding | str, ceil_mode: bool) -> None:
        super().__init__()
        name = type(self).__name__
        self.kernel_size = shapes.pair(name, "kernel_size", kernel_size, 1)
        self.stride = self.kernel_size if stride is None else shapes.pair(name, "stride", stride, 1)
        self.padding = shapes.pool_padding(name, padding)
        self.ceil_mode = shapes.flag(name, "ceil_mode", ceil_mode)

    def extra_repr(self) -> str:
        text = f"kernel_size={self.kernel_size}, stride={self.stride}"
        text += f", padding={self.padding!r}" if self.padding != (0, 0) else ""
        return text + (", ceil_mode=True" if self.ceil_mode else "")


class _AdaptivePool(_Windows):
    """So many windows, spread over the input."""

    def __init__(self, output_size: Size | None | tuple[int | None, int | None]) -> None:
        super().__init__()
        self.output_size = pool.output_size(type(self).__name__, output_size)

    def options(self, image: tuple[int, ...]) -> dict:
        return {"output_size": pool.output_size(type(self).__name__, self.output_size, (1, 1, *image))}

    def extra_repr(self) -> str:
        return f"output_size={self.output_size}"


class _Max(_Windows):
    def forward(self, x: Value) -> Value:
        return apply(pool.MaxPool2d(type(self).__name__, **self.options(x.image)), x)


class _Average(_Windows):
    flat = False

    def forward(self, x: Value) -> Value:
        operation = pool.AvgPool2d(type(self).__name__, **self.options(x.image))
        return apply(operation.changed(flat=self.flat), x)


class MaxPool2d(_Max, _Pool):
    """The largest value of each window; the gradient goes to that value alone.

    x: (N, C, H, W); y: (N, C, OH, OW). kernel_size, stride (default: kernel_size), dilation: an int or a pair
    (height, width); the pixels of a window lie `dilation` apart. padding: an int or a pair, at most half of what the
    window spans, dilation * (kernel_size - 1) + 1; ((top, bottom), (left, right)), each less than that; "valid" (none)
    or "same" (OH = ceil(H / stride), the odd row or column at the end). Padding never wins. With ceil_mode a window
    that hangs over the far edge counts. Of equal values the first in row-major order wins; NaN wins over all.

    Raises TypeError or ValueError for arguments, and on the first use for inputs, that do not fit.
    """

    def __init__(self, kernel_size: Size, stride: Size | None = None, padding: Padding | str = 0, dilation: Size = 1,
                 *, ceil_mode: bool = False) -> None:
        super().__init__(kernel_size, stride, padding, ceil_mode)
        self.dilation = shapes.pair(type(self).__name__, "dilation", dilation, 1)

    def options(self, image: tuple[int, ...]) -> dict:
        return pool.max_options(type(self).__name__, self.kernel_size, self.stride, self.padding, self.dilation,
                                self.ceil_mode)

    def extra_repr(self) -> str:
        return super().extra_repr() + (f", dilation={self.dilation}" if self.dilation != (1, 1) else "")


class AvgPool2d(_Average, _Pool):
    """The average of each window.

    x: (N, C, H, W); y: (N, C, OH, OW). kernel_size, stride (default: kernel_size): an int or a pair (height, width).
    padding: as in `MaxPool2d`; it counts as zeros, or not at all without count_include_pad. With ceil_mode a window
    that hangs over the far edge counts; what lies beyond the padding there belongs to no average. divisor_override: an
    int, not 0, to divide each sum by instead of the number of pixels; None: that number.

    Raises TypeError or ValueError for arguments, and on the first use for inputs, that do not fit.
    """

    def __init__(self, kernel_size: Size, stride: Size | None = None, padding: Padding | str = 0,
                 ceil_mode: bool = False, count_include_pad: bool = True, divisor_override: int | None = None) -> None:
        super().__init__(kernel_size, stride, padding, ceil_mode)
        self.count_include_pad = shapes.flag(type(self).__name__, "count_include_pad", count_include_pad)
        self.divisor_override = divisor_override
        self.options(())        # checked

    def options(self, image: tuple[int, ...]) -> dict:
        return pool.avg_options(type(self).__name__, self.kernel_size, self.stride, self.padding, self.ceil_mode,
                                self.count_include_pad, self.divisor_override)

    def extra_repr(self) -> str:
        text = super().extra_repr() + ("" if self.count_include_pad else ", count_include_pad=False")
        return text + ("" if self.divisor_override is None else f", divisor_override={self.divisor_override}")


class AdaptiveMaxPool2d(_Max, _AdaptivePool):
    """The largest value of each of `output_size` windows, an int or a pair (height, width); None: as many as pixels.

    x: (N, C, H, W); y: (N, C, *output_size). Window i of n reaches from row floor(i H / n) to
    ceil((i + 1) H / n), so that neighbours may overlap; likewise the columns. Ties and NaN as in `MaxPool2d`.

    Raises TypeError or ValueError for arguments, and on the first use for inputs, that do not fit.
    """


class AdaptiveAvgPool2d(_Average, _AdaptivePool):
    """The average of each of `output_size` windows, an int or a pair (height, width); None: as many as pixels.

    x: (N, C, H, W); y: (N, C, *output_size). The windows are those of `AdaptiveMaxPool2d`.

    Raises TypeError or ValueError for arguments, and on the first use for inputs, that do not fit.
    """


class GlobalAvgPool2d(_Average, _AdaptivePool):
    """The average of each channel. x: (N, C, H, W); y: (N, C), vectors that a Linear can follow.

    PyTorch's `AdaptiveAvgPool2d(1)` and `Flatten()` in one. Raises ValueError on the first use for vectors.
    """

    flat = True

    def __init__(self) -> None:
        super().__init__(1)

    def extra_repr(self) -> str:
        return ""
