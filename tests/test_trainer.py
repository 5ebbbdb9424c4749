"""The training loop: against PyTorch, against its own parts, and what it tells on the way."""

import math

import numpy as np
import pytest
from cases import assert_all_close, assert_close, assert_same_bits

import cnn
from cnn import models, schedules
from cnn.data import (
    AlternatingFlip,
    Compose,
    Cutout,
    DataLoader,
    Dataset,
    RandomAffine,
    RandomCrop,
    RandomFlip,
)
from cnn.data.transforms import apply
from cnn.layers import Conv2d, Dropout, Flatten, Layer, Linear, MaxPool2d, ReLU, Sequential

BATCH = 20


def made_up(n=9 * BATCH + 13, classes=10, size=16, channels=1, dtype=np.uint8, exact=True):
    """A data set of random images; with `exact` it is normalised by a power of two, without any rounding."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (n, channels, size, size), np.uint8)
    labels = rng.integers(0, classes, n)
    mean, std = ([0.0] * channels, [256 / 255] * channels) if exact else ([0.3] * channels, [0.7] * channels)
    data = Dataset(images, labels, [str(k) for k in range(classes)], mean, std)
    if dtype == np.float32:
        return Dataset(data.normalise(images), labels, data.classes)
    return data


def small_model(classes=10, dtype=np.float32):
    return Sequential(Conv2d(1, 4, 3, stride=2, seed=1), ReLU(), Flatten(), Linear(196, classes, seed=2)).to(
        dtype
    )


def trainer_of(model, loss=None, **options):
    optimizer = cnn.SGD(model.parameters(), lr=0.05, momentum=0.9)
    return cnn.Trainer(model, optimizer, loss, progress=False, **options)


def weights(model):
    return list(model.state_dict().values())


def batches(data, dtype, size=BATCH):
    return [
        (data.normalise(data.images[i : i + size]).astype(dtype), data.labels[i : i + size])
        for i in range(0, len(data), size)
    ]


# ------------------------------------------------------------------------------------------ against PyTorch


def lenet_in_torch(torch, state):
    nn = torch.nn
    model = nn.Sequential(
        *(nn.Conv2d(1, 6, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(16, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10)),
    ).double()
    model.load_state_dict({name: torch.tensor(value) for name, value in state.items()})
    return model


SGD = {"lr": 0.05, "momentum": 0.9, "nesterov": True, "weight_decay": 1e-3}


@pytest.fixture(scope="module")
def ten_steps_in_torch(torch):
    """Losses of ten steps of LeNet, the last on a smaller batch, and the weights after them."""
    theirs = lenet_in_torch(torch, models.lenet5(image_size=16, dtype=np.float64).state_dict())
    optimizer = torch.optim.SGD(theirs.parameters(), **SGD)
    losses = []
    for images, labels in batches(made_up(), np.float64):
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(theirs(torch.tensor(images)), torch.tensor(labels))
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert len(losses) == 10
    return losses, [value.numpy() for value in theirs.state_dict().values()]


def by_train_step(model, optimizer, data):
    trainer = cnn.Trainer(model, optimizer, progress=False)
    return [trainer.train_step(*batch) for batch in batches(data, np.float64)]


def by_hand(model, optimizer, data):
    criterion, losses = cnn.CrossEntropyLoss(), []
    for images, labels in batches(data, np.float64):
        losses.append(criterion(model(images), labels))
        model.backward(criterion.backward())
        optimizer.step()
    return losses


def by_fit(model, optimizer, data):
    losses = []
    trainer = cnn.Trainer(
        model, optimizer, progress=False, callbacks=[Recorder(lambda t: losses.append(t.loss))]
    )
    trainer.fit(DataLoader(data, BATCH), 1)
    return losses


class Recorder(cnn.Callback):
    def __init__(self, on_step):
        self.on_step_end = on_step


@pytest.mark.parametrize("way", [by_train_step, by_hand, by_fit])
def test_ten_steps_of_lenet_agree_with_pytorch(ten_steps_in_torch, way):
    model = models.lenet5(image_size=16, dtype=np.float64)
    losses = way(model, cnn.SGD(model.parameters(), **SGD), made_up())
    assert_close(losses, ten_steps_in_torch[0], 1e-8)
    assert_all_close(weights(model), ten_steps_in_torch[1], 1e-8)


@pytest.mark.parametrize("way", [by_train_step, by_hand, by_fit])
def test_steps_of_poolings_and_smooth_activations_agree_with_pytorch(torch, way):
    def net(m, last):
        return m.Sequential(
            *(m.Conv2d(1, 6, 3), m.GELU(), m.AvgPool2d(3, 2, 1), m.Conv2d(6, 8, 3), m.SiLU(), m.Softmax(1)),
            *(m.AdaptiveMaxPool2d(4), m.Conv2d(8, 8, 1), m.GELU(approximate="tanh"), m.AdaptiveAvgPool2d((3, 2))),
            *(m.Dropout2d(0.0), *last, m.Linear(8, 10), m.LogSoftmax(1)),
        )

    nn = torch.nn
    model, data = net(cnn, [cnn.GlobalAvgPool2d()]).to(np.float64), made_up()
    theirs = net(nn, [nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())]).double()
    theirs.load_state_dict({name: torch.tensor(value) for name, value in model.state_dict().items()})
    optimizer, wanted = torch.optim.SGD(theirs.parameters(), **SGD), []
    for images, labels in batches(data, np.float64):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(theirs(torch.tensor(images)), torch.tensor(labels))
        loss.backward()
        optimizer.step()
        wanted.append(loss.item())
    assert_close(way(model, cnn.SGD(model.parameters(), **SGD), data), wanted, 1e-8)
    assert_all_close(weights(model), [value.numpy() for value in theirs.state_dict().values()], 1e-8)


# ------------------------------------------------------------------------------------------ many ways


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_fit_on_bytes_is_train_step_on_the_same_batches(dtype):
    data, results = made_up(), []
    for fit in (True, False):
        trainer = trainer_of(models.lenet5(image_size=16, dtype=dtype))
        loader = DataLoader(data, 18, shuffle=True, seed=4)     # the last batch has 13, or it would be another layout
        if fit:
            trainer.fit(loader, 2)
        else:
            for images, labels in [*loader, *loader]:
                trainer.train_step(images.astype(dtype), labels)
        results.append(weights(trainer.model))
    assert_same_bits(*results)


def test_fit_normalises_bytes():
    """With a mean and a standard deviation that round: as on the normalised floats, up to rounding."""
    data, results = made_up(exact=False), []
    for transform in (None, lambda images, rng: images, lambda images, rng: images.astype(np.float32)):
        trainer = trainer_of(models.lenet5(image_size=16))
        history = trainer.fit(DataLoader(data, BATCH, transform=transform), 1)
        results.append([*weights(trainer.model), np.array(history.column("train_loss"))])
    assert_same_bits(*results[:2])
    assert_all_close(results[0], results[2], tolerance=1e-5)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_transform_may_return_another_type_and_size_each_time(dtype, monkeypatch):
    """As if each batch were trained on by itself."""
    monkeypatch.setattr("cnn.data.loader._TOGETHER", 1)
    data, results = made_up(64), []

    def change(images, rng):
        images = images[..., : rng.integers(12, 17)]
        return images.astype(np.float32) if rng.integers(2) else images

    def loader():
        return DataLoader(data, 4, shuffle=True, transform=change)

    assert len({x.shape for x, _ in loader()}) > 3
    for fit in (True, False):
        model = Sequential(Conv2d(1, 3, 3, stride=9, seed=1), Flatten(), Linear(12, 10, seed=2)).to(dtype)
        trainer = trainer_of(model)
        if fit:
            trainer.fit(loader(), 1)
        else:
            for images, labels in loader():
                trainer.train_step(images.astype(dtype), labels)
        results.append(weights(trainer.model))
    assert_same_bits(*results)


def test_fit_on_floats_is_fit_on_bytes():
    results = []
    for data in (made_up(), made_up(dtype=np.float32)):
        trainer = trainer_of(small_model())
        trainer.fit(data, 2, validation=data, batch_size=17, seed=3)
        results.append((weights(trainer.model), trainer.history.column("val_loss")))
    assert_same_bits(results[0][0], results[1][0])
    assert results[0][1] == results[1][1]


def test_a_transform_is_applied():
    data = made_up()
    flipped = Dataset(data.images[..., ::-1], data.labels, data.classes, data.mean, data.std)
    results = []
    for dataset, transform in ((data, lambda images, rng: images[..., ::-1]), (flipped, None)):
        trainer = trainer_of(small_model())
        trainer.fit(DataLoader(dataset, 17, transform=transform), 1)
        results.append(weights(trainer.model))
    assert_same_bits(*results)


AFFINE = RandomAffine(30, (0.2, 0.1), (0.8, 1.25), 10, fill=(3, 250))
CHANGES = {
    "crop": RandomCrop(3, "zero"),
    "cutout": Cutout(5, (7, 8)),
    "affine": AFFINE,
    "several": Compose(AFFINE, RandomCrop(2), Compose(AlternatingFlip(1), Compose()), Cutout(3), RandomFlip()),
}


class ByHand:
    """A transform that the trainer can't look into."""

    needs_indices = True

    def __init__(self, transform):
        self.transform = transform

    def __call__(self, images, rng, indices, epoch):
        return apply(self.transform, images, rng, indices, epoch)


