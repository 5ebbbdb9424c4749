"""Mixtures of training and evaluation mode, and layers that are frozen."""

import itertools

import numpy as np
import pytest
from cases import assert_all_close, assert_gradient, assert_same_bits, by_torch

import cnn
from cnn.data import Dataset
from cnn.layers import (
    BatchNorm2d,
    Concat,
    Conv2d,
    Dropout,
    Flatten,
    Layer,
    Linear,
    MaxPool2d,
    ReLU,
    Residual,
    Sequential,
    Tanh,
)


def stack(rng):
    """A random network for (2, 8, 8) images, as text for eval: layers that both libraries have."""
    channels, side, parts = 2, 8, []
    for _ in range(rng.integers(2, 6)):
        kind = rng.choice(["conv", "norm", "relu", "tanh", "pool", "residual", "concat", "drop"])
        if kind == "conv":
            outputs = int(rng.integers(1, 5))
            parts.append(("Conv2d", channels, outputs, 3, 1, 1))
            channels = outputs
        elif kind == "norm":
            parts.append(("BatchNorm2d", channels))
        elif kind == "pool" and side > 2:
            parts.append(("MaxPool2d", 2))
            side //= 2
        elif kind == "residual":
            parts.append(("Residual", ("Conv2d", channels, channels, 3, 1, 1)))
        elif kind == "concat":
            parts.append(("Concat", ("Conv2d", channels, 2, 1), ("BatchNorm2d", channels)))
            channels += 2
        elif kind == "drop":
            parts.append(("Dropout", 0.0))
        else:
            parts.append(("ReLU",) if kind == "relu" else ("Tanh",))
    return [*parts, ("Flatten",), ("Linear", channels * side * side, 3)]


def ours(spec):
    name, *arguments = spec
    layer = getattr(cnn, name)(*(ours(a) if isinstance(a, tuple) else a for a in arguments))
    return layer.to(np.float64)


def theirs(nn, spec):
    from cases import OTHER_NAMES
    name, *arguments = spec
    arguments = [theirs(nn, a) if isinstance(a, tuple) else a for a in arguments]
    return OTHER_NAMES[name](nn, *arguments) if name in OTHER_NAMES else getattr(nn, name)(*arguments)


def drawn(seed):
    """A random network, which of its layers are in training mode, which parameters learn, an input and a gradient."""
    rng = np.random.default_rng(seed)
    specs = stack(rng)
    model = Sequential(*map(ours, specs))
    for p in model.parameters():
        p.data = rng.standard_normal(p.shape)
    for layer in model.modules():
        if isinstance(layer, BatchNorm2d):
            layer.running_mean[...], layer.running_var[...] = rng.standard_normal(layer.num_features), 0.5
    mode = rng.choice(["all", "mixed", "mixed", "mixed"])
    modes = [True if mode == "all" else bool(m) for m in rng.integers(0, 2, len(list(model.modules())))]
    modes[0] = modes[0] or not any(modes)
    learns = [bool(b) for b in rng.integers(0, 4, len(model.parameters()))]
    return specs, model, modes, learns, rng.standard_normal((5, 2, 8, 8)), rng.standard_normal((5, 3))


@pytest.mark.parametrize("seed", range(40))
def test_random_stacks_in_random_modes_agree_with_pytorch(seed, torch):
    specs, model, modes, learns, x, dy = drawn(seed)
    twin = torch.nn.Sequential(*(theirs(torch.nn, spec) for spec in specs)).double()
    twin.load_state_dict({name: torch.tensor(value) for name, value in model.state_dict().items()})
    for layer, part, mode in zip(model.modules(), twin.modules(), modes, strict=True):
        layer.training = part.training = mode
    for p, q, learn in zip(model.parameters(), twin.parameters(), learns, strict=True):
        p.requires_grad = learn
        q.requires_grad_(learn)
    x_ = torch.tensor(x, requires_grad=True)
    y_ = twin(x_)
    y_.backward(torch.tensor(dy))
    y, dx = model(x), model.backward(dy)
    assert_all_close([y, dx], [y_.detach().numpy(), x_.grad.numpy()])
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        if q.requires_grad:
            assert_all_close([p.grad], [q.grad.numpy()])
    assert_all_close([b.astype(np.float64) for _, b in model.named_buffers()],
                     [b.double().numpy() for b in twin.buffers()])


