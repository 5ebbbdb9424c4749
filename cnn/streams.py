"""Words for people: printed where that is possible, and never a reason to stop.

A stream may be closed, None (pythonw), without `isatty`, in an encoding that lacks letters, or a pipe that nobody
reads.
"""
import io
import os
import sys

from cnn import ranks
from cnn.text import printable

_FAILURES = (OSError, ValueError, AttributeError)   # of a stream that is broken, closed or not quite one
_failed = None      # what first prevented words to sys.stdout


def escaped(text):
    """`text` with all that is unprintable escaped, but for its line ends."""
    return "\n".join(map(printable, str(text).split("\n")))


def say(text=""):
    """Print lines to sys.stdout, with escapes shown; returns None, or the error that prevented it. Of several ranks,
    only the first prints."""
    global _failed
    if not ranks.leads():
        return None
    error = _write(sys.stdout, escaped(text) + "\n")
    _failed = _failed or error
    return error


def complain(text):
    """Print lines to sys.stderr, as `say` does."""
    _write(sys.stderr, escaped(text) + "\n")


def isatty(file):
    """Whether a file is a terminal; False for what can't tell."""
    try:
        return bool(file.isatty())
    except _FAILURES:
        return False


def in_notebook():
    """Whether this is the process of a notebook's cells (IPython's kernel)."""
    ipython = sys.modules.get("IPython")    # whoever runs in it has imported it
    return ipython is not None and hasattr(ipython.get_ipython(), "kernel")


def _write(file, text):
    if file is None:    # nobody is there to be told
        return None
    try:
        try:
            file.write(text)
        except UnicodeEncodeError as error:
            file.write(text.encode(error.encoding, "backslashreplace").decode(error.encoding))
        file.flush()
    except _FAILURES as error:
        return error
    return None


class Tolerant:
    """A text stream that swallows its failures, for code that would stop at them."""

    def __init__(self, file):
        self._file = file

    def write(self, text):
        _write(self._file, text)
        return len(text)

    def flush(self):
        pass    # each write does

    def __getattr__(self, name):
        return getattr(self._file, name)


# ---------------------------------------------------------------- of a whole process


def prepare():
    """Make the streams of a command safe to use: no file that is opened later may take the place of a closed one."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)      # takes the lowest number that is free
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")


def finish():
    """Empty the buffers, so that Python does not complain of them at the end; returns the first error of stdout."""
    global _failed
    for stream in filter(None, (sys.stdout, sys.stderr)):
        try:
            stream.flush()
        except _FAILURES as error:
            if stream is sys.stdout:
                _failed = _failed or error
            _silence(stream)
    failed, _failed = _failed, None
    return failed


def _silence(stream):
    """Let the rest of a broken stream go nowhere."""
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
    except _FAILURES:
        pass
