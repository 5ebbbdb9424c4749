"""What a module can be asked in PyTorch's words, beside what Module itself has."""
from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cnn import hints, shapes
from cnn.engine.data import own, seen
from cnn.engine.parameter import Parameter
from cnn.layers.parts import named_modules

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any, Self

    from numpy.typing import ArrayLike

    from cnn.layers.module import Module


class Spelled:
    """A base class of Module."""

    def apply(self, fn: Callable[[Module], Any]) -> Self:
        """Call `fn` with each module inside, then with this one; returns the module. `fn` sets initial weights, say:
        `m.weight.data = array`."""
        for _, child in self.named_children():        # type: ignore[attr-defined]
            child.apply(fn)
        fn(self)        # type: ignore[arg-type]
        return self

    def cpu(self) -> Self:
        """The module itself, which computes on the CPU."""
        return self

    def register_parameter(self, name: str, param: Parameter | None) -> None:
        """Make a Parameter, or None, an attribute of this name. Raises TypeError for what is none, or no name."""
        if param is not None and not isinstance(param, Parameter):
            raise TypeError(f"{type(self).__name__}: param must be a Parameter or None, got {type(param).__name__}")
        _check_name(type(self).__name__, name)
        setattr(self, name, param)

    def add_module(self, name: str, module: Module) -> None:
        """Make a module an attribute of this name. Raises TypeError for what is no module, or no name."""
        if not isinstance(module, Spelled):
            raise TypeError(f"{type(self).__name__}: module must be a module, got {type(module).__name__}")
        _check_name(type(self).__name__, name)
        setattr(self, name, module)

    def children(self) -> list[Module]:
        """The modules directly inside this one, each once: cnn.Sequential(*list(model.children())[:-1]), say."""
        return list({id(child): child for _, child in self.named_children()}.values())      # type: ignore[attr-defined]

    def named_modules(self, prefix: str = "") -> Iterator[tuple[str, Module]]:
        """(name, module) of this module, whose name is `prefix`, and of all inside, each once."""
        seen: set[int] = set()
        for name, module in named_modules(self, prefix):
            if id(module) not in seen:
                seen.add(id(module))
                yield name, module

    def register_buffer(self, name: str, array: ArrayLike | None, persistent: bool = True) -> None:
        """Keep an array as an attribute of this name: something to compute with that is not trained but saved.

        array: of floats, which take the model's dtype, float32 until `to` says else, of integers or bools; it is
        copied. None: until an array is assigned. It may be assigned anew, deleted and set to None; other elements are
        seen where `forward` has the array itself beside a value. persistent: false makes it a plain attribute, which is
        not saved. Raises TypeError for what holds no numbers and for no name, ValueError for a name that the module has
        already.
        """
        owner = type(self).__name__
        _check_name(owner, name)
        buffers, later = self._buffers, vars(self).get("_later", frozenset())      # type: ignore[attr-defined]
        if name not in buffers and name not in later and hasattr(self, name):
            raise ValueError(f"{owner}: name must be that of no other attribute, got {name!r}")
        if not shapes.flag(owner, "persistent", persistent):
            buffers.pop(name, None)
            object.__setattr__(self, "_later", later - {name})
            setattr(self, name, array if array is None else _numbers(owner, name, array))
        elif array is None:
            object.__setattr__(self, "_later", later | {name})
            setattr(self, name, None)
        else:
            vars(self).pop(name, None)
            object.__setattr__(self, "_later", later - {name})
            buffers[name] = _buffer(owner, name, array)

    def buffers(self) -> list[np.ndarray]:
        """The arrays of `named_buffers`, a list."""
        return [array for _, array in self.named_buffers()]     # type: ignore[attr-defined]

    def __setattr__(self, name: str, value: Any) -> None:
        buffers, later = vars(self).get("_buffers"), vars(self).get("_later", ())
        if name in vars(self).get("parametrizations", ()):
            raise ValueError(f"{type(self).__name__}: {name} is computed: set the Parameters of "
                             f"parametrizations.{name}, or call cnn.utils.remove_parametrizations first")
        if buffers and name in buffers and not hasattr(type(self), name):
            if value is None:
                del buffers[name]
                object.__setattr__(self, "_later", frozenset((*later, name)))
                super().__setattr__(name, None)
            elif own(value) is not buffers[name]:       # self.mean += 1 has changed it already
                buffers[name] = _buffer(type(self).__name__, name, value, buffers[name].dtype)
        elif name in later and value is not None:
            self.register_buffer(name, value)
        else:
            super().__setattr__(name, value)

    def __delattr__(self, name: str) -> None:
        buffers = vars(self).get("_buffers") or {}
        if name in buffers and not hasattr(type(self), name):
            del buffers[name]
        else:
            super().__delattr__(name)

    if not TYPE_CHECKING:
        def __getattr__(self, name: str) -> Any:
            buffers = vars(self).get("_buffers") or {}
            if name in buffers:
                return seen(buffers[name], self._stamp)
            if name in vars(self).get("parametrizations", ()):
                return self.parametrizations[name].computed()
            raise hints.missing(f"{type(self).__name__!r} object", name, hints.OF_MODULES)


def _check_name(owner: str, name: object) -> None:
    """Raise TypeError for what is no name of an attribute."""
    if not isinstance(name, str) or not name or "." in name:
        raise TypeError(f"{owner}: name must be a string without dots, not empty, got {name!r}")


def _numbers(owner: str, name: str, value: ArrayLike) -> np.ndarray:
    """A copy of numbers as an array."""
    try:
        array = np.array(value)
    except ValueError:      # lists of different lengths
        raise ValueError(f"{owner}: {name} must be an array of numbers, got no array at all") from None
    if array.dtype.kind not in "fiub":
        raise TypeError(f"{owner}: {name} must be an array of numbers, got {type(value).__name__}")
    return array


def _buffer(owner: str, name: str, value: ArrayLike, dtype: np.dtype | None = None) -> np.ndarray:
    """A copy of what a module is to keep as a buffer. dtype: of the one before, whose kind the new one must have."""
    array = _numbers(owner, name, value)
    if dtype is None:
        return array.astype(np.float32) if array.dtype.kind == "f" else array
    if dtype.kind != "f" and array.dtype.kind != dtype.kind:
        raise TypeError(f"{owner}: {name} must hold {dtype}, got {array.dtype}")
    return array.astype(dtype)
