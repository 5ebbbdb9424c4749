"""Lines that PyTorch programs have, and what becomes of them: the same numbers, a warning, or words that help."""
import inspect

import numpy as np
import pytest
from cases import Function, assert_close

import cnn
from cnn import functional as F

# of x (N, 3, 4, 4), with the functions of a library, which are in `cnn` itself as in `torch`
CASES = {
    "functions of the package": lambda lib, x: lib.relu(x) + lib.exp(-lib.abs(x)) * lib.sigmoid(x).sqrt()
    + lib.stack([x, x], 1).sum(1),
    "like": lambda lib, x: lib.zeros_like(x) + lib.ones_like(x) * x + lib.full_like(x, 2.5) - x.new_zeros(4, 4)
    + x.new_ones((1, 3, 1, 1)),
    "masks": lambda lib, x: x * ((x > 0) & (x < 1)) + 2 * ((x > 1) | ~(x > -1)),
    "masks and bools": lambda lib, x: x * ((x > 0) & True) + x * (True & (x < -1)) * 2 + (False | (x > 1)),
    "a mask of what follows": lambda lib, x: lib.full_like(x, -float("inf")).triu(1).exp() * x,
    "zeros of its shape": lambda lib, x: x * x.new_ones(x.shape) + x.new_zeros(x.size(0), 3, 1, 1)
    + x.new_ones(x.size(0)).view(-1, 1, 1, 1),
    "powers": lambda lib, x: lib.pow(x.abs() + 0.1, x) + (1 - x.sigmoid()) ** x.sigmoid() + 2 ** x
    + lib.pow(x.relu(), x.abs() + 1.5),
    "data": lambda lib, x: x * x.data.exp(),
    "where it is": lambda lib, x: x.to(x.device).to("cpu").cpu().to(x.dtype) * 2,
}


@pytest.mark.parametrize("name", CASES)
def test_numbers_and_gradients_are_those_of_pytorch(name, torch):
    x = np.random.default_rng(0).standard_normal((17, 3, 4, 4))
    x[0, 0] = 0
    t, model = torch.tensor(x, requires_grad=True), Function(lambda x: CASES[name](cnn, x))
    z, y = CASES[name](torch, t), model(x)
    assert_close(y, z.detach().numpy(), 1e-12)
    dy = np.random.default_rng(1).standard_normal(y.shape)
    z.backward(torch.tensor(dy))
    assert_close(model.backward(dy), t.grad.numpy(), 1e-11)


@pytest.mark.parametrize("name", ["cumsum", "tril", "triu", "argmax", "argmin", "pow"])
def test_what_is_not_finite(name, torch):
    """Infinities and NaN stay where they are."""
    nan, inf = np.nan, np.inf
    x = np.array([[[1, 2, inf, 1], [nan, 1, 2, 0], [0, -inf, 3, nan], [0, 0, 1, 4]]])
    powers = np.tile([2, -1, 0.5, 0], (4, 1))
    powers[2, 3] = 1    # NaN to the power of 0 is NaN here
    does = {"cumsum": lambda x, p: x.cumsum(2), "tril": lambda x, p: x.tril(), "triu": lambda x, p: x.triu(1),
            "argmax": lambda x, p: x.argmax(2), "argmin": lambda x, p: x.argmin(1), "pow": lambda x, p: x.relu() ** p}
    z = does[name](torch.tensor(x), torch.tensor(powers)).numpy()
    np.testing.assert_allclose(Function(lambda x: does[name](x, powers))(x), z, rtol=1e-14)


def test_powers_while_debugging():
    with cnn.debug():
        assert_close(Function(lambda x: x ** (x * 0 + 2))(np.array([[0.0, 1.5]])), [[0, 2.25]], 1e-12)


