"""Arrays that the kernels like."""
import itertools
import math

import numpy as np

LANES = 16                  # images side by side
HUGE = 2**21                # bytes of a large page of memory
_numbers = itertools.count()


def zeros(shape, dtype):
    """An array of zeros that starts on a cache line, so that no row of pixels straddles two.

    Large arrays take up large pages of memory, which Linux has for those who ask (NumPy does, from 4 MB): convolutions
    that visit hundreds of channels at once would wait for addresses in small ones to be looked up.
    """
    dtype = np.dtype(dtype)
    count = math.prod(np.atleast_1d(shape).tolist()) * dtype.itemsize
    if count < HUGE // 2:
        raw = np.zeros(count + 64, np.uint8)
        first = -raw.ctypes.data % 64
    else:
        # each starts elsewhere in its page, because arrays at the same place share a few sets of the caches
        apart = next(_numbers) % 16 * 65 * 64
        raw = np.zeros((count + apart) // HUGE * HUGE + 2 * HUGE, np.uint8)
        first = -raw.ctypes.data % HUGE + apart
    return raw[first:first + count].view(dtype).reshape(shape)
