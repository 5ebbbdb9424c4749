"""The page of a run: what its headline says, how it looks in light and dark, and how narrow it can be."""

import json
import math
import re
import shutil

import numpy as np
import pytest
from html_page import Page

import cnn
from cnn.reports import evaluation, metrics, theme, verdict
from cnn.reports import page as report
from cnn.runs import run
from cnn.training import checkpoint

pytest.importorskip("matplotlib.figure", exc_type=ImportError)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a run of two epochs with its report; not to be changed."""
    folder = tmp_path_factory.mktemp("runs") / "a"
    run.train(run.replace(run.Settings(), epochs=2, report=True), out=folder, quiet=True)
    return folder


def measured(matrix, classes="abc"):
    """An Evaluation with this confusion matrix."""
    labels = np.repeat(np.arange(len(classes)), np.sum(matrix, axis=1))
    said = np.concatenate([np.repeat(np.arange(len(classes)), row) for row in matrix]).astype(int)
    return evaluation.Evaluation(classes, labels, np.eye(len(classes))[said])


# ------------------------------------------------------------------------------------------ headline


@pytest.mark.parametrize(("right", "total", "low", "high"), [
    # as published: Newcombe 1998, "Two-sided confidence intervals for the single proportion", table I, method 3
    (81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)])
def test_the_interval_of_an_accuracy(right, total, low, high):
    assert metrics.accuracy_interval(right, total) == pytest.approx((low, high), abs=5e-5)
    assert metrics.accuracy_interval(total - right, total) == pytest.approx((1 - high, 1 - low), abs=5e-5)


def test_intervals_that_are_none():
    assert all(map(math.isnan, metrics.accuracy_interval(0, 0)))
    narrow, wide = (metrics.accuracy_interval(5, 9, c) for c in (0.5, 0.99))
    assert wide[0] < narrow[0] < 5 / 9 < narrow[1] < wide[1]
    with pytest.raises(ValueError, match="accuracy_interval: right must be an integer from 0 to 3, got 4"):
        metrics.accuracy_interval(4, 3)
    with pytest.raises(ValueError, match="accuracy_interval: confidence"):
        metrics.accuracy_interval(1, 3, 1.0)


def test_the_headline_says_how_good_and_how_sure():
    m = measured([[90, 6, 4], [0, 50, 0], [9, 0, 41]])
    answer, words = verdict.accuracy(m)
    low, high = metrics.accuracy_interval(181, 200)
    assert answer == "90.50% right" and f"expect {low:.1%} to {high:.1%}" in words
    assert "181 of 200 test images are right" in words and "Always answering a would get 50.0%" in words
    assert verdict.accuracy(measured([[9, 0, 0], [5, 0, 0], [1, 0, 0]]))[0] == "60.00% right, no better than a guess"
    assert verdict.confusions(m) == ["c taken for a: 9 of 50", "a taken for b: 6 of 100"]
    assert verdict.errors(m).startswith("19 test images are wrong.")
    assert verdict.errors(measured(np.eye(3, dtype=int))) == "No test image is wrong."
    nothing = measured(np.zeros((3, 3), int))
    assert verdict.accuracy(nothing)[0] == verdict.overfitting(nothing, m)[0] == "not measured"


def test_the_headline_says_whether_it_overfitted():
    test = measured([[90, 10], [10, 90]], "ab")
    answer, words = verdict.overfitting(test, measured([[100, 0], [0, 100]], "ab"))
    # 1.96 sqrt(0.9 * 0.1 / 200) is 4.16 points
    assert answer == "10.0 points worse on new images" and "The gap is 10.0 ± 4.2 points" in words
    assert verdict.overfitting(test, measured([[99, 1], [1, 99]], "ab"))[1].endswith("10.0 times as often.")
    # 1.96 sqrt(0.9 * 0.1 / 200 + 0.92 * 0.08 / 200) is 5.6 points
    answer, words = verdict.overfitting(test, measured([[92, 8], [8, 92]], "ab"))
    assert answer == "No sign of it" and "2.0 ± 5.6 points" in words
    assert "The gap is −10.0" in verdict.overfitting(measured([[9, 0], [0, 9]], "ab"), test)[1]


@pytest.mark.thorough
def test_the_page_begins_with_the_answers(trained):
    page = Page(trained / "report.html")
    model, description = cnn.load_model(trained)
    test, train = (evaluation.evaluate(model, evaluation.load_data(description, split=part))
                   for part in ("test", "train"))
    answers = [*verdict.confusions(test), *verdict.accuracy(test), *verdict.overfitting(test, train)]
    first = page.source.index("<h2>Training")
    assert all(0 < page.source.index(answer) < first for answer in answers)
    # settings come last, and are folded away
    assert page.source.index("<details>") > page.source.index("<h2>Network") and "one-cycle" in page.words
    assert not re.search(r"<details open|</h3>\s*<p class=.big.></p>", page.source)


@pytest.mark.thorough
def test_images_that_were_not_trained_on_do_not_count_as_training_images(trained, tmp_path, monkeypatch):
    folder = shutil.copytree(trained, tmp_path / "run")
    summary = json.loads((folder / "summary.json").read_text())
    (folder / "summary.json").write_text(json.dumps({**summary, "validation_fraction": 0.25}))
    sizes, evaluate = [], evaluation.evaluate
    monkeypatch.setattr(evaluation, "evaluate", lambda model, data, *a, **k: (
        sizes.append(len(data)), evaluate(model, data, *a, **k))[1])
    report.write(folder)
    assert sizes == [1000, 3000]


@pytest.mark.thorough
def test_a_run_that_diverged_says_so_at_the_top(trained, tmp_path):
    (tmp_path / "summary.json").write_text(json.dumps({"diverged": True, "stopped": "the loss became nan"}))
    shutil.copy(trained / "model.safetensors", tmp_path)
    page = Page(report.write(tmp_path))
    assert "This run diverged." in page.words and "Stopped: the loss became nan." in page.words
    assert page.words.index("This run diverged.") < page.words.index("Is it good?")
    assert "diverged" not in Page(trained / "report.html").words


# ------------------------------------------------------------------------------------------ curves of a default run


@pytest.mark.thorough
def test_a_default_run_measures_held_out_images_and_trains_the_same(trained, tmp_path):
    history = cnn.history.History.load(trained / "history.csv")
    assert all(math.isfinite(value) for name in ("val_loss", "val_accuracy") for value in history.column(name))
    summary = json.loads((trained / "summary.json").read_text())
    assert summary["held_out"] == "1,000 test images" and history[-1]["val_accuracy"] == summary["test_accuracy"]
    page = Page(trained / "report.html")
    assert page.words.count("held out ") == 2 and "Held out: 1,000 test images" in page.words
    # the weights are those of training alone
    train, _ = cnn.data.load("mnist-sample")
    settings = run.replace(run.Settings(), epochs=2)
    trainer, loader, *_ = run.make(settings, train)
    trainer.fit(loader, 2)
    for name, value in checkpoint.load_model(trained)[0].state_dict().items():
        np.testing.assert_array_equal(value, trainer.model.state_dict()[name])


def test_of_many_test_images_some_are_measured_each_epoch():
    from cnn.runs import parts

    data = cnn.data.Dataset(np.zeros((3000, 1, 2, 2), np.uint8), np.arange(3000) // 300)
    some, words = parts.watched(None, data)
    assert words == "1,000 of 3,000 test images"
    assert np.bincount(some.labels).tolist() == [100] * 10, "of every class, also where they are sorted"
    assert parts.watched(data, data.subset([1])) == (data, "3,000 images to choose by")
    assert len(parts.watched(None, data.subset([]))[0]) == 0


# ------------------------------------------------------------------------------------------ looks


def luminance(colour):
    """Relative luminance of (red, green, blue) from 0 to 255: WCAG 2.2."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (v / 255 for v in colour)]
    return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))