@pytest.mark.thorough
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("size", [5, 17, 50])
@pytest.mark.parametrize("name", CHANGES)
def test_changes_within_the_step_are_those_by_hand(name, size, dtype, set_threads, monkeypatch):
    data, results = made_up(60, channels=2, exact=False), []
    monkeypatch.setattr("cnn.data.loader._TOGETHER", 3 * size * data.images[0].nbytes)
    for threads in (1, 2, 5):
        set_threads(threads)
        for transform in (CHANGES[name], ByHand(CHANGES[name])):
            model = Sequential(Conv2d(2, 4, 3, stride=2, seed=1), ReLU(), Flatten(), Linear(196, 10, seed=2))
            trainer, loader = trainer_of(model.to(dtype)), DataLoader(data, size, shuffle=True, transform=transform)
            if loader.drawable:
                loader.raw_batches = None  # there is no need for it
            trainer.fit(loader, 2)
            results.append(weights(model))
    for other in results[1:]:
        assert_same_bits(results[0], other)


def test_another_transform_in_the_same_trainer():
    data, results = made_up(), []
    transforms = [RandomCrop(3), Cutout(3), Cutout(3, 9), None, Compose(RandomCrop(3), Cutout(3)), RandomFlip()]
    for wrapped in (False, True):
        trainer = trainer_of(small_model())
        for transform in transforms:
            transform = ByHand(transform) if wrapped and transform else transform
            trainer.fit(DataLoader(data, BATCH, transform=transform), 1)
        results.append(weights(trainer.model))
    assert_same_bits(*results)


