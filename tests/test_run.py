"""Runs as `scripts/train.py` makes them: folders, settings in files, interruptions of every kind."""

import dataclasses
import itertools
import json
import os
import random
import re
import select
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
from processes import run_python

import cnn
from cnn.commands import train
from cnn.reports import evaluation
from cnn.runs import run
from cnn.runs.parts import make_loss, make_schedule
from cnn.runs.recipes import RECIPES
from cnn.runs.settings import SCHEDULES, check, read_settings, write_settings
from cnn.training import checkpoint, lr_finder

SCRIPT = Path(__file__).parents[1] / "scripts" / "train.py"

SHORT = run.replace(run.Settings(), epochs=2, batch_size=500)  # 16 steps


def train_py(*arguments, before="", **options):
    """Run scripts/train.py after some lines of Python."""
    code = f"sys.argv[0] = 'train.py'; runpy.run_path({str(SCRIPT)!r}, run_name='__main__')"
    code = f"import runpy, sys\n{textwrap.dedent(before)}\n{code}"
    return run_python("-c", code, *map(str, arguments), **options)


def short(*arguments, **options):
    return train_py("--epochs", 2, "--batch-size", 500, *arguments, **options)


def summary(folder):
    return json.loads((folder / "summary.json").read_text())


@pytest.fixture(scope="module")
def wanted(tmp_path_factory):
    """The digest of SHORT, uninterrupted, and the bytes of its model."""
    folder = tmp_path_factory.mktemp("wanted")
    return run.train(SHORT, folder, quiet=True)["digest"], (folder / "model.safetensors").read_bytes()


# ------------------------------------------------------------------------------------------ folders


@pytest.mark.thorough
def test_a_run_draws_its_report_where_asked_to(tmp_path):
    pytest.importorskip("matplotlib")
    run.train(run.replace(SHORT, report=True), tmp_path / "run", quiet=True)
    assert (tmp_path / "run" / "report.html").is_file()
    assert (tmp_path / "run" / "confusion_matrix.png").is_file()


def test_a_run_leaves_what_there_is_to_know(tmp_path):
    settings = run.replace(
        SHORT, log_steps=True, validation_fraction=0.1, patience=1, checkpoint_every="5", keep=2
    )
    result = run.train(settings, tmp_path / "run", quiet=True)
    assert sorted(os.listdir(tmp_path / "run")) == [
        *("best.safetensors", "checkpoints", "config.toml", "history.csv"),
        *("model.safetensors", "steps.jsonl", "summary.json"),
    ]
    assert len(checkpoint.checkpoints(tmp_path / "run" / "checkpoints")) == 2
    assert summary(tmp_path / "run") == result
    assert result["complete"] and result["stopped"] is None and result["steps"] == 16
    model, description = cnn.load_model(tmp_path / "run")
    assert len(description["classes"]) == 10 and description["test_accuracy"] == result["test_accuracy"]
    assert cnn.load_model(tmp_path / "run" / "best.safetensors")[1]["epoch"] in (1, 2)


def test_validation_images_are_not_trained_on_and_not_tested_on(tmp_path, monkeypatch):
    seen = {}
    fit = cnn.Trainer.fit

    def watched(trainer, train, epochs, validation):
        seen.update(train=train.dataset.images, validation=validation.images)
        return fit(trainer, train, epochs, validation)

    monkeypatch.setattr(cnn.Trainer, "fit", watched)
    train, test = cnn.data.load("mnist-sample")
    run.train(run.replace(SHORT, validation_fraction=0.25, epochs=1), tmp_path, quiet=True)
    assert len(seen["train"]) == 3000 and len(seen["validation"]) == 1000
    together = {image.tobytes() for image in (*seen["train"], *seen["validation"])}
    assert together == {image.tobytes() for image in train.images}
    assert not {image.tobytes() for image in seen["validation"]} & {image.tobytes() for image in test.images}


