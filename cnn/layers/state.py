"""Loading the parameters and buffers of modules from dicts."""
from collections.abc import Mapping

import numpy as np


def load_state(module, state):
    """See Module.load_state_dict."""
    owner, own = type(module).__name__, dict(module._state())
    if not isinstance(state, Mapping):
        raise TypeError(f"{owner}: state must be a dict of arrays, got {type(state).__name__}")
    if set(own) != set(state):
        raise ValueError(f"{owner}: state_dict has missing names {sorted(set(own) - set(state))} and "
                         f"unknown names {sorted(set(state) - set(own))}")
    values = {}
    for name, array in own.items():
        try:
            values[name] = np.asarray(state[name])
        except ValueError:      # lists of different lengths
            raise ValueError(f"{owner}: {name} must have shape {array.shape}, got no array at all") from None
        kinds, words = ("fiu", "numbers") if array.dtype.kind == "f" else ("iu", "integers")
        if values[name].dtype.kind not in kinds:
            raise TypeError(f"{owner}: {name} must hold {words}, got {values[name].dtype}")
        if values[name].shape != array.shape:
            raise ValueError(f"{owner}: {name} must have shape {array.shape}, got {values[name].shape}")
    for name, array in own.items():
        array[...] = values[name]
