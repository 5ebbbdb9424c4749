"""Elementary functions of vectors, without a branch. NaN stays NaN. tests/test_elementary.py holds them to the
errors given, mostly in units in the last place (ulp).
"""
from cnn._ext.vec cimport (EXP_MAX, EXP_MIN, EXP_TERMS, INV_FACTORIAL, LN2_HIGH, LN2_LOW, LOG2_E, TANH_MAX, VL,
                           real, real_erfc, vec, vec_abs, vec_copysign, vec_div, vec_gt, vec_load, vec_pow2,
                           vec_round, vec_select, vec_splat, vec_store)


cdef inline vec exp_parts(vec x, vec* rest) noexcept nogil:
    """e^x = 2^n (1 + rest): returns the whole number n. With r = x - n log 2, |r| <= log(2) / 2, the rest is
    the series r + r^2/2! + r^3/3! + ...; log 2 comes in two parts, so that r is exact to its last place."""
    cdef vec n = vec_round(x * vec_splat(LOG2_E))
    cdef vec r = x - n * vec_splat(LN2_HIGH) - n * vec_splat(LN2_LOW)
    cdef vec p = vec_splat(INV_FACTORIAL[EXP_TERMS])
    cdef int k
    for k in range(EXP_TERMS - 1, 1, -1):
        p = p * r + vec_splat(INV_FACTORIAL[k])
    rest[0] = r + r * r * p
    return n


cdef inline vec vec_exp(vec x) noexcept nogil:
    """e^x to 1 ulp; infinite or 0 where the number type ends, before that with the subnormals that are kept."""
    cdef vec rest, half
    x = vec_select(vec_gt(x, vec_splat(EXP_MAX)), vec_splat(EXP_MAX), x)
    x = vec_select(vec_gt(vec_splat(EXP_MIN), x), vec_splat(EXP_MIN), x)
    cdef vec n = exp_parts(x, &rest)
    half = vec_round(n * vec_splat(0.5))        # 2^n itself may be no number of this type
    return (vec_splat(1) + rest) * vec_pow2(half) * vec_pow2(n - half)


cdef inline vec vec_tanh(vec x) noexcept nogil:
    """tanh(x) = (e^2x - 1) / (e^2x + 1) = m / (m + 2) with m = e^2x - 1, which is precise near 0; to 3 ulp."""
    cdef vec rest, a = vec_abs(x), two_n, m
    a = vec_select(vec_gt(a, vec_splat(TANH_MAX)), vec_splat(TANH_MAX), a)
    cdef vec n = exp_parts(a + a, &rest)
    two_n = vec_pow2(n)
    m = two_n * rest + (two_n - vec_splat(1))
    return vec_copysign(vec_div(m, m + vec_splat(2)), x)


cdef inline vec vec_sigmoid(vec x) noexcept nogil:
    """1 / (1 + e^-x), as e^x / (1 + e^x) where x < 0; to 3 ulp."""
    cdef vec e = vec_exp(vec_splat(0) - vec_abs(x))
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
