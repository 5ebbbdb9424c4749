"""Stochastic gradient descent."""
from __future__ import annotations

from typing import TYPE_CHECKING

from cnn import shapes
from cnn.optim.optimizer import Optimizer

if TYPE_CHECKING:
    from cnn.optim.groups import Params


class SGD(Optimizer):
    """v = momentum v + g, w -= lr v; with nesterov w -= lr (g + momentum v); g includes weight_decay * w.

    Sutskever et al. 2013, in PyTorch's form. params, lr: see `Optimizer`. nesterov needs a momentum above 0.
    """

    kernel = "sgd"

    def __init__(self, params: Params, lr: float = 0.001, momentum: float = 0.0, nesterov: bool = False,
                 weight_decay: float = 0.0) -> None:
        super().__init__(params, lr, momentum=momentum, nesterov=nesterov, weight_decay=weight_decay)

    def _checked(self, momentum: float, nesterov: bool, weight_decay: float) -> dict:
        momentum = shapes.number("SGD", "momentum", momentum, 0)
        if nesterov and momentum == 0:
            raise ValueError("SGD: nesterov needs a momentum above 0, got 0")
        return {"momentum": momentum, "nesterov": bool(nesterov),
                "weight_decay": shapes.number("SGD", "weight_decay", weight_decay, 0)}

    def _buffers(self, options: dict) -> list[str]:
        return ["velocity"] if options["momentum"] else []
