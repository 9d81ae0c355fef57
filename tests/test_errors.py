"""Bad input stops before training, with funcnet's own exception that says what to mend.

Each case is a mistake, the exception expected, and pieces of its message: what came, what was
expected, the mend, and for a layer its index and repr. No case may reach the compiled program.
"""

# Wrong arguments are the point here.
# pyright: reportArgumentType=false, reportCallIssue=false

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import funcnet as fn
from funcnet import ops
from funcnet.errors import (
    ConfigError,
    DataError,
    DtypeError,
    FuncnetError,
    ParamsError,
    ShapeError,
)
from funcnet.training import fit as fitting
from funcnet.training import trainer as training

KEY = jax.random.key(0)
X = np.linspace(-1, 1, 20, dtype=np.float32).reshape(10, 2)
LABELS = np.arange(10) % 3
ONE_HOT = np.eye(3, dtype=np.float32)[LABELS]
MODEL = fn.Sequential(fn.Linear(2, 4), fn.Sequential(fn.ReLU(), fn.Linear(4, 3)))
FIRST, LAST = repr(fn.Linear(2, 4)), repr(fn.Linear(4, 3))
CE, MSE = fn.CrossEntropyLoss(), fn.MSELoss()
CE_EACH = fn.CrossEntropyLoss(reduction="none")
SGD = optax.sgd(0.1)


def per_example(prediction, target):
    return CE_EACH(prediction, target)


@pytest.fixture(autouse=True)
def nothing_runs(monkeypatch):
    """`Trainer.run` is traced and no further; `fit` may not even come to that."""

    def trace_only(trainer, *arguments):
        jax.eval_shape(partial(training._train_epochs, trainer), *arguments)
        pytest.fail("training would have started")

    monkeypatch.setattr(training, "_train", trace_only)
    monkeypatch.setattr(fitting, "train_donating", lambda *_: pytest.fail("training has started"))


def fit(data=(X, LABELS), model=MODEL, loss: Any = CE, optimizer: Any = SGD, **options):
    options = {"epochs": 1, "key": KEY, "progress": False} | options
    return fn.fit(model, loss, optimizer, data, **options)


def run(data=(X, LABELS), model=MODEL, loss: Any = CE, optimizer: Any = SGD, **options):
    epochs = options.pop("epochs", 1)
    trainer = fn.Trainer(model, loss, optimizer, options.pop("batch_size", 4))
    return trainer.run(trainer.init(options.pop("key", KEY), **options), data, epochs)


class Case(NamedTuple):
    error: type[FuncnetError]
    says: tuple[str, ...]
    arguments: dict[str, Any]


def case(error, *says, **arguments):
    return Case(error, says, arguments)


def check(error: type[FuncnetError], says: tuple[str, ...], call: Callable[[], Any]):
    with pytest.raises(error) as raised:
        call()
    assert isinstance(raised.value, ValueError | TypeError)
    for piece in says:
        assert piece in str(raised.value)


class Framelike:
    """A container that numpy can convert, as pandas' are."""

    def __init__(self, values):
        self.values = values

    def __array__(self, dtype=None, copy=None):
        return np.asarray(self.values, dtype)


@dataclasses.dataclass(frozen=True)
class Own(fn.Module):
    """A layer that returns what it is told to."""

    made: Any = ((), ())
    returned: Callable[..., Any] = lambda state, x: (x, state)

    def init(self, key, dtype=jnp.float32):
        return self.made

    def apply(self, params, state, x, *, key=None, train=False):
        return self.returned(state, x)


@dataclasses.dataclass(frozen=True)
class HoldsArray(fn.Module):
    scale: Any = dataclasses.field(default_factory=lambda: np.ones(2))


def two_layers(*layers):
    return fn.Sequential(fn.Linear(2, 3), *layers)


