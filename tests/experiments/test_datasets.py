"""The data sets load from the first place that has them, and from nowhere if they are not right."""

import gzip
import hashlib

import numpy as np
import pytest

from experiments import datasets
from funcnet.data import idx

MNIST_TRAIN_COUNTS = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
MNIST_TEST_COUNTS = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]


def check_official(train, test, train_counts, test_counts):
    for split, size, counts in [(train, 60_000, train_counts), (test, 10_000, test_counts)]:
        assert split.images.shape == (size, 28, 28)
        assert split.images.dtype == split.labels.dtype == np.uint8
        np.testing.assert_array_equal(np.bincount(split.labels), counts)


def test_mnist_is_shipped(monkeypatch, tmp_path):
    monkeypatch.setattr(datasets, "SYSTEM", tmp_path)
    train, test = datasets.load("mnist")
    check_official(train, test, MNIST_TRAIN_COUNTS, MNIST_TEST_COUNTS)
    assert train.images.mean() == pytest.approx(33.318421, abs=1e-6)
    np.testing.assert_array_equal(train.labels[:5], [5, 0, 4, 1, 9])


def test_the_licence_lists_the_checksums():
    text = (datasets.SHIPPED / "mnist" / "LICENSE.md").read_text(encoding="utf-8")
    for file in datasets.DATA_SETS["mnist"].files:
        assert f"{file.name}.gz" in text
        assert file.sha256 in text


@pytest.mark.skipif(
    not (datasets.SYSTEM / "fashion-mnist").is_dir(),
    reason="needs Debian's package dataset-fashion-mnist",
)
def test_fashion_from_the_system():
    check_official(*datasets.load("fashion"), [6000] * 10, [1000] * 10)


@pytest.fixture
def places(monkeypatch, tmp_path):
    """A tiny data set "fashion", and each place a folder of its own; returns its four files."""
    shapes = {
        "train-images": (3, 2, 2),
        "train-labels": (3,),
        "t-images": (2, 2, 2),
        "t-labels": (2,),
    }
    contents = {
        name: bytes([0, 0, 8, len(shape)])
        + np.array(shape, ">u4").tobytes()
        + bytes(np.prod(shape))
        for name, shape in shapes.items()
    }
    checksums = tuple(hashlib.sha256(data).hexdigest() for data in contents.values())
    tiny = datasets.DataSet("Tiny", "tiny", "https://example.invalid/tiny/", (), checksums)  # pyright: ignore[reportArgumentType]
    monkeypatch.setattr(datasets, "_FILES", shapes)
    monkeypatch.setitem(datasets.DATA_SETS, "fashion", tiny)
    monkeypatch.setattr(datasets, "SYSTEM", tmp_path / "system")
    monkeypatch.setattr(datasets, "SHIPPED", tmp_path / "shipped")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return {f"{name}.gz": gzip.compress(data) for name, data in contents.items()}


@pytest.fixture
def server(monkeypatch, places):
    """What `fetch` would get, by address; the list of what was asked for."""
    asked = []

    def fetch(url, limit):
        asked.append(url)
        data = places[url.rsplit("/", 1)[1]]
        assert len(data) <= limit
        return data

    monkeypatch.setattr(datasets, "fetch", fetch)
    return asked


def fill(folder, files):
    folder.mkdir(parents=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)


def test_download_into_the_cache_once(places, server, tmp_path):
    train, test = datasets.load("fashion")
    assert train.images.shape == (3, 2, 2)
    assert test.labels.shape == (2,)
    assert server == [f"https://example.invalid/tiny/{name}" for name in places]
    cached = tmp_path / "cache" / "funcnet" / "tiny"
    assert sorted(path.name for path in cached.iterdir()) == sorted(places)
    datasets.load("fashion")
    assert len(server) == 4


@pytest.mark.parametrize("place", ["system", "shipped"])
def test_a_place_with_all_four_files_needs_no_download(places, server, tmp_path, place):
    fill(tmp_path / place / "tiny", places)
    datasets.load("fashion")
    assert server == []


def test_a_place_that_lacks_a_file_is_passed_over(places, server, tmp_path):
    fill(tmp_path / "system" / "tiny", dict(list(places.items())[:3]))
    datasets.load("fashion")
    assert len(server) == 4


def test_a_given_folder_is_the_only_place(places, server, tmp_path):
    fill(tmp_path / "system" / "tiny", places)
    fill(
        tmp_path / "mine",
        {name.removesuffix(".gz"): gzip.decompress(d) for name, d in places.items()},
    )
    datasets.load("fashion", tmp_path / "mine")
    (tmp_path / "mine" / "t-labels").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"mine: neither t-labels\.gz nor t-labels is there"
    ):
        datasets.load("fashion", str(tmp_path / "mine"))
    assert server == []


def test_a_damaged_file_is_refused_and_named(places, tmp_path):
    name = "train-images.gz"
    fill(tmp_path / "shipped" / "tiny", places | {name: places[name][:-1]})
    with pytest.raises(idx.IDXError, match=r"shipped/tiny/train-images\.gz: damaged gzip file"):
        datasets.load("fashion")


def test_a_damaged_download_is_not_kept(places, server, tmp_path):
    places["train-labels.gz"] = gzip.compress(b"another file")
    with pytest.raises(
        idx.IDXError, match=r"https://example.invalid/tiny/train-labels\.gz: not an IDX"
    ):
        datasets.load("fashion")
    cached = tmp_path / "cache" / "funcnet" / "tiny"
    assert [path.name for path in cached.iterdir()] == ["train-images.gz"]


def test_a_failed_download_says_what_else_to_do(places, monkeypatch):
    def fetch(url, limit):
        raise OSError(f"cannot download {url}: no route")

    monkeypatch.setattr(datasets, "fetch", fetch)
    with pytest.raises(OSError, match=r"no route; .* --data-dir"):
        datasets.load("fashion")


def test_an_unknown_name_is_refused():
    with pytest.raises(ValueError, match=r"expected one of \['mnist', 'fashion'\], got 'cifar'"):
        datasets.load("cifar")


def test_a_relative_cache_folder_is_passed_over(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert datasets.cache_folder() == tmp_path / ".cache" / "funcnet"


def test_standardise_uses_the_training_images_alone():
    train = np.arange(256, dtype=np.uint8).reshape(4, 8, 8)
    test = np.full((1, 8, 8), 255, np.uint8)
    train_out, test_out = datasets.standardise(train, test)
    assert train_out.dtype == test_out.dtype == np.float32
    assert train_out.shape == (4, 8, 8)
    assert train_out.mean() == pytest.approx(0, abs=1e-6)
    assert train_out.std() == pytest.approx(1, abs=1e-6)
    np.testing.assert_array_equal(test_out, train_out.max())


@pytest.mark.parametrize("train", [np.zeros((2, 3, 3), np.uint8), np.zeros((0, 3, 3), np.uint8)])
def test_standardise_refuses_images_without_contrast(train):
    with pytest.raises(ValueError, match="at least two different pixel values"):
        datasets.standardise(train, train)
