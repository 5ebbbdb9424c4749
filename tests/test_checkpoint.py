"""Stopping a training run at any step and going on to the same bits; and checkpoints in files that break."""

import json
import math
import os

import numpy as np
import pytest

import cnn
from cnn import data, schedules
from cnn.data import DataLoader, Dataset
from cnn.layers import BatchNorm2d, Conv2d, Dropout, Flatten, Layer, Linear, ReLU, Sequential
from cnn.training import checkpoint
from cnn.training.callbacks import Checkpoint, EarlyStopping

STEPS = 7  # an epoch: six batches of 16 and one of 5


def made_up(n=101, seed=0):
    rng = np.random.default_rng(seed)
    return Dataset(rng.integers(0, 256, (n, 1, 6, 6), np.uint8), rng.integers(0, 4, n), list("abcd"))


class NumpyReLU(Layer):
    """A layer without kernels, so that the Trainer calls one part after the other."""

    def forward(self, x):
        self.x = x
        return np.maximum(x, 0)

    def backward(self, dy, need_dx=True):
        return dy * (self.x > 0)


OPTIMIZERS = {
    "sgd": lambda p: cnn.SGD(p, lr=0.05, momentum=0.9, nesterov=True, weight_decay=1e-3),
    "adam": lambda p: cnn.Adam(p, lr=0.01),
    "amsgrad": lambda p: cnn.AdamW(p, lr=0.01, betas=(0.5, 0.6), amsgrad=True),
    "damped": lambda p: cnn.SGD(p, lr=0.05, momentum=0.9, dampening=0.5),
    "rmsprop": lambda p: cnn.RMSprop(p, momentum=0.5, centered=True),
}


def make(optimizer="sgd", callbacks=(), relu=ReLU, dtype=np.float32, **options):
    model = Sequential(
        *(Conv2d(1, 3, 3, seed=1), BatchNorm2d(3), relu(), Dropout(0.3), Flatten(), Dropout(0.2, seed=7)),
        Linear(48, 4, seed=2),
    ).to(dtype)
    return cnn.Trainer(
        model, OPTIMIZERS[optimizer](model.parameters()), progress=False, callbacks=callbacks,
        schedule=schedules.Cosine(0.05, 2 * STEPS), **options,
    )


def make_loader(transform=True):
    return DataLoader(
        made_up(), 16, shuffle=True, seed=3, transform=data.RandomCrop(1, mode="zero") if transform else None
    )


def fit(trainer, transform=True, epochs=2):
    trainer.fit(make_loader(transform), epochs, validation=made_up(40, seed=1))
    return checkpoint.digest(trainer.state_dict())


# --------------------------------------------------------------------------------------- the same bits


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("optimizer", "options", "transform"),
    [
        ("sgd", {}, True),
        ("adam", {"max_grad_norm": 0.5}, False),
        ("amsgrad", {}, False),
        ("damped", {}, False),
        ("rmsprop", {"relu": NumpyReLU}, True),
        ("sgd", {"dtype": np.float64}, False),
    ],
)
def test_resuming_at_every_step_of_two_epochs_gives_the_same_bits(tmp_path, optimizer, options, transform):
    wanted = fit(make(optimizer, [EarlyStopping(patience=9)], **options), transform)
    keeper = Checkpoint(tmp_path, every=1, keep=99)
    assert fit(make(optimizer, [EarlyStopping(patience=9), keeper], **options), transform) == wanted
    paths = checkpoint.checkpoints(tmp_path)
    assert [checkpoint.step_of(path) for path in paths] == list(range(1, 2 * STEPS + 1))
    for path in paths:
        trainer = make(optimizer, [EarlyStopping(patience=9)], **options)
        trainer.load_state_dict(checkpoint.load(path))
        assert trainer.step == checkpoint.step_of(path)
        assert fit(trainer, transform) == wanted
        assert trainer.step == 2 * STEPS


def test_averages_of_weights_are_resumed_too(tmp_path):
    def averaged(*parts):
        trainer = make()
        averages = [cnn.EMA(trainer.model, 0.9, every=2), cnn.EMA(trainer.model, 0.5), cnn.Lookahead(trainer.model)]
        trainer.callbacks = [*averages, *parts]
        return trainer

    wanted = fit(averaged(Checkpoint(tmp_path, every=1, keep=99)))
    for path in checkpoint.checkpoints(tmp_path):
        trainer = averaged()
        trainer.load_state_dict(checkpoint.load(path))
        assert fit(trainer) == wanted


