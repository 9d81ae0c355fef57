"""One key, one run: the same bits however the epochs are split, and each example once an epoch."""

import dataclasses
import hashlib
import re
import subprocess
import sys
import textwrap
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import funcnet as fn
from funcnet.training import state
from funcnet.training import step as stepping
from funcnet.training import trainer as training
from tests.same_bits import as_numpy, assert_same_bits

KEY = jax.random.key(3)
MODEL = fn.Sequential(fn.Linear(2, 4), fn.Tanh(), fn.Linear(4, 3))
CE = fn.CrossEntropyLoss()
RNG = np.random.default_rng(0)
X = RNG.normal(size=(11, 2)).astype(np.float32)
LABELS = RNG.integers(0, 3, 11)


def data(n):
    return X[:n], LABELS[:n]


def trainer(batch_size=4, optimizer: Any = None, model: fn.Module = MODEL, loss: Any = CE):
    return fn.Trainer(model, loss, optimizer or ADAM, batch_size)


ADAM = optax.adam(0.05)  # one object, so that equal trainers share their compiled program


@pytest.mark.few(2)
@pytest.mark.parametrize(("n", "batch_size"), [(1, 1), (4, 4), (11, 4)])
def test_same_key_same_bits(batch_size, n):
    t = trainer(batch_size)
    first = t.run(t.init(KEY), data(n), 3)
    assert_same_bits(t.run(t.init(KEY), data(n), 3), first)
    assert np.isfinite(first[1]["loss"]).all()
    other = t.run(t.init(jax.random.key(4)), data(n), 3)
    assert not np.array_equal(other[1]["loss"], first[1]["loss"])


@settings(max_examples=15)
@given(
    parts=st.lists(st.integers(0, 2), min_size=1, max_size=2),
    batch_size=st.sampled_from([4, 100]),
    n=st.just(11),
)
def test_any_split_has_the_bits_of_one_run(parts, batch_size, n):
    t = trainer(batch_size)
    whole, history = t.run(t.init(KEY), data(n), sum(parts))
    run, losses = t.init(KEY), []
    for epochs in parts:
        run, piece = t.run(run, data(n), epochs)
        losses.append(piece["loss"])
        assert piece["diverged_at"] == -1
    assert_same_bits(run, whole)
    assert_same_bits(np.concatenate(losses), np.asarray(history["loss"]))


@pytest.mark.slow
@settings(max_examples=12)
@given(
    parts=st.lists(st.integers(0, 7), min_size=1, max_size=3),
    batch_size=st.integers(1, 80),
    n=st.integers(1, 80),
)
def test_any_split_of_any_size(parts, batch_size, n):
    rng = np.random.default_rng(n)
    examples = rng.normal(size=(n, 2)).astype(np.float32), rng.integers(0, 3, n)
    t = trainer(batch_size)
    whole, history = t.run(t.init(KEY), examples, sum(parts))
    run, losses = t.init(KEY), []
    for epochs in parts:
        run, piece = t.run(run, examples, epochs)
        losses.append(piece["loss"])
    assert_same_bits(run, whole)
    assert_same_bits(np.concatenate(losses), np.asarray(history["loss"]))


