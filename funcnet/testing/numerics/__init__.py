"""Numbers behind the checks: cotangents, finite differences, tolerances."""
