"""Values: each operator and function against PyTorch, differences and the twins; passes; errors."""

import numpy as np
import pytest
from cases import assert_all_close, assert_gradient, assert_same_bits
from drawn import by_twins, of_both, ours, theirs

import cnn
from cnn import functional as F
from cnn import reference
from cnn.engine import inspecting
from cnn.layers.running import graph_of

SIZES = (1, 15, 16, 17, 33)


def standard_normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def module(function, **attributes):
    """A module whose forward is function(self, ...)."""
    class Made(cnn.Module):
        def forward(self, *values, **options):
            return function(self, *values, **options)

    made = Made()
    for name, value in attributes.items():
        setattr(made, name, value)
    return made


def twin_of(torch, function, **parameters):
    class Made(torch.nn.Module):
        def forward(self, *values):
            return function(self, *values)

    made = Made()
    for name, value in parameters.items():
        setattr(made, name, torch.nn.Parameter(torch.tensor(value)))
    return made


def inputs(*shapes, n=5):
    """Arrays without numbers near 0 and without equals."""
    rng = np.random.default_rng(1)
    return [np.where(rng.random((n, *s)) < 0.5, -1, 1) * rng.uniform(0.5, 2, (n, *s)) for s in shapes]


IMAGE, PIXEL, ROW, COLUMN = (3, 4, 5), (3, 1, 1), (1, 4, 1), (1, 1, 5)
PAIRS = [(IMAGE, IMAGE), (IMAGE, PIXEL), (PIXEL, IMAGE), (IMAGE, ROW), (COLUMN, IMAGE), (PIXEL, ROW), (ROW, COLUMN),
         ((7,), (7,)), ((7,), (1,)), ((1,), (7,))]


def functions_for(x):
    """The module of functions for a value or a tensor."""
    if isinstance(x, cnn.Value):
        return F
    import torch
    return torch.nn.functional


def of_heads(q, k, v):
    return ((q @ k.transpose(-2, -1)).softmax(-1) @ v).transpose(1, 2).reshape(q.shape[0], 4, -1)


REDUCTIONS = ("sum", "mean", "amax", "amin")
COMPARISONS = {">": lambda u, v: u > v, ">=": lambda u, v: u >= v, "<": lambda u, v: u < v, "<=": lambda u, v: u <= v,
               "==": lambda u, v: u == v, "!=": lambda u, v: u != v}
