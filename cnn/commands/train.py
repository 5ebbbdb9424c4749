"""Train a network. Without arguments: LeNet-5 on 4,000 real digits that come with the package."""
import argparse

from cnn import data, models, optim, run, threads
from cnn.commands import plain_warnings
from cnn.trainer import TrainingDiverged


def parser(prog=None):
    p = argparse.ArgumentParser(prog=prog, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
                                epilog="Options that are not given take values that suit the data set.")
    p.add_argument("--recipe", choices=run.RECIPES, help="settings that reach a named accuracy; only the seed is open")
    p.add_argument("--list-recipes", action="store_true", help="say what recipes there are, and stop")
    p.add_argument("--dataset", metavar="NAME|PATH", help=f"{', '.join(data.NAMES)}; or a folder with one sub-folder "
                   "of pictures a class, or an .npz file with images and labels; default: mnist-sample")
    p.add_argument("--image-size", type=int, metavar="N", help="pixels a side that a folder's pictures are brought to; "
                   "default: as most of them are, up to 64, else 32")
    p.add_argument("--data-dir", metavar="DIR", help="where to look for the data set first (then "
                   "$CNN_DATA_DIR, then the user's cache; else it is downloaded)")
    p.add_argument("--model", choices=models.MODELS, help="default: lenet5")
    p.add_argument("--epochs", type=int, metavar="N", help="passes over the training images")
    p.add_argument("--batch-size", type=int, metavar="N", help="images in a step")
    p.add_argument("--lr", type=float, metavar="RATE", help="(largest) learning rate")
    p.add_argument("--optimizer", choices=optim.OPTIMIZERS)
    p.add_argument("--momentum", type=float, metavar="M", help="of sgd and rmsprop")
    p.add_argument("--weight-decay", type=float, metavar="D")
    p.add_argument("--schedule", choices=run.SCHEDULES, help="of the learning rate")
    p.add_argument("--label-smoothing", type=float, metavar="E", help="share of the target spread over all classes")
    p.add_argument("--shift", type=int, metavar="PIXELS", help="move training images at random by up to so many pixels")
    p.add_argument("--flip", action=argparse.BooleanOptionalAction, help="mirror training images at random")
    p.add_argument("--seed", type=int, metavar="N", help="of weights and order; the same seed gives the same "
                   "weights to the bit on any number of threads")
    p.add_argument("--threads", type=int, metavar="N", help="default: all cores this process may use")
    p.add_argument("--out", metavar="DIR", help="default: a new folder runs/<dataset>-<model>-<n>")
    p.add_argument("--quiet", action="store_true", help="print nothing")
    return p


def main(arguments=None, prog=None):
    p = parser(prog)
    given = vars(p.parse_args(arguments))
    if given.pop("list_recipes"):
        for name, recipe in run.RECIPES.items():
            print(f"{name}: {recipe.settings.model} on {recipe.settings.dataset}, {recipe.target:.1%}; {recipe.cost}")
        return
    data_dir, out, quiet, n_threads = (given.pop(name) for name in ("data_dir", "out", "quiet", "threads"))
    recipe = run.RECIPES.get(given.pop("recipe"))
    given = {name: value for name, value in given.items() if value is not None}
    if recipe and given.keys() - {"seed"}:
        p.error(f"a recipe fixes --{min(given.keys() - {'seed'}).replace('_', '-')}; only --seed can be chosen")
    settings = recipe.settings if recipe else run.DEFAULTS.get(given.get("dataset"), run.Settings())
    settings = run.replace(settings, **given)
    try:
        if n_threads is not None:
            threads.set_num_threads(n_threads)
        with plain_warnings():
            run.train(settings, data_dir, out, quiet, recipe and recipe.target)
    except (TrainingDiverged, ImportError, OSError, ValueError, TypeError) as error:
        p.exit(1, f"{p.prog}: {error}\n")
    except KeyboardInterrupt:
        p.exit(130, f"\n{p.prog}: interrupted; nothing was written\n")
