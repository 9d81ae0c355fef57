"""Parameters and state survive the way to PyTorch and back, under other names too."""

import dataclasses
from collections import OrderedDict

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import funcnet as fn
from funcnet.errors import ConfigError, DtypeError, ParamsError
from funcnet.io import interop
from tests.io.examples import NORMED, STATE, check_equal, shapes


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
    fn.save_params(tmp_path / "both", interop.state_dict(NORMED, STATE))
    params, state = interop.load_state_dict(tmp_path / "both", NORMED, STATE)
    check_equal(params, NORMED)
    check_equal(state, STATE)


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
            fn.save_params(tmp_path / "p", params)
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


def numbered(model, seed=0):
    """Parameters and a state in which no two numbers are alike."""
    rng = np.random.default_rng(seed)
    trees = model.init(jax.random.key(0))
    return jax.tree.map(
        lambda leaf: jnp.asarray(rng.uniform(0.5, 1.5, leaf.shape), leaf.dtype), trees
    )


CNN = fn.Sequential(
    fn.Conv2d(3, 4, 3, padding=1), fn.ReLU(), fn.MaxPool2d(2), fn.Flatten(), fn.Linear(24, 5)
)


def test_columns_behind_flatten_are_channels_rows_columns():
    params, state = numbered(CNN)
    columns = interop.state_dict(params, state, model=CNN)["4.weight"].reshape(5, 4, 2, 3)
    expected = params[4]["weight"].reshape(5, 2, 3, 4).transpose(0, 3, 1, 2)
    np.testing.assert_array_equal(columns, expected)


NARROW = fn.Sequential(fn.Conv2d(3, 1, 2), fn.Flatten(), fn.Linear(6, 2))
POOLED = fn.Sequential(fn.Conv2d(3, 4, 2), fn.AdaptiveAvgPool2d(1), fn.Flatten(), fn.Linear(4, 8))
PLAIN = fn.Sequential(fn.Linear(3, 4), fn.Flatten(), fn.BatchNorm1d(4), fn.Linear(4, 2))


@pytest.mark.parametrize("model", [NARROW, POOLED, PLAIN])
def test_where_the_order_is_the_same_nothing_is_moved_or_said(model):
    trees = numbered(model)
    moved, same = interop.state_dict(*trees, model=model), interop.state_dict(*trees)
    for key, array in same.items():
        np.testing.assert_array_equal(moved[key], array)
    check_equal(interop.load_state_dict(moved, *trees), trees)


@pytest.mark.parametrize("way", ["there", "back"])
def test_without_the_model_a_warning_names_both_layers(way):
    trees = numbered(CNN)
    arrays = interop.state_dict(*trees, model=CNN)
    calls = {
        "there": lambda: interop.state_dict(*trees),
        "back": lambda: interop.load_state_dict(arrays, *trees),
    }
    with pytest.warns(RuntimeWarning, match=r"4\.weight seems .*images that 0\.weight.* model="):
        calls[way]()


def torch_twin(model):
    """The network of PyTorch that a model stands for; its named children in one Sequential."""
    from torch import nn

    if isinstance(model, fn.Sequential):
        names = model.names or map(str, range(len(model.layers)))
        return nn.Sequential(OrderedDict(zip(names, map(torch_twin, model.layers), strict=True)))
    arguments = {field.name: getattr(model, field.name) for field in dataclasses.fields(model)}
    return getattr(nn, type(model).__name__)(**arguments)


BEHIND = {
    "Linear": [fn.Linear(24, 5)],
    "activation, Dropout": [
        fn.Tanh(),
        fn.Dropout(0.5),
        fn.Linear(24, 5),
        fn.ReLU(),
        fn.Linear(5, 2),
    ],
    "BatchNorm1d": [fn.BatchNorm1d(24), fn.ReLU(), fn.Linear(24, 5), fn.BatchNorm1d(5)],
    "BatchNorm1d alone": [
        fn.BatchNorm1d(24, affine=False),
        fn.Linear(24, 24, bias=False),
        fn.Linear(24, 2),
    ],
    "LayerNorm": [fn.LayerNorm(24), fn.RMSNorm(24), fn.Linear(24, 5)],
    "names": [fn.Sequential(drop=fn.Dropout(), norm=fn.BatchNorm1d(24), fc=fn.Linear(24, 5))],
    "nested": [fn.Sequential(fn.Sequential(), fn.Sequential(fn.GELU(), fn.Linear(24, 5)))],
}
FEATURES = [fn.Conv2d(3, 4, 3, padding=1), fn.BatchNorm2d(4), fn.ReLU(), fn.MaxPool2d(2)]


@pytest.mark.few(3)
@pytest.mark.torch
@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("name", BEHIND)
def test_a_convolutional_network_predicts_the_same_in_torch_and_back(name, nested):
    import torch

    head = [fn.Flatten(), *BEHIND[name]]
    model = (
        fn.Sequential(fn.Sequential(*FEATURES), fn.Sequential(*head))
        if nested
        else fn.Sequential(*FEATURES, *head)
    )
    params, state = numbered(model)
    twin = torch_twin(model).eval()
    arrays = interop.state_dict(params, state, model=model)
    twin.load_state_dict({key: torch.from_numpy(array) for key, array in arrays.items()})
    x = np.random.default_rng(1).normal(size=(7, 4, 6, 3)).astype(np.float32)
    with torch.no_grad():
        expected = twin(torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2)))).numpy()
    found = model.apply(params, state, jnp.asarray(x)).value
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    back = interop.load_state_dict(twin.state_dict(), params, state, model=model)
    check_equal(back, (params, state))


@pytest.mark.parametrize(
    "call",
    [interop.state_dict, lambda *trees, model: interop.load_state_dict({}, *trees, model=model)],
)
def test_a_model_that_is_none_is_refused(call):
    with pytest.raises(ConfigError, match="model is 'model', expected an instance of"):
        call((), (), model="model")
