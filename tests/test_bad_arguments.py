"""What does not fit is refused with a TypeError or ValueError that says who, what and which value.

All of it runs in this process, on purpose: an array read out of bounds could end it. Only what has ended one
before, and what would ask for all memory, runs in a process of its own.
"""


import sys

import numpy as np
import pytest
from processes import run_python

import cnn
from cnn import functional, models, reference, schedules
from cnn.data import Dataset
from cnn.layers import (
    AdaptiveAvgPool2d,
    AdaptiveMaxPool2d,
    AvgPool2d,
    BatchNorm2d,
    Conv2d,
    ConvTranspose2d,
    Dropout,
    Flatten,
    GlobalAvgPool2d,
    LeakyReLU,
    Linear,
    MaxPool2d,
    ReLU,
    Sequential,
)

INF, NAN = float("inf"), float("nan")


def refuses(function, error, *words):
    """`function()` raises just this error, and its message has all the words."""
    with pytest.raises(error) as caught:
        function()
    assert type(caught.value) is error
    for word in words:
        assert word in str(caught.value), f"{word!r} is missing in: {caught.value}"


def zeros(*shape, dtype=np.float32):
    return np.zeros(shape, dtype)


# ------------------------------------------------------------------------------------------ whole numbers

# what a whole number with a lower limit of 1 must not be: (value, error)
NO_COUNTS = [
    *((value, ValueError) for value in (0, -1, -(2**63), 2**31, 2**63 - 1, 2**64, 10**5000)),
    *(
        (value, TypeError)
        for value in (1.0, 2.5, NAN, INF, True, None, "3", b"3", 1j, [], {}, object, zeros(1))
    ),
]
# and a pair of sizes
NO_SIZES = [
    *((value, error) for value, error in NO_COUNTS if not isinstance(value, list)),
    *((value, ValueError) for value in ((), [], (1,), (1, 2, 3), (1, 0), (-1, 1), (2**31, 1), [1, 2**63])),
    *(
        (value, TypeError)
        for value in ((1, 2.0), (None, 1), ("1", "1"), (1, (1, 1)), {1, 2}, "same", np.ones(2, int))
    ),
]
COUNTS = {
    "Conv2d: in_channels": lambda v: Conv2d(v, 1, 1),
    "Conv2d: out_channels": lambda v: Conv2d(1, v, 1),
    "Conv2d: groups": lambda v: Conv2d(2, 2, 1, groups=v),
    "ConvTranspose2d: in_channels": lambda v: ConvTranspose2d(v, 1, 1),
    "ConvTranspose2d: out_channels": lambda v: ConvTranspose2d(1, v, 1),
    "ConvTranspose2d: groups": lambda v: ConvTranspose2d(2, 2, 1, groups=v),
    "Linear: in_features": lambda v: Linear(v, 1),
    "BatchNorm2d: num_features": BatchNorm2d,
    "Linear: out_features": lambda v: Linear(1, v),
    "conv2d: groups": lambda v: functional.conv2d(zeros(1, 2, 3, 3), zeros(2, 2, 1, 1), groups=v),
    "conv_transpose2d: groups": lambda v: functional.conv_transpose2d(zeros(1, 2, 3, 3), zeros(2, 2, 1, 1), groups=v),
    "set_num_threads: n": cnn.set_num_threads,
    **{
        f"{name}: image_size": lambda v, make=make: make(image_size=v)
        for name, make in models.MODELS.items()
    },
    "Linear: out_features ": lambda v: models.lenet5(num_classes=v),
    "Conv2d: in_channels ": lambda v: models.lenet5(in_channels=v),
}
SIZES = {
    "Conv2d: kernel_size": lambda v: Conv2d(1, 1, v),
    "Conv2d: stride": lambda v: Conv2d(1, 1, 1, stride=v),
    "Conv2d: dilation": lambda v: Conv2d(1, 1, 1, dilation=v),
    "ConvTranspose2d: kernel_size": lambda v: ConvTranspose2d(1, 1, v),
    "ConvTranspose2d: stride": lambda v: ConvTranspose2d(1, 1, 1, stride=v),
    "ConvTranspose2d: dilation": lambda v: ConvTranspose2d(1, 1, 1, dilation=v),
    "conv_transpose2d: stride": lambda v: functional.conv_transpose2d(zeros(1, 1, 3, 3), zeros(1, 1, 1, 1), stride=v),
    "MaxPool2d: kernel_size": MaxPool2d,
    "AvgPool2d: kernel_size": AvgPool2d,
    "avg_pool2d: kernel_size": lambda v: functional.avg_pool2d(zeros(1, 1, 3, 3), v),
    "conv2d: stride": lambda v: functional.conv2d(zeros(1, 1, 3, 3), zeros(1, 1, 1, 1), stride=v),
    "conv2d: dilation": lambda v: functional.conv2d(zeros(1, 1, 3, 3), zeros(1, 1, 1, 1), dilation=v),
    "max_pool2d: kernel_size": lambda v: functional.max_pool2d(zeros(1, 1, 3, 3), v),
    "conv2d_backward: stride": lambda v: functional.conv2d_backward(
        zeros(1, 1, 3, 3), zeros(1, 1, 3, 3), zeros(1, 1, 1, 1), stride=v
    ),
}
HALF_NONE = {       # of a pair, too
    "AdaptiveAvgPool2d: output_size": AdaptiveAvgPool2d,
    "AdaptiveMaxPool2d: output_size": AdaptiveMaxPool2d,
    "adaptive_avg_pool2d: output_size": lambda v: functional.adaptive_avg_pool2d(zeros(1, 1, 3, 3), v),
    "adaptive_max_pool2d: output_size": lambda v: functional.adaptive_max_pool2d(zeros(1, 1, 3, 3), v),
}
OR_NONE = {
    "MaxPool2d: stride": lambda v: MaxPool2d(2, v),
    "AvgPool2d: stride": lambda v: AvgPool2d(2, v),
    "max_pool2d: stride": lambda v: functional.max_pool2d(zeros(1, 1, 3, 3), 2, v),
    "avg_pool2d: stride": lambda v: functional.avg_pool2d(zeros(1, 1, 3, 3), 2, v),
}


def shown(value):
    """How an error message shows a value; nothing where that would be very long."""
    try:
        text = repr(value)
    except ValueError:  # thousands of digits
        return ""
    return text if len(text) < 25 else ""


def short(value):
    return shown(value) or type(value).__name__


@pytest.mark.parametrize("value, error", NO_COUNTS, ids=short)
@pytest.mark.parametrize("where", COUNTS)
def test_counts(where, value, error):
    refuses(lambda: COUNTS[where](value), error, where.strip(), shown(value))


@pytest.mark.parametrize("value, error", NO_SIZES, ids=short)
@pytest.mark.parametrize("where", SIZES)
def test_sizes(where, value, error):
    part = (
        "" if isinstance(value, (tuple, list)) else shown(value)
    )  # the message may show the wrong half only
    refuses(lambda: SIZES[where](value), error, where, part)


@pytest.mark.parametrize("value, error", [
    *((value, error) for value, error in NO_SIZES if value is not None and short(value) != "(None, 1)"),
    ((None, 1.0), TypeError), ((None, 0), ValueError), ((None, None, 1), ValueError)], ids=short)
@pytest.mark.parametrize("where", HALF_NONE)
def test_sizes_with_none_in_them(where, value, error):
    refuses(lambda: HALF_NONE[where](value), error, where, "" if isinstance(value, (tuple, list)) else shown(value))


@pytest.mark.parametrize("value, error", [row for row in NO_SIZES if row[0] is not None], ids=short)
@pytest.mark.parametrize("where", OR_NONE)
def test_sizes_or_none(where, value, error):
    refuses(lambda: OR_NONE[where](value), error, where)


