"""Weights that `forward` computes from Parameters: numbers and gradients by PyTorch, and by NumPy's twins with central
differences where that is missing; the same on every back end; once for all images."""

import numpy as np
import pytest
from cases import assert_close

import cnn
from cnn import functional as F
from cnn.engine import backend
from cnn.layers.graph_module import GraphModule, OperationNode, graph_module

RNG = np.random.default_rng(0)


def standardised(w):
    """Qiao et al. 2019, as they write it."""
    w = w - w.mean(dim=1, keepdim=True).mean(dim=2, keepdim=True).mean(dim=3, keepdim=True)
    std = w.view(w.size(0), -1).std(dim=1).view(-1, 1, 1, 1) + 1e-5
    return w / std.expand_as(w)


def whitened(w):
    """By another of the ways to write it."""
    return (w - w.mean((1, 2, 3), keepdim=True)) * (w.var((1, 2, 3), unbiased=False, keepdim=True) + 1e-4).rsqrt()


def of_length(w, dims=(1, 2, 3)):
    """Salimans & Kingma 2016."""
    return 1.5 * w / (w * w).sum(dim=dims, keepdim=True).sqrt()


class Net(cnn.Module):
    """A function of values and of Parameters `w` and `b`."""

    def __init__(self, function, w, b):
        super().__init__()
        self.function, self.w, self.b = function, cnn.Parameter(w), cnn.Parameter(b)

    def forward(self, x):
        return self.function(x, self.w, self.b)


# shape of the weights, of an image, what is computed by torch or by us: f(F, x, w, b) with the module of functions
CASES = {
    "standardised": ((4, 3, 3, 3), (3, 5, 5), lambda F, x, w, b: F.conv2d(x, standardised(w), b, padding=1)),
    "one output": ((1, 3, 3, 3), (3, 5, 5), lambda F, x, w, b: F.conv2d(x, standardised(w), b[:1] * 2, padding=1)),
    "whitened, grouped": ((4, 2, 3, 3), (4, 6, 5), lambda F, x, w, b: F.conv2d(x, whitened(w), b, 2, 1, 1, 2)),
    "depthwise": ((4, 1, 3, 3), (4, 5, 5), lambda F, x, w, b: F.conv2d(x, w * 0.3, b, padding=1, groups=4)),
    "of length": ((4, 3, 1, 1), (3, 5, 5), lambda F, x, w, b: F.conv2d(x, of_length(w), b)),
    "transposed": ((3, 4, 2, 2), (3, 4, 4), lambda F, x, w, b: F.conv_transpose2d(x, of_length(w), b, 2)),
    "sequences": ((4, 3, 3), (3, 8), lambda F, x, w, b: F.conv1d(x, of_length(w, (1, 2)), b, padding=1)),
    "sequences, transposed": ((3, 4, 3), (3, 8), lambda F, x, w, b: F.conv_transpose1d(x, w.tanh(), b)),
    "linear": ((4, 6), (6,), lambda F, x, w, b: F.linear(x, F.normalize(w), b.exp())),
    "rows": ((4, 6), (5, 6), lambda F, x, w, b: F.linear(x, w - w.mean(), b)),
    "product": ((6, 4), (6,), lambda F, x, w, b: x @ w + (x @ w.exp()) * b),
    "product of rows": ((6, 4), (5, 6), lambda F, x, w, b: x @ (w * w)),
    "view": ((4, 27), (3, 5, 5), lambda F, x, w, b: F.conv2d(x, w.view(4, 3, 3, 3), b.view(2, 2).flatten())),
    "turned": ((3, 4, 3, 3), (3, 5, 5), lambda F, x, w, b: F.conv2d(x, w.transpose(0, 1).flip(2, 3), b)),
    "permuted": ((3, 3, 4, 3), (3, 5, 5), lambda F, x, w, b: F.conv2d(x, w.permute(2, 3, 0, 1), b)),
    "centre": ((4, 3, 3, 3), (3, 5, 5), lambda F, x, w, b: F.conv2d(x, w[:, :, 1:2, 1:2] - w[:, :, :1, 2:], b)),
    "differences": ((4, 3, 3, 3), (3, 5, 5), lambda F, x, w, b: F.conv2d(x, w, b, padding=1) - 0.7 * F.conv2d(
        x, w.sum((2, 3), keepdim=True))),
    "over rows": ((4, 3, 3, 3), (3, 5, 5), lambda F, x, w, b: F.conv2d(x, w.softmax(3) * w.amax(2, keepdim=True), b)),
    "used twice": ((3, 3, 3, 3), (3, 5, 5), lambda F, x, w, b: F.conv2d(F.relu(F.conv2d(
        x, w * b[:3, None, None, None], padding=1)), w * b[:3, None, None, None], padding=1)),
    "layer norm": ((6,), (5, 6), lambda F, x, w, b: F.layer_norm(x, (6,), 1 + w, w * b[0])),
    "a number of each row": ((6,), (5, 6), lambda F, x, w, b: x @ w + (x @ (w * 2)) * (x[:, 0] @ w)[:, None]),
    "prelu": ((4,), (4, 3, 3), lambda F, x, w, b: F.prelu(x, w * 0.3) + F.prelu(-x, b[:1])),
    "group norm": ((4,), (4, 3, 3), lambda F, x, w, b: F.group_norm(x, 2, 1 + w, -w)),
}


