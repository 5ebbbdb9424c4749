"""The base class of schedules."""
from __future__ import annotations

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

    def _one_of(self, name: str, value: str, choices: tuple[str, ...]) -> str:
        if value not in choices:
            *first, last = (f'"{choice}"' for choice in choices)
            raise ValueError(f"{type(self).__name__}: {name} must be {', '.join(first)} or {last}, got {value!r}")
        return value

    def _milestones(self, value: object) -> list[int]:
        """A list of steps that does not fall."""
        if not isinstance(value, (list, tuple)):
            raise TypeError(f"{type(self).__name__}: milestones must be a list of steps, got {shapes.shown(value)}")
        steps = [self._integer("milestones", step) for step in value]
        if steps != sorted(steps):
            raise ValueError(f"{type(self).__name__}: milestones must be in ascending order, got {shapes.shown(value)}")
        return steps


def cosine(start: float, end: float, part: float) -> float:
    """Half a cosine wave from `start` (part = 0) to `end` (part = 1)."""
    return end + (start - end) * (1 + math.cos(math.pi * part)) / 2


def linear(start: float, end: float, part: float) -> float:
    """Straight from `start` (part = 0) to `end` (part = 1)."""
    return start + (end - start) * part
