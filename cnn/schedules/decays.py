"""Schedules that stay or fall."""
from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

from cnn.schedules.base import Schedule, cosine, linear


class Constant(Schedule):
    """The same rate `lr` at every step."""

    def __init__(self, lr: float, *, warmup_steps: int = 0) -> None:
        super().__init__(warmup_steps)
        self.lr = self._number("lr", lr, minimum=0)

    def rate(self, step: int) -> float:
        return self.lr


class Step(Schedule):
    """lr · gamma^⌊step / step_size⌋: multiplied by `gamma` every `step_size` steps (PyTorch's StepLR)."""

    def __init__(self, lr: float, step_size: int, gamma: float = 0.1, *, warmup_steps: int = 0) -> None:
        super().__init__(warmup_steps)
        self.lr = self._number("lr", lr, minimum=0)
        self.step_size = self._integer("step_size", step_size, minimum=1)
        self.gamma = self._number("gamma", gamma, minimum=0)

    def rate(self, step: int) -> float:
        return self.lr * self.gamma ** (step // self.step_size)


class MultiStep(Schedule):
    """lr · gamma^n, n the number of `milestones` at or before the step (PyTorch's MultiStepLR).

    milestones: steps in ascending order, a list of integers of at least 0.
    """

    def __init__(self, lr: float, milestones: Sequence[int], gamma: float = 0.1, *, warmup_steps: int = 0) -> None:
        super().__init__(warmup_steps)
        self.lr = self._number("lr", lr, minimum=0)
        self.milestones = self._milestones(milestones)
        self.gamma = self._number("gamma", gamma, minimum=0)

    def rate(self, step: int) -> float:
        return self.lr * self.gamma ** bisect_right(self.milestones, step)


class Exponential(Schedule):
    """lr · gamma^step: multiplied by `gamma` at every step (PyTorch's ExponentialLR)."""

    def __init__(self, lr: float, gamma: float, *, warmup_steps: int = 0) -> None:
        super().__init__(warmup_steps)
        self.lr = self._number("lr", lr, minimum=0)
        self.gamma = self._number("gamma", gamma, minimum=0, maximum=1)

    def rate(self, step: int) -> float:
        return self.lr * self.gamma ** step


class _Falling(Schedule):
    """From `lr` at step 0 down to `final_lr` at step `total_steps`."""

    def __init__(self, lr: float, total_steps: int, final_lr: float = 0.0, *, warmup_steps: int = 0) -> None:
        super().__init__(warmup_steps)
        self.lr = self._number("lr", lr, minimum=0)
        self.total_steps = self._integer("total_steps", total_steps, minimum=1)
        self.final_lr = self._number("final_lr", final_lr, minimum=0)

    def part(self, step: int) -> float:
        """The share of the way, in [0, 1], that is done at a step."""
        return min(step / self.total_steps, 1.0)


class Cosine(_Falling):
    """Half a cosine wave from `lr` at step 0 down to `final_lr` at step `total_steps`, where it stays.

    final_lr + (lr - final_lr) · (1 + cos(π·step / total_steps)) / 2: the closed form of PyTorch's
    CosineAnnealingLR, from Loshchilov and Hutter 2017, "SGDR", without its restarts (see CosineWarmRestarts).
    """

    def rate(self, step: int) -> float:
        return cosine(self.lr, self.final_lr, self.part(step))


class Linear(_Falling):
    """Straight from `lr` at step 0 to `final_lr` at step `total_steps`, where it stays (PyTorch's LinearLR)."""

    def rate(self, step: int) -> float:
        return linear(self.lr, self.final_lr, self.part(step))


class Polynomial(_Falling):
    """From `lr` at step 0 down to `final_lr` at step `total_steps`, where it stays (PyTorch's PolynomialLR).

    final_lr + (lr - final_lr) · (1 - step / total_steps)^power. power: above 0; 1 is a straight line.
    """

    def __init__(self, lr: float, total_steps: int, power: float = 1.0, *, final_lr: float = 0.0,
                 warmup_steps: int = 0) -> None:
        super().__init__(lr, total_steps, final_lr, warmup_steps=warmup_steps)
        self.power = self._number("power", power, above=0)

    def rate(self, step: int) -> float:
        return self.final_lr + (self.lr - self.final_lr) * (1 - self.part(step)) ** self.power
