"""`python -m experiments kill_table`: who catches which wrong rule, and who cries wolf."""

import dataclasses
import functools
import importlib.util
import platform
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path

import jax

from experiments.kill_table import judges
from experiments.kill_table.judges import DOES_NOT_APPLY, Verdict
from experiments.kill_table.right_rules import RIGHT
from experiments.kill_table.rule import Rule
from experiments.kill_table.wrong_rules import WRONG

Judge = Callable[[Rule], Verdict]

TORCH_MISSING = "PyTorch is not installed, so its columns are empty: pip install 'funcnet[torch]'."


@dataclasses.dataclass(frozen=True)
class Config:
    """Judge every exhibit by every tool and write the table.

    Attributes:
        output: The Markdown file to write.
        only: Judge only the rules whose name contains this.
    """

    output: Path = Path("docs/kill_table.md")
    only: str = ""


def main(config: Config) -> None:
    """Write the table to `config.output`."""
    # For the exhibits that are wrong on several devices only; before JAX makes its first array.
    jax.config.update("jax_num_cpu_devices", 2)
    if not _has_torch():
        print(TORCH_MISSING)
    wrong = [_judged(rule) for rule in WRONG if config.only in rule.name]
    right = [_judged(rule) for rule in RIGHT if config.only in rule.name]
    config.output.parent.mkdir(parents=True, exist_ok=True)
    config.output.write_text(_document(wrong, right))
    print(f"wrote {config.output}")


Row = tuple[Rule, dict[str, Verdict]]


def _judged(rule: Rule) -> Row:
    print(rule.name, flush=True)
    return rule, {name: judge(rule) for name, judge in _tools().items()}


@functools.cache
def _tools() -> dict[str, Judge]:
    """Column titles and judges."""
    check_grads = judges.by_check_grads
    tools: dict[str, Judge] = {
        "check_vjp": judges.by_check_vjp,
        "check_grads": lambda rule: check_grads(rule, order=2, x64=True, modes=("fwd", "rev")),
        "rev 1, f32": lambda rule: check_grads(rule, order=1, x64=False, modes=("rev",)),
        "rev 2, f32": lambda rule: check_grads(rule, order=2, x64=False, modes=("rev",)),
        "rev 1, f64": lambda rule: check_grads(rule, order=1, x64=True, modes=("rev",)),
        "rev 2, f64": lambda rule: check_grads(rule, order=2, x64=True, modes=("rev",)),
    }
    for title, second in (("gradcheck", False), ("gradgradcheck", True)):
        tools[title] = functools.partial(_torch, second=second)
    return tools


def _torch(rule: Rule, *, second: bool) -> Verdict:
    return judges.by_gradcheck(rule, second=second) if _has_torch() else DOES_NOT_APPLY


def _has_torch() -> bool:
    return importlib.util.find_spec("torch") is not None


def _document(wrong: Sequence[Row], right: Sequence[Row]) -> str:
    tools = list(_tools())
    by_the_named_check = sum(v["check_vjp"].detail == rule.caught_by for rule, v in wrong)
    summary = [
        ["wrong rules caught", *(_count(wrong, tool) for tool in tools)],
        ["false alarms on right rules", *(_count(right, tool) for tool in tools)],
    ]
    return "\n".join(
        [
            "# Who catches which wrong rule",
            "",
            "Made by `python -m experiments kill_table`. The rules are in "
            "[experiments/kill_table](../experiments/kill_table); each row below names one.",
            "",
            *_table(["", *tools], summary),
            "",
            f"`check_vjp` caught {by_the_named_check} of the {len(wrong)} wrong rules by the check "
            "that the exhibit names, the earliest that can.",
            "",
            *_HOW_TO_READ,
            "",
            "## Wrong rules",
            "",
            "✗ caught (for `check_vjp`: by which check), · missed, – does not apply.",
            "",
            *_table(
                ["rule", "mistake", *tools],
                [[r.name, _lesson(r), *(_mark(v[tool]) for tool in tools)] for r, v in wrong],
            ),
            "",
            "## Right rules",
            "",
            "✗ false alarm, · passed, – does not apply.",
            "",
            *_table(
                ["rule", "what makes it hard", *tools],
                [[r.name, r.lesson, *(_mark(v[tool]) for tool in tools)] for r, v in right],
            ),
            "",
            "## How it was made",
            "",
            f"Python {platform.python_version()}, "
            + ", ".join(f"{name} {version(name)}" for name in _packages())
            + ", on a CPU.",
            "",
        ]
    )


_HOW_TO_READ = [
    "- `check_grads` is `jax.test_util.check_grads` as it is called by default (order 2, both "
    "modes, here in float64): forward mode raises on every `custom_vjp`, so it rejects all rules, "
    "right or wrong. `rev 1` and `rev 2` are orders 1 and 2 with `modes=['rev']`.",
    "- `gradcheck` is `torch.autograd.gradcheck` in float64, the rule wrapped in a "
    "`torch.autograd.Function` and compiled by jit; `gradgradcheck` is the two together.",
    "- Every tool is given the same arguments, with its own default tolerances. Tools that take "
    "floating-point arrays only get a function of those.",
    "- A rule that is wrong on purpose (straight-through, clipping) cannot be told to the other "
    "tools, and one that declares itself first-order is not asked for its second derivative.",
]


def _count(rows: Sequence[Row], tool: str) -> str:
    verdicts = [verdicts[tool].objects for _, verdicts in rows]
    asked = [objects for objects in verdicts if objects is not None]
    return f"{sum(asked)} of {len(asked)}" if asked else "–"


def _mark(verdict: Verdict) -> str:
    if verdict.objects is None:
        return "–"
    if not verdict.objects:
        return "·"
    return f"✗ {verdict.detail}" if verdict.detail in _CHECKS else "✗"


_CHECKS = {rule.caught_by for rule in WRONG}


def _lesson(rule: Rule) -> str:
    if not rule.source:
        return rule.lesson
    repository, number = rule.source.split("#")
    return f"{rule.lesson} ([{rule.source}](https://github.com/{repository}/issues/{number}))"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"

    return [line(header), line(["---"] * len(header)), *map(line, rows)]


def _packages() -> list[str]:
    return ["jax", "jaxlib", "numpy", *(["torch"] if _has_torch() else [])]
