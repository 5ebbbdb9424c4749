"""docs/examples/transfer.md runs from top to bottom on small pictures and random weights, and prints what it shows."""

import re
from pathlib import Path

import pytest
from test_transfer_runs import package, weights  # noqa: F401

import cnn

PAGE = Path(__file__).parents[1] / "docs" / "examples" / "transfer.md"
BLOCK = re.compile(r"^```python\n(.*?)^```$(?:\n```text\n(.*?)^```$)?", re.MULTILINE | re.DOTALL)
SMALL = {"DATA": '"mnist-sample"', "EACH": "5", "SIZE": "32", "EPOCHS": "2", "TUNING": "1"}


def masked(text):
    """Words and signs without numbers and spaces."""
    return [re.sub(r"[\s\d.,%x-]+", " ", line).strip() for line in text.strip().splitlines()]


def test_the_page(weights, tmp_path, monkeypatch, capsys):  # noqa: F811
    pytest.importorskip("PIL")
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    text = PAGE.read_text()
    for name, value in SMALL.items():
        text, count = re.subn(rf"^{name} = [^#\n]*", f"{name} = {value}    ", text, flags=re.MULTILINE)
        assert count == 1, name
    page = {"__name__": "__main__"}
    for block in BLOCK.finditer(text):
        exec(compile("\n" * text.count("\n", 0, block.start(1)) + block[1], PAGE.name, "exec"), page)
        assert masked(capsys.readouterr().out) == masked(block[2] or "")
    published = cnn.models.efficientnet_lite0(image_size=32, pretrained=True)
    assert len(page["train"]) == len(page["test"]) == 50 and page["model"][-1].out_features == 10
    assert (page["model"][17].body[0].weight.data != published[17].body[0].weight.data).any()
    pictures = re.findall(r"^!\[.+\]\((.+)\)$", text, re.MULTILINE)
    assert pictures == [path.name for path in tmp_path.glob("*.png")]
    for name in pictures:
        assert 2_000 < PAGE.with_name(name).stat().st_size < 150_000, f"{name} is small, and in the repository"
