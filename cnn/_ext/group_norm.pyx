"""Group normalisation (Wu & He 2018). Twins: `group_norm` and `group_norm_backward` in cnn/reference.

    y = gamma xhat + beta,  xhat = (x - mean) / s,  s = sqrt(var + eps)

mean and var are those of one image's group of channels, over the n numbers that it holds. As in batch norm (norm.pyx)

    dx_i = (gamma dy_i - mean(gamma dy) - xhat_i mean(gamma dy xhat)) / s
    dgamma = sum dy xhat,  dbeta = sum dy

with the means over the group. Each lane is an image, so that all of it is lane by lane, but for dgamma and dbeta.
"""
from libc.math cimport sqrt

from cnn._ext.op cimport Image, Place, add_plane, add_row, begin, end, held, pixels, put, sixteen_numbers, streams, to_row
from cnn._ext.vec cimport (LANES, ROWV, VL, ivec, real, vec, vec_fence, vec_keep, vec_load, vec_splat, vec_store,
                           vec_sum)


ctypedef struct GroupNorm:
    Image x                     # IN  (C, H, W, 16)
    Image y                     # OUT (C, H, W, 16)
    Image stats                 # OUT (3 G, 1, 1, 16) of each group: the mean, what rounding took from it, and 1 / s
    const real* gamma           # IN  (C,) or NULL: 1
    const real* beta            # IN  (C,) or NULL: 0
    Py_ssize_t groups
    Py_ssize_t channels, height, width
    double eps

cdef void group_norm(const GroupNorm* a, const Place* place) noexcept nogil:
    """y = gamma (x - mean) / s + beta. The mean is summed in double, because what is left where numbers cancel must be
    exact; squares of a row of pixels in the array's precision, of rows in double."""
    cdef bint past = streams(a.channels, a.height, a.width)
    cdef Py_ssize_t g, c, h, i, size = a.channels // a.groups
    cdef double n = <double>(size * a.height * a.width)
    cdef double mean[16]
    cdef double other[16]
    cdef const real* x
    cdef real* y
    cdef vec centre[8]
    cdef vec off[8]
    cdef vec inverse[8]
    cdef vec s[8]
    cdef ivec holds[8]
    cdef vec gamma, beta, d
    cdef int q, lane
    held(place, holds)
    for g in range(begin(a.groups, place), end(a.groups, place)):
        for lane in range(LANES):
            mean[lane] = other[lane] = 0
        for c in range(g * size, (g + 1) * size):
            add_plane(mean, &a.x, c, a.height, a.width)
        for lane in range(LANES):
            mean[lane] /= n
        to_row(mean, centre)
        for lane in range(LANES):
            mean[lane] -= <real>mean[lane]
        to_row(mean, off)
        for c in range(g * size, (g + 1) * size):
            for h in range(a.height):
                x = pixels(&a.x, c, h)
                for q in range(ROWV):
                    s[q] = vec_splat(0)
                for i in range(a.width):
                    for q in range(ROWV):
                        d = vec_load(x + i * LANES + q * VL) - centre[q] - off[q]
                        s[q] = s[q] + d * d
                add_row(other, s)
        for lane in range(LANES):
            other[lane] = 1 / sqrt(other[lane] / n + a.eps)
        to_row(other, inverse)
        for q in range(ROWV):
            vec_store(pixels(&a.stats, 3 * g, 0) + q * VL, centre[q])
            vec_store(pixels(&a.stats, 3 * g + 1, 0) + q * VL, off[q])
            vec_store(pixels(&a.stats, 3 * g + 2, 0) + q * VL, inverse[q])
        for c in range(g * size, (g + 1) * size):
            gamma, beta = vec_splat(a.gamma[c] if a.gamma else 1), vec_splat(a.beta[c] if a.beta else 0)
            for h in range(a.height):
                x = pixels(&a.x, c, h)
                y = pixels(&a.y, c, h)
                for i in range(a.width):
                    for q in range(ROWV):
                        d = (vec_load(x + i * LANES + q * VL) - centre[q] - off[q]) * inverse[q]
                        put(y + i * LANES + q * VL, vec_keep(holds[q], gamma * d + beta), past)
    if past:
        vec_fence()


