"""Stochastic gradient descent."""
from __future__ import annotations

from typing import TYPE_CHECKING

from cnn import shapes
from cnn.optim.optimizer import Optimizer

if TYPE_CHECKING:
    from cnn.optim.groups import Params


class SGD(Optimizer):
    """v = momentum v + (1 - dampening) g, w -= lr v; with nesterov w -= lr (g + momentum v).

    g includes weight_decay * w. Sutskever et al. 2013, in PyTorch's form: in the first step v = g. params, lr: see
    `Optimizer`. nesterov needs a momentum above 0 and no dampening. maximize: go up the gradient, -g in place of g.
    """

    kernel = "sgd"
    added = {"dampening": 0.0, "maximize": False}

    def __init__(self, params: Params, lr: float = 0.001, momentum: float = 0.0, *, nesterov: bool = False,
                 weight_decay: float = 0.0, dampening: float = 0.0, maximize: bool = False) -> None:
        super().__init__(params, lr, momentum=momentum, nesterov=nesterov, weight_decay=weight_decay,
                         dampening=dampening, maximize=maximize)

    def _checked(self, momentum: float, nesterov: bool, weight_decay: float, dampening: float, maximize: bool) -> dict:
        nesterov = shapes.flag("SGD", "nesterov", nesterov)
        momentum = shapes.number("SGD", "momentum", momentum, 0)
        if nesterov and momentum == 0:
            raise ValueError("SGD: nesterov needs a momentum above 0, got 0")
        dampening = shapes.number("SGD", "dampening", dampening)
        if nesterov and dampening:
            raise ValueError(f"SGD: dampening must be 0 with nesterov, got {dampening:g}")
        return {"momentum": momentum, "nesterov": nesterov,
                "weight_decay": shapes.number("SGD", "weight_decay", weight_decay, 0),
                "dampening": dampening, "maximize": shapes.flag("SGD", "maximize", maximize)}

    def _buffers(self, options: dict) -> list[str]:
        return ["velocity"] if options["momentum"] else []
