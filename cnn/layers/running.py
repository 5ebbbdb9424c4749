"""Running modules on arrays: tracing them, looking up their programs, forward and backward."""
import functools
import inspect
import threading

import numpy as np

from cnn import shapes
from cnn.engine import backend, debugging, meanwhile
from cnn.engine.programs import Pool, Use, circumstances
from cnn.graph import Value, apply, derived, trace
from cnn.graph.lower import few, slot, write_backward, written
from cnn.graph.passes import optimised
from cnn.graph.trace import pack, refuse_arrays
from cnn.layers import pieces
from cnn.layers.in_numpy import Opaque
from cnn.layers.parts import as_floats, in_evaluation, named_modules, on_parameters, takes_numbers, training
from cnn.layers.snapshot import snapshot

KEPT = 8        # networks with layers in NumPy that a module remembers, for as many shapes and modes


def traced(inputs, options):
    """The first value among these arguments and in lists, tuples and dicts among them; None where there is none."""
    for thing in (*inputs, *options.values()) if options else inputs:
        parts = (thing if isinstance(thing, (list, tuple)) else thing.values() if isinstance(thing, dict) else (thing,))
        for part in parts:
            if isinstance(part, Value):
                return part
    return None


def add_call(module, inputs, options, value):
    """What a module makes of values, of which `value` is one: it adds to their graph."""
    owner, graph = type(module).__name__, value.graph
    if graph is None:
        raise ValueError(f"{owner}: a value must not be kept for the next call of the model")
    first = len(graph.nodes)
    graph.scope.append(graph.modules.get(id(module), owner))
    try:
        if module.in_numpy:
            if len(inputs) != 1 or options or inputs[0] is not value:
                raise TypeError(f"{owner}: a layer written in NumPy takes one value in a network")
            result = apply(Opaque(module, value.dtype), value)
        else:
            result = module.forward(*inputs, **options)
    finally:
        graph.scope.pop()
    if graph.calls is not None:
        graph.calls.append((module, inputs, result, first, len(graph.nodes)))
    if getattr(module, "inplace", False) is True:
        graph.in_place.append((owner, value, len(graph.nodes)))
    return result


class Call:
    """Arguments of a call with arrays. xs: the arrays, checked. key: what a program for it is made from.

    places: which of the arguments the arrays are, numbers or names; others: all other arguments, by their places. one:
    whether it is one image, without an axis of images.
    """

    __slots__ = ("images", "key", "method", "module", "one", "others", "parts", "places", "training", "xs")

    def __init__(self, module, method, inputs, options):
        owner, parts = type(module).__name__, module._parts()
        given = dict(enumerate(inputs)) | options
        self.module, self.method = module, method
        self.places = [place for place, value in given.items() if place == 0 or isinstance(value, np.ndarray)]
        if not self.places:
            raise TypeError(f"{owner}: forward must get an array first")
        axes = module.image_axes()
        self.one = axes is not None and getattr(given[self.places[0]], "ndim", None) == axes
        if self.one:
            given |= {place: given[place][np.newaxis] for place in self.places}
        known = _names(method)
        names = [place if isinstance(place, str) else known[place] if place < len(known) else "x"
                 for place in self.places]
        arrays = as_floats([given[place] for place in self.places], takes_numbers(module), parts.dtype)
        any_shape = takes_numbers(module) or getattr(module, "by_element", False)
        self.xs = [module._checked(name, x, parts.dtype, i > 0 or any_shape)
                   for i, (name, x) in enumerate(zip(names, arrays, strict=True))]
        self.others = {place: value for place, value in given.items() if place not in self.places}
        x = self.xs[0]
        for name, other in zip(names, self.xs, strict=True):
            if len(other) != len(x) or other.dtype != x.dtype:
                raise ValueError(f"{owner}: {name} must hold {len(x)} images of {x.dtype}, as {names[0]} does, got "
                                 f"{len(other)} of {other.dtype}")
        self.images, self.parts = len(x), parts
        modes = parts.modes(module)
        self.training = True in modes or training.get()
        self.key = self._key(parts, modes)

    def _key(self, parts, modes):
        x, *more = self.xs
        method = () if self.method is _unwrapped(type(self.module).forward) else (self.method.__qualname__,)
        rest = tuple(self.places), tuple(other.shape[1:] for other in more), snapshot(self.others, set())
        return (x.shape[1:], x.dtype, method + rest, parts.key, modes, self.training, few(len(x), self.training),
                circumstances())

    def graph(self):
        """The graph of what is called, as it is traced."""
        graph = trace_module(self.module, self.method, [x.shape[1:] for x in self.xs], self.xs[0].dtype, self.places,
                             self.others)
        known = _names(self.method)
        shapes_of = {known.index(place) if place in known else place: x.shape[1:]
                     for place, x in zip(self.places, self.xs, strict=True)}
        if not self.others and self.method is _unwrapped(type(self.module).forward) and set(shapes_of) == set(
                range(len(self.xs))):
            _note(self.module, [shapes_of[place] for place in range(len(self.xs))])
        return graph

    def written(self):
        program = written(optimised(self.graph(), self.training), self.xs[0].dtype, self.images, self.training)
        parts = self.module._parts()        # as tracing has left them: a module may note things in attributes
        program.made_from = self._key(parts, parts.modes(self.module))
        return program

    def arrays(self, program):
        """Arguments of a run of the program, and its results."""
        given = {slot("x", i): x for i, x in enumerate(self.xs)}
        ys = [np.empty((self.images, *image), self.xs[0].dtype) for image in program.shapes]
        return given | {slot("y", i): y for i, y in enumerate(ys)}, ys