@pytest.mark.parametrize("seed", range(100, 110))
def test_random_stacks_in_random_modes_by_central_differences(seed):
    _, model, modes, _, x, dy = drawn(seed)
    for layer, mode in zip(model.modules(), modes, strict=True):
        layer.training = mode
    before = model.state_dict()

    def loss():
        model.load_state_dict(before | {name: p.data.copy() for name, p in model.named_parameters()})
        return (model(x) * dy).sum()

    loss()
    dx = model.backward(dy)
    first = model.parameters()[0]
    rng = np.random.default_rng(seed)
    for gradient, array in ((dx, x), (first.grad.copy(), first.data)):
        for _ in range(3):      # along a direction at random
            step = 1e-6 * rng.standard_normal(array.shape)
            array += step
            above = loss()
            array -= 2 * step
            below = loss()
            array += step
            assert above - below == pytest.approx(2 * (gradient * step).sum(), rel=1e-5, abs=1e-11)


@pytest.mark.parametrize("body", [
    lambda: Sequential(MaxPool2d(2)), lambda: Sequential(Conv2d(1, 2, 3), MaxPool2d(2)),
    lambda: Sequential(ReLU(), MaxPool2d(2)), lambda: Sequential(Conv2d(1, 2, 5), ReLU(), MaxPool2d(2)),
    lambda: Sequential(cnn.AdaptiveMaxPool2d(2)),
])
def test_a_pool_in_evaluation_mode_lets_gradients_through(body):
    """Its indices were missing, and the process died."""
    model = Sequential(Tanh(), body(), Flatten()).to(np.float64)
    x = np.random.default_rng(0).standard_normal((18, 1, 8, 8))
    y = model(x)
    dy = np.random.default_rng(1).standard_normal(y.shape)
    wanted = [model.backward(dy), *(p.grad.copy() for p in model.parameters())]
    for parts in itertools.product([True, False], repeat=2):
        model.train()
        model[1].train(parts[0])
        model[1][-1].train(parts[1])
        assert_same_bits([model(x)], [y])
        assert_same_bits([model.backward(dy), *(p.grad for p in model.parameters())], wanted)


# ------------------------------------------------------------------------------------------ freeze


def network():
    return Sequential(
        Sequential(Conv2d(1, 3, 3, seed=1), BatchNorm2d(3), ReLU(), Dropout(0.5)), MaxPool2d(2), Flatten(),
        Linear(27, 4, seed=2))


def data():
    rng = np.random.default_rng(0)
    return Dataset(rng.integers(0, 256, (40, 1, 8, 8), np.uint8), np.arange(40) % 4, list("abcd"), [0.5], [0.25])


@pytest.mark.parametrize("numpy_layer", [False, True])
def test_what_is_frozen_stays_as_it_is_through_a_fit(numpy_layer):
    class Identity(Layer):
        def forward(self, x):
            return x

        def backward(self, dy):
            return dy

    model = network()
    if numpy_layer:
        model.layers.insert(1, Identity())
    assert model[0].freeze() is model[0]
    model.train()
    before = model.state_dict()
    trainer = cnn.Trainer(model, cnn.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1), progress=False)
    trainer.fit(data(), 2, validation=data())
    after, last = model.state_dict(), f"{len(model) - 1}."
    assert all(np.array_equal(after[name], before[name]) != name.startswith(last) for name in after)
    assert model.training and not any(layer.training for layer in model[0].modules())
    assert model[0][3].step == 0


def test_unfreezing_brings_back_modes_and_what_learns():
    model = network()
    model[0][0].bias.requires_grad = False
    model.eval()
    model.freeze()
    model.train()
    assert not any(layer.training for layer in model.modules())
    assert not any(p.requires_grad for p in model.parameters())
    assert model.unfreeze() is model
    assert all(layer.training for layer in model.modules())
    assert [p.requires_grad for p in model.parameters()] == [True, False, True, True, True, True]
    model[0].freeze()
    model.eval()
    model[0].unfreeze()
    assert not any(layer.training for layer in model.modules())


