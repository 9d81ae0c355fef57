"""Fast forms of rules, for one backend or for some sizes, each held to the plain form by a test."""
