"""`python -m experiments reports`: sample reports of wrong rules, put into docs/check_vjp.md."""

import dataclasses
from pathlib import Path

from experiments.kill_table.judges import make_args
from experiments.kill_table.rule import Rule
from experiments.kill_table.wrong_rules import WRONG
from funcnet.testing import Report, RuleError, check_vjp

START, END = "<!-- reports: start -->", "<!-- reports: end -->"
SAMPLES = (
    "bias averaged over the batch",
    "product transposed",
    "float32 cotangent for a bfloat16 weight",
    "every maximum gets all",
    "residual detached",
    "softmax without its shift",
)


@dataclasses.dataclass(frozen=True)
class Config:
    """Regenerate the sample reports."""

    output: Path = Path("docs/check_vjp.md")
    """The Markdown file whose section between the two markers is replaced."""


def main(config: Config) -> None:
    """Check each sample and write its report into the document.

    Raises:
        FileNotFoundError: there is no such document.
    """
    rules = {rule.name: rule for rule in WRONG}
    section = "\n\n".join(_sample(rules[name]) for name in SAMPLES)
    text = config.output.read_text()
    before, after = text.split(START)[0], text.split(END)[1]
    config.output.write_text(f"{before}{START}\n\n{section}\n\n{END}{after}")
    print(f"wrote {len(SAMPLES)} reports into {config.output}")


def _sample(rule: Rule) -> str:
    report = report_on(rule)
    return f"### {rule.name.capitalize()}\n\n{rule.lesson}\n\n```text\n{report}\n```"


def report_on(rule: Rule) -> Report:
    """The report on a rule, wrong or right."""
    try:
        return check_vjp(rule.fn, make_args(rule), **rule.options)
    except RuleError as error:
        return error.report
