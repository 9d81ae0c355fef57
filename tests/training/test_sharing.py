"""Equal settings share a compiled program, written out again or not; what may differ does not."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optax import contrib

import funcnet as fn
from funcnet._internal.identity import identity
from tests.same_bits import assert_same_bits

RNG = np.random.default_rng(0)
X = RNG.normal(size=(60, 4)).astype(np.float32)
LABELS = (X[:, 0] * X[:, 1] > 0).astype(np.int32)
MODEL = fn.Sequential(fn.Linear(4, 5), fn.Tanh(), fn.Linear(5, 2))
CE = fn.CrossEntropyLoss()
PARAMS = {"weight": jnp.ones(2)}
KEYS = jax.random.split(jax.random.key(0), 3)

COMPILED: list[str] = []


def note(event: str, duration_secs: float, **kwargs: Any) -> None:
    if "backend_compile" in event:
        COMPILED.append(event)


jax.monitoring.register_event_duration_secs_listener(note)


def compiled(call: Callable[[], Any]) -> int:
    """How many programs a call compiles."""
    before = len(COMPILED)
    call()
    return len(COMPILED) - before


def fit(optimizer, data=(X, LABELS), loss: Any = CE, **options):
    options = {"epochs": 3, "key": KEYS[0], "batch_size": 20, "progress": False, **options}
    return fn.fit(MODEL, loss, optimizer, data, **options)


def decayed(rate):
    return optax.adam(lambda step: rate * 0.9**step)


def test_seeds_folds_and_optimizers_written_out_again_compile_once():
    def fold(i):
        kept = np.arange(60) % 3 != i
        return X[kept], LABELS[kept]

    def run(i):
        held_out = X[i::3], LABELS[i::3]
        schedule = optax.cosine_decay_schedule(1e-2, 20)
        optimizer = optax.chain(optax.clip(1.0), optax.adam(schedule))
        result = fit(optimizer, fold(i), key=KEYS[i], validation=held_out, patience=2 + i)
        result.evaluate(held_out)

    assert compiled(lambda: run(0)) > 0
    assert compiled(lambda: [run(1), run(2)]) == 0


def test_step_sizes_that_are_arguments_compile_once():
    optimizer = optax.inject_hyperparams(optax.sgd)
    results = []

    def run(rate, **options):
        results.append(fit(optimizer(learning_rate=rate, momentum=0.9), **options))

    assert compiled(lambda: run(0.1)) > 0
    assert compiled(lambda: [run(0.2), run(0.3, epochs=7), run(0.3, key=KEYS[1])]) == 0
    rates = [result.history["learning_rate"][0] for result in results]
    np.testing.assert_allclose(rates, [0.1, 0.2, 0.3, 0.3])
    assert_same_bits(results[0].params, fit(optimizer(learning_rate=0.1, momentum=0.9)).params)
    assert not np.array_equal(results[1].history["loss"], results[0].history["loss"])


def test_a_loss_and_metrics_written_out_again_share_a_program():
    def run(smoothing):
        f1 = functools.partial(fn.metrics.f1_score, average="macro")
        loss = fn.CrossEntropyLoss(label_smoothing=smoothing)
        metrics = {"accuracy": fn.metrics.accuracy, "f1": f1}
        return float(fit(optax.sgd(0.1), loss=loss, metrics=metrics).history["loss"][0])

    first = run(0.0)
    assert compiled(lambda: run(0.0)) == 0
    assert run(0.0) == first
    assert run(0.5) != first


def test_a_step_of_an_equal_trainer_compiles_nothing():
    def step():
        trainer = fn.Trainer(MODEL, CE, optax.adamw(1e-2), batch_size=20)
        return trainer.step(trainer.init(KEYS[0]), (X[:20], LABELS[:20]))

    step()
    assert compiled(step) == 0


@pytest.mark.slow
def test_pairs_of_keys_and_step_sizes_are_one_program():
    traced = []

    def train(pair, data):
        key, rate = pair
        traced.append(rate)
        trainer = fn.Trainer(fn.Linear(4, 2), CE, optax.sgd(rate), batch_size=20)
        return trainer.run(trainer.init(key), data, 3)[1]["loss"]

    rates = np.array([0.01, 0.1, 0.3])
    found = fn.map_seeds(train, (KEYS, rates), (X, LABELS))
    assert found.shape == (3, 3)
    assert len(traced) == 1
    assert_same_bits(found[1], jax.jit(train)((KEYS[1], jnp.float32(0.1)), (X, LABELS)))
    together = fn.map_seeds(train, (KEYS, rates), (X, LABELS), vectorized=True)
    np.testing.assert_allclose(together, found, rtol=1e-5)


@pytest.mark.parametrize(
    ("keys", "error", "says"),
    [
        ((np.ones(3), np.ones(3)), fn.errors.DtypeError, "a tree with such keys in it"),
        ((KEYS, np.ones(2)), fn.errors.ShapeError, "an entry for each run"),
        ({"key": KEYS, "rate": 0.1}, fn.errors.ShapeError, "map_seeds(train, keys, shared)"),
    ],
)
def test_pairs_that_are_none_are_refused(keys, error, says):
    with pytest.raises(error) as raised:
        fn.map_seeds(lambda pair: 0.0, keys)
    assert says in str(raised.value)


# What equal programs are told by.

OPTIMIZERS = {
    "adam": lambda: optax.adam(1e-2),
    "adamw": lambda: optax.adamw(1e-2, mask=({"weight": True, "bias": False}, (), True)),
    "cosine": lambda: optax.sgd(optax.warmup_cosine_decay_schedule(0.0, 0.1, 10, 100)),
    "pieces": lambda: optax.sgd(optax.piecewise_constant_schedule(0.1, {10: 0.1})),
    "own schedule": lambda: decayed(0.1),
    "injected": lambda: optax.inject_hyperparams(optax.adam)(learning_rate=0.1),
    "injected schedule": lambda: optax.inject_hyperparams(optax.adam)(
        learning_rate=optax.linear_schedule(0.1, 0.0, 10)
    ),
    "multi steps": lambda: optax.MultiSteps(optax.sgd(0.1), 3).gradient_transformation(),
    "partition": lambda: optax.partition(
        {"a": optax.sgd(0.1), "b": optax.set_to_zero()}, ("a", (), "b")
    ),
    "array": lambda: optax.sgd(jnp.asarray(0.1)),
    "lbfgs": optax.lbfgs,
    "muon": lambda: contrib.muon(0.1),
    "schedule free": lambda: contrib.schedule_free_adamw(0.1),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_written_out_again_is_the_same(name):
    first, second = (OPTIMIZERS[name]() for _ in range(2))
    for part in ("init", "update"):
        known, parts = identity(getattr(first, part))
        assert known
        assert (known, parts) == identity(getattr(second, part))
        assert hash(parts) == hash(identity(getattr(second, part))[1])


SCHEDULES = {
    "constant_schedule": lambda: optax.constant_schedule(0.1),
    "cosine_decay_schedule": lambda: optax.cosine_decay_schedule(0.1, 20),
    "cosine_onecycle_schedule": lambda: optax.cosine_onecycle_schedule(20, 0.1),
    "exponential_decay": lambda: optax.exponential_decay(0.1, 20, 0.9),
    "exponential_decay to": lambda: optax.exponential_decay(0.1, 20, 0.9, end_value=0.01),
    "join_schedules": lambda: optax.join_schedules(
        [optax.linear_schedule(0.0, 0.1, 5), optax.cosine_decay_schedule(0.1, 20)], [5]
    ),
    "linear_onecycle_schedule": lambda: optax.linear_onecycle_schedule(20, 0.1),
    "linear_schedule": lambda: optax.linear_schedule(0.1, 0.0, 20),
    "piecewise_constant_schedule": lambda: optax.piecewise_constant_schedule(0.1, {5: 0.1}),
    "piecewise_interpolate_schedule": lambda: optax.piecewise_interpolate_schedule(
        "cosine", 0.1, {5: 0.1}
    ),
    "polynomial_schedule": lambda: optax.polynomial_schedule(0.1, 0.0, 2, 20),
    "sgdr_schedule": lambda: optax.sgdr_schedule(
        [{"init_value": 0.0, "peak_value": 0.1, "decay_steps": 9, "warmup_steps": 2}] * 2
    ),
    "warmup_constant_schedule": lambda: optax.warmup_constant_schedule(0.0, 0.1, 5),
    "warmup_cosine_decay_schedule": lambda: optax.warmup_cosine_decay_schedule(0.0, 0.1, 5, 20),
    "warmup_exponential_decay_schedule": lambda: optax.warmup_exponential_decay_schedule(
        0.0, 0.1, 5, 20, 0.9
    ),
}


def test_every_schedule_of_optax_is_known_and_stays_so_when_called():
    public = {name for name in vars(optax.schedules) if name.endswith("_schedule")}
    assert public - {"_schedule"} <= set(SCHEDULES)
    for make in SCHEDULES.values():
        one, other = optax.sgd(make()), optax.inject_hyperparams(optax.sgd)(make())
        before = identity(one.update), identity(other.update)
        for optimizer in (one, other):
            jax.eval_shape(optimizer.update, PARAMS, jax.eval_shape(optimizer.init, PARAMS), PARAMS)
        after = identity(one.update), identity(other.update)
        again = optax.sgd(make()), optax.inject_hyperparams(optax.sgd)(make())
        assert before[0][0]
        assert before[1][0]
        assert before == after
        assert before == tuple(identity(optimizer.update) for optimizer in again)


def closes_over(value):
    return lambda step: value


def update_of(value):
    return optax.sgd(value).update


SCALE = 1.0


def scaled(step):
    return SCALE * step


def doubled(step):
    return 2 * step


def named_as(name, f):
    f.__module__, f.__qualname__, f.__name__ = "optax", name, name
    return f


class Schedule:
    rate = 0.1

    def __call__(self, step):
        return self.rate


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (optax.adam(1e-2).update, optax.adam(1e-3).update),
        (optax.adam(1e-2).update, optax.adam(1e-2, nesterov=True).update),
        (optax.adam(1e-2).update, optax.adam(1e-2, mu_dtype=jnp.bfloat16).update),
        (decayed(0.1).update, decayed(0.2).update),
        (optax.sgd(0.1).update, optax.sgd(optax.constant_schedule(0.1)).update),
        (update_of(1), update_of(1.0)),
        (update_of(0.0), update_of(-0.0)),
        (update_of(0.1), update_of(np.float32(0.1))),
        (update_of(jnp.float32(0.1)), update_of(jnp.asarray(0.1, jnp.bfloat16))),
        (update_of(jnp.ones(3)), update_of(jnp.ones(3).at[1].set(2))),
        (lambda a: a + 1, lambda a: a + 2),
        (lambda a: a + 1, lambda a: a + 1.0),
        (lambda a, b=1: a + b, lambda a, b=2: a + b),
        (functools.partial(jnp.maximum, 1), functools.partial(jnp.maximum, 2)),
        (closes_over(0j), closes_over(-0j)),
    ],
)
def test_what_differs_is_not_the_same(one, other):
    assert identity(one) != identity(other)


def counting():
    calls = 0

    def rate(step):
        nonlocal calls
        calls += 1
        return step * calls

    return rate


def imports(step):
    import math

    return math.pi * step


@pytest.mark.parametrize(
    "make",
    [
        lambda: Schedule(),
        lambda: Schedule().__call__,
        lambda: Schedule,
        lambda: closes_over([0.1]),
        lambda: closes_over(([0.1],)),
        lambda: closes_over({"rate": 0.1}),
        lambda: closes_over(np.ones(2)),
        lambda: closes_over(Schedule()),
        lambda: closes_over(iter([0.1])),
        lambda: closes_over(np.load),
        lambda: closes_over(jnp.load),
        lambda: closes_over(jnp.ones(10_000)),
        lambda: closes_over(jax.device_put(jnp.ones(2), jax.devices()[0])),
        lambda: counting(),
        lambda: lambda step, rates=[0.1]: rates[0],
        lambda: lambda step, *, rates=[0.1]: rates[0],
        lambda: lambda step: np.random.rand(),
        lambda: lambda step: SCALE * step,
        lambda: lambda step: (lambda: SCALE * step)(),
        lambda: lambda step: jnp.tanh(step),
        lambda: lambda step: step.size,
        lambda: lambda step: exec("pass"),
        lambda: imports.__get__(1.5),
        lambda: functools.partial(np.load, "rates.npy"),
        lambda: functools.partial(jnp.load, "rates.npy"),
        lambda: functools.partial(scaled, 0.1),
        lambda: functools.partial(jax.random.normal, jax.random.key(0)),
        lambda: jax.jit(lambda step: step),
        lambda: functools.lru_cache(lambda step: 0.1),
        lambda: named_as("adam", lambda step: SCALE * step),
        lambda: named_as("adam", type("adam", (), {"rate": 0.1})),
    ],
)
def test_what_nobody_can_look_into_equals_itself_alone(make):
    one, other = optax.sgd(make()), optax.sgd(make())
    assert not identity(one.update)[0]
    assert identity(one.update) == identity(one.update)
    assert identity(one.update) != identity(other.update)


def test_the_settings_of_a_partial_function_are_not_its_arguments():
    f = fn.metrics.f1_score
    assert identity(functools.partial(f, ("average", "macro"))) != identity(
        functools.partial(f, average="macro")
    )
    assert identity(functools.partial(f, average="macro")) == identity(
        functools.partial(f, average="macro")
    )


@pytest.mark.slow
def test_an_optimizer_around_a_function_of_ones_own_is_compiled_anew(monkeypatch):
    def run():
        return fit(optax.inject_hyperparams(rated)(1.0)).history["loss"]

    def rated(scale):
        return optax.sgd(SCALE * scale)

    still = fit(optax.set_to_zero()).history["loss"]
    assert run()[-1] < still[-1] - 1e-3
    monkeypatch.setitem(globals(), "SCALE", 0.0)
    np.testing.assert_allclose(run(), still, rtol=1e-5)


def test_an_own_schedule_that_cannot_be_looked_into_is_never_stale():
    rates = {"rate": 0.0}

    def run():
        return fit(optax.sgd(lambda step: rates["rate"])).history["loss"]

    still = run()
    assert still.max() - still.min() < 1e-6
    rates["rate"] = 0.5
    assert run()[-1] < still[-1] - 1e-3


def test_chains_of_any_depth_are_looked_into_or_left_alone():
    def chained(depth):
        optimizer = optax.identity()
        for _ in range(depth):
            optimizer = optax.chain(optimizer, optimizer)
        return optimizer.update

    assert identity(chained(50))[0]
    assert identity(chained(50)) == identity(chained(50))
    assert not identity(chained(2000))[0]


def test_a_deleted_array_is_unknown():
    array = jnp.ones(2)
    f = closes_over(array)
    assert identity(f)[0]
    array.delete()
    assert not identity(f)[0]


def test_an_evaluation_sees_a_global_that_changed(monkeypatch):
    def loss_of():
        def loss(prediction, y):
            return SCALE * fn.ops.cross_entropy(prediction, y)

        trainer = fn.Trainer(MODEL, loss, optax.sgd(0.1))
        return float(trainer.evaluate(*MODEL.init(KEYS[0]), (X, LABELS)))

    one = loss_of()
    monkeypatch.setitem(globals(), "SCALE", 2.0)
    assert loss_of() == pytest.approx(2 * one)


def test_an_optimizer_changed_after_the_trainer_was_made_is_refused():
    decay = np.array(0.1)
    optimizer = optax.chain(optax.trace(decay), optax.scale(-0.1))
    trainer = fn.Trainer(MODEL, CE, optimizer, batch_size=7)
    run = trainer.init(KEYS[0])
    assert trainer._program.value is trainer
    decay[...] = 0.2
    with pytest.raises(fn.errors.ConfigError, match="changed after the Trainer was made"):
        trainer.run(run, (X, LABELS), 1)
    trainer = dataclasses.replace(trainer)
    assert trainer.run(run, (X, LABELS), 1)[1]["diverged_at"] == -1
