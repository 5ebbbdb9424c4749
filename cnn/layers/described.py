"""Networks as JSON and arrays, and back: what a file holds instead of code."""
from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from cnn import shapes
from cnn.engine.parameter import Parameter
from cnn.layers.activation import Dropout
from cnn.layers.graph_module import GraphModule, OperationNode, graph_module
from cnn.layers.parts import frozen_buffers, named_modules
from cnn.layers.running import graph_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from cnn.layers.module import Module

_BUFFERS = ("running_mean", "running_var", "num_batches_tracked", "array")
MOST_ELEMENTS = 2**26       # of all values of one image, in a network from a file: sixteen images take 4 GiB then


def describe(model: Module, image_shapes: Sequence[Sequence[int]]) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """(what JSON can hold of a network, its arrays by name) for `network` to make it of again.

    image_shapes: of one image of each input. Raises ValueError where `graph_module` does, and for a dropout that is no
    layer of its own.
    """
    listed = model if isinstance(model, GraphModule) else graph_module(model, *image_shapes)
    own = dict(model.named_parameters())        # also what the graph has no use for
    own |= {name: p for name, p in listed.named_parameters() if name not in own}
    buffers = {name: array for name, array in (*listed.named_buffers(), *model.named_buffers()) if name not in own}
    trained = {name: {"requires_grad": p._requires_grad, "lr_scale": p.lr_scale} for name, p in own.items()}
    described = {
        "image_shapes": [list(map(int, shape)) for shape in image_shapes], "inputs": list(listed.inputs),
        "nodes": [node._asdict() for node in listed.nodes], "outputs": listed.outputs, "parameters": trained,
        "buffers": list(buffers), "constants": list(listed._constants), "dropouts": _dropouts(model, listed)}
    frozen = [*(name for name, p in own.items() if p._frozen), *sorted(frozen_buffers(model))]
    if frozen := all(module._frozen for module in model.modules()) or frozen:
        described["frozen"] = frozen
    return described, {**{name: p.data for name, p in own.items()}, **buffers, **listed._constants}


def _dropouts(model: Module, listed: GraphModule) -> dict[str, dict]:
    """What each dropout of a list draws its masks with, by the name of its value."""
    parts: Mapping[str, Module] = dict(named_modules(model))
    result, seen = {}, set()
    for node in listed.nodes:
        if node.operation != "dropout":
            continue
        layer = listed._dropouts[node.output] if listed is model else parts.get(node.name)
        if not isinstance(layer, Dropout) or id(layer) in seen:
            raise ValueError(f"save: the dropout {node.name!r} must be a layer that is called once, or its masks would "
                             f"be others")
        seen.add(id(layer))
        result[node.output] = {"number": layer.number, "step": layer.step} | ({"frozen": True} if layer._frozen else {})
    return result


def network(described: Any, arrays: Mapping[str, np.ndarray]) -> GraphModule:
    """The network of which `describe` has returned these, in training mode.

    They may come from anyone: raises TypeError, ValueError, LookupError, ArithmeticError or AttributeError for what
    `describe` cannot have returned, and where the values of one image have more than MOST_ELEMENTS elements.
    """
    nodes = [OperationNode(_text(node["operation"]), tuple(map(_text, node["inputs"])), _text(node["output"]),
                           {_text(name): _tuples(value) for name, value in node["attributes"].items()},
                           {_text(role): _text(name) for role, name in node["parameters"].items()},
                           _text(node["name"])) for node in described["nodes"]]
    trained, buffers, outputs = described["parameters"], described["buffers"], described["outputs"]
    constants = described.get("constants", [])
    if set(arrays) != {*trained, *buffers, *constants}:
        raise ValueError(f"it must have the arrays {shapes.shown(sorted({*trained, *buffers, *constants}))}, got "
                         f"{shapes.shown(sorted(arrays))}")
    for node in nodes:
        for role, name in node.parameters.items():
            if role != "parameter" and (name in trained) == (role in _BUFFERS):     # a buffer is computed with, too
                raise ValueError(f"network: {role} of {shapes.shown(node.name)} must be a "
                                 f"{'buffer' if role in _BUFFERS else 'parameter'}, got {shapes.shown(name)}")
    own = {}
    for name, options in trained.items():
        own[name] = Parameter(arrays[name], options["requires_grad"] is True)
        own[name].lr_scale = shapes.number("network", "lr_scale", options["lr_scale"], 0)
    made = GraphModule(tuple(map(_text, described["inputs"])), nodes, outputs if isinstance(outputs, str) else
                       {name: _text(value) for name, value in outputs.items()} if isinstance(outputs, dict) else
                       [_text(name) for name in outputs], own, {name: arrays[name].copy() for name in buffers},
                       {name: arrays[name] for name in constants})
    for output, drawn in described["dropouts"].items():
        made._dropouts[output].number, made._dropouts[output].step = drawn["number"], drawn["step"]
        made._dropouts[output]._frozen = drawn.get("frozen") is True
    _freeze(made, described.get("frozen", []))
    sizes = [tuple(shapes.integer("network", "image_shapes", n, 1) for n in shape)
             for shape in described["image_shapes"]]
    _check_sizes(sizes)
    graph = graph_of(made, sizes)       # refuses attributes and shapes that do not fit, and computes nothing
    _check_sizes([node.output.image for node in graph.nodes])
    return made


def _freeze(made: GraphModule, frozen: Any) -> None:
    """Freeze all, for True, or the parameters and buffers of these names."""
    if frozen is True:
        made.freeze()
        return
    own, buffers = dict(made.own_parameters()), dict(made.named_buffers())
    if not isinstance(frozen, list) or not {*map(_text, frozen)} <= {*own, *buffers}:
        raise ValueError(f"network: frozen must be names of parameters and buffers, or true, got "
                         f"{shapes.shown(frozen)}")
    for name in own.keys() & frozen:
        own[name]._frozen = True
    made._still = frozenset(buffers.keys() & frozen)
    made.train()


def _check_sizes(images: Sequence[Sequence[int]]) -> None:
    total = sum(math.prod(image) for image in images)
    if total > MOST_ELEMENTS:
        raise ValueError(f"network: the values of an image have {total:,} elements, the limit is {MOST_ELEMENTS:,}")


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"network: names must be texts, got {shapes.shown(value)}")
    return value


def _tuples(value: Any) -> Any:
    """Lists as tuples, as operations take them."""
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
