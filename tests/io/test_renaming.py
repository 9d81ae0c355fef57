"""Keys of others get our names, and a message says how where it was not said."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import funcnet as fn
from funcnet.errors import ParamsError
from funcnet.io import interop
from funcnet.io.renaming import paired_by_shape, renamed
from tests.io.examples import check_equal

NAMED = ({"weight": jnp.ones((3, 2)), "bias": jnp.zeros(3)}, (), {"weight": jnp.ones((2, 3))})
THEIRS = {"fc1.weight": jnp.ones((3, 2)), "fc1.bias": jnp.zeros(3), "out.weight": jnp.ones((2, 3))}


@pytest.mark.parametrize(
    "rename",
    [
        {"fc1": "0", "out": "2"},
        {"fc1.weight": "0.weight", "fc1.bias": "0.bias", "out.weight": "2.weight"},
        {"fc1.": "0.", "out.": "2."},
        lambda key: key.replace("fc1", "0").replace("out", "2"),
    ],
    ids=["modules", "keys", "with dots", "function"],
)
def test_rename(rename):
    check_equal(interop.load_state_dict(THEIRS, NAMED, rename=rename)[0], NAMED)


def test_what_the_message_says_to_type_works():
    """Missing and surplus keys are paired by shape, module by module."""
    with pytest.raises(ParamsError) as raised:
        interop.load_state_dict(THEIRS, NAMED)
    said = str(raised.value)
    assert "fc1.weight [3, 2] for 0.weight" in said
    assert "rename={'fc1': '0', 'out': '2'})" in said
    assert "missing" not in said.split("surplus and missing keys of one shape")[0]
    check_equal(interop.load_state_dict(THEIRS, NAMED, rename={"fc1": "0", "out": "2"})[0], NAMED)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "model.", "net.", "module._orig_mod."])
def test_a_prefix_that_wrappers_add_is_named(prefix):
    arrays = {f"{prefix}{key}": array for key, array in interop.state_dict(NAMED).items()}
    rename = {prefix[:-1]: ""}
    with pytest.raises(ParamsError, match=f"the keys begin with '{prefix}'") as raised:
        interop.load_state_dict(arrays, NAMED)
    assert f"rename={rename})" in str(raised.value)
    check_equal(interop.load_state_dict(arrays, NAMED, rename=rename)[0], NAMED)


def test_tied_weights_are_one():
    weight = np.arange(6, dtype=np.float32).reshape(3, 2)
    like, tied = {"wte": {"weight": weight}}, {"lm_head.weight": "wte.weight"}
    both = {"wte.weight": weight, "lm_head.weight": weight.copy()}
    for keys in (["wte.weight"], ["lm_head.weight"], [*both]):
        params, _ = interop.load_state_dict({key: both[key] for key in keys}, like, tied=tied)
        check_equal(params, jax.tree.map(jnp.asarray, like))
    with pytest.raises(ParamsError, match=r"lm_head\.weight is surplus"):
        interop.load_state_dict(both, like)
    prefixed = {f"transformer.{key}" if "wte" in key else key: both[key] for key in both}
    params, _ = interop.load_state_dict(prefixed, like, rename={"transformer": ""}, tied=tied)
    check_equal(params, jax.tree.map(jnp.asarray, like))


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"rename": {"fc2": "0"}}, ParamsError, "no key is or begins with 'fc2'; .* 'fc1.weight'"),
        ({"rename": lambda key: "w"}, ParamsError, "two arrays get the key 'w', one .*'fc1.bias'"),
        ({"tied": {"0.bias": "0.weight"}}, ParamsError, "'0.bias' is a key of the model itself"),
        ({"tied": {"fc1.bias": "fc1.weight"}}, ParamsError, "hold different numbers"),
    ],
)
def test_mistakes(options, error, says):
    with pytest.raises(error, match=says):
        interop.load_state_dict(THEIRS, NAMED, **options)


def test_the_longest_entry_that_fits_is_taken():
    found = dict.fromkeys(["a.b.weight", "a.c.weight", "ab.weight", "a.b.d.bias"])
    names = renamed(found, {"a": "x", "a.b": "0", "a.b.d.bias": "bias"})
    assert [*names] == ["0.weight", "x.c.weight", "ab.weight", "bias"]


def test_modules_are_paired_before_single_arrays():
    """The second pair would take the first's place by shape alone."""
    vector = {"weight": (3,), "bias": (3,)}
    missing = {f"0.{last}": shape for last, shape in vector.items()} | {"1.bias": (3,)}
    surplus = {"linear.bias": (3,)} | {f"norm.{last}": shape for last, shape in vector.items()}
    assert paired_by_shape(missing, surplus) == {
        "norm.weight": "0.weight",
        "norm.bias": "0.bias",
        "linear.bias": "1.bias",
    }


def test_what_has_no_pair_is_said_beside_the_pairs():
    """Here PyTorch's running statistics, for which no state was given to compare."""
    model = fn.Sequential(fn.Linear(2, 3), fn.BatchNorm1d(3))
    params, state = model.init(jax.random.key(0))
    names = {"0": "fc", "1": "bn"}
    arrays = {names[k[0]] + k[1:]: a for k, a in interop.state_dict(params, state).items()}
    with pytest.raises(ParamsError, match=r"bn\.running_mean is surplus; ") as raised:
        interop.load_state_dict(arrays, params)
    assert "rename={'fc': '0', 'bn': '1'})" in str(raised.value)
    assert "missing;" not in str(raised.value)


def test_long_lists_of_pairs_are_cut():
    ours = {f"{i}": {"weight": jnp.zeros(i + 1)} for i in range(60)}
    theirs = {f"layer{i}.weight": np.zeros(i + 1) for i in range(60)}
    with pytest.raises(
        ParamsError, match=r"layer9 .*and 50 more; if.*'layer0': '0', .*, \.\.\.}\)|"
    ) as raised:
        interop.load_state_dict(theirs, ours)
    assert len(str(raised.value)) < 3000
