"""Measuring a saved model on a data set."""
from __future__ import annotations

import json
import math
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from cnn import data, files, functional, plots, shapes, streams
from cnn.data.dataset import altered
from cnn.prediction.inputs import Wanted
from cnn.reference import softmax
from cnn.reports import metrics
from cnn.text import printable
from cnn.training import checkpoint
from cnn.training.trainer import Trainer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from os import PathLike

    from cnn.layers.module import Module

SPLITS = ("test", "train")
_MOST_COLUMNS = 20      # classes up to which a confusion matrix is printed whole


class Evaluation:
    """What a model makes of a data set.

    classes: K names. labels: int64 (N,). scores: (N, K), the model's output. `probabilities` (N, K): their
    softmax. `predictions` (N,): the class of the largest score. `loss`: mean log loss, without smoothing or
    weights. `matrix`: confusion matrix (K, K). `accuracy`, `top5`: shares of the images (top5 is None up to five
    classes). `per_class`: a metrics.PerClass. Without images, figures are NaN. name: of the data, for reports.
    """

    def __init__(self, classes: Sequence[str], labels: np.ndarray, scores: np.ndarray, name: str = "") -> None:
        if scores.ndim != 2 or scores.shape[1] != len(classes):
            raise ValueError(f"Evaluation: scores must have shape (N, {len(classes)}), one per class, "
                             f"got {scores.shape}")
        self.classes, self.labels, self.scores, self.name = tuple(classes), labels, scores, name
        with np.errstate(under="ignore"):       # of probabilities beside a sure one's
            self.probabilities = softmax(scores)
        self.predictions = scores.argmax(axis=1)
        self.loss = float(functional.cross_entropy(scores, labels)[0]) if len(labels) else math.nan
        self.matrix = metrics.confusion_matrix(labels, self.predictions, len(self.classes))
        self.accuracy = metrics.accuracy(self.matrix)
        self.top5 = metrics.top_k_accuracy(scores, labels, 5) if len(self.classes) > 5 else None
        self.per_class = metrics.per_class(self.matrix)

    def rows(self) -> list[tuple[str, int, float, float, float]]:
        """(name, images, precision, recall, f1) of each class."""
        p = self.per_class
        return [(name, int(n), float(precision), float(recall), float(f1)) for name, n, precision, recall, f1 in
                zip(self.classes, p.support, p.precision, p.recall, p.f1, strict=True)]

    def macro(self) -> dict[str, float]:
        """Means over the classes, {"precision", "recall", "f1"}; 0/0 counts as 0 (see metrics.PerClass.macro)."""
        return self.per_class.macro(zero_division=0)

    def never_predicted(self) -> list[str]:
        """Names of the classes that have images here, but were predicted for none: a list."""
        return [self.classes[i] for i in self.per_class.never_predicted()]

    def confusions(self) -> list[tuple[str, str, int]]:
        """(true name, predicted name, images) of every pair that occurs, the most frequent first."""
        wrong = self.matrix * ~np.eye(len(self.matrix), dtype=bool)
        order = np.argsort(-wrong, axis=None, kind="stable")[:np.count_nonzero(wrong)]
        return [(self.classes[i], self.classes[j], int(wrong[i, j]))
                for i, j in zip(*np.unravel_index(order, wrong.shape), strict=True)]

    def headline(self) -> str:
        top5 = "" if self.top5 is None else f" (top 5: {_share(self.top5)})"
        return f"{len(self.labels):,} images, accuracy {_share(self.accuracy)}{top5}, loss {self.loss:.4f}"

    def __str__(self) -> str:
        macro, classes = self.macro(), list(map(printable, self.classes))
        rows: list[tuple[str, ...]]
        rows = [(printable(name), f"{n:,}", _share(p), _share(r), _share(f)) for name, n, p, r, f in self.rows()]
        rows.append(("mean of the classes", f"{len(self.labels):,}", *map(_share, macro.values())))
        parts = [f"{printable(self.name)}: {self.headline()}" if self.name else self.headline(),
                 _table(("class", "images", "precision", "recall", "F1"), rows)]
        if never := self.never_predicted():
            parts.append(f"never predicted: {', '.join(map(printable, never))}; a precision of - counts as 0 in the "
                         f"mean of the classes")
        if len(self.classes) <= _MOST_COLUMNS:
            counts = [(name, *(f"{n:,}" if n else "." for n in row))
                      for name, row in zip(classes, self.matrix.tolist(), strict=True)]
            parts.append("confusion matrix: rows true, columns predicted\n" + _table(("", *classes), counts))
        else:
            worst = [(printable(f"{true} → {said}"), f"{n:,}") for true, said, n in self.confusions()[:_MOST_COLUMNS]]
            parts.append(_table(("most frequent mistakes: true → predicted", "images"), worst))
        return "\n\n".join(parts)

    def as_json(self) -> dict[str, Any]:
        """A dict that JSON can hold, NaN as None."""
        keys = ("class", "images", "precision", "recall", "f1")
        return {"data": self.name, "images": len(self.labels), "accuracy": _finite(self.accuracy),
                "top5_accuracy": _finite(self.top5), "loss": _finite(self.loss),
                "classes": [dict(zip(keys, map(_finite, row), strict=True)) for row in self.rows()],
                "macro": {name: _finite(value) for name, value in self.macro().items()},
                "confusion_matrix": self.matrix.tolist()}


