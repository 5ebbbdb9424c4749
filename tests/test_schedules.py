"""Schedules against values by hand and against torch.optim.lr_scheduler over 50 steps and beyond the end."""

import math
import re

import numpy as np
import pytest

import cnn
from cnn.data import DataLoader, Dataset
from cnn.schedules import (
    Constant,
    Cosine,
    CosineWarmRestarts,
    Cyclic,
    Exponential,
    Linear,
    MultiStep,
    OneCycle,
    Polynomial,
    ReduceLROnPlateau,
    Schedule,
    Sequential,
    Step,
)


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


def test_multi_step_by_hand():
    assert rates(MultiStep(8, [2, 3, 3, 5], gamma=0.5), 7) == [8, 8, 4, 1, 1, 0.5, 0.5]
    assert rates(MultiStep(8, []), 2) == [8, 8]


def test_exponential_by_hand():
    assert rates(Exponential(8, 0.5), 4) == [8, 4, 2, 1]


def test_polynomial_by_hand():
    """1 + 8 · (1 - step / 4)²"""
    assert rates(Polynomial(9, 4, power=2, final_lr=1), 6) == close([9, 5.5, 3, 1.5, 1, 1])


def test_cyclic_by_hand():
    assert rates(Cyclic(1, 5, 2), 9) == close([1, 3, 5, 3, 1, 3, 5, 3, 1])
    assert rates(Cyclic(0, 6, 1, 3), 9) == close([0, 6, 4, 2, 0, 6, 4, 2, 0])
    assert rates(Cyclic(1, 5, 2, mode="triangular2"), 11) == close([1, 3, 5, 3, 1, 2, 3, 2, 1, 1.5, 2])
    wanted = [1 + 4 * 0.9**step * height for step, height in enumerate([0, 0.5, 1, 0.5, 0, 0.5, 1])]
    assert rates(Cyclic(1, 5, 2, mode="exp_range", gamma=0.9), 7) == close(wanted)


def test_warm_restarts_by_hand():
    half = math.sqrt(0.5)
    wave = [4, 3 + half, 3, 3 - half]
    assert rates(CosineWarmRestarts(4, 4, final_lr=2), 13) == close([*wave, *wave, *wave, 4])
    # waves of 1, 3 and 9 steps
    third = [2 * (1 + math.cos(math.pi * i / 9)) for i in range(9)]
    assert rates(CosineWarmRestarts(4, 1, 3), 14) == close([4, 4, 3, 1, *third, 4])


def test_sequential_by_hand():
    schedule = Sequential([Linear(0, 2, final_lr=4), lambda step: 10.0 + step, Cosine(4, 4)], [2, 4])
    half = 2 * math.sqrt(0.5)
    assert rates(schedule, 9) == close([0, 2, 10, 11, 4, 2 + half, 2, 2 - half, 0])
    assert schedule.total_steps == 8 and not hasattr(Sequential([Constant(1)], []), "total_steps")


def observed(schedule, values):
    """The rate after each epoch that ended with such a figure."""
    result = []
    for value in values:
        schedule.observe({schedule.monitor: value})
        result.append(schedule(7))
    return result


def test_plateau_by_hand():
    make = ReduceLROnPlateau
    assert observed(make(8, factor=0.5, patience=1), [3, 3, 3, 2, 2, 2, 2, 2]) == [8, 8, 4, 4, 4, 2, 2, 1]
    assert observed(make(8, factor=0.5, patience=0, cooldown=2), [3, 3, 3, 3, 3, 3]) == [8, 4, 4, 4, 2, 2]
    assert observed(make(8, factor=0.5, patience=0, min_lr=3), [3, 3, 3]) == [8, 4, 3]
    assert observed(make(8, "val_accuracy", factor=0.5, patience=0), [0.5, 0.6, 0.5]) == [8, 8, 4]
    # what improves by no more than the threshold does not improve
    assert observed(make(8, factor=0.5, patience=0, threshold=0.25), [4, 3, 2.9]) == [8, 4, 4]
    assert observed(make(8, factor=0.5, patience=0, threshold=1, threshold_mode="abs"), [4, 3, 1.9]) == [8, 4, 4]
    assert observed(make(8, factor=0.5, patience=0), [math.nan, 3, math.nan]) == [4, 4, 2]
    assert make(8, warmup_steps=4)(1) == 4


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
    schedule = OneCycle(0.3, total_steps, pct_start=pct_start, div_factor=5.0, final_div_factor=100.0,
                        anneal_strategy=strategy)
    assert rates(schedule, total_steps) == close(wanted)
    assert schedule(total_steps + 5) == close(wanted[-1])


