"""Some of the images of an array, in any order, read only when they are asked for."""

from __future__ import annotations

import mmap
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import DTypeLike


class Rows:
    """Images of an array that may be larger than memory, by their numbers: what `images[numbers]` holds, unread.

        >>> images = np.arange(6, dtype=np.uint8).reshape(6, 1, 1, 1)
        >>> some = Rows(images, np.array([5, 0, 3]))
        >>> some.shape, some[:2].ravel().tolist()
        ((3, 1, 1, 1), [5, 0])

    images: (N, C, H, W), usually of a numpy.memmap. numbers: int64 (n,), from 0 to N - 1.

    It is indexed as an array, but reads all of the images that the first index chooses, an integer, a slice, integers
    or booleans: a new C-contiguous array. `np.asarray` reads all.
    """

    ndim = 4

    def __init__(self, images: np.ndarray, numbers: np.ndarray) -> None:
        self.base, self.numbers = images, numbers
        self.shape, self.dtype = (len(numbers), *images.shape[1:]), images.dtype

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, which: Any) -> np.ndarray:
        if isinstance(which, tuple):
            first, *rest = which or (...,)
            if first is Ellipsis:
                return self[:][which]
            if np.ndim(first) and any(np.ndim(index) for index in rest):
                raise TypeError("Rows: only the first index may be an array; take self[first], then index that")
            return self[first][tuple(rest) if np.ndim(first) == 0 and not isinstance(first, slice)
                               else (slice(None), *rest)]  # fmt: skip
        if isinstance(which, np.ndarray) and which.dtype == bool and which.ndim != 1:
            raise TypeError(f"Rows: a mask must have one axis, got {which.ndim}; take np.asarray, then index that")
        return np.ascontiguousarray(self.base[self.numbers[which]])

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> np.ndarray:
        if copy is False:
            raise ValueError("Rows: the images are not one array in memory, so that they can't be had without a copy")
        return self[:].astype(dtype or self.dtype, copy=False)

    def __repr__(self) -> str:
        return f"<Rows {'x'.join(map(str, self.shape))} {self.dtype}, read when asked for>"

    def subset(self, which: slice | np.ndarray) -> Rows:
        """Some of these images, by a slice, integers or booleans, unread."""
        return Rows(self.base, self.numbers[which])


def mapped(images: np.ndarray | Rows) -> bool:
    """Whether images lie in a file that is mapped into memory, as numpy.memmap does it."""
    held: Any = images.base if isinstance(images, Rows) else images
    while held is not None:
        if isinstance(held, (np.memmap, mmap.mmap)):
            return True
        held = held.obj if isinstance(held, memoryview) else getattr(held, "base", None)
    return False
