"""The executor: runs a list of operations over the blocks of a batch, or of several batches one after the other, by
several threads.

A program is a list of segments, each of which begins when the one before is done. In a *block* segment a thread takes
one shard (a fixed run of blocks) and carries each of its blocks through all operations of the segment, so that sixteen
images stay in that core's cache from the first layer to the last. Where there are two threads or more for each shard,
the threads of a shard are a *crew*: they share one block after the other, each taking a part of every operation, and
crews do not wait for one another before the segment ends. In a *task* segment every operation works on the whole batch
and is cut into independent tasks.

Which blocks form a shard depends on the batch alone, never on the number of threads, and every sum over shards is the
same tree of sums (tree.pxd): that is why any number of threads gives the same bits.

**Threads.** Each has a list of parts of the segment at hand (or of its crew's operation), the same in every run, so
that it finds in its own cache what it wrote there; when its own is empty it waits for a microsecond and then takes from
the others'. Nobody waits for a thread, only for the parts that it has taken: on a busy machine, those who have a core
do the work of one who has none. Whoever ends the last part of a segment (or of a crew's operation) puts up the lists of
the next. Who finds no part looks at its own list for another tenth of a millisecond and then sleeps.
"""
from cpython.buffer cimport PyBUF_STRIDES, PyBuffer_Release, PyObject_GetBuffer
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport free
from libc.string cimport memcpy, memset

from cnn._ext.op cimport (MAX_WORDS, ONCE, PER_ACTIVE_BLOCK, PER_ACTIVE_THREAD, PER_BLOCK, PER_SHARD, PER_STEP,
                          Address, Kernel, Op, Place, Segment)
from cnn._ext.system cimport (Line, add, begin_thread, cores, flush_subnormals, look, nanoseconds, posix_memalign,
                              pthread_cond_broadcast, pthread_cond_destroy, pthread_cond_init, pthread_cond_t,
                              pthread_cond_wait, pthread_join, pthread_mutex_destroy, pthread_mutex_init,
                              pthread_mutex_lock, pthread_mutex_t, pthread_mutex_unlock, pthread_t, put, relax,
                              replace, restore_mode)

include "kernels/modules.pxi"     # UNTYPED, MODULE_OF[file], FILE_OF[kernel]

SIZES = {"Op": sizeof(Op), "Address": sizeof(Address), "Segment": sizeof(Segment)}

cdef enum:
    SPIN = 100000       # nanoseconds that a thread looks for parts before it sleeps
    PATIENCE = 1000     # before it takes from another's list: that thread has the numbers in its cache
    ENDED = 0x7fffffff  # parts on the list of thread 0: none, and the run is over

cdef struct Team
cdef struct Crew:
    # the threads that share a shard's blocks, and where they are; only those who hold a part of it may read that
    uint64_t left           # parts of the operation that are not done, and one for putting up the lists
    Py_ssize_t first, members       # threads
    Py_ssize_t block, last  # the block at hand, and one past the crew's last
    Py_ssize_t op
    Py_ssize_t phases       # operations that it has put up in this run
    uint64_t apart[1]

cdef struct Helper:
    Team* team
    Py_ssize_t number
    pthread_t thread

cdef struct Team:
    # between the threads
    Line left               # parts of the segment, or crews, that are not done, and one for putting up the lists
    Line ended, sleeping
    pthread_mutex_t mutex
    pthread_cond_t changed
    Line* parts             # for each thread its list: lower half, how many parts are left; upper half, counts lists
    Line* begun             # for each thread the last segment of which it has begun a block
    Crew* crews
    # The segment: written between segments; only those who hold a part of it may read it.
    uint64_t number         # counts segments, of all runs
    Py_ssize_t step, segment
    # the run
    const Op* ops
    const Segment* segments
    Py_ssize_t n_segments, images, per_block, per_shard, blocks, shards, steps
    Py_ssize_t first_shard, own_shards      # those to run; there may be others, which other processes run
    Py_ssize_t process, processes           # number of this one, and how many there are
    bint jointly            # whether each shard has a crew
    # for good
    Py_ssize_t threads      # with the one that calls `run`, which is number 0
    Py_ssize_t helpers      # the others, as many of them as could be made
    Helper* helper
    int64_t spin
    Team* next              # of those that have nothing to run


