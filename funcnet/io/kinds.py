"""What a file is that was taken for one of parameters, by its first bytes; nothing is loaded."""

import io
import os
import zipfile
from pathlib import Path

_PICKLE = (
    "a pickle, not a safetensors file; pickles can execute code and are never loaded: in PyTorch, "
    "write safetensors.torch.save_file(model.state_dict(), path), or give "
    "torch.load(path, weights_only=True) to fn.interop.load_state_dict"
)
_BY_HDF5 = (
    "an HDF5 file, as Keras and h5py write them; read it with h5py, and give a dict from PyTorch's "
    "keys to arrays to fn.interop.load_state_dict"
)
_BY_MAGIC = {
    b"\x89HDF\r\n\x1a\n": _BY_HDF5,
    b"\x93NUMPY": "one array of np.save; give a dict from keys to arrays, as "
    "{'0.weight': np.load(path)}, to fn.interop.load_state_dict",
    b"\x1f\x8b\x08": "compressed by gzip; expand it first, with gunzip",
    b"\x28\xb5\x2f\xfd": "compressed by Zstandard; expand it first, with unzstd",
    b"GGUF": "a GGUF file, as llama.cpp reads them; take the safetensors files of the same model",
    b"version https://git-lfs": "a pointer of Git LFS and not the file itself; fetch that with "
    "git lfs pull",
    b"{": "text in JSON; of a model in several files, give each *.safetensors file",
    b"<": "a web page or XML; fetch the file itself",
}


def kind_of(data: bytes) -> str:
    """What a file is, and what to do with one of its kind; "" where that can't be told."""
    if not data:
        return "empty, 0 bytes; write or fetch it again"
    if data.startswith(b"PK\x03\x04"):
        return _kind_of_zip(data)
    # A safetensors file begins with the length of its header, eight bytes of which the last are 0.
    if data[:1] in (b"{", b"<") and data[4:8] == bytes(4):
        return ""
    # A pickle's protocol, and the first of its instructions.
    if len(data) > 2 and data[0] == 0x80 and data[1] <= 5 and data[2] >= 0x20:
        return _PICKLE
    return next((kind for magic, kind in _BY_MAGIC.items() if data.startswith(magic)), "")


def _kind_of_zip(data: bytes) -> str:
    """Of a zip file: torch.save writes one, and so do NumPy and Keras."""
    try:
        names = zipfile.ZipFile(io.BytesIO(data)).namelist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError):
        return "a damaged zip file; write or fetch it again"
    if any(name.endswith(".pkl") for name in names):
        return _PICKLE
    if names and all(name.endswith(".npy") for name in names):
        return (
            "an npz file of NumPy; give dict(np.load(path)), under PyTorch's keys, to "
            "fn.interop.load_state_dict"
        )
    if "model.weights.h5" in names:
        return f"a model of Keras, a zip file around {_BY_HDF5}"
    return "a zip file; take what is in it"


def read_file(path: str | os.PathLike[str]) -> bytes:
    """Return what is in a file.

    Raises:
        IsADirectoryError: it is a folder; the message says of what.
        OSError: it can't be read.
    """
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder, expected a safetensors file; {_inside(path)}")
    return path.read_bytes()


def _inside(folder: Path) -> str:
    """What to give instead of a folder."""
    names = sorted(path.name for path in folder.iterdir())
    if any(name.isdecimal() for name in names):
        return "it may hold checkpoints: fn.checkpoint.restore(folder, like)"
    files = [name for name in names if name.endswith(".safetensors")]
    return f"give one of {', '.join(files[:3])}" if files else "give a file"