def test_buffers_are_computed_with_as_tensors_are(torch):
    def forward(self, x):
        y = x * self.scale.view(1, 3, 1) + self.places.unsqueeze(0).permute(0, 2, 1).float().to(x.dtype)
        y = y + self.scale.expand(x.size(0), 4, 3).transpose(1, 2) * self.places.repeat(x.size(0), 1, 1)[:, :1, :1]
        return y
    nets = []
    for base, array in ((cnn.Module, np.asarray), (torch.nn.Module, torch.tensor)):
        net = type("Net", (base,), {"forward": forward})()
        net.register_buffer("scale", array(np.arange(3.0, dtype=np.float32)))
        net.register_buffer("places", array(np.arange(12.0, dtype=np.float32).reshape(4, 3)))
        nets.append(net)
    ours, theirs = nets
    x = np.random.default_rng(0).random((5, 3, 4), np.float32)
    assert_close(ours(x), theirs(torch.tensor(x)).numpy(), 1e-6)
    ours.scale.copy_([1, 2, 3])     # what is changed in place is what is computed with
    theirs.scale.copy_(torch.tensor([1, 2, 3]))
    ours.places[...], theirs.places[...] = 2, 2
    assert_close(ours(x), theirs(torch.tensor(x)).numpy(), 1e-6)


READINGS = {
    "itself": lambda b, x: x * b, "product": lambda b, x: x * (b * 2), "quotient": lambda b, x: x * (1 / b) - b,
    "views": lambda b, x: x * b.view(1, 3) * b[None], "element": lambda b, x: x * b[0] + b[1].item() + float(b[2]),
    "sum": lambda b, x: x * b.sum() + b.norm() + b.max(), "copies": lambda b, x: x * b.clone() + b.copy() * b.repeat(1),
    "function": lambda b, x: x * cnn.sigmoid(b), "mask": lambda b, x: cnn.where(b > 2, x, -x),
    "NumPy's": lambda b, x: x * np.concatenate([b[:1], b[1:]]) + np.log(b), "parts": lambda b, x: x + list(b)[1],
    "weights": lambda b, x: F.linear(x, b[None] * np.ones((2, 1), np.float32), b[:2] + 1),
}


class Reading(cnn.Module):
    def __init__(self, name, b):
        super().__init__()
        self.name = name
        self.register_buffer("b", np.array(b, np.float32))

    def forward(self, x):
        return READINGS[self.name](self.b, x)


@pytest.mark.parametrize("name", READINGS)
def test_what_is_read_of_a_buffer_follows_it(name):
    x = np.random.default_rng(0).random((2, 3), np.float32)
    model = cnn.Sequential(Reading(name, [1, 2, 3]))
    model(x)
    model[0].b.copy_([3, 5, 2])
    np.testing.assert_array_equal(model(x), Reading(name, [3, 5, 2])(x))
    model[0].b[0] = 9
    model[0].b *= 2
    np.testing.assert_array_equal(model(x), Reading(name, [18, 10, 4])(x))
    model[0].b //= 4
    np.add(model[0].b, 1, out=model[0].b)
    np.testing.assert_array_equal(model(x), Reading(name, [5, 3, 2])(x))


