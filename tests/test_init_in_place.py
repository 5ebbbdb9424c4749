"""Initial values in place, as torch.nn.init has them: their spread, and PyTorch's rules."""
import math

import numpy as np
import pytest

import cnn
from cnn import init

SHAPE = 64, 32, 3, 3
FAN_IN, FAN_OUT = 32 * 9, 64 * 9
DEVIATIONS = {
    "uniform": (lambda p: init.uniform_(p, -3, 3), 3 / math.sqrt(3)),
    "normal": (lambda p: init.normal_(p, 0, 0.3), 0.3),
    "xavier_uniform": (init.xavier_uniform_, math.sqrt(2 / (FAN_IN + FAN_OUT))),
    "xavier_normal": (lambda p: init.xavier_normal_(p, gain=2), 2 * math.sqrt(2 / (FAN_IN + FAN_OUT))),
    "kaiming_uniform": (lambda p: init.kaiming_uniform_(p, a=math.sqrt(5)), math.sqrt(1 / 3 / FAN_IN)),
    "kaiming_normal": (lambda p: init.kaiming_normal_(p, mode="fan_out", nonlinearity="relu"), math.sqrt(2 / FAN_OUT)),
    "kaiming tanh": (lambda p: init.kaiming_normal_(p, nonlinearity="tanh"), 5 / 3 / math.sqrt(FAN_IN)),
    "trunc_normal": (lambda p: init.trunc_normal_(p, std=0.02, a=-0.04, b=0.04), 0.02 * 0.8796),
}


@pytest.mark.parametrize("name", DEVIATIONS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_spreads(name, dtype):
    function, deviation = DEVIATIONS[name]
    p = cnn.Parameter(np.ones(SHAPE, dtype))
    memory = p.data
    assert function(p) is p and p.data is memory and p.dtype == dtype
    assert p.data.std() == pytest.approx(deviation, rel=0.03) and abs(p.data.mean()) < 0.03 * deviation
    array = np.ones(SHAPE, dtype)
    assert function(array) is array
    assert array.std() == pytest.approx(deviation, rel=0.03)


def test_ends_and_constants():
    p = cnn.Parameter(np.ones((50, 50)))
    assert np.abs(init.trunc_normal_(p, 1, 2, 0, 1.5).data - 0.75).max() <= 0.75
    assert np.abs(init.kaiming_uniform_(p, nonlinearity="linear").data).max() <= math.sqrt(3 / 50)
    assert (init.zeros_(p).data == 0).all() and (init.ones_(p).data == 1).all()
    assert (init.constant_(p, 0.3).data == 0.3).all()


@pytest.mark.parametrize("shape", [(5, 8), (8, 5), (6, 2, 3, 3), (4, 4)])
def test_orthogonal(shape):
    p = init.orthogonal_(cnn.Parameter(np.ones(shape)), gain=2)
    flat = p.data.reshape(shape[0], -1)
    square = flat @ flat.T if flat.shape[0] <= flat.shape[1] else flat.T @ flat
    np.testing.assert_allclose(square, 4 * np.eye(len(square)), atol=1e-12)


def test_generators():
    one, two = (init.normal_(np.zeros(5), generator=np.random.default_rng(3)) for _ in range(2))
    np.testing.assert_array_equal(one, two)
    assert not np.array_equal(init.normal_(np.zeros(5)), init.normal_(np.zeros(5)))


@pytest.mark.parametrize("name, param", [("linear", None), ("conv2d", None), ("sigmoid", None), ("tanh", None),
                                         ("relu", None), ("leaky_relu", None), ("leaky_relu", 0.3), ("selu", None)])
def test_gains_are_pytorchs(name, param, torch):
    assert init.calculate_gain(name, param) == pytest.approx(torch.nn.init.calculate_gain(name, param))


@pytest.mark.parametrize("call, error, words", [
    (lambda: init.normal_([1.0]), TypeError, "normal_: tensor must be a Parameter or an array of floats, got list"),
    (lambda: init.normal_(np.ones(3), std=-1), ValueError, "normal_: std must be .*at least 0"),
    (lambda: init.uniform_(np.ones(3), 1, 0), ValueError, "uniform_: b must be at least a, 1, got 0"),
    (lambda: init.normal_(np.ones(3), generator=3), TypeError, "must be a numpy.random.Generator"),
    (lambda: init.kaiming_normal_(np.ones(3)), ValueError, "fans: shape must be"),
    (lambda: init.kaiming_normal_(np.ones((3, 3)), mode="fan"), ValueError, "mode must be fan_in or fan_out, got"),
    (lambda: init.kaiming_normal_(np.ones((3, 3)), nonlinearity="gelu"), ValueError, "nonlinearity must be one of"),
    (lambda: init.trunc_normal_(np.ones(3), a=5, b=6), ValueError, "trunc_normal_: a and b must be ends between which"),
    (lambda: init.orthogonal_(np.ones(3)), ValueError, "orthogonal_: tensor must have at least 2 axes"),
])
def test_what_is_refused(call, error, words):
    with pytest.raises(error, match=words):
        call()
