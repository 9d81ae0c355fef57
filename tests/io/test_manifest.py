"""A manifest is believed if it has its own checksum, this format, and the files that it names."""

import json

import jax.numpy as jnp
import pytest

import funcnet as fn
from funcnet.errors import ConfigError
from funcnet.io import checkpoint
from funcnet.io.manifest import as_json, sealed

pytest.importorskip("orbax.checkpoint", reason="needs the extra checkpoint")

TREE = {"a": jnp.ones(2)}


@pytest.fixture
def saved(tmp_path):
    for step in (2, 3):
        checkpoint.save(tmp_path, step, TREE)
    return tmp_path


def restore(folder):
    found = checkpoint.restore(folder, TREE)
    assert found is not None
    return found.step == 2


def test_another_program_is_refused_where_the_versions_are_the_same(tmp_path, monkeypatch):
    checkpoint.save(tmp_path, 1, {"a": jnp.ones(2)}, about={"program": "one"})
    with pytest.raises(fn.CheckpointError, match="program was 'one' and is now 'two'"):
        checkpoint.restore(tmp_path, {"a": jnp.ones(2)}, about={"program": "two"})
    monkeypatch.setattr(fn, "__version__", "99")
    with pytest.warns(RuntimeWarning, match=r"funcnet was .* and is now '99'.* bits may differ"):
        assert checkpoint.restore(tmp_path, {"a": jnp.ones(2)}, about={"program": "two"})


@pytest.mark.parametrize("content", ["[]", "3", "null", "[" * 100_000, '{"sha256": 1}', "\xff", ""])
def test_a_manifest_of_anything_else(saved, content):
    (saved / "00000003" / "manifest.json").write_bytes(content.encode("latin-1"))
    with pytest.warns(RuntimeWarning, match="manifest.json"):
        assert restore(saved)


def test_another_format_is_not_guessed_at(saved):
    path = saved / "00000003" / "manifest.json"
    manifest = json.loads(path.read_text())
    del manifest["sha256"]
    path.write_bytes(sealed(manifest | {"format": 2}))
    with pytest.warns(RuntimeWarning, match="format 2, and this funcnet reads 1"):
        assert restore(saved)


def test_a_manifest_names_its_run_for_people(saved):
    checkpoint.save(saved, 4, TREE, about={"model": {"Linear": [2, 2]}})
    manifest = json.loads((saved / "00000004" / "manifest.json").read_text())
    assert manifest["about"] == {"model": {"Linear": [2, 2]}}
    assert manifest["arrays"] == {"['a']": "float32[2]"}
    assert manifest["versions"] == checkpoint.versions()


@pytest.mark.parametrize("about", [{"a": object()}, {"a": float("inf")}, {(1, 2): 3}])
def test_what_json_has_not_is_refused(about):
    with pytest.raises(ConfigError, match="expected JSON values"):
        as_json(about)
    assert as_json({"a": (1, 2)}) == {"a": [1, 2]}
    assert as_json(None) == {}
