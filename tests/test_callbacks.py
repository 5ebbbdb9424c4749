"""What happens along with training: logs, stopping early or in time, the best weights, signals, the LR finder."""

import csv
import io
import json
import math
import os
import signal
import sys
import types

import numpy as np
import pytest
from cases import assert_same_bits

import cnn
from cnn.data import DataLoader, Dataset
from cnn.training import checkpoint, lr_finder
from cnn.training.callbacks import (
    BestCheckpoint,
    Checkpoint,
    CSVLog,
    EarlyStopping,
    Interrupted,
    JSONLLog,
    StopOnSignal,
    TensorBoard,
    TimeLimit,
)

NAN = math.nan
STEPS = 4  # an epoch


def made_up(n=61):
    rng = np.random.default_rng(0)
    return Dataset(rng.integers(0, 256, (n, 1, 4, 4), np.uint8), rng.integers(0, 3, n), list("abc"))


def make(*parts, losses=None, **options):
    """A trainer; with `losses`, those are what each epoch measures."""
    model = cnn.Sequential(cnn.Flatten(), cnn.Dropout(0.1), cnn.Linear(16, 3, seed=1))
    optimizer = cnn.SGD(model.parameters(), lr=0.05, momentum=0.9)
    trainer = cnn.Trainer(model, optimizer, callbacks=parts, progress=False, **options)
    if losses is not None:
        values = iter(losses)
        trainer.evaluate = lambda data: {"loss": next(values), "accuracy": 0.5}
    return trainer


def fit(trainer, epochs):
    return trainer.fit(made_up(), epochs, validation=made_up(), batch_size=16)


class At(cnn.Callback):
    """Calls a function after a step."""

    def __init__(self, step, function):
        self.step, self.function = step, function

    def on_step_end(self, trainer):
        if trainer.step == self.step:
            self.function()


class Weights(cnn.Callback):
    """Remembers the weights after each epoch."""

    def __init__(self):
        self.after = []

    def on_epoch_end(self, trainer):
        self.after.append(list(trainer.model.state_dict().values()))


# ------------------------------------------------------------------------------------------ early stopping


@pytest.mark.parametrize(
    ("losses", "options", "ends", "best"),
    [
        ([3, 2, 2.5, 2.1, 1, 1], {"patience": 2}, 4, 2),
        ([3, 2, 2.5, 1.9, 2, 2, 1], {"patience": 2}, 6, 4),
        ([3, 2, 2, 2, 1], {"patience": 2}, 4, 2),  # as good is not better
        ([3, 2, 1.95, 1.92, 1], {"patience": 2, "min_delta": 0.1}, 4, 2),
        ([3, 2, 1.95, 1.85, 1], {"patience": 2, "min_delta": 0.1}, 5, 5),  # what is small adds up
        ([NAN, 2, NAN, NAN, 1], {"patience": 2}, 4, 2),
        ([NAN, NAN, 1], {"patience": 2}, 2, None),
        ([3, 4, 1], {"patience": 1}, 2, 1),
        ([5, 4, 3, 2, 1], {"patience": 1}, 5, 5),
    ],
)
def test_early_stopping_ends_after_the_epoch_and_restores_the_best(losses, options, ends, best):
    weights = Weights()
    trainer = make(weights, EarlyStopping(**options), losses=losses)
    fit(trainer, len(losses))
    assert len(trainer.history) == ends and trainer.step == ends * STEPS
    restored = list(trainer.model.state_dict().values())
    assert_same_bits(restored, weights.after[(best or ends) - 1])
    assert (trainer.stop is not False) == (ends < len(losses))
    if trainer.stop:
        assert "val_loss" in trainer.stop and f"epoch {best or 0} " in trainer.stop


def test_early_stopping_by_accuracy_wants_more():
    trainer = make(EarlyStopping("val_accuracy", patience=2, restore_best=False), Weights())
    values = iter([0.5, 0.7, 0.7, 0.6, 0.9])
    trainer.evaluate = lambda data: {"loss": 1.0, "accuracy": next(values)}
    fit(trainer, 5)
    assert len(trainer.history) == 4
    assert_same_bits(trainer.model.state_dict().values(), trainer.callbacks[1].after[-1])  # not restored


