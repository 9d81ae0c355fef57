"""What was recorded of a run, epoch by epoch."""

import csv
import os
from pathlib import Path
from typing import Any

import jax
import numpy as np

from funcnet.training.metrics import VALIDATION


class History(dict[str, np.ndarray]):
    """From names to NumPy arrays, (epochs,) each but for "diverged_at" and "best_epoch", ().

    A dict that also plots itself and writes itself to a file; a pytree, as a dict is.
    """

    def curves(self) -> dict[str, np.ndarray]:
        """What there is for every epoch: (epochs,) each."""
        return {name: entry for name, entry in self.items() if np.ndim(entry) == 1}

    def to_csv(self, path: str | os.PathLike[str], begin: int = 0) -> None:
        """Write a line for each epoch, counted from 0, under a line of names.

        Args:
            path: the file; one that is there is replaced.
            begin: the first epoch to write; with any but 0 the lines are added to the file.
        """
        curves = self.curves()
        epochs = range(begin, len(self["loss"]))
        with Path(path).open("a" if begin else "w", newline="") as file:
            writer = csv.writer(file)
            if not begin:
                writer.writerow(["epoch", *curves])
            writer.writerows(
                [epoch, *(entry[epoch] for entry in curves.values())] for epoch in epochs
            )

    def plot(self) -> Any:
        """Draw each entry over the epochs, beside what it is on the validation set.

        Returns:
            A matplotlib figure, with one pair of axes for each.

        Raises:
            ModuleNotFoundError: matplotlib is missing, the extra `plots`.
        """
        try:
            from matplotlib.figure import Figure
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                f"plot needs matplotlib; install the extra: pip install 'funcnet[plots]' ({error})"
            ) from None
        curves = self.curves()
        names = [name for name in curves if not name.startswith(VALIDATION)]
        figure = Figure(figsize=(5 * len(names), 3.5), layout="constrained")
        for axes, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
            axes.plot(curves[name], label="training")
            if VALIDATION + name in curves:
                axes.plot(curves[VALIDATION + name], label="validation")
                axes.legend()
            axes.set(xlabel="epoch", ylabel=name)
        return figure


jax.tree_util.register_pytree_with_keys(
    History,
    lambda history: (
        [(jax.tree_util.DictKey(name), history[name]) for name in sorted(history)],
        tuple(sorted(history)),
    ),
    lambda names, entries: History(zip(names, entries, strict=True)),
)
