"""Values of more than four axes: numbers by NumPy and by PyTorch, of the same text, and gradients."""
import numpy as np
import pytest
from cases import Function, assert_close

import cnn
from cnn import functional as F
from cnn.engine import backend
from cnn.layers.graph_module import graph_module

SIZES = 2, 3, 4, 5      # of (N, 24, 5): five axes with the images


def squash(x, dim):
    """Sabour, Frosst & Hinton 2017."""
    n = (x * x).sum(dim, keepdim=True)
    return x * n / (1 + n) / (n + 1e-6).sqrt()


# of x (N, 24, 5), in five axes v (N, 2, 3, 4, 5), with the functions of a library
CASES = {
    "numbers": lambda F, x, v: 2 * v - 1 + (1 - v) / 2 + v ** 2 - 1 / (v * v + 1),
    "functions": lambda F, x, v: v.relu() + v.sigmoid() * v.exp() + F.tanh(v) - F.relu(-v).abs().clamp(max=0.5),
    "sum": lambda F, x, v: v.sum(1) + v.sum(dim=2, keepdim=True).sum(1),
    "mean": lambda F, x, v: v.mean((3, 4)) + v.mean((1, 3, 4), keepdim=True)[:, 0, :, 0, 0][:, None],
    "maxout": lambda F, x, v: v.max(1)[0] * v.max(dim=1).values + v.amin(1) - v.min(1).values,
    "variance": lambda F, x, v: (v - v.mean((2, 3, 4), keepdim=True)) / (v.var(
        (2, 3, 4), unbiased=False, keepdim=True) + 1e-5).sqrt(),
    "deviation": lambda F, x, v: v.std(dim=-1) + v.norm(dim=-1),
    "softmax": lambda F, x, v: v.softmax(2) * F.softmax(v, dim=1) + F.log_softmax(v, dim=-1) + v.log_softmax(1),
    "split attention": lambda F, x, v: (v * v.mean((3, 4), keepdim=True).softmax(1)).sum(1),
    "values": lambda F, x, v: v * v[:, :1] + v[:, :, :, :, 2:3] - v[:, :, 1:2] / (1 + v[:, :, :, 3:].square()),
    "of a value": lambda F, x, v: v * x.mean(1)[:, None, None, None] + v.mean(1)[:, None] * x.view(-1, 2, 3, 4, 5),
    "masks": lambda F, x, v: v * (v > 0) + 2 * (v <= v.mean(1, keepdim=True)) * v,
    "larger": lambda F, x, v: v.maximum(v.square()).minimum(v.exp()),
    "parts": lambda F, x, v: v[:, 1, 2] * v[:, 0, :, 1:3].sum(2)[:, 1:2] + v[..., 0, :].sum(1).sum(1)[:, None],
    "unbind": lambda F, x, v: sum(part * i for i, part in enumerate(v.unbind(2))),
    "capsules": lambda F, x, v: squash(v, -1).norm(dim=-1),
    "products": lambda F, x, v: v @ v.transpose(-2, -1) * 0.1,
    "axes of size one": lambda F, x, v: (x[:, None, None, :6] * x.view(-1, 4, 6, 5)[:, :, None]).sum(2).squeeze(2),
    "unsqueeze": lambda F, x, v: v.mean(1).unsqueeze(2).expand(-1, 3, 7, 4, 5).mean(2) + v.mean(4, True).squeeze(
        4).sum(1).unsqueeze(3),
    "normalised": lambda F, x, v: F.normalize(v, dim=2) + F.normalize(v, dim=-1),
    "six axes": lambda F, x, v: (v.unsqueeze(2) * v.unsqueeze(1)).sum(2).mean(1) + v.unsqueeze(3).sum((1, 3)),
    "images second": lambda F, x, v: (v.permute(1, 0, 2, 3, 4) * 2 + 1)[0] * v.permute(1, 0, 2, 3, 4).sum(0),
    "permuted": lambda F, x, v: (v.permute(0, 4, 2, 1, 3) * 2).sum(3) + v.permute(0, 3, 4, 1, 2).softmax(1).mean(3)
    .permute(0, 2, 3, 1),
}


def made(library, name):
    def compute(x):
        y = CASES[name](library, x, x.view(-1, *SIZES))
        return y.flatten(3) if y.ndim > 4 else y
    return compute


@pytest.mark.parametrize("images", [1, 17])
@pytest.mark.parametrize("name", CASES)
def test_numbers_and_gradients(name, images, torch):
    x = np.random.default_rng(0).standard_normal((images, 24, 5))
    t = torch.tensor(x, requires_grad=True)
    z, model = made(torch.nn.functional, name)(t), Function(made(F, name))
    y = model(x)
    assert_close(y, z.detach().numpy(), 1e-12)
    dy = np.random.default_rng(1).standard_normal(z.shape)
    z.backward(torch.tensor(dy))
    assert_close(model.backward(dy), t.grad.numpy(), 1e-11)
    assert_close(backend.using("reference", model, x), y, 1e-12)
    assert_close(graph_module(model, (24, 5)).to(np.float64)(x), y, 1e-12)


