"""Layers and losses are values: hashable, equal by content, drawn and named as PyTorch's."""

import dataclasses
import itertools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import funcnet as fn
from funcnet import ops
from funcnet.layers import Output
from tests.same_bits import assert_same_bits

KEY = jax.random.key(0)
NESTED = fn.Sequential(
    fn.Linear(3, 4), fn.Sequential(fn.ReLU(), fn.Linear(4, 5, bias=False)), fn.Tanh()
)

sizes = st.integers(1, 5)
simple = st.one_of(
    st.builds(fn.Linear, sizes, sizes, st.booleans()),
    st.builds(fn.ReLU),
    st.builds(fn.Tanh),
    st.builds(fn.BatchNorm1d, sizes, momentum=st.none() | st.floats(0, 1), affine=st.booleans()),
    st.builds(fn.BatchNorm2d, sizes, bias=st.booleans(), track_running_stats=st.booleans()),
    st.builds(fn.LayerNorm, sizes | st.lists(sizes, min_size=1, max_size=3), bias=st.booleans()),
    st.builds(fn.RMSNorm, sizes, st.none() | st.floats(0, 1)),
    st.builds(lambda groups, size: fn.GroupNorm(groups, groups * size), sizes, sizes),
    st.builds(fn.Dropout, st.floats(0, 1)),
    st.builds(fn.Embedding, sizes, sizes, st.just(-1) | st.none()),
)
models = st.recursive(
    simple, lambda inner: st.lists(inner, max_size=3).map(lambda layers: fn.Sequential(*layers))
)
losses = st.one_of(
    st.builds(fn.MSELoss, st.sampled_from(["none", "mean", "sum"])),
    st.builds(
        fn.CrossEntropyLoss,
        st.none() | st.lists(st.floats(0, 2), min_size=1, max_size=4),
        st.integers(-100, 3),
        st.sampled_from(["none", "mean", "sum"]),
        st.floats(0, 1),
    ),
)


@given(models | losses)
def test_repr_makes_an_equal_object(thing):
    names = {name: getattr(fn, name) for name in fn.__all__}
    again = eval(repr(thing), names)
    assert again == thing
    assert hash(again) == hash(thing)
    assert repr(again) == repr(thing)


def test_equal_only_by_content():
    things = [
        fn.Linear(2, 3),
        fn.Linear(3, 2),
        fn.Linear(2, 3, bias=False),
        fn.ReLU(),
        fn.Tanh(),
        fn.Sequential(),
        fn.Sequential(fn.ReLU()),
        fn.Sequential(fn.Sequential(fn.ReLU())),
        fn.MSELoss(),
        fn.MSELoss("sum"),
        fn.CrossEntropyLoss(),
        fn.CrossEntropyLoss(weight=(1.0,)),
        fn.CrossEntropyLoss(label_smoothing=0.1),
    ]
    for a, b in itertools.combinations(things, 2):
        assert a != b
    assert len(set(things)) == len(things)


def test_layers_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        fn.Linear(2, 3).in_features = 4  # pyright: ignore[reportAttributeAccessIssue]


def test_numpys_sizes_are_stored_as_pythons():
    layer = fn.Linear(np.int64(2), np.uint8(3))  # pyright: ignore[reportArgumentType]
    assert repr(layer) == "Linear(in_features=2, out_features=3, bias=True)"
    assert layer == fn.Linear(2, 3)


@pytest.mark.parametrize("weight", [[1, 2], (1.0, 2.0), np.array([1, 2]), jnp.array([1.0, 2.0])])
def test_class_weights_are_stored_as_a_tuple(weight):
    loss = fn.CrossEntropyLoss(weight=weight)
    assert loss.weight is not None
    assert loss.weight == (1.0, 2.0)
    assert all(type(w) is float for w in loss.weight)
    assert loss == fn.CrossEntropyLoss(weight=(1.0, 2.0))
    assert hash(loss) == hash(fn.CrossEntropyLoss(weight=(1.0, 2.0)))


def test_options_of_a_loss_are_stored_as_pythons():
    loss = fn.CrossEntropyLoss(
        ignore_index=jnp.int32(3),  # pyright: ignore[reportArgumentType]
        label_smoothing=np.float64(0.5),
    )
    assert loss == fn.CrossEntropyLoss(ignore_index=3, label_smoothing=0.5)
    assert hash(loss) == hash(fn.CrossEntropyLoss(ignore_index=3, label_smoothing=0.5))
    assert (type(loss.ignore_index), type(loss.label_smoothing)) == (int, float)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.float32, "float32"])
