"""Run an experiment: python -m experiments NAME [options]; --help after the name lists them."""

import contextlib
import importlib
import shlex
import signal
import sys
from typing import Any

import jax
import tyro

import funcnet as fn
from experiments.datasets import cache_folder
from funcnet.cli import quiet_pipe
from funcnet.errors import FuncnetError

NAMES = {
    "disk": "the paper's toy problem: Tables I and II and Figures 1 to 3",
    "mnist": "handwritten digits: Table III, learning curves, and what is misread",
    "deep": "a network too deep to train, and what batch norm and residuals make of it",
    "gpt": "a character model of Shakespeare: GPT-2 in small, its samples and attention",
    "gpt sample": "text from a trained run of gpt",
    "predict": "classify an image with a trained run of mnist",
    "kill_table": "who catches which wrong backward pass: check_vjp and the tools there are",
    "reports": "sample reports of check_vjp, for its documentation",
    "bench": "how fast funcnet trains, beside what people would use instead",
    "third_party": "check_vjp on backward passes that other packages define",
}

MODULES = {
    **{name: f"kill_table.{name}" for name in ("reports", "third_party")},
    "gpt": "shakespeare",
    "gpt sample": "gpt_sample",
}
"""Where an experiment is not in the module of its name."""


def main(arguments: list[str]) -> int:
    """Run one experiment; return the exit code."""
    name = arguments[0] if arguments else "--help"
    if (two_words := " ".join(arguments[:2])) in NAMES and len(arguments) > 1:
        name, arguments = two_words, arguments[1:]
    if name not in NAMES:
        listed = "\n".join(f"  {name:<12} {what}" for name, what in NAMES.items())
        usage = f"usage: python -m experiments NAME [options]\n\n{listed}"
        if name in ("-h", "--help"):
            print(usage)
            return 0
        print(f"no experiment is called {name!r}\n\n{usage}", file=sys.stderr)
        return 2
    # Compiled programs are kept, so that the same experiment starts at once the next time.
    jax.config.update("jax_compilation_cache_dir", str(cache_folder() / "xla"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
    experiment = importlib.import_module(f"experiments.{MODULES.get(name, name)}")
    # Defaults may depend on another option.
    defaults = getattr(experiment, "defaults", None)
    config = tyro.cli(
        experiment.Config,
        default=defaults(arguments[1:]) if defaults else tyro.MISSING_NONPROP,
        prog=f"python -m experiments {name}",
        description=experiment.__doc__,
        args=arguments[1:],
    )
    try:
        run(experiment, config)
    except (FuncnetError, OSError, ModuleNotFoundError) as error:
        # What the user can mend gets a sentence; a traceback is for bugs.
        print(f"python -m experiments {name}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as stop:
        if not getattr(config, "saving", False):
            raise
        again = shlex.join([*arguments, *(["--resume"] if "--resume" not in arguments else [])])
        print(f"python -m experiments {name}: stopped; to go on:", file=sys.stderr)
        print(f"    python -m experiments {again}", file=sys.stderr)
        return 128 + next((n for n in stop.args if isinstance(n, int)), signal.SIGINT)  # as shells
    return 0


@quiet_pipe()
def run(experiment: Any, config: Any) -> None:
    """Run the experiment's main with the options."""
    with contextlib.ExitStack() as stack:
        seen = stack.enter_context(fn.debugging()) if getattr(config, "debug", False) else None
        if getattr(config, "saving", False):
            # As Ctrl-C: `fit` saves, then it is an exception, and `main` says how to go on.
            before = signal.signal(signal.SIGTERM, signal.default_int_handler)
            stack.callback(signal.signal, signal.SIGTERM, before)
        experiment.main(config)
    if seen is not None:
        print(f"\n{seen}")


if __name__ == "__main__":
    sys.exit(quiet_pipe()(main)(sys.argv[1:]))