@pytest.mark.slow
def test_two_steps_at_once_are_two_steps(monkeypatch):
    def trained(large, parts):
        monkeypatch.setattr(training, "LARGE", large)
        jax.clear_caches()  # what was compiled for another LARGE. Five batches and a rest:
        t = trainer(2, optax.sgd(0.1))
        run, losses = t.init(KEY), []
        for epochs in parts:
            run, history = t.run(run, data(11), epochs)
            losses.append(history["loss"])
        return run, np.concatenate(losses)

    by_one, by_two = trained(10**9, [2]), trained(0, [2])
    chex.assert_trees_all_close(by_two[0].params, by_one[0].params, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(by_two[1], by_one[1], rtol=1e-5)
    assert_same_bits(trained(0, [1, 1]), by_two)


@pytest.mark.slow
def test_a_large_network_copies_no_weight_in_a_step(monkeypatch):
    model = fn.Sequential(fn.Linear(5, 70), fn.ReLU(), fn.Linear(70, 71), fn.ReLU())
    x, y = np.ones((8, 5), np.float32), np.zeros((8, 71), np.float32)

    def copies(large):
        monkeypatch.setattr(training, "LARGE", large)
        t = fn.Trainer(model, fn.MSELoss(), optax.sgd(0.1), 2)
        train = jax.jit(training._train_epochs, static_argnums=0)
        begun = state.start(t.init(KEY), 1, ("loss",))
        jax.clear_caches()  # what was traced for another LARGE
        program = train.lower(t._program, begun, (x, y), None, 1).compile()
        return len(re.findall(r"= f32\[71,70\]\S* copy\(", program.as_text() or ""))

    by_two, by_one = copies(0), copies(10**9)
    assert 0 < by_two < by_one


@pytest.mark.slow
def test_bits_are_the_same_in_another_process():
    program = textwrap.dedent("""
        import hashlib, jax, numpy as np, optax
        import funcnet as fn
        model = fn.Sequential(fn.Linear(2, 4), fn.Tanh(), fn.Linear(4, 3))
        t = fn.Trainer(model, fn.CrossEntropyLoss(), optax.adam(0.05), 4)
        rng = np.random.default_rng(0)
        x, y = rng.normal(size=(11, 2)).astype(np.float32), rng.integers(0, 3, 11)
        run, history = t.run(t.init(jax.random.key(3)), (x, y), 3)
        leaves = jax.tree.leaves((run.params, history["loss"]))
        print(hashlib.sha256(b"".join(np.asarray(a).tobytes() for a in leaves)).hexdigest())
    """)
    there = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    t = trainer()
    run, history = t.run(t.init(KEY), data(11), 3)
    leaves = jax.tree.leaves((run.params, history["loss"]))
    digest = hashlib.sha256(b"".join(np.asarray(a).tobytes() for a in leaves)).hexdigest()
    assert there.stdout == f"{digest}\n"


def test_the_run_given_stays_usable():
    t = trainer()
    begun = t.init(KEY)
    before = jax.tree.map(as_numpy, begun)
    t.run(begun, data(11), 2)
    assert_same_bits(jax.tree.map(as_numpy, begun), before)


def test_epochs_zero_changes_nothing():
    t = trainer()
    begun = t.init(KEY)
    run, history = t.run(begun, data(11), 0)
    assert_same_bits(run, begun)
    assert history["loss"].shape == (0,)
    assert history["diverged_at"] == -1


def test_the_epoch_counts_on():
    t = trainer()
    run, _ = t.run(t.init(KEY), data(11), 2)
    run, _ = t.run(run, data(11), 3)
    assert run.epoch == 5
    assert run.epoch.dtype == jnp.int32
    assert_same_bits(run.key, KEY)


def test_run_under_jit():
    t = trainer()

    @jax.jit
    def train(key, x, y):
        return t.run(t.init(key), (x, y), 3)

    assert_same_bits(train(KEY, *data(11)), t.run(t.init(KEY), data(11), 3))


@pytest.mark.slow
def test_run_under_vmap():
    t = trainer()
    keys = jax.random.split(KEY, 3)

    def train(key, rate):
        run, history = t.run(t.init(key), (rate * X, LABELS), 3)
        return run.params, history["loss"]

    together = jax.vmap(train)(keys, jnp.array([1.0, 0.5, 2.0]))
    for i, rate in enumerate([1.0, 0.5, 2.0]):
        alone = train(keys[i], rate)
        found = jax.tree.map(lambda leaf, i=i: leaf[i], together)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), found, alone
        )


def test_a_diverged_one_does_not_stop_the_others_under_vmap():
    t = trainer(optimizer=optax.sgd(1.0), model=fn.Linear(1, 1), loss=fn.MSELoss())
    x, y = jnp.ones((4, 1)), jnp.zeros((4, 1))

    def train(scale):
        run, history = t.run(t.init(KEY), (scale * x, y), 12)
        return run.epoch, history["diverged_at"], history["loss"]

    epoch, diverged_at, loss = jax.vmap(train)(jnp.array([0.1, 1e9]))
    assert epoch[0] == 12
    assert diverged_at[0] == -1
    assert diverged_at[1] == epoch[1]
    assert 0 < epoch[1] < 12
    assert np.isfinite(loss[0]).all()
    assert_same_bits(np.isfinite(np.asarray(loss[1])), np.arange(12) < epoch[1])


