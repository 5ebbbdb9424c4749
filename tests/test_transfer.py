"""From one network to another: partial states, fresh heads, features computed once, runs that start from others."""

import json
import shutil

import numpy as np
import pytest
from cnn.history import History

import cnn
from cnn import Concat, Conv2d, Flatten, Linear, MaxPool2d, Module, ReLU, Residual, Sequential
from cnn.commands import train
from cnn.data import Dataset
from cnn.runs import run
from cnn.runs.parts import inherited
from cnn.runs.settings import read_settings
from cnn.training import checkpoint


def body():
    return Conv2d(1, 4, 3, seed=1), ReLU(), MaxPool2d(2), Flatten()


def net(classes=5, seed=2):
    return Sequential(*body(), Linear(36, classes, seed=seed))


def made_up(n=60, classes=5, seed=0):
    rng = np.random.default_rng(seed)
    return Dataset(rng.integers(0, 256, (n, 1, 8, 8), np.uint8), np.arange(n) % classes, mean=[0.5], std=[0.25])


# ------------------------------------------------------------------------------------------ partial states


def test_a_state_may_be_loaded_in_part():
    model, before = net(), net().state_dict()
    other = net(classes=3, seed=9)
    state = {**{name: value + 1 for name, value in other.state_dict().items()}, "new": np.zeros(1)}
    del state["0.bias"]
    left = model.load_state_dict(state, strict=False)
    assert left.missing_keys == ["0.bias"] and left.unexpected_keys == ["new"]
    assert left.mismatched_keys == [("4.weight", (3, 36), (5, 36)), ("4.bias", (3,), (5,))]
    assert str(left) == ("missing: 0.bias; unexpected: new; of another shape: 4.weight (3, 36) for (5, 36), "
                         "4.bias (3,) for (5,)")
    after = model.state_dict()
    assert np.array_equal(after.pop("0.weight"), before.pop("0.weight") + 1)
    assert all(np.array_equal(after[name], before[name]) for name in before)


def test_a_state_that_fits_leaves_nothing_out():
    for strict in (True, False):
        left = net().load_state_dict(net(seed=3).state_dict(), strict)
        assert left == ([], [], []) and str(left) == "all keys match"


def test_a_state_of_which_nothing_fits_is_refused():
    model, before = net(), net().state_dict()
    with pytest.raises(ValueError, match="Sequential: the state has nothing that fits: missing: 0.weight, .* unexpec"):
        model.load_state_dict({"weight": np.zeros(3)}, strict=False)
    with pytest.raises(TypeError, match="0.bias must hold numbers"):
        model.load_state_dict({**before, "0.bias": ["a"] * 4}, strict=False)
    assert all(np.array_equal(model.state_dict()[name], before[name]) for name in before)


# ------------------------------------------------------------------------------------------ heads


class TwoHeads(Module):
    def __init__(self):
        super().__init__()
        self.conv, self.colour, self.shape = Conv2d(1, 4, 8), Linear(4, 2), Linear(4, 3)

    def forward(self, x):
        x = self.conv(x).flatten()
        return self.colour(x), self.shape(x)


class Listed(Module):
    def __init__(self):
        super().__init__()
        self.layers = [Conv2d(1, 4, 8), Linear(4, 4)]

    def forward(self, x):
        return self.layers[1](self.layers[0](x).flatten())


HEADS = {
    "last": (lambda: net(), "4", 36),
    "not last of the list": (lambda: Sequential(*net(), ReLU()), "4", 36),
    "of equal layers": (lambda: Sequential(Flatten(), Linear(64, 8), ReLU(), Linear(8, 8)), "3", 8),
    "inside": (lambda: Sequential(*body(), Sequential(ReLU(), Linear(36, 5))), "4.1", 36),
    "in a list": (Listed, "layers.1", 4),
    "in a branch": (lambda: Concat(Sequential(Flatten(), Linear(64, 2))), "0.1", 64),
    "in a residual": (lambda: Sequential(Conv2d(1, 4, 8), Flatten(), Residual(Linear(4, 4))), "2.body", 4),
}


