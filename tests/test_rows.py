"""Losses with a weight per image, against the twin, central differences, and images that are there several times."""

import numpy as np
import pytest
from cases import assert_close

import cnn
from cnn import reference
from cnn.data import DataLoader
from cnn.engine.program import Program
from cnn.engine.tensors import Slot
from cnn.training.rows import NumberedImages, RowLoss

RNG = np.random.default_rng(0)


def targets_of(squared, n, outputs):
    return RNG.standard_normal((n, outputs)) if squared else RNG.integers(0, outputs, n)


def test_twins_by_hand():
    scores, weights = np.log([[1.0, 3.0], [2.0, 2.0]]), np.array([3.0, 1.0])
    loss, gradient = reference.cross_entropy(scores, np.array([0, 1]), image_weight=weights)
    assert loss == pytest.approx((3 * np.log(4) + np.log(2)) / 4)
    assert_close(gradient, np.array([[-0.75 * 3, 0.75 * 3], [0.5, -0.5]]) / 4)
    loss, gradient = reference.mse(np.array([[1.0, 2.0], [0.0, 4.0]]), np.zeros((2, 2)), weights)
    assert loss == pytest.approx((3 * 5 + 16) / 8)
    assert_close(gradient, np.array([[6.0, 12.0], [0.0, 8.0]]) / 8)


@pytest.mark.parametrize("squared", [False, True])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_gradients_of_twins_by_central_differences(squared, smoothing):
    scores, targets, weights = RNG.standard_normal((5, 3)), targets_of(squared, 5, 3), RNG.uniform(0, 2, 5)

    def value():
        if squared:
            return reference.mse(scores, targets, weights)
        return reference.cross_entropy(scores, targets, smoothing, np.array([1.0, 2, 0.5]), weights)
    gradient, h = value()[1], 1e-6
    for i in np.ndindex(scores.shape):
        kept = scores[i]
        scores[i] = kept + h
        up = value()[0]
        scores[i] = kept - h
        down = value()[0]
        scores[i] = kept
        assert gradient[i] == pytest.approx((up - down) / (2 * h), abs=1e-8)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("by_channels", [False, True])
@pytest.mark.parametrize("squared, smoothing", [(False, 0.0), (False, 0.2), (True, 0.0)])
@pytest.mark.parametrize("n, outputs", [(1, 1), (8, 5), (37, 19)])
def test_kernels_agree_with_the_twins(dtype, by_channels, squared, smoothing, n, outputs):
    from cnn.ops import loss as ops
    scores, targets = RNG.standard_normal((n, outputs)).astype(dtype), targets_of(squared, n, outputs)
    weights = RNG.uniform(0, 2, n)
    weights[n // 2] = 0 if n > 1 else 1
    targets = targets.astype(dtype) if squared else targets
    if squared:
        wanted = reference.mse(scores.astype(float), targets.astype(float), weights)
    else:
        wanted = reference.cross_entropy(scores.astype(float), targets, smoothing, None, image_weight=weights)
    program = Program(dtype, n, by_channels=by_channels)
    z = program.input(outputs, flat=True)
    if squared:
        t = program.input(outputs, flat=True, name="target")
        dz, sums = ops.mse(program, z, t, Slot("weights"), Slot("total"))
    else:
        dz, sums = ops.cross_entropy(program, z, Slot("total"), smoothing, share=Slot("weights"))
    program.output(dz)
    program.compile()
    found = np.empty_like(scores)
    program.run(n, x=scores, y=found, target=targets, weights=weights, total=np.array([weights.sum()]))
    each = outputs if squared else 1
    assert sums.array[0, 0] / (weights.sum() * each) == pytest.approx(wanted[0], rel=1e-5, abs=1e-6)
    assert_close(found, wanted[1], 1e-6 if dtype == np.float32 else 1e-12)


@pytest.mark.parametrize("squared", [False, True])
@pytest.mark.parametrize("pixels", [np.uint8, np.float32])
@pytest.mark.parametrize("batch", [4, 37])
def test_a_weight_is_as_good_as_a_repetition_in_one_batch(squared, pixels, batch):
    """Of all images at once: w times the weight, or w times the image."""
    if batch == 4:
        images, times = RNG.integers(0, 256, (4, 1, 6, 6)).astype(pixels), np.array([1, 2, 0, 1])
    else:
        images, times = RNG.integers(0, 256, (37, 1, 6, 6)).astype(pixels), RNG.integers(0, 3, 37)
    targets = targets_of(squared, len(images), 3)
    repeated = np.repeat(np.arange(len(images)), times)
    weights = []
    for chosen, given in ((np.arange(len(images)), times.astype(float)), (repeated, None)):
        rng = np.random.default_rng(1)
        model = cnn.Sequential(cnn.Conv2d(1, 4, 3, seed=rng), cnn.ReLU(), cnn.Flatten(), cnn.Linear(64, 3, seed=rng))
        unit = 255 if pixels == np.float32 else 1
        rows = NumberedImages(images[chosen], [0.5 * unit], [unit])
        trainer = cnn.Trainer(model, cnn.SGD(model.parameters(), 0.1), RowLoss(targets[chosen], given), progress=False)
        history = trainer.fit(DataLoader(rows, len(rows)), 3)
        weights.append([*(p.data for p in model.parameters()), np.array([row["train_loss"] for row in history])])
    for a, b in zip(*weights, strict=True):
        assert_close(np.asarray(a), np.asarray(b), 2e-5)


@pytest.mark.parametrize("squared", [False, True])
def test_numpy_backend_and_debugging_train_alike(squared):
    images, results = RNG.integers(0, 256, (20, 1, 5, 5)).astype(np.uint8), []
    targets, weights = targets_of(squared, 20, 3), RNG.uniform(0, 2, 20)
    for backend in ("kernels", "reference"):
        model = cnn.Sequential(cnn.Flatten(), cnn.Linear(25, 3, seed=0))
        trainer = cnn.Trainer(model, cnn.SGD(model.parameters(), 0.05), RowLoss(targets, weights), progress=False,
                              backend=backend)
        trainer.fit(NumberedImages(images, [0.5], [1]), 2, batch_size=8)
        results.append([p.data.copy() for p in model.parameters()])
    for a, b in zip(*results, strict=True):
        assert_close(a, b, 1e-5)


def test_a_batch_of_weight_0_teaches_nothing():
    model = cnn.Sequential(cnn.Flatten(), cnn.Linear(25, 3, seed=0))
    before = [p.data.copy() for p in model.parameters()]
    loss = RowLoss(np.zeros(9, np.int64), np.zeros(9))
    trainer = cnn.Trainer(model, cnn.SGD(model.parameters(), 0.05), loss, progress=False)
    trainer.fit(NumberedImages(np.ones((9, 1, 5, 5), np.float32), [0], [1]), 1, batch_size=9)
    assert all(np.array_equal(a, p.data) for a, p in zip(before, model.parameters(), strict=True))


def test_another_number_of_outputs_is_refused():
    model = cnn.Sequential(cnn.Flatten(), cnn.Linear(25, 3, seed=0))
    trainer = cnn.Trainer(model, cnn.SGD(model.parameters(), 0.05), RowLoss(np.zeros((9, 2))), progress=False)
    with pytest.raises(ValueError, match=r"output must have shape \(N, 2\), got \(N, 3"):
        trainer.fit(NumberedImages(np.ones((9, 1, 5, 5), np.float32), [0], [1]), 1)
