"""The ready-made networks."""

import numpy as np
import pytest
from cases import assert_all_close, assert_same_bits, by_layer, by_torch

from cnn import models

# name, channels, side of the images, parameters by hand: weights and biases layer by layer
SIZES = [
    ("lenet5", 1, 28, 6 * 26 + 16 * 151 + 120 * 401 + 84 * 121 + 10 * 85),
    ("lenet5", 1, 32, 6 * 26 + 16 * 151 + 120 * 401 + 84 * 121 + 10 * 85),
    ("lenet5", 3, 16, 6 * 76 + 16 * 151 + 120 * 17 + 84 * 121 + 10 * 85),
    ("cifar_quick", 3, 32, 32 * 76 + 32 * 801 + 64 * 801 + 64 * 1025 + 10 * 65),
    ("cifar_quick", 1, 8, 32 * 26 + 32 * 801 + 64 * 801 + 64 * 65 + 10 * 65),
    ("cifar_quick", 3, 13, 32 * 76 + 32 * 801 + 64 * 801 + 64 * 65 + 10 * 65),
]


@pytest.mark.parametrize("name, channels, side, count", SIZES)
def test_sizes(name, channels, side, count):
    model = models.MODELS[name](channels, image_size=side)
    assert sum(p.size for p in model.parameters()) == count
    y = model(np.zeros((3, channels, side, side), np.float32))
    assert y.shape == (3, 10) and y.dtype == np.float32
    assert models.MODELS[name](channels, 7, side)(np.zeros((1, channels, side, side), np.float32)).shape == (
        1,
        7,
    )


def test_published_numbers_of_parameters():
    assert (
        sum(p.size for p in models.lenet5().parameters()) == 61_706
    )  # LeCun et al. 1998, fully connected C3
    assert sum(p.size for p in models.cifar_quick().parameters()) == 145_578  # Caffe's cifar10_quick


@pytest.mark.parametrize("name", models.MODELS)
def test_the_seed_decides(name):
    make = models.MODELS[name]
    first, again, other = (list(make(seed=seed).state_dict().values()) for seed in (1, 1, 2))
    assert_same_bits(first, again)
    assert not any(np.array_equal(a, b) for a, b in zip(first, other, strict=True))
    double = make(seed=1, dtype=np.float64).state_dict().values()
    assert_same_bits(first, [value.astype(np.float32) for value in double])
    assert all(value.dtype == np.float64 for value in double)


@pytest.mark.parametrize("name", models.MODELS)
def test_layers_start_with_different_weights(name):
    values = [p.data.ravel()[:5] for p in models.MODELS[name]().parameters()]
    assert len({v.tobytes() for v in values}) == len(values)


def in_torch(torch, name, side):
    nn = torch.nn
    if name == "lenet5":
        return nn.Sequential(
            *(nn.Conv2d(1, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()),
            *(nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10)),
        )
    return nn.Sequential(
        *(nn.Conv2d(1, 32, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(32, 32, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(32, 64, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()),
        *(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)),
    )


@pytest.mark.parametrize("name, side", [("lenet5", 28), ("cifar_quick", 8)])
def test_forward_and_backward_are_pytorchs(torch, name, side):
    ours, theirs = (
        models.MODELS[name](1, image_size=side, dtype=np.float64),
        in_torch(torch, name, side).double(),
    )
    theirs.load_state_dict({key: torch.tensor(value) for key, value in ours.state_dict().items()})
    rng = np.random.default_rng(0)
    x, dy = rng.standard_normal((19, 1, side, side)), rng.standard_normal((19, 10))
    assert_all_close(by_layer(ours, x, dy), by_torch(torch, theirs, x, dy))


@pytest.mark.parametrize("name, smallest", [("lenet5", 16), ("cifar_quick", 8)])
def test_too_small_an_image_is_refused(name, smallest):
    for size in (smallest - 1, 0, -28):
        with pytest.raises(ValueError, match=f"{name}: image_size .*{smallest}.*{size}"):
            models.MODELS[name](image_size=size)