def test_nothing_is_overwritten(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first, second = (run.train(run.replace(SHORT, epochs=1), quiet=True) for _ in range(2))
    assert sorted(os.listdir("runs")) == ["mnist-sample-lenet5-1", "mnist-sample-lenet5-2"]
    assert first["digest"] == second["digest"]
    for name in ("config.toml", "model.safetensors", "history.csv", "summary.json", "checkpoints"):
        other = tmp_path / f"holds-{name}"
        other.mkdir()
        (other / name).write_text("precious")
        with pytest.raises(FileExistsError, match=f"holds a run already .{name}"):
            run.train(SHORT, other, quiet=True)
        assert os.listdir(other) == [name] and (other / name).read_text() == "precious"


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    result = short("--out", tmp_path / "file" / "run")
    assert result.returncode == 1 and str(tmp_path / "file" / "run") in result.stderr


@pytest.mark.thorough
def test_a_run_that_another_process_works_on_is_left_alone(tmp_path):
    """From its first to its last moment, whatever files are replaced meanwhile; then the lock is gone."""
    folder = tmp_path / "run"
    others = f"""
        for what in (lambda: run.train(run.Settings(), {str(folder)!r}, quiet=True),
                     lambda: run.resume({str(folder)!r}, quiet=True)):
            try:
                what()
            except FileExistsError as error:
                print(error)
    """
    try_both = f"subprocess.run([sys.executable, '-c', {'from cnn.runs import run' + textwrap.dedent(others)!r}])"
    first = at_step(1, f"import subprocess; {try_both}")
    last = f"""
        from cnn import files
        from cnn.runs import run
        def wrap(write):
            def wrapped(path, content):
                import subprocess
                write(path, content)
                if str(path).endswith("summary.json"):
                    {try_both}
            return wrapped
        files.write = wrap(files.write)
    """
    refused = f"{folder}: another process is working on this run\n"
    for before in (first, textwrap.dedent(last)):
        result = short("--out", folder, "--quiet", before=before)
        assert result.returncode == 0, result.stderr
        assert result.stdout == 2 * refused
        assert run.resume(folder, quiet=True)["complete"]
        shutil.rmtree(folder)


@pytest.mark.thorough
def test_of_two_that_start_at_once_one_is_refused(tmp_path):
    command = [sys.executable, str(SCRIPT), "--out", str(tmp_path / "run"), "--quiet", "--seed"]
    both = [subprocess.Popen([*command, str(seed)], stderr=subprocess.PIPE, text=True, cwd=Path(__file__).parent)
            for seed in (1, 2)]
    said = [process.communicate()[1] for process in both]
    codes = [process.returncode for process in both]
    assert sorted(codes) == [0, 1] and str(tmp_path / "run") in said[codes.index(1)]
    assert read_settings(tmp_path / "run")["seed"] == summary(tmp_path / "run")["seed"] == codes.index(0) + 1


def test_what_killed_writes_have_left_is_cleared_away(tmp_path):
    fcntl = pytest.importorskip("fcntl")
    folder = tmp_path / "run"
    folder.mkdir()
    names = (".config.toml.0123abcd.cnn-tmp", ".model.safetensors.0123abcd.cnn-tmp", ".notes.tmp", ".summary.json.swp")
    for name in names:
        (folder / name).write_text("half")
    with open(folder / names[1]) as living:
        fcntl.flock(living, fcntl.LOCK_EX)
        run.train(run.replace(SHORT, max_minutes=1e-9), folder, quiet=True)
        assert {name for name in os.listdir(folder) if name.startswith(".")} == set(names[1:])
    run.resume(folder, quiet=True)
    assert {name for name in os.listdir(folder) if name.startswith(".")} == set(names[2:])


# ------------------------------------------------------------------------------------------ settings


def test_settings_round_trip(tmp_path):
    settings = run.replace(
        SHORT, lr=1e-5, flip="random", data_dir='/a "folder"\\with ümlauts', checkpoint_every="17", min_delta=0.25
    )
    write_settings(tmp_path / "config.toml", settings)
    for path in (tmp_path, str(tmp_path), tmp_path / "config.toml"):
        assert run.Settings(**read_settings(path)) == settings


@pytest.mark.thorough
def test_what_a_run_wrote_makes_the_same_run(tmp_path, wanted):
    run.train(SHORT, tmp_path / "a", quiet=True)
    result = train_py("--config", tmp_path / "a", "--out", tmp_path / "b", "--keep", 1)
    assert result.returncode == 0, result.stderr
    assert summary(tmp_path / "b")["digest"] == wanted[0]
    assert (tmp_path / "b" / "model.safetensors").read_bytes() == wanted[1]
    result = train_py("--config", tmp_path / "a" / "config.toml", "--out", tmp_path / "c", "--seed", 1)
    assert summary(tmp_path / "c")["seed"] == 1 and summary(tmp_path / "c")["digest"] != wanted[0]


def test_every_setting_is_an_option():
    values = {int: "3", float: "0.5", str: "x"}
    parser = train.parser()
    for field in dataclasses.fields(run.Settings):
        name = f"--{field.name.replace('_', '-')}"
        value = field.metadata.get("choices", [values.get(field.type)])[0]
        given = vars(parser.parse_args([name] if field.type is bool else [name, value]))[field.name]
        assert type(given) is field.type


@pytest.mark.parametrize(
    "text",
    ["dataset = ", "epoch = 3", "dataset = 1\ndataset = 2", "[run]\nepochs = 3", "\0", "a = " + "[" * 9999],
)
def test_a_configuration_that_cannot_be_used_is_named(tmp_path, text):
    (tmp_path / "config.toml").write_text(text)
    with pytest.raises(ValueError, match="config.toml: "):
        read_settings(tmp_path)
    with pytest.raises(FileNotFoundError, match="nothing.toml"):
        read_settings(tmp_path / "nothing.toml")


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"dataset": 3}, TypeError),
        ({"image_size": -1}, ValueError),
        ({"epochs": -1}, ValueError),
        ({"epochs": 1.5}, TypeError),
        ({"lr": "0.1"}, TypeError),
        ({"lr": -1}, ValueError),
        ({"flip": True}, ValueError),
        ({"validation_fraction": 1}, ValueError),
        ({"label_smoothing": 1.5}, ValueError),
        ({"monitor": "loss"}, ValueError),
        ({"patience": 2}, ValueError),  # without anything to monitor
        ({"checkpoint_every": "0"}, ValueError),
        ({"checkpoint_every": "weekly"}, ValueError),
        ({"checkpoint_every": 5}, TypeError),
        ({"keep": 0}, ValueError),
        ({"max_minutes": -1.0}, ValueError),
        ({"data_dir": None}, TypeError),
        ({"channels": "8,16"}, ValueError),  # of lenet5
        ({"bias_lr": 0.0}, ValueError),
        ({"decay_biases": 0}, TypeError),
        ({"max_grad_norm": -1.0}, ValueError),
        ({"schedule": "square"}, ValueError),
        ({"ema": 1.0}, ValueError),
        ({"lookahead": 5}, TypeError),
        ({"class_weights": "equal"}, ValueError),
        ({"schedule": "spiral"}, ValueError),
        ({"milestones": "3,2"}, ValueError),
        ({"lr_factors": "0.*"}, ValueError),
        ({"lr_factors": "0.*=-1"}, ValueError),
        ({"lr_factors": "=1"}, ValueError),
        ({"lr_factors": "head.*=1"}, ValueError),
        ({"milestones": "a"}, ValueError),
        ({"gamma": 0.0}, ValueError),
        ({"gamma": 1.0, "schedule": "plateau"}, ValueError),
        ({"cycle_mult": 0}, ValueError),
        ({"shift": -1}, ValueError),
        ({"shift_mode": "wrap"}, ValueError),
        ({"cutout": 1.5}, TypeError),
        ({"rotate": 181.0}, ValueError),
        ({"translate": 1.5}, ValueError),
        ({"scale": 1.0}, ValueError),
        ({"shear": 90.0}, ValueError),
        ({"tta": None}, ValueError),
    ],
)
def test_settings_that_cannot_be_used(tmp_path, changes, error):
    name = next(iter(changes))
    with pytest.raises(error, match=f"train: {name.replace('_', '.')}"):
        run.train(run.replace(SHORT, **changes), tmp_path / "run", quiet=True)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("channels", ["4", "4,", "a,b,c", "4,-4,4", "4,0,4", "4.0,4,4", "٤,4,4"])
