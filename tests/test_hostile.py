"""Files from anyone: models, checkpoints, run folders with a right digest and odd values in them.

Each must be read, or refused with one error that names the file; and cost what its size is worth.
"""

import copy
import json
import re

import numpy as np
import pytest
from processes import run_python

import cnn
from cnn import shapes
from cnn.reports import evaluation
from cnn.runs import run
from cnn.runs.settings import read_settings, write_settings
from cnn.training import checkpoint
from cnn.training.callbacks import EarlyStopping
from cnn.training.history import History

HUGE = 10**400
ODD = [HUGE, -1, 0, 0.5, 1e308, 2**63, float("nan"), float("inf"), True, None, "x", "", "\ud800", "\0", "\x1b[2J", [],
       [1], {}, {"a": 1}]
DESCRIPTION = {
    "model": "lenet5", "arguments": {"in_channels": 1, "num_classes": 3, "image_size": 16}, "classes": ["a", "b", "c"],
    "mean": [0.5], "std": [0.25], "dataset": None, "seed": 0, "tta": None}


def written(path, state, description):
    """A model file with a right digest; without the checks of save_model."""
    checkpoint._write(path, checkpoint.FORMAT, state, description)
    return path


def places(tree, path=()):
    """The path of everything in a tree of dicts and lists; of lists the first item."""
    items = tree.items() if isinstance(tree, dict) else list(enumerate(tree))[:1] if isinstance(tree, list) else ()
    for name, value in items:
        yield (*path, name)
        yield from places(value, (*path, name))


def variants(tree, every=1):
    """(path, copy of the tree) with each thing in it removed, and replaced by all that is odd; or a part of these."""
    for i, path in enumerate(places(tree)):
        for odd in [*ODD, "removed"][i % every::every]:
            changed = copy.deepcopy(tree)
            inside = changed
            for step in path[:-1]:
                inside = inside[step]
            if odd == "removed":
                del inside[path[-1]]
            else:
                inside[path[-1]] = odd
            yield path, changed


# ------------------------------------------------------------------------------------------ models


@pytest.mark.parametrize("changes", [
    {"num_classes": 12_000_000}, {"num_classes": 2**31 - 1}, {"in_channels": 2**31 - 1}, {"image_size": 2**15},
    {"num_classes": HUGE}, {"num_classes": 10**12}, {"seed": HUGE}, {"dtype": "O"}, {"dtype": {"names": 3}},
    {"model": "resnet20", "channels": [1, 1, 1], "blocks": 10**7}, {"model": "resnet20", "channels": [2**31 - 1] * 3},
    {"model": "vgg_small", "channels": [10**5] * 16, "image_size": 2**16},
    {"model": "cifar_net", "image_size": 2**31 - 1}, {"model": "mobilenet_small", "channels": [10**6, 10**6]},
], ids=str)
def test_sizes_are_compared_with_the_weights_before_memory_is_taken(tmp_path, monkeypatch, changes):
    """No array larger than all the file is asked for."""
    description = {**DESCRIPTION, "model": changes.get("model", "lenet5"), "arguments": {
        "in_channels": 1, "num_classes": 10, "image_size": 32, **{k: v for k, v in changes.items() if k != "model"}}}
    path = written(tmp_path / "model.safetensors", {"0.weight": np.zeros(1, np.float32)}, description)
    made = []

    def count(owner, *sizes, count=shapes.element_count):
        result = count(owner, *sizes)
        made.append(result)
        return result

    monkeypatch.setattr(shapes, "element_count", count)
    with pytest.raises(ValueError, match="model.safetensors: "):
        cnn.load_model(path)
    assert sum(made) <= 1


def test_a_hostile_model_takes_no_memory(tmp_path):
    resource = pytest.importorskip("resource")
    path = written(tmp_path / "model.safetensors", {"0.weight": np.zeros(1, np.float32)}, {
        **DESCRIPTION, "arguments": {**DESCRIPTION["arguments"], "num_classes": 12_000_000}})
    code = """
        import resource, sys, cnn
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        try:
            cnn.load_model(sys.argv[1])
        except ValueError as error:
            print(error)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    """
    *words, grown = run_python("-c", code, str(path)).stdout.splitlines()
    unit = 1 if resource.getpagesize() and "darwin" in __import__("sys").platform else 1024
    assert "more than the file has weights for" in words[0] and int(grown) * unit < 30e6


