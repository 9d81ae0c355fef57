"""flax.nnx: a mutable model and optimizer, and a step under nnx.jit, plain or cached_partial."""

from itertools import pairwise
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from experiments.bench.peers import Orders, Parameters, train_by_steps
from experiments.bench.workloads import Data, Network


class MLP(nnx.Module):
    """Affine layers with ReLU between them."""

    def __init__(self, sizes: tuple[int, ...], rngs: nnx.Rngs):
        self.layers = nnx.List([nnx.Linear(n, m, rngs=rngs) for n, m in pairwise(sizes)])

    def __call__(self, x):
        """Logits, (batch, classes), of x, (batch, features)."""
        *hidden, last = self.layers
        for layer in hidden:
            x = nnx.relu(layer(x))
        return last(x)


@nnx.jit
def train_step(model, optimizer, x, y):
    """One update in place; returns the loss before it, ()."""

    def loss_of(model):
        return optax.softmax_cross_entropy_with_integer_labels(model(x), y).mean()

    loss, gradient = nnx.value_and_grad(loss_of)(model)
    optimizer.update(model, gradient)
    return loss


class _Flax:
    def __init__(self, network: Network, data: Data, cached: bool):
        self._network, self._data = network, data
        self._model = MLP(network.sizes, nnx.Rngs(0))
        self._optimizer = nnx.Optimizer(
            self._model, optax.sgd(network.learning_rate), wrt=nnx.Param
        )
        self._cached = cached

    def set_parameters(self, parameters: Parameters) -> None:
        layers: Any = self._model.layers
        for layer, (weight, bias) in zip(layers, parameters, strict=True):
            layer.kernel.set_value(jnp.array(weight.T))
            layer.bias.set_value(jnp.array(bias))

    def parameters(self) -> Parameters:
        layers: Any = self._model.layers
        return [
            (np.array(layer.kernel.get_value()).T, np.array(layer.bias.get_value()))
            for layer in layers
        ]

    def train(self, epochs: int, orders: Orders | None = None) -> np.ndarray:
        if self._cached:
            step = nnx.cached_partial(train_step, self._model, self._optimizer)
        else:

            def step(x, y):
                return train_step(self._model, self._optimizer, x, y)

        return train_by_steps(step, self._network, self._data, epochs, orders)


def make(network: Network, data: Data, device: str, cached: bool = False) -> _Flax:
    """The loop of flax's documentation, or the one that it recommends for small models."""
    return _Flax(network, data, cached)
