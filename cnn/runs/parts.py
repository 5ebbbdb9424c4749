"""What a run consists of, made as its settings say: data, trainer, callbacks."""
import os
from typing import NamedTuple

import numpy as np

from cnn import data, models, optim, ranks, schedules
from cnn.data.loader import DataLoader
from cnn.layers import BatchNorm2d, Flatten, Module, Sequential
from cnn.layers.head import head_of
from cnn.layers.losses import CrossEntropyLoss
from cnn.runs.settings import anywhere, check_patience, lr_factors, milestones
from cnn.training import checkpoint, checks
from cnn.training.averaging import EMA, Lookahead
from cnn.training.callbacks import BestCheckpoint, CSVLog, EarlyStopping, JSONLLog, TensorBoard
from cnn.training.features import features
from cnn.training.trainer import Trainer

_MOST_WATCHED = 1000    # test images to measure each epoch on


def load(settings):
    """The data sets to train on, to choose by (or None), and to test on."""
    own = settings.dataset not in data.NAMES
    with ranks.leader_first():      # which downloads what there is to download
        sets = data.load_parts(settings.dataset, settings.data_dir or None, settings.image_size or None,
                               channels=(settings.image_channels or 3 * settings.pretrained or None) if own else None,
                               seed=settings.seed)
    if settings.pretrained:
        weights = models.PRETRAINED[settings.model]
        if sets[0].images.dtype != np.uint8:
            raise ValueError(f"train: pretrained weights want images of uint8, those of {settings.dataset} are "
                             f"{sets[0].images.dtype}")
        sets = [part and part.with_mean_std(weights.mean, weights.std) for part in sets]
    train_set, validation, test_set = sets
    check_patience(settings, validation)
    if validation is not None and settings.validation_fraction:
        raise ValueError(f"train: validation fraction must be 0, because {settings.dataset} has validation images of "
                         f"its own ({validation.name}), got {settings.validation_fraction}")
    if not settings.validation_fraction:
        return train_set, validation, test_set
    return *train_set.split(settings.validation_fraction, settings.seed), test_set


def counts(sets):
    """How many images there are to train on, to choose by and to test on, in words."""
    return ", ".join(f"{0 if part is None else len(part)} {use}"
                     for part, use in zip(sets, ("training", "validation", "test"), strict=True))


