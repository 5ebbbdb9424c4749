"""The pages of docs/examples run on small data, print what they show but for the numbers, and learn."""

import importlib.util
import re
from pathlib import Path

import numpy as np
import pytest

FOLDER = Path(__file__).parents[1] / "docs" / "examples"
_spec = importlib.util.spec_from_file_location("run_examples", FOLDER / "run.py")
examples = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(examples)

SMALL = {
    "segmentation": dict(SCENES=120, EPOCHS=2),
    "regression": dict(EPOCHS=2),
    "autoencoder": dict(EPOCHS=1),
    "siamese": dict(TRIPLETS=400, EPOCHS=1),
    "multilabel": dict(CANVASES=160, EPOCHS=2),
    "detection": dict(CANVASES=160, EPOCHS=2),
    "gan": dict(STEPS=24),
}
# What the small runs must reach, of what the pages call by these names.
LEARNED = {
    "segmentation": lambda page: page["history"][-1]["train_loss"] < 0.9 * page["history"][0]["train_loss"],
    "regression": lambda page: page["error"](page["found"]) < 15 < page["error"](0),
    "autoencoder": lambda page: page["psnr"](page["restored"], page["clean"]) > 1 + page["psnr"](page["x"],
                                                                                             page["clean"]),
    "siamese": lambda page: page["trainer"].history[0]["train_loss"] < 0.5,     # which is what equal points have
    "multilabel": lambda page: page["trainer"].history[1]["train_loss"] < page["trainer"].history[0]["train_loss"],
    "detection": lambda page: page["trainer"].history[1]["train_loss"] < 0.8 * page["trainer"].history[0]["train_loss"],
    "gan": lambda page: page["losses"][-1][0] < 0.9 * page["losses"][0][0],     # the discriminator tells noise apart
}


def test_all_pages_are_here():
    pages = {path.stem for path in FOLDER.glob("*.md")}
    assert pages == {"index", "transfer", *SMALL} and LEARNED.keys() == SMALL.keys()
    index = (FOLDER / "index.md").read_text()
    assert all(f"({page}.md)" in index for page in pages - {"index"})


def masked(text):
    """The words and signs of a text, without numbers and spaces."""
    return [re.sub(r"(?:[\s\d.,%-]|nan)+", " ", line).strip() for line in text.strip().splitlines()]


@pytest.mark.parametrize("page", [page if page == "detection" else pytest.param(page, marks=pytest.mark.thorough)
                                  for page in SMALL])
def test_page(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = (FOLDER / f"{page}.md").read_text()
    small = examples.changed(text, {"DATA": '"mnist-sample"', **SMALL[page]})
    namespace, outputs = examples.run(small, f"{page}.md", told=lambda output: None)
    shown = [block[2] for block in examples.BLOCK.finditer(text)]
    for output, wanted in zip(outputs, shown, strict=True):
        assert masked(output) == masked(wanted or "")
    assert len(re.findall(r"^```text$", text, re.MULTILINE)) == sum(block is not None for block in shown)
    assert LEARNED[page](namespace)
    pictures = re.findall(r"^!\[.+\]\((.+)\)$", text, re.MULTILINE)
    assert pictures and sorted(path.name for path in tmp_path.iterdir()) == sorted(pictures)
    for name in pictures:
        assert 2_000 < (FOLDER / name).stat().st_size < 100_000, f"{name} is small, and in the repository"


def test_settings_must_be_there():
    assert examples.changed("A = 1      # one\nB = A\n", {"A": 2}) == "A = 2    # one\nB = A\n"
    with pytest.raises(ValueError, match="C must be set once on the page, got 0 times"):
        examples.changed("A = 1\n", {"C": 2})


def test_outputs_are_written_below_their_blocks():
    text = "```python\nprint(6 * 7)\n```\n```text\n41\n```\n```python\nx = 1\n```\nend\n"
    _, outputs = examples.run(text, told=lambda output: None)
    assert examples.written(text, outputs) == text.replace("41", "42")


def test_average_of_detections_needs_boxes_that_fit(tmp_path, monkeypatch):
    """The page's own functions: boxes of maps come back, and overlaps are those of a count of pixels."""
    monkeypatch.chdir(tmp_path)
    text = (FOLDER / "detection.md").read_text()
    code = [block[1] for block in examples.BLOCK.finditer(text)]
    page = {"np": np, "CELL": 8}
    exec(next(block for block in code if "def boxes_of" in block).split("def detected")[0], page)
    maps = np.zeros((4, 8, 8))
    maps[:, 3, 5] = 0.25, 0.5, 2, 1                   # centre (42, 28), 16 pixels wide, 8 high
    assert page["boxes_of"](maps)[3, 5].tolist() == [34, 24, 50, 32]
    a, b = np.zeros((2, 20, 20), bool)
    a[2:10, 3:9], b[4:12, 5:15] = True, True
    share = page["overlap"](np.array([3, 2, 9, 10]), np.array([[5, 4, 15, 12], [10, 10, 12, 12]]))
    np.testing.assert_allclose(share, [(a & b).sum() / (a | b).sum(), 0])
