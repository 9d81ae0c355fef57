"""Everything that differs between the JAX versions funcnet supports (0.10.2 to 0.12)."""

import jax


def varying_axes(x: jax.Array) -> frozenset[str]:
    """The mesh axes over which `x` differs inside `shard_map`; empty outside of one."""
    # 0.9 and earlier called this `typeof(x).vma`.
    return jax.typeof(x).manual_axis_type.varying
