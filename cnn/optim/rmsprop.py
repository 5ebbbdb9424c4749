"""RMSprop."""
from __future__ import annotations

from typing import TYPE_CHECKING

from cnn import shapes
from cnn.optim.optimizer import Optimizer

if TYPE_CHECKING:
    from cnn.optim.groups import Params


class RMSprop(Optimizer):
    """w -= lr g / (sqrt(s) + eps), with the running mean s = alpha s + (1 - alpha) g^2 (Tieleman & Hinton 2012).

    params, lr: see `Optimizer`. alpha: in [0, 1]. eps: above 0. g includes weight_decay * w. centered: take the square
    of the running mean of g off under the root (Graves 2013). momentum and maximize as in SGD.
    """

    kernel = "rmsprop"
    added = {"maximize": False}

    def __init__(self, params: Params, lr: float = 0.01, alpha: float = 0.99, eps: float = 1e-8,
                 weight_decay: float = 0.0, momentum: float = 0.0, centered: bool = False, *,
                 maximize: bool = False) -> None:
        super().__init__(params, lr, alpha=alpha, eps=eps, weight_decay=weight_decay, momentum=momentum,
                         centered=centered, maximize=maximize)

    def _checked(self, alpha: float, eps: float, weight_decay: float, momentum: float, centered: bool,
                 maximize: bool) -> dict:
        return {"alpha": shapes.number("RMSprop", "alpha", alpha, 0, 1),
                "eps": shapes.epsilon("RMSprop", eps),
                "weight_decay": shapes.number("RMSprop", "weight_decay", weight_decay, 0),
                "momentum": shapes.number("RMSprop", "momentum", momentum, 0),
                "centered": shapes.flag("RMSprop", "centered", centered),
                "maximize": shapes.flag("RMSprop", "maximize", maximize)}

    def _buffers(self, options: dict) -> list[str]:
        return ["square", *(["mean"] if options["centered"] else []), *(["velocity"] if options["momentum"] else [])]

    def _arguments(self, options: dict) -> dict:
        return {name: options[name] for name in ("alpha", "eps", "weight_decay", "momentum", "maximize")}
