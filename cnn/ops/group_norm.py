"""Group normalisation; the formulas stand beside the kernels in _ext/group_norm.pyx."""
import numpy as np

from cnn.engine.tensors import PER_BLOCK
from cnn.ops.operation import Operation, spatial


def group_norm(program, x, gamma, beta, groups, eps):
    """Forward. gamma, beta: (channels,) or None. Returns y, and what the backward pass needs of each
    image's groups: mean and 1 / s."""
    y = program.like(x)
    if program.by_channels:
        stats, kernel = program.copies(4 * groups, PER_BLOCK, np.float64), "group_norm_channels"
        gamma, beta = (a if a is None else program.kept(a) for a in (gamma, beta))
    else:
        stats, kernel = program.tensor(3 * groups, flat=True), "group_norm"
    program.add(kernel, lambda: dict(x=x, y=y, stats=stats, gamma=gamma, beta=beta, groups=groups, eps=eps,
                                     **x.size))
    return y, stats


def group_norm_backward(program, dy, x, stats, gamma, groups, dgamma=None, dbeta=None, need_dx=True):
    """Backward: fills dgamma and dbeta where they are wanted, returns dx or None."""
    dgamma, dbeta = (None if target is None else program.shard_sum(target, x.channels) for target in (dgamma, dbeta))
    dx = program.like(x) if need_dx else None
    program.add("group_norm_channels_backward" if program.by_channels else "group_norm_backward", lambda: dict(
        dy=dy, x=x, stats=stats, dx=dx, gamma=gamma, dgamma=dgamma, dbeta=dbeta, groups=groups, **x.size))
    return dx


class GroupNorm(Operation):
    """weight, bias: Parameters (channels,) or None."""

    name = twin = "group_norm"

    def __init__(self, owner, groups, channels, weight, bias, eps):
        super().__init__(owner)
        self.groups, self.channels, self.weight, self.bias, self.eps = groups, channels, weight, bias, eps
        self.parameters = {name: p for name, p in (("weight", weight), ("bias", bias)) if p is not None}

    def shape(self, x):
        if spatial(self.owner, x)[0] != self.channels:
            raise ValueError(f"{self.owner}: x must have {self.channels} channels, got {x[0]}")
        return x

    def attributes(self):
        return {"groups": self.groups}

    def emit(self, program, x):
        gamma, beta = (p and p.data for p in (self.weight, self.bias))
        y, stats = group_norm(program, x, gamma, beta, self.groups, self.eps)

        def backward(dy, need_dx):
            return group_norm_backward(program, dy, x, stats, gamma, self.groups, program.gradient(self.weight),
                                       program.gradient(self.bias), need_dx)
        return y, backward
