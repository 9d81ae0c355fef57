"""PyTorch: nn.Sequential, optim.SGD and a random permutation; eager, compiled, or a CUDA graph.

There is no DataLoader, which would cost more than the small networks here. As its users do, the
loss is fetched once an epoch.
"""

from itertools import pairwise

import numpy as np
import torch
from torch import nn

from experiments.bench.peers import Orders, Parameters, UnavailableError
from experiments.bench.workloads import Data, Network


class _Torch:
    def __init__(self, network: Network, data: Data, device: str, threads: int, mode: str):
        self._network, self._threads = network, threads
        self._x = torch.from_numpy(data.x).to(device)
        self._y = torch.from_numpy(data.y).long().to(device)
        layers = []
        for inputs, outputs in pairwise(network.sizes):
            layers += [nn.Linear(inputs, outputs), nn.ReLU()]
        self._model = nn.Sequential(*layers[:-1]).to(device)
        self._optimizer = torch.optim.SGD(self._model.parameters(), network.learning_rate)
        self._loss = nn.CrossEntropyLoss()
        self._forward = self._model
        if mode == "compile":
            # Or else, after the sizes of several networks, it would compile for any size.
            torch.compiler.reset()
            self._forward = torch.compile(self._model)
        self._step = self._eager_step if mode != "graph" else self._captured_step()

    def set_parameters(self, parameters: Parameters) -> None:
        with torch.no_grad():
            for layer, (weight, bias) in zip(self._affine(), parameters, strict=True):
                layer.weight.copy_(torch.from_numpy(weight))
                layer.bias.copy_(torch.from_numpy(bias))

    def parameters(self) -> Parameters:
        return [
            (layer.weight.detach().cpu().numpy().copy(), layer.bias.detach().cpu().numpy().copy())
            for layer in self._affine()
        ]

    def train(self, epochs: int, orders: Orders | None = None) -> np.ndarray:
        torch.set_num_threads(self._threads)
        device = self._x.device
        history = np.empty(epochs)
        for epoch in range(epochs):
            if orders is None:
                order = torch.randperm(len(self._x), device=device)
            else:
                order = torch.tensor(orders[epoch], device=device)
            total = torch.zeros((), device=device)
            rows = order.split(self._network.batch_size)
            for i in rows:
                total += self._step(self._x[i], self._y[i])
            history[epoch] = total.item() / len(rows)
        return history

    def _affine(self):
        return [layer for layer in self._model if isinstance(layer, nn.Linear)]

    def _eager_step(self, x, y):
        self._optimizer.zero_grad()
        loss = self._loss(self._forward(x), y)
        loss.backward()
        self._optimizer.step()
        return loss.detach()

    def _captured_step(self):
        """A whole step, recorded once and replayed on batches copied to where it reads."""
        size = self._network.batch_size
        x, y = self._x[:size].clone(), self._y[:size].clone()
        # Work before the capture goes to a side stream, as PyTorch's documentation asks.
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                self._eager_step(x, y)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            loss = self._eager_step(x, y)

        def step(batch_x, batch_y):
            x.copy_(batch_x)
            y.copy_(batch_y)
            graph.replay()
            return loss

        return step


def make(
    network: Network, data: Data, device: str, threads: int = 1, mode: str = "eager"
) -> _Torch:
    """A network on the CPU or, for device "gpu", on CUDA.

    Args:
        network: what to train.
        data: host arrays.
        device: "cpu" or "gpu".
        threads: of PyTorch, on the CPU.
        mode: "eager", "compile", or "graph" for a CUDA graph of the whole step.

    Raises:
        UnavailableError: `mode` does not work here.
    """
    if device == "gpu" and not torch.cuda.is_available():
        raise UnavailableError("this PyTorch sees no CUDA device")
    if mode == "graph" and device == "cpu":
        raise UnavailableError("CUDA graphs need a GPU")
    learner = _Torch(network, data, "cuda" if device == "gpu" else "cpu", threads, mode)
    if mode == "compile":
        try:
            learner.train(1)
        except RuntimeError as error:  # no C++ compiler, no support for this Python, ...
            reason = str(error).strip().split("\n")[0]
            raise UnavailableError(f"torch.compile does not work here: {reason}") from error
    return learner
