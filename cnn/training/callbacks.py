"""What can be done along with a training run, at its four events."""
import contextlib
import json
import math
import os
import signal
import sys
import threading
import time
from pathlib import Path

import numpy as np

from cnn import files, shapes, streams
from cnn.training import checkpoint
from cnn.training.history import History


class TrainingDiverged(ArithmeticError):
    """The loss or a weight became NaN or infinite. The optimizer's state is then of no use any more, nor is the model,
    unless a callback has restored its best weights."""

    ADVICE = "try a lower lr, a schedule with warm-up, or a max_grad_norm such as 1"


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

    def on_fit_start(self, trainer):
        """Before the first epoch."""

    def on_step_end(self, trainer):
        """After each step, or each few: `trainer.step`, `trainer.loss` (of the last batch), `trainer.lr`."""

    def on_epoch_end(self, trainer):
        """After each epoch: `trainer.history[-1]` is its row."""

    def on_fit_end(self, trainer):
        """After the last epoch, and where anything else has ended `fit`: an exception, Ctrl-C. It is called if
        `on_fit_start` has returned, and does what must be done in any case: close files, restore weights."""

    def measuring(self):
        """A context manager in which the model holds the weights to measure and to keep: those of training."""
        return contextlib.nullcontext()


def end_fit(trainer, begun, error=None):
    """Call `on_fit_end` of all callbacks that have begun, whatever one of them raises.

    error: what ended `fit`, which is raised afterwards; otherwise this raises the first error of a callback. All others
    become notes of that one.
    """
    first = None
    for callback in begun:
        try:
            callback.on_fit_end(trainer)
        except BaseException as failure:
            if error is None and first is None:
                first = failure
            else:
                (error or first).add_note(f"and then {type(callback).__name__}.on_fit_end raised {failure!r}")
    try:
        if first is not None:
            raise first
    finally:
        del first, error    # their tracebacks refer to this frame


class Progress(Callback):
    """A bar for every epoch with loss, accuracy and images/s; silent where the output is no terminal."""

    every_step = False

    def __init__(self, file=None, every=0.1):
        self.file = file or sys.stderr
        self.every = every      # seconds between updates
        self._bar, self._shown = None, False

    def on_fit_start(self, trainer):
        self._shown = streams.isatty(self.file)

    def on_step_end(self, trainer):
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

    def on_epoch_end(self, trainer):
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    on_fit_end = on_epoch_end


class EpochLog(Callback):
    """Prints a line for every epoch."""

    def on_epoch_end(self, trainer):
        row = trainer.history[-1]
        text = (f"epoch {trainer.epoch + 1:3d}/{trainer.epochs}  loss {row['train_loss']:.4f}  "
                f"accuracy {row['train_accuracy']:.4f}")
        if not math.isnan(row["val_accuracy"]):
            text += f"  held out: loss {row['val_loss']:.4f}  accuracy {row['val_accuracy']:.4f}"
        streams.say(f"{text}  {row['images_per_second']:,.0f} images/s")


# ---------------------------------------------------------------- logs

class _Log(Callback):
    """A file that grows by whole lines, and that an interruption leaves as it should be."""

    def __init__(self, path):
        self.path = Path(path)

    def _open(self, content, done):
        files.write(self.path, content)
        self._file, self._size, self._done = files.Log(self.path), len(content), done

    def _add(self, text, done):
        """Write the lines up to a step or row."""
        self._file.write(text)
        self._size, self._done = self._size + len(text.encode()), done

    def _close(self, text, done):
        """Close the file; where an interruption came before or during `_add`, its lines are written first."""
        try:
            if self._done != done:
                if self.path.is_file():
                    os.truncate(self.path, self._size)
                self._add(text, done)
        finally:
            self._file.close()


class CSVLog(_Log):
    """Writes the history to a CSV file, a line as soon as an epoch ends.

    Raises FileExistsError where a new run would overwrite another's file; a resumed one writes its own anew.
    """

    def on_fit_start(self, trainer):
        _refuse_to_overwrite(self.path, trainer, History().to_csv().encode())
        self._open(trainer.history.to_csv().encode(), len(trainer.history))

    def on_epoch_end(self, trainer):
        self._add(self._text(trainer), len(trainer.history))

    def on_fit_end(self, trainer):
        self._close(self._text(trainer), len(trainer.history))

    def _text(self, trainer):
        return trainer.history[self._done:].to_csv(header=False)


