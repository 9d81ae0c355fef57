"""Text from a trained run of the gpt experiment: what it writes behind a prompt."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
from tyro.conf import Positional

import funcnet as fn
from experiments import results, shakespeare, texts
from experiments.generation import generate
from experiments.options import require


@dataclasses.dataclass(frozen=True)
class Config:
    """Options: which run, and how to draw."""

    run: Positional[Path]
    """Folder that the gpt experiment wrote: its --out."""
    prompt: str = "\n"
    """What the text begins with."""
    length: int = 500
    """How many characters to write."""
    temperature: float = 0.8
    """Divides the logits: lower is safer; 0 takes the likeliest character."""
    top_k: int | None = None
    """Draw from so many of the likeliest characters."""
    top_p: float | None = None
    """Draw from the likeliest characters that together have this probability."""
    seed: int = 0
    """The same seed writes the same text."""

    def __post_init__(self):
        require("length", self.length, self.length >= 1, "at least 1")


def main(config: Config) -> None:
    """Read the run and write its text."""
    trained, alphabet = read(config.run)
    model = shakespeare.make_model(trained, len(alphabet))
    like, _ = jax.eval_shape(model.init, jax.random.key(0))
    params = fn.load_params(config.run / shakespeare.PARAMS, like)
    drawn = {name: getattr(config, name) for name in ("temperature", "top_k", "top_p")}
    prompt = alphabet.encode(config.prompt)
    key = jax.random.key(config.seed)
    tokens = generate(model, params, prompt, config.length, key, **drawn)
    print(config.prompt + alphabet.decode(tokens))


def read(folder: Path) -> tuple[shakespeare.Config, texts.Alphabet]:
    """Return a run's sizes and alphabet, or raise ResultsError."""
    path = folder / results.FILE_NAME
    try:
        content = json.loads(path.read_bytes())
        sizes = ("layers", "heads", "width", "context")
        chosen: Any = {name: int(content["config"][name]) for name in sizes}
        return shakespeare.Config(**chosen, out=folder), texts.Alphabet(str(content["alphabet"]))
    except OSError as error:
        raise results.ResultsError(
            f"{path}: cannot be read ({error.strerror}); expected the folder of a run of "
            f"`python -m experiments gpt`, which has ended"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise results.ResultsError(
            f"{path}: not of the gpt experiment ({type(error).__name__}: {error})"
        ) from error
