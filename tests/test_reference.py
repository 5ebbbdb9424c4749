"""The NumPy twins against cases by hand, their formulas term by term, central differences and PyTorch."""

import math
import warnings

import numpy as np
import pytest
from cases import central_difference
from hypothesis import given, settings
from hypothesis import strategies as st

from cnn import reference

nan, inf = math.nan, math.inf


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch")


@pytest.fixture(autouse=True)
def no_numpy_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        yield


def rng(seed=0):
    return np.random.default_rng(seed)


def assert_gradient(got, wanted):
    np.testing.assert_allclose(got, wanted, rtol=1e-6, atol=1e-6 * np.abs(wanted).max())


def assert_close(got, wanted):
    np.testing.assert_allclose(got, wanted, rtol=1e-10, atol=1e-10)


# ------------------------------------------------------------------------------------------ convolution

# N, C, H, W, K, kernel, stride, padding, dilation, groups
CONV = {
    "plain": (2, 3, 5, 6, 4, (3, 2), 1, 0, 1, 1),
    "1x1": (2, 3, 3, 2, 2, (1, 1), 1, 0, 1, 1),
    "stride": (1, 2, 7, 8, 3, (3, 3), (2, 3), 0, 1, 1),
    "stride beyond kernel": (1, 2, 7, 8, 3, (1, 2), (3, 4), 0, 1, 1),
    "padding": (2, 1, 4, 3, 2, (3, 3), 1, (2, 1), 1, 1),
    "same": (1, 2, 4, 5, 2, (4, 3), 1, "same", (1, 2), 1),
    "valid": (1, 2, 4, 5, 2, (2, 3), 2, "valid", 1, 1),
    "dilation": (1, 2, 8, 7, 2, (3, 2), 1, 1, (2, 3), 1),
    "groups": (2, 4, 4, 4, 6, (3, 2), 1, 1, 1, 2),
    "depthwise": (1, 3, 5, 5, 6, (3, 3), 2, 1, 1, 3),
    "everything": (2, 4, 9, 8, 4, (3, 2), (2, 1), (1, 2), (2, 3), 2),
    "one pixel": (1, 1, 1, 1, 1, (1, 1), 1, 0, 1, 1),
    "no image": (0, 2, 4, 4, 3, (3, 3), 1, 1, 1, 1),
}


