"""Vectors: sixteen images side by side, as rows of native SIMD vectors.

Inside the network an activation has shape (blocks, C, H, W, 16): sixteen images interleaved on the
last axis. One *row* is the sixteen values of one pixel. Every kernel is then the textbook formula
in which each scalar is a row: contiguous whatever the stride, dilation, padding or overlap.

The kernels are compiled once per number type (CNN_REAL is float or double) and once per
instruction set; the compiler's own vector types do the rest, with plain + and *. A vector is as
wide as the target's registers, because wider ones are split badly; a row is ROWV vectors of VL
numbers. Cython sees `real` and `vec` as floats: only the C compiler knows their size.
"""

cdef extern from *:
    """
    #ifndef CNN_VEC_H
    #define CNN_VEC_H
    #include <math.h>
    #include <stdint.h>
    #ifndef CNN_REAL
    #define CNN_REAL float
    #define CNN_REAL_BITS 32
    #endif
    #if !defined(__GNUC__)
    #error "cnn needs GCC or Clang: its kernels use their vector types"
    #endif

    #if defined(__AVX512F__) || defined(CNN_WIDE)
    #define VEC_BYTES 64
    #define TILE_VECS 24  /* accumulators of a register tile: 32 registers, less operands */
    #elif defined(__AVX__)
    #define VEC_BYTES 32
    #define TILE_VECS 12  /* 16 registers */
    #elif defined(__aarch64__)
    #define VEC_BYTES 16
    #define TILE_VECS 24
    #else
    #define VEC_BYTES 16
    #define TILE_VECS 12
    #endif
    #define LANES 16
    #define VL ((int)(VEC_BYTES / sizeof(CNN_REAL)))
    #define ROWV (LANES / VL)

    typedef CNN_REAL real;
    #if CNN_REAL_BITS == 64
    typedef int64_t integer;
    typedef uint64_t natural;
    #define real_log log
    #define real_erfc erfc
    #define real_sqrt sqrt
    #define real_pow pow
    #define MANTISSA 52
    #define LN2_HIGH 6.93145751953125e-1        /* so few digits that its multiples are exact */
    #define LN2_LOW 1.42860682030941723212e-6
    #define EXP_MIN -746                        /* e^x is 0 below, infinite above */
    #define EXP_MAX 710
    #define EXP_END 709                         /* 2^n alone is a number, and 0 at its negative */
    /* series, up to the term that is less than half an ulp of the sum */
    #define EXP_SERIES {1.0 / 2, 1.0 / 6, 1.0 / 24, 1.0 / 120, 1.0 / 720, 1.0 / 5040, 1.0 / 40320, 1.0 / 362880, \
                        1.0 / 3628800, 1.0 / 39916800, 1.0 / 479001600, 1.0 / 6227020800}
    #define LOG_SERIES {2.0 / 3, 2.0 / 5, 2.0 / 7, 2.0 / 9, 2.0 / 11, 2.0 / 13, 2.0 / 15, 2.0 / 17, 2.0 / 19, 2.0 / 21}
    /* fitted */
    #define LOG1P_OVER {2.45338631556824412, 2.17255367284797262, 0.840595494386454482, 0.135520091016377362, \
                        0.00684881904846565466, 0.0000230189030699337736}
    #define LOG1P_UNDER {2.9533863155682422, 3.31591349729894419, 1.76409013784040688, 0.450607239831535376, \
                         0.049090169863993892, 0.00157944215343143911}
    #define SIN_SERIES {-1.0 / 6, 1.0 / 120, -1.0 / 5040, 1.0 / 362880, -1.0 / 39916800, 1.0 / 6227020800, \
                        -1.0 / 1307674368000, 1.0 / 355687428096000, -1.0 / 121645100408832000}
    #define COS_SERIES {-1.0 / 2, 1.0 / 24, -1.0 / 720, 1.0 / 40320, -1.0 / 3628800, 1.0 / 479001600, -1.0 / 87178291200, \
                        1.0 / 20922789888000, -1.0 / 6402373705728000}
    #define QUARTER {1.57079625129699707031, 7.54978941586159635336e-8, 5.39030285815811905290e-15}
    #define TURNS_END 1e5
    #define real_sin sin
    #define real_cos cos
    #define LEAST_NORMAL 2.2250738585072014e-308
    #define TANH_MAX 20                         /* tanh is 1 from here */
    #else
    typedef int32_t integer;
    typedef uint32_t natural;
    #define real_log logf
    #define real_erfc erfcf
    #define real_sqrt sqrtf
    #define real_pow powf
    #define MANTISSA 23
    #define LN2_HIGH 0.693359375
    #define LN2_LOW -2.12194440054690583e-4
    #define EXP_MIN -104
    #define EXP_MAX 89
    #define EXP_END 88
    /* all fitted, which takes fewer terms: the functions' relative errors are 3e-9, 1e-9 and 2e-8, of sine and cosine
       1e-10 */
    #define EXP_SERIES {0.499999934, 0.166665206, 0.041668388, 0.00836871688, 0.00138145986}
    #define LOG_SERIES {0.66666776, 0.39977574, 0.29870938}
    #define LOG1P_OVER {0.869515027, 0.124638428}
    #define LOG1P_UNDER {1.36951365, 0.476089439, 0.0313522729}
    #define SIN_SERIES {-0.166666666, 0.00833332932, -0.000198393167, 2.7181614e-06}
    #define COS_SERIES {-0.499999997, 0.0416666226, -0.00138867437, 2.43887941e-05}
    #define QUARTER {1.5703125, 4.837512969970703125e-4, 7.54978995489188216e-8}
    #define TURNS_END 4096
    #define real_sin sinf
    #define real_cos cosf
    #define LEAST_NORMAL 1.17549435e-38
    #define TANH_MAX 10
    #endif
    #define LOG2_E 1.44269504088896340736
    static const double EXP[] __attribute__((unused)) = EXP_SERIES;
    static const double LOG[] __attribute__((unused)) = LOG_SERIES;
    static const double OVER[] __attribute__((unused)) = LOG1P_OVER;
    static const double UNDER[] __attribute__((unused)) = LOG1P_UNDER;
    static const double SIN[] __attribute__((unused)) = SIN_SERIES;
    static const double COS[] __attribute__((unused)) = COS_SERIES;
    /* pi / 2 in three parts, of which the first two have so few digits that their multiples up to TURNS_END are exact */
    static const double QUARTER_TURN[] __attribute__((unused)) = QUARTER;
    #define TERMS(series) ((int)(sizeof(series) / sizeof(double)))
    enum { EXP_TERMS = TERMS(EXP), LOG_TERMS = TERMS(LOG), OVER_TERMS = TERMS(OVER), UNDER_TERMS = TERMS(UNDER),
           TURN_TERMS = TERMS(SIN) };
    typedef real vec __attribute__((vector_size(VEC_BYTES), may_alias));
    typedef integer ivec __attribute__((vector_size(VEC_BYTES), may_alias));
    typedef natural nvec __attribute__((vector_size(VEC_BYTES), may_alias));
    /* in memory: rows are 64-byte aligned in our own buffers, not in users' arrays. Variables are aligned, because an
       accumulator that goes by way of the stack must not straddle two cache lines. */
    typedef vec loose_vec __attribute__((aligned(sizeof(real))));
    typedef ivec loose_ivec __attribute__((aligned(sizeof(real))));

    /* doubles as wide as a vector, and as many numbers in memory as make up one */
    typedef double dvec __attribute__((vector_size(VEC_BYTES)));
    #define DVL ((int)(VEC_BYTES / sizeof(double)))
    typedef real few __attribute__((vector_size(VEC_BYTES * CNN_REAL_BITS / 64), may_alias));
    typedef few loose_few __attribute__((aligned(sizeof(real))));
    #define dvec_load(p) __builtin_convertvector(*(const loose_few*)(p), dvec)
    #define dvec_store(p, v) __builtin_memcpy(p, &(v), VEC_BYTES)
    #define dvec_zero() ((dvec){0})

    #define prefetch_write(p) __builtin_prefetch(p, 1)
    #define prefetch_second(p) __builtin_prefetch(p, 0, 2)    /* into the second cache */
    #define vec_load(p) (*(const loose_vec*)(p))
    #define vec_store(p, v) (*(loose_vec*)(p) = (v))
    /* to memory, past the caches, where a result is larger than these; p on a cache line. Before other threads read it,
       vec_fence. The sanitizers would not see it. */
    #if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__) || defined(CNN_WIDE)
    #define vec_stream(p, v) vec_store(p, v)
    #elif defined(__clang__)
    #define vec_stream(p, v) __builtin_nontemporal_store((v), (vec*)(p))
    #elif defined(__SSE2__)
    #define STREAM_AS(type, width) __builtin_ia32_movnt##type##width
    #define STREAM(type, width) STREAM_AS(type, width)
    #if CNN_REAL_BITS == 64
    #define STREAM_TYPE pd
    #else
    #define STREAM_TYPE ps
    #endif
    #if VEC_BYTES == 64
    #define STREAM_WIDTH 512
    #elif VEC_BYTES == 32
    #define STREAM_WIDTH 256
    #else
    #define STREAM_WIDTH
    #endif
    #define vec_stream(p, v) STREAM(STREAM_TYPE, STREAM_WIDTH)((real*)(p), (v))
    #else
    #define vec_stream(p, v) vec_store(p, v)
    #endif
    #ifdef __SSE2__
    #define vec_fence() __builtin_ia32_sfence()
    #else
    #define vec_fence() ((void)0)
    #endif
    #define vec_splat(s) ((real)(s) - (vec){0})    /* x - 0 is x, and no instruction; 0 + x would make 0 of -0 */
    #define vec_div(a, b) ((a) / (b))  /* Cython's / is for numbers */
    #define ivec_load(p) (*(const loose_ivec*)(p))
    #define ivec_store(p, v) (*(loose_ivec*)(p) = (v))
    #define ivec_splat(s) ((ivec){0} + (integer)(s))
    /* masks: every bit of a lane set where the comparison holds */
    #define vec_gt(a, b) ((ivec)((a) > (b)))
    #define vec_le(a, b) ((ivec)((a) <= (b)))
    #define vec_isnan(a) ((ivec)((a) != (a)))
    #define ivec_eq(a, b) ((ivec)((a) == (b)))
    #define vec_select(mask, a, b) ((vec)(((mask) & (ivec)(a)) | (~(mask) & (ivec)(b))))
    #define ivec_select(mask, a, b) (((mask) & (a)) | (~(mask) & (b)))
    #define vec_keep(mask, a) ((vec)((mask) & (ivec)(a)))
    #define vec_clear(mask, a) ((vec)(~(mask) & (ivec)(a)))
    #define ivec_or(a, b) ((a) | (b))
    #define ivec_and(a, b) ((a) & (b))
    #define vec_lt(a, b) ((ivec)((a) < (b)))
    #define vec_eq(a, b) ((ivec)((a) == (b)))
    /* x < 0 becomes 0; NaN stays NaN */
    #define vec_relu(a) vec_clear((ivec)((a) < 0), a)

    #define SIGN ((integer)((natural)1 << (sizeof(real) * 8 - 1)))
    #define vec_abs(a) ((vec)((ivec)(a) & ~SIGN))
    #define vec_copysign(a, b) ((vec)(((ivec)(a) & ~SIGN) | ((ivec)(b) & SIGN)))
    /* Added to a number below 2^(MANTISSA - 1), this leaves no digits behind the point. */
    #define ROUNDER ((real)((integer)3 << (MANTISSA - 1)))
    #define vec_round(a) ((a) + ROUNDER - ROUNDER)
    /* Added to a number a within the exponents of the type, this leaves a + BIAS, rounded, in the last digits, from
       where vec_power makes 2^a; 0 of the exponent below them. */
    #define BIASED (ROUNDER + (real)BIAS)
    #define vec_power(a) ((vec)((nvec)(a) << MANTISSA))
    /* A positive normal number is 2^e m with sqrt(1/2) <= m < sqrt(2): its whole number e, and m. Of others, which get
       here too, anything: unsigned, so that nothing overflows. */
    #define HALF_ROOT ((natural)(MANTISSA == 23 ? 0x3F3504F3 : 0x3FE6A09E667F3BCD))
    #define BIAS (((natural)1 << (sizeof(real) * 8 - MANTISSA - 2)) - 1)
    #define vec_exponent(a) ((vec)(((nvec)(a) - HALF_ROOT + (BIAS << MANTISSA)) >> MANTISSA \
                                   | (nvec)vec_splat(ROUNDER)) - (ROUNDER + BIAS))
    #define vec_fraction(a) ((vec)((((nvec)(a) - HALF_ROOT) & (((natural)1 << MANTISSA) - 1)) + HALF_ROOT))
    static inline vec vec_sqrt(vec a) {
        for (int i = 0; i < VL; i++) a[i] = real_sqrt(a[i]);
        return a;
    }

    #if defined(__clang__) || VEC_BYTES * 8 / CNN_REAL_BITS < 4
    /* Sum of a vector's numbers, by halves: always in the same order. */
    static inline real vec_sum(vec v) {
        for (int n = VL / 2; n; n /= 2)
            for (int i = 0; i < n; i++) v[i] += v[i + n];
        return v[0];
    }
    /* the largest of a vector's numbers */
    static inline real vec_most(vec v) {
        for (int n = VL / 2; n; n /= 2)
            for (int i = 0; i < n; i++) v[i] = v[i + n] > v[i] ? v[i + n] : v[i];
        return v[0];
    }
    /* out[i] = the sum of the numbers of v[i], one of VL vectors, which are used up. */
    static inline void vec_sums(vec* v, real* out) {
        for (int i = 0; i < VL; i++) out[i] = vec_sum(v[i]);
    }
    static inline void vec_sum4(vec a, vec b, vec c, vec d, real* out) {
        out[0] = vec_sum(a), out[1] = vec_sum(b), out[2] = vec_sum(c), out[3] = vec_sum(d);
    }
    static inline void transpose(const real* x, Py_ssize_t x_step, real* y, Py_ssize_t y_step) {
        for (int i = 0; i < LANES; i++)
            for (int j = 0; j < LANES; j++) y[j * y_step + i] = x[i * x_step + j];
    }
    #else
    #if VEC_BYTES * 8 / CNN_REAL_BITS == 16
    static const ivec vec_lane = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    #elif VEC_BYTES * 8 / CNN_REAL_BITS == 8
    static const ivec vec_lane = {0, 1, 2, 3, 4, 5, 6, 7};
    #else
    static const ivec vec_lane = {0, 1, 2, 3};
    #endif
    /* the same sum in the same order, in a fifth of the instructions that GCC makes of the loop */
    static inline real vec_sum(vec v) {
        for (int n = VL / 2; n; n /= 2) v += __builtin_shuffle(v, vec_lane ^ n);
        return v[0];
    }
    static inline real vec_most(vec v) {
        for (int n = VL / 2; n; n /= 2) {
            vec other = __builtin_shuffle(v, vec_lane ^ n);
            v = vec_select(vec_gt(other, v), other, v);
        }
        return v[0];
    }
    /* b's lanes in place of a's where the lane's number has bit n */
    #define vec_bit(n) ((vec_lane & (n)) / (n) * VL)
    /* In lanes whose number lacks bit n, a[l] + a[l ^ n]; in the others b[l] + b[l ^ n]. */
    #define vec_merge(a, b, n) (__builtin_shuffle(a, b, vec_lane + vec_bit(n)) \
                                + __builtin_shuffle(a, b, (vec_lane ^ (n)) + vec_bit(n)))
    /* The sums of four vectors' numbers, with a third of the shuffles that one by one would take. */
    static inline void vec_sum4(vec a, vec b, vec c, vec d, real* out) {
        vec ab = vec_merge(a, b, 1), cd = vec_merge(c, d, 1), all = vec_merge(ab, cd, 2);
        if (VL >= 8) all += __builtin_shuffle(all, vec_lane ^ (VL >= 8 ? 4 : 0));
        if (VL >= 16) all += __builtin_shuffle(all, vec_lane ^ (VL >= 16 ? 8 : 0));
        for (int i = 0; i < 4; i++) out[i] = all[i];
    }
    #define MERGE_STEP(n) \
        for (int i = 0; (n) < VL && i < VL / 2 / (n); i++) v[i] = vec_merge(v[2 * i], v[2 * i + 1], n);
    static inline void vec_sums(vec* v, real* out) {
        MERGE_STEP(1)
        MERGE_STEP(2)
        MERGE_STEP(4)
        MERGE_STEP(8)
        vec_store(out, v[0]);
    }
    /* y[j, i] = x[i, j], 16 by 16 numbers: squares as wide as a vector, whose halves, quarters, ...
       change places. */
    #define TRANSPOSE_STEP(n) \
        if ((n) < VL) \
            for (int i = 0; i < VL; i++) \
                if (!(i & (n))) { \
                    vec a = v[i], b = v[(i + (n)) % VL]; \
                    v[i] = __builtin_shuffle(a, b, vec_lane + vec_bit(n) - (vec_lane & (n))); \
                    v[(i + (n)) % VL] = __builtin_shuffle(a, b, (vec_lane | (n)) + vec_bit(n)); \
                }
    static inline void transpose(const real* x, Py_ssize_t x_step, real* y, Py_ssize_t y_step) {
        for (int down = 0; down < LANES; down += VL)
            for (int right = 0; right < LANES; right += VL) {
                vec v[VEC_BYTES * 8 / CNN_REAL_BITS];
                for (int i = 0; i < VL; i++) v[i] = vec_load(x + (down + i) * x_step + right);
                TRANSPOSE_STEP(1)
                TRANSPOSE_STEP(2)
                TRANSPOSE_STEP(4)
                TRANSPOSE_STEP(8)
                for (int i = 0; i < VL; i++) vec_store(y + (right + i) * y_step + down, v[i]);
            }
    }
    #endif
    /* whether any number of a is larger than b: rarely */
    #if defined(__clang__) || !defined(__SSE2__) || defined(CNN_WIDE)
    #define ANY_OVER(a, b) (vec_most(a) > (b))
    #elif VEC_BYTES == 64 && CNN_REAL_BITS == 32
    #define ANY_OVER(a, b) __builtin_ia32_cmpps512_mask(a, vec_splat(b), 30, -1, 4)
    #elif VEC_BYTES == 64
    #define ANY_OVER(a, b) __builtin_ia32_cmppd512_mask(a, vec_splat(b), 30, -1, 4)
    #elif VEC_BYTES == 32 && CNN_REAL_BITS == 32
    #define ANY_OVER(a, b) __builtin_ia32_movmskps256((vec)((a) > (b)))
    #elif VEC_BYTES == 32
    #define ANY_OVER(a, b) __builtin_ia32_movmskpd256((vec)((a) > (b)))
    #elif CNN_REAL_BITS == 32
    #define ANY_OVER(a, b) __builtin_ia32_movmskps((vec)((a) > (b)))
    #else
    #define ANY_OVER(a, b) __builtin_ia32_movmskpd((vec)((a) > (b)))
    #endif
    #define vec_any_over(a, b) __builtin_expect(ANY_OVER(a, (real)(b)) != 0, 0)
    #endif
    """
    ctypedef float real
    ctypedef int integer
    ctypedef float vec
    ctypedef int ivec
    ctypedef double dvec
    enum:
        LANES
        VL
        DVL
        ROWV
        TILE_VECS
        EXP_TERMS
        LOG_TERMS
        OVER_TERMS
        UNDER_TERMS
        TURN_TERMS
    void prefetch_second(const real* p) nogil
    void prefetch_write(const real* p) nogil
    dvec dvec_load(const real* p) nogil
    void dvec_store(double* p, dvec v) nogil
    dvec dvec_zero() nogil
    vec vec_load(const real* p) nogil
    void vec_store(real* p, vec v) nogil
    void vec_stream(real* p, vec v) nogil
    void vec_fence() nogil
    vec vec_splat(real s) nogil
    vec vec_div(vec a, vec b) nogil
    ivec ivec_load(const integer* p) nogil
    void ivec_store(integer* p, ivec v) nogil
    ivec ivec_splat(Py_ssize_t s) nogil
    ivec vec_gt(vec a, vec b) nogil
    ivec vec_le(vec a, vec b) nogil
    ivec vec_isnan(vec a) nogil
    ivec ivec_eq(ivec a, ivec b) nogil
    vec vec_select(ivec mask, vec a, vec b) nogil
    ivec ivec_select(ivec mask, ivec a, ivec b) nogil
    vec vec_keep(ivec mask, vec a) nogil
    vec vec_clear(ivec mask, vec a) nogil
    ivec ivec_or(ivec a, ivec b) nogil
    ivec ivec_and(ivec a, ivec b) nogil
    ivec vec_lt(vec a, vec b) nogil
    ivec vec_eq(vec a, vec b) nogil
    vec vec_exponent(vec a) nogil
    vec vec_fraction(vec a) nogil
    vec vec_sqrt(vec a) nogil
    real real_pow(real x, real n) nogil
    real real_sin(real x) nogil
    real real_cos(real x) nogil
    vec vec_relu(vec a) nogil
    real vec_sum(vec v) nogil
    real vec_most(vec v) nogil
    bint vec_any_over(vec a, real b) nogil
    void vec_sums(vec* v, real* out) nogil
    void transpose(const real* x, Py_ssize_t x_step, real* y, Py_ssize_t y_step) nogil
    void vec_sum4(vec a, vec b, vec c, vec d, real* out) nogil
    vec vec_abs(vec a) nogil
    vec vec_copysign(vec a, vec b) nogil
    vec vec_round(vec a) nogil
    vec vec_power(vec a) nogil
    real real_log(real x) nogil
    real real_erfc(real x) nogil
    real real_sqrt(real x) nogil
    const double EXP[12]
    const double LOG[10]
    const double OVER[6]
    const double UNDER[6]
    const double SIN[9]
    const double COS[9]
    const double QUARTER_TURN[3]
    const real BIASED, LEAST_NORMAL, LN2_HIGH, LN2_LOW, EXP_MIN, EXP_MAX, EXP_END, LOG2_E, TANH_MAX, TURNS_END
