"""equinox: an eqx.nn.MLP of one example, vmapped over the batch, and a step under filter_jit."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.bench.peers import Orders, Parameters, train_by_steps
from experiments.bench.workloads import Data, Network


@eqx.filter_value_and_grad
def loss_and_gradient(model, x, y):
    """Mean cross entropy, (), and its gradient."""
    logits = jax.vmap(model)(x)
    return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()


@eqx.filter_jit
def make_step(optimizer, model, opt_state, x, y):
    """One update: model and optimizer state after it, and the loss before it."""
    loss, gradient = loss_and_gradient(model, x, y)
    updates, opt_state = optimizer.update(gradient, opt_state, model)
    return eqx.apply_updates(model, updates), opt_state, loss


class _Equinox:
    def __init__(self, network: Network, data: Data):
        self._network, self._data = network, data
        inputs, *hidden, outputs = network.sizes
        self._model = eqx.nn.MLP(inputs, outputs, hidden[0], len(hidden), key=jax.random.key(0))
        self._optimizer = optax.sgd(network.learning_rate)

    def set_parameters(self, parameters: Parameters) -> None:
        arrays = [jnp.array(array) for pair in parameters for array in pair]
        self._model = eqx.tree_at(_arrays, self._model, arrays)
        self._opt_state = self._optimizer.init(eqx.filter(self._model, eqx.is_inexact_array))

    def parameters(self) -> Parameters:
        return [(np.array(layer.weight), np.array(layer.bias)) for layer in self._model.layers]

    def train(self, epochs: int, orders: Orders | None = None) -> np.ndarray:
        return train_by_steps(self._step, self._network, self._data, epochs, orders)

    def _step(self, x, y):
        self._model, self._opt_state, loss = make_step(
            self._optimizer, self._model, self._opt_state, x, y
        )
        return loss


def _arrays(model):
    return [array for layer in model.layers for array in (layer.weight, layer.bias)]


def make(network: Network, data: Data, device: str) -> _Equinox:
    """The loop of equinox's documentation."""
    return _Equinox(network, data)
