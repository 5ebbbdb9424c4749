"""LayerNorm, LayerNorm2d, InstanceNorm2d, GroupNorm, LocalResponseNorm and the variants of BatchNorm2d beyond the table
of cases: random sizes beside PyTorch, precision, modes, wrong arguments."""

import numpy as np
import pytest
from cases import Case, assert_all_close, assert_close, by_layer, by_torch

import cnn
from cnn import functional as F
from cnn import reference


def drawn(rng, kind):
    """A case of random sizes: (case, images)."""
    channels, height, width = (int(rng.integers(1, most)) for most in (40, 8, 11))
    options = {"eps": float(10 ** rng.uniform(-5, -1))}
    shape, args = (channels, height, width), (channels,)
    if kind == "LocalResponseNorm":
        options = {"alpha": float(rng.uniform(0.1, 3)), "beta": float(rng.choice([0.5, 0.75, 1, 1.3])), "k": 1.5}
        args = int(rng.integers(1, 8)),
    elif kind == "GroupNorm":
        groups = int(rng.integers(1, 6))
        shape = (groups * int(rng.integers(1, 40)), height, width)
        args, options = (groups, shape[0]), {**options, "affine": bool(rng.integers(2))}
    elif kind == "InstanceNorm2d":
        shape, options = (channels, height + 1, width), {**options, "affine": bool(rng.integers(2))}
    else:
        options |= {"elementwise_affine": bool(rng.integers(4)), "bias": bool(rng.integers(2))}
    if kind == "LayerNorm":
        args = (shape[rng.integers(3):],)
        if not rng.integers(4):
            shape, args = (channels * height,), (channels * height,)
    return Case(kind, args, shape, shape, options), int(rng.choice([1, 5, 8, 9, 16, 37]))


@pytest.mark.parametrize("kind", ["LayerNorm", "LayerNorm2d", "InstanceNorm2d", "GroupNorm", "LocalResponseNorm"])
def test_random_sizes_are_pytorchs(torch, kind):
    rng = np.random.default_rng(0)
    for seed in range(25):
        case, n = drawn(rng, kind)
        layer = case.make()
        for p in layer.parameters():
            p.data = rng.standard_normal(p.shape)
        x, dy = rng.normal(1, 2, (n, *case.shape)), rng.standard_normal((n, *case.out))
        wanted = by_torch(torch, case.torch_twin(torch, layer), x, dy)
        for got, right in zip(by_layer(layer, x, dy), wanted, strict=True):
            assert np.abs(got - right).max() <= 1e-9 * max(1, np.abs(right).max()), (str(case), n, seed)


@pytest.mark.parametrize("layer, shape, axes", [
    (cnn.LayerNorm((9, 5), 1e-12), (3, 9, 5), (2, 3)), (cnn.LayerNorm(300, 1e-12), (300,), (1,)),
    (cnn.LayerNorm2d(70, 1e-12), (70, 3, 5), (1,)), (cnn.LayerNorm((4, 9, 7), 1e-12), (4, 9, 7), (1, 2, 3))])
@pytest.mark.parametrize("n", [2, 20])
@pytest.mark.parametrize("mean, std", [(1e3, 1.0), (1e4, 1e-1), (0, 1e-4), (-3, 1e3)])
def test_a_mean_far_from_zero_loses_nothing(layer, shape, axes, n, mean, std):
    """x is rounded to float32 first; what is then done to it must not lose more."""
    x = np.random.default_rng(0).normal(mean, std, (n, *shape)).astype(np.float32)
    exact = x.astype(np.float64)
    centred = exact - exact.mean(axes, keepdims=True)
    wanted = centred / np.sqrt(np.square(centred).mean(axes, keepdims=True) + 1e-12)
    np.testing.assert_allclose(layer(x), wanted, rtol=0, atol=2e-5)


