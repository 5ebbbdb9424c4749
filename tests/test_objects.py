"""Copies, pickles, changes after use, and what a dropped object leaves behind."""

import copy
import gc
import inspect
import pickle
import weakref

import numpy as np
import pytest
from cases import CASES, assert_same_bits, by_layer

import cnn
from cnn import schedules
from cnn.data import DataLoader, Dataset
from cnn.engine import compiling, memory, program, programs
from cnn.layers import (
    AvgPool2d,
    BatchNorm2d,
    Concat,
    Conv2d,
    Dropout,
    Flatten,
    Layer,
    LeakyReLU,
    Linear,
    MaxPool2d,
    ReLU,
    Residual,
    Sequential,
    Tanh,
    losses,
)
from cnn.training import callbacks

COPIES = {"deepcopy": copy.deepcopy, "pickle": lambda thing: pickle.loads(pickle.dumps(thing))}
copied = pytest.mark.parametrize("copied", COPIES.values(), ids=COPIES)


def network():
    return Sequential(
        Conv2d(1, 3, 3, seed=1), BatchNorm2d(3), ReLU(), MaxPool2d(2), Residual(Conv2d(3, 3, 3, padding=1, seed=2)),
        Concat(ReLU(), Tanh()), Dropout(0.5), Flatten(), Linear(54, 4, seed=4), Dropout(0.5))


def images(n=18):
    return np.random.default_rng(0).standard_normal((n, 1, 8, 8)).astype(np.float32)


def data(n=40):
    rng = np.random.default_rng(0)
    return Dataset(rng.integers(0, 256, (n, 1, 8, 8), np.uint8), np.arange(n) % 4, list("abcd"), [0.5], [0.25])


def trainer_of(model):
    return cnn.Trainer(model, cnn.Adam(model.parameters(), lr=0.01), progress=False)


# ------------------------------------------------------------------------------------------ copies


@copied
@pytest.mark.parametrize("used", ["no", "forward", "backward", "trained", "evaluated"])
def test_a_copied_model_is_a_model_of_its_own(copied, used):
    model, x = network(), images()
    if used == "forward":
        model(x)
    elif used == "backward":
        model(x), model.backward(np.ones((18, 4), np.float32))
    elif used == "trained":
        trainer_of(model).fit(data(), 1)
    elif used == "evaluated":
        trainer_of(model).evaluate(data())
    other = copied(model)
    assert_same_bits(list(model.state_dict().values()), list(other.state_dict().values()))
    wanted = model(x)  # also the masks of dropout
    before = other.state_dict()
    model.backward(np.ones_like(wanted))
    gradients = [p.grad.copy() for p in model.parameters()]
    for p in model.parameters():
        p.data = np.zeros(p.shape)
    assert_same_bits(list(before.values()), list(other.state_dict().values()))
    assert_same_bits([other(x)], [wanted])
    other.backward(np.ones_like(wanted))
    assert_same_bits([p.grad for p in other.parameters()], gradients)
    for p in other.parameters():
        p.data = np.ones(p.shape)
    assert not any(p.data.any() for p in model.parameters())


@copied
@pytest.mark.parametrize("optimizer", cnn.optim.OPTIMIZERS.values())
def test_an_optimizer_copied_with_its_model_moves_the_copy(copied, optimizer):
    model = network()
    optimizer = optimizer(model.parameters(), lr=0.1)
    for p in model.parameters():
        p.grad = np.ones(p.shape)
    optimizer.step()
    model2, optimizer2 = copied((model, optimizer))
    kept = model.state_dict()
    optimizer2.step()
    assert_same_bits(list(model.state_dict().values()), list(kept.values()))
    optimizer.step()
    assert optimizer.steps == optimizer2.steps == 2
    assert_same_bits(list(model.state_dict().values()), list(model2.state_dict().values()))
    assert any((kept[name] != value).any() for name, value in model2.state_dict().items())
    optimizer2.load_state_dict(optimizer.state_dict())


