"""Arrays that the kernels like."""
import numpy as np


def zeros(shape, dtype):
    """An array of zeros that starts on a cache line, so that no row of pixels straddles two."""
    dtype = np.dtype(dtype)
    count = int(np.prod(shape, dtype=np.int64))
    raw = np.zeros(count * dtype.itemsize + 64, np.uint8)
    first = -raw.ctypes.data % 64
    return raw[first:first + count * dtype.itemsize].view(dtype).reshape(shape)
