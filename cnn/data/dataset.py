"""Images with their labels, held in memory or in a file that is mapped into it."""

from __future__ import annotations

import math
import operator
from typing import TYPE_CHECKING, Any

import numpy as np

from cnn.text import printable

from . import targets
from .described import AnyDataset, first_not_finite, image_dtype, whole_number
from .rows import Rows, mapped

if TYPE_CHECKING:
    from collections.abc import Iterable

    from matplotlib.figure import Figure
    from numpy.typing import ArrayLike

    Labels = ArrayLike | dict[str, ArrayLike]

_MOST_UNNAMED = 100_000  # classes to make up names for; a label beyond is a mistake


class Dataset(AnyDataset):
    """Images with their labels and the constants to normalise the images.

        >>> data = cnn.data.Dataset(np.zeros((10, 1, 28, 28), np.uint8), np.arange(10) % 2, ["cat", "dog"])
        >>> data
        <Dataset 10 images of 1x28x28 uint8, 2 classes>
        >>> rest, held_out = data.split(0.2, seed=0)            # of each class
        >>> len(rest), held_out.labels.tolist()
        (8, [0, 1])

    images: (N, C, H, W), or (N, H, W) for one channel. uint8 with values 0 to 255, or float32, finite, in a unit of
        your own. Kept as they are (no copy if they are C-contiguous). A numpy.memmap, as
        np.load(path, mmap_mode="r") returns it, is never copied: its images are read as they are needed.
    labels: (N,), any integer type, from 0 to number of classes - 1. Kept as int64. Images whose label is to be ignored
        are left out: accuracy, `split` and counts of classes are of all images. Or targets that are no classes of
        images: floats (N, ...), such as numbers or masks, and integers (N, H, W), the class of each pixel. Or a dict of
        arrays by name, for a model with several outputs or inputs; `labels` is then one array (N,) with these fields.
    classes: names of the classes, all different. Default "0", "1", ... up to the largest label.
    mean, std: one number per channel. In units of pixel / 255 for uint8 images, in the images' own unit for
        float32 ones. Default 0 and 1.
    name: what to call the data set in messages.

    Attributes: images (N, C, H, W), labels int64 (N,), or as given, classes (tuple of str), mean, std (tuples of
    float), name, and float32 arrays `scale` and `shift` of shape (C,) such that
    normalised = pixel * scale + shift.

    N may be 0. Raises TypeError or ValueError for wrong arguments.
    """

    def __init__(self, images: np.ndarray, labels: Labels, classes: Iterable[str] | None = None,
                 mean: Iterable[float] | None = None, std: Iterable[float] | None = None, name: str = "") -> None:
        self._set(_images(images), labels, classes, mean, std, name)

    def _set(self, images: np.ndarray | Rows, labels: Labels, classes: Iterable[str] | None,
             mean: Iterable[float] | None, std: Iterable[float] | None, name: str) -> None:
        """What the constructor does with images that have been checked."""
        labels = targets.array_of("Dataset", labels)
        if labels.shape[:1] != images.shape[:1] or labels.ndim > 4:
            raise ValueError(
                f"Dataset: labels must be of shape ({len(images)},), one per image, or ({len(images)}, ...) with at "
                f"most four axes, not {labels.shape}"
            )
        dense = not targets.are_classes(labels)
        if dense and classes:
            raise ValueError("Dataset: classes must not be given where labels are no numbers of classes, one per image")
        lowest, highest = (int(labels.min()), int(labels.max())) if len(labels) and not dense else (0, -1)
        if classes is None:
            if highest >= _MOST_UNNAMED:
                raise ValueError(f"Dataset: label {highest} is too large to do without classes=")
            classes = map(str, range(highest + 1))
        self._set_classes(classes)
        if lowest < 0 or highest >= len(self.classes):
            wrong = lowest if lowest < 0 else highest
            raise ValueError(
                f"Dataset: labels must be from 0 to {len(self.classes) - 1} "
                f"(there are {len(self.classes)} classes), but one is {wrong}{targets.left_out(wrong)}"
            )
        self._images = images
        self._labels = targets.native(labels)
        self._labels.flags.writeable = False  # they have been checked
        self.name = name
        self._set_constants(images.shape[1], mean, std, images.dtype)
        self.in_memory = not mapped(images)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> tuple[np.ndarray, Any]:
        """Image i, (C, H, W) as in `images`, and its label, an int or what there is in its place. i: int, negative
        from the end; `subset` takes several.

        Raises IndexError beyond the last image, TypeError for what is no integer.
        """
        try:
            i = operator.index(i)
        except TypeError:
            raise TypeError(f"Dataset: an index must be an integer, got {i!r}; subset takes several") from None
        if not -len(self) <= i < len(self):
            raise IndexError(f"Dataset: there are {len(self)} images, got index {i}")
        return self.images[i], int(self.labels[i]) if self.classes else self.labels[i]

    def fetch(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Images (n, C, H, W), a copy, and labels int64 (n,), of these indices: int64 (n,), from 0 to N - 1."""
        return self.images[indices], self.labels[indices]

    def show(self, count: int = 16) -> Figure:
        """The first images with the names of their classes, as a matplotlib figure, which a notebook shows.

        count: how many images, at most; from 1 to 400. `data.subset(indices).show()` shows others. Raises TypeError or
        ValueError for another count, ModuleNotFoundError where matplotlib is missing.
        """
        count = whole_number("Dataset.show", "count", count, 1, 400)
        return _drawn(self.images[:count], [self.classes[k] if self.classes else "" for k in self.labels[:count]])

    def __repr__(self) -> str:
        sizes = "x".join(map(str, self.images.shape[1:]))
        name = f"{printable(self.name)}: " if self.name else ""
        dense = not self.classes and len(self) > 0
        labels = f"targets {targets.described(self.labels)}" if dense else f"{self.num_classes} classes"
        return f"<Dataset {name}{len(self)} images of {sizes} {self.images.dtype}, {labels}>"

    @property
    def images(self) -> Any:
        """The images, (N, C, H, W), uint8 or float32.

        An array. Only where some have been chosen out of a file that is mapped into memory (`subset`, `split`), or lie
        there in another order than (N, C, H, W), it is an object with `shape`, `dtype` and the same indices, which
        reads what is asked for; `np.asarray` reads all.
        """
        return self._images

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """The shape of an image, (C, H, W)."""
        return self._images.shape[1:]

    @property
    def dtype(self) -> np.dtype:
        """The dtype of the images, uint8 or float32."""
        return self._images.dtype

    @property
    def example_labels(self) -> np.ndarray:
        """Labels of no image, (0, ...), of the dtype and shape of this data set's."""
        return self._labels[:0]

    @property
    def labels(self) -> np.ndarray:
        """The labels, int64 (N,), or targets (N, ...) as they were given; read-only. Of several by name, an array (N,)
        with a field for each: `labels["name"]`."""
        return self._labels

    def subset(self, indices: slice | ArrayLike) -> Dataset:
        """A data set of some of the images, in the order given; classes, mean, std and name stay.

        indices: a slice, integers from 0 to N - 1 (repeats allowed), or N booleans.
        A slice of step 1 shares this data set's memory, everything else is a copy; images in a file that is mapped
        into memory stay there, whatever the indices.
        Raises TypeError or ValueError if the indices are anything else.
        """
        if not isinstance(indices, slice):
            indices = self._checked_indices(indices)
        if isinstance(self.images, Rows):
            images = self.images.subset(indices)
        elif self.in_memory or (isinstance(indices, slice) and indices.step in (None, 1)):
            images = np.ascontiguousarray(self.images[indices])
        else:
            images = Rows(self.images, np.arange(len(self))[indices])
        return altered(self, images=images, labels=self.labels[indices])

    def with_mean_std(self, mean: Iterable[float], std: Iterable[float]) -> Dataset:
        """The same images and labels, normalised with other constants: those that a trained network learnt with.

        mean, std: one number per channel, as the constructor takes them. Returns a data set that shares the images.
        Raises TypeError or ValueError where they do not fit.
        """
        return altered(self, mean=mean, std=std)

    def split(self, fraction: float, seed: int = 0) -> tuple[Dataset, Dataset]:
        """Split at random into (rest, held_out), every class, where there are classes, in the same proportion.

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
        alike = [np.flatnonzero(self.labels == k) for k in range(self.num_classes)] or [np.arange(len(self))]
        for members in alike:
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


def altered(dataset: Dataset, **others: Any) -> Dataset:
    """A Dataset like this one but for some of what its constructor takes; images are not checked again.

    others: by the constructor's names; images must be some of `dataset`'s, C-contiguous or Rows.
    """
    result = Dataset.__new__(Dataset)
    names = ("images", "labels", "classes", "mean", "std", "name")
    result._set(*(others[name] if name in others else getattr(dataset, name) for name in names))
    return result


def _images(images: ArrayLike | Rows) -> np.ndarray | Rows:
    """Images as a Dataset keeps them, if they will do."""
    images = images if isinstance(images, Rows) else targets.as_array("Dataset", "images", images)
    image_dtype("Dataset", images.dtype)
    if images.ndim == 3:
        images = images[:, None]
    if images.ndim != 4 or 0 in images.shape[1:]:
        raise ValueError(
            f"Dataset: images must be of shape (N, C, H, W) or (N, H, W), not {images.shape}"
        )
    if (wrong := first_not_finite(images)) is not None:
        raise ValueError(f"Dataset: images must be finite, but image {wrong} has NaN or infinite pixels")
    if isinstance(images, Rows):
        return images
    if mapped(images) and not images.flags.c_contiguous:  # a copy may not fit into memory
        return Rows(images, np.arange(len(images)))
    return np.ascontiguousarray(images)
