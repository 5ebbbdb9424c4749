"""Measuring a model on a data set, and the scores it gives to images."""
import copy
import math
from contextlib import closing

import numpy as np

from cnn import shapes
from cnn.data import Dataset, IterableDataset
from cnn.data.ahead import read_ahead
from cnn.data.described import AnyDataset
from cnn.engine.programs import Use, guards
from cnn.graph.trace import pack
from cnn.layers import parts
from cnn.layers.per_output import add_outputs, taken_apart
from cnn.training.measures import Running
from cnn.training.step import Batch, execute, loss_of, normalised, outputs, result

IMAGES = 512        # at a time
AHEAD = 2           # portions that are read ahead


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


def evaluate(step, programs, dataset, tta, metrics):
    """Loss and accuracy on a Dataset: see Trainer.evaluate.

    step: a Step without an optimizer. programs: the Pool of its programs. metrics: by name, see measures.checked.
    """
    sums = Sums()
    criterion = copy.copy(step.criterion)       # another thread may be measuring, too
    running = Running("Trainer.evaluate", metrics) if metrics else None
    step = step._replace(scores=running is not None)
    count, fetches = 0, tta is None and step.fetches(dataset)
    with closing(_portions(dataset, IMAGES, where_they_are=fetches)) as portions:
        for images, labels, where in portions:
            sums.add(parts.in_evaluation(step.model, _measured, step, programs, criterion, dataset, images, labels,
                                         where, tta, running))
            count += len(where)
    return {"loss": sums.loss(criterion), "accuracy": sums.right / count if count else math.nan, "images": count,
            **sums.of_outputs(criterion, count), **(running.results() if running else {})}


class Sums:
    """The sums over portions of what `execute` returns of each."""

    def __init__(self):
        self.total = self.weight = self.right = 0.0
        self.outputs = {}

    def add(self, measured):
        """Take in the results of a portion."""
        total, weight, right = measured
        self.total, self.weight, self.right = self.total + total, self.weight + weight, self.right + right
        add_outputs(self.outputs, measured)

    def loss(self, criterion):
        """The loss over all portions; NaN without images, or weights."""
        if self.outputs:
            means = [(name, total / weight) for name, (total, weight, _) in self.outputs.items() if weight]
            return sum(criterion.weights[name] * mean for name, mean in means) if means else math.nan
        return self.total / self.weight if self.weight else math.nan

    def of_outputs(self, criterion, count):
        """Loss and accuracy of each output, where a PerOutput has several."""
        found = {}
        for name, (total, weight, right) in self.outputs.items():
            found |= {f"{name}_loss": total / weight if weight else math.nan,
                      f"{name}_accuracy": right / count if count else math.nan}
        return {name: found.get(name, math.nan) for name in getattr(criterion, "figures", list)()}


def _measured(step, programs, criterion, dataset, images, labels, where, tta, running):
    """The results of a portion of the images, as `execute` returns them; see `_portions`."""
    if tta is None and step.fetches(dataset):
        return _run(step, programs, Batch(labels, where[None], dataset, images), running)
    images = normalised(dataset, images, step.model.dtype)
    batch = Batch(labels, images)
    if tta is None and step.fused:
        return _run(step, programs, batch, running)
    found = scores(step.model, images, tta, batch.more(step.inputs, images.dtype))
    measured = result(criterion, loss_of(criterion, found, labels), found, labels)
    if running is not None:
        running.add(found, labels.view())
    return measured


def _run(step, programs, batch, running):
    use, program = Use("Trainer.evaluate"), None
    try:
        use.take(guards(step.model.parameters()), alone=False)
        program = programs.borrow(use, step.key(batch), batch.count, lambda: step.written(batch))
        found = [np.empty((batch.count, *image), program.dtype) for image in program.scores] if step.scores else ()
        measured = execute(program, batch, scores=found)[0]
    finally:
        programs.give(program, use)
        use.leave()
    if running is not None:
        running.add(pack(program.structure, found), batch.targets.reshape(batch.count, *batch.targets.shape[2:]) if (
            batch.dataset is not None) else np.asarray(batch.labels).view())
    return measured


def predict(model, x, tta, inputs=()):
    """Scores (N, K) of a Dataset or of images (N, C, H, W): see Trainer.predict. inputs: see Step."""
    if isinstance(x, AnyDataset):
        with closing(_portions(x, IMAGES)) as portions:
            found = [_predicted(model, normalised(x, images, model.dtype), labels, tta, inputs)
                     for images, labels, _ in portions]
    else:
        found = [_predicted(model, x[chosen].astype(model.dtype or x.dtype, copy=False), None, tta, inputs)
                 for chosen in _cut(len(x), IMAGES)]
    structure, _ = taken_apart(found[0])
    return pack(structure, [np.concatenate(arrays) for arrays in zip(*(taken_apart(y)[1] for y in found), strict=True)])


def _predicted(model, images, labels, tta, inputs):
    more = Batch(labels, images).more(inputs, images.dtype)
    return parts.in_evaluation(model, scores, model, images, tta, more)


def scores(model, images, tta, more=()):
    """Scores of images as the model takes them: the mean over the views that `tta` asks for."""
    if tta is None:
        return outputs(model, images, more)
    views = [(1, images)]
    if tta == "flip+shift":
        padded = np.pad(images, ((0, 0), (0, 0), (1, 1), (1, 1)), "reflect")
        views = [(0.5, images), (0.25, padded[..., :-2, :-2]), (0.25, padded[..., 2:, 2:])]
    views = [(weight / 2, view) for weight, x in views for view in (x, x[..., ::-1])]
    found = [(weight, outputs(model, view, more)) for weight, view in views]
    if not isinstance(found[0][1], np.ndarray):
        raise ValueError(f"Trainer: tta {tta!r} needs a model with one output")
    return sum(weight * y for weight, y in found)


def _portions(dataset, size, where_they_are=False):
    """All images of a data set, in portions: arrays that hold images and labels, and the places of a portion in these.

    size: images in a portion at most. where_they_are: whether the arrays may be those of the whole data set.
    """
    if isinstance(dataset, IterableDataset):
        for images, labels in dataset.batches(size, AHEAD):
            yield images, labels, np.arange(len(labels))
    elif where_they_are and isinstance(dataset, Dataset) and isinstance(dataset.images, np.ndarray):
        for chosen in _cut(len(dataset), size):
            yield dataset.images, dataset.labels, chosen
    else:
        for images, labels in read_ahead(dataset.fetch, _cut(len(dataset), size), 0 if dataset.in_memory else AHEAD):
            yield images, labels, np.arange(len(labels))


def _cut(count, size):
    """Numbers 0 to count - 1 in equal portions of `size` at most: a last one of a few images would be computed in
    another order than the others. One, if an empty one, there always is."""
    portions = max(1, -(-count // size))
    return [np.arange(count * i // portions, count * (i + 1) // portions) for i in range(portions)]
