"""Losses: the value of each image and the gradient of the batch's mean, in one kernel."""
import numpy as np

from cnn.engine.tensors import Slot


def cross_entropy(program, z, total, smoothing=0.0, weight=None, need_dz=True, chosen=None):
    """Softmax and log loss of the scores z (N, K).

    total: float64 (1,) of each step, the sum of the targets' weights. The targets are the slot `target`, int64 (N,),
    or with `chosen`, an int64 (N,), as many of its numbers. Returns dz and the arrays that a run fills: `loss` float64
    (images,), not yet divided by the total, and `correct` uint8 (images,).
    """
    dz = program.like(z) if need_dz else None
    loss, correct = np.zeros(program.images), np.zeros(program.images, np.uint8)
    program.add("cross_entropy", lambda: dict(z=z, target=Slot("target"), chosen=chosen, weight=weight, total=total,
                                              dz=dz, loss=loss, correct=correct, classes=z.channels,
                                              smoothing=smoothing))
    return dz, loss, correct


def sums(program, loss, correct):
    """What `cross_entropy` fills, summed over the batch: float64 (2,) of each step."""
    result = program.per_step(2)
    program.after("loss_sums", lambda: dict(loss=loss, correct=correct, sums=result), 1)
    return result


def mse(program, y, t):
    """Mean squared error of y against t: returns dy, and each image's sum of squares, float64 (images,)."""
    dy = program.like(y)
    loss = np.zeros(program.images)
    program.add("mse", lambda: dict(y=y, t=t, dy=dy, loss=loss, **y.pixels))
    return dy, loss
