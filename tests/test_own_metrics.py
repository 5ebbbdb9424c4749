"""Metrics of one's own. The oracle is NumPy on the scores of `predict`, all images at once."""

from contextlib import nullcontext

import numpy as np
import pytest
from cnn.callbacks import BestCheckpoint, CSVLog, EarlyStopping, EpochLog

import cnn
from cnn.data import DataLoader, Dataset, IterableDataset
from cnn.training import checkpoint
from cnn.training.history import History


def data(n=700, seed=0, dtype=np.uint8):
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (n, 1, 6, 6)).astype(dtype)
    return Dataset(images, rng.integers(0, 3, n), ["a", "b", "c"], mean=(0.5,), std=(0.3,))


def network():
    return cnn.Sequential(cnn.Conv2d(1, 4, 3, seed=0), cnn.ReLU(), cnn.Flatten(), cnn.Linear(64, 3, seed=1))


def margin(scores, targets):
    return scores[np.arange(len(scores)), targets].mean()


def spread(scores, targets):
    """Nothing that portions could give: over all images."""
    return np.ptp(scores[targets == 1])


class Worst:
    """The lowest score of any image's class."""

    def __init__(self):
        self.lowest = np.inf

    def update(self, scores, targets):
        self.lowest = min(self.lowest, scores[np.arange(len(scores)), targets].min())

    def compute(self):
        return self.lowest


ALL = {"margin": margin, "spread": cnn.metrics.OverAll(spread), "worst": Worst()}


def trainer_of(model=None, metrics=ALL, lr=0.05, **options):
    model = model or network()
    return cnn.Trainer(model, cnn.SGD(model.parameters(), lr=lr), metrics=metrics, progress=False, **options)


def wanted(trainer, dataset, tta=None):
    scores, targets = trainer.predict(dataset, tta), dataset.labels
    own = scores[np.arange(len(scores)), targets]
    return {"margin": own.mean(dtype=np.float64), "spread": np.ptp(scores[targets == 1]), "worst": own.min()}


@pytest.mark.parametrize("n", [1, 3, 513, 1100])
@pytest.mark.parametrize("how", ["bytes", "floats", "tta", "batches", "debug", "reference"])
def test_evaluate_is_exact_over_portions(n, how):
    dataset = data(n, dtype=np.float32 if how == "floats" else np.uint8)
    if n == 1:
        dataset = Dataset(dataset.images, [1], ["a", "b", "c"], dataset.mean, dataset.std)
    trainer = trainer_of(backend="reference" if how == "reference" else "kernels")
    tta, given = "flip" if how == "tta" else None, dataset
    if how == "batches":
        given = IterableDataset(lambda: iter([(dataset.images, dataset.labels)]), ["a", "b", "c"], dataset.mean,
                                dataset.std)
    with cnn.debug() if how == "debug" else nullcontext():
        found, again = trainer.evaluate(given, tta), trainer.evaluate(given, tta)
    assert list(found) == ["loss", "accuracy", "images", "margin", "spread", "worst"]
    for name, value in wanted(trainer, dataset, tta).items():
        assert found[name] == pytest.approx(value, rel=1e-4, abs=1e-6), name
    assert again == found       # each pass begins anew


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_loss_and_accuracy_are_the_same_bits_without_them(dtype):
    dataset = data(dtype=dtype)
    found, plain = trainer_of().evaluate(dataset), trainer_of(metrics=None).evaluate(dataset)
    assert {name: found[name] for name in plain} == plain


def test_targets_that_are_no_classes():
    images, targets = data(40).images, np.random.default_rng(1).random((40, 3)).astype(np.float32)
    trainer = trainer_of(metrics={"mae": lambda scores, t: np.abs(scores - t).mean()}, loss=cnn.MSELoss())
    dataset = Dataset(images, targets)
    assert trainer.evaluate(dataset)["mae"] == pytest.approx(np.abs(trainer.predict(dataset) - targets).mean())


def test_no_images():
    found = trainer_of(metrics={"margin": margin, "worst": Worst()}).evaluate(data(10).subset([]))
    assert np.isnan(found["margin"]) and np.isnan(found["worst"])


def test_the_data_set_cannot_be_changed():
    def wrong(scores, targets):
        targets[:] = 0

    for dtype in (np.uint8, np.float32):
        dataset = data(20, dtype=dtype)
        before = dataset.labels.copy()
        with pytest.raises(ValueError, match="read-only"):
            trainer_of(metrics={"wrong": wrong}).evaluate(dataset)
        assert (dataset.labels == before).all()


# ------------------------------------------------------------------------------------------ training


def test_history_csv_and_log(tmp_path, capsys):
    trainer = trainer_of(callbacks=[CSVLog(tmp_path / "h.csv"), EpochLog()])
    validation = data(90, seed=1)
    history = trainer.fit(data(), 2, validation)
    names = ("epoch", "lr", "train_loss", "train_accuracy", "val_loss", "val_accuracy", "val_margin", "val_spread",
             "val_worst", "seconds", "images_per_second")
    assert history.columns == names and all(tuple(row) == names for row in history)
    measured = trainer.evaluate(validation)
    assert all(history[-1][f"val_{name}"] == measured[name] for name in ALL)
    assert f"  margin {measured['margin']:.4f}" in capsys.readouterr().out.splitlines()[-1]
    assert (tmp_path / "h.csv").read_text().splitlines()[0] == ",".join(names)
    for text in (tmp_path / "h.csv").read_text(), history.to_csv():
        (tmp_path / "again.csv").write_text(text)
        again = History.load(tmp_path / "again.csv")
        assert again.columns == names and again.column("val_worst") == history.column("val_worst")
        assert again.to_csv() == history.to_csv()
    assert "val worst" in history._repr_html_() and history[:1].columns == names


