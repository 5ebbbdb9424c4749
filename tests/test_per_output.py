"""Models with several outputs, a loss for each, and several inputs."""
import numpy as np
import pytest

import cnn
import cnn.functional as F


class Two(cnn.Module):
    """Class and place of what is on an image: two outputs, as a dict or a tuple."""

    def __init__(self, form="dict", norm=False, dtype=np.float64, seed=0):
        super().__init__()
        rng = np.random.default_rng(seed)
        self.form = form
        self.conv = cnn.Conv2d(1, 4, 3, padding=1, seed=rng, dtype=dtype)
        self.norm = cnn.BatchNorm2d(4, dtype=dtype) if norm else None
        self.what, self.where = (cnn.Linear(4 * 16, n, seed=rng, dtype=dtype) for n in (5, 2))

    def forward(self, x):
        x = self.conv(x)
        x = F.relu(x if self.norm is None else self.norm(x))
        x = F.max_pool2d(x, 2).flatten()
        found = {"what": self.what(x), "where": self.where(x)}
        return found if self.form == "dict" else tuple(found.values())


def data(count=40, seed=0, images=np.uint8):
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 256, (count, 1, 8, 8), np.uint8)
    x = x if images == np.uint8 else (x / 255).astype(images)
    return cnn.data.Dataset(x, {"what": rng.integers(0, 5, count), "where": rng.standard_normal((count, 2))})


def losses(**weights):
    what = cnn.CrossEntropyLoss(weight=[1, 2, 3, 4, 5.0])
    return cnn.losses.PerOutput({"what": what, "where": cnn.MSELoss()}, weights)


@pytest.mark.parametrize("form", ["dict", "tuple"])
@pytest.mark.parametrize("batch", [4, 40], ids=["channels", "images"])
def test_gradients_are_those_of_the_weighted_sum(form, batch):
    """By central differences of the loss as its definition says, in NumPy."""
    model, part = Two(form), data(batch)
    loss = losses(where=3, what=0.25)
    x = np.random.default_rng(1).standard_normal((batch, 1, 8, 8))
    what, where = part.labels["what"], part.labels["where"]

    def value():
        y = model(x)
        scores, places = y.values() if form == "dict" else y
        z = scores - scores.max(1, keepdims=True)
        log_p = (z - np.log(np.exp(z).sum(1, keepdims=True)))[np.arange(batch), what]
        weight = what + 1.0
        return 0.25 * -(weight * log_p).sum() / weight.sum() + 3 * ((places - where) ** 2).mean()

    model.train()
    y = model(x)
    assert loss(y, part.labels) == pytest.approx(value(), rel=1e-12)
    model.train()
    model(x)
    model.backward(loss.backward())
    by_arrays = [p.grad.copy() for p in model.parameters()]
    trainer = cnn.Trainer(model, cnn.SGD(model.parameters(), 1e-300), loss, progress=False)
    assert trainer.train_step(x, part.labels) == pytest.approx(value(), rel=1e-12)
    for p, other in zip(model.parameters(), by_arrays, strict=True):
        np.testing.assert_allclose(p.grad, other, rtol=1e-10, atol=1e-13)
    model.eval()
    rng = np.random.default_rng(2)
    for p, gradient in zip(model.parameters(), by_arrays, strict=True):
        for i in rng.choice(p.data.size, min(4, p.data.size), replace=False):
            kept, h = p.data.flat[i], 1e-6
            p.data.flat[i] = kept + h
            high = value()
            p.data.flat[i] = kept - h
            low = value()
            p.data.flat[i] = kept
            assert (high - low) / (2 * h) == pytest.approx(gradient.flat[i], rel=1e-6, abs=1e-8)


