"""The state of a trainer: all that a `fit` needs to go on in another process, to the same bits."""
import math
from contextlib import contextmanager

from cnn import shapes
from cnn.training.history import History
from cnn.training.step import IMAGES, layout_of


def state_dict(trainer):
    """See Trainer.state_dict."""
    epoch, batch = trainer.position
    # the row of an epoch that was stopped is not its last word
    history = trainer.history[:-1] if trainer._recorded and not trainer._complete else trainer.history
    sums = {"seen": trainer.seen, "loss_sum": float(trainer._loss_sum), "weight_sum": float(trainer._weight_sum),
            "correct": float(trainer._correct)}
    return {
        **{name: part.state_dict() for name, part in _parts(trainer).items()},
        "counters": [layer.step for layer in _random_layers(trainer.model)],
        "position": {"step": trainer.step, "epoch": epoch, "batch": batch, "loss": trainer.loss, "data": trainer._data,
                     "loader_epoch": trainer._loader_epoch + trainer._complete,
                     **(sums if batch else dict.fromkeys(sums, 0))},
        "history": history.results(),
        "timing": {"history": history.timing(), "seconds": trainer._seconds if batch else 0.0},
    }


def end_epoch(trainer, measured):
    """Add the trainer's epoch to the history and tell its schedule of it, unless it was stopped in the middle.

    measured: what `evaluate` says of the validation data, or {}.
    """
    trainer.history.append(_row(trainer, measured))
    observe = getattr(trainer.schedule, "observe", None)
    if observe is not None and trainer._complete:
        observe(trainer.history[-1])


def _row(trainer, measured):
    """The row of the history for the trainer's epoch."""
    own = {name: measured.get(name.removeprefix("val_"), math.nan) for name in trainer.history.extra}
    return {"epoch": len(trainer.history) + 1, "lr": trainer.optimizer.lr, "train_loss": trainer.running_loss,
            "train_accuracy": trainer.running_accuracy, "val_loss": measured.get("loss", math.nan),
            "val_accuracy": measured.get("accuracy", math.nan), **own, "seconds": trainer._seconds,
            "images_per_second": trainer.seen / trainer._seconds}


def load_state_dict(trainer, state):
    """See Trainer.load_state_dict."""
    try:
        position, counters, timing = state["position"], state["counters"], state["timing"]
        parts, layers = _parts(trainer), _random_layers(trainer.model)
        saved = {name for name in state if name not in ("position", "counters", "history", "timing")}
        if saved - set(parts):
            raise ValueError(f"Trainer: the state has {', '.join(sorted(saved - set(parts)))}, which this trainer does "
                             f"not have")
        if len(counters) != len(layers):
            raise ValueError(f"Trainer: the state has {len(counters)} random layers, the model {len(layers)}")
        trainer._restored = []
        for name, part in parts.items():
            if name in saved or part not in trainer.callbacks:      # a callback may be new
                part.load_state_dict(state[name])
                trainer._restored.append(part)
        for layer, step in zip(layers, counters, strict=True):
            layer.step = step
        trainer.history[:] = History.joined(state["history"], timing["history"], trainer.history.extra)
        for name in ("step", "epoch", "batch", "seen", "loader_epoch"):
            shapes.integer("Trainer", f"{name} of the state", position[name], 0, 2**63 - 1)
        trainer._begin(position["epoch"])
        trainer._batch, trainer.seen, trainer.step = (position[name] for name in ("batch", "seen", "step"))
        trainer._loss_sum, trainer._weight_sum, trainer._correct, trainer.loss, trainer._seconds = (
            float(value) for value in (position["loss_sum"], position["weight_sum"], position["correct"],
                                       position["loss"], timing["seconds"]))
        if not isinstance(position["data"], (dict, type(None))):
            raise TypeError(f"Trainer: data of the state must be a dict, got {type(position['data']).__name__}")
        trainer._loader_epoch, trainer._data = position["loader_epoch"], position["data"]
    except KeyError as error:
        raise ValueError(f"Trainer: the state lacks {error}") from None
    trainer._resumed = True


def facts(trainer, loader):
    """What a state tells of the data, so that no others are taken for them, and of their layout in a step, which stays
    where training goes on from a state. States of before there was a choice do not tell it."""
    data, known = loader.dataset, trainer._data if trainer._resumed else None
    layout = _layout(trainer, loader) if known is None else known.get("layout", IMAGES)
    accumulate = {"accumulate": loader.accumulate} if loader.accumulate > 1 else {}
    return {**accumulate, "images": len(data) if loader.sized else None, "batch_size": loader.batch_size,
            "shuffle": loader.shuffle, "seed": loader.seed, "window": loader.window, "drop_last": loader.drop_last,
            "classes": list(data.classes), "mean": list(data.mean), "std": list(data.std), "layout": layout}


def _layout(trainer, loader):
    """The layout for the images that go through the network together."""
    size = loader.batch_size
    if loader.accumulate == 1:
        return layout_of(size)
    try:
        couples = trainer._parts().couples(loader.dataset.image_shape, loader.dataset.example_labels)
    except Exception:   # the first step will say what is wrong with the model
        couples = True
    return layout_of(size if couples else size * loader.accumulate)


@contextmanager
def as_before(trainer):
    """A context manager that undoes what an exception leaves half done: where the optimizer has made no step, buffers
    and the counters of random layers are as before."""
    steps, layers = getattr(trainer.optimizer, "steps", None), _random_layers(trainer.model)
    counters, buffers = [layer.step for layer in layers], [(a, a.copy()) for a in _buffers(trainer.model)]
    try:
        yield
    except BaseException:
        if steps is not None and trainer.optimizer.steps == steps:
            for array, values in buffers:
                array[...] = values
            for layer, count in zip(layers, counters, strict=True):
                layer.step = count
        raise


def _buffers(model):
    """Arrays of the model's state that are no parameters."""
    parameters = {id(p._data) for p in model.parameters()}
    return [array for _, array in model._state() if id(array) not in parameters]


@contextmanager
def unchanged(trainer):
    """See Trainer.unchanged."""
    state, history, own = trainer.state_dict(), list(trainer.history), dict(vars(trainer))
    modes = [(layer, layer._mode) for layer in trainer.model.modules()]
    try:
        yield
    finally:
        trainer.load_state_dict(state)
        vars(trainer).update(own)
        trainer.history[:] = history
        for layer, mode in modes:
            layer.training = mode


def _parts(trainer):
    """What has a state of its own, by name."""
    parts = {"model": trainer.model, "optimizer": trainer.optimizer, "schedule": trainer.schedule}
    for callback in trainer.callbacks:
        name = kind = type(callback).__name__
        number = 1
        while name in parts:
            number += 1
            name = f"{kind}-{number}"
        parts[name] = callback
    return {name: part for name, part in parts.items() if hasattr(part, "state_dict")}


def _random_layers(model):
    """Layers that draw random numbers: they count their forward passes in `step`."""
    return [layer for layer in model.modules() if isinstance(getattr(layer, "step", None), int)]
