"""What people have as data is taken, or refused with an expression that works when typed."""

import collections
import datetime
import decimal
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.sparse

import funcnet as fn
from funcnet.data import arrays
from funcnet.errors import DataError, DtypeError, ShapeError

RNG = np.random.default_rng(0)
X = RNG.normal(size=(12, 4)).astype(np.float32)
Y = (X[:, 0] > 0).astype(np.int64)
WORDS = np.where(Y, "yes", "no")


class OfAnotherLibrary:
    """An array as pandas, polars, xarray and TensorFlow have theirs."""

    def __init__(self, array):
        self.array = array

    def __array__(self, dtype=None, copy=None):
        return np.asarray(self.array, dtype)


class OnlyDlpack:
    def __init__(self, array):
        self.__dlpack__, self.__dlpack_device__ = array.__dlpack__, array.__dlpack_device__


class Elsewhere:
    def __array__(self, dtype=None, copy=None):
        raise RuntimeError("on another device")


def of_torch(make):
    """What needs PyTorch, which is optional, is made in the test."""

    def made():
        import torch

        return make(torch)

    return made


def names(table):
    """The rows of a table, those that need PyTorch with their mark."""
    marks = {name: pytest.mark.torch if callable(row) else () for name, row in table.items()}
    return [pytest.param(name, marks=mark) for name, mark in marks.items()]


def row_of(table, name):
    return table[name]() if callable(table[name]) else table[name]


TAKEN: dict[str, Any] = {
    "big-endian": (X.astype(">f8"), Y.astype(">i4")),
    "big-endian, 64 and 16 bits": (X.astype(">f2"), Y.astype(">i8")),
    "big-endian, unsigned": (X.astype(np.longdouble), Y.astype(">u2")),
    "__array__": (OfAnotherLibrary(X), OfAnotherLibrary(Y)),
    "__dlpack__": (OnlyDlpack(X), OnlyDlpack(Y)),
    "torch": of_torch(lambda torch: (torch.tensor(X, requires_grad=True), torch.tensor(Y))),
    "torch, bfloat16": of_torch(lambda torch: (torch.tensor(X).bfloat16(), torch.tensor(Y))),
    "lists": (X.tolist(), Y.tolist()),
    "tuples": (tuple(map(tuple, X.tolist())), tuple(Y.tolist())),
    "deque": (collections.deque(X), bytearray(Y.tolist())),
    "range": (X, range(12)),
    "JAX's": (jnp.asarray(X, jnp.bfloat16), jnp.asarray(Y)),
}


@pytest.mark.parametrize("name", names(TAKEN))
def test_taken(name):
    x, y = arrays.checked("data", row_of(TAKEN, name), jnp.float32)
    assert (x.dtype, x.shape, y.shape) == (jnp.float32, (12, 4), (12,))
    assert jnp.issubdtype(y.dtype, jnp.integer)
    np.testing.assert_allclose(x, X, rtol=1e-2)
    np.testing.assert_array_equal(y, range(12) if name == "range" else Y)


def test_fit_learns_the_same_from_big_endian_labels():
    def trained(y):
        model = fn.Sequential(fn.Linear(4, 2))
        return fn.fit(
            model, fn.CrossEntropyLoss(), optax.sgd(0.1), (X, y), epochs=1, progress=False,
            key=jax.random.key(0),
        ).params  # fmt: skip

    jax.tree.map(np.testing.assert_array_equal, trained(Y.astype(">i4")), trained(Y))


PAIRS = np.array([(1.0, 2.0)] * 12, dtype=[("a", "f4"), ("b", "f4")])
DAYS = np.array(["2020-01-01"] * 12, "datetime64[D]")
REFUSED: dict[str, Any] = {
    "complex": (X + 1j, Y, DtypeError,
                "np.stack([np.asarray(x).real, np.asarray(x).imag], axis=-1)"),
    "spans": (DAYS - DAYS[0], Y, DtypeError, "np.asarray(x) / np.timedelta64(1, 's')"),
    "columns by name": (
        PAIRS, Y, DtypeError, "np.column_stack([x[name] for name in x.dtype.names])",
    ),
    "objects": (X.astype(object), Y, DtypeError, "np.asarray(x, np.float32)"),
    "decimals": ([decimal.Decimal(1)] * 12, Y, DtypeError, "np.asarray(x, np.float32)"),
    "huge": ([2**70] * 12, Y, DtypeError, "np.asarray(x, np.float32)"),
    "labels as objects": (X, Y.astype(object), DtypeError, "np.asarray(y, np.int64)"),
    "numbers in quotes": (X.astype(str), Y, DtypeError, "np.asarray(x, np.float32)"),
    "words for x": (
        WORDS, Y, DtypeError, "np.unique(np.asarray(x, str), return_inverse=True)[1]",
    ),
    "a column of words": (
        np.column_stack([X.astype(object), WORDS]), Y, DtypeError,
        "np.unique(np.asarray(x)[:, 4].astype(str), return_inverse=True)[1]",
    ),
    "sparse": (scipy.sparse.csr_array(X), Y, DtypeError, "x.toarray()"),
    "sparse in torch": of_torch(
        lambda torch: (torch.tensor(X).to_sparse(), Y, DtypeError, "x.to_dense()")
    ),
    "an iterator": (iter(X), Y, DtypeError, "np.stack(list(x))"),
    "an iterator of labels": (X, map(int, Y), DtypeError, "np.stack(list(y))"),
    "values of a dict": ({"a": X[:, 0], "b": X[:, 1]}.values(), Y, DtypeError,
                         "np.column_stack(list(x))"),
    "a list of inputs": ([X, X], Y, ShapeError, "tuple(x)"),
    "a ragged list of inputs": ([X, X[:, :2]], Y, ShapeError, "tuple(x)"),
}  # fmt: skip