def contrast(a, b):
    high, low = sorted((luminance(a), luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def themes(source):
    """The colours of a page, light and dark: {name: (red, green, blue)}."""
    blocks = re.findall(r":root \{ ([^}]*) \}", source)
    return [{name: tuple(bytes.fromhex(value)) for name, value in re.findall(r"--(\w+): #(\w{6});", block)}
            for block in blocks]


def test_contrast():
    assert contrast((0, 0, 0), (255, 255, 255)) == pytest.approx(21)
    assert contrast((0x76, 0x76, 0x76), (255, 255, 255)) == pytest.approx(4.54, abs=0.005)    # WCAG's own example


@pytest.mark.thorough
@pytest.mark.parametrize("dark", [False, True])
def test_text_stands_out_in_light_and_dark(trained, dark):
    source = (trained / "report.html").read_text()
    assert "@media (prefers-color-scheme: dark) { :root" in source
    colours = themes(source)[dark]
    assert len(themes(source)) == 2 and (luminance(colours["paper"]) < 0.1) == dark
    for text in ("text", "muted"):
        for ground in ("paper", "ground"):
            assert contrast(colours[text], colours[ground]) >= 4.5, (text, ground)
    assert contrast(colours["warning"], colours["alarm"]) >= 4.5
    for line in ("blue", "orange", "green"):        # WCAG 2.2, 1.4.11: 3 for what is no text
        assert contrast(colours[line], colours["paper"]) >= 3, line


@pytest.mark.thorough
@pytest.mark.parametrize("dark", [False, True])
def test_numbers_stand_out_in_every_cell_of_a_confusion_matrix(trained, dark):
    colours = themes((trained / "report.html").read_text())[dark]
    shares = np.linspace(0, 1, 101)
    for share in shares:
        matrix = np.round(1000 * np.array([[1 - share, share], [share, 1 - share]])).astype(int)
        cells = cnn.plots.confusion_matrix(matrix, "ab").axes[0].images[0].get_array() if share in shares[::10] else (
            cnn.plots.confusion.colours(matrix / 1000))
        for *rgb, opacity in np.asarray(cells).reshape(-1, 4):
            seen = opacity * 255 * np.array(rgb) + (1 - opacity) * np.array(colours["paper"])
            assert contrast(colours["text"], seen) >= 4.5, (share, opacity)


@pytest.mark.thorough
def test_figures_have_the_colours_and_the_type_of_the_page(trained):
    source = (trained / "report.html").read_text()
    style, body = re.search("<style>(.*?)</style>(.*)", source, re.DOTALL).groups()
    # all colours have names, so that they follow light and dark
    without_themes = re.sub(r":root \{[^}]*\}", "", style)
    assert not re.search(r"#[0-9a-fA-F]{3,8}\b|rgb|\b(white|black|gr[ae]y)\b(?!-)", without_themes)
    for name in set(re.findall(r"var\(--(\w+)\)", style)):
        assert name in theme.LIGHT and name in theme.DARK
    for figure in re.findall(r"<svg.*?</svg>", body, re.DOTALL):
        assert not re.search(r'(fill|stroke)="(?!none|url)[^"]*"|font-family', figure)
        used = set(re.findall(r"\b(?:fill|stroke)-(?:blue|orange|green|text|muted|line|paper)\b", figure))
        assert used and all(f".{name} {{" in style for name in used)
        # and one size of text: 10 units of the figure, 15 pixels of the page
        assert "font-size" not in figure
        width, units = re.search(r'width="(\d+)".* viewBox="[-\d.]+ [-\d.]+ ([\d.]+)', figure).groups()
        assert int(width) / float(units) == pytest.approx(1.5, abs=0.01)
        # 390 pixels less the margins of page and card
        assert int(width) <= 390 - 2 * 12 - 2 * 10
    assert re.search(r"body \{ font: 15px", style) and re.search(r"svg text \{ font: inherit;\s*font-size: 10px", style)


@pytest.mark.thorough
def test_pages_are_small(trained):
    assert (trained / "report.html").stat().st_size < 150_000