@copied
@pytest.mark.parametrize("epochs", [0, 1])
def test_a_copied_trainer_goes_on_the_same_way(copied, epochs):
    trainer = trainer_of(network())
    trainer.callbacks = [cnn.EMA(trainer.model), callbacks.EarlyStopping("train_loss", 3)]
    trainer.fit(data(), epochs)
    other = copied(trainer)
    for each in (trainer, other):
        each.fit(data(), 2)
    assert_same_bits(list(trainer.model.state_dict().values()), list(other.model.state_dict().values()))
    assert other.model is not trainer.model and other.optimizer.params[0] is other.model.parameters()[0]


@copied
def test_everything_public_can_be_copied(copied):
    loss, mse = losses.CrossEntropyLoss([1.0] * 4, label_smoothing=0.1), losses.MSELoss()
    loss(np.zeros((2, 4)), np.array([0, 1])), mse(np.zeros((2, 4)), np.ones((2, 4)))
    model = network()
    things = [
        *(case.make() for case in CASES[::7]), cnn.Parameter(np.ones(3)), loss, mse, data(),
        DataLoader(data(), 4, transform=cnn.data.RandomFlip()), schedules.OneCycle(0.1, total_steps=16),
        cnn.EMA(model), cnn.Lookahead(model), trainer_of(model).history, callbacks.BestCheckpoint,
        model.summary((1, 8, 8)),
    ]
    for thing in things:
        assert type(copied(thing)) is type(thing)
    assert np.array_equal(copied(loss).backward(), loss.backward())


@copied
def test_weights_that_two_layers_share_are_shared_by_the_copies(copied):
    model = Sequential(Linear(3, 3), Tanh(), Linear(3, 3))
    model[2].weight = model[0].weight
    other = copied(model)
    assert other[2].weight is other[0].weight is not model[0].weight
    other[0].weight.data = np.zeros((3, 3))
    x = np.ones((2, 3), np.float32)
    assert np.array_equal(other(x), np.broadcast_to(other[2].bias.data, (2, 3)))


def test_a_shallow_copy_has_layers_of_its_own():
    model = network()
    other = copy.copy(model)
    other.layers.pop()
    assert len(model) == len(other) + 1 and other[0] is model[0]


# ------------------------------------------------------------------------------------------ changes after use


def changes():
    """A name, a model, an input, and a change to make in it."""
    x, v = images(), np.random.default_rng(1).standard_normal((5, 4)).astype(np.float32)

    def change(name, make, x, act):
        return pytest.param(make, x, act, id=name)

    def conv(**more):
        return lambda: Sequential(Conv2d(1, 2, 3, seed=5, **more), BatchNorm2d(2), ReLU(), AvgPool2d(2))

    def vector():
        return Sequential(Linear(4, 4, seed=1), LeakyReLU(), Linear(4, 4, seed=2), Dropout(0.5))

    zeros = np.zeros((2, 1, 3, 3), np.float32)
    return [
        change("stride", conv(), x, lambda m: setattr(m[0], "stride", 2)),
        change("padding", conv(), x, lambda m: setattr(m[0], "padding", (1, 0))),
        change("dilation", conv(), x, lambda m: setattr(m[0], "dilation", 2)),
        change("weight", conv(), x, lambda m: setattr(m[0], "weight", cnn.Parameter(zeros + 1))),
        change("no bias", conv(), x, lambda m: setattr(m[0], "bias", None)),
        change("weight in place", conv(), x, lambda m: m[0].weight.data.__setitem__(..., 1)),
        change("buffer in place", conv(), x, lambda m: m[1].running_mean.__setitem__(..., 7)),
        change("buffer", conv(), x, lambda m: m[1]._buffers.update(running_var=np.full(2, 9, np.float32))),
        change("all buffers", conv(), x, lambda m: setattr(m[1], "_buffers", {
            "running_mean": np.ones(2, np.float32), "running_var": np.ones(2, np.float32),
            "num_batches_tracked": np.zeros((), np.int64)})),
        change("eps", conv(), x, lambda m: setattr(m[1], "eps", 0.5)),
        change("momentum", conv(), x, lambda m: setattr(m[1], "momentum", None)),
        change("no gamma", conv(), x, lambda m: setattr(m[1], "weight", None)),
        change("kernel", conv(), x, lambda m: setattr(m[3], "kernel_size", 3)),
        change("slope", vector, v, lambda m: setattr(m[1], "negative_slope", 0.5)),
        change("p", vector, v, lambda m: setattr(m[3], "p", 0.25)),
        change("seed of dropout", vector, v, lambda m: setattr(m[3], "number", 5)),
        change("last layer", vector, v, lambda m: m.layers.__setitem__(-1, Linear(4, 2, seed=9))),
        change("slice of layers", vector, v, lambda m: m.layers.__setitem__(slice(1, 3), [Tanh()])),
        change("pop", vector, v, lambda m: m.layers.pop()),
        change("append", vector, v, lambda m: m.layers.append(Tanh())),
        change("insert", vector, v, lambda m: m.layers.insert(0, Tanh())),
        change("reverse", vector, v, lambda m: m.layers.reverse()),
        change("new list", vector, v, lambda m: setattr(m, "layers", [Tanh(), Tanh()])),
        change("clear", vector, v, lambda m: m.layers.clear()),
        change("body", lambda: Sequential(Residual(Linear(4, 4))), v, lambda m: setattr(m[0], "body", Tanh())),
        change("shortcut", lambda: Sequential(Residual(Linear(4, 4))), v, lambda m: setattr(m[0], "shortcut", Tanh())),
        change("branches", lambda: Concat(Tanh(), Linear(4, 4)), v, lambda m: setattr(m, "branches", (Tanh(),))),
        change("inside", lambda: Sequential(Residual(Sequential(Tanh(), Tanh()))), v,
               lambda m: m[0].body.layers.__setitem__(0, ReLU())),
        change("type", vector, v, lambda m: m.to(np.float64).to(np.float32)),
    ]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("make, x, change", changes())
