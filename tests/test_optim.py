"""Optimizers against PyTorch's and their NumPy twins over fifty steps; clipping."""

import inspect
import json
import math
import platform

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
    ("SGD", {"lr": 0.1, "momentum": 0.9, "dampening": 0.3, "weight_decay": 0.02}),
    ("SGD", {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.02, "maximize": True}),
    ("SGD", {"lr": 0.1, "maximize": True}),
    ("Adam", {}),
    ("Adam", {"amsgrad": True, "betas": (0.5, 0.6)}),
    ("Adam", {"amsgrad": True, "maximize": True, "weight_decay": 0.1}),
    ("Adam", {"lr": 0.02, "betas": (0.5, 0.9), "eps": 1e-3, "weight_decay": 0.1}),
    ("Adam", {"betas": (0.0, 0.0)}),
    ("AdamW", {}),
    ("AdamW", {"amsgrad": True, "betas": (0.5, 0.6), "weight_decay": 0.1}),
    ("AdamW", {"maximize": True}),
    ("AdamW", {"lr": 0.02, "betas": (0.5, 0.9), "eps": 1e-3, "weight_decay": 0.1}),
    ("RMSprop", {}),
    ("RMSprop", {"maximize": True, "momentum": 0.9, "centered": True, "weight_decay": 0.1}),
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
    maximize = o.get("maximize", False)
    if name == "SGD":
        momentum, nesterov, decay = o.get("momentum", 0), o.get("nesterov", False), o.get("weight_decay", 0)
        reference.sgd_update(w, g, state[0], lr, momentum, nesterov, decay, step == 0, o.get("dampening", 0), maximize)
    elif name == "RMSprop":
        more = o.get("weight_decay", 0), o.get("momentum", 0), o.get("centered", False)
        reference.rmsprop_update(w, g, *state, lr, o.get("alpha", 0.99), o.get("eps", 1e-8), *more, maximize)
    else:
        decay = o.get("weight_decay", 0.01 if name == "AdamW" else 0)
        betas, eps = o.get("betas", (0.9, 0.999)), o.get("eps", 1e-8)
        v_max = state[2] if o.get("amsgrad") else None
        reference.adam_update(w, g, *state[:2], step + 1, lr, *betas, eps, decay, name == "AdamW", v_max, maximize)


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


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64", "aarch64", "arm64"), reason="keeps subnormals")
def test_what_decays_becomes_zero(dtype, set_threads):
    """Momentum without gradients does not stay among the subnormal numbers, which take a hundred times as long. NumPy
    still has them afterwards."""
    smallest = np.finfo(dtype).smallest_normal
    for threads in (1, 3):
        set_threads(threads)
        p = Parameter(np.ones(50_000, dtype))
        optimizer = optim.SGD([p], lr=1.0, momentum=0.5)
        optimizer.state["velocity"][:] = 4 * smallest
        found = []
        for _ in range(4):
            optimizer.step()
            found.append(np.unique(optimizer.state["velocity"]).tolist())
        assert found == [[2 * smallest], [smallest], [0.0], [0.0]]
        assert (np.full(100, smallest, dtype) / 2 > 0).all()


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


# ------------------------------------------------------------------------------------------ groups

# class, what the optimizer is given, what the second of three groups has of its own, and what the third
GROUPS = [
    ("SGD", {"lr": 0.1, "weight_decay": 0.02}, {"weight_decay": 0.0}, {"lr": 0.7}),
    ("SGD", {"lr": 0.1, "momentum": 0.9}, {"momentum": 0, "lr": 0.01}, {"nesterov": True, "weight_decay": 0.1}),
    ("Adam", {}, {"betas": (0.5, 0.8), "lr": 0.02}, {"eps": 1e-3, "weight_decay": 0.1}),
    ("AdamW", {"lr": 0.02}, {"weight_decay": 0, "betas": (0.7, 0.99)}, {"lr": 0.0}),
    ("RMSprop", {"weight_decay": 0.1}, {"alpha": 0.8, "momentum": 0.5}, {"centered": True, "lr": 0.03, "eps": 1e-3}),
]
per_group = pytest.mark.parametrize("name, options, second, third", GROUPS, ids=str)


