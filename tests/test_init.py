"""Initialisers: their spread against the papers' formulas, and the promises about seeds and dtypes."""

import math

import numpy as np
import pytest

import cnn
from cnn.layers import init

CONV, LINEAR = (40, 20, 5, 3), (70, 90)  # fans (300, 600) and (90, 70)

# Each row: name, (bound or standard deviation for CONV, for LINEAR), whether uniform.
SPREADS = {
    "kaiming_uniform": (1 / math.sqrt(300), 1 / math.sqrt(90), True),
    "glorot_uniform": (math.sqrt(6 / 900), math.sqrt(6 / 160), True),
    "glorot_normal": (math.sqrt(2 / 900), math.sqrt(2 / 160), False),
    "he_uniform": (math.sqrt(6 / 300), math.sqrt(6 / 90), True),
    "he_normal": (math.sqrt(2 / 300), math.sqrt(2 / 90), False),
}


def rng(seed=0):
    return np.random.default_rng(seed)


def test_fans():
    assert init.fans(CONV) == (300, 600)
    assert init.fans(LINEAR) == (90, 70)
    assert init.fans((3, 4, 5)) == (20, 15)
    for shape in ((3,), (3, 4, 5, 6, 7), ()):
        with pytest.raises(ValueError, match=r"fans: shape must be \(out, in\), \(O, I, L\) or \(O, I, H, W\), got"):
            init.fans(shape)
    with pytest.raises(ValueError, match="fans: a side of shape must be an integer of at least 1, got 0"):
        init.fans((3, 0))


def test_the_table_names_every_initialiser():
    assert set(init.INITIALISERS) == {*SPREADS, "zeros", "ones"}
    for name, function in init.INITIALISERS.items():
        assert function.__name__ == name


def assert_spread(values, spread, uniform):
    deviation = spread / math.sqrt(3) if uniform else spread
    # Of n values the mean and deviation are off by deviation/√n or so; five times that never happens.
    tolerance = 5 * deviation / math.sqrt(values.size)
    assert abs(values.mean()) < tolerance
    assert abs(values.std() - deviation) < tolerance
    if uniform:
        assert 0.99 * spread < np.abs(values).max() <= spread
    else:
        assert np.abs(values).max() > 3 * deviation  # not truncated


@pytest.mark.parametrize("name", SPREADS)
def test_spread(name):
    of_conv, of_linear, uniform = SPREADS[name]
    assert_spread(init.INITIALISERS[name](CONV, rng(), np.float64), of_conv, uniform)
    assert_spread(init.INITIALISERS[name](LINEAR, rng(), np.float64), of_linear, uniform)


def test_spread_of_biases():
    assert_spread(init.bias_uniform((5000,), 300, rng(), np.float64), 1 / math.sqrt(300), True)
    with pytest.raises(ValueError, match="bias_uniform: fan_in must be an integer of at least 1, got 0"):
        init.bias_uniform((5,), 0, rng())


def test_kaiming_uniform_has_pytorchs_bounds():
    torch = pytest.importorskip("torch")
    theirs = torch.nn.Conv2d(20, 40, (5, 3))
    ours = init.kaiming_uniform(CONV, rng()), init.bias_uniform((5000,), 300, rng())
    assert theirs.weight.abs().max().item() == pytest.approx(np.abs(ours[0]).max(), rel=1e-2)
    assert theirs.bias.abs().max().item() <= 1 / math.sqrt(300) * (1 + 1e-6)
    assert theirs.weight.std().item() == pytest.approx(ours[0].std(), rel=5e-2)


def test_a_transposed_convolution_starts_within_pytorchs_bounds():
    torch = pytest.importorskip("torch")
    theirs, ours = torch.nn.ConvTranspose2d(40, 60, (5, 3), groups=2), cnn.ConvTranspose2d(40, 60, (5, 3), groups=2)
    bound = 1 / math.sqrt(30 * 15)      # by the outputs of a group: PyTorch takes the weight's second axis
    for of_both in ((theirs.weight.detach().numpy(), ours.weight.data), (theirs.bias.detach().numpy(), ours.bias.data)):
        assert of_both[0].shape == of_both[1].shape
        for values in of_both:
            assert 0.9 * bound < np.abs(values).max() <= bound * (1 + 1e-6)


@pytest.mark.parametrize("name", SPREADS)
def test_seed_and_dtype(name):
    function = init.INITIALISERS[name]
    single, double = function(CONV, rng(7)), function(CONV, rng(7), np.float64)
    assert single.dtype == np.float32 and double.dtype == np.float64
    assert single.shape == double.shape == CONV
    assert np.array_equal(single, double.astype(np.float32))
    assert np.array_equal(single, function(CONV, rng(7)))
    assert not np.array_equal(single, function(CONV, rng(8)))
    generator = rng(7)
    function(CONV, generator)
    assert not np.array_equal(single, function(CONV, generator))  # the generator moves on


def test_zeros_and_ones():
    for function, value in ((init.zeros, 0), (init.ones, 1)):
        array = function((3, 2))
        assert array.dtype == np.float32 and array.shape == (3, 2) and np.all(array == value)
        assert function((3,), rng(), np.float64).dtype == np.float64


@pytest.mark.parametrize("name", init.INITIALISERS)
def test_bad_arguments(name):
    function = init.INITIALISERS[name]
    with pytest.raises(TypeError, match="init: dtype must be float32 or float64, got float16"):
        function((3, 2), rng(), np.float16)
    if name in SPREADS:
        for wrong in (None, 0, np.random.RandomState(0)):
            with pytest.raises(TypeError, match=r"init: rng must be a numpy\.random\.Generator, got"):
                function((3, 2), wrong)
