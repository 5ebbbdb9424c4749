"""Writing files whole or not at all, and models in files."""

import json
import os
import re
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from cases import assert_same_bits

import cnn
from cnn import files
from cnn.training import checkpoint

# ------------------------------------------------------------------------------------------ files.write


def test_write_makes_and_replaces(tmp_path):
    path = tmp_path / "file"
    for content in (b"first", b"", b"\0" * 100_000):
        files.write(path, content)
        assert path.read_bytes() == content
    files.write(str(path), b"by name")
    assert path.read_bytes() == b"by name"
    assert os.listdir(tmp_path) == ["file"]


def test_others_may_read_the_file_as_the_umask_says(tmp_path):
    before = os.umask(0o027)
    try:
        files.write(tmp_path / "file", b"content")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o640


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o755])
def test_a_replaced_file_keeps_its_mode(tmp_path, mode):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    path.chmod(mode)
    files.write(path, b"new")
    assert path.read_bytes() == b"new" and stat.S_IMODE(path.stat().st_mode) == mode


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root may give files away")
def test_a_replaced_file_keeps_its_owner(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    os.chown(path, 1234, 2345)
    path.chmod(0o640)
    files.write(path, b"new")
    assert (path.stat().st_uid, path.stat().st_gid, stat.S_IMODE(path.stat().st_mode)) == (1234, 2345, 0o640)


def test_symbolic_links_are_followed(tmp_path):
    (tmp_path / "real").mkdir()
    target = tmp_path / "real" / "file"
    target.write_bytes(b"old")
    for name, content in (("link", b"new"), ("of a link", b"newer")):
        (tmp_path / name).symlink_to(tmp_path / "link" if name == "of a link" else "real/file")
        files.write(tmp_path / name, content)
        assert (tmp_path / name).is_symlink() and target.read_bytes() == content
    (tmp_path / "dangling").symlink_to("real/fresh")
    files.write(tmp_path / "dangling", b"made")
    assert (tmp_path / "dangling").is_symlink() and (tmp_path / "real" / "fresh").read_bytes() == b"made"
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(OSError, match="could not write.*loop"):
        files.write(tmp_path / "loop", b"")
    assert sorted(os.listdir(tmp_path / "real")) == ["file", "fresh"]


def test_a_device_is_written_in_place(tmp_path):
    device = tmp_path / "null"
    try:
        os.mknod(device, 0o666 | stat.S_IFCHR, os.makedev(1, 3))
        files.write(device, b"content")
    except PermissionError:
        device = "/dev/null"
        files.write(device, b"content")
    assert stat.S_ISCHR(os.stat(device).st_mode)


def test_a_pipe_is_written_in_place(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    files.write(tmp_path / "pipe", b"content")
    assert os.read(reader, 100) == b"content" and stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)
    os.close(reader)


@pytest.mark.skipif(not os.path.exists("/dev/stdout"), reason="Linux has it")
def test_stdout_in_a_file_keeps_the_words_before(tmp_path):
    code = "from cnn import files; print('words', flush=True); files.write('/dev/stdout', b'figures')"
    with open(tmp_path / "out", "wb") as file:
        subprocess.run([sys.executable, "-c", code], stdout=file, check=True, cwd=Path(__file__).parent)
    assert (tmp_path / "out").read_bytes() == b"words\nfigures"


@pytest.mark.skipif(not os.path.isdir("/dev/shm"), reason="Linux has it")
def test_files_in_shared_memory_are_replaced():
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        for content in (b"old and long", b"new"):
            files.write(f"{folder}/file", content)
            assert Path(folder, "file").read_bytes() == content


def test_every_file_of_the_package_is_written_here():
    """But for what other packages write, and logs, which are in files.py, too."""
    writers = r"open\([^)]*[\"']([wax]b?|r\+b?)\+?[\"']|write_text|write_bytes|savefig\((?!file,)|np\.savez?\("
    for path in Path(cnn.__file__).parent.rglob("*.py"):
        if path.name != "files.py":
            assert not re.search(writers, path.read_text()), path


@pytest.mark.parametrize("function", ["fsync", "replace", "fdopen", "chmod"])
def test_a_failure_leaves_the_old_file(tmp_path, monkeypatch, function):
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def fail(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, function, fail)
    with pytest.raises(OSError, match="No space left") as error:
        files.write(path, b"new")
    monkeypatch.undo()
    assert str(path) in str(error.value) and error.value.errno == 28
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["file"]


def test_an_interruption_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        files.write(path, b"new")
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["file"]


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path):
    (tmp_path / "file").write_bytes(b"old")
    for path in (tmp_path / "missing" / "file", tmp_path / "file" / "below", tmp_path):
        for attempt in (lambda path: files.write(path, b"new"), files.check):
            with pytest.raises(OSError, match="could not write") as error:
                attempt(path)
            assert str(path) in str(error.value)
    for path in (tmp_path / "file", tmp_path / "new", "/dev/null"):
        files.check(path)
    assert (tmp_path / "file").read_bytes() == b"old" and os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("path", ["nul\0byte", "x" * 300])
