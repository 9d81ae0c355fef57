"""The `funcnet` command. `funcnet check` verifies a hand-written backward pass.

`funcnet --version` prints the version. A pipe that is closed, as by `head`, ends it quietly.

The exit code is 0 if every check passes, 1 if one fails, and 2 if there was nothing to check: no
such file, function or rule, or arguments that do not fit.
"""

import contextlib
import dataclasses
import importlib
import importlib.util
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from funcnet.testing import Report, RuleError, check_vjp

FAILED, UNUSABLE = 1, 2
CHECK_ARGS = "check_args"
USAGE = """usage: funcnet check TARGET [options]
       funcnet --version

funcnet check --help lists the options."""

Dtype = Literal["float16", "bfloat16", "float32", "float64", "complex64", "complex128"]


class UsageError(ValueError):
    """What to tell a user whose command cannot be carried out."""


@dataclasses.dataclass(frozen=True)
class Check:
    """Verify a hand-written backward pass.

    The file or module is imported, which runs it: check only code that you trust.

    The arguments come from --shape and --dtype, or else from a function check_args() beside the
    function, which returns them as a tuple.
    """

    target: tyro.conf.Positional[str]
    """The function: path/to/file.py:function or package.module:function."""
    shape: Annotated[tyro.conf.UseAppendAction[tuple[str, ...]], tyro.conf.arg(metavar="4,3")] = ()
    """An array argument's shape; once for each argument. An empty string is a scalar's."""
    dtype: Dtype = "float32"
    """The arrays' dtype; their elements are normally distributed."""
    order: Literal[1, 2] = 2
    """1 for a rule that can be differentiated only once."""
    seed: int = 0
    """Of the arrays and of the random cotangents."""
    fast: bool = False
    """Leave out second derivatives and transformations."""
    sharding: bool = False
    """Count failures on several devices as failures."""
    json: bool = False
    """Print the report as JSON."""


@contextlib.contextmanager
def quiet_pipe() -> Iterator[None]:
    """Leave at once, without a traceback, when who reads what is printed has gone, as `head` does.

    The exit code is then the one that a shell gives a command stopped by SIGPIPE, 141.
    """
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        # What is still buffered would raise again when Python ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(128 + getattr(signal, "SIGPIPE", 13))


@quiet_pipe()
def main(arguments: Sequence[str] | None = None) -> None:
    """Carry out a command line and leave with its exit code.

    Args:
        arguments: instead of the process's own.

    Raises:
        SystemExit: always, with the exit code.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:1] in (["-V"], ["--version"]):
        print(f"funcnet {importlib.import_module('funcnet').__version__}")
        sys.exit(0)
    if given[:1] != ["check"]:
        asked = given[:1] in (["-h"], ["--help"])
        print(USAGE, file=sys.stdout if asked else sys.stderr)
        sys.exit(0 if asked else UNUSABLE)
    options = tyro.cli(Check, prog="funcnet check", args=given[1:])
    try:
        report = run_check(options)
    except UsageError as error:
        print(f"funcnet check: {error}", file=sys.stderr)
        sys.exit(UNUSABLE)
    print(json.dumps(report.to_dict(), indent=2) if options.json else report)
    sys.exit(0 if report.passed else FAILED)


def run_check(options: Check) -> Report:
    """Check the function that the options name.

    Raises:
        UsageError: there is no such file, module or function, it has no rule, or the arguments do
            not fit.
    """
    module, function = _load(options.target)
    with jax.enable_x64(options.dtype in ("float64", "complex128")):
        args = _arguments(options, module)
        try:
            return check_vjp(
                function,
                args,
                order=options.order,
                seed=options.seed,
                fast=options.fast,
                sharding=options.sharding,
            )
        except RuleError as error:
            return error.report
        except (TypeError, ValueError) as error:
            raise UsageError(str(error)) from error


def _load(target: str) -> tuple[ModuleType, Callable[..., Any]]:
    where, separator, name = target.rpartition(":")
    if not separator or not where or not name:
        raise UsageError(f"{target!r} is not of the form file.py:function or module:function")
    module = _load_file(Path(where)) if where.endswith(".py") else _load_module(where)
    function: Any = module
    for part in name.split("."):
        function = getattr(function, part, None)
    if function is None:
        raise UsageError(f"{where} defines no {name}")
    return module, function


def _load_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise UsageError(f"there is no file {path}")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise UsageError(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    # A file may import its neighbours, and its dataclasses look their module up.
    sys.path.insert(0, str(path.resolve().parent))
    sys.modules.setdefault(path.stem, module)
    loader = spec.loader

    def run() -> ModuleType:
        loader.exec_module(module)
        return module

    return _imported(path, run)


def _load_module(name: str) -> ModuleType:
    sys.path.insert(0, str(Path.cwd()))
    return _imported(name, lambda: importlib.import_module(name))


def _imported(what: Any, run: Callable[[], ModuleType]) -> ModuleType:
    try:
        return run()
    except Exception as error:
        raise UsageError(f"importing {what} raises {type(error).__name__}: {error}") from error


def _arguments(options: Check, module: ModuleType) -> tuple[Any, ...]:
    if options.shape:
        rng = np.random.default_rng(options.seed)
        return tuple(_array(rng, _shape(text), options.dtype) for text in options.shape)
    check_args = getattr(module, CHECK_ARGS, None)
    if check_args is None:
        raise UsageError(
            f"give the arguments' shapes with --shape, or define {CHECK_ARGS}() beside the function"
        )
    try:
        args = check_args()
    except Exception as error:
        raise UsageError(f"{CHECK_ARGS}() raises {type(error).__name__}: {error}") from error
    if not isinstance(args, tuple):
        raise UsageError(f"{CHECK_ARGS}() must return a tuple, not a {type(args).__name__}")
    return args


def _shape(text: str) -> tuple[int, ...]:
    try:
        shape = tuple(int(size) for size in text.split(",") if size.strip())
    except ValueError as error:
        raise UsageError(f"{text!r} is no shape: give sizes with commas, as 4,3") from error
    if min(shape, default=0) < 0:
        raise UsageError(f"{text!r} is no shape: sizes are not negative")
    return shape


def _array(rng: np.random.Generator, shape: tuple[int, ...], dtype: Dtype) -> jax.Array:
    values = rng.normal(size=shape)
    if dtype.startswith("complex"):
        values = values + 1j * rng.normal(size=shape)
    return jnp.asarray(values, dtype)
