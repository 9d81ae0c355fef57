"""Parameters and state survive the way to files and back, and nothing else is taken for them."""

import json
import os
import pickle
import struct
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st

import funcnet as fn
from funcnet.errors import ConfigError, DtypeError, ParamsError
from funcnet.io import interop
from tests.io.examples import KEYS, PARAMS, check_equal, shapes

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "params.safetensors"
    fn.save_params(path, PARAMS)
    return path


@pytest.mark.parametrize("like", [PARAMS, shapes(PARAMS)], ids=["arrays", "shapes"])
def test_params_come_back(file, like):
    check_equal(fn.load_params(file, like), PARAMS)
    check_equal(fn.load_params(str(file), like), PARAMS)


DTYPES = ["float32", "float16", "bfloat16", "int32", "int8", "uint8", "bool"]
leaves = st.tuples(
    st.sampled_from(DTYPES), st.lists(st.integers(0, 3), max_size=3), st.integers(0, 2**32 - 1)
).map(lambda t: jnp.array(np.random.default_rng(t[2]).normal(size=t[1]) * 50, t[0]))
layers = st.dictionaries(st.sampled_from(["weight", "bias", "running_mean"]), leaves)
trees = st.recursive(layers, lambda inner: st.lists(inner, max_size=4).map(tuple), max_leaves=8)


@given(tree=trees)
def test_any_tree_comes_back(tmp_path_factory, tree):
    path = tmp_path_factory.mktemp("trees") / "params"
    fn.save_params(path, tree)
    check_equal(fn.load_params(path, shapes(tree)), tree)
    params, state = interop.load_state_dict(interop.state_dict(tree), tree)
    check_equal(params, tree)
    assert state == ()


def test_wide_types_come_back(tmp_path, x64):
    params = {"a": jnp.array([1 / 3]), "n": jnp.array([2**62])}
    fn.save_params(tmp_path / "p", params)
    check_equal(fn.load_params(tmp_path / "p", shapes(params)), params)


def test_nan_and_infinity_come_back(tmp_path):
    params = {"weight": jnp.array([jnp.nan, -jnp.inf, -0.0])}
    fn.save_params(tmp_path / "p", params)
    check_equal(fn.load_params(tmp_path / "p", params), params)


def test_the_layout_in_memory_does_not_matter(tmp_path):
    transposed = np.arange(6, dtype=np.float32).reshape(2, 3).T
    fn.save_params(tmp_path / "p", {"weight": transposed})
    loaded = fn.load_params(tmp_path / "p", {"weight": transposed})
    np.testing.assert_array_equal(loaded["weight"], transposed)


def test_same_params_same_bytes_and_no_metadata(file, tmp_path):
    reordered = ({"bias": PARAMS[0]["bias"], "weight": PARAMS[0]["weight"]}, *PARAMS[1:])
    fn.save_params(tmp_path / "again", reordered)
    data = file.read_bytes()
    assert (tmp_path / "again").read_bytes() == data
    (length,) = struct.unpack("<Q", data[:8])
    assert sorted(json.loads(data[8 : 8 + length])) == KEYS


def test_a_failed_save_leaves_the_old_file_and_nothing_else(file, monkeypatch):
    def fail(*paths):
        raise OSError(28, "No space left on device")

    data = file.read_bytes()
    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="No space left"):
        fn.save_params(file, {"weight": jnp.zeros(3)})
    assert file.read_bytes() == data
    assert os.listdir(file.parent) == [file.name]


def test_a_missing_folder_or_file_is_an_oserror(tmp_path):
    with pytest.raises(FileNotFoundError, match="gone/params"):
        fn.save_params(tmp_path / "gone" / "params", PARAMS)
    with pytest.raises(FileNotFoundError, match="gone"):
        fn.load_params(tmp_path / "gone", PARAMS)
    with pytest.raises(IsADirectoryError):
        fn.load_params(tmp_path, PARAMS)