def test_a_name_that_no_file_can_have(tmp_path, path):
    with pytest.raises(OSError, match="could not write"):
        files.write(tmp_path / path, b"")
    files.write(tmp_path / ("x" * 255), b"the longest there is")


def test_homes(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert files.expanded("~/x") == str(tmp_path / "x") and files.expanded("a~b") == "a~b"
    with pytest.raises(ValueError, match="there is no user 'no such user'"):
        files.expanded("~no such user/x")
    (tmp_path / "~no such user").mkdir()
    assert files.expanded("~no such user") == "~no such user"


@pytest.mark.parametrize("content", [b"a \xc3\xa4\n", b"\xef\xbb\xbfa \xc3\xa4\n"])
def test_text_with_and_without_a_mark(tmp_path, content):
    (tmp_path / "file").write_bytes(content)
    assert files.read_text(tmp_path / "file") == "a ä\n"


@pytest.mark.parametrize(("encoding", "words"), [("utf-16", "UTF-16"), ("latin-1", "byte 2 is 0xe4")])
def test_text_in_another_encoding_is_named(tmp_path, encoding, words):
    (tmp_path / "file").write_bytes("a ä".encode(encoding))
    with pytest.raises(ValueError, match=f"file: must be UTF-8 text, .*{words}"):
        files.read_text(tmp_path / "file")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_is_named(tmp_path):
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(PermissionError) as error:
            files.write(tmp_path / "file", b"new")
    finally:
        tmp_path.chmod(0o700)
    assert str(tmp_path / "file") in str(error.value)


def test_a_log_grows_at_once(tmp_path):
    log = files.Log(tmp_path / "log")
    for text in ("one\n", "zwölf\n"):
        log.write(text)
    assert (tmp_path / "log").read_text(encoding="utf-8") == "one\nzwölf\n"
    log.close()
    files.Log(tmp_path / "log").write("more")
    assert (tmp_path / "log").read_text(encoding="utf-8") == "one\nzwölf\nmore"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="Linux has it")
def test_a_log_on_a_full_disk_is_named():
    with pytest.raises(OSError, match="could not write: No space left") as error:
        files.Log("/dev/full").write("text")
    assert "/dev/full" in str(error.value)
    with pytest.raises(OSError, match="could not write") as error:
        files.Log("/dev/null/log")
    assert "/dev/null/log" in str(error.value)


# ------------------------------------------------------------------------------------------ models

DESCRIPTION = {
    "model": "lenet5",
    "arguments": {"image_size": 16, "num_classes": 3},
    "classes": ["a", "b", "ç"],
    "mean": [0.5],
    "std": [0.25],
}


@pytest.fixture
def saved(tmp_path):
    pytest.importorskip("safetensors")
    model = cnn.models.lenet5(image_size=16, num_classes=3, seed=5)
    cnn.save_model(tmp_path / "model.safetensors", model, DESCRIPTION)
    return tmp_path / "model.safetensors", model