def test_all_models_of_the_package_fit_in_their_files(tmp_path):
    """What `at_most` allows is enough for every honest file."""
    for name, make in cnn.models.MODELS.items():
        for dtype in ("float32", "float64"):
            arguments = {"in_channels": 3, "num_classes": 2, "image_size": 32, "dtype": dtype}
            if "channels" in make.__code__.co_varnames:
                arguments["channels"] = [2, 3, 4, 5][: 3 if name == "cifar_net" else 4]
            model = make(**arguments)
            path = written(tmp_path / "model.safetensors", model.state_dict(), {"model": name, "arguments": arguments})
            loaded = cnn.load_model(path)[0].state_dict()
            assert all(np.array_equal(loaded[key], value) for key, value in model.state_dict().items())


def test_errors_are_short_and_on_one_line(tmp_path):
    """However many names the file has, and whatever is in them."""
    many = {f"weight {i}": np.zeros(1, np.float32) for i in range(10_000)}
    for state, more in ((many, {}), ({"a": np.zeros(100_000, np.float32)}, {"a\nb\x1b[2J": 1})):
        description = {**DESCRIPTION, "arguments": {**DESCRIPTION["arguments"], **more}}
        with pytest.raises(ValueError, match="model.safetensors: ") as error:
            cnn.load_model(written(tmp_path / "model.safetensors", state, description))
        assert len(str(error.value)) < 1000 and str(error.value).isprintable()


def test_at_most():
    with shapes.at_most(2, 10, "the test allows"):
        assert shapes.element_count("A", 2, 3) == 6
        with pytest.raises(ValueError, match="A: an array of 5×1 elements is more than the test allows"):
            shapes.element_count("A", 5, 1)
    with shapes.at_most(1, 10, "the test allows"):
        shapes.element_count("A", 1)
        with pytest.raises(ValueError, match="is more than"):
            shapes.element_count("A", 1)
    assert shapes.element_count("A", 100) == 100


def test_odd_descriptions(tmp_path):
    """Whatever stands in the description, reading the file and using the model end well or in one plain error."""
    data = tmp_path / "data.npz"
    np.savez(data, images=np.zeros((9, 16, 16), np.uint8), labels=np.arange(9) % 3, classes=np.array(["a", "b", "c"]))
    state = cnn.models.lenet5(image_size=16, num_classes=3).state_dict()
    refused = used = 0
    for path, description in variants(DESCRIPTION, 3):
        file = written(tmp_path / "model.safetensors", state, description)
        try:
            _, description = cnn.load_model(file)
        except ValueError as error:
            assert str(file) in str(error) and "\n" not in str(error), path
            refused += 1
            continue
        try:
            evaluation.load_data(description, str(data))
            used += 1
        except (ValueError, TypeError) as error:
            assert "the model's file" in str(error) or "the model " in str(error), (path, str(error))
    assert refused > 40 and used > 5


# ------------------------------------------------------------------------------------------ checkpoints


def trainer():
    model = cnn.Sequential(cnn.Conv2d(1, 2, 3, seed=0), cnn.BatchNorm2d(2), cnn.Dropout(0.3), cnn.Flatten(),
                           cnn.Linear(72, 3))
    return cnn.Trainer(model, cnn.Adam(model.parameters(), lr=0.01), progress=False,
                       callbacks=[cnn.EMA(model), EarlyStopping("train_loss", 5)])


def test_odd_checkpoints(tmp_path):
    """Whatever stands in a checkpoint, it is taken over, or refused with its name."""
    rng = np.random.default_rng(0)
    data = cnn.data.Dataset(rng.integers(0, 256, (20, 1, 8, 8), np.uint8), np.arange(20) % 3, list("abc"))
    used = trainer()
    used.fit(data, 2, batch_size=8)
    state, refused = used.state_dict(), 0
    file = checkpoint.path_of(tmp_path, 6)
    fresh = trainer()
    for path, changed in variants({name: part for name, part in state.items() if name not in ("model", "EMA")}, 9):
        checkpoint.save(file, {"model": state["model"], "EMA": state["EMA"], **changed})
        try:
            checkpoint.resume(tmp_path, fresh)
        except ValueError as error:
            assert str(file) in str(error) or str(tmp_path) in str(error), path
            refused += 1
    assert refused > 40


@pytest.mark.parametrize("state", [[], "x", None, 3, {"a": [1]}, {"a": "text"}])
def test_checkpoints_that_are_no_dicts(tmp_path, state):
    arrays = {"a/b": np.zeros(3)} if isinstance(state, dict) else {}
    checkpoint._write(tmp_path / "x", checkpoint.CHECKPOINT_FORMAT, arrays, state)
    with pytest.raises(ValueError, match=re.escape(str(tmp_path / "x"))):
        checkpoint.load(tmp_path / "x")


