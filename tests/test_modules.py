"""Modules with `forward` only: whole networks against PyTorch, what is noticed, refused, and left behind."""

import copy
import gc
import pickle
import re
import threading
import types
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from cases import assert_all_close, assert_close, assert_same_bits
from drawn import of_both
from test_graph import Dividing, inputs, module, standard_normal, twin_of

import cnn
from cnn import functional as F
from cnn.data import Dataset
from cnn.export import to_torch
from cnn.layers.running import observed


def network(nn, base, cat):
    """The network of the documentation, in either library."""
    class Net(base):
        def __init__(self):
            super().__init__()
            self.stem = nn.Sequential(nn.Conv2d(1, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6), nn.ReLU())
            self.left, self.right = nn.Conv2d(6, 6, 1), nn.Sequential(nn.Conv2d(6, 6, 3, padding=1), nn.BatchNorm2d(6))
            self.act = nn.ReLU()
            self.head = nn.Linear(12, 4)

        def forward(self, x):
            x = self.stem(x)
            x = cat([self.left(x), self.act(self.right(x) + x)], 1)
            return self.head(x.mean((2, 3)))
    return Net()


def unet(nn, base, cat, pool):
    """Two levels, each with a skip connection; rows and columns become channels and back."""
    class Unet(base):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)
            self.low = nn.Sequential(nn.BatchNorm2d(64), nn.Conv2d(64, 64, 1), nn.SiLU())
            self.up = nn.ModuleList([nn.Conv2d(32, 16, 3, padding=1), nn.Conv2d(8, 3, 1)])

        def forward(self, x):
            a = self.one(x)
            b = self.two(pool(a).reshape((-1, 16, 4, 4)).relu())
            c = self.low(pool(b).reshape((-1, 64, 2, 2))).reshape((-1, 16, 4, 4))
            d = self.up[0](cat([c, b], 1)).reshape((-1, 4, 8, 8))
            return {"mask": self.up[1](cat([d, a], 1)), "low": c.mean((2, 3))}
    return Unet()


def both(torch, build, *more):
    model = build(cnn, cnn.Module, cnn.cat, *(m[0] for m in more)).to(np.float64)
    twin = build(torch.nn, torch.nn.Module, torch.cat, *(m[1] for m in more)).double()
    twin.load_state_dict({name: torch.tensor(value) for name, value in model.state_dict().items()})
    return model, twin


class NumpyReLU(cnn.Module):
    def forward(self, x):
        self.x = x
        return np.maximum(x, 0)

    def backward(self, dy):
        return dy * (self.x > 0)


