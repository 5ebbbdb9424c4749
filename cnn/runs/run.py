"""A training run from settings to files: what `scripts/train.py` does once it has read its arguments."""
import json
import math
import os
import time
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path

import numpy as np

from cnn import data, files, models, optim, runtime, schedules, shapes, streams
from cnn.layers.losses import CrossEntropyLoss
from cnn.text import printable
from cnn.training import checkpoint, checks, lr_finder
from cnn.training.averaging import EMA, Lookahead
from cnn.training.callbacks import (
    BestCheckpoint,
    Checkpoint,
    CSVLog,
    EarlyStopping,
    EpochLog,
    JSONLLog,
    Progress,
    StopOnSignal,
    TensorBoard,
    TimeLimit,
    TrainingDiverged,
)
from cnn.training.trainer import Trainer

SCHEDULES = ("constant", "linear", "step", "cosine", "one-cycle", "triangle")
TTA = ("none", "flip", "flip+shift")
MONITORS = ("val_loss", "val_accuracy", "train_loss", "train_accuracy")


def option(default, words=None, free=False, **names):
    """A field of Settings, and all that a command line needs of it. free: the result does not depend on it."""
    return field(default=default, metadata={"free": free, "help": words, **names})


@dataclass(frozen=True)
class Settings:
    """Everything that a run's result depends on, besides the software; and how the run is kept."""

    dataset: str = option("mnist-sample", f"{', '.join(data.NAMES)}; or a folder with one sub-folder of pictures a "
                          "class, or an .npz file with images and labels; default: mnist-sample", metavar="NAME|PATH")
    image_size: int = option(0, "pixels a side that a folder's pictures are brought to; default: as most of them are, "
                             "up to 64, else 32", metavar="N")
    model: str = option("lenet5", "default: lenet5", choices=tuple(models.MODELS))
    channels: str = option("", "widths of the model's stages, as 64,128,256; default: the model's own",
                           metavar="N,N,...")
    epochs: int = option(30, "passes over the training images", metavar="N")
    batch_size: int = option(64, "images in a step", metavar="N")
    drop_last: bool = option(False, "leave out an epoch's last batch where it is not full")
    lr: float = option(0.05, "(largest) learning rate", metavar="RATE")
    optimizer: str = option("sgd", choices=tuple(optim.OPTIMIZERS))
    momentum: float = option(0.9, "of sgd and rmsprop", metavar="M")
    weight_decay: float = option(2e-3, metavar="D")
    bias_lr: float = option(1.0, "factor on the learning rate of biases and norms, by which their weight decay is "
                            "divided; default: 1", metavar="F")
    decay_biases: bool = option(True, "weight decay on biases and norms, too (the default)")
    max_grad_norm: float = option(0.0, "scale gradients down to this norm; default: 0, do not", metavar="NORM")
    schedule: str = option("one-cycle", "of the learning rate; linear goes down to 0; step divides it by ten every "
                           "quarter of the run; triangle goes from a fifth up, in 23 %% of the run, and down to 7 %%",
                           choices=SCHEDULES)
    ema: float = option(0.0, "measure and keep a moving average of the weights with this decay; default: 0, do not",
                        metavar="DECAY")
    lookahead: bool = option(False, "every five steps go on from an average of the weights, which is slower the "
                             "further the run is")
    label_smoothing: float = option(0.05, "share of the target spread over all classes", metavar="E")
    class_weights: str = option("none", "balanced: every class counts the same, however many images it has",
                                choices=("none", "balanced"))
    shift: int = option(2, "move training images at random by up to so many pixels", metavar="PIXELS")
    shift_mode: str = option("zero", "what comes in at the edge: black, or the image mirrored; default: zero",
                             choices=("zero", "reflect"))
    flip: str = option("none", "mirror training images left to right, at random or in every other epoch",
                       choices=("none", "random", "alternating"))
    cutout: int = option(0, "fill a square of so many pixels a side with the mean colour, at random", metavar="PIXELS")
    rotate: float = option(0.0, "turn training images at random by up to so many degrees", metavar="DEGREES")
    translate: float = option(0.0, "move them by up to this share of their size, by parts of pixels", metavar="F")
    scale: float = option(0.0, "scale them by up to this share, 0.1 from 0.9 to 1.1", metavar="F")
    shear: float = option(0.0, "shear them by up to so many degrees", metavar="DEGREES")
    tta: str = option("none", "measure the test images by the mean of the scores of several views: mirrored, and "
                      "moved by a pixel", choices=TTA)
    seed: int = option(0, "of weights and order; the same seed gives the same weights to the bit on any number of "
                       "threads", metavar="N")
    validation_fraction: float = option(0.0, "share of the training images, of every class, held out to measure each "
                                        "epoch on; default: 0", metavar="F")
    monitor: str = option("val_loss", "what is best, for --patience and best.safetensors; default: val_loss",
                          choices=MONITORS)
    patience: int = option(0, "stop after so many epochs that were not the best so far, and keep the best weights; "
                           "default: 0, do not", metavar="N")
    min_delta: float = option(0.0, "by how much the best must be better; default: 0", metavar="D")
    max_minutes: float = option(0.0, "stop after so many minutes of training; default: 0, do not", free=True,
                                metavar="M")
    checkpoint_every: str = option("auto", "a number of steps, epoch, or auto: epochs, but not more often than every "
                                   "ten seconds; default: auto", free=True, metavar="STEPS")
    keep: int = option(3, "checkpoints that stay, the newest; default: 3", free=True, metavar="N")
    log_steps: bool = option(False, "write steps.jsonl, a line for each step", free=True)
    report: bool = option(False, "at the end draw curves, confusion matrix, mistakes, filters and feature maps into "
                          "the run folder, and report.html", free=True)
    tensorboard: bool = option(False, "write event files for TensorBoard", free=True)
    data_dir: str = option("", "where to look for the data set first (then $CNN_DATA_DIR, then the user's cache; else "
                           "it is downloaded)", free=True, metavar="DIR")