def test_early_stopping_goes_on_where_it_was(tmp_path):
    """At every step of a run that stops: the same epoch ends it, and the same weights are restored."""
    losses = [3, 2, 2.5, 2.1, 1]
    whole = make(EarlyStopping(patience=2), Checkpoint(tmp_path, every=1, keep=99), losses=losses)
    fit(whole, 5)
    paths = checkpoint.checkpoints(tmp_path)
    assert len(paths) == 16
    for path in paths:
        state = checkpoint.load(path)
        trainer = make(EarlyStopping(patience=2), losses=losses[state["position"]["epoch"] :])
        trainer.load_state_dict(state)
        fit(trainer, 5)
        assert trainer.stop == whole.stop
        assert checkpoint.digest(trainer.state_dict()) == checkpoint.digest(whole.state_dict())


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: EarlyStopping("loss"), ValueError, "EarlyStopping: monitor must be one of epoch, lr, train_loss"),
        (lambda: EarlyStopping(patience=0), ValueError, "EarlyStopping: patience"),
        (lambda: EarlyStopping(patience=1.5), TypeError, "EarlyStopping: patience"),
        (lambda: EarlyStopping(min_delta=-1), ValueError, "EarlyStopping: min_delta"),
        (lambda: EarlyStopping(min_delta=NAN), ValueError, "EarlyStopping: min_delta"),
        (lambda: BestCheckpoint("x", "best"), ValueError, "BestCheckpoint: monitor"),
        (lambda: TimeLimit(0), ValueError, "TimeLimit: minutes"),
        (lambda: TimeLimit("1"), TypeError, "TimeLimit: minutes"),
    ],
)
def test_bad_arguments(make, error, words):
    with pytest.raises(error, match=words):
        make()


# ------------------------------------------------------------------------------------------ best weights


def test_the_best_weights_are_in_the_file(tmp_path):
    weights, path = Weights(), tmp_path / "best.safetensors"
    model = cnn.models.lenet5(image_size=16, num_classes=3)
    data = Dataset(np.random.default_rng(0).integers(0, 256, (20, 1, 16, 16), np.uint8), np.arange(20) % 3)
    description = {"model": "lenet5", "arguments": {"image_size": 16, "num_classes": 3}}
    seen = []
    parts = [weights, BestCheckpoint(path, description=description)]
    trainer = cnn.Trainer(model, cnn.SGD(model.parameters(), lr=0.1), callbacks=parts, progress=False)
    values = iter([3.0, NAN, 2.0, 2.5, 2.0])
    trainer.evaluate = lambda data: seen.append(path.exists()) or {"loss": next(values), "accuracy": 0.5}
    trainer.fit(data, 5, validation=data)
    assert seen == [False, True, True, True, True]
    loaded, description = cnn.load_model(path)
    assert_same_bits(loaded.state_dict().values(), weights.after[2])
    assert description["epoch"] == 3 and description["val_loss"] == 2.0
    other = cnn.models.lenet5(image_size=16, num_classes=3)
    best = BestCheckpoint(path, description=description)
    with pytest.raises(FileExistsError, match="best.safetensors"):
        fit(cnn.Trainer(other, cnn.SGD(other.parameters()), callbacks=[best], progress=False), 1)


# ------------------------------------------------------------------------------------------ time limit


@pytest.mark.parametrize(("seconds", "ends"), [(0.5, 1), (1, 1), (1.5, 2), (5, 5), (6.2, 7), (100, 12)])
def test_the_time_limit_ends_after_the_step(seconds, ends):
    now = [1000.0]
    limit = TimeLimit(seconds / 60, clock=lambda: now[0])

    class Clock(cnn.Callback):
        def on_step_end(self, trainer):
            now[0] += 1

    trainer = make(Clock(), limit)
    fit(trainer, 3)
    assert trainer.step == ends
    assert limit.reached == bool(trainer.stop) == (ends < 12)


# ------------------------------------------------------------------------------------------ logs


