"""EMA and Lookahead against PyTorch, their twin, and a loop by hand."""

import json

import numpy as np
import pytest
from cases import assert_close, assert_same_bits
from safetensors.numpy import load_file

import cnn
from cnn import EMA, Lookahead, reference
from cnn.training.callbacks import BestCheckpoint, EarlyStopping


def model_of(dtype=np.float64):
    """5,000 numbers and more: two tasks of the kernel."""
    return cnn.Sequential(cnn.Conv2d(1, 2, 3, seed=1), cnn.Flatten(), cnn.Linear(8, 600, seed=2)).to(dtype)


def moved(model, step):
    """Other weights, as a training step would leave them."""
    rng = np.random.default_rng(step)
    for p in model.parameters():
        p.data = p.data + rng.standard_normal(p.shape)


def values(model):
    return list(model.state_dict().values())


def averages(ema):
    with ema.applied():
        return values(ema.model)


def test_ema_agrees_with_pytorch(torch):
    model = model_of()
    theirs = torch.nn.ParameterList([torch.tensor(p.data) for p in model.parameters()])
    swa = torch.optim.swa_utils
    wanted = swa.AveragedModel(theirs, multi_avg_fn=swa.get_ema_multi_avg_fn(0.9))
    wanted.update_parameters(theirs)  # the first update is a copy
    ema = EMA(model, 0.9, warmup=False)
    for step in range(20):
        moved(model, step)
        with torch.no_grad():
            for t, p in zip(theirs, model.parameters(), strict=True):
                t.copy_(torch.tensor(p.data))
        ema.update()
        wanted.update_parameters(theirs)
    for ours, t in zip(averages(ema), wanted.module, strict=True):
        assert_close(ours, t.detach().numpy(), 1e-12)


@pytest.mark.parametrize("dtype, tolerance", [(np.float32, 1e-5), (np.float64, 1e-12)])
@pytest.mark.parametrize("make", [EMA, Lookahead])
@pytest.mark.parametrize("every", [1, 3])
def test_agrees_with_the_twin(make, every, dtype, tolerance):
    """With a decay that is a function of the number of steps."""
    model, other = model_of(dtype), model_of()
    decays = []

    def decay(step):
        decays.append(step)
        return (step / 10) ** 3

    ours = make(model, decay, every, **({"warmup": False} if make is EMA else {}))
    slow = values(other)
    for step in range(1, 11):
        moved(model, step)
        moved(other, step)
        ours.update()
        if step % every == 0:
            for s, p in zip(slow, other.parameters(), strict=True):
                reference.average_update(s, p.data, (step / 10) ** 3, make is Lookahead)
    assert decays == list(range(every, 11, every))
    for got, want in zip(values(model) + averages(ours), values(other) + slow, strict=True):
        assert got.dtype == dtype
        assert_close(got, want.astype(dtype), tolerance)


def test_warmup_forgets_the_start():
    """Decays 1/10, 2/11, 3/12, ... until 0.25 is less; in between nothing happens."""
    layer = cnn.Linear(1, 1, bias=False).to(np.float64)
    layer.weight.data = [[1.0]]
    ema, wanted = EMA(layer, 0.25, every=2), 1.0
    for decay in (1 / 10, 2 / 11, 3 / 12, 0.25, 0.25):
        layer.weight.data = layer.weight.data + 1
        ema.update()
        assert averages(ema)[0].item() == pytest.approx(wanted, rel=1e-14)
        ema.update()
        wanted = decay * wanted + (1 - decay) * layer.weight.data.item()
        assert averages(ema)[0].item() == pytest.approx(wanted, rel=1e-14)


def test_applied_swaps_values_and_keeps_arrays():
    model = model_of()
    ema, first = EMA(model), values(model)
    moved(model, 0)
    arrays, now = [p.data for p in model.parameters()], values(model)
    with pytest.raises(ZeroDivisionError), ema.applied():
        assert_same_bits(values(model), first)
        assert all(p.data is array for p, array in zip(model.parameters(), arrays, strict=True))
        raise ZeroDivisionError
    assert_same_bits(values(model), now)
    assert_same_bits(averages(ema), first)