@pytest.mark.parametrize("images", [np.uint8, np.float32])
@pytest.mark.parametrize("form", ["dict", "tuple"])
def test_training_and_its_figures(form, images):
    train, held = data(70, 0, images), data(30, 1, images)
    model = Two(form, norm=True, dtype=np.float32)
    trainer = cnn.Trainer(model, cnn.Adam(model.parameters(), 0.01), losses(where=2), progress=False)
    history = trainer.fit(train, 3, held, batch_size=16)
    row = history[-1]
    assert history[0]["train_loss"] > row["train_loss"]
    y = trainer.predict(held)
    y = y if form == "dict" else dict(zip(("what", "where"), y, strict=True))
    what, where = held.labels["what"], held.labels["where"]
    loss = cnn.CrossEntropyLoss(weight=[1, 2, 3, 4, 5.0])
    assert row["val_what_loss"] == pytest.approx(loss(y["what"], what), rel=1e-5)
    assert row["val_where_loss"] == pytest.approx(((y["where"] - where) ** 2).mean(), rel=1e-5)
    assert row["val_what_accuracy"] == row["val_accuracy"] == (y["what"].argmax(1) == what).mean()
    assert row["val_loss"] == pytest.approx(row["val_what_loss"] + 2 * row["val_where_loss"], rel=1e-12)
    assert "val_where_accuracy" not in row
    assert trainer.evaluate(held.subset(slice(0, 0)))["images"] == 0


def test_figures_do_not_depend_on_the_portions():
    """More images than fit into one portion, with class weights: means are those over all."""
    held = data(1100, 3)
    model = Two(dtype=np.float32)
    measured = cnn.Trainer(model, None, losses(where=0.5), progress=False).evaluate(held)
    y = cnn.Trainer(model, None, losses(), progress=False).predict(held)
    loss = cnn.CrossEntropyLoss(weight=[1, 2, 3, 4, 5.0])(y["what"], held.labels["what"])
    assert measured["what_loss"] == pytest.approx(loss, rel=1e-5)
    assert measured["loss"] == pytest.approx(loss + 0.5 * measured["where_loss"], rel=1e-5)


@pytest.mark.parametrize("threads", [1, 3])
def test_bits_and_resuming(threads, tmp_path):
    def made():
        model = Two(norm=True, dtype=np.float32)
        return model, cnn.Trainer(model, cnn.SGD(model.parameters(), 0.01, momentum=0.9), losses(), progress=False,
                                  metrics={"far": lambda y, t: np.abs(y["where"] - t["where"]).mean()})
    before = cnn.get_num_threads()
    try:
        cnn.set_num_threads(1)
        model, trainer = made()
        whole = trainer.fit(data(70), 4, data(30, 1), batch_size=16)
        cnn.set_num_threads(threads)
        _, first = made()
        first.fit(data(70), 2, data(30, 1), batch_size=16)
        other, second = made()
        second.load_state_dict(first.state_dict())
        again = second.fit(data(70), 4, data(30, 1), batch_size=16)
    finally:
        cnn.set_num_threads(before)
    assert all((a.data == b.data).all() for a, b in zip(model.parameters(), other.parameters(), strict=True))
    assert whole.results() == again.results() and whole[-1]["val_far"] > 0


def test_one_array_for_all_outputs():
    """As for the auxiliary heads of an Inception network: both learn the same classes."""
    class Heads(cnn.Module):
        def __init__(self):
            super().__init__()
            self.main, self.aux = (cnn.Linear(64, 3, seed=i) for i in (0, 1))

        def forward(self, x):
            return self.main(x.flatten()), self.aux(x.flatten())
    rng = np.random.default_rng(0)
    train = cnn.data.Dataset(rng.integers(0, 256, (30, 1, 8, 8), np.uint8), rng.integers(0, 3, 30))
    model = Heads()
    trainer = cnn.Trainer(model, cnn.SGD(model.parameters(), 0.01), cnn.losses.PerOutput(
        {"main": cnn.CrossEntropyLoss(), "aux": cnn.CrossEntropyLoss()}, {"aux": 0.3}), progress=False)
    row = trainer.fit(train, 1, train)[-1]
    measured = trainer.evaluate(train)
    assert row["val_accuracy"] == pytest.approx((row["val_main_accuracy"] + row["val_aux_accuracy"]) / 2)
    assert measured["loss"] == pytest.approx(measured["main_loss"] + 0.3 * measured["aux_loss"])


def test_an_output_without_a_loss():
    model = Two()
    trainer = cnn.Trainer(model, cnn.SGD(model.parameters(), 0.01), {"what": None, "where": cnn.MSELoss()},
                          progress=False)
    before = model.what.weight.data.copy(), model.where.weight.data.copy()
    trainer.fit(data(20), 1)
    assert (model.what.weight.data == before[0]).all() and (model.where.weight.data != before[1]).any()


