"""A training run from settings to files: what `scripts/train.py` does once it has read its arguments."""
import json
import time
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from cnn import checkpoint, data, files, models, optim, schedules, shapes, threads
from cnn.callbacks import EpochLog, Progress
from cnn.losses import CrossEntropyLoss
from cnn.trainer import Trainer

SCHEDULES = ("constant", "step", "cosine", "one-cycle")


@dataclass(frozen=True)
class Settings:
    """Everything that a run's result depends on, besides the software.

    dataset: a name, or the path of a folder or .npz file. image_size: pixels a side that a folder's pictures are
    brought to; None: what suits them. lr: the (largest) learning rate. schedule: one of SCHEDULES; "step"
    divides by ten after a half and after three quarters of the run. shift: pixels by which training images move
    at random; flip: whether they are mirrored at random.
    """

    dataset: str = "mnist-sample"
    image_size: int | None = None
    model: str = "lenet5"
    epochs: int = 30
    batch_size: int = 64
    lr: float = 0.05
    optimizer: str = "sgd"
    momentum: float = 0.9
    weight_decay: float = 2e-3
    schedule: str = "one-cycle"
    label_smoothing: float = 0.05
    shift: int = 2
    flip: bool = False
    seed: int = 0


# What suits each data set; chosen on a split of its training set, never on its test set.
_MNIST = Settings(epochs=4, weight_decay=5e-4, label_smoothing=0.0, shift=0)
_CIFAR = Settings(epochs=15, lr=0.03, weight_decay=1e-3, label_smoothing=0.0, shift=0, flip=True)
DEFAULTS = {
    "mnist-sample": Settings(),
    "mnist": replace(_MNIST, dataset="mnist"),
    "fashion-mnist": replace(_MNIST, dataset="fashion-mnist", epochs=10),
    "kmnist": replace(_MNIST, dataset="kmnist", epochs=10),
    "cifar10": replace(_CIFAR, dataset="cifar10"),
    "cifar100": replace(_CIFAR, dataset="cifar100"),
}


@dataclass(frozen=True)
class Recipe:
    """Settings that reach a named accuracy; only the seed is left open.

    target: test accuracy, of the mean of five seeds. cost: what it takes, in words.
    """

    settings: Settings
    target: float
    cost: str


RECIPES = {
    "mnist-99": Recipe(replace(_MNIST, dataset="mnist", epochs=3), 0.99, "3 epochs, under 3 s on 2 cores"),
}


def check(settings):
    """Raise TypeError or ValueError for settings that no run could use, before any data is read."""
    shapes.integer("train", "epochs", settings.epochs, 0)
    shapes.integer("train", "batch size", settings.batch_size, 1)
    shapes.integer("train", "seed", settings.seed, 0, 2**63 - 1)
    shapes.integer("train", "shift", settings.shift, 0)
    for name in ("lr", "momentum", "weight_decay"):
        shapes.number("train", name.replace("_", " "), getattr(settings, name), 0)
    shapes.number("train", "label smoothing", settings.label_smoothing, 0, 1)
    for name, known in (("model", models.MODELS), ("optimizer", optim.OPTIMIZERS), ("schedule", SCHEDULES)):
        if getattr(settings, name) not in known:
            raise ValueError(f"train: {name} must be one of {', '.join(known)}, got {getattr(settings, name)!r}")


def make_optimizer(settings, parameters):
    """The optimizer that the settings name."""
    options = {"lr": settings.lr, "weight_decay": settings.weight_decay}
    if settings.optimizer == "sgd":
        options.update(momentum=settings.momentum, nesterov=settings.momentum > 0)
    elif settings.optimizer == "rmsprop":
        options.update(momentum=settings.momentum)
    return optim.OPTIMIZERS[settings.optimizer](parameters, **options)


