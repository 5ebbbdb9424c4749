"""cnn.load: every kind of picture gives the scores of the model on that picture, prepared by hand."""

import io
import re
import runpy
import sys
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from processes import run_python

import cnn
from cnn.commands import main
from cnn.data import DataFileError, DataWarning

Image = pytest.importorskip("PIL.Image")
ImageOps = pytest.importorskip("PIL.ImageOps")

GREY = {"model": "lenet5", "arguments": {"in_channels": 1, "num_classes": 3, "image_size": 28},
        "classes": ["ant", "bee", "cat"], "mean": [0.3], "std": [0.4]}
COLOUR = {"model": "cifar_quick", "arguments": {"in_channels": 3, "num_classes": 4, "image_size": 16},
          "classes": list("abcd"), "mean": [0.3, 0.5, 0.6], "std": [0.4, 0.3, 0.2], "pixels": "uint8"}
KINDS = {1: GREY, 3: COLOUR}


def save(path, description, **more):
    """A model with random weights in a file; returns the path."""
    description = {**description, **more}
    cnn.save_model(path, cnn.models.MODELS[description["model"]](**description["arguments"], seed=1), description)
    return path


@pytest.fixture(scope="module", params=[1, 3], ids=["grey", "colour"])
def saved(request, tmp_path_factory):
    """A model's file, for grey pictures and for coloured ones."""
    return save(tmp_path_factory.mktemp("models") / "model.safetensors", KINDS[request.param])


def by_hand(path, pixels, tta=None):
    """Probabilities (N, K) of uint8 pixels (N, C, H, W), as the textbook has it."""
    model, description = cnn.load_model(path)
    mean, std = (np.array(description[name])[:, None, None] for name in ("mean", "std"))
    x = ((pixels / 255 - mean) / std).astype(np.float32)
    scores = model(x).astype(float)
    if tta == "flip":
        scores = (scores + model(np.ascontiguousarray(x[:, :, :, ::-1]))) / 2
    exp = np.exp(scores - scores.max(1, keepdims=True))
    return exp / exp.sum(1, keepdims=True)


def prepared(picture, description):
    """A PIL image as pixels (1, C, size, size), by Pillow alone."""
    channels, size = description["arguments"]["in_channels"], description["arguments"]["image_size"]
    picture = picture.convert("L" if channels == 1 else "RGB")
    picture = ImageOps.fit(picture, (size, size), Image.Resampling.BILINEAR)
    return np.array(picture).reshape(1, size, size, channels).transpose(0, 3, 1, 2)


def noise(shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def drawn(mode, size, seed=0):
    """A PIL image of noise; size: (width, height)."""
    bands = len(Image.new(mode, (1, 1)).getbands())
    return Image.fromarray(noise((size[1], size[0], bands) if bands > 1 else size[::-1], seed))


def close(found, wanted):
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-6)


# ------------------------------------------------------------------------------------------ kinds of input


@pytest.mark.parametrize("size", [(28, 28), (16, 16), (40, 23)])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_every_kind_of_picture_gives_the_same(saved, tmp_path, mode, size):
    predictor = cnn.load(saved)
    picture = drawn(mode, size)
    path = tmp_path / "x.png"
    picture.save(path)
    (wanted,) = by_hand(saved, prepared(picture, predictor.description))
    content = path.read_bytes()
    array = np.asarray(picture)
    kinds = [path, str(path), content, bytearray(content), memoryview(content), io.BytesIO(content), picture,
             Image.open(path), array, array[::-1][::-1]]
    if mode == "L":
        kinds.append(array[:, :, None])
    with open(path, "rb") as file:
        close(predictor.predict_proba(file), wanted)
        assert not file.closed
    for kind in kinds:
        close(predictor.predict_proba(kind), wanted)
    found = predictor.predict_proba(kinds)
    assert found.shape == (len(kinds), len(wanted))
    close(found, [wanted] * len(kinds))
    close(predictor.predict_proba(tuple(kinds)), found)
    label, probability, top = predictor.predict(path)
    assert label == predictor.classes[wanted.argmax()] and top == [(label, probability)]
    close(probability, wanted.max())


