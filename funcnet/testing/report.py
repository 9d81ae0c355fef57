"""What `check_vjp` returns and raises: plain data that prints as a table."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

from funcnet.testing.pictures import Picture, fragment, page

Status = Literal["passed", "failed", "warned", "skipped"]
NOT_REACHED = "not reached"
# Failures of these are the mildest: right values, in first order and on one device.
MILD = ("second_order", "auto_mesh", "explicit_mesh", "shard_map")


@dataclasses.dataclass(frozen=True)
class Check:
    """One row of a report.

    Attributes:
        name: the check's name, as in `CHECK_NAMES`.
        status: "passed", "failed", "warned" or "skipped".
        messages: what there is to say: the failure's text, warnings, or why it was skipped.
    """

    name: str
    status: Status
    messages: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The same as dicts, lists and strings, for JSON."""
        return {"name": self.name, "status": self.status, "messages": list(self.messages)}


@dataclasses.dataclass(frozen=True, repr=False)
class Report:
    """What was checked and what was found; printing it gives all of it, a notebook shows a table.

    Attributes:
        function: the name of the function that was checked.
        arguments: one line for each argument: its name, dtype and shape.
        checks: the checks in the order in which they ran.
        declared: what the caller declared, such as `rtol=1e-05`.
        coverage: one line for each argument: how its cotangent did.
        pictures: the wrong cotangents beside the right ones.
    """

    function: str
    arguments: tuple[str, ...]
    checks: tuple[Check, ...]
    declared: tuple[str, ...] = ()
    coverage: tuple[str, ...] = ()
    pictures: tuple[Picture, ...] = dataclasses.field(default=(), compare=False)

    @property
    def passed(self) -> bool:
        """Whether no check failed."""
        return self.failed is None

    @property
    def failed(self) -> str | None:
        """The name of the check that failed worst, or None."""
        return next((check.name for check in self.failures), None)

    @property
    def failures(self) -> tuple[Check, ...]:
        """The checks that failed, the worst first."""
        failed = [check for check in self.checks if check.status == "failed"]
        return tuple(sorted(failed, key=lambda check: check.name in MILD))

    @property
    def warnings(self) -> tuple[str, ...]:
        """The messages of every check that only warned."""
        warned = (check for check in self.checks if check.status == "warned")
        return tuple(message for check in warned for message in check.messages)

    def to_dict(self) -> dict[str, Any]:
        """The report as dicts, lists, strings and booleans, for JSON."""
        return {
            "function": self.function,
            "arguments": list(self.arguments),
            "passed": self.passed,
            "failed": self.failed,
            "declared": list(self.declared),
            "coverage": list(self.coverage),
            "checks": [check.to_dict() for check in self.checks],
        }

    @property
    def _verdict(self) -> str:
        if self.passed:
            return f"{self.function} passed"
        return f"{self.function} FAILED at " + ", ".join(f"'{c.name}'" for c in self.failures)

    @property
    def _told(self) -> tuple[Check, ...]:
        """The checks whose messages are printed: failures, the worst first, then warnings."""
        return (*self.failures, *(check for check in self.checks if check.status == "warned"))

    def __repr__(self) -> str:
        return f"Report({self._verdict}, {len(self.checks)} checks)"

    def _repr_html_(self) -> str:
        rows = ((c.name, c.status, _remark(c)) for c in self._rows)
        told = ((f"{c.name} {c.status}:", "\n".join(c.messages)) for c in self._told)
        lines = (*self.arguments, *(f"declared {d}" for d in self.declared), *self.coverage)
        return fragment(f"check_vjp: {self._verdict}", lines, rows, told, self.pictures)

    def to_html(self) -> str:
        """The report as a page that stands alone, for a browser.

        Of arguments with up to 400 elements it shows the rule's answer beside the right one, the
        wrong elements marked. A notebook shows the same.
        """
        return page(f"check_vjp: {self._verdict}", self._repr_html_())

    @property
    def _rows(self) -> tuple[Check, ...]:
        """The checks that were come to."""
        return tuple(c for c in self.checks if c.messages != (NOT_REACHED,))

    def __str__(self) -> str:
        lines = [f"check_vjp: {self._verdict}"]
        lines += [f"  argument {argument}" for argument in self.arguments]
        lines += [f"  declared {declared}" for declared in self.declared]
        lines += [f"  coverage {line}" for line in self.coverage]
        lines += [""]
        width = max(len(check.name) for check in self._rows)
        for check in self._rows:
            lines.append(f"  {check.name:<{width}}  {check.status}{_remark(check)}".rstrip())
        for check in self._told:
            lines += ["", f"{check.name} {check.status}:"]
            lines += [_indent(message) for message in check.messages]
        return "\n".join(lines)


class RuleError(AssertionError):
    """Raised by `check_vjp` for a wrong rule. Its text is the report.

    Attributes:
        report: the `Report`.
    """

    def __init__(self, report: Report):
        super().__init__(str(report))
        self.report: Report = report

    def __reduce__(self) -> tuple[type[RuleError], tuple[Report]]:
        # Exceptions are rebuilt from their args; pytest-xdist sends them between processes.
        return type(self), (self.report,)


def _remark(check: Check) -> str:
    if check.status not in ("passed", "skipped") or not check.messages:
        return ""
    return "  (" + "; ".join(check.messages) + ")"


def _indent(text: str) -> str:
    return "\n".join("  " + line for line in text.splitlines())
