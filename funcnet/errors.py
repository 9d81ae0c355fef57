"""funcnet's exceptions: each message says what came, what was expected and the likely fix.

All of them are also the built-in exception a caller would expect (ValueError, TypeError or
ArithmeticError), so nobody has to import this module to catch them.
"""

from typing import Any


class FuncnetError(Exception):
    """Base of everything funcnet raises on purpose.

    Attributes:
        layer_path: the layer it happened in: an index or a name for each container from the
            outermost inwards; empty outside of layers.
        layer: that layer's repr.
        subject: which of several data sets it is about; empty where there is one.
    """

    layer_path: tuple[int | str, ...] = ()
    layer: str = ""
    subject: str = ""

    def __str__(self) -> str:
        message = super().__str__()
        if self.layer_path:
            unnamed = self.layer and self.layer not in message
            layer = f", {self.layer}" if unnamed else ""
            message = f"layer {'.'.join(map(str, self.layer_path))}{layer}: {message}"
        return f"{self.subject}: {message}" if self.subject else message


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


class CheckpointError(FuncnetError, ValueError):
    """A checkpoint is damaged, or of another run than the one to be continued."""


class TrainingInterrupted(KeyboardInterrupt):
    """Ctrl-C stopped a run. No `FuncnetError`, so that `except Exception` lets it pass.

    Attributes:
        result: the `FitResult` of the last epoch: what was learned until then.
    """

    def __init__(self, message: str, result: Any = None):
        super().__init__(message)
        self.result = result


class DivergenceError(FuncnetError, ArithmeticError):
    """The loss or a parameter became infinite or NaN during training.

    Attributes:
        epoch: the epoch, counted from 0, in which it happened.
        result: the `FitResult` of the last finite epoch: what was learned until then.
        diagnosis: the step, the gradient's norm and the step size, a `diagnosis.Diagnosis`; None
            where it is not known.
    """

    def __init__(self, message: str, epoch: int = -1, result: Any = None, diagnosis: Any = None):
        super().__init__(message)
        self.epoch = epoch
        self.result = result
        self.diagnosis = diagnosis
