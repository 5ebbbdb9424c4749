"""Optimizers against PyTorch's and their NumPy twins over fifty steps; clipping."""

import inspect
import math

import numpy as np
import pytest

import cnn
from cnn import Parameter, optim, reference

# class (the same name in torch.optim), options
OPTIONS = [
    ("SGD", {"lr": 0.1}),
    ("SGD", {"lr": 0.1, "weight_decay": 0.02}),
    ("SGD", {"lr": 0.1, "momentum": 0.9}),
    ("SGD", {"lr": 0.1, "momentum": 0.9, "nesterov": True}),
    ("SGD", {"lr": 0.1, "momentum": 0.8, "nesterov": True, "weight_decay": 0.02}),
    ("Adam", {}),
    ("Adam", {"lr": 0.02, "betas": (0.5, 0.9), "eps": 1e-3, "weight_decay": 0.1}),
    ("Adam", {"betas": (0.0, 0.0)}),
    ("AdamW", {}),
    ("AdamW", {"lr": 0.02, "betas": (0.5, 0.9), "eps": 1e-3, "weight_decay": 0.1}),
    ("RMSprop", {}),
    ("RMSprop", {"lr": 0.02, "alpha": 0.8, "eps": 1e-3, "weight_decay": 0.1}),
    ("RMSprop", {"momentum": 0.9}),
    ("RMSprop", {"centered": True}),
    ("RMSprop", {"momentum": 0.9, "centered": True, "weight_decay": 0.1}),
]
SHAPES = [(3, 4), (5,), (70, 61), (1,), (2, 3, 2, 2)]  # 4270 numbers are more than one task of the kernel
per_option = pytest.mark.parametrize("name, options", OPTIONS, ids=str)


def start(dtype=np.float64):
    rng = np.random.default_rng(0)
    return [rng.standard_normal(shape).astype(dtype) for shape in SHAPES]


def gradients(step, dtype=np.float64):
    """Large and small ones, some exactly 0."""
    rng = np.random.default_rng(step + 1)
    return [(rng.standard_normal(s) * rng.choice([0, 1e-3, 1, 30], s)).astype(dtype) for s in SHAPES]


def rate(step, options, default):
    """A learning rate that changes on the way."""
    return options.get("lr", default) * (1 if step < 30 else 0.1)


@per_option
def test_fifty_steps_agree_with_pytorch(torch, name, options):
    params = [Parameter(w) for w in start()]
    tensors = [torch.tensor(w) for w in start()]
    ours = getattr(cnn, name)(params, **options)
    theirs = getattr(torch.optim, name)(tensors, **options)
    for step in range(50):
        ours.lr = theirs.param_groups[0]["lr"] = rate(step, options, 0.01)
        for p, t, g in zip(params, tensors, gradients(step), strict=True):
            p.grad, t.grad = g, torch.tensor(g)
        ours.step()
        theirs.step()
    for p, t in zip(params, tensors, strict=True):
        np.testing.assert_allclose(p.data, t.numpy(), rtol=1e-12, atol=1e-12)


def twin_step(name, o, w, g, state, step, lr):
    """One step of the NumPy twin, `state` three arrays of zeros at first."""
    if name == "SGD":
        momentum, nesterov, decay = o.get("momentum", 0), o.get("nesterov", False), o.get("weight_decay", 0)
        reference.sgd_update(w, g, state[0], lr, momentum, nesterov, decay, first=step == 0)
    elif name == "RMSprop":
        more = o.get("weight_decay", 0), o.get("momentum", 0), o.get("centered", False)
        reference.rmsprop_update(w, g, *state, lr, o.get("alpha", 0.99), o.get("eps", 1e-8), *more)
    else:
        decay = o.get("weight_decay", 0.01 if name == "AdamW" else 0)
        betas, eps = o.get("betas", (0.9, 0.999)), o.get("eps", 1e-8)
        reference.adam_update(w, g, *state[:2], step + 1, lr, *betas, eps, decay, name == "AdamW")


