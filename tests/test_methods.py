"""Methods of values that are made of others, and functions: numbers by NumPy, gradients by central differences, and
PyTorch's own of the same text."""
import numpy as np
import pytest
from cases import Function, assert_close

import cnn
from cnn import functional as F
from cnn.engine import backend
from cnn.layers.graph_module import graph_module


def lse(x, axis, keepdims=False):
    return np.log(np.exp(x).sum(axis, keepdims=keepdims))


# ours and PyTorch's, NumPy's; of x (N, 4, 3, 5)
CASES = {
    "add, sub": (lambda x: x.add(x, alpha=2).sub(x.square(), alpha=0.5), lambda x: 3 * x - x * x / 2),
    "mul, div": (lambda x: x.mul(3).div(x.square().add(1)).neg(), lambda x: -3 * x / (x * x + 1)),
    "comparisons": (
        lambda x: x.mul(x.gt(0)) + x.ge(1) * x + x.lt(0) * 2 - x.le(-1) * x + x.relu().eq(0) - 1 * x.relu().ne(0),
        lambda x: x * (x > 0) + (x >= 1) * x + (x < 0) * 2 - (x <= -1) * x + (x <= 0) - 1.0 * (x > 0)),
    "roots": (lambda x: x.square().add(1).rsqrt() + x.exp().reciprocal(),
              lambda x: 1 / np.sqrt(x * x + 1) + np.exp(-x)),
    "turns": (lambda x: x.sin() * (3 * x).cos(), lambda x: np.sin(x) * np.cos(3 * x)),
    "sign": (lambda x: x.sign() * x, lambda x: np.sign(x) * x),
    "lerp": (lambda x: x.lerp(x.square(), 0.3), lambda x: 0.7 * x + 0.3 * x * x),
    "masked_fill": (lambda x: x.masked_fill(x > 0.5, -2.0), lambda x: np.where(x > 0.5, -2.0, x)),
    "clamped": (lambda x: x.clamp_min(-0.5).clamp_max(1.5) + x.clip(-1, 1),
                lambda x: x.clip(-0.5, 1.5) + x.clip(-1, 1)),
    "var": (lambda x: x.var((2, 3), keepdim=True) * x.var(1, unbiased=False, keepdim=True),
            lambda x: x.var((2, 3), keepdims=True, ddof=1) * x.var(1, keepdims=True)),
    "var of one": (lambda x: x.var(dim=-1, correction=2), lambda x: x.var(-1, ddof=2)),
    "std": (lambda x: (x - x.mean((2, 3), keepdim=True)) / x.std((2, 3), keepdim=True),
            lambda x: (x - x.mean((2, 3), keepdims=True)) / x.std((2, 3), keepdims=True, ddof=1)),
    "norm": (lambda x: x.norm(dim=1) + x.norm(1, dim=1) + x.norm(p=3, dim=1),
             lambda x: np.sqrt((x * x).sum(1)) + abs(x).sum(1) + (abs(x) ** 3).sum(1) ** (1 / 3)),
    "largest norm": (lambda x: x.norm(float("inf"), (2, 3), True), lambda x: abs(x).max((2, 3), keepdims=True)),
    "logsumexp": (lambda x: x.logsumexp(1) + (100 * x).logsumexp((1,)) / 100,
                  lambda x: lse(x, 1) + lse(100 * x, 1) / 100),
    "logsumexp of axes": (lambda x: x.logsumexp((2, 3), keepdim=True), lambda x: lse(x, (2, 3), True)),
    "parts": (lambda x: x.select(1, 2) + x.select(-3, -1) + x.narrow(1, 1, 2).unbind(1)[0],
              lambda x: x[:, 2] + x[:, -1] + x[:, 1]),
    "flip": (lambda x: x.flip(2) + x.flip((1, 3)) + x.flip(-1, 2), lambda x: np.flip(x, 2) + np.flip(x, (1, 3))
             + np.flip(x, (3, 2))),
    "roll": (lambda x: x.roll(2, 1) + x.roll((1, -2), (2, 3)),
             lambda x: np.roll(x, 2, 1) + np.roll(x, (1, -2), (2, 3))),
    "repeat": (lambda x: x.repeat(1, 2, 1, 3), lambda x: np.tile(x, (1, 2, 1, 3))),
    "repeat_interleave": (lambda x: x.repeat_interleave(2, dim=2), lambda x: x.repeat(2, 2)),
    "shapes": (lambda x: x.mean(1).unflatten(1, (3, -1)).swapaxes(1, 3).view_as(x[:, :1].transpose(1, 3)).mT,
               lambda x: x.mean(1)[:, :, None].swapaxes(1, 3)),
    "max of an axis": (lambda x: x.max(1)[0] + x.max(dim=-1, keepdim=True).values.max(1)[0] * x.min(1).values,
                       lambda x: x.max(1) + x.max((1, 3), keepdims=True)[:, 0] * x.min(1)),
    "max of two": (lambda x: x.max(x.square()).min(x.exp()), lambda x: np.minimum(np.maximum(x, x * x), np.exp(x))),
    "logarithms": (lambda x: x.square().log1p() + x.expm1() + x.exp().log2() + x.exp().log10(),
                   lambda x: np.log1p(x * x) + np.expm1(x) + x / np.log(2) + x / np.log(10)),
    "cumsum": (lambda x: x.cumsum(1) + x.cumsum(dim=-1) * x.cumsum(2),
               lambda x: x.cumsum(1) + x.cumsum(-1) * x.cumsum(2)),
    "triangles": (lambda x: x.tril() * 2 + x.triu(diagonal=1), lambda x: np.tril(x) * 2 + np.triu(x, 1)),
    "moved": (lambda x: x.movedim(1, 3) * x.moveaxis(1, -1) + x.permute(0, 2, 3, 1),
              lambda x: (x * x + x).transpose(0, 2, 3, 1)),
    "other names": (lambda x: x.absolute().multiply(2).subtract(1).divide(3).true_divide(2).negative() + x.tile(
        (1, 1, 1, 1)) + x[:, :1].broadcast_to(x.shape), lambda x: -(2 * abs(x) - 1) / 6 + x + x[:, :1]),
    "product": (lambda x: x[:, 0].mT.bmm(x[:, 0]), lambda x: x[:, 0].swapaxes(1, 2) @ x[:, 0]),
    "the same": (lambda x: x.clone().type_as(x), lambda x: x),
}


