"""Arguments by position mean what they mean in PyTorch: what is elsewhere there must be given by name here. Those of
functions have PyTorch's names."""

import inspect
import re

import numpy as np
import pytest

import cnn
from cnn import functional, layers, losses, optim, schedules

# PyTorch's name for a schedule, where that is not ours and LR
SCHEDULES = {"Cosine": "CosineAnnealingLR", "CosineWarmRestarts": "CosineAnnealingWarmRestarts",
             "ReduceLROnPlateau": "ReduceLROnPlateau"}

# Our name of an argument: PyTorch's words for the same.
SAME = {"total_steps": {"total_iters", "T_max"}, "cycle_steps": {"T_0"}, "cycle_mult": {"T_mult"},
        "final_lr": {"eta_min"}, "schedules": {"schedulers"}, "split_size": {"split_size_or_sections"},
        "values": {"tensors"}, "x": {"input"}}

# (ours, argument): why it may stand where PyTorch has another
ALLOWED = {
    ("Optimizer", "lr"): "a base class: PyTorch's takes a dict of defaults there, which lr refuses",
    ("Linear", "total_steps"): "start_factor of LinearLR is a fraction, which total_steps refuses",
    ("Linear", "final_lr"): "after total_steps, which refuses what LinearLR has there",
    ("ReduceLROnPlateau", "monitor"): "PyTorch's mode, 'min' or 'max', which monitor refuses",
}


# (function, argument after the first): why it has not PyTorch's name. The first is given by position, and is x.
OWN_NAMES = {
    ("split", "split_size"): "torch.Tensor.split calls it so",
    ("where", "x"): "the input, which is x everywhere; PyTorch has it after the condition",
}