def test_widths_that_cannot_be_used(tmp_path, channels):
    settings = run.replace(SHORT, model="resnet9" if channels == "4" else "cifar_net", channels=channels)
    with pytest.raises(ValueError, match="channels"):
        run.train(settings, tmp_path / "run", quiet=True)
    assert os.listdir(tmp_path) == []


def test_a_shift_that_is_too_large_to_be_reflected(tmp_path):
    with pytest.raises(ValueError, match="train: shift must be below 28, .*, got 28"):
        run.train(run.replace(SHORT, shift=28, shift_mode="reflect"), tmp_path / "run", quiet=True)
    assert os.listdir(tmp_path) == []


@pytest.mark.thorough
@pytest.mark.parametrize(
    "arguments",
    [
        ("--recipe", "mnist-99", "--lr", "1"),
        ("--resume", "x", "--lr", "1"),
        ("--resume", "x", "--seed", "1"),
        ("--resume", "x", "--out", "y"),
        ("--resume", "x", "--config", "y"),
        ("--recipe", "mnist-99", "--config", "y"),
    ],
)
def test_arguments_that_exclude_each_other(arguments):
    assert train_py(*arguments).returncode == 2


# ------------------------------------------------------------------------------------------ what settings do


@pytest.fixture
def colours(tmp_path):
    """A path of few small pictures in three classes, of which one is frequent."""
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (90, 3, 16, 16), np.uint8), rng.integers(0, 6, 90)
    np.savez(tmp_path / "colours.npz", images=images, labels=np.maximum(labels - 3, 0))
    return str(tmp_path / "colours.npz")


ALL = {
    "channels": "4,3,5", "bias_lr": 8.0, "decay_biases": False, "max_grad_norm": 0.5, "schedule": "triangle",
    "ema": 0.9, "lookahead": True, "class_weights": "balanced", "shift": 1, "shift_mode": "reflect",
    "flip": "alternating", "cutout": 5, "rotate": 20.0, "translate": 0.2, "scale": 0.2, "shear": 10.0,
    "tta": "flip+shift", "drop_last": True, "lr_factors": "*.weight=0.5",
    "accumulate": 2, "mixup": 0.4, "cutmix": 1.0,
}  # fmt: skip


def small(dataset, **changes):
    """Settings of 14 steps on `colours`, without anything that ALL has."""
    return run.Settings(
        dataset=dataset, model="cifar_net", epochs=2, batch_size=11, lr=0.02, shift=0, flip="none", **changes)