def test_params_have_pytorchs_names_shapes_and_the_dtype_asked_for(dtype):
    params, state = NESTED.init(KEY, dtype=dtype)
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), params) == (
        {"weight": ((4, 3), jnp.dtype(dtype)), "bias": ((4,), jnp.dtype(dtype))},
        ((), {"weight": ((5, 4), jnp.dtype(dtype))}),
        (),
    )
    assert state == ((), ((), ()), ())


@pytest.mark.usefixtures("x64")
def test_params_in_float64():
    params, _ = NESTED.init(KEY, dtype=jnp.float64)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float64")}


def test_layer_i_draws_with_fold_in_of_i():
    params, _ = NESTED.init(KEY)
    first, _ = fn.Linear(3, 4).init(jax.random.fold_in(KEY, 0))
    inner, _ = fn.Linear(4, 5, bias=False).init(jax.random.fold_in(jax.random.fold_in(KEY, 1), 1))
    assert_same_bits(params, (first, ((), inner), ()))


@dataclasses.dataclass(frozen=True)
class Noise(fn.Module):
    """Adds noise in training, and counts its calls: random and stateful."""

    def init(self, key, dtype=jnp.float32):
        return (), jnp.int32(0)

    def apply(self, params, state, x, *, key: Any = None, train=False):
        return (x + jax.random.normal(key, x.shape) if train else x), state + 1


def test_layer_i_gets_fold_in_of_i_in_apply():
    model = fn.Sequential(Noise(), fn.Sequential(fn.ReLU(), Noise()))
    params, state = model.init(KEY)
    x = jnp.ones((2, 3))
    output, after = model.apply(params, state, x, key=KEY, train=True)
    inner = jax.random.fold_in(jax.random.fold_in(KEY, 1), 1)
    expected = ops.relu(x + jax.random.normal(jax.random.fold_in(KEY, 0), x.shape))
    np.testing.assert_array_equal(output, expected + jax.random.normal(inner, x.shape))
    assert after == (1, ((), 1))
    assert state == (0, ((), 0))


def test_apply_passes_no_key_and_no_training_on():
    model = fn.Sequential(Noise(), fn.Sequential(Noise()))
    params, state = model.init(KEY)
    x = jnp.ones((2, 3))
    output, after = model.apply(params, state, x)
    np.testing.assert_array_equal(output, x)
    assert after == (1, (1,))


def test_a_nested_model_is_its_layers_in_turn():
    params, state = NESTED.init(KEY)
    x = jax.random.normal(KEY, (7, 3))
    hidden = ops.relu(ops.linear(x, params[0]["weight"], params[0]["bias"]))
    expected = ops.tanh(ops.linear(hidden, params[1][1]["weight"]))
    output = NESTED.apply(params, state, x)
    assert isinstance(output, Output)
    np.testing.assert_array_equal(output.value, expected)
    assert output.state == state


@pytest.mark.parametrize("leading", [(), (4,), (2, 3), (0,), (2, 0, 1)])
def test_leading_axes_stay(leading):
    params, state = NESTED.init(KEY)
    output, _ = NESTED.apply(params, state, jnp.ones((*leading, 3)))
    assert output.shape == (*leading, 5)


def test_an_empty_sequential_is_the_identity():
    model = fn.Sequential()
    assert model.init(KEY) == ((), ())
    x = jnp.arange(3.0)
    assert model.apply((), (), x) == Output(x, ())


