"""BatchNorm2d beyond the table of cases: running statistics, modes, state, precision, and inside a model."""

import numpy as np
import pytest
from cases import assert_all_close, assert_close, assert_gradient, assert_same_bits, by_layer, by_torch

import cnn
from cnn import functional, reference
from cnn.data import Dataset
from cnn.layers import BatchNorm2d, Conv2d, Dropout, Flatten, Linear, MaxPool2d, ReLU, Sequential

RUNNING = ("running_mean", "running_var", "num_batches_tracked")


def normal(*shape, seed=0, mean=0.0, std=1.0):
    return np.random.default_rng(seed).normal(mean, std, shape)


def twin(torch, layers):
    """PyTorch's modules for these layers, in float64, with the same state."""
    made = []
    for layer in layers:
        if isinstance(layer, Conv2d):
            sizes = layer.in_channels, layer.out_channels, layer.kernel_size
            module = torch.nn.Conv2d(*sizes, padding=layer.padding, bias=False)
        elif isinstance(layer, BatchNorm2d):
            module = torch.nn.BatchNorm2d(layer.num_features, layer.eps, layer.momentum)
        elif isinstance(layer, Linear):
            module = torch.nn.Linear(layer.in_features, layer.out_features)
        elif isinstance(layer, MaxPool2d):
            module = torch.nn.MaxPool2d(layer.kernel_size)
        else:
            module = getattr(torch.nn, type(layer).__name__)()
        made.append(module)
    module = torch.nn.Sequential(*made).double()
    module.load_state_dict(
        {name: torch.tensor(value) for name, value in Sequential(*layers).state_dict().items()}
    )
    return module


# ------------------------------------------------------------------------------------------ running statistics


@pytest.mark.parametrize("momentum", [0.1, 0.0, 1.0, None])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_running_statistics_are_pytorchs(torch, momentum, dtype):
    layer = BatchNorm2d(3, momentum=momentum).to(dtype)
    theirs = torch.nn.BatchNorm2d(3, momentum=momentum).to(torch.float64)
    for n, seed in ((5, 0), (40, 1), (2, 2)):
        x = normal(n, 3, 4, 5, seed=seed, mean=2, std=3)
        layer(x.astype(dtype))
        theirs(torch.tensor(x))
    for name in RUNNING:
        got = getattr(layer, name)
        assert got.dtype == (np.int64 if name == "num_batches_tracked" else dtype)
        assert_all_close([got.astype(np.float64)], [getattr(theirs, name).numpy()], 1e-6)
    x = normal(6, 3, 4, 5, seed=3)
    layer.eval(), theirs.eval()
    before = layer.state_dict()
    assert_close(layer(x.astype(dtype)), theirs(torch.tensor(x)).detach().numpy())
    assert_same_bits(layer.state_dict().values(), before.values())  # evaluation leaves them alone


@pytest.mark.parametrize("shape", [(64, 4, 8, 8), (3, 5, 7, 9), (40, 3, 1, 1), (17, 2, 33, 30)])
def test_a_mean_near_zero_is_exact_to_its_last_place(shape):
    """Where numbers cancel, their sum is as exact as any."""
    x = normal(*shape).astype(np.float32)
    x -= x.mean(axis=(0, 2, 3), keepdims=True)  # leaves 1e-8 of what the numbers are
    layer = BatchNorm2d(shape[1], momentum=1.0)
    layer(x)
    exact = x.astype(np.float64).mean(axis=(0, 2, 3))
    np.testing.assert_allclose(layer.running_mean, exact, rtol=1.2e-7)


@pytest.mark.parametrize("shape", [(5, 3, 4, 5), (40, 3, 4, 5)])
@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_the_running_mean_of_an_infinite_pixel_is_infinite(shape, value):
    x = normal(*shape).astype(np.float32)
    x[-1, 1, 2, 3] = value
    layer, wanted = BatchNorm2d(3), [np.zeros(3), np.ones(3)]
    layer(x)
    with np.errstate(invalid="ignore"):
        reference.batch_norm(x.astype(np.float64), *wanted, training=True)
    assert np.array_equal(layer.running_mean[1], wanted[0][1], equal_nan=True)
    assert np.isnan(layer.running_var[1])
    np.testing.assert_allclose(layer.running_mean[[0, 2]], wanted[0][[0, 2]], rtol=1e-6)
    np.testing.assert_allclose(layer.running_var[[0, 2]], wanted[1][[0, 2]], rtol=1e-6)


