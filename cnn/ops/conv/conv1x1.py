"""Convolution of single pixels; the formulas stand beside the kernels in _ext/conv1x1.pyx."""
import numpy as np

from cnn.engine.memory import LANES, zeros
from cnn.engine.tensors import PER_ACTIVE_BLOCK, PER_ACTIVE_THREAD
from cnn.ops import norm
from cnn.ops.conv import direct, windows

BAND = 8        # pixels at a time in the weight gradient: 32 KB of 64 channels
PIXELS = 64     # that it reads at a time, at most
NUMBERS = 8192  # of pixels times channels, that it reads at a time: half a megabyte


def suits(g):
    """Whether it is a convolution of single pixels."""
    return g.kernel == g.stride == (1, 1) and g.groups == 1 and not any(map(any, g.padding))


def conv2d(program, x, w, b, g, relu):
    """Forward, as in cnn/ops/conv/__init__.py."""
    # the weight gradient must be able to normalise x, too
    return _add(program, *norm.read(x, normalises(program, g)), w, b, g.outputs, _order(g), relu), None


def conv2d_backward(program, dy, x, saved, w, g, dw, need_dx):
    """Backward, as in cnn/ops/conv/__init__.py."""
    if dw is not None:
        parts = program.shard_sum(dw, g.outputs * g.channels)
        if normalises(program, g):
            _weight_gradient(program, dy, *norm.read(x), parts, g)
        else:
            direct.weight_gradient(program, dy, x, parts, g)
    return _add(program, *norm.read(dy), w, None, g.channels, _order(g).T) if need_dx else None


def _order(g):
    return np.arange(g.outputs * g.channels).reshape(g.outputs, -1)


def _add(program, x, normed, w, b, outputs, order, relu=False):
    """Add a convolution of x, read as `normed` says; order: (outputs, channels), the places of its weights in w."""
    y = program.tensor(outputs, x.height, x.width)
    tiles = program.kernels.conv1x1.split(outputs)
    packed = program.gather(w, windows.packed_order(order.T[None], tiles))
    rows = program.copies(program.kernels.conv1x1.scratch(x.channels), PER_ACTIVE_THREAD)
    b = zeros(outputs, program.dtype) if b is None else b
    program.add("conv1x1", lambda: dict(x=x, w=packed, b=b, y=y, rows=rows, channels=x.channels, outputs=outputs,
                                        height=x.height, width=x.width, tiles=tiles, relu=relu, **normed))
    return y


def normalises(program, g):
    """Whether it can normalise what it reads: in the weight gradient only `pointwise_dw` can."""
    return g.channels % LANES == 0 and program.kernels.conv1x1_dw.numbers_at_a_time(g.outputs)


def _weight_gradient(program, dy, x, normed, parts, g):
    at, most = program.kernels.conv1x1_dw.numbers_at_a_time(g.outputs), min(PIXELS, max(BAND, NUMBERS // g.channels))
    rows = program.copies(g.channels * BAND * LANES, PER_ACTIVE_BLOCK)
    pixels = program.copies(g.channels * (most * LANES + 1), PER_ACTIVE_BLOCK)
    program.add("pointwise_dw", lambda: dict(x=x, dy=dy, dw=parts, rows=rows, pixels=pixels, channels=g.channels,
                                             outputs=g.outputs, height=g.size[0], width=g.size[1], band=BAND, at=at,
                                             most=most, **normed))
