"""Images of one's own: folders of pictures, and .npz files."""

import io
import os
import sys
import warnings
import zipfile

import numpy as np
import pytest
from data_files import folder, picture, random_images, shades

from cnn.data import DataFileError, DataNotFoundError, DataWarning, load
from cnn.data.own import UnreadableFiles, read_npz
from cnn.data.pictures import find, read_picture

Image = pytest.importorskip("PIL.Image")


@pytest.fixture(autouse=True)
def no_other_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", ".*hold one value only")  # most pictures here are of one shade
        warnings.filterwarnings("ignore", ".*they are decoded anew")  # tests/test_data_decoded.py asks for these
        yield


# ------------------------------------------------------------------------------------------ one picture


def test_grey_and_rgb(tmp_path):
    red = picture(tmp_path / "red.png", (255, 0, 0), mode="RGB")
    assert np.array_equal(read_picture(red, 3, 8), np.stack([np.full((8, 8), v, np.uint8) for v in (255, 0, 0)]))
    grey = read_picture(red, 1, 8)
    assert grey.shape == (1, 8, 8) and grey.dtype == np.uint8 and (grey == 76).all()  # 0.299 * 255


@pytest.mark.parametrize("suffix", ["png", "jpg", "jfif", "bmp", "gif", "webp", "tif", "tiff", "ppm", "jp2",
                                    "avif"])
def test_formats(tmp_path, suffix):
    Image.init()
    if (kind := Image.EXTENSION.get(f".{suffix}")) not in Image.SAVE:
        pytest.skip(f"this Pillow writes no {kind}")
    found = read_picture(picture(tmp_path / "a" / f"x.{suffix}", (40, 120, 200), mode="RGB"), 3, 8)
    assert list(find(tmp_path)) == [str(tmp_path / "a" / f"x.{suffix}")]
    assert np.abs(found.astype(int) - np.array([40, 120, 200])[:, None, None]).max() <= 6


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif"])
def test_long_files_are_read_in_pieces(tmp_path, monkeypatch, suffix):
    path = tmp_path / f"x.{suffix}"
    Image.fromarray(random_images(1, (30, 30, 3))[0]).save(path)
    at_once = read_picture(path, 3, 30)
    monkeypatch.setattr("cnn.data.pictures._AT_ONCE", path.stat().st_size - 1)
    monkeypatch.setattr("cnn.data.pictures.io", None)       # a file's content would go through it
    assert np.array_equal(read_picture(path, 3, 30), at_once)
    assert np.array_equal(at_once, np.asarray(Image.open(path)).transpose(2, 0, 1))


def test_the_middle_is_cut_out(tmp_path):
    """20 x 10: five columns at either side fall away; 10 x 20 likewise."""
    pixels = np.zeros((10, 20), np.uint8)
    pixels[:, 5:15] = np.arange(100).reshape(10, 10)
    for array, name in ((pixels, "wide.png"), (pixels.T, "high.png")):
        Image.fromarray(array).save(tmp_path / name)
    wanted = np.arange(100).reshape(10, 10)
    assert np.array_equal(read_picture(tmp_path / "wide.png", 1, 10)[0], wanted)
    assert np.array_equal(read_picture(tmp_path / "high.png", 1, 10)[0], wanted.T)
    # a chequerboard of single pixels averages out when it shrinks, and nothing of the sides comes in
    Image.fromarray(np.tile(np.array([[0, 200], [200, 0]], np.uint8), (16, 40))).save(tmp_path / "fine.png")
    small = read_picture(tmp_path / "fine.png", 1, 4)
    assert small.shape == (1, 4, 4) and np.abs(small.astype(int) - 100).max() <= 20


def test_shapes_without_much_of_a_middle(tmp_path):
    for size in ((1, 1), (1, 300), (300, 1)):
        assert (read_picture(picture(tmp_path / "x.png", 9, size), 1, 16) == 9).all()


def test_large_jpeg(tmp_path):
    pixels = np.zeros((640, 960), np.uint8)
    pixels[:, 480:] = 240
    Image.fromarray(pixels).save(tmp_path / "x.jpg", quality=95)
    found = read_picture(tmp_path / "x.jpg", 1, 32)[0].astype(int)
    assert (found[:, :14] < 10).all() and (found[:, 18:] > 230).all()