def made(name):
    shape, image, function = CASES[name]
    rng = np.random.default_rng(1)
    parts = {"w": rng.uniform(0.5, 1.5, shape), "b": rng.uniform(0.5, 1.5, 4)}
    return function, parts, Net(lambda x, w, b: function(F, x, w, b), **parts), image


@pytest.mark.parametrize("images", [1, 20])     # channels side by side, and images
@pytest.mark.parametrize("name", CASES)
def test_numbers_and_gradients_are_those_of_pytorch(name, images, torch):
    function, parts, model, image = made(name)
    x = RNG.standard_normal((images, *image))
    theirs = {what: torch.tensor(part, requires_grad=True) for what, part in parts.items()}
    tx = torch.tensor(x, requires_grad=True)
    ty = function(torch.nn.functional, tx, *theirs.values())
    y, dy = model(x), RNG.standard_normal(tuple(ty.shape))
    dx = model.backward(dy)
    ty.backward(torch.tensor(dy))
    assert_close(y, ty.detach().numpy(), 1e-11)
    assert_close(dx, tx.grad.numpy(), 1e-11)
    for what, tensor in theirs.items():
        want = np.zeros(tensor.shape) if tensor.grad is None else tensor.grad.numpy()
        assert_close(getattr(model, what).grad, want, 1e-10)


