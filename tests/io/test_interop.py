"""Parameters survive the way to files and PyTorch and back, and nothing else is taken for them."""

import json
import os
import pickle
import struct
import zipfile
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import funcnet as fn
from funcnet.errors import DtypeError, ParamsError
from funcnet.io import interop

PARAMS = (
    {"weight": jnp.arange(6.0).reshape(2, 3), "bias": jnp.array([0.5, -0.5])},
    (),
    ({"weight": jnp.ones((1, 2), jnp.bfloat16)}, ()),
)
KEYS = ["0.bias", "0.weight", "2.0.weight"]

# A BatchNorm layer's parameters and state, after the linear layer of a Sequential.
NORMED = ({"weight": jnp.ones((2, 2))}, {"weight": jnp.ones(2), "bias": jnp.zeros(2)})
STATE = (
    (),
    {
        "running_mean": jnp.array([1.0, 2.0]),
        "running_var": jnp.array([3.0, 4.0]),
        "num_batches_tracked": jnp.array(7, jnp.int32),
    },
)


def shapes(tree):
    return jax.eval_shape(lambda: tree)


def check_equal(found, expected):
    """The trees have one structure and the same bits, in JAX arrays."""
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert isinstance(a, jax.Array)
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "params.safetensors"
    interop.save_params(path, PARAMS)
    return path


@pytest.mark.parametrize("like", [PARAMS, shapes(PARAMS)], ids=["arrays", "shapes"])
def test_params_come_back(file, like):
    check_equal(interop.load_params(file, like), PARAMS)
    check_equal(interop.load_params(str(file), like), PARAMS)


DTYPES = ["float32", "float16", "bfloat16", "int32", "int8", "uint8", "bool"]
leaves = st.tuples(
    st.sampled_from(DTYPES), st.lists(st.integers(0, 3), max_size=3), st.integers(0, 2**32 - 1)
).map(lambda t: jnp.array(np.random.default_rng(t[2]).normal(size=t[1]) * 50, t[0]))
layers = st.dictionaries(st.sampled_from(["weight", "bias", "running_mean"]), leaves)
trees = st.recursive(layers, lambda inner: st.lists(inner, max_size=4).map(tuple), max_leaves=8)


@given(tree=trees)
def test_any_tree_comes_back(tmp_path_factory, tree):
    path = tmp_path_factory.mktemp("trees") / "params"
    interop.save_params(path, tree)
    check_equal(interop.load_params(path, shapes(tree)), tree)
    params, state = interop.load_state_dict(interop.state_dict(tree), tree)
    check_equal(params, tree)
    assert state == ()


def test_wide_types_come_back(tmp_path, x64):
    params = {"a": jnp.array([1 / 3]), "n": jnp.array([2**62])}
    interop.save_params(tmp_path / "p", params)
    check_equal(interop.load_params(tmp_path / "p", shapes(params)), params)


def test_nan_and_infinity_come_back(tmp_path):
    params = {"weight": jnp.array([jnp.nan, -jnp.inf, -0.0])}
    interop.save_params(tmp_path / "p", params)
    check_equal(interop.load_params(tmp_path / "p", params), params)


def test_the_layout_in_memory_does_not_matter(tmp_path):
    transposed = np.arange(6, dtype=np.float32).reshape(2, 3).T
    interop.save_params(tmp_path / "p", {"weight": transposed})
    loaded = interop.load_params(tmp_path / "p", {"weight": transposed})
    np.testing.assert_array_equal(loaded["weight"], transposed)


def test_same_params_same_bytes_and_no_metadata(file, tmp_path):
    reordered = ({"bias": PARAMS[0]["bias"], "weight": PARAMS[0]["weight"]}, *PARAMS[1:])
    interop.save_params(tmp_path / "again", reordered)
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
        interop.save_params(file, {"weight": jnp.zeros(3)})
    assert file.read_bytes() == data
    assert os.listdir(file.parent) == [file.name]


def test_a_missing_folder_or_file_is_an_oserror(tmp_path):
    with pytest.raises(FileNotFoundError, match="gone/params"):
        interop.save_params(tmp_path / "gone" / "params", PARAMS)
    with pytest.raises(FileNotFoundError, match="gone"):
        interop.load_params(tmp_path / "gone", PARAMS)
    with pytest.raises(IsADirectoryError):
        interop.load_params(tmp_path, PARAMS)