PADDINGS = {
    "Conv2d: padding": lambda v: Conv2d(1, 1, 2, padding=v),
    "ConvTranspose2d: padding": lambda v: ConvTranspose2d(1, 1, 2, padding=v),
    "conv_transpose2d: padding": lambda v: functional.conv_transpose2d(zeros(1, 1, 3, 3), zeros(1, 1, 2, 2), padding=v),
    "ConvTranspose2d: output_padding": lambda v: ConvTranspose2d(1, 1, 2, output_padding=v),
    "MaxPool2d: padding": lambda v: MaxPool2d(2, padding=v),
    "AvgPool2d: padding": lambda v: AvgPool2d(2, padding=v),
    "conv2d: padding": lambda v: functional.conv2d(zeros(1, 1, 3, 3), zeros(1, 1, 2, 2), padding=v),
    "max_pool2d: padding": lambda v: functional.max_pool2d(zeros(1, 1, 3, 3), 2, padding=v),
    "avg_pool2d: padding": lambda v: functional.avg_pool2d(zeros(1, 1, 3, 3), 2, padding=v),
}


@pytest.mark.parametrize("where", PADDINGS)
@pytest.mark.parametrize(
    "value, error",
    [(v, ValueError) for v in (-1, 2**31, (0, -1), (1, 2, 3), [])]
    + [(v, TypeError) for v in (0.0, None, True, NAN, (0, None), b"same")],
    ids=short,
)
def test_paddings(where, value, error):
    refuses(lambda: PADDINGS[where](value), error, where)


def test_words_as_paddings():
    refuses(lambda: Conv2d(1, 1, 2, padding="full"), ValueError, "Conv2d: padding must be an integer", "full")
    refuses(lambda: MaxPool2d(2, padding="full"), ValueError, "MaxPool2d: padding must be an integer", "full")
    refuses(lambda: cnn.Conv1d(1, 1, 2, padding="full"), ValueError, "Conv1d: padding must be an integer", "full")


def test_poolings_that_see_nothing():
    row = zeros(1, 1, 1, 2)
    for m in (functional, reference):
        refuses(lambda m=m: m.max_pool2d(row, (1, 2), 1, (0, 2), (1, 3)), ValueError,
                "max_pool2d: every window must see a pixel of the input 1×2")
    refuses(lambda: cnn.AvgPool2d(2, divisor_override=0), ValueError, "AvgPool2d: divisor_override must not be 0")
    refuses(lambda: cnn.AvgPool2d(2, divisor_override=1.5), TypeError, "AvgPool2d: divisor_override", "1.5")
    refuses(lambda: MaxPool2d(2, 2, 0, True), TypeError, "MaxPool2d: dilation", "True")


NOT_SEEDS = [(-1, ValueError), (2**64, ValueError), (1.5, TypeError), ("1", TypeError), (None, TypeError)]
SEEDS = {
    "Conv2d: seed": lambda v: Conv2d(1, 1, 1, seed=v),
    "Linear: seed": lambda v: Linear(1, 1, seed=v),
    "Dropout2d: number": lambda v: setattr(cnn.Dropout2d(), "number", v),
    "Dropout: number": lambda v: setattr(Dropout(), "number", v),
    **{f"{name}: seed": lambda v, make=make: make(seed=v) for name, make in models.MODELS.items()},
    "Dropout: step": lambda v: setattr(Dropout(), "step", v),
}


@pytest.mark.parametrize("value, error", NOT_SEEDS, ids=short)
@pytest.mark.parametrize("where", SEEDS)
def test_seeds(where, value, error):
    refuses(lambda: SEEDS[where](value), error, where, shown(value))


def small_trainer(**options):
    model = Sequential(Flatten(), Linear(16, 3))
    return cnn.Trainer(model, cnn.SGD(model.parameters()), progress=False, **options)


def small_data(n=5, size=4, classes=3, dtype=np.uint8):
    return Dataset(np.zeros((n, 1, size, size), dtype), np.arange(n) % classes)


@pytest.mark.parametrize("value, error", [row for row in NO_COUNTS if row[0] != 0], ids=short)
def test_epochs(value, error):
    refuses(lambda: small_trainer().fit(small_data(), value), error, "Trainer.fit: epochs", shown(value))


@pytest.mark.parametrize(
    "value, error", [(0, ValueError), (-1, ValueError), (2.0, TypeError), (None, TypeError)]
)
def test_batch_size(value, error):
    refuses(lambda: small_trainer().fit(small_data(), 1, batch_size=value), error, "batch_size", repr(value))


# ------------------------------------------------------------------------------------------ other numbers


def weight():
    return [cnn.Parameter(zeros(3))]


NUMBERS = {
    "LeakyReLU: negative_slope": LeakyReLU,
    "ELU: alpha": cnn.ELU,
    "Hardtanh: min_val": cnn.Hardtanh,
    "Hardtanh: max_val": lambda v: cnn.Hardtanh(-1, v),
    "Softplus: threshold": lambda v: cnn.Softplus(1, v),
    "PReLU: init": lambda v: cnn.PReLU(1, v),
    "elu: alpha": lambda v: functional.elu(zeros(2), v),
    "hardtanh: max_val": lambda v: functional.hardtanh(zeros(2), -1, v),
    "softplus: threshold": lambda v: functional.softplus(zeros(2), 1, v),
    "pow: exponent": lambda v: functional.pow(zeros(2), v),
    "clamp: min": lambda v: functional.clamp(zeros(2), "a" if v is None else np.nan if shown(v) == "-inf" else v),
    "clamp: max": lambda v: functional.clamp(zeros(2), 1, "a" if v is None else np.nan if shown(v) == "inf" else v),
    "leaky_relu: negative_slope": lambda v: functional.leaky_relu(zeros(2), v),
    "leaky_relu_backward: negative_slope": lambda v: functional.leaky_relu_backward(zeros(2), zeros(2), v),
}
NOT_NEGATIVE = {
    "Dropout: p": Dropout,
    "Softplus: beta": cnn.Softplus,
    "softplus: beta": lambda v: functional.softplus(zeros(2), v),
    "normalize: eps": lambda v: functional.normalize(zeros(2, 2), eps=v),
    "Dropout2d: p": cnn.Dropout2d,
    "BatchNorm2d: eps": lambda v: BatchNorm2d(1, v),
    "BatchNorm2d: momentum": lambda v: BatchNorm2d(1, momentum=[] if v is None else v),
    "batch_norm: eps": lambda v: functional.batch_norm(zeros(2, 1, 1, 1), training=True, eps=v),
    "batch_norm: momentum": lambda v: functional.batch_norm(zeros(2, 1, 1, 1), training=True, momentum=v),
    "batch_norm_backward: eps": lambda v: functional.batch_norm_backward(X, X, eps=v),
    "CrossEntropyLoss: label_smoothing": lambda v: cnn.CrossEntropyLoss(label_smoothing=v),
    "cross_entropy: label_smoothing": lambda v: functional.cross_entropy(zeros(1, 2), np.array([0]), label_smoothing=v),
    "SGD: momentum": lambda v: cnn.SGD(weight(), momentum=v),
    "Adam: betas": lambda v: cnn.Adam(weight(), betas=(0.9, v)),
    "AdamW: betas": lambda v: cnn.AdamW(weight(), betas=(v, 0.9)),
    "Adam: eps": lambda v: cnn.Adam(weight(), eps=v),
    "RMSprop: alpha": lambda v: cnn.RMSprop(weight(), alpha=v),
    "RMSprop: eps": lambda v: cnn.RMSprop(weight(), eps=v),
    "RMSprop: momentum": lambda v: cnn.RMSprop(weight(), momentum=v),
    "clip_grad_norm: max_norm": lambda v: cnn.clip_grad_norm(weight(), v),
    "Trainer: max_grad_norm": lambda v: small_trainer(max_grad_norm=[] if v is None else v),
}
for name in ("SGD", "Adam", "AdamW", "RMSprop"):
    make = getattr(cnn, name)
    NOT_NEGATIVE[f"{name}: lr"] = lambda v, make=make: make(weight(), lr=v)
    NOT_NEGATIVE[f"{name}: lr "] = lambda v, make=make: setattr(make(weight()), "lr", v)
    NOT_NEGATIVE[f"{name}: weight_decay"] = lambda v, make=make: make(weight(), weight_decay=v)

NO_NUMBERS = [
    *((v, ValueError) for v in (NAN, INF, -INF, 10**400)),
    *((v, TypeError) for v in ("0.1", None, True, 1j, [0.1], (), zeros(1))),
]


@pytest.mark.parametrize("value, error", NO_NUMBERS, ids=short)
@pytest.mark.parametrize("where", NUMBERS | NOT_NEGATIVE)
def test_numbers(where, value, error):
    refuses(lambda: (NUMBERS | NOT_NEGATIVE)[where](value), error, where.strip())