def test_the_digest_is_of_everything_that_counts(tmp_path):
    """It differs where a single bit of weights, optimizer, masks or history does, and not with the clock."""
    trainer = make()
    wanted = fit(trainer)
    state = trainer.state_dict()
    state["timing"]["history"][0]["seconds"] += 1
    assert checkpoint.digest(state) == wanted

    def changed(change):
        state = trainer.state_dict()
        change(state)
        return checkpoint.digest(state)

    def flip(array):
        array.view(np.uint8).flat[0] ^= 1

    digests = [
        changed(lambda state: flip(state["model"]["6.bias"])),
        changed(lambda state: flip(state["model"]["1.running_var"])),
        changed(lambda state: flip(state["optimizer"]["velocity"])),
        changed(lambda state: state["counters"].__setitem__(1, 3)),
        changed(lambda state: state["history"][1].update(lr=math.nextafter(state["history"][1]["lr"], 1))),
        changed(lambda state: state["position"].update(step=3)),
    ]
    assert len({wanted, *digests}) == 1 + len(digests)


def test_what_a_checkpoint_leaves_out_would_be_missed():
    """Each part of the state matters: without it, going on leads elsewhere."""
    whole = make()
    wanted = fit(whole)

    class Halfway(cnn.Callback):
        def on_step_end(self, trainer):
            if trainer.step == STEPS + 3:
                self.state = trainer.state_dict()

    halfway = Halfway()
    fit(make(callbacks=[halfway]))
    fresh = make().state_dict()
    for part in ("model", "optimizer", "counters", "history", "position"):
        other = {**halfway.state, part: fresh[part]}
        if part == "history":
            other["timing"] = {**other["timing"], "history": []}
        trainer = make()
        trainer.load_state_dict(other)
        assert fit(trainer) != wanted, part
    trainer = make()
    trainer.load_state_dict(halfway.state)
    assert fit(trainer) == wanted


def test_more_epochs_than_planned():
    """A state at the end of a fit is one to go on from, too."""
    short, long = make(), make()
    fit(short, epochs=1)
    again = make()
    again.load_state_dict(short.state_dict())
    assert fit(again, epochs=2) == fit(long, epochs=2)


def test_a_stopped_epoch_is_gone_on_with(tmp_path):
    """Its row in the history is written anew when it is complete."""

    class Stop(cnn.Callback):
        def on_step_end(self, trainer):
            trainer.stop = trainer.step == STEPS + 2

    trainer = make(callbacks=[Stop(), Checkpoint(tmp_path)])
    fit(trainer)
    assert len(trainer.history) == 2 and trainer.step == STEPS + 2
    resumed = make(callbacks=[Checkpoint(tmp_path)])
    path = checkpoint.resume(tmp_path, resumed)
    assert checkpoint.step_of(path) == STEPS + 2 and len(resumed.history) == 1
    assert fit(resumed) == fit(make())


def test_a_second_fit_begins_anew():
    trainer = make()
    fit(trainer, epochs=1)
    trainer.load_state_dict(trainer.state_dict())
    fit(trainer, epochs=1)  # complete already
    assert trainer.step == STEPS
    fit(trainer, epochs=1)
    assert trainer.step == 2 * STEPS and trainer.history.column("epoch") == [1, 2]


def test_other_data_are_refused():
    trainer = make()
    fit(trainer, epochs=1)
    state = trainer.state_dict()
    for loader in (
        DataLoader(made_up(), 17, shuffle=True, seed=3),
        DataLoader(made_up(), 16, shuffle=True, seed=4),
        DataLoader(made_up(), 16, shuffle=False, seed=3),
        DataLoader(made_up(102), 16, shuffle=True, seed=3),
    ):
        trainer = make()
        trainer.load_state_dict(state)
        with pytest.raises(ValueError, match="Trainer.fit: the loaded state belongs to"):
            trainer.fit(loader, 2)


# --------------------------------------------------------------------------------------- states that do not fit


def spoilt(**changes):
    return lambda state: {**state, **changes}


def spoilt_position(**changes):
    return lambda state: {**state, "position": {**state["position"], **changes}}