@pytest.mark.parametrize(("orientation", "bright"), [(1, "top"), (3, "bottom"), (6, "right"), (8, "left")])
def test_exif_orientation(tmp_path, orientation, bright):
    """The stored top row is bright; EXIF says which side of the upright picture that is."""
    pixels = np.zeros((32, 32), np.uint8)
    pixels[:8] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(tmp_path / "x.jpg", exif=exif)
    found = read_picture(tmp_path / "x.jpg", 1, 32)[0].astype(int)
    sides = {"top": found[:4], "bottom": found[-4:], "left": found[8:-8, :4], "right": found[8:-8, -4:]}
    assert sides.pop(bright).min() > 200
    assert all(side[..., 8:-8].max(initial=0) < 50 for side in sides.values())


def test_broken_exif_is_passed_over(tmp_path):
    exif = b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + b"\x12\x01\x03\0" + b"\xff" * 40
    picture(tmp_path / "x.jpg", 77, exif=exif)
    assert np.abs(read_picture(tmp_path / "x.jpg", 1, 8).astype(int) - 77).max() <= 2


def test_transparent_is_white(tmp_path):
    half = np.zeros((8, 8, 4), np.uint8)
    half[:4, :, 3] = 255  # the upper half is black, the lower is not there, though red
    half[4:, :, 0] = 255
    Image.fromarray(half).save(tmp_path / "rgba.png")
    Image.fromarray(half).convert("LA").save(tmp_path / "la.png")
    palette = Image.new("P", (8, 8), 1)
    palette.putpalette([0, 0, 0, 255, 0, 0])
    palette.paste(0, (0, 0, 8, 4))
    palette.save(tmp_path / "p.png", transparency=1)
    for name in ("rgba.png", "la.png", "p.png"):
        for channels in (1, 3):
            found = read_picture(tmp_path / name, channels, 8)
            assert (found[:, :4] == 0).all() and (found[:, 4:] == 255).all(), name


def test_palette_bits_and_cmyk(tmp_path):
    palette = Image.new("P", (8, 8), 1)
    palette.putpalette([0, 0, 0, 10, 20, 30])
    palette.save(tmp_path / "p.png")
    assert read_picture(tmp_path / "p.png", 3, 8)[:, 0, 0].tolist() == [10, 20, 30]
    picture(tmp_path / "bits.png", 1, mode="1")
    assert (read_picture(tmp_path / "bits.png", 1, 8) == 255).all()
    picture(tmp_path / "cmyk.jpg", (0, 0, 0, 0), mode="CMYK")
    assert (read_picture(tmp_path / "cmyk.jpg", 3, 8) >= 250).all()


def test_sixteen_bits(tmp_path):
    pixels = np.full((8, 8), 0x1234, np.uint16)
    pixels[0] = 0xFFFF
    Image.fromarray(pixels).save(tmp_path / "x.png")
    found = read_picture(tmp_path / "x.png", 1, 8)[0]
    assert (found[0] == 255).all() and (found[1:] == 0x12).all()
    assert np.array_equal(read_picture(tmp_path / "x.png", 3, 8)[2], found)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("compression", [None, "tiff_lzw", "tiff_adobe_deflate"])
def test_tiff(tmp_path, dtype, compression):
    """Bits and compression do not matter; of several pages the first counts."""
    pixels = np.arange(64, dtype=np.uint8).reshape(8, 8) * 4
    factor = 257 if dtype == np.uint16 else 1
    pages = [Image.fromarray(page.astype(dtype) * dtype(factor)) for page in (pixels, 255 - pixels)]
    pages[0].save(tmp_path / "x.tif", save_all=True, append_images=pages[1:], compression=compression)
    assert np.array_equal(read_picture(tmp_path / "x.tif", 1, 8)[0], pixels)


def test_integers_of_an_unknown_range(tmp_path):
    for value in (70_000, -1):
        Image.fromarray(np.full((8, 8), value, np.int32)).save(tmp_path / "x.tif")
        words = f"x.tif: .*integers from {value} to {value}; convert it to 8 or 16 bits"
        with pytest.raises(DataFileError, match=words):
            read_picture(tmp_path / "x.tif", 1, 8)