class JSONLLog(_Log):
    """Writes a line of JSON for each step: {"step", "epoch", "lr", "loss"}, step and epoch counted from 1.

    Raises FileExistsError where a new run would overwrite another's file; a resumed one drops the lines of the
    steps that it does again.
    """

    every_step = False

    def on_fit_start(self, trainer):
        _refuse_to_overwrite(self.path, trainer)
        lines = self.path.read_bytes().splitlines(keepends=True) if self.path.exists() else []
        self._open(b"".join(lines[:trainer.step]), trainer.step)

    def on_step_end(self, trainer):
        self._add(self._text(trainer), trainer.step)

    def on_fit_end(self, trainer):
        self._close(self._text(trainer), trainer.step)

    def _text(self, trainer):
        epoch = len(trainer.history) + 1    # of all fits of this trainer
        rows = [{"step": step, "epoch": epoch, "lr": lr, "loss": loss} for step, lr, loss in trainer.recent]
        return "".join(json.dumps(row) + "\n" for row in rows)


def _refuse_to_overwrite(path, trainer, nothing=b""):
    """nothing: what a file holds to which no run has added anything."""
    if trainer.step == 0 and path.exists() and path.stat().st_size and path.read_bytes() != nothing:
        raise FileExistsError(f"{path} exists already; a new run does not overwrite it")


class TensorBoard(Callback):
    """Writes the history, epoch by epoch, to event files that TensorBoard shows.

    folder: for the event files. Raises ModuleNotFoundError naming the extra to install where there is no writer.
    """

    def __init__(self, folder):
        try:
            import tensorboardX
        except ImportError:
            raise ModuleNotFoundError("writing for TensorBoard needs tensorboardX: pip install 'cnn[tensorboard]'"
                                      ) from None
        self.folder = Path(folder)
        self._make = tensorboardX.SummaryWriter

    def on_fit_start(self, trainer):
        # what another process has written about steps that are done again is not shown
        self._writer = self._make(str(self.folder), purge_step=trainer.step + 1 if trainer.step else None)

    def on_epoch_end(self, trainer):
        for name, value in trainer.history[-1].items():
            if name != "epoch" and not math.isnan(value):
                self._writer.add_scalar(name, value, trainer.step)
        self._writer.flush()

    def on_fit_end(self, trainer):
        self._writer.close()


# ---------------------------------------------------------------- stopping, and the best weights

class _Best(Callback):
    """Knows the best epoch so far. A NaN is never better, and neither is what differs by less than min_delta, nor an
    epoch whose last steps have made weights NaN or infinite."""

    def __init__(self, monitor, min_delta):
        owner = type(self).__name__
        if monitor not in History.COLUMNS:
            raise ValueError(f"{owner}: monitor must be one of {', '.join(History.COLUMNS)}, got {monitor!r}")
        self.monitor = monitor
        self.min_delta = shapes.number(owner, "min_delta", min_delta, 0)
        self.best, self.best_epoch = None, 0

    def on_fit_start(self, trainer):
        if self.monitor.startswith("val_") and not trainer.validates:
            raise ValueError(f"{type(self).__name__}: monitor {self.monitor} needs validation data: give fit some, or "
                             f"monitor train_loss")

    def _improves(self, trainer):
        """Whether the epoch that has just ended is the best."""
        value, sign = trainer.history[-1][self.monitor], 1 if "accuracy" in self.monitor else -1
        if math.isnan(value) or (self.best is not None and not sign * (value - self.best) > self.min_delta):
            return False
        with trainer.measuring():
            return all(np.isfinite(array).all() for _, array in trainer.model._state())

    def state_dict(self):
        return {"best": self.best, "best_epoch": self.best_epoch}

    def load_state_dict(self, state):
        owner, best = type(self).__name__, state["best"]
        if best is not None:
            shapes.number(owner, "best of the state", best)
        self.best = best
        self.best_epoch = shapes.integer(owner, "best_epoch of the state", state["best_epoch"])


