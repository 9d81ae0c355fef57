"""Residual and Parallel: what they compute, draw, remember and refuse."""

import dataclasses
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import funcnet as fn
from funcnet import ops
from funcnet.errors import ConfigError, DtypeError, ParamsError, ShapeError
from tests.same_bits import assert_same_bits

KEY = jax.random.key(0)
X = jax.random.normal(jax.random.key(1), (5, 3))
BLOCK = fn.Residual(fn.Linear(3, 4), fn.ReLU(), fn.Linear(4, 3))
PROJECTED = fn.Residual(fn.Linear(3, 4), fn.Tanh(), shortcut=fn.Sequential(fn.Linear(3, 4)))
SUM = fn.Parallel(fn.Linear(3, 2), fn.Sequential(fn.Tanh(), fn.Linear(3, 2)))
BESIDE = fn.Parallel(fn.Linear(3, 2), fn.Sequential(), fn.Tanh(), combine="concatenate")


def applied(layer, params, x):
    return layer.apply(params, layer.init(KEY)[1], x)[0]


def test_a_residual_adds_its_input():
    params, state = BLOCK.init(KEY)
    hidden = ops.relu(applied(BLOCK.layers[0], params[0], X))
    expected = applied(BLOCK.layers[2], params[2], hidden) + X
    output, after = BLOCK.apply(params, state, X)
    assert_same_bits(output, expected)
    assert after == ((), (), ())


def test_a_residual_adds_its_shortcut():
    params, state = PROJECTED.init(KEY)
    beside = applied(fn.Linear(3, 4), params[2][0], X)
    expected = ops.tanh(applied(fn.Linear(3, 4), params[0], X)) + beside
    output, after = PROJECTED.apply(params, state, X)
    assert_same_bits(output, expected)
    assert after == ((), (), ((),))


def test_branches_are_added_or_set_side_by_side():
    params, state = SUM.init(KEY)
    one = applied(fn.Linear(3, 2), params[0], X)
    other = applied(fn.Linear(3, 2), params[1][1], ops.tanh(X))
    assert_same_bits(SUM.apply(params, state, X)[0], one + other)
    params, state = BESIDE.init(KEY)
    one = applied(fn.Linear(3, 2), params[0], X)
    assert_same_bits(BESIDE.apply(params, state, X)[0], jnp.hstack([one, X, ops.tanh(X)]))


@pytest.mark.parametrize("model", [BLOCK, PROJECTED, SUM, BESIDE], ids=lambda model: model.combines)
def test_child_i_draws_with_fold_in_of_i(model):
    params, _ = model.init(KEY)
    expected = [child.init(jax.random.fold_in(KEY, i))[0] for i, child in enumerate(model.children)]
    assert_same_bits(params, tuple(expected))


@dataclasses.dataclass(frozen=True)
class Noise(fn.Module):
    """Adds noise in training, and counts its calls: random and stateful."""

    def init(self, key, dtype=jnp.float32):
        return (), jnp.int32(0)

    def apply(self, params, state, x, *, key: Any = None, train=False):
        return (x + jax.random.normal(key, x.shape) if train else x), state + 1


@pytest.mark.parametrize("container", [fn.Parallel, fn.Residual])
def test_keys_states_and_the_train_flag_reach_the_children(container):
    model = container(Noise(), fn.Sequential(fn.Sequential(Noise())))
    params, state = model.init(KEY)
    zero = jnp.zeros((2, 3))
    output, after = model.apply(params, state, zero, key=KEY, train=True)
    inner = jax.random.fold_in(jax.random.fold_in(jax.random.fold_in(KEY, 1), 0), 0)
    noise = jax.random.normal(jax.random.fold_in(KEY, 0), (2, 3))
    np.testing.assert_array_equal(output, noise + jax.random.normal(inner, (2, 3)))
    assert after == (1, ((1,),))
    assert state == (0, ((0,),))
    quiet, _ = model.apply(params, state, zero + 1)
    np.testing.assert_array_equal(quiet, 2)


@pytest.mark.slow
def test_a_stack_gives_each_layer_its_carry_back():
    model = fn.Stack(fn.GRUCell(3, 3), fn.GRUCell(3, 3))
    params, state = model.init(KEY)
    x = jax.random.normal(KEY, (2, 4, 3))
    carries = (jnp.ones((2, 3)), jnp.zeros((2, 3)))
    expected, (one, other) = [], carries
    for t in range(4):
        (y, one), _ = model.layers[0].apply(params[0], (), x[:, t], one)
        (y, other), _ = model.layers[1].apply(params[1], (), y, other)
        (found, carries), after = model.apply(params, state, x[:, t], carries)
        expected.append(y)
        np.testing.assert_array_equal(found, y)
        np.testing.assert_array_equal(carries, (one, other))
        assert after == state
    # Without carries it is a Sequential, also inside one, which hands it further inputs.
    plain, _ = fn.Sequential(*model.layers).apply(params, state, x[:, 0])
    np.testing.assert_array_equal(model.apply(params, state, x[:, 0])[0], plain)
    outer = fn.Sequential(model)
    (handed, _), _ = outer.apply((params,), (state,), x[:, 0], (jnp.ones((2, 3)),) * 2)
    assert handed.shape == (2, 3)