def test_logs_are_written_as_it_goes(tmp_path):
    def look():
        looks.append([len((tmp_path / name).read_text().splitlines()) for name in ("history.csv", "steps.jsonl")])

    looks = []
    logs = CSVLog(tmp_path / "history.csv"), JSONLLog(tmp_path / "steps.jsonl")
    trainer = make(*logs, At(1, look), At(5, look))
    fit(trainer, 2)
    assert looks == [[1, 1], [2, 5]]
    trainer.history.save(tmp_path / "wanted.csv")
    assert (tmp_path / "history.csv").read_text() == (tmp_path / "wanted.csv").read_text()
    rows = [json.loads(line) for line in (tmp_path / "steps.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(1, 9))
    assert [row["epoch"] for row in rows] == [1] * 4 + [2] * 4
    assert rows[-1]["loss"] == trainer.loss and rows[-1]["lr"] == 0.05


def without_timing(path):
    rows = csv.DictReader(io.StringIO(path.read_text()))
    return [{name: row[name] for name in row if name not in cnn.history.History.TIMING} for row in rows]


@pytest.mark.parametrize("step", [1, 3, 4, 5])
def test_logs_of_a_resumed_run_are_those_of_an_uninterrupted_one(tmp_path, step):
    """Lines of steps that the checkpoint does not know of, and half a line, go."""

    def logs(name):
        return CSVLog(tmp_path / f"{name}.csv"), JSONLLog(tmp_path / f"{name}.jsonl")

    fit(make(*logs("whole"), Checkpoint(tmp_path, every=1, keep=99)), 2)
    (tmp_path / "again.csv").write_bytes((tmp_path / "whole.csv").read_bytes()[:-3])
    (tmp_path / "again.jsonl").write_bytes((tmp_path / "whole.jsonl").read_bytes()[:-3])
    trainer = make(*logs("again"))
    trainer.load_state_dict(checkpoint.load(checkpoint.path_of(tmp_path, step)))
    fit(trainer, 2)
    assert without_timing(tmp_path / "again.csv") == without_timing(tmp_path / "whole.csv")
    assert (tmp_path / "again.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def test_a_log_of_steps_taken_together_has_a_line_for_each(tmp_path, monkeypatch):
    monkeypatch.setattr("cnn.training.step.SECONDS", 1e9)
    for name, others in (("together", []), ("one by one", [At(None, None)])):
        fit(make(JSONLLog(tmp_path / name), *others, schedule=cnn.schedules.Cosine(0.1, 20)), 3)
    lines = (tmp_path / "together").read_text()
    assert len(lines.splitlines()) == 3 * 4 and lines == (tmp_path / "one by one").read_text()


@pytest.mark.parametrize("kind", [CSVLog, JSONLLog])
def test_another_runs_log_is_not_overwritten(tmp_path, kind):
    (tmp_path / "log").write_text("precious\n")
    with pytest.raises(FileExistsError, match="log exists already"):
        fit(make(kind(tmp_path / "log")), 1)
    assert (tmp_path / "log").read_text() == "precious\n"


class Writer:
    """As much of tensorboardX.SummaryWriter as is used."""

    made = []

    def __init__(self, folder, purge_step=None):
        self.purge_step, self.scalars, self.closed = purge_step, [], False
        self.made.append(self)

    def add_scalar(self, *scalar):
        self.scalars.append(scalar)

    def flush(self):
        pass

    def close(self):
        self.closed = True


def test_tensorboard_gets_the_history(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", types.SimpleNamespace(SummaryWriter=Writer))
    trainer = make(TensorBoard(tmp_path))
    trainer.fit(made_up(), 2, batch_size=16)
    writer = Writer.made.pop()
    assert writer.closed and writer.purge_step is None
    row = trainer.history[1]
    assert ("train_loss", row["train_loss"], 2 * STEPS) in writer.scalars
    assert ("lr", 0.05, STEPS) in writer.scalars
    assert {name for name, _, _ in writer.scalars} == {name for name in row if name != "epoch" and "val" not in name}
    trainer.fit(made_up(), 1, batch_size=16)
    assert Writer.made.pop().purge_step == 2 * STEPS + 1


def test_tensorboard_reads_what_is_written(tmp_path):
    pytest.importorskip("tensorboardX")
    fit(make(TensorBoard(tmp_path)), 1)
    (path,) = tmp_path.iterdir()
    assert b"val_accuracy" in path.read_bytes()


@pytest.mark.parametrize(
    ("module", "use"),
    [
        ("tensorboardX", lambda path: TensorBoard(path)),
        ("matplotlib", lambda path: lr_finder.LRCurve([0.1, 0.2], [2.0, 1.0]).plot(path)),
    ],
)
def test_the_extra_to_install_is_named(tmp_path, monkeypatch, module, use):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'cnn\[(tensorboard|plot)\]'"):
        use(tmp_path / "x")


# ------------------------------------------------------------------------------------------ signals


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("step", [1, 3, 4, 8])
def test_a_signal_ends_the_step_and_saves(tmp_path, number, step, capfd):
    wanted = make()
    fit(wanted, 2)
    handlers = [signal.getsignal(n) for n in StopOnSignal.SIGNALS]
    keeper = Checkpoint(tmp_path)
    with pytest.raises(Interrupted) as stopped, StopOnSignal(keeper) as stopper:
        fit(make(At(step, lambda: signal.raise_signal(number)), keeper, stopper), 2)
    assert [signal.getsignal(n) for n in StopOnSignal.SIGNALS] == handlers
    assert stopped.value.number == number and number.name in str(stopped.value)
    assert number.name in capfd.readouterr().err
    assert stopped.value.path == checkpoint.path_of(tmp_path, step)
    trainer = make()
    assert checkpoint.resume(tmp_path, trainer) == stopped.value.path
    fit(trainer, 2)
    assert checkpoint.digest(trainer.state_dict()) == checkpoint.digest(wanted.state_dict())


def test_a_signal_while_measuring_counts_at_the_end_of_the_epoch(tmp_path):
    keeper = Checkpoint(tmp_path)
    with pytest.raises(Interrupted) as stopped, StopOnSignal(keeper) as stopper:
        trainer = make(keeper, stopper)
        trainer.evaluate = lambda data: signal.raise_signal(signal.SIGINT) or {"loss": 1.0, "accuracy": 0.5}
        fit(trainer, 2)
    assert stopped.value.path == checkpoint.path_of(tmp_path, STEPS) and len(trainer.history) == 1


def test_a_second_ctrl_c_stops_at_once(tmp_path):
    def twice():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        pytest.fail("still running")

    keeper = Checkpoint(tmp_path, every=1)
    with pytest.raises(KeyboardInterrupt), StopOnSignal(keeper) as stopper:
        fit(make(At(3, twice), keeper, stopper), 2)
    assert keeper.path == checkpoint.path_of(tmp_path, 2)


def test_what_is_ignored_stays_ignored(tmp_path):
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with StopOnSignal(Checkpoint(tmp_path)) as stopper:
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
            os.kill(os.getpid(), signal.SIGINT)
            assert stopper.number is None
    finally:
        signal.signal(signal.SIGINT, before)


# ------------------------------------------------------------------------------------------ learning rates


def test_find_lr_leaves_everything_as_it_was():
    """In the middle of training, too: what follows is the same to the bit."""
    results = []
    for find in (False, True):
        trainer, loader = make(), DataLoader(made_up(), 16, shuffle=True)
        trainer.model[1].eval()
        if find:
            cnn.find_lr(trainer, loader)
            assert not trainer.model[1].training and trainer.model[2].training
        trainer.fit(loader, 2)
        if find:
            cnn.find_lr(trainer, loader)
        assert trainer.lr == 0.05 and trainer.optimizer.steps == 2 * STEPS and loader.epoch == 2
        trainer.fit(loader, 1)
        results.append(checkpoint.digest(trainer.state_dict()))
    assert results[0] == results[1]


def test_find_lr_after_a_stopped_epoch():
    trainer = make(TimeLimit(1e-9))
    history = list(fit(trainer, 1))
    position = trainer.position
    cnn.find_lr(trainer, made_up(), steps=5)
    assert trainer.history == history != [] and trainer.position == position == (0, 1) and trainer.step == 1


def test_find_lr_takes_the_steps_that_training_would_take():
    """The first losses are those of a fit whose schedule grows by the same factor."""
    losses = []

    class Record(cnn.Callback):
        def on_step_end(self, trainer):
            losses.append(trainer.loss)

    loader = DataLoader(made_up(), 16, shuffle=True)
    curve = cnn.find_lr(make(), loader, lowest=1e-4, highest=1e-1, steps=2 * STEPS)
    make(Record(), schedule=lambda step: 1e-4 * 1e3 ** (step / (2 * STEPS - 1))).fit(loader, 2)
    assert curve.losses == pytest.approx(losses, rel=1e-6)
    assert curve.rates == pytest.approx(np.geomspace(1e-4, 1e-1, 2 * STEPS))


def test_find_lr_ends_where_the_loss_explodes():
    curve = cnn.find_lr(make(), made_up(), lowest=1e-3, highest=1e30, steps=50)
    assert 2 < len(curve.rates) < 50
    assert all(map(math.isfinite, curve.losses))


def test_the_suggestion_is_the_steepest_descent():
    rates = np.geomspace(1e-4, 1, 41)
    losses = 2 - 1 / (1 + np.exp(-4 * (np.log10(rates) + 2))) + (rates > 0.3) * 20  # steepest at 0.01
    curve = lr_finder.LRCurve(rates, losses)
    assert curve.suggestion == pytest.approx(0.01, rel=0.3)
    assert math.isnan(lr_finder.LRCurve(rates, np.arange(41.0)).suggestion)
    mean = np.convolve(losses, 0.1 * 0.9 ** np.arange(41))[:41] / (1 - 0.9 ** np.arange(1, 42))
    assert curve.smoothed == pytest.approx(mean)


@pytest.mark.parametrize("noise", [0.0, 0.05])
@pytest.mark.parametrize("cliff", [0.01, 0.1, 1.0])
@pytest.mark.parametrize("explosion", [1.1, 3.0, 1e3, 1e12])
def test_the_suggestion_stays_away_from_the_cliff(cliff, explosion, noise):
    """The loss falls ever more steeply until the rate `cliff`; beyond, each step multiplies it."""
    rates = np.geomspace(1e-5, 10, 100)
    falling = 2.3 - 2 * np.minimum(rates / cliff, 1) ** 0.7
    beyond = np.maximum(0, np.arange(100) - np.searchsorted(rates, cliff))
    losses = falling * explosion ** np.minimum(beyond, 20.0)
    losses += noise * np.random.default_rng(0).standard_normal(100)
    end = np.searchsorted(rates, cliff) + (25 if explosion < 2 else 4)      # where find_lr would stop
    curve = lr_finder.LRCurve(rates[:end], losses[:end])
    assert cliff / 40 < curve.suggestion <= cliff / 5
    assert cliff / 4 < curve.rise < 2 * cliff


def test_the_suggestion_of_a_curve_that_never_rises():
    """Training may well bear larger rates than the last, but nobody has seen it."""
    rates = np.geomspace(1e-5, 1e-2, 60)
    curve = lr_finder.LRCurve(rates, 2.3 - 100 * rates)
    assert curve.rise == pytest.approx(1e-2) and curve.suggestion == pytest.approx(1e-2 / 10)
    assert lr_finder.LRCurve([0.1, 0.2, 0.3, 0.4], [2.0, 1.0, 1.0, 1.0]).suggestion == 0.1    # none is below the first


def test_the_curve_in_files(tmp_path):
    curve = cnn.find_lr(make(), made_up(), steps=20)
    curve.save(tmp_path / "lr.csv")
    rows = list(csv.DictReader(io.StringIO((tmp_path / "lr.csv").read_text())))
    assert [float(row["lr"]) for row in rows] == curve.rates
    assert [float(row["loss"]) for row in rows] == curve.losses
    pytest.importorskip("matplotlib.figure", exc_type=ImportError)
    for some in (curve, lr_finder.LRCurve([0.1], [2.0]), lr_finder.LRCurve([0.1, 0.2], [2.0, 2.0])):
        some.plot(tmp_path / "lr.png")
        assert (tmp_path / "lr.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"steps": 1}, ValueError),
        ({"lowest": 0}, ValueError),
        ({"lowest": 1, "highest": 1}, ValueError),
        ({"highest": "1"}, TypeError),
    ],
)
def test_bad_arguments_of_find_lr(options, error):
    with pytest.raises(error, match="find_lr: "):
        cnn.find_lr(make(), made_up(), **options)


def test_find_lr_without_data():
    with pytest.raises(ValueError, match="find_lr: .*0 images"):
        cnn.find_lr(make(), made_up(0))
