"""Operations: how a layer describes to the executor what to compute, and on which arrays.

A program is a flat list of `Op`. Each names a kernel by its address, the arrays it works on and
a few sizes. The executor calls every kernel with the op and a `Place`, which says which sixteen
images (or which task) the call is for. `cnn/engine/plan.py` writes these structs from Python; the two
sides agree by size and order, which a test checks.
"""

cdef enum:
    MAX_ARGS = 11
    MAX_SIZES = 16
    MAX_SCALARS = 8

    CHUNK = 4096        # elements of a task that runs through a flat array

    # What an array has one copy of: an index into Place.at
    ONCE = 0
    PER_BLOCK = 1
    PER_SHARD = 2
    PER_THREAD = 3
    PER_WORKER = 4      # as PER_THREAD, but never shared by threads that share a block
    PER_STEP = 5        # for each of the steps that one run takes

ctypedef struct Arg:
    char* base          # the first copy
    Py_ssize_t step     # bytes from one copy to the next
    Py_ssize_t per      # ONCE, PER_BLOCK, ...
    Py_ssize_t plane    # elements from one channel to the next
    Py_ssize_t row      # elements from one row of pixels to the next

ctypedef struct Place:
    Py_ssize_t at[6]    # 0, block, shard, thread, thread, step
    Py_ssize_t first    # 1 for the first block of its shard: assign instead of add
    Py_ssize_t images   # of the sixteen lanes, how many hold an image
    Py_ssize_t total    # images in the batch
    Py_ssize_t blocks   # blocks in the batch
    Py_ssize_t shards   # shards in the batch
    Py_ssize_t task     # number of the task, for ops that are not per block
    Py_ssize_t part     # where several threads share a block: which part of the work is this call's,
    Py_ssize_t parts    # and of how many; kernels that don't split their work are called for part 0 of 1

ctypedef struct Op:
    void* kernel
    Py_ssize_t tasks    # into how many independent tasks a whole-batch op is cut
    Py_ssize_t splits   # whether the kernel can do a part of a block's work
    Arg args[11]
    Py_ssize_t n[16]    # sizes
    double f[8]         # scalars

ctypedef void (*Kernel)(const Op* op, const Place* place) noexcept nogil


cdef inline Py_ssize_t begin(Py_ssize_t count, const Place* place) noexcept nogil:
    """First of `count` things that this part is to do."""
    return count * place.part // place.parts


cdef inline Py_ssize_t end(Py_ssize_t count, const Place* place) noexcept nogil:
    """One past the last of them."""
    return count * (place.part + 1) // place.parts


cdef inline void* array(const Op* op, int i, const Place* place) noexcept nogil:
    """The copy of array `i` that belongs to this place; NULL where the op has none."""
    # as a number, because NULL is no place to count from
    return <void*>(<Py_ssize_t>op.args[i].base + op.args[i].step * place.at[op.args[i].per])
