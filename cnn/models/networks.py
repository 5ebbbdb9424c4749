"""Small networks with weights at random.

What all of these functions take: in_channels and image_size (pixels a side) of the images, num_classes, seed (int of at
least 0, of the initial weights) and dtype (float32 or float64). They return a Sequential, and raise TypeError or
ValueError for arguments that do not fit.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cnn import shapes
from cnn.layers import (
    GELU,
    BatchNorm2d,
    Conv2d,
    Flatten,
    GlobalAvgPool2d,
    Linear,
    MaxPool2d,
    ReLU,
    Residual,
    Sequential,
)

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from numpy.typing import DTypeLike

    from cnn.layers import Module


def lenet5(in_channels: int = 1, num_classes: int = 10, image_size: int = 28, *, seed: int = 0,
           dtype: DTypeLike = np.float32) -> Sequential:
    """LeNet-5 (LeCun et al. 1998) as it is built today, with ReLU and max pooling: 61,706 parameters.

    x: (N, in_channels, image_size, image_size), image_size 28 or any from 16; y: scores (N, num_classes).
    The first convolution pads 28x28 images by 2, others not. Raises ValueError for a smaller image_size.
    """
    size = shapes.integer("lenet5", "image_size", image_size, 16)
    rng = np.random.default_rng(shapes.integer("lenet5", "seed", seed, 0, 2**64 - 1))
    more: dict[str, Any] = {"seed": rng, "dtype": dtype}
    padding = 2 if size == 28 else 0
    side = ((size + 2 * padding - 4) // 2 - 4) // 2
    return Sequential(
        Conv2d(in_channels, 6, 5, padding=padding, **more), ReLU(), MaxPool2d(2),
        Conv2d(6, 16, 5, **more), ReLU(), MaxPool2d(2), Flatten(),
        Linear(16 * side * side, 120, **more), ReLU(),
        Linear(120, 84, **more), ReLU(),
        Linear(84, num_classes, **more))


def cifar_quick(in_channels: int = 3, num_classes: int = 10, image_size: int = 32, *, seed: int = 0,
                dtype: DTypeLike = np.float32) -> Sequential:
    """Three 5x5 convolutions, each with ReLU and max pooling, and two linear layers: 145,578 parameters.

    After the "quick" network of cuda-convnet and Caffe (Jia et al. 2014). x: (N, in_channels, image_size, image_size),
    image_size from 8; y: scores (N, num_classes). Raises ValueError for a smaller image_size.
    """
    size = shapes.integer("cifar_quick", "image_size", image_size, 8)
    rng = np.random.default_rng(shapes.integer("cifar_quick", "seed", seed, 0, 2**64 - 1))
    more: dict[str, Any] = {"seed": rng, "dtype": dtype}
    side = size // 8
    return Sequential(
        Conv2d(in_channels, 32, 5, padding=2, **more), ReLU(), MaxPool2d(2),
        Conv2d(32, 32, 5, padding=2, **more), ReLU(), MaxPool2d(2),
        Conv2d(32, 64, 5, padding=2, **more), ReLU(), MaxPool2d(2), Flatten(),
        Linear(64 * side * side, 64, **more), ReLU(),
        Linear(64, num_classes, **more))


def vgg_small(in_channels: int = 3, num_classes: int = 10, image_size: int = 32,
              channels: Sequence[int] = (64, 128, 256), *, seed: int = 0, dtype: DTypeLike = np.float32) -> Sequential:
    """Pairs of 3x3 convolutions, each with batch norm and ReLU, then max pooling; one linear layer.

    After VGG (Simonyan & Zisserman 2015) with batch norm. channels: the width of each pair. x: (N, in_channels,
    image_size, image_size), image_size from 2**len(channels); y: scores (N, num_classes). Raises ValueError for a
    smaller image_size.
    """
    widths, size, more = _checked("vgg_small", channels, image_size, seed, dtype)
    layers, inputs = [], in_channels
    for width in widths:
        layers += [*_conv_norm_relu(inputs, width, **more), *_conv_norm_relu(width, width, **more), MaxPool2d(2)]
        inputs = width
    return Sequential(*layers, Flatten(), Linear(inputs * size**2, num_classes, seed=more["seed"], dtype=dtype))


def resnet9(in_channels: int = 3, num_classes: int = 10, image_size: int = 32,
            channels: Sequence[int] = (64, 128, 256, 512), *, seed: int = 0,
            dtype: DTypeLike = np.float32) -> Sequential:
    """A wide and shallow residual net, fast to high accuracies on CIFAR-10.

    After David Page's net for DAWNBench (2018): 3x3 convolutions with batch norm and ReLU onto channels[0]; onto
    channels[1] and [3], each with max pooling and a residual pair of the same width after it; onto channels[2]
    between them, with max pooling; the maximum over all pixels; one linear layer. x: (N, in_channels, image_size,
    image_size), image_size from 8; y: scores (N, num_classes). Raises ValueError for a smaller image_size.
    """
    widths, size, more = _checked("resnet9", channels, image_size, seed, dtype, halvings=-1, least=4, most=4)

    def residual(width: int) -> Residual:
        return Residual(Sequential(*_conv_norm_relu(width, width, **more), *_conv_norm_relu(width, width, **more)))

    return Sequential(
        *_conv_norm_relu(in_channels, widths[0], **more),
        *_conv_norm_relu(widths[0], widths[1], **more), MaxPool2d(2), residual(widths[1]),
        *_conv_norm_relu(widths[1], widths[2], **more), MaxPool2d(2),
        *_conv_norm_relu(widths[2], widths[3], **more), MaxPool2d(2), residual(widths[3]),
        MaxPool2d(size), Flatten(), Linear(widths[3], num_classes, seed=more["seed"], dtype=dtype))


def resnet20(in_channels: int = 3, num_classes: int = 10, image_size: int = 32, channels: Sequence[int] = (16, 32, 64),
             blocks: int = 3, *, seed: int = 0, dtype: DTypeLike = np.float32) -> Sequential:
    """The ResNet for CIFAR (He et al. 2016, section 4.2): 20 layers with 3 blocks a stage, 6 * blocks + 2 in general.

    A 3x3 convolution onto channels[0]; for each of `channels` as many blocks, which add two 3x3 convolutions to
    their input, the first of each stage but the first with stride 2; the average over all pixels; one linear
    layer. Batch norm follows every convolution. Where shapes change, the shortcut is a 1x1 convolution (the paper's
    option B). x: (N, in_channels, image_size, image_size), image_size from 2**(len(channels) - 1); y: scores
    (N, num_classes). Raises ValueError for a smaller image_size.
    """
    widths, _, more = _checked("resnet20", channels, image_size, seed, dtype, halvings=-1)
    blocks = shapes.integer("resnet20", "blocks", blocks, 1)
    layers, inputs = _conv_norm_relu(in_channels, widths[0], **more), widths[0]
    for stage, width in enumerate(widths):
        for block in range(blocks):
            stride = 2 if stage and not block else 1
            body = [*_conv_norm_relu(inputs, width, stride=stride, **more), *_conv_norm_relu(width, width, **more)]
            shortcut = None
            if stride > 1 or inputs != width:
                shortcut = Sequential(*_conv_norm_relu(inputs, width, 1, stride=stride, **more)[:-1])
            layers += [Residual(Sequential(*body[:-1]), shortcut), ReLU()]
            inputs = width
    return Sequential(*layers, GlobalAvgPool2d(), Linear(inputs, num_classes, seed=more["seed"], dtype=dtype))


def mobilenet_small(in_channels: int = 3, num_classes: int = 10, image_size: int = 32,
                    channels: Sequence[int] = (8, 16, 32, 64, 128), *, seed: int = 0,
                    dtype: DTypeLike = np.float32) -> Sequential:
    """Depthwise separable convolutions, after MobileNet (Howard et al. 2017), for small images.

    A 3x3 convolution onto channels[0]; for each other width two depthwise 3x3 convolutions, each with a 1x1
    convolution onto that width after it, the first with stride 2 (but for the first width); the average over all
    pixels; one linear layer. Batch norm and ReLU follow every convolution. The default widths are a quarter of those
    of the paper, its smallest net; (32, 64, 128, 256, 512) are its full ones. x: (N, in_channels, image_size,
    image_size), image_size from 2**(len(channels) - 2); y: scores (N, num_classes). Raises ValueError for a
    smaller image_size.
    """
    widths, _, more = _checked("mobilenet_small", channels, image_size, seed, dtype, halvings=-2, least=2)
    layers, inputs = _conv_norm_relu(in_channels, widths[0], **more), widths[0]
    for stage, width in enumerate(widths[1:]):
        for stride in (2 if stage else 1, 1):
            layers += _conv_norm_relu(inputs, inputs, stride=stride, groups=inputs, **more)
            layers += _conv_norm_relu(inputs, width, 1, **more)
            inputs = width
    return Sequential(*layers, GlobalAvgPool2d(), Linear(inputs, num_classes, seed=more["seed"], dtype=dtype))


def cifar_net(in_channels: int = 3, num_classes: int = 10, image_size: int = 32,
              channels: Sequence[int] = (64, 256, 256), *, seed: int = 0, dtype: DTypeLike = np.float32) -> Sequential:
    """The net of K. Jordan, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU" (2024), which learns fast.

    A 2x2 convolution that whitens, onto 8 * in_channels, and GELU; for each of `channels` two 3x3 convolutions,
    each with batch norm and GELU after it, and max pooling after the first; the maximum over all pixels; one linear
    layer. x: (N, in_channels, image_size, image_size), image_size from 2**len(channels) + 1; y: scores
    (N, num_classes). Raises ValueError for a smaller image_size.

    The weights of the first convolution and of batch norm do not learn; those of the first are to be set by `whiten`.
    The other convolutions begin as the identity, as far as they have input channels, and otherwise at random. The
    paper divides the scores by nine; here the last layer's weights are divided instead, and their `lr_scale` is
    1/81, which under SGD (with `optim.parameter_groups`) comes to the same.
    """
    widths, size, more = _checked("cifar_net", channels, image_size, seed, dtype, lost=1)

    def conv(inputs: int, outputs: int) -> Conv2d:
        layer = Conv2d(inputs, outputs, 3, padding=1, bias=False, **more)
        same = np.arange(min(inputs, outputs))
        layer.weight.data[same] = 0
        layer.weight.data[same, same, 1, 1] = 1
        return layer

    def norm(width: int) -> BatchNorm2d:    # the paper's momentum is the share that is kept
        layer = BatchNorm2d(width, momentum=0.4, dtype=dtype)
        assert layer.weight is not None     # as always with affine
        layer.weight.requires_grad = False
        return layer

    first = Conv2d(in_channels, 8 * in_channels, 2, **more)
    first.weight.requires_grad = False
    assert first.bias is not None
    first.bias.data = np.zeros(first.bias.shape)
    layers, inputs = [first, GELU()], first.out_channels
    for width in widths:
        layers += [conv(inputs, width), MaxPool2d(2), norm(width), GELU(), conv(width, width), norm(width), GELU()]
        inputs = width
    last = Linear(inputs, num_classes, bias=False, seed=more["seed"], dtype=np.float64)
    last.weight.data /= 9
    last.to(dtype)
    last.weight.lr_scale = 1 / 81
    return Sequential(*layers, MaxPool2d(size), Flatten(), last)


def whiten(model: Module, images: np.ndarray, eps: float = 5e-4) -> None:
    """Set the weights of a model's first convolution so that its outputs are uncorrelated and alike large.

    The first of the model, as in `cifar_net`: it must see the images and have twice as many outputs as a patch has
    numbers.

    They are the eigenvectors v of E[x x^T], x being the patches that the convolution sees, over the root of their
    eigenvalue + eps; and -v, because GELU hides what is negative. images: (N, C, H, W), float, normalised as in
    training; N at least 1. The same bits for any number of threads. Raises ValueError for images that do not fit.
    """
    weight = next((p for p in model.parameters() if p.data.ndim == 4), None)
    if weight is None:
        raise ValueError("whiten: the model must have a convolution, got none")
    outputs, wanted, rows, columns = weight.shape
    if outputs != 2 * wanted * rows * columns:
        raise ValueError(f"whiten: the first convolution must have {2 * wanted * rows * columns} outputs, twice the "
                         f"elements of a patch, got {outputs}")
    if images.ndim != 4 or images.shape[1] != wanted or min(images.shape[2:]) < max(rows, columns) or not len(images):
        raise ValueError(f"whiten: images must have shape (N, {wanted}, H, W), N at least 1, got {images.shape}")
    moments, count = 0.0, 0
    for start in range(0, len(images), 256):
        part = images[start:start + 256].astype(np.float64)
        patches = np.lib.stride_tricks.sliding_window_view(part, (rows, columns), axis=(2, 3))
        patches = patches.transpose(1, 4, 5, 0, 2, 3).reshape(wanted * rows * columns, -1)
        moments = moments + np.einsum("ip,jp->ij", patches, patches)    # not by BLAS, whose sums may depend on threads
        count += patches.shape[1]
    if not np.isfinite(moments).all():
        raise ValueError("whiten: images must be finite, got NaN or infinity")
    values, vectors = np.linalg.eigh(moments / count)
    filters = (vectors / np.sqrt(np.maximum(values, 0) + eps)).T[::-1].reshape(-1, wanted, rows, columns)
    weight.data = np.concatenate([filters, -filters])


def _conv_norm_relu(inputs: int, outputs: int, kernel_size: int = 3, *, seed: np.random.Generator, dtype: DTypeLike,
                    **options: int) -> list[Module]:
    """A convolution that keeps the size (but for its stride), batch norm and ReLU, as a list."""
    return [Conv2d(inputs, outputs, kernel_size, padding=kernel_size // 2, bias=False, init="he_normal", seed=seed,
                   dtype=dtype, **options), BatchNorm2d(outputs, dtype=dtype), ReLU()]


def _checked(owner: str, channels: Sequence[int], image_size: int, seed: int, dtype: DTypeLike, halvings: int = 0,
             least: int = 1, most: int = 16, lost: int = 0) -> tuple[list[int], int, dict]:
    """Widths, `least` to `most` of them, as a list; the image's side without the `lost` pixels after as many halvings
    as there are widths, and `halvings` more; and the layers' options."""
    if not isinstance(channels, (tuple, list)):
        raise TypeError(f"{owner}: channels must be a tuple of integers, got {channels!r}")
    if not least <= len(channels) <= most:
        raise ValueError(f"{owner}: channels must be {least}{f' to {most}' if most > least else ''} integers, got "
                         f"{channels!r}")
    channels = [shapes.integer(owner, "channels", width, 1) for width in channels]
    smallest = 2**(len(channels) + halvings)
    size = shapes.integer(owner, "image_size", image_size, smallest + lost) - lost
    rng = np.random.default_rng(shapes.integer(owner, "seed", seed, 0, 2**64 - 1))
    return channels, size // smallest, {"seed": rng, "dtype": dtype}
