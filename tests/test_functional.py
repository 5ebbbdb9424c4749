"""cnn.functional: the kernels against their NumPy twins, central differences and PyTorch."""

import warnings

import numpy as np
import pytest
from cases import (
    CASES,
    DTYPES,
    assert_all_close,
    assert_close,
    assert_gradient,
    assert_same_bits,
    by_function,
    by_torch,
    by_twin,
    spread,
)
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from cnn import functional, reference

BATCHES = [1, 2, 15, 16, 17, 33]
# Layers without parameters and without a kernel have no function, nor have those made of others.
TABLE = [
    case
    for case in CASES
    if case.layer not in ("Dropout", "Dropout1d", "Dropout2d", "Flatten", "Sequential", "Residual", "Concat")
]
examples = settings(max_examples=60)


# ------------------------------------------------------------------------------------------ the table


@pytest.mark.parametrize("n", [1, 17, 275])  # 275 images are 18 blocks: two for most shards
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", TABLE, ids=str)
def test_agrees_with_the_twin(case, dtype, n):
    layer, (x, dy) = case.make(dtype), case.arrays(n, dtype)
    got = by_function(functional, layer, x, dy)
    assert all(a.dtype == dtype for a in got)
    assert_all_close(got, by_twin(layer, x, dy))


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize("case", TABLE, ids=str)
def test_agrees_with_pytorch(torch, case):
    layer, (x, dy) = case.make(), case.arrays(19)
    got = by_function(functional, layer, x, dy)
    assert_all_close(got, by_torch(torch, case.torch_twin(torch, layer), x, dy), case.torch_tolerance)


@pytest.mark.thorough
@pytest.mark.parametrize("case", TABLE, ids=str)
def test_gradients_by_central_differences(case):
    layer, (x, dy) = case.make(), case.arrays(2)

    def loss():
        return (by_function(functional, layer, x, dy)[0] * dy).sum()

    _, *gradients = by_function(functional, layer, x, dy)
    arrays = [x, *(p.data for p in layer.parameters())]
    for gradient, array in zip(gradients, arrays, strict=True):
        if array.size <= 600:  # the widest weights are compared with the twin only
            assert_gradient(gradient, loss, array)


@pytest.mark.parametrize("case", TABLE, ids=str)
def test_empty_batch_has_zero_gradients(case):
    layer, (x, dy) = case.make(), case.arrays(0)
    y, dx, *gradients = by_function(functional, layer, x, dy)
    assert y.shape == (0, *case.out) and dx.shape == (0, *case.shape)
    assert not any(gradient.any() for gradient in gradients)


@pytest.mark.parametrize("case", TABLE, ids=str)
def test_leftovers_of_a_larger_batch_do_no_harm(case):
    layer, (x, dy) = case.make(), case.arrays(5)
    spoilt = [np.full((40, *a.shape[1:]), np.nan) for a in (x, dy)]
    by_function(functional, layer, *spoilt)
    assert_all_close(by_function(functional, layer, x, dy), by_twin(layer, x, dy))


@pytest.mark.parametrize("case", TABLE, ids=str)
def test_memory_order_byte_order_and_write_protection_do_not_matter(case):
    layer, (x, dy) = case.make(np.float32), case.arrays(5, np.float32)
    wanted = by_function(functional, layer, x, dy)

    def reversed_axes(a):
        return np.ascontiguousarray(a.T).T

    def every_second(a):
        return np.repeat(a, 2, axis=-1)[..., ::2]

    def backwards(a):
        return np.ascontiguousarray(a[::-1])[::-1]

    def unaligned(a):
        room = np.zeros(a.nbytes + 1, np.uint8)[1:].view(a.dtype).reshape(a.shape)
        room[...] = a
        return room

    def read_only(a):
        copy = a.copy()
        copy.flags.writeable = False
        return copy

    def big_endian(a):
        return a.astype(a.dtype.newbyteorder(">"))

    for change in (reversed_axes, every_second, backwards, unaligned, read_only, big_endian):
        changed = change(x), change(dy)
        got = by_function(functional, layer, *changed)
        for g, w in zip(got, wanted, strict=True):
            assert np.array_equal(g, w) and g.dtype == np.float32, change.__name__
            assert g.flags.c_contiguous and g.flags.writeable
        assert np.array_equal(changed[0], x) and np.array_equal(changed[1], dy)


# ------------------------------------------------------------------------------------------ convolution


