"""A file of the wrong kind is named for what it is, with what to do, and never loaded."""

import gzip
import io
import zipfile
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import funcnet as fn
from funcnet.errors import CheckpointError, ParamsError

MODEL = fn.Linear(2, 3)
PARAMS, STATE = MODEL.init(jax.random.key(0))
ARRAYS = {key: np.asarray(leaf) for key, leaf in fn.interop.state_dict(PARAMS).items()}


def by(write: Any, *arguments: Any) -> bytes:
    stream = io.BytesIO()
    write(stream, *arguments)
    return stream.getvalue()


def zipped(*names: str) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name in names:
            archive.writestr(name, b"")
    return stream.getvalue()


def saved_by_torch(**options: Any) -> bytes:
    import torch

    tensors = {key: torch.tensor(array) for key, array in ARRAYS.items()}
    return by(lambda file: torch.save(tensors, file, **options))


# What needs PyTorch, which is optional, is made in the test.
FILES: dict[str, tuple[Any, str]] = {
    "torch": (saved_by_torch, "a pickle, .* weights_only=True"),
    "old torch": (
        lambda: saved_by_torch(_use_new_zipfile_serialization=False),
        r"a pickle, .* safetensors\.torch\.save_file",
    ),
    "npz": (
        by(lambda file: np.savez(file, allow_pickle=False, **ARRAYS)),
        r"an npz file .* dict\(np\.load\(path\)\)",
    ),
    "npy": (by(np.save, np.ones(3)), r"one array of np\.save"),
    "HDF5": (b"\x89HDF\r\n\x1a\n" + bytes(100), "an HDF5 file, as Keras"),
    "Keras": (zipped("config.json", "model.weights.h5"), "a model of Keras"),
    "zip": (zipped("readme.txt"), "a zip file; take what is in it"),
    "half a zip": (zipped("readme.txt")[:30], "a damaged zip file"),
    "gzip": (gzip.compress(bytes(100), mtime=0), "compressed by gzip"),
    "GGUF": (b"GGUF\x03\x00\x00\x00", "a GGUF file"),
    "LFS": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
    "JSON": (b'{"metadata": {}, "weight_map": {}}', r"give each \*\.safetensors file"),
    "HTML": (b"<!DOCTYPE html><html></html>", "a web page"),
    "empty": (b"", "empty, 0 bytes"),
}
READERS = {
    "load": lambda path: fn.load(path, like=MODEL),
    "load_params": lambda path: fn.load_params(path, PARAMS),
    "load_state_dict": lambda path: fn.interop.load_state_dict(path, PARAMS, STATE),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.torch if callable(made) else ())
        for name, (made, _) in FILES.items()
    ],
)
def test_a_file_of_another_kind_is_named(name, reader, tmp_path):
    path = tmp_path / "file"
    content, message = FILES[name]
    path.write_bytes(content() if callable(content) else content)
    with pytest.raises(ParamsError, match=f"file: .*{message}"):
        READERS[reader](path)
    pytest.importorskip("orbax.checkpoint", reason="needs the extra checkpoint")
    with pytest.raises(NotADirectoryError, match=f"expected a folder of checkpoints; .*{message}"):
        fn.checkpoint.restore(path, PARAMS)


@pytest.mark.torch
def test_what_the_messages_say_to_type_works(tmp_path):
    import torch

    (tmp_path / "model.pt").write_bytes(saved_by_torch())
    (tmp_path / "model.npz").write_bytes(FILES["npz"][0])
    for source in (
        torch.load(tmp_path / "model.pt", weights_only=True),
        dict(np.load(tmp_path / "model.npz")),
    ):
        params, _ = fn.interop.load_state_dict(source, PARAMS, STATE)
        jax.tree.map(np.testing.assert_array_equal, params, PARAMS)


@pytest.mark.parametrize("reader", READERS)
def test_a_folder_is_named_with_what_is_in_it(reader, tmp_path):
    with pytest.raises(IsADirectoryError, match=r"is a folder, expected .*; give a file"):
        READERS[reader](tmp_path)
    fn.save_params(tmp_path / "a.safetensors", PARAMS)
    with pytest.raises(IsADirectoryError, match=r"give one of a\.safetensors"):
        READERS[reader](tmp_path)
    (tmp_path / "00000003").mkdir()
    with pytest.raises(IsADirectoryError, match=r"fn\.checkpoint\.restore\(folder, like\)"):
        READERS[reader](tmp_path)


def test_a_damaged_safetensors_file_is_not_taken_for_another_kind(tmp_path):
    for first in (b"\x80\x02", b"{\x01", b"<\x01"):
        (tmp_path / "file").write_bytes(first + bytes(6) + b'{"w": ')
        with pytest.raises(ParamsError, match=r"not a safetensors file: .* write or fetch"):
            fn.load_params(tmp_path / "file", PARAMS)


def test_restore_is_given_the_wrong_place(tmp_path):
    pytest.importorskip("orbax.checkpoint", reason="needs the extra checkpoint")
    fn.save_params(tmp_path / "model.safetensors", PARAMS)
    with pytest.raises(NotADirectoryError, match=r"read by fn\.load\(path, like\)"):
        fn.checkpoint.restore(tmp_path / "model.safetensors", PARAMS)
    fn.checkpoint.save(tmp_path / "run", 3, {"w": jnp.ones(2)})
    with pytest.raises(CheckpointError, match=r"is one checkpoint, expected the folder .*run$"):
        fn.checkpoint.restore(tmp_path / "run" / "00000003", {"w": jnp.ones(2)})
