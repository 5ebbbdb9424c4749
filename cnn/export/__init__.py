"""Models in the formats of others: one file a format, with a table from our operations to its own."""
from cnn.export.c_writing import c
from cnn.export.onnx_writing import onnx
from cnn.export.page_writing import page
from cnn.export.pytorch import to_torch

__all__ = ["c", "onnx", "page", "to_torch"]
