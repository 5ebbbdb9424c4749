"""Sweeps: what a SWEEP.toml may say; under Optuna, where that is installed, trials, breaks, pruning, the page."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from cnn.callbacks import OptunaPruning

import cnn
from cnn import files
from cnn.commands import sweep as sweep_command
from cnn.plots import search
from cnn.reports import sweep as page
from cnn.runs import ranges, sweep

needs_optuna = pytest.mark.skipif(find_spec("optuna") is None, reason="needs Optuna: pip install 'cnn[sweep]'")
RANGES = "[ranges]\nlr = {low = 0.01, high = 0.1, log = true}\n"


def written(folder, text):
    (folder / "s.toml").write_text(text)
    return folder / "s.toml"


# ------------------------------------------------------------------------------------------ the file


def test_what_a_file_says(tmp_path):
    found = sweep.read(written(tmp_path, f"""
        trials = 3
        monitor = "val_loss"
        [settings]
        epochs = 2
        {RANGES}
        shift = {{low = 0, high = 3}}
        batch_size = {{choices = [32, 64]}}
        """))
    assert found.ranges == {"lr": ranges.Range(0.01, 0.1, True), "shift": ranges.Range(0, 3),
                            "batch_size": ranges.Range(choices=(32, 64))}
    assert found.settings == {"validation_fraction": 0.2, "epochs": 2}
    assert (found.trials, found.monitor, found.direction) == (3, "val_loss", "minimize")
    assert ranges.Sweep().direction == "maximize" and found.warmup == 0
    assert ranges.Sweep(settings={"epochs": 9}).warmup == 2 and ranges.Sweep().warmup == 7
    assert ranges.Sweep(ranges={"epochs": ranges.Range(4, 40)}).warmup == 1


@pytest.mark.parametrize(("text", "words"), [
    ("[ranges", "Expected"),
    ("trials = 0\n" + RANGES, "trials must be .*at least 1, got 0"),
    ("trails = 3\n" + RANGES, "there is no trails, only .*trials"),
    ("", "there must be a setting to draw"),
    ("[ranges]\nlrs = {low = 1, high = 2}", "no such settings: lrs"),
    ("[settings]\nlr = 1\n" + RANGES, r"lr stands below \[settings\] and below \[ranges\]"),
    ("[ranges]\nlr = {low = 1.0, high = 0.5}", "lr: low must be below high, got 1.0 and 0.5"),
    ("[ranges]\nlr = {low = 0, high = 0.5, log = true}", "lr: with log, low must be above 0"),
    ("[ranges]\nlr = {low = 0.1, high = 0.5, log = 1}", "lr: log must be true or false, got 1"),
    ("[ranges]\nlr = {low = 0.1}", "lr: high must be"),
    ("[ranges]\nlr = {low = 0.1, height = 0.5}", "lr: a range is {low"),
    ("[ranges]\nlr = 0.5", "lr: a range is {low"),
    ("[ranges]\nlr = {choices = []}", "lr: choices must be a list of values"),
    ("[ranges]\nlr = {choices = [0.1, 0.1]}", "lr: choices must differ"),
    ("[ranges]\nlr = {choices = [0.1, -1]}", "lr must be .*at least 0, got -1"),
    ("[ranges]\nshift = {low = 0.5, high = 2}", "shift: low must be an integer"),
    ("[ranges]\nmodel = {low = 0, high = 2}", "model: it is no number"),
    ("[ranges]\nmodel = {choices = ['lenet5', 'lenet']}", "model must be one of"),
    ("[ranges]\nvalidation_fraction = {low = 0.1, high = 0.2}", "must be the same for all"),
    ('monitor = "train_loss"\n' + RANGES, "monitor must be one of val_loss, val_accuracy"),
    ('sampler = "grid"\n' + RANGES, "sampler must be one of tpe, random"),
    ("storage = 3\n" + RANGES, "storage must be the URL"),
    ("settings = 3\n" + RANGES, r"settings must be a table, \[settings\]"),
    ("[settings]\nepochs = 0\n" + RANGES, "epochs must be .*at least 1"),
    ("[ranges]\nepochs = {low = 0, high = 3}", "epochs must be .*at least 1"),
    ("[settings]\nmax_minutes = 1\n" + RANGES, "max_minutes: a trial that goes on after a break"),
    ("[ranges]\nlr = {choices = [1979-05-27]}", "lr: choices must be numbers, texts"),
    ("[settings]\nbatch_size = 0\n" + RANGES, "batch size must be .*at least 1"),
])
def test_what_a_file_must_not_say(text, words, tmp_path):
    path = written(tmp_path, text)
    with pytest.raises(ValueError, match=words) as caught:
        sweep.read(path)
    assert str(caught.value).startswith(f"{path}: ")


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothing.toml: there is no such file"):
        sweep.read(tmp_path / "nothing.toml")


def test_without_optuna_the_extra_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ModuleNotFoundError, match=r"a sweep needs Optuna: pip install 'cnn\[sweep\]'"):
        sweep.work_through(written(tmp_path, RANGES), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_without_validation_images_there_is_nothing_to_choose_by(tmp_path):
    pytest.importorskip("optuna")
    with pytest.raises(ValueError, match="no validation images to choose by: set validation_fraction"):
        sweep.work_through(written(tmp_path, "[settings]\nvalidation_fraction = 0\n" + RANGES), tmp_path / "out")


# ------------------------------------------------------------------------------------------ the callback


class Trial:
    """Of an optuna.Trial what the callback uses: it is pruned at the third epoch."""

    def __init__(self):
        self.told = []

    def report(self, value, step):
        self.told.append((step, value))

    def should_prune(self):
        return len(self.told) == 3


def trainer_with(callback):
    model = cnn.Sequential(cnn.Flatten(), cnn.Linear(16, 3, seed=0))
    return cnn.Trainer(model, cnn.SGD(model.parameters(), lr=0.01), progress=False, callbacks=[callback])


def data(n=30):
    rng = np.random.default_rng(0)
    return cnn.data.Dataset(rng.integers(0, 256, (n, 1, 4, 4), np.uint8), rng.integers(0, 3, n))


def test_the_callback_reports_every_epoch_and_ends_the_run():
    optuna = pytest.importorskip("optuna")
    trainer = trainer_with(OptunaPruning(trial := Trial()))
    with pytest.raises(optuna.TrialPruned, match="after epoch 3 with val_loss"):
        trainer.fit(data(), 5, validation=data(9))
    assert trial.told == [(row["epoch"], row["val_loss"]) for row in trainer.history] and len(trial.told) == 3


def test_the_callback_refuses_what_it_cannot_use():
    with pytest.raises(ValueError, match="OptunaPruning: monitor must be one of .*, got 'loss'"):
        OptunaPruning(Trial(), "loss")
    with pytest.raises(TypeError, match="OptunaPruning: trial must be an optuna.Trial, got int"):
        OptunaPruning(3)
    with pytest.raises(ValueError, match="OptunaPruning: monitor val_loss needs validation data"):
        trainer_with(OptunaPruning(Trial())).fit(data(), 1)


# ------------------------------------------------------------------------------------------ sweeps

SMALL = """
trials = 4
sampler = "random"
pruner = "none"
[settings]
epochs = {epochs}
checkpoint_every = "epoch"
[ranges]
lr = {{low = 0.005, high = 0.1, log = true}}
flip = {{choices = ["none", "random"]}}
"""


def started(*arguments, folder):
    return subprocess.Popen([sys.executable, "-m", "cnn", "sweep", *map(str, arguments)], cwd=folder, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)


def swept(*arguments, folder, code=0):
    process = started(*arguments, folder=folder)
    out, err = process.communicate(timeout=240)
    assert process.returncode == code, (out, err)
    return out, err


def ran(found, folder, study, trial, begun=None):
    return sweep._run(found, folder, study, trial, sweep._drawn(found, trial), True, begun)


def digests(folder):
    return {path.parent.name: json.loads(path.read_text())["digest"] for path in folder.glob("trial-*/summary.json")}


@needs_optuna
def test_a_sweep_goes_on_after_signals_and_kills(tmp_path):
    """To the same trials, to the bit, and the same best one."""
    written(tmp_path, SMALL.format(epochs=8))
    out, _ = swept("s.toml", "--jobs", "2", "--out", "whole", folder=tmp_path)
    best = re.search(r"best: (trial \d, val_accuracy [\d.]+%)", out)[1]
    assert out.count("val_accuracy") == 5 and len(digests(tmp_path / "whole")) == 4
    for how in (signal.SIGINT, signal.SIGKILL, signal.SIGTERM):
        process, end = started("s.toml", "--jobs", "2", "--out", "cut", folder=tmp_path), time.monotonic() + 60
        before = len(list((tmp_path / "cut").glob("trial-*/checkpoints/*")))
        while process.poll() is None and time.monotonic() < end:
            if len(list((tmp_path / "cut").glob("trial-*/checkpoints/*"))) > before:
                os.killpg(process.pid, how)
                break
            time.sleep(0.02)
        _, err = process.communicate(timeout=60)
        assert process.returncode == {signal.SIGKILL: -9, signal.SIGINT: 130, signal.SIGTERM: 143}[how], err
    out, _ = swept("s.toml", "--jobs", "2", "--out", "cut", folder=tmp_path)
    assert digests(tmp_path / "cut") == digests(tmp_path / "whole")
    assert best in out and "going on with cut" in out
    out, _ = swept("s.toml", "--out", "cut", folder=tmp_path)       # there is nothing left to do
    assert best in out and out.count("val_accuracy") == 1
    (tmp_path / "s.toml").write_text(SMALL.format(epochs=9))
    _, err = swept("s.toml", "--out", "cut", folder=tmp_path, code=1)
    assert "what cut holds is another sweep, which differs in settings" in err


@needs_optuna
@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_a_break_amid_the_drawing_changes_nothing(sampler, tmp_path):
    """Whatever of a trial's settings was kept, the others are those that it would have drawn."""
    found = sweep.read(written(tmp_path, SMALL.format(epochs=1).replace("random", sampler, 1)
                               + "shift = {low = 0, high = 9}\nmomentum = {low = 0.0, high = 0.9}\n"))
    names, rounds = list(found.ranges), []
    for kept in range(len(names) + 1):
        folder = tmp_path / str(kept)
        folder.mkdir()
        study = sweep._opened(found, folder)
        drawn = []
        for _ in range(3):
            begun = study.ask()
            sweep._drawn(replace(found, ranges={name: found.ranges[name] for name in names[:kept]}), begun)
            again = sweep._opened(found, folder)
            assert len(again.get_trials()) == begun.number + 1
            trial = sweep.require().trial.Trial(again, begun._trial_id)
            assert sorted(trial.params) == sorted(names[:kept])
            drawn.append(sweep._drawn(found, trial))
        rounds.append(drawn)
    assert all(drawn == rounds[0] for drawn in rounds)
    assert all(len({getattr(settings, name) for settings in rounds[0]}) == 3 for name in ("lr", "shift", "momentum"))


