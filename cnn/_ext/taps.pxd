"""Which taps of a kernel the outputs of a convolution read, in one image with its channels side by side."""

ctypedef struct Taps:
    Py_ssize_t sixteens         # K / 16, of the outputs
    Py_ssize_t height           # H of x
    Py_ssize_t out_h, out_w
    Py_ssize_t rows, columns    # of the kernel
    Py_ssize_t stride_h, stride_w, dilation_h, dilation_w
    Py_ssize_t top, left        # padding
    Py_ssize_t relu             # whether a ReLU follows


cdef inline Py_ssize_t first_row(const Taps* t, Py_ssize_t i) noexcept nogil:
    """The first row of the kernel that lies in x, for row i of the outputs."""
    return max(0, (t.top - i * t.stride_h + t.dilation_h - 1) // t.dilation_h)


cdef inline Py_ssize_t last_row(const Taps* t, Py_ssize_t i) noexcept nogil:
    """One past the last of them."""
    return min(t.rows, (t.height + t.top - i * t.stride_h + t.dilation_h - 1) // t.dilation_h)


cdef inline Py_ssize_t first_output(const Taps* t, Py_ssize_t m) noexcept nogil:
    """The first row of the outputs whose row m of the kernel lies in x."""
    return max(0, (t.top - m * t.dilation_h + t.stride_h - 1) // t.stride_h)


cdef inline Py_ssize_t last_output(const Taps* t, Py_ssize_t m) noexcept nogil:
    """One past the last of them."""
    return max(0, min(t.out_h, (t.height + t.top - m * t.dilation_h + t.stride_h - 1) // t.stride_h))
