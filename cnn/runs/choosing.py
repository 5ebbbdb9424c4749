"""Settings for images of one's own, chosen by what they are: how many, how large, how unequal the classes."""
from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from cnn import data
from cnn.data import own
from cnn.data.dataset import altered
from cnn.models import PRETRAINED
from cnn.runs import mirror
from cnn.runs.parts import load
from cnn.runs.settings import RANDOM_CHANGES, check_pretrained

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from typing import Any

    from cnn.data import Dataset
    from cnn.runs.settings import Settings

    Sets = tuple[Dataset, Dataset | None, Dataset]

_VALIDATION = 0.15      # share of the training images that is held out
_UNEQUAL = 8            # times as many images in the largest class as in the smallest, from which weights balance them
_FEW = 50               # images to train on below which none are held out
_PASSES = 1200          # epochs times the root of the number of images
_PLAIN = ("lenet5", "cifar_quick")      # models without batch norm, which do not bear high learning rates
_LINES = {              # which settings a line of the explanation is about
    "images": ("image_size", "image_channels"), "model": ("model", "channels", "pretrained", "freeze_body"),
    "training": ("optimizer", "lr", "momentum", "weight_decay", "label_smoothing", "schedule", "max_grad_norm",
                 "epochs", "batch_size", "drop_last", "lr_factors"),
    "augmentation": ("shift", "shift_mode", "flip"),
    "classes": ("class_weights", "validation_fraction"),
}


def choose(settings: Settings, given: Collection[str]) -> tuple[Settings, Sets, list[str]]:
    """Choose the settings that are not given, for images of one's own: (settings, data sets, five lines of text).

    settings: whose `dataset` is a folder of pictures or an .npz file. given: names of the settings to keep as they are;
    of the others, those that depend on the data are chosen. The data sets, training, validation or None and test, are
    those that `parts.load` returns for the settings. The lines say what was chosen, why, and what was given.

    The settings hold all that was chosen: whoever uses them again gets the same run. Raises what cnn.data.load_parts
    raises.
    """
    looks = own.survey(settings.dataset)
    why: dict[str, Any] = {}
    if settings.pretrained and "model" not in given:
        settings = replace(settings, model=next(iter(PRETRAINED)))
    check_pretrained(settings)
    if "image_size" not in given and looks.sides:
        learnt = PRETRAINED[settings.model].image_size if settings.pretrained else None
        settings = replace(settings, image_size=learnt or image_size(looks.sides))
    train, validation, test = load(replace(settings, patience=0))   # there may be validation images in the end
    wanted = validation is None and (not looks.tested or bool(settings.patience))
    if "validation_fraction" not in given and wanted and len(train) >= _FEW:
        split = train.split(_VALIDATION, settings.seed)
        if len(split[1]):
            settings = replace(settings, validation_fraction=_VALIDATION)
            train, validation = split
    for rule in (_model, _training, _augmentation, _classes):
        chosen = rule(settings, given, train, why)
        settings = replace(settings, **{name: value for name, value in chosen.items() if name not in given})
    texts = _words(settings, looks, (train, validation, test), why)
    lines = []
    for (title, names), text in zip(_LINES.items(), texts, strict=True):
        kept = [f"--{name.replace('_', '-')}" for name in names if name in given]
        given_by = "given, here or by the run" if settings.from_run else "given"
        lines.append(f"{title}: {text}" + (f" ({given_by}: {', '.join(kept)})" if kept else ""))
    return settings, (train, validation, test), lines


