"""The same experiments in PyTorch, as a PyTorch user would write them.

nn.Sequential, optim.SGD, and mini-batches from a random permutation: no DataLoader, which would
cost more than the networks here. PyTorch uses as many threads as it likes.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import jax
import numpy as np

import funcnet as fn
from experiments.runner import Options
from funcnet.training.step import epoch_order

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
    options: Options,
    sizes: Sequence[int],
    loss: str,
    data: tuple[Any, Any],
    kind: "type[Peer] | None" = None,
) -> list["Peer"]:
    """Prepare eager PyTorch and, if it is wanted and works here, torch.compile.

    Args:
        options: of the experiment.
        sizes: numbers of features, from the input's to the output's.
        loss: "mse" or "cross_entropy".
        data: (x, y) as one seed has it, to compile for.
        kind: a subclass of `Peer`, if it is to be another network.
    """
    kind = kind or Peer
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

    def __init__(self, options: Options, sizes: Sequence[int], loss: str, compiled: bool = False):
        self.options = options
        # A GPU only where funcnet uses it as well.
        self.device = torch.device("cuda" if jax.default_backend() == "gpu" else "cpu")
        self.network = self.make_network(sizes).to(self.device)
        self.model = torch.compile(self.network) if compiled else self.network
        self.loss = self.make_loss(loss)
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
        optimizer = make_optimizer(self.options, self.network)
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
        """Do what the first steps do once: start threads, fill caches, compile.

        Args:
            data: (x, y) of the shapes and dtypes to train with.
        """
        start = time.perf_counter()
        x, y = self.tensors(data)
        size = self.options.batch_size
        for rows in {min(size, len(x)), len(x) % size} - {0}:
            self.loss(self.model(x[:rows]), y[:rows]).backward()
        self.compile_seconds = time.perf_counter() - start

    def learner(
        self, data: tuple[Any, Any], seed: int, start: fn.TrainState | None = None
    ) -> "TorchLearner":
        """Return a fresh `runner.Learner`; the one before it must not be used any more.

        Args:
            data: (x, y), arrays.
            seed: of the initial weights and the batches.
            start: funcnet's state to take both from instead.
        """
        x, y = self.tensors(data)
        torch.manual_seed(seed)
        if start is None:
            for layer in self.network:
                reset: Any = getattr(layer, "reset_parameters", None)
                if reset is not None:
                    reset()
            return TorchLearner(self, x, y)
        arrays = fn.interop.state_dict(start.params)
        self.network.load_state_dict({k: torch.from_numpy(a) for k, a in arrays.items()})
        return TorchLearner(self, x, y, order_of(start, len(x)))

    def tensors(self, data: tuple[Any, Any]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return features and targets as the losses take them, the network in their dtype."""
        x, y = (torch.tensor(np.asarray(array), device=self.device) for array in data)
        self.network.to(x.dtype)
        return self.as_input(x), y if y.is_floating_point() else y.long()


def make_optimizer(options: Options, network: nn.Module) -> torch.optim.Optimizer:
    """Return SGD as the options say; weights decay, biases don't."""
    groups = {True: [], False: []}
    for parameter in network.parameters():
        groups[parameter.ndim > 1].append(parameter)
    decayed = {"params": groups[True], "weight_decay": options.weight_decay}
    return torch.optim.SGD([decayed, {"params": groups[False]}], options.learning_rate)


def make_schedule(options: Options, optimizer: torch.optim.Optimizer):
    """Return what changes the step size after every step, None for nothing."""
    if options.schedule == "cosine":
        return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, options.steps)
    if options.schedule == "linear":
        return torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, options.steps)
    return None


def order_of(start: fn.TrainState, examples: int) -> Order:
    """Return the order in which funcnet visits the examples after this state."""
    compute = jax.jit(epoch_order, static_argnums=2)
    return lambda epoch: np.array(compute(start.key, start.epoch + epoch, examples))


class TorchLearner:
    """A `runner.Learner` in PyTorch.

    Args:
        peer: the network, initialised.
        x: features, (examples, features).
        y: targets.
        order: of the examples; a random permutation by default.
    """

    def __init__(self, peer: Peer, x: torch.Tensor, y: torch.Tensor, order: Order | None = None):
        self.framework = peer.framework
        self.seconds = 0.0
        self.compile_seconds = peer.compile_seconds
        self._peer, self._x, self._y, self._order = peer, x, y, order
        self._step = peer.make_step()
        self._epochs = 0

    def epoch(self) -> float:
        """Train one epoch; return the mean loss over the examples as they were seen."""
        # Given from outside, the order is no part of the work to be timed.
        order = self._order and torch.from_numpy(self._order(self._epochs)).to(self._x.device)
        start = time.perf_counter()
        loss = self._train_epoch(torch.randperm(len(self._x)) if order is None else order)
        self.seconds += time.perf_counter() - start
        self._epochs += 1
        return loss

    def _train_epoch(self, order: torch.Tensor) -> float:
        model, loss_of = self._peer.model, self._peer.loss
        total = torch.zeros((), dtype=self._x.dtype, device=self._x.device)
        for rows in order.split(self._peer.options.batch_size):
            self._peer.network.zero_grad()
            loss = loss_of(model(self._x[rows]), self._y[rows])
            loss.backward()
            self._step()
            total += loss.detach() * len(rows)
        return total.item() / len(order)  # waits for a GPU

    @torch.no_grad()
    def predict(self, x: Any) -> np.ndarray:
        """Return the labels of x."""
        features = self._peer.as_input(torch.tensor(np.asarray(x), device=self._x.device))
        network = self._peer.network.eval()
        labels = [network(part).argmax(dim=-1) for part in features.split(_PREDICT_BATCH)]
        network.train()
        return torch.cat(labels).cpu().numpy()

    def arrays(self) -> Mapping[str, np.ndarray]:
        """Return the parameters, views of them where they are on the CPU."""
        state = self._peer.network.state_dict()
        return {key: tensor.detach().cpu().numpy() for key, tensor in state.items()}