# Stopped by the shapes, dtypes and types alone: `fit` and `Trainer.run` must both.
STATIC = {
    "features, first layer": case(
        ShapeError,
        *("layer 0: ", FIRST, "(10, 5)", "(..., 2)", "in_features=5"),
        data=(np.ones((10, 5), np.float32), LABELS),
        batch_size=10,
    ),
    "features, next layer": case(
        ShapeError,
        *("layer 2: ", "Linear(in_features=4, out_features=3", "(..., 4)", "in_features=3"),
        model=two_layers(fn.ReLU(), fn.Linear(4, 3)),
    ),
    "features, nested layer": case(
        ShapeError,
        *("layer 1.1: ", "Linear(in_features=4, out_features=3", "(..., 4)", "in_features=3"),
        model=two_layers(fn.Sequential(fn.ReLU(), fn.Linear(4, 3))),
    ),
    "no features": case(
        ShapeError, "layer 0: ", FIRST, "0)", "(..., 2)", "reshape", data=(X[:, :0], LABELS)
    ),
    "features of rank 1": case(
        ShapeError, "layer 0: ", FIRST, "(..., 2), features last", data=(X[:, 0], LABELS)
    ),
    "integer features": case(
        DtypeError,
        *("layer 0: ", FIRST, "int32", "x.astype(jnp.float32)"),
        data=(np.ones((10, 2), np.int32), LABELS),
    ),
    "boolean features": case(
        DtypeError, "layer 0: ", FIRST, "bool", "x.astype", data=(X > 0, LABELS)
    ),
    "complex features": case(
        DtypeError, "data's x", "complex64", "np.asarray(x", data=(X + 0j, LABELS)
    ),
    "complex JAX features": case(
        DtypeError, "layer 0: ", FIRST, "complex64", data=(jnp.asarray(X) + 0j, LABELS)
    ),
    "string features": case(
        DtypeError, "data's x", "<U", "np.asarray(x", data=(X.astype(str), LABELS)
    ),
    "object features": case(
        DtypeError, "data's x", "object", "np.asarray(x", data=(X.astype(object), LABELS)
    ),
    "datetime features": case(
        DtypeError, "data's x", "datetime64", data=(X.astype("datetime64[s]"), LABELS)
    ),
    "structured features": case(
        DtypeError, "data's x", "[('a', '<f4')]", data=(np.zeros(10, [("a", "f4")]), LABELS)
    ),
    "keys as features": case(
        DtypeError, "layer 0: ", FIRST, "key<", data=(jax.random.split(KEY, 10), LABELS)
    ),
    "text as features": case(DtypeError, "data's x", "<U", data=("ten rows", LABELS)),
    "a set as features": case(DtypeError, "data's x", "object", data=({1.0, 2.0}, LABELS)),
    "a generator of rows": case(
        DtypeError, "data's x", "object", data=((row for row in X), LABELS)
    ),
    "ragged features": case(ShapeError, "data's x", "ragged", data=([[1.0, 2.0], [3.0]], [0, 1])),
    "ragged labels": case(ShapeError, "data's y", "ragged", data=(X[:2], [[0], [0, 1]])),
    "object labels": case(DtypeError, "data's y", "object", data=(X, LABELS.astype(object))),
    "string labels": case(DtypeError, "data's y", "<U", data=(X, LABELS.astype(str))),
    "keys as labels": case(
        DtypeError, "cross_entropy", "key<", "labels", data=(X, jax.random.split(KEY, 10))
    ),
    "boolean labels": case(
        DtypeError, "cross_entropy", "bool", "integer labels", "astype", data=(X, LABELS > 0)
    ),
    "floating labels": case(
        ShapeError,
        *("cross_entropy", "float32", "target.astype(jnp.int32)"),
        data=(X, LABELS.astype(np.float32)),
    ),
    "labels of rank 2": case(
        ShapeError,
        *("cross_entropy", "int32[10, 1]", "labels of shape (10,)", "reshape"),
        data=(X, LABELS[:, None].astype(np.int32)),
        batch_size=10,
    ),
    "integer one-hot": case(
        ShapeError,
        *("cross_entropy", "int32[10, 3]", "labels of shape (10,)", "argmax(axis=-1)"),
        data=(X, ONE_HOT.astype(np.int32)),
        batch_size=10,
    ),
    "one-hot of other classes": case(
        ShapeError,
        *("cross_entropy", "float32[10, 4]", "(10, 3)"),
        data=(X, np.ones((10, 4), np.float32)),
        batch_size=10,
    ),
    "labels for MSE": case(DtypeError, "mse_loss", "int32", "jax.nn.one_hot(target, 3)", loss=MSE),
    "integer one-hot for MSE": case(
        DtypeError,
        *("mse_loss", "int32", "target.astype(jnp.float32)"),
        loss=MSE,
        data=(X, ONE_HOT.astype(np.int32)),
    ),
    "a column short for MSE": case(
        ShapeError,
        *("mse_loss", "(10, 3)", "(10, 2)", "reshape"),
        loss=MSE,
        data=(X, ONE_HOT[:, :2]),
        batch_size=10,
    ),
    "complex targets": case(DtypeError, "data's y", "complex64", loss=MSE, data=(X, ONE_HOT + 0j)),
    "None as data": case(DataError, "NoneType", "a pair of arrays: (x, y)", data=None),
    "one array as data": case(DataError, "ndarray", "(x, y)", data=X),
    "three arrays": case(DataError, "3 entries", "(x, y)", data=(X, LABELS, LABELS)),
    "rows and labels zipped": case(
        DataError, "10 entries", "(x, y)", data=list(zip(X, LABELS, strict=True))
    ),
    "a dict as data": case(DataError, "dict", "(x, y)", data={"x": X, "y": LABELS}),
    "a generator as data": case(DataError, "generator", "(x, y)", data=(a for a in (X, LABELS))),
    "None as features": case(DtypeError, "data's x is None", data=(None, LABELS)),
    "None as labels": case(DtypeError, "data's y is None", data=(X, None)),
    "0-d features": case(ShapeError, "data's x", "single number", data=(np.float32(1), LABELS)),
    "0-d labels": case(ShapeError, "data's y", "single number", data=(X, np.int32(1))),
    "x longer than y": case(
        ShapeError, "10 examples", "y has 9", "(10, 2)", "(9,)", data=(X, LABELS[:9])
    ),
    "an empty set": case(DataError, "empty", "(0, 2)", data=(X[:0], LABELS[:0])),
    "masked features": case(
        DataError, "data's x", "masked", "fill", data=(np.ma.masked_array(X, X > 0), LABELS)
    ),
    "masked labels": case(
        DataError, "data's y", "masked", data=(X, np.ma.masked_array(LABELS, LABELS > 0))
    ),
    "a label that 32 bits cannot hold": case(
        DataError,
        *("data's y is 4294967296 at [9]", "int32", "jax_enable_x64"),
        data=(X, np.array([0] * 9 + [2**32])),
    ),
    "an unsigned one": case(
        DataError,
        *("data's y is 9223372036854775808 at [0]", "uint32"),
        data=(X, np.array([2**63] * 10, np.uint64)),
    ),
    "batch size 0": case(ConfigError, "batch_size is 0", "at least 1", batch_size=0),
    "batch size -1": case(ConfigError, "batch_size is -1", "at least 1", batch_size=-1),
    "batch size 2.0": case(ConfigError, "batch_size is 2.0", "integer", batch_size=2.0),
    "batch size True": case(ConfigError, "batch_size is True", "integer", batch_size=True),
    "batch size '4'": case(ConfigError, "batch_size is '4'", "integer", batch_size="4"),
    "batch size None": case(ConfigError, "batch_size is None", "integer", batch_size=None),
    "batch size [4]": case(ConfigError, "batch_size", "integer", batch_size=np.array([4])),
    "epochs -1": case(ConfigError, "epochs is -1", "expected 0", epochs=-1),
    "epochs 1.5": case(ConfigError, "epochs is 1.5", "integer", epochs=1.5),
    "epochs True": case(ConfigError, "epochs is True", "integer", epochs=True),
    "epochs None": case(ConfigError, "epochs is None", "integer", epochs=None),
    "epochs '3'": case(ConfigError, "epochs is '3'", "integer", epochs="3"),
    "epochs 2**31": case(ConfigError, "epochs is 2147483648", "2**31 - 1", epochs=2**31),
    "an integer as key": case(DtypeError, "key is int", "jax.random.key(0)", key=0),
    "None as key": case(DtypeError, "key is NoneType", "jax.random.key(0)", key=None),
    "a legacy key": case(DtypeError, "uint32[2]", "jax.random.key(0)", key=jax.random.PRNGKey(0)),
    "two keys": case(ShapeError, "(2,)", "key[0]", "map_seeds", key=jax.random.split(KEY, 2)),
    "one key in an array": case(ShapeError, "(1,)", "key[0]", key=jax.random.split(KEY, 1)),
    "a class as model": case(ConfigError, "Linear", "instance of funcnet.Module", model=fn.Linear),
    "a list as model": case(ConfigError, "instance of funcnet.Module", model=[fn.Linear(2, 3)]),
    "None as model": case(ConfigError, "model is None", model=None),
    "a model that holds an array": case(
        ConfigError, "model is not hashable", "no arrays", model=two_layers(HoldsArray())
    ),
    "a step size as optimizer": case(
        ConfigError, "optimizer is 0.1", "optax.sgd(0.03)", optimizer=0.1
    ),
    "an optimizer not called": case(
        ConfigError, "optimizer is <function sgd", "optax.sgd(0.03)", optimizer=optax.sgd
    ),
    "a name as loss": case(ConfigError, "loss is 'mse'", "MSELoss()", loss="mse"),
    "a class as loss": case(ConfigError, "MSELoss", "MSELoss()", loss=fn.MSELoss),
    "None as loss": case(ConfigError, "loss is None", loss=None),
    "a loss per example": case(
        ShapeError,
        *("shape (10,)", "one number", "reduction='mean'"),
        loss=fn.CrossEntropyLoss(reduction="none"),
        batch_size=10,
    ),
    "a function's loss per example": case(
        ShapeError,
        *("shape (10,)", "jnp.mean(per_example(prediction, y))"),
        loss=per_example,
        batch_size=10,
    ),
    "a loss that is an integer": case(
        DtypeError, "int32[]", "floating", loss=lambda _, target: target.sum()
    ),
    "a loss that is a float": case(DtypeError, "float", "array", loss=lambda *_: 3.0),
    "a loss that is a pair": case(
        DtypeError, "tuple", "one floating number", loss=lambda p, _: (p.sum(), 0)
    ),
    "weights of other classes": case(
        ShapeError,
        *("cross_entropy", "weight has shape (2,)", "(3,)", "one weight a class"),
        loss=fn.CrossEntropyLoss(weight=[1, 2]),
    ),
    "a layer that returns no pair": case(
        DtypeError,
        *("layer 1: ", "Own(", "apply returned [10, 3]", "(output, state)"),
        model=two_layers(Own(returned=lambda state, x: x)),
        batch_size=10,
    ),
    "a layer that returns nothing": case(
        DtypeError,
        *("Own(", "apply returned NoneType", "(output, state)"),
        model=Own(returned=lambda state, x: None),
    ),
    "an init that returns no pair": case(
        DtypeError,
        *("layer 1: ", "init returned str", "(params, state)"),
        model=two_layers(Own(made="weight")),
    ),
    "a state that changes its dtype": case(
        ParamsError,
        *("state changed", "'int32[]'", "'float32[]'"),
        model=two_layers(Own(((), 0), lambda state, x: (x, jnp.float32(state)))),
    ),
    "a state that changes its structure": case(
        ParamsError,
        *("state changed", "int32[]", "'n'"),
        model=two_layers(Own(((), 0), lambda state, x: (x, {"n": state}))),
    ),
    "an op's error inside a layer of one's own": case(
        ShapeError,
        *("layer 1, Own(", "linear: x has shape", "(3, 7)"),
        model=two_layers(Own(returned=lambda s, x: (ops.linear(x, jnp.ones((3, 7))), s))),
    ),
    "dtype int32": case(DtypeError, "dtype is", "jnp.float32", dtype=jnp.int32),
    "dtype None": case(DtypeError, "dtype is None", "jnp.float32", dtype=None),
    "dtype 'single'": case(DtypeError, "dtype is 'sngle'", "jnp.float32", dtype="sngle"),
    "dtype float8": case(DtypeError, "float8", "jnp.bfloat16", dtype=jnp.float8_e4m3fn),
    "dtype float64": case(DtypeError, "float64", "jax_enable_x64", dtype=jnp.float64),
}


