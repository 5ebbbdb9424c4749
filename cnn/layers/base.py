"""The base class of all layers."""
import functools
import inspect
import math
import threading
from collections.abc import Mapping
from contextlib import contextmanager

import numpy as np

from cnn import shapes
from cnn._ext.guard import Guard
from cnn.engine import parameter
from cnn.engine.parameter import Parameter
from cnn.engine.plan import LANES, Program, circumstances
from cnn.engine.programs import Pool, Use, guards, left_to_emit
from cnn.engine.watch import Stamp, WatchedDict

# Attributes that are no state; those, and what stands in a program's key itself, are changed without a new stamp.
_TRANSIENT = {"_stamp", "_known", "_programs", "_guard", "_last", "_runs", "_ran", "_keeps"}
_UNWATCHED = _TRANSIENT | {"training", "_mode", "_training", "_frozen"}
# of each thread: `evaluating`, ids of the layers in evaluation mode; `training`, whether what runs is a part of
# something in training mode; `watch`, see `watching`
_thread = threading.local()


class Layer:
    """A differentiable function with parameters.

    A layer that runs in the kernels defines `emit(program, x)`, which adds its operations to a program
    and returns the output tensor and a function `backward(dy, need_dx)` that adds those of the backward
    pass and returns dx. A layer written in NumPy defines `forward(x)` and `backward(dy, need_dx=True)`
    instead. Both kinds mix in a `Sequential`. A subclass that overrides `forward`, `backward` or `__call__` of a
    layer with kernels is of the second kind: its methods are called.

    Attributes that are layers or Parameters (or lists of layers) are a part of the layer: they are trained and saved.

    Attributes: `training` (see `train`, `eval` and `freeze`). A layer with state besides its parameters keeps it in
    `_buffers`, arrays by name. A layer with `fuses_relu` takes `emit(program, x, relu=True)` for a ReLU that follows
    it.

    From any number of threads at once a layer may be called in evaluation mode; the results are those of one thread.
    Calls in training mode wait for one another.
    """

    fuses_relu = False

    def __new__(cls, *arguments, **more):
        layer = super().__new__(cls)
        vars(layer).update(_stamp=Stamp(), _known=None, _programs=Pool(), _guard=Guard(), _last=None, _runs=None,
                           _ran=None, _keeps=False)     # before any attribute is set
        return layer

    def __init__(self):
        self._mode, self._training, self._frozen = True, True, False
        self._buffers = {}

    def __setattr__(self, name, value):
        super().__setattr__(name, WatchedDict(self._stamp, value) if name == "_buffers" else value)
        if name not in _UNWATCHED:
            self._stamp.new()

    def __delattr__(self, name):
        super().__delattr__(name)
        self._stamp.new()

    def __getstate__(self):
        return {name: value for name, value in vars(self).items() if name not in _TRANSIENT}

    def __setstate__(self, state):
        for name, value in state.items():
            setattr(self, name, value)

    # ------------------------------------------------------------ running

    def emit(self, program, x):
        raise NotImplementedError(f"{type(self).__name__} has neither emit nor forward")

    emit.abstract = True

    @property
    def fused(self):
        """Whether the layer can be a part of a larger program."""
        return _left_to_emit(self) and all(child.fused for _, child in self.children())

    @property
    def dtype(self):
        """Number type of the parameters and buffers; None where there are none, and any will do."""
        return self._parts().dtype

    def __call__(self, x):
        watch = getattr(_thread, "watch", None)
        if watch is not None:
            return watch(self, x)
        if _left_to_emit(self):
            return self.forward(x)
        with self._in_training():
            return self.forward(x)

    def forward(self, x):
        """Return y for x: (N, C, H, W) or (N, features), float32 or float64 as the parameters are.

        N may be 0. Where a layer of the model is in training mode, what `backward` needs is kept; otherwise it is not.
        Raises TypeError or ValueError where dtype or shape do not fit the layer, RuntimeError where another thread is
        training the model (Trainer.fit).
        """
        x = self._checked("x", x)
        parts = self._parts()
        modes = parts.modes(self)
        training = True in modes or getattr(_thread, "training", False)
        key = _key(x, parts, modes, training)
        use = Use(type(self).__name__)
        try:
            use.take(parts.guards, alone=False)
            if training:
                use.take((self._guard,), alone=True)
                return self._forward_in_training(key, x)
            last = self._last
            if last is not None and last.thread == threading.get_ident():
                self._last = None
                self._programs.give(last.program)
            program = None
            try:
                program = self._programs.borrow(use, key, len(x), lambda: self._written(x, False))
                y = np.empty((len(x), *program.result.shape), x.dtype)
                program.run(len(x), x=x, y=y)
                return y
            finally:
                self._programs.give(program, use)
        finally:
            use.leave()

    def _forward_in_training(self, key, x):
        last, me = self._last, threading.get_ident()
        # from here on the activations of the last forward are gone
        self._last = None
        lost = frozenset() if last is None else (last.lost | {last.thread}) - {me}
        if last is not None and last.program.made_from == key and last.program.images >= len(x):
            program = last.program
        else:
            if last is not None:
                self._programs.give(last.program)
            program = self._programs.take(key, len(x), lambda: self._written(x, True))
        y = np.empty((len(x), *program.result.shape), x.dtype)
        program.run(len(x), x=x, y=y)
        self._last = _Last(program, self._parts().key, x.shape, y.shape, me, lost)
        return y

    def backward(self, dy, need_dx=True):
        """Set every parameter's `grad` and return dx, for the last `forward` in training mode.

        dy: the gradient of the loss by y, of y's shape and dtype. Returns dx of x's shape, or None
        without `need_dx`. The gradient of a parameter that is used several times is the sum over its uses. Raises
        RuntimeError where there was no such forward, or the model has changed since.
        """
        owner, last = type(self).__name__, self._last
        if last is None:
            raise RuntimeError(f"{owner}: backward needs a forward in training mode before it")
        if threading.get_ident() in last.lost:
            raise RuntimeError(f"{owner}: another thread has called forward in training mode since this one did: one "
                               f"thread at a time can train a model")
        parts, program = self._parts(), last.program
        if parts.key != last.made_of:
            raise RuntimeError(f"{owner}: the parameters have moved or the model has changed since the last forward (a "
                               f"new optimizer, another dtype or layer, ...): call forward again before backward")
        dy = shapes.array(owner, "dy", dy, last.y_shape, program.dtype)
        phase = "backward", bool(need_dx), *(p.requires_grad for p in parts.parameters)
        use = Use(owner)
        try:
            use.take(parts.guards, alone=False)
            use.take((self._guard,), alone=True)
            if not program.has(phase):
                program.begin(phase)
                t = program.result
                dx = program.backward(program.input(t.channels, t.height, t.width, t.flat, "dy"), need_dx)
                if need_dx:
                    program.output(dx, "dx")
                program.add_gradients()
            dx = np.empty(last.x_shape, program.dtype) if need_dx else None
            program.run(len(dy), phase, dy=dy, **({"dx": dx} if need_dx else {}))
            return dx
        finally:
            use.leave()

    @contextmanager
    def _in_training(self):
        """For what runs layer after layer: whether there is to be a backward pass, because one of them is in training
        mode. Then all inside keep what they need for it, and one thread at a time runs them."""
        use, outer = Use(type(self).__name__), getattr(_thread, "training", False)
        try:
            training = outer or True in self._parts().modes(self)
            if training:
                use.take((self._guard,), alone=True)
            _thread.training = training
            yield training
        finally:
            _thread.training = outer
            use.leave()

    def _refuse_repeated(self):
        """Raise ValueError where the gradient would be that of one of several uses."""
        if (name := self._parts().twice) is not None:
            raise ValueError(f"{type(self).__name__}: {name} is used more than once in a model with layers in NumPy: "
                             f"its gradient, the sum over all uses, is not supported there; give each use a layer of "
                             f"its own")

    def _checked(self, name, x):
        """x as a contiguous array that the kernels can read."""
        owner = type(self).__name__
        x = shapes.images(owner, name, x, self.dtype)
        if 0 in x.shape[1:]:
            raise ValueError(f"{owner}: every image of {name} must have pixels, got shape {x.shape}")
        shapes.element_count(owner, *x.shape)
        return x

    def _written(self, x, gradients):
        """A program for such images, for some more of them where nothing need be kept of each."""
        images = len(x) if gradients else LANES << max(0, -(-len(x) // LANES) - 1).bit_length()
        program = Program(x.dtype, images, keep=gradients, gradients=gradients)
        t = program.input(*x.shape[1:], flat=x.ndim == 2)
        program.result, program.backward = program.write_layer(self, t)
        program.output(program.result)
        program.compile()
        parts = self._parts()       # as writing has left them: a layer may note things in attributes
        program.made_from = _key(x, parts, parts.modes(self), gradients)
        return program

    # ------------------------------------------------------------ parts

    def _parts(self):
        """All layers and parameters inside, looked up anew only where something has changed."""
        parts = self._known
        if parts is None or not parts.current():
            parts = self._known = _Parts(self)
        return parts

    def made_of(self):
        """A tuple that compares equal as long as no layer or parameter inside is replaced, moved or set otherwise."""
        return self._parts().key

    def modes(self):
        """Which of `modules` are in training mode, in this thread: a tuple of bools."""
        return self._parts().modes(self)

    def children(self):
        """(name, layer) of the layers directly inside this one: its attributes, and what lists among them hold."""
        result = []
        for name, value in vars(self).items():
            if isinstance(value, Layer):
                result.append((name, value))
            elif isinstance(value, (list, tuple)):
                result += [(f"{name}.{i}", layer) for i, layer in enumerate(value) if isinstance(layer, Layer)]
        return result

    def modules(self):
        """This layer and all layers inside it."""
        yield self
        for _, child in self.children():
            yield from child.modules()

    def own_parameters(self):
        """(name, Parameter) of this layer itself."""
        return [(name, value) for name, value in vars(self).items() if isinstance(value, Parameter)]

    def named_parameters(self, prefix=""):
        """List of (name, Parameter), named as PyTorch does: "0.weight", "3.bias"; one that several layers share is
        listed once."""
        result = {}
        for name, p in self._named(prefix):
            result.setdefault(id(p), (name, p))
        return list(result.values())

    def _named(self, prefix):
        """As `named_parameters`, shared ones under each of their names."""
        result = [(prefix + name, p) for name, p in self.own_parameters()]
        for name, child in self.children():
            result += child._named(f"{prefix}{name}.")
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
        """Switch to training mode (dropout drops), but for frozen layers; returns the layer."""
        for layer in self.modules():
            layer.training = bool(mode)
        return self

    def eval(self):
        """Switch to evaluation mode; returns the layer."""
        return self.train(False)

    @property
    def training(self):
        """Whether the layer is in training mode; in this thread, where a Trainer is measuring in it."""
        return self._training and id(self) not in getattr(_thread, "evaluating", ())

    @training.setter
    def training(self, value):
        self._mode = bool(value)
        self._training = self._mode and not self._frozen

    def freeze(self):
        """Keep this layer and all inside as they are until `unfreeze`, whatever `train` says; returns the layer.

        It stays in evaluation mode (norms use their running statistics and leave them alone, dropout does nothing)
        and its parameters get no gradients and no updates.
        """
        return self._set_frozen(True)

    def unfreeze(self):
        """Undo `freeze`: mode and `requires_grad` are what they would be without it; returns the layer."""
        return self._set_frozen(False)

    def _set_frozen(self, frozen):
        for layer in self.modules():
            layer._frozen = frozen
            layer.training = layer._mode
            for _, p in layer.own_parameters():
                p._frozen = frozen
        return self

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

    def _owned(self, name, shape, dtype):
        """The Parameter of that name, or None where there is none; raises where it does not fit the layer."""
        p, owner = getattr(self, name), type(self).__name__
        if p is None:
            return None
        if not isinstance(p, Parameter):
            raise TypeError(f"{owner}: {name} must be a Parameter or None, got {type(p).__name__}")
        if p.shape != shape or p.dtype != dtype:
            raise ValueError(f"{owner}: {name} must have shape {shape} and dtype {dtype}, got {p.shape} and {p.dtype}")
        return p

    def _weight(self, program, shape, outputs):
        """The Parameters `weight`, of this shape, and `bias` or None."""
        w = self._owned("weight", shape, program.dtype)
        if w is None:
            raise TypeError(f"{type(self).__name__}: weight must be a Parameter, got None")
        return w, self._owned("bias", (outputs,), w.dtype)

    def _spatial(self, x):
        """Refuse vectors where images are wanted."""
        if x.flat:
            raise ValueError(f"{type(self).__name__}: x must have shape (N, C, H, W), got (N, {x.channels})")


def _key(x, parts, modes, training):
    """What a program for such images is made from."""
    return x.shape[1:], x.dtype, parts.key, modes, training, circumstances()


class _Last:
    """The last forward in training mode: its program, what the model was made of, and threads whose own forward was
    lost to later ones."""

    __slots__ = ("lost", "made_of", "program", "thread", "x_shape", "y_shape")

    def __init__(self, program, made_of, x_shape, y_shape, thread, lost):
        self.program, self.made_of, self.x_shape, self.y_shape = program, made_of, x_shape, y_shape
        self.thread, self.lost = thread, lost


class _Parts:
    """All layers in a layer and their parameters, and stamps to tell by whether they are still what they were.

    key: what programs are looked up by. guards: of the parameters. twice: the name of a parameter, or of a layer in
    NumPy, that stands in several places, or None.
    """

    def __init__(self, root):
        layers = list(root.modules())
        number_dropouts(layers)
        named = root._named("")
        self.parameters = list({id(p): p for _, p in named}.values())
        self.guards = guards(self.parameters)
        self.fused = root.fused
        self.dtype = next((array.dtype for layer in layers for _, array in layer._own_state()
                           if array.dtype in shapes.FLOATS), None)
        self.twice = _repeated(layers, named)
        self._watched = all(_is_watched(layer) for layer in layers)
        self._stamps = [*(layer._stamp for layer in layers), *(p._stamp for p in self.parameters)]
        self._inside = layers[1:]       # not the root, which refers to this
        self.key = tuple([stamp.number for stamp in self._stamps])

    def current(self):
        return self._watched and tuple([stamp.number for stamp in self._stamps]) == self.key

    def modes(self, root):
        """Which layers are in training mode."""
        if getattr(_thread, "evaluating", None):
            return tuple([layer.training for layer in (root, *self._inside)])
        return tuple([layer._training for layer in (root, *self._inside)])


def _is_watched(layer):
    """Whether a change of the layers inside changes its stamp."""
    return (type(layer).children.__module__.startswith("cnn.layers.")
            and not any(type(value) in (list, tuple) and any(isinstance(v, Layer) for v in value)
                        for value in vars(layer).values() if type(layer).children is Layer.children))


def _repeated(layers, named):
    seen = set()
    for name, thing in [*((type(layer).__name__, layer) for layer in layers if layer._keeps or
                          (_left_to_emit(layer) and not layer.fused)),
                        *((name, p) for name, p in named if p.requires_grad)]:
        if id(thing) in seen:
            return name
        seen.add(id(thing))
    return None


def number_dropouts(layers):
    """Give layers that draw random numbers, and were given no seed, numbers of their own: those that have another's
    get the next that is free."""
    layers = [layer for layer in layers if getattr(layer, "seed", 0) is None and hasattr(layer, "number")]
    taken = {layer.number for layer in layers}
    if len(taken) < len({id(layer) for layer in layers}):
        free, seen = iter(n for n in range(len(layers)) if n not in taken), {}
        for layer in layers:
            if seen.setdefault(layer.number, layer) is not layer:
                layer.number = next(free)
                seen[layer.number] = layer


@contextmanager
def evaluation(model):
    """The layers of a model are in evaluation mode meanwhile, in this thread alone."""
    outer = getattr(_thread, "evaluating", frozenset())
    _thread.evaluating = outer | {id(layer) for layer in model.modules()}
    try:
        yield
    finally:
        _thread.evaluating = outer


@contextmanager
def watching(call):
    """In this thread `call(layer, x)` is asked for y meanwhile, where layers are called, and no two run as one."""
    outer, _thread.watch = getattr(_thread, "watch", None), call
    try:
        yield
    finally:
        _thread.watch = outer


def watched():
    """Whether `watching` is in force in this thread."""
    return getattr(_thread, "watch", None) is not None


# ---------------------------------------------------------------- layers in NumPy

def _left_to_emit(layer):
    return left_to_emit(type(layer), "forward", "backward", "__call__")


@functools.lru_cache(1024)
def _takes_need_dx(kind):
    parameters = inspect.signature(kind.backward).parameters.values()
    places = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    return len(places) > 2 or any(p.kind is p.VAR_POSITIONAL for p in parameters)


def run_forward(layer, x):
    """y of a layer that may be written in NumPy; raises TypeError or ValueError where it is no such array."""
    before = layer._stamp.number
    y = layer(x)
    if not _left_to_emit(layer):
        layer._keeps = layer._keeps or layer._stamp.number != before    # it has noted something, x perhaps
        _check(layer, "forward", y, None, x.dtype)
        if y.ndim < 1 or len(y) != len(x):
            raise ValueError(f"{type(layer).__name__}: forward must return an array of {len(x)} images, got shape "
                             f"{y.shape}")
    return y


def run_backward(layer, dy, need_dx, x_shape):
    """dx, of that shape, or None; raises TypeError or ValueError where the layer returns something else."""
    kind, name = type(layer), type(layer).__name__
    if _left_to_emit(layer):
        return layer.backward(dy, need_dx)
    runs, back = (next(i for i, cls in enumerate(kind.__mro__) if any(n in vars(cls) for n in names))
                  for names in (("forward", "__call__"), ("backward",)))
    if runs < back:
        raise TypeError(f"{name}: it has a forward of its own, but no backward that belongs to it: define "
                        f"backward(dy, need_dx=True), which returns the gradient by forward's x")
    dx = layer.backward(dy, need_dx) if _takes_need_dx(kind) else layer.backward(dy)
    if not need_dx:
        return None
    _check(layer, "backward", dx, x_shape, dy.dtype)
    return dx


def _check(layer, method, value, shape, dtype):
    owner = f"{type(layer).__name__}: {method} must return"
    if not isinstance(value, np.ndarray):
        raise TypeError(f"{owner} an array, got {type(value).__name__}")
    if value.dtype != dtype:
        raise TypeError(f"{owner} an array of {dtype}, as it got, but it is {value.dtype}")
    if shape is not None and value.shape != shape:
        raise ValueError(f"{owner} an array of its input's shape {shape}, got {value.shape}")
