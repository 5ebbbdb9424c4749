"""PyTorch modules as ours. What each module, function and method becomes stands in pytorch_rows.py.

torch.fx runs a module's `forward` on stand-ins and lists what it calls. The same calls are then made on values of ours,
and what they add to the graph becomes a GraphModule.
"""
from __future__ import annotations

import inspect
import itertools
import operator
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from cnn.engine.parameter import Parameter
from cnn.export import pytorch_rows as rows
from cnn.export.pytorch_tracing import IN_PLACE, defaults, in_both_modes
from cnn.export.pytorch_values import Buffer, Moved, Refused, settled
from cnn.graph import Value
from cnn.graph.derived import OWN
from cnn.graph.views import View
from cnn.layers.activation import Dropout, Dropout2d
from cnn.layers.graph_module import OPERATIONS, GraphModule, graph_module
from cnn.layers.module import Module
from cnn.layers.parts import image_shape, number_dropouts

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_NOT_AS_WRITTEN = (ValueError, TypeError, LookupError, ArithmeticError, AttributeError)


class _Imported(Module):
    """What torch.fx has listed, as a module whose `forward` makes the same calls on values.

    things: Parameters, and Buffers with their names, by the ids of their tensors.
    """

    def __init__(self, torch: Any, module: Any, nodes: list, things: Mapping[int, Parameter | Buffer],
                 names: Mapping[str, Parameter], constants: Mapping[str, Any]) -> None:
        super().__init__()
        self.torch, self.module, self.nodes = torch, module, tuple(nodes)
        self.things, self.constants = MappingProxyType(things), MappingProxyType(constants)
        self.functions = MappingProxyType(rows.functions(torch))
        self.parts = MappingProxyType(dict(module.named_modules(remove_duplicate=False)))
        self._own = MappingProxyType(names)
        self._dropouts: Mapping[str, Dropout] = MappingProxyType({})
        self._fixed: Mapping[str, Parameter] = MappingProxyType({})     # buffers that are computed with
        self._buffers = {thing.name: thing.array for thing in things.values() if isinstance(thing, Buffer)}

    def own_parameters(self) -> list[tuple[str, Parameter]]:
        return [*self._own.items(), *self._fixed.items()]

    def named_children(self) -> list[tuple[str, Module]]:
        return list(self._dropouts.items())

    # ------------------------------------------------------------ what rows ask for

    def parameter(self, tensor: Any) -> Any:
        """The Parameter, or Buffer, that a tensor of the module is here; None for None."""
        return None if tensor is None else self.things[id(tensor)]

    def fixed(self, buffer: Buffer) -> Any:
        """A buffer as something to compute with: a Parameter that is not trained, an array where it holds no floats."""
        if buffer.array.dtype.kind != "f":
            return buffer.array
        if buffer.name not in self._fixed:
            self._buffers = {name: array for name, array in self._buffers.items() if name != buffer.name}
            self._fixed = MappingProxyType({**self._fixed, buffer.name: Parameter(buffer.array, False)})
        return self._fixed[buffer.name]

    def batch_norm(self, x: Value, things: Mapping[str, Any], momentum: float | None, eps: float,
                   frozen: bool) -> Value:
        """A batch norm. things: Parameters, and Buffers or None, by what the operation calls them. Where the count of
        the batches is missing, it is taken from beside the running mean, as PyTorch's own batch norm has it. Without
        running statistics, those of the batch are taken in all modes."""
        running = [things[name] for name in ("running_mean", "running_var")]
        if all(thing is None for thing in running):
            own = {role: things[role] for role in ("weight", "bias") if things[role] is not None}
            return OPERATIONS["batch_norm"].apply(self, None, (x,), own, eps=eps)
        if not all(isinstance(thing, Buffer) for thing in running):
            raise Refused("its running_mean and running_var must both be buffers of a module, or none of them")
        place = things["running_mean"].name.rpartition("running_mean")[0]
        beside = next((thing for thing in self.things.values() if isinstance(thing, Buffer)
                       and thing.name == f"{place}num_batches_tracked"), None)
        given = {"num_batches_tracked": beside, **things}
        return OPERATIONS["batch_norm"].apply(self, None, (x,), {
            role: thing.array if isinstance(thing, Buffer) else thing for role, thing in given.items()
            if thing is not None}, momentum=momentum, eps=eps, frozen=frozen)

    def dropout(self, x: Value, p: float, whole: bool, follows: bool) -> Value:
        """A dropout, of a layer of its own, where it follows the mode."""
        if not follows or not p:
            return x
        layer = (Dropout2d if whole else Dropout)(p)
        names = (f"{self.node.name}{f'_{i}' * (i > 0)}" for i in itertools.count())
        self._dropouts = MappingProxyType({**self._dropouts, next(n for n in names if n not in self._dropouts): layer})
        assert x.graph is not None      # while it is traced
        x.graph.modules[id(layer)] = self._place(self.node) or self.node.name
        return layer(x)

    def frozen(self, part: Any) -> bool:
        """Whether a module of PyTorch's stays in evaluation mode while the whole is in training mode."""
        return self.module.training and not part.training

    # ------------------------------------------------------------ running

    def forward(self, *inputs: Value) -> Any:
        self.known: dict[Any, Any] = {}
        self.bases: dict[int, tuple[Any, int | None]] = {}      # by id: a value, and the whole that it is a part of
        left = list(inputs)
        graph = inputs[0].graph
        assert graph is not None        # while it is traced
        for at, node in enumerate(self.nodes):
            self.node = node
            if node.op == "output":
                return self._output(node)
            if node.op == "placeholder":
                self.known[node] = tuple(left) if node.target.startswith("*") else left.pop(0) if left else node.args[0]
                continue
            if node.op == "get_attr":
                self.known[node] = self._attribute(node.target)
                continue
            graph.scope.append(self._place(node))
            try:
                self._call(at, node)
            except Refused as error:
                raise self._error(node, error) from None
            except _NOT_AS_WRITTEN as error:
                raise self._error(node, error) from error
            finally:
                graph.scope.pop()
        raise AssertionError("torch.fx lists an output last")

    def _call(self, at: int, node: Any) -> None:
        args, more = (self._resolved(part) for part in (node.args, node.kwargs))
        if node.op == "call_module":
            part = self.parts[node.target]
            row = rows.MODULES.get(type(part).__name__)
            if row is None or getattr(self.torch.nn, type(part).__name__, None) is not type(part):
                raise Refused(f"there is no module for it here; those known are {', '.join(sorted(rows.MODULES))}")
            if part._forward_hooks or part._forward_pre_hooks or part._backward_hooks:
                raise Refused("it must have no hooks")
            result, in_place = row(self, part, *self._plain(args), **self._plain(more)), getattr(part, "inplace", False)
        else:
            result, in_place = self._called(node, args, more)
        self.known[node] = result
        first = node.args[0] if node.args else None
        if in_place and isinstance(first, self.torch.fx.Node):
            self._changed(at, first, result)
        elif isinstance(result, (Value, Moved, tuple)):
            base = self._whole(self.known.get(first)) if self._is_part(node) and isinstance(first, type(node)) else None
            for made in result if isinstance(result, tuple) else (result,):
                self.bases[id(made)] = made, base if base is not None else self._whole(made)

    def _called(self, node: Any, args: tuple, more: dict) -> tuple[Any, bool]:
        """What a function or method returns, and whether it changes its first argument."""
        name = node.target if node.op == "call_method" else getattr(node.target, "__name__", str(node.target))
        given = list(flat((args, more)))
        values, weights = (any(isinstance(thing, kinds) for thing in given)
                           for kinds in ((Value, Moved, View), (*OWN, Buffer, np.ndarray)))
        if any(isinstance(thing, (*OWN, Buffer)) for thing in given) and not values:
            return rows.of_weights(name, node.op == "call_method", *self._plain(args), **self._plain(more)), False
        if node.op == "call_function" and not values and not weights and rows.is_plain(node.target):
            return node.target(*args, **more), False
        method = node.op == "call_method"
        row = rows.METHODS.get(name) if method else self.functions.get(node.target)
        in_place = name.endswith("_") and not name.startswith("_") or node.target in [
            getattr(operator, other) for other in IN_PLACE]
        if row is None and in_place:
            row = rows.METHODS.get(name[:-1]) if method else self.functions.get(_without_underscore(node.target))
        if row is None:
            known = rows.METHODS if method else {getattr(f, "__name__", str(f)) for f in self.functions}
            raise Refused(f"there is no operation for it here; those known are {', '.join(sorted(known))}")
        bound = inspect.signature(row).bind(self, *args, **more)
        in_place = in_place or bool(bound.arguments.get("inplace"))
        if row not in rows.TAKES_BUFFERS:
            bound = inspect.signature(row).bind(self, *self._plain(args), **self._plain(more))
        return row(*bound.args, **bound.kwargs), in_place

    def _changed(self, at: int, first: Any, result: Any) -> None:
        """A value has been changed in place: whoever reads it from now on reads the result."""
        old = self.known[first]
        whole = self._whole(old)
        later = set(self.nodes[at + 1:])
        for node, value in self.known.items():
            if value is old and node is not self.node:
                self.known[node] = result
            elif value is not result and self._whole(value) == whole and later & set(node.users):
                raise Refused(f"it changes a value in place, of which a part ({node.name}) is read afterwards; use the "
                              f"form that returns a new one")
        self.bases[id(result)] = result, id(result)

    def _is_part(self, node: Any) -> bool:
        """Whether what a node makes may share memory with its first argument in PyTorch."""
        name = type(self.parts[node.target]).__name__ if node.op == "call_module" else node.target if isinstance(
            node.target, str) else getattr(node.target, "__name__", "")
        return name.lower() in rows.PARTS

    def _whole(self, value: Any) -> int | None:
        """The id of the value that another shares its memory with in PyTorch."""
        if not isinstance(value, (Value, Moved)):
            return None
        return self.bases[id(value)][1] if id(value) in self.bases else id(value)

    def _resolved(self, argument: Any) -> Any:
        """An argument with the values of nodes in it."""
        if isinstance(argument, self.torch.fx.Node):
            return self.known[argument]
        if isinstance(argument, (tuple, list)):
            made = [self._resolved(part) for part in argument]
            return tuple(made) if isinstance(argument, tuple) else made
        if isinstance(argument, slice):
            return slice(*(self._resolved(part) for part in (argument.start, argument.stop, argument.step)))
        if isinstance(argument, Mapping):
            return {name: self._resolved(part) for name, part in argument.items()}
        return argument

    def _plain(self, argument: Any) -> Any:
        """An argument without Buffers."""
        if isinstance(argument, Buffer):
            return self.fixed(argument)
        if isinstance(argument, (tuple, list)):
            made = [self._plain(part) for part in argument]
            return tuple(made) if isinstance(argument, tuple) else made
        return {name: self._plain(part) for name, part in argument.items()} if isinstance(argument, dict) else argument

    def _attribute(self, name: str) -> Any:
        if name in self.constants:
            if self.constants[name].requires_grad:
                raise ValueError(f"from_torch: {type(self.module).__name__}: what its forward computes of parameters "
                                 f"alone would be learnt no longer")
            return self.constants[name].detach().cpu().numpy()
        value = operator.attrgetter(name)(self.module)
        return self.things[id(value)] if id(value) in self.things else value.detach().cpu().numpy() if isinstance(
            value, self.torch.Tensor) else value

    def _output(self, node: Any) -> Any:
        result = self._resolved(node.args[0])
        try:
            result = {name: settled(x) for name, x in result.items()} if isinstance(result, dict) else type(result)(
                map(settled, result)) if type(result) in (tuple, list) else settled(result)
        except Refused as error:
            raise self._error(node, error) from None
        for value in result.values() if isinstance(result, dict) else result if isinstance(
                result, (tuple, list)) else [result]:
            if not isinstance(value, Value):
                raise ValueError(f"from_torch: forward must return what it computes, or a tuple or dict of it, got "
                                 f"{type(value).__name__}")
        return result

    def _place(self, node: Any) -> str:
        """The path of the module in which a node is."""
        if node.op == "call_module":
            return node.target
        stack = node.meta.get("nn_module_stack")
        return next(reversed(stack.values()))[0] if stack else ""

    def _error(self, node: Any, error: Exception) -> ValueError:
        what = type(self.parts[node.target]).__name__ if node.op == "call_module" else node.target if isinstance(
            node.target, str) else getattr(node.target, "__name__", str(node.target))
        place = self._place(node)
        return ValueError(f"from_torch: {place or type(self.module).__name__} ({what}): "
                          f"{error or type(error).__name__}")