PYTORCHS = [
    (MultiStep(0.3, [4, 4, 20], 0.5), lambda lib, opt: lib.MultiStepLR(opt, [4, 4, 20], 0.5)),
    (Exponential(0.3, 0.9), lambda lib, opt: lib.ExponentialLR(opt, 0.9)),
    (Polynomial(0.3, 40), lambda lib, opt: lib.PolynomialLR(opt, 40)),
    (Polynomial(0.3, 40, 1.7), lambda lib, opt: lib.PolynomialLR(opt, 40, 1.7)),
    (CosineWarmRestarts(0.3, 7), lambda lib, opt: lib.CosineAnnealingWarmRestarts(opt, 7)),
    (CosineWarmRestarts(0.3, 3, 2, 0.01), lambda lib, opt: lib.CosineAnnealingWarmRestarts(opt, 3, 2, 0.01)),
    *((Cyclic(0.1, 0.3, 5, down, mode, 0.97),
       lambda lib, opt, down=down, mode=mode: lib.CyclicLR(opt, 0.1, 0.3, 5, down, mode, 0.97, cycle_momentum=False))
      for down in (None, 8) for mode in ("triangular", "triangular2", "exp_range")),
    (Sequential([Linear(0.3, 10, 0.03), Step(0.3, 4, 0.8), Exponential(0.3, 0.9)], [10, 30]),
     lambda lib, opt: lib.SequentialLR(opt, [lib.LinearLR(opt, 1.0, 0.1, 10), lib.StepLR(opt, 4, 0.8),
                                             lib.ExponentialLR(opt, 0.9)], [10, 30])),
]  # fmt: skip


@pytest.mark.filterwarnings("ignore:The epoch parameter in `scheduler.step")     # by PyTorch's own SequentialLR
@pytest.mark.parametrize(("schedule", "build"), PYTORCHS)
def test_schedule_agrees_with_pytorch(torch, schedule, build):
    assert rates(schedule) == pytest.approx(torch_rates(torch, 0.3, build), rel=1e-10)


