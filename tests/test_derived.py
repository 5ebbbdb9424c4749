"""What `forward` computes from Parameters alone: numbers by NumPy, gradients by central differences of these."""

import numpy as np
import pytest
from cases import assert_close

import cnn
from cnn import functional as F
from cnn.engine import backend
from cnn.layers.graph_module import graph_module


class Net(cnn.Module):
    """A function of values and of one Parameter, `p`."""

    def __init__(self, function, p):
        super().__init__()
        self.function, self.p = function, p

    def forward(self, x):
        return self.function(x, self.p)


def softmax(w, axis):
    e = np.exp(w)
    return e / e.sum(axis, keepdims=True)


def sigmoid(w):
    return 1 / (1 + np.exp(-w))


def unit(w):
    return w / np.sqrt((w * w).sum(1, keepdims=True))


def fused(x, p):
    w = F.relu(p)
    return (w[0] * x + w[1] * x ** 2) / (w.sum() + 1e-4)


RAMP = np.arange(3.0)
IMAGES = 3, 2, 2
# shape of p, of an image, ours, NumPy's
CASES = {
    "temperature": ((), (3,), lambda x, p: x * p.exp(), lambda x, w: x * np.exp(w)),
    "temperature of one axis": ((1,), (3,), lambda x, p: x / p.exp(), lambda x, w: x / np.exp(w)),
    "gate": ((3,), (3,), lambda x, p: x * F.sigmoid(p) + (1 - p.sigmoid()),
             lambda x, w: x * sigmoid(w) + 1 - sigmoid(w)),
    "fusion": ((2,), (3,), lambda x, p: F.softmax(p, 0)[0] * x + F.softmax(p, dim=-1)[1] * x ** 2,
               lambda x, w: softmax(w, 0)[0] * x + softmax(w, 0)[1] * x ** 2),
    "fast fusion": ((2,), (3,), fused, lambda x, w: (w[0] * x + w[1] * x ** 2) / (w.sum() + 1e-4)),
    "parts": ((2,), (3,), lambda x, p: p[0] * x + p[1], lambda x, w: w[0] * x + w[1]),
    "all parts": ((2,), (3,), lambda x, p: (lambda a, b: a * x + b)(*p), lambda x, w: w[0] * x + w[1]),
    "numbers": ((3,), (3,), lambda x, p: (1 + p) * x - (2 - p) + 2 / p - p / 2 + -p,
                lambda x, w: (1 + w) * x - (2 - w) + 2 / w - w / 2 - w),
    "powers": ((3,), (3,), lambda x, p: x * p ** 2 / abs(p) + F.pow(p, 3) + p.sqrt() + p.log() + F.tanh(p),
               lambda x, w: x * w + w ** 3 + np.sqrt(w) + np.log(w) + np.tanh(w)),
    "rows": ((3, 4), (3, 4), lambda x, p: x * (p - p.mean(1, keepdim=True)) / p.amax() + p.sum(0) - F.amin(p, -2),
             lambda x, w: x * (w - w.mean(1, keepdims=True)) / w.max() + w.sum(0) - w.min(0)),
    "log_softmax": ((2, 3), (3,), lambda x, p: x * F.log_softmax(p, 1)[0] + p.log_softmax(-1)[1],
                    lambda x, w: x * np.log(softmax(w, 1))[0] + np.log(softmax(w, 1))[1]),
    "cosines": ((4, 3), (3,), lambda x, p: F.linear(F.normalize(x), F.normalize(p)), lambda x, w: unit(x) @ unit(w).T),
    "cosines by matmul": ((4, 3), (3,), lambda x, p: F.normalize(x) @ F.normalize(p).t(),
                          lambda x, w: unit(x) @ unit(w).T),
    "cosine_similarity": ((4, 3), (3,), lambda x, p: F.cosine_similarity(x[:, None], p, dim=2),
                          lambda x, w: unit(x) @ unit(w).T),
    "linear with a bias": ((4, 3), (3,), lambda x, p: F.linear(x, p * 2, p.sum(1)),
                           lambda x, w: x @ (2 * w).T + w.sum(1)),
    "transposed": ((4, 3), (3,), lambda x, p: x @ p.T, lambda x, w: x @ w.T),
    "transposed, of rows": ((4, 3), (2, 3), lambda x, p: x @ p.t(), lambda x, w: x @ w.T),
    "computed, of rows": ((4, 3), (2, 3), lambda x, p: x @ (p * 2).T, lambda x, w: x @ (2 * w).T),
    "computed, of heads": ((4, 3), (2, 2, 3), lambda x, p: F.matmul(x, (2 * p).transpose(0, 1)),
                           lambda x, w: x @ (2 * w).T),
    "joined": ((4, 3), (3,), lambda x, p: F.linear(x, cnn.cat([p, p.exp(), p[:1]])) + cnn.cat([p, p * 2], -1).sum(),
               lambda x, w: x @ np.concatenate([w, np.exp(w), w[:1]]).T + 3 * w.sum()),
    "joined, of four axes": (
        (2, 3, 2, 1), (3,), lambda x, p: x * cnn.cat((p, p.exp()), 1)[1, 3:, 0, 0]
        + cnn.cat([p, 2 * p], -1)[0, :, 1, 1], lambda x, w: x * np.exp(w)[1, :, 0, 0] + 2 * w[0, :, 1, 0]),
    "stacked": ((4, 3), (3,), lambda x, p: x * F.stack([p, p.exp()], 2).sum((0, 2)) + F.stack([p[0], p[1]])[1],
                lambda x, w: x * (w + np.exp(w)).sum(0) + w[1]),
    "a base": ((3,), (3,), lambda x, p: x * 2 ** p + 0.5 ** p.exp(), lambda x, w: x * 2 ** w + 0.5 ** np.exp(w)),
    "causal": ((3, 3), (2, 3), lambda x, p: x @ p.tril().T + (2 * p).triu(1).sum(),
               lambda x, w: x @ np.tril(w).T + 2 * np.triu(w, 1).sum()),
    "product of two": ((4, 3), (3,), lambda x, p: x * (p @ p.T).mean(), lambda x, w: x * (w @ w.T).mean()),
    "view": ((3,), IMAGES, lambda x, p: x * (1 + p.view(1, -1, 1, 1)).exp() / p.view(1, 3, 1, 1).sum(),
             lambda x, w: x * np.exp(1 + w[:, None, None]) / w.sum()),
    "new axes": ((3,), IMAGES, lambda x, p: x * p[:, None, None].sigmoid(), lambda x, w: x * sigmoid(w)[:, None, None]),
    "of four axes": ((1, 3, 1, 1), IMAGES, lambda x, p: x * F.sigmoid(p) * p.view(3, 1, 1) + p.flatten().sum(),
                     lambda x, w: x * sigmoid(w) * w + w.sum()),
    "larger, smaller": ((3,), (3,), lambda x, p: F.maximum(x, p.exp()) + F.minimum(p, 2 * p) + F.clamp(p, 0.8, 1.2),
                        lambda x, w: np.maximum(x, np.exp(w)) + np.minimum(w, 2 * w) + w.clip(0.8, 1.2)),
    "equal": ((3,), (3,), lambda x, p: x * (p == p.amax()) + (p != 1) * 0.5 * x + (p == RAMP) * x + (p == RAMP),
              lambda x, w: x * (w == w.max()) + 0.5 * x),
    "expanded": ((1, 3), (3,), lambda x, p: x * p.expand(4, -1).sum(0) + x @ p.expand(3, 3).T,
                 lambda x, w: 4 * x * w + x @ w.repeat(3, 0).T),
    "parts of a view": ((6,), (3,), lambda x, p: x * p.view(2, 3)[1] + p[None][0, 1] + p.view(3, 2)[:, :1].flatten(),
                        lambda x, w: x * w[3:] + w[1] + w[::2]),
    "transposed, of one axis": ((3,), (3,), lambda x, p: x * p.T, lambda x, w: x * w),
    "product by the function": ((3, 3), (3,), lambda x, p: x @ F.matmul(p, p), lambda x, w: x @ (w @ w)),
    "length": ((4,), (3,), lambda x, p: x * p.norm() / p.norm(3), lambda x, w: x * np.sqrt((w * w).sum()) / (
        w ** 3).sum() ** (1 / 3)),
    "masks": ((3,), (3,), lambda x, p: F.where(p > 1, x, -x) + (p.exp() <= 2.5) * x + F.where(p < 1, p, 2 * p),
              lambda x, w: np.where(w > 1, x, -x) + (np.exp(w) <= 2.5) * x + np.where(w < 1, w, 2 * w)),
    "arrays": ((3,), (3,), lambda x, p: x * (RAMP * p + RAMP) - (p - RAMP),
               lambda x, w: x * (RAMP * w + RAMP) - w + RAMP),
    "token": ((1, 2), (3,), lambda x, p: cnn.cat([x, p.exp().expand(x.size(0), -1)], 1),
              lambda x, w: np.concatenate([x, np.exp(w).repeat(len(x), 0)], 1)),
    "length of one number": ((), (3,), lambda x, p: x * (-p).norm() + p.norm(1) * (-p * 2).sum().norm(3),
                             lambda x, w: x * abs(w) + abs(w) * abs(2 * w)),
    "all axes turned": ((2, 3, 4), (4, 3), lambda x, p: x * p.T[:, :, 0] + (p * 2).T[..., 1] * p[0].t(),
                        lambda x, w: x * w.T[:, :, 0] + 2 * w.T[..., 1] * w[0].T),
    "a list in its place": ((3, 4, 3), (4, 3), lambda x, p: x * p[0, :, [0, 2, 2]] * p[1:, [0, 3, 1, 1], 2][1][:, None],
                            lambda x, w: x * w[0][:, [0, 2, 2]] * w[2, [0, 3, 1, 1], 2][:, None]),
    "a vector before": ((2, 3), (3,), lambda x, p: x * (p[:, 0] @ p.view(1, 2, 3).expand(4, 2, 3))[2],
                        lambda x, w: x * (w[:, 0] @ w)),
    "repeated": ((3, 1), (3, 4), lambda x, p: x * p.repeat(1, 4) + p.exp().repeat(x.size(0), 1, 1) * p.expand(
        x.size(0), -1, -1), lambda x, w: x * w + np.exp(w) * w),
    "permuted": ((2, 3, 4), (4, 2, 3), lambda x, p: x * p.permute(2, 0, 1).exp() + p.squeeze().unsqueeze(0).sum(),
                 lambda x, w: x * np.exp(w).transpose(2, 0, 1) + w.sum()),
}


