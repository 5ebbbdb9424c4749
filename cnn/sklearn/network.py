"""The networks of the estimators: one for images of any size, those of cnn.models, or one's own."""
from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from cnn import models
from cnn.layers import AdaptiveAvgPool2d, Conv2d, Flatten, Linear, MaxPool2d, Module, ReLU, Sequential

if TYPE_CHECKING:
    from collections.abc import Callable

WIDTHS = 32, 64, 128
MOST = 8        # pixels a side that the linear layers see, at most


def small_net(in_channels: int, num_classes: int, image_size: int | tuple[int, int], *, seed: int = 0) -> Sequential:
    """Convolutions of 3x3 with ReLU, each but the first after max pooling, and two linear layers.

    There are as many convolutions, of WIDTHS outputs, as it takes to bring the longer side down to MOST pixels by
    halving; sides that are not longer stay. What is longer after the last one is brought down by adaptive average
    pooling. x: (N, in_channels, H, W); image_size: (H, W), or one number for both, from 1; y: (N, num_classes).
    """
    sides = [image_size] * 2 if isinstance(image_size, int) else list(image_size)
    more: dict[str, Any] = {"init": "he_normal", "seed": np.random.default_rng(seed)}
    layers: list[Module] = []
    inputs = in_channels
    for width in WIDTHS:
        if layers and max(sides) <= MOST:
            break
        windows = [2 if layers and side > MOST else 1 for side in sides]
        if max(windows) > 1:
            layers.append(MaxPool2d((windows[0], windows[1])))
        layers += [Conv2d(inputs, width, 3, padding=1, **more), ReLU()]
        sides, inputs = [side // window for side, window in zip(sides, windows, strict=True)], width
    if max(sides) > MOST:
        sides = [min(side, MOST) for side in sides]
        layers.append(AdaptiveAvgPool2d((sides[0], sides[1])))
    return Sequential(*layers, Flatten(), Linear(inputs * sides[0] * sides[1], 128, **more), ReLU(),
                      Linear(128, num_classes, seed=more["seed"]))


def network(owner: str, model: str | Callable[..., Module], shape: tuple[int, int, int], outputs: int,
            seed: int) -> Module:
    """The network that the parameter `model` asks for, for images of this shape (C, H, W)."""
    channels, height, width = shape
    size: int | tuple[int, int] = height if height == width else (height, width)
    if isinstance(model, str):
        if model == "auto":
            return small_net(channels, outputs, size, seed=seed)
        if model not in models.MODELS:
            raise ValueError(f"{owner}: model must be 'auto', {', '.join(map(repr, models.MODELS))} or a function that "
                             f"makes a Module, got {model!r}")
        if height != width:
            raise ValueError(f"{owner}: the model {model} wants square images, got {height}x{width}: use 'auto', or a "
                             f"function that makes a Module")
        return models.MODELS[model](channels, outputs, height, seed=seed)
    if isinstance(model, Module) or not callable(model):
        raise TypeError(f"{owner}: model must be a name or a function that makes a Module, got {type(model).__name__}")
    made = model(channels, outputs, size, seed=seed)
    if not isinstance(made, Module):
        raise TypeError(f"{owner}: the function model must return a Module, got {type(made).__name__}")
    return made
