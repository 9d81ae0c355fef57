"""A report as HTML: the table of checks, and of small arguments the wrong elements as a picture."""

from __future__ import annotations

import dataclasses
import html
from collections.abc import Iterator

import numpy as np

# What a page has room for.
MOST_ELEMENTS = 400
MOST_COLUMNS = 24

STYLE = """
.check-vjp { font-family: sans-serif; max-width: 70em; }
.check-vjp table { border-collapse: collapse; margin: 0.5em 0; }
.check-vjp td, .check-vjp th { padding: 0.2em 0.6em; text-align: left; vertical-align: top; }
.check-vjp .elements td { border: 1px solid #8888; font-family: monospace; text-align: right; }
.check-vjp .elements small { opacity: 0.7; }
.check-vjp .wrong { background: #c62828; color: #ffffff; }
.check-vjp .right { background: #2e7d3222; }
.check-vjp .failed { color: #d84343; font-weight: bold; }
.check-vjp .warned { color: #b26a00; }
.check-vjp pre { white-space: pre-wrap; }
@media (prefers-color-scheme: dark) { body:has(> .check-vjp) { background: #111; color: #ddd; } }
"""


@dataclasses.dataclass(frozen=True)
class Picture:
    """One argument's cotangent beside what it should be.

    Attributes:
        name: the argument's name.
        row: which cotangent was pulled back, in words.
        got: the rule's answer.
        expected: the right one.
        wrong: which elements are wrong.
    """

    name: str
    row: str
    got: np.ndarray
    expected: np.ndarray
    wrong: np.ndarray

    @property
    def fits(self) -> bool:
        """Whether it is small enough to be shown."""
        return 0 < self.got.size <= MOST_ELEMENTS and self.got.shape[-1:] <= (MOST_COLUMNS,)

    def to_html(self) -> str:
        """A table of the elements, the rule's value above the right one, the wrong ones marked."""
        columns = self.got.shape[-1] if self.got.ndim else 1
        flat = [a.reshape(-1, columns) for a in (self.got, self.expected, self.wrong)]
        lines = "".join(f"<tr>{''.join(map(_cell, *row))}</tr>" for row in zip(*flat, strict=True))
        count = f"{int(self.wrong.sum())} of {self.wrong.size} elements are wrong"
        title = html.escape(f"{self.name}, for {self.row}: {count}")
        note = "In each cell the rule's value, and below it the right one."
        return f"<p>{title}. <small>{note}</small></p><table class='elements'>{lines}</table>"


def _cell(got: complex, expected: complex, wrong: bool) -> str:
    kind = "wrong" if wrong else "right"
    return f"<td class='{kind}'>{got:.4g}<br/><small>{expected:.4g}</small></td>"


def page(title: str, body: str) -> str:
    """A page that needs nothing else."""
    head = f"<meta charset='utf-8'/><title>{html.escape(title)}</title>"
    return f"<!doctype html><html><head>{head}</head><body>{body}</body></html>"


def fragment(
    title: str,
    lines: tuple[str, ...],
    rows: Iterator[tuple[str, str, str]],
    told: Iterator[tuple[str, str]],
    pictures: tuple[Picture, ...],
) -> str:
    """What stands on the page, or in a notebook.

    Args:
        title: the verdict.
        lines: what was judged.
        rows: for each check its name, its status and a remark.
        told: of those that failed or warned a heading and the text.
        pictures: of the wrong cotangents.
    """
    parts = [f"<style>{STYLE}</style><b>{html.escape(title)}</b>"]
    parts += [f"<br/>{html.escape(line)}" for line in lines]
    cells = "".join(
        f"<tr><td>{html.escape(name)}</td>"
        f"<td class='{status}'>{status}{html.escape(remark)}</td></tr>"
        for name, status, remark in rows
    )
    parts.append(f"<table><tr><th>check</th><th>status</th></tr>{cells}</table>")
    parts += [picture.to_html() for picture in pictures if picture.fits]
    for heading, text in told:
        parts += ["<pre>", html.escape(f"{heading}\n{text}"), "</pre>"]
    return f"<div class='check-vjp'>{''.join(parts)}</div>"
