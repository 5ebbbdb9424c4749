"""Arrays that the kernels like."""
import itertools
import math

import numpy as np

LANES = 16                  # images side by side
CACHE_LINE = 64             # bytes
PAGE, HUGE = 2**12, 2**21   # bytes of a page of memory, and of a large one
_numbers = itertools.count()


def place(number):
    """Bytes from the start of a page at which the array of this number, one of many, begins.

    At the same place, arrays share a few sets of the caches. A few cache lines from it, a processor that looks at the
    last twelve bits of addresses first takes what it loads from one array for what it has just stored to the other,
    and waits ("4K aliasing"; Intel 64 and IA-32 Architectures Optimization Reference Manual, memory disambiguation).
    So eight arrays in a row are eight lines or more apart, and the next eight four lines further.
    """
    return (24 * number + number // 8 * 4) * CACHE_LINE % PAGE


def zeros(shape, dtype):
    """An array of zeros that starts on a cache line, so that no row of pixels straddles two.

    Large arrays take up large pages of memory, which Linux has for those who ask (NumPy does, from 4 MB): convolutions
    that visit hundreds of channels at once would wait for addresses in small ones to be looked up.
    """
    dtype = np.dtype(dtype)
    count = math.prod(np.atleast_1d(shape).tolist()) * dtype.itemsize
    if count < HUGE // 2:
        raw = np.zeros(count + CACHE_LINE, np.uint8)
        first = -raw.ctypes.data % CACHE_LINE
    else:
        number = next(_numbers) % 16
        apart = number * PAGE + place(number)
        raw = np.zeros((count + apart) // HUGE * HUGE + 2 * HUGE, np.uint8)
        first = -raw.ctypes.data % HUGE + apart
    return raw[first:first + count].view(dtype).reshape(shape)
