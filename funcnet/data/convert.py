"""From what people have to arrays of numbers: converted, or refused with what to type instead.

Whatever NumPy can read is taken: lists, ranges, NumPy's arrays of any byte order, and objects with
`__array__` or `__dlpack__`, as pandas, polars, xarray, TensorFlow and PyTorch have them. The rest
is refused by what it is; each message ends with an expression that makes an array of it.
"""

import datetime
import numbers
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from funcnet.errors import DataError, DtypeError, ShapeError

MISSING = "remove those examples or fill them in"


def from_host(name: str, value: Any, dtype: Any) -> Any:
    """An array of real numbers in a dtype that JAX has; floating ones in `dtype`.

    Args:
        name: what messages call it, such as "data's x": its last word is a user's variable.
        value: what the user gave.
        dtype: of floating arrays.

    Raises:
        DtypeError, ShapeError, DataError: it is none; the message ends with what to do.
    """
    array = _as_numpy(name, value)
    if not _is_real(array.dtype):
        raise _no_numbers(name, array)
    array = array.astype(array.dtype.newbyteorder("="))
    if array.dtype.kind in "iu":
        return _narrowed(name, array)
    if array.dtype.kind != "f":
        return array
    with np.errstate(over="ignore"):  # an overflow becomes infinite, which `checked` reports
        return array.astype(dtype)


def _as_numpy(name: str, value: Any) -> np.ndarray:
    if np.ma.is_masked(value):
        raise DataError(f"{name} has masked entries; {MISSING}")
    _require_readable(name, value)
    try:
        if callable(getattr(value, "detach", None)):
            value = _from_torch(value)
        elif hasattr(value, "__dlpack__") and not hasattr(value, "__array__"):
            value = np.from_dlpack(value)
        return np.asarray(value)
    except ValueError as error:
        raise ShapeError(f"{name} is ragged: {error}{several_inputs(name, value)}") from None
    except jax.errors.JAXTypeError:
        raise
    except Exception as error:  # an object's own __array__ may raise anything
        raise DtypeError(
            f"{name} is {type(value).__name__}, which cannot be read as an array ({error}); "
            f"convert it to a NumPy array"
        ) from error


def _from_torch(tensor: Any) -> Any:
    """A tensor that NumPy can read: on the host, without a gradient, in a dtype that NumPy has."""
    tensor = tensor.detach().cpu()
    return tensor.float() if str(tensor.dtype) == "torch.bfloat16" else tensor


def _require_readable(name: str, value: Any) -> None:
    """Raise DtypeError for what NumPy would take for one object."""
    this = _variable(name)
    fix = None
    if isinstance(value, AbstractSet) and not isinstance(value, Sequence):
        fix = f"a set has no order; give a list with an entry for each example, in {this}'s place"
    elif isinstance(value, Iterator):
        fix = f"an iterator can be read once; use np.stack(list({this}))"
    elif hasattr(value, "toarray"):  # SciPy
        fix = f"use {this}.toarray()"
    elif getattr(value, "is_sparse", False) or str(getattr(value, "layout", "")) in _SPARSE:
        fix = f"use {this}.to_dense()"
    elif hasattr(value, "__array__") or isinstance(value, Sequence | str | bytes):
        return
    elif isinstance(value, Collection) and not hasattr(value, "__getitem__"):  # a dict's values
        fix = f"use np.column_stack(list({this})), or a dict of inputs as it is"
    if fix is not None:
        what = f"{type(value).__name__}, one object to NumPy"
        raise DtypeError(f"{name} is {what}, expected an array; {fix}")


_SPARSE = ("torch.sparse_coo", "torch.sparse_csr", "torch.sparse_csc", "torch.sparse_bsr")


def several_inputs(name: str, value: Any) -> str:
    """What to do where a list holds arrays of its own, ready to be added to a message."""
    if isinstance(value, list) and value and all(getattr(part, "ndim", 0) for part in value):
        return (
            f"; several arrays, over the same examples each, are a tuple: tuple({_variable(name)})"
        )
    return ""


