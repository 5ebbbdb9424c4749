"""Padding that is not the same on all sides, ((top, bottom), (left, right)): the same as zeros (or nothing) put there
before a layer that does not pad."""

import numpy as np
import pytest
from cases import Function, assert_all_close, assert_close, assert_same_bits, by_layer, spread

import cnn
from cnn import functional, reference

PADS = [((0, 1), (2, 0)), ((1, 2), (0, 1)), ((2, 2), (1, 1)), ((0, 0), (0, 2))]


def padded(x, pads, value=0.0):
    return np.pad(x, ((0, 0), (0, 0), *pads), constant_values=value)


def inside(x, pads):
    (top, bottom), (left, right) = pads
    return x[:, :, top:x.shape[2] - bottom, left:x.shape[3] - right]


@pytest.mark.parametrize("pads", PADS, ids=str)
@pytest.mark.parametrize("stride, dilation, channels, groups", [
    (1, 1, (3, 5), 1), ((2, 1), 1, (4, 6), 2), (2, (1, 2), (3, 4), 1), (1, 1, (13, 14), 1), (1, 1, (2, 2), 2),
    (2, 1, (2, 2), 2)], ids=str)
@pytest.mark.parametrize("n", [2, 17])
def test_convolutions(pads, stride, dilation, channels, groups, n):
    layers = [cnn.Conv2d(*channels, 3, stride, padding, dilation, groups, dtype=np.float64) for padding in (pads, 0)]
    x = spread((n, channels[0], 7, 6), np.random.default_rng(0))
    y = layers[0](x)
    dy = spread(y.shape, np.random.default_rng(1))
    wanted = by_layer(layers[1], padded(x, pads), dy)
    wanted[1] = inside(wanted[1], pads)
    assert_all_close(by_layer(layers[0], x, dy), wanted)
    w, b = (p.data for p in layers[0].parameters())
    for m in (functional, reference):
        assert_close(m.conv2d(x, w, b, stride, pads, dilation, groups), wanted[0])


@pytest.mark.parametrize("pads", PADS, ids=str)
@pytest.mark.parametrize("stride, channels", [(1, (3, 5)), (2, (4, 3)), (1, (13, 14)), (1, (2, 2))], ids=str)
@pytest.mark.parametrize("n", [2, 17])
def test_transposed_convolutions_lose_what_falls_into_the_padding(pads, stride, channels, n):
    groups = 2 if channels == (2, 2) else 1
    layers = [cnn.ConvTranspose2d(*channels, 3, stride, padding, groups=groups, dtype=np.float64) for padding in (
        pads, 0)]
    x = spread((n, channels[0], 5, 4), np.random.default_rng(0))
    dy = spread(inside(layers[1](x), pads).shape, np.random.default_rng(1))
    wanted = by_layer(layers[1], x, padded(dy, pads))
    wanted[0] = inside(wanted[0], pads)
    wanted[-1] = dy.sum((0, 2, 3))
    assert_all_close(by_layer(layers[0], x, dy), wanted)
    w, b = (p.data for p in layers[0].parameters())
    for m in (functional, reference):
        assert_close(m.conv_transpose2d(x, w, b, stride, pads, 0, groups), wanted[0])


@pytest.mark.parametrize("pads", PADS, ids=str)
@pytest.mark.parametrize("n", [2, 17])
@pytest.mark.parametrize("ceil_mode", [False, True])
def test_poolings(pads, n, ceil_mode):
    x = spread((n, 2, 7, 6), np.random.default_rng(0))
    largest = cnn.MaxPool2d(3, 2, pads, ceil_mode=ceil_mode)
    zeros = cnn.AvgPool2d(3, 2, pads, ceil_mode)
    own = cnn.AvgPool2d(3, 2, pads, ceil_mode, count_include_pad=False)
    plain = {"kernel_size": 3, "stride": 2, "ceil_mode": ceil_mode}
    y = largest(x)
    dy = spread(y.shape, np.random.default_rng(1))
    # by formula: windows of what was padded before; what hangs over the far padding counts nowhere
    far = [max(0, (y.shape[2 + i] - 1) * 2 + 3 - (7, 6)[i] - sum(pads[i])) for i in (0, 1)]
    whole = [(before, after + more) for (before, after), more in zip(pads, far, strict=True)]
    windows = np.lib.stride_tricks.sliding_window_view(padded(x, whole, -np.inf), (3, 3), (2, 3))[:, :, ::2, ::2]
    inner = np.lib.stride_tricks.sliding_window_view(
        np.pad(padded(np.ones_like(x), pads, 1.0), ((0, 0), (0, 0), (0, far[0]), (0, far[1]))), (3, 3), (2, 3))
    there = np.isfinite(windows)
    sums = np.where(there, windows, 0).sum((-1, -2))
    assert_close(y, windows.max((-1, -2)))
    assert_close(zeros(x), sums / inner[:, :, ::2, ::2].sum((-1, -2)))
    assert_close(own(x), sums / there.sum((-1, -2)))
    for layer, name in ((largest, "max_pool2d"), (zeros, "avg_pool2d"), (own, "avg_pool2d")):
        options = {**plain, "padding": pads} | (
            {} if name == "max_pool2d" else {"count_include_pad": layer.count_include_pad})
        y, dx = layer(x), layer.backward(dy)
        for m in (functional, reference):
            got = getattr(m, name)(x, **options)
            assert_close(got[0] if name == "max_pool2d" else got, y)
        if name == "max_pool2d":
            wanted = reference.max_pool2d_backward(dy, reference.max_pool2d(x, **options)[1], x.shape)
        else:
            wanted = reference.avg_pool2d_backward(dy, x.shape, **options)
        assert_close(dx, wanted)


