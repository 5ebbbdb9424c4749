"""Schedules against values by hand and against torch.optim.lr_scheduler over 50 steps and beyond the end."""

import math
import re

import pytest

from cnn.schedules import Constant, Cosine, Linear, OneCycle, Schedule, Step


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch")


def rates(schedule, steps=50):
    return [schedule(step) for step in range(steps)]


def torch_rates(torch, lr, build, steps=50):
    """The learning rates that PyTorch uses at each step, with a scheduler that `build` makes."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr, momentum=0.9)
    scheduler = build(torch.optim.lr_scheduler, optimizer)
    result = [optimizer.param_groups[0]["lr"]]
    for _ in range(1, steps):
        optimizer.step()
        scheduler.step()
        result.append(optimizer.param_groups[0]["lr"])
    return result


def close(values):
    return pytest.approx(values, rel=1e-12, abs=1e-15)


# ---------------------------------------------------------------------------------------------- by hand


def test_constant():
    assert rates(Constant(0.5), 3) == [0.5, 0.5, 0.5]


def test_step():
    assert rates(Step(8, 2, gamma=0.5), 7) == [8, 8, 4, 4, 2, 2, 1]
    assert Step(1.0, 10)(10) == 0.1


def test_cosine():
    half = math.sqrt(0.5)
    assert rates(Cosine(4, 4, final_lr=2), 7) == close([4, 3 + half, 3, 3 - half, 2, 2, 2])
    assert Cosine(1.0, 10)(10**9) == 0


def test_linear():
    assert rates(Linear(4, 4, final_lr=2), 7) == close([4, 3.5, 3, 2.5, 2, 2, 2])
    assert rates(Linear(6, 6, warmup_steps=2), 7) == close([3, 5, 4, 3, 2, 1, 0])


def test_one_cycle_with_straight_lines():
    """Up from a fifth of 10, down to 0.7."""
    schedule = OneCycle(10, 10, pct_start=0.5, div_factor=5, final_div_factor=2 / 0.7, anneal_strategy="linear")
    assert rates(schedule, 11) == close([2, 4, 6, 8, 10, 8.14, 6.28, 4.42, 2.56, 0.7, 0.7])


def test_one_cycle():
    # Up over steps 0 to 2, down over steps 2 to 4, and then it stays.
    schedule = OneCycle(8, 5, pct_start=0.6, div_factor=2, final_div_factor=4)
    assert rates(schedule, 7) == close([4, 6, 8, 4.5, 1, 1, 1])


def test_warmup():
    assert rates(Constant(6, warmup_steps=3), 5) == close([2, 4, 6, 6, 6])
    assert rates(Constant(6, warmup_steps=1), 2) == rates(Constant(6), 2) == [6, 6]
    # The schedule underneath counts from step 0, so the first drop falls into the warm-up.
    assert rates(Step(8, 2, gamma=0.5, warmup_steps=4), 6) == [2, 4, 3, 4, 2, 2]


# -------------------------------------------------------------------------------------- against PyTorch


@pytest.mark.parametrize(("step_size", "gamma"), [(1, 0.9), (7, 0.1), (60, 0.5)])
def test_step_agrees_with_pytorch(torch, step_size, gamma):
    wanted = torch_rates(torch, 0.3, lambda lib, opt: lib.StepLR(opt, step_size, gamma))
    assert rates(Step(0.3, step_size, gamma)) == close(wanted)


@pytest.mark.parametrize("final_lr", [0.0, 0.01])
def test_cosine_agrees_with_pytorch(torch, final_lr):
    wanted = torch_rates(torch, 0.3, lambda lib, opt: lib.CosineAnnealingLR(opt, 49, final_lr))
    assert rates(Cosine(0.3, 49, final_lr)) == close(wanted)


@pytest.mark.parametrize("final_lr", [0.0, 0.01])
def test_linear_agrees_with_pytorch(torch, final_lr):
    wanted = torch_rates(torch, 0.3, lambda lib, opt: lib.LinearLR(opt, 1.0, final_lr / 0.3, 40))
    assert rates(Linear(0.3, 40, final_lr)) == close(wanted)


@pytest.mark.parametrize("strategy", ["cos", "linear"])
@pytest.mark.parametrize("total_steps", [3, 10, 47, 50])
@pytest.mark.parametrize("pct_start", [0.0, 0.25, 0.3, 0.5, 1.0])
def test_one_cycle_agrees_with_pytorch(torch, total_steps, pct_start, strategy):
    def build(lib, optimizer):
        return lib.OneCycleLR(
            optimizer,
            0.3,
            total_steps,
            pct_start=pct_start,
            cycle_momentum=False,
            div_factor=5.0,
            final_div_factor=100.0,
            anneal_strategy=strategy,
        )

    wanted = torch_rates(torch, 0.3, build, total_steps)
    schedule = OneCycle(0.3, total_steps, pct_start, 5.0, 100.0, anneal_strategy=strategy)
    assert rates(schedule, total_steps) == close(wanted)
    assert schedule(total_steps + 5) == close(wanted[-1])


def test_one_cycle_has_pytorchs_defaults(torch):
    wanted = torch_rates(torch, 0.3, lambda lib, opt: lib.OneCycleLR(opt, 0.3, 50))
    assert rates(OneCycle(0.3, 50)) == close(wanted)


def test_one_cycle_that_peaks_at_its_first_step():
    # PyTorch divides zero by zero here.
    assert rates(OneCycle(8, 2, pct_start=0.5, div_factor=2, final_div_factor=4), 3) == close([8, 1, 1])
    assert rates(OneCycle(8, 1, pct_start=1), 2) == [8, 8]


def test_one_cycle_of_one_step():
    assert rates(OneCycle(8, 1, div_factor=2, final_div_factor=4), 2) == close([1, 1])


@pytest.mark.parametrize("warmup", [2, 5, 30])
def test_warmup_agrees_with_pytorch(torch, warmup):
    def with_warmup(build):
        """PyTorch's schedule times its linear warm-up from 1/warmup to 1."""

        def both(lib, optimizer):
            up = lib.LinearLR(optimizer, 1 / warmup, 1.0, warmup - 1)
            return lib.ChainedScheduler([up, build(lib, optimizer)])

        return both

    wanted = torch_rates(torch, 0.3, with_warmup(lambda lib, opt: lib.ConstantLR(opt, 1.0)))
    assert rates(Constant(0.3, warmup_steps=warmup)) == close(wanted)
    wanted = torch_rates(torch, 0.3, with_warmup(lambda lib, opt: lib.StepLR(opt, 4, 0.8)))
    assert rates(Step(0.3, 4, 0.8, warmup_steps=warmup)) == close(wanted)
    wanted = torch_rates(torch, 0.3, with_warmup(lambda lib, opt: lib.CosineAnnealingLR(opt, 60)))
    assert rates(Cosine(0.3, 60, warmup_steps=warmup)) == close(wanted)


