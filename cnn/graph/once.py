"""What `forward` computes from Parameters alone is the same for all images: it is computed once, not for each.

A pass takes the nodes that make it out of a graph. They become a graph of their own, and what the others read of them a
Parameter, whose numbers that graph computes before each run. The gradient of this Parameter is the sum over all images,
as that of any other; it is carried back once, at the end of the backward pass. So a step has the same bits on any
number of threads and ranks.
"""
from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cnn.engine.once import Once
from cnn.engine.parameter import Parameter, zeros
from cnn.engine.program import Program
from cnn.graph.graph import Graph, Node
from cnn.ops.arithmetic import Constant
from cnn.ops.operation import laid
from cnn.ops.reshaping import Reshape
from cnn.ops.weighted import Weighted

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

    from cnn.graph.value import Value


class Computed(Parameter):
    """A Parameter whose numbers are a value of a Chain. `data` computes them."""

    def __init__(self, chain: Chain, shape: tuple[int, ...], dtype: np.dtype) -> None:
        super().__init__(zeros(shape, dtype))
        self.chain = chain

    @property
    def data(self) -> np.ndarray:
        self.chain.run()
        return super().data

    @data.setter
    def data(self, value: Any) -> None:
        raise TypeError("Parameter: what is computed from others cannot be set")

    @property
    def requires_grad(self) -> bool:
        return any(p.requires_grad for p in self.sources())

    @requires_grad.setter
    def requires_grad(self, value: bool) -> None:
        pass        # theirs decide

    def sources(self) -> list[Parameter]:
        """The Parameters that it is computed from."""
        return [p for node in self.chain.before(self) for p in node.operation.parameters.values()]


class Held(Parameter):
    """A buffer that is computed with as it is at each step, because steps change it."""

    def __init__(self, array: np.ndarray) -> None:
        super().__init__(array, requires_grad=False)
        self._data = array


class Chain:
    """Nodes that read Parameters only, as a graph without inputs. computed: the Parameters that its outputs are.

    compiled: whether a program computes them, so that nobody else need.
    """

    def __init__(self, nodes: Sequence[Node], dtype: np.dtype) -> None:
        self.graph, self.dtype = Graph(), dtype
        self.graph.nodes = list(nodes)
        self.computed: list[Computed] = []
        self.compiled = False
        self._program: Program | None = None

    def take(self, value: Value, shape: tuple[int, ...] | None = None) -> Computed:
        """The Parameter that a value of it is, the same for each time; shape: of as many elements."""
        shape = value.image if shape is None else shape
        for output, made in zip(self.graph.outputs, self.computed, strict=True):
            if output is value and made.shape == shape:
                return made
        made = Computed(self, shape, self.dtype)
        self.graph.outputs.append(value)
        self.computed.append(made)
        return made

    def before(self, made: Computed) -> list[Node]:
        """The nodes that compute one of them."""
        graph = self.graph.like(self.graph.nodes)
        graph.outputs = [value for value, p in zip(self.graph.outputs, self.computed, strict=True) if p is made]
        return _pruned(graph).nodes

    def run(self) -> None:
        """Compute all from the Parameters as they are now."""
        if self._program is None and not self.compiled:
            program = Program(self.dtype, 1)
            self.write(program)
            program.compile()
            self._program = program
        if self._program is not None:
            self._program.run(1)

    def write(self, program: Program) -> None:
        """Have a program compute all before each run, and carry the gradients back where its backward pass ends."""
        from cnn.graph.lower import write
        self.compiled = True        # from here on these arrays are the program's
        once = Once(program)
        tensors, backward = write(once, self.graph, [])
        for tensor, p in zip(tensors, self.computed, strict=True):
            once.result(tensor, p._data)

        def pull(uses: dict[int, list[np.ndarray]], segments: list) -> None:
            once.segments = segments
            backward([once.given(p.grad, laid(value.image)) if id(p) in uses else None
                      for value, p in zip(self.graph.outputs, self.computed, strict=True)], [])
        program.pulled(pull)


def chains(graph: Graph) -> list[Chain]:
    """What computes the Parameters of a graph that are computed."""
    return list({id(p.chain): p.chain for node in graph.nodes for p in node.operation.parameters.values()
                 if isinstance(p, Computed)}.values())


def learnt(operation: Any) -> list[Parameter]:
    """The Parameters of a model that an operation reads, itself or where some of its own are computed from them."""
    return [q for p in operation.parameters.values() for q in (p.sources() if isinstance(p, Computed) else (p,))]


def once(graph: Graph, weights_only: bool = False) -> Graph:
    """The graph with all that is the same for every image computed once; weights_only: only parameters of operations,
    those of convolutions say."""
    same = _same(graph)
    if not same:
        return graph
    chains = _chains(same)
    read = {id(value) for node in graph.nodes if id(node.output) not in same for value in (
        node.inputs[:1] if isinstance(node.operation, Weighted) else node.inputs)}
    read |= {id(value) for value in graph.outputs}
    nodes = []
    for node in graph.nodes:
        operation, value = node.operation, node.output
        if isinstance(operation, Weighted):
            taken = {name: chains[id(given)].take(given, p.shape)
                     for (name, p), given in zip(operation.awaited.items(), node.inputs[1:], strict=True)}
            nodes.append(Node(operation.taking(taken), node.inputs[:1], value, node.modules))
        elif id(value) not in same or weights_only:
            nodes.append(node)
        elif id(value) in read:
            operation = _plain(node, same) or Constant(chains[id(value)].take(value), value.image)
            nodes.append(Node(operation, (), value, node.modules))
    for chain in chains.values():
        chain.graph = _pruned(chain.graph)
    return graph.like(nodes)


def _chains(same: dict[int, Node]) -> dict[int, Chain]:
    """A Chain for each part that has nothing to do with the others, by the ids of the values that it makes."""
    later = {key: key for key in same}      # a later value of its part, or itself

    def last(key: int) -> int:
        while later[key] != key:
            key = later[key]
        return key
    for key, node in same.items():
        for value in node.inputs:
            later[last(id(value))] = key
    chains = {key: Chain([], node.output.dtype) for key, node in same.items() if last(key) == key}
    for key, node in same.items():
        chains[last(key)].graph.nodes.append(node)
    return {key: chains[last(key)] for key in same}


def _same(graph: Graph) -> dict[int, Node]:
    """The nodes that depend on Parameters only, by the ids of what they make."""
    same: dict[int, Node] = {}
    for node in graph.nodes:
        if _alone(node, same):
            same[id(node.output)] = node
    return same


def same_for_all(value: Value) -> bool:
    """Whether a value, while its graph is traced, depends on Parameters only."""
    assert value.graph is not None
    return id(value) in _same(value.graph)


def _alone(node: Node, same: dict[int, Node]) -> bool:
    """Whether what a node makes depends on Parameters only."""
    operation = node.operation
    if isinstance(operation, Constant):
        return True
    if isinstance(operation, Weighted):
        return False
    return bool(node.inputs) and all(id(value) in same for value in node.inputs) and not (
        operation.parameters or operation.effects or operation.couples)


def _plain(node: Node, same: dict[int, Node]) -> Constant | None:
    """A Constant, where a node makes nothing but a Parameter's numbers, perhaps in another shape."""
    image = node.output.image
    while isinstance(node.operation, Reshape):
        node = same[id(node.inputs[0])]
    return node.operation.changed(image=tuple(image)) if isinstance(node.operation, Constant) else None


def _pruned(graph: Graph) -> Graph:
    from cnn.graph.passes import prune
    return prune(graph)
