"""One image without an axis of images, as PyTorch's layers take it."""
import numpy as np
import pytest

import cnn

LAYERS = [
    (cnn.Conv2d(2, 3, 3, padding=1, dtype=np.float64), (2, 5, 4)), (cnn.MaxPool2d(2), (2, 5, 4)),
    (cnn.AvgPool2d(2), (2, 5, 4)), (cnn.AdaptiveAvgPool2d(2), (2, 5, 4)), (cnn.AdaptiveMaxPool2d(2), (2, 5, 4)),
    (cnn.AdaptiveAvgPool2d((None, 2)), (2, 5, 4)), (cnn.ConvTranspose2d(2, 3, 3, dtype=np.float64), (2, 5, 4)),
    (cnn.InstanceNorm2d(2, dtype=np.float64), (2, 5, 4)),
    (cnn.PixelShuffle(2), (8, 3, 2)), (cnn.PixelUnshuffle(2), (3, 4, 6)),
    (cnn.Conv1d(2, 3, 3, dtype=np.float64), (2, 6)), (cnn.MaxPool1d(2), (2, 6)), (cnn.AvgPool1d(2), (2, 6)),
    (cnn.AdaptiveAvgPool1d(2), (2, 6)), (cnn.AdaptiveMaxPool1d(2), (2, 6)),
    (cnn.ZeroPad1d(2), (2, 6)), (cnn.ReflectionPad1d(2), (2, 6)),
    (cnn.ConvTranspose1d(2, 3, 3, dtype=np.float64), (2, 6)), (cnn.InstanceNorm1d(2, dtype=np.float64), (2, 6)),
    (cnn.Linear(4, 3, dtype=np.float64), (4,)),
    (cnn.Sequential(cnn.Conv2d(1, 2, 3), cnn.ReLU(), cnn.Flatten(), cnn.Linear(12, 3)).to(np.float64), (1, 5, 4)),
]


@pytest.mark.parametrize("layer, shape", LAYERS, ids=lambda value: type(value).__name__)
def test_one_image_is_a_batch_of_one(layer, shape):
    x = np.random.default_rng(0).permutation(np.prod(shape)).reshape(shape) + 0.5
    wanted = layer.eval()(x[np.newaxis])[0]
    assert layer(x).tobytes() == wanted.tobytes() and layer(x).shape == wanted.shape
    y = layer.train()(x)
    dy = np.random.default_rng(1).standard_normal(y.shape)
    dx, grads = layer.backward(dy), [p.grad.copy() for p in layer.parameters()]
    layer(x[np.newaxis])
    assert dx.shape == x.shape and np.array_equal(dx, layer.backward(dy[np.newaxis])[0])
    assert all(np.array_equal(p.grad, g) for p, g in zip(layer.parameters(), grads, strict=True))


@pytest.mark.parametrize("function", ["pixel_shuffle", "pixel_unshuffle"])
def test_functions_take_one_image(function, torch):
    x = np.random.default_rng(0).standard_normal((8, 4, 6))
    wanted = getattr(torch.nn.functional, function)(torch.tensor(x), 2)
    assert np.array_equal(getattr(cnn.functional, function)(x, 2), wanted)


@pytest.mark.parametrize("layer", [cnn.ReLU(), cnn.BatchNorm2d(2, dtype=np.float64), cnn.GroupNorm(
    1, 2, dtype=np.float64)], ids=lambda layer: type(layer).__name__)
def test_elsewhere_the_first_axis_is_that_of_the_images(layer):
    x = np.ones((3, 2, 4))
    if not isinstance(layer, cnn.BatchNorm2d):
        assert layer(x).shape == x.shape
    else:
        with pytest.raises(ValueError, match=r"x must have shape \(N, C, H, W\), got \(N, 2, 4\)"):
            layer(x)