# the numbers that test-time augmentation adds: (weight, rows to move down, columns to move right, mirrored)
TTA = {
    "flip": [(1 / 2, 0, 0, False), (1 / 2, 0, 0, True)],
    "flip+shift": [
        *((1 / 4, 0, 0, mirrored) for mirrored in (False, True)),
        *((1 / 8, by, by, mirrored) for by in (-1, 1) for mirrored in (False, True)),
    ],
}


@pytest.mark.parametrize("n", [0, 1, 530])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("tta", TTA)
def test_test_time_augmentation_averages_scores(tta, dtype, n):
    data = made_up(530, dtype=dtype).subset(slice(0, n))
    model = Sequential(small_model(), Dropout())
    trainer, images = trainer_of(model), data.normalise(data.images)
    wanted = np.zeros((n, 10), np.float32)
    for weight, down, right, mirrored in TTA[tta]:
        moved = np.pad(images, ((0, 0), (0, 0), (2, 2), (2, 2)), "reflect")
        moved = moved[:, :, 2 - down : 18 - down, 2 - right : 18 - right]
        wanted += np.float32(weight) * model[0](np.ascontiguousarray(moved[..., ::-1] if mirrored else moved))
    assert_close(trainer.predict(data, tta=tta), wanted, 1e-5)
    assert_close(trainer.predict(images, tta=tta), wanted, 1e-5)
    measured = trainer.evaluate(data, tta=tta)
    if n:
        assert measured["accuracy"] == (wanted.argmax(1) == data.labels).mean()
        assert measured["loss"] == pytest.approx(cnn.CrossEntropyLoss()(wanted, data.labels), rel=1e-5)
        assert measured["loss"] != trainer.evaluate(data)["loss"]
    else:
        assert math.isnan(measured["loss"]) and math.isnan(measured["accuracy"])
    assert model.training and measured["images"] == n


