"""Train a network. Without arguments: LeNet-5 on 4,000 real digits that come with the package."""
import argparse
import dataclasses
import shlex
import sys
from contextlib import nullcontext

from cnn import streams
from cnn.commands import Parser, command, path, running
from cnn.engine.debugging import debug
from cnn.runs import run
from cnn.runs.recipes import RECIPES
from cnn.runs.settings import FREE, Settings, defaults, read_settings
from cnn.training.callbacks import Interrupted

_PATHS = ("dataset", "data_dir")


def parser(prog=None):
    p = Parser(prog=prog, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
               epilog="Options that are not given take values that suit the data set; for your own images they are\n"
               "chosen from the data, and printed (docs/own-data.md).")
    p.add_argument("--recipe", choices=RECIPES, help="settings that reach a named accuracy; only the seed is open")
    p.add_argument("--list-recipes", action="store_true", help="say what recipes there are, and stop")
    p.add_argument("--config", type=path, metavar="FILE", help="take the settings from the config.toml of a run (or "
                   "its folder); those on the command line override them")
    p.add_argument("--resume", type=path, metavar="RUN",
                   help="resume the run in this folder; the result is bit-identical")
    p.add_argument("--find-lr", action="store_true", help="instead of training, measure the loss at growing learning "
                   "rates, and draw it (pip install 'cnn[plot]')")
    for field in dataclasses.fields(Settings):
        names = {name: value for name, value in field.metadata.items() if name != "free"}
        kind = {"action": argparse.BooleanOptionalAction} if field.type is bool else {
            "type": path if field.name in _PATHS else field.type}
        p.add_argument(f"--{field.name.replace('_', '-')}", **kind, **names)
    p.add_argument("--threads", type=int, metavar="N", help="default: all cores this process may use")
    p.add_argument("--out", type=path, metavar="DIR", help="default: a new folder runs/<dataset>-<model>-<n>")
    p.add_argument("--debug", action="store_true", help="look at every value and gradient, and name the first that is "
                   "NaN or infinite, its layer and step; many times slower")
    p.add_argument("--quiet", action="store_true", help="print nothing")
    return p


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
    fixed = given.keys() - FREE - ({"seed"} if recipe else set())
    if (recipe or folder) and fixed:
        p.error(f"{'a recipe' if recipe else 'the run to resume'} fixes --{min(fixed).replace('_', '-')}")
    try:
        with running(p, n_threads), debug() if debugging else nullcontext():
            if folder:
                run.resume(folder, quiet, **given)
                return
            values = {**(read_settings(config) if config else {}), **given}
            settings = recipe.settings if recipe else defaults(values.get("dataset", "mnist-sample"))
            settings = dataclasses.replace(settings, **values)
            if find_lr:
                run.find_lr(settings, out, quiet, given=values)
            else:
                run.train(settings, out, quiet, recipe and recipe.target, given=values)
    except Interrupted as stop:
        folder = shlex.quote(str(stop.path.parents[1]))
        streams.complain(f"{p.prog}: {stop}; go on with: {p.prog} --resume {folder}")
        sys.exit(128 + stop.number)
