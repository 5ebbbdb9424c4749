"""Explanation by covering parts of an image."""
from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cnn import shapes
from cnn.explain.asked import Asked
from cnn.explain.result import Explanation, scaled
from cnn.layers.parts import in_evaluation
from cnn.layers.running import graph_of

if TYPE_CHECKING:
    from typing import Any

    from cnn.explain.asked import Target
    from cnn.graph import Graph
    from cnn.layers.module import Module
    from cnn.prediction import Predictor

_AT_ONCE = 64       # copies of an image


def occlusion(model: Module | Predictor, images: Any, target: Target = None, size: int | tuple[int, int] | None = None,
              stride: int | tuple[int, int] | None = None, fill: str | float | list[float] | np.ndarray = "mean"
              ) -> Explanation:
    """By how much the score of a class drops where a window of the image is covered.

        >>> train, test = cnn.data.load("mnist-sample")
        >>> found = cnn.explain.occlusion(cnn.models.lenet5(seed=0), test.normalise(test.images[:3]), size=7, stride=3)
        >>> found.maps.shape, found.raw.shape
        ((3, 28, 28), (3, 28, 28))

    `raw` is, for each pixel, the mean over the windows that cover it of y(image) - y(covered image), y being the score
    of the class; `maps` are what is above 0, divided by the maximum (after Zeiler and Fergus 2014, "Visualizing and
    Understanding Convolutional Networks", section 4.2). Each window takes a forward pass of each image.

    model, images, target: see `grad_cam`. size: of the window in pixels, an int or (height, width); default: a quarter
    of the image's. stride: from one window to the next, at most `size`; default: half of it. The last window of a row
    or column ends at the edge of the image. fill: what the window is filled with: "mean", of each channel of
    the image, or a number or one for each channel, in the unit of the images (a Predictor's pictures: 0 to 255).

    Raises ValueError or TypeError for what does not fit, FloatingPointError where scores are not finite, RuntimeError
    while another thread trains the model.
    """
    asked = Asked("occlusion", model, images, target)
    height, width = side = asked.x.shape[2:]
    window = shapes.pair("occlusion", "size", (max(1, height // 4), max(1, width // 4)) if size is None else size, 1)
    step = shapes.pair("occlusion", "stride", tuple(max(1, n // 2) for n in window) if stride is None else stride, 1)
    for what, given, most, of in (("size", window, side, "the image's"), ("stride", step, window, "the window's")):
        if given[0] > most[0] or given[1] > most[1]:
            raise ValueError(f"occlusion: {what} must be at most {of}, {shapes.times(most)}, got {shapes.times(given)}")
    colour = _colour(asked, fill)
    graph: Graph = in_evaluation(asked.model, graph_of, asked.model, [asked.x.shape[1:]], asked.x.dtype)
    outputs = [value.image for value in graph.outputs]
    asked.check_scores(outputs, graph.structure is None)
    rows, columns = (_covers(n, m, s) for n, m, s in zip(side, window, step, strict=True))
    count = np.outer(rows.sum(axis=0), columns.sum(axis=0))
    scores = np.empty((len(asked.x), *outputs[0]), asked.x.dtype)
    goal = np.empty(len(asked.x), np.int64)
    raw = np.empty((len(asked.x), *side), asked.x.dtype)
    for i, x in enumerate(asked.x):
        filled = x.mean(axis=(1, 2)) if colour is None else colour
        y = _covered_scores(asked.model, x, filled, rows, columns)
        scores[i] = y[0]
        goal[i], = asked.target(y[:1], np.array([i]))
        if not np.isfinite(y).all():
            raise FloatingPointError("occlusion: the model's scores of a covered image are NaN or infinite")
        drops = (y[0, goal[i]] - y[1:, goal[i]]).reshape(len(rows), len(columns))
        raw[i] = rows.T @ drops @ columns / count
    return Explanation(scaled(raw), raw, goal, scores, asked.images, asked.names(goal))


def _covers(length: int, window: int, step: int) -> np.ndarray:
    """Which of `length` pixels each window covers, bool (windows, length)."""
    starts = sorted({*range(0, length - window + 1, step), length - window})
    pixels = np.arange(length)
    return np.array([(pixels >= start) & (pixels < start + window) for start in starts])


def _covered_scores(model: Module, x: np.ndarray, fill: np.ndarray, rows: np.ndarray, columns: np.ndarray
                    ) -> np.ndarray:
    """Scores (1 + windows, K) of an image (C, H, W), and of it with each window filled."""
    windows = [None, *((row, column) for row in rows for column in columns)]
    found = []
    # equal portions: a last one of a few images would be computed in another order than the others
    for numbers in np.array_split(np.arange(len(windows)), -(-len(windows) // _AT_ONCE)):
        batch = np.repeat(x[None], len(numbers), axis=0)
        for image, n in zip(batch, numbers, strict=True):
            if (window := windows[n]) is not None:
                image[:, window[0][:, None] & window[1]] = fill[:, None]
        found.append(in_evaluation(model, model, batch))
    return np.concatenate(found)


def _colour(asked: Asked, fill: Any) -> np.ndarray | None:
    """What a window is filled with, as the model takes it, (C,); None for the mean of the image."""
    if isinstance(fill, str):
        if fill != "mean":
            raise ValueError(f'occlusion: fill must be "mean", a number or one for each channel, got '
                             f"{shapes.shown(fill)}")
        return None
    channels = asked.x.shape[1]
    given = list(fill) if isinstance(fill, (list, tuple, np.ndarray)) and np.ndim(fill) == 1 else [fill] * channels
    if len(given) != channels:
        raise ValueError(f"occlusion: fill must be a number or one for each of {channels} channels, got {len(given)}")
    values = np.array([shapes.number("occlusion", "fill", value) for value in given])
    if (predictor := asked.predictor) is not None:
        values = 255 - values if predictor.invert else values
        values = predictor.inputs(values.astype(np.float32).reshape(1, -1, 1, 1)).ravel()
    return values.astype(asked.x.dtype)