def test_every_forward_in_training_counts_once():
    layer, x = BatchNorm2d(2, momentum=0.5), normal(4, 2, 3, 3, mean=8).astype(np.float32)
    layer(x)
    layer.backward(x)
    layer.backward(x, need_dx=False)
    assert layer.num_batches_tracked == 1
    np.testing.assert_allclose(layer.running_mean, x.mean(axis=(0, 2, 3)) / 2, rtol=1e-5)
    layer(np.zeros((0, 2, 3, 3), np.float32))  # an empty batch has no statistics
    np.testing.assert_allclose(layer.running_mean, x.mean(axis=(0, 2, 3)) / 2, rtol=1e-5)


def test_a_single_value_per_channel():
    layer = BatchNorm2d(2)
    with pytest.raises(ValueError, match="BatchNorm2d: x must hold more than one .* a single image of 2 channels"):
        layer(np.zeros((1, 2, 1, 1), np.float32))
    assert layer.num_batches_tracked == 0 and not layer.running_mean.any()
    layer(np.zeros((2, 2, 1, 1), np.float32))
    assert layer.eval()(np.ones((1, 2, 1, 1), np.float32)).shape == (1, 2, 1, 1)
    with pytest.raises(ValueError, match="batch_norm: x must hold more than one value"):
        functional.batch_norm(np.zeros((1, 2, 1, 1)), training=True)


@pytest.mark.parametrize("mean, std", [(1e3, 1.0), (1e4, 1e-1), (0, 1e-4), (-3, 1e3)])
def test_a_mean_far_from_zero_loses_nothing(mean, std):
    """x is rounded to float32 first; what is then done to it must not lose more."""
    x = normal(40, 2, 9, 7, mean=mean, std=std).astype(np.float32)
    layer = BatchNorm2d(2, momentum=1.0, eps=1e-12)
    wanted = reference.batch_norm(x.astype(np.float64), training=True, eps=1e-12)
    error = np.abs(layer(x) - wanted).max()
    # the mean itself is rounded to float32
    assert error < 1e-5 + abs(mean) / std * 2**-23
    np.testing.assert_allclose(layer.running_var, x.var(axis=(0, 2, 3), dtype=np.float64, ddof=1), rtol=1e-5)


# ------------------------------------------------------------------------------------------ inside a model


def layers(seed=0):
    return [
        *(Conv2d(2, 5, 3, padding=1, bias=False, seed=seed), BatchNorm2d(5), ReLU()),
        *(Conv2d(5, 4, 3, bias=False, seed=seed + 1), BatchNorm2d(4), ReLU(), MaxPool2d(2)),
        *(BatchNorm2d(4), Flatten(), Linear(36, 10, seed=seed)),
    ]


def nudged(model):
    """The model with scales and shifts away from 1 and 0, of both signs."""
    for i, p in enumerate(model.parameters()):
        if p.data.ndim == 1:
            p.data = normal(*p.shape, seed=i)
    return model


@pytest.mark.parametrize("n", [2, 16, 37, 275])
def test_a_model_is_pytorchs(torch, n):
    """Fused with ReLU and pooling, in both directions; then in evaluation mode."""
    model = nudged(Sequential(*layers()).to(np.float64))
    theirs = twin(torch, model.layers)
    x, dy = normal(n, 2, 8, 8), normal(n, 10, seed=1)
    assert_all_close(by_layer(model, x, dy), by_torch(torch, theirs, x, dy))
    for name, value in theirs.state_dict().items():
        np.testing.assert_allclose(model.state_dict()[name], value.numpy(), rtol=1e-10, atol=1e-12)
    assert_close(model.eval()(x), theirs.eval()(torch.tensor(x)).detach().numpy())


def test_frozen_statistics_in_a_model_that_trains(torch):
    """Evaluation mode of the normalisation alone: mean and variance are constants to the gradient."""
    model = nudged(Sequential(*layers()).to(np.float64))
    model(normal(20, 2, 8, 8, std=2))
    theirs = twin(torch, model.layers)
    for i in (1, 4, 7):
        model[i].eval(), theirs[i].eval()
    x, dy = normal(19, 2, 8, 8), normal(19, 10, seed=1)
    assert_all_close(by_layer(model, x, dy), by_torch(torch, theirs, x, dy))


def test_gradients_of_a_model_by_central_differences():
    model = nudged(Sequential(*layers()).to(np.float64))
    x, dy = normal(3, 2, 8, 8), normal(3, 10, seed=1)
    _, dx, *gradients = by_layer(model, x, dy)
    for gradient, p in zip(gradients, model.parameters(), strict=True):
        if p.numel() <= 10:
            assert_gradient(gradient, lambda: (model(x) * dy).sum(), p.data)


def test_lanes_without_an_image_do_not_count():
    """17 images are the sixteen of a block and one of the next: weight gradients see the same images twice."""
    model = nudged(Sequential(*layers()).to(np.float64))
    x, dy = normal(8, 2, 8, 8), normal(8, 10, seed=1)
    wanted = by_layer(model, x, dy)
    got = by_layer(model, np.tile(x, (3, 1, 1, 1)), np.tile(dy, (3, 1)))
    assert_all_close([got[0][:8], got[1][:8], *(g / 3 for g in got[2:])], wanted)


