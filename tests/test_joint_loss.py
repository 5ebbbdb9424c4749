"""A loss that is a function of all outputs of a model, and of targets by name."""
from contextlib import nullcontext

import numpy as np
import pytest

import cnn
import cnn.functional as F
from cnn.engine.backend import using


class Autoencoder(cnn.Module):
    """A variational autoencoder of 6×6 pixels (Kingma & Welling 2014); its noise comes with the images."""

    def __init__(self, form=tuple, dtype=np.float64):
        super().__init__()
        rng = np.random.default_rng(0)
        self.form = form
        self.down = cnn.Conv2d(1, 4, 3, stride=2, padding=1, seed=rng, dtype=dtype)
        self.mean, self.log_var = (cnn.Linear(36, 3, seed=rng, dtype=dtype) for _ in range(2))
        self.up = cnn.Linear(3, 36, seed=rng, dtype=dtype)

    def forward(self, x, noise):
        h = F.tanh(self.down(x)).flatten()
        mean, log_var = self.mean(h), self.log_var(h)
        y = self.up(mean + noise * (log_var * 0.5).exp()).reshape(-1, 1, 6, 6)
        return (y, mean, log_var) if self.form is tuple else {"y": y, "mean": mean, "log_var": log_var}


def elbo(outputs, targets):
    """Reconstruction and Kullback-Leibler divergence, one number per image."""
    y, mean, log_var = outputs.values() if isinstance(outputs, dict) else outputs
    apart = ((y - targets["image"]) ** 2).sum((1, 2, 3))
    return apart - 0.5 * (1 + log_var - mean * mean - log_var.exp()).sum(1)


def value(outputs, targets):
    """The mean of the same in NumPy."""
    y, mean, log_var = outputs.values() if isinstance(outputs, dict) else outputs
    apart = ((y - targets["image"]) ** 2).sum((1, 2, 3))
    return np.mean(apart - 0.5 * (1 + log_var - mean ** 2 - np.exp(log_var)).sum(1))


def data(count, of_bytes=False):
    rng = np.random.default_rng(1)
    x = rng.integers(0, 256, (count, 1, 6, 6), np.uint8)
    labels = {"noise": rng.standard_normal((count, 3)), "image": (x / 255).astype(np.float32)}
    return cnn.data.Dataset(x if of_bytes else labels["image"], labels)


def trainer(model, criterion=elbo, lr=1.0, **options):
    options = dict(progress=False, inputs=["noise"]) | options
    return cnn.Trainer(model, cnn.SGD(model.parameters(), lr=lr), criterion, **options)


def loss_of(model, part):
    """The mean loss of all images, by NumPy."""
    noise = np.ascontiguousarray(part.labels["noise"])
    return value(model(part.labels["image"].astype(np.float64), noise), part.labels)


def numeric(model, part, p, places, eps=1e-6):
    """Derivatives of the mean loss by elements of a parameter, by central differences."""
    found = []
    for place in places:
        kept = p.data[place]
        each = []
        for step in (eps, -eps):
            p.data[place] = kept + step
            each.append(loss_of(model, part))
        p.data[place] = kept
        found.append((each[0] - each[1]) / (2 * eps))
    return np.array(found)


@pytest.mark.parametrize("form", [tuple, dict])
@pytest.mark.parametrize("count", [4, 20], ids=["channels", "images"])
@pytest.mark.parametrize("how", ["program", "debug", "reference"])
def test_a_step_follows_the_gradient_of_the_loss(form, count, how):
    model, part = Autoencoder(form), data(count)
    before = {name: p.data.copy() for name, p in model.named_parameters()}
    expected = {name: numeric(model, part, p, [(0,) * p.data.ndim, (-1,) * p.data.ndim])
                for name, p in model.named_parameters()}
    loss = loss_of(model, part)
    made = trainer(model, backend="reference" if how == "reference" else "kernels")
    if how == "debug":
        with cnn.debug():
            assert made.train_step(part.images.astype(np.float64), part.labels) == pytest.approx(loss, rel=1e-12)
    else:
        assert made.train_step(part.images.astype(np.float64), part.labels) == pytest.approx(loss, rel=1e-12)
    for name, p in model.named_parameters():
        moved = (before[name] - p.data)
        found = [moved[(0,) * moved.ndim], moved[(-1,) * moved.ndim]]
        np.testing.assert_allclose(found, expected[name], rtol=1e-6, atol=1e-8, err_msg=name)


