"""Images: of a data set, those that were classified wrongly, and what is inside the network."""
from __future__ import annotations

import io
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from cnn import shapes
from cnn.plots import style
from cnn.plots.style import WIDTH, styled

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import ArrayLike

_COLUMNS, _MOST_MAPS, _MOST_FILTERS, _MOST_IMAGES = 8, 16, 64, 400


@styled
def grid(pixels: ArrayLike, titles: Sequence[str] | None = None, title: str = "",
         columns: int | None = None) -> Figure:
    """Images side by side, each under its own title.

    pixels: uint8 or float (N, C, H, W); of other than 1 or 3 channels the mean is shown. Floats are stretched from the
    smallest of each image to its largest. titles: N texts of a line or more; None: none. title: of the whole. columns:
    images in a row; default: as many as 8 inches hold. Raises ValueError for another number of axes or titles, or less
    than one column.
    """
    pixels = np.asarray(pixels)
    if pixels.ndim != 4 or (titles is not None and len(titles) != len(pixels)):
        count = "N" if titles is None else len(titles)
        raise ValueError(f"grid: pixels must have shape ({count}, C, H, W), one image for each title, got "
                         f"{pixels.shape}")
    lines = 0 if titles is None else max((text.count("\n") + 1 for text in titles), default=1)
    titles = [""] * len(pixels) if titles is None else titles
    width = max(0.85, 0.08 * style.longest(line for text in titles for line in text.split("\n")))
    if columns is None:
        rows = max(1, math.ceil(len(pixels) / max(1, int(8 / width))))
        columns = max(1, math.ceil(len(pixels) / rows))
    columns = shapes.integer("grid", "columns", columns, 1)
    rows = max(1, math.ceil(len(pixels) / columns))
    figure = style.figure(columns * width, rows * (0.8 + 0.18 * lines) + (0.25 if title else 0))
    if title:
        figure.suptitle(title)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for ax in axes:
        ax.set_axis_off()
    for ax, image, text in zip(axes, pixels, titles, strict=False):
        ax.imshow(visible(image), cmap="gray", vmin=0, vmax=1, interpolation="none")
        ax.set_title(text, parse_math=False, loc="center")
    return figure


def show_images(pixels: np.ndarray, names: Sequence[str]) -> Figure:
    """Images in a grid, each below the name of its class, cut where long; see `grid`."""
    if not len(pixels):
        return _only_words("no images")
    return grid(pixels, [style.short(name, 16) for name in names])


@styled
def _only_words(words: str) -> Figure:
    figure = style.figure(WIDTH, 1)
    figure.text(0.5, 0.5, words, ha="center", va="center")
    return figure


@styled
def mistakes(images: ArrayLike, labels: ArrayLike, probabilities: ArrayLike, classes: Sequence[str],
             count: int = 16) -> Figure:
    """The images that were classified wrongly with the least probability for the truth, worst first.

    images: uint8 or float (N, C, H, W); of other than 1 or 3 channels the mean is shown. labels: integers (N,).
    probabilities: (N, K). classes: K names. count: how many to show at most. Raises ValueError for what does not fit.
    """
    images, labels, probabilities = np.asarray(images), np.asarray(labels), np.asarray(probabilities)
    count = shapes.integer("mistakes", "count", count, 1, _MOST_IMAGES)
    if images.ndim != 4 or labels.shape != images.shape[:1] or probabilities.shape != (len(images), len(classes)):
        raise ValueError(f"mistakes: images must have shape (N, C, H, W), labels (N,) and probabilities "
                         f"(N, {len(classes)}), got {images.shape}, {labels.shape} and {probabilities.shape}")
    if len(labels) and labels.dtype.kind not in "iu":
        raise TypeError(f"mistakes: labels must be integers, got {labels.dtype}")
    chosen, wrong = worst(labels, probabilities, count)
    if not wrong:
        return _only_words(f"no mistake among {len(images):,} images")
    return grid(images[chosen], ["\n".join(said(labels, probabilities, classes, i)) for i in chosen],
                f"{wrong:,} of {len(images):,} images wrong" + (
                    f", the {len(chosen)} worst" if len(chosen) < wrong else ""))


