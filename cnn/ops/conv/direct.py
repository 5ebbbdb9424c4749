"""2-D convolution by its plain sum, see cnn/_ext/correlate.pyx, scatter.pyx and conv_dw.pyx."""
import numpy as np

from cnn.engine.memory import LANES
from cnn.engine.tensors import PER_ACTIVE_THREAD
from cnn.ops.conv import windows
from cnn.ops.pool import pooled, side_by_side

BAND = 128      # pixels whose gradients the weight gradient takes at a time: 32 KB of four channels


def conv2d(program, x, w, b, g, relu):
    """Forward, as in cnn/ops/conv/__init__.py."""
    return correlation(program, x, lambda order: program.gather(w, order), b, g, relu), None


def conv2d_pool(program, x, w, b, g, relu, win, need_index):
    """Forward and `max_pool2d` in one, of windows that lie side by side."""
    height, width = side_by_side(win)
    y, index = pooled(program, g.outputs, win, need_index)
    x = program.bordered(x, *g.side_border())
    size = height * g.out[1] * LANES
    rows, out = program.copies(g.outputs * size, PER_ACTIVE_THREAD), np.arange(0, size, LANES, dtype=np.int32)
    arguments = _arguments(program, lambda order: program.gather(w, order), g.outputs, windows.forward_weights(g),
                           lambda tile: windows.forward_tables(g, x, x, tile))
    ahead = program.ahead()
    program.add("correlate_pool", lambda: arguments() | ahead() | dict(
        x=x, b=b, y=y, index=index, rows=rows, out=out, relu=relu, win_h=height, win_w=width, width=g.out[1],
        out_h=y.height, out_w=y.width))
    return y, index, None


def conv2d_backward(program, dy, x, saved, w, g, dw, need_dx):
    """Backward, as in cnn/ops/conv/__init__.py."""
    if need_dx:
        dy = bordered(program, dy, g)
    if dw is not None:
        weight_gradient(program, dy, x, program.shard_sum(dw, g.outputs * g.groups * g.taps), g)
    return input_gradient(program, dy, lambda order: program.gather(w, order), g) if need_dx else None


def correlation(program, x, pack, b, g, relu=False):
    """y. pack(order): the weights in the order in which a kernel wants them."""
    y = program.tensor(g.outputs * g.groups, *g.out)
    x = program.bordered(x, *g.side_border())
    _correlate(program, x, y, pack, b, g.outputs, g, windows.forward_weights(g),
               lambda tile: windows.forward_tables(g, x, y, tile), relu, program.ahead())
    return y


def weight_gradient(program, dy, x, parts, g):
    """Fills `parts`, dw of each shard."""
    x = program.bordered(x, *g.side_border())
    program.add("conv_dw", lambda: dict(x=x, dy=dy, dw=parts, outputs=g.outputs, taps=g.taps, groups=g.groups,
                                        x_group=g.channels * x.plane, pixels=g.out[0] * g.out[1], band=BAND,
                                        **windows.weight_tables(g, x, dy)))


def bordered(program, dy, g):
    """dy with the columns of zeros that `input_gradient` reads."""
    return dy if scatters(program, g) else program.bordered(dy, *g.gradient_border())


def input_gradient(program, dy, pack, g, b=None, relu=False):
    """dx of a bordered dy; `pack` as for `correlation`. b: a number for each channel that is added, with a ReLU of the
    sums, perhaps, where they are not scattered."""
    dx = program.tensor(g.channels * g.groups, *g.size)
    if scatters(program, g):
        _scatter(program, dy, dx, pack, g)
        return dx
    _correlate(program, dy, dx, pack, b, g.channels, g, windows.gradient_weights(g),
               lambda tile: windows.gradient_tables(g, dy, dx, tile), relu)
    return dx


def _correlate(program, x, y, pack, b, outputs, g, weights, tables, relu=False, ahead=lambda: dict(ahead_size=0)):
    """Add one correlation onto `outputs` channels of y in each group; weights: their order; tables(tile) makes its
    tables."""
    arguments = _arguments(program, pack, outputs, weights, tables)
    program.add("correlate", lambda: arguments() | ahead() | dict(
        x=x, b=b, y=y, groups=g.groups, relu=relu, single=0, w_tap=0, w_output=0,
        x_group=x.channels // g.groups * x.plane))


def _arguments(program, pack, outputs, weights, tables):
    """A function that returns the arguments of a correlation which come from its tables."""
    tiles, tile = program.kernels.correlate.split(outputs, 0), program.kernels.correlate.tile_pixels(outputs)
    packed = pack(windows.packed_order(weights, tiles))

    def arguments():
        t = tables(tile)
        return dict(w=packed, pixel=t.pixel, out=t.out, tap=t.tap, run=t.run, outputs=outputs, taps=len(t.tap),
                    runs=len(t.run), tiles=tiles)
    return arguments


def scatters(program, g):
    """Whether the input gradient is made tap by tap: where taking whole rows of pixels would visit many taps
    that lie outside dy (LeNet's second convolution: 280 to 245 us)."""
    return (max(g.stride) == 1 and not any(map(any, g.padding)) and 5 * g.size[1] > 6 * g.out[1]
            and program.kernels.correlate.tile_pixels(g.channels) > 1)


def _scatter(program, dy, dx, pack, g):
    """Add the input gradient as the sum over taps of what each pixel of dy sends there."""
    tiles = program.kernels.correlate.split(g.channels, 0)
    packed = pack(windows.packed_order(windows.scatter_weights(g), tiles))
    program.add("scatter", lambda: dict(x=dy, w=packed, y=dx, channels=g.channels, outputs=g.outputs,
                                        groups=g.groups, tiles=tiles, taps=g.kernel[0] * g.kernel[1],
                                        pixels=g.out[0] * g.out[1], **windows.scatter_tables(g, dy, dx)))
