"""Gradients of a group of batches that go through the network one by one, because it couples the images of a batch."""
from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from cnn.layers.per_output import Parts, PerOutput, add_outputs

if TYPE_CHECKING:
    from collections.abc import Callable

    from cnn.layers import Module
    from cnn.training.step import Batch, Step


def gradients(step: Step, parts: list[Batch], compute: Callable[[Step, Batch], tuple]) -> tuple[float, float, float]:
    """Set the gradients to those of the mean loss over all parts; returns the sum of the losses, what to divide it by,
    and how many images were right.

    With L_b, w_b the mean loss of part b and what it divides by: L = sum of w_b L_b / sum of w_b, and the gradients
    likewise, added in the parts' order. Of losses that are sums: L = sum of L_b. Of a PerOutput each loss has its w_b:
    all parts divide by the sums of these. compute(step, part): sets the gradients of one part, unclipped, and returns
    the same of it.
    """
    each = step._replace(updates=False, max_grad_norm=None)
    summed = getattr(step.criterion, "reduction", "mean") == "sum"
    if by_name := isinstance(step.criterion, PerOutput):
        _divide_together(step.criterion, parts)
    outputs: dict[str, tuple[float, ...]] = {}
    model: Module = step.model      # type: ignore[assignment]
    criterion: Any = step.criterion
    parameters = [p for p in dict.fromkeys(model.parameters()) if p.requires_grad]
    sums: list[np.ndarray] = []
    loss = weight = right = 0.0
    for part in parts:
        measured = compute(each, part)
        total, share, correct = measured
        add_outputs(outputs, measured)
        factor = 1.0 if summed or by_name else share
        if sums:
            for array, p in zip(sums, parameters, strict=True):
                array += p.grad * p.dtype.type(factor)
        else:
            sums = [np.array(p.grad * p.dtype.type(factor)) for p in parameters]      # of one without axes, too
        loss, weight, right = loss + total, 1.0 if summed else weight + share, right + correct
    for array, p in zip(sums, parameters, strict=True):
        p.grad[...] = array if by_name else array / p.dtype.type(weight) if weight else 0
    step.clip()
    if by_name:
        return Parts.of(criterion, {name: (loss, 1.0 if _is_sum(criterion, name) else weight, right)
                                    for name, (loss, weight, right) in outputs.items()},
                        sum(part.count for part in parts))
    return loss, weight, right


def _divide_together(criterion: Any, parts: list[Batch]) -> None:
    """Have the losses of all parts divide by what those of the whole would."""
    each = [criterion.divisors(part.targets.reshape(part.count, *part.targets.shape[2:]) if part.dataset is not None
                               else part.labels) for part in parts]
    divisors = {name: 1.0 if _is_sum(criterion, name) else sum(found[name] for found in each) for name in each[0]}
    for part in parts:
        part.divisors = {name: divisor or 1.0 for name, divisor in divisors.items()}


def _is_sum(criterion: Any, name: str) -> bool:
    return criterion.losses[name].reduction == "sum"
