"""What all tests share: Hypothesis draws the same examples in every run, and fixtures."""

import numpy as np
import pytest
from hypothesis import settings

import cnn

settings.register_profile("cnn", derandomize=True, deadline=None)
settings.load_profile("cnn")


@pytest.fixture(scope="session")
def torch():
    return pytest.importorskip("torch")


@pytest.fixture
def set_threads():
    """cnn.set_num_threads, undone after the test."""
    before = cnn.get_num_threads()
    yield cnn.set_num_threads
    cnn.set_num_threads(before)


@pytest.fixture
def rng():
    return np.random.default_rng(0)