def test_a_frozen_part_passes_gradients_on(torch):
    specs = [("Conv2d", 2, 3, 3, 1, 1), ("BatchNorm2d", 3), ("ReLU",), ("Flatten",), ("Linear", 192, 3)]
    model = Sequential(*map(ours, specs))
    twin = torch.nn.Sequential(*(theirs(torch.nn, spec) for spec in specs)).double()
    twin.load_state_dict({name: torch.tensor(value) for name, value in model.state_dict().items()})
    model[1].freeze()
    twin[1].eval()
    x, dy = (np.random.default_rng(i).standard_normal(s) for i, s in enumerate([(5, 2, 8, 8), (5, 3)]))
    y, dx, *gradients = by_torch(torch, twin, x, dy)
    assert_all_close([model(x), model.backward(dy)], [y, dx])
    kept = [g for g, (name, _) in zip(gradients, model.named_parameters(), strict=True) if not name.startswith("1.")]
    assert_all_close([p.grad for p in model.parameters() if p.requires_grad], kept)


# ------------------------------------------------------------------------------------------ used several times


def test_a_layer_used_three_times_gets_the_sum_of_its_gradients(torch):
    def build(make, concat, residual):
        shared = make("Linear", 4, 4)
        return shared, make("Sequential", shared, make("Tanh"), residual(shared), make("Tanh"),
                            concat(shared, make("Tanh")))

    layer, model = build(lambda name, *a: getattr(cnn, name)(*a), Concat, Residual)
    model.to(np.float64)
    from cases import torch_concat, torch_residual
    twin_layer, twin = build(lambda name, *a: getattr(torch.nn, name)(*a), lambda *a: torch_concat(torch.nn, *a),
                             lambda a: torch_residual(torch.nn, a))
    twin = twin.double()
    twin_layer.load_state_dict({name: torch.tensor(value) for name, value in layer.state_dict().items()})
    x, dy = (np.random.default_rng(i).standard_normal(s) for i, s in enumerate([(20, 4), (20, 8)]))
    y, dx, *gradients = by_torch(torch, twin, x, dy)
    assert_all_close([model(x), model.backward(dy), layer.weight.grad, layer.bias.grad], [y, dx, *gradients])
    assert len(model.parameters()) == 2 and len(model.state_dict()) == 6


def test_gradients_of_many_uses_are_added_one_after_the_other(set_threads):
    """They were added by several threads at once, and some were lost."""
    set_threads(2)
    shared = Linear(40, 40, dtype=np.float64)
    model = Sequential(*[shared] * 5)
    x = np.random.default_rng(0).standard_normal((33, 40))
    apart = Sequential(*(Linear(40, 40, dtype=np.float64) for _ in range(5)))
    for layer in apart:
        layer.weight.data, layer.bias.data = shared.weight.data, shared.bias.data
    dy = apart(x)
    apart.backward(dy)
    for _ in range(20):
        model(x)
        model.backward(dy)
        assert_all_close([shared.weight.grad, shared.bias.grad],
                         [sum(layer.weight.grad for layer in apart), sum(layer.bias.grad for layer in apart)])


def test_a_shared_weight_is_trained_as_a_difference_of_losses_says():
    first, second = Linear(4, 4, seed=1, dtype=np.float64), Linear(4, 4, seed=2, dtype=np.float64)
    second.weight = first.weight
    model = Sequential(first, Tanh(), second)
    x, dy = (np.random.default_rng(i).standard_normal((18, 4)) for i in range(2))
    model(x)
    model.backward(dy)
    assert_gradient(first.weight.grad.copy(), lambda: (model(x) * dy).sum(), first.weight.data)
    trainer = cnn.Trainer(model, cnn.SGD(model.parameters(), lr=1.0), progress=False)
    labels, before = np.arange(18) % 4, model.state_dict()
    loss = cnn.CrossEntropyLoss()
    loss(model(x), labels)
    model.backward(loss.backward())
    wanted = before["0.weight"] - first.weight.grad
    trainer.train_step(x, labels)
    assert_all_close([first.weight.data], [wanted])


class Identity(Layer):
    def forward(self, x):
        return x

    def backward(self, dy):
        return dy