@pytest.mark.parametrize(
    ("params", "error", "message"),
    [
        ({"weight": "text"}, DtypeError, "weight: expected an array, got str"),
        (({"weight": [1.0]},), DtypeError, "0.weight.0: expected an array, got float"),
        ({"w": np.array(["text"])}, DtypeError, "w: <U4 can't be saved"),
        ({"w": np.array([1j])}, DtypeError, "w: complex128 can't be saved"),
        ({"a.b": np.ones(1), "a": {"b": np.ones(1)}}, ParamsError, "two arrays have the key 'a.b'"),
    ],
)
def test_params_that_cannot_be_saved_are_refused(tmp_path, params, error, message):
    with pytest.raises(error, match=message):
        fn.save_params(tmp_path / "p", params)
    assert os.listdir(tmp_path) == []


def test_a_random_key_is_refused_by_name(tmp_path):
    with pytest.raises(DtypeError, match=r"0\.key: expected numbers, got a random key, key<fry>"):
        fn.save_params(tmp_path / "p", ({"key": jax.random.key(0)},))


NORM = fn.Sequential(fn.Linear(2, 4), fn.BatchNorm1d(4), fn.ReLU(), fn.Linear(4, 2))


@pytest.mark.parametrize(
    ("model", "says"),
    [
        (fn.Linear(2, 2), r"params is a TrainState, .*run\.params\)$"),
        (NORM, r"fn\.save\(path, run\.params, run\.state\).*has state, .*fn\.save keeps too"),
    ],
)
@pytest.mark.parametrize("save", [fn.save_params, fn.save])
def test_a_run_is_refused_with_what_to_save_of_it(tmp_path, save, model, says):
    run = fn.Trainer(model, fn.CrossEntropyLoss(), optax.sgd(0.1)).init(jax.random.key(0))
    with pytest.raises(DtypeError, match=says):
        save(tmp_path / "p", run)
    assert os.listdir(tmp_path) == []


first = PARAMS[0]


@pytest.mark.parametrize(
    ("like", "message"),
    [
        ((first, (), ()), "2.0.weight is surplus"),
        ((*PARAMS, {"bias": jnp.zeros(3)}), "3.bias is missing"),
        (
            ({**first, "bias": jnp.zeros(3)}, *PARAMS[1:]),
            r"0.bias has shape \(2,\), expected \(3,\)",
        ),
        (
            ({**first, "bias": jnp.zeros(2, jnp.float16)}, *PARAMS[1:]),
            "is float32, expected float16",
        ),
        (({**first, "bias": jnp.zeros(2, int)}, *PARAMS[1:]), "0.bias is float32, expected int32"),
        (
            ({**first, "bias": jax.ShapeDtypeStruct((2,), np.float64)}, *PARAMS[1:]),
            "0.bias is float64, which needs .*jax_enable_x64",
        ),
        (
            ({"weight": first["weight"].T}, (), ({}, ()), {"bias": jnp.zeros(3)}),
            "params.safetensors does not fit the model: 3.bias is missing; 0.bias is surplus; "
            r"2.0.weight is surplus; 0.weight has shape \(2, 3\), expected \(3, 2\); expected",
        ),
    ],
)
def test_a_file_of_another_model_is_refused(file, like, message):
    with pytest.raises(ParamsError, match=message):
        fn.load_params(file, like)


def test_a_long_list_of_differences_is_cut(file):
    with pytest.raises(ParamsError, match=r"3\.weight is missing.*; and 17 more; expected"):
        fn.load_params(file, tuple({"weight": jnp.zeros(1)} for _ in range(25)))


def test_what_is_no_shape_is_refused(file):
    with pytest.raises(DtypeError, match=r"0\.bias: expected an array to compare with, got float"):
        fn.load_params(file, ({"weight": 1.0, "bias": 1.0}, (), ({"weight": 1.0}, ())))