@pytest.mark.parametrize("where", NOT_NEGATIVE)
def test_negative_numbers(where):
    refuses(lambda: NOT_NEGATIVE[where](-0.1), ValueError, where.strip(), "-0.1")


@pytest.mark.parametrize(
    "where",
    ["Dropout: p", "BatchNorm2d: momentum", "CrossEntropyLoss: label_smoothing", "RMSprop: alpha", "Adam: betas"]
)
def test_numbers_above_1(where):
    refuses(lambda: NOT_NEGATIVE[where](1.1), ValueError, where, "1.1")


def test_options_that_contradict_each_other():
    refuses(lambda: cnn.SGD(weight(), nesterov=True), ValueError, "SGD: nesterov needs a momentum")
    refuses(lambda: cnn.SGD(weight(), momentum=0.9, nesterov=True, dampening=0.1), ValueError,
            "SGD: dampening must be 0 with nesterov, got 0.1")
    refuses(lambda: Conv2d(3, 4, 1, groups=2), ValueError, "Conv2d: in_channels 3", "groups 2")
    refuses(lambda: Conv2d(4, 3, 1, groups=2), ValueError, "Conv2d: out_channels 3", "groups 2")
    refuses(
        lambda: MaxPool2d(3, padding=2)(zeros(1, 1, 9, 9)), ValueError, "MaxPool2d: padding", "half", "2×2"
    )
    for betas in (0.9, (0.9,), (0.9, 0.99, 0.999), None):
        refuses(lambda betas=betas: cnn.Adam(weight(), betas=betas), ValueError, "Adam: betas", repr(betas))


@pytest.mark.parametrize(
    "value, error",
    [(v, ValueError) for v in (0, 5, -5, 2**63)] + [(v, TypeError) for v in (None, 1.0, "1", True)],
    ids=short,
)
def test_dim(value, error):
    refuses(lambda: cnn.Softmax(value), error, "Softmax: dim")
    refuses(lambda: cnn.LogSoftmax(value), error, "LogSoftmax: dim")
    for name in ("softmax", "log_softmax"):
        refuses(lambda name=name: getattr(functional, name)(zeros(1, 2), value), error, f"{name}: dim")
        refuses(
            lambda name=name: getattr(functional, f"{name}_backward")(zeros(1, 2), zeros(1, 2), value),
            error,
            f"{name}_backward: dim",
        )


def test_softmax_of_what_is_no_image():
    for shape in ((2, 0), (2, 3, 0, 4), (2, 0, 3, 4), (), (3,), (2, 3, 4, 5, 6)):
        refuses(lambda shape=shape: functional.softmax(zeros(*shape)), ValueError, "softmax: ", str(shape))


@pytest.mark.parametrize("value", ["exact", "", None, True, 1, ["tanh"]], ids=short)
def test_approximations(value):
    refuses(lambda: cnn.GELU(value), ValueError, 'GELU: approximate must be "none" or "tanh"', shown(value))
    refuses(lambda: functional.gelu(zeros(2), value), ValueError, "gelu: approximate")
    refuses(lambda: functional.gelu_backward(zeros(2), zeros(2), value), ValueError, "gelu_backward: approximate")


def test_names():
    refuses(lambda: Conv2d(1, 1, 1, init="nonsense"), ValueError, "Conv2d: init must be one of", "'nonsense'")
    for dtype in (np.int32, np.float16, complex, "int8"):
        refuses(
            lambda dtype=dtype: Linear(1, 1, dtype=dtype), TypeError, "Linear: dtype", np.dtype(dtype).name
        )
        refuses(lambda dtype=dtype: BatchNorm2d(1, dtype=dtype), TypeError, "BatchNorm2d: dtype")
        refuses(lambda dtype=dtype: Linear(1, 1).to(dtype), TypeError, "dtype", np.dtype(dtype).name)


# ------------------------------------------------------------------------------------------ arrays

X, W, B, C3 = zeros(2, 3, 5, 5), zeros(4, 3, 3, 3), zeros(4), zeros(3)
DY = zeros(2, 4, 3, 3)
UP_W, UP_DY = zeros(3, 4, 3, 2), zeros(2, 4, 11, 10)
FLAT, FLAT_W, FLAT_DY = zeros(2, 6), zeros(4, 6), zeros(2, 4)
INDICES = np.zeros((2, 3, 2, 2), np.int64)
POOL_DY = zeros(2, 3, 2, 2)

# function, its arrays, other arguments
CALLS = [
    ("conv2d", {"x": X, "weight": W, "bias": B}, {}),
    ("conv2d_backward", {"dy": DY, "x": X, "weight": W}, {}),
    ("conv_transpose2d", {"x": X, "weight": UP_W, "bias": B}, {"stride": 2}),
    ("conv_transpose2d_backward", {"dy": UP_DY, "x": X, "weight": UP_W}, {"stride": 2}),
    ("max_pool2d", {"x": X}, {"kernel_size": 2}),
    ("max_pool2d_backward", {"dy": POOL_DY, "indices": INDICES}, {"input_shape": X.shape}),
    ("adaptive_max_pool2d", {"x": X}, {"output_size": 2}),
    ("avg_pool2d", {"x": X}, {"kernel_size": 2}),
    ("avg_pool2d_backward", {"dy": POOL_DY}, {"input_shape": X.shape, "kernel_size": 2}),
    ("adaptive_avg_pool2d", {"x": X}, {"output_size": 2}),
    ("adaptive_avg_pool2d_backward", {"dy": POOL_DY}, {"input_shape": X.shape}),
    ("batch_norm", {"x": X, "weight": C3, "bias": C3}, {"training": True}),
    ("batch_norm", {"x": X, "running_mean": C3, "running_var": C3}, {}),
    ("batch_norm_backward", {"dy": X, "x": X, "weight": C3}, {}),
    ("linear", {"x": FLAT, "weight": FLAT_W, "bias": B}, {}),
    ("linear_backward", {"dy": FLAT_DY, "x": FLAT, "weight": FLAT_W}, {}),
    *((name, {"x": X}, {}) for name in ("relu", "leaky_relu", "tanh", "sigmoid", "silu", "gelu")),
    *((name, {"x": X}, {}) for name in ("softmax", "log_softmax")),
    *((f"{name}_backward", {"dy": X, "y": X}, {}) for name in ("softmax", "log_softmax")),
    *((f"{name}_backward", {"dy": X, "y": X}, {}) for name in ("relu", "tanh", "sigmoid")),
    *((f"{name}_backward", {"dy": X, "x": X}, {}) for name in ("leaky_relu", "silu", "gelu")),
    ("cross_entropy", {"x": FLAT_DY}, {"target": np.array([0, 1])}),
    ("mse_loss", {"x": FLAT, "target": FLAT}, {}),
]
OPTIONAL = ("weight", "bias", "running_mean", "running_var")
# their first array may have other shapes
ACTIVATIONS = ("relu", "leaky_relu", "tanh", "sigmoid", "silu", "gelu", "softmax", "log_softmax")


def per_argument(wanted=lambda name, what, arrays: True):
    """Run the test for each array of each function, or for those that are `wanted`."""
    rows = [
        (name, what, arrays, more)
        for name, arrays, more in CALLS
        for what in arrays
        if wanted(name, what, arrays)
    ]
    return pytest.mark.parametrize(
        "name, what, arrays, more", rows, ids=[f"{row[0]}: {row[1]}" for row in rows]
    )


def call(name, arrays, more, **changed):
    return getattr(functional, name)(**{**arrays, **changed}, **more)


@per_argument()
def test_wrong_kinds_of_arrays(name, what, arrays, more):
    good = arrays[what]
    call(name, arrays, more)
    for dtype in (np.float16, np.longdouble, complex, np.int32, np.uint8, bool, object, "S4", "M8[s]"):
        refuses(
            lambda dtype=dtype: call(name, arrays, more, **{what: good.astype(dtype)}),
            TypeError,
            f"{name}: {what}",
        )
    for value in ("text", 3, 2.5, good.tolist(), (), {}, NAN, memoryview(good)):
        refuses(lambda value=value: call(name, arrays, more, **{what: value}), TypeError, f"{name}: {what}")
    if what not in OPTIONAL:
        refuses(lambda: call(name, arrays, more, **{what: None}), TypeError, f"{name}: {what}", "NoneType")


