"""Several that share a step, each running the blocks of its own shards and taking over what the others computed, have
the same bits as one alone. Here they are threads; what they exchange goes by numbers of rows alone."""

import threading

import numpy as np
import pytest

import cnn
from cnn.engine.program import Program
from cnn.training import checkpoint

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


def trained(net):
    """The state after two epochs of three batches, the last of which is smaller."""
    rng = np.random.default_rng(0)
    data = cnn.data.Dataset(rng.integers(0, 256, (2 * BATCH + 25, 3, 12, 12), np.uint8),
                            rng.integers(0, 5, 2 * BATCH + 25))  # fmt: skip
    model = net()
    optimizer = cnn.SGD(model.parameters(), lr=0.05, momentum=0.9)
    trainer = cnn.Trainer(model, optimizer, max_grad_norm=1, progress=False)
    trainer.fit(cnn.data.DataLoader(data, BATCH, shuffle=True), 2)
    return checkpoint.digest(trainer.state_dict())


@pytest.mark.parametrize("net", [plain, deep])
@pytest.mark.parametrize("ranks", [2, 3, 7])
def test_any_number_of_ranks_has_the_same_bits(ranks, net, monkeypatch):
    alone, run = trained(net), Program.run
    barrier, board, results = threading.Barrier(ranks, timeout=60), [None] * ranks, [None] * ranks
    seen, this = set(), threading.local()

    def shared_run(program, count, *rest, **options):
        shards = -(-count // 16)
        cuts = [shards * i // ranks for i in range(ranks + 1)]
        own = slice(cuts[this.rank], cuts[this.rank + 1])

        def exchange(rows):
            board[this.rank] = [array for array, _ in rows]
            barrier.wait()
            for i, (array, _) in enumerate(rows):
                seen.add(array.dtype.name)
                for rank, filled in enumerate(board):
                    if rank != this.rank:
                        array[cuts[rank]:cuts[rank + 1]] = filled[i][cuts[rank]:cuts[rank + 1]]
            barrier.wait()
        run(program, count, *rest, shards=(own.start, own.stop - own.start), at_seam=exchange, **options)

    def work(rank):
        this.rank = rank
        results[rank] = trained(net)

    monkeypatch.setattr(Program, "run", shared_run)
    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(ranks)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [alone] * ranks
    assert seen == {"float32", "float64", "uint8"}


def test_without_the_others_the_bits_are_others(monkeypatch):
    run = Program.run
    alone = trained(plain)
    monkeypatch.setattr(Program, "run", lambda self, count, *rest, **options: run(
        self, count, *rest, shards=(0, 2), at_seam=lambda rows: None, **options))
    assert trained(plain) != alone
