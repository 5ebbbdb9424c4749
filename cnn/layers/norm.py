"""Normalisation."""
import numpy as np

from cnn import shapes
from cnn.layers.base import Layer
from cnn.ops import norm
from cnn.parameter import Parameter


class BatchNorm2d(Layer):
    """y = gamma (x - mean) / sqrt(var + eps) + beta for each channel (Ioffe & Szegedy 2015), by PyTorch's rules.

    x, y: (N, num_features, H, W). In training mode mean and (biased) variance are those of the batch, and the
    running ones move towards them: r = (1 - momentum) r + momentum new, with the unbiased variance; momentum=None
    takes the mean of all batches so far. In evaluation mode the running ones are used.

    weight (gamma), bias (beta): (num_features,), or None without `affine`. running_mean, running_var:
    (num_features,) of the parameters' dtype, and num_batches_tracked: int64 (), are arrays to be changed in place;
    they are part of the state, but not parameters.

    Raises TypeError or ValueError for arguments, and on use for inputs, that do not fit: among them, in training
    mode, a batch with a single value per channel.
    """

    fuses_relu = True

    def __init__(self, num_features, eps=1e-5, momentum=0.1, affine=True, *, dtype=np.float32):
        super().__init__()
        name = type(self).__name__
        self.num_features = shapes.integer(name, "num_features", num_features, 1)
        self.eps = shapes.epsilon(name, eps)
        self.momentum = momentum if momentum is None else shapes.number(name, "momentum", momentum, 0, 1)
        if np.dtype(dtype) not in shapes.FLOATS:
            raise TypeError(f"{name}: dtype must be float32 or float64, got {np.dtype(dtype)}")
        shape = (self.num_features,)
        self.weight = Parameter(np.ones(shape, dtype)) if affine else None
        self.bias = Parameter(np.zeros(shape, dtype)) if affine else None
        self._buffers = {"running_mean": np.zeros(shape, dtype), "running_var": np.ones(shape, dtype),
                         "num_batches_tracked": np.zeros((), np.int64)}

    @property
    def running_mean(self):
        return self._buffers["running_mean"]

    @property
    def running_var(self):
        return self._buffers["running_var"]

    @property
    def num_batches_tracked(self):
        return self._buffers["num_batches_tracked"]

    @property
    def mode(self):
        return self.training, self.eps

    def emit(self, program, x, relu=False):
        self._spatial(x)
        if x.channels != self.num_features:
            raise ValueError(f"{type(self).__name__}: x must have {self.num_features} channels, got {x.channels}")
        w, b, training = self.weight, self.bias, self.training
        running = self.running_mean, self.running_var
        gamma, beta = w and w.data, b and b.data
        if training:
            factor = program.per_step(1)
            program.on_run(lambda step: self._begin(program.batch, x, factor.array[step]))
            kept = norm.batch_statistics(program, x, gamma, beta, self.eps, running, factor, relu)
        else:
            kept = norm.Norm(*running, gamma, beta, self.eps, relu)
        y = norm.normalise(program, x, kept)

        def backward(dy, need_dx):
            return norm.normalise_backward(program, dy, x, kept, w.grad if w and w.requires_grad else None,
                                           b.grad if b and b.requires_grad else None, need_dx, not training)
        return y, backward

    def _begin(self, images, x, factor):
        """Called before each forward pass in training mode; sets how far the running statistics move."""
        if images * x.height * x.width == 1:
            raise ValueError(f"{type(self).__name__}: x must hold more than one value per channel in training mode, "
                             f"got shape (1, {x.channels}, 1, 1)")
        self.num_batches_tracked[...] += 1
        factor[0] = 1 / self.num_batches_tracked if self.momentum is None else self.momentum

    def extra_repr(self):
        return (f"{self.num_features}, eps={self.eps}, momentum={self.momentum}"
                + ("" if self.weight else ", affine=False"))
