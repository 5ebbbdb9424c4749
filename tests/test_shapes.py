"""Size arithmetic against windows counted one by one and against PyTorch; errors against their exact text."""

import itertools
import math
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cnn import shapes

NONE = ((0, 0), (0, 0))

# Each row: the call, the error's type, its text.
BAD = [
    (lambda: shapes.integer("Conv2d", "stride", 0, 1), ValueError,
     "Conv2d: stride must be an integer of at least 1, got 0"),
    (lambda: shapes.integer("A", "n", np.int64(-3)), ValueError,
     "A: n must be an integer of at least 0, got -3"),
    (lambda: shapes.integer("A", "n", 2**31), ValueError,
     "A: n must be an integer from 0 to 2147483647, got 2147483648"),
    (lambda: shapes.integer("A", "n", 5, 1, 4), ValueError, "A: n must be an integer from 1 to 4, got 5"),
    (lambda: shapes.integer("A", "n", 0, 1, 4), ValueError, "A: n must be an integer from 1 to 4, got 0"),
    (lambda: shapes.integer("A", "n", True), TypeError, "A: n must be an integer, got True"),
    (lambda: shapes.integer("A", "n", 1.0), TypeError, "A: n must be an integer, got 1.0"),
    (lambda: shapes.integer("A", "n", "1"), TypeError, "A: n must be an integer, got '1'"),
    (lambda: shapes.integer("A", "n", None), TypeError, "A: n must be an integer, got None"),
    (lambda: shapes.number("SGD", "lr", -1.0, minimum=0), ValueError,
     "SGD: lr must be a finite number of at least 0, got -1.0"),
    (lambda: shapes.number("SGD", "lr", 0, above=0), ValueError,
     "SGD: lr must be a finite number above 0, got 0"),
    (lambda: shapes.number("A", "p", 1, minimum=0, below=1), ValueError,
     "A: p must be a finite number of at least 0 and below 1, got 1"),
    (lambda: shapes.number("A", "p", 1.5, maximum=1), ValueError,
     "A: p must be a finite number of at most 1, got 1.5"),
    (lambda: shapes.number("A", "p", math.nan), ValueError, "A: p must be a finite number, got nan"),
    (lambda: shapes.number("A", "p", -math.inf), ValueError, "A: p must be a finite number, got -inf"),
    (lambda: shapes.number("A", "p", 10**400), ValueError,
     "A: p must be a finite number, got 100000000000000000...0000000000000000000"),
    (lambda: shapes.number("A", "p", True), TypeError, "A: p must be a number, got True"),
    (lambda: shapes.number("A", "p", "1"), TypeError, "A: p must be a number, got '1'"),
    (lambda: shapes.number("A", "p", 1j), TypeError, "A: p must be a number, got 1j"),
    (lambda: shapes.pair("A", "k", 0, 1), ValueError, "A: k must be an integer of at least 1, got 0"),
    (lambda: shapes.pair("A", "k", (3, -1)), ValueError, "A: k must be an integer of at least 0, got -1"),
    (lambda: shapes.pair("A", "k", (1, 2, 3)), ValueError,
     "A: k must be an integer or a pair of integers, got (1, 2, 3)"),
    (lambda: shapes.pair("A", "k", (3, 2.0)), TypeError, "A: k must be an integer, got 2.0"),
    (lambda: shapes.pair("A", "k", 1.5), TypeError,
     "A: k must be an integer or a pair of integers, got 1.5"),
    (lambda: shapes.pair("A", "k", True), TypeError,
     "A: k must be an integer or a pair of integers, got True"),
    (lambda: shapes.pair("A", "k", "33"), TypeError,
     "A: k must be an integer or a pair of integers, got '33'"),
    (lambda: shapes.padding("Conv2d", "sam", (3, 3), (1, 1), (1, 1), (9, 9)), ValueError,
     "Conv2d: padding must be an integer, a pair, \"same\" or \"valid\", got 'sam'"),
    (lambda: shapes.padding("Conv2d", -1, (3, 3), (1, 1), (1, 1), (9, 9)), ValueError,
     "Conv2d: padding must be an integer of at least 0, got -1"),
    (lambda: shapes.padding("Conv2d", None, (3, 3), (1, 1), (1, 1), (9, 9)), TypeError,
     "Conv2d: padding must be an integer or a pair of integers, or, where each side has its own, ((top, bottom), "
     "(left, right)), got None"),
    (lambda: shapes.conv_output("Conv2d", (5, 5), (7, 7), (1, 1), NONE, (1, 1)), ValueError,
     "Conv2d: kernel_size 7×7 is larger than the padded input 5×5"),
    (lambda: shapes.conv_output("Conv2d", (5, 4), (1, 7), (1, 1), ((0, 0), (1, 1)), (1, 1)), ValueError,
     "Conv2d: kernel_size 1×7 is larger than the padded input 5×6"),
    (lambda: shapes.conv_output("Conv2d", (5, 9), (3, 3), (1, 1), NONE, (3, 2)), ValueError,
     "Conv2d: kernel_size 3×3 with dilation 3×2 spans 7×5, larger than the padded input 5×9"),
    (lambda: shapes.conv_output("Conv2d", (0, 5), (1, 1), (1, 1), ((1, 1), (1, 1)), (1, 1)), ValueError,
     "Conv2d: the input must not be empty, got 0×5"),
    (lambda: shapes.conv_output("Conv2d", (5, 5), (1, 1), (1, 1), ((0, 0), (2**31, 0)), (1, 1)), ValueError,
     "Conv2d: a side of the padded input 5×2147483653 is larger than 2147483647"),
    (lambda: shapes.pool_output("MaxPool2d", (5, 5), (3, 4), (1, 1), (2, 2), False), ValueError,
     "MaxPool2d: padding must be at most half of kernel_size 3×4, got 2×2"),
    (lambda: shapes.pool_output("MaxPool2d", (9, 9), (3, 2), (1, 1), (3, 1), False, (2, 1)), ValueError,
     "MaxPool2d: padding must be at most half of kernel_size 3×2 with dilation 2×1, which spans 5×2, got 3×1"),
    (lambda: shapes.pool_output("MaxPool2d", (9, 9), (3, 2), (1, 1), ((5, 0), (0, 0)), False, (2, 1)), ValueError,
     "MaxPool2d: padding must be less than kernel_size 3×2 with dilation 2×1, which spans 5×2, got ((5, 0), (0, 0))"),
    (lambda: shapes.pool_output("MaxPool2d", (4, 9), (3, 2), (1, 1), (0, 0), False, (2, 1)), ValueError,
     "MaxPool2d: kernel_size 3×2 with dilation 2×1, which spans 5×2 and is larger than the padded input 4×9"),
    (lambda: shapes.pool_output("MaxPool2d", (2, 5), (3, 3), (2, 2), (0, 0), False), ValueError,
     "MaxPool2d: kernel_size 3×3 is larger than the padded input 2×5"),
    (lambda: shapes.pool_output("MaxPool2d", (5, 0), (2, 2), (2, 2), (1, 1), False), ValueError,
     "MaxPool2d: the input must not be empty, got 5×0"),
    (lambda: shapes.element_count("Conv2d", 2**31, 2**10), ValueError,
     "Conv2d: an array of 2147483648×1024 elements is too large, the limit is 2**40"),
    (lambda: shapes.array("Conv2d", "x", [1.0]), TypeError,
     "Conv2d: x must be a NumPy array of float32 or float64, got list"),
    (lambda: shapes.array("Conv2d", "x", np.zeros(3, np.float16)), TypeError,
     "Conv2d: x must be float32 or float64, got float16"),
    (lambda: shapes.array("Conv2d", "x", np.zeros(3, np.int64)), TypeError,
     "Conv2d: x must be float32 or float64, got int64"),
    (lambda: shapes.array("Conv2d", "w", np.zeros(3, np.float64), dtype=np.float32), TypeError,
     "Conv2d: w must be float32, got float64"),
    (lambda: shapes.array("A", "y", np.zeros(3, np.int32), dtype=np.int64), TypeError,
     "A: y must be int64, got int32"),
    (lambda: shapes.array("Conv2d", "x", np.zeros((2, 1, 8, 8)), ("N", 3, "H", "W")), ValueError,
     "Conv2d: x must have shape (N, 3, H, W), got (2, 1, 8, 8)"),
    (lambda: shapes.array("A", "x", np.zeros((2, 1)), (None,)), ValueError,
     "A: x must have shape (any,), got (2, 1)"),
    (lambda: shapes.array("A", "x", np.zeros(()), ("N",)), ValueError, "A: x must have shape (N,), got ()"),
    (lambda: shapes.array("A", "x", np.zeros((0, 2)), allow_empty=False), ValueError,
     "A: x must not be empty, got shape (0, 2)"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "error", "text"), BAD, ids=[row[2] for row in BAD])
