"""How many threads the kernels use."""
import math
import os

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


def default_num_threads():
    """Cores that this process may use: $CNN_NUM_THREADS, else its CPU affinity within the cgroup's limit."""
    asked = os.environ.get("CNN_NUM_THREADS")
    if asked:
        if not asked.isdecimal() or not 1 <= int(asked) <= 1024:
            raise ValueError(f"CNN_NUM_THREADS must be a whole number from 1 to 1024, got {asked!r}")
        return int(asked)
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:      # not on macOS
        cores = os.cpu_count() or 1
    return int(min(cores, _cgroup_limit()))


def get_num_threads():
    """The number of threads that the kernels use."""
    global _threads
    if _threads is None:
        _threads = default_num_threads()
    return _threads


def set_num_threads(n):
    """Use `n` threads (1 to 1024). The results are the same to the bit for any number.

    Raises TypeError or ValueError for anything else.
    """
    global _threads
    _threads = shapes.integer("set_num_threads", "n", n, 1, 1024)
    executor.pause()    # the threads of before