def test_paddings_that_do_not_fit():
    one = np.zeros((1, 1, 5, 5), np.float32)
    for padding in (((1, 2, 3), (1, 1)), ((1, 1), 2), ((1, 1),)):
        for make in (lambda p: cnn.Conv2d(1, 1, 3, padding=p), lambda p: cnn.MaxPool2d(3, padding=p)):
            with pytest.raises(ValueError, match=r"padding must be an integer, a pair or \(\(top"):
                make(padding)
    with pytest.raises(ValueError, match="padding must be an integer of at least 0, got -1"):
        cnn.Conv2d(1, 1, 3, padding=((0, -1), (0, 0)))
    with pytest.raises(ValueError, match="padding must be less than kernel_size 3×3"):
        cnn.MaxPool2d(3, padding=((0, 3), (0, 0)))(one)
    assert cnn.MaxPool2d(3, padding=((2, 2), (0, 0)))(one).shape == (1, 1, 3, 1)


def test_pytorch_has_the_same():
    torch = pytest.importorskip("torch")
    from cnn.export import to_torch
    x = spread((2, 3, 7, 6), np.random.default_rng(0))
    for layer in (cnn.Conv2d(3, 4, 3, 2, PADS[0], dtype=np.float64),
                  cnn.ConvTranspose2d(3, 4, 3, 2, PADS[1], 1, dtype=np.float64), cnn.MaxPool2d(3, 2, PADS[1]),
                  cnn.AvgPool2d(3, 2, PADS[2])):
        theirs = to_torch(layer, x.shape[1:])
        if layer.dtype is None:
            theirs = theirs.double()
        assert_close(theirs(torch.tensor(x)).detach().numpy(), layer(x))
    with pytest.raises(ValueError, match="is not PyTorch's"):
        to_torch(cnn.AvgPool2d(3, 2, PADS[1], count_include_pad=False), (3, 7, 6))(torch.tensor(x))


CHANNELS = [(0, 0, 0, 0, 2, 2), (1, 0, 0, 2, 0, 3), (0, 0, 0, 0, -1, 2), (0, 0, -1, 0, -2, -1)]


@pytest.mark.parametrize("sides", CHANNELS)
@pytest.mark.parametrize("value", [None, -1.5])
@pytest.mark.parametrize("images", [2, 17])
def test_channels_are_padded_as_by_numpy(sides, value, images):
    def by_hand(x):
        left, right, top, bottom, first, last = sides
        around = [(0, 0), *((max(a, 0), max(b, 0)) for a, b in ((first, last), (top, bottom), (left, right)))]
        inside = tuple(slice(max(0, -a), n + min(0, b)) for n, (a, b) in zip(
            x.shape[1:], ((first, last), (top, bottom), (left, right)), strict=True))
        return np.pad(x[(slice(None), *inside)], around, constant_values=value or 0.0)
    x = np.random.default_rng(0).standard_normal((images, 4, 5, 6))
    model = Function(lambda x: cnn.functional.pad(x, sides, "constant", value))
    wanted = by_hand(x)
    assert_same_bits([model(x), cnn.functional.pad(x, sides, value=value)], [wanted] * 2)
    dy = np.random.default_rng(1).standard_normal(wanted.shape)
    dx = model.backward(dy)
    assert_close(np.array((dx * x).sum()), (dy * (by_hand(x) - by_hand(0 * x))).sum(), 1e-12)     # the transposed map
    assert np.count_nonzero(dx) == dx[:, max(0, -sides[4]):4 + min(0, sides[5]), max(0, -sides[2]):].size


@pytest.mark.parametrize("sides, mode, image", [
    ((0, 0, 0, 0, 1, 1), "reflect", (3, 4, 4)), ((0, 0, 0, 0, 0, 1), "constant", (4, 4)),
    ((0, 0, 0, 0, -3, 0), "constant", (3, 4, 4))])
def test_channels_that_cannot_be_padded(sides, mode, image):
    with pytest.raises(ValueError, match="pad: pad must add channels to images"):
        cnn.functional.pad(np.zeros((2, *image)), sides, mode)
