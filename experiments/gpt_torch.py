"""The gpt experiment in PyTorch, as a PyTorch user would write it, from our weights and batches."""

import time
from typing import Any

import jax
import numpy as np

import funcnet as fn
from experiments import tables, torch_peer
from experiments.torch_peer import groups, nn, torch


class Block(nn.Module):
    """As `experiments.gpt.Block`, without dropout."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = nn.ModuleDict(
            {"c_attn": nn.Linear(width, 3 * width), "c_proj": nn.Linear(width, width)}
        )
        self.mlp = nn.ModuleDict(
            {"c_fc": nn.Linear(width, 4 * width), "c_proj": nn.Linear(4 * width, width)}
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(batch, time, width) -> the same shape."""
        batch, steps, width = x.shape
        qkv = self.attn["c_attn"](self.ln_1(x)).view(batch, steps, 3, self.heads, -1)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        y = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.attn["c_proj"](y.transpose(1, 2).reshape(batch, steps, width))
        hidden = nn.functional.gelu(self.mlp["c_fc"](self.ln_2(x)), approximate="tanh")
        return x + self.mlp["c_proj"](hidden)


class TorchGPT(nn.Module):
    """As `experiments.gpt.GPT`, under the same keys."""

    def __init__(self, model: Any):
        super().__init__()
        self.wte = nn.Embedding(model.vocabulary, model.width)
        self.wpe = nn.Embedding(model.context, model.width)
        self.h = nn.ModuleList(Block(model.width, model.heads) for _ in range(model.layers))
        self.ln_f = nn.LayerNorm(model.width)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """(batch, time) -> (batch, time, vocabulary)."""
        x = self.wte(tokens) + self.wpe(torch.arange(tokens.shape[-1], device=tokens.device))
        for block in self.h:
            x = block(x)
        return nn.functional.linear(self.ln_f(x), self.wte.weight)


class Peer:
    """Trains beside us; a callback of `fn.fit`.

    Attributes:
        losses: of each epoch, over its batches as they were seen.
        apart: the largest difference of any weight after each epoch.
        seconds: of each epoch.
    """

    def __init__(self, run: Any):
        self.run = run
        self.losses: list[float] = []
        self.apart: list[float] = []
        self.seconds: list[float] = []
        config = run.config
        trainer = fn.Trainer(run.model, fn.CrossEntropyLoss(), run.optimizer, config.batch_size)
        start = trainer.init(jax.random.key(config.seed))
        self._order = torch_peer.order_of(start, len(run.data[0]))
        self._series = torch.from_numpy(run.tokens[0]).long()
        self.network = TorchGPT(run.model)
        arrays = fn.interop.state_dict(start.params)
        self.network.load_state_dict({k: torch.from_numpy(a) for k, a in arrays.items()})
        peak = config.learning_rate
        self._optimizer = torch.optim.AdamW(
            groups(self.network, config.weight_decay), lr=peak, betas=(0.9, 0.99)
        )
        schedule = [float(rate) / peak for rate in run.schedule(np.arange(run.steps + 1))]
        self._schedule = torch.optim.lr_scheduler.LambdaLR(self._optimizer, schedule.__getitem__)

    def beside(self, event: Any) -> None:
        """Train an epoch after each of ours, and compare the weights."""
        order = self._order(event.epoch)  # given from outside, it is no part of the work
        begins = torch.from_numpy(order.astype(np.int64)) * self.run.data[0].stride
        started = time.perf_counter()
        self.losses.append(self._epoch(begins))
        self.seconds.append(time.perf_counter() - started)
        ours = fn.interop.state_dict(event.run.params)
        theirs = self.network.state_dict()
        self.apart.append(
            max(float(np.abs(ours[key] - theirs[key].numpy()).max()) for key in theirs)
        )

    def _epoch(self, begins: torch.Tensor) -> float:
        total = 0.0
        places = torch.arange(self.run.config.context + 1)
        for batch in begins.split(self.run.config.batch_size):
            windows = self._series[batch[:, None] + places]
            logits = self.network(windows[:, :-1])
            loss = nn.functional.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten())
            self.network.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
            self._optimizer.step()
            self._schedule.step()
            total += loss.item() * len(batch)
        return total / len(begins)

    def report(self, result: fn.FitResult, seconds: list[float]) -> str:
        """How far the two came apart, and how long each took."""
        rows = [["epoch", "loss, funcnet", "loss, PyTorch", "largest difference of a weight"]]
        for epoch, ours in enumerate(result.history["loss"]):
            theirs, apart = self.losses[epoch], self.apart[epoch]
            rows.append([str(epoch + 1), f"{ours:.4f}", f"{theirs:.4f}", f"{apart:.1e}"])
        table = tables.markdown(rows)
        ratios = [t / ours for t, ours in zip(self.seconds, seconds, strict=True)][1:]
        if not ratios:  # the only epoch's time includes compiling
            return table
        return (
            f"{table}\nAn epoch of PyTorch, eager, took {np.median(ratios):.2f} times as long as "
            f"funcnet's.\n"
        )

    def recorded(self) -> dict[str, Any]:
        """What to keep of it."""
        return {"loss": self.losses, "apart": self.apart, "seconds": self.seconds}
