"""How far two frameworks come apart that start from the same weights and see the same batches.

Both compute the same function, but add in another order, so that they round differently; and
descent amplifies what rounding began. The report says by how much, for the loss and every
parameter.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments import figures, results, tables
from funcnet.io.files import write_atomically


def write(
    out: Path, loss: str, differences: Sequence[Mapping[str, Any]], runs: list[results.Run]
) -> str:
    """Write the report and the figure of one loss; return the report.

    Args:
        out: an existing folder.
        loss: "mse", in the names of the files.
        differences: of each seed, see `runner.Learned.apart`.
        runs: of both frameworks with this loss.
    """
    stacked = {key: np.stack([seed[key] for seed in differences]) for key in differences[0]}
    report = render(stacked, runs)
    write_atomically(out / f"same-start-{loss}.md", report.encode())
    # A logarithmic axis has no place for "not at all".
    drawn = {key: np.where(values > 0, values, np.nan) for key, values in stacked.items()}
    some = any(np.isfinite(values).any() for values in drawn.values())
    figure = figures.curves(drawn, "largest |funcnet - PyTorch|", log=some)
    figures.save(figure, out / f"same-start-{loss}.png")
    return report


def render(differences: Mapping[str, np.ndarray], runs: Sequence[results.Run]) -> str:
    """Return the report as Markdown; the differences are (seeds, epochs) each."""
    epochs = next(iter(differences.values())).shape[1]
    shown = sorted({1, 10, 100, 1000, epochs} & set(range(1, epochs + 1)))
    header = ["", *(f"after epoch {epoch}" for epoch in shown), "along the way", "in epoch"]
    rows = []
    for key, values in differences.items():
        worst = values.max(axis=0)  # over the seeds
        cells = [worst[epoch - 1] for epoch in shown] + [worst.max()]
        rows.append([key, *(f"{cell:.1e}" for cell in cells), str(worst.argmax() + 1)])
    return (
        f"Largest absolute difference between funcnet and PyTorch, over the seeds, from the same "
        f"weights and batch order:\n\n{tables.markdown([header, *rows])}\n"
        f"Accuracies at the end:\n\n{tables.markdown(_accuracies(runs))}"
    )


def _accuracies(runs):
    frameworks = ("funcnet", "torch")
    titles = [tables.TITLES[framework] for framework in frameworks]
    rows = [["seed", *(f"{part}, {title}" for part in ("train", "test") for title in titles)]]
    found = {(run.framework, run.seed): run for run in runs}
    for seed in sorted({run.seed for run in runs}):
        scores = [
            getattr(found[framework, seed], f"accuracy_{part}")
            for part in ("train", "test")
            for framework in frameworks
        ]
        rows.append([str(seed), *(f"{100 * score:.2f} %" for score in scores)])
    return rows
