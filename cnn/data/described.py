"""What every kind of data set has: names of classes, and the constants to normalise images."""

from __future__ import annotations

import math
import operator
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable


class AnyDataset:
    """The base class of Dataset, BatchedDataset and IterableDataset.

    Attributes: classes (tuple of str), mean, std (tuples of float, one per channel), name (str), and float32 arrays
    `scale` and `shift` of shape (C,) such that normalised = pixel * scale + shift.
    """

    classes: tuple[str, ...]
    in_memory = False  # whether reading an image costs no more than a look at it

    def __init__(self) -> None:
        raise TypeError("AnyDataset: is made as a Dataset, BatchedDataset or IterableDataset")

    @property
    def _owner(self) -> str:
        return type(self).__name__

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """The shape of an image, (C, H, W)."""
        raise NotImplementedError

    @property
    def dtype(self) -> np.dtype:
        """The dtype of the images, uint8 or float32."""
        raise NotImplementedError

    @property
    def example_labels(self) -> np.ndarray:
        """Labels of no image, (0, ...), of the dtype and shape of this data set's."""
        raise NotImplementedError

    @property
    def num_classes(self) -> int:
        """Number of classes (int), with or without images."""
        return len(self.classes)

    def _set_classes(self, classes: Iterable[str]) -> None:
        if isinstance(classes, str):
            raise TypeError(f"{self._owner}: classes must be a sequence of names, not the string {classes!r}")
        self.classes = tuple(classes)
        for label in self.classes:
            if not isinstance(label, str):
                raise TypeError(f"{self._owner}: classes must be names (str), not {label!r}")
        if len(set(self.classes)) < len(self.classes):
            twice = next(label for i, label in enumerate(self.classes) if label in self.classes[:i])
            raise ValueError(f"{self._owner}: classes must be different names, but {twice!r} is there twice")

    def _set_constants(self, channels: int, mean: Iterable[float] | None, std: Iterable[float] | None,
                       dtype: np.dtype) -> None:
        """Mean and std, and what to compute with them for pixels of this dtype."""
        self.mean = self._per_channel("mean", mean, 0.0, channels)
        self.std = self._per_channel("std", std, 1.0, channels)
        if min(self.std) <= 0:
            raise ValueError(f"{self._owner}: std must be greater than 0, not {self.std}")
        # (pixel / white - mean) / std = pixel * scale + shift
        white = 255.0 if dtype == np.uint8 else 1.0
        with np.errstate(all="ignore"):  # of what is refused, or too small to matter
            self.scale = (1.0 / (white * np.array(self.std))).astype(np.float32)
            self.shift = (-np.array(self.mean) / np.array(self.std)).astype(np.float32)
        if not (np.isfinite(self.scale).all() and np.isfinite(self.shift).all()):
            raise ValueError(f"{self._owner}: std is too small to divide by in float32, got {self.std} with mean "
                             f"{self.mean}")

    def _per_channel(self, argument: str, values: Iterable[float] | None, default: float,
                     channels: int) -> tuple[float, ...]:
        """One finite float per channel, as a tuple."""
        if values is None:
            return (default,) * channels
        try:
            values = tuple(float(v) for v in values)
        except (TypeError, ValueError):
            raise TypeError(f"{self._owner}: {argument} must be one number per channel, not {values!r}") from None
        if len(values) != channels or not all(map(math.isfinite, values)):
            raise ValueError(
                f"{self._owner}: {argument} must be {channels} finite number(s), one per channel, not {values}"
            )
        return values

    def normalise(self, images: np.ndarray) -> np.ndarray:
        """pixel * scale + shift, that is (pixel / 255 - mean) / std for uint8 data sets.

        images: (n, C, h, w) of any n, h, w; uint8 or float32, in the unit of this data set's images.
        Returns a new float32 array of the same shape.
        Raises TypeError or ValueError if images have another type, or another number of channels.
        """
        if not isinstance(images, np.ndarray) or images.dtype not in (np.uint8, np.float32):
            found = getattr(images, "dtype", type(images).__name__)
            raise TypeError(f"{self._owner}: images to normalise must be a uint8 or float32 array, not {found}")
        if images.ndim != 4 or images.shape[1] != len(self.scale):
            raise ValueError(
                f"{self._owner}: images to normalise must be of shape (n, {len(self.scale)}, h, w), "
                f"not {images.shape}"
            )
        with np.errstate(all="ignore"):  # whoever has made NumPy raise did not mean pixels near 0
            out = np.multiply(images, self.scale[:, None, None], dtype=np.float32)
            out += self.shift[:, None, None]
        return out


def whole_number(where: str, argument: str, value: int, least: int, most: float = math.inf) -> int:
    """`value` as an int, if it is a whole number from `least` to `most`; else TypeError or ValueError."""
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{where}: {argument} must be a whole number, not {value!r}")
    if number < least:
        raise ValueError(f"{where}: {argument} must be at least {least}, not {number}")
    if number > most:
        raise ValueError(f"{where}: {argument} must be at most {most}, not {value}")
    return number


def image_dtype(owner: str, dtype: np.dtype) -> np.dtype:
    """The dtype, if images may have it; else TypeError."""
    if dtype not in (np.uint8, np.float32):
        hint = "; use images.astype(np.float32)" if dtype.kind == "f" else ""
        raise TypeError(f"{owner}: images must be uint8 or float32, not {dtype}{hint}")
    return dtype


def first_not_finite(images: Any) -> int | None:
    """The number of the first image with a NaN or infinite pixel, or None; in pieces, to take little memory."""
    if images.dtype != np.float32:
        return None
    step = max(1, (1 << 20) // math.prod(images.shape[1:]))
    for start in range(0, len(images), step):
        finite = np.isfinite(images[start : start + step])
        if not finite.all():
            return start + int(np.argmin(finite.all(axis=(1, 2, 3))))
    return None