def trained(threads, set_threads, fused=True, n=150, batch_size=37):
    set_threads(threads)
    rng = np.random.default_rng(0)
    data = Dataset(rng.integers(0, 256, (n, 2, 8, 8), np.uint8), np.arange(n) % 10, list("abcdefghij"))
    model = Sequential(*layers(), *([] if fused else [Identity()]))
    trainer = cnn.Trainer(model, cnn.SGD(model.parameters(), lr=0.05, momentum=0.9), progress=False)
    history = trainer.fit(data, 2, validation=data, batch_size=batch_size)
    return [*model.state_dict().values(), np.array(history.column("train_loss")), trainer.predict(data)]


class Identity(cnn.Layer):
    """Written in NumPy, so that the step is not one program."""

    def forward(self, x):
        return x

    def backward(self, dy, need_dx=True):
        return dy


@pytest.mark.parametrize("n, batch_size", [(150, 37), (600, 290)])
def test_training_gives_the_same_bits_with_any_number_of_threads(set_threads, n, batch_size):
    wanted = trained(1, set_threads, n=n, batch_size=batch_size)
    for threads in (2, 3, 4):
        assert_same_bits(trained(threads, set_threads, n=n, batch_size=batch_size), wanted)


def test_a_fused_step_is_what_its_parts_are(set_threads):
    fused, parts = trained(2, set_threads), trained(2, set_threads, fused=False)
    assert fused[5] == parts[5] == 10  # num_batches_tracked: 5 steps in each of 2 epochs
    assert_all_close([a.astype(np.float64) for a in fused], [a.astype(np.float64) for a in parts], 1e-4)


def test_dropout_behind_a_cut():
    """What a layer makes before a cut and reads after it survives, in a step of several blocks."""
    model = Sequential(BatchNorm2d(1), Dropout(0.5, seed=3), BatchNorm2d(1), Flatten()).to(np.float64)
    x, dy = normal(70, 1, 3, 3), normal(70, 9, seed=1)
    wanted = by_layer(model, x, dy)
    model[1].step = 0
    assert_same_bits(by_layer(model, x, dy), wanted)


# ------------------------------------------------------------------------------------------ state


def test_keys_are_pytorchs(torch):
    ours = Sequential(Conv2d(1, 2, 3), BatchNorm2d(2), Sequential(BatchNorm2d(2, affine=False)))
    nn = torch.nn
    theirs = nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Sequential(nn.BatchNorm2d(2, affine=False))
    )
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert [name for name, _ in ours.named_parameters()] == [name for name, _ in theirs.named_parameters()]
    assert [name for name, _ in ours.named_buffers()] == [name for name, _ in theirs.named_buffers()]
    theirs(torch.randn(4, 1, 5, 5))
    ours.load_state_dict(theirs.state_dict())
    assert ours[1].num_batches_tracked == 1
    for name, value in theirs.state_dict().items():
        assert np.array_equal(ours.state_dict()[name], value.numpy())


def test_state_is_refused_before_anything_is_changed():
    layer = BatchNorm2d(2)
    good = layer.state_dict()
    for name, value, error in (
        ("running_var", np.ones(3), ValueError),
        ("running_mean", np.ones(2, complex), TypeError),
        ("num_batches_tracked", np.float32(1.5), TypeError),
    ):
        with pytest.raises(error, match=f"BatchNorm2d: {name}"):
            layer.load_state_dict({**good, "weight": np.full(2, 7), name: value})
        assert_same_bits(layer.state_dict().values(), good.values())
    with pytest.raises(ValueError, match="missing names.*running_mean"):
        layer.load_state_dict({name: value for name, value in good.items() if name != "running_mean"})


def test_a_file_holds_the_running_statistics(tmp_path):
    arguments = {"channels": [3, 4], "image_size": 8, "in_channels": 2}
    model = cnn.models.vgg_small(**arguments)
    model(normal(20, 2, 8, 8, mean=2).astype(np.float32))
    path = tmp_path / "model.safetensors"
    cnn.save_model(path, model, {"model": "vgg_small", "arguments": arguments})
    loaded, _ = cnn.load_model(path)
    assert_same_bits(loaded.state_dict().values(), model.state_dict().values())
    x = normal(5, 2, 8, 8, seed=1).astype(np.float32)
    assert_same_bits([loaded(x)], [model.eval()(x)])


