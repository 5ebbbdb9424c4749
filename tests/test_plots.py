"""Pictures: what is in them, by matplotlib's own objects, and that odd input makes one too."""

import io
import sys

import numpy as np
import pytest

import cnn
from cnn import plots
from cnn.reports import metrics
from cnn.training.history import History

pytest.importorskip("matplotlib.figure", exc_type=ImportError)

NAN, INF = float("nan"), float("inf")


@pytest.fixture(autouse=True)
def _coarse(monkeypatch):
    monkeypatch.setattr(plots.files, "_DPI", 30)  # of every picture, to be quick


def history(train_loss, val_accuracy=None):
    val_accuracy = val_accuracy or [NAN] * len(train_loss)
    return History({"epoch": i + 1, "lr": 0.1, "train_loss": a, "train_accuracy": 0.5, "val_loss": NAN,
                    "val_accuracy": b} for i, (a, b) in enumerate(zip(train_loss, val_accuracy, strict=True)))


def texts(figure):
    from matplotlib.text import Text

    return [t.get_text() for t in figure.findobj(Text) if t.get_text()]


def drawn(figure):
    """The picture's pixels, (H, W, channels)."""
    from matplotlib.image import imread

    pixels = imread(io.BytesIO(plots.png(figure)))
    assert pixels.ndim == 3 and pixels.std() > 0.01, "nothing is to be seen"
    return pixels


def series(ax):
    return {line.get_label(): line.get_xydata() for line in ax.lines}


# ------------------------------------------------------------------------------------------ curves


def test_curves_show_the_numbers():
    figure = plots.curves(history([2, 1, 0.5], [0.3, 0.9, 0.8]))
    loss, accuracy = (series(ax) for ax in figure.axes)
    assert loss["training"].tolist() == [[1, 2], [2, 1], [3, 0.5]] and "held out" not in loss
    assert accuracy["held out"].tolist() == [[1, 0.3], [2, 0.9], [3, 0.8]]
    assert accuracy["best"].tolist() == [[2, 0.9]]
    titles = [ax.get_title(loc="left") for ax in figure.axes]
    assert titles == ["loss by epoch", "accuracy by epoch, best: 90.00% (epoch 2)"]
    half = plots.curve(history([2, 1, 0.5], [0.3, 0.9, 0.8]), "accuracy").axes[0]
    assert series(half).keys() == accuracy.keys() and half.get_title(loc="left") == titles[1]
    with pytest.raises(ValueError, match="curve: what must be loss or accuracy, got 'f1'"):
        plots.curve([], "f1")
    drawn(figure)


def test_the_lines_differ_by_more_than_colour():
    figure = plots.curves(history([2, 1], [0.3, 0.9]))
    train, val = figure.axes[1].lines[:2]
    assert train.get_linestyle() != val.get_linestyle() and train.get_marker() != val.get_marker()


def test_values_that_are_not_finite_are_left_out_and_counted():
    figure = plots.curves(history([2, NAN, INF, 0.5, 0.4]))
    y = series(figure.axes[0])["training"][:, 1]
    np.testing.assert_array_equal(y, [2, NAN, NAN, 0.5, 0.4])
    assert "epoch\n2 values not finite, left out" in texts(figure)
    assert figure.axes[0].lines[0].get_marker() == "o", "the first value has no line to be seen by"
    drawn(figure)


@pytest.mark.parametrize(("rows", "empty"), [
    ([], 2), (history([1.0]), 0), (history([NAN]), 1), (history(list(range(1, 200))), 0), ([{"epoch": 3}], 2)])
def test_curves_of_odd_histories(rows, empty):
    figure = plots.curves(rows)
    drawn(figure)
    assert texts(figure).count("no values") == empty


def test_learning_rate():
    ax = plots.learning_rate([0.1, 0.2, NAN, 0.1], at=[10, 20, 30, 40]).axes[0]
    np.testing.assert_array_equal(ax.lines[0].get_xydata(), [[10, 0.1], [20, 0.2], [30, NAN], [40, 0.1]])
    assert plots.learning_rate([0.1], "epoch").axes[0].get_xlabel() == "epoch"
    assert "no values" in texts(plots.learning_rate([]))
    with pytest.raises(ValueError, match="at must have as many values as lr, 2, got 1"):
        plots.learning_rate([1, 2], at=[1])