@pytest.mark.parametrize(
    "spoil",
    [
        lambda state: {},
        *(lambda state, name=name: {key: state[key] for key in state if key != name}
          for name in ("timing", "model", "optimizer", "counters", "history", "position")),
        spoilt(model={}),
        spoilt(optimizer={"lr": 0.1, "steps": 1, "param_groups": []}),
        spoilt(counters=[1]),
        spoilt(counters=[1, "2"]),
        spoilt(history=[{"epoch": 1}]),
        spoilt(history=[]),
        spoilt(history=5),
        spoilt(position=[]),
        spoilt(Unknown={"state": 1}),
        spoilt_position(step=-1),
        spoilt_position(batch=0.5),
        spoilt_position(loss="much"),
        spoilt_position(loss_sum=None),
    ],
)
def test_a_state_that_does_not_fit_is_refused(tmp_path, spoil):
    trainer = make()
    fit(trainer, epochs=1)
    bad = spoil(trainer.state_dict())
    with pytest.raises((ValueError, TypeError)):
        make().load_state_dict(bad)
    checkpoint.save(tmp_path / "step-00000001.safetensors", bad)
    with pytest.raises(ValueError, match=r"step-00000001.safetensors: does not fit this run"):
        checkpoint.resume(tmp_path, make())


def test_a_state_of_a_callback_that_is_missing_is_refused():
    trainer = make(callbacks=[EarlyStopping()])
    fit(trainer, epochs=1)
    with pytest.raises(ValueError, match="EarlyStopping"):
        make().load_state_dict(trainer.state_dict())


def test_two_callbacks_of_a_kind_keep_their_own_states():
    def callbacks():
        return [EarlyStopping("train_loss"), EarlyStopping("train_accuracy", restore_best=False)]

    trainer, other = make(callbacks=callbacks()), make(callbacks=callbacks())
    fit(trainer)
    other.load_state_dict(trainer.state_dict())
    assert [c.best for c in other.callbacks] == [c.best for c in trainer.callbacks]
    assert other.callbacks[0].best != other.callbacks[1].best


# --------------------------------------------------------------------------------------- files


STATE = {
    "position": {"step": 3, "loss": math.pi, "names": ["ä", None, True]},
    "model": {"0.weight": np.arange(6, dtype=np.float32).reshape(2, 3), "0.bias": np.zeros(0)},
    "optimizer": {"state": {"v": np.array([1e-300, -0.0])}, "empty": {}},
}


def same(a, b):
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(a[name], b[name]) for name in a)
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    return a == b


def test_round_trip(tmp_path):
    checkpoint.save(tmp_path / "a", STATE)
    assert same(checkpoint.load(tmp_path / "a"), STATE)
    checkpoint.save(tmp_path / "b", STATE)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.thorough
@pytest.mark.parametrize("kind", ["small", pytest.param("trained", marks=pytest.mark.slow)])
def test_every_truncation_and_every_flipped_bit_is_refused(tmp_path, kind):
    """Also a byte more at the end. The small one has 552 bytes: 552 truncations and 4,416 flips."""
    path = tmp_path / "step-00000003.safetensors"
    trainer = make()
    if kind == "trained":
        fit(trainer)
    checkpoint.save(path, STATE if kind == "small" else trainer.state_dict())
    content = path.read_bytes()
    damaged = [content[:length] for length in range(len(content))] + [content + b"\0", content + b" "]
    for at in range(len(content)):
        for bit in range(8):
            flipped = bytearray(content)
            flipped[at] ^= 1 << bit
            damaged.append(bytes(flipped))
    for bad in damaged:
        path.write_bytes(bad)
        with pytest.raises(ValueError, match="step-00000003.safetensors: "):
            checkpoint.load(path)
    assert len(damaged) == 9 * len(content) + 2
    assert kind != "small" or len(content) == 552


def test_a_model_is_no_checkpoint(tmp_path):
    checkpoint._write(tmp_path / "model", checkpoint.FORMAT, make().model.state_dict(), {})
    with pytest.raises(ValueError, match="model: a safetensors file, but not a checkpoint"):
        checkpoint.load(tmp_path / "model")
    with pytest.raises(FileNotFoundError, match="nothing"):
        checkpoint.load(tmp_path / "nothing")


def test_arrays_in_impossible_places(tmp_path):
    for plain in ({"a": 1}, {}, [], 5):
        checkpoint._write(tmp_path / "x", checkpoint.CHECKPOINT_FORMAT, {"a/b": np.zeros(2)}, plain)
        with pytest.raises(ValueError, match="x: its arrays do not fit"):
            checkpoint.load(tmp_path / "x")


def test_a_damaged_checkpoint_is_named_and_the_one_before_taken(tmp_path):
    fit(make(callbacks=[Checkpoint(tmp_path, every=1)]))
    *_, before, newest = checkpoint.checkpoints(tmp_path)
    newest.write_bytes(newest.read_bytes()[:-1])
    said, trainer = [], make(callbacks=[Checkpoint(tmp_path, every=1)])
    assert checkpoint.resume(tmp_path, trainer, said.append) == before
    assert len(said) == 1 and str(newest) in said[0]
    assert fit(trainer) == fit(make())
    assert checkpoint.resume(tmp_path, make(), pytest.fail) == newest  # written anew
    for path in checkpoint.checkpoints(tmp_path):
        path.write_bytes(b"")
    with pytest.raises(ValueError, match="none of its 3 checkpoints can be read"):
        checkpoint.resume(tmp_path, make(), said.append)


