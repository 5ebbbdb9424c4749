"""Parameters that are computed from others: weights and gradients of several steps by PyTorch's own parametrizations,
whose names of the state are ours."""
import copy
import pickle

import numpy as np
import pytest
from cases import assert_close

import cnn
from cnn.engine import backend
from cnn.layers.graph_module import graph_module
from cnn.utils import (
    is_parametrized,
    register_parametrization,
    remove_parametrizations,
    spectral_norm,
    weight_norm,
)

# by name: the layer and what is done to it, with the names of a library, and the shape of an image
CASES = {
    "weight norm": (lambda nn: nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 4, 3)), (3, 6, 6)),
    "weight norm, other axis": (lambda nn: nn.utils.parametrizations.weight_norm(nn.Conv1d(3, 4, 3), dim=1), (3, 6)),
    "weight norm, of all": (lambda nn: nn.utils.parametrizations.weight_norm(nn.Linear(5, 4), "weight", None), (5,)),
    "weight norm, -1, which is all": (
        lambda nn: nn.utils.parametrizations.weight_norm(nn.Linear(5, 4), "weight", -1), (5,)),
    "weight norm, of a vector": (lambda nn: nn.utils.parametrizations.weight_norm(nn.PReLU(3, 0.2)), (3, 4)),
    "weight norm, transposed": (
        lambda nn: nn.utils.parametrizations.weight_norm(nn.ConvTranspose2d(3, 4, 2, 2), dim=1), (3, 4, 4)),
    "spectral norm": (lambda nn: nn.utils.parametrizations.spectral_norm(nn.Conv2d(3, 4, 3)), (3, 6, 6)),
    "spectral norm, three times": (
        lambda nn: nn.utils.parametrizations.spectral_norm(nn.Linear(5, 4), n_power_iterations=3), (5,)),
    "spectral norm, transposed": (
        lambda nn: nn.utils.parametrizations.spectral_norm(nn.ConvTranspose2d(3, 4, 3)), (3, 4, 4)),
    "spectral norm, other axis": (
        lambda nn: nn.utils.parametrizations.spectral_norm(nn.Conv2d(3, 4, 3), dim=1), (3, 6, 6)),
}


def state_of(torch, layer):
    return {name: torch.tensor(array) for name, array in layer.state_dict().items()}


@pytest.mark.parametrize("images", [1, 20])
@pytest.mark.parametrize("name", CASES)
def test_steps_are_those_of_pytorch(name, images, torch):
    make, image = CASES[name]
    ours, theirs = make(cnn).to(np.float64), make(torch.nn).double()
    theirs.load_state_dict(state_of(torch, ours))
    x, rng = np.random.default_rng(0).standard_normal((images, *image)), np.random.default_rng(1)
    t = torch.tensor(x, requires_grad=True)
    for _ in range(3):
        theirs.zero_grad()
        t.grad = None
        y, z = ours(x), theirs(t)
        dy = rng.standard_normal(y.shape)
        z.backward(torch.tensor(dy))
        assert_close(y, z.detach().numpy(), 1e-12)
        assert_close(ours.backward(dy), t.grad.numpy(), 1e-12)
        for what, p in ours.named_parameters():
            assert_close(p.grad, theirs.get_parameter(what).grad.numpy(), 1e-11)
        assert list(ours.state_dict()) == list(theirs.state_dict())
        for what, tensor in theirs.state_dict().items():
            assert_close(ours.state_dict()[what], tensor.numpy(), 1e-12)
        for p in ours.parameters():
            p.data = p.data - 0.01 * p.grad
        theirs.load_state_dict(state_of(torch, ours))
    ours.eval(), theirs.eval()
    assert_close(ours(x), theirs(t).detach().numpy(), 1e-12)
    assert_close(ours.weight.data, theirs.weight.detach().numpy(), 1e-12)


def test_the_numbers_do_not_change_at_first():
    for make in (weight_norm, lambda layer: register_parametrization(layer, "weight", cnn.Identity())):
        layer = cnn.Conv2d(3, 4, 3, seed=5)
        before = layer.weight.data.copy()
        assert_close(make(layer).weight.data, before, 1e-6)


def test_the_largest_singular_value_is_one():
    layer = spectral_norm(cnn.Linear(6, 5, seed=0))
    x = np.ones((2, 6), np.float32)
    for _ in range(60):
        layer(x)
    assert np.linalg.svd(layer.eval().weight.data)[1][0] == pytest.approx(1, abs=1e-4)


class Symmetric(cnn.Module):
    def forward(self, w):
        return (w + w.T) / 2


class Doubled(cnn.Module):
    def __init__(self):
        super().__init__()
        self.factor = cnn.Parameter(np.full(1, 2.0, np.float32))

    def forward(self, w):
        return w * self.factor