class Pair(NamedTuple):
    left: jax.Array
    right: jax.Array


def test_named_tuples_and_one_layer_have_keys():
    assert list(interop.state_dict(Pair(jnp.zeros(1), jnp.ones(1)))) == ["left", "right"]
    assert list(interop.state_dict({"weight": jnp.zeros(1)})) == ["weight"]
    assert interop.state_dict(((), ())) == {}


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
        interop.save_params(tmp_path / "p", params)
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
        interop.load_params(file, like)


def test_a_long_list_of_differences_is_cut(file):
    with pytest.raises(ParamsError, match=r"3\.weight is missing.*; and 17 more; expected"):
        interop.load_params(file, tuple({"weight": jnp.zeros(1)} for _ in range(25)))


def test_what_is_no_shape_is_refused(file):
    with pytest.raises(DtypeError, match=r"0\.bias: expected an array to compare with, got float"):
        interop.load_params(file, ({"weight": 1.0, "bias": 1.0}, (), ({"weight": 1.0}, ())))


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
        interop.load_params(path, {"w": jnp.zeros(1)})


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
            interop.load_params(path, PARAMS)


def test_every_truncation_is_refused(file):
    data = file.read_bytes()
    for length in range(len(data)):
        file.write_bytes(data[:length])
        with pytest.raises(ParamsError, match="damaged"):
            interop.load_params(file, PARAMS)


@given(position=st.integers(0, 260), noise=st.binary(min_size=1, max_size=16))
def test_noise_is_refused_or_leaves_the_shapes(tmp_path_factory, position, noise):
    path = tmp_path_factory.mktemp("noise") / "params"
    interop.save_params(path, PARAMS)
    data = bytearray(path.read_bytes())
    data[position : position + len(noise)] = noise
    path.write_bytes(data)
    try:
        loaded = interop.load_params(path, PARAMS)
    except ParamsError as error:
        assert str(error).startswith(str(path))  # noqa: PT017
    else:
        assert shapes(loaded) == shapes(PARAMS)


def test_state_and_params_share_a_state_dict():
    both = interop.state_dict(NORMED, STATE)
    assert set(both) == {
        *("0.weight", "1.weight", "1.bias"),
        *("1.running_mean", "1.running_var", "1.num_batches_tracked"),
    }
    params, state = interop.load_state_dict(both, shapes(NORMED), shapes(STATE))
    check_equal(params, NORMED)
    check_equal(state, STATE)


def test_a_file_may_hold_params_and_state(tmp_path):
    interop.save_params(tmp_path / "both", interop.state_dict(NORMED, STATE))
    params, state = interop.load_state_dict(tmp_path / "both", NORMED, STATE)
    check_equal(params, NORMED)
    check_equal(state, STATE)


def test_params_and_state_of_one_name_are_refused():
    with pytest.raises(ParamsError, match=r"two arrays have the key '0\.weight'"):
        interop.state_dict(({"weight": jnp.zeros(1)},), ({"weight": jnp.zeros(1)},))


def test_integers_are_converted_where_they_fit():
    both = interop.state_dict(NORMED, STATE)
    both["1.num_batches_tracked"] = np.array(7, np.int64)
    check_equal(interop.load_state_dict(both, NORMED, STATE)[1], STATE)
    both["1.num_batches_tracked"] = np.array(2**40, np.int64)
    with pytest.raises(ParamsError, match=r"num_batches_tracked has values that int32 can't hold"):
        interop.load_state_dict(both, NORMED, STATE)


def test_no_memory_is_shared_either_way():
    weight = np.ones((2, 2), np.float32)
    params, _ = interop.load_state_dict({"weight": weight}, {"weight": weight})
    weight[:] = 0
    np.testing.assert_array_equal(params["weight"], 1)
    interop.state_dict(params)["weight"][:] = 0
    np.testing.assert_array_equal(params["weight"], 1)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (object(), r"got object; of a PyTorch module, pass module\.state_dict\(\)"),
        ({0: np.zeros(1)}, "expected strings as keys, got 0"),
        ({"weight": [0.0]}, "weight: expected an array, got list"),
    ],
)
def test_what_is_no_state_dict_is_refused(source, message):
    with pytest.raises(DtypeError, match=message):
        interop.load_state_dict(source, {"weight": jnp.zeros(1)})