def test_a_layer_used_twice_beside_numpy_gets_the_sum_of_its_gradients():
    shared, x = Linear(4, 4, dtype=np.float64), np.random.default_rng(0).standard_normal((5, 4))
    dy = np.random.default_rng(1).standard_normal((5, 4))
    model, fused = Sequential(shared, Tanh(), Identity(), shared, Identity()), Sequential(shared, Tanh(), shared)
    wanted = [fused(x), fused.backward(dy), *(p.grad.copy() for p in fused.parameters())]
    assert_all_close([model(x), model.backward(dy), *(p.grad for p in model.parameters())], wanted)


def test_a_layer_in_numpy_that_is_used_twice_is_refused():
    """It remembers the input of its last use only."""
    class Square(Layer):
        def forward(self, x):
            self.x = x
            return x * x

        def backward(self, dy):
            return 2 * self.x * dy

    square, x = Square(), np.ones((2, 4), np.float32)
    model = Sequential(square, Tanh(), square)
    y = model(x)
    with pytest.raises(ValueError, match="Square is used more than once"):
        model.backward(y)
    assert np.array_equal(model.eval()(x), y)


# ------------------------------------------------------------------------------------------ overridden methods


class Doubled(ReLU):
    """Twice a ReLU, without a backward of its own."""

    def forward(self, x):
        return 2 * super().forward(x)


class Guided(ReLU):
    """A ReLU whose backward pass lets only positive gradients through."""

    def backward(self, dy, need_dx=True):
        return super().backward(np.maximum(dy, 0), need_dx)


class Called(Tanh):
    def __call__(self, x):
        return super().__call__(x) + 1

    def backward(self, dy, need_dx=True):
        return super().backward(dy, need_dx)


class Flat(Sequential):
    def forward(self, x):
        self.calls = getattr(self, "calls", 0) + 1
        return super().forward(x)

    def backward(self, dy, need_dx=True):
        return super().backward(dy, need_dx)


def test_overrides_are_called_wherever_the_layer_stands():
    x, dy = np.array([[-1, 2], [3, -4]], np.float32), np.array([[1, -1], [-1, 1]], np.float32)
    for wrap in (lambda m: m, Sequential, lambda m: Sequential(Sequential(m)),
                 lambda m: Residual(m, Sequential(Tanh()))):
        model = wrap(Guided())
        model(x)
        rest = dy * (1 - np.tanh(x)**2) if isinstance(model, Residual) else 0
        np.testing.assert_allclose(model.backward(dy), np.maximum(dy, 0) * (x > 0) + rest, atol=1e-6)
    assert np.array_equal(Sequential(Doubled()).eval()(x), 2 * np.maximum(x, 0))
    np.testing.assert_allclose(Sequential(Called(), ReLU())(x), np.tanh(x) + 1, rtol=1e-6)
    flat = Flat(Linear(2, 2), ReLU())
    trainer = cnn.Trainer(flat, cnn.SGD(flat.parameters(), lr=0.1), progress=False)
    trainer.train_step(x, np.array([0, 1]))
    trainer.predict(x)
    assert flat.calls == 2


def test_a_forward_of_its_own_is_differentiated():
    class Bare(Layer):
        def forward(self, x):
            return x

    x = np.array([[1, -2, 3], [-4, 5, 6]], np.float64)
    for layer, slope in ((Doubled(), 2 * (x > 0)), (Bare(), np.ones_like(x))):
        model = Sequential(layer, Linear(3, 2)).to(np.float64)
        model(x)
        np.testing.assert_allclose(model.backward(np.ones((2, 2))), slope * model[1].weight.data.sum(0), rtol=1e-12)


def test_a_forward_in_numpy_needs_a_backward_of_its_own():
    class Numpy(Layer):
        def forward(self, x):
            return 2 * x

        def backward(self, dy):
            return 2 * dy

    class Other(Numpy):
        def forward(self, x):
            return x

    x = np.ones((2, 3), np.float32)
    for layer in (Other(),):
        model = Sequential(layer, Linear(3, 2))
        trainer = cnn.Trainer(model, cnn.SGD(model.parameters(), lr=0.1), progress=False)
        trainer.predict(x)
        before = model.state_dict()
        model(x)
        with pytest.raises(TypeError, match=f"{type(layer).__name__}: it has a forward of its own, but no backward"):
            model.backward(np.ones((2, 2), np.float32))
        assert_same_bits(list(model.state_dict().values()), list(before.values()))


