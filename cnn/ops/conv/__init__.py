"""2-D convolution.

    y[k, i, j] = b[k] + sum_{c, m, n} x[c, i*s + m*d - p, j*s + n*d - p] w[k, c, m, n]
    dw[k, c, m, n] = sum_{i, j} dy[k, i, j] x[c, i*s + m*d - p, j*s + n*d - p];   db[k] = sum_{i, j} dy[k, i, j]
    dx[c, u, v] = sum of dy[k, i, j] w[k, c, m, n] over all (k, i, j, m, n) that read x[c, u, v]
"""
import math

from cnn import shapes
from cnn.ops import pointwise
from cnn.ops.conv import channels, conv1x1, depthwise, direct, windows, winograd, winograd_rows
from cnn.ops.operation import Operation, spatial
from cnn.ops.pool import max_pool2d, max_pool2d_backward, side_by_side


def geometry(owner, size, channels, outputs, kernel, stride, padding, dilation, groups):
    """Sizes of a convolution of `channels` onto `outputs` channels, checked."""
    padding = shapes.padding(owner, padding, kernel, stride, dilation, size)
    out = shapes.conv_output(owner, size, kernel, stride, padding, dilation)
    # before any table is made for it
    for what, sizes in (("input", (channels, size[0], size[1] + sum(padding[1]))), ("output", (outputs, *out)),
                        ("kernel", (outputs, channels // groups, *kernel))):
        shapes.block(owner, what, *sizes)
    return windows.Geometry(size, out, kernel, stride, dilation, padding, channels // groups,
                            outputs // groups, groups)


def conv2d(program, x, w, b, g, relu=False):
    """Forward. w: (K, C / groups, R, S) flat; b: (K,) or None; `relu` is applied on the way out.

    Returns y, and what the backward pass may use again.
    """
    return method(g).conv2d(program, x, w, b, g, relu)


def ends_in_pool(g, win):
    """Whether `conv2d_pool` can be used."""
    return hasattr(method(g), "conv2d_pool") and g.groups == 1 and bool(side_by_side(win))


def conv2d_pool(program, x, w, b, g, relu, win, need_index=True):
    """Forward and `max_pool2d` in one, which keeps nothing in between: returns y, the winners' indices (or None), and
    what the backward pass may use again."""
    return method(g).conv2d_pool(program, x, w, b, g, relu, win, need_index)


def conv2d_backward(program, dy, x, w, g, dw=None, db=None, need_dx=True, saved=None):
    """Backward: fills dw and db where they are wanted, returns dx or None. saved: what the forward pass returned."""
    if db is not None:
        outputs = g.outputs * g.groups
        sums = program.shard_sum(db, outputs)
        program.add("bias_grad", lambda: dict(dy=dy, db=sums, outputs=outputs, out_h=g.out[0], out_w=g.out[1]))
    return method(g).conv2d_backward(program, dy, x, saved, w, g, dw, need_dx)


def method(g):
    """How to compute it: the first that suits."""
    return next((method for method in (winograd, winograd_rows, depthwise, conv1x1) if method.suits(g)), direct)


class Conv2d(Operation):
    """A convolution; perhaps with a normalisation folded into its weights, a ReLU and max pooling after it.

    weight: Parameter (K, C / groups, R, S), or (K, C / groups, S) for a kernel of one row; bias: Parameter (K,) or
    None. kernel, stride, dilation: pairs.
    relu: whether a ReLU follows. pool: the MaxPool2d operation that follows, or None. norm: a BatchNorm2d operation
    with constant statistics that stands between, or None. summand: whether `emit` gets a second
    tensor, see `takes_summand`.
    """

    name = twin = "conv2d"
    relu, pool, norm, summand = False, None, None, False

    def __init__(self, owner, weight, bias, stride, padding, dilation, groups):
        super().__init__(owner)
        self.weight, self.bias = weight, bias
        self.outputs, inputs, *kernel = weight.shape
        self.channels, self.kernel = inputs * groups, (1,) * (2 - len(kernel)) + tuple(kernel)
        self.stride, self.padding, self.dilation, self.groups = stride, padding, dilation, groups
        self.parameters = {"weight": weight, **({} if bias is None else {"bias": bias})}

    def weights(self, array):
        """An array like the weight as (K, C / groups, R, S)."""
        return array.reshape(*array.shape[:2], *self.kernel)

    def geometry(self, shape):
        channels, height, width = spatial(self.owner, shape)
        if channels != self.channels:
            raise ValueError(f"{self.owner}: x must have {self.channels} channels, got {channels}")
        return geometry(self.owner, (height, width), channels, self.outputs, self.kernel, self.stride, self.padding,
                        self.dilation, self.groups)

    def shape(self, x):
        return self.outputs, *self.geometry(x).out

    def normalises(self, program, x):
        g = self.geometry(x)
        return not program.by_channels and method(g) is conv1x1 and conv1x1.normalises(program, g)

    def takes_summand(self):
        """Whether `emit` may get a second tensor, to be added to the result before the ReLU: in programs that go by
        channels."""
        return not (self.relu or self.pool or self.summand or 1 == self.weight.shape[1] < self.groups)

    def goes_by_channels(self, x, *more):
        return channels.suits(self.geometry(x))

    def macs(self, x, *more):
        return self.weight.numel() * math.prod(self.geometry(x).out)

    def attributes(self):
        usual = {"stride": (1, 1), "padding": 0, "dilation": (1, 1), "groups": 1}
        return {"kernel": shapes.times(self.kernel), **{name: getattr(self, name) for name, value in usual.items()
                                                         if getattr(self, name) != value}}

    def emit(self, program, x, *more):
        g = self.geometry(x.shape)
        w, b = self.weight.data, None if self.bias is None else self.bias.data
        relu, outputs, by_channels = self.relu, self.outputs, program.by_channels
        if self.norm is not None and not by_channels:
            w, b = self.norm.folded(program, w, b)
        x = program.bordered(x, *g.side_border())
        win = self.pool and self.pool.windows(g.out)
        if win and not by_channels and ends_in_pool(g, win):
            y, index, saved = conv2d_pool(program, x, w, b, g, relu, win, program.gradients)
        else:
            if by_channels:
                y, saved = channels.conv2d(program, x, w, b, g, self.norm, relu and not win, *more)
            else:
                y, saved = conv2d(program, x, w, b, g, relu and not win)
            if win:
                y, index = max_pool2d(program, y, win, program.gradients, relu)

        def backward(dy, need_dx):
            db = program.gradient(self.bias)
            if win:
                sums = program.shard_sum(db, outputs) if db is not None and win["pairs"] and not by_channels else None
                dy = max_pool2d_backward(program, dy, index, win, sums)
                db = db if sums is None else None       # it is the sum of what the windows let through
            elif relu:
                dy = pointwise.mask(program, dy, y)
            dw = program.gradient(self.weight)
            if by_channels:
                return channels.conv2d_backward(program, dy, x, saved, w, g, dw, db, need_dx)
            return conv2d_backward(program, dy, x, w, g, dw, db, need_dx, saved)
        return y, backward