def test_planes_of_numbers(torch):
    """(N, H, W), which arithmetic makes."""
    class Rows(cnn.Module):
        def __init__(self, *args):
            super().__init__()
            self.norm = cnn.LayerNorm(*args, dtype=np.float64)

        def forward(self, x):
            return self.norm(x.mean(1))

    rng = np.random.default_rng(0)
    for size in ((4, 5), (5,)):
        for n in (3, 18):
            model, theirs = Rows(size), torch.nn.LayerNorm(size).double()
            x, dy = rng.standard_normal((n, 3, 4, 5)), rng.standard_normal((n, 4, 5))
            y, dx, *gradients = by_layer(model, x, dy)
            given = torch.tensor(x, requires_grad=True)
            wanted = theirs(given.mean(1))
            wanted.backward(torch.tensor(dy))
            assert_all_close([y, dx, *gradients], [t.detach().numpy() for t in (
                wanted, given.grad, *(p.grad for p in theirs.parameters()))])


def test_functions_take_parameters_and_values():
    """In a module's forward, as on arrays."""
    class Net(cnn.Module):
        def __init__(self):
            super().__init__()
            self.scale = cnn.Parameter(np.linspace(1, 2, 3))

        def forward(self, x):
            return (F.layer_norm2d(x, self.scale), F.layer_norm(x, (3, 2, 4)), F.instance_norm(x, weight=self.scale),
                    F.local_response_norm(x, 3, alpha=2.0))

    net, x = Net(), np.random.default_rng(0).standard_normal((5, 3, 2, 4))
    scale = net.scale.data
    for got, wanted in zip(net(x), (
            F.layer_norm2d(x, scale), F.layer_norm(x, (3, 2, 4)), F.instance_norm(x, weight=scale),
            F.local_response_norm(x, 3, alpha=2.0)), strict=True):
        assert_close(got, wanted)
    assert_close(F.layer_norm2d(x, scale), reference.layer_norm2d(x, scale))


@pytest.mark.parametrize("make, words", [
    (lambda: cnn.LayerNorm(0), "LayerNorm: normalized_shape must be"),
    (lambda: cnn.LayerNorm(()), "LayerNorm: normalized_shape must be"),
    (lambda: cnn.LayerNorm((1, 2, 3, 4)), "LayerNorm: normalized_shape must be"),
    (lambda: cnn.LayerNorm(3, 0.0), "LayerNorm: eps must be"),
    (lambda: cnn.LayerNorm((4, 5))(np.zeros((2, 3, 5, 4), np.float32)), "last axes of x must be 4x5|4×5"),
    (lambda: cnn.LayerNorm(3)(np.zeros((2, 3, 5, 4), np.float32)), "last axes of x must be 3"),
    (lambda: cnn.LayerNorm2d(3)(np.zeros((2, 4, 5, 5), np.float32)), "x must have 3 channels, got 4"),
    (lambda: cnn.LayerNorm2d(3)(np.zeros((2, 3), np.float32)), "x must have shape"),
    (lambda: cnn.InstanceNorm2d(3, track_running_stats=True), "track_running_stats must be False"),
    (lambda: cnn.InstanceNorm2d(3)(np.zeros((2, 3, 1, 1), np.float32)), "more than one pixel"),
    (lambda: cnn.LocalResponseNorm(0), "LocalResponseNorm: size must be"),
    (lambda: cnn.LocalResponseNorm(3)(np.zeros((2, 3), np.float32)), "x must have shape"),
    (lambda: F.layer_norm(np.zeros((2, 3, 4, 4)), 4, np.ones(3)), "layer_norm: weight must have shape"),
    (lambda: F.layer_norm2d(np.zeros((2, 3, 4, 4)), np.ones(4)), "layer_norm2d: weight must have shape"),
])
def test_wrong_arguments_are_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()


# ------------------------------------------------------------------------------------------ variants of batch norm

