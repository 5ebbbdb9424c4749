"""What one `fit` leaves for the next, and how it ends: callbacks used again, order, schedules, interruptions."""

import json
import math
import re
import warnings

import numpy as np
import pytest
from cases import assert_same_bits
from interrupting import interrupted

import cnn
from cnn.data import DataLoader, Dataset
from cnn.layers import BatchNorm2d, Conv2d, Dropout, Flatten, Layer, Linear, ReLU, Sequential
from cnn.training.callbacks import BestCheckpoint, Checkpoint, CSVLog, EarlyStopping, JSONLLog, StopOnSignal, TimeLimit

STEPS = 4  # an epoch


def made_up(n=61, seed=0):
    rng = np.random.default_rng(seed)
    return Dataset(rng.integers(0, 256, (n, 1, 4, 4), np.uint8), rng.integers(0, 3, n), list("abc"))


class NumpyReLU(Layer):
    """Keeps a model out of the compiled step."""

    def forward(self, x):
        self._positive = x > 0
        return x * self._positive

    def backward(self, dy, need_dx=True):
        return dy * self._positive


def make(*callbacks, relu=ReLU, seed=1, optimizer=cnn.Adam, **options):
    model = Sequential(Conv2d(1, 2, 3, seed=seed), BatchNorm2d(2), relu(), Flatten(), Dropout(0.1, seed=2),
                       Linear(8, 3, seed=seed))
    return cnn.Trainer(model, optimizer(model.parameters(), lr=0.01), callbacks=callbacks, progress=False, **options)


def fit(trainer, epochs, **options):
    return trainer.fit(made_up(), epochs, validation=made_up(20, seed=1), batch_size=16, **options)


def measuring(trainer, losses):
    """The trainer, whose epochs measure these losses."""
    values = iter(losses)
    trainer.evaluate = lambda data: {"loss": next(values), "accuracy": 0.5}
    return trainer


def weights(trainer):
    return list(trainer.model.state_dict().values())


class Raise(cnn.Callback):
    """Raises an error in one of the events, and notes that it was told of the end."""

    def __init__(self, event, error=RuntimeError("of a callback"), step=None):  # noqa: B008
        self.ended = False

        def fail(trainer):
            if step is None or trainer.step >= step:
                raise error

        def end(trainer):
            self.ended = True

        self.on_fit_end = end
        setattr(self, event, fail)


class Weights(cnn.Callback):
    """Remembers the weights after each epoch."""

    def __init__(self):
        self.after = []

    def on_epoch_end(self, trainer):
        self.after.append(weights(trainer))


# ---------------------------------------------------------------------------------- callbacks used again


def test_early_stopping_starts_afresh_with_another_model():
    stop, ends, seen = EarlyStopping(patience=2), [], []
    for seed in (1, 2):
        watch = Weights()
        fit(measuring(make(watch, stop, seed=seed), [3 + seed, 2 + seed, 5, 5, 5, 5]), 6)
        ends.append((len(watch.after), stop.best, stop.best_epoch, stop.wait))
        seen.append(watch.after[1])
        assert_same_bits(weights_of := list(stop._weights.values()), watch.after[1])
    assert ends == [(4, 3, 2, 2), (4, 4, 2, 2)] and not np.array_equal(seen[0][0], seen[1][0]) and weights_of


def test_early_stopping_starts_afresh_in_a_second_fit():
    stop = EarlyStopping(patience=2)
    trainer = measuring(make(stop), [3, 2, 5, 5, 4, 3.5, 5, 5, 5])
    fit(trainer, 9)
    assert len(trainer.history) == 4 and trainer.stop
    fit(trainer, 9)
    assert len(trainer.history) == 8 and stop.best == 3.5 and stop.best_epoch == 6


def test_a_callback_whose_state_was_not_saved_starts_afresh(tmp_path):
    """When it is used beside a state of a run that had none."""
    keeper, stop = Checkpoint(tmp_path, every=1, keep=9), EarlyStopping(patience=1)
    fit(make(keeper), 1)
    fit(measuring(make(stop), [1, 1]), 2)
    assert stop.wait == 1
    trainer = make(stop)
    cnn.checkpoint.resume(tmp_path, trainer)
    fit(measuring(trainer, [7, 6]), 3)
    assert len(trainer.history) == 3 and stop.best == 6


