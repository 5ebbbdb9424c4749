"""The command `cnn`, and what scripts/ run: one module for each sub-command.

Each has `main(arguments=None, prog=None)`: arguments as in sys.argv[1:], prog what to call it in messages.
"""
import argparse
import sys
import warnings
from contextlib import contextmanager
from importlib import import_module

import cnn
from cnn import threads

COMMANDS = {
    "train": "train a network",
    "evaluate": "measure a saved model, class by class",
    "predict": "classify pictures with a saved model",
    "report": "make pictures of a run and one HTML page of them",
    "bench": "measure the speed, beside PyTorch's where that is installed",
    "config": "say which kernels, threads and versions are in use",
}


def main(arguments=None):
    """Run `cnn COMMAND ...`; only the module of that command is imported."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    rows = "".join(f"  {name:<10s}{words}\n" for name, words in COMMANDS.items())
    p = argparse.ArgumentParser(prog="cnn", description="Trains small convolutional networks on a CPU, fast.",
                                epilog=f"commands:\n{rows}\ncnn COMMAND --help says more.",
                                formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--version", action="version", version=f"cnn {cnn.__version__}")
    p.add_argument("command", metavar="COMMAND", choices=COMMANDS, help="one of those below, then its own arguments")
    command = p.parse_args(arguments[:1]).command
    return import_module(f"cnn.commands.{command}").main(arguments[1:], f"cnn {command}")


@contextmanager
def running(p, n_threads):
    """Run a command that the parser `p` has read, on so many threads (None: as it is): errors that a user can mend
    end it with a line that names it and exit code 1, Ctrl-C with 130."""
    try:
        if n_threads is not None:
            threads.set_num_threads(n_threads)
        yield
    except (OSError, ValueError, TypeError, ImportError) as error:
        p.exit(1, f"{p.prog}: {error}\n")
    except KeyboardInterrupt:
        p.exit(130, "\n")


@contextmanager
def plain_warnings():
    """Warnings without the line of code that they come from."""
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *where: print(f"warning: {message}", file=sys.stderr)
        yield