class Statistics(cnn.layers.Layer):
    """What keeps other arrays than parameters, floats and a counter."""

    def __init__(self):
        super().__init__()
        self.weight, self.mean, self.count = cnn.Parameter(np.zeros(2)), np.zeros(3), np.zeros((), np.int64)

    def named_buffers(self):
        return [("mean", self.mean), ("count", self.count)]


def test_statistics_are_averaged_and_counts_are_not():
    layer = Statistics()
    lookahead = Lookahead(layer, 0.75, every=1)
    layer.mean += 4
    layer.count += 4
    lookahead.update()
    assert layer.mean.tolist() == [1, 1, 1] and layer.count == 4
    layer.mean += 1
    with lookahead.applied():
        assert layer.mean.tolist() == [1, 1, 1] and layer.count == 4
    assert layer.mean.tolist() == [2, 2, 2]
    assert set(lookahead.state_dict()) == {"steps", "average.weight", "average.mean"}


def data_set():
    rng = np.random.default_rng(0)
    return cnn.data.Dataset(rng.integers(0, 256, (70, 1, 4, 4), np.uint8), np.arange(70) % 10)


@pytest.mark.parametrize("make", [EMA, Lookahead])
def test_as_callback(make):
    """In the compiled step as in a loop by hand; the trainer goes on from what Lookahead copies back."""
    data, results = data_set(), []
    for by_hand in (False, True):
        model = model_of(np.float32)
        average = make(model, 0.5, 2)
        optimizer = cnn.SGD(model.parameters(), lr=0.1, momentum=0.9)   # moves the parameters
        loader = cnn.data.DataLoader(data, 10, shuffle=True, seed=1)
        trainer = cnn.Trainer(model, optimizer, callbacks=[average], progress=False)
        if by_hand:
            for images, labels in [*loader, *loader]:
                trainer.train_step(images.astype(np.float32), labels)
                average.update()
        else:
            trainer.fit(loader, 2)
        assert average.steps == 14
        results.append(values(model) + averages(average))
    assert_same_bits(*results)
    assert np.array_equal(results[0][0], results[0][4]) == (make is Lookahead)


def test_after_fit_the_model_holds_what_lookahead_averaged():
    """Also where the last steps have not been averaged."""
    model = model_of(np.float32)
    lookahead = Lookahead(model, every=5)
    trainer = cnn.Trainer(model, cnn.SGD(model.parameters(), lr=0.1), callbacks=[lookahead], progress=False)
    trainer.fit(data_set(), 1, batch_size=10)
    assert lookahead.steps == 7
    assert_same_bits(values(model), averages(lookahead))


@pytest.mark.parametrize("apply", [False, True])
def test_what_is_measured_and_kept(tmp_path, monkeypatch, apply):
    """With `apply` it is the average: for validation, the best weights in memory and in a file, the model after fit."""
    model, rows = model_of(np.float32), []
    ema = EMA(model, 0.9, apply=apply)

    class Rows(cnn.Callback):
        def on_epoch_end(self, trainer):
            before = values(model)
            with trainer.measuring():
                assert_same_bits(values(model), averages(ema) if apply else before)
                rows.append((values(model), trainer.evaluate(data_set())["loss"]))
            assert_same_bits(values(model), before)
            assert not np.array_equal(before[0], averages(ema)[0])

    monkeypatch.setitem(cnn.models.MODELS, "mine", lambda: model_of(np.float32))
    best = BestCheckpoint(tmp_path / "best", "train_loss", description={"model": "mine", "arguments": {}})
    callbacks = [ema, EarlyStopping("train_loss", 9), best, Rows()]
    trainer = cnn.Trainer(model, cnn.SGD(model.parameters(), lr=0.05), callbacks=callbacks, progress=False)
    trainer.fit(data_set(), 2, data_set(), batch_size=10)
    assert trainer.history.column("val_loss") == [loss for _, loss in rows]
    assert best.best_epoch == 2
    assert_same_bits(values(model), rows[1][0])
    arrays = load_file(tmp_path / "best")
    assert_same_bits([arrays[name] for name in model.state_dict()], rows[1][0])