def test_round_trip(saved):
    path, model = saved
    x = np.random.default_rng(0).standard_normal((5, 1, 16, 16)).astype(np.float32)
    wanted = model.eval()(x)
    for where in (path, str(path), path.parent):
        loaded, description = cnn.load_model(where)
        assert description == DESCRIPTION
        assert not any(layer.training for layer in loaded.modules())
        assert list(loaded.state_dict()) == list(model.state_dict())
        assert_same_bits(loaded.state_dict().values(), model.state_dict().values())
        assert np.array_equal(loaded(x), wanted)


def test_the_file_is_plain_safetensors(saved):
    from safetensors.numpy import load_file

    path, model = saved
    assert_same_bits([load_file(path)[name] for name in model.state_dict()], model.state_dict().values())


def test_every_truncation_is_refused(saved):
    path, _ = saved
    content = path.read_bytes()
    header = int.from_bytes(content[:8], "little")
    lengths = {
        *range(0, 8 + header, 7),
        *range(8 + header - 3, 8 + header + 4),
        *range(8 + header, len(content), 997),
    }
    for length in sorted(lengths | {len(content) - 1}):
        path.write_bytes(content[:length])
        with pytest.raises(ValueError, match="model.safetensors"):
            cnn.load_model(path)


def test_flipped_bits_are_refused_or_harmless(saved):
    """In the first bytes and in the header every flip; a flip in the weights can only change weights."""
    path, model = saved
    content = path.read_bytes()
    header = 8 + int.from_bytes(content[:8], "little")
    shapes = {name: value.shape for name, value in model.state_dict().items()}
    rng, refused = np.random.default_rng(0), 0
    for at in [*range(0, header, 3), *rng.integers(header, len(content), 20)]:
        damaged = bytearray(content)
        damaged[at] ^= 1 << rng.integers(8)
        path.write_bytes(damaged)
        try:
            loaded, _ = cnn.load_model(path)
        except ValueError as error:
            assert "model.safetensors" in str(error)
            refused += 1
        else:
            assert {name: value.shape for name, value in loaded.state_dict().items()} == shapes
    assert refused > header / 3 / 2


def damaged_description(**changes):
    return {**DESCRIPTION, **changes}


@pytest.mark.parametrize(
    "description",
    [
        damaged_description(model="unknown"),
        damaged_description(model=["lenet5"]),
        damaged_description(model=None),
        damaged_description(arguments={"image_size": 28}),
        damaged_description(arguments={"image_size": 16, "num_classes": 3, "colour": "red"}),
        damaged_description(arguments={"image_size": "16"}),
        damaged_description(arguments=[16]),
        damaged_description(arguments=None),
        {},
        [],
        "lenet5",
        None,
    ],
    ids=str,
)
def test_a_description_that_does_not_fit_is_refused(saved, description):
    """When it is saved, before anything is written, and when a file from elsewhere is read."""
    path, model = saved
    content = path.read_bytes()
    with pytest.raises((TypeError, ValueError), match="^save_model: .*description"):
        cnn.save_model(path, model, description)
    assert path.read_bytes() == content
    checkpoint._write(path, checkpoint.FORMAT, model.state_dict(), description)
    with pytest.raises(ValueError, match="model.safetensors"):
        cnn.load_model(path)


@pytest.mark.parametrize("metadata", [None, {}, {"format": "pt"}, {"format": checkpoint.FORMAT}, "broken"])
def test_another_format_is_refused(saved, metadata):
    from safetensors.numpy import save_file

    path, model = saved
    if metadata == "broken":
        metadata = {"format": checkpoint.FORMAT, "description": json.dumps(DESCRIPTION)[:-1]}
    save_file(model.state_dict(), path, metadata)
    with pytest.raises(ValueError, match="model.safetensors"):
        cnn.load_model(path)


@pytest.mark.parametrize(
    "content", [b"", b"\xff" * 8, b"\xff" * 1000, b"PK\x03\x04" + b"\0" * 500, b"{}" * 50]
)
def test_another_file_is_refused(saved, content):
    path, _ = saved
    path.write_bytes(content)
    with pytest.raises(ValueError, match="model.safetensors"):
        cnn.load_model(path)


