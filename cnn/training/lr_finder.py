"""The learning-rate range test: which learning rates a model learns with."""
from __future__ import annotations

import csv
import io
import math
from typing import TYPE_CHECKING

import numpy as np

from cnn import files, plots, shapes
from cnn.data import DataLoader
from cnn.training import checks

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Iterator

    from cnn.data import Dataset
    from cnn.training.trainer import Trainer

_SMOOTHING = 0.9        # share of the running mean in the next smoothed loss
_MARGIN = 10            # by which the suggestion stays below the rate at which the loss begins to rise


class LRCurve:
    """The loss at growing learning rates.

    rates, losses, smoothed: lists of floats, one a step; the loss is that of the step's batch before the step.
    """

    def __init__(self, rates: Iterable[float], losses: Iterable[float]) -> None:
        self.rates, self.losses, self.smoothed = list(rates), list(losses), []
        if not self.losses or len(self.rates) != len(self.losses):
            raise ValueError(f"LRCurve: rates and losses must have the same length, at least 1, got "
                             f"{len(self.rates)} and {len(self.losses)}")
        mean = 0.0
        for step, loss in enumerate(self.losses, 1):
            mean = _SMOOTHING * mean + (1 - _SMOOTHING) * loss
            self.smoothed.append(mean / (1 - _SMOOTHING**step))

    @property
    def rise(self) -> float:
        """The rate at which the loss is lowest, beyond which it rises; a float.

        It goes by a mean around each loss, which does not lag behind the rate as `smoothed` does.
        """
        return self.rates[int(np.argmin(self._centred()))]

    @property
    def suggestion(self) -> float:
        """A learning rate (float) to train with: where the loss falls most steeply over the logarithm of the rate, but
        at most a tenth of `rise`; NaN where the loss falls nowhere.

        Near `rise` the loss still falls for the few steps that the test takes there, while a whole run would diverge:
        hence the margin.
        """
        centred = self._centred()
        lowest = int(np.argmin(centred))
        if lowest == 0:
            return math.nan
        slopes = np.gradient(centred)       # the rates are evenly spaced in their logarithm
        steepest = self.rates[int(np.argmin(slopes[:lowest]))]
        return max(self.rates[0], min(steepest, self.rates[lowest] / _MARGIN))

    def _centred(self) -> np.ndarray:
        """The mean of each loss and those around it, a sixteenth of them either way: float64 (n,).

        Losses above twice the first ones count as these: what explodes would else drown what lies before it.
        """
        reach = max(1, len(self.losses) // 16)
        losses = np.minimum(self.losses, 2 * max(self.losses[:reach]))
        return np.array([losses[max(0, i - reach):i + reach + 1].mean() for i in range(len(losses))])

    def save(self, path: str | os.PathLike) -> None:
        """Write the columns lr, loss, smoothed_loss to a CSV file, whole or not at all."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["lr", "loss", "smoothed_loss"])
        writer.writerows(zip(self.rates, self.losses, self.smoothed, strict=True))
        files.write(path, text.getvalue().encode())

    def plot(self, path: str | os.PathLike) -> None:
        """Draw the curve into a PNG file. Raises ModuleNotFoundError where matplotlib is missing."""
        plots.save(plots.lr_finder(self.rates, self.losses, self.suggestion), path)


def find_lr(trainer: Trainer, train: DataLoader | Dataset, lowest: float = 1e-5, highest: float = 10.0,
            steps: int = 100, batch_size: int = 64, seed: int = 0) -> LRCurve:
    """Take `steps` steps at learning rates that grow from `lowest` to `highest` by equal factors; an LRCurve.

    It ends early where the smoothed loss is four times its minimum or no number any more. The trainer is
    afterwards as it was before. train: a DataLoader, or a Dataset that is then shuffled by `seed` into batches
    of `batch_size`. Smith 2017, "Cyclical Learning Rates for Training Neural Networks", section 3.3.

    Raises TypeError or ValueError for arguments that do not fit.
    """
    steps = shapes.integer("find_lr", "steps", steps, 2)
    lowest = shapes.number("find_lr", "lowest", lowest, above=0)
    highest = shapes.number("find_lr", "highest", highest, above=lowest)
    if not math.isfinite(highest / lowest):
        raise ValueError(f"find_lr: highest must be closer to lowest, got {highest:g} and {lowest:g}")
    loader = train if isinstance(train, DataLoader) else DataLoader(train, batch_size, shuffle=True, seed=seed)
    loader = loader.grouped(trainer.accumulate)     # a copy: the epochs of this one count for nothing
    checks.some_batch("find_lr", loader)
    rates, losses, loss = [], [], None
    with trainer.unchanged():
        trainer.model.train()
        checks.single_values("find_lr", trainer.model, loader, trainer.inputs)
        for step, (images, labels) in zip(range(steps), _forever(loader), strict=False):
            rate = lowest * (highest / lowest) ** (step / (steps - 1))
            trainer.optimizer.lr = rate
            images = images.astype(trainer.model.dtype or images.dtype, copy=False)
            total, weight, _ = trainer._train_step(images, labels, loader.batch_size)
            if not weight:      # of labels that do not count there is nothing to learn
                continue
            loss = total / weight
            if not math.isfinite(loss):
                break
            rates.append(rate)
            losses.append(loss)
            smoothed = LRCurve(rates, losses).smoothed
            if smoothed[-1] > 4 * min(smoothed):
                break
    if not losses:
        raise ValueError("find_lr: all labels have class weight 0" if loss is None else
                         f"find_lr: the loss of the first batch is {loss}")
    return LRCurve(rates, losses)


def _forever(loader: DataLoader) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    while True:
        yield from loader