def test_a_pillow_without_avif(tmp_path, monkeypatch):
    Image.init()
    monkeypatch.delitem(Image.OPEN, "AVIF", raising=False)
    assert (read_picture(picture(tmp_path / "x.png", 9), 1, 8) == 9).all()
    (tmp_path / "x.avif").write_bytes(b"\0\0\0\x1cftypavif")
    with pytest.raises(DataFileError, match="x.avif: not a picture that can be read"):
        read_picture(tmp_path / "x.avif", 1, 8)


def test_unreadable_pictures(tmp_path, monkeypatch):
    good = picture(tmp_path / "good.png", 3, (64, 64)).read_bytes()
    icon = io.BytesIO()
    Image.new("L", (8, 8)).save(icon, "ICO")
    for name, content in (("empty", b""), ("text", b"hello"), ("cut", good[:-30]), ("icon", icon.getvalue())):
        (tmp_path / f"{name}.png").write_bytes(content)
        with pytest.raises(ValueError, match=f"{name}.png: not a picture that can be read"):
            read_picture(tmp_path / f"{name}.png", 1, 8)
    for missing in (tmp_path / "nowhere.png", tmp_path):
        with pytest.raises(FileNotFoundError, match="there is no such file"):
            read_picture(missing, 1, 8)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    for size in ((10, 10), (11, 10), (50, 50)):
        picture(tmp_path / "size.png", 5, size)
        if size == (10, 10):
            assert (read_picture(tmp_path / "size.png", 1, 8) == 5).all()
        else:
            with pytest.raises(ValueError, match="size.png: .*pixels"):
                read_picture(tmp_path / "size.png", 1, 8)


def test_every_damaged_picture_is_read_or_refused(tmp_path):
    path = tmp_path / "x.png"
    for suffix, options in (("PNG", {}), ("JPEG", {"quality": 50})):
        buffer = io.BytesIO()
        Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(buffer, suffix, **options)
        whole = buffer.getvalue()
        for at in range(0, len(whole), 5):
            for damaged in (whole[:at], whole[:at] + bytes([whole[at] ^ 1 << at % 8]) + whole[at + 1 :]):
                path.write_bytes(damaged)
                try:
                    assert read_picture(path, 1, 8).shape == (1, 8, 8)
                except ValueError as error:
                    assert str(path) in str(error)


# ------------------------------------------------------------------------------------------ folders


def test_folder(tmp_path):
    train, held_out = load(folder(tmp_path / "animals", {"dog": 10, "cat": 5, "axolotl 2": 3}))
    assert train.classes == held_out.classes == ("axolotl 2", "cat", "dog")
    assert train.name == held_out.name == "animals"
    assert train.images.shape == (14, 1, 8, 8) and train.images.dtype == np.uint8
    every = {name: sorted(shades(train)[name] + shades(held_out)[name]) for name in train.classes}
    assert every == {"dog": list(range(1, 11)), "cat": list(range(11, 16)), "axolotl 2": [16, 17, 18]}
    assert {name: len(found) for name, found in shades(held_out).items()} == {"dog": 2, "cat": 1, "axolotl 2": 1}
    scaled = train.images / 255
    for part in (train, held_out):
        assert part.mean == pytest.approx((scaled.mean(),)) and part.std == pytest.approx((scaled.std(),))


def test_seed_decides_what_is_held_out(tmp_path):
    folder(tmp_path / "x", {"a": 20, "b": 20})
    found = [shades(load(str(tmp_path / "x"), seed=seed)[1]) for seed in (0, 0, 1)]
    assert found[0] == found[1] != found[2]


def test_few_images_of_a_class(tmp_path):
    train, held_out = load(folder(tmp_path / "x", {"many": 5, "one": 1, "two": 2}))
    assert [len(v) for v in shades(train).values()] == [4, 1, 2]
    assert [len(v) for v in shades(held_out).values()] == [1, 0, 0]
    with pytest.raises(DataFileError, match="too few images to test on any"):
        load(folder(tmp_path / "y", {"one": 1, "two": 2}))


