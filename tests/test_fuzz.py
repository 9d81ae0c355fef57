"""Random calls of the public API: each returns something sound or raises a documented exception.

Most calls are stopped by a check; what passes all of them is traced and not compiled, but for the
last test, which trains.
"""

# Wrong arguments are the point here.
# pyright: reportArgumentType=false, reportCallIssue=false

import contextlib
import warnings
from datetime import timedelta
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import funcnet as fn
from funcnet import fitting, ops
from funcnet.errors import FuncnetError

FAST = settings(max_examples=40, suppress_health_check=list(HealthCheck))
SLOW = settings(max_examples=1000, suppress_health_check=list(HealthCheck))

DTYPES = ["f2", "f4", "f8", "i1", "i4", "i8", "u1", "u8", "bool", "c8", "U3", "O", "M8[s]"]
ANY_DTYPE = st.sampled_from(DTYPES)
SHAPES = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)
SIZES = st.one_of(
    st.integers(-2, 5), st.sampled_from([0, True, None, 2.0, "3", np.int64(4), np.nan, 2**40, []])
)
KEYS = st.sampled_from(
    [
        jax.random.key(0),
        jax.random.key(1, impl="rbg"),
        jax.random.PRNGKey(0),
        jax.random.split(jax.random.key(0), 2),
        np.asarray([0, 1], np.uint32),
        0,
        None,
        "key",
    ]
)
DTYPE_ARGUMENTS = st.sampled_from(
    [jnp.float32, jnp.bfloat16, "float16", jnp.float64, "int32", None, 3, object, complex, "f", ""]
)


def numbers(dtype):
    """Elements of a dtype; among floats the ones that break things."""
    if np.dtype(dtype).kind == "f":
        odd = [0.0, -0.0, np.nan, np.inf, -np.inf, 1e30, -1e-30]
        return st.one_of(st.floats(-2, 2, width=16), st.sampled_from(odd).map(np.dtype(dtype).type))
    if np.dtype(dtype).kind in "iu":
        info = np.iinfo(dtype)
        return st.one_of(st.integers(max(-1, info.min), 3), st.sampled_from([info.max, info.min]))
    return hnp.from_dtype(np.dtype(dtype)) if np.dtype(dtype).kind != "O" else st.integers(0, 3)


@st.composite
def numpy_arrays(draw, shapes=SHAPES, dtypes=ANY_DTYPE):
    dtype = draw(dtypes)
    with np.errstate(all="ignore"):
        return draw(hnp.arrays(dtype, draw(shapes), elements=numbers(dtype)))


@st.composite
def arrays(draw, shapes=SHAPES, dtypes=ANY_DTYPE):
    """An array of NumPy or JAX, a list, a masked array, or nothing of the kind."""
    array = draw(numpy_arrays(shapes, dtypes))
    kind = draw(st.sampled_from(["numpy"] * 4 + ["jax"] * 3 + ["list", "masked", "view", "other"]))
    if kind == "jax" and array.dtype.kind not in "UOM":
        return jnp.asarray(array)
    if kind == "list":
        return array.tolist()
    if kind == "masked":
        return np.ma.masked_array(array, np.zeros(array.shape, bool) | (array.size == 3))
    if kind == "view":
        return array[::-1] if array.ndim else array
    if kind == "other":
        return draw(st.sampled_from([None, "text", 3, 2.5, {}, [], [[1.0], [1.0, 2.0]], object()]))
    return array


FLOATS = partial(arrays, dtypes=st.sampled_from(["f4", "f4", "f4", "f2", "f8"]))
REDUCTIONS = st.sampled_from(["mean", "mean", "mean", "sum", "none", "avg", None, 3])
NUMBERS = st.sampled_from([0.0, 0.1, 1.0, 0.5, -1.0, 2, np.nan, np.inf, "0.1", None, True])
WEIGHTS = st.one_of(
    st.none(), st.lists(NUMBERS, max_size=4), numpy_arrays(), st.just((1.0, 2.0, 0.5))
)
LOSSES = {
    "mse": lambda d: fn.MSELoss(d(REDUCTIONS)),
    "cross entropy": lambda d: fn.CrossEntropyLoss(
        d(WEIGHTS), d(st.one_of(st.just(-100), SIZES)), d(REDUCTIONS), d(NUMBERS)
    ),
    "plain": lambda d: fn.CrossEntropyLoss(),
    "none": lambda d: d(st.sampled_from([None, "mse", fn.MSELoss, lambda *_: 3.0, 7])),
}


def draw_layer(draw, depth=2):
    kind = draw(st.sampled_from(["linear"] * 4 + ["relu", "tanh", "nested", "none"]))
    if kind == "linear":
        return fn.Linear(draw(SIZES), draw(SIZES), draw(st.sampled_from([True, False, 1, None])))
    if kind == "nested" and depth:
        return draw_model(draw, depth - 1)
    if kind == "none":
        return draw(st.sampled_from([None, fn.ReLU, jnp.tanh, 3, [fn.ReLU()]]))
    return fn.ReLU() if kind == "relu" else fn.Tanh()


