"""PyTorch's own samples of modules (module_db) and of the losses of classes, forward and backward in float64: our layer
or loss of the same name is made by the same arguments."""
import inspect
import warnings

import numpy as np
import pytest

import cnn

torch = pytest.importorskip("torch")
pytest.importorskip("expecttest")      # which the samples' module imports
TOLERANCE = 1e-9


def module_db():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torch.testing._internal.common_modules import module_db as found
    return {info.module_cls.__name__: info for info in found}


NAMES = [name for name in module_db() if hasattr(cnn, name) or hasattr(cnn.losses, name)]
OF_THREE = {"CosineEmbeddingLoss", "GaussianNLLLoss", "MarginRankingLoss", "TripletMarginLoss"}
# of each element by itself: any shape will do, also none
ELEMENTS = {"ELU", "GELU", "Hardswish", "Hardtanh", "ReLU", "LeakyReLU", "ReLU6", "Sigmoid", "SiLU", "Softplus",
            "Tanh", "Mish", "CELU", "SELU", "Hardshrink", "LogSigmoid", "Softshrink", "Softsign", "Tanhshrink",
            "Threshold"}
# made of, or called with, more, or with the images second: tests/test_composed_layers.py has them
OF_SEVERAL = {"MultiheadAttention", "TransformerEncoder", "TransformerEncoderLayer"}
COARSE = {"Hardswish": 1e-7}       # PyTorch's 1/6 is that of float32


def samples(name, training):
    info = module_db()[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return [(found.constructor_input.args, found.constructor_input.kwargs, found.forward_input.args)
                for found in info.module_inputs_func(info, device="cpu", dtype=torch.float64, requires_grad=True,
                                                     training=training)
                if found.forward_input is not None and found.forward_input.args]


def ours(cls, args, kwargs):
    numbers = [tuple(a) if isinstance(a, list) else a.detach().numpy() if torch.is_tensor(a) else a for a in args]
    named = {k: v.detach().numpy() if torch.is_tensor(v) else v for k, v in kwargs.items()}
    if "dtype" in inspect.signature(cls).parameters:
        named["dtype"] = np.float64
    return cls(*numbers, **named)


def close(got, wanted, name):
    wanted = wanted.detach().numpy()
    assert got.size == wanted.size, (got.shape, wanted.shape)
    scale = np.abs(wanted[np.isfinite(wanted)]).max(initial=1)
    np.testing.assert_allclose(got.reshape(wanted.shape), wanted, rtol=0, atol=COARSE.get(name, TOLERANCE) * scale)


def shape_of(name, x, args):
    """The shape in which our layer gets an input."""
    shape = tuple(x.shape)
    if name in ELEMENTS:
        return (1, max(1, x.numel()))
    if name in ("Softmax", "LogSoftmax", "Softmin"):
        return {0: (1, 1)}.get(len(shape), shape)
    if name == "LayerNorm":
        normalised = len(args[0])
        return (int(np.prod(shape[:-normalised], dtype=int)), *shape[-normalised:])
    if name in ("LocalResponseNorm", "GroupNorm") and len(shape) > 4:
        return (*shape[:2], 1, int(np.prod(shape[2:], dtype=int)))
    if name in ("PReLU", "GLU") and len(shape) < 2:
        return (1, max(1, x.numel()))
    return shape


def applies(name, args, kwargs, inputs):
    """Whether a sample does: none that asks for indices, of volumes, of a softmax of one number, or of an
    instance norm with running statistics, which is refused."""
    return not (kwargs.get("return_indices") or inputs[0].ndim > 4 and name not in (*ELEMENTS, "LocalResponseNorm")
                or name in ("InstanceNorm1d", "InstanceNorm2d") and True in args[4:]
                or name in ("Softmax", "LogSoftmax", "Softmin") and not inputs[0].ndim)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", [name for name in NAMES if hasattr(cnn, name) and not name.endswith("Loss")
                                  and name not in OF_SEVERAL])
def test_layers_agree(name, training):
    count = 0
    for args, kwargs, inputs in samples(name, training):
        if not applies(name, args, kwargs, inputs):
            continue
        theirs = module_db()[name].module_cls(*args, **kwargs).double().train(training)
        layer = ours(getattr(cnn, name), args, kwargs).train(training)
        layer.load_state_dict({key: value.detach().numpy() for key, value in theirs.state_dict().items()})
        x = inputs[0]
        y, wanted = layer(x.detach().numpy().reshape(shape_of(name, x, args))), theirs(x)
        close(y, wanted, name)
        count += 1
        if not training:
            continue
        dy = torch.tensor(np.random.default_rng(0).standard_normal(wanted.shape))
        wanted.backward(dy)
        dx = layer.backward(dy.numpy().reshape(y.shape))
        if x.requires_grad:     # all but integers
            close(dx, x.grad, name)
        for (key, p), (_, q) in zip(layer.named_parameters(), theirs.named_parameters(), strict=True):
            close(p.grad, q.grad, f"{name}.{key}")
    assert count