ctypedef struct GroupNormBackward:
    Image dy                    # IN  (C, H, W, 16)
    Image x                     # IN  (C, H, W, 16)
    Image stats                 # IN  (3 G, 1, 1, 16), as `group_norm` has left it
    Image dx                    # OUT (C, H, W, 16); NULL where it is not wanted
    const real* gamma           # IN  (C,) or NULL: 1
    real* dgamma                # OUT (C,) of a shard, or NULL
    real* dbeta                 # OUT (C,) of a shard, or NULL
    Py_ssize_t groups
    Py_ssize_t channels, height, width

cdef void group_norm_backward(const GroupNormBackward* a, const Place* place) noexcept nogil:
    """dx = (gamma dy - mean(gamma dy) - xhat mean(gamma dy xhat)) / s; dgamma and dbeta of one block"""
    cdef Py_ssize_t g, c, h, i, size = a.channels // a.groups
    cdef double n = <double>(size * a.height * a.width)
    cdef double first[16]
    cdef double second[16]
    cdef const real* x
    cdef const real* dy
    cdef real* dx
    cdef vec centre[8]
    cdef vec off[8]
    cdef vec inverse[8]
    cdef vec s[8]
    cdef vec t[8]
    cdef vec gamma, d, u
    cdef real along, plain      # sums of dy xhat and of dy
    cdef int q, lane
    for g in range(begin(a.groups, place), end(a.groups, place)):
        for q in range(ROWV):
            centre[q] = vec_load(pixels(&a.stats, 3 * g, 0) + q * VL)
            off[q] = vec_load(pixels(&a.stats, 3 * g + 1, 0) + q * VL)
            inverse[q] = vec_load(pixels(&a.stats, 3 * g + 2, 0) + q * VL)
        for lane in range(LANES):
            first[lane] = second[lane] = 0
        for c in range(g * size, (g + 1) * size):
            gamma = vec_splat(a.gamma[c] if a.gamma else 1)
            along = plain = 0
            for h in range(a.height):
                x = pixels(&a.x, c, h)
                dy = pixels(&a.dy, c, h)
                for q in range(ROWV):
                    s[q] = t[q] = vec_splat(0)
                for i in range(a.width):
                    for q in range(ROWV):
                        u = vec_load(dy + i * LANES + q * VL)
                        s[q] = s[q] + u
                        t[q] = t[q] + u * ((vec_load(x + i * LANES + q * VL) - centre[q] - off[q]) * inverse[q])
                for q in range(ROWV):       # dy is 0 in lanes without an image
                    plain += vec_sum(s[q])
                    along += vec_sum(t[q])
                    s[q] = gamma * s[q]
                    t[q] = gamma * t[q]
                add_row(first, s)
                add_row(second, t)
            if a.dgamma:
                a.dgamma[c] = along if place.first else a.dgamma[c] + along
            if a.dbeta:
                a.dbeta[c] = plain if place.first else a.dbeta[c] + plain
        if a.dx.data == NULL:
            continue
        for lane in range(LANES):
            first[lane] /= n
            second[lane] /= n
        to_row(first, s)
        to_row(second, t)
        for c in range(g * size, (g + 1) * size):
            gamma = vec_splat(a.gamma[c] if a.gamma else 1)
            for h in range(a.height):
                x = pixels(&a.x, c, h)
                dy = pixels(&a.dy, c, h)
                dx = pixels(&a.dx, c, h)
                for i in range(a.width):
                    for q in range(ROWV):
                        d = (vec_load(x + i * LANES + q * VL) - centre[q] - off[q]) * inverse[q]
                        u = gamma * vec_load(dy + i * LANES + q * VL) - s[q] - d * t[q]
                        vec_store(dx + i * LANES + q * VL, u * inverse[q])


# ---------------------------------------------------------------- channels side by side

cdef struct Normal:             # what sixteen channels are normalised with
    vec centre[8]
    vec off[8]
    vec inverse[8]


cdef inline Py_ssize_t whole_groups(Py_ssize_t channels, Py_ssize_t each) noexcept nogil:
    """How many sixteens of channels, from each multiple of this number on, hold whole groups of `each` channels."""
    if LANES % each == 0:
        return 1
    return each // LANES if each % LANES == 0 else (channels + LANES - 1) // LANES


