"""Streams that are closed, broken, or cannot hold every letter: no run ends by them, and results come first."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from processes import run_python

import cnn
from cnn import streams
from cnn.training.callbacks import EpochLog, Progress

NAMES = ["Käse", "日本", "\x1b[2J"]


class Broken(io.StringIO):
    """As a pipe that nobody reads."""

    def write(self, text):
        raise BrokenPipeError(32, "Broken pipe")

    def isatty(self):
        return True


class Bare:
    """A stream with `write` only, as some programs put in the place of stdout."""

    def __init__(self):
        self.said = ""

    def write(self, text):
        self.said += text


def closed():
    stream = io.StringIO()
    stream.close()
    return stream


@pytest.mark.parametrize("make", [lambda: None, closed, Broken, Bare], ids=["None", "closed", "broken", "bare"])
def test_no_stream_ends_training(make, monkeypatch):
    """And none changes what is learnt."""
    rng = np.random.default_rng(0)
    data = cnn.data.Dataset(rng.integers(0, 256, (20, 1, 16, 16), np.uint8), np.arange(20) % 10)

    def train(*callbacks, **options):
        model = cnn.models.lenet5(image_size=16)
        trainer = cnn.Trainer(model, cnn.SGD(model.parameters(), lr=0.01), callbacks=callbacks, **options)
        return trainer.fit(data, 2).results()

    wanted = train(progress=False)
    monkeypatch.setattr(sys, "stdout", make())
    monkeypatch.setattr(sys, "stderr", make())
    assert train(EpochLog(), Progress(every=0)) == wanted


def test_words_for_a_stream_without_letters_or_without_flush(monkeypatch):
    for encoding, wanted in (("ascii", b"K\\xe4se \\u65e5\n"), ("latin-1", b"K\xe4se \\u65e5\n"),
                             ("utf-8", "Käse 日\n".encode())):
        raw = io.BytesIO()
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding, errors="strict", newline="\n"))
        assert streams.say("Käse 日") is None
        assert raw.getvalue() == wanted
    bare = Bare()
    monkeypatch.setattr(sys, "stdout", bare)
    streams.say("two\nlines \x1b[2J\udc80")
    assert bare.said == "two\nlines \\x1b[2J\\udc80\n"


def test_what_cannot_tell_is_no_terminal():
    assert not any(map(streams.isatty, (None, object(), closed(), io.StringIO())))
    assert streams.isatty(Broken())


# ------------------------------------------------------------------------------------------ commands


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A folder with a model, the data set that it names, whose classes are NAMES, and a picture."""
    image = pytest.importorskip("PIL.Image")
    folder = tmp_path_factory.mktemp("saved")
    rng = np.random.default_rng(0)
    np.savez(folder / "data.npz", images=rng.integers(0, 256, (60, 16, 16), np.uint8), labels=np.arange(60) % 3,
             classes=np.array(NAMES[:2] + ["c"]))
    image.fromarray(np.zeros((16, 16), np.uint8)).save(folder / "bä.png")
    for name, classes in (("model", NAMES[:2] + ["c"]), ("odd", NAMES)):
        cnn.save_model(folder / f"{name}.safetensors", cnn.models.lenet5(image_size=16, num_classes=3), {
            "model": "lenet5", "arguments": {"in_channels": 1, "num_classes": 3, "image_size": 16},
            "classes": classes, "mean": [0.5], "std": [0.3], "dataset": str(folder / "data.npz"), "seed": 0})
    return folder


def command(*arguments, redirect="", **environment):
    """`cnn ARGUMENTS REDIRECT` by a shell."""
    line = " ".join([f"'{sys.executable}' -m cnn", *(f"'{argument}'" for argument in arguments), redirect])
    return subprocess.run(["bash", "-c", f"set -o pipefail; {line}"], env={**os.environ, **environment},
                          cwd=Path(__file__).parent, capture_output=True, timeout=300)


@pytest.mark.thorough
def test_letters_that_stdout_cannot_hold(saved, tmp_path):
    model, figures = saved / "model.safetensors", tmp_path / "figures.json"
    result = command("evaluate", model, "--json", figures, PYTHONIOENCODING="ascii")
    assert result.returncode == 0 and b"\nK\\xe4se " in result.stdout and b"\\u65e5\\u672c" in result.stdout
    assert [row["class"] for row in json.loads(figures.read_text())["classes"]] == [*NAMES[:2], "c"]
    result = command("predict", model, saved / "bä.png", "--top", 3, PYTHONIOENCODING="latin-1")
    assert result.returncode == 0 and b"b\xe4.png: " in result.stdout and b"K\xe4se" in result.stdout


@pytest.mark.parametrize("arguments", [("evaluate",), ("predict", "bä.png", "--top", "3")])
def test_escape_codes_of_a_file_do_not_reach_the_terminal(saved, arguments):
    name, *rest = arguments
    paths = [saved / rest[0], *rest[1:]] if rest else ["--dataset", saved / "data.npz"]
    result = command(name, saved / "odd.safetensors", *paths)
    assert b"\x1b" not in result.stdout + result.stderr and b"\\x1b[2J" in result.stdout + result.stderr


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="Linux has it")
def test_a_full_disk_for_words(saved, tmp_path):
    """The figures are written all the same; that the words are lost is said."""
    figures = tmp_path / "figures.json"
    result = command("evaluate", saved / "model.safetensors", "--json", figures, redirect=">/dev/full")
    assert result.returncode == 1 and json.loads(figures.read_text())["images"] == 12
    assert result.stderr == b"cnn evaluate: could not print: [Errno 28] No space left on device\n"


def test_closed_streams_are_no_files(tmp_path):
    """What would be written to stderr must not end up in a file that has got its number."""
    result = command("train", "--epochs", 1, "--out", tmp_path / "run", redirect="<&- >&- 2>&-")
    assert result.returncode == 0
    assert len((tmp_path / "run" / "history.csv").read_text().splitlines()) == 2
    assert cnn.load_model(tmp_path / "run")


@pytest.mark.thorough
def test_a_reader_that_has_gone(saved, tmp_path):
    """A run goes on to its end; classifying stops; nobody complains."""
    result = command("train", "--epochs", 1, "--out", tmp_path / "run", redirect="| head -0")
    assert (result.returncode, result.stderr) == (0, b"") and (tmp_path / "run" / "summary.json").exists()
    result = command("predict", saved / "model.safetensors", *[saved / "bä.png"] * 3, redirect="| head -0")
    assert (result.returncode, result.stderr) == (141, b"")
    result = command("train", "--help", redirect="| head -0")
    assert result.stderr == b""


def test_pythonw_has_no_streams(tmp_path):
    code = """
        import sys
        sys.stdout = sys.stderr = sys.__stdout__ = sys.__stderr__ = None
        from cnn.commands import main
        main(["train", "--epochs", "1", "--out", sys.argv[1]])
        try:
            main(["evaluate", "nowhere"])
        except SystemExit as end:
            assert end.code == 1
        try:
            main(["train", "--nonsense"])
        except SystemExit as end:
            assert end.code == 2
    """
    result = run_python("-c", code, str(tmp_path / "run"))
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "run" / "summary.json").exists()
