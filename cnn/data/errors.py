"""The errors that reading a data set can raise, and the warning it can give. Their texts are safe to print."""

from __future__ import annotations

from cnn.text import printable


class DataFileError(ValueError):
    """A data file does not hold what it should; the text names the file and what would be right."""

    def __init__(self, text: str) -> None:
        super().__init__(_lines(text))


class DataNotFoundError(FileNotFoundError):
    """A data set is neither on this machine nor to be had from the network; the text lists the files wanted."""

    def __init__(self, text: str) -> None:
        super().__init__(_lines(text))


class DataWarning(UserWarning):
    """A data set can be used, but something about it is probably not meant, as the text says."""

    def __init__(self, text: str) -> None:
        super().__init__(_lines(text))


def _lines(text: str) -> str:
    """Names of files and classes may hold terminal escape codes; line breaks stay."""
    return "\n".join(map(printable, str(text).split("\n")))
