"""check_vjp on several devices: a process of its own, with two virtual ones."""

import subprocess
import sys

import pytest

PROGRAM = """
import jax
jax.config.update("jax_num_cpu_devices", 2)
import jax.numpy as jnp, numpy as np
from funcnet.testing import RuleError, check_vjp

def ruled(primal, bwd):
    fn = jax.custom_vjp(primal)
    fn.defvjp(lambda *args: (primal(*args), args), bwd)
    return fn

rng = np.random.default_rng(0)
x = jnp.asarray(rng.normal(size=(4, 3)), jnp.float32)
s = jnp.asarray(rng.normal(size=(1, 3)), jnp.float32)
sine = ruled(jnp.sin, lambda args, g: (g * jnp.cos(args[0]),))
report = check_vjp(sine, (x,), sharding=True)
assert [c.status for c in report.checks[-3:]] == ["passed"] * 3, str(report)

scale = ruled(lambda x, s: x * s, lambda a, g: (g * a[1], (g * a[0]).sum(0, keepdims=True)))
report = check_vjp(scale, (x, s))
assert report.checks[-1].status == "warned", str(report)
assert "psum" in str(report)
try:
    check_vjp(scale, (x, s), sharding=True)
except RuleError as error:
    assert error.report.failed == "shard_map", str(error)
else:
    raise SystemExit("no failure")
"""


@pytest.mark.slow
def test_two_devices():
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