def test_without_validation_data_they_are_nan():
    row = trainer_of().fit(data(), 1)[-1]
    assert np.isnan([row["val_margin"], row["val_worst"], row["val_loss"]]).all()


class StopAt(cnn.Callback):
    def __init__(self, step):
        self.at = step

    def on_step_end(self, trainer):
        if trainer.step == self.at:
            self.state, trainer.stop = trainer.state_dict(), True


def test_a_run_goes_on_to_the_same_bits():
    def trainer(step=0):
        return trainer_of(callbacks=[EarlyStopping("val_worst", 2, mode="max"), StopAt(step)])

    def fit(trainer):
        trainer.fit(DataLoader(data(100), 32, shuffle=True), 3, data(50, seed=1))
        return checkpoint.digest(trainer.state_dict())

    whole = fit(trainer())
    for step in (1, 4, 6, 8):
        stopped, again = trainer(step), trainer()
        fit(stopped)
        again.load_state_dict(stopped.callbacks[1].state)
        assert fit(again) == whole


def test_a_state_with_other_metrics_is_refused():
    trainer = trainer_of()
    trainer.fit(data(), 1, data(50))
    with pytest.raises(ValueError, match="History: each row must have"):
        trainer_of(metrics={"margin": margin}).load_state_dict(trainer.state_dict())


@pytest.mark.parametrize("mode", ["min", "max"])
def test_they_decide_which_epoch_is_best(mode, tmp_path):
    figures = iter([0.5, 0.9, 0.1, 0.4])
    weights = []

    class Kept(cnn.Callback):
        def on_epoch_end(self, trainer):
            weights.append(trainer.model.state_dict())

    cnn.models.MODELS["of this test"] = lambda seed=0: network()
    try:
        best = BestCheckpoint(tmp_path / "best.safetensors", "val_odd", mode=mode, description={
            "model": "of this test", "arguments": {}})
        stopping = EarlyStopping("val_odd", 9, mode=mode)
        trainer = trainer_of(metrics={"odd": cnn.metrics.OverAll(lambda scores, targets: next(figures))},
                             callbacks=[Kept(), stopping, best])
        trainer.fit(data(60), 4, data(20))
        saved, description = cnn.load_model(tmp_path / "best.safetensors")
    finally:
        del cnn.models.MODELS["of this test"]
    epoch = 2 if mode == "max" else 3
    assert (stopping.best_epoch, best.best_epoch, description["epoch"]) == (epoch,) * 3
    assert description["val_odd"] == {"max": 0.9, "min": 0.1}[mode]
    for name, array in trainer.model.state_dict().items():
        assert (array == weights[epoch - 1][name]).all() and (saved.state_dict()[name] == array).all()


def test_a_schedule_watches_them():
    schedule = cnn.schedules.ReduceLROnPlateau(0.1, "val_flat", mode="max", patience=0)
    trainer = trainer_of(metrics={"flat": lambda scores, targets: 1.0}, schedule=schedule)
    assert trainer.fit(data(60), 3, data(20)).column("lr") == pytest.approx([0.1, 0.1, 0.01])


# ------------------------------------------------------------------------------------------ what is refused


@pytest.mark.parametrize(("metrics", "error", "words"), [
    ([margin], TypeError, "metrics must be a dict"), ({"loss": margin}, ValueError, "a name must be"),
    ({"a b": margin}, ValueError, "a name must be"), ({3: margin}, ValueError, "a name must be"),
    ({"x": 3}, TypeError, "x must be a function"), ({"x": Worst}, TypeError, "x must be a function")])
def test_wrong_metrics(metrics, error, words):
    with pytest.raises(error, match=f"Trainer: metrics.*{words}|Trainer: {words}"):
        trainer_of(metrics=metrics)


@pytest.mark.parametrize("value", [None, "0.5", np.zeros(2), [1, 2]])
def test_what_is_no_number_is_refused(value):
    with pytest.raises(TypeError, match=r"Trainer\.evaluate: the metric odd must be a number"):
        trainer_of(metrics={"odd": lambda scores, targets: value}).evaluate(data(10))


def test_wrong_monitors():
    for kind in (lambda m, **o: EarlyStopping(m, **o), lambda m, **o: BestCheckpoint("x", m, **o)):
        with pytest.raises(ValueError, match="monitor must be one of"):
            kind("val_margin")
        with pytest.raises(ValueError, match="mode must be"):
            kind("val_loss", mode="largest")
    with pytest.raises(ValueError, match="EarlyStopping: monitor must be one of .*val_margin.*, got 'val_other'"):
        trainer_of(callbacks=[EarlyStopping("val_other", mode="max")]).fit(data(20), 1, data(20))
    schedule = cnn.schedules.ReduceLROnPlateau(0.1, "val_other", mode="max")
    with pytest.raises(ValueError, match="the monitor of the schedule ReduceLROnPlateau must be one of"):
        trainer_of(schedule=schedule).fit(data(20), 1, data(20))
    with pytest.raises(TypeError, match="OverAll: function must be"):
        cnn.metrics.OverAll(3)
    with pytest.raises(ValueError, match="OverAll: there must be at least one image"):
        cnn.metrics.OverAll(spread).compute()
