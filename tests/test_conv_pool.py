"""Convolution, perhaps a ReLU, and max pooling as one operation: against their twins one after the other."""

import numpy as np
import pytest
from cases import assert_all_close
from hypothesis import given, settings
from hypothesis import strategies as st

import cnn
from cnn import reference
from cnn.engine.inspecting import operations
from cnn.layers import Conv2d, MaxPool2d, ReLU, Sequential


def kernels(model, x):
    """Names of the operations of a forward pass."""
    model.forward(x)
    return {op["kernel"] for op in operations(model._last.programs[0], "forward")}


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 33), st.sampled_from([(1, 6), (6, 7), (3, 9), (5, 16), (12, 12)]), st.sampled_from([1, 2, 3, 5]),
    st.tuples(st.integers(7, 14), st.integers(7, 14)), st.integers(0, 2),
    st.tuples(st.integers(1, 3), st.integers(1, 3)), st.sampled_from([None, None, 1, 2]), st.integers(0, 1),
    st.booleans(), st.booleans(), st.sampled_from([1, 3]), st.integers(0, 2**32),
)  # fmt: skip
def test_as_one_after_the_other(
    n, channels, kernel, size, padding, window, stride, pad, ceil_mode, relu, threads, seed
):
    pad = min(pad, min(window) // 2)
    rng = np.random.default_rng(seed)
    conv = Conv2d(*channels, kernel, padding=padding, dtype=np.float64)
    model = Sequential(conv, *[ReLU()] * relu, MaxPool2d(window, stride, pad, ceil_mode=ceil_mode))
    # halves, because all sums of them are exact and ties are many
    conv.weight.data[...] = rng.integers(-2, 3, conv.weight.shape) / 2
    conv.bias.data[...] = rng.integers(-2, 3, conv.bias.shape) / 2
    x = rng.integers(-2, 3, (n, channels[0], *size)) / 2
    before_threads = cnn.get_num_threads()
    cnn.set_winograd(False)
    cnn.set_num_threads(threads)
    try:
        before = z = reference.conv2d(x, conv.weight.data, conv.bias.data, padding=padding)
        if relu:
            z = np.maximum(z, 0)
        expected, index = reference.max_pool2d(z, window, stride, pad, ceil_mode=ceil_mode)
        y = model.forward(x)
        np.testing.assert_array_equal(y, expected)
        dy = rng.standard_normal(y.shape)
        dz = reference.max_pool2d_backward(dy, index, z.shape) * ((before > 0) if relu else 1)
        dx, dw, db = reference.conv2d_backward(dz, x, conv.weight.data, padding=padding)
        assert_all_close([model.backward(dy), conv.weight.grad, conv.bias.grad], [dx, dw, db])
        np.testing.assert_array_equal(model.eval().forward(x), expected)
    finally:
        cnn.set_winograd(True)
        cnn.set_num_threads(before_threads)


@pytest.mark.parametrize(
    ("inputs", "kernel", "layers", "names"),
    [
        (1, 5, [MaxPool2d(2)], {"correlate_pool"}),
        (1, 5, [ReLU(), MaxPool2d((3, 1))], {"correlate_pool"}),
        (6, 5, [ReLU(), MaxPool2d(2)], {"winograd_rows_pool"}),
        (6, 5, [MaxPool2d(5)], {"winograd_rows_pool"}),
        (1, 5, [ReLU(), MaxPool2d(3, 2)], {"correlate", "max_pool"}),  # windows overlap
        (1, 5, [MaxPool2d(2, padding=1)], {"correlate", "max_pool"}),
        (1, 5, [MaxPool2d(2, 3, dilation=2)], {"correlate", "max_pool"}),  # which skips pixels
        (16, 3, [ReLU(), MaxPool2d(2)], {"winograd", "max_pool"}),
    ],
)
def test_which_are_one_operation(inputs, kernel, layers, names):
    found = kernels(Sequential(Conv2d(inputs, 16, kernel), *layers), np.ones((9, inputs, 14, 14), np.float32))
    every = {"correlate_pool", "winograd_rows_pool", "correlate", "max_pool", "winograd", "relu"}
    assert found & every == names | ({"correlate"} if names == {"winograd_rows_pool"} else set())


@pytest.mark.parametrize("inputs", [1, 6])
def test_nan_wins(inputs):
    model = Sequential(Conv2d(inputs, 6, 5, padding=2), ReLU(), MaxPool2d(2))
    x = np.random.default_rng(0).standard_normal((17, inputs, 12, 12)).astype(np.float32)
    x[3, 0, 6, 6] = np.nan
    broken = np.isnan(model.forward(x))
    assert broken[3, :, 2:5, 2:5].all()
    assert not np.delete(broken, 3, axis=0).any()


@pytest.mark.parametrize("n", [1, 16])
def test_the_mean_of_many_pixels_is_precise(n):
    """In float32, a sum of 90,000 pixels one by one loses 7e-6 of itself and more."""
    x = np.random.default_rng(0).random((n, 2, 300, 300), np.float32)
    np.testing.assert_allclose(cnn.functional.mean(x, (2, 3)), x.astype(np.float64).mean((2, 3)), rtol=1.5e-6)
