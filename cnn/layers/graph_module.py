"""Networks as data: a module made of a list of operations, as files describe networks.

A new operation is one row of OPERATIONS: how to apply it, and how to tell its attributes.
"""
from __future__ import annotations

import itertools
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from cnn import functional, shapes
from cnn.engine.parameter import Parameter
from cnn.graph import apply, build, moving
from cnn.graph.passes import prune
from cnn.layers import graph_rows as more
from cnn.layers.activation import Dropout, Dropout2d
from cnn.layers.module import Module
from cnn.layers.parts import (
    all_in_training,
    frozen_buffers,
    input_names,
    named_modules,
    names_in,
    number_dropouts,
    refuse_norms_in_training,
)
from cnn.ops import norm
from cnn.ops.weighted import Awaited, plain

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from typing import Any, Self

    from cnn.graph import Value


class OperationNode(NamedTuple):
    """One operation of a GraphModule.

    operation: a name from OPERATIONS. inputs: names of the values that it reads. output: the name of the one that it
    makes. attributes: a dict that JSON can hold. parameters: a dict from what the operation calls its parameters and
    buffers ("weight", "running_mean") to their names in the module. name: what it is called in print; texts all.
    """

    operation: str
    inputs: tuple[str, ...]
    output: str
    attributes: Mapping[str, Any] = MappingProxyType({})
    parameters: Mapping[str, str] = MappingProxyType({})
    name: str = ""


class Row(NamedTuple):
    """How to apply an operation: `apply(module, node, values, things, **attributes)` returns a value; things: the
    Parameters and buffers by what the operation calls them. And how to tell the attributes of one: `tell(operation)`
    returns a dict. roles: what it may call its parameters and buffers; those with "?" may be missing."""

    apply: Callable
    tell: Callable = lambda operation: {}
    roles: tuple[str, ...] = ()


def _of_one(function, **fixed):
    """A function of one value, without parameters."""
    return lambda module, node, values, things, **more: function(*values, **fixed, **more)


def _conv2d(module, node, values, things, *, stride=1, padding=0, dilation=1, groups=1):
    return functional.conv2d(*values, things["weight"], things.get("bias"), stride, padding, dilation, groups)


def _linear(module, node, values, things):
    return functional.linear(*values, things["weight"], things.get("bias"))


def _batch_norm(module, node, values, things, *, eps=1e-5, momentum=0.1, unbiased=True, frozen=False):
    x, = values
    name, shape = "batch_norm", (x.image[0],)
    for role, thing in things.items():
        if isinstance(thing, Awaited):
            continue
        shapes.array(name, role, thing._data if isinstance(thing, Parameter) else thing,
                     () if role == "num_batches_tracked" else shape, np.int64 if "tracked" in role else x.dtype)
    momentum = momentum if momentum is None else shapes.number(name, "momentum", momentum, 0, 1)
    mean, var, eps = things.get("running_mean"), things.get("running_var"), shapes.number(name, "eps", eps, 0)
    if (mean is None) != (var is None):
        raise ValueError(f"{name}: running_mean and running_var must both be given, or none of them")
    fixed = things.get("weight"), things.get("bias"), mean, var, eps
    if mean is None:
        return apply(norm.BatchNorm2d(name, *fixed, True, channels=x.image[0]), x)
    still = getattr(module, "_still", ())
    if frozen or not module.training or (still and node.parameters["running_mean"] in still):
        return apply(norm.BatchNorm2d(name, *fixed, unbiased=bool(unbiased)), x)
    tracked = things.get("num_batches_tracked")
    if tracked is None and momentum is None:
        raise ValueError(f"{name}: momentum must be a number where num_batches_tracked is missing, got None")
    tracked = np.zeros((), np.int64) if tracked is None else tracked
    return apply(norm.BatchNorm2d(name, *fixed, True, momentum, tracked, bool(unbiased)), x)


def _group_norm(module, node, values, things, *, groups, eps=1e-5):
    return functional.group_norm(*values, groups, things.get("weight"), things.get("bias"), eps)


