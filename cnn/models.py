"""Ready-made networks."""
import numpy as np

from cnn import shapes
from cnn.layers import Conv2d, Flatten, Linear, MaxPool2d, ReLU, Sequential


def lenet5(in_channels=1, num_classes=10, image_size=28, *, seed=0, dtype=np.float32):
    """LeNet-5 (LeCun et al. 1998) as it is built today, with ReLU and max pooling: 61,706 parameters.

    x: (N, in_channels, image_size, image_size), image_size 28 or any from 16; y: scores (N, num_classes).
    The first convolution pads 28x28 images by 2, others not. Raises ValueError for a smaller image_size.
    """
    size = shapes.integer("lenet5", "image_size", image_size, 16)
    rng = np.random.default_rng(shapes.integer("lenet5", "seed", seed, 0, 2**64 - 1))
    more = {"seed": rng, "dtype": dtype}
    padding = 2 if size == 28 else 0
    side = ((size + 2 * padding - 4) // 2 - 4) // 2
    return Sequential(
        Conv2d(in_channels, 6, 5, padding=padding, **more), ReLU(), MaxPool2d(2),
        Conv2d(6, 16, 5, **more), ReLU(), MaxPool2d(2), Flatten(),
        Linear(16 * side * side, 120, **more), ReLU(),
        Linear(120, 84, **more), ReLU(),
        Linear(84, num_classes, **more))


def cifar_quick(in_channels=3, num_classes=10, image_size=32, *, seed=0, dtype=np.float32):
    """Three 5x5 convolutions, each with ReLU and max pooling, and two linear layers: 145,578 parameters.

    After the "quick" network of cuda-convnet and Caffe. x: (N, in_channels, image_size, image_size),
    image_size from 8; y: scores (N, num_classes). Raises ValueError for a smaller image_size.
    """
    size = shapes.integer("cifar_quick", "image_size", image_size, 8)
    rng = np.random.default_rng(shapes.integer("cifar_quick", "seed", seed, 0, 2**64 - 1))
    more = {"seed": rng, "dtype": dtype}
    side = size // 8
    return Sequential(
        Conv2d(in_channels, 32, 5, padding=2, **more), ReLU(), MaxPool2d(2),
        Conv2d(32, 32, 5, padding=2, **more), ReLU(), MaxPool2d(2),
        Conv2d(32, 64, 5, padding=2, **more), ReLU(), MaxPool2d(2), Flatten(),
        Linear(64 * side * side, 64, **more), ReLU(),
        Linear(64, num_classes, **more))


MODELS = {"lenet5": lenet5, "cifar_quick": cifar_quick}
