"""Seeing where numbers go wrong."""
from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from cnn.engine import meanwhile

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Result = TypeVar("Result")

_depth = 0
_step: ContextVar[int | None] = ContextVar("step", default=None)    # the training step at hand, from 1, if any


def enabled() -> bool:
    """Whether `debug` is in force."""
    return _depth > 0


@contextmanager
def debug() -> Iterator[None]:
    """Run models node by node meanwhile, in all threads, and look at every value and every gradient.

        with cnn.debug():
            trainer.fit(train, epochs=1)

    Raises FloatingPointError that names the first operation, its module and the training step where NaN or infinity
    appears. The numbers are those of a run without it, to rounding; it is many times slower.
    """
    global _depth
    _depth += 1
    try:
        yield
    finally:
        _depth -= 1


def in_step(number: int, function: Callable[..., Result], *inputs: Any) -> Result:
    """What `function(*inputs)` returns, which is a part of the training step of that number, from 1."""
    return meanwhile.holds(_step, number, function, *inputs)


def look(array: np.ndarray | None, what: str, where: str) -> None:
    """Raise FloatingPointError where an array that is being debugged has a number that is not finite."""
    if not _depth or array is None:
        return
    wrong = ~np.isfinite(array)
    if wrong.any():
        place = tuple(int(i) for i in np.argwhere(wrong)[0])
        begun = "" if _step.get() is None else f"step {_step.get()}: "
        raise FloatingPointError(f"{begun}{where}: {int(wrong.sum())} of {array.size} elements of its {what} are NaN "
                                 f"or infinite; the first, at {place}, is {array[place]}")