# Which examples are seen, in which batches, from a model that only counts.
@dataclasses.dataclass(frozen=True)
class Seen(fn.Module):
    """Counts in its state how often each example has come, and each batch's examples."""

    examples: int
    steps: int

    def init(self, key, dtype=jnp.float32):
        params = {"weight": jnp.zeros((), dtype)}
        return params, {"steps": jnp.int32(0), "batch": jnp.zeros((self.steps, self.examples), int)}

    def apply(self, params, state, x, *, key: Any = None, train=False):
        which = x[:, 0].astype(int)
        state = {
            "steps": state["steps"] + 1,
            "batch": state["batch"].at[state["steps"], which].add(1),
        }
        return x * params["weight"], state


@pytest.mark.few(3)
@pytest.mark.parametrize(("n", "size"), [(11, 4), (3, 4), (7, 1), (70, 35)])
def test_each_epoch_visits_each_example_once_in_a_fresh_order(n, size):
    steps = -(-n // size)
    t = trainer(size, optax.sgd(0.0), Seen(n, 3 * steps), fn.MSELoss())
    x = np.arange(n, dtype=np.float32)[:, None]
    run, _ = t.run(t.init(KEY), (x, x), 3)
    assert run.state["steps"] == 3 * steps
    epochs = np.asarray(run.state["batch"]).reshape(3, steps, n)
    np.testing.assert_array_equal(epochs.sum(axis=1), 1)
    last = n - (steps - 1) * min(size, n)
    np.testing.assert_array_equal(epochs.sum(axis=2), [[min(size, n)] * (steps - 1) + [last]] * 3)
    for epoch in range(3):
        order = np.asarray(stepping.epoch_order(KEY, epoch, n))
        for i in range(steps):
            batch = np.flatnonzero(epochs[epoch, i])
            np.testing.assert_array_equal(batch, np.sort(order[i * size : (i + 1) * size]))
    if steps > 1:
        assert not np.array_equal(epochs[0], epochs[1])


def test_the_loss_is_the_mean_over_the_examples_as_seen():
    """With the parameters standing still it is the mean over all; the last batch is smaller."""
    t = trainer(4, optax.sgd(0.0))
    begun = t.init(KEY)
    _, history = t.run(begun, data(11), 2)
    logits, _ = MODEL.apply(begun.params, begun.state, jnp.asarray(X))
    expected = float(fn.ops.cross_entropy(logits, jnp.asarray(LABELS)))
    np.testing.assert_allclose(history["loss"], [expected] * 2, rtol=1e-6)
    np.testing.assert_allclose(t.evaluate(begun.params, begun.state, data(11)), expected, rtol=1e-6)


def reference(t, begun, x, y, epochs):
    """The same training written plainly: a Python loop over batches, optax and jax.grad."""

    @jax.jit
    def step(params, opt_state, x, y):
        def loss_of(params):
            return t.loss(t.model.apply(params, begun.state, x)[0], y)

        loss, gradient = jax.value_and_grad(loss_of)(params)
        updates, opt_state = t.optimizer.update(
            gradient, opt_state, params, value=loss, grad=gradient, value_fn=loss_of
        )
        return optax.apply_updates(params, updates), opt_state, loss

    params, opt_state, losses = begun.params, begun.opt_state, []
    for epoch in range(epochs):
        order, total = np.asarray(stepping.epoch_order(begun.key, epoch, len(x))), 0.0
        for start in range(0, len(x), t.batch_size):
            batch = order[start : start + t.batch_size]
            params, opt_state, loss = step(params, opt_state, x[batch], y[batch])
            total += float(loss) * len(batch)
        losses.append(total / len(x))
    return params, losses


OPTIMIZERS = {
    "adam": optax.adam(0.1),
    "a chain with a schedule": optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.sgd(optax.exponential_decay(0.5, 2, 0.9), momentum=0.9, nesterov=True),
    ),
    "reduce_on_plateau": optax.chain(
        optax.sgd(0.5), optax.contrib.reduce_on_plateau(factor=0.5, patience=1)
    ),
    "lbfgs": optax.lbfgs(),
    "inject_hyperparams": optax.inject_hyperparams(optax.sgd)(learning_rate=0.1),
}
SLOW = {"adam", "lbfgs", "inject_hyperparams"}  # to compile


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in OPTIMIZERS],
)
@pytest.mark.usefixtures("x64")
def test_any_optax_optimizer(name):
    optimizer = optax.with_extra_args_support(OPTIMIZERS[name])
    t = trainer(4, optimizer)
    begun = t.init(KEY, dtype=jnp.float64)
    x, y = jnp.asarray(X, jnp.float64), jnp.asarray(LABELS)
    run, history = t.run(begun, (x, y), 2)
    params, losses = reference(t, begun, x, y, 2)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-7), run.params, params)
    np.testing.assert_allclose(history["loss"], losses, rtol=1e-9)
    assert history["loss"].dtype == jnp.float64