def grouped(params, second, third):
    """Three groups in another order than that of the parameters."""
    return [{"params": params[3:]}, {"params": [params[0]], **second}, {"params": (params[2], params[1]), **third}]


@per_group
def test_groups_agree_with_pytorch(torch, name, options, second, third):
    params = [Parameter(w) for w in start()]
    tensors = [torch.tensor(w) for w in start()]
    ours = getattr(cnn, name)(grouped(params, second, third), **options)
    theirs = getattr(torch.optim, name)(grouped(tensors, second, third), **options)
    rates = [group["lr"] for group in theirs.param_groups]
    assert [group["lr"] for group in ours.param_groups] == pytest.approx(rates, rel=1e-15)
    for step in range(50):
        factor = 1 / (1 + step)
        ours.lr = factor * options.get("lr", 0.01 if name == "RMSprop" else 0.001)
        for group, lr in zip(theirs.param_groups, rates, strict=True):
            group["lr"] = factor * lr
        for p, t, g in zip(params, tensors, gradients(step), strict=True):
            p.grad, t.grad = g, torch.tensor(g)
        ours.step()
        theirs.step()
    for p, t in zip(params, tensors, strict=True):
        np.testing.assert_allclose(p.data, t.numpy(), rtol=1e-12, atol=1e-12)
    for group, wanted in zip(ours.param_groups, theirs.param_groups, strict=True):
        assert {key: group[key] for key in group if key not in ("params", "lr")} == {
            key: wanted[key] for key in group if key not in ("params", "lr")
        }


@pytest.mark.parametrize("frozen", [(0,), (2,), (1, 4), (3, 4)])
def test_a_frozen_parameter_of_a_group_stays_as_it_is(frozen):
    """Parameters beside it in the flat array, in its own group and the next, go on."""
    params, others = ([Parameter(w) for w in start()] for _ in range(2))
    for i in frozen:
        params[i].requires_grad = False
    kept = [p for i, p in enumerate(others) if i not in frozen]
    groups = [{"params": params[:2], "weight_decay": 0.1}, {"params": params[2:], "lr": 0.3}]
    wanted = [{**group, "params": [others[params.index(p)] for p in group["params"] if p.requires_grad]}
              for group in groups]
    for p, q, g in zip(params, others, gradients(0), strict=True):
        p.grad, q.grad = g, g
    cnn.SGD(groups, lr=0.1, momentum=0.9).step()
    cnn.SGD(wanted, lr=0.1, momentum=0.9).step()
    for i, (p, w) in enumerate(zip(params, start(), strict=True)):
        assert np.array_equal(p.data, w) == (i in frozen)
    assert all(np.array_equal(p.data, q.data) for p, q in zip(params, others, strict=True) if q in kept)


def test_one_group_is_no_group():
    params, others = ([Parameter(w) for w in start(np.float32)] for _ in range(2))
    for p, q, g in zip(params, others, gradients(0), strict=True):
        p.grad, q.grad = g, g
    cnn.Adam(params, lr=0.1).step()
    cnn.Adam([{"params": others[:2]}, {"params": []}, {"params": others[2:], "lr": 0.1}], lr=0.1).step()
    assert all(np.array_equal(p.data, q.data) for p, q in zip(params, others, strict=True))


def test_split_biases():
    layers = cnn.Sequential(cnn.Conv2d(1, 2, 3), cnn.Flatten(), cnn.Linear(8, 3))
    weight, bias, weight2, bias2 = layers.parameters()
    groups = cnn.split_biases(layers.parameters(), weight_decay=0, lr=6.4)
    assert groups == [{"params": [weight, weight2]}, {"params": [bias, bias2], "weight_decay": 0, "lr": 6.4}]
    before = layers.state_dict()
    optimizer = cnn.SGD(groups, lr=0.1, weight_decay=0.5)     # all gradients are 0
    optimizer.step()
    for name, p in layers.named_parameters():
        assert p.data == pytest.approx(before[name] * (0.95 if "weight" in name else 1), rel=1e-6)
    optimizer.lr = 0.01
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.01, 0.64], rel=1e-12)


