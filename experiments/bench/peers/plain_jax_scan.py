"""jax.grad and optax in the obvious compiled form: a scan over epochs of a scan over batches.

Each epoch is shuffled by `jax.random.permutation` and gathered as a whole. Several seeds are
`jax.vmap` of one.
"""

from functools import partial
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.bench.peers import Orders, Parameters
from experiments.bench.peers.plain_jax import loss_of, to_jax, to_numpy
from experiments.bench.workloads import Data, Network


@partial(jax.jit, static_argnums=(0, 1))
def train(
    network: Network, epochs: int, params: Any, key: jax.Array, x: jax.Array, y: jax.Array
) -> tuple[Any, jax.Array]:
    """The whole run: the parameters after it, and the mean loss of each epoch, (epochs,)."""

    def draw(epoch):
        return jax.random.permutation(jax.random.fold_in(key, epoch), len(x))

    return scan_epochs(network, params, x, y, jnp.arange(epochs), draw)


@partial(jax.jit, static_argnums=(0, 1))
def train_seeds(
    network: Network, epochs: int, params: Any, keys: jax.Array, x: jax.Array, y: jax.Array
) -> tuple[Any, jax.Array]:
    """The same for each of keys (seeds,), all from the same parameters, under `jax.vmap`."""
    return jax.vmap(lambda key: train(network, epochs, params, key, x, y))(keys)


@partial(jax.jit, static_argnums=0)
def train_in_order(
    network: Network, params: Any, x: jax.Array, y: jax.Array, orders: jax.Array
) -> tuple[Any, jax.Array]:
    """The same in given orders, (epochs, examples)."""
    return scan_epochs(network, params, x, y, orders, lambda order: order)


@partial(jax.jit, static_argnums=(0, 1))
def train_from_key(
    network: Network, epochs: int, key: jax.Array, x: jax.Array, y: jax.Array
) -> tuple[Any, jax.Array]:
    """The whole run with the initialisation in it, as a pure function of a key."""
    init_key, key = jax.random.split(key)
    return train(network, epochs, init(network, init_key), key, x, y)


def init(network: Network, key: jax.Array) -> list[dict[str, jax.Array]]:
    """PyTorch's initialisation."""
    params = []
    for i, (inputs, outputs) in enumerate(pairwise(network.sizes)):
        weight_key, bias_key = jax.random.split(jax.random.fold_in(key, i))
        bound = inputs**-0.5
        draw = partial(jax.random.uniform, minval=-bound, maxval=bound)
        params.append({"w": draw(weight_key, (inputs, outputs)), "b": draw(bias_key, (outputs,))})
    return params


def scan_epochs(network, params, x, y, epochs, order_of):
    """Scan over `epochs`, of each of which `order_of` makes the order, (examples,)."""
    optimizer = optax.sgd(network.learning_rate)

    def step(carry, batch):
        params, opt_state = carry
        loss, gradient = jax.value_and_grad(loss_of)(params, *batch)
        updates, opt_state = optimizer.update(gradient, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), loss

    def epoch(carry, number):
        order = order_of(number)
        shuffled = [a[order].reshape(-1, network.batch_size, *a.shape[1:]) for a in (x, y)]
        carry, losses = jax.lax.scan(step, carry, shuffled)
        return carry, losses.mean()

    (params, _), losses = jax.lax.scan(epoch, (params, optimizer.init(params)), epochs)
    return params, losses


class _Scan:
    def __init__(self, network: Network, data: Data, seeds: int = 1):
        self._network, self._data = network, jax.device_put(data)
        self._keys = jax.random.split(jax.random.key(0), seeds)
        self._seeds = seeds

    def set_parameters(self, parameters: Parameters) -> None:
        self._params = to_jax(parameters)

    def parameters(self) -> Parameters:
        return to_numpy(self._params)

    def train(self, epochs: int, orders: Orders | None = None) -> np.ndarray:
        if orders is not None:
            self._params, losses = train_in_order(
                self._network, self._params, *self._data, jnp.asarray(orders)
            )
        elif self._seeds == 1:
            self._params, losses = train(
                self._network, epochs, self._params, self._keys[0], *self._data
            )
        else:
            losses = train_seeds(self._network, epochs, self._params, self._keys, *self._data)[
                1
            ].mean(axis=0)
        return np.asarray(losses)


def make(network: Network, data: Data, device: str, seeds: int = 1) -> _Scan:
    """The obvious scan; of more than one seed only the losses are kept."""
    return _Scan(network, data, seeds)
