"""check_vjp: verify a hand-written backward pass."""
