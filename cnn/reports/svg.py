"""Figures as a part of a page: SVG in the page's own font and colours."""
from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from cnn import text
from cnn.plots import files, style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PIXELS = 15     # of all text, on the page and in its figures
# what the colours of figures are called on the page, which has one of each for light and dark
COLOURS = {style.BLUE: "blue", style.ORANGE: "orange", style.GREEN: "green", style.TEXT: "text", style.GREY: "muted",
           style.LINES: "line", style.PAPER: "paper"}
_SVG, _LINK = "{http://www.w3.org/2000/svg}", "{http://www.w3.org/1999/xlink}href"
_DROPPED = re.compile(r"(font(-size|-family|-style|-weight)?|image-rendering)$")
_KEPT = {"viewBox", "d", "x", "y", "width", "height", "transform", "clip-path"}
_LONG = re.compile(r"(-?\d+\.\d\d)\d+")


def inline(figure: Figure, name: str, label: str) -> str:
    """A figure as an <svg> element.

    Its text has the page's font, in PIXELS; its colours are classes (fill-blue, stroke-text) for the page's style to
    define; titles of axes are left out, because the page has them as text that wraps. name: what ids begin with, to be
    unique on a page. label: what it shows, for those who cannot see it.
    """
    for ax in figure.axes:
        ax.set_title("", loc="left")
    root = ElementTree.fromstring(files.raw_svg(figure))
    zoom = PIXELS / style.SIZE
    width, height = (math.ceil(zoom * float(n)) for n in root.attrib["viewBox"].split()[2:])
    body = "".join(_element(child, name) for child in root)
    return (f'<svg role="img" aria-label="{text.html(label)}" width="{width}" height="{height}" '
            f'viewBox="{root.attrib["viewBox"]}">{body}</svg>')


def title(figure: Figure) -> str:
    """The title of a figure's first axes."""
    return figure.axes[0].get_title(loc="left") if figure.axes else ""


def _element(node: ElementTree.Element, name: str) -> str:
    """An element and what is in it, without what the page does better or does not need."""
    tag = node.tag.removeprefix(_SVG)
    if tag in ("metadata", "style"):
        return ""
    inside = "".join(_element(child, name) for child in node)
    if tag in ("g", "defs") and not inside:
        return ""
    attributes = _attributes(node, name)
    if tag == "g" and not attributes:
        return inside
    if tag == "text":
        inside = text.html(node.text or "") + inside
    words = "".join(f' {key}="{text.html(value)}"' for key, value in attributes.items())
    return f"<{tag}{words}>{inside}</{tag}>" if inside else f"<{tag}{words}/>"


def _attributes(node: ElementTree.Element, name: str) -> dict[str, str]:
    attributes, classes = {}, []
    for key, value in node.attrib.items():
        if key == _LINK:
            attributes["href"] = f"#{name}-{value[1:]}" if value[0] == "#" else "".join(value.split())
        elif key == "id" and not node.tag.endswith("}g"):
            attributes["id"] = f"{name}-{value}"
        elif key in _KEPT:
            attributes[key] = _LONG.sub(r"\1", " ".join(value.split())).replace("url(#", f"url(#{name}-")
    declared = [part.split(":", 1) for part in node.attrib.get("style", "").split(";") if ":" in part]
    for key, value in ((key.strip(), value.strip()) for key, value in declared):
        if value in COLOURS:
            classes.append(f"{key}-{COLOURS[value]}")
        elif not _DROPPED.match(key) or (key == "font-size" and value != f"{style.SIZE}px"):
            attributes[key] = value
    if node.tag == f"{_SVG}text" and not any(word.startswith("fill-") for word in classes):
        classes.append("fill-text")
    if attributes.get("transform", "").startswith("rotate(-0 "):
        del attributes["transform"]
    if classes:
        attributes["class"] = " ".join(classes)
    return attributes
