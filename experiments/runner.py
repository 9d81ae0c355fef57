"""How the experiments train their seeds with `fn.fit`, and keep what each came to.

With --checkpoint-every or --resume, each seed is saved in a folder of its own in `checkpoints`, in
the experiment's folder. The checkpoints of a seed that is finished stay: with --resume it is read
instead of trained.
"""

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from tqdm import tqdm

import funcnet as fn
from experiments import results, tables
from experiments.options import Options
from funcnet.errors import CheckpointError
from funcnet.io.files import write_atomically

FINISHED = "every seed was finished already: nothing was trained"

Outputs = Callable[[Any], Any]
"""Maps features, (examples, ...), to a network's output, (examples, classes)."""

After = Callable[[int, Outputs], None]
"""Is called after each epoch with how many there were, and the network as it is then."""


class Seed(NamedTuple):
    """One seed's training."""

    loss: str
    """As in `results.Run`, and so the next."""
    number: int
    name: str
    """Of its files."""
    title: str
    """Of its progress bar and its errors."""
    trainer: fn.Trainer
    data: tuple[Any, Any]
    key: jax.Array
    """Of the initial weights and the order."""
    model: str | None = None


class Learned(NamedTuple):
    """What a seed's training in one framework came to."""

    framework: str
    """As in `results.Run`."""
    losses: np.ndarray
    """(epochs,), the mean over the training examples as they were seen."""
    outputs: Outputs
    seconds: float
    compile_seconds: float
    apart: Mapping[str, Sequence[float]] = {}
    """Where both frameworks started alike, the largest absolute differences between them after each
    epoch: of "loss", and of each parameter under PyTorch's key."""

    def scores(self, **sets: tuple[Any, Any]) -> dict[str, float]:
        """Return accuracy and F1 on the sets (x, y) given by name, named as in `results.Run`."""
        found = {}
        for name, (x, y) in sets.items():
            predicted = labels(self.outputs, x)
            found[f"accuracy_{name}"] = fn.metrics.accuracy(y, predicted)
            found[f"f1_{name}"] = fn.metrics.f1_score(y, predicted)
        return found


def labels(outputs: Outputs, x: Any) -> np.ndarray:
    """Return the class of the largest output for each example, (examples,)."""
    return np.asarray(outputs(x)).argmax(axis=-1)


@contextlib.contextmanager
def running(
    options: Options, paper: tables.Paper, keep_params: bool = True
) -> Iterator["Experiment"]:
    """Keep what the block trains in the experiment's folder; no other process may save there.

    Args:
        options: of the experiment.
        paper: the tables to put beside.
        keep_params: whether each seed's parameters are written.

    Raises:
        ResultsError: the folder can't be used, see `results.prepare_out`.
        CheckpointError: there are checkpoints and `resume` does not ask for them, or they are of
            more or fewer epochs, or another process is saving there.
        DivergenceError: at the end, if every seed was left out.
    """
    results.prepare_out(options.out)
    experiment = Experiment(options, paper, keep_params)
    with contextlib.ExitStack() as stack:
        if options.saving:
            stack.enter_context(fn.checkpoint.locked(experiment.checkpoints))
            experiment.require_continuable()
        yield experiment
    if not experiment.runs:
        first = experiment.diverged[0].epoch
        raise fn.DivergenceError(
            f"every seed diverged, the first one in epoch {first}; lower --learning-rate",
            epoch=first,
        )