def test_random_changes_with_a_right_digest(tmp_path):
    """Of the header's JSON, so that what is behind the digest is reached."""
    file = tmp_path / "x"
    checkpoint.save(file, {"a": {"b": np.zeros(3)}, "n": 1, "text": "x"})
    header, data = checkpoint._split(file.read_bytes())
    text, rng = json.dumps(header), np.random.default_rng(0)
    for _ in range(300):
        changed = bytearray(text.encode())
        for _ in range(rng.integers(1, 4)):
            at = rng.integers(len(changed))
            changed[at:at + rng.integers(0, 3)] = rng.integers(32, 127, rng.integers(0, 3)).astype(np.uint8).tobytes()
        try:
            file.write_bytes(checkpoint._sealed(json.loads(changed), data))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            continue    # it can't be sealed
        try:
            checkpoint.load(file)
        except ValueError as error:
            assert str(file) in str(error)


# ------------------------------------------------------------------------------------------ run folders


@pytest.fixture(scope="module")
def complete(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    run.train(run.Settings(epochs=1, batch_size=500), folder, quiet=True)
    return folder


def test_odd_settings(tmp_path):
    """Every setting with every value: taken, or refused with the file's name, on one line."""
    write_settings(tmp_path / "config.toml", run.Settings(), target=0.9)
    lines = (tmp_path / "config.toml").read_text().split("\n")
    odd = [str(HUGE), "9" * 5000, "-1", "nan", "inf", "1e400", '"x"', '"\\u0000"', '"\\u001b[2J"', "[]", "{}", "true",
           "1979-05-27", "[" * 3000]
    for i, line in enumerate(lines):
        for value in odd[i % 3::3] if "=" in line else ():
            changed = [*lines[:i], f"{line.split('=')[0]}= {value}", *lines[i + 1:]]
            (tmp_path / "config.toml").write_text("\n".join(changed))
            try:
                read_settings(tmp_path)
            except ValueError as error:
                assert str(tmp_path / "config.toml") in str(error) and "\n" not in str(error), line


@pytest.mark.parametrize("text", ["[made_with]\ntarget = 'x'", "made_with = 3", "[made_with]\ntarget = nan"])
def test_odd_words_about_the_making_of_a_run(tmp_path, text):
    (tmp_path / "config.toml").write_text(text)
    with pytest.raises(ValueError, match="config.toml: .*(made_with|target)"):
        run.resume(tmp_path, quiet=True)


@pytest.mark.parametrize("text", [
    "", "[]", "{", "3", '{"complete": true}', '{"complete": true, "test_accuracy": 1, "steps": "x"}',
    '{"complete": true, "test_accuracy": NaN, "steps": 8}', "[" * 9999,
    f'{{"complete": true, "test_accuracy": {HUGE}, "steps": 8}}', "\udcff",
])
def test_a_damaged_summary_is_named_and_made_anew(complete, capsys, text):
    good = json.loads((complete / "summary.json").read_text())
    (complete / "summary.json").write_text(text, errors="surrogateescape")
    result = run.resume(complete)
    assert f"{complete / 'summary.json'}: damaged, and made anew" in capsys.readouterr().out
    assert result["digest"] == good["digest"] == json.loads((complete / "summary.json").read_text())["digest"]


def test_lines_of_a_history_that_are_damaged(tmp_path):
    good = "epoch,lr,train_loss\n1,0.1,2.0\n2,0.1,1.0\n"
    for line in ("x,0.1,1.0", "3,x,1.0", "3,0.1", "3,0.1,1.0,4", f"{HUGE},0.1,1.0", "-1,1,1", "3,,1", "3,\0,1"):
        (tmp_path / "h.csv").write_text(good.replace("\n2", f"\n{line}\n2"))
        with pytest.raises(ValueError, match="h.csv: not a history of a run .line 3: "):
            History.load(tmp_path / "h.csv")
        skipped = []
        assert History.load(tmp_path / "h.csv", skipped).column("epoch") == [1, 2]
        assert len(skipped) == 1 and skipped[0].startswith("line 3: ")


def test_a_history_that_excel_has_saved(tmp_path):
    text = "epoch,lr\n1,0.1\n"
    (tmp_path / "h.csv").write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
    assert History.load(tmp_path / "h.csv") == [{"epoch": 1, "lr": 0.1}]