@pytest.mark.parametrize("change", [lambda b: b.mul_(2), lambda b: b.__iadd__(1), lambda b: b.__setitem__(0, 1)])
def test_a_buffer_is_not_changed_while_it_is_traced(change):
    class Changing(cnn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("b", np.ones(3, np.float32))

        def forward(self, x):
            change(self.b)
            return x * self.b
    net = Changing()
    with pytest.raises(TypeError, match="a buffer was changed in place while a network is traced"):
        net(np.ones((2, 3), np.float32))
    np.testing.assert_array_equal(net.b, np.ones(3))


def test_a_buffer_changed_in_place_stays_the_same_array():
    model = cnn.Sequential(cnn.Linear(2, 2))
    model.register_buffer("seen", np.zeros(2, np.float32))
    before = model.buffers()[0]
    model.seen += [1, 2]
    assert model.buffers()[0] is before
    np.testing.assert_array_equal(model.state_dict()["seen"], [1, 2])
    model.seen = model.seen * 2
    np.testing.assert_array_equal(model.state_dict()["seen"], [2, 4])


@pytest.mark.parametrize("forward", [lambda x: x @ x.view(-1, 1, 4, 4), lambda x: x.view(-1, 1, 4, 4) @ x])
def test_products_that_couple_images(forward):
    with pytest.raises(ValueError, match="would couple the images of a batch"):
        Function(forward)(np.ones((2, 4, 4)))


def test_an_exponent_that_is_learnt(torch):
    """Generalised mean pooling (Radenović, Tolias & Chum 2019)."""
    class Net(cnn.Module):
        def __init__(self):
            super().__init__()
            self.register_parameter("p", cnn.Parameter(np.full(1, 3.0)))

        def forward(self, x):
            return x.clamp(min=1e-6).pow(self.p).mean((2, 3)).pow(1 / self.p)
    x = np.random.default_rng(0).standard_normal((17, 3, 4, 4))
    t, p = torch.tensor(x, requires_grad=True), torch.full((1,), 3.0, dtype=torch.float64, requires_grad=True)
    z, model = t.clamp(min=1e-6).pow(p).mean((2, 3)).pow(1 / p), Net()
    y = model(x)
    assert_close(y, z.detach().numpy(), 1e-12)
    z.backward(torch.ones_like(z))
    assert_close(model.backward(np.ones_like(y)), t.grad.numpy(), 1e-11)
    assert_close(model.p.grad, p.grad.numpy(), 1e-11)


INPLACE = [layer for name in cnn.layers.__all__ if isinstance(layer := getattr(cnn.layers, name), type) and issubclass(
    layer, cnn.Module) and "inplace" in inspect.signature(layer).parameters]


@pytest.mark.parametrize("layer", INPLACE, ids=lambda layer: layer.__name__)
def test_every_layer_that_takes_inplace_tells(layer):
    class Net(cnn.Module):
        def __init__(self):
            super().__init__()
            self.act = layer(*[0.5, 0.0] if layer is cnn.Threshold else [], inplace=True)

        def forward(self, x):
            return x + self.act(x)
    with pytest.warns(UserWarning, match=f"{layer.__name__}.*inplace=True changes nothing here"):
        Net()(np.ones((2, *{"Dropout1d": (3, 4), "Dropout2d": (3, 4, 4)}.get(layer.__name__, (3,))), np.float32))
    with pytest.raises(TypeError, match=f"{layer.__name__}: inplace must be"):
        layer(*[0.5, 0.0] if layer is cnn.Threshold else [], inplace="yes")


def test_what_pytorch_does_in_place_is_told():
    class Net(cnn.Module):
        def __init__(self, function):
            super().__init__()
            self.act, self.function = cnn.ReLU(inplace=True), function

        def forward(self, x):
            return self.function(self.act, x)
    x = np.ones((2, 3), np.float32)
    for function in (lambda act, x: x + act(x), lambda act, x: (act(x), x), lambda act, x: F.relu(x, inplace=True) * x):
        with pytest.warns(UserWarning, match="inplace=True changes nothing here"):
            Net(function)(x)


@pytest.mark.filterwarnings("error")
def test_what_is_not_read_again_is_not_told():
    model = cnn.Sequential(cnn.Conv2d(1, 2, 3), cnn.BatchNorm2d(2), cnn.ReLU(True), cnn.Conv2d(2, 2, 3), cnn.SiLU(True))
    model(np.ones((2, 1, 8, 8), np.float32))
    Function(lambda x: F.relu(x * 2, inplace=True) + x)(np.ones((2, 3)))


def test_where_a_model_is():
    model = cnn.Linear(3, 2).to("cpu").cpu()
    assert model.dtype == np.float32
    assert isinstance(cnn.UpsamplingBilinear2d(scale_factor=2)(np.ones((1, 1, 2, 2), np.float32)), np.ndarray)


def test_upsampling(torch):
    x = np.random.default_rng(0).standard_normal((2, 3, 4, 5))
    for name in ("UpsamplingNearest2d", "UpsamplingBilinear2d"):
        wanted = getattr(torch.nn, name)(scale_factor=2)(torch.tensor(x)).numpy()
        assert_close(getattr(cnn, name)(scale_factor=2)(x), wanted, 1e-12)
    assert_close(F.upsample(x, scale_factor=3), F.interpolate(x, scale_factor=3))
    assert_close(F.full_like(x, 3), np.full_like(x, 3.0))


@pytest.mark.parametrize("ask, error, words", [
    (lambda x: x.__setitem__((slice(None), 0), 1), TypeError, "a value does not change: cnn.cat of its parts"),
    (lambda x: x.to("cuda"), TypeError, "a value is on the cpu"),
    (lambda x: len(x), TypeError, "which is -1 in a shape"),
    (lambda x: x.cuda(), AttributeError, "it computes on the CPU"),
    (lambda x: x @ x.t(), AttributeError, "would couple the images"),
    (lambda x: (-3) ** x, ValueError, "the base must be a finite number above 0"),
])
def test_what_is_refused(ask, error, words):
    with pytest.raises(error, match=words):
        Function(ask)(np.ones((2, 3)))


def test_parameters_are_registered_by_name():
    model = cnn.Module()
    model.register_parameter("none", None)
    assert model.none is None and not model.parameters()
    with pytest.raises(TypeError, match="param must be a Parameter or None, got ndarray"):
        model.register_parameter("w", np.ones(3))


def test_arrays_of_parameters_change_as_tensors_do(torch):
    """As `weights_init` of generative networks does, and a teacher that follows."""
    def follow(p, other, library):
        p.data.fill_(2.0).add_(other.data, alpha=3).mul_(0.5).sub_(1).div_(2)
        p.data[0].zero_()
        p.data.lerp_(other.data, 0.25).clamp_(-1, 1.5)
        kept = p.data.clone()
        p.data.copy_(other.data).add_(1)
        p.data = 0.9 * kept + 0.1 * p.data.detach()
        return p.data.view(-1), p.data.norm(), p.data.numel()
    start = np.random.default_rng(0).standard_normal((2, 3))
    ours, other = cnn.Parameter(start), cnn.Parameter(start * 2)
    theirs, third = torch.nn.Parameter(torch.tensor(start)), torch.nn.Parameter(torch.tensor(start * 2))
    for got, wanted in zip(follow(ours, other, np), follow(theirs, third, torch), strict=True):
        assert_close(np.asarray(got), np.asarray(wanted), 1e-12)
    assert_close(ours.data, theirs.data.numpy(), 1e-12)


def test_arrays_of_parameters_are_drawn():
    p = cnn.Parameter(np.zeros((100, 100)))
    assert p.data.normal_(1, 0.02, generator=np.random.default_rng(0)) is not None
    assert p.data.mean() == pytest.approx(1, abs=1e-3) and p.data.std() == pytest.approx(0.02, rel=0.05)
    assert (p.data == np.random.default_rng(0).normal(1, 0.02, (100, 100))).all()
    p.data.uniform_(-2, -1)
    assert -2 <= p.data.min() < -1.99 and -1.01 < p.data.max() <= -1
    with pytest.raises(TypeError, match="generator must be a numpy.random.Generator, got int"):
        p.data.normal_(generator=3)


def test_what_is_computed_from_an_array_of_a_parameter_is_a_plain_one():
    import copy
    import pickle
    data = cnn.Parameter(np.arange(4.0)).data
    made = data + 1, data * data, np.exp(data), 2 - data, pickle.loads(pickle.dumps(data)), copy.deepcopy(data)
    assert all(type(array) is np.ndarray for array in made)
    assert isinstance(data.sum(), float) and data.view(np.float64).shape == (4,) and data.view(2, 2).shape == (2, 2)


def test_words_for_what_is_not_here():
    model = cnn.Linear(2, 2)
    with pytest.raises(AttributeError, match="'SGD' object has no attribute 'zero_grad': write nothing: backward sets"):
        cnn.SGD(model.parameters(), lr=0.1).zero_grad()
    with pytest.raises(AttributeError, match=r"x.argmax\(1\)"):
        cnn.argmax(np.ones((2, 3)), 1)

    class Net(cnn.Module):
        def __init__(self):
            super().__init__()
            self.act = cnn.ReLU()

        def forward(self, x):
            return self.act(x.view(-1, 1, 1, 2, 3))
    with pytest.raises(ValueError, match="ReLU got a value of more than four axes: give it what flatten or view"):
        Net()(np.ones((2, 6), np.float32))
