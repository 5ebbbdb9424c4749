"""What the documentation says is so: its examples run, and the code that it names is there."""

import doctest
import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs"
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def examples(path):
    """The `>>>` examples of a page as one text; lines stay where they are, for messages."""
    kept, end = [], 0
    text = path.read_text()
    for block in BLOCK.finditer(text):
        kept.append("\n" * text.count("\n", end, block.start(1)))
        kept.append(block[1] if ">>>" in block[1] else "\n" * block[1].count("\n"))
        end = block.end(1)
    return "".join(kept)


PAGES = [path for path in sorted(DOCS.glob("*.md")) if ">>>" in examples(path)]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_examples(path):
    test = doctest.DocTestParser().get_doctest(examples(path), {}, path.name, str(path), 0)
    said = []
    results = doctest.DocTestRunner(verbose=False).run(test, out=said.append)
    assert results.attempted and not results.failed, "".join(said)


def test_code_that_the_gradients_name():
    """The lines `Twins: ... Kernels ...` name functions of the reference and of the files that they name."""
    root, found = DOCS.parent, 0
    twins = [str(path.relative_to(root)) for path in sorted(root.glob("cnn/reference/*.py"))]
    for line in (DOCS / "gradients.md").read_text().splitlines():
        if line.startswith("Twin"):
            files = [*twins, *re.findall(r"`(cnn/[\w/.]+)`", line)]
            code = "".join((root / file).read_text() for file in files)
            for name in re.findall(r"`(\w+)`", line):
                definition = rf"^(?:def|cdef(?: inline)? \w+) {name}\("
                assert re.search(definition, code, re.MULTILINE), f"{name} is in none of {files}"
                found += 1
    assert found > 20
