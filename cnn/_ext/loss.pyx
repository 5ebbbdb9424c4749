"""Losses of one block: the value of every image and the gradient of the mean, in one pass. Twins: `cross_entropy` and
`mse` in cnn/reference; NumPy's own sum for `loss_sums`.
"""
from libc.math cimport INFINITY, NAN, exp
from libc.stdint cimport int64_t, uint8_t

from cnn._ext.elementary cimport vec_exp_limited
from cnn._ext.op cimport PER_BLOCK, Image, Place, pixels
from cnn._ext.vec cimport (LANES, ROWV, VL, integer, ivec, ivec_or, ivec_select, ivec_splat, ivec_store, real, real_log,
                           vec, vec_gt, vec_isnan, vec_keep, vec_load, vec_select, vec_splat, vec_store)


ctypedef struct CrossEntropy:
    Image z                     # IN  (K, 1, 1, 16)
    const int64_t* target       # IN  (N,)
    const double* weight        # IN  (K,) or NULL
    const double* share         # IN  (N,) weight of each image, or NULL
    const double* total         # IN  (1,) sum of w v_g
    Image dz                    # OUT (K, 1, 1, 16) or NULL
    double* loss                # OUT (16,) of each image, not divided
    uint8_t* correct            # OUT (16,) is the largest score g's?
    const int64_t* chosen       # IN  (N,) numbers of the targets, or NULL
    Py_ssize_t classes          # K
    double smoothing            # e

cdef void cross_entropy(const CrossEntropy* a, const Place* place) noexcept nogil:
    """L = -log softmax(z)[g] and dL/dz_i = p_i - [i = g], shifted by max(z) so that nothing overflows.

    With label smoothing e and class weights v, as PyTorch defines them:
        L = (1 - e) v_g (-log p_g) + e/K sum_i v_i (-log p_i)
        dL/dz_i = ((1 - e) v_g + e/K sum_j v_j) p_i - (1 - e) v_g [i = g] - e/K v_i
    and both, times the weight w of the image, are divided by the sum of w v_g over the batch. Lanes without an image
    get gradient 0, and so does a batch whose w v_g are all 0. An image of weight 0 has loss 0, whatever its scores are.
    """
    cdef const real* z = a.z.data
    cdef const int64_t* target = a.target
    cdef const double* weight = a.weight
    cdef const double* total = a.total
    cdef real* dz = a.dz.data
    cdef double* loss = a.loss
    cdef uint8_t* correct = a.correct
    cdef const int64_t* chosen = a.chosen
    cdef Py_ssize_t K = a.classes, z_step = a.z.plane, dz_step = a.dz.plane, k
    cdef double smoothing = a.smoothing, weight_sum = 0, smooth, v_g, w
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
            v = vec_exp_limited(vec_load(z + k * z_step + q * VL) - top)
            s = s + v
            if dz:
                vec_store(dz + k * dz_step + q * VL, v)
        vec_store(tops + q * VL, top)
        vec_store(sums + q * VL, s)
        ivec_store(winner + q * VL, best)
    for lane in range(LANES):
        n = place.at[PER_BLOCK] * LANES + lane
        g = -1
        if lane < place.images:
            g = target[chosen[n] if chosen else n]
        goal[lane] = g
        pull[lane] = push[lane] = alive[lane] = 0
        if g < 0 or g >= K:     # checked in Python, where arrays may change afterwards
            if lane < place.images:
                loss[lane] = NAN
                correct[lane] = 0
            continue
        correct[lane] = winner[lane] == g and tops[lane] == tops[lane]
        w = a.share[chosen[n] if chosen else n] if a.share else 1
        if w == 0:
            loss[lane] = 0
            continue
        nll = real_log(sums[lane])              # -log p_k = log s - (z_k - top)
        v_g = weight[g] if weight else 1
        smooth = 0
        if smoothing > 0:
            for k in range(K):
                smooth += (weight[k] if weight else 1) * (nll - (z[k * z_step + lane] - tops[lane]))
        loss[lane] = w * ((1 - smoothing) * v_g * (nll - (z[g * z_step + lane] - tops[lane])) + smoothing / K * smooth)
        pull[lane] = <real>(w * ((1 - smoothing) * v_g + smoothing / K * weight_sum) / divisor) / sums[lane]
        push[lane] = <real>(w * (1 - smoothing) * v_g / divisor)
        alive[lane] = <real>w
    if not dz:
        return
    for k in range(K):
        for q in range(ROWV):
            v = vec_load(dz + k * dz_step + q * VL) * vec_load(pull + q * VL)
            v = v - vec_load(alive + q * VL) * vec_splat(<real>(smoothing / K / divisor * (weight[k] if weight else 1)))
            vec_store(dz + k * dz_step + q * VL, vec_keep(vec_gt(vec_load(alive + q * VL), vec_splat(0)), v))
    for lane in range(LANES):
        if alive[lane] > 0:
            dz[goal[lane] * dz_step + lane] -= push[lane]


