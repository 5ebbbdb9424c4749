"""Losses of one block: the value of every image and the gradient of the mean, in one pass."""
from libc.math cimport NAN
from libc.stdint cimport int64_t, uint8_t

from cnn._ext.op cimport Op, Place, array
from cnn._ext.vec cimport LANES, real, real_exp, real_log


cdef void cross_entropy(const Op* op, const Place* place) noexcept nogil:
    """L = -log softmax(z)[g] and dL/dz_i = p_i - [i = g], shifted by max(z) so that nothing overflows.

    With label smoothing e and class weights v, as PyTorch defines them:
        L = (1 - e) v_g (-log p_g) + e/K sum_i v_i (-log p_i)
        dL/dz_i = ((1 - e) v_g + e/K sum_j v_j) p_i - (1 - e) v_g [i = g] - e/K v_i
    and both are divided by the sum of v_g over the batch. Lanes without an image get gradient 0.
    """
    cdef const real* z = <const real*>array(op, 0, place)        # IN  (K, 1, 1, 16)
    cdef const int64_t* target = <const int64_t*>array(op, 1, place)  # IN  (N,)
    cdef const double* weight = <const double*>array(op, 2, place)    # IN  (K,) or NULL
    cdef const double* total = <const double*>array(op, 3, place)     # IN  (1,) sum of v_g
    cdef real* dz = <real*>array(op, 4, place)                   # OUT (K, 1, 1, 16) or NULL
    cdef double* loss = <double*>array(op, 5, place)             # OUT (N,) of each image, not divided
    cdef uint8_t* correct = <uint8_t*>array(op, 6, place)        # OUT (N,) is the largest score g's?
    cdef Py_ssize_t K = op.n[0], z_step = op.args[0].plane, dz_step = op.args[4].plane
    cdef double smoothing = op.f[0], weight_sum = 0
    cdef Py_ssize_t lane, k, g, n, best
    cdef real top, s, pull, push, nll
    cdef double smooth, v_g, v_k
    for k in range(K):
        weight_sum += weight[k] if weight else 1
    for lane in range(LANES):
        if lane >= place.images:
            if dz:
                for k in range(K):
                    dz[k * dz_step + lane] = 0
            continue
        n = place.at[1] * LANES + lane
        g = target[n]
        if g < 0 or g >= K:     # checked in Python, where arrays may change afterwards
            loss[n] = NAN
            correct[n] = 0
            if dz:
                for k in range(K):
                    dz[k * dz_step + lane] = 0
            continue
        top = z[lane]
        best = 0
        for k in range(K):
            # NaN counts as the largest, so that a broken row is not taken for right
            if z[k * z_step + lane] > top or z[k * z_step + lane] != z[k * z_step + lane]:
                top = z[k * z_step + lane]
                best = k
        correct[n] = best == g and top == top
        s = 0
        for k in range(K):
            s += real_exp(z[k * z_step + lane] - top)
        nll = real_log(s)                       # -log p_k = log s - (z_k - top)
        v_g = weight[g] if weight else 1
        smooth = 0
        if smoothing > 0:
            for k in range(K):
                smooth += (weight[k] if weight else 1) * (nll - (z[k * z_step + lane] - top))
        loss[n] = (1 - smoothing) * v_g * (nll - (z[g * z_step + lane] - top)) + smoothing / K * smooth
        if dz:
            pull = <real>(((1 - smoothing) * v_g + smoothing / K * weight_sum) / total[0]) / s
            push = <real>(smoothing / K / total[0])
            for k in range(K):
                v_k = weight[k] if weight else 1
                dz[k * dz_step + lane] = (real_exp(z[k * z_step + lane] - top) * pull
                                          - push * <real>v_k)
            dz[g * dz_step + lane] -= <real>((1 - smoothing) * v_g / total[0])


cdef void mse(const Op* op, const Place* place) noexcept nogil:
    """L = mean (y - t)^2 over all elements of the batch, dL/dy = 2 (y - t) / count."""
    cdef const real* y = <const real*>array(op, 0, place)        # IN  (C, H, W, 16)
    cdef const real* t = <const real*>array(op, 1, place)        # IN  (C, H, W, 16)
    cdef real* dy = <real*>array(op, 2, place)                   # OUT (C, H, W, 16)
    cdef double* loss = <double*>array(op, 3, place)             # OUT (N,) sum of squares of each image
    cdef Py_ssize_t C = op.n[0], H = op.n[1], W = op.n[2], c, h, i, lane, at, to
    cdef real scale = <real>(2.0 / (<double>(C * H * W) * place.total)), d
    cdef double sums[16]
    for lane in range(LANES):
        sums[lane] = 0
    for c in range(C):
        for h in range(H):
            for i in range(W):
                at = c * op.args[0].plane + h * op.args[0].row + i * LANES
                to = c * op.args[1].plane + h * op.args[1].row + i * LANES
                for lane in range(LANES):
                    d = y[at + lane] - t[to + lane] if lane < place.images else 0
                    sums[lane] += <double>d * d
                    dy[c * op.args[2].plane + h * op.args[2].row + i * LANES + lane] = scale * d
    for lane in range(place.images):
        loss[place.at[1] * LANES + lane] = sums[lane]


KERNELS = {
    "cross_entropy": (<size_t>&cross_entropy,
                      ("z", "target", "weight", "total", "dz", "loss", "correct"), ("classes",),
                      ("smoothing",)),
    "mse": (<size_t>&mse, ("y", "t", "dy", "loss"), ("channels", "height", "width"), ()),
}
