"""Operations: what the executor calls, and what a kernel is given.

A kernel is a function of a struct of its own, which names all it works on, and of a `Place`, which says for which
sixteen images (or which task) the call is:

    cdef void relu(const Relu* a, const Place* place) noexcept nogil

The fields of such a struct are words of eight bytes: pointers, sizes (Py_ssize_t) and numbers (double); an `Image` is
three of them. setup.py makes each module's table KERNELS from its structs, so that Python can fill them by name
(`Program._write` in cnn/engine/program.py); functions whose names begin with _ are not kernels.

A program is a flat list of `Op`. Each holds a kernel, its struct, and which of the addresses in it change from place to
place. cnn/engine/program.py writes it; the two sides agree by size and order, which a test checks.
"""
from cnn._ext.vec cimport (DVL, LANES, ROWV, VL, dvec, dvec_load, dvec_store, dvec_zero, integer, ivec, real, vec, vec_gt,
                           vec_load, vec_splat, vec_store, vec_stream)

cdef enum:
    MAX_WORDS = 32      # of a kernel's struct, and of these
    MAX_ADDRESSES = 12  # of arrays with copies

    CHUNK = 4096        # elements of a task that runs through a flat array
    STREAMED = 1 << 20  # bytes of a block's result from which on it goes past the caches, see vec_stream

    # What an array has one copy of: an index into Place.at
    ONCE = 0
    PER_BLOCK = 1
    PER_SHARD = 2
    PER_ACTIVE_BLOCK = 3    # each block that is being computed: threads that share a block share the copy
    PER_ACTIVE_THREAD = 4   # each thread that computes, also where several share a block
    PER_STEP = 5            # each of the steps that one run takes

ctypedef struct Image:
    real* data          # the first pixel of the first channel
    Py_ssize_t plane    # elements from one channel to the next
    Py_ssize_t row      # elements from one row of pixels to the next

ctypedef struct Indices:    # an Image of integers
    integer* data
    Py_ssize_t plane
    Py_ssize_t row

ctypedef struct Place:
    Py_ssize_t at[6]    # 0, block, shard, active block, active thread, step
    Py_ssize_t first    # 1 for the first block of its shard: assign instead of add
    Py_ssize_t images   # of the sixteen lanes, how many hold an image
    Py_ssize_t total    # images in the batch
    Py_ssize_t blocks   # blocks in the batch
    Py_ssize_t shards   # shards in the batch
    Py_ssize_t task     # number of the task, for ops that are not per block
    Py_ssize_t tasks    # and of how many
    Py_ssize_t part     # where several threads share a block: which part of the work is this call's,
    Py_ssize_t parts    # and of how many; kernels that don't split their work are called for part 0 of 1

ctypedef struct Address:    # of an array with copies
    Py_ssize_t word     # which word of the struct it is; there, it is that of the first copy
    Py_ssize_t step     # bytes from one copy to the next
    Py_ssize_t per      # PER_BLOCK, PER_SHARD, ...

ctypedef struct Op:
    void* kernel
    Py_ssize_t tasks    # into how many independent tasks a whole-batch op is cut
    Py_ssize_t splits   # whether the kernel can do a part of a block's work
    Py_ssize_t divided  # whether each of several processes runs a part of the tasks
    Py_ssize_t n_words
    Py_ssize_t n_addresses
    Address addresses[MAX_ADDRESSES]
    Py_ssize_t words[MAX_WORDS]     # the kernel's struct

ctypedef struct Segment:
    Py_ssize_t first    # index of its first op
    Py_ssize_t count    # number of ops
    Py_ssize_t tasks    # 0: per block; else the total number of tasks

ctypedef void (*Kernel)(const void* a, const Place* place) noexcept nogil


cdef inline Py_ssize_t begin(Py_ssize_t count, const Place* place) noexcept nogil:
    """First of `count` things that this part is to do."""
    return count * place.part // place.parts


