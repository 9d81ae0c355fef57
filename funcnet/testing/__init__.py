"""Verification of hand-written backward passes."""

from funcnet.testing.check_vjp import check_vjp
from funcnet.testing.report import Check, Report, RuleError

__all__ = ["Check", "Report", "RuleError", "check_vjp"]
