"""jax.grad and optax by hand: a step that is jitted and donates what it replaces."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.bench.peers import Orders, Parameters, train_by_steps
from experiments.bench.workloads import Data, Network


def forward(params: list[dict[str, jax.Array]], x: jax.Array) -> jax.Array:
    """Logits, (batch, classes), of x, (batch, features); a layer's "w" is (in, out)."""
    *hidden, last = params
    for layer in hidden:
        x = jax.nn.relu(jnp.dot(x, layer["w"]) + layer["b"][None, :])
    return jnp.dot(x, last["w"]) + last["b"][None, :]


def loss_of(params: list[dict[str, jax.Array]], x: jax.Array, y: jax.Array) -> jax.Array:
    """Mean cross entropy, ()."""
    return optax.softmax_cross_entropy_with_integer_labels(forward(params, x), y).mean()


def to_jax(parameters: Parameters) -> list[dict[str, jax.Array]]:
    """The parameters as `forward` takes them, in memory of their own."""
    return [{"w": jnp.array(w.T), "b": jnp.array(b)} for w, b in parameters]


def to_numpy(params: list[dict[str, jax.Array]]) -> Parameters:
    """The other way."""
    return [(np.array(layer["w"]).T, np.array(layer["b"])) for layer in params]


@partial(jax.jit, static_argnums=0, donate_argnums=(1, 2))
def train_step(
    optimizer: optax.GradientTransformation, params: Any, opt_state: Any, x: Any, y: Any
) -> tuple[Any, Any, jax.Array]:
    """One update: parameters and optimizer state after it, and the loss before it."""
    loss, gradient = jax.value_and_grad(loss_of)(params, x, y)
    updates, opt_state = optimizer.update(gradient, opt_state, params)
    return optax.apply_updates(params, updates), opt_state, loss


class _Loop:
    def __init__(self, network: Network, data: Data):
        self._network, self._data = network, data
        self._optimizer = optax.sgd(network.learning_rate)

    def set_parameters(self, parameters: Parameters) -> None:
        self._params = to_jax(parameters)
        self._opt_state = self._optimizer.init(self._params)

    def parameters(self) -> Parameters:
        return to_numpy(self._params)

    def train(self, epochs: int, orders: Orders | None = None) -> np.ndarray:
        return train_by_steps(self._step, self._network, self._data, epochs, orders)

    def _step(self, x, y):
        self._params, self._opt_state, loss = train_step(
            self._optimizer, self._params, self._opt_state, x, y
        )
        return loss


def make(network: Network, data: Data, device: str) -> _Loop:
    """The donated loop."""
    return _Loop(network, data)
