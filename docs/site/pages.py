"""The Markdown of the repository and its notebooks as pages of the site."""
import json
import re
from pathlib import Path

from myst_parser.parsers.sphinx_ import MystParser

ROOT = Path(__file__).parents[2]
PROJECT = {f"project/{name.lower()}": f"{name}.md" for name in ("CHANGELOG", "CONTRIBUTING", "SECURITY")}

# Where links of a page in docs/ lead on the site.
PLACES = {"../README.md": "index.md", "../cnn/reference": "api/reference.rst",
          **{f"../{file}": f"{page}.md" for page, file in PROJECT.items()}}


class NotebookParser(MystParser):
    """Reads a notebook's cells as Markdown."""

    supported = ("ipynb",)

    def parse(self, inputstring, document):
        texts = [(cell["cell_type"], "".join(cell["source"])) for cell in json.loads(inputstring)["cells"]]
        super().parse("\n\n".join(f"```python\n{text}\n```" if kind == "code" else text for kind, text in texts),
                      document)


def setup(app):
    app.add_source_suffix(".ipynb", "ipynb")
    app.add_source_parser(NotebookParser)
    app.connect("source-read", _read)
    return {"parallel_read_safe": True}


def _read(app, name, content):
    if name in PROJECT:
        content[0] = _from_root(app, PROJECT[name], "../")
    elif name == "index":
        content[0] = _from_root(app, "README.md", "").partition("## Commands")[0] + content[0]
    else:
        up = "../" * name.count("/")
        for place, page in PLACES.items():
            content[0] = re.sub(rf"\]\({re.escape(up + place)}(?=[#)])", f"]({up}{page}", content[0])


def _from_root(app, file, up):
    """The text of a file of the repository's root; its links lead from a page that is `up` below docs/."""
    app.env.note_dependency(str(ROOT / file))       # a change of it makes the page anew
    text = re.sub(r"\]\(docs/", f"]({up}", (ROOT / file).read_text())
    for page, name in PROJECT.items():
        text = re.sub(rf"\]\({name}(?=[#)])", f"]({up}{page}.md", text)
    return text
