"""Buffers that a module registers: computed with, saved, not trained, beside PyTorch's."""
import copy
import pickle

import numpy as np
import pytest
from cases import assert_close

import cnn
from cnn import functional as F
from cnn.export import to_torch


class Filters(cnn.Module):
    """A convolution, its mean taken away, masked, its channels in another order, blurred."""

    def __init__(self):
        super().__init__()
        rows = np.array([1.0, 2.0, 1.0])
        self.conv = cnn.Conv2d(3, 4, 3, padding=1)
        self.register_buffer("kernel", np.repeat(np.outer(rows, rows)[None, None] / 16, 4, axis=0))
        self.register_buffer("mean", np.linspace(0, 1, 4).reshape(1, 4, 1, 1))
        self.register_buffer("mask", np.arange(64).reshape(8, 8) % 3 > 0)
        self.register_buffer("order", np.array([3, 1, 0, 2]))
        self.register_buffer("gain", np.array(1.5), persistent=False)
        self.register_buffer("nothing", None)

    def forward(self, x):
        x = ((self.conv(x) - self.mean) * self.mask)[:, self.order] * self.gain
        return F.conv2d(x, self.kernel, padding=1, groups=4)


IMAGES = np.random.default_rng(0).standard_normal((3, 3, 8, 8)).astype(np.float32)
NAMES = ["kernel", "mean", "mask", "order"]


def by_hand(model, x):
    """What `Filters` computes, by its parts in NumPy."""
    x = ((model.conv(x) - model.mean) * model.mask)[:, model.order] * np.float32(1.5)
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    return sum(model.kernel[:, 0, i, j, None, None] * padded[:, :, i:i + 8, j:j + 8] for i in range(3)
               for j in range(3))


def test_they_are_saved_and_not_trained():
    model = Filters()
    assert [name for name, _ in model.named_buffers()] == NAMES and len(model.buffers()) == 4
    assert [a.dtype for a in model.buffers()] == [np.float32, np.float32, bool, np.int64]
    assert [name for name, _ in model.named_parameters()] == ["conv.weight", "conv.bias"]
    assert list(model.state_dict()) == [*NAMES, "conv.weight", "conv.bias"] and model.nothing is None
    assert_close(model(IMAGES), by_hand(model, IMAGES), 1e-5)
    model = cnn.Sequential(model, cnn.Flatten(), cnn.Linear(256, 2))
    before = [array.copy() for array in model.buffers()]
    trainer = cnn.Trainer(model, cnn.SGD(model.parameters(), lr=0.1, weight_decay=0.1), progress=False)
    trainer.fit(cnn.data.Dataset(IMAGES, np.array([0, 1, 0])), 2)
    assert all(np.array_equal(a, b) for a, b in zip(before, model.buffers(), strict=True))


def test_what_changes_them_is_seen():
    """Anew, in place, by a state, by `to`; and a copy has its own."""
    model = Filters()
    first, state = model(IMAGES), model.state_dict()
    model.mean = [[[[5]], [[6]], [[7]], [[8]]]]
    assert model.mean.dtype == np.float32
    assert_close(model(IMAGES), by_hand(model, IMAGES), 1e-5)
    model.mean[...] = 2
    assert_close(model(IMAGES), by_hand(model, IMAGES), 1e-5)
    model.load_state_dict({**state, "order": np.arange(4), "mask": np.ones((8, 8), bool)})
    assert_close(model(IMAGES), by_hand(model, IMAGES), 1e-5)
    model.load_state_dict(state)
    np.testing.assert_array_equal(model(IMAGES), first)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        np.testing.assert_array_equal(other(IMAGES), first)
        other.mean[...] = 9
    np.testing.assert_array_equal(model(IMAGES), first)
    model.to(np.float64)
    assert model.dtype == np.float64 and [a.dtype for a in model.buffers()] == [np.float64, np.float64, bool, np.int64]
    assert_close(model(IMAGES.astype(np.float64)), first, 1e-5)


def test_a_file_keeps_them_by_their_names(tmp_path):
    model = Filters().eval()
    for path in (tmp_path / "a.safetensors", tmp_path / "b.safetensors"):
        cnn.save(model, path, (3, 8, 8))
        again, _ = cnn.load_model(path)
        np.testing.assert_array_equal(again(IMAGES), model(IMAGES))
        state = again.state_dict()
        assert set(NAMES) < set(state)
        assert not any(p.requires_grad for name, p in again.named_parameters() if name in NAMES)
        model = again