def _is_real(dtype: np.dtype) -> bool:
    return dtype.kind == "b" or (jnp.issubdtype(dtype, jnp.number) and dtype.kind not in "cm")


def _no_numbers(name: str, array: np.ndarray) -> Exception:
    """The error that says what an array holds instead of numbers."""
    this = _variable(name)
    given = f"{name} has dtype {array.dtype}, expected real numbers"
    if array.dtype.kind == "c":
        return DtypeError(
            f"{given}; use np.stack([np.asarray({this}).real, np.asarray({this}).imag], axis=-1)"
        )
    if array.dtype.kind == "m":
        return DtypeError(f"{given}; use np.asarray({this}) / np.timedelta64(1, 's')")
    if array.dtype.kind == "M":
        return _dates(given, this)
    if array.dtype.names:
        columns = f"np.column_stack([{this}[name] for name in {this}.dtype.names])"
        return DtypeError(f"{given}; use {columns}")
    if array.dtype.kind == "O":
        return _objects(name, given, array)
    return _words(name, given, array)


def _objects(name: str, given: str, array: np.ndarray) -> Exception:
    this = _variable(name)
    if array.ndim == 0:
        kind = type(array.item()).__name__
        return DtypeError(f"{name} is {kind}, expected an array, a list or what NumPy can read")
    entries = array.ravel().tolist()
    for number, entry in enumerate(entries):
        if entry is None or type(entry).__name__ in ("NAType", "NaTType"):
            where = [int(i) for i in np.unravel_index(number, array.shape)]
            return DataError(f"{name} is {entry!r} at {where}; {MISSING}")
    if all(isinstance(entry, numbers.Integral | np.bool_) for entry in entries):
        held = max(map(abs, entries)) < 2**63
        return DtypeError(f"{given}; use np.asarray({this}, np.{'int64' if held else 'float32'})")
    if all(isinstance(entry, numbers.Number | np.bool_) for entry in entries):
        return DtypeError(f"{given}; use np.asarray({this}, np.float32)")
    if all(isinstance(entry, datetime.date) for entry in entries):
        return _dates(given, this)
    row = array[0] if array.ndim == 2 else []
    if dated := [n for n, entry in enumerate(row) if isinstance(entry, datetime.date)]:
        return _dates(f"{given}: columns {dated} hold dates", f"np.asarray({this})[:, {dated[0]}]")
    if any(isinstance(entry, str | bytes) for entry in entries):
        return _words(name, given, array)
    kind = type(next(e for e in entries if not isinstance(e, numbers.Number))).__name__
    return DtypeError(f"{given}, and got {kind}; give a number for each")


def _words(name: str, given: str, array: np.ndarray) -> Exception:
    """Labels are numbered; so is each column of words in a table; numbers in quotes are read."""
    this = _variable(name)
    if name.endswith("'s y"):
        mixed = array.dtype.kind == "O" and not all(isinstance(e, str) for e in array.flat)
        words = f"np.asarray({this}, str)" if mixed else this
        if name.startswith("validation"):
            fix = (
                f"number the words as those of the training data: np.searchsorted(classes, {words})"
            )
        else:
            fix = (
                f"number the words by classes, {this} = np.unique({words}, return_inverse=True); "
                f"classes[n] is the word of number n"
            )
        return DtypeError(f"{given}; {fix}")
    if _reads_as_numbers(array):
        return DtypeError(f"{given}; use np.asarray({this}, np.float32)")
    if array.ndim == 2:
        words = [n for n in range(array.shape[1]) if not _reads_as_numbers(array[:, n])]
        numbered = (
            f"np.unique(np.asarray({this})[:, {words[0]}].astype(str), return_inverse=True)[1]"
        )
        return DtypeError(
            f"{given}: columns {words} hold words; number those of each, as {numbered}, or leave "
            f"them out"
        )
    return DtypeError(
        f"{given}; number the words, as np.unique(np.asarray({this}, str), return_inverse=True)[1]"
    )


def _reads_as_numbers(array: np.ndarray) -> bool:
    try:
        array.astype(np.float64)
    except (TypeError, ValueError):
        return False
    return True


