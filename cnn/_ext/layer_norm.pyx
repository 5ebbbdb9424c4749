"""Layer normalisation (Ba, Kiros & Hinton 2016). Twins: `layer_norm` and `layer_norm_backward` in
cnn/reference.

    y = gamma xhat + beta,  xhat = (x - mean) / s,  s = sqrt(var + eps)

mean and var are those of the n elements that are normalised together; gamma and beta have one number for each of them.
As in batch norm (norm.pyx), with the means over the same n elements,

    dx_i = (gamma_i dy_i - mean(gamma dy) - xhat_i mean(gamma dy xhat)) / s
    dgamma_i = sum dy_i xhat_i,  dbeta_i = sum dy_i

the sums being over all that share gamma_i. The statistics take two passes: the mean; then the squares around it, and
what rounding took from the mean: nothing cancels. With c the rounded mean and r the rest of it,
xhat = (x - c) / s + shift, shift = -r / s.
"""
from libc.math cimport sqrt

from cnn._ext.op cimport Image, Place, begin, end, held, pixels, put, streams, to_row
from cnn._ext.vec cimport (DVL, LANES, ROWV, VL, dvec, dvec_load, dvec_store, dvec_zero, ivec, real, vec, vec_fence,
                           vec_gt, vec_keep, vec_load, vec_splat, vec_store, vec_sum, vec_sums)

cdef extern from *:
    """
    #define RUN (ROWV > 4 ? ROWV : 4)       /* vectors that are summed at once: one sum would wait for itself */
    """
    enum:
        RUN

cdef enum:
    FOLD = 64       # elements that are summed in the array's precision, before their sum is added to others


cdef struct Group:              # what one group of each lane is normalised with
    vec centre[8]
    vec shift[8]
    vec inverse[8]


