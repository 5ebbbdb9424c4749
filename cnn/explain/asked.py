"""What is to be explained: the arguments that all explanations share."""
from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cnn import shapes
from cnn.layers.module import Module
from cnn.prediction import Predictor

if TYPE_CHECKING:
    from typing import Any, TypeAlias

    Target: TypeAlias = int | str | list[int] | list[str] | tuple[int, ...] | tuple[str, ...] | np.ndarray | None


class Asked:
    """A model, images and the classes that are asked for.

    owner: who speaks in an error. model: a Module or Predictor. images: (N, C, H, W) for a Module, whatever a Predictor
    takes for that. target: see `grad_cam`.

    Attributes: `model`, a Module; `classes`, names or None; `images`, as they are shown; `x`, as the model takes them,
    (N, C, H, W).

    Raises TypeError or ValueError for what does not fit.
    """

    def __init__(self, owner: str, model: Module | Predictor, images: Any, target: Target) -> None:
        self.owner, self._target = owner, target
        self.classes: tuple[str, ...] | None = None
        self.predictor = model if isinstance(model, Predictor) else None
        if isinstance(model, Predictor):
            self.model, self.classes = model.model, model.classes or None
            self.images = model.images(images)
            self.x = model.inputs(self.images)
        elif isinstance(model, Module):
            self.model = model
            self.images = self.x = self._checked(images)
        else:
            raise TypeError(f"{owner}: model must be a Module or a Predictor, got {type(model).__name__}")
        self._targets = self._numbers()

    def _checked(self, images: Any) -> np.ndarray:
        if not isinstance(images, np.ndarray):
            raise TypeError(f"{self.owner}: images must be an array (N, C, H, W), got {type(images).__name__}; "
                            f"pictures need a Predictor (cnn.load)")
        hint = "; give (uint8 / 255 - mean) / std, as Dataset.normalise does" if images.dtype == np.uint8 else ""
        wanted = self.model.dtype
        if images.dtype.kind != "f" or (wanted and images.dtype != wanted):
            raise TypeError(f"{self.owner}: images must be {wanted or 'float32 or float64'}, got {images.dtype}{hint}")
        x = shapes.array(self.owner, "images", images)
        if x.ndim != 4 or 0 in x.shape[1:]:
            raise ValueError(f"{self.owner}: images must have shape (N, C, H, W) and pixels, got {x.shape}")
        return x

    def _numbers(self) -> np.ndarray | None:
        """The targets' numbers (N,) or None, without knowing how many classes there are."""
        target, count = self._target, len(self.x)
        if target is None:
            return None
        several = isinstance(target, (list, tuple)) or isinstance(target, np.ndarray) and target.ndim > 0
        if isinstance(target, np.ndarray) and (target.ndim > 1 or target.dtype.kind not in "iu"):
            raise TypeError(f"{self.owner}: target must be a class, or an array (N,) of integers, got "
                            f"{target.dtype} of shape {target.shape}")
        single = target[()] if isinstance(target, np.ndarray) else target
        given = list(target) if several else [single] * count      # type: ignore[arg-type]
        if len(given) != count:
            raise ValueError(f"{self.owner}: target must be one class, or one for each of {count} images, got "
                             f"{len(given)}")
        numbers = [self._number(one) for one in (given if given or several else [single])]
        return np.array(numbers[:count], np.int64)

    def _number(self, one: Any) -> int:
        if isinstance(one, str):
            if self.classes is None:
                raise TypeError(f"{self.owner}: target must be the number of a class, got {shapes.shown(one)}; names "
                                f"need a Predictor (cnn.load)")
            if one not in self.classes:
                raise ValueError(f"{self.owner}: target must be one of {', '.join(self.classes[:20])}"
                                 f"{', ...' if len(self.classes) > 20 else ''}, got {shapes.shown(one)}")
            return self.classes.index(one)
        return shapes.integer(self.owner, "target", one)

    def check_scores(self, outputs: list[tuple[int, ...]], single: bool = True) -> None:
        """Refuse a model whose outputs have these shapes for one image, or a target that it has no score for."""
        if not single or len(outputs) != 1 or len(outputs[0]) != 1:
            found = ", ".join(map(shapes.batch, outputs))
            raise ValueError(f"{self.owner}: the model must return one array of scores (N, K), got {found}")
        count = outputs[0][0]
        if self.classes is not None and len(self.classes) != count:
            raise ValueError(f"{self.owner}: the model's file names {len(self.classes)} classes, its output "
                             f"has {count}")
        for number in () if self._targets is None else set(self._targets.tolist()):
            if number >= count:
                raise ValueError(f"{self.owner}: target must be a class from 0 to {count - 1}, got {number}")

    def target(self, scores: np.ndarray, where: np.ndarray) -> np.ndarray:
        """The classes (n,) of the images of these numbers, which have these scores (n, K)."""
        if not np.isfinite(scores).all():
            raise FloatingPointError(f"{self.owner}: the model's scores are NaN or infinite")
        return scores.argmax(axis=1) if self._targets is None else self._targets[where]

    def names(self, target: np.ndarray) -> tuple[str, ...]:
        """What the classes of these numbers are called."""
        return tuple(str(k) if self.classes is None else self.classes[k] for k in target.tolist())