class WithFeatures(cnn.Module):
    """Numbers that belong to an image join its features before the head."""

    def __init__(self, dtype=np.float64):
        super().__init__()
        self.conv = cnn.Conv2d(1, 4, 3, seed=0, dtype=dtype)
        self.head = cnn.Linear(4 + 3, 5, seed=1, dtype=dtype)

    def forward(self, x, numbers):
        return self.head(cnn.cat([self.conv(x).mean((2, 3)), numbers]))


def with_features(inputs):
    """A step of that network, where it gets these inputs."""
    model = WithFeatures()
    trainer = cnn.Trainer(model, cnn.SGD(model.parameters(), 0.1), {"what": cnn.CrossEntropyLoss()}, inputs=inputs)
    trainer.train_step(np.zeros((2, 1, 8, 8)), {"what": np.zeros(2, int), "numbers": np.zeros((2, 3))})


@pytest.mark.parametrize("count", [5, 40], ids=["channels", "images"])
@pytest.mark.parametrize("backend", ["kernels", "reference"])
def test_several_inputs(count, backend):
    rng = np.random.default_rng(0)
    x, numbers = rng.standard_normal((count, 1, 8, 8)), rng.standard_normal((count, 3))
    what = rng.integers(0, 5, count)
    model, other = WithFeatures(), WithFeatures()
    trainer = cnn.Trainer(model, cnn.SGD(model.parameters(), 0.1), {"what": cnn.CrossEntropyLoss()}, progress=False,
                          inputs=["numbers"], backend=backend)
    found = trainer.train_step(x, {"what": what, "numbers": numbers})
    other.train()
    loss = cnn.CrossEntropyLoss()
    assert found == pytest.approx(loss(other(x, numbers), what), rel=1e-12)
    other.backward(loss.backward())
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        np.testing.assert_allclose(p.grad, q.grad, rtol=1e-9, atol=1e-13)
    held = cnn.data.Dataset(rng.integers(0, 256, (count, 1, 8, 8), np.uint8), {"what": what, "numbers": numbers})
    trainer.fit(held, 2, held, batch_size=8)
    scores = trainer.predict(held)
    assert trainer.evaluate(held)["accuracy"] == (scores.argmax(1) == what).mean()
    with pytest.raises(ValueError, match="the model's input 'numbers' must be among the data set's labels"):
        trainer.predict(x)


def test_sources_of_ones_own_give_targets_by_name():
    kept = data(50)

    class Source:
        def __len__(self):
            return 50

        def __getitem__(self, indices):
            return kept.images[indices], {name: kept.labels[name][indices] for name in ("what", "where")}

    found = []
    for train in (kept, Source(), lambda: (kept.fetch(np.arange(i, i + 10)) for i in range(0, 50, 10))):
        model = Two(dtype=np.float32)
        loader = cnn.data.DataLoader(cnn.data.IterableDataset(train) if callable(train) else train, 10)
        cnn.Trainer(model, cnn.SGD(model.parameters(), 0.01), losses(), progress=False).fit(loader, 2)
        found.append(model.what.weight.data)
    assert (found[0] == found[1]).all() and (found[0] == found[2]).all()
    assert repr(cnn.data.BatchedDataset(Source())) == (
        "<BatchedDataset 50 images of 1x8x8 uint8, targets what int64 (n,), where float64 (n, 2)>")


def test_masks_from_a_source():
    """Targets that are no classes come from a source as they do from arrays."""
    rng = np.random.default_rng(0)
    images, masks = rng.integers(0, 256, (20, 1, 8, 8), np.uint8), rng.integers(0, 2, (20, 1, 8, 8)).astype(np.float32)

    class Source:
        def __len__(self):
            return 20

        def __getitem__(self, indices):
            return images[indices], masks[indices]

    weights = []
    for train in (cnn.data.Dataset(images, masks), Source()):
        model = cnn.Sequential(cnn.Conv2d(1, 1, 3, padding=1, seed=0))
        cnn.Trainer(model, cnn.SGD(model.parameters(), 0.1), cnn.losses.BCEWithLogitsLoss(), progress=False).fit(
            cnn.data.DataLoader(train, 10), 2)
        weights.append(model[0].weight.data)
    assert (weights[0] == weights[1]).all()
    with pytest.raises(ValueError, match=r"source\[indices\] must give labels of float32 \(n, 1, 8, 8\), as at first"):
        cnn.data.BatchedDataset(_Changes()).fetch(np.array([1]))