@pytest.mark.parametrize("kind", HEADS)
def test_a_fresh_head(kind):
    make, name, inputs = HEADS[kind]
    model = make().to(np.float64)
    x = np.random.default_rng(0).standard_normal((3, 1, 8, 8))
    model(x)        # the program of before must not be used afterwards
    before = model.state_dict()
    head = cnn.replace_head(model, inputs if "residual" in kind else 7, seed=4)
    assert head.in_features == inputs and dict(model.named_parameters())[f"{name}.weight"] is head.weight
    assert np.array_equal(head.weight.data, Linear(inputs, head.out_features, seed=4, dtype=np.float64).weight.data)
    y = model(x)
    assert y.shape == (3, head.out_features) and y.dtype == np.float64
    after = model.state_dict()
    assert list(after) == list(before)
    assert all(np.array_equal(after[key], before[key]) for key in before if not key.startswith(name))


def test_a_head_that_is_a_convolution():
    model = Sequential(Conv2d(1, 4, 3), Conv2d(4, 6, 1, bias=False), ReLU(), cnn.GlobalAvgPool2d())
    head = cnn.replace_head(model.freeze(), 2)
    assert head.kernel_size == (1, 1) and head.bias is None and model[1] is head
    assert model(np.zeros((2, 1, 5, 5), np.float32)).shape == (2, 2)
    assert head.weight.requires_grad and not model[0].weight.requires_grad


@pytest.mark.parametrize("name", [name for name in cnn.models.MODELS])
def test_every_model_of_the_package_has_a_head(name):
    model = cnn.models.MODELS[name](seed=0)
    title, old = cnn.layers.head.head_of(model)
    cnn.replace_head(model, 3)
    state = {key: value.shape for key, value in model.state_dict().items()}
    wanted = {key: value.shape for key, value in cnn.models.MODELS[name](num_classes=3, seed=0).state_dict().items()}
    assert state == wanted


def test_a_head_that_is_not_known():
    with pytest.raises(ValueError, match="several candidates, 'colour' and 'shape': say which by name="):
        cnn.replace_head(TwoHeads(), 5)
    model = TwoHeads()
    cnn.replace_head(model, 5, name="colour")
    assert [y.shape for y in model(np.zeros((1, 1, 8, 8), np.float32))] == [(1, 5), (1, 3)]
    with pytest.raises(ValueError, match=r"name must be that of a Linear or a 1x1 convolution, \['colour', 'shape'\]"):
        cnn.replace_head(TwoHeads(), 5, name="conv")
    with pytest.raises(ValueError, match="no head, .*: its last layer with weights is '0', Conv2d"):
        cnn.replace_head(Sequential(Conv2d(1, 4, 3), ReLU()), 5)
    with pytest.raises(ValueError, match="no head, .*: it has no weights"):
        cnn.replace_head(ReLU(), 5)
    with pytest.raises(ValueError, match="must be a layer inside the model, got the model itself"):
        cnn.replace_head(Linear(3, 4), 5)
    with pytest.raises(ValueError, match="num_classes must be an integer of at least 1, got 0"):
        cnn.replace_head(net(), 0)


# ------------------------------------------------------------------------------------------ features


def test_what_is_no_module_has_no_head():
    with pytest.raises(TypeError, match="replace_head: model must be a Module, got int"):
        cnn.replace_head(5, 3)
    with pytest.raises(TypeError, match="features: model must be a Module, got NoneType"):
        cnn.features(None, cnn.data.load("mnist-sample")[1])


def test_features_are_what_the_head_reads():
    model, data = net(), made_up()
    model.train()
    found = cnn.features(model, data)
    wanted = Sequential(*model[:4]).eval()(data.normalise(data.images))
    np.testing.assert_allclose(found.images[:, :, 0, 0], wanted, rtol=1e-6, atol=1e-6)
    assert found.labels.tolist() == data.labels.tolist() and found.classes == data.classes
    assert model.training and isinstance(model[4], Linear)      # it is as it was
    shown = cnn.features(TwoHeads(), data, "colour").images.shape
    assert shown == (60, 4, 1, 1)
    maps = cnn.features(Sequential(Conv2d(1, 4, 3), Conv2d(4, 6, 1), cnn.GlobalAvgPool2d()), data)
    assert maps.images.shape == (60, 4, 6, 6)


