"""Data sets that are read batch by batch, from whatever gives batches: databases, archives, other libraries."""

from __future__ import annotations

from contextlib import suppress
from itertools import repeat
from typing import TYPE_CHECKING, Any

import numpy as np

from . import targets
from .ahead import read_ahead
from .described import AnyDataset, first_not_finite, image_dtype, whole_number

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_END: Any = object()


class _Read(AnyDataset):
    """What data sets have in common whose images are not known before they are read."""

    _what: str  # gives a batch, in errors

    def _describe(self, first: Any, classes: Iterable[str] | int | None, mean: Iterable[float] | None,
                  std: Iterable[float] | None, name: str, indices: np.ndarray | None = None) -> None:
        """Take shape and dtype of all images from those of a first batch, of these numbers, if given, and the rest
        from the arguments."""
        self._shape: tuple[int, int, int] | None = None
        self._form: tuple[tuple[int, ...], np.dtype] | None = None     # of the labels
        self._dtype = np.dtype(np.uint8)
        names: Any = () if classes is None else classes
        if not hasattr(names, "__iter__"):
            names = map(str, range(whole_number(self._owner, "classes", names, least=1)))
        self._set_classes(names)
        images, labels = self._checked(first, indices)
        self._shape, self._dtype = images.shape[1:], images.dtype
        self._form = labels.shape[1:], labels.dtype
        self.name = name
        self._set_constants(images.shape[1], mean, std, images.dtype)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """The shape of an image, (C, H, W)."""
        assert self._shape is not None
        return self._shape

    @property
    def dtype(self) -> np.dtype:
        """The dtype of the images, uint8 or float32."""
        return self._dtype

    @property
    def example_labels(self) -> np.ndarray:
        """Labels of no image, (0, ...), of the dtype and shape of this data set's."""
        shape, dtype = self._form or ((), np.dtype(np.int64))
        return np.empty((0, *shape), dtype)

    def _checked(self, batch: Any, indices: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """A batch that a source has given, as (images (n, C, H, W), labels int64 (n,)); of these numbers, if given.

        Raises TypeError or ValueError where it is anything else.
        """
        where = f"{self._owner}: {self._what}"
        if not isinstance(batch, (tuple, list)) or len(batch) != 2:
            held = f"{type(batch).__name__} of {len(batch)}" if isinstance(batch, (tuple, list)) else type(
                batch).__name__
            raise TypeError(f"{where} must give a pair (images, labels), got a {held}")
        images, labels = batch
        if not isinstance(images, np.ndarray):
            hint = "; use images.numpy()" if hasattr(images, "numpy") else ""
            raise TypeError(f"{where} must give images as a NumPy array, got {type(images).__name__}{hint}")
        image_dtype(where, images.dtype)
        images = images[:, None] if images.ndim == 3 else images
        if images.ndim != 4 or 0 in images.shape[1:]:
            raise ValueError(f"{where} must give images of shape (n, C, H, W) or (n, H, W), got {images.shape}")
        if indices is not None and len(indices) != len(images):
            raise ValueError(f"{where} must give {len(indices)} images for {len(indices)} indices, got {len(images)}")
        if self._shape not in (None, images.shape[1:]) or (self._shape and self._dtype != images.dtype):
            raise ValueError(f"{where} must give images of {self._shape} {self._dtype}, as at first, got "
                             f"{images.shape[1:]} {images.dtype}")
        if (wrong := first_not_finite(images)) is not None:
            which = f"number {wrong} of a batch" if indices is None else f"image {indices[wrong]}"
            raise ValueError(f"{where} must give finite images, but {which} has NaN or infinite pixels")
        return np.ascontiguousarray(images), self._checked_labels(where, labels, len(images))

    def _checked_labels(self, where: str, labels: Any, count: int) -> np.ndarray:
        labels = targets.array_of(where, labels)
        form = labels.shape[1:], labels.dtype if labels.dtype.kind in "fV" else np.dtype(np.int64)
        if count == labels.size == 0 and self._form is not None:
            return np.empty((0, *self._form[0]), self._form[1])
        if labels.shape[:1] != (count,) or labels.ndim > 4:
            raise ValueError(f"{where} must give labels of shape ({count},), one per image, or ({count}, ...) with at "
                             f"most four axes, got {labels.shape}")
        if self._form not in (None, form):
            shape = ", ".join(map(str, ("n", *self._form[0])))
            raise ValueError(f"{where} must give labels of {self._form[1]} ({shape}{',' * (len(shape) < 2)}), as at "
                             f"first, got {labels.dtype} {labels.shape}")
        if not targets.are_classes(labels):
            if self.classes:
                raise ValueError(f"{where} must give numbers of classes, one per image, where classes are given, got "
                                 f"{targets.described(labels)}")
        elif count and (labels.min() < 0 or (self.classes and labels.max() >= self.num_classes)):
            wrong = int(labels.min() if labels.min() < 0 else labels.max())
            most = f"from 0 to {self.num_classes - 1}" if self.classes else "of at least 0"
            raise ValueError(f"{where} must give labels {most}, got {wrong}{targets.left_out(wrong)}")
        return targets.native(labels)


class BatchedDataset(_Read):
    """A data set of any number of images, of which some are read at a time by their numbers.

        >>> class Squares:                              # image i is black but for its first i pixels
        ...     def __len__(self):
        ...         return 64
        ...     def __getitem__(self, indices):         # int64 (n,): all of them at once
        ...         images = np.arange(64) < indices[:, None]
        ...         return (255 * images).astype(np.uint8).reshape(-1, 1, 8, 8), indices % 2
        >>> data = cnn.data.BatchedDataset(Squares(), classes=["even", "odd"])
        >>> data
        <BatchedDataset 64 images of 1x8x8 uint8, 2 classes>
        >>> images, labels = data.fetch(np.array([5, 3]))
        >>> images.shape, labels.tolist()
        ((2, 1, 8, 8), [1, 1])

    source: an object with `len(source)`, the number of images N, and `source[indices]`, where indices is int64 (n,),
        from 0 to N - 1 in any order, which returns (images, labels): images (n, C, H, W) or (n, H, W), uint8 or
        finite float32, all of one shape and dtype; labels integers (n,), or targets as a Dataset takes them. The same
        indices must always give the same. A DataLoader asks for a batch's images at once or, where images are small,
        for those of several batches, about four megabytes. It calls it in a thread of its own, one call at a time;
        `DataLoader(..., prefetch=0)` in the caller's.
    classes: names of the classes, all different, or how many there are. Default: unknown; the model's outputs then
        limit the labels.
    mean, std: one number per channel, as of a Dataset. `mean_std` computes them. Default 0 and 1.
    name: what to call the data set in messages.

    Attributes: as of AnyDataset; `source`.

    The first image is read at once; every batch is checked when it is read. Raises TypeError or ValueError for a
    source that is, or gives, anything else; RuntimeError, from the error itself, where `source[indices]` raises.
    """

    _what = "source[indices]"

    def __init__(self, source: Any, classes: Iterable[str] | int | None = None, mean: Iterable[float] | None = None,
                 std: Iterable[float] | None = None, name: str = "") -> None:
        if isinstance(source, type) or not (hasattr(source, "__len__") and hasattr(source, "__getitem__")):
            raise TypeError(f"BatchedDataset: source must have __len__ and __getitem__, got {_kind(source)}")
        self.source, self._count = source, len(source)
        if not self._count:
            raise ValueError(f"BatchedDataset: source must hold at least one image, got {_kind(source)} of length 0")
        first = np.zeros(1, np.int64)
        self._describe(self._taken(first), classes, mean, std, name, first)

    def __len__(self) -> int:
        return self._count

    def __repr__(self) -> str:
        return f"<BatchedDataset {_said(self, f'{self._count} ')}>"

    def fetch(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Images (n, C, H, W) and labels int64 (n,) of these indices: int64 (n,), from 0 to N - 1.

        Raises TypeError or ValueError where the source gives anything else, RuntimeError where it raises.
        """
        return self._checked(self._taken(indices), indices)

    def _taken(self, indices: np.ndarray) -> Any:
        try:
            return self.source[indices]
        except Exception as error:
            first = ", ".join(map(str, indices[:5])) + (", ..." if len(indices) > 5 else "")
            raise RuntimeError(f"BatchedDataset: source[indices] raised {type(error).__name__} for the {len(indices)} "
                               f"indices {first}: {error}") from error


class IterableDataset(_Read):
    """A data set that is a pass over batches, of a number that nobody knows.

        >>> def batches():
        ...     for start in range(0, 64, 16):
        ...         labels = np.arange(start, start + 16) % 2
        ...         yield np.full((16, 1, 8, 8), 255, np.uint8) * labels[:, None, None, None].astype(np.uint8), labels
        >>> data = cnn.data.IterableDataset(batches, classes=2)
        >>> [len(labels) for images, labels in data.batches(24)]
        [24, 24, 16]

    source: an object whose `iter` yields pairs (images, labels), or a function without arguments that returns such an
        iterator. Each pass begins anew. Images and labels are as those of a BatchedDataset; a batch may hold any
        number of images, because a DataLoader cuts them anew.
    classes, mean, std, name: as of a BatchedDataset.

    Attributes: as of AnyDataset; `source`.

    An epoch is one pass, in the order of the source: it is not shuffled. Training that is resumed within an epoch skips
    as many batches as were done, so that it has the same bits only if the source gives the same batches again.
    The first batch is read at once; every batch is checked when it is read. Raises TypeError or ValueError for a source
    that is, or gives, anything else, such as a generator, of which there is one pass only; RuntimeError, from the error
    itself, where it raises.
    """

    _what = "source"

    def __init__(self, source: Any, classes: Iterable[str] | int | None = None, mean: Iterable[float] | None = None,
                 std: Iterable[float] | None = None, name: str = "") -> None:
        self.source = source
        iterator = self._begun()
        try:
            first = self._next(iterator)
        finally:
            _close(iterator)
        if first is _END:
            raise ValueError("IterableDataset: source must give at least one batch, got none")
        self._describe(first, classes, mean, std, name)

    def __repr__(self) -> str:
        return f"<IterableDataset {_said(self, '')}>"

    def batches(self, size: int, ahead: int = 0) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """A pass over all images, in batches of `size` but for the last: (images (n, C, H, W), labels int64 (n,)).

        ahead: how many batches of the source to read in a thread before they are needed. Raises what the class does,
        and ValueError where the source gives no image.
        """
        size = whole_number("IterableDataset.batches", "size", size, least=1)
        iterator, held, count, none = self._begun(), [], 0, True
        try:
            for batch in read_ahead(self._next, repeat(iterator), ahead, again=False):
                if batch is _END:
                    break
                held.append(self._checked(batch))
                count += len(held[-1][0])
                if count < size:
                    continue
                images, labels = _joined(held)
                for start in range(0, count - size + 1, size):
                    none = False
                    yield images[start : start + size], labels[start : start + size]
                held = [(images[count - count % size :], labels[count - count % size :])]
                count %= size
        finally:
            _close(iterator)
        if count:
            yield _joined(held)
        elif none:
            raise ValueError("IterableDataset: source must give at least one image in every pass, got none")

    def _begun(self) -> Any:
        source = self.source
        is_function = callable(source) and not hasattr(source, "__iter__")
        try:
            iterator = iter(source() if is_function else source)
        except TypeError as error:
            raise TypeError("IterableDataset: source must be an iterable of (images, labels), or a function that "
                            f"returns one, got {_kind(source)} ({error})") from None
        if iterator is source:
            raise TypeError(f"IterableDataset: source must begin anew in each epoch, got {_kind(source)}, of which "
                            "there is one pass; give the function that makes it")
        return iterator

    def _next(self, iterator: Iterator) -> Any:
        try:
            return next(iterator, _END)
        except Exception as error:
            raise RuntimeError(f"IterableDataset: source raised {type(error).__name__}: {error}") from error


def as_dataset(owner: str, name: str, value: Any) -> AnyDataset:
    """The data set itself, or one of an object that can be read as one.

    Raises TypeError naming the argument for anything else, and what BatchedDataset and IterableDataset raise.
    """
    if isinstance(value, AnyDataset):
        return value
    if not isinstance(value, (str, bytes, dict, np.ndarray, type, tuple)):
        try:
            if hasattr(value, "__len__") and hasattr(value, "__getitem__") and not isinstance(value, list):
                return BatchedDataset(value)
            if hasattr(value, "__iter__"):
                return IterableDataset(value)
        except (TypeError, ValueError, RuntimeError) as error:
            raise type(error)(f"{owner}: {name} can't be read as a data set; {error}") from error
    raise TypeError(f"{owner}: {name} must be a Dataset, an object with __len__ and __getitem__, or an iterable of "
                    f"batches (images, labels), got {_kind(value)}")


def _said(dataset: _Read, count: str) -> str:
    sizes = "x".join(map(str, dataset.image_shape))
    labels = f"{dataset.num_classes or 'any number of'} classes"
    if not targets.are_classes(dataset.example_labels):
        labels = f"targets {targets.described(dataset.example_labels)}".replace("(0", "(n")
    return f"{count}images of {sizes} {dataset.dtype}, {labels}"


def _kind(value: object) -> str:
    return f"the class {value.__name__}" if isinstance(value, type) else type(value).__name__


def _joined(batches: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    if len(batches) == 1:
        return batches[0]
    return np.concatenate([images for images, _ in batches]), np.concatenate([labels for _, labels in batches])


def _close(iterator: Any) -> None:
    """End a generator where it is, so that it closes its files."""
    if hasattr(iterator, "close"):
        with suppress(ValueError):  # in the child of a fork, where it stands still for ever
            iterator.close()
