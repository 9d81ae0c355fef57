"""funcnet itself: one run, and many seeds by map_seeds."""

import jax
import jax.numpy as jnp
import numpy as np

import funcnet as fn
from experiments.bench.peers import Orders, Parameters
from experiments.bench.workloads import Data, Network
from funcnet.training.step import epoch_order


class Run:
    """A `Learner`, from which the others take their start and their orders."""

    def __init__(self, network: Network, data: Data, key: jax.Array):
        self._trainer = network.trainer()
        self._data = jax.device_put(data)
        self._start = self._run = self._trainer.init(key)

    def set_parameters(self, parameters: Parameters) -> None:
        """Start anew from these."""
        pairs = iter(parameters)
        params = []
        for layer in self._start.params:
            if layer:
                weight, bias = next(pairs)
                layer = {"weight": jnp.array(weight), "bias": jnp.array(bias)}
            params.append(layer)
        self._run = self._start._replace(params=tuple(params))

    def parameters(self) -> Parameters:
        """Weights and biases."""
        layers = (layer for layer in self._run.params if layer)
        return [(np.array(layer["weight"]), np.array(layer["bias"])) for layer in layers]

    def orders(self, epochs: int) -> Orders:
        """The orders in which the first epochs visit the examples."""
        n = len(self._data.x)
        return np.stack([epoch_order(self._start.key, e, n) for e in range(epochs)])

    def train(self, epochs: int, orders: Orders | None = None) -> np.ndarray:
        """Train; funcnet draws its own orders, so `orders` must be None."""
        assert orders is None
        self._run, history = self._trainer.run(self._run, self._data, epochs)
        return np.asarray(history["loss"])


class Seeds:
    """Every seed's run, from the keys that `Run` takes.

    Args:
        network: what to train.
        data: shared by the seeds.
        keys: (seeds,) typed keys.
        vectorized: see `map_seeds`.
    """

    def __init__(self, network: Network, data: Data, keys: jax.Array, vectorized: bool):
        self._trainer, self._data, self._keys = network.trainer(), jax.device_put(data), keys
        self._vectorized = vectorized
        self._programs = {}

    def train(self, epochs: int) -> np.ndarray:
        """Train every seed from its start; the mean loss of each epoch, (seeds, epochs)."""
        if epochs not in self._programs:
            self._programs[epochs] = self._program(epochs)
        return np.asarray(self._programs[epochs](self._keys, *self._data)[0])

    def _program(self, epochs):
        def train(key, x, y):
            run, history = self._trainer.run(self._trainer.init(key), (x, y), epochs)
            # The parameters are part of what a seed is for: without them XLA could drop work.
            return history["loss"], run.params

        return lambda keys, *data: fn.map_seeds(train, keys, *data, vectorized=self._vectorized)
