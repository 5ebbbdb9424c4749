"""Trainer(backend="reference"): the same training by cnn.reference, step for step."""

import csv
import functools

import numpy as np
import pytest
from cases import CASES, DTYPES, assert_all_close, assert_close, assert_same_bits, by_layer
from drawn import ours

import cnn
from cnn import functional as F
from cnn import reference
from cnn.commands import train as command
from cnn.data import AlternatingFlip, Compose, Cutout, DataLoader, RandomAffine, RandomCrop, RandomFlip
from cnn.engine import backend, debugging
from cnn.graph import apply
from cnn.ops import pointwise
from cnn.training.by_twins import changed

TOLERANCE = {np.float32: 1e-5, np.float64: 1e-10}


class Various(cnn.Module):
    """A little of everything, with two dropouts that draw masks of their own."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = cnn.Conv2d(1, 8, 3, stride=2, padding=1, seed=1), cnn.BatchNorm2d(8)
        self.depthwise, self.groups = cnn.Conv2d(8, 8, 3, padding=1, groups=8, seed=2), cnn.GroupNorm(2, 8)
        self.drop, self.drop2d, self.gelu = cnn.Dropout(0.3), cnn.Dropout2d(0.2), cnn.GELU()
        self.scale = cnn.Parameter(np.full((8, 1, 1), 1.5, np.float32))
        self.head = cnn.Linear(8, 10, seed=3)

    def forward(self, x):
        x = self.gelu(self.norm(self.conv(x)))
        x = x + self.scale * self.groups(self.depthwise(self.drop(x)))
        x = F.max_pool2d(self.drop2d(x).relu(), 3, 2, 1)
        return self.head(x.mean((2, 3)))


NETWORKS = {"LeNet-5": lambda: cnn.models.lenet5(seed=0), "various": Various}
OPTIMIZERS = {
    "sgd": lambda p: cnn.SGD(p, lr=0.05, momentum=0.9, nesterov=True, weight_decay=1e-3),
    "sgd in groups": lambda p: cnn.SGD(cnn.parameter_groups(p, 0.02, 1e-2, bias_lr=2), lr=0.02),
    "adam": lambda p: cnn.Adam(p, lr=0.002), "adamw": lambda p: cnn.AdamW(p, lr=0.002),
    "rmsprop": lambda p: cnn.RMSprop(p, lr=0.001, momentum=0.5, centered=True),
}


@pytest.fixture(scope="module")
def digits():
    return cnn.data.load("mnist-sample")


class Steps(cnn.Callback):
    """Ends `fit` after ten steps, and has their losses."""

    def __init__(self):
        self.losses = []

    def on_step_end(self, trainer):
        self.losses.append(trainer.loss)
        trainer.stop = len(self.losses) == 10


def ten_steps(digits, name, dtype=np.float32, make=NETWORKS["LeNet-5"], optimizer=OPTIMIZERS["sgd"], **options):
    """The losses of ten steps, what is measured afterwards, and the weights."""
    train, test = digits
    model, steps = make().to(dtype), Steps()
    transform = Compose(RandomAffine(10), RandomCrop(2), RandomFlip(), Cutout(5))
    trainer = cnn.Trainer(model, optimizer(model.parameters()), progress=False, backend=name,
                          callbacks=[steps, *options.pop("callbacks", lambda model: [])(model)], **options)
    trainer.fit(DataLoader(train, 24, shuffle=True, seed=3, transform=transform), 1)
    return np.array(steps.losses), trainer.evaluate(test.subset(slice(100))), model.state_dict()


def assert_same_training(got, wanted, tolerance):
    (losses, measured, state), (others, expected, weights) = got, wanted
    assert len(losses) == 10
    np.testing.assert_allclose(losses, others, rtol=0, atol=tolerance)
    assert abs(measured["loss"] - expected["loss"]) < 100 * tolerance
    assert measured["accuracy"] == expected["accuracy"]
    for key in weights:
        np.testing.assert_allclose(state[key], weights[key], rtol=0, atol=100 * tolerance, err_msg=key)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NETWORKS)
def test_the_steps_are_those_of_the_kernels(digits, name, dtype):
    both = [ten_steps(digits, kind, dtype, NETWORKS[name]) for kind in ("reference", "kernels")]
    assert_same_training(*both, TOLERANCE[dtype])
    assert not np.array_equal(both[0][0], both[1][0])       # two back ends, which round in different orders


@pytest.mark.thorough
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_optimizer(digits, optimizer):
    options = {"loss": cnn.CrossEntropyLoss(np.arange(1, 11), label_smoothing=0.1),
               "schedule": lambda step: 0.01 / (1 + step),
               "max_grad_norm": 0.5}
    assert_same_training(*(ten_steps(digits, name, np.float64, Various, OPTIMIZERS[optimizer], **options)
                           for name in ("reference", "kernels")), TOLERANCE[np.float64])


@pytest.mark.thorough
@pytest.mark.parametrize("average", [cnn.EMA, cnn.Lookahead])
def test_averages_of_weights(digits, average):
    assert_same_training(*(ten_steps(digits, name, np.float64, callbacks=lambda model: [average(model, every=3)])
                           for name in ("reference", "kernels")), TOLERANCE[np.float64])


@pytest.mark.thorough
def test_a_changed_twin_changes_the_training(digits, monkeypatch):
    before = ten_steps(digits, "reference")
    kernels = ten_steps(digits, "kernels")
    linear, update = reference.linear_backward, reference.sgd_update

    def wrong(dy, x, w):
        dx, dw, db = linear(dy, x, w)
        return dx, -dw, db
    monkeypatch.setattr(reference, "linear_backward", wrong)
    after = ten_steps(digits, "reference")
    assert after[0][0] == before[0][0] and np.abs(after[0][1:] - before[0][1:]).min() > 1e-4
    assert_same_bits(ten_steps(digits, "kernels")[:1], kernels[:1])
    monkeypatch.setattr(reference, "linear_backward", linear)
    assert_same_bits(ten_steps(digits, "reference")[:1], before[:1])
    monkeypatch.setattr(reference, "sgd_update", lambda w, g, *rest: update(w, g / 2, *rest))
    assert np.abs(ten_steps(digits, "reference")[0][1:] - before[0][1:]).min() > 1e-4


def test_models_within_run_on_the_twins(digits, monkeypatch):
    """In callbacks, `predict`, `evaluate` and `train_step`; and nowhere else."""
    model = cnn.Sequential(cnn.Flatten(), cnn.Linear(784, 10, seed=0))
    images, seen = np.ones((2, 1, 28, 28), np.float32), []

    class Looks(cnn.Callback):
        def on_fit_end(self, trainer):
            seen.append(trainer.model(images))

    trainer = cnn.Trainer(model, cnn.SGD(model.parameters()), progress=False, backend="reference", callbacks=[Looks()])
    monkeypatch.setattr(reference, "linear", lambda x, w, b: np.full((len(x), len(w)), 7, x.dtype))
    trainer.fit(digits[0].subset(slice(8)), 1)
    assert (seen[0] == 7).all() and (trainer.predict(images) == 7).all()
    assert (trainer.predict(images, "flip") == 7).all()
    for tta in (None, "flip"):
        assert trainer.evaluate(digits[1].subset(slice(5)), tta)["loss"] == pytest.approx(np.log(10), rel=1e-6)
    assert trainer.train_step(images, np.array([0, 1])) == pytest.approx(np.log(10), rel=1e-6)
    assert not (model(images) == 7).any() and not backend.by_twins()


def test_fit_goes_on_from_a_state(digits):
    def trainer():
        model = Various()
        return cnn.Trainer(model, cnn.Adam(model.parameters()), progress=False, backend="reference")

    train = digits[0].subset(slice(60))
    whole, first, second = trainer(), trainer(), trainer()
    whole.fit(train, 2, batch_size=20)
    first.fit(train, 1, batch_size=20)
    second.load_state_dict(first.state_dict())
    second.fit(train, 2, batch_size=20)
    weights = whole.model.state_dict()
    assert_same_bits([second.model.state_dict()[key] for key in weights], weights.values())


def forward_and_backward(model, *xs):
    ys = model(*xs)
    parts = [ys] if isinstance(ys, np.ndarray) else list(ys)
    rng = np.random.default_rng(0)
    dys = [rng.standard_normal(y.shape) for y in parts]
    return parts, model.backward(dys[0] if ys is parts[0] else tuple(dys))


def of_module(model, *xs):
    """Outputs and gradients of a model that computes with two back ends; its buffers are the same before."""
    before = {name: array.copy() for name, array in model.named_buffers()}
    results: list = []
    for name in ("reference", "kernels"):
        for key, array in model.named_buffers():
            array[...] = before[key]
        parts, dxs = backend.using(name, forward_and_backward, model, *xs)
        results.append([*parts, *(dxs if isinstance(dxs, tuple) else [dxs]), *(p.grad.copy() for p in
                        model.parameters()), *(array.astype(float) for _, array in model.named_buffers())])
    return results


@pytest.mark.parametrize("seed", range(40))
def test_drawn_networks(seed):
    """Branches, values and layers that are used several times, parameters and arithmetic of all kinds."""
    rng = np.random.default_rng(seed)
    assert_all_close(*of_module(ours(seed), *rng.standard_normal((2, 5, 3, 4, 4))))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_layer(case):
    x, dy = case.arrays(5)
    got = backend.using("reference", by_layer, case.make(), x, dy)
    assert_all_close(got, by_layer(case.make(), x, dy))


def test_frozen_norms_are_differentiated_as_constants():
    model = cnn.Sequential(cnn.Conv2d(2, 3, 3, seed=0), cnn.BatchNorm2d(3), cnn.ReLU()).to(np.float64)
    rng = np.random.default_rng(1)
    model(rng.standard_normal((6, 2, 5, 5)))        # statistics that are not 0 and 1
    model[1].eval()
    got, wanted = of_module(model, rng.standard_normal((4, 2, 5, 5)))
    assert_all_close(got, wanted)
    model[1].freeze()
    model[1].weight.grad = 9.0 * np.ones(3)
    got, wanted = of_module(model, rng.standard_normal((4, 2, 5, 5)))
    assert_all_close(got, wanted)
    assert (model[1].weight.grad == 9).all()


class Square(cnn.Module):
    def forward(self, x):
        self.x = x
        return x * x

    def backward(self, dy, need_dx=True):
        return 2 * dy * self.x


def test_layers_in_numpy_among_twins():
    model = cnn.Sequential(cnn.Conv2d(1, 2, 3, seed=0), Square(), cnn.Flatten(), cnn.Linear(18, 3)).to(np.float64)
    assert_all_close(*of_module(model, np.random.default_rng(0).standard_normal((4, 1, 5, 5))))


def test_batches_without_images():
    model = Various().to(np.float64)
    y = backend.using("reference", model, np.zeros((0, 1, 28, 28)))
    dx = backend.using("reference", model.backward, np.zeros((0, 10)))
    assert y.shape == (0, 10) and dx.shape == (0, 1, 28, 28)
    assert not any(p.grad.any() for p in model.parameters())


def test_losses_by_their_twins():
    rng = np.random.default_rng(0)
    for dtype in DTYPES:
        scores, target = rng.standard_normal((2, 5, 3)).astype(dtype)
        labels = np.array([0, 1, 2, 1, 0])
        smoothed = functools.partial(F.cross_entropy, label_smoothing=0.1)
        for function, *arguments in ((smoothed, scores, labels, [1, 2, 3]), (F.mse_loss, scores, target)):
            value, gradient = backend.using("reference", function, *arguments)
            wanted = function(*arguments)
            assert value == pytest.approx(wanted[0], rel=1e-6) and gradient.dtype == dtype
            assert_close(gradient, wanted[1])


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("transform", [RandomAffine(30, (0.2, 0.1), (0.8, 1.2), 10, fill=3), RandomCrop(3, "zero"),
                                       RandomCrop(2), RandomFlip(), AlternatingFlip(1), Cutout(4, fill=7)],
                         ids=lambda t: type(t).__name__)
def test_images_are_changed_as_by_the_kernels(transform, dtype):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (20, 2, 9, 8)).astype(dtype)
    change, numbers = transform.draw(images.shape, images.dtype, rng, np.arange(20), 3)
    got, wanted = changed(change, images, numbers), change(images, numbers)
    assert got.dtype == wanted.dtype
    np.testing.assert_allclose(got, wanted, rtol=0, atol=0 if dtype == np.uint8 else 1e-4)
    assert not np.array_equal(got, images)


# ------------------------------------------------------------------------------------------ what is refused


class Odd(cnn.Module):
    def forward(self, x):
        return apply(pointwise.ReLU().changed(twin="", name="oddly"), x)


def test_an_operation_without_a_twin_is_refused_by_name(digits):
    model = cnn.Sequential(Odd(), cnn.Flatten(), cnn.Linear(784, 10))
    trainer = cnn.Trainer(model, cnn.SGD(model.parameters()), progress=False, backend="reference")
    with pytest.raises(NotImplementedError, match=r"Sequential: the operation oddly \(module 0\) has no twin"):
        trainer.fit(digits[0].subset(slice(8)), 1)
    assert not backend.by_twins()


def test_an_update_without_a_twin_is_refused_by_name():
    class Own(cnn.SGD):
        kernel = "own"

    optimizer = Own(cnn.Linear(2, 3).parameters())
    with pytest.raises(NotImplementedError, match="Own: the update 'own' has no twin"):
        backend.using("reference", optimizer.step)


def test_a_twin_that_returns_another_shape_is_named(monkeypatch):
    model, x = cnn.Sequential(cnn.Linear(4, 3)), np.ones((2, 4), np.float32)
    monkeypatch.setattr(reference, "linear_backward", lambda dy, x, w: (dy @ w, x.T @ dy, dy.sum(0)))
    y = backend.using("reference", model, x)
    with pytest.raises(ValueError, match=r"linear_backward: .* shape \(3, 4\) for linear \(module 0\), got \(4, 3"):
        backend.using("reference", model.backward, y)
    monkeypatch.setattr(reference, "linear", lambda x, w, b: x)
    with pytest.raises(ValueError, match=r"^linear: it must return an array of shape \(2, 3\)"):
        backend.using("reference", model, x)


def test_results_of_twins_take_the_models_number_type(monkeypatch):
    monkeypatch.setattr(reference, "tanh", lambda x: np.tanh(x.astype(np.float64)))
    assert backend.using("reference", cnn.Tanh(), np.ones((2, 3), np.float32)).dtype == np.float32


def test_wrong_names():
    for name in ("numpy", None, 3):
        with pytest.raises(ValueError, match=f"Trainer: backend must be 'kernels' or 'reference', got {name!r}"):
            cnn.Trainer(cnn.Linear(2, 2), None, backend=name)


def test_debugging_looks_at_what_twins_return(monkeypatch):
    model = cnn.Sequential(cnn.Linear(4, 3), cnn.Tanh())
    monkeypatch.setattr(reference, "tanh", lambda x: x / 0 * 0)
    with debugging.debug(), np.errstate(all="ignore"), pytest.raises(
            FloatingPointError, match=r"tanh \(module 1\): 6 of 6 elements of its value"):
        backend.using("reference", model, np.ones((2, 4), np.float32))


@pytest.mark.thorough
def test_the_command(tmp_path):
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "train.npz", images=rng.integers(0, 255, (40, 1, 28, 28)).astype(np.uint8),
             labels=np.arange(40) % 4)
    losses = {}
    for name in ("reference", "kernels"):
        command.main(["--dataset", str(tmp_path / "train.npz"), "--epochs", "2", "--batch-size", "10", "--quiet",
                      "--backend", name, "--out", str(tmp_path / name)])
        with (tmp_path / name / "history.csv").open() as file:
            losses[name] = [float(row["train_loss"]) for row in csv.DictReader(file)]
        assert f'backend = "{name}"' in (tmp_path / name / "config.toml").read_text()
    np.testing.assert_allclose(losses["reference"], losses["kernels"], rtol=1e-5)
    assert losses["reference"] != losses["kernels"]
