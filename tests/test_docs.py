"""What the documentation says is so: its examples run, and the code that it names is there."""

import contextlib
import doctest
import inspect
import io
import pkgutil
import re
from pathlib import Path

import pytest

import cnn

DOCS = Path(__file__).parents[1] / "docs"
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# a block of code, and right below it, in a block of text, what it prints
SHOWN = re.compile(r"^```python\n(.*?)^```$(?:\n```text\n(.*?)^```$)?", re.MULTILINE | re.DOTALL)


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


SHOWING = ("explain", "homework", "models", "optimizers", "reports", "runs")


@pytest.mark.parametrize("name", ["README.md", *(pytest.param(f"docs/{page}.md", marks=pytest.mark.thorough)
                                                 for page in SHOWING)])
def test_blocks_run_and_print_what_they_show(name, tmp_path, monkeypatch):
    """All blocks of a page as they stand, in order, in one namespace that is empty before."""
    path = DOCS.parent / name
    monkeypatch.chdir(tmp_path)
    text = path.read_text()
    namespace = {"__name__": "__main__"}
    blocks = list(SHOWN.finditer(text))
    assert blocks
    for block in blocks:
        code, wanted = block.groups()
        line = text.count("\n", 0, block.start(1))
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(io.StringIO()):
            exec(compile("\n" * line + code, str(path), "exec"), namespace)
        if wanted is not None:
            assert _comparable(printed.getvalue()) == _comparable(wanted), f"{name}, line {line}"
    outputs = len(re.findall(r"^```text$", text, re.MULTILINE))
    assert outputs == sum(block[2] is not None for block in blocks), "an output belongs right below its code"


def _comparable(text):
    """The lines, without spaces at their ends, which editors take away, and sizes of memory, which threads and kernels
    decide."""
    text = re.sub(r"takes [\d.,]+ [KM]iB", "takes some", text)
    return [line.rstrip() for line in text.strip().splitlines()]


def test_code_that_the_gradients_name():
    """The lines `Twins: ... Kernels ...` name functions of the reference and of the files that they name."""
    root, found = DOCS.parent, 0
    twins = sorted(root.glob("cnn/reference/*.py"))
    for line in (DOCS / "gradients.md").read_text().splitlines():
        if line.startswith("Twin"):
            named = [root / name for name in re.findall(r"`(cnn/[\w/.]+)`", line)]
            files = [*twins, *(file for path in named for file in ([path] if path.is_file() else path.glob("*.p*")))]
            code = "".join(file.read_text() for file in files)
            for name in re.findall(r"`(\w+)`", line):
                definition = rf"^(?:def|cdef(?: inline)? \w+) {name}\("
                assert re.search(definition, code, re.MULTILINE), f"{name} is in none of the files of: {line}"
                found += 1
    assert found > 20


LINK = re.compile(r"\]\((?!https?:)([^)#\s]+)?(?:#([^)\s]+))?\)")


@pytest.mark.parametrize("path", [*sorted(DOCS.glob("*.md")), *sorted(DOCS.glob("examples/*.md")),
                                  *sorted(DOCS.parent.glob("*.md"))],
                         ids=lambda path: path.name)
def test_links_lead_somewhere(path):
    for file, section in LINK.findall(path.read_text()):
        target = path.parent / file if file else path
        assert target.exists(), f"{path.name}: {file}"
        if section:
            headings = re.findall(r"^#+ (.*)$", target.read_text(), re.MULTILINE)
            anchors = [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]
            assert section in anchors, f"{path.name}: {file}#{section}"


def test_the_reference_has_every_public_name():
    """Each name in an `__all__` is on a page of docs/api, by itself or with its module."""
    named = set(re.findall(r"^\.\. auto(?:class|function|module|exception):: ([\w.]+)$", "".join(
        path.read_text() for path in DOCS.glob("api/*.rst")), re.MULTILINE))
    of_sklearn = [name for name in named if name.startswith("cnn.sklearn.")]      # which needs its extra
    assert len(of_sklearn) == 2
    modules = {name for name in named - set(of_sklearn) if inspect.ismodule(_thing(name))}
    documented = [_thing(name) for name in named - modules - set(of_sklearn)]
    documented += [thing for name in modules for thing in vars(_thing(name)).values() if callable(thing)]
    lost = [name for name in cnn.__all__ if callable(getattr(cnn, name)) and getattr(cnn, name) not in documented]
    assert not lost
    assert {f"cnn.{name}" for name in cnn.__all__ if inspect.ismodule(getattr(cnn, name))} <= modules


def _thing(name):
    return pkgutil.resolve_name(name)     # which imports what is not imported yet


def test_files_that_the_architecture_names():
    """Names with a slash or a suffix in `code` stand for files, below cnn/ where nothing else fits."""
    root, text = DOCS.parent, (DOCS / "architecture.md").read_text()
    names = {name for code in re.findall(r"`([^`\n]+)`", text) for name in re.findall(r"^[\w/*.]+/(?:[\w*.]+)?$", code)}
    names |= {name for line in re.findall(r"```\n(.*?)```", text, re.DOTALL)
              for name in re.findall(r"\b[\w/*]*/[\w*]+\.pyx?\b", line)}
    assert len(names) > 15
    for name in names:
        assert any(list(base.glob(name.rstrip("/"))) for base in (root, root / "cnn")), name


def test_what_the_checklists_name():
    """Each row of CONTRIBUTING.md's tables of steps names files that exist, and tables that are in one of them."""
    root, found = DOCS.parent, 0
    text = (root / "CONTRIBUTING.md").read_text()
    for table in re.findall(r"^\| step \| file \|\n\|---\|---\|\n((?:\|.*\|\n)+)", text, re.MULTILINE):
        for row in table.splitlines():
            words = re.findall(r"`([^`]+)`", row)
            named = [word for word in words if re.fullmatch(r"[\w*]+(/[\w.*]*)+|\w+\.md|setup\.py", word)]
            files = {name: list(root.glob(name.rstrip("/"))) for name in named}
            assert all(files.values()), row
            inside = [file for paths in files.values() for path in paths
                      for file in ([path] if path.is_file() else path.rglob("*.py"))]
            code = "".join(file.read_text() for file in inside)
            for word in words:
                if re.fullmatch(r"[A-Z_]{3,}|_?[a-z]+_[a-z]+", word) and word != "name_update":
                    assert re.search(rf"\b{word}\b", code), f"{word} is in none of the files of: {row}"
                    found += 1
    assert found > 10