cdef inline void fold_rows(vec* rows, dvec* total) noexcept nogil:
    """total += the RUN vectors, which become 0"""
    cdef real lanes[16]
    cdef int q
    for q in range(ROWV, RUN):
        rows[q % ROWV] = rows[q % ROWV] + rows[q]
    for q in range(ROWV):
        vec_store(lanes + q * VL, rows[q])
    for q in range(LANES // DVL):
        total[q] = total[q] + dvec_load(lanes + q * DVL)
    for q in range(RUN):
        rows[q] = vec_splat(0)


cdef inline void to_doubles(const dvec* total, double* lanes) noexcept nogil:
    cdef int q
    for q in range(LANES // DVL):
        dvec_store(lanes + q * DVL, total[q])


cdef inline void group_sums(const Image* x, Py_ssize_t c0, Py_ssize_t planes, Py_ssize_t h0, Py_ssize_t rows,
                            Py_ssize_t W, bint squares, const vec* centre, double* sums, double* square_sums
                            ) noexcept nogil:
    """Of each lane the sum of x, or with `squares` those of d and d^2, d = x - centre."""
    cdef Py_ssize_t c, h, i, whole = W * ROWV // RUN, since = 0
    cdef const real* row
    cdef vec s[8]
    cdef vec t[8]
    cdef dvec total[8]
    cdef dvec total_squares[8]
    cdef vec d
    cdef int q
    for q in range(RUN):
        s[q], t[q] = vec_splat(0), vec_splat(0)
    for q in range(LANES // DVL):
        total[q], total_squares[q] = dvec_zero(), dvec_zero()
    for c in range(c0, c0 + planes):
        for h in range(h0, h0 + rows):
            row = pixels(x, c, h)
            for i in range(whole):
                for q in range(RUN):
                    d = vec_load(row + (i * RUN + q) * VL)
                    if squares:
                        d = d - centre[q % ROWV]
                        t[q] = t[q] + d * d
                    s[q] = s[q] + d
                if (i + 1) % FOLD == 0:
                    fold_rows(s, total)
                    if squares:
                        fold_rows(t, total_squares)
            for q in range(W * ROWV - whole * RUN):
                d = vec_load(row + (whole * RUN + q) * VL)
                if squares:
                    d = d - centre[q % ROWV]
                    t[q] = t[q] + d * d
                s[q] = s[q] + d
            since += W
            if since >= FOLD:
                since = 0
                fold_rows(s, total)
                if squares:
                    fold_rows(t, total_squares)
    fold_rows(s, total)
    to_doubles(total, sums)
    if squares:
        fold_rows(t, total_squares)
        to_doubles(total_squares, square_sums)


ctypedef struct LayerNorm:
    Image x                     # IN  (C, H, W, 16)
    Image y                     # OUT (C, H, W, 16)
    Image stats                 # OUT (3 C / planes, H / rows, 1, 16): of each group centre, shift and 1 / s
    const real* gamma           # IN  (planes, rows, W) or NULL: 1
    const real* beta            # IN  (planes, rows, W) or NULL: 0
    Py_ssize_t channels, height, width
    Py_ssize_t planes, rows     # of a group: neighbouring channels, and rows of pixels
    double eps

cdef void layer_norm(const LayerNorm* a, const Place* place) noexcept nogil:
    """y = gamma xhat + beta of groups of rows, each lane by itself: of sixteen images, or of sixteen channels."""
    cdef Py_ssize_t down = a.height // a.rows, groups = a.channels // a.planes * down, W = a.width
    cdef Py_ssize_t group, c, h, i, at, c0, h0
    cdef double n = <double>(a.planes * a.rows * W), off, var
    cdef double mean[16]
    cdef double first[16]
    cdef double second[16]
    cdef const real* x
    cdef real* y
    cdef Group g
    cdef bint past = streams(a.channels, a.height, a.width)
    cdef ivec holds[8]
    cdef vec gamma, beta, d
    cdef int q, lane
    held(place, holds)
    for group in range(begin(groups, place), end(groups, place)):
        c0, h0 = group // down * a.planes, group % down * a.rows
        group_sums(&a.x, c0, a.planes, h0, a.rows, W, False, g.centre, mean, mean)
        for lane in range(LANES):
            mean[lane] /= n
        to_row(mean, g.centre)
        group_sums(&a.x, c0, a.planes, h0, a.rows, W, True, g.centre, first, second)
        for lane in range(LANES):
            off = first[lane] / n
            var = second[lane] / n - off * off
            second[lane] = 1 / sqrt((0 if var < 0 else var) + a.eps)
            first[lane] = -off * second[lane]
        to_row(first, g.shift)
        to_row(second, g.inverse)
        for q in range(ROWV):
            vec_store(pixels(&a.stats, 3 * (group // down), group % down) + q * VL, g.centre[q])
            vec_store(pixels(&a.stats, 3 * (group // down) + 1, group % down) + q * VL, g.shift[q])
            vec_store(pixels(&a.stats, 3 * (group // down) + 2, group % down) + q * VL, g.inverse[q])
        at = 0
        for c in range(c0, c0 + a.planes):
            for h in range(h0, h0 + a.rows):
                x = pixels(&a.x, c, h)
                y = pixels(&a.y, c, h)
                for i in range(W):
                    gamma = vec_splat(a.gamma[at + i] if a.gamma else 1)
                    beta = vec_splat(a.beta[at + i] if a.beta else 0)
                    for q in range(ROWV):
                        d = (vec_load(x + i * LANES + q * VL) - g.centre[q]) * g.inverse[q] + g.shift[q]
                        put(y + i * LANES + q * VL, vec_keep(holds[q], gamma * d + beta), past)
                at += W
    if past:
        vec_fence()


cdef inline void add_sums(vec* v, Py_ssize_t n, bint assign, real* out) noexcept nogil:
    """out[i] += the sum of the numbers of v[i], one of n <= VL vectors, or = with `assign`; v is used up."""
    cdef real sums[16]
    cdef Py_ssize_t i
    if n == VL:
        vec_sums(v, sums)
    else:
        for i in range(n):
            sums[i] = vec_sum(v[i])
    for i in range(n):
        out[i] = sums[i] if assign else out[i] + sums[i]


ctypedef struct LayerNormBackward:
    Image dy                    # IN  (C, H, W, 16)
    Image x                     # IN  (C, H, W, 16)
    Image stats                 # IN  as `layer_norm` has left it
    Image dx                    # OUT (C, H, W, 16); NULL where it is not wanted
    const real* gamma           # IN  (planes, rows, W) or NULL: 1
    real* dgamma                # I/O (planes, rows, W) of a shard, or NULL
    real* dbeta                 # I/O (planes, rows, W) of a shard, or NULL
    Py_ssize_t channels, height, width
    Py_ssize_t planes, rows
    Py_ssize_t lanes            # of the last channel, that count

cdef void layer_norm_backward(const LayerNormBackward* a, const Place* place) noexcept nogil:
    """dx = (gamma dy - mean(gamma dy) - xhat mean(gamma dy xhat)) / s; dgamma and dbeta of one block"""
    cdef Py_ssize_t down = a.height // a.rows, groups = a.channels // a.planes * down, W = a.width
    cdef Py_ssize_t size = a.planes * a.rows * W, group, c, h, i, at, c0, h0, since
    cdef double first[16]
    cdef double second[16]
    cdef const real* gammas = a.gamma
    cdef const real* x
    cdef const real* dy
    cdef real* dx
    cdef real numbers[16]
    cdef Group g
    cdef ivec counts[8]
    cdef vec s[8]
    cdef vec t[8]
    cdef vec along[16]          # of up to VL pixels, what dgamma and dbeta get of each lane
    cdef vec plain[16]
    cdef dvec total_s[8]
    cdef dvec total_t[8]
    cdef vec gamma, d, u, one, both
    cdef int q, lane
    for group in range(groups):
        c0, h0 = group // down * a.planes, group % down * a.rows
        for q in range(ROWV):
            g.centre[q] = vec_load(pixels(&a.stats, 3 * (group // down), group % down) + q * VL)
            g.shift[q] = vec_load(pixels(&a.stats, 3 * (group // down) + 1, group % down) + q * VL)
            g.inverse[q] = vec_load(pixels(&a.stats, 3 * (group // down) + 2, group % down) + q * VL)
        for lane in range(LANES):
            numbers[lane] = lane < place.images and (c0 + a.planes < a.channels or lane < a.lanes)
        for q in range(ROWV):
            counts[q] = vec_gt(vec_load(numbers + q * VL), vec_splat(0))
        for q in range(RUN):
            s[q], t[q] = vec_splat(0), vec_splat(0)
        for q in range(LANES // DVL):
            total_s[q], total_t[q] = dvec_zero(), dvec_zero()
        at = since = 0
        for c in range(c0, c0 + a.planes):
            for h in range(h0, h0 + a.rows):
                x = pixels(&a.x, c, h)
                dy = pixels(&a.dy, c, h)
                for i in range(W):
                    gamma = vec_splat(gammas[at] if gammas else 1)
                    both, one = vec_splat(0), vec_splat(0)
                    for q in range(ROWV):
                        d = (vec_load(x + i * LANES + q * VL) - g.centre[q]) * g.inverse[q] + g.shift[q]
                        u = vec_load(dy + i * LANES + q * VL)
                        s[q] = s[q] + gamma * u
                        t[q] = t[q] + gamma * u * d
                        one = one + vec_keep(counts[q], u)
                        both = both + vec_keep(counts[q], u * d)
                    along[since], plain[since] = both, one
                    at += 1
                    since += 1
                    if since == VL or at == size:
                        if a.dgamma:
                            add_sums(along, since, place.first and group == 0, a.dgamma + at - since)
                        if a.dbeta:
                            add_sums(plain, since, place.first and group == 0, a.dbeta + at - since)
                        since = 0
                    if at % FOLD == 0:
                        fold_rows(s, total_s)
                        fold_rows(t, total_t)
        if a.dx.data == NULL:
            continue
        fold_rows(s, total_s)
        fold_rows(t, total_t)
        to_doubles(total_s, first)
        to_doubles(total_t, second)
        for lane in range(LANES):
            first[lane] /= size
            second[lane] /= size
        to_row(first, s)
        to_row(second, t)
        at = 0
        for c in range(c0, c0 + a.planes):
            for h in range(h0, h0 + a.rows):
                x = pixels(&a.x, c, h)
                dy = pixels(&a.dy, c, h)
                dx = pixels(&a.dx, c, h)
                for i in range(W):
                    gamma = vec_splat(gammas[at + i] if gammas else 1)
                    for q in range(ROWV):
                        d = (vec_load(x + i * LANES + q * VL) - g.centre[q]) * g.inverse[q] + g.shift[q]
                        u = gamma * vec_load(dy + i * LANES + q * VL) - s[q] - d * t[q]
                        vec_store(dx + i * LANES + q * VL, vec_keep(counts[q], u * g.inverse[q]))
                at += W


SPLITS = ("layer_norm",)
include "kernels/layer_norm.pxi"    # KERNELS
