"""A checkpoint is whole or not believed; what is restored has the bits of what was saved."""

import builtins
import errno
import json
import os
import pickle
import shutil
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import funcnet as fn
from funcnet.errors import ConfigError, DtypeError
from funcnet.io import checkpoint
from funcnet.io.manifest import sealed
from tests.same_bits import assert_same_bits

pytest.importorskip("orbax.checkpoint", reason="needs the extra checkpoint")


class Tree(NamedTuple):
    arrays: dict
    key: jax.Array
    rest: tuple


def make(offset=0):
    return Tree(
        {
            "float32": jnp.arange(12, dtype=jnp.float32).reshape(3, 4) + offset,
            "bfloat16": jnp.asarray([1.5, jnp.nan, -0.0], jnp.bfloat16),
            "float16": jnp.asarray([[6e-8]], jnp.float16),
            "bool": jnp.asarray([True, False]),
            "empty": jnp.zeros((0, 3)),
            "a/b.c['d']": jnp.asarray(-7),
        },
        jax.random.key(offset, impl="rbg"),
        (np.arange(3.0), (), None, jax.random.split(jax.random.key(1), (2, 3))),
    )


TREE = make()


@pytest.fixture
def saved(tmp_path):
    for step in (1, 2, 3):
        checkpoint.save(tmp_path, step, make(step), about={"name": "run", "sizes": [1, 2]})
    return tmp_path


def restore(folder, **about):
    return checkpoint.restore(folder, TREE, about={"name": "run", "sizes": [1, 2], **about})


def test_every_dtype_keeps_its_bits(saved):
    found = restore(saved)
    assert found is not None
    assert found.step == 3
    assert_same_bits(found.tree, make(3))
    assert isinstance(found.tree.rest[0], np.ndarray)
    assert found.tree.rest[0].dtype == np.float64  # which JAX would make float32
    assert jax.random.key_impl(found.tree.key) == jax.random.key_impl(TREE.key)
    jax.random.normal(found.tree.key)


def test_a_template_of_shapes_alone_will_do(saved):
    shapes = jax.eval_shape(lambda: make(0)._replace(rest=()))
    checkpoint.save(saved / "other", 0, make(0)._replace(rest=()))
    found = checkpoint.restore(saved / "other", lambda step: shapes)
    assert found is not None
    assert_same_bits(found.tree, make(0)._replace(rest=()))


def test_the_last_ones_are_kept(tmp_path):
    for step in (5, 1, 30, 200):
        checkpoint.save(tmp_path, step, {"a": jnp.ones(2)}, keep=2)
    assert checkpoint.steps(tmp_path) == [30, 200]
    assert sorted(os.listdir(tmp_path)) == ["00000030", "00000200"]


def test_the_one_just_saved_is_kept_among_later_steps(tmp_path):
    for step in (7, 8, 9, 2):
        checkpoint.save(tmp_path, step, {"a": jnp.ones(2)})
    assert checkpoint.steps(tmp_path) == [2, 8, 9]


def test_a_step_saved_again_is_replaced(saved):
    checkpoint.save(saved, 3, make(9), about={"name": "run", "sizes": [1, 2]})
    found = restore(saved)
    assert found is not None
    assert_same_bits(found.tree, make(9))


def test_nothing_saved(tmp_path):
    assert checkpoint.restore(tmp_path, TREE) is None
    assert checkpoint.restore(tmp_path / "missing", TREE) is None
    (tmp_path / "00000001").write_text("a file")
    (tmp_path / "1").mkdir()
    assert checkpoint.steps(tmp_path) == []


