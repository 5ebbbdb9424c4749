"""Maps of what decides in an image, over the image."""
from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cnn.plots import style
from cnn.plots.images import visible
from cnn.plots.style import styled

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.figure import Figure
    from numpy.typing import ArrayLike

_OPACITY = 0.55     # of a map over an image


@styled
def overlay(image: np.ndarray, heat: ArrayLike) -> np.ndarray:
    """A map over an image in grey, as an image: uint8 (3, H, W).

    image: uint8 or float (C, H, W). heat: (H, W), from 0, violet, to 1, yellow (viridis). Raises ValueError for other
    shapes.
    """
    heat = np.asarray(heat, np.float32)
    if image.ndim != 3 or heat.shape != image.shape[1:]:
        raise ValueError(f"overlay: heat must have shape {image.shape[1:]}, as the image {image.shape}, got "
                         f"{heat.shape}")
    from matplotlib import colormaps
    shown = visible(image)
    grey = shown @ (0.299, 0.587, 0.114) if shown.ndim == 3 else shown     # luma of ITU-R BT.601
    colours = colormaps["viridis"](np.clip(np.nan_to_num(heat), 0, 1))[..., :3]
    mixed = (1 - _OPACITY) * grey[..., None] + _OPACITY * colours
    return np.round(255 * mixed).astype(np.uint8).transpose(2, 0, 1)


@styled
def heat_maps(images: ArrayLike, maps: np.ndarray | Sequence[tuple[str, np.ndarray]], titles: Sequence[str],
              title: str = "") -> Figure:
    """Images, each with maps of what decides in it, as cnn.explain makes them: a row for each.

    images: uint8 or float (N, C, H, W). maps: (N, H, W) from 0 to 1, or a list of (name, maps) that stand side by side;
    or of (name, pictures), uint8 (N, 3, H, W), as `overlay` makes them.
    titles: N texts, above the images. title: of the whole. Raises ValueError for other shapes.
    """
    images = np.asarray(images)
    named = [("", maps)] if isinstance(maps, np.ndarray) else list(maps)
    for _, values in named:
        wanted = len(images), *(3,) * (values.ndim == 4), *images.shape[2:]
        if images.ndim != 4 or values.shape != wanted or len(titles) != len(images):
            raise ValueError(f"heat_maps: images must have shape (N, C, H, W), maps (N, H, W), and there must be N "
                             f"titles, got {images.shape}, {values.shape} and {len(titles)}")
    across = 1 + len(named)
    beside = min(max(1, len(images)), max(1, 6 // across))      # images with their maps in a row of the figure
    rows = max(1, -(-len(images) // beside))
    lines = max((text.count("\n") + 1 for text in titles), default=1)
    letters = style.longest(line for text in titles for line in text.split("\n"))
    width = max(1.05, 0.085 * letters)
    figure = style.figure(beside * across * width, rows * (width + 0.18 * lines) + (0.25 if title else 0))
    if title:
        figure.suptitle(title)
    axes = figure.subplots(rows, beside * across, squeeze=False).ravel()
    for ax in axes:
        ax.set_axis_off()
    for i, (image, text) in enumerate(zip(images, titles, strict=True)):
        first, *others = axes[i * across:(i + 1) * across]
        first.imshow(visible(image), cmap="gray", vmin=0, vmax=1, interpolation="none")
        first.set_title(text, parse_math=False, loc="center")
        for ax, (name, values) in zip(others, named, strict=True):
            ax.imshow(visible(values[i] if values.ndim == 4 else overlay(image, values[i])), interpolation="none")
            ax.set_title(name, parse_math=False, loc="center")
    return figure
