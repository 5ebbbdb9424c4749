"""Layers: forward, backward, parameters, modes and state, alone and in a Sequential."""

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
    by_layer,
    by_torch,
    by_twin,
    has_two_modes,
)
from hypothesis import given, settings
from hypothesis import strategies as st

import cnn
from cnn.layers import Conv2d, Dropout, Flatten, Layer, LeakyReLU, Linear, MaxPool2d, ReLU, Sequential, Tanh

per_case = pytest.mark.parametrize("case", CASES, ids=str)


def standard_normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


# ------------------------------------------------------------------------------------------ the table


@pytest.mark.thorough
@per_case
@pytest.mark.parametrize("dtype", DTYPES)
def test_shape_and_dtype(case, dtype):
    layer = case.make(dtype)
    for n in (0, 1, 18):
        x, dy = case.arrays(n, dtype)
        y, dx = layer(x), layer.backward(dy)
        assert y.shape == (n, *case.out) and dx.shape == x.shape
        assert y.dtype == dx.dtype == dtype
        assert all(p.grad.shape == p.shape and p.grad.dtype == dtype for p in layer.parameters())


@per_case
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [1, 3, 16, 37, 275])
def test_agrees_with_the_twin(case, dtype, n):
    layer, (x, dy) = case.make(dtype), case.arrays(n, dtype)
    assert_all_close(by_layer(layer, x, dy), by_twin(layer, x, dy))


@per_case
def test_gradients_by_central_differences(case):
    layer, (x, dy) = case.make(), case.arrays(2)
    _, *gradients = by_layer(layer, x, dy)
    arrays = [x, *(p.data for p in layer.parameters())]
    for gradient, array in zip(gradients, arrays, strict=True):
        if array.size <= 600:  # the widest weights are compared with the twin only
            assert_gradient(gradient, lambda: (layer(x) * dy).sum(), array)


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@per_case
def test_agrees_with_pytorch(torch, case):
    layer, (x, dy) = case.make(), case.arrays(19)
    assert_all_close(by_layer(layer, x, dy), by_torch(torch, case.torch_twin(torch, layer), x, dy),
                     case.torch_tolerance)


@pytest.mark.thorough
@per_case
@pytest.mark.parametrize("dtype", DTYPES)
def test_same_bits_with_any_number_of_threads(case, dtype, set_threads):
    layer, (x, dy) = case.make(dtype), case.arrays(275, dtype)
    set_threads(1)
    wanted = by_layer(layer, x, dy)
    for threads in (2, 3, 4, 4):
        set_threads(threads)
        assert_same_bits(by_layer(layer, x, dy), wanted)


@pytest.mark.parametrize("case", [case for case in CASES if not has_two_modes(case)], ids=str)
def test_evaluation_mode_computes_the_same(case):
    layer, (x, dy) = case.make(), case.arrays(18)
    wanted = layer(x)
    assert layer.eval() is layer and not layer.training
    assert np.array_equal(layer(x), wanted)
    with pytest.raises(RuntimeError, match="training mode"):
        layer.backward(dy)
    assert layer.train() is layer and layer.training


@pytest.mark.thorough
@per_case
def test_batches_of_other_sizes_and_leftovers(case):
    layer = case.make()
    for n in (5, 40, 3, 17, 0, 16):
        x, dy = case.arrays(n, seed=n)
        assert_all_close(by_layer(layer, x, dy), by_twin(layer, x, dy))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            by_layer(layer, x * np.nan, dy * np.nan)  # must leave nothing behind


@per_case
def test_inputs_stay_and_results_are_the_callers_own(case):
    layer, (x, dy) = case.make(), case.arrays(5)
    kept = x.copy(), dy.copy()
    y, dx = layer(x), layer.backward(dy)
    results = y.copy(), dx.copy()
    layer(-x), layer.backward(-dy)
    assert np.array_equal(x, kept[0]) and np.array_equal(dy, kept[1])
    assert np.array_equal(y, results[0]) and np.array_equal(dx, results[1])
    y[...] = dx[...] = 7
    assert np.array_equal(layer(x), results[0])


@per_case
def test_gradients_are_set_not_added_up(case):
    layer, (x, dy) = case.make(), case.arrays(18)
    first = by_layer(layer, x, dy)
    assert_same_bits(by_layer(layer, x, dy), first)


@per_case
def test_backward_without_dx(case):
    layer, (x, dy) = case.make(), case.arrays(18)
    _, _, *wanted = by_layer(layer, x, dy)
    for p in layer.parameters():
        p.grad = np.zeros(p.shape)
    assert layer.backward(dy, need_dx=False) is None
    assert_same_bits([p.grad for p in layer.parameters()], wanted)