def test_weights_of_another_model_are_refused(saved):
    path, _ = saved
    other = cnn.models.lenet5(image_size=16, num_classes=4)
    with pytest.raises(ValueError, match=r"save_model: the description does not fit the model: .*\(3, 84\)"):
        cnn.save_model(path, other, DESCRIPTION)
    checkpoint._write(path, checkpoint.FORMAT, other.state_dict(), DESCRIPTION)
    with pytest.raises(ValueError, match="model.safetensors.*shape"):
        cnn.load_model(path)


def test_a_missing_file_is_named(tmp_path):
    for path in (tmp_path / "nothing.safetensors", tmp_path):
        with pytest.raises(FileNotFoundError, match=str(tmp_path)):
            cnn.load_model(path)


def test_saving_fails_as_a_whole(saved, monkeypatch):
    path, model = saved
    content = path.read_bytes()

    def fail(*args):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="Input/output error"):
        cnn.save_model(path, model, DESCRIPTION)
    assert path.read_bytes() == content and os.listdir(path.parent) == [path.name]


def test_numpy_numbers_are_saved_as_plain_ones(tmp_path):
    model = cnn.models.lenet5(image_size=16, num_classes=3)
    arguments = {"image_size": np.int32(16), "num_classes": np.array([0, 1, 2]).max() + 1}
    odd = {"classes": np.array(["a", "b", "c"]), "mean": np.array([0.5]), "std": (np.float32(0.25),), "good": np.True_}
    cnn.save_model(tmp_path / "model", model, {"model": "lenet5", "arguments": arguments, **odd})
    assert cnn.load_model(tmp_path / "model")[1] == {
        "model": "lenet5", "arguments": {"image_size": 16, "num_classes": 3}, "classes": ["a", "b", "c"],
        "mean": [0.5], "std": [0.25], "good": True}


@pytest.mark.parametrize(
    ("value", "words"),
    [({1}, "notes must be"), ({"a": [0, Ellipsis]}, r"notes.a\[1\] must be"), ({3: "x"}, "notes: its keys"),
     (np.array([None]), "notes must be"), (1j, "notes must be")],
    ids=str,
)
def test_what_json_cannot_hold_is_refused_with_its_key(tmp_path, value, words):
    model = cnn.models.lenet5(image_size=16, num_classes=3)
    for save in (lambda d: cnn.save_model(tmp_path / "model", model, d),
                 lambda d: cnn.callbacks.BestCheckpoint(tmp_path / "model", description=d)):
        with pytest.raises(TypeError, match=f"description: {words}"):
            save({**DESCRIPTION, "notes": value})
    with pytest.raises(TypeError, match="state: notes"):
        checkpoint.save(tmp_path / "state", {"notes": value})
    assert os.listdir(tmp_path) == []


def test_numpy_numbers_of_a_callback_are_saved(tmp_path):
    checkpoint.save(tmp_path / "state", {"Mine": {"count": np.int64(3), "rates": [np.float32(0.5)]}})
    assert checkpoint.load(tmp_path / "state") == {"Mine": {"count": 3, "rates": [0.5]}}


def test_a_network_of_ones_own_is_saved_once_its_name_is_known(tmp_path, monkeypatch):
    model = cnn.Sequential(cnn.Flatten(), cnn.Linear(4, 2, seed=1))
    description = {"model": "mine", "arguments": {}}
    with pytest.raises(ValueError, match="save_model: .*of your own to MODELS"):
        cnn.save_model(tmp_path / "model", model, description)
    monkeypatch.setitem(cnn.models.MODELS, "mine", lambda: cnn.Sequential(cnn.Flatten(), cnn.Linear(4, 2)))
    cnn.save_model(tmp_path / "model", model, description)
    assert_same_bits(cnn.load_model(tmp_path / "model")[0].state_dict().values(), model.state_dict().values())
