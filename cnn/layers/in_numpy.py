"""Layers written in NumPy: they define `forward` and `backward` on arrays. In a graph they are opaque nodes."""
import copy
import functools
import inspect
from contextvars import ContextVar

import numpy as np

from cnn.engine import meanwhile
from cnn.graph.trace import not_tracing
from cnn.layers.parts import in_evaluation
from cnn.ops.operation import Operation

# where the calls of modules are noted, as (id, image shape); None: they are not
seen: ContextVar[list | None] = ContextVar("seen", default=None)


class Opaque(Operation):
    """A layer written in NumPy, as a node at which the graph is cut.

    It may couple the images of a batch. Its shape is found out by a copy of the layer that works on an image of zeros,
    in evaluation mode.
    """

    couples = True

    def __init__(self, layer, dtype):
        self.name = type(layer).__name__
        super().__init__()
        self.layer, self.dtype = layer, dtype

    def shape(self, x):
        trial = copied(self.layer)

        def run():
            with np.errstate(all="ignore"):
                return run_forward(trial, np.zeros((1, *x), self.dtype)).shape[1:]
        return not_tracing(in_evaluation, trial, run)

    def calls(self, x):
        """The modules inside that the layer calls with arrays, for an input of this shape: (module, image shape)."""
        modules = list(self.layer.modules())
        trial = copied(self.layer)
        originals = {id(made): module for made, module in zip(trial.modules(), modules, strict=True)}
        noted = []

        def run():
            with np.errstate(all="ignore"):
                trial.forward(np.zeros((1, *x), self.dtype))
        in_evaluation(trial, meanwhile.holds, seen, noted, run)
        return [(originals[key], image) for key, image in noted if key in originals]

    def macs(self, x):
        return self.layer.multiply_adds(x, self.shape(x))

    def learns(self):
        return any(p.requires_grad for p in self.layer.parameters())


def copied(layer):
    """A copy of a layer, which other threads may be running: they may add something to what is being copied."""
    while True:
        try:
            return not_tracing(copy.deepcopy, layer)
        except RuntimeError as error:
            if "changed size during iteration" not in str(error):
                raise


def noted(module, x):
    """What a module makes of an array, of which a note is taken for `Opaque.calls`."""
    seen.get().append((id(module), x.shape[1:]))
    return meanwhile.holds(seen, None, module, x)       # what it calls itself is not noted


def run_forward(layer, x):
    """y of a layer in NumPy; raises TypeError or ValueError where it is no such array."""
    before = layer._stamp.number
    y = layer(x)
    layer._keeps = layer._keeps or layer._stamp.number != before    # it has noted something, x perhaps
    _check(layer, "forward", y, None, x.dtype)
    if y.ndim < 1 or len(y) != len(x):
        raise ValueError(f"{type(layer).__name__}: forward must return an array of {len(x)} images, got shape "
                         f"{y.shape}")
    return y


def run_backward(layer, dy, need_dx, x_shape):
    """dx, of that shape, or None; raises TypeError or ValueError where the layer returns something else."""
    kind, name = type(layer), type(layer).__name__
    if not layer.in_numpy:
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


@functools.lru_cache(1024)
def _takes_need_dx(kind):
    parameters = inspect.signature(kind.backward).parameters.values()
    places = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    return len(places) > 2 or any(p.kind is p.VAR_POSITIONAL for p in parameters)


def _check(layer, method, value, shape, dtype):
    owner = f"{type(layer).__name__}: {method} must return"
    if not isinstance(value, np.ndarray):
        raise TypeError(f"{owner} an array, got {type(value).__name__}")
    if value.dtype != dtype:
        raise TypeError(f"{owner} an array of {dtype}, as it got, but it is {value.dtype}")
    if shape is not None and value.shape != shape:
        raise ValueError(f"{owner} an array of its input's shape {shape}, got {value.shape}")


def refuse_repeated(owner, layers):
    """Raise ValueError where a layer in NumPy, which remembers its last input only, stands in several places."""
    seen = set()
    for layer in layers:
        if id(layer) in seen:
            raise ValueError(f"{owner}: {type(layer).__name__} is used more than once: its gradient, the sum over all "
                             f"uses, is not supported for layers in NumPy; give each use a layer of its own")
        seen.add(id(layer))