def test_a_frozen_layer_stays():
    frozen = optax.multi_transform(
        {"train": optax.adam(0.1), "freeze": optax.set_to_zero()},
        (*(["freeze"] * 2), "train"),
    )
    t = trainer(4, frozen)
    begun = t.init(KEY)
    run, _ = t.run(begun, data(11), 3)
    assert_same_bits(run.params[0], begun.params[0])
    assert not np.array_equal(run.params[2]["weight"], begun.params[2]["weight"])


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_half_precision_params_stay_so_and_losses_are_float32(dtype):
    t = trainer(4, optax.sgd(0.1))
    run, history = t.run(t.init(KEY, dtype), data(11), 20)
    assert {leaf.dtype for leaf in jax.tree.leaves(run.params)} == {jnp.dtype(dtype)}
    assert history["loss"].dtype == jnp.float32
    assert history["loss"][-1] < history["loss"][0]


@pytest.mark.usefixtures("x64")
def test_float32_params_in_64_bit_mode():
    t = trainer(4, optax.sgd(0.1), loss=fn.CrossEntropyLoss(weight=(1, 2, 3)))
    run, history = t.run(t.init(KEY), (X.astype(np.float64), LABELS), 2)
    assert {leaf.dtype for leaf in jax.tree.leaves(run.params)} == {jnp.dtype("float32")}
    assert history["loss"].dtype == jnp.float32
    assert (run.epoch.dtype, history["diverged_at"].dtype) == (jnp.int32, jnp.int32)


# Divergence: what is kept is the last finite epoch's.
@dataclasses.dataclass(frozen=True)
class Counter(fn.Module):
    """The identity; its state counts training batches, its parameter is left alone."""

    def init(self, key, dtype=jnp.float32):
        return (), {"batches": jnp.int32(0)}

    def apply(self, params, state, x, *, key: Any = None, train=False):
        return x, {"batches": state["batches"] + train}


FAR = (1e4 * X, 1e4 * X[:, :1])


def exploding():
    """A trainer whose loss leaves float32's range in its fourth epoch."""
    model = fn.Sequential(Counter(), fn.Linear(2, 1))
    t = fn.Trainer(model, fn.MSELoss(), SCHEDULED, batch_size=4)
    return t, t.init(KEY)


# Three batches an epoch: tame for three epochs, then absurd.
SCHEDULED = optax.adam(optax.piecewise_constant_schedule(1e-3, {9: 1e30}))


def test_divergence_keeps_the_last_finite_epoch():
    t, begun = exploding()
    run, history = t.run(begun, FAR, 8)
    at = int(history["diverged_at"])
    assert at == 3
    tame, before = t.run(begun, FAR, at)
    assert before["diverged_at"] == -1
    assert_same_bits(run, tame)
    assert run.epoch == at
    assert run.state[0]["batches"] == 3 * at
    assert_same_bits(np.asarray(history["loss"][:at]), np.asarray(before["loss"]))
    assert np.isnan(history["loss"][at:]).all()
    assert history["diverged_at"].dtype == jnp.int32


