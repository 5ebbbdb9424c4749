"""Clipping gradients."""
from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cnn import shapes

if TYPE_CHECKING:
    from collections.abc import Iterable

    from cnn.engine.parameter import Parameter


def clip_grad_norm(params: Iterable[Parameter], max_norm: float) -> float:
    """Scale the gradients of `params` so that their norm, taken together, is at most max_norm.

    params: Parameters; those without `requires_grad` are left out. Returns the norm before (float), computed in
    float64. PyTorch's rule: the factor is max_norm / (norm + 1e-6), at most 1. Pascanu et al. 2013. Raises TypeError or
    ValueError unless params is a list and max_norm a number of at least 0.
    """
    max_norm = shapes.number("clip_grad_norm", "max_norm", max_norm, 0)
    params = [p for p in shapes.listed("clip_grad_norm", "params", params, "Parameters") if p.requires_grad]
    norm = float(np.sqrt(sum(float(np.square(p.grad, dtype=np.float64).sum()) for p in params)))
    factor = max_norm / (norm + 1e-6)
    if factor < 1:
        for p in params:
            p.grad *= p.dtype.type(factor)
    return norm
