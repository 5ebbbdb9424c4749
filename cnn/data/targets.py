"""Labels of data sets, and targets that are no classes of images: one array, or several by name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping


def array_of(where: str, labels: Any) -> np.ndarray:
    """Labels as an array (N, ...) of integers or floats; of a dict of such arrays a structured array (N,) with a field
    for each. where: who speaks in an error. Raises TypeError or ValueError for anything else."""
    if isinstance(labels, dict):
        return _together(where, labels)
    labels = as_array(where, "labels", labels)
    if labels.dtype.names is not None:
        return _together(where, {name: labels[name] for name in labels.dtype.names})
    if labels.size == 0 and labels.ndim == 1:
        labels = labels.astype(np.int64)  # np.asarray([]) is float64
    if labels.dtype.kind not in "iuf":
        raise TypeError(f"{where}: labels must be integers or floats, not {labels.dtype}")
    return labels


def native(labels: np.ndarray) -> np.ndarray:
    """Integers as int64, floats in the byte order of the machine; a copy."""
    if labels.dtype.names is not None:
        return labels.copy()
    if labels.dtype == np.uint64 and labels.size and labels.max() > np.iinfo(np.int64).max:
        raise ValueError(f"Dataset: labels must be less than 2**63, got {labels.max()}")
    return labels.astype(labels.dtype.newbyteorder("=") if labels.dtype.kind == "f" else np.int64)


def are_classes(labels: np.ndarray) -> bool:
    """Whether labels are numbers of classes, one per image."""
    return labels.ndim == 1 and labels.dtype.kind in "iu"


def left_out(label: int) -> str:
    """What an error says more of a label below 0, which other packages ignore: it must be no label of an image here."""
    return "" if label >= 0 else (
        "; leave out images whose label is to be ignored (images[labels >= 0]), because accuracy, splits and counts of "
        "classes are of all images; classes of pixels, (N, H, W), may hold a loss's ignore_index"
    )


def described(labels: np.ndarray) -> str:
    """Targets in a few words, such as "float32 (10, 4)"."""
    if labels.dtype.names is None:
        return f"{labels.dtype} {labels.shape}"
    return ", ".join(f"{name} {labels[name].dtype} {labels[name].shape}" for name in labels.dtype.names)


def _together(where: str, arrays: Mapping[str, Any]) -> np.ndarray:
    """Arrays by name as one array (N,), whose fields are aligned."""
    if not arrays:
        raise ValueError(f"{where}: labels must hold at least one array, got an empty dict")
    parts: dict[str, np.ndarray] = {}
    for name, values in arrays.items():
        if not isinstance(name, str) or not name:
            raise TypeError(f"{where}: labels must have names (str), got {name!r}")
        part = as_array(where, f"labels[{name!r}]", values)
        if part.dtype.kind not in "iuf":
            raise TypeError(f"{where}: labels[{name!r}] must be integers or floats, not {part.dtype}")
        count = len(next(iter(parts.values()), part if part.ndim else ()))
        if part.shape[:1] != (count,) or part.ndim > 4:
            raise ValueError(f"{where}: labels[{name!r}] must have one entry per image and at most four axes, "
                             f"({count or 'N'}, ...), not {part.shape}")
        parts[name] = native(part)
    kinds = np.dtype([(name, part.dtype, part.shape[1:]) for name, part in parts.items()], align=True)
    result = np.zeros(count, kinds)
    for name, part in parts.items():
        result[name] = part
    return result


def as_array(where: str, argument: str, values: Any) -> np.ndarray:
    """What NumPy makes of an argument; raises ValueError that names it for parts of several shapes."""
    try:
        return np.asarray(values)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}: {argument} must be an array, all parts of the same shape ({error})") from None