@pytest.mark.parametrize("parts", [(1, 7), (4, 4), (1, 1, 1, 1, 4)])
def test_divergence_is_the_same_however_split(parts):
    t, begun = exploding()
    whole, history = t.run(begun, FAR, 8)
    run, losses = begun, []
    for epochs in parts:
        run, piece = t.run(run, FAR, epochs)
        losses.append(piece["loss"])
    assert_same_bits(run, whole)
    assert_same_bits(np.concatenate(losses), np.asarray(history["loss"]))
    assert piece["diverged_at"] == history["diverged_at"]


def test_a_parameter_that_overflows_is_a_divergence_though_the_loss_is_finite():
    """The last step of an epoch ruins the weight; no loss has seen it yet."""
    t = fn.Trainer(fn.Linear(1, 1), fn.MSELoss(), optax.sgd(1e38), batch_size=4)
    begun = t.init(KEY)
    run, history = t.run(begun, (100 * jnp.ones((4, 1)), jnp.zeros((4, 1))), 2)
    assert history["diverged_at"] == 0
    assert_same_bits(run, begun)


def test_nan_in_the_data_is_a_divergence():
    t = trainer()
    begun = t.init(KEY)
    x = np.array(X)
    x[3] = np.nan
    run, history = t.run(begun, (x, LABELS), 2)
    assert history["diverged_at"] == 0
    assert np.isnan(history["loss"]).all()
    assert_same_bits(run, begun)


def test_a_label_out_of_range_is_a_divergence():
    t = trainer()
    _, history = t.run(t.init(KEY), (X, LABELS + 1), 2)
    assert history["diverged_at"] == 0


def test_state_is_carried_from_batch_to_batch():
    model = fn.Sequential(Counter(), MODEL)
    t = trainer(4, model=model)
    run, _ = t.run(t.init(KEY), data(11), 5)
    assert run.state[0]["batches"] == 15
    t.evaluate(run.params, run.state, data(11))
    assert t.predict(run.params, run.state, X).shape == (11, 3)


# Compilation: the second run of the same sizes compiles and traces nothing.
@dataclasses.dataclass(frozen=True, eq=False)
class CountedLoss:
    """Cross entropy that counts how often it is traced."""

    traces: list = dataclasses.field(default_factory=list)

    def __call__(self, prediction, target):
        self.traces.append(prediction.shape)
        return fn.ops.cross_entropy(prediction, target)


def test_a_second_run_of_the_same_sizes_traces_nothing():
    loss = CountedLoss()
    t = trainer(4, loss=loss)
    run, _ = t.run(t.init(KEY), data(11), 3)
    traced = len(loss.traces)
    assert 0 < traced <= 6  # two sizes of batch, and what JAX traces to differentiate
    run, _ = t.run(run, data(11), 3)
    t.run(t.init(jax.random.key(9)), (X + 1, LABELS), 3)
    equal = fn.Trainer(fn.Sequential(*MODEL.layers), loss, ADAM, np.int64(4))  # pyright: ignore[reportArgumentType]
    assert equal == t
    equal.run(equal.init(KEY), data(11), 3)
    assert len(loss.traces) == traced


@pytest.mark.slow
def test_a_batch_size_beyond_the_set_is_the_whole_set():
    runs = [trainer(size).run(trainer(size).init(KEY), data(11), 3) for size in (11, 10**9)]
    assert_same_bits(runs[1], runs[0])


@pytest.mark.slow
@pytest.mark.parametrize("leading", [(3, 2)])
def test_axes_between_examples_and_features(leading):
    rng = np.random.default_rng(1)
    x = rng.normal(size=(7, *leading, 2)).astype(np.float32)
    labels = rng.integers(0, 3, (7, *leading))
    t = trainer(2, optax.sgd(0.0))
    begun = t.init(KEY)
    _, history = t.run(begun, (x, labels), 1)
    logits, _ = MODEL.apply(begun.params, begun.state, jnp.asarray(x))
    expected = fn.ops.cross_entropy(logits, jnp.asarray(labels))
    np.testing.assert_allclose(history["loss"], [expected], rtol=1e-5)
    assert t.predict(begun.params, begun.state, x).shape == (7, *leading, 3)


