"""What a module consists of, and in which mode its parts are."""
import inspect
from contextlib import contextmanager
from contextvars import ContextVar

import numpy as np

from cnn import shapes
from cnn.engine import meanwhile
from cnn.engine.programs import Use, guards
from cnn.graph import derived
from cnn.graph.line import line
from cnn.graph.once import Held
from cnn.layers.snapshot import class_attributes, own_classes, snapshot
from cnn.ops.weighted import plain

_evaluating: ContextVar[frozenset] = ContextVar("evaluating", default=frozenset())  # ids of modules in evaluation mode
# whether what runs is a part of something in training mode
training: ContextVar[bool] = ContextVar("training", default=False)


class Parts:
    """All modules in a module and their parameters, and stamps to tell by whether they are still what they were.

    key: what programs are looked up by. guards: of the parameters. fused: whether all of it can be one program.
    """

    def __init__(self, root):
        modules = list(root.modules())
        number_dropouts(modules)
        named = root._named("")
        self.parameters = list({id(p): p for _, p in named}.values())
        self.guards = guards(self.parameters)
        self.fused = not any(module.in_numpy for module in modules)
        arrays = [*(p._data for p in self.parameters), *(a for module in modules for a in module._buffers.values())]
        self.dtype = next((array.dtype for array in arrays if array.dtype in shapes.FLOATS), None)
        self._watched = all(module._is_watched() for module in modules)     # whether stamps tell of its modules
        self._stamps = [*(module._stamp for module in modules), *(p._stamp for p in self.parameters)]
        self._inside = modules[1:]      # not the root, which refers to this
        # what may change without notice: what these attributes hold, and those of classes
        self._unwatched = [pair for module in modules for pair in module._unwatched()]
        self._classes = list(dict.fromkeys(cls for module in modules for cls in own_classes(module)))
        self._seen = frozenset(id(part) for part in (*modules, *self.parameters))
        self.key = (tuple([stamp.number for stamp in self._stamps]), self._plain())

    def _plain(self):
        found = [*self._unwatched, *(pair for cls in self._classes for pair in class_attributes(cls))]
        if not found:
            return ()
        seen = set(self._seen)
        return tuple([(name, snapshot(value, seen)) for name, value in found])

    def current(self):
        return (self._watched and tuple([stamp.number for stamp in self._stamps]) == self.key[0]
                and self._plain() == self.key[1])

    def modes(self, root):
        """Which modules are in training mode."""
        if _evaluating.get():
            return tuple([module.training for module in (root, *self._inside)])
        return tuple([module._training for module in (root, *self._inside)])


class Signature:
    """The signature of a class that help() and editors show: that of `__init__`, though `__new__` takes anything."""

    def __get__(self, instance, owner):
        if instance is not None:
            raise AttributeError("__signature__")
        whole = inspect.signature(owner.__init__)
        return whole.replace(parameters=list(whole.parameters.values())[1:])


def named_modules(module, name=""):
    """(name, module) of a module and all inside, named as their parameters are."""
    yield name, module
    for child_name, child in module.named_children():
        yield from named_modules(child, f"{name}.{child_name}" if name else child_name)


def names_in(model, graph):
    """Names of the parameters and buffers of a model by their ids, and by those of what stands for a buffer in its
    graph."""
    names = {id(thing): name for name, thing in (*model.named_parameters(), *model.named_buffers())}
    read = [pair for node in graph.nodes for pair in (*node.operation.sources, *(
        (p._data, p) for p in node.operation.parameters.values() if isinstance(p, Held)))]
    return names | {id(p): names[id(array)] for array, p in read if id(array) in names}


def takes_numbers(module):
    """Whether a module's first input may be numbers (N,), or integers: of yours, and of layers that say so."""
    return getattr(module, "of_numbers", not type(module).__module__.startswith("cnn."))


def as_floats(arrays, first, dtype=None):
    """Arrays that are a model's inputs: integers and bools, such as classes, times and words, become floats; of the
    first only if `first`, and where it is no image, because those are normalised. dtype: of the model, or None for that
    of the first array of floats."""
    kinds = [x.dtype.kind if isinstance(x, np.ndarray) else "" for x in arrays]
    to = dtype or next((x.dtype for x, kind in zip(arrays, kinds, strict=True) if kind == "f"), np.dtype(np.float32))
    return [x.astype(to) if kind and kind in "iub" and (i or first and x.ndim < 3) else x
            for i, (x, kind) in enumerate(zip(arrays, kinds, strict=True))]