def numbers_of(name, images=5):
    shape, image, ours, numpys = CASES[name]
    rng = np.random.default_rng(0)
    p = cnn.Parameter(rng.uniform(0.5, 1.5, shape))
    return Net(ours, p), numpys, rng.standard_normal((images, *image)), rng


@pytest.mark.parametrize("images", [1, 20])     # channels side by side, and images
@pytest.mark.parametrize("name", CASES)
def test_numbers_and_gradients(name, images):
    model, numpys, x, rng = numbers_of(name, images)
    y = model(x)
    assert_close(y, numpys(x, model.p.data), 1e-12)
    dy = rng.standard_normal(y.shape)
    dx = model.backward(dy)
    w, step = model.p.data.copy(), 1e-5

    def slope(at, i, function):
        steps = [at.copy() for _ in range(2)]
        steps[0][i] += step
        steps[1][i] -= step
        return ((function(steps[0]) - function(steps[1])) / (2 * step) * dy).sum()
    expected = [slope(w, i, lambda w: numpys(x, w)) for i in np.ndindex(w.shape)]
    assert_close(model.p.grad.ravel(), np.array(expected), 1e-6)
    i = (0,) * x.ndim
    assert_close(dx[i], slope(x, i, lambda x: numpys(x, w)), 1e-6)


