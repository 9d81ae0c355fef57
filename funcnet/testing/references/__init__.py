"""What a rule is held to: its twin without rules, a given reference, and who decides."""
