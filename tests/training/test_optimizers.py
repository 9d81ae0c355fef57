"""Every public optimizer and wrapper of optax trains, or is refused in funcnet's own words."""

import inspect
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optax import contrib

import funcnet as fn
from funcnet.training.optimizers import evaluation_params
from tests.same_bits import assert_same_bits

RNG = np.random.default_rng(0)
X = RNG.normal(size=(64, 4)).astype(np.float32)
LABELS = (X[:, 0] > 0).astype(np.int32)
MODEL = fn.Sequential(fn.Linear(4, 6), fn.Tanh(), fn.Linear(6, 2))
CE = fn.CrossEntropyLoss()
KEY = jax.random.key(0)
PARAMS, _ = MODEL.init(KEY)


def fit(optimizer, data=(X, LABELS), **options):
    options = {"epochs": 4, "key": KEY, "batch_size": 16, "progress": False, **options}
    return fn.fit(MODEL, CE, optimizer, data, **options)


SGD = optax.sgd(0.05)
LABELLED = ({"bias": "a", "weight": "a"}, (), {"bias": "b", "weight": "b"})

# What the arguments without a default are; of these names and no others.
ARGUMENTS = {
    "adv_optimizer": optax.chain(contrib.normalize(), SGD),
    "base_optimizer": SGD,
    "clipping": 0.1,
    "decay": 0.9,
    "eta": 0.01,
    "every_k_schedule": 2,
    "f": lambda updates, params=None: updates,
    "fast_optimizer": SGD,
    "freeze_mask": jax.tree.map(lambda _: False, PARAMS),
    "gamma": 0.55,
    "inner": SGD,
    "inner_factory": optax.sgd,
    "key": 0,
    "l2_norm_clip": 1.0,
    "learning_rate": 0.05,
    "mask": jax.tree.map(lambda _: True, PARAMS),
    "max_backtracking_steps": 5,
    "max_consecutive_errors": 3,
    "max_delta": 1.0,
    "max_linesearch_steps": 5,
    "max_norm": 1.0,
    "measure": optax.tree.norm,
    "measure_name": "norm",
    "measures": {"norm": optax.tree.norm},
    "noise_multiplier": 0.1,
    "opt": SGD,
    "optimizer": SGD,
    "param_labels": LABELLED,
    "seed": 0,
    "should_transform_fn": lambda step, **_: True,
    "slow_step_size": 0.5,
    "step_size": -0.05,
    "step_size_fn": lambda step: -0.05,
    "sync_period": 2,
    "threshold": 1.0,
    "transforms": {"a": SGD, "b": optax.adam(0.05)},
    "tx": SGD,
}
# Those whose updates are to be multiplied by a negative step size: all called scale_by_..., and
CLIMBERS = {
    *("adaptive_grad_clip", "add_decayed_weights", "add_noise", "apply_every", "centralize"),
    *("chain", "clip", "clip_by_block_rms", "clip_by_global_norm", "ema", "identity"),
    *("keep_params_nonnegative", "monitor", "named_chain", "normalize", "snapshot", "stateless"),
    *("normalize_by_update_norm", "reduce_on_plateau", "stateless_with_tree_map", "trace"),
    "zero_nans",
}
# Their updates do descend, whatever they are called.
DESCENDERS = {"scale_by_schedule", "scale_by_cocob", "scale_by_madgrad"}
# Too slow at first to be lower after four epochs; or standing still.
STILL = {"adadelta", "scale_by_adadelta", "dog", "scale_by_distance_over_gradients"}
FROZEN = {"freeze", "set_to_zero"}
REFUSED = {
    "differentially_private_aggregate": "the gradient of each example",
    "dpsgd": "jax.vmap(jax.grad(...))",
    "hutchinson_estimator_diag_hessian": "forward mode",
    "lookahead": "train with its fast optimizer",
    "measure_with_ema": "optax.monitor",
    "scale_by_muon": "fit calls optimizer.update",
    "sophia": "optax.contrib.sophia's estimate of the Hessian needs forward mode",
}


def public():
    """Every public function or class of optax that makes an optimizer, by its name."""
    found = {"MultiSteps": optax.MultiSteps, "monitor": optax.monitor}
    for module in (optax, contrib):
        for name, f in vars(module).items():
            if name.startswith("_") or not inspect.isfunction(f):
                continue
            told = str(inspect.signature(f).return_annotation)
            required = [p for p in inspect.signature(f).parameters.values() if p.default is p.empty]
            names = {p.name for p in required if p.kind is not p.VAR_POSITIONAL}
            untold = told.endswith("_empty'>") and (names <= {"learning_rate"})
            if "GradientTransformation" in told or (untold and name != "scale_gradient"):
                found[name] = f
    return found


PUBLIC = public()