@pytest.mark.parametrize("name", CASES)
def test_twins_and_a_list_of_operations_compute_the_same(name):
    model, numpys, x, _ = numbers_of(name)
    want = numpys(x, model.p.data)
    assert_close(graph_module(model, x.shape[1:])(x), want, 1e-12)
    assert_close(backend.using("reference", model, x), want, 1e-12)


@pytest.mark.parametrize("name", CASES)
def test_what_leaves_the_package(name, torch, tmp_path):
    onnx = pytest.importorskip("onnx")
    runtime = pytest.importorskip("onnxruntime")
    model, numpys, x, _ = numbers_of(name)
    model.to(np.float32).eval()
    x = x.astype(np.float32)
    want = numpys(x, model.p.data)
    assert_close(cnn.export.to_torch(model, x.shape[1:])(torch.tensor(x)).detach().numpy(), want, 1e-4)
    path = str(tmp_path / "net.onnx")
    cnn.export.onnx(model, path, x.shape[1:])
    onnx.checker.check_model(path, full_check=True)
    session = runtime.InferenceSession(path)
    assert_close(session.run(None, {session.get_inputs()[0].name: x})[0], want, 1e-4)
    assert_close(cnn.load_onnx(path).eval()(x), want, 1e-4)
    cnn.save(model, tmp_path / "net.safetensors", x.shape[1:])
    assert_close(cnn.load_model(tmp_path / "net.safetensors")[0](x), want, 1e-4)