_unwrapped = functools.lru_cache(256)(inspect.unwrap)


@functools.lru_cache(256)
def _names(method):
    """Names of a method's arguments after self."""
    code = getattr(inspect.unwrap(method), "__code__", None)
    return code.co_varnames[1:code.co_argcount] if code else ()


def trace_module(module, method, images, dtype, places=None, others=None, record=False):
    """The graph of a method of a module for such inputs; places, others: see `Call`."""
    places = places or range(len(images))

    def function(*values):
        given = dict(zip(places, values, strict=True)) | (others or {})
        options = {place: value for place, value in given.items() if isinstance(place, str)}
        return method(module, *(given[i] for i in range(len(given) - len(options))), **options)
    names = {id(p): name for name, p in module.named_parameters()}
    modules = {}
    for name, part in named_modules(module):
        modules.setdefault(id(part), name)
    return trace(function, images, dtype, type(module).__name__, names, modules, record)


def run(module, method, inputs, options):
    """What a method of a module returns for arrays."""
    refuse_arrays(type(module).__name__, inputs)
    call = Call(module, method, inputs, options)
    if not call.one:
        return _run(call)
    result = _run(call)
    if call.training:
        module._last.one = True
    return without_images(result)


def without_images(result):
    """The only image of an array, or of each in a tuple or dict of them."""
    if isinstance(result, dict):
        return {name: y[0] for name, y in result.items()}
    return tuple(y[0] for y in result) if isinstance(result, tuple) else result[0]


def _run(call):
    module, parts, use = call.module, call.parts, Use(type(call.module).__name__)
    try:
        use.take(parts.guards, alone=False)
        if not parts.fused or debugging.enabled() or backend.by_twins():
            return _run_in_pieces(call, use)
        if call.training:
            use.take((module._guard,), alone=True)
            return _run_in_training(call)
        last = module._last
        if last is not None and last.thread == threading.get_ident():
            _let_go(module)
        program = None
        try:
            program = module._programs.borrow(use, call.key, call.images, call.written)
            arrays, ys = call.arrays(program)
            program.run(call.images, **arrays)
            return pack(program.structure, ys)
        finally:
            module._programs.give(program, use)
    finally:
        use.leave()


def _let_go(module):
    """The activations of the last forward in training mode are gone."""
    last, module._last = module._last, None
    if last is not None:
        for program in last.programs:
            module._programs.give(program)


class Last:
    """The last forward in training mode: its programs, what the model was made of, and threads whose own forward was
    lost to later ones. pieces: where it ran piece by piece. one: whether it was one image, without an axis of its
    own."""

    __slots__ = ("lost", "made_of", "one", "pieces", "programs", "shapes", "structure", "thread", "xs")

    def __init__(self, programs, made_of, xs, shapes, structure, thread, lost, pieces=None):
        self.programs, self.made_of, self.xs, self.shapes = programs, made_of, xs, shapes
        self.structure, self.thread, self.lost, self.pieces, self.one = structure, thread, lost, pieces, False


