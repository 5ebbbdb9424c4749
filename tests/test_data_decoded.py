"""Decoded pictures are kept, and used again only where they are still those of the pictures."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
from data_files import picture, random_images
from processes import run_python

from cnn.data import DataWarning, decoded, load_parts
from cnn.data.own import UnreadableFiles, read_folder
from cnn.data.pictures import look_at, read_pixels
from cnn.data.rows import mapped

Image = pytest.importorskip("PIL.Image")
ImageOps = pytest.importorskip("PIL.ImageOps")


@pytest.fixture(autouse=True)
def no_other_warnings(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    monkeypatch.delenv(decoded.OFF, raising=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@pytest.fixture
def counted(monkeypatch):
    """The pictures that are decoded, as they are."""
    read = []

    def read_and_count(file, *arguments):
        read.append(os.path.basename(file))
        return read_pixels(file, *arguments)

    monkeypatch.setattr(decoded, "read_pixels", read_and_count)
    return read


def pictures(path, count=20):
    """Pictures of noise in two classes; their paths."""
    found = []
    for i, pixels in enumerate(random_images(count, (12, 12, 3))):
        found.append(path / "ab"[i % 2] / f"{i:02d}.png")
        found[-1].parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(found[-1])
    return sorted(found)


def by_hand(paths, size=8, channels=3):
    return np.stack([read_pixels(str(path), channels, size)[0] for path in paths])


def check(train, paths, **options):
    assert (np.asarray(train.images) == by_hand(paths, **options)).all()
    assert train.labels.tolist() == ["ab".index(path.parent.name) for path in paths]


def test_pictures_are_decoded_once(tmp_path, counted):
    paths = pictures(tmp_path / "data")
    for _ in range(3):
        check(read_folder(tmp_path / "data", 8)[0], paths)
        assert len(counted) == 20
    check(read_folder(tmp_path / "data", 9)[0], paths, size=9)      # both are kept
    check(read_folder(tmp_path / "data", 9, 1)[0], paths, size=9, channels=1)
    assert len(counted) == 60
    check(read_folder(tmp_path / "data", 8)[0], paths)
    assert len(counted) == 60
    assert len(list((tmp_path / "data" / ".cnn-cache").iterdir())) == 6


@pytest.mark.parametrize("coloured", [0, 3, 199, None])
def test_heads_are_looked_at_until_one_is_in_colour(tmp_path, monkeypatch, coloured):
    for i in range(200):
        picture(tmp_path / "data" / "ab"[i >= 100] / f"{i:03d}.png", *((i, 0, 9),) if i == coloured else (i,),
                mode="RGB" if i == coloured else "L")
    looked = []
    monkeypatch.setattr(decoded, "look_at", lambda path: looked.append(path) or look_at(path))
    with pytest.warns(DataWarning, match="same value|hold one|same all over|one value"):
        train = read_folder(tmp_path / "data", 8)[0]
    assert train.image_shape == (1 if coloured is None else 3, 8, 8)
    assert len(looked) == 200 if coloured in (199, None) else 0 < len(looked) < 200


def test_a_cache_that_is_switched_off(tmp_path, counted, monkeypatch):
    paths = pictures(tmp_path / "data")
    check(read_folder(tmp_path / "data", 8, cache=False)[0], paths)
    load_parts(tmp_path / "data", image_size=8, cache=False)
    monkeypatch.setenv(decoded.OFF, "0")
    check(read_folder(tmp_path / "data", 8)[0], paths)
    assert len(counted) == 60 and not (tmp_path / "data" / ".cnn-cache").exists()


def test_many_images_are_mapped_and_few_are_not(tmp_path, monkeypatch):
    paths = pictures(tmp_path / "data")
    for small in (20 * 3 * 64, 20 * 3 * 64 - 1):
        monkeypatch.setattr(decoded, "_SMALL", small)
        for _ in range(2):
            train = read_folder(tmp_path / "data", 8)[0]
            check(train, paths)
            assert mapped(train.images) == (not train.in_memory) == (small < 20 * 3 * 64)
        (next((tmp_path / "data" / ".cnn-cache").glob("*.json"))).unlink()


def test_parts_and_warnings_are_as_without_a_cache(tmp_path):
    for part, count in (("train", 8), ("val", 4), ("test", 6)):
        pictures(tmp_path / "data" / part, count)
    picture(tmp_path / "data" / "train" / "a" / "same.png", (5, 5, 5), (12, 12), "RGB")
    picture(tmp_path / "data" / "test" / "a" / "dark.png", 9, (12, 12), "I;16")
    (tmp_path / "data" / "val" / "b" / "bad.png").write_bytes(b"hello")
    (tmp_path / "data" / "train" / "a" / "0bad.png").write_bytes(b"hello")
    results = []
    for options in ({"cache": False}, {}, {}):
        for validation in (True, False):
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                sets = read_folder(tmp_path / "data", 8, validation=validation, **options)
            results.append((
                [None if part is None else (np.asarray(part.images).tobytes(), part.labels.tolist(), part.name)
                 for part in sets],
                sorted(str(warning.message) for warning in caught)))
    assert results[0] == results[2] == results[4] and results[1] == results[3] == results[5]
    assert results[0][0][1] is not None and results[1][0][1] is None
    texts = "\n".join(results[0][1])
    assert "left out 2 file(s)" in texts and "same.png" in texts and "become black" in texts


def newer(path):
    """Another picture of the same size in bytes and name."""
    content = bytearray(path.read_bytes())
    there = path.stat()
    path.write_bytes(content)
    os.utime(path, ns=(there.st_atime_ns, there.st_mtime_ns + 1))


@pytest.mark.parametrize("change", [
    lambda paths: newer(paths[3]),
    lambda paths: paths[3].unlink(),
    lambda paths: paths[3].rename(paths[3].with_name("zz.png")),
    lambda paths: Image.new("RGB", (12, 12)).save(paths[3].with_name("new.png")),
    lambda paths: paths[3].rename(paths[-1].with_name(paths[3].name)),      # another class
])
def test_pictures_that_have_changed(tmp_path, change, counted):
    paths = pictures(tmp_path / "data")
    read_folder(tmp_path / "data", 8)
    change(paths)
    now = sorted((tmp_path / "data").glob("?/*.png"))
    counted.clear()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*one value only")
        with pytest.warns(DataWarning, match="the decoded pictures are out of date, .*; they are decoded anew"):
            check(read_folder(tmp_path / "data", 8)[0], now)
        assert len(counted) == len(now)
        check(read_folder(tmp_path / "data", 8)[0], now)
    assert len(counted) == len(now) and len(list((tmp_path / "data" / ".cnn-cache").iterdir())) == 2


def test_another_version(tmp_path, monkeypatch):
    paths = pictures(tmp_path / "data")
    read_folder(tmp_path / "data", 8)
    monkeypatch.setattr(decoded, "VERSION", 99)
    with pytest.warns(DataWarning, match="out of date"):
        check(read_folder(tmp_path / "data", 8)[0], paths)
    monkeypatch.setattr("PIL.__version__", "99.0")
    with pytest.warns(DataWarning, match="out of date"):
        check(read_folder(tmp_path / "data", 8)[0], paths)


def flip(path, at=100):
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def edit(path, **changes):
    """Change an index, and seal it anew."""
    text = json.dumps({**json.loads(path.read_bytes().rsplit(b"\n", 1)[0]), **changes}).encode()
    path.write_bytes(text + b"\n" + decoded._seal(text))


@pytest.mark.parametrize("spoil", [
    lambda pixels, index: flip(pixels),
    lambda pixels, index: pixels.write_bytes(pixels.read_bytes()[:-1]),
    lambda pixels, index: pixels.write_bytes(pixels.read_bytes() + b"x"),
    lambda pixels, index: pixels.write_bytes(b""),
    lambda pixels, index: pixels.unlink(),
    lambda pixels, index: index.write_bytes(index.read_bytes()[:-5]),
    lambda pixels, index: index.write_bytes(b""),
    lambda pixels, index: index.write_text("[]"),
    lambda pixels, index: index.write_bytes(b"\xff\xfe" * 9),
    *[lambda pixels, index, at=at: flip(index, at) for at in range(5, 200, 17)],
    lambda pixels, index: edit(index, count=10**15),
    lambda pixels, index: edit(index, count=-1),
    lambda pixels, index: edit(index, pixels="../../a/00.png"),
    lambda pixels, index: edit(index, found=[3, 8]),
])
def test_a_damaged_cache_is_made_anew(tmp_path, spoil, counted):
    paths = pictures(tmp_path / "data")
    read_folder(tmp_path / "data", 8)
    folder = tmp_path / "data" / ".cnn-cache"
    spoil(next(folder.glob("*.pixels")), next(folder.glob("*.json")))
    with pytest.warns(DataWarning, match="the decoded pictures are damaged; they are decoded anew"):
        check(read_folder(tmp_path / "data", 8)[0], paths)
    assert len(counted) == 40
    check(read_folder(tmp_path / "data", 8)[0], paths)
    assert len(counted) == 40 and len(list(folder.iterdir())) == 2


def test_the_switch_is_0_or_1(tmp_path, monkeypatch):
    paths = pictures(tmp_path / "data")
    monkeypatch.setenv("CNN_PICTURE_CACHE", "false")
    with pytest.raises(ValueError, match="CNN_PICTURE_CACHE must be 0 or 1, got 'false'"):
        read_folder(tmp_path / "data", 8)
    monkeypatch.setenv("CNN_PICTURE_CACHE", "0")
    check(read_folder(tmp_path / "data", 8)[0], paths)
    assert not (tmp_path / "data" / ".cnn-cache").exists()


def test_a_folder_that_cannot_be_written(tmp_path, counted, monkeypatch):
    paths = pictures(tmp_path / "data")
    (tmp_path / "data" / ".cnn-cache").write_text("in the way")
    for _ in range(2):
        check(read_folder(tmp_path / "data", 8)[0], paths)
        assert len(counted) == 20 and len(list((tmp_path / "home" / "cnn" / "pictures").glob("*/*"))) == 2
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "data" / ".cnn-cache"))     # which is no folder
    with pytest.warns(DataWarning, match="the decoded pictures could not be kept .*they are in memory"):
        check(read_folder(tmp_path / "data", 8)[0], paths)


def test_a_full_disk(tmp_path, monkeypatch):
    paths = pictures(tmp_path / "data")

    def full(handle, content, offset):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.warns(DataWarning, match="could not be kept .*No space left"):
        check(read_folder(tmp_path / "data", 8)[0], paths)
    assert not list((tmp_path / "data" / ".cnn-cache").iterdir())
    assert not list((tmp_path / "home" / "cnn" / "pictures").glob("*/*"))


@pytest.mark.parametrize("size", [8, 1])
@pytest.mark.parametrize("small", [0, 1 << 28])
def test_a_file_may_become_no_larger(tmp_path, monkeypatch, small, size):
    """Whether the pixels find no room or, with one pixel each, what is said of them."""
    paths, limits = pictures(tmp_path / "data"), resource.getrlimit(resource.RLIMIT_FSIZE)
    monkeypatch.setattr(decoded, "_SMALL", small)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        with pytest.warns(DataWarning, match="could not be kept .*File too large"):
            train = read_folder(tmp_path / "data", size)[0]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    np.testing.assert_array_equal(train.images, by_hand(paths, size))
    assert not list((tmp_path / "data" / ".cnn-cache").iterdir())
    assert not list((tmp_path / "home" / "cnn" / "pictures").glob("*/*"))


def test_an_interruption_leaves_nothing(tmp_path, monkeypatch):
    paths = pictures(tmp_path / "data", 100)
    done = []

    def interrupted(file, *arguments):
        done.append(file)
        if len(done) == 50:
            raise KeyboardInterrupt
        return read_pixels(file, *arguments)

    with monkeypatch.context() as context, pytest.raises(KeyboardInterrupt):
        context.setattr(decoded, "read_pixels", interrupted)
        read_folder(tmp_path / "data", 8)
    assert not list((tmp_path / "data" / ".cnn-cache").iterdir())
    check(read_folder(tmp_path / "data", 8)[0], paths)


_READ = """
    import sys, time, warnings
    warnings.simplefilter("ignore")
    from cnn.data import decoded
    from cnn.data.own import read_folder
    from cnn.data.pictures import look_at, read_pixels
    def slow(file, *arguments):
        time.sleep(0.02)
        return read_pixels(file, *arguments)
    decoded.read_pixels = slow
    print("ready", flush=True)
    train = read_folder(sys.argv[1], 8)[0]
    print(int(train.images.sum(dtype="int64")), flush=True)
