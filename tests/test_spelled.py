"""What a user of PyTorch writes around the layers: containers, names of modules, and what is not here."""
import copy
import pickle
from collections import OrderedDict

import numpy as np
import pytest
from cases import Function, assert_close

import cnn
from cnn import functional as F


def of_both(torch, make):
    """Ours and PyTorch's of one text, `make(nn)`, with PyTorch's weights."""
    theirs, ours = make(torch.nn).double(), make(cnn).to(np.float64)
    ours.load_state_dict({name: array.numpy() for name, array in theirs.state_dict().items()})
    return ours, theirs


def features(nn):
    layers = nn.Sequential(OrderedDict([("conv", nn.Conv2d(1, 3, 3)), ("relu", nn.ReLU(inplace=True))]))
    layers.add_module("pool", nn.MaxPool2d(2))
    return layers


def test_a_sequential_of_names(torch):
    ours, theirs = of_both(torch, features)
    x = np.random.default_rng(0).standard_normal((2, 1, 6, 6))
    assert [name for name, _ in ours.named_children()] == ["conv", "relu", "pool"]
    assert list(ours.state_dict()) == ["conv.weight", "conv.bias"]
    for part in (slice(None), slice(2), slice(1, None), slice(0, 3, 2)):
        y, dy = ours[part](x), theirs[part](torch.tensor(x))
        assert_close(y, dy.detach().numpy())
        assert [name for name, _ in ours[part].named_children()] == [name for name, _ in theirs[part].named_children()]
    for again in (copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
        assert list(again.state_dict()) == ["conv.weight", "conv.bias"]
        assert_close(again(x), ours(x))
    ours.append(cnn.Conv2d(3, 2, 1))
    assert [name for name, _ in ours.named_children()] == ["conv", "relu", "pool", "3"]


class Heads:
    """Both libraries' heads by name."""

    def __new__(cls, nn):
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.body = nn.Sequential(nn.Flatten(), nn.Linear(6, 4), nn.Identity(4, unused=True))
                self.heads = nn.ModuleDict({"digit": nn.Linear(4, 5), "angle": nn.Linear(4, 1)})
                self.heads["scale"] = nn.Linear(4, 2)
                self.add_module("last", nn.Linear(2, 2))

            def forward(self, x):
                x = self.body(x)
                y = {name: head(x) for name, head in self.heads.items()}
                return y | {"scale": self.last(y["scale"])}
        return Net()


def test_a_dict_of_modules(torch):
    ours, theirs = of_both(torch, Heads)
    x = np.random.default_rng(0).standard_normal((3, 1, 2, 3))
    y = ours(x)
    t = torch.tensor(x, requires_grad=True)
    wanted = theirs(t)
    assert list(y) == list(wanted) == ["digit", "angle", "scale"]
    for name in y:
        assert_close(y[name], wanted[name].detach().numpy())
    sum(value.sum() for value in wanted.values()).backward()
    assert_close(ours.backward({name: np.ones_like(value) for name, value in y.items()}), t.grad.numpy())
    for (name, p), (their_name, q) in zip(ours.named_parameters(), theirs.named_parameters(), strict=True):
        assert name == their_name
        assert_close(p.grad, q.grad.numpy())
    heads = ours.heads
    assert (list(heads), list(heads.keys()), len(heads)) == (["digit", "angle", "scale"], list(theirs.heads), 3)
    assert "digit" in heads and "x" not in heads and heads.values()[1] is heads["angle"]
    assert [name for name, _ in ours.named_modules()] == [name for name, _ in theirs.named_modules()]
    heads["angle"] = cnn.Linear(4, 7, dtype=np.float64)     # noticed at the next call
    assert ours(x)["angle"].shape == (3, 7)


class Scaled:
    """Both libraries' scales of channels, in all the ways to write them."""

    def __new__(cls, nn, parameter):
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.a, self.b, self.c, self.d = (parameter(np.arange(1.0, 4) + i) for i in range(4))

            def forward(self, x):
                y = x * self.a.view(1, -1, 1, 1) + self.b[:, None, None] / x
                return self.c.reshape((3, 1, 1)) * y - self.d[None, :, None, None] + (x[:, :, 0, 0] / self.d[None]).sum(
                    1).reshape(-1, 1, 1, 1)
        return Net()


def test_parameters_in_other_shapes(torch):
    ours = Scaled(cnn, cnn.Parameter)
    theirs = Scaled(torch.nn, lambda array: torch.nn.Parameter(torch.tensor(array)))
    for n in (1, 17):
        x = 3 + np.random.default_rng(0).standard_normal((n, 3, 2, 4))
        t = torch.tensor(x, requires_grad=True)
        y, wanted = ours(x), theirs(t)
        assert_close(y, wanted.detach().numpy())
        dy = np.random.default_rng(1).standard_normal(y.shape)
        theirs.zero_grad()
        wanted.backward(torch.tensor(dy))
        assert_close(ours.backward(dy), t.grad.numpy())
        for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
            assert_close(p.grad, q.grad.numpy())


@pytest.mark.parametrize("call, error, words", [
    (lambda p: p.view(2, 2), ValueError, r"Parameter: shape must be of 3 elements, got \(2, 2\)"),
    (lambda p: p.view("x"), ValueError, "Parameter: shape must be of 3 elements"),
    (lambda p: p[0], TypeError, "Parameter: it is computed with in the forward of a module"),
    (lambda p: p[1:], TypeError, "elsewhere its array is `data`"), (lambda p: list(p), TypeError, "Parameter: it is")])
def test_what_a_parameter_refuses(call, error, words):
    with pytest.raises(error, match=words):
        call(cnn.Parameter(np.ones(3)))


def test_apply_goes_from_the_inside_out(torch):
    orders = []
    for model in (Heads(torch.nn), Heads(cnn)):
        seen = []
        assert model.apply(lambda m, seen=seen: seen.append(type(m).__name__)) is model
        orders.append(seen)
    assert orders[0] == orders[1]

    def zero(m):
        if isinstance(m, cnn.Linear):
            m.weight.data = np.zeros(m.weight.shape)
    assert not Heads(cnn).apply(zero).heads["digit"].weight.data.any()


def test_children_are_modules(torch):
    """Each once; without the last they are a body."""
    def shared(nn):
        same = nn.ReLU()
        return nn.Sequential(nn.Conv2d(1, 2, 3), same, nn.Conv2d(2, 3, 3), same)

    ours, theirs = of_both(torch, shared)
    assert [type(m).__name__ for m in ours.children()] == [type(m).__name__ for m in theirs.children()]
    assert list(cnn.Module().children()) == []
    body, x = cnn.Sequential(*list(ours.children())[:-1]), np.random.default_rng(0).standard_normal((2, 1, 6, 6))
    assert_close(body(x), torch.nn.Sequential(*list(theirs.children())[:-1])(torch.tensor(x)).detach().numpy())


def test_identity_alone():
    x = np.random.default_rng(0).standard_normal((2, 3))
    layer = cnn.Identity()
    np.testing.assert_array_equal(layer(x), x)
    np.testing.assert_array_equal(layer.backward(2 * x), 2 * x)


LAYER = cnn.ReLU()


@pytest.mark.parametrize("call, error, words", [
    (lambda: cnn.Sequential(*cnn.Sequential(LAYER).named_children()), TypeError,
     r"Sequential: argument 0 must be a layer, got tuple: .* model\[:2\]"),
    (lambda: cnn.Sequential({"a": 1}), TypeError, "Sequential: a must be a layer, got int"),
    (lambda: cnn.Sequential({"a.b": LAYER}), TypeError, "Sequential: names must be strings without dots, not empty"),
    (lambda: cnn.ModuleDict({"": LAYER}), TypeError, "ModuleDict: names must be strings without dots, not empty"),
    (lambda: cnn.ModuleDict([("a", None)]), TypeError, "ModuleDict: a must be a layer, got NoneType"),
    (lambda: cnn.ModuleDict().__setitem__("a", 1), TypeError, "ModuleDict: a must be a layer, got int"),
    (lambda: cnn.Sequential(LAYER).add_module("0", LAYER), ValueError, "Sequential: name must not be that of another"),
    (lambda: cnn.Module().add_module("a", 1), TypeError, "Module: module must be a module, got int"),
    (lambda: cnn.Module().add_module("a.b", LAYER), TypeError, "Module: name must be a string without dots"),
])
def test_what_is_no_module_and_no_name(call, error, words):
    with pytest.raises(error, match=words):
        call()


@pytest.mark.parametrize("ask, words", [
    (lambda x: x.sort(1), "a value has no attribute 'sort': write what loss and metrics get, arrays"),
    (lambda x: x.scatter_(1, x, 1), "write cnn.functional.one_hot"), (lambda x: x.softplus(), "functional.softplus"),
    (lambda x: x.relu_(), "write cnn.functional.relu"), (lambda x: x.add_(1), "write y = ... .* values do not change"),
    (lambda x: x.view(-1, 1, 1, 1, 3).cumsum(1),
     "a value of 5 axes has no attribute 'cumsum', which those of 4 axes have"),
    (lambda x: x.double(), "a value has its model's dtype"), (lambda x: x.nothing, "'nothing'$")])
def test_what_a_value_has_not(ask, words):
    with pytest.raises(AttributeError, match=words):
        Function(ask)(np.ones((2, 3)))


@pytest.mark.parametrize("ask, words", [
    (lambda: cnn.zeros, r"module 'cnn' has no attribute 'zeros': write numpy.zeros\(...\)"),
    (lambda: cnn.sigmoid_, "'sigmoid_': write cnn.functional.sigmoid"),
    (lambda: cnn.inference_mode, r"write cnn.no_grad\(\)"),
    (lambda: cnn.nothing, "module 'cnn' has no attribute 'nothing'$"), (lambda: cnn.__wrapped__, "'__wrapped__'$"),
    (lambda: F.dropout, r"module 'cnn.functional' has no attribute 'dropout': write cnn.Dropout\(p\)"),
    (lambda: F.nothing, "'nothing'$"), (lambda: F.max, r"cnn.functional.maximum\(x, y\) of two"),
    (lambda: cnn.init.dirac_, r"'cnn.init' .*: write weight.data = array"), (lambda: cnn.init.nothing, "'nothing'$"),
    (lambda: LAYER.zero_grad, r"'ReLU' object has no attribute 'zero_grad': .*Trainer\(accumulate=K\)"),
    (lambda: LAYER.nothing, "'nothing'$")])
def test_what_the_package_and_modules_have_not(ask, words):
    with pytest.raises(AttributeError, match=words):
        ask()


def test_a_token_of_each_image():
    """As in a vision transformer: a Parameter that stands before the values of each image."""
    class Tokens(cnn.Module):
        def __init__(self):
            super().__init__()
            self.token, self.place = cnn.Parameter(np.full((1, 1, 4), 2.0)), cnn.Parameter(np.ones((1, 6, 4)))

        def forward(self, x):
            return cnn.cat([self.token.expand(x.size(0), -1, -1), x], dim=1) + self.place

    model, (x, dy) = Tokens(), (np.random.default_rng(0).standard_normal((3, n, 4)) for n in (5, 6))
    assert_close(model(x), np.concatenate([np.full((3, 1, 4), 2.0), x], 1) + 1)
    assert_close(model.backward(dy), dy[:, 1:])
    assert_close(model.token.grad, dy[:, :1].sum(0, keepdims=True))
    assert_close(model.place.grad, dy.sum(0, keepdims=True))
    assert model.token.numel() == 4
    for sizes in ((3, 2, -1), (3, -1), (-1, -1, -1, -1)):
        with pytest.raises(ValueError, match=r"Parameter: expand must get the sizes of \(1, 1, 4\)"):
            model.token.expand(*sizes)
    with pytest.raises(ValueError, match="Parameter: expand must get"):
        cnn.Parameter(np.ones((2, 3))).expand(4, 3)
    with pytest.raises(TypeError, match="dtype must be float32 or float64, got cuda"):
        model.to("cuda")


def test_what_the_hints_name_is_there():
    """No hint for what there is, and each function in a hint exists."""
    from cnn import hints
    for names, owner in ((hints.OF_VALUES, cnn.Value), (hints.OF_MODULES, cnn.Module), (hints.OF_PACKAGE, cnn),
                         (hints.OF_PACKAGE, F), (hints.OF_INIT, cnn.init)):
        assert not [name for name in names if name in vars(owner) and name != "norm"]
        for words in names.values():
            for word in words.replace("(", " ").replace(",", " ").replace("[", " ").split():
                if word.startswith("cnn."):
                    path = word.rstrip(".;").split(".")[1:]
                    found = cnn
                    for part in path:
                        found = getattr(found, part)
