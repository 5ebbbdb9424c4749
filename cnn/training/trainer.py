"""The training loop."""
import copy
import math
import time
from contextlib import ExitStack, contextmanager

import numpy as np

from cnn import shapes
from cnn._ext import augment
from cnn.data import DataLoader, Dataset
from cnn.engine import debugging
from cnn.engine.plan import LANES, PER_ACTIVE_BLOCK, PER_ACTIVE_THREAD, Program, Slot, circumstances
from cnn.engine.programs import Pool, Use, guards, left_to_emit
from cnn.functional.loss import targets
from cnn.graph.lower import write
from cnn.graph.passes import optimised
from cnn.layers.in_numpy import run_backward, run_forward
from cnn.layers.losses import CrossEntropyLoss
from cnn.layers.parts import evaluation
from cnn.layers.running import graph_of
from cnn.optim import clip_grad_norm
from cnn.training import checks
from cnn.training.callbacks import Callback, Progress, TrainingDiverged
from cnn.training.history import History

EVALUATION_BATCH = 512      # images at a time where nothing is learnt

# Steps in one call of the kernels: between two calls Python takes as long as a twentieth of a step of LeNet-5. So many
# at most, and no more than take so many seconds, because callbacks and signals wait for their end.
STEPS, SECONDS = 16, 0.02


