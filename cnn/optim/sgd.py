"""Stochastic gradient descent."""
from cnn import shapes
from cnn.optim.optimizer import Optimizer


class SGD(Optimizer):
    """v = momentum v + g, w -= lr v; with Nesterov w -= lr (g + momentum v); g includes weight_decay * w.

    Sutskever et al. 2013, in PyTorch's form.
    """

    kernel = "sgd"

    def __init__(self, params, lr=0.001, momentum=0.0, nesterov=False, weight_decay=0.0):
        super().__init__(params, lr, momentum=momentum, nesterov=nesterov, weight_decay=weight_decay)

    def _checked(self, momentum, nesterov, weight_decay):
        momentum = shapes.number("SGD", "momentum", momentum, 0)
        if nesterov and momentum == 0:
            raise ValueError("SGD: nesterov needs a momentum above 0, got 0")
        return {"momentum": momentum, "nesterov": bool(nesterov),
                "weight_decay": shapes.number("SGD", "weight_decay", weight_decay, 0)}

    def _buffers(self, options):
        return ["velocity"] if options["momentum"] else []
