"""Whether convolutions may take fewer multiplications, at some cost in rounding.

Winograd's F(4x4, 3x3) and F(2x2, 5x5) sum numbers that are larger than the result, so that float32 results differ
from the exact ones by some 2e-6 of the largest, instead of 1e-6 (docs/gradients.md).
"""
import os

_WORDS = {"": True, "1": True, "on": True, "true": True, "yes": True,
          "0": False, "off": False, "false": False, "no": False}
_enabled = None     # None: as the environment says, which is not asked yet


def set_winograd(enabled):
    """Allow (the default) or forbid Winograd's algorithm from now on; CNN_WINOGRAD=0 (off,
    false, no) forbids it from the start."""
    global _enabled
    if not isinstance(enabled, bool):
        raise TypeError(f"set_winograd: enabled must be True or False, got {enabled!r}")
    _enabled = enabled


def get_winograd():
    """Whether Winograd's algorithm may be used. Raises ValueError for a CNN_WINOGRAD that says neither."""
    global _enabled
    if _enabled is None:
        word = os.environ.get("CNN_WINOGRAD", "").strip().lower()
        if word not in _WORDS:
            raise ValueError(f"CNN_WINOGRAD must be 0 (off, false, no) or 1 (on, true, yes), got {word!r}")
        _enabled = _WORDS[word]
    return _enabled
