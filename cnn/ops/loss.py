"""Losses: the value of each image and the gradient of the batch's mean, in one kernel."""
import numpy as np

from cnn.engine.memory import LANES
from cnn.engine.tensors import PER_BLOCK, Slot


def cross_entropy(program, z, total, smoothing=0.0, weight=None, need_dz=True, chosen=None, share=None, target=None):
    """Softmax and log loss of the scores z (N, K).

    total: float64 (1,) of each step, the sum of the targets' weights. share: float64 (N,), by which the weight of each
    image is multiplied, or None. target: the targets' slot. By default the targets are the slot `target`, int64 (N,),
    or with `chosen`, an int64 (N,), as many of its numbers. Returns dz, and a table of two numbers for each step: the
    sum of the losses, not yet divided by the total, and how many images have their largest score at their target.
    """
    dz = program.like(z) if need_dz else None
    loss, correct = program.copies(LANES, PER_BLOCK, np.float64), program.copies(LANES, PER_BLOCK, np.uint8)
    program.add("cross_entropy_channels" if program.by_channels else "cross_entropy", lambda: dict(
        z=z, target=target or Slot("target"), chosen=chosen, weight=weight, share=share, total=total, dz=dz, loss=loss,
        correct=correct, classes=z.channels, smoothing=smoothing))
    return dz, _sums(program, loss, correct)


def mse(program, y, t, share=None, total=None):
    """Squared error of y against t: returns dy, of the mean, and a table: the sum of the squares, and 0.

    share: float64 (N,), the weight of each image in the mean and the sum; total: float64 (1,) of each step, their sum.
    """
    dy, loss = program.like(y), program.copies(LANES, PER_BLOCK, np.float64)
    program.add("mse_channels" if program.by_channels else "mse", lambda: dict(
        y=y, t=t, dy=dy, share=share, total=total, loss=loss, **y.size))
    return dy, _sums(program, loss)


def per_image(program, y, total, need_dy=True, scores=None, target=None):
    """The mean of one loss per image: y, a tensor of one number. total: float64 (1,) of each step, what their sum is
    divided by. Returns dy and a table as `cross_entropy` does; scores, target: tensors of scores (K,) and of the
    classes' numbers, for how many images are right."""
    dy = program.like(y) if need_dy else None
    loss, right = program.copies(LANES, PER_BLOCK, np.float64), None
    program.add("batch_mean", lambda: dict(y=y, total=total, dy=dy, loss=loss, by_channels=program.by_channels))
    if scores is not None:
        right = program.copies(LANES, PER_BLOCK, np.uint8)
        program.add("correct", lambda: dict(z=scores, target=target, correct=right, classes=scores.channels,
                                            by_channels=program.by_channels))
    return dy, _sums(program, loss, right)


def _sums(program, loss, correct=None):
    """A table, float64 (2,) of each step: what images have, summed over the batch in their order."""
    result = program.per_step(2)
    step = LANES // program.per_block       # of a block's numbers the first are those of its images
    program.after("loss_sums", lambda: dict(loss=loss, correct=correct, sums=result, step=step), 1)
    return result
