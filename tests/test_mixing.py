"""MixUp and CutMix. The oracle is the formula, element by element, and a training loop written out."""

import numpy as np
import pytest
from cases import assert_same_bits

import cnn
from cnn.data import BatchedDataset, CutMix, DataLoader, Dataset, MixUp
from cnn.training import checkpoint


def data(n=50):
    rng = np.random.default_rng(0)
    return Dataset(rng.integers(0, 256, (n, 2, 7, 9)).astype(np.uint8), np.arange(n) % 3, mean=(0.4, 0.5),
                   std=(0.2, 0.3))


def batch(n=6, classes=3):
    rng = np.random.default_rng(1)
    return rng.standard_normal((n, 2, 7, 9)), np.arange(n) % classes


@pytest.mark.parametrize("seed", range(5))
def test_mixup_is_a_weighted_mean_with_the_image_before(seed):
    images, labels = batch()
    before = images.copy()
    mixed, targets = MixUp(0.7, num_classes=4)(images, labels, np.random.default_rng(seed))
    share = targets[0, labels[0]]
    assert 0 < share < 1
    assert_same_bits([images], [before])
    for i in range(6):
        np.testing.assert_allclose(mixed[i], share * images[i] + (1 - share) * images[i - 1], rtol=1e-12)
        wanted = np.zeros(4)
        wanted[labels[i]] += share
        wanted[labels[i - 1]] += 1 - share
        np.testing.assert_allclose(targets[i], wanted, rtol=1e-12)


@pytest.mark.parametrize("seed", range(20))
def test_cutmix_takes_a_rectangle_of_the_image_before(seed):
    images, labels = batch()
    mixed, targets = CutMix(num_classes=3)(images, labels, np.random.default_rng(seed))
    taken = (mixed != images).any(axis=(0, 1))
    rows, columns = taken.any(axis=1), taken.any(axis=0)
    assert (taken == rows[:, None] & columns).all()     # a rectangle, the same in all images
    for i in range(6):
        assert (mixed[i] == np.where(taken, images[i - 1], images[i])).all()
        assert targets[i, labels[i]] == pytest.approx(1 - taken.mean())
        assert targets[i, labels[i - 1]] == pytest.approx(taken.mean())


def test_shares_are_drawn_from_beta():
    images, labels = batch(2, 2)
    for alpha in (0.2, 1.0, 8.0):
        rng = np.random.default_rng(0)
        shares = [MixUp(alpha, 2)(images, labels, rng)[1][0, 0] for _ in range(3000)]
        assert np.mean(shares) == pytest.approx(0.5, abs=0.03)
        assert np.var(shares) == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.1)


def test_areas_of_cutmix_are_those_of_the_share():
    """A rectangle in the middle of a large image, which no edge cuts, has the area 1 - lambda."""
    rng, found = np.random.default_rng(0), []
    images = np.stack([np.zeros((1, 200, 200)), np.ones((1, 200, 200))])
    for _ in range(1500):
        mixed, _ = CutMix(1.0, 2)(images, np.array([0, 1]), rng)
        taken = mixed[0, 0] == 1
        rows, columns = np.flatnonzero(taken.any(1)), np.flatnonzero(taken.any(0))
        if len(rows) and rows[0] > 0 and rows[-1] < 199 and columns[0] > 0 and columns[-1] < 199:
            assert abs(len(rows) - len(columns)) <= 1
            found.append(taken.mean())
    assert len(found) > 200


def test_one_image_and_equal_classes():
    images, labels = batch(1)
    mixed, targets = MixUp(num_classes=3)(images, labels, np.random.default_rng(0))
    np.testing.assert_allclose(mixed, images)
    np.testing.assert_allclose(targets, [[1, 0, 0]])


