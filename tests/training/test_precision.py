"""Mixed precision: float32 masters, half precision in between, and a loss scale for float16."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import funcnet as fn
from funcnet.errors import ConfigError, DtypeError, ParamsError
from funcnet.training import precision

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
X = RNG.normal(size=(60, 4)).astype(np.float32)
Y = (X[:, 0] * X[:, 1] > 0).astype(np.int32)
MODEL = fn.Sequential(
    fn.Linear(4, 16), fn.BatchNorm1d(16), fn.ReLU(), fn.LayerNorm(16), fn.Linear(16, 2)
)
CE = fn.CrossEntropyLoss()


def fit(optimizer: Any = None, model: Any = MODEL, data: Any = (X, Y), loss: Any = CE, **options):
    options = {"epochs": 4, "key": KEY, "batch_size": 20, "progress": False} | options
    return fn.fit(model, loss, optimizer or optax.adam(0.01), data, **options)


def seen_dtypes(**options):
    """The dtypes that a layer gets in training, of its input and its parameter."""
    seen = set()

    def look(x):
        seen.add(str(x.dtype))
        return x

    fit(model=fn.Sequential(fn.Linear(4, 3), look, fn.Linear(3, 2)), epochs=1, **options)
    return seen


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_all_that_is_kept_stays_in_float32(dtype):
    result = fit(compute_dtype=dtype)
    dtypes = {leaf.dtype for leaf in jax.tree.leaves((result.params, result.run.opt_state))}
    assert dtypes == {jnp.dtype("float32"), jnp.dtype("int32")}
    plain = fit()
    for one, other in zip(jax.tree.leaves(result.state), jax.tree.leaves(plain.state), strict=True):
        assert one.dtype == other.dtype
    assert result.predict(X).dtype == jnp.float32
    # It learns what float32 learns, to the digits that the dtype has.
    np.testing.assert_allclose(result.history["loss"], plain.history["loss"], rtol=0.03)
    assert not np.array_equal(result.history["loss"], plain.history["loss"])


def test_layers_compute_in_the_compute_dtype_in_training_alone():
    assert seen_dtypes() == {"float32"}
    assert "bfloat16" in seen_dtypes(compute_dtype=jnp.bfloat16)
    trainer = fn.Trainer(MODEL, CE, optax.sgd(0.1), compute_dtype=jnp.bfloat16)
    plain = fn.Trainer(MODEL, CE, optax.sgd(0.1))
    run = trainer.init(KEY)
    found = trainer.evaluate(run.params, run.state, (X, Y))
    np.testing.assert_array_equal(found, plain.evaluate(run.params, run.state, (X, Y)))
    found = trainer.predict(run.params, run.state, X)
    np.testing.assert_array_equal(found, plain.predict(run.params, run.state, X))


def test_a_gradient_is_that_of_the_narrowed_network_in_float32():
    trainer = fn.Trainer(MODEL, CE, optax.sgd(1.0), compute_dtype=jnp.bfloat16)
    run = trainer.init(KEY)
    after, loss = trainer.step(run, (X, Y))

    def of(params):
        params, x = precision.narrowed((params, jnp.asarray(X)), jnp.bfloat16)
        logits = MODEL.apply(params, run.state, x, key=KEY, train=True).value
        assert logits.dtype == jnp.bfloat16
        return CE(logits.astype(jnp.float32), jnp.asarray(Y))

    expected, gradient = jax.jit(jax.value_and_grad(of))(run.params)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    assert loss.dtype == jnp.float32
    trees = map(jax.tree.leaves, (run.params, after.params, gradient))
    for before, now, g in zip(*trees, strict=True):
        assert g.dtype == jnp.float32
        np.testing.assert_allclose(before - now, g, rtol=1e-2, atol=1e-4)


def test_steps_below_a_weights_rounding_are_lost_in_pure_bfloat16_alone():
    """Of 1.0, an update of less than 1/512 is lost: that is where small steps end."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=(256, 3)).astype(np.float32)
    target = x @ np.array([[1.01], [-0.493], [2.03]], np.float32)
    model, loss, options = fn.Linear(3, 1, bias=False), fn.MSELoss(), {"batch_size": 32}
    params = {"weight": jnp.array([[1.0, -0.5, 2.0]])}

    def error(**more):
        run = fit(
            optax.sgd(1e-3), model, (x, target), loss, epochs=200, params=params, **options, **more
        )
        return np.abs(np.asarray(run.params["weight"], np.float32) - [[1.01, -0.493, 2.03]]).max()

    assert error(dtype=jnp.bfloat16) > 0.02
    assert error(compute_dtype=jnp.bfloat16) < 0.01
    assert error() < 0.005