def test_bad_argument(call, error, text):
    with pytest.raises(error, match=f"^{re.escape(text)}$"):
        call()


def test_a_numpy_bool_is_no_number():
    for check in (shapes.integer, shapes.number, shapes.pair):
        with pytest.raises(TypeError):
            check("A", "n", np.bool_(True))


def test_an_integer_too_long_to_print_is_refused():
    with pytest.raises(ValueError, match="^A: n must be an integer"):
        shapes.integer("A", "n", 10**6000)


def test_good_numbers_become_python_numbers():
    for value, result in [(3, 3), (np.uint8(3), 3), (0, 0), (2**31 - 1, 2**31 - 1)]:
        got = shapes.integer("A", "n", value)
        assert type(got) is int and got == result
    for value, result in [(3, 3.0), (np.float32(0.5), 0.5), (np.int64(2), 2.0), (-1e300, -1e300)]:
        got = shapes.number("A", "n", value)
        assert type(got) is float and got == result
    assert shapes.number("A", "n", 0, minimum=0, maximum=0) == 0.0
    assert shapes.pair("A", "k", 3) == shapes.pair("A", "k", [3, np.int32(3)]) == (3, 3)
    assert shapes.pair("A", "k", (0, 4)) == (0, 4)
    assert shapes.element_count("A", 2**20, np.int32(2**20)) == 2**40
    assert shapes.element_count("A", 2**40, 2**40, 0) == 0


