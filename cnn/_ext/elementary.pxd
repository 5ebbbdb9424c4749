"""Elementary functions of vectors, mostly without a branch. NaN stays NaN. tests/test_elementary.py holds them to the
errors given, mostly in units in the last place (ulp).
"""
from libc.math cimport INFINITY, NAN

from cnn._ext.vec cimport (BIASED, COS, EXP, EXP_END, EXP_MAX, EXP_MIN, EXP_TERMS, LEAST_NORMAL, LN2_HIGH, LN2_LOW, LOG,
                           LOG2_E, LOG_TERMS, OVER, OVER_TERMS, QUARTER_TURN, SIN, TANH_MAX, TURN_TERMS, TURNS_END,
                           UNDER, UNDER_TERMS, VL, ivec, ivec_or, real, real_erfc, real_pow, vec, vec_abs, vec_any_over,
                           vec_clear, vec_copysign, vec_div, vec_eq, vec_exponent, vec_fraction, vec_gt, vec_le,
                           vec_load, vec_lt, vec_power, vec_round, vec_select, vec_splat, vec_store)


cdef inline vec polynomial(vec x, const double* series, int terms) noexcept nogil:
    """series[0] + series[1] x + series[2] x^2 + ..."""
    cdef vec p = vec_splat(series[terms - 1])
    cdef int k
    for k in range(terms - 2, -1, -1):
        p = p * x + vec_splat(series[k])
    return p


cdef inline vec exp_parts(vec x, vec* rest, vec* two_n) noexcept nogil:
    """e^x = 2^n (1 + rest): returns the whole number n. With r = x - n log 2, |r| <= log(2) / 2, the rest is
    the series r + r^2/2! + r^3/3! + ...; log 2 comes in two parts, so that r is exact to its last place."""
    cdef vec end = x * vec_splat(LOG2_E) + vec_splat(BIASED), n = end - vec_splat(BIASED)
    cdef vec r = x - n * vec_splat(LN2_HIGH) - n * vec_splat(LN2_LOW)
    rest[0] = r + r * r * polynomial(r, EXP, EXP_TERMS)
    two_n[0] = vec_power(end)
    return n


cdef inline vec vec_exp(vec x) noexcept nogil:
    """e^x to 1 ulp; infinite or 0 where the number type ends, before that with the subnormals that are kept."""
    cdef vec rest, two_n, half
    x = vec_select(vec_gt(x, vec_splat(EXP_MAX)), vec_splat(EXP_MAX), x)
    x = vec_select(vec_gt(vec_splat(EXP_MIN), x), vec_splat(EXP_MIN), x)
    cdef vec n = exp_parts(x, &rest, &two_n)    # 2^n itself may be no number of this type
    half = vec_round(n * vec_splat(0.5))
    return (vec_splat(1) + rest) * vec_power(half + vec_splat(BIASED)) * vec_power(n - half + vec_splat(BIASED))


cdef inline vec vec_exp_within(vec x) noexcept nogil:
    """vec_exp of an x from -EXP_END, where it is 0, to EXP_END; anything elsewhere. NaN stays NaN."""
    cdef vec rest, two_n
    exp_parts(x, &rest, &two_n)
    return (vec_splat(1) + rest) * two_n


cdef inline vec vec_exp_limited(vec x) noexcept nogil:
    """vec_exp of an x that is at most EXP_END; 0 below -EXP_END."""
    return vec_exp_within(vec_select(vec_gt(vec_splat(-EXP_END), x), vec_splat(-EXP_END), x))


cdef inline vec vec_expm1(vec x) noexcept nogil:
    """e^x - 1 where x <= 0, precise near 0; to 2 ulp."""
    cdef vec rest, two_n
    x = vec_select(vec_gt(vec_splat(-40), x), vec_splat(-40), x)        # -1 from here
    exp_parts(x, &rest, &two_n)
    return two_n * rest + (two_n - vec_splat(1))


cdef inline vec vec_log(vec x) noexcept nogil:
    """The natural logarithm, to 1 ulp; NaN below 0, and subnormal numbers are 0, as everywhere in the kernels.
    Of x = 2^e m it is e log 2 + log m, and with f = m - 1 and s = f / (2 + f)
    log m = log (1 + s) / (1 - s) = f - f^2/2 + s (f^2/2 + 2/3 s^2 + 2/5 s^4 + ...), as in FreeBSD's e_log.c."""
    cdef vec e = vec_exponent(x), f = vec_fraction(x) - vec_splat(1), half = vec_splat(0.5) * f * f
    cdef vec s = vec_div(f, vec_splat(2) + f), z = s * s, y
    y = s * (half + z * polynomial(z, LOG, LOG_TERMS)) + e * vec_splat(LN2_LOW)
    y = e * vec_splat(LN2_HIGH) + (f - (half - y))
    y = vec_select(vec_lt(x, vec_splat(<real>INFINITY)), y, x)          # infinity and NaN stay
    y = vec_select(vec_lt(x, vec_splat(LEAST_NORMAL)), vec_splat(<real>-INFINITY), y)
    return vec_select(vec_lt(x, vec_splat(0)), vec_splat(<real>NAN), y)


cdef inline vec vec_softplus(vec x, real a, real limit) noexcept nogil:
    """log(1 + e^ax) / a where ax <= limit, else x; to 4 ulp. It is max(ax, 0) + log(1 + u) with u = e^-|ax|, and
    log(1 + u) = u (1 + u P(u)) / (1 + u Q(u)), where P and Q are polynomials fitted on 0 <= u <= 1."""
    cdef vec z = vec_splat(a) * x, size = vec_copysign(z, vec_splat(-1))
    cdef ivec linear = vec_gt(z, vec_splat(limit))
    cdef vec u = vec_clear(ivec_or(linear, vec_gt(vec_splat(-EXP_END), size)), vec_exp_within(size)), over, under
    over = u + u * u * polynomial(u, OVER, OVER_TERMS)
    under = vec_splat(1) + u * polynomial(u, UNDER, UNDER_TERMS)
    return vec_clear(vec_le(z, vec_splat(limit if limit < 0 else 0)), x) + vec_div(over, under) * vec_splat(1 / a)


