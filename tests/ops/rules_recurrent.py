"""The cases of rules.py for recurrent layers."""

import jax.numpy as jnp

from funcnet import ops
from tests.ops.cases import Arguments, Case, normal

STEPS, INPUTS, HIDDEN = 3, 2, 2


def weighted(gates, bias=True, cell=False, projected=0, padded=False) -> Arguments:
    """X (..., 3, 2), the carry, the weights and the biases, and lengths."""
    outputs = projected or HIDDEN

    def arguments(rng, dtype, leading):
        rows = gates * HIDDEN
        shapes = [(*leading, STEPS, INPUTS), (*leading, outputs)]
        shapes += [(*leading, HIDDEN)] if cell else []
        shapes += [(rows, INPUTS), (rows, outputs)]
        shapes += [(rows,), (rows,)] if bias else []
        shapes += [(outputs, HIDDEN)] if projected else []
        args = tuple(normal(rng, dtype, shape, scale=0.7) for shape in shapes)
        lengths = jnp.asarray(rng.integers(1, STEPS + 1, size=leading))
        return (*args, lengths) if padded else args

    return arguments


def lstm_padded_in_reverse(x, h, c, w_ih, w_hh, b_ih, b_hh, w_hr, lengths):
    return ops.lstm(x, h, c, w_ih, w_hh, b_ih, b_hh, w_hr, lengths, reverse=True)


def gru_padded(x, h, w_ih, w_hh, b_ih, b_hh, lengths):
    return ops.gru(x, h, w_ih, w_hh, b_ih, b_hh, lengths)


def rnn_relu(x, h, w_ih, w_hh):
    return ops.rnn(x, h, w_ih, w_hh, nonlinearity="relu")


RULES: dict[str, list[Case]] = {
    "rnn": [
        Case("tanh", ops.rnn, weighted(1)),
        Case("relu, no bias", rnn_relu, weighted(1, bias=False), minor=True),
    ],
    "lstm": [
        Case("lstm", ops.lstm, weighted(4, cell=True)),
        Case(
            "projected, padded, in reverse",
            lstm_padded_in_reverse,
            weighted(4, cell=True, projected=1, padded=True),
            minor=True,
        ),
    ],
    "gru": [
        Case("gru", ops.gru, weighted(3)),
        Case("padded", gru_padded, weighted(3, padded=True), minor=True),
    ],
}
