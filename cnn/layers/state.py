"""Loading the parameters and buffers of modules from dicts, and freezing by name what was frozen."""
from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from cnn import shapes
from cnn.layers.parts import named_modules

if TYPE_CHECKING:
    from cnn.layers.module import Module


class IncompatibleKeys(NamedTuple):
    """What `Module.load_state_dict` has left out; printed, it says so in words.

    missing_keys: names in the module that the state does not have. unexpected_keys: names in the state that the module
    does not have. mismatched_keys: (name, shape in the state, shape in the module) of arrays of another shape. Lists,
    all empty where the state fits.
    """

    missing_keys: list[str]
    unexpected_keys: list[str]
    mismatched_keys: list[tuple[str, tuple[int, ...], tuple[int, ...]]]

    def __str__(self) -> str:
        shapes = [f"{name} {given} for {wanted}" for name, given, wanted in self.mismatched_keys]
        named = {"missing": self.missing_keys, "unexpected": self.unexpected_keys, "of another shape": shapes}
        return "; ".join(f"{words}: {', '.join(names)}" for words, names in named.items() if names) or "all keys match"


def load_state(module: Module, state: Mapping, strict: bool = True) -> IncompatibleKeys:
    """See Module.load_state_dict."""
    owner, own = type(module).__name__, dict(module._state())
    if not isinstance(state, Mapping):
        raise TypeError(f"{owner}: state must be a dict of arrays, got {type(state).__name__}")
    missing, unexpected = [name for name in own if name not in state], [name for name in state if name not in own]
    left = IncompatibleKeys(missing, unexpected, [])
    if strict and (left.missing_keys or left.unexpected_keys):
        raise ValueError(f"{owner}: state_dict has missing names {sorted(left.missing_keys)} and "
                         f"unknown names {sorted(map(str, left.unexpected_keys))}")
    values = {}
    for name, array in own.items():
        if name not in state:
            continue
        try:
            value = np.asarray(state[name])
        except ValueError:      # lists of different lengths
            raise ValueError(f"{owner}: {name} must have shape {array.shape}, got no array at all") from None
        kinds, words = {"f": ("fiub", "numbers"), "b": ("b", "bools")}.get(array.dtype.kind, ("iu", "integers"))
        if value.dtype.kind not in kinds:
            raise TypeError(f"{owner}: {name} must hold {words}, got {value.dtype}")
        if value.shape == array.shape:
            values[name] = value
        elif strict:
            raise ValueError(f"{owner}: {name} must have shape {array.shape}, got {value.shape}")
        else:
            left.mismatched_keys.append((name, value.shape, array.shape))
    if not values and own:
        raise ValueError(f"{owner}: the state has nothing that fits: {left}")
    for name, value in values.items():
        own[name][...] = value
    for part in module.modules():
        if part._buffers and not type(part).__module__.startswith("cnn."):
            part._stamp.new()       # its `forward` may have computed something from a buffer
    return left


def frozen_names(module: Module) -> list[str]:
    """Names of the layers, the module itself being "", and of the parameters that are frozen."""
    return [*(name for name, layer in named_modules(module) if layer._frozen),
            *(name for name, p in module._named("") if p._frozen)]


def freeze_names(module: Module, names: list[str]) -> None:
    """Freeze the layers and parameters that `frozen_names` has named. Raises ValueError where there is none of a
    name."""
    layers, parameters = dict(named_modules(module)), dict(module._named(""))
    if unknown := [name for name in names if name not in layers and name not in parameters]:
        raise ValueError(f"{type(module).__name__}: there must be a layer or a parameter of the name to freeze, got "
                         f"{shapes.shown(unknown[0])}")
    for name in names:
        if name in layers:
            layers[name]._frozen = True
            layers[name].training = layers[name]._mode
        else:
            parameters[name]._frozen = True
