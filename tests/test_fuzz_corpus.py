"""The fuzzers' inputs, replayed: files as they should be, that lie, and those that once broke a parser."""

import importlib.util
import sys
from pathlib import Path

import pytest

FUZZ = Path(__file__).parent / "fuzz"
sys.path.insert(0, str(FUZZ))

import fuzz  # noqa: E402
import parsers  # noqa: E402

INPUTS = sorted(path.relative_to(FUZZ / "corpus") for path in FUZZ.glob("corpus/*/*"))


def test_every_parser_has_a_corpus():
    assert {path.parent.name for path in INPUTS} == set(parsers.PARSERS) == set(parsers.LINES) == set(fuzz.NAMES)


@pytest.mark.parametrize("name", parsers.PARSERS)
def test_parsers_keep_their_word(name):
    """Each input gives a result or the documented error that names the file, in little time and memory."""
    if name in parsers.NEEDS:
        pytest.importorskip(parsers.NEEDS[name])
    found = []
    for path in (path for path in INPUTS if path.parent.name == name):
        with parsers.folder() as folder, parsers.limited_memory():
            try:
                parsers.parse(name, (FUZZ / "corpus" / path).read_bytes(), folder)
            except parsers.Finding as finding:
                found.append(f"{path}: {finding}")
    assert not found, "\n".join(found)


def test_good_files_are_read(tmp_path):
    """The inputs named good reach the end, so that the corpus does not only test how files are refused."""
    for name in parsers.PARSERS:
        if name in parsers.NEEDS and importlib.util.find_spec(parsers.NEEDS[name]) is None:
            continue
        path = FUZZ / "corpus" / name / ("sealed" if name == "checkpoint" else "good")
        data = path.read_bytes()
        folder = tmp_path / name
        folder.mkdir()
        parsers.PARSERS[name](data[:1], data[1:], folder)


@pytest.mark.parametrize(
    "error, words",
    [
        (KeyError("x"), "undocumented KeyError"),
        (ValueError("wrong"), "does not name the file"),
        (ValueError("{folder}: \x1b[2J"), "cannot be printed"),
        (ValueError("{folder}: " + "x" * 20_000), "characters"),
        (MemoryError(), "undocumented MemoryError"),
    ],
)
def test_what_is_a_finding(monkeypatch, tmp_path, error, words):
    def parser(mode, data, folder):
        raise type(error)(str(error).format(folder=folder))

    monkeypatch.setitem(parsers.PARSERS, "idx", parser)
    with pytest.raises(parsers.Finding, match=words):
        parsers.parse("idx", b"", tmp_path)


def test_a_hidden_lack_of_memory_is_a_finding(monkeypatch, tmp_path):
    def parser(mode, data, folder):
        try:
            raise MemoryError
        except MemoryError:
            raise ValueError(f"{folder}: damaged") from None

    monkeypatch.setitem(parsers.PARSERS, "idx", parser)
    with pytest.raises(parsers.Finding, match="too much memory"):
        parsers.parse("idx", b"", tmp_path)