@per_case
@pytest.mark.parametrize("dtype", DTYPES)
def test_arrays_of_any_layout(case, dtype):
    layer, (x, dy) = case.make(dtype), case.arrays(18, dtype)
    wanted = by_layer(layer, x, dy)
    x, dy = (np.asfortranarray(a.astype(a.dtype.newbyteorder(">"))) for a in (x, dy))
    x.flags.writeable = dy.flags.writeable = False
    assert_same_bits(by_layer(layer, x, dy), wanted)


@per_case
def test_state_moves_between_two_layers(case):
    first, second, (x, _) = case.make(np.float32), case.make(np.float64), case.arrays(3)
    for p in first.parameters():
        p.data = standard_normal(*p.shape)
    second.load_state_dict(first.state_dict())
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert b.dtype == np.float64 and np.array_equal(a.data, b.data)
    assert_close(first(x.astype(np.float32)), second(x), 2e-5)


# ------------------------------------------------------------------------------------------ Sequential


@st.composite
def stacks(draw):
    """A list of layers that fit each other, and the shape of an image for the first of them."""
    channels, height, width = shape = tuple(draw(st.integers(1, high)) for high in (4, 9, 9))
    layers = []
    for _ in range(draw(st.integers(1, 4))):
        kind = draw(st.sampled_from(["conv", "conv", "pool", "relu", "leaky", "tanh"]))
        if kind == "conv":
            groups = draw(st.sampled_from([g for g in (1, 2, 3) if channels % g == 0]))
            outputs = groups * draw(st.integers(1, 4))
            padding = draw(st.integers(0, 2)), draw(st.integers(0, 2))
            kernel = (
                draw(st.integers(1, min(4, height + 2 * padding[0]))),
                draw(st.integers(1, min(4, width + 2 * padding[1]))),
            )
            layer = Conv2d(channels, outputs, kernel, draw(st.integers(1, 2)), padding, groups=groups)
        elif kind == "pool":
            kernel = draw(st.integers(1, min(3, height))), draw(st.integers(1, min(3, width)))
            padding = tuple(draw(st.integers(0, k // 2)) for k in kernel)
            layer = MaxPool2d(kernel, draw(st.integers(1, 3)), padding, ceil_mode=draw(st.booleans()))
        else:
            layer = {"relu": ReLU, "leaky": LeakyReLU, "tanh": Tanh}[kind]()
        layers.append(layer.to(np.float64))
        channels, height, width = layer(np.zeros((1, channels, height, width))).shape[1:]
    if draw(st.booleans()):
        features = channels * height * width
        for outputs in draw(st.lists(st.integers(1, 20), max_size=2)):
            layers += [Flatten(), Linear(features, outputs).to(np.float64), ReLU()]
            features = outputs
    return layers, shape


def chained(layers, x, dy_of):
    """[y, dx, *parameter gradients] of the layers' twins one after the other."""
    inputs, gradients = [], []
    for layer in layers:
        inputs.append(x)
        x = by_twin(layer, x, np.zeros_like(layer(x)))[0]
    dy = dy_of(x.shape)
    for layer, x_in in zip(reversed(layers), reversed(inputs), strict=True):
        _, dy, *own = by_twin(layer, x_in, dy)
        gradients = own + gradients
    return [x, dy, *gradients]


@pytest.mark.thorough
@settings(max_examples=80)
@given(stack=stacks(), n=st.sampled_from([1, 16, 21]))
def test_drawn_stacks_agree_with_their_twins(stack, n):
    layers, shape = stack
    x = standard_normal(n, *shape)
    wanted = chained(layers, x, lambda size: standard_normal(*size, seed=1))
    model = Sequential(*layers)
    y = model(x)
    got = [y, model.backward(standard_normal(*y.shape, seed=1)), *(p.grad for p in model.parameters())]
    assert_all_close(got, wanted)
    assert_close(model.eval()(x), wanted[0])


def test_names_are_pytorchs(torch):
    nn = torch.nn
    ours = Sequential(Conv2d(2, 3, 2, bias=False), Sequential(Flatten(), Linear(12, 4)), ReLU())
    theirs = nn.Sequential(nn.Conv2d(2, 3, 2, bias=False), nn.Sequential(nn.Flatten(), nn.Linear(12, 4)))
    assert [name for name, _ in ours.named_parameters()] == [name for name, _ in theirs.named_parameters()]
    ours.load_state_dict(theirs.state_dict())
    x = standard_normal(5, 2, 3, 3).astype(np.float32)
    assert_close(ours(x), np.maximum(theirs(torch.tensor(x)).detach().numpy(), 0))


def test_sequential_is_a_container():
    layers = [Conv2d(1, 2, 3), ReLU(), Flatten()]
    model = Sequential(*layers)
    assert len(model) == 3 and list(model) == layers
    assert model[0] is layers[0] and model[-1] is layers[2]
    assert isinstance(model[:2], Sequential) and list(model[:2]) == layers[:2]
    assert list(Sequential(model, Linear(4, 3)).modules())[1] is model
    text = repr(Sequential(model, Linear(4, 3)))
    assert all(
        word in text for word in ("Conv2d(1, 2, kernel_size=(3, 3))", "(2): Flatten()", "Linear(4, 3)")
    )


def test_an_empty_sequential_is_the_identity():
    model, x, dy = Sequential(), standard_normal(5, 2, 3, 3), standard_normal(5, 2, 3, 3, seed=1)
    assert np.array_equal(model(x), x) and np.array_equal(model.backward(dy), dy)


def test_modes_reach_every_layer():
    model = Sequential(Sequential(ReLU(), Dropout()), Tanh())
    assert all(layer.training for layer in model.modules())
    model.eval()
    assert not any(layer.training for layer in model.modules())
    model.train()
    assert all(layer.training for layer in model.modules())


def test_a_convolution_right_before_flatten(torch):
    """Its dy is a view of another tensor, which has no room for the border that its gradient needs."""
    model = Sequential(Conv2d(2, 3, 3, padding=1), Flatten(), Linear(60, 4)).to(np.float64)
    nn = torch.nn
    theirs = nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.Flatten(), nn.Linear(60, 4)).double()
    theirs.load_state_dict({name: torch.tensor(value) for name, value in model.state_dict().items()})
    for seed in range(2):
        x, dy = standard_normal(18, 2, 4, 5, seed=seed), standard_normal(18, 4, seed=seed + 2)
        theirs.zero_grad()
        assert_all_close(by_layer(model, x, dy), by_torch(torch, theirs, x, dy))


# ------------------------------------------------------------------------------------------ frozen parameters


def small_model():
    return Sequential(Conv2d(2, 3, 3, padding=1), ReLU(), Flatten(), Linear(27, 4)).to(np.float64)


@pytest.mark.parametrize("frozen", ["0.weight", "0.bias", "3.weight", "3.bias"])
def test_a_frozen_parameter_gets_no_gradient_and_the_others_do(frozen):
    model, x, dy = small_model(), standard_normal(5, 2, 3, 3), standard_normal(5, 4)
    _, dx, *wanted = by_layer(model, x, dy)
    mark = {name: np.full(p.shape, 7.0) for name, p in model.named_parameters()}
    for name, p in model.named_parameters():
        p.requires_grad = name != frozen
        p.grad = mark[name]
    model(x)
    assert_close(model.backward(dy), dx)
    for (name, p), gradient in zip(model.named_parameters(), wanted, strict=True):
        assert_close(p.grad, mark[name] if name == frozen else gradient)


def test_a_frozen_model_still_gives_dx():
    model, x, dy = small_model(), standard_normal(5, 2, 3, 3), standard_normal(5, 4)
    wanted = by_layer(model, x, dy)[1]
    for p in model.parameters():
        p.requires_grad = False
    model(x)
    assert_close(model.backward(dy), wanted)
    assert model.backward(dy, need_dx=False) is None


def test_backward_after_an_optimizer_has_moved_the_parameters():
    model, x, dy = small_model(), standard_normal(5, 2, 3, 3), standard_normal(5, 4)
    wanted = by_layer(model, x, dy)[2:]
    model(x)
    cnn.SGD(model.parameters(), lr=0.1)
    with pytest.raises(RuntimeError, match="Sequential: the parameters have moved"):
        model.backward(dy)
    model(x)
    model.backward(dy)
    assert_all_close([p.grad for p in model.parameters()], wanted)


def test_changed_parameters_are_used_at_once():
    layer, x = Linear(3, 2), np.ones((1, 3), np.float32)
    layer(x)
    layer.weight.data = np.full((2, 3), 2.0)
    layer.bias.data[:] = 1
    assert layer(x).tolist() == [[7, 7]]


# ------------------------------------------------------------------------------------------ layers in NumPy


class NumpyReLU(Layer):
    def forward(self, x):
        self.x = x
        return np.maximum(x, 0)

    def backward(self, dy, need_dx=True):
        return dy * (self.x > 0) if need_dx else None


class NumpyScale(Layer):
    """y = a x, with one number a to learn."""

    def __init__(self):
        super().__init__()
        self.a = cnn.Parameter(np.array([1.5]))

    def forward(self, x):
        self.x = x
        return x * self.a.data

    def backward(self, dy, need_dx=True):
        self.a.grad = [(dy * self.x).sum()]
        return dy * self.a.data if need_dx else None


@pytest.mark.parametrize("place", [0, 1, 2, 3])
def test_a_numpy_layer_anywhere_in_a_model(place):
    def model(relu):
        layers = [Conv2d(2, 3, 3, padding=1), Tanh(), Flatten(), Linear(27, 4)]
        return Sequential(*layers[:place], relu, *layers[place:]).to(np.float64)

    x, dy = standard_normal(18, 2, 3, 3), standard_normal(18, 4, seed=1)
    assert_all_close(by_layer(model(NumpyReLU()), x, dy), by_layer(model(ReLU()), x, dy))


def test_a_numpy_layer_with_a_parameter():
    model = Sequential(Linear(3, 4).to(np.float64), NumpyScale(), Sequential(NumpyReLU(), Linear(4, 2))).to(
        np.float64
    )
    assert [name for name, _ in model.named_parameters()][2] == "1.a"
    x, dy = standard_normal(18, 3), standard_normal(18, 2, seed=1)
    _, dx, *gradients = by_layer(model, x, dy)
    arrays = [x, *(p.data for p in model.parameters())]
    for gradient, array in zip([dx, *gradients], arrays, strict=True):
        assert_gradient(gradient, lambda: (model(x) * dy).sum(), array)


def test_modes_reach_the_layers_around_a_numpy_layer():
    model = Sequential(Dropout(1.0), NumpyReLU(), Dropout(1.0))
    x = np.ones((2, 3), np.float32)
    assert not model(x).any()
    assert np.array_equal(model.eval()(x), x)
    assert not model.train()(x).any()


@pytest.mark.parametrize("model", [Conv2d(1, 2, 3), Sequential(ReLU()), Sequential(NumpyReLU(), ReLU())])
def test_backward_needs_a_forward(model):
    with pytest.raises(RuntimeError, match="backward needs a forward"):
        model.backward(np.ones((1, 2), np.float32))


def test_a_layer_without_forward_says_so():
    with pytest.raises(NotImplementedError, match="Module has no forward"):
        Layer()(np.ones((1, 2)))


# ------------------------------------------------------------------------------------------ wide layers


def test_float32_of_a_wide_convolution():
    """Sums of a thousand terms, cut into tiles of channels and pixels."""
    layer = Conv2d(64, 48, 3, padding=1)
    x, dy = (standard_normal(18, c, 8, 8).astype(np.float32) for c in (64, 48))
    assert_all_close(by_layer(layer, x, dy), by_twin(layer, x, dy))


def test_float32_of_a_wide_linear_layer():
    layer = Linear(1030, 130)
    x, dy = standard_normal(70, 1030).astype(np.float32), standard_normal(70, 130).astype(np.float32)
    assert_all_close(by_layer(layer, x, dy), by_twin(layer, x, dy))


@pytest.mark.parametrize("name, arguments", [
    ("ReLU", ()), ("LeakyReLU", (0.2,)), ("SiLU", ()), ("ReLU6", ()), ("Hardtanh", (-0.5, 0.7)), ("ELU", (0.8,)),
    ("Hardswish", ()), ("Hardsigmoid", ()), ("Mish", ()), ("Dropout", (0.0,)), ("Dropout2d", (0.0,))])
def test_inplace_is_taken_as_in_pytorch_and_changes_no_input(torch, name, arguments, rng):
    x = 3 * rng.standard_normal((3, 4, 2, 2))
    before = x.copy()
    wanted = getattr(torch.nn, name)(*arguments, inplace=True)(torch.tensor(x)).numpy()
    for layer in (getattr(cnn, name)(*arguments, True), getattr(cnn, name)(*arguments, inplace=False)):
        assert_close(layer(x), wanted)
        np.testing.assert_array_equal(x, before)
        assert repr(layer) == repr(getattr(cnn, name)(*arguments))


@pytest.mark.parametrize("name, arguments", [
    ("relu", ()), ("leaky_relu", (0.2,)), ("silu", ()), ("relu6", ()), ("hardtanh", (-0.5, 0.7)), ("elu", (0.8,)),
    ("hardswish", ()), ("hardsigmoid", ()), ("mish", ())])
def test_inplace_of_functions_is_taken_as_in_pytorch_and_changes_no_input(torch, name, arguments, rng):
    x = 3 * rng.standard_normal((3, 4, 2, 2))
    before, function = x.copy(), getattr(cnn.functional, name)
    wanted = getattr(torch.nn.functional, name)(torch.tensor(x), *arguments).numpy()
    for y in (function(x, *arguments, True), function(x, *arguments, inplace=True)):
        np.testing.assert_allclose(y, wanted, atol=1e-7)        # PyTorch's 1/6 is that of float32
    np.testing.assert_array_equal(x, before)