class _Changes:
    def __len__(self):
        return 2

    def __getitem__(self, indices):
        shape = (1, 8, 8) if indices[0] == 0 else (1, 4, 4)
        return np.zeros((len(indices), 1, 8, 8), np.uint8), np.zeros((len(indices), *shape), np.float32)


def test_written_in_numpy_and_under_debug():
    class Doubled(cnn.Module):
        def forward(self, x):
            return 2 * x

        def backward(self, dy, need_dx=True):
            return 2 * dy

    class Cut(Two):
        def __init__(self):
            super().__init__()
            self.doubled = Doubled()

        def forward(self, x):
            return super().forward(self.doubled(x))

    model, plain, part = Cut(), Two(), data(20, images=np.float32)
    x = part.images.astype(np.float64)
    trainer = cnn.Trainer(model, cnn.SGD(model.parameters(), 0.1), losses(), progress=False)
    other = cnn.Trainer(plain, cnn.SGD(plain.parameters(), 0.1), losses(), progress=False)
    assert trainer.train_step(x, part.labels) == pytest.approx(other.train_step(2 * x, part.labels), rel=1e-12)
    np.testing.assert_allclose(model.what.weight.data, plain.what.weight.data, rtol=1e-10)
    with cnn.debug():
        assert trainer.train_step(x, part.labels) == pytest.approx(other.train_step(2 * x, part.labels), rel=1e-12)
    assert trainer.evaluate(part)["what_accuracy"] == trainer.evaluate(part)["accuracy"]


@pytest.mark.parametrize("wrong, error, text", [
    (lambda: cnn.losses.PerOutput([cnn.MSELoss()]), TypeError, "losses must be a dict of losses"),
    (lambda: cnn.losses.PerOutput({"a": None}), ValueError, "a loss for one output at least"),
    (lambda: cnn.losses.PerOutput({"a": 3}), TypeError, r"losses\['a'\] must be a loss, a function or a Module, got 3"),
    (lambda: cnn.losses.PerOutput({"a": cnn.MSELoss(reduction="none")}), ValueError, "'mean' or 'sum'"),
    (lambda: cnn.losses.PerOutput({"a": cnn.MSELoss()}, {"b": 1}), ValueError, "outputs with a loss, got one for 'b'"),
    (lambda: cnn.losses.PerOutput({"a": cnn.MSELoss()}, {"a": 0}), ValueError, r"weights\['a'\]"),
    (lambda: cnn.losses.PerOutput({"a": cnn.MSELoss()}, {"a": np.inf}), ValueError, "finite"),
    (lambda: cnn.data.Dataset(np.zeros((2, 1, 8, 8), np.uint8), {}), ValueError, "at least one array"),
    (lambda: cnn.data.Dataset(np.zeros((2, 1, 8, 8), np.uint8), {"a": [1, 2], "b": [1]}), ValueError,
     r"labels\['b'\] must have one entry per image"),
    (lambda: cnn.data.Dataset(np.zeros((2, 1, 8, 8), np.uint8), {"a": ["x", "y"]}), TypeError,
     r"labels\['a'\] must be integers or floats"),
    (lambda: cnn.data.Dataset(np.zeros((2, 1, 8, 8), np.uint8), {"a": [1, 2]}, ["x", "y", "z"]), ValueError,
     "classes must not be given"),
    (lambda: fitted({"what": cnn.CrossEntropyLoss()}), ValueError, "for each of the model's outputs what, where"),
    (lambda: fitted(cnn.CrossEntropyLoss()), ValueError, "the model must return one output"),
    (lambda: fitted({"what": cnn.CrossEntropyLoss(), "where": cnn.MSELoss()}, drop="where"), ValueError,
     "the targets must have the name 'where' among them, got what"),
    (lambda: fitted(losses(), inputs="numbers"), TypeError, "inputs must be a tuple of names"),
    (lambda: fitted(losses(), inputs=["a", "a"]), ValueError, "different names"),
    (lambda: fitted(losses(), inputs=["a"]), ValueError, "must name what .*forward takes after the images, got a"),
    (lambda: with_features([]), ValueError, "forward takes after the images, got none: .*'numbers'"),
    (lambda: with_features(["a"]), ValueError, "the model's input 'a' must be among"),
    (lambda: fitted(losses(), metrics={"what_loss": len}), ValueError, "none of .*what_loss"),
])
def test_bad_arguments(wrong, error, text):
    with pytest.raises(error, match=text):
        wrong()