@pytest.mark.parametrize("form", [tuple, dict])
@pytest.mark.parametrize("backend", ["kernels", "reference"])
def test_called_with_arrays(form, backend):
    rng = np.random.default_rng(2)
    outputs = [rng.standard_normal(shape) for shape in [(5, 1, 6, 6), (5, 3), (5, 3)]]
    y, mean, log_var = outputs
    given = tuple(outputs) if form is tuple else dict(zip(["y", "mean", "log_var"], outputs, strict=True))
    target = {"image": rng.random((5, 1, 6, 6))}
    loss = cnn.losses.Criterion(elbo)
    assert using(backend, loss, given, target) == pytest.approx(value(given, target), rel=1e-12)
    assert loss.total == 5
    found = loss.backward()
    assert type(found) is form and (form is tuple or list(found) == list(given))
    dy, dmean, dlog_var = found.values() if form is dict else found
    np.testing.assert_allclose(dy, 2 * (y - target["image"]) / 5, rtol=1e-12)
    np.testing.assert_allclose(dmean, mean / 5, rtol=1e-12)
    np.testing.assert_allclose(dlog_var, (np.exp(log_var) - 1) / 10, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("of_bytes", [False, True])
def test_training_evaluates_and_accumulates(of_bytes):
    part = data(22, of_bytes)
    each = [trainer(Autoencoder(), lr=0.01, accumulate=accumulate) for accumulate in (1, 2)]
    losses = []
    for made, size in zip(each, (8, 4), strict=True):
        made.fit(cnn.data.DataLoader(part, size, seed=0), epochs=2, validation=part)
        found = made.evaluate(part)
        model = made.model.eval()
        assert found["loss"] == pytest.approx(loss_of(model, part), rel=1e-8 if of_bytes else 1e-12)  # 1/255 is float32
        assert np.isnan(found["accuracy"]) and found["images"] == 22
        losses.append(found["loss"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-12) and losses[0] < made.history[0]["train_loss"]
    assert [y.shape for y in made.predict(part)] == [(22, 1, 6, 6), (22, 3), (22, 3)]


class Embedding(cnn.Module):
    """Three images in one network, for a loss of how far their places are apart."""

    def __init__(self):
        super().__init__()
        self.net = cnn.Sequential(cnn.Conv2d(1, 4, 3, dtype=np.float64), cnn.ReLU(), cnn.Flatten(),
                                  cnn.Linear(4 * 16, 3, dtype=np.float64))

    def forward(self, anchor, positive, negative):
        return self.net(anchor), self.net(positive), self.net(negative)


def triplet(places, _, margin=4.0):
    """Schroff et al. 2015."""
    anchor, positive, negative = places
    return (((anchor - positive) ** 2).sum(1) - ((anchor - negative) ** 2).sum(1) + margin).relu()


def test_a_loss_may_leave_targets_and_outputs_aside():
    rng = np.random.default_rng(0)
    images, positive, negative = rng.random((3, 20, 1, 6, 6)).astype(np.float32).astype(np.float64)
    model = Embedding()
    a, p, n = (model.net(x) for x in (images, positive, negative))
    expected = np.maximum(((a - p) ** 2).sum(1) - ((a - n) ** 2).sum(1) + 4, 0).mean()
    made = cnn.Trainer(model, cnn.SGD(model.parameters(), 0.01), triplet, progress=False,
                       inputs=["positive", "negative"])
    part = cnn.data.Dataset(images.astype(np.float32), {"positive": positive, "negative": negative})
    assert made.evaluate(part)["loss"] == pytest.approx(expected, rel=1e-12)
    assert made.train_step(images, part.labels) == pytest.approx(expected, rel=1e-12)
    assert made.evaluate(part)["loss"] < expected

    model = Embedding()
    made = cnn.Trainer(model, cnn.SGD(model.parameters(), 0.01), lambda places, _: (places[1] ** 2).sum(1),
                       progress=False, inputs=["positive", "negative"])
    for _ in range(2):
        last = made.train_step(images, part.labels)
    assert last < (p ** 2).sum(1).mean()


def test_targets_by_name_of_one_output():
    rng = np.random.default_rng(0)
    x, y, weight = rng.random((20, 1, 4, 4)).astype(np.float32), rng.integers(0, 3, 20), rng.random(20)
    model = cnn.Sequential(cnn.Flatten(), cnn.Linear(16, 3, dtype=np.float64))

    def weighted(scores, targets):
        return F.cross_entropy(scores, targets["class"], reduction="none") * targets["weight"]
    z = model(x.astype(np.float64))
    expected = (weight * (np.log(np.exp(z).sum(1)) - z[np.arange(20), y])).mean()
    made = cnn.Trainer(model, cnn.SGD(model.parameters(), 0.1), weighted, progress=False)
    part = cnn.data.Dataset(x, {"class": y, "weight": weight})
    assert made.evaluate(part)["loss"] == pytest.approx(expected, rel=1e-12)
    made.fit(part, epochs=5)
    assert made.evaluate(part)["loss"] < expected


class Own:
    """Of one's own in NumPy, of two outputs."""

    def __call__(self, outputs, targets):
        self.dys = outputs[0] / len(targets), outputs[1] / len(targets)
        return sum((y ** 2).sum() for y in outputs) / (2 * len(targets))

    def backward(self):
        return self.dys


def test_a_loss_in_numpy_gets_all_outputs():
    class Two(cnn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = cnn.Linear(4, 2, dtype=np.float64), cnn.Linear(4, 3, dtype=np.float64)

        def forward(self, x):
            return self.a(x), self.b(x)
    x = np.random.default_rng(0).random((6, 4))
    found = []
    for loss in (Own(), lambda outputs, t: (outputs[0] ** 2).sum(1) / 2 + (outputs[1] ** 2).sum(1) / 2):
        model = Two()
        made = cnn.Trainer(model, cnn.SGD(model.parameters(), 0.1), loss, progress=False)
        found.append((made.train_step(x, np.zeros(6)), *(p.data for p in model.parameters())))
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12)


zeros = np.zeros


@pytest.mark.parametrize("wrong, error, text", [
    (lambda loss: loss((zeros((2, 3)), zeros((3, 3))), zeros(2)), ValueError, "elbo: scores must be of as many images"),
    (lambda loss: loss((zeros((2, 3)), zeros((2, 3), np.float32)), zeros(2)), TypeError,
     r"elbo: scores\[1\] must be float64, got float32"),
    (lambda loss: loss({"a": zeros((2, 3)), "b": [1, 2]}, zeros(2)), TypeError,
     r"elbo: scores\['b'\] must be a NumPy array"),
    (lambda loss: loss((), zeros(2)), ValueError, "elbo: scores must be an array or several"),
    (lambda loss: loss((zeros((2, 3)),), {"a": zeros(3)}), ValueError, r"elbo: target must have shape \(2, \.\.\.\)"),
    (lambda loss: cnn.CrossEntropyLoss()((zeros((2, 3)), zeros((2, 3))), zeros(2, int)), ValueError,
     "CrossEntropyLoss: the model must return one output, got 2: give a loss for each"),
    (lambda loss: cnn.MSELoss()(zeros((2, 3)), {"a": zeros((2, 3))}), ValueError,
     "MSELoss: the labels are a dict, a: give a loss by the name of its targets"),
    (lambda loss: cnn.CrossEntropyLoss()((zeros((2, 3)), zeros((2, 4))), zeros(2, int)), ValueError,
     "CrossEntropyLoss: the model must return one output, got 2"),
    (lambda loss: cnn.CrossEntropyLoss()(zeros((2, 3)), {"a": zeros(2, int)}), ValueError,
     "CrossEntropyLoss: the labels are a dict, a: give a loss by the name of its targets"),
    (lambda loss: cnn.CrossEntropyLoss()(zeros(3), {"a": 1}), ValueError, "CrossEntropyLoss: the labels are a dict, a"),
    (lambda loss: loss((zeros((2, 3)), zeros((2, 3))), [[1, 2], [3]]), ValueError,
     "elbo: target must be an array, all parts of the same shape"),
    (lambda loss: cnn.CrossEntropyLoss()(zeros((2, 3)), [[1, 2], [3]]), ValueError,
     "CrossEntropyLoss: target must be an array, all parts of the same shape"),
    (lambda loss: loss((zeros((2, 3)), zeros((2, 3))), {"image": [[1, 2], [3]]}), ValueError,
     "elbo: target must be an array, all parts of the same shape"),
    (lambda loss: trainer(cnn.Linear(3, 2, dtype=np.float64), cnn.MSELoss(), inputs=()).train_step(
        zeros((2, 3)), None), TypeError, "MSELoss: target must be numbers, got object"),
    (lambda loss: trainer(cnn.Linear(3, 2, dtype=np.float64), cnn.MSELoss(), inputs=()).train_step(
        zeros((2, 3)), 1), ValueError, r"MSELoss: target must have shape \(N, \.\.\.\) and at most 4 axes, got \(\)"),
    (lambda loss: trainer(Autoencoder(), loss).train_step(zeros((2, 1, 6, 6)), [[1, 2], [3]]), ValueError,
     "Trainer.train_step: labels must be an array, all parts of the same shape"),
    (lambda loss: trainer(Autoencoder(), lambda outputs, targets: targets["image"].mean()).fit(data(4), 1), ValueError,
     "the loss must depend on the scores"),
    (lambda loss: trainer(Autoencoder(), lambda outputs, targets: outputs[1]).fit(data(4), 1), ValueError,
     r"a loss must be one number per image, \(N,\), got \(N, 3\)"),
])
def test_wrong_uses(wrong, error, text):
    with pytest.raises(error, match=text):
        wrong(cnn.losses.Criterion(elbo))


@pytest.mark.parametrize("count", [4, 20], ids=["channels", "images"])
def test_a_loss_that_leaves_classes_aside_still_counts_them(count):
    rng = np.random.default_rng(0)
    x, y = rng.random((count, 1, 4, 4)).astype(np.float32), rng.integers(0, 3, count)
    model = cnn.Sequential(cnn.Flatten(), cnn.Linear(16, 3))
    made = cnn.Trainer(model, cnn.SGD(model.parameters(), 0.0), lambda scores, _: (scores ** 2).sum(1), progress=False)
    right = (model(x).argmax(1) == y).mean()
    assert 0 < right < 1
    row = made.fit(cnn.data.DataLoader(cnn.data.Dataset(x, y), count), epochs=1, validation=cnn.data.Dataset(x, y))[-1]
    assert row["val_accuracy"] == pytest.approx(right) and row["train_accuracy"] == pytest.approx(right)


class Alone(cnn.Module):
    """One output, in a tuple or a dict."""

    def __init__(self, form):
        super().__init__()
        self.form, self.linear = form, cnn.Linear(16, 3, seed=0, dtype=np.float64)

    def forward(self, x):
        y = self.linear(x.flatten())
        return (y,) if self.form is tuple else {"scores": y}


@pytest.mark.parametrize("form", [tuple, dict])
@pytest.mark.parametrize("how", ["program", "debug", "reference"])
def test_a_loss_of_one_output_takes_it_in_a_tuple_or_dict(form, how):
    rng = np.random.default_rng(0)
    x, y, model = rng.standard_normal((5, 1, 4, 4)), rng.integers(0, 3, 5), Alone(form)
    z = x.reshape(5, -1) @ model.linear.weight.data.T + model.linear.bias.data
    p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    moved = model.linear.bias.data - (p - np.eye(3)[y]).mean(0)
    made = trainer(model, cnn.CrossEntropyLoss(), inputs=(), backend="reference" if how == "reference" else "kernels")
    with cnn.debug() if how == "debug" else nullcontext():
        row = made.evaluate(cnn.data.Dataset(x.astype(np.float32), y))
        assert made.train_step(x, y) == pytest.approx(-np.log(p[np.arange(5), y]).mean(), rel=1e-12)
    assert row["accuracy"] == (p.argmax(1) == y).mean()
    np.testing.assert_allclose(model.linear.bias.data, moved, rtol=1e-9, atol=1e-12)
