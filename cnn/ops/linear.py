"""Linear: y = W x + b;  dW = dy x^T, db = dy, dx = W^T dy.

Forward and dx are convolutions of one pixel; the weight gradient works on the whole batch at once.

Matmul, of two values: y = a b;  da = dy b^T, db = a^T dy, each image's own.
"""
import math

import numpy as np

from cnn import shapes
from cnn.engine.memory import LANES
from cnn.engine.tensors import PER_BLOCK
from cnn.ops import pointwise
from cnn.ops.conv import channels
from cnn.ops.operation import Operation

DIVIDED = 1 << 24       # multiply-adds of a weight gradient for which it pays to exchange what each process has made


def linear(program, x, w, b, outputs, relu=False):
    """Forward. x: a flat tensor; w: (outputs, inputs) flat; b: (outputs,) or None."""
    y = program.tensor(outputs, flat=True)
    _correlate(program, x, y, w, b, relu, 1, x.channels)
    return y


def linear_backward(program, dy, x, w, dw=None, db=None, need_dx=True):
    """Backward: fills dw and db where they are wanted, returns dx or None."""
    inputs, outputs = x.channels, dy.channels
    if dw is not None:
        # dw reads x and dy image by image; x's rows are padded with zeros to whole vectors
        x_step = -(-inputs // LANES) * LANES
        x_rows = program.copies(LANES * x_step, PER_BLOCK)
        dy_rows = program.copies(LANES * outputs, PER_BLOCK)
        program.exchanged(x_rows, dy_rows)
        program.add("to_rows", lambda: dict(x=x, y=x_rows, channels=inputs, step=x_step))
        program.add("to_rows", lambda: dict(x=dy, y=dy_rows, channels=outputs, step=outputs))
        image = np.arange(program.blocks * LANES, dtype=np.int64) * x_step
        if image[-1] >= 2**31:
            raise ValueError(f"Linear: a batch of {program.images} images of {inputs} inputs is too large")
        image, lane = image.astype(np.int32), np.arange(0, inputs, LANES, dtype=np.int32)
        tasks = program.kernels.linear_dw.tasks(outputs)
        each, more = divmod(outputs, tasks)
        worth = outputs * inputs * program.images >= DIVIDED
        program.after("linear_dw",
                      lambda: dict(x=x_rows, dy=dy_rows, dw=dw, db=db, image=image, lane=lane, w=w,
                                   outputs=outputs, inputs=inputs, dy_step=outputs), tasks,
                      ((dw, db), [i * each + min(i, more) for i in range(tasks + 1)]) if worth else None)
    elif db is not None:
        sums = program.shard_sum(db, outputs)
        program.add("bias_grad", lambda: dict(dy=dy, db=sums, outputs=outputs, out_h=1, out_w=1))
    if not need_dx:
        return None
    dx = program.tensor(inputs, flat=True)
    _correlate(program, dy, dx, w, None, False, inputs, 1)
    return dx


def _correlate(program, x, y, w, b, relu, w_tap, w_output):
    """y = W x + b; w_tap, w_output: numbers of w from one x to the next, from one y to the next."""
    inputs, outputs = x.channels, y.channels
    one = np.zeros(1, np.int32)
    tap = np.arange(inputs, dtype=np.int32) * LANES
    run = np.array([[0, 1, 0, 1, inputs, 0]], np.int32)
    program.add("correlate",
                lambda: dict(x=x, w=w, b=b, y=y, pixel=one, out=one, tap=tap, run=run, outputs=outputs,
                             taps=inputs, runs=1, groups=1, x_group=0, relu=relu, single=1, w_tap=w_tap,
                             w_output=w_output, ahead_size=0,
                             tiles=program.kernels.correlate.split(outputs, 1)))


class Linear(Operation):
    """A linear map of vectors. weight: Parameter (outputs, inputs); bias: Parameter (outputs,) or None. relu: whether a
    ReLU follows."""

    name = twin = "linear"
    relu = False

    def __init__(self, owner, weight, bias):
        super().__init__(owner)
        self.weight, self.bias = weight, bias
        self.parameters = {"weight": weight, **({} if bias is None else {"bias": bias})}

    def shape(self, x):
        outputs, inputs = self.weight.shape
        if x != (inputs,):
            wanted, hint = f"(N, {inputs})", ""
            if len(x) > 1:
                wanted += f" or (N, ..., {inputs})"
                hint = f", whose last axis has {x[-1]}; Flatten() before it makes (N, {math.prod(x)}) of it"
            raise ValueError(f"{self.owner}: x must have shape {wanted}, got {shapes.batch(x)}{hint}")
        return (outputs,)

    def macs(self, x):
        return self.weight.numel()

    def emit(self, program, x):
        w, b, relu = self.weight.data, None if self.bias is None else self.bias.data, self.relu
        back, saved = linear_backward, w
        if program.by_channels:
            y, saved = channels.linear(program, x, w, b, len(w), relu)
            back = channels.linear_backward
        else:
            y = linear(program, x, w, b, len(w), relu)

        def backward(dy, need_dx):
            if relu:
                dy = pointwise.mask(program, dy, y)
            return back(program, dy, x, saved, program.gradient(self.weight), program.gradient(self.bias), need_dx)
        return y, backward


def matmul(program, a, b, shape, a_turned=False, b_turned=False):
    """y = a b, of matrices whose rows are rows of pixels, each channel's own; a, or b, turned first; returns y. shape:
    that of y."""
    y = program.tensor(*shape)
    program.add("matmul", lambda: dict(a=a, b=b, y=y, inner=a.height if a_turned else a.width, a_turned=a_turned,
                                       b_turned=b_turned, **y.pixels))
    return y


class Matmul(Operation):
    """The product of two matrices, of each image, (I, K) and (K, J), or of each head, (heads, I, K) and (heads, K,
    J)."""

    name = twin = "matmul"

    def shape(self, a, b):
        return (*a[:-1], b[-1])

    def macs(self, a, b):
        return math.prod(a) * b[-1]

    def emit(self, program, a, b):
        def backward(dy, wanted):
            return (matmul(program, dy, b, a.shape, b_turned=True) if wanted[0] else None,
                    matmul(program, a, dy, b.shape, a_turned=True) if wanted[1] else None)
        return matmul(program, a, b, (*a.shape[:-1], b.width)), backward
