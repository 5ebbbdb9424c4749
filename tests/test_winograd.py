"""Winograd's algorithm: its twin against the plain sum, the kernels in every arrangement, and the switch."""

import numpy as np
import pytest
from cases import assert_all_close
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