class Uncertain(cnn.Module):
    """Two losses weighed by what is learnt of their noise (Kendall, Gal & Cipolla 2018)."""

    def __init__(self):
        super().__init__()
        self.log_var = cnn.Parameter(np.array([0.1, -0.3], np.float32))

    def forward(self, scores, target):
        losses = F.cross_entropy(scores, target), (scores ** 2).mean()
        return sum((-s).exp() * loss + s for s, loss in zip(self.log_var, losses, strict=True))


def test_a_loss_with_parameters_of_its_own():
    rng = np.random.default_rng(0)
    scores, target = rng.standard_normal((6, 3)).astype(np.float32), rng.integers(0, 3, 6)
    entropy = np.mean(np.log(np.exp(scores).sum(1)) - scores[np.arange(6), target])
    s = [0.1, -0.3]
    expected = np.exp(-s[0]) * entropy + s[0] + np.exp(-s[1]) * np.mean(scores ** 2) + s[1]
    assert cnn.losses.Criterion(Uncertain())(scores, target) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("function, error, words", [
    (lambda x, p: x if p.sum() > 0 else -x, TypeError, "a value cannot tell whether it is true"),
    (lambda x, p: x if p else -x, TypeError, "a value cannot tell whether it is true"),
    (lambda x, p: x + sum(p.mean()), TypeError, "an array without axes, computed from Parameters, has no parts"),
    (lambda x, p: x * F.maximum(p, [1, 2]), TypeError, "must be one, an array or a number, got list"),
    (lambda x, p: cnn.Linear(3, 3)(p), TypeError, "Linear is a layer for values and got Parameters alone"),
    (lambda x, p: cnn.cat([x, p.view(1, 3).expand(4, -1)], 1), ValueError, "does not go together"),
    (lambda x, p: p.exp(), TypeError, "forward must return a value"),
    (lambda x, p: x * p.max(), AttributeError, r"a Parameter has no attribute 'max': write x.amax\(dim\)"),
    (lambda x, p: x * p.exp().nothing, AttributeError, "what is computed from Parameters has no attribute 'nothing'$"),
    (lambda x, p: x * F.softmax(p, 1), ValueError, "softmax: dim must be an integer from -1 to 0, got 1"),
    (lambda x, p: x * p.view(3, 1, 1, 1).exp(), ValueError, r"shape \(3, 1, 1, 1\) does not go together with \(N, 3\)"),
    (lambda x, p: x * F.softmax(p.view(1, 3, 1, 1), 1)[0], ValueError, "does not go together"),
    (lambda x, p: x * p.view(1, 3, 1, 1)[None].exp(), ValueError, "at most 4 axes, got .1, 1, 3, 1, 1.: view"),
    (lambda x, p: x * F.cosine_similarity(p, p), TypeError, "one of x1, x2 must be a value, got Parameters alone"),
    (lambda x, p: F.linear(x, p.exp()), ValueError, r"linear: weight must have shape \(K, C\) .* got \(3,\)"),
    (lambda x, p: x + cnn.cat([p, p[:, None]]), ValueError, "cat: shapes must be the same, but for the axis dim, got"),
    (lambda x, p: x + p[0].tril(), ValueError, "tril: an array must have matrices, two axes or more"),
    (lambda x, p: x + cnn.cat([p.sum(), p.sum()]), ValueError, "cat: arrays without axes are joined by stack"),
    (lambda x, p: F.linear(x, p, p), ValueError, r"linear: weight must have shape .*, got \(3,\) and \(3,\)"),
    (lambda x, p: F.conv2d(x, p, p), ValueError, r"conv2d: weight must have shape .* got \(3,\) and \(3,\)"),
    (lambda x, p: x + F.stack([p, p[None]]), ValueError, "stack: shapes must be the same, got"),
    (lambda x, p: F.conv2d(x, p.exp()), ValueError, r"conv2d: weight must have shape \(K, C/groups, R, S\)"),
    (lambda x, p: x * p[5], ValueError, "index"), (lambda x, p: x * p[..., ...], ValueError, "index: .* ellipsis"),
    (lambda x, p: x * p["a":], ValueError, "index: slice indices must be"),
    (lambda x, p: x * p[::0], ValueError, "index: "), (lambda x, p: x * p[10**30], ValueError, "index: "),
    (lambda x, p: x * p[[1.0]], TypeError, "list of whole numbers"),
    (lambda x, p: x * p.view(1, 3)[[0], [1]], TypeError, "index: one list of whole numbers"),
    (lambda x, p: x * p.view(1, 1, 3).t(), ValueError, "t: an array must have two axes at most"),
    (lambda x, p: x * p.expand(10**6, 10**6, 3).sum(), ValueError, "expand"),
    (lambda x, p: x * p.expand_as(None), TypeError, "expand_as: other must be an array, got NoneType"),
    (lambda x, p: x * p.sum().sum(0), ValueError, "sum: dim must be None for an array without axes, got 0"),
    (lambda x, p: x * p.repeat(-1), ValueError, "repeat: sizes"),
    (lambda x, p: x + p.exp()[:, None, None, None], ValueError, "does not go together"),
])
def test_what_cannot_be_computed(function, error, words):
    model = Net(function, cnn.Parameter(np.ones(3, np.float32)))
    with pytest.raises(error, match=words):
        model(np.ones((2, 3), np.float32))


@pytest.mark.parametrize("ask, error", [
    (lambda p: p + 1, TypeError), (lambda p: np.ones(2) * p, TypeError), (lambda p: p[0], TypeError),
    (lambda p: list(p), TypeError), (lambda p: p.exp(), AttributeError), (lambda p: p > 0, TypeError)])
def test_elsewhere_a_parameter_has_an_array(ask, error):
    with pytest.raises(error, match="its array is `data`"):
        ask(cnn.Parameter(np.ones(2, np.float32)))
