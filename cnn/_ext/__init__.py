"""The compiled kernels, and the choice among their builds.

guard       which Python threads may use something at the same time (guard.pyx)
executor    runs a program: a list of operations over the blocks of a batch (executor.pyx)
cpu         which instruction sets this processor has (cpu.pyx)
correlate   direct convolution and linear layers (correlate.pyx)
scatter     input gradient of a convolution, tap by tap (scatter.pyx)
conv_dw     weight and bias gradients of a convolution (conv_dw.pyx)
linear_dw   weight gradient of a linear layer (linear_dw.pyx)
depthwise   convolution channel by channel (depthwise.pyx)
conv1x1     convolution pixel by pixel; its weight gradient (conv1x1.pyx, conv1x1_dw.pyx)
winograd    Winograd's algorithm by tiles; its weight gradient (winograd.pyx, winograd_dw.pyx)
winograd_rows   the same by pieces of rows (winograd_rows.pyx)
pool        maximum and average pooling (pool.pyx)
group_norm  group normalisation (group_norm.pyx)
pointwise   activations, softmax and dropout (pointwise.pyx)
arithmetic  values with each other and with numbers (arithmetic.pyx)
loss        cross-entropy and squared error (loss.pyx)
pack        layouts (pack.pyx)
update      optimizers (update.pyx)
augment     random changes to images, before they are packed (augment.pyx)

All but the first three are compiled for each instruction set and number type, into folders such as
`avx2_float32`. The fastest that this processor can run is taken; the environment variable
CNN_KERNELS=baseline|avx2|avx512 forces another.
"""
import importlib.util
import os

try:
    from cnn._ext import cpu, executor
except ImportError as error:
    raise ImportError(f"cnn: there are no kernels in {os.path.dirname(__file__)}. If this is the source folder, run "
                      f"Python elsewhere after 'pip install .', or build here with 'pip install -e .'") from error

# Threads do not exist in a forked child, so there must be none when one is forked.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=executor.pause, after_in_child=executor.forget)

MODULES = ("correlate", "scatter", "conv_dw", "linear_dw", "depthwise", "conv1x1", "conv1x1_dw", "winograd",
           "winograd_dw", "winograd_rows", "pool", "norm", "group_norm", "pointwise", "arithmetic", "loss", "pack",
           "update", "augment")


def _built(isa):
    return importlib.util.find_spec(f"cnn._ext.{isa}_float32") is not None


def _choose():
    runnable = [isa for isa in cpu.supported() if _built(isa)]
    forced = os.environ.get("CNN_KERNELS")
    if forced and forced not in runnable:
        raise ImportError(f"CNN_KERNELS={forced}: no such build that this processor can run; "
                          f"there are {', '.join(runnable)}")
    return forced or runnable[0], tuple(runnable)


VARIANT, VARIANTS = _choose()
WORDS = {"image": 3}    # of a field; all others are one


def _checked(kernel, address, words, fields):
    """A row of the table, from the one that setup.py has made from the source."""
    if sum(WORDS.get(kind, 1) for _, kind in fields) != words or len(dict(fields)) < len(fields):
        raise ImportError(f"cnn: the kernel {kernel} was built wrongly: {words} words, not {fields}")
    return address, dict(fields)


class Kernels:
    """The kernels of one number type: `table[name] = (address, {field: kind})` with the fields of the kernel's struct
    in their order, the modules, and which kernels can do a part of a block's work."""

    def __init__(self, number_type):
        self.table, self.splits = {}, set()
        for name in MODULES:
            module = importlib.import_module(f"cnn._ext.{VARIANT}_{number_type}.{name}")
            setattr(self, name, module)
            self.table.update({kernel: _checked(kernel, *row) for kernel, row in module.KERNELS.items()})
            self.splits.update(getattr(module, "SPLITS", ()))


_loaded = {}

# The number type makes no difference to it.
augment = importlib.import_module(f"cnn._ext.{VARIANT}_float32.augment")


def kernels(dtype):
    """The kernels for float32 or float64 (a NumPy dtype), loaded when first asked for."""
    name = dtype.name
    if name not in _loaded:
        _loaded[name] = Kernels(name)
    return _loaded[name]