def made(name):
    f = PUBLIC[name]
    required = [p for p in inspect.signature(f).parameters.values() if p.default is p.empty]
    given = {
        p.name: ARGUMENTS[p.name]
        for p in required
        if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what optax deprecates
        if name == "chain":
            return f(optax.clip(1.0), optax.trace(0.5))
        if name == "named_chain":
            return f(("clip", optax.clip(1.0)), ("trace", optax.trace(0.5)))
        if name in ("inject_hyperparams", "inject_stateful_hyperparams"):
            return f(optax.sgd)(learning_rate=0.05)
        return f(**given)


def test_the_walk_sees_what_there_is():
    assert len(PUBLIC) > 120
    assert {"adam", "lbfgs", "sam", "schedule_free", "MultiSteps", "monitor", "dog"} <= set(PUBLIC)
    assert set(REFUSED) | CLIMBERS | STILL | FROZEN | DESCENDERS <= set(PUBLIC)


QUICK = {"apply_if_finite", "sam", "adamw"}


@pytest.mark.filterwarnings("ignore:optax.apply_every still holds")
@pytest.mark.parametrize(
    "name",
    [
        n if n in QUICK else pytest.param(n, marks=pytest.mark.slow)
        for n in PUBLIC
        if n not in REFUSED
    ],
)
def test_it_trains(name):
    optimizer = made(name)
    if name in CLIMBERS or (name.startswith("scale_by_") and name not in DESCENDERS):
        optimizer = optax.chain(optimizer, optax.scale(-0.05))
    with jax.numpy_rank_promotion("allow"):  # optax's own, in scale_by_distance_over_gradients
        result = fit(optimizer)
    assert np.isfinite(result.history["loss"]).all()
    if name in FROZEN:
        assert_same_bits(result.params, PARAMS)
    elif name in STILL:
        assert not np.array_equal(result.params[0]["weight"], PARAMS[0]["weight"])
    else:
        assert result.history["loss"][-1] < result.history["loss"][0]


@pytest.mark.parametrize("name", REFUSED)
def test_it_is_refused_by_name(name):
    with pytest.raises(fn.errors.ConfigError) as raised:
        fit(made(name))
    said = str(raised.value)
    assert REFUSED[name] in said
    assert name in said or name in ("dpsgd",)


@pytest.mark.parametrize(
    ("optimizer", "says"),
    [
        (optax.adam, "optimizer is <function adam"),
        (optax.adam, "call it, as in optax.adam(...)"),
        ("adam", "expected an optax transformation such as optax.sgd(0.03)"),
        (
            optax.chain(optax.clip(1.0), contrib.sam(SGD, SGD)),
            "put the others into it: sam(optax.chain(...), ...)",
        ),
        (optax.flatten(contrib.schedule_free_sgd(0.1)), "schedule_free(optax.flatten(...), ...)"),
    ],
)
def test_what_cannot_train_is_told_what_can(optimizer, says):
    with pytest.raises(fn.errors.ConfigError) as raised:
        fit(optimizer)
    assert says in str(raised.value)


def test_a_state_that_changes_its_dtype_is_refused():
    def update(updates, state, params=None):
        return jax.tree.map(lambda g: -0.1 * g, updates), {"count": state["count"] + 1.5}

    counting = optax.GradientTransformation(lambda params: {"count": jnp.int32(0)}, update)
    with pytest.raises(fn.errors.ConfigError) as raised:
        fit(counting)
    assert "{'count': 'int32[]'} to {'count': 'float32[]'} in a step" in str(raised.value)


# Schedule-free: the average is what is learned.


def schedule_free():
    return contrib.schedule_free_adamw(0.05, warmup_steps=10)


@pytest.mark.slow
@pytest.mark.parametrize(
    "optimizer",
    [
        schedule_free(),
        pytest.param(optax.chain(optax.clip(1.0), schedule_free()), marks=pytest.mark.slow),
        pytest.param(optax.MultiSteps(schedule_free(), 2), marks=pytest.mark.slow),
        pytest.param(
            optax.partition({"a": schedule_free(), "b": schedule_free()}, LABELLED),
            marks=pytest.mark.slow,
        ),
    ],
)
def test_schedule_free_learns_its_average(optimizer):
    held_out = X[:30], LABELS[:30]
    result = fit(optimizer, validation=held_out, metrics={"accuracy": fn.metrics.accuracy})
    assert not np.array_equal(result.params[0]["weight"], result.run.params[0]["weight"])
    logits = MODEL.apply(result.params, result.state, X)[0]
    np.testing.assert_allclose(result.predict(X), logits, rtol=1e-5, atol=1e-6)
    loss = CE(jnp.asarray(logits[:30]), jnp.asarray(LABELS[:30]))
    np.testing.assert_allclose(result.history["validation_loss"][-1], loss, rtol=1e-5)
    assert result.evaluate(held_out)["loss"] == pytest.approx(float(loss), rel=1e-5)
    assert result.accuracy == np.mean(np.argmax(logits, -1) == LABELS)


def test_the_average_is_optaxs():
    result = fit(schedule_free())
    right = contrib.schedule_free_eval_params(result.run.opt_state, result.run.params)
    assert_same_bits(result.params, right)
    # The training iterate is what goes on.
    longer = fit(schedule_free(), epochs=6)
    run, _ = result.trainer.run(result.run, (X, LABELS), 2)
    assert_same_bits(run.params, longer.run.params)


def test_groups_have_an_average_each():
    optimizer = optax.partition({"a": schedule_free(), "b": optax.sgd(0.1)}, LABELLED)
    result = fit(optimizer)
    params, run = result.params, result.run.params
    assert not np.array_equal(params[0]["weight"], run[0]["weight"])
    assert_same_bits(params[2], run[2])


def test_between_two_steps_of_sam_the_parameters_are_those_before():
    sam = contrib.sam(SGD, optax.chain(contrib.normalize(), optax.sgd(0.05)), sync_period=2)
    odd = fit(sam, epochs=1, batch_size=22)  # three steps
    even = odd.trainer.step(odd.trainer.init(KEY), (X[:22], LABELS[:22]))
    assert int(odd.run.opt_state.steps_since_sync) == 1
    assert_same_bits(odd.params, odd.run.opt_state.cache)
    assert_same_bits(evaluation_params(even[0].opt_state, even[0].params), PARAMS)


def test_opaque_sam_gets_a_gradient():
    sam = contrib.sam(SGD, optax.chain(contrib.normalize(), optax.sgd(0.01)), opaque_mode=True)
    loss = fit(sam).history["loss"]
    assert loss[-1] < loss[0]


# Accumulators.


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", [optax.sgd(0.1, momentum=0.9), optax.adamw(0.05)])
def test_gradients_of_small_batches_add_up_to_that_of_a_large_one(optimizer, x64):
    """In float64, where what remains is the order of the sums; the epochs' order is the same."""
    rng = np.random.default_rng(0)
    data = rng.normal(size=(24, 4)), rng.integers(0, 2, 24)
    options = {"epochs": 4, "key": KEY, "dtype": jnp.float64, "progress": False}
    multi = optax.MultiSteps(optimizer, 3, accumulator_dtype=jnp.float64)
    small = fn.fit(MODEL, CE, multi, data, batch_size=4, **options)
    large = fn.fit(MODEL, CE, optimizer, data, batch_size=12, **options)
    for one, other in zip(
        jax.tree.leaves(small.params), jax.tree.leaves(large.params), strict=True
    ):
        np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-12)


