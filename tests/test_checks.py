"""What a Trainer compares before it begins: optimizer and model, classes and normalisation, batches and batch norm."""

import math
import warnings

import numpy as np
import pytest
from cases import assert_same_bits

import cnn
from cnn import reference
from cnn.data import DataLoader, Dataset
from cnn.layers import AdaptiveAvgPool2d, BatchNorm2d, Conv2d, Flatten, Linear, Sequential
from cnn.training import lr_finder


def pictures(n=40, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (n, 1, 4, 4), np.uint8), rng.integers(0, 3, n)


def model_of(seed=1):
    return Sequential(Flatten(), Linear(16, 3, seed=seed))


def trainer_of(model=None, loss=None, **options):
    model = model or model_of()
    return cnn.Trainer(model, cnn.SGD(model.parameters(), lr=0.05), loss, progress=False, **options)


@pytest.fixture
def told():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield caught


# ------------------------------------------------------------------------------------------ the optimizer


def test_an_optimizer_of_another_model_is_refused():
    model, other = model_of(), model_of()
    for params, words in ((other.parameters(), "2 of its 2 .* shape .3, 16."),
                          ([*model.parameters(), other[1].bias], r"1 of its 3 .* shape .3,.")):
        words = f"Trainer: the optimizer must update parameters of the model, but {words}"
        with pytest.raises(ValueError, match=words):
            cnn.Trainer(model, cnn.SGD(params), progress=False)
    cnn.Trainer(model, cnn.SGD([model[1].bias]), progress=False)      # a part of the model is all right


def test_an_optimizer_that_the_model_has_left_is_refused():
    """Where a layer was replaced since the trainer was made."""
    trainer = trainer_of()
    trainer.model.layers[1] = Linear(16, 3)
    with pytest.raises(ValueError, match="Trainer.fit: the optimizer must"):
        trainer.fit(Dataset(*pictures()), 1)


@pytest.mark.parametrize(("options", "error", "words"), [
    ({"schedule": 0.1}, TypeError, "Trainer: schedule must be a function"),
    ({"callbacks": [cnn.callbacks.EarlyStopping]}, TypeError, "Trainer: callbacks must be objects, got the class"),
    ({"callbacks": [cnn.callbacks.EarlyStopping()]}, ValueError, "EarlyStopping: monitor val_loss needs validation"),
])
def test_what_would_come_out_later(options, error, words):
    with pytest.raises(error, match=words):
        trainer_of(**options).fit(Dataset(*pictures()), 1)
    with pytest.raises(ValueError, match="Trainer.fit: the trainer must have an optimizer"):
        cnn.Trainer(model_of(), None, progress=False).fit(Dataset(*pictures()), 1)


# ------------------------------------------------------------------------------------------ the classes


@pytest.mark.parametrize("loaded", [False, True])
def test_classes_are_matched_by_their_names(told, loaded):
    images, labels = pictures()
    train = Dataset(images, labels, list("abc"))
    order = np.array([2, 0, 1])     # of the same labels in the other data set
    other = Dataset(images, order[labels], ["b", "c", "a"])
    trainer = trainer_of()
    assert trainer.evaluate(other) != trainer.evaluate(train)      # nothing is known yet
    trainer.fit(train, 1, validation=DataLoader(other, 7) if loaded else other)
    wanted = trainer.evaluate(train)
    assert trainer.evaluate(other) == wanted == trainer.evaluate(other.subset(slice(None)))
    assert trainer.history[-1]["val_loss"] == wanted["loss"]
    assert trainer.history[-1]["val_accuracy"] == wanted["accuracy"]
    part = train.labels != 1        # data without one of the classes
    few = Dataset(images[part], np.where(labels[part] == 2, 0, 1), ["c", "a"])
    assert trainer.evaluate(few) == trainer.evaluate(train.subset(part))
    assert not told


def test_a_class_that_was_not_trained_is_refused():
    images, labels = pictures()
    trainer = trainer_of()
    train, other = Dataset(images, labels, list("abc")), Dataset(images, labels, ["a", "bee", "c"])
    with pytest.raises(ValueError, match="Trainer.fit: validation has the class 'bee', the training data only a, b, c"):
        trainer.fit(train, 1, validation=other)
    assert trainer.step == 0
    trainer.fit(train, 1)
    with pytest.raises(ValueError, match="Trainer.evaluate: data has the class 'bee'"):
        trainer.evaluate(other)
    trainer.predict(other)      # needs no classes


