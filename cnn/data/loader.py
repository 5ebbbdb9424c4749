"""A data set in batches, in an order that depends on nothing but a seed and the number of the epoch."""

from __future__ import annotations

import copy
import itertools
import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from cnn.ranks import place

from .ahead import read_ahead
from .batched import IterableDataset, as_dataset
from .dataset import Dataset
from .described import AnyDataset, whole_number
from .mixing import mixes_of
from .transforms import apply, draw, drawable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import TypeAlias

    from .transforms import Change

    Data: TypeAlias = "DataLoader | AnyDataset | Any"   # Any: what a DataLoader makes a data set from
    DrawnBatches = tuple[np.ndarray, tuple[Change, ...], list[np.ndarray]]    # see DataLoader.drawn_batches

# Each purpose draws from a stream of its own, so that adding a transform does not change the order.
_ORDER, _TRANSFORM, _MIX = 0, 1, 2

# Batches are transformed, or what happens to them is drawn, several at a time, about so many bytes: a call costs
# Python and a pool of threads that has gone to sleep up to 450 microseconds, where a step of LeNet-5 takes 550.
_TOGETHER = 2**22

_AHEAD = 2  # groups of batches that are read ahead: one while the other is waited for


class Group(NamedTuple):
    """Batches that are transformed together.

    chosen: the numbers of their images, int64 (n,). number: of the group in its epoch. first: where in these the
    first batch begins, because those before `start` are left out. images, labels: arrays that hold these images and
    their labels, at the places `where`, int64 (n,): all of a data set, or those alone.
    """

    chosen: np.ndarray
    number: int
    first: int
    images: Any
    labels: np.ndarray
    where: np.ndarray


class Drawn(NamedTuple):
    """Batches of the same size, and what is to be done to their images before these are normalised.

    chosen: the numbers of their images in the data set, int64 (batches, n). changes: tuple of
    cnn.data.transforms.Change. numbers: for each of them int64 (batches, n, k). images, labels, where: see Group.
    """

    chosen: np.ndarray
    changes: tuple[Change, ...]
    numbers: list[np.ndarray]
    images: Any
    labels: np.ndarray
    where: np.ndarray


