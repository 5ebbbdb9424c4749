"""What a Trainer refuses, or warns of, before its first step; each function takes `owner` first, as cnn.shapes does."""
import copy
import inspect
import math
import warnings

import numpy as np

from cnn import ranks, runtime, shapes
from cnn.data import DataLoader, Dataset, IterableDataset
from cnn.data.batched import as_dataset
from cnn.data.dataset import altered
from cnn.engine import backend
from cnn.engine.parameter import Parameter
from cnn.layers.module import Module


def optimizer_of(owner, optimizer, model):
    """Refuse what is no optimizer, and one that updates parameters which are not the model's."""
    if optimizer is not None and (isinstance(optimizer, type) or not callable(getattr(optimizer, "step", None))):
        raise TypeError(f"{owner}: optimizer must be one such as cnn.SGD(model.parameters(), lr=0.1), an object with "
                        f"step() and lr, or None, got {shapes.shown(optimizer)}")
    params = [p for p in getattr(optimizer, "params", None) or () if isinstance(p, Parameter)]
    own = set(map(id, model.parameters()))
    foreign = [p for p in params if id(p) not in own]
    if foreign:
        raise ValueError(f"{owner}: the optimizer must update parameters of the model, but {len(foreign)} of its "
                         f"{len(params)} are not the model's (the first has shape {foreign[0].shape}); make a new one "
                         f"from model.parameters()")


def backend_of(owner, name):
    """The name of a back end, refused where there is none of that name."""
    if name not in backend.NAMES:
        raise ValueError(f"{owner}: backend must be {' or '.join(map(repr, backend.NAMES))}, got {name!r}")
    return name


def parts(owner, optimizer, model, schedule, callbacks):
    """Refuse what a Trainer cannot be made of."""
    shapes.instance(owner, "model", model, Module)
    optimizer_of(owner, optimizer, model)
    if optimizer is not None and schedule is None and not hasattr(optimizer, "lr"):
        raise TypeError(f"{owner}: optimizer must have lr, its learning rate, where there is no schedule, got a "
                        f"{type(optimizer).__name__}")
    if schedule is not None and not callable(schedule):
        raise TypeError(f"{owner}: schedule must be a function of the step or None, got {schedule!r}")
    for callback in callbacks:
        if isinstance(callback, type):
            raise TypeError(f"{owner}: callbacks must be objects, got the class {callback.__name__}")


def dataset_of(owner, name, value):
    """The data set itself, that of a DataLoader, or one of an object that can be read as one."""
    return value.dataset if isinstance(value, DataLoader) else as_dataset(owner, name, value)


def loader_of(owner, train, batch_size, seed):
    """The DataLoader itself, or one of what can be read as a data set."""
    if isinstance(train, DataLoader):
        return train
    train = Dataset(*train) if isinstance(train, tuple) and len(train) == 2 else as_dataset(owner, "train", train)
    return DataLoader(train, batch_size, shuffle=not isinstance(train, IterableDataset), seed=seed)


def some_step(owner, trainer):
    """Refuse an epoch that is over without a step; returns True."""
    if not trainer._batch:
        raise ValueError(f"{owner}: there is no batch to train on: the data have fewer images than a batch of "
                         f"{trainer._loader.batch_size}, and drop_last leaves those out")
    return True


def some_batch(owner, loader):
    """Refuse data of which there is no batch."""
    if loader.sized and len(loader) == 0:
        raise ValueError(f"{owner}: there is no batch to train on: {len(loader.dataset)} images in batches of "
                         f"{loader.batch_size}")


def names(owner, argument, values):
    """A tuple of different names; raises TypeError or ValueError where it is anything else."""
    if isinstance(values, str) or not isinstance(values, (list, tuple)) or not all(
            isinstance(name, str) and name for name in values):
        raise TypeError(f"{owner}: {argument} must be a tuple of names, got {values!r}")
    if len(set(values)) < len(values):
        raise ValueError(f"{owner}: {argument} must be different names, got {values!r}")
    return tuple(values)


