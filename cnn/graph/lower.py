"""From a graph to a program of the engine."""
import numpy as np

from cnn.engine.memory import LANES
from cnn.engine.program import Program
from cnn.graph.differentiate import differentiate
from cnn.graph.once import chains
from cnn.graph.passes import with_deferred_norms, with_summands
from cnn.ops import pointwise
from cnn.ops.operation import laid

FEW = 8     # so many images are computed one by one, with channels side by side, where there is no backward pass
FEW_LEARN = 8   # the same where there is one
SHARED = 1_000_000      # multiply-adds of an image for each thread: with less, waiting for one another takes longer


def write(program, graph, inputs):
    """Add a graph's operations to a program; inputs: tensors. Returns the outputs' tensors, and a function that adds
    those of the backward pass: `backward(dys, wanted)` takes tensors or None for the outputs and a bool for each input,
    and returns the inputs' gradients, None where there are none."""
    graph = with_deferred_norms(graph, program)
    for chain in chains(graph):
        if program.once is not None:
            chain.write(program)
    tensors = {id(value): tensor for value, tensor in zip(graph.inputs, inputs, strict=True)}
    backs = {}
    for node in graph.nodes:
        for array, parameter in node.operation.sources:
            program.on_run(lambda step, array=array, parameter=parameter: np.copyto(parameter.data, array, "unsafe"))
        tensors[id(node.output)], backs[id(node)] = node.operation.emit(
            program, *(tensors[id(value)] for value in node.inputs))

    def pull(node, dys, wants, held):
        dy, = dys
        dy.root.shared = any(other.root is dy.root for other in held)      # then nobody may write over it
        back = backs[id(node)]
        return (back(dy, *wants),) if len(wants) == 1 else back(dy, wants)

    def add(a, b, held):
        used = {id(other.root) for other in held}
        own = next((t for t in (a, b) if id(t.root) not in used and not t.root.kept), None)
        return pointwise.add(program, a, b, program.like(a) if own is None else own)

    def backward(dys, wanted):
        given = [(value, dy) for value, dy in zip(graph.outputs, dys, strict=True) if dy is not None]
        asked = [value for value, want in zip(graph.inputs, wanted, strict=True) if want]
        made = iter(differentiate(graph.nodes, given, asked, pull, add))
        return [next(made) if want else None for want in wanted]

    return [tensors[id(value)] for value in graph.outputs], backward


def few(images, gradients):
    """Whether so many images are few enough to have channels side by side. gradients: whether there is a backward
    pass."""
    return images <= (FEW_LEARN if gradients else FEW)


def goes_by_channels(graph):
    """Whether a program of a graph can have channels side by side."""
    return all(node.operation.goes_by_channels(*(value.image for value in node.inputs)) for node in graph.nodes)


def share(program, graph):
    """Tell a program that goes by channels how many threads are worth while for an image."""
    if program.by_channels:
        macs = sum(graph.macs()) * (3 if program.gradients else 1)      # backward takes twice as many
        program.sharing = max(1, min(program.threads, macs // SHARED))


def written(graph, dtype, images, gradients, **options):
    """A compiled Program of a graph for so many images at most. Its slots are x, x1, ... for the inputs and y, y1, ...
    for the outputs; `results` are the outputs' tensors, `pull` and `inputs` are for `write_backward`. options:
    of the Program."""
    by_channels = few(images, gradients) and goes_by_channels(graph)
    if by_channels and not gradients:
        images, graph = FEW, with_summands(graph)
    elif not gradients:     # some more, where nothing need be kept of each
        images = LANES << max(0, -(-images // LANES) - 1).bit_length()
    program = Program(dtype, images, keep=gradients, gradients=gradients, by_channels=by_channels, **options)
    share(program, graph)
    tensors = [program.input(**laid(value.image), name=slot("x", i))
               for i, value in enumerate(graph.inputs)]
    program.results, program.pull = write(program, graph, tensors)
    program.structure = graph.structure
    program.shapes, program.takes = ([value.image for value in values] for values in (graph.outputs, graph.inputs))
    program.backwards, program.fills = {}, {}   # of each backward phase, of which inputs and Parameters there are any
    for i, tensor in enumerate(program.results):
        program.output(tensor, slot("y", i))
    program.compile()
    return program


def write_backward(program, phase, given, wanted):
    """Add the backward pass to a program of `written`, as this phase: its slots are dy, dy1, ... and dx, dx1, ...

    given, wanted: for each output whether there is a gradient, for each input whether one is wanted. Returns for each
    input whether there is one.
    """
    program.begin(phase)
    dys = [program.input(**laid(shape), name=slot("dy", i)) if there else None
           for i, (shape, there) in enumerate(zip(program.shapes, given, strict=True))]
    dxs = program.pull(dys, wanted)
    for i, dx in enumerate(dxs):
        if dx is not None:
            program.output(dx, slot("dx", i))
    program.add_gradients()
    program.fills[phase] = frozenset(program.uses)
    return [dx is not None for dx in dxs]


def slot(name, i):
    """The name of the i-th of the slots x, y, dy or dx."""
    return f"{name}{i}" if i else name
