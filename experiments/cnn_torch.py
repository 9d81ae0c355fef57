"""The convolutional network of the mnist experiment in PyTorch, trained alike.

Channels come first, as PyTorch has them by default. The images are shifted a batch at a time, by
one indexing: image by image it would take longer than the network.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from experiments import cnn
from experiments.torch_peer import Peer, groups


class RandomShift(nn.Module):
    """As `cnn.RandomShift`, of (N, channels, height, width)."""

    def __init__(self, pixels: int, mirror: bool = False):
        super().__init__()
        self.pixels, self.mirror = pixels, mirror

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Move each image, and mirror it or not, while training."""
        if not self.training:
            return x
        count, _, height, width = x.shape
        shifts = torch.randint(-self.pixels, self.pixels + 1, (2, count, 1), device=x.device)
        rows = (torch.arange(height, device=x.device) + shifts[0]).clamp(0, height - 1)
        columns = (torch.arange(width, device=x.device) + shifts[1]).clamp(0, width - 1)
        if self.mirror:
            turned = torch.rand((count, 1), device=x.device) < 0.5
            columns = torch.where(turned, width - 1 - columns, columns)
        images = torch.arange(count, device=x.device)[:, None, None]
        # Axes that are indexed come first, the channels last.
        moved = x[images, :, rows[:, :, None], columns[:, None, :]]
        return moved.permute(0, 3, 1, 2).contiguous()


class CnnPeer(Peer):
    """The network of `cnn.network` for every seed in turn."""

    def make_network(self, sizes: Sequence[int]) -> nn.Sequential:
        """Return the layers of `cnn.network`, under the same keys."""
        config: Any = self.options  # mnist's, which names the data
        shift = cnn.SHIFTS[config.data]
        layers: list[nn.Module] = [RandomShift(shift.pixels, shift.mirror)]
        for inputs, outputs, kernel in cnn.blocks():
            layers += [
                nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False),
                nn.MaxPool2d(2),
                nn.BatchNorm2d(outputs),
                nn.ReLU(),
            ]
        layers += [nn.Flatten(), nn.Dropout(cnn.DROPOUT[config.data])]
        return nn.Sequential(*layers, nn.Linear(cnn.features(config.pixels), sizes[-1]))

    def make_loss(self, loss: str) -> nn.Module:
        """Return the cross entropy, smoothed as `cnn.LOSS` is."""
        return nn.CrossEntropyLoss(label_smoothing=cnn.LOSS.label_smoothing)

    def make_step(self) -> Callable[[], None]:
        """Return a step of AdamW, its step size as in `cnn.optimizer`."""
        parameters = groups(self.network, cnn.WEIGHT_DECAY)
        optimizer = torch.optim.AdamW(parameters, lr=self.options.learning_rate)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer,
            self.options.learning_rate,
            total_steps=self.options.steps + 1,  # it begins at one, and ends at the last
            pct_start=cnn.WARM_UP,
            cycle_momentum=False,
        )

        def step() -> None:
            optimizer.step()
            schedule.step()

        return step

    def as_input(self, x: torch.Tensor) -> torch.Tensor:
        """(N, height, width, channels) -> (N, channels, height, width)."""
        return x.permute(0, 3, 1, 2).contiguous()
