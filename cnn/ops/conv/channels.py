"""2-D convolution of one image, sixteen channels side by side, see cnn/_ext/conv_channels.pyx and channels.pyx.

The gradients of weights and biases are sums over all images, made by tasks after the blocks.
"""
import math

import numpy as np

from cnn.engine.memory import LANES
from cnn.engine.tensors import Grid
from cnn.ops.conv import winograd
from cnn.ops.fitted import fitted, plain

TAPS = 25       # of sixteen outputs and channels, in a task of the weight gradient; as in the kernel
ENOUGH = 8      # tasks; if there are so many with all rows of a kernel in each: it writes whole rows then


def suits(g):
    """Whether each output's channels are whole rows of sixteen, or it has one of its own."""
    return g.groups == 1 or _depthwise(g) or g.channels % LANES == g.outputs % LANES == 0


def _depthwise(g):
    return g.groups > 1 and g.channels == g.outputs == 1


def conv2d(program, x, w, b, g, norm=None, relu=False, z=None):
    """Forward. x: with the columns of zeros that it reads; w: (K, C / groups, R, S); b: (K,) or None; norm: a
    BatchNorm2d operation with constant statistics that follows, or None; then z, a tensor like y, is added, if there is
    one, and a ReLU applied. Returns y, and the weights as they are packed for the backward pass."""
    scale, shift = fitted(program, g.outputs * g.groups, b, norm)
    if winograd.suits_one(program, g):
        return winograd.conv2d_one(program, x, w, g, scale, shift, relu, z), None
    packed = _packed(program, w, g)
    return _forward(program, x, packed, g, scale, shift, relu, z), packed


def _packed(program, w, g):
    """Weights as `_forward` wants them."""
    taps = math.prod(g.kernel)
    if _depthwise(g):
        return _depthwise_weights(program, w, g, np.arange(taps, dtype=np.int32))
    return weights(program, w, g.channels, g.outputs, g.groups, taps)[1]


def _forward(program, x, packed, g, scale, shift, relu=False, z=None):
    y = program.tensor(g.outputs * g.groups, *g.out)
    first = _first(g.outputs, g.channels, g.groups)

    def arguments():
        window = _window(g, y.planes, one_row=_level(g, x, y, z))
        if _depthwise(g):
            return dict(x=x, w=packed, y=y, y_pixel=LANES, relu=relu, scale=scale, shift=shift, **window)
        return dict(x=x, w=packed, z=z, y=y, y_pixel=LANES, first=first, count=g.channels, relu=relu, scale=scale,
                    shift=shift, **window)
    program.add("depthwise_channels" if _depthwise(g) else "conv_channels", arguments)
    return y


def conv2d_backward(program, dy, x, packed, w, g, dw=None, db=None, need_dx=True):
    """Backward: fills dw and db where they are wanted, returns dx or None. x: with its columns of zeros; packed: what
    the forward pass returned, None where it had no use for them."""
    if need_dx:
        dy = program.bordered(dy, *g.gradient_border())
    if db is not None:
        _bias_gradient(program, dy, db)
    if dw is not None:
        _weights_gradient(program, dy, x, dw, g)
    if not need_dx:
        return None
    as_it_is, turned = plain(program, g.channels * g.groups), g.of_gradient()
    if turned and winograd.suits_one(program, turned):
        return winograd.conv2d_one(program, dy, w, turned, *as_it_is, turned=True)
    packed = _packed(program, w, g) if packed is None else packed
    return _input_gradient(program, dy, w, packed, g, *as_it_is)


def _weights_gradient(program, dy, x, dw, g):
    x.root.kept = dy.root.kept = True
    if _depthwise(g):
        program.after("depthwise_channels_dw", lambda: dict(
            x=x, dy=dy, dw=dw, x_image=x.step, dy_image=dy.step, channels=g.groups, relu=0,
            **_window(g, dy.planes)), dy.planes)
    else:
        _weight_gradient(program, dy, x, dw, g.channels, g.outputs,
                         lambda: _window(g, dy.planes, one_row=_level(g, x, dy)), g.kernel)