class EarlyStopping(_Best):
    """Ends training after `patience` epochs in a row that were no better than the best before them.

    monitor: a column of the History; a larger accuracy is better, a smaller everything else. min_delta: what is
    better by no more than this does not count. restore_best: give the model the weights of the best epoch when
    training ends, for whatever reason: Ctrl-C, divergence and other exceptions, too.

    Each `fit` starts afresh, whether of this model or another.
    """

    def __init__(self, monitor="val_loss", patience=5, min_delta=0.0, restore_best=True):
        super().__init__(monitor, min_delta)
        self.patience = shapes.integer("EarlyStopping", "patience", patience, 1)
        self.restore_best = bool(restore_best)
        self.wait = 0       # epochs since the best
        self._weights = {}

    def on_fit_start(self, trainer):
        super().on_fit_start(trainer)
        if not trainer.resumes(self):
            self.best, self.best_epoch, self.wait, self._weights = None, 0, 0, {}
        self._rows = len(trainer.history)
        self._decide(trainer)

    def on_epoch_end(self, trainer):
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

    def _decide(self, trainer):
        if self.wait >= self.patience:
            trainer.stop = (f"{self.monitor} has not become better than {self.best} of epoch {self.best_epoch} in "
                            f"{self.wait} epochs")

    def on_fit_end(self, trainer):
        if self._rows < len(trainer.history):       # an interruption came before on_epoch_end
            self.on_epoch_end(trainer)
        if self._weights:
            trainer.model.load_state_dict(self._weights)

    def state_dict(self):
        return {**super().state_dict(), "wait": self.wait, "weights": self._weights}

    def load_state_dict(self, state):
        super().load_state_dict(state)
        self.wait = shapes.integer("EarlyStopping", "wait of the state", state["wait"])
        self._weights = dict(state["weights"])


class BestCheckpoint(_Best):
    """Writes the model to a file (see cnn.save_model) whenever an epoch was the best so far.

    path: the file. monitor, min_delta: as of EarlyStopping. description: what `cnn.save_model` takes; `epoch` and
    the value of `monitor` are added.

    The best is that of all fits of a trainer, as the file is; another trainer starts afresh. Raises what `save_model`
    raises for a description when it is made, and for one that does not fit the model before the first step.
    """

    def __init__(self, path, monitor="val_loss", min_delta=0.0, description=None):
        super().__init__(monitor, min_delta)
        self.path = Path(path)
        self.description, self._shapes = checkpoint.described("BestCheckpoint", description or {})

    def on_fit_start(self, trainer):
        super().on_fit_start(trainer)
        if trainer.step == 0:
            self.best, self.best_epoch = None, 0
        _refuse_to_overwrite(self.path, trainer)
        checkpoint.check_shapes("BestCheckpoint", trainer.model, self._shapes)

    def on_epoch_end(self, trainer):
        row = trainer.history[-1]
        value = row[self.monitor]
        if self._improves(trainer):
            with trainer.measuring():
                checkpoint.save_model(self.path, trainer.model, {
                    **self.description, "epoch": row["epoch"], self.monitor: value})
            self.best, self.best_epoch = value, row["epoch"]


class TimeLimit(Callback):
    """Ends training once so many minutes have passed since the start of `fit`, after the steps at hand.

    clock: what tells the time in seconds.
    """

    every_step = False

    def __init__(self, minutes, clock=time.monotonic):
        self.minutes = shapes.number("TimeLimit", "minutes", minutes, above=0)
        self.clock = clock
        self.reached = False

    def on_fit_start(self, trainer):
        self._end, self.reached = self.clock() + 60 * self.minutes, False

    def on_step_end(self, trainer):
        if self.clock() >= self._end:
            self.reached = True
            trainer.stop = f"the time limit of {self.minutes:g} minutes is reached"


# ---------------------------------------------------------------- checkpoints

