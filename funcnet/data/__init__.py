"""Data sets: arrays with one leading axis of examples, their order, and files that hold them."""

from funcnet.data.idx import IDXError, read_idx, read_idx_set
from funcnet.data.windows import Windows, windows

__all__ = ["IDXError", "Windows", "read_idx", "read_idx_set", "windows"]