@pytest.mark.thorough
def test_every_setting_counts(tmp_path, colours):
    plain = {"channels": "3,4,5", "shift": 2, "weight_decay": 0.1}  # so much that a bias shows it
    wanted = run.train(run.replace(small(colours), **plain), tmp_path / "plain", quiet=True)
    results = {}
    others = {"schedule": "linear", "flip": "random", "tta": "flip"}
    for name, value in [*ALL.items(), *others.items()]:
        settings = run.replace(small(colours), **{**plain, name: value})
        results[name, value] = run.train(settings, tmp_path / f"{name}-{value}", quiet=True)
    for (name, _), result in results.items():
        assert (result["digest"] == wanted["digest"]) == (name == "tta"), name
        assert result["test_loss"] != wanted["test_loss"]
    results = list(results.values())
    assert len({(result["digest"], result["test_loss"]) for result in results}) == len(results)


@pytest.mark.thorough
def test_with_all_settings_resuming_gives_the_same_bits(tmp_path, colours):
    settings = run.replace(small(colours), **ALL, validation_fraction=0.2, patience=2, monitor="val_accuracy",
                           checkpoint_every="1", keep=99)
    wanted, folder = run.train(settings, tmp_path / "run", quiet=True), tmp_path / "run"
    files = {name: (folder / name).read_bytes() for name in ("model.safetensors", "best.safetensors")}
    steps = wanted["steps"]
    for step in (steps - 1, steps // 2, 3, 1):  # backwards: later checkpoints go away
        for path in checkpoint.checkpoints(folder / "checkpoints")[step:]:
            path.unlink()
        for name in ("model.safetensors", "summary.json"):
            (folder / name).unlink()
        assert run.resume(folder, quiet=True)["digest"] == wanted["digest"]
        assert {name: (folder / name).read_bytes() for name in files} == files
    assert run.Settings(**read_settings(folder)) == settings
    model, description = cnn.load_model(folder)
    assert description["arguments"]["channels"] == [4, 3, 5] and description["tta"] == "flip+shift"


@pytest.mark.thorough
def test_the_average_is_measured_and_kept(tmp_path, colours):
    """What the run says and saves are the average's, and what `cnn evaluate` finds is what the run has said."""
    settings = run.replace(small(colours), ema=0.9, tta="flip")
    result = run.train(settings, tmp_path / "run", quiet=True)
    state = checkpoint.load(checkpoint.checkpoints(tmp_path / "run" / "checkpoints")[-1])
    saved = cnn.load_model(tmp_path / "run")[0].state_dict()
    for name, p in cnn.load_model(tmp_path / "run")[0].named_parameters():
        assert np.array_equal(saved[name], state["EMA"][f"average.{name}"])
        assert np.array_equal(saved[name], state["model"][name]) != p.requires_grad
    measured = evaluation.measure(tmp_path / "run", out=lambda text: None)
    assert measured.accuracy == result["test_accuracy"]
    assert measured.loss == pytest.approx(result["test_loss"], rel=1e-6)


@pytest.mark.thorough
def test_the_first_layer_of_cifar_net_stays_whitened(tmp_path, colours):
    settings = run.replace(small(colours), lookahead=True, ema=0.9)
    run.train(settings, tmp_path / "run", quiet=True)
    train_set, _ = cnn.data.load(colours)
    model = cnn.models.cifar_net(3, 3, 16)
    cnn.models.whiten(model, train_set.normalise(train_set.images))
    trained = cnn.load_model(tmp_path / "run")[0]
    assert np.array_equal(trained[0].weight.data, model[0].weight.data)
    assert not np.array_equal(trained[0].bias.data, model[0].bias.data)


def test_schedules_of_a_run():
    def rates(name, steps=200, **settings):
        schedule = make_schedule(run.Settings(schedule=name, lr=0.5, epochs=20, **settings), steps)
        return [schedule(step) for step in range(steps)]

    def close(found, wanted):
        np.testing.assert_allclose(found, wanted, rtol=1e-12)

    at = np.arange(200)
    close(rates("triangle"), np.interp(at, [0, 0.23 * 200 - 1, 199], [0.1, 0.5, 0.035]))
    close(rates("linear"), 0.5 * (1 - at / 200))
    close(rates("linear", final_lr=0.1), 0.5 - 0.4 * at / 200)
    close(rates("polynomial", power=2.0), 0.5 * (1 - at / 200) ** 2)
    close(rates("step", gamma=0.5), 0.5 * 0.5 ** (at // 50))
    close(rates("multi-step"), 0.5 * 0.1 ** ((at >= 100) * 1.0 + (at >= 150)))
    close(rates("multi-step", milestones="2,11", gamma=0.5), 0.5 * 0.5 ** ((at >= 20) * 1.0 + (at >= 110)))
    close(rates("exponential", gamma=0.01), 0.5 * 0.01 ** (at / 200))
    close(rates("warm-restarts"), 0.25 * (1 + np.cos(np.pi * (at % 50) / 50)))
    close(rates("warm-restarts", cycle_epochs=2, cycle_mult=9)[20:], 0.25 * (1 + np.cos(np.pi * at[:180] / 180)))
    triangle = np.abs((at % 50) - 25) / 25
    close(rates("cyclic", final_lr=0.1), 0.5 - 0.4 * triangle)
    close(rates("cyclic", cycle_mode="exp_range", gamma=0.5), 0.5 * (1 - triangle) * 0.5 ** (at / 50))
    assert rates("plateau") == rates("constant") == [0.5] * 200
    looked_at = {"triangle", "linear", "polynomial", "step", "multi-step", "exponential", "warm-restarts", "cyclic",
                 "plateau", "constant"}
    assert looked_at == set(SCHEDULES) - {"cosine", "one-cycle"}


@pytest.mark.thorough
def test_a_run_with_a_plateau_goes_on_to_the_same_bits(tmp_path, colours):
    settings = run.replace(small(colours), epochs=4, validation_fraction=0.2, schedule="plateau", lr_patience=0,
                           lr_threshold=0.5, gamma=0.5, checkpoint_every="1", keep=99)
    wanted, folder = run.train(settings, tmp_path / "run", quiet=True), tmp_path / "run"
    history = cnn.history.History.load(folder / "history.csv")
    assert history.column("lr")[0] == 0.02 and history.column("lr")[-1] < 0.02
    for step in (wanted["steps"] - 1, wanted["steps"] // 2, 2):
        for path in checkpoint.checkpoints(folder / "checkpoints")[step:]:
            path.unlink()
        (folder / "summary.json").unlink()
        assert run.resume(folder, quiet=True)["digest"] == wanted["digest"]
    with pytest.raises(ValueError, match="schedule plateau by val_loss needs a validation fraction"):
        run.train(run.replace(settings, validation_fraction=0.0), tmp_path / "other", quiet=True)


def test_balanced_classes():
    labels = [0] * 6 + [1] * 3  # none of the third class
    data = cnn.data.Dataset(np.zeros((9, 1, 4, 4), np.uint8), labels, list("abc"))
    weight = make_loss(run.Settings(class_weights="balanced"), data).weight
    assert weight[0] * 6 == pytest.approx(weight[1] * 3) and np.isfinite(weight).all()
    assert weight[np.array(labels)].mean() == pytest.approx(2 / 3)  # 1 with all classes
    assert make_loss(run.Settings(), data).weight is None


# ------------------------------------------------------------------------------------------ recipes


@pytest.mark.thorough
def test_recipes_are_listed_and_can_be_run():
    said = train_py("--list-recipes").stdout.splitlines()
    assert len(said) == len(RECIPES)
    for line, (name, recipe) in zip(said, RECIPES.items(), strict=True):
        check(recipe.settings)
        model, channels = recipe.settings.model, recipe.settings.channels
        cnn.models.MODELS[model](**cnn.models.widths("train", model, channels))
        assert recipe.settings.dataset in cnn.data.NAMES
        words = (f"{name}: ", recipe.settings.model, recipe.settings.dataset, f"{recipe.target:.1%}", recipe.cost)
        assert all(word in line for word in words)


@pytest.mark.thorough
@pytest.mark.parametrize(("target", "words"), [(0.0, "target 0.0%: met"), (1.0, "target 100.0%: missed")])
def test_a_run_with_a_target_says_whether_it_was_met(tmp_path, capsys, target, words):
    """Also where it was interrupted."""
    run.train(SHORT, tmp_path / "a", target=target)
    assert words in capsys.readouterr().out
    run.train(run.replace(SHORT, max_minutes=1e-9), tmp_path / "b", target=target)
    capsys.readouterr()
    run.resume(tmp_path / "b")
    assert words in capsys.readouterr().out


# ------------------------------------------------------------------------------------------ interruptions

AT_STEP = """
    import os, signal, sys, cnn
    from cnn.training import callbacks
    ordinary = callbacks.CSVLog.on_step_end

    def on_step_end(self, trainer):
        if trainer.step == {step}:
            {action}

    callbacks.CSVLog.on_step_end = on_step_end
"""


def at_step(step, action):
    return AT_STEP.format(step=step, action=action)


@pytest.mark.thorough
@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_a_signal_saves_says_how_to_go_on_and_goes_on_to_the_same_bits(tmp_path, wanted, name, code):
    folder = tmp_path / "run"
    result = short("--out", folder, "--quiet", before=at_step(11, f"os.kill(os.getpid(), signal.{name})"))
    assert result.returncode == code
    assert f"train.py --resume {folder}" in result.stderr and name in result.stderr
    assert [p.name for p in checkpoint.checkpoints(folder / "checkpoints")] == ["step-00000011.safetensors"]
    assert not (folder / "summary.json").exists() and "Traceback" not in result.stderr
    result = train_py("--resume", folder)
    assert result.returncode == 0 and "going on after step 11" in result.stdout
    assert summary(folder)["digest"] == wanted[0]
    assert (folder / "model.safetensors").read_bytes() == wanted[1]
    assert len((folder / "history.csv").read_text().splitlines()) == 3
    result = train_py("--resume", folder)
    assert result.returncode == 0 and "is complete" in result.stdout


def test_a_second_signal_stops_at_once(tmp_path):
    folder = tmp_path / "run"
    for name, code in (("SIGINT", 130), ("SIGTERM", -signal.SIGTERM)):
        kill = f"os.kill(os.getpid(), signal.{name})"
        result = short("--out", folder / name, "--quiet", before=at_step(11, f"{kill}; {kill}; print('on')"))
        assert result.returncode == code and result.stdout == ""
        assert checkpoint.checkpoints(folder / name / "checkpoints") == []


@pytest.mark.thorough
def test_killed_before_the_first_checkpoint(tmp_path, wanted):
    folder = tmp_path / "run"
    kill = at_step(11, "os.kill(os.getpid(), signal.SIGKILL)")
    result = short("--out", folder, "--log-steps", "--validation-fraction", 0, before=kill)
    assert result.returncode == -signal.SIGKILL
    assert (folder / "history.csv").exists()
    result = train_py("--resume", folder)
    assert "from the beginning" in result.stdout, result.stderr
    assert summary(folder)["digest"] == wanted[0]
    assert len((folder / "steps.jsonl").read_text().splitlines()) == 16


def test_the_time_limit_can_be_gone_beyond(tmp_path, wanted):
    limited = run.train(run.replace(SHORT, max_minutes=1e-9), tmp_path / "run", quiet=True)
    assert limited["steps"] == 1 and not limited["complete"] and "time limit" in limited["stopped"]
    assert run.resume(tmp_path / "run", quiet=True)["digest"] == wanted[0]
    assert read_settings(tmp_path / "run")["max_minutes"] == 1e-9


def test_a_run_that_stopped_early_is_complete(tmp_path):
    settings = run.replace(SHORT, epochs=5, validation_fraction=0.1, patience=1, min_delta=9.0)
    stopped = run.train(settings, tmp_path / "run", quiet=True)
    assert stopped["steps"] == 16 and stopped["complete"] and "val_loss" in stopped["stopped"]
    assert run.resume(tmp_path / "run", quiet=True) == stopped
    best, last = (cnn.load_model(tmp_path / "run" / f"{name}.safetensors")[0] for name in ("best", "model"))
    for name, value in best.state_dict().items():
        assert np.array_equal(value, last.state_dict()[name])
    (tmp_path / "run" / "summary.json").unlink()  # as if it had been killed just before
    assert run.resume(tmp_path / "run", quiet=True)["digest"] == stopped["digest"]


def test_own_data_are_found_from_elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    np.savez("sky.npz", images=rng.integers(0, 256, (60, 16, 16), np.uint8), labels=np.arange(60) % 3)
    settings = run.replace(SHORT, dataset="sky.npz", batch_size=10)
    wanted = run.train(settings, quiet=True)
    (folder,) = (tmp_path / "runs").iterdir()
    run.train(run.replace(settings, max_minutes=1e-9), "other", quiet=True)
    monkeypatch.chdir("/")
    assert run.resume(tmp_path / "other", quiet=True)["digest"] == wanted["digest"]
    files = [path / "model.safetensors" for path in (folder, tmp_path / "other")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_another_version_is_mentioned(tmp_path, capsys):
    run.train(run.replace(SHORT, max_minutes=1e-9), tmp_path / "run", quiet=True)
    config = tmp_path / "run" / "config.toml"
    config.write_text(re.sub('numpy = ".*"', 'numpy = "1.0"', config.read_text()))
    run.resume(tmp_path / "run")
    assert "begun with numpy 1.0" in capsys.readouterr().out


def test_what_cannot_be_changed_in_the_middle(tmp_path):
    with pytest.raises(ValueError, match="resume: lr cannot be changed"):
        run.resume(tmp_path, lr=0.1)
    with pytest.raises(FileNotFoundError, match=str(tmp_path)):
        run.resume(tmp_path)


def test_a_loss_that_is_no_number(tmp_path):
    result = short("--lr", "1e9", "--schedule", "constant", "--checkpoint-every", 1, "--out", tmp_path / "run")
    assert result.returncode == 1 and "Traceback" not in result.stderr
    good = checkpoint.checkpoints(tmp_path / "run" / "checkpoints")
    assert re.search(r"(loss|weights) became (nan|inf|NaN).* step \d+ .*learning rate 1e\+09", result.stderr)
    words = f"the last good checkpoint is {good[-1]}" if good else "there was no checkpoint yet"
    assert words in result.stderr and "try a lower lr" in result.stderr
    left = summary(tmp_path / "run")
    assert left["diverged"] and not left["complete"] and words in left["stopped"]
    for path in good:
        assert all(np.isfinite(w).all() for w in checkpoint.load(path)["model"].values())


@pytest.mark.thorough
def test_a_run_that_diverges_keeps_its_best_weights_and_says_so(tmp_path, monkeypatch, capsys):
    """Also where no best.safetensors is written; and its report says so."""
    pytest.importorskip("matplotlib")
    ordinary = cnn.callbacks.CSVLog.on_epoch_end

    def spoil(self, trainer):
        ordinary(self, trainer)
        if trainer.epoch == 1:
            trainer.model.parameters()[-1].data = [np.nan] * 10

    monkeypatch.setattr(cnn.callbacks.CSVLog, "on_epoch_end", spoil)
    settings = run.replace(SHORT, epochs=3, monitor="train_loss", patience=2, report=True, checkpoint_every="9999")
    with pytest.raises(cnn.TrainingDiverged, match="there was no checkpoint yet; model.safetensors has .* epoch 1"):
        run.train(settings, tmp_path / "run", quiet=True)
    model, description = cnn.load_model(tmp_path / "run")
    assert description["epoch"] == 1 and all(np.isfinite(w).all() for w in model.state_dict().values())
    left = summary(tmp_path / "run")
    assert left["diverged"] is True and left["complete"] is False and "became nan" in left["stopped"]
    page = (tmp_path / "run" / "report.html").read_text()
    assert "Stopped: the loss became nan" in page and "try a lower lr" in page


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"epochs": 0}, "epochs is 0: nothing is trained"),
        ({"batch_size": 61, "epochs": 1}, "a batch of 61 is larger than the 60 training images"),
        ({"batch_size": 60, "epochs": 1}, None),
    ],
)
def test_settings_that_may_be_a_mistake_are_mentioned(tmp_path, capsys, changes, words):
    np.savez(tmp_path / "d.npz", images=np.zeros((75, 16, 16), np.uint8) + np.arange(75, dtype=np.uint8)[:, None, None],
             labels=np.arange(75) % 3)
    settings = run.replace(run.Settings(), dataset=str(tmp_path / "d.npz"), **changes)
    assert run.train(settings, tmp_path / "run")["steps"] == changes["epochs"]
    said = capsys.readouterr().out
    assert words in said if words else "a batch of" not in said and "epochs is" not in said


def test_the_last_batch_may_be_left_out(tmp_path):
    """It must be where batch norm gets a single value per channel of it, which is said before anything is written."""
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "d.npz", images=rng.integers(0, 256, (75, 16, 16), np.uint8), labels=np.arange(75) % 3)
    settings = run.replace(run.Settings(), dataset=str(tmp_path / "d.npz"), epochs=1, batch_size=59, shift=0)
    assert run.train(settings, tmp_path / "a", quiet=True)["steps"] == 2
    assert run.train(run.replace(settings, drop_last=True), tmp_path / "b", quiet=True)["steps"] == 1
    with pytest.raises(ValueError, match="train: with drop last, batch size must be at most the 60 training images"):
        run.train(run.replace(settings, drop_last=True, batch_size=61), tmp_path / "c", quiet=True)

    def normed(in_channels, num_classes, image_size, seed=0):
        return cnn.Sequential(cnn.layers.AdaptiveAvgPool2d(1), cnn.BatchNorm2d(in_channels), cnn.Flatten(),
                              cnn.Linear(in_channels, num_classes, seed=seed))

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(cnn.models.MODELS, "lenet5", normed)
        with pytest.raises(ValueError, match="train: the last batch .* BatchNorm2d .layer 1.*--drop-last"):
            run.train(settings, tmp_path / "d", quiet=True)
        run.train(run.replace(settings, drop_last=True), tmp_path / "e", quiet=True)
    assert sorted(os.listdir(tmp_path)) == ["a", "b", "d.npz", "e"]


