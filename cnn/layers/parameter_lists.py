"""Parameters in lists and dicts."""
from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from cnn import shapes
from cnn.engine.parameter import Parameter
from cnn.layers.module import Module

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping


class ParameterList(Module):
    """Parameters in a list, `alphas[i]`, which are a part of whatever has the list as an attribute. Their names are
    their numbers. It cannot be called.

    values: an iterable of Parameters and arrays of floats, of any shape, none by default. Raises TypeError for anything
    else.
    """

    def __init__(self, values: Iterable[Parameter | np.ndarray] = ()) -> None:
        super().__init__()
        self.extend(shapes.listed("ParameterList", "values", values, "Parameters"))

    def __len__(self) -> int:
        return len(self.own_parameters())

    def __iter__(self) -> Iterator[Parameter]:
        return iter([p for _, p in self.own_parameters()])

    def __getitem__(self, i: int | slice) -> Any:
        found = list(self)[i]
        return ParameterList(found) if isinstance(found, list) else found

    def __setitem__(self, i: int, value: Parameter | np.ndarray) -> None:
        name = list(dict(self.own_parameters()))[i]
        setattr(self, name, _parameter("ParameterList", value))

    def append(self, value: Parameter | np.ndarray) -> ParameterList:
        """Add `value`, a Parameter or an array of any shape, at the end; returns the list."""
        setattr(self, str(len(self)), _parameter("ParameterList", value))
        return self

    def extend(self, values: Iterable[Parameter | np.ndarray]) -> ParameterList:
        """Add `values`, Parameters or arrays of any shape, at the end; returns the list."""
        for value in values:
            self.append(value)
        return self

    def extra_repr(self) -> str:
        return ", ".join(str(p.shape) for p in self)


class ParameterDict(Module):
    """Parameters by name, `scales["a"]`, which are a part of whatever has the dict as an attribute. It cannot be
    called.

    parameters: a dict, or (name, Parameter) pairs, of Parameters and arrays of any shape, none by default; names are
    texts without a dot that are no attribute of modules. Raises TypeError or ValueError for anything else.
    """

    def __init__(self, parameters: Mapping[str, Any] | Iterable[tuple[str, Any]] = ()) -> None:
        super().__init__()
        self.update(parameters)

    def __len__(self) -> int:
        return len(self.own_parameters())

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys())

    def __contains__(self, name: object) -> bool:
        return name in self.keys()

    def __getitem__(self, name: str) -> Parameter:
        return dict(self.own_parameters())[name]

    def __setitem__(self, name: str, value: Parameter | np.ndarray) -> None:
        if not isinstance(name, str) or not name or "." in name:
            raise ValueError(f"ParameterDict: a name must be a text without a dot, got {shapes.shown(name)}")
        if name not in self and hasattr(self, name):
            raise ValueError(f"ParameterDict: a name must be no attribute of modules, got {name!r}")
        setattr(self, name, _parameter("ParameterDict", value))

    def keys(self) -> list[str]:
        """The names."""
        return [name for name, _ in self.own_parameters()]

    def values(self) -> list[Parameter]:
        """The Parameters."""
        return [p for _, p in self.own_parameters()]

    def items(self) -> list[tuple[str, Parameter]]:
        """(name, Parameter) pairs."""
        return self.own_parameters()

    def update(self, parameters: Mapping[str, Any] | Iterable[tuple[str, Any]]) -> None:
        """Add `parameters`, by name, or put them in the place of those with the same name."""
        for name, value in dict(parameters).items():
            self[name] = value

    def extra_repr(self) -> str:
        return ", ".join(f"{name}: {p.shape}" for name, p in self.items())


def _parameter(owner: str, value: Any) -> Parameter:
    if isinstance(value, Parameter):
        return value
    if not isinstance(value, np.ndarray):
        raise TypeError(f"{owner}: it holds Parameters and arrays, got {type(value).__name__}")
    return Parameter(value)