cdef inline void call(const Op* op, Place* place, Py_ssize_t first, Py_ssize_t last) noexcept nogil:
    """Run tasks `first` to `last` - 1 of an op at this place: its struct, with the addresses that belong here."""
    cdef Py_ssize_t words[MAX_WORDS], i
    memcpy(words, op.words, op.n_words * sizeof(Py_ssize_t))
    for i in range(op.n_addresses):
        words[op.addresses[i].word] += op.addresses[i].step * place.at[op.addresses[i].per]
    place.tasks = op.tasks
    for i in range(first, last):
        place.task = i
        if op.tasks and op.splits:      # the parts of a block's work as tasks
            place.part, place.parts = i, op.tasks
        (<Kernel>op.kernel)(words, place)


cdef inline Place place_of(const Team* team, Py_ssize_t block, Py_ssize_t thread) noexcept nogil:
    """The whole of a block."""
    cdef Place place
    place.at[ONCE] = 0
    place.at[PER_BLOCK] = block
    place.at[PER_SHARD] = block // team.per_shard
    place.at[PER_ACTIVE_BLOCK] = place.at[PER_ACTIVE_THREAD] = thread
    place.at[PER_STEP] = team.step
    place.first = block % team.per_shard == 0
    place.images = min(16, team.images - 16 * block) if team.per_block == 16 else 16     # or all channels
    place.total = team.images
    place.blocks = team.blocks
    place.shards = team.shards
    place.task = place.tasks = place.part = 0
    place.parts = 1
    return place


cdef void run_shard(const Team* team, Py_ssize_t shard, Py_ssize_t thread, uint64_t* begun) noexcept nogil:
    """Carry each block of one shard through all ops, in order. The first block that a thread takes of a phase also
    runs its tasks."""
    cdef const Segment* segment = &team.segments[team.segment]
    cdef const Op* ops = &team.ops[segment.first]
    cdef Place place
    cdef Py_ssize_t i, block, first = shard * team.per_shard
    for block in range(first, min(first + team.per_shard, team.blocks)):
        place = place_of(team, block, thread)
        for i in range(segment.count):
            if not ops[i].tasks:
                call(&ops[i], &place, 0, 1)
            elif begun[0] != team.number:
                call(&ops[i], &place, 0, ops[i].tasks)
        begun[0] = team.number