@pytest.mark.parametrize("name", names(REFUSED))
def test_refused_with_what_works_when_typed(name):
    x, y, error, typed = row_of(REFUSED, name)
    with pytest.raises(error) as caught:
        arrays.checked("data", (x, y), jnp.float32)
    assert typed in str(caught.value)
    mended = eval(typed, {"np": np, "x": x, "y": y})
    data = (mended, y) if "x" in typed.replace("axis", "").replace("max", "") else (x, mended)
    found = arrays.checked("data", data, jnp.float32)
    assert {len(leaf) for leaf in jax.tree.leaves(found)} == {12}


@pytest.mark.parametrize(
    "dates", [DAYS, [datetime.date(2020, 1, 1)] * 12, [datetime.datetime(2020, 1, 1, 12)] * 12]
)
def test_dates_are_counted_in_days(dates):
    with pytest.raises(DtypeError, match="count days") as caught:
        arrays.checked("data", (dates, Y), jnp.float32)
    typed = str(caught.value).split("count days: ")[1]
    assert int(eval(typed, {"np": np, "x": dates})[0]) == 7305


ALL_WORDS: dict[str, Any] = {
    "str": WORDS,
    "list": WORDS.tolist(),
    "object": WORDS.astype(object),
    "bytes": WORDS.astype(bytes),
    "StringDType": WORDS.astype(np.dtypes.StringDType()),
    "with numbers": ["one", 2] * 6,
    "objects with numbers": np.array(["one", 2] * 6, object),
    "digits": Y.astype(str),
}


@pytest.mark.parametrize("name", ALL_WORDS)
def test_words_as_labels_are_numbered_by_what_the_message_says(name):
    y = ALL_WORDS[name]
    with pytest.raises(DtypeError, match="data's y has dtype") as caught:
        arrays.checked("data", (X, y), jnp.float32)
    typed = str(caught.value).split("by ")[1].split(";")[0]
    assert typed.startswith("classes, y = np.unique(")
    known: dict[str, Any] = {"np": np, "y": y}
    exec(typed, known)
    _, numbered = arrays.checked("data", (X, known["y"]), jnp.float32)
    assert set(numbered.tolist()) == {0, 1}
    again = known["classes"][np.asarray(numbered)]
    assert list(map(str, again)) == list(map(str, np.asarray(y).tolist()))
    with pytest.raises(DtypeError) as caught:
        arrays.checked("validation", (X, y), jnp.float32)
    typed = str(caught.value).split("training data: ")[1]
    np.testing.assert_array_equal(eval(typed, known | {"y": y}), numbered)


def loader(torch):
    pairs = torch.utils.data.TensorDataset(torch.tensor(X), torch.tensor(Y))
    return torch.utils.data.DataLoader(pairs, batch_size=5)


SETS: dict[str, Any] = {
    "batches": (((X[i : i + 5], Y[i : i + 5]) for i in (0, 5, 10)),
                "x, y = map(np.concatenate, zip(*data))"),
    "list of batches": ([(X[i : i + 5], Y[i : i + 5]) for i in (0, 5, 10)],
                        "x, y = map(np.concatenate, zip(*data))"),
    "DataLoader": of_torch(
        lambda torch: (loader(torch), "x, y = map(np.concatenate, zip(*data))")
    ),
    "Dataset": of_torch(
        lambda torch: (
            loader(torch).dataset,
            "x, y = map(np.stack, zip(*(data[i] for i in range(len(data)))))",
        )
    ),
    "zip": (zip(X, Y, strict=True), "map(np.stack, zip(*data))"),
    "examples": (list(zip(X, Y, strict=True)), "x, y = map(np.stack, zip(*data))"),
    "dict": ({"image": X, "label": Y}, "(data['image'], data['label'])"),
    "Bunch": ({"data": X, "target": Y, "DESCR": ""}, "(data['data'], data['target'])"),
    "a table": (np.column_stack([X, Y]), "(data[:, :-1], data[:, -1])"),
}  # fmt: skip


