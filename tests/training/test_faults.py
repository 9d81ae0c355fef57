"""Processes killed at random moments and disks that fail: nothing is lost, nothing is wrong.

A failing test prints the moments, drawn from SEED, at which it killed.
"""

import contextlib
import os
import random
import re
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from funcnet.io import checkpoint
from tests import killed
from tests.experiments.left_behind import content

pytest.importorskip("orbax.checkpoint", reason="needs the extra checkpoint")
pytestmark = pytest.mark.skipif(os.name != "posix", reason="POSIX signals and limits")

SEED = 20
ROOT = Path(__file__).parent.parent.parent
RUN = ["-m", "tests.killed"]


def start(*arguments, cache):
    """A Python process that compiles what no other one here has compiled before it."""
    environment = os.environ | {
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "XDG_CACHE_HOME": str(cache),
    }
    command = [sys.executable, *map(str, arguments)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=ROOT, env=environment, **pipes)


def finish(*arguments, cache):
    process = start(*arguments, cache=cache)
    out, err = process.communicate()
    assert process.returncode == 0, err
    return out


def kill_on_the_way(folder, epochs, seconds, *arguments, cache):
    """Kill a process so long after it has saved so many more epochs; say whether it still ran."""
    process = start(*arguments, cache=cache)
    goal = saved_epochs(folder) + epochs
    while process.poll() is None and epochs and saved_epochs(folder) < goal:
        time.sleep(0.002)
    time.sleep(seconds)
    process.kill()
    _, err = process.communicate()
    assert process.returncode in (-signal.SIGKILL, 0), err
    return process.returncode != 0


def saved_epochs(folder):
    """How many epochs have been saved in all the folders of checkpoints under this one."""
    with contextlib.suppress(FileNotFoundError):  # one is renamed while they are listed
        saved = {}
        for path in folder.rglob("[0-9]*"):
            if path.name.isdecimal():
                saved[path.parent] = max(saved.get(path.parent, 0), int(path.name))
        return sum(saved.values())
    return 0


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """What a run that nobody kills prints: this process's, so that another one's must equal it."""
    return f"{killed.train(tmp_path_factory.mktemp('whole'))}\n"


def kill_in_saves(folder, cache, moments):
    """Kill a process for each (save, seconds); return the steps saved after each."""
    saved = []
    for save, seconds in moments:
        process = start(*RUN, folder, save, seconds, cache=cache)
        _, err = process.communicate()
        assert process.returncode in (-signal.SIGKILL, 0), err
        saved.append(max(checkpoint.steps(folder), default=0))
    return saved


@pytest.mark.slow
def test_killed_in_saves_the_run_ends_with_the_same_bits(tmp_path, cache, whole):
    random.seed(SEED)
    moments = [(random.randint(1, 8), random.uniform(0, 0.05)) for _ in range(2)]
    saved = kill_in_saves(tmp_path, cache, moments)
    # Each process goes on where the one before was: the saves before the deadly one are kept.
    expected = np.cumsum([save - 1 for save, _ in moments])
    assert all(np.array(saved) >= expected), moments
    assert finish(*RUN, tmp_path, cache=cache) == whole, moments


@pytest.mark.slow
def test_killed_in_many_saves(tmp_path, cache, whole):
    """25 kills over 5 runs, from the first instant of a save to after its end."""
    random.seed(SEED)
    for run in range(5):
        folder = tmp_path / str(run)
        moments = [(random.randint(1, 6), random.uniform(0, 0.12)) for _ in range(5)]
        saved = kill_in_saves(folder, cache, moments)
        expected = np.cumsum([save - 1 for save, _ in moments])
        assert all(np.array(saved) >= expected), moments
        assert finish(*RUN, folder, cache=cache) == whole, moments


@pytest.mark.slow
def test_a_second_process_is_refused_and_the_first_unharmed(tmp_path, cache, whole):
    first = start(*RUN, tmp_path, cache=cache)
    while first.poll() is None and not saved_epochs(tmp_path):
        time.sleep(0.002)
    first.send_signal(signal.SIGSTOP)  # it holds the folder for as long as the second one takes
    try:
        second = start(*RUN, tmp_path, cache=cache)
        _, err = second.communicate()
    finally:
        first.send_signal(signal.SIGCONT)
    out, _ = first.communicate()
    assert second.returncode == 1
    says = (
        f"{tmp_path} is in use by process {first.pid} on .*; wait until it has ended, stop it, or"
    )
    assert re.search(f"CheckpointError: {says}", err), err
    assert out == whole


@pytest.mark.slow
def test_a_killed_process_leaves_no_lock(tmp_path, cache, whole):
    assert kill_on_the_way(tmp_path, 2, 0.0, *RUN, tmp_path, cache=cache)
    assert (tmp_path / ".lock").exists()
    assert finish(*RUN, tmp_path, cache=cache) == whole


LOCK = "import sys; from funcnet.io.checkpoint import locked; locked(sys.argv[1]).__enter__()"


