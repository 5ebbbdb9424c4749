"""Predicting with a saved model."""
from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, overload

import numpy as np

from cnn import shapes
from cnn.data import Dataset
from cnn.layers.running import without_images
from cnn.prediction.inputs import Wanted, images
from cnn.reference import softmax
from cnn.training import checkpoint
from cnn.training.step import normalised
from cnn.training.trainer import Trainer

if TYPE_CHECKING:
    import os
    from typing import Any, TypeAlias

    from cnn.layers import Module
    from cnn.prediction.inputs import File

    Several: TypeAlias = list[Any] | tuple[Any, ...]


class Prediction(NamedTuple):
    """What a model takes one picture for.

    label: name of the most probable class. probability: its probability, 0 to 1. top: (name, probability) of the most
    probable classes, the best first; as many as were asked for.
    """

    label: str
    probability: float
    top: list[tuple[str, float]]


class Predictor:
    """Predicts the classes of pictures with a saved model; `cnn.load` makes one.

    model: a Module with scores (N, K), or any outputs where the description has no classes. description: as
    `load_model` returns it: it names the classes, the size and channels of the images, mean and std, and the views
    whose scores are averaged (`tta`, see Trainer.predict).
    invert: whether to take 255 - value of each pixel, for dark digits on light paper where the model was trained on
    light ones on dark.

    Attributes: `model`, `description`, `invert`, and from the description `classes` (tuple of K names, or empty),
    `shape` (C, H, W) of the images that the model takes, `mean` and `std` (C numbers each), `tta`, and `pixels`, the
    dtype of the images that it was trained on, "uint8" (where the file does not say) or "float32".

    What its methods take as x:

    - a picture: its path (str or Path), its content (bytes), an open binary file, or a PIL image;
    - a uint8 array (H, W) or (H, W, C), C = 1 (grey), 3 (RGB) or 4 (RGBA): a picture, too;
    - a uint8 array (C, H, W) with the C of the model: an image as a Dataset holds it. An array that may be either is
      refused;
    - a list or tuple of these: so many images;
    - a uint8 array (N, C, H, W) with the C of the model: N images.

    Pictures of other sizes and colours are brought to the model's as those of a training folder are. A model that was
    trained on floats takes arrays of floats only, in the same unit and of just the right size; so does one of whose
    images the file tells the shape alone, and takes them as the model does.

    Without classes, as for numbers to predict or the class of each pixel, `predict` returns what `scores` does.

    Any number of threads may use one Predictor at the same time. `model` may be trained further; meanwhile other
    threads' predictions are refused.

    Raises ValueError where the description does not tell what it must, TypeError or ValueError for a wrong invert.
    """

    def __init__(self, model: Module, description: dict[str, Any], invert: bool = False) -> None:
        if not isinstance(invert, (bool, np.bool_)):
            raise TypeError(f"Predictor: invert must be a bool, got {shapes.shown(invert)}")
        self._wanted = Wanted(description)
        if invert and self._wanted.pixels == "float32":
            raise ValueError("Predictor: invert must be False, because the model takes images of float32, "
                             "whose largest value nobody knows")
        self.model, self.description, self.invert = model, description, bool(invert)
        self.classes, self.shape = tuple(self._wanted.classes), self._wanted.shape
        self.mean, self.std = tuple(self._wanted.mean), tuple(self._wanted.std)
        self.tta: str | None = description.get("tta")
        self.pixels = self._wanted.pixels or "uint8"
        self._trainer = Trainer(model, None, progress=False)
        self._data = self._dataset(np.empty((0, *self.shape), self.pixels))     # refuses what can't be normalised with

    def __repr__(self) -> str:
        return (f"<Predictor {self.description.get('model')}: {shapes.times(self.shape)}, {len(self.classes) or 'no'} "
                f"classes>")

    @overload
    def predict(self, x: File, top: int = 1) -> Prediction: ...
    @overload
    def predict(self, x: Several, top: int = 1) -> list[Prediction]: ...
    @overload
    def predict(self, x: np.ndarray, top: int = 1) -> Any: ...

    def predict(self, x: File | np.ndarray | Several, top: int = 1) -> Any:
        """The most probable classes of x: a Prediction; a list of them where x is a list, or an array (N, C, H, W).
        For a model without classes what `scores` returns.

        x: see above. top: how many classes to name, from 1; more than there are: all.

        Raises TypeError and ValueError for a wrong x or top, and for a picture that can't be read: a DataFileError (a
        ValueError) that names it. FileNotFoundError, ModuleNotFoundError where Pillow is needed and missing.
        """
        top = min(shapes.integer("Predictor.predict", "top", top, 1), len(self.classes))
        if not self.classes:
            return self._scores("Predictor.predict", x)
        probabilities, single = self._probabilities("Predictor.predict", x)
        found = []
        for p in probabilities:
            best = [(self.classes[k], float(p[k])) for k in np.argsort(-p, kind="stable")[:top]]
            found.append(Prediction(*best[0], best))
        return found[0] if single else found

    def predict_proba(self, x: File | np.ndarray | Several) -> np.ndarray:
        """The probability of each class, in the order of `classes`: (K,) in the model's number type; (N, K) where x is
        a list of N, or an array (N, C, H, W).

        x: see above. They are the softmax of the scores. Raises what `predict` raises.
        """
        probabilities, single = self._probabilities("Predictor.predict_proba", x)
        return probabilities[0] if single else probabilities

    def scores(self, x: File | np.ndarray | Several) -> Any:
        """What the model makes of x, (K,) or of another shape, in the model's number type; (N, ...) where x is a list
        of N, or an array (N, C, H, W). A tuple or dict of arrays where it returns several.

        x: see above. Raises what `predict` raises.
        """
        return self._scores("Predictor.scores", x)

    def images(self, x: File | np.ndarray | Several) -> np.ndarray:
        """The images of x as the model's data set would hold them, inverted with `invert`: uint8, or float32 where
        `pixels` says so, (N, C, H, W) with the `shape` of the model; N is 1 where x is one image.

        x: see above. Raises what `predict` raises.
        """
        return self._pixels("Predictor.images", x)[0]

    def inputs(self, images: np.ndarray) -> np.ndarray:
        """Images as `model` takes them: normalised by `mean` and `std`, in the model's number type, (N, C, H, W).

        images: uint8 or float32 (N, C, H, W), as `images` returns them. Raises TypeError or ValueError for others.
        """
        return normalised(self._data, images, self.model.dtype)

    def _pixels(self, owner: str, x: Any) -> tuple[np.ndarray, bool]:
        """(images, whether x is one image)."""
        pixels, single = images(owner, self._wanted, x)
        return 255 - pixels if self.invert else pixels, single

    def _scores(self, owner: str, x: Any) -> Any:
        pixels, single = self._pixels(owner, x)
        found = self._trainer.predict(self._dataset(pixels), self.tta)
        return without_images(found) if single else found

    def _probabilities(self, owner: str, x: Any) -> tuple[np.ndarray, bool]:
        """(probabilities (N, K), whether x is one image)."""
        if not self.classes:
            raise ValueError(f"{owner}: the model must have classes, its file names none: use Predictor.scores")
        pixels, single = self._pixels(owner, x)
        scores = self._trainer.predict(self._dataset(pixels), self.tta)
        if not isinstance(scores, np.ndarray) or scores.ndim != 2 or scores.shape[1] != len(self.classes):
            found = shapes.times(scores.shape[1:]) if isinstance(scores, np.ndarray) else f"{len(scores)} parts"
            raise ValueError(f"the model's file names {len(self.classes)} classes, its output has {found}")
        with np.errstate(under="ignore", invalid="ignore"):     # of probabilities beside a sure one's
            probabilities = softmax(scores)
        if not np.isfinite(probabilities).all():
            raise FloatingPointError(f"{owner}: the model's scores are NaN or infinite")
        return probabilities, single

    def _dataset(self, pixels: np.ndarray) -> Dataset:
        labels = np.zeros(len(pixels), np.int64 if self.classes else np.float32)
        return Dataset(pixels, labels, self.classes or None, self.mean, self.std)


def load(path: str | os.PathLike[str], invert: bool = False) -> Predictor:
    """The Predictor of a finished run, or of a model's file.

    path: the folder of a run, or a file that `save_model` or `cnn.save` wrote. invert: see Predictor.

        predictor = cnn.load("runs/mnist-sample-lenet5-1")
        print(predictor.predict("digit.png").label)

    The file may come from anyone, as with `load_model`, which is the level below: it returns the model and its
    description. Raises what `load_model` raises, and ValueError naming the file where it does not tell what a
    Predictor must know.
    """
    model, description = checkpoint.load_model(path)
    try:
        return Predictor(model, description, invert)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
