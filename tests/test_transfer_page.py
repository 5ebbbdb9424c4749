"""docs/examples/transfer.md runs from top to bottom on small pictures and random weights, and prints what it shows."""

import re
from pathlib import Path

import pytest
from test_examples import examples, masked
from test_transfer_runs import package, weights  # noqa: F401

import cnn

PAGE = Path(__file__).parents[1] / "docs" / "examples" / "transfer.md"
SMALL = {"DATA": '"mnist-sample"', "EACH": "5", "SIZE": "32", "EPOCHS": "2", "TUNING": "1"}


@pytest.mark.thorough
def test_the_page(weights, tmp_path, monkeypatch):  # noqa: F811
    pytest.importorskip("PIL")
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    text = examples.changed(PAGE.read_text(), SMALL)
    page, outputs = examples.run(text, PAGE.name, told=lambda output: None)
    for output, block in zip(outputs, examples.BLOCK.finditer(text), strict=True):
        assert masked(output) == masked(block[2] or "")
    published = cnn.models.efficientnet_lite0(image_size=32, pretrained=True)
    assert len(page["train"]) == len(page["test"]) == 50 and page["model"][-1].out_features == 10
    assert (page["model"][17].body[0].weight.data != published[17].body[0].weight.data).any()
    pictures = re.findall(r"^!\[.+\]\((.+)\)$", text, re.MULTILINE)
    assert pictures == [path.name for path in tmp_path.glob("*.png")]
    for name in pictures:
        assert 2_000 < PAGE.with_name(name).stat().st_size < 150_000, f"{name} is small, and in the repository"
