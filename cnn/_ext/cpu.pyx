"""What this processor can execute, asked of the compiler's run-time library."""

cdef extern from "cpu.h":
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
