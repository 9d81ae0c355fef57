"""The checks of `check_vjp`, a file each, and what each of them gets."""