class NumpyScale(cnn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.notes = cnn.Parameter(np.array([1.5])), {}

    def forward(self, x):
        self.x, self.notes[len(self.notes) % 99] = x, 1
        return x * self.a.data.astype(x.dtype)

    def backward(self, dy, need_dx=True):
        self.a.grad = [(dy * self.x).sum()]
        return dy * self.a.data if need_dx else None


def data(n=60):
    rng = np.random.default_rng(0)
    return Dataset(rng.integers(0, 256, (n, 1, 8, 8), np.uint8), np.arange(n) % 4, list("abcd"), [0.5], [0.25])


def small(act=None):
    model = network(cnn, cnn.Module, cnn.cat)
    model.act = act or model.act
    return model


def trainer_of(model, **more):
    return cnn.Trainer(model, cnn.SGD(model.parameters(), lr=0.05, momentum=0.9), progress=False, **more)


# ------------------------------------------------------------------------------------------ against PyTorch


@pytest.mark.parametrize("n", [2, 16, 33])
def test_the_network_of_the_documentation(n, torch):
    model, twin = both(torch, network)
    assert [name for name, _ in model.named_parameters()] == [name for name, _ in twin.named_parameters()]
    got, wanted = of_both(torch, model, twin, [standard_normal(n, 1, 8, 8)])
    assert_all_close(got, wanted)
    x = standard_normal(n, 1, 8, 8)
    assert_close(model.eval()(x), twin.eval()(torch.tensor(x)).detach().numpy())


@pytest.mark.parametrize("n", [1, 15, 17])
def test_a_network_with_two_skip_connections(n, torch):
    model, twin = both(torch, unet, (lambda v: F.max_pool2d(v, 3, 1, 1), lambda v: torch.max_pool2d(v, 3, 1, 1)))
    got, wanted = of_both(torch, model, twin, [standard_normal(n, 2, 8, 8)])
    assert_all_close(got, wanted)
    dy = standard_normal(n, 3, 8, 8)
    model(standard_normal(n, 2, 8, 8))
    assert model.backward({"mask": dy, "low": None}).shape == (n, 2, 8, 8)


def test_numpy_layers_in_the_middle(torch):
    """In a branch, several of them, one with a parameter, and a convolution on both sides used twice."""
    def build(nn, base, cat, relu, scale):
        class Net(base):
            def __init__(self):
                super().__init__()
                self.c, self.n, self.s = nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), scale()
                self.r, self.r2, self.d, self.h = relu(), relu(), nn.Conv2d(4, 4, 1), nn.Linear(12, 3)

            def forward(self, x):
                y = self.n(self.c(x))
                u, v, w = self.r(y), self.s(y) * 0.5 + y, self.c(x)
                z = cat([u, self.r2(v - w), self.d(self.d(u)) * v], 1)
                return self.h(z.mean((2, 3))), z, w
        return Net()

    def scale():
        return twin_of(torch, lambda self, x: x * self.a, a=np.array([1.5]))
    model, twin = both(torch, build, (NumpyReLU, torch.nn.ReLU), (NumpyScale, scale))
    got, wanted = of_both(torch, model, twin, [standard_normal(19, 2, 5, 5)])
    assert_all_close(got, wanted)


def test_inputs_and_outputs_of_all_kinds(torch):
    cases = [
        (lambda self, x, y: (y, x), 2), (lambda self, x, y: x * 2, 2), (lambda self, x, y: (x, x, x + y), 2),
        (lambda self, x: x, 1), (lambda self, x: (x.flatten(1), x, x.relu(), x.relu() * 2), 1),
        (lambda self, x, y: {"a": x * y, "b": y, 3: x}, 2), (lambda self, x, y: [x - y], 2),
    ]
    for function, count in cases:
        xs = inputs((3, 4, 5), (3, 4, 5))[:count]
        got, wanted = of_both(torch, module(function), twin_of(torch, function), xs)
        assert_all_close(got, wanted)
    model = module(lambda self, x, y, double=False: (x * 2, y * 3) if double else (x, y))
    x, y = inputs((3, 4, 5), (7,))
    assert_same_bits(model(x, y=y, double=True), [x * 2, y * 3])
    assert_same_bits(model.backward((None, y)), [np.zeros_like(x), 3 * y])
    assert_same_bits(model(x=x, y=y), [x, y])


def test_gradients_for_some_outputs(torch):
    def function(self, x):
        return x * self.p, x * x, x.mean((2, 3))
    for given in ([True, False, False], [False, True, True], [False, False, True]):
        model = module(function, p=cnn.Parameter(np.full((3, 1, 1), 2.0)))
        dys = [standard_normal(*s) if g else None for s, g in zip(((5, 3, 4, 5), (5, 3, 4, 5), (5, 3)), given,
                                                                 strict=True)]
        got, wanted = of_both(torch, model, twin_of(torch, function, p=np.full((3, 1, 1), 2.0)), inputs((3, 4, 5)), dys)
        assert_all_close(got[:4], wanted[:4])
        if given[0]:
            assert_all_close(got[4:], wanted[4:])


