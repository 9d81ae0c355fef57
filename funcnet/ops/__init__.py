"""Pure array functions with hand-derived backward passes, named as in `torch.nn.functional`."""

from funcnet.ops.activations import relu, tanh
from funcnet.ops.linear import linear
from funcnet.ops.losses import cross_entropy, mse_loss

__all__ = ["cross_entropy", "linear", "mse_loss", "relu", "tanh"]