cdef void run_jointly(const Team* team, const Crew* crew, Py_ssize_t part, Py_ssize_t thread) noexcept nogil:
    """Do one part of a crew's operation, on its block."""
    cdef const Op* op = &team.ops[team.segments[team.segment].first + crew.op]
    cdef Place place = place_of(team, crew.block, thread)
    place.at[PER_ACTIVE_BLOCK] = crew - team.crews
    if op.splits:
        place.part = part
        place.parts = crew.members
    if op.tasks:
        call(op, &place, op.tasks * part // crew.members, op.tasks * (part + 1) // crew.members)
    else:
        call(op, &place, 0, 1)


cdef void run_tasks(const Team* team, Py_ssize_t i, Py_ssize_t part, Py_ssize_t thread) noexcept nogil:
    """Run one part of the tasks of op `i` of the segment."""
    cdef const Op* op = &team.ops[team.segments[team.segment].first + i]
    cdef Place place = place_of(team, 0, thread)
    cdef Py_ssize_t begin = 0, count = op.tasks, first
    place.images = 16
    if op.divided:
        begin = op.tasks * team.process // team.processes
        count = op.tasks * (team.process + 1) // team.processes - begin
    if count < team.threads:     # take turns
        first = (part + i) % team.threads
        call(op, &place, begin + first, begin + min(first + 1, count))
    else:
        call(op, &place, begin + count * part // team.threads, begin + count * (part + 1) // team.threads)


# ---------------------------------------------------------------- segments, crews and their parts

cdef inline bint in_crews(const Team* team) noexcept nogil:
    """Whether the segment at hand is done by crews."""
    return team.jointly and not team.segments[team.segment].tasks


cdef inline Crew* crew_of(const Team* team, Py_ssize_t thread) noexcept nogil:
    """The crew of a thread: number i has those from threads * i // shards on."""
    return &team.crews[((thread + 1) * team.own_shards - 1) // team.threads]


cdef inline Py_ssize_t parts_of(const Team* team, Py_ssize_t owner) noexcept nogil:
    """How many parts of the segment are on this thread's list, where there are no crews."""
    cdef const Segment* segment = &team.segments[team.segment]
    if segment.tasks:
        return segment.count
    return team.own_shards * (owner + 1) // team.threads - team.own_shards * owner // team.threads


cdef inline Py_ssize_t crew_parts(const Team* team, const Crew* crew, Py_ssize_t member) noexcept nogil:
    """How many parts of the crew's operation are on the list of its member: 1 or none."""
    cdef const Op* op = &team.ops[team.segments[team.segment].first + crew.op]
    if op.tasks:
        return (crew.block % team.per_shard == 0
                and op.tasks * member // crew.members < op.tasks * (member + 1) // crew.members)
    return op.splits or member == 0


cdef inline void put_up(Team* team, Py_ssize_t owner, Py_ssize_t parts) noexcept nogil:
    """A new list for a thread."""
    put(&team.parts[owner].value, ((look(&team.parts[owner].value) >> 32) + 1) << 32 | <uint64_t>parts)


cdef void run_part(Team* team, Py_ssize_t owner, Py_ssize_t left, Py_ssize_t thread) noexcept nogil:
    """Do the part of the owner's list that was taken when so many were left."""
    cdef const Crew* crew
    if in_crews(team):
        crew = crew_of(team, owner)
        run_jointly(team, crew, owner - crew.first, thread)
    elif team.segments[team.segment].tasks:
        run_tasks(team, parts_of(team, owner) - left, owner, thread)
    else:
        run_shard(team, team.first_shard + team.own_shards * owner // team.threads + parts_of(team, owner) - left,
                  thread, &team.begun[thread].value)


cdef bint next_segment(Team* team) noexcept nogil:
    """Go to the next segment, from number -1 to the first; returns whether there is one."""
    team.segment += 1
    if team.segment == team.n_segments:
        team.segment = 0
        team.step += 1
    return team.step < team.steps and team.n_segments > 0


cdef void wake(Team* team) noexcept nogil:
    if look(&team.sleeping.value):
        pthread_mutex_lock(&team.mutex)
        pthread_cond_broadcast(&team.changed)
        pthread_mutex_unlock(&team.mutex)


cdef bint crew_goes_on(Team* team, Crew* crew, Py_ssize_t thread) noexcept nogil:
    """Put up the lists of the crew's next operation that has any parts; returns False where there is none. A single
    part needs nobody else if `thread`, who calls this, is of the crew: its own list is new, so that it looks again."""
    cdef Py_ssize_t member, total
    while True:
        crew.op += 1
        if crew.op == team.segments[team.segment].count:
            crew.op = 0
            crew.block += 1
        if crew.block >= crew.last:
            return False
        total = 0
        for member in range(crew.members):
            total += crew_parts(team, crew, member)
        if total == 0:
            continue
        crew.phases += 1
        put(&crew.left, total + 1)
        for member in range(crew.members):
            put_up(team, crew.first + member, crew_parts(team, crew, member))
        if total > 1 or crew_of(team, thread) != crew:
            wake(team)
        if add(&crew.left, -1):
            return True


cdef void go_on(Team* team, Py_ssize_t thread) noexcept nogil:
    """Put up the lists of the next segment that has any parts, or end the run."""
    cdef Py_ssize_t owner, total, i
    cdef Crew* crew
    while next_segment(team):
        team.number += 1
        if in_crews(team):
            put(&team.left.value, team.own_shards + 1)
            for i in range(team.own_shards):
                crew = &team.crews[i]
                crew.block = (team.first_shard + i) * team.per_shard
                crew.last = min(crew.block + team.per_shard, team.blocks)
                crew.op = -1
            for i in range(team.own_shards):
                if not crew_goes_on(team, &team.crews[i], thread):
                    add(&team.left.value, -1)
        else:
            total = 0
            for owner in range(team.threads):
                total += parts_of(team, owner)
            if total == 0:
                continue
            put(&team.left.value, total + 1)
            for owner in range(team.threads):
                put_up(team, owner, parts_of(team, owner))
            if total > 1:
                wake(team)
        if add(&team.left.value, -1):
            return
    # One write ends the run: from then on thread 0 may begin the next, so nothing may be written after it.
    put_up(team, 0, ENDED)
    wake(team)


cdef Py_ssize_t take(Line* parts) noexcept nogil:
    """Take a part from a list: how many there were, 0 if none."""
    cdef uint64_t value = look(&parts.value)
    while <uint32_t>value and <uint32_t>value != ENDED:
        if replace(&parts.value, &value, value - 1):
            return <uint32_t>value
    return 0


cdef bint another(Team* team, Py_ssize_t thread, uint64_t seen, int64_t most) noexcept nogil:
    """Look for another list of the thread for so many nanoseconds at most; returns whether there is one."""
    cdef int64_t until = nanoseconds() + most
    cdef int i
    while True:
        for i in range(16):
            if look(&team.parts[thread].value) >> 32 != seen:
                return True
            relax()
        if nanoseconds() > until:
            return False


cdef void work(Team* team, Py_ssize_t thread, uint64_t seen) noexcept nogil:
    """Do parts, first those of the thread's own list, number `seen`, until there are none left."""
    cdef Py_ssize_t i, owner, left, done
    cdef Crew* crew = NULL
    for i in range(team.threads):
        if i == 1 and another(team, thread, seen, PATIENCE):
            return
        owner = (thread + i) % team.threads
        done = 0
        while True:
            left = take(&team.parts[owner])
            if left == 0:
                break
            if done == 0:       # from here on nobody ends the segment, nor the crew's operation
                crew = crew_of(team, owner) if in_crews(team) else NULL
            run_part(team, owner, left, thread)
            done += 1
        if done and crew != NULL:
            if add(&crew.left, -done) == 0 and not crew_goes_on(team, crew, thread) and add(&team.left.value, -1) == 0:
                go_on(team, thread)
            return
        if done and add(&team.left.value, -done) == 0:
            go_on(team, thread)
            return


cdef void wait(Team* team, Py_ssize_t thread, uint64_t seen) noexcept nogil:
    """Return when the thread has another list."""
    if team.spin and another(team, thread, seen, team.spin):
        return
    pthread_mutex_lock(&team.mutex)
    add(&team.sleeping.value, 1)
    while look(&team.parts[thread].value) >> 32 == seen:
        pthread_cond_wait(&team.changed, &team.mutex)
    add(&team.sleeping.value, -1)
    pthread_mutex_unlock(&team.mutex)


# ---------------------------------------------------------------- teams

cdef void* help(void* argument) noexcept nogil:
    """What a helper does: take part in runs, until the team is ended."""
    cdef Helper* helper = <Helper*>argument
    cdef Team* team = helper.team
    cdef uint64_t seen
    flush_subnormals()
    while True:
        seen = look(&team.parts[helper.number].value) >> 32
        if look(&team.ended.value):
            return NULL
        work(team, helper.number, seen)
        wait(team, helper.number, seen)


cdef Team* resting = NULL       # teams that have nothing to run; the GIL guards them


cdef Team* new_team(Py_ssize_t threads) except NULL:
    cdef Team* team
    cdef size_t lines = (sizeof(Team) + sizeof(Line) - 1) // sizeof(Line)
    cdef size_t size = (lines + 2 * threads) * sizeof(Line) + threads * (sizeof(Crew) + sizeof(Helper))
    if posix_memalign(<void**>&team, sizeof(Line), size):
        raise MemoryError()
    memset(team, 0, size)
    team.parts = <Line*>team + lines
    team.begun = team.parts + threads
    team.crews = <Crew*>(team.begun + threads)
    team.helper = <Helper*>(team.crews + threads)
    team.threads = threads
    team.spin = SPIN if threads <= cores() else 0
    pthread_mutex_init(&team.mutex, NULL)
    pthread_cond_init(&team.changed, NULL)
    while team.helpers < threads - 1:
        team.helper[team.helpers].team = team
        team.helper[team.helpers].number = team.helpers + 1
        if begin_thread(&team.helper[team.helpers].thread, help, &team.helper[team.helpers]):
            break       # the system has no more: the others do its work
        team.helpers += 1
    return team


cdef void end_team(Team* team) noexcept nogil:
    cdef Py_ssize_t i
    put(&team.ended.value, 1)
    for i in range(team.threads):
        put_up(team, i, 0)
    wake(team)
    for i in range(team.helpers):
        pthread_join(team.helper[i].thread, NULL)
    pthread_mutex_destroy(&team.mutex)
    pthread_cond_destroy(&team.changed)
    free(team)


cdef Team* rested_team(Py_ssize_t threads) except NULL:
    """One of so many threads that has nothing to run: each of Python's threads takes its own."""
    global resting
    cdef Team** at = &resting
    cdef Team* team
    while at[0] != NULL:
        team = at[0]
        if team.threads == threads:
            at[0] = team.next
            return team
        at = &team.next
    return new_team(threads)


cdef void bind(Op* ops, places, array):
    """Write the address of an array into structs; places: (op, word), each two numbers."""
    cdef Py_buffer view
    cdef Py_ssize_t op, word, i
    PyObject_GetBuffer(array, &view, PyBUF_STRIDES)
    for op, word in places:
        ops[op].words[word] = <Py_ssize_t>view.buf
        for i in range(ops[op].n_addresses):
            if ops[op].addresses[i].word == word:
                ops[op].addresses[i].step = view.strides[0] if view.ndim else 0
    PyBuffer_Release(&view)


def run(size_t ops_address, size_t segments_address, Py_ssize_t n_segments, Py_ssize_t images,
        Py_ssize_t per_shard, int threads, Py_ssize_t first_step=0, Py_ssize_t steps=1, slots=(), counters=(),
        shards=None, Py_ssize_t per_block=16):
    """Run a compiled program on `steps` batches of `images` images, one after the other, with `threads` threads.

    The addresses are those of arrays of Op and Segment that the caller keeps alive. first_step: number of the first of
    these batches. slots: (places, array) pairs; each array's address is written to these places first. counters:
    addresses of int64 numbers to which the steps are added at the end. shards: (first, count) of those to run, over how
    many sums go, number of this process and of all, which divide tasks; default all. per_block: images of a block, 16,
    or 1 that has its channels side by side. All of it is one call, which no interrupt cuts in two: a step is either
    taken and counted or neither. Returns how often a thread has waited for others: segments, and operations of the crew
    that had the most.
    """
    global resting
    cdef Team* team
    cdef size_t counter, mode
    cdef uint64_t seen, before
    cdef Py_ssize_t i, phases = 0
    for places, array in slots:
        bind(<Op*>ops_address, places, array)
    team = rested_team(threads)
    team.ops = <const Op*>ops_address
    team.segments, team.n_segments = <const Segment*>segments_address, n_segments
    team.images, team.per_shard, team.per_block = images, per_shard, per_block
    team.blocks = (images + per_block - 1) // per_block
    team.shards = (team.blocks + per_shard - 1) // per_shard
    team.steps = first_step + steps
    shards = shards or (0, team.shards, team.shards, 0, 1)
    team.first_shard, team.own_shards, team.shards, team.process, team.processes = shards
    team.jointly = 0 < 2 * team.own_shards <= threads
    team.step, team.segment = first_step, -1
    for i in range(team.own_shards if team.jointly else 0):
        team.crews[i].first = threads * i // team.own_shards
        team.crews[i].members = threads * (i + 1) // team.own_shards - team.crews[i].first
        team.crews[i].phases = 0
    before = team.number
    with nogil:
        mode = flush_subnormals()
        go_on(team, 0)
        while True:
            seen = look(&team.parts[0].value)
            if <uint32_t>seen == ENDED:
                break
            work(team, 0, seen >> 32)
            wait(team, 0, seen >> 32)
        restore_mode(mode)
    for i in range(team.own_shards if team.jointly else 0):
        phases = max(phases, team.crews[i].phases)
    phases += <Py_ssize_t>(team.number - before)
    team.next = resting
    resting = team
    for counter in counters:
        (<int64_t*>counter)[0] += steps
    return phases


def forget():
    """In a forked child: teams that another thread gave back just before the fork have no threads here."""
    global resting
    resting = NULL


def pause():
    """End the threads of all teams that have nothing to run; the next run starts them anew."""
    global resting
    cdef Team* team = resting
    cdef Team* following
    resting = NULL
    while team != NULL:
        following = team.next
        end_team(team)
        team = following
