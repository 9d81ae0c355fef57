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
    """Write the report and the figure of one loss, and return the report.

    The differences are each seed's `runner.Learned.apart`, the runs those of both frameworks.
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
    parts = [(part, name) for part in ("train", "test") for name in ("funcnet", "torch")]
    rows = [["seed", *(f"{part}, {tables.TITLES[name]}" for part, name in parts)]]
    found = {(run.framework, run.seed): run for run in runs}
    for seed in sorted({run.seed for run in runs}):
        scores = [getattr(found[name, seed], f"accuracy_{part}") for part, name in parts]
        rows.append([str(seed), *(f"{100 * score:.2f} %" for score in scores)])
    return rows