def worst(labels: np.ndarray, probabilities: np.ndarray, count: int) -> tuple[np.ndarray, int]:
    """The numbers (n,) of at most `count` wrong images, the least probable truth first, and how many are wrong.

    labels: integers (N,). probabilities: float (N, K).
    """
    labels = labels.astype(np.int64)
    wrong = np.flatnonzero(probabilities.argmax(axis=1) != labels) if len(labels) else np.arange(0)
    truth = np.nan_to_num(probabilities[wrong, labels[wrong]])
    return wrong[np.argsort(truth, kind="stable")][:count], len(wrong)


def said(labels: np.ndarray, probabilities: np.ndarray, classes: Sequence[str], i: int) -> list[str]:
    """What image i was taken for and what it is, each with its probability; see `worst`."""
    return [f"{word} {style.short(classes[k], 14)} ({style.share(probabilities[i, k])})"
            for word, k in (("said", probabilities[i].argmax()), ("true", labels[i]))]


def image_png(image: np.ndarray) -> bytes:
    """An image (C, H, W) as the bytes of a PNG file, each pixel as it is."""
    from matplotlib import image as codec
    file = io.BytesIO()
    codec.imsave(file, visible(image), cmap="gray", vmin=0, vmax=1, format="png")
    return file.getvalue()


# ------------------------------------------------------------------------------------------ inside the network


@styled
def filters(layer: Any) -> Figure:
    """The weights of a convolution, one small picture for each output channel.

    layer: a layer with a `weight`, as Conv2d has, or such a weight, float (K, C, R, S). One input channel: all in one
    scale of greys, in which 0 is the middle. Three: in colours, each filter in its own scale around the middle grey.
    Others: a row for each output channel, a column for each input channel. At most 64 output and 16 input channels.
    Raises TypeError for a layer without weight, ValueError for a weight of another shape.
    """
    weight = _weight(layer)
    k, c = weight.shape[:2]
    kept = weight[:_MOST_FILTERS]
    size = "×".join(map(str, weight.shape[1:]))
    title = f"{k} filters of {size}" + (f", the first {_MOST_FILTERS}" if k > _MOST_FILTERS else "")
    if c == 3:
        most = np.abs(np.nan_to_num(kept)).max(axis=(1, 2, 3), keepdims=True)
        tiles = np.nan_to_num(0.5 + 0.5 * kept / np.where(most > 0, most, 1), nan=0.5).transpose(0, 2, 3, 1)
        title += ", each in its own scale (middle grey: 0)"
    elif c == 1:
        tiles = kept[:, 0]
    else:
        kept = weight[:16, :16]
        title = f"{k} filters of {size}: a row for each output channel"
        if kept.shape[:2] != (k, c):
            title += f", the first {len(kept)}×{kept.shape[1]}"
        tiles = kept.reshape(-1, *kept.shape[2:])
    mosaic = _mosaic(tiles, kept.shape[1] if c not in (1, 3) else _columns(len(tiles)))
    figure = style.figure(WIDTH, float(np.clip(WIDTH * mosaic.shape[0] / mosaic.shape[1], 0.8, 2.5)) + 0.25)
    ax = figure.subplots()
    ax.set_title(title)
    most = float(np.abs(tiles[np.isfinite(tiles)]).max(initial=0)) or 1.0
    shown = ax.imshow(mosaic, cmap="gray", vmin=-most, vmax=most, interpolation="none")
    ax.set_axis_off()
    if c != 3:
        style.scale(ax, shown, "weight")
    return figure


def _weight(layer: Any) -> np.ndarray:
    """The weight of a layer, or an array, as float (K, C, R, S)."""
    value = layer
    if not isinstance(layer, (np.ndarray, list, tuple)):
        value = getattr(layer, "weight", layer)
        value = getattr(value, "data", value)
        if not isinstance(value, (np.ndarray, memoryview, list, tuple)):
            raise TypeError(f"filters: layer must be a layer with a weight, as Conv2d, or its weight as an array, got "
                            f"{type(layer).__name__}")
    weight = np.asarray(value, float)
    if weight.ndim != 4 or 0 in weight.shape:
        raise ValueError(f"filters: weight must have shape (K, C, R, S) without 0, got {weight.shape}")
    return weight


