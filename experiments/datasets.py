"""MNIST and Fashion-MNIST, checked before use and downloaded only when no copy is at hand.

`load` takes the four files from the folder given (the option `--data-dir`), whose files may be any
of this format: KMNIST, EMNIST, images of another size. Else from the first place that has them:

1. the system's data sets, `/usr/share/datasets/<set>`: Debian's package `dataset-fashion-mnist`;
2. the files shipped with the experiments: MNIST only;
3. the user's cache, `$XDG_CACHE_HOME/funcnet` or `~/.cache/funcnet`, downloaded when it lacks one.

From there a file must have the official one's checksum. That is taken of the uncompressed bytes,
for most copies in circulation have been compressed again.
"""

import io
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Integer, Shaped

import funcnet as fn
from experiments.download import fetch
from funcnet.data import idx
from funcnet.io.files import write_atomically

SYSTEM = Path("/usr/share/datasets")
SHIPPED = Path(__file__).parent / "data"


class Split(NamedTuple):
    """Training or test data: a pair of arrays, as `funcnet.fit` takes."""

    images: Shaped[np.ndarray, "examples height width"]
    """0 is the background."""
    labels: Integer[np.ndarray, " examples"]


class File(NamedTuple):
    """One of the four files of a data set."""

    name: str
    shape: tuple[int, ...]
    sha256: str
    """Of the uncompressed bytes."""


@dataclass(frozen=True)
class DataSet:
    """What is known of a data set before it is read."""

    title: str
    folder: str
    url: str
    """Folder of the compressed files; https."""
    class_names: tuple[str, ...]
    checksums: tuple[str, str, str, str]

    @property
    def files(self) -> tuple[File, ...]:
        """Training images and labels, then test images and labels."""
        return tuple(
            File(name, shape, sha256)
            for (name, shape), sha256 in zip(_FILES.items(), self.checksums, strict=True)
        )


_SHAPES = (60_000, 28, 28), (60_000,), (10_000, 28, 28), (10_000,)
_FILES = dict(zip(idx.FILES, _SHAPES, strict=True))

DATA_SETS = {
    "mnist": DataSet(
        title="MNIST",
        folder="mnist",
        url="https://storage.googleapis.com/cvdf-datasets/mnist/",
        class_names=tuple("0123456789"),
        checksums=(
            "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
            "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
            "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
            "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        ),
    ),
    "fashion": DataSet(
        title="Fashion-MNIST",
        folder="fashion-mnist",
        url="https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
        class_names=(
            *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
            *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
        ),
        checksums=(
            "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
            "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
            "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
            "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
        ),
    ),
}


def load(
    name: str = "mnist", data_dir: str | os.PathLike[str] | None = None
) -> tuple[Split, Split]:
    """Return the training and test data of a data set.

    Args:
        name: "mnist" or "fashion".
        data_dir: folder with the four files of any set; None searches the places listed above.

    Raises:
        ValueError: the name is unknown, or a file is not right (`idx.IDXError`).
        OSError: a file is missing, can't be read, or can't be downloaded.
    """
    if name not in DATA_SETS:
        raise ValueError(f"data set: expected one of {list(DATA_SETS)}, got {name!r}")
    data_set = DATA_SETS[name]
    if data_dir is not None:
        train, test = fn.data.read_idx_set(data_dir, list(_FILES))
        return Split(*train), Split(*test)
    folder = _find(data_set)
    arrays = [_read(folder, file) for file in data_set.files]
    return Split(arrays[0], arrays[1]), Split(arrays[2], arrays[3])


def standardise(train: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Shift and scale images by one mean and one standard deviation, both of the training images.

    The images may have any shapes, and become float32.

    Raises:
        ValueError: the training images are empty or all pixels are the same.
    """
    deviation = train.std() if train.size else 0.0
    if deviation == 0:
        raise ValueError("training images: expected at least two different pixel values")
    mean, scale = np.float32(train.mean()), np.float32(1 / deviation)
    return (train.astype(np.float32) - mean) * scale, (test.astype(np.float32) - mean) * scale


def _read(folder: Path, file: File) -> np.ndarray:
    path = idx.find(folder, file.name, list(_FILES))
    with path.open("rb") as stream:
        return idx.read(stream, str(path), file.shape, file.sha256)


def _find(data_set: DataSet) -> Path:
    """Return the first folder with all four files, the last being the cache, filled up first."""
    for parent in (SYSTEM, SHIPPED):
        folder = parent / data_set.folder
        if not _missing(folder, data_set):
            return folder
    folder = cache_folder() / data_set.folder
    for file in _missing(folder, data_set):
        _download(f"{data_set.url}{file.name}.gz", file, folder)
    return folder


def _missing(folder: Path, data_set: DataSet) -> list[File]:
    there = {path.name.removesuffix(".gz") for path in folder.iterdir()} if folder.is_dir() else ()
    return [file for file in data_set.files if file.name not in there]


def cache_folder() -> Path:
    """Return the folder for downloads: `$XDG_CACHE_HOME/funcnet`, by default `~/.cache/funcnet`."""
    configured = Path(os.environ.get("XDG_CACHE_HOME", ""))
    # The XDG specification says to pass over relative paths; what is not set counts as one.
    return (configured if configured.is_absolute() else Path.home() / ".cache") / "funcnet"


def _download(url: str, file: File, folder: Path) -> None:
    """Fetch one file into a folder, where it appears complete and checked or not at all."""
    # gzip adds a few bytes to what it can't compress; anything longer is not the file.
    try:
        data = fetch(url, limit=math.prod(file.shape) + 65_536)
    except OSError as error:
        raise OSError(
            f"{error}; check the network, or get the four files elsewhere and give their folder "
            "with --data-dir"
        ) from error
    idx.read(io.BytesIO(data), url, file.shape, file.sha256)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / f"{file.name}.gz", data)
