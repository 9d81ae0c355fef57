"""The `funcnet` command. `funcnet check` verifies a hand-written backward pass.

`funcnet --version` prints the version. A pipe that is closed, as by `head`, ends it quietly.

The exit code is 0 if every check passes, 1 if one fails, and 2 if there was nothing to check: no
such file, function or rule, or arguments that do not fit.
"""

import ast
import contextlib
import dataclasses
import importlib
import importlib.util
import inspect
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

from funcnet.testing import Report, RuleError, Verdict, Verdicts, check_vjp
from funcnet.testing.recorded import judge
from funcnet.testing.recorded.files import decoded
from funcnet.testing.recorded.rules import rules_of, where

FAILED, UNUSABLE = 1, 2
CHECK_ARGS = "check_args"
USAGE = """usage: funcnet check TARGET ... [options]
       funcnet --version

funcnet check --help lists the options."""

Dtype = Literal["float16", "bfloat16", "float32", "float64", "complex64", "complex128"]


class UsageError(ValueError):
    """What to tell a user whose command cannot be carried out."""


@dataclasses.dataclass(frozen=True)
class Check:
    """Verify hand-written backward passes.

    The file or module is imported, which runs it: check only code that you trust.

    The arguments come from --shape, --dtype and --arg, or else from a function check_args_NAME() or
    check_args() beside the function NAME, which returns them as a tuple. Of a module without a
    function every rule that is defined there is listed, and judged where there is a
    check_args_NAME() or where --recording has its arguments.
    """

    target: tyro.conf.Positional[tuple[str, ...]]
    """The functions, each path/to/file.py:function or package.module:function; or modules."""
    shape: Annotated[tyro.conf.UseAppendAction[tuple[str, ...]], tyro.conf.arg(metavar="4,3")] = ()
    """An array argument's shape; once for each argument. An empty string is a scalar's."""
    arg: Annotated[
        tyro.conf.UseAppendAction[tuple[str, ...]], tyro.conf.arg(metavar="NAME=VALUE")
    ] = ()
    """A static argument's value, a Python literal or else text; once for each."""
    recording: Path | None = None
    """What `pytest --check-vjp --check-vjp-json FILE` wrote."""
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
    if not options.target:
        print(USAGE, file=sys.stderr)
        sys.exit(UNUSABLE)
    sys.exit(_check_all(options))


def _check_all(options: Check) -> int:
    """Check each target and print what was found; the exit code of the worst."""
    codes: list[int] = []
    found: list[Report | Verdicts] = []
    for target in options.target:
        try:
            run = run_check if _names_function(target) else run_module
            report = run(options, target)
        except UsageError as error:
            print(f"funcnet check: {error}", file=sys.stderr)
            codes.append(UNUSABLE)
            continue
        found.append(report)
        codes.append(_code_of(report))
    if options.json:
        every = [_as_json(report) for report in found]
        if every:
            print(json.dumps(every if len(options.target) > 1 else every[0], indent=2))
    else:
        print(*map(_text, found), sep="\n\n", end="\n" if found else "")
    return FAILED if FAILED in codes else max(codes)


def _names_function(target: str) -> bool:
    # The colon of a drive, as in C:\rules.py, is no function's.
    return ":" in target and not target.endswith(".py")


def _code_of(found: Report | Verdicts) -> int:
    if isinstance(found, Report):
        return 0 if found.passed else FAILED
    if found.wrong:
        return FAILED
    return 0 if any(verdict.report is not None for verdict in found) else UNUSABLE


def _as_json(found: Report | Verdicts) -> Any:
    if isinstance(found, Report):
        return found.to_dict()
    return [verdict.to_dict() for verdict in found]


def _text(found: Report | Verdicts) -> str:
    if isinstance(found, Report) or not found.wrong:
        return str(found)
    return f"{found}\n\n{found.reports()}"


def run_module(options: Check, target: str) -> Verdicts:
    """List the rules that a module defines, and judge those of which arguments are known.

    Raises:
        UsageError: there is no such module, or no rule in it; or the recording cannot be read.
    """
    module = _load_file(Path(target)) if target.endswith(".py") else _load_module(target)
    rows = _recorded(options.recording)
    verdicts = Verdicts(
        _verdict(options, module, name, rule, rows) for name, rule in rules_of(module)
    )
    if not verdicts:
        raise UsageError(f"{target} defines no jax.custom_vjp and no jax.custom_jvp")
    return verdicts