def as_pixels(scores, targets):
    """Scores (N, K, 1, pixels) and targets (N, 1, pixels) of those with any axes; of one image too."""
    scores, targets = scores.detach().numpy(), targets.detach().numpy()
    soft = targets.dtype.kind == "f"
    if scores.ndim == 1:
        scores, targets = scores[None], targets[None]
    if scores.ndim == 2:
        return scores, targets
    shape = (*scores.shape[:2], 1, int(np.prod(scores.shape[2:])))
    return scores.reshape(shape), targets.reshape(shape if soft else (shape[0], *shape[2:]))


def agree(loss, function, scores, targets, name):
    """Compare a loss and its gradient by the scores, which in some samples are the targets, too."""
    scores, targets = scores.detach().clone().requires_grad_(), targets.detach()
    if name == "MultiMarginLoss":
        x, t = (a.detach().numpy()[None] if scores.ndim == 1 else a.detach().numpy() for a in (scores, targets))
        t = t.reshape(len(x))
    elif isinstance(loss, OF_CLASSES):
        x, t = as_pixels(scores, targets)
    else:
        x, t = (a.detach().numpy() if 2 <= a.ndim <= 4 else a.detach().numpy().reshape(1, -1)
                for a in (scores, targets))
    y, wanted = loss(x, t), function(scores, targets)
    close(np.asarray(y), wanted, name)
    dy = torch.tensor(np.random.default_rng(0).standard_normal(wanted.shape))
    gradient, = torch.autograd.grad(wanted, scores, dy)
    dx = loss.backward(dy.numpy().reshape(y.shape)) if loss.reduction == "none" else loss.backward() * dy.item()
    close(dx, gradient, name)


CLASSES = {"cross_entropy": cnn.CrossEntropyLoss, "nll_loss": cnn.losses.NLLLoss}
OF_CLASSES = tuple(CLASSES.values())


def positive(kwargs):
    """Weights without their signs: negative ones of classes are refused here."""
    weight = kwargs.get("weight")
    return {} if weight is None else {"weight": weight.detach().abs()}


@pytest.mark.parametrize("name", [name for name in NAMES if name.endswith("Loss") and name not in OF_THREE])
def test_losses_agree(name):
    count = 0
    for args, kwargs, (scores, targets) in samples(name, True):
        kwargs = dict(kwargs) | positive(kwargs)
        theirs = module_db()[name].module_cls(*args, **kwargs)
        loss = ours(getattr(cnn.losses, name), args, kwargs)
        agree(loss, theirs, scores, targets, name)
        count += 1
    assert count


@pytest.mark.parametrize("name", sorted(OF_THREE & set(NAMES)))
def test_losses_of_three_agree(name):
    count = 0
    for args, kwargs, inputs in samples(name, True):
        arrays = [x.detach().numpy() for x in inputs]
        if name == "CosineEmbeddingLoss":       # also of one image
            arrays = [x[None] if arrays[2].ndim == 0 else x for x in arrays]
        if any(not 0 < x.ndim < 5 or len(x) != len(arrays[0]) for x in arrays):
            continue
        wanted = module_db()[name].module_cls(*args, **kwargs)(*inputs)
        close(np.asarray(ours(getattr(cnn, name), args, kwargs)(*arrays)), wanted, name)
        count += 1
    assert count


@pytest.mark.parametrize("name", CLASSES)
def test_functions_agree(name):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torch.testing._internal.common_methods_invocations import op_db
    op, count = next(op for op in op_db if op.name == f"nn.functional.{name}"), 0
    for sample in op.sample_inputs("cpu", torch.float64, requires_grad=True):
        cls, kwargs = CLASSES[name], dict(sample.kwargs) | positive(sample.kwargs)
        loss = ours(cls, (), kwargs)

        def function(scores, targets, kwargs=kwargs):
            return op.op(scores, targets, **kwargs)
        agree(loss, function, sample.input, sample.args[0], name)
        count += 1
    assert count > 20