def test_a_folder_without_checkpoints(tmp_path):
    assert checkpoint.resume(tmp_path, make()) is None
    assert checkpoint.resume(tmp_path / "nothing", make()) is None


# --------------------------------------------------------------------------------------- the callback


def steps(folder):
    return [checkpoint.step_of(path) for path in checkpoint.checkpoints(folder)]


def test_when_checkpoints_are_written(tmp_path):
    now = [0.0]

    class Clock(cnn.Callback):
        def on_step_end(self, trainer):
            now[0] += 1

    for every, wanted in ((5, [5, 10, 15, 20, 21]), ("epoch", [7, 14, 21]), ("auto", [14, 21]), (100, [21])):
        folder = tmp_path / str(every)
        keeper = Checkpoint(folder, every, keep=99, clock=lambda: now[0])
        fit(make(callbacks=[Clock(), keeper]), epochs=3)
        assert steps(folder) == wanted
        assert keeper.path == checkpoint.path_of(folder, 21)


@pytest.mark.parametrize("keep", [1, 3])
def test_the_newest_stay(tmp_path, keep):
    fit(make(callbacks=[Checkpoint(tmp_path, every=2, keep=keep)]), epochs=1)
    assert steps(tmp_path) == [4, 6, 7][-keep:]


def test_checkpoints_of_another_run_are_not_overwritten(tmp_path):
    fit(make(callbacks=[Checkpoint(tmp_path)]), epochs=1)
    with pytest.raises(FileExistsError, match=str(tmp_path)):
        fit(make(callbacks=[Checkpoint(tmp_path)]))


def test_what_a_killed_write_has_left_is_cleared_away(tmp_path):
    fit(make(callbacks=[Checkpoint(tmp_path)]), epochs=1)
    (tmp_path / ".step-00000008.safetensors.k3j4").write_bytes(b"half")
    trainer = make(callbacks=[Checkpoint(tmp_path, keep=1)])
    checkpoint.resume(tmp_path, trainer)
    fit(trainer)
    assert os.listdir(tmp_path) == ["step-00000014.safetensors"]


@pytest.mark.parametrize("function", ["fsync", "replace"])
def test_a_full_disk_is_named_and_leaves_the_older_checkpoint(tmp_path, monkeypatch, function):
    class Fill(cnn.Callback):
        def on_step_end(self, trainer):
            if trainer.step == 5:
                monkeypatch.setattr(os, function, fail)

    def fail(*args):
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left") as error:
        fit(make(callbacks=[Fill(), Checkpoint(tmp_path, every=1, keep=1)]))
    monkeypatch.undo()
    assert str(tmp_path / "step-00000005.safetensors") in str(error.value)
    assert os.listdir(tmp_path) == ["step-00000004.safetensors"]
    trainer = make()
    checkpoint.resume(tmp_path, trainer)
    assert fit(trainer) == fit(make())


def test_weights_that_are_not_finite_never_become_a_checkpoint(tmp_path):
    class Spoil(cnn.Callback):
        def on_step_end(self, trainer):
            if trainer.step == 5:
                trainer.model[0].bias.data = [np.nan, 0, 0]

    with pytest.raises(cnn.TrainingDiverged, match=r"step 5 .*learning rate 0\.0"):
        fit(make(callbacks=[Spoil(), Checkpoint(tmp_path, every=1)]))
    assert steps(tmp_path) == [2, 3, 4]


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"every": 0}, ValueError),
        ({"every": "day"}, TypeError),
        ({"every": 1.5}, TypeError),
        ({"keep": 0}, ValueError),
        ({"keep": None}, TypeError),
    ],
)
def test_bad_arguments(tmp_path, options, error):
    with pytest.raises(error, match="Checkpoint: "):
        Checkpoint(tmp_path, **options)


def test_json_is_plain(tmp_path):
    """Nothing but arrays and JSON: the file can be read without this package."""
    from safetensors import safe_open

    trainer = make()
    fit(trainer, epochs=1)
    checkpoint.save(tmp_path / "x", trainer.state_dict())
    with safe_open(tmp_path / "x", "numpy") as file:
        assert np.array_equal(file.get_tensor("model/6.bias"), trainer.model[6].bias.data)
        assert json.loads(file.metadata()["description"])["position"]["step"] == STEPS
