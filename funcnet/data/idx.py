"""Read an IDX file, the format of MNIST, without trusting it.

An IDX file is, all numbers big-endian: two zero bytes, the type of the values (8 is uint8), the
number of dimensions, each dimension as a uint32, then the values in row-major order. It is usually
compressed with gzip.

`read_idx` reads any such file: it takes no more memory than the values that are there, and refuses
a header that claims more than a limit. `read` reads a file that is known beforehand: it
decompresses at most one byte more than the right file has, then compares the header, the length
and the checksum, in the order that makes the clearest message.
"""

import gzip
import hashlib
import math
import os
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from funcnet.errors import DataError

_UINT8 = 0x08
_GZIP_MAGIC = b"\x1f\x8b"
_KINDS = {1: "labels", 3: "images"}


class IDXError(DataError):
    """A file that is not the IDX file it should be."""


_TYPES = {0x08: "u1", 0x09: "i1", 0x0B: "i2", 0x0C: "i4", 0x0D: "f4", 0x0E: "f8"}
_CHUNK = 2**20
FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
"""What MNIST's files are called."""
_LARGEST = 2**32


def read_idx(path: str | os.PathLike[str], *, max_bytes: int = _LARGEST) -> np.ndarray:
    """Return the array in an IDX file of any type and shape, compressed with gzip or not.

    MNIST and the sets made in its image have such files: Fashion-MNIST, KMNIST, EMNIST, QMNIST.

    Args:
        path: the file; where it is not there, one beside it whose name ends in .gz besides.
        max_bytes: the most bytes that the values may have; a header that claims more is refused.

    Returns:
        An array of the file's shape, in the machine's byte order: uint8, int8, int16, int32,
        float32 or float64.

    Raises:
        IDXError: it is no IDX file, is cut off, goes on too long, or is damaged.
        OSError: it can't be read.
    """
    path = Path(path)
    compressed = path.with_name(f"{path.name}.gz")
    if not path.exists() and compressed.exists():
        path = compressed
    with path.open("rb") as stream:
        magic = bytes(_decompress(stream, str(path), 4))
        stream.seek(0)
        dtype = np.dtype(f">{_TYPES[magic[2]]}") if _is_magic(magic) else None
        if dtype is None:
            came = f"starts with the bytes {magic.hex(' ')}" if magic else "is empty"
            raise IDXError(
                f"{path}: not an IDX file: it {came}, expected 00 00, a type from 08 to 0e, and "
                f"the number of dimensions; fetch it again or take another copy"
            )
        header = 4 + 4 * magic[3]
        data = _decompress(stream, str(path), header)
        if len(data) < header:
            raise IDXError(f"{path}: ends within its header; {_ANOTHER}")
        shape = struct.unpack(f">{magic[3]}I", data[4:])
        size = header + math.prod(shape) * dtype.itemsize
        if size - header > max_bytes:
            raise IDXError(
                f"{path}: its header says {_times(shape)} values of {dtype.itemsize} bytes, more "
                f"than {max_bytes} bytes in all; {_ANOTHER}, or raise max_bytes"
            )
        stream.seek(0)
        data = _decompress(stream, str(path), size + 1)
    if len(data) != size:
        came = f"ends after {len(data)} bytes" if len(data) < size else "goes on"
        raise IDXError(f"{path}: {came}, expected {size} bytes uncompressed; {_ANOTHER}")
    values = np.frombuffer(data, dtype, offset=header).reshape(shape)
    return values.astype(dtype.newbyteorder("="), copy=False)