def test_multi_steps_is_taken_as_it_is():
    multi = optax.MultiSteps(optax.adam(0.05), 2)
    ours, theirs = fit(multi), fit(multi.gradient_transformation())
    assert_same_bits(ours.params, theirs.params)
    assert fn.Trainer(MODEL, CE, multi).optimizer == multi.gradient_transformation()  # pyright: ignore


@pytest.mark.parametrize(
    ("optimizer", "says"),
    [
        (
            optax.MultiSteps(SGD, 3),
            "optax.MultiSteps still holds the gradients of the last 1 step,",
        ),
        (
            optax.chain(optax.apply_every(5), SGD),
            "optax.apply_every still holds the gradients of the last 4 steps,",
        ),
    ],
)
def test_what_an_accumulator_holds_is_said(optimizer, says):
    with pytest.warns(RuntimeWarning, match=says):
        fit(optimizer, epochs=1)


# What is seen of the optimizer.


def test_gradient_norms_are_in_the_history():
    ema = optax.measure_with_ema(optax.tree.norm, 0.9)
    monitor = optax.monitor({"norm": optax.tree.norm, "smooth": ema})
    result = fit(optax.chain(monitor, SGD), epochs=3)
    assert result.history["norm"].shape == (3,)
    assert (result.history["norm"] > 0).all()
    assert (result.history["smooth"] > 0).all()
    assert_same_bits(result.params, fit(SGD, epochs=3).params)


@pytest.mark.parametrize(
    ("optimizer", "names"),
    [
        (optax.masked(SGD, (True, (), False)), "the gradient of 2.bias, 2.weight as it is"),
        (optax.identity(), "the gradient of 0.bias, 0.weight, 2.bias and 1 more as it is"),
    ],
)
def test_a_gradient_that_is_added_as_it_is_is_said(optimizer, names):
    for _ in range(2):  # also where nothing is traced any more
        with pytest.warns(RuntimeWarning, match=names) as caught:
            fit(optimizer, epochs=1)
        assert "optax.partition" in str(caught[0].message)


def test_the_advice_freezes():
    labels: Any = ("train", (), "freeze")
    parts: Any = {"train": SGD, "freeze": optax.set_to_zero()}
    result = fit(optax.partition(parts, labels))
    assert_same_bits(result.params[2], PARAMS[2])
