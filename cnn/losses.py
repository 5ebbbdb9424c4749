"""Losses: a value to report and the gradient to start the backward pass from."""
import numpy as np

from cnn import functional, shapes
from cnn.ops import loss as ops


class CrossEntropyLoss:
    """Softmax and log loss, the mean over the batch: L = -log softmax(z)[g].

    label_smoothing e in [0, 1] spreads e of the target evenly over the K classes; weight, (K,), gives each
    class's images another weight, and the mean becomes a weighted one. Both as PyTorch defines them.

        loss = CrossEntropyLoss()
        value = loss(logits, targets)       # logits (N, K), targets integers (N,)
        model.backward(loss.backward())     # d value / d logits, (N, K)

    Attribute `total`: what the images' losses of the last call were divided by, the sum of their weights.

    Raises TypeError or ValueError for arguments that do not fit.
    """

    def __init__(self, label_smoothing=0.0, weight=None):
        self.label_smoothing = shapes.number("CrossEntropyLoss", "label_smoothing", label_smoothing, 0, 1)
        self.weight = weight
        self._gradient = None

    def __call__(self, logits, targets):
        value, self._gradient = functional.cross_entropy(logits, targets, self.label_smoothing, self.weight)
        weight = functional.class_weights("CrossEntropyLoss", self.weight, logits.shape[1])
        self.total = float(len(targets) if weight is None else weight[np.asarray(targets)].sum())
        return value

    def backward(self):
        """The gradient by the logits of the last call."""
        if self._gradient is None:
            raise RuntimeError("CrossEntropyLoss: backward needs a call before it")
        return self._gradient

    def emit(self, program, scores, need_gradient=True):
        """Add the loss to a program; see `FusedCrossEntropy`."""
        if not scores.flat:
            raise ValueError(f"CrossEntropyLoss: the model's output must have shape (N, K), got "
                             f"(N, {', '.join(map(str, scores.shape))})")
        weight = functional.class_weights("CrossEntropyLoss", self.weight, scores.channels)
        dy, losses, correct = ops.cross_entropy(program, scores, self.label_smoothing, weight, need_gradient)
        return FusedCrossEntropy(dy, losses, correct, weight, scores.channels)


class FusedCrossEntropy:
    """A cross-entropy inside a program: what it reads before a run, what can be read after it.

    dy: the tensor of the gradient. classes: how many there are.
    """

    def __init__(self, dy, losses, correct, weight, classes):
        self.dy, self.classes = dy, classes
        self._losses, self._correct, self._weight = losses, correct, weight
        self._total = np.ones(1)

    def arrays(self, targets):
        """The program's slots for these targets, int64 (n,), which must lie in [0, classes)."""
        self._total[0] = len(targets) if self._weight is None else self._weight[targets].sum()
        return {"target": targets, "total": self._total}

    def value(self, n):
        """Sum of the n images' losses, and what to divide it by for the mean."""
        return float(self._losses[:n].sum()), float(self._total[0])

    def correct(self, n):
        """How many of the n images have their largest score at their target."""
        return int(self._correct[:n].sum())


class MSELoss:
    """Mean squared error over all elements, with gradient 2 (y - t) / count.

    Called with the prediction and the target, float arrays of one shape; returns the value (float).
    """

    def __init__(self):
        self._gradient = None

    def __call__(self, prediction, target):
        value, self._gradient = functional.mse_loss(prediction, target)
        return value

    def backward(self):
        """The gradient by the prediction of the last call."""
        if self._gradient is None:
            raise RuntimeError("MSELoss: backward needs a call before it")
        return self._gradient
