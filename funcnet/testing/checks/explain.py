"""The text of a failure, written for someone who derives backward passes to learn how.

A guess is made only where one simple mistake accounts for every element.
"""

from __future__ import annotations

from funcnet.testing.checks.guesses import Clues, guesses, number
from funcnet.testing.numerics.compare import Mismatch


def describe(mismatch: Mismatch, clues: Clues) -> str:
    """Name the argument and the element, the two values, where the right one comes from."""
    index = mismatch.worst
    where = f"[{', '.join(map(str, index))}]" if index else ""
    count, total = int(mismatch.wrong.sum()), mismatch.wrong.size
    shape = f"shape {tuple(mismatch.got.shape)}"
    lines = [
        f"the {mismatch.what} of {mismatch.name} ({shape}, computed in {mismatch.dtype}) is wrong "
        f"in {count} of {total} element{'s' if total > 1 else ''}, for {mismatch.row}",
        f"  worst at {mismatch.name}{where}",
        f"    the rule's value  {number(mismatch.got[index])}",
        f"    expected          {number(mismatch.expected[index])}   from {mismatch.source}",
    ]
    guess = next(guesses(mismatch, clues), None)
    return "\n".join(lines + ([f"  guess: {guess}"] if guess else []))
