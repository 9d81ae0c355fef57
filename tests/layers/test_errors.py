"""Bad input to layers that normalise, drop or look up stops, and the message says the mend."""

# Wrong arguments are the point here.
# pyright: reportArgumentType=false, reportCallIssue=false

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import funcnet as fn
from funcnet import ops
from funcnet.errors import ConfigError, DataError, DtypeError, ParamsError, ShapeError

KEY = jax.random.key(0)
X = jnp.ones((4, 3))
BATCH, STATS = fn.BatchNorm1d(3), (jnp.zeros(3), jnp.ones(3))


def applied(layer, x=X, params=None, state=None, **options):
    """Alone, and as layer 1 of a model: there the message says so too."""
    made = layer.init(KEY)
    params = made[0] if params is None else params
    state = made[1] if state is None else state
    return fn.Sequential(fn.Sequential(), layer).apply(((), params), ((), state), x, **options)


def fit(x, layer, **options):
    model = fn.Sequential(layer, fn.Linear(3, 2))
    y = np.arange(len(x)) % 2
    loss = fn.CrossEntropyLoss()
    return fn.fit(model, loss, optax.sgd(0.1), (x, y), epochs=1, key=KEY, progress=False, **options)


CASES = {
    "channels": (
        ShapeError,
        ("layer 1: ", "BatchNorm1d(num_features=2", "(4, 3)", "(batch, 2)", "num_features=3"),
        lambda: applied(fn.BatchNorm1d(2)),
    ),
    "images for features": (
        ShapeError,
        ("BatchNorm1d(", "(1, 2, 2, 3)", "(batch, 3) or (batch, time, 3)"),
        lambda: applied(BATCH, jnp.ones((1, 2, 2, 3))),
    ),
    "features for images": (
        ShapeError,
        ("BatchNorm2d(", "(4, 3)", "(batch, height, width, 3)", "channels last"),
        lambda: applied(fn.BatchNorm2d(3)),
    ),
    "one example in training": (
        ShapeError,
        ("layer 1: ", "(1, 3)", "at least 2", "batch_size", "train=False"),
        lambda: applied(BATCH, X[:1], train=True),
    ),
    "one example, no running statistics": (
        ShapeError,
        ("(1, 3)", "at least 2"),
        lambda: applied(fn.BatchNorm1d(3, track_running_stats=False), X[:1]),
    ),
    "one example left over by the batches": (
        ShapeError,
        ("layer 0: ", "BatchNorm1d(", "(1, 3)", "batch_size"),
        lambda: fit(np.ones((5, 3), np.float32), BATCH, batch_size=2),
    ),
    "integers": (DtypeError, ("layer 1: ", "int32"), lambda: applied(BATCH, jnp.ones((4, 3), int))),
    "no state": (
        ParamsError,
        ("layer 1: ", "got state tuple of 0", "running_mean: [3]", "model.init(key)"),
        lambda: applied(BATCH, state=()),
    ),
    "another state": (
        ParamsError,
        ("running_var: [2]", "expected {running_mean: [3]"),
        lambda: applied(BATCH, state=fn.BatchNorm1d(2).init(KEY)[1]),
    ),
    "state for none": (
        ParamsError,
        ("expected ()",),
        lambda: applied(fn.BatchNorm1d(3, track_running_stats=False), state=BATCH.init(KEY)[1]),
    ),
    "params for none": (
        ParamsError,
        ("affine=False", "weight: [3]", "expected ()"),
        lambda: applied(fn.BatchNorm1d(3, affine=False), params=BATCH.init(KEY)[0]),
    ),
    "features of LayerNorm": (
        ShapeError,
        ("layer 1: ", "LayerNorm(", "(4, 3)", "(..., 4, 2)", "normalized_shape"),
        lambda: applied(fn.LayerNorm((4, 2))),
    ),
    "features of RMSNorm": (ShapeError, ("RMSNorm(", "(..., 2)"), lambda: applied(fn.RMSNorm(2))),
    "channels of GroupNorm": (
        ShapeError,
        ("layer 1: ", "GroupNorm(", "(batch, ..., 4)"),
        lambda: applied(fn.GroupNorm(2, 4)),
    ),
    "no batch for GroupNorm": (
        ShapeError,
        ("(4,)", "(batch, ..., 4)"),
        lambda: applied(fn.GroupNorm(2, 4), jnp.ones(4)),
    ),
    "groups that leave channels over": (
        ConfigError,
        ("num_groups is 2", "num_channels=3"),
        lambda: fn.GroupNorm(2, 3),
    ),
    "no channels": (ConfigError, ("num_features is 0",), lambda: fn.BatchNorm2d(0)),
    "an eps below 0": (ConfigError, ("eps is -1",), lambda: fn.BatchNorm1d(3, eps=-1)),
    "a momentum of 2": (ConfigError, ("momentum is 2",), lambda: fn.BatchNorm1d(3, momentum=2)),
    "affine 1": (ConfigError, ("affine is 1", "True"), lambda: fn.BatchNorm1d(3, affine=1)),
    "no shape": (ConfigError, ("normalized_shape is ()",), lambda: fn.LayerNorm(())),
    "a shape of 0": (ConfigError, ("normalized_shape is 0",), lambda: fn.RMSNorm((3, 0))),
    "no key": (
        DtypeError,
        ("layer 1: ", "Dropout(p=0.5): ", "no key", "key=jax.random.key(0)"),
        lambda: applied(fn.Dropout(), train=True),
    ),
    "a p of 1.5": (ConfigError, ("p is 1.5", "[0, 1]"), lambda: fn.Dropout(1.5)),
    "a p of True": (ConfigError, ("p is True",), lambda: fn.Dropout(True)),
    "an op without a key": (DtypeError, ("dropout: ", "key="), lambda: ops.dropout(X)),
    "an op with an integer as key": (DtypeError, ("key is int",), lambda: ops.dropout(X, key=3)),
    "an integer without a vector": (
        DataError,
        ("layer 1: ", "Embedding(num_embeddings=5", "got 5 at [1]", "0 to 4"),
        lambda: applied(fn.Embedding(5, 3), jnp.array([0, 5])),
    ),
    "an integer without a vector, in fit": (
        DataError,
        ("layer 0: ", "Embedding(", "got -1 at [2]", "num_embeddings"),
        lambda: fit(np.array([0, 1, -1, 3]), fn.Embedding(5, 3)),
    ),
    "floats to look up": (
        DtypeError,
        ("layer 1: ", "Embedding(", "float32[4, 3]", "jnp.int32"),
        lambda: applied(fn.Embedding(5, 3)),
    ),
    "a list to look up": (DtypeError, ("list",), lambda: applied(fn.Embedding(5, 3), [0, 1])),
    "a padding_idx that is no row": (
        ConfigError,
        ("padding_idx is 5", "-5 to 4"),
        lambda: fn.Embedding(5, 3, padding_idx=5),
    ),
    "batch_norm's statistics": (
        ShapeError,
        ("batch_norm: running_var has shape (2,)", "(3,)"),
        lambda: ops.batch_norm(X, jnp.ones(3), jnp.ones(2)),
    ),
    "batch_norm without statistics": (
        ConfigError,
        ("running_mean and running_var is None", "training"),
        lambda: ops.batch_norm(X, None, None),
    ),
    "batch_norm of one row": (
        ShapeError,
        ("(1, 3)", "at least 2"),
        lambda: ops.batch_norm(X[:1], *STATS, training=True),
    ),
    "layer_norm's weight": (
        ShapeError,
        ("layer_norm: weight has shape (2,)", "(3,)"),
        lambda: ops.layer_norm(X, 3, jnp.ones(2)),
    ),
    "group_norm's groups": (
        ShapeError,
        ("group_norm: ", "2 groups"),
        lambda: ops.group_norm(X, 2),
    ),
    "embedding's table": (
        ShapeError,
        ("weight has shape (3,)", "(num_embeddings, embedding_dim)"),
        lambda: ops.embedding(jnp.array([0]), jnp.ones(3)),
    ),
    "embedding of floats": (DtypeError, ("float32",), lambda: ops.embedding(X, X)),
}


@pytest.mark.parametrize("name", CASES)
def test_stopped_with_a_message(name):
    error, says, call = CASES[name]
    with pytest.raises(error) as raised:
        call()
    for piece in says:
        assert piece in str(raised.value)


def test_dropout_of_nothing_and_in_evaluation_needs_no_key():
    np.testing.assert_array_equal(applied(fn.Dropout(0), train=True).value, X)
    np.testing.assert_array_equal(applied(fn.Dropout()).value, X)


def test_an_integer_without_a_vector_is_nan_under_jit():
    layer = fn.Embedding(5, 3)
    y = jax.jit(layer.apply)(*layer.init(KEY), jnp.array([0, 5])).value
    np.testing.assert_array_equal(np.isnan(y), [[False] * 3, [True] * 3])
