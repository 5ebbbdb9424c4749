"""An epoch of training, or what is left of it, step by step; each function takes the Trainer."""
from __future__ import annotations

import math
import time
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING

from cnn import ranks
from cnn.engine import debugging
from cnn.training import accumulation, checks
from cnn.training import state as states
from cnn.training.callbacks.base import Callback, TrainingDiverged
from cnn.training.step import execute, together

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from cnn.data.loader import Data, DataLoader
    from cnn.engine.program import Program
    from cnn.training.step import Batch
    from cnn.training.trainer import Trainer


def rest(trainer: Trainer, loader: DataLoader, validation: Data | None) -> None:
    """What is left of this epoch."""
    trainer.model.train()
    trainer.epoch_images = loader.images
    trainer._loader_epoch, loader.start = loader.epoch, trainer._batch
    watchers = [c for c in trainer.callbacks if getattr(c.on_step_end, "__func__", None) is not Callback.on_step_end]
    patient = loader.accumulate == 1 and not any(getattr(watcher, "every_step", True) for watcher in watchers)
    start = time.perf_counter() - trainer._seconds
    try:
        batches = trainer._parts().batches(loader, partial(_at_once, trainer, patient))
        with closing(batches):      # and so end what reads ahead
            _steps(trainer, batches, watchers, start)
    finally:
        trainer._give_back()
    trainer._seconds = time.perf_counter() - start
    measured: dict[str, Any] = {}
    if validation is not None:
        with trainer.measuring():
            measured = trainer.evaluate(validation)
    states.end_epoch(trainer, measured)


def _at_once(trainer: Trainer, patient: bool) -> int:
    """How many steps to take in one call."""
    return ranks.largest(together(trainer._seconds_per_step) if patient else 1)


def _steps(trainer: Trainer, batches: Iterator[Batch], watchers: list[Callback], start: float) -> None:
    """Take the steps that are left of this epoch."""
    last: Batch | None = None
    prepared: Program | None = None
    whole = False
    for batch in batches:
        begun, trainer._rates = time.perf_counter(), []
        before = trainer.step, getattr(trainer.optimizer, "steps", None)
        try:
            if batch is not last or watchers:       # a callback may have changed anything
                step = trainer._parts()
                whole = step.fused and not trainer._apart(step, batch)
                prepared, last = trainer._prepared(step, batch) if whole else None, batch
            if prepared is None:
                _set_rate(trainer, 0)
                results = [single(trainer, batch)]
            else:
                results = execute(prepared, batch, partial(_set_rate, trainer))
            diverged = _record(trainer, results, batch.count)
        except BaseException:
            _catch_up(trainer, *before, batch, prepared)
            raise
        now = time.perf_counter()
        trainer._seconds, trainer._seconds_per_step = now - start, (now - begun) / len(results)
        for watcher in watchers if trainer.recent else ():
            watcher.on_step_end(trainer)
        trainer.stop = ranks.anywhere(trainer.stop)
        if diverged is not None:
            trainer.loss = diverged
            images = batch.images if batch.dataset is None else None
            raise TrainingDiverged.of_loss(trainer, trainer._rates[len(trainer.recent)], images)
        if trainer.stop:
            return
    trainer._passed = checks.some_step("Trainer.fit", trainer)


def single(trainer: Trainer, batch: Batch) -> tuple:
    """One step: the sum of the losses, what to divide it by, and how many images were right."""
    step = trainer._parts()
    apart = trainer._apart(step, batch)
    if step.fused and not apart:
        return execute(trainer._prepared(step, batch), batch)[0]
    with states.as_before(trainer):
        if apart:
            made = accumulation.gradients(step, batch.parts(), partial(_gradients, trainer))
        else:
            made = debugging.in_step(trainer.step + 1, step.gradients, batch)
        trainer._made = made        # before the update, see _catch_up
        trainer.optimizer.step()
    return made


def _gradients(trainer: Trainer, step: Any, batch: Batch) -> tuple:
    """Compute the gradients of a batch, without an update."""
    if step.fused:
        return execute(trainer._prepared(step, batch), batch)[0]
    return debugging.in_step(trainer.step + 1, step.gradients, batch)


def _set_rate(trainer: Trainer, step: int) -> None:
    """Set the learning rate of one of the steps that are taken next, together."""
    if trainer.schedule is not None:
        trainer.optimizer.lr = trainer.schedule(trainer.step + step)
    trainer._rates.append(trainer.optimizer.lr)


def _record(trainer: Trainer, results: list[tuple], count: int) -> float | None:
    """Take down the results of these steps, each on `count` images, up to one whose loss is not finite; returns
    that loss, or None."""
    recent: list[tuple[int, float, float]] = []
    diverged, loss = None, trainer.loss
    loss_sum, weight_sum, correct = trainer._loss_sum, trainer._weight_sum, trainer._correct
    for (total, weight, right), rate in zip(results, trainer._rates, strict=True):
        mean = total / weight if weight else 0.0 * total    # where all labels have weight 0, nothing counts
        if not math.isfinite(mean):
            diverged = mean
            break
        loss = mean
        loss_sum += total if weight else 0.0
        weight_sum += weight
        correct += right
        recent.append((trainer.step + len(recent) + 1, rate, mean))
    taken = len(recent)
    # at once, so that an interruption finds all of it done or nothing
    (trainer.recent, trainer.loss, trainer._loss_sum, trainer._weight_sum, trainer._correct, trainer.seen,
     trainer._batch, trainer.step) = (
        recent, loss, loss_sum, weight_sum, correct, trainer.seen + taken * count, trainer._batch + taken,
        trainer.step + taken)
    return diverged


def _catch_up(trainer: Trainer, step: int, updates: int | None, batch: Batch, prepared: Program | None) -> None:
    """Record the steps that the optimizer has made, where an interruption came before they were recorded."""
    made = 0 if trainer.step != step or updates is None else trainer.optimizer.steps - updates
    if made and made == (1 if prepared is None else batch.steps):
        _record(trainer, [trainer._made] if prepared is None else prepared.loss.results(made), batch.count)