@pytest.mark.parametrize("n", [4, 20])
@pytest.mark.parametrize("affine, bias", [(False, True), (True, False), (True, True)])
def test_batch_norm_without_running_statistics(torch, n, affine, bias):
    """Both modes take the batch's statistics."""
    rng = np.random.default_rng(0)
    layer = cnn.BatchNorm2d(5, affine=affine, track_running_stats=False, bias=bias, dtype=np.float64)
    for p in layer.parameters():
        p.data = rng.standard_normal(5)
    assert set(layer.state_dict()) == {name for name, there in (("weight", affine), ("bias", affine and bias)) if there}
    assert layer.running_mean is None and layer.num_batches_tracked is None
    x, dy = rng.normal(1, 2, (2, n, 5, 3, 4))
    got = by_layer(layer, x, dy)
    given = torch.tensor(x, requires_grad=True)
    w, b = (None if p is None else torch.tensor(p.data, requires_grad=True) for p in (layer.weight, layer.bias))
    wanted = torch.nn.functional.batch_norm(given, None, None, w, b, training=True)
    wanted.backward(torch.tensor(dy))
    assert_all_close(got, [t.detach().numpy() for t in (wanted, given.grad, *(
        p.grad for p in (w, b) if p is not None))])
    assert_close(layer.eval()(x), wanted.detach().numpy())
    twin = cnn.export.to_torch(layer, (5, 3, 4)).eval()
    assert_close(twin(torch.tensor(x)).detach().numpy(), wanted.detach().numpy())
    again = cnn.layers.graph_module(layer, (5, 3, 4))
    assert_close(again(x), wanted.detach().numpy())
    with pytest.raises(ValueError, match="more than one value per channel .* a single image of"):
        layer(np.zeros((1, 5, 1, 1)))


def test_batch_norm_without_running_statistics_in_other_formats(tmp_path):
    layer, x = cnn.BatchNorm2d(3, track_running_stats=False).eval(), np.random.default_rng(0).normal(
        1, 2, (6, 3, 4, 5)).astype(np.float32)
    for written in (lambda: cnn.export.c(layer, tmp_path / "x.c", (3, 4, 5)), lambda: cnn.export.page(
            cnn.Sequential(layer, cnn.GlobalAvgPool2d()), tmp_path / "x.html", (3, 4, 5))):
        with pytest.raises(ValueError, match="batch_norm: it must have running statistics"):
            written()
    runtime = pytest.importorskip("onnxruntime")
    for opset in (17, 20):
        cnn.export.onnx(layer, tmp_path / "x.onnx", (3, 4, 5), opset=opset)
        session = runtime.InferenceSession(str(tmp_path / "x.onnx"), providers=["CPUExecutionProvider"])
        assert_close(session.run(None, {"x": x})[0], layer(x))


@pytest.mark.parametrize("momentum", [0.3, None])
def test_the_running_variance_may_be_the_biased_one(torch, momentum):
    layer, wanted = cnn.BatchNorm2d(3, momentum=momentum, unbiased=False, dtype=np.float64), np.ones(3)
    twin = cnn.export.to_torch(layer, (3, 4, 5))
    for i in range(3):
        x = np.random.default_rng(i).normal(i, 2, (2, 3, 4, 5))
        layer(x), twin(torch.tensor(x))
        share = momentum or 1 / (i + 1)
        wanted = (1 - share) * wanted + share * x.var(axis=(0, 2, 3))
        np.testing.assert_allclose(layer.running_var, wanted, rtol=1e-12)
        np.testing.assert_allclose(dict(twin.named_buffers())["running_var"].numpy(), wanted, rtol=1e-12)


def test_a_frozen_norm_keeps_its_statistics():
    layer, x = cnn.BatchNorm2d(2, bias=False).freeze(), np.random.default_rng(0).normal(3, 1, (4, 2, 3, 3)).astype("f4")
    y = cnn.Sequential(layer).train()(x)
    np.testing.assert_allclose(y, x, rtol=1e-4)
    assert not layer.running_mean.any() and layer.num_batches_tracked == 0