def conv_transpose2d(program, x, w, b, g, relu=False):
    """A transposed convolution, see transposed.py. Returns y, and the weights as they are packed for the backward
    pass."""
    x, packed = program.bordered(x, *g.gradient_border()), _packed(program, w, g)
    scale, shift = fitted(program, g.channels * g.groups, b)
    return _input_gradient(program, x, w, packed, g, scale, shift, relu), packed


def conv_transpose2d_backward(program, dy, x, packed, g, dw=None, db=None, need_dx=True):
    """Its backward pass: fills dw and db where they are wanted, returns dx or None. packed: what the forward pass
    returned."""
    dy = program.bordered(dy, *g.side_border())
    if db is not None:
        _bias_gradient(program, dy, db)
    if dw is not None:
        _weights_gradient(program, x, dy, dw, g)
    return _forward(program, dy, packed, g, *plain(program, g.outputs * g.groups)) if need_dx else None


def linear(program, x, w, b, outputs, relu):
    """A linear layer's forward: a convolution of one pixel. w: (outputs, inputs); b: (outputs,) or None. Returns y, and
    the weights as they are packed."""
    y = program.tensor(outputs, flat=True)
    scale, shift = fitted(program, outputs, b)
    first, packed = weights(program, w, x.channels, outputs, 1, 1)
    _one_pixel(program, x, y, packed, first, scale, shift, relu)
    return y, packed


def linear_backward(program, dy, x, packed, dw=None, db=None, need_dx=True):
    """Its backward pass: fills dw and db where they are wanted, returns dx or None. packed: what the forward pass
    returned."""
    if db is not None:
        _bias_gradient(program, dy, db)
    if dw is not None:
        x.root.kept = dy.root.kept = True
        _weight_gradient(program, dy, x, dw, x.channels, dy.channels, lambda: _pixel(dy.planes))
    if not need_dx:
        return None
    dx = program.tensor(x.channels, flat=True)
    first, turned = _turned(program, packed, x.channels, dy.channels, 1, 1, np.zeros(1, np.int32))
    _one_pixel(program, dy, dx, turned, first, *plain(program, x.channels), relu=False)
    return dx


def _one_pixel(program, x, y, packed, first, scale, shift, relu):
    program.add("conv_channels", lambda: dict(
        x=x, w=packed, scale=scale, shift=shift, z=None, y=y, y_pixel=LANES, first=first, count=x.channels, relu=relu,
        **_pixel(y.planes)))


def _pixel(sixteens):
    """The window of a convolution of one pixel."""
    return dict(sixteens=sixteens, height=1, out_h=1, out_w=1, rows=1, columns=1, stride_h=1, stride_w=1, dilation_h=1,
                dilation_w=1, top=0, left=0)


def _window(g, sixteens, one_row=False):
    """What kernels want to know of a convolution's window; one_row: see `_level`."""
    (top, _), (left, _) = g.padding
    size = dict(height=g.size[0], out_h=g.out[0], out_w=g.out[1])
    if one_row:
        size = dict(height=1, out_h=1, out_w=g.out[0] * g.out[1])
    return dict(sixteens=sixteens, rows=g.kernel[0], columns=g.kernel[1], stride_h=g.stride[0], stride_w=g.stride[1],
                dilation_h=g.dilation[0], dilation_w=g.dilation[1], top=top, left=left, **size)


def _level(g, *tensors):
    """Whether it takes pixel by pixel, and all rows of these tensors (or None) lie one after the other: then they are
    one long row."""
    return g.kernel == g.stride == (1, 1) and not any(map(any, g.padding)) and all(
        t is None or t.row == t.width * LANES for t in tensors)


