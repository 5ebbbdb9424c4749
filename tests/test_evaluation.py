"""Measuring and using saved models: evaluate, predict and report, by their functions and by their commands."""

import base64
import json
import re
import shutil
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from html_page import Page

import cnn
from cnn import plots
from cnn.commands import main
from cnn.data import Dataset
from cnn.prediction import files
from cnn.reference import log_softmax
from cnn.reports import evaluation
from cnn.reports import page as report
from cnn.runs import run
from cnn.training import checkpoint
from cnn.training.history import History

IDX = str(Path(cnn.__file__).parent / "data" / "mnist_sample" / "t10k-images-idx3-ubyte.gz")
try:
    import matplotlib.figure as figures
except ImportError:
    figures = None
needs_matplotlib = pytest.mark.skipif(figures is None, reason="needs matplotlib")


@pytest.fixture(autouse=True)
def _coarse(monkeypatch):
    monkeypatch.setattr(plots.files, "_DPI", 30)  # of every picture, to be quick


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """The folder of a run of two epochs; not to be changed."""
    folder = tmp_path_factory.mktemp("runs") / "a"
    run.train(run.replace(run.Settings(), epochs=2), out=folder, quiet=True)
    return folder


@pytest.fixture
def copied(trained, tmp_path):
    return Path(shutil.copytree(trained, tmp_path / "run"))


def exit_code(*arguments):
    """What the process `cnn ...` would end with."""
    try:
        return main([str(a) for a in arguments]) or 0
    except SystemExit as end:
        return end.code


def tiny(classes, size=16, **more):
    """A model with random weights, and its description."""
    arguments = {"in_channels": 1, "num_classes": len(classes), "image_size": size}
    about = {"model": "lenet5", "arguments": arguments, "classes": classes, "mean": [0.5], "std": [0.25], **more}
    return cnn.models.lenet5(**arguments), about


# ------------------------------------------------------------------------------------------ evaluate


def test_evaluate_agrees_with_the_trainer_and_with_the_formulas(trained):
    model, description = checkpoint.load_model(trained)
    data = evaluation.load_data(description)
    result = evaluation.evaluate(model, data)
    measured = cnn.Trainer(model, None, progress=False).evaluate(data)
    summary = json.loads((trained / "summary.json").read_text())
    assert result.accuracy == measured["accuracy"] == summary["test_accuracy"]
    assert result.loss == pytest.approx(measured["loss"], rel=1e-5)
    rows = np.arange(len(data))
    assert result.loss == pytest.approx(-log_softmax(result.scores.astype(float))[rows, data.labels].mean(), rel=1e-5)
    assert result.matrix.sum() == 1000 and result.matrix.sum(axis=1).tolist() == [100] * 10
    assert result.top5 > result.accuracy
    wrong = [(true, said) for true, said, n in result.confusions() for _ in range(n)]
    assert len(wrong) == round(1000 * (1 - result.accuracy)) and all(true != said for true, said in wrong)


def test_classify_is_kept(trained):
    model, description = cnn.load_model(trained / "model.safetensors")
    found = list(cnn.evaluation.classify(model, description, [IDX], 2))
    assert found == list(files.classify(cnn.load(trained), [IDX], 2)) and len(found) > 900


def test_the_training_images_can_be_measured_too(trained):
    _, description = checkpoint.load_model(trained)
    assert len(evaluation.load_data(description, split="train")) == 4000


