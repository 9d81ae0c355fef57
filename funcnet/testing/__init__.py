"""Verification of hand-written backward passes."""

from funcnet.testing.check_vjp import check_vjp
from funcnet.testing.recorded import Recording, RulesError, Verdict, Verdicts, recording
from funcnet.testing.references.twin import without_rules
from funcnet.testing.report import Check, Report, RuleError

__all__ = [
    "Check",
    "Recording",
    "Report",
    "RuleError",
    "RulesError",
    "Verdict",
    "Verdicts",
    "check_vjp",
    "recording",
    "without_rules",
]
