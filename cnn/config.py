"""What this installation runs on."""
import os
import platform

import numpy as np

from cnn import _ext, streams, threads, winograd


def processor():
    """Name of the processor (str)."""
    try:
        with open("/proc/cpuinfo") as file:
            names = [line.split(":", 1)[1].strip() for line in file if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()


def versions():
    """What the bits of a result depend on besides its settings: a dict of names and versions."""
    from cnn import __version__
    return {"cnn": __version__, "python": platform.python_version(), "numpy": np.__version__,
            "kernels": _ext.VARIANT, "winograd": winograd.get_winograd()}


def describe():
    """The kernels in use, the threads, and the versions of what matters: a dict of texts."""
    from cnn import __version__
    forced = os.environ.get("CNN_KERNELS")
    return {
        "cnn": __version__,
        "Python, NumPy": f"{platform.python_version()}, {np.__version__}",
        "processor": processor(),
        "kernels": f"{_ext.VARIANT}{', forced by CNN_KERNELS' if forced else ''} (this processor can run "
                   f"{', '.join(_ext.VARIANTS)})",
        "Winograd": "on" if winograd.get_winograd() else "off",
        "threads": f"{threads.get_num_threads()} of {os.cpu_count()} cores",
    }


def show_config(file=None):
    """Print what `describe` tells, to a file or by default to sys.stdout."""
    text = "\n".join(f"{name:14s} {value}" for name, value in describe().items())
    if file is None:
        streams.say(text)
    else:
        print(text, file=file)
