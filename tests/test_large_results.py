"""Results of a megabyte or more for sixteen images, which some kernels write past the caches."""
import numpy as np
import pytest
from cases import Function, assert_close, assert_same_bits

import cnn
from cnn.engine.backend import using

SHAPE = 64, 16, 17      # of an image; sixteen of them are 1.1 MB of float32


LAYERS = {
    "softmax": lambda: Function(lambda x: x.softmax(1)),
    "log_softmax": lambda: Function(lambda x: x.log_softmax(1)),
    "layer_norm2d": lambda: cnn.LayerNorm2d(64),
    "layer_norm": lambda: cnn.LayerNorm(SHAPE),
    "group_norm": lambda: cnn.GroupNorm(8, 64),
    "instance_norm": lambda: cnn.InstanceNorm2d(64, affine=True),
    "local_response_norm, a window of 5": lambda: cnn.LocalResponseNorm(5),
    "local_response_norm, a window of 4": lambda: cnn.LocalResponseNorm(4, beta=0.5),
    "local_response_norm, all channels": lambda: cnn.LocalResponseNorm(130, beta=0.6),
    "pixel_shuffle": lambda: cnn.PixelShuffle(2),
    "channels last": lambda: Function(lambda x: x.permute(0, 2, 3, 1)),
    "rows first": lambda: Function(lambda x: x.permute(0, 2, 1, 3)),
    "columns first": lambda: Function(lambda x: x.permute(0, 3, 1, 2)),
}


def passes(make, x, dy):
    layer = make()
    if any(True for _ in layer.parameters()):
        layer.to(x.dtype)
    y = layer(x)
    dx = layer.backward(dy(y))
    return [y, dx, *(p.grad for p in layer.parameters())]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", LAYERS)
def test_as_the_twin_with_any_number_of_threads(name, dtype):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((18, *SHAPE)).astype(dtype)

    def dy(y):
        return np.random.default_rng(1).standard_normal(y.shape).astype(dtype)
    before, found = cnn.get_num_threads(), []
    try:
        for threads in (1, 3):
            cnn.set_num_threads(threads)
            found.append(passes(LAYERS[name], x, dy))
    finally:
        cnn.set_num_threads(before)
    assert_same_bits(found[0], found[1])
    for one, twin in zip(found[0], using("reference", passes, LAYERS[name], x, dy), strict=True):
        assert_close(one, twin, 1e-5 if dtype == np.float32 else 1e-11)
