"""Transposed 2-D convolution: the input gradient of the convolution that has this weight.

    y[k, i*s + m*d - p, j*s + n*d - p] += x[c, i, j] w[c, k, m, n], from b[k] on, over all (c, i, j, m, n)
    dw[c, k, m, n] = sum_{i, j} x[c, i, j] dy[k, i*s + m*d - p, j*s + n*d - p];   db[k] = sum of dy[k]
    dx[c, i, j] = sum_{k, m, n} dy[k, i*s + m*d - p, j*s + n*d - p] w[c, k, m, n]

With y and x in each other's places these are the sums of a convolution of y onto x: y is made by its input gradient,
dx is its forward pass, and dw its weight gradient. A Geometry here is that convolution's.
"""
import math

from cnn import shapes
from cnn.ops import arithmetic, pointwise
from cnn.ops.conv import channels, direct, method, windows
from cnn.ops.operation import Operation, spatial


def geometry(owner, size, channels, outputs, kernel, stride, padding, output_padding, dilation, groups):
    """Geometry of the convolution of y, (outputs, *out), onto x, (channels, *size), checked."""
    sides = shapes.sides(owner, padding)
    out = shapes.conv_transpose_output(owner, size, kernel, stride, sides, output_padding, dilation)
    # before any table is made for it
    for what, counts in (("input", (channels, *size)), ("output", (outputs, out[0], out[1] + sum(sides[1]))),
                         ("kernel", (channels, outputs // groups, *kernel))):
        shapes.block(owner, what, *counts)
    # what is added at the end of y, no window of it reaches
    sides = tuple((before, after - more) for (before, after), more in zip(sides, output_padding, strict=True))
    return windows.Geometry(out, tuple(size), tuple(kernel), stride, dilation, sides, outputs // groups,
                            channels // groups, groups)


def conv_transpose2d(program, x, w, b, g, relu=False):
    """Forward. w: (C, K / groups, R, S) flat; b: (K,) or None; `relu` is applied on the way out. Returns y."""
    way = method(g)
    if way is direct and not direct.scatters(program, g):
        return direct.input_gradient(program, direct.bordered(program, x, g), lambda order: program.gather(w, order), g,
                                     b, relu)
    y = way.conv2d_backward(program, x, None, None, w, g, None, True)
    if b is not None:
        summands = program.tensor(y.channels)
        program.add("spread", lambda: dict(x=b, y=summands, channels=y.channels))
        y = arithmetic.binary(program, "add", y, summands, y)
    if relu:
        program.add("relu", lambda: dict(x=y, y=y, **y.pixels))
    return y


def conv_transpose2d_backward(program, dy, x, w, g, dw=None, db=None, need_dx=True):
    """Backward: fills dw and db where they are wanted, returns dx or None."""
    dy = program.bordered(dy, *g.side_border())
    if db is not None:
        outputs = g.channels * g.groups
        sums = program.shard_sum(db, outputs)
        program.add("bias_grad", lambda: dict(dy=dy, db=sums, outputs=outputs, out_h=g.size[0], out_w=g.size[1]))
    way, dx, saved = method(g), None, None
    if need_dx:
        dx, saved = way.conv2d(program, dy, w, None, g, False)
    if dw is not None:
        way.conv2d_backward(program, x, dy, saved, w, g, dw, False)
    return dx


class ConvTranspose2d(Operation):
    """A transposed convolution, perhaps with a ReLU after it.

    weight: Parameter (C, K / groups, R, S), or (C, K / groups, S) for a kernel of one row; bias: Parameter (K,) or
    None. kernel, stride, output_padding, dilation: pairs. relu: whether a ReLU follows.
    """

    name = twin = "conv_transpose2d"
    relu = False

    def __init__(self, owner, weight, bias, stride, padding, output_padding, groups, dilation):
        super().__init__(owner)
        self.weight, self.bias = weight, bias
        self.channels, outputs, *kernel = weight.shape
        self.outputs, self.kernel = outputs * groups, (1,) * (2 - len(kernel)) + tuple(kernel)
        self.stride, self.padding, self.output_padding, self.dilation = stride, padding, output_padding, dilation
        self.groups = groups
        self.parameters = {"weight": weight, **({} if bias is None else {"bias": bias})}

    def weights(self, array):
        """An array like the weight as (C, K / groups, R, S)."""
        return array.reshape(*array.shape[:2], *self.kernel)

    def geometry(self, shape):
        """Of the convolution that this one is the input gradient of."""
        channels, height, width = spatial(self.owner, shape)
        if channels != self.channels:
            raise ValueError(f"{self.owner}: x must have {self.channels} channels, got {channels}")
        return geometry(self.owner, (height, width), channels, self.outputs, self.kernel, self.stride, self.padding,
                        self.output_padding, self.dilation, self.groups)

    def shape(self, x):
        return self.outputs, *self.geometry(x).size

    def goes_by_channels(self, x):
        return channels.suits(self.geometry(x))

    def macs(self, x):
        return self.weight.numel() * math.prod(x[1:])

    def attributes(self):
        usual = {"stride": (1, 1), "padding": 0, "output_padding": (0, 0), "groups": 1, "dilation": (1, 1)}
        return {"kernel": shapes.times(self.kernel), **{name: getattr(self, name) for name, value in usual.items()
                                                         if getattr(self, name) != value}}

    def emit(self, program, x):
        g, relu = self.geometry(x.shape), self.relu
        w, b = self.weight.data, None if self.bias is None else self.bias.data
        if program.by_channels:
            y, packed = channels.conv_transpose2d(program, x, w, b, g, relu)
        else:
            y = conv_transpose2d(program, x, w, b, g, relu)

        def backward(dy, need_dx):
            if relu:
                dy = pointwise.mask(program, dy, y)
            dw, db = program.gradient(self.weight), program.gradient(self.bias)
            if program.by_channels:
                return channels.conv_transpose2d_backward(program, dy, x, packed, g, dw, db, need_dx)
            return conv_transpose2d_backward(program, dy, x, w, g, dw, db, need_dx)
        return y, backward
