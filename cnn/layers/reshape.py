"""Layers that pad, resample and reorder; no parameters."""
from __future__ import annotations

from typing import TYPE_CHECKING

from cnn import functional, shapes
from cnn.graph import build, moving
from cnn.layers.module import Module

if TYPE_CHECKING:
    from cnn.graph import Value
    from cnn.shapes import Length, Size


class Upsample(Module):
    """Resamples images (N, C, H, W) by "nearest" or "bilinear" interpolation, sequences (N, C, L) by "nearest" or
    "linear".

    size: of the result, an int or (height, width), of sequences an int; or scale_factor, by how much larger it is, a
    number or, of images, a pair. mode: "nearest", "bilinear" or "linear"; align_corners, with the last two: whether the
    corners' centres stay where they are. As in PyTorch. Raises TypeError or ValueError for other arguments, on the
    first use.
    """

    def __init__(self, size: Size | Length | None = None, scale_factor: float | tuple[float, ...] | None = None,
                 mode: str = "nearest", align_corners: bool | None = None) -> None:
        super().__init__()
        self.size, self.scale_factor, self.mode, self.align_corners = size, scale_factor, mode, align_corners

    def forward(self, x: Value) -> Value:
        return functional.interpolate(x, self.size, self.scale_factor, self.mode, self.align_corners)

    def extra_repr(self) -> str:
        what = f"size={self.size}" if self.scale_factor is None else f"scale_factor={self.scale_factor}"
        return f"{what}, mode={self.mode!r}" + ("" if self.align_corners is None else
                                                f", align_corners={self.align_corners}")


class UpsamplingNearest2d(Upsample):
    """Upsample of images by "nearest". size, scale_factor: as there. Raises TypeError or ValueError for other
    arguments, on the first use."""

    def __init__(self, size: Size | None = None, scale_factor: float | tuple[float, ...] | None = None) -> None:
        super().__init__(size, scale_factor)


class UpsamplingBilinear2d(Upsample):
    """Upsample of images by "bilinear" with align_corners. size, scale_factor: as there. Raises TypeError or ValueError
    for other arguments, on the first use."""

    def __init__(self, size: Size | None = None, scale_factor: float | tuple[float, ...] | None = None) -> None:
        super().__init__(size, scale_factor, "bilinear", True)


class PixelShuffle(Module):
    """(N, C r^2, H, W) to (N, C, H r, W r). Shi et al. 2016. upscale_factor: r, at least 1. Raises TypeError or
    ValueError for another."""

    def __init__(self, upscale_factor: int) -> None:
        super().__init__()
        self.upscale_factor = shapes.integer("PixelShuffle", "upscale_factor", upscale_factor, 1)

    def image_axes(self) -> int | None:
        return 3

    def forward(self, x: Value) -> Value:
        return functional.pixel_shuffle(x, self.upscale_factor)

    def extra_repr(self) -> str:
        return f"upscale_factor={self.upscale_factor}"


class PixelUnshuffle(Module):
    """(N, C, H r, W r) to (N, C r^2, H, W), `PixelShuffle` the other way round. downscale_factor: r, at least 1. Raises
    TypeError or ValueError for another."""

    def __init__(self, downscale_factor: int) -> None:
        super().__init__()
        self.downscale_factor = shapes.integer("PixelUnshuffle", "downscale_factor", downscale_factor, 1)

    def image_axes(self) -> int | None:
        return 3

    def forward(self, x: Value) -> Value:
        return functional.pixel_unshuffle(x, self.downscale_factor)

    def extra_repr(self) -> str:
        return f"downscale_factor={self.downscale_factor}"


class ChannelShuffle(Module):
    """The channels of all groups in turn. Zhang et al. 2018. groups: how many groups, a divisor of the channels. Raises
    TypeError or ValueError for another."""

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.groups = shapes.integer("ChannelShuffle", "groups", groups, 1)

    def forward(self, x: Value) -> Value:
        return functional.channel_shuffle(x, self.groups)

    def extra_repr(self) -> str:
        return f"groups={self.groups}"


class _Pad(Module):
    """padding: of all sides, an int, or (left, right, top, bottom), of sequences (left, right)."""

    mode, sides = "constant", 4

    def __init__(self, padding: int | tuple[int, ...]) -> None:
        super().__init__()
        sides = tuple(padding) if isinstance(padding, (tuple, list)) else (padding,) * self.sides
        if len(sides) != self.sides:
            words = {2: "two", 4: "four"}[self.sides]
            raise ValueError(f"{type(self).__name__}: padding must be an integer or {words}, got {padding!r}")
        self.padding = tuple(shapes.integer(type(self).__name__, "padding", n, -2**31) for n in sides)

    value = 0.0

    def image_axes(self) -> int | None:
        return 2 if self.sides == 2 else None

    def forward(self, x: Value) -> Value:
        if self.sides == 2:
            build.sequences(type(self).__name__, x)
        return functional.pad(x, self.padding, self.mode, self.value)

    def extra_repr(self) -> str:
        return f"padding={self.padding}" + (f", value={self.value:g}" if self.value else "")


class ZeroPad2d(_Pad):
    """Zeros around images (N, C, H, W). padding: an int, or (left, right, top, bottom); negative ones cut. Raises
    TypeError or ValueError for others."""


class ConstantPad2d(_Pad):
    """A number around images (N, C, H, W). padding: an int, or (left, right, top, bottom); negative ones cut. value:
    the number. Raises TypeError or ValueError for others."""

    def __init__(self, padding: int | tuple[int, ...], value: float) -> None:
        super().__init__(padding)
        self.value = moving.around(type(self).__name__, value)


class ReflectionPad2d(_Pad):
    """Images (N, C, H, W), mirrored at their edges, which are not repeated. padding: an int, or (left, right, top,
    bottom), less than the image's size. Raises TypeError or ValueError for others."""

    mode = "reflect"


class ReplicationPad2d(_Pad):
    """Images (N, C, H, W) with their edges repeated. padding: an int, or (left, right, top, bottom). Raises TypeError
    or ValueError for others."""

    mode = "replicate"


class ZeroPad1d(ZeroPad2d):
    """Zeros at the ends of sequences (N, C, L). padding: an int, or (left, right); negative ones cut. Raises TypeError
    or ValueError for others."""

    sides = 2


class ConstantPad1d(ConstantPad2d):
    """A number at the ends of sequences (N, C, L). padding: an int, or (left, right); negative ones cut. value: the
    number. Raises TypeError or ValueError for others."""

    sides = 2


class ReflectionPad1d(ReflectionPad2d):
    """Sequences (N, C, L), mirrored at their ends, which are not repeated. padding: an int, or (left, right), less than
    L. Raises TypeError or ValueError for others."""

    sides = 2


class ReplicationPad1d(ReplicationPad2d):
    """Sequences (N, C, L) with their ends repeated. padding: an int, or (left, right). Raises TypeError or ValueError
    for others."""

    sides = 2
