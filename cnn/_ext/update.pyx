"""Optimizer updates on flat arrays, PyTorch's rules; one chunk a task. Twins in cnn/reference.py.

All parameters of a group lie in one array, and so do their gradients: an update is one loop.
What changes from step to step comes in `now`: the learning rate, a factor on the gradient (for
clipping), and the number of the step, from 1. A group's learning rate is lr_scale times the one there.
"""
from libc.math cimport pow, sqrt

from cnn._ext.op cimport CHUNK, Op, Place, array
from cnn._ext.vec cimport LANES, VL, real, real_sqrt, vec, vec_splat, vec_store

cdef enum:
    LR = 0
    CLIP = 1
    STEP = 2


cdef void sgd(const Op* op, const Place* place) noexcept nogil:
    """v = mu v + g';  w -= lr v,  or with Nesterov  w -= lr (g' + mu v);  g' = g + decay w"""
    cdef real* w = <real*>array(op, 0, place)                    # IN/OUT
    cdef const real* gradient = <const real*>array(op, 1, place)  # IN
    cdef real* velocity = <real*>array(op, 2, place)             # IN/OUT or NULL
    cdef const double* now = <const double*>array(op, 3, place)  # IN  (3,)
    cdef bint nesterov = op.n[1]
    cdef real mu = <real>op.f[0], decay = <real>op.f[1], clip = <real>now[CLIP], g, v
    cdef real lr = <real>(now[LR] * op.f[2])
    cdef Py_ssize_t i, first = place.task * CHUNK, last = min(first + CHUNK, op.n[0])
    if not velocity:
        for i in range(first, last):
            w[i] -= lr * (clip * gradient[i] + decay * w[i])
    elif nesterov:
        for i in range(first, last):
            g = clip * gradient[i] + decay * w[i]
            v = mu * velocity[i] + g
            velocity[i] = v
            w[i] -= lr * (g + mu * v)
    else:
        for i in range(first, last):
            v = mu * velocity[i] + (clip * gradient[i] + decay * w[i])
            velocity[i] = v
            w[i] -= lr * v


cdef inline real lerp(real old, real new, real keep, real take) noexcept nogil:
    """keep * old + take * new, keep + take = 1, from the nearer end, as PyTorch does."""
    return old + take * (new - old) if take < <real>0.5 else new - keep * (new - old)


cdef void adam(const Op* op, const Place* place) noexcept nogil:
    """m, v: running means of g and g^2;  w -= lr/c1 m / (sqrt(v)/sqrt(c2) + eps),  c_i = 1 - b_i^step.

    Kingma & Ba 2015. With `decoupled` the decay is w -= lr decay w instead of a part of g
    (AdamW, Loshchilov & Hutter 2019).
    """
    cdef real* w = <real*>array(op, 0, place)                    # IN/OUT
    cdef const real* gradient = <const real*>array(op, 1, place)  # IN
    cdef real* m = <real*>array(op, 2, place)                    # IN/OUT
    cdef real* v = <real*>array(op, 3, place)                    # IN/OUT
    cdef const double* now = <const double*>array(op, 4, place)  # IN  (3,)
    cdef bint decoupled = op.n[1]
    cdef real b1 = <real>op.f[0], one_b1 = <real>(1 - op.f[0]), b2 = <real>op.f[1], one_b2 = <real>(1 - op.f[1])
    cdef real eps = <real>op.f[2], clip = <real>now[CLIP]
    cdef real decay = 0 if decoupled else <real>op.f[3]
    cdef double lr = now[LR] * op.f[4]
    cdef real keep = <real>(1 - lr * op.f[3]) if decoupled else 1
    cdef real step = <real>(lr / (1 - pow(op.f[0], now[STEP]))), root = <real>sqrt(1 - pow(op.f[1], now[STEP])), g
    cdef Py_ssize_t i, first = place.task * CHUNK
    for i in range(first, min(first + CHUNK, op.n[0])):
        g = clip * gradient[i] + decay * w[i]
        m[i] = lerp(m[i], g, b1, one_b1)
        v[i] = b2 * v[i] + one_b2 * g * g
        w[i] = keep * w[i] - step * (m[i] / (real_sqrt(v[i]) / root + eps))