def test_nested_modules_and_lists_of_values():
    class Merge(cnn.Module):
        def forward(self, values, weights=None):
            return cnn.cat([v * w for v, w in zip(values, (weights or {"a": 1, "b": 1}).values(), strict=True)])

    class Outer(cnn.Module):
        def __init__(self):
            super().__init__()
            self.merge, self.scales = Merge(), [cnn.Parameter(np.ones((1,), np.float32)) for _ in range(2)]

        def forward(self, x):
            return self.merge([x, x * 2], weights={"a": self.scales[0], "b": 3})

    class Forgetful(cnn.Module):
        def __init__(self):     # calls no super().__init__()
            self.inner = Outer()

        def forward(self, x):
            return self.inner(x)

    model, x = Forgetful(), np.ones((2, 3), np.float32)
    assert [name for name, _ in model.named_parameters()] == ["inner.scales.0", "inner.scales.1"]
    assert model(x).tolist() == [[1, 1, 1, 6, 6, 6]] * 2
    model.backward(np.ones((2, 6), np.float32))
    assert [p.grad.tolist() for p in model.parameters()] == [[6], [0]]


# ------------------------------------------------------------------------------------------ what is noticed


def changed(thing, place, value):
    thing[place] = value


SETTINGS = types.SimpleNamespace
# attributes of a module, what its forward does with them, and how they change from 2 to 3
CHANGES = {
    "a number": (2.0, lambda a: a, lambda m: setattr(m, "a", 3.0)),
    "a list": ([2.0], lambda a: a[0], lambda m: changed(m.a, 0, 3.0)),
    "a dict in a tuple": (({"k": 2.0},), lambda a: a[0]["k"], lambda m: changed(m.a[0], "k", 3.0)),
    "a set": ({2}, lambda a: max(a), lambda m: (m.a.clear(), m.a.add(3))),
    "an object": (SETTINGS(k=2.0), lambda a: a.k, lambda m: setattr(m.a, "k", 3.0)),
    "an object in a list": ([SETTINGS(k=[2.0])], lambda a: a[0].k[0], lambda m: changed(m.a[0].k, 0, 3.0)),
    "a flag in an array": (np.array([2]), lambda a: int(a[0]), lambda m: changed(m.a, 0, 3)),
    "an array": (np.full((3, 8, 8), 2.0), lambda a: a, lambda m: m.a.fill(3)),
    "an array's place": ([np.full((3, 8, 8), 2.0)], lambda a: a[0], lambda m: changed(m.a, 0, np.full((3, 8, 8), 3.0))),
    "one number of many": ([np.full((3, 40, 40), 2.0)], lambda a: float(a[0][1, 20, 20]), lambda m: changed(
        m.a, 0, np.where(np.arange(40) == 20, 3.0, 2.0) * np.ones((3, 40, 40)))),
    "a parameter": (cnn.Parameter(np.full((1,), 2.0)), lambda a: a, lambda m: m.a.data.fill(3)),
    "parameters in a dict": ({"k": cnn.Parameter(np.full((1,), 2.0))}, lambda a: a["k"], lambda m: changed(
        m.a, "k", cnn.Parameter(np.full((1,), 3.0)))),
    "a function": (lambda: 2.0, lambda a: a(), lambda m: setattr(m, "a", lambda: 3.0)),
}


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", CHANGES)
def test_what_changes_is_noticed(name, training):
    start, read, change = CHANGES[name]
    model = module(lambda self, x: x * read(self.a), a=copy.deepcopy(start)).train(training)
    x = standard_normal(3, 3, 8, 8)
    assert_close(model(x), x * 2)
    change(model)
    assert_close(model(x), x * 3)


@pytest.mark.parametrize("where", [lambda m: [m], lambda m: {"k": m}, lambda m: [[m]], lambda m: SETTINGS(k=m)])
def test_modules_anywhere_are_noticed(where):
    def leaky(slope):
        return cnn.Sequential(cnn.LeakyReLU(slope))

    def inside(a):
        a = a.k if isinstance(a, types.SimpleNamespace) else a["k"] if isinstance(a, dict) else a[0]
        return a[0] if type(a) is list else a
    model, x = module(lambda self, x: inside(self.a)(x), a=where(leaky(0.5))).eval(), -np.ones((2, 3))
    assert model(x)[0, 0] == -0.5
    inside(model.a)[0].negative_slope = 0.25
    assert model(x)[0, 0] == -0.25
    model.a = where(leaky(2))
    assert model(x)[0, 0] == -2