@pytest.mark.parametrize("method, value, error", [
    ("forward", lambda x: None, "forward must return an array, got NoneType"),
    ("forward", lambda x: x.tolist(), "forward must return an array, got list"),
    ("forward", lambda x: x.astype(np.float64), "forward must return an array of float32, as it got"),
    ("forward", lambda x: x[:1], "forward must return an array of 2 images, got shape"),
    ("backward", lambda dy: None, "backward must return an array, got NoneType"),
    ("backward", lambda dy: dy[:, :1], "backward must return an array of its input's shape"),
    ("backward", lambda dy: dy.astype(np.float64), "backward must return an array of float32, as it got"),
])
def test_what_a_layer_in_numpy_returns_is_checked(method, value, error):
    class Wrong(Layer):
        def forward(self, x):
            return value(x) if method == "forward" else x

        def backward(self, dy):
            return value(dy) if method == "backward" else dy

    x = np.ones((2, 3), np.float32)
    for make in (lambda: Sequential(Linear(3, 3), Wrong(), Linear(3, 2)), lambda: Residual(Wrong()),
                 lambda: Concat(Tanh(), Wrong())):
        model = make()
        with pytest.raises((TypeError, ValueError), match=f"Wrong: {error}"):
            model.backward(np.ones_like(model(x)))


def test_overridden_optimizers_and_losses_are_called():
    x, labels = np.ones((4, 3), np.float32), np.array([0, 1, 0, 1])

    class Half(cnn.SGD):
        def step(self):
            for p in self.params:
                p.grad = p.grad / 2
            super().step()

    class Pulled(cnn.CrossEntropyLoss):
        def backward(self):
            return super().backward() * 3

    def after(optimizer, loss):
        model = Sequential(Linear(3, 2))
        trainer = cnn.Trainer(model, optimizer(model.parameters(), lr=0.1), loss(), progress=False)
        start = model[0].weight.data.copy()
        trainer.train_step(x, labels)
        return model[0].weight.data - start

    plain = after(cnn.SGD, cnn.CrossEntropyLoss)
    np.testing.assert_allclose(after(Half, cnn.CrossEntropyLoss), plain / 2, rtol=1e-5)
    np.testing.assert_allclose(after(cnn.SGD, Pulled), plain * 3, rtol=1e-5)
    np.testing.assert_allclose(after(Half, Pulled), plain * 1.5, rtol=1e-5)


# ------------------------------------------------------------------------------------------ numbers of dropouts


def test_no_two_dropouts_of_a_model_draw_the_same_mask():
    class Pair(Layer):
        def __init__(self):
            super().__init__()
            self.a, self.b = Dropout(), Dropout()

        def forward(self, x):
            return self.a(x)

        def backward(self, dy):
            return self.a.backward(dy)

    class Identity(Layer):
        def forward(self, x):
            return x

        def backward(self, dy):
            return dy

    x = np.ones((4, 50), np.float32)
    for model in (Sequential(Dropout(), Dropout()), Sequential(Dropout(), Identity(), Dropout()), Pair(),
                  Sequential(Pair(), Dropout(), Sequential(Dropout(), Pair())), Concat(Dropout(), Dropout())):
        model(x)
        numbers = [layer.number for layer in model.modules() if isinstance(layer, Dropout)]
        assert len(set(numbers)) == len(numbers)
    y = Sequential(Dropout(), Identity(), Dropout())(x)
    assert 0.15 < (y != 0).mean() < 0.35
    model = Sequential(Dropout())
    model(x)
    model.layers.append(Dropout())
    assert 0.15 < (model(x) != 0).mean() < 0.35


def test_parts_of_a_model_leave_its_dropouts_alone():
    x = np.ones((4, 50), np.float32)
    for part in (lambda m: m[2:], lambda m: Sequential(*m[2:]), lambda m: Sequential(m[2])(x) * 0 + m[2].step):
        model, other = (Sequential(Dropout(), Tanh(), Dropout()) for _ in range(2))
        wanted = other(x)
        part(model)
        model[2].step = 0
        assert np.array_equal(model(x), wanted)
