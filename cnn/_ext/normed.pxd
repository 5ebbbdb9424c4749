"""Activations that are normalised where they are read, instead of being kept: see `Norm` in cnn/ops/norm.py."""
from libc.math cimport sqrt

from cnn._ext.op cimport Op, Place, array
from cnn._ext.vec cimport LANES, VL, real, vec, vec_load, vec_relu, vec_splat, vec_store

ctypedef struct Normed:
    const real* mean        # IN  (C,) or NULL: nothing is to be normalised
    const real* var         # IN  (C,)
    const real* gamma       # IN  (C,) or NULL: 1
    const real* beta        # IN  (C,) or NULL: 0
    real* scale             # (C,) scratch: gamma / sqrt(var + eps)
    bint relu


cdef inline Normed normed_input(const Op* op, int first, const Place* place, Py_ssize_t channels, real* scale,
                                bint relu) noexcept nogil:
    """What the four arrays from number `first` say."""
    cdef Normed n
    cdef Py_ssize_t c
    n.mean = <const real*>array(op, first, place)
    n.var = <const real*>array(op, first + 1, place)
    n.gamma = <const real*>array(op, first + 2, place)
    n.beta = <const real*>array(op, first + 3, place)
    n.scale = scale
    n.relu = relu
    if n.mean:
        for c in range(channels):
            scale[c] = <real>(1 / sqrt(n.var[c] + op.f[0])) * (n.gamma[c] if n.gamma else 1)
    return n


cdef inline void read_normed(const Normed* n, Py_ssize_t c, const real* x, Py_ssize_t pixels, real* y) noexcept nogil:
    """Pixels of channel c, normalised, perhaps with a ReLU."""
    cdef Py_ssize_t i
    cdef vec centre, scale, shift
    if n.mean == NULL:
        for i in range(pixels * LANES // VL):
            vec_store(y + i * VL, vec_load(x + i * VL))
        return
    centre, scale, shift = vec_splat(n.mean[c]), vec_splat(n.scale[c]), vec_splat(n.beta[c] if n.beta else 0)
    if n.relu:
        for i in range(pixels * LANES // VL):
            vec_store(y + i * VL, vec_relu((vec_load(x + i * VL) - centre) * scale + shift))
    else:
        for i in range(pixels * LANES // VL):
            vec_store(y + i * VL, (vec_load(x + i * VL) - centre) * scale + shift)


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
