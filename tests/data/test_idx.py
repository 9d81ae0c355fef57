"""The IDX reader returns the right file's values and refuses every other file in bounded memory."""

import gzip
import hashlib
import io
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from funcnet import data
from funcnet.data import idx

SHAPE = (4, 3, 2)
IMAGES = (
    b"\x00\x00\x08\x03" + b"\x00\x00\x00\x04\x00\x00\x00\x03\x00\x00\x00\x02" + bytes(range(24))
)
LABELS = b"\x00\x00\x08\x01" + b"\x00\x00\x00\x04" + bytes([3, 1, 2, 0])
COMPRESSED = gzip.compress(IMAGES, mtime=0)


def read(content, shape=SHAPE, official=IMAGES):
    return idx.read(io.BytesIO(content), "file.gz", shape, hashlib.sha256(official).hexdigest())


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


TYPES = {"u1": 0x08, "i1": 0x09, "i2": 0x0B, "i4": 0x0C, "f4": 0x0D, "f8": 0x0E}


def written(array):
    """An array as the bytes of an IDX file."""
    code = TYPES[array.dtype.str[1:]]
    head = bytes([0, 0, code, array.ndim]) + np.array(array.shape, ">u4").tobytes()
    return head + array.astype(array.dtype.newbyteorder(">")).tobytes()


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("shape", [(5,), (3, 16, 16), (2, 3, 4, 3), (0, 2)])
def test_any_type_and_shape(kind, shape, tmp_path):
    array = (np.random.default_rng(0).normal(size=shape) * 50).astype(kind)
    (tmp_path / "plain").write_bytes(written(array))
    (tmp_path / "packed.gz").write_bytes(gzip.compress(written(array)))
    for found in (
        data.read_idx(tmp_path / "plain"),
        data.read_idx(str(tmp_path / "packed.gz")),
        data.read_idx(tmp_path / "packed"),
    ):
        np.testing.assert_array_equal(found, array)
        assert found.dtype == np.dtype(kind)
        assert found.dtype.isnative


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not an IDX file: it is empty"),
        (b"<!DOCTYPE html>", "not an IDX file: it starts with the bytes 3c 21 44 4f, expected"),
        (b"\x00\x00\x0a\x01" + bytes(8), "not an IDX file"),
        (b"\x00\x00\x08\x00", "not an IDX file"),
        (IMAGES[:9], "ends within its header"),
        (IMAGES[:-1], "ends after 39 bytes, expected 40"),
        (IMAGES + b"\x00", "goes on, expected 40"),
        (COMPRESSED[:-1], "damaged gzip file"),
        (COMPRESSED[:-8] + bytes(8), "damaged gzip file"),
        (header(*[2**32 - 1] * 3), "4294967295 x .* more than 4294967296 bytes in all"),
        (header(2**31), "ends after 8 bytes, expected 2147483656"),
    ],
)
def test_what_is_no_whole_idx_file_is_refused_in_bounded_memory(content, message, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(content)
    tracemalloc.start()
    try:
        with pytest.raises(data.IDXError, match=message):
            data.read_idx(path)
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()


def test_a_file_that_expands_to_too_much_is_not_expanded(tmp_path):
    path = tmp_path / "bomb.gz"
    path.write_bytes(gzip.compress(header(100) + bytes(50_000_000)))
    tracemalloc.start()
    try:
        with pytest.raises(data.IDXError, match="goes on, expected 108"):
            data.read_idx(path)
        with pytest.raises(data.IDXError, match="raise max_bytes"):
            data.read_idx(path, max_bytes=99)
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()


def write_set(folder, images, labels, front="", test="t10k", end=""):
    folder.mkdir()
    for part, rows in (("train", slice(20)), (test, slice(20, None))):
        for name, array in (("images-idx3", images), ("labels-idx1", labels)):
            content = written(array[rows])
            path = folder / f"{front}{part}-{name}-ubyte{end}"
            path.write_bytes(gzip.compress(content) if end else content)


PICTURES = np.random.default_rng(1).integers(0, 256, (30, 16, 16)).astype("u1")
LETTERS = (np.arange(30) % 26 + 1).astype("u1")


@pytest.mark.parametrize(
    "names", [{}, {"front": "emnist-letters-", "test": "test", "end": ".gz"}, {"end": ".gz"}]
)
def test_the_four_files_of_a_set(names, tmp_path):
    write_set(tmp_path / "set", PICTURES, LETTERS, **names)
    (x, y), (x_test, y_test) = data.read_idx_set(tmp_path / "set")
    np.testing.assert_array_equal(np.concatenate([x, x_test]), PICTURES)
    np.testing.assert_array_equal(np.concatenate([y, y_test]), LETTERS)
    assert len(x) == 20


def test_a_folder_that_is_no_set_is_refused(tmp_path):
    folder = tmp_path / "set"
    write_set(folder, PICTURES, LETTERS, "emnist-letters-")
    write_set(tmp_path / "other", PICTURES, LETTERS, "emnist-digits-")
    for path in (tmp_path / "other").iterdir():
        path.rename(folder / path.name)
    with pytest.raises(data.IDXError, match="several sets, with emnist-digits-train-images"):
        data.read_idx_set(folder)
    with pytest.raises(FileNotFoundError, match="neither train-images-idx3-ubyte"):
        data.read_idx_set(tmp_path / "other")
    write_set(tmp_path / "swapped", PICTURES, LETTERS[:-1])
    with pytest.raises(data.IDXError, match=r"images have shape .* \(n,\) integers"):
        data.read_idx_set(tmp_path / "swapped")
