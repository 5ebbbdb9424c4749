"""Optimizers with PyTorch's defaults and update rules.

An optimizer lays its parameters side by side in one flat array and their gradients in another, so that a
step is a single pass over them. The rules stand in _ext/update.pyx; their NumPy twins in reference.py.
"""
import numpy as np

from cnn import parameter, shapes
from cnn.memory import zeros
from cnn.plan import Program


class Optimizer:
    """Base class. `params`: a list of distinct Parameters; `lr`: the learning rate, which may be set at any time.

    Raises TypeError or ValueError for arguments that do not fit.
    """

    kernel = None       # the update's name in _ext/update.pyx
    buffers = ()        # names of the state arrays, in the kernel's words

    def __init__(self, params, lr):
        name = type(self).__name__
        try:
            params = list(params)
        except TypeError:
            raise TypeError(f"{name}: params must be a list of Parameters, got {type(params).__name__}") from None
        if not params:
            raise ValueError(f"{name}: params must hold at least one Parameter, got an empty list")
        for p in params:
            if not isinstance(p, parameter.Parameter):
                raise TypeError(f"{name}: params must be Parameters, got {type(p).__name__}")
        if len({id(p) for p in params}) != len(params):
            raise ValueError(f"{name}: params has the same Parameter more than once")
        if len({p.dtype for p in params}) > 1:
            raise ValueError(f"{name}: params must share one dtype, got "
                             f"{', '.join(sorted({str(p.dtype) for p in params}))}")
        self.params = params
        self._now = np.array([0.0, 1.0, 1.0, 1.0])      # learning rate, clipping factor, bias corrections
        self._norm = np.zeros(1)
        self.lr = lr
        self.steps = 0      # updates made so far
        self._data, self._grad = parameter.flatten(params)
        self.state = {buffer: zeros(self._data.size, self._data.dtype) for buffer in self.buffers}
        self._program = None

    @property
    def lr(self):
        return float(self._now[0])

    @lr.setter
    def lr(self, value):
        self._now[0] = shapes.number(type(self).__name__, "lr", value, 0)

    @property
    def grad_norm(self):
        """Norm of all gradients before the last clipped step (float)."""
        return float(self._norm[0])

    def options(self):
        """The kernel's sizes and scalars."""
        raise NotImplementedError

    def step(self):
        """Update every parameter from its `grad`."""
        if self._program is None or not self._program.fits(0):
            self.settle()
            self._program = Program(self._data.dtype, 1)
            self.emit(self._program)
        self._program.run(0)

    def emit(self, program, max_norm=None):
        """Add the update to a program, after everything that it holds so far; `settle` comes before.

        max_norm: scale all gradients down where their norm, taken together, is larger.
        """
        chunks, now = program.kernels.pack.chunks, self._now
        spans = [slice(a, b) for a, b in self._trainable()]
        tasks = [chunks(span.stop - span.start) for span in spans]
        if max_norm is not None:
            parts, first = np.zeros(max(1, sum(tasks))), 0
            program.cut()
            for span, count in zip(spans, tasks, strict=True):
                part = parts[first:first + count]
                program.before("square_sum", lambda span=span, part=part: dict(
                    g=self._grad[span], part=part, count=span.stop - span.start), count)
                first += count
            program.cut()
            program.before("clip_factor", lambda: dict(part=parts, now=now, norm=self._norm, count=len(parts),
                                                       max_norm=max_norm), 1)
        program.cut()
        for span, count in zip(spans, tasks, strict=True):
            program.before(self.kernel, lambda span=span: dict(
                w=self._data[span], g=self._grad[span], now=now, count=span.stop - span.start,
                **{name: values[span] for name, values in self.state.items()}, **self.options()), count)
        program.on_run(self._advance)

    def _trainable(self):
        """Where in the flat arrays the parameters lie that require gradients: [first, last), merged."""
        spans, at = [], 0
        for p in self.params:
            if p.requires_grad and spans and spans[-1][1] == at:
                spans[-1][1] = at + p.size
            elif p.requires_grad:
                spans.append([at, at + p.size])
            at += p.size
        return spans

    def _advance(self):
        """Called before each update."""
        self.steps += 1
        self._now[1] = 1.0      # no clipping, unless the program finds a factor

    def settle(self):
        """Lay the parameters side by side again where something else has moved them since."""
        at = self._data.ctypes.data
        for p in self.params:
            if p.data.ctypes.data != at or p.dtype != self._data.dtype:
                self._data, self._grad = parameter.flatten(self.params)
                self.state = {name: values.astype(self._data.dtype) for name, values in self.state.items()}
                return
            at += p.size * p.dtype.itemsize