def assert_right(model, numpys, x, torch=None):
    y = model(x)
    assert_close(y, numpys(x), 1e-12)
    dy = np.random.default_rng(1).standard_normal(y.shape)
    dx, step = model.backward(dy), 1e-5
    for i in ((0,) * x.ndim, tuple(n - 1 for n in x.shape)):
        ends = [x.copy(), x.copy()]
        ends[0][i] += step
        ends[1][i] -= step
        assert dx[i] == pytest.approx(((numpys(ends[0]) - numpys(ends[1])) * dy).sum() / (2 * step), abs=1e-6)
    assert_close(graph_module(model, x.shape[1:])(x.astype(np.float32)), y, 1e-4)
    if torch is not None:
        t = torch.tensor(x, requires_grad=True)
        z = model.function(t)
        assert_close(y, z.detach().numpy(), 1e-12)
        z.backward(torch.tensor(dy))
        assert_close(dx, t.grad.numpy(), 1e-12)


@pytest.mark.parametrize("name", CASES)
def test_numbers_and_gradients(name):
    ours, numpys = CASES[name]
    assert_right(Function(ours), numpys, np.random.default_rng(0).standard_normal((2, 4, 3, 5)))


@pytest.mark.parametrize("name", CASES)
def test_pytorch_has_the_same(name, torch):
    ours, numpys = CASES[name]
    assert_right(Function(ours), numpys, np.random.default_rng(0).standard_normal((17, 4, 3, 5)), torch)


def test_a_length_of_nothing_has_no_slope():
    """As in PyTorch: where the root's is infinite, it counts as 0."""
    for function in (lambda x: x.norm(dim=1), lambda x: x.std(1), lambda x: x.norm(3, 1), lambda x: x.norm(0.5, 1)):
        model = Function(function)
        y = model(np.zeros((2, 3), np.float32))
        np.testing.assert_array_equal(y, 0)
        np.testing.assert_array_equal(model.backward(np.ones_like(y)), 0)


@pytest.mark.parametrize("p", [1, 2, 3, 10])
def test_nothing_is_divided_by_eps(p):
    model = Function(lambda x: F.normalize(x, p=p, eps=1e-3))
    assert not model(np.zeros((2, 3))).any()
    np.testing.assert_allclose(model.backward(np.ones((2, 3))), 1e3)


def test_infinite_numbers_have_a_logarithm_of_their_sum():
    x = np.array([[-np.inf, -np.inf], [1, np.inf], [-np.inf, 2], [1e30, 0]], np.float32)
    wanted = [-np.inf, np.inf, 2, 1e30]
    np.testing.assert_allclose(Function(lambda x: x.logsumexp(1))(x), wanted, rtol=1e-6)
    np.testing.assert_allclose(F.logsumexp(x, 1), wanted, rtol=1e-6)


