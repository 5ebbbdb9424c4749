"""What ranks tell each other at a seam. The oracle is the tree, written down in NumPy, level by level."""

import numpy as np
import pytest
from cases import DTYPES
from together import on_ranks

from cnn import ranks
from cnn.engine.memory import zeros
from cnn.engine.program import Program
from cnn.engine.shards import blocks_per_shard, most_shards, shards_of
from cnn.training import exchange


def tree(rows):
    """Neighbours are added, then these sums, and so on; one that is left over waits."""
    rows = list(rows)
    while len(rows) > 1:
        rows = [rows[i] + rows[i + 1] if i + 1 < len(rows) else rows[i] for i in range(0, len(rows), 2)]
    return rows[0]


def drawn(shards, numbers, dtype, seed=0):
    rng = np.random.default_rng(seed)
    array = zeros((shards + 1, numbers), dtype)
    array[...] = rng.standard_normal(array.shape) * 10.0 ** rng.integers(-6, 6, array.shape)
    return array


def test_the_order_matters():
    """Or no test here could tell a tree from another sum."""
    rows = drawn(16, 1000, np.float32)[:16]
    assert (tree(rows) != np.add.reduce(rows)).any() and (tree(rows[:3]) == rows[0] + rows[1] + rows[2]).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shards", [*range(1, 18), 24, 31, 32, 33, 48, 56, 100, 256])
def test_kernels_sum_shards_as_a_tree(shards, dtype):
    for count in (1, 15, 16, 4099):
        parts = drawn(shards, -(-count // 16) * 16, dtype)
        images = 16 * shards if shards <= 16 else 128 * shards
        assert shards_of(images) == shards
        program, y = Program(dtype, images), np.zeros(count, dtype)
        program.before("sum_shards", lambda parts=parts, y=y, count=count: dict(
            x=parts, y=y, count=count, step=parts.shape[1]), program.kernels.pack.chunks(count))
        program.run(images)
        assert y.tobytes() == tree(parts[:shards])[:count].tobytes()


def test_shards():
    """Of a block each; sixteen; of eight blocks; 256. No smaller batch has more than a larger one may."""
    assert [shards_of(images) for images in (1, 16, 17, 256, 2048, 2049, 4096, 32768, 10**6)] == [
        1, 1, 2, 16, 16, 17, 32, 256, 256]
    most = 0
    for images in range(1, 70000, 7):
        most = max(most, shards_of(images))
        assert most <= most_shards(images) and blocks_per_shard(images) * shards_of(images) * 16 >= images
    assert shards_of(8, 1) == 8


def test_subtrees():
    assert list(exchange.subtrees(0, 16)) == [(0, 16)]
    assert list(exchange.subtrees(3, 8)) == [(3, 1), (4, 4)]
    assert list(exchange.subtrees(5, 15)) == [(5, 1), (6, 2), (8, 4), (12, 2), (14, 1)]
    assert list(exchange.subtrees(7, 7)) == []


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scatter", [0, 1 << 30])
@pytest.mark.parametrize("size", [1, 2, 3, 5, *(pytest.param(size, marks=pytest.mark.thorough) for size in (4, 8, 17))])
@pytest.mark.parametrize("large", [1, 1 << 14])
def test_any_number_of_ranks_gets_the_same_sums(size, large, scatter, dtype, monkeypatch):
    monkeypatch.setattr(ranks, "LARGE", large)
    monkeypatch.setattr(exchange, "SCATTER", scatter)
    for count in (1, 2, 3, 7, 8, 13, 16, 21, 70):
        sums = [drawn(count, numbers, dtype, seed) for seed, numbers in enumerate((16, 48, 2000))]
        rows, bytes_ = drawn(3 * count, 5, np.float64), np.arange(3 * count - 1, dtype=np.uint8)    # the last is short

        def work(world, count=count, sums=sums, rows=rows, bytes_=bytes_):
            first, own = world.shards(count)
            mine = []
            for array, each in [*((a, 1) for a in sums), (rows, 3), (bytes_, 3)]:
                part = np.full_like(array, 77)
                part[first * each:(first + own) * each] = array[first * each:(first + own) * each]
                mine.append(part)
            rows = [*((array, 0) for array in mine[:3]), (mine[3], 3), (mine[4], 3)]
            divided = np.full((40, 7), world.rank)
            fill_in = exchange.exchange(world, count, rows, [([divided, divided.copy()], [0, 3, 3, 20, 40])])
            before = [array.copy() for array in (*mine, divided)]
            for _ in range(2):      # it may be called again and again, and takes what is there by then
                for array, then in zip((*mine, divided), before, strict=True):
                    array[...] = then
                fill_in()
            tasks = [4 * (rank + 1) // size - 4 * rank // size for rank in range(size)]
            expected = np.repeat(np.repeat(range(size), tasks), [3, 0, 17, 20])
            assert (divided == expected[:, None]).all()
            return mine

        for mine in on_ranks(size, work):
            for got, array in zip(mine, sums, strict=False):
                assert got[0].tobytes() == tree(array[:count]).tobytes()
            assert mine[3][:3 * count].tobytes() == rows[:3 * count].tobytes()
            assert mine[4].tobytes() == bytes_.tobytes()


def test_subnormal_sums_are_flushed_as_in_the_kernels():
    """Two numbers whose sum is too small are 0 there, so they must be here."""
    array = np.zeros((2, 16), np.float32)
    array[:, 0] = 1.5e-38, -1.4e-38
    exchange.adding(array, [(0, 1), (1, 1)])()
    parts, y = np.zeros((2, 16), np.float32), np.zeros(16, np.float32)
    parts[:, 0] = 1.5e-38, -1.4e-38
    program = Program(np.float32, 32)
    program.before("sum_shards", lambda: dict(x=parts, y=y, count=16, step=16), 1)
    program.run(32)
    assert y.tobytes() == array[0].tobytes()
