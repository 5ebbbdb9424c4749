"""Losses of one's own that are another number than PyTorch's of the whole batch are told, and no others."""
import warnings

import numpy as np
import pytest

import cnn
from cnn import functional as F

RNG = np.random.default_rng(0)
IMAGES, TARGETS = (RNG.standard_normal((4, 3, 5, 5)).astype(np.float32) for _ in range(2))
SCORES, CLASSES = RNG.standard_normal((4, 3)).astype(np.float32), np.array([0, 1, 2, 1])
WEIGHT = np.array([1, 2, 3], np.float32)


class Uncertain(cnn.Module):
    def __init__(self):
        super().__init__()
        self.s = cnn.Parameter(np.array([0.5, -0.5], np.float32))

    def forward(self, y, t):
        return (-self.s[0]).exp() * F.mse_loss(y, t) + self.s.sum() + F.l1_loss(y, t) / self.s[1].exp()


ALIKE = {
    "mean": lambda y, t: F.mse_loss(y, t), "linear": lambda y, t: F.mse_loss(y, t) / 2 + (y - t).abs().mean() * 2 - 1,
    "axes": lambda y, t: ((y - t) ** 2).mean((1, 2, 3)).sqrt() + ((y - t) ** 2).sum((1, 2, 3)),
    "Dice of each image": lambda y, t: 1 - (2 * (y * t).sum((1, 2, 3)) + 1) / ((y + t).sum((1, 2, 3)) + 1),
    "largest of images": lambda y, t: (y - t).abs().amax((1, 2, 3)) - y.log_softmax(1).max(1)[0].mean(),
    "elements": lambda y, t: (lambda e: (e * (-e).exp()).mean())(F.mse_loss(y, t, reduction="none")),
    "mean of the batch": lambda y, t: F.kl_div(
        y.flatten(1).log_softmax(1), t.flatten(1).softmax(1), reduction="batchmean"),
    "learnt weights": Uncertain(), "a sum of the package": cnn.losses.MSELoss(reduction="sum"),
}
CLASSES_ALIKE = {
    "cross entropy": lambda y, t: F.cross_entropy(y, t, weight=WEIGHT) + F.nll_loss(y.log_softmax(1), t),
    "focal": lambda y, t: (lambda ce: ((1 - (-ce).exp()) ** 2 * ce).mean())(F.cross_entropy(y, t, reduction="none")),
}
OTHERS = {
    "root": (lambda y, t: F.mse_loss(y, t).sqrt(), "mean over all axes is each image's own, and the sqrt of it"),
    "Dice": (lambda y, t: 1 - 2 * (y * t).sum() / ((y + t).sum() + 1), "sum over all axes .* divide of it"),
    "masked mean": (lambda y, t: ((y - t) ** 2 * (t > 0)).sum() / (t > 0).sum(), r"divide of it .* sum\(\(1, 2, 3\)\)"),
    "mean of absolutes": (lambda y, t: (y.mean() - t.mean()).abs(), "the absolute of it"),
    "square": (lambda y, t: F.smooth_l1_loss(y, t) ** 2, "of it gives another loss"),
    "sum": (lambda y, t: ((y - t) ** 2).sum(), "PyTorch's sum is larger, by the number of images"),
    "largest": (lambda y, t: (y - t).abs().max(), "amax over all axes is each image's own, PyTorch's that of the"),
    "scaled": (lambda y, t: ((y - y.amin(keepdim=True)) ** 2).mean(), "amin over all axes is each image's own, and"),
    "reduction": (lambda y, t: F.mse_loss(y, t, reduction="sum"), "PyTorch's sum is larger"),
}


@pytest.mark.parametrize("name", [*ALIKE, *CLASSES_ALIKE])
def test_nothing_is_told_of_the_same_number(name):
    loss, data = (ALIKE[name], (IMAGES, TARGETS)) if name in ALIKE else (CLASSES_ALIKE[name], (SCORES, CLASSES))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (loss if isinstance(loss, cnn.losses.Criterion) else cnn.losses.Criterion(loss))(*data)


@pytest.mark.parametrize("name", OTHERS)
def test_another_number_is_told(name):
    loss, words = OTHERS[name]
    with pytest.warns(UserWarning, match=rf"test_loss_warnings\.py:\d+: in a loss the .*{words}"):
        cnn.losses.Criterion(loss)(IMAGES, TARGETS)


def test_focal_loss_of_a_mean_is_told():
    with pytest.warns(UserWarning, match="the exp of it|the affine of it|the power of it|the multiply of it"):
        cnn.losses.Criterion(lambda y, t: (1 - (-F.cross_entropy(y, t)).exp()) ** 2 * F.cross_entropy(y, t))(
            SCORES, CLASSES)


def test_training_tells_once():
    model = cnn.Sequential(cnn.Conv2d(3, 3, 1))
    trainer = cnn.Trainer(model, cnn.SGD(model.parameters(), lr=0.01), criterion=OTHERS["root"][0], progress=False)
    data = cnn.data.Dataset(np.zeros((4, 3, 5, 5), np.uint8), TARGETS)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("default")
        trainer.fit(data, 3, batch_size=2)
    assert len([w for w in told if "in a loss the mean" in str(w.message)]) == 1


@pytest.mark.parametrize("ask", [
    lambda n: [0 for _ in range(n)], lambda n: np.prod((n, 3)), lambda n: np.ones(3) * n, lambda n: np.float64(2) / n,
    lambda n: np.array(n), lambda n: np.zeros((n, 3)), lambda n: int(n), lambda n: round(n), lambda n: np.sqrt(n),
    lambda n: [1] * n, lambda n: max(n, 1), lambda n: 1 if n else 2])
def test_nothing_is_counted_by_the_images(ask):
    class Counts(cnn.Module):
        def forward(self, x):
            ask(x.size(0))
            return x

    with pytest.raises(TypeError, match=r"the number of images, x.shape\[0\] or x.size\(0\), cannot be computed with"):
        Counts()(SCORES)
