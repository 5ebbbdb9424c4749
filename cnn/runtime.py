"""What the kernels run on: how many threads, whether convolutions may take fewer multiplications, which machine.

Winograd's F(4x4, 3x3) and F(2x2, 5x5) sum numbers that are larger than the result, so that float32 results differ
from the exact ones by some 2e-6 of the largest, instead of 1e-6 (docs/gradients.md).
"""
from __future__ import annotations

import functools
import math
import os
import platform
import warnings
from typing import TYPE_CHECKING

import numpy as np

from cnn import _ext, ranks, shapes, streams
from cnn._ext import executor

if TYPE_CHECKING:
    from typing import TextIO

# ---------------------------------------------------------------- threads

_threads = None     # None: not asked for yet


def _cgroup_limit() -> float:
    """CPUs that the container may use, or infinity (cgroup v2, then v1; Linux only)."""
    try:
        with open("/sys/fs/cgroup/cpu.max") as file:
            quota, period = file.read().split()
    except (OSError, ValueError):
        try:
            with open("/sys/fs/cgroup/cpu/cpu.cfs_quota_us") as file:
                quota = file.read().strip()
            with open("/sys/fs/cgroup/cpu/cpu.cfs_period_us") as file:
                period = file.read().strip()
        except OSError:
            return math.inf
    if quota in ("max", "-1"):
        return math.inf
    return max(1, round(int(quota) / int(period)))


@functools.cache
def cores() -> int:
    """Cores that this process may use: its CPU affinity within the cgroup's limit, when first asked for."""
    try:
        count = len(os.sched_getaffinity(0))
    except AttributeError:      # not on macOS
        count = os.cpu_count() or 1
    return int(min(count, _cgroup_limit()))


def fitting(name: str, n: int) -> int:
    """Return `n` threads, as `name` (an option or a variable) asks for, if they fit this machine.

    Raises ValueError for more than four times the cores; warns of more than the cores.
    """
    there = cores()
    if not 1 <= n <= 1024:
        raise ValueError(f"{name} must be a whole number from 1 to 1024, got {n}")
    if n > 4 * there:
        raise ValueError(f"{name} must be at most {4 * there}, four times the cores that this process may use, got {n}")
    _warn(name, n, there)
    return n


def _warn(name: str, n: int, there: int) -> None:
    if n > there:
        where = f"{there} core{'s' if there > 1 else ''}"
        warnings.warn(f"{name} asks for {n} threads on {where}: they wait for each other", RuntimeWarning, stacklevel=3)


def default_num_threads() -> int:
    """$CNN_NUM_THREADS, else $OMP_NUM_THREADS (its first number), else the cores that this process may use; ranks on
    one machine share them.

    Raises ValueError for a CNN_NUM_THREADS that is no number or does not fit. An OMP_NUM_THREADS like that, which
    may be meant for others, is passed over.
    """
    asked = os.environ.get("CNN_NUM_THREADS")
    if asked:
        if not asked.isascii() or not asked.isdigit() or len(asked) > 9:
            raise ValueError(f"CNN_NUM_THREADS must be a whole number from 1 to 1024, got {asked!r}")
        return fitting("CNN_NUM_THREADS", int(asked))
    asked, there = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip(), cores()
    if asked.isascii() and asked.isdigit() and len(asked) < 9 and 1 <= int(asked) <= 4 * there:
        _warn("OMP_NUM_THREADS", int(asked), there)
        return int(asked)
    bound = there < (os.cpu_count() or 1)       # MPI may have given each rank cores of its own
    return there if bound else max(1, there // ranks.place().local)


def get_num_threads() -> int:
    """The number of threads that the kernels use."""
    global _threads
    if _threads is None:
        _threads = default_num_threads()
    return _threads


def set_num_threads(n: int) -> None:
    """Use `n` threads (1 to 1024). The results are the same to the bit for any number.

    Raises TypeError or ValueError for anything else; warns of more threads than cores.
    """
    global _threads
    n = shapes.integer("set_num_threads", "n", n, 1, 1024)
    _warn("set_num_threads", n, cores())
    _threads = n
    executor.pause()    # the threads of before


def use(name: str, n: int) -> None:
    """As `set_num_threads`, for a number that `name`, an option, asks for and that must fit (see `fitting`)."""
    global _threads
    _threads = fitting(name, n)


# ---------------------------------------------------------------- fewer multiplications

_WORDS = {"": True, "1": True, "on": True, "true": True, "yes": True,
          "0": False, "off": False, "false": False, "no": False}
_winograd = None     # None: as the environment says, which is not asked yet


def set_winograd(enabled: bool) -> None:
    """Allow (the default) or forbid Winograd's algorithm from now on.

    enabled: a bool; raises TypeError for anything else. CNN_WINOGRAD=0 (off, false, no) forbids it from the start.
    """
    global _winograd
    if not isinstance(enabled, bool):
        raise TypeError(f"set_winograd: enabled must be True or False, got {enabled!r}")
    _winograd = enabled


def get_winograd() -> bool:
    """Whether Winograd's algorithm may be used. Raises ValueError for a CNN_WINOGRAD that says neither."""
    global _winograd
    if _winograd is None:
        word = os.environ.get("CNN_WINOGRAD", "").strip().lower()
        if word not in _WORDS:
            raise ValueError(f"CNN_WINOGRAD must be 0 (off, false, no) or 1 (on, true, yes), got {word!r}")
        _winograd = _WORDS[word]
    return _winograd


# ---------------------------------------------------------------- what this installation runs on

def processor() -> str:
    """Name of the processor (str)."""
    try:
        with open("/proc/cpuinfo") as file:
            names = [line.split(":", 1)[1].strip() for line in file if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()


def versions() -> dict[str, str]:
    """What the bits of a result depend on besides its settings: a dict of names and versions."""
    from cnn import __version__
    return {"cnn": __version__, "python": platform.python_version(), "numpy": np.__version__,
            "kernels": _ext.VARIANT, "winograd": get_winograd()}


def describe() -> dict[str, str]:
    """The kernels in use, the threads, and the versions of what matters: a dict of texts."""
    from cnn import __version__
    forced = os.environ.get("CNN_KERNELS")
    return {
        "cnn": __version__,
        "Python, NumPy": f"{platform.python_version()}, {np.__version__}",
        "processor": processor(),
        "kernels": f"{_ext.VARIANT}{', forced by CNN_KERNELS' if forced else ''} (this processor can run "
                   f"{', '.join(_ext.VARIANTS)})",
        "Winograd": "on" if get_winograd() else "off",
        "threads": f"{get_num_threads()} of {os.cpu_count()} cores",
    }


def show_config(file: TextIO | None = None) -> None:
    """Print what `describe` tells, to a file or by default to sys.stdout."""
    text = "\n".join(f"{name:14s} {value}" for name, value in describe().items())
    if file is None:
        streams.say(text)
    else:
        print(text, file=file)
