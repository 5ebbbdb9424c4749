"""What all functions share."""
from __future__ import annotations

from contextlib import contextmanager
from functools import wraps
from typing import TYPE_CHECKING, TypeVar, cast

import numpy as np

from cnn import shapes
from cnn.engine.data import own
from cnn.engine.parameter import Parameter
from cnn.engine.program import Program
from cnn.engine.programs import Pool, circumstances
from cnn.graph import Value, derived, trace
from cnn.graph.lower import few, slot, written
from cnn.graph.passes import optimised
from cnn.graph.value import number
from cnn.graph.wide import Wide, refused
from cnn.ops.weighted import Awaited

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

Images = TypeVar("Images", np.ndarray, Value)   # arrays give arrays, values give values
Function = TypeVar("Function", bound="Callable")
Operand = Value | Parameter | np.ndarray | float
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


def computed(name: str, function: Callable[..., Value], operands: dict[str, Any], key: tuple = (),
             by_element: bool = False) -> Any:
    """What a function of values makes of operands: of values a value. Of arrays, of one dtype and for as many images
    each, it is traced and compiled once for their shapes, and the result is an array. Numbers are passed on.

    key: all else that the function depends on. by_element: whether it works element by element, so that it also takes
    Parameters alone, while a network is traced.
    """
    like = next((operand for operand in operands.values() if isinstance(operand, Value)), None)
    if like is not None:
        return function(*[derived.beside(operand, like) for operand in operands.values()])
    if any(isinstance(operand, Wide) for operand in operands.values()):
        first, *more = operands.values()
        if not by_element or more:
            refused(next(operand for operand in operands.values() if isinstance(operand, Wide)))
        return first.each(function)
    if derived.computes(*operands.values()):
        if not by_element:
            raise TypeError(f"{name}: one of {', '.join(operands)} must be a value, got Parameters alone")
        return derived.through(function, *operands.values())
    operands = dict(zip(operands, numbers(*operands.values()), strict=True))
    arrays = {what: operand for what, operand in operands.items() if isinstance(operand, np.ndarray)}
    rest = {what: operand for what, operand in operands.items() if what not in arrays}
    wrong = {what: operand for what, operand in rest.items() if not number(operand)} or ({} if arrays else rest)
    for what, operand in wrong.items():
        raise TypeError(f"{name}: {what} must be a NumPy array of float32 or float64, or a value, got "
                        f"{type(operand).__name__}")
    first, *others = arrays
    xs = {first: shapes.array(name, first, arrays[first])}
    dtype, count = xs[first].dtype, len(xs[first]) if xs[first].ndim else 0
    xs |= {what: shapes.array(name, what, arrays[what], None, dtype) for what in others}
    for what, x in xs.items():
        if not 1 <= x.ndim <= 4:
            raise ValueError(f"{name}: {what} must have shape (N, C, H, W), (N, H, W), (N, features) or (N,), got "
                             f"{x.shape}")
        if len(x) != count:
            raise ValueError(f"{name}: {what} must hold {count} images, as {first} does, got {len(x)}")
        shapes.element_count(name, *x.shape)

    def traced(*values: Value) -> Value:
        given = dict(zip(xs, values, strict=True)) | rest
        return function(*(given[what] for what in operands))

    def make() -> Program:
        graph = trace(traced, [x.shape[1:] for x in xs.values()], dtype, name)
        return written(optimised(graph, False), dtype, count, False)

    key = (name, key, *((what, x.shape[1:]) for what, x in xs.items()), tuple(rest.items()), dtype, few(count, False),
           circumstances())
    program = None
    try:
        program = _programs.take(key, count, make)
        y = np.empty((count, *program.shapes[0]), dtype)
        program.run(count, y=y, **{slot("x", i): x for i, x in enumerate(xs.values())})
    finally:
        _programs.give(program)
    return y


def also_one(axes: int) -> Callable[[Function], Function]:
    """A function of a batch of images that takes an array of one, too, which has so many axes."""
    def decorated(function: Function) -> Function:
        @wraps(function)
        def call(x: Any, *args: Any, **options: Any) -> Any:
            if not isinstance(x, np.ndarray) or x.ndim != axes:
                return function(x, *args, **options)
            y = function(x[np.newaxis], *args, **options)
            return tuple(part[0] for part in y) if isinstance(y, tuple) else y[0]
        return cast("Function", call)
    return decorated


def also_sequences(fewest: int) -> Callable[[Function], Function]:
    """A function of images (N, C, H, W) that keeps their shape takes sequences (N, C, L), too, images of one row, and
    vectors (N, C), images of one pixel, where `fewest` axes are 2 and not 3."""
    def decorated(function: Function) -> Function:
        @wraps(function)
        def call(x: Any, *args: Any, **options: Any) -> Any:
            if not isinstance(x, (np.ndarray, Value)) or not fewest <= x.ndim <= 3:
                return function(x, *args, **options)
            images = x.reshape((*x.shape[:2], *(1,) * (4 - x.ndim), *x.shape[2:]))
            return function(images, *args, **options).reshape(x.shape)
        return cast("Function", call)
    return decorated


def parameter(owner: str, name: str, value: np.ndarray | Parameter | None,
              dtype: np.dtype) -> tuple[Parameter | Awaited | None, tuple]:
    """A Parameter, what is computed from some, or None, for an operation on values, and (array, Parameter) where it
    takes an array's numbers before each run."""
    if isinstance(value, (derived.Derived, derived.Shaped)):
        value = derived.awaited(value)
    if value is None or isinstance(value, (Parameter, Awaited)):
        if value is not None and value.dtype != dtype:
            raise TypeError(f"{owner}: {name} must be of {dtype}, as the values are, got {value.dtype}")
        return value, ()
    if isinstance(value, Value):
        raise TypeError(f"{owner}: {name} must be a Parameter, an array or what is computed from these, got a value, "
                        f"which each image has of its own")
    made = Parameter(shapes.array(owner, name, value, None, dtype), requires_grad=False)
    return made, ((own(value), made),)


def in_place(name: str, x: Any, inplace: bool) -> None:
    """Check an argument that changes nothing, and note what PyTorch changes."""
    if shapes.flag(name, "inplace", inplace) and isinstance(x, Value) and x.graph is not None:
        x.graph.in_place.append((name, x, len(x.graph.nodes) + 1))


def numbers(*values: np.ndarray | Parameter | None) -> list:
    """Parameters as their arrays, all else as it is."""
    return [value.data if isinstance(value, Parameter) else value for value in values]