class SGD(Optimizer):
    """v = momentum v + g, w -= lr v; with Nesterov w -= lr (g + momentum v); g includes weight_decay * w.

    Sutskever et al. 2013, in PyTorch's form.
    """

    kernel = "sgd"

    def __init__(self, params, lr=0.001, momentum=0.0, nesterov=False, weight_decay=0.0):
        self.momentum = shapes.number("SGD", "momentum", momentum, 0)
        self.weight_decay = shapes.number("SGD", "weight_decay", weight_decay, 0)
        self.nesterov = bool(nesterov)
        if self.nesterov and self.momentum == 0:
            raise ValueError("SGD: nesterov needs a momentum above 0, got 0")
        self.buffers = ("velocity",) if self.momentum else ()
        super().__init__(params, lr)

    def options(self):
        return {"nesterov": self.nesterov, "momentum": self.momentum, "weight_decay": self.weight_decay}


class Adam(Optimizer):
    """Adam (Kingma & Ba 2015); weight_decay * w is a part of the gradient."""

    kernel, buffers, decoupled = "adam", ("m", "v"), False

    def __init__(self, params, lr=0.001, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0):
        name = type(self).__name__
        try:
            beta1, beta2 = betas
        except (TypeError, ValueError):
            raise ValueError(f"{name}: betas must be two numbers, got {betas!r}") from None
        self.betas = tuple(shapes.number(name, "betas", b, 0, below=1) for b in (beta1, beta2))
        self.eps = shapes.number(name, "eps", eps, 0)
        self.weight_decay = shapes.number(name, "weight_decay", weight_decay, 0)
        super().__init__(params, lr)

    def _advance(self):
        super()._advance()
        self._now[2:] = [1 - beta**self.steps for beta in self.betas]

    def options(self):
        return {"decoupled": self.decoupled, "beta1": self.betas[0], "beta2": self.betas[1], "eps": self.eps,
                "weight_decay": self.weight_decay}


class AdamW(Adam):
    """Adam with decoupled weight decay, w -= lr weight_decay w (Loshchilov & Hutter 2019)."""

    decoupled = True

    def __init__(self, params, lr=0.001, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01):
        super().__init__(params, lr, betas, eps, weight_decay)


class RMSprop(Optimizer):
    """w -= lr g / (sqrt(s) + eps), s the running mean of g^2 (Tieleman & Hinton 2012).

    centered takes the running mean of g off under the root (Graves 2013); momentum as in SGD.
    """

    kernel = "rmsprop"

    def __init__(self, params, lr=0.01, alpha=0.99, eps=1e-8, weight_decay=0.0, momentum=0.0, centered=False):
        self.alpha = shapes.number("RMSprop", "alpha", alpha, 0, 1)
        self.eps = shapes.number("RMSprop", "eps", eps, 0)
        self.weight_decay = shapes.number("RMSprop", "weight_decay", weight_decay, 0)
        self.momentum = shapes.number("RMSprop", "momentum", momentum, 0)
        self.centered = bool(centered)
        self.buffers = ("square", *(["mean"] if self.centered else []), *(["velocity"] if self.momentum else []))
        super().__init__(params, lr)

    def options(self):
        return {"alpha": self.alpha, "eps": self.eps, "weight_decay": self.weight_decay,
                "momentum": self.momentum}


OPTIMIZERS = {"sgd": SGD, "adam": Adam, "adamw": AdamW, "rmsprop": RMSprop}


def clip_grad_norm(params, max_norm):
    """Scale the gradients of `params` so that their norm, taken together, is at most max_norm.

    Returns the norm before (float), computed in float64. PyTorch's rule: the factor is
    max_norm / (norm + 1e-6), at most 1.
    """
    max_norm = shapes.number("clip_grad_norm", "max_norm", max_norm, 0)
    params = [p for p in params if p.requires_grad]
    norm = float(np.sqrt(sum(float(np.square(p.grad, dtype=np.float64).sum()) for p in params)))
    factor = max_norm / (norm + 1e-6)
    if factor < 1:
        for p in params:
            p.grad *= p.dtype.type(factor)
    return norm
