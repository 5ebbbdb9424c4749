"""What a model looks at: pictures with their maps, for the page of a run and for `cnn predict --explain`."""
from __future__ import annotations

import contextlib
import os
import warnings
from typing import TYPE_CHECKING

import numpy as np

from cnn import explain, files, plots
from cnn.data import DataWarning, images
from cnn.plots.images import said
from cnn.plots.style import share, short
from cnn.prediction import Predictor, load
from cnn.prediction.files import picture_files

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from matplotlib.figure import Figure

    from cnn.data import Dataset
    from cnn.layers.module import Module
    from cnn.reports.evaluation import Evaluation

MOST = 16       # pictures in one file


def check(path: str | os.PathLike[str]) -> None:
    """Raise what `write` would raise for this path, before anything is computed: ModuleNotFoundError where matplotlib
    is missing, OSError for a file that can't be written."""
    plots.require()
    files.check(path)


def write(path: str | os.PathLike[str], model: str | os.PathLike[str], paths: Sequence[str | os.PathLike[str]],
          invert: bool = False) -> int:
    """Write pictures to a PNG file, each with Grad-CAM and occlusion of its most probable class beside it.

    model: a run's folder or a model's file. paths, invert: see cnn.prediction.files.predict. Files that can't be read
    are passed over; of more than MOST images the first ones are taken. Returns how many images were left out. Without a
    convolution that Grad-CAM could look at there is occlusion alone. Raises ValueError where no image can be read, and
    what loading, reading and writing raise.
    """
    check(path)
    predictor = load(model, invert)
    predictor._wanted.check_classes()
    names, found = _read(predictor, paths)
    if not names:
        raise ValueError(f"{os.fspath(path)}: there is no image to explain")
    left_out = len(names) - MOST
    figure = drawn(predictor, found[:MOST], names[:MOST])
    plots.save(figure, path)
    return max(0, left_out)


def drawn(predictor: Predictor, pixels: np.ndarray, names: Sequence[str]) -> Figure:
    """A figure of images (N, C, H, W), as the Predictor takes them, with their maps. names: N texts."""
    predicted = predictor.predict(pixels)
    covered = explain.occlusion(predictor, pixels, [p.label for p in predicted])
    maps = [("occlusion", covered.maps)]
    with contextlib.suppress(explain.NoFeatureMap):
        maps.insert(0, ("Grad-CAM", explain.grad_cam(predictor, pixels, covered.target).maps))
    titles = [f"{short(name, 16)}\n{short(p.label, 10)} {share(p.probability)}"
              for name, p in zip(names, predicted, strict=True)]
    return plots.heat_maps(covered.images, maps, titles)


def _read(predictor: Predictor, paths: Sequence[str | os.PathLike[str]]) -> tuple[list[str], np.ndarray]:
    """Names of images and their pixels (N, C, H, W), as many as can be read."""
    channels, side = predictor.shape[0], predictor._wanted.side
    names: list[str] = []
    found = [np.empty((0, channels, side, side), np.uint8)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)        # `predict` has warned
        listed: list[tuple[Path, str | None]] = picture_files(paths)
    for path, error in listed:
        if error is None:
            try:
                pixels = images.read(path, channels, side)
            except (OSError, ValueError):                   # `predict` has said so
                continue
            names += [path.name if len(pixels) == 1 else f"{path.name}[{i}]" for i in range(len(pixels))]
            found.append(pixels[:MOST])     # no more are drawn
    return names, np.concatenate(found)


# ------------------------------------------------------------------------------------------ the page's examples


class Example:
    """An image of a data set that a model was measured on. number: its place. words: what it was taken for and what it
    is, texts. maps: (words, picture uint8 (3, H, W)) for each class that is explained."""

    def __init__(self, number: int, words: list[str]) -> None:
        self.number, self.words = number, words
        self.maps: list[tuple[str, np.ndarray]] = []


def examples(model: Module, dataset: Dataset, measured: Evaluation, count: int) -> tuple[list[Example], list[Example]]:
    """(wrong, right): the most confidently wrong images with Grad-CAM of the predicted and of the true class, and
    right ones of different classes with that of their class; at most `count` each. Both are empty where the model has
    no convolution that Grad-CAM could look at, or there are no images.

    measured: the Evaluation of the model on the data set.
    """
    chosen = _confidently_wrong(measured, count), _right(measured, count)
    wrong, right = ([Example(int(i), said(measured.labels, measured.probabilities, measured.classes, i)) for i in part]
                    for part in chosen)
    for shown in right:
        shown.words = shown.words[:1]
    try:
        _add_maps(model, dataset, wrong, "predicted", measured.predictions)
        _add_maps(model, dataset, wrong, "true", measured.labels)
        _add_maps(model, dataset, right, "predicted", measured.predictions)
    except explain.NoFeatureMap:
        return [], []
    return wrong, right


def figure(dataset: Dataset, shown: Sequence[Example]) -> Figure:
    """Examples with as many maps each, as a figure."""
    numbers = [example.number for example in shown]
    pixels = dataset.images[numbers]
    names = [name for name, _ in shown[0].maps]
    columns = [(name, np.stack([example.maps[k][1] for example in shown])) for k, name in enumerate(names)]
    return plots.heat_maps(pixels, columns, ["\n".join(example.words) for example in shown])


def _confidently_wrong(measured: Evaluation, count: int) -> np.ndarray:
    wrong = np.flatnonzero(measured.predictions != measured.labels)
    sure = np.nan_to_num(measured.probabilities[wrong, measured.predictions[wrong]])
    return wrong[np.argsort(-sure, kind="stable")][:count]


def _right(measured: Evaluation, count: int) -> np.ndarray:
    """The first right image of each of `count` classes, which lie evenly among all."""
    right = np.flatnonzero(measured.predictions == measured.labels)
    classes, first = np.unique(measured.labels[right], return_index=True)
    count = min(count, len(classes))
    return right[first[np.arange(count) * len(classes) // max(1, count)]]


def _add_maps(model: Module, dataset: Dataset, shown: Sequence[Example], name: str, classes: np.ndarray) -> None:
    numbers = [example.number for example in shown]
    x = dataset.normalise(dataset.images[numbers])
    found = explain.grad_cam(model, x.astype(model.dtype or x.dtype, copy=False), classes[numbers])
    for example, image, heat in zip(shown, dataset.images[numbers], found.maps, strict=True):
        example.maps.append((name, plots.overlay(image, heat)))
