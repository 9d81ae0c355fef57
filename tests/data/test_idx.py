"""The IDX reader returns the right file's values and refuses every other file in bounded memory."""

import gzip
import hashlib
import io
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from funcnet.data import idx

SHAPE = (4, 3, 2)
IMAGES = (
    b"\x00\x00\x08\x03" + b"\x00\x00\x00\x04\x00\x00\x00\x03\x00\x00\x00\x02" + bytes(range(24))
)
LABELS = b"\x00\x00\x08\x01" + b"\x00\x00\x00\x04" + bytes([3, 1, 2, 0])
COMPRESSED = gzip.compress(IMAGES, mtime=0)


def read(data, shape=SHAPE, official=IMAGES):
    return idx.read(io.BytesIO(data), "file.gz", shape, hashlib.sha256(official).hexdigest())


@pytest.mark.parametrize("data", [IMAGES, COMPRESSED], ids=["plain", "gzip"])
def test_images(data):
    array = read(data)
    np.testing.assert_array_equal(array, np.arange(24).reshape(SHAPE))
    assert array.dtype == np.uint8
    assert not array.flags.writeable


def test_labels():
    np.testing.assert_array_equal(read(LABELS, (4,), LABELS), [3, 1, 2, 0])


def header(*dimensions):
    return bytes([0, 0, 8, len(dimensions)]) + np.array(dimensions, ">u4").tobytes()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "file.gz: empty; put the official file of 4 images in its place"),
        (b"<!DOCTYPE html>", "starts with the bytes 3c 21 44 4f, expected 00 00 08 03"),
        (b"\x00\x00\x0d\x03" + IMAGES[4:], "starts with the bytes 00 00 0d 03"),
        (b"\x00", "starts with the bytes 00, expected"),
        (LABELS, "holds labels, expected images; .* may be swapped"),
        (IMAGES[:9], "ends after 9 bytes, expected 40"),
        (IMAGES[:-1], "ends after 39 bytes, expected 40"),
        (IMAGES + b"\x00", "goes on, expected 40"),
        (header(2**32 - 1, 2**32 - 1, 2**32 - 1), "4294967295 x .* expected 4 x 3 x 2"),
        (header(3, 4, 2) + bytes(24), "header says 3 x 4 x 2 values, expected 4 x 3 x 2"),
        (header(4, 3, 2) + bytes(24), "damaged or another data set's"),
        (COMPRESSED[:1], "starts with the bytes 1f"),
        (COMPRESSED[:-1], "damaged gzip file"),
        (COMPRESSED[:12], "damaged gzip file"),
        (COMPRESSED[:-8] + bytes(8), "damaged gzip file"),
        (b"\x1f\x8b no gzip", "damaged gzip file"),
    ],
)
def test_what_is_no_such_file_is_refused(data, message):
    with pytest.raises(idx.IDXError, match=message):
        read(data)


def test_images_where_labels_belong_are_refused():
    with pytest.raises(idx.IDXError, match=r"holds images, expected labels; .* may be swapped"):
        read(IMAGES, (4,), LABELS)


def test_a_gzip_bomb_is_not_expanded():
    bomb = gzip.compress(IMAGES + bytes(50_000_000))
    assert len(bomb) < 100_000
    tracemalloc.start()
    try:
        with pytest.raises(idx.IDXError, match="goes on"):
            read(bomb)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


def check_damaged(data):
    """A damaged file is refused, or reads right: some bits of a gzip header mean nothing."""
    try:
        array = read(data)
    except idx.IDXError as error:
        assert str(error).startswith("file.gz: ")  # noqa: PT017
    else:
        np.testing.assert_array_equal(array, np.arange(24).reshape(SHAPE))


@pytest.mark.parametrize("data", [IMAGES, COMPRESSED], ids=["plain", "gzip"])
def test_every_flipped_bit_and_every_truncation(data):
    for bit in range(8 * len(data)):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        check_damaged(bytes(flipped))
    for length in range(len(data)):
        with pytest.raises(idx.IDXError):
            read(data[:length])


@given(st.binary(max_size=80), st.integers(0, 40), st.integers(0, 40))
def test_any_bytes_spliced_into_a_file(noise, start, stop):
    check_damaged(IMAGES[:start] + noise + IMAGES[stop:])
    check_damaged(COMPRESSED[:start] + noise + COMPRESSED[stop:])