def _pooled(kind, adaptive):
    def call(module, node, values, things, *, flat=False, output_size=None, **options):
        name = f"{kind}_pool2d"
        if kind == "avg" and flat and output_size in (1, (1, 1), [1, 1]):
            return build.reduced("mean", *values, (2, 3), False)
        if output_size is None:
            y = getattr(functional, name)(*values, **options)
        else:
            y = adaptive(*values, output_size, **options)
        return y.flatten() if flat else y
    return call


def _tell_pool(operation):
    return dict(operation.options) | (
        {"flat": True} if getattr(operation, "flat", False) else {})


def _dropout(module, node, values, things, *, p=0.5, whole=False, seed=None):
    return module._dropouts[node.output](*values)


def _binary(kind):
    return lambda module, node, values, things: build.arithmetic(kind, *values)


_AFFINE_PARAMETERS = ("weight?", "bias?")

OPERATIONS: dict[str, Row] = {
    "conv2d": Row(_conv2d, lambda o: {name: getattr(o, name) for name in ("stride", "padding", "dilation", "groups")},
                  ("weight", "bias?")),
    "conv_transpose2d": Row(more.conv_transpose2d, more.tell_conv_transpose2d, ("weight", "bias?")),
    "linear": Row(_linear, roles=("weight", "bias?")),
    "batch_norm": Row(_batch_norm, more.tell_batch_norm,
                      (*_AFFINE_PARAMETERS, "running_mean?", "running_var?", "num_batches_tracked?")),
    "group_norm": Row(_group_norm, lambda o: {"groups": o.groups, "eps": o.eps}, _AFFINE_PARAMETERS),
    "layer_norm": Row(more.layer_norm, more.tell_layer_norm, _AFFINE_PARAMETERS),
    "layer_norm2d": Row(more.layer_norm2d, lambda o: {"eps": o.eps}, _AFFINE_PARAMETERS),
    "local_response_norm": Row(more.local_response_norm, lambda o: {
        name: getattr(o, name) for name in ("size", "alpha", "beta", "k", "before")}),
    "max_pool2d": Row(_pooled("max", functional.adaptive_max_pool2d), _tell_pool),
    "avg_pool2d": Row(_pooled("avg", functional.adaptive_avg_pool2d), _tell_pool),
    **{name: Row(_of_one(getattr(functional, name))) for name in (
        "relu", "tanh", "sigmoid", "silu", "gelu", "hardswish", "hardsigmoid", "mish", "exp", "log", "sqrt", "sin",
        "cos", "softmax", "log_softmax")},
    **{f"{name}_over": Row(_of_one(getattr(functional, name)), more.tell_dim) for name in ("softmax", "log_softmax")},
    **{name: Row(_of_one(getattr(functional, name)), lambda o: dict(o.numbers)) for name in (
        "hardtanh", "elu", "softplus")},
    "absolute": Row(_of_one(functional.abs)), "clamp": Row(more.clamp, more.tell_clamp),
    "power": Row(_of_one(functional.pow), lambda o: dict(o.numbers)),
    "gelu_tanh": Row(_of_one(functional.gelu, approximate="tanh")),
    "leaky_relu": Row(_of_one(functional.leaky_relu), lambda o: {"negative_slope": o.scalars["slope"]}),
    "dropout": Row(_dropout, lambda o: {"p": o.p, "whole": o.whole}),
    **{kind: Row(_binary(kind)) for kind in (
        "add", "subtract", "multiply", "divide", "maximum", "minimum", *build.COMPARISONS)},
    "where": Row(lambda module, node, values, things: build.where(*values)),
    "matmul": Row(lambda module, node, values, things: functional.matmul(*values)),
    "affine": Row(more.affine, lambda o: {"factor": o.factor, "summand": o.summand}),
    "reciprocal": Row(more.reciprocal, lambda o: {"number": o.number}),
    **{kind: Row(more.reduced(kind), lambda o: {"dim": [i + 1 for i in o.axes]}) for kind in (
        "sum", "mean", "amax", "amin")},
    "store": Row(more.store, roles=("array",)),
    "detach": Row(lambda module, node, values, things: values[0].detach()),
    "reshape": Row(more.reshape, lambda o: {"image": o.image}),
    "parameter": Row(more.parameter, lambda o: {"image": o.image}, ("parameter",)),
    "slice": Row(more.slice, lambda o: {"first": o.first, "stop": o.stop}),
    **{name: Row(more.pick, more.tell_pick) for name in ("strided_slice", "pad", "interpolate", "permute_channels")},
    "permute": Row(lambda module, node, values, things, *, dims: functional.permute(values[0], dims), lambda o: {
        "dims": list(o.attributes()["dims"])}),
    "bilinear": Row(more.bilinear, more.tell_bilinear),
    **{name: Row(lambda module, node, values, things, *, factor: getattr(functional, node.operation)(*values, factor),
                 lambda o: {"factor": o.factor}) for name in ("pixel_shuffle", "pixel_unshuffle")},
    "cat": Row(lambda module, node, values, things: moving.cat(values)),
    "cat_along": Row(lambda module, node, values, things, *, dim: moving.cat(values, dim), lambda o: {
        "dim": o.axis + 1}),
}