def attended(q, k, v, mask=None, scale=None):
    scores = q @ k.swapaxes(-2, -1) * (scale or 1 / np.sqrt(q.shape[-1]))
    scores = scores if mask is None else np.where(mask, scores, -np.inf) if mask.dtype == bool else scores + mask
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True) @ v


RNG = np.random.default_rng(3)
BIAS, SEEN = RNG.standard_normal((5, 6)), RNG.random((5, 6)) > 0.3
SEEN[:, 0] = True


@pytest.mark.parametrize("heads", [(), (3,)])
@pytest.mark.parametrize("options, mask", [
    ({}, None), ({"scale": 0.4}, None), ({"attn_mask": BIAS}, BIAS), ({"attn_mask": SEEN}, SEEN),
    ({"is_causal": True}, np.tri(5, 6) > 0)])
def test_attention(heads, options, mask):
    q, k, v = (RNG.standard_normal((2, *heads, *size)) for size in ((5, 4), (6, 4), (6, 7)))
    wanted = attended(q, k, v, mask, options.get("scale"))
    assert_close(F.scaled_dot_product_attention(q, k, v, **options), wanted, 1e-12)

    class Attention(cnn.Module):
        def forward(self, q, k, v):
            return F.scaled_dot_product_attention(q, k, v, **options)
    assert_close(Attention()(q, k, v), wanted, 1e-12)


@pytest.mark.parametrize("options", [{}, {"scale": 0.4}, {"attn_mask": BIAS}, {"attn_mask": SEEN}, {"is_causal": True}])
def test_attention_is_pytorchs(options, torch):
    q, k, v = (RNG.standard_normal((2, 3, *size)) for size in ((5, 4), (6, 4), (6, 7)))
    given = {name: torch.tensor(x) if isinstance(x, np.ndarray) else x for name, x in options.items()}
    theirs = torch.nn.functional.scaled_dot_product_attention(*map(torch.tensor, (q, k, v)), **given)
    assert_close(F.scaled_dot_product_attention(q, k, v, **options), theirs.numpy(), 1e-12)


def test_masks_of_attention_that_are_values_and_that_hide_all():
    """A comparison is a mask of bools; where nothing may be attended to, there is nothing."""
    x = RNG.standard_normal((2, 5, 4))
    y = Function(lambda x: F.scaled_dot_product_attention(x, x, x, x @ x.transpose(1, 2) > 0))(x)
    assert_close(y, attended(x, x, x, x @ x.swapaxes(1, 2) > 0), 1e-12)
    y = Function(lambda x: F.scaled_dot_product_attention(x, x, x, x @ x.transpose(1, 2)))(x)
    assert_close(y, attended(x, x, x, x @ x.swapaxes(1, 2)), 1e-12)
    hidden = np.tri(5, k=-1) > 0
    y = F.scaled_dot_product_attention(x, x, x, hidden)
    assert not y[:, 0].any()
    assert_close(y[:, 1:], attended(x[:, 1:], x, x, hidden[1:]), 1e-12)
    assert_close(F.scaled_dot_product_attention(x, x, x, scale=0.0), np.repeat(x.mean(1, keepdims=True), 5, 1), 1e-12)


def test_functions_of_arrays():
    x = RNG.standard_normal((3, 6, 2))
    assert_close(F.logsumexp(x, 1), lse(x, 1), 1e-12)
    assert_close(F.logsumexp(x, (1, 2), keepdim=True), lse(x, (1, 2), True), 1e-12)
    assert_close(F.glu(x), x[..., :1] / (1 + np.exp(-x[..., 1:])), 1e-12)
    assert_close(F.glu(x, 1), x[:, :3] / (1 + np.exp(-x[:, 3:])), 1e-12)


