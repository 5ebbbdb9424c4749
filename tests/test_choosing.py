"""Settings for images of one's own, chosen from the data; and runs with them."""

import dataclasses
import json
import tomllib

import numpy as np
import pytest

import cnn
from cnn.commands import main
from cnn.data import Dataset, own
from cnn.runs import choosing, mirror, run
from cnn.runs.recipes import RECIPES
from cnn.runs.settings import DEFAULTS, FREE, Settings, read_settings


def striped(path, counts, side=16, channels=1, **arrays):
    """An .npz file of noisy stripes, of another direction and width in each class."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:side, :side]
    waves = [np.sin((x * np.cos(k) + y * np.sin(k)) * (0.6 + 0.3 * k)) for k in range(len(counts))]
    images = np.concatenate([np.stack([wave] * n) for wave, n in zip(waves, counts, strict=True)])[:, None]
    images = images * 60 + 128 + rng.normal(0, 30, (len(images), channels, side, side))
    np.savez(path, images=np.clip(images, 0, 255).astype(np.uint8), labels=np.repeat(np.arange(len(counts)), counts),
             **arrays)
    return str(path)


def chosen(path, **given):
    """The settings chosen for images in a file, and the five lines that say so."""
    settings = dataclasses.replace(Settings(dataset=str(path)), **given)
    settings, sets, lines = choosing.choose(settings, {"dataset", *given})
    assert [line.split(":")[0] for line in lines] == ["images", "model", "training", "augmentation", "classes"]
    return settings, sets, lines


# ------------------------------------------------------------------------------------------ what is chosen


@pytest.mark.parametrize(("sides", "size"), [
    ([28] * 9, 28), ([8] * 9, 16), ([47] * 6 + [30] * 4, 47), ([65] * 9, 48), ([4000, 3000], 48),
    ([40, 160, 90, 44, 43], 40), (list(range(20, 30)), 24), ([9, 10, 11], 16), ([100] * 10_001, 32), ([300], 48)])
def test_image_size(sides, size):
    assert choosing.image_size(sides) == size


def test_more_images_take_wider_networks_and_fewer_epochs(tmp_path):
    found = []
    for n in (40, 400, 4000):
        settings, (train, _, _), _ = chosen(striped(tmp_path / f"{n}.npz", [n, n]))
        assert len(train) == pytest.approx(2 * n * 0.8 * 0.85, abs=3)
        found.append(settings)
    assert [s.model for s in found] == ["cifar_net"] * 3
    assert [s.channels for s in found] == ["32,64,64", "32,64,64", "32,96,128"]
    assert found[0].epochs > found[1].epochs > found[2].epochs >= 8
    for settings in found:      # what keeps a run from diverging
        assert settings.schedule == "one-cycle" and settings.max_grad_norm > 0


@pytest.mark.thorough
def test_what_is_given_stays(tmp_path):
    path = striped(tmp_path / "x.npz", [60, 60])
    for given in ({"model": "lenet5"}, {"lr": 0.5}, {"optimizer": "rmsprop"}, {"epochs": 3, "batch_size": 7},
                  {"flip": "alternating", "shift": 0}, {"validation_fraction": 0.0}, {"validation_fraction": 0.3},
                  {"class_weights": "balanced"}, {"channels": "4,4"}, {"max_grad_norm": 0.0}, {"seed": 3},
                  {"label_smoothing": 0.0, "weight_decay": 0.5}, {"schedule": "constant"}):
        settings, _, lines = chosen(path, **given)
        assert {name: getattr(settings, name) for name in given} == given
        if set(given) - {"seed"}:
            assert all(f"--{name.replace('_', '-')}" in "\n".join(lines) for name in given), lines


def test_learning_rates_fit_model_and_optimizer(tmp_path):
    path = striped(tmp_path / "x.npz", [60, 60])
    assert chosen(path)[0].optimizer == "sgd"
    for given in ({"model": "lenet5"}, {"optimizer": "adam"}, {"lr": 1e-3}):
        settings = chosen(path, **given)[0]
        assert settings.optimizer == "adam" and settings.lr <= 5e-3 and settings.model != "cifar_net"
    assert chosen(path, model="lenet5", optimizer="sgd")[0].lr <= 0.05


def test_tiny_images_get_a_network_that_takes_them(tmp_path):
    for side, model in ((5, "resnet20"), (9, "cifar_net")):
        settings, sets, _ = chosen(striped(tmp_path / "x.npz", [60, 60], side), epochs=1)
        assert settings.model == model and settings.shift < side
        assert run.make(settings, sets[0])


def test_very_unequal_classes_are_balanced(tmp_path):
    assert chosen(striped(tmp_path / "a.npz", [200, 100]))[0].class_weights == "none"
    assert chosen(striped(tmp_path / "b.npz", [200, 10]))[0].class_weights == "balanced"


def test_validation_images_are_held_out_unless_there_is_a_test_part(tmp_path):
    """A fixed share of every class; the same for the same seed."""
    path = striped(tmp_path / "x.npz", [100, 50])
    parts = [chosen(path, seed=seed)[1] for seed in (0, 0, 1)]
    for train, validation, test in parts:
        assert np.bincount(validation.labels).tolist() == [12, 6] and np.bincount(test.labels).tolist() == [20, 10]
        assert len({image.tobytes() for part in (train, validation, test) for image in part.images}) == 150
    assert np.array_equal(parts[0][1].images, parts[1][1].images)
    assert not np.array_equal(parts[0][1].images, parts[2][1].images)
    few = np.random.default_rng(1).integers(0, 256, (4, 1, 16, 16), np.uint8)
    tested = striped(tmp_path / "y.npz", [100, 50], test_images=few, test_labels=np.arange(4) % 2)
    settings, (train, validation, test), lines = chosen(tested)
    assert settings.validation_fraction == 0 and validation is None and len(train) == 150 and len(test) == 4
    assert "nothing held out" in lines[-1] and "a fifth" not in lines[-1]
    checked = striped(tmp_path / "z.npz", [100, 50], val_images=few, val_labels=np.arange(4) % 2)
    settings, (train, validation, test), _ = chosen(checked)
    assert settings.validation_fraction == 0 and len(validation) == 4 and len(train) == 120
    assert chosen(tested, patience=3)[0].validation_fraction > 0     # which is measured on them
    assert chosen(striped(tmp_path / "few.npz", [20, 20]))[0].validation_fraction == 0


def test_a_folder_is_surveyed_without_a_warning(tmp_path, recwarn):
    image = pytest.importorskip("PIL.Image")
    rng = np.random.default_rng(0)
    for name, mode in (("a", "L"), ("b", "RGB")):
        (tmp_path / "set" / name).mkdir(parents=True)
        for i in range(12):
            pixels = rng.integers(0, 256, (30 + i, 50, *([3] if mode == "RGB" else [])), np.uint8)
            image.fromarray(pixels).save(tmp_path / "set" / name / f"{i}.png")
    (tmp_path / "set" / "a" / "x.txt").write_text("")
    (tmp_path / "set" / "a" / "x.png").write_text("")
    found = own.survey(tmp_path / "set")
    assert sorted(found.sides) == sorted([*range(30, 42)] * 2) and not found.tested
    assert not recwarn.list
    settings, (train, _, _), lines = chosen(tmp_path / "set")
    assert settings.image_size == 32 and train.images.shape[1:] == (3, 32, 32)
    assert lines[0] == "images: 32x32, colour; the shorter sides have 30 to 41 pixels"
    assert chosen(tmp_path / "set", image_size=20)[0].image_size == 20
    (tmp_path / "parts").mkdir()
    (tmp_path / "set").rename(tmp_path / "parts" / "train")
    (tmp_path / "parts" / "test" / "a").mkdir(parents=True)
    image.new("L", (9, 7)).save(tmp_path / "parts" / "test" / "a" / "x.png")
    assert own.survey(tmp_path / "parts").tested


# ------------------------------------------------------------------------------------------ mirrored images


def test_mirrored_images_are_used_where_the_class_stays_the_same():
    rng = np.random.default_rng(0)

    def symmetry(patterns, kept=1.0):
        """Of noisy images of each pattern, each mirrored at random if kept is 0.5."""
        labels = np.arange(400) % len(patterns)
        images = np.stack([patterns[k][:, ::rng.choice([1, -1], p=[kept, 1 - kept])] for k in labels])
        images = images[:, None] * 60 + 128 + rng.normal(0, 40, (400, 1, 16, 16))
        return mirror.symmetry(Dataset(np.clip(images, 0, 255).astype(np.uint8), labels))

    y, x = np.mgrid[:16, :16]
    wide, high, slope = np.sin(x - 7.5) ** 2, np.sin(0.8 * y), np.sin(0.8 * (x + y))
    assert symmetry([wide, high]).harmless
    assert not symmetry([slope, slope[:, ::-1]]).harmless
    assert not symmetry([wide, high, wide * high, wide + high, slope, slope[:, ::-1]]).harmless     # two of six
    assert symmetry([slope, high], kept=0.5).harmless
    guessed = symmetry([wide, wide])
    assert not guessed.harmless and "too hard" in guessed.words
    assert "too few" in mirror.symmetry(Dataset(np.zeros((4, 16, 16), np.uint8), [0, 1, 0, 1])).words


def test_handwritten_digits_are_not_mirrored():
    found = mirror.symmetry(cnn.data.load("mnist-sample")[0])
    assert found.plain > 0.85 and found.mirrored < 0.6 and not found.harmless


# ------------------------------------------------------------------------------------------ runs


def test_a_run_with_chosen_settings(tmp_path, capsys, monkeypatch):
    """It says what it chose, records it, is made again from what it wrote, and goes on to the same bits."""
    monkeypatch.chdir(tmp_path)
    path = striped(tmp_path / "stripes.npz", [50, 40])
    main(["train", "--dataset", path, "--epochs", "4", "--checkpoint-every", "1", "--keep", "99", "--out", "a"])
    out = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in out[:5]] == ["images", "model", "training", "augmentation", "classes"]
    assert "61 training, 11 validation (held out), 18 test images of 1x16x16" in out[5]
    assert "(given: --epochs)" in out[2] and "held-out" not in "".join(out)
    wanted = json.loads((tmp_path / "a" / "summary.json").read_text())
    expected = choosing.choose(Settings(dataset=path, epochs=4), {"dataset", "epochs"})[0]
    for name, value in dataclasses.asdict(expected).items():
        assert name in FREE or tomllib.loads((tmp_path / "a" / "config.toml").read_text())[name] == value
    main(["train", "--config", "a", "--out", "b"])
    assert "augmentation:" not in capsys.readouterr().out
    again = json.loads((tmp_path / "b" / "summary.json").read_text())
    assert again["digest"] == wanted["digest"]
    (tmp_path / "a" / "summary.json").unlink()
    for checkpoint in sorted((tmp_path / "a" / "checkpoints").iterdir())[2:]:
        checkpoint.unlink()
    main(["train", "--resume", "a"])
    assert json.loads((tmp_path / "a" / "summary.json").read_text())["digest"] == wanted["digest"]
    assert "images:" not in capsys.readouterr().out


@pytest.mark.parametrize("dtype", [np.float32, np.uint8])
def test_a_run_on_floats_and_on_several_channels(tmp_path, dtype):
    """Floats in a unit of their own are chosen for as bytes are."""
    held = np.load(striped(tmp_path / "x.npz", [50, 50], channels=4))
    images = held["images"] if dtype == np.uint8 else 1000 + 7 * held["images"].astype(dtype)
    np.savez(tmp_path / "y.npz", images=images, labels=held["labels"])
    main(["train", "--dataset", str(tmp_path / "y.npz"), "--epochs", "8", "--out", str(tmp_path / "run"), "--quiet"])
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["test_accuracy"] > 0.9


def test_settings_used_in_python_stay_as_they_are(tmp_path, capsys):
    path = striped(tmp_path / "x.npz", [20, 20])
    settings = Settings(dataset=path, epochs=1)
    run.train(settings, tmp_path / "run")
    assert Settings(**read_settings(tmp_path / "run")) == settings
    assert "augmentation:" not in capsys.readouterr().out


def test_nothing_is_chosen_for_named_data_sets_and_recipes():
    for settings in (*DEFAULTS.values(), *(recipe.settings for recipe in RECIPES.values())):
        assert not choosing.chooses(settings, ())
    assert DEFAULTS["mnist-sample"] == Settings()
    everything = {field.name for field in dataclasses.fields(Settings)}
    assert choosing.chooses(Settings(dataset="mine"), {"dataset"})
    assert not choosing.chooses(Settings(dataset="mine"), everything)


@pytest.mark.thorough
@pytest.mark.parametrize("given", [[], ["--class-weights", "balanced"], ["--model", "vgg_small"], ["--model", "lenet5"],
                                   ["--optimizer", "rmsprop"], ["--model", "lenet5", "--optimizer", "sgd"]])
def test_chosen_settings_learn(tmp_path, given):
    """Unequal classes of stripes in noise: none diverges, and most test images are right after a few epochs."""
    path = striped(tmp_path / "x.npz", [120, 60, 30])
    main(["train", "--dataset", path, "--epochs", "25" if "lenet5" in given else "12", "--out",
          str(tmp_path / "run"), "--quiet", *given])
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["complete"] and summary["test_accuracy"] > 0.9 and summary["never_predicted"] == []


def test_classes_that_are_never_predicted_are_named(tmp_path, capsys):
    """Without training, one class gets all images: the others are named, in the summary, too."""
    path = striped(tmp_path / "x.npz", [40, 40, 40], classes=["up", "down", "left"])
    main(["train", "--dataset", path, "--epochs", "0", "--out", str(tmp_path / "run")])
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    model, _ = cnn.load_model(tmp_path / "run")
    _, (_, validation, _), _ = chosen(path, epochs=0)
    said = model.eval()(validation.normalise(validation.images)).argmax(1)
    assert summary["never_predicted"] == [validation.classes[k] for k in range(3) if k not in said] != []
    assert (f"warning: never predicted for any validation image: {', '.join(summary['never_predicted'])}; "
            in capsys.readouterr().out)
    assert "never_predicted" not in run.train(Settings(epochs=0), tmp_path / "named", quiet=True)


@pytest.mark.thorough
def test_find_lr_looks_at_the_chosen_settings(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    striped(tmp_path / "x.npz", [40, 40])
    main(["train", "--dataset", "x.npz", "--find-lr", "--optimizer", "adam", "--channels", "4,8"])
    out = capsys.readouterr().out
    assert "model: vgg_small with widths 4,8" in out and (tmp_path / "runs" / "x-vgg_small-lr-1" / "lr.csv").exists()