@pytest.mark.parametrize(("sizes", "size"), [
    ([(8, 8)] * 6, 8),
    ([(8, 12), (20, 8), (8, 8), (8, 8), (9, 9), (10, 10)], 8),      # the shorter side of most
    ([(8, 8)] * 3 + [(9, 9)] * 3, 32),                              # no size that most have
    ([(64, 64)] * 6, 64),
    ([(65, 65)] * 6, 32),
])
def test_usual_image_size(tmp_path, sizes, size):
    for i, each in enumerate(sizes):
        picture(tmp_path / "ab"[i % 2] / f"{i}.png", i, each)
    assert load(tmp_path)[0].images.shape[2:] == (size, size)
    assert load(tmp_path, image_size=16)[0].images.shape[2:] == (16, 16)


def test_grey_if_all_are_grey(tmp_path):
    folder(tmp_path, {"a": 4, "b": 4})
    picture(tmp_path / "b" / "16.png", 0x7000, mode="I;16")
    assert load(tmp_path)[0].images.shape[1] == 1
    assert load(tmp_path, channels=3)[0].images.shape[1] == 3
    picture(tmp_path / "b" / "colour.jpg", (9, 9, 9), mode="RGB")
    train, held_out = load(tmp_path)
    assert train.images.shape[1] == held_out.images.shape[1] == 3
    assert load(tmp_path, channels=1)[0].images.shape[1] == 1


def test_a_channel_that_is_all_the_same(tmp_path):
    train, _ = load(folder(tmp_path, {"a": 4, "b": 4}, mode="RGB"))
    assert train.mean[1:] == (0, 0) and train.std[1:] == (1, 1)
    assert train.mean[0] == pytest.approx(train.images[:, 0].mean() / 255)


def test_train_and_test_folders(tmp_path):
    folder(tmp_path / "x" / "train", {"a": 2, "b": 3, "c": 1})
    folder(tmp_path / "x" / "val", {"b": 1})
    train, test = load(tmp_path / "x")
    assert shades(train) == {"a": [1, 2], "b": [3, 4, 5], "c": [6]} and shades(test) == {"a": [], "b": [1], "c": []}
    assert test.mean == train.mean == pytest.approx((3.5 / 255,))
    folder(tmp_path / "x" / "Test", {"a": 2})
    warnings.filterwarnings("ignore", ".*the pictures in val/ are not used here")
    assert shades(load(tmp_path / "x")[1]) == {"a": [1, 2], "b": [], "c": []}
    picture(tmp_path / "x" / "val" / "new" / "x.png")
    load(tmp_path / "x")  # val is not wanted here where there is test
    picture(tmp_path / "x" / "Test" / "new" / "x.png")
    with pytest.raises(DataFileError, match="Test: the class 'new' is not among those of .*train"):
        load(tmp_path / "x")


def test_train_can_be_a_class(tmp_path):
    train, _ = load(folder(tmp_path, {"bus": 3, "test": 3, "train": 3}))
    assert train.classes == ("bus", "test", "train")


