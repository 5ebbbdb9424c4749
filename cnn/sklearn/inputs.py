"""What scikit-learn hands over as X, as images."""
from __future__ import annotations

import math
from typing import Any

import numpy as np

COLOURS = 1, 3, 4       # how many channels an axis has that is taken for theirs


def shape_of(owner: str, X: np.ndarray, wanted: Any) -> tuple[tuple[int, int, int], bool]:
    """The shape (C, H, W) of the images of X, and whether X has the channels last.

    X: (n, features), (n, H, W), (n, C, H, W) or (n, H, W, C). wanted: `image_shape`, or None: features are then a
    square if they can be, else one row of pixels. Raises TypeError or ValueError for another shape.
    """
    if X.ndim not in (2, 3, 4) or 0 in X.shape[1:]:
        raise ValueError(f"{owner}: X must have shape (n, features), (n, H, W), (n, C, H, W) or (n, H, W, C), got "
                         f"{X.shape}")
    if wanted is None:
        side = math.isqrt(X.shape[1])
        flat = (side, side) if side**2 == X.shape[1] else (1, X.shape[1])
        wanted = flat if X.ndim == 2 else X.shape[1:]
    else:
        try:
            sizes = tuple(map(int, wanted))
        except (TypeError, ValueError):
            raise TypeError(f"{owner}: image_shape must be (H, W), (C, H, W) or (H, W, C), got {wanted!r}") from None
        if len(sizes) not in (2, 3) or min(sizes) < 1:
            raise ValueError(f"{owner}: image_shape must be (H, W), (C, H, W) or (H, W, C), got {wanted!r}")
        wanted = sizes
    last = len(wanted) == 3 and wanted[2] in COLOURS and wanted[0] not in COLOURS
    channels, height, width = (1, *wanted) if len(wanted) == 2 else (wanted[2], *wanted[:2]) if last else wanted
    shape = int(channels), int(height), int(width)
    check_shape(owner, X, shape, last)
    return shape, last


def check_shape(owner: str, X: np.ndarray, shape: tuple[int, int, int], last: bool) -> None:
    """Raise ValueError unless X has images of this shape (C, H, W)."""
    as_given = (*shape[1:], shape[0]) if last else shape
    allowed = [as_given, (math.prod(shape),)] + [shape[1:]] * (shape[0] == 1)
    if tuple(X.shape[1:]) not in allowed:
        raise ValueError(f"{owner}: X must have shape {' or '.join(_text(sizes) for sizes in allowed)}, got {X.shape}")


def images_of(X: np.ndarray, shape: tuple[int, int, int], last: bool) -> np.ndarray:
    """X, checked, as images (n, C, H, W) of uint8, where it has these, else of float32."""
    given = X.reshape(len(X), *((*shape[1:], shape[0]) if last else shape))
    images = given.transpose(0, 3, 1, 2) if last else given
    with np.errstate(over="ignore"):        # infinity is refused, as all that is not finite
        return np.ascontiguousarray(images, np.uint8 if X.dtype == np.uint8 else np.float32)


def moments(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each channel, float64 (C,), of images (n, C, H, W); 1 where all are the same."""
    count, channels = images[:, 0].size, images.shape[1]
    means, squares = np.zeros((2, channels))
    for step in range(0, len(images), 256):
        means += images[step:step + 256].sum((0, 2, 3), dtype=np.float64)
    means /= count
    for step in range(0, len(images), 256):
        part = images[step:step + 256] - means[:, None, None]
        squares += np.square(part, out=part).sum((0, 2, 3))
    std = np.sqrt(squares / count)
    return means, np.where(std > 1e-6 * np.abs(means) + 1e-30, std, 1)


def _text(sizes: tuple[int, ...]) -> str:
    return f"(n, {', '.join(map(str, sizes))})"
