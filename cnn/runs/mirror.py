"""Whether images still show their class when they are mirrored: faces do, letters do not."""
from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from cnn.data import Dataset

_MOST = 2000            # images that are looked at
_CELLS, _ANGLES = 4, 8  # of the histograms of gradients
_RIDGE = 0.1            # penalty on the weights, times the number of images


class Symmetry(NamedTuple):
    """What a simple classifier makes of images and of their mirror images.

    plain, mirrored: shares of both, floats from 0 to 1, that it classifies rightly. harmless: whether mirrored images
    may be trained on. words: why, for people.
    """

    plain: float
    mirrored: float
    harmless: bool
    words: str


def symmetry(dataset: Dataset, seed: int = 0) -> Symmetry:
    """Fit a linear classifier to half of the images, and compare it on the others and on their mirror images.

    dataset: with images (N, C, H, W); 2,000 of them, drawn by the seed, are enough. Mirrored ones are harmless if the
    classifier is better than guessing, and recognises them as well, each class and all together, up to what chance
    may do. Where it only guesses there is nothing to tell, and they are not.

    The features are histograms of gradients (Dalal and Triggs 2005) and the pixels, averaged to 8x8; the weights are
    those of ridge regression onto the classes.
    """
    rng = np.random.default_rng(seed)
    some = rng.permutation(len(dataset))[:_MOST]
    images, labels = dataset.normalise(dataset.images[some]), dataset.labels[some]
    half = len(some) // 2
    if half < 10:
        return Symmetry(0.0, 0.0, False, "too few images to tell whether mirrored ones do harm")
    plain, mirrored = _features(images), _features(images[half:, :, :, ::-1])
    mean, std = plain[:half].mean(axis=0), plain[:half].std(axis=0) + 1e-6
    fit = (plain[:half] - mean) / std
    counts = np.bincount(labels[:half], minlength=dataset.num_classes)
    onto = np.eye(dataset.num_classes)[labels[:half]] - counts / half
    gram = np.einsum("ni,nj->ij", fit, fit) + _RIDGE * half * np.eye(fit.shape[1])
    weights = np.linalg.solve(gram, np.einsum("ni,nk->ik", fit, onto))
    truth = labels[half:]
    right, still = (
        np.einsum("ni,ik->nk", (x - mean) / std, weights).argmax(axis=1) == truth for x in (plain[half:], mirrored))
    a, b, guess = right.mean(), still.mean(), counts.max() / half
    if a < guess + 3 * np.sqrt(guess * (1 - guess) / len(truth)):
        return Symmetry(a, b, False, "too hard to tell whether mirrored images do harm")
    lost = [k for k in np.unique(truth)
            if right[truth == k].mean() - still[truth == k].mean() > max(0.25, 1.5 / np.sqrt((truth == k).sum()))]
    harmless = not lost and a - b <= 2 * np.sqrt(a * (1 - a) / len(truth))
    return Symmetry(a, b, bool(harmless), f"a linear classifier finds {a:.0%} of images and {b:.0%} of mirrored ones")


def _features(images: np.ndarray) -> np.ndarray:
    """Histograms of gradients and coarse pixels of images (N, C, H, W): float64 (N, D)."""
    grey = images.mean(axis=1, dtype=np.float64)
    down, right = np.gradient(grey, axis=(1, 2)) if min(grey.shape[1:]) > 1 else (np.zeros_like(grey),) * 2
    strength = np.hypot(down, right)
    bins = np.floor(np.arctan2(down, right) % np.pi / np.pi * _ANGLES).astype(int) % _ANGLES
    angles = np.stack([_pooled(np.where(bins == k, strength, 0), _CELLS) for k in range(_ANGLES)], axis=1)
    pixels = _pooled(images.astype(np.float64).reshape(-1, *images.shape[2:]), 2 * _CELLS)
    angles = angles.reshape(len(images), -1)
    return np.concatenate([angles, pixels.reshape(len(images), -1)], axis=1)


def _pooled(maps: np.ndarray, cells: int) -> np.ndarray:
    """Means of maps (M, H, W) over at most cells x cells parts: (M, rows, columns)."""
    for axis in (1, 2):
        side = maps.shape[axis]
        starts = np.unique(np.arange(cells) * side // cells)
        maps = np.add.reduceat(maps, starts, axis=axis) / np.diff([*starts, side]).reshape((-1, 1) if axis == 1 else -1)
    return maps