def lenet_trainer(*callbacks):
    model = cnn.models.lenet5(image_size=16, num_classes=3)
    rng = np.random.default_rng(0)
    data = Dataset(rng.integers(0, 256, (20, 1, 16, 16), np.uint8), np.arange(20) % 3)
    trainer = cnn.Trainer(model, cnn.SGD(model.parameters()), callbacks=callbacks, progress=False)
    return trainer, data


LENET = {"model": "lenet5", "arguments": {"image_size": 16, "num_classes": 3}}


def test_the_best_file_is_the_best_of_all_fits_of_a_trainer_and_another_starts_afresh(tmp_path):
    best = BestCheckpoint(tmp_path / "best", description=LENET)
    trainer, data = lenet_trainer(best)
    measuring(trainer, [3.0, 2.0, 2.5, 1.5])
    for epochs, wanted in ((1, 3.0), (1, 2.0), (1, 2.0), (1, 1.5)):
        trainer.fit(data, epochs, validation=data)
        assert cnn.load_model(tmp_path / "best")[1]["val_loss"] == wanted
    other, data = lenet_trainer(best)
    best.path = tmp_path / "other"
    measuring(other, [9.0]).fit(data, 1, validation=data)
    assert cnn.load_model(tmp_path / "other")[1]["val_loss"] == 9.0


def test_best_checkpoint_finds_out_before_the_first_step(tmp_path):
    for description, words in ((None, "must have model"), ({"model": "lenet6", "arguments": {}}, "must have model"),
                               ({"model": "lenet5", "arguments": {"colour": 3}}, "could not make lenet5")):
        with pytest.raises(ValueError, match=f"BestCheckpoint: .*{words}"):
            BestCheckpoint(tmp_path / "best", description=description)
    arguments = {"image_size": 16, "num_classes": 4}
    trainer, data = lenet_trainer(BestCheckpoint(tmp_path / "b", description={**LENET, "arguments": arguments}))
    with pytest.raises(ValueError, match="BestCheckpoint: the description does not fit the model"):
        trainer.fit(data, 1, validation=data)
    assert trainer.step == 0


def test_limits_signals_and_checkpoints_start_afresh(tmp_path):
    now = [0.0]
    limit = TimeLimit(1, clock=lambda: now[0])
    trainer = make(limit)
    trainer.callbacks.append(Raise("on_step_end", KeyboardInterrupt(), step=99))
    trainer.callbacks[-1].on_epoch_end = lambda trainer: now.__setitem__(0, now[0] + 61)
    fit(trainer, 3)
    assert limit.reached and len(trainer.history) == 2
    now[0] = 1000.0
    fit(trainer, 1)
    assert not limit.reached and not trainer.stop

    keeper = Checkpoint(tmp_path / "1")
    fit(make(keeper), 1)
    keeper.folder = tmp_path / "2"
    fit(make(keeper), 1)
    assert keeper.path.parent == tmp_path / "2" and keeper.path.is_file()

    stopper = StopOnSignal(keeper)
    stopper.number = 2      # as a first run that was interrupted leaves it
    keeper.folder = tmp_path / "3"
    with stopper:
        fit(make(keeper, stopper), 1)


def test_an_average_goes_on_unless_the_weights_were_changed():
    whole, parts = [], []
    for epochs, result in (([3], whole), ([1, 1, 1], parts)):
        trainer = make()
        ema = cnn.EMA(trainer.model, 0.9)
        trainer.callbacks.append(ema)
        for count in epochs:
            fit(trainer, count)
        result += [*ema._average.values(), np.array(ema.steps)]
    assert_same_bits(parts, whole)
    start = make().model.state_dict()
    trainer.model.load_state_dict(start)    # another fold
    trainer.fit(made_up(), 0)
    assert ema.steps == 0
    assert_same_bits(ema._average.values(), [start[name] for name in ema._average])


def test_an_average_of_another_model_is_refused():
    for average in (cnn.EMA, cnn.Lookahead):
        with pytest.raises(ValueError, match=f"{average.__name__}: model must be the trainer's"):
            fit(make(average(make().model)), 1)


# ---------------------------------------------------------------------------------- order and schedules


