"""The package onnx, which is not installed with this one."""
from __future__ import annotations

from typing import Any


def require_onnx(owner: str) -> Any:
    """The package onnx. Raises ModuleNotFoundError, naming the extra, where it is missing."""
    try:
        import onnx
        import onnx.helper
        import onnx.numpy_helper
    except ModuleNotFoundError:
        raise ModuleNotFoundError(f"{owner} needs the package onnx: pip install 'cnn[onnx]'") from None
    return onnx
