"""Measuring a model on a data set, and the scores it gives to images."""
import copy
import math

import numpy as np

from cnn import shapes
from cnn.data import Dataset
from cnn.engine.programs import Use, guards
from cnn.layers import parts
from cnn.layers.in_numpy import run_forward
from cnn.training.step import Batch, execute, normalised, result

IMAGES = 512        # at a time


def check_tta(owner, tta):
    """Refuse a test-time augmentation that `scores` does not know."""
    if tta not in (None, "flip", "flip+shift"):
        raise ValueError(f'{owner}: tta must be None, "flip" or "flip+shift", got {tta!r}')


def checked_images(owner, x, model, tta):
    """Images that a model can take, (N, C, H, W) where there is test-time augmentation."""
    x = shapes.images(owner, "x", x, model.dtype)
    if tta is not None and x.ndim != 4:
        raise ValueError(f"{owner}: x must have shape (N, C, H, W) for tta {tta!r}, got {x.shape}")
    return x


def evaluate(step, programs, dataset, tta):
    """Loss and accuracy on a Dataset: see Trainer.evaluate.

    step: a Step without an optimizer. programs: the Pool of its programs.
    """
    loss_sum = weight_sum = correct = 0.0
    criterion = copy.copy(step.criterion)       # another thread may be measuring, too
    for chosen in _portions(len(dataset)):
        loss, weight, right = parts.in_evaluation(step.model, _measured, step, programs, criterion, dataset, chosen,
                                                  tta)
        loss_sum, weight_sum, correct = loss_sum + loss, weight_sum + weight, correct + right
    count = len(dataset)
    return {"loss": loss_sum / weight_sum if weight_sum else math.nan,
            "accuracy": correct / count if count else math.nan, "images": count}


def _measured(step, programs, criterion, dataset, chosen, tta):
    """The results of a portion of the images, as `execute` returns them."""
    if tta is None and step.fetches(dataset):
        return _run(step, programs, Batch(dataset.labels, chosen[None], dataset))
    labels, images = dataset.labels[chosen], _images(step.model, dataset, chosen)
    if tta is None and step.fused:
        return _run(step, programs, Batch(labels, images))
    found = scores(step.model, images, tta)
    return result(criterion, criterion(found, labels), found, labels)


def _run(step, programs, batch):
    use, program = Use("Trainer.evaluate"), None
    try:
        use.take(guards(step.model.parameters()), alone=False)
        program = programs.borrow(use, step.key(batch), batch.count, lambda: step.written(batch))
        return execute(program, batch)[0]
    finally:
        programs.give(program, use)
        use.leave()


def predict(model, x, tta):
    """Scores (N, K) of a Dataset or of images (N, C, H, W): see Trainer.predict."""
    return np.concatenate([parts.in_evaluation(model, scores, model, _images(model, x, chosen), tta)
                           for chosen in _portions(len(x)) or [slice(0, 0)]])


def scores(model, images, tta):
    """Scores of images as the model takes them: the mean over the views that `tta` asks for."""
    views = [(1, images)]
    if tta == "flip+shift":
        padded = np.pad(images, ((0, 0), (0, 0), (1, 1), (1, 1)), "reflect")
        views = [(0.5, images), (0.25, padded[..., :-2, :-2]), (0.25, padded[..., 2:, 2:])]
    if tta is not None:
        views = [(weight / 2, view) for weight, x in views for view in (x, x[..., ::-1])]
    return sum(weight * run_forward(model, view) for weight, view in views)


def _images(model, x, chosen):
    """These images of a Dataset, normalised, or of an array, in the model's number type."""
    if isinstance(x, Dataset):
        return normalised(x, x.images[chosen], model.dtype)
    return x[chosen].astype(model.dtype or x.dtype, copy=False)


def _portions(count):
    """Numbers 0 to count - 1 in equal portions of IMAGES at most: a last one of a few images would be computed in
    another order than the others."""
    portions = -(-count // IMAGES)
    return [np.arange(count * i // portions, count * (i + 1) // portions) for i in range(portions)]
