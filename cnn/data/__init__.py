"""Data sets: load them by name, hold them in memory, go over them in batches.

>>> train, test = cnn.data.load("mnist-sample")
>>> loader = cnn.data.DataLoader(train, batch_size=64, shuffle=True)
>>> images, labels = next(iter(loader))  # float32 (64, 1, 28, 28) and int64 (64,)
"""

from .batched import BatchedDataset, IterableDataset
from .dataset import Dataset
from .errors import DataFileError, DataNotFoundError, DataWarning
from .idx import read_idx, read_idx_pair
from .loader import DataLoader
from .mixing import CutMix, MixUp
from .moments import mean_std
from .named import NAMES, load, load_parts
from .transforms import AlternatingFlip, Compose, Cutout, RandomAffine, RandomCrop, RandomFlip

__all__ = [
    "NAMES",
    "AlternatingFlip",
    "BatchedDataset",
    "Compose",
    "CutMix",
    "Cutout",
    "DataFileError",
    "DataLoader",
    "DataNotFoundError",
    "DataWarning",
    "Dataset",
    "IterableDataset",
    "MixUp",
    "RandomAffine",
    "RandomCrop",
    "RandomFlip",
    "load",
    "load_parts",
    "mean_std",
    "read_idx",
    "read_idx_pair",
]