def test_a_change_after_use_is_seen(make, x, change, training):
    """A model that was used before it was changed computes what one does that was changed at once."""
    used, fresh = make().train(training), make().train(training)
    state = used.state_dict()
    if training:
        by_layer(used, x, np.ones_like(used(x)))
    else:
        used(x)
    used.load_state_dict(state)
    for layer in used.modules():
        if isinstance(layer, Dropout):
            layer.step = 0
    change(used), change(fresh)
    used.train(training), fresh.train(training)
    assert_same_bits([used(x)], [fresh(x)])
    if training:
        dy = np.ones_like(fresh(x))
        used(x)
        assert_same_bits([used.backward(dy), *(p.grad for p in used.parameters())],
                         [fresh.backward(dy), *(p.grad for p in fresh.parameters())])


def test_a_trainer_sees_changes():
    model, set_ = network(), data()
    trainer = trainer_of(model)
    trainer.evaluate(set_)
    model.layers[-2] = Linear(54, 4, init="zeros")
    assert trainer.evaluate(set_)["loss"] == pytest.approx(np.log(4))
    trainer.criterion.label_smoothing = 1.0
    trainer.criterion.weight = [2.0, 2, 2, 2]
    assert trainer.evaluate(set_)["loss"] == pytest.approx(np.log(4))
    trainer.criterion = losses.CrossEntropyLoss(weight=[1.0, 0, 0, 0])
    model[-2].bias.data = [1, 0, 0, 0]
    assert trainer.evaluate(set_)["loss"] == pytest.approx(-np.log(np.e / (np.e + 3)))


@pytest.mark.parametrize("change", [
    lambda m: setattr(m[0], "weight", cnn.Parameter(np.zeros((5, 4), np.float32))),
    lambda m: setattr(m[0], "weight", np.zeros((4, 4), np.float32)),
    lambda m: setattr(m[0], "weight", None),
    lambda m: setattr(m[0], "bias", cnn.Parameter(np.zeros(3, np.float32))),
    lambda m: setattr(m[0], "bias", cnn.Parameter(np.zeros(4))),
    lambda m: setattr(m[0], "out_features", 9),
    lambda m: setattr(m[1], "negative_slope", "steep"),
    lambda m: m.layers.append(Linear(4, 4, dtype=np.float64)),
])
def test_what_does_not_fit_is_refused_by_name(change):
    model, x = Sequential(Linear(4, 4), LeakyReLU()), np.ones((2, 4), np.float32)
    model(x)
    change(model)
    names = "weight|bias|negative_slope|out_features"
    with pytest.raises((TypeError, ValueError), match=f"(Linear|LeakyReLU): ({names}) must"):
        model(x)