def test_what_is_passed_over(tmp_path):
    folder(tmp_path, {"a": 3, "b": 3})
    picture(tmp_path / "a" / "deep" / "er" / "4.PNG", 200)      # belongs to a
    for name in (".hidden.png", "._4.png", "Thumbs.db", "labels.csv", "png"):
        (tmp_path / "a" / name).write_bytes(b"no picture")
    for name in ("a/.cache", "a/__MACOSX", ".git", "__MACOSX"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.png").write_bytes(b"no picture")
    (tmp_path / "readme.png").write_bytes(b"no picture")
    os.symlink(tmp_path / "b" / "0.png", tmp_path / "b" / "link.png")
    os.symlink(tmp_path, tmp_path / "a" / "round and round")
    with pytest.warns(DataWarning, match="passed over") as caught:
        train, held_out = load(tmp_path)
    (said,) = (str(each.message) for each in caught if "passed over" in str(each.message))
    assert said == (f"{tmp_path}: 4 files passed over: 1 .csv, 1 in no class's folder, 1 link to a folder, 1 without a "
                    "suffix; pictures are PNG, JPEG, BMP, GIF, WebP, TIFF, PPM, JPEG 2000, AVIF")
    assert sorted(shades(train)["a"] + shades(held_out)["a"]) == [1, 2, 3, 200]
    assert sorted(shades(train)["b"] + shades(held_out)["b"]) == [4, 4, 5, 6]


def test_a_class_can_be_a_link_to_a_folder(tmp_path):
    folder(tmp_path / "elsewhere", {"a": 3, "b": 3})
    (tmp_path / "here").mkdir()
    for name in "ab":
        os.symlink(tmp_path / "elsewhere" / name, tmp_path / "here" / name)
    assert len(load(tmp_path / "here")[0]) == 4


def test_unreadable_files_are_counted_and_named(tmp_path):
    folder(tmp_path, {"a": 4, "b": 4})
    whole = picture(tmp_path / "b" / "cut.png", 5, (64, 64)).read_bytes()
    (tmp_path / "b" / "cut.png").write_bytes(whole[:-30])   # its head can be read
    (tmp_path / "a" / "text.jpg").write_bytes(b"hello")
    os.symlink(tmp_path / "gone", tmp_path / "a" / "nowhere.png")
    os.mkfifo(tmp_path / "a" / "pipe.png")      # reading it would wait forever
    with pytest.warns(UnreadableFiles) as caught:
        warnings.filterwarnings("ignore", ".*hold one value only")
        train, held_out = load(tmp_path)
    assert sorted(sum(shades(train).values(), []) + sum(shades(held_out).values(), [])) == list(range(1, 9))
    assert len(caught) == 1 and "left out 4 file(s)" in str(caught[0].message)
    for name in ("b/cut.png", "a/text.jpg", "a/nowhere.png", "a/pipe.png"):
        assert f"{tmp_path / name}: " in str(caught[0].message)
    assert len(caught[0].message.files) == 4
    for i in range(20):
        (tmp_path / "a" / f"bad{i}.png").write_bytes(b"hello")
    with pytest.warns(UnreadableFiles, match="left out 24 file") as caught:
        warnings.filterwarnings("ignore", ".*hold one value only")
        load(tmp_path, cache=False)
    assert "and 14 more" in str(caught[0].message) and len(caught[0].message.files) == 24


def test_folders_that_will_not_do(tmp_path):
    def refused(path, *words, error=DataFileError):
        with pytest.raises(error) as caught:
            load(path)
        for word in (str(path), *words):
            assert word in str(caught.value), caught.value

    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "a sub-folder of pictures for each of two classes", "found none")
    refused(folder(tmp_path / "lonely", {"a": 3}), "two classes", "found a")
    refused(folder(tmp_path / "hollow", {"a": 0, "b": 0}), "no pictures", "PNG")
    refused(folder(tmp_path / "gap", {"a": 3, "b": 0, "c": 3}), "the class 'b' (label 1) has no training images")
    folder(tmp_path / "untested" / "train", {"a": 3, "b": 3})
    folder(tmp_path / "untested" / "test", {"a": 0})
    refused(tmp_path / "untested", "no pictures to test on")
    refused(folder(tmp_path / "odd", {"a\nb": 3, "c": 3}), r"'a\nb' names no class")
    if sys.platform == "linux":  # others have no such names
        (tmp_path / "odd bytes").mkdir()
        for name in (b"\xff", b"b"):
            os.mkdir(os.fsencode(tmp_path / "odd bytes") + b"/" + name)
        refused(tmp_path / "odd bytes", r"'\udcff' names no class")
    refused(tmp_path / "nowhere", "no such folder", error=DataNotFoundError)
    refused(tmp_path / "nowhere.npz", "no such folder", error=DataNotFoundError)


def test_arguments(tmp_path):
    folder(tmp_path, {"a": 3, "b": 3})
    for argument, value, error in (
        ("image_size", 0, ValueError), ("image_size", 4097, ValueError), ("image_size", 8.0, TypeError),
        ("image_size", "8", TypeError), ("channels", 2, ValueError), ("channels", "grey", ValueError),
        ("seed", -1, ValueError), ("seed", None, TypeError),
    ):  # fmt: skip
        with pytest.raises(error, match=f"load: {argument} must be .*{value}"):
            load(tmp_path, **{argument: value})


def test_named_data_sets_are_taken_as_they_are():
    assert load("mnist-sample", image_size=28, channels=1)[0].images.shape[1:] == (1, 28, 28)
    for wrong in ({"image_size": 32}, {"channels": 3}):
        with pytest.raises(ValueError, match="do not fit mnist-sample: its images are of 1x28x28"):
            load("mnist-sample", **wrong)