def flat(argument: Any) -> Iterator[Any]:
    """All that is in lists, tuples and dicts, one after the other."""
    if isinstance(argument, (tuple, list, dict)):
        for part in argument.values() if isinstance(argument, dict) else argument:
            yield from flat(part)
    else:
        yield argument


def _without_underscore(function: Any) -> Any:
    import torch
    name = function.__name__
    return next((getattr(space, name[:-1], None) for space in (torch, torch.nn.functional)
                 if getattr(space, name, None) is function), None)


def _array(torch: Any, name: str, tensor: Any) -> np.ndarray:
    """A tensor's elements, as float32, float64 or integers. Raises ValueError."""
    if tensor.is_meta or isinstance(tensor, torch.nn.parameter.UninitializedTensorMixin):
        raise ValueError(f"from_torch: {name} must have elements: run the module once before")
    if tensor.dtype in (torch.float16, torch.bfloat16) or tensor.is_complex() or tensor.is_quantized:
        raise ValueError(f"from_torch: {name} must be float32 or float64, got {tensor.dtype}; use module.float()")
    return tensor.detach().cpu().numpy().copy()


def from_torch(module: Any, *image_shapes: Sequence[int]) -> GraphModule:
    """A module that computes what a PyTorch module does, with copies of its weights, to be used and trained here.

        net = cnn.from_torch(torchvision.models.resnet18(), (3, 224, 224))
        scores = net(images)

    module: a torch.nn.Module whose `forward` torch.fx can trace. image_shapes: of one image of each input, (C, H, W) or
    (features,), the sizes that the result is made for; further arguments of `forward` keep their defaults. Parameters
    and buffers have the module's dtype and the names of `module.state_dict()`, the first of them where several layers
    share one. Those with requires_grad=False stay so. The mode is the module's, which is left as it is; what is in
    evaluation mode in a module in training mode stays in it.

    Raises ModuleNotFoundError without PyTorch, TypeError for arguments of other kinds, and ValueError, with the path
    and type of the module or the name of the function, for what cannot be expressed here; docs/pytorch.md has a list.
    """
    try:
        import torch
        import torch.fx
    except ModuleNotFoundError:
        raise ModuleNotFoundError("from_torch needs PyTorch: pip install 'cnn[torch]'") from None
    if not isinstance(module, torch.nn.Module):
        raise TypeError(f"from_torch: module must be a torch.nn.Module, got {type(module).__name__}")
    images = [image_shape("from_torch", shape) for shape in image_shapes]
    if not images:
        raise TypeError("from_torch: image_shapes must be one (C, H, W) or (features,) for each input, got none")
    things: dict[int, Parameter | Buffer] = {}
    names: dict[str, Parameter] = {}
    for name, p in module.named_parameters():
        things[id(p)] = names[name] = Parameter(_array(torch, name, p), p.requires_grad)
    for name, tensor in module.named_buffers():
        things[id(tensor)] = Buffer(name, _array(torch, name, tensor))
    if len({p.dtype for p in names.values()}) > 1:
        raise ValueError(f"from_torch: all parameters must have one dtype, got "
                         f"{', '.join(sorted({str(p.dtype) for p in names.values()}))}")
    nodes, constants = in_both_modes(torch, module, defaults(module, len(images)), len(images))
    imported = _Imported(torch, module, nodes, things, names, constants)
    made = graph_module(imported, *images)
    number_dropouts(made.modules())
    return made.train(module.training)
