"""2-D convolution of one image, sixteen channels side by side, see cnn/_ext/conv_channels.pyx and channels.pyx."""
import numpy as np

from cnn.engine.memory import LANES
from cnn.ops.fitted import fitted


def suits(g):
    """Whether each output's channels are whole rows of sixteen, or it has one of its own."""
    return g.groups == 1 or _depthwise(g) or g.channels % LANES == g.outputs % LANES == 0


def _depthwise(g):
    return g.groups > 1 and g.channels == g.outputs == 1


def conv2d(program, x, w, b, g, norm=None, relu=False, z=None):
    """Forward. w: (K, C / groups, R, S); b: (K,) or None; norm: a BatchNorm2d operation with constant statistics that
    follows, or None; then z, a tensor like y, is added, if there is one, and a ReLU applied. Returns y."""
    x = program.bordered(x, *g.side_border())
    y = program.tensor(g.outputs * g.groups, *g.out)
    scale, shift = fitted(program, y.channels, b, norm)
    (top, _), (left, _) = g.padding
    common = dict(scale=scale, shift=shift, rows=g.kernel[0], columns=g.kernel[1], stride_h=g.stride[0],
                  stride_w=g.stride[1], dilation_h=g.dilation[0], dilation_w=g.dilation[1], top=top, left=left,
                  sixteens=y.planes)
    if _depthwise(g):
        packed, = program.packed("pack_depthwise", lambda packed: dict(w=w, y=packed, channels=y.channels, taps=g.taps),
                                 1, y.planes * g.taps * LANES)
        program.add("depthwise_channels", lambda: dict(
            x=x, w=packed, y=y, height=g.size[0], out_h=g.out[0], out_w=g.out[1], relu=relu, **common))
        return y
    first, packed = weights(program, w, g.channels, g.outputs, g.groups, g.kernel[0] * g.kernel[1])

    def arguments():
        size = dict(height=g.size[0], out_h=g.out[0], out_w=g.out[1])
        if g.kernel == g.stride == (1, 1) and not any(map(any, g.padding)) and all(
                t is None or t.row == t.width * LANES for t in (x, y, z)):
            size = dict(height=1, out_h=1, out_w=g.out[0] * g.out[1])       # one long row
        return dict(x=x, w=packed, z=z, y=y, first=first, count=g.channels, relu=relu, **size, **common)
    program.add("conv_channels", arguments)
    return y


def linear(program, x, w, b, relu):
    """A linear layer's forward: a convolution of one pixel. w: (outputs, inputs); b: (outputs,) or None."""
    y = program.tensor(len(w), flat=True)
    scale, shift = fitted(program, len(w), b)
    first, packed = weights(program, w, x.channels, len(w), 1, 1)
    program.add("conv_channels", lambda: dict(
        x=x, w=packed, scale=scale, shift=shift, z=None, y=y, first=first, count=x.channels, sixteens=y.planes,
        height=1, out_h=1, out_w=1, rows=1, columns=1, stride_h=1, stride_w=1, dilation_h=1, dilation_w=1, top=0,
        left=0, relu=relu))
    return y


def weights(program, w, channels, outputs, groups, taps):
    """For each sixteen outputs the first channel that they read, and the weights as `conv_channels` wants them."""
    sixteens = -(-outputs * groups // LANES)
    first = (np.arange(sixteens) * LANES // outputs * channels).astype(np.int32)
    if groups == 1:
        first[:] = 0
    seen = program.seen(w)
    packed, = program.packed("pack_conv", lambda packed: dict(
        w=w, seen=seen, first=first, y=packed, outputs=outputs * groups, channels=channels, taps=taps, count=channels,
        group=outputs), sixteens, sixteens * taps * channels * LANES)
    return first, packed
