"""What every room shares: checks, descriptions, the differences between JAX versions."""
