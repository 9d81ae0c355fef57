"""Layers and losses: frozen dataclasses that hold sizes and options, and no arrays.

A layer is two pure functions. `init` makes its parameters and state from a key; `apply` maps
parameters, state and an input to an output and the next state:

    params, state    = layer.init(key, dtype=jnp.float32)
    output, state    = layer.apply(params, state, x, key=key, train=True)

A layer's params are a dict of arrays with PyTorch's names, a container's a tuple with one entry
per layer, or a dict where its layers have names, and `()` where there is nothing. Layers are
hashable and compare by value, so that a function compiled for one is found again for an equal one.
"""

from funcnet.layers.activations import (
    ELU,
    GELU,
    LeakyReLU,
    LogSoftmax,
    PReLU,
    ReLU,
    Sigmoid,
    SiLU,
    Softmax,
    Softplus,
    Tanh,
)
from funcnet.layers.attention import (
    KeyValueCache,
    MultiheadAttention,
    TransformerDecoderLayer,
    TransformerEncoderLayer,
)
from funcnet.layers.composition import Call, Container
from funcnet.layers.containers import Parallel, Residual, Sequential, Stack
from funcnet.layers.conv import Conv1d, Conv2d, ConvTranspose1d, ConvTranspose2d
from funcnet.layers.dropout import Dropout
from funcnet.layers.embedding import Embedding
from funcnet.layers.linear import Linear
from funcnet.layers.losses import (
    BCEWithLogitsLoss,
    CrossEntropyLoss,
    HuberLoss,
    KLDivLoss,
    L1Loss,
    Loss,
    MSELoss,
    NLLLoss,
    SmoothL1Loss,
)
from funcnet.layers.module import Function, Module, Output, Params, State
from funcnet.layers.normalization import BatchNorm1d, BatchNorm2d, GroupNorm, LayerNorm, RMSNorm
from funcnet.layers.pooling import (
    AdaptiveAvgPool2d,
    AvgPool2d,
    Flatten,
    Identity,
    MaxPool2d,
    Unflatten,
    Upsample,
)
from funcnet.layers.recurrent import GRU, LSTM, RNN, GRUCell, LSTMCell, RNNCell
from funcnet.layers.remat import Remat

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
    "Call",
    "Container",
    "Conv1d",
    "Conv2d",
    "ConvTranspose1d",
    "ConvTranspose2d",
    "CrossEntropyLoss",
    "Dropout",
    "Embedding",
    "Flatten",
    "Function",
    "GRUCell",
    "GroupNorm",
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
    "Output",
    "PReLU",
    "Parallel",
    "Params",
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
    "State",
    "Tanh",
    "TransformerDecoderLayer",
    "TransformerEncoderLayer",
    "Unflatten",
    "Upsample",
]
