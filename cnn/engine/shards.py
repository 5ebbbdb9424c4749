"""Shards: the parts into which a batch is cut, and over which sums are taken as a tree (_ext/tree.pxd)."""
import math

from cnn.engine.memory import LANES

# A batch is cut into 16 shards, a larger one into shards of 8 blocks, so that there is work for more machines, and the
# largest into 256. That never depends on the number of threads, nor of processes.
SHARDS, BLOCKS, MAX_SHARDS = 16, 8, 256


def blocks_per_shard(images, per_block=LANES):
    """It depends on the batch alone, so that sums over shards do not depend on the number of threads."""
    blocks = math.ceil(images / per_block)
    return max(1, min(BLOCKS, math.ceil(blocks / SHARDS)), math.ceil(blocks / MAX_SHARDS))


def shards_of(images, per_block=LANES):
    """The number of shards of a batch."""
    return math.ceil(math.ceil(images / per_block) / blocks_per_shard(images, per_block))


def most_shards(images, per_block=LANES):
    """The most shards of any batch of so many images or fewer."""
    blocks = max(1, math.ceil(images / per_block))
    return min(blocks, max(SHARDS, math.ceil(blocks / BLOCKS)), MAX_SHARDS)