def _dates(given: str, this: str) -> Exception:
    start = "np.datetime64('2000-01-01', 's')"
    days = f"(np.asarray({this}, 'datetime64[s]') - {start}) / np.timedelta64(1, 'D')"
    return DtypeError(f"{given}; count days: {days}")


def _variable(name: str) -> str:
    """What the user is likely to call it: the x of "data's x"."""
    return name.split()[-1]


def _narrowed(name: str, array: np.ndarray) -> Any:
    """Integers in the dtype JAX gives them: without 64-bit mode 2**32 would become 0 in silence."""
    # By NumPy: under jit, jnp's result has no values to compare.
    narrow = array.astype(jax.dtypes.canonicalize_dtype(array.dtype))
    wrong = narrow != array
    if wrong.any():
        where = tuple(int(i) for i in np.argwhere(wrong)[0])
        raise DataError(
            f"{name} is {array[where]} at {list(where)}, expected numbers that {narrow.dtype} can "
            f"hold; correct it, or enable 64-bit numbers with jax.config.update('jax_enable_x64', "
            f"True)"
        )
    return jnp.asarray(narrow)


def no_pair(name: str, data: Any) -> DataError:
    """The error for a set that is not (x, y), with how to make that of it."""
    what = f"{len(data)} entries" if isinstance(data, tuple | list) else type(data).__name__
    fix = _pair_of(name, data)
    return DataError(f"{name} is {what}, expected a pair of arrays: (x, y){fix and '; use ' + fix}")


def two_sets(name: str, data: Any) -> str:
    """What to do where the two entries are each (x, y), ready to be added to a message."""
    if not _are_pairs(data):
        return ""
    if isinstance(data, tuple):
        return f"; of two sets, give data={name}[0] and validation={name}[1]"
    return f"; of two batches, x, y = map(np.concatenate, zip(*{name})) makes one set"


def _are_pairs(data: Any) -> bool:
    """Whether each entry is an (x, y), of a batch, a set or one example."""
    # Of up to three, lists of two numbers may be x, y and weights of two examples.
    return all(
        isinstance(entry, tuple | list)
        and len(entry) == 2
        and (len(data) > 3 or hasattr(entry[0], "shape"))
        for entry in data
    )


def _pair_of(name: str, data: Any) -> str:
    """What to type, in words and code; "" where nothing is known."""
    if isinstance(data, Mapping):
        keys = list(data)
        if {"data", "target"} <= set(keys):  # scikit-learn's data sets
            keys = ["data", "target"]
        return f"({name}[{keys[0]!r}], {name}[{keys[1]!r}])" if len(keys) == 2 else ""
    if isinstance(data, tuple | list):
        if data and _are_pairs(data):
            join = "concatenate" if getattr(data[0][1], "ndim", 0) else "stack"
            return f"x, y = map(np.{join}, zip(*{name}))"
        if len(data) == 4:
            return (
                "data=(x_train, y_train) and validation=(x_test, y_test): train_test_split "
                "returns x_train, x_test, y_train, y_test"
            )
        return f"sample_weight={name}[2] for sample weights" if len(data) == 3 else ""
    if isinstance(data, str | bytes) or hasattr(data, "__fspath__"):
        return "what np.load, np.loadtxt or fn.data.read_idx makes of the file"
    if hasattr(data, "columns"):
        return f"({name}[columns], {name}[column]), one of the columns being what is to be learned"
    if hasattr(data, "__array__"):
        return f"({name}[:, :-1], {name}[:, -1]), if the last column is what is to be learned"
    if not isinstance(data, Iterator) and hasattr(data, "__getitem__") and hasattr(data, "__len__"):
        return f"x, y = map(np.stack, zip(*({name}[i] for i in range(len({name})))))"
    if isinstance(data, Iterable):
        return (
            f"x, y = map(np.concatenate, zip(*{name})) if it gives batches, or map(np.stack, "
            f"zip(*{name})) for single examples; Trainer.step takes batches one by one"
        )
    return ""