MLP = fn.Sequential(fn.Linear(3, 5), fn.Sequential(fn.ReLU(), fn.Linear(5, 2)))


def logits(params, x):
    return MLP.apply(params, ((), ((), ())), x).value


@pytest.mark.torch
class TestTorch:
    def model(self):
        import torch

        torch.manual_seed(0)
        inner = torch.nn.Sequential(torch.nn.ReLU(), torch.nn.Linear(5, 2))
        return torch.nn.Sequential(torch.nn.Linear(3, 5), inner)

    def logits(self, model, x):
        import torch

        with torch.no_grad():
            return model(torch.from_numpy(np.array(x))).numpy()

    @pytest.mark.parametrize("way", ["mapping", "file"])
    def test_to_torch(self, tmp_path, way):
        import safetensors.torch
        import torch

        params, _ = MLP.init(jax.random.key(0))
        x = jax.random.normal(jax.random.key(1), (7, 3))
        if way == "mapping":
            arrays = {k: torch.from_numpy(v) for k, v in interop.state_dict(params).items()}
        else:
            interop.save_params(tmp_path / "p", params)
            arrays = safetensors.torch.load_file(tmp_path / "p")
        model = self.model()
        model.load_state_dict(arrays)
        np.testing.assert_allclose(self.logits(model, x), logits(params, x), rtol=1e-5, atol=1e-5)

    @pytest.mark.parametrize("way", ["mapping", "file"])
    def test_from_torch(self, tmp_path, way):
        import safetensors.torch

        model, x = self.model(), jax.random.normal(jax.random.key(1), (7, 3))
        source = model.state_dict()
        if way == "file":
            safetensors.torch.save_file(source, tmp_path / "p")
            source = tmp_path / "p"
        params, state = interop.load_state_dict(source, *MLP.init(jax.random.key(0)))
        assert state == ((), ((), ()))
        np.testing.assert_allclose(self.logits(model, x), logits(params, x), rtol=1e-5, atol=1e-5)

    def test_batch_norm_and_back(self):
        import torch

        model = torch.nn.Sequential(torch.nn.Linear(2, 2, bias=False), torch.nn.BatchNorm1d(2))
        model(torch.randn(8, 2))
        params, state = interop.load_state_dict(model.state_dict(), NORMED, STATE)
        assert state[1]["num_batches_tracked"] == 1
        expected = model.state_dict()["1.running_var"].numpy()
        np.testing.assert_array_equal(state[1]["running_var"], expected)
        arrays = interop.state_dict(params, state)
        again = torch.nn.Sequential(torch.nn.Linear(2, 2, bias=False), torch.nn.BatchNorm1d(2))
        again.load_state_dict({k: torch.from_numpy(v) for k, v in arrays.items()})
        for key, tensor in model.state_dict().items():
            assert torch.equal(again.state_dict()[key], tensor), key

    def test_narrow_floats_and_views(self):
        import torch

        tensors = {
            "bf16": torch.randn(3, 2, dtype=torch.bfloat16, requires_grad=True),
            "f16": torch.randn(2, 3).half().T,
            "scalar": torch.tensor(1.5),
        }
        like = {
            "bf16": jnp.zeros((3, 2), jnp.bfloat16),
            "f16": jnp.zeros((3, 2), jnp.float16),
            "scalar": jnp.zeros(()),
        }
        params, _ = interop.load_state_dict(tensors, like)
        for key, tensor in tensors.items():
            assert params[key].dtype == like[key].dtype
            wide = np.asarray(params[key], np.float32)
            np.testing.assert_array_equal(wide, tensor.detach().float().numpy())

    def test_a_module_is_no_state_dict(self):
        with pytest.raises(DtypeError, match=r"got Sequential; of a PyTorch module, pass"):
            interop.load_state_dict(self.model(), ())  # pyright: ignore[reportArgumentType]