def test_images_of_a_data_set(saved):
    predictor = cnn.load(saved)
    pixels = noise((20, *predictor.shape))
    wanted = by_hand(saved, pixels)
    close(predictor.predict_proba(pixels), wanted)
    close(predictor.predict_proba(list(pixels)), wanted)
    close(predictor.predict_proba(pixels[3]), wanted[3])
    assert [p.label for p in predictor.predict(pixels)] == [predictor.classes[k] for k in wanted.argmax(1)]
    assert predictor.predict(pixels[3]) == predictor.predict(pixels[3:4])[0]


def test_images_of_a_data_set_with_another_size(saved):
    predictor = cnn.load(saved)
    pixels = noise((2, predictor.shape[0], 50, 70))
    pictures = [Image.fromarray(p[0] if len(p) == 1 else p.transpose(1, 2, 0).copy()) for p in pixels]
    wanted = np.concatenate([by_hand(saved, prepared(p, predictor.description)) for p in pictures])
    close(predictor.predict_proba(pixels), wanted)
    close(predictor.predict_proba(pixels[1]), wanted[1])


def test_what_is_transparent_becomes_white(saved):
    predictor = cnn.load(saved)
    array = noise((30, 30, 4))
    picture = Image.fromarray(array)
    white = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    (wanted,) = by_hand(saved, prepared(white, predictor.description))
    for kind in (array, picture):
        close(predictor.predict_proba(kind), wanted)


def test_a_run_is_a_finished_one(tmp_path):
    save(tmp_path / "model.safetensors", GREY)
    pixels = noise((1, 1, 28, 28))
    close(cnn.load(tmp_path).predict_proba(pixels), by_hand(tmp_path / "model.safetensors", pixels))
    close(cnn.load(str(tmp_path)).predict_proba(pixels), by_hand(tmp_path / "model.safetensors", pixels))


def test_views(tmp_path):
    path = save(tmp_path / "a", GREY, tta="flip")
    predictor, pixels = cnn.load(path), noise((5, 1, 28, 28))
    close(predictor.predict_proba(pixels), by_hand(path, pixels, "flip"))
    assert predictor.tta == "flip" and np.abs(by_hand(path, pixels) - by_hand(path, pixels, "flip")).max() > 1e-3


def test_invert(saved, tmp_path):
    predictor, picture = cnn.load(saved, invert=True), drawn("RGB", (20, 20))
    (wanted,) = by_hand(saved, 255 - prepared(picture, predictor.description))
    close(predictor.predict_proba(picture), wanted)
    close(predictor.predict_proba(np.asarray(picture)), wanted)


def test_files_and_images_of_the_caller_stay_as_they_are(tmp_path):
    """A JPEG that Pillow could decode at a fraction of its size is the caller's, whole."""
    predictor = cnn.load(save(tmp_path / "a", GREY))
    drawn("RGB", (400, 300)).save(tmp_path / "x.jpg")
    with Image.open(tmp_path / "x.jpg") as picture:
        predictor.predict(picture)
        assert (picture.size, picture.mode) == ((400, 300), "RGB")
    with open(tmp_path / "x.jpg", "rb") as file:
        file.seek(100)
        assert predictor.predict(file) == predictor.predict(tmp_path / "x.jpg") and not file.closed
    array = noise((28, 28))
    array.flags.writeable = False
    predictor.predict(array)


def test_a_file_that_cannot_seek(tmp_path):
    predictor, picture = cnn.load(save(tmp_path / "a", GREY)), drawn("L", (28, 28))
    picture.save(tmp_path / "x.png")

    class Stream:
        def __init__(self, content):
            self.read = io.BytesIO(content).read

    assert predictor.predict(Stream((tmp_path / "x.png").read_bytes())) == predictor.predict(picture)


# ------------------------------------------------------------------------------------------ results