def test_wrong_test_time_augmentation():
    trainer, data = trainer_of(small_model()), made_up(3)
    for method in (trainer.predict, trainer.evaluate):
        with pytest.raises(ValueError, match='tta must be None, "flip" or "flip.shift", got True'):
            method(data, tta=True)
    flat = trainer_of(Linear(4, 2))
    with pytest.raises(ValueError, match=r"x must have shape \(N, C, H, W\) for tta 'flip', got \(3, 4\)"):
        flat.predict(np.zeros((3, 4), np.float32), tta="flip")


class NumpyReLU(Layer):
    """A layer that does not run in the kernels, so that the Trainer must call one part after the other."""

    def forward(self, x):
        self.x = x
        return np.maximum(x, 0)

    def backward(self, dy, need_dx=True):
        return dy * (self.x > 0) if need_dx else None


class NumpyLoss:
    """Cross-entropy without kernels of its own inside a program."""

    def __init__(self, *args, **options):
        self.inner = cnn.CrossEntropyLoss(*args, **options)

    def __call__(self, scores, labels):
        return self.inner(scores, labels)

    def backward(self):
        return self.inner.backward()


SMOOTHED, WEIGHTED = {"label_smoothing": 0.1}, {"weight": np.linspace(0.1, 3, 10)}
LOSSES = {"plain": {}, "smoothed": SMOOTHED, "weighted": WEIGHTED, "both": {**SMOOTHED, **WEIGHTED}}


def two_ways(loss, **options):
    """Trainers of the same model as one program and part by part."""
    kinds = [(ReLU, cnn.CrossEntropyLoss), (NumpyReLU, cnn.CrossEntropyLoss)]
    if "weight" not in LOSSES[loss]:  # a loss that is only called cannot say what its mean was divided by
        kinds.append((ReLU, NumpyLoss))
    for relu, kind in kinds:
        model = small_model(dtype=np.float64)
        yield trainer_of(Sequential(model[0], relu(), *model[2:]), kind(**LOSSES[loss]), **options)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("max_grad_norm", [None, 0.5])
def test_one_program_and_part_by_part_train_alike(loss, max_grad_norm):
    results = []
    for trainer in two_ways(loss, max_grad_norm=max_grad_norm):
        history = trainer.fit(made_up(), 2, batch_size=17)
        results.append(
            [*weights(trainer.model), history.column("train_loss"), history.column("train_accuracy")]
        )
    for result in results[1:]:
        assert_all_close(result, results[0], 1e-9)


@pytest.mark.parametrize("n", [0, 1, 17, 513])
@pytest.mark.parametrize("loss", LOSSES)
def test_one_program_and_part_by_part_measure_alike(loss, n):
    data = made_up(513).subset(slice(0, n))
    results = [trainer.evaluate(data) for trainer in two_ways(loss)]
    for result in results[1:]:
        assert result == pytest.approx(results[0], rel=1e-10, nan_ok=True)


@pytest.mark.parametrize("n", [0, 1, 17, 513])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("loss", LOSSES)
def test_evaluate_and_predict_are_the_models_forward(loss, dtype, n):
    """Also in class-weighted means over several portions; on 0 images there is nothing to measure."""
    data = made_up(513, dtype=dtype).subset(slice(0, n))
    trainer = trainer_of(small_model(), cnn.CrossEntropyLoss(**LOSSES[loss]))
    scores = trainer.model.eval()(data.normalise(data.images))
    measured = trainer.evaluate(data)
    predicted = trainer.predict(data)
    assert predicted.shape == (n, 10) and predicted.dtype == np.float32
    assert np.array_equal(predicted, scores)
    assert np.array_equal(trainer.predict(data.normalise(data.images)), scores)
    assert measured["images"] == n and set(measured) == {"loss", "accuracy", "images"}
    if n == 0:
        assert math.isnan(measured["loss"]) and math.isnan(measured["accuracy"])
    else:
        wanted = cnn.reference.cross_entropy(scores.astype(np.float64), data.labels, **LOSSES[loss])[0]
        assert measured["loss"] == pytest.approx(wanted, rel=1e-5)
        assert measured["accuracy"] == np.mean(scores.argmax(axis=1) == data.labels)


