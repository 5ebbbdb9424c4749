"""The command `cnn`, and what scripts/ run: one module per sub-command.

Each has `main(arguments=None, prog=None)`: arguments as in sys.argv[1:], prog what to call it in messages.
"""
import argparse
import difflib
import functools
import sys
import warnings
from contextlib import contextmanager
from importlib import import_module

import cnn
from cnn import files, ranks, runtime, streams

COMMANDS = {
    "train": "train a network",
    "evaluate": "measure a saved model, class by class",
    "predict": "classify pictures with a saved model",
    "serve": "classify pictures in a browser, or by HTTP",
    "export": "write a saved model in another format, such as ONNX",
    "report": "plot a run, and write one HTML page of all figures",
    "sweep": "train many times and find the best settings (pip install 'cnn[sweep]')",
    "bench": "measure the speed, and PyTorch's if it is installed",
    "config": "show which kernels, threads and versions are in use",
}


# how argparse reads --threads
THREADS = {"type": int, "metavar": "N", "help": "number of threads; default: one per core that this process may use"}


def command(main):
    """A command's `main`, with streams that cannot break it and leave nothing to complain of."""
    @functools.wraps(main)
    def safe(arguments=None, prog=None):
        streams.prepare()
        try:
            result = main(arguments, prog)
        except BaseException as error:
            streams.finish()
            ranks.leave(error)
            raise
        failed, results_in_files = streams.finish(), main.__module__ == "cnn.commands.train"
        if failed and not isinstance(failed, BrokenPipeError):
            streams.complain(f"{prog or 'cnn'}: could not print: {failed}")
        if failed and not results_in_files:
            sys.exit(_BROKEN_PIPE if isinstance(failed, BrokenPipeError) else 1)
        return result
    return safe


def main(arguments=None):
    """Run `cnn COMMAND ...`; only the module of that command is imported."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    rows = "".join(f"  {name:<10s}{words}\n" for name, words in COMMANDS.items())
    p = argparse.ArgumentParser(prog="cnn", description="Trains small convolutional networks on a CPU, fast.",
                                epilog=f"commands:\n{rows}\ncnn COMMAND --help shows a command's options.",
                                formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--version", action="version", version=f"cnn {cnn.__version__}")
    p.add_argument("command", metavar="COMMAND", choices=COMMANDS, help="a command from the list below, followed by "
                   "its options")
    streams.prepare()
    try:
        name = p.parse_args(arguments[:1]).command
    finally:
        streams.finish()
    return import_module(f"cnn.commands.{name}").main(arguments[1:], f"cnn {name}")


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, not below the whole usage, and the way to help."""

    def parse_args(self, args=None, namespace=None):
        given, unknown = self.parse_known_args(args, namespace)
        if unknown:
            near = difflib.get_close_matches(unknown[0].split("=")[0], self._option_string_actions, 1)
            self.error(f"unrecognized arguments: {' '.join(unknown)}" + (f"; did you mean {near[0]}?" if near else ""))
        return given

    def error(self, message):
        if ranks.leads():
            streams.complain(f"{self.prog}: error: {message}\n(see {self.prog} --help)")
        sys.exit(2)


def path(text):
    """The type of arguments that are paths: ~ is the home folder."""
    try:
        return files.expanded(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


_BROKEN_PIPE = 128 + 13     # as of a process that SIGPIPE ends


@contextmanager
def running(p, n_threads):
    """Run a command that the parser `p` has read, on so many threads (None: as it is): errors that a user can mend
    end it with a line that names it and exit code 1, Ctrl-C with 130. Warnings are printed as lines."""
    try:
        with plain_warnings():
            runtime.get_winograd()     # what the environment says must be right
            if n_threads is None:
                runtime.get_num_threads()
            else:
                runtime.use("--threads", n_threads)
            yield
    except (OSError, ValueError, TypeError, ImportError, MemoryError, ArithmeticError) as error:
        if isinstance(error, BrokenPipeError) and error.filename is None:   # nobody reads what it prints
            sys.exit(_BROKEN_PIPE)
        ranks.give_way()
        words = str(error) or ("not enough memory" if isinstance(error, MemoryError) else type(error).__name__)
        own_name = p.prog.split()[-1].removesuffix(".py")
        streams.complain(f"{p.prog}: {words.removeprefix(f'{own_name}: ')}")
        sys.exit(1)
    except KeyboardInterrupt:
        streams.complain(f"\n{p.prog}: interrupted")
        sys.exit(130)


@contextmanager
def plain_warnings():
    """Warnings without the line of code that they come from."""
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *where: ranks.leads() and streams.complain(f"warning: {message}")
        yield
