"""Tracing: running `forward` on values, each of whose operations adds a node to a graph."""
import warnings
from contextlib import ContextDecorator

from cnn.engine import meanwhile, parameter
from cnn.engine.parameter import still
from cnn.graph.derived import OWN, asked, of
from cnn.graph.graph import Graph, Node
from cnn.graph.line import line
from cnn.graph.value import Value
from cnn.ops.reshaping import Detach
from cnn.ops.weighted import Weighted, awaited


class no_grad(ContextDecorator):
    """Values that `forward` computes in `with cnn.no_grad():`, or in a function decorated by it, are constants for the
    backward pass, as if each were detached. Elsewhere it changes nothing: `model.eval()` is what does without
    gradients.

        >>> class Distilled(cnn.Module):
        ...     def __init__(self, student, teacher):
        ...         super().__init__()
        ...         self.student, self.teacher = student, teacher
        ...
        ...     def forward(self, x):
        ...         with cnn.no_grad():
        ...             wanted = self.teacher(x)
        ...         return (self.student(x) - wanted).square().mean(1)
    """

    def __enter__(self):
        self._before = still.set(True)
        return self

    def __exit__(self, *error):
        still.reset(self._before)

    def _recreate_cm(self):
        return type(self)()     # a decorated function may call itself, and threads may share it


def apply(operation, *inputs):
    """The value that an operation makes of others: adds a node to their graph.

    Raises ValueError for shapes that do not fit, or values of several graphs.
    """
    graph = inputs[0].graph
    if graph is None or any(value.graph is not graph for value in inputs):
        raise ValueError(f"{operation.owner}: all values must come from this call of the model: none may be kept for "
                         f"the next")
    return add(graph, operation, inputs, inputs[0].dtype)


def add(graph, operation, inputs, dtype):
    """The value of a new node of a graph."""
    if waits := awaited(operation):
        operation, inputs = Weighted(operation), (*inputs, *(p.value for p in waits.values()))
    output = Value(graph, operation.shape(*(value.image for value in inputs)), dtype)
    graph.nodes.append(Node(operation, inputs, output, graph.scope[-1:] or ("",)))
    return add(graph, Detach(), (output,), dtype) if still.get() and not isinstance(operation, Detach) else output


class Computing:
    """What cnn.engine.parameter.computing holds while a graph is traced: the graph, and how to ask Parameters."""

    def __init__(self, graph):
        self.graph = graph

    def of(self, array):
        return of(array, self.graph)

    def __call__(self, thing, name):
        return asked(self.graph, thing, name)


def trace(function, images, dtype, title="", names=None, modules=None, record=False):
    """The Graph of `function(*values)` for values of these image shapes and dtype.

    The function returns a value, a tuple, list or dict of them. names, modules: their
    names by id, of parameters and modules. record: whether to note the calls of modules.
    """
    graph = Graph(title, names, modules)
    graph.calls = [] if record else None
    graph.inputs = [Value(graph, image, dtype) for image in images]
    values = list(graph.inputs)
    try:
        made = meanwhile.holds(still, False, meanwhile.holds, parameter.computing, Computing(graph), meanwhile.holds,
                               parameter.refuse, _refuse_numbers, function, *graph.inputs)
        graph.structure, graph.outputs = unpack(made, title or "forward")
        _warn_of_in_place(graph)
        if any(value.graph is not graph for value in graph.outputs):
            raise ValueError(f"{title}: forward must return values of this call, got one of another")
    finally:        # done; and no circle of references, which would keep memory
        for value in (*values, *(node.output for node in graph.nodes)):
            value.graph = None
    return graph


def _warn_of_in_place(graph):
    """Tell where PyTorch would go on with the result of what is done in place, and values keep their elements."""
    for owner, value, at in graph.in_place:
        if any(value is read for node in graph.nodes[at:] for read in node.inputs) or any(
                value is output for output in graph.outputs):
            warnings.warn(f"{owner}: inplace=True changes nothing here, and what it gets is read again afterwards, "
                          f"where PyTorch reads the result: use the result there, or inplace=False", stacklevel=2)


def computed_alone(function, dtype):
    """The nodes of what `function()` computes of Parameters, and the Derived that it returns, outside of a network."""
    graph = Graph()
    graph.inputs = [Value(graph, (1,), dtype)]
    try:
        made = meanwhile.holds(still, False, meanwhile.holds, parameter.computing, Computing(graph), meanwhile.holds,
                               parameter.refuse, _refuse_numbers, function)
    finally:
        for value in (*graph.inputs, *(node.output for node in graph.nodes)):
            value.graph = None
    return graph.nodes, made


def not_tracing(function, *inputs):
    """What a function returns that works on arrays while a network is traced, and may look at numbers."""
    return meanwhile.holds(parameter.computing, None, meanwhile.holds, parameter.refuse, None, function, *inputs)


def _refuse_numbers():
    raise TypeError(f"{line()}`data` of a Parameter was read while a network is traced: the program would keep "
                    f"what you compute from it now; use the Parameter itself, and cnn.functional")


def refuse_arrays(owner, inputs=()):
    """Raise TypeError where a module gets arrays, or Parameters alone, while a network is traced."""
    if parameter.refuse.get() is not None:
        if any(_is_wide(x) for x in inputs):
            raise ValueError(f"{line()}{owner} got a value of more than four axes: give it what flatten or view makes "
                             f"of it, with at most four")
        what = "Parameters alone" if any(isinstance(x, OWN) for x in inputs) else "an array"
        raise TypeError(f"{line()}{owner} got {what} while a network is traced: the program would keep what it returns "
                        f"now; call it with values, or outside of `forward`")


def _is_wide(x):
    """Whether it is a Wide, which is made of what stands here."""
    return hasattr(x, "index") and hasattr(x, "at")


def unpack(result, owner):
    """How a result is put together, and its parts in order: a value or array, or a tuple, list or dict of them."""
    if isinstance(result, dict):
        structure, parts = tuple(result), list(result.values())
    elif isinstance(result, (tuple, list)):
        structure, parts = len(result), list(result)
    else:
        structure, parts = None, [result]
    if not parts:
        raise TypeError(f"{owner}: forward must return a value, or a tuple or dict of values, got an empty "
                        f"{type(result).__name__}")
    for part in parts:
        if _is_wide(part):
            raise ValueError(f"{owner}: what is returned must have at most 4 axes, the images first, got shape "
                             f"{part.shape}")
        if not isinstance(part, Value):
            raise TypeError(f"{owner}: forward must return a value, or a tuple or dict of values, that come from its "
                            f"inputs, got {type(part).__name__}")
    return structure, parts


def pack(structure, parts):
    """The parts put together as `unpack` has found them."""
    if structure is None:
        return parts[0]
    return dict(zip(structure, parts, strict=True)) if isinstance(structure, tuple) else tuple(parts)
