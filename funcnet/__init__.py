"""funcnet: neural networks as pure functions, with every backward pass derived by hand."""

from funcnet import interop, metrics, ops, testing
from funcnet.errors import DivergenceError
from funcnet.fitting import FitResult, fit
from funcnet.inspection import backward, summary
from funcnet.interop import load_params, save_params
from funcnet.layers import CrossEntropyLoss, Linear, Module, MSELoss, ReLU, Sequential, Tanh
from funcnet.seeds import map_seeds
from funcnet.training import Trainer, TrainState

__all__ = [
    "CrossEntropyLoss",
    "DivergenceError",
    "FitResult",
    "Linear",
    "MSELoss",
    "Module",
    "ReLU",
    "Sequential",
    "Tanh",
    "TrainState",
    "Trainer",
    "backward",
    "fit",
    "interop",
    "load_params",
    "map_seeds",
    "metrics",
    "ops",
    "save_params",
    "summary",
    "testing",
]

__version__ = "0.1.0"