def input_names(module):
    """Names of the inputs that the `forward` of a module must get, a list."""
    from cnn.layers.graph_module import GraphModule  # here, because it imports this
    if isinstance(module, GraphModule):
        return list(module.inputs)
    found = inspect.signature(module.forward).parameters.values()
    return [p.name for p in found if p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]


def frozen_buffers(model):
    """Names of the buffers of what is frozen in a model, a frozenset."""
    frozen = {id(array) for module in model.modules() for name, array in module._buffers.items()
              if module._frozen or name in getattr(module, "_still", ())}
    return frozenset(name for name, array in model.named_buffers() if id(array) in frozen)


@contextmanager
def all_in_training(model):
    """A context manager in which all of a model is in training mode, as if nothing was frozen. Its programs stay."""
    before = [(module, module._mode, module._frozen, vars(module).get("_still")) for module in model.modules()]
    try:
        for module, _, _, still in before:
            module._frozen = False
            if still:
                vars(module)["_still"] = frozenset()
        model.train()
        yield
    finally:
        for module, mode, frozen, still in before:
            module._frozen, module.training = frozen, mode
            if still:
                vars(module)["_still"] = still


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


def in_evaluation(model, function, *inputs):
    """What a function returns, while the layers of a model are in evaluation mode, in this thread alone."""
    inside = _evaluating.get() | {id(module) for module in model.modules()}
    return meanwhile.holds(_evaluating, inside, function, *inputs)


def evaluates(module):
    """Whether a module is in evaluation mode in this thread, whatever it says."""
    return id(module) in _evaluating.get()


def run_alone(module, inputs, options):
    """What the `forward` of a module returns that runs module after module. If one of them is in training mode, there
    is to be a backward pass: all inside keep what they need for it, and one thread at a time runs them."""
    use = Use(type(module).__name__)
    try:
        trains = training.get() or True in module._parts().modes(module)
        if trains:
            use.take((module._guard,), alone=True)
        return meanwhile.holds(training, trains, module.forward, *inputs, **options)
    finally:
        use.leave()


def image_shape(owner, shape):
    """The shape of one image, checked."""
    if not isinstance(shape, (tuple, list)) or len(shape) > 3:
        raise ValueError(f"{owner}: shape must be (C, H, W), (C, L) or (features,), or () of numbers, got {shape!r}")
    return tuple(shapes.integer(owner, "shape", side, 1) for side in shape)


def on_parameters(module, *inputs, **options):
    """What a module's forward computes from Parameters alone, while a network is traced.

    Of the layers those can that have `by_element`, a function of each element, or `of_parameters`: they call others, or
    functions of cnn.functional, as the forward of a user's module does. Raises TypeError for others.
    """
    forward = inspect.unwrap(type(module).forward)
    if getattr(module, "by_element", False):
        return derived.through(lambda *values: forward(module, *values), *inputs, **options)
    if type(module).__module__.startswith("cnn.") and not getattr(module, "of_parameters", False):
        name = type(module).__name__
        raise TypeError(f"{line()}{name} is a layer for values and got Parameters alone: compute with them by "
                        f"functions of cnn.functional, or in the forward of a module of yours")
    return forward(module, *inputs, **options)


def refuse_norms_in_training(owner, model, image_shapes):
    """Raise ValueError for a batch norm with running statistics that takes, and changes, the batch's in evaluation
    mode, too: a list of operations and PyTorch's modules go by the mode."""
    from cnn.layers.running import graph_of  # here, because it imports this
    for node in in_evaluation(model, graph_of, model, [tuple(shape) for shape in image_shapes]):
        operation = plain(node.operation)
        if operation.name == "batch_norm" and operation.training and operation.mean is not None:
            raise ValueError(f"{owner}: batch_norm (module {node.modules[0]!r}) has training=True in evaluation mode, "
                             f"too: give it training=self.training, or no running statistics")
