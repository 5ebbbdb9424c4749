"""What exporters are told of a model's data besides the model, checked. owner: who speaks in an error."""
from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cnn import shapes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cnn.graph import Graph


def class_names(owner: str, classes: Any) -> list[str]:
    """Names of classes. Raises TypeError for what is no list of texts."""
    names = shapes.listed(owner, "classes", classes, "texts")
    if not all(isinstance(name, str) for name in names):
        raise TypeError(f"{owner}: classes must be a list of texts, got {shapes.shown(classes)}")
    return names


def check_count(owner: str, classes: Sequence[str] | None, graph: Graph) -> None:
    """Raise ValueError where the first output is (N, K), but K is not the number of classes."""
    image = graph.outputs[0].image
    if classes is not None and len(image) == 1 and len(classes) != image[0]:
        raise ValueError(f"{owner}: classes must have {image[0]} names, one for each output, got {len(classes)}")


def per_channel(owner: str, name: str, numbers: Sequence[float], channels: int) -> list[float]:
    """The mean or the standard deviation of each channel. name: "mean" or "std", which is above 0. Raises TypeError or
    ValueError for what does not fit."""
    numbers = shapes.listed(owner, name, numbers, "numbers")
    if len(numbers) != channels:
        raise ValueError(f"{owner}: {name} must have {channels} numbers, one a channel, got {len(numbers)}")
    return [shapes.number(owner, name, n, above=0 if name == "std" else None) for n in numbers]


def white(owner: str, pixels: Any) -> float:
    """The pixel that is 1 in the unit of mean and standard deviation. pixels: what the model was trained on. Raises
    ValueError for anything but "uint8" and "float32"."""
    if pixels not in ("uint8", "float32"):
        raise ValueError(f'{owner}: pixels must be "uint8" or "float32", got {shapes.shown(pixels)}')
    return 255.0 if pixels == "uint8" else 1.0