def header(**tensors):
    text = json.dumps(tensors).encode()
    return struct.pack("<Q", len(text)) + text


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "damaged, or not a safetensors file"),
        (b"<!DOCTYPE html>", "damaged, or not a safetensors file"),
        (struct.pack("<Q", 2**62), "damaged, or not a safetensors file"),
        (header(w={"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}), "damaged"),
        (header(w={"dtype": "F32", "shape": [2**63, 4], "data_offsets": [0, 0]}), "damaged"),
        (
            header(w={"dtype": "F8_E4M3", "shape": [1], "data_offsets": [0, 1]}) + b"\x00",
            "w has the dtype F8_E4M3, which funcnet has not",
        ),
    ],
)
def test_damaged_files_are_refused(tmp_path, data, message):
    path = tmp_path / "params"
    path.write_bytes(data)
    with pytest.raises(ParamsError, match=f"{path}: {message}"):
        fn.load_params(path, {"w": jnp.zeros(1)})


class Bomb:
    """Marks its unpickling."""

    def __reduce__(self):
        return (pytest.fail, ("a pickle was loaded",))


def test_pickles_are_named_and_never_loaded(tmp_path):
    bare = tmp_path / "bare.pt"
    bare.write_bytes(pickle.dumps({"weight": Bomb()}))
    zipped = tmp_path / "zipped.pt"
    with zipfile.ZipFile(zipped, "w") as archive:
        archive.writestr("archive/data.pkl", bare.read_bytes())
    for path in (bare, zipped):
        with pytest.raises(ParamsError, match=r"a pickle, not .* safetensors\.torch\.save_file"):
            fn.load_params(path, PARAMS)


def test_every_truncation_is_refused(file):
    data = file.read_bytes()
    for length in range(len(data)):
        file.write_bytes(data[:length])
        with pytest.raises(ParamsError, match="damaged"):
            fn.load_params(file, PARAMS)


@given(position=st.integers(0, 260), noise=st.binary(min_size=1, max_size=16))
def test_noise_is_refused_or_leaves_the_shapes(tmp_path_factory, position, noise):
    path = tmp_path_factory.mktemp("noise") / "params"
    fn.save_params(path, PARAMS)
    data = bytearray(path.read_bytes())
    data[position : position + len(noise)] = noise
    path.write_bytes(data)
    try:
        loaded = fn.load_params(path, PARAMS)
    except ParamsError as error:
        assert str(error).startswith(str(path))  # noqa: PT017
    else:
        assert shapes(loaded) == shapes(PARAMS)


def made(model=NORM, dtype=jnp.float32):
    """Parameters and a state that is not the one `init` makes."""
    params, state = model.init(jax.random.key(3), dtype)
    return params, jax.tree.map(lambda leaf: leaf + 1, state)


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "model.safetensors"
    fn.save(path, *made(), model=NORM)
    return path


@pytest.mark.parametrize("like", [NORM, made(), shapes(made())], ids=["model", "arrays", "shapes"])
def test_params_and_state_come_back(saved, like):
    check_equal(fn.load(saved, like), made())
    check_equal(fn.load(str(saved), like=like), made())


def test_without_a_model_the_file_is_that_of_the_arrays_alone(tmp_path):
    params, state = made()
    fn.save(tmp_path / "both", params, state)
    fn.save_params(tmp_path / "dict", interop.state_dict(params, state))
    assert (tmp_path / "both").read_bytes() == (tmp_path / "dict").read_bytes()
    check_equal(fn.load(tmp_path / "both", NORM), made())
    fn.save(tmp_path / "stateless", {"weight": jnp.ones(2)})
    check_equal(
        fn.load(tmp_path / "stateless", ({"weight": jnp.zeros(2)}, ())),
        ({"weight": jnp.ones(2)}, ()),
    )


def test_the_same_run_gives_the_same_bytes(saved):
    """In another process too, where hashes and addresses differ."""
    code = (
        "import sys, funcnet as fn\n"
        "from tests.io.test_safetensors import NORM, made\n"
        "fn.save(sys.argv[1], *made(), model=NORM)"
    )
    again = saved.with_name("again")
    subprocess.run([sys.executable, "-c", code, str(again)], check=True, cwd=ROOT)
    assert again.read_bytes() == saved.read_bytes()


def test_the_description_is_in_the_metadata(saved):
    with safetensors.safe_open(saved, framework="numpy") as file:
        metadata = file.metadata()
        assert set(file.keys()) == set(interop.state_dict(*made()))
    about = json.loads(metadata["funcnet"])
    assert about["model"] == repr(NORM)
    assert set(metadata) == {"funcnet"}


class Unshown(fn.Module):
    """Has an address in its repr."""

    def apply(self, params, state, x, *, key=None, train=False):
        return x, state


def test_no_address_is_written(tmp_path):
    fn.save(tmp_path / "p", (), model=Unshown())
    assert b"Unshown" in (tmp_path / "p").read_bytes()
    assert b"0x" not in (tmp_path / "p").read_bytes()
    assert fn.load(tmp_path / "p", Unshown()) == ((), ())


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_with_the_model_floats_keep_their_dtype(tmp_path, dtype):
    fn.save(tmp_path / "p", *made(dtype=dtype))
    check_equal(fn.load(tmp_path / "p", NORM), made(dtype=dtype))
    with pytest.raises(ParamsError, match=f"is {dtype.__name__}, expected float32"):
        fn.load(tmp_path / "p", made())


def test_another_model_is_refused_with_what_differs(saved):
    wider = fn.Sequential(fn.Linear(2, 5), fn.BatchNorm1d(5), fn.ReLU(), fn.Linear(5, 2))
    with pytest.raises(
        ParamsError, match=r"is of another model, Sequential\(Linear\(in_f"
    ) as raised:
        fn.load(saved, wider)
    assert "Linear.out_features was 4 and is now 5" in str(raised.value)


def test_another_model_of_the_same_arrays_is_refused_but_not_its_arrays(saved):
    other = fn.Sequential(fn.Linear(2, 4), fn.BatchNorm1d(4), fn.Tanh(), fn.Linear(4, 2))
    with pytest.raises(ParamsError, match=r"Tanh was None.*like=model\.init\(key\), with which"):
        fn.load(saved, other)
    check_equal(fn.load(saved, other.init(jax.random.key(0))), made())


def test_arrays_that_do_not_fit_are_refused_with_the_files_description(saved):
    params, _ = made()
    with pytest.raises(
        ParamsError, match=r"running_mean is surplus.*; the file is of Sequential\("
    ):
        fn.load(saved, (params, ()))


def test_a_file_without_state_is_refused_where_the_model_has_some(tmp_path):
    fn.save(tmp_path / "p", made()[0])
    with pytest.raises(ParamsError, match=r"1\.running_mean is missing"):
        fn.load(tmp_path / "p", NORM)


@pytest.mark.parametrize("text", ["", "{", "3", "{}", "[" * 100_000])
def test_a_description_that_cannot_be_read_is_refused(tmp_path, text):
    data = safetensors.numpy.save({"w": np.ones(1)}, {"funcnet": text})
    (tmp_path / "p").write_bytes(data)
    with pytest.raises(ParamsError, match="its description of the model can't be read"):
        fn.load(tmp_path / "p", ({"w": np.ones(1)}, ()))


def test_metadata_of_others_does_not_matter(tmp_path):
    arrays = interop.state_dict(*made())
    (tmp_path / "p").write_bytes(safetensors.numpy.save(arrays, {"format": "pt"}))
    check_equal(fn.load(tmp_path / "p", NORM), made())


M: Any = "m"


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda path: fn.load(path, 3), DtypeError, "like is int, expected a model or a pair"),
        (lambda path: fn.load(path, ((), (), ())), DtypeError, "like is tuple, expected a model"),
        (lambda path: fn.save(path, (), model=M), ConfigError, "model is 'm', expected an inst"),
        (lambda path: fn.load(path / "no", NORM), OSError, "no"),
    ],
)
def test_mistakes(saved, call, error, says):
    with pytest.raises(error, match=says):
        call(saved)
