"""Checkpoints while training."""
from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cnn import files, ranks, shapes
from cnn.training import checkpoint
from cnn.training.callbacks.base import Callback, TrainingDiverged

if TYPE_CHECKING:
    import os
    from collections.abc import Callable

    from cnn.training.trainer import Trainer


class Checkpoint(Callback):
    """Writes checkpoints, folder/step-00000123.safetensors, from which `cnn.checkpoint.resume` goes on.

    every: a number of steps; "epoch"; or "auto", at the end of an epoch but not more often than every ten seconds.
    There is one whenever training is stopped or complete, too. keep: how many of the newest stay. clock: a function
    that tells the time in seconds. It comes behind the callbacks whose state it is to record and which may stop the
    training.

    `path` is the last one written, or None. Raises OSError naming the file that could not be written, and
    FileExistsError where a new run meets another's checkpoints; TrainingDiverged instead of writing weights that
    are not finite.
    """

    def __init__(self, folder: str | os.PathLike, every: int | str = "auto", keep: int = 3,
                 clock: Callable[[], float] = time.monotonic) -> None:
        self.folder = Path(folder)
        if every not in ("auto", "epoch"):
            every = shapes.integer("Checkpoint", "every", every, 1)
        self.every, self.clock = every, clock
        self.keep = shapes.integer("Checkpoint", "keep", keep, 1)
        self.path: Path | None = None
        self._position: tuple | None = None

    @property
    def every_step(self) -> bool:    # type: ignore[override]
        """Whether `on_step_end` must be called after every single step."""
        return not isinstance(self.every, str)

    def on_fit_start(self, trainer: Trainer) -> None:
        self.path = self._position = None
        if ranks.leads():
            self.folder.mkdir(parents=True, exist_ok=True)
        if trainer.step == 0 and checkpoint.checkpoints(self.folder):
            raise FileExistsError(f"{self.folder} holds the checkpoints of another run")
        files.clean(self.folder, ".step-*")     # of a run that was killed while writing
        self._saved = self.clock()

    def on_step_end(self, trainer: Trainer) -> None:
        if trainer.stop or (not isinstance(self.every, str) and trainer.step % self.every == 0):
            self.save(trainer)

    def on_epoch_end(self, trainer: Trainer) -> None:
        if (trainer.stop or trainer.epoch + 1 == trainer.epochs or self.every == "epoch"
                or (self.every == "auto" and self.clock() - self._saved >= 10)):
            self.save(trainer)

    def save(self, trainer: Trainer) -> Path:
        """Write a checkpoint now, unless this is where the last one was written; returns its path."""
        position = trainer.step, trainer.position
        if position == self._position and self.path is not None:
            return self.path
        state = trainer.state_dict()
        if not all(np.isfinite(value).all() for value in state["model"].values()):
            raise TrainingDiverged(f"weights became NaN or infinite by step {trainer.step} (epoch "
                                   f"{trainer.epoch + 1}) at learning rate {trainer.lr:g}; {TrainingDiverged.ADVICE}")
        path = checkpoint.path_of(self.folder, trainer.step)
        checkpoint.save(path, state)
        self.path, self._position, self._saved = path, position, self.clock()
        if not ranks.leads():
            return path
        older = [p for p in checkpoint.checkpoints(self.folder) if checkpoint.step_of(p) <= trainer.step]
        for old in older[:-self.keep]:
            old.unlink()
        return path