@pytest.mark.parametrize("loaded", [False, True])
def test_three_fits_of_an_epoch_are_a_fit_of_three(loaded):
    results = []
    for epochs in ([3], [1, 1, 1], [1, 2]):
        trainer = make()
        data = DataLoader(made_up(), 16, shuffle=True, seed=5) if loaded else made_up()
        for count in epochs:
            trainer.fit(data, count, batch_size=16, seed=5)
        results.append([*weights(trainer), np.array(trainer.history.column("train_loss"))])
    assert_same_bits(results[1], results[0])
    assert_same_bits(results[2], results[0])


def test_every_epoch_has_another_order_and_the_seed_makes_it():
    def orders(seed):
        seen, trainer = [], make()

        class Loader(DataLoader):
            def indices(self, epoch):
                seen.append(super().indices(epoch).tolist())
                return super().indices(epoch)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("cnn.training.checks.DataLoader", Loader)
            for _ in range(3):
                trainer.fit(made_up(), 1, seed=seed)
        return seen

    first = orders(0)
    assert len({tuple(order) for order in first}) == 3
    assert orders(0) == first != orders(1)


def test_resuming_in_the_second_fit_is_exact(tmp_path):
    whole = make(Checkpoint(tmp_path, every=1, keep=99))
    fit(whole, 1)
    fit(whole, 2)
    wanted = cnn.checkpoint.digest(whole.state_dict())
    for path in cnn.checkpoint.checkpoints(tmp_path)[STEPS + 1:-1:3]:
        trainer = make(Checkpoint(tmp_path / path.stem))
        trainer.load_state_dict(cnn.checkpoint.load(path))
        fit(trainer, 2)
        assert cnn.checkpoint.digest(trainer.state_dict()) == wanted
    fit(trainer, 1)
    fit(whole, 1)       # and so is what comes next
    assert_same_bits(weights(trainer), weights(whole))


def test_a_state_waits_for_a_fit_that_starts(tmp_path):
    """A fit that is refused, or whose callbacks cannot start, does not use it up."""
    trainer = make(Raise("on_step_end", step=2))
    with pytest.raises(RuntimeError):
        fit(trainer, 1)
    state = trainer.state_dict()
    trainer = make(Raise("on_fit_start"))
    trainer.load_state_dict(state)
    with pytest.raises(RuntimeError):
        fit(trainer, 1)
    with pytest.raises(ValueError, match="images 61, got 60"):
        trainer.fit(made_up(60), 1, batch_size=16)
    trainer.callbacks.clear()
    whole = make()
    for each in (whole, trainer):
        fit(each, 1)
    assert_same_bits(weights(trainer), weights(whole))
    assert trainer.step == STEPS


def test_a_fit_that_cannot_start_leaves_the_weights_of_the_state():
    """Not the best of an earlier epoch, or an average, which are put in when a fit ends."""
    def make_all(*more):
        trainer = make(EarlyStopping(patience=9), *more)
        trainer.callbacks.insert(0, cnn.EMA(trainer.model, 0.5, apply=True))
        return measuring(trainer, [1.0, 2.0, 3.0])

    first = make_all(Raise("on_step_end", step=6))
    states = cnn.Callback()
    states.on_step_end = lambda trainer: trainer.step == 6 and kept.append(trainer.state_dict())
    kept = []
    first.callbacks.insert(2, states)
    with pytest.raises(RuntimeError):
        fit(first, 3)
    whole, again = make_all(), make_all(Raise("on_fit_start"))
    for trainer in (whole, again):
        trainer.load_state_dict(kept[0])
        trainer.evaluate = lambda data: {"loss": 2.0, "accuracy": 0.5}
    with pytest.raises(RuntimeError):
        fit(again, 3)
    again.callbacks.pop()
    for trainer in (whole, again):
        fit(trainer, 3)
    assert cnn.checkpoint.digest(again.state_dict()) == cnn.checkpoint.digest(whole.state_dict())


@pytest.mark.parametrize("change", [{"classes": list("bac")}, {"mean": [0.5]}, {"std": [0.5]}])
def test_a_state_belongs_to_its_data(change):
    trainer, data = make(Raise("on_step_end", step=2)), made_up()
    with pytest.raises(RuntimeError):
        fit(trainer, 1)
    state = trainer.state_dict()
    trainer = make()
    trainer.load_state_dict(state)
    with pytest.raises(ValueError, match=f"belongs to data with {next(iter(change))}"):
        trainer.fit(Dataset(data.images, data.labels, **{"classes": data.classes, **change}), 1, batch_size=16)
    for name in ("classes", "mean", "std"):     # as earlier versions did
        del state["position"]["data"][name]
    trainer.load_state_dict(state)
    fit(trainer, 1)