def test_attributes_of_classes_and_arguments_are_noticed():
    class Flagged(cnn.Module):
        factor = 2.0

        def forward(self, x, more=None):
            return x * self.factor * (1.0 if more is None else float(more[0][20, 20]))

    model, x = Flagged().eval(), np.ones((2, 3))
    assert model(x)[0, 0] == 2
    Flagged.factor = 3.0
    assert model(x)[0, 0] == 3
    for value in (2.0, 5.0):
        array = np.zeros((40, 40))
        array[20, 20] = value
        assert model(x, [array])[0, 0] == 3 * value


def test_a_loop_of_references_and_much_else_among_attributes():
    model = module(lambda self, x: x * 2, a={}, lock=threading.Lock(), rng=np.random.default_rng(0), kind=np.float32,
                   odd=[object(), float("nan"), np.float64("nan"), b"", 1j, range(3), re.compile("a")])
    model.a["me"] = [model, model.a]
    x = np.ones((2, 3))
    for _ in range(3):
        assert model(x)[0, 0] == 2
    assert len(model._parts().key) == 2 and model.made_of() == model.made_of()
    model.eval()(x), model(x)
    assert len(model._programs.resting()) == 2      # for each mode one


# ------------------------------------------------------------------------------------------ what is refused


def kept(self, x):
    self.k = getattr(self, "k", x)
    return x + self.k