FREE = {f.name for f in fields(Settings) if f.metadata["free"]}

# What suits each data set; chosen on a split of its training set, never on its test set.
_MNIST = Settings(epochs=4, weight_decay=5e-4, label_smoothing=0.0, shift=0)
_CIFAR = Settings(epochs=15, lr=0.03, weight_decay=1e-3, label_smoothing=0.0, shift=0, flip="random")
DEFAULTS = {
    "mnist-sample": Settings(),
    "mnist": replace(_MNIST, dataset="mnist"),
    "fashion-mnist": replace(_MNIST, dataset="fashion-mnist", epochs=10),
    "kmnist": replace(_MNIST, dataset="kmnist", epochs=10),
    "cifar10": replace(_CIFAR, dataset="cifar10"),
    "cifar100": replace(_CIFAR, dataset="cifar100"),
}


def defaults(dataset):
    """The Settings that suit a data set, by its name or path."""
    return DEFAULTS.get(dataset) or replace(Settings(), dataset=dataset)


@dataclass(frozen=True)
class Recipe:
    """Settings that reach a named accuracy; only the seed is left open.

    target: the test accuracy that a run should reach. cost: what it takes, in words.
    """

    settings: Settings
    target: float
    cost: str


# David Page's and Keller Jordan's way to train on CIFAR-10 (see models.cifar_net for the paper)
_CIFAR_NET = Settings(dataset="cifar10", model="cifar_net", batch_size=512, lr=0.75, momentum=0.85,
                      weight_decay=1.33e-3, bias_lr=64.0, schedule="triangle", lookahead=True, label_smoothing=0.2,
                      shift=2, shift_mode="reflect", flip="alternating", tta="flip+shift")
_DIGITS = replace(_CIFAR_NET, dataset="mnist", channels="32,64,64", batch_size=256, lr=0.375, label_smoothing=0.1,
                  shift=0, flip="none", rotate=10.0, translate=0.08, scale=0.1, shear=5.0, tta="none")
_CLOTHES = replace(_CIFAR_NET, dataset="fashion-mnist", channels="32,96,128", batch_size=256, lr=0.375,
                   label_smoothing=0.1, flip="random")
_QUICK = replace(_CIFAR, dataset="cifar10", model="cifar_quick", shift=2, shift_mode="reflect", flip="alternating",
                 tta="flip+shift")

