"""Every leaf has PyTorch's key, and is an array before it is anything else."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import pytest

from funcnet.errors import DtypeError, ParamsError
from funcnet.io import interop
from funcnet.io.trees import flatten, to_numpy


class Pair(NamedTuple):
    left: jax.Array
    right: jax.Array


def test_named_tuples_and_one_layer_have_keys():
    assert list(interop.state_dict(Pair(jnp.zeros(1), jnp.ones(1)))) == ["left", "right"]
    assert list(interop.state_dict({"weight": jnp.zeros(1)})) == ["weight"]
    assert interop.state_dict(((), ())) == {}


def test_params_and_state_of_one_name_are_refused():
    with pytest.raises(ParamsError, match=r"two arrays have the key '0\.weight'"):
        interop.state_dict(({"weight": jnp.zeros(1)},), ({"weight": jnp.zeros(1)},))


def test_names_of_layers_are_in_the_key():
    tree = {"mlp": ({"weight": 1}, ()), "ln_1": {"bias": 2}}
    assert flatten(tree, {"wte": 3}) == {"ln_1.bias": 2, "mlp.0.weight": 1, "wte": 3}


@jax.tree_util.register_pytree_with_keys_class
class Foreign:
    """A node whose children have no names."""

    def tree_flatten_with_keys(self):
        return [(object(), 1)], None

    @classmethod
    def tree_unflatten(cls, aux, children):
        return cls()


def test_a_node_without_names_is_refused():
    with pytest.raises(DtypeError, match="expected nested tuples and dicts, got a node"):
        flatten(Foreign())


def test_keys_are_no_numbers():
    with pytest.raises(DtypeError, match=r"a\.b: expected numbers, got a random key, key<rbg>"):
        to_numpy("a.b", jax.random.split(jax.random.key(0, impl="rbg")))
