"""Gradients of a group of batches that go through the network one by one, because it couples the images of a batch."""
from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np

    from cnn.layers import Module
    from cnn.training.step import Batch, Step


def gradients(step: Step, parts: list[Batch], compute: Callable[[Step, Batch], tuple]) -> tuple[float, float, float]:
    """Set the gradients to those of the mean loss over all parts; returns the sum of the losses, what to divide it by,
    and how many images were right.

    With L_b, w_b the mean loss of part b and what it divides by: L = sum of w_b L_b / sum of w_b, and the gradients
    likewise, added in the parts' order. Of losses that are sums: L = sum of L_b. compute(step, part): sets the
    gradients of one part, unclipped, and returns the same of it.
    """
    each = step._replace(updates=False, max_grad_norm=None)
    summed = getattr(step.criterion, "reduction", "mean") == "sum"
    model: Module = step.model      # type: ignore[assignment]
    parameters = [p for p in dict.fromkeys(model.parameters()) if p.requires_grad]
    sums: list[np.ndarray] = []
    loss = weight = right = 0.0
    for part in parts:
        total, share, correct = compute(each, part)
        factor = 1.0 if summed else share
        if sums:
            for array, p in zip(sums, parameters, strict=True):
                array += p.grad * p.dtype.type(factor)
        else:
            sums = [p.grad * p.dtype.type(factor) for p in parameters]
        loss, weight, right = loss + total, 1.0 if summed else weight + share, right + correct
    for array, p in zip(sums, parameters, strict=True):
        p.grad[...] = array / p.dtype.type(weight) if weight else 0
    step.clip()
    return loss, weight, right
