"""Arrays of up to four axes as values, whose images have three at most.

Of the axes (K, C, R, S), those of the weights of a convolution, the last two are side by side in one, (K, C, R S);
where the first has size 1 it is left out instead. A matrix (K, C) is (K, 1, C): channels lie side by side in vectors,
and what has a single one leaves them mostly empty.
"""
from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from cnn import shapes

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from cnn.graph.value import Value

Shape = tuple[int, ...]


def image_of(shape: Shape) -> Shape:
    """The image in which an array of this shape lies. Raises ValueError for more than four axes."""
    if len(shape) > 4:
        raise ValueError(f"parameter: what is computed from Parameters and arrays alone must have at most 4 axes, got "
                         f"{shapes.shown(shape)}: view(-1) where the shape does not matter")
    if len(shape) == 2:
        return shape[0], 1, shape[1]
    if len(shape) < 4:
        return shape
    return shape[1:] if shape[0] == 1 else (*shape[:2], shape[2] * shape[3])


def shaped(value: Value, image: Shape) -> Value:
    """The value, with as many elements in another image."""
    from cnn.graph import build
    return build.reshaped(value, image)


def repeated(value: Value, shape: Shape, like: Shape) -> Value:
    """An array of one shape, such that it goes together, as in NumPy, with those of another that is as large or larger:
    axes of size 1 are put in front, and only what lies side by side is repeated."""
    shape = (1,) * (len(like) - len(shape)) + shape
    if len(like) < 4 or like[0] == 1:
        return shaped(value, image_of(shape))
    if shape[2:] not in ((1, 1), like[2:]):
        planes = math.prod(shape[:2])
        value = shaped(value, (planes, *shape[2:])).expand(-1, planes, *like[2:])
        shape = (*shape[:2], *like[2:])
    return shaped(value, (*shape[:2], math.prod(shape[2:])))


def over(value: Value, shape: Shape, axes: Sequence[int], function: Callable[[Value, Any], Value]) -> Value:
    """What `function(value, dim)` makes of an array, which keeps its axes, over axes of the array."""
    if len(shape) == 2:
        return function(value, tuple(1 + 2 * axis for axis in axes))
    if len(shape) < 4:
        return function(value, tuple(axis + 1 for axis in axes))
    if shape[0] == 1:
        inner = tuple(axis for axis in axes if axis)
        return function(value, inner) if inner else shaped(function(shaped(value, (1, math.prod(shape))), (1,)),
                                                           shape[1:])
    single, rest = [axis for axis in axes if axis > 1], [axis + 1 for axis in axes if axis < 2]
    if len(single) == 2:
        rest.append(3)
    elif single:        # a row or a column of each kernel
        planes = math.prod(shape[:2])
        value = function(shaped(value, (planes, *shape[2:])), tuple(single))
        value = shaped(value, (*shape[:2], math.prod(value.image[1:])))
    return function(value, tuple(rest)) if rest else value


def picked(value: Value, shape: Shape, index: Callable[[np.ndarray], np.ndarray]) -> tuple[Value, Shape]:
    """The elements that `index` takes of an array of numbers, perhaps in another order, and their shape."""
    from cnn.graph import views
    numbers = index(np.arange(math.prod(shape)).reshape(shape))
    image = image_of(numbers.shape)
    if not numbers.size:
        raise ValueError(f"index: it must leave some of the elements of shape {shape}")
    return views.settled(views.View(value, numbers.reshape(1, *image))), numbers.shape
