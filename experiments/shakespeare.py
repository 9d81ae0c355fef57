"""A character model: GPT-2 in small, trained on seven plays by Shakespeare, or on a text of yours.

Prints a sample after each epoch. Writes results.json, params.safetensors, samples (one file an
epoch), loss.png and attention.png, where each head looks in a line of the text, into the folder
--out. `python -m experiments gpt sample RUN --prompt "..."` goes on from a prompt.
"""

import dataclasses
import json
import time
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from tqdm import tqdm

import funcnet as fn
from experiments import results, texts
from experiments.generation import generate
from experiments.gpt import GPT
from experiments.options import Training, decayed, require
from funcnet.io.files import write_atomically

LOSS = fn.CrossEntropyLoss()
PARAMS = "params.safetensors"
SAMPLE = 300
"""Characters in the sample after an epoch."""
LINE = 24
"""Characters in the picture of the heads."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(Training):
    """Options."""

    text: Path | None = None
    """A file in UTF-8 to learn instead of the plays."""
    characters: int | None = None
    """Use only the first so many characters of the text."""
    layers: int = 4
    """Blocks."""
    heads: int = 4
    """Of the attention in each block; divides the width."""
    width: int = 128
    """Features of a character."""
    context: int = 64
    """How many characters the network sees."""
    dropout: float = 0.0
    """The probability with which, in training, an entry is dropped."""
    epochs: int = 8
    """How often to pass over the text."""
    stride: int | None = None
    """Characters from the beginning of one example to that of the next; --context by default."""
    batch_size: int = 16
    """Examples in one step."""
    learning_rate: float = 2e-3
    """Largest step size of AdamW, which rises to it over a twentieth of the steps, then falls."""
    weight_decay: float = 0.1
    """How much of each weight, but no bias, AdamW takes away at a step size of 1."""
    seed: int = 0
    """Of the initial weights, the order of the examples and the samples."""
    compare_torch: bool = False
    """Train the same in PyTorch, from the same weights and batches, an epoch after each of ours."""
    out: Path = Path("runs/gpt")

    def __post_init__(self):
        super().__post_init__()
        self.require_counts("layers", "heads", "width", "context", "characters", "stride")
        fits = self.width % self.heads == 0
        require("width", self.width, fits, f"a multiple of --heads {self.heads}")
        require("dropout", self.dropout, 0 <= self.dropout < 1, "at least 0 and below 1")
        alike = not (self.compare_torch and (self.dropout or self.saving))
        require("compare_torch", True, alike, "neither --dropout nor --checkpoint-every, --resume")


class Timed:
    """A callback of `fn.fit` that takes the time.

    Attributes:
        seconds: of each epoch; the first one's includes compiling.
    """

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._began = 0.0

    def on_epoch_begin(self, event: Any) -> None:
        """Start."""
        self._began = time.perf_counter()

    def on_epoch_end(self, event: Any) -> None:
        """Stop."""
        self.seconds.append(time.perf_counter() - self._began)


@dataclasses.dataclass(frozen=True)
class Run:
    """What a configuration comes to: its text, its model, how it is trained."""

    config: Config
    text: str

    @cached_property
    def alphabet(self) -> texts.Alphabet:
        """The text's characters."""
        return texts.Alphabet("".join(sorted(set(self.text))))

    @cached_property
    def tokens(self) -> tuple[texts.Tokens, texts.Tokens]:
        """Those to train on and to validate on."""
        return texts.split(self.alphabet.encode(self.text), self.config.context)

    @cached_property
    def data(self) -> Any:
        """Windows over the text to train on."""
        context = self.config.context
        return fn.data.windows(self.tokens[0], context, self.config.stride or context)

    @cached_property
    def validation(self) -> Any:
        """The rest of the text, each character once."""
        return fn.data.windows(self.tokens[1], self.config.context, self.config.context)

    @property
    def model(self) -> GPT:
        """The network."""
        return make_model(self.config, len(self.alphabet))

    @property
    def steps(self) -> int:
        """Of the descent, all epochs together."""
        return self.config.epochs * -(-len(self.data[0]) // self.config.batch_size)

    @property
    def schedule(self) -> optax.Schedule:
        """The step size by step."""
        rise = min(max(self.steps // 20, 1), 200)
        peak = self.config.learning_rate
        return optax.warmup_cosine_decay_schedule(0.0, peak, rise, self.steps, peak / 10)

    @property
    def optimizer(self) -> optax.GradientTransformation:
        """AdamW on gradients that are clipped; biases and norms do not decay."""
        decay = self.config.weight_decay
        adamw = optax.adamw(self.schedule, b2=0.99, weight_decay=decay, mask=decayed)
        return optax.chain(optax.clip_by_global_norm(1.0), adamw)


def make_model(config: Config, characters: int) -> GPT:
    """The network for an alphabet of so many characters."""
    sizes = config.context, config.width, config.heads, config.layers
    return GPT(characters, *sizes, config.dropout)


def main(config: Config) -> None:
    """Train, sample, and write everything."""
    from experiments import figures  # needs matplotlib: said before anything is trained

    results.prepare_folder(config.out)
    run = Run(config, texts.read(config.text, config.characters))
    peer = None
    if config.compare_torch:
        from experiments import gpt_torch  # says which extra it needs

        peer = gpt_torch.Peer(run)
    result, seconds = train(run, peer)
    fn.save_params(config.out / PARAMS, result.params)
    write(run, result, seconds, peer)
    curves = {"training": result.history["loss"], "validation": result.history["validation_loss"]}
    if peer is not None:
        curves["training, PyTorch"] = np.array(peer.losses)
    figure = figures.losses(curves, "loss of a character, in nats")
    figures.save(figure, config.out / "loss.png")
    line = line_of(run.text[len(run.tokens[0]) :])
    maps = attention_maps(run.model, result.params, run.alphabet.encode(line))
    figures.save(figures.attention(maps, line), config.out / "attention.png")
    if peer is not None:
        print(f"\n{peer.report(result, seconds)}")
    print(f"written to {config.out}: results.json, {PARAMS}, samples, loss.png, attention.png")


def line_of(text: str) -> str:
    """The first whole line that is long enough for the picture, or what there is."""
    lines = [line.strip() for line in text.split("\n")[1:]]
    return next((line for line in lines if len(line) >= LINE), text)[:LINE].replace("\n", " ")


def train(run: Run, peer: Any = None) -> tuple[fn.FitResult, list[float]]:
    """Train with `fn.fit`, a sample after each epoch; also return the seconds of each epoch.

    Raises:
        DivergenceError: the loss became infinite or NaN.
        CheckpointError: what was saved is another run's, or damaged, or not to be resumed.
    """
    config, saving = run.config, {}
    if config.saving:
        every, folder = config.checkpoint_every, config.out / "checkpoints"
        resume = {"resume": config.resume, "checkpoint_every": every}
        saving = {"checkpoint_dir": folder, **resume}
    timed = Timed()
    sizes = sum(array.size for array in jax.tree.leaves(jax.eval_shape(run.model.init, _key(run))))
    print(f"{len(run.text):,} characters, {len(run.alphabet)} different; {sizes:,} parameters")

    def sampled(event: Any) -> None:
        told = {name: event.history[name][-1] for name in ("loss", "validation_loss")}
        losses = ", ".join(f"{name.replace('_', ' ')} {value:.3f}" for name, value in told.items())
        text = sample(run, event.run.params)
        path = config.out / "samples" / f"epoch-{event.epoch + 1}.txt"
        path.parent.mkdir(exist_ok=True)
        write_atomically(path, text.encode())
        tqdm.write(f"\nepoch {event.epoch + 1}: {losses}\n{text}\n")

    result = fn.fit(
        run.model,
        LOSS,
        run.optimizer,
        run.data,
        validation=run.validation,
        epochs=config.epochs,
        batch_size=config.batch_size,
        key=_key(run),
        callbacks=[timed, sampled, *([peer.beside] if peer else [])],
        **saving,
    )
    return result, timed.seconds


def _key(run: Run) -> jax.Array:
    return jax.random.key(run.config.seed)


def sample(run: Run, params: Any) -> str:
    """What the network writes behind the first character of the text it has not seen."""
    prompt = run.tokens[1][:1]
    key = jax.random.fold_in(_key(run), 2**31)
    tokens = generate(run.model, params, prompt, SAMPLE, key, temperature=0.8)
    return run.alphabet.decode(np.concatenate([prompt, tokens]))


def write(run: Run, result: fn.FitResult, seconds: list[float], peer: Any = None) -> None:
    """Write results.json: what `gpt sample` needs, and what was measured."""
    names = ("loss", "validation_loss")
    content = {
        "config": run.config.recorded(),
        "versions": results.versions(),
        "alphabet": run.alphabet.characters,
        "history": {name: result.history[name].tolist() for name in names},
        "seconds": seconds,
    }
    if peer is not None:
        content["torch"] = peer.recorded()
    text = json.dumps(content, indent=2, allow_nan=False, default=str)
    write_atomically(run.config.out / results.FILE_NAME, f"{text}\n".encode())


def attention_maps(model: GPT, params: Any, tokens: texts.Tokens) -> np.ndarray:
    """Where each head looks, (layers, heads, characters, characters): a row is a query's weights.

    `fn.backward` tells what stands between the layers: here the queries and keys of each block.
    """
    state = model.init(jax.random.key(0))[1]
    x = jnp.asarray(tokens[None, : model.context])
    seen = {trace.path: trace for trace in fn.backward(model, params, state, LOSS, x, x).layers}
    maps = []
    for layer in range(model.layers):
        qkv = seen[f"h.{layer}.attn.c_attn"].output[0]
        shape = (len(qkv), 3, model.heads, model.width // model.heads)
        q, k, _ = jnp.moveaxis(qkv.reshape(shape), (1, 2), (0, 1))
        # Of the unit vectors as values, the weights are the output.
        units = jnp.broadcast_to(jnp.eye(len(qkv)), (model.heads, len(qkv), len(qkv)))
        maps.append(fn.ops.scaled_dot_product_attention(q, k, units, is_causal=True))
    return np.stack(maps)