@pytest.mark.parametrize("function, error", [
    (lambda self, x: x if x > 0 else -x, r"test_modules\.py:\d+: a value cannot tell whether it is true"),
    (lambda self, x: x if x else -x, r"test_modules\.py:\d+: a value cannot tell whether it is true"),
    (lambda self, x: x * float(x), r"test_modules\.py:\d+: a value cannot tell its elements"),
    (lambda self, x: np.asarray(x), r"test_modules\.py:\d+: a value cannot tell its elements, as an array"),
    (lambda self, x: np.exp(x), r"test_modules\.py:\d+: numpy\.exp takes arrays"),
    (lambda self, x: x * float(self.p.data), r"test_modules\.py:\d+: `data` of a Parameter was read"),
    (lambda self, x: x + self.c(np.ones((1, 3, 4, 5))), r"test_modules\.py:\d+: Conv2d got an array while"),
    (lambda self, x: [y for y in x][0], "one after the other"),
    (lambda self, x: x * len(x), "the number of images"),
    *[(function, r"test_modules\.py:\d+: the number of images, x.shape\[0\] or x.size\(0\), cannot be computed with")
      for function in (
        lambda self, x: x.sum() / x.size(0), lambda self, x: x * x.shape[0], lambda self, x: x.size()[0] - x,
        lambda self, x: x.sum() / float(x.shape[0]), lambda self, x: x.reshape(x.shape[0] * 3, 20),
        lambda self, x: x.reshape(-1, 60 // x.shape[0]), lambda self, x: x if x.shape[0] > 1 else -x,
        lambda self, x: F.maximum(x, x.shape[0]), lambda self, x: x ** x.shape[0], lambda self, x: x > x.size(0))],
    (lambda self, x: None, "forward must return a value, .* got NoneType"),
    (lambda self, x: np.ones(3), "forward must return a value, .* got ndarray"),
    (lambda self, x: (), "got an empty tuple"), (lambda self, x: (x, (x,)), "got tuple"),
    (lambda self, x: x + x[:, :2], r"add: \(N, 3, 4, 5\) and \(N, 2, 4, 5\) do not go together"),
    (lambda self, x: x + x.mean((2, 3)), r"reshape one of them, to \(-1, C, 1, 1\) say"),
    (lambda self, x: cnn.cat([x, x.flatten()]), "may differ in channels only"),
    (lambda self, x: x.reshape(-1, 7), "reshape: .* has 60 elements per image"),
    (lambda self, x: x.reshape(5, -1), "reshape: shape must be"), (lambda self, x: x[:, ::-1], "step"),
    (lambda self, x: x[1:], "must be cut as in"), (lambda self, x: x[:, 3:], "there must be something left"),
    (lambda self, x: x[:, 3], "slice: index 3 is beyond the 3 of axis 1"),
    (lambda self, x: x[0, ...], "must be cut as in"),
    (lambda self, x: x[None], "must be cut as in"), (lambda self, x: x[[0, 1]], "must be cut as in"),
    (lambda self, x: x[..., :, ...], "must be cut as in"), (lambda self, x: x[..., None], "at most 4 axes, the"),
    (lambda self, x: x[:, [0, 3]], "slice: index 3 is beyond the 3 of axis 1"),
    (lambda self, x: x[:, :, []], "there must be something left of the 4 of axis 2"),
    (lambda self, x: x[:, [0], [1]], "must be cut by one list of integers"),
    (lambda self, x: x[:, 0, :, [1, 2]], "must be cut by one list of integers"),
    *[(lambda self, x, part=part: x[:, part], "must be cut by slices, integers, a list of integers, None and ...") for
      part in ([True, False, True], [0.0], [[0, 1]], np.array([[0]]), np.array(1), np.ones(3, bool), "0", True)],
    (lambda self, x: x[:, 0.5:], r"slice: bounds must be integers or None, got \[0\.5:None\]"),
    (lambda self, x: x[:, :np.ones(2)], r"slice: bounds must be integers or None, got \[None:array"),
    (lambda self, x: x[np.ones(2):], "must be cut as in"),
    (lambda self, x: F.nll_loss(x, np.zeros((2, 4, 5))), "nll_loss: target must be a value, as the other is"),
    (lambda self, x: F.nll_loss(np.zeros((2, 3)), x), "nll_loss: x must be a value, as the other is, got ndarray"),
    (lambda self, x: x[:, x > 0], "must be cut by slices, .*a mask goes into cnn.functional.where"),
    *[(lambda self, x, sizes=sizes: x.expand(*sizes), r"expand: sizes must be those of \(N, 3, 4, 5\)") for sizes in (
        (2, 3, 4, 5), (-1, 6, 4, 5), (-1, 3, 4), (-1, 3, 4, 5, 1), (-1, 3, 4, 1), (-1, 0, 4, 5))],
    (lambda self, x: x[:, :1].expand(-1, 0, 4, 5), "expand: sizes must be"),
    (lambda self, x: x @ x[:, :2].transpose(2, 3),
     r"matmul: .* got \(N, 3, 4, 5\) and \(N, 2, 5, 4\)"),
    *[(lambda self, x, index=index: x.gather(2, index(x)), r"gather: index must be a value of shape \(N, 3, 1, 5\)")
      for index in (lambda x: x, lambda x: x[:, :, 0], lambda x: np.zeros((2, 3, 1, 5)), lambda x: 1)],
    (lambda self, x: x.gather(0, x), "gather: dim must not be that of the images"),
    (lambda self, x: x.view(-1),
     r"reshape: \(-1,\) would put the 60 elements of all images .* sum\(\) and mean\(\)"),
    *[(lambda self, x, shape=shape: x.view(*shape), "shape must be that of 60 elements per image") for shape in (
        (2, 3, 4, 5, 1), (-1, 3, 4, 5, 2), (-1, 7, 1, 1, -1), (-1, -1, -1, 1, 1), (-1, 3, 0, 4, 5))],
    *[(lambda self, x, act=act: act(x.view(-1, 3, 2, 2, 5)), words) for act, words in (
        (lambda v: v % 2, r"test_modules\.py:\d+: a value of 5 axes, \(-1, 3, 2, 2, 5\), must be permuted or viewed"),
        (lambda v: v.permute(0, 1, 2, 3), "permute: dims must be all axes"), (lambda v: v, "at most 4 axes"),
        (lambda v: v.permute(1, 0, 2, 3, 4).reshape(-1, 60), "reshape: the images must be the first axis"),
        (lambda v: v[0], r"must be cut as in x\[:, 2:5\], with all images"),
        (lambda v: v.unbind(0), "unbind: dim must not be the images' axis, got 0"),
        (lambda v: v.permute(1, 0, 2, 3, 4)[3], "can be cut by an integer along its first axis"))],
    (lambda self, x: x.squeeze(0), "squeeze: dim must not be that of the images, 0, got 0"),
    (lambda self, x: x.squeeze(4), "squeeze: dim must be .* got 4"),
    (lambda self, x: x[:, 0].unsqueeze(0), "unsqueeze: dim must not be that of the images, 0, got 0"),
    (lambda self, x: x[:, 0].unsqueeze(-4), "unsqueeze: dim must not be that of the images, 0, got -4"),
    (lambda self, x: x.unsqueeze(1), r"must have at most 4 axes, .* got shape \(-1, 1, 3, 4, 5\)"),
    (lambda self, x: x[:, 0].unsqueeze(4), "unsqueeze: dim must be .* got 4"),
    (lambda self, x: x.permute(0, 1, 2), r"permute: dims must be all axes of \(N, 3, 4, 5\), 0, .* got \(0, 1, 2\)"),
    (lambda self, x: x.permute(1, 0, 2, 3), r"permute: dims must be all axes .* first, got \(1, 0, 2, 3\)"),
    (lambda self, x: x.permute(0, 1, 1, 2), r"permute: dims must be all axes .* got \(0, 1, 1, 2\)"),
    (lambda self, x: x.permute(0, 1, 2, 4), "permute: dims must be .* got 4"),
    (lambda self, x: x.transpose(0, 1), "transpose: dim must not be that of the images, 0, got 0"),
    (lambda self, x: x.transpose(1, 4), "transpose: dim must be .* got 4"),
    (lambda self, x: x.size(4), "size: dim must be .* got 4"),
    (lambda self, x: F.split(x, [1, 1]), "split: split_size must add up to 3"),
    (lambda self, x: F.stack([x, x]), "must have at most 4 axes"),
    (lambda self, x: cnn.cat([x, x[:, :, 1:]]), "may differ in channels only"),
    (lambda self, x: cnn.cat([x, x[:, 1:]], 2), "they may differ along axis 2 only"),
    (lambda self, x: cnn.cat([x, x], 0), "cat: dim must not be that of the images"),
    (lambda self, x: F.pad(x, (5, 0), "reflect"), "pad: pad must cut at most . elements, .* with reflect be less"),
    (lambda self, x: F.pad(x, (-9, 9)), "pad: pad must cut at most . elements"),
    (lambda self, x: F.interpolate(x), "size or scale_factor must be given"),
    (lambda self, x: F.interpolate(x, 2, mode="cubic"), "mode must be 'nearest' or 'bilinear'"),
    (lambda self, x: F.interpolate(x, 2, align_corners=True), "align_corners must be None"),
    (lambda self, x: F.pixel_shuffle(x, 2), "channels must be a multiple of 4, got 3"),
    (lambda self, x: F.pixel_unshuffle(x, 3), "height and width must be multiples of 3"),
    (lambda self, x: F.channel_shuffle(x, 2), "groups must divide 3"),
    (lambda self, x: x / 0, "must not be divided by 0"),
    (lambda self, x: x.maximum("a"), "maximum: it takes values, numbers, Parameters and arrays, got str"),
    (lambda self, x: x.where(x > 0, None), "where: it takes values, numbers, Parameters and arrays, got NoneType"),
    (lambda self, x: x.prelu(1), "prelu: weight must be a Parameter or an array, got int"),
    (lambda self, x: x.prelu(x), "prelu: weight must be a Parameter or an array, got Value"),
    (lambda self, x: x.mean(0), "dim must not be that of the images"),
    (lambda self, x: x + np.array(["a"]), "must hold numbers"), (lambda self, x: x * np.array([1j]), "hold numbers"),
    (lambda self, x: x * np.ones((3, 0, 1)), "must not be empty"), (lambda self, x: x + "a", "unsupported operand"),
    (lambda self, x: self.m(x), "Module has no forward"), (lambda self, x: F.relu_backward(x, x), "it takes arrays"),
])
def test_errors_say_what_is_wrong(function, error):
    model = module(function, p=cnn.Parameter(np.ones(())), c=cnn.Conv2d(3, 3, 1).to(np.float64), m=cnn.Module())
    for _ in range(2):
        with pytest.raises((TypeError, ValueError, NotImplementedError), match=error):
            model(np.ones((2, 3, 4, 5)))
    model = module(lambda self, x: x * self.p, p=model.p)
    assert model(np.ones((2, 3))).shape == (2, 3)       # nothing of it stays in force


def test_values_of_other_calls_are_refused():
    x = np.ones((2, 3, 4, 5))
    for function in (kept, lambda self, x: (kept(self, x), self.k)[1],
                     lambda self, x: (kept(self, x), F.tanh(self.k))[1]):
        model = module(function)
        model(x)
        with pytest.raises(ValueError, match="of this call|for the next"):
            model(x[:, :2])
    other = module(lambda self, x: x + self.k)
    model = module(lambda self, x: (setattr(other, "k", x), other(x))[1])
    model(x)
    with pytest.raises(ValueError, match="for the next"):
        other(x)


# ------------------------------------------------------------------------------------------ the rest of the package


@pytest.mark.parametrize("numpy_layer", [False, True])
def test_training_and_all_that_goes_with_it(numpy_layer, torch):
    def made():
        model = small(NumpyReLU() if numpy_layer else None)
        return model, trainer_of(model)
    model, trainer = made()
    before, average = trainer.evaluate(data())["loss"], cnn.EMA(model, 0.5)
    trainer.fit(data(), 3, validation=data())
    average.update()
    assert trainer.evaluate(data(), tta="flip")["loss"] < before and trainer.predict(data()).shape == (60, 4)
    _, first = made()
    first.fit(data(), 1, validation=data())
    half, resumed = made()
    resumed.load_state_dict(copy.deepcopy(first.state_dict()))
    resumed.fit(data(), 3, validation=data())
    assert_same_bits(list(half.state_dict().values()), list(model.state_dict().values()))
    x = standard_normal(3, 1, 8, 8).astype(np.float32)
    assert_same_bits([copy.deepcopy(model).eval()(x)], [model.eval()(x)])
    images = np.ones((2, 3, 4, 4), np.float32)
    assert_same_bits([pickle.loads(pickle.dumps(Dividing()))(images)], [Dividing()(images)])
    rows = {row.name: row for row in model.summary((1, 8, 8), 16)}
    assert rows["stem.0"].multiply_adds == 64 * 54 and rows["head"].output_shape == (4,)
    assert [name for name, *_ in observed(model, x)][:5] == ["stem.0", "stem.1", "stem.2", "stem", "left"]
    assert "head.weight head.bias" in str(model.graph((1, 8, 8)))
    if not numpy_layer:
        assert_close(to_torch(model, (1, 8, 8))(torch.tensor(x)).detach().numpy(), model(x))


def test_constants_go_to_pytorch_and_the_first_convolution_is_whitened(torch):
    model = module(lambda self, x: F.batch_norm(self.c(x * self.k), None, None, None, None, True),
                   k=np.full((3, 1, 1), 2.0), c=cnn.Conv2d(3, 24, 2, dtype=np.float64))
    x = standard_normal(4, 3, 6, 6)
    cnn.models.whiten(model, x)
    assert_close(to_torch(model, (3, 6, 6))(torch.tensor(x)).detach().numpy(), model(x))


def test_debug_names_operation_module_and_step():
    x = np.ones((3, 1, 4, 4), np.float32)
    model = module(lambda self, x: self.b(1 / (self.a(x) * 0)), a=cnn.Conv2d(1, 2, 1), b=cnn.Conv2d(2, 2, 1))
    with cnn.debug(), pytest.raises(FloatingPointError, match="^reciprocal: 96 of 96 elements of its value"):
        model(x)
    model = small()
    with cnn.debug():
        dy = np.ones_like(model(x))
        dy[1, 1] = np.nan
        with pytest.raises(FloatingPointError, match=r"^linear \(module head\): \d+ of \d+ elements of its gradient"):
            model.backward(dy)
        with pytest.raises(FloatingPointError, match=r"^linear .module head.: .* elements of its parameter's gradient"):
            model.backward(np.full_like(model(x), 3e38))
    plain, model = small(), small()
    trainer_of(plain).fit(data(), 1)
    with cnn.debug():
        trainer_of(model).fit(data(), 1)
    assert_all_close([p.data for p in model.parameters()], [p.data for p in plain.parameters()])
    trainer = trainer_of(model)

    class Spoil(cnn.Callback):
        def on_step_end(self, trainer):
            model.left.bias.data[0] = np.inf if trainer.step == 3 else 0
    trainer.callbacks.append(Spoil())
    with cnn.debug(), pytest.raises(FloatingPointError, match=r"^step 4: conv2d .module left.: .* of its value"):
        trainer.fit(data(), 1, batch_size=10)


@pytest.mark.thorough
@pytest.mark.parametrize("act", [None, NumpyReLU, NumpyScale])
def test_called_by_many_threads(act):
    model = small(act and act()).eval()
    xs = [standard_normal(n, 1, side, side).astype(np.float32) for n in (1, 16, 17) for side in (4, 5, 6, 7)]
    wanted = [copy.deepcopy(model)(x) for x in xs]

    def work(i):
        barrier.wait()
        return [np.array_equal(model(xs[k % len(xs)]), wanted[k % len(xs)]) for k in range(i, i + 40)]
    for _ in range(2):
        barrier = threading.Barrier(8)
        with ThreadPoolExecutor(8) as pool:
            assert all(all(future.result(120)) for future in [pool.submit(work, i) for i in range(8)])
        model = copy.deepcopy(model)


@pytest.mark.parametrize("act", [None, NumpyReLU])
def test_a_dropped_model_frees_its_memory_at_once(act):
    def fails(model):
        with pytest.raises(ValueError):
            model(np.ones((3, 2, 8, 8), np.float32))
    x = np.ones((3, 1, 8, 8), np.float32)
    gc.collect()
    gc.disable()
    try:
        for use in (lambda m: m(x), lambda m: m.eval()(x), lambda m: m.backward(m(x)), fails,
                    lambda m: trainer_of(m).fit(data(), 1, validation=data()), lambda m: str(m.graph((1, 8, 8))),
                    lambda m: str(m.summary((1, 8, 8))), lambda m: observed(m, x)):
            model = small(act and act())
            use(model)
            parts = [weakref.ref(part) for part in model.modules()] + [weakref.ref(p.data) for p in model.parameters()]
            del model
            assert not [part() for part in parts if part() is not None]
    finally:
        gc.enable()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_parameter_of_one_number(dtype):
    p = cnn.Parameter(dtype(1.5))
    assert p.shape == () and p.dtype == dtype and p.data == 1.5
    for wrong in (1.5, np.int64(1), np.float16(1)):
        with pytest.raises(TypeError, match="Parameter: data must be"):
            cnn.Parameter(wrong)