def test_lr_finder():
    lr, loss = np.geomspace(1e-4, 1, 20), [2.0] * 10 + [1.0] * 8 + [900.0, INF]
    figure = plots.lr_finder(lr, loss, 0.01)
    ax = figure.axes[0]
    assert ax.get_xscale() == "log" and ax.get_ylim()[1] < 3, "what explodes must not flatten the rest"
    np.testing.assert_array_equal(series(ax)["each step"], np.stack([lr[:19], loss[:19]], 1))
    assert "suggested: 0.01" in texts(figure)
    drawn(figure)
    assert "no values" in texts(plots.lr_finder([], []))
    drawn(plots.lr_finder([0.1], [2.0]))
    with pytest.raises(ValueError, match="loss must have as many values as lr, 2, got 1"):
        plots.lr_finder([1, 2], [1])


# ------------------------------------------------------------------------------------------ mistakes


@pytest.mark.thorough
@pytest.mark.parametrize("k", [1, 2, 25, 100])
def test_confusion_matrix_of_any_number_of_classes(k, rng):
    matrix = rng.integers(0, 3, (k, k)) * rng.integers(0, 2, (k, k)) + np.diag(rng.integers(100, 999, k))
    classes = [f"class {i}" for i in range(k)]
    figure = plots.confusion_matrix(matrix, classes)
    found = texts(figure)
    ax = figure.axes[0]
    assert [t.get_text() for t in ax.get_xticklabels()] == [t.get_text() for t in ax.get_yticklabels()] == classes
    if k <= 25:
        numbers = sorted(t.get_text() for t in figure.axes[0].texts)
        assert numbers == sorted(str(n) for n in matrix.ravel() if n)
    drawn(figure)
    assert max(figure.get_size_inches()) < 16
    assert f"{matrix.sum():,} images, {metrics.accuracy(matrix):.2%} right" in found


def test_confusion_matrix_of_a_class_without_images():
    figure = plots.confusion_matrix([[0, 0], [1, 3]], ["a", "b"])
    opacity = figure.axes[0].images[0].get_array()[..., 3]
    np.testing.assert_allclose(opacity, [[0, 0], [0.75, 0.75 * 0.2]])
    drawn(plots.confusion_matrix(np.zeros((3, 3), int), "abc"))


def test_the_loudest_colour_is_that_of_the_worst_error():
    matrix = np.array([[96, 1, 3, 0], [0, 100, 0, 0], [0, 20, 70, 10], [50, 0, 0, 50]])
    cells = plots.confusion_matrix(matrix, "abcd").axes[0].images[0].get_array()
    opacity, right = cells[..., 3], np.eye(4, dtype=bool)
    # one error in a hundred is to be seen, and has a fifth of the strongest colour
    assert opacity[0, 1] == pytest.approx(opacity.max() / 5) and opacity[0, 1] > 0.1
    order = [opacity[0, 3], opacity[0, 1], opacity[0, 2], opacity[2, 3], opacity[2, 1], opacity[3, 0]]
    assert order == sorted(order) and len(set(order)) == 6 and order[0] == 0
    assert opacity[right].max() < opacity[2, 3], "the diagonal must not dominate"
    # of two hues, the same for all of a kind, on which lightness alone depends
    assert len({tuple(rgb) for rgb in cells[right][:, :3]}) == len({tuple(rgb) for rgb in cells[~right][:, :3]}) == 1
    # a class of ten times as many images has the same colours
    np.testing.assert_allclose(plots.confusion_matrix(10 * matrix, "abcd").axes[0].images[0].get_array(), cells)


def test_counts_that_have_no_room_are_percent():
    matrix = np.diag(np.full(10, 12345))
    matrix[0, 1], matrix[0, 2] = 1, 12345
    figure = plots.confusion_matrix(matrix, "0123456789")
    assert sorted({t.get_text() for t in figure.axes[0].texts}) == ["100", "50", "<1"]
    assert figure.axes[0].get_title(loc="left").endswith("; numbers: % of the true class")


def test_names_are_drawn_as_they_are():
    names = ["$x^2$ $", "a\nb\x07", "<b>&", "も" * 40, "$\\frac{$"]
    figure = plots.confusion_matrix(np.eye(5, dtype=int), names)
    found = texts(figure)
    assert {"$x^2$ $", "a b ", "<b>&", "も" * 15 + "…", "$\\frac{$"} <= set(found)
    drawn(figure)  # matplotlib would read what is between two $ as a formula, and refuse this one


@pytest.mark.parametrize(("matrix", "classes"), [(np.eye(2), ["a"]), (np.ones(4), "ab"), (np.zeros((0, 0)), [])])
def test_confusion_matrices_that_are_none(matrix, classes):
    with pytest.raises(ValueError, match="confusion_matrix: matrix must have shape"):
        plots.confusion_matrix(matrix, classes)