# what both libraries write alike, by name: a function of the values, and their shapes
ALIKE = {
    **{f"{name} of {a} and {b}": (operator, (a, b)) for a, b in PAIRS for name, operator in (
        ("add", lambda u, v: u + v), ("subtract", lambda u, v: u - v), ("multiply", lambda u, v: u * v),
        ("divide", lambda u, v: u / v))},
    "x + x": (lambda x: x + x, (IMAGE,)), "x * x": (lambda x: x * x, (IMAGE,)), "x / x": (lambda x: x / x, (IMAGE,)),
    "x - x": (lambda x: x - x, (IMAGE,)), "+x": (lambda x: +x * 1, (IMAGE,)), "-x": (lambda x: -x, (IMAGE,)),
    "x + 2": (lambda x: x + 2, (IMAGE,)), "2 + x": (lambda x: 2 + x, (IMAGE,)), "x - 2": (lambda x: x - 2, (IMAGE,)),
    "2 - x": (lambda x: 2 - x, (IMAGE,)), "x * 2": (lambda x: x * 2.5, (IMAGE,)), "0 * x": (lambda x: 0 * x, (IMAGE,)),
    "x / 3": (lambda x: x / 3, (IMAGE,)), "3 / x": (lambda x: 3 / x, (IMAGE,)), "0 / x": (lambda x: 0 / x, ((7,),)),
    "relu": (lambda x: x.relu(), (IMAGE,)), "relu of features": (lambda x: x.relu(), ((7,),)),
    **{f"{name} of {shape}": (lambda x, name=name: getattr(x, name)(), (shape,))
       for name in ("sigmoid", "tanh") for shape in (IMAGE, (7,))},
    **{f"x.{name} of {a} and {b}": (lambda u, v, name=name: getattr(u, name)(v), (a, b))
       for name in ("maximum", "minimum") for a, b in PAIRS[:2]},
    "x.where": (lambda u, v: u.where(v > 0.1, u * v) + v.where(u < 1, u), (IMAGE, IMAGE)),
    "x.matmul": (lambda x: x[:, 0].matmul(x[:, 1].reshape(-1, 5, 4)), (IMAGE,)),
    "flatten": (lambda x: x.flatten(1), (IMAGE,)), "flatten of features": (lambda x: x.flatten(1) * 1, ((7,),)),
    "reshape": (lambda x: x.reshape((-1, 5, 4, 3)), (IMAGE,)), "view": (lambda x: x.view(-1, 60), (IMAGE,)),
    "reshape to features": (lambda x: x.reshape(-1, 10, 1, 6).relu().reshape((-1, 60)), (IMAGE,)),
    **{f"{name} over {dim}{', kept' * keep}": (lambda x, name=name, dim=dim, keep=keep: getattr(x, name)(dim, keep),
                                              (IMAGE,))
       for name in ("mean", "sum", "amax", "amin") for dim, keep in (
           ((2, 3), False), ((-1, -2), True), (2, True), (-1, True), ((3,), True), (1, True), (1, False), (2, False),
           ((1, 3), False), ((3, 1), True), ((1, 2, 3), False), ((1, 2, 3), True))},
    **{f"{name} of a vector": (lambda x, name=name: getattr(x, name)(1), ((7,),)) for name in REDUCTIONS},
    **{f"{name} of a plane": (lambda x, name=name: getattr(getattr(x, name)(1), name)((1, 2)), (IMAGE,))
       for name in REDUCTIONS},
    **{f"{name} of a plane's rows": (lambda x, name=name: getattr(x.sum(1), name)(2, keepdim=True), (IMAGE,))
       for name in REDUCTIONS},
    "planes and numbers": (lambda x: x.sum(1) * x.mean(1) + x.amax((1, 2, 3)).reshape((-1, 1, 1)), ((3, 4, 4),)),
    "numbers of images": (lambda x: x.sum((1, 2, 3)) * x.mean((1, 2, 3)) - 2 / x.amin((1, 2, 3)), (IMAGE,)),
    **{f"{name}({options}) of {shape}": (
        lambda x, name=name, options=options: getattr(x, name)(**options), (shape,))
       for shape in (IMAGE, (7,)) for name, options in (
           ("abs", {}), ("exp", {}), ("sin", {}), ("cos", {}),
           ("clamp", {"min": -1.2}), ("clamp", {"max": 1.1}), ("clamp", {"min": -1, "max": 1}),
           ("clamp", {"min": -np.inf, "max": np.inf}),
           ("softmax", {"dim": 1}), ("log_softmax", {"dim": -1}), *[("pow", {"exponent": n}) for n in (
               0, 1, 2, 3, 4, 7, -1, -2, -3)])},
    **{f"{name} over {dim}": (lambda x, name=name, dim=dim: getattr(x, name)(dim), (IMAGE,))
       for name in ("softmax", "log_softmax") for dim in (1, 2, 3, -2)},
    **{f"{name} of a plane over {dim}": (lambda x, name=name, dim=dim: getattr(x.sum(1), name)(dim), (IMAGE,))
       for name in ("softmax", "log_softmax") for dim in (1, 2)},
    "log": (lambda x: x.abs().log(), (IMAGE,)), "sqrt": (lambda x: x.abs().sqrt(), (IMAGE,)),
    "a root": (lambda x: abs(x) ** 0.5, (IMAGE,)), "a broken power": (lambda x: (x * x) ** 1.7, (IMAGE,)),
    "powers": (lambda x: x**2 - x**3 + x ** -1, (IMAGE,)),
    "power by the C library": (lambda x: (x * x) ** -2.5, ((7,),)),
    **{f"mask {name} of {a} and {b}": (lambda u, v, compare=compare: compare(u, v) * (u * v), (a, b))
       for a, b in PAIRS[:3] for name, compare in COMPARISONS.items()},
    **{f"mask {name} a number": (lambda x, compare=compare: compare(x, 0.25) * x, (IMAGE,))
       for name, compare in COMPARISONS.items()},
    "equal to itself": (lambda x: (x == x) * x + (x != x) * x + (x >= x) * x, (IMAGE,)),
    "x > 0 by hand": (lambda x: (x > 0) * x - (x < 0) * x * 0.1, (IMAGE,)),
    "slices": (lambda x: (x[:, :2], x[:, -1:], x[:, 1:2] * x[:, 2:]), (IMAGE,)),
    "a slice of features": (lambda x: x[:, 2:5], ((7,),)),
    **{f"x[{text}]": (lambda x, index=index: x[index], (IMAGE,)) for text, index in {
        ":, :, 1:3": np.s_[:, :, 1:3], ":, :, :, ::2": np.s_[:, :, :, ::2], ":, ::2": np.s_[:, ::2],
        ":, 1:, -2:, 1:4:2": np.s_[:, 1:, -2:, 1:4:2], ":, 0": np.s_[:, 0], ":, :, 2": np.s_[:, :, 2],
        ":, 1, :, -1": np.s_[:, 1, :, -1], ":, 2, 3, 4": np.s_[:, 2, 3, 4], ":, [2, 0, 1]": np.s_[:, [2, 0, 1]],
        ":, [-1, 0, 0, -1]": np.s_[:, [-1, 0, 0, -1]], ":, 1:, array, ::2": np.s_[:, 1:, np.array([3, 1, 3]), ::2],
        "..., [4, 4, 0]": np.s_[..., [4, 4, 0]], "..., 1:": np.s_[..., 1:], ":, ..., 0, None": np.s_[:, ..., 0, None],
        ":, :1, ..., [1, 0]": np.s_[:, :1, ..., [1, 0]]}.items()},
    **{f"x[{text}] of features": (lambda x, index=index: x[index] * 2, ((7,),)) for text, index in {
        ":, None": np.s_[:, None], ":, :, None, None": np.s_[:, :, None, None], "..., None": np.s_[..., None],
        ":, None, 2:, None": np.s_[:, None, 2:, None], ":, [6, 0, 6]": np.s_[:, [6, 0, 6]]}.items()},
    "a list of a plane": (lambda x: x[:, 0][:, 1:, [0, 0, -1]] + x[:, 1][:, [3, 3, 0], :3], (IMAGE,)),
    "a list of many channels": (lambda x: x[:, :, 0][:, list(range(30, -1, -2)) * 2, None], ((36, 2, 3),)),
    "parts of planes": (lambda x: x[:, 0][:, 1:3, ::2] + x[:, 1, 2:, :3], (IMAGE,)),
    "every second feature": (lambda x: x[:, 1::2], ((7,),)), "one feature": (lambda x: x[:, 3], ((7,),)),
    "pads of planes": (lambda x: functions_for(x).pad(x[:, 1], (2, 1), "reflect"), (IMAGE,)),
    "flatten(2)": (lambda x: x.flatten(2), (IMAGE,)), "flatten(1, 2)": (lambda x: x.flatten(1, 2) * 2, (IMAGE,)),
    "flatten of planes": (lambda x: x[:, 0].flatten(1), (IMAGE,)),
    "split": (lambda x: x.split(2, 3), (IMAGE,)), "split by sizes": (lambda x: x.split([1, 3], 2)[::-1], (IMAGE,)),
    "chunk": (lambda x: x.chunk(2, 1), (IMAGE,)), "chunk of features": (lambda x: x.chunk(3, -1)[2] + 1, ((7,),)),
    "chunk of many channels": (lambda x: x.chunk(2, 1)[0] * x.chunk(2, 1)[1], ((36, 2, 3),)),
    "x[:, ::3] of many channels": (lambda x: x[:, 1::3, 1:], ((50, 2, 3),)),
    **{f"x.permute{dims}": (lambda x, dims=dims: x.permute(dims) * 2, (IMAGE,)) for dims in (
        (0, 1, 3, 2), (0, 2, 1, 3), (0, 2, 3, 1), (0, 3, 1, 2), (0, -1, -2, -3))},
    "permute of many channels": (lambda x: x.permute(0, 3, 1, 2) * x.permute(0, 3, 2, 1).mean(2).reshape(-1, 2, 18, 1),
                                 ((18, 17, 2),)),
    "permute of a plane": (lambda x: x[:, 0].permute(0, 2, 1) @ x[:, 1], (IMAGE,)),
    "permute of axes of size 1": (lambda x: x.permute(0, 3, 1, 2) * 2, ((1, 4, 1),)),
    **{f"x.transpose({a}, {b})": (lambda x, a=a, b=b: x.transpose(a, b) * 2, (IMAGE,)) for a, b in (
        (1, 2), (-1, -2), (3, 1), (2, 2))},
    "products of all pairs": (lambda x: x.flatten(2).transpose(1, 2) @ x.flatten(2), (IMAGE,)),
    **{f"x.unsqueeze({dim})": (lambda x, dim=dim: x[:, 0].unsqueeze(dim) * 2, (IMAGE,)) for dim in (1, 2, 3, -1, -3)},
    "unsqueeze of features": (lambda x: x.unsqueeze(-1).unsqueeze(1) * 2, ((7,),)),
    **{f"x.squeeze({dim})": (lambda x, dim=dim: x.squeeze(dim) * 2, ((1, 4, 1),)) for dim in (
        1, 2, -1, (1, 3), (1, 2))},
    "squeeze": (lambda x: x.squeeze() + x.squeeze().unsqueeze(1).squeeze(), ((1, 4, 1),)),
    "sizes": (lambda x: x.view(x.size(0), -1) * (x.size(1) + x.size(-1) + x.dim()) + x[:, 0].reshape(
        x.size()[0], x.size(2) * x.size(3)).mean(1, keepdim=True), (IMAGE,)),
    "expand_as": (lambda x: x.mean((2, 3), keepdim=True).expand_as(x) + x[:, :, :1].expand_as(x), (IMAGE,)),
    "expand": (lambda x: x.expand(-1, 3, -1, 5) * 2 + x.expand((x.size(0), 3, 4, 5)), ((1, 4, 1),)),
    "expand of features": (lambda x: (x[:, None].expand(-1, 3, -1), x[:, :1].expand(x.shape[0], 7)), ((7,),)),
    "as PyTorch has them": (lambda x: (x.contiguous() > 0).float() * x.transpose(1, 2).contiguous().transpose(1, 2),
                            (IMAGE,)),
    "x.bmm": (lambda x: x.flatten(2).bmm(x.flatten(2).transpose(1, 2)), (IMAGE,)),
    "heads": (lambda x: (x @ x.transpose(2, 3)).softmax(-1) @ x, (IMAGE,)),
    "heads by view": (lambda x: x.view(x.size(0), 4, 2, 3).transpose(1, 2).matmul(
        x.view(x.size(0), 4, 2, 3).permute(0, 2, 3, 1)).transpose(1, 2).reshape(x.size(0), 4, 8), ((4, 6),)),
    "channel shuffle by view": (lambda x: x.view(x.size(0), 2, 3, 4, 5).transpose(1, 2).contiguous().view(
        x.size(0), -1, 4, 5) * 2, ((6, 4, 5),)),
    "pixel shuffle by view": (lambda x: x.view(-1, 2, 2, 2, 4, 5).permute(0, 1, 4, 2, 5, 3).reshape(-1, 2, 8, 10) * 2,
                              ((8, 4, 5),)),
    "patches by view": (lambda x: x.reshape(x.shape[0], 3, 2, 2, 3, 2).permute(0, 2, 4, 1, 3, 5).flatten(1, 2).flatten(
        2) * 2, ((3, 4, 6),)),
    "five axes, permuted back": (lambda x: x.view(-1, 4, 1, 2, 3).permute(0, 1, 4, 3, 2).transpose(-1, 2).transpose(
        3, 4).reshape(-1, 4, 6) * 2, ((4, 6),)),
    "q, k and v of heads": (lambda x: of_heads(*x.reshape(x.size(0), 4, 3, 2, 5).permute(2, 0, 3, 1, 4)), ((4, 30),)),
    "q, k and v by unbind": (lambda x: of_heads(*x.view(x.size(0), 4, 3, 2, 5).permute(2, 0, 3, 1, 4).unbind(0)),
                             ((4, 30),)),
    "a slice of a slice": (lambda x: x[:, 1:][:, :1] + x, (IMAGE,)),
}