# float16.

FLAT = (X, Y.astype(np.float32)[:, None] * 1e-5)
SMALL = fn.Sequential(fn.Linear(4, 8), fn.Tanh(), fn.Linear(8, 1))


def tiny(prediction, y):
    """Gradients of it are below what float16 holds."""
    return 1e-8 * jnp.mean((prediction - 3.0 * y - 1.0) ** 2)


def learned(**options):
    data = X, np.sin(X[:, :1]).astype(np.float32)
    return fit(optax.sgd(3e6), SMALL, data, tiny, epochs=20, **options).history["loss"]


def test_gradients_that_vanish_in_float16_do_not_under_a_loss_scale():
    plain, lost = learned(), learned(compute_dtype=jnp.float16)
    assert plain[-1] < 0.5 * plain[0]
    assert lost[-1] > 0.9 * lost[0]
    for scale in (2.0**12, "dynamic"):
        np.testing.assert_allclose(
            learned(compute_dtype=jnp.float16, loss_scale=scale)[-1], plain[-1], rtol=0.05
        )


def steep(prediction, y):
    """Gradients of it, scaled by 2**16, are beyond float16."""
    return jnp.mean((prediction - y) ** 2)


STEEP = {"model": SMALL, "data": (X, 50 * X[:, :1]), "loss": steep, "compute_dtype": jnp.float16}


def test_a_dynamic_scale_is_halved_until_it_fits():
    result = fit(optax.sgd(1e-4), **STEEP, loss_scale="dynamic", epochs=10)
    kept = result.run.loss_scale
    skipped = int(kept.skipped)
    assert 0 < skipped < 10
    assert float(kept.scale) == precision.START / 2**skipped
    assert int(result.run.step) == 30
    assert 0 < int(kept.finite) <= 30 - skipped
    plain = fit(optax.sgd(1e-4), **{**STEEP, "compute_dtype": None}, epochs=10)
    assert result.history["loss"][-1] < 1.02 * result.history["loss"][0]
    assert result.history["loss"][-1] == pytest.approx(plain.history["loss"][-1], rel=0.1)


def test_a_skipped_step_changes_nothing_but_the_scale():
    mixed: Any = {"compute_dtype": jnp.float16, "loss_scale": 2.0**30}
    trainer = fn.Trainer(SMALL, steep, optax.adam(0.1), **mixed)
    run = trainer.init(KEY)
    after, loss = trainer.step(run, STEEP["data"])
    assert np.isfinite(loss)
    assert int(after.loss_scale.skipped) == 1
    for name in ("params", "state", "opt_state"):
        jax.tree.map(np.testing.assert_array_equal, getattr(after, name), getattr(run, name))


def test_a_scale_grows_after_many_finite_steps(monkeypatch):
    monkeypatch.setattr(precision, "GROWTH", 3)
    kept = precision.first_scale("dynamic")
    scales = []
    for taken in (True, True, True, True, False, True):
        kept = precision.next_scale("dynamic", kept, jnp.bool_(taken))
        scales.append(float(kept.scale) / precision.START)
    assert scales == [1, 1, 2, 2, 1, 1]
    fixed = precision.first_scale(8.0)
    assert float(precision.next_scale(8.0, fixed, jnp.bool_(False)).scale) == 8