def test_diverging_in_the_middle_leaves_the_good_checkpoint(tmp_path):
    before = at_step(6, "trainer.model.parameters()[-1].data = [float('nan')] * 10")
    result = short("--checkpoint-every", 1, "--out", tmp_path / "run", before=before)
    good = checkpoint.path_of(tmp_path / "run" / "checkpoints", 5)
    assert result.returncode == 1 and f"the last good checkpoint is {good}" in result.stderr
    assert checkpoint.load(good)["position"]["step"] == 5


@pytest.mark.thorough
def test_a_file_that_grows_too_large(tmp_path):
    """As on a full disk: the file is named, and the one before it can be gone on from."""
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))"
    folder = tmp_path / "run"
    result = short("--checkpoint-every", 1, "--out", folder, before=at_step(6, limit))
    assert result.returncode == 1 and "Traceback" not in result.stderr
    assert str(folder / "checkpoints" / "step-00000006.safetensors") in result.stderr
    assert sorted(os.listdir(folder / "checkpoints")) == [f"step-0000000{n}.safetensors" for n in (3, 4, 5)]
    assert checkpoint.load(checkpoint.path_of(folder / "checkpoints", 5))["position"]["step"] == 5


@pytest.mark.parametrize(("name", "size"), [("steps.jsonl", 200), ("history.csv", 85)])
def test_a_log_that_cannot_grow(tmp_path, name, size):
    limit = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({size}, {size}))"
    option = ["--log-steps"] if name == "steps.jsonl" else []
    result = short("--out", tmp_path / "run", *option, before=at_step(1, limit))
    assert result.returncode == 1 and "Traceback" not in result.stderr
    assert f"could not write: File too large: '{tmp_path / 'run' / name}'" in result.stderr


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder(tmp_path):
    result = short("--checkpoint-every", 1, "--out", tmp_path / "run", before=at_step(
        6, f"os.chmod({str(tmp_path / 'run' / 'checkpoints')!r}, 0o500)"))
    (tmp_path / "run" / "checkpoints").chmod(0o700)
    assert result.returncode == 1 and "step-00000006.safetensors" in result.stderr