def _lost(last, me):
    """Threads whose forward in training mode is lost with the next one."""
    return frozenset() if last is None else (last.lost | {last.thread}) - {me}


def _run_in_training(call):
    module = call.module
    last, me = module._last, threading.get_ident()
    # from here on the activations of the last forward are gone
    module._last = None
    program = None if last is None or last.pieces else last.programs[0]
    if program is None or program.made_from != call.key or program.images < call.images:
        for old in () if last is None else last.programs:
            module._programs.give(old)
        program = module._programs.take(call.key, call.images, call.written)
    arrays, ys = call.arrays(program)
    program.run(call.images, **arrays)
    module._last = Last([program], module._parts().key, [x.shape for x in call.xs], [y.shape for y in ys],
                        program.structure, me, _lost(last, me))
    return pack(program.structure, ys)


def _run_in_pieces(call, use):
    """As `run`, where layers in NumPy cut the graph into pieces, each node is to be looked at, or run by its twin."""
    module = call.module
    key = call.key, debugging.enabled(), backend.by_twins()
    made = module._pieces.get(key)
    if made is None:
        if backend.by_twins():
            from cnn.layers.interpreted import Interpreted  # here, because most programs do without
            made = Interpreted(type(module).__name__, call.graph())
        else:
            made = pieces.Pieces(call.graph(), call.training, every=debugging.enabled())
        parts = module._parts()
        key = call._key(parts, parts.modes(module)), *key[1:]
        for old in tuple(module._pieces)[:max(0, len(module._pieces) - KEPT + 1)]:
            module._pieces.pop(old, None)       # another thread may have been faster
        module._pieces[key] = made
    if call.training:
        use.take((module._guard,), alone=True)
    me, lost = threading.get_ident(), _lost(module._last, threading.get_ident())
    if call.training:
        _let_go(module)
    ys, state = meanwhile.holds(training, call.training, made.forward, module._programs, key, call.xs)
    if call.training:
        module._last = Last(state.programs(), module._parts().key, [x.shape for x in call.xs], [y.shape for y in ys],
                            made.structure, me, lost, state)
    return pack(made.structure, ys)


def backward(module, dy, need_dx):
    """See Module.backward."""
    owner, last = type(module).__name__, module._last
    if last is None:
        still = "; all of it is frozen, by freeze()" * all(part._frozen for part in module.modules())
        raise RuntimeError(f"{owner}: backward needs a forward in training mode before it{still}")
    if threading.get_ident() in last.lost:
        raise RuntimeError(f"{owner}: another thread has called forward in training mode since this one did: one "
                           f"thread at a time can train a model")
    parts = module._parts()
    if parts.key != last.made_of:
        raise RuntimeError(f"{owner}: the parameters have moved or the model has changed since the last forward (a "
                           f"new optimizer, another dtype or layer, ...): call forward again before backward")
    dtype = last.programs[0].dtype if last.programs else last.pieces.dtype
    if last.one:
        dy = {name: part if part is None else part[np.newaxis] for name, part in dy.items()} if isinstance(
            dy, dict) else [part if part is None else part[np.newaxis] for part in dy] if isinstance(
            dy, (tuple, list)) else np.asarray(dy)[np.newaxis]
    dys = _gradients(owner, dy, last, dtype)
    wanted = tuple([bool(need_dx)] * len(last.xs))
    use = Use(owner)
    try:
        use.take(parts.guards, alone=False)
        use.take((module._guard,), alone=True)
        if last.pieces is not None:
            dxs = meanwhile.holds(training, True, last.pieces.backward, dys, wanted)
        else:
            dxs, _ = run_backward(last.programs[0], dys, wanted, parts.parameters)
    finally:
        use.leave()
    if not need_dx:
        return None
    dxs = [np.zeros(shape, dtype) if dx is None else dx for dx, shape in zip(dxs, last.xs, strict=True)]
    dxs = [dx[0] for dx in dxs] if last.one else dxs
    return dxs[0] if len(dxs) == 1 else tuple(dxs)