def test_training_a_head_on_features_is_training_it_behind_a_frozen_body():
    data, results = made_up(), []
    for known in (True, False):
        model = net().to(np.float64)
        if known:
            model, data_now = Sequential(Flatten(), model[4]), cnn.features(model, data)
        else:
            for layer in model[:4]:
                layer.freeze()
            data_now = data
        head = model[-1]
        trainer = cnn.Trainer(model, cnn.SGD(head.parameters(), lr=0.1, momentum=0.9), progress=False)
        trainer.fit(data_now, 3, batch_size=16)
        results.append(head.weight.data.copy())
    assert not np.array_equal(results[0], net()[4].weight.data)
    np.testing.assert_allclose(*results, rtol=1e-4, atol=1e-6)     # features are float32


def test_features_that_cannot_be():
    with pytest.raises(TypeError, match="features: dataset must be a Dataset"):
        cnn.features(net(), np.zeros((1, 1, 8, 8), np.float32))
    with pytest.raises(ValueError, match="features: dataset must hold at least one image"):
        cnn.features(net(), made_up(0))
    with pytest.raises(ValueError, match="features: there are several candidates"):
        cnn.features(TwoHeads(), made_up())
    model = net()
    model[0].weight.data[...] = np.inf
    with pytest.raises(ValueError, match="must be finite, got NaN or infinity"), np.errstate(all="ignore"):
        cnn.features(model, made_up())
    assert isinstance(model[4], Linear)


# ------------------------------------------------------------------------------------------ runs


def saved(folder, name, classes, seed):
    """A data set of small random pictures in an .npz file."""
    rng = np.random.default_rng(seed)
    labels = np.arange(40 + 10) % classes
    np.savez(folder / name, images=rng.integers(0, 256, (50, 3, 16, 16), np.uint8), labels=labels)
    return str(folder / name)


def settings(dataset, **more):
    return run.Settings(dataset=dataset, **{"model": "cifar_net", "channels": "4,3,5", "epochs": 1, "batch_size": 10,
                                            "lr": 0.02, "shift": 0, "schedule": "constant", **more})


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    folder = tmp_path_factory.mktemp("first")
    run.train(settings(saved(folder, "a.npz", 4, 0)), folder / "run", quiet=True)
    return folder


def test_a_run_from_another_takes_its_body(first, tmp_path, capsys):
    """With no epochs the weights stay as they are: those of the other run, and a head as it is made."""
    other = saved(tmp_path, "b.npz", 3, 1)
    train.main(["--from", str(first / "run"), "--dataset", other, "--epochs", "0", "--seed", "7", "--out",
                str(tmp_path / "run")])
    assert f"starting from the weights of {first / 'run'}, but a fresh head" in capsys.readouterr().out
    model, source = cnn.load_model(tmp_path / "run")[0], cnn.load_model(first / "run")[0]
    title = cnn.layers.head.head_of(model)[0]
    fresh = cnn.models.cifar_net(3, 3, 16, channels=[4, 3, 5], seed=7).state_dict()
    for name, value in model.state_dict().items():
        wanted = fresh if name.startswith(f"{title}.") else source.state_dict()
        assert np.array_equal(value, wanted[name]), name
    kept = read_settings(tmp_path / "run")
    assert kept["from_run"] == str(first / "run") and (kept["model"], kept["channels"]) == ("cifar_net", "4,3,5")


def test_a_run_from_another_with_the_same_classes_takes_all_and_resumes_without_it(first, tmp_path):
    source = tmp_path / "source"
    shutil.copytree(first / "run", source)
    begun = settings(str(first / "a.npz"), from_run=str(source), epochs=0)
    run.train(begun, tmp_path / "same", quiet=True)
    wanted = cnn.load_model(source)[0].state_dict()
    found = cnn.load_model(tmp_path / "same")[0].state_dict()
    assert all(np.array_equal(found[name], wanted[name]) for name in wanted)
    begun = run.replace(begun, epochs=2, checkpoint_every="1", keep=99)
    wanted = run.train(begun, tmp_path / "run", quiet=True)["digest"]
    shutil.rmtree(source)
    for path in checkpoint.checkpoints(tmp_path / "run" / "checkpoints")[3:]:
        path.unlink()
    (tmp_path / "run" / "summary.json").unlink()
    assert run.resume(tmp_path / "run", quiet=True)["digest"] == wanted