RECIPES = {
    "mnist-99": Recipe(replace(_MNIST, dataset="mnist", epochs=3), 0.99, "3 epochs, under 3 s on 2 cores; 99.2%"),
    "mnist-best": Recipe(replace(_DIGITS, epochs=8), 0.996, "8 epochs, some 2 minutes on 2 cores; 99.7%"),
    "fashion-mnist": Recipe(replace(_CLOTHES, epochs=10), 0.93, "10 epochs, some 4 minutes on 2 cores; 94.2%"),
    "cifar10-quick": Recipe(replace(_QUICK, epochs=25), 0.78, "25 epochs, under 4 minutes on 2 cores; 86.4%"),
    "cifar10-90": Recipe(replace(_CIFAR_NET, epochs=4), 0.90, "4 epochs, some 5 minutes on 2 cores; 91.7%"),
    "cifar10-94": Recipe(replace(_CIFAR_NET, epochs=10), 0.935, "10 epochs, some 13 minutes on 2 cores; 94.2%"),
}


def check(settings):
    """Raise TypeError or ValueError for settings that no run could use, before any data is read."""
    check_each(settings)
    models.widths("train", settings.model, settings.channels)
    if settings.report:
        _drawer()
    if settings.dataset in data.NAMES:      # one's own data may have validation images
        _check_patience(settings, None)


def check_each(settings):
    """Raise TypeError or ValueError for settings of which one could not be used, whatever the others are."""
    for f in fields(Settings):
        value, choices = getattr(settings, f.name), f.metadata.get("choices")
        if choices and value not in choices:
            raise ValueError(f"train: {f.name} must be one of {', '.join(choices)}, got {value!r}")
        if f.type in (bool, str) and not isinstance(value, f.type):
            raise TypeError(f"train: {f.name} must be a {f.type.__name__}, got {value!r}")
        if f.type is str and not _storable(value):
            raise ValueError(f"train: {f.name} must be text that UTF-8 can hold, got {value!r}")
        if f.type is float:
            shapes.number("train", f.name.replace("_", " "), value, 0)
    shapes.integer("train", "image size", settings.image_size, 0)
    shapes.integer("train", "epochs", settings.epochs, 0)
    shapes.integer("train", "batch size", settings.batch_size, 1)
    shapes.integer("train", "seed", settings.seed, 0, 2**63 - 1)
    shapes.integer("train", "shift", settings.shift, 0, 2**15 - 1)
    shapes.integer("train", "patience", settings.patience, 0)
    shapes.integer("train", "keep", settings.keep, 1)
    shapes.number("train", "label smoothing", settings.label_smoothing, 0, 1)
    shapes.number("train", "validation fraction", settings.validation_fraction, 0, below=1)
    shapes.number("train", "bias lr", settings.bias_lr, above=0)
    shapes.number("train", "ema", settings.ema, 0, below=1)
    shapes.integer("train", "cutout", settings.cutout, 0, 2**15 - 1)
    shapes.number("train", "rotate", settings.rotate, 0, 180)
    shapes.number("train", "translate", settings.translate, 0, 1)
    shapes.number("train", "scale", settings.scale, 0, below=1)
    shapes.number("train", "shear", settings.shear, 0, below=90)
    _checkpoint_every(settings)


def _check_patience(settings, validation):
    """Refuse to wait for what is never measured. validation: the data set's own validation images, or None."""
    if settings.patience and settings.monitor.startswith("val_") and not settings.validation_fraction and (
            validation is None):
        own = "" if settings.dataset in data.NAMES else ", or images in val beside train and test"
        raise ValueError(f"train: patience by {settings.monitor} needs a validation fraction above 0{own}")


def _storable(text):
    try:
        text.encode()
    except UnicodeEncodeError:      # the name of a file that is not in the system's encoding
        return False
    return "\0" not in text


def _checkpoint_every(settings):
    every = settings.checkpoint_every
    if every in ("auto", "epoch"):
        return every
    if not every.isascii() or not every.isdigit() or not int(every):
        raise ValueError(f"train: checkpoint every must be auto, epoch or a number of steps, got {every!r}")
    return int(every)


def make_optimizer(settings, parameters):
    """The optimizer that the settings name."""
    options = {"lr": settings.lr, "weight_decay": settings.weight_decay}
    groups = optim.parameter_groups(parameters, **options, bias_lr=settings.bias_lr,
                                    decay_biases=settings.decay_biases)
    if settings.optimizer == "sgd":
        options.update(momentum=settings.momentum, nesterov=settings.momentum > 0)
    elif settings.optimizer == "rmsprop":
        options.update(momentum=settings.momentum)
    return optim.OPTIMIZERS[settings.optimizer](groups, **options)