@pytest.mark.parametrize("name", STATIC)
@pytest.mark.parametrize("train", [fit, run])
def test_stopped_by_shapes_and_types(train, name):
    error, says, arguments = STATIC[name]
    check(error, says, lambda: train(**arguments))


def with_entry(array, place, value):
    changed = np.array(array)
    changed[place] = value
    return changed


# Stopped by the values, which `fit` alone looks at, and by what `fit` alone takes.
VALUES = {
    "NaN in x": case(
        DataError,
        *("data's x is nan at [3, 1]", "1 places", "remove"),
        data=(with_entry(X, (3, 1), np.nan), LABELS),
    ),
    "NaN in a JAX array": case(
        DataError,
        *("data's x is nan at [3, 1]",),
        data=(jnp.asarray(X).at[3, 1].set(jnp.nan), LABELS),
    ),
    "infinity in x": case(
        DataError, "data's x is -inf at [0, 0]", data=(with_entry(X, (0, 0), -np.inf), LABELS)
    ),
    "NaN in y": case(
        DataError,
        "data's y is nan at [9, 2]",
        loss=MSE,
        data=(X, with_entry(ONE_HOT, (9, 2), np.nan)),
    ),
    "NaN in probabilities": case(
        DataError, "data's y is nan at [9, 2]", data=(X, with_entry(ONE_HOT, (9, 2), np.nan))
    ),
    "NaN in a list": case(
        DataError,
        "data's x is nan at [1, 0]",
        data=([[1.0, 2.0], [float("nan"), 0.0]], [0, 1]),
    ),
    "too large for float32": case(
        DataError,
        *("data's x is 1e+300 at [2, 0]", "float32"),
        data=(with_entry(X.astype(np.float64), (2, 0), 1e300), LABELS),
    ),
    "too large for bfloat16": case(
        DataError,
        *("data's x is 3.4e+38 at [2, 0]", "bfloat16"),
        data=(with_entry(X, (2, 0), 3.4e38), LABELS),
        dtype=jnp.bfloat16,
    ),
    "too large for float16": case(
        DataError,
        *("data's x is 100000 at [2, 0]", "float16"),
        data=(with_entry(X, (2, 0), 1e5), LABELS),
        dtype=jnp.float16,
    ),
    "a label too large": case(
        DataError,
        *("CrossEntropyLoss(", "label 3 at [4]", "0 to 2", "count labels from 0"),
        data=(X, with_entry(LABELS, 4, 3)),
    ),
    "a negative label": case(
        DataError, "label -1 at [4]", "0 to 2", data=(X, with_entry(LABELS, 4, -1))
    ),
    "an unsigned label": case(
        DataError, "label 255 at [4]", "0 to 2", data=(X, with_entry(np.uint8(LABELS), 4, 255))
    ),
    "ignore_index of another loss": case(
        DataError,
        *("label -100 at [4]", "ignore_index=7"),
        loss=fn.CrossEntropyLoss(ignore_index=7),
        data=(X, with_entry(LABELS, 4, -100)),
    ),
    "validation of other features": case(
        ShapeError,
        *("validation: layer 0: ", FIRST, "(10, 5)"),
        validation=(np.ones((10, 5), np.float32), LABELS),
    ),
    "validation of other classes": case(
        DataError, "validation: CrossEntropyLoss(", "label 3", validation=(X, LABELS + 1)
    ),
    "validation with NaN": case(
        DataError, "validation's x is nan", validation=(X * np.nan, LABELS)
    ),
    "validation without examples": case(
        DataError, "validation is empty", validation=(X[:0], LABELS[:0])
    ),
    "validation that is no pair": case(DataError, "validation is ndarray", validation=X),
    "patience without validation": case(
        ConfigError, "patience", "pass validation=(x, y)", patience=3
    ),
    "patience 0": case(ConfigError, "patience is 0", patience=0, validation=(X, LABELS)),
    "patience 1.5": case(ConfigError, "patience is 1.5", patience=1.5, validation=(X, LABELS)),
    "patience True": case(ConfigError, "patience is True", patience=True, validation=(X, LABELS)),
}


