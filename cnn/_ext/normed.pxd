"""Activations that are normalised where they are read, instead of being kept: see `Norm` in cnn/ops/norm.py."""
from libc.math cimport sqrt

from cnn._ext.vec cimport LANES, VL, real, vec, vec_load, vec_relu, vec_splat, vec_store

ctypedef struct Norm:           # how an input is normalised where it is read
    const real* mean            # IN  (C,) or NULL: it is not
    const real* var             # IN  (C,)
    const real* gamma           # IN  (C,) or NULL: 1
    const real* beta            # IN  (C,) or NULL: 0
    Py_ssize_t input_relu       # whether a ReLU follows
    double eps


cdef inline void find_scale(const Norm* n, Py_ssize_t channels, real* scale) noexcept nogil:
    """scale = gamma / sqrt(var + eps), (channels,), if anything is to be normalised."""
    cdef Py_ssize_t c
    if n.mean:
        for c in range(channels):
            scale[c] = <real>(1 / sqrt(n.var[c] + n.eps)) * (n.gamma[c] if n.gamma else 1)


cdef inline void read_normalised(const Norm* n, const real* scale, Py_ssize_t c, const real* x, Py_ssize_t pixels,
                                 real* y) noexcept nogil:
    """Pixels of channel c, normalised, perhaps with a ReLU."""
    cdef Py_ssize_t i
    cdef vec centre, slope, shift
    if n.mean == NULL:
        for i in range(pixels * LANES // VL):
            vec_store(y + i * VL, vec_load(x + i * VL))
        return
    centre, slope, shift = vec_splat(n.mean[c]), vec_splat(scale[c]), vec_splat(n.beta[c] if n.beta else 0)
    if n.input_relu:
        for i in range(pixels * LANES // VL):
            vec_store(y + i * VL, vec_relu((vec_load(x + i * VL) - centre) * slope + shift))
    else:
        for i in range(pixels * LANES // VL):
            vec_store(y + i * VL, (vec_load(x + i * VL) - centre) * slope + shift)