def test_parameter_groups():
    layers = cnn.Sequential(cnn.Conv2d(1, 2, 3, bias=False), cnn.BatchNorm2d(2), cnn.Flatten(), cnn.Linear(8, 3))
    weight, gamma, beta, last, bias = layers.parameters()
    assert cnn.parameter_groups(layers.parameters(), 0.1, 0.5) == [
        {"params": [weight, gamma, beta, last, bias], "lr": 0.1, "weight_decay": 0.5}]
    last.lr_scale = 0.25
    assert cnn.parameter_groups(layers.parameters(), 0.5, 0.5, bias_lr=2) == [
        {"params": [weight], "lr": 0.5, "weight_decay": 0.5},
        {"params": [gamma, beta, bias], "lr": 1.0, "weight_decay": 0.25},
        {"params": [last], "lr": 0.125, "weight_decay": 2.0}]
    assert [group["weight_decay"] for group in cnn.parameter_groups(layers.parameters(), 0.5, 0.5, 1, False)] == [
        0.5, 0.0, 2.0]
    before, groups = layers.state_dict(), cnn.parameter_groups(layers.parameters(), 0.5, 0.125, bias_lr=2)
    cnn.SGD(groups, 0.5).step()     # all gradients are 0: the decay of a step is the same for all
    for name, p in layers.named_parameters():
        assert p.data == pytest.approx(before[name] * (1 - 0.5 * 0.125), rel=1e-6)


def test_groups_by_name():
    model = cnn.Sequential(cnn.Conv2d(1, 2, 3), cnn.Flatten(), cnn.Linear(8, 3))
    w, b, w2, b2 = model.parameters()
    groups = cnn.named_groups(model.named_parameters(), {"2.*": {"lr": 0.5}, "*.bias": {"weight_decay": 0}})
    assert groups == [{"params": [w]}, {"params": [w2, b2], "lr": 0.5}, {"params": [b], "weight_decay": 0}]
    assert cnn.named_groups(model.named_parameters(), {"*": {"lr": 1}}) == [{"params": [w, b, w2, b2], "lr": 1}]
    assert cnn.named_groups(model.named_parameters(), {}) == [{"params": [w, b, w2, b2]}]
    assert cnn.SGD(model.named_parameters()).params == model.parameters()


def test_groups_by_name_agree_with_pytorchs_groups(torch):
    """Also with a schedule, by which PyTorch multiplies the rate of every group."""
    model = cnn.Sequential(cnn.Linear(3, 4), cnn.ReLU(), cnn.Linear(4, 2)).to(np.float64)
    twin = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2)).double()
    twin.load_state_dict({name: torch.tensor(value) for name, value in model.state_dict().items()})
    own = {"lr": 0.5, "weight_decay": 0.3}
    ours = cnn.SGD(cnn.named_groups(model.named_parameters(), {"2.*": own}), lr=0.1, momentum=0.9)
    theirs = torch.optim.SGD([{"params": twin[0].parameters()}, {"params": twin[2].parameters(), **own}], lr=0.1,
                             momentum=0.9)
    halving, schedule = torch.optim.lr_scheduler.StepLR(theirs, 2, 0.5), cnn.schedules.Step(0.1, 2, 0.5)
    for step in range(7):
        ours.lr = schedule(step)
        for p, q in zip(model.parameters(), twin.parameters(), strict=True):
            p.grad = np.random.default_rng(step).standard_normal(p.shape)
            q.grad = torch.tensor(p.grad)
        ours.step()
        theirs.step()
        halving.step()
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        np.testing.assert_allclose(p.data, q.detach().numpy(), rtol=1e-12)