def test_padding():
    one = (1, 1)
    size = 9, 8
    assert shapes.padding("A", 2, (3, 3), one, one, size) == ((2, 2), (2, 2))
    assert shapes.padding("A", (0, 2), (3, 3), (2, 3), one, size) == ((0, 0), (2, 2))
    assert shapes.padding("A", "valid", (3, 3), (2, 3), one, size) == ((0, 0), (0, 0))
    assert shapes.padding("A", "same", (3, 4), one, one, size) == ((1, 1), (1, 2))
    assert shapes.padding("A", "same", (4, 3), one, (3, 2), size) == ((4, 5), (2, 2))
    # 5 windows of 3 rows every 2 reach from -1 to 10; 4 of 3 columns every 2 from 0 to 9, of which 8 are there
    assert shapes.padding("A", "same", (3, 3), (2, 2), one, size) == ((1, 1), (0, 1))
    assert shapes.padding("A", "same", (1, 1), (4, 3), one, size) == ((0, 0), (0, 0))


# ------------------------------------------------------------- output sizes: count the windows one by one


def test_conv_output_by_hand():
    assert shapes.conv_output("A", (28, 28), (5, 5), (1, 1), ((2, 2), (2, 2)), (1, 1)) == (28, 28)
    assert shapes.conv_output("A", (7, 8), (3, 2), (2, 3), NONE, (2, 1)) == (2, 3)
    assert shapes.conv_output("A", (4, 4), (1, 1), (2**31 - 1, 1), NONE, (2**31 - 1, 1)) == (1, 4)


def test_pool_output_by_hand():
    assert shapes.pool_output("A", (5, 6), (2, 2), (2, 2), (0, 0), False) == (2, 3)
    assert shapes.pool_output("A", (5, 6), (2, 2), (2, 2), (0, 0), True) == (3, 3)
    # The third window would start in the far padding, so ceil_mode does not count it.
    assert shapes.pool_output("A", (3, 3), (2, 2), (2, 2), (1, 1), True) == (2, 2)
    assert shapes.pool_output("A", (2, 2), (3, 3), (2, 2), (0, 0), True) == (1, 1)


sides, steps = st.integers(1, 12), st.integers(1, 4)