def watched(validation, test_set):
    """The images that each epoch is measured on, and what they are in words.

    Those to choose by; where there are none, test images, for the curves alone: nothing is chosen by them. Of many test
    images only some, evenly spread, so that this takes little time.
    """
    if validation is not None:
        return validation, f"{len(validation):,} images to choose by"
    count = min(len(test_set), _MOST_WATCHED)
    some = test_set.subset(np.arange(count) * len(test_set) // max(count, 1))
    return some, f"{count:,} test images" if count == len(test_set) else f"{count:,} of {len(test_set):,} test images"


class Made(NamedTuple):
    """What a run works with. model: the whole network; where its body is frozen, `trainer` has its head alone, and
    `loader` has what the body makes of the images. description: what a model file says about the network."""

    trainer: Trainer
    loader: DataLoader
    description: dict
    model: Module


def make(settings, train_set, say=lambda text: None, fresh=True):
    """Make what a run needs: a Made.

    say(text): told what was taken from another run, and what takes time. fresh: whether the weights count: those that
    learn do not where a checkpoint follows.
    """
    channels, height, width = train_set.images.shape[1:]
    if height != width:
        raise ValueError(f"train: the models want square images, those of {settings.dataset} are {height}x{width}")
    arguments = {"in_channels": channels, "num_classes": train_set.num_classes, "image_size": height,
                 **models.widths("train", settings.model, settings.channels)}
    counts = fresh or settings.freeze_body
    published = {"pretrained": True} if settings.pretrained and not settings.from_run and counts else {}
    model = models.MODELS[settings.model](**arguments, seed=settings.seed, **published)
    if settings.from_run and counts:
        start_from(settings, model, train_set.classes, say)
    elif settings.model in models.WHITENED:
        models.whiten(model, train_set.normalise(train_set.images[:5000]))
    description = {"model": settings.model, "arguments": arguments, "classes": list(train_set.classes),
                   "mean": list(train_set.mean), "std": list(train_set.std), "pixels": str(train_set.images.dtype),
                   "dataset": anywhere(settings).dataset, "seed": settings.seed,
                   "tta": None if settings.tta == "none" else settings.tta}
    learns, known = model, train_set
    if settings.pretrained:     # few images have other statistics than those that the weights fit, and would spoil them
        for layer in model.modules():
            if isinstance(layer, BatchNorm2d):
                layer.freeze()
    if settings.freeze_body:
        say(f"computing once what the frozen body makes of {len(train_set):,} training images")
        learns, known = Sequential(Flatten(), head_of(model, owner="train")[1]), features(model, train_set)
    loader = data.DataLoader(known, settings.batch_size, shuffle=True, seed=settings.seed,
                             transform=make_transform(settings, train_set), drop_last=settings.drop_last,
                             mix=make_mix(settings))
    trainer = Trainer(learns, make_optimizer(settings, learns), make_loss(settings, train_set),
                      schedule=make_schedule(settings, steps_of(settings, loader)),
                      max_grad_norm=settings.max_grad_norm or None, progress=False, backend=settings.backend,
                      accumulate=settings.accumulate)
    if not len(loader):
        raise ValueError(f"train: with drop last, batch size must be at most the {len(train_set):,} training images, "
                         f"got {settings.batch_size}")
    checks.single_values("train", learns, loader)
    return Made(trainer, loader, description, model)


def steps_of(settings, loader):
    """How many steps the run takes, at least 1."""
    return max(1, len(loader.grouped(settings.accumulate)) * settings.epochs)


def inherited(run, dataset):
    """The settings that a run on a data set, from the weights of another, takes over unless they are given: model and
    channels, and the normalisation of published weights; for a folder of pictures, their size and colours, too."""
    description = checkpoint.load_model(run)[1]
    if "network" in description:
        raise ValueError(f"train: from run must be a run, or the file of a model of this package; {run} has a network "
                         f"of your own: train cnn.load_model({str(run)!r})[0] with cnn.Trainer")
    arguments = description["arguments"]
    size = {"image_size": arguments["image_size"]} if os.path.isdir(dataset) and "image_size" in arguments else {}
    if os.path.isdir(dataset) and arguments.get("in_channels") in (1, 3):
        size["image_channels"] = arguments["in_channels"]
    weights = models.PRETRAINED.get(description["model"])
    if weights and (description.get("mean"), description.get("std")) == (list(weights.mean), list(weights.std)):
        size["pretrained"] = True
    return {"model": description["model"], "channels": ",".join(map(str, arguments.get("channels") or ())), **size}


def start_from(settings, model, classes, say):
    """Give a model the weights of the run that the settings name, but a head of other classes, and say so."""
    source, description = checkpoint.load_model(settings.from_run)
    head = head_of(model, owner="train")[0]
    state, known = source.state_dict(), description.get("classes")
    other = known != list(classes)
    if other:
        state = {name: array for name, array in state.items() if not name.startswith(f"{head}.")}
    try:
        left = model.load_state_dict(state, strict=False)
    except ValueError as error:
        raise ValueError(f"train: from run: {settings.from_run}: {error}") from None
    left = left._replace(missing_keys=[name for name in left.missing_keys if not (other and name.startswith(
        f"{head}."))])
    if any(left):
        raise ValueError(f"train: from run must be one of the same network, {settings.model} for images of this size "
                         f"and with as many channels; what {settings.from_run} has does not fit ({left})")
    words = f", but a fresh head {head!r} for {len(classes)} classes instead of {len(known or ())}" if other else ""
    say(f"starting from the weights of {settings.from_run}{words}")


def make_optimizer(settings, model):
    """The optimizer that the settings name."""
    options, groups = {"lr": settings.lr, "weight_decay": settings.weight_decay}, []
    try:
        by_name = optim.named_groups(model.named_parameters(),
                                     {pattern: {"lr": settings.lr * f} for pattern, f in lr_factors(settings).items()})
    except ValueError as error:
        raise ValueError(f"train: lr factors: {error}") from None
    for group in by_name:
        groups += optim.parameter_groups(group["params"], **{**options, "lr": group.get("lr", settings.lr)},
                                         bias_lr=settings.bias_lr, decay_biases=settings.decay_biases)
    if settings.optimizer == "sgd":
        options.update(momentum=settings.momentum, nesterov=settings.momentum > 0)
    elif settings.optimizer == "rmsprop":
        options.update(momentum=settings.momentum)
    return optim.OPTIMIZERS[settings.optimizer](groups, **options)


def make_schedule(settings, steps):
    """The schedule that the settings name, over a run of `steps` steps."""
    lr, final_lr, epoch = settings.lr, settings.final_lr, max(1, steps // max(1, settings.epochs))
    cycle = settings.cycle_epochs * epoch or max(1, -(-steps // 4))
    if settings.schedule == "one-cycle":
        return schedules.OneCycle(settings.lr, steps, pct_start=0.2)
    if settings.schedule == "triangle":     # that of the paper that models.cifar_net names
        return schedules.OneCycle(settings.lr, steps, pct_start=0.23, div_factor=1 / 0.2, final_div_factor=0.2 / 0.07,
                                  anneal_strategy="linear")
    if settings.schedule == "cosine":
        return schedules.Cosine(lr, steps, final_lr, warmup_steps=min(steps // 10, 500))
    if settings.schedule == "linear":
        return schedules.Linear(lr, steps, final_lr)
    if settings.schedule == "polynomial":
        return schedules.Polynomial(lr, steps, settings.power, final_lr=final_lr)
    if settings.schedule == "step":
        return schedules.Step(lr, max(1, -(-steps // 4)), settings.gamma)
    if settings.schedule == "multi-step":
        drops = [n * epoch for n in milestones(settings)] or [max(1, -(-steps // 2)), max(1, -(-steps * 3 // 4))]
        return schedules.MultiStep(lr, drops, settings.gamma)
    if settings.schedule == "exponential":
        return schedules.Exponential(lr, settings.gamma ** (1 / steps))
    if settings.schedule == "warm-restarts":
        return schedules.CosineWarmRestarts(lr, cycle, settings.cycle_mult, final_lr)
    if settings.schedule == "cyclic":
        up = max(1, cycle // 2)
        return schedules.Cyclic(final_lr, lr, up, max(1, cycle - up), settings.cycle_mode,
                                settings.gamma ** (1 / cycle))
    if settings.schedule == "plateau":
        return schedules.ReduceLROnPlateau(lr, settings.monitor, factor=settings.gamma, patience=settings.lr_patience,
                                           threshold=settings.lr_threshold, cooldown=settings.lr_cooldown,
                                           min_lr=final_lr)
    return schedules.Constant(settings.lr)


def make_averages(settings, model, steps):
    """The averages of weights that the settings ask for, over a run of `steps` steps: callbacks that come first."""
    result = []
    if settings.lookahead:      # the decay of the paper that models.cifar_net names
        result.append(Lookahead(model, lambda step: 0.95**5 * (step / steps) ** 3, every=5))
    if settings.ema:
        result.append(EMA(model, settings.ema, apply=True))
    return result


def make_transform(settings, train_set):
    """What happens to training images at random, or None."""
    size, transforms = min(train_set.images.shape[2:]), []
    for name in ("shift", "cutout"):
        if getattr(settings, name) >= size:
            raise ValueError(f"train: {name} must be below {size}, the side of the images, got "
                             f"{getattr(settings, name)}")
    if settings.rotate or settings.translate or settings.scale or settings.shear:
        transforms.append(data.RandomAffine(settings.rotate, (settings.translate, settings.translate),
                                            (1 - settings.scale, 1 + settings.scale), settings.shear))
    if settings.shift:
        transforms.append(data.RandomCrop(settings.shift, settings.shift_mode))
    if settings.flip == "random":
        transforms.append(data.RandomFlip())
    elif settings.flip == "alternating":
        transforms.append(data.AlternatingFlip(settings.seed))
    if settings.cutout:
        mean = train_set.mean
        fill = [round(255 * m) for m in mean] if train_set.images.dtype == np.uint8 else list(mean)
        transforms.append(data.Cutout(settings.cutout, fill))
    return data.Compose(*transforms) if transforms else None


def make_mix(settings):
    """How training images are mixed with one another: None, or a list of what is drawn from for each batch."""
    mixes = [kind(alpha) for kind, alpha in ((data.MixUp, settings.mixup), (data.CutMix, settings.cutmix)) if alpha]
    return mixes or None


def make_loss(settings, train_set):
    """The loss that the settings name."""
    weight = None
    if settings.class_weights == "balanced":
        counts = np.bincount(train_set.labels, minlength=train_set.num_classes)
        weight = len(train_set) / (len(counts) * np.maximum(counts, 1))
    return CrossEntropyLoss(weight, label_smoothing=settings.label_smoothing)


def make_callbacks(settings, folder, validation, description, model):
    """The callbacks that the settings ask for: logs, early stopping, the best weights of a model."""
    result = [CSVLog(folder / "history.csv")]
    if settings.log_steps:
        result.append(JSONLLog(folder / "steps.jsonl"))
    if settings.tensorboard:
        result.append(TensorBoard(folder / "tensorboard"))
    if settings.patience:
        result.append(EarlyStopping(settings.monitor, settings.patience, settings.min_delta))
    if validation is not None:
        result.append(BestCheckpoint(folder / "best.safetensors", settings.monitor, settings.min_delta, description,
                                     model=model))
    return result