ctypedef struct LossSums:
    const double* loss          # IN  (N, step) of which the first counts
    const uint8_t* correct      # IN  (N, step), likewise, or NULL
    double* sums                # OUT (2,)
    Py_ssize_t step

cdef void loss_sums(const LossSums* a, const Place* place) noexcept nogil:
    """The sum of all losses of the batch, and how many images are right."""
    cdef Py_ssize_t n
    a.sums[0] = a.sums[1] = 0
    for n in range(place.total):
        a.sums[0] += a.loss[n * a.step]
        a.sums[1] += a.correct[n * a.step] if a.correct else 0


ctypedef struct Mse:
    Image y                     # IN  (C, H, W, 16)
    Image t                     # IN  (C, H, W, 16)
    Image dy                    # OUT (C, H, W, 16)
    const double* share         # IN  (N,) weight of each image, or NULL
    const double* total         # IN  (1,) sum of the weights, or NULL
    double* loss                # OUT (16,) sum of squares of each image, times its weight
    Py_ssize_t channels, height, width

cdef void mse(const Mse* a, const Place* place) noexcept nogil:
    """L = mean (y - t)^2 over all elements of the batch, dL/dy = 2 (y - t) / count.

    With a weight w of each image it is the mean with these weights: dL/dy = 2 w (y - t) / (elements of an image * sum
    of w), 0 where all w of the batch are 0.
    """
    cdef Py_ssize_t C = a.channels, H = a.height, W = a.width, c, h, i, lane, n
    cdef double total = a.total[0] if a.total else place.total
    cdef double divisor = <double>(C * H * W) * total if total > 0 else INFINITY
    cdef real scale[16]
    cdef real d
    cdef const real* y
    cdef const real* t
    cdef real* dy
    cdef double sums[16]
    for lane in range(LANES):
        n = place.at[PER_BLOCK] * LANES + lane
        scale[lane] = <real>(2.0 * (a.share[n] if a.share and lane < place.images else 1) / divisor)
        sums[lane] = 0
    for c in range(C):
        for h in range(H):
            y = pixels(&a.y, c, h)
            t = pixels(&a.t, c, h)
            dy = pixels(&a.dy, c, h)
            for i in range(W):
                for lane in range(LANES):
                    d = y[i * LANES + lane] - t[i * LANES + lane] if lane < place.images else 0
                    sums[lane] += <double>d * d
                    dy[i * LANES + lane] = scale[lane] * d
    for lane in range(place.images):
        a.loss[lane] = sums[lane] * (a.share[place.at[PER_BLOCK] * LANES + lane] if a.share else 1)


ctypedef struct BatchMean:
    Image y                     # IN  (1, 1, 1, 16) one loss per image
    const double* total         # IN  (1,) what their sum is divided by
    Image dy                    # OUT (1, 1, 1, 16) or NULL
    double* loss                # OUT (16,) of each image, not divided
    Py_ssize_t by_channels      # whether a block is one image, in the first lane

cdef void batch_mean(const BatchMean* a, const Place* place) noexcept nogil:
    """L = sum of y / total, dL/dy = 1 / total, or 0 where the total is 0."""
    cdef real share = <real>(1 / a.total[0]) if a.total[0] > 0 else 0
    cdef Py_ssize_t lane, images = 1 if a.by_channels else place.images
    for lane in range(images):
        a.loss[lane] = a.y.data[lane]
    if a.dy.data:
        for lane in range(LANES):
            a.dy.data[lane] = share if lane < images else 0


ctypedef struct Correct:
    Image z                     # IN  (K, 1, 1, 16) scores
    Image target                # IN  (1, 1, 1, 16) numbers of classes
    uint8_t* correct            # OUT (16,) is the largest score the target's?
    Py_ssize_t classes          # K
    Py_ssize_t by_channels      # whether z is (K / 16, 1, 1, 16), of one image

