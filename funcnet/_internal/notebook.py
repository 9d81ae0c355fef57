"""What notebooks show: tables in HTML, and whether a notebook is there to show them."""

import html
import sys
from collections.abc import Iterable, Sequence


def is_shown() -> bool:
    """Whether a notebook runs this, which displays what the last line of a cell returns."""
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    return hasattr(shell, "kernel")  # a terminal's shell has none


def table(title: str, head: Sequence[str], rows: Iterable[Sequence[str]], note: str = "") -> str:
    """A table in HTML; what stands in the first column is aligned to the left.

    Args:
        title: stands above it.
        head: the columns' names.
        rows: a text for each column.
        note: stands below it, in its own lines.
    """
    lines = [f"<b>{html.escape(title)}</b>", "<table>", _row("th", head)]
    lines += [_row("td", row) for row in rows]
    lines.append("</table>")
    if note:
        lines.append(f"<pre>{html.escape(note)}</pre>")
    return "\n".join(lines)


def _row(tag: str, cells: Sequence[str]) -> str:
    sides = ["left", *["right"] * (len(cells) - 1)]
    texts = (
        f'<{tag} style="text-align: {side}">{html.escape(cell)}</{tag}>'
        for side, cell in zip(sides, cells, strict=True)
    )
    return f"<tr>{''.join(texts)}</tr>"
