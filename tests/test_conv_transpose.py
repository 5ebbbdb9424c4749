"""Transposed convolution: its twin against the formula and as the adjoint of a convolution; drawn sizes against
PyTorch. The rows of cases.py test the rest."""

import numpy as np
import pytest
from cases import assert_all_close, assert_close, assert_same_bits, by_layer, central_difference
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import cnn
from cnn import functional, reference


def arrays(n, channels, size, outputs, kernel, groups, seed=0):
    draw = np.random.default_rng(seed).standard_normal
    return draw((n, channels, *size)), draw((channels, outputs // groups, *kernel)), draw(outputs)


def by_definition(x, w, b, stride, padding, output_padding, groups, dilation):
    """Every pixel times the whole kernel, added up; what falls outside of y is lost."""
    (images, channels, height, width), (_, each, tall, wide) = x.shape, w.shape
    out = [(n - 1) * s - 2 * p + d * (k - 1) + more + 1 for n, s, p, d, k, more in zip(
        (height, width), stride, padding, dilation, (tall, wide), output_padding, strict=True)]
    y = np.zeros((images, each * groups, *out)) + b.reshape(-1, 1, 1)
    for n, c, i, j in np.ndindex(x.shape):
        for m, r, s in np.ndindex(each, tall, wide):
            u, v = i * stride[0] + r * dilation[0] - padding[0], j * stride[1] + s * dilation[1] - padding[1]
            if 0 <= u < out[0] and 0 <= v < out[1]:
                y[n, c // (channels // groups) * each + m, u, v] += x[n, c, i, j] * w[c, m, r, s]
    return y


# n, channels, size, outputs, kernel, stride, padding, output_padding, groups, dilation
SIZES = [
    (2, 3, (3, 4), 2, (2, 2), (2, 2), (0, 0), (0, 0), 1, (1, 1)),
    (1, 2, (3, 2), 4, (4, 3), (2, 1), (1, 2), (1, 0), 2, (1, 2)),
    (1, 4, (2, 3), 6, (3, 1), (3, 2), (2, 0), (2, 1), 2, (2, 1)),
    (2, 1, (3, 3), 2, (1, 2), (1, 1), (0, 0), (2, 0), 1, (3, 1)),
    (1, 3, (4, 2), 3, (3, 3), (1, 1), (3, 2), (0, 0), 3, (2, 2)),
]


@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_the_twin_is_its_definition(sizes):
    x, w, b = arrays(*sizes[:5], sizes[8])
    assert_close(reference.conv_transpose2d(x, w, b, *sizes[5:]), by_definition(x, w, b, *sizes[5:]))


@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_gradients_of_the_twin_by_central_differences(sizes):
    x, w, b = arrays(*sizes[:5], sizes[8])
    dy = np.random.default_rng(1).standard_normal(reference.conv_transpose2d(x, w, b, *sizes[5:]).shape)

    def loss():
        return (reference.conv_transpose2d(x, w, b, *sizes[5:]) * dy).sum()

    for got, array in zip(reference.conv_transpose2d_backward(dy, x, w, *sizes[5:]), (x, w, b), strict=True):
        wanted = central_difference(loss, array)
        np.testing.assert_allclose(got, wanted, rtol=1e-6, atol=1e-6 * np.abs(wanted).max())


@pytest.mark.parametrize("m", [functional, reference])
def test_it_is_the_input_gradient_of_a_convolution(m):
    """Of the convolution that has the same weight. Its windows miss a row and a column of `large`: output padding."""
    rng = np.random.default_rng(0)
    large, w = rng.standard_normal((3, 4, 12, 9)), rng.standard_normal((6, 2, 3, 2))
    sizes = {"stride": (2, 3), "padding": (1, 0), "dilation": (2, 1), "groups": 2}
    small = rng.standard_normal(reference.conv2d(large, w, **sizes).shape)
    dx, dw, _ = reference.conv2d_backward(small, large, w, **sizes)
    more = {"output_padding": (1, 1), **sizes}
    assert_close(m.conv_transpose2d(small, w, **more), dx)
    back, dw_too, _ = m.conv_transpose2d_backward(large, small, w, **more)
    assert_close(back, reference.conv2d(large, w, **sizes))
    assert_close(dw_too, dw)


@st.composite
def drawn(draw):
    def two(low, high):
        return draw(st.integers(low, high)), draw(st.integers(low, high))

    groups = draw(st.integers(1, 5))
    channels = groups * draw(st.sampled_from([1, 1, 2, 3, 13]))     # often depthwise
    outputs = groups * draw(st.sampled_from([1, 2, 3, 12]))
    kernel, stride, dilation, padding, size = two(1, 5), two(1, 4), two(1, 3), two(0, 4), two(1, 8)
    if draw(st.booleans()):     # as Winograd's algorithm and depthwise kernels take it
        kernel, dilation, stride = draw(st.sampled_from([(3, 3), (5, 5), (1, 1)])), (1, 1), (1, 1)
    more = tuple(draw(st.integers(0, max(s, d) - 1)) for s, d in zip(stride, dilation, strict=True))
    assume(all((n - 1) * s - 2 * p + d * (k - 1) + m >= 0 for n, s, p, d, k, m in zip(
        size, stride, padding, dilation, kernel, more, strict=True)))
    return draw(st.integers(1, 40)), channels, size, outputs, kernel, stride, padding, more, groups, dilation


@settings(deadline=None, max_examples=60)
@given(sizes=drawn(), bias=st.booleans())
def test_drawn_sizes_agree_with_pytorch(torch, sizes, bias):
    x, w, b = arrays(*sizes[:5], sizes[8])
    b = b if bias else None
    tensors = [None if a is None else torch.tensor(a, requires_grad=True) for a in (x, w, b)]
    y = torch.nn.functional.conv_transpose2d(*tensors, *sizes[5:])
    dy = np.random.default_rng(1).standard_normal(y.shape)
    y.backward(torch.tensor(dy))
    gradients = [t.grad.numpy() for t in tensors if t is not None]
    y = y.detach().numpy()
    assert_close(functional.conv_transpose2d(x, w, b, *sizes[5:]), y)
    got = functional.conv_transpose2d_backward(dy, x, w, *sizes[5:])
    assert_all_close(got[:len(gradients)], gradients)
    layer = cnn.ConvTranspose2d(sizes[1], *sizes[3:9], bias, sizes[9], dtype=np.float64)
    layer.load_state_dict({"weight": w, **({"bias": b} if bias else {})})
    assert_all_close(by_layer(layer, x, dy), [y, *gradients])
    assert_close(layer.eval()(x[:3]), y[:3])        # channels side by side
    assert_close(cnn.Sequential(layer, cnn.ReLU()).eval()(x), np.maximum(y, 0))


@pytest.mark.parametrize("n", [3, 17])
@pytest.mark.parametrize("stride, kernel, channels", [(2, 4, (3, 5)), (1, 3, (13, 14)), (1, 3, (4, 4)), (1, 5, (7, 6))])
def test_a_relu_after_it(n, stride, kernel, channels):
    """In one with it, or after it: where the bias is added afterwards."""
    layer = cnn.ConvTranspose2d(*channels, kernel, stride, groups=4 if channels == (4, 4) else 1, dtype=np.float64)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((n, channels[0], 5, 4))
    y = layer(x).copy()
    dy = rng.standard_normal(y.shape)
    wanted = by_layer(layer, x, np.where(y > 0, dy, 0))
    assert_all_close(by_layer(cnn.Sequential(layer, cnn.ReLU()), x, dy), [np.maximum(y, 0), *wanted[1:]])


def test_a_snapshot_keeps_its_weights():
    layer = cnn.ConvTranspose2d(20, 17, 3, stride=2, dtype=np.float64)
    x = np.random.default_rng(0).standard_normal((2, 20, 4, 5))
    wanted, net = layer(x), cnn.compile(layer, (20, 4, 5))
    first = net(x)
    layer.weight.data *= 2
    assert_close(first, wanted)
    assert_same_bits([net(x)], [first])
    assert np.abs(layer(x) - wanted).max() > 0.1


def test_its_text():
    layer = cnn.ConvTranspose2d(4, 6, (3, 2), 2, (1, 0), output_padding=1, groups=2, bias=False, dilation=2)
    assert repr(layer) == ("ConvTranspose2d(4, 6, kernel_size=(3, 2), stride=(2, 2), padding=(1, 0), "
                           "output_padding=(1, 1), groups=2, dilation=(2, 2), bias=False)")
    assert "conv_transpose2d(kernel=3×2, stride=(2, 2), padding=(1, 0), output_padding=(1, 1), groups=2, " \
           "dilation=(2, 2))" in str(layer.graph((4, 5, 5)))


@pytest.mark.parametrize("make, message", [
    (lambda: cnn.ConvTranspose2d(3, 4, 1, groups=2), "in_channels 3 must be divisible by groups 2"),
    (lambda: cnn.ConvTranspose2d(4, 3, 1, groups=2), "out_channels 3 must be divisible by groups 2"),
    (lambda: cnn.ConvTranspose2d(1, 1, 3, 2, output_padding=2),
     "output_padding must be less than stride 2×2 or dilation 1×1, got 2×2"),
    (lambda: cnn.ConvTranspose2d(1, 1, 3, 2, output_padding=(0, 3), dilation=3), "or dilation 3×3, got 0×3"),
    (lambda: cnn.ConvTranspose2d(1, 1, 2, init="nonsense"), "init must be one of"),
    (lambda: cnn.ConvTranspose2d(1, 1, 2, padding=2)(np.zeros((1, 1, 2, 3), np.float32)),
     "padding leaves nothing of the output: both sides take away 4×4 of 3×4"),
    (lambda: cnn.ConvTranspose2d(3, 2, 2)(np.zeros((1, 4, 2, 2), np.float32)), "x must have 3 channels, got 4"),
    (lambda: cnn.ConvTranspose2d(3, 2, 2)(np.zeros((1, 3), np.float32)), r"x must have shape \(N, C, H, W\)"),
    (lambda: cnn.ConvTranspose2d(1, 1, 2)(np.zeros((1, 1, 0, 2), np.float32)), "every image of x must have pixels"),
    (lambda: cnn.ConvTranspose2d(1, 1, 1, 2**30)(np.zeros((1, 1, 1, 4), np.float32)),
     "the output 1×3221225473 is larger"),
])
def test_what_does_not_fit_is_refused(make, message):
    with pytest.raises(ValueError, match=f"^ConvTranspose2d: .*{message}"):
        make()


def test_words_are_no_padding():
    with pytest.raises(TypeError, match="ConvTranspose2d: padding must be an integer or a pair .*, got 'same'"):
        cnn.ConvTranspose2d(1, 1, 3, padding="same")
