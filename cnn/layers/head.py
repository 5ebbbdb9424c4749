"""The head of a network, its last layer with weights, and another in its place."""
from __future__ import annotations

from typing import TYPE_CHECKING

from cnn import shapes
from cnn.layers.conv import Conv2d
from cnn.layers.linear import Linear
from cnn.layers.module import Module
from cnn.layers.parts import named_modules

if TYPE_CHECKING:
    from typing import TypeGuard

    import numpy as np


def head_of(model: Module, name: str | None = None, owner: str = "head_of") -> tuple[str, Linear | Conv2d]:
    """(name, layer) of the layer that makes a network's scores: the last that has weights, in the order of
    `model.named_parameters()`, a Linear or a 1x1 convolution.

    name: of the layer, where that does not tell. owner: who speaks in an error. Raises ValueError, naming layers, where
    there is none, or where the one before it could be meant as well: it has the same inputs.
    """
    shapes.instance(owner, "model", model, Module)
    named = [(title, layer) for title, layer in named_modules(model)
             if any(len(p.shape) > 1 for _, p in layer.own_parameters())]
    if name is not None:
        found = dict(named).get(name)
        if found is None or not _classifies(found):
            heads = [title for title, layer in named if _classifies(layer)]
            raise ValueError(f"{owner}: name must be that of a Linear or a 1x1 convolution, {shapes.shown(heads)}, got "
                             f"{shapes.shown(name)}")
        return name, found
    if not named or not _classifies(named[-1][1]):
        last = f"its last layer with weights is {named[-1][0]!r}, {named[-1][1]!r}" if named else "it has no weights"
        more = ", whose weights cnn.utils.remove_parametrizations makes its own again" if (
            named and "parametrizations" in named[-1][0].split(".")) else ""
        raise ValueError(f"{owner}: the model has no head, a Linear or a 1x1 convolution at its end: {last}{more}")
    title, head = named[-1]
    assert _classifies(head)
    if len(named) > 1 and _beside(named[-2][1], head):
        raise ValueError(f"{owner}: there are several candidates, {named[-2][0]!r} and {title!r}: say which by name=")
    after = [layer for layer in model.modules() if layer.own_parameters()]
    last, outputs = after[-1], head.weight.shape[0]
    if last is not head and outputs != head.weight.shape[1] and all(
            p.shape == (outputs,) for _, p in last.own_parameters()):
        raise ValueError(f"{owner}: {title!r} must be the last layer that has weights, but {last!r} comes after it, "
                         f"for as many classes: replace both by hand")
    return title, head


def replace_head(model: Module, num_classes: int, name: str | None = None,
                 seed: int | np.random.Generator = 0) -> Linear | Conv2d:
    """Put a fresh head for other classes into a network; returns the new layer.

        >>> model = cnn.models.lenet5(seed=0)
        >>> head = cnn.replace_head(model, num_classes=3)
        >>> head, model(np.zeros((1, 1, 28, 28), np.float32)).shape
        (Linear(84, 3), (1, 3))

    The head is the last layer that has weights, in the order of `model.named_parameters()`: a Linear or a 1x1
    convolution. model: any Module. num_classes: outputs of the new layer. name: of the layer to replace, such as
    "fc2", where the last one is not meant. seed: int, or a numpy Generator to draw the weights from. The new layer has
    the dtype of the old one, a bias if that has one, and is not frozen. An optimizer must be made anew.

    Raises TypeError or ValueError for arguments that do not fit; ValueError, naming layers, where there is no head, or
    several layers could be it.
    """
    title, old = head_of(model, name, "replace_head")
    num_classes = shapes.integer("replace_head", "num_classes", num_classes, 1)
    bias, dtype = old.bias is not None, old.weight.dtype
    new = Linear(old.in_features, num_classes, bias, seed=seed, dtype=dtype) if isinstance(old, Linear) else Conv2d(
        old.in_channels, num_classes, 1, old.stride, old.padding, bias=bias, seed=seed, dtype=dtype)
    new.train(old._mode)
    if not exchange(model, old, new):
        raise ValueError(f"replace_head: {title!r} must be a layer inside the model, got the model itself")
    return new


def exchange(model: Module, old: Module, new: Module) -> bool:
    """Put a module in the place of another inside a model, wherever that is; returns whether it was there."""
    found = False
    for module in list(model.modules()):
        for name, value in tuple(vars(module).items()):
            if value is old:
                setattr(module, name, new)
                found = True
            elif isinstance(value, (list, tuple)) and any(v is old for v in value):
                changed = [new if v is old else v for v in value]
                setattr(module, name, tuple(changed) if isinstance(value, tuple) else changed)
                found = True
    return found


def _classifies(layer: Module) -> TypeGuard[Linear | Conv2d]:
    return isinstance(layer, Linear) or (
        isinstance(layer, Conv2d) and layer.kernel_size == (1, 1) and layer.groups == 1)


def _beside(before: Module, head: Linear | Conv2d) -> bool:
    """Whether two layers at the end of a model look like two heads: both read the same, and not one the other."""
    if isinstance(head, Linear) and isinstance(before, Linear):
        return before.in_features == head.in_features != before.out_features
    if isinstance(head, Conv2d) and isinstance(before, Conv2d) and before.kernel_size == (1, 1):
        return before.in_channels == head.in_channels != before.out_channels
    return False