@pytest.mark.parametrize("name", names(SETS))
def test_a_set_that_is_no_pair_is_refused_with_what_makes_one(name):
    data, typed = row_of(SETS, name)
    with pytest.raises(DataError, match="expected a pair of arrays") as caught:
        arrays.checked("data", data, jnp.float32)
    assert typed in str(caught.value)
    pair = eval(typed.removeprefix("x, y = "), {"np": np, "data": data})
    x, y = arrays.checked("data", tuple(pair), jnp.float32)
    np.testing.assert_array_equal(x, X)
    np.testing.assert_array_equal(y, Y)


def test_other_sets_are_refused_by_what_they_are():
    expected = {
        "train_test_split returns x_train": (X, X, Y, Y),
        "np.load": "data.csv",
        r"data is 3 entries, .*; use sample_weight=data\[2\] for": (X, Y, Y),
        r"data is 1 entries, expected a pair of arrays: \(x, y\)$": (X,),
        r"data is NoneType, expected a pair of arrays: \(x, y\)$": None,
    }
    for message, data in expected.items():
        with pytest.raises(DataError, match=message):
            arrays.checked("data", data, jnp.float32)


@pytest.mark.parametrize("kind", [list, tuple])
def test_two_batches_are_no_set_and_two_sets_are_two(kind):
    data = kind([(X[:5], Y[:5]), (X[5:], Y[5:])])
    with pytest.raises(ShapeError) as caught:
        arrays.checked("data", data, jnp.float32)
    if kind is list:
        typed = str(caught.value).split("x, y = ")[1].removesuffix(" makes one set")
        x, y = eval(typed, {"np": np, "data": data})
        np.testing.assert_array_equal(x, X)
        np.testing.assert_array_equal(y, Y)
    else:
        assert "give data=data[0] and validation=data[1]" in str(caught.value)


def test_a_column_of_dates_in_a_table_is_counted_in_days():
    table = np.array([[0.5, datetime.datetime(2000, 1, 1 + n)] for n in range(12)], object)
    with pytest.raises(DtypeError, match=r"columns \[1\] hold dates") as caught:
        arrays.checked("data", (table, Y), jnp.float32)
    typed = str(caught.value).split("count days: ")[1]
    np.testing.assert_array_equal(eval(typed, {"np": np, "x": table}), range(12))


def test_what_is_missing_is_said_where():
    for value in (None, type("NAType", (), {"__repr__": lambda self: "<NA>"})()):
        table = np.array([["a", value]] * 12, object)
        with pytest.raises(DataError, match=r"(None|<NA>) at \[0, 1\]; remove those"):
            arrays.checked("data", (table, Y), jnp.float32)


@pytest.mark.torch
def test_a_tensor_without_numbers():
    import torch

    with pytest.raises(DtypeError, match="Tensor, which cannot be read as an array"):
        arrays.checked("data", (torch.zeros(12, device="meta"), Y), jnp.float32)


def test_no_array_at_all():
    for value, message in [
        (Elsewhere(), r"Elsewhere, which cannot be read .* \(on another device\); convert"),
        ({1, 2}, "a set has no order"),
        (len, "builtin_function_or_method, expected an array"),
        ([print] * 12, "and got builtin_function_or_method"),
    ]:
        with pytest.raises(DtypeError, match=message):
            arrays.checked("data", (value, Y), jnp.float32)


def test_a_dict_or_tuple_for_a_layer_of_one_array_can_be_joined():
    layer = fn.Linear(3, 2)
    params, state = layer.init(jax.random.key(0))
    for x, typed in [
        ({"a": X[:, 0], "b": X[:, 1:3]}, "np.column_stack(list(x.values()))"),
        ((X[:, 0], X[:, 1:3]), "np.column_stack(x)"),
    ]:
        with pytest.raises(DtypeError) as caught:
            layer.apply(params, state, x)
        assert typed in str(caught.value)
        joined = eval(typed, {"np": np, "x": x})
        assert layer.apply(params, state, joined)[0].shape == (12, 2)


def test_labels_of_other_forms_are_refused_with_what_works():
    logits = jnp.asarray(X)
    for target, typed in [
        (jnp.asarray(Y > 0), "target.astype(jnp.int32)"),
        (jnp.asarray(Y, jnp.float32), "target.astype(jnp.int32)"),
        (jnp.asarray(Y)[:, None], "target[..., 0]"),
    ]:
        with pytest.raises((DtypeError, ShapeError)) as caught:
            fn.ops.cross_entropy(logits, target)
        assert typed in str(caught.value)
        mended = eval(typed, {"jnp": jnp, "target": target})
        assert jnp.isfinite(fn.ops.cross_entropy(logits, mended))
