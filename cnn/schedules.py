"""Learning rates as functions of the step.

A schedule is called with the number of a training step, from 0, and returns the learning rate for that step.
It keeps no state, so that training resumed at step n needs nothing but n.

Learning rates and factors are finite floats of at least 0, steps are integers. A wrong type raises TypeError
and a wrong value ValueError, both when the schedule is built.
"""

import math

from cnn import shapes


class Schedule:
    """Base of all schedules: a subclass defines `rate(step)`, the learning rate without warm-up.

    warmup_steps: at step i < warmup_steps the rate is multiplied by (i + 1) / warmup_steps. The first step
    thus gets a small rate that is not 0, and step warmup_steps - 1 is the first with the full rate. The
    schedule underneath is not shifted: its own steps count from 0 too. 0 and 1 mean no warm-up.
    """

    def __init__(self, warmup_steps: int = 0) -> None:
        self.warmup_steps = self._integer("warmup_steps", warmup_steps)

    def __call__(self, step: int) -> float:
        """Return the learning rate (float) for step number `step`, an integer of at least 0."""
        step = self._integer("step", step)
        rate = self.rate(step)
        if step < self.warmup_steps:
            rate *= (step + 1) / self.warmup_steps
        return rate

    def rate(self, step: int) -> float:
        """Return the learning rate (float) for step number `step` as if there were no warm-up."""
        raise NotImplementedError(f"{type(self).__name__}: rate(step) is not defined")

    def _integer(self, name: str, value: float, minimum: int = 0) -> int:
        return shapes.integer(type(self).__name__, name, value, minimum)

    def _number(self, name: str, value: float, **limits: float) -> float:
        return shapes.number(type(self).__name__, name, value, **limits)


class Constant(Schedule):
    """The same rate `lr` at every step."""

    def __init__(self, lr: float, warmup_steps: int = 0) -> None:
        super().__init__(warmup_steps)
        self.lr = self._number("lr", lr, minimum=0)

    def rate(self, step: int) -> float:
        return self.lr


class Step(Schedule):
    """lr · gamma^⌊step / step_size⌋: multiplied by `gamma` every `step_size` steps (PyTorch's StepLR)."""

    def __init__(self, lr: float, step_size: int, gamma: float = 0.1, warmup_steps: int = 0) -> None:
        super().__init__(warmup_steps)
        self.lr = self._number("lr", lr, minimum=0)
        self.step_size = self._integer("step_size", step_size, minimum=1)
        self.gamma = self._number("gamma", gamma, minimum=0)

    def rate(self, step: int) -> float:
        return self.lr * self.gamma ** (step // self.step_size)


class Cosine(Schedule):
    """Half a cosine wave from `lr` at step 0 down to `final_lr` at step `total_steps`, where it stays.

    final_lr + (lr - final_lr) · (1 + cos(π·step / total_steps)) / 2: the closed form of PyTorch's
    CosineAnnealingLR, from Loshchilov and Hutter 2017, "SGDR", without its restarts.
    """

    def __init__(self, lr: float, total_steps: int, final_lr: float = 0.0, warmup_steps: int = 0) -> None:
        super().__init__(warmup_steps)
        self.lr = self._number("lr", lr, minimum=0)
        self.total_steps = self._integer("total_steps", total_steps, minimum=1)
        self.final_lr = self._number("final_lr", final_lr, minimum=0)

    def rate(self, step: int) -> float:
        return _cosine(self.lr, self.final_lr, min(step / self.total_steps, 1.0))


class Linear(Schedule):
    """Straight from `lr` at step 0 to `final_lr` at step `total_steps`, where it stays (PyTorch's LinearLR)."""

    def __init__(self, lr: float, total_steps: int, final_lr: float = 0.0, warmup_steps: int = 0) -> None:
        super().__init__(warmup_steps)
        self.lr = self._number("lr", lr, minimum=0)
        self.total_steps = self._integer("total_steps", total_steps, minimum=1)
        self.final_lr = self._number("final_lr", final_lr, minimum=0)

    def rate(self, step: int) -> float:
        return _linear(self.lr, self.final_lr, min(step / self.total_steps, 1.0))


class OneCycle(Schedule):
    """Up to `max_lr`, then down to almost nothing, each along half a cosine wave (PyTorch's OneCycleLR).

    From max_lr / div_factor at step 0 up to max_lr at step pct_start·total_steps - 1, from there down to
    max_lr / div_factor / final_div_factor at step total_steps - 1, where it stays. The momentum is left
    alone. Smith and Topin 2018, "Super-Convergence".

    pct_start: the part of the steps, in [0, 1], that goes up. div_factor, final_div_factor: above 0.
    anneal_strategy: "cos", or "linear" for straight lines: a triangle.
    """

    def __init__(self, max_lr: float, total_steps: int, pct_start: float = 0.3, div_factor: float = 25.0,
                 final_div_factor: float = 1e4, warmup_steps: int = 0, anneal_strategy: str = "cos") -> None:
        super().__init__(warmup_steps)
        self.max_lr = self._number("max_lr", max_lr, minimum=0)
        self.total_steps = self._integer("total_steps", total_steps, minimum=1)
        self.pct_start = self._number("pct_start", pct_start, minimum=0, maximum=1)
        self.div_factor = self._number("div_factor", div_factor, above=0)
        self.final_div_factor = self._number("final_div_factor", final_div_factor, above=0)
        if anneal_strategy not in ("cos", "linear"):
            raise ValueError(f'OneCycle: anneal_strategy must be "cos" or "linear", got {anneal_strategy!r}')
        self.anneal_strategy = anneal_strategy

    def rate(self, step: int) -> float:
        along = _cosine if self.anneal_strategy == "cos" else _linear
        first = self.max_lr / self.div_factor
        last = self.total_steps - 1
        top = self.pct_start * self.total_steps - 1  # need not be whole, and may be below 0
        step = min(step, last)
        if step <= top and top > 0:
            return along(first, self.max_lr, step / top)
        part = (step - top) / (last - top) if last > top else 0.0
        return along(self.max_lr, first / self.final_div_factor, part)


def _cosine(start: float, end: float, part: float) -> float:
    """Half a cosine wave from `start` (part = 0) to `end` (part = 1)."""
    return end + (start - end) * (1 + math.cos(math.pi * part)) / 2


def _linear(start: float, end: float, part: float) -> float:
    """Straight from `start` (part = 0) to `end` (part = 1)."""
    return start + (end - start) * part
