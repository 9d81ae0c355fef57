"""How a frozen dataclass converts its own fields."""

from typing import Any


def set_fields(instance: Any, **values: Any) -> None:
    """Set fields of a frozen dataclass; for its `__post_init__` or `__init__` alone.

    What a user gave (numpy's integers, lists) is stored as what hashes and compares by value.
    """
    for name, value in values.items():
        object.__setattr__(instance, name, value)
