"""Adam and AdamW."""
from cnn import shapes
from cnn.optim.optimizer import Optimizer


class Adam(Optimizer):
    """Adam (Kingma & Ba 2015); weight_decay * w is a part of the gradient."""

    kernel, decoupled = "adam", False

    def __init__(self, params, lr=0.001, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0):
        super().__init__(params, lr, betas=betas, eps=eps, weight_decay=weight_decay)

    def _checked(self, betas, eps, weight_decay):
        name = type(self).__name__
        try:
            beta1, beta2 = betas
        except (TypeError, ValueError):
            raise ValueError(f"{name}: betas must be two numbers, got {betas!r}") from None
        return {"betas": tuple(shapes.number(name, "betas", b, 0, below=1) for b in (beta1, beta2)),
                "eps": shapes.epsilon(name, eps),
                "weight_decay": shapes.number(name, "weight_decay", weight_decay, 0)}

    def _buffers(self, options):
        return ["m", "v"]

    def _arguments(self, options):
        beta1, beta2 = options["betas"]
        return {"decoupled": self.decoupled, "beta1": beta1, "beta2": beta2, "eps": options["eps"],
                "weight_decay": options["weight_decay"]}


class AdamW(Adam):
    """Adam with decoupled weight decay, w -= lr weight_decay w (Loshchilov & Hutter 2019)."""

    decoupled = True

    def __init__(self, params, lr=0.001, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01):
        super().__init__(params, lr, betas, eps, weight_decay)
