"""Linear layer, and the flattening before it."""
import numpy as np

from cnn import shapes
from cnn.layers.base import Layer
from cnn.layers.conv import initial
from cnn.ops import linear, pointwise


class Linear(Layer):
    """y = x W^T + b.

    x: (N, in_features); weight: (out_features, in_features); bias: (out_features,); y: (N, out_features).
    init: a name from cnn.init.INITIALISERS; seed: int, or a numpy Generator to draw from.

    Raises TypeError or ValueError for arguments, and on the first use for inputs, that do not fit.
    """

    fuses_relu = True

    def __init__(self, in_features, out_features, bias=True, *, init="kaiming_uniform", seed=0,
                 dtype=np.float32):
        super().__init__()
        name = type(self).__name__
        self.in_features = shapes.integer(name, "in_features", in_features, 1)
        self.out_features = shapes.integer(name, "out_features", out_features, 1)
        self.weight, self.bias = initial(name, (self.out_features, self.in_features), bias, init, seed, dtype)

    def emit(self, program, x, relu=False):
        if not x.flat or x.channels != self.in_features:
            hint = "" if x.flat else "; put Flatten() before it"
            raise ValueError(f"{type(self).__name__}: x must have shape (N, {self.in_features}), got "
                             f"(N, {', '.join(map(str, x.shape))}){hint}")
        outputs = shapes.integer(type(self).__name__, "out_features", self.out_features, 1)
        w, b = self._weight(program, (outputs, self.in_features), outputs)
        y = linear.linear(program, x, w.data, b and b.data, outputs, relu)

        def backward(dy, need_dx):
            if relu:
                dy = pointwise.mask(program, dy, y)
            return linear.linear_backward(program, dy, x, w.data, program.gradient(w),
                                          program.gradient(b), need_dx)
        return y, backward

    def extra_repr(self):
        return f"{self.in_features}, {self.out_features}" + ("" if self.bias else ", bias=False")


class Flatten(Layer):
    """(N, C, H, W) to (N, C * H * W); vectors stay as they are. Costs nothing."""

    def emit(self, program, x):
        if x.flat:
            return x, lambda dy, need_dx: dy

        def backward(dy, need_dx):
            return program.view(dy, x.channels, x.height, x.width)
        return program.view(x, x.channels * x.height * x.width, flat=True), backward
