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
    "flatten": (lambda x: x.flatten(1), (IMAGE,)), "flatten of features": (lambda x: x.flatten(1) * 1, ((7,),)),
    "reshape": (lambda x: x.reshape((-1, 5, 4, 3)), (IMAGE,)), "view": (lambda x: x.view(-1, 60), (IMAGE,)),
    "reshape to features": (lambda x: x.reshape(-1, 10, 1, 6).relu().reshape((-1, 60)), (IMAGE,)),
    **{f"{name} over {dim}{', kept' * keep}": (lambda x, name=name, dim=dim, keep=keep: getattr(x, name)(dim, keep),
                                              (IMAGE,))
       for name in ("mean", "sum", "amax") for dim, keep in (((2, 3), False), ((-1, -2), True), (2, True), (-1, True),
                                                             ((3,), True))},
    "slices": (lambda x: (x[:, :2], x[:, -1:], x[:, 1:2] * x[:, 2:]), (IMAGE,)),
    "a slice of features": (lambda x: x[:, 2:5], ((7,),)),
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


@pytest.mark.parametrize("forward, training, evaluation", [
    (lambda x: R(C(x)), ["conv2d + relu"], None),
    (lambda x: P(R(C(x))), ["conv2d + relu + max_pool2d"], None),
    (lambda x: P(C(x)), ["conv2d + max_pool2d"], None),
    (lambda x: R(P(C(x))), ["conv2d + max_pool2d", "relu"], None),
    (lambda x: R(N(C(x))), ["conv2d", "batch_norm + relu"], ["conv2d + batch_norm + relu"]),
    (lambda x: P(R(N(C(x)))), ["conv2d", "batch_norm", "relu + max_pool2d"],
     ["conv2d + batch_norm + relu + max_pool2d"]),
    (lambda x: N(R(C(x))), ["conv2d + relu", "batch_norm"], None),
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
    model = module(lambda self, x: forward(x), c=C, n=N, r=R, p=P)
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