def positional(function):
    return [name for name, p in inspect.signature(function).parameters.items() if p.kind in (
        p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]


def pairs(torch):
    """(name, ours, PyTorch's, arguments of PyTorch's) of what is in both."""
    for module, theirs in ((optim, torch.optim), (layers, torch.nn), (losses, torch.nn)):
        for name, ours in vars(module).items():
            if inspect.isclass(ours) and hasattr(theirs, name) and name != "Module":
                yield name, ours, getattr(theirs, name)
    for name, ours in vars(schedules).items():
        their = getattr(torch.optim.lr_scheduler, SCHEDULES.get(name, f"{name}LR"), None)
        if inspect.isclass(ours) and their is not None:
            yield name, ours, their
    for name in functional.__all__:
        their = getattr(torch.nn.functional, name, None)
        if inspect.isfunction(their) and positional(their):     # some of PyTorch's have *args alone
            yield name, getattr(functional, name), their


def test_arguments_by_position_are_those_of_pytorch(torch):
    seen, wrong, used = set(), [], set()
    for name, ours, theirs in pairs(torch):
        a, b = positional(ours), positional(theirs)
        if b[:1] == ["optimizer"]:      # schedules are functions here, and know the rate instead
            b = b[1:]
            a = a[1:] if a[:1] == ["lr"] else a
        for k, argument in enumerate(a):
            if k < len(b) and (b[k] == argument or b[k] in SAME.get(argument, ())):
                continue
            if (name, argument) in ALLOWED:
                used.add((name, argument))
            else:
                wrong.append(f"{name}: {argument}, where PyTorch has {b[k] if k < len(b) else 'nothing'}")
        seen.add(name)
    assert not wrong, "\n".join(wrong)
    assert used == set(ALLOWED)
    assert {"SGD", "AdamW", "RMSprop", "Conv2d", "MaxPool1d", "MaxPool2d", "CrossEntropyLoss", "OneCycle", "Sequential",
            "Cosine", "cross_entropy", "instance_norm"} <= seen


def names_in_pytorch(torch, name):
    """The names of the arguments of a function of PyTorch; those in C++ have them in their documentation alone."""
    found = set()
    # max_pool2d has *args alone
    for their in (getattr(torch.nn.functional, name, None), getattr(torch, name, None),
                  getattr(torch.nn.functional, f"{name}_with_indices", None)):
        if inspect.isfunction(their):
            found |= set(inspect.signature(their).parameters)
        for arguments in re.findall(rf"\b{name}\(([^()]*)\) *(?:->|$)", getattr(their, "__doc__", None) or "",
                                    re.MULTILINE):
            found |= {re.match(r"\W*(\w*)", argument)[1] for argument in arguments.split(",")}
    return found - {"", "args", "kwargs"}


def test_arguments_of_functions_have_the_names_of_pytorch(torch):
    seen, wrong, used = set(), [], set()
    for name in functional.__all__:
        ours = inspect.signature(getattr(functional, name)).parameters
        theirs = names_in_pytorch(torch, name)
        if name.endswith("_backward"):      # dy, then what the function itself has
            forward = names_in_pytorch(torch, name.removesuffix("_backward"))
            theirs = forward | {"dy", "x", "y", "indices", "input_shape", "need_dx"}
        elif not theirs:
            assert name == "layer_norm2d"       # not in PyTorch
            theirs = names_in_pytorch(torch, "layer_norm")
        for argument in list(ours)[1:]:
            if (name, argument) in OWN_NAMES:
                used.add((name, argument))
            elif argument not in theirs:
                wrong.append(f"{name}: {argument}, where PyTorch has {', '.join(sorted(theirs))}")
        seen.add((name, *ours))
    assert not wrong, "\n".join(wrong)
    assert used == set(OWN_NAMES)
    first = {"values", "condition", "target", "x", "dy", "x1", "anchor", "query", "input1", "equation"}
    assert not (found := {(name, ours) for name, ours, *_ in seen if ours not in first}), found
    assert {("linear", "x", "weight", "bias"), ("conv1d", "x", "weight", "bias", "stride", "padding", "dilation",
                                                "groups")} <= seen


def test_by_name_as_in_pytorch(torch):
    """What a user of PyTorch writes, after the first argument."""
    rng, F, T = np.random.default_rng(0), functional, torch.nn.functional
    image, row, vector = rng.standard_normal((2, 4, 5, 5)), rng.standard_normal((2, 4, 7)), rng.standard_normal((2, 4))
    kernel, bias = rng.standard_normal((4, 4, 3, 3)), rng.standard_normal(4)
    for name, x, weight in (("conv2d", image, kernel), ("conv_transpose2d", image, kernel), (
            "conv1d", row, kernel[..., 0]), ("linear", vector, kernel[..., 0, 0])):
        wanted = getattr(T, name)(torch.tensor(x), weight=torch.tensor(weight), bias=torch.tensor(bias))
        np.testing.assert_allclose(getattr(F, name)(x, weight=weight, bias=bias), wanted, rtol=1e-10, atol=1e-12)
    classes = np.array([3, -100])
    wanted = T.cross_entropy(torch.tensor(vector), target=torch.tensor(classes)).item()
    assert F.cross_entropy(vector, target=classes)[0] == pytest.approx(wanted)
    assert cnn.CrossEntropyLoss()(vector, target=classes) == pytest.approx(wanted)
    wanted = T.mse_loss(torch.tensor(vector), target=torch.tensor(vector[::-1].copy())).item()
    assert F.mse_loss(vector, target=vector[::-1].copy())[0] == pytest.approx(wanted)
    assert cnn.MSELoss()(vector, target=vector[::-1].copy()) == pytest.approx(wanted)


@pytest.mark.parametrize("call", [
    lambda p: cnn.SGD(p, 0.1, 0.9, 0.1), lambda p: cnn.MaxPool2d(2, 2, 0, 1, True),
    lambda p: cnn.MaxPool1d(2, 2, 0, 1, True), lambda p: cnn.L1Loss("sum"), lambda p: cnn.CrossEntropyLoss(None, 0.1),
    lambda p: schedules.OneCycle(0.1, 100, 10), lambda p: schedules.Exponential(0.1, 0.9, 5)])
def test_the_others_are_refused(call):
    with pytest.raises(TypeError, match="positional argument"):
        call(cnn.Linear(2, 2, seed=0).parameters())
