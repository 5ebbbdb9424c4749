"""Schedules one after the other."""
from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence

from cnn import shapes
from cnn.schedules.base import Schedule
from cnn.schedules.plateau import ReduceLROnPlateau


class Sequential(Schedule):
    """Several schedules one after the other, each with steps of its own from 0 (PyTorch's SequentialLR).

        Sequential([Linear(0.01, 100, final_lr=0.1), Cosine(0.1, 900)], milestones=[100])

    schedules: at least one function from the step to the learning rate. milestones: a list with the step at which each
    but the first begins, in ascending order.
    """

    def __init__(self, schedules: Sequence[Callable[[int], float]], milestones: Sequence[int], *,
                 warmup_steps: int = 0) -> None:
        super().__init__(warmup_steps)
        self.schedules = shapes.listed("Sequential", "schedules", schedules, "functions of the step")
        self.milestones = self._milestones(milestones)
        for schedule in self.schedules:
            if not callable(schedule) or isinstance(schedule, (ReduceLROnPlateau, type)):
                raise TypeError(f"Sequential: schedules must be functions of the step, got {schedule!r}")
        if len(self.schedules) != len(self.milestones) + 1:
            raise ValueError(f"Sequential: milestones must be one less than the {len(self.schedules)} schedules, got "
                             f"{len(self.milestones)}")
        total = getattr(self.schedules[-1], "total_steps", None)
        if total is not None:       # by which a trainer knows that it is over
            self.total_steps = total + (self.milestones[-1] if self.milestones else 0)

    def rate(self, step: int) -> float:
        which = bisect_right(self.milestones, step)
        return self.schedules[which](step - (self.milestones[which - 1] if which else 0))