@per_argument(lambda name, what, arrays: sum(array.dtype == np.float32 for array in arrays.values()) > 1)
def test_two_number_types_in_a_call(name, what, arrays, more):
    refuses(
        lambda: call(name, arrays, more, **{what: arrays[what].astype(float)}),
        TypeError,
        f"{name}: ",
        "float64",
    )


@per_argument(lambda name, what, arrays: not name.startswith(ACTIVATIONS) or what != next(iter(arrays)))
def test_wrong_numbers_of_axes(name, what, arrays, more):
    good = arrays[what]
    for wrong in (
        good[..., None],
        *([] if (name, what) == ("linear", "x") else [good[None]]),     # it takes (N, L, C)
        good.reshape(-1, 1, 1)[0],
        good.ravel()[:0],
        np.array(0, good.dtype),
    ):
        refuses(lambda wrong=wrong: call(name, arrays, more, **{what: wrong}), ValueError, f"{name}: ")


@per_argument(lambda name, what, arrays: len(arrays) > 1)
def test_a_longer_axis(name, what, arrays, more):
    good = arrays[what]
    for axis in range(good.ndim):
        if (name, what, axis) in {
            ("conv2d", "x", 0),
            ("conv2d", "x", 2),
            ("conv2d", "x", 3),
            *(("conv_transpose2d", "x", axis) for axis in (0, 2, 3)),
            ("linear", "x", 0),
            *(("batch_norm", "x", axis) for axis in (0, 2, 3)),
        }:
            continue  # another batch or image
        if (name, what) in {("conv2d", "weight"), ("conv_transpose2d", "weight")} and axis in (2, 3):
            continue  # another kernel
        if name == "max_pool2d_backward" and what == "dy" and axis > 1:
            wrong = np.repeat(good, 2, axis=axis)  # which the indices do not follow
        else:
            wrong = np.concatenate([good, good.take([0], axis)], axis)
        refuses(lambda wrong=wrong: call(name, arrays, more, **{what: wrong}), ValueError, f"{name}: ")


def test_more_axes_and_channels_named():
    refuses(lambda: functional.conv2d(X, zeros(4, 2, 3, 3)), ValueError, "conv2d: weight", "(4, 2, 3, 3)")
    refuses(lambda: functional.conv2d(X, zeros(4, 3, 0, 3)), ValueError, "conv2d: weight", "empty")
    refuses(lambda: functional.conv2d(X, zeros(0, 3, 3, 3)), ValueError, "conv2d: ")
    refuses(lambda: functional.conv2d(zeros(2, 0, 5, 5), zeros(4, 0, 3, 3)), ValueError, "conv2d: ")
    refuses(lambda: functional.conv_transpose2d(X, zeros(4, 2, 3, 3)), ValueError, "conv_transpose2d: weight", "(4, 2")
    refuses(lambda: functional.conv_transpose2d(X, zeros(3, 4, 0, 3)), ValueError, "conv_transpose2d: weight", "empty")
    refuses(lambda: functional.conv_transpose2d(X, zeros(3, 0, 3, 3)), ValueError, "conv_transpose2d: ")
    refuses(lambda: functional.conv_transpose2d(zeros(2, 0, 5, 5), zeros(0, 4, 3, 3)), ValueError, "conv_transpose2d: ")
    refuses(lambda: functional.linear(zeros(2, 0), zeros(4, 0)), ValueError, "linear: weight", "empty")
    refuses(
        lambda: functional.cross_entropy(zeros(2, 0), np.array([0, 0])),
        ValueError,
        "cross_entropy: ",
        "classes",
    )
    refuses(lambda: functional.mse_loss(zeros(2, 0), zeros(2, 0)), ValueError, "mse_loss: x")
    refuses(lambda: functional.mse_loss(zeros(2, 3, 4, 1, 1), zeros(2, 3, 4, 1, 1)), ValueError, "mse_loss: x")


@pytest.mark.parametrize("function", ["conv2d", "max_pool2d", "avg_pool2d"])
def test_a_kernel_larger_than_the_padded_input(function):
    def run(size, kernel, **more):
        w = zeros(1, 1, kernel, kernel) if function == "conv2d" else kernel
        return getattr(functional, function)(zeros(1, 1, *size), w, **more)

    refuses(
        lambda: run((5, 5), 7), ValueError, f"{function}: kernel_size 7×7 is larger than the padded input 5×5"
    )
    refuses(lambda: run((4, 9), 7, padding=1), ValueError, "padded input 6×11")
    refuses(lambda: run((0, 5), 1), ValueError, f"{function}: the input must not be empty, got 0×5")
    assert run((5, 5), 7, padding=1) is not None
    refuses(lambda: Conv2d(1, 1, 7)(zeros(1, 1, 5, 5)), ValueError, "Conv2d: kernel_size 7×7 is larger than")
    for pool in (MaxPool2d, AvgPool2d):
        refuses(
            lambda pool=pool: pool(7)(zeros(1, 1, 5, 5)),
            ValueError,
            f"{pool.__name__}: kernel_size 7×7 is larger than",
        )
    refuses(
        lambda: Conv2d(1, 1, 2, dilation=2**31 - 1)(zeros(1, 1, 5, 5)),
        ValueError,
        "Conv2d: kernel_size 2×2 with dilation",
    )
    refuses(lambda: functional.conv2d(X, W, padding=2**31 - 1), ValueError, "conv2d: ", "padded input")


def test_adaptive_pooling_of_nothing_and_onto_too_much():
    for function in (functional.adaptive_avg_pool2d, functional.adaptive_max_pool2d):
        name = function.__name__
        refuses(lambda f=function: f(zeros(1, 1, 0, 5), 1), ValueError, f"{name}: the input must not be empty, got 0×5")
        refuses(lambda f=function: f(zeros(1, 1, 2, 2), 2**15), ValueError, f"{name}: the output", "too large")
    for layer in (AdaptiveAvgPool2d(2**15), AdaptiveMaxPool2d(2**15)):
        refuses(lambda layer=layer: layer(zeros(1, 1, 2, 2)), ValueError, f"{type(layer).__name__}: the output")


def test_a_dy_that_is_no_output():
    refuses(
        lambda: functional.avg_pool2d_backward(POOL_DY, X.shape, 3, 1),
        ValueError,
        "avg_pool2d_backward: dy must have shape (2, 3, 3, 3), got (2, 3, 2, 2)",
    )
    refuses(
        lambda: functional.adaptive_avg_pool2d_backward(zeros(2, 3, 0, 2), X.shape),
        ValueError,
        "adaptive_avg_pool2d_backward: ",
    )


def test_large_strides_and_dilations_are_fine():
    big = 2**31 - 1
    x = np.arange(12.0).reshape(1, 1, 3, 4)
    w = np.full((1, 1, 1, 1), 2.0)
    assert functional.conv2d(x, w, stride=big, dilation=big).tolist() == [[[[0]]]]
    dx, dw, db = functional.conv2d_backward(np.ones((1, 1, 1, 1)), x + 1, w, stride=big, dilation=big)
    assert dx.ravel().tolist() == [2] + [0] * 11 and dw.item() == 1 and db.item() == 1
    assert functional.max_pool2d(x, 3, stride=big)[0].tolist() == [[[[10]]]]
    assert functional.avg_pool2d(x, 3, stride=big).tolist() == [[[[5]]]]
    assert Conv2d(1, 1, 1, stride=big)(x.astype(np.float32)).shape == (1, 1, 1, 1)


def test_pooling_indices_out_of_range():
    for wrong in (-1, 25, 2**31, 2**32, -(2**63), 2**63 - 1):
        indices = INDICES.copy()
        indices[1, 2, 1, 1] = wrong
        refuses(
            lambda indices=indices: functional.max_pool2d_backward(POOL_DY, indices, X.shape),
            ValueError,
            "max_pool2d_backward: indices",
            str(wrong),
        )
    refuses(
        lambda: functional.max_pool2d_backward(POOL_DY, INDICES.astype(np.int32), X.shape),
        TypeError,
        "indices",
    )