@pytest.mark.parametrize("name", VALUES)
def test_stopped_by_values(name):
    error, says, arguments = VALUES[name]
    check(error, says, lambda: fit(**arguments))


LINEAR = fn.Linear(2, 4)
PARAMS, STATE = MODEL.init(KEY)
OTHER = fn.Sequential(fn.Linear(2, 5), fn.Sequential(fn.ReLU(), fn.Linear(5, 3)))
TRAINER = fn.Trainer(MODEL, CE, SGD, batch_size=4)


def tracing(call):
    """What a call under jit raises: tracing must be enough to find the mistake."""
    return lambda: jax.eval_shape(call)


def retrain(trainer=TRAINER, **changes):
    begun = TRAINER.init(KEY)
    return trainer.run(begun._replace(**changes), (X, LABELS), 1)


CALLS = {
    "layer size 0": case(ConfigError, "Linear's in_features is 0", call=lambda: fn.Linear(0, 3)),
    "layer size -1": case(ConfigError, "out_features is -1", call=lambda: fn.Linear(2, -1)),
    "layer size 2.0": case(ConfigError, "in_features is 2.0", call=lambda: fn.Linear(2.0, 3)),
    "layer size True": case(ConfigError, "in_features is True", call=lambda: fn.Linear(True, 3)),
    "layer size '2'": case(ConfigError, "in_features is '2'", call=lambda: fn.Linear("2", 3)),
    "layer size None": case(ConfigError, "out_features is None", call=lambda: fn.Linear(2, None)),
    "bias 1": case(ConfigError, "bias is 1", "True or False", call=lambda: fn.Linear(2, 3, 1)),
    "bias None": case(ConfigError, "bias is None", call=lambda: fn.Linear(2, 3, bias=None)),
    "a class in Sequential": case(
        ConfigError, "layer 1", "ReLU(...)", call=lambda: fn.Sequential(LINEAR, fn.ReLU)
    ),
    "a list in Sequential": case(
        ConfigError, "layer 0", "Sequential(*layers)", call=lambda: fn.Sequential([LINEAR])
    ),
    "a string in Sequential": case(
        ConfigError, "layer 1", "instance of", call=lambda: fn.Sequential(LINEAR, "tanh")
    ),
    "None in Sequential": case(ConfigError, "layer 0", "None", call=lambda: fn.Sequential(None)),
    "MSE's reduction": case(ConfigError, "'avg'", "'mean'", call=lambda: fn.MSELoss("avg")),
    "MSE's reduction None": case(ConfigError, "None", "'mean'", call=lambda: fn.MSELoss(None)),
    "MSE's reduction, an array": case(
        ConfigError, "array", "'mean'", call=lambda: fn.MSELoss(np.array(["mean", "sum"]))
    ),
    "cross entropy's reduction": case(
        ConfigError, "'max'", "'mean'", call=lambda: fn.CrossEntropyLoss(reduction="max")
    ),
    "smoothing 1.5": case(
        ConfigError, "1.5", "[0, 1]", call=lambda: fn.CrossEntropyLoss(label_smoothing=1.5)
    ),
    "smoothing -0.1": case(
        ConfigError, "-0.1", "[0, 1]", call=lambda: fn.CrossEntropyLoss(label_smoothing=-0.1)
    ),
    "smoothing NaN": case(
        ConfigError, "nan", "[0, 1]", call=lambda: fn.CrossEntropyLoss(label_smoothing=np.nan)
    ),
    "smoothing '0.1'": case(
        ConfigError, "'0.1'", "[0, 1]", call=lambda: fn.CrossEntropyLoss(label_smoothing="0.1")
    ),
    "smoothing True": case(
        ConfigError, "True", "[0, 1]", call=lambda: fn.CrossEntropyLoss(label_smoothing=True)
    ),
    "ignore_index None": case(
        ConfigError, "ignore_index is None", call=lambda: fn.CrossEntropyLoss(ignore_index=None)
    ),
    "ignore_index 1.0": case(
        ConfigError, "ignore_index is 1.0", call=lambda: fn.CrossEntropyLoss(ignore_index=1.0)
    ),
    "a reduction for weights": case(
        ConfigError, "weight is 'mean'", call=lambda: fn.CrossEntropyLoss("mean")
    ),
    "weights below 0": case(
        ConfigError, "[1, -2]", ">= 0", call=lambda: fn.CrossEntropyLoss(weight=[1, -2])
    ),
    "weights NaN": case(
        ConfigError, "nan", "finite", call=lambda: fn.CrossEntropyLoss(weight=[1, np.nan])
    ),
    "weights of rank 2": case(
        ConfigError, "weight is", call=lambda: fn.CrossEntropyLoss(weight=[[1.0, 2.0]])
    ),
    "ragged weights": case(
        ConfigError, "weight is", call=lambda: fn.CrossEntropyLoss(weight=[[1.0], [1.0, 2.0]])
    ),
    "no weights": case(ConfigError, "weight is []", call=lambda: fn.CrossEntropyLoss(weight=[])),
    "an integer to init": case(
        DtypeError, "key is int", "jax.random.key(0)", call=lambda: MODEL.init(0)
    ),
    "an integer to a stateless init": case(
        DtypeError, "key is int", call=lambda: fn.ReLU().init(0)
    ),
    "an integer dtype to init": case(
        DtypeError, "dtype is", "float32", call=lambda: MODEL.init(KEY, jnp.int32)
    ),
    "params of another model": case(
        ParamsError,
        *("layer 0: ", FIRST, "weight: [5, 2]", "weight: [4, 2]", "model.init(key)"),
        call=lambda: MODEL.apply(*OTHER.init(KEY), jnp.asarray(X)),
    ),
    "params in a list": case(
        ParamsError,
        *("params of list", "tuple of 2", "model.init(key)"),
        call=lambda: MODEL.apply(list(PARAMS), STATE, X),
    ),
    "params missing": case(
        ParamsError, "NoneType", "tuple of 2", call=lambda: MODEL.apply(None, STATE, X)
    ),
    "params for too few layers": case(
        ParamsError, "1 entries", "tuple of 2", call=lambda: MODEL.apply(PARAMS[:1], STATE, X)
    ),
    "params for a layer without": case(
        ParamsError,
        *("ReLU() got params", "expected ()"),
        call=lambda: fn.ReLU().apply(PARAMS[0], (), X),
    ),
    "a bias too many": case(
        ParamsError,
        *("bias=False", "bias: [4]", "expected {weight: [4, 2]}"),
        call=lambda: fn.Linear(2, 4, bias=False).apply(PARAMS[0], (), X),
    ),
    "a bias too few": case(
        ParamsError,
        *(FIRST, "got params {weight: [4, 2]}", "bias: [4]"),
        call=lambda: LINEAR.apply({"weight": PARAMS[0]["weight"]}, (), X),
    ),
    "params that are lists": case(
        ParamsError,
        *(FIRST, "weight: list"),
        call=lambda: LINEAR.apply({"weight": [[1.0] * 2] * 4, "bias": [0.0] * 4}, (), X),
    ),
    "integer params": case(
        DtypeError,
        *(FIRST, "weight is int32", "astype(jnp.float32)"),
        call=lambda: LINEAR.apply({"weight": np.ones((4, 2), np.int32), "bias": X[:4, 0]}, (), X),
    ),
    "state of another model": case(
        ParamsError, "state", "tuple of 2", call=lambda: MODEL.apply(PARAMS, ((),), X)
    ),
    "state missing": case(
        ParamsError, "NoneType", "tuple of 2", call=lambda: MODEL.apply(PARAMS, None, X)
    ),
    "state for a layer without": case(
        ParamsError,
        *("layer 0: ", FIRST, "got state {n: []}", "expected ()"),
        call=lambda: MODEL.apply(PARAMS, ({"n": jnp.int32(0)}, ((), ())), X),
    ),
    "a list as input": case(
        DtypeError,
        *("layer 0: ", FIRST, "list", "jnp.asarray"),
        call=lambda: MODEL.apply(PARAMS, STATE, X.tolist()),
    ),
    "None as input": case(
        DtypeError, "layer 0: ", "NoneType", call=lambda: MODEL.apply(PARAMS, STATE, None)
    ),
    "a number as input": case(
        ShapeError,
        *("layer 0: ", FIRST, "shape ()", "(..., 2)"),
        call=lambda: MODEL.apply(PARAMS, STATE, jnp.float32(1)),
    ),
    "integers to an activation": case(
        DtypeError,
        "ReLU()",
        "int32",
        call=lambda: fn.ReLU().apply((), (), np.arange(3, dtype="i4")),
    ),
    "an integer as key of apply": case(
        DtypeError, "key is int", call=lambda: MODEL.apply(PARAMS, STATE, X, key=3)
    ),
    "a legacy key to apply": case(
        DtypeError,
        "uint32[2]",
        call=lambda: MODEL.apply(PARAMS, STATE, X, key=jax.random.PRNGKey(0)),
    ),
    "two keys to apply": case(
        ShapeError,
        "(2,)",
        call=lambda: MODEL.apply(PARAMS, STATE, X, key=jax.random.split(KEY, 2)),
    ),
    "a loss of labels in a list": case(
        DtypeError, "cross_entropy", "list", call=lambda: CE(jnp.ones((2, 3)), [0, 1])
    ),
    "a loss of no labels": case(
        DtypeError, "cross_entropy", "NoneType", call=lambda: CE(jnp.ones((2, 3)), None)
    ),
    "a loss of logits in a list": case(
        DtypeError, "cross_entropy: logits is list", call=lambda: CE([[1.0, 2.0]], np.array([0]))
    ),
    "a loss of no classes": case(
        ShapeError,
        *("(2, 0)", "at least one class"),
        call=lambda: CE(jnp.ones((2, 0)), np.array([0, 0])),
    ),
    "a loss of a label out of range": case(
        DataError,
        *("label 3 at [1]", "0 to 2"),
        call=lambda: CE(jnp.ones((2, 3)), np.array([0, 3])),
    ),
    "MSE of lists": case(DtypeError, "mse_loss", "list", call=lambda: MSE([1.0], [1.0])),
    "MSE of None": case(DtypeError, "target is NoneType", call=lambda: MSE(jnp.ones(2), None)),
    "MSE that would broadcast": case(
        ShapeError, "(4, 1)", "(4,)", call=lambda: MSE(jnp.ones((4, 1)), jnp.ones(4))
    ),
    "a run of other params": case(
        ParamsError,
        *("layer 0: ", FIRST, "[5, 2]"),
        call=lambda: retrain(params=OTHER.init(KEY)[0]),
    ),
    "a run of another optimizer": case(
        ParamsError,
        *("run.opt_state holds 0 arrays", "9", "trainer.init(key)"),
        call=lambda: retrain(fn.Trainer(MODEL, CE, optax.adam(0.1), 4)),
    ),
    "a run of an optimizer with more state": case(
        ParamsError,
        *("run.opt_state holds 9 arrays", "trainer.init(key)"),
        call=lambda: retrain(opt_state=optax.adam(0.1).init(PARAMS)),
    ),
    "no run": case(
        DtypeError, "NoneType", "trainer.init(key)", call=lambda: TRAINER.run(None, (X, LABELS), 1)
    ),
    "params as run": case(
        DtypeError, "tuple", "trainer.init(key)", call=lambda: TRAINER.run(PARAMS, (X, LABELS), 1)
    ),
    "what run returned, not taken apart": case(
        DtypeError,
        "tuple",
        call=lambda: TRAINER.run((TRAINER.init(KEY), {}), (X, LABELS), 1),
    ),
    "a run with a legacy key": case(
        DtypeError, "uint32[2]", call=lambda: retrain(key=jax.random.PRNGKey(0))
    ),
    "a run with two keys": case(
        ShapeError, "(2,)", call=lambda: retrain(key=jax.random.split(KEY, 2))
    ),
    "a run with a fractional epoch": case(
        ParamsError, "run.epoch is float32[]", call=lambda: retrain(epoch=0.5)
    ),
    "evaluate other features": case(
        ShapeError,
        *("layer 0: ", FIRST, "(..., 2)"),
        call=lambda: TRAINER.evaluate(PARAMS, STATE, (np.ones((4, 3), np.float32), LABELS[:4])),
    ),
    "evaluate nothing": case(
        DataError, "empty", call=lambda: TRAINER.evaluate(PARAMS, STATE, (X[:0], LABELS[:0]))
    ),
    "predict other features": case(
        ShapeError,
        *("layer 0: ", FIRST, "(..., 2)"),
        call=lambda: TRAINER.predict(PARAMS, STATE, np.ones((4, 3), np.float32)),
    ),
    "predict None": case(
        DtypeError, "x is None", call=lambda: TRAINER.predict(PARAMS, STATE, None)
    ),
    "predict with other params": case(
        ParamsError, "layer 0: ", FIRST, call=lambda: TRAINER.predict(*OTHER.init(KEY), X)
    ),
    "traced epochs": case(
        ConfigError,
        *("epochs is traced", "static_argnames"),
        call=lambda: jax.jit(partial(TRAINER.run, TRAINER.init(KEY), (X, LABELS)))(3),
    ),
    "fit with a traced key": case(
        DtypeError,
        *("key is traced", "Trainer.run"),
        call=lambda: jax.jit(lambda key: fit(key=key).params)(KEY),
    ),
    "fit with traced data": case(
        DtypeError,
        *("data is traced", "Trainer.run"),
        call=lambda: jax.jit(lambda x: fit((x, LABELS)).params)(X),
    ),
    "map_seeds without a function": case(
        ConfigError, "train is 3", call=lambda: fn.map_seeds(3, jax.random.split(KEY, 2))
    ),
    "map_seeds with one key": case(
        ShapeError, "shape ()", "(seeds,)", call=lambda: fn.map_seeds(jax.random.uniform, KEY)
    ),
    "map_seeds with integers": case(
        DtypeError, "list", "split", call=lambda: fn.map_seeds(jax.random.uniform, [0, 1])
    ),
    "map_seeds with legacy keys": case(
        DtypeError,
        *("uint32[2, 2]", "split"),
        call=lambda: fn.map_seeds(jax.random.uniform, jax.random.split(jax.random.PRNGKey(0), 2)),
    ),
    "map_seeds without keys": case(
        ShapeError,
        *("(0,)", "at least one"),
        call=lambda: fn.map_seeds(jax.random.uniform, jax.random.split(KEY, 2)[:0]),
    ),
    "map_seeds under jit": case(
        DtypeError,
        *("traced", "jax.vmap(train)"),
        call=lambda: jax.jit(partial(fn.map_seeds, jax.random.uniform))(jax.random.split(KEY, 2)),
    ),
    "summary of other features": case(
        ShapeError, "layer 0: ", FIRST, "(5,)", call=lambda: fn.summary(MODEL, (5,))
    ),
    "summary of an integer": case(ShapeError, "2", "(784,)", call=lambda: fn.summary(MODEL, 2)),
    "summary of None": case(ShapeError, "None", "(784,)", call=lambda: fn.summary(MODEL, None)),
    "summary of a fraction": case(ShapeError, "2.0", call=lambda: fn.summary(MODEL, (2.0,))),
    "summary of a negative size": case(ShapeError, "-1", call=lambda: fn.summary(MODEL, (-1, 2))),
    "summary of a class": case(
        ConfigError, "instance of funcnet.Module", call=lambda: fn.summary(fn.Linear, (2,))
    ),
    "backward of other features": case(
        ShapeError,
        *("layer 0: ", FIRST),
        call=lambda: fn.backward(MODEL, PARAMS, STATE, CE, np.ones((4, 3), np.float32), LABELS[:4]),
    ),
    "backward of a loss per example": case(
        ShapeError,
        *("(10,)", "one number"),
        call=lambda: fn.backward(
            MODEL, PARAMS, STATE, fn.CrossEntropyLoss(reduction="none"), X, LABELS
        ),
    ),
    "backward of a bad label": case(
        DataError, "label 3", call=lambda: fn.backward(MODEL, PARAMS, STATE, CE, X, LABELS + 1)
    ),
    "backward of other params": case(
        ParamsError,
        *("layer 0: ", FIRST),
        call=lambda: fn.backward(MODEL, *OTHER.init(KEY), CE, X, LABELS),
    ),
    "backward of no model": case(
        ConfigError, "model is None", call=lambda: fn.backward(None, (), (), CE, X, LABELS)
    ),
    "backward with a name as loss": case(
        ConfigError,
        "loss is 'mse'",
        call=lambda: fn.backward(MODEL, PARAMS, STATE, "mse", X, LABELS),
    ),
    "backward with an integer as key": case(
        DtypeError,
        "key is int",
        call=lambda: fn.backward(MODEL, PARAMS, STATE, CE, X, LABELS, key=0),
    ),
    "cross_entropy's ignore_index": case(
        ConfigError,
        "ignore_index is None",
        call=lambda: ops.cross_entropy(jnp.ones((2, 3)), np.array([0, 1]), ignore_index=None),
    ),
    "cross_entropy's weight": case(
        DtypeError,
        "weight is list",
        call=lambda: ops.cross_entropy(jnp.ones((2, 3)), np.array([0, 1]), [1.0, 1.0, 1.0]),
    ),
    "linear's weight transposed": case(
        ShapeError,
        *("(10, 2)", "(2, 4)", "(out_features, in_features)"),
        call=tracing(lambda: ops.linear(X, jnp.ones((2, 4)))),
    ),
    "linear's weight of rank 1": case(
        ShapeError, "weight has shape (2,)", call=lambda: ops.linear(X, jnp.ones(2))
    ),
    "linear's bias": case(
        ShapeError,
        *("bias has shape (2,)", "(4,)"),
        call=lambda: ops.linear(X, jnp.ones((4, 2)), jnp.ones(2)),
    ),
    "an activation of integers": case(
        DtypeError, "relu: x is int32[3]", call=lambda: ops.relu(jnp.arange(3))
    ),
    "an activation of a list": case(DtypeError, "tanh: x is list", call=lambda: ops.tanh([1.0])),
}