@pytest.mark.parametrize("seed", [0, 3])
def test_of_own_data_that_is_measured_which_training_held_out(tmp_path, seed):
    """Labels are noise, so that only the very same images can give the same loss."""
    rng = np.random.default_rng(1)
    np.savez(tmp_path / "noise.npz", images=rng.integers(0, 256, (60, 16, 16), np.uint8), labels=np.arange(60) % 3)
    settings = run.Settings(dataset=str(tmp_path / "noise.npz"), epochs=2, batch_size=8, seed=seed)
    summary = run.train(settings, out=tmp_path / "run", quiet=True)
    result = evaluation.measure(tmp_path / "run", out=lambda text: None)
    assert (result.accuracy, result.loss) == (summary["test_accuracy"], pytest.approx(summary["test_loss"], rel=1e-5))
    held_out = cnn.data.load(settings.dataset, seed=seed)[1]
    _, description = checkpoint.load_model(tmp_path / "run")
    np.testing.assert_array_equal(evaluation.load_data(description).images, held_out.images)
    other = cnn.data.load(settings.dataset, seed=seed + 1)[1]
    assert not np.array_equal(other.images, held_out.images)


def test_pictures_are_brought_to_what_the_model_wants(tmp_path, capsys):
    """The size and colours that suit the folder are other ones than those that training was told."""
    image = pytest.importorskip("PIL.Image")
    rng = np.random.default_rng(2)
    for name in "ab":
        (tmp_path / "own" / name).mkdir(parents=True)
        for i in range(10):
            image.fromarray(rng.integers(0, 256, (24, 30), np.uint8)).save(tmp_path / "own" / name / f"{i}.png")
    settings = run.Settings(dataset=str(tmp_path / "own"), image_size=16, epochs=1, batch_size=8)
    summary = run.train(settings, out=tmp_path / "run", quiet=True)
    image.new("RGB", (40, 40), "red").save(tmp_path / "own" / "a" / "10.png")
    assert exit_code("evaluate", tmp_path / "run", "--json", tmp_path / "a.json") == 0
    assert json.loads((tmp_path / "a.json").read_text())["images"] == 4
    (tmp_path / "own" / "a" / "10.png").write_bytes(b"no picture")
    capsys.readouterr()
    assert exit_code("evaluate", tmp_path / "run") == 0
    said = capsys.readouterr()
    assert f"accuracy {summary['test_accuracy']:.2%}" in said.out
    assert f"warning: {tmp_path / 'own'}: left out 1 file(s)" in said.err and ".py" not in said.err
    assert said.err.startswith("warning: ") and "decoded anew" in said.err.splitlines()[0]


def test_classes_are_matched_by_name():
    model, about = tiny(["a", "b", "c"])
    pixels = np.random.default_rng(0).integers(0, 256, (4, 1, 16, 16), dtype=np.uint8)
    data = evaluation.as_trained(Dataset(pixels, [0, 1, 1, 0], ["c", "a"]), about)
    assert data.labels.tolist() == [2, 0, 0, 2] and data.classes == ("a", "b", "c") and data.mean == (0.5,)
    result = evaluation.evaluate(model, data)
    assert np.isnan(result.per_class.recall[1]) and result.top5 is None
    # "b" has no images: its row says so in every form
    line = next(line for line in str(result).splitlines() if line.startswith("b "))
    assert line.split()[1] == "0" and line.split()[3] == "-"
    loaded = json.loads(json.dumps(result.as_json(), allow_nan=False))
    assert loaded["classes"][1]["recall"] is None and loaded["confusion_matrix"] == result.matrix.tolist()


