"""The best epoch so far: stopping when none is better any more, keeping its weights."""
from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cnn import shapes
from cnn.training import checkpoint
from cnn.training.callbacks.base import Callback, refuse_to_overwrite
from cnn.training.history import History

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping
    from typing import Any

    from cnn.layers import Module
    from cnn.training.trainer import Trainer


class _Best(Callback):
    """Knows the best epoch so far. A NaN is never better, and neither is what differs by less than min_delta, nor an
    epoch whose last steps have made weights NaN or infinite.

    Raises TypeError or ValueError for arguments that do not fit, and at the start of `fit` ValueError for a monitor
    that needs validation data where there are none.
    """

    def __init__(self, monitor: str, min_delta: float, mode: str | None) -> None:
        owner = type(self).__name__
        own = isinstance(monitor, str) and monitor.startswith("val_") and (
            mode is not None or monitor.endswith(("_loss", "_accuracy")))
        if monitor not in History.COLUMNS and not own:
            raise ValueError(f"{owner}: monitor must be one of {', '.join(History.COLUMNS)}, or with a mode val_ and "
                             f"the name of a metric of the trainer, got {monitor!r}")
        if mode not in (None, "min", "max"):
            raise ValueError(f"{owner}: mode must be 'min', 'max' or None, got {mode!r}")
        self.monitor, self.mode = monitor, mode or ("max" if "accuracy" in monitor else "min")
        self.min_delta = shapes.number(owner, "min_delta", min_delta, 0)
        self.best, self.best_epoch = None, 0

    def on_fit_start(self, trainer: Trainer) -> None:
        if self.monitor.startswith("val_") and not trainer.validates:
            raise ValueError(f"{type(self).__name__}: monitor {self.monitor} needs validation data: give fit some, or "
                             f"monitor train_loss")
        if self.monitor not in trainer.history.columns:
            raise ValueError(f"{type(self).__name__}: monitor must be one of {', '.join(trainer.history.columns)}, got "
                             f"{self.monitor!r}")

    def _improves(self, trainer: Trainer) -> bool:
        """Whether the epoch that has just ended is the best."""
        value, sign = trainer.history[-1][self.monitor], 1 if self.mode == "max" else -1
        if math.isnan(value) or (self.best is not None and not sign * (value - self.best) > self.min_delta):
            return False
        with trainer.measuring():
            return all(np.isfinite(array).all() for _, array in trainer.model._state())

    def state_dict(self) -> dict[str, Any]:
        """The best figure and its epoch, as JSON can hold them."""
        return {"best": self.best, "best_epoch": self.best_epoch}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` returned, `state`. Raises TypeError or ValueError where it does not fit."""
        owner, best = type(self).__name__, state["best"]
        if best is not None:
            shapes.number(owner, "best of the state", best)
        self.best = best
        self.best_epoch = shapes.integer(owner, "best_epoch of the state", state["best_epoch"])


class EarlyStopping(_Best):
    """Ends training after `patience` epochs in a row that were no better than the best before them.

    monitor: a column of the History; a larger accuracy is better, a smaller everything else, unless mode, "min" or
    "max", says otherwise; it must be given for a metric of the trainer's (`val_` and its name). min_delta: what is
    better by no more than this does not count. restore_best: give the model the weights of the best epoch when
    training ends, for whatever reason: Ctrl-C, divergence and other exceptions, too.

    Each `fit` starts afresh, whether of this model or another.
    """

    def __init__(self, monitor: str = "val_loss", patience: int = 5, min_delta: float = 0.0,
                 restore_best: bool = True, mode: str | None = None) -> None:
        super().__init__(monitor, min_delta, mode)
        self.patience = shapes.integer("EarlyStopping", "patience", patience, 1)
        self.restore_best = shapes.flag("EarlyStopping", "restore_best", restore_best)
        self.wait = 0       # epochs since the best
        self._weights: dict[str, np.ndarray] = {}

    def on_fit_start(self, trainer: Trainer) -> None:
        super().on_fit_start(trainer)
        if not trainer.resumes(self):
            self.best, self.best_epoch, self.wait, self._weights = None, 0, 0, {}
        self._rows = len(trainer.history)
        self._decide(trainer)

    def on_epoch_end(self, trainer: Trainer) -> None:
        row = trainer.history[-1]
        if self._improves(trainer):
            weights = {}
            if self.restore_best:
                with trainer.measuring():
                    weights = trainer.model.state_dict()
            # at once, so that an interruption finds all of it or nothing
            self.best, self.best_epoch, self.wait, self._weights = row[self.monitor], row["epoch"], 0, weights
        else:
            self.wait += 1
        self._rows = len(trainer.history)
        self._decide(trainer)

    def _decide(self, trainer: Trainer) -> None:
        if self.wait >= self.patience:
            trainer.stop = (f"{self.monitor} has not become better than {self.best} of epoch {self.best_epoch} in "
                            f"{self.wait} epochs")

    def on_fit_end(self, trainer: Trainer) -> None:
        if self._rows < len(trainer.history):       # an interruption came before on_epoch_end
            self.on_epoch_end(trainer)
        if self._weights:
            trainer.model.load_state_dict(self._weights)

    def state_dict(self) -> dict[str, Any]:
        """The best figure, its epoch, the epochs since, and the best weights."""
        return {**super().state_dict(), "wait": self.wait, "weights": self._weights}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` returned, `state`. Raises TypeError or ValueError where it does not fit."""
        super().load_state_dict(state)
        self.wait = shapes.integer("EarlyStopping", "wait of the state", state["wait"])
        self._weights = dict(state["weights"])


class BestCheckpoint(_Best):
    """Writes the model to a file (see cnn.save_model) whenever an epoch was the best so far.

    path: the file. monitor, min_delta, mode: as of EarlyStopping. description: what `cnn.save_model` takes; `epoch` and
    the value of `monitor` are added. model: what to write in the place of the trainer's model, of which that is a part:
    a network whose head alone is trained.

    The best is that of all fits of a trainer, as the file is; another trainer starts afresh. Raises what `save_model`
    raises for a description when it is made, and for one that does not fit the model before the first step.
    """

    def __init__(self, path: str | os.PathLike, monitor: str = "val_loss", min_delta: float = 0.0,
                 description: dict | None = None, mode: str | None = None, model: Module | None = None) -> None:
        super().__init__(monitor, min_delta, mode)
        self.path, self.model = Path(path), model
        self.description, self._shapes = checkpoint.described("BestCheckpoint", description or {})

    def on_fit_start(self, trainer: Trainer) -> None:
        super().on_fit_start(trainer)
        if trainer.step == 0:
            self.best, self.best_epoch = None, 0
        refuse_to_overwrite(self.path, trainer)
        checkpoint.check_shapes("BestCheckpoint", self.model or trainer.model, self._shapes)

    def on_epoch_end(self, trainer: Trainer) -> None:
        row = trainer.history[-1]
        value = row[self.monitor]
        if self._improves(trainer):
            with trainer.measuring():
                checkpoint.save_model(self.path, self.model or trainer.model, {
                    **self.description, "epoch": row["epoch"], self.monitor: value})
            self.best, self.best_epoch = value, row["epoch"]
