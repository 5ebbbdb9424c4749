"""Winograd's algorithm: its twin against the plain sum, the kernels in every arrangement, and the switch."""

import numpy as np
import pytest
from cases import assert_all_close, assert_same_bits
from hypothesis import given, settings
from hypothesis import strategies as st
from processes import run_python

import cnn
from cnn import functional, reference, runtime
from cnn.engine import inspecting
from cnn.layers import Conv2d


@pytest.fixture
def without():
    cnn.set_winograd(False)
    yield
    cnn.set_winograd(True)


def operations(layer, x):
    """Names of the operations of a forward and a backward pass."""
    dy = np.ones_like(layer.forward(x))
    layer.backward(dy)
    program = layer._last.programs[0]
    assert len(program.phases()) == 2
    return {op["kernel"] for phase in program.phases() for op in inspecting.operations(program, phase)}


# ------------------------------------------------------------------------------------------ the formulas


@pytest.mark.parametrize(("m", "r"), [(2, 3), (4, 3), (2, 5), (3, 4), (1, 3), (2, 1)])
@pytest.mark.parametrize("padding", [0, 1, (2, 0)])
def test_the_twin_is_the_plain_sum(m, r, padding):
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((2, 3, 8, 7)), rng.standard_normal((4, 3, r, r))
    expected = reference.conv2d(x, w, padding=padding)
    np.testing.assert_allclose(
        reference.winograd_conv2d(x, w, m, padding), expected, atol=1e-12 * abs(expected).max()
    )


@pytest.mark.parametrize(("m", "kernel"), [(2, (5, 5)), (4, (2, 3)), (2, (1, 5)), (1, (3, 2))])
@pytest.mark.parametrize("padding", [0, 1, (0, 2)])
def test_the_twin_of_rows_is_the_plain_sum(m, kernel, padding):
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((2, 3, 8, 7)), rng.standard_normal((4, 3, *kernel))
    expected = reference.conv2d(x, w, padding=padding)
    np.testing.assert_allclose(
        reference.winograd_rows_conv2d(x, w, m, padding), expected, atol=1e-12 * abs(expected).max()
    )


def test_matrices_as_published():
    """F(4x4, 3x3) of Lavin and Gray, section 4.3."""
    at, g, bt = reference.winograd_matrices(4, 3, (0, 1, -1, 2, -2))
    np.testing.assert_allclose(
        at, [[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]]
    )
    rows = [[6, 0, 0], [-4, -4, -4], [-4, 4, -4], [1, 2, 4], [1, -2, 4], [0, 0, 24]]
    np.testing.assert_allclose(24 * g, rows, atol=1e-14)
    rows = [[4, 0, -5, 0, 1, 0], [0, -4, -4, 1, 1, 0], [0, 4, -4, -1, 1, 0]]
    rows += [[0, -2, -1, 2, 1, 0], [0, 2, -1, -2, 1, 0], [0, 4, 0, -5, 0, 1]]
    np.testing.assert_allclose(bt, rows, atol=1e-14)


# ------------------------------------------------------------------------------------------ the kernels


def assert_as_the_plain_sum(x, w, padding, bias, seed):
    """Forward and backward pass of x and w of these shapes."""
    rng = np.random.default_rng(seed)
    x, w = rng.standard_normal(x), rng.standard_normal(w)
    b = rng.standard_normal(len(w)) if bias else None
    y = functional.conv2d(x, w, b, padding=padding)
    dy = rng.standard_normal(y.shape)
    assert_all_close(
        [y, *functional.conv2d_backward(dy, x, w, padding=padding)],
        [reference.conv2d(x, w, b, padding=padding), *reference.conv2d_backward(dy, x, w, padding=padding)],
    )


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 33), st.integers(12, 40), st.integers(12, 40), st.sampled_from([3, 5]),
    st.tuples(st.integers(1, 11), st.integers(1, 11)), st.tuples(st.integers(0, 4), st.integers(0, 4)),
    st.booleans(), st.integers(0, 2**32),
)  # fmt: skip
def test_any_shape(n, c, k, r, size, padding, bias, seed):
    if any(s + 2 * p < r for s, p in zip(size, padding, strict=True)):
        return
    assert_as_the_plain_sum((n, c, *size), (k, c, r, r), padding, bias, seed)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 33), st.integers(5, 11), st.integers(5, 20), st.integers(1, 6),
    st.tuples(st.integers(1, 13), st.integers(1, 13)), st.tuples(st.integers(0, 5), st.integers(0, 5)),
    st.booleans(), st.integers(0, 2**32),
)  # fmt: skip
def test_rows_of_any_shape(n, c, k, r, size, padding, bias, seed):
    if any(s + 2 * p < q for s, p, q in zip(size, padding, (r, 5), strict=True)):
        return
    assert_as_the_plain_sum((n, c, *size), (k, c, r, 5), padding, bias, seed)


