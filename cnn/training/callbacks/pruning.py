"""Ending the runs of a search that promise little."""
from __future__ import annotations

import math
from typing import TYPE_CHECKING

from cnn.training.callbacks.base import Callback
from cnn.training.history import History

if TYPE_CHECKING:
    from typing import Any

    from cnn.training.trainer import Trainer


class OptunaPruning(Callback):
    """Tells an Optuna trial of every epoch, and ends `fit` by optuna.TrialPruned where the study's pruner says so.

        def objective(trial):
            optimizer = cnn.SGD(model.parameters(), lr=trial.suggest_float("lr", 1e-3, 1, log=True))
            trainer = cnn.Trainer(model, optimizer, callbacks=[cnn.callbacks.OptunaPruning(trial, "val_accuracy")])
            return trainer.fit(train, 10, validation)[-1]["val_accuracy"]

    trial: an optuna.Trial, or anything with its `report(value, step)` and `should_prune()`; an epoch's step is its
    number, from 1. monitor: a measure of the history (`trainer.history.columns`); the study's direction must suit it.
    NaN is not reported. Needs Optuna: pip install 'cnn[sweep]'.

    Raises ValueError for another monitor, at the start of `fit` also for one that needs validation data where there are
    none; TypeError for a trial that is none.
    """

    def __init__(self, trial: Any, monitor: str = "val_loss") -> None:
        if monitor not in History.COLUMNS and not str(monitor).startswith("val_"):
            raise ValueError(f"OptunaPruning: monitor must be one of {', '.join(History.COLUMNS)}, got {monitor!r}")
        if not all(callable(getattr(trial, name, None)) for name in ("report", "should_prune")):
            raise TypeError(f"OptunaPruning: trial must be an optuna.Trial, got {type(trial).__name__}")
        self.trial, self.monitor = trial, monitor

    def on_fit_start(self, trainer: Trainer) -> None:
        if self.monitor.startswith("val_") and not trainer.validates:
            raise ValueError(f"OptunaPruning: monitor {self.monitor} needs validation data: give fit some, or monitor "
                             f"train_loss")
        if self.monitor not in trainer.history.columns:
            raise ValueError(f"OptunaPruning: monitor must be one of {', '.join(trainer.history.columns)}, got "
                             f"{self.monitor!r}")

    def on_epoch_end(self, trainer: Trainer) -> None:
        row = trainer.history[-1]
        if math.isnan(row[self.monitor]):
            return
        self.trial.report(row[self.monitor], row["epoch"])
        if self.trial.should_prune():
            raise require().TrialPruned(f"after epoch {row['epoch']} with {self.monitor} {row[self.monitor]:.4g}")


def require() -> Any:
    """The module optuna. Raises ModuleNotFoundError, naming the extra to install, where it is missing."""
    try:
        import optuna
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"a sweep needs Optuna: pip install 'cnn[sweep]' ({error})") from None
    return optuna