def read_idx_set(
    folder: str | os.PathLike[str], names: Sequence[str] = FILES
) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Return the training and the test images and labels in a folder like MNIST's.

    Its four files are called train-images-idx3-ubyte, train-labels-idx1-ubyte, and t10k-... or
    test-... likewise, with more in front, as emnist-letters-train-..., and .gz behind them, or not.

    Args:
        folder: with the files of one set.
        names: what the four files are called, if otherwise.

    Returns:
        (images, labels) of the training and of the test set: (n, height, width) of any type, and
        (n,) integers, as the files have them. EMNIST's letters are counted from 1, for one:
        `classes, y = np.unique(labels, return_inverse=True)` counts from 0.

    Raises:
        IDXError: a file is not right, see `read_idx`; images and labels do not fit; there are
            several sets.
        FileNotFoundError: there are none.
    """
    arrays = [read_idx(find(folder, name, names)) for name in names]
    pairs = (arrays[0], arrays[1]), (arrays[2], arrays[3])
    for images, labels in pairs:
        if (images.ndim, *labels.shape) != (3, len(images)) or labels.dtype.kind not in "iu":
            raise IDXError(
                f"{folder}: images have shape {images.shape} and labels {labels.shape} of "
                f"{labels.dtype}, expected (n, height, width) and (n,) integers; the files of "
                f"images and labels, or of training and test, may be swapped"
            )
    return pairs


def find(folder: str | os.PathLike[str], name: str, others: Sequence[str] = FILES) -> Path:
    """Return the file of a set that has this name, or one that ends in it, compressed or not.

    Raises:
        IDXError: several do.
        FileNotFoundError: none does; `others` are the names that the message gives.
    """
    folder = Path(folder)
    names = [f"{stem}{gz}" for stem in (name, name.replace("t10k", "test")) for gz in (".gz", "")]
    for exact in names:
        if (folder / exact).exists():
            return folder / exact
    found = [path for path in sorted(folder.iterdir()) if path.name.endswith(tuple(names))]
    if len(found) > 1:
        raise IDXError(
            f"{folder}: several sets, with {', '.join(path.name for path in found)}; give the four "
            f"files of one a folder of their own"
        )
    if not found:
        raise FileNotFoundError(
            f"{folder}: neither {name}.gz nor {name} is there; the folder must hold the four files "
            f"{', '.join(others)}, compressed or not"
        )
    return found[0]


_ANOTHER = "fetch it again or take another copy"


def _is_magic(magic: bytes) -> bool:
    return len(magic) == 4 and magic[:2] == b"\0\0" and magic[2] in _TYPES and 0 < magic[3] <= 32


def read(stream: BinaryIO, name: str, shape: tuple[int, ...], sha256: str) -> np.ndarray:
    """Return the array in an IDX file, gzip-compressed or not.

    Args:
        stream: the file, open for reading and seekable.
        name: what messages call the file: its path or address.
        shape: what it must have: (examples,) for labels, (examples, height, width) for images.
        sha256: checksum of the uncompressed bytes, hexadecimal.

    Returns:
        A read-only uint8 array of that shape.

    Raises:
        IDXError: it is anything else; the message says what came, what was expected and the likely
            mend.
        OSError: it can't be read.
    """
    header = 4 + 4 * len(shape)
    size = header + math.prod(shape)
    data = _decompress(stream, name, size + 1)
    if not data:
        raise IDXError(f"{name}: empty; {_mend(shape)}")
    _check_magic(bytes(data[:4]), name, shape)
    if len(data) >= header:
        _check_dimensions(struct.unpack(f">{len(shape)}I", data[4:header]), name, shape)
    if len(data) != size:
        came = f"ends after {len(data)} bytes" if len(data) < size else "goes on"
        raise IDXError(f"{name}: {came}, expected {size} bytes uncompressed; {_mend(shape)}")
    digest = hashlib.sha256(data).hexdigest()
    if digest != sha256:
        raise IDXError(
            f"{name}: damaged or another data set's: sha256 of the uncompressed bytes is {digest}, "
            f"expected {sha256}; {_mend(shape)}"
        )
    values = np.frombuffer(data, np.uint8, offset=header).reshape(shape)
    values.flags.writeable = False
    return values


def _decompress(stream: BinaryIO, name: str, limit: int) -> bytearray:
    """Return at most `limit` uncompressed bytes, however many the file would expand to.

    Only what is there is allocated, whatever the limit.
    """
    compressed = stream.read(2) == _GZIP_MAGIC
    stream.seek(0)
    if not compressed:
        return _read(stream, limit)
    try:
        with gzip.GzipFile(fileobj=stream) as expanded:
            return _read(expanded, limit)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise IDXError(
            f"{name}: damaged gzip file ({error}); fetch it again or take another copy"
        ) from error


def _read(stream: Any, limit: int) -> bytearray:
    data = bytearray()
    while len(data) < limit and (chunk := stream.read(min(_CHUNK, limit - len(data)))):
        data += chunk
    return data


def _check_magic(magic: bytes, name: str, shape: tuple[int, ...]) -> None:
    expected = bytes([0, 0, _UINT8, len(shape)])
    if magic == expected:
        return
    other = _KINDS.get(magic[3]) if len(magic) == 4 and magic[:3] == expected[:3] else None
    if other is not None:
        raise IDXError(
            f"{name}: holds {other}, expected {_KINDS[len(shape)]}; "
            "the files of images and labels may be swapped"
        )
    raise IDXError(
        f"{name}: not an IDX file of uint8 {_KINDS[len(shape)]}: it starts with the bytes "
        f"{magic.hex(' ')}, expected {expected.hex(' ')}; {_mend(shape)}"
    )


def _check_dimensions(claimed: tuple[int, ...], name: str, shape: tuple[int, ...]) -> None:
    if claimed != shape:
        raise IDXError(
            f"{name}: its header says {_times(claimed)} values, expected {_times(shape)}; "
            f"training and test files may be swapped, or {_mend(shape)}"
        )


def _mend(shape: tuple[int, ...]) -> str:
    return f"put the official file of {shape[0]} {_KINDS[len(shape)]} in its place"


def _times(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))
