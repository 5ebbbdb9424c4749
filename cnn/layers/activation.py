"""Activations and dropout: one function, element by element. Any shape (N, C, H, W) or (N, features)."""
import numpy as np

from cnn import shapes
from cnn.layers.base import Layer
from cnn.ops import pointwise


class _Activation(Layer):
    """kernel: name of the forward kernel; saved: what the backward kernel needs besides dy, "x" or "y"."""

    kernel = saved = None

    def scalars(self):
        return {}

    def emit(self, program, x):
        y = pointwise.forward(program, self.kernel, x, **self.scalars())
        kept = x if self.saved == "x" else y

        def backward(dy, need_dx):
            if need_dx:
                return pointwise.backward(program, self.kernel, dy, kept, self.saved, **self.scalars())
            return None
        return y, backward


class ReLU(_Activation):
    """max(x, 0); its derivative at 0 is 0. NaN stays NaN."""

    kernel, saved = "relu", "y"


class LeakyReLU(_Activation):
    """x where x > 0, else negative_slope * x."""

    kernel, saved = "leaky_relu", "x"

    def __init__(self, negative_slope=0.01):
        super().__init__()
        self.negative_slope = shapes.number("LeakyReLU", "negative_slope", negative_slope)

    def scalars(self):
        return {"slope": self.negative_slope}

    def extra_repr(self):
        return f"negative_slope={self.negative_slope}"


class Tanh(_Activation):
    """tanh(x), with derivative 1 - y^2."""

    kernel, saved = "tanh", "y"


class Sigmoid(_Activation):
    """1 / (1 + exp(-x)), with derivative y (1 - y)."""

    kernel, saved = "sigmoid", "y"


class Dropout(Layer):
    """Zeroes each element with probability p while training and scales the others by 1 / (1 - p).

    Srivastava et al. 2014. The mask depends on the seed, the number of the forward pass, the image's
    place in the batch and the element: the same for any number of threads. Without a seed, a `Sequential`
    gives each of its dropout layers another. `step` (int) counts the forward passes in training mode and may
    be set, so that a resumed run draws the same masks.

    Raises ValueError unless 0 <= p <= 1.
    """

    def __init__(self, p=0.5, *, seed=None):
        super().__init__()
        self.p = p
        self.seed = seed if seed is None else shapes.integer("Dropout", "seed", seed, 0, 2**32 - 1)
        self._key = np.array([self.seed or 0, 0], np.uint64)

    @property
    def p(self):
        return self._p

    @p.setter
    def p(self, value):
        self._p = shapes.number("Dropout", "p", value, 0, 1)

    @property
    def mode(self):
        return self.training, self.p

    @property
    def number(self):
        """What the masks are drawn with: the seed or, where none was given, the layer's number in its model."""
        return int(self._key[0])

    @number.setter
    def number(self, value):
        self._key[0] = shapes.integer("Dropout", "number", value, 0, 2**32 - 1)

    @property
    def step(self):
        return int(self._key[1])

    @step.setter
    def step(self, value):
        self._key[1] = shapes.integer("Dropout", "step", value, 0, 2**32 - 1)

    def _advance(self):
        self._key[1] = (int(self._key[1]) + 1) % 2**32

    def emit(self, program, x):
        if not self.training or self.p == 0:
            return x, lambda dy, need_dx: dy
        program.on_run(self._advance)
        y = pointwise.dropout(program, x, self._key, self.p)
        return y, lambda dy, need_dx: pointwise.dropout(program, dy, self._key, self.p) if need_dx else None

    def extra_repr(self):
        return f"p={self.p}"