def test_results_have_the_shape_of_what_was_given(tmp_path):
    predictor = cnn.load(save(tmp_path / "a", GREY))
    one = noise((28, 28))
    prediction = predictor.predict(one, top=3)
    assert isinstance(prediction, cnn.Prediction)
    p = predictor.predict_proba(one)
    assert p.shape == (3,) and p.dtype == np.float32 and p.sum() == pytest.approx(1, abs=1e-6)
    order = np.argsort(-p)
    assert prediction.top == [(predictor.classes[k], p[k]) for k in order]
    assert (prediction.label, prediction.probability) == prediction.top[0]
    assert predictor.predict(one, top=99) == prediction and len(predictor.predict(one, top=2).top) == 2
    assert predictor.predict([one], top=3) == [prediction]
    assert predictor.predict([]) == predictor.predict(np.empty((0, 1, 28, 28), np.uint8)) == []
    assert predictor.predict_proba([]).shape == (0, 3)
    assert repr(predictor) == "<Predictor lenet5: 1×28×28, 3 classes>"


def test_what_the_file_tells(tmp_path):
    predictor = cnn.load(save(tmp_path / "a", COLOUR, tta="flip+shift"))
    assert predictor.classes == ("a", "b", "c", "d") and predictor.shape == (3, 16, 16)
    assert predictor.mean == (0.3, 0.5, 0.6) and predictor.std == (0.4, 0.3, 0.2) and predictor.tta == "flip+shift"
    assert predictor.pixels == "uint8" and predictor.description["model"] == "cifar_quick"


def test_the_model_trains_on(tmp_path):
    path = save(tmp_path / "a", GREY)
    predictor, pixels = cnn.load(path), noise((30, 1, 28, 28))
    before = predictor.predict_proba(pixels)
    data = cnn.data.Dataset(pixels, np.arange(30) % 3, predictor.classes, predictor.mean, predictor.std)
    trainer = cnn.Trainer(predictor.model, cnn.SGD(predictor.model.parameters(), lr=0.05), progress=False)
    trainer.fit(data, 2, batch_size=10)
    after = predictor.predict_proba(pixels)
    assert np.abs(after - before).max() > 1e-4
    cnn.save_model(tmp_path / "b", predictor.model, predictor.description)
    close(after, by_hand(tmp_path / "b", pixels))


def test_one_predictor_for_many_threads(tmp_path):
    """The same results as one after the other."""
    predictor = cnn.load(save(tmp_path / "a", GREY, tta="flip"))
    given = []
    for i in range(8):
        drawn("RGB", (30 + i, 40), i).save(tmp_path / f"{i}.png")
        given += [tmp_path / f"{i}.png", (tmp_path / f"{i}.png").read_bytes(), noise((28, 28), i),
                  noise((1 + 4 * i, 1, 28, 28), i)]
    wanted = [predictor.predict_proba(x) for x in given]
    start = threading.Barrier(8)

    def all_of_them(offset):
        start.wait()
        return [predictor.predict_proba(x) for x in given[offset:] + given[:offset]]

    with ThreadPoolExecutor(8) as pool:
        for offset, found in enumerate(pool.map(all_of_them, range(8))):
            for got, right in zip(found, wanted[offset:] + wanted[:offset], strict=True):
                np.testing.assert_array_equal(got, right)


class Held(io.BytesIO):
    """A file whose reader waits."""

    def __init__(self, content):
        super().__init__(content)
        self.entered, self.go_on = threading.Event(), threading.Event()

    def read(self, *size):
        self.entered.set()
        assert self.go_on.wait(60)
        return super().read(*size)


def test_readers_that_overlap_leave_the_filters_of_warnings_alone(tmp_path):
    """The first one in is the first one out."""
    predictor = cnn.load(save(tmp_path / "a", GREY))
    drawn("L", (28, 28)).save(tmp_path / "x.png")
    content, filters = (tmp_path / "x.png").read_bytes(), list(warnings.filters)
    with ThreadPoolExecutor(2) as pool:
        files, answers = [Held(content), Held(content)], []
        for file in files:
            answers.append(pool.submit(predictor.predict, file))
            assert file.entered.wait(60)
        for file, answer in zip(files, answers, strict=True):
            file.go_on.set()
            assert answer.result() == predictor.predict(tmp_path / "x.png")
    assert warnings.filters == filters


