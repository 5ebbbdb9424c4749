"""What the pixels of a data set are like, seen in pieces: it may be larger than memory."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from cnn.runtime import get_num_threads

from .ahead import read_ahead
from .batched import IterableDataset, as_dataset
from .dataset import Dataset

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .ahead import Result
    from .described import AnyDataset

_PIXELS = 1 << 22  # that are looked at together
_THREADS = 4  # at most, because each takes 32 MB
_BUT_CHANNELS = (0, 2, 3)


def mean_std(dataset: AnyDataset | Any) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each channel: two arrays, float64 (C,).

        >>> images, labels = np.full((10, 1, 8, 8), 51, np.uint8), np.arange(10) % 2
        >>> images[:5] = 153
        >>> mean, std = cnn.data.mean_std(cnn.data.Dataset(images, labels))
        >>> mean.round(3), std.round(3)
        (array([0.4]), array([0.2]))
        >>> data = cnn.data.Dataset(images, labels, mean=mean, std=std)

    dataset: a Dataset, or what else a DataLoader takes but a pair of arrays. Its images are read twice, in pieces of
        four million pixels: the bits are the same wherever they are. A data set's own mean and std do not count.

    The unit is that of the arguments `mean` and `std` of a Dataset: pixel / 255 for uint8 images. The standard
    deviation is the square root of the mean square of pixel - mean (NumPy's std); 1 where all pixels are the same.
    Raises TypeError for what is no data set, ValueError for one without images.
    """
    data: Any = as_dataset("mean_std", "dataset", dataset)
    if isinstance(data, Dataset) and not len(data):
        raise ValueError("mean_std: dataset must hold at least one image, got none")
    white = 255.0 if data.dtype == np.uint8 else 1.0

    def first_look(images: np.ndarray) -> tuple[np.ndarray, int, np.ndarray, np.ndarray]:
        sums = np.divide(images, white, dtype=np.float64).sum(axis=_BUT_CHANNELS)
        return sums, images[:, 0].size, images.min(axis=_BUT_CHANNELS), images.max(axis=_BUT_CHANNELS)

    def second_look(images: np.ndarray) -> np.ndarray:
        values = np.divide(images, white, dtype=np.float64)
        values -= mean[:, None, None]
        return np.square(values, out=values).sum(axis=_BUT_CHANNELS)

    sums, counts, lowest, highest = zip(*_in_threads(first_look, data), strict=True)
    count = sum(counts)
    mean = np.sum(sums, axis=0) / count
    std = np.sqrt(np.sum(list(_in_threads(second_look, data)), axis=0) / count)
    constant = np.min(lowest, axis=0) == np.max(highest, axis=0)
    return mean, np.where(constant | (std == 0), 1, std)  # rounding may leave a std of 1e-17


def _in_threads(look: Callable[[np.ndarray], Result], data: Any) -> Iterator[Result]:
    """What `look` says of each piece of a data set. The pieces are read by the caller's thread."""
    threads = min(get_num_threads(), _THREADS)
    return read_ahead(look, _pieces(data), threads, threads=threads)


def constant_images(dataset: Dataset) -> list[int]:
    """Numbers of the images with one value only in each channel."""
    if math.prod(dataset.image_shape[1:]) == 1:
        return []
    found, at = [], 0
    for images in _pieces(dataset):
        same = (images == images[:, :, :1, :1]).all(axis=(1, 2, 3))
        found += (np.flatnonzero(same) + at).tolist()
        at += len(images)
    return found


def _pieces(data: Any) -> Iterator[np.ndarray]:
    """The images in pieces of about _PIXELS pixels, which depend on their number and shape alone."""
    step = max(1, _PIXELS // math.prod(data.image_shape))
    if isinstance(data, IterableDataset):
        yield from (images for images, _ in data.batches(step))
        return
    for start in range(0, len(data), step):
        if isinstance(data, Dataset):
            yield data.images[start : start + step]
        else:
            yield data.fetch(np.arange(start, min(start + step, len(data))))[0]
