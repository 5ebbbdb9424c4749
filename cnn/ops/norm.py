"""Batch normalisation; the formulas stand beside the kernels in _ext/norm.pyx.

The statistics of the batch cut a program in two, forward and backward. Vectors here are (channels,).
"""
from typing import NamedTuple

import numpy as np

from cnn.engine.memory import LANES, zeros
from cnn.engine.tensors import PER_BLOCK
from cnn.ops.fitted import fitted
from cnn.ops.operation import Operation, spatial


class Norm(NamedTuple):
    """What both directions of one normalisation use. Arrays (channels,), or `Slot`s.

    mean, var: to normalise with. gamma, beta: scale and shift, or None. relu: whether a ReLU follows.
    """

    mean: object
    var: object
    gamma: object
    beta: object
    eps: float
    relu: bool

    def arguments(self):
        return dict(mean=self.mean, var=self.var, gamma=self.gamma, beta=self.beta, eps=self.eps, relu=self.relu)


def batch_statistics(program, x, gamma, beta, eps, running=(None, None), factor=None, relu=False, unbiased=True):
    """The Norm of a batch, which is ready after the cut that this makes.

    running: (mean, var), which move towards the batch's by `factor`, float64 (1,); var to the variance divided by
    n - 1 if `unbiased`, else by n.
    """
    norm = Norm(zeros(x.channels, program.dtype), zeros(x.channels, program.dtype), gamma, beta, eps, relu)
    moments = _sums(program, x)
    program.add(_kernel(program, "moments"), lambda: dict(x=x, moments=moments, **x.pixels))
    program.cut()
    program.before("statistics", lambda: dict(moments=moments, mean=norm.mean, var=norm.var,
                                              running_mean=running[0], running_var=running[1], factor=factor,
                                              images=program.per_block, unbiased=bool(unbiased),
                                              **_merged(x, moments)), program.kernels.norm.tasks(x.channels))
    return norm


def read(x, normalises=True):
    """Where to read x, and the arguments that say how to normalise it there, for kernels that can: x need not be kept
    then, if they are all that read it, forward and backward."""
    source, norm = normalises and x.normalised or (x, Norm(None, None, None, None, 0, False))
    arguments = norm.arguments()
    arguments["input_relu"] = arguments.pop("relu")
    return source, arguments


def normalise(program, x, norm, deferred=False):
    """y = gamma (x - mean) / sqrt(var + eps) + beta; deferred: those who read y normalise x instead."""
    y = program.like(x)
    y.normalised = x, norm
    if not deferred:
        program.add(_kernel(program, "normalise"), lambda: dict(x=x, y=y, **norm.arguments(), **x.size))
    return y


def normalise_backward(program, dy, x, norm, dgamma=None, dbeta=None, need_dx=True, constant=False):
    """Backward: fills dgamma and dbeta where they are wanted, returns dx or None.

    constant: whether mean and var do not depend on x.
    """
    coupled = need_dx and not constant
    means = [zeros(x.channels, program.dtype) if coupled else None for _ in range(2)]
    if coupled or dgamma is not None or dbeta is not None:
        sums = _sums(program, x)
        program.add(_kernel(program, "gradient_moments"), lambda: dict(dy=dy, x=x, sums=sums, **norm.arguments(),
                                                                       **x.size))
        program.after("gradients", lambda: dict(sums=sums, dgamma=dgamma, dbeta=dbeta, mean_dy=means[0],
                                                mean_dy_xhat=means[1], **_merged(x, sums)),
                      program.kernels.norm.tasks(x.channels))
    if not need_dx:
        return None
    if coupled:
        program.cut()
    dx = program.overwritable(dy)
    program.add(_kernel(program, "normalise_backward"), lambda: dict(
        dy=dy, x=x, dx=dx, mean_dy=means[0], mean_dy_xhat=means[1], **norm.arguments(), **x.size))
    return dx


def _kernel(program, name):
    return f"{name}_channels" if program.by_channels else name


def _sums(program, x):
    """Two numbers of each block for each channel, or for each lane of channels side by side."""
    channels = x.planes * LANES if program.by_channels else x.channels
    return program.copies(2 * channels, PER_BLOCK, np.float64)


def _merged(x, parts):
    return dict(channels=x.channels, pixels=x.height * x.width, step=parts.step)