def fitted(criterion, drop=None, **options):
    part, model = data(20), Two()
    labels = {name: part.labels[name] for name in part.labels.dtype.names if name != drop}
    cnn.Trainer(model, cnn.SGD(model.parameters(), 0.1), criterion, progress=False, **options).fit(
        cnn.data.Dataset(part.images, labels), 1)


def test_test_time_augmentation_is_of_one_output():
    with pytest.raises(ValueError, match="needs a model with one output"):
        cnn.Trainer(Two(dtype=np.float32), None, losses(), progress=False).predict(data(10), tta="flip")


def test_one_loss_may_stand_for_several_outputs():
    """It remembers its last call alone, so each output gets one of its own."""
    class Twice(Two):
        def forward(self, x):
            y = super().forward(x)["what"]
            return y, y * 2

    shared, rng = cnn.CrossEntropyLoss(), np.random.default_rng(0)
    x, targets = rng.standard_normal((8, 1, 8, 8)), {name: rng.integers(0, 5, 8) for name in "ab"}
    gradients = []
    for backend in ("kernels", "reference"):
        for losses_ in ({"a": shared, "b": shared}, {"a": cnn.CrossEntropyLoss(), "b": cnn.CrossEntropyLoss()}):
            model = Twice()
            trainer = cnn.Trainer(model, cnn.SGD(model.parameters(), 1e-300), losses_, progress=False, backend=backend)
            trainer.train_step(x, targets)
            gradients.append(model.conv.weight.grad)
    for other in gradients[1:]:
        np.testing.assert_allclose(other, gradients[0], rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("backend", ["kernels", "reference"])
@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("options", [{}, {"weight": [1, 2, 3, 4, 5.0]}, {"ignore_index": 2}, {"reduction": "sum"}])
def test_accumulated_batches_are_one_batch(options, norm, backend):
    """A loss by itself and in a dict give the same; where batch norm couples the images, too, part by part."""
    found = []
    for by_name in (False, True):
        class One(Two):
            def forward(self, x):
                return super().forward(x)["what"]
        model, part = One(norm=norm), data(24)
        loss = cnn.CrossEntropyLoss(**options)
        trainer = cnn.Trainer(model, cnn.SGD(model.parameters(), 1e-3), {"what": loss} if by_name else loss,
                              progress=False, accumulate=3, backend=backend)
        labels = part.labels if by_name else part.labels["what"]
        row = trainer.fit(cnn.data.DataLoader(cnn.data.Dataset(part.images, labels), 8), 1)[0]
        found.append((row["train_loss"], model.conv.weight.grad, model.what.weight.data))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-9)
    for a, b in zip(found[0][1:], found[1][1:], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-14)


def test_accuracy_is_that_of_outputs_with_a_loss_of_classes():
    part = data(40)
    labels = {"what": part.labels["what"], "where": np.arange(40) % 2}
    trainer = cnn.Trainer(Two(), None, {"what": cnn.CrossEntropyLoss(), "where": lambda s, t: (s[:, 0] - t) ** 2},
                          progress=False)
    for backend in ("kernels", "reference"):
        trainer.backend = backend
        measured = trainer.evaluate(cnn.data.Dataset(part.images, labels))
        assert measured["accuracy"] == measured["what_accuracy"] and "where_accuracy" not in measured


