"""Hostile files: what they claim is not believed, and they cost an error that names them, not memory or time."""

import gzip
import hashlib
import io
import os
import struct
import tarfile
import zipfile
import zlib

import numpy as np
import pytest
from data_files import idx_bytes, md5, packed, pickled_array, pickled_labels, picture, short_string, tar_gz

from cnn.data import DataFileError, cifar, limits, load, load_parts, read_idx
from cnn.data.npz import read_npz, read_npz_parts
from cnn.data.pictures import MOST_PIXELS, read_picture

PIXELS = np.arange(12 * 64, dtype=np.uint8).reshape(12, 8, 8)
LABELS = np.arange(12) % 3


def refused(read, path, *words):
    with pytest.raises(DataFileError) as caught:
        read(path)
    for word in (str(path), *words):
        assert word in str(caught.value), caught.value
    assert str(caught.value).isprintable()


# ------------------------------------------------------------------------------------------ the limits themselves


def test_how_much_a_file_may_unpack_to():
    """deflate's own limit for small files, then 128 MiB, then a hundred times the file."""
    assert limits.most_unpacked(10) == 10320
    assert limits.most_unpacked(2**20) == 2**27
    assert limits.most_unpacked(2**27) == 100 * 2**27


def test_more_memory_than_there_is():
    with pytest.raises(DataFileError, match=r"x: 1,152,921,504,606,846,976 bytes do not fit into the memory"):
        limits.empty_bytes("x", 2**60)
    with pytest.raises(DataFileError, match="do not fit"):
        limits.empty_bytes("x", 2**80)


def test_sha256_is_checked_beside_md5(monkeypatch, tmp_path):
    content = idx_bytes(PIXELS)
    path = tmp_path / "x"
    path.write_bytes(content)
    monkeypatch.setitem(limits.SHA256, md5(content), hashlib.sha256(content).hexdigest())
    assert np.array_equal(read_idx(path, md5(content)), PIXELS)
    monkeypatch.setitem(limits.SHA256, md5(content), "0" * 64)  # as of another file that was made to have this MD5
    with pytest.raises(DataFileError, match=f"its SHA-256 unpacked is {hashlib.sha256(content).hexdigest()}"):
        read_idx(path, md5(content))


# ------------------------------------------------------------------------------------------ pipes and devices


@pytest.mark.parametrize("read", [read_idx, read_npz])
def test_pipes_and_devices_are_refused(tmp_path, read):
    os.mkfifo(tmp_path / "pipe")  # opening it would wait forever
    refused(read, tmp_path / "pipe", "is no regular file but a pipe or a device")
    refused(read, "/dev/zero", "is no regular file")
    with pytest.raises(IsADirectoryError):
        read(tmp_path)
    with pytest.raises(FileNotFoundError):
        read(tmp_path / "nowhere")


# ------------------------------------------------------------------------------------------ IDX


def header(*sizes, kind=8):
    return struct.pack(f">HBB{len(sizes)}I", 0, kind, len(sizes), *sizes)


def test_a_gzip_bomb_is_refused_by_its_header(tmp_path):
    path = tmp_path / "bomb.gz"
    squeeze = zlib.compressobj(9, wbits=31)
    with open(path, "wb") as file:  # 300 MB of zeros in 300 kB
        file.write(squeeze.compress(header(300 * 2**20)))
        for _ in range(4):
            file.write(squeeze.compress(bytes(2**20)))
        file.write(squeeze.flush() + bytes(2**18))
    refused(read_idx, path, "314572800 numbers = 314572800 bytes, but a file of", " may unpack to 134217728 at most")


@pytest.mark.parametrize("pack", [bytes, packed])
@pytest.mark.parametrize("kind", [0x08, 0x0E])
def test_headers_that_promise_more_than_there_is(tmp_path, pack, kind):
    path = tmp_path / "x"
    for sizes in ((2**32 - 1,) * 4, (2**31, 2), (100,)):
        path.write_bytes(pack(header(*sizes, kind=kind) + b"1234"))
        refused(read_idx, path, "promises")