def test_max_grad_norm_is_clip_grad_norm():
    model, other = small_model(dtype=np.float64), small_model(dtype=np.float64)
    trainer = trainer_of(model, max_grad_norm=0.5)
    optimizer, criterion = cnn.SGD(other.parameters(), lr=0.05, momentum=0.9), cnn.CrossEntropyLoss()
    norms = []
    for images, labels in batches(made_up(), np.float64):
        trainer.train_step(images, labels)
        criterion(other(images), labels)
        other.backward(criterion.backward())
        norms.append(cnn.clip_grad_norm(other.parameters(), 0.5))
        optimizer.step()
        assert trainer.optimizer.grad_norm == pytest.approx(norms[-1], rel=1e-10)
    assert max(norms) > 0.5  # something was clipped
    assert_all_close(weights(model), weights(other))


@pytest.mark.parametrize("max_norm", [None, 0.2])
@pytest.mark.parametrize("name, options", [("SGD", {"momentum": 0.9, "nesterov": True}), ("AdamW", {})])
def test_groups_and_clipping_agree_with_pytorch(torch, name, options, max_norm):
    """Biases without weight decay and at another rate, in ten steps of one program under a schedule."""
    rate, options = schedules.OneCycle(0.02, 10), {"lr": 0.01, "weight_decay": 0.1, **options}
    model = models.lenet5(image_size=16, dtype=np.float64)
    theirs = lenet_in_torch(torch, model.state_dict())
    groups = cnn.split_biases(model.parameters(), weight_decay=0, lr=0.03)
    trainer = cnn.Trainer(model, getattr(cnn, name)(groups, **options), schedule=rate, progress=False,
                          max_grad_norm=max_norm)
    trainer.fit(DataLoader(made_up(), BATCH), 1)

    groups = [{"params": [p for p in theirs.parameters() if p.ndim > 1]},
              {"params": [p for p in theirs.parameters() if p.ndim == 1], "weight_decay": 0}]
    optimizer = getattr(torch.optim, name)(groups, **options)
    norms = []
    for step, (images, labels) in enumerate(batches(made_up(), np.float64)):
        for group, factor in zip(optimizer.param_groups, (1, 3), strict=True):
            group["lr"] = rate(step) * factor
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(theirs(torch.tensor(images)), torch.tensor(labels)).backward()
        if max_norm is not None:
            norms.append(torch.nn.utils.clip_grad_norm_(theirs.parameters(), max_norm).item())
        optimizer.step()
    assert_all_close(weights(model), [value.numpy() for value in theirs.state_dict().values()], 1e-8)
    if max_norm is not None:
        assert max(norms) > max_norm  # something was clipped
        assert trainer.optimizer.grad_norm == pytest.approx(norms[-1], rel=1e-8)


@pytest.mark.parametrize("optimizer", ["Adam", "AdamW", "RMSprop"])
def test_other_optimizers_in_a_program(optimizer):
    model, other = small_model(dtype=np.float64), small_model(dtype=np.float64)
    ours, theirs = (getattr(cnn, optimizer)(m.parameters(), weight_decay=0.1) for m in (model, other))
    assert_close(by_train_step(model, ours, made_up()), by_hand(other, theirs, made_up()))
    assert_all_close(weights(model), weights(other))
    assert ours.steps == 10


def test_a_frozen_layer_stays_as_it_is():
    model = small_model()
    frozen = model[0].parameters()
    for p in frozen:
        p.requires_grad = False
    before = weights(model)
    optimizer = cnn.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=0.1)
    cnn.Trainer(model, optimizer, progress=False).fit(made_up(), 1)
    after = weights(model)
    assert_same_bits(after[:2], before[:2])
    assert not np.array_equal(after[2], before[2])


def test_freezing_between_two_steps():
    model = small_model()
    trainer = trainer_of(model)
    trainer.fit(made_up(), 1)
    for p in model[0].parameters():
        p.requires_grad = False
    before = weights(model)
    trainer.fit(made_up(), 1)
    after = weights(model)
    assert_same_bits(after[:2], before[:2])
    assert not np.array_equal(after[2], before[2])


