"""What losses of each element have in common."""
from __future__ import annotations

from typing import TYPE_CHECKING

from cnn.functional.criteria import reduction_of
from cnn.layers.criterion import Criterion

if TYPE_CHECKING:
    import numpy as np


class OfElements(Criterion):
    """A loss of each element, of scores and targets of one shape."""

    several = False

    def __init__(self, *, reduction: str = "mean") -> None:
        self.reduction = reduction_of(type(self).__name__, reduction)
        self._prepare()

    def _is_one(self, scores: np.ndarray, target: np.ndarray) -> bool:
        return scores.ndim == target.ndim == 0

    def checked(self, targets: np.ndarray, image: tuple[int, ...]) -> np.ndarray:
        """Targets of the scores' shape."""
        if targets.shape[1:] != tuple(image):
            raise ValueError(f"{type(self).__name__}: target must have the shape of the scores, "
                             f"({', '.join(map(str, (len(targets), *image)))}), got {targets.shape}")
        return targets
