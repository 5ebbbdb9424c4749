"""The package's docstrings, which are plain text, as reStructuredText.

Indented blocks are code. A paragraph that begins with an argument's name and a colon lists arguments. In all others
only `code` is markup.
"""
import inspect
import re
import textwrap

MARKUP = re.compile(r"([*_|\\])")
OWN_PARAGRAPH = re.compile(r"(?<=\.) (?=(?:Raises|Returns|Source)\b)")


def setup(app):
    app.connect("autodoc-process-docstring", _convert)
    return {"parallel_read_safe": True}


def _convert(app, what, name, thing, options, lines):
    lines[:] = restructured(lines, _arguments(thing)).split("\n")


def _arguments(thing):
    """The names of the arguments of a function, or of a class's constructor."""
    try:
        return [name for name in inspect.signature(thing).parameters if name not in ("self", "cls")]
    except (TypeError, ValueError):
        return []


def restructured(lines, arguments):
    """The lines of a docstring as reStructuredText."""
    return "\n\n".join(part for block in _blocks(lines) for part in _converted(block, arguments))


def _blocks(lines):
    """Lists of lines: paragraphs, lists, and examples, which may hold blank lines."""
    block, after_blank = [], True
    for line in lines:
        example = line.startswith("    ")
        if not line.strip():
            after_blank = True
            continue
        if after_blank and block:
            if example and block[0].startswith("    "):
                block.append("")
            else:
                yield block
                block = []
        block.append(line)
        after_blank = False
    if block:
        yield block


def _converted(block, arguments):
    """The parts that a block becomes."""
    if block[0].startswith("    "):
        return ["\n".join([f".. code-block:: {_language(block)}", "", *block])]
    text = "\n".join(block)
    if text.startswith("- "):
        return ["- " + _escaped(item) for item in re.split(r"\n- ", text[2:])]
    name = "|".join(map(re.escape, arguments)) or "(?!)"
    entry = rf"\*{{0,2}}(?:{name})(?:, (?:{name}))*: "
    if not re.match(entry, text):
        return map(_escaped, OWN_PARAGRAPH.split(_flowing(text)))
    result = []
    for part in re.split(rf"(?:(?<=[.;])\s+|\n)(?={entry})", text):
        names, _, words = part.partition(": ")
        first, *more = OWN_PARAGRAPH.split(_flowing(words))
        names = ", ".join(f"**{_escaped(name)}**" for name in names.split(", "))
        result += [f"- {names}: {_escaped(first)}", *map(_escaped, more)]
    return result


def _language(example):
    """Formulas are indented as examples are."""
    text = textwrap.dedent("\n".join(example))
    try:
        compile(text, "example", "exec")
    except SyntaxError:
        return "pycon" if text.startswith(">>>") else "text"
    return "python"


def _flowing(text):
    return " ".join(text.split())


def _escaped(text):
    """Text of which only `code` is markup."""
    parts = re.split(r"`([^`]+)`", _flowing(text))
    return "".join(f"``{part}``" if i % 2 else MARKUP.sub(r"\\\1", part) for i, part in enumerate(parts))