def test_modules_of_ones_own():
    layer = register_parametrization(cnn.Linear(3, 3, seed=0), "weight", Symmetric())
    w = layer.parametrizations["weight"].original.data
    assert_close(layer.weight.data, (w + w.T) / 2, 1e-6)
    register_parametrization(layer, "weight", Doubled())
    assert_close(layer.weight.data, w + w.T, 1e-6)
    assert [name for name, _ in layer.named_parameters()] == [
        "bias", "parametrizations.weight.original", "parametrizations.weight.1.factor"]
    x = np.random.default_rng(0).random((20, 3), np.float32)
    layer(x)
    layer.backward(np.ones((20, 3), np.float32))
    want = np.repeat(x.sum(0)[None], 3, 0)
    assert_close(layer.parametrizations["weight"].original.grad, want + want.T, 1e-5)
    assert is_parametrized(layer) and is_parametrized(layer, "weight") and not is_parametrized(layer, "bias")
    register_parametrization(layer, "bias", Doubled())
    before = layer(x)
    for name in ("weight", "bias"):
        remove_parametrizations(layer, name)
    assert not is_parametrized(layer) and list(layer.state_dict()) == ["weight", "bias"]
    assert_close(layer(x), before, 1e-5)


def net():
    return cnn.Sequential(
        spectral_norm(cnn.Conv2d(1, 8, 3, padding=1, seed=0)), cnn.LeakyReLU(0.1),
        spectral_norm(cnn.Conv2d(8, 8, 3, stride=2, seed=1)), cnn.ReLU(), cnn.Flatten(),
        weight_norm(cnn.Linear(8 * 9, 5, seed=2)))  # fmt: skip


def data():
    rng = np.random.default_rng(1)
    return cnn.data.Dataset(rng.integers(0, 256, (100, 1, 8, 8), np.uint8), rng.integers(0, 5, 100))


def trained(threads=1, **options):
    before = cnn.get_num_threads()
    cnn.set_num_threads(threads)
    try:
        model = net()
        trainer = cnn.Trainer(model, cnn.SGD(model.parameters(), lr=0.05, momentum=0.9), progress=False, **options)
        trainer.fit(cnn.data.DataLoader(data(), 16), 3)
    finally:
        cnn.set_num_threads(before)
    return model


def assert_same_state(model, other, tolerance=0.0):
    for name, array in model.state_dict().items():
        np.testing.assert_allclose(other.state_dict()[name], array, rtol=0, atol=tolerance, err_msg=name)


def test_any_number_of_threads_has_the_same_bits():
    model = trained()
    assert_same_state(model, trained(2))
    assert_same_state(model, trained(3))


def test_training_is_step_by_step():
    """Each of the steps that one call of the kernels takes goes on from the vectors of the one before."""
    model, loss = net(), cnn.CrossEntropyLoss()
    optimizer = cnn.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for _ in range(3):
        for images, labels in cnn.data.DataLoader(data(), 16):
            loss(model(images), labels)
            model.backward(loss.backward())
            optimizer.step()
    assert_same_state(model, trained(), 1e-6)


def test_every_way_to_run_it(tmp_path, torch):
    x, dy = np.random.default_rng(0).random((20, 1, 8, 8), np.float32), np.ones((20, 5), np.float32)
    model, debugged, twins = net(), net(), net()
    cnn.save(model, tmp_path / "net.safetensors", (1, 8, 8))
    there = cnn.export.to_torch(model, (1, 8, 8))
    others = [graph_module(model, (1, 8, 8)), cnn.load_model(tmp_path / "net.safetensors")[0].train(),
              copy.deepcopy(model), pickle.loads(pickle.dumps(model))]
    for _ in range(3):
        y = model(x)
        model.backward(dy)
        for other in others:
            np.testing.assert_array_equal(other(x), y)
            other.backward(dy)
            for name, p in model.named_parameters():
                np.testing.assert_array_equal(dict(other.named_parameters())[name].grad, p.grad)
            assert_same_state(model, other)
        assert_close(there(torch.tensor(x)).detach().numpy(), y, 1e-5)
        with cnn.debug():
            assert_close(debugged(x), y, 1e-5)
        assert_close(backend.using("reference", twins, x), y, 1e-5)
    for other in (debugged, twins):
        assert_same_state(model, other, 1e-6)
    for name, tensor in there.named_buffers():
        if name in model.state_dict():
            assert_close(model.state_dict()[name], tensor.numpy(), 1e-5)
    y = model.eval()(x)
    before = {name: array.copy() for name, array in model.state_dict().items()}
    for other in others:
        assert_close(other.eval()(x), y, 1e-6)
    assert_close(there.eval()(torch.tensor(x)).detach().numpy(), y, 1e-5)
    assert_close(cnn.compile(model, (1, 8, 8))(x), y, 1e-6)
    assert all(np.array_equal(before[name], array) for name, array in model.state_dict().items())


def test_what_leaves_the_package(tmp_path):
    onnx = pytest.importorskip("onnx")
    runtime = pytest.importorskip("onnxruntime")
    model, path = trained().eval(), str(tmp_path / "net.onnx")
    x = np.random.default_rng(0).random((20, 1, 8, 8), np.float32)
    cnn.export.onnx(model, path, (1, 8, 8))
    onnx.checker.check_model(path, full_check=True)
    assert_close(runtime.InferenceSession(path).run(None, {"x": x})[0], model(x), 1e-5)


