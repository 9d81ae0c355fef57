"""Verification of hand-written backward passes."""

from funcnet.testing.check_vjp import check_vjp
from funcnet.testing.references.twin import without_rules
from funcnet.testing.report import Check, Report, RuleError

__all__ = ["Check", "Report", "RuleError", "check_vjp", "without_rules"]