@pytest.mark.parametrize("buffer", [np.zeros(3, np.float32), np.zeros(2), np.zeros(4, np.float32)[::2], None])
def test_buffers_that_do_not_fit(buffer):
    layer = BatchNorm2d(2)
    layer._buffers["running_mean"] = buffer
    with pytest.raises(ValueError, match="BatchNorm2d: running_mean must be a contiguous, writeable array"):
        layer(np.zeros((2, 2, 2, 2), np.float32))


def test_only_what_changed_is_compiled_anew(monkeypatch):
    """Freezing in turn, as for a GAN, and optimizers of other models cost nothing."""
    written = []
    made = programs.Pool.take
    monkeypatch.setattr(programs.Pool, "take", lambda pool, key, images, make: made(
        pool, key, images, lambda: written.append(key) or make()))
    model, x = network(), images()
    cnn.SGD(model.parameters(), lr=0.1)
    for i in range(6):
        model[0].weight.requires_grad = bool(i % 2)
        model(x)
        cnn.SGD(network().parameters(), lr=0.1)
        network()[0].weight.requires_grad = False
        model.backward(np.ones((18, 4), np.float32))
    assert len(written) == 1


def test_attributes_that_a_layer_sets_while_it_is_written(monkeypatch):
    """They are no change that would have it written anew at each call."""
    class Noting(Layer):
        written = 0

        def forward(self, x):
            self.seen = x.shape
            Noting.written += 1
            return x.relu()

    model, x = Sequential(Flatten(), Noting(), Linear(64, 4)), images()
    trainer = trainer_of(model)
    for use in (lambda: model.eval()(x), lambda: model.train()(x), lambda: trainer.evaluate(data()),
                lambda: trainer.train_step(x, np.arange(18) % 4)):
        Noting.written = 0
        for _ in range(3):
            use()
        assert Noting.written == 1


def test_switching_between_modes_and_sizes_compiles_once_for_each(monkeypatch):
    written = []
    made = programs.Pool.take
    monkeypatch.setattr(programs.Pool, "take", lambda pool, key, images, make: made(
        pool, key, images, lambda: written.append(key) or make()))
    model = network()
    for _ in range(4):
        for side in (8, 9):
            for training in (True, False):
                model.train(training)
                if side == 8:
                    model(images())
                else:
                    Sequential.forward(model[:4], np.zeros((3, 1, side, side), np.float32))
    assert len(written) == 2 + 8  # a slice is a model of its own each time


# ------------------------------------------------------------------------------------------ what is left behind


@pytest.fixture
def no_collection():
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.thorough
@pytest.mark.parametrize("use", ["forward", "evaluation", "backward", "fit", "step"])
def test_a_dropped_model_frees_its_memory_at_once(use, no_collection):
    model = network()
    if use == "evaluation":
        model.eval()(images())
    elif use == "fit":
        trainer = trainer_of(model)
        trainer.fit(data(), 1, validation=data())
        del trainer
    elif use == "step":
        optimizer = cnn.SGD(model.parameters(), lr=0.1)
        optimizer.step()
        del optimizer
    else:
        model(images())
        if use == "backward":
            model.backward(np.ones((18, 4), np.float32))
    parts = [weakref.ref(layer) for layer in model.modules()] + [weakref.ref(p.data) for p in model.parameters()]
    del model
    assert [part() for part in parts if part() is not None] == []


@pytest.mark.parametrize("training", [True, False])
def test_a_model_does_not_keep_its_last_input(training, no_collection):
    model, x = network().train(training), images()
    alive = weakref.ref(x)
    model(x)
    del x
    assert alive() is None