@pytest.mark.parametrize(
    ("schedule", "fits", "words"),
    [
        (cnn.schedules.OneCycle(0.1, 8), [2, 1], ["", "OneCycle is over after 8 steps, and 8 are done: .* 4e-07"]),
        (cnn.schedules.Cosine(0.1, 8, 0.05), [2, 1], ["", "Cosine is over after 8 steps"]),
        (cnn.schedules.Linear(0.1, 8), [3], ["Linear is over after 8 steps, but 12 are to be done: .* for the last 4"]),
        (cnn.schedules.Linear(0.1, 8), [1, 1], ["", ""]),
        (cnn.schedules.Linear(0.01, 8, 0.1), [3, 1], ["", ""]),    # up to what is meant to stay
        (cnn.schedules.Cosine(0.1, 8, 0.05), [3], [""]),
        (cnn.schedules.Step(0.1, 8), [3], [""]),
        (lambda step: 0.1, [3], [""]),
    ],
)
def test_a_schedule_that_is_over_is_mentioned(schedule, fits, words):
    trainer = make(schedule=schedule)
    for epochs, wanted in zip(fits, words, strict=True):
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            fit(trainer, epochs)
        assert [w.filename for w in told] == ([__file__] if wanted else [])
        if wanted:
            assert re.search(wanted, str(told[0].message))


# ---------------------------------------------------------------------------------- every way to end


@pytest.mark.parametrize("event", ["on_fit_start", "on_step_end", "on_epoch_end", "on_fit_end"])
@pytest.mark.parametrize("error", [RuntimeError("of a callback"), KeyboardInterrupt(), cnn.TrainingDiverged("so")])
def test_on_fit_end_is_called_however_it_ends(tmp_path, event, error):
    """The files are closed, the best weights restored; and the error is the one that ended it."""
    csv, jsonl, last = CSVLog(tmp_path / "h"), JSONLLog(tmp_path / "s"), Raise("on_epoch_start")
    watch, stop = Weights(), EarlyStopping()
    trainer = make(csv, jsonl, watch, stop, Raise(event, error, step=0 if event == "on_fit_start" else 6), last)
    with pytest.raises(type(error)) as raised:
        fit(measuring(trainer, [1.0, 2.0]), 2)
    assert raised.value is error
    assert csv._file._file.closed and jsonl._file._file.closed
    assert last.ended == (event != "on_fit_start")      # otherwise it has not begun
    if event != "on_fit_start":
        assert_same_bits(weights(trainer), watch.after[0])
    steps = {"on_fit_start": 0, "on_step_end": 6}.get(event, 8)
    assert trainer.step == steps == len((tmp_path / "s").read_text().splitlines())
    assert len((tmp_path / "h").read_text().splitlines()) == 1 + len(trainer.history)
    trainer.callbacks = trainer.callbacks[:4]
    fit(measuring(trainer, [1.0, 2.0]), 2)
    assert [json.loads(line)["step"] for line in (tmp_path / "s").read_text().splitlines()] == list(
        range(1, steps + 9))
    assert len((tmp_path / "h").read_text().splitlines()) == 1 + len(trainer.history)


def test_the_first_error_counts_and_has_the_others_as_notes():
    first, second = RuntimeError("first"), RuntimeError("second")
    trainer = make(Raise("on_fit_end", first), Raise("on_fit_end", second))
    for more, wanted in (([], first), ([Raise("on_step_end", third := ValueError("third"))], third)):
        first.__notes__ = []
        trainer.callbacks += more
        with pytest.raises(type(wanted)) as raised:
            fit(trainer, 1)
        assert raised.value is wanted and any("second" in note for note in wanted.__notes__)


def test_a_step_log_counts_epochs_as_the_history_does(tmp_path):
    trainer = make(JSONLLog(tmp_path / "s"))
    for epochs in (1, 2):
        fit(trainer, epochs)
    epochs = [json.loads(line)["epoch"] for line in (tmp_path / "s").read_text().splitlines()]
    assert epochs == [1] * 4 + [2] * 4 + [3] * 4


