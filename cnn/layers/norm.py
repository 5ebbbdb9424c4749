"""Normalisation."""
import numpy as np

from cnn import shapes
from cnn.engine.parameter import Parameter
from cnn.layers.base import Layer
from cnn.ops import norm


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

    def emit(self, program, x, relu=False):
        self._spatial(x)
        if x.channels != self.num_features:
            raise ValueError(f"{type(self).__name__}: x must have {self.num_features} channels, got {x.channels}")
        name, training = type(self).__name__, self.training
        eps = shapes.epsilon(name, self.eps)
        w, b = (self._owned(what, (x.channels,), program.dtype) for what in ("weight", "bias"))
        running = [self._buffer(what, (x.channels,), program.dtype) for what in ("running_mean", "running_var")]
        gamma, beta = w and w.data, b and b.data
        if training:
            factor = program.per_step(1)
            tracked = self._buffer("num_batches_tracked", (), np.dtype(np.int64))
            momentum = self.momentum if self.momentum is None else shapes.number(name, "momentum", self.momentum, 0, 1)
            number = program.count(tracked)

            def begin(step):
                if program.batch * x.height * x.width == 1:
                    raise ValueError(f"{name}: x must hold more than one value per channel in training mode, got shape "
                                     f"(1, {x.channels}, 1, 1)")
                factor.array[step] = 1 / number(step) if momentum is None else momentum
            program.on_run(begin)
            kept = norm.batch_statistics(program, x, gamma, beta, eps, running, factor, relu)
        else:
            kept = norm.Norm(*running, gamma, beta, eps, relu)
        y = norm.normalise(program, x, kept)

        def backward(dy, need_dx):
            return norm.normalise_backward(program, dy, x, kept, program.gradient(w),
                                           program.gradient(b), need_dx, not training)
        return y, backward

    def _buffer(self, name, shape, dtype):
        """A buffer that the kernels can change in place."""
        array = self._buffers[name]
        usable = isinstance(array, np.ndarray) and array.flags.carray and array.shape == shape and array.dtype == dtype
        if not usable:
            raise ValueError(f"{type(self).__name__}: {name} must be a contiguous, writeable array of shape {shape} "
                             f"and dtype {dtype}, got {array!r}")
        return array

    def extra_repr(self):
        return (f"{self.num_features}, eps={self.eps}, momentum={self.momentum}"
                + ("" if self.weight else ", affine=False"))
