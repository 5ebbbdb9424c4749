"""Optimizer updates on flat arrays, PyTorch's rules; one chunk a task. Twins: `sgd_update`, `adam_update`,
`rmsprop_update` and `average_update` in cnn/reference.

All parameters of a group lie in one array, and so do their gradients: an update is one loop.
What changes from step to step comes in `now`: the learning rate, a factor on the gradient (for
clipping), and the number of the step, from 1. A group's learning rate is lr_scale times the one there.
"""
from libc.math cimport pow, sqrt

from cnn._ext.op cimport CHUNK, Place
from cnn._ext.vec cimport LANES, VL, real, real_sqrt, vec, vec_splat, vec_store

cdef enum:
    LR = 0
    CLIP = 1
    STEP = 2


ctypedef struct Sgd:
    real* w                     # IN/OUT (count,)
    const real* g               # IN  (count,)
    real* velocity              # IN/OUT (count,) or NULL
    const double* now           # IN  (3,) of this step
    Py_ssize_t count            # elements
    Py_ssize_t nesterov         # whether it is Nesterov's
    Py_ssize_t maximize         # whether w goes up the gradient
    double momentum, dampening, weight_decay
    double lr_scale             # the group's share of the learning rate

cdef void sgd(const Sgd* a, const Place* place) noexcept nogil:
    """v = mu v + (1 - dampening) g';  w -= lr v,  or with Nesterov  w -= lr (g' + mu v);  g' = +-g + decay w.

    In the first step v = g'.
    """
    cdef real* w = a.w
    cdef const real* gradient = a.g
    cdef real* velocity = a.velocity
    cdef const double* now = a.now
    cdef bint nesterov = a.nesterov
    cdef real mu = <real>a.momentum, decay = <real>a.weight_decay, take = <real>(1 - a.dampening), g, v
    cdef real clip = <real>(-now[CLIP] if a.maximize else now[CLIP])
    cdef real lr = <real>(now[LR] * a.lr_scale)
    cdef Py_ssize_t i, first = place.task * CHUNK, last = min(first + CHUNK, a.count)
    cdef bint damped = a.dampening != 0 and now[STEP] > 1
    if not velocity:
        for i in range(first, last):
            w[i] -= lr * (clip * gradient[i] + decay * w[i])
    elif nesterov:
        for i in range(first, last):
            g = clip * gradient[i] + decay * w[i]
            v = mu * velocity[i] + g
            velocity[i] = v
            w[i] -= lr * (g + mu * v)
    elif damped:
        for i in range(first, last):
            v = mu * velocity[i] + take * (clip * gradient[i] + decay * w[i])
            velocity[i] = v
            w[i] -= lr * v
    else:
        for i in range(first, last):
            v = mu * velocity[i] + (clip * gradient[i] + decay * w[i])
            velocity[i] = v
            w[i] -= lr * v


cdef inline real lerp(real old, real new, real keep, real take) noexcept nogil:
    """keep * old + take * new, keep + take = 1, from the nearer end, as PyTorch does."""
    return old + take * (new - old) if take < <real>0.5 else new - keep * (new - old)


ctypedef struct Adam:
    real* w                     # IN/OUT (count,)
    const real* g               # IN  (count,)
    real* m                     # IN/OUT (count,)
    real* v                     # IN/OUT (count,)
    real* v_max                 # IN/OUT (count,) or NULL
    const double* now           # IN  (3,) of this step
    Py_ssize_t count            # elements
    Py_ssize_t decoupled        # whether the decay is
    Py_ssize_t maximize         # whether w goes up the gradient
    double beta1, beta2, eps, weight_decay
    double lr_scale             # the group's share of the learning rate

cdef void adam(const Adam* a, const Place* place) noexcept nogil:
    """m, v: running means of g and g^2;  w -= lr/c1 m / (sqrt(v)/sqrt(c2) + eps),  c_i = 1 - b_i^step.

    Kingma & Ba 2015. With `decoupled` the decay is w -= lr decay w instead of a part of g
    (AdamW, Loshchilov & Hutter 2019). With `v_max`, the largest v so far takes its place under the root
    (AMSGrad, Reddi et al. 2018).
    """
    cdef real* w = a.w
    cdef const real* gradient = a.g
    cdef real* m = a.m
    cdef real* v = a.v
    cdef real* v_max = a.v_max
    cdef const double* now = a.now
    cdef bint decoupled = a.decoupled
    cdef real b1 = <real>a.beta1, one_b1 = <real>(1 - a.beta1), b2 = <real>a.beta2, one_b2 = <real>(1 - a.beta2)
    cdef real eps = <real>a.eps, clip = <real>(-now[CLIP] if a.maximize else now[CLIP])
    cdef real decay = 0 if decoupled else <real>a.weight_decay
    cdef double lr = now[LR] * a.lr_scale
    cdef real keep = <real>(1 - lr * a.weight_decay) if decoupled else 1
    cdef real step = <real>(lr / (1 - pow(a.beta1, now[STEP]))), root = <real>sqrt(1 - pow(a.beta2, now[STEP])), g
    cdef Py_ssize_t i, first = place.task * CHUNK, last = min(first + CHUNK, a.count)
    if v_max:
        for i in range(first, last):
            g = clip * gradient[i] + decay * w[i]
            m[i] = lerp(m[i], g, b1, one_b1)
            v[i] = b2 * v[i] + one_b2 * g * g
            v_max[i] = v[i] if v[i] > v_max[i] else v_max[i]
            w[i] = keep * w[i] - step * (m[i] / (real_sqrt(v_max[i]) / root + eps))
        return
    for i in range(first, last):
        g = clip * gradient[i] + decay * w[i]
        m[i] = lerp(m[i], g, b1, one_b1)
        v[i] = b2 * v[i] + one_b2 * g * g
        w[i] = keep * w[i] - step * (m[i] / (real_sqrt(v[i]) / root + eps))