@pytest.mark.parametrize("carries", [(jnp.zeros(3),), jnp.zeros((2, 3))])
def test_a_stack_says_how_many_carries_it_takes(carries):
    model = fn.Stack(fn.GRUCell(3, 3), fn.GRUCell(3, 3))
    params, state = model.init(KEY)
    with pytest.raises(ShapeError, match="expected a tuple of 2, one a layer"):
        model.apply(params, state, jnp.zeros(3), carries)


def test_containers_are_values():
    things = [
        fn.Stack(fn.ReLU()),
        fn.Sequential(fn.ReLU()),
        fn.Residual(fn.ReLU()),
        fn.Residual(fn.ReLU(), shortcut=fn.ReLU()),
        fn.Residual(fn.ReLU(), fn.ReLU()),
        fn.Parallel(fn.ReLU()),
        fn.Parallel(fn.ReLU(), combine="concatenate"),
        fn.Parallel(fn.ReLU(), fn.ReLU()),
    ]
    for a, b in itertools.combinations(things, 2):
        assert a != b
    names = {name: getattr(fn, name) for name in fn.__all__}
    for thing in things:
        assert eval(repr(thing), names) == thing
        assert hash(eval(repr(thing), names)) == hash(thing)
    assert repr(things[0]) == "Stack(ReLU())"
    assert repr(things[2]) == "Residual(ReLU())"
    assert repr(things[3]) == "Residual(ReLU(), shortcut=ReLU())"
    assert repr(things[6]) == "Parallel(ReLU(), combine='concatenate')"


def test_keys_of_a_state_dict_count_the_shortcut_last():
    params, _ = fn.Sequential(PROJECTED, SUM).init(KEY)
    assert set(fn.interop.state_dict(params)) == {
        *("0.0.weight", "0.0.bias", "0.2.0.weight", "0.2.0.bias"),
        *("1.0.weight", "1.0.bias", "1.1.1.weight", "1.1.1.bias"),
    }


@pytest.mark.torch
def test_a_residual_is_pytorchs_sequential_with_a_sum():
    import torch

    class Residual(torch.nn.Sequential):
        def forward(self, x):
            return super().forward(x) + x

    torch.manual_seed(0)
    theirs = Residual(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 3))
    params, state = fn.interop.load_state_dict(theirs.state_dict(), *BLOCK.init(KEY))
    expected = theirs(torch.from_numpy(np.array(X))).detach().numpy()
    np.testing.assert_allclose(BLOCK.apply(params, state, X)[0], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("container", "layers", "options", "says"),
    [
        (fn.Residual, (), {}, "Residual has no layers, expected at least one"),
        (fn.Parallel, (), {}, "Parallel has no layers"),
        (fn.Stack, (), {}, "Stack has no layers"),
        (fn.Residual, (fn.ReLU,), {}, r"Residual's layer 0 is .* a class; expected .*ReLU\(...\)"),
        (fn.Parallel, (fn.ReLU(), [fn.Tanh()]), {}, r"Parallel's layer 1 .*: Parallel\(\*layers"),
        (fn.Residual, (fn.ReLU(),), {"shortcut": fn.Tanh}, "Residual's shortcut is .* a class"),
        (fn.Parallel, (fn.ReLU(),), {"combine": "mean"}, "combine is 'mean', expected 'sum' or"),
        (fn.Parallel, (fn.ReLU(),), {"combine": ["sum"]}, "combine is .* expected 'sum' or"),
    ],
)
def test_what_is_no_container_is_refused(container, layers, options, says):
    with pytest.raises(ConfigError, match=says):
        container(*layers, **options)


@pytest.mark.parametrize(
    ("model", "says"),
    [
        (fn.Residual(fn.Linear(3, 4)), r"layers make shape \(5, 4\) and its input has \(5, 3\)"),
        (
            fn.Residual(fn.Linear(3, 4), shortcut=fn.Linear(3, 1)),
            r"layers make shape \(5, 4\) and its shortcut makes \(5, 1\), .* makes \(5, 4\)",
        ),
        (fn.Parallel(fn.Linear(3, 1), fn.ReLU()), r"shapes \(5, 1\), \(5, 3\), expected the same"),
        (BESIDE, r"layer 0: Linear\(.*x has shape \(5, 3, 7\)"),
    ],
)
def test_outputs_that_do_not_fit_are_named_with_their_place(model, says):
    x = jnp.ones((5, 3, 7) if model == BESIDE else (5, 3))
    params, state = model.init(KEY)
    with pytest.raises(ShapeError, match=says):
        model.apply(params, state, x)
    outer = fn.Sequential(fn.ReLU(), fn.Residual(fn.Tanh(), model))
    params, state = outer.init(KEY)
    place = r"layer 1\.1\.0: " if model == BESIDE else r"layer 1\.1, "
    with pytest.raises(ShapeError, match=f"^{place}"):
        outer.apply(params, state, x)


