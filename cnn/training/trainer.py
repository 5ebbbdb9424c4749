"""The training loop."""
from __future__ import annotations

import math
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import numpy as np

from cnn import ranks, shapes
from cnn.data import targets
from cnn.data.described import AnyDataset
from cnn.engine import backend
from cnn.engine.programs import Pool, Use, guards
from cnn.layers.losses import criterion_of
from cnn.training import checks, evaluation, measures
from cnn.training import epoch as epochs
from cnn.training import state as states
from cnn.training.callbacks.base import Callback, end_fit
from cnn.training.callbacks.progress import Progress
from cnn.training.history import History
from cnn.training.step import Batch, Step

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager
    from typing import Any

    from cnn.data.loader import Data, DataLoader
    from cnn.engine.program import Program
    from cnn.layers import Module
    from cnn.optim import Optimizer


class Trainer:
    """Trains a model and measures it.

        >>> train, test = cnn.data.load("mnist-sample")
        >>> model = cnn.models.lenet5(seed=0)
        >>> trainer = cnn.Trainer(model, cnn.SGD(model.parameters(), lr=0.05, momentum=0.9), progress=False)
        >>> history = trainer.fit(train, epochs=5)
        >>> trainer.evaluate(test)["accuracy"] > 0.9
        True

    model: a Module, with an output (N, K) for classes. optimizer: of its parameters. criterion: a loss, by default
    CrossEntropyLoss(), or a function or Module as cnn.losses.Criterion takes them; for a model with several outputs a
    dict of losses by their names, or a PerOutput, which has weights, too. loss: its name before.
    schedule: function from the step, from 0, to its learning rate (see cnn.schedules); where it has a method
    `observe(row)`, this is called with each complete epoch's row of the history. callbacks: see cnn.callbacks.
    progress: whether to show a progress bar. max_grad_norm: scale gradients down to this norm. backend: "kernels", or
    "reference" for plain NumPy (cnn.reference): the same steps to rounding, slowly. accumulate: batches whose gradients
    make up one step of `fit`, the gradient of the mean loss of all their images; the last step of an epoch takes what
    is left (docs/runs.md). metrics: what else `evaluate`, and `fit` on its validation data, measure: by name a function
    of scores (n, ...) and targets (n, ...), NumPy arrays of some of the images, that returns their mean, a number, of
    which the mean over all images is taken; or an object with `update(scores, targets)` and `compute()`, of which each
    pass takes a copy, such as `cnn.metrics.OverAll(function)` for what needs all images at once. inputs: names of those
    among the data set's labels, a dict, that the model gets after the images, in this order.

    Attributes for callbacks, while `fit` runs: `epoch`, `epochs`, `step`, `lr`, `loss`, `seen`, `epoch_images` (0 if
    unknown), `running_loss`, `running_accuracy`, `history`; `validates`, whether `fit` has validation data; `recent`, a
    list of (step, from 1, lr, loss) since the last call. Set `stop` to True or to a reason (str) to end `fit`.

    Raises TypeError or ValueError for wrong arguments, such as an optimizer of another model.
    """

    optimizer: Any      # an Optimizer, or something that steps as one; None where nothing is to be trained
    recent: list[tuple[int, float, float]]
    stop: bool | str
    _restored: list
    _loader: DataLoader | None
    _data: dict | None
    _program: Program | None
    _rates: list[float]
    _made: tuple

    def __init__(self, model: Module, optimizer: Optimizer | None, criterion: Callable[..., Any] | None = None,
                 schedule: Callable[[int], float] | None = None, callbacks: Iterable[Callback] = (),
                 max_grad_norm: float | None = None, progress: bool = True, backend: str = "kernels", *,
                 accumulate: int = 1, metrics: Mapping[str, Any] | None = None, inputs: Sequence[str] = (),
                 loss: Callable[..., Any] | None = None) -> None:
        checks.parts("Trainer", optimizer, model, schedule, callbacks := list(callbacks))
        self.backend = checks.backend_of("Trainer", backend)
        self.model, self.optimizer, self.schedule = model, optimizer, schedule
        self.criterion = criterion_of("Trainer", criterion, loss)
        self.max_grad_norm = (None if max_grad_norm is None
                              else shapes.number("Trainer", "max_grad_norm", max_grad_norm, above=0))
        self.accumulate = shapes.integer("Trainer", "accumulate", accumulate, 1)
        self.callbacks = [*([Progress()] if progress else []), *callbacks]
        self.inputs = checks.inputs_of("Trainer", inputs, model)
        figures: list[str] = getattr(self.criterion, "figures", list)()
        self.metrics = measures.checked("Trainer", metrics, figures)
        self.history = History()
        self.history.extra = tuple(f"val_{name}" for name in (*figures, *self.metrics))
        self.epochs = self.step = self.epoch_images = 0
        self.loss, self._seconds_per_step, self.recent = math.nan, math.inf, []
        self.stop, self.validates, self._loader, self._data = False, False, None, None
        self._loader_epoch, self._next_epoch, self._resumed, self._restored = 0, 0, False, []
        self._begin(0)
        self._programs, self._program = Pool(), None
        self._couples: tuple[tuple | None, bool] = None, False

    @property
    def lr(self) -> float:
        """The learning rate of the last step."""
        return self.optimizer.lr

    @property
    def running_loss(self) -> float:
        """Mean loss of this epoch's images so far."""
        return self._loss_sum / self._weight_sum if self._weight_sum else math.nan

    @property
    def running_accuracy(self) -> float:
        """Share of this epoch's images so far that were classified correctly, each before its step."""
        return self._correct / self.seen if self.seen else math.nan

    # ------------------------------------------------------------ training

    def fit(self, train: Data, epochs: int, validation: Data | None = None, batch_size: int = 64,
            seed: int = 0) -> History:
        """Train for a number of epochs; returns the History.

        train: a DataLoader, or what it takes, such as a Dataset, which is then shuffled by `seed` into batches of
        `batch_size`; each epoch has another order, also in a second `fit`. An iterable of batches keeps its order.
        validation: a Dataset (or as `train`) to evaluate after each epoch. Its classes are matched with those of
        `train` by name, and it is normalised as `train` is.

        After `load_state_dict`, `fit` continues from that state and needs the same arguments as before. It always calls
        every callback's `on_fit_end`. You may call it again after an interruption (Ctrl-C).

        Raises ValueError if data sets do not fit the model, each other or the state; TrainingDiverged if the loss
        becomes NaN or infinite. Warns if the schedule ends before the last epoch.
        """
        loader = checks.loader_of("Trainer.fit", train, batch_size, seed)
        if loader is not train:
            loader.epoch = self._next_epoch
        self.epochs = shapes.integer("Trainer.fit", "epochs", epochs, 0)
        if validation is not None:
            validation = checks.dataset_of("Trainer.fit", "validation", validation)
            validation = checks.matched("Trainer.fit", "validation", validation, loader.dataset, stacklevel=3)
        self.validates = validation is not None
        given = loader
        if self.accumulate > 1:
            loader = loader.grouped(self.accumulate)
        self.model.train()
        data = states.facts(self, loader)
        checks.before_fit("Trainer.fit", self, loader, data)
        self.stop, self._loader, self._data = False, loader, data
        if self._resumed:
            loader.epoch = self._loader_epoch
        else:
            self._restored, self._loader_epoch = [], loader.epoch
            self._begin(0)
        try:
            backend.using(self.backend, self._fit, loader, validation)
        finally:
            given.epoch, given.start = loader.epoch, loader.start
            if given is not train:
                self._next_epoch = loader.epoch
        return self.history

    def _fit(self, loader: DataLoader, validation: Data | None) -> None:
        """Train for the epochs that are left, between the callbacks' `on_fit_start` and `on_fit_end`."""
        begun, use = [], Use("Trainer.fit", whole=True)
        loaded = self.model.state_dict() if self._resumed else {}
        try:
            self._take(use)
            for callback in self.callbacks:
                callback.on_fit_start(self)
                begun.append(callback)
            self._resumed = False
            for epoch in range(self.epoch, self.epochs):
                if ranks.anywhere(self.stop):
                    break
                if epoch > self.epoch:
                    self._begin(epoch)
                epochs.rest(self, loader, validation)
                for callback in self.callbacks:
                    callback.on_epoch_end(self)
        except BaseException as error:
            end_fit(self, begun, error)
            if self._resumed:       # nothing has been done: the next fit goes on from the same weights
                self.model.load_state_dict(loaded)
            raise
        finally:
            use.leave()
            loader.start = 0
        end_fit(self, begun)

    def resumes(self, callback: Callback) -> bool:
        """Whether this `fit` goes on from a state that has this callback's, too. Otherwise, a callback that remembers
        something must start anew."""
        return any(callback is restored for restored in self._restored)

    def _begin(self, epoch: int) -> None:
        """Nothing of this epoch is done yet; `_passed` tells whether there are no more batches in it."""
        self.epoch, self.seen, self._batch, self._rows, self._passed = epoch, 0, 0, len(self.history), False
        self._loss_sum = self._weight_sum = self._correct = self._seconds = 0.0

    @property
    def _recorded(self) -> bool:
        """Whether the history has this epoch's row."""
        return len(self.history) > self._rows

    def train_step(self, images: np.ndarray, labels: np.ndarray) -> float:
        """One step on a batch; returns its mean loss (float), before the step.

        images: (N, C, H, W) of the model's dtype, N of at least 1; labels: (N, ...), as the loss wants them. The
        rate is the optimizer's, not the schedule's. If all labels have weight 0, the loss is NaN and the gradient 0.
        Raises TypeError or ValueError for wrong images or labels.
        """
        loss, weight, _ = self._train_step(images, labels)
        return loss / weight if weight else math.nan

    def _train_step(self, images: np.ndarray, labels: np.ndarray, each: int | None = None) -> tuple[float, float, int]:
        """`train_step` that returns what `single` of epoch.py does. each: see Batch."""
        images = shapes.images("Trainer.train_step", "images", images, self.model.dtype)
        labels = (targets.array_of("Trainer.train_step", labels) if isinstance(labels, dict) else
                  targets.as_array("Trainer.train_step", "labels", labels))
        if len(images) == 0:
            raise ValueError("Trainer.train_step: images must hold at least one image, got none")
        use = Use("Trainer.train_step")
        try:
            self._take(use)
            self.model.train()
            return backend.using(self.backend, epochs.single, self, Batch(labels, images, each=each))
        finally:
            self._give_back()
            use.leave()

    def _take(self, use: Use) -> None:
        """Keep other threads from the parameters."""
        getattr(self.optimizer, "settle", lambda: None)()       # before: parameters that move have other guards
        use.take(guards([*self.model.parameters(), *getattr(self.optimizer, "params", ())]), alone=True)

    def _prepared(self, step: Step, batch: Batch) -> Program:
        """The program of a step for such batches, which this trainer has until `_give_back`."""
        self.optimizer.settle()     # first of all, because it may move the parameters
        key = step.key(batch)
        if self._program is None or self._program.made_from != key or self._program.images < batch.count:
            self._give_back()
            self._program = self._programs.take(key, batch.count, lambda: step.written(batch))
        return self._program

    def _apart(self, step: Step, batch: Batch) -> bool:
        """Whether the batches that make up this one go through the network one by one."""
        if batch.each >= batch.count:
            return False
        key = self.model.made_of(), self.model.modes(), self.criterion, batch.form[0]
        if self._couples[0] != key:
            self._couples = key, step.couples(batch.form[0], batch.labels)
        return self._couples[1]

    def _give_back(self) -> None:
        taken, self._program = self._program, None
        self._programs.give(taken)

    def _parts(self) -> Step:
        """What a step is made of."""
        return Step(self.model, self.criterion, self.optimizer, self.max_grad_norm,
                    None if self._data is None else self._data["layout"], inputs=self.inputs)

    # ------------------------------------------------------------ stopping and going on

    @property
    def position(self) -> tuple[int, int]:
        """(epochs of this `fit` that are complete, batches done of the next one)."""
        return (self.epoch + 1, 0) if self._complete else (self.epoch, self._batch)

    @property
    def _complete(self) -> bool:
        return self._recorded and self._loader is not None and (
            self._batch == len(self._loader) if self._loader.sized else self._passed)

    def state_dict(self) -> dict[str, Any]:
        """All that `fit` needs to continue after this step, also in another process: dicts of arrays and JSON values.

        The state of the model, the optimizer, and of schedule and callbacks that have a `state_dict`; the counters of
        random layers; the position in the data; the history. Only `timing` depends on the clock.
        """
        return states.state_dict(self)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load what `state_dict` returned; the next `fit` continues from there, with bit-identical results.

        Make model, optimizer, schedule and callbacks as before. Raises ValueError or TypeError if the state does not
        fit; the trainer may then hold a part of it."""
        states.load_state_dict(self, state)

    def unchanged(self) -> AbstractContextManager[None]:
        """A context manager that restores the trainer's state at its end."""
        return states.unchanged(self)

    # ------------------------------------------------------------ measuring

    @contextmanager
    def measuring(self) -> Iterator[None]:
        """A context manager: the model with the weights that callbacks want measured and kept, such as an average."""
        with ExitStack() as stack:
            for callback in self.callbacks:
                stack.enter_context(callback.measuring())
            yield

    def evaluate(self, data: Data, tta: str | None = None) -> dict[str, Any]:
        """Loss and accuracy on a Dataset, or what else `fit` takes: {"loss", "accuracy", "images"}, NaN without images,
        and the trainer's metrics by name. With a PerOutput also `NAME_loss` of each output, and `NAME_accuracy` where
        its loss is one of classes; "accuracy" is the mean of these.

        tta: see `predict`; loss and accuracy are then those of the averaged scores. After `fit`, classes are matched
        by name with those of the training data, and images are normalised as these. The model is in evaluation mode
        meanwhile; its own mode is restored.
        """
        dataset = checks.dataset_of("Trainer.evaluate", "data", data)
        evaluation.check_tta("Trainer.evaluate", tta)
        if self._loader is not None:
            dataset = checks.matched("Trainer.evaluate", "data", dataset, self._loader.dataset, stacklevel=3)
        step = Step(self.model, self.criterion, inputs=self.inputs)
        return backend.using(self.backend, evaluation.evaluate, step, self._programs, dataset, tta, self.metrics)

    def predict(self, x: AnyDataset | np.ndarray, tta: str | None = None) -> np.ndarray:
        """Scores (N, K) of x, a Dataset (or BatchedDataset, ...), or images (N, C, H, W) as the model takes them; a
        tuple or dict of arrays where the model returns several.

        After `fit`, a Dataset is normalised as the training data are. The model is in evaluation mode meanwhile.
        tta (test-time augmentation): None; "flip", the mean of the scores (logits) of each image and its mirror
        image; or "flip+shift", which gives that mean a weight of 1/2, and 1/4 to the same mean of the image moved
        by one pixel down and right, and of the one moved up and left, reflected at its edges.
        """
        evaluation.check_tta("Trainer.predict", tta)
        if not isinstance(x, AnyDataset):
            x = evaluation.checked_images("Trainer.predict", x, self.model, tta)
        elif self._loader is not None:
            x = checks.normalised("Trainer.predict", "x", x, self._loader.dataset, stacklevel=3)
        return backend.using(self.backend, evaluation.predict, self.model, x, tta, self.inputs)