@pytest.mark.parametrize("function, error, words", [
    (lambda x: x.std(0), ValueError, "dim must not be that of the images, 0, got 0: images stay apart"),
    (lambda x: x[:, :1].var(1), ValueError, "var: dim must be axes of more than 1 elements, got 1"),
    (lambda x: x.norm(0, dim=1), ValueError, "norm: p must be .*above 0"),
    (lambda x: x.repeat(2, 1, 1, 1), ValueError, "repeat: sizes must be 4 numbers of copies, of which the first"),
    (lambda x: x.narrow(1, 3, 2), ValueError, "narrow: length must be an integer from 1 to 1, got 2"),
    (lambda x: x.unbind(0), ValueError, "unbind: dim must not be that of the images"),
    (lambda x: x.narrow(0, 0, 1), ValueError, "narrow: dim must not be that of the images"),
    (lambda x: x.flip(1, 1), ValueError, "flip: dim must be different axes"),
    (lambda x: x.index_select(1, np.array([True, False])), TypeError, "index_select: index must be a list or an array"),
    (lambda x: x.masked_fill(x > 0, x), TypeError, "masked_fill: value must be a number"),
    (lambda x: x.unflatten(1, 4), TypeError, "unflatten: sizes must be a list of integers, got 4"),
    (lambda x: x.view_as(3), TypeError, "view_as: other must be a value, got int"),
    (lambda x: F.scaled_dot_product_attention(x, x, None), TypeError, "value must be a value or an array, got"),
    (lambda x: F.scaled_dot_product_attention(x, x, x, [[1]]), TypeError, "attn_mask must be an array or a value, got"),
    (lambda x: x.select(0, 1), ValueError, "select: dim must not be that of the images"),
    (lambda x: x.select(1, 4), ValueError, "4"),
    (lambda x: x.unflatten(1, (3, -1)), ValueError, r"unflatten: sizes must be those of 4 elements, got \(3, -1\)"),
    (lambda x: x.roll((1, 2), 1), ValueError, "roll: shifts and dims must be equally many"),
    (lambda x: F.glu(x, 2), ValueError, "glu: x must have an even size along the axis 2"),
    (lambda x: F.scaled_dot_product_attention(x, x, x, dropout_p=0.1), ValueError, "dropout_p must be 0, got 0.1: a"),
    (lambda x: F.scaled_dot_product_attention(x, x, x, BIAS, is_causal=True), ValueError, "attn_mask must be None"),
    (lambda x: F.scaled_dot_product_attention(x.mean((2, 3)), x, x), ValueError, "query must have shape"),
])
def test_what_is_refused(function, error, words):
    with pytest.raises(error, match=words):
        Function(function)(np.ones((2, 4, 3, 5)))


PLACES = {
    "argmax": (lambda x: x.argmax(1) + x.argmin(dim=2, keepdim=True).mean((1, 2), keepdim=True)[:, 0],
               lambda x: x.argmax(1) + x.argmin(2)[:, :, None].mean((1, 2), keepdims=True)[:, 0]),
    "indices": (lambda x: x.max(2).indices + x.min(-2)[1], lambda x: x.argmax(2) + x.argmin(2)),
    "logic": (lambda x: 1 * x.gt(0).logical_and(x < 1) + 2 * (x > 1).logical_or(x < -1) + 4 * x.relu().logical_not(),
              lambda x: 1.0 * ((x > 0) & (x < 1)) + 2 * (abs(x) > 1) + 4 * (x <= 0)),
    "comparisons": (lambda x: 1 * x.greater(0) + 2 * x.greater_equal(1) + 4 * x.less(0.5) + 8 * x.less_equal(-1)
                    + 16 * x.relu().not_equal(0),
                    lambda x: 1.0 * (x > 0) + 2 * (x >= 1) + 4 * (x < 0.5) + 8 * (x <= -1) + 16 * (x > 0)),
}


@pytest.mark.parametrize("name", PLACES)
def test_what_has_no_gradient(name):
    ours, numpys = PLACES[name]
    x = np.random.default_rng(0).standard_normal((20, 4, 3, 5))
    x[3] = 1        # the first of equal ones
    model = Function(ours)
    np.testing.assert_array_equal(model(x), numpys(x))
    assert not model.backward(np.ones_like(model(x))).any()


DETACHED = {
    "detach": lambda x, no_grad: x * x.detach() + (2 * x).detach().exp(),
    "straight through": lambda x, no_grad: x + ((x > 0) * 2.0 - x).detach(),
    "all of it": lambda x, no_grad: x.detach() * 1 + 0 * x,
    "in a block": lambda x, no_grad: x * in_a_block(x, no_grad),
    "in a function": lambda x, no_grad: x * no_grad()(lambda x: x.exp() + 1)(x),
    "twice": lambda x, no_grad: x.relu() * x.relu().detach().detach() + x.detach(),
}


def in_a_block(x, no_grad):
    with no_grad():
        y = (x * x).sum(1, keepdim=True)
    return y + x


