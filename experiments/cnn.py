"""The convolutional network of the mnist experiment, and how it is trained.

Sized for two cores: 8 million multiplications an image forward, of which nearly all are in the two
3 x 3 convolutions at 14 x 14 and 7 x 7 pixels. Each pooling comes before the normalisation and ReLU
of its block, which then have a quarter of the pixels to pass over.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import optax

import funcnet as fn

CHANNELS, KERNELS = (32, 64, 128), (5, 3, 3)
DROPOUT = {"mnist": 0.4, "fashion": 0.3}
LOSS = fn.CrossEntropyLoss(label_smoothing=0.1)
WEIGHT_DECAY = 0.05
WARM_UP = 0.2
"""The part of the training in which the step size rises."""


@dataclasses.dataclass(frozen=True)
class RandomShift(fn.Module):
    """Moves each image by up to so many pixels, up or down and to the sides, while training.

    What moves in from outside repeats the border.

    Args:
        pixels: the largest shift.
        mirror: whether half of the images are mirrored as well, left to right.
    """

    pixels: int
    mirror: bool = False

    def apply(self, params, state, x, *, key: Any = None, train=False):
        """(N, height, width, channels) -> the same shape; `key` draws the shifts."""
        if not train:
            return x, state
        count, height, width, _ = x.shape
        shifting, turning = jax.random.split(key)
        shifts = jax.random.randint(shifting, (2, count, 1), -self.pixels, self.pixels + 1)
        rows = jnp.clip(jnp.arange(height)[None, :] + shifts[0], 0, height - 1)
        columns = jnp.clip(jnp.arange(width)[None, :] + shifts[1], 0, width - 1)
        if self.mirror:
            turned = jax.random.bernoulli(turning, shape=(count, 1))
            columns = jnp.where(turned, width - 1 - columns, columns)
        images = jnp.arange(count)[:, None, None]
        return x[images, rows[:, :, None], columns[:, None, :]], state


SHIFTS = {"mnist": RandomShift(2), "fashion": RandomShift(1, mirror=True)}
"""What is done to the images of each data set: a digit mirrored is none, a shirt is a shirt."""


def network(
    data: str = "mnist", pixels: tuple[int, int] = (28, 28), classes: int = 10
) -> fn.Sequential:
    """(N, height, width, 1) images of a data set to (N, classes) logits."""
    layers: list[fn.Module] = [SHIFTS[data]]
    for inputs, outputs, kernel in blocks():
        layers += [
            fn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False),
            fn.MaxPool2d(2),
            fn.BatchNorm2d(outputs),
            fn.ReLU(),
        ]
    head = fn.Flatten(), fn.Dropout(DROPOUT[data]), fn.Linear(features(pixels), classes)
    return fn.Sequential(*layers, *head)


def features(pixels: tuple[int, int]) -> int:
    """How many numbers an image is after three halvings."""
    return (pixels[0] // 8) * (pixels[1] // 8) * CHANNELS[-1]


def blocks() -> Iterator[tuple[int, int, int]]:
    """Channels in, channels out and size of the kernel of each convolution."""
    return zip((1, *CHANNELS[:-1]), CHANNELS, KERNELS, strict=True)


def optimizer(peak: float, steps: int) -> optax.GradientTransformation:
    """AdamW whose step size rises to a peak and falls to zero, along cosines.

    Weights alone decay: biases and the parameters of normalisation, which have one axis, do not.
    """
    schedule = optax.cosine_onecycle_schedule(steps, peak, WARM_UP)
    return optax.adamw(
        schedule,
        weight_decay=WEIGHT_DECAY,
        mask=lambda params: jax.tree.map(lambda leaf: leaf.ndim > 1, params),
    )
