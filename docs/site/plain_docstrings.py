"""The package's docstrings, which are plain text, as reStructuredText.

Indented blocks are code. A paragraph that begins with an argument's name and a colon lists arguments. In all others
only `code` is markup.
"""
import inspect
import re
import textwrap

from sphinx.util.inspect import stringify_signature

import cnn

MARKUP = re.compile(r"([*_|\\])")
OWN_PARAGRAPH = re.compile(r"(?<=\.) (?=(?:Raises|Returns|Source)\b)")


def setup(app):
    app.connect("autodoc-process-docstring", _convert)
    app.connect("autodoc-process-signature", _sign)
    return {"parallel_read_safe": True}


def _convert(app, what, name, thing, options, lines):
    lines[:] = restructured(lines, list(_signature(thing).parameters)).split("\n")


def _sign(app, what, name, thing, options, signature, returns):
    """Modules have the signature of `__init__`, not of `__new__`."""
    if inspect.isclass(thing) and issubclass(thing, cnn.Module):
        signature = stringify_signature(_signature(thing), unqualified_typehints=True, show_return_annotation=False)
        return signature.replace("<class 'numpy.float32'>", "np.float32"), None
    return None


def _signature(thing):
    """How a function, or a class, is called."""
    try:
        function = thing.__init__ if inspect.isclass(thing) and issubclass(thing, cnn.Module) else thing
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return inspect.Signature()
    parameters = [p for p in signature.parameters.values() if p.name not in ("self", "cls")]
    return signature.replace(parameters=parameters)


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
    if block[0].startswith(("    ", ">>> ")):
        return ["\n    ".join([f".. code-block:: {_language(block)}", "", *block])]
    text = "\n".join(block)
    if text.startswith("- "):
        return ["- " + _escaped(item) for item in re.split(r"\n- ", text[2:])]
    name = "|".join(map(re.escape, arguments)) or "(?!)"
    entry = rf"\*{{0,2}}(?:{name})(?:, (?:{name}))*:\s"
    result = []
    for i, part in enumerate(re.split(rf"\n(?={entry})|(?<=\.)\s+(?={entry})", text)):
        if i == 0 and not re.match(entry, part):
            result += _paragraphs(part)
            continue
        for argument in re.split(rf"(?<=;)\s+(?={entry})", part):
            names, _, words = argument.partition(":")
            first, *more = _paragraphs(words.rstrip(";"))
            names = ", ".join(f"**{_escaped(name)}**" for name in names.split(", "))
            result += [f"- {names}: {first}", *more]
    return result


def _paragraphs(text):
    """What is raised, what is returned and sources are paragraphs of their own."""
    return [_escaped(part) for part in OWN_PARAGRAPH.split(_flowing(text))]


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
