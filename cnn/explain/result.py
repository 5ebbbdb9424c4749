"""What an explanation consists of."""
from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from cnn import plots

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Explanation(NamedTuple):
    """What speaks for a class in each of N images.

    maps: (N, H, W) of the images' size, from 0 to 1, the maximum of each image unless nothing speaks for the class.
    raw: what they were made of: of Grad-CAM (N, h, w) of the layer's size, of occlusion (N, H, W), of saliency (N, C,
    H, W). target: int64 (N,), the class that was asked for. scores: (N, K) of the model. images: (N, C, H, W) as they
    were given, or a Predictor's as uint8 or float32. names: N texts, of the classes asked for. layer: name of the one
    whose output Grad-CAM looked at (of the operation, where `forward` itself computes it), else "". Floats have the
    model's number type.
    """

    maps: np.ndarray
    raw: np.ndarray
    target: np.ndarray
    scores: np.ndarray
    images: np.ndarray
    names: tuple[str, ...]
    layer: str = ""

    def plot(self) -> Figure:
        """The images, each with its map over it; see cnn.plots.heat_maps."""
        return plots.heat_maps(self.images, self.maps, self.names)


def scaled(maps: np.ndarray) -> np.ndarray:
    """Maps (N, H, W) without what is below 0, each divided by its maximum unless that is 0."""
    maps = np.maximum(maps, 0)
    most = maps.max(axis=(1, 2), keepdims=True, initial=0)
    return np.divide(maps, most, out=np.zeros_like(maps), where=most > 0)
