"""The experiments' figures: each function returns a matplotlib Figure, `save` writes it.

Figures are built without pyplot, which keeps global state and may look for a display. The colours
are Okabe and Ito's, which people with any colour vision can tell apart; classes differ in their
markers as well, curves in their dashes.
"""

import io
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int, Integer, UInt8

from funcnet.io.files import write_atomically

try:
    from matplotlib.axes import Axes
    from matplotlib.colors import ListedColormap
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.patches import Circle, Patch
    from matplotlib.ticker import MaxNLocator
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "the figures need matplotlib: pip install 'funcnet[plots]'", name=error.name
    ) from error

_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_DASHES = ("-", "--", "-.", ":")
_OUTSIDE, _INSIDE = _COLOURS[:2]
_OUTSIDE_TINT, _INSIDE_TINT = "#CFE4F2", "#FBDCC5"
_DOTS_PER_INCH = 150

Points = Float[np.ndarray, "examples 2"]
"""In the square [-1, 1]²."""
Labels = Integer[np.ndarray, " examples"]


def save(figure: Figure, path: str | os.PathLike[str]) -> None:
    """Write a figure as PNG, atomically; the same figure gives the same bytes."""
    image = io.BytesIO()
    # matplotlib's own note of its version is left out, as it would change the file.
    figure.savefig(image, format="png", dpi=_DOTS_PER_INCH, metadata={"Software": None})
    write_atomically(Path(path), image.getvalue())


def points(x: Points, y: Labels, radius: float) -> Figure:
    """Draw points by their labels, and the circle that labels them 1: the paper's Figure 1."""
    figure, axes = _square(f"{len(x):,} points, {100 * np.mean(y):.1f} % of them inside the circle")
    handles = [*_scatter(axes, x, y), _circle(axes, radius)]
    _legend_below(figure, handles)
    return figure


def decision_regions(
    predict: Callable[[Points], Any],
    x: Points,
    y: Labels,
    radius: float,
    title: str,
    resolution: int = 500,
) -> Figure:
    """Draw what a classifier of points says over the square: the paper's Figures 2 and 3.

    Points whose label, 0 or 1, is not what is predicted are ringed; the true circle is drawn for
    comparison. The regions are told on a grid of so many points along each side.
    """
    figure, axes = _square(title)
    # The middle of each pixel: imshow's extent is the pixels' outer edges.
    side = (2 * np.arange(resolution, dtype=np.float32) + 1) / resolution - 1
    grid = np.stack(np.meshgrid(side, side), axis=-1)  # (resolution, resolution, 2), rows along x2
    tints = ListedColormap([_OUTSIDE_TINT, _INSIDE_TINT])
    regions = np.asarray(predict(grid.reshape(-1, 2))).reshape(resolution, resolution)
    axes.imshow(
        regions, cmap=tints, vmin=0, vmax=1, extent=(-1, 1, -1, 1), origin="lower", zorder=0
    )
    handles = [*_scatter(axes, x, y), _circle(axes, radius)]
    handles.append(Patch(color=_INSIDE_TINT, label="predicted 1"))
    wrong = np.asarray(predict(x.astype(np.float32))) != y
    ring = {"marker": "o", "s": 70, "facecolors": "none", "edgecolors": "black", "linewidths": 1.2}
    handles.append(axes.scatter(*x[wrong].T, label=f"misclassified ({wrong.sum()})", **ring))
    _legend_below(figure, handles)
    return figure


def curves(
    series: Mapping[str, Float[np.ndarray, "seeds epochs"]],
    quantity: str,
    *,
    epochs: Sequence[int] | None = None,
    log: bool = False,
) -> Figure:
    """Draw a quantity over the epochs: the mean over the seeds in a band that holds them all.

    Args:
        series: by label. Values that are not finite, as after a divergence, are left out.
        quantity: what it is, for the axis and the title: "training loss".
        epochs: after which epochs it was taken; after each one by default.
        log: a logarithmic axis; every value must be positive then.
    """
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.add_subplot()
    _bands(axes, series, epochs)
    axes.set(xlabel="epoch", ylabel=quantity, title=f"{quantity}: mean and range over the seeds")
    if log:
        axes.set_yscale("log")
    axes.legend()
    return figure


