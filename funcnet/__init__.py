"""funcnet: neural networks as pure functions, with every backward pass derived by hand."""

from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING

from funcnet import data, errors, metrics, ops, testing
from funcnet.errors import CheckpointError, DivergenceError, TrainingInterrupted
from funcnet.inspect.debug import debugging
from funcnet.inspect.summary import summary
from funcnet.io import checkpoint, interop
from funcnet.io.export import export
from funcnet.io.safetensors import load, load_params, save, save_params
from funcnet.layers import (
    ELU,
    GELU,
    GRU,
    LSTM,
    RNN,
    AdaptiveAvgPool2d,
    AvgPool2d,
    BatchNorm1d,
    BatchNorm2d,
    BCEWithLogitsLoss,
    Container,
    Conv1d,
    Conv2d,
    ConvTranspose1d,
    ConvTranspose2d,
    CrossEntropyLoss,
    Dropout,
    Embedding,
    Flatten,
    GroupNorm,
    GRUCell,
    HuberLoss,
    Identity,
    KeyValueCache,
    KLDivLoss,
    L1Loss,
    LayerNorm,
    LeakyReLU,
    Linear,
    LogSoftmax,
    Loss,
    LSTMCell,
    MaxPool2d,
    Module,
    MSELoss,
    MultiheadAttention,
    NLLLoss,
    Parallel,
    PReLU,
    ReLU,
    Remat,
    Residual,
    RMSNorm,
    RNNCell,
    Sequential,
    Sigmoid,
    SiLU,
    SmoothL1Loss,
    Softmax,
    Softplus,
    Stack,
    Tanh,
    TransformerDecoderLayer,
    TransformerEncoderLayer,
    Unflatten,
    Upsample,
)
from funcnet.layers.tracing import backward
from funcnet.testing import without_rules
from funcnet.training import callbacks
from funcnet.training.fit import fit
from funcnet.training.history import History
from funcnet.training.result import FitResult
from funcnet.training.seeds import map_seeds
from funcnet.training.state import TrainState
from funcnet.training.trainer import Trainer

if TYPE_CHECKING:
    from funcnet import sklearn as sklearn

__all__ = [
    "ELU",
    "GELU",
    "GRU",
    "LSTM",
    "RNN",
    "AdaptiveAvgPool2d",
    "AvgPool2d",
    "BCEWithLogitsLoss",
    "BatchNorm1d",
    "BatchNorm2d",
    "CheckpointError",
    "Container",
    "Conv1d",
    "Conv2d",
    "ConvTranspose1d",
    "ConvTranspose2d",
    "CrossEntropyLoss",
    "DivergenceError",
    "Dropout",
    "Embedding",
    "FitResult",
    "Flatten",
    "GRUCell",
    "GroupNorm",
    "History",
    "HuberLoss",
    "Identity",
    "KLDivLoss",
    "KeyValueCache",
    "L1Loss",
    "LSTMCell",
    "LayerNorm",
    "LeakyReLU",
    "Linear",
    "LogSoftmax",
    "Loss",
    "MSELoss",
    "MaxPool2d",
    "Module",
    "MultiheadAttention",
    "NLLLoss",
    "PReLU",
    "Parallel",
    "RMSNorm",
    "RNNCell",
    "ReLU",
    "Remat",
    "Residual",
    "Sequential",
    "SiLU",
    "Sigmoid",
    "SmoothL1Loss",
    "Softmax",
    "Softplus",
    "Stack",
    "Tanh",
    "TrainState",
    "Trainer",
    "TrainingInterrupted",
    "TransformerDecoderLayer",
    "TransformerEncoderLayer",
    "Unflatten",
    "Upsample",
    "backward",
    "callbacks",
    "checkpoint",
    "data",
    "debugging",
    "errors",
    "export",
    "fit",
    "interop",
    "load",
    "load_params",
    "map_seeds",
    "metrics",
    "ops",
    "save",
    "save_params",
    "summary",
    "testing",
    "without_rules",
]

__version__ = "0.1.0"


def __getattr__(name: str) -> ModuleType:
    """`fn.sklearn`, which imports scikit-learn, when it is asked for."""
    if name == "sklearn":
        return import_module("funcnet.sklearn")
    raise AttributeError(f"module 'funcnet' has no attribute {name!r}")
