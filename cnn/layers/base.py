"""The base class of all layers."""
import math
from collections.abc import Mapping

import numpy as np

from cnn import parameter, shapes
from cnn.parameter import Parameter
from cnn.plan import Program, circumstances


class Layer:
    """A differentiable function with parameters.

    A layer that runs in the kernels defines `emit(program, x)`, which adds its operations to a program
    and returns the output tensor and a function `backward(dy, need_dx)` that adds those of the backward
    pass and returns dx. A layer written in NumPy defines `forward(x)` and `backward(dy, need_dx=True)`
    instead. Both kinds mix in a `Sequential`.

    Attributes: `training` (see `train` and `eval`). A layer with state besides its parameters keeps it in
    `_buffers`, arrays by name that are only ever changed in place. A layer with `fuses_relu` takes
    `emit(program, x, relu=True)` for a ReLU that follows it.
    """

    fuses_relu = False

    def __init__(self):
        self.training = True
        self._buffers = {}
        self._programs = {}
        self._last = None

    # ------------------------------------------------------------ running

    def emit(self, program, x):
        raise NotImplementedError(f"{type(self).__name__} has neither emit nor forward")

    @property
    def fused(self):
        """Whether the layer can be a part of a larger program."""
        return type(self).emit is not Layer.emit

    @property
    def dtype(self):
        """Number type of the parameters and buffers; None where there are none, and any will do."""
        return next((array.dtype for layer in self.modules() for _, array in layer._own_state()
                     if array.dtype in shapes.FLOATS), None)

    def __call__(self, x):
        return self.forward(x)

    def forward(self, x):
        """Return y for x: (N, C, H, W) or (N, features), float32 or float64 as the parameters are.

        N may be 0. In training mode what `backward` needs is kept; in evaluation mode it is not.
        Raises TypeError or ValueError where dtype or shape do not fit the layer.
        """
        x = self._checked("x", x)
        program, shape = self._program(x)
        y = np.empty((len(x), *shape), x.dtype)
        program.run(len(x), "forward", x=x, y=y)
        self._last = (program, x.shape, y.shape) if self.training else None
        return y

    def backward(self, dy, need_dx=True):
        """Set every parameter's `grad` and return dx, for the last `forward` in training mode.

        dy: the gradient of the loss by y, of y's shape and dtype. Returns dx of x's shape, or None
        without `need_dx`. Raises RuntimeError where there was no such forward.
        """
        if self._last is None:
            raise RuntimeError(f"{type(self).__name__}: backward needs a forward in training mode before it")
        program, x_shape, y_shape = self._last
        if not program.fits(0):
            raise RuntimeError(f"{type(self).__name__}: the parameters have moved since the last forward (a new "
                               f"optimizer, another dtype, ...): call forward again before backward")
        dy = shapes.array(type(self).__name__, "dy", dy, y_shape, program.dtype)
        phase = "backward" if need_dx else "backward to parameters"
        if not program.has(phase):
            program.begin(phase)
            t = program.result
            dx = program.backward(program.input(t.channels, t.height, t.width, t.flat, "dy"), need_dx)
            if need_dx:
                program.output(dx, "dx")
        dx = np.empty(x_shape, program.dtype) if need_dx else None
        program.run(len(dy), phase, dy=dy, **({"dx": dx} if need_dx else {}))
        return dx

    def _checked(self, name, x):
        """x as a contiguous array that the kernels can read."""
        owner = type(self).__name__
        x = shapes.images(owner, name, x, self.dtype)
        if 0 in x.shape[1:]:
            raise ValueError(f"{owner}: every image of {name} must have pixels, got shape {x.shape}")
        shapes.element_count(owner, *x.shape)
        return x

    def _program(self, x):
        """The program for such inputs, and the shape of one output."""
        key = x.shape[1:], x.dtype, self._modes(), circumstances()
        program = self._programs.get(key)
        if program is None or not program.fits(len(x)):
            if len(self._programs) >= 8:
                self._programs.clear()
            program = Program(x.dtype, len(x), keep=self.training)
            t = program.input(*x.shape[1:], flat=x.ndim == 2)
            program.result, program.backward = self.emit(program, t)
            program.output(program.result)
            self._programs[key] = program
        return program, program.result.shape

    def _modes(self):
        """Everything besides shapes that a program depends on."""
        return tuple(layer.mode for layer in self.modules())

    @property
    def mode(self):
        """What this layer's operations depend on besides shapes; compared with ==."""
        return self.training

    # ------------------------------------------------------------ parts

    def children(self):
        """(name, layer) of the layers directly inside this one."""
        return []

    def modules(self):
        """This layer and all layers inside it."""
        yield self
        for _, child in self.children():
            yield from child.modules()

    def own_parameters(self):
        """(name, Parameter) of this layer itself."""
        return [(name, value) for name, value in vars(self).items() if isinstance(value, Parameter)]

    def named_parameters(self, prefix=""):
        """List of (name, Parameter), named as PyTorch does: "0.weight", "3.bias"."""
        result = [(prefix + name, p) for name, p in self.own_parameters()]
        for name, child in self.children():
            result += child.named_parameters(f"{prefix}{name}.")
        return result

    def parameters(self):
        """List of all Parameters."""
        return [p for _, p in self.named_parameters()]

    def named_buffers(self, prefix=""):
        """List of (name, array) of what is saved with the parameters but not learnt: running statistics."""
        result = [(prefix + name, array) for name, array in self._buffers.items()]
        for name, child in self.children():
            result += child.named_buffers(f"{prefix}{name}.")
        return result

    # ------------------------------------------------------------ state

    def train(self, mode=True):
        """Switch to training mode (dropout drops); returns the layer."""
        for layer in self.modules():
            layer.training = bool(mode)
        return self

    def eval(self):
        """Switch to evaluation mode; returns the layer."""
        return self.train(False)

    def to(self, dtype):
        """Change all parameters and buffers to float32 or float64, in place; returns the layer."""
        for p in self.parameters():
            p.to(dtype)
        for layer in self.modules():
            layer._buffers = parameter.converted(layer._buffers, dtype)
        self._programs.clear()
        self._last = None
        return self

    def _own_state(self):
        """(name, array) of this layer's own parameters and buffers."""
        return [*((name, p.data) for name, p in self.own_parameters()), *self._buffers.items()]

    def _state(self, prefix=""):
        """List of (name, array) of all parameters and buffers, in PyTorch's order."""
        result = [(prefix + name, array) for name, array in self._own_state()]
        for name, child in self.children():
            result += child._state(f"{prefix}{name}.")
        return result

    def state_dict(self):
        """Copies of all parameters and buffers by name."""
        return {name: array.copy() for name, array in self._state()}

    def load_state_dict(self, state):
        """Take over parameters and buffers from a dict such as `state_dict` returns (a PyTorch model's, as arrays,
        fits).

        Raises, before anything is changed, ValueError where names are missing or unknown or a shape differs,
        TypeError where something holds no numbers, or no integers where it counts.
        """
        owner, own = type(self).__name__, dict(self._state())
        if not isinstance(state, Mapping):
            raise TypeError(f"{owner}: state must be a dict of arrays, got {type(state).__name__}")
        if set(own) != set(state):
            raise ValueError(f"{owner}: state_dict has missing names {sorted(set(own) - set(state))} and "
                             f"unknown names {sorted(set(state) - set(own))}")
        values = {}
        for name, array in own.items():
            try:
                values[name] = np.asarray(state[name])
            except ValueError:      # lists of different lengths
                raise ValueError(f"{owner}: {name} must have shape {array.shape}, got no array at all") from None
            kinds, words = ("fiu", "numbers") if array.dtype.kind == "f" else ("iu", "integers")
            if values[name].dtype.kind not in kinds:
                raise TypeError(f"{owner}: {name} must hold {words}, got {values[name].dtype}")
            if values[name].shape != array.shape:
                raise ValueError(f"{owner}: {name} must have shape {array.shape}, got {values[name].shape}")
        for name, array in own.items():
            array[...] = values[name]

    # ------------------------------------------------------------ words

    def summary(self, shape):
        """What it is made of, as a table to print or to read (cnn.layers.summary.Summary): each layer's output
        shape, parameters, multiply-adds and memory for one image of `shape`, (C, H, W) or (features,); totals.

        Layers written in NumPy get an image of zeros to work on, in evaluation mode.
        Raises TypeError or ValueError for a shape that does not fit the model.
        """
        from cnn.layers.summary import summarise  # here, because it knows the containers
        return summarise(self, shape)

    def multiply_adds(self, x_shape, y_shape):
        """Multiplications with this layer's own weights in the forward pass of one image (int), padding included.

        x_shape, y_shape: of one image, (C, H, W) or (features,). Every weight of two axes or more counts once
        for each pixel of y, as is right for convolutions and linear layers; others define it anew.
        """
        weights = sum(p.size for _, p in self.own_parameters() if p.data.ndim > 1)
        return weights * math.prod(y_shape[1:])

    def extra_repr(self):
        """What stands between the brackets of `repr`."""
        return ""

    def __repr__(self):
        inside = [f"  ({name}): " + repr(child).replace("\n", "\n  ") for name, child in self.children()]
        if inside:
            return "\n".join([f"{type(self).__name__}(", *inside, ")"])
        return f"{type(self).__name__}({self.extra_repr()})"

    def _spatial(self, x):
        """Refuse vectors where images are wanted."""
        if x.flat:
            raise ValueError(f"{type(self).__name__}: x must have shape (N, C, H, W), got (N, {x.channels})")