@pytest.mark.parametrize("name", ALIKE)
def test_operators(name, torch):
    function, shapes = ALIKE[name]
    model, xs = module(lambda self, *values: function(*values)), inputs(*shapes)
    got, wanted = of_both(torch, model, twin_of(torch, lambda self, *values: function(*values)), xs)
    assert_all_close(got, wanted)
    graph = graph_of(model, [x.shape[1:] for x in xs], np.dtype(np.float64))
    rng = np.random.default_rng(0)
    dys = [rng.standard_normal(y.shape) for y in got[:len(graph.outputs)]]
    assert_all_close(got, by_twins(graph, xs, dys))

    def loss():
        ys = model(*xs)
        return sum((y * dy).sum() for y, dy in zip(ys if isinstance(ys, tuple) else [ys], dys, strict=True))
    for gradient, x in zip(got[len(dys):], xs, strict=True):
        assert_gradient(gradient, loss, x)


@pytest.mark.parametrize("index", [
    np.s_[:, [2, 0, 1, 2]], np.s_[:, np.array([-1, 0, 0], np.int8)], np.s_[..., [3, 3, 0]],
    np.s_[:, 1:, (-1, 1)], np.s_[:, range(2, 0, -1)], np.s_[:, :, None, 0], np.s_[..., 1:, ::2], np.s_[:, None, 1, 2],
    np.s_[...], np.s_[:, :1, ..., -1, None]], ids=str)
@pytest.mark.parametrize("n", [1, 17])
def test_an_index_is_that_of_numpy(index, n):
    """Also for more than sixteen channels, with images and with channels side by side."""
    for channels in (3, 20):
        x = standard_normal(n, channels, 4, 5)
        model = module(lambda self, x: x[index] * 1)
        y = model(x)
        assert_same_bits([y], [x[index]])
        dy = standard_normal(*y.shape, seed=1)
        dx = np.zeros_like(x)
        np.add.at(dx, index, dy)
        np.testing.assert_allclose(model.backward(dy), dx, rtol=0, atol=1e-14)