class Trainer:
    """Trains a model and measures it.

    model: a Layer whose output is (N, K). optimizer: of its parameters. loss: CrossEntropyLoss.
    schedule: learning rate of each step, a function of the step's number from 0 (see cnn.schedules).
    callbacks: see cnn.callbacks; a progress bar is among them unless `progress` is false.
    max_grad_norm: scale gradients down to this norm.

    Where model and loss run in the kernels, a whole step (normalising, forward, loss, backward, update) is
    one program and a single call; otherwise its parts are called one after the other.

    While `fit` runs, `epoch`, `epochs`, `step`, `lr`, `loss`, `seen`, `epoch_images`, `running_loss`,
    `running_accuracy` and `history` tell callbacks where it is, `validates` whether it has validation data, and
    `recent`, a list of (step, from 1, lr, loss), what it has done since they were last called; setting `stop`, to True
    or a reason in words, ends it there.
    `state_dict` and `load_state_dict` carry a `fit`, from any step, to another process and the same bits.

    Raises TypeError or ValueError for arguments that do not fit, among them an optimizer of another model.
    """

    def __init__(self, model, optimizer, loss=None, schedule=None, callbacks=(), max_grad_norm=None,
                 progress=True):
        checks.optimizer_of("Trainer", optimizer, model)
        if schedule is not None and not callable(schedule):
            raise TypeError(f"Trainer: schedule must be a function of the step or None, got {schedule!r}")
        callbacks = list(callbacks)
        for callback in callbacks:
            if isinstance(callback, type):
                raise TypeError(f"Trainer: callbacks must be objects, got the class {callback.__name__}")
        self.model, self.optimizer, self.schedule = model, optimizer, schedule
        self.criterion = CrossEntropyLoss() if loss is None else loss
        self.max_grad_norm = (None if max_grad_norm is None
                              else shapes.number("Trainer", "max_grad_norm", max_grad_norm, above=0))
        self.callbacks = [*([Progress()] if progress else []), *callbacks]
        self.history = History()
        self.epochs = self.step = self.epoch_images = 0
        self.loss = math.nan
        self.recent = []
        self.stop = self.validates = False
        self._seconds_per_step = math.inf
        self._loader = self._data = None
        self._loader_epoch, self._next_epoch, self._resumed, self._restored = 0, 0, False, []
        self._begin(0)
        self._programs, self._program = Pool(), None

    @property
    def lr(self):
        """The learning rate of the last step."""
        return self.optimizer.lr

    @property
    def running_loss(self):
        """Mean loss of this epoch's images so far."""
        return self._loss_sum / self._weight_sum if self._weight_sum else math.nan

    @property
    def running_accuracy(self):
        """Share of this epoch's images so far that were classified rightly, each before its step."""
        return self._correct / self.seen if self.seen else math.nan

    # ------------------------------------------------------------ training

    def fit(self, train, epochs, validation=None, batch_size=64, seed=0):
        """Train for a number of epochs; returns the History.

        train: a DataLoader, or a Dataset that is then shuffled by `seed` into batches of `batch_size`. Each epoch has
        another order, those of a second `fit`, too.
        validation: a Dataset (or DataLoader) to evaluate after each epoch. Its classes are matched with those of
        `train` by name, and it is normalised as `train` is.

        After `load_state_dict` it goes on where that state was taken, and wants the same arguments as then. However it
        ends, every callback's `on_fit_end` is called. After an interruption (Ctrl-C) it may be called again.

        Raises ValueError for data that do not fit the model, each other or the state's; TrainingDiverged where the loss
        is NaN or infinite. Warns where the schedule is over before the last epoch.
        """
        loader = train if isinstance(train, DataLoader) else DataLoader(train, batch_size, shuffle=True, seed=seed)
        if loader is not train:
            loader.epoch = self._next_epoch
        self.epochs = shapes.integer("Trainer.fit", "epochs", epochs, 0)
        if validation is not None:
            validation = checks.matched("Trainer.fit", "validation", _dataset("Trainer.fit", "validation", validation),
                                        loader.dataset, stacklevel=3)
        data = self._check_fit(loader)
        self.stop, self._loader, self._data = False, loader, data
        self.validates = validation is not None
        if self._resumed:
            loader.epoch = self._loader_epoch
        else:
            self._restored, self._loader_epoch = [], loader.epoch
            self._begin(0)
        begun, use = [], Use("Trainer.fit", whole=True)
        loaded = self.model.state_dict() if self._resumed else None
        try:
            self._take(use)
            for callback in self.callbacks:
                callback.on_fit_start(self)
                begun.append(callback)
            self._resumed = False
            for epoch in range(self.epoch, self.epochs):
                if self.stop:
                    break
                if epoch > self.epoch:
                    self._begin(epoch)
                self._epoch(loader, validation)
                for callback in self.callbacks:
                    callback.on_epoch_end(self)
        except BaseException as error:
            self._end(begun, error)
            if self._resumed:       # nothing has been done: the next fit goes on from the same weights
                self.model.load_state_dict(loaded)
            raise
        finally:
            use.leave()
            loader.start = 0
            if loader is not train:
                self._next_epoch = loader.epoch
        self._end(begun)
        return self.history

    def _check_fit(self, loader):
        """Refuse what the first epochs would stumble over; returns what a state tells of the data."""
        owner, data = "Trainer.fit", loader.dataset
        if self.optimizer is None:
            raise ValueError(f"{owner}: the trainer must have an optimizer, got None")
        if len(loader) == 0:
            raise ValueError(f"{owner}: there is no batch to train on: {len(data)} images in batches of "
                             f"{loader.batch_size}")
        checks.optimizer_of(owner, self.optimizer, self.model)
        facts = {"images": len(data), "batch_size": loader.batch_size, "shuffle": loader.shuffle, "seed": loader.seed,
                 "drop_last": loader.drop_last, "classes": list(data.classes), "mean": list(data.mean),
                 "std": list(data.std)}
        if self._resumed and self._data is not None:
            for name, value in self._data.items():      # a state of an earlier version has fewer
                if facts.get(name) != value:
                    raise ValueError(f"{owner}: the state to go on from belongs to data with {name} {value}, got "
                                     f"{facts.get(name)}")
        epoch, batch = (self.epoch, self._batch) if self._resumed else (0, 0)
        steps = (self.epochs - epoch) * len(loader) - batch
        if steps > 0:
            self.model.train()
            checks.single_values(owner, self.model, loader)
            checks.end_of_schedule(owner, self.schedule, self.step, steps, stacklevel=4)
        return facts

    def _end(self, begun, error=None):
        """Call `on_fit_end` of all callbacks that have begun, whatever one of them raises. What ended `fit` is raised
        first of all; else the first of these."""
        first = None
        for callback in begun:
            try:
                callback.on_fit_end(self)
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

    def resumes(self, callback):
        """Whether this `fit` goes on from a state that has this callback's, too. Otherwise, a callback that remembers
        something must start anew."""
        return any(callback is restored for restored in self._restored)

    def _begin(self, epoch):
        """Nothing of this epoch is done yet."""
        self.epoch, self.seen, self._batch, self._rows = epoch, 0, 0, len(self.history)
        self._loss_sum = self._weight_sum = self._correct = self._seconds = 0.0

    @property
    def _recorded(self):
        """Whether the history has this epoch's row."""
        return len(self.history) > self._rows

    def _epoch(self, loader, validation):
        """What is left of this epoch."""
        self.model.train()
        self.epoch_images = len(loader.dataset)
        self._loader_epoch, loader.start = loader.epoch, self._batch
        watchers = [c for c in self.callbacks if getattr(c.on_step_end, "__func__", None) is not Callback.on_step_end]
        self._patient = not any(getattr(watcher, "every_step", True) for watcher in watchers)
        start = time.perf_counter() - self._seconds
        try:
            self._steps(loader, watchers, start)
        finally:
            self._give_back()
        self._seconds = time.perf_counter() - start
        measured = {}
        if validation is not None:
            with self.measuring():
                measured = self.evaluate(validation)
        self.history.append({
            "epoch": len(self.history) + 1, "lr": self.optimizer.lr, "train_loss": self.running_loss,
            "train_accuracy": self.running_accuracy, "val_loss": measured.get("loss", math.nan),
            "val_accuracy": measured.get("accuracy", math.nan), "seconds": self._seconds,
            "images_per_second": self.seen / self._seconds})

    def _steps(self, loader, watchers, start):
        """Take the steps that are left of this epoch."""
        fused, last, prepared = self._fused(self.optimizer), None, None
        for batch in self._batches(loader):
            begun, self._rates, before = time.perf_counter(), [], (self.step, getattr(self.optimizer, "steps", None))
            try:
                if not fused:
                    self._set_rate(0)
                    results = [self._step(batch)]
                else:
                    if batch is not last or watchers:       # a callback may have changed anything
                        prepared, last = self._prepared(batch), batch
                    results = self._execute(prepared, batch, self._set_rate)
                diverged = self._record(results, batch.count)
            except BaseException:
                self._catch_up(*before, batch, prepared)
                raise
            now = time.perf_counter()
            self._seconds, self._seconds_per_step = now - start, (now - begun) / len(results)
            for watcher in watchers if self.recent else ():
                watcher.on_step_end(self)
            if diverged is not None:
                self.loss = diverged
                advice = TrainingDiverged.ADVICE
                if batch.dataset is None and not np.isfinite(batch.images).all():
                    advice = "images of this batch hold NaN or infinity"
                raise TrainingDiverged(f"the loss became {self.loss} in step {self.step} (epoch {self.epoch + 1}) "
                                       f"at learning rate {self._rates[len(self.recent)]:g}; {advice}")
            if self.stop:
                break

    def _set_rate(self, step):
        """Set the learning rate of one of the steps that are taken next, together."""
        if self.schedule is not None:
            self.optimizer.lr = self.schedule(self.step + step)
        self._rates.append(self.optimizer.lr)

    def _record(self, results, count):
        """Take down the results of these steps, each on `count` images, up to one whose loss is not finite; returns
        that loss, or None."""
        recent, diverged, loss = [], None, self.loss
        loss_sum, weight_sum, correct = self._loss_sum, self._weight_sum, self._correct
        for (total, weight, right), rate in zip(results, self._rates, strict=True):
            mean = total / weight if weight else 0.0 * total    # where all labels have weight 0, nothing counts
            if not math.isfinite(mean):
                diverged = mean
                break
            loss = mean
            loss_sum += total if weight else 0.0
            weight_sum += weight
            correct += right
            recent.append((self.step + len(recent) + 1, rate, mean))
        taken = len(recent)
        # at once, so that an interruption finds all of it done or nothing
        (self.recent, self.loss, self._loss_sum, self._weight_sum, self._correct, self.seen, self._batch, self.step) = (
            recent, loss, loss_sum, weight_sum, correct, self.seen + taken * count, self._batch + taken,
            self.step + taken)
        return diverged

    def _catch_up(self, step, updates, batch, prepared):
        """Record the steps that the optimizer has made, where an interruption came before they were recorded."""
        if self.step != step or updates is None:
            return
        made = self.optimizer.steps - updates
        if made and made == (1 if prepared is None else batch.steps):
            self._record([self._made] if prepared is None else prepared.loss.results(made), batch.count)

    def _together(self):
        """How many steps to take in one call."""
        return max(1, min(STEPS, int(SECONDS / self._seconds_per_step))) if self._patient else 1

    def _batches(self, loader):
        """The batches of an epoch. Bytes are fetched, changed and normalised by the kernels."""
        dataset, fused = loader.dataset, self._fused(self.optimizer)
        if loader.drawable and self._fetches(dataset, self.optimizer):
            batch = None        # the same object again and again: what it is for is known after the first
            for chosen, changes, numbers in loader.drawn_batches(self._together):
                if batch is None or changes != batch.changes:
                    batch = _Batch(dataset.labels, chosen, dataset, None, changes)
                batch.images, batch.numbers = chosen, numbers
                yield batch
            return
        for images, labels in loader.raw_batches():
            if fused and images.dtype == np.uint8:
                yield _Batch(labels, np.arange(len(images))[None], dataset, images)
            else:
                images = dataset.normalise(images)
                yield _Batch(labels, images.astype(self.model.dtype or images.dtype, copy=False))

    def _fetches(self, dataset, *parts):
        return dataset.images.dtype == np.uint8 and self._fused(*parts)

    def _fused(self, *parts):
        """Whether the model, the loss and these parts can make up one program, and nobody wants to look inside."""
        return self.model.fused and not debugging.enabled() and all(
            left_to_emit(type(part), "__call__", "backward", "step") for part in (self.criterion, *parts))

    def train_step(self, images, labels):
        """One step on a batch; returns its mean loss (float), before the step.

        images: (N, C, H, W) of the model's dtype, N of at least 1; labels: integers (N,). The learning rate
        is the optimizer's; the schedule is not asked. The loss is NaN where all labels have class weight 0, and
        the gradient then 0. Raises TypeError or ValueError for what does not fit.
        """
        loss, weight, _ = self._train_step(images, labels)
        return loss / weight if weight else math.nan

    def _train_step(self, images, labels):
        """`train_step` that returns what `_step` does."""
        images = shapes.images("Trainer.train_step", "images", images, self.model.dtype)
        if len(images) == 0:
            raise ValueError("Trainer.train_step: images must hold at least one image, got none")
        use = Use("Trainer.train_step")
        try:
            self._take(use)
            self.model.train()
            return self._step(_Batch(labels, images))
        finally:
            self._give_back()
            use.leave()

    def _take(self, use):
        """Keep other threads from the parameters."""
        if hasattr(self.optimizer, "settle"):
            self.optimizer.settle()     # before, because parameters that move have other guards
        use.take(guards([*self.model.parameters(), *getattr(self.optimizer, "params", ())]), alone=True)

    def _step(self, batch):
        """One step: the sum of the losses, what to divide it by, and how many images were right."""
        if self._fused(self.optimizer):
            return self._execute(self._prepared(batch), batch)[0]
        with debugging.in_step(self.step + 1):
            scores = run_forward(self.model, batch.images)
            loss = self.criterion(scores, batch.labels)
            run_backward(self.model, self.criterion.backward(), False, batch.images.shape)
        if self.max_grad_norm is not None:
            clip_grad_norm(self.model.parameters(), self.max_grad_norm)
        total = getattr(self.criterion, "total", len(scores))
        self._made = loss * total if total else 0.0, total, _right(scores, batch.labels)    # see _catch_up
        self.optimizer.step()
        return self._made

    # ------------------------------------------------------------ stopping and going on

    @property
    def position(self):
        """(epochs of this `fit` that are complete, batches done of the next one)."""
        return (self.epoch + 1, 0) if self._complete else (self.epoch, self._batch)

    @property
    def _complete(self):
        return self._recorded and self._batch == len(self._loader)

    def state_dict(self):
        """All that `fit` needs to go on after this step: dicts within a dict, of arrays and what JSON can hold.

        Model, optimizer, and whichever of schedule and callbacks has a `state_dict`; the counters of layers
        that draw random numbers; the place in the data; the history. What depends on the clock is in `timing`
        alone.
        """
        epoch, batch = self.position
        # the row of an epoch that was stopped is not its last word
        history = self.history[:-1] if self._recorded and not self._complete else self.history
        sums = {"seen": self.seen, "loss_sum": float(self._loss_sum), "weight_sum": float(self._weight_sum),
                "correct": float(self._correct)}
        return {
            **{name: part.state_dict() for name, part in self._parts().items()},
            "counters": [layer.step for layer in self._random_layers()],
            "position": {"step": self.step, "epoch": epoch, "batch": batch, "loss": self.loss, "data": self._data,
                         "loader_epoch": self._loader_epoch + self._complete,
                         **(sums if batch else dict.fromkeys(sums, 0))},
            "history": history.results(),
            "timing": {"history": history.timing(), "seconds": self._seconds if batch else 0.0},
        }

    def load_state_dict(self, state):
        """Take over what `state_dict` returned; the next `fit` goes on from there.

        Model, optimizer, schedule and callbacks must be made as they were then. Raises ValueError or TypeError
        where the state does not fit; the trainer may then hold a part of it.
        """
        try:
            position, counters, timing = state["position"], state["counters"], state["timing"]
            parts, layers = self._parts(), self._random_layers()
            saved = {name for name in state if name not in ("position", "counters", "history", "timing")}
            if saved - set(parts):
                raise ValueError(f"Trainer: the state has {', '.join(sorted(saved - set(parts)))}, which this "
                                 f"trainer does not have")
            if len(counters) != len(layers):
                raise ValueError(f"Trainer: the state has {len(counters)} random layers, the model {len(layers)}")
            self._restored = []
            for name, part in parts.items():
                if name in saved or part not in self.callbacks:     # a callback may be new
                    part.load_state_dict(state[name])
                    self._restored.append(part)
            for layer, step in zip(layers, counters, strict=True):
                layer.step = step
            self.history[:] = History.joined(state["history"], timing["history"])   # before _begin, which counts them
            for name in ("step", "epoch", "batch", "seen", "loader_epoch"):
                shapes.integer("Trainer", f"{name} of the state", position[name], 0, 2**63 - 1)
            self._begin(position["epoch"])
            self._batch, self.seen, self.step = (position[name] for name in ("batch", "seen", "step"))
            self._loss_sum, self._weight_sum, self._correct, self.loss, self._seconds = (
                float(value) for value in (position["loss_sum"], position["weight_sum"], position["correct"],
                                           position["loss"], timing["seconds"]))
            if not isinstance(position["data"], (dict, type(None))):
                raise TypeError(f"Trainer: data of the state must be a dict, got {type(position['data']).__name__}")
            self._loader_epoch, self._data = position["loader_epoch"], position["data"]
        except KeyError as error:
            raise ValueError(f"Trainer: the state lacks {error}") from None
        self._resumed = True

    @contextmanager
    def unchanged(self):
        """Whatever is done with the trainer meanwhile, it is afterwards as it was before."""
        state, history, own = self.state_dict(), list(self.history), dict(vars(self))
        modes = [(layer, layer._mode) for layer in self.model.modules()]
        try:
            yield
        finally:
            self.load_state_dict(state)
            vars(self).update(own)
            self.history[:] = history
            for layer, mode in modes:
                layer.training = mode

    def _parts(self):
        """What has a state of its own, by name."""
        parts = {"model": self.model, "optimizer": self.optimizer, "schedule": self.schedule}
        for callback in self.callbacks:
            name = kind = type(callback).__name__
            number = 1
            while name in parts:
                number += 1
                name = f"{kind}-{number}"
            parts[name] = callback
        return {name: part for name, part in parts.items() if hasattr(part, "state_dict")}

    def _random_layers(self):
        """Layers that draw random numbers: they count their forward passes in `step`."""
        return [layer for layer in self.model.modules() if isinstance(getattr(layer, "step", None), int)]

    # ------------------------------------------------------------ measuring

    @contextmanager
    def measuring(self):
        """The model as `fit` measures it on validation and keeps the best: with what a callback puts there."""
        with ExitStack() as stack:
            for callback in self.callbacks:
                stack.enter_context(callback.measuring())
            yield

    def evaluate(self, data, tta=None):
        """Loss and accuracy on a Dataset or DataLoader: {"loss", "accuracy", "images"}, NaN without images.

        tta: see `predict`; both are then those of the averaged scores. After `fit`, classes are matched with those of
        the training data by name, and images normalised as these.

        The model is in evaluation mode meanwhile, and in the mode it was in afterwards.
        """
        dataset = _dataset("Trainer.evaluate", "data", data)
        _check_tta("Trainer.evaluate", tta)
        if self._loader is not None:
            dataset = checks.matched("Trainer.evaluate", "data", dataset, self._loader.dataset, stacklevel=3)
        loss_sum = weight_sum = correct = 0.0
        criterion = copy.copy(self.criterion)       # another thread may be measuring, too
        with evaluation(self.model):
            for chosen in _portions(len(dataset)):
                loss, weight, right = self._measure(criterion, dataset, chosen, tta)
                loss_sum, weight_sum, correct = loss_sum + loss, weight_sum + weight, correct + right
        count = len(dataset)
        return {"loss": loss_sum / weight_sum if weight_sum else math.nan,
                "accuracy": correct / count if count else math.nan, "images": count}

    def _measure(self, criterion, dataset, chosen, tta):
        if tta is None and self._fetches(dataset):
            return self._evaluated(_Batch(dataset.labels, chosen[None], dataset))
        labels = dataset.labels[chosen]
        images = dataset.normalise(dataset.images[chosen])
        images = images.astype(self.model.dtype or images.dtype, copy=False)
        if tta is None and self._fused():
            return self._evaluated(_Batch(labels, images))
        scores = self._scores(images, tta)
        loss = criterion(scores, labels)
        total = getattr(criterion, "total", len(labels))
        return loss * total if total else 0.0, total, _right(scores, labels)

    def predict(self, x, tta=None):
        """Scores (N, K) of a Dataset, or of images (N, C, H, W) as the model takes them.

        After `fit`, a Dataset is normalised as the training data are.

        tta (test-time augmentation): None; "flip", the mean of the scores (logits) of each image and its mirror
        image; or "flip+shift", which gives that mean a weight of 1/2, and 1/4 to the same mean of the image moved
        by one pixel down and right, and of the one moved up and left, reflected at its edges.

        The model is in evaluation mode meanwhile, and in the mode it was in afterwards.
        """
        _check_tta("Trainer.predict", tta)
        if not isinstance(x, Dataset):
            x = shapes.images("Trainer.predict", "x", x, self.model.dtype)
            if tta is not None and x.ndim != 4:
                raise ValueError(f"Trainer.predict: x must have shape (N, C, H, W) for tta {tta!r}, got {x.shape}")
        elif self._loader is not None:
            x = checks.normalised("Trainer.predict", "x", x, self._loader.dataset, stacklevel=3)
        scores = []
        with evaluation(self.model):
            for chosen in _portions(len(x)) or [slice(0, 0)]:
                images = x.normalise(x.images[chosen]) if isinstance(x, Dataset) else x[chosen]
                images = images.astype(self.model.dtype or images.dtype, copy=False)
                scores.append(self._scores(images, tta))
        return np.concatenate(scores)

    def _scores(self, images, tta):
        views = [(1, images)]
        if tta == "flip+shift":
            padded = np.pad(images, ((0, 0), (0, 0), (1, 1), (1, 1)), "reflect")
            views = [(0.5, images), (0.25, padded[..., :-2, :-2]), (0.25, padded[..., 2:, 2:])]
        if tta is not None:
            views = [(weight / 2, view) for weight, x in views for view in (x, x[..., ::-1])]
        return sum(weight * run_forward(self.model, view) for weight, view in views)

    # ------------------------------------------------------------ programs

    def _evaluated(self, batch):
        """Evaluate a batch: what `_execute` returns, of one step."""
        use, program = Use("Trainer.evaluate"), None
        try:
            use.take(guards(self.model.parameters()), alone=False)
            program = self._programs.borrow(use, self._key("evaluate", batch), batch.count,
                                            lambda: self._written("evaluate", batch))
            return self._execute(program, batch)[0]
        finally:
            self._programs.give(program, use)
            use.leave()

    def _prepared(self, batch):
        """The program of a training step for such batches, which this trainer has until `_give_back`."""
        self.optimizer.settle()     # first of all, because it may move the parameters
        key = self._key("step", batch)
        if self._program is None or self._program.made_from != key or self._program.images < batch.count:
            self._give_back()
            self._program = self._programs.take(key, batch.count, lambda: self._written("step", batch))
        return self._program

    def _give_back(self):
        taken, self._program = self._program, None
        self._programs.give(taken)

    def _key(self, what, batch):
        """What a program for such batches is made from."""
        dataset, model = batch.dataset, self.model
        source = None if dataset is None else (dataset.scale.tobytes(), dataset.shift.tobytes())
        own = (self.optimizer.key(), self.max_grad_norm) if what == "step" else ()
        return (what, *batch.form, source, model.dtype or batch.images.dtype, model.made_of(), model.modes(),
                getattr(self.criterion, "key", lambda: id(self.criterion))(), *own, circumstances())

    def _written(self, what, batch):
        """Such a program; `loss` is what its runs tell of the loss."""
        dtype = batch.images.dtype if batch.dataset is None else self.model.dtype or np.dtype(np.float32)
        shape, step = batch.form[0], what == "step"
        program = Program(dtype, batch.count, steps=STEPS, gradients=step)
        x = program.input(*shape, flat=len(shape) == 1) if batch.dataset is None else _fetch(program, shape, batch)
        (scores, *others), backward = write(program, optimised(graph_of(self.model, [shape], dtype), step), [x])
        if others:
            raise ValueError(f"Trainer: the model must return one output, (N, K), got {1 + len(others)}")
        program.loss = self.criterion.emit(program, scores, step,
                                           None if batch.dataset is None else Slot("chosen", True))
        if step:
            backward([program.loss.dy], [False])
            program.add_gradients()
            self.optimizer.emit(program, self.max_grad_norm)
        program.compile()
        program.made_from = self._key(what, batch)      # as writing has left the model
        return program

    def _execute(self, program, batch, before=None):
        """Run a program on such batches: the sum of the losses of each, its divisor, how many images were right.
        `before(step)`: see Program.run."""
        steps, count, fused = batch.steps, batch.count, program.loss
        if batch.dataset is not None and batch.dataset.num_classes > fused.classes:
            raise ValueError(f"Trainer: the data set has {batch.dataset.num_classes} classes, but the model's output "
                             f"only {fused.classes}")
        fused.total[:steps, 0] = count if fused.weight is None else fused.weight[batch.targets].sum(-1)
        if batch.dataset is None:
            labels = targets("Trainer", batch.labels, count, fused.classes)
            program.run(count, before=before, x=batch.images, target=labels)
        else:
            numbers = {f"numbers{i}": numbers for i, numbers in enumerate(batch.numbers)}
            program.run(count, steps=steps, before=before, images=batch.pixels, chosen=batch.images,
                        target=batch.labels, **numbers)
        results = fused.results(steps)
        if not all(math.isfinite(loss) for loss, _, _ in results):      # are the labels to blame?
            targets("Trainer", batch.targets.ravel(), steps * count, fused.classes)
        return results