def test_without_pillow(tmp_path, monkeypatch):
    folder(tmp_path, {"a": 3, "b": 3})
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'cnn\[images\]'"):
        load(tmp_path)


# ------------------------------------------------------------------------------------------ arrays


PIXELS = np.random.default_rng(0).integers(0, 256, (20, 3, 6, 5), np.uint8)
LABELS = np.arange(20) % 4


def saved(path, save=np.savez, **arrays):
    save(path, **{"images": PIXELS, "labels": LABELS, **arrays})
    return path


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz(tmp_path, save):
    path = saved(tmp_path / "mine.npz", save, classes=["no", "yes", "perhaps", "möglich"])
    train, held_out = load(path)
    assert train.classes == ("no", "yes", "perhaps", "möglich") and train.name == "mine"
    assert np.bincount(train.labels).tolist() == [4] * 4 and np.bincount(held_out.labels).tolist() == [1] * 4
    together = np.concatenate([train.images, held_out.images]).reshape(20, -1)
    assert sorted(map(tuple, together)) == sorted(map(tuple, PIXELS.reshape(20, -1)))
    scaled = train.images / 255
    assert train.mean == held_out.mean == pytest.approx(scaled.mean((0, 2, 3)))
    assert train.std == held_out.std == pytest.approx(scaled.std((0, 2, 3)))


def test_layouts(tmp_path):
    for images, wanted in (
        (PIXELS, PIXELS), (PIXELS.transpose(0, 2, 3, 1), PIXELS), (PIXELS[:, 0], PIXELS[:, :1]),
        (PIXELS[:, :1], PIXELS[:, :1]), (np.asfortranarray(PIXELS), PIXELS),
    ):  # fmt: skip
        assert np.array_equal(read_npz(saved(tmp_path / "x.npz", images=images)).images, wanted)
    assert read_npz(tmp_path / "x.npz").classes == ("0", "1", "2", "3")


def test_npz_as_keras_ships_it(tmp_path):
    """mnist.npz is uint8 (N, 28, 28) with labels (N,); CIFAR's arrays are (N, 32, 32, 3) and (N, 1)."""
    rng = np.random.default_rng(3)
    for shape, column in (((28, 28), ()), ((32, 32, 3), (1,))):
        arrays = {}
        for use, n in (("train", 40), ("test", 20)):
            arrays[f"x_{use}"] = rng.integers(0, 256, (n, *shape), np.uint8)
            arrays[f"y_{use}"] = (np.arange(n) % 10).astype(np.uint8)
        arrays = {name: a.reshape(-1, *column) if name[0] == "y" else a for name, a in arrays.items()}
        np.savez(tmp_path / "mnist.npz", **arrays)
        train, test = load(tmp_path / "mnist.npz")
        for part, use in ((train, "train"), (test, "test")):
            wanted = arrays[f"x_{use}"]
            wanted = wanted.transpose(0, 3, 1, 2) if wanted.ndim == 4 else wanted[:, None]
            assert np.array_equal(part.images, wanted) and part.labels.tolist() == arrays[f"y_{use}"].ravel().tolist()
        assert train.classes == test.classes == tuple("0123456789")


def test_floats(tmp_path):
    pixels = np.random.default_rng(1).normal(1000, 2, (20, 6, 6))
    for dtype in (np.float64, np.float32, ">f8", np.float16):
        train, _ = load(saved(tmp_path / "x.npz", images=pixels.astype(dtype)))
        assert train.images.dtype == np.float32 and train.images.shape == (16, 1, 6, 6)
        exact = train.images.astype(np.float64)
        assert train.mean == pytest.approx((exact.mean(),)) and train.std == pytest.approx((exact.std(),))


class Bomb:
    def __reduce__(self):
        return os.mkdir, ("exploded",)


