"""Numbers behind the checks: cotangents, finite differences, tolerances."""

from typing import Any

# The leaves of a function's arguments or of its outputs.
Arrays = tuple[Any, ...]