def test_another_run_is_refused_with_every_difference(saved):
    with pytest.raises(fn.CheckpointError) as raised:
        restore(saved, sizes=[1, 3], more=True)
    assert (
        "00000003 is of another run: sizes.1 was 2 and is now 3; more was None and is now True"
        in (str(raised.value))
    )
    assert isinstance(raised.value, ValueError)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            {"arrays": TREE.arrays | {"bool": jnp.ones(3, bool)}},
            ".arrays['bool'] was 'bool[2]' and is now 'bool[3]'",
        ),
        ({"key": jax.random.key(0)}, ".key was 'key<rbg>[]' and is now 'key<fry>[]'"),
        ({"rest": ()}, ".rest[0] was 'float64[3]' and is now None"),
    ],
)
def test_another_tree_is_refused(saved, change, says):
    with pytest.raises(fn.CheckpointError, match="is of another run") as raised:
        checkpoint.restore(saved, TREE._replace(**change), about={"name": "run", "sizes": [1, 2]})
    assert says in str(raised.value)


def files_of(folder: Path):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def damage(path, how):
    data = bytearray(path.read_bytes())
    if how == "a bit flipped":
        data[len(data) // 2] ^= 1
    elif how == "cut in half":
        del data[len(data) // 2 :]
    if how == "missing":
        path.unlink()
    elif how == "zeros":
        path.write_bytes(bytes(len(data)))
    else:
        path.write_bytes(data)


@pytest.mark.parametrize("how", ["a bit flipped", "cut in half", "zeros", "missing"])
def test_any_damaged_file_is_noticed_and_the_checkpoint_before_used(saved, how):
    newest = saved / "00000003"
    whole = {path: path.read_bytes() for path in files_of(newest)}
    assert len(whole) > 5
    for path, content in whole.items():
        damage(path, how)
        with pytest.warns(RuntimeWarning, match="00000003.*the checkpoint of step 2 is used"):
            found = restore(saved)
        assert found is not None
        assert found.step == 2
        assert_same_bits(found.tree, make(2))
        path.write_bytes(content)
    assert restore(saved).step == 3  # pyright: ignore[reportOptionalMemberAccess]


def test_a_surplus_file_is_noticed(saved):
    (saved / "00000003" / "arrays" / "more").write_bytes(b"")
    with pytest.warns(RuntimeWarning, match="surplus or changed: arrays/more"):
        assert restore(saved)


@pytest.mark.skipif(os.name != "posix", reason="needs named pipes")
@pytest.mark.parametrize("name", ["manifest.json", "arrays/more"])
def test_a_pipe_in_a_checkpoint_is_not_waited_for(saved, name):
    path = saved / "00000003" / name
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    with pytest.warns(RuntimeWarning, match="it is no file"):
        assert restore(saved).step == 2  # pyright: ignore[reportOptionalMemberAccess]


def test_none_whole_is_an_error_and_not_a_fresh_start(saved):
    for path in saved.iterdir():
        (path / "manifest.json").write_text("{")
    with pytest.raises(fn.CheckpointError, match=r"no checkpoint is whole: .*00000001.*remove"):
        restore(saved)


def test_arrays_that_do_not_have_their_checksums(saved):
    """Files and manifest agree, but something between the array and the disk went wrong."""
    path = saved / "00000003" / "manifest.json"
    manifest = json.loads(path.read_text())
    del manifest["sha256"]
    manifest["checksums"][".arrays['float32']"] = "0" * 64
    path.write_bytes(sealed(manifest))
    with pytest.warns(RuntimeWarning, match=r"\.arrays\['float32'\] does not have the checksum"):
        assert restore(saved)


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left"), KeyboardInterrupt()])
@pytest.mark.parametrize("place", ["fsync", "rename"])
def test_a_failed_save_leaves_what_was_there(saved, monkeypatch, error, place):
    def fail(*arguments):
        raise error

    if place == "fsync":
        monkeypatch.setattr(os, "fsync", fail)
    else:
        monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(type(error)):
        checkpoint.save(saved, 4, make(4))
    monkeypatch.undo()
    assert sorted(os.listdir(saved)) == ["00000001", "00000002", "00000003"]
    assert restore(saved).step == 3  # pyright: ignore[reportOptionalMemberAccess]


def test_what_orbax_raises_on_a_full_disk_is_an_oserror(saved, monkeypatch):
    import orbax.checkpoint as orbax

    def fail(*arguments, **options):
        raise ValueError("RESOURCE_EXHAUSTED: No space left on device")

    monkeypatch.setattr(orbax.Checkpointer, "save", fail)
    with pytest.raises(OSError, match=r"cannot write a checkpoint: .*No space left"):
        checkpoint.save(saved, 4, make(4))


def test_what_a_killed_save_left_is_cleared_away(saved):
    (saved / ".0123.tmp").mkdir()
    (saved / ".0123.tmp" / "file").write_text("half")
    checkpoint.save(saved, 4, make(4))
    assert sorted(os.listdir(saved)) == ["00000002", "00000003", "00000004"]


def test_a_file_in_the_way(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        checkpoint.save(tmp_path / "file", 1, TREE)


def test_restoring_unpickles_nothing(saved, monkeypatch):
    def refuse(*arguments, **options):
        pytest.fail("something was unpickled")

    for name in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, name, refuse)
    monkeypatch.setattr(builtins, "eval", refuse)
    assert restore(saved)


def test_without_orbax_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "orbax.checkpoint", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'funcnet\[checkpoint\]'"):
        checkpoint.save(tmp_path, 1, TREE)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'funcnet\[checkpoint\]'"):
        checkpoint.restore(tmp_path, TREE)


@pytest.mark.parametrize(
    ("error", "says", "arguments"),
    [
        (ConfigError, "step is -1", {"step": -1}),
        (ConfigError, "step is 1.0", {"step": 1.0}),
        (ConfigError, "keep is 0", {"keep": 0}),
        (ConfigError, "expected JSON values", {"about": {"a": {1, 2}}}),
        (ConfigError, "expected JSON values", {"about": {"a": float("nan")}}),
        (DtypeError, "['a'] is str, expected an array", {"tree": {"a": "text"}}),
    ],
)
def test_mistakes(tmp_path, error, says, arguments):
    given = {"step": 1, "tree": {"a": jnp.ones(2)}} | arguments
    with pytest.raises(error, match=says.replace("[", r"\[")):
        checkpoint.save(tmp_path, given.pop("step"), given.pop("tree"), **given)
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("name", ["with spaces", "Prüfung 検証 %s {0}"])
def test_folders_of_any_name_also_through_a_link(tmp_path, name):
    (tmp_path / name).mkdir()
    (tmp_path / "link").symlink_to(tmp_path / name, target_is_directory=True)
    checkpoint.save(tmp_path / "link", 1, TREE)
    for folder in (tmp_path / name, tmp_path / "link"):
        found = checkpoint.restore(folder, TREE)
        assert found is not None
        assert_same_bits(found.tree, TREE)


def test_a_relative_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    checkpoint.save("run", 1, TREE)
    assert checkpoint.steps(tmp_path / "run") == checkpoint.steps("run") == [1]
    assert checkpoint.restore("run", TREE)


def test_a_copied_folder_is_as_good(saved, tmp_path_factory):
    copy = tmp_path_factory.mktemp("copy") / "run"
    shutil.copytree(saved, copy)
    assert restore(copy).step == 3  # pyright: ignore[reportOptionalMemberAccess]


def test_what_the_run_is_comes_back_and_need_not_be_said_again(saved):
    about = {"name": "run", "sizes": [1, 2]}
    for found in (restore(saved), checkpoint.restore(saved, TREE)):
        assert found is not None
        assert found.about == about
        step, tree = found
        assert step == 3
        assert_same_bits(tree, make(3))
    checkpoint.save(saved, 4, TREE)
    assert checkpoint.restore(saved, TREE).about == {}  # pyright: ignore[reportOptionalMemberAccess]
    with pytest.raises(fn.CheckpointError, match="is of another run: name was None"):
        restore(saved)
    checkpoint.save(saved, 5, TREE, about=about)
    with pytest.raises(fn.CheckpointError, match="is of another run: name was 'run' and is now No"):
        checkpoint.restore(saved, TREE, about={})
