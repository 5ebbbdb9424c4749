"""Networks in evaluation mode that are cut at one of their values: the gradient of their scores with respect to it."""
from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from cnn.engine import debugging, meanwhile
from cnn.engine.programs import Pool, Use
from cnn.graph.cutting import cut
from cnn.layers.in_numpy import Opaque, copied
from cnn.layers.parts import in_evaluation, training
from cnn.layers.pieces import Pieces
from cnn.layers.running import graph_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from cnn.graph import Graph, Node, Value
    from cnn.layers.module import Module

_MOST_IMAGES = 64           # at a time
_MOST_ELEMENTS = 2**26      # of all values of the images at a time


class Cut:
    """A network in evaluation mode, cut at a value of its graph.

    owner: who speaks in an error. model: a Module. image: shape of one image. dtype: of the images. choose: a function
    that returns the value for the graph, in which the calls of modules are noted. Nothing of the model changes: not its
    modes, gradients or statistics. Other threads may call the model meanwhile, but not train it.
    """

    def __init__(self, owner: str, model: Module, image: tuple[int, ...], dtype: np.dtype,
                 choose: Callable[[Graph], Value]) -> None:
        self._owner, self._model = owner, model
        graph: Graph = in_evaluation(model, graph_of, model, [image], dtype, True)
        value = choose(graph)
        self.image: tuple[int, ...] = value.image
        self.outputs: list[tuple[int, ...]] = [output.image for output in graph.outputs]
        self.single = graph.structure is None       # whether the model returns one value, no tuple or dict
        body, tail = cut(graph, value)
        tail = tail.like([_with_copy(node) for node in tail.nodes])
        every = debugging.enabled()
        self._body, self._tail = Pieces(body, False, every), Pieces(tail, True, every, learning=False)
        elements = sum(math.prod(made.image) for made in (*graph.inputs, *(node.output for node in graph.nodes)))
        self._most = min(max(1, _MOST_ELEMENTS // elements), _MOST_IMAGES)
        self._pool = Pool()

    def gradients(self, x: np.ndarray, weigh: Callable[[np.ndarray, np.ndarray], np.ndarray]
                  ) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Of a few images at a time: (their numbers (n,), elements of the value, gradient with respect to it).

        x: images (N, C, H, W). weigh(numbers, scores): the gradient with respect to the scores of the images of these
        numbers, (n, K).
        """
        for where in np.array_split(np.arange(len(x)), -(-len(x) // self._most)) if len(x) else ():
            yield where, *in_evaluation(self._model, self._few, x[where], weigh, where)

    def _few(self, x: np.ndarray, weigh: Callable, where: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        use = Use(self._owner)
        programs: list[Any] = []
        try:
            use.take(self._model._parts().guards, alone=False)
            crossing, _ = self._body.forward(self._pool, "body", [x])
            (scores,), state = meanwhile.holds(training, True, self._tail.forward, self._pool, "tail", crossing)
            programs = state.programs()
            wanted = [True] + [False] * (len(crossing) - 1)
            gradient = meanwhile.holds(training, True, state.backward, [weigh(where, scores)], wanted)[0]
            return crossing[0], np.zeros_like(crossing[0]) if gradient is None else gradient
        finally:
            for program in programs:
                self._pool.give(program)
            use.leave()


def _with_copy(node: Node) -> Node:
    """A node with a copy of its layer, where that is written in NumPy: what its backward pass sets is the copy's."""
    if not isinstance(node.operation, Opaque):
        return node
    layer = copied(node.operation.layer).eval()
    return type(node)(node.operation.changed(layer=layer), node.inputs, node.output, node.modules)
