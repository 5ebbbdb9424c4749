"""Which line of a user's program an error is about."""
import sys
from pathlib import Path

import numpy as np

PACKAGE = str(Path(__file__).resolve().parents[1])
NUMPY = str(Path(np.__file__).parent)       # whose functions may ask a value


def line() -> str:
    """The line of a user's file that is being run, as text to begin an error with; "" where there is none."""
    frame = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename.startswith((PACKAGE, NUMPY)):
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}: " if frame is not None else ""