@pytest.mark.parametrize("dtype", [">i2", ">i4", ">f4", ">f8"])
def test_numbers_are_turned_in_place(tmp_path, dtype):
    kind = {">i2": 0x0B, ">i4": 0x0C, ">f4": 0x0D, ">f8": 0x0E}[dtype]
    values = (np.arange(24) * 1000 - 7).astype(dtype).reshape(2, 3, 4)
    (tmp_path / "x").write_bytes(header(2, 3, 4, kind=kind) + values.tobytes())
    found = read_idx(tmp_path / "x")
    assert np.array_equal(found, values) and found.dtype == values.dtype.newbyteorder("=")


# ------------------------------------------------------------------------------------------ CIFAR


def read_pickle(raw, size=1):
    return cifar.read_batch(b"\x80\x02" + raw, "x", size, "labels", 10)


def test_deeply_nested_keys_are_not_hashed():
    """The hash of a tuple in a tuple, and so on, takes stack at each level; enough of them end the process."""
    for entry in (b"%bK\x01s.", b"(%bK\x01u."):
        with pytest.raises(DataFileError, match="is not a CIFAR batch: it holds a dict with other keys than texts"):
            read_pickle(b"}" + entry % (b"K\x01" + b"\x85" * 100_000), size=10_000)


@pytest.mark.parametrize("raw", [
    b"]" + short_string(b"a") + b"K\x01s.",     # an item of a list
    b"}(" + short_string(b"a") + b"u.",         # a key without a value
    b"}K\x01s.",
    b"s.", b"u.", b"(u.",
])
def test_dictionaries_that_are_none(raw):
    with pytest.raises(DataFileError, match="x: is not a CIFAR batch"):
        read_pickle(raw)


def test_a_batch_may_be_filled_item_by_item():
    images = bytes(range(256)) * 12
    raw = (b"}" + short_string(b"data") + pickled_array(images, (1, 3072)) + b"s"
           + short_string(b"labels") + pickled_labels([7]) + b"s.")
    pixels, labels = read_pickle(raw)
    assert pixels.tobytes() == images and labels.tolist() == [7]


def test_an_archive_of_very_many_members_is_not_searched(tmp_path):
    path = tmp_path / "x.tar.gz"
    path.write_bytes(tar_gz([(f"{i}", b"") for i in range(1001)]))
    with pytest.raises(DataFileError, match="refused, it has more than 1000 members"):
        cifar.read_cifar([path], {"a": "", "b": ""}, 1, 1, "labels", 10)


def test_a_sparse_member_does_not_grow(tmp_path):
    path, info = tmp_path / "x.tar.gz", tarfile.TarInfo("a")
    info.size = 2**33
    with gzip.open(path, "wb") as file:
        file.write(info.tobuf())
    with pytest.raises(DataFileError, match="member 'a': refused, its size is 8589934592 bytes"):
        cifar.read_cifar([path], {"a": "", "b": ""}, 1, 1, "labels", 10)


# ------------------------------------------------------------------------------------------ npz


def saved(path, save=np.savez, **arrays):
    save(path, **{"images": PIXELS, "labels": LABELS, **arrays})
    return path


def test_all_members_share_one_limit(tmp_path, monkeypatch):
    path = saved(tmp_path / "x.npz", np.savez_compressed, images=np.zeros((12, 100, 100), np.uint8))
    assert len(read_npz(path)) == 12
    monkeypatch.setattr("cnn.data.npz.most_unpacked", lambda size: 120_000 + LABELS.nbytes - 1)
    refused(read_npz, path, "labels promises (12,) of int64, 96 bytes, but there can be 95 at most")


