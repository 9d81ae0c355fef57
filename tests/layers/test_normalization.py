"""BatchNorm and its kin: PyTorch's layers, state and all."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import funcnet as fn
from tests.same_bits import assert_same_bits

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)


def channels_last(y):
    return y.movedim(1, -1)


@pytest.mark.few(5)
@pytest.mark.torch
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("options", [
    {},
    {"momentum": 0.5, "eps": 0.1},
    {"momentum": None},
    {"affine": False},
    {"bias": False},
    {"track_running_stats": False},
])  # fmt: skip
@pytest.mark.parametrize(
    ("name", "shape"), [("BatchNorm1d", (6,)), ("BatchNorm1d", (4, 5)), ("BatchNorm2d", (3, 2, 4))]
)
def test_several_steps_and_evaluation_are_pytorchs(name, shape, options):
    import torch

    theirs = getattr(torch.nn, name)(3, dtype=torch.float64, **options)
    ours = getattr(fn, name)(3, **options)
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter)
    params, state = fn.interop.load_state_dict(
        theirs.state_dict(), *ours.init(KEY, dtype=jnp.float64)
    )
    for train in (True, True, False, True, False):
        theirs.train(train)
        x = RNG.normal(size=(*shape, 3)) + RNG.normal(size=3)
        y, state = ours.apply(params, state, jnp.asarray(x), train=train)
        expected = channels_last(theirs(torch.tensor(x).movedim(-1, 1))).detach()
        np.testing.assert_allclose(y, expected, rtol=1e-9, atol=1e-9)
        saved = fn.interop.state_dict(params, state)
        assert set(saved) == set(theirs.state_dict())
        for key, value in theirs.state_dict().items():
            np.testing.assert_allclose(saved[key], value, rtol=1e-9)


@pytest.mark.torch
@pytest.mark.parametrize(("ours", "theirs"), [
    (fn.BatchNorm2d(3), "BatchNorm2d(3)"),
    (fn.BatchNorm1d(3, affine=False), "BatchNorm1d(3, affine=False)"),
    (fn.LayerNorm((2, 3)), "LayerNorm((2, 3))"),
    (fn.LayerNorm(3, bias=False), "LayerNorm(3, bias=False)"),
    (fn.LayerNorm(3, elementwise_affine=False), "LayerNorm(3, elementwise_affine=False)"),
    (fn.RMSNorm(3), "RMSNorm(3)"),
    (fn.RMSNorm(3, elementwise_affine=False), "RMSNorm(3, elementwise_affine=False)"),
    (fn.GroupNorm(2, 6), "GroupNorm(2, 6)"),
    (fn.GroupNorm(2, 6, affine=False), "GroupNorm(2, 6, affine=False)"),
    (fn.GroupNorm(2, 6, bias=False), "GroupNorm(2, 6, bias=False)"),
    (fn.Embedding(5, 3), "Embedding(5, 3)"),
    (fn.Dropout(), "Dropout()"),
])  # fmt: skip
def test_a_new_layer_has_pytorchs_state_dict_and_loads_it(ours, theirs):
    import torch

    made = eval(f"torch.nn.{theirs}", {"torch": torch}).state_dict()
    params, state = ours.init(KEY)
    saved = fn.interop.state_dict(params, state)
    assert {k: v.shape for k, v in saved.items()} == {k: tuple(v.shape) for k, v in made.items()}
    if not isinstance(ours, fn.Embedding):
        for key, value in made.items():
            np.testing.assert_array_equal(saved[key], value)
    loaded = fn.interop.state_dict(*fn.interop.load_state_dict(made, params, state))
    for key, value in made.items():
        np.testing.assert_array_equal(loaded[key], value)


def test_sizes_and_padding_are_stored_in_one_form():
    assert fn.LayerNorm(3) == fn.LayerNorm([3]) == fn.LayerNorm((3,))
    assert fn.Embedding(5, 2, padding_idx=-1) == fn.Embedding(5, 2, padding_idx=4)
    assert fn.BatchNorm1d(3) != fn.BatchNorm2d(3)


def test_embeddings_start_standard_normal_but_for_the_padding():
    weight = fn.Embedding(2000, 50, padding_idx=7).init(KEY)[0]["weight"]
    np.testing.assert_array_equal(weight[7], 0)
    assert abs(float(weight.mean())) < 5 / np.sqrt(weight.size)
    assert abs(float(weight.std()) - 1) < 5 / np.sqrt(2 * weight.size) + 1 / 2000


def test_half_precision_parameters_keep_their_statistics_in_float32():
    params, state = fn.BatchNorm1d(3).init(KEY, dtype=jnp.bfloat16)
    assert params["weight"].dtype == jnp.bfloat16
    assert state["running_mean"].dtype == state["running_var"].dtype == jnp.float32
    x = jnp.asarray(RNG.normal(size=(8, 3)), jnp.bfloat16)
    y, after = fn.BatchNorm1d(3).apply(params, state, x, train=True)
    assert y.dtype == jnp.bfloat16
    assert after["running_mean"].dtype == jnp.float32


NETWORK = fn.Sequential(
    fn.Linear(2, 16), fn.BatchNorm1d(16), fn.ReLU(), fn.Dropout(0.2), fn.Linear(16, 2)
)
X = RNG.uniform(-1, 1, size=(203, 2)).astype(np.float32)
Y = (X.prod(axis=1) > 0).astype(np.int32)
TRAINER = fn.Trainer(NETWORK, fn.CrossEntropyLoss(), optax.sgd(0.1), batch_size=60)


def test_fit_follows_the_statistics_and_evaluates_by_them():
    result = fn.fit(
        NETWORK,
        fn.CrossEntropyLoss(),
        optax.adam(0.03),
        (X, Y),
        epochs=30,
        batch_size=20,
        key=KEY,
        validation=(X, Y),
        progress=False,
    )
    state = result.state[1]
    assert int(state["num_batches_tracked"]) == 30 * 11
    hidden = fn.ops.linear(jnp.asarray(X), **result.params[0])
    # An average over the last batches, which differ in their examples and parameters.
    np.testing.assert_allclose(state["running_mean"], hidden.mean(axis=0), atol=0.3)
    logits, unchanged = NETWORK.apply(result.params, result.state, jnp.asarray(X))
    assert_same_bits(unchanged, result.state)
    np.testing.assert_allclose(result.predict(X), logits, rtol=1e-5, atol=1e-5)
    assert result.accuracy == np.mean(np.asarray(logits.argmax(axis=1)) == Y) > 0.9
    loss = TRAINER.evaluate(result.params, result.state, (X, Y))
    np.testing.assert_allclose(result.history["validation_loss"][-1], loss, rtol=1e-5)


@pytest.mark.slow
def test_one_run_any_split_and_every_mapped_seed_have_the_same_bits():
    def train(key, epochs=3):
        return TRAINER.run(TRAINER.init(key), (X, Y), epochs)[0]

    whole = train(KEY)
    run, _ = TRAINER.run(train(KEY, 1), (X, Y), 2)
    assert_same_bits(run, whole)
    mapped = fn.map_seeds(train, jnp.stack([KEY, jax.random.key(1)]))
    assert_same_bits(jax.tree.map(lambda leaf: leaf[0], mapped), whole)


@pytest.mark.slow
def test_a_diverged_epoch_does_not_leave_its_statistics():
    trainer = fn.Trainer(NETWORK, fn.CrossEntropyLoss(), optax.sgd(1e38), batch_size=20)
    start = trainer.init(KEY)
    run, history = trainer.run(start, (X, Y), 2)
    assert int(history["diverged_at"]) == 0
    assert_same_bits(run.state, start.state)


@pytest.mark.slow
def test_inspection_knows_layers_with_state_and_keys():
    table = fn.summary(NETWORK, (20, 2))
    assert [row.parameters for row in table.rows] == [48, 32, 0, 0, 34]
    params, state = NETWORK.init(KEY)
    x, y = jnp.asarray(X[:20]), jnp.asarray(Y[:20])
    seen = fn.backward(NETWORK, params, state, fn.CrossEntropyLoss(), x, y, key=KEY)
    hidden = np.asarray(seen.layers[1].output)
    np.testing.assert_allclose(hidden.mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(hidden.std(axis=0), 1, atol=1e-2)
    # what batch norm passes back has no component along a shift of its input
    np.testing.assert_allclose(seen.layers[1].d_input.sum(axis=0), 0, atol=1e-5)


@pytest.mark.slow
def test_an_embedding_is_trained_and_summed_up():
    model = fn.Sequential(fn.Embedding(6, 4, padding_idx=0), fn.LayerNorm(4), fn.Linear(4, 2))
    x = np.tile(np.arange(6), 20)
    result = fn.fit(
        model,
        fn.CrossEntropyLoss(),
        optax.adam(0.1),
        (x, x % 2),
        epochs=20,
        batch_size=16,
        key=KEY,
        progress=False,
    )
    np.testing.assert_array_equal(result.params[0]["weight"][0], 0)
    assert np.array_equal(result.predict(x[1:6]).argmax(axis=1), x[1:6] % 2)
    table = fn.summary(model, (5,), dtype=jnp.int32)
    assert [row.output_shape for row in table.rows] == [(5, 4), (5, 4), (5, 2)]
