"""Arguments by position mean what they mean in PyTorch: what is elsewhere there must be given by name here."""

import inspect

import pytest

import cnn
from cnn import functional, layers, losses, optim, schedules

# PyTorch's name for a schedule, where that is not ours and LR
SCHEDULES = {"Cosine": "CosineAnnealingLR", "CosineWarmRestarts": "CosineAnnealingWarmRestarts",
             "ReduceLROnPlateau": "ReduceLROnPlateau"}

# Our name of an argument: PyTorch's words for the same.
SAME = {"total_steps": {"total_iters", "T_max"}, "cycle_steps": {"T_0"}, "cycle_mult": {"T_mult"},
        "final_lr": {"eta_min"}, "schedules": {"schedulers"}, "split_size": {"split_size_or_sections"},
        "values": {"tensors"}, "targets_": {"target"}, "prediction": {"input"}, "logits": {"input"}, "x": {"input"},
        "w": {"weight"}, "b": {"bias"}, "a": {"input"}}

# (ours, argument): why it may stand where PyTorch has another
ALLOWED = {
    ("Optimizer", "lr"): "a base class: PyTorch's takes a dict of defaults there, which lr refuses",
    ("Linear", "total_steps"): "start_factor of LinearLR is a fraction, which total_steps refuses",
    ("Linear", "final_lr"): "after total_steps, which refuses what LinearLR has there",
    ("ReduceLROnPlateau", "monitor"): "PyTorch's mode, 'min' or 'max', which monitor refuses",
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


@pytest.mark.parametrize("call", [
    lambda p: cnn.SGD(p, 0.1, 0.9, 0.1), lambda p: cnn.MaxPool2d(2, 2, 0, 1, True),
    lambda p: cnn.MaxPool1d(2, 2, 0, 1, True), lambda p: cnn.L1Loss("sum"), lambda p: cnn.CrossEntropyLoss(None, 0.1),
    lambda p: schedules.OneCycle(0.1, 100, 10), lambda p: schedules.Exponential(0.1, 0.9, 5)])
def test_the_others_are_refused(call):
    with pytest.raises(TypeError, match="positional argument"):
        call(cnn.Linear(2, 2, seed=0).parameters())