def test_another_number_type():
    layer = BatchNorm2d(2, affine=False)
    model = Sequential(layer)
    assert model.dtype == np.float32
    layer(normal(4, 2, 3, 3).astype(np.float32))
    model.to(np.float64)
    assert model.dtype == layer.running_mean.dtype == layer.running_var.dtype == np.float64
    assert layer.num_batches_tracked.dtype == np.int64 and layer.running_mean.any()
    layer(normal(4, 2, 3, 3))
    assert layer.num_batches_tracked == 2
    with pytest.raises(TypeError, match="running_mean: dtype"):
        layer.to(np.int8)


def test_a_trainer_follows_running_statistics_that_moved():
    """`to` makes new arrays: programs that know the old ones must not be run again."""
    model = Sequential(BatchNorm2d(1, affine=False), Flatten(), Linear(9, 2)).to(np.float64)
    for p in model.parameters():
        p.requires_grad = False
    model[2].weight.requires_grad = True
    trainer = cnn.Trainer(model, cnn.SGD([model[2].weight], lr=0.1), progress=False)
    x, labels = normal(20, 1, 3, 3, mean=5), np.arange(20) % 2
    trainer.train_step(x, labels)
    model[0].to(np.float32), model[0].to(np.float64)
    model[0].running_mean[:] = 0
    trainer.train_step(x, labels)
    np.testing.assert_allclose(model[0].running_mean, x.mean() / 10, rtol=1e-6)


# ------------------------------------------------------------------------------------------ the function


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("training", [True, False])
def test_function_with_running_statistics(dtype, training):
    x, w, b = normal(19, 3, 4, 5, mean=2).astype(dtype), *normal(2, 3, seed=1).astype(dtype)
    ours = [normal(3, seed=2).astype(dtype), np.abs(normal(3, seed=3)).astype(dtype)]
    theirs = [a.astype(np.float64) for a in ours]
    ours[0] = np.repeat(ours[0], 2)[::2]  # not contiguous, and still changed in place
    y = functional.batch_norm(x, *ours, w, b, training, momentum=0.3, eps=1e-3)
    wanted = reference.batch_norm(x.astype(np.float64), *theirs, w, b, training, momentum=0.3, eps=1e-3)
    assert_all_close([y, *ours], [wanted, *theirs])


def test_function_without_the_statistics_it_needs():
    x = np.zeros((2, 3, 4, 4))
    for running in ((None, None), (np.zeros(3), None), (None, np.ones(3))):
        with pytest.raises(ValueError, match="batch_norm: running_mean and running_var must both be given"):
            functional.batch_norm(x, *running)


@pytest.mark.parametrize("n", [1, 16])
def test_sums_of_many_pixels_are_as_precise_as_of_few(n):
    """In float32, a sum of 90,000 pixels one by one loses 3e-6 to 3e-5 of itself."""
    rng = np.random.default_rng(0)
    x, dy = rng.standard_normal((n, 2, 300, 300)), rng.standard_normal((n, 2, 300, 300)) + 0.5
    got = []
    for dtype in (np.float32, np.float64):
        layer = cnn.BatchNorm2d(2).to(dtype)
        y = layer(x.astype(dtype))
        got.append((y, layer.backward(dy.astype(dtype)), layer.weight.grad, layer.bias.grad))
    for rough, exact, most in zip(*got, (4e-7, 4e-7, 2e-5, 4e-7), strict=True):
        assert np.abs(rough - exact).max() <= most * np.abs(exact).max()


class ByTheBatch(cnn.Module):
    """Batch norm without running statistics, in both modes."""

    def forward(self, x):
        return functional.batch_norm(x, training=True)


def test_without_running_statistics_both_modes_take_the_batch_in_a_file_too(tmp_path):
    model, x = ByTheBatch().eval(), np.random.default_rng(0).standard_normal((5, 3, 4, 4)).astype(np.float32)
    y = model(x)
    assert np.abs(y.mean((0, 2, 3))).max() < 1e-6
    cnn.save(model, tmp_path / "net", (3, 4, 4))
    loaded = cnn.load_model(tmp_path / "net")[0]
    assert not loaded.state_dict()
    for mode in (True, False):
        np.testing.assert_array_equal(loaded.train(mode)(x), y)


class AlwaysByTheBatch(cnn.Module):
    """Batch norm that takes the batch's statistics, and changes the running ones, in both modes."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", np.zeros(3, np.float32))
        self.register_buffer("var", np.ones(3, np.float32))

    def forward(self, x):
        return functional.batch_norm(x, self.mean, self.var, training=True)


@pytest.mark.parametrize("mode", [True, False])
def test_running_statistics_that_change_in_evaluation_mode_are_not_saved(tmp_path, mode):
    model = AlwaysByTheBatch().train(mode)
    with pytest.raises(ValueError, match="batch_norm .* has training=True in evaluation mode, too"):
        cnn.save(model, tmp_path / "net", (3, 4, 4))
    assert not (tmp_path / "net").exists() and model.training == mode