@needs_optuna
def test_trials_that_cannot_be_and_those_that_promise_little(tmp_path, monkeypatch):
    """Settings that do not go together fail by themselves; the pruner is asked."""
    optuna = sweep.require()
    monkeypatch.setattr(optuna.pruners, "MedianPruner",
                        lambda n_warmup_steps: optuna.pruners.ThresholdPruner(lower=1.1))
    text = SMALL.format(epochs=2).replace('pruner = "none"', 'pruner = "median"').replace("trials = 4", "trials = 2")
    found = sweep.read(written(tmp_path, text + "shift = {choices = [1, 100]}\n"))
    folder = tmp_path / "out"
    folder.mkdir()
    study = sweep._opened(found, folder)
    study.enqueue_trial({"shift": 1})
    study.enqueue_trial({"shift": 100})
    sweep_of = [ran(found, folder, study, study.ask()) for _ in range(2)]
    assert sweep_of == [None, None]
    rows = sweep.rows(study)
    assert [row["state"] for row in rows] == ["pruned", "fail"] and rows[0]["epoch"] == 1
    assert sweep.best(rows, "maximize") is None
    assert (folder / "trial-0000" / "config.toml").exists()


@needs_optuna
def test_one_storage_holds_a_sweep_by_its_name(tmp_path):
    """Another one of the same name is refused, and of another name stands beside it."""
    text = f'storage = "sqlite:///{tmp_path}/all.db"\n' + RANGES
    first = sweep.read(written(tmp_path, text))
    other = sweep.read(written(tmp_path, text.replace("0.1,", "0.2,")))
    sweep._opened(first, tmp_path / "a").ask()
    assert len(sweep.rows(sweep._opened(first, tmp_path / "a"))) == 1
    assert not sweep.rows(sweep._opened(other, tmp_path / "b"))
    with pytest.raises(ValueError, match="the study of this name in storage is another sweep, which differs in ranges"):
        sweep._opened(other, tmp_path / "a")