class Checkpoint(Callback):
    """Writes checkpoints, folder/step-00000123.safetensors, from which `cnn.checkpoint.resume` goes on.

    every: a number of steps; "epoch"; or "auto", at the end of an epoch but not more often than every ten seconds.
    There is one whenever training is stopped or complete, too. keep: how many of the newest stay.
    It comes behind the callbacks whose state it is to record and which may stop the training.

    `path` is the last one written, or None. Raises OSError naming the file that could not be written, and
    FileExistsError where a new run meets another's checkpoints; TrainingDiverged instead of writing weights that
    are not finite.
    """

    def __init__(self, folder, every="auto", keep=3, clock=time.monotonic):
        self.folder = Path(folder)
        if every not in ("auto", "epoch"):
            every = shapes.integer("Checkpoint", "every", every, 1)
        self.every, self.clock = every, clock
        self.keep = shapes.integer("Checkpoint", "keep", keep, 1)
        self.path = self._position = None

    @property
    def every_step(self):
        return not isinstance(self.every, str)

    def on_fit_start(self, trainer):
        self.path = self._position = None
        self.folder.mkdir(parents=True, exist_ok=True)
        if trainer.step == 0 and checkpoint.checkpoints(self.folder):
            raise FileExistsError(f"{self.folder} holds the checkpoints of another run")
        files.clean(self.folder, ".step-*")     # of a run that was killed while writing
        self._saved = self.clock()

    def on_step_end(self, trainer):
        if trainer.stop or (not isinstance(self.every, str) and trainer.step % self.every == 0):
            self.save(trainer)

    def on_epoch_end(self, trainer):
        if (trainer.stop or trainer.epoch + 1 == trainer.epochs or self.every == "epoch"
                or (self.every == "auto" and self.clock() - self._saved >= 10)):
            self.save(trainer)

    def save(self, trainer):
        """Write a checkpoint now, unless this is where the last one was written; returns its path."""
        position = trainer.step, trainer.position
        if position == self._position:
            return self.path
        state = trainer.state_dict()
        if not all(np.isfinite(value).all() for value in state["model"].values()):
            raise TrainingDiverged(f"weights became NaN or infinite by step {trainer.step} (epoch "
                                   f"{trainer.epoch + 1}) at learning rate {trainer.lr:g}; {TrainingDiverged.ADVICE}")
        path = checkpoint.path_of(self.folder, trainer.step)
        checkpoint.save(path, state)
        self.path, self._position, self._saved = path, position, self.clock()
        older = [p for p in checkpoint.checkpoints(self.folder) if checkpoint.step_of(p) <= trainer.step]
        for old in older[:-self.keep]:
            old.unlink()
        return path


class Interrupted(Exception):
    """Training was told to stop by a signal, `number`; `path` is the checkpoint to go on from."""

    def __init__(self, number, path):
        super().__init__(f"stopped by {signal.Signals(number).name} after step {checkpoint.step_of(path)}")
        self.number, self.path = number, path


class StopOnSignal(Callback):
    """On Ctrl-C or SIGTERM finishes the steps at hand, writes a checkpoint, and raises Interrupted out of `fit`.

    A second signal stops at once, as it does without this. checkpoint: a Checkpoint, which comes before this among
    the callbacks. It listens within a `with` block, in the main thread only.
    """

    SIGNALS = signal.SIGINT, signal.SIGTERM
    every_step = False

    def __init__(self, checkpoint):
        self.checkpoint = checkpoint
        self.number = None
        self._before = {}

    def __enter__(self):
        self.number = None
        if threading.current_thread() is threading.main_thread():
            for number in self.SIGNALS:
                if signal.getsignal(number) is not signal.SIG_IGN:      # as nohup asks
                    self._before[number] = signal.signal(number, self._noted)
        return self

    def __exit__(self, *_):
        while self._before:
            signal.signal(*self._before.popitem())

    def _noted(self, number, frame):
        self.number = number
        self.__exit__()
        # print may not be called from here; where there is no stderr, 2 may be any file
        with contextlib.suppress(OSError, ValueError, AttributeError):
            name = signal.Signals(number).name
            os.write(sys.__stderr__.fileno(), f"\n{name}: finishing the step; once more stops at once\n".encode())

    def on_step_end(self, trainer):
        if self.number is not None:
            raise Interrupted(self.number, self.checkpoint.save(trainer))

    on_epoch_end = on_step_end