def make_schedule(settings, steps):
    """The schedule that the settings name, over a run of `steps` steps."""
    if settings.schedule == "one-cycle":
        return schedules.OneCycle(settings.lr, steps, pct_start=0.2)
    if settings.schedule == "triangle":     # that of the paper that models.cifar_net names
        return schedules.OneCycle(settings.lr, steps, pct_start=0.23, div_factor=1 / 0.2, final_div_factor=0.2 / 0.07,
                                  anneal_strategy="linear")
    if settings.schedule == "cosine":
        return schedules.Cosine(settings.lr, steps, warmup_steps=min(steps // 10, 500))
    if settings.schedule == "linear":
        return schedules.Linear(settings.lr, steps)
    if settings.schedule == "step":
        return schedules.Step(settings.lr, max(1, -(-steps // 4)))
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


def make_loss(settings, train_set):
    """The loss that the settings name."""
    weight = None
    if settings.class_weights == "balanced":
        counts = np.bincount(train_set.labels, minlength=train_set.num_classes)
        weight = len(train_set) / (len(counts) * np.maximum(counts, 1))
    return CrossEntropyLoss(settings.label_smoothing, weight)


def new_folder(dataset, model, parent="runs"):
    """Make and return the first folder runs/<dataset>-<model>-<n> that does not exist."""
    n = 1
    while True:
        folder = Path(parent, f"{dataset}-{model}-{n}")
        try:
            folder.mkdir(parents=True)
            return folder
        except FileExistsError:
            n += 1


@contextmanager
def run_folder(out, settings):
    """The folder of a run, made before it starts and locked while it goes on; one that holds a run already is refused.

    One that nothing came to be in is removed again. Raises FileExistsError naming the folder.
    """
    folder = Path(out) if out is not None else new_folder(settings.dataset, settings.model)
    with files.locked(folder, make=True):
        for name in ("config.toml", "model.safetensors", "history.csv", "summary.json", "checkpoints"):
            if (folder / name).exists():
                raise FileExistsError(f"{folder} holds a run already ({name}); choose another folder, or --resume it")
        files.clean(folder)
        try:
            yield folder
        finally:
            if not any(folder.iterdir()):
                folder.rmdir()


# ---------------------------------------------------------------- settings in files

def write_settings(path, settings, target=None, images=None):
    """Write settings as TOML, which `read_settings` reads, and below them what the run was made with, and for."""
    settings, made_with = _anywhere(settings), {**runtime.versions(), "threads": runtime.get_num_threads()}
    if target is not None:
        made_with["target"] = target
    if images is not None:
        made_with["images"] = images
    lines = ["# A training run of cnn: `train.py --config` with this file makes the same run again.",
             *(f"{name} = {_toml(value)}" for name, value in asdict(settings).items()),
             "", "[made_with]", *(f"{name} = {_toml(value)}" for name, value in made_with.items())]
    files.write(path, ("\n".join(lines) + "\n").encode())


def _anywhere(settings):
    """The settings with paths that hold in other folders, too."""
    if settings.dataset not in data.NAMES:
        settings = replace(settings, dataset=str(Path(os.path.expanduser(settings.dataset)).absolute()))
    if settings.data_dir:
        settings = replace(settings, data_dir=str(Path(os.path.expanduser(settings.data_dir)).absolute()))
    return settings


def _toml(value):
    if isinstance(value, float):
        return repr(value)
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")     # which JSON may hold, and TOML may not


def read_settings(path):
    """Read a TOML file, or the config.toml of a folder: a dict with some or all of the names of Settings.

    Raises OSError (FileNotFoundError among them), and ValueError naming the file where it is no TOML in UTF-8, has
    unknown names, or values that no run could use.
    """
    return _read_config(path)[0]


def _read_config(path):
    """The settings in a file, and what stands below [made_with]."""
    import tomllib
    path = Path(path, "config.toml") if Path(path).is_dir() else Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such configuration")
    text = files.read_text(path)
    try:
        values = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not a configuration that can be read ({printable(error)})") from None
    made_with = values.pop("made_with", {})
    unknown = set(values) - {f.name for f in fields(Settings)}
    try:
        if unknown:
            raise ValueError(f"there are no such settings: {', '.join(sorted(unknown))}")
        if not isinstance(made_with, dict):
            raise ValueError("made_with must be a table")
        if "target" in made_with:
            shapes.number("made_with", "target", made_with["target"])
        check_each(Settings(**values))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: {printable(error).removeprefix('train: ')}") from None
    return values, made_with


# ---------------------------------------------------------------- running

def find_lr(settings, out=None, quiet=False):
    """The learning-rate range test (cnn.find_lr) of what the settings describe; returns its LRCurve.

    Writes lr.csv and, where Matplotlib is installed, lr.png to `out`, by default a new folder below runs/.
    Raises what `train` raises.
    """
    check(settings)
    train_set, _, _ = _load(settings)
    trainer, loader, _ = _make(settings, train_set)
    _say_what_is_odd(replace(settings, epochs=1), loader, quiet)
    curve = lr_finder.find_lr(trainer, loader)
    with run_folder(out, replace(settings, dataset=train_set.name, model=f"{settings.model}-lr")) as folder:
        curve.save(folder / "lr.csv")
        try:
            curve.plot(folder / "lr.png")
            written = "lr.csv and lr.png"
        except ModuleNotFoundError as error:
            written = f"lr.csv, but no lr.png ({error}),"
    steepest = ("falls at none of these learning rates" if math.isnan(curve.suggestion) else
                f"falls most steeply at a learning rate of {curve.suggestion:.2g}")
    _say(quiet, f"the loss {steepest} and is lowest at {curve.rates[curve.smoothed.index(min(curve.smoothed))]:.2g}")
    _say(quiet, f"wrote {written} to {folder}")
    return curve


def train(settings, out=None, quiet=False, target=None):
    """Train as the settings say, and write what there is to know about it into a folder (docs/runs.md).

    out: the folder, default a new one below runs/. quiet: print nothing. target: a test accuracy, to say whether
    it was met. Returns the summary (a dict).

    Raises FileNotFoundError (data), FileExistsError (the folder holds a run), ValueError or TypeError (settings),
    OSError naming the file that could not be written, TrainingDiverged; Interrupted where a signal stopped it.
    """
    start = time.perf_counter()
    check(settings)
    sets = _load(settings)
    made = _make(settings, sets[0])
    with run_folder(out, replace(settings, dataset=sets[0].name)) as folder:
        write_settings(folder / "config.toml", settings, target, _counts(sets))
        return _go(settings, sets, made, folder, quiet, start, target=target)


def resume(folder, quiet=False, **free):
    """Go on with the run in a folder after its newest checkpoint, to the same bits; returns the summary.

    free: other values for settings that the result does not depend on, those in FREE; a time limit must be set
    anew. A run that is complete is left as it is. Raises what `train` raises.
    """
    start, folder = time.perf_counter(), Path(folder)
    fixed = set(free) - FREE
    if fixed:
        raise ValueError(f"resume: {', '.join(sorted(fixed))} cannot be changed in the middle of a run")
    if not folder.is_dir():
        reason = "a run is resumed by its folder, this is a file" if folder.exists() else "there is no such folder"
        raise FileNotFoundError(f"{folder}: {reason}")
    with files.locked(folder):
        values, made_with = _read_config(folder)
        settings = Settings(**{**values, "max_minutes": 0.0, **free})
        check(settings)
        files.clean(folder)
        summary = _summary(folder / "summary.json", quiet)
        if summary.get("complete"):
            _say(quiet, f"{folder} is complete: held-out accuracy {summary['test_accuracy']:.2%} after "
                        f"{summary['steps']:,} steps")
            return summary
        sets = _load(settings)
        for name, value in {**runtime.versions(), "images": _counts(sets)}.items():
            if made_with.get(name, value) != value:
                _say(quiet, f"begun with {name} {made_with[name]}, gone on with {value}: the bits may differ")
        return _go(settings, sets, _make(settings, sets[0]), folder, quiet, start, made_with.get("target"),
                   resuming=True)


def _say(quiet, text):
    if not quiet:
        streams.say(text)


def _say_what_is_odd(settings, loader, quiet):
    """Settings that are no mistake, but may be one."""
    images = len(loader.dataset)
    if not settings.epochs:
        _say(quiet, "epochs is 0: nothing is trained, the model is measured as it is made")
    elif settings.batch_size > images:
        _say(quiet, f"a batch of {settings.batch_size:,} is larger than the {images:,} training images: every step "
                    f"takes all of them")


def _summary(path, quiet):
    """What a run has said of itself so far; {}, and words, where that cannot be read: it can be measured anew."""
    if not path.exists():
        return {}
    try:
        summary = json.loads(files.read_text(path))
        if not isinstance(summary, dict):
            raise ValueError(f"must hold a JSON object, not {type(summary).__name__}")
        if summary.get("complete"):
            shapes.number("complete", "test_accuracy", summary.get("test_accuracy"))
            shapes.integer("complete", "steps", summary.get("steps"), 0, 2**63 - 1)
        return summary
    except (OSError, ValueError, TypeError, RecursionError) as error:
        _say(quiet, f"{path}: damaged, and made anew ({error})")
        return {}


def _load(settings):
    """The data sets to train on, to choose by (or None), and to test on."""
    train_set, validation, test_set = data.load_parts(
        settings.dataset, settings.data_dir or None, settings.image_size or None, seed=settings.seed)
    _check_patience(settings, validation)
    if validation is not None and settings.validation_fraction:
        raise ValueError(f"train: validation fraction must be 0, because {settings.dataset} has validation images of "
                         f"its own ({validation.name}), got {settings.validation_fraction}")
    if not settings.validation_fraction:
        return train_set, validation, test_set
    return *train_set.split(settings.validation_fraction, settings.seed), test_set


def _counts(sets):
    """How many images there are to train on, to choose by and to test on, in words."""
    return ", ".join(f"{0 if part is None else len(part)} {use}"
                     for part, use in zip(sets, ("training", "validation", "test"), strict=True))


def _go(settings, sets, made, folder, quiet, start, target=None, resuming=False):
    """Train, measure and write; `start` is when the run began, by time.perf_counter."""
    (train_set, validation, test_set), (trainer, loader, description) = sets, made
    keeper = Checkpoint(folder / "checkpoints", _checkpoint_every(settings), settings.keep)
    stopper = StopOnSignal(keeper)
    limit = TimeLimit(settings.max_minutes) if settings.max_minutes else None
    trainer.callbacks = [*make_averages(settings, trainer.model, max(1, len(loader) * settings.epochs)),
                         *([] if quiet else [Progress(), EpochLog()]),
                         *make_callbacks(settings, folder, validation, description),
                         *([limit] if limit else []), keeper, stopper]
    sizes = "x".join(map(str, train_set.images.shape[1:]))
    to_choose = f", {len(validation):,} to choose by" if validation is not None else ""
    if validation is not None and not settings.validation_fraction:
        to_choose += f" ({validation.name})"
    _say(quiet, f"{settings.model} with {sum(p.size for p in trainer.model.parameters()):,} parameters on "
                f"{settings.dataset}: {len(train_set):,} training and {len(test_set):,} held-out images of {sizes}"
                f"{to_choose}, {runtime.get_num_threads()} threads")
    _say_what_is_odd(settings, loader, quiet)
    if resuming:
        _go_back(trainer, folder, quiet)
    try:
        with stopper:
            history = trainer.fit(loader, settings.epochs, validation)
    except TrainingDiverged as error:
        raise TrainingDiverged(_diverged(error, settings, trainer, description, folder, start)) from None
    # the loss reported is without smoothing
    measured = Trainer(trainer.model, None, progress=False).evaluate(test_set, description["tta"])
    training = sum(history.column("seconds"))
    checkpoint.save_model(folder / "model.safetensors", trainer.model,
                          {**description, "test_accuracy": measured["accuracy"]})
    summary = _write_summary(
        folder, settings, start, test_accuracy=measured["accuracy"], test_loss=measured["loss"], steps=trainer.step,
        complete=not (limit and limit.reached), stopped=trainer.stop or None,
        digest=checkpoint.digest(trainer.state_dict()),
        images_per_second=round(sum(row["seconds"] * row["images_per_second"] for row in history) / training)
        if training else None)

    if trainer.stop:
        _say(quiet, f"stopped after step {trainer.step:,}: {trainer.stop}")
    _say(quiet, f"held-out accuracy {measured['accuracy']:.2%} (loss {measured['loss']:.4f}) after {len(history)} "
                f"epochs")
    if target is not None:
        _say(quiet, f"target {target:.1%}: {'met' if measured['accuracy'] >= target else 'missed'}")
    if history:
        _say(quiet, f"{summary['images_per_second']:,} images/s while training, {summary['seconds']:.1f} s in all")
    _say(quiet, f"wrote model.safetensors, history.csv and summary.json to {folder}")
    if settings.report:
        _say(quiet, f"drew {_drawer().write(folder, settings.data_dir or None)}")
    return summary


def _diverged(error, settings, trainer, description, folder, start):
    """Write what is left of a run that diverged, and return what there is to say about it."""
    good = checkpoint.checkpoints(folder / "checkpoints")
    words = f"{error}; " + (f"the last good checkpoint is {good[-1]}" if good else "there was no checkpoint yet")
    stopping = next((c for c in trainer.callbacks if isinstance(c, EarlyStopping) and c.best is not None), None)
    if stopping is not None:        # it has restored the best weights
        checkpoint.save_model(folder / "model.safetensors", trainer.model, {
            **description, "epoch": stopping.best_epoch, stopping.monitor: stopping.best})
        words += f"; model.safetensors has the weights of epoch {stopping.best_epoch}, the best"
    _write_summary(folder, settings, start, steps=trainer.step, complete=False, stopped=words, diverged=True)
    if settings.report:
        _drawer().write(folder, settings.data_dir or None)
    return words


def _write_summary(folder, settings, start, **results):
    """Write summary.json, and return what is in it."""
    summary = {**asdict(settings), **results, "seconds": round(time.perf_counter() - start, 3),
               "threads": runtime.get_num_threads()}
    files.write(folder / "summary.json", (json.dumps(summary, indent=2) + "\n").encode())
    return summary


def _drawer():
    """The module that draws a run; imported late, because most runs do without. Raises ModuleNotFoundError without
    matplotlib."""
    from cnn import plots
    from cnn.reports import page as report
    plots.require()
    return report


def _make(settings, train_set):
    """A trainer, the loader that feeds it, and what a model file says about the model."""
    channels, height, width = train_set.images.shape[1:]
    if height != width:
        raise ValueError(f"train: the models want square images, those of {settings.dataset} are {height}x{width}")
    arguments = {"in_channels": channels, "num_classes": train_set.num_classes, "image_size": height,
                 **models.widths("train", settings.model, settings.channels)}
    model = models.MODELS[settings.model](**arguments, seed=settings.seed)
    if settings.model in models.WHITENED:
        models.whiten(model, train_set.normalise(train_set.images[:5000]))
    description = {"model": settings.model, "arguments": arguments, "classes": list(train_set.classes),
                   "mean": list(train_set.mean), "std": list(train_set.std), "pixels": str(train_set.images.dtype),
                   "dataset": _anywhere(settings).dataset, "seed": settings.seed,
                   "tta": None if settings.tta == "none" else settings.tta}
    loader = data.DataLoader(train_set, settings.batch_size, shuffle=True, seed=settings.seed,
                             transform=make_transform(settings, train_set), drop_last=settings.drop_last)
    trainer = Trainer(model, make_optimizer(settings, model.parameters()), make_loss(settings, train_set),
                      schedule=make_schedule(settings, max(1, len(loader) * settings.epochs)),
                      max_grad_norm=settings.max_grad_norm or None, progress=False)
    if not len(loader):
        raise ValueError(f"train: with drop last, batch size must be at most the {len(train_set):,} training images, "
                         f"got {settings.batch_size}")
    checks.single_values("train", model, loader)
    return trainer, loader, description


def make_callbacks(settings, folder, validation, description):
    """The callbacks that the settings ask for: logs, early stopping, the best weights."""
    result = [CSVLog(folder / "history.csv")]
    if settings.log_steps:
        result.append(JSONLLog(folder / "steps.jsonl"))
    if settings.tensorboard:
        result.append(TensorBoard(folder / "tensorboard"))
    if settings.patience:
        result.append(EarlyStopping(settings.monitor, settings.patience, settings.min_delta))
    if validation is not None:
        result.append(BestCheckpoint(folder / "best.safetensors", settings.monitor, settings.min_delta, description))
    return result


def _go_back(trainer, folder, quiet):
    """Load the newest checkpoint of a run; without one, clear away what came before the first."""
    path = checkpoint.resume(folder / "checkpoints", trainer, lambda text: _say(quiet, text))
    if path is not None:
        _say(quiet, f"going on after step {trainer.step:,}, from {path}")
        return
    _say(quiet, "there is no checkpoint yet: going on from the beginning")
    for name in ("history.csv", "steps.jsonl", "best.safetensors"):
        (folder / name).unlink(missing_ok=True)
