"""A schedule that depends on what was measured."""
from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from cnn.schedules.base import Schedule


class ReduceLROnPlateau(Schedule):
    """`lr`, multiplied by `factor` whenever a figure has not improved for more than `patience` epochs.

    PyTorch's ReduceLROnPlateau. A Trainer hands it each epoch's row of the history (`observe`) and saves its state in
    checkpoints. It goes on from what it has seen: make a new one for another Trainer.

    monitor: the figure, a key of the rows (see cnn.history.History): "val_loss", "val_accuracy", "train_loss",
    "train_accuracy", or `val_` and the name of a metric of the Trainer's. mode: "min" or "max", what is better, which
    such a metric needs; default: "max" for accuracies, else "min". factor: in
    (0, 1). threshold: the smallest change that counts, relative to the best figure or, with threshold_mode="abs", as it
    is. cooldown: epochs after a drop that are not counted. min_lr: the lowest rate. eps: smaller drops are left out.
    A figure that is NaN is no improvement.
    """

    def __init__(self, lr: float, monitor: str = "val_loss", *, mode: str | None = None, factor: float = 0.1,
                 patience: int = 10, threshold: float = 1e-4, threshold_mode: str = "rel", cooldown: int = 0,
                 min_lr: float = 0.0, eps: float = 1e-8, warmup_steps: int = 0) -> None:
        super().__init__(warmup_steps)
        self.lr = self._number("lr", lr, minimum=0)
        own = str(monitor).startswith("val_") and (mode is not None or str(monitor).endswith(("_loss", "_accuracy")))
        if not own:
            self._one_of("monitor", monitor, ("val_loss", "val_accuracy", "train_loss", "train_accuracy"))
        self.monitor = monitor
        self.mode = ("max" if monitor.endswith("accuracy") else "min") if mode is None else self._one_of(
            "mode", mode, ("min", "max"))
        self.factor = self._number("factor", factor, above=0, below=1)
        self.patience = self._integer("patience", patience)
        self.threshold = self._number("threshold", threshold, minimum=0)
        self.threshold_mode = self._one_of("threshold_mode", threshold_mode, ("rel", "abs"))
        self.cooldown = self._integer("cooldown", cooldown)
        self.min_lr = self._number("min_lr", min_lr, minimum=0)
        self.eps = self._number("eps", eps, minimum=0)
        self.current, self.best, self.bad_epochs, self.cooldown_left = self.lr, None, 0, 0

    current: float              # the rate now
    best: float | None          # the best figure so far
    bad_epochs: int             # epochs since it, as they count
    cooldown_left: int          # epochs that do not count yet

    def rate(self, step: int) -> float:
        return self.current

    def observe(self, row: Mapping[str, float]) -> None:
        """Take down an epoch that has ended. row: its figures by name, `monitor` among them, or KeyError is raised."""
        if self.monitor not in row:
            raise KeyError(f"ReduceLROnPlateau: row must have the figure {self.monitor!r}, which monitor= names, got "
                           f"{', '.join(map(str, row))}")
        value = float(row[self.monitor])
        if self._better(value):
            self.best, self.bad_epochs = value, 0
        else:
            self.bad_epochs += 1
        if self.cooldown_left:
            self.cooldown_left -= 1
            self.bad_epochs = 0
        if self.bad_epochs > self.patience:
            lower = max(self.current * self.factor, self.min_lr)
            if self.current - lower > self.eps:
                self.current = lower
            self.cooldown_left, self.bad_epochs = self.cooldown, 0

    def _better(self, value: float) -> bool:
        if self.best is None:
            return not math.isnan(value)
        change = self.threshold if self.mode == "max" else -self.threshold
        bound = self.best * (1 + change) if self.threshold_mode == "rel" else self.best + change
        return value > bound if self.mode == "max" else value < bound

    def state_dict(self) -> dict[str, Any]:
        """What the next rates depend on, which JSON can hold: a dict with "current" (float), "best" (float or None),
        "bad_epochs" and "cooldown_left" (ints)."""
        return {"current": self.current, "best": self.best, "bad_epochs": self.bad_epochs,
                "cooldown_left": self.cooldown_left}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` returned. Raises TypeError or ValueError, before anything is changed, for
        anything else."""
        names = list(self.state_dict())
        if not isinstance(state, Mapping) or set(state) != set(names):
            raise ValueError(f"ReduceLROnPlateau: state must be a dict with {', '.join(names)}, got {state!r:.200}")
        current = self._number("current", state["current"], minimum=0)
        best = None if state["best"] is None else float(state["best"])
        counts = [self._integer(name, state[name]) for name in ("bad_epochs", "cooldown_left")]
        self.current, self.best = current, best
        self.bad_epochs, self.cooldown_left = counts
