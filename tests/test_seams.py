"""Several that share a step, each running the blocks of its own shards and taking over what the others computed, have
the same bits as one alone. Here they are threads; what they exchange goes by numbers of rows alone."""

import threading

import numpy as np
import pytest
from together import Comm, on_ranks

import cnn
from cnn import ranks
from cnn.bench.ranks import Silent, Trained
from cnn.engine.program import Program
from cnn.ops import linear
from cnn.training import checkpoint, step
from cnn.training.exchange import exchange

BATCH, SHARDS = 72, 5       # blocks of sixteen, one to a shard; the last has eight images


def plain():
    return cnn.Sequential(
        cnn.Conv2d(3, 8, 3, padding=1), cnn.BatchNorm2d(8), cnn.ReLU(), cnn.MaxPool2d(2),
        cnn.Conv2d(8, 16, 3, padding=1), cnn.ReLU(), cnn.Dropout(0.3, seed=1),
        cnn.Conv2d(16, 4, 1), cnn.Flatten(), cnn.Linear(4 * 6 * 6, 5, seed=3))  # fmt: skip


def deep():
    """Winograd's algorithm, depthwise convolutions, group norm, weights used twice."""
    again = cnn.Conv2d(16, 16, 3, padding=1, seed=1)
    return cnn.Sequential(
        cnn.Conv2d(3, 16, 5, padding=2), cnn.GELU(), cnn.Residual(cnn.Sequential(again, cnn.BatchNorm2d(16), again)),
        cnn.Conv2d(16, 16, 3, padding=1, groups=16, bias=False), cnn.BatchNorm2d(16), cnn.Conv2d(16, 32, 1, stride=2),
        cnn.GroupNorm(4, 32), cnn.SiLU(), cnn.AvgPool2d(2), cnn.GlobalAvgPool2d(), cnn.Linear(32, 5))  # fmt: skip


def wide():
    """Layers whose weight gradients ranks divide: Winograd's algorithm on few pixels, and a large linear one."""
    return cnn.Sequential(
        cnn.Conv2d(3, 64, 3, stride=4), cnn.BatchNorm2d(64), cnn.ReLU(), cnn.Conv2d(64, 72, 3, padding=1), cnn.ReLU(),
        cnn.BatchNorm2d(72), cnn.Conv2d(72, 64, 3, padding=1), cnn.Flatten(), cnn.Linear(64 * 9, 100), cnn.ReLU(),
        cnn.Linear(100, 5))  # fmt: skip


def beginning():
    """The last that the backward pass does is none of what ranks divide, nor a sum over shards."""
    return cnn.Sequential(cnn.ReLU(), cnn.BatchNorm2d(3, affine=False), cnn.Flatten(), cnn.Linear(3 * 144, 100),
                          cnn.ReLU(), cnn.Linear(100, 5))  # fmt: skip


class Computed(cnn.Module):
    """Weights that are computed from Parameters: standardised ones, of norms, of a linear map that ranks divide; a
    Parameter that is used in them and by itself; one that each step changes vectors of."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.head = cnn.Conv2d(3, 8, 3, stride=2), cnn.BatchNorm2d(8), cnn.Linear(8 * 25, 64)
        self.last, self.scale = cnn.Linear(64, 5), cnn.Parameter(np.full(1, 0.5, np.float32))
        cnn.utils.spectral_norm(self.last)

    def forward(self, x):
        F, w = cnn.functional, self.conv.weight
        w = (w - w.mean((1, 2, 3), keepdim=True)) / (w.std((1, 2, 3), keepdim=True) + 1e-5)
        x = F.relu(self.norm(F.conv2d(x, w, self.conv.bias * self.scale, 2))) * self.scale
        return self.last(F.relu(F.linear(x.flatten(1), F.normalize(self.head.weight), 2 * self.head.bias)))


class Heads(cnn.Module):
    """Two outputs, with a loss and targets each, and a second input."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = cnn.Conv2d(3, 8, 3, seed=0), cnn.BatchNorm2d(8)
        self.what, self.where = cnn.Linear(8 + 3, 5, seed=1), cnn.Linear(8 + 3, 2, seed=2)

    def forward(self, x, numbers):
        x = cnn.cat([cnn.functional.relu(self.norm(self.conv(x))).mean((2, 3)), numbers])
        return {"where": self.where(x), "what": self.what(x)}


def trained(net, batch):
    """The state after two epochs of three batches, the last of which is smaller."""
    rng, count = np.random.default_rng(0), 2 * batch + batch // 3
    images, labels = rng.integers(0, 256, (count, 3, 12, 12), np.uint8), rng.integers(0, 5, count)
    if net is Heads:
        labels = {"what": labels, "where": rng.random((count, 2)), "numbers": rng.random((count, 3))}
    data, model = cnn.data.Dataset(images, labels), net()
    optimizer = cnn.SGD(model.parameters(), lr=0.05, momentum=0.9)
    criterion = {"what": cnn.CrossEntropyLoss(weight=[1, 2, 3, 4, 5]), "where": cnn.MSELoss()}
    trainer = cnn.Trainer(model, optimizer, criterion if net is Heads else None, max_grad_norm=1, progress=False,
                          inputs=["numbers"] if net is Heads else ())
    trainer.fit(cnn.data.DataLoader(data, batch, shuffle=True), 2)
    return checkpoint.digest(trainer.state_dict())


@pytest.mark.parametrize("size", [2, *(pytest.param(size, marks=pytest.mark.thorough) for size in (3, 7))])
def test_the_model_of_ranks_counts_the_bytes_that_come(size, monkeypatch):
    """What `cnn bench --ranks` counts without other ranks is what comes from them."""
    got = [0] * size

    def counted(method):
        def call(comm, *arguments):
            target = arguments[method != "Irecv"][0]
            got[comm.rank] += target.nbytes - (arguments[0][0].nbytes if method == "Allgatherv" else 0)
            return original(comm, *arguments)
        original = getattr(Comm, method)
        return call
    for method in ("Irecv", "Allgatherv", "Alltoallv"):
        monkeypatch.setattr(Comm, method, counted(method))

    def work(world):
        silent = Silent(size, world.rank)
        Trained("resnet20", 52, ranks.World(silent))        # each takes one step
        Trained("resnet20", 52, world)
        return silent.bytes
    assert on_ranks(size, work) == got and min(got) > 1e6


@pytest.mark.parametrize("net", [plain, deep, wide, beginning, Computed, Heads])
@pytest.mark.parametrize("batch", [BATCH, 5])
@pytest.mark.parametrize("size", [2, 3, 7])
def test_any_number_of_ranks_has_the_same_bits(size, batch, net, monkeypatch):
    alone, run, this, seen, parts = trained(net, batch), Program.run, threading.local(), set(), []
    monkeypatch.setattr(linear, "DIVIDED", 1 << 16)
    monkeypatch.setattr(step, "Program", lambda *args, **options: Program(*args, **{**options, "processes": size}))

    def shared_run(program, count, *rest, **options):
        shards = -(-count // program.per_block)

        def seam(rows, divided):
            seen.update(array.dtype.name for array, _ in rows)
            parts.append(len(divided))
            return exchange(this.world, shards, rows, divided)
        run(program, count, *rest, share=(*this.world.shards(shards), this.world.rank), at_seam=seam, **options)

    def work(world):
        this.world = world
        return trained(net, batch)

    monkeypatch.setattr(Program, "run", shared_run)
    assert on_ranks(size, work) == [alone] * size
    assert seen == {"float32", "float64", "uint8"}
    if batch == BATCH:
        assert max(parts) == {wide: 3, beginning: 1, Computed: 1}.get(net, 0)