def test_a_run_from_another_network_is_refused(first, tmp_path):
    for changes in ({"model": "lenet5", "channels": ""}, {"channels": "4,3,6"}):
        begun = settings(str(first / "a.npz"), from_run=str(first / "run"), **changes)
        with pytest.raises(ValueError, match=r"train: from run.* \(?of another shape: "):
            run.train(begun, tmp_path / "x", quiet=True)
    with pytest.raises(FileNotFoundError, match="there is no such model file"):
        run.train(settings(str(first / "a.npz"), from_run=str(tmp_path)), tmp_path / "x", quiet=True)
    cnn.save(net(), tmp_path / "own", made_up())
    with pytest.raises(ValueError, match="own has a network of your own: train cnn.load_model"):
        inherited(tmp_path / "own", "mnist")
    assert not (tmp_path / "x").exists()


def test_what_a_run_takes_over_from_another(first, tmp_path):
    assert inherited(first / "run", "mnist") == {"model": "cifar_net", "channels": "4,3,5"}
    assert inherited(first / "run", tmp_path) == {"model": "cifar_net", "channels": "4,3,5", "image_size": 16,
                                                   "image_channels": 3}


MORE = {"ema": 0.9, "validation_fraction": 0.2, "max_grad_norm": 0.5, "flip": "random"}


@pytest.mark.parametrize("schedule", ["constant", "one-cycle", "plateau"])
def test_more_epochs_for_a_run_that_is_complete(tmp_path, schedule):
    """With a schedule that does not depend on the length: bit for bit the longer run. Else from then on its rates."""
    begun = settings(saved(tmp_path, "a.npz", 4, 0), **MORE, schedule=schedule, epochs=2, lr_patience=0,
                     lr_threshold=1.0)
    run.train(begun, tmp_path / "run", quiet=True)
    wanted = run.train(run.replace(begun, epochs=4), tmp_path / "long", quiet=True)
    found = run.resume(tmp_path / "run", quiet=True, epochs=4)
    assert found["complete"] and found["epochs"] == 4
    assert (found["digest"] == wanted["digest"]) == (schedule != "one-cycle")
    rates = [History.load(tmp_path / name / "history.csv").column("lr") for name in ("run", "long")]
    assert rates[0][2:] == rates[1][2:] and len(rates[0]) == 4
    assert read_settings(tmp_path / "run")["epochs"] == 4
    assert run.resume(tmp_path / "run", quiet=True)["digest"] == found["digest"]      # it is complete


def test_more_epochs_go_on_after_a_break(tmp_path):
    begun = settings(saved(tmp_path, "a.npz", 4, 0), epochs=1, checkpoint_every="1", keep=99, schedule="cosine")
    run.train(begun, tmp_path / "run", quiet=True)
    wanted = run.resume(tmp_path / "run", quiet=True, epochs=3)
    for path in checkpoint.checkpoints(tmp_path / "run" / "checkpoints")[6:]:
        path.unlink()
    (tmp_path / "run" / "summary.json").write_text(
        json.dumps({"complete": True, "epochs": 1, "test_accuracy": 0.5, "steps": 4}))
    assert run.resume(tmp_path / "run", quiet=True)["digest"] == wanted["digest"]


def test_epochs_that_a_run_has_already(first, tmp_path, capsys):
    with pytest.raises(ValueError, match=r"resume: epochs must be more than the 1 that .* has trained, got 1"):
        run.resume(first / "run", quiet=True, epochs=1)
    stopped = settings(saved(tmp_path, "a.npz", 4, 0), epochs=5, validation_fraction=0.2, patience=1, min_delta=9.0)
    run.train(stopped, tmp_path / "run", quiet=True)
    with pytest.raises(SystemExit):
        train.main(["--resume", str(tmp_path / "run"), "--epochs", "9"])
    assert "ended by itself (val_loss has not become better" in capsys.readouterr().err


def test_a_head_with_a_norm_behind_it_is_refused():
    model = cnn.Sequential(cnn.Conv2d(1, 3, 3), cnn.Flatten(), cnn.Linear(3, 4), cnn.BatchNorm1d(4))
    with pytest.raises(ValueError, match=r"'2' must be the last layer .* but BatchNorm1d\(4.*replace both"):
        cnn.replace_head(model, 5)
    assert cnn.replace_head(cnn.Sequential(cnn.BatchNorm1d(3), cnn.Linear(3, 4)), 5).weight.shape == (5, 3)