PYTORCH = {"hardswish": 1e-7, "hardsigmoid": 1e-7}      # whose 1/6 is that of float32
# what both libraries have as functions, PyTorch perhaps in torch and not in torch.nn.functional: options, shapes
FUNCTIONS = [
    *[(name, {}, (IMAGE,)) for name in ("relu6", "elu", "hardswish", "hardsigmoid", "hardtanh", "mish", "softplus")],
    ("elu", {"alpha": 0.3}, ((7,),)), ("hardtanh", {"min_val": -0.7, "max_val": 1.3}, ((7,),)),
    ("softplus", {"beta": 2.0, "threshold": 1.5}, (IMAGE,)), ("normalize", {}, (IMAGE,)), ("normalize", {}, ((7,),)),
    ("normalize", {"dim": 3}, (IMAGE,)), ("normalize", {"dim": (1, 2, 3), "eps": 1e-3}, (IMAGE,)),
    *[(name, {}, pair) for name in ("maximum", "minimum") for pair in PAIRS],
    *[("pad", {"pad": sides, "mode": mode}, (shape,)) for mode in ("constant", "reflect", "replicate")
      for sides, shape in (((2, 0, 1, 3), IMAGE), ((0, 3), (7,)))],
    ("pad", {"pad": (1, 2)}, (IMAGE,)),
    ("pad", {"pad": (-1, 2, 1, -2), "value": 1.5}, (IMAGE,)), ("pad", {"pad": (1, 1), "value": -2.0}, ((7,),)),
    *[("interpolate", {"mode": "nearest", **how}, (IMAGE,)) for how in (
        {"scale_factor": 2}, {"size": (7, 3)}, {"scale_factor": (1.7, 0.6)}, {"size": 1},
        {"scale_factor": (1.1, 2.1)})],
    *[("interpolate", {"mode": "bilinear", "align_corners": align, **how}, (IMAGE,)) for align in (False, True)
      for how in ({"scale_factor": 2}, {"size": (7, 3)}, {"scale_factor": (1.7, 0.6)}, {"size": 1}, {"size": (4, 5)},
                  {"scale_factor": 1.1})],
    ("pixel_shuffle", {"upscale_factor": 2}, ((8, 2, 3),)), ("pixel_shuffle", {"upscale_factor": 3}, ((18, 2, 1),)),
    ("pixel_unshuffle", {"downscale_factor": 2}, ((5, 4, 6),)), ("channel_shuffle", {"groups": 2}, ((6, 2, 3),)),
    ("channel_shuffle", {"groups": 4}, ((36, 2, 1),)),
    ("permute", {"dims": (0, 3, 1, 2)}, ((18, 3, 2),)), ("permute", {"dims": (0, -1, 1)}, ((4, 20),)),
    ("transpose", {"dim0": 1, "dim1": -1}, ((18, 3, 2),)), ("transpose", {"dim0": -1, "dim1": 1}, ((4, 20),)),
    ("unsqueeze", {"dim": 1}, ((20,),)), ("unsqueeze", {"dim": -1}, ((4, 20),)), ("squeeze", {}, ((1, 20, 1),)),
    ("matmul", {}, ((5, 7), (7, 6))), ("matmul", {}, ((3, 5, 2), (3, 2, 9))), ("matmul", {}, ((18, 6, 1), (18, 1, 3))),
    ("bmm", {}, ((4, 3), (3, 4))), ("squeeze", {"dim": 1}, ((1, 20, 1),)),
    ("squeeze", {"dim": (1, 2, -1)}, ((1, 20, 1),)),
]


@pytest.mark.parametrize("name, options, shapes", FUNCTIONS)
def test_functions(name, options, shapes, torch):
    theirs = getattr(torch.nn.functional, name, None) or getattr(torch, name)
    xs = [2.4 * x for x in inputs(*shapes)]     # beyond the kinks at 3 and 6
    model = module(lambda self, *xs: getattr(F, name)(*xs, **options))
    got, wanted = of_both(torch, model, twin_of(torch, lambda self, *xs: theirs(*xs, **options)), xs)
    assert_all_close(got, wanted, PYTORCH.get(name))
    assert_all_close([getattr(F, name)(*xs, **options)], got[:1])
    graph = graph_of(model, shapes, np.dtype(np.float64))
    assert_all_close(got, by_twins(graph, xs, [standard_normal(5, *got[0].shape[1:])]))

    def loss():
        return (model(*xs) * standard_normal(5, *got[0].shape[1:])).sum()
    for gradient, x in zip(got[1:], xs, strict=True):
        assert_gradient(gradient, loss, x)


@pytest.mark.parametrize("call, error, words", [
    (lambda x: F.permute(x, (1, 0, 2, 3)), ValueError, r"permute: dims must be all axes .*first, got \(1, 0, 2, 3\)"),
    (lambda x: F.permute(x, 0), TypeError, "permute: dims must be"),
    (lambda x: F.permute(x, (0, 1, 2, "3")), TypeError, "permute: dims must be an integer, got '3'"),
    (lambda x: F.permute(None, (0, 1)), TypeError, "permute: x must be"),
    (lambda x: F.transpose(x, 0, 1), ValueError, "transpose: dim must not be that of the images, 0, got 0"),
    (lambda x: F.transpose(x, 1, 4), ValueError, "transpose: dim must be .*got 4"),
    (lambda x: F.transpose(x, 1, None), TypeError, "transpose: dim1 must be an integer, got None"),
    (lambda x: F.squeeze(x, 0), ValueError, r"squeeze: dim must not be that of the images, 0, got"),
    (lambda x: F.squeeze(x, 1.5), TypeError, "squeeze: dim must be an integer, got 1.5"),
    (lambda x: F.squeeze([1]), TypeError, "squeeze: x must be a NumPy array"),
    (lambda x: F.unsqueeze(x[0], 0), ValueError, "unsqueeze: dim must not be that of the images, 0, got 0"),
    (lambda x: F.unsqueeze(x, 1), ValueError, "unsqueeze: what is returned must have at most 4 axes"),
    (lambda x: F.unsqueeze(x[0], True), TypeError, "unsqueeze: dim must be an integer, got True")])
def test_functions_of_axes_refuse(call, error, words):
    with pytest.raises(error, match=words):
        call(np.ones((2, 3, 4, 5)))


def attention(self, x):
    """Self-attention of the pixels of a map, as one writes it in PyTorch (Zhang et al. 2019)."""
    q, k, v = self.q(x).flatten(2), self.k(x).flatten(2), self.v(x).flatten(2)
    share = (q.transpose(1, 2) @ k * 3**-0.5).softmax(-1)
    return x + self.gain * (v @ share.transpose(1, 2)).view(x.size(0), -1, x.size(2), x.size(3))


