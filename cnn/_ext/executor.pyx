"""The executor: runs a list of operations over the blocks of a batch, or of several batches one after the other, in
one parallel region.

A program is a list of segments with a barrier after each. In a *block* segment a thread takes one
shard (a fixed run of blocks) and carries each of its blocks through all operations of the
segment, so that sixteen images stay in that core's cache from the first layer to the last. Where
there are two threads or more for each shard, all of them share one block after the other instead,
each taking a part of every operation. In a *task* segment every operation works on the whole batch
and is cut into independent tasks.

Which blocks form a shard depends on the batch alone, never on the number of threads, and every sum
over shards is taken in their order: that is why any number of threads gives the same bits.
"""
from cpython.buffer cimport PyBUF_STRIDES, PyBuffer_Release, PyObject_GetBuffer
from libc.stdint cimport int64_t
from libc.stdlib cimport calloc, free

from cython.parallel cimport parallel, prange, threadid

from cnn._ext.op cimport Arg, Kernel, Op, Place

cdef extern from *:
    """
    #ifdef _OPENMP
    #include <omp.h>
    #define CNN_OPENMP _OPENMP
    static inline void wait_for_all(void) {
        _Pragma("omp barrier")
    }
    #else
    #define CNN_OPENMP 0
    #define omp_get_num_threads() 1
    #define wait_for_all()
    #endif
    #if defined(_OPENMP) && !defined(__clang__) && __GNUC__ >= 9
    #define end_pool() omp_pause_resource_all(omp_pause_hard)   /* LLVM's OpenMP handles forks itself */
    #else
    #define end_pool() 0
    #endif

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
    int CNN_OPENMP
    int omp_get_num_threads() nogil
    void wait_for_all() nogil
    int end_pool() nogil
    size_t flush_subnormals() nogil
    void restore_mode(size_t before) nogil

ctypedef struct Segment:
    Py_ssize_t first    # index of its first op
    Py_ssize_t count    # number of ops
    Py_ssize_t tasks    # 0: per block; else the total number of tasks

SIZES = {"Op": sizeof(Op), "Arg": sizeof(Arg), "Segment": sizeof(Segment)}
OPENMP = CNN_OPENMP


cdef void run_shard(const Op* ops, Py_ssize_t count, Py_ssize_t shard, Py_ssize_t per_shard,
                    Py_ssize_t blocks, Py_ssize_t shards, Py_ssize_t images, Py_ssize_t step,
                    Py_ssize_t thread, Py_ssize_t segment, Py_ssize_t* begun) noexcept nogil:
    """Carry each block of one shard through all ops, in order. The first block that a thread takes of a segment (a
    number, from 1, that counts on from step to step) also runs its tasks."""
    cdef Place place
    cdef Py_ssize_t i, block, task
    cdef Py_ssize_t first = shard * per_shard
    place.at[0] = 0
    place.at[2] = shard
    place.at[3] = place.at[4] = thread
    place.at[5] = step
    place.total = images
    place.blocks = blocks
    place.shards = shards
    place.task = 0
    place.part = 0
    place.parts = 1
    for block in range(first, min(first + per_shard, blocks)):
        place.at[1] = block
        place.first = block == first
        place.images = min(16, images - 16 * block)
        for i in range(count):
            if not ops[i].tasks:
                (<Kernel>ops[i].kernel)(&ops[i], &place)
            elif begun[0] != segment:
                for task in range(ops[i].tasks):
                    place.task = task
                    (<Kernel>ops[i].kernel)(&ops[i], &place)
        begun[0] = segment


cdef void run_jointly(const Op* ops, Py_ssize_t count, Py_ssize_t per_shard, Py_ssize_t blocks,
                      Py_ssize_t shards, Py_ssize_t images, Py_ssize_t step, Py_ssize_t thread) noexcept nogil:
    """Carry all blocks through all ops, in order; every thread calls this and does its part of each."""
    cdef Place place
    cdef Py_ssize_t i, block, task, threads = omp_get_num_threads()
    place.at[0] = 0
    place.at[4] = thread
    place.at[3] = 0     # they share the activations of one thread
    place.at[5] = step
    place.total = images
    place.blocks = blocks
    place.shards = shards
    place.task = 0
    for block in range(blocks):
        place.at[1] = block
        place.at[2] = block // per_shard
        place.first = block % per_shard == 0
        place.images = min(16, images - 16 * block)
        for i in range(count):
            place.part = thread if ops[i].splits else 0
            place.parts = threads if ops[i].splits else 1
            if ops[i].tasks:
                if block:
                    continue
                for task in range(ops[i].tasks * thread // threads, ops[i].tasks * (thread + 1) // threads):
                    place.task = task
                    (<Kernel>ops[i].kernel)(&ops[i], &place)
            elif ops[i].splits or thread == 0:
                (<Kernel>ops[i].kernel)(&ops[i], &place)
            wait_for_all()


cdef void run_tasks(const Op* ops, Py_ssize_t count, Py_ssize_t blocks, Py_ssize_t shards,
                    Py_ssize_t images, Py_ssize_t step, Py_ssize_t thread) noexcept nogil:
    """Run this thread's part of the tasks of each op: the same in every run, so that it finds the parameters,
    gradients and moments that it wrote in its own cache."""
    cdef Place place
    cdef Py_ssize_t i, threads = omp_get_num_threads(), last
    place.at[0] = 0
    place.at[1] = 0
    place.at[2] = 0
    place.at[3] = place.at[4] = thread
    place.at[5] = step
    place.first = 1
    place.images = 0
    place.total = images
    place.blocks = blocks
    place.shards = shards
    place.part = 0
    place.parts = 1
    for i in range(count):
        if ops[i].tasks < threads:      # take turns
            place.task = (thread + i) % threads
            last = min(place.task + 1, ops[i].tasks)
        else:
            place.task = ops[i].tasks * thread // threads
            last = ops[i].tasks * (thread + 1) // threads
        while place.task < last:
            (<Kernel>ops[i].kernel)(&ops[i], &place)
            place.task += 1


cdef void bind(Op* ops, places, array):
    """Write the address of an array into arguments; places: (op, argument), each two numbers."""
    cdef Py_buffer view
    cdef Py_ssize_t op, argument
    PyObject_GetBuffer(array, &view, PyBUF_STRIDES)
    for op, argument in places:
        ops[op].args[argument].base = <char*>view.buf
        ops[op].args[argument].step = view.strides[0] if view.ndim else 0
    PyBuffer_Release(&view)


def run(size_t ops_address, size_t segments_address, Py_ssize_t n_segments, Py_ssize_t images,
        Py_ssize_t per_shard, int threads, Py_ssize_t steps=1, slots=(), counters=()):
    """Run a compiled program on `steps` batches of `images` images, one after the other, with `threads` threads.

    The addresses are those of arrays of Op and Segment that the caller keeps alive. slots: (places, array) pairs; each
    array's address is written to these places first. counters: addresses of int64 numbers to which the steps are added
    at the end. All of it is one call, which no interrupt cuts in two: a step is either taken and counted or neither.
    """
    cdef Op* ops = <Op*>ops_address
    cdef size_t counter
    cdef const Segment* segments = <const Segment*>segments_address
    cdef Py_ssize_t blocks = (images + 15) // 16
    cdef Py_ssize_t shards = (blocks + per_shard - 1) // per_shard
    cdef Py_ssize_t step = 0, s = 0, i = 0
    cdef bint jointly = 0 < 2 * shards <= threads
    cdef size_t mode = 0
    cdef Py_ssize_t* begun      # of each thread, a cache line apart: the last segment of which it has begun a block
    for places, array in slots:
        bind(ops, places, array)
    begun = <Py_ssize_t*>calloc(threads, 64)
    if not begun:
        raise MemoryError()
    with nogil, parallel(num_threads=threads):
        mode = flush_subnormals()
        for step in range(steps):
            for s in range(n_segments):
                if segments[s].tasks:
                    run_tasks(&ops[segments[s].first], segments[s].count, blocks, shards, images, step, threadid())
                elif jointly:
                    run_jointly(&ops[segments[s].first], segments[s].count, per_shard, blocks, shards, images, step,
                                threadid())
                else:
                    for i in prange(shards, schedule="dynamic"):
                        run_shard(&ops[segments[s].first], segments[s].count, i, per_shard, blocks, shards, images,
                                  step, threadid(), step * n_segments + s + 1, begun + 8 * threadid())
                wait_for_all()      # Cython's loops do not wait for one another
        restore_mode(mode)
    free(begun)
    for counter in counters:
        (<int64_t*>counter)[0] += steps


def pause():
    """End this thread's pool of threads; the next run starts them anew."""
    end_pool()