class BatchNorm2d(Operation):
    """A batch normalisation. weight, bias: Parameters (channels,) or None. mean, var: the running statistics,
    (channels,), or None. training: whether those of the batch are taken; then `tracked`, int64 () or None, counts the
    batches, and momentum and unbiased are as in the layer. channels: needed where there are no running statistics.
    relu: whether a ReLU follows. deferred: whether those who read the result normalise what they read instead."""

    name = twin = "batch_norm"
    relu = deferred = False

    def __init__(self, owner, weight, bias, mean, var, eps, training=False, momentum=None, tracked=None, unbiased=True,
                 channels=None):
        super().__init__(owner)
        self.weight, self.bias, self.mean, self.var, self.eps = weight, bias, mean, var, eps
        self.training, self.momentum, self.tracked, self.unbiased = training, momentum, tracked, unbiased
        self.channels = len(mean) if channels is None else channels
        self.effects, self.couples = training and mean is not None, training
        self.parameters = {name: p for name, p in (("weight", weight), ("bias", bias)) if p is not None}

    def shape(self, x):
        if spatial(self.owner, x)[0] != self.channels:
            raise ValueError(f"{self.owner}: x must have {self.channels} channels, got {x[0]}")
        return x

    def attributes(self):
        return {"training": True} if self.training else {}

    def scale_and_shift(self):
        """y = scale x + shift by the running statistics: two arrays, float64 (channels,). Raises ValueError where there
        are none."""
        if self.mean is None:
            raise ValueError("it must have running statistics where images come one by one, which are no batch")
        gamma, beta = (fill if p is None else p.data.astype(np.float64) for p, fill in (
            (self.weight, 1.0), (self.bias, 0.0)))
        scale = gamma / np.sqrt(self.var.astype(np.float64) + self.eps)
        return scale, beta - self.mean.astype(np.float64) * scale

    def emit(self, program, x):
        gamma, beta = (p and p.data for p in (self.weight, self.bias))
        if program.by_channels and not program.gradients and not self.training:
            scale, shift = fitted(program, x.channels, None, self)
            y = program.like(x)
            program.add("scale_channels", lambda: dict(x=x, y=y, scale=scale, shift=shift, relu=self.relu, **x.pixels))
            return y, None
        if self.training:
            kept = batch_statistics(program, x, gamma, beta, self.eps, (self.mean, self.var),
                                    self._factor(program, x.shape), self.relu, self.unbiased)
        else:
            kept = Norm(self.mean, self.var, gamma, beta, self.eps, self.relu)
        y = normalise(program, x, kept, self.deferred)
        weight, bias, constant = self.weight, self.bias, not self.training

        def backward(dy, need_dx):
            return normalise_backward(program, dy, x, kept, program.gradient(weight), program.gradient(bias), need_dx,
                                      constant)
        return y, backward

    def _factor(self, program, shape):
        """By how much the running statistics move, for each step of a run; None where there are none."""
        if self.mean is None:
            program.on_run(lambda step: self.factor(1, program.batch, shape))
            return None
        factor, number = program.per_step(1), program.count(self.tracked)

        def begin(step):
            factor.array[step] = self.factor(number(step), program.batch, shape)
        program.on_run(begin)
        return factor

    def factor(self, number, images, shape):
        """The same for batch `number`, from 1, of so many images of this shape. Raises ValueError for a single value
        per channel."""
        if images * shape[1] * shape[2] == 1:
            raise ValueError(f"{self.owner}: x must hold more than one value per channel in training mode, got one: a "
                             f"single image of {shape[0]} channels")
        return 1 / number if self.momentum is None else self.momentum

    def constants(self):
        """What it normalises with, where that are constants, by name."""
        gamma, beta = (p and p.data for p in (self.weight, self.bias))
        return dict(mean=self.mean, var=self.var, gamma=gamma, beta=beta, eps=self.eps)

    def folded(self, program, w, b):
        """Weight and bias of the convolution before it, such that it normalises, too; made anew in each run."""
        folded_w, folded_b = program.zeros(w.size), program.zeros(len(w))
        program.first("fold", lambda: dict(w=w, b=b, folded_w=folded_w, folded_b=folded_b, channels=len(w),
                                           taps=w.size // len(w), **self.constants()),
                      program.kernels.norm.tasks(len(w)))
        return folded_w, folded_b