def weights(program, w, channels, outputs, groups, taps):
    """For each sixteen outputs the first channel that they read, and the weights as `conv_channels` wants them."""
    first = _first(outputs, channels, groups)
    seen = program.seen(w)
    packed, = program.packed("pack_conv", lambda packed: dict(
        w=w, seen=seen, first=first, y=packed, outputs=outputs * groups, channels=channels, taps=taps, count=channels,
        group=outputs), len(first), (len(first) * taps * channels + LANES) * LANES)      # see `_turned`
    return first, packed


def _first(each, read, groups):
    """For each sixteen of what comes out, `each` in a group, the first of those that it reads, `read` in a group."""
    first = np.arange(-(-each * groups // LANES)) * LANES // each * read
    return (first if groups > 1 else first * 0).astype(np.int32)


def _turned(program, packed, channels, outputs, groups, all_taps, taps):
    """As `weights`, for the input gradient, from what that returned, with these taps in this order. The last sixteen
    channels are read as a whole, also where there are fewer."""
    first = _first(channels, outputs, groups)
    turned = program.turned("turn_conv", lambda turned: dict(
        x=packed, tap=taps, first=first, y=turned, channels=channels, all_taps=all_taps, taps=len(taps), count=outputs),
        len(first), len(first) * len(taps) * outputs * LANES)
    return first, turned


def _depthwise_weights(program, w, g, taps):
    packed, = program.packed("pack_depthwise", lambda packed: dict(
        w=w, tap=taps, y=packed, channels=g.groups, all_taps=math.prod(g.kernel), taps=len(taps)),
        1, -(-g.groups // LANES) * len(taps) * LANES)
    return packed


def _bias_gradient(program, dy, db):
    dy.root.kept = True
    program.after("bias_channels", lambda: dict(dy=dy, db=db, dy_image=dy.step, outputs=dy.channels, height=dy.height,
                                                width=dy.width), dy.planes)


def _weight_gradient(program, dy, x, dw, channels, outputs, window, kernel=(1, 1)):
    """channels, outputs: of a group."""
    sixteens, taps = -(-channels // LANES), math.prod(kernel)
    together = max(1, TAPS // taps)
    rows = max(1, TAPS // kernel[1]) if dy.planes * sixteens >= ENOUGH else 1
    program.after("conv_channels_dw", lambda: dict(
        x=x, dy=dy, dw=dw, x_image=x.step, dy_image=dy.step, outputs=dy.channels, count=channels, group=outputs,
        together=together, kernel_rows=rows, relu=0, **window()),
        dy.planes * -(-sixteens // together) * -(-kernel[0] // rows))


def _input_gradient(program, dy, w, packed, g, scale, shift, relu=False):
    """dx of a bordered dy: for the pixels of each residue by the stride a convolution of dy, with the taps that meet
    them turned around."""
    dx = program.tensor(g.channels * g.groups, *g.size)
    for residue in g.residues():
        axes = [g.turned(axis, residue[axis]) for axis in (0, 1)]
        rows, columns = axes
        taps = np.add.outer(rows.taps * g.kernel[1], columns.taps).ravel().astype(np.int32)
        common = dict(x=dy, y_pixel=g.stride[1] * LANES, scale=scale, shift=shift, relu=relu, sixteens=dx.planes,
                      height=g.out[0], out_h=rows.number, out_w=columns.number, rows=len(rows.taps),
                      columns=len(columns.taps), stride_h=1, stride_w=1, dilation_h=rows.step, dilation_w=columns.step,
                      top=rows.before, left=columns.before)
        y = Grid(dx, rows.first, columns.first, g.stride[0])
        if _depthwise(g):
            turned = _depthwise_weights(program, w, g, taps)
            program.add("depthwise_channels", lambda common=common, turned=turned, y=y: dict(w=turned, y=y, **common))
        else:
            first, turned = _turned(program, packed, g.channels, g.outputs, g.groups, math.prod(g.kernel), taps)
            program.add("conv_channels", lambda common=common, turned=turned, y=y, first=first: dict(
                w=turned, y=y, z=None, first=first, count=g.outputs, **common))
    return dx