def test_a_batch_of_numbers_is_not_concatenated():
    model = fn.Parallel(fn.ReLU(), fn.ReLU(), combine="concatenate")
    with pytest.raises(ShapeError, match=r"shapes \(\), \(\)"):
        model.apply(((), ()), ((), ()), jnp.float32(1))


def test_entries_of_another_model_are_refused():
    params, state = PROJECTED.init(KEY)
    with pytest.raises(ParamsError, match=r"Residual got params of 2 entries, expected a .* of 3"):
        PROJECTED.apply(params[:2], state, X)
    with pytest.raises(ParamsError, match="Parallel got state of dict, expected a tuple of 2"):
        SUM.apply(SUM.init(KEY)[0], {}, X)


@pytest.mark.parametrize(
    ("arrays", "dim", "error", "says"),
    [
        ((), -1, DtypeError, "got nothing, expected a tuple"),
        (X, -1, DtypeError, "got ArrayImpl, expected a tuple"),
        ((X, [1.0]), -1, DtypeError, "array 1 is list"),
        ((X, X.astype(int)), -1, DtypeError, "array 1 is int32"),
        ((X, X), 2, ConfigError, "dim is 2, expected one of the 2 axes"),
        ((X, X), 0.0, ConfigError, "dim is 0.0, expected an integer"),
        ((X[0, 0],), 0, ConfigError, "dim is 0, expected one of the 0 axes"),
        ((X, X[:4]), 1, ShapeError, r"array 1 has shape \(4, 3\) and array 0 \(5, 3\)"),
        ((X, X[0]), 0, ShapeError, "expected the same but for axis 0"),
    ],
)
def test_arrays_that_cannot_be_concatenated(arrays, dim, error, says):
    with pytest.raises(error, match=f"concatenate: .*{says}"):
        ops.concatenate(arrays, dim)


def test_the_summary_shows_where_branches_meet():
    model = fn.Sequential(BLOCK, fn.Parallel(fn.Linear(3, 2), fn.Sequential(PROJECTED)))
    with pytest.raises(ShapeError, match="layer 1, Parallel"):
        fn.summary(model, (5, 3))
    rows = fn.summary(fn.Sequential(BLOCK, PROJECTED, fn.ReLU()), (5, 3)).rows
    assert [(row.path, row.output_shape, row.parameters) for row in rows] == [
        ("0.0", (5, 4), 16),
        ("0.1", (5, 4), 0),
        ("0.2", (5, 3), 15),
        ("0", (5, 3), 0),
        ("1.0", (5, 4), 16),
        ("1.1", (5, 4), 0),
        ("1.2.0", (5, 4), 16),
        ("1", (5, 4), 0),
        ("2", (5, 4), 0),
    ]
    assert rows[3].layer == "Residual: sum of layer 2 and its input"
    assert rows[7].layer == "Residual: sum of layer 1 and layer 2"
    (*_, join) = fn.summary(BESIDE, (5, 3)).rows
    assert (join.path, join.layer) == ("", "Parallel: concatenation of 3 branches")


@pytest.mark.few(3)
@pytest.mark.parametrize("model", [BLOCK, PROJECTED, SUM, fn.Sequential(fn.Tanh(), BLOCK, BESIDE)])
def test_every_cotangent_is_that_of_grad(model):
    params, state = model.init(KEY)
    target = jnp.ones_like(model.apply(params, state, X)[0])
    found = fn.backward(model, params, state, fn.MSELoss(), X, target)

    def total(params, x):
        return fn.MSELoss()(model.apply(params, state, x)[0], target)

    d_params, d_x = jax.grad(total, argnums=(0, 1))(params, X)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7),
        found.d_params,
        d_params,
    )
    # The first layer's dX; of a join at the top, the sum over its branches.
    whole = found.layers[0] if isinstance(model, fn.Sequential) else found.layers[-1]
    np.testing.assert_allclose(whole.d_input, d_x, rtol=1e-5, atol=1e-7)


def test_a_join_hands_its_cotangent_to_every_branch():
    params, state = BLOCK.init(KEY)
    found = fn.backward(BLOCK, params, state, fn.MSELoss(), X, jnp.zeros((5, 3)))
    first, _, last, join = found.layers
    assert [trace.path for trace in found.layers] == ["0", "1", "2", ""]
    assert join.layer == BLOCK
    assert join.d_params == ()
    assert_same_bits((join.d_output, last.d_output), (found.d_prediction,) * 2)
    np.testing.assert_allclose(join.d_input, first.d_input + join.d_output, rtol=1e-6)
    text = str(found)
    assert text.index("dX") < text.rindex("Residual: sum of layer 2 and its input")