def test_weights_loaded_between_two_steps_are_used():
    data, trainer = made_up(), trainer_of(small_model())
    start, first = trainer.model.state_dict(), trainer.evaluate(data)
    trainer.fit(data, 1)
    assert trainer.evaluate(data) != first
    trainer.model.load_state_dict(start)
    assert trainer.evaluate(data) == first


def test_labels_may_be_any_integers():
    (images, labels), *_ = batches(made_up(), np.float32)
    losses = [
        trainer_of(small_model()).train_step(images, kind)
        for kind in (
            labels,
            labels.astype(np.uint8),
            labels.astype(">i4"),
            labels.tolist(),
            np.repeat(labels, 2)[::2],
        )
    ]
    assert len(set(losses)) == 1


# ------------------------------------------------------------------------------------------ what fit tells


# ---------------------------------------------------------------------------------- several steps in one call


class Patient(cnn.Callback):
    """What it is told of the steps, and after how many it is told."""

    every_step = False

    def __init__(self):
        self.steps, self.calls = [], []

    def on_step_end(self, trainer):
        assert trainer.step == trainer.recent[-1][0] and trainer.loss == trainer.recent[-1][2]
        assert trainer.lr == trainer.recent[-1][1]
        self.steps += trainer.recent
        self.calls.append(len(trainer.recent))


class Impatient(Patient):
    every_step = True


@pytest.fixture
def unhurried(monkeypatch):
    """As many steps as possible are taken in one call, however long they take."""
    monkeypatch.setattr("cnn.training.step.SECONDS", 1e9)


def everything_that_changes(dtype):
    """A model and a trainer's options of which every step depends on how many there were before."""
    model = Sequential(Conv2d(2, 4, 3, stride=2, seed=1), cnn.BatchNorm2d(4, momentum=None), ReLU(), Flatten(),
                       Dropout(0.2, seed=3), Linear(196, 10, seed=2)).to(dtype)
    loss = cnn.CrossEntropyLoss(label_smoothing=0.1, weight=np.arange(1.0, 11.0))
    optimizer = cnn.Adam(model.parameters(), lr=0.01, weight_decay=1e-3)
    return model, optimizer, loss, {"schedule": schedules.Cosine(0.02, 100), "max_grad_norm": 1.0}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_steps_taken_together_are_the_same_steps(dtype, set_threads, unhurried):
    data, results = made_up(500, channels=2), []
    for threads, callback in ((1, Impatient()), (1, Patient()), (2, Patient()), (5, Patient())):
        set_threads(threads)
        model, optimizer, loss, options = everything_that_changes(dtype)
        loader = DataLoader(data, 17, shuffle=True, seed=4, transform=CHANGES["several"])
        trainer = cnn.Trainer(model, optimizer, loss, callbacks=[callback], progress=False, **options)
        history = trainer.fit(loader, 3)
        # one step at first, because nobody knows how long it takes; 29 full batches an epoch, and one of seven
        calls = [1, 16, 12, 1] + 2 * [16, 13, 1] if type(callback) is Patient else [1] * 90
        assert callback.calls == calls
        assert [step for step, _, _ in callback.steps] == list(range(1, 91))
        assert len({rate for _, rate, _ in callback.steps}) == 90
        results.append([*weights(model), *optimizer.state.values(), np.array(callback.steps),
                        np.array(history.column("train_loss")), np.array(history.column("train_accuracy"))])
    for result in results[1:]:
        assert_same_bits(result, results[0])


def test_who_must_see_every_step():
    data = made_up(200)

    class Lenient:
        """No Callback, but it does."""

        def on_step_end(self, trainer):
            self.most = max(getattr(self, "most", 0), len(trainer.recent))

        def on_epoch_end(self, trainer):
            pass

        on_fit_start = on_fit_end = on_epoch_end

    for other in (Impatient(), Lenient()):
        callback = Patient()
        trainer_of(small_model(), callbacks=[callback, other]).fit(data, 2, batch_size=10)
        assert set(callback.calls) == {1}
    assert other.most == 1