def test_after_fit_the_model_holds_an_average_that_is_applied():
    model = model_of(np.float32)
    ema = EMA(model, 0.9, apply=True)
    trainer = cnn.Trainer(model, cnn.SGD(model.parameters(), lr=0.05), callbacks=[ema], progress=False)
    trainer.fit(data_set(), 1, batch_size=10)
    assert_same_bits(values(model), averages(ema))


def test_the_model_may_change_its_number_type():
    model = model_of(np.float32)
    ema = EMA(model, 0.5, warmup=False)
    start = values(model)
    ema.update()
    model.to(np.float64)
    moved(model, 0)
    ema.update()
    for slow, before, p in zip(averages(ema), start, model.parameters(), strict=True):
        assert slow.dtype == np.float64
        assert_close(slow, (before + p.data) / 2, 1e-12)


@pytest.mark.parametrize("make", [EMA, Lookahead])
def test_resuming_gives_the_same_bits(make):
    model, other = model_of(np.float32), model_of(np.float32)
    ours, resumed = make(model, 0.9, 3), make(other, 0.9, 3)
    for step in range(5):
        moved(model, step)
        ours.update()
    state = ours.state_dict()
    kept = {key: value.copy() for key, value in state.items() if key != "steps"}
    assert json.loads(json.dumps(state["steps"])) == 5
    moved(other, 99)
    resumed.update()
    resumed.load_state_dict(state)
    other.load_state_dict(model.state_dict())
    for m, average in ((model, ours), (other, resumed)):
        for step in range(5, 8):
            moved(m, step)
            average.update()
    assert_same_bits(values(other) + averages(resumed), values(model) + averages(ours))
    assert_same_bits([state[key] for key in kept], list(kept.values()))


BAD_STATES = [
    (lambda s: [], TypeError, "state must be a dict, got list"),
    (lambda s: {**s, "more": 1}, ValueError, "missing names [] and unknown names ['more']"),
    (lambda s: {k: v for k, v in s.items() if k != "steps"}, ValueError, "missing names ['steps']"),
    (lambda s: {**s, "steps": -1}, ValueError, "steps must be an integer of at least 0, got -1"),
    (lambda s: {**s, "average.2.bias": np.zeros(3)}, ValueError, "average.2.bias must have shape (600,), got (3,)"),
    (lambda s: {**s, "average.2.bias": 0.0}, TypeError, "average.2.bias must be a NumPy array"),
]  # fmt: skip


@pytest.mark.parametrize("change, error, words", BAD_STATES, ids=[row[2] for row in BAD_STATES])
def test_a_state_that_does_not_fit_changes_nothing(change, error, words):
    ema = EMA(model_of())
    before = averages(ema)
    state = {key: value + 1 for key, value in ema.state_dict().items()}
    with pytest.raises(error, match="EMA.load_state_dict") as caught:
        ema.load_state_dict(change(state))
    assert words in str(caught.value)
    assert ema.steps == 0
    assert_same_bits(averages(ema), before)


@pytest.mark.parametrize("make", [EMA, Lookahead])
def test_same_bits_with_any_number_of_threads(make, set_threads):
    results = []
    for count in (1, 2, 3, 4):
        set_threads(count)
        model = model_of(np.float32)
        average = make(model, 0.7, 1)
        for step in range(3):
            moved(model, step)
            average.update()
        results.append(values(model) + averages(average))
    for result in results[1:]:
        assert_same_bits(result, results[0])
