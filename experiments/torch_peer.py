"""The same experiments in PyTorch, as a PyTorch user would write them.

nn.Sequential, optim.SGD, and mini-batches from a random permutation: no DataLoader, which would
cost more than the networks here. PyTorch uses as many threads as it likes.
"""

import dataclasses
import math
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

import funcnet as fn
from experiments.options import PaperOptions
from experiments.runner import After, Learned
from experiments.tables import TITLES
from funcnet.data import shuffle

try:
    import torch
    from torch import nn
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "--compare-torch and --same-start need PyTorch: pip install 'funcnet[torch]'",
        name=error.name,
    ) from error

_LOSSES = {"mse": nn.MSELoss(), "cross_entropy": nn.CrossEntropyLoss()}
_PREDICT_BATCH = 1000

Order = Callable[[int], np.ndarray]
"""Maps an epoch, counted from 0, to the order of the examples, (examples,) integers."""


def make_peers(
    options: PaperOptions, sizes: Sequence[int], loss: str, data: Any, kind: "type[Peer]"
) -> list["Peer"]:
    """Prepare eager PyTorch and, if it is wanted and works here, torch.compile.

    The data are (x, y) as one seed has them, to compile for; the kind is `Peer` or a subclass.
    """
    peers = [kind(options, sizes, loss)]
    peers[0].prepare(data)
    # Compiled code rounds in its own way; the question of --same-start is about eager PyTorch.
    if options.same_start:
        return peers
    try:
        compiled = kind(options, sizes, loss, compiled=True)
        compiled.prepare(data)
    except RuntimeError as error:  # no C++ compiler, no support for this Python, ...
        first_line = str(error).strip().split("\n")[0]
        print(f"PyTorch is measured eager only, since torch.compile does not work: {first_line}")
        return peers
    return [*peers, compiled]


class Peer:
    """A network in PyTorch that is used for every seed in turn.

    Args:
        options: of the experiment.
        sizes: numbers of features, from the input's to the output's.
        loss: "mse" or "cross_entropy".
        compiled: whether to use torch.compile.
    """

    def __init__(
        self, options: PaperOptions, sizes: Sequence[int], loss: str, compiled: bool = False
    ):
        self.options = options
        # A GPU only where funcnet uses it as well.
        self.device = torch.device("cuda" if jax.default_backend() == "gpu" else "cpu")
        self.network = self.make_network(sizes).to(self.device)
        self.model = torch.compile(self.network) if compiled else self.network
        self.loss, self.loss_name = self.make_loss(loss), loss
        self.framework = "torch.compile" if compiled else "torch"
        self.compile_seconds = 0.0

    def make_network(self, sizes: Sequence[int]) -> nn.Sequential:
        """Return linear layers between these numbers of features, ReLU between them."""
        layers = []
        for inputs, outputs in pairwise(sizes):
            layers += [nn.Linear(inputs, outputs), nn.ReLU()]
        return nn.Sequential(*layers[:-1])

    def make_loss(self, loss: str) -> nn.Module:
        """Return the loss of this name."""
        return _LOSSES[loss]

    def make_step(self) -> Callable[[], None]:
        """Return what takes one step along the gradients."""
        parameters = groups(self.network, self.options.weight_decay)
        optimizer = torch.optim.SGD(parameters, self.options.learning_rate)
        schedule, clip_norm = make_schedule(self.options, optimizer), self.options.clip_norm

        def step() -> None:
            if clip_norm is not None:
                nn.utils.clip_grad_norm_(self.network.parameters(), clip_norm)
            optimizer.step()
            if schedule is not None:
                schedule.step()

        return step

    def as_input(self, x: torch.Tensor) -> torch.Tensor:
        """Return features or images as PyTorch's network takes them."""
        return x

    def prepare(self, data: tuple[Any, Any]) -> None:
        """Do what the first steps on such data do once: start threads, fill caches, compile."""
        start = time.perf_counter()
        x, y = self.tensors(data)
        size = self.options.batch_size
        for rows in {min(size, len(x)), len(x) % size} - {0}:
            self.loss(self.model(x[:rows]), y[:rows]).backward()
        self.compile_seconds = time.perf_counter() - start

    def learner(
        self, data: Any, seed: int, start: fn.TrainState | None = None, after: After | None = None
    ) -> "TorchLearner":
        """Return a fresh learner; the one before it must not be used any more.

        Args:
            data: (x, y), arrays.
            seed: of the initial weights and the batches.
            start: funcnet's state to take both from instead.
            after: called after each epoch.
        """
        x, y = self.tensors(data)
        title = f"{TITLES[self.loss_name]}, seed {seed}, {TITLES[self.framework]}"
        torch.manual_seed(seed)
        if start is None:
            for layer in self.network:
                if isinstance(layer, nn.Linear | nn.Conv2d | nn.BatchNorm2d):
                    layer.reset_parameters()
            return TorchLearner(self, title, x, y, after)
        arrays = fn.interop.state_dict(start.params)
        self.network.load_state_dict({k: torch.from_numpy(a) for k, a in arrays.items()})
        return TorchLearner(self, title, x, y, after, order_of(start, len(x)))

    def tensors(self, data: tuple[Any, Any]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return features and targets as the losses take them, the network in their dtype."""
        x, y = (torch.tensor(np.asarray(array), device=self.device) for array in data)
        self.network.to(x.dtype)
        return self.as_input(x), y if y.is_floating_point() else y.long()


def groups(network: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Return the parameters for an optimizer of PyTorch's: weights decay, biases don't."""
    by_decay = {weight_decay: [], 0.0: []}
    for parameter in network.parameters():
        by_decay[weight_decay if parameter.ndim > 1 else 0.0].append(parameter)
    return [{"params": found, "weight_decay": decay} for decay, found in by_decay.items()]


def make_schedule(options: PaperOptions, optimizer: torch.optim.Optimizer):
    """Return what changes the step size after every step, None for nothing."""
    if options.schedule == "cosine":
        return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, options.steps)
    if options.schedule == "linear":
        return torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, options.steps)
    return None


