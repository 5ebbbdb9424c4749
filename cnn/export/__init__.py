"""Carrying models away: one file a format, with a table from our operations to its own."""
from cnn.export.pytorch import to_torch

__all__ = ["to_torch"]