@needs_optuna
def test_a_folder_of_another_run_is_no_trial(tmp_path):
    """Neither is one that holds anything else; what is finished elsewhere is left alone."""
    found = sweep.read(written(tmp_path, SMALL.format(epochs=1)))
    folder = tmp_path / "out"
    folder.mkdir()
    study = sweep._opened(found, folder)
    trial = study.ask()
    sweep.run.train(replace(sweep._drawn(found, trial), lr=0.5), folder / "trial-0000", quiet=True)
    with pytest.raises(ValueError, match="trial-0000 holds a run with another lr than the trial"):
        ran(found, folder, study, trial)
    (folder / "trial-0001").mkdir()
    (folder / "trial-0001" / "history.csv").write_text("epoch\n")
    with pytest.raises(FileExistsError, match="trial-0001 holds a run already"):
        ran(found, folder, study, study.ask())
    with files.locked(folder / "trial-0002", make=True):
        ran(found, folder, study, trial := study.ask())
    assert sweep.rows(study)[2]["state"] == "running"
    (frozen,) = (t for t in study.get_trials() if t.number == 2)
    study.tell(2, 0.5)
    ran(found, folder, study, trial, frozen)
    assert sweep.rows(study)[2]["value"] == 0.5


@needs_optuna
def test_a_password_is_not_shown(tmp_path):
    text = 'storage = "postgresql://me:secret@127.0.0.1:1/db"\n' + RANGES
    with pytest.raises(ValueError, match="storage: not a study that can be opened") as caught:
        sweep.work_through(written(tmp_path, text), tmp_path / "out")
    assert "secret" not in str(caught.value)
    assert "secret" not in (tmp_path / "out" / "sweep.json").read_text()


