"""Text that is safe to print."""


def printable(text):
    """`text` with every control character, lone surrogate or other unprintable character written as its escape.

    text: str. Names from files may hold terminal escape codes; a plain space stays.
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() if not "\ud800" <= c <= "\udfff"
                   else f"\\u{ord(c):04x}" for c in str(text))