cdef inline Py_ssize_t end(Py_ssize_t count, const Place* place) noexcept nogil:
    """One past the last of them."""
    return count * (place.part + 1) // place.parts


cdef inline real* pixels(const Image* x, Py_ssize_t c, Py_ssize_t h) noexcept nogil:
    """Row h of channel c."""
    return x.data + c * x.plane + h * x.row


cdef inline bint streams(Py_ssize_t planes, Py_ssize_t height, Py_ssize_t width) noexcept nogil:
    """Whether a block's result of this size should go past the caches."""
    return planes * height * width * LANES * <Py_ssize_t>sizeof(real) >= STREAMED


cdef inline void put(real* to, vec v, bint past) noexcept nogil:
    """Store a vector; past: the caches."""
    if past:
        vec_stream(to, v)
    else:
        vec_store(to, v)


cdef inline void held(const Place* place, ivec* lanes) noexcept nogil:
    """Masks of the lanes of a row that hold an image."""
    cdef real numbers[16]
    cdef int i, q
    for i in range(LANES):
        numbers[i] = i < place.images
    for q in range(ROWV):
        lanes[q] = vec_gt(vec_load(numbers + q * VL), vec_splat(0))


cdef inline void held_channels(Py_ssize_t channels, ivec* lanes) noexcept nogil:
    """Masks of the lanes of the last sixteen channels that hold one."""
    cdef real numbers[16]
    cdef int i, q
    for i in range(LANES):
        numbers[i] = i < channels - (channels - 1) // LANES * LANES
    for q in range(ROWV):
        lanes[q] = vec_gt(vec_load(numbers + q * VL), vec_splat(0))


cdef inline void sixteen_numbers(const real* numbers, real otherwise, Py_ssize_t g, Py_ssize_t C,
                                 vec* to) noexcept nogil:
    """Numbers of the channels from 16 g on, or the other one for each; 0 in lanes without a channel."""
    cdef real lanes[16]
    cdef int i, q
    if numbers and (g + 1) * LANES <= C:
        for q in range(ROWV):
            to[q] = vec_load(numbers + g * LANES + q * VL)
        return
    for i in range(LANES):
        lanes[i] = 0 if g * LANES + i >= C else numbers[g * LANES + i] if numbers else otherwise
    for q in range(ROWV):
        to[q] = vec_load(lanes + q * VL)


cdef inline void to_row(const double* numbers, vec* rows) noexcept nogil:
    """A row of lanes from as many doubles."""
    cdef real lanes[16]
    cdef int i, q
    for i in range(LANES):
        lanes[i] = <real>numbers[i]
    for q in range(ROWV):
        rows[q] = vec_load(lanes + q * VL)


cdef inline void add_row(double* totals, vec* row) noexcept nogil:
    """totals[lane] += a row of lanes, which becomes 0"""
    cdef real lanes[16]
    cdef int i, q
    for q in range(ROWV):
        vec_store(lanes + q * VL, row[q])
        row[q] = vec_splat(0)
    for i in range(LANES):
        totals[i] += lanes[i]


cdef inline void add_plane(double* totals, const Image* x, Py_ssize_t c, Py_ssize_t H, Py_ssize_t W) noexcept nogil:
    """totals[lane] += all pixels of plane c, in double: what is left where numbers cancel must be exact."""
    cdef dvec sums[8]
    cdef double lanes[16]
    cdef Py_ssize_t h, i
    cdef int q
    for q in range(LANES // DVL):
        sums[q] = dvec_zero()
    for h in range(H):
        for i in range(W):
            for q in range(LANES // DVL):
                sums[q] = sums[q] + dvec_load(pixels(x, c, h) + i * LANES + q * DVL)
    for q in range(LANES // DVL):
        dvec_store(lanes + q * DVL, sums[q])
    for i in range(LANES):
        totals[i] += lanes[i]
