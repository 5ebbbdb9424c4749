"""The kernels' own exp, sine, tanh, sigmoid and normal distribution function, to the errors that _ext/elementary.pxd
gives, against NumPy in the longest float and math.erfc."""

import math

import numpy as np
import pytest
from cases import DTYPES, assert_same_bits

import cnn
from cnn import functional


def in_ulps(got, wanted):
    """Largest error, in units in the last place of the number type."""
    return (np.abs(got - wanted) / np.spacing(np.abs(wanted).astype(got.dtype)).astype(np.longdouble)).max()


def numbers(limit, dtype):
    """From -limit to limit, most of them near 0."""
    positive = np.concatenate([np.linspace(1e-6, limit, 50_000), np.logspace(-12, np.log10(limit), 50_000)])
    return np.concatenate([-positive, [0], positive]).astype(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_exp(dtype):
    info = np.finfo(dtype)
    x = numbers(math.log(info.max) - 1, dtype)
    x = x[x > math.log(info.tiny)]
    assert in_ulps(functional.exp(x), np.exp(x.astype(np.longdouble))) <= 1.01
    # below the smallest normal number 0 or, where the processor keeps them, subnormals
    x = np.linspace(math.log(info.smallest_subnormal) - 2, math.log(info.tiny) - 1e-3, 1000).astype(dtype)
    got = functional.exp(x)
    assert (np.abs(got - np.exp(x.astype(np.longdouble))) <= 1.01 * float(info.smallest_subnormal))[got > 0].all()
    assert not got.any() or np.count_nonzero(got) > 900


@pytest.mark.parametrize("dtype", DTYPES)
def test_exp_of_special_values(dtype):
    big = np.log(np.finfo(dtype).max)
    x = np.array([np.nan, np.inf, -np.inf, 1e30, -1e30, big * 1.01, big * 0.99999, 0, -0.0], dtype)
    with np.errstate(over="ignore"):
        np.testing.assert_allclose(functional.exp(x), np.exp(x), rtol=1e-4 if dtype == np.float32 else 1e-12)


@pytest.mark.parametrize("limit", [3, 4000, 90_000, 1e8])
@pytest.mark.parametrize("dtype", DTYPES)
def test_sine_and_cosine(dtype, limit):
    x = numbers(limit, dtype)
    for function, exact in ((functional.sin, np.sin), (functional.cos, np.cos)):
        got, wanted = function(x), exact(x.astype(np.longdouble))
        plain = np.abs(wanted) > (0.001 if dtype == np.float32 else 0)
        assert in_ulps(got[plain], wanted[plain]) <= 2
        assert np.abs(got - wanted).max() <= np.finfo(dtype).eps
    special = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0], dtype)
    with np.errstate(invalid="ignore"):
        np.testing.assert_array_equal(functional.sin(special), np.sin(special))
        np.testing.assert_array_equal(functional.cos(special), np.cos(special))


@pytest.mark.parametrize("dtype", DTYPES)
def test_tanh(dtype):
    x = numbers(30, dtype)
    assert in_ulps(functional.tanh(x), np.tanh(x.astype(np.longdouble))) <= 3


@pytest.mark.parametrize("dtype", DTYPES)
def test_sigmoid(dtype):
    x = numbers(80, dtype)
    assert in_ulps(functional.sigmoid(x), 1 / (1 + np.exp(-x.astype(np.longdouble)))) <= 3


@pytest.mark.parametrize("dtype", DTYPES)
def test_normal_distribution(dtype):
    x = numbers(6, dtype)[::10]
    x = x[x != 0]
    wanted = np.array([math.erfc(-v / math.sqrt(2)) / 2 for v in x.tolist()])
    got = functional.gelu(x) / x.astype(np.longdouble)
    assert np.abs(got - wanted).max() < (2.5e-7 if dtype == np.float32 else 1e-15)
    # relatively too, so that the tail is no noise
    assert np.abs(got / wanted - 1).max() < (2e-6 if dtype == np.float32 else 1e-13)


