"""Updates by the twins in cnn/reference/update.py."""
from __future__ import annotations

from typing import TYPE_CHECKING

from cnn import reference

if TYPE_CHECKING:
    import numpy as np

    from cnn.optim.optimizer import Optimizer


def step(optimizer: Optimizer) -> None:
    """Update every parameter of an optimizer from its `grad`, by the twin of the optimizer's rule.

    Raises NotImplementedError for an optimizer whose rule has no twin.
    """
    rule = RULES.get(optimizer.kernel)
    if rule is None:
        raise NotImplementedError(f"{type(optimizer).__name__}: the update {optimizer.kernel!r} has no twin in "
                                  f'cnn.reference, so that backend="reference" cannot run it')
    optimizer._steps[0] += 1
    for group, first, last in optimizer._trainable():
        span = slice(first, last)
        state = {name: optimizer.state[name][span] for name in optimizer._buffers(group.options)}
        rule(optimizer._data[span], optimizer._grad[span], state, optimizer.steps, optimizer.lr * group.lr_scale,
             {**group.options, **optimizer._arguments(group.options)})


def _sgd(w: np.ndarray, g: np.ndarray, state: dict, step: int, lr: float, options: dict) -> None:
    reference.sgd_update(w, g, state.get("velocity"), lr, options["momentum"], options["nesterov"],
                         options["weight_decay"], step == 1, options["dampening"], options["maximize"])


def _adam(w: np.ndarray, g: np.ndarray, state: dict, step: int, lr: float, options: dict) -> None:
    reference.adam_update(w, g, state["m"], state["v"], step, lr, options["beta1"], options["beta2"], options["eps"],
                          options["weight_decay"], options["decoupled"], state.get("v_max"), options["maximize"])


def _rmsprop(w: np.ndarray, g: np.ndarray, state: dict, step: int, lr: float, options: dict) -> None:
    reference.rmsprop_update(w, g, state["square"], state.get("mean"), state.get("velocity"), lr, options["alpha"],
                             options["eps"], options["weight_decay"], options["momentum"], options["centered"],
                             options["maximize"])


RULES = {"sgd": _sgd, "adam": _adam, "rmsprop": _rmsprop}