class DataLoader:
    """Iterates over a data set in batches.

        >>> train, test = cnn.data.load("mnist-sample")
        >>> loader = cnn.data.DataLoader(train, batch_size=64, shuffle=True)
        >>> images, labels = next(iter(loader))
        >>> len(loader), images.shape, images.dtype, labels.shape
        (63, (64, 1, 28, 28), dtype('float32'), (64,))

    dataset: a Dataset, BatchedDataset or IterableDataset; or what to make one from: a tuple (images, labels), an
        object with `__len__` and `__getitem__`, an iterable of batches.
    batch_size: images per batch, at least 1. The last batch holds the remaining images.
    shuffle: whether to use a new order in every epoch, which depends on (seed, epoch) alone.
    seed: int >= 0.
    transform: None, or a function (images, rng) -> images, see cnn.data.transforms, that is called before the
        images are normalised, for as many whole batches at a time as make up four megabytes (at least one). It gets
        a copy, (n, C, H, W) of the data set's dtype, and a numpy Generator that depends on (seed, epoch,
        number of the call) only. It returns (n, C, any H, any W), uint8 or float32, in the unit it got them in.
    drop_last: whether to skip a last batch that is not full.
    window: None, or a number of images, at least 1. A shuffled order then goes through windows of so many neighbouring
        images, one after the other, in a random order of windows, and shuffled within each. For images that are slow
        to read one by one; a window should hold all classes.
    prefetch: how many groups of batches, of about four megabytes each, to read ahead in a thread; 0 for none. The
        batches are the same. Default: 2, but 0 for images in memory.
    mix: None; cnn.data.MixUp or cnn.data.CutMix; or a list of these, of which one is drawn for each batch. Images are
        mixed after they are normalised, and labels become targets (n, classes). What is drawn depends on (seed, epoch,
        number of the batch) only.

    Iterating yields (images float32 (n, C, H, W), normalised; labels int64 (n,), or with `mix` float32 (n, classes)).
    Attribute `epoch`: number of the next epoch, from 0. It grows by one when an iteration (or `batches()`) starts. Set
    it to continue where another run has stopped.
    Attribute `start`: number of batches of the next epoch to skip, for the same purpose; then 0 again.

    Raises TypeError or ValueError for wrong arguments, such as a transform that needs larger images.
    """

    def __init__(self, dataset: AnyDataset | tuple | Any, batch_size: int, shuffle: bool = False, seed: int = 0,
                 transform: Callable[..., np.ndarray] | None = None, drop_last: bool = False,
                 window: int | None = None, prefetch: int | None = None, mix: Any = None) -> None:
        if isinstance(dataset, tuple) and len(dataset) == 2 and not isinstance(dataset[0], AnyDataset):
            dataset = Dataset(*dataset)
        self.dataset = as_dataset("DataLoader", "dataset", dataset)
        for argument, value in (("shuffle", shuffle), ("drop_last", drop_last)):
            if not isinstance(value, (bool, np.bool_)):
                raise TypeError(f"DataLoader: {argument} must be True or False, not {value!r}")
        if transform is not None and not callable(transform):
            raise TypeError(f"DataLoader: transform must be a function or None, not {transform!r}")
        self.batch_size = whole_number("DataLoader", "batch_size", batch_size, least=1)
        self.shuffle = bool(shuffle)
        self.seed = whole_number("DataLoader", "seed", seed, least=0)
        self.transform = transform
        self.drop_last = bool(drop_last)
        self.window = None if window is None else whole_number("DataLoader", "window", window, least=1)
        self.prefetch = None if prefetch is None else whole_number("DataLoader", "prefetch", prefetch, least=0)
        if self.window is not None and not self.shuffle:
            raise ValueError(f"DataLoader: window must be None without shuffle=True, not {window}")
        if self.shuffle and not self.sized:
            raise ValueError("DataLoader: shuffle must be False for an iterable of batches, which has an order of its "
                             "own, not True")
        if transform is not None and self.drawable:  # so that one that doesn't fit the images is refused now
            none = np.empty(0, np.int64)
            draw(transform, (0, *self.dataset.image_shape), self.dataset.dtype, self._rng(_TRANSFORM), none, 0)
        self.mix = mixes_of(mix, 0 if mix is None else self.dataset.num_classes)
        self.accumulate = 1  # batches that an iteration yields as one
        self.epoch = self.start = 0

    def grouped(self, count: int) -> DataLoader:
        """The same batches, `count` of them at a time: a DataLoader that yields groups of count * batch_size images.

        `len`, `start` and what iterating yields are then of groups; the last may hold fewer batches. `drop_last` still
        leaves out no more than a batch of `batch_size` that is not full. Attribute `accumulate`: count. Raises
        TypeError or ValueError unless count is a whole number of at least 1.
        """
        other = copy.copy(self)
        other.accumulate = whole_number("DataLoader.grouped", "count", count, least=1)
        return other

    @property
    def _size(self) -> int:
        """Images in a group."""
        return self.batch_size * self.accumulate

    @property
    def _used(self) -> int:
        """Images in an epoch."""
        count = len(self._sized("length"))
        return count - count % self.batch_size if self.drop_last else count

    @property
    def epoch(self) -> int:
        """Number of the next epoch (int >= 0)."""
        return self._epoch

    @epoch.setter
    def epoch(self, number: int) -> None:
        self._epoch = whole_number("DataLoader", "epoch", number, least=0)

    @property
    def start(self) -> int:
        """Number of the first batch of the next epoch (int >= 0)."""
        return self._start

    @start.setter
    def start(self, number: int) -> None:
        self._start = whole_number("DataLoader", "start", number, least=0)

    @property
    def sized(self) -> bool:
        """Whether the number of images is known: not of an iterable of batches."""
        return not isinstance(self.dataset, IterableDataset)

    @property
    def images(self) -> int:
        """Number of images in the data set (int), 0 where it is not known."""
        return len(self._sized("length")) if self.sized else 0

    def __len__(self) -> int:
        """Batches in an epoch. Raises TypeError for an iterable of batches, of which nobody knows it."""
        return math.ceil(self._used / self._size)

    def __repr__(self) -> str:
        count = f"{len(self)} " if self.sized else ""
        return f"<DataLoader {count}batches of {self.batch_size} from {self.dataset!r}>"

    def _sized(self, what: str) -> Any:
        """The data set, if the number of its images is known."""
        if not self.sized:
            raise TypeError(f"DataLoader: an iterable of batches has no {what}")
        return self.dataset

    def indices(self, epoch: int) -> np.ndarray:
        """The order of an epoch: int64 (N,), a permutation of 0 ... N - 1 (just these if not shuffled).

        Raises TypeError for an iterable of batches, which has none, and for an epoch that is no whole number.
        """
        epoch, count = whole_number("DataLoader", "epoch", epoch, least=0), len(self._sized("indices"))
        order = np.arange(count, dtype=np.int64)
        if not self.shuffle:
            return order
        rng = self._rng(_ORDER, epoch)
        if self.window is None:
            return rng.permutation(count).astype(np.int64, copy=False)
        at = 0
        for window in rng.permutation(math.ceil(count / self.window)):
            numbers = np.arange(window * self.window, min((window + 1) * self.window, count))
            order[at : at + len(numbers)] = rng.permutation(numbers)
            at += len(numbers)
        return order

    def batches(self) -> Iterator[np.ndarray]:
        """Start the next epoch and yield, for each batch, the int64 (n,) indices of its images.

        For callers that gather and normalise the images themselves; `transform` is theirs to apply.
        """
        return self._cut(*self._next_epoch())

    @property
    def drawable(self) -> bool:
        """Whether there are `drawn_batches`: the transforms, if any, are those of cnn.data.transforms."""
        return self.transform is None or drawable(self.transform)

    def drawn_batches(self, together: Callable[[], int] = lambda: 1) -> Iterator[DrawnBatches]:
        """Start the next epoch and yield, for up to `together()` batches of the same size at a time, the int64
        (batches, n) indices of their images; what is to be done to these, a tuple of cnn.data.transforms.Change; and
        a list of the numbers, int64 (batches, n, k), for each of these."""
        return (drawn[:3] for drawn in self._draw(*self._next_epoch(), together))

    def ready_batches(self, together: Callable[[], int] = lambda: 1) -> Iterator[Drawn]:
        """As `drawn_batches`, whose argument `together` is, with the arrays in which images and labels are: Drawn."""
        return self._draw(*self._next_epoch(), together)

    def raw_batches(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Start the next epoch and yield (images (n, C, h, w), labels int64 (n,)), transformed but neither
        normalised nor mixed: uint8 or float32."""
        return self._load(*self._next_epoch())

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        mixed = self.mixer()
        return (mixed(self.dataset.normalise(images), labels) for images, labels in self.raw_batches())

    def mixer(self) -> Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
        """A function for the next epoch, to be called with the images, normalised, and labels of each of its batches,
        in order: it returns them mixed, if they are to be."""
        if not self.mix:
            return lambda images, labels: (images, labels)
        numbers, epoch = itertools.count(self.start), self.epoch

        def mixed(images: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            rng = self._rng(_MIX, epoch, next(numbers))
            chosen = self.mix[int(rng.integers(len(self.mix)))]
            return chosen(images, labels, rng)
        return mixed

    # The three methods above are no generators, so that the epoch is counted when an iteration starts, not
    # when its first batch is asked for.

    def _next_epoch(self) -> tuple[int, int]:
        start, self.start = self.start, 0
        self.epoch += 1
        return self.epoch - 1, start

    def _cut(self, epoch: int, start: int) -> Iterator[np.ndarray]:
        order = self.indices(epoch)
        for number in range(start, len(self)):
            yield order[number * self._size : min((number + 1) * self._size, self._used)]

    def _groups(self, epoch: int, start: int, apart: bool) -> Iterator[Group]:
        """The groups of batches of an epoch; apart: whether their images must be arrays of their own."""
        data, size = self.dataset, self._size
        together = max(1, _TOGETHER // (size * math.prod(data.image_shape) * data.dtype.itemsize or 1))  # batches
        prefetch = self.prefetch
        # where other ranks need the other images, the kernels read no more than their own
        direct = isinstance(data, Dataset) and isinstance(data.images, np.ndarray) and not apart
        if prefetch is None:
            prefetch = 0 if data.in_memory or (direct and place().size > 1) else _AHEAD
        if isinstance(data, IterableDataset):
            yield from self._passing(data, start, together, prefetch)
            return
        order = self.indices(epoch)

        def planned() -> Iterator[tuple[np.ndarray, int, int]]:
            for number in range(start // together * together, len(self), together):
                chosen = order[number * size : min((number + together) * size, self._used)]
                yield chosen, number // together, max(0, start - number) * size

        def read(plan: tuple[np.ndarray, int, int]) -> Group:
            images, labels = self._sized("indices").fetch(plan[0])
            return Group(*plan, images, labels, np.arange(len(plan[0])))

        if direct and not prefetch:
            dataset = self._sized("indices")
            for plan in planned():
                yield Group(*plan, dataset.images, dataset.labels, plan[0])
        else:
            yield from read_ahead(read, planned(), prefetch)

    def _passing(self, data: IterableDataset, start: int, together: int, prefetch: int) -> Iterator[Group]:
        """The groups of a pass over batches; images are numbered as they come."""
        at, size = 0, self._size
        for number, (images, labels) in enumerate(data.batches(together * size, prefetch)):
            count = len(images) - (len(images) % self.batch_size if self.drop_last else 0)
            first, chosen, where = max(0, start * size - at), np.arange(at, at + count), np.arange(count)
            at += len(images)
            if first < count:
                yield Group(chosen, number, first, images, labels, where)

    def _load(self, epoch: int, start: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for chosen, number, first, images, labels, where in self._groups(epoch, start, apart=True):
            images = images[: len(where)]
            if self.transform is not None:
                images = self._transformed(images, chosen, epoch, number)
            for at in range(first, len(chosen), self._size):
                part = slice(at, at + self._size)
                yield images[part], labels[part]

    def _draw(self, epoch: int, start: int, together: Callable[[], int]) -> Iterator[Drawn]:
        size = self._size
        for chosen, number, at, images, labels, where in self._groups(epoch, start, apart=False):
            drawn: list = []
            if self.transform is not None:
                shape, rng = (len(chosen), *images.shape[1:]), self._rng(_TRANSFORM, epoch, number)
                drawn = draw(self.transform, shape, images.dtype, rng, chosen, epoch)
            changes = tuple(change for change, _ in drawn)
            while at < len(chosen):
                batches = min(together(), (len(chosen) - at) // size) or 1      # or what is left over
                part = slice(at, at + batches * size)
                yield Drawn(chosen[part].reshape(batches, -1), changes,
                            [numbers[part].reshape(batches, -1, numbers.shape[1]) for _, numbers in drawn],
                            images, labels, where[part].reshape(batches, -1))
                at = part.stop

    def _transformed(self, images: np.ndarray, chosen: np.ndarray, epoch: int, number: int) -> np.ndarray:
        result = apply(self.transform, images, self._rng(_TRANSFORM, epoch, number), chosen, epoch)
        n, channels = images.shape[:2]
        if not isinstance(result, np.ndarray) or result.dtype not in (np.uint8, np.float32):
            raise TypeError(
                f"DataLoader: transform must return a uint8 or float32 array, not {_kind(result)}"
            )
        if result.ndim != 4 or result.shape[:2] != (n, channels) or 0 in result.shape[2:]:
            raise ValueError(
                f"DataLoader: transform must return images of shape ({n}, {channels}, h, w), "
                f"not {result.shape}"
            )
        return np.ascontiguousarray(result)

    def _rng(self, *purpose: int) -> np.random.Generator:
        return np.random.Generator(np.random.PCG64(np.random.SeedSequence(self.seed, spawn_key=purpose)))


def _kind(value: object) -> str:
    return f"{value.dtype} array" if isinstance(value, np.ndarray) else type(value).__name__
