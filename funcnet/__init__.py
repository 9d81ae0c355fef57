"""funcnet: neural networks as pure functions, with every backward pass derived by hand."""

__version__ = "0.1.0"
