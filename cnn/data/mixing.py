"""MixUp and CutMix: training images and their targets, mixed with those of another image of the batch.

Names, arguments and formulas are those of torchvision.transforms.v2, for `DataLoader(mix=...)`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from .described import whole_number

if TYPE_CHECKING:
    from typing import Any


class _Mix:
    """Mixes each image of a batch with the one before it, the first with the last, and their targets likewise.

    Called as mix(images, labels, rng) with images (n, C, H, W), float32 or float64, labels int64 (n,) and a numpy
    Generator; returns new images, and targets (n, num_classes) of the images' dtype, whose rows sum to 1. Raises
    TypeError or ValueError for what does not fit.
    """

    def __init__(self, alpha: float = 1.0, num_classes: int | None = None) -> None:
        owner = type(self).__name__
        if isinstance(alpha, bool) or not isinstance(alpha, (int, float, np.integer, np.floating)):
            raise TypeError(f"{owner}: alpha must be a number, not {alpha!r}")
        if not 0 < alpha < math.inf:
            raise ValueError(f"{owner}: alpha must be a finite number above 0, not {alpha!r}")
        self.alpha = float(alpha)
        self.num_classes = None if num_classes is None else whole_number(owner, "num_classes", num_classes, least=1)

    def __call__(self, images: np.ndarray, labels: np.ndarray, rng: np.random.Generator
                 ) -> tuple[np.ndarray, np.ndarray]:
        owner = type(self).__name__
        if not isinstance(images, np.ndarray) or images.ndim != 4 or images.dtype.kind != "f":
            raise TypeError(f"{owner}: images must be floats (n, C, H, W), got {getattr(images, 'dtype', images)}")
        if self.num_classes is None:
            raise ValueError(f"{owner}: num_classes must be given, got None")
        labels = np.asarray(labels)
        if labels.dtype.kind not in "iu" or labels.shape != images.shape[:1]:
            raise TypeError(f"{owner}: labels must be classes, integers ({len(images)},), got {labels.dtype} "
                            f"{labels.shape}")
        if len(labels) and not 0 <= labels.min() <= labels.max() < self.num_classes:
            raise ValueError(f"{owner}: labels must lie in [0, {self.num_classes}), got {labels.min()} to "
                             f"{labels.max()}")
        mixed, share = self._mixed(images, float(rng.beta(self.alpha, self.alpha)), rng)
        targets = np.zeros((len(labels), self.num_classes), images.dtype)
        each = np.arange(len(labels))
        targets[each, labels] += images.dtype.type(share)
        targets[each, np.roll(labels, 1)] += images.dtype.type(1 - share)
        return mixed, targets

    def _mixed(self, images: np.ndarray, share: float, rng: np.random.Generator) -> tuple[np.ndarray, float]:
        """The mixtures, and the share of each image in its own."""
        raise NotImplementedError


class MixUp(_Mix):
    """Weighted means of two images: lambda x_i + (1 - lambda) x_(i-1), and their targets likewise. Zhang et al. 2018.

    alpha: above 0; lambda is drawn from Beta(alpha, alpha), once for a batch. num_classes: length of the targets;
    default: the classes of the DataLoader's data set. Each image of a batch is mixed with the one before it, the first
    with the last. For `DataLoader(mix=...)`. Raises TypeError or ValueError for arguments that do not fit.
    """

    def _mixed(self, images: np.ndarray, share: float, rng: np.random.Generator) -> tuple[np.ndarray, float]:
        real = images.dtype.type
        mixed, others = images * real(share), images * real(1 - share)
        mixed[1:] += others[:-1]
        mixed[:1] += others[-1:]
        return mixed, share


class CutMix(_Mix):
    """A rectangle of each image comes from the one before it in the batch, of the first from the last. Yun et al. 2019.

    alpha: above 0; lambda is drawn from Beta(alpha, alpha), once for a batch. The rectangle's centre is any pixel, its
    sides are sqrt(1 - lambda) of the image's, cut off at the edge; the share of an image in its target is that of its
    pixels that are left. num_classes: length of the targets; default: the classes of the DataLoader's data set. For
    `DataLoader(mix=...)`. Raises TypeError or ValueError for arguments that do not fit.
    """

    def _mixed(self, images: np.ndarray, share: float, rng: np.random.Generator) -> tuple[np.ndarray, float]:
        height, width = images.shape[2:]
        x, y = int(rng.integers(width)), int(rng.integers(height))
        half = 0.5 * math.sqrt(1 - share)
        across, down = int(half * width), int(half * height)
        rows, columns = slice(max(y - down, 0), y + down), slice(max(x - across, 0), x + across)
        mixed, cut_out = images.copy(), images[:, :, rows, columns]
        mixed[1:, :, rows, columns] = cut_out[:-1]
        mixed[:1, :, rows, columns] = cut_out[-1:]
        cut = mixed[0, 0, rows, columns].size if len(images) else 0
        return mixed, 1 - cut / (width * height)


def mixes_of(mix: Any, num_classes: int) -> tuple[_Mix, ...]:
    """What a DataLoader draws from for each batch, with the number of classes; () for None.

    Raises TypeError or ValueError for anything else than a MixUp, a CutMix or several of them, and for a data set
    without classes.
    """
    mixes = () if mix is None else mix if isinstance(mix, (list, tuple)) else (mix,)
    if not all(isinstance(each, _Mix) for each in mixes) or (mix is not None and not mixes):
        raise TypeError(f"DataLoader: mix must be a MixUp, a CutMix, a list of them or None, not {mix!r}")
    if mixes and not num_classes:
        raise ValueError("DataLoader: mix must be None for targets that are no classes: give the data set classes=, "
                         "or mix images yourself")
    result = []
    for each in mixes:
        if each.num_classes is not None and each.num_classes < num_classes:
            raise ValueError(f"{type(each).__name__}: num_classes must be at least the {num_classes} of the data set, "
                             f"not {each.num_classes}")
        result.append(type(each)(each.alpha, each.num_classes or num_classes))
    return tuple(result)