class _Batch:
    """images (n, C, H, W) and labels (n,); or with a data set the numbers of images and labels, (steps, n), for one or
    more batches: in its bytes, or in others, `pixels`, that are to be normalised as its own. Before that all `changes`
    are made to them, by `numbers` drawn for each: see DataLoader.drawn_batches."""

    __slots__ = ("changes", "dataset", "images", "labels", "numbers", "pixels")

    def __init__(self, labels, images, dataset=None, pixels=None, changes=(), numbers=()):
        self.labels, self.images, self.dataset, self.changes, self.numbers = labels, images, dataset, changes, numbers
        self.pixels = dataset.images if dataset is not None and pixels is None else pixels

    @property
    def steps(self):
        return 1 if self.dataset is None else len(self.images)

    @property
    def count(self):
        """Images in each batch."""
        return len(self.images) if self.dataset is None else self.images.shape[1]

    @property
    def targets(self):
        """The labels of these images, (n,) or (steps, n)."""
        return self.labels if self.dataset is None else self.labels[self.images]

    @property
    def form(self):
        """Batches of the same form, with the same data set, can use the same program."""
        return (self.images if self.dataset is None else self.pixels).shape[1:], self.dataset is None, self.changes


def _fetch(program, shape, batch):
    """A tensor of the images of such a batch, changed and normalised."""
    y, x, chosen = program.tensor(*shape), Slot("images"), Slot("chosen", per_step=True)
    spare = [program.copies(LANES * math.prod(shape), PER_ACTIVE_BLOCK, np.uint8) for _ in batch.changes[:2]]
    for i, (change, numbers) in enumerate(zip(batch.changes, batch.numbers, strict=True)):
        kind = augment.KINDS[change.kind]
        given = dict(x=x, chosen=chosen, numbers=Slot(f"numbers{i}", per_step=True),
                     fill=np.array(change.fill, np.uint8),
                     room=program.copies(augment.room(kind, *shape[1:]), PER_ACTIVE_THREAD, np.uint8),
                     y=spare[i % 2], kind=kind, option=change.option, columns=numbers.shape[-1], **y.pixels)
        program.add("change", lambda given=given: given)
        x, chosen = spare[i % 2], None
    scale, shift = (a.astype(program.dtype) for a in (batch.dataset.scale, batch.dataset.shift))
    program.add("pack_bytes", lambda: dict(x=x, chosen=chosen, scale=scale, shift=shift, y=y, **y.pixels))
    return y


def _check_tta(owner, tta):
    if tta not in (None, "flip", "flip+shift"):
        raise ValueError(f'{owner}: tta must be None, "flip" or "flip+shift", got {tta!r}')


def _dataset(owner, name, value):
    """The data set itself, or that of a DataLoader."""
    value = value.dataset if isinstance(value, DataLoader) else value
    if not isinstance(value, Dataset):
        raise TypeError(f"{owner}: {name} must be a Dataset or a DataLoader, got {type(value).__name__}")
    return value


def _portions(count):
    """Numbers 0 to count - 1 in pieces that fit an evaluation."""
    return [np.arange(first, min(first + EVALUATION_BATCH, count)) for first in range(0, count, EVALUATION_BATCH)]


def _right(scores, labels):
    return int((scores.argmax(1) == labels).sum())
