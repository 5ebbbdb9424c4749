"""The notebooks run from top to bottom, and are stored without outputs."""

import contextlib
import io
import json
from pathlib import Path

import pytest

NOTEBOOKS = sorted(Path(__file__).parents[1].glob("docs/notebooks/*.ipynb"))
each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def test_there_are_notebooks():
    assert [path.stem for path in NOTEBOOKS] == ["by-hand", "from-pytorch", "own-pictures"]


@each_notebook
def test_notebooks_are_stored_without_outputs(path):
    book = json.loads(path.read_text())
    assert (book["nbformat"], book["nbformat_minor"]) == (4, 5)
    names = [cell["id"] for cell in book["cells"]]
    assert len(names) == len(set(names))
    for cell in book["cells"]:
        assert cell["cell_type"] in ("code", "markdown")
        if cell["cell_type"] == "code":
            assert cell["outputs"] == [] and cell["execution_count"] is None


@pytest.mark.thorough
@each_notebook
def test_notebooks_run(path, tmp_path, monkeypatch):
    """The code cells, in order, in one namespace; what they claim, they assert."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    namespace = {"__name__": "__main__"}
    cells = json.loads(path.read_text())["cells"]
    assert any("assert " in "".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    for number, cell in enumerate(cells):
        if cell["cell_type"] == "code":
            with contextlib.redirect_stdout(io.StringIO()):
                exec(compile("".join(cell["source"]), f"{path.name}, cell {number}", "exec"), namespace)