def test_training_stops_where_the_steps_taken_together_end(unhurried):
    """What is stopped and what goes on from there have the same bits as if there were no stop."""
    class Stop(Patient):
        def on_step_end(self, trainer):
            super().on_step_end(trainer)
            trainer.stop = trainer.step >= 20

    data, results = made_up(500, channels=2), []
    for stop in (False, True):
        model, optimizer, loss, options = everything_that_changes(np.float32)
        callback = Stop() if stop else Patient()
        trainer = cnn.Trainer(model, optimizer, loss, callbacks=[callback], progress=False, **options)
        trainer.fit(data, 2, batch_size=17)
        if stop:
            assert callback.calls == [1, 16, 12] and trainer.step == optimizer.steps == 29 and trainer.seen == 29 * 17
            state = trainer.state_dict()
            model, optimizer, loss, options = everything_that_changes(np.float32)
            trainer = cnn.Trainer(model, optimizer, loss, progress=False, **options)
            trainer.load_state_dict(state)
            trainer.fit(data, 2, batch_size=17)
        results.append([*weights(model), np.array(trainer.history.column("train_loss"))])
    assert_same_bits(*results)


def test_divergence_within_steps_taken_together(unhurried):
    callback, rates = Patient(), [0.05] * 8 + [1e30] * 10
    trainer = trainer_of(small_model(), schedule=lambda step: rates[step], callbacks=[callback])
    with pytest.raises(cnn.TrainingDiverged, match=r"in step 9 \(epoch 1\) at learning rate 1e\+30"):
        trainer.fit(made_up(180), 1, batch_size=10)
    assert [step for step, _, _ in callback.steps] == list(range(1, 10)) and callback.calls == [1, 8]
    assert trainer.step == 9 and trainer.seen == 90


def test_history_and_schedule():
    data, schedule = made_up(), schedules.Cosine(0.1, total_steps=30, warmup_steps=4)
    rates, losses, seen = [], [], []

    def record(trainer):
        rates.append(trainer.lr)
        losses.append(trainer.loss)
        seen.append((trainer.epoch, trainer.epochs, trainer.step, trainer.seen, trainer.epoch_images))

    trainer = trainer_of(small_model(), schedule=schedule, callbacks=[Recorder(record)])
    history = trainer.fit(data, 3, validation=data, batch_size=BATCH)
    assert history is trainer.history
    assert rates == [schedule(step) for step in range(30)]
    assert (
        seen[0] == (0, 3, 1, 20, 193) and seen[9] == (0, 3, 10, 193, 193) and seen[29] == (2, 3, 30, 193, 193)
    )
    assert history.column("epoch") == [1, 2, 3]
    assert history.column("lr") == [rates[9], rates[19], rates[29]]
    counts = np.array([20] * 9 + [13])
    means = [np.average(losses[i : i + 10], weights=counts) for i in (0, 10, 20)]
    assert history.column("train_loss") == pytest.approx(means, rel=1e-6)
    measured = trainer.evaluate(data)
    assert (history[-1]["val_loss"], history[-1]["val_accuracy"]) == (measured["loss"], measured["accuracy"])
    for row in history:
        assert tuple(row) == history.COLUMNS
        assert 0 <= row["train_accuracy"] <= 1
        assert row["images_per_second"] == pytest.approx(193 / row["seconds"])


def test_history_without_validation_and_a_second_fit():
    trainer = trainer_of(small_model())
    trainer.fit(made_up(), 1)
    trainer.fit(made_up(), 2)
    assert trainer.history.column("epoch") == [1, 2, 3]
    assert all(math.isnan(value) for value in trainer.history.column("val_loss"))


def test_history_is_saved_as_csv(tmp_path):
    trainer = trainer_of(small_model())
    history = trainer.fit(made_up(), 2)
    history.save(tmp_path / "history.csv")
    lines = (tmp_path / "history.csv").read_text().splitlines()
    assert lines[0].split(",") == list(history.COLUMNS)
    assert [float(line.split(",")[2]) for line in lines[1:]] == history.column("train_loss")


def test_events_and_stop():
    events = []

    class Watcher(cnn.Callback):
        def on_fit_start(self, trainer):
            events.append("fit starts")

        def on_step_end(self, trainer):
            events.append(trainer.step)
            trainer.stop = trainer.step == 12

        def on_epoch_end(self, trainer):
            events.append(f"epoch {trainer.history[-1]['epoch']} ends")

        def on_fit_end(self, trainer):
            events.append("fit ends")

    trainer = trainer_of(small_model(), callbacks=[Watcher()])
    trainer.fit(made_up(), 5, batch_size=BATCH)
    assert events == ["fit starts", *range(1, 11), "epoch 1 ends", 11, 12, "epoch 2 ends", "fit ends"]