@st.composite
def convolutions(draw):
    """Sizes of a convolution, most of them odd ones: n, channels, size, outputs, kernel, and the rest."""

    def two(low, high):
        return draw(st.integers(low, high)), draw(st.integers(low, high))

    n, groups = draw(st.sampled_from(BATCHES)), draw(st.integers(1, 3))
    channels, outputs = groups * draw(st.integers(1, 3)), groups * draw(st.integers(1, 8))
    kernel, stride, dilation = two(1, 5), two(1, 4), two(1, 3)
    same = stride == (1, 1) and draw(st.booleans())
    padding = "same" if same else two(0, 4)
    spans = [(k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True)]
    size = tuple(
        draw(st.integers(max(1, 1 if same else span - 2 * p), span + 6))
        for span, p in zip(spans, (0, 0) if same else padding, strict=True)
    )
    return n, channels, size, outputs, kernel, stride, padding, dilation, groups


def conv_arrays(n, channels, size, outputs, kernel, groups, dtype=np.float64, seed=0):
    draw = np.random.default_rng(seed).standard_normal
    arrays = draw((n, channels, *size)), draw((outputs, channels // groups, *kernel)), draw(outputs)
    return [a.astype(dtype) for a in arrays]


@pytest.mark.thorough
@pytest.mark.parametrize("dtype", DTYPES)
@examples
@given(sizes=convolutions())
def test_drawn_conv2d_agrees_with_the_twin(dtype, sizes):
    n, channels, size, outputs, kernel, *rest = sizes
    x, w, b = conv_arrays(n, channels, size, outputs, kernel, rest[-1], dtype)
    wide = [a.astype(np.float64) for a in (x, w, b)]
    y = functional.conv2d(x, w, b, *rest)
    assert_close(y, reference.conv2d(*wide, *rest))
    dy = np.random.default_rng(1).standard_normal(y.shape).astype(dtype)
    wanted = reference.conv2d_backward(dy.astype(np.float64), *wide[:2], *rest)
    assert_all_close(functional.conv2d_backward(dy, x, w, *rest), wanted)


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@examples
@given(sizes=convolutions())
def test_drawn_conv2d_agrees_with_pytorch(torch, sizes):
    n, channels, size, outputs, kernel, *rest = sizes
    arrays = conv_arrays(n, channels, size, outputs, kernel, rest[-1])
    tensors = [torch.tensor(a, requires_grad=True) for a in arrays]
    wanted = torch.nn.functional.conv2d(*tensors, *rest)
    y = functional.conv2d(*arrays, *rest)
    assert_close(y, wanted.detach().numpy())
    dy = np.random.default_rng(1).standard_normal(y.shape)
    wanted.backward(torch.tensor(dy))
    got = functional.conv2d_backward(dy, *arrays[:2], *rest)
    assert_all_close(got, [t.grad.numpy() for t in tensors])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("outputs", range(1, 28))
def test_any_number_of_outputs(outputs, dtype):
    """Every width of a register tile, in every kernel that has one."""
    x, w, b = conv_arrays(3, 2, (4, 5), outputs, (3, 2), 1, dtype)
    dy = np.random.default_rng(1).standard_normal((3, outputs, 2, 4)).astype(dtype)
    assert_close(functional.conv2d(x, w, b), reference.conv2d(x, w, b))
    assert_all_close(functional.conv2d_backward(dy, x, w), reference.conv2d_backward(dy, x, w))
    x, w, dy = x.reshape(3, 40), np.resize(w, (outputs, 40)), dy[:, :, 0, 0]
    assert_close(functional.linear(x, w, b), reference.linear(x, w, b))
    assert_all_close(functional.linear_backward(dy, x, w), reference.linear_backward(dy, x, w))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", range(1, 19))
def test_any_number_of_taps_and_pixels(width, dtype):
    x, w, b = conv_arrays(3, 1, (2, 19), 5, (1, width), 1, dtype)
    dy = np.random.default_rng(1).standard_normal((3, 5, 2, 20 - width)).astype(dtype)
    assert_close(functional.conv2d(x, w, b), reference.conv2d(x, w, b))
    assert_all_close(functional.conv2d_backward(dy, x, w), reference.conv2d_backward(dy, x, w))


def test_conv2d_without_bias():
    x, w, b = conv_arrays(3, 2, (5, 4), 3, (2, 2), 1)
    assert_close(functional.conv2d(x, w), reference.conv2d(x, w))
    assert_close(functional.conv2d(x, w, b), reference.conv2d(x, w, b))


def test_backward_without_dx():
    x, w, _ = conv_arrays(18, 2, (5, 4), 3, (2, 2), 1)
    dy = np.ones((18, 3, 4, 3))
    dx, *gradients = functional.conv2d_backward(dy, x, w, need_dx=False)
    assert dx is None
    assert_all_close(gradients, reference.conv2d_backward(dy, x, w)[1:])
    x, w, dy = x.reshape(18, 40), np.ones((3, 40)), dy[:, :, 0, 0]
    dx, *gradients = functional.linear_backward(dy, x, w, need_dx=False)
    assert dx is None
    assert_all_close(gradients, reference.linear_backward(dy, x, w)[1:])


@pytest.mark.parametrize("dtype", DTYPES)
def test_nan_spreads_no_further_than_the_windows_that_see_it(dtype):
    x, w, b = conv_arrays(18, 2, (6, 7), 3, (3, 2), 1, dtype)
    dy = np.ones((18, 3, 3, 8), dtype)
    x[17, 1, 2, 3] = dy[3, 1, 1, 2] = np.nan  # whose window is inside x
    sizes = (2, 1), (1, 1)
    y = functional.conv2d(x, w, b, *sizes)
    assert 0 < np.isnan(y).sum() < y[17].size
    assert_close(y, reference.conv2d(x, w, b, *sizes))
    assert_all_close(
        functional.conv2d_backward(dy, x, w, *sizes), reference.conv2d_backward(dy, x, w, *sizes)
    )


# ------------------------------------------------------------------------------------------ max pooling


@st.composite
def poolings(draw):
    """x of few different values, so that ties, NaN and -inf fall into most windows; and the sizes."""
    kernel = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    stride = draw(st.integers(1, 5)), draw(st.integers(1, 5))
    padding = tuple(draw(st.integers(0, k // 2)) for k in kernel)
    shape = draw(st.sampled_from(BATCHES)), draw(st.integers(1, 3)), *(draw(st.integers(4, 9)) for _ in "HW")
    values = [[0.0, 1.0, 2.0], [-np.inf, -1.0], [-1.0, np.nan], [0.0, 1.0, np.nan, np.inf, -np.inf]]
    x = np.random.default_rng(draw(st.integers(0, 2**32))).choice(draw(st.sampled_from(values)), shape)
    return x, kernel, stride, padding, draw(st.booleans())


dilations = st.tuples(st.integers(1, 3), st.integers(1, 3))


@pytest.mark.parametrize("dtype", DTYPES)
@examples
@given(case=poolings(), dilation=dilations)
def test_drawn_max_pool2d_agrees_with_the_twin(dtype, case, dilation):
    x, *sizes, ceil_mode = case
    assume(all(d * (k - 1) < n for d, k, n in zip(dilation, sizes[0], x.shape[2:], strict=True)))
    x, sizes = x.astype(dtype), (*sizes, dilation, ceil_mode)
    y, indices = functional.max_pool2d(x, *sizes)
    wanted, wanted_indices = reference.max_pool2d(x, *sizes)
    np.testing.assert_array_equal(y, wanted)
    np.testing.assert_array_equal(indices, wanted_indices)
    assert y.dtype == dtype and indices.dtype == np.int64
    dy = spread(y.shape, np.random.default_rng(1)).astype(dtype)
    dx = functional.max_pool2d_backward(dy, indices, x.shape)
    assert_close(dx, reference.max_pool2d_backward(dy, indices, x.shape))


@examples
@given(case=poolings(), dilation=dilations)
def test_drawn_max_pool2d_agrees_with_pytorch(torch, case, dilation):
    x, kernel, stride, padding, ceil_mode = case
    assume(all(d * (k - 1) < n for d, k, n in zip(dilation, kernel, x.shape[2:], strict=True)))
    t = torch.tensor(x, requires_grad=True)
    wanted, wanted_indices = torch.nn.functional.max_pool2d(
        t, kernel, stride, padding, dilation, ceil_mode=ceil_mode, return_indices=True
    )
    y, indices = functional.max_pool2d(x, kernel, stride, padding, dilation, ceil_mode)
    np.testing.assert_array_equal(y, wanted.detach().numpy())
    np.testing.assert_array_equal(indices, wanted_indices.numpy())
    dy = spread(y.shape, np.random.default_rng(1))
    wanted.backward(torch.tensor(dy))
    assert_close(functional.max_pool2d_backward(dy, indices, x.shape), t.grad.numpy())


@pytest.mark.parametrize("dtype", DTYPES)
@examples
@given(case=poolings(), count_include_pad=st.booleans(), divisor=st.sampled_from([None, None, 1, 7, -3]))
def test_drawn_avg_pool2d_agrees_with_the_twin_and_pytorch(torch, dtype, case, count_include_pad, divisor):
    x, *sizes = case
    x, sizes = x.astype(dtype), (*sizes, count_include_pad, divisor)
    y = functional.avg_pool2d(x, *sizes)
    assert y.dtype == dtype
    t = torch.tensor(x, requires_grad=True)
    theirs = torch.nn.functional.avg_pool2d(t, *sizes)
    with np.errstate(invalid="ignore"):
        assert_close(y, reference.avg_pool2d(x, *sizes))
    assert_close(y, theirs.detach().numpy())
    dy = spread(y.shape, np.random.default_rng(1)).astype(dtype)
    theirs.backward(torch.tensor(dy))
    dx = functional.avg_pool2d_backward(dy, x.shape, *sizes)
    assert_close(dx, reference.avg_pool2d_backward(dy, x.shape, *sizes))
    assert_close(dx, t.grad.numpy())


@pytest.mark.parametrize("dtype", DTYPES)
@examples
@given(case=poolings(), out=st.tuples(st.integers(1, 10), st.integers(1, 10)))
def test_drawn_adaptive_pooling_agrees_with_the_twin_and_pytorch(torch, dtype, case, out):
    x = case[0].astype(dtype)
    dy = spread((*x.shape[:2], *out), np.random.default_rng(1)).astype(dtype)
    t = torch.tensor(x, requires_grad=True)
    y, indices = functional.adaptive_max_pool2d(x, out)
    theirs, their_indices = torch.nn.functional.adaptive_max_pool2d(t, out, return_indices=True)
    for got, wanted, torchs in zip((y, indices), reference.adaptive_max_pool2d(x, out),
                                   (theirs.detach(), their_indices), strict=True):
        np.testing.assert_array_equal(got, wanted)
        np.testing.assert_array_equal(got, torchs.numpy())
    theirs.backward(torch.tensor(dy))
    assert_close(functional.max_pool2d_backward(dy, indices, x.shape), t.grad.numpy())

    y, t = functional.adaptive_avg_pool2d(x, out), torch.tensor(x, requires_grad=True)
    theirs = torch.nn.functional.adaptive_avg_pool2d(t, out)
    with np.errstate(invalid="ignore"):
        assert_close(y, reference.adaptive_avg_pool2d(x, out))
    assert_close(y, theirs.detach().numpy())
    theirs.backward(torch.tensor(dy))
    dx = functional.adaptive_avg_pool2d_backward(dy, x.shape)
    assert_close(dx, reference.adaptive_avg_pool2d_backward(dy, x.shape))
    assert_close(dx, t.grad.numpy())


def test_a_window_that_hangs_over_the_padding_by_hand():
    x = np.arange(1.0, 6).reshape(1, 1, 1, 5)
    # windows of 4 every 3 pixels over 0 0 1 2 3 4 5 0 0: the last one has but 3 pixels, one of which is x's
    for include, wanted in ((True, [3 / 4, 14 / 4, 5 / 3]), (False, [3 / 2, 14 / 4, 5])):
        y = functional.avg_pool2d(x, (1, 4), 3, (0, 2), True, include)
        assert_close(y, [[[wanted]]])


def test_pooling_of_no_channels():
    y, indices = functional.max_pool2d(np.zeros((3, 0, 4, 4)), 2)
    assert y.shape == indices.shape == (3, 0, 2, 2)
    assert functional.max_pool2d_backward(y, indices, (3, 0, 4, 4)).shape == (3, 0, 4, 4)
    y = functional.avg_pool2d(np.zeros((3, 0, 4, 4)), 2)
    assert y.shape == (3, 0, 2, 2) and functional.avg_pool2d_backward(y, (3, 0, 4, 4), 2).shape == (3, 0, 4, 4)


# ------------------------------------------------------------------------------------------ linear


@pytest.mark.parametrize("dtype", DTYPES)
@examples
@given(n=st.sampled_from(BATCHES), inputs=st.integers(1, 40), outputs=st.integers(1, 40))
def test_drawn_linear_agrees_with_the_twin(dtype, n, inputs, outputs):
    draw = np.random.default_rng(0).standard_normal
    arrays = draw((n, inputs)), draw((outputs, inputs)), draw(outputs), draw((n, outputs))
    x, w, b, dy = (a.astype(dtype) for a in arrays)
    assert_close(functional.linear(x, w, b), reference.linear(x, w, b))
    assert_close(functional.linear(x, w), reference.linear(x, w))
    assert_all_close(functional.linear_backward(dy, x, w), reference.linear_backward(dy, x, w))


# ------------------------------------------------------------------------------------------ activations

ACTIVATIONS = ["relu", "tanh", "sigmoid", "leaky_relu", "silu", "gelu"]
FROM_INPUT = {"leaky_relu", "silu", "gelu"}  # whose backward pass wants x, not y


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ACTIVATIONS)
@settings(max_examples=25)
@given(shape=st.lists(st.integers(0, 9), max_size=5).map(tuple))
def test_activations_take_any_shape(name, dtype, shape):
    x, dy = spread(shape, np.random.default_rng(0)).astype(dtype), np.full(shape, 3, dtype)
    slope = (0.2,) if name == "leaky_relu" else ()
    y = getattr(functional, name)(x, *slope)
    assert_close(y, getattr(reference, name)(x, *slope))
    kept = x if name in FROM_INPUT else y
    dx = getattr(functional, f"{name}_backward")(dy, kept, *slope)
    assert_close(dx, getattr(reference, f"{name}_backward")(dy, kept, *slope))
    assert y.dtype == dx.dtype == dtype


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_of_special_values(torch, name, dtype):
    x = np.array([np.nan, np.inf, -np.inf, 1e4, -1e4, 88.8, -88.8, 0, -0.0, 1.5, -1.5, 1e-5, -1e-30], dtype)
    if name == "gelu":
        x = x[~np.isinf(x)]  # PyTorch's gelu(inf) is NaN in one number type and not in the other
    t = torch.tensor(x, requires_grad=True)
    wanted = getattr(torch.nn.functional, name)(t)
    wanted.backward(torch.full_like(t, 3))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        y = getattr(functional, name)(x)
        kept = x if name in FROM_INPUT else y
        dx = getattr(functional, f"{name}_backward")(np.full_like(x, 3), kept)
    tolerance = 1e-6 if dtype == np.float32 else 1e-12
    np.testing.assert_allclose(y, wanted.detach().numpy(), rtol=tolerance, atol=1e-36)
    np.testing.assert_allclose(dx, t.grad.numpy(), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
@settings(max_examples=25)
@given(
    shape=st.one_of(*(st.lists(st.integers(1, 6), min_size=n, max_size=n) for n in (1, 3))),
    n=st.sampled_from(BATCHES),
    top=st.sampled_from([1, 30, 1e4]),
)
def test_drawn_softmax_agrees_with_the_twin(name, dtype, shape, n, top):
    x = (spread((n, *shape), np.random.default_rng(0)) * top / 2).astype(dtype)
    wide, dy = x.astype(np.float64), np.random.default_rng(1).standard_normal(x.shape).astype(dtype)
    y = getattr(functional, name)(x)
    assert_close(y, getattr(reference, name)(wide))
    dx = getattr(functional, f"{name}_backward")(dy, y)
    assert_close(dx, getattr(reference, f"{name}_backward")(dy, getattr(reference, name)(wide)), 1e-4)
    assert y.dtype == dx.dtype == dtype and np.isfinite(y).all() and np.isfinite(dx).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_softmax_of_special_values(torch, name, dtype):
    inf, nan = np.inf, np.nan
    rows = [[1e4, -1e4, 0], [1e4, 1e4, -1e4], [-1e4, -1e4, -1e4], [nan, 0, 1], [0, 1, nan], [inf, 0, 1], [-inf, 0, 1],
            [-inf, -inf, -inf], [inf, inf, 0]]
    x = np.array(rows, dtype)
    t = torch.tensor(x, requires_grad=True)
    wanted = getattr(torch.nn.functional, name)(t, 1)
    dy = np.tile(np.array([1, 2, -4], dtype), (len(x), 1))
    wanted.backward(torch.tensor(dy))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        y = getattr(functional, name)(x)
        dx = getattr(functional, f"{name}_backward")(dy, y)
    assert_close(y, wanted.detach().numpy())
    assert_close(dx, t.grad.numpy())


# ------------------------------------------------------------------------------------------ memory


def test_results_are_the_callers_own():
    x, w, b = conv_arrays(3, 2, (5, 4), 3, (2, 2), 1)
    first = functional.conv2d(x, w, b)
    kept = first.copy()
    functional.conv2d(-x, w, b)
    assert np.array_equal(first, kept)
    first[...] = 0
    assert np.array_equal(functional.conv2d(x, w, b), kept)


def test_programs_come_and_go():
    """More kinds of calls than the cache of programs holds, large and small batches in turn."""
    for n in (40, 3, 17, 40, 0, 33):
        for outputs in range(1, 12):
            x, w, b = conv_arrays(n, 2, (4, 3), outputs, (2, 2), 1)
            assert_close(functional.conv2d(x, w, b), reference.conv2d(x, w, b))


# ------------------------------------------------------------------------------------------ parts of arrays


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [0, 1, 20])
@pytest.mark.parametrize("image, dim", [((3, 4, 5), 1), ((3, 4, 5), -1), ((3, 4), 2), ((6,), 1)])
def test_arrays_are_joined_and_cut_as_in_numpy(image, dim, n, dtype, rng):
    x, y = (rng.standard_normal((n, *image)).astype(dtype) for _ in range(2))
    assert_same_bits([functional.cat([x, y, x], dim)], [np.concatenate([x, y, x], dim)])
    assert_same_bits([functional.cat([x], dim)], [x])
    if len(image) < 3:
        assert_same_bits([functional.stack([x, y], dim)], [np.stack([x, y], dim)])
    size = x.shape[dim]
    parts = functional.split(x, 2, dim)
    assert_same_bits(parts, [part.copy() for part in np.split(x, range(2, size, 2), dim)])
    assert not any(np.shares_memory(part, x) for part in parts)
    assert_same_bits(functional.split(x, [1, size - 1], dim), [part.copy() for part in np.split(x, [1], dim)])
    assert_same_bits(functional.chunk(x, 2, dim), [part.copy() for part in np.split(x, [-(-size // 2)], dim)])
    assert_same_bits([functional.where(x > 0, x, y)], [np.where(x > 0, x, y)])
    assert_same_bits([functional.where(x > 0, 1.0, y)], [np.where(x > 0, dtype(1), y)])


def test_where_of_numbers_takes_what_is_true():
    got = functional.where(np.array([[True, False]]), 1.0, -1.0)
    np.testing.assert_array_equal(got, np.array([[1, -1]], np.float32))


@pytest.mark.parametrize("call, error, words", [
    (lambda x: functional.cat([]), TypeError, "cat: values must be a list of values, or one of arrays"),
    (lambda x: functional.cat([x, 1.0]), TypeError, "cat: values must be .* got ndarray, float"),
    (lambda x: functional.cat(3), TypeError, "cat: values must be a list of values, or of arrays, got 3"),
    (lambda x: functional.cat([x, x], 0), ValueError, "cat: dim must not be that of the images"),
    (lambda x: functional.cat([x, x], "1"), TypeError, "cat: dim must be an integer"),
    (lambda x: functional.cat([x, x[:1]]), ValueError, r"cat: values\[1\] must hold 2 images"),
    (lambda x: functional.cat([x, x.astype(np.float32)]), TypeError, r"cat: values\[1\] must be float64"),
    (lambda x: functional.stack([x, x[:, :1]]), ValueError, "stack: all values must have one shape"),
    (lambda x: functional.split(x, 0), ValueError, "split: split_size"),
    (lambda x: functional.split(x, [1, 1]), ValueError, "split: split_size must add up to 3"),
    (lambda x: functional.split(x > 0, 1), TypeError, "split: x must be float32 or float64"),
    (lambda x: functional.split([1.0], 1), TypeError, "split: x must be a value or an array"),
    (lambda x: functional.split(x[:, 0], 1), ValueError, "split: x must have shape"),
    (lambda x: functional.chunk(x, 0), ValueError, "chunk: chunks"),
    (lambda x: functional.chunk("x", 2), TypeError, "chunk: x must be a value or an array"),
    (lambda x: functional.where(x > 0, x, x.astype(np.float32)), TypeError, "where: other must be float64")])
def test_what_cannot_be_joined_or_cut(call, error, words):
    with pytest.raises(error, match=words):
        call(np.ones((2, 3)))
