"""Remat: a layer whose inside is computed again in the backward pass, instead of kept.

    Y = f(X, θ)        a layer, with all of its inputs X and parameters θ

Its rule keeps X and θ, and pulls dY back through the layer's own rules, whose residuals are those
of f at X and θ, made again:

    (dX, dθ) = f*(dY)        f* the pullback of f at (X, θ)

`jax.checkpoint` does the same, but XLA for CPUs does not wait with its second forward pass until
dY is there, so that nothing is saved: of 12 blocks of a GPT (128 features, 128 steps, batch 8),
forward and backward, the 178 MiB of temporaries stay 178 MiB. With the branch below they are 24,
in 0.84 of the time: there, fresh memory costs more than to compute again (one core's processor
time, median of 8 pairs, jax 0.10.2).
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from funcnet._internal.checks import require_arrays, require_key
from funcnet._internal.fields import set_fields
from funcnet.layers.composition import Layer, as_layer, require_taken
from funcnet.layers.module import Module, Output, Params, State, Takes, as_pair


@dataclasses.dataclass(frozen=True)
class Remat(Module):
    """A layer that keeps its inputs for the backward pass, and nothing of what it computed.

    A stack of n blocks keeps what stands between them and what one holds inside, for the price of
    one more forward pass, with which the backward pass of each begins (Chen et al.,
    "Training deep nets with sublinear memory cost", 2016). The output is the layer's to the last
    bit, the gradients are but for rounding. Params and state are the layer's own, so that a
    checkpoint or a state_dict does not tell whether it was wrapped.

    Args:
        layer: any layer; as a rule a block of several.

    Raises:
        ConfigError: something that is not a layer.
    """

    layer: Module

    def __init__(self, layer: Layer):
        set_fields(self, layer=as_layer("Remat's layer", layer, "Remat"))

    def init(self, key: Array, dtype: Any = jnp.float32) -> tuple[Params, State]:
        """The layer's."""
        return self.layer.init(key, dtype)

    def apply(
        self,
        params: Params,
        state: State,
        x: Any,
        *inputs: Any,
        key: Array | None = None,
        train: bool = False,
        **options: Any,
    ) -> Output:
        """What the layer makes of its inputs and options."""
        require_taken(self.layer, inputs, options)
        if key is not None:
            require_key(key)
        # JAX takes arrays alone as arguments, and would say so without the layer's name.
        for leaf in jax.tree.leaves((params, state, x, inputs)):
            require_arrays(repr(self), input=leaf)
        arrays, static = {}, {}
        for name, option in options.items():
            is_array = all(hasattr(leaf, "shape") for leaf in jax.tree.leaves(option))
            (arrays if is_array else static)[name] = option

        def layer(params, inputs, arrays, state, key):
            given = {"key": key, "train": train, **arrays, **static}
            output = self.layer.apply(params, state, *inputs, **given)
            return tuple(as_pair(self.layer, "apply", output))

        return Output(*_recomputed(layer)(params, (x, *inputs), arrays, state, key))

    def takes(self) -> Takes:
        """What the layer takes."""
        return self.layer.takes()

    def check_input(self, x: Any) -> None:
        """As the layer does."""
        self.layer.check_input(x)


def _recomputed(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function with residuals that are its arguments alone; the last two get no cotangent."""
    result = jax.custom_vjp(function)

    def forward(*arguments):
        return function(*arguments), arguments

    def backward(arguments, cotangents):
        *differentiated, state, key = arguments
        leaves, structure = jax.tree.flatten(differentiated)
        floating = [jnp.issubdtype(leaf.dtype, jnp.inexact) for leaf in leaves]

        def of_floating(floats):
            given = iter(floats)
            each = [next(given) if f else leaf for f, leaf in zip(floating, leaves, strict=True)]
            return function(*jax.tree.unflatten(structure, each), state, key)

        floats = [leaf for f, leaf in zip(floating, leaves, strict=True) if f]

        def pulled_back(dY):
            return jax.vjp(of_floating, floats, has_aux=True)[1](dY)[0]

        def nothing(dY):
            return jax.tree.map(jnp.zeros_like, floats)

        # A branch that XLA does not know to be taken always is not begun before dY is there.
        certain = jax.lax.optimization_barrier(jnp.bool_(True))
        found = iter(jax.lax.cond(certain, pulled_back, nothing, cotangents[0]))
        cts = [next(found) if f else None for f in floating]
        return *jax.tree.unflatten(structure, cts), None, None

    result.defvjp(forward, backward)
    return result