def test_a_class_that_is_never_predicted_counts_as_0_in_the_means():
    """Of class c, one of four images, precision is 0/0; the mean of the classes is (2/3 + 1 + 0) / 3."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = evaluation.Evaluation("abc", np.array([0, 0, 1, 2]), np.eye(3)[[0, 0, 1, 0]])
        text, written = str(result), json.loads(json.dumps(result.as_json(), allow_nan=False))
    assert result.never_predicted() == ["c"] and "never predicted: c; a precision of - counts as 0" in text
    assert re.search(r"^mean of the classes +4 +55.56% +66.67% +60.00%$", text, re.MULTILINE)
    assert written["macro"] == pytest.approx({"precision": 5 / 9, "recall": 2 / 3, "f1": 0.6})
    assert written["classes"][2]["precision"] is None
    assert "never predicted" not in str(evaluation.Evaluation("ab", np.array([0, 1]), np.eye(2)))


def test_no_images_to_measure():
    model, about = tiny(["a", "b"])
    result = evaluation.evaluate(model, evaluation.as_trained(Dataset(np.zeros((0, 16, 16), np.uint8), []), about))
    assert np.isnan(result.accuracy) and np.isnan(result.loss) and "accuracy -" in str(result)
    assert json.loads(json.dumps(result.as_json(), allow_nan=False))["accuracy"] is None


def test_data_that_do_not_fit_are_refused(trained):
    _, about = tiny(["a", "b"])
    zeros = np.zeros((1, 16, 16), np.uint8)
    with pytest.raises(ValueError, match="the model has no class 'z', only a, b"):
        evaluation.as_trained(Dataset(zeros, [0], ["z"]), about)
    with pytest.raises(ValueError, match="the model takes images of 1×16×16, these have 1×8×8"):
        evaluation.as_trained(Dataset(zeros[:, :8, :8], [0], ["a"]), about)
    with pytest.raises(ValueError, match="split must be one of test, train, got 'valid'"):
        evaluation.load_data(about, "mnist-sample", split="valid")
    with pytest.raises(ValueError, match="names no data set"):
        evaluation.load_data(about)
    with pytest.raises(ValueError, match="the model's file lacks 'classes'"):
        evaluation.as_trained(Dataset(zeros, [0], ["a"]), {"arguments": about["arguments"]})
    with pytest.raises(ValueError, match=r"scores must have shape \(N, 2\)"):
        evaluation.Evaluation("ab", np.array([0]), np.ones((1, 3)))
    with pytest.raises(ValueError, match="names 2 classes, its output has 10"):
        model, about = checkpoint.load_model(trained)
        list(files.classify(cnn.Predictor(model, {**about, "classes": ["a", "b"]}), [IDX]))


def test_many_classes_list_their_mistakes():
    labels = np.array([3, 3, 3, 7, 0])
    scores = np.eye(30)[[4, 4, 3, 8, 0]]
    text = str(evaluation.Evaluation([f"class {i}" for i in range(30)], labels, scores))
    lines = text.split("\n\n")[-1].splitlines()
    assert [re.split(r"\s{2,}", line) for line in lines[1:]] == [["class 3 → class 4", "2"], ["class 7 → class 8", "1"]]


def test_evaluate_command(trained, tmp_path, capsys):
    assert exit_code("evaluate", trained, "--json", tmp_path / "out.json") == 0
    text, written = capsys.readouterr().out, json.loads((tmp_path / "out.json").read_text())
    assert written["data"] == "mnist-sample, test images" and written["images"] == 1000
    assert f"accuracy {written['accuracy']:.2%}" in text and f"loss {written['loss']:.4f}" in text
    row = written["classes"][3]
    assert re.search(rf"^3 +100 +{row['precision']:.2%} +{row['recall']:.2%} +{row['f1']:.2%}$", text, re.MULTILINE)
    table = text.split("rows true, columns predicted\n")[1].replace(".", "0").splitlines()
    assert [[int(n) for n in line.split()[1:]] for line in table[1:]] == written["confusion_matrix"]
    assert exit_code("evaluate", trained / "model.safetensors", "--split", "train") == 0
    assert "4,000 images" in capsys.readouterr().out


def test_evaluate_command_names_what_is_wrong(trained, tmp_path, capsys):
    for arguments, words in [([tmp_path], "model.safetensors: there is no such model file"),
                             ([trained, "--dataset", "nothing"], "'nothing'"),
                             ([trained, "--json", tmp_path / "none" / "a.json"], "a.json")]:
        assert exit_code("evaluate", *arguments) == 1
        assert words in capsys.readouterr().err


@needs_matplotlib
def test_evaluate_command_draws(trained, tmp_path):
    assert exit_code("evaluate", trained, "--plot", tmp_path / "a.png") == 0
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(("name", "options"), [("evaluate", ["--plot", "a.png"]), ("report", [])])
def test_without_matplotlib_the_extra_is_named(trained, monkeypatch, capsys, name, options):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert exit_code(name, trained, *options) == 1
    captured = capsys.readouterr()
    assert "pip install 'cnn[plot]'" in captured.err and captured.out == ""


# ------------------------------------------------------------------------------------------ predict


def save_pictures(folder, count):
    image = pytest.importorskip("PIL.Image")
    folder.mkdir(parents=True, exist_ok=True)
    pixels = cnn.data.load("mnist-sample")[1].images[:count, 0]
    for i, p in enumerate(pixels):
        image.fromarray(p).save(folder / f"{i}.png")


def expected(trained, count):
    model, _ = checkpoint.load_model(trained)
    scores = cnn.Trainer(model, None, progress=False).predict(cnn.data.load("mnist-sample")[1].subset(slice(count)))
    p = np.exp(log_softmax(scores.astype(float)))
    return p.argmax(1), p


def test_predict_a_file_of_many_images(trained, capsys):
    assert exit_code("predict", trained, IDX, "--json") == 0
    results = json.loads(capsys.readouterr().out)
    best, p = expected(trained, 1000)
    assert [r["top"][0]["class"] for r in results] == [str(k) for k in best]
    np.testing.assert_allclose([r["top"][0]["probability"] for r in results], p.max(1), rtol=1e-4)
    assert results[7]["image"] == f"{IDX}[7]"


def test_predict_folders_and_files_and_top_k(trained, tmp_path, capsys):
    save_pictures(tmp_path / "in" / "deep", 3)
    (tmp_path / "in" / "notes.txt").write_text("no picture, and none of our business")
    (tmp_path / "in" / ".hidden.png").write_text("nor is this")
    assert exit_code("predict", trained, tmp_path / "in", tmp_path / "in" / "deep" / "2.png", "--top", 3) == 0
    lines = capsys.readouterr().out.splitlines()
    best, p = expected(trained, 3)
    assert [Path(line.split(": ")[0]).name for line in lines] == ["0.png", "1.png", "2.png", "2.png"]
    order = np.argsort(-p[0])[:3]
    assert lines[0].split(": ")[1] == ", ".join(f"{k}  {p[0, k]:.1%}" for k in order)


def test_files_that_cannot_be_read_are_named_and_the_others_classified(trained, tmp_path, capsys):
    save_pictures(tmp_path / "in", 2)
    (tmp_path / "in" / "0.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    (tmp_path / "empty").mkdir()
    arguments = [trained, tmp_path / "in", tmp_path / "missing.png", tmp_path / "empty"]
    assert exit_code("predict", *arguments) == 1
    captured = capsys.readouterr()
    assert [line.split(": ")[0] for line in captured.out.splitlines()] == [str(tmp_path / "in" / "1.png")]
    named = captured.err.splitlines()
    assert len(named) == 3
    assert f"{tmp_path / 'in' / '0.png'}: not a picture that can be read" in named[0]
    assert "missing.png: there is no such file" in named[1] and "empty: no picture is in this folder" in named[2]
    assert exit_code("predict", *arguments, "--json") == 1
    results = json.loads(capsys.readouterr().out)
    assert ["error" in r for r in results] == [True, False, True, True]


def test_predict_names_what_is_wrong(trained, tmp_path, capsys):
    assert exit_code("predict", trained, IDX, "--top", 0) == 1
    assert "top must be an integer of at least 1, got 0" in capsys.readouterr().err
    assert exit_code("predict", tmp_path, IDX) == 1
    assert "there is no such model file" in capsys.readouterr().err
    assert exit_code("predict", trained, IDX, "--top", 99, "--json") == 0
    assert len(json.loads(capsys.readouterr().out)[0]["top"]) == 10


# ------------------------------------------------------------------------------------------ history


def test_history_comes_back(trained, tmp_path):
    history = History.load(trained / "history.csv")
    assert history.column("epoch") == [1, 2] and all(np.isfinite(history.column("val_loss")))
    history.save(tmp_path / "again.csv")
    assert (tmp_path / "again.csv").read_bytes() == (trained / "history.csv").read_bytes()


@pytest.mark.parametrize(
    "text", ["", "a,b\n1,2\n", "epoch,lr\n1\n", "epoch,lr\n1,2,3\n", "epoch,lr\n1,x\n", "epoch\n\0"])
def test_damaged_histories_are_named(tmp_path, text):
    (tmp_path / "history.csv").write_text(text)
    with pytest.raises(ValueError, match=r"history\.csv: not a history of a run"):
        History.load(tmp_path / "history.csv")


# ------------------------------------------------------------------------------------------ report


# what the SVGs of a page show
FIGURES = ["Loss and accuracy by epoch: loss by epoch", "Loss and accuracy by epoch: accuracy by epoch",
           "Learning rate: learning rate by epoch", "Confusion matrix: 1,000 images",
           "Filters of the first convolution: 6 filters of 1×5×5", "Feature maps: 0 Conv2d + ReLU: 6 of 28×28",
           "Feature maps: 2 MaxPool2d: 6 of 14×14", "Feature maps: 3 Conv2d + ReLU: 16 of 10×10",
           "Feature maps: 5 MaxPool2d: 16 of 5×5"]
PICTURES = ["curves", "learning_rate", "confusion_matrix", "mistakes", "filters", "feature_maps"]


@pytest.mark.thorough
@needs_matplotlib
def test_report_is_one_page_that_needs_nothing_else(copied, capsys):
    assert exit_code("report", copied) == 0
    assert capsys.readouterr().out == f"wrote {copied / 'report.html'}\n"
    page = Page(copied / "report.html")
    for name in PICTURES:
        assert (copied / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert [label.partition(", ")[0] for label in page.figures] == FIGURES
    sources = [value for name, value in page.attributes if name == "src"]
    explained = 6 * (3 + 2)         # six wrong images with two maps each, six right ones with one
    assert len(sources) == 17 + explained and all(
        base64.b64decode(s.removeprefix("data:image/png;base64,"), validate=True)[:4] == b"\x89PNG" for s in sources)
    assert not {"script", "link", "iframe", "object", "a", "form", "base"} & set(page.tags)
    assert not {"srcset", "onload", "action", "xlink:href"} & {name for name, _ in page.attributes}
    ids = [value for name, value in page.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    for name, value in page.attributes:     # only things on the page itself
        if name == "href":
            assert value.startswith("data:image/png;base64,") or value[1:] in ids
        if name == "style":
            assert value == "text-align: left"
    assert all(name in ids for name in re.findall(r"url\(#([^)]*)\)", page.source))
    assert not re.search(r"https?:|url\((?!#)|@import|//", re.sub(r"base64,[^\"]*", "", page.source))
    summary = json.loads((copied / "summary.json").read_text())
    assert f"{summary['test_accuracy']:.2%} right" in page.words
    assert "61,706" in page.words and "416,520" in page.words and "one-cycle" in page.words
    assert "Conv2d" in page.words and cnn.__version__ in page.words and np.__version__ in page.words


@pytest.mark.thorough
@needs_matplotlib
def test_report_uses_what_else_there_is_and_escapes_it(copied):
    evil = '</pre><script>alert(1)</script>&"'
    classes = ["<script>alert(2)</script>", "$\\frac$ $", *"23456789"]
    model, description = checkpoint.load_model(copied)
    checkpoint.save_model(copied / "model.safetensors", model, {**description, "classes": classes})
    (copied / "config.toml").write_text(f"note = '{evil}'")
    (copied / "summary.json").write_text(json.dumps({"model": evil, "test_accuracy": 0.5, "list": [1]}))
    (copied / "steps.jsonl").write_text('{"step": 1, "loss": 2, "lr": 0.25}\n{"step": 5, "loss": NaN, "lr": 0.5}\n{"st')
    page = Page(report.write(copied))
    assert "script" not in page.tags and page.words.count(evil) == 2
    # the data set has other class names than the model: said, and all else shown
    assert "Not shown: the test images: mnist-sample: the model has no class '0'" in page.words
    assert [label.partition(", ")[0] for label in page.figures] == [
        *FIGURES[:2], "Learning rate: learning rate by step", FIGURES[4]]


@pytest.mark.thorough
@needs_matplotlib
def test_class_names_are_escaped(copied, monkeypatch):
    classes = ["<script>alert(2)</script>", "$\\frac$ $", *"23456789"]
    model, description = checkpoint.load_model(copied)
    checkpoint.save_model(copied / "model.safetensors", model, {**description, "classes": classes})
    train, test = cnn.data.load("mnist-sample")
    renamed = Dataset(test.images, test.labels, classes, name="<b>renamed</b>")
    monkeypatch.setattr(evaluation.data, "load", lambda *_, **__: (train, renamed))
    page = Page(report.write(copied))
    # a title for each figure; the mistakes have only words
    assert "script" not in page.tags and page.tags.count("b") == page.tags.count("svg") + 1
    assert page.tags.count("figcaption") == page.tags.count("figure") and "<figcaption></figcaption>" not in page.source
    assert classes[0] in page.words and classes[1] in page.words


@pytest.mark.thorough
@needs_matplotlib
@pytest.mark.parametrize(("kept", "pictures"), [
    (["history.csv"], 3), (["summary.json"], 0), (["model.safetensors"], 6)])
def test_report_of_a_part_of_a_run(trained, tmp_path, kept, pictures):
    for name in kept:
        shutil.copy(trained / name, tmp_path / name)
    page = Page(report.write(tmp_path))
    assert len(page.figures) == pictures
    for name in {"model.safetensors", "history.csv", "summary.json", "config.toml"} - set(kept):
        assert f"Not shown: {name}: it is not in the folder" in page.words


@needs_matplotlib
def test_damaged_files_are_named_on_the_page(copied):
    for name in ("history.csv", "summary.json", "steps.jsonl", "config.toml", "model.safetensors"):
        (copied / name).write_bytes(b"\xff\0[3\n")
    page = Page(report.write(copied))
    assert not page.figures and "img" not in page.tags
    for name in ("history.csv", "summary.json", "steps.jsonl", "config.toml", "model.safetensors"):
        assert re.search(rf"Not shown: \S*{re.escape(name)}: ", page.words), name


@pytest.mark.thorough
@needs_matplotlib
def test_one_damaged_line_does_not_stop_a_report(tmp_path):
    (tmp_path / "history.csv").write_text("epoch,lr,train_loss\n1,0.5,2\nx,y,z\n2,0.25,1\n")
    lines = ['{"step": 1, "lr": 0.5}', '{"step": 2, "lr', '{"step": 1e400, "lr": 1}', "3", '{"step": 4, "lr": 0.2}', ""]
    (tmp_path / "steps.jsonl").write_text("\ufeff" + "\r\n".join(lines))
    (tmp_path / "summary.json").write_text(json.dumps({"test_accuracy": 10**400, "stopped": "\x1b[2J\ud800"}))
    page = Page(report.write(tmp_path))
    assert len(page.figures) == 3
    assert "history.csv: damaged lines: line 3: could not convert string to float: 'y'" in page.words
    assert re.search(r"steps.jsonl: damaged lines: line 2: .* and 2 more", page.words)
    assert "\x1b" not in page.source and "\\x1b[2J\\ud800" in page.words


@needs_matplotlib
def test_a_picture_that_cannot_be_drawn_does_not_stop_a_report(tmp_path, monkeypatch):
    def fail(*_):
        raise OverflowError("cannot convert float infinity to integer")

    (tmp_path / "history.csv").write_text("epoch,lr,train_loss\n1,0.5,2\n")
    monkeypatch.setattr(report.plots, "curves", fail)
    page = Page(report.write(tmp_path))
    assert page.figures == ["Learning rate: learning rate by epoch"]
    assert "Not shown: Loss and accuracy by epoch: cannot convert float infinity to integer" in page.words


def test_under_numpy_s_strictest_settings(trained, tmp_path):
    """A sure model's other probabilities underflow, which is harmless and stays inside."""
    model, description = checkpoint.load_model(trained)
    model[-1].weight.data = model[-1].weight.data * 1e4
    image = pytest.importorskip("PIL.Image")
    image.fromarray(np.arange(28 * 28, dtype=np.uint8).reshape(28, 28)).save(tmp_path / "a.png")
    with np.errstate(all="raise"):
        dataset = evaluation.load_data(description)
        assert (evaluation.evaluate(model, dataset).probabilities == 0).any()
        assert "top" in next(files.classify(cnn.Predictor(model, description), [tmp_path / "a.png"]))


