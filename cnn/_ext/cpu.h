/* Which instruction sets this processor has, asked of the compiler's run-time library. setup.py asks, too. */
#if defined(__x86_64__) || defined(__i386__)
static int has_avx2(void) {
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}
static int has_avx512(void) {
    __builtin_cpu_init();
    return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl")
        && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw");
}
#else
static int has_avx2(void) { return 0; }
static int has_avx512(void) { return 0; }
#endif