cdef inline void find_normal(const double* stats, Py_ssize_t c0, Py_ssize_t channels, Py_ssize_t each, Normal* to
                             ) noexcept nogil:
    """Of the channels from c0 on; 0 in lanes without a channel."""
    cdef double centre[16]
    cdef double off[16]
    cdef double inverse[16]
    cdef const double* own
    cdef int lane
    for lane in range(LANES):
        own = stats + 4 * ((c0 + lane) // each)
        centre[lane] = own[0] if c0 + lane < channels else 0
        inverse[lane] = own[1] if c0 + lane < channels else 0
        off[lane] = centre[lane] - <real>centre[lane]
    to_row(centre, to.centre)
    to_row(off, to.off)
    to_row(inverse, to.inverse)


ctypedef struct GroupNormChannels:
    Image x                     # IN  (C / 16, H, W, 16)
    Image y                     # OUT (C / 16, H, W, 16)
    const real* gamma           # IN  (C,) or NULL: 1
    const real* beta            # IN  (C,) or NULL: 0
    double* stats               # OUT (groups, 4) mean, 1 / s, and room for the backward pass
    Py_ssize_t channels, height, width
    Py_ssize_t groups
    double eps

cdef void group_norm_channels(const GroupNormChannels* a, const Place* place) noexcept nogil:
    """The same of one image with its channels side by side."""
    cdef Py_ssize_t C = a.channels, each = C // a.groups, planes = (C + LANES - 1) // LANES
    cdef Py_ssize_t unit = whole_groups(C, each)
    cdef Py_ssize_t u, g, h, i, lane, first, last
    cdef double n = <double>(each * a.height * a.width)
    cdef double sums[16]
    cdef const real* x
    cdef real* y
    cdef Normal t
    cdef vec gamma[8]
    cdef vec beta[8]
    cdef vec s[8]
    cdef vec d
    cdef int q
    for u in range(begin((planes + unit - 1) // unit, place), end((planes + unit - 1) // unit, place)):
        first, last = u * unit * LANES // each, min(C, (u + 1) * unit * LANES) // each      # groups
        for g in range(first, last):
            a.stats[4 * g] = a.stats[4 * g + 1] = 0
        for g in range(u * unit, min(planes, (u + 1) * unit)):
            for lane in range(LANES):
                sums[lane] = 0
            add_plane(sums, &a.x, g, a.height, a.width)
            for lane in range(min(LANES, C - g * LANES)):
                a.stats[4 * ((g * LANES + lane) // each)] += sums[lane]
        for g in range(first, last):
            a.stats[4 * g] /= n
        for g in range(u * unit, min(planes, (u + 1) * unit)):
            find_normal(a.stats, g * LANES, C, each, &t)
            for lane in range(LANES):
                sums[lane] = 0
            for h in range(a.height):
                x = pixels(&a.x, g, h)
                for q in range(ROWV):
                    s[q] = vec_splat(0)
                for i in range(a.width):
                    for q in range(ROWV):
                        d = vec_load(x + i * LANES + q * VL) - t.centre[q] - t.off[q]
                        s[q] = s[q] + d * d
                add_row(sums, s)
            for lane in range(min(LANES, C - g * LANES)):
                a.stats[4 * ((g * LANES + lane) // each) + 1] += sums[lane]
        for g in range(first, last):
            a.stats[4 * g + 1] = 1 / sqrt(a.stats[4 * g + 1] / n + a.eps)
        for g in range(u * unit, min(planes, (u + 1) * unit)):
            find_normal(a.stats, g * LANES, C, each, &t)
            sixteen_numbers(a.gamma, 1, g, C, gamma)
            sixteen_numbers(a.beta, 0, g, C, beta)
            for h in range(a.height):
                x, y = pixels(&a.x, g, h), pixels(&a.y, g, h)
                for i in range(a.width):
                    for q in range(ROWV):
                        d = (vec_load(x + i * LANES + q * VL) - t.centre[q] - t.off[q]) * t.inverse[q]
                        vec_store(y + i * LANES + q * VL, gamma[q] * d + beta[q])


ctypedef struct GroupNormChannelsBackward:
    Image dy                    # IN  (C / 16, H, W, 16)
    Image x                     # IN  (C / 16, H, W, 16)
    Image dx                    # OUT (C / 16, H, W, 16) or NULL
    const real* gamma           # IN  (C,) or NULL: 1
    double* stats               # I/O (groups, 4) mean and 1 / s, and the sums over gamma dy and gamma dy xhat
    real* dgamma                # I/O (C,) of a shard, or NULL
    real* dbeta                 # I/O (C,) of a shard, or NULL
    Py_ssize_t channels, height, width
    Py_ssize_t groups

cdef void group_norm_channels_backward(const GroupNormChannelsBackward* a, const Place* place) noexcept nogil:
    """`group_norm_backward` of one image with its channels side by side."""
    cdef Py_ssize_t C = a.channels, each = C // a.groups, planes = (C + LANES - 1) // LANES
    cdef Py_ssize_t unit = whole_groups(C, each)
    cdef Py_ssize_t u, g, h, i, lane, c
    cdef double n = <double>(each * a.height * a.width), slope
    cdef double first[16]
    cdef double second[16]
    cdef double* own
    cdef const real* x
    cdef const real* dy
    cdef real* dx
    cdef Normal t
    cdef vec gamma[8]
    cdef vec plain[8]           # sums, then means, over dy
    cdef vec along[8]           # over dy xhat
    cdef vec d, v
    cdef int q
    for u in range(begin((planes + unit - 1) // unit, place), end((planes + unit - 1) // unit, place)):
        for g in range(u * unit * LANES // each, min(C, (u + 1) * unit * LANES) // each):
            a.stats[4 * g + 2] = a.stats[4 * g + 3] = 0
        for g in range(u * unit, min(planes, (u + 1) * unit)):
            find_normal(a.stats, g * LANES, C, each, &t)
            for lane in range(LANES):
                first[lane] = second[lane] = 0
            for h in range(a.height):
                x, dy = pixels(&a.x, g, h), pixels(&a.dy, g, h)
                for q in range(ROWV):
                    plain[q] = along[q] = vec_splat(0)
                for i in range(a.width):
                    for q in range(ROWV):
                        v = vec_load(dy + i * LANES + q * VL)
                        d = (vec_load(x + i * LANES + q * VL) - t.centre[q] - t.off[q]) * t.inverse[q]
                        plain[q] = plain[q] + v
                        along[q] = along[q] + v * d
                add_row(first, plain)
                add_row(second, along)
            for lane in range(min(LANES, C - g * LANES)):
                c = g * LANES + lane
                own, slope = a.stats + 4 * (c // each), a.gamma[c] if a.gamma else 1
                own[2] += slope * first[lane]
                own[3] += slope * second[lane]
                if a.dgamma:
                    a.dgamma[c] = <real>(second[lane] if place.first else a.dgamma[c] + second[lane])
                if a.dbeta:
                    a.dbeta[c] = <real>(first[lane] if place.first else a.dbeta[c] + first[lane])
        for g in range(u * unit, min(planes, (u + 1) * unit) if a.dx.data else 0):
            find_normal(a.stats, g * LANES, C, each, &t)
            sixteen_numbers(a.gamma, 1, g, C, gamma)
            for lane in range(LANES):
                own = a.stats + 4 * (min(C - 1, g * LANES + lane) // each)
                first[lane], second[lane] = own[2] / n, own[3] / n
            to_row(first, plain)
            to_row(second, along)
            for h in range(a.height):
                x, dy, dx = pixels(&a.x, g, h), pixels(&a.dy, g, h), pixels(&a.dx, g, h)
                for i in range(a.width):
                    for q in range(ROWV):
                        d = (vec_load(x + i * LANES + q * VL) - t.centre[q] - t.off[q]) * t.inverse[q]
                        v = gamma[q] * vec_load(dy + i * LANES + q * VL) - plain[q] - d * along[q]
                        vec_store(dx + i * LANES + q * VL, v * t.inverse[q])


SPLITS = ("group_norm", "group_norm_backward", "group_norm_channels", "group_norm_channels_backward")
include "kernels/group_norm.pxi"    # KERNELS
