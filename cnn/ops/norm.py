"""Batch normalisation; the formulas stand beside the kernels in _ext/norm.pyx.

The statistics of the batch cut a program in two, forward and backward. Vectors here are (channels,).
"""
from dataclasses import dataclass

import numpy as np

from cnn.memory import zeros
from cnn.plan import PER_BLOCK


@dataclass
class Norm:
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


def batch_statistics(program, x, gamma, beta, eps, running=(None, None), factor=None, relu=False):
    """The Norm of a batch, which is ready after the cut that this makes.

    running: (mean, var), which move towards the batch's by `factor`, float64 (1,).
    """
    norm = Norm(zeros(x.channels, program.dtype), zeros(x.channels, program.dtype), gamma, beta, eps, relu)
    moments = program.copies(2 * x.channels, PER_BLOCK, np.float64)
    program.add("moments", lambda: dict(x=x, moments=moments, **x.pixels))
    program.cut()
    program.before("statistics", lambda: dict(moments=moments, mean=norm.mean, var=norm.var,
                                              running_mean=running[0], running_var=running[1], factor=factor,
                                              **_merged(x, moments)), program.kernels.norm.tasks(x.channels))
    return norm


def read(x, normalises=True):
    """Where to read x, and the arguments that say how to normalise it there, for kernels that can: x need not be kept
    then, if they are all that read it, forward and backward."""
    source, norm = normalises and x.normalised or (x, Norm(None, None, None, None, 0, False))
    arguments = norm.arguments()
    arguments["input_relu"] = arguments.pop("relu")
    return source, arguments


def normalise(program, x, norm):
    """y = gamma (x - mean) / sqrt(var + eps) + beta; y is made only if an operation uses it."""
    y = program.like(x)
    y.normalised = x, norm
    program.add("normalise", lambda: dict(x=x, y=y, **norm.arguments(), **x.pixels))
    return y


def normalise_backward(program, dy, x, norm, dgamma=None, dbeta=None, need_dx=True, constant=False):
    """Backward: fills dgamma and dbeta where they are wanted, returns dx or None.

    constant: whether mean and var do not depend on x.
    """
    coupled = need_dx and not constant
    means = [zeros(x.channels, program.dtype) if coupled else None for _ in range(2)]
    if coupled or dgamma is not None or dbeta is not None:
        sums = program.copies(2 * x.channels, PER_BLOCK, np.float64)
        program.add("gradient_moments", lambda: dict(dy=dy, x=x, sums=sums, **norm.arguments(), **x.pixels))
        program.after("gradients", lambda: dict(sums=sums, dgamma=dgamma, dbeta=dbeta, mean_dy=means[0],
                                                mean_dy_xhat=means[1], **_merged(x, sums)),
                      program.kernels.norm.tasks(x.channels))
    if not need_dx:
        return None
    if coupled:
        program.cut()
    dx = program.overwritable(dy)
    program.add("normalise_backward", lambda: dict(dy=dy, x=x, dx=dx, mean_dy=means[0], mean_dy_xhat=means[1],
                                                   **norm.arguments(), **x.pixels))
    return dx


def _merged(x, parts):
    return dict(channels=x.channels, pixels=x.height * x.width, step=parts.step)