@pytest.mark.parametrize("n", [2, 19])
def test_attention(n, torch):
    gain = np.array([0.7])
    model = module(attention, **{name: cnn.Conv2d(6, outputs, 1, seed=i) for i, (name, outputs) in enumerate(
        (("q", 3), ("k", 3), ("v", 6)))}, gain=cnn.Parameter(gain)).to(np.float64)
    twin = twin_of(torch, attention, gain=gain)
    for name in "qkv":
        twin.add_module(name, torch.nn.Conv2d(6, getattr(model, name).weight.shape[0], 1))
    twin.double().load_state_dict({name: torch.tensor(array) for name, array in model.state_dict().items()})
    xs = inputs((6, 4, 5), n=n)
    got, wanted = of_both(torch, model, twin, xs)
    assert_all_close(got, wanted, 1e-10)
    graph = graph_of(model, [(6, 4, 5)], np.dtype(np.float64))
    assert sum(each.operation.name == "permute" for each in graph) == 2
    assert_all_close(got[:2], by_twins(graph, xs, [standard_normal(*got[0].shape)])[:2])


def test_the_method_prelu(torch):
    weight, xs = np.array([0.5, -0.25, 2]), inputs(IMAGE)
    model = module(lambda self, x: x.prelu(self.w), w=cnn.Parameter(weight))
    assert_all_close(*of_both(torch, model, twin_of(torch, lambda self, x: x.prelu(self.w), w=weight), xs))


@pytest.mark.parametrize("mode, align", [("nearest", None), ("bilinear", False), ("bilinear", True)])
def test_resampled_by_factors_that_give_no_whole_size(mode, align, torch):
    """Where the size stays, elements are copied, and nearest copies each one twice where it doubles, whatever the
    factor."""
    for n in range(1, 10):
        x = standard_normal(2, 1, n, 10 - n)
        for factor in [f / 10 for f in range(5, 34) if min(n, 10 - n) * f >= 10]:
            layer = cnn.Upsample(scale_factor=factor, mode=mode, align_corners=align)
            y = layer(x)
            t = torch.tensor(x, requires_grad=True)
            wanted = torch.nn.functional.interpolate(t, scale_factor=factor, mode=mode, align_corners=align)
            dy = standard_normal(*y.shape, seed=1)
            wanted.backward(torch.tensor(dy))
            assert_all_close([y, layer.backward(dy)], [wanted.detach().numpy(), t.grad.numpy()])


def test_resampled_to_the_same_size_or_twice_as_large():
    x = np.arange(4, dtype=np.float32).reshape(1, 1, 2, 2)
    for mode in ("nearest", "bilinear"):
        assert_same_bits([cnn.Upsample(scale_factor=1.1, mode=mode)(x), F.interpolate(x, scale_factor=1.4, mode=mode)],
                         [x, x])
    assert_same_bits([cnn.Upsample(scale_factor=2.3)(x)], [x.repeat(2, axis=2).repeat(2, axis=3)])


@pytest.mark.parametrize("condition, a, b", [
    (IMAGE, IMAGE, IMAGE), (PIXEL, IMAGE, ROW), (IMAGE, PIXEL, COLUMN), (ROW, COLUMN, PIXEL), ((7,), (1,), (7,))])
def test_where(condition, a, b, torch):
    xs = inputs(condition, a, b)
    model = module(lambda self, c, a, b: F.where(c > 0.1, a, b) * 2 + F.where(c, 1.5, b) + F.where(c < 0, b, -2))
    got, wanted = of_both(torch, model, twin_of(torch, lambda self, c, a, b: torch.where(c > 0.1, a, b) * 2
                          + torch.where(c != 0, torch.tensor(1.5, dtype=b.dtype), b)
                          + torch.where(c < 0, b, torch.tensor(-2.0, dtype=b.dtype))), xs)
    assert not got[1].any()
    assert_all_close(got, [wanted[0], np.zeros_like(xs[0]), *wanted[2:]])
    graph = graph_of(model, (condition, a, b), np.dtype(np.float64))
    assert_all_close(got, by_twins(graph, xs, [standard_normal(*got[0].shape)]))


@pytest.mark.parametrize("shapes, dim", [
    (((3, 4, 5), (3, 2, 5)), 2), (((3, 4, 5), (3, 4, 1), (3, 4, 2)), -1), (((18, 4, 5), (2, 4, 5)), 1),
    (((7,), (2,)), -1), (((20, 3, 2), (20, 1, 2)), 2)])
def test_cat_along_any_axis(shapes, dim, torch):
    got, wanted = of_both(torch, module(lambda self, *xs: cnn.cat(xs, dim)),
                          twin_of(torch, lambda self, *xs: torch.cat(xs, dim)), inputs(*shapes))
    assert_all_close(got, wanted)
    graph = graph_of(module(lambda self, *xs: cnn.cat(xs, dim)), shapes, np.dtype(np.float64))
    assert_all_close(got, by_twins(graph, inputs(*shapes), [standard_normal(*got[0].shape)]))


@pytest.mark.parametrize("pick", [lambda x: x, lambda x: x[:, 0], lambda x: x[:, 0, 0], lambda x: x[:, 0, 0, 0]])
def test_stack(pick, torch):
    xs = inputs(IMAGE, IMAGE)
    dims = range(1, pick(np.zeros((1, *IMAGE))).ndim + 1)
    for dim in dims:
        if pick(np.zeros((1, *IMAGE))).ndim == 4:
            with pytest.raises(ValueError, match="what is returned must have at most 4 axes"):
                module(lambda self, x, y: F.stack([x, y]))(*xs)

        def compute(lib, x, y, dim=dim):
            z = lib.stack([pick(x), pick(y), pick(x)], dim)
            return z if z.ndim < 5 else z.flatten(3)
        got, wanted = of_both(torch, module(lambda self, x, y, compute=compute: compute(F, x, y)),
                              twin_of(torch, lambda self, x, y, compute=compute: compute(torch, x, y)), xs)
        assert_all_close(got, wanted)


def test_ties_share_the_gradient_as_in_pytorch(torch):
    a, b = np.array([[1.0, 2, 3, 3, 0]]), np.array([[1.0, 3, 2, 3, 0]])
    for function in ("maximum", "minimum"):
        got, wanted = of_both(torch, module(lambda self, a, b, f=function: getattr(F, f)(a, b)),
                              twin_of(torch, lambda self, a, b, f=function: getattr(torch, f)(a, b)), [a, b])
        assert_all_close(got, wanted)
    for function in ("amax", "amin"):
        for n in (1, 16):
            x = np.tile(a, (n, 1)).reshape(n, 5, 1, 1)
            got, wanted = of_both(torch, module(lambda self, x, f=function: getattr(x, f)((1, 2))),
                                  twin_of(torch, lambda self, x, f=function: getattr(x, f)((1, 2))), [x])
            assert_all_close(got, wanted)


