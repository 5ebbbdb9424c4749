"""What this processor can execute, asked of the compiler's run-time library."""

cdef extern from *:
    """
    #if defined(__x86_64__) || defined(__i386__)
    #define CNN_X86 1
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
    #define CNN_X86 0
    static int has_avx2(void) { return 0; }
    static int has_avx512(void) { return 0; }
    #endif
    """
    bint CNN_X86
    bint has_avx2()
    bint has_avx512()


def supported():
    """Names of the kernel builds that this processor can run, the fastest first."""
    names = []
    if has_avx512():
        names.append("avx512")
    if has_avx2():
        names.append("avx2")
    return names + ["baseline"]
