"""Checkpoints in processes that jax.distributed has joined: nothing is lost in silence."""

from tests.joined import run_joined

SAVE = """
import jax.numpy as jnp
from funcnet.errors import ConfigError
from funcnet.io import checkpoint
from jax.experimental import multihost_utils

rank, folder = jax.process_index(), sys.argv[4]
tree = {"a": jnp.arange(5.0), "key": jax.random.key(3)}
try:
    checkpoint.save(f"{folder}/{rank}", 1, tree)
except ConfigError as error:
    print(error)
multihost_utils.sync_global_devices("saved")
step, found = checkpoint.restore(f"{folder}/0", tree)
print(step, found["a"].tolist(), jax.random.key_data(found["key"]).tolist())
print(checkpoint.steps(f"{folder}/1"))
"""

SPREAD = """
import numpy as np
from funcnet.errors import ConfigError
from funcnet.io import checkpoint
from jax.sharding import NamedSharding, PartitionSpec

mesh = jax.make_mesh((2,), ("data",))
def placed(spec):
    place = NamedSharding(mesh, spec)
    return jax.make_array_from_callback((4,), place, lambda i: np.arange(4.0)[i])
if jax.process_index() == 0:
    checkpoint.save(sys.argv[4], 1, {"a": placed(PartitionSpec())})
    print(checkpoint.restore(sys.argv[4], {"a": np.zeros(4, "f4")}).tree["a"].tolist())
    try:
        checkpoint.save(sys.argv[4], 2, {"a": placed(PartitionSpec("data"))})
    except ConfigError as error:
        print(error)
    print(checkpoint.steps(sys.argv[4]))
"""


def test_process_0_saves_and_all_restore(tmp_path):
    first, second = run_joined(SAVE, str(tmp_path))
    restored = "1 [0.0, 1.0, 2.0, 3.0, 4.0] [0, 3]\n[]\n"
    assert first == restored
    assert second == (
        "this is process 1 of 2, and checkpoints are written by process 0 alone; save under "
        "`if jax.process_index() == 0`, in a folder that all see: each of them may restore\n"
        + restored
    )


def test_an_array_that_is_spread_is_refused_before_anything_is_written(tmp_path):
    first, _ = run_joined(SPREAD, str(tmp_path))
    restored, refused, steps, *_ = first.splitlines()
    assert restored == "[0.0, 1.0, 2.0, 3.0]"
    assert refused.startswith("an array float32[4] is spread over several processes; gather it")
    assert steps == "[1]"