def image_size(sides: Sequence[int]) -> int:
    """Pixels a side for pictures whose shorter sides have `sides` pixels (int (n,), n at least 1): 16 to 48.

    The side that more than half of them have; else their median, rounded down to a multiple of 8. At most 48, and 32
    for more than 10,000 pictures of several sizes, because the time for an epoch grows with the square.
    """
    values, counts = np.unique(sides, return_counts=True)
    common = int(values[counts.argmax()])
    if 2 * counts.max() > len(sides) and common <= 48:
        return max(16, common)
    most = 48 if len(sides) <= 10_000 else 32
    return max(16, min(most, int(np.median(sides)) // 8 * 8))


def _model(settings: Settings, given: Collection[str], train: Dataset, why: dict) -> dict[str, Any]:
    """A network with batch norm, which learns in few steps; its width grows with the number of images."""
    if settings.pretrained:
        return {}
    side = min(train.images.shape[2:])
    fast = _optimizer(settings, given) == "sgd"     # cifar_net is made for it
    name = settings.model if "model" in given else "resnet20" if side < 9 else "cifar_net" if fast else "vgg_small"
    widths = {"cifar_net": "32,64,64", "vgg_small": "16,32,64", "resnet9": "16,32,64,64"}
    if len(train) > 5000:
        widths = {"cifar_net": "32,96,128", "vgg_small": "32,64,128", "resnet9": "32,64,128,256"}
    return {"model": name, "channels": widths.get(name, "")}


def _optimizer(settings: Settings, given: Collection[str]) -> str:
    """The one that is given, or fits what is: a small learning rate, or a model without batch norm, is Adam's."""
    if "optimizer" in given:
        return settings.optimizer
    small = settings.lr < 0.01 if "lr" in given else "model" in given and settings.model in _PLAIN
    return "adam" if small else "sgd"


def _training(settings: Settings, given: Collection[str], train: Dataset, why: dict) -> dict[str, Any]:
    """Optimizer and its rate by the model; epochs and batches by the number of images."""
    if settings.pretrained:
        return _transfer(settings, given, train)
    plain = settings.model in _PLAIN
    optimizer = _optimizer(settings, given)
    batch = settings.batch_size if "batch_size" in given else 32 if len(train) <= 10_000 else 128
    lr = {"sgd": 0.05 if plain else 1.0 if settings.model == "cifar_net" else 0.1, "rmsprop": 5e-4}.get(
        optimizer, 1e-3 if plain else 3e-3)
    return {"optimizer": optimizer, "lr": lr, "momentum": 0.85 if settings.model == "cifar_net" else 0.9,
            "weight_decay": {"sgd": 1e-3, "adamw": 0.02}.get(optimizer, 1e-4), "label_smoothing": 0.1,
            "schedule": "one-cycle", "max_grad_norm": 1.0 if plain else 5.0,
            "epochs": min(80, max(8, round(_PASSES / math.sqrt(len(train))))), "batch_size": batch,
            "drop_last": len(train) > batch}


def _transfer(settings: Settings, given: Collection[str], train: Dataset) -> dict[str, Any]:
    """For weights that have learnt already: small rates, few epochs; the head's rate is ten times the body's."""
    batch = settings.batch_size if "batch_size" in given else 32
    chosen = {"batch_size": batch, "label_smoothing": 0.1, "schedule": "one-cycle", "drop_last": len(train) > batch}
    if settings.freeze_body:
        return {**chosen, "optimizer": "adamw", "lr": 1e-3, "weight_decay": 0.5, "max_grad_norm": 0.0, "epochs": 15}
    last = f"{PRETRAINED[settings.model].head}.*=10"
    return {**chosen, "optimizer": "sgd", "momentum": 0.9, "lr": 5e-4, "weight_decay": 1e-4, "max_grad_norm": 5.0,
            "lr_factors": "" if settings.from_run else last, "epochs": 5}


def _augmentation(settings: Settings, given: Collection[str], train: Dataset, why: dict) -> dict[str, Any]:
    """Shifts by a twelfth of the side; mirrored images where a simple classifier does not mind them."""
    if settings.freeze_body:
        return RANDOM_CHANGES
    if "flip" not in given:
        step = max(1, min(train.images.shape[2:]) // 32)        # large images tell it no better
        small = altered(train, images=np.ascontiguousarray(train.images[:, :, ::step, ::step])) if step > 1 else train
        why["mirror"] = mirror.symmetry(small, settings.seed)
    return {"shift": min(train.images.shape[2:]) // 12, "shift_mode": "reflect",
            "flip": "random" if why.get("mirror") and why["mirror"].harmless else "none"}


def _classes(settings: Settings, given: Collection[str], train: Dataset, why: dict) -> dict[str, Any]:
    counts = np.bincount(train.labels, minlength=train.num_classes)
    return {"class_weights": "balanced" if counts.max() >= _UNEQUAL * counts.min() else "none"}


def _words(settings: Settings, looks: own.Survey, sets: Sets, why: dict) -> list[str]:
    """What to say for each of _LINES."""
    train, validation, test = sets
    channels, height, width = train.images.shape[1:]
    colour = {1: "grey", 3: "colour"}.get(channels, f"{channels} channels")
    seen = "as they are in the file"
    if looks.sides:
        low, high = min(looks.sides), max(looks.sides)
        seen = f"the shorter sides have {low if low == high else f'{low} to {high}'} pixels"
    numbers = np.bincount(train.labels, minlength=train.num_classes)
    steps = settings.epochs * max(1, len(train) // (settings.batch_size * settings.accumulate))
    mirrored = f": {why['mirror'].words}" if why.get("mirror") else ""
    weights = f" with weights that have learnt from {PRETRAINED[settings.model].dataset}" if settings.pretrained else ""
    return [
        f"{height}x{width}, {colour}; {seen}",
        f"{settings.model}{f' with widths {settings.channels}' if settings.channels else ''}{weights}"
        f"{', its body frozen' if settings.freeze_body else ''}, for {len(train):,} training images",
        f"{settings.optimizer}, learning rate {settings.lr:g} ({settings.schedule}"
        f"{', which warms up' if settings.schedule in ('one-cycle', 'triangle', 'cosine') else ''}), gradients "
        f"{f'clipped to norm {settings.max_grad_norm:g}' if settings.max_grad_norm else 'not clipped'}; "
        f"{settings.epochs} epochs in batches of {settings.batch_size}, some {steps:,} steps",
        "none, because what the body makes of an image is computed once" if settings.freeze_body else
        f"shifts of up to {settings.shift} pixel{'' if settings.shift == 1 else 's'}, flip {settings.flip}{mirrored}",
        f"{train.num_classes} with {f'{numbers.min():,} to ' if numbers.min() < numbers.max() else ''}"
        f"{numbers.max():,} training images each, class weights {settings.class_weights}; "
        + (f"{len(validation):,} images held out for validation" if validation is not None else
           "nothing held out for validation") + f", {len(test):,} in the test set"
        + ("" if looks.tested else ", a fifth of each class"),
    ]


def chooses(settings: Settings, given: Collection[str]) -> bool:
    """Whether there is anything to choose: images of one's own, and settings that are not given."""
    names = {name for group in _LINES.values() for name in group}
    return settings.dataset not in data.NAMES and not names <= set(given)