def conv_arrays(n, c, height, width, k, kernel, groups, seed=0):
    draw = rng(seed).standard_normal
    return draw((n, c, height, width)), draw((k, c // groups, *kernel)), draw(k)


def as_pair(size):
    return (size, size) if isinstance(size, int) else size


def conv_by_definition(x, w, b, stride, pad, dilation, groups):
    """The formula of conv2d term by term, with padding a pair; pixels outside x count as zero."""
    (n_images, _, height, width), (k_channels, c_channels, kernel_h, kernel_w) = x.shape, w.shape
    out_h = (height + 2 * pad[0] - (kernel_h - 1) * dilation[0] - 1) // stride[0] + 1
    out_w = (width + 2 * pad[1] - (kernel_w - 1) * dilation[1] - 1) // stride[1] + 1
    y = np.zeros((n_images, k_channels, out_h, out_w))
    for n, k, i, j in np.ndindex(y.shape):
        first = k // (k_channels // groups) * c_channels  # the first input channel of k's group
        y[n, k, i, j] = b[k]
        for c, r, s in np.ndindex(w.shape[1:]):
            u, v = i * stride[0] + r * dilation[0] - pad[0], j * stride[1] + s * dilation[1] - pad[1]
            if 0 <= u < height and 0 <= v < width:
                y[n, k, i, j] += x[n, first + c, u, v] * w[k, c, r, s]
    return y


def test_conv2d_by_hand():
    x = np.arange(1.0, 10).reshape(1, 1, 3, 3)
    w = np.array([[[[1.0, 2], [3, 4]]]])
    y = reference.conv2d(x, w, np.array([100.0]))
    assert y.tolist() == [[[[137, 147], [167, 177]]]]  # 1·1 + 2·2 + 3·4 + 4·5 + 100, …
    dx, dw, db = reference.conv2d_backward(np.array([[[[1.0, 0], [0, 10]]]]), x, w)
    assert dx.tolist() == [[[[1, 2, 0], [3, 14, 20], [0, 30, 40]]]]  # w once at (0, 0), ten times at (1, 1)
    assert dw.tolist() == [[[[51, 62], [84, 95]]]]  # 1·1 + 10·5, …
    assert db.tolist() == [11]


@pytest.mark.parametrize("case", [name for name in CONV if name not in ("same", "valid")])
def test_conv2d_is_its_definition(case):
    n, c, height, width, k, kernel, stride, padding, dilation, groups = CONV[case]
    x, w, b = conv_arrays(n, c, height, width, k, kernel, groups)
    wanted = conv_by_definition(x, w, b, as_pair(stride), as_pair(padding), as_pair(dilation), groups)
    assert_close(reference.conv2d(x, w, b, stride, padding, dilation, groups), wanted)


@pytest.mark.parametrize("case", [name for name in CONV if name != "no image"])
def test_conv2d_gradients_by_central_differences(case):
    n, c, height, width, k, kernel, *sizes = CONV[case]
    x, w, b = conv_arrays(n, c, height, width, k, kernel, groups=sizes[-1])
    dy = rng(1).standard_normal(reference.conv2d(x, w, b, *sizes).shape)

    def loss():
        return (reference.conv2d(x, w, b, *sizes) * dy).sum()

    for got, array in zip(reference.conv2d_backward(dy, x, w, *sizes), (x, w, b), strict=True):
        assert_gradient(got, central_difference(loss, array))


def assert_conv_is_torchs(torch, n, c, height, width, k, kernel, *sizes):
    arrays = conv_arrays(n, c, height, width, k, kernel, groups=sizes[-1], seed=2)
    tensors = [torch.tensor(a, requires_grad=True) for a in arrays]
    wanted = torch.nn.functional.conv2d(*tensors, *sizes)
    y = reference.conv2d(*arrays, *sizes)
    assert_close(y, wanted.detach())
    assert_close(reference.conv2d(*arrays[:2], None, *sizes) + arrays[2].reshape(-1, 1, 1), y)
    dy = rng(3).standard_normal(y.shape)
    wanted.backward(torch.tensor(dy))
    for got, tensor in zip(reference.conv2d_backward(dy, *arrays[:2], *sizes), tensors, strict=True):
        assert_close(got, tensor.grad)


@pytest.mark.parametrize("case", CONV)
def test_conv2d_agrees_with_pytorch(torch, case):
    # PyTorch warns that it copies the input to pad it unevenly.
    warnings.simplefilter("ignore", UserWarning)
    assert_conv_is_torchs(torch, *CONV[case])


@st.composite
def conv_cases(draw):
    def two(low, high):
        return draw(st.integers(low, high)), draw(st.integers(low, high))

    n, groups, in_group, out_group = (draw(st.integers(1, 3)) for _ in range(4))
    kernel, stride, dilation, padding = two(1, 4), two(1, 3), two(1, 3), two(0, 3)
    # The smallest side that the kernel fits in, and some more.
    height, width = (
        max((k - 1) * d + 1 - 2 * p, 1) + more
        for k, d, p, more in zip(kernel, dilation, padding, two(0, 5), strict=True)
    )
    return n, groups * in_group, height, width, groups * out_group, kernel, stride, padding, dilation, groups


@settings(deadline=None)
@given(case=conv_cases())
def test_drawn_conv2d_agrees_with_pytorch(torch, case):
    assert_conv_is_torchs(torch, *case)


def test_conv2d_refuses_what_does_not_fit():
    x, w = np.zeros((1, 4, 5, 5)), np.zeros((6, 2, 3, 3))
    assert reference.conv2d(x, w, groups=2).shape == (1, 6, 3, 3)
    with pytest.raises(ValueError, match="larger than the padded input"):
        reference.conv2d(x, np.zeros((6, 4, 6, 3)))
    for groups in (0, 1, 3):
        with pytest.raises(ValueError, match="groups"):
            reference.conv2d(x, w, groups=groups)
    with pytest.raises(ValueError, match="groups"):
        reference.conv2d_backward(np.zeros((1, 5, 3, 3)), x, w[:5], groups=2)


# ------------------------------------------------------------------------------------------ max pooling

# H, W, kernel, stride, padding, ceil_mode
POOL = {
    "plain": (4, 6, 2, None, 0, False),
    "rest is dropped": (5, 7, 2, None, 0, False),
    "rest is kept": (5, 7, 2, None, 0, True),
    "overlap": (6, 7, 3, 2, 0, False),
    "overlap, padding": (6, 7, 3, 2, 1, False),
    "overlap, padding, ceil": (6, 7, (3, 4), (2, 1), (1, 2), True),
    "window in far padding": (3, 3, 2, 2, 1, True),
    "gaps": (8, 9, 2, (3, 4), (0, 1), True),
    "window over everything": (3, 4, (3, 4), 1, 0, False),
    "ceil of a small input": (2, 2, 3, 2, 0, True),
    "1x1": (3, 2, 1, None, 0, False),
}


def pool_by_definition(x, kernel, stride, pad, ceil_mode):
    """Maximum and its place of each window, which is gathered pixel by pixel."""
    n, c, height, width = x.shape

    def starts(axis):
        side, count = x.shape[2 + axis], 0
        while True:
            start = count * stride[axis] - pad[axis]
            over = start + kernel[axis] > side + pad[axis]
            rest = start - stride[axis] + kernel[axis] < side + pad[axis]
            if (over and not (ceil_mode and rest)) or start >= side:
                return
            yield start
            count += 1

    rows, columns = list(starts(0)), list(starts(1))
    y = np.zeros((n, c, len(rows), len(columns)))
    indices = np.zeros(y.shape, np.int64)
    for a, b, i, j in np.ndindex(y.shape):
        window = [
            u * width + v
            for u in range(rows[i], rows[i] + kernel[0])
            for v in range(columns[j], columns[j] + kernel[1])
            if 0 <= u < height and 0 <= v < width
        ]
        values = [x[a, b].flat[place] for place in window]
        y[a, b, i, j] = max(values)
        indices[a, b, i, j] = window[values.index(max(values))]
    return y, indices


def pool_input(n, c, height, width, seed=0):
    """Pixels that all differ by at least 0.1, so that a small change moves no maximum; low odd planes."""
    x = 0.1 * rng(seed).permutation(n * c * height * width).reshape(n, c, height, width)
    return x - x.mean() - 5 * (np.arange(c) % 2).reshape(-1, 1, 1)


def test_max_pool2d_by_hand():
    x = np.array([[[[1.0, 5, 2], [4, 3, 0], [7, 6, 8]]]])
    y, indices = reference.max_pool2d(x, 2, stride=1)
    assert y.tolist() == [[[[5, 5], [7, 8]]]]
    assert indices.tolist() == [[[[1, 1], [6, 8]]]] and indices.dtype == np.int64
    dx = reference.max_pool2d_backward(np.array([[[[1.0, 10], [100, 1000]]]]), indices, x.shape)
    assert dx.tolist() == [[[[0, 11, 0], [0, 0, 0], [100, 0, 1000]]]]  # two windows share the 5


@pytest.mark.parametrize("case", POOL)
def test_max_pool2d_is_its_definition(case):
    height, width, kernel, stride, padding, ceil_mode = POOL[case]
    x = pool_input(2, 2, height, width)
    y, indices = reference.max_pool2d(x, kernel, stride, padding, ceil_mode=ceil_mode)
    stride = kernel if stride is None else stride
    wanted = pool_by_definition(x, as_pair(kernel), as_pair(stride), as_pair(padding), ceil_mode)
    assert np.array_equal(y, wanted[0]) and np.array_equal(indices, wanted[1])


@pytest.mark.parametrize("case", POOL)
def test_max_pool2d_gradient_by_central_differences(case):
    height, width, kernel, stride, padding, ceil_mode = POOL[case]
    sizes = kernel, stride, padding, 1, ceil_mode
    x = pool_input(1, 2, height, width)
    y, indices = reference.max_pool2d(x, *sizes)
    dy = rng(1).standard_normal(y.shape)
    wanted = central_difference(lambda: (reference.max_pool2d(x, *sizes)[0] * dy).sum(), x)
    assert_gradient(reference.max_pool2d_backward(dy, indices, x.shape), wanted)


def assert_pool_is_torchs(torch, x, kernel, stride, padding, ceil_mode):
    t = torch.tensor(x, requires_grad=True)
    wanted, wanted_indices = torch.nn.functional.max_pool2d(
        t, kernel, stride, padding, ceil_mode=ceil_mode, return_indices=True
    )
    y, indices = reference.max_pool2d(x, kernel, stride, padding, ceil_mode=ceil_mode)
    np.testing.assert_array_equal(y, wanted.detach().numpy())
    np.testing.assert_array_equal(indices, wanted_indices.numpy())
    dy = rng(1).standard_normal(y.shape)
    wanted.backward(torch.tensor(dy))
    assert_close(reference.max_pool2d_backward(dy, indices, x.shape), t.grad)


@pytest.mark.parametrize("case", POOL)
def test_max_pool2d_agrees_with_pytorch(torch, case):
    height, width, *sizes = POOL[case]
    assert_pool_is_torchs(torch, pool_input(2, 3, height, width), *sizes)


@st.composite
def pool_cases(draw):
    """Few different pixel values, so that ties, NaN and -inf fall into most windows."""
    kernel = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    stride = draw(st.integers(1, 5)), draw(st.integers(1, 5))
    padding = tuple(draw(st.integers(0, k // 2)) for k in kernel)
    shape = draw(st.tuples(st.integers(1, 2), st.integers(1, 2), st.integers(4, 9), st.integers(4, 9)))
    pixels = draw(st.sampled_from([[0.0, 1.0, 2.0], [-inf, -1.0], [-1.0, nan], [0.0, 1.0, nan, inf, -inf]]))
    x = rng(draw(st.integers(0, 2**32))).choice(pixels, shape)
    return x, kernel, stride, padding, draw(st.booleans())


@settings(deadline=None)
@given(case=pool_cases())
def test_drawn_max_pool2d_with_ties_and_nan_agrees_with_pytorch(torch, case):
    assert_pool_is_torchs(torch, *case)


def test_max_pool2d_ties_go_to_the_first():
    y, indices = reference.max_pool2d(np.ones((1, 1, 4, 4)), 3, stride=1)
    assert indices.tolist() == [[[[0, 1], [4, 5]]]]
    assert reference.max_pool2d_backward(y, indices, (1, 1, 4, 4))[0, 0, :2, :2].tolist() == [[1, 1], [1, 1]]


@pytest.mark.parametrize("value", [-inf, -1e30, nan])
def test_max_pool2d_padding_never_wins(value):
    y, indices = reference.max_pool2d(np.full((1, 1, 3, 3), value), 3, stride=2, padding=1)
    assert np.array_equal(y, np.full((1, 1, 2, 2), value), equal_nan=True)
    last_wins = math.isnan(value)  # as in PyTorch
    assert indices.tolist() == [[[[4, 5], [7, 8]]]] if last_wins else [[[[0, 1], [3, 4]]]]


def test_max_pool2d_nan_beats_numbers():
    x = np.array([[[[1.0, nan, inf, 2.0]]]])
    y, indices = reference.max_pool2d(x, (1, 4))
    assert np.isnan(y).all() and indices.tolist() == [[[[1]]]]


def test_max_pool2d_refuses_bad_sizes():
    with pytest.raises(ValueError, match="at most half"):
        reference.max_pool2d(np.zeros((1, 1, 5, 5)), 3, padding=2)
    with pytest.raises(ValueError, match="larger than the padded input"):
        reference.max_pool2d(np.zeros((1, 1, 5, 2)), 3)


def test_avg_pool2d_by_hand():
    x = np.array([[[[1.0, 5, 2], [4, 3, 0], [7, 6, 8]]]])
    assert reference.avg_pool2d(x, 2, stride=1).tolist() == [[[[13 / 4, 10 / 4], [20 / 4, 17 / 4]]]]
    dx = reference.avg_pool2d_backward(np.array([[[[4.0, 40], [400, 4000]]]]), x.shape, 2, stride=1)
    assert dx.tolist() == [[[[1, 11, 10], [101, 1111, 1010], [100, 1100, 1000]]]]
    # 0 1 5 2 0 in windows of two: the third has one pixel beside the padding, which counts or does not
    row = x[:, :, :1]
    assert reference.avg_pool2d(row, (1, 2), padding=(0, 1), ceil_mode=True).tolist() == [[[[0.5, 3.5]]]]
    assert reference.avg_pool2d(row, (1, 2), 2, (0, 1), True, False).tolist() == [[[[1, 3.5]]]]


@pytest.mark.parametrize("count_include_pad", [True, False])
@pytest.mark.parametrize("case", POOL)
def test_avg_pool2d_agrees_with_pytorch(torch, case, count_include_pad):
    height, width, kernel, stride, *rest = POOL[case]
    sizes = kernel, stride, *rest, count_include_pad
    x = pool_input(2, 3, height, width)
    t = torch.tensor(x, requires_grad=True)
    wanted = torch.nn.functional.avg_pool2d(t, *sizes)
    y = reference.avg_pool2d(x, *sizes)
    assert_close(y, wanted.detach())
    dy = rng(1).standard_normal(y.shape)
    wanted.backward(torch.tensor(dy))
    assert_close(reference.avg_pool2d_backward(dy, x.shape, *sizes), t.grad)


def test_adaptive_pooling_by_hand():
    x = np.array([[[[1.0, 5, 2, 4, 3]]]])
    # windows of 5 pixels in 3: 0 to 2, 1 to 4, 3 to 5
    assert reference.adaptive_avg_pool2d(x, (1, 3)).tolist() == [[[[3, 11 / 3, 3.5]]]]
    dx = reference.adaptive_avg_pool2d_backward(np.array([[[[2.0, 30, 400]]]]), x.shape)
    assert dx.tolist() == [[[[1, 11, 10, 210, 200]]]]
    y, indices = reference.adaptive_max_pool2d(x, (1, 3))
    assert y.tolist() == [[[[5, 5, 4]]]] and indices.tolist() == [[[[1, 1, 3]]]]
    x[..., 1:3] = nan
    assert reference.adaptive_max_pool2d(x, (1, 3))[1].tolist() == [[[[1, 2, 3]]]]  # the last NaN, as in PyTorch


# ----------------------------------------------------------------------------------------------- linear


def test_linear_by_hand():
    x, w = np.array([[1.0, 2, 3], [4, 5, 6]]), np.array([[1.0, 0, -1], [2, 1, 0]])
    assert reference.linear(x, w, np.array([10.0, 20])).tolist() == [[8, 24], [8, 33]]
    assert reference.linear(x, w).tolist() == [[-2, 4], [-2, 13]]
    dx, dw, db = reference.linear_backward(np.array([[1.0, 0], [0, 10]]), x, w)
    assert dx.tolist() == [[1, 0, -1], [20, 10, 0]]
    assert dw.tolist() == [[1, 2, 3], [40, 50, 60]]
    assert db.tolist() == [1, 10]


def test_linear_gradients_by_central_differences():
    draw = rng().standard_normal
    x, w, b, dy = draw((4, 5)), draw((3, 5)), draw(3), draw((4, 3))
    for got, array in zip(reference.linear_backward(dy, x, w), (x, w, b), strict=True):
        assert_gradient(got, central_difference(lambda: (reference.linear(x, w, b) * dy).sum(), array))


# ------------------------------------------------------------------------------------------ activations

# Each row: forward, backward from (dy, x), PyTorch's forward.
ACTIVATIONS = {
    "relu": (reference.relu, lambda dy, x: reference.relu_backward(dy, reference.relu(x)), "relu"),
    "leaky_relu": (
        lambda x: reference.leaky_relu(x, 0.01),
        lambda dy, x: reference.leaky_relu_backward(dy, x, 0.01),
        "leaky_relu",
    ),
    "tanh": (reference.tanh, lambda dy, x: reference.tanh_backward(dy, reference.tanh(x)), "tanh"),
    "sigmoid": (
        reference.sigmoid,
        lambda dy, x: reference.sigmoid_backward(dy, reference.sigmoid(x)),
        "sigmoid",
    ),
    "silu": (reference.silu, reference.silu_backward, "silu"),
    "gelu": (reference.gelu, reference.gelu_backward, "gelu"),
}


def test_activations_by_hand():
    x, dy = np.array([-2.0, 0.0, 3.0]), np.array([10.0, 10.0, 10.0])
    assert reference.relu(x).tolist() == [0, 0, 3]
    assert reference.relu_backward(dy, reference.relu(x)).tolist() == [0, 0, 10]
    assert reference.leaky_relu(x, 0.5).tolist() == [-1, 0, 3]
    assert reference.leaky_relu_backward(dy, x, 0.5).tolist() == [5, 5, 10]
    assert reference.tanh(np.array([0.5 * math.log(3)])) == pytest.approx([0.5])
    assert reference.tanh_backward(dy, np.array([0.5])) == pytest.approx([7.5] * 3)
    assert reference.sigmoid(np.array([math.log(3), -math.log(3)])) == pytest.approx([0.75, 0.25])
    assert reference.sigmoid_backward(dy, np.array([0.25])) == pytest.approx([1.875] * 3)


def test_smooth_activations_by_hand():
    x = np.array([-math.log(3), 0, math.log(3)])
    assert reference.silu(x) == pytest.approx(x * [0.25, 0.5, 0.75])
    assert reference.silu_backward(np.full(3, 4.0), x)[1] == 2
    x = np.array([-1.0, 0, 1])
    one_sigma = 0.6826894921370859  # of the normal distribution lies within one standard deviation
    assert reference.gelu(x) == pytest.approx(x * [(1 - one_sigma) / 2, 0.5, (1 + one_sigma) / 2])
    assert reference.gelu_backward(np.full(3, 4.0), x)[1] == 2


def test_gelu_by_tanh_is_near_and_agrees_with_pytorch(torch):
    x, dy = np.linspace(-6, 6, 101), np.linspace(1, 2, 101)
    y, dx = reference.gelu(x, "tanh"), reference.gelu_backward(dy, x, "tanh")
    t = torch.tensor(x, requires_grad=True)
    wanted = torch.nn.functional.gelu(t, approximate="tanh")
    wanted.backward(torch.tensor(dy))
    assert_close(y, wanted.detach())
    assert_close(dx, t.grad)
    assert 1e-5 < np.abs(y - reference.gelu(x)).max() < 1e-3


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activation_gradient_by_central_differences(name):
    forward, backward, _ = ACTIVATIONS[name]
    x, dy = rng().standard_normal((2, 4, 5)), rng(1).standard_normal((2, 4, 5))
    x += 0.01 * np.sign(x)  # stay clear of the kink at 0
    assert_gradient(backward(dy, x), central_difference(lambda: (forward(x) * dy).sum(), x))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activation_agrees_with_pytorch_on_special_values(torch, name, dtype):
    forward, backward, of_torch = ACTIVATIONS[name]
    x = np.array([nan, inf, -inf, 1e4, -1e4, 88.8, -88.8, 0.0, -0.0, 1.5, -1.5, 1e-5, -1e-30], dtype)
    if name in ("silu", "gelu"):
        x = x[~np.isinf(x)]  # inf * 0 would be NaN
    t = torch.tensor(x, requires_grad=True)
    wanted = getattr(torch.nn.functional, of_torch)(t)
    wanted.backward(torch.full_like(t, 3))
    y, dx = forward(x), backward(np.full_like(x, 3), x)
    assert y.dtype == dx.dtype == dtype
    tolerance = 1e-6 if dtype == np.float32 else 1e-12
    # PyTorch's float32 sigmoid(-88.8) is 0, ours is 2.7e-39; near y = 1 a rounding of 1 - y shows in dx.
    np.testing.assert_allclose(y, wanted.detach().numpy(), rtol=tolerance, atol=1e-36)
    np.testing.assert_allclose(dx, t.grad.numpy(), rtol=tolerance, atol=tolerance)


# ----------------------------------------------------------------------------------------------- losses


def test_softmax_by_hand():
    x = np.log([[1.0, 3.0, 4.0], [2.0, 2.0, 4.0]])
    wanted = [[0.125, 0.375, 0.5], [0.25, 0.25, 0.5]]
    assert_close(reference.softmax(x), wanted)
    assert_close(reference.log_softmax(x), np.log(wanted))
    images = np.zeros((2, 4, 3, 3))
    assert np.all(reference.softmax(images) == 0.25)  # over axis 1, whatever follows
    assert reference.softmax(np.array([[1e4, -1e4]])).tolist() == [[1, 0]]
    assert reference.log_softmax(np.array([[1e4, -1e4]])).tolist() == [[0, -2e4]]


@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
@pytest.mark.parametrize("shape", [(3, 5), (2, 3, 2, 2)])
def test_softmax_gradient_by_central_differences(name, shape):
    forward, backward = getattr(reference, name), getattr(reference, f"{name}_backward")
    x, dy = rng().standard_normal((2, *shape))
    assert_gradient(backward(dy, forward(x)), central_difference(lambda: (forward(x) * dy).sum(), x))


def test_cross_entropy_by_hand():
    loss, dlogits = reference.cross_entropy(np.log([[1.0, 3.0], [1.0, 1.0]]), np.array([1, 0]))
    assert loss == pytest.approx(-(math.log(0.75) + math.log(0.5)) / 2)
    assert_close(dlogits, [[0.125, -0.125], [-0.25, 0.25]])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_cross_entropy_of_huge_scores(dtype):
    logits = np.array([[1e4, -1e4, 0], [-1e4, 1e4, 1e4]], dtype)
    loss, dlogits = reference.cross_entropy(logits, np.array([1, 1]))
    assert loss == pytest.approx((2e4 + math.log(2)) / 2)
    assert dlogits.tolist() == [[0.5, -0.5, 0], [0, -0.25, 0.25]] and dlogits.dtype == dtype
    loss, dlogits = reference.cross_entropy(np.array([[0.0, -inf]], dtype), np.array([0]))
    assert loss == 0 and dlogits.tolist() == [[0, 0]]


WEIGHTS = np.array([0.5, 2.0, 1.0, 3.0])
CROSS_ENTROPY = [
    (0.0, None),
    (0.1, None),
    (1.0, None),
    (0.0, WEIGHTS),
    (0.3, WEIGHTS),
    (0.0, np.array([0.0, 2.0, 1.0, 3.0])),
]


@pytest.mark.parametrize(("smoothing", "weight"), CROSS_ENTROPY)
def test_cross_entropy_gradient_by_central_differences(smoothing, weight):
    logits, targets = rng().standard_normal((5, 4)), np.array([0, 1, 2, 3, 1])
    _, dlogits = reference.cross_entropy(logits, targets, smoothing, weight)

    def loss():
        return reference.cross_entropy(logits, targets, smoothing, weight)[0]

    wanted = central_difference(loss, logits)
    assert_gradient(dlogits, wanted)


@pytest.mark.parametrize(("smoothing", "weight"), CROSS_ENTROPY)
def test_cross_entropy_agrees_with_pytorch(torch, smoothing, weight):
    logits, targets = 5 * rng().standard_normal((7, 4)), np.array([3, 1, 2, 3, 1, 0, 0])
    loss, dlogits = reference.cross_entropy(logits, targets, smoothing, weight)
    t = torch.tensor(logits, requires_grad=True)
    wanted = torch.nn.functional.cross_entropy(
        t,
        torch.tensor(targets),
        weight=None if weight is None else torch.tensor(weight),
        label_smoothing=smoothing,
    )
    wanted.backward()
    assert loss == pytest.approx(wanted.item(), rel=1e-10)
    assert_close(dlogits, t.grad)


def test_cross_entropy_keeps_nan_and_refuses_strange_targets():
    loss, dlogits = reference.cross_entropy(np.array([[nan, 0.0], [0.0, 0.0]]), np.array([1, 1]))
    assert math.isnan(loss) and np.isnan(dlogits[0]).all() and dlogits[1].tolist() == [0.25, -0.25]
    for target in (-1, 2):
        with pytest.raises(ValueError, match="target must be in"):
            reference.cross_entropy(np.zeros((1, 2)), np.array([target]))


def test_mse():
    prediction, target = np.array([[1.0, 2], [3, 4]]), np.array([[1.0, 0], [0, 4]])
    loss, dprediction = reference.mse(prediction, target)
    assert loss == 13 / 4
    assert dprediction.tolist() == [[0, 1], [1.5, 0]]
    wanted = central_difference(lambda: reference.mse(prediction, target)[0], prediction)
    assert_gradient(dprediction, wanted)


def test_float32_stays_float32():
    x, w, b = (a.astype(np.float32) for a in conv_arrays(2, 3, 5, 5, 4, (3, 3), groups=1))
    y = reference.conv2d(x, w, b)
    pooled, indices = reference.max_pool2d(y, 2)
    scores = reference.linear(pooled.reshape(2, -1), np.ones((3, 4), np.float32), np.ones(3, np.float32))
    results = [
        y,
        *reference.conv2d_backward(y, x, w),
        pooled,
        reference.max_pool2d_backward(pooled, indices, y.shape),
        scores,
        *reference.linear_backward(scores, pooled.reshape(2, -1), np.ones((3, 4), np.float32)),
        reference.softmax(scores),
        reference.log_softmax(scores),
        reference.cross_entropy(scores, np.array([0, 2]), 0.1)[1],
        reference.mse(scores, scores)[1],
    ]
    assert [result.dtype for result in results] == [np.float32] * len(results)


# ------------------------------------------------------------------------------------------- optimizers


def assert_optimizer_is_torchs(torch, optimizer, update):
    """Run both for 50 steps on the same gradients, which shrink and turn as they would in training."""
    w = rng().standard_normal(7)
    t = torch.tensor(w, requires_grad=True)
    of_torch = optimizer([t])
    for step, noise in enumerate(rng(1).standard_normal((50, 7))):
        g = 0.5 * w + noise / (step + 1)
        kept = g.copy()
        t.grad = torch.tensor(g)
        of_torch.step()
        assert update(w, g, step) is None
        assert np.array_equal(g, kept)
        np.testing.assert_allclose(w, t.detach().numpy(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("weight_decay", [0, 0.05])
@pytest.mark.parametrize(("momentum", "nesterov"), [(0, False), (0.9, False), (0.8, True)])
def test_sgd_agrees_with_pytorch(torch, momentum, nesterov, weight_decay):
    lr, velocity = 0.1, np.zeros(7) if momentum else None
    assert_optimizer_is_torchs(
        torch,
        lambda p: torch.optim.SGD(p, lr, momentum=momentum, nesterov=nesterov, weight_decay=weight_decay),
        lambda w, g, i: reference.sgd_update(w, g, velocity, lr, momentum, nesterov, weight_decay, i == 0),
    )


@pytest.mark.parametrize("decoupled", [False, True])
@pytest.mark.parametrize("weight_decay", [0, 0.1])
@pytest.mark.parametrize(("beta1", "beta2", "eps"), [(0.9, 0.999, 1e-8), (0.5, 0.9, 1e-2)])
def test_adam_agrees_with_pytorch(torch, beta1, beta2, eps, weight_decay, decoupled):
    m, v = np.zeros(7), np.zeros(7)
    kind = torch.optim.AdamW if decoupled else torch.optim.Adam
    assert_optimizer_is_torchs(
        torch,
        lambda p: kind(p, 0.05, (beta1, beta2), eps, weight_decay),
        lambda w, g, i: reference.adam_update(
            w, g, m, v, i + 1, 0.05, beta1, beta2, eps, weight_decay, decoupled
        ),
    )


@pytest.mark.parametrize("centered", [False, True])
@pytest.mark.parametrize("momentum", [0, 0.9])
@pytest.mark.parametrize(("alpha", "eps", "weight_decay"), [(0.99, 1e-8, 0), (0.8, 1e-2, 0.1)])
def test_rmsprop_agrees_with_pytorch(torch, alpha, eps, weight_decay, momentum, centered):
    square, grad_avg, velocity = np.zeros((3, 7))
    grad_avg, velocity = grad_avg if centered else None, velocity if momentum else None
    assert_optimizer_is_torchs(
        torch,
        lambda p: torch.optim.RMSprop(p, 0.01, alpha, eps, weight_decay, momentum, centered),
        lambda w, g, _: reference.rmsprop_update(
            w, g, square, grad_avg, velocity, 0.01, alpha, eps, weight_decay, momentum, centered
        ),
    )


def test_average_by_hand():
    slow, w = np.array([1.0, 2.0]), np.array([5.0, 2.0])
    reference.average_update(slow, w, 0.75, False)
    assert slow.tolist() == [2, 2] and w.tolist() == [5, 2]
    reference.average_update(slow, w, 0.5, True)
    assert slow.tolist() == w.tolist() == [3.5, 2]


def test_optimizers_by_hand():
    w, velocity = np.array([1.0]), np.array([99.0])  # the first step must not look at the velocity
    reference.sgd_update(w, np.array([2.0]), velocity, 0.5, 0.5, True, 0.0, True)
    assert w == [1 - 0.5 * (2 + 0.5 * 2)] and velocity == [2]
    reference.sgd_update(w, np.array([4.0]), velocity, 0.5, 0.5, False, 0.0, False)
    assert velocity == [0.5 * 2 + 4] and w == [-0.5 - 0.5 * 5]
    # Adam's first step is lr in the direction of the gradient, whatever its size.
    w, g, m, v = np.array([1.0, 1.0]), np.array([1e-3, -50]), np.zeros(2), np.zeros(2)
    reference.adam_update(w, g, m, v, 1, 0.1, 0.9, 0.999, 0.0, 0.0, False)
    assert w == pytest.approx([0.9, 1.1])
    w = np.array([1.0])
    reference.rmsprop_update(w, np.array([3.0]), np.zeros(1), None, None, 0.1, 0.75, 0.5, 0.0, 0.0, False)
    assert w == pytest.approx([1 - 0.1 * 3 / (1.5 + 0.5)])