@pytest.mark.parametrize(
    ("channels", "outputs", "kernel", "size", "kernels"),
    [
        (16, 16, 3, 8, {"winograd", "winograd_dx", "winograd_dw"}),
        (16, 16, 5, 8, {"winograd", "winograd_dx", "winograd_dw"}),
        (40, 40, 3, 4, {"winograd", "winograd_dx", "winograd_tiles", "winograd_dw_all"}),
        (11, 16, 3, 8, {"correlate", "conv_dw"}),  # too few channels
        (16, 16, 4, 8, {"correlate", "conv_dw"}),
        (5, 16, 5, 9, {"winograd_rows", "winograd_rows_y", "winograd_rows_dy", "winograd_rows_dx", "correlate"}),
        (4, 16, 5, 9, {"correlate", "conv_dw"}),  # sums too short
        (8, 8, 5, 120, {"correlate", "conv_dw"}),  # what is transformed exceeds the caches
    ],
)
def test_which_shapes_take_it(channels, outputs, kernel, size, kernels):
    layer = Conv2d(channels, outputs, kernel, padding=kernel // 2)
    found = operations(layer, np.ones((9, channels, size, size), np.float32))
    assert kernels <= found
    assert not (found & {"winograd", "winograd_rows", "correlate"}) - kernels


@pytest.mark.parametrize("options", [{"stride": 2}, {"dilation": 2}, {"groups": 2}])
def test_other_convolutions_do_not(options):
    layer = Conv2d(24, 24, 3, padding=1, **options)
    assert "winograd" not in operations(layer, np.ones((9, 24, 8, 8), np.float32))


# ------------------------------------------------------------------------------------------ one image


def evaluated(layer, x):
    """y in evaluation mode, and the names of the operations that made it."""
    y = layer.eval()(x)
    program = layer._programs.resting()[-1]
    return y, {op["kernel"] for phase in program.phases() for op in inspecting.operations(program, phase)}


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 8), st.integers(12, 40), st.integers(12, 70), st.sampled_from([3, 5]),
    st.tuples(st.integers(1, 19), st.integers(1, 19)), st.tuples(st.integers(0, 4), st.integers(0, 4)),
    st.booleans(), st.booleans(), st.integers(0, 2**32),
)  # fmt: skip
def test_any_shape_of_few_images(n, c, k, r, size, padding, bias, norm, seed):
    """With a norm folded in, something added, and a ReLU."""
    if any(s + 2 * p < r for s, p in zip(size, padding, strict=True)):
        return
    rng = np.random.default_rng(seed)
    x, z = rng.standard_normal((n, c, *size)), rng.standard_normal((1, k, 1, 1))
    layer = Conv2d(c, k, r, padding=padding, bias=bias, seed=rng, dtype=np.float64)
    w, b = layer.weight.data, layer.bias.data if bias else 0
    following = cnn.BatchNorm2d(k, dtype=np.float64)
    for array in (following.running_mean, following.running_var, following.weight.data, following.bias.data):
        array[...] = rng.uniform(0.5, 2, array.shape)

    class Net(cnn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.norm = layer, following

        def forward(self, x):
            y = self.layer(x)
            return functional.relu((self.norm(y) if norm else y) + z[0])
    y = reference.conv2d(x, w, np.zeros(k) + b, padding=padding)
    if norm:
        mean, var, gamma, beta = (a[:, None, None] for a in (
            following.running_mean, following.running_var, following.weight.data, following.bias.data))
        y = (y - mean) / np.sqrt(var + following.eps) * gamma + beta
    found, kernels = evaluated(Net(), x)
    np.testing.assert_allclose(found, np.maximum(y + z, 0), rtol=1e-9, atol=1e-10)
    tiles = [-(-(s + 2 * p - r + 1) // 2) for s, p in zip(size, padding, strict=True)]
    assert ("winograd_channels" in kernels) == (tiles[0] * tiles[1] >= 4 and (r == 3 or c >= 24))


@pytest.mark.parametrize("channels", [16, 24])
def test_what_is_added_to_the_result_of_one_image(channels):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((1, channels, 9, 10))
    layer = Conv2d(channels, channels, 3, padding=1, seed=rng, dtype=np.float64)
    found, kernels = evaluated(cnn.Sequential(cnn.Residual(layer), cnn.ReLU()), x)
    assert "winograd_channels" in kernels and not kernels & {"add", "binary", "relu"}
    expected = np.maximum(x + reference.conv2d(x, layer.weight.data, layer.bias.data, padding=1), 0)
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize(("channels", "options", "size"), [
    (11, {}, 8), (16, {"kernel_size": 5}, 8), (16, {"stride": 2}, 8), (16, {"dilation": 2}, 8), (32, {"groups": 2}, 8),
    (16, {}, 2),
])
def test_other_convolutions_of_one_image_do_not(channels, options, size):
    layer = Conv2d(channels, 16, padding=1, **{"kernel_size": 3} | options)
    x = np.ones((1, channels, size, size), np.float32)
    assert "winograd_channels" not in evaluated(layer, x)[1]


@pytest.mark.parametrize(("size", "padding", "count"), [
    (12, 1, 0), (13, 1, 2), (13, 0, 1), (16, 3, 1), (16, (1, 2), 2),
])
def test_few_images_that_are_learnt_from(size, padding, count):
    """It takes more tiles then; and dx none where it would leave out some of dy."""
    rng = np.random.default_rng(0)
    x, w, b = (rng.standard_normal(shape) for shape in ((3, 20, size, size), (24, 20, 3, 3), 24))
    layer = Conv2d(20, 24, 3, padding=padding, dtype=np.float64)
    layer.weight.data[...], layer.bias.data[...] = w, b
    y = layer(x)
    dy = rng.standard_normal(y.shape)
    dx = layer.backward(dy)
    wanted = [reference.conv2d(x, w, b, padding=padding), *reference.conv2d_backward(dy, x, w, padding=padding)]
    assert_all_close([y, dx, layer.weight.grad, layer.bias.grad], wanted)
    program = layer._last.programs[0]
    names = [op["kernel"] for phase in program.phases() for op in inspecting.operations(program, phase)]
    assert names.count("winograd_channels") == count and names.count("winograd_weights") == count


def test_one_image_sees_new_weights():
    rng = np.random.default_rng(0)
    layer, x = Conv2d(16, 20, 3, dtype=np.float64), rng.standard_normal((1, 16, 8, 8))
    for lane in (0, 19, 7):
        layer.weight.data[lane, -1, 0, 2] += 1
        layer.bias.data[lane] += 1
        found, kernels = evaluated(layer, x)
        assert "winograd_channels" in kernels
        expected = reference.conv2d(x, layer.weight.data, layer.bias.data)
        np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("size", [9, 40], ids=["outputs", "tiles"])
def test_threads_that_share_one_image(size):
    """Few tiles are shared by outputs, many by tiles: always with the same bits."""
    rng = np.random.default_rng(0)
    layer, x = Conv2d(40, 72, 3, padding=1).eval(), rng.standard_normal((1, 40, size, size)).astype(np.float32)
    before, found = cnn.get_num_threads(), []
    try:
        for threads in (1, 2, 3, 5):
            cnn.set_num_threads(threads)
            found.append(cnn.compile(layer, x.shape[1:], threads=threads)(x))
    finally:
        cnn.set_num_threads(before)
    for y in found[1:]:
        assert_same_bits([y], [found[0]])
    exact = reference.conv2d(*(a.astype(np.float64) for a in (x, layer.weight.data, layer.bias.data)), padding=1)
    assert abs(found[0] - exact).max() < 3e-6 * abs(exact).max()


# channels, outputs, kernel, size: F(4x4, 3x3) with both ways to dw, F(2x2, 3x3), F(2x2, 5x5), and rows by F(2, 5)
KINDS = [
    *((16, 16, 3, 8), (96, 48, 3, 8), (40, 40, 3, 4), (32, 32, 3, 2), (32, 32, 3, 6)),
    *((16, 32, 5, 14), (6, 16, 5, 14)),
]


def float32_and_exact(kind, x_scale=1.0, w_scale=1.0, dy_scale=1.0):
    """y, dx and dw of float32 numbers, and the same by the plain sum in float64."""
    channels, outputs, kernel, size = kind
    rng = np.random.default_rng(1)
    shapes = (4, channels, size, size), (outputs, channels, kernel, kernel), (4, outputs, size, size)
    scales = x_scale, w_scale / kernel / channels**0.5, dy_scale
    x, w, dy = (
        (rng.standard_normal(shape) * scale).astype(np.float32)
        for shape, scale in zip(shapes, scales, strict=True)
    )
    padding = kernel // 2
    results = [functional.conv2d(x, w, padding=padding), *functional.conv2d_backward(dy, x, w, padding=padding)[:2]]
    x, w, dy = (a.astype(np.float64) for a in (x, w, dy))
    exact = [reference.conv2d(x, w, padding=padding), *reference.conv2d_backward(dy, x, w, padding=padding)[:2]]
    return zip(results, exact, strict=True)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind[2] == 3 and kind[3] > 2] + [(24, 32, 5, 14)])
def test_error_of_one_image_in_float32(kind):
    channels, outputs, kernel, size = kind
    x = np.random.default_rng(1).standard_normal((1, channels, size, size)).astype(np.float32)
    layer = Conv2d(channels, outputs, kernel, padding=kernel // 2)
    found, kernels = evaluated(layer, x)
    assert "winograd_channels" in kernels
    exact = reference.conv2d(*(a.astype(np.float64) for a in (x, layer.weight.data, layer.bias.data)),
                             padding=kernel // 2)
    assert abs(found - exact).max() < 3e-6 * abs(exact).max()


@pytest.mark.parametrize("kind", KINDS)
def test_error_in_float32(kind):
    """Below 3e-6 of the largest number, as docs/gradients.md says."""
    for got, wanted in float32_and_exact(kind):
        assert abs(got - wanted).max() < 3e-6 * abs(wanted).max()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "scales", [(1e37, 1, 1e-9), (1e-9, 1e37, 1e-9), (1e-9, 1, 1e37), (1e-30, 1, 1), (1, 1e-30, 1e-30)]
)
def test_large_and_small_numbers_in_float32(kind, scales):
    """Finite, and as exact as others, up to 1e37 as docs/gradients.md says."""
    for got, wanted in float32_and_exact(kind, *scales):
        if abs(wanted).max() > 1e-30:  # sums of numbers below 1e-38 are not what this is about
            assert abs(got - wanted).max() < 3e-6 * abs(wanted).max()


# ------------------------------------------------------------------------------------------ the switch


def test_it_can_be_switched_off(without):
    layer = Conv2d(16, 16, 3)
    x = np.random.default_rng(0).standard_normal((9, 16, 8, 8)).astype(np.float32)
    assert "winograd" not in operations(layer, x)
    y = layer.forward(x)
    cnn.set_winograd(True)
    assert cnn.get_winograd()
    assert "winograd" in operations(layer, x)  # the same layer, at once
    np.testing.assert_allclose(layer.forward(x), y, atol=1e-5)


@pytest.mark.parametrize("value", [0, None, "off"])
def test_the_switch_takes_booleans(value):
    with pytest.raises(TypeError, match=f"set_winograd: enabled must be True or False, got {value!r}"):
        cnn.set_winograd(value)


@pytest.mark.parametrize(("value", "state"), [
    ("0", False), ("off", False), ("False", False), ("no", False), ("1", True), ("", True), ("ON", True), ("yes", True),
])
def test_the_environment_switches_it(monkeypatch, value, state):
    monkeypatch.setattr(runtime, "_winograd", None)
    monkeypatch.setenv("CNN_WINOGRAD", value)
    assert runtime.get_winograd() is state


def test_an_environment_that_says_neither_is_refused(monkeypatch, capsys):
    monkeypatch.setattr(runtime, "_winograd", None)
    monkeypatch.setenv("CNN_WINOGRAD", "maybe")
    with pytest.raises(ValueError, match="CNN_WINOGRAD must be 0 .* or 1 .*, got 'maybe'"):
        cnn.get_winograd()
    cnn.set_winograd(True)      # does not ask the environment
    assert cnn.get_winograd()
    result = run_python("-m", "cnn", "config", CNN_WINOGRAD="maybe")
    assert result.returncode == 1 and result.stderr.startswith("cnn config: CNN_WINOGRAD must be 0 ")


def test_the_environment_is_asked():
    assert "Winograd       off" in run_python("-m", "cnn", "config", CNN_WINOGRAD="off").stdout
