"""Convolutions and linear maps whose weights are computed in `forward`, from Parameters."""
from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

from cnn.ops.operation import Operation

if TYPE_CHECKING:
    import numpy as np


class Awaited(NamedTuple):
    """A value in the place of an operation's Parameter, until the operation is a Weighted. shape: of the Parameter."""

    value: Any
    shape: tuple[int, ...]

    @property
    def requires_grad(self) -> bool:
        return True

    @property
    def dtype(self) -> np.dtype:
        return self.value.dtype

    def numel(self) -> int:
        return math.prod(self.shape)


class Weighted(Operation):
    """An operation of which some parameters are values, the same for all images, that it reads after x.

    operation: it, with an Awaited for each of these, by name in `awaited`. Before it is compiled, cnn.graph.once puts
    Parameters there, which are computed once.
    """

    twin = "weighted"

    def __init__(self, operation: Operation) -> None:
        super().__init__(operation.owner)
        self.name, self.operation, self.sources = operation.name, operation, operation.sources
        self.couples, self.effects = operation.couples, operation.effects
        self.awaited = awaited(operation)
        self.parameters = {name: p for name, p in operation.parameters.items() if name not in self.awaited}

    def shape(self, x: tuple[int, ...], *more: tuple[int, ...]) -> tuple[int, ...]:
        return self.operation.shape(x)

    def macs(self, x: tuple[int, ...], *more: tuple[int, ...]) -> int:
        return self.operation.macs(x)

    def attributes(self) -> dict[str, Any]:
        return self.operation.attributes()

    def taking(self, given: dict[str, Any]) -> Operation:
        """The operation, with Parameters for the values, by name."""
        places = {place: given[name] for place, thing in vars(self.operation).items()
                  for name, value in self.awaited.items() if thing is value}
        return self.operation.changed(**places, parameters={**self.operation.parameters, **given})


def awaited(operation: Operation) -> dict[str, Awaited]:
    """What an operation waits for, by name."""
    return {name: p for name, p in operation.parameters.items() if isinstance(p, Awaited)}


def plain(operation: Operation) -> Operation:
    """An operation without what it waits for around it."""
    return operation.operation if isinstance(operation, Weighted) else operation
