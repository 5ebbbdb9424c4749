"""Loading the parameters and buffers of modules from dicts."""
from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

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
        kinds, words = ("fiu", "numbers") if array.dtype.kind == "f" else ("iu", "integers")
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
    return left
