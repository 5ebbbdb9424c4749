"""What a run prints as it goes: a progress bar, a line for every epoch."""
from __future__ import annotations

import math
import sys
import time
from typing import TYPE_CHECKING

from cnn import streams
from cnn.training.callbacks.base import Callback

if TYPE_CHECKING:
    from typing import Any, TextIO

    from cnn.training.trainer import Trainer


class Progress(Callback):
    """A bar for every epoch with loss, accuracy and images/s; silent where the output is no terminal.

    file: where to draw it, default sys.stderr. every: seconds between updates.
    """

    every_step = False

    def __init__(self, file: TextIO | None = None, every: float = 0.1) -> None:
        self.file = file or sys.stderr
        self.every = every      # seconds between updates
        self._bar: Any = None
        self._shown = False

    def on_fit_start(self, trainer: Trainer) -> None:
        self._shown = streams.isatty(self.file)

    def on_step_end(self, trainer: Trainer) -> None:
        if not self._shown:
            return
        now = time.perf_counter()
        if self._bar is None:
            from tqdm import tqdm  # here, because importing it takes longer than importing all of cnn
            self._bar = tqdm(total=trainer.epoch_images, unit=" images", file=streams.Tolerant(self.file), leave=False,
                             dynamic_ncols=True, desc=f"epoch {trainer.epoch + 1}/{trainer.epochs}")
            self._next = now
        if now >= self._next:
            self._bar.n = trainer.seen
            self._bar.set_postfix_str(f"loss {trainer.running_loss:.4f}, accuracy "
                                      f"{trainer.running_accuracy:.4f}", refresh=False)
            self._bar.refresh()
            self._next = now + self.every

    def on_epoch_end(self, trainer: Trainer) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    on_fit_end = on_epoch_end


class EpochLog(Callback):
    """Prints a line for every epoch."""

    def on_epoch_end(self, trainer: Trainer) -> None:
        row = trainer.history[-1]
        text = (f"epoch {trainer.epoch + 1:3d}/{trainer.epochs}  loss {row['train_loss']:.4f}  "
                f"accuracy {row['train_accuracy']:.4f}")
        if not math.isnan(row["val_accuracy"]):
            text += f"  validation: loss {row['val_loss']:.4f}  accuracy {row['val_accuracy']:.4f}"
        streams.say(f"{text}  {row['images_per_second']:,.0f} images/s")