def losses(series: Mapping[str, Float[np.ndarray, " epochs"]], quantity: str) -> Figure:
    """Draw what one run's losses came to, epoch by epoch."""
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.add_subplot()
    for i, (label, values) in enumerate(series.items()):
        epochs = np.arange(1, len(values) + 1)
        axes.plot(epochs, values, _DASHES[i], color=_COLOURS[i], marker=".", label=label)
    axes.set(xlabel="epoch", ylabel=quantity, title=quantity)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend()
    return figure


def attention(maps: Float[np.ndarray, "layers heads characters characters"], line: str) -> Figure:
    """Draw where each head of each layer looks in a line: a row is one character's weights."""
    layers, heads, count, _ = maps.shape
    figure = Figure(figsize=(3.4 * heads, 3.5 * layers + 0.6), layout="constrained")
    grid = figure.subplots(layers, heads, squeeze=False)
    labels = [character.replace(" ", "␣") for character in line[:count]]
    for layer, row in enumerate(grid):
        for head, axes in enumerate(row):
            axes.imshow(maps[layer, head], vmin=0, vmax=1, cmap="Blues")
            axes.set_title(f"layer {layer}, head {head}", fontsize=10)
            axes.set_xticks(range(count), labels, fontsize=7, family="DejaVu Sans Mono")
            axes.set_yticks(range(count), labels, fontsize=7, family="DejaVu Sans Mono")
            axes.tick_params(length=0)
    figure.suptitle("How much each character (row) attends to those before it (column)")
    figure.colorbar(grid[0, 0].images[0], ax=grid, shrink=0.5, label="weight")
    return figure


