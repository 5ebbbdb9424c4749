"""The base class of callbacks, and what they share."""
from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import numpy as np

from cnn import ranks

if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from pathlib import Path

    from cnn.training.trainer import Trainer


class TrainingDiverged(ArithmeticError):
    """The loss or a weight became NaN or infinite. The optimizer's state is then of no use any more, nor is the model,
    unless a callback has restored its best weights."""

    ADVICE = ("try a lower lr, a schedule with warm-up, or a max_grad_norm such as 1; `with cnn.debug():` (--debug) "
              "finds where it begins")

    @classmethod
    def of_loss(cls, trainer: Trainer, rate: float, images: np.ndarray | None) -> TrainingDiverged:
        """The exception for a trainer whose loss is not finite, at this learning rate; images: of the batch, as floats
        of any shape, or None."""
        advice = cls.ADVICE
        if images is not None and not np.isfinite(images).all():
            advice = "images of this batch hold NaN or infinity"
        return cls(f"the loss became {trainer.loss} in step {trainer.step} (epoch {trainer.epoch + 1}) at learning "
                   f"rate {rate:g}; {advice}")


class Callback:
    """Override what you need; every event gets the trainer, whose attributes say where the run is.

    Callbacks are called in the order in which the trainer has them. Where none that overrides `on_step_end` has
    `every_step`, training takes several steps before it calls them, as many as are done in twenty milliseconds, which
    saves up to a tenth of a short step: `trainer.recent` tells of all of them. One that must remember something when
    a run is resumed has `state_dict()`, a dict of arrays and what JSON can hold, and `load_state_dict(state)`: its
    state is then a part of every checkpoint, under the name of its class. Its `on_fit_start` forgets what an earlier
    `fit` has left, unless `trainer.resumes(self)`.
    """

    every_step = True       # whether `on_step_end` must be called after every single step

    def on_fit_start(self, trainer: Trainer) -> None:
        """Before the first epoch."""

    def on_step_end(self, trainer: Trainer) -> None:
        """After each step, or each few: `trainer.step`, `trainer.loss` (of the last batch), `trainer.lr`."""

    def on_epoch_end(self, trainer: Trainer) -> None:
        """After each epoch: `trainer.history[-1]` is its row."""

    def on_fit_end(self, trainer: Trainer) -> None:
        """After the last epoch, and where anything else has ended `fit`: an exception, Ctrl-C. It is called if
        `on_fit_start` has returned, and does what must be done in any case: close files, restore weights."""

    def measuring(self) -> AbstractContextManager[None]:
        """A context manager in which the model holds the weights to measure and to keep: those of training."""
        return contextlib.nullcontext()


def end_fit(trainer: Trainer, begun: list[Callback], error: BaseException | None = None) -> None:
    """Call `on_fit_end` of all callbacks that have begun, whatever one of them raises.

    error: what ended `fit`; the caller raises it afterwards. Without one, this raises the first error of a callback.
    Later errors become notes of the first.
    """
    first: BaseException | None = None
    for callback in begun:
        try:
            callback.on_fit_end(trainer)
        except BaseException as failure:
            before = error or first
            if before is None:
                first = failure
            else:
                before.add_note(f"and then {type(callback).__name__}.on_fit_end raised {failure!r}")
    try:
        if first is not None:
            raise first
    finally:
        before = None
        del first, error    # their tracebacks refer to this frame


def refuse_to_overwrite(path: Path, trainer: Trainer, nothing: bytes = b"") -> None:
    """Refuse a file of another run. nothing: what a file holds to which no run has added anything."""
    if ranks.leads() and trainer.step == 0 and path.exists() and path.stat().st_size and path.read_bytes() != nothing:
        raise FileExistsError(f"{path} exists already; a new run does not overwrite it")
