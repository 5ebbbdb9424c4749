"""What the executor asks of the C compiler and of the operating system: atomic operations, threads, the clock, and how
the processor treats subnormal numbers."""
from libc.stdint cimport int64_t, uint64_t

cdef extern from *:
    """
    #include <pthread.h>
    #include <signal.h>
    #include <stdint.h>
    #include <stdlib.h>
    #include <time.h>
    #include <unistd.h>

    /* With CNN_DELAYS a thread may lose its core before any of these, as it may on a busy machine. */
    #ifdef CNN_DELAYS
    static inline void delay(void) {
        static __thread uint32_t drawn;
        drawn = 1664525 * drawn + 1013904223 + (uint32_t)(size_t)&drawn;
        if (drawn >> 27 == 0)
            usleep(drawn >> 20 & 63);
    }
    #else
    #define delay() ((void)0)
    #endif

    /* In one order that all threads agree upon. */
    #define look(p) (delay(), __atomic_load_n(p, __ATOMIC_SEQ_CST))
    #define put(p, value) (delay(), __atomic_store_n(p, value, __ATOMIC_SEQ_CST))
    #define add(p, value) (delay(), __atomic_add_fetch(p, value, __ATOMIC_SEQ_CST))
    #define replace(p, old, value) \
        (delay(), __atomic_compare_exchange_n(p, old, value, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST))

    #if defined(__x86_64__) || defined(__i386__)
    #define relax() __builtin_ia32_pause()
    #elif defined(__aarch64__)
    #define relax() __asm__ volatile("yield")
    #else
    #define relax()
    #endif

    static inline int64_t nanoseconds(void) {
        struct timespec t;
        clock_gettime(CLOCK_MONOTONIC, &t);
        return t.tv_sec * (int64_t)1000000000 + t.tv_nsec;
    }
    static inline long cores(void) {
        return sysconf(_SC_NPROCESSORS_ONLN);
    }

    /* A thread that leaves signals to Python's, but for those that an own fault raises; returns 0 if it has begun. */
    static inline int begin_thread(pthread_t* thread, void* (*function)(void*), void* argument) {
        sigset_t all, before;
        sigfillset(&all);
        sigdelset(&all, SIGSEGV), sigdelset(&all, SIGBUS), sigdelset(&all, SIGFPE), sigdelset(&all, SIGILL);
        pthread_sigmask(SIG_SETMASK, &all, &before);
        int error = pthread_create(thread, NULL, function, argument);
        pthread_sigmask(SIG_SETMASK, &before, NULL);
        return error;
    }
    /* Subnormal numbers, below 1e-38 in float32, become zero: the processor takes a hundred times as long for them, and
       whatever decays comes to them, as the momentum of a weight does that gets no gradient any more.
       flush_subnormals returns the mode that was set before. */
    #if defined(__x86_64__)
    #include <xmmintrin.h>
    static inline size_t flush_subnormals(void) {
        unsigned int before = _mm_getcsr();
        _mm_setcsr(before | 0x8040);        /* results (FTZ) and arguments (DAZ) */
        return before;
    }
    static inline void restore_mode(size_t before) {
        _mm_setcsr((unsigned int)before);
    }
    #elif defined(__aarch64__)
    static inline void restore_mode(size_t before) {
        __asm__ volatile("msr fpcr, %0" : : "r"(before));
    }
    static inline size_t flush_subnormals(void) {
        size_t before;
        __asm__ volatile("mrs %0, fpcr" : "=r"(before));
        restore_mode(before | 1 << 24);
        return before;
    }
    #else
    #define flush_subnormals() 0
    #define restore_mode(before)
    #endif
    """
    ctypedef struct pthread_t:
        pass
    ctypedef struct pthread_mutex_t:
        pass
    ctypedef struct pthread_cond_t:
        pass
    int pthread_mutex_init(pthread_mutex_t*, void*) nogil
    int pthread_mutex_lock(pthread_mutex_t*) nogil
    int pthread_mutex_unlock(pthread_mutex_t*) nogil
    int pthread_mutex_destroy(pthread_mutex_t*) nogil
    int pthread_cond_init(pthread_cond_t*, void*) nogil
    int pthread_cond_wait(pthread_cond_t*, pthread_mutex_t*) nogil
    int pthread_cond_broadcast(pthread_cond_t*) nogil
    int pthread_cond_destroy(pthread_cond_t*) nogil
    int pthread_join(pthread_t, void**) nogil
    int posix_memalign(void**, size_t, size_t) nogil
    int begin_thread(pthread_t*, void* (*)(void*) noexcept nogil, void*) nogil
    uint64_t look(uint64_t*) nogil
    void put(uint64_t*, uint64_t) nogil
    uint64_t add(uint64_t*, int64_t) nogil
    bint replace(uint64_t*, uint64_t*, uint64_t) nogil
    void relax() nogil
    int64_t nanoseconds() nogil
    long cores() nogil
    size_t flush_subnormals() nogil
    void restore_mode(size_t before) nogil

cdef struct Line:
    uint64_t value      # alone on its cache line
    uint64_t apart[7]