def test_a_member_that_claims_a_size_of_its_own(tmp_path):
    """Both the zip's directory and the array's header say 2 GB."""
    path = tmp_path / "x.npz"
    text = b"{'descr': '|u1', 'fortran_order': False, 'shape': (2147483648,), }\n"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("images.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + b"1234")
        file.writestr("labels.npy", b"")
        file.filelist[0].file_size = 2**31 + 100
    refused(read_npz, path, "images promises (2147483648,) of uint8")


@pytest.mark.parametrize("codes", [[0xD800], [0x110000], [0xFFFFFFFF]])
def test_class_names_that_are_no_text(tmp_path, codes):
    names = np.frombuffer(np.array([97, 98, *codes], "<u4").tobytes(), "<U1")
    refused(read_npz, saved(tmp_path / "x.npz", classes=names), "classes must be text")


def test_class_names_with_escape_codes_are_kept_and_never_shown_raw(tmp_path):
    names = ["\x1b[31mred", "green", "blue"]
    path = saved(tmp_path / "x.npz", classes=names)
    assert load(path)[0].classes == tuple(names)
    refused(load, saved(path, classes=names, labels=LABELS % 2 + 1), r"the class '\x1b[31mred' (label 0) has no")
    refused(load, saved(path, classes=names[:1], labels=LABELS * 0), r"found \x1b[31mred")
    refused(load, saved(path, classes=[names[0], "b", names[0]]), r"'\x1b[31mred' is there twice")


def test_array_names_with_escape_codes(tmp_path):
    path = tmp_path / "x.npz"
    np.savez(path, **{"\x1b[31m": PIXELS})
    refused(load, path, r"there is no array 'images' in it, but \x1b[31m.npy")
    with pytest.warns(match=r"passed over the array\(s\) \\x1b\[31m"):
        load(saved(path, **{"\x1b[31m": PIXELS}))


@pytest.mark.parametrize("names", [
    ("images", "labels", "val_images", "val_labels", "test_images", "test_labels"),
    ("train_images", "train_labels", "valid_images", "valid_labels", "test_images", "test_labels"),
    ("x_train", "y_train", "x_val", "y_val", "x_test", "y_test"),
])
def test_parts_of_an_npz(tmp_path, names):
    path = tmp_path / "x.npz"
    arrays = (PIXELS, LABELS, PIXELS[:5] + 1, LABELS[:5, None], PIXELS[:3] + 2, LABELS[:3] % 2)
    np.savez(path, **dict(zip(names, arrays, strict=True)))
    train, validation, test = load_parts(path)
    assert [part.images[:, 0].tolist() for part in (train, validation, test)] == [a.tolist() for a in arrays[::2]]
    assert validation.labels.tolist() == LABELS[:5].tolist() and test.labels.tolist() == [0, 1, 0]
    assert train.classes == validation.classes == test.classes == ("0", "1", "2")
    assert train.mean == validation.mean == test.mean == pytest.approx((PIXELS.mean() / 255,))
    with pytest.warns(match="its validation images are not used here"):
        assert [len(part) for part in load(path)] == [12, 3]


def test_parts_of_an_npz_that_do_not_fit(tmp_path):
    path = tmp_path / "x.npz"
    refused(load, saved(path, val_images=PIXELS), "there is no array 'val_labels' in it, but images.npy, ")
    refused(load, saved(path, x_train=PIXELS, y_train=LABELS),
            "holds images and x_train; which are the training images?")
    refused(load, saved(path, test_images=PIXELS[:, :6], test_labels=LABELS),
            "test_images holds (6, 8) of uint8 an image, but those to train on are (8, 8) of uint8")
    refused(load, saved(path, test_images=PIXELS, test_labels=LABELS + 3), "class '3' (label 3) has no training images")
    refused(load_parts, saved(path, val_images=PIXELS[:0], val_labels=LABELS[:0]), "too few images to validate on any")


def test_a_channel_that_is_the_same_all_over_is_not_blown_up(tmp_path):
    """13 * 81 times 7 / 255, divided by as many, is not quite 7 / 255."""
    images = np.arange(16 * 162).astype(np.uint8).reshape(16, 2, 9, 9)
    images[:, 0] = 7
    train, _ = load(saved(tmp_path / "x.npz", images=images, labels=np.arange(16) % 3))
    assert len(train) == 13 and train.std[0] == 1
    assert np.abs(train.normalise(train.images)[:, 0]).max() < 1e-6


def test_constant_images_of_an_npz_are_counted(tmp_path):
    images = PIXELS.copy()
    images[[3, 7]] = 5
    with pytest.warns(match="2 of 12 images hold one value only, from which nothing can be learnt: 3, 7$"):
        load(saved(tmp_path / "x.npz", images=images))


def test_reading_the_parts_tells_what_was_passed_over(tmp_path):
    (train, validation, test), passed_over = read_npz_parts(saved(tmp_path / "x.npz", weights=LABELS))
    assert (len(train), validation, test, passed_over) == (12, None, None, ["weights"])


# ------------------------------------------------------------------------------------------ pictures


def test_pictures_of_too_many_pixels_are_not_decoded(tmp_path, monkeypatch):
    image = pytest.importorskip("PIL.Image")
    monkeypatch.setattr("cnn.data.pictures.MOST_PIXELS", 2000)
    for name, mode in (("x.png", "RGBA"), ("x.png", "L"), ("x.bmp", "RGB"), ("x.gif", "P"), ("x.webp", "RGB")):
        path = picture(tmp_path / name, size=(40, 50), mode=mode)
        assert read_picture(path, 1, 8).shape == (1, 8, 8)
        picture(path, size=(41, 50), mode=mode)
        monkeypatch.setattr(image.Image, "load", None)  # which would decode it
        refused(lambda path: read_picture(path, 1, 8), path, "41x50 is more than 2,000 pixels")
        monkeypatch.undo()
        monkeypatch.setattr("cnn.data.pictures.MOST_PIXELS", 2000)


def test_a_large_jpeg_is_decoded_at_a_fraction_of_its_size(tmp_path, monkeypatch):
    pytest.importorskip("PIL.Image")
    monkeypatch.setattr("cnn.data.pictures.MOST_PIXELS", 2000)
    path = picture(tmp_path / "x.jpg", 99, (160, 160))
    assert (read_picture(path, 1, 8) == 99).all()
    refused(lambda path: read_picture(path, 1, 160), path, "160x160 is more than 2,000 pixels")


def test_a_gif_with_a_frame_larger_than_its_screen(tmp_path):
    pytest.importorskip("PIL.Image")
    path = tmp_path / "x.gif"
    frame = struct.pack("<HHHHB", 0, 0, 9000, 9000, 0) + b"\x02\x02\x44\x01\x00;"
    path.write_bytes(b"GIF89a" + struct.pack("<HHBBB", 1, 1, 0x80, 0, 0) + bytes(6) + b"\x2c" + frame)
    refused(lambda path: read_picture(path, 1, 8), path, f"9000x9000 is more than {MOST_PIXELS:,} pixels")


def test_transparency_is_put_on_white_strip_by_strip(tmp_path, monkeypatch):
    image = pytest.importorskip("PIL.Image")
    pixels = np.random.default_rng(0).integers(0, 256, (1500, 1000, 4), np.uint8)  # more than 2**20 of them
    buffer = io.BytesIO()
    image.fromarray(pixels).save(buffer, "PNG", compress_level=0)
    (tmp_path / "x.png").write_bytes(buffer.getvalue())
    whole = image.fromarray(pixels)
    whole = image.alpha_composite(image.new("RGBA", whole.size, "white"), whole).convert("RGB")
    assert np.array_equal(read_picture(tmp_path / "x.png", 3, 1000), np.asarray(whole)[250:1250].transpose(2, 0, 1))