@pytest.mark.parametrize("in_features", [1, 4, 784])
def test_initial_params_have_pytorchs_distribution(in_features):
    """Kolmogorov and Smirnov's distance from U[-1/√N, 1/√N], at the 0.1 % level."""
    layer = fn.Linear(in_features, 5000 // in_features + 1)
    bound = 1 / math.sqrt(in_features)
    keys = jax.random.split(KEY, 20)
    params, _ = jax.vmap(layer.init)(keys)
    for draws in (params["weight"], params["bias"]):
        draws = np.sort(np.asarray(draws, np.float64).ravel())
        assert -bound <= draws[0]
        assert draws[-1] <= bound
        n = len(draws)
        uniform = (draws / bound + 1) / 2
        above = np.arange(1, n + 1) / n - uniform
        assert max(above.max(), (1 / n - above).max()) < 1.95 / math.sqrt(n)


def test_weight_and_bias_are_drawn_apart():
    """The correlation of independent draws has standard deviation 1/√n."""
    params, _ = jax.vmap(fn.Linear(1, 1).init)(jax.random.split(KEY, 4000))
    correlation = np.corrcoef(params["weight"].ravel(), params["bias"].ravel())[0, 1]
    assert abs(correlation) < 4 / math.sqrt(4000)


def test_layers_of_one_shape_are_drawn_apart():
    params, _ = fn.Sequential(fn.Linear(3, 3), fn.Linear(3, 3)).init(KEY)
    assert not np.isin(params[0]["weight"], params[1]["weight"]).any()


@pytest.mark.torch
def test_initial_params_have_the_bounds_of_pytorchs():
    import torch

    torch.manual_seed(0)
    for n in (1, 25, 400):
        theirs = torch.nn.Linear(n, 20000 // n + 1)
        ours, _ = fn.Linear(n, 20000 // n + 1).init(KEY)
        quantiles = np.linspace(0, 1, 5)
        np.testing.assert_allclose(
            np.quantile(ours["weight"], quantiles),
            np.quantile(theirs.weight.detach().numpy(), quantiles),
            atol=0.05 / math.sqrt(n),  # five standard deviations of a quartile of 20,000
        )
        spread = theirs.bias.abs().max().item() * math.sqrt(n)
        assert 0.75 < spread <= 1
        assert 0.75 < float(jnp.abs(ours["bias"]).max()) * math.sqrt(n) <= 1


# A user's own layer, rule included: what the guide promises takes twenty lines.
def _scale(x, factor):
    return x * factor[None, :]


def _scale_fwd(x, factor):
    return _scale(x, factor), (x, factor)


def _scale_bwd(residuals, dY):
    x, factor = residuals
    return dY * factor[None, :], 2 * (dY * x).sum(axis=0)  # twice the truth, to be seen at work


scale = jax.custom_vjp(_scale)
scale.defvjp(_scale_fwd, _scale_bwd)


@dataclasses.dataclass(frozen=True)
class Scale(fn.Module):
    features: int

    def init(self, key, dtype=jnp.float32):
        return {"factor": jnp.full(self.features, 2, dtype)}, ()

    def apply(self, params, state, x, *, key: Any = None, train=False):
        return scale(x, params["factor"]), state


def test_a_layer_of_ones_own_with_its_own_rule():
    model = fn.Sequential(Scale(2), fn.Sequential(Scale(2), fn.ReLU()))
    assert model == fn.Sequential(Scale(2), fn.Sequential(Scale(2), fn.ReLU()))
    params, state = model.init(KEY)
    x = jnp.array([[1.0, -1.0], [2.0, 3.0]])

    def total(params):
        return model.apply(params, state, x)[0].sum()

    np.testing.assert_array_equal(model.apply(params, state, x)[0], [[4, 0], [8, 12]])
    gradient = jax.jit(jax.grad(total))(params)
    # d/df1 Σ relu(f1 f2 x) = f2 Σ x over x > 0, by a rule that doubles it
    np.testing.assert_array_equal(gradient[0]["factor"], [12, 12])
    np.testing.assert_array_equal(gradient[1][0]["factor"], [12, 12])


def test_a_module_without_parameters_needs_no_init():
    assert fn.Module().init(KEY) == ((), ())


@pytest.mark.slow
@given(losses)
def test_a_loss_object_is_its_op(loss):
    logits = jnp.array([[0.5, -1.0, 2.0, 0.25], [1.5, 0.0, -0.5, 1.0]])
    if isinstance(loss, fn.MSELoss):
        target = 1 - logits
        expected = ops.mse_loss(logits, target, loss.reduction)
    else:
        target = jnp.array([0, len(loss.weight) - 1 if loss.weight else 3])
        logits = logits[:, : len(loss.weight)] if loss.weight else logits
        weight = None if loss.weight is None else jnp.array(loss.weight)
        expected = ops.cross_entropy(
            logits, target, weight, loss.ignore_index, loss.reduction, loss.label_smoothing
        )
    np.testing.assert_array_equal(loss(logits, target), expected)


def test_probabilities_are_no_labels_to_check():
    loss = fn.CrossEntropyLoss()
    logits, target = jnp.ones((2, 3)), jnp.full((2, 3), 1 / 3)
    assert float(loss(logits, target)) == pytest.approx(math.log(3))


def test_a_label_out_of_range_is_nan_under_jit():
    loss = fn.CrossEntropyLoss()
    assert np.isnan(jax.jit(loss)(jnp.ones((2, 3)), jnp.array([0, 3])))
