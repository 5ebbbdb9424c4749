"""Random changes to training images, for `DataLoader(transform=...)`: a whole batch at a time, seeded.

Each is called as transform(images, rng) with images (n, C, H, W), uint8 or float32, and a numpy Generator, and
returns new images of the same shape and dtype. One whose attribute `needs_indices` is true is called as
transform(images, rng, indices, epoch) instead: the numbers of the images in the data set, int64 (n,), and the
number of the epoch, from 0.

Those of this module only draw numbers, and the kernels do the rest: in a call at once, in Trainer.fit within the step,
on sixteen images at a time; the bits are the same.

Raise TypeError or ValueError for arguments, or images, that do not fit.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from cnn._ext import augment
from cnn.runtime import get_num_threads

from .described import whole_number

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

_LARGEST = 2**15 - 1  # the larger side of an image; positions in it have 32 bits, 16 of them behind the point


class Change(NamedTuple):
    """What a kernel (_ext/augment.pyx) does to every image; numbers drawn for each image, int64 (n, k), tell how.

    kind: of augment.KINDS. option: an integer, see there. fill: a number for each channel.
    """

    kind: str
    option: int = 0
    fill: tuple = ()

    def __call__(self, images: np.ndarray, numbers: np.ndarray) -> np.ndarray:
        """New images, (n, C, H, W), of the same uint8 or float32."""
        images, result = np.ascontiguousarray(images), np.empty(images.shape, images.dtype)
        fill = np.array(self.fill, images.dtype)
        augment.apply(augment.KINDS[self.kind], self.option, numbers.ctypes.data, numbers.shape[1], fill.ctypes.data,
                      images.dtype == np.float32, images.ctypes.data, *images.shape, get_num_threads(),
                      result.ctypes.data)  # fmt: skip
        return result


class _Drawn:
    """A transform that draws numbers for the images without looking at them, and leaves the rest to a Change.

    Subclasses have draw(shape, dtype, rng, indices, epoch) -> (Change, numbers).
    """

    def draw(self, shape: tuple[int, ...], dtype: np.dtype, rng: np.random.Generator, indices: np.ndarray | None,
             epoch: int | None) -> tuple[Change, np.ndarray]:
        """Draw for images of this shape, (n, C, H, W), and dtype: a Change and its numbers, int64 (n, k)."""
        raise NotImplementedError

    def __call__(self, images: np.ndarray, rng: np.random.Generator, indices: np.ndarray | None = None,
                 epoch: int | None = None) -> np.ndarray:
        if not isinstance(images, np.ndarray) or images.dtype not in (np.uint8, np.float32):
            found = getattr(images, "dtype", type(images).__name__)
            raise TypeError(f"{type(self).__name__}: images must be a uint8 or float32 array, not {found}")
        if images.ndim != 4 or 0 in images.shape[1:]:
            raise ValueError(f"{type(self).__name__}: images must be of shape (n, C, H, W), not {images.shape}")
        change, numbers = self.draw(images.shape, images.dtype, rng, indices, epoch)
        return change(images, numbers)


class RandomCrop(_Drawn):
    """A crop of the padded image, as large as the image: moves it by up to `padding` pixels each way.

    padding: int from 0 to 32767, pixels on all four sides. mode: what is there, "reflect" (the image mirrored
    at its edge, which is not repeated; both sides of the image must then be larger than padding) or "zero".
    """

    def __init__(self, padding: int, mode: str = "reflect") -> None:
        self.padding = whole_number("RandomCrop", "padding", padding, least=0, most=_LARGEST)
        if mode not in ("reflect", "zero"):
            raise ValueError(f'RandomCrop: mode must be "reflect" or "zero", not {mode!r}')
        self.mode = mode

    def draw(self, shape: tuple[int, ...], dtype: np.dtype, rng: np.random.Generator, indices: np.ndarray | None,
             epoch: int | None) -> tuple[Change, np.ndarray]:
        """Draw for images of this shape, (n, C, H, W), and dtype: a Change and its numbers, int64 (n, k)."""
        n, _, height, width = shape
        if self.mode == "reflect" and self.padding >= min(height, width):
            raise ValueError(
                f'RandomCrop: padding {self.padding} with mode "reflect" needs larger images, not {height}x{width}'
            )
        top_left = rng.integers(-self.padding, self.padding, (2, n), endpoint=True)
        return Change("crop", int(self.mode == "reflect")), np.ascontiguousarray(top_left.T)


class RandomFlip(_Drawn):
    """Mirrors each image left to right with probability 1/2."""

    def draw(self, shape: tuple[int, ...], dtype: np.dtype, rng: np.random.Generator, indices: np.ndarray | None,
             epoch: int | None) -> tuple[Change, np.ndarray]:
        """Draw for images of this shape, (n, C, H, W), and dtype: a Change and its numbers, int64 (n, k)."""
        return Change("flip"), rng.integers(0, 2, shape[0], np.uint8).astype(np.int64)[:, None]


class AlternatingFlip(_Drawn):
    """Mirrors each image left to right in every other epoch: two epochs in a row show both.

    Which half of the images starts mirrored is random. From K. Jordan, "94% on CIFAR-10 in 3.29 Seconds on a
    Single GPU" (2024), section 3.6.

    seed: int of at least 0, for which images start mirrored. It decides alone: the Generator is not used.
    """

    needs_indices = True

    def __init__(self, seed: int = 0) -> None:
        seed = whole_number("AlternatingFlip", "seed", seed, least=0)
        self._key = np.random.SeedSequence(seed).generate_state(1, np.uint64)

    def draw(self, shape: tuple[int, ...], dtype: np.dtype, rng: np.random.Generator, indices: np.ndarray | None,
             epoch: int | None) -> tuple[Change, np.ndarray]:
        """Draw for images of this shape, (n, C, H, W), and dtype: a Change and its numbers, int64 (n, k)."""
        if indices is None or epoch is None:
            raise TypeError("AlternatingFlip: must be told the images' numbers and the epoch, as a DataLoader does")
        # the finaliser of splitmix64: every bit of the result depends on every bit of the number
        bits = indices.astype(np.uint64) ^ self._key
        bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        starts = (bits >> np.uint64(63)).astype(np.int64)
        return Change("flip"), (starts ^ (epoch % 2))[:, None]


class Cutout(_Drawn):
    """Fills a square at a random place (DeVries and Taylor 2017).

    size: int from 1 to 32767, its side in pixels. Its centre is any pixel, so that a part of it may lie outside.
    fill: number, or one per channel, in the unit of the images; whole numbers from 0 to 255 for uint8.
    """

    def __init__(self, size: int, fill: float | Sequence[float] = 0) -> None:
        self.size = whole_number("Cutout", "size", size, least=1, most=_LARGEST)
        self.fill = _numbers("Cutout", "fill", fill)

    def draw(self, shape: tuple[int, ...], dtype: np.dtype, rng: np.random.Generator, indices: np.ndarray | None,
             epoch: int | None) -> tuple[Change, np.ndarray]:
        """Draw for images of this shape, (n, C, H, W), and dtype: a Change and its numbers, int64 (n, k)."""
        n, channels, height, width = shape
        top_left = rng.integers(0, [[height], [width]], (2, n)) - self.size // 2
        fill = _fill("Cutout", self.fill, channels, dtype)
        return Change("cutout", self.size, fill), np.ascontiguousarray(top_left.T)


class RandomAffine(_Drawn):
    """Rotates, moves, scales and shears each image about its centre, with bilinear interpolation.

    The arguments are torchvision's. degrees: rotation, from -degrees to degrees, or a pair (lowest, highest),
    clockwise. translate: pair (a, b): moves by up to a * width across and b * height down, each from 0 to 1.
    scale: pair (smallest, largest), above 0. shear: degrees below 90 along x: a number s for -s to s, a pair, or
    four numbers for x and y. fill: what comes in from outside, see Cutout. None leaves out what it is for.
    Each is drawn evenly from its range; unlike torchvision's, moves are not rounded to whole pixels.

    Images must have sides of at most 32767 pixels. Where everything drawn is 0 (and scale 1) the result is the
    image to the bit.
    """

    def __init__(self, degrees: float | Sequence[float], translate: Sequence[float] | None = None,
                 scale: Sequence[float] | None = None, shear: float | Sequence[float] | None = None,
                 fill: float | Sequence[float] = 0) -> None:
        degrees = _range("degrees", degrees, 2)
        translate = (0, 0) if translate is None else _numbers("RandomAffine", "translate", translate)
        if len(translate) != 2 or not all(0 <= share <= 1 for share in translate):
            raise ValueError(f"RandomAffine: translate must be two numbers from 0 to 1, not {translate}")
        scale = (1, 1) if scale is None else _range("scale", scale, 2)
        if scale[0] <= 0:
            raise ValueError(f"RandomAffine: scale must be above 0, not {scale}")
        shear = (0, 0) if shear is None else _range("shear", shear, 2, 4)
        if max(map(abs, shear)) >= 90:
            raise ValueError(f"RandomAffine: shear must be between -90 and 90 degrees, not {shear}")
        across, down = translate
        ranges = [degrees, (-across, across), (-down, down), scale, shear[:2], shear[2:] or (0, 0)]
        self._low, high = np.array(ranges, np.float64).T[:, :, None]
        self._span = high - self._low
        self.fill = _numbers("RandomAffine", "fill", fill)

    def draw(self, shape: tuple[int, ...], dtype: np.dtype, rng: np.random.Generator, indices: np.ndarray | None,
             epoch: int | None) -> tuple[Change, np.ndarray]:
        """Draw for images of this shape, (n, C, H, W), and dtype: a Change and its numbers, int64 (n, k)."""
        n, channels, height, width = shape
        if max(height, width) > _LARGEST:
            raise ValueError(
                f"RandomAffine: images must have sides of at most {_LARGEST} pixels, not {(height, width)}"
            )
        fill = _fill("RandomAffine", self.fill, channels, dtype)
        drawn = self._low + self._span * np.ascontiguousarray(rng.random((n, 6)).T)  # long rows: a third of the time
        return Change("affine", fill=fill), fixed_point(affine_matrix(drawn.T, height, width))


def affine_matrix(drawn: np.ndarray, height: int, width: int) -> np.ndarray:
    """Where in an image the pixels of the changed one come from: float64 (n, 6), in pixels.

    Each row (a, b, c, d, e, f) says that the pixel at (column j, row i) comes from column a j + b i + c, row
    d j + e i + f. drawn: (n, 6): degrees of rotation, share of the width and of the height to move, scale,
    degrees of shear in x and in y.

    With the centre at 0, torchvision's map is x -> s R x + t, where R has the columns (p, q) and (-r, o) below
    and determinant 1; this is its inverse.
    """
    angle, across, down, scale, shear_x, shear_y = drawn.T
    angle, shear_x, shear_y = (np.radians(degrees) for degrees in (angle, shear_x, shear_y))
    cos, sin, tan_x, tan_y = np.cos(angle), np.sin(angle), np.tan(shear_x), np.tan(shear_y)
    p, q = cos + sin * tan_y, sin - cos * tan_y
    r, o = p * tan_x + sin, cos - q * tan_x
    a, b, d, e = o / scale, r / scale, -q / scale, p / scale
    middle_x, middle_y = (width - 1) / 2, (height - 1) / 2
    x, y = middle_x + across * width, middle_y + down * height
    return np.stack([a, b, middle_x - a * x - b * y, d, e, middle_y - d * x - e * y], axis=1)


def fixed_point(matrix: np.ndarray) -> np.ndarray:
    """In units of 1 / 65536 pixel, int64; what is cut off is far outside of any image."""
    return np.rint(np.clip(matrix * 65536, -(2.0**40), 2.0**40)).astype(np.int64)


class Compose:
    """Several transforms, one after the other: Compose(RandomCrop(2), RandomFlip())."""

    def __init__(self, *transforms: Callable[..., np.ndarray]) -> None:
        for transform in transforms:
            if not callable(transform):
                hint = "; give them one by one, not in a list" if isinstance(transform, (list, tuple)) else ""
                raise TypeError(f"Compose: transforms must be functions, not {transform!r}{hint}")
        self.transforms = transforms

    @property
    def needs_indices(self) -> bool:
        """Whether one of the transforms does."""
        return any(map(needs_indices, self.transforms))

    def __call__(self, images: np.ndarray, rng: np.random.Generator, indices: np.ndarray | None = None,
                 epoch: int | None = None) -> np.ndarray:
        for transform in self.transforms:
            images = apply(transform, images, rng, indices, epoch)
        return images


def needs_indices(transform: Callable) -> bool:
    """Whether a transform wants to know which images it gets, and in which epoch."""
    return getattr(transform, "needs_indices", False)


def apply(transform: Any, images: np.ndarray, rng: np.random.Generator, indices: np.ndarray | None,
          epoch: int | None) -> np.ndarray:
    """Call a transform with as many arguments as it wants."""
    return transform(images, rng, indices, epoch) if needs_indices(transform) else transform(images, rng)


def drawable(transform: Callable) -> bool:
    """Whether a transform does nothing but what `draw` tells."""
    if type(transform) is Compose:
        return all(map(drawable, transform.transforms))
    return isinstance(transform, _Drawn) and type(transform).__call__ is _Drawn.__call__


def draw(transform: Any, shape: tuple[int, ...], dtype: np.dtype, rng: np.random.Generator,
         indices: np.ndarray | None, epoch: int | None) -> list[tuple[Change, np.ndarray]]:
    """The same as `apply` does to images of such a shape, not yet done: a list of (Change, numbers)."""
    if type(transform) is Compose:
        return [drawn for t in transform.transforms for drawn in draw(t, shape, dtype, rng, indices, epoch)]
    return [transform.draw(shape, dtype, rng, indices, epoch)]


# ---------------------------------------------------------------------------------------------- parts


def _numbers(owner: str, argument: str, value: float | Sequence[float]) -> tuple[float, ...]:
    """A finite number or a sequence of them, as a tuple of floats."""
    values = value if isinstance(value, (tuple, list)) else (value,)
    if not all(isinstance(v, (int, float, np.integer, np.floating)) and not isinstance(v, bool) for v in values):
        raise TypeError(f"{owner}: {argument} must be a number or a sequence of numbers, not {value!r}")
    try:
        values = tuple(float(v) for v in values)
    except OverflowError:  # an int beyond float64
        values = ()
    if not values or not all(map(math.isfinite, values)):
        raise ValueError(f"{owner}: {argument} must be finite number(s), not {value!r}")
    return values


def _range(argument: str, value: float | Sequence[float], *lengths: int) -> tuple[float, ...]:
    """Ranges (lowest, highest, ...) as they are given, or (-value, value)."""
    values = _numbers("RandomAffine", argument, value)
    if not isinstance(value, (tuple, list)) and argument != "scale":
        values = (-values[0], values[0])
    if len(values) not in lengths:
        raise ValueError(f"RandomAffine: {argument} must be {' or '.join(map(str, lengths))} numbers, not {value!r}")
    if any(low > high for low, high in zip(values[::2], values[1::2], strict=True)):
        raise ValueError(f"RandomAffine: {argument} must go from the lower to the higher number, not {values}")
    return values


def _fill(owner: str, fill: tuple[float, ...], channels: int, dtype: np.dtype) -> tuple[float, ...]:
    """One number per channel, that the dtype can hold."""
    if len(fill) not in (1, channels):
        raise ValueError(f"{owner}: fill must be one number or one per channel ({channels}), not {fill}")
    if dtype == np.uint8 and not all(0 <= v <= 255 and v.is_integer() for v in fill):
        raise ValueError(f"{owner}: fill must be whole numbers from 0 to 255 for uint8 images, not {fill}")
    if max(map(abs, fill)) > np.finfo(np.float32).max:
        raise ValueError(f"{owner}: fill must be numbers that float32 can hold, not {fill}")
    return fill * (channels // len(fill))