def test_a_loader_mixes_each_batch_anew_by_the_seed():
    def epoch(number, **options):
        loader = DataLoader(data(), 16, shuffle=True, seed=3, mix=[MixUp(0.5), CutMix()], **options)
        loader.epoch = number
        return loader, list(loader)

    loader, first = epoch(0)
    assert [targets.shape for _, targets in first] == [(16, 3), (16, 3), (16, 3), (2, 3)]
    assert all(images.dtype == targets.dtype == np.float32 for images, targets in first)
    for (a, b), (c, d) in zip(first, epoch(0, prefetch=2)[1], strict=True):
        assert_same_bits([a, b], [c, d])
    assert not np.array_equal(first[0][1], epoch(1)[1][0][1])
    loader.epoch, loader.start = 0, 2
    for (a, b), (c, d) in zip(first[2:], loader, strict=True):
        assert_same_bits([a, b], [c, d])
    plain = next(iter(DataLoader(data(), 16, shuffle=True, seed=3)))[1]
    assert (np.sort(first[0][1] > 0, axis=1).sum(1) <= 2).all()
    assert (first[0][1][np.arange(16), plain] > 0).all()


# ------------------------------------------------------------------------------------------ training


def network(dtype=np.float32):
    return cnn.Sequential(cnn.Conv2d(2, 5, 3, seed=1, dtype=dtype), cnn.ReLU(), cnn.MaxPool2d(2), cnn.Flatten(),
                          cnn.Linear(30, 3, seed=3, dtype=dtype))


def loader(batch=16, **options):
    return DataLoader(data(), batch, shuffle=True, seed=3, transform=cnn.data.RandomFlip(),
                      mix=[MixUp(0.5), CutMix()], **options)


def trainer_of(model=None, **options):
    model = model or network()
    return cnn.Trainer(model, cnn.SGD(model.parameters(), lr=0.05, momentum=0.9), progress=False, **options)


