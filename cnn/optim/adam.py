"""Adam and AdamW."""
from __future__ import annotations

from typing import TYPE_CHECKING

from cnn import shapes
from cnn.optim.optimizer import Optimizer

if TYPE_CHECKING:
    from cnn.optim.groups import Params


class Adam(Optimizer):
    """w -= lr (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + eps) in step t, with running means m = b1 m + (1 - b1) g and v
    = b2 v + (1 - b2) g^2. Kingma & Ba 2015.

    params, lr: see `Optimizer`. betas: (b1, b2), each in [0, 1). eps: above 0. weight_decay * w is a part of g.
    amsgrad: under the root the largest v so far (Reddi et al. 2018). maximize: go up the gradient, -g in place of g.
    """

    kernel, decoupled = "adam", False
    added = {"amsgrad": False, "maximize": False}

    def __init__(self, params: Params, lr: float = 0.001, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8,
                 weight_decay: float = 0.0, amsgrad: bool = False, *, maximize: bool = False) -> None:
        super().__init__(params, lr, betas=betas, eps=eps, weight_decay=weight_decay, amsgrad=amsgrad,
                         maximize=maximize)

    def _checked(self, betas: tuple[float, float], eps: float, weight_decay: float, amsgrad: bool,
                 maximize: bool) -> dict:
        name = type(self).__name__
        try:
            beta1, beta2 = betas
        except (TypeError, ValueError):
            raise ValueError(f"{name}: betas must be two numbers, got {betas!r}") from None
        return {"betas": tuple(shapes.number(name, "betas", b, 0, below=1) for b in (beta1, beta2)),
                "eps": shapes.epsilon(name, eps),
                "weight_decay": shapes.number(name, "weight_decay", weight_decay, 0),
                "amsgrad": shapes.flag(name, "amsgrad", amsgrad), "maximize": shapes.flag(name, "maximize", maximize)}

    def _buffers(self, options: dict) -> list[str]:
        return ["m", "v", *(["v_max"] if options["amsgrad"] else [])]

    def _arguments(self, options: dict) -> dict:
        beta1, beta2 = options["betas"]
        return {"decoupled": self.decoupled, "beta1": beta1, "beta2": beta2, "eps": options["eps"],
                "weight_decay": options["weight_decay"], "maximize": options["maximize"]}


class AdamW(Adam):
    """Adam with decoupled weight decay, w -= lr weight_decay w (Loshchilov & Hutter 2019). Arguments as for Adam."""

    decoupled = True

    def __init__(self, params: Params, lr: float = 0.001, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8,
                 weight_decay: float = 0.01, amsgrad: bool = False, *, maximize: bool = False) -> None:
        super().__init__(params, lr, betas, eps, weight_decay, amsgrad, maximize=maximize)