def _verdict(
    options: Check, module: ModuleType, name: str, rule: Any, rows: Sequence[Any]
) -> Verdict:
    known = (module.__name__, where(rule))
    if hasattr(module, f"{CHECK_ARGS}_{name}"):
        args = _called(module, f"{CHECK_ARGS}_{name}")
        return judge.judged_by(name, *known, lambda: _checked(options, rule, args))
    for row in rows:
        if row["rule"] == name and row["module"].split(".")[-1] == module.__name__.split(".")[-1]:
            return judge.judged(decoded(row, rule), judge.SECONDS, options.fast)
    advice = f"define {CHECK_ARGS}_{name}() beside it, or pass --recording"
    return Verdict(name, *known, 0, judge.UNJUDGED, f"no arguments are known: {advice}")


def _recorded(path: Path | None) -> Sequence[Any]:
    if path is None:
        return ()
    try:
        rows = json.loads(path.read_text())["rules"]
        for row in rows:
            decoded(row, None)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"{path} is no recording ({type(error).__name__}: {error}); pytest --check-vjp "
            f"--check-vjp-json {path} writes one"
        ) from error
    return rows


def run_check(options: Check, target: str) -> Report:
    """Check a function.

    Raises:
        UsageError: there is no such file, module or function, it has no rule, or the arguments do
            not fit.
    """
    module, function = _load(target)
    with jax.enable_x64(options.dtype in ("float64", "complex128")):
        args = _arguments(options, module, function, target.rpartition(":")[2])
        try:
            return _checked(options, function, args)
        except (TypeError, ValueError) as error:
            raise UsageError(str(error)) from error


def _checked(options: Check, function: Callable[..., Any], args: tuple[Any, ...]) -> Report:
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
    if not all(part.isidentifier() for part in name.split(".")):
        raise UsageError(
            f"{name!r} is not of the form file.py:function, module:function, file.py or module"
        )
    return _imported(name, lambda: importlib.import_module(name))


def _imported(what: Any, run: Callable[[], ModuleType]) -> ModuleType:
    try:
        return run()
    except Exception as error:
        raise UsageError(f"importing {what} raises {type(error).__name__}: {error}") from error


def _arguments(
    options: Check, module: ModuleType, function: Callable[..., Any], name: str
) -> tuple[Any, ...]:
    if options.shape:
        rng = np.random.default_rng(options.seed)
        arrays = [_array(rng, _shape(text), options.dtype) for text in options.shape]
        return _with_static(function, arrays, dict(map(_static, options.arg)))
    if options.arg:
        raise UsageError("--arg gives static arguments: give the arrays' shapes with --shape too")
    for check_args in (f"{CHECK_ARGS}_{name}", CHECK_ARGS):
        if hasattr(module, check_args):
            return _called(module, check_args)
    raise UsageError(
        f"give the arguments' shapes with --shape, or define {CHECK_ARGS}() beside the function"
    )


def _called(module: ModuleType, name: str) -> tuple[Any, ...]:
    try:
        args = getattr(module, name)()
    except Exception as error:
        raise UsageError(f"{name}() raises {type(error).__name__}: {error}") from error
    if not isinstance(args, tuple):
        raise UsageError(f"{name}() must return a tuple, not a {type(args).__name__}")
    return args


def _static(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise UsageError(f"--arg {text!r} is not of the form name=value, as axis=-1")
    with contextlib.suppress(ValueError, SyntaxError):
        return name, ast.literal_eval(value)
    return name, value


def _with_static(
    function: Callable[..., Any], arrays: list[jax.Array], static: dict[str, Any]
) -> tuple[Any, ...]:
    """The arguments in the function's order: static ones by name, arrays in the others' places."""
    if not static:
        return tuple(arrays)
    parameters = list(inspect.signature(function).parameters)
    if unknown := [name for name in static if name not in parameters]:
        raise UsageError(f"--arg {unknown[0]}: the function takes {', '.join(parameters)}")
    rest, args = list(arrays), []
    for name in parameters:
        if name in static:
            args.append(static.pop(name))
        elif rest:
            args.append(rest.pop(0))
        elif static:
            raise UsageError(
                f"the function takes {', '.join(parameters)}: give --shape for {name} too"
            )
    return (*args, *rest)


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