KILLABLE = """
    import os, sys
    from pathlib import Path
    from cnn.training import callbacks
    from cnn.runs import run

    save = callbacks.Checkpoint.save

    def saying(self, trainer):
        path = save(self, trainer)
        os.write(1, b"%d\\n" % trainer.step)
        return path

    callbacks.Checkpoint.save = saying
    folder = Path(sys.argv[1])
    if (folder / "config.toml").exists():
        run.resume(folder, quiet=True)
    else:
        settings = run.replace(run.Settings(), epochs=int(sys.argv[2]), checkpoint_every="1")
        run.train(settings, folder, quiet=True)
"""


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("kills", "epochs", "seed"),
    [(4, 6, 0), *(pytest.param(50, 30, seed, marks=pytest.mark.slow) for seed in (1, 2, 3, 4))],
)
def test_sigkill_at_random_instants(tmp_path, kills, epochs, seed):
    """Every checkpoint can be read, no completed one is lost, and the end is the same to the bit."""
    rng = random.Random(seed)
    folder, complete, unloadable, lost = tmp_path / "1", 0, 0, 0
    wanted = run.train(run.replace(run.Settings(), epochs=epochs), tmp_path / "wanted", quiet=True)["digest"]

    def start():
        command = [sys.executable, "-c", textwrap.dedent(KILLABLE), str(folder), str(epochs)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parent)

    for kill in itertools.count():
        process = start()
        if kill % 4:  # else at any time, also before the first step
            select.select([process.stdout], [], [])
        time.sleep(rng.uniform(0, 0.2))
        process.kill()
        said = [int(line) for line in process.communicate()[0].splitlines(keepends=True) if line.endswith(b"\n")]
        paths = checkpoint.checkpoints(folder / "checkpoints")
        for path in paths:
            try:
                checkpoint.load(path)
            except ValueError:
                unloadable += 1
        lost += bool(said) and (not paths or checkpoint.step_of(paths[-1]) < said[-1])
        if kill + 1 == kills:
            break
        if (folder / "summary.json").exists():
            assert summary(folder)["digest"] == wanted
            complete += 1
            folder = tmp_path / str(complete + 1)
    assert (unloadable, lost) == (0, 0)
    assert start().wait() == 0
    assert summary(folder)["digest"] == wanted