def run_backward(program, dys, wanted, parameters):
    """The gradients of a program's inputs that are wanted, or None; and the ids of Parameters whose grad it sets."""
    given = tuple(dy is not None for dy in dys)
    phase = "backward", given, wanted, *(p.requires_grad for p in parameters)
    if not program.has(phase):
        program.backwards[phase] = write_backward(program, phase, given, wanted)
    images = next(len(dy) for dy in dys if dy is not None)
    dxs = [np.empty((images, *image), program.dtype) if there else None
           for image, there in zip(program.takes, program.backwards[phase], strict=True)]
    arrays = {slot("dy", i): dy for i, dy in enumerate(dys) if dy is not None}
    program.run(images, phase, **arrays, **{slot("dx", i): dx for i, dx in enumerate(dxs) if dx is not None})
    return dxs, program.fills[phase]


def _gradients(owner, dy, last, dtype):
    """The gradients of all outputs, checked, None where there is none."""
    if last.structure is None:
        return [shapes.array(owner, "dy", dy, last.shapes[0], dtype)]
    names = last.structure if isinstance(last.structure, tuple) else range(last.structure)
    kind, words = (dict, "dict") if isinstance(last.structure, tuple) else ((tuple, list), "tuple")
    if not isinstance(dy, kind) or len(dy) != len(names) or (kind is dict and set(dy) != set(names)):
        raise ValueError(f"{owner}: dy must be a {words} of a gradient, or None, for each of the outputs "
                         f"{', '.join(map(str, names))}")
    result = [None if dy[name] is None else shapes.array(owner, f"dy[{name!r}]", dy[name], shape, dtype)
              for name, shape in zip(names, last.shapes, strict=True)]
    if all(gradient is None for gradient in result):
        raise ValueError(f"{owner}: dy must hold a gradient for one output at least")
    return result


# ---------------------------------------------------------------- methods of modules

def also_on_arrays(method):
    """A method that computes with values, and is traced and run where it gets arrays."""
    @functools.wraps(method)
    def call(self, *inputs, **options):
        if traced(inputs, options) is not None:
            return method(self, *inputs, **options)
        if derived.computes(*inputs) and method.__name__ == "forward":
            return on_parameters(self, *inputs, **options)
        return run(self, method, inputs, options)
    call.runs = True
    return call


def also_on_values(method):
    """The `__call__` of a layer written in NumPy: given values, the whole of it is a node."""
    @functools.wraps(method)
    def call(self, *inputs, **options):
        value = traced(inputs, options)
        return method(self, *inputs, **options) if value is None else add_call(self, inputs, options, value)
    call.runs = True
    return call


# ---------------------------------------------------------------- looking at graphs

def graph_of(module, images, dtype=None, record=False):
    """The graph of a module for inputs of these image shapes, as it is written; record: with its modules' calls."""
    dtype = dtype or module._parts().dtype or np.dtype(np.float32)

    def call(module, *values):
        return add_call(module, values, {}, values[0])
    graph = trace_module(module, call, images, dtype, record=record)
    _note(module, images)
    return graph


def _note(module, images):
    if len(module._seen_shapes) < 2:
        module._seen_shapes.add(tuple(map(tuple, images)))


def seen_shapes(module):
    """The shapes of one image of each input that a module was traced for: a list of tuples of them, two at most."""
    return list(module._seen_shapes)


def observed(module, x):
    """What every module inside makes of x in evaluation mode: a list of (name, module, array), in the order in which
    they end; of modules with several outputs nothing."""
    return in_evaluation(module, _observed, module, module._checked("x", x))


def _observed(module, x):
    graph = graph_of(module, [x.shape[1:]], x.dtype, record=True)
    calls = [(part, result) for part, _, result, *_ in graph.calls if isinstance(result, Value)]
    whole = graph.like(graph.nodes)
    whole.outputs = list({id(value): value for _, value in calls}.values())
    ys, _ = pieces.Pieces(whole, training=False).forward(Pool(), None, [x])
    arrays = {id(value): y for value, y in zip(whole.outputs, ys, strict=True)}
    return [(graph.modules.get(id(part), ""), part, arrays[id(value)]) for part, value in calls]


def compiled_graph(module, images):
    """The graph of a module as it is compiled in its present mode."""
    return optimised(graph_of(module, images), True in module._parts().modes(module))
