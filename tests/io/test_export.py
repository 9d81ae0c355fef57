"""`export`: every layer, alone and behind the others, for a batch of any size, without funcnet."""

import subprocess
import sys

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import funcnet as fn
from funcnet.errors import ConfigError, ParamsError, ShapeError
from tests.layers.test_composition import BATCH, Towers
from tests.layers.test_rules_only import LAYERS

KEY = jax.random.key(0)
WIDE = fn.Sequential(fn.Linear(3, 70), fn.ReLU(), fn.Linear(70, 2))
X = jax.random.normal(KEY, (9, 3))


def trained_like(model):
    """Parameters, and a state that is not the first one."""
    params, state = model.init(KEY)
    return params, jax.tree.map(lambda a: a + 1, state)


def applied(model, params, state, x):
    return jax.jit(lambda x: model.apply(params, state, x)[0])(x)


def read_back(exported):
    return jax.export.deserialize(bytearray(exported.serialize()))


@pytest.mark.few(6)
@pytest.mark.parametrize("kind", LAYERS, ids=lambda kind: kind.__name__)
def test_every_layer_for_a_batch_of_any_size(kind):
    layer, x = LAYERS[kind]
    params, state = trained_like(layer)
    program = read_back(fn.export(layer, params, state, x.shape[1:], dtype=x.dtype))
    for batch in (x, jnp.concatenate([x, x, x])[:7]):
        expected = applied(layer, params, state, batch)
        np.testing.assert_allclose(program.call(batch), expected, rtol=1e-5, atol=1e-6)


def test_fit_and_predict_export_too():
    """`Trainer.predict` divides into batches; of an open size it makes one."""
    y = (X[:, 0] > 0).astype(int)
    result = fn.fit(
        WIDE, fn.CrossEntropyLoss(), optax.sgd(0.1), (X, y), epochs=1, key=KEY, progress=False
    )
    (batch,) = jax.export.symbolic_shape("batch")
    shape = jax.ShapeDtypeStruct((batch, 3), jnp.float32)
    by_predict = jax.export.export(jax.jit(result.predict))(shape)
    ours = fn.export(WIDE, result.params, result.state, (3,))
    for program in (by_predict, ours):
        for x in (X, X[:2]):
            np.testing.assert_allclose(program.call(x), result.predict(x), rtol=1e-5, atol=1e-6)


def test_all_axes_with_names_for_the_open_ones():
    params, state = trained_like(WIDE)
    for shape in [(None, None, 3), ("examples", "time", 3), ["a", 4, 3]]:
        program = fn.export(WIDE, params, state, shape)
        x = jnp.ones((2, 4, 3))
        assert program.call(x).shape == (2, 4, 2)
    fixed = fn.export(WIDE, params, state, ("a", 4, 3))
    with pytest.raises(ValueError, match=r"shape\[1\]"):
        fixed.call(jnp.ones((2, 5, 3)))


def test_a_tree_of_inputs():
    towers = Towers()
    params, state = towers.init(KEY)
    shapes = {"pixels": (3,), "label": jax.ShapeDtypeStruct((), jnp.int32)}
    program = read_back(fn.export(towers, params, state, shapes))
    found, expected = program.call(BATCH), towers.apply(params, state, BATCH)[0]
    np.testing.assert_array_equal(found["label"], expected["label"])
    np.testing.assert_allclose(found["product"], expected["product"], rtol=1e-5, atol=1e-6)


def test_the_input_has_the_dtype_of_the_parameters():
    params, state = WIDE.init(KEY, dtype=jnp.bfloat16)
    assert fn.export(WIDE, params, state, (3,)).in_avals[0].dtype == jnp.bfloat16


def test_the_same_model_gives_the_same_bytes(tmp_path):
    params, state = trained_like(WIDE)
    for name in "ab":
        fn.export(WIDE, params, state, (3,), path=tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b"]


SERVER = """
import sys
import jax.export
import numpy as np
program = jax.export.deserialize(bytearray(open(sys.argv[1], "rb").read()))
np.save(sys.argv[2], program.call(np.load(sys.argv[2])))
assert "funcnet" not in sys.modules
"""


@pytest.mark.slow
def test_it_runs_without_funcnet(tmp_path):
    model = fn.Sequential(
        fn.Conv2d(1, 4, 3, padding=1), fn.BatchNorm2d(4), fn.ReLU(), fn.MaxPool2d(2), fn.Flatten(),
        fn.Linear(64, 3),
    )  # fmt: skip
    params, state = trained_like(model)
    path, data = tmp_path / "model.stablehlo", tmp_path / "x.npy"
    fn.export(model, params, state, (8, 8, 1), path=path)
    x = np.random.default_rng(0).normal(size=(5, 8, 8, 1)).astype(np.float32)
    np.save(data, x)
    subprocess.run([sys.executable, "-c", SERVER, path, data], check=True, cwd=tmp_path)
    np.testing.assert_allclose(np.load(data), applied(model, params, state, x), rtol=1e-5)


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_for_a_platform_that_is_not_here(platform):
    params, state = WIDE.init(KEY)
    program = fn.export(WIDE, params, state, (3,), platforms=["cpu", platform])
    assert program.platforms == ("cpu", platform)
    np.testing.assert_allclose(
        program.call(X), applied(WIDE, params, state, X), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize(
    "shape", [None, 3, np.int64(3), (3.0,), (True,), ("a b", 3), (-1, 3), {"x": None}]
)
def test_what_is_no_shape_is_refused(shape):
    with pytest.raises(ShapeError, match="input_shape is"):
        fn.export(WIDE, *WIDE.init(KEY), shape)


def test_what_does_not_fit_is_refused_in_the_layers_words():
    with pytest.raises(ShapeError, match="layer 0: Linear"):
        fn.export(WIDE, *WIDE.init(KEY), (4,))
    with pytest.raises(ParamsError, match=r"model\.init"):
        fn.export(WIDE, (), (), (3,))
    with pytest.raises(ConfigError, match=r"expected an instance of funcnet\.Module"):
        fn.export(lambda x: x, (), (), (3,))  # pyright: ignore[reportArgumentType]


def test_a_file_that_cannot_be_written_names_itself(tmp_path):
    with pytest.raises(OSError, match="absent"):
        fn.export(WIDE, *WIDE.init(KEY), (3,), path=tmp_path / "absent" / "model")


def test_without_flatbuffers_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "flatbuffers", None)
    monkeypatch.delitem(sys.modules, "jax._src.export.serialization", raising=False)
    with pytest.raises(ModuleNotFoundError, match=r"funcnet\[export\]"):
        fn.export(WIDE, *WIDE.init(KEY), (3,), path=tmp_path / "model")
