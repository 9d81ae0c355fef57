"""Read an IDX file, the format of MNIST, without trusting it.

An IDX file is, all integers big-endian: two zero bytes, the type of the values (8 is uint8), the
number of dimensions, each dimension as a uint32, then the values in row-major order. It is usually
compressed with gzip.

The shape is known beforehand, so the reader never allocates what a header claims: it decompresses
at most one byte more than the right file has, then compares the header, the length and the
checksum, in the order that makes the clearest message.
"""

import gzip
import hashlib
import math
import struct
import zlib
from typing import BinaryIO

import numpy as np

from funcnet.errors import DataError

_UINT8 = 0x08
_GZIP_MAGIC = b"\x1f\x8b"
_KINDS = {1: "labels", 3: "images"}


class IDXError(DataError):
    """A file that is not the IDX file it should be."""


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
    _check_magic(data[:4], name, shape)
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
    return np.frombuffer(data, np.uint8, offset=header).reshape(shape)


def _decompress(stream: BinaryIO, name: str, limit: int) -> bytes:
    """Return at most `limit` uncompressed bytes, however many the file would expand to."""
    compressed = stream.read(2) == _GZIP_MAGIC
    stream.seek(0)
    if not compressed:
        return stream.read(limit)
    try:
        with gzip.GzipFile(fileobj=stream) as expanded:
            return expanded.read(limit)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise IDXError(
            f"{name}: damaged gzip file ({error}); fetch it again or take another copy"
        ) from error


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