@pytest.mark.parametrize("n", [0, 1, 999, 1000, 1001, 2500])
def test_predict_in_batches_is_apply(n):
    t = trainer()
    run = t.init(KEY)
    x = np.random.default_rng(0).normal(size=(n, 2))
    expected, _ = MODEL.apply(run.params, run.state, jnp.asarray(x, jnp.float32))
    found = t.predict(run.params, run.state, x)
    assert found.shape == (n, 3)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@dataclasses.dataclass(frozen=True)
class NoisyLayer(fn.Module):
    def apply(self, params, state, x, *, key: Any = None, train=False):
        return (x + jax.random.normal(key, x.shape) if train else x), state


def test_layers_get_a_fresh_key_each_step_in_training_and_none_in_evaluation():
    model = fn.Sequential(NoisyLayer(), fn.Linear(2, 3))
    t = trainer(4, optax.sgd(0.0), model)
    begun = t.init(KEY)
    run, history = t.run(begun, data(8), 3)
    quiet = t.evaluate(begun.params, begun.state, data(8))
    assert len({float(loss) for loss in (*history["loss"], quiet)}) == 4
    again, more = t.run(t.run(begun, data(8), 1)[0], data(8), 2)
    assert_same_bits(again, run)
    assert_same_bits(np.asarray(more["loss"]), np.asarray(history["loss"][1:]))


def torch_trajectory(params, batches, loss_name):
    """200 steps of PyTorch's SGD on the same batches: the loss before each step, the parameters."""
    import torch

    net = torch.nn.Sequential(
        torch.nn.Linear(2, 8), torch.nn.ReLU(), torch.nn.Linear(8, 8), torch.nn.Tanh(),
        torch.nn.Linear(8, 3),
    ).double()  # fmt: skip
    net.load_state_dict({k: torch.tensor(v) for k, v in fn.interop.state_dict(params).items()})
    loss_of = getattr(torch.nn, loss_name)()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    losses = []
    for x, y in batches:
        optimizer.zero_grad()
        loss = loss_of(net(torch.tensor(x)), torch.tensor(y))
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses, {k: v.numpy() for k, v in net.state_dict().items()}


@pytest.mark.slow
@pytest.mark.torch
@pytest.mark.parametrize(
    "loss_name", [pytest.param("MSELoss", marks=pytest.mark.slow), "CrossEntropyLoss"]
)
@pytest.mark.usefixtures("x64")
def test_200_steps_are_pytorchs(loss_name):
    """10 epochs of 20 batches, the last of each smaller, in float64."""
    rng = np.random.default_rng(2)
    n, size = 97, 5
    x = rng.normal(size=(n, 2))
    labels = (np.square(x).sum(axis=1) < 1).astype(int) + (x[:, 0] > 0)
    y = labels if loss_name == "CrossEntropyLoss" else np.eye(3)[labels]
    model = fn.Sequential(fn.Linear(2, 8), fn.ReLU(), fn.Linear(8, 8), fn.Tanh(), fn.Linear(8, 3))
    t = fn.Trainer(model, getattr(fn, loss_name)(), optax.sgd(0.1), size)
    run = t.init(KEY, jnp.float64)
    batches = []
    for epoch in range(10):
        order = np.asarray(stepping.epoch_order(KEY, epoch, n))
        batches += [order[i : i + size] for i in range(0, n, size)]
    assert len(batches) == 200
    theirs, weights = torch_trajectory(run.params, [(x[b], y[b]) for b in batches], loss_name)

    # Single batches as whole sets would be shuffled; an epoch's mean is what `run` reports.
    run, history = t.run(run, (x, y), 10)
    sizes = [len(batch) for batch in batches]
    means = np.multiply(theirs, sizes).reshape(10, 20).sum(axis=1) / n
    np.testing.assert_allclose(history["loss"], means, rtol=0, atol=1e-9)
    for key, weight in fn.interop.state_dict(run.params).items():
        np.testing.assert_allclose(weight, weights[key], rtol=0, atol=1e-9)

    # And step by step, by the function that the compiled loop repeats.
    update = jax.jit(stepping.update, static_argnums=0)
    run, ours = t.init(KEY, jnp.float64), []
    for batch in batches:
        run, loss, _ = update(t, run, jnp.asarray(x[batch]), jnp.asarray(y[batch]), KEY)
        ours.append(float(loss))
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-9)
