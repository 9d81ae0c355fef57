"""The hand-written backward passes that other code calls: `recording()`, and what it gives."""

from funcnet.testing.recorded.judge import RulesError, Verdict, Verdicts
from funcnet.testing.recorded.record import Recording, recording

__all__ = ["Recording", "RulesError", "Verdict", "Verdicts", "recording"]
