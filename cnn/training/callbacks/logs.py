"""Logs in files: the history as CSV, the steps as JSON lines, both for TensorBoard."""
from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING

from cnn import files, ranks
from cnn.training.callbacks.base import Callback, refuse_to_overwrite

if TYPE_CHECKING:
    from cnn.training.trainer import Trainer


class _Log(Callback):
    """A file that grows by whole lines, and that an interruption leaves as it should be."""

    def __init__(self, path: str | os.PathLike) -> None:
        self.path = Path(path)

    def _open(self, content: bytes, done: int) -> None:
        files.write(self.path, content)
        self._file, self._size, self._done = files.Log(self.path), len(content), done

    def _add(self, text: str, done: int) -> None:
        """Write the lines up to a step or row."""
        self._file.write(text)
        self._size, self._done = self._size + len(text.encode()), done

    def _close(self, text: str, done: int) -> None:
        """Close the file; where an interruption came before or during `_add`, its lines are written first."""
        try:
            if self._done != done:
                if ranks.leads() and self.path.is_file():
                    os.truncate(self.path, self._size)
                self._add(text, done)
        finally:
            self._file.close()


class CSVLog(_Log):
    """Writes the history to a CSV file, a line as soon as an epoch ends. path: the file.

    Raises FileExistsError where a new run would overwrite another's file; a resumed one writes its own anew.
    """

    def on_fit_start(self, trainer: Trainer) -> None:
        refuse_to_overwrite(self.path, trainer, trainer.history[:0].to_csv().encode())
        self._open(trainer.history.to_csv().encode(), len(trainer.history))

    def on_epoch_end(self, trainer: Trainer) -> None:
        self._add(self._text(trainer), len(trainer.history))

    def on_fit_end(self, trainer: Trainer) -> None:
        self._close(self._text(trainer), len(trainer.history))

    def _text(self, trainer: Trainer) -> str:
        return trainer.history[self._done:].to_csv(header=False)


class JSONLLog(_Log):
    """Writes a line of JSON for each step: {"step", "epoch", "lr", "loss"}, step and epoch counted from 1.

    path: the file. Raises FileExistsError where a new run would overwrite another's file; a resumed one drops the lines
    of the steps that it does again.
    """

    every_step = False

    def on_fit_start(self, trainer: Trainer) -> None:
        refuse_to_overwrite(self.path, trainer)
        lines = self.path.read_bytes().splitlines(keepends=True) if self.path.exists() else []
        self._open(b"".join(lines[:trainer.step]), trainer.step)

    def on_step_end(self, trainer: Trainer) -> None:
        self._add(self._text(trainer), trainer.step)

    def on_fit_end(self, trainer: Trainer) -> None:
        self._close(self._text(trainer), trainer.step)

    def _text(self, trainer: Trainer) -> str:
        epoch = len(trainer.history) + 1    # of all fits of this trainer
        rows = [{"step": step, "epoch": epoch, "lr": lr, "loss": loss} for step, lr, loss in trainer.recent]
        return "".join(json.dumps(row) + "\n" for row in rows)


class TensorBoard(Callback):
    """Writes the history, epoch by epoch, to event files that TensorBoard shows.

    folder: for the event files. Raises ModuleNotFoundError naming the extra to install where there is no writer.
    """

    def __init__(self, folder: str | os.PathLike) -> None:
        try:
            import tensorboardX
        except ImportError:
            raise ModuleNotFoundError("writing for TensorBoard needs tensorboardX: pip install 'cnn[tensorboard]'"
                                      ) from None
        self.folder = Path(folder)
        self._make = tensorboardX.SummaryWriter

    def on_fit_start(self, trainer: Trainer) -> None:
        # what another process has written about steps that are done again is not shown
        self._writer = self._make(str(self.folder), purge_step=trainer.step + 1 if trainer.step else None)

    def on_epoch_end(self, trainer: Trainer) -> None:
        for name, value in trainer.history[-1].items():
            if name != "epoch" and not math.isnan(value):
                self._writer.add_scalar(name, value, trainer.step)
        self._writer.flush()

    def on_fit_end(self, trainer: Trainer) -> None:
        self._writer.close()