@pytest.mark.parametrize(
    ("names", "options", "error", "words"),
    [
        (None, {"he.*": {"lr": 1}}, ValueError, r"pattern 'he.\*' must match a parameter, .* \['0.weight', '0.bias'"),
        (None, {"0.*": {}, "0.bias": {}}, ValueError, "'0.bias' must match a parameter that no pattern before it"),
        (None, {"0.*": 0.1}, TypeError, "options must be a dict of dicts by pattern"),
        ([1], {}, TypeError, "named_parameters must be"),
        (3, {}, TypeError, "named_parameters must be"),
        ([("a", 3)], {}, TypeError, "params must be Parameters, got int"),
    ],
)
def test_groups_by_name_that_cannot_be(names, options, error, words):
    model = cnn.Sequential(cnn.Linear(3, 4), cnn.Linear(4, 2))
    with pytest.raises(error, match=words):
        cnn.named_groups(model.named_parameters() if names is None else names, options)


def test_groups_cannot_be_changed_without_effect():
    optimizer = cnn.SGD([Parameter(np.ones(1))])
    with pytest.raises(TypeError):
        optimizer.param_groups[0]["lr"] = 1.0


# ------------------------------------------------------------------------------------------ state


def on_its_way(name, options, groups=({}, {}), dtype=np.float32, seed=None):
    """An optimizer of the parameters and they themselves, which `seed` draws anew."""
    params = [Parameter(w if seed is None else w + seed) for w in start(dtype)]
    return getattr(cnn, name)(grouped(params, *groups), **options), params


def go(optimizer, params, steps):
    for step in steps:
        for p, g in zip(params, gradients(step, params[0].dtype), strict=True):
            p.grad = g
        optimizer.step()


def through_files(state):
    """What a state is once its numbers have been text and its arrays bytes."""
    arrays = {key: value for key, value in state.items() if isinstance(value, np.ndarray)}
    numbers = json.loads(json.dumps({key: value for key, value in state.items() if key not in arrays}))
    return {**numbers, **{key: np.frombuffer(value.tobytes(), value.dtype) for key, value in arrays.items()}}


@per_group
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_resuming_gives_the_same_bits(name, options, second, third, dtype):
    straight, params = on_its_way(name, options, (second, third), dtype)
    go(straight, params, range(5))
    straight.lr = 0.123
    state = through_files(straight.state_dict())
    values = [p.data.copy() for p in params]
    go(straight, params, range(5, 9))

    resumed, others = on_its_way(name, {**options, "lr": 0.5}, dtype=dtype, seed=1)
    go(resumed, others, range(2))       # it has programs and a state of its own already
    resumed.load_state_dict(state)
    for p, value in zip(others, values, strict=True):
        p.data = value
    assert resumed.steps == 5 and resumed.lr == 0.123
    go(resumed, others, range(5, 9))
    assert all(np.array_equal(p.data, q.data) for p, q in zip(params, others, strict=True))


def test_a_state_is_a_copy():
    optimizer, params = on_its_way("SGD", {"momentum": 0.9})
    go(optimizer, params, range(2))
    state = optimizer.state_dict()
    kept = state["velocity"].copy()
    other, params2 = on_its_way("SGD", {"momentum": 0.9})
    other.load_state_dict(state)
    go(optimizer, params, range(2))
    go(other, params2, range(2))
    assert np.array_equal(state["velocity"], kept)


