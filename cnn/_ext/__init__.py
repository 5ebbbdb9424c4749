"""The compiled kernels, and the choice among their builds.

guard       which Python threads may use something at the same time (guard.pyx)
executor    runs a program: a list of operations over the blocks of a batch (executor.pyx)
cpu         which instruction sets this processor has (cpu.pyx)
correlate   direct convolution and linear layers (correlate.pyx)
scatter     input gradient of a convolution, tap by tap (scatter.pyx)
conv_dw     weight and bias gradients of a convolution (conv_dw.pyx)
linear_dw   weight gradient of a linear layer (linear_dw.pyx)
matmul      products of matrices, each image's own (matmul.pyx)
depthwise   convolution channel by channel (depthwise.pyx)
conv1x1     convolution pixel by pixel; its weight gradient (conv1x1.pyx, conv1x1_dw.pyx)
winograd    Winograd's algorithm by tiles; its weight gradient (winograd.pyx, winograd_dw.pyx)
winograd_rows   the same by pieces of rows (winograd_rows.pyx)
winograd_channels   the same of one image, sixteen channels side by side (winograd_channels.pyx)
pool        maximum and average pooling (pool.pyx)
group_norm  group normalisation (group_norm.pyx)
layer_norm  layer normalisation (layer_norm.pyx)
layer_norm2d    the same over the channels of each pixel (layer_norm2d.pyx)
local_norm  local response normalisation (local_norm.pyx)
pointwise   activations and dropout (pointwise.pyx)
softmax     softmax and its logarithm (softmax.pyx)
maps        functions of one element by itself (maps.pyx)
arithmetic  values with each other and with numbers (arithmetic.pyx)
moving      elements in other places (moving.pyx)
loss        cross-entropy and squared error (loss.pyx)
pack        layouts (pack.pyx)
update      optimizers (update.pyx)
augment     random changes to images, before they are packed (augment.pyx)

All but the first three are compiled for each instruction set and number type, several files into one module
(MODULES in setup.py), into folders such as `avx2_float32` (augment, which computes with bytes, for float32 only). The
fastest that this processor can run is taken; the environment variable CNN_KERNELS=baseline|avx2|avx512 forces another.
"""
import importlib.util
import os
import warnings
from types import SimpleNamespace
from typing import NamedTuple

_MISSING = (f"cnn: found no kernels in {os.path.dirname(__file__)}. If this is the source folder, run Python elsewhere "
            f"after 'pip install .', or build here with 'pip install -e .'")
try:
    from cnn._ext import cpu, executor
except ImportError as error:
    raise ImportError(_MISSING) from error

# Threads do not exist in a forked child, so there must be none when one is forked.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=executor.pause, after_in_child=executor.forget)


def _built(isa):
    return importlib.util.find_spec(f"cnn._ext.{isa}_float32") is not None


def _choose():
    runnable = [isa for isa in cpu.supported() if _built(isa)]
    if not runnable:
        raise ImportError(_MISSING)
    forced = os.environ.get("CNN_KERNELS")
    if forced and forced not in runnable:
        raise ImportError(f"CNN_KERNELS={forced}: not installed, or not for this processor; "
                          f"choose from {', '.join(runnable)}")
    if not forced and runnable == ["baseline"] != cpu.supported():
        warnings.warn(f"cnn: this installation has no {cpu.supported()[0]} kernels, because it was built on another "
                      f"processor: the baseline kernels run, many times slower. Install cnn again on this machine",
                      RuntimeWarning, stacklevel=2)
    return forced or runnable[0], tuple(runnable)


VARIANT, VARIANTS = _choose()
WORDS = {"image": 3}    # of a field; all others are one


class Kernel(NamedTuple):
    """fields: their kinds by their names, in the order of the kernel's struct. numbers: those that are none of arrays,
    and must be given. splits: whether it can do a part of a block's work."""

    address: int
    fields: dict
    numbers: frozenset
    splits: bool


def _checked(name, address, words, splits):
    """A kernel, from the rows that setup.py has made from the source."""
    fields = [field.split(":") for field in executor.FIELDS_OF[name].split()]
    if sum(WORDS.get(kind, 1) for _, kind in fields) != words or len(dict(fields)) < len(fields):
        raise ImportError(f"cnn: the kernel {name} was built wrongly: {words} words, not {fields}")
    numbers = frozenset(field for field, kind in fields if kind in ("size", "number"))
    return Kernel(address, dict(fields), numbers, splits)


class Kernels:
    """The kernels of one number type. Their files are attributes, with the functions that Python may call; they are
    loaded when first asked for."""

    def __init__(self, number_type):
        self._number_type = number_type
        self._table = {}

    def __getattr__(self, file):
        if file not in executor.MODULE_OF:
            raise AttributeError(f"cnn: no file of kernels is called {file!r}")
        found = load(file, self._number_type)
        splits = getattr(found, "SPLITS", ())
        self._table.update({kernel: _checked(kernel, *row, kernel in splits) for kernel, row in found.KERNELS.items()})
        setattr(self, file, found)
        return found

    def find(self, kernel):
        """The Kernel of that name."""
        if kernel not in self._table:
            getattr(self, executor.FILE_OF[kernel])
        return self._table[kernel]


def load(file, number_type):
    """What Python may use of a file of kernels: its functions, its constants and KERNELS."""
    module = executor.MODULE_OF[file]
    number_type = "float32" if module in executor.UNTYPED else number_type
    return SimpleNamespace(**importlib.import_module(f"cnn._ext.{VARIANT}_{number_type}.{module}").FILES[file])


_loaded = {}

augment = load("augment", "float32")


def kernels(dtype):
    """The kernels for float32 or float64 (a NumPy dtype), loaded when first asked for."""
    if dtype not in _loaded:        # dtype.name takes longer than a small kernel
        _loaded[dtype] = Kernels(dtype.name)
    return _loaded[dtype]