def inputs_of(owner, inputs, model):
    """What a model gets after the images, by name: as many as its `forward` takes."""
    inputs = names(owner, "inputs", inputs)
    try:
        if not model.in_numpy:      # else it takes none; that is said where it is run
            inspect.signature(model.forward).bind(None, *inputs)
    except TypeError as error:
        raise ValueError(f"{owner}: inputs must name what {type(model).__name__}.forward takes after the images, got "
                         f"{', '.join(inputs) or 'none'}: {error}") from None
    return inputs


class OtherData(ValueError):
    """Data that are not those of a state."""


def same_data(owner, facts, known):
    """Raise OtherData for data that are not those of a state; both as `state.facts` tells of them."""
    ours, known = ({"accumulate": 1, **told} for told in (facts, known))
    for name, value in known.items():       # a state of an earlier version has fewer
        if ours.get(name) != value:
            raise OtherData(f"{owner}: the loaded state belongs to data with {name} {value}, got {ours.get(name)}")


def single_values(owner, model, loader, inputs=()):
    """Refuse a batch of one image where a batch norm would see a single value per channel. inputs: see Trainer."""
    last = len(loader.dataset) % loader.batch_size if loader.sized else 0
    if loader.batch_size != 1 and (last != 1 or loader.drop_last):
        return
    if loader.transform is not None and not loader.drawable:    # which may change the images' size
        return
    try:
        more = [loader.dataset.example_labels[name].shape[1:] for name in inputs]
        graph = model.graph(loader.dataset.image_shape, *more)
    except Exception:   # the first step will say what is wrong with the model
        return
    for node in graph:
        operation = node.operation
        if operation.name == "batch_norm" and operation.training and math.prod(node.output.image[1:]) == 1:
            which = "every batch" if loader.batch_size == 1 else "the last batch of an epoch"
            advice = "a larger batch size" if loader.batch_size == 1 else (
                "DataLoader(..., drop_last=True) (--drop-last), or another batch size")
            layer = f" (layer {node.modules[0]})" if node.modules[0] else ""
            raise ValueError(f"{owner}: {which} has one image, so that {operation.owner}{layer} gets a single value "
                             f"per channel; use {advice}")


def end_of_schedule(owner, schedule, step, steps, stacklevel):
    """Warn where a schedule is over before `steps` more steps after the first `step` are done, at a low rate."""
    total = getattr(schedule, "total_steps", None)
    if total is None or not steps or step + steps <= total:
        return
    largest = getattr(schedule, "max_lr", getattr(schedule, "lr", math.inf))
    rate = schedule(step + steps - 1)
    name, stays = type(schedule).__name__, f"the learning rate stays at {rate:g}"
    if step >= total and rate < largest:
        warnings.warn(f"{owner}: the schedule {name} is over after {total} steps, and {step} are done: {stays}. "
                      f"For another run make a new Trainer with a new schedule", stacklevel=stacklevel)
    elif step < total and rate < largest / 100:
        warnings.warn(f"{owner}: the schedule {name} is over after {total} steps, but {step + steps} are to be done: "
                      f"{stays} for the last {step + steps - total}. Set total_steps to the steps of all epochs",
                      stacklevel=stacklevel)


def matched(owner, name, dataset, train, stacklevel):
    """A Dataset to measure on, with the numbers of classes and the normalisation of the one that was trained on.

    Classes are matched by their names, unless one of the two only numbers them.
    """
    mine, known = dataset.classes, train.classes
    common = min(len(mine), len(known))
    if mine[:common] != known[:common]:
        unknown = [label for label in mine if label not in known]
        if not unknown:
            number = np.array([known.index(label) for label in mine], np.int64)
            dataset = _renumbered(owner, name, dataset, known, number)
        elif not (_numbered(mine) or _numbered(known)):
            raise ValueError(f"{owner}: {name} has the class {unknown[0]!r}, the training data only "
                             f"{', '.join(known[:10])}{', ...' if len(known) > 10 else ''}")
    return normalised(owner, name, dataset, train, stacklevel + 1)


