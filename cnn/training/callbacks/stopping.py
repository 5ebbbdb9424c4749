"""Stopping from outside: a time limit, signals."""
from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from typing import TYPE_CHECKING

from cnn import ranks, shapes
from cnn.training import checkpoint
from cnn.training.callbacks.base import Callback

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from typing import Any, Self

    from cnn.training.callbacks.checkpoints import Checkpoint
    from cnn.training.trainer import Trainer


class TimeLimit(Callback):
    """Ends training after the steps at hand once so many minutes have passed since the start of `fit`.

    minutes: a number above 0; raises TypeError or ValueError for another. clock: a function that tells the time in
    seconds.
    """

    every_step = False

    def __init__(self, minutes: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.minutes = shapes.number("TimeLimit", "minutes", minutes, above=0)
        self.clock = clock
        self.reached = False

    def on_fit_start(self, trainer: Trainer) -> None:
        self._end, self.reached = self.clock() + 60 * self.minutes, False

    def on_step_end(self, trainer: Trainer) -> None:
        if self.clock() >= self._end:
            self.reached = True
            trainer.stop = f"the time limit of {self.minutes:g} minutes is reached"


class Interrupted(Exception):
    """Training was told to stop by a signal, `number`; `path` is the checkpoint to go on from."""

    def __init__(self, number: int, path: Path) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name} after step {checkpoint.step_of(path)}")
        self.number, self.path = number, path


class StopOnSignal(Callback):
    """On Ctrl-C or SIGTERM finishes the steps at hand, writes a checkpoint, and raises Interrupted out of `fit`.

    A second signal stops at once, as it does without this. checkpoint: a Checkpoint, which comes before this among
    the callbacks. It listens within a `with` block, in the main thread only.
    """

    SIGNALS = signal.SIGINT, signal.SIGTERM
    every_step = False

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint
        self.number: int | None = None
        self._before: dict = {}

    def __enter__(self) -> Self:
        self.number = None
        if threading.current_thread() is threading.main_thread():
            for number in self.SIGNALS:
                if signal.getsignal(number) is not signal.SIG_IGN:      # as nohup asks
                    self._before[number] = signal.signal(number, self._noted)
        return self

    def __exit__(self, *_: object) -> None:
        while self._before:
            signal.signal(*self._before.popitem())

    def _noted(self, number: int, frame: object) -> None:
        self.number = number
        self.__exit__()
        # print may not be called from here; where there is no stderr, 2 may be any file
        stderr: Any = sys.__stderr__        # or None
        with contextlib.suppress(OSError, ValueError, AttributeError):
            name = signal.Signals(number).name
            os.write(stderr.fileno(), f"\n{name}: finishing the step; once more stops at once\n".encode())

    def on_step_end(self, trainer: Trainer) -> None:
        number = ranks.largest(self.number or 0)
        if number:
            raise Interrupted(number, self.checkpoint.save(trainer))

    on_epoch_end = on_step_end