@styled
def feature_maps(image: ArrayLike, maps: Iterable[tuple[str, ArrayLike]]) -> Figure:
    """What the layers make of one image: up to 16 channels of each, in one scale of colours for each layer.

    image: uint8 or float (C, H, W). maps: list of (name of the layer, float (channels, H, W)).
    Raises ValueError for other shapes.
    """
    image = _three_axes("the image", image)
    arrays = [(name, _three_axes(name, values)) for name, values in maps]
    heights = [0.8, *(_map_height(values) for _, values in arrays)]
    figure = style.figure(1.5 * WIDTH, 1.5 * sum(heights) + 0.25 * len(heights))
    axes = np.atleast_1d(figure.subplots(len(heights), 1, height_ratios=heights))
    _draw_image(axes[0], image)
    for ax, (name, values) in zip(axes[1:], arrays, strict=True):
        _draw_map(ax, name, values)
    return figure


@styled
def feature_map(name: str, values: ArrayLike) -> Figure:
    """One layer's part of `feature_maps`. name: of the layer. values: float (channels, H, W). Raises ValueError for
    another shape."""
    values = _three_axes(name, values)
    figure = style.figure(WIDTH, _map_height(values) + 0.25)
    _draw_map(figure.subplots(), name, values)
    return figure


def _three_axes(name: str, values: ArrayLike) -> np.ndarray:
    values = np.asarray(values)
    if values.ndim != 3 or 0 in values.shape:
        raise ValueError(f"feature_maps: {name} must have shape (C, H, W) without 0, got {values.shape}")
    return values


def _map_height(values: np.ndarray) -> float:
    """Height of a layer's maps in a figure of WIDTH, in inches."""
    rows, columns = _maps(values).shape
    return float(np.clip(0.9 * WIDTH * rows / columns, 0.5, 2.5))


def _draw_image(ax: Axes, image: np.ndarray) -> None:
    ax.imshow(visible(image), cmap="gray", interpolation="none")
    ax.set_title(f"image {'×'.join(map(str, image.shape))}")
    ax.set_anchor("W")
    ax.set_axis_off()


def _draw_map(ax: Axes, name: str, values: np.ndarray) -> None:
    count, h, w = values.shape
    more = f", the first {_MOST_MAPS}" if count > _MOST_MAPS else ""
    ax.set_title(f"{style.short(name, 40)}: {count} of {h}×{w}{more}", parse_math=False)
    shown = ax.imshow(_maps(values), cmap="viridis", interpolation="none")
    ax.set_anchor("W")
    ax.set_axis_off()
    style.scale(ax, shown)


def _maps(values: np.ndarray) -> np.ndarray:
    values = values[:_MOST_MAPS].astype(float)
    return _mosaic(values, _columns(len(values)))


def _columns(count: int) -> int:
    """How many of so many tiles stand side by side; a few make two rows, to be large."""
    return min(count, _COLUMNS) if count > _COLUMNS or count < 4 else -(-count // 2)


def visible(image: np.ndarray) -> np.ndarray:
    """An image (C, H, W) as imshow wants it, from 0 to 1: (H, W), or (H, W, 3) for three channels."""
    if image.dtype == np.uint8:
        image = image / 255
    else:
        low, high = np.nanmin(image), np.nanmax(image)
        image = (image - low) / (high - low if high > low else 1)
    return image.transpose(1, 2, 0) if len(image) == 3 else image.mean(axis=0)


def _mosaic(tiles: np.ndarray, columns: int) -> np.ndarray:
    """Tiles (n, H, W) or (n, H, W, 3) side by side, with gaps of one NaN (white where in colours)."""
    rows = -(-len(tiles) // columns)
    h, w = tiles.shape[1:3]
    gap = max(1, round(0.06 * max(h, w)))
    mosaic = np.full((rows * (h + gap) - gap, columns * (w + gap) - gap, *tiles.shape[3:]), np.nan)
    if tiles.ndim == 4:     # red, green and blue, and an opacity of 0 in the gaps
        mosaic = np.concatenate([np.ones_like(mosaic), np.zeros_like(mosaic[..., :1])], axis=-1)
        tiles = np.concatenate([tiles, np.ones_like(tiles[..., :1])], axis=-1)
    for i, tile in enumerate(tiles):
        top, left = i // columns * (h + gap), i % columns * (w + gap)
        mosaic[top:top + h, left:left + w] = tile
    return mosaic
