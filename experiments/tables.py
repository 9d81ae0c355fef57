"""The paper's tables, and ours beside them.

Accuracies are in per cent and training times in seconds, as the paper prints them. Ours are the
mean over the seeds ± the sample standard deviation.
"""

import statistics
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from experiments.results import Run


class Published(NamedTuple):
    """A column of the paper: its fields have the meaning of those of `Run`."""

    table: str
    seconds: float
    accuracy_train: float
    accuracy_test: float
    f1_train: float | None = None
    f1_test: float | None = None


Paper = Mapping[tuple[str, str], Published]
"""The paper's column for each framework, theirs standing for funcnet's, and loss."""

DISK: Paper = {
    ("funcnet", "mse"): Published("Table I", 14.00, 0.9969, 0.9820, 0.987, 0.938),
    ("funcnet", "cross_entropy"): Published("Table I", 25.64, 0.9997, 0.9847, 0.998, 0.948),
    ("torch", "mse"): Published("Table II", 15.63, 0.9975, 0.9819, 0.990, 0.936),
    ("torch", "cross_entropy"): Published("Table II", 15.17, 1.0, 0.9857, 1.0, 0.950),
}
MNIST: Paper = {
    ("funcnet", "cross_entropy"): Published("Table III", 96.46, 1.0, 0.9508),
    ("torch", "cross_entropy"): Published("Table III", 112.4, 1.0, 0.9523),
}

TITLES = {
    "mse": "MSE",
    "cross_entropy": "cross entropy",
    "funcnet": "funcnet",
    "torch": "PyTorch",
    "torch.compile": "PyTorch compiled",
}


class _Row(NamedTuple):
    title: str
    field: str
    digits: int
    scale: float = 1.0
    unit: str = ""


_ROWS = (
    _Row("training time", "seconds", 2, unit=" s"),
    _Row("accuracy train", "accuracy_train", 2, 100.0, " %"),
    _Row("F1 train", "f1_train", 3),
    _Row("accuracy test", "accuracy_test", 2, 100.0, " %"),
    _Row("F1 test", "f1_test", 3),
)


def render(runs: Sequence[Run], paper: Paper) -> str:
    """Return a Markdown table of runs beside the paper's columns, if it has them.

    Runs of one framework, loss and model make a column, in order of appearance. F1 has rows where
    the runs have F1.
    """
    columns = [["", *(row.title for row in _ROWS)]]
    for framework, loss, model in dict.fromkeys(map(_kind, runs)):
        chosen = [run for run in runs if _kind(run) == (framework, loss, model)]
        title = f"{TITLES[loss]}, {TITLES[framework]}" if model is None else model
        columns.append([title, *_cells(chosen)])
        if published := paper.get((framework, loss)):
            columns.append([f"paper, {published.table}", *_cells([published])])
    header, *rows = zip(*columns, strict=True)
    return markdown([header, *(row for row in rows if any(row[1:]))])


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """Return rows of cells, the header first, as a Markdown table padded to read well.

    The first column is aligned to the left, the others to the right.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    header, *others = rows
    return "".join(_line(cells, widths) for cells in (header, rule, *others))


def _kind(run: Run) -> tuple[str, str, str | None]:
    return run.framework, run.loss, run.model


def _cells(samples: Sequence[Run | Published]) -> list[str]:
    return [_cell([getattr(sample, row.field) for sample in samples], row) for row in _ROWS]


def _cell(values: Sequence[float | None], row: _Row) -> str:
    numbers = [row.scale * value for value in values if value is not None]
    if row.field == "seconds":
        numbers = list(dict.fromkeys(numbers))  # one measurement may stand for several seeds
    if not numbers:
        return ""
    mean = statistics.fmean(numbers)
    # funcnet's times may be hundreds of times shorter than those the paper prints.
    digits = row.digits + (row.field == "seconds" and mean < 1)
    spread = f" ± {statistics.stdev(numbers):.{digits}f}" if len(numbers) > 1 else ""
    return f"{mean:.{digits}f}{spread}{row.unit}"


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    first, *rest = zip(cells, widths, strict=True)
    padded = [first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in rest)]
    return f"| {' | '.join(padded)} |\n"
