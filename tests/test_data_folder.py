"""Folders of pictures: validation folders, what loading says of odd ones, and errors that name the right thing."""

import gzip
import os
import warnings

import numpy as np
import pytest
from data_files import folder, idx_bytes, picture, shades

import cnn
from cnn.commands import main
from cnn.data import DataFileError, DataNotFoundError, DataWarning, load, load_parts
from cnn.data.own import UnreadableFiles
from cnn.data.pictures import read_picture
from cnn.prediction import files
from cnn.reports import evaluation
from cnn.runs import run
from cnn.runs.settings import anywhere, defaults

Image = pytest.importorskip("PIL.Image")
RNG = np.random.default_rng(0)
ABOUT_SAME = ".*hold one value only"
pytestmark = pytest.mark.filterwarnings("ignore::cnn.data.DataWarning")


def said(load, path, **options):
    """What loading warns of, without the pictures of one shade that most tests here use."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warnings.filterwarnings("ignore", ABOUT_SAME)
        load(path, **options)
    assert all(isinstance(each.message, DataWarning) for each in caught)
    return [str(each.message).removeprefix(f"{path}: ") for each in caught]


def noisy(path, n=3, size=(16, 16)):
    """Pictures that are not of one shade."""
    path.mkdir(parents=True)
    for i in range(n):
        Image.fromarray(RNG.integers(0, 256, size, np.uint8)).save(path / f"{i}.png")


def three_parts(path, validation="val"):
    folder(path / "train", {"a": 2, "b": 3})
    folder(path / validation, {"b": 1, "a": 1})
    folder(path / "test", {"a": 2})
    return path


# ------------------------------------------------------------------------------------------ validation


@pytest.mark.parametrize("name", ["val", "valid", "validation", "Val"])
def test_validation_folder(tmp_path, name):
    path = three_parts(tmp_path / "x", name)
    assert said(load_parts, path) == []
    train, validation, test = load_parts(path)
    assert shades(train) == {"a": [1, 2], "b": [3, 4, 5]}
    assert shades(validation) == {"a": [2], "b": [1]} and shades(test) == {"a": [1, 2], "b": []}
    assert validation.mean == test.mean == train.mean and validation.std == train.std
    assert (train.name, validation.name, test.name) == ("x", f"x/{name}", "x")
    assert said(load, path) == [f"the pictures in {name}/ are not used here; cnn.data.load_parts returns them, too"]
    assert [shades(part) for part in load(path)] == [shades(train), shades(test)]


def test_without_a_test_folder_the_validation_folder_is_tested_on(tmp_path):
    folder(tmp_path / "x" / "train", {"a": 2, "b": 3})
    folder(tmp_path / "x" / "valid", {"b": 1})
    assert said(load, tmp_path / "x") == []
    train, validation, test = load_parts(tmp_path / "x")
    assert validation is None and shades(test) == {"a": [], "b": [1]} and test.name == "x/valid"


def test_named_data_sets_have_no_validation_set():
    train, validation, test = load_parts("mnist-sample")
    assert validation is None and (len(train), len(test)) == (4000, 1000)


def test_validation_does_not_change_what_is_trained_on(tmp_path):
    """Size and channels are chosen from all pictures, whether the validation set is wanted or not."""
    path = three_parts(tmp_path / "x")
    for i in range(20):
        picture(path / "val" / "a" / f"large{i}.png", 3, (20, 20), "RGB" if i == 0 else "L")
    (train, _), (same, _, _) = load(path), load_parts(path)
    assert train.images.shape[1:] == same.images.shape[1:] == (3, 20, 20)


def test_validation_folders_that_will_not_do(tmp_path):
    path = three_parts(tmp_path / "x")
    picture(path / "val" / "new" / "x.png")
    with pytest.raises(DataFileError, match="val: the class 'new' is not among those of .*train"):
        load_parts(path)
    path = three_parts(tmp_path / "y")
    folder(path / "validation", {"a": 1})
    with pytest.raises(DataFileError, match="y: holds 'val' and 'validation', of which one only can be used"):
        load(path)
    folder(tmp_path / "z" / "train", {"a": 2, "b": 3})
    folder(tmp_path / "z" / "test", {"a": 1})
    folder(tmp_path / "z" / "val", {"a": 0})
    with pytest.raises(DataFileError, match="no pictures to validate on"):
        load_parts(tmp_path / "z")


def test_train_and_test_beside_another_folder(tmp_path):
    """Taken for three classes, they would teach to tell the training from the test pictures."""
    path = three_parts(tmp_path / "x")
    folder(path / "spare", {"a": 2})
    with pytest.raises(DataFileError, match="x: holds train, validation, test with classes in them, but 'spare' as"):
        load(path)


def test_a_run_measures_each_epoch_on_the_validation_folder(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for part, n in (("train", 12), ("val", 5), ("test", 6)):
        for name in ("a", "b"):
            noisy(tmp_path / "set" / part / name, n)
    main(["train", "--dataset", "set", "--epochs", "3", "--patience", "1", "--min-delta", "9",
          "--label-smoothing", "0", "--out", "one"])
    out = capsys.readouterr().out
    assert "24 training, 10 validation (set/val), 12 test images of 1x16x16, " in out
    history = cnn.history.History.load(tmp_path / "one" / "history.csv")
    assert history.column("epoch") == [1, 2] and np.isfinite(history.column("val_loss")).all()
    model, description = cnn.load_model(tmp_path / "one" / "best.safetensors")
    _, validation, test = load_parts(tmp_path / "set")
    measured = evaluation.evaluate(model, evaluation.as_trained(validation, description))
    assert measured.loss == pytest.approx(history[0]["val_loss"], rel=1e-5)
    assert len(evaluation.load_data(description)) == len(test) == 12
    assert not capsys.readouterr().err
    settings = run.replace(run.Settings(), dataset="set", epochs=1, validation_fraction=0.5)
    with pytest.raises(ValueError, match=r"train: validation fraction must be 0, because set .* \(set/val\), got 0.5"):
        run.train(settings, tmp_path / "two", quiet=True)
    os.rename(tmp_path / "set" / "val", tmp_path / "val")
    with pytest.raises(ValueError, match="patience by val_loss needs a validation fraction above 0, or images in val"):
        run.train(run.replace(settings, validation_fraction=0.0, patience=1), tmp_path / "two", quiet=True)
    assert not (tmp_path / "two").exists()


def test_a_run_with_a_validation_folder_is_resumed_to_the_same_bits(tmp_path, capsys):
    for part, n in (("train", 12), ("val", 5), ("test", 6)):
        for name in ("a", "b"):
            noisy(tmp_path / "set" / part / name, n)
    settings = run.replace(defaults(str(tmp_path / "set")), epochs=3, checkpoint_every="epoch", patience=9)
    folder, wanted = tmp_path / "run", run.train(settings, tmp_path / "run", quiet=True)

    def go_back():
        (folder / "summary.json").unlink()
        (folder / "checkpoints" / "step-00000003.safetensors").unlink()

    best, history = (folder / "best.safetensors").read_bytes(), cnn.history.History.load(folder / "history.csv")
    go_back()
    assert run.resume(folder)["digest"] == wanted["digest"]
    assert "24 training, 10 validation, 12 test" in (folder / "config.toml").read_text()
    assert "begun with" not in capsys.readouterr().out
    assert (folder / "best.safetensors").read_bytes() == best
    assert cnn.history.History.load(folder / "history.csv").results() == history.results()
    go_back()
    noisy(tmp_path / "set" / "val" / "a" / "more", 1)
    run.resume(folder)
    assert ("begun with images 24 training, 10 validation, 12 test, gone on with 24 training, 11 validation, 12 test: "
            "the bits may differ") in capsys.readouterr().out


# ------------------------------------------------------------------------------------------ told, and gone on


def test_files_passed_over_are_counted_by_kind(tmp_path):
    folder(tmp_path, {"a": 3, "b": 3})
    for i in range(10):
        (tmp_path / "ab"[i % 2] / f"{i}.PSD").write_bytes(b"8BPS")
    (tmp_path / "a" / "deep").mkdir()
    for name in ("a/x.txt", "a/deep/y.txt", "a/Thumbs.db", "b/desktop.ini", "b/.hidden", "labels.csv"):
        (tmp_path / name).write_bytes(b"")
    assert said(load, tmp_path) == [
        "12 files passed over: 10 .psd, 2 .txt; pictures are PNG, JPEG, BMP, GIF, WebP, TIFF, PPM, JPEG 2000, AVIF"]


def test_one_file_passed_over(tmp_path):
    folder(tmp_path / "x", {"a": 3, "b": 3})
    picture(tmp_path / "x" / "stray.png")
    assert said(load, tmp_path / "x")[0].startswith("1 file passed over: 1 in no class's folder; ")


def test_many_kinds_are_cut_short(tmp_path):
    folder(tmp_path, {"a": 3, "b": 3})
    for i in range(13):
        (tmp_path / "a" / f"x.{i:02d}").write_bytes(b"")
    assert "1 .00, 1 .01, " in said(load, tmp_path)[0] and " 1 .09 and 3 more kinds;" in said(load, tmp_path)[0]


def sixteen_bits(path, highest):
    pixels = np.zeros((8, 8), np.uint16)
    pixels[2:5] = highest
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


@pytest.mark.parametrize(("highest", "words"), [
    (255, ["6 picture(s) become black, because their 16 bits hold no value of 256 or more; multiply the values so "
           "that they reach 65535: "]),
    (4095, ["pictures of 16 bits become almost black, because they hold no value above 4095; multiply"]),
    (4096, []), (65535, []),
])
def test_sixteen_bits_that_hold_small_values(tmp_path, highest, words):
    for i in range(6):
        sixteen_bits(tmp_path / "ab"[i % 2] / f"{i}.png", highest)
    heard = said(load, tmp_path)
    assert len(heard) == len(words) and all(text.startswith(start) for text, start in zip(heard, words, strict=True))
    assert highest > 255 or str(tmp_path / "b" / "3.png") in heard[0]


def test_one_dark_picture_among_bright_ones(tmp_path):
    for i in range(6):
        sixteen_bits(tmp_path / "ab"[i % 2] / f"{i}.png", 100 if i == 4 else 60000)
    (text,) = said(load, tmp_path)
    assert text.startswith("1 picture(s) become black") and text.endswith(str(tmp_path / "a" / "4.png"))


def test_a_dark_picture_to_classify(tmp_path):
    sixteen_bits(tmp_path / "dark.png", 255)
    with pytest.warns(DataWarning, match="dark.png: becomes black, because its 16 bits hold no value above 255"):
        assert (read_picture(tmp_path / "dark.png", 1, 8) == 0).all()


def test_constant_pictures_are_counted_and_named(tmp_path):
    for name in ("a", "b"):
        noisy(tmp_path / name, 5)
    for i in range(12):
        picture(tmp_path / "a" / f"same{i:02d}.png", 7, (16, 16))
    with pytest.warns(DataWarning) as caught:
        load(tmp_path)
    (text,) = (str(each.message) for each in caught)
    assert text.startswith(f"{tmp_path}: 12 picture(s) hold one value only, from which nothing can be learnt: ")
    assert str(tmp_path / "a" / "same09.png") in text and "same10" not in text and text.endswith("and 2 more")


def test_pictures_of_one_pixel_are_not_constant(tmp_path):
    folder(tmp_path, {"a": 3, "b": 3})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load(tmp_path, image_size=1)


def test_names_with_escape_codes_are_written_out(tmp_path):
    folder(tmp_path, {"a": 3, "b": 3})
    (tmp_path / "a" / "\x1b[31mred.png").write_bytes(b"hello")
    (tmp_path / "a" / "x.\x1b]0;").write_bytes(b"hello")
    with pytest.warns(UnreadableFiles) as caught:
        load(tmp_path)
    heard = "\n".join(str(each.message) for each in caught)
    assert r"\x1b[31mred.png: not a picture" in heard and r"1 .\x1b]0;" in heard and "\x1b" not in heard


def test_predict_names_what_it_passes_over_in_a_folder(tmp_path):
    picture(tmp_path / "some" / "x.png")
    (tmp_path / "some" / "y.psd").write_bytes(b"")
    with pytest.warns(DataWarning, match="some: passed over 1 .psd"):
        assert files.picture_files([tmp_path / "some"]) == [(tmp_path / "some" / "x.png", None)]
    os.unlink(tmp_path / "some" / "x.png")
    ((_, reason),) = files.picture_files([tmp_path / "some"])
    assert reason.endswith("some: no picture is in this folder, but 1 .psd")


# ------------------------------------------------------------------------------------------ refused


def refused(path, *words, error=DataFileError):
    with warnings.catch_warnings(), pytest.raises(error) as caught:
        warnings.simplefilter("ignore")
        load(path)
    for word in words:
        assert word in str(caught.value), caught.value
    assert str(caught.value).replace("\n", "").isprintable()


def test_a_class_of_other_files(tmp_path):
    folder(tmp_path, {"a": 3, "b": 0})
    for i in range(3):
        (tmp_path / "b" / f"{i}.psd").write_bytes(b"8BPS")
    refused(tmp_path, "the class 'b' (label 1) has no training images (PNG, JPEG, ", "); found 3 .psd")


def test_pictures_of_other_kinds_only(tmp_path):
    folder(tmp_path, {"a": 0, "b": 0})
    (tmp_path / "b" / "x.psd").write_bytes(b"8BPS")
    refused(tmp_path, "there are no pictures that can be read (PNG, JPEG, ", "); found 1 .psd")


@pytest.mark.parametrize(("name", "content", "words"), [
    ("x.png", None, "is a picture. A data set is a folder with one sub-folder of pictures a class, or an .npz file"),
    ("x", b"\xff\xd8\xff\xe0", "is a picture."),
    ("x.jpg", b"", "is a picture."),
    ("x.tif", b"II*\0", "is a picture."),
    ("x.npy", b"\x93NUMPY\1\0", "is a single array; numpy.savez("),
    ("x.tar.gz", gzip.compress(b"", mtime=0), "is a packed file; unpack it."),
    ("train-images-idx3-ubyte", idx_bytes(np.zeros((1, 2, 2))), "is an IDX file; give the name of its data set"),
    ("x.csv", b"a,b\n", "is neither a folder nor an .npz file. A data set is"),
])
def test_files_that_are_no_data_set(tmp_path, name, content, words):
    if content is None:
        picture(tmp_path / name)
    else:
        (tmp_path / name).write_bytes(content)
    refused(tmp_path / name, f"{tmp_path / name}: {words}")


def test_an_archive_of_pictures(tmp_path):
    import zipfile

    with zipfile.ZipFile(tmp_path / "flowers.zip", "w") as file:
        file.writestr("daisy/\x1b[31m.png", b"")
    refused(tmp_path / "flowers.zip", "there is no array 'images' in it, but daisy/\\x1b[31m.png; is it an archive of "
                                      "pictures? Then unpack it")


def test_folders_that_are_no_data_set(tmp_path):
    picture(tmp_path / "flat" / "x.png")
    refused(tmp_path / "flat", "found none; the pictures lie in no class's folder: move them into one for each class")
    folder(tmp_path / "twice" / "flowers", {"a": 3, "b": 3})
    refused(tmp_path / "twice", f"found flowers; did you mean {tmp_path / 'twice' / 'flowers'}?")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.toml").write_bytes(b"")
    refused(tmp_path / "run", "this is the folder of a run")
    (tmp_path / "idx").mkdir()
    (tmp_path / "idx" / "train-images.idx3-ubyte").write_bytes(b"")
    refused(tmp_path / "idx", "give the name of the data set, as mnist or cifar10, and this folder as data_dir")
    (tmp_path / "holder").mkdir()
    (tmp_path / "holder" / "mine.npz").write_bytes(b"")
    refused(tmp_path / "holder", f"did you mean {tmp_path / 'holder' / 'mine.npz'}?")
    os.mkfifo(tmp_path / "pipe")
    refused(tmp_path / "pipe", "pipe: is neither a folder nor a file, but a pipe or a device")


def test_names_that_are_nearly_right():
    for wrong, right in (("minst", "mnist"), ("MNIST", "mnist"), ("cifar-10", "cifar10"), ("fashion_mnist",) * 2):
        with pytest.raises(ValueError, match=f"did you mean '{right.replace('_', '-')}'"):
            load(wrong)
    for wrong in ("zebra", "", None):
        with pytest.raises(ValueError, match="not .*") as caught:
            load(wrong)
        assert "did you mean" not in str(caught.value)


def test_homes_that_are_not_there(tmp_path, monkeypatch):
    refused("~nosuchuser/flowers", "~nosuchuser/flowers: there is no user 'nosuchuser'", error=DataNotFoundError)
    monkeypatch.setenv("HOME", str(tmp_path))
    folder(tmp_path / "flowers", {"a": 3, "b": 3})
    assert len(load("~/flowers")[0]) == 4
    settings = anywhere(run.replace(run.Settings(), dataset="~/flowers", data_dir="~/x"))
    assert (settings.dataset, settings.data_dir) == (str(tmp_path / "flowers"), str(tmp_path / "x"))


@pytest.mark.parametrize(("arguments", "words"), [
    (["--cutout", "100"], "cnn train: cutout must be below 28, the side of the images, got 100\n"),
    (["--cutout", "28"], "cutout must be below 28"),
    (["--shift", "28"], "shift must be below 28"),
    (["--shift", "30", "--shift-mode", "reflect"], "shift must be below 28"),
    (["--data-dir", "~nosuchuser", "--dataset", "mnist"], "data-dir: ~nosuchuser: there is no user 'nosuchuser'"),
    (["--dataset", "x.png"], "cnn train: x.png: is a picture. "),
])
def test_refused_at_the_start(tmp_path, monkeypatch, capsys, arguments, words):
    monkeypatch.chdir(tmp_path)
    picture(tmp_path / "x.png")
    with pytest.raises(SystemExit) as end:
        main(["train", *arguments])
    assert end.value.code == (2 if "--data-dir" in arguments else 1) and words in capsys.readouterr().err
    assert os.listdir(tmp_path) == ["x.png"]
