"""Pure array functions with hand-derived backward passes, named as in `torch.nn.functional`."""

from funcnet.ops.activations import (
    elu,
    gelu,
    leaky_relu,
    prelu,
    relu,
    sigmoid,
    silu,
    softplus,
    tanh,
)
from funcnet.ops.attention import scaled_dot_product_attention
from funcnet.ops.concatenate import concatenate
from funcnet.ops.conv import conv1d, conv2d
from funcnet.ops.conv_transpose import conv_transpose1d, conv_transpose2d
from funcnet.ops.dropout import dropout
from funcnet.ops.embedding import embedding
from funcnet.ops.interpolate import interpolate
from funcnet.ops.linear import linear
from funcnet.ops.losses import (
    binary_cross_entropy_with_logits,
    cross_entropy,
    huber_loss,
    kl_div,
    l1_loss,
    mse_loss,
    nll_loss,
    smooth_l1_loss,
)
from funcnet.ops.normalization import batch_norm, group_norm, layer_norm, rms_norm
from funcnet.ops.pooling import adaptive_avg_pool2d, avg_pool2d, max_pool2d
from funcnet.ops.recurrent import gru, lstm, rnn
from funcnet.ops.rotary import rotary_embedding
from funcnet.ops.softmax import log_softmax, softmax

__all__ = [
    "adaptive_avg_pool2d",
    "avg_pool2d",
    "batch_norm",
    "binary_cross_entropy_with_logits",
    "concatenate",
    "conv1d",
    "conv2d",
    "conv_transpose1d",
    "conv_transpose2d",
    "cross_entropy",
    "dropout",
    "elu",
    "embedding",
    "gelu",
    "group_norm",
    "gru",
    "huber_loss",
    "interpolate",
    "kl_div",
    "l1_loss",
    "layer_norm",
    "leaky_relu",
    "linear",
    "log_softmax",
    "lstm",
    "max_pool2d",
    "mse_loss",
    "nll_loss",
    "prelu",
    "relu",
    "rms_norm",
    "rnn",
    "rotary_embedding",
    "scaled_dot_product_attention",
    "sigmoid",
    "silu",
    "smooth_l1_loss",
    "softmax",
    "softplus",
    "tanh",
]