def evaluate(model: Module, dataset: data.Dataset, name: str = "", tta: str | None = None) -> Evaluation:
    """The Evaluation of a model, a Layer with output (N, K), on a Dataset whose classes are the model's.

    tta: see Trainer.predict.
    """
    scores = Trainer(model, None, progress=False).predict(dataset, tta)
    return Evaluation(dataset.classes, dataset.labels, scores, name)


def classify(model: Module, description: dict[str, Any], paths: Sequence[str | PathLike], top: int = 1,
             invert: bool = False) -> Iterator[dict[str, Any]]:
    """What `cnn.prediction.files.classify` yields for a model and its description, as `cnn.load_model` returns them;
    kept for what was written for version 0.1.0. Raises as that function and Predictor do."""
    from cnn.prediction import Predictor  # here, because it is seldom needed
    from cnn.prediction import files as pictures
    return pictures.classify(Predictor(model, description, invert), paths, top)


def load_data(description: dict[str, Any], dataset: str | None = None, data_dir: str | PathLike | None = None,
              split: str = "test") -> data.Dataset:
    """The data set that a saved model is to be measured on, with the model's classes and normalisation.

    description: as `checkpoint.load_model` returns it. dataset: a name, or the path of own images; default: what
    the model was trained on. split: one of SPLITS. A folder's pictures are brought to the model's size and channels,
    and where there is no part to test on, the run's seed chooses the test set: of the data that the model was trained
    on, that of the run. Labels are matched by the names of their classes; data with other names, or
    images of another size, raise ValueError; and what cnn.data.load raises.
    """
    if split not in SPLITS:
        raise ValueError(f"load_data: split must be one of {', '.join(SPLITS)}, got {split!r}")
    train, test = load_parts(description, dataset, data_dir)
    return as_trained(train if split == "train" else test, description)


def load_parts(description: dict[str, Any], dataset: str | None = None,
               data_dir: str | PathLike | None = None) -> tuple[data.Dataset, data.Dataset]:
    """The training and test images of `load_data`, both at once, before `as_trained`."""
    dataset = dataset or description.get("dataset")
    if dataset is None:
        raise ValueError("load_data: the model's file names no data set; give one")
    wanted = Wanted(description, classes=True)
    channels, size = wanted.shape[0], wanted.side
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*load_parts returns them")     # not wanted here
        return data.load(dataset, data_dir, size, channels, description.get("seed") or 0)


def as_trained(dataset: data.Dataset, description: dict[str, Any]) -> data.Dataset:
    """A Dataset with the classes (and their numbers) and the normalisation that a saved model was trained with.

    description: as `checkpoint.load_model` returns it. Raises ValueError for other classes, or images of another
    size.
    """
    wanted, name = Wanted(description, classes=True), dataset.name or "data"
    classes = wanted.classes
    if dataset.images.shape[1:] != wanted.shape:
        raise ValueError(f"{name}: the model takes images of {shapes.times(wanted.shape)}, these have "
                         f"{shapes.times(dataset.images.shape[1:])}")
    wanted.check_pixels(name, str(dataset.images.dtype))
    unknown = [name for name in dataset.classes if name not in classes]
    if unknown:
        raise ValueError(f"{name}: the model has no class {unknown[0]!r}, only "
                         f"{', '.join(classes[:10])}{', ...' if len(classes) > 10 else ''}")
    number = np.array([classes.index(name) for name in dataset.classes], np.int64)
    return altered(dataset, labels=number[dataset.labels], classes=classes, mean=wanted.mean, std=wanted.std)


def measure(model_path: str | PathLike, dataset: str | None = None, data_dir: str | PathLike | None = None,
            split: str = "test", json_path: str | PathLike | None = None, plot_path: str | PathLike | None = None,
            out: Callable[[str], Any] = streams.say) -> Evaluation:
    """Evaluate a saved model, write files, then say what came out through `out`; returns the Evaluation.

    model_path: a run's folder or a model's file. dataset, data_dir, split: see `load_data`. json_path, plot_path:
    files to write the figures, and the confusion matrix as PNG, to. Raises what reading and writing raise, and
    ModuleNotFoundError, before anything is computed, where a picture is wanted and matplotlib is missing.
    """
    if plot_path is not None:
        plots.require()
    for path in (json_path, plot_path):
        if path is not None:
            files.check(path)
    model, description = checkpoint.load_model(model_path)
    chosen = load_data(description, dataset, data_dir, split)
    result = evaluate(model, chosen, f"{chosen.name}, {split} images", description.get("tta"))
    if json_path is not None:
        files.write(json_path, (json.dumps(result.as_json(), indent=2) + "\n").encode())
    if plot_path is not None:
        plots.save(plots.confusion_matrix(result.matrix, result.classes), plot_path)
    out(str(result))
    return result


# ------------------------------------------------------------------------------------------ words


def _share(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.2%}"


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Lines of a table, the first column flush left, the others right."""
    lines = [header, *rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join([line[0].ljust(widths[0]),
                                *(cell.rjust(w) for cell, w in zip(line[1:], widths[1:], strict=True))]).rstrip()
                     for line in lines)