def test_two_processes_do_not_share_a_folder(tmp_path, cache):
    with checkpoint.locked(tmp_path):
        process = start("-c", LOCK, tmp_path, cache=cache)
        _, err = process.communicate()
    assert process.returncode == 1
    assert f"is in use by process {os.getpid()} on" in err
    assert finish("-c", LOCK, tmp_path, cache=cache) == ""


def draw_moment(epochs, seconds):
    """How long to let a run go on: some epochs, none for a time at which it may not even train."""
    epochs = random.randint(0, epochs)
    return epochs, random.uniform(0, seconds if epochs else 3)


@pytest.mark.slow
def test_killed_at_any_time(tmp_path, cache, whole):
    """While it imports, compiles, trains or saves."""
    random.seed(SEED)
    for run in range(3):
        folder = tmp_path / str(run)
        moments = [draw_moment(5, 0.1) for _ in range(4)]
        for moment in moments:
            before = saved_epochs(folder)
            assert kill_on_the_way(folder, *moment, *RUN, folder, cache=cache), moments
            assert saved_epochs(folder) >= before, moments
        assert finish(*RUN, folder, cache=cache) == whole, moments


EXPERIMENTS = {
    "disk": (15, "disk --seeds 3 --epochs 60 --hidden 8 --checkpoint-every 3"),
    "mnist": (3, "mnist --seeds 2 --epochs 30 --hidden 16 --train-size 1000 --checkpoint-every 1"),
    "cnn": (2, "mnist --model cnn --seeds 1 --epochs 15 --train-size 200 --checkpoint-every 1"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_killed_at_any_time(tmp_path, cache, name):
    random.seed(SEED)
    epochs, options = EXPERIMENTS[name]
    command = ["-m", "experiments", *options.split(), "--resume", "--out"]
    finish(*command, tmp_path / "whole", cache=cache)
    folder = tmp_path / "killed"
    moments = [draw_moment(epochs, 0.1) for _ in range(6)]
    for moment in moments:
        before = saved_epochs(folder)
        assert kill_on_the_way(folder, *moment, *command, folder, cache=cache), moments
        assert saved_epochs(folder) >= before, moments
    finish(*command, folder, cache=cache)
    assert content(folder) == content(tmp_path / "whole"), moments


TREE = {"a": jnp.asarray(np.random.default_rng(0).normal(size=30_000), jnp.float32)}


def test_a_write_that_fails_half_way_is_an_oserror_and_leaves_nothing(tmp_path):
    """A limit on the size of files makes Orbax's writes fail, as a full disk does."""
    checkpoint.save(tmp_path, 1, TREE)
    usual = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, usual[1]))
    try:
        with pytest.raises(OSError, match=r"cannot write a checkpoint|File too large"):
            checkpoint.save(tmp_path, 2, TREE)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, usual)
    assert os.listdir(tmp_path) == ["00000001"]
    checkpoint.save(tmp_path, 2, TREE)
    assert checkpoint.steps(tmp_path) == [1, 2]


FILL = """
import os, sys, numpy as np
from funcnet import checkpoint
tree = {"a": np.random.default_rng(0).normal(size=30_000)}
for step in range(100):
    if step == 3:
        os.system(sys.argv[2])
    try:
        checkpoint.save(sys.argv[1], step, tree, keep=100)
    except OSError as error:
        print(error)
        break
print(checkpoint.restore(sys.argv[1], tree).step, checkpoint.steps(sys.argv[1])[-1] + 1, step)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("limit", "then", "says"),
    [
        ("size=1m", "true", r"cannot write a checkpoint|No space left"),
        ("size=64m,nr_inodes=60", "true", r"cannot write a checkpoint|No space left"),
        ("size=64m", "mount -o remount,ro {}", "Read-only file system"),
    ],
    ids=["full", "no more files", "read-only from the third save on"],
)
def test_a_disk_that_fails(tmp_path, limit, then, says):
    """A real one, where this user may mount it."""
    folder = shlex.quote(str(tmp_path))
    mount = f"mount -t tmpfs -o {limit} none {folder}"
    fill = shlex.join([sys.executable, "-c", FILL, str(tmp_path), then.format(folder)])
    unshare = shutil.which("unshare")
    if unshare is None or subprocess.run([unshare, "-mr", "true"], check=False).returncode:
        pytest.skip("no mount namespaces here")
    done = subprocess.run(
        [unshare, "-mr", "sh", "-c", f"{mount} && {fill}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if "mount:" in done.stderr:
        pytest.skip("no mounts here")
    assert done.returncode == 0, done.stderr
    said, steps = done.stdout.strip().splitlines()[-2:]
    assert re.search(says, said), said
    last, after, failed = map(int, steps.split())
    assert last + 1 == after == failed > 0


def test_the_worker_is_long_enough_to_be_killed_in_eight_saves():
    assert killed.EPOCHS > 2 * 8