# ------------------------------------------------------------------------------------------ the rest


def test_find_lr_where_nothing_is_learnt(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(lr_finder, "find_lr", lambda *given: lr_finder.LRCurve([0.1, 0.2], [1.0, 1.0]))
    run.find_lr(SHORT, tmp_path / "lr")
    assert "the loss falls at none of these learning rates\n" in capsys.readouterr().out


@pytest.mark.thorough
def test_find_lr(tmp_path):
    result = train_py("--find-lr", "--out", tmp_path / "lr")
    assert result.returncode == 0, result.stderr
    assert re.search(r"suggested: --lr \S+; the loss is lowest at \S+ and rises beyond\n", result.stdout)
    assert len((tmp_path / "lr" / "lr.csv").read_text().splitlines()) > 20
    assert set(os.listdir(tmp_path / "lr")) <= {"lr.csv", "lr.png"}


@pytest.mark.thorough
def test_the_example_of_the_docs(tmp_path):
    text = (SCRIPT.parents[1] / "docs" / "runs.md").read_text()
    code = re.search(r"```python\n(.*?)```", text, re.DOTALL)[1].replace("epochs=10", "epochs=1")
    for _ in range(2):  # the second time it is complete
        result = run_python("-c", f"import os\nos.chdir({str(tmp_path)!r})\n{code}")
        assert result.returncode == 0, result.stderr
    assert sorted(os.listdir(tmp_path)) == ["checkpoints", "history.csv"]
    assert len((tmp_path / "history.csv").read_text().splitlines()) == 2


def test_nothing_heavy_is_loaded_before_the_first_step(tmp_path):
    heavy = {"matplotlib", "tensorboardX", "torch", "pooch", "PIL", "requests", "tqdm"}
    result = short("--out", tmp_path / "run", before=at_step(1, f"print({heavy} & set(sys.modules))"))
    assert "\nset()\n" in result.stdout, result.stderr
