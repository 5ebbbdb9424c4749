"""Networks that run piece by piece: layers written in NumPy cut their graph, and what is between them is a program."""
import numpy as np

from cnn.engine import debugging
from cnn.graph.differentiate import differentiate
from cnn.graph.graph import Graph
from cnn.graph.lower import slot, written
from cnn.graph.once import learnt, once
from cnn.graph.passes import optimised, prune
from cnn.layers import in_numpy


class Piece:
    """Nodes that run as one, an opaque one alone. inputs: the values that they read of others; outputs: those that
    others read of them; layer: the layer in NumPy, or None; learning: whether gradients of parameters are wanted."""

    def __init__(self, nodes, inputs, outputs, training, learning=True):
        self.inputs, self.outputs = inputs, outputs
        self.layer = getattr(nodes[0].operation, "layer", None)
        self.where = ", ".join(dict.fromkeys(
            f"{node.operation.name}{f' (module {node.modules[0]})' if node.modules[0] else ''}" for node in nodes))
        graph = Graph()
        graph.inputs, graph.outputs, graph.nodes = inputs, outputs, nodes
        graph.structure = len(outputs)
        self.parameters = [] if not learning else self.layer.parameters() if self.layer is not None else list(
            {id(p): p for node in nodes for p in learnt(node.operation)}.values())
        self._learns = nodes if learning else []
        self.graph = optimised(graph, training) if self.layer is None else None

    def learns(self):
        return any(node.learns() for node in self._learns)


def split(graph, training, every, learning=True):
    """The graph's pieces in order; with `every` each node is one."""
    groups, run = [], []
    for node in graph.nodes:
        opaque = isinstance(node.operation, in_numpy.Opaque)
        if (opaque or every) and run:
            groups.append(run)
            run = []
        run.append(node)
        if opaque:
            groups.append(run)
            run = []
    groups += [run] if run else []
    last = {id(value): len(groups) for value in graph.outputs}      # the last group that reads a value
    for i, nodes in reversed(list(enumerate(groups))):
        for node in nodes:
            for value in node.inputs:
                last.setdefault(id(value), i)
    result = []
    for i, nodes in enumerate(groups):
        made = {id(node.output) for node in nodes}
        inputs = {id(value): value for node in nodes for value in node.inputs if id(value) not in made}
        outputs = [node.output for node in nodes if last.get(id(node.output), -1) > i]
        if outputs or any(node.operation.effects for node in nodes):
            result.append(Piece(nodes, list(inputs.values()), outputs, training, learning))
    return result


class Pieces:
    """A graph that is run piece by piece, one after the other. learning: whether a backward pass computes gradients of
    parameters, besides those of the inputs."""

    def __init__(self, graph, training, every=False, learning=True):
        self.training, self.learning = training, learning
        self.graph = once(prune(graph))
        self.structure = self.graph.structure
        self.pieces = split(self.graph, training, every, learning)
        readers, made = self.graph.readers(), {id(v) for piece in self.pieces if piece.layer is None
                                               for v in piece.outputs}
        # values that nobody else has: a layer in NumPy may work in place on them
        self.free = {key for key in made if len(readers.get(key, ())) == 1} - {id(v) for v in self.graph.outputs}

    def forward(self, pool, key, xs):
        """The outputs for these arrays, and what `backward` needs."""
        images, dtype = len(xs[0]), xs[0].dtype
        arrays = {id(value): x for value, x in zip(self.graph.inputs, xs, strict=True)}
        taken = []
        try:
            for i, piece in enumerate(self.pieces):
                given = [arrays[id(value)] for value in piece.inputs]
                if piece.layer is not None:
                    taken.append(None)
                    free = id(piece.inputs[0]) in self.free
                    y = in_numpy.run_forward(piece.layer, given[0] if free else given[0].copy())
                    if y.shape[1:] != piece.outputs[0].image:
                        raise ValueError(f"{type(piece.layer).__name__}: forward must return images of "
                                         f"{piece.outputs[0].image}, as it does for zeros in evaluation mode, got "
                                         f"{y.shape[1:]}")
                    ys = [y]
                else:
                    program = pool.take((key, i), images, lambda piece=piece: written(
                        piece.graph, dtype, images, self.training, learns=self.learning))
                    taken.append(program)
                    ys = [np.empty((images, *value.image), dtype) for value in piece.outputs]
                    program.run(images, **{slot("x", j): x for j, x in enumerate(given)},
                                **{slot("y", j): y for j, y in enumerate(ys)})
                    if not self.training:
                        pool.give(taken.pop())
                        taken.append(None)
                for value, y in zip(piece.outputs, ys, strict=True):
                    arrays[id(value)] = y
                    debugging.look(y, "value", piece.where)
        except BaseException:
            for program in taken:
                pool.give(program)
            raise
        ys = [arrays[id(value)] for value in self.graph.outputs]
        ys = [y.copy() if any(y is other for other in (*xs, *ys[:i])) else y for i, y in enumerate(ys)]
        return ys, State(self, taken, images, dtype)


class State:
    """What is left of a forward in training mode."""

    def __init__(self, pieces, taken, images, dtype):
        self.pieces, self.taken, self.images, self.dtype = pieces, taken, images, dtype

    def programs(self):
        return [program for program in self.taken if program is not None]

    def backward(self, dys, wanted):
        """The gradients of the inputs that are wanted from those of the outputs; sets those of all parameters."""
        from cnn.layers.running import run_backward  # here, because that module needs this one
        pieces = self.pieces
        in_numpy.refuse_repeated("backward", [p.layer for p in pieces.pieces if p.layer is not None and p.layer._keeps])
        programs = {id(piece): program for piece, program in zip(pieces.pieces, self.taken, strict=True)}
        filled = set()

        def pull(piece, dys, wants, held):
            if piece.layer is not None:
                x_shape = self.images, *piece.inputs[0].image
                shared = any(np.may_share_memory(dy, dys[0]) for dy in (*held, *(dy for _, dy in given)))
                result = [in_numpy.run_backward(piece.layer, dys[0].copy() if shared else dys[0], wants[0], x_shape)]
            else:
                # a parameter that an earlier piece has filled is used several times: its gradients add up
                before = [(p, p.grad.copy()) for p in piece.parameters if p.requires_grad and id(p) in filled]
                result, filling = run_backward(programs[id(piece)], dys, wants, piece.parameters)
                for p, grad in before:
                    if id(p) in filling:
                        p.grad += grad
            filled.update({id(p) for p in piece.parameters} if piece.layer is not None else filling)
            for gradient in result:
                debugging.look(gradient, "gradient", piece.where)
            for p in piece.parameters if debugging.enabled() else ():
                debugging.look(p.grad if p.requires_grad else None, "parameter's gradient", piece.where)
            return result

        given = [(value, dy) for value, dy in zip(pieces.graph.outputs, dys, strict=True) if dy is not None]
        asked = [value for value, want in zip(pieces.graph.inputs, wanted, strict=True) if want]
        made = iter(differentiate(pieces.pieces, given, asked, pull, lambda a, b, held: a + b))
        return [next(made) if want else None for want in wanted]