@pytest.mark.parametrize("name", CALLS)
def test_stopped_where_called(name):
    error, says, arguments = CALLS[name]
    check(error, says, arguments["call"])


# What looks odd and has one meaning is taken.
ACCEPTED = {
    "nested lists": {"data": (X.tolist(), LABELS.tolist())},
    "what numpy can convert": {"data": (Framelike(X), Framelike(LABELS))},
    "a list of two arrays": {"data": [X, LABELS]},
    "float64": {"data": (X.astype(np.float64), LABELS)},
    "unsigned labels": {"data": (X, LABELS.astype(np.uint8))},
    "masked arrays that mask nothing": {"data": (np.ma.masked_array(X, False), LABELS)},
    "numpy's integers": {"epochs": np.int64(1), "batch_size": np.int32(4)},
    "a batch larger than the set": {"batch_size": 10**12},
    "a dtype by name": {"dtype": "float32"},
    "a key of another kind": {"key": jax.random.key(0, impl="rbg")},
}


@pytest.mark.parametrize("name", ACCEPTED)
@pytest.mark.parametrize("train", [fit, run])
def test_not_stopped(train, name):
    with pytest.raises(pytest.fail.Exception, match=r"training (has|would have) started"):
        train(**ACCEPTED[name])


def test_an_error_of_ones_own_says_where_it_was_raised():
    def refuse(state, x):
        raise ValueError("no")

    model = two_layers(fn.Sequential(fn.ReLU(), Own(returned=refuse)))
    with pytest.raises(ValueError, match="no") as raised:
        model.apply(*model.init(KEY), X)
    assert any("layer 1, Own(" in note for note in raised.value.__notes__)
    assert any("layer 1, Sequential(" in note for note in raised.value.__notes__)


def test_a_module_without_apply_says_so():
    with pytest.raises(NotImplementedError, match="HoldsArray has no apply"):
        HoldsArray().apply((), (), X)