cdef void correct(const Correct* a, const Place* place) noexcept nogil:
    """Which images are classified correctly; NaN counts as the largest score."""
    cdef Py_ssize_t lane, k, best
    cdef real top, z
    for lane in range(1 if a.by_channels else place.images):
        best = 0
        top = a.z.data[lane]
        for k in range(1, a.classes):
            z = (a.z.data + k // LANES * a.z.plane)[k % LANES] if a.by_channels else a.z.data[k * a.z.plane + lane]
            if z > top or z != z:
                best, top = k, z
        a.correct[lane] = a.target.data[lane] == best and top == top


# ---------------------------------------------------------------- one image, channels side by side

cdef void cross_entropy_channels(const CrossEntropy* a, const Place* place) noexcept nogil:
    """`cross_entropy` of one image, whose scores z are (K / 16, 1, 1, 16)."""
    cdef Py_ssize_t K = a.classes, n = place.at[PER_BLOCK], k, best = 0
    cdef Py_ssize_t g = a.target[a.chosen[n] if a.chosen else n]
    cdef double divisor = a.total[0] if a.total[0] > 0 else INFINITY, weight_sum = 0, smooth = 0, v, v_g, pull, nll
    cdef double w = a.share[a.chosen[n] if a.chosen else n] if a.share else 1
    cdef real top = a.z.data[0], total = 0, z
    cdef real* dz = a.dz.data
    cdef int q
    for k in range(1, K):
        z = (a.z.data + k // LANES * a.z.plane)[k % LANES]
        if z > top or z != z:
            best, top = k, z
    for k in range(K):
        total += <real>exp((a.z.data + k // LANES * a.z.plane)[k % LANES] - top)
    if dz:
        for k in range((K + LANES - 1) // LANES):
            for q in range(ROWV):
                vec_store(dz + k * a.dz.plane + q * VL, vec_splat(0))
    if g < 0 or g >= K:     # checked in Python, where arrays may change afterwards
        a.loss[0], a.correct[0] = NAN, 0
        return
    a.correct[0] = best == g and top == top
    if w == 0:
        a.loss[0] = 0
        return
    nll = real_log(total)           # -log p_k = log total - (z_k - top)
    v_g = a.weight[g] if a.weight else 1
    for k in range(K):
        v = a.weight[k] if a.weight else 1
        weight_sum += v
        smooth += v * (nll - ((a.z.data + k // LANES * a.z.plane)[k % LANES] - top))
    a.loss[0] = (1 - a.smoothing) * v_g * (nll - ((a.z.data + g // LANES * a.z.plane)[g % LANES] - top))
    if a.smoothing > 0:
        a.loss[0] += a.smoothing / K * smooth
    a.loss[0] *= w
    if not dz:
        return
    divisor /= w
    pull = ((1 - a.smoothing) * v_g + a.smoothing / K * weight_sum) / divisor / total
    for k in range(K):
        v = a.weight[k] if a.weight else 1
        (dz + k // LANES * a.dz.plane)[k % LANES] = <real>(
            pull * exp((a.z.data + k // LANES * a.z.plane)[k % LANES] - top) - a.smoothing / K / divisor * v
            - ((1 - a.smoothing) * v_g / divisor if k == g else 0))


cdef void mse_channels(const Mse* a, const Place* place) noexcept nogil:
    """`mse` of one image, whose elements y and t are (C / 16, H, W, 16)."""
    cdef Py_ssize_t C = a.channels, H = a.height, W = a.width, n = place.at[PER_BLOCK], c, h, i, lane
    cdef double w = a.share[n] if a.share else 1, total = a.total[0] if a.total else place.total, summed = 0
    cdef real scale = <real>(2.0 * w / (<double>(C * H * W) * total) if total > 0 else 0), d
    cdef const real* y
    cdef const real* t
    cdef real* dy
    for c in range((C + LANES - 1) // LANES):
        for h in range(H):
            y = pixels(&a.y, c, h)
            t = pixels(&a.t, c, h)
            dy = pixels(&a.dy, c, h)
            for i in range(W):
                for lane in range(LANES):
                    d = y[i * LANES + lane] - t[i * LANES + lane] if c * LANES + lane < C else 0
                    summed += <double>d * d
                    dy[i * LANES + lane] = scale * d
    a.loss[0] = w * summed


include "kernels/loss.pxi"      # KERNELS