@pytest.mark.parametrize("images", [1, 20])
@pytest.mark.parametrize("name", DETACHED)
def test_where_gradients_stop(name, images, torch, tmp_path):
    x = np.random.default_rng(0).standard_normal((images, 4, 3, 5))
    model, t = Function(lambda x: DETACHED[name](x, cnn.no_grad)), torch.tensor(x, requires_grad=True)
    z, y = DETACHED[name](t, torch.no_grad), model(x)
    dy = np.random.default_rng(1).standard_normal(y.shape)
    z.backward(torch.tensor(dy))
    want = t.grad.numpy()
    assert_close(y, z.detach().numpy(), 1e-12)
    assert_close(model.backward(dy), want, 1e-12)
    assert_close(backend.using("reference", model, x), y, 1e-12)
    copy = graph_module(model, x.shape[1:]).to(np.float64)
    assert_close(copy(x), y, 1e-12)
    assert_close(copy.backward(dy), want, 1e-12)
    there = cnn.export.to_torch(model, x.shape[1:])
    again = torch.tensor(x, requires_grad=True)
    there(again).backward(torch.tensor(dy))
    assert_close(again.grad.numpy(), want, 1e-12)
    model.eval()
    assert_close(model(x), y, 1e-12)
    assert not any(node.operation.name == "detach" for node in model.graph(x.shape[1:]))


class Same(cnn.Module):
    """Written in NumPy: it cuts the graph."""

    def forward(self, x):
        return x

    def backward(self, dy, need_dx=True):
        return dy


class Read(cnn.Module):
    """A Parameter that pieces of the graph read, some of them without a gradient."""

    def __init__(self, function):
        super().__init__()
        self.function, self.same, self.t = function, Same(), cnn.Parameter(np.full(1, 2.0))

    def forward(self, x):
        return self.function(x, self.t, self.same)


@pytest.mark.parametrize("function, want", [
    (lambda x, t, cut: cut(x * t) * (t.detach() * 0 + 1), 8), (lambda x, t, cut: cut(x * t) + (t > 0), 8),
    (lambda x, t, cut: cut(x * t) * t, 32), (lambda x, t, cut: cut(x * t.detach()) + t.sign() * x + t, 8)])
def test_a_piece_that_reads_a_parameter_sets_no_gradient(function, want):
    model, x = Read(function), np.ones((2, 4))
    plain = Read(lambda x, t, cut: function(x, t, lambda x: x))
    for _ in range(3):
        for net in (model, plain):
            net.backward(np.ones_like(net(x)))
            assert net.t.grad.item() == want
        with cnn.debug():
            plain.backward(np.ones_like(plain(x)))
        assert plain.t.grad.item() == want


@pytest.mark.parametrize("seen", [
    lambda t: t.view(1, 1), lambda t: t[None], lambda t: t.reshape(-1), lambda t: t.expand(4), lambda t: t * 1])
def test_parameters_in_another_shape_are_detached(seen):
    def function(x, t, cut):
        with cnn.no_grad():
            w, y = seen(t), x.reshape(-1, 4)
        return w * x + y
    model = Read(function)
    dx = model.backward(np.ones_like(model(np.ones((2, 4)))))
    assert model.t.grad.item() == 0
    np.testing.assert_array_equal(dx, 2)


def test_no_grad_around_a_model_changes_nothing():
    model, x = cnn.Linear(3, 2, seed=0), np.ones((4, 3), np.float32)
    with cnn.no_grad():
        before = model(x)
    model.backward(np.ones_like(before))
    assert model.weight.grad.all()


def test_what_a_detached_layer_learns():
    """Nothing: neither its weights nor what comes before it."""
    class Net(cnn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = (cnn.Linear(3, 3, seed=i) for i in range(3))

        def forward(self, x):
            with cnn.no_grad():
                target = self.c(self.a(x))
            return self.b(self.a(x)) * target
    model, x = Net(), np.random.default_rng(0).random((20, 3), np.float32)
    optimizer = cnn.SGD(model.parameters(), lr=0.1)
    before = {name: array.copy() for name, array in model.state_dict().items()}
    data = cnn.data.Dataset(x[:, :, None, None], x)
    model.flat = cnn.Flatten()
    loss = cnn.losses.Criterion(lambda y, t: (y - t).square().sum(1))

    class Flat(cnn.Module):
        def __init__(self):
            super().__init__()
            self.net = model

        def forward(self, x):
            return self.net(x.flatten(1))
    cnn.Trainer(Flat(), optimizer, loss, progress=False).fit(cnn.data.DataLoader(data, 20), 1)
    changed = [name for name, array in model.state_dict().items() if not np.array_equal(array, before[name])]
    assert changed == ["a.weight", "a.bias", "b.weight", "b.bias"]
