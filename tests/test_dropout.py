"""Dropout against its mask, drawn in NumPy from the hash that _ext/pointwise.pyx documents."""

import numpy as np
import pytest
from cases import assert_close, assert_same_bits

from cnn import reference
from cnn.layers import Conv2d, Dropout, Dropout1d, Dropout2d, Flatten, Linear, ReLU, Sequential


def scramble(h):
    """murmur3's finaliser on uint32 arrays."""
    h = (h ^ (h >> np.uint32(16))) * np.uint32(0x85EBCA6B)
    h = (h ^ (h >> np.uint32(13))) * np.uint32(0xC2B2AE35)
    return h ^ (h >> np.uint32(16))


def kept(shape, p, seed, step):
    """Which elements stay: those whose hash of seed, step, image and element reaches p * 2^32."""
    n, size = shape[0], int(np.prod(shape[1:]))
    start = scramble(scramble(np.array([seed], np.uint32)) ^ np.uint32(step))
    image = scramble(start ^ np.arange(n, dtype=np.uint32))
    element = np.arange(size, dtype=np.uint32) * np.uint32(0x9E3779B1)
    return (scramble(image[:, None] ^ element) >= np.uint64(p * 2**32)).reshape(shape)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(1, 3, 4, 5), (35, 2, 5, 3), (20, 7), (275, 3)])
@pytest.mark.parametrize("p", [0.1, 0.5, 0.999])
def test_mask_is_the_documented_hash(p, shape, dtype):
    layer, rng = Dropout(p, seed=7), np.random.default_rng(0)
    x, dy = rng.standard_normal(shape).astype(dtype), rng.standard_normal(shape).astype(dtype)
    for step in (1, 2, 3):
        mask = kept(shape, p, 7, step)
        assert_close(layer(x), np.where(mask, x / (1 - p), 0).astype(dtype))
        assert_close(layer.backward(dy), np.where(mask, dy / (1 - p), 0).astype(dtype))
        assert layer.step == step


@pytest.mark.parametrize("seed", [0, 1, 2**32 - 1])
def test_large_seeds_and_steps(seed):
    layer, x = Dropout(0.5, seed=seed), np.ones((17, 30))
    layer.step = 2**32 - 2
    for step in (2**32 - 1, 0, 1):
        assert np.array_equal(layer(x) > 0, kept(x.shape, 0.5, seed, step))


def test_setting_the_step_draws_the_same_masks_again():
    layer, x = Dropout(0.5, seed=3), np.ones((17, 30))
    masks = [layer(x) for _ in range(3)]
    layer.step = 1
    assert_same_bits([layer(x), layer(x)], masks[1:])


def test_a_larger_batch_begins_with_the_same_mask():
    x = np.ones((100, 30))
    assert np.array_equal(Dropout(0.4)(x)[:33], Dropout(0.4)(x[:33]))


@pytest.mark.parametrize("p", [0.05, 0.5, 0.8])
def test_rate(p):
    """Of all elements, and of every image, place and pair of neighbours, the share 1 - p stays."""
    n, size = 500, 400
    y = Dropout(p, seed=11)(np.ones((n, size))) > 0
    deviation = np.sqrt(p * (1 - p))
    assert abs(y.mean() - (1 - p)) < 4 * deviation / np.sqrt(y.size)
    assert np.abs(y.mean(axis=0) - (1 - p)).max() < 5 * deviation / np.sqrt(n)
    assert np.abs(y.mean(axis=1) - (1 - p)).max() < 5 * deviation / np.sqrt(size)
    for pairs in (y[:, 1:] & y[:, :-1], y[1:] & y[:-1]):
        assert abs(pairs.mean() - (1 - p) ** 2) < 0.01
    assert abs(Dropout(p, seed=11)(np.ones((n, size))).mean() - 1) < 0.05


def test_masks_of_seeds_and_steps_are_unrelated():
    x = np.ones((100, 200))
    layer = Dropout(0.5, seed=1)
    masks = [layer(x) > 0, layer(x) > 0, Dropout(0.5, seed=2)(x) > 0]
    for i in range(3):
        assert abs((masks[i] & masks[i - 1]).mean() - 0.25) < 0.02


