"""Images with their labels, held in memory."""

from __future__ import annotations

import math
import operator
from typing import TYPE_CHECKING

import numpy as np

from cnn.text import printable

if TYPE_CHECKING:
    from collections.abc import Iterable

    from matplotlib.figure import Figure
    from numpy.typing import ArrayLike

_MOST_UNNAMED = 100_000  # classes to make up names for; a label beyond is a mistake


class Dataset:
    """Images with their labels and the constants to normalise the images.

        >>> data = cnn.data.Dataset(np.zeros((10, 1, 28, 28), np.uint8), np.arange(10) % 2, ["cat", "dog"])
        >>> data
        <Dataset 10 images of 1x28x28 uint8, 2 classes>
        >>> rest, held_out = data.split(0.2, seed=0)            # of each class
        >>> len(rest), held_out.labels.tolist()
        (8, [0, 1])

    images: (N, C, H, W), or (N, H, W) for one channel. uint8 with values 0 to 255, or float32, finite, in a unit of
        your own. Kept as they are (no copy if they are C-contiguous).
    labels: (N,), any integer type, from 0 to number of classes - 1. Kept as int64.
    classes: names of the classes, all different. Default "0", "1", ... up to the largest label.
    mean, std: one number per channel. In units of pixel / 255 for uint8 images, in the images' own unit for
        float32 ones. Default 0 and 1.
    name: what to call the data set in messages.

    Attributes: images (N, C, H, W), labels int64 (N,), classes (tuple of str), mean, std (tuples of float),
    name, and float32 arrays `scale` and `shift` of shape (C,) such that
    normalised = pixel * scale + shift.

    N may be 0. Raises TypeError or ValueError for wrong arguments.
    """

    def __init__(self, images: np.ndarray, labels: ArrayLike, classes: Iterable[str] | None = None,
                 mean: Iterable[float] | None = None, std: Iterable[float] | None = None, name: str = "") -> None:
        images, labels = _array("images", images), _array("labels", labels)
        if images.dtype not in (np.uint8, np.float32):
            hint = "; use images.astype(np.float32)" if images.dtype.kind == "f" else ""
            raise TypeError(f"Dataset: images must be uint8 or float32, not {images.dtype}{hint}")
        if images.ndim == 3:
            images = images[:, None]
        if images.ndim != 4 or 0 in images.shape[1:]:
            raise ValueError(
                f"Dataset: images must be of shape (N, C, H, W) or (N, H, W), not {images.shape}"
            )
        if (wrong := _first_not_finite(images)) is not None:
            raise ValueError(f"Dataset: images must be finite, but image {wrong} has NaN or infinite pixels")
        if labels.size == 0 and labels.ndim == 1:
            labels = labels.astype(np.int64)  # np.asarray([]) is float64
        if labels.dtype.kind not in "iu":
            hint = "; use labels.astype(np.int64)" if labels.dtype.kind == "f" else ""
            raise TypeError(f"Dataset: labels must be integers, not {labels.dtype}{hint}")
        if labels.shape != images.shape[:1]:
            raise ValueError(
                f"Dataset: labels must be of shape ({len(images)},), one per image, not {labels.shape}"
            )
        lowest, highest = (int(labels.min()), int(labels.max())) if len(labels) else (0, -1)
        if classes is None:
            if highest >= _MOST_UNNAMED:
                raise ValueError(f"Dataset: label {highest} is too large to do without classes=")
            classes = map(str, range(highest + 1))
        elif isinstance(classes, str):
            raise TypeError(f"Dataset: classes must be a sequence of names, not the string {classes!r}")
        self.classes = tuple(classes)
        for label in self.classes:
            if not isinstance(label, str):
                raise TypeError(f"Dataset: classes must be names (str), not {label!r}")
        if len(set(self.classes)) < len(self.classes):
            twice = next(label for i, label in enumerate(self.classes) if label in self.classes[:i])
            raise ValueError(f"Dataset: classes must be different names, but {twice!r} is there twice")
        if lowest < 0 or highest >= len(self.classes):
            wrong = lowest if lowest < 0 else highest
            raise ValueError(
                f"Dataset: labels must be from 0 to {len(self.classes) - 1} "
                f"(there are {len(self.classes)} classes), but one is {wrong}"
            )
        self._images = np.ascontiguousarray(images)
        self._labels = labels.astype(np.int64)
        self._labels.flags.writeable = False  # they have been checked
        self.name = name
        channels = images.shape[1]
        self.mean = _per_channel("mean", mean, 0.0, channels)
        self.std = _per_channel("std", std, 1.0, channels)
        if min(self.std) <= 0:
            raise ValueError(f"Dataset: std must be greater than 0, not {self.std}")
        # (pixel / white - mean) / std = pixel * scale + shift
        white = 255.0 if images.dtype == np.uint8 else 1.0
        with np.errstate(all="ignore"):  # of what is refused, or too small to matter
            self.scale = (1.0 / (white * np.array(self.std))).astype(np.float32)
            self.shift = (-np.array(self.mean) / np.array(self.std)).astype(np.float32)
        if not (np.isfinite(self.scale).all() and np.isfinite(self.shift).all()):
            raise ValueError(f"Dataset: std is too small to divide by in float32, got {self.std} with mean {self.mean}")

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> tuple[np.ndarray, int]:
        """Image i, (C, H, W) as in `images`, and its label. i: int, negative from the end; `subset` takes several.

        Raises IndexError beyond the last image, TypeError for what is no integer.
        """
        try:
            i = operator.index(i)
        except TypeError:
            raise TypeError(f"Dataset: an index must be an integer, got {i!r}; subset takes several") from None
        if not -len(self) <= i < len(self):
            raise IndexError(f"Dataset: there are {len(self)} images, got index {i}")
        return self.images[i], int(self.labels[i])

    def show(self, count: int = 16) -> Figure:
        """The first images with the names of their classes, as a matplotlib figure, which a notebook shows.

        count: how many images, at most; from 1 to 400. `data.subset(indices).show()` shows others. Raises TypeError or
        ValueError for another count, ModuleNotFoundError where matplotlib is missing.
        """
        count = whole_number("Dataset.show", "count", count, 1, 400)
        return _drawn(self.images[:count], [self.classes[k] for k in self.labels[:count]])

    def __repr__(self) -> str:
        sizes = "x".join(map(str, self.images.shape[1:]))
        name = f"{printable(self.name)}: " if self.name else ""
        return (
            f"<Dataset {name}{len(self)} images of {sizes} {self.images.dtype}, {self.num_classes} classes>"
        )

    @property
    def images(self) -> np.ndarray:
        """The images, (N, C, H, W), uint8 or float32."""
        return self._images

    @property
    def labels(self) -> np.ndarray:
        """The labels, int64 (N,), read-only."""
        return self._labels

    @property
    def num_classes(self) -> int:
        """Number of classes (int), with or without images."""
        return len(self.classes)

    def normalise(self, images: np.ndarray) -> np.ndarray:
        """pixel * scale + shift, that is (pixel / 255 - mean) / std for uint8 data sets.

        images: (n, C, h, w) of any n, h, w; uint8 or float32, in the unit of this data set's images.
        Returns a new float32 array of the same shape.
        Raises TypeError or ValueError if images have another type, or another number of channels.
        """
        if not isinstance(images, np.ndarray) or images.dtype not in (np.uint8, np.float32):
            found = getattr(images, "dtype", type(images).__name__)
            raise TypeError(f"Dataset: images to normalise must be a uint8 or float32 array, not {found}")
        if images.ndim != 4 or images.shape[1] != len(self.scale):
            raise ValueError(
                f"Dataset: images to normalise must be of shape (n, {len(self.scale)}, h, w), "
                f"not {images.shape}"
            )
        with np.errstate(all="ignore"):  # whoever has made NumPy raise did not mean pixels near 0
            out = np.multiply(images, self.scale[:, None, None], dtype=np.float32)
            out += self.shift[:, None, None]
        return out

    def subset(self, indices: slice | ArrayLike) -> Dataset:
        """A data set of some of the images, in the order given; classes, mean, std and name stay.

        indices: a slice, integers from 0 to N - 1 (repeats allowed), or N booleans.
        A slice of step 1 shares this data set's memory, everything else is a copy.
        Raises TypeError or ValueError if the indices are anything else.
        """
        if not isinstance(indices, slice):
            indices = self._checked_indices(indices)
        return Dataset(
            self.images[indices], self.labels[indices], self.classes, self.mean, self.std, self.name
        )

    def split(self, fraction: float, seed: int = 0) -> tuple[Dataset, Dataset]:
        """Split at random into (rest, held_out), every class in the same proportion.

        fraction: share of each class to hold out, 0 <= fraction < 1. Of n images of a class, n * fraction
            are held out, rounded to the nearest whole number; at least one stays in `rest`.
        seed: int >= 0; the same seed gives the same split.

        Returns two data sets which keep the order that the images have here.
        Raises TypeError or ValueError if fraction or seed is out of range.
        """
        try:
            fraction = float(fraction)
        except (TypeError, ValueError):
            raise TypeError(f"Dataset.split: fraction must be a number, not {fraction!r}") from None
        if not 0 <= fraction < 1:
            raise ValueError(f"Dataset.split: fraction must be at least 0 and less than 1, not {fraction}")
        rng = np.random.Generator(np.random.PCG64(whole_number("Dataset.split", "seed", seed, least=0)))
        held_out = np.zeros(len(self), bool)
        for k in range(self.num_classes):
            members = np.flatnonzero(self.labels == k)
            count = min(math.floor(len(members) * fraction + 0.5), len(members) - 1)
            if count > 0:
                held_out[rng.permutation(members)[:count]] = True
        return self.subset(~held_out), self.subset(held_out)

    def _checked_indices(self, indices: ArrayLike) -> np.ndarray:
        indices = np.asarray(indices)
        if indices.ndim != 1:
            raise ValueError(f"Dataset.subset: indices must be of shape (n,), not {indices.shape}")
        if indices.dtype == bool:
            if len(indices) != len(self):
                raise ValueError(
                    f"Dataset.subset: {len(indices)} booleans given as indices, "
                    f"but the data set has {len(self)} images"
                )
            return indices
        if len(indices) == 0:
            return indices.astype(np.int64)
        if indices.dtype.kind not in "iu":
            raise TypeError(f"Dataset.subset: indices must be integers or booleans, not {indices.dtype}")
        if indices.min() < 0 or indices.max() >= len(self):
            wrong = indices.min() if indices.min() < 0 else indices.max()
            raise ValueError(f"Dataset.subset: indices must be from 0 to {len(self) - 1}, but one is {wrong}")
        return indices