class GraphModule(Module):
    """A network from a list of operations: a module like any other, that is traced, trained and saved.

        >>> net = cnn.layers.GraphModule(
        ...     ["x"], [cnn.layers.OperationNode("linear", ("x",), "h", {}, {"weight": "first.weight"}),
        ...             cnn.layers.OperationNode("relu", ("h",), "y")], "y",
        ...     {"first.weight": np.eye(3, dtype=np.float32)})
        >>> net(np.array([[1, -2, 3]], np.float32)).tolist(), list(net.state_dict())
        ([[1.0, 0.0, 3.0]], ['first.weight'])

    inputs: names of the inputs, in the order of the arguments. nodes: an iterable of OperationNodes, each after those
    whose values it reads. outputs: the name of the output, a list of names, or a dict of them. parameters: arrays or
    Parameters, of any shape that their operations take, by the names that they have in the state. buffers: likewise,
    arrays that are not learnt, such as running statistics. constants: arrays that "parameter" reads, which are no part
    of the state.

    Attributes: inputs, nodes (tuples), outputs. Raises TypeError or ValueError for nodes that do not fit together, and
    on the first use for shapes that do not.
    """

    of_numbers = True
    _still: frozenset[str] = frozenset()        # buffers of batch norms that are frozen, the module itself being not

    def __init__(self, inputs: Iterable[str], nodes: Iterable[OperationNode],
                 outputs: str | Sequence[str] | Mapping[str, str],
                 parameters: Mapping[str, np.ndarray | Parameter] | None = None,
                 buffers: Mapping[str, np.ndarray] | None = None,
                 constants: Mapping[str, np.ndarray] | None = None) -> None:
        super().__init__()
        self.inputs = tuple(inputs)
        self.nodes = tuple(OperationNode(*node) for node in nodes)
        self.outputs = outputs
        # "." in a name would make no attribute: this is what own_parameters, by which all else goes, looks at
        self._own = MappingProxyType({name: p if isinstance(p, Parameter) else Parameter(p)
                                      for name, p in (parameters or {}).items()})
        self._buffers = dict(buffers or {})
        self._constants = MappingProxyType({name: array.copy() for name, array in (constants or {}).items()})
        self._dropouts: Mapping[str, Dropout] = MappingProxyType({})
        self._check()
        kinds = {True: Dropout2d, False: Dropout}
        made = {node.output: kinds[bool(node.attributes.get("whole"))](
            node.attributes.get("p", 0.5), seed=node.attributes.get("seed"))
            for node in self.nodes if node.operation == "dropout"}
        self._dropouts = MappingProxyType(made)
        number_dropouts(self.modules())

    def _check(self) -> None:
        """Raise TypeError or ValueError where names do not fit together."""
        kinds = self._own, self._buffers, self._constants
        if twice := {name for a, b in itertools.combinations(kinds, 2) for name in set(a) & set(b)}:
            raise ValueError(f"GraphModule: {shapes.shown(sorted(twice))} must be a parameter, a buffer or a constant, "
                             f"one of these only")
        known = set(self.inputs)
        if not self.inputs or len(known) < len(self.inputs):
            raise ValueError(f"GraphModule: inputs must be different names, at least one, got "
                             f"{shapes.shown(self.inputs)}")
        for node in self.nodes:
            where = f"GraphModule: node {shapes.shown(node.name or node.output)}"
            if node.operation not in OPERATIONS:
                raise ValueError(f"{where}: operation must be one of {', '.join(OPERATIONS)}, got "
                                 f"{shapes.shown(node.operation)}")
            for name in node.inputs:
                if name not in known:
                    raise ValueError(f"{where}: no node before it makes {shapes.shown(name)}")
            if node.output in known:
                raise ValueError(f"{where}: {shapes.shown(node.output)} is made twice")
            known.add(node.output)
            roles = OPERATIONS[node.operation].roles
            for role in node.parameters:
                if role not in roles and f"{role}?" not in roles:
                    raise ValueError(f"{where}: {node.operation} has no parameter {shapes.shown(role)}")
                if not any(node.parameters[role] in kind for kind in kinds[:3 if role == "parameter" else 2]):
                    raise ValueError(f"{where}: there is no parameter {shapes.shown(node.parameters[role])}")
            own = {*node.parameters, *more.awaited_roles(node, roles)}
            missing = [role for role in roles if not role.endswith("?") and role not in own]
            if missing:
                raise ValueError(f"{where}: {node.operation} must have a parameter {missing[0]!r}")
        for name in self._output_names():
            if name not in known:
                raise ValueError(f"GraphModule: no node makes the output {shapes.shown(name)}")

    def _output_names(self) -> list[str]:
        outputs = self.outputs
        return [outputs] if isinstance(outputs, str) else list(
            outputs.values() if hasattr(outputs, "values") else outputs)

    def __getstate__(self) -> dict:
        return {name: dict(value) if isinstance(value, MappingProxyType) else value
                for name, value in super().__getstate__().items()} | {
            "nodes": tuple(node._replace(attributes=dict(node.attributes), parameters=dict(node.parameters))
                           for node in self.nodes)}

    def own_parameters(self) -> list[tuple[str, Parameter]]:
        """(name, Parameter) of all, by the names that were given."""
        return list(self._own.items())

    def named_children(self) -> list[tuple[str, Module]]:
        """(name, layer) of the dropouts, which have counters of their own."""
        return list(self._dropouts.items())

    def forward(self, *inputs: Value, **named: Value) -> Any:
        """The outputs, put together as `outputs` is, of the inputs, in their order or by their names."""
        values = dict(zip(self.inputs, inputs, strict=False)) | named
        if len(inputs) + len(named) != len(self.inputs) or set(values) != set(self.inputs):
            raise TypeError(f"GraphModule: it takes {len(self.inputs)} inputs, {', '.join(self.inputs)}, got "
                            f"{', '.join([str(len(inputs)), *named])}")
        graph = values[self.inputs[0]].graph
        assert graph is not None        # while it is traced
        for node in self.nodes:
            things = {role: next(kind[name] for kind in (self._own, self._buffers, self._constants) if name in kind)
                      for role, name in node.parameters.items()}
            graph.scope.append(node.name or node.output)
            try:
                given, awaited, rest = more.received(node, [values[name] for name in node.inputs])
                values[node.output] = OPERATIONS[node.operation].apply(self, node, given, things | awaited, **rest)
            finally:
                graph.scope.pop()
        names = self._output_names()
        if isinstance(self.outputs, str):
            return values[names[0]]
        made = [values[name] for name in names]
        return dict(zip(self.outputs, made, strict=True)) if hasattr(self.outputs, "values") else tuple(made)

    def _set_frozen(self, frozen: bool) -> Self:
        self._still = frozenset()
        return super()._set_frozen(frozen)

    def extra_repr(self) -> str:
        """How many operations it has."""
        return f"{len(self.nodes)} operations"

    def __repr__(self) -> str:
        return f"GraphModule({self.extra_repr()})"


