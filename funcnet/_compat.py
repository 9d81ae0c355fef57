"""Everything that differs between the JAX versions funcnet supports (0.10.2 to 0.12)."""