def test_a_resumed_run_goes_on_to_the_same_bits():
    def trainer():
        model = net()
        return cnn.Trainer(model, cnn.SGD(model.parameters(), lr=0.05), progress=False)
    whole, half = trainer(), trainer()
    whole.fit(cnn.data.DataLoader(data(), 16, shuffle=True), 2)
    half.fit(cnn.data.DataLoader(data(), 16, shuffle=True), 1)
    rest = trainer()
    rest.load_state_dict(copy.deepcopy(half.state_dict()))
    rest.fit(cnn.data.DataLoader(data(), 16, shuffle=True), 2)
    assert_same_state(whole.model, rest.model)


class Columns(cnn.Module):
    def forward(self, w):
        return w[:1]


@pytest.mark.parametrize("call, error, words", [
    (lambda: weight_norm(cnn.ReLU()), ValueError, "weight_norm: the name must be that of a Parameter of the ReLU"),
    (lambda: weight_norm(cnn.Linear(3, 2), "weights"), ValueError, "Parameter of the Linear, got 'weights'"),
    (lambda: weight_norm(3), TypeError, "weight_norm: module must be a Module, got int"),
    (lambda: weight_norm(cnn.Linear(3, 2), dim=2), ValueError, "weight_norm: dim must be an integer from -2 to 1"),
    (lambda: weight_norm(weight_norm(cnn.Linear(3, 2))), ValueError, "weight_norm: weight must not be computed"),
    (lambda: spectral_norm(cnn.Linear(3, 2), "bias"), ValueError, "bias must have two axes or more"),
    (lambda: spectral_norm(cnn.Linear(3, 2), n_power_iterations=0), ValueError, "n_power_iterations"),
    (lambda: register_parametrization(cnn.Linear(3, 2), "weight", abs), TypeError, "parametrization must be a Module"),
    (lambda: register_parametrization(cnn.Linear(3, 2), "weight", Columns()), ValueError, r"shape \(2, 3\), got \(1,"),
    (lambda: remove_parametrizations(cnn.Linear(3, 2), "weight"), ValueError, "must be that of a Parameter that is"),
    (lambda: remove_parametrizations(weight_norm(cnn.Linear(3, 2)), "weight", False), ValueError, "from several"),
    (lambda: setattr(weight_norm(cnn.Linear(3, 2)).weight, "data", 1), TypeError, "computed from others cannot"),
])
def test_what_cannot_be_computed(call, error, words):
    with pytest.raises(error, match=words):
        call()


class Smaller(cnn.Module):
    def forward(self, w):
        return w.sum(0)


class Broken(cnn.Module):
    def forward(self, w):
        raise KeyError("broken")


class Numeric(cnn.Module):
    def forward(self, w):
        return np.exp(w)

    def backward(self, dy, need_dx=True):
        return dy


class Reading(cnn.Module):
    def __init__(self, layer):
        super().__init__()
        self.held = [lambda: layer]

    def forward(self, w):
        return self.held[0]().weight


@pytest.mark.parametrize("make, error, words", [
    (lambda layer: Smaller(), ValueError, r"must have shape \(4, 3\), got \(3,\)"),
    (lambda layer: Broken(), KeyError, "broken"),
    (lambda layer: Numeric(), TypeError, "without a backward of its own"),
    (lambda layer: layer, TypeError, "must be another module"),
    (lambda layer: cnn.Dropout(0.5), TypeError, "Dropout is a layer for values"),
    (Reading, ValueError, "must not read it from the layer")])
@pytest.mark.parametrize("first", [None, Doubled])
def test_what_is_refused_changes_nothing(first, make, error, words):
    layer = cnn.Linear(3, 4, seed=0)
    if first is not None:
        register_parametrization(layer, "weight", first())
    before, x = layer.state_dict(), np.ones((2, 3), np.float32)
    y = layer(x)
    with pytest.raises(error, match=words):
        register_parametrization(layer, "weight", make(layer))
    assert list(layer.state_dict()) == list(before)
    np.testing.assert_array_equal(layer(x), y)


def test_an_optimizer_made_before_goes_on():
    layer = cnn.Linear(3, 4, seed=0)
    optimizer = cnn.SGD(layer.parameters(), lr=0.1)
    weight = layer.weight
    register_parametrization(layer, "weight", Doubled())
    assert layer.parametrizations.weight.original is weight
    before = layer.weight.data.copy()
    layer(np.ones((2, 3), np.float32))
    layer.backward(np.ones((2, 4), np.float32))
    optimizer.step()
    assert_close(layer.weight.data, before - 0.1 * 2 * 2 * 2, 1e-6)
    assert remove_parametrizations(layer, "weight").weight is weight


def test_what_is_computed_is_not_replaced():
    layer = weight_norm(cnn.Linear(3, 4))
    with pytest.raises(ValueError, match="weight is computed: set the Parameters of parametrizations.weight, or call"):
        layer.weight = cnn.Parameter(np.zeros((4, 3), np.float32))


def test_a_head_that_is_computed_is_not_found():
    with pytest.raises(ValueError, match="whose weights cnn.utils.remove_parametrizations makes its own again"):
        cnn.replace_head(net(), 3)
