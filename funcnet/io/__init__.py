"""Files: parameters, checkpoints, other libraries' formats."""
