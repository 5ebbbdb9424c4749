"""Measure the speed of training or inference, beside PyTorch's if it is installed, or of every kernel.

The gradients of one step are compared first. Then both are timed in turn, round by round, so that a machine that
changes its speed changes both. PyTorch's figure is the better of eager and channels_last.
"""
import json
import math
import os
import platform
from argparse import ArgumentTypeError, RawDescriptionHelpFormatter

import numpy as np

from cnn import _ext, files, models, ranks, runtime
from cnn.bench.contenders import make
from cnn.bench.inference import bench_inference
from cnn.bench.measure import bench_busy, bench_kernels, bench_net, bench_scaling
from cnn.bench.ranks import check_ranks, model_ranks
from cnn.commands import THREADS, Parser, command, path, running
from cnn.streams import say


@command
def main(arguments=None, prog=None):
    p = Parser(prog=prog, description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    p.add_argument("net", nargs="?", choices=models.MODELS, default="lenet5", metavar="NET", help=f"network: "
                   f"{', '.join(models.MODELS)}; default: %(default)s")
    p.add_argument("--channels", metavar="N,N,...", help="number of channels of each stage; default: the "
                   "network's own")
    p.add_argument("--batch", type=numbers, default=(64,), metavar="N[,N...]", help="images per step; several "
                   "sizes are measured one after the other; default: 64")
    p.add_argument("--threads", **THREADS)
    p.add_argument("--rounds", type=int, default=7, metavar="N", help="rounds to take the median of; default: "
                   "%(default)s")
    p.add_argument("--seconds", type=float, default=0.5, metavar="S", help="time per measurement, in seconds; "
                   "default: %(default)s")
    p.add_argument("--kernels", action="store_true", help="instead, time every operation of a step")
    p.add_argument("--inference", action="store_true", help="instead, time one image, and a batch, through the "
                   "network, beside PyTorch, ONNX Runtime and OpenVINO")
    p.add_argument("--scaling", action="store_true", help="instead, compare one thread with all threads")
    p.add_argument("--ranks", type=numbers, metavar="N[,N...]", help="instead, tell the speed to expect of N machines "
                   "with one rank each; started by mpiexec, compare that of its ranks with what they take")
    p.add_argument("--latency", type=float, default=20, metavar="US", help="of a message between ranks, in "
                   "microseconds; default: %(default)s")
    p.add_argument("--bandwidth", type=float, default=10, metavar="GBIT", help="between ranks, in Gbit/s; default: "
                   "%(default)s")
    p.add_argument("--busy", type=int, metavar="N", help="instead, compare the speed beside N busy "
                   "processes with the speed alone")
    p.add_argument("--no-torch", action="store_true", help="do not compare with PyTorch")
    p.add_argument("--json", type=path, metavar="FILE", help="also write the results to this file")
    given = p.parse_args(arguments)
    with running(p, given.threads):
        for name in ("rounds", "busy"):
            if getattr(given, name) is not None and getattr(given, name) < 1:
                raise ValueError(f"--{name} must be at least 1, got {getattr(given, name)}")
        for name in ("seconds", "latency", "bandwidth"):
            if not 0 < getattr(given, name) < math.inf:
                raise ValueError(f"--{name} must be a finite number above 0, got {getattr(given, name)}")
        if given.channels:
            given.net += f":{given.channels}"
            make(given.net)
        if given.json:
            files.check(given.json)
        result = bench(given)
        if given.json:
            files.write(given.json, (json.dumps(result, indent=2) + "\n").encode())


def bench(given):
    """Time what the command line asks for; the figures as a dict."""
    with_torch = not (given.no_torch or given.kernels or given.scaling or given.busy or given.ranks)
    versions = {"python": platform.python_version(), "numpy": np.__version__}
    if with_torch:
        try:
            import torch
            versions["torch"] = torch.__version__
        except ImportError:
            with_torch = False
            say("PyTorch is not installed: no comparison")
    say(f"{runtime.processor()}, {os.cpu_count()} cores; kernels {_ext.VARIANT}; "
        + ", ".join(f"{name} {version}" for name, version in versions.items()))
    result = {"processor": runtime.processor(), "kernels": _ext.VARIANT, "versions": versions}
    all_figures = [_measured(given, batch, with_torch) for batch in given.batch]
    return {**result, **all_figures[0]} if len(all_figures) == 1 else {**result, "batches": all_figures}


def _measured(given, batch, with_torch):
    """The figures for one batch size."""
    if given.kernels:
        return bench_kernels(given.net, batch)
    if given.inference:
        return bench_inference(given.net, batch, given.rounds, given.seconds, with_torch)
    if given.scaling:
        return bench_scaling(given.net, batch, given.rounds, given.seconds)
    if given.ranks:
        if ranks.world() is not None:
            return check_ranks(given.net, batch, given.rounds, given.seconds)
        return model_ranks(given.net, batch, given.ranks, given.rounds, given.seconds, given.latency / 1e6,
                           given.bandwidth * 1e9 / 8)
    if given.busy:
        return bench_busy(given.net, batch, given.rounds, given.seconds, given.busy)
    return bench_net(given.net, batch, given.rounds, given.seconds, with_torch)


def numbers(text):
    """Whole numbers from the command line."""
    try:
        sizes = tuple(int(part) for part in text.split(","))
    except ValueError:
        sizes = (0,)
    if min(sizes) < 1:
        raise ArgumentTypeError(f"it takes whole numbers of at least 1, with commas between them, got {text!r}")
    return sizes