def test_functions_do_not_keep_their_arguments(no_collection):
    arrays = [images(3), np.ones((2, 1, 3, 3), np.float32)]
    alive = [weakref.ref(array) for array in arrays]
    y = cnn.functional.conv2d(*arrays)
    cnn.functional.conv2d_backward(y, *arrays)
    y, index = cnn.functional.max_pool2d(arrays[0], 2)
    cnn.functional.max_pool2d_backward(y, index, arrays[0].shape)
    alive += [weakref.ref(y), weakref.ref(index)]
    del arrays, y, index
    assert [a() for a in alive] == [None] * 4


def test_programs_at_rest_are_bounded_by_bytes(monkeypatch):
    zeros, made = memory.zeros, []

    def counted(shape, dtype):
        array = zeros(shape, dtype)
        made.append((weakref.ref(array.base), array.nbytes))
        return array
    for module in (program, compiling):
        monkeypatch.setattr(module, "zeros", counted)
    model = Sequential(Conv2d(1, 4, 3), AvgPool2d(2), cnn.AdaptiveAvgPool2d(1), Flatten(), Linear(4, 3)).eval()
    model._programs.limit = 8 << 20
    for side in range(20, 60):
        model(np.zeros((16, 1, side, side), np.float32))
    resting = model._programs.resting()
    total = sum(program.nbytes for program in resting)
    assert 2 < len(resting) < 40 and total <= 8 << 20
    assert resting[-1].made_from[0] == (1, 59, 59)
    assert total == sum(nbytes for base, nbytes in made if base() is not None)
    drops = Sequential(Linear(4, 4), Dropout(0.5))
    for i in range(100):
        drops[1].p = i / 100
        drops(np.ones((2, 4), np.float32))
    assert len(drops._programs.resting()) <= programs.MOST


def test_the_programs_of_a_trainer_are_bounded():
    trainer = trainer_of(Sequential(Conv2d(1, 2, 3), cnn.GlobalAvgPool2d(), Linear(2, 4)))
    trainer._programs.limit = 4 << 20
    for side in range(8, 48):
        trainer.train_step(np.zeros((4, 1, side, side), np.float32), np.arange(4))
    assert sum(p.nbytes for p in trainer._programs.resting()) <= 4 << 20


# ------------------------------------------------------------------------------------------ parts of own layers


class Own(Layer):
    """x + inner(x), with layers as attributes, in a list, and a parameter."""

    def __init__(self):
        super().__init__()
        self.inner, self.more = Linear(4, 4, seed=1), [Tanh(), Linear(4, 4, seed=2)]
        self.scale = cnn.Parameter(np.ones(1, np.float32))

    def forward(self, x):
        self.x = x
        self.y = self.more[1](self.more[0](self.inner(x)))
        return x + self.y * self.scale.data

    def backward(self, dy):
        self.scale.grad = [(dy * self.y).sum()]
        return dy + self.inner.backward(self.more[0].backward(self.more[1].backward(dy * self.scale.data)))


def test_layers_inside_an_own_layer_are_trained_and_saved():
    model = Sequential(Own(), Linear(4, 4))
    names = [name for name, _ in model.named_parameters()]
    assert names == ["0.scale", "0.inner.weight", "0.inner.bias", "0.more.1.weight", "0.more.1.bias", "1.weight",
                     "1.bias"]
    assert list(model.state_dict()) == names
    model.eval()
    assert not model[0].inner.training and not model[0].more[1].training
    before = model.state_dict()
    optimizer = cnn.SGD(model.parameters(), lr=0.1)
    cnn.Trainer(model, optimizer, progress=False).train_step(np.ones((3, 4), np.float32), np.arange(3))
    assert all((before[name] != value).any() for name, value in model.state_dict().items())


def test_help_shows_the_arguments_of_a_layer():
    class Net(cnn.Module):
        def __init__(self, width: int, depth=2):
            super().__init__()

    assert list(inspect.signature(cnn.Conv2d).parameters)[:3] == ["in_channels", "out_channels", "kernel_size"]
    assert str(inspect.signature(Net)) in ("(width: int, depth=2)", "(width: 'int', depth=2)")
    assert str(inspect.signature(cnn.Tanh)) == "() -> 'None'"
    assert inspect.signature(Net(3)).parameters.keys() == inspect.signature(Net(3).__call__).parameters.keys()