@settings(deadline=None)
@given(sides, steps, steps, st.integers(0, 3), st.integers(0, 3), steps)
def test_conv_output_counts_the_windows_that_fit(side, kernel, stride, before, after, dilation):
    last_taps = [start + (kernel - 1) * dilation for start in range(0, side + before + after, stride)]
    fit = sum(tap < side + before + after for tap in last_taps)
    # Rows carry the drawn case, columns a fixed one, so that an axis mix-up shows.
    args = "A", (side, 9), (kernel, 2), (stride, 3), ((before, after), (1, 0)), (dilation, 1)
    if fit:
        assert shapes.conv_output(*args) == (fit, 3)
    else:
        with pytest.raises(ValueError, match="larger than the padded input"):
            shapes.conv_output(*args)


@settings(deadline=None)
@given(sides, steps, st.integers(1, 6), st.integers(0, 2), st.booleans())
def test_pool_output_counts_the_windows(side, kernel, stride, padding, ceil_mode):
    padding = min(padding, kernel // 2)
    count = 0
    for start in range(-padding, side + padding, stride):
        whole = start + kernel <= side + padding
        # ceil_mode: also the first window that hangs over the edge, if it starts inside the input and
        # the window before it left something over.
        rest = start - stride + kernel < side + padding and start < side
        count += whole or (ceil_mode and rest)
    args = "A", (9, side), (2, kernel), (3, stride), (1, padding), ceil_mode
    if count:
        assert shapes.pool_output(*args) == (4, count)
    else:
        with pytest.raises(ValueError, match="larger than the padded input"):
            shapes.pool_output(*args)


def test_pool_output_agrees_with_pytorch():
    torch = pytest.importorskip("torch")
    cases = itertools.product(range(1, 8), range(1, 5), range(1, 6), (True, False))
    for side, kernel, stride, ceil_mode in cases:
        for padding in range(kernel // 2 + 1):
            args = (kernel, 2), (stride, 1), (padding, 0)
            try:
                y = torch.nn.functional.max_pool2d(torch.zeros(1, 1, side, 3), *args, ceil_mode=ceil_mode)
            except RuntimeError:
                with pytest.raises(ValueError, match="larger than the padded input"):
                    shapes.pool_output("A", (side, 3), *args, ceil_mode)
            else:
                assert shapes.pool_output("A", (side, 3), *args, ceil_mode) == tuple(y.shape[2:])


# ----------------------------------------------------------------------------------------------- arrays


def test_array_shares_memory_when_it_can():
    for dtype in (np.float32, np.float64):
        x = np.arange(6, dtype=dtype).reshape(2, 3)
        assert shapes.array("A", "x", x, (2, "N")) is x
    x.flags.writeable = False
    assert np.shares_memory(shapes.array("A", "x", x, (2, None)), x)


@pytest.mark.parametrize("dtype", [">f4", "<f4", ">f8", "<f8"])
def test_array_makes_byte_order_native(dtype):
    got = shapes.array("A", "x", np.array([1.5, -2.25], dtype), ("N",))
    assert got.dtype.isnative and got.dtype == np.dtype(dtype).newbyteorder("=")
    assert got.tolist() == [1.5, -2.25]


def test_array_makes_layout_plain():
    x = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    unaligned = np.frombuffer(b"\0" + x.tobytes(), np.uint8)[1:].view(np.float32).reshape(x.shape)
    assert not unaligned.flags.aligned
    strided = x.transpose(2, 0, 1), x[:, ::-1], x[..., ::2], np.asfortranarray(x)
    for value in (*strided, unaligned, np.array(1.0)):
        got = shapes.array("A", "x", value)
        assert got.flags.c_contiguous and got.flags.aligned
        assert got.shape == value.shape and np.array_equal(got, value)
    assert type(shapes.array("A", "x", x.view(np.recarray))) is np.ndarray


def test_array_takes_other_dtypes_when_asked():
    labels = np.array([3, 1, 2])
    assert shapes.array("A", "y", labels, (3,), np.int64).tolist() == [3, 1, 2]
    assert shapes.array("A", "y", labels.astype(">i8"), (3,), np.int64).tolist() == [3, 1, 2]
    assert shapes.array("A", "y", np.zeros((0, 2)), (0, "C")).shape == (0, 2)