@pytest.mark.parametrize(
    "input_shape, error",
    [
        *(
            (s, ValueError)
            for s in ((2, 3, 5), (2, 3, 5, 5, 1), (1, 3, 5, 5), (2, 4, 5, 5), (2, 3, -1, -1), (2, 3, 0, 5))
        ),
        *((s, ValueError) for s in ((2, 3, 2**31, 5), (2, 3, 2**31 - 1, 2**31 - 1), ())),
        *((s, TypeError) for s in (None, 5, (2, 3, 5.0, 5), (2, 3, "5", "5"), (2, 3, None, 5))),
    ],
    ids=str,
)
def test_input_shape(input_shape, error):
    for name, *more in (("max_pool2d_backward", INDICES, input_shape), ("avg_pool2d_backward", input_shape, 2),
                        ("adaptive_avg_pool2d_backward", input_shape)):
        refuses(lambda name=name, more=more: getattr(functional, name)(POOL_DY, *more), error, f"{name}: ")


BAD_TARGETS = [
    *((v, ValueError) for v in ([0, 3], [-1, 0], [0, 2**63 - 1], [0], [0, 1, 2], [[0, 1]], 0)),
    *((np.array(v, np.uint64), ValueError) for v in ([0, 2**64 - 1], [], [2**63, 0])),
    *((v, TypeError) for v in ([0.0, 1.0], [True, False], ["0", "1"], None, [None, 1], [0, 2**70], [0, NAN])),
]


@pytest.mark.parametrize("value, error", BAD_TARGETS, ids=str)
def test_targets(value, error):
    refuses(lambda: functional.cross_entropy(zeros(2, 3), value), error, "cross_entropy: target")
    trainer = small_trainer()
    before = trainer.model.state_dict()
    refuses(lambda: trainer.train_step(zeros(2, 1, 4, 4), value), error, "target")
    for name, array in trainer.model.state_dict().items():
        assert np.array_equal(array, before[name])


BAD_WEIGHTS = [[1.0, 1.0], [1.0] * 4, [[1.0] * 3], 1.0, [1, 1, -1], [1, 1, NAN], [1, 1, INF]]
BAD_WEIGHTS += ["abc", ["a", "b", "c"], [1, 1, None], [1j, 1, 1], {1: 2}]


@pytest.mark.parametrize("weight", BAD_WEIGHTS, ids=str)
def test_class_weights(weight):
    targets = np.array([0, 1])
    runs = [lambda: functional.cross_entropy(zeros(2, 3), targets, weight)]
    if weight in BAD_WEIGHTS[:2]:       # for other classes
        loss = cnn.CrossEntropyLoss(weight=weight)
        trainer = small_trainer(loss=loss)
        runs += [lambda: loss(zeros(2, 3), targets), lambda: trainer.train_step(zeros(2, 1, 4, 4), targets)]
    else:
        runs += [lambda: cnn.CrossEntropyLoss(weight=weight), lambda: cnn.NLLLoss(weight)]
    for run in runs:
        with pytest.raises((TypeError, ValueError), match="(cross_entropy|CrossEntropyLoss|NLLLoss): weight must"):
            run()


@pytest.mark.parametrize("what", ["weight", "pos_weight"])
@pytest.mark.parametrize("shape, image", [((2,), (3,)), ((4, 3), (3,)), ((1, 1, 3), (3,)), ((3,), (3, 4, 5))])
def test_weights_of_binary_losses(what, shape, image):
    weight, x = np.ones(shape), zeros(2, *image)
    words = f"{what} must have a shape that is broadcast to that of an image, {image}, got {shape}"
    loss = cnn.BCEWithLogitsLoss(**{what: weight})
    refuses(lambda: loss(x, x), ValueError, f"BCEWithLogitsLoss: {words}")
    refuses(lambda: functional.binary_cross_entropy_with_logits(x, x, **{what: weight}), ValueError,
            f"binary_cross_entropy_with_logits: {words}")
    if image == (3,):
        model = cnn.Linear(3, 3, seed=0)
        trainer = cnn.Trainer(model, cnn.SGD(model.parameters()), loss, progress=False)
        refuses(lambda: trainer.train_step(zeros(2, 3), zeros(2, 3)), ValueError, f"BCEWithLogitsLoss: {words}")


P = [cnn.engine.parameter.Parameter(zeros(2, 2))]
FLAGS = {
    "Conv2d: bias": lambda v: cnn.Conv2d(3, 4, 3, bias=v), "Conv1d: bias": lambda v: cnn.Conv1d(3, 4, 3, bias=v),
    "ConvTranspose2d: bias": lambda v: cnn.ConvTranspose2d(3, 4, 3, bias=v),
    "Linear: bias": lambda v: cnn.Linear(3, 4, bias=v), "BatchNorm2d: affine": lambda v: cnn.BatchNorm2d(3, affine=v),
    "BatchNorm2d: bias": lambda v: cnn.BatchNorm2d(3, bias=v),
    "BatchNorm2d: unbiased": lambda v: cnn.BatchNorm2d(3, unbiased=v),
    "BatchNorm2d: track_running_stats": lambda v: cnn.BatchNorm2d(3, track_running_stats=v),
    "GroupNorm: affine": lambda v: cnn.GroupNorm(1, 3, affine=v),
    "InstanceNorm2d: affine": lambda v: cnn.InstanceNorm2d(3, affine=v),
    "LayerNorm: elementwise_affine": lambda v: cnn.LayerNorm(3, elementwise_affine=v),
    "LayerNorm2d: bias": lambda v: cnn.LayerNorm2d(3, bias=v),
    "MaxPool2d: ceil_mode": lambda v: cnn.MaxPool2d(2, ceil_mode=v),
    "MaxPool1d: ceil_mode": lambda v: cnn.MaxPool1d(2, ceil_mode=v),
    "AvgPool2d: count_include_pad": lambda v: cnn.AvgPool2d(2, count_include_pad=v),
    "AvgPool1d: count_include_pad": lambda v: cnn.AvgPool1d(2, count_include_pad=v),
    "KLDivLoss: log_target": lambda v: cnn.KLDivLoss(log_target=v),
    "kl_div: log_target": lambda v: functional.kl_div(zeros(1, 2), zeros(1, 2), log_target=v),
    "sum: keepdim": lambda v: functional.sum(zeros(1, 2), keepdim=v),
    "max_pool2d: ceil_mode": lambda v: functional.max_pool2d(zeros(1, 1, 2, 2), 2, ceil_mode=v),
    **{f"{name}: inplace": lambda v, name=name: getattr(functional, name)(zeros(1, 2), inplace=v) for name in (
        "relu", "leaky_relu", "silu", "hardtanh", "relu6", "elu", "hardswish", "hardsigmoid", "mish")},
    "ReLU: inplace": cnn.ReLU, "SiLU: inplace": cnn.SiLU, "ELU: inplace": lambda v: cnn.ELU(inplace=v),
    "SGD: nesterov": lambda v: cnn.SGD(P, 0.1, 0.9, nesterov=v), "SGD: maximize": lambda v: cnn.SGD(P, maximize=v),
    "Adam: amsgrad": lambda v: cnn.Adam(P, amsgrad=v), "AdamW: maximize": lambda v: cnn.AdamW(P, maximize=v),
    "RMSprop: centered": lambda v: cnn.RMSprop(P, centered=v), "Linear: mode": lambda v: cnn.Linear(2, 2).train(v),
    "EarlyStopping: restore_best": lambda v: cnn.callbacks.EarlyStopping(restore_best=v),
}


@pytest.mark.parametrize("where", FLAGS)
def test_what_is_true_or_false(where):
    for value in ("x", "False", 2, 0.5, None, [True], np.ones(2)):
        refuses(lambda v=value: FLAGS[where](v), TypeError, f"{where} must be True or False, got ")
    for value in (True, False, 1, 0, np.True_):
        FLAGS[where](value)


# ------------------------------------------------------------------------------------------ layers

@pytest.mark.parametrize("value, error", [
    *((v, ValueError) for v in (0, 2, (1, 1), (1, -1), (), (0, 1), 2**63)),
    *((v, TypeError) for v in (1.0, "1", True, (1, None), zeros(1)))], ids=short)
@pytest.mark.parametrize("name", ["sum", "mean", "amax", "amin", "normalize"])
def test_dims_of_reductions(name, value, error):
    refuses(lambda: getattr(functional, name)(zeros(1, 2), dim=value), error, f"{name}: dim")