def normalised(owner, name, dataset, train, stacklevel):
    """A Dataset with the mean and standard deviation of the one that was trained on.

    A warning says that they differ, unless the data set came without any.
    """
    if len(dataset.mean) != len(train.mean):
        raise ValueError(f"{owner}: {name} must have images of {len(train.mean)} channels, as the training data, got "
                         f"{len(dataset.mean)}")
    here, there = (dataset.mean, dataset.std), (train.mean, train.std)
    # images of different types have different units: nothing is known about how they compare
    if here == there or dataset.dtype != train.dtype or np.allclose(here, there, rtol=1e-5, atol=1e-8):
        return dataset
    if dataset.dtype != np.uint8 or set(dataset.mean) != {0.0} or set(dataset.std) != {1.0}:
        warnings.warn(f"{owner}: {name} has mean {_listed(dataset.mean)} and std {_listed(dataset.std)}, the training "
                      f"data {_listed(train.mean)} and {_listed(train.std)}: the training data's are used",
                      stacklevel=stacklevel)
    if isinstance(dataset, Dataset):
        return altered(dataset, mean=train.mean, std=train.std)
    dataset = copy.copy(dataset)
    dataset._set_constants(len(train.mean), train.mean, train.std, dataset.dtype)
    return dataset


def _renumbered(owner, name, dataset, classes, number):
    """A Dataset with the classes in another order; number: of each class."""
    if not isinstance(dataset, Dataset):
        raise ValueError(f"{owner}: {name} must have its classes in the order of the training data, "
                         f"{', '.join(classes[:10])}, got {', '.join(dataset.classes[:10])}")
    return altered(dataset, labels=number[dataset.labels], classes=classes)


def _numbered(classes):
    return classes == tuple(map(str, range(len(classes))))


def _listed(numbers):
    return ", ".join(f"{number:.4g}" for number in numbers)


def same_on_all_ranks(owner, trainer, loader, facts):
    """Refuse ranks that would not compute the same."""
    world = ranks.world()
    if world is not None:
        dataset = loader.dataset
        if not loader.sized:
            raise ValueError(f"{owner}: several ranks must have data of known length, got an iterable of batches; use "
                             f"a BatchedDataset")
        some, labels = dataset.fetch(np.arange(0, len(dataset), max(1, len(dataset) // 256)))
        labels = getattr(dataset, "labels", labels)
        world.same(owner, {**runtime.versions(), **facts, "pixels": _digest(some), "labels": _digest(labels),
                           "weights": _digest(*(p.data for p in trainer.model.parameters())), "step": trainer.step,
                           "epochs": trainer.epochs})


def _digest(*arrays):
    import hashlib  # here, to keep "import cnn" fast

    result = hashlib.blake2b(digest_size=8)
    for array in arrays:
        result.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8))
    return result.hexdigest()


def before_fit(owner, trainer, loader, facts):
    """Refuse what the first epochs would stumble over; facts: what a state tells of the data."""
    if trainer.optimizer is None:
        raise ValueError(f"{owner}: the trainer must have an optimizer, got None")
    some_batch(owner, loader)
    monitor = str(getattr(trainer.schedule, "monitor", ""))
    if monitor.startswith("val_") and not trainer.validates:
        raise ValueError(f"{owner}: the schedule {type(trainer.schedule).__name__} needs validation data for its "
                         f"monitor {monitor}: give fit some, or monitor train_loss")
    if monitor and monitor not in trainer.history.columns:
        raise ValueError(f"{owner}: the monitor of the schedule {type(trainer.schedule).__name__} must be one of "
                         f"{', '.join(trainer.history.columns)}, got {monitor}")
    same_on_all_ranks(owner, trainer, loader, facts)
    optimizer_of(owner, trainer.optimizer, trainer.model)
    if trainer._resumed and trainer._data is not None:
        same_data(owner, facts, trainer._data)
    epoch, batch = (trainer.epoch, trainer._batch) if trainer._resumed else (0, 0)
    steps = (trainer.epochs - epoch) * len(loader) - batch if loader.sized else 0
    if steps > 0 or (trainer.epochs > epoch and not loader.sized):
        trainer.model.train()
        single_values(owner, trainer.model, loader, trainer.inputs)
        end_of_schedule(owner, trainer.schedule, trainer.step, steps, stacklevel=4)
