"""The two errors that reading a data set can raise."""


class DataFileError(ValueError):
    """A data file does not hold what it should; the message names the file and what would be right."""


class DataNotFoundError(FileNotFoundError):
    """A data set is neither on this machine nor to be had from the network."""