class Grouped(cnn.Module):
    """Scales and offsets of five axes beside a value, and one computed from a Parameter."""

    def __init__(self):
        super().__init__()
        rng = np.random.default_rng(0)
        self.scale, self.offset = cnn.Parameter(rng.random((1, 2, 3, 1, 1))), cnn.Parameter(rng.random((4, 1)))
        self.gate, self.table = cnn.Parameter(rng.random((2, 1, 1, 1))), rng.random((3, 4, 5))

    def forward(self, x):
        v = x.view(-1, *SIZES)
        v = v * self.scale.view(1, 2, 3, 1, 1) + self.offset
        return (self.gate.sigmoid() * v - self.table * v).sum(1)


def test_parameters_and_arrays_beside():
    model, x = Grouped(), np.random.default_rng(0).standard_normal((17, 24, 5))
    v = x.reshape(-1, *SIZES) * model.scale.data + model.offset.data
    gate = 1 / (1 + np.exp(-model.gate.data))
    assert_close(model(x), (gate * v - model.table * v).sum(1), 1e-12)
    model.backward(np.ones((17, 3, 4, 5)))
    down = np.broadcast_to(gate - model.table, v.shape)
    assert_close(model.scale.grad, (down * x.reshape(v.shape)).sum((0, 3, 4))[None, :, :, None, None], 1e-12)
    assert_close(model.offset.grad, down.sum((0, 1, 2, 4))[:, None], 1e-12)
    assert_close(model.gate.grad, (gate * (1 - gate) * v.sum((0, 2, 3, 4))[:, None, None, None]), 1e-11)


def test_stack_and_cat(torch):
    """As selective kernels do (Li et al. 2019)."""
    def compute(lib, x):
        parts = lib.stack([x, x.exp(), -x], dim=1)
        both = lib.cat([parts, parts * 2], dim=2)
        return (parts * parts.mean((3, 4), keepdim=True).softmax(1)).sum(1) + both.sum(1)[:, :4] + lib.stack(
            [x, x * x], dim=4)[..., 1] + lib.stack([x, 3 * x], 2).sum(2)
    x = np.random.default_rng(0).standard_normal((17, 4, 3, 5))
    t = torch.tensor(x, requires_grad=True)
    z, model = compute(torch, t), Function(lambda x: compute(F, x))
    y = model(x)
    assert_close(y, z.detach().numpy(), 1e-12)
    z.backward(torch.ones_like(z))
    assert_close(model.backward(np.ones_like(y)), t.grad.numpy(), 1e-11)


@pytest.mark.parametrize("act, error, words", [
    (lambda v: v, ValueError, "what is returned must have at most 4 axes"),
    (lambda v: v + "a", TypeError, "unsupported operand"),
    (lambda v: v * v[:, :, :2], ValueError, "do not go together"),
    (lambda v: v * v.mean(1), ValueError, "both must have all axes, the images first"),
    (lambda v: v * np.ones((2, 2, 3, 4, 5)), ValueError, "must have size 1 for the images"),
    (lambda v: v + v.permute(1, 0, 2, 3, 4), ValueError, "must have the images in the same place"),
    (lambda v: v.sum(0), ValueError, "sum: dim must be different axes, and not that of the images, 0, got 0"),
    (lambda v: v.sum((1, 1)), ValueError, "sum: dim must be different axes"),
    (lambda v: v.softmax(5), ValueError, "softmax: dim must be an integer from -5 to 4"),
    (lambda v: v.var((1, 3)), ValueError, "var: dim must be axes side by side"),
    (lambda v: v @ v, ValueError, r"must have shapes \(N, ..., A, B\)"),
    (lambda v: v[:, 5], ValueError, "out of bounds"), (lambda v: v[:, :, 3:], ValueError, "must leave some"),
    (lambda v: v[0], TypeError, r"must be cut as in x\[:, 2:5\]"),
    (lambda v: v.squeeze(0), ValueError, "squeeze: dim must not be that of the images"),
    (lambda v: v.expand(-1, 3, 3, 4, 5), ValueError, "expand: sizes must be those of"),
    (lambda v: v if v else 1, TypeError, "cannot tell whether it is true"),
    (lambda v: F.conv2d(v, np.ones((1, 1, 1, 1))), TypeError, "conv2d"),
    (lambda v: F.logsumexp(v, 1), TypeError, "must be permuted or viewed to 4 axes"),
    (lambda v: F.cat([v, v[:, :, :2]], 1), ValueError, "cat: all values must have the shape"),
    (lambda v: v.unknown(), AttributeError, "has no attribute 'unknown'"),
])
def test_what_does_not_fit(act, error, words):
    with pytest.raises(error, match=words):
        Function(lambda x: act(x.view(-1, *SIZES)))(np.ones((3, 24, 5)))