def test_operands_that_do_not_fit():
    a = zeros(2, 3)
    for name in ("maximum", "minimum"):
        function = getattr(functional, name)
        refuses(lambda function=function: function(1.0, 2.0), TypeError, f"{name}: x must be a NumPy array")
        refuses(lambda function=function: function(a, "x"), TypeError, f"{name}: other must be", "got str")
        refuses(lambda function=function: function(a, zeros(3, 3)), ValueError, f"{name}: other must hold 2 images, as",
                "3")
        refuses(lambda function=function: function(a, zeros(2, 4)), ValueError, f"{name}: (N, 3) and (N, 4)")
        double = zeros(2, 3, dtype=float)
        refuses(lambda function=function, b=double: function(a, b), TypeError, f"{name}: other must be float32")
        refuses(lambda function=function: function(a, zeros(2, 3, 1, 1)), ValueError, f"{name}: ", "reshape")
    refuses(lambda: functional.where(a, None, a), TypeError, "where: ")
    refuses(lambda: functional.exp(zeros(2, 1, 1, 1, 1)), ValueError, "exp: x must have shape")
    refuses(lambda: functional.exp([1.0]), TypeError, "exp: x must be a NumPy array", "got list")
    refuses(lambda: functional.clamp(a), ValueError, "clamp: min or max must be given")
    refuses(lambda: functional.hardtanh(a, 2, 1), ValueError, "hardtanh: max_val must be at least min_val")
    refuses(lambda: functional.normalize(a, p=0), ValueError, "normalize: p must be a finite number above 0, got 0")
    refuses(lambda: functional.prelu(a, zeros(2)), ValueError, "prelu: weight must have shape (3,) or (1,), got (2,)")
    refuses(lambda: functional.prelu(a, zeros(3, dtype=float)), TypeError, "prelu: weight must be float32")
    refuses(lambda: cnn.PReLU(2)(a), ValueError, "prelu: weight must have shape (3,) or (1,), got (2,)")
    refuses(lambda: functional.amax(zeros(2, 0)), ValueError, "amax: every image must have elements")


LAYERS = [
    Conv2d(3, 2, 3),
    MaxPool2d(2),
    Linear(6, 2),
    AvgPool2d(2),
    AdaptiveAvgPool2d(2),
    AdaptiveMaxPool2d(2),
    GlobalAvgPool2d(),
    ReLU(),
    LeakyReLU(),
    BatchNorm2d(3),
    cnn.Tanh(),
    cnn.Sigmoid(),
    cnn.SiLU(),
    cnn.GELU(),
    cnn.ReLU6(),
    cnn.Hardtanh(),
    cnn.ELU(),
    cnn.Hardswish(),
    cnn.Hardsigmoid(),
    cnn.Mish(),
    cnn.Softplus(),
    cnn.PReLU(),
    cnn.Softmax(),
    cnn.LogSoftmax(),
    Dropout(),
    cnn.Dropout2d(),
    Flatten(),
]
LAYERS += [Sequential(ReLU()), Sequential()]
per_layer = pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: repr(layer).replace("\n", ""))


@per_layer
def test_wrong_inputs_of_layers(layer):
    name = type(layer).__name__
    for value in (None, "text", 3, [[1.0]], (), memoryview(zeros(1, 6))):
        refuses(lambda value=value: layer(value), TypeError, f"{name}: x must be a NumPy array")
    for dtype in (np.float16, np.int32, np.uint8, bool, object, complex):
        refuses(lambda dtype=dtype: layer(zeros(2, 6, dtype=dtype)), TypeError, f"{name}: x must be float32")
    no_vector = name != "Linear" and not hasattr(layer, "by_element")
    for shape in ((), (2, 3, 4, 5, 6), (2, 0), (2, 3, 0, 5), (0, 0), *((6,),) * no_vector):
        refuses(lambda shape=shape: layer(zeros(*shape)), ValueError, f"{name}: ", str(shape).strip("()"))


@pytest.mark.parametrize("layer", LAYERS[:1] + LAYERS[2:3], ids=repr)
def test_layers_do_not_mix_number_types(layer):
    refuses(
        lambda: layer(zeros(2, 6, dtype=float)),
        TypeError,
        f"{type(layer).__name__}: x must be float32",
        "float64",
    )


def test_wrong_shapes_of_layers():
    refuses(lambda: BatchNorm2d(3)(zeros(2, 4, 5, 5)), ValueError, "BatchNorm2d: x must have 3 channels, got 4")
    refuses(
        lambda: BatchNorm2d(3)(zeros(2, 3)),
        ValueError,
        "BatchNorm2d: x must have shape (N, C, H, W), got (N, 3)",
    )
    refuses(lambda: Conv2d(3, 2, 3)(zeros(1, 4, 5, 5)), ValueError, "Conv2d: x must have 3 channels, got 4")
    refuses(
        lambda: Conv2d(3, 2, 3)(zeros(1, 3)), ValueError, "Conv2d: x must have shape (N, C, H, W), got (N, 3)"
    )
    pools = [MaxPool2d(2), AvgPool2d(2), AdaptiveAvgPool2d(2), AdaptiveMaxPool2d(2), GlobalAvgPool2d()]
    for layer in [*pools, cnn.Dropout2d()]:
        refuses(
            lambda layer=layer: layer(zeros(1, 3)),
            ValueError,
            f"{type(layer).__name__}: x must have shape (N, C, H, W), got (N, 3)",
        )
    refuses(lambda: Linear(6, 2)(zeros(1, 5)), ValueError, "Linear: x must have shape (N, 6), got (N, 5)")
    refuses(
        lambda: Linear(6, 2)(zeros(1, 1, 2, 3)), ValueError, "Linear: x must have shape (N, 6)", "Flatten()",
        "(N, ..., 6)", "whose last axis has 3", "(N, 6) of it"
    )
    refuses(
        lambda: Sequential(ReLU(), Linear(6, 2))(zeros(1, 5)), ValueError, "Linear: x must have shape (N, 6)"
    )


def test_wrong_dy():
    layer = Linear(6, 2)
    layer(zeros(3, 6))
    for value in (None, [[0.0, 0.0]] * 3, 1.0):
        refuses(lambda value=value: layer.backward(value), TypeError, "Linear: dy must be a NumPy array")
    refuses(
        lambda: layer.backward(zeros(3, 2, dtype=float)), TypeError, "Linear: dy must be float32, got float64"
    )
    for shape in ((3,), (2, 2), (3, 3), (3, 2, 1), (0, 2)):
        refuses(
            lambda shape=shape: layer.backward(zeros(*shape)), ValueError, "Linear: dy must have shape (3, 2)"
        )
    layer.backward(zeros(3, 2))


def test_layers_go_on_after_an_error():
    layer = Conv2d(1, 2, 3)
    x = np.random.default_rng(0).standard_normal((2, 1, 5, 5)).astype(np.float32)
    wanted = layer(x)
    for wrong in (zeros(2, 1, 2, 2), zeros(2, 2, 5, 5), None):
        with pytest.raises((TypeError, ValueError)):
            layer(wrong)
    assert np.array_equal(layer(x), wanted)


def test_what_is_no_layer():
    refuses(lambda: Sequential(ReLU(), "ReLU"), TypeError, "Sequential: argument 1 must be a layer, got str")
    refuses(lambda: Sequential(ReLU), TypeError, "Sequential: argument 0 must be a layer, got type")
    refuses(lambda: Sequential([ReLU()]), TypeError, "Sequential: argument 0 must be a layer, got list")


# ------------------------------------------------------------------------------------------ state


def test_states_that_do_not_fit_change_nothing():
    layer = Linear(2, 3)
    before = layer.state_dict()
    good = {"weight": zeros(3, 2), "bias": zeros(3)}
    bad = [
        ({}, "weight"),
        ({"weight": good["weight"]}, "bias"),
        ({**good, "extra": zeros(1)}, "extra"),
        *(
            ({"weight": good["weight"], "bias": bias}, "bias")
            for bias in (
                zeros(4),
                zeros(3, 1),
                None,
                list("abc"),
                [1j, 1, 1],
                [None, 1, 1],
                [[1], [1, 2], []],
            )
        ),
        *((state, "state") for state in (None, [1, 2], "weight")),
    ]
    for state, word in bad:
        with pytest.raises((TypeError, ValueError), match=f"^Linear: .*{word}"):
            layer.load_state_dict(state)
        for name, value in layer.state_dict().items():
            assert np.array_equal(value, before[name])
    layer.load_state_dict(good)