def test_divergence_restores_the_best_weights():
    watch, spoil = Weights(), cnn.Callback()
    trainer = make(watch, EarlyStopping(), spoil)

    def spoiled(trainer):
        if trainer.step == 6:
            trainer.model[-1].bias.data = [np.nan] * 3

    spoil.on_step_end = spoiled
    with pytest.raises(cnn.TrainingDiverged, match="; try a lower lr, .*max_grad_norm"):
        fit(measuring(trainer, [1.0, 2.0, 3.0]), 3)
    assert_same_bits(weights(trainer), watch.after[0])


def test_images_that_are_no_numbers_are_named():
    data = made_up()
    floats = Dataset(data.normalise(data.images), data.labels)
    floats.images[3, 0, 1, 1] = np.nan      # a Dataset refuses them where it is made
    with pytest.raises(cnn.TrainingDiverged, match="images of this batch hold NaN"):
        make().fit(DataLoader(floats, 16), 1)


# ---------------------------------------------------------------------------------- interruptions


@pytest.mark.thorough
@pytest.mark.parametrize("every", [pytest.param(1, marks=pytest.mark.slow), 9])
@pytest.mark.parametrize("relu", [ReLU, NumpyReLU])
def test_an_interruption_at_any_line_leaves_counts_that_agree(tmp_path, relu, every, monkeypatch, set_threads):
    """What is recorded and logged is what was done, and the next fit goes on from there."""
    set_threads(1)
    monkeypatch.setattr("cnn.training.step.SECONDS", 1e9)
    monkeypatch.setattr("os.fsync", lambda handle: None)
    loop = {"_epoch", "_steps", "_record", "execute", "_step", "_set_rate", "_prepared", "on_step_end", "on_epoch_end",
            "_add", "fit", "run", "begin", "draw", "take", "give"}

    def in_loop(code):
        return code.co_name in loop

    trainer = make(JSONLLog(tmp_path / "s"), CSVLog(tmp_path / "h"), EarlyStopping("train_loss"), relu=relu)
    data = made_up(40)      # three batches
    trainer.fit(data, 1, batch_size=16)
    for number in range(1, 10_000, every):
        before = trainer.step
        if not interrupted(lambda: trainer.fit(data, 1, batch_size=16), number, in_loop):
            break
        assert trainer.step == trainer.optimizer.steps, f"line {number}"
        assert relu is NumpyReLU or trainer.step == trainer.model[1].num_batches_tracked, f"line {number}"
        assert len((tmp_path / "s").read_text().splitlines()) == trainer.step, f"line {number}"
        assert len((tmp_path / "h").read_text().splitlines()) == 1 + len(trainer.history), f"line {number}"
    assert number > 100 and trainer.step == before + 3
    assert [json.loads(line)["step"] for line in (tmp_path / "s").read_text().splitlines()] == [
        *range(1, trainer.step + 1)]
    assert trainer.history.column("epoch") == [*range(1, len(trainer.history) + 1)]
    assert all(np.isfinite(w).all() for w in weights(trainer)) and math.isfinite(trainer.loss)


def test_an_interrupted_row_is_not_counted_twice():
    """An interruption right after the epoch's row leaves a state that goes on with the next epoch."""
    trainer = make(Raise("on_epoch_end", KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        fit(trainer, 2)
    state = trainer.state_dict()
    assert trainer.position == (1, 0)
    other, whole = make(), make()
    other.load_state_dict(state)
    fit(other, 2)
    fit(whole, 2)
    assert_same_bits(weights(other), weights(whole))
    assert other.history.column("epoch") == [1, 2]


def test_weights_that_are_no_numbers_are_never_the_best(tmp_path):
    """The loss of an epoch's last step is measured before the update that spoils the weights."""
    def spoil(trainer):
        if trainer.step == 2:
            trainer.model.parameters()[-1].data = [np.inf] * 3

    spoiler = cnn.Callback()
    spoiler.on_step_end = spoil
    stop = EarlyStopping("train_loss", patience=9)
    trainer, data = lenet_trainer(spoiler, stop, BestCheckpoint(tmp_path / "b", "train_loss", description=LENET))
    with pytest.raises(cnn.TrainingDiverged):
        trainer.fit(data, 3, batch_size=20)
    assert stop.best_epoch == 1 == cnn.load_model(tmp_path / "b")[1]["epoch"]
    assert all(np.isfinite(w).all() for w in weights(trainer))
