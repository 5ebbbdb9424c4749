"""What a network computes before its head, once for a data set."""
from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cnn import shapes
from cnn.data import Dataset
from cnn.layers.head import exchange, head_of
from cnn.layers.module import Module
from cnn.training import evaluation

if TYPE_CHECKING:
    from cnn.graph import Value


class _Catch(Module):
    """In the place of the head: keeps what it reads."""

    def forward(self, x: Value) -> Value:
        vars(self)["read"] = x      # no change that a model would have to notice
        return x


class _Body(Module):
    """A model up to where a _Catch is."""

    def __init__(self, model: Module, catch: _Catch) -> None:
        super().__init__()
        self.model, self.catch = model, catch

    def named_children(self) -> list[tuple[str, Module]]:
        return [("model", self.model)]

    def forward(self, x: Value) -> Value:
        self.model(x)
        return vars(self.catch).pop("read")


def features(model: Module, dataset: Dataset, name: str | None = None) -> Dataset:
    """What the head of a network reads, for each image of a data set, in evaluation mode: a Dataset to train it on.

        >>> train, test = cnn.data.load("mnist-sample")
        >>> model = cnn.models.lenet5(seed=0)
        >>> head = cnn.replace_head(model, num_classes=10)
        >>> known = cnn.features(model, train)
        >>> known
        <Dataset mnist-sample: 4000 images of 84x1x1 float32, 10 classes>
        >>> trainer = cnn.Trainer(cnn.Sequential(cnn.Flatten(), head), cnn.SGD(head.parameters(), 0.05), progress=False)
        >>> history = trainer.fit(known, epochs=5)

    Where the body is not trained this saves its passes in every epoch. It is as if the body was frozen, and images
    cannot be changed at random.

    model: a Module. dataset: its images, which are normalised as it says. name: of the head, see cnn.replace_head. The
    result has the same labels and classes, and float32 images (N, D, 1, 1), D numbers for a Linear, or (N, C, H, W)
    for a 1x1 convolution. No other thread may use the model meanwhile.

    Raises TypeError or ValueError for what does not fit, ValueError where the head is not known (see
    cnn.replace_head), or the features are not finite.
    """
    if not isinstance(dataset, Dataset):
        raise TypeError(f"features: dataset must be a Dataset, got {type(dataset).__name__}")
    if not len(dataset):
        raise ValueError("features: dataset must hold at least one image, got none")
    title, head = head_of(model, name, "features")
    catch = _Catch()
    if not exchange(model, head, catch):
        raise ValueError(f"features: {title!r} must be a layer inside the model, got the model itself")
    try:
        found = evaluation.predict(_Body(model, catch), dataset, None)
    finally:
        exchange(model, catch, head)
    images = found.astype(np.float32, copy=False).reshape(*found.shape[:2], *(found.shape[2:] or (1, 1)))
    if not np.isfinite(images).all():
        raise ValueError(f"features: what {shapes.shown(title)} reads must be finite, got NaN or infinity")
    return Dataset(images, dataset.labels, dataset.classes, name=dataset.name)