def test_no_epochs_change_nothing():
    trainer = trainer_of(small_model())
    before = weights(trainer.model)
    assert trainer.fit(made_up(), 0) == []
    assert_same_bits(weights(trainer.model), before)


@pytest.mark.parametrize("relu", [ReLU, NumpyReLU])
def test_diverging_is_an_error_with_step_and_rate(relu):
    model = Sequential(Flatten(), Linear(256, 50), relu(), Linear(50, 10))
    trainer = cnn.Trainer(
        model, cnn.SGD(model.parameters()), schedule=schedules.Constant(1e30), progress=False
    )
    with np.errstate(all="ignore"), pytest.raises(cnn.TrainingDiverged, match=r"nan|inf") as error:
        trainer.fit(made_up(), 1, batch_size=BATCH)
    assert f"step {trainer.step} " in str(error.value) and "1e+30" in str(error.value)
    assert 1 <= trainer.step <= 3  # the first loss is still finite


def test_an_infinite_loss_is_divergence_too():
    model = Sequential(Flatten(), Linear(256, 2))
    model[1].weight.data = np.zeros((2, 256))
    model[1].bias.data = [3e38, -3e38]
    data = Dataset(np.zeros((4, 1, 16, 16), np.float32), np.ones(4, int))
    with pytest.raises(cnn.TrainingDiverged, match="step 0 .*learning rate 0.05"):
        trainer_of(model).fit(data, 1)


def test_an_empty_data_set_is_refused():
    with pytest.raises(ValueError, match="Trainer.fit: .*0 images"):
        trainer_of(small_model()).fit(made_up(0), 1)
    with pytest.raises(ValueError, match="Trainer.fit: .*5 images in batches of 8"):
        trainer_of(small_model()).fit(DataLoader(made_up(5), 8, drop_last=True), 1)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("relu", [ReLU, NumpyReLU])
def test_more_classes_than_outputs_are_refused(relu, dtype):
    model = Sequential(Flatten(), Linear(256, 9), relu())
    with pytest.raises(ValueError, match="10|9"):
        trainer_of(model).fit(made_up(dtype=dtype), 1)
    with pytest.raises(ValueError, match="10|9"):
        trainer_of(model).evaluate(made_up(dtype=dtype))


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_a_class_without_images_is_fine(dtype):
    data = made_up(dtype=dtype)
    data = data.subset(data.labels != 3)
    trainer = trainer_of(small_model())
    trainer.fit(data, 1, validation=data)
    assert math.isfinite(trainer.history[-1]["val_loss"])


def test_fit_trains_and_evaluation_leaves_the_modes():
    model = Sequential(Flatten(), Dropout(0.5), Linear(256, 10), Sequential(Dropout(0.0), ReLU()))
    trainer = trainer_of(model)
    model.eval()
    trainer.fit(made_up(), 1, validation=made_up())
    assert all(layer.training for layer in model.modules())
    model[3].eval()
    modes = [layer.training for layer in model.modules()]
    first = trainer.evaluate(made_up())
    assert trainer.evaluate(made_up()) == first  # nothing is dropped
    trainer.predict(made_up())
    assert [layer.training for layer in model.modules()] == modes
    with pytest.raises(ValueError):
        trainer.predict(np.zeros((2, 3, 5, 5), np.float32))
    assert [layer.training for layer in model.modules()] == modes


def test_images_of_two_sizes_in_turn():
    model = Sequential(Conv2d(1, 3, 3), ReLU(), MaxPool2d(14), Flatten(), Linear(3, 10))
    trainer = trainer_of(model)
    for size in (16, 17, 16):
        trainer.fit(made_up(40, size=size), 1)
        assert math.isfinite(trainer.evaluate(made_up(40, size=size))["loss"])


def test_it_learns():
    """Twenty images by heart."""
    data, model = made_up(20), models.lenet5(image_size=16)
    trainer = cnn.Trainer(model, cnn.Adam(model.parameters(), lr=0.01), progress=False)
    trainer.fit(data, 100, batch_size=20)
    assert trainer.evaluate(data)["accuracy"] == 1
    assert trainer.history[-1]["train_loss"] < 0.05 < 1 < trainer.history[0]["train_loss"]