@pytest.mark.parametrize(("one", "two"), [(None, list("abc")), (list("abc"), None), (None, None)])
def test_classes_without_names_are_matched_by_number(told, one, two):
    images, labels = pictures()
    train, other = (Dataset(images, labels, names) for names in (one, two))
    trainer = trainer_of()
    trainer.fit(train, 1, validation=other)
    assert trainer.history[-1]["val_loss"] == trainer.evaluate(train)["loss"] and not told


def test_the_last_class_may_be_missing_in_the_training_data(told):
    images, labels = pictures()
    trainer = trainer_of()
    trainer.fit(Dataset(images[labels < 2], labels[labels < 2]), 1, validation=Dataset(images, labels))
    assert math.isfinite(trainer.history[-1]["val_loss"]) and not told


# ------------------------------------------------------------------------------------------ the normalisation


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("facts", [{}, {"mean": [0.4], "std": [0.3]}])
def test_the_training_datas_normalisation_counts(told, dtype, facts):
    """What comes without is taken to be meant so, where the unit is known; anything else gets a word."""
    images, labels = pictures()
    images = images.astype(dtype)
    train, other = Dataset(images, labels, mean=[0.5], std=[0.25]), Dataset(images, labels, **facts)
    trainer = trainer_of()
    trainer.fit(train, 1, validation=other)
    wanted = trainer.evaluate(train)
    assert trainer.history[-1]["val_loss"] == wanted["loss"]
    silent = dtype == np.uint8 and not facts
    assert [("Trainer.fit: validation has mean" in str(w.message), w.filename) for w in told] == (
        [] if silent else [(True, __file__)])
    assert trainer.evaluate(other) == wanted
    assert_same_bits([trainer.predict(other)], [trainer.predict(train)])
    assert len(told) == (0 if silent else 3) and {w.filename for w in told} <= {__file__}


def test_images_in_another_unit_and_rounded_figures_stay_as_they_are(told):
    images, labels = pictures()
    train = Dataset(images, labels, mean=[0.5], std=[0.25])
    for other in (Dataset(train.normalise(images), labels), Dataset(images, labels, mean=[0.5 + 1e-9], std=[0.25])):
        trainer = trainer_of()
        trainer.fit(train, 1, validation=other)
        assert trainer.history[-1]["val_loss"] == pytest.approx(trainer.evaluate(train)["loss"], rel=1e-5)
    assert not told


def test_other_channels_are_refused_before_the_first_step():
    images, labels = pictures()
    trainer = trainer_of()
    with pytest.raises(ValueError, match="Trainer.fit: validation must have images of 1 channels"):
        trainer.fit(Dataset(images, labels), 1, validation=Dataset(np.repeat(images, 3, 1), labels))
    assert trainer.step == 0


# ------------------------------------------------------------------------------------------ single values


def norm_model(*, pooled=True):
    pool = [AdaptiveAvgPool2d(1)] if pooled else []
    return Sequential(Conv2d(1, 2, 3, seed=1), Sequential(*pool, BatchNorm2d(2)), Flatten(),
                      Linear(2 if pooled else 8, 3, seed=2))


@pytest.mark.parametrize(("images", "size", "drop_last", "words"), [
    (33, 16, False, "the last batch of an epoch has one image, .* BatchNorm2d .layer 1.1. .*drop_last=True"),
    (1, 16, False, "the last batch of an epoch"),
    (40, 1, True, "every batch has one image, .*; use a larger batch size"),
    (33, 16, True, None),
    (34, 16, False, None),
])
def test_a_batch_of_which_batch_norm_gets_one_value_is_refused_at_the_start(images, size, drop_last, words):
    data = Dataset(*pictures(images), list("abc"))
    trainer = trainer_of(norm_model())
    loader = DataLoader(data, size, drop_last=drop_last)
    if words is None:
        trainer.fit(loader, 1)
        return
    for name, begin in (("Trainer.fit", lambda: trainer.fit(loader, 1)),
                        ("find_lr", lambda: cnn.find_lr(trainer, loader))):
        with pytest.raises(ValueError, match=f"{name}: {words}"):
            begin()
    assert trainer.step == trainer.optimizer.steps == 0 and trainer.model[1][1].num_batches_tracked == 0
    trainer.fit(loader, 0)


def test_larger_images_and_norms_that_learn_nothing_take_one_image():
    data = Dataset(*pictures(33), list("abc"))
    trainer_of(norm_model(pooled=False)).fit(data, 1, batch_size=16)
    trainer_of().fit(data, 1, batch_size=16)


# ------------------------------------------------------------------------------------------ weights of nothing, eps


class NumpyFlatten(cnn.Layer):
    """Keeps a model out of the compiled step."""

    def forward(self, x):
        self._shape = x.shape
        return np.ascontiguousarray(x.reshape(len(x), -1))

    def backward(self, dy, need_dx=True):
        return dy.reshape(self._shape)