@per_option
@pytest.mark.parametrize("dtype, tolerance", [(np.float64, 1e-12), (np.float32, 3e-4)])
def test_fifty_steps_agree_with_the_twin(name, options, dtype, tolerance):
    params = [Parameter(w) for w in start(dtype)]
    optimizer = getattr(cnn, name)(params, **options)
    wanted = start()
    state = [[np.zeros(s) for _ in range(3)] for s in SHAPES]
    for step in range(50):
        optimizer.lr = lr = rate(step, options, 0.01)
        for p, w, g, s in zip(params, wanted, gradients(step, dtype), state, strict=True):
            p.grad = g
            twin_step(name, options, w, g.astype(np.float64), s, step, lr)
        optimizer.step()
    for p, w in zip(params, wanted, strict=True):
        assert p.dtype == dtype
        np.testing.assert_allclose(p.data, w, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW", "RMSprop"])
def test_defaults_are_pytorchs(torch, name):
    wanted = getattr(torch.optim, name)([torch.zeros(1)]).defaults
    ours = inspect.signature(getattr(cnn, name)).parameters
    assert list(ours)[:2] == ["params", "lr"]
    assert {key: p.default for key, p in ours.items() if key != "params"} == {
        k: wanted[k] for k in list(ours)[1:]
    }


@per_option
def test_same_bits_with_any_number_of_threads(name, options, set_threads):
    results = []
    for threads in (1, 2, 3, 4):
        set_threads(threads)
        params = [Parameter(w) for w in start(np.float32)]
        optimizer = getattr(cnn, name)(params, **options)
        for step in range(3):
            for p, g in zip(params, gradients(step, np.float32), strict=True):
                p.grad = g
            optimizer.step()
        results.append(b"".join(p.data.tobytes() for p in params))
    assert len(set(results)) == 1


# ------------------------------------------------------------------------------------------ parameters


def test_parameters_keep_their_values_when_they_are_laid_side_by_side():
    params = [Parameter(w) for w in start()]
    for p, g in zip(params, gradients(0), strict=True):
        p.grad = g
    cnn.SGD(params)
    for p, w, g in zip(params, start(), gradients(0), strict=True):
        assert np.array_equal(p.data, w) and np.array_equal(p.grad, g)


def test_two_optimizers_take_turns_on_the_same_parameters():
    p = Parameter(np.array([1.0, 2.0]))
    first, second = cnn.SGD([p], lr=1, momentum=0.5), cnn.SGD([p], lr=10)
    for optimizer in (first, second, first):
        p.grad = [1.0, 0.0]
        optimizer.step()
    assert p.data.tolist() == [1 - 1 - 10 - 1.5, 2]


@pytest.mark.parametrize("dtype, other", [(np.float32, np.float64), (np.float64, np.float32)])
def test_an_optimizer_follows_a_change_of_dtype(dtype, other):
    p = Parameter(np.array([1.0, 2.0], dtype))
    optimizer = cnn.SGD([p], lr=1, momentum=0.5)
    p.grad = [1, 0]
    optimizer.step()
    p.to(other)
    p.grad = [1, 0]
    optimizer.step()
    assert p.dtype == other and p.data.tolist() == [1 - 1 - 1.5, 2]


def test_steps_are_counted():
    optimizer = cnn.Adam([Parameter(np.ones(1))])
    for _ in range(3):
        optimizer.step()
    assert optimizer.steps == 3


@pytest.mark.parametrize("name", ["SGD", "AdamW", "RMSprop"])
def test_a_frozen_parameter_stays_as_it_is(torch, name):
    """As with PyTorch's zero_grad and step: no gradient, no update, and no weight decay either."""
    w, g = np.array([1.0, -2.0]), np.array([0.5, 0.25])
    params, tensors = [Parameter(w), Parameter(w)], [torch.tensor(w, requires_grad=True) for _ in range(2)]
    ours = getattr(cnn, name)(params, lr=0.1, weight_decay=0.5)
    theirs = getattr(torch.optim, name)(tensors, lr=0.1, weight_decay=0.5)
    params[0].requires_grad = False
    params[1].grad, tensors[1].grad = g, torch.tensor(g)
    ours.step()
    theirs.step()
    for p, t in zip(params, tensors, strict=True):
        np.testing.assert_allclose(p.data, t.detach().numpy(), rtol=1e-12, atol=1e-12)


# ------------------------------------------------------------------------------------------ clipping


@pytest.mark.parametrize("max_norm", [1e-3, 5.0, 1e3])
def test_clip_grad_norm_agrees_with_pytorch(torch, max_norm):
    params = [Parameter(w) for w in start()]
    tensors = [torch.tensor(w) for w in start()]
    for p, t, g in zip(params, tensors, gradients(3), strict=True):
        p.grad, t.grad = g, torch.tensor(g)
    wanted = torch.nn.utils.clip_grad_norm_(tensors, max_norm)
    assert cnn.clip_grad_norm(params, max_norm) == pytest.approx(wanted.item(), rel=1e-12)
    for p, t in zip(params, tensors, strict=True):
        np.testing.assert_allclose(p.grad, t.grad.numpy(), rtol=1e-12)


def test_clip_grad_norm_by_hand():
    params = [Parameter(np.zeros(1, np.float32)), Parameter(np.zeros((1, 1), np.float32))]
    params[0].grad, params[1].grad = [3], [[4]]
    assert cnn.clip_grad_norm(params, 10) == 5
    assert params[0].grad.tolist() == [3]
    assert cnn.clip_grad_norm(params, 1) == 5
    assert math.isclose(params[0].grad[0], 0.6, rel_tol=1e-5) and math.isclose(
        params[1].grad[0, 0], 0.8, rel_tol=1e-5
    )
    assert cnn.clip_grad_norm([], 1) == 0


def test_clip_grad_norm_of_large_float32_gradients_does_not_overflow():
    p = Parameter(np.zeros(4, np.float32))
    p.grad = np.full(4, 1e30)
    assert cnn.clip_grad_norm([p], 1) == pytest.approx(2e30, rel=1e-6)
    assert p.grad == pytest.approx(np.full(4, 0.5), rel=1e-5)


def test_every_optimizer_has_a_name():
    assert {
        cls.__name__.lower(): cls for cls in optim.Optimizer.__subclasses__()
    }.items() <= optim.OPTIMIZERS.items()
