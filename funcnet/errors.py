"""funcnet's exceptions: each message says what came, what was expected and the likely mend.

All of them are also the built-in exception a caller would expect (ValueError, TypeError or
ArithmeticError), so nobody has to import this module to catch them.
"""

from typing import Any, Self


class FuncnetError(Exception):
    """Base of everything funcnet raises on purpose."""

    def within(self, place: str) -> Self:
        """The same error, its message led by the place it happened in, such as a layer."""
        return type(self)(f"{place}: {self}")


class ShapeError(FuncnetError, ValueError):
    """An array's shape does not fit the layer, loss or function it was given to."""


class DtypeError(FuncnetError, TypeError):
    """An array's dtype, or a value's type, cannot be used where it was given."""


class ConfigError(FuncnetError, ValueError):
    """A size, name or option has no meaning."""


class ParamsError(FuncnetError, ValueError):
    """Parameters or state do not belong to the model they were given with."""


class DataError(FuncnetError, ValueError):
    """The values of a data set cannot be trained on."""


class DivergenceError(FuncnetError, ArithmeticError):
    """The loss or a parameter became infinite or NaN during training.

    Attributes:
        epoch: the epoch, counted from 0, in which it happened.
        result: the `FitResult` of the last finite epoch: what was learned until then.
    """

    def __init__(self, message: str, epoch: int = -1, result: Any = None):
        super().__init__(message)
        self.epoch = epoch
        self.result = result