def test_import_cnn_does_not_load_it():
    code = "import sys, cnn; print('cnn.prediction' in sys.modules, cnn.load.__name__, cnn.Predictor.__name__)"
    assert run_python("-c", code).stdout.split() == ["False", "load", "Predictor"]


# ------------------------------------------------------------------------------------------ what is refused


@pytest.mark.parametrize(("x", "error", "words"), [
    (3, TypeError, "x must be a path, bytes, an open binary file, a PIL image, a NumPy array, or a list of these, got "
                   "int"),
    (None, TypeError, "got NoneType"),
    ([noise((28, 28)), {}], TypeError, r"x\[1\] must be a path, .* got dict"),
    ([[noise((28, 28))]], TypeError, r"x\[0\] must be a path, .* got list"),
    (io.StringIO("a"), TypeError, r"x must be a file opened for reading bytes, open\(path, 'rb'\), got a text file"),
    (np.zeros((28, 28)), TypeError, r"x must be uint8 for this model, values 0 to 255, got float64; from values 0 to 1,"
                                    r" use \(x \* 255\).round\(\).astype\(np.uint8\)"),
    (np.zeros((28, 28), int), TypeError, "x must be uint8 for this model, values 0 to 255, got int64$"),
    ([np.zeros((28, 28), bool)], TypeError, r"x\[0\] must be uint8 for this model, values 0 to 255, got bool"),
    (noise((1, 28, 1)), ValueError, r"x of shape \(1, 28, 1\) may be \(C, H, W\) or \(H, W, C\): give it as "
                                    r"\(1, 1, H, W\)"),
    (noise((28, 28, 2)), ValueError, r"x must be one image, \(H, W\), \(1, H, W\) or \(H, W, C\) with C 1, 3 or 4, got "
                                     r"\(28, 28, 2\); for an array of grey pictures \(N, H, W\) give list\(x\)"),
    (noise((3, 28, 28)), ValueError, r"got \(3, 28, 28\)"),     # three digits, or one in colour?
    (noise((5, 28, 28, 3)), ValueError, r"x must be an array of shape \(N, 1, H, W\), got \(5, 28, 28, 3\); for an "
                                        r"array of pictures \(N, H, W, C\) give list\(x\)"),
    (noise(28), ValueError, r"x must be an array of shape \(H, W\), .* got \(28,\)"),
    ([noise((1, 1, 28, 28))], ValueError, r"x\[0\] must be an array of shape .* not within a list, .* got \(1, 1, 28"),
    (noise((0, 28)), ValueError, "x must be an image of 1×28×28, got 1×0×28"),
])
def test_wrong_inputs(tmp_path, x, error, words):
    predictor = cnn.load(save(tmp_path / "a", GREY))
    for method in (predictor.predict, predictor.predict_proba):
        with pytest.raises(error, match=words) as caught:
            method(x)
        assert str(caught.value).startswith(f"Predictor.{method.__name__}: x")


@pytest.mark.parametrize(("top", "error"), [(0, ValueError), (-1, ValueError), (1.5, TypeError), (True, TypeError)])
def test_wrong_top(tmp_path, top, error):
    with pytest.raises(error, match=rf"Predictor.predict: top must be an integer.* got {top}"):
        cnn.load(save(tmp_path / "a", GREY)).predict(noise((28, 28)), top)