def test_a_trainer_sees_that_a_state_was_loaded():
    """Its program knows the options and where the state lies."""
    rng, results = np.random.default_rng(0), []
    images, labels = rng.standard_normal((20, 4)).astype(np.float32), rng.integers(0, 3, 20)
    for loaded in (False, True):
        layer = cnn.Linear(4, 3)
        wanted = cnn.SGD(layer.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
        optimizer = cnn.SGD(layer.parameters(), lr=0.1) if loaded else wanted
        trainer = cnn.Trainer(layer, optimizer, progress=False)
        weights = layer.state_dict()
        trainer.train_step(images, labels)
        layer.load_state_dict(weights)
        if loaded:
            optimizer.load_state_dict(wanted.state_dict())
        else:
            wanted.load_state_dict({**wanted.state_dict(), "steps": 0, "velocity": np.zeros(15)})
        for _ in range(3):
            trainer.train_step(images, labels)
        results.append(layer.weight.data)
    assert np.array_equal(*results)


def test_a_state_of_before_there_were_these_options_is_taken():
    new = {"SGD": ["dampening", "maximize"], "Adam": ["amsgrad", "maximize"], "RMSprop": ["maximize"]}
    for name, added in new.items():
        optimizer, params = on_its_way(name, {})
        go(optimizer, params, range(2))
        state, (other, params2) = optimizer.state_dict(), on_its_way(name, {})
        groups = [{key: value for key, value in group.items() if key not in added} for group in state["param_groups"]]
        for p, q in zip(params, params2, strict=True):
            q.data = p.data
        other.load_state_dict({**state, "param_groups": groups})
        go(optimizer, params, range(2, 4))
        go(other, params2, range(2, 4))
        assert all(np.array_equal(p.data, q.data) for p, q in zip(params, params2, strict=True))


BAD_STATES = [
    (lambda s: None, TypeError, "state must be a dict, got NoneType"),
    (lambda s: {}, ValueError, "state must have steps, lr, param_groups"),
    (lambda s: {**s, "steps": -1}, ValueError, "steps must be an integer of at least 0, got -1"),
    (lambda s: {**s, "steps": 1.0}, TypeError, "steps must be an integer, got 1.0"),
    (lambda s: {**s, "lr": math.nan}, ValueError, "lr must be a finite number of at least 0, got nan"),
    (lambda s: {**s, "param_groups": 3}, TypeError, "param_groups must be a list of dicts, got int"),
    (lambda s: {**s, "param_groups": [None] * 3}, TypeError, "param_groups must be a list of dicts"),
    (lambda s: {**s, "param_groups": s["param_groups"][1:]}, ValueError, "param_groups must be 3 groups, got 2"),
    (lambda s: {**s, "param_groups": s["param_groups"][::-1]}, ValueError, "parameters of the shapes"),
    (lambda s: {**s, "param_groups": [{**g, "eps": 1} for g in s["param_groups"]]}, ValueError, "must have shapes"),
    (lambda s: {**s, "param_groups": [{**g, "lr_scale": -1} for g in s["param_groups"]]}, ValueError, "lr_scale"),
    (lambda s: {**s, "param_groups": [{**g, "momentum": "1"} for g in s["param_groups"]]}, TypeError, "momentum"),
    (lambda s: {**s, "more": 1}, ValueError, "state must have steps, lr, param_groups, velocity, got"),
    (lambda s: {k: v for k, v in s.items() if k != "velocity"}, ValueError, "state must have"),
    (lambda s: {**s, "velocity": s["velocity"][1:]}, ValueError, "velocity must have shape"),
    (lambda s: {**s, "velocity": s["velocity"].astype(int)}, TypeError, "velocity must be float32 or float64"),
    (lambda s: {**s, "velocity": s["velocity"].tolist()}, TypeError, "velocity must be a NumPy array"),
]  # fmt: skip


@pytest.mark.parametrize("change, error, words", BAD_STATES, ids=[row[2] for row in BAD_STATES])
def test_a_state_that_does_not_fit_changes_nothing(change, error, words):
    optimizer, params = on_its_way("SGD", {"momentum": 0.9})
    go(optimizer, params, range(2))
    state = optimizer.state_dict()
    with pytest.raises(error, match="SGD") as caught:
        optimizer.load_state_dict(change({**state, "steps": 7}))
    assert words in str(caught.value)
    after = optimizer.state_dict()
    assert np.array_equal(after.pop("velocity"), state.pop("velocity")) and after == state


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