@pytest.mark.parametrize(("arrays", "words"), [
    ({"images": PIXELS.astype(np.int64)}, "images must be uint8 (0 to 255) or floats, not int64"),
    ({"images": PIXELS > 3}, "images must be uint8"),
    ({"images": PIXELS[0, 0]}, "images must be of shape"),
    ({"images": PIXELS[:, :, :3, :3]}, "with C from 1 to 4"),               # channels first or last?
    ({"images": np.zeros((20, 5, 6, 7), np.uint8)}, "with C from 1 to 4"),
    ({"images": np.full((20, 6, 6), np.nan)}, "finite"),
    ({"images": np.full((20, 6, 6), 1e300)}, "finite"),
    ({"images": np.zeros((20, 0, 6), np.uint8)}, "images must be"),
    ({"images": PIXELS[:19]}, "one per image"),
    ({"labels": LABELS.astype(float)}, "labels must be integers"),
    ({"labels": LABELS - 1}, "one is -1"),
    ({"labels": LABELS + 1}, "the class '0' (label 0) has no training images"),
    ({"labels": LABELS * 0}, "two classes"),
    ({"labels": LABELS * 10**12}, "too large"),
    ({"images": PIXELS[:0], "labels": LABELS[:0]}, "two classes"),
    ({"classes": ["a", "b", "c"]}, "from 0 to 2"),
    ({"classes": [1, 2, 3, 4]}, "classes must be strings"),
    ({"images": np.array([Bomb()] * 20)}, "unpickled"),
    ({"labels": np.array([Bomb()] * 20)}, "unpickled"),
])
def test_npz_that_will_not_do(tmp_path, monkeypatch, arrays, words):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataFileError) as caught:
        load(saved(tmp_path / "x.npz", **arrays))
    assert words in str(caught.value) and str(tmp_path / "x.npz") in str(caught.value)
    assert not (tmp_path / "exploded").exists()


def test_npz_and_what_is_wanted(tmp_path):
    path = saved(tmp_path / "x.npz", images=PIXELS[..., :5, :])
    assert load(path, image_size=5, channels=3)[0].images.shape[1:] == (3, 5, 5)
    for wrong in ({"image_size": 6}, {"channels": 1}):
        with pytest.raises(ValueError, match="its images are of 3x5x5"):
            load(path, **wrong)


def npy(header, content=b""):
    header = header.encode()
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + content


def zipped(path, compression=zipfile.ZIP_STORED, **members):
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, content in members.items():
            file.writestr(f"{name}.npy", content)
    return path


def test_hostile_npz(tmp_path):
    huge = "{'descr': '|u1', 'fortran_order': False, 'shape': (%s), }\n"
    good = io.BytesIO()
    np.save(good, PIXELS)
    path = tmp_path / "x.npz"

    def refused(words):
        with pytest.raises(DataFileError) as caught:
            read_npz(path)
        assert words in str(caught.value) and str(path) in str(caught.value)

    for shape in ("2**60,", f"{2**60},", f"{2**31}, {2**31}, {2**31}", "-5,", f"-{2**40}, -{2**40}", "20,"):
        zipped(path, images=npy(huge % shape, b"1234"), labels=b"")
        refused("")
    zipped(path, images=npy(huge % f"{2**40},", b"1234"), labels=b"")
    refused("bytes")
    zipped(path, zipfile.ZIP_BZIP2, images=good.getvalue(), labels=b"")
    refused("compressed in a way")
    zipped(path, images=good.getvalue() + b"more", labels=b"")
    refused("images is not")
    zipped(path, labels=good.getvalue())
    refused("no array 'images' in it, but labels.npy")
    for content in (b"", b"PK\x03\x04", good.getvalue(), b"\x80\x04N."):
        path.write_bytes(content)
        refused("not a readable .npz file")


@pytest.mark.thorough
def test_every_damaged_npz_is_refused_or_read_as_it_was(tmp_path):
    path = tmp_path / "x.npz"
    for save in (np.savez, np.savez_compressed):
        saved(path, save, images=PIXELS[:3, :, :, :], labels=LABELS[:3], classes=["a", "b", "c"])
        whole, wanted = path.read_bytes(), read_npz(path)
        refused = 0
        for at in range(len(whole)):
            flipped = whole[:at] + bytes([whole[at] ^ 1 << at % 8]) + whole[at + 1 :]
            for damaged in (whole[:at], flipped):
                path.write_bytes(damaged)
                try:
                    found = read_npz(path)
                except DataFileError as error:
                    refused += str(path) in str(error)
                else:
                    # the classes are optional, so their name may be lost; and with it nothing else
                    assert np.array_equal(found.images, wanted.images) and np.array_equal(found.labels, wanted.labels)
        assert refused > len(whole)
