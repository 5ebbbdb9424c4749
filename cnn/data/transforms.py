"""Random changes to training images, for `DataLoader(transform=...)`: a whole batch at a time, seeded.

Each is called as transform(images, rng) with images (n, C, H, W) and a numpy Generator, and returns images of
the same shape and dtype.
"""
import numpy as np

from .dataset import whole_number


class RandomShift:
    """Moves each image by up to `pixels` up, down, left and right; what comes in from outside is 0.

    pixels: int of at least 0. Raises TypeError or ValueError for anything else.
    """

    def __init__(self, pixels):
        self.pixels = whole_number("RandomShift", "pixels", pixels, least=0)

    def __call__(self, images, rng):
        n, _, height, width = images.shape
        edge = (self.pixels, self.pixels)
        padded = np.pad(images, ((0, 0), (0, 0), edge, edge))
        windows = np.lib.stride_tricks.sliding_window_view(padded, (height, width), axis=(2, 3))
        top, left = rng.integers(0, 2 * self.pixels + 1, (2, n))
        return np.ascontiguousarray(windows[np.arange(n), :, top, left])


class RandomFlip:
    """Mirrors each image left to right with probability 1/2."""

    def __call__(self, images, rng):
        return np.where(rng.integers(0, 2, (len(images), 1, 1, 1), bool), images[..., ::-1], images)


class Compose:
    """Several transforms, one after the other."""

    def __init__(self, *transforms):
        self.transforms = transforms

    def __call__(self, images, rng):
        for transform in self.transforms:
            images = transform(images, rng)
        return images
