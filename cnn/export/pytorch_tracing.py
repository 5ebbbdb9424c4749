"""What torch.fx lists of a PyTorch module's `forward`, in both modes."""
from __future__ import annotations

import inspect
import operator
from collections.abc import Mapping
from typing import Any

from cnn.export.pytorch_values import FOLLOWS, Refused

IN_PLACE = ("iadd", "isub", "imul", "itruediv")


def _traced(torch: Any, module: Any, given: Mapping[str, Any], count: int) -> tuple[list, dict]:
    """What torch.fx lists for `forward` of so many inputs, and the constants that it met."""
    class Proxy(torch.fx.Proxy):
        """Stands for a tensor. `x += y` changes x, and is listed as such."""

    def listed(function):
        return lambda self, other: self.tracer.create_proxy("call_function", function, (self, other), {})

    for name in IN_PLACE:
        setattr(Proxy, f"__{name}__", listed(getattr(operator, name)))

    class Rest(torch.fx.Proxy):
        """Stands for the tuple of all further inputs, `*inputs`."""

        def __iter__(self):
            before = sum(node.op == "placeholder" for node in self.tracer.graph.nodes) - 1 - len(given)
            return iter([self[i] for i in range(count - before)])

    class Tracer(torch.fx.Tracer):
        def proxy(self, node):
            rest = node.op == "placeholder" and node.target.startswith("*")
            return (Rest if rest else Proxy)(node, self)

    if Tracer().is_leaf_module(module, ""):
        graph = torch.fx.Graph()
        graph.output(graph.create_node("call_module", "", tuple(graph.placeholder(f"x{i}") for i in range(count))))
        return list(graph.nodes), {}
    before = set(vars(module))
    try:
        graph = Tracer().trace(module, concrete_args=dict(given))
        return list(graph.nodes), {name: vars(module)[name] for name in set(vars(module)) - before}
    except Exception as error:      # whatever a user's forward raises on stand-ins
        raise ValueError(f"from_torch: forward of {type(module).__name__} cannot be listed by torch.fx: {error}. It "
                         f"must do the same for all inputs: it may depend on attributes, but not on elements, and on "
                         f"sizes only in arithmetic") from error
    finally:
        for name in set(vars(module)) - before:
            delattr(module, name)


def in_both_modes(torch: Any, module: Any, given: Mapping[str, Any], count: int) -> tuple[list, dict]:
    """The nodes in training mode, where what differs in evaluation mode is FOLLOWS; modules that are in evaluation mode
    in a module in training mode stay so."""
    whole, modes = module.training, [(part, part.training) for part in module.modules()]
    if not whole and any(mode for _, mode in modes):
        name = next(name for name, part in module.named_modules() if part.training)
        raise ValueError(f"from_torch: {name} must be in evaluation mode, as the whole module is")
    kept = [(buffer, buffer.clone()) for buffer in module.buffers()]        # running `forward` may count in them
    try:
        for part, mode in modes:
            part.training = mode or not whole
        nodes, constants = _traced(torch, module, given, count)
        for part, _ in modes:
            part.training = False
        others, _ = _traced(torch, module, given, count)
    finally:
        for part, mode in modes:
            part.training = mode
        with torch.no_grad():
            for buffer, before in kept:
                buffer.copy_(before)
    same = dict(zip(others, nodes, strict=False))
    for node, other in zip(nodes, others, strict=False):
        try:
            if node.op != other.op or node.target != other.target:
                raise Refused(f"it calls {node.target} in training mode, and {other.target} in evaluation mode")
            node.args, node.kwargs = _merged(node.args, other.args, same), _merged(node.kwargs, other.kwargs, same)
        except Refused as error:
            raise ValueError(f"from_torch: forward of {type(module).__name__} must do the same in both modes, but for "
                             f"dropout and batch norm; at {node.name} {error}") from None
    if len(nodes) != len(others):
        raise ValueError(f"from_torch: forward of {type(module).__name__} must do the same in both modes, but for "
                         f"dropout and batch norm; got {len(nodes)} and {len(others)} calls")
    return nodes, constants


def _merged(here: Any, there: Any, same: Mapping) -> Any:
    """An argument of a node in training mode, with FOLLOWS where it is True, but False in evaluation mode."""
    if isinstance(here, (tuple, list)) and isinstance(there, (tuple, list)) and len(here) == len(there):
        made = [_merged(a, b, same) for a, b in zip(here, there, strict=True)]
        return tuple(made) if isinstance(here, tuple) else made
    if isinstance(here, dict) and isinstance(there, dict) and list(here) == list(there):
        return {name: _merged(here[name], there[name], same) for name in here}
    if isinstance(here, slice) and isinstance(there, slice):
        return slice(*_merged((here.start, here.stop, here.step), (there.start, there.stop, there.step), same))
    if here is True and there is False:
        return FOLLOWS
    if (here is there) or (same[there] is here if type(there).__name__ == "Node" else here == there):
        return here
    raise Refused(f"an argument is {here} in training mode, and {there} in evaluation mode")


def defaults(module: Any, count: int) -> dict[str, Any]:
    """Defaults of the arguments of `forward` beyond the first so many."""
    told = list(inspect.signature(module.forward).parameters.values())
    given = {}
    for i, argument in enumerate(told):
        if argument.kind in (argument.VAR_POSITIONAL, argument.VAR_KEYWORD):
            continue
        if i >= count and argument.default is argument.empty:
            raise TypeError(f"from_torch: image_shapes must be one for each input, got {count}; forward of "
                            f"{type(module).__name__} takes {', '.join(a.name for a in told)}")
        if i >= count:
            given[argument.name] = argument.default
    if count > sum(argument.kind not in (argument.KEYWORD_ONLY, argument.VAR_KEYWORD) for argument in told):
        raise TypeError(f"from_torch: image_shapes must be one for each input, got {count}; forward of "
                        f"{type(module).__name__} takes {', '.join(a.name for a in told)}")
    return given
