"""Parameters that are computed from others, as torch.nn.utils has them, under its names."""
import sys

from cnn.layers.parametrize import (
    is_parametrized,
    register_parametrization,
    remove_parametrizations,
    spectral_norm,
    weight_norm,
)

__all__ = ["is_parametrized", "register_parametrization", "remove_parametrizations", "spectral_norm", "weight_norm"]

# PyTorch has them in two modules, and older ones here
parametrize = parametrizations = sys.modules[__name__]
for _name in ("parametrize", "parametrizations"):
    sys.modules[f"{__name__}.{_name}"] = parametrize