def depths(
    losses: Mapping[str, Float[np.ndarray, "seeds epochs"]],
    gradients: Mapping[str, Float[np.ndarray, "seeds layers"]],
) -> Figure:
    """Draw why depth hurts: each network's loss over the epochs, and its gradients before them.

    The norm of the gradient of each layer's weight must be positive.
    """
    figure = Figure(figsize=(11, 4.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    _bands(left, losses)
    left.set(xlabel="epoch", ylabel="training loss", yscale="log", title="training loss")
    _bands(right, gradients)
    right.set(xlabel="layer, counted from the input", ylabel="norm of its weight's gradient")
    right.set(yscale="log", title="gradients before the first step")
    left.legend()
    figure.suptitle("mean and range over the seeds")
    return figure


def _bands(
    axes: Axes, series: Mapping[str, np.ndarray], places: Sequence[int] | None = None
) -> None:
    """A curve and a band for each label's array (seeds, places); places count from 1."""
    for i, (label, values) in enumerate(series.items()):
        colour, dashes = _COLOURS[i % len(_COLOURS)], _DASHES[i % len(_DASHES)]
        finite = np.ma.masked_invalid(values)
        x = np.arange(1, finite.shape[1] + 1) if places is None else places
        seeds = f"{len(finite)} seeds" if len(finite) > 1 else "1 seed"
        axes.plot(x, finite.mean(0), dashes, color=colour, lw=1.2, label=f"{label}, {seeds}")
        axes.fill_between(x, finite.min(0), finite.max(0), color=colour, alpha=0.2, lw=0)
    axes.margins(x=0)
    axes.grid(alpha=0.3)


def confusion(matrix: Int[np.ndarray, "true predicted"], class_names: Sequence[str]) -> Figure:
    """Draw a confusion matrix with its counts, shaded by their share of the row."""
    figure = Figure(figsize=(7.5, 7), layout="constrained")
    axes = figure.add_subplot()
    share = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    # The square root lets the few errors show beside the many right answers.
    shade = np.sqrt(share)
    axes.imshow(shade, cmap="Blues", vmin=0, vmax=1)
    for row, column in np.ndindex(matrix.shape):
        colour = "white" if shade[row, column] > 0.6 else "black"
        text = {"ha": "center", "va": "center", "color": colour, "fontsize": 9}
        axes.text(column, row, f"{matrix[row, column]}", **text)
    ticks = range(len(class_names))
    rotation = 45 if max(map(len, class_names)) > 2 else 0
    axes.set_xticks(ticks, class_names, rotation=rotation, ha="right" if rotation else "center")
    axes.set_yticks(ticks, class_names)
    accuracy = np.trace(matrix) / max(matrix.sum(), 1)
    title = f"accuracy {100 * accuracy:.2f} % on {matrix.sum():,} images"
    axes.set(xlabel="predicted class", ylabel="true class", title=title)
    return figure


def misread(
    images: UInt8[np.ndarray, "examples height width"],
    labels: Labels,
    probabilities: Float[np.ndarray, "examples classes"],
    class_names: Sequence[str],
    rows: int = 4,
    columns: int = 6,
) -> Figure:
    """Draw the images that a classifier got wrong with the most confidence, worst first.

    At most so many rows of so many columns.
    """
    predicted = probabilities.argmax(1)
    confidence = probabilities.max(1)
    wrong = np.flatnonzero(predicted != labels)
    shown = wrong[np.argsort(-confidence[wrong], kind="stable")][: rows * columns]
    rows = max(1, -(-len(shown) // columns))
    figure = Figure(figsize=(1.5 * columns, 1.9 * rows + 0.6), layout="constrained")
    figure.suptitle(f"{len(wrong):,} of {len(images):,} images misread, the most confident first")
    for place, i in enumerate(shown, start=1):
        axes = figure.add_subplot(rows, columns, place, xticks=[], yticks=[])
        axes.imshow(images[i], cmap="gray_r")
        true, read = class_names[int(labels[i])], class_names[int(predicted[i])]
        title = f"{true}, read as\n{read} ({percent(float(confidence[i]))})"
        axes.set_title(title, fontsize=9)
        axes.set_xlabel(f"image {i}", fontsize=8)
    return figure


def reading(
    image: UInt8[np.ndarray, "height width"],
    probabilities: Float[np.ndarray, " classes"],
    class_names: Sequence[str],
    title: str,
) -> Figure:
    """Draw one image, light on dark, beside the probability of every class."""
    figure = Figure(figsize=(8, 3.6), layout="constrained")
    figure.suptitle(title)
    seen = figure.add_subplot(1, 2, 1, xticks=[], yticks=[])
    seen.imshow(image, cmap="gray", vmin=0, vmax=255)
    seen.set_title("what the network sees")
    bars = figure.add_subplot(1, 2, 2, xlim=(0, 1.25), xticks=np.linspace(0, 1, 5))
    best = probabilities.argmax()
    colours = [_COLOURS[int(i == best)] for i in range(len(class_names))]
    drawn = bars.barh(range(len(class_names)), probabilities, color=colours)
    bars.bar_label(drawn, [percent(p) for p in probabilities], padding=3, fontsize=9)
    bars.set_yticks(range(len(class_names)), class_names)
    bars.invert_yaxis()
    bars.set_xlabel("probability")
    return figure


def percent(probability: float) -> str:
    """Return a percentage that never claims certainty by rounding."""
    return "> 99.9 %" if probability > 0.9995 else f"{100 * probability:.1f} %"


def _square(title: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(6, 6.4), layout="constrained")
    ticks = np.linspace(-1, 1, 5)
    axes = figure.add_subplot(xlim=(-1, 1), ylim=(-1, 1), xticks=ticks, yticks=ticks)
    axes.set(xlabel="$x_1$", ylabel="$x_2$")
    axes.set_aspect("equal")
    axes.set_title(title)
    return figure, axes


def _scatter(axes: Axes, x: np.ndarray, y: np.ndarray) -> list[Any]:
    styles = {0: ("o", 9, _OUTSIDE), 1: ("x", 22, _INSIDE)}
    return [
        axes.scatter(*x[y == label].T, s=size, color=colour, marker=marker, label=f"label {label}")
        for label, (marker, size, colour) in styles.items()
    ]


def _circle(axes: Axes, radius: float) -> Line2D:
    axes.add_patch(Circle((0, 0), radius, fill=False, edgecolor="black", linestyle="--", lw=1.5))
    return Line2D([], [], color="black", linestyle="--", label="true circle")


def _legend_below(figure: Figure, handles: list[Any]) -> None:
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False)
