"""What a run prints as it goes: a progress bar, a line for every epoch."""
from __future__ import annotations

import math
import sys
import time
from importlib import import_module
from typing import TYPE_CHECKING

from cnn import ranks, streams
from cnn.training.callbacks.base import Callback
from cnn.training.history import History

if TYPE_CHECKING:
    from typing import Any, TextIO

    from cnn.training.trainer import Trainer


class Progress(Callback):
    """A bar for every epoch with loss, accuracy and images/s; silent where the output is neither a terminal nor a
    notebook.

    file: where to draw it, default sys.stderr. every: seconds between updates.
    """

    every_step = False

    def __init__(self, file: TextIO | None = None, every: float = 0.1) -> None:
        self.file = file or sys.stderr
        self.every = every      # seconds between updates
        self._bar: Any = None
        self._shown = False

    def on_fit_start(self, trainer: Trainer) -> None:
        self._notebook = self.file is sys.stderr and streams.in_notebook()
        self._shown = ranks.leads() and (self._notebook or streams.isatty(self.file))

    def on_step_end(self, trainer: Trainer) -> None:
        if not self._shown:
            return
        now = time.perf_counter()
        if self._bar is None:
            # here, because importing it takes longer than importing all of cnn; `auto` takes longer still
            bar: Any = import_module("tqdm.auto" if self._notebook else "tqdm").tqdm
            file = None if self._notebook else streams.Tolerant(self.file)
            self._bar = bar(total=trainer.epoch_images or None, unit=" images", file=file, leave=False,
                            dynamic_ncols=True, desc=f"epoch {trainer.epoch + 1}/{trainer.epochs}")
            self._next = now
        if now >= self._next:
            self._bar.n = trainer.seen
            accuracy = trainer.running_accuracy
            self._bar.set_postfix_str(f"loss {trainer.running_loss:.4f}" + f", accuracy {accuracy:.4f}" * (
                not math.isnan(accuracy)), refresh=False)
            self._bar.refresh()
            self._next = now + self.every

    def on_epoch_end(self, trainer: Trainer) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    on_fit_end = on_epoch_end


class EpochLog(Callback):
    """Prints a line for every epoch. measured: what to call the images that `fit` got as validation."""

    def __init__(self, measured: str = "validation") -> None:
        self.measured = measured

    def on_epoch_end(self, trainer: Trainer) -> None:
        row = trainer.history[-1]
        text = f"epoch {trainer.epoch + 1:3d}/{trainer.epochs}{self._measured(row, 'train')}"
        if not math.isnan(row["val_loss"]):
            text += f"  {self.measured}:{self._measured(row, 'val')}"
        streams.say(f"{text}  {row['images_per_second']:,.0f} images/s")

    def _measured(self, row: Any, part: str) -> str:
        """Loss and, where there are classes, accuracy of a part of the data, and metrics of the trainer's."""
        accuracy, known = row[f"{part}_accuracy"], History.COLUMNS
        own = "".join(f"  {name.removeprefix('val_')} {value:.4f}" for name, value in row.items()
                      if name not in known and name.startswith(part))
        return f"  loss {row[f'{part}_loss']:.4f}" + f"  accuracy {accuracy:.4f}" * (not math.isnan(accuracy)) + own
