"""Windows: examples cut out of a series, which are what the arrays made of them would be."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import funcnet as fn
from funcnet.errors import CheckpointError, ConfigError, DataError, ShapeError

KEY = jax.random.key(0)
TOKENS = np.random.default_rng(0).integers(0, 7, 101)
MODEL = fn.Sequential(fn.Embedding(7, 5), fn.Linear(5, 7))
LOSS = fn.CrossEntropyLoss()


def copied(series, length, stride):
    """The same set as arrays."""
    begins = range(0, len(series) - length, stride)
    x = np.stack([series[i : i + length] for i in begins])
    return x, np.stack([series[i + 1 : i + 1 + length] for i in begins])


@settings(deadline=None, max_examples=6)
@given(st.integers(2, 30), st.integers(1, 9), st.integers(1, 12), st.booleans())
def test_windows_are_slices_of_the_series(steps, length, stride, features):
    length = min(length, steps - 1)
    series = np.random.default_rng(steps).normal(size=(steps, 2) if features else steps)
    for found, expected in zip(
        fn.data.windows(series, length, stride), copied(series, length, stride), strict=True
    ):
        assert found.shape == expected.shape
        assert found.ndim == expected.ndim
        assert len(found) == len(expected)
        np.testing.assert_array_equal(found[:], expected.astype(found.dtype))
        np.testing.assert_array_equal(found[-1], expected[-1].astype(found.dtype))
        # What the last example does not reach is not among the contents.
        end = (len(expected) - 1) * stride + length
        assert found.whole().shape[:2] == (1, end)


def fitted(data, **options):
    return fn.fit(MODEL, LOSS, optax.adam(0.01), data, key=KEY, progress=False, **options)


@pytest.mark.parametrize("stride", [pytest.param(1, marks=pytest.mark.slow), 8])
def test_training_on_windows_gives_the_bits_of_training_on_copies(stride):
    options = {"epochs": 3, "batch_size": 9}
    validation = copied(TOKENS[::-1], 8, 8)
    ours = fitted(
        fn.data.windows(TOKENS, 8, stride),
        validation=fn.data.windows(TOKENS[::-1].copy(), 8, 8),
        **options,
    )
    theirs = fitted(copied(TOKENS, 8, stride), validation=validation, **options)
    for one, other in zip(
        jax.tree.leaves(ours.run._replace(key=())),
        jax.tree.leaves(theirs.run._replace(key=())),
        strict=True,
    ):
        np.testing.assert_array_equal(np.asarray(one), np.asarray(other), strict=True)
    np.testing.assert_allclose(ours.history["loss"], theirs.history["loss"], rtol=1e-6)
    np.testing.assert_allclose(
        ours.history["validation_loss"], theirs.history["validation_loss"], rtol=1e-6
    )
    assert ours.accuracy is None
    assert theirs.accuracy is not None


def hits(y_true, y_pred):
    return (y_pred.argmax(-1) == y_true).mean()


@pytest.mark.parametrize("loss", [LOSS, fn.CrossEntropyLoss(ignore_index=3, reduction="sum")])
def test_scores_of_windows_are_those_of_copies(loss):
    data, copies = fn.data.windows(TOKENS, 8, 3), copied(TOKENS, 8, 3)
    options = {"epochs": 1, "key": KEY, "progress": False, "metrics": {"hits": hits}}
    result = fn.fit(MODEL, loss, optax.adam(0.01), data, **options)
    ours, theirs = result.evaluate(data), result.evaluate(copies)
    assert ours.keys() == theirs.keys() == {"loss", "hits"}
    for name, found in ours.items():
        np.testing.assert_allclose(found, theirs[name], rtol=1e-6)
    np.testing.assert_array_equal(result.predict(data[0]), result.predict(copies[0]))


def test_labels_that_are_ignored_do_not_count():
    loss = fn.CrossEntropyLoss(ignore_index=3)
    trainer = fn.Trainer(MODEL, loss, optax.sgd(0.1), batch_size=5)
    run = trainer.init(KEY)
    data, copies = fn.data.windows(TOKENS, 8, 3), copied(TOKENS, 8, 3)
    _, ours = trainer.run(run, data, 2)
    _, theirs = trainer.run(run, copies, 2)
    np.testing.assert_allclose(ours["loss"], theirs["loss"], rtol=1e-6)


def test_examples_of_windows_have_weights():
    data, copies = fn.data.windows(TOKENS, 8, 3), copied(TOKENS, 8, 3)
    weight = np.linspace(0, 1, len(copies[0]))
    trainer = fn.Trainer(MODEL, LOSS, optax.sgd(0.1), batch_size=5)
    _, ours = trainer.run(trainer.init(KEY), data, 2, weight)
    _, theirs = trainer.run(trainer.init(KEY), copies, 2, weight)
    np.testing.assert_allclose(ours["loss"], theirs["loss"], rtol=1e-6)


def test_windows_of_numbers_with_features():
    series = np.sin(np.arange(60)[:, None] * [0.3, 0.5])
    model = fn.Linear(2, 2)
    data = fn.data.windows(series, 10)
    result = fn.fit(model, fn.MSELoss(), optax.adam(0.02), data, epochs=20, key=KEY, progress=False)
    assert result.history["loss"][-1] < result.history["loss"][0] / 2


def test_windows_stand_in_a_tree():
    x, y = fn.data.windows(TOKENS, 8)
    model = fn.Sequential(lambda x: x["tokens"], *MODEL.layers)
    result = fitted_tree(model, ({"tokens": x}, y))
    copy_x, copy_y = copied(TOKENS, 8, 1)
    copies = fitted_tree(model, ({"tokens": copy_x}, copy_y))
    np.testing.assert_allclose(result.history["loss"], copies.history["loss"], rtol=1e-6)


def fitted_tree(model, data):
    return fn.fit(model, LOSS, optax.adam(0.01), data, epochs=1, key=KEY, progress=False)


def test_the_series_is_stored_once_and_no_copy_of_it_is_made():
    x, y = fn.data.windows(TOKENS, 8)
    assert x.series is y.series
    trainer = fn.Trainer(MODEL, LOSS, optax.sgd(0.1), batch_size=4)
    run = trainer.init(KEY)
    many = fn.data.windows(np.resize(TOKENS, 40_000), 500)
    compiled = jax.jit(lambda run, data: trainer.run(run, data, 1)).lower(run, many).compile()
    # All windows would take 39,500 x 500 numbers, 79 MB.
    memory = compiled.memory_analysis()
    assert memory is not None
    assert memory.temp_size_in_bytes < 10e6


def test_a_run_on_windows_is_resumed(tmp_path):
    pytest.importorskip("orbax.checkpoint", reason="needs the extra checkpoint")
    data = fn.data.windows(TOKENS, 8)
    whole = fitted(data, epochs=3)
    fitted(data, epochs=1, checkpoint_dir=tmp_path)
    resumed = fitted(data, epochs=3, checkpoint_dir=tmp_path, resume=True)
    jax.tree.map(np.testing.assert_array_equal, whole.params, resumed.params)
    other = fn.data.windows(TOKENS, 8, 2)
    with pytest.raises(CheckpointError, match="data"):
        fitted(other, epochs=3, checkpoint_dir=tmp_path, resume=True)


def test_tokens_without_a_vector_are_refused_before_training():
    tokens = TOKENS.copy()
    tokens[50] = 7
    with pytest.raises(DataError, match="expected 0 to 6"):
        fitted(fn.data.windows(tokens, 8), epochs=1)


def test_numbers_that_are_not_finite_are_refused():
    series = np.arange(20.0)
    series[7] = np.nan
    with pytest.raises(DataError, match=r"at \[7\]"):
        fn.fit(
            fn.Linear(3, 3),
            fn.MSELoss(),
            optax.sgd(0.1),
            fn.data.windows(series, 3),
            epochs=1,
            key=KEY,
        )


def test_windows_that_have_no_meaning_are_refused():
    with pytest.raises(ShapeError, match=r"shape \(101,\), expected more than length = 101"):
        fn.data.windows(TOKENS, 101)
    with pytest.raises(ShapeError, match=r"shape \(\)"):
        fn.data.windows(3, 1)
    with pytest.raises(ConfigError, match="length"):
        fn.data.windows(TOKENS, 0)
    with pytest.raises(ConfigError, match="stride"):
        fn.data.windows(TOKENS, 8, 0)
    x, _ = fn.data.windows(TOKENS, 8)
    with pytest.raises(ShapeError, match="expected as many"):
        fitted((x, jnp.zeros((5, 8), int)), epochs=1)