cdef void rmsprop(const Op* op, const Place* place) noexcept nogil:
    """s: running mean of g^2;  w -= lr g / (sqrt(s) + eps), optionally centred and with momentum.

    Tieleman & Hinton 2012; centred (s - mean(g)^2 under the root): Graves 2013.
    """
    cdef real* w = <real*>array(op, 0, place)                    # IN/OUT
    cdef const real* gradient = <const real*>array(op, 1, place)  # IN
    cdef real* square = <real*>array(op, 2, place)               # IN/OUT
    cdef real* mean = <real*>array(op, 3, place)                 # IN/OUT or NULL
    cdef real* velocity = <real*>array(op, 4, place)             # IN/OUT or NULL
    cdef const double* now = <const double*>array(op, 5, place)  # IN  (3,)
    cdef real alpha = <real>op.f[0], one_alpha = <real>(1 - op.f[0]), eps = <real>op.f[1]
    cdef real decay = <real>op.f[2], mu = <real>op.f[3], clip = <real>now[CLIP]
    cdef real lr = <real>(now[LR] * op.f[4]), g, spread
    cdef Py_ssize_t i, first = place.task * CHUNK
    for i in range(first, min(first + CHUNK, op.n[0])):
        g = clip * gradient[i] + decay * w[i]
        square[i] = alpha * square[i] + one_alpha * g * g
        spread = square[i]
        if mean:
            mean[i] = lerp(mean[i], g, alpha, one_alpha)
            spread -= mean[i] * mean[i]
            if spread < 0:      # by rounding
                spread = 0
        g = g / (real_sqrt(spread) + eps)
        if velocity:
            velocity[i] = mu * velocity[i] + g
            g = velocity[i]
        w[i] -= lr * g


cdef void average(const Op* op, const Place* place) noexcept nogil:
    """slow = keep slow + (1 - keep) w;  with `copy_back` then w = slow."""
    cdef real* slow = <real*>array(op, 0, place)                 # IN/OUT
    cdef real* w = <real*>array(op, 1, place)                    # IN/OUT
    cdef const double* decay = <const double*>array(op, 2, place)  # IN  (1,)
    cdef bint copy_back = op.n[1]
    cdef real keep = <real>decay[0], take = <real>(1 - decay[0])
    cdef Py_ssize_t i, first = place.task * CHUNK
    for i in range(first, min(first + CHUNK, op.n[0])):
        slow[i] = lerp(slow[i], w[i], keep, take)
        if copy_back:
            w[i] = slow[i]


cdef void square_sum(const Op* op, const Place* place) noexcept nogil:
    """part[task] = sum of g^2 over the task's chunk"""
    cdef const real* gradient = <const real*>array(op, 0, place)  # IN
    cdef double* part = <double*>array(op, 1, place)             # OUT (tasks,)
    cdef double sums[8]
    cdef Py_ssize_t i, q, first = place.task * CHUNK, last = min(first + CHUNK, op.n[0])
    for q in range(8):
        sums[q] = 0
    for i in range(first, last):
        sums[i & 7] += <double>gradient[i] * gradient[i]
    for q in range(1, 8):
        sums[0] += sums[q]
    part[place.task] = sums[0]


cdef void clip_factor(const Op* op, const Place* place) noexcept nogil:
    """now[CLIP] = min(1, max_norm / (|g| + 1e-6)), |g| over all groups; the norm is kept beside it."""
    cdef const double* part = <const double*>array(op, 0, place)  # IN  (parts,)
    cdef double* now = <double*>array(op, 1, place)              # OUT (3,)
    cdef double* norm = <double*>array(op, 2, place)             # OUT (1,)
    cdef double total = 0
    cdef Py_ssize_t i
    for i in range(op.n[0]):
        total += part[i]
    norm[0] = sqrt(total)
    now[CLIP] = op.f[0] / (norm[0] + 1e-6)
    if now[CLIP] > 1:
        now[CLIP] = 1


cdef void fma_peak(const Op* op, const Place* place) noexcept nogil:
    """Nothing but multiply-adds on registers, to measure how many this processor can do in a second."""
    cdef real* out = <real*>array(op, 0, place)                  # OUT (tasks, 16)
    cdef vec acc[24]
    cdef vec a = vec_splat(<real>0.999999), b = vec_splat(<real>1e-9)
    cdef Py_ssize_t i
    cdef int q
    for q in range(12):
        acc[q] = vec_splat(<real>(q * 1e-9))
    for i in range(op.n[0]):
        for q in range(12):
            acc[q] = acc[q] * a + b
    for q in range(1, 12):
        acc[0] = acc[0] + acc[q]
    vec_store(out + place.task * LANES, acc[0])


PEAK_FLOPS = 2 * 12 * VL    # of one round of `fma_peak`

KERNELS = {
    "fma_peak": (<size_t>&fma_peak, ("out",), ("rounds",), ()),
    "sgd": (<size_t>&sgd, ("w", "g", "velocity", "now"), ("count", "nesterov"),
            ("momentum", "weight_decay", "lr_scale")),
    "adam": (<size_t>&adam, ("w", "g", "m", "v", "now"), ("count", "decoupled"),
             ("beta1", "beta2", "eps", "weight_decay", "lr_scale")),
    "rmsprop": (<size_t>&rmsprop, ("w", "g", "square", "mean", "velocity", "now"), ("count",),
                ("alpha", "eps", "weight_decay", "momentum", "lr_scale")),
    "average": (<size_t>&average, ("slow", "w", "decay"), ("count", "copy_back"), ()),
    "square_sum": (<size_t>&square_sum, ("g", "part"), ("count",), ()),
    "clip_factor": (<size_t>&clip_factor, ("part", "now", "norm"), ("count",), ("max_norm",)),
}