class Experiment:
    """The seeds trained so far, and how to train more. Use `running`.

    Attributes:
        runs: what the seeds came to.
        diverged: the seeds left out of it.
        trained: whether any seed had something left to train.
        checkpoints: the folder of all seeds' checkpoints.
    """

    def __init__(self, options: Options, paper: tables.Paper, keep_params: bool):
        self.runs: list[results.Run] = []
        self.diverged: list[results.Diverged] = []
        self.trained = False
        self.checkpoints = options.out / "checkpoints"
        self._options, self._paper, self._keep_params = options, paper, keep_params
        self._compile_seconds: dict[fn.Trainer, float] = {}
        resumed = options.resume and (options.out / results.FILE_NAME).exists()
        earlier = results.read(options.out).runs if resumed else ()
        self._earlier = {(run.loss, run.model, run.seed): run.compile_seconds for run in earlier}

    def require_continuable(self) -> None:
        """Raise CheckpointError unless these options go on with what is saved."""
        folder, epochs = self.checkpoints, self._options.epochs
        if not self._options.resume and any(path.is_dir() for path in folder.iterdir()):
            raise CheckpointError(
                f"{folder} holds an earlier run; add --resume to go on with it, or remove {folder} "
                f"to start anew"
            )
        # `fit` would train on to more epochs, but schedules and tests along the way depend on them.
        length = folder / "epochs.json"
        before = json.loads(length.read_bytes()) if length.exists() else epochs
        if self._options.resume and before != epochs:
            raise CheckpointError(
                f"{folder} holds another run: epochs was {before} and is now {epochs}"
            )
        write_atomically(length, f"{epochs}\n".encode())

    def learn(
        self, seed: Seed, peers: Sequence[Any] = (), tests: Mapping[str, After] | None = None
    ) -> Iterator[Learned]:
        """Train a seed in funcnet, then in each peer; with --same-start, in both side by side.

        Args:
            seed: what to train.
            peers: see `torch_peer.make_peers`.
            tests: what is called after each epoch, for each framework.

        Yields:
            What each framework has learned; nothing of one that diverged, if the options say so.
        """
        tests = tests or {}
        callbacks = []
        if after := tests.get("funcnet"):

            def call(event: Any) -> None:
                outputs = partial(seed.trainer.predict, event.run.params, event.run.state)
                after(event.epoch + 1, outputs)

            callbacks.append(call)
        if getattr(self._options, "same_start", False):
            start = seed.trainer.init(seed.key)
            theirs = peers[0].learner(seed.data, seed.number, start, tests.get("torch"))
            with self.leaving_out(seed, "funcnet", "torch"):
                yield self.fit(seed, [*callbacks, theirs.beside])
                yield theirs.learned()
            return
        with self.leaving_out(seed, "funcnet"):
            yield self.fit(seed, callbacks)
        for peer in peers:
            with self.leaving_out(seed, peer.framework):
                theirs = peer.learner(seed.data, seed.number, after=tests.get(peer.framework))
                yield theirs.train(self._options.epochs)

    def fit(self, seed: Seed, callbacks: Sequence[Any] = ()) -> Learned:
        """Train a seed in funcnet, or go on with what was saved of it; write its parameters.

        Raises:
            DivergenceError: the loss or a parameter became infinite or NaN; the parameters of the
                last finite epoch are written.
            CheckpointError: what was saved is of another configuration or other data, or damaged.
        """
        saving, folder = {}, self.checkpoints / seed.name
        if self._options.saving:
            every, resume = self._options.checkpoint_every, self._options.resume
            saving = {"checkpoint_dir": folder, "checkpoint_every": every, "resume": resume}
        if self._options.saving and fn.checkpoint.steps(folder)[-1:] == [self._options.epochs]:
            compile_seconds = self._earlier.get((seed.loss, seed.model, seed.number), 0.0)
        else:
            compile_seconds = self._warm_up(seed)
            self.trained = True
        try:
            result = self._fit(seed, progress=seed.title, callbacks=callbacks, **saving)
        except fn.DivergenceError as error:
            self.write_params(seed, error.result.params, error.result.state)
            told = str(error).partition("; error.result")[0]
            message = f"{seed.title}: {told}; its last weights are saved; lower --learning-rate"
            raise fn.DivergenceError(message, error.epoch, error.result, error.diagnosis) from None
        self.write_params(seed, result.params, result.state)
        tqdm.write(f"{seed.title}: trained in {result.seconds:.2f} s")
        losses = np.asarray(result.history["loss"], float)
        return Learned("funcnet", losses, result.predict, result.seconds, compile_seconds)

    def _warm_up(self, seed: Seed) -> float:
        """Compile what trains this seed and others; return the seconds that takes, or took."""
        if seed.trainer not in self._compile_seconds:
            seconds = []
            for _ in range(2):  # an epoch that is compiled first, and one that is not
                try:
                    result = self._fit(seed, progress=False, callbacks=[lambda event: True])
                except fn.DivergenceError as error:  # the training will tell
                    result = error.result
                seconds.append(result.seconds)
            self._compile_seconds[seed.trainer] = seconds[0] - seconds[1]
            tqdm.write(f"{seed.title}: compiled in {seconds[0] - seconds[1]:.2f} s")
        return self._compile_seconds[seed.trainer]

    def _fit(self, seed: Seed, **options: Any) -> fn.FitResult:
        trainer, epochs = seed.trainer, self._options.epochs
        model = trainer.model, trainer.loss, trainer.optimizer
        size = trainer.batch_size
        return fn.fit(*model, seed.data, epochs=epochs, batch_size=size, key=seed.key, **options)

    def write_params(self, seed: Seed, params: Any, state: Any) -> None:
        """Write a seed's parameters, and with them its state: running statistics."""
        if self._keep_params:
            fn.save(self._options.out / f"params-{seed.name}.safetensors", params, state)

    def add(self, seed: Seed, learned: Learned, **scores: float) -> results.Run:
        """Keep what a seed came to: killing the program later can't lose it."""
        about = learned.framework, seed.loss, seed.number
        times = {"seconds": learned.seconds, "compile_seconds": learned.compile_seconds}
        run = results.Run(*about, **times, **scores, model=seed.model)
        self.runs.append(run)
        self._write()
        return run

    @contextlib.contextmanager
    def leaving_out(self, seed: Seed, *frameworks: str) -> Iterator[None]:
        """Note a seed that diverges within the block and go on, or raise: as the options say."""
        try:
            yield
        except fn.DivergenceError as error:
            if self._options.on_divergence == "raise":
                raise
            tqdm.write(f"left out: {error}")
            where = seed.loss, seed.number, error.epoch
            self.diverged += [results.Diverged(framework, *where) for framework in frameworks]
            self._write()

    @property
    def table(self) -> str:
        """The table of all runs beside the paper's, and the seeds left out of it."""
        notes = [
            f"{tables.TITLES[d.loss]}, seed {d.seed}, {tables.TITLES[d.framework]}: diverged in "
            f"epoch {d.epoch}, left out.\n"
            for d in self.diverged
        ]
        return "\n".join([tables.render(self.runs, self._paper) if self.runs else "", *notes])

    def report(self, files: str, *more: str) -> None:
        """Print the table, more of the kind, and which files were written."""
        print("\n".join(["", self.table, *more]))
        if not self.trained:
            print(FINISHED)
        print(f"written to {self._options.out}: {files}")

    def _write(self) -> None:
        out = self._options.out
        results.write(out, self._options.recorded(), self.runs, self.diverged)
        write_atomically(out / "table.md", self.table.encode())
