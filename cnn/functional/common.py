"""What all functions share."""
from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from cnn import shapes
from cnn.engine.parameter import Parameter
from cnn.engine.program import Program, circumstances
from cnn.engine.programs import Pool
from cnn.graph import Value

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Images = TypeVar("Images", np.ndarray, Value)   # arrays give arrays, values give values
Gradients = tuple[np.ndarray | None, np.ndarray, np.ndarray]    # dx, dw, db

_programs = Pool()


@contextmanager
def program(key: tuple, dtype: np.dtype, images: int, write: Callable[[Program], None]) -> Iterator[Program]:
    """A program that `write(program)` writes, this caller's until the end of the `with`."""
    key = (*key, dtype, circumstances())

    def make() -> Program:
        made = Program(dtype, images)
        write(made)
        made.compile()
        return made

    taken = None
    try:
        taken = _programs.take(key, images, make)
        yield taken
    finally:
        _programs.give(taken)


def bias(name: str, b: np.ndarray | None, outputs: int, dtype: np.dtype) -> np.ndarray | None:
    return None if b is None else shapes.array(name, "b", b, (outputs,), dtype)


def parameter(owner: str, name: str, value: np.ndarray | Parameter | None,
              dtype: np.dtype) -> tuple[Parameter | None, tuple]:
    """A Parameter, or None, for an operation on values, and (array, Parameter) where it takes an array's numbers before
    each run."""
    if value is None or isinstance(value, Parameter):
        if value is not None and value.dtype != dtype:
            raise TypeError(f"{owner}: {name} must be of {dtype}, as the values are, got {value.dtype}")
        return value, ()
    if isinstance(value, Value):
        raise TypeError(f"{owner}: {name} must be a Parameter or an array, got a value")
    made = Parameter(shapes.array(owner, name, value, None, dtype), requires_grad=False)
    return made, ((value, made),)


def numbers(*values: np.ndarray | Parameter | None) -> list:
    """Parameters as their arrays, all else as it is."""
    return [value.data if isinstance(value, Parameter) else value for value in values]