def draw_model(draw, depth=2):
    """A network that fits (batch, 2) and three classes, or anything."""
    if draw(st.booleans()):
        return fn.Sequential(fn.Linear(2, 4), fn.ReLU(), fn.Linear(4, 3))
    return fn.Sequential(*(draw_layer(draw, depth) for _ in range(draw(st.integers(0, 3)))))


def draw_loss(draw):
    return LOSSES[draw(st.sampled_from([*LOSSES, "plain"]))](draw)


OPTIMIZERS = st.sampled_from(
    [
        optax.sgd(0.1),
        optax.adam(1e-3),
        optax.sgd(1e30),
        optax.sgd(np.nan),
        optax.chain(optax.clip_by_global_norm(1.0), optax.lion(1e-3)),
        optax.sgd,
        0.1,
        None,
    ]
)


@st.composite
def data_sets(draw):
    if draw(st.integers(0, 7)) == 0:
        return draw(st.one_of(arrays(), st.tuples(arrays()), st.tuples(*[arrays()] * 3)))
    n = draw(st.integers(0, 6))
    tail = st.sampled_from([(2,), (2,), (2,), (), (3,), (2, 2), (0,)])
    x = draw(FLOATS(tail.map(lambda t: (n, *t))))
    m = draw(st.sampled_from([n, n, n, n, n + 1]))
    y = draw(
        st.one_of(
            arrays(st.just((m,)), st.sampled_from(["i4", "i4", "u1", "i8"])),
            arrays(st.sampled_from([(m, 3), (m, 2), (m,), (m, 3, 1)])),
        )
    )
    return draw(st.sampled_from([(x, y), (x, y), [x, y]]))


def call_fit(draw):
    options = {
        "epochs": draw(st.sampled_from([1, 1, 1, 0, 2, -1, 1.5, None, 2**31])),
        "key": draw(st.one_of(st.just(jax.random.key(0)), KEYS)),
        "batch_size": draw(st.one_of(st.just(4), SIZES)),
        "progress": False,
    }
    optional = {
        "validation": data_sets(),
        "patience": SIZES,
        "dtype": DTYPE_ARGUMENTS,
        "on_divergence": st.sampled_from(["raise", "keep", None, "stop"]),
        "resume": st.sampled_from([True, False, 1]),
        "checkpoint_every": st.one_of(SIZES, st.just(timedelta(seconds=-1))),
    }
    for name in draw(st.sets(st.sampled_from([*optional]), max_size=2)):
        options[name] = draw(optional[name])
    model, loss = draw_model(draw), draw_loss(draw)
    return fn.fit(model, loss, draw(OPTIMIZERS), draw(data_sets()), **options)


def call_run(draw):
    trainer = fn.Trainer(
        draw_model(draw), draw_loss(draw), draw(OPTIMIZERS), draw(st.one_of(st.just(4), SIZES))
    )
    run = jax.eval_shape(lambda: trainer.init(jax.random.key(0), draw(DTYPE_ARGUMENTS)))
    changes = {
        "params": st.one_of(st.none(), arrays()),
        "state": st.one_of(st.none(), arrays()),
        "opt_state": st.one_of(st.none(), arrays()),
        "key": KEYS,
        "epoch": arrays(),
    }
    changed = draw(st.sets(st.sampled_from([*changes]), max_size=1))
    changed = {name: draw(changes[name]) for name in changed}
    data, epochs = draw(data_sets()), draw(st.sampled_from([1, 1, 0, -1, 2.5]))
    return jax.eval_shape(lambda run: trainer.run(run._replace(**changed), data, epochs), run)


def call_model(draw):
    model = draw_model(draw)
    params, state = jax.eval_shape(
        lambda: model.init(draw(KEYS), draw(st.one_of(st.just(jnp.float32), DTYPE_ARGUMENTS)))
    )
    x, key = draw(FLOATS()), draw(KEYS)
    if draw(st.booleans()):
        params = draw(st.sampled_from([(), None, params[:1], list(params), {"weight": 3}]))
    if draw(st.integers(0, 4)) == 0:
        state = draw(st.sampled_from([(), None, state[:1], ({},)]))

    def apply(params, state):  # an empty Sequential returns its input, whatever that is
        model.apply(params, state, x, key=key)

    return jax.eval_shape(apply, params, state)


OPS = {
    "relu": (ops.relu, 1),
    "tanh": (ops.tanh, 1),
    "linear": (ops.linear, 3),
    "mse_loss": (ops.mse_loss, 2),
    "cross_entropy": (ops.cross_entropy, 2),
}


@st.composite
def numeric(draw, shapes, *dtypes):
    """An array of numbers, or None: anything else JAX refuses before it calls a custom_vjp."""
    array = draw(numpy_arrays(shapes, st.sampled_from(dtypes)))
    return draw(st.sampled_from([array, jnp.asarray(array), array, jnp.asarray(array), None]))


