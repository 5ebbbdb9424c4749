"""How many threads the kernels use."""
import functools
import math
import os
import warnings

from cnn import shapes
from cnn._ext import executor

_threads = None     # None: not asked for yet


def _cgroup_limit():
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
def cores():
    """Cores that this process may use: its CPU affinity within the cgroup's limit, when first asked for."""
    try:
        count = len(os.sched_getaffinity(0))
    except AttributeError:      # not on macOS
        count = os.cpu_count() or 1
    return int(min(count, _cgroup_limit()))


def fitting(name, n):
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


def _warn(name, n, there):
    if n > there:
        where = f"{there} core{'s' if there > 1 else ''}"
        warnings.warn(f"{name} asks for {n} threads on {where}: they wait for each other", RuntimeWarning, stacklevel=3)


def default_num_threads():
    """$CNN_NUM_THREADS, else $OMP_NUM_THREADS (its first number), else the cores that this process may use.

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
    return there


def get_num_threads():
    """The number of threads that the kernels use."""
    global _threads
    if _threads is None:
        _threads = default_num_threads()
    return _threads


def set_num_threads(n):
    """Use `n` threads (1 to 1024). The results are the same to the bit for any number.

    Raises TypeError or ValueError for anything else; warns of more threads than cores.
    """
    global _threads
    n = shapes.integer("set_num_threads", "n", n, 1, 1024)
    _warn("set_num_threads", n, cores())
    _threads = n
    executor.pause()    # the threads of before


def use(name, n):
    """As `set_num_threads`, for a number that `name`, an option, asks for and that must fit (see `fitting`)."""
    global _threads
    _threads = fitting(name, n)