@needs_optuna
def test_a_file_that_is_no_study(tmp_path):
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "study.db").write_bytes(b"no database at all, but a long text that is none" * 50)
    with pytest.raises(ValueError, match="study.db: not a study that can be opened"):
        sweep.work_through(written(tmp_path, RANGES), folder)


@needs_optuna
def test_what_the_documentation_shows(tmp_path):
    text = (Path(__file__).parents[1] / "docs" / "sweeps.md").read_text()
    found = sweep.read(written(tmp_path, re.search(r"```toml\n(.*?)```", text, re.S)[1]))
    assert (found.trials, list(found.ranges)) == (16, ["lr", "shift", "batch_size"])
    assert written(tmp_path, sweep_command.__doc__.split("\n\n")[2]).exists()
    sweep.read(tmp_path / "s.toml")
    code = re.search(r"```python\n(.*?)```", text, re.S)[1]
    code = code.replace("n_trials=20", "n_trials=2").replace("10, validation", "1, validation")
    digits, _ = cnn.data.load("mnist-sample")
    names = {"cnn": cnn, "optuna": sweep.require(), "train": digits.subset(np.arange(200)),
             "validation": digits.subset(np.arange(200, 260))}
    exec(compile(code, "sweeps.md", "exec"), names)
    assert len(names["study"].trials) == 2


# ------------------------------------------------------------------------------------------ the page

ROWS = [
    {"number": 0, "state": "complete", "value": 0.9, "epoch": 5, "seconds": 2.0, "params": {"lr": 0.01, "flip": "<b>"}},
    {"number": 1, "state": "pruned", "value": 0.95, "epoch": 2, "seconds": 1.0, "params": {"lr": 0.1, "flip": "none"}},
    {"number": 2, "state": "complete", "value": 0.97, "epoch": 5, "seconds": 2.0, "params": {"lr": 0.02, "flip": "x"}},
    {"number": 3, "state": "fail", "value": None, "epoch": 0, "seconds": 0.1, "params": {"lr": 9.0, "flip": "x"}},
    {"number": 4, "state": "running", "value": None, "epoch": 0, "seconds": None, "params": {}},
]


def drawn(rows=ROWS, monitor="val_accuracy"):
    best = sweep.best(rows, "maximize" if "accuracy" in monitor else "minimize")
    return page.html("s", rows, best, monitor, {"lr": True, "flip": False},
                     {"sampler": "tpe", "pruner": "median", "trials": 5})


def test_the_page():
    text = drawn()
    assert "Trial 2: 97.00%" in text and "4 of 5 trials finished" in text
    assert "2 complete, 1 pruned, 1 failed, 1 running" in text
    order = re.findall(r"<tr><td[^>]*>(\d)</td>", text)
    assert order == ["2", "0", "1", "3", "4"]       # a pruned one is never better than one that ran to its end
    assert "<b>" not in re.sub(r"<figcaption>.*?</figcaption>", "", text) and "&lt;b&gt;" in text
    assert text.count("<svg") == 3 and "script" not in text
    assert "0.03" in text       # ticks of a logarithmic axis are written out
    assert "Trial 0: 0.9<" in drawn(monitor="val_loss")


def test_the_page_of_nothing():
    assert "None is complete yet" in drawn([])
    assert "None is complete yet" in drawn(ROWS[3:])


def test_the_page_without_matplotlib(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    text = drawn()
    assert "pictures need matplotlib" in text and "<svg" not in text and "Trial 2: 97.00%" in text


def test_figures_of_odd_values():
    search.trials([0, 1], [np.nan, np.inf], [True, False], "val_loss", False)
    search.setting("lr", [1, 2], [np.nan, np.nan], [True, False], "val_loss", True)
    ax, = search.setting("flag", [True, False, True], [1, 2, 3], [True, True, False], "val_loss").axes
    assert [label.get_text() for label in ax.get_xticklabels()] == ["False", "True"]