@pytest.mark.thorough
@pytest.mark.parametrize("flatten", [Flatten, NumpyFlatten])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_a_batch_whose_labels_have_weight_0_counts_as_nothing(flatten, smoothing):
    """Weight decay and momentum act as they would with a gradient of 0."""
    images, labels = pictures(48)
    labels[:16], labels[16:] = 0, 1 + labels[16:] % 2
    losses, loss = [], cnn.CrossEntropyLoss([0, 1, 1], label_smoothing=smoothing)
    watch = cnn.Callback()
    watch.on_step_end = lambda trainer: losses.append(trainer.loss)
    results = []
    for first in (0, 16):
        model = Sequential(flatten(), Linear(16, 3, seed=1))
        optimizer = cnn.SGD(model.parameters(), lr=0.1, momentum=0.9)
        trainer = cnn.Trainer(model, optimizer, loss, callbacks=[watch], progress=False)
        trainer.fit(DataLoader(Dataset(images[first:], labels[first:], list("xab")), 16), 1)
        results.append([*model.state_dict().values(), np.array(trainer.history[-1]["train_loss"])])
    assert_same_bits(*results)
    assert losses[0] == 0 and losses[1:3] == losses[3:]
    model = Sequential(flatten(), Linear(16, 3, seed=1))
    optimizer = cnn.SGD(model.parameters(), lr=0.1, weight_decay=0.5)
    before = model[1].weight.data.copy()
    part = Dataset(images[:16], labels[:16], list("xab"))
    trainer = cnn.Trainer(model, optimizer, loss, progress=False)
    assert math.isnan(trainer.train_step(part.normalise(part.images), part.labels))
    np.testing.assert_allclose(model[1].weight.data, before * (1 - 0.1 * 0.5), rtol=1e-6)
    with pytest.raises(ValueError, match="find_lr: all labels have class weight 0"):
        cnn.find_lr(trainer, part)


def test_weights_that_let_no_class_count_are_refused():
    with pytest.raises(ValueError, match="cross_entropy: weight must be above 0 for one class"):
        cnn.functional.cross_entropy(np.zeros((2, 3)), np.array([0, 1]), [0, 0, 0])


def test_find_lr_passes_over_batches_that_count_as_nothing():
    images, labels = pictures(32)
    labels[:16], labels[16:] = 0, 1
    trainer = trainer_of(loss=cnn.CrossEntropyLoss(weight=[0, 1, 1]))
    curve = cnn.find_lr(trainer, DataLoader(Dataset(images, labels, list("xab")), 16), 1e-4, 1e-2, steps=8)
    assert len(curve.losses) == 4 and all(map(math.isfinite, curve.losses))


def test_find_lr_of_arguments_that_lead_nowhere():
    with pytest.raises(ValueError, match="find_lr: highest must be closer"):
        cnn.find_lr(trainer_of(), Dataset(*pictures()), 1e-300, 1e300)
    for rates, losses in (([], []), ([0.1], [1.0, 2.0])):
        with pytest.raises(ValueError, match="LRCurve: "):
            lr_finder.LRCurve(rates, losses)


@pytest.mark.parametrize("eps", [0, 0.0, 1e-39, -1e-8, math.nan])
@pytest.mark.parametrize("make", [
    lambda eps: cnn.Adam(model_of().parameters(), eps=eps),
    lambda eps: cnn.AdamW(model_of().parameters(), eps=eps),
    lambda eps: cnn.RMSprop(model_of().parameters(), eps=eps),
    lambda eps: BatchNorm2d(3, eps=eps),
])
def test_an_eps_that_is_0_in_float32_is_refused(make, eps):
    with pytest.raises(ValueError, match="eps must be"):
        make(eps)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("alpha", [0.0, 0.1, 0.5, 0.9])
def test_centred_rmsprop_takes_no_root_below_0(dtype, alpha):
    """With the same gradient again and again the variance is 0, give or take rounding."""
    gradient = np.random.default_rng(0).standard_normal(200).astype(dtype)
    p = cnn.Parameter(np.ones(200, dtype))
    optimizer = cnn.RMSprop([p], lr=1e-9, alpha=alpha, centered=True)
    w, square, mean = np.ones(200, dtype), np.zeros(200, dtype), np.zeros(200, dtype)
    for _ in range(150):
        p.grad = gradient
        optimizer.step()
        reference.rmsprop_update(w, gradient, square, mean, None, 1e-9, alpha, 1e-8, 0.0, 0.0, True)
    assert np.isfinite(p.data).all() and np.isfinite(w).all()