def test_batches_without_a_target_that_counts():
    part = data(16)
    what = part.labels["what"].copy()
    what[8:] = -100
    model = Two()
    trainer = cnn.Trainer(model, cnn.SGD(model.parameters(), 1e-30), {
        "what": cnn.CrossEntropyLoss(ignore_index=-100), "where": None}, progress=False)
    train = cnn.data.Dataset(part.images, {"what": what})
    row = trainer.fit(cnn.data.DataLoader(train, 8), 1, train)[0]
    assert row["train_loss"] == pytest.approx(row["val_loss"], rel=1e-6)
    assert np.isnan(trainer.train_step(np.zeros((8, 1, 8, 8)), {"what": what[8:]}))
    with pytest.raises(ValueError, match="all labels have class weight 0"):
        cnn.find_lr(trainer, cnn.data.Dataset(part.images, {"what": np.full(16, -100)}), steps=3, batch_size=8)


@pytest.mark.parametrize("form", ["dict", "tuple"])
def test_metrics_over_all(form):
    held = data(700)

    def far(y, t):
        return np.abs((y["where"] if form == "dict" else y[1]) - t["where"]).max()
    trainer = cnn.Trainer(Two(form), None, losses(), progress=False, metrics={"far": cnn.metrics.OverAll(far)})
    assert trainer.evaluate(held)["far"] == pytest.approx(far(trainer.predict(held), held.labels), rel=1e-5)


def test_figures_of_outputs_can_be_watched():
    model = Two(dtype=np.float32)
    schedule = cnn.schedules.ReduceLROnPlateau(0.01, monitor="val_where_loss")
    stop = cnn.callbacks.EarlyStopping("val_what_accuracy", patience=1)
    assert (schedule.mode, stop.mode) == ("min", "max")
    history = cnn.Trainer(model, cnn.SGD(model.parameters(), 0.01), losses(), schedule, [stop], progress=False).fit(
        data(20), 5, data(20, 1))
    assert stop.best == max(history.column("val_what_accuracy"))


def test_a_last_batch_of_one_image_is_refused_at_the_start():
    class Normed(WithFeatures):
        def __init__(self):
            super().__init__(np.float32)
            self.norm = cnn.BatchNorm1d(5)

        def forward(self, x, numbers):
            return self.norm(super().forward(x, numbers))
    rng, model = np.random.default_rng(0), Normed()
    train = cnn.data.Dataset(rng.integers(0, 256, (17, 1, 8, 8), np.uint8), {
        "what": rng.integers(0, 5, 17), "numbers": rng.random((17, 3))})
    with pytest.raises(ValueError, match="the last batch of an epoch has one image"):
        cnn.Trainer(model, cnn.SGD(model.parameters(), 0.1), {"what": cnn.CrossEntropyLoss()}, progress=False,
                    inputs=["numbers"]).fit(train, 1, batch_size=8)


class InNumpy(cnn.Module):
    def forward(self, x):
        return x.reshape(len(x), -1)

    def backward(self, dy, need_dx=True):
        return dy.reshape(-1, 1, 8, 8)


@pytest.mark.parametrize("wrong, text", [
    (lambda: cnn.Trainer(InNumpy(), None, {"what": cnn.CrossEntropyLoss()}, progress=False, inputs=["where"]).evaluate(
        data(4)), "inputs need a model that is written with values, got InNumpy"),
    (lambda: cnn.Trainer(cnn.Sequential(cnn.Flatten(), cnn.Linear(64, 5)), None, progress=False).evaluate(data(4)),
     r"the labels are a dict, what, where: give a loss by the name of its targets, criterion=\{name: loss\}"),
    (lambda: cnn.Trainer(Two(dtype=np.float32), None, progress=False, backend="reference").evaluate(data(4)),
     "the model must return one output"),
    (lambda: losses()({"what": np.zeros((2, 5)), "where": np.zeros((3, 2))}, data(2).labels),
     "outputs must be of as many images each, got 2, 3"),
    (lambda: losses()({"what": np.zeros((2, 5)), "where": np.zeros((2, 3))}, data(2).labels),
     "PerOutput: output where: MSELoss: target must have the shape of the scores"),
    (lambda: cnn.data.Dataset(np.zeros((1, 1, 8, 8), np.uint8), {"a": np.array([2**64 - 1], np.uint64)}),
     r"less than 2\*\*63"),
    (lambda: cnn.data.Dataset(np.zeros((1, 1, 8, 8), np.uint8), {"a": 3}), r"one entry per .*\(N, ...\), not \(\)"),
])
def test_wrong_uses(wrong, text):
    with pytest.raises(ValueError, match=text):
        wrong()
