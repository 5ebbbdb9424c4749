"""Networks that run node by node on the twins of their operations, in plain NumPy."""
import numpy as np

from cnn.engine import debugging
from cnn.graph.differentiate import differentiate
from cnn.graph.passes import prune
from cnn.layers import in_numpy
from cnn.ops import twins


class Interpreted:
    """A graph as it is written, without fusing, to be run by cnn.reference; used as `Pieces` is.

    Raises NotImplementedError for an operation that has no twin.
    """

    def __init__(self, owner, graph):
        twins.refuse_unknown(owner, graph)
        self.graph = prune(graph)
        self.structure = self.graph.structure

    def forward(self, pool, key, xs):
        """The outputs for these arrays, and what `backward` needs. pool, key: not used."""
        images, dtype = len(xs[0]), xs[0].dtype
        arrays = {id(value): x for value, x in zip(self.graph.inputs, xs, strict=True)}
        backs = {}
        for node in self.graph.nodes if images else ():
            given = [arrays[id(value)] for value in node.inputs]
            if hasattr(node.operation, "layer"):
                y = in_numpy.run_forward(node.operation.layer, given[0].copy())
            else:
                for array, parameter in node.operation.sources:
                    np.copyto(parameter.data, array, "unsafe")
                y, backs[id(node)] = twins.TWINS[node.operation.twin](node.operation, images, *given)
            arrays[id(node.output)] = y = _fitting(node, "", y, (images, *node.output.image), dtype)
            debugging.look(y, "value", _where(node))
        # copies, because a twin may return what it got, or a part of it
        ys = [np.array(arrays[id(value)]) if images else np.empty((0, *value.image), dtype)
              for value in self.graph.outputs]
        return ys, State(self.graph, backs, images, dtype)


class State:
    """What is left of a forward. backs: the functions for the backward pass, by the ids of the nodes."""

    def __init__(self, graph, backs, images, dtype):
        self.graph, self.backs, self.images, self.dtype = graph, backs, images, dtype

    def programs(self):
        return []

    def backward(self, dys, wanted):
        """The gradients of the inputs that are wanted from those of the outputs; sets those of all parameters."""
        layers = [node.operation.layer for node in self.graph.nodes if hasattr(node.operation, "layer")]
        in_numpy.refuse_repeated("backward", [layer for layer in layers if layer._keeps])
        filled = {}     # gradients of parameters so far, by their ids

        def pull(node, dys, wants, held):
            given = [(self.images, *value.image) for value in node.inputs]
            if hasattr(node.operation, "layer"):
                layer = node.operation.layer
                dxs = [in_numpy.run_backward(layer, dys[0].copy(), wants[0], given[0])]
                gradients = [(p, p.grad.copy()) for p in layer.parameters()]
            else:
                dxs, named = self.backs[id(node)](dys[0])
                gradients = [(p, _fitting(node, "_backward", named[name], p.shape, self.dtype))
                             for name, p in node.operation.parameters.items()]
            for p, gradient in gradients:
                if p.requires_grad:     # of one that is used several times the sum
                    p.grad = filled[id(p)] = filled[id(p)] + gradient if id(p) in filled else gradient
                    debugging.look(p.grad, "parameter's gradient", _where(node))
            dxs = [_fitting(node, "_backward", dx, shape, self.dtype) if want else None
                   for dx, shape, want in zip(dxs, given, wants, strict=True)]
            for dx in dxs:
                debugging.look(dx, "gradient", _where(node))
            return dxs

        if not self.images:
            for p in {id(p): p for node in self.graph.nodes for p in node.operation.parameters.values()}.values():
                if p.requires_grad:
                    p.grad = np.zeros(p.shape, p.dtype)
            return [None for _ in wanted]
        given = [(value, dy) for value, dy in zip(self.graph.outputs, dys, strict=True) if dy is not None]
        asked = [value for value, want in zip(self.graph.inputs, wanted, strict=True) if want]
        made = iter(differentiate(self.graph.nodes, given, asked, pull, lambda a, b, held: a + b))
        return [_own(next(made)) if want else None for want in wanted]


def _own(gradient):
    return None if gradient is None else np.array(gradient)


def _where(node):
    module = node.modules[0]
    return f"{node.operation.name}{f' (module {module})' if module else ''}"


def _fitting(node, suffix, array, shape, dtype):
    """What a twin has returned, in the model's number type; raises ValueError for another shape."""
    array = np.asarray(array)
    if array.shape != shape:
        name = node.operation.twin or node.operation.name
        raise ValueError(f"{name}{suffix}: it must return an array of shape {shape} for {_where(node)}, got "
                         f"{array.shape}")
    return array.astype(dtype, copy=False)
