"""The sample that comes with the package, and the real data sets where they are at hand."""

import gzip
import hashlib
import os
import pickle
import warnings

import numpy as np
import pytest

from cnn.data import DataLoader, fetch, load
from cnn.data.sources import SOURCES


@pytest.fixture(scope="module")
def sample():
    return load("mnist-sample")


def test_sample_counts_and_classes(sample):
    train, test = sample
    assert train.images.shape == (4000, 1, 28, 28) and test.images.shape == (1000, 1, 28, 28)
    assert train.images.dtype == np.uint8 and train.images.max() == 255 and train.images.min() == 0
    assert np.bincount(train.labels).tolist() == [400] * 10
    assert np.bincount(test.labels).tolist() == [100] * 10
    assert train.classes == tuple("0123456789") and train.name == "mnist-sample"


def test_sample_is_the_same_whatever_the_environment(sample, monkeypatch, tmp_path):
    monkeypatch.setenv("CNN_DATA_DIR", str(tmp_path))
    for again, before in zip(load("mnist-sample", tmp_path), sample, strict=True):
        assert np.array_equal(again.images, before.images) and np.array_equal(again.labels, before.labels)


def test_sample_is_mixed(sample):
    for data in sample:
        part = np.bincount(data.labels[: len(data) // 4], minlength=10) / (len(data) // 40)
        assert part.min() > 0.6 and part.max() < 1.5


def test_no_image_twice(sample):
    images = np.concatenate([data.images for data in sample])
    assert len({image.tobytes() for image in images}) == 5000


def test_sample_is_as_bright_as_mnist(sample):
    train, test = sample
    for data in sample:
        assert abs((data.images / 255.0).mean() - 0.1307) < 0.005
        assert abs((data.images / 255.0).std() - 0.3081) < 0.005
    x = train.normalise(train.images)
    assert abs(x.mean()) < 0.01 and abs(x.std() - 1) < 0.01


def test_sample_holds_digits(sample):
    """The nearest class mean tells most held-out digits, so images and labels belong together."""
    train, test = sample
    means = np.stack([train.images[train.labels == k].mean(0).ravel() for k in range(10)])
    x = test.images.reshape(1000, -1).astype(float)
    distances = (means**2).sum(1) - 2 * x @ means.T
    assert (distances.argmin(1) == test.labels).mean() > 0.75


def test_sample_files_are_small_and_carry_no_time_stamp():
    folder = SOURCES["mnist-sample"].bundled
    with open(os.path.join(folder, "README.md"), encoding="utf-8") as file:
        assert "CC BY-SA 3.0" in file.read()
    for name, md5 in SOURCES["mnist-sample"].downloads.items():
        with open(os.path.join(folder, name), "rb") as file:
            data = file.read()
        assert len(data) < 700_000 and data[4:8] == bytes(4)
        assert hashlib.md5(data).hexdigest() == md5
        unpacked = SOURCES["mnist-sample"].contents[name[:-3]]
        assert hashlib.md5(gzip.decompress(data)).hexdigest() == unpacked


# --- the real ones, in $CNN_DATA_DIR ---


LOADED = {}  # each is loaded once


@pytest.fixture
def real(monkeypatch):
    """Load a data set if $CNN_DATA_DIR holds it, else skip the test."""
    if not os.environ.get("CNN_DATA_DIR"):
        pytest.skip("CNN_DATA_DIR is not set")
    monkeypatch.setattr(fetch, "_download", lambda source, folder: ["tests do not download"])

    def load_or_skip(name):
        if name not in LOADED:
            try:
                LOADED[name] = load(name)
            except FileNotFoundError:
                pytest.skip(f"{name} is not in CNN_DATA_DIR")
        return LOADED[name]

    return load_or_skip


def statistics(data):
    """Mean and standard deviation of the pixels / 255 per channel, from the counts of the 256 values."""
    values = np.arange(256) / 255
    means, stds = [], []
    for c in range(data.images.shape[1]):
        parts = (data.images[i : i + 5000, c] for i in range(0, len(data), 5000))
        n = sum(np.bincount(part.ravel(), minlength=256) for part in parts)
        means.append((n * values).sum() / n.sum())
        stds.append(np.sqrt((n * (values - means[-1]) ** 2).sum() / n.sum()))
    return means, stds


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist", "kmnist", "cifar10", "cifar100"])
def test_real_set(real, name):
    train, test = real(name)
    shape = (3, 32, 32) if "cifar" in name else (1, 28, 28)
    assert train.images.shape == ((50000 if "cifar" in name else 60000), *shape)
    assert test.images.shape == (10000, *shape)
    assert set(train.labels) == set(test.labels) == set(range(train.num_classes))
    means, stds = statistics(train)
    assert np.allclose(means, train.mean, atol=2e-4) and np.allclose(stds, train.std, atol=2e-4)
    x, labels = next(iter(DataLoader(train, 1000, shuffle=True)))
    assert x.shape == (1000, *shape) and abs(x.mean()) < 0.1 and abs(x.std() - 1) < 0.1


def test_mnist_begins_as_it_should(real):
    train, test = real("mnist")
    assert train.labels[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert test.labels[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
    assert np.bincount(train.labels).tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]


def test_sample_comes_from_mnist_s_training_set(real, sample):
    train, test = real("mnist")
    label_of = {image.tobytes(): label for image, label in zip(train.images, train.labels, strict=True)}
    test_images = {image.tobytes() for image in test.images}
    for data in sample:
        for image, label in zip(data.images, data.labels, strict=True):
            assert label_of[image.tobytes()] == label
            assert image.tobytes() not in test_images


def test_cifar10_is_what_python_s_own_reader_makes_of_it(real):
    import tarfile

    train, test = real("cifar10")
    assert train.labels[:10].tolist() == [6, 9, 9, 4, 1, 1, 2, 7, 8, 3]
    path = fetch.find_or_download(SOURCES["cifar10"])[0]
    if not path.endswith(".tar.gz"):
        pytest.skip("CIFAR-10 is unpacked")
    with tarfile.open(path) as tar, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # numpy.core is numpy._core now
        # safe: load() has found these very bytes to have their published MD5
        batch = pickle.load(tar.extractfile("cifar-10-batches-py/data_batch_2"), encoding="latin1")
    assert np.array_equal(train.images[10000:20000], batch["data"].reshape(-1, 3, 32, 32))
    assert train.labels[10000:20000].tolist() == batch["labels"]