def call_op(draw):
    op, count = OPS[draw(st.sampled_from([*OPS]))]
    shapes = st.sampled_from([(4, 3), (4, 3), (2, 3), (3,), (4,), (), (0, 3), (3, 0), (2, 4, 3)])
    floats = numeric(shapes, "f4", "f4", "f2", "f8", "i4")
    given = [draw(floats) for _ in range(count)]
    if op is ops.cross_entropy:
        given[1] = draw(numeric(shapes, "i4", "i4", "u1", "f4", "bool"))
        given += [draw(floats), draw(st.one_of(st.just(0), SIZES)), draw(REDUCTIONS)]
        given += [draw(NUMBERS)]
    return jax.eval_shape(lambda: op(*given))


def call_loss(draw):
    loss, prediction, target = draw_loss(draw), draw(FLOATS()), draw(arrays())
    if not isinstance(loss, fn.MSELoss | fn.CrossEntropyLoss):
        return None
    return jax.eval_shape(lambda: loss(prediction, target))


def call_looking(draw):
    if draw(st.booleans()):
        shape = st.one_of(SIZES, st.lists(SIZES, max_size=3), SHAPES)
        return fn.summary(draw_model(draw), draw(shape))
    model = draw_model(draw)
    params, state = jax.eval_shape(model.init, jax.random.key(0))
    x, y = draw(FLOATS()), draw(arrays())
    loss, key = draw_loss(draw), draw(KEYS)
    return jax.eval_shape(
        lambda params, state: fn.backward(model, params, state, loss, x, y, key=key).d_params,
        params,
        state,
    )


def call_metrics(draw):
    names = ["accuracy", "confusion_matrix", "precision_score", "recall_score", "f1_score"]
    function = getattr(fn.metrics, draw(st.sampled_from(names)), fn.metrics.accuracy)
    shapes = st.sampled_from([(3,), (3,), (0,), (2,), (3, 2), ()])
    labels = arrays(shapes, st.sampled_from(["i4", "i4", "u1", "bool", "f4", "U3", "O"]))
    try:
        return function(draw(labels), draw(labels))
    except (ValueError, TypeError) as error:  # metrics stand alone: no exceptions of funcnet's
        named = ("y_true", "y_pred", "average=", "pos_label")
        assert any(name in str(error) for name in named)  # noqa: PT017


def call_seeds(draw):
    keys = draw(st.one_of(KEYS, arrays()))
    train = draw(st.sampled_from([jax.random.uniform, None, 3]))
    if isinstance(keys, jax.Array) and jnp.issubdtype(keys.dtype, jax.dtypes.prng_key):
        train = None  # what is valid would compile
    return fn.map_seeds(train, keys)


CALLS = {
    "fit": call_fit,
    "run": call_run,
    "model": call_model,
    "op": call_op,
    "loss": call_loss,
    "summary and backward": call_looking,
    "metrics": call_metrics,
    "map_seeds": call_seeds,
}


class StartedError(Exception):
    """Every check was passed."""


def started(*arguments):
    raise StartedError


def check(name, data):
    """Call, and let only what is documented come out of it."""
    with pytest.MonkeyPatch.context() as patched, contextlib.redirect_stdout(None):
        patched.setattr(fitting, "train_donating", started)
        patched.setattr(fitting, "_result", started)  # no epochs
        try:
            CALLS[name](data.draw)
        except (FuncnetError, StartedError) as error:
            assert str(error) or isinstance(error, StartedError)  # noqa: PT017


@pytest.mark.parametrize("name", CALLS)
@FAST
@given(st.data())
def test_some_calls(name, data):
    check(name, data)


@pytest.mark.slow
@pytest.mark.parametrize("name", CALLS)
@SLOW
@given(st.data())
def test_many_calls(name, data):
    check(name, data)


@contextlib.contextmanager
def divergence_is_no_surprise():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        yield


@pytest.mark.slow
@settings(max_examples=200, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_what_is_trained_is_finite(data):
    """No result with NaN or infinity in it is returned as good."""
    draw = data.draw
    x = draw(hnp.arrays("f4", (6, 2), elements=st.floats(-(2.0**127), 2.0**127, width=32)))
    y = draw(hnp.arrays("i4", 6, elements=st.sampled_from([0, 1, 2, -100])))
    optimizer = draw(st.sampled_from(TRAINED_WITH))
    model = fn.Sequential(fn.Linear(2, 4), fn.ReLU(), fn.Linear(4, 3))
    with divergence_is_no_surprise():
        try:
            result = fn.fit(
                model,
                fn.CrossEntropyLoss(),
                optimizer,
                (x, y),
                epochs=2,
                batch_size=draw(st.sampled_from([2, 4])),
                key=jax.random.key(draw(st.integers(0, 3))),
                progress=False,
                on_divergence=draw(st.sampled_from(["raise", "keep"])),
            )
        except fn.DivergenceError as error:
            result = error.result
            assert error.epoch == result.history["diverged_at"] >= 0  # noqa: PT017
        except FuncnetError:
            assert (y == -100).all()
            return
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(result.params))
    assert np.isfinite(result.history["loss"]).all()
    diverged = int(result.history["diverged_at"])
    assert len(result.history["loss"]) == (2 if diverged < 0 else diverged)


TRAINED_WITH = [optax.sgd(0.1), optax.adam(0.1), optax.sgd(1e20), optax.sgd(np.nan)]
