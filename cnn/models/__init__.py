"""Ready-made networks.

What all of these functions take: in_channels and image_size (pixels a side) of the images, num_classes, seed (int of at
least 0, of the initial weights) and dtype (float32 or float64). They return a Sequential, and raise TypeError or
ValueError for arguments that do not fit.
"""
from __future__ import annotations

import inspect

from cnn.models.efficientnet import efficientnet_lite0
from cnn.models.networks import (
    cifar_net,
    cifar_quick,
    lenet5,
    mobilenet_small,
    resnet9,
    resnet20,
    vgg_small,
    whiten,
)
from cnn.models.pretrained import PRETRAINED, Pretrained

__all__ = ["MODELS", "PRETRAINED", "Pretrained", "WHITENED", "cifar_net", "cifar_quick", "efficientnet_lite0", "lenet5",
           "mobilenet_small", "resnet9", "resnet20", "vgg_small", "whiten", "widths"]

MODELS = {"lenet5": lenet5, "cifar_quick": cifar_quick, "vgg_small": vgg_small, "resnet9": resnet9,
          "resnet20": resnet20, "mobilenet_small": mobilenet_small, "cifar_net": cifar_net,
          "efficientnet_lite0": efficientnet_lite0}
WHITENED = {"cifar_net"}    # those that want `whiten` before training


def widths(owner: str, name: str, text: str | None) -> dict[str, list[int]]:
    """The argument `channels` of the model of that name as a dict, from a text such as "64,128,256"; empty where that
    is. Raises ValueError, in the name of `owner`, where the text is something else or the model has no such argument.
    """
    if not text:
        return {}
    if "channels" not in inspect.signature(MODELS[name]).parameters:
        raise ValueError(f"{owner}: channels cannot be chosen for {name}, got {text!r}")
    numbers = text.replace(" ", "").split(",")
    if not all(number.isascii() and number.isdigit() for number in numbers):
        raise ValueError(f"{owner}: channels must be whole numbers such as 64,128,256, got {text!r}")
    return {"channels": [int(number) for number in numbers]}