def order_of(start: fn.TrainState, examples: int) -> Order:
    """Return the order in which funcnet visits the examples after this state."""
    compute = jax.jit(lambda key: shuffle.permutation(jax.random.fold_in(key, 0), examples))
    return lambda epoch: np.array(compute(jax.random.fold_in(start.key, start.epoch + epoch)))


@dataclasses.dataclass
class TorchLearner:
    """One seed's training in PyTorch; use `Peer.learner`."""

    peer: Peer
    title: str
    """Of the progress bar and of an error."""
    x: torch.Tensor
    y: torch.Tensor
    after: After | None = None
    """Called after each epoch."""
    order: Order | None = None
    """Of the examples; a random permutation by default."""
    losses: list[float] = dataclasses.field(default_factory=list)
    """Of each epoch so far."""
    apart: dict[str, list[float]] = dataclasses.field(default_factory=dict)
    """See `runner.Learned`; filled by `beside`."""
    seconds: float = 0.0

    def __post_init__(self):
        self._step = self.peer.make_step()

    def train(self, epochs: int) -> Learned:
        """Train under a progress bar; return what was learned."""
        with tqdm(range(epochs), unit="epoch", desc=self.title, leave=False) as bar:
            for _ in bar:
                bar.set_postfix(loss=f"{self.epoch():.4g}", refresh=False)
        return self.learned()

    def beside(self, event: Any) -> None:
        """Train an epoch after each of funcnet's, and compare the two: a callback of `fn.fit`."""
        ours = {"loss": float(event.history["loss"][-1]), **fn.interop.state_dict(event.run.params)}
        theirs = {"loss": self.epoch(), **self.arrays()}
        for key, array in ours.items():
            self.apart.setdefault(key, []).append(float(np.max(np.abs(array - theirs[key]))))

    def learned(self) -> Learned:
        """Return what was learned so far."""
        times = self.seconds, self.peer.compile_seconds
        return Learned(self.peer.framework, np.array(self.losses), self.outputs, *times, self.apart)

    def epoch(self) -> float:
        """Train one epoch; return the mean loss over the examples as they were seen.

        Raises:
            DivergenceError: it is infinite or NaN.
        """
        number = len(self.losses)
        # Given from outside, the order is no part of the work to be timed.
        order = self.order and torch.from_numpy(self.order(number)).to(self.x.device)
        start = time.perf_counter()
        loss = self._train_epoch(torch.randperm(len(self.x)) if order is None else order)
        self.seconds += time.perf_counter() - start
        if not math.isfinite(loss):
            raise fn.DivergenceError(
                f"{self.title}: the loss became infinite or NaN in epoch {number} (counted from "
                f"0); lower --learning-rate",
                epoch=number,
            )
        self.losses.append(loss)
        if self.after is not None:
            self.after(number + 1, self.outputs)
        return loss

    def _train_epoch(self, order: torch.Tensor) -> float:
        model, loss_of = self.peer.model, self.peer.loss
        total = torch.zeros((), dtype=self.x.dtype, device=self.x.device)
        for rows in order.split(self.peer.options.batch_size):
            self.peer.network.zero_grad()
            loss = loss_of(model(self.x[rows]), self.y[rows])
            loss.backward()
            self._step()
            total += loss.detach() * len(rows)
        return total.item() / len(order)  # waits for a GPU

    @torch.no_grad()
    def outputs(self, x: Any) -> np.ndarray:
        """Return the network's output, (examples, classes)."""
        features = self.peer.as_input(torch.tensor(np.asarray(x), device=self.x.device))
        network = self.peer.network.eval()
        found = [network(part) for part in features.split(_PREDICT_BATCH)]
        network.train()
        return torch.cat(found).cpu().numpy()

    def arrays(self) -> Mapping[str, np.ndarray]:
        """Return the parameters, views of them where they are on the CPU."""
        state = self.peer.network.state_dict()
        return {key: tensor.detach().cpu().numpy() for key, tensor in state.items()}