def test_states_of_other_kinds_that_fit():
    layer = Linear(2, 1)
    layer.load_state_dict({"weight": np.array([[1, 2]]), "bias": [0.5]})
    assert layer.state_dict()["weight"].dtype == np.float32
    layer.load_state_dict(
        {"weight": np.asfortranarray([[1.0, 2.0]]).astype(">f8"), "bias": np.float16([0.5])}
    )
    assert layer(np.ones((1, 2), np.float32)).item() == 3.5


@pytest.mark.parametrize("value", [None, 3.0, "text", [1.0, 2.0], (), {}], ids=str)
def test_parameters_are_made_of_arrays(value):
    refuses(lambda: cnn.Parameter(value), TypeError, "Parameter: data must be a NumPy array")


@pytest.mark.parametrize("dtype", [int, np.uint8, bool, object, complex, np.float16, "S3"])
def test_parameters_are_floats(dtype):
    refuses(
        lambda: cnn.Parameter(zeros(3, dtype=dtype)), TypeError, "Parameter: data must be float32 or float64"
    )


def test_parameters_take_any_layout():
    data = np.arange(12.0).reshape(3, 4)
    for same in (np.asfortranarray(data), data.astype(">f8"), np.repeat(data, 2, axis=0)[::2]):
        p = cnn.Parameter(same)
        assert np.array_equal(p.data, data) and p.data.flags.c_contiguous
        assert p.dtype == np.float64 and p.dtype.isnative
        p.grad = same
        cnn.SGD([p], lr=1).step()
        assert not p.data.any()


def test_data_and_gradients_of_parameters():
    for what in ("data", "grad"):
        for value in (
            *map(np.zeros, [(), 1, 4, (3, 1), (1, 3), 0]),
            list("abc"),
            [1j, 1, 1],
            [None, 1, 1],
            None,
        ):
            p = cnn.Parameter(np.ones(3))
            with pytest.raises((TypeError, ValueError), match=f"Parameter: {what}"):
                setattr(p, what, value)
            assert p.data.tolist() == [1, 1, 1] and not p.grad.any()


OPTIMIZERS = [cnn.SGD, cnn.Adam, cnn.AdamW, cnn.RMSprop]


@pytest.mark.parametrize("make", OPTIMIZERS)
def test_params_of_optimizers(make):
    name = make.__name__
    p, layer = cnn.Parameter(zeros(3)), Linear(2, 2)
    refuses(lambda: make([]), ValueError, f"{name}: params must hold at least one Parameter")
    refuses(lambda: make([p, p]), ValueError, f"{name}: params has the same Parameter more than once")
    for wrong in (None, 3, p, layer, [zeros(3)], [None], "ab", [(3, p)], layer.state_dict()):
        refuses(lambda wrong=wrong: make(wrong), TypeError, f"{name}: params")
    refuses(lambda: make([p, cnn.Parameter(zeros(2, dtype=float))]), ValueError, name, "float32", "float64")
    make(q for q in layer.parameters()).step()


@pytest.mark.parametrize("make", OPTIMIZERS)
def test_groups_of_optimizers(make):
    name, p, q = make.__name__, cnn.Parameter(zeros(3)), cnn.Parameter(zeros(2))
    refuses(lambda: make([{"params": []}, {"params": []}]), ValueError, f"{name}: params must hold at least one")
    refuses(lambda: make([{"params": [p]}, {"params": [p]}]), ValueError, name, "the same Parameter more than once")
    refuses(lambda: make([{"params": [p]}, q]), TypeError, f"{name}: params must be Parameters, got dict")
    refuses(lambda: make([{"params": p}]), TypeError, f"{name}: params must be a list of Parameters")
    refuses(lambda: make([{"lr": 1}]), ValueError, f"{name}: params: a group must have params", "got lr")
    refuses(lambda: make([{"params": [p], "damping": 0}]), ValueError, f"{name}: params: a group", "damping")
    refuses(lambda: make([{"params": [p], "lr": -1}]), ValueError, f"{name}: lr", "-1")
    refuses(lambda: make([{"params": [p], "weight_decay": NAN}]), ValueError, f"{name}: weight_decay", "nan")
    refuses(lambda: make([{"params": [p], "lr": 1}], lr=0), ValueError, f"{name}: lr must be above 0 where a group")


def test_arguments_of_parameter_groups():
    p = [cnn.Parameter(zeros(3))]
    refuses(lambda: cnn.parameter_groups([zeros(3)], 1), TypeError, "parameter_groups: params must be Parameters")
    refuses(lambda: cnn.parameter_groups(p, -1), ValueError, "parameter_groups: lr", "-1")
    refuses(lambda: cnn.parameter_groups(p, 1, NAN), ValueError, "parameter_groups: weight_decay", "nan")
    refuses(lambda: cnn.parameter_groups(p, 1, 0, 0), ValueError, "parameter_groups: bias_lr", "above 0, got 0")
    refuses(lambda: cnn.parameter_groups(p, "1"), TypeError, "parameter_groups: lr", "'1'")


def test_parameters_of_split_biases():
    refuses(lambda: cnn.split_biases(None), TypeError, "split_biases: params must be a list of Parameters")
    refuses(lambda: cnn.split_biases([zeros(3)]), TypeError, "split_biases: params must be Parameters, got ndarray")


# ------------------------------------------------------------------------------------------ averages


@pytest.mark.parametrize("make", [cnn.EMA, cnn.Lookahead])
def test_averages(make):
    name, layer = make.__name__, Linear(2, 2)
    refuses(lambda: make(ReLU()), ValueError, f"{name}: model must have parameters and buffers", "got none")
    mixed = Sequential(Linear(1, 1), Linear(1, 1, dtype=np.float64))
    refuses(lambda: make(mixed), ValueError, f"{name}: model must have parameters and buffers of one dtype")
    for decay, error in ((-0.1, ValueError), (1.1, ValueError), (NAN, ValueError), ("1", TypeError)):
        refuses(lambda decay=decay: make(layer, decay), error, f"{name}: decay", repr(decay))
        refuses(lambda decay=decay: make(layer, lambda step: decay, 1).update(), error, f"{name}: decay")
    for every, error in ((0, ValueError), (1.5, TypeError)):
        refuses(lambda every=every: make(layer, 0.5, every), error, f"{name}: every", repr(every))


# ------------------------------------------------------------------------------------------ Trainer


def test_train_step():
    trainer, labels = small_trainer(), np.array([0, 1])
    refuses(
        lambda: trainer.train_step(zeros(0, 1, 4, 4), np.zeros(0, int)),
        ValueError,
        "Trainer.train_step: images",
    )
    refuses(
        lambda: trainer.train_step(zeros(2, 1, 4, 4, dtype=float), labels),
        TypeError,
        "Trainer.train_step: images",
    )
    refuses(
        lambda: trainer.train_step(zeros(2, 1, 4, 4, dtype=np.uint8), labels), TypeError, "Trainer.train_step"
    )
    refuses(lambda: trainer.train_step([[1.0]], labels), TypeError, "Trainer.train_step: images")
    for shape in ((), (2,), (2, 1, 1, 4, 4)):
        refuses(
            lambda shape=shape: trainer.train_step(zeros(*shape), labels), ValueError, "images", str(shape)
        )
    refuses(
        lambda: trainer.train_step(zeros(2, 1, 4, 5), labels), ValueError, "Linear: x must have shape (N, 16)"
    )
    trainer.train_step(zeros(2, 1, 4, 4), labels)


def test_images_that_are_vectors():
    model = Linear(3, 2)
    trainer = cnn.Trainer(model, cnn.SGD(model.parameters()), progress=False)
    trainer.train_step(zeros(4, 3), np.array([0, 1, 0, 1]))
    assert trainer.predict(zeros(4, 3)).shape == (4, 2)