@pytest.mark.parametrize(
    "options",
    [{}, {"patience": 3, "factor": 0.5}, {"patience": 1, "threshold": 0.2, "cooldown": 2}, {"mode": "max"},
     {"mode": "max", "threshold": 0.1, "patience": 0}, {"threshold": 0.05, "threshold_mode": "abs", "patience": 0},
     {"mode": "max", "threshold": 0.3, "threshold_mode": "abs"}, {"patience": 0, "min_lr": 0.02, "eps": 0.05}],
)  # fmt: skip
def test_plateau_agrees_with_pytorch(torch, options):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], 0.3)
    theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, **options)
    values, wanted = np.random.default_rng(0).normal(0.5, 0.4, 60).tolist(), []
    values[7] = math.nan
    for value in values:
        theirs.step(value)
        wanted.append(optimizer.param_groups[0]["lr"])
    assert observed(ReduceLROnPlateau(0.3, **options), values) == close(wanted)


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
    (lambda: MultiStep(0.1, [3, 2]), ValueError, "MultiStep: milestones must be in ascending order, got [3, 2]"),
    (lambda: MultiStep(0.1, 3), TypeError, "MultiStep: milestones must be a list of steps, got 3"),
    (lambda: MultiStep(0.1, [0.5]), TypeError, "MultiStep: milestones must be an integer, got 0.5"),
    (lambda: Exponential(0.1, 1.1), ValueError,
     "Exponential: gamma must be a finite number of at least 0 and of at most 1, got 1.1"),
    (lambda: Polynomial(0.1, 9, 0), ValueError, "Polynomial: power must be a finite number above 0, got 0"),
    (lambda: Cyclic(0.1, 0.05), ValueError, "Cyclic: max_lr must be a finite number of at least 0.1, got 0.05"),
    (lambda: Cyclic(0.1, 0.5, mode="square"), ValueError,
     'Cyclic: mode must be "triangular", "triangular2" or "exp_range", got \'square\''),
    (lambda: CosineWarmRestarts(0.1, 4, 0), ValueError,
     "CosineWarmRestarts: cycle_mult must be an integer of at least 1, got 0"),
    (lambda: Sequential([Constant(1), Constant(2)], []), ValueError,
     "Sequential: milestones must be one less than the 2 schedules, got 0"),
    (lambda: Sequential([0.1], []), TypeError, "Sequential: schedules must be functions of the step, got 0.1"),
    (lambda: ReduceLROnPlateau(0.1, "seconds"), ValueError, 'ReduceLROnPlateau: monitor must be "val_loss", '
     '"val_accuracy", "train_loss" or "train_accuracy", got \'seconds\''),
    (lambda: ReduceLROnPlateau(0.1, factor=1), ValueError,
     "ReduceLROnPlateau: factor must be a finite number above 0 and below 1, got 1"),
    (lambda: ReduceLROnPlateau(0.1).load_state_dict({"best": 1.0}), ValueError, "ReduceLROnPlateau: state must be a "
     "dict with current, best, bad_epochs, cooldown_left, got {'best': 1.0}"),
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
    some = Step(0.3, 4), Cosine(0.3, 40), Linear(0.3, 40), OneCycle(0.3, 50), Constant(0.3, warmup_steps=9)
    for schedule in (*some, *(schedule for schedule, _ in PYTORCHS)):
        forward = rates(schedule)
        assert [schedule(step) for step in reversed(range(50))] == forward[::-1]


# --------------------------------------------------------------------------------------- in a training run


def plateau_trainer(**options):
    model = cnn.Sequential(cnn.Flatten(), cnn.Linear(9, 3, seed=0))
    schedule = ReduceLROnPlateau(0.1, factor=0.5, patience=0, threshold=0.2, **options)
    return cnn.Trainer(model, cnn.SGD(model.parameters(), momentum=0.9), schedule=schedule, progress=False)


def some_data():
    rng = np.random.default_rng(0)
    return Dataset(rng.integers(0, 256, (40, 1, 3, 3), np.uint8), rng.integers(0, 3, 40))


def test_a_trainer_tells_the_schedule_of_each_epoch_and_resumes_it():
    """The rate of each epoch is that by the rule from the losses of those before; stopped anywhere, it is the same."""
    wanted = plateau_trainer(monitor="train_loss")
    history = wanted.fit(DataLoader(some_data(), 8, shuffle=True), 6)
    assert history.column("lr") == [0.1, *observed(ReduceLROnPlateau(0.1, "train_loss", factor=0.5, patience=0,
                                                                     threshold=0.2), history.column("train_loss"))[:-1]]
    assert len(set(history.column("lr"))) > 2
    for stop in range(1, 30):
        first, second = plateau_trainer(monitor="train_loss"), plateau_trainer(monitor="train_loss")

        class Stop(cnn.Callback):
            def on_step_end(self, trainer, stop=stop):
                trainer.stop = trainer.step == stop

        first.callbacks.append(Stop())
        first.fit(DataLoader(some_data(), 8, shuffle=True), 6)
        assert first.step == stop
        second.load_state_dict(first.state_dict())
        second.fit(DataLoader(some_data(), 8, shuffle=True), 6)
        assert cnn.checkpoint.digest(second.state_dict()) == cnn.checkpoint.digest(wanted.state_dict())


def test_a_plateau_of_validation_figures_needs_validation_data():
    with pytest.raises(ValueError, match="the schedule ReduceLROnPlateau needs validation data for its monitor val_lo"):
        plateau_trainer().fit(some_data(), 1)
    assert len(plateau_trainer().fit(some_data(), 1, validation=some_data())) == 1
