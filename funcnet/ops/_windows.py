"""What convolution and pooling share: options for both axes of an image, windows, their sizes."""

import math
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from funcnet._internal.checks import require_int
from funcnet.errors import ConfigError, ShapeError

Pair = tuple[int, int]
Size = int | Pair
"""An option for rows and columns: one integer for both, or one each."""
Padding = Size | Literal["same", "valid"]


class Windows(NamedTuple):
    """Where a window is laid on an image of one size; (rows, columns) each.

    Window h of an axis covers the entries stride * h + dilation * i - padding, i < kernel; those
    outside the image read what it is padded with. Static and hashable.
    """

    image: Pair
    kernel: Pair
    stride: Pair
    padding: tuple[Pair, Pair]
    """(before, after) of the rows, then of the columns; negative cuts off instead."""
    dilation: Pair

    @property
    def output(self) -> Pair:
        """How many windows there are."""
        rows, columns = (
            (n + sum(p) - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in zip(*self, strict=True)
        )
        return rows, columns

    @property
    def reach(self) -> Pair:
        """From the first entry of a window to its last: dilation * (kernel - 1)."""
        rows, columns = (d * (k - 1) for k, d in zip(self.kernel, self.dilation, strict=True))
        return rows, columns


def taps(
    x: Array, windows: Windows, fill: float = 0.0, spread: Pair = (1, 1)
) -> Iterator[tuple[Pair, Array]]:
    """For each (i, j) of the kernel, the entry that every window has there: (..., H', W', C).

    Args:
        x: (..., H, W, C).
        windows: laid on x after it is spread.
        fill: what x is padded with.
        spread: from one entry of x to the next, zeros in between.
    """
    inner = [(*sides, step - 1) for sides, step in zip(windows.padding, spread, strict=True)]
    padded = lax.pad(
        x, jnp.asarray(fill, x.dtype), [(0, 0, 0)] * (x.ndim - 3) + inner + [(0, 0, 0)]
    )
    (rows, columns), (s, t), (d, e) = windows.reach, windows.stride, windows.dilation
    height, width = padded.shape[-3] - rows, padded.shape[-2] - columns
    for i in range(windows.kernel[0]):
        for j in range(windows.kernel[1]):
            yield (i, j), padded[..., d * i : d * i + height : s, e * j : e * j + width : t, :]


def merged(x: Array) -> Array:
    """(..., H, W, C) -> (N, H, W, C)."""
    return x.reshape(math.prod(x.shape[:-3]), *x.shape[-3:])


def exchanged(kernel: Array, groups: int) -> Array:
    """The two channel axes exchanged group by group, (O, C/G, k, k) -> (k, k, O/G, C)."""
    out, inputs, *taps = kernel.shape
    parts = kernel.reshape(groups, out // groups, inputs, *taps)
    return parts.transpose(3, 4, 1, 0, 2).reshape(*taps, out // groups, groups * inputs)


def spread_windows(windows: Windows) -> Windows:
    """The windows of stride 1, laid on the spread dY, that make dX."""
    rows, columns = (
        (reach - before, n + before - size)
        for n, reach, (before, _), size in zip(
            windows.image, windows.reach, windows.padding, _spread_size(windows), strict=True
        )
    )
    return windows._replace(stride=(1, 1), padding=(rows, columns))


def kernel_padding(windows: Windows) -> list[Pair]:
    """X's padding for dK; its end is cut off where no window reaches."""
    sides = zip(windows.image, windows.padding, used(windows), strict=True)
    return [(before, size - n - before) for n, (before, _), size in sides]


def used(windows: Windows) -> list[int]:
    """From the first window's first entry to the last one's last."""
    return [n + r for n, r in zip(_spread_size(windows), windows.reach, strict=True)]


def _spread_size(windows: Windows) -> list[int]:
    """From the first window's first entry to the last window's: the size of the spread dY."""
    return [s * (n - 1) + 1 for n, s in zip(windows.output, windows.stride, strict=True)]


def divisors(like: Array, windows: Windows, divisor: bool | int) -> Array | int:
    """What a mean divides by: D (H', W', 1) with as many axes as `like` has, or a number.

    Args:
        like: of the dtype of D.
        windows: whose taps are counted.
        divisor: the number, or whether D counts the padding.
    """
    if not isinstance(divisor, bool):
        return divisor
    counts = []
    for n, k, s, (before, _), size in zip(
        windows.image,
        windows.kernel,
        windows.stride,
        windows.padding,
        windows.output,
        strict=True,
    ):
        start = s * np.arange(size) - before
        # Padding is as large behind as in front; what a last window has beyond it never counts.
        low, high = (-before, n + before) if divisor else (0, n)
        counts.append(np.minimum(start + k, high) - np.maximum(start, low))
    rows, columns = counts
    return jnp.asarray(per_window((rows[:, None] * columns[None, :])[..., None], like), like.dtype)


def per_window(values: np.ndarray, outputs: Array) -> np.ndarray:
    """One value a window (H', W', 1), with as many axes as (..., H', W', C)."""
    return values.reshape((1,) * (outputs.ndim - 3) + values.shape)


def count(windows: Windows) -> int:
    """How many taps a window has."""
    return windows.kernel[0] * windows.kernel[1]


def require_pair(name: str, value: Any, at_least: int) -> Pair:
    """One integer for rows and columns, or two, as a pair; ConfigError for anything else."""
    entries = (value, value) if not isinstance(value, tuple | list) else tuple(value)
    if len(entries) != 2:
        raise ConfigError(f"{name} is {value!r}, expected an integer or a pair (rows, columns)")
    rows, columns = (require_int(name, entry) for entry in entries)
    if min(rows, columns) < at_least:
        raise ConfigError(f"{name} is {value!r}, expected at least {at_least}")
    return rows, columns


def require_padding(name: str, value: Any, stride: Pair) -> Pair | Literal["same", "valid"]:
    """Padding as a pair or one of PyTorch's two words; ConfigError for anything else."""
    if not isinstance(value, str):
        return require_pair(name, value, 0)
    if value not in ("same", "valid"):
        raise ConfigError(
            f"{name} is {value!r}, expected 'same', 'valid', an integer or a pair (rows, columns)"
        )
    if value == "same" and stride != (1, 1):
        raise ConfigError(
            f"{name} is 'same' with stride {stride}, expected stride 1, as PyTorch does; give the "
            f"padding in numbers"
        )
    return value


def require_images(function: str, x: Any) -> None:
    """Raise ShapeError unless an array has the axes of images."""
    if x.ndim < 3:
        raise ShapeError(
            f"{function}: x has shape {x.shape}, expected (..., height, width, channels); add the "
            f"missing axes, for example with x[..., None] for one channel"
        )


def require_fit(function: str, windows: Windows) -> None:
    """Raise ShapeError unless at least one window fits into the padded image."""
    padded = tuple(n + sum(p) for n, p in zip(windows.image, windows.padding, strict=True))
    needed = tuple(r + 1 for r in windows.reach)
    if min(windows.output) < 1:
        raise ShapeError(
            f"{function}: images of {_times(windows.image)} pixels, {_times(padded)} with padding, "
            f"are smaller than the kernel, which covers {_times(needed)}; pad more, or take a "
            f"smaller kernel or dilation"
        )


def _times(pair):
    return f"{pair[0]} x {pair[1]}"