def test_a_model_without_classes():
    model = Conv2d(1, 2, 3)
    trainer = cnn.Trainer(model, cnn.SGD(model.parameters()), progress=False)
    refuses(
        lambda: trainer.fit(small_data(), 1),
        ValueError,
        "CrossEntropyLoss: the model's output must have shape (N, K)",
    )
    refuses(lambda: trainer.evaluate(small_data()), ValueError, "CrossEntropyLoss: ")


@pytest.mark.parametrize(
    "value", [None, 3, "mnist", zeros(2, 1, 4, 4), (zeros(2, 1, 4, 4), [0, 1]), [1, 2]], ids=short
)
def test_what_is_no_data_set(value):
    trainer = small_trainer()
    refuses(lambda: trainer.evaluate(value), TypeError, "Trainer.evaluate: data")
    if not isinstance(value, np.ndarray):
        refuses(lambda: trainer.predict(value), TypeError, "Trainer.predict: x")
    if not isinstance(value, tuple):
        refuses(lambda: trainer.fit(value, 1), TypeError, "Trainer.fit: train")
    if value is not None:
        refuses(lambda: trainer.fit(small_data(), 1, validation=value), TypeError, "Trainer.fit: validation")


def test_images_of_predict():
    trainer = small_trainer()
    for shape in ((), (4,), (2, 4, 5), (2, 1, 5, 5)):
        refuses(lambda shape=shape: trainer.predict(zeros(*shape)), ValueError)
    refuses(
        lambda: trainer.predict(zeros(2, 1, 4, 4, dtype=np.uint8)), TypeError, "Trainer.predict: x", "uint8"
    )
    assert trainer.predict(zeros(0, 1, 4, 4)).shape == (0, 3)


@pytest.mark.thorough
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
@pytest.mark.parametrize("label", [3, -1, 2**40])
def test_labels_that_were_changed_afterwards(dtype, label):
    """A data set checks its labels when it is made and protects them; but who insists can change them."""
    code = f"""
        import numpy as np, cnn
        model = cnn.Sequential(cnn.Flatten(), cnn.Linear(16, 3))
        trainer = cnn.Trainer(model, cnn.SGD(model.parameters()))
        data = cnn.data.Dataset(np.zeros((5, 1, 4, 4), np.{dtype}), np.arange(5) % 3)
        data.labels.flags.writeable = True
        data.labels[3] = {label}
        for run in (trainer.evaluate, lambda data: trainer.fit(data, 1)):
            try:
                run(data)
            except ValueError as error:
                print("refused:", error)
    """
    result = run_python("-c", code)
    assert result.stdout.count("refused:") == 2, result.returncode


def test_images_and_labels_cannot_be_replaced():
    """They have been checked, and are handed to the kernels as they are."""
    data = small_data(40)
    for name in ("images", "labels"):
        with pytest.raises(AttributeError):
            setattr(data, name, getattr(data, name)[::-1])
    with pytest.raises(ValueError, match="read-only"):
        data.labels[3] = 0


def test_a_schedule_that_returns_nonsense():
    for rate, error in ((-1.0, ValueError), (NAN, ValueError), (None, TypeError), ("0.1", TypeError)):
        trainer = small_trainer(schedule=lambda step, rate=rate: rate)
        refuses(lambda: trainer.fit(small_data(), 1), error, "SGD: lr", repr(rate))  # noqa: B023
    trainer = small_trainer(schedule=schedules.Constant(0.5))
    trainer.fit(small_data(), 1)
    assert trainer.lr == 0.5


# ------------------------------------------------------------------------------------------ too large

# Sizes beyond the machine, each refused before memory is asked for (which a limit of 4 GB would show).
TOO_LARGE = {
    "padding": "functional.conv2d(one, one, padding=2**20)",
    "largest padding": "functional.conv2d(one, one, padding=2**30 - 1)",
    "one-sided padding": "functional.conv2d(one, one, padding=(0, 2**29))",
    "transposed stride": "functional.conv_transpose2d(np.ones((1, 1, 2, 2)), one, stride=2**20)",
    "transposed dilation": "functional.conv_transpose2d(one, np.ones((1, 1, 2, 2)), dilation=2**20)",
    "transposed kernel": "cnn.ConvTranspose2d(1, 1, 2**31 - 1)",
    "padding of a layer": "cnn.Conv2d(1, 1, 1, padding=2**20)(one.astype('f'))",
    "image": "functional.conv2d(np.zeros((0, 1, 2**15, 2**15)), one)",
    "image of a layer": "cnn.Conv2d(1, 1, 1)(np.zeros((0, 1, 2**15, 2**15), np.float32))",
    "pooled image": "cnn.MaxPool2d(2)(np.zeros((0, 1, 2**15, 2**15), np.float32))",
    "activation": "cnn.ReLU()(np.zeros((0, 1, 2**15, 2**15), np.float32))",
    "vector": "functional.mse_loss(np.zeros((0, 2**30)), np.zeros((0, 2**30)))",
    "classes": "functional.cross_entropy(np.zeros((0, 2**40)), np.zeros(0, int))",
    "weights": "cnn.Linear(2**20, 2**21)",
    "kernel": "cnn.Conv2d(1, 1, 2**31 - 1)",
    "resampled": "functional.interpolate(one, 2**31 - 1)",
    "resampled by a factor": "functional.interpolate(one[0], scale_factor=1.7e308, mode='linear')",
    "added": "functional.pad(one, (2**30, 2**30))",
    "plane": "functional.max_pool2d_backward(one[:0], one[:0].astype(int), (0, 1, 2**30, 2**30))",
}


@pytest.mark.thorough
@pytest.mark.skipif(sys.platform != "linux", reason="the memory limit is Linux's")
@pytest.mark.parametrize("name", TOO_LARGE)
def test_sizes_beyond_the_machine(name):
    code = f"""
        import resource
        import numpy as np
        import cnn
        from cnn import functional
        cnn.set_num_threads(1)
        one = np.ones((1, 1, 1, 1))
        resource.setrlimit(resource.RLIMIT_AS, (4 * 2**30, 4 * 2**30))
        try:
            {TOO_LARGE[name]}
        except ValueError as error:
            print("refused:", error)
    """
    result = run_python("-c", code)
    assert result.stdout.startswith("refused:"), result.stderr[-500:]


@pytest.mark.parametrize("value", [5, "text", cnn.SGD, cnn.CrossEntropyLoss, [], object()])
def test_what_is_no_optimizer_and_no_loss(value):
    model = cnn.Linear(2, 2)
    refuses(lambda: cnn.Trainer(model, value), TypeError, "Trainer: optimizer must be one such as cnn.SGD(", "")
    refuses(lambda: cnn.Trainer(model, None, value), TypeError, "Trainer: criterion must be a loss such as ", "")
    refuses(lambda: cnn.Trainer(model, None, loss=value), TypeError, "Trainer: loss must be a loss such as ", "")


def test_an_optimizer_without_a_rate_needs_a_schedule():
    class Steps:
        def step(self):
            pass

    refuses(lambda: cnn.Trainer(cnn.Linear(2, 2), Steps()), TypeError, "Trainer: optimizer must have lr", "Steps")
    cnn.Trainer(cnn.Linear(2, 2), Steps(), schedule=lambda step: 0.1)


@pytest.mark.parametrize("value", [None, 5, "text"])
@pytest.mark.parametrize("where, call", [
    ("Sequential: schedules must be a list of functions", lambda v: cnn.schedules.Sequential(v, [1])),
    ("ModuleList: modules must be a list of modules", cnn.ModuleList),
    ("cat: values must be a list of values", cnn.cat),
    ("clip_grad_norm: params must be a list of Parameters", lambda v: cnn.clip_grad_norm(v, 1)),
    ("Trainer: model must be a Module", lambda v: cnn.Trainer(v, None)),
    ("EMA: model must be a Module", cnn.EMA),
    ("Lookahead: model must be a Module", cnn.Lookahead),
    ("export.c: classes must be a list of texts",
     lambda v: cnn.export.c(cnn.models.lenet5(), "x", (1, 28, 28), classes=5 if v is None else v)),
    ("export.c: mean must be a list of numbers",
     lambda v: cnn.export.c(cnn.models.lenet5(), "x", (1, 28, 28), mean=5 if v is None else v, std=[1]))])
def test_lists_and_modules(where, call, value):
    refuses(lambda: call(value), TypeError, where, repr(value) if value == "text" and "list" in where else "")