def test_bad_pictures_are_named(tmp_path, monkeypatch):
    predictor = cnn.load(save(tmp_path / "a", GREY))
    drawn("L", (64, 64)).save(tmp_path / "good.png")
    content = (tmp_path / "good.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(content[:-500])
    for x, name in ((tmp_path / "cut.png", "cut.png"), (content[:-500], "^x"), (io.BytesIO(b"hello"), "^x"),
                    (b"", "^x"), ([content, content[:40]], r"^x\[1\]"), ([content, tmp_path / "cut.png"], "cut.png")):
        with pytest.raises(DataFileError, match=f"{name}: not a picture that can be read"):
            predictor.predict(x)
    with pytest.raises(FileNotFoundError, match="nowhere.png: there is no such file"):
        predictor.predict([tmp_path / "good.png", tmp_path / "nowhere.png"])
    with pytest.raises(IsADirectoryError, match="is a folder: give its pictures"):
        predictor.predict(tmp_path)
    with pytest.raises(DataFileError, match="x: .*its pixels are floats"):
        predictor.predict(Image.new("F", (28, 28)))
    monkeypatch.setattr("cnn.data.pictures.MOST_PIXELS", 64 * 64 - 1)
    for x, name in ((tmp_path / "good.png", "good.png"), (content, "x"), ([drawn("L", (64, 64))], r"x\[0\]"),
                    (noise((64, 64)), "x"), (noise((1, 1, 64, 64)), r"x\[0\]")):
        with pytest.raises(DataFileError, match=f"{name}: .*64x64 is more than 4,095 pixels"):
            predictor.predict(x)


def test_a_picture_that_becomes_black_is_warned_of(tmp_path):
    predictor = cnn.load(save(tmp_path / "a", GREY))
    with pytest.warns(DataWarning, match="x: becomes black, because its 16 bits hold no value above 9"):
        predictor.predict(Image.fromarray(np.full((28, 28), 9, np.uint16)))


def test_without_pillow_arrays_of_the_right_size_will_do(tmp_path, monkeypatch):
    path = save(tmp_path / "a", GREY)
    predictor, pixels = cnn.load(path), noise((3, 1, 28, 28))
    monkeypatch.setitem(sys.modules, "PIL", None)
    close(predictor.predict_proba(pixels), by_hand(path, pixels))
    for x in (b"any", noise((20, 20))):
        with pytest.raises(ModuleNotFoundError, match=r"pip install 'cnn\[images\]'"):
            predictor.predict(x)


def test_a_model_of_floats_takes_floats(tmp_path):
    path = save(tmp_path / "a", GREY, pixels="float32")
    predictor, x = cnn.load(path), np.random.default_rng(0).random((4, 1, 28, 28))
    wanted = by_hand(path, x * 255)
    for given in (x, x.astype(np.float32), list(x[:, 0]), list(x), [*x.transpose(0, 2, 3, 1)]):
        close(predictor.predict_proba(given), wanted)
    assert predictor.predict([]) == []
    for wrong, error, words in ((noise((28, 28)), TypeError, "x must be float32 for this model, values in the unit of"),
                                (b"any", ValueError, "x: the model was trained on images of float32, these are uint8"),
                                (x[:, :, 1:], ValueError, r"x\[0\] must be an image of 1×28×28, got 1×27×28"),
                                (np.full((28, 28), np.nan), ValueError, "images must be finite")):
        with pytest.raises(error, match=words):
            predictor.predict(wrong)
    with pytest.raises(ValueError, match="invert must be False"):
        cnn.load(path, invert=True)


def test_a_model_with_channels_that_no_picture_has(tmp_path):
    description = {**GREY, "arguments": {**GREY["arguments"], "in_channels": 2}, "mean": [0.1, 0.2], "std": [0.3, 0.4]}
    path = save(tmp_path / "a", description)
    predictor, pixels = cnn.load(path), noise((3, 2, 28, 28))
    close(predictor.predict_proba(pixels), by_hand(path, pixels))
    close(predictor.predict_proba(pixels[0].transpose(1, 2, 0)), by_hand(path, pixels)[0])
    with pytest.raises(ValueError, match="a picture has 1 or 3 channels, the model takes 2"):
        predictor.predict(drawn("L", (28, 28)))
    with pytest.raises(ValueError, match="x must be an image of 2×28×28, got 3×28×28"):
        predictor.predict(noise((28, 28, 3)))


def test_files_that_tell_too_little(tmp_path):
    path = save(tmp_path / "m.safetensors", {name: GREY[name] for name in ("model", "arguments", "mean")})
    with pytest.raises(ValueError, match=r"m\.safetensors: the model's file lacks 'std'"):
        cnn.load(path)
    path = save(tmp_path / "m.safetensors", {name: GREY[name] for name in ("model", "arguments", "mean", "std")})
    assert cnn.load(path).scores(np.zeros((28, 28), np.uint8)).shape == (3,)
    with pytest.raises(ValueError, match="predict_proba: the model must have classes"):
        cnn.load(path).predict_proba(np.zeros((28, 28), np.uint8))
    path = save(tmp_path / "m.safetensors", GREY, mean=[0.1, 0.2])
    with pytest.raises(ValueError, match=r"m\.safetensors: mean in .* must have one value per channel, 1"):
        cnn.load(path)
    path = save(tmp_path / "m.safetensors", GREY, classes=["a", "b", "a"])
    with pytest.raises(ValueError, match=r"m\.safetensors: .*'a' is there twice"):
        cnn.load(path)
    with pytest.raises(FileNotFoundError, match="there is no such model file"):
        cnn.load(tmp_path)
    with pytest.raises(TypeError, match="Predictor: invert must be a bool, got 'no'"):
        cnn.load(save(tmp_path / "m.safetensors", GREY), "no")
    predictor = cnn.load(save(tmp_path / "m.safetensors", GREY, classes=["a", "b"]))
    with pytest.raises(ValueError, match="names 2 classes, its output has 3"):
        predictor.predict(noise((28, 28)))


def test_scores_that_are_no_numbers(tmp_path):
    predictor = cnn.load(save(tmp_path / "a", GREY))
    predictor.model[-1].bias.data = np.array([0, np.inf, 0], np.float32)
    with pytest.raises(FloatingPointError, match="scores are NaN or infinite"):
        predictor.predict(noise((28, 28)))


# ------------------------------------------------------------------------------------------ docs/serving.md


PAGE = Path(__file__).parents[1] / "docs" / "serving.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)


@pytest.fixture
def with_a_run(tmp_path, monkeypatch):
    """The current folder has the run, and the picture of a seven, that the page takes for granted."""
    monkeypatch.chdir(tmp_path)
    main(["train", "--epochs", "5", "--quiet"])
    test = cnn.data.load("mnist-sample")[1]
    seven = np.flatnonzero(test.labels == 7)[4]    # a plain one
    Image.fromarray(test.images[seven, 0]).save("digit.png")


def test_the_page_begins_with_two_lines_that_predict(with_a_run, capsys):
    assert len(BLOCKS[0].splitlines()) == 2
    exec(BLOCKS[0], {})
    assert capsys.readouterr().out == "7\n"


def test_the_page_does_what_its_comments_say(with_a_run):
    found = {}
    for block in BLOCKS[:-1]:
        exec(block, found)
    assert found["label"] == "7" and found["top"][0] == ("7", found["probability"]) and len(found["top"]) == 3
    assert len(found["labels"]) == len(found["digits"]) == 100
    assert found["probabilities"].shape == (100, 10) and found["probabilities"].dtype == np.float32


def test_the_web_service_of_the_page(with_a_run, tmp_path):
    pytest.importorskip("fastapi")
    pytest.importorskip("httpx")
    from fastapi.testclient import TestClient
    (tmp_path / "service.py").write_text(BLOCKS[-1])
    assert BLOCKS[-1].startswith("# service.py\n")
    service = runpy.run_path("service.py")
    client, picture = TestClient(service["app"]), Path("digit.png").read_bytes()
    assert client.get("/health").json() == {"status": "ok", "classes": list("0123456789")}
    answer = client.post("/predict?top=2", content=picture)
    wanted = cnn.load("runs/mnist-sample-lenet5-1").predict("digit.png", top=2)
    assert answer.status_code == 200 and answer.json()["label"] == "7"
    assert answer.json()["top"] == [list(pair) for pair in wanted.top]
    for content, query, status, words in ((b"hello", "", 422, "x: not a picture that can be read"),
                                          (b"", "", 422, "x: not a picture"),
                                          (picture, "?top=0", 422, "top must be an integer of at least 1"),
                                          (bytes(16 * 2**20 + 1), "", 413, "at most 16,777,216 bytes")):
        answer = client.post(f"/predict{query}", content=content)
        assert answer.status_code == status and words in answer.json()["detail"]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: client.post("/predict?top=2", content=picture).json(), range(40)))
    assert all(answer["top"] == [list(pair) for pair in wanted.top] for answer in answers)
