"""Losses of one block: the value of every image and the gradient of the mean, in one pass."""
from libc.math cimport INFINITY, NAN
from libc.stdint cimport int64_t, uint8_t

from cnn._ext.elementary cimport vec_exp
from cnn._ext.op cimport Op, Place, array
from cnn._ext.vec cimport (LANES, ROWV, VL, integer, ivec, ivec_or, ivec_select, ivec_splat, ivec_store, real, real_log,
                           vec, vec_gt, vec_isnan, vec_keep, vec_load, vec_select, vec_splat, vec_store)


cdef void cross_entropy(const Op* op, const Place* place) noexcept nogil:
    """L = -log softmax(z)[g] and dL/dz_i = p_i - [i = g], shifted by max(z) so that nothing overflows.

    With label smoothing e and class weights v, as PyTorch defines them:
        L = (1 - e) v_g (-log p_g) + e/K sum_i v_i (-log p_i)
        dL/dz_i = ((1 - e) v_g + e/K sum_j v_j) p_i - (1 - e) v_g [i = g] - e/K v_i
    and both are divided by the sum of v_g over the batch. Lanes without an image get gradient 0, and so does a batch
    whose v_g are all 0.
    """
    cdef const real* z = <const real*>array(op, 0, place)        # IN  (K, 1, 1, 16)
    cdef const int64_t* target = <const int64_t*>array(op, 1, place)  # IN  (N,)
    cdef const double* weight = <const double*>array(op, 2, place)    # IN  (K,) or NULL
    cdef const double* total = <const double*>array(op, 3, place)     # IN  (1,) sum of v_g
    cdef real* dz = <real*>array(op, 4, place)                   # OUT (K, 1, 1, 16) or NULL
    cdef double* loss = <double*>array(op, 5, place)             # OUT (N,) of each image, not divided
    cdef uint8_t* correct = <uint8_t*>array(op, 6, place)        # OUT (N,) is the largest score g's?
    cdef const int64_t* chosen = <const int64_t*>array(op, 7, place)  # IN  (N,) numbers of the targets, or NULL
    cdef Py_ssize_t K = op.n[0], z_step = op.args[0].plane, dz_step = op.args[4].plane, k
    cdef double smoothing = op.f[0], weight_sum = 0, smooth, v_g
    cdef double divisor = total[0] if total[0] > 0 else INFINITY
    cdef vec top, v, s
    cdef ivec best, wins
    cdef real tops[16]
    cdef real sums[16]
    cdef real pull[16]
    cdef real push[16]
    cdef real alive[16]
    cdef integer winner[16]
    cdef Py_ssize_t goal[16]
    cdef int q, lane
    cdef Py_ssize_t n, g
    cdef real nll
    for k in range(K):
        weight_sum += weight[k] if weight else 1
    for q in range(ROWV):
        # softmax; NaN counts as the largest score, so that a broken row is not taken for right
        top = vec_load(z + q * VL)
        best = ivec_splat(0)
        for k in range(1, K):
            v = vec_load(z + k * z_step + q * VL)
            wins = ivec_or(vec_gt(v, top), vec_isnan(v))
            top = vec_select(wins, v, top)
            best = ivec_select(wins, ivec_splat(k), best)
        s = vec_splat(0)
        for k in range(K):
            v = vec_exp(vec_load(z + k * z_step + q * VL) - top)
            s = s + v
            if dz:
                vec_store(dz + k * dz_step + q * VL, v)
        vec_store(tops + q * VL, top)
        vec_store(sums + q * VL, s)
        ivec_store(winner + q * VL, best)
    for lane in range(LANES):
        n = place.at[1] * LANES + lane
        g = -1
        if lane < place.images:
            g = target[chosen[n] if chosen else n]
        goal[lane] = g
        pull[lane] = push[lane] = alive[lane] = 0
        if g < 0 or g >= K:     # checked in Python, where arrays may change afterwards
            if lane < place.images:
                loss[n] = NAN
                correct[n] = 0
            continue
        correct[n] = winner[lane] == g and tops[lane] == tops[lane]
        nll = real_log(sums[lane])              # -log p_k = log s - (z_k - top)
        v_g = weight[g] if weight else 1
        smooth = 0
        if smoothing > 0:
            for k in range(K):
                smooth += (weight[k] if weight else 1) * (nll - (z[k * z_step + lane] - tops[lane]))
        loss[n] = (1 - smoothing) * v_g * (nll - (z[g * z_step + lane] - tops[lane])) + smoothing / K * smooth
        pull[lane] = <real>(((1 - smoothing) * v_g + smoothing / K * weight_sum) / divisor) / sums[lane]
        push[lane] = <real>((1 - smoothing) * v_g / divisor)
        alive[lane] = 1
    if not dz:
        return
    for k in range(K):
        for q in range(ROWV):
            v = vec_load(dz + k * dz_step + q * VL) * vec_load(pull + q * VL)
            v = v - vec_splat(<real>(smoothing / K / divisor * (weight[k] if weight else 1)))
            vec_store(dz + k * dz_step + q * VL, vec_keep(vec_gt(vec_load(alive + q * VL), vec_splat(0)), v))
    for lane in range(LANES):
        if alive[lane] > 0:
            dz[goal[lane] * dz_step + lane] -= push[lane]


cdef void loss_sums(const Op* op, const Place* place) noexcept nogil:
    """The sum of all losses of the batch, and how many images are right."""
    cdef const double* loss = <const double*>array(op, 0, place)      # IN  (N,)
    cdef const uint8_t* correct = <const uint8_t*>array(op, 1, place)  # IN  (N,)
    cdef double* sums = <double*>array(op, 2, place)                  # OUT (2,)
    cdef Py_ssize_t n
    sums[0] = sums[1] = 0
    for n in range(place.total):
        sums[0] += loss[n]
        sums[1] += correct[n]


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
                      ("z", "target", "weight", "total", "dz", "loss", "correct", "chosen"), ("classes",),
                      ("smoothing",)),
    "loss_sums": (<size_t>&loss_sums, ("loss", "correct", "sums"), (), ()),
    "mse": (<size_t>&mse, ("y", "t", "dy", "loss"), ("channels", "height", "width"), ()),
}