@pytest.mark.parametrize("name", CASES)
def test_gradients_are_differences_of_the_twins(name):
    _, _, model, image = made(name)
    x, step = RNG.standard_normal((3, *image)), 1e-6
    y = model(x)
    assert_close(y, backend.using("reference", model, x), 1e-12)
    dy = RNG.standard_normal(y.shape)
    model.backward(dy)
    for p in model.parameters():
        flat, gradient = p.data.reshape(-1), p.grad.reshape(-1)
        for i in RNG.choice(flat.size, min(4, flat.size), replace=False):
            before, sums = flat[i], []
            for at in (before + step, before - step):
                flat[i] = at
                sums.append((backend.using("reference", model, x) * dy).sum())
            flat[i] = before
            assert gradient[i] == pytest.approx((sums[0] - sums[1]) / (2 * step), rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("name", CASES)
def test_every_way_to_run_it(name, tmp_path):
    _, _, model, image = made(name)
    x = RNG.standard_normal((20, *image))
    y = model(x)
    dy = RNG.standard_normal(y.shape)
    dx, gradients = model.backward(dy), {name: p.grad.copy() for name, p in model.named_parameters()}
    assert_close(backend.using("reference", model, x), y, 1e-12)
    copy = graph_module(model, image)
    for run in (lambda: copy, lambda: cnn.load_model(tmp_path / "net.safetensors")[0].train()):
        cnn.save(model, tmp_path / "net.safetensors", image)
        other = run()
        np.testing.assert_array_equal(other(x), y)
        np.testing.assert_array_equal(other.backward(dy), dx)
        for what, p in other.named_parameters():
            np.testing.assert_array_equal(p.grad, gradients.get(what, 0))
    with cnn.debug():
        assert_close(model(x), y, 1e-12)
        assert_close(model.backward(dy), dx, 1e-12)
        for what, p in model.named_parameters():
            assert_close(p.grad, gradients[what], 1e-11)
    model.eval()
    assert_close(model(x), y, 1e-12)
    compiled = cnn.compile(model, image)
    assert_close(compiled(x), y, 1e-12)
    assert_close(compiled(x[:1]), y[:1], 1e-12)


@pytest.mark.parametrize("name", CASES)
def test_what_leaves_the_package(name, torch, tmp_path):
    onnx = pytest.importorskip("onnx")
    runtime = pytest.importorskip("onnxruntime")
    _, _, model, image = made(name)
    x = RNG.standard_normal((5, *image))
    y = model(x)
    dy = RNG.standard_normal(y.shape)
    model.backward(dy)
    theirs = cnn.export.to_torch(model, image)
    ty = theirs(torch.tensor(x))
    assert_close(ty.detach().numpy(), y, 1e-11)
    ty.backward(torch.tensor(dy))
    for what, p in theirs.named_parameters():       # they are trained there, too
        want = dict(model.named_parameters())[what].grad
        assert_close(np.zeros_like(want) if p.grad is None else p.grad.numpy(), want, 1e-10)
    model.to(np.float32).eval()
    x, path = x.astype(np.float32), str(tmp_path / "net.onnx")
    cnn.export.onnx(model, path, image)
    onnx.checker.check_model(path, full_check=True)
    session = runtime.InferenceSession(path)
    assert_close(session.run(None, {session.get_inputs()[0].name: x})[0], y, 1e-4)
    assert_close(cnn.load_onnx(path).eval()(x), y, 1e-4)
    weights = {node.op_type: node.input[1] for node in onnx.load(path).graph.node if "Conv" in node.op_type
               and "row" not in name}
    constant = {node.output[0] for node in onnx.load(path).graph.node if node.op_type == "Constant"}
    assert set(weights.values()) <= constant        # many runtimes take no others


class Standardised(cnn.Conv2d):
    def forward(self, x):
        return F.conv2d(x, standardised(self.weight), self.bias, self.stride, self.padding, self.dilation, self.groups)


def small(conv=Standardised):
    return cnn.Sequential(conv(1, 8, 3, padding=1, seed=0), cnn.BatchNorm2d(8), cnn.ReLU(), cnn.MaxPool2d(2),
                          conv(8, 12, 3, padding=1, groups=2, seed=1), cnn.ReLU(), cnn.Flatten(),
                          cnn.Linear(12 * 9, 5, seed=2))  # fmt: skip


def trained(threads, batch=24):
    rng = np.random.default_rng(0)
    data = cnn.data.Dataset(rng.integers(0, 256, (2 * batch + batch // 3, 1, 6, 6), np.uint8),
                            rng.integers(0, 5, 2 * batch + batch // 3))
    before = cnn.get_num_threads()
    cnn.set_num_threads(threads)
    try:
        model = small()
        trainer = cnn.Trainer(model, cnn.Adam(model.parameters()), progress=False)
        trainer.fit(cnn.data.DataLoader(data, batch, shuffle=True), 3)
        return {name: array.copy() for name, array in model.state_dict().items()}
    finally:
        cnn.set_num_threads(before)


@pytest.mark.parametrize("batch", [24, 4])
def test_any_number_of_threads_has_the_same_bits(batch):
    alone = trained(1, batch)
    assert "0.weight" in alone and not np.array_equal(alone["0.weight"], small()[0].weight.data)
    for threads in (2, 3):
        for name, array in trained(threads, batch).items():
            np.testing.assert_array_equal(array, alone[name], name)


def test_steps_of_training_are_those_of_pytorch(torch):
    model, images = small(), np.random.default_rng(3).random((40, 1, 6, 6), np.float32)
    labels = np.random.default_rng(4).integers(0, 5, 40)

    class Theirs(torch.nn.Conv2d):
        def forward(self, x):
            return torch.nn.functional.conv2d(x, standardised(self.weight), self.bias, self.stride, self.padding,
                                              self.dilation, self.groups)
    nn = torch.nn
    theirs = nn.Sequential(Theirs(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2),
                           Theirs(8, 12, 3, padding=1, groups=2), nn.ReLU(), nn.Flatten(), nn.Linear(12 * 9, 5))
    theirs.load_state_dict({name: torch.tensor(array) for name, array in model.state_dict().items()})
    trainer = cnn.Trainer(model, cnn.SGD(model.parameters(), lr=0.1, momentum=0.9), progress=False)
    trainer.fit(cnn.data.DataLoader(cnn.data.Dataset(images, labels), 20), 5)
    optimizer = torch.optim.SGD(theirs.parameters(), lr=0.1, momentum=0.9)
    for _ in range(5):
        for at in (0, 20):
            optimizer.zero_grad()
            nn.functional.cross_entropy(theirs(torch.tensor(images[at:at + 20])),
                                        torch.tensor(labels[at:at + 20])).backward()
            optimizer.step()
    for name, tensor in theirs.state_dict().items():
        assert_close(model.state_dict()[name], tensor.numpy(), 1e-4)


def test_layers_in_numpy_and_frozen_ones_beside():
    class Doubled(cnn.Module):
        def forward(self, x):
            return 2 * x

        def backward(self, dy, need_dx=True):
            return 2 * dy
    whole, plain = small(), small()
    pieces = cnn.Sequential(*list(whole)[:3], Doubled(), *list(whole)[3:])
    x, dy = RNG.standard_normal((20, 1, 6, 6)).astype(np.float32), np.ones((20, 5), np.float32)
    want = plain(x)
    plain.backward(dy)
    got = pieces(x)
    assert not np.allclose(got, want)
    whole[4].bias.data[...] = 0     # then the second half doubles what it gets, but for the last bias
    plain[4].bias.data[...] = 0
    plain.eval(), pieces.eval(), plain(x)
    pieces.train(), plain.train()
    got, want = pieces(x) - whole[-1].bias.data, plain(x) - plain[-1].bias.data
    assert_close(got, 2 * want, 1e-5)
    pieces.backward(dy)
    plain.backward(dy)
    assert_close(whole[4].weight.grad, 2 * plain[4].weight.grad, 1e-4)
    frozen = small()
    frozen[0].freeze()
    frozen[0].weight.grad[...] = 7
    frozen(x)
    frozen.backward(dy)
    assert (frozen[0].weight.grad == 7).all() and frozen[4].weight.grad.any()


LAYERS = [("ReLU",), ("LeakyReLU", 0.2), ("Tanh",), ("Sigmoid",), ("SiLU",), ("GELU",), ("GELU", "tanh"), ("ReLU6",),
          ("Hardtanh", -0.5, 0.7), ("ELU", 0.7), ("Hardswish",), ("Hardsigmoid",), ("Mish",), ("Softplus", 2.0),
          ("SELU",), ("CELU", 0.5), ("LogSigmoid",), ("Softsign",), ("Tanhshrink",), ("Hardshrink", 0.3),
          ("Softshrink", 0.3), ("Threshold", 0.1, -2.0), ("Softmax", 1), ("LogSoftmax", -1), ("Identity",)]


class Through(cnn.Module):
    """Weights that come through a layer, called with a Parameter alone."""

    def __init__(self, layer):
        super().__init__()
        self.layer, self.w = layer, cnn.Parameter(np.random.default_rng(3).standard_normal((4, 5)))

    def forward(self, x):
        return F.linear(x, self.layer(self.w))


@pytest.mark.parametrize("name, options", [(name, options) for name, *options in LAYERS])
@pytest.mark.parametrize("images", [2, 20])
def test_layers_of_each_element_take_parameters(name, options, images, torch):
    net, twin = Through(getattr(cnn, name)(*options)), getattr(torch.nn, name)(*options)
    x, dy = RNG.standard_normal((images, 5)), RNG.standard_normal((images, 4))
    w = torch.tensor(net.w.data, requires_grad=True)
    wanted = torch.tensor(x) @ twin(w).T
    wanted.backward(torch.tensor(dy))
    assert_close(net(x), wanted.detach().numpy(), 1e-12)
    net.backward(dy)
    assert_close(net.w.grad, w.grad.numpy(), 1e-7 if name == "Hardsigmoid" else 1e-12)     # PyTorch's sixth is float32
    layer = cnn.Linear(5, 4, dtype=np.float64)
    cnn.utils.register_parametrization(layer, "weight", cnn.Sequential(net.layer, net.layer))
    original = torch.tensor(layer.parametrizations["weight"].original.data)
    assert_close(layer.weight.data, twin(twin(original)).numpy(), 1e-12)


def test_a_module_of_ones_own_takes_parameters():
    class Scaled(cnn.Module):
        def __init__(self):
            super().__init__()
            self.log = cnn.Parameter(np.full((4, 1), -0.5))

        def forward(self, w):
            return w * self.log.exp()
    net = Through(Scaled())
    x = RNG.standard_normal((3, 5))
    assert_close(net(x), x @ net.w.data.T * np.exp(-0.5), 1e-12)
    dy = np.ones((3, 4))
    net.backward(dy)
    assert_close(net.layer.log.grad, ((dy.T @ x) * net.w.data * np.exp(-0.5)).sum(1, keepdims=True), 1e-12)


@pytest.mark.parametrize("layer", [cnn.Dropout(0.5), cnn.Linear(5, 5), cnn.LayerNorm(5), cnn.PReLU(), cnn.Flatten(),
                                   cnn.Sequential(cnn.ReLU(), cnn.Dropout(0.1))])
def test_other_layers_want_values(layer):
    words = "is a layer for values and got Parameters alone: compute with them by functions of cnn.functional"
    for training in (True, False):
        with pytest.raises(TypeError, match=words):
            Through(layer.train(training))(np.zeros((2, 5)))
    with pytest.raises(TypeError, match=words):
        cnn.utils.register_parametrization(cnn.Linear(5, 4), "weight", layer)


def test_new_numbers_of_a_parameter_are_noticed():
    model, x = small().eval(), RNG.standard_normal((2, 1, 6, 6)).astype(np.float32)
    compiled, before = cnn.compile(model, (1, 6, 6)), model(x)
    model[0].weight.data[0] = np.arange(9).reshape(1, 3, 3)
    changed = model(x)
    assert not np.array_equal(changed, before)
    assert_close(backend.using("reference", model, x), changed, 1e-5)
    assert_close(compiled(x), before, 1e-5)         # which keeps the weights that there were


def test_masked_weights():
    """Van den Oord et al. 2016: no pixel is seen before its time."""
    mask, rng = np.ones((3, 3)), np.random.default_rng(0)
    mask[1, 1:] = mask[2] = 0
    model = Net(lambda x, w, b: F.conv2d(x, w * mask, b, padding=1), rng.random((4, 2, 3, 3)), np.zeros(4))
    x = rng.random((20, 2, 6, 6))
    before = model(x)
    assert_close(before, cnn.reference.conv2d(x, model.w.data * mask, model.b.data, (1, 1), ((1, 1), (1, 1))), 1e-12)
    model.backward(np.ones_like(before))
    assert (model.w.grad[..., mask == 0] == 0).all() and (model.w.grad[..., mask == 1] != 0).all()
    x[:, :, 3, 3:] += 1
    x[:, :, 4:] += 1
    changed = np.argwhere((model(x) != before).any((0, 1)))
    assert changed.tolist()[0] == [3, 4]


def test_it_is_computed_once():
    """Of weights of 512 x 512 a program has no copy for each image."""
    layer = Net(lambda x, w, b: F.linear(x, F.normalize(w) * b[0]), np.ones((512, 512)), np.ones(4))
    x = np.ones((64, 512))
    layer.backward(layer(x))
    program, = layer._last.programs
    assert program.nbytes < 20 * 8 * 512 * 512


def test_where_a_network_looks():
    """Maps of attention are computed from a part of the network, cut at a layer."""
    model = small().eval()
    maps = cnn.explain.grad_cam(model, RNG.random((3, 1, 6, 6), np.float32), layer=model[1])
    assert np.isfinite(maps.maps).all()


@pytest.mark.parametrize("function, error, words", [
    (lambda x, w, b: F.conv2d(x, x, b), TypeError, "computed from these, got a value, which each image has of its own"),
    (lambda x, w, b: F.conv2d(x, (w * 2)[None]), ValueError, "at most 4 axes"),
    (lambda x, w, b: F.conv2d(x, w * 2, (b * 2)[:3]), ValueError, r"weight must have shape .* got \(4, 3, 3, 3\) and"),
    (lambda x, w, b: F.conv2d(x, w + b), ValueError, r"shapes \(4, 3, 3, 3\) and \(4,\) do not go together"),
    (lambda x, w, b: F.conv2d(x, w.view(5, -1)), ValueError, "shape must be of 108 elements"),
    (lambda x, w, b: F.conv2d(x, (w * 2).view(5, -1)), ValueError, "shape must be of 108 elements"),
    (lambda x, w, b: F.conv2d(x, w["a"]), TypeError, "numbers, slices and lists of numbers"),
    (lambda x, w, b: F.conv2d(x, w[9:]), ValueError, "must leave some"),
    (lambda x, w, b: F.conv2d(x, w.expand(4, 4, 3, 3)), ValueError, "of which 1 may become any"),
    (lambda x, w, b: F.conv2d(x, w.var(4)), ValueError, "dim must be an integer from -4 to 3"),
    (lambda x, w, b: F.conv2d(x, w.std((1, 1))), ValueError, "dim must be different axes"),
    (lambda x, w, b: F.conv2d(x, w[:, :1, :1, :1].var((1, 2, 3))), ValueError, "more than 1 elements"),
    (lambda x, w, b: F.conv2d(x, w @ w), ValueError, "at most 3 axes"),
])
def test_what_cannot_be_a_weight(function, error, words):
    with pytest.raises(error, match=words):
        Net(function, np.ones((4, 3, 3, 3)), np.ones(4))(np.ones((2, 3, 5, 5)))


@pytest.mark.parametrize("change, words", [
    ({"values": {"weight": [4, 4]}}, "weight must have 8 elements, got shape .4, 4."),
    ({"values": {"weigth": [4, 2]}}, "no parameter 'weigth' that is a value"),
    ({"values": {"weight": [4, 2], "bias": [4]}}, "values must be a dict of shapes, of fewer than its inputs"),
    ({"values": 3}, "values must be a dict of shapes"),
    ({"values": {"weight": 3}}, "weight must be a list of sizes"),
    ({}, "must have a parameter 'weight'"),
    ({"inputs": ("x", "y")}, "computed from parameters alone, got what depends on an input"),
])
def test_lists_of_operations_that_do_not_fit(change, words):
    nodes = [OperationNode("parameter", ("x",), "p", {"image": [4, 2]}, {"parameter": "p"}),
             OperationNode("exp", ("p",), "w"), OperationNode("exp", ("x",), "y"),
             OperationNode("linear", change.get("inputs", ("x", "w")), "z", {"values": change.get("values", {
                 "weight": [4, 2]})} if change.get("inputs") or change else {})]
    image = (8,) if "inputs" in change else (2,)
    with pytest.raises((ValueError, TypeError), match=words):
        GraphModule(["x"], nodes, "z", {"p": np.zeros((4, 2))})(np.ones((3, *image)))
