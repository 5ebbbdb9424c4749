"""The images of a training step by the twins in cnn/reference/augment.py, from the random values that kernels get."""
import numpy as np

from cnn import reference


def changed(change, images, numbers):
    """New images, as `change(images, numbers)` makes them: see cnn.data.transforms.Change."""
    return _TWINS[change.kind](images, numbers, change.option, np.array(change.fill, images.dtype))


_TWINS = {
    "crop": lambda x, numbers, option, fill: reference.crop(x, numbers[:, 0], numbers[:, 1], bool(option)),
    "flip": lambda x, numbers, option, fill: reference.flip(x, numbers[:, 0]),
    "cutout": lambda x, numbers, option, fill: reference.cutout(x, numbers[:, 0], numbers[:, 1], option, fill),
    "affine": lambda x, numbers, option, fill: reference.affine_map(x, numbers / 65536, fill),
}