# ----------------------------------------------------------------------------------------------- errors


BAD = [
    (lambda: Constant(-1), ValueError, "Constant: lr must be a finite number of at least 0, got -1"),
    (lambda: Constant(math.nan), ValueError, "Constant: lr must be a finite number of at least 0, got nan"),
    (lambda: Constant("0.1"), TypeError, "Constant: lr must be a number, got '0.1'"),
    (lambda: Constant(0.1, warmup_steps=-1), ValueError,
     "Constant: warmup_steps must be an integer of at least 0, got -1"),
    (lambda: Step(0.1, 0), ValueError, "Step: step_size must be an integer of at least 1, got 0"),
    (lambda: Step(0.1, 2.5), TypeError, "Step: step_size must be an integer, got 2.5"),
    (lambda: Step(0.1, 2, gamma=-1), ValueError, "Step: gamma must be a finite number of at least 0, got -1"),
    (lambda: Cosine(0.1, 0), ValueError, "Cosine: total_steps must be an integer of at least 1, got 0"),
    (lambda: Cosine(0.1, 1, final_lr=math.inf), ValueError,
     "Cosine: final_lr must be a finite number of at least 0, got inf"),
    (lambda: Linear(0.1, 0), ValueError, "Linear: total_steps must be an integer of at least 1, got 0"),
    (lambda: OneCycle(0.1, 9, anneal_strategy="sin"), ValueError,
     'OneCycle: anneal_strategy must be "cos" or "linear", got \'sin\''),
    (lambda: OneCycle(0.1, 0), ValueError, "OneCycle: total_steps must be an integer of at least 1, got 0"),
    (lambda: OneCycle(0.1, 9, pct_start=1.5), ValueError,
     "OneCycle: pct_start must be a finite number of at least 0 and of at most 1, got 1.5"),
    (lambda: OneCycle(0.1, 9, div_factor=0), ValueError,
     "OneCycle: div_factor must be a finite number above 0, got 0"),
    (lambda: OneCycle(0.1, 9, final_div_factor=0), ValueError,
     "OneCycle: final_div_factor must be a finite number above 0, got 0"),
    (lambda: Constant(0.1)(-1), ValueError, "Constant: step must be an integer of at least 0, got -1"),
    (lambda: Constant(0.1)(1.0), TypeError, "Constant: step must be an integer, got 1.0"),
    (lambda: Schedule()(0), NotImplementedError, "Schedule: rate(step) is not defined"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "error", "text"), BAD, ids=[row[2] for row in BAD])
def test_bad_argument(call, error, text):
    with pytest.raises(error, match=f"^{re.escape(text)}$"):
        call()


def test_a_schedule_has_no_memory():
    for schedule in (Step(0.3, 4), Cosine(0.3, 40), Linear(0.3, 40), OneCycle(0.3, 50), Constant(0.3, warmup_steps=9)):
        forward = rates(schedule)
        assert [schedule(step) for step in reversed(range(50))] == forward[::-1]