def test_mistakes_come_worst_first(rng):
    probabilities = np.array([[0.9, 0.1], [0.6, 0.4], [0.05, 0.95], [0.3, 0.7]])
    images = rng.integers(0, 256, (4, 1, 5, 6), dtype=np.uint8)
    figure = plots.mistakes(images, [1, 1, 1, 0], probabilities, ["cat", "dog"])
    titles = [ax.get_title() for ax in figure.axes if ax.images]    # in the middle, above each image
    assert titles == ["said cat (90%)\ntrue dog (10%)", "said dog (70%)\ntrue cat (30%)",
                      "said cat (60%)\ntrue dog (40%)"]
    np.testing.assert_allclose(figure.axes[0].images[0].get_array(), images[0, 0] / 255)
    assert "3 of 4 images wrong" in texts(figure)
    assert "3 of 4 images wrong, the 2 worst" in texts(
        plots.mistakes(images, [1, 1, 1, 0], probabilities, ["cat", "dog"], 2))
    drawn(figure)


def test_grid(rng):
    images = rng.integers(0, 256, (20, 3, 5, 6), dtype=np.uint8)
    figure = plots.grid(images, [f"image {i}" for i in range(20)], "twenty")
    shown = [ax for ax in figure.axes if ax.images]
    assert [ax.get_title() for ax in shown] == [f"image {i}" for i in range(20)]
    for ax, image in zip(shown, images, strict=True):
        np.testing.assert_allclose(ax.images[0].get_array(), image.transpose(1, 2, 0) / 255)
    assert "twenty" in texts(figure) and max(figure.get_size_inches()) < 9
    drawn(figure)
    with pytest.raises(ValueError, match=r"grid: pixels must have shape \(2, C, H, W\).* got \(20, 3, 5, 6\)"):
        plots.grid(images, "ab")


def test_grid_in_columns_without_titles(rng):
    images = rng.integers(0, 256, (7, 1, 5, 5), dtype=np.uint8)
    figure = plots.grid(images, columns=3)
    assert figure.axes[0].get_subplotspec().get_gridspec().get_geometry() == (3, 3)
    assert sum(bool(ax.images) for ax in figure.axes) == 7 and not any(texts(figure))
    titled = plots.grid(images, ["a"] * 7, columns=3)
    assert titled.get_size_inches()[1] > figure.get_size_inches()[1]
    drawn(figure)
    with pytest.raises(ValueError, match="grid: columns must be an integer of at least 1, got 0"):
        plots.grid(images, columns=0)
    with pytest.raises(ValueError, match=r"grid: pixels must have shape \(N, C, H, W\)"):
        plots.grid(images[0])


@pytest.mark.thorough
@pytest.mark.parametrize("channels", [1, 2, 3])
def test_mistakes_of_odd_images(channels, rng):
    images = rng.normal(size=(30, channels, 4, 4)).astype(np.float32)
    images[0] = 1
    drawn(plots.mistakes(images, np.zeros(30, int), np.tile([0.0, NAN], (30, 1)), ["a" * 50, "b$b$"]))


def test_no_mistakes():
    eye = np.eye(3)
    assert texts(plots.mistakes(np.zeros((3, 1, 2, 2)), [0, 1, 2], eye, "abc")) == ["no mistake among 3 images"]
    assert texts(plots.mistakes(np.zeros((0, 1, 2, 2)), [], eye[:0], "abc")) == ["no mistake among 0 images"]
    with pytest.raises(ValueError, match="mistakes: images must have shape"):
        plots.mistakes(np.zeros((3, 2, 2)), [0, 1, 2], eye, "abc")
    with pytest.raises(TypeError, match="mistakes: labels must be integers, got float64"):
        plots.mistakes(np.zeros((3, 1, 2, 2)), [0.0, 1, 2], eye, "abc")
    with pytest.raises(ValueError, match="mistakes: count"):
        plots.mistakes(np.zeros((3, 1, 2, 2)), [0, 1, 2], eye, "abc", 0)


# ------------------------------------------------------------------------------------------ inside the network


def test_filters_are_shown_one_by_one(rng):
    weight = rng.normal(size=(10, 1, 3, 3))
    image = plots.filters(weight).axes[0].images[0].get_array().filled(NAN)
    # rows of eight, one pixel between
    for k in range(10):
        top, left = k // 8 * 4, k % 8 * 4
        np.testing.assert_array_equal(image[top:top + 3, left:left + 3], weight[k, 0])
    assert np.isnan(image[3]).all() and np.isnan(image[:, 3]).all()


@pytest.mark.parametrize(
    "shape", [(6, 1, 5, 5), (32, 3, 5, 5), (100, 3, 3, 3), (20, 40, 3, 3), (1, 1, 1, 1), (7, 2, 1, 3)])