cdef inline vec vec_pow(vec x, real n) noexcept nogil:
    """x^n: whole powers up to 4 by multiplication, to 2 ulp; others by the C library, because a logarithm of this
    type, times n, is not precise enough."""
    cdef vec y = x
    cdef real numbers[16]
    cdef real size = n if n >= 0 else -n
    cdef int i
    if size == 0:
        return vec_splat(1)
    if size > 4 or size != <int>size:
        vec_store(numbers, x)
        for i in range(VL):
            numbers[i] = real_pow(numbers[i], n)
        return vec_load(numbers)
    for i in range(1, <int>size):
        y = y * x
    return vec_div(vec_splat(1), y) if n < 0 else y


cdef extern from *:
    """
    /* out of the way of the others: a call amid a loop costs it its registers */
    static __attribute__((noinline, cold)) vec turn_by_library(vec x, int cosine) {
        for (int i = 0; i < VL; i++) x[i] = cosine ? real_cos(x[i]) : real_sin(x[i]);
        return x;
    }
    """
    vec turn_by_library(vec x, int cosine) nogil


cdef inline vec vec_turn(vec x, bint cosine) noexcept nogil:
    """sin(x), or with `cosine` cos(x): to 2 ulp, of float32 where that is more than 0.001. x is n quarter turns and r,
    |r| <= pi / 4, whose sine and cosine are the series r - r^3/3! + ... and 1 - r^2/2! + ...; n, but for whole turns,
    says which of both it is, and its sign. Beyond TURNS_END r is not precise: there by the C library."""
    cdef vec n, r, z, m, p
    cdef ivec odd
    cdef int i
    if vec_any_over(vec_abs(x), TURNS_END):
        return turn_by_library(x, cosine)
    n = vec_round(x * vec_splat(0.63661977236758134308))
    r = x - n * vec_splat(QUARTER_TURN[0]) - n * vec_splat(QUARTER_TURN[1]) - n * vec_splat(QUARTER_TURN[2])
    z = r * r
    m = n + vec_splat(1) if cosine else n
    m = m - vec_splat(4) * vec_round(m * vec_splat(0.25))       # from -2 to 2
    odd = vec_eq(vec_abs(m), vec_splat(1))
    p = vec_select(odd, vec_splat(COS[TURN_TERMS - 1]), vec_splat(SIN[TURN_TERMS - 1]))
    for i in range(TURN_TERMS - 2, -1, -1):
        p = p * z + vec_select(odd, vec_splat(COS[i]), vec_splat(SIN[i]))
    r = vec_select(odd, vec_splat(1), r)
    r = r + r * z * p
    return vec_select(ivec_or(vec_lt(m, vec_splat(-0.5)), vec_gt(m, vec_splat(1.5))), vec_splat(0) - r, r)


cdef inline vec vec_tanh(vec x) noexcept nogil:
    """tanh(x) = (e^2x - 1) / (e^2x + 1) = m / (m + 2) with m = e^2x - 1, which is precise near 0; to 3 ulp."""
    cdef vec rest, a = vec_abs(x), two_n, m
    a = vec_select(vec_gt(a, vec_splat(TANH_MAX)), vec_splat(TANH_MAX), a)
    exp_parts(a + a, &rest, &two_n)
    m = two_n * rest + (two_n - vec_splat(1))
    return vec_copysign(vec_div(m, m + vec_splat(2)), x)


cdef inline vec vec_sigmoid(vec x) noexcept nogil:
    """1 / (1 + e^-x), as e^x / (1 + e^x) where x < 0; to 3 ulp."""
    cdef vec e = vec_exp_limited(vec_splat(0) - vec_abs(x))
    return vec_div(vec_select(vec_gt(vec_splat(0), x), e, vec_splat(1)), vec_splat(1) + e)


cdef inline vec vec_normal(vec x, vec* bell) noexcept nogil:
    """The normal distribution function erfc(-x / sqrt(2)) / 2, and bell = e^(-x^2/2).

    float64: by the C library. float32, to 2e-7: the tail is e^(-x^2/2) p(k) with k = 1 / (1 + 0.34 |x|), where
    p is a polynomial fitted on |x| <= 14 to a relative error of 3e-8, with p(1) = 1/2.
    """
    cdef vec z = vec_abs(x), k, p
    cdef real tail[16]
    cdef int i
    bell[0] = vec_exp(vec_splat(-0.5) * x * x)
    if sizeof(real) == 8:
        vec_store(tail, z)
        for i in range(VL):
            tail[i] = <real>(0.5 * real_erfc(tail[i] * 0.70710678118654752440))
        p = vec_load(tail)
    else:
        k = vec_div(vec_splat(1), vec_splat(1) + vec_splat(0.34) * z)
        p = vec_splat(-0.02612102)
        p = p * k + vec_splat(0.13950205)
        p = p * k - vec_splat(0.27313781)
        p = p * k + vec_splat(0.20218819)
        p = p * k - vec_splat(0.04472205)
        p = p * k + vec_splat(0.1153606)
        p = p * k + vec_splat(0.11519732)
        p = p * k + vec_splat(0.13611224)
        p = p * k + vec_splat(0.13562048)
        p = p * k * bell[0]
    return vec_select(vec_gt(x, vec_splat(0)), vec_splat(1) - p, p)