def _drawn(images: np.ndarray, names: list[str]) -> Figure:
    from cnn.plots import show_images  # here, because it is seldom needed
    return show_images(images, names)


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


def _array(argument: str, values: ArrayLike) -> np.ndarray:
    try:
        return np.asarray(values)
    except (TypeError, ValueError) as error:
        raise ValueError(f"Dataset: {argument} must be an array, all parts of the same shape ({error})") from None


def _first_not_finite(images: np.ndarray) -> int | None:
    """The number of the first image with a NaN or infinite pixel, or None; in pieces, to take little memory."""
    if images.dtype != np.float32:
        return None
    step = max(1, (1 << 20) // math.prod(images.shape[1:]))
    for start in range(0, len(images), step):
        finite = np.isfinite(images[start : start + step])
        if not finite.all():
            return start + int(np.argmin(finite.all(axis=(1, 2, 3))))
    return None


def _per_channel(argument: str, values: Iterable[float] | None, default: float, channels: int) -> tuple[float, ...]:
    """One finite float per channel, as a tuple."""
    if values is None:
        return (default,) * channels
    try:
        values = tuple(float(v) for v in values)
    except (TypeError, ValueError):
        raise TypeError(f"Dataset: {argument} must be one number per channel, not {values!r}") from None
    if len(values) != channels or not all(map(math.isfinite, values)):
        raise ValueError(
            f"Dataset: {argument} must be {channels} finite number(s), one per channel, not {values}"
        )
    return values