@pytest.mark.parametrize("n", [1, 3, 16, 17])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_nan_and_infinity_stay_where_they_are(n, dtype):
    x = np.random.default_rng(0).standard_normal((n, 19, 2, 3)).astype(dtype)
    x[0, 3, 0, 1], x[-1, 17, 1, 2] = np.nan, np.inf
    with np.errstate(all="ignore"):
        for got, wanted in (
                (F.amax(x, 1), x.max(1)), (F.amin(x, (1, 2)), x.min((1, 2))), (F.sum(x), x.sum((1, 2, 3))),
                (F.maximum(x, 0.0), np.maximum(x, 0)), (F.minimum(x, 1.0), np.minimum(x, 1)), (F.exp(x), np.exp(x)),
                (F.log(x), np.log(x)), (F.sqrt(x), np.sqrt(x)), (F.clamp(x, -1, 1), np.clip(x, -1, 1)),
                (F.relu6(x), np.clip(x, 0, 6)), (F.pow(x, -1), 1 / x), (F.abs(x), np.abs(x)),
                (F.softplus(x), np.logaddexp(x, 0)), (F.where(x, x, 1.0), x)):
            np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5)
        shares = np.exp(x - x.max(1, keepdims=True))
        shares /= shares.sum(1, keepdims=True)
        np.testing.assert_allclose(F.softmax(x, 1), shares, rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(F.log_softmax(x, 1), np.log(shares), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("n", [1, 17])
@pytest.mark.parametrize("channels", [1, 2, 15, 16, 17, 31, 40])
def test_any_number_of_channels(channels, n):
    """All below 0, and above 0: a lane without a channel is neither the largest nor the smallest."""
    positive = np.random.default_rng(0).uniform(1, 2, (n, channels, 2, 3))
    for x in (positive, -positive):
        shares = np.exp(x) / np.exp(x).sum(1, keepdims=True)
        for got, wanted in ((F.amax(x, 1), x.max(1)), (F.amin(x, 1), x.min(1)), (F.sum(x, 1), x.sum(1)),
                            (F.softmax(x, 1), shares), (F.log_softmax(x, 1), np.log(shares))):
            np.testing.assert_allclose(got, wanted, rtol=1e-13)


class Leaking(cnn.Module):
    """Functions that make of 0 something else, and layers that sum over images: what they make of lanes and channels
    that hold nothing must not reach the sums."""

    def __init__(self):
        super().__init__()
        self.conv = cnn.Conv2d(5, 21, 3, padding=1, seed=0)
        self.norm = cnn.BatchNorm2d(21)
        self.prelu = cnn.PReLU(21)
        self.head = cnn.Linear(21, 3, seed=1)

    def forward(self, x):
        x = self.norm(self.conv((x * x).log() + 1 / x))
        x = self.prelu(x).exp() + F.softplus(x) - (x.abs() ** -0.5).clamp(max=3)
        x = F.normalize(x) * x.softmax(2) + (x.sigmoid() if hasattr(x, "sigmoid") else x) / x.amax(1, keepdim=True)
        return self.head(x.mean((2, 3)).abs().sqrt()).log_softmax(1)


@pytest.mark.parametrize("n", range(1, 18))
def test_empty_lanes_do_not_leak_into_sums(n):
    model = Leaking().to(np.float64)
    rng = np.random.default_rng(n)
    x, dy = rng.uniform(0.5, 2, (n, 5, 4, 3)), rng.standard_normal((n, 3))
    spoilt = np.full((33, 5, 4, 3), np.nan)     # leftovers of a larger batch
    model(spoilt)
    model(spoilt[:8])
    y, dx = model(x), model.backward(dy)
    graph = graph_of(model, [(5, 4, 3)], np.dtype(np.float64))
    wanted = by_twins(graph, [x], [dy])
    assert_all_close([y, dx], wanted[:2], 1e-8)
    for p in model.parameters():
        assert np.isfinite(p.grad).all()


@pytest.mark.parametrize("name", ["relu", "leaky_relu", "tanh", "sigmoid", "silu", "gelu", "softmax", "log_softmax"])
@pytest.mark.parametrize("shape", [IMAGE, (7,)])
def test_activations(name, shape, torch):
    more = {"dim": 1} if "softmax" in name else {}
    model = module(lambda self, x: getattr(F, name)(x, **more))
    got, wanted = of_both(torch, model, twin_of(torch, lambda self, x: getattr(torch.nn.functional, name)(x, **more)),
                          inputs(shape))
    assert_all_close(got, wanted)
    graph = graph_of(model, [shape], np.dtype(np.float64))
    assert_all_close(got, by_twins(graph, inputs(shape), [standard_normal(5, *shape)]))


@pytest.mark.parametrize("name, options", [
    ("max_pool2d", {"kernel_size": 2}), ("max_pool2d", {"kernel_size": 3, "stride": 1, "padding": 1}),
    ("avg_pool2d", {"kernel_size": 2, "ceil_mode": True}), ("avg_pool2d", {"kernel_size": 3, "padding": 1,
                                                                          "count_include_pad": False}),
    ("adaptive_avg_pool2d", {"output_size": (2, 3)}), ("adaptive_max_pool2d", {"output_size": 2})])
def test_pools(name, options, torch):
    got, wanted = of_both(torch, module(lambda self, x: getattr(F, name)(x, **options)),
                          twin_of(torch, lambda self, x: getattr(torch.nn.functional, name)(x, **options)),
                          inputs(IMAGE))
    assert_all_close(got, wanted)


@pytest.mark.parametrize("name, shapes, call", [
    ("linear", {"w": (2, 60), "b": (2,)}, lambda f, m, x: f.linear(x.flatten(1), m.w, m.b)),
    ("conv2d", {"w": (6, 1, 3, 2), "b": (6,)}, lambda f, m, x: f.conv2d(x, m.w, m.b, padding=1, groups=3)),
    ("conv_transpose2d", {"w": (3, 2, 3, 2), "b": (6,)}, lambda f, m, x: f.conv_transpose2d(
        x, m.w, m.b, stride=2, padding=1, output_padding=1, groups=3)),
    ("batch_norm", {"w": (3,), "b": (3,)}, lambda f, m, x: f.batch_norm(x, None, None, m.w, m.b, True))])
@pytest.mark.parametrize("kind", ["parameters", "arrays"])
def test_functions_with_weights(name, shapes, call, kind, torch):
    arrays = {key: standard_normal(*shape, seed=i) for i, (key, shape) in enumerate(shapes.items())}
    given = {key: cnn.Parameter(a) if kind == "parameters" else a for key, a in arrays.items()}
    model = module(lambda self, x: call(F, self, x), **given)
    got, wanted = of_both(torch, model, twin_of(torch, lambda self, x: call(torch.nn.functional, self, x), **arrays),
                          inputs(IMAGE))
    assert_all_close(got, wanted[:len(got)])
    before = model(*inputs(IMAGE))
    for key in shapes:
        (given[key].data if kind == "parameters" else given[key])[...] *= 2
    assert np.abs(model(*inputs(IMAGE)) - before).max() > 0.1      # looked at in each run


@pytest.mark.parametrize("shape", [(3, 1, 1), (1, 3, 1, 1), (3, 4, 5), (1, 3, 4, 5), (5,), (1,), (), (4, 1)])
@pytest.mark.parametrize("kind", ["parameter", "array"])
def test_parameters_and_arrays_as_operands(shape, kind, torch):
    p = np.random.default_rng(3).uniform(0.5, 2, shape)

    def function(self, x):
        return ((x + self.p) * self.p - self.p) / self.p, self.p / (x * x + 1), self.p - x, self.p * x, self.p + x
    model = module(function, p=cnn.Parameter(p) if kind == "parameter" else p)
    got, wanted = of_both(torch, model, twin_of(torch, function, p=p), inputs(IMAGE))
    assert_all_close(got, wanted[:len(got)])
    if kind == "parameter":
        xs, dys = inputs(IMAGE), [np.ones_like(y) for y in got[:5]]
        model.backward(tuple(dys))
        assert_gradient(model.p.grad.copy(), lambda: sum(y.sum() for y in model(*xs)), model.p.data)


def test_cat(torch):
    def function(c):
        return lambda self, x, y: (c([x, y, x], 1), c([x.flatten(1), y[:, :1].flatten(1)], 1))
    got, wanted = of_both(torch, module(function(cnn.cat)), twin_of(torch, function(torch.cat)),
                          inputs(IMAGE, (2, 4, 5)))
    assert_all_close(got, wanted)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_folding_has_its_twin(dtype):
    norm, conv = cnn.BatchNorm2d(4, dtype=dtype), cnn.Conv2d(3, 4, 3, dtype=dtype)
    for i, array in enumerate((norm.running_mean, norm.running_var, norm.weight.data, norm.bias.data)):
        array[...] = np.random.default_rng(i).uniform(0.5, 2, 4)
    x = standard_normal(3, *IMAGE).astype(dtype)
    w, b = reference.fold(conv.weight.data, conv.bias.data, norm.running_mean, norm.running_var, norm.weight.data,
                          norm.bias.data, norm.eps)
    assert_all_close([cnn.Sequential(conv, norm).eval()(x)], [reference.conv2d(x, w, b)])


# ------------------------------------------------------------------------------------------ random networks


@pytest.mark.thorough
@pytest.mark.parametrize("seed", range(120))
def test_random_networks(seed, torch):
    """Against the same steps in PyTorch, what to_torch writes, and the twins."""
    model, n = ours(seed), SIZES[seed % len(SIZES)]
    xs = [standard_normal(n, 3, 4, 4, seed=seed + i) for i in (0, 1)]
    graph = graph_of(model, [(3, 4, 4)] * 2, np.dtype(np.float64))
    assert np.isfinite(n) and len(graph) >= 3
    exported = cnn_to_torch(model)
    got, wanted = of_both(torch, model, theirs(torch, seed, model), xs, seed=seed)
    assert_all_close(got, wanted)
    rng = np.random.default_rng(seed)
    by_twin = by_twins(graph, xs, [rng.standard_normal(y.shape) for y in got[:len(graph.outputs)]])
    assert_all_close(got[:len(by_twin)], by_twin)
    assert_all_close(got[:len(graph.outputs)], [y.detach().numpy() for y in exported(*map(torch.tensor, xs))])
    if seed % 4 == 0:
        model.eval()
        twin = theirs(torch, seed, model).eval()
        assert_all_close(model(*xs), [y.detach().numpy() for y in twin(*map(torch.tensor, xs))])


def cnn_to_torch(model):
    from cnn.export import to_torch
    return to_torch(model, (3, 4, 4), (3, 4, 4))


@pytest.mark.parametrize("seed", range(0, 120, 12))
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_random_networks_give_the_same_bits_on_any_number_of_threads(seed, dtype, set_threads):
    model = ours(seed).to(dtype)
    xs = [standard_normal(70, 3, 4, 4, seed=i).astype(dtype) for i in (0, 1)]

    def results():
        ys = model(*xs)
        return [*ys, *model.backward(tuple([np.cos(y) for y in ys])), *(p.grad.copy() for p in model.parameters())]
    set_threads(1)
    wanted = results()
    for threads in (2, 3, 4):
        set_threads(threads)
        assert_same_bits(results(), wanted)


def test_a_gradient_that_goes_to_two_values_is_not_written_over(torch):
    """Where the first of them added it up with another, the second got the sum."""
    def function(tanh, sigmoid, c):
        def forward(self, x):
            u, v = tanh(x), sigmoid(x)
            return c([x + u, x + v], 1)
        return forward
    got, wanted = of_both(torch, module(function(F.tanh, F.sigmoid, cnn.cat)),
                          twin_of(torch, function(torch.tanh, torch.sigmoid, torch.cat)), inputs(IMAGE))
    assert_all_close(got, wanted)


# ------------------------------------------------------------------------------------------ lanes without an image


class Dividing(cnn.Module):
    """What would be NaN where there is no image, followed by what would carry it to all others."""

    def __init__(self):
        super().__init__()
        self.norm, self.conv, self.head = cnn.BatchNorm2d(3), cnn.Conv2d(3, 4, 3, padding=1), cnn.Linear(4, 2)
        self.p = cnn.Parameter(np.full((3, 1, 1), 0.5, np.float32))

    def forward(self, x):
        y = x / x.mean((2, 3), keepdim=True) + 1 / x
        y = self.norm(y * self.p) + self.p / (x * self.p)
        return self.head(self.conv(y).sum((2, 3)))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n", [0, *SIZES])
def test_lanes_without_an_image_stay_zero(n, dtype):
    model = Dividing().to(dtype)
    x = np.random.default_rng(0).uniform(1, 2, (48, 3, 4, 4)).astype(dtype)
    model(x), model.backward(np.ones((48, 2), dtype))       # leaves numbers in all lanes
    y = model(x[:n])
    dx = model.backward(np.ones((n, 2), dtype))
    assert y.shape == (n, 2) and dx.shape == x[:n].shape
    assert all(np.isfinite(a).all() for a in (y, dx, *(p.grad for p in model.parameters())))
    if n == 0:
        assert not any(p.grad.any() for p in model.parameters())
    else:
        other = Dividing().to(dtype)
        other(x[:n])
        assert_same_bits([other.backward(np.ones((n, 2), dtype))], [dx])


def test_huge_biases_in_lanes_without_an_image():
    model = cnn.Sequential(cnn.Conv2d(1, 2, 1), module(lambda self, x: x * x * (x * x)), cnn.Conv2d(2, 2, 3))
    model[0].weight.data[...], model[0].bias.data[...] = -1e20, 1e20
    y = model(np.ones((1, 1, 4, 4), np.float32))
    model.backward(np.ones_like(y))
    assert all(np.isfinite(p.grad).all() for p in model.parameters())


def test_zero_times_what_is_not_finite():
    x = np.array([[1.0, np.nan], [np.inf, -2.0]])
    y = module(lambda self, x: (0 * x, x * 0 + 3))(x)
    np.testing.assert_array_equal(y, [[[0, np.nan], [np.nan, 0]], [[3, np.nan], [np.nan, 3]]])


# ------------------------------------------------------------------------------------------ passes


def operations(model, *shapes):
    return [" + ".join([node.operation.name, *node.operation.fused]) for node in model.graph(*shapes)]


C, N, R, P = cnn.Conv2d(3, 3, 3, padding=1), cnn.BatchNorm2d(3), cnn.ReLU(), cnn.MaxPool2d(2)
T = cnn.ConvTranspose2d(3, 3, 2, stride=2)


@pytest.mark.parametrize("forward, training, evaluation", [
    (lambda x: R(C(x)), ["conv2d + relu"], None),
    (lambda x: P(R(C(x))), ["conv2d + relu + max_pool2d"], None),
    (lambda x: P(C(x)), ["conv2d + max_pool2d"], None),
    (lambda x: R(P(C(x))), ["conv2d + max_pool2d", "relu"], None),
    (lambda x: R(N(C(x))), ["conv2d", "batch_norm + relu"], ["conv2d + batch_norm + relu"]),
    (lambda x: P(R(N(C(x)))), ["conv2d", "batch_norm", "relu + max_pool2d"],
     ["conv2d + batch_norm + relu + max_pool2d"]),
    (lambda x: N(R(C(x))), ["conv2d + relu", "batch_norm"], None),
    (lambda x: R(T(x)), ["conv_transpose2d + relu"], None),
    (lambda x: P(R(T(x))), ["conv_transpose2d", "relu + max_pool2d"], None),
    (lambda x: R(x + C(x)), ["conv2d", "add + relu"], None),
    (lambda x: R(x - C(x)), ["conv2d", "subtract", "relu"], None),
    (lambda x: (lambda y: R(y) + y)(C(x)), ["conv2d", "relu", "add"], None),        # read twice
    (lambda x: (lambda y: N(y) + y)(C(x)), ["conv2d", "batch_norm", "add"], None),
    (lambda x: (lambda y: (R(y), y))(C(x)), ["conv2d", "relu"], None),              # an output
    (lambda x: (lambda y: (P(y), y))(R(C(x))), ["conv2d + relu", "max_pool2d"], None),
    (lambda x: (C(x), x)[1] * 2, ["affine"], None),                                 # read by nobody
    (lambda x: (N(x), x)[1] * 2, ["batch_norm", "affine"], ["affine"]),             # but this has effects
    (lambda x: N(N(C(x))), ["conv2d", "batch_norm", "batch_norm"], ["conv2d + batch_norm", "batch_norm"]),
], ids=lambda value: "" if callable(value) else str(value))
def test_what_is_fused(forward, training, evaluation):
    model = module(lambda self, x: forward(x), c=C, n=N, r=R, p=P, t=T)
    assert sorted(operations(model.train(), (3, 4, 4))) == sorted(training)
    assert sorted(operations(model.eval(), (3, 4, 4))) == sorted(evaluation or training)


def test_folding_and_fusing_change_nothing():
    rng, x = np.random.default_rng(0), standard_normal(18, 3, 6, 6)
    model = cnn.Sequential(cnn.Conv2d(3, 5, 3, padding=1, bias=False), cnn.BatchNorm2d(5), cnn.ReLU(), cnn.MaxPool2d(2),
                           cnn.Conv2d(5, 4, 1), cnn.BatchNorm2d(4, affine=False)).to(np.float64)
    arrays = [p.data for p in model.parameters()] + [b for _, b in model.named_buffers() if b.dtype == np.float64]
    apart = module(lambda self, x: [x := layer(x) for layer in self.layers], layers=model.layers)

    def check():
        assert_all_close([model(x)], apart(x)[-1:])
    for net in (model, apart):
        net.eval()
    assert operations(model, (3, 6, 6)) == ["conv2d + batch_norm + relu + max_pool2d", "conv2d + batch_norm"]
    assert len(operations(apart, (3, 6, 6))) == 6       # all are outputs
    check()
    for array in arrays:        # written in place: the next call sees it
        before = model(x)
        array[...] = rng.uniform(0.5, 1.5, array.shape)
        assert np.abs(model(x) - before).max() > 1e-3
        check()


def test_backward_does_nothing_before_the_first_that_learns():
    """By the kernels of the compiled phase."""
    model = cnn.Sequential(cnn.Conv2d(1, 3, 3), cnn.ReLU(), cnn.Conv2d(3, 3, 3), cnn.Flatten(), cnn.Linear(12, 2))
    x, dy = np.ones((9, 1, 6, 6), np.float32), np.ones((9, 2), np.float32)

    def kernels(need_dx=False):
        model(x)
        model.backward(dy, need_dx)
        program = model._last.programs[0]
        phase = next(name for name in reversed(program.phases()) if name != "forward")
        return {op["kernel"] for op in inspecting.operations(program, phase)}
    everything = kernels(True)
    assert model[0].requires_grad_(False) is model[0] and model[2].requires_grad_(False) is model[2]
    last = kernels()
    assert last < everything and not any(word in kernel for kernel in last for word in ("conv", "relu", "correlate"))
    model[2].requires_grad_()
    assert "relu_backward" not in kernels() and len(kernels()) > len(last)
    model.requires_grad_(False)
    assert "relu_backward" in kernels(True)
    model[4].weight.requires_grad = True
    assert model[4].requires_grad_(True).bias.requires_grad
