"""Metrics of one's own: figures of scores and targets, streamed over the portions of a data set."""
from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import numpy as np

from cnn import shapes
from cnn.layers.per_output import taken_apart

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

_TAKEN = ("loss", "accuracy", "images", "seconds", "images_per_second", "epoch", "lr")


def checked(owner: str, metrics: Any, taken: Sequence[str] = ()) -> dict[str, Any]:
    """Metrics by name, as a Trainer takes them; taken: other names that they may not have. Raises TypeError or
    ValueError for anything else."""
    if metrics is None:
        return {}
    if not isinstance(metrics, dict):
        raise TypeError(f"{owner}: metrics must be a dict of functions, or objects with update and compute, by name, "
                        f"got {shapes.shown(metrics)}")
    for name, metric in metrics.items():
        if not isinstance(name, str) or not name.isidentifier() or name in (*_TAKEN, *taken):
            raise ValueError(f"{owner}: metrics: a name must be an identifier and none of "
                             f"{', '.join((*_TAKEN, *taken))}, got "
                             f"{shapes.shown(name)}")
        if isinstance(metric, type) or not (_streams(metric) or callable(metric)):
            raise TypeError(f"{owner}: metrics: {name} must be a function of scores and targets, or an object with "
                            f"update and compute, got {shapes.shown(metric)}")
    return dict(metrics)


def _streams(metric: Any) -> bool:
    return callable(getattr(metric, "update", None)) and callable(getattr(metric, "compute", None))


class Running:
    """The metrics of one pass over a data set. metrics: as `checked` has returned them; objects among them are copied,
    so that each pass begins anew."""

    def __init__(self, owner: str, metrics: Mapping[str, Any]) -> None:
        self._owner, self._images = owner, 0
        self._metrics = {name: copy.deepcopy(metric) if _streams(metric) else metric
                         for name, metric in metrics.items()}
        self._sums = dict.fromkeys(metrics, 0.0)

    def add(self, scores: Any, targets: np.ndarray) -> None:
        """Take a portion into account: scores (n, ...), or a tuple or dict of them, and targets (n, ...)."""
        for array in (*taken_apart(scores)[1], targets):
            array.flags.writeable = False       # they may be the data set's own
        if not len(targets):
            return
        self._images += len(targets)
        for name, metric in self._metrics.items():
            if _streams(metric):
                metric.update(scores, targets)
            else:
                self._sums[name] += len(targets) * self._number(name, metric(scores, targets))

    def results(self) -> dict[str, float]:
        """The figures by name; NaN without images."""
        if not self._images:
            return dict.fromkeys(self._metrics, float("nan"))
        return {name: self._number(name, metric.compute()) if _streams(metric) else self._sums[name] / self._images
                for name, metric in self._metrics.items()}

    def _number(self, name: str, value: Any) -> float:
        found = np.asarray(value)
        if found.size != 1 or found.dtype.kind not in "fiub":
            raise TypeError(f"{self._owner}: the metric {name} must be a number, got {shapes.shown(value)}")
        return float(found.reshape(()))
