"""Groups of parameters, each with options of its own."""
from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from cnn import shapes
from cnn.engine.parameter import Parameter

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    Params = Iterable[Parameter] | Iterable[Mapping[str, Any]]     # or parameter groups, see Optimizer


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


def checked_parameters(name: str, params: Iterable[Parameter]) -> list[Parameter]:
    try:
        params = list(params)
    except TypeError:
        raise TypeError(f"{name}: params must be a list of Parameters, got {type(params).__name__}") from None
    for p in params:
        if not isinstance(p, Parameter):
            raise TypeError(f"{name}: params must be Parameters, got {type(p).__name__}")
    return params


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
