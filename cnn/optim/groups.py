"""Groups of parameters, each with options of its own."""
from __future__ import annotations

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from cnn import shapes
from cnn.engine.parameter import Parameter

if TYPE_CHECKING:
    from typing import Any

    # Parameters, with or without their names, or parameter groups, see Optimizer
    Params = Iterable[Parameter] | Iterable[tuple[str, Parameter]] | Iterable[Mapping[str, Any]]


class Group:
    """Parameters that are updated alike: lr_scale times the optimizer's learning rate, with these options."""

    def __init__(self, params: list[Parameter], lr_scale: float, options: dict) -> None:
        self.params, self.lr_scale, self.options = params, lr_scale, options


def entries(name: str, params: Params) -> list[Mapping]:
    """The groups as dicts; a list of Parameters is one."""
    try:
        given = list(params)
    except TypeError:
        raise TypeError(f"{name}: params must be a list of Parameters, got {type(params).__name__}") from None
    groups = [entry for entry in given if isinstance(entry, Mapping)]
    return groups if groups and len(groups) == len(given) else [{"params": given}]


def checked_parameters(name: str, params: Iterable[Parameter] | Iterable[tuple[str, Parameter]]) -> list[Parameter]:
    try:
        given: list[Any] = list(params)
    except TypeError:
        raise TypeError(f"{name}: params must be a list of Parameters, got {type(params).__name__}") from None
    found = [entry[1] if _named(entry) else entry for entry in given]
    for p in found:
        if not isinstance(p, Parameter):
            raise TypeError(f"{name}: params must be Parameters, got {type(p).__name__}")
    return found


def _named(pair: object) -> bool:
    """Whether it is one of what `Module.named_parameters` returns."""
    return isinstance(pair, tuple) and len(pair) == 2 and isinstance(pair[0], str)


def shapes_of(params: Iterable[Parameter]) -> list[list[int]]:
    return [list(p.shape) for p in params]


def split_biases(params: Iterable[Parameter], **options: float) -> list[dict]:
    """Two parameter groups: the weights, and with these options what has one axis (biases, a norm's two arrays).

        SGD(split_biases(model.parameters(), weight_decay=0), lr=0.1, weight_decay=5e-4)

    params: Parameters, each of which keeps its place among those of its group. Raises TypeError for others.
    """
    params = checked_parameters("split_biases", params)
    return [{"params": [p for p in params if len(p.shape) > 1]},
            {"params": [p for p in params if len(p.shape) <= 1], **options}]


def parameter_groups(params: Iterable[Parameter], lr: float, weight_decay: float = 0.0, bias_lr: float = 1.0,
                     decay_biases: bool = True) -> list[dict]:
    """Parameter groups by what a parameter is: biases (and all else of one axis) apart, as is each `lr_scale`.

        SGD(parameter_groups(model.parameters(), lr=0.1, weight_decay=5e-4, bias_lr=2), lr=0.1)

    params: Parameters. A parameter's learning rate is lr times its `lr_scale`, and for biases times bias_lr, above 0.
    Its weight decay is weight_decay divided by the same, so that decay takes off as much in a step of SGD as without.
    decay_biases: false leaves biases without weight decay. Parameters that are alike keep their order. Raises TypeError
    or ValueError for arguments that do not fit.
    """
    name = "parameter_groups"
    groups: dict[tuple[float, float], list[Parameter]] = {}
    lr, weight_decay = shapes.number(name, "lr", lr, 0), shapes.number(name, "weight_decay", weight_decay, 0)
    bias_lr = shapes.number(name, "bias_lr", bias_lr, above=0)
    for p in checked_parameters(name, params):
        bias = len(p.shape) <= 1
        factor = p.lr_scale * bias_lr if bias else p.lr_scale
        decay = weight_decay / factor if decay_biases or not bias else 0.0
        groups.setdefault((factor, decay), []).append(p)
    return [{"params": alike, "lr": lr * factor, "weight_decay": decay} for (factor, decay), alike in groups.items()]


def named_groups(named_parameters: Iterable[tuple[str, Parameter]], options: Mapping[str, Mapping[str, Any]]
                 ) -> list[dict]:
    """Parameter groups by name: what matches a pattern gets the pattern's options, all else the optimizer's own.

        SGD(named_groups(model.named_parameters(), {"head.*": {"lr": 0.1}, "*.bias": {"weight_decay": 0}}), lr=0.01)

    named_parameters: (name, Parameter) pairs. options: by pattern a dict of options of the optimizer, such as lr and
    weight_decay. A pattern is that of Python's fnmatch: * for any characters, ? for one. A parameter belongs to the
    first pattern that matches its name. The groups stand in the order of the patterns, after one with all else.

    Raises ValueError for a pattern that no parameter is left for, TypeError for arguments of another kind.
    """
    name = "named_groups"
    pairs = list(named_parameters) if isinstance(named_parameters, Iterable) else []
    if not pairs or not all(_named(pair) for pair in pairs):
        raise TypeError(f"{name}: named_parameters must be (name, Parameter) pairs, as those of "
                        f"model.named_parameters()")
    params = checked_parameters(name, pairs)
    if not isinstance(options, Mapping) or not all(
            isinstance(pattern, str) and isinstance(own, Mapping) for pattern, own in options.items()):
        raise TypeError(f"{name}: options must be a dict of dicts by pattern, got {shapes.shown(options)}")
    groups: list[dict] = [{"params": []}, *({"params": [], **own} for own in options.values())]
    for (title, _), p in zip(pairs, params, strict=True):
        matching = [i for i, pattern in enumerate(options, 1) if fnmatchcase(title, pattern)]
        groups[matching[0] if matching else 0]["params"].append(p)
    for pattern, group in zip(options, groups[1:], strict=True):
        if not group["params"]:
            taken = any(fnmatchcase(title, pattern) for title, _ in pairs)
            raise ValueError(f"{name}: the pattern {pattern!r} must match a parameter"
                             + (" that no pattern before it matches" if taken else "") + ", the parameters are "
                             + shapes.shown([title for title, _ in pairs]))
    return groups if groups[0]["params"] else groups[1:]