@pytest.mark.parametrize("dtype", DTYPES)
def test_log(dtype):
    info = np.finfo(dtype)
    x = np.concatenate([np.logspace(np.log10(float(info.tiny)), np.log10(float(info.max)) - 0.01, 100_000),
                        np.linspace(0.5, 2, 100_000), 1 + np.logspace(-7, -1, 1000), 1 - np.logspace(-7, -1, 1000)])
    x = x.astype(dtype)
    x = x[(x != 1) & (x >= info.tiny)]
    assert in_ulps(functional.log(x), np.log(x.astype(np.longdouble))) <= 1.01
    with np.errstate(all="ignore"):
        special = np.array([0, -0.0, -1, np.nan, np.inf, -np.inf, 1], dtype)
        np.testing.assert_array_equal(functional.log(special), np.log(special))
    assert functional.log(np.array([info.smallest_subnormal, info.tiny / 2], dtype)).tolist() == [-np.inf, -np.inf]


@pytest.mark.parametrize("dtype", DTYPES)
def test_softplus(dtype):
    x = numbers(80, dtype)
    wide = x.astype(np.longdouble)
    wanted = np.maximum(wide, 0) + np.log1p(np.exp(-np.abs(wide)))
    assert in_ulps(functional.softplus(x, 1, 100), wanted) <= 4


@pytest.mark.parametrize("dtype", DTYPES)
def test_softplus_of_special_values_and_beyond_its_threshold(dtype):
    nan = np.array([np.nan, -np.nan, np.copysign(np.nan, 1)], dtype)
    assert np.isnan(functional.softplus(nan)).all()
    x = np.array([np.inf, -np.inf, -1e30, 1e30, 0, -0.0, 20, 20.5], dtype)
    log2 = np.log(dtype(2))
    np.testing.assert_allclose(functional.softplus(x), [np.inf, 0, 0, 1e30, log2, log2, 20, 20.5], rtol=1e-6)
    x = np.array([2, 1, 0.5, -3, 3000], dtype)      # beta x <= 2 is not linear
    np.testing.assert_allclose(functional.softplus(x, 2, 2), [2, np.log1p(np.exp(2)) / 2, np.log1p(np.exp(1)) / 2,
                                                              np.log1p(np.exp(-6)) / 2, 3000], rtol=1e-6)
    x = np.array([-49, -51, 3, -np.inf], dtype)
    np.testing.assert_allclose(functional.softplus(x, 2, -100), [-49, 0, 3, 0], atol=1e-20)


@pytest.mark.parametrize("dtype", DTYPES)
def test_expm1_below_zero(dtype):
    x = numbers(80, dtype)
    x = x[x < 0]
    assert in_ulps(functional.elu(x), np.expm1(x.astype(np.longdouble))) <= 2


@pytest.mark.parametrize("dtype", DTYPES)
def test_mish(dtype):
    x = numbers(40, dtype)
    wide = x.astype(np.longdouble)
    square = np.exp(wide) * (np.exp(wide) + 2)
    assert in_ulps(functional.mish(x), wide * square / (square + 2)) <= 4


@pytest.mark.parametrize("dtype", DTYPES)
def test_square_root_is_rounded_correctly(dtype):
    x = np.abs(numbers(1e6, dtype))
    np.testing.assert_array_equal(functional.sqrt(x), np.sqrt(x))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("exponent", [0, 1, 2, 3, 4, -1, -2, -4, 5, 0.5, 1.5, -0.3])
def test_powers(dtype, exponent):
    x = np.abs(numbers(20, dtype))
    x = x[x > 1e-6]
    assert in_ulps(functional.pow(x, exponent), x.astype(np.longdouble) ** np.longdouble(exponent)) <= 3.5


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_slope_of_mish_far_from_0_is_1(dtype):
    x = np.array([[19.5, 20.5, 25, 1e8, 1e16, 1e30, np.inf]], dtype)
    layer = cnn.Mish()
    assert_same_bits([layer(x)[:, 2:]], [x[:, 2:]])
    assert np.abs(layer.backward(np.ones_like(x)) - 1).max() <= 2 * np.finfo(dtype).eps + 2e-15
