"""Schedules that rise."""
from __future__ import annotations

from cnn.schedules.base import Schedule, cosine, linear


class OneCycle(Schedule):
    """Up to `max_lr`, then down to almost nothing, each along half a cosine wave (PyTorch's OneCycleLR).

    From max_lr / div_factor at step 0 up to max_lr at step pct_start·total_steps - 1, from there down to
    max_lr / div_factor / final_div_factor at step total_steps - 1, where it stays. The momentum is left
    alone. Smith and Topin 2018, "Super-Convergence".

    pct_start: the part of the steps, in [0, 1], that goes up. div_factor, final_div_factor: above 0.
    anneal_strategy: "cos", or "linear" for straight lines: a triangle.
    """

    def __init__(self, max_lr: float, total_steps: int, *, pct_start: float = 0.3, div_factor: float = 25.0,
                 final_div_factor: float = 1e4, warmup_steps: int = 0, anneal_strategy: str = "cos") -> None:
        super().__init__(warmup_steps)
        self.max_lr = self._number("max_lr", max_lr, minimum=0)
        self.total_steps = self._integer("total_steps", total_steps, minimum=1)
        self.pct_start = self._number("pct_start", pct_start, minimum=0, maximum=1)
        self.div_factor = self._number("div_factor", div_factor, above=0)
        self.final_div_factor = self._number("final_div_factor", final_div_factor, above=0)
        self.anneal_strategy = self._one_of("anneal_strategy", anneal_strategy, ("cos", "linear"))

    def rate(self, step: int) -> float:
        along = cosine if self.anneal_strategy == "cos" else linear
        first = self.max_lr / self.div_factor
        last = self.total_steps - 1
        top = self.pct_start * self.total_steps - 1  # need not be whole, and may be below 0
        step = min(step, last)
        if step <= top and top > 0:
            return along(first, self.max_lr, step / top)
        part = (step - top) / (last - top) if last > top else 0.0
        return along(self.max_lr, first / self.final_div_factor, part)


class Cyclic(Schedule):
    """Up from `base_lr` to `max_lr` and down again along straight lines, over and over (PyTorch's CyclicLR).

    A cycle goes up in step_size_up steps and down in step_size_down (default: as many). In cycle n, from 0, and at
    step i it reaches a part of the way to max_lr, by `mode`: "triangular" 1, "triangular2" 1/2^n, "exp_range" gamma^i.
    gamma: in [0, 1]. The momentum is left alone. Smith 2017, "Cyclical Learning Rates for Training Neural Networks".
    """

    def __init__(self, base_lr: float, max_lr: float, step_size_up: int = 2000, step_size_down: int | None = None,
                 mode: str = "triangular", gamma: float = 1.0, *, warmup_steps: int = 0) -> None:
        super().__init__(warmup_steps)
        self.base_lr = self._number("base_lr", base_lr, minimum=0)
        self.max_lr = self._number("max_lr", max_lr, minimum=self.base_lr)
        self.step_size_up = self._integer("step_size_up", step_size_up, minimum=1)
        self.step_size_down = self.step_size_up if step_size_down is None else self._integer(
            "step_size_down", step_size_down, minimum=1)
        self.mode = self._one_of("mode", mode, ("triangular", "triangular2", "exp_range"))
        self.gamma = self._number("gamma", gamma, minimum=0, maximum=1)

    def rate(self, step: int) -> float:
        cycle, within = divmod(step, self.step_size_up + self.step_size_down)
        down = within - self.step_size_up
        height = within / self.step_size_up if down <= 0 else 1 - down / self.step_size_down
        height *= {"triangular": 1.0, "triangular2": 0.5 ** cycle, "exp_range": self.gamma ** step}[self.mode]
        return linear(self.base_lr, self.max_lr, height)


class CosineWarmRestarts(Schedule):
    """Half a cosine wave from `lr` towards `final_lr`, and again from `lr` (PyTorch's CosineAnnealingWarmRestarts).

    The first wave takes `cycle_steps` steps (PyTorch's T_0), each later one `cycle_mult` times as many as the one
    before (T_mult, an integer of at least 1). At step t of a wave of T steps the rate is
    final_lr + (lr - final_lr) · (1 + cos(π·t / T)) / 2. Loshchilov and Hutter 2017, "SGDR".
    """

    def __init__(self, lr: float, cycle_steps: int, cycle_mult: int = 1, final_lr: float = 0.0, *,
                 warmup_steps: int = 0) -> None:
        super().__init__(warmup_steps)
        self.lr = self._number("lr", lr, minimum=0)
        self.cycle_steps = self._integer("cycle_steps", cycle_steps, minimum=1)
        self.cycle_mult = self._integer("cycle_mult", cycle_mult, minimum=1)
        self.final_lr = self._number("final_lr", final_lr, minimum=0)

    def rate(self, step: int) -> float:
        length = self.cycle_steps
        if self.cycle_mult == 1:
            step %= length
        while step >= length:
            step -= length
            length *= self.cycle_mult
        return cosine(self.lr, self.final_lr, step / length)