@needs_matplotlib
def test_what_is_no_run_is_refused(trained, tmp_path):
    with pytest.raises(ValueError, match="holds no run"):
        report.write(tmp_path)
    with pytest.raises(FileNotFoundError, match="there is no such folder"):
        report.write(tmp_path / "missing")
    with pytest.raises(NotADirectoryError, match="model.safetensors: a report is made of a run's folder"):
        report.write(trained / "model.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_feature_maps_are_what_the_layers_compute(trained, rng):
    model, _ = checkpoint.load_model(trained)
    image = rng.normal(size=(1, 28, 28)).astype(np.float32)
    maps = report.feature_maps(model, image)
    assert [name for name, _ in maps] == ["0 Conv2d + ReLU", "2 MaxPool2d", "3 Conv2d + ReLU", "5 MaxPool2d"]
    for (_, got), stop in zip(maps, (2, 3, 5, 6), strict=True):
        np.testing.assert_allclose(got, model[:stop](image[None])[0], rtol=1e-5, atol=1e-5)


def test_of_many_layers_alike_the_last_is_shown(rng):
    model = cnn.Sequential(*(cnn.Conv2d(1, 1, 3, padding=1, seed=i) for i in range(5)), cnn.Flatten())
    image = rng.normal(size=(1, 6, 6)).astype(np.float32)
    ((name, got),) = report.feature_maps(model, image)
    assert name == "0 Conv2d … 4 Conv2d"
    np.testing.assert_allclose(got, model[:5](image[None])[0], rtol=1e-5, atol=1e-6)


def test_images_in_another_unit_are_refused(tmp_path):
    """Those of floats have a unit of their own, which neither pictures nor bytes have."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (60, 16, 16), np.uint8)
    for name, pixels in (("bytes", images), ("floats", images.astype(np.float32))):
        np.savez(tmp_path / name, images=pixels, labels=np.arange(60) % 3)
    settings = run.replace(run.Settings(), dataset=str(tmp_path / "floats.npz"), epochs=0, shift=0)
    run.train(settings, tmp_path / "run", quiet=True)
    model, description = cnn.load_model(tmp_path / "run")
    assert description["pixels"] == "float32"
    with pytest.raises(ValueError, match="bytes.*: the model was trained on images of float32, these are uint8"):
        evaluation.measure(tmp_path / "run", str(tmp_path / "bytes.npz"), out=lambda text: None)
    evaluation.measure(tmp_path / "run", out=lambda text: None)
    description.pop("pixels")       # a file of an earlier version does not tell
    evaluation.load_data(description, str(tmp_path / "bytes.npz"))