def test_evaluation_mode_is_the_identity():
    layer, x = Dropout(0.9).eval(), np.random.default_rng(0).standard_normal((18, 2, 3, 3))
    assert np.array_equal(layer(x), x)
    assert layer.step == 0


def test_p_0_keeps_everything_and_p_1_drops_everything():
    x = np.array([[1.0, -2.0, np.inf, np.nan]])
    none, everything = Dropout(0.0), Dropout(1.0)
    assert np.array_equal(none(x), x, equal_nan=True) and np.array_equal(none.backward(x), x, equal_nan=True)
    assert not everything(x).any() and not everything.backward(x).any()


def test_same_bits_with_any_number_of_threads(set_threads):
    x, results = np.ones((275, 3, 4, 5), np.float32), []
    for threads in (1, 2, 3, 4):
        set_threads(threads)
        layer = Dropout(0.3, seed=5)
        results.append((layer(x), layer.backward(x)))
    for result in results[1:]:
        assert_same_bits(result, results[0])


def test_gradient_inside_a_model():
    """With the mask held fixed, by central differences along one direction of every array."""
    model = Sequential(
        Conv2d(1, 3, 3), Dropout(0.4), ReLU(), Flatten(), Linear(27, 8), Dropout(0.5, seed=1), Linear(8, 2)
    ).to(np.float64)
    rng = np.random.default_rng(0)
    x, dy = rng.standard_normal((21, 1, 5, 5)), rng.standard_normal((21, 2))

    def y():
        for layer in (model[1], model[5]):
            layer.step = 4
        return model(x)

    y()
    dx = model.backward(dy)
    gradients = [dx, *(p.grad.copy() for p in model.parameters())]
    for array, gradient in zip([x, *(p.data for p in model.parameters())], gradients, strict=True):
        direction, h = rng.standard_normal(array.shape), 1e-6
        array += h * direction
        up = (y() * dy).sum()
        array -= 2 * h * direction
        slope = (up - (y() * dy).sum()) / (2 * h)
        array += h * direction
        assert (gradient * direction).sum() == pytest.approx(slope, rel=1e-6, abs=1e-7)


# ------------------------------------------------------------------------------------------ whole channels


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("p", [0.1, 0.5, 1.0])
def test_whole_channels_go_by_the_documented_hash(p, dtype):
    layer, rng = Dropout2d(p, seed=7), np.random.default_rng(0)
    x, dy = (rng.standard_normal((35, 6, 4, 5)).astype(dtype) for _ in "xy")
    for step in (1, 2, 3):
        scale = kept((35, 6), p, 7, step)[:, :, None, None] / (1 - p if p < 1 else 1)
        for got, whole in ((layer(x), x), (layer.backward(dy), dy)):
            assert_close(got, (whole * scale).astype(dtype))
        assert_close(layer(x), reference.dropout2d(x, p, 7, layer.step))
        layer.step = step


def test_whole_channels_in_evaluation_mode_stay():
    x = np.ones((3, 2, 4, 4))
    assert np.array_equal(Dropout2d(0.9).eval()(x), x)


def test_whole_channels_of_sequences_go_by_the_documented_hash():
    layer, x = Dropout1d(0.4, seed=7), np.random.default_rng(0).standard_normal((35, 6, 5))
    wanted = x * kept((35, 6), 0.4, 7, 1)[:, :, None] / 0.6
    assert_close(layer(x), wanted)
    assert_close(layer.backward(x), wanted)
    for shape in ((2, 3), (2, 3, 4, 5)):
        with pytest.raises(ValueError, match=r"Dropout1d: x must have shape \(N, C, L\)"):
            layer(np.ones(shape))


def test_dropout2d_same_bits_with_any_number_of_threads(set_threads):
    x, results = np.ones((275, 3, 4, 5), np.float32), []
    for threads in (1, 2, 3):
        set_threads(threads)
        layer = Dropout2d(0.3, seed=5)
        results.append((layer(x), layer.backward(x)))
    for result in results[1:]:
        assert_same_bits(result, results[0])


def test_a_sequential_gives_both_kinds_other_masks():
    model = Sequential(Dropout2d(), Dropout(), Dropout2d(), Dropout2d(seed=3))
    assert [layer.number for layer in model] == [0, 1, 2, 3]