ctypedef struct Rmsprop:
    real* w                     # IN/OUT (count,)
    const real* g               # IN  (count,)
    real* square                # IN/OUT (count,)
    real* mean                  # IN/OUT (count,) or NULL
    real* velocity              # IN/OUT (count,) or NULL
    const double* now           # IN  (3,) of this step
    Py_ssize_t count            # elements
    Py_ssize_t maximize         # whether w goes up the gradient
    double alpha, eps, weight_decay, momentum
    double lr_scale             # the group's share of the learning rate

cdef void rmsprop(const Rmsprop* a, const Place* place) noexcept nogil:
    """s: running mean of g^2;  w -= lr g / (sqrt(s) + eps), optionally centred and with momentum.

    Tieleman & Hinton 2012; centred (s - mean(g)^2 under the root): Graves 2013.
    """
    cdef real* w = a.w
    cdef const real* gradient = a.g
    cdef real* square = a.square
    cdef real* mean = a.mean
    cdef real* velocity = a.velocity
    cdef const double* now = a.now
    cdef real alpha = <real>a.alpha, one_alpha = <real>(1 - a.alpha), eps = <real>a.eps
    cdef real decay = <real>a.weight_decay, mu = <real>a.momentum
    cdef real clip = <real>(-now[CLIP] if a.maximize else now[CLIP])
    cdef real lr = <real>(now[LR] * a.lr_scale), g, spread
    cdef Py_ssize_t i, first = place.task * CHUNK
    for i in range(first, min(first + CHUNK, a.count)):
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


ctypedef struct Average:
    real* slow                  # IN/OUT (count,)
    real* w                     # IN/OUT (count,)
    const double* decay         # IN  (1,)
    Py_ssize_t count            # elements
    Py_ssize_t copy_back

cdef void average(const Average* a, const Place* place) noexcept nogil:
    """slow = keep slow + (1 - keep) w;  with `copy_back` then w = slow."""
    cdef real* slow = a.slow
    cdef real* w = a.w
    cdef const double* decay = a.decay
    cdef bint copy_back = a.copy_back
    cdef real keep = <real>decay[0], take = <real>(1 - decay[0])
    cdef Py_ssize_t i, first = place.task * CHUNK
    for i in range(first, min(first + CHUNK, a.count)):
        slow[i] = lerp(slow[i], w[i], keep, take)
        if copy_back:
            w[i] = slow[i]


ctypedef struct SquareSum:
    const real* g               # IN  (count,)
    double* part                # OUT (tasks,)
    Py_ssize_t count            # elements

cdef void square_sum(const SquareSum* a, const Place* place) noexcept nogil:
    """part[task] = sum of g^2 over the task's chunk"""
    cdef const real* gradient = a.g
    cdef double* part = a.part
    cdef double sums[8]
    cdef Py_ssize_t i, q, first = place.task * CHUNK, last = min(first + CHUNK, a.count)
    for q in range(8):
        sums[q] = 0
    for i in range(first, last):
        sums[i & 7] += <double>gradient[i] * gradient[i]
    for q in range(1, 8):
        sums[0] += sums[q]
    part[place.task] = sums[0]


ctypedef struct ClipFactor:
    const double* part          # IN  (parts,)
    double* now                 # OUT (3,) of this step
    double* norm                # OUT (1,)
    Py_ssize_t count            # parts
    double max_norm

cdef void clip_factor(const ClipFactor* a, const Place* place) noexcept nogil:
    """now[CLIP] = min(1, max_norm / (|g| + 1e-6)), |g| over all groups; the norm is kept beside it."""
    cdef const double* part = a.part
    cdef double* now = a.now
    cdef double* norm = a.norm
    cdef double total = 0
    cdef Py_ssize_t i
    for i in range(a.count):
        total += part[i]
    norm[0] = sqrt(total)
    now[CLIP] = a.max_norm / (norm[0] + 1e-6)
    if now[CLIP] > 1:
        now[CLIP] = 1


ctypedef struct FmaPeak:
    real* out                   # OUT (tasks, 16)
    Py_ssize_t rounds

cdef void fma_peak(const FmaPeak* a, const Place* place) noexcept nogil:
    """Nothing but multiply-adds on registers, to measure how many this processor can do in a second."""
    cdef vec acc[24]
    cdef vec factor = vec_splat(<real>0.999999), more = vec_splat(<real>1e-9)
    cdef Py_ssize_t i
    cdef int q
    for q in range(12):
        acc[q] = vec_splat(<real>(q * 1e-9))
    for i in range(a.rounds):
        for q in range(12):
            acc[q] = acc[q] * factor + more
    for q in range(1, 12):
        acc[0] = acc[0] + acc[q]
    vec_store(a.out + place.task * LANES, acc[0])


PEAK_FLOPS = 2 * 12 * VL    # of one round of `fma_peak`
include "kernels/update.pxi"    # KERNELS