def test_a_run_that_skips_much_says_so():
    with pytest.warns(RuntimeWarning, match="12 of 12 steps were left out"):
        fit(optax.sgd(1e-4), **STEEP, loss_scale=2.0**40)


def never_finite(prediction, y):
    """Its slope is infinite, whatever it is multiplied by."""
    return jnp.mean(jnp.sqrt(prediction - prediction)) + steep(prediction, y)


@pytest.mark.slow
def test_what_no_scale_mends_is_a_divergence():
    with pytest.raises(fn.DivergenceError):
        fit(
            optax.sgd(1e-4),
            SMALL,
            (X, X[:, :1]),
            lambda prediction, y: (
                jnp.mean(jnp.sqrt(prediction - prediction)) + steep(prediction, y)
            ),
            compute_dtype=jnp.float16,
            loss_scale="dynamic",
            epochs=20,
        )


def test_a_run_is_resumed_with_its_scale(tmp_path):
    pytest.importorskip("orbax.checkpoint", reason="needs the extra checkpoint")
    options = {**STEEP, "loss_scale": "dynamic"}
    whole = fit(optax.sgd(1e-4), **options, epochs=6)
    fit(optax.sgd(1e-4), **options, epochs=2, checkpoint_dir=tmp_path)
    resumed = fit(optax.sgd(1e-4), **options, epochs=6, checkpoint_dir=tmp_path, resume=True)
    for one, other in zip(
        jax.tree.leaves(whole.run._replace(key=())),
        jax.tree.leaves(resumed.run._replace(key=())),
        strict=True,
    ):
        np.testing.assert_array_equal(one, other)
    other = {**options, "compute_dtype": jnp.bfloat16, "loss_scale": None}
    with pytest.raises(fn.CheckpointError, match="compute_dtype"):
        fit(optax.sgd(1e-4), **other, epochs=6, checkpoint_dir=tmp_path, resume=True)


@pytest.mark.slow
def test_seeds_share_a_program():
    def train(key):
        trainer = fn.Trainer(
            SMALL, steep, optax.sgd(1e-4), compute_dtype=jnp.float16, loss_scale="dynamic"
        )
        run, history = trainer.run(trainer.init(key), STEEP["data"], 3)
        return history["loss"], run.loss_scale.scale

    keys = jax.random.split(KEY, 3)
    losses, scales = fn.map_seeds(train, keys, vectorized=True)
    assert losses.shape == (3, 3)
    for key, loss, scale in zip(keys, losses, scales, strict=True):
        expected = train(key)
        np.testing.assert_allclose(loss, expected[0], rtol=1e-2)
        assert scale == expected[1]


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"compute_dtype": jnp.int32}, DtypeError, "dtype is"),
        ({"loss_scale": 8.0}, ConfigError, "expected compute_dtype=jnp.float16"),
        ({"loss_scale": 8.0, "compute_dtype": jnp.bfloat16}, ConfigError, "have float32's range"),
        ({"loss_scale": -1.0, "compute_dtype": jnp.float16}, ConfigError, "loss_scale is -1.0"),
        ({"loss_scale": "auto", "compute_dtype": jnp.float16}, ConfigError, "or 'dynamic'"),
    ],
)
def test_options_without_meaning_are_refused(options, error, says):
    with pytest.raises(error, match=says):
        fit(**options)


def test_a_run_of_another_trainer_is_refused():
    scaled = fn.Trainer(
        SMALL, steep, optax.sgd(1e-4), compute_dtype=jnp.float16, loss_scale="dynamic"
    )
    plain = fn.Trainer(SMALL, steep, optax.sgd(1e-4))
    for run, trainer in ((plain.init(KEY), scaled), (scaled.init(KEY), plain)):
        with pytest.raises(ParamsError, match=r"make run with trainer.init\(key\)"):
            trainer.run(run, STEEP["data"], 1)
