"""Looking inside: a table of a model's layers, a backward pass in numbers, what was compiled."""