"""


@pytest.mark.thorough
def test_a_killed_process_leaves_nothing_bad(tmp_path):
    paths = pictures(tmp_path / "data", 100)
    process = started(tmp_path)
    deadline = time.time() + 60
    while not list((tmp_path / "data").glob(".cnn-cache/.*.cnn-tmp")) and time.time() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert len(list((tmp_path / "data" / ".cnn-cache").iterdir())) == 1
    check(read_folder(tmp_path / "data", 8)[0], paths)
    assert len(list((tmp_path / "data" / ".cnn-cache").iterdir())) == 2


def started(tmp_path):
    import textwrap
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(_READ), str(tmp_path / "data")],
                               stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parent)
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.thorough
def test_two_processes_at_once(tmp_path):
    paths = pictures(tmp_path / "data", 60)
    processes = [started(tmp_path) for _ in range(3)]
    wanted = int(by_hand(paths).sum(dtype=np.int64))
    for process in processes:
        with process.stdout as out:
            said = out.read()
        assert process.wait(timeout=120) == 0 and int(said) == wanted
    assert len(list((tmp_path / "data" / ".cnn-cache").iterdir())) == 2


@pytest.mark.thorough
def test_a_run_on_mapped_pictures_has_the_same_bits(tmp_path):
    pictures(tmp_path / "data", 60)
    code = """
        import sys
        from cnn.data import decoded
        decoded._SMALL = int(sys.argv[2])
        from cnn.commands.train import main
        main(["--dataset", sys.argv[1], "--image-size", "16", "--epochs", "2", "--quiet", "--out", sys.argv[3]])
    """
    digests = []
    for small in (10**9, 0):
        out = tmp_path / f"run{small}"
        done = run_python("-c", code, str(tmp_path / "data"), str(small), str(out))
        assert done.returncode == 0, done.stderr
        digests.append(json.loads((out / "summary.json").read_text())["digest"])
    assert digests[0] == digests[1]


def test_unreadable_pictures_are_left_out_of_a_mapped_file(tmp_path, monkeypatch):
    monkeypatch.setattr(decoded, "_SMALL", 0)
    paths = pictures(tmp_path / "data")
    for number in (0, 7, 19):
        paths[number].write_bytes(b"hello")
    paths[4].write_bytes(paths[4].read_bytes()[:-200])     # its head can be read
    good = [path for number, path in enumerate(paths) if number not in (0, 4, 7, 19)]
    for _ in range(2):
        with pytest.warns(UnreadableFiles, match=r"left out 4 file\(s\)") as caught:
            train = read_folder(tmp_path / "data", 8)[0]
        assert sum("a picture" in line or "not a picture" in line for line in caught[0].message.files) == 4
        assert all(line.startswith(f"{tmp_path}") for line in caught[0].message.files)
        check(train, good)


@pytest.mark.parametrize("small", [0, 1 << 20])     # mapped, and in memory
@pytest.mark.parametrize("cache", [True, False])
def test_unreadable_pictures_among_those_written_at_once(tmp_path, monkeypatch, small, cache):
    """Parts of two classes, some of them cut short in front, in the middle, behind, and as a whole."""
    monkeypatch.setattr(decoded, "_SMALL", small)
    monkeypatch.setattr(decoded, "_PIECE", 5 * 3 * 8 * 8)       # five pictures
    paths = pictures(tmp_path / "data", 200)
    bad = {0, 7, 14, *range(20, 25), 26, 28, 199}
    for number in bad:
        paths[number].write_bytes(paths[number].read_bytes()[:-200])
    with pytest.warns(UnreadableFiles, match=rf"left out {len(bad)} file\(s\)") as caught:
        train = read_folder(tmp_path / "data", 8, cache=cache)[0]
    assert [line.split(":")[0] for line in caught[0].message.files] == [str(paths[number]) for number in sorted(bad)]
    good = [path for number, path in enumerate(paths) if number not in bad]
    assert len(train) == len(good) and mapped(train.images) == (cache and not small)
    for image, path in zip(train.images, good, strict=True):
        with Image.open(path) as opened:
            wanted = np.asarray(ImageOps.fit(opened, (8, 8), Image.Resampling.BILINEAR)).transpose(2, 0, 1)
        assert np.array_equal(image, wanted)
    assert train.labels.tolist() == ["ab".index(path.parent.name) for path in good]
