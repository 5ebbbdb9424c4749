"""Pictures of explanations: the figure, the page of a run, `cnn predict --explain`."""

import io
import re

import numpy as np
import pytest
from html_page import Page

import cnn
from cnn import Conv2d, Flatten, Linear, Sequential, explain, plots
from cnn.commands import main
from cnn.data import Dataset
from cnn.reports import evaluation, explained
from cnn.reports import page as report
from cnn.runs import run

pytest.importorskip("matplotlib.figure", exc_type=ImportError)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a run of two epochs with its report; not to be changed."""
    folder = tmp_path_factory.mktemp("runs") / "a"
    run.train(run.replace(run.Settings(), epochs=2, report=True), out=folder, quiet=True)
    return folder


def shown(figure):
    """Titles of the axes with a picture, and their pictures."""
    axes = [ax for ax in figure.axes if ax.images]
    return [ax.get_title() for ax in axes], [np.asarray(ax.images[0].get_array()) for ax in axes]


# ------------------------------------------------------------------------------------------ figures


def test_an_overlay_mixes_the_image_in_grey_and_the_colour_of_the_map():
    from matplotlib import colormaps
    image = np.zeros((3, 1, 3), np.uint8)
    image[:, 0, 1], image[:, 0, 2] = 255, (255, 0, 0)
    heat = np.array([[0, 1, 0.5]])
    grey = np.array([0, 1, 0.299])      # luma of red: ITU-R BT.601
    colours = np.array([colormaps["viridis"](value)[:3] for value in (0.0, 1.0, 0.5)])
    wanted = 255 * (0.45 * grey[:, None] + 0.55 * colours)
    found = plots.overlay(image, heat)
    assert found.shape == (3, 1, 3) and found.dtype == np.uint8
    np.testing.assert_allclose(found[:, 0].T, wanted, atol=0.51)
    np.testing.assert_array_equal(plots.overlay(image, [[-1, 2, 0.5]]), found)      # clipped
    grey_image = plots.overlay(image[:1], heat)
    np.testing.assert_array_equal(grey_image[:, 0, :2], found[:, 0, :2])
    with pytest.raises(ValueError, match=r"overlay: heat must have shape \(1, 3\)"):
        plots.overlay(image, heat.T)


def test_heat_maps_stand_beside_their_images(rng):
    images, a, b = rng.integers(0, 256, (5, 3, 4, 6), np.uint8), rng.random((5, 4, 6)), rng.random((5, 4, 6))
    titles, pictures = shown(plots.heat_maps(images, [("x", a), ("y", b)], list("abcde"), "whole"))
    assert titles == [word for name in "abcde" for word in (name, "x", "y")]
    for i in range(5):
        np.testing.assert_allclose(pictures[3 * i], images[i].transpose(1, 2, 0) / 255)
        for k, maps in enumerate((a, b)):
            over = plots.overlay(images[i], maps[i]).transpose(1, 2, 0)
            np.testing.assert_allclose(255 * pictures[3 * i + 1 + k], over)
    assert shown(plots.heat_maps(images, a, list("abcde")))[0] == [word for name in "abcde" for word in (name, "")]
    over = np.stack([plots.overlay(*pair) for pair in zip(images, a, strict=True)])
    np.testing.assert_allclose(shown(plots.heat_maps(images, [("x", over)], list("abcde")))[1][1], pictures[1])
    assert plots.png(plots.heat_maps(images[:0], a[:0], [])).startswith(b"\x89PNG")
    for maps, names in ((a[:4], "abcde"), (a, "abcd"), (a[..., :3], "abcde")):
        with pytest.raises(ValueError, match="heat_maps: images must have shape"):
            plots.heat_maps(images, maps, list(names))


def test_an_explanation_draws_itself(rng):
    model = cnn.models.lenet5(seed=0)
    found = explain.grad_cam(model, rng.normal(size=(3, 1, 28, 28)).astype(np.float32), [1, 7, 3])
    titles, pictures = shown(found.plot())
    assert titles == ["1", "", "7", "", "3", ""]
    np.testing.assert_allclose(255 * pictures[1], plots.overlay(found.images[0], found.maps[0]).transpose(1, 2, 0))


# ------------------------------------------------------------------------------------------ the page


def test_examples_are_the_most_confidently_wrong_and_right_ones_of_different_classes():
    model = Sequential(Conv2d(1, 3, 3, seed=1), Flatten(), Linear(108, 4, seed=2))
    rng = np.random.default_rng(0)
    data = Dataset(rng.integers(0, 256, (40, 1, 8, 8), np.uint8), np.arange(40) % 4)
    measured = evaluation.evaluate(model, data)
    wrong, right = explained.examples(model, data, measured, 3)
    p, said = measured.probabilities, measured.probabilities.argmax(1)
    order = sorted((i for i in range(40) if said[i] != i % 4), key=lambda i: -p[i].max())
    assert [one.number for one in wrong] == order[:3]
    x = data.normalise(data.images)
    for one in wrong:
        i = one.number
        assert [name for name, _ in one.maps] == ["predicted", "true"]
        for (_, picture), k in zip(one.maps, (said[i], i % 4), strict=True):
            maps = explain.grad_cam(model, x[i:i + 1], int(k)).maps[0]
            np.testing.assert_allclose(picture.astype(int), plots.overlay(data.images[i], maps), atol=1)
        assert one.words[0].startswith(f"said {said[i]} (") and one.words[1].startswith(f"true {i % 4} (")
    classes = [one.number % 4 for one in right]
    assert classes == sorted(set(classes)) and all(said[one.number] == one.number % 4 for one in right)
    for one in right:
        assert one.number == min(i for i in range(40) if said[i] == i % 4 == one.number % 4)
        assert len(one.words) == len(one.maps) == 1
    flat = Sequential(Flatten(), Linear(64, 4, seed=2))
    assert explained.examples(flat, data, evaluation.evaluate(flat, data), 3) == ([], [])


@pytest.mark.thorough
def test_the_page_shows_where_the_network_looks(trained):
    page = Page(trained / "report.html")
    assert "Where it looks when it is wrong" in page.words and "Where it looks when it is right" in page.words
    rows = re.findall(r'<figure><div class="row">(.*?)</div><figcaption>(.*?)</figcaption>', page.source)
    wrong = [(row, words) for row, words in rows if "true" in words]
    assert len(wrong) == 6 and all(row.count("<img") == 3 for row, _ in wrong)
    assert len(rows) == 12 and all(row.count("<img") == 2 for row, words in rows if "true" not in words)
    assert (trained / "grad_cam_wrong.png").is_file() and (trained / "grad_cam_right.png").is_file()
    assert "Not shown" not in page.words


@pytest.mark.thorough
def test_the_page_of_a_network_without_a_convolution_says_nothing(tmp_path):
    train, _ = cnn.data.load("mnist-sample")
    model = Sequential(Flatten(), Linear(784, 10, seed=0))
    cnn.save(model, tmp_path / "model.safetensors", train)
    page = Page(report.write(tmp_path))
    assert "Worst mistakes" in page.words and "Where it looks" not in page.words and "Grad-CAM" not in page.words


# ------------------------------------------------------------------------------------------ cnn predict --explain


@pytest.mark.thorough
def test_predict_explains_pictures(trained, tmp_path, capsys):
    Image = pytest.importorskip("PIL.Image")
    test = cnn.data.load("mnist-sample")[1]
    for i in range(3):
        Image.fromarray(test.images[i, 0]).save(tmp_path / f"{i}.png")
    capsys.readouterr()
    assert main(["predict", str(trained), str(tmp_path), "--explain", str(tmp_path / "why.png")]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"wrote {tmp_path / 'why.png'}"
    with Image.open(tmp_path / "why.png") as picture:
        assert picture.format == "PNG" and picture.width > picture.height
    predictor = cnn.load(trained)
    titles, pictures = shown(explained.drawn(predictor, test.images[:3], ["a.png", "b.png", "c" * 40]))
    labels = [p.label for p in predictor.predict(test.images[:3])]
    assert titles[1::3] == ["Grad-CAM"] * 3 and titles[2::3] == ["occlusion"] * 3
    assert titles[::3] == [f"{name}\n{p.label} {p.probability:.0%}" for name, p in zip(
        ("a.png", "b.png", "c" * 15 + "…"), predictor.predict(test.images[:3]), strict=True)]
    for k, function in enumerate((explain.grad_cam, explain.occlusion)):
        wanted = function(predictor, test.images[:3], labels).maps
        np.testing.assert_allclose(255 * pictures[1 + k], plots.overlay(test.images[0], wanted[0]).transpose(1, 2, 0),
                                   atol=1.01)


def test_predict_explains_what_can_be_read(trained, tmp_path, capsys):
    Image = pytest.importorskip("PIL.Image")
    digit = tmp_path / "a.png"
    Image.fromarray(cnn.data.load("mnist-sample")[1].images[0, 0]).save(digit)
    (tmp_path / "b.png").write_bytes(b"no picture")
    capsys.readouterr()
    why = tmp_path / "out.png"
    assert main(["predict", str(trained), str(tmp_path / "b.png"), str(digit), "--json", "--explain", str(why)]) == 1
    out, said = capsys.readouterr()
    assert why.is_file() and out.startswith("[") and "wrote" not in out and f"wrote {why}" in said and "b.png" in said
    with pytest.raises(SystemExit):
        main(["predict", str(trained), str(tmp_path / "b.png"), "--explain", str(tmp_path / "none.png")])
    assert "there is no image to explain" in capsys.readouterr().err and not (tmp_path / "none.png").exists()
    with pytest.raises(SystemExit):
        main(["predict", str(trained), str(digit), "--explain", str(tmp_path / "no" / "folder.png")])
    out, said = capsys.readouterr()
    assert "folder" in said and not out     # before anything is computed


@pytest.mark.thorough
def test_of_many_images_the_first_are_explained(trained, tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (20, 28, 28), np.uint8)
    head = bytes.fromhex("00000803") + np.array(images.shape, ">i4").tobytes()
    (tmp_path / "x.idx").write_bytes(head + images.tobytes())
    assert explained.write(tmp_path / "why.png", trained, [tmp_path / "x.idx"]) == 4
    from matplotlib.image import imread
    assert imread(io.BytesIO((tmp_path / "why.png").read_bytes())).std() > 0.01


def test_without_a_convolution_there_is_occlusion(tmp_path):
    train, test = cnn.data.load("mnist-sample")
    cnn.save(Sequential(Flatten(), Linear(784, 10, seed=0)), tmp_path / "model.safetensors", train)
    titles, _ = shown(explained.drawn(cnn.load(tmp_path / "model.safetensors"), test.images[:1], ["x"]))
    assert titles[1:] == ["occlusion"]
