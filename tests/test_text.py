"""Text that is safe to print."""

import pytest

from cnn.text import printable


@pytest.mark.parametrize(("text", "wanted"), [
    ("", ""),
    ("Käse 5 °C, 中文, 🦎", "Käse 5 °C, 中文, 🦎"),
    ("\x1b[31mred\x07", r"\x1b[31mred\x07"),
    ("a\nb\tc\r", r"a\nb\tc\r"),
    ("left \u202e right", r"left \u202e right"),
    ("\udcff", r"\udcff"),
    ("\u2028\x7f\x9b\U000e0001", r"\u2028\x7f\x9b\U000e0001"),
    (3, "3"),
])
def test_printable(text, wanted):
    assert printable(text) == wanted
    assert printable(text).isprintable()
    printable(text).encode()  # no lone surrogate is left