def test_filters_of_any_shape(shape, rng):
    figure = plots.filters(rng.normal(size=shape))
    assert figure.axes[0].get_title(loc="left").startswith(f"{shape[0]} filters of {'×'.join(map(str, shape[1:]))}")
    drawn(figure)


def test_filters_of_a_layer(rng):
    weight = rng.normal(size=(10, 1, 3, 3)).astype(np.float32)
    conv = cnn.Conv2d(1, 10, 3)
    conv.weight.data = weight
    for given in (conv, conv.weight, weight.tolist()):
        shown, wanted = (plots.filters(x).axes[0].images[0].get_array() for x in (given, weight))
        np.testing.assert_array_equal(shown.filled(NAN), wanted.filled(NAN))
    for given in (cnn.ReLU(), cnn.Sequential(conv), "conv", 3):
        with pytest.raises(TypeError, match="filters: layer must be a layer with a weight, as Conv2d, .* got"):
            plots.filters(given)
    with pytest.raises(ValueError, match=r"filters: weight must have shape \(K, C, R, S\) without 0, got \(2, 3\)"):
        plots.filters(cnn.Linear(3, 2))


def test_scales_are_beside_filters_and_maps(rng):
    for figure, top in ((plots.filters(np.linspace(-2, 1, 18).reshape(2, 1, 3, 3)), 2),
                        (plots.feature_map("a", np.linspace(0, 3, 18).reshape(2, 3, 3)), 3)):
        picture, bar = figure.axes
        assert bar.get_ylim()[1] == pytest.approx(top) == picture.images[0].norm.vmax
        assert len([t for t in bar.get_yticklabels() if t.get_text()]) >= 3


def test_filters_of_zeros_and_nan():
    plots.png(plots.filters(np.zeros((4, 3, 2, 2))))
    plots.png(plots.filters(np.full((4, 1, 2, 2), NAN)))
    with pytest.raises(ValueError, match="filters: weight must have shape"):
        plots.filters(np.ones((3, 3)))


def test_feature_maps(rng):
    maps = rng.normal(size=(20, 4, 6))
    image = rng.integers(0, 255, (3, 8, 8), dtype=np.uint8)
    figure = plots.feature_maps(image, [("0 $Conv2d$", maps), ("1", maps[:2])])
    assert [t for t in texts(figure) if "of 4×6" in t] == ["0 $Conv2d$: 20 of 4×6, the first 16", "1: 2 of 4×6"]
    np.testing.assert_array_equal(figure.axes[1].images[0].get_array()[:4, :6], maps[0])
    drawn(figure)
    drawn(plots.feature_maps(np.eye(4)[None], []))
    with pytest.raises(ValueError, match="feature_maps: 1 must have shape"):
        plots.feature_maps(np.eye(4)[None], [("1", np.ones(3))])


# ------------------------------------------------------------------------------------------ files


def test_save_writes_a_png(tmp_path):
    plots.save(plots.learning_rate([1, 2]), tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    with pytest.raises(OSError, match="b.png"):
        plots.save(plots.learning_rate([1, 2]), tmp_path / "none" / "b.png")


def test_pyplot_is_not_touched():
    plots.png(plots.curves(history([1.0])))
    assert "matplotlib.pyplot" not in sys.modules


def test_all_text_has_one_size_whatever_matplotlibrc_says(rng):
    import matplotlib

    with matplotlib.rc_context({"font.size": 30, "text.color": "red", "axes.titlesize": 40}):
        figures = [plots.curves(history([2, 1], [0.3, 0.9])), plots.learning_rate([1, 2]),
                   plots.confusion_matrix(np.eye(3, dtype=int) * 20, "abc"), plots.filters(np.ones((2, 1, 3, 3))),
                   plots.feature_maps(np.eye(4)[None], [("1", rng.random((3, 2, 2)))])]
    for figure in figures:
        from matplotlib.text import Text

        assert {t.get_fontsize() for t in figure.findobj(Text) if t.get_text()} == {10}
        assert {t.get_color() for t in figure.findobj(Text) if t.get_text()} == {"#1b1b1b"}


def test_a_notebook_shows_a_figure_once():
    """IPython asks for `_repr_png_`; pyplot, which shows all figures of its own, does not know this one."""
    figure = plots.learning_rate([1, 2])
    assert figure._repr_png_()[:8] == b"\x89PNG\r\n\x1a\n"
    assert not hasattr(figure, "_repr_html_") or figure._repr_html_() is None
    assert getattr(figure, "number", None) is None


def test_without_matplotlib_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'cnn\[plot\]'"):
        plots.learning_rate([1, 2])
