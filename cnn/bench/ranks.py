"""How fast many ranks train: what a rank computes itself is measured, what its messages take follows from latency and
bandwidth. Started by mpiexec, the same beside the time that a step takes."""
import math
import statistics
import time

import numpy as np

from cnn import data, optim, ranks
from cnn.bench.contenders import image_shape, make
from cnn.bench.measure import median_spread, show_ratio
from cnn.layers.losses import CrossEntropyLoss
from cnn.streams import say
from cnn.training.step import Batch, Step, execute

IMAGES = 4096       # of the data set
LARGE = 1 << 22     # bytes of the message by which bandwidth is measured


class Silent:
    """Of MPI what a World uses, for one of `size` ranks without the others: it counts the bytes that should come and
    how often it would have to wait for the others (twice as many ranks: once more), and leaves zeros."""

    BYTE = None

    def __init__(self, size, rank):
        self.COMM_WORLD = self.Request = self
        self.size, self.rank, self.bytes, self.waits = size, rank, 0, 0

    def Irecv(self, message, rank, tag):
        self.bytes += message[0].nbytes

    def Isend(self, message, rank, tag):
        pass

    def Waitall(self, calls):
        self.waits += bool(calls)

    def Allgatherv(self, send, target):
        self._come(target[0], send[0].nbytes)

    def Alltoallv(self, send, target):
        self._come(target[0], 0)

    def _come(self, target, own):
        self.bytes += target.nbytes - own
        self.waits += math.ceil(math.log2(self.size))
        target[:] = 0


class Trained:
    """A network that takes one step after the other on random images. world: the ranks that share it, or None."""

    def __init__(self, net, batch, world):
        rng, shape = np.random.default_rng(0), image_shape(net)
        dataset = data.Dataset(rng.integers(0, 256, (IMAGES, *shape), np.uint8), rng.integers(0, 10, IMAGES),
                               classes=[str(i) for i in range(10)], mean=[0.5] * shape[0], std=[0.25] * shape[0])
        model = make(net)
        step = Step(model, CrossEntropyLoss(), optim.SGD(model.parameters(), lr=0.01, momentum=0.9))
        self._batch, self._world = Batch(dataset.labels, rng.integers(0, IMAGES, (1, batch)), dataset), world
        self._program = step.written(self._batch, 1 if world is None else world.size)
        self._optimizer = step.optimizer        # the program knows it only weakly
        self.step()

    def step(self):
        execute(self._program, self._batch, world=self._world)

    def seconds(self, least):
        """Of a step, the mean over at least so many seconds."""
        count, start = 0, time.perf_counter()
        while time.perf_counter() - start < least:
            self.step()
            count += 1
        return (time.perf_counter() - start) / count


def model_ranks(net, batch, sizes, rounds, seconds, latency, bandwidth):
    """The expected speed of `sizes` ranks. latency: seconds that a small message takes; bandwidth: bytes a second."""
    say(f"{net}, batch {batch}: expected of ranks on machines like this one, messages of {latency * 1e6:.0f} us and "
        f"{bandwidth * 8 / 1e9:g} Gbit/s")
    say("   ranks   own work   messages        step    images/s   times one")
    rows = []
    for size in sizes:
        silent = Silent(size, size - 1)     # the last has the most shards
        trained = Trained(net, batch, None if size == 1 else ranks.World(silent))
        silent.bytes = silent.waits = 0
        trained.step()
        messages = silent.waits * latency + silent.bytes / bandwidth
        row = {"ranks": size, "messages_seconds": messages, "bytes": silent.bytes, "waits": silent.waits}
        own = statistics.median(trained.seconds(seconds) for _ in range(rounds))
        row |= {"own_seconds": own, "images_per_second": batch / (own + messages)}
        rows.append(row)
        say(f"{size:>8d}{own * 1e3:>8.2f} ms{messages * 1e3:>8.2f} ms{(own + messages) * 1e3:>9.2f} ms"
            f"{row['images_per_second']:>12,.0f}{row['images_per_second'] / rows[0]['images_per_second']:>12.2f}")
    return {"net": net, "batch": batch, "latency_seconds": latency, "bytes_per_second": bandwidth, "expected": rows}


def check_ranks(net, batch, rounds, seconds):
    """On ranks that mpiexec has started: the expected time of a step beside the one that it takes."""
    world = ranks.world()
    latency, bandwidth = _network(world)
    silent = Silent(world.size, world.rank)
    alone, together = Trained(net, batch, ranks.World(silent)), Trained(net, batch, world)
    silent.bytes = silent.waits = 0
    alone.step()
    count, waits = silent.bytes, silent.waits
    messages = waits * latency + count / bandwidth
    ratios, times = [], []
    for _ in range(rounds):
        world.wait()
        own = max(world.all(alone.seconds(seconds)))
        steps = max(1, int(seconds / (own + messages)))
        world.wait()
        start = time.perf_counter()
        for _ in range(steps):
            together.step()
        times.append((time.perf_counter() - start) / steps)
        ratios.append((own + messages) / times[-1])
    figures = {"expected_by_measured": median_spread(ratios), "step_seconds": median_spread(times)}
    if ranks.leads():
        say(f"{net}, batch {batch}, {world.size} ranks: messages of {latency * 1e6:.0f} us and "
            f"{bandwidth * 8 / 1e9:.2f} Gbit/s; a step takes {figures['step_seconds']['median'] * 1e3:.2f} ms, "
            f"{messages * 1e3:.2f} ms of which are expected for {count / 1e6:.2f} MB and {waits} waits; "
            f"expected by measured {show_ratio(figures['expected_by_measured'])}")
    return {"net": net, "batch": batch, "ranks": world.size, "latency_seconds": latency, "bytes_per_second": bandwidth,
            **figures}


def _network(world):
    """Seconds that a small message takes, and bytes a second."""
    def seconds(count, times):
        parts = [[np.zeros(count, np.uint8)] for _ in range(world.size)]
        taken = []
        for _ in range(times):
            world.wait()
            start = time.perf_counter()
            world.gather(parts)
            taken.append(time.perf_counter() - start)
        return statistics.median(world.all(statistics.median(taken)))
    small = seconds(8, 200) / math.ceil(math.log2(world.size))
    return small, LARGE * (world.size - 1) / (seconds(LARGE, 9) - small)