def graph_module(model: Module, *image_shapes: Sequence[int]) -> GraphModule:
    """A GraphModule that computes what a model does, with copies of its parameters and buffers under their names.

    image_shapes: of one image of each input, (C, H, W) or (features,). Its nodes are those of the model in training
    mode; what no output depends on is left out. Arrays that `forward` computes with become constants, "constant0" and
    so on, or, where they are weights, parameters that are not trained. What is frozen stays so, until `unfreeze`. Its
    inputs are called as `forward` does.

    Raises TypeError or ValueError for shapes that do not fit, ValueError for a layer that is written in NumPy and for
    an operation without a row in OPERATIONS. No other thread may use the model meanwhile.
    """
    from cnn.layers.running import graph_of
    refuse_norms_in_training("graph_module", model, image_shapes)
    with all_in_training(model):
        graph = prune(graph_of(model, [tuple(shape) for shape in image_shapes]))
    named: dict[int, str] = names_in(model, graph)
    taken = set(named.values())
    given = input_names(model)
    if len(given) != len(graph.inputs) or any(name[0] == "v" and name[1:].isdigit() for name in given):
        given = [f"x{i or ''}" for i in range(len(graph.inputs))]
    values = {id(value): name for name, value in zip(given, graph.inputs, strict=True)}
    own = {id(p) for p in model.parameters()}
    weights = {id(thing) for node in graph.nodes for role, thing in more.things_of(node.operation)
               if role != "parameter" or id(thing) in own}
    parameters: dict[str, Parameter] = {}
    constants: dict[str, np.ndarray] = {}
    buffers: dict[str, np.ndarray] = {name: array.copy() for name, array in model.named_buffers()}
    nodes = []
    for i, node in enumerate(graph.nodes):
        operation = node.operation
        if operation.name not in OPERATIONS or hasattr(operation, "layer"):
            what = ("is a layer written in NumPy: a network that is saved must compute with cnn.functional and the "
                    "operators of values" if hasattr(operation, "layer") else "is no operation of a list")
            raise ValueError(f"graph_module: {operation.name} (module {node.modules[0]!r}) {what}")
        roles = {}
        for role, thing in more.things_of(operation):
            name = named.get(id(thing))
            if name is None:
                name = next(name for i in itertools.count() if (name := f"constant{i}") not in taken)
                named[id(thing)] = name
                taken.add(name)
            roles[role] = name
            if isinstance(thing, Parameter) and id(thing) not in weights:
                if name not in buffers:
                    constants[name] = thing._data
            elif isinstance(thing, Parameter) and name not in parameters:
                parameters[name] = Parameter(thing._data, thing._requires_grad)
                parameters[name].lr_scale, parameters[name]._frozen = thing.lr_scale, thing._frozen
            elif not isinstance(thing, Parameter):
                buffers.setdefault(name, thing.copy())
        values[id(node.output)] = f"v{i}"
        inputs = tuple(values[id(value)] for value in node.inputs) or (given[0],)     # a parameter reads none
        told = OPERATIONS[operation.name].tell(plain(operation)) | more.tell_awaited(operation)
        nodes.append(OperationNode(operation.name, inputs, f"v{i}", told, roles, node.modules[0]))
    buffers = {name: array for name, array in buffers.items() if name not in parameters}
    order = [name for name, _ in model.named_parameters()]
    parameters = {name: parameters[name] for name in sorted(parameters, key=lambda name: (
        order.index(name) if name in order else len(order)))}
    names = [values[id(value)] for value in graph.outputs]
    structure = graph.structure
    outputs = names[0] if structure is None else dict(zip(structure, names, strict=True)) if isinstance(
        structure, tuple) else names
    made = GraphModule(given, nodes, outputs, parameters, buffers, constants)
    named_parts = {name: part for name, part in named_modules(model)}
    for node in made.nodes:
        if node.operation == "dropout" and isinstance(named_parts.get(node.name), Dropout):
            original = named_parts[node.name]
            dropout = made._dropouts[node.output]
            dropout.number, dropout.step, dropout._frozen = original.number, original.step, original._frozen
    made._still, made._frozen = frozen_buffers(model), all(module._frozen for module in model.modules())
    return made.train(model._mode)
