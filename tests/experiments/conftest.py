"""MNIST in small, for tests that train."""

import pytest

from experiments import datasets


@pytest.fixture(scope="session")
def small_files():
    """The first 500 training and 100 test images."""
    return tuple(
        datasets.Split(images[:size], labels[:size])
        for (images, labels), size in zip(datasets.load("mnist"), (500, 100), strict=True)
    )


@pytest.fixture
def small_mnist(monkeypatch, small_files):
    """Let the experiments see nothing else."""
    monkeypatch.setattr(datasets, "load", lambda name, data_dir: small_files)
    return small_files