class StopAt(cnn.Callback):
    def __init__(self, step):
        self.at = step

    def on_step_end(self, trainer):
        trainer.stop = trainer.stop or trainer.step == self.at


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_training_minimises_the_cross_entropy_of_the_mixed_targets(smoothing):
    """And the accuracy counts images whose largest score is at the class with the largest share."""
    trainer = trainer_of(loss=cnn.CrossEntropyLoss(label_smoothing=smoothing))
    row = trainer.fit(loader(), 1)[-1]
    model, sums = network(), np.zeros(2)
    optimizer = cnn.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for images, targets in loader():
        smooth = (1 - smoothing) * targets + smoothing / 3
        scores = model(images).astype(np.float64)
        p = np.exp(scores - scores.max(1, keepdims=True))
        p /= p.sum(1, keepdims=True)
        sums += -(smooth * np.log(p)).sum(), (scores.argmax(1) == targets.argmax(1)).sum()
        model.backward(((p - smooth) / len(images)).astype(np.float32))
        optimizer.step()
    assert row["train_loss"] == pytest.approx(sums[0] / 50, rel=1e-5)
    assert row["train_accuracy"] == sums[1] / 50
    for a, b in zip(trainer.model.state_dict().values(), model.state_dict().values(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_any_number_of_threads_has_the_same_bits():
    before, found = cnn.get_num_threads(), set()
    try:
        for threads in (1, 2, 3):
            cnn.set_num_threads(threads)
            trainer = trainer_of()
            trainer.fit(loader(), 2)
            found.add(checkpoint.digest(trainer.state_dict()))
    finally:
        cnn.set_num_threads(before)
    assert len(found) == 1


def test_a_run_goes_on_to_the_same_bits():
    whole = trainer_of()
    whole.fit(loader(), 2)
    for step in range(1, 8):
        trainer = trainer_of(callbacks=[StopAt(step)])
        trainer.fit(loader(), 2)
        again = trainer_of()
        again.load_state_dict(trainer.state_dict())
        again.fit(loader(), 2)
        assert checkpoint.digest(again.state_dict()) == checkpoint.digest(whole.state_dict())


def test_batches_that_accumulate_are_mixed_as_the_large_one():
    parts, whole = trainer_of(accumulate=3), trainer_of()
    parts.fit(loader(8), 2)
    whole.fit(loader(24), 2)
    assert_same_bits(parts.model.state_dict().values(), whole.model.state_dict().values())


def test_by_twins_and_in_float64():
    wanted = trainer_of()
    wanted.fit(loader(), 1)
    for options in ({"backend": "reference"}, {"model": network(np.float64)}):
        trainer = trainer_of(**options)
        row = trainer.fit(loader(), 1)[-1]
        assert row["train_loss"] == pytest.approx(wanted.history[-1]["train_loss"], rel=1e-4)
        assert row["train_accuracy"] == wanted.history[-1]["train_accuracy"]


def test_a_loss_of_ones_own_gets_the_distributions():
    def squares(scores, target):
        return ((scores.softmax(1) - target) ** 2).sum(1)
    trainer = trainer_of(loss=squares)
    row = trainer.fit(loader(), 1)[-1]
    assert 0 < row["train_loss"] < 2 and np.isnan(row["train_accuracy"])


# ------------------------------------------------------------------------------------------ what is refused


@pytest.mark.parametrize("kind", [MixUp, CutMix])
def test_wrong_arguments(kind):
    for alpha, error in ((0, ValueError), (-1, ValueError), (np.inf, ValueError), ("1", TypeError), (True, TypeError)):
        with pytest.raises(error, match=f"{kind.__name__}: alpha"):
            kind(alpha)
    for classes, error in ((0, ValueError), (2.5, TypeError)):
        with pytest.raises(error, match=f"{kind.__name__}: num_classes"):
            kind(1.0, classes)
    images, labels = batch()
    rng = np.random.default_rng(0)
    for arguments, error, words in (
            ((images.astype(np.uint8), labels, rng), TypeError, "images must be floats"),
            ((images, labels / 2, rng), TypeError, "labels must be classes"),
            ((images, labels[:3], rng), TypeError, "labels must be classes"),
            ((images, labels + 1, rng), ValueError, r"labels must lie in \[0, 3\)")):
        with pytest.raises(error, match=f"{kind.__name__}: {words}"):
            kind(1.0, 3)(*arguments)
    with pytest.raises(ValueError, match="num_classes must be given"):
        kind()(images, labels, rng)
    with pytest.raises(ValueError, match=r"num_classes must be at least the 3 of the data set, not 2"):
        DataLoader(data(), 8, mix=kind(1.0, 2))


def test_targets_that_are_no_classes_are_refused():
    images = data().images

    class Unnamed:      # nobody knows how many classes there are
        def __len__(self):
            return 50

        def __getitem__(self, indices):
            return data().fetch(indices)

    for dataset in (Dataset(images, np.zeros((50, 4), np.float32)), BatchedDataset(Unnamed()),
                    Dataset(images, np.zeros((50, 7, 9), np.int64))):
        with pytest.raises(ValueError, match="DataLoader: mix must be None for targets that are no classes"):
            DataLoader(dataset, 8, mix=MixUp())
    for wrong in ("mixup", 0.2, MixUp, [], [MixUp(), "cutmix"]):
        with pytest.raises(TypeError, match="DataLoader: mix must be"):
            DataLoader(data(), 8, mix=wrong)


def test_a_model_with_more_outputs_than_classes():
    model = cnn.Sequential(cnn.Flatten(), cnn.Linear(126, 5, seed=0))
    trainer = trainer_of(model)
    with pytest.raises(ValueError, match=r"CrossEntropyLoss: target must be .*\(N, 5\)"):
        trainer.fit(loader(), 1)
    trainer.fit(DataLoader(data(), 16, mix=MixUp(num_classes=5)), 1)


def test_a_class_that_no_image_has_says_how_many_there_must_be():
    model = cnn.Sequential(cnn.Flatten(), cnn.Linear(36, 4))
    loader = cnn.data.DataLoader((np.zeros((40, 1, 6, 6), np.float32), np.arange(40) % 3), 8, mix=cnn.data.MixUp())
    trainer = cnn.Trainer(model, cnn.SGD(model.parameters()), progress=False)
    with pytest.raises(ValueError, match=r"\(8, 3\); the data set's classes, or num_classes= .* must be the 4"):
        trainer.fit(loader, 1)
    loader.mix = cnn.data.mixing.mixes_of(cnn.data.MixUp(num_classes=4), 3)
    trainer.fit(loader, 1)
