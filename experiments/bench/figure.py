"""The benchmark's figure."""

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

OTHERS, OWN = "#0072B2", "#D55E00"


def relative(
    panels: Mapping[str, Mapping[str, tuple[float, float, float]]],
    labels: Sequence[str],
    quantity: str,
) -> Figure:
    """Draw medians with their quartiles as multiples of a reference, one panel a measurement.

    Args:
        panels: for each title and each label the median and the quartiles, all positive.
        labels: in the order from top to bottom; the first is the reference, which counts as 1.
            It is marked, as are those whose labels begin with its.
        quantity: what the multiples are of, for the axis: "time of a step".
    """
    columns = min(2, len(panels))
    rows = -(-len(panels) // columns)
    reference = labels[0]
    size = (6 * columns, (0.5 + 0.25 * len(labels)) * rows + 0.5)
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for axes in list(grid.flat)[len(panels) :]:
        axes.set_visible(False)
    for axes, (title, panel) in zip(grid.flat, panels.items(), strict=False):
        for label, (median, low, high) in panel.items():
            own = label.startswith(reference)
            colour, marker = (OWN, "D") if own else (OTHERS, "o")
            height = labels.index(label)
            axes.plot([low, high], [height, height], color=colour, lw=2)
            axes.plot(median, height, marker=marker, color=colour)
            note = {"textcoords": "offset points", "va": "center", "fontsize": 9}
            axes.annotate(f"{median:.3g}", (max(high, median), height), xytext=(7, 0), **note)
        axes.axvline(1, color=OWN, lw=0.8, linestyle="--", zorder=0)
        axes.set_title(title, fontsize=10)
        axes.set_xscale("log")
        axes.set_yticks(range(len(labels)), labels)
        axes.grid(axis="x", alpha=0.3)
        # Room for the number beside the rightmost point.
        axes.margins(x=0.16)
        axes.set_ylim(len(labels) - 0.5, -0.5)
        axes.xaxis.set_major_formatter("{x:g}")
    figure.supxlabel(f"{quantity} as a multiple of {reference}'s: median and quartiles")
    return figure