def make_schedule(settings, steps):
    """The schedule that the settings name, over a run of `steps` steps."""
    if settings.schedule == "one-cycle":
        return schedules.OneCycle(settings.lr, steps, pct_start=0.2)
    if settings.schedule == "cosine":
        return schedules.Cosine(settings.lr, steps, warmup_steps=min(steps // 10, 500))
    if settings.schedule == "step":
        return schedules.Step(settings.lr, max(1, -(-steps // 4)))
    return schedules.Constant(settings.lr)


def make_transform(settings):
    """What happens to training images at random, or None."""
    transforms = [*([data.RandomCrop(settings.shift, mode="zero")] if settings.shift else []),
                  *([data.RandomFlip()] if settings.flip else [])]
    return data.Compose(*transforms) if transforms else None


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


def open_folder(path):
    """Make the folder if need be; one that holds a run already is refused."""
    path = Path(path)
    path.mkdir(parents=True, exist_ok=True)
    for name in ("model.safetensors", "history.csv", "summary.json"):
        if (path / name).exists():
            raise FileExistsError(f"{path} holds a run already ({name}); choose another folder")
    return path


@contextmanager
def run_folder(out, settings):
    """The folder of a run, made before it starts; one that nothing came to be in is removed again."""
    folder = open_folder(out) if out is not None else new_folder(settings.dataset, settings.model)
    try:
        yield folder
    finally:
        if not any(folder.iterdir()):
            folder.rmdir()


def train(settings, data_dir=None, out=None, quiet=False, target=None):
    """Train as the settings say and write model.safetensors, history.csv and summary.json.

    data_dir: where to look for the data set first. out: folder to write to, default a new one below runs/.
    quiet: print nothing. target: a test accuracy, to say whether it was met. Returns the summary (a dict).

    Raises FileNotFoundError (data), FileExistsError (the folder holds a run), ValueError (settings),
    TrainingDiverged.
    """
    start = time.perf_counter()

    def say(text):
        if not quiet:
            print(text, flush=True)

    check(settings)
    train_set, test_set = data.load(settings.dataset, data_dir, settings.image_size, seed=settings.seed)
    channels, height, width = train_set.images.shape[1:]
    if height != width:
        raise ValueError(f"train: the models want square images, those of {settings.dataset} are {height}x{width}")
    arguments = {"in_channels": channels, "num_classes": train_set.num_classes, "image_size": height}
    model = models.MODELS[settings.model](**arguments, seed=settings.seed)
    with run_folder(out, replace(settings, dataset=train_set.name)) as folder:
        say(f"{settings.model} with {sum(p.size for p in model.parameters()):,} parameters on {settings.dataset}: "
            f"{len(train_set):,} training and {len(test_set):,} held-out images of {channels}x{height}x{width}, "
            f"{threads.get_num_threads()} threads")
        loader = data.DataLoader(train_set, settings.batch_size, shuffle=True, seed=settings.seed,
                                 transform=make_transform(settings))
        trainer = Trainer(model, make_optimizer(settings, model.parameters()),
                          CrossEntropyLoss(settings.label_smoothing), progress=False,
                          callbacks=[] if quiet else [Progress(), EpochLog()],
                          schedule=make_schedule(settings, max(1, len(loader) * settings.epochs)))
        history = trainer.fit(loader, settings.epochs)
        # the loss reported is without smoothing
        measured = Trainer(model, None, progress=False).evaluate(test_set)
        training = sum(history.column("seconds"))
        summary = {
            **asdict(settings),
            "test_accuracy": measured["accuracy"], "test_loss": measured["loss"],
            "seconds": round(time.perf_counter() - start, 3),
            "images_per_second": round(len(train_set) * len(history) / training) if training else None,
            "threads": threads.get_num_threads(),
        }
        description = {"model": settings.model, "arguments": arguments, "classes": list(train_set.classes),
                       "mean": list(train_set.mean), "std": list(train_set.std), "dataset": settings.dataset,
                       "seed": settings.seed, "test_accuracy": measured["accuracy"]}
        checkpoint.save_model(folder / "model.safetensors", model, description)
        history.save(folder / "history.csv")
        files.write(folder / "summary.json", (json.dumps(summary, indent=2) + "\n").encode())

    say(f"held-out accuracy {measured['accuracy']:.2%} (loss {measured['loss']:.4f}) after {len(history)} epochs")
    if target is not None:
        say(f"target {target:.1%}: {'met' if measured['accuracy'] >= target else 'missed'}")
    if history:
        say(f"{summary['images_per_second']:,} images/s while training, {summary['seconds']:.1f} s in all")
    say(f"wrote model.safetensors, history.csv and summary.json to {folder}")
    return summary