def test_pytorch_has_the_same(torch):
    model = Filters().eval()
    theirs = to_torch(model, (3, 8, 8))
    x = torch.tensor(IMAGES)
    assert_close(model(IMAGES), theirs(x).detach().numpy(), 1e-5)
    state = model.state_dict()
    assert list(theirs.state_dict()) == list(state)
    state["mean"] += 1
    theirs.load_state_dict({name: torch.tensor(array) for name, array in state.items()})
    model.load_state_dict(state)
    assert_close(model(IMAGES), theirs(x).detach().numpy(), 1e-5)


class Late(cnn.Module):
    """What it adds is registered later, if at all."""

    def __init__(self):
        super().__init__()
        self.register_buffer("shift", None)

    def forward(self, x):
        return x if self.shift is None else x + self.shift


def test_a_buffer_may_come_and_go():
    model, x = Late(), np.ones((2, 3), np.float32)
    assert not model.state_dict() and (model(x) == 1).all()
    for array in (np.arange(3.0), np.arange(4.0, 7)):
        model.shift = array
        assert list(model.state_dict()) == ["shift"] and model.shift.dtype == np.float32
        np.testing.assert_array_equal(model(x), 1 + np.tile(array, (2, 1)))
    np.testing.assert_array_equal(copy.deepcopy(model)(x), model(x))
    model.shift = None
    assert not model.state_dict() and (model(x) == 1).all()
    model.register_buffer("shift", [1, 2, 3], persistent=False)
    assert not model.state_dict() and model(x)[0].tolist() == [2, 3, 4]
    model = Filters()
    del model.mask
    assert "mask" not in model.state_dict()
    with pytest.raises(AttributeError, match="mask"):
        model(IMAGES)


def test_bools_that_change_in_place_are_seen():
    class Masked(cnn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("seen", np.ones((6, 6), bool))

        def forward(self, x):
            y = F.scaled_dot_product_attention(x, x, x, self.seen)
            return x.masked_fill(self.seen, 9.0) + F.where(self.seen, x, 0.0) + y

    model, x = Masked(), IMAGES[:, 0, :6, :6]
    model(x)
    model.seen[...] = np.eye(6)
    np.testing.assert_allclose(model(x), np.where(np.eye(6), 9, x) + np.where(np.eye(6), x, 0) + x, rtol=1e-6)


@pytest.mark.parametrize("change, error, words", [
    (lambda m: m.register_buffer("a.b", [1.0]), TypeError, "name must be a string without dots, not empty, got 'a.b'"),
    (lambda m: m.register_buffer("conv", [1.0]), ValueError, "name must be that of no other attribute, got 'conv'"),
    (lambda m: m.register_buffer("forward", [1.0]), ValueError, "name must be that of no other attribute"),
    (lambda m: m.register_buffer("a", "text"), TypeError, "a must be an array of numbers, got str"),
    (lambda m: m.register_buffer("a", [1.0], persistent=2), TypeError, "persistent must be True or False, got 2"),
    (lambda m: m.register_buffer("a", [[1.0], [2.0, 3.0]]), ValueError, "a must be an array of numbers, got no array"),
    (lambda m: setattr(m, "order", np.ones(4)), TypeError, "order must hold int64, got float64"),
    (lambda m: m.load_state_dict({**m.state_dict(), "mask": np.ones((8, 8))}), TypeError, "mask must hold bools"),
])
def test_what_is_no_buffer(change, error, words):
    model = Filters()
    before = model.state_dict()
    with pytest.raises(error, match=f"Filters: {words}"):
        change(model)
    assert all(np.array_equal(before[name], array) for name, array in model.state_dict().items())


@pytest.mark.parametrize("registered", [True, False])
def test_running_statistics_of_ones_own_are_saved(registered, tmp_path):
    class Net(cnn.Module):
        def __init__(self):
            super().__init__()
            self.conv = cnn.Conv2d(1, 3, 3, seed=0)
            for name, array in (("mean", np.full(3, 0.5, np.float32)), ("var", np.full(3, 2, np.float32))):
                self.register_buffer(name, array) if registered else setattr(self, name, array)

        def forward(self, x):
            return cnn.functional.batch_norm(self.conv(x), self.mean, self.var, training=self.training)
    model, x = Net(), np.random.default_rng(0).random((20, 1, 5, 5), np.float32)
    model(x)
    cnn.save(model, tmp_path / "net.safetensors", (1, 5, 5))
    other = cnn.load_model(tmp_path / "net.safetensors")[0]
    np.testing.assert_array_equal(other.eval()(x), model.eval()(x))
    np.testing.assert_array_equal(other.train()(x), model.train()(x))
    np.testing.assert_array_equal(other.eval()(x), model.eval()(x))
