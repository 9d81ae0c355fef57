"""rnn, lstm and gru: one layer of a recurrent network, read over time in one direction.

    X (..., T, I)             inputs, T steps of I features
    h₀ (..., P), c₀ (..., H)  the carry before the first step; P = H without a projection
    W_ih (K H, I), W_hh (K H, P), b_ih, b_hh (K H,)
                              weights and biases of the K gates below each other, PyTorch's order
    Y (..., T, P)             outputs: Y_t = h_t

Every step t = 1 ... T computes from x_t and the last carry, with * entry by entry,

    z_t = W_ih x_t + b_ih + W_hh h_{t-1} + b_hh

    rnn   h_t = tanh z_t                        or relu; K = 1

    lstm  i, f, o = σ(z_i), σ(z_f), σ(z_o)      g = tanh z_g                         K = 4: i f g o
          c_t = f * c_{t-1} + i * g             m_t = o * tanh c_t
          h_t = m_t, or W_hr m_t with a projection W_hr (P, H)

    gru   r, u = σ(z_r), σ(z_u)                 K = 3: r u n, and of n the two halves of z apart:
          n = tanh(a + r * s),  a = W_in x_t + b_in,  s = W_hn h_{t-1} + b_hn
          h_t = (1 - u) * n + u * h_{t-1}

Backpropagation through time. Write dh for what reaches h_t: from Y_t, and from the step behind it,
which read h_t. Going back from t = T, with the cotangents of the last carry to begin with,

    dh ← dY_t + dh                              what Y_t and step t + 1 ask of h_t
    dz_t from dh (below)
    dh ← W_hhᵀ dz_t                             what step t asks of h_{t-1}

    rnn   dz = dh * (1 - h²), or where h > 0

    lstm  dm = dh, or W_hrᵀ dh                  dc ← dc + dm * o * (1 - tanh² c)
          dz_o = dm * tanh c * o (1 - o)        dz_f = dc * c_{t-1} * f (1 - f)
          dz_i = dc * g * i (1 - i)             dz_g = dc * i * (1 - g²)
          dc ← f * dc                           what step t asks of c_{t-1}

    gru   da = dh * (1 - u) * (1 - n²)          dz_u = dh * (h_{t-1} - n) * u (1 - u)
          ds = da * r                           dz_r = da * s * r (1 - r)
          dh ← u * dh + W_hhᵀ (dz_r, dz_u, ds)  h_{t-1} is read by the gates, and handed on

The weights are the same at every step, so that each step's part is added up:

    dX_t = W_ihᵀ dz_t    dW_ih = Σ_t dz_t x_tᵀ    dW_hh = Σ_t dz_t h_{t-1}ᵀ    db = Σ_t dz_t

for both biases, and dW_hr = Σ_t dh_t m_tᵀ; of the gru, W_hh and b_hh have ds where W_ih and b_ih
have da.

Lengths: step t of an example of length ℓ counts where t ≤ ℓ. Behind it the carry is handed on as it
is, Y_t is 0, and no gradient flows. Read in reverse, t runs from T to 1, and so begins at ℓ.

Residuals: x and the weights, which the caller holds; h_{t-1}, the gates and c_t of every step.

Sources: Werbos, "Backpropagation through time", 1990; Hochreiter and Schmidhuber, "Long short-term
memory", 1997; Cho et al., 2014 (gru, in PyTorch's variant); Sak et al., 2014 (projection).
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int

from funcnet._internal.checks import require_arrays, require_bool, require_choice
from funcnet.errors import DtypeError, ShapeError
from funcnet.ops._checks import require_floating
from funcnet.ops._cotangents import like
from funcnet.ops._precision import wide
from funcnet.ops._rule import rule
from funcnet.ops.kernels.recurrent import in_stretches


def rnn(
    x: Float[Array, "... T I"],
    h0: Float[Array, "... H"],
    weight_ih: Float[Array, "H I"],
    weight_hh: Float[Array, "H H"],
    bias_ih: Float[Array, " H"] | None = None,
    bias_hh: Float[Array, " H"] | None = None,
    lengths: Int[Array, "..."] | None = None,
    reverse: bool = False,
    nonlinearity: Literal["tanh", "relu"] = "tanh",
) -> tuple[Float[Array, "... T H"], Float[Array, "... H"]]:
    """One layer of a simple recurrent network, as `torch.nn.RNN` computes it.

    The backward pass is derived in the docstring of funcnet/ops/recurrent.py.

    Args:
        x: (..., T, I), floating.
        h0: (..., H), the carry before the first step.
        weight_ih: (H, I).
        weight_hh: (H, H).
        bias_ih: (H,) or None.
        bias_hh: (H,) or None.
        lengths: (...), integers: how many steps of each example count; None for all. Behind them y
            is 0 and the carry is that of the last step that counts.
        reverse: whether the steps are read from the last one that counts to the first.
        nonlinearity: "tanh" or "relu".

    Returns:
        y (..., T, H) and the last carry (..., H).

    Raises:
        ShapeError, DtypeError, ConfigError: the arguments do not fit each other.
    """
    require_choice("rnn: nonlinearity", nonlinearity, ("tanh", "relu"))
    cell = "rnn" if nonlinearity == "tanh" else "rnn_relu"
    _check("rnn", 1, x, h0, None, weight_ih, weight_hh, bias_ih, bias_hh, None, lengths, reverse)
    weights = Weights(weight_ih, weight_hh, bias_ih, bias_hh, None)
    y, (h, _) = _recurrent(x, (h0, None), weights, _counting(x, lengths), cell, reverse)
    return y, h


def lstm(
    x: Float[Array, "... T I"],
    h0: Float[Array, "... P"],
    c0: Float[Array, "... H"],
    weight_ih: Float[Array, "4*H I"],
    weight_hh: Float[Array, "4*H P"],
    bias_ih: Float[Array, " 4*H"] | None = None,
    bias_hh: Float[Array, " 4*H"] | None = None,
    weight_hr: Float[Array, "P H"] | None = None,
    lengths: Int[Array, "..."] | None = None,
    reverse: bool = False,
) -> tuple[Float[Array, "... T P"], tuple[Float[Array, "... P"], Float[Array, "... H"]]]:
    """One layer of a long short-term memory, as `torch.nn.LSTM` computes it.

    The backward pass is derived in the docstring of funcnet/ops/recurrent.py.

    Args:
        x: (..., T, I), floating.
        h0: (..., P), the output before the first step; P is H without a projection.
        c0: (..., H), the cell before the first step.
        weight_ih: (4 H, I), of the gates i, f, g and o below each other.
        weight_hh: (4 H, P).
        bias_ih: (4 H,) or None.
        bias_hh: (4 H,) or None.
        weight_hr: (P, H), what projects the output, or None.
        lengths: (...), integers: how many steps of each example count; None for all. Behind them y
            is 0 and the carry is that of the last step that counts.
        reverse: whether the steps are read from the last one that counts to the first.

    Returns:
        y (..., T, P) and the last carry, (..., P) and (..., H).

    Raises:
        ShapeError, DtypeError, ConfigError: the arguments do not fit each other.
    """
    arrays = weight_ih, weight_hh, bias_ih, bias_hh, weight_hr
    _check("lstm", 4, x, h0, c0, *arrays, lengths, reverse)
    return _recurrent(x, (h0, c0), Weights(*arrays), _counting(x, lengths), "lstm", reverse)


def gru(
    x: Float[Array, "... T I"],
    h0: Float[Array, "... H"],
    weight_ih: Float[Array, "3*H I"],
    weight_hh: Float[Array, "3*H H"],
    bias_ih: Float[Array, " 3*H"] | None = None,
    bias_hh: Float[Array, " 3*H"] | None = None,
    lengths: Int[Array, "..."] | None = None,
    reverse: bool = False,
) -> tuple[Float[Array, "... T H"], Float[Array, "... H"]]:
    """One layer of gated recurrent units, as `torch.nn.GRU` computes it.

    The backward pass is derived in the docstring of funcnet/ops/recurrent.py.

    Args:
        x: (..., T, I), floating.
        h0: (..., H), the carry before the first step.
        weight_ih: (3 H, I), of the gates r and u (PyTorch's z) and of n below each other.
        weight_hh: (3 H, H).
        bias_ih: (3 H,) or None.
        bias_hh: (3 H,) or None.
        lengths: (...), integers: how many steps of each example count; None for all. Behind them y
            is 0 and the carry is that of the last step that counts.
        reverse: whether the steps are read from the last one that counts to the first.

    Returns:
        y (..., T, H) and the last carry (..., H).

    Raises:
        ShapeError, DtypeError, ConfigError: the arguments do not fit each other.
    """
    _check("gru", 3, x, h0, None, weight_ih, weight_hh, bias_ih, bias_hh, None, lengths, reverse)
    weights = Weights(weight_ih, weight_hh, bias_ih, bias_hh, None)
    y, (h, _) = _recurrent(x, (h0, None), weights, _counting(x, lengths), "gru", reverse)
    return y, h


class Weights(NamedTuple):
    """What a layer is made of: W_ih, W_hh, b_ih, b_hh and W_hr."""

    ih: Array
    hh: Array
    b_ih: Array | None
    b_hh: Array | None
    hr: Array | None


def _recurrence(x, carry, weights, counts, cell, reverse):
    return _recurrence_fwd(x, carry, weights, counts, cell, reverse)[0]


def _recurrence_fwd(x, carry, weights, counts, cell, reverse):
    W = jax.tree.map(wide, weights)

    def step(before, at):
        x, counts = at
        h, c = before
        zx = _affine(x, W.ih, W.b_ih)
        zh = _affine(h, W.hh, W.b_hh)
        m, after_c, gates = CELLS[cell].forward(zx, zh, h, c)
        after = (m if W.hr is None else jnp.matmul(m, W.hr.T)), after_c
        y = after[0]
        if counts is not None:
            y = jnp.where(counts, y, 0)
            after = jax.tree.map(lambda a, b: jnp.where(counts, a, b), after, before)
        return after, (y, (h, c, gates))

    start = jax.tree.map(wide, carry)
    xs = jnp.moveaxis(wide(x), -2, 0)  # (..., T, I) -> (T, ..., I)
    last, (y, kept) = jax.lax.scan(step, start, (xs, counts), reverse=reverse)
    y = jnp.moveaxis(y, 0, -2).astype(jnp.result_type(x, *jax.tree.leaves((carry, weights))))
    last = jax.tree.map(lambda a: a.astype(y.dtype), last)
    return (y, last), (x, carry, weights, counts, kept)


def _recurrence_bwd(cell, reverse, residuals, cotangents):
    x, carry, weights, counts, kept = residuals
    dY, d_last = jax.tree.map(wide, cotangents)
    W = jax.tree.map(wide, weights)
    d_first, (dzx, dzh, dh) = _back(
        cell, reverse, W, d_last, (jnp.moveaxis(dY, -2, 0), counts, kept)
    )
    # zx = W_ih x + b_ih
    dX = jnp.moveaxis(jnp.matmul(dzx, W.ih), 0, -2)  # (T, ..., K H) (K H, I) -> (..., T, I)
    h, c, gates = kept
    xs = jnp.moveaxis(wide(x), -2, 0)
    d_weights = Weights(
        _over_rows(dzx, xs),  # (K H, I)
        _over_rows(dzh, h),  # (K H, P)
        None if weights.b_ih is None else _over_rows(dzx),
        None if weights.b_hh is None else _over_rows(dzh),
        None if weights.hr is None else _over_rows(dh, CELLS[cell].output(gates, c)),
    )
    d_carry = jax.tree.map(like, d_first, carry)
    return like(dX, x), d_carry, jax.tree.map(like, d_weights, weights), None


def _back(cell, reverse, W, d_last, steps):
    """The recursion back over some steps: the carry's cotangent before them; dz_x, dz_h, dh."""

    def step(after, at):
        dY, counts, (h, c, gates) = at
        dh, dc = after
        handed_on = None
        if counts is not None:
            handed_on = jax.tree.map(lambda d: jnp.where(counts, 0, d), after)
            dY, dh, dc = jax.tree.map(lambda d: jnp.where(counts, d, 0), (dY, dh, dc))
        # y = h, and h is read by the next step
        dh = dh + dY
        # h = W_hr m
        dm = dh if W.hr is None else jnp.matmul(dh, W.hr)
        # m, c = the cell's gates of zx and zh
        dzx, dzh, before_h, before_c = CELLS[cell].backward(dm, dc, gates, h, c)
        # zh = W_hh h + b_hh
        before = before_h + jnp.matmul(dzh, W.hh), before_c
        if handed_on is not None:
            before = jax.tree.map(jnp.add, before, handed_on)
        return before, (dzx, dzh, dh)

    return jax.lax.scan(step, d_last, steps, reverse=not reverse)


_recurrent = rule(
    _recurrence,
    _recurrence_fwd,
    _recurrence_bwd,
    nondiff_argnums=(4, 5),
    kernel=partial(in_stretches, back=_back),
)


def _affine(x, weight, bias):
    y = jnp.matmul(x, weight.T)
    return y if bias is None else y + bias.reshape((1,) * (y.ndim - 1) + bias.shape)


def _over_rows(a, b=None):
    """AᵀB over all steps and examples, or the sum of A over them."""
    rows = tuple(range(a.ndim - 1))
    return a.sum(axis=rows) if b is None else jnp.tensordot(a, b, axes=(rows, rows))


class Cell(NamedTuple):
    """One step, from z_x = W_ih x + b_ih and z_h = W_hh h + b_hh on.

    Attributes:
        forward: (z_x, z_h, h_{t-1}, c_{t-1}) to m_t, c_t and the gates to keep.
        backward: (dm, dc, gates, h_{t-1}, c_{t-1}) to dz_x, dz_h, what h_{t-1} gets past W_hh, and
            dc of the step before.
        output: (gates, c_{t-1}) to m_t.
    """

    forward: Callable[..., Any]
    backward: Callable[..., Any]
    output: Callable[..., Any]


def _rnn_forward(zx, zh, h, c):
    m = jnp.tanh(zx + zh)
    return m, c, m


def _rnn_backward(dm, dc, m, h, c):
    dz = dm * (1 - m * m)
    return dz, dz, 0, dc


def _rnn_relu_forward(zx, zh, h, c):
    m = jnp.maximum(zx + zh, 0)
    return m, c, m


def _rnn_relu_backward(dm, dc, m, h, c):
    dz = jnp.where(m > 0, dm, 0)
    return dz, dz, 0, dc


def _lstm_forward(zx, zh, h, c):
    i, f, g, o = jnp.split(zx + zh, 4, axis=-1)
    i, f, g, o = jax.nn.sigmoid(i), jax.nn.sigmoid(f), jnp.tanh(g), jax.nn.sigmoid(o)
    c = f * c + i * g
    return o * jnp.tanh(c), c, (i, f, g, o)


def _lstm_backward(dm, dc, gates, h, c):
    i, f, g, o = gates
    t = jnp.tanh(f * c + i * g)
    # m = o * tanh(c_t)
    do = dm * t
    dc = dc + dm * o * (1 - t * t)
    # c_t = f * c + i * g
    di, df, dg = dc * g, dc * c, dc * i
    # i, f, o = sigmoid(z), g = tanh(z)
    dz = di * i * (1 - i), df * f * (1 - f), dg * (1 - g * g), do * o * (1 - o)
    dz = jnp.concatenate(dz, axis=-1)
    return dz, dz, 0, f * dc


def _lstm_output(gates, c):
    i, f, g, o = gates
    return o * jnp.tanh(f * c + i * g)


def _gru_forward(zx, zh, h, c):
    (xr, xu, a), (hr, hu, s) = (jnp.split(z, 3, axis=-1) for z in (zx, zh))
    r, u = jax.nn.sigmoid(xr + hr), jax.nn.sigmoid(xu + hu)
    n = jnp.tanh(a + r * s)
    return (1 - u) * n + u * h, c, (r, u, n, s)


def _gru_backward(dm, dc, gates, h, c):
    r, u, n, s = gates
    # m = (1 - u) * n + u * h
    dn, du = dm * (1 - u), dm * (h - n)
    # n = tanh(a + r * s)
    da = dn * (1 - n * n)
    ds, dr = da * r, da * s
    # r, u = sigmoid(z)
    dzr, dzu = dr * r * (1 - r), du * u * (1 - u)
    dzx = jnp.concatenate([dzr, dzu, da], axis=-1)
    dzh = jnp.concatenate([dzr, dzu, ds], axis=-1)
    return dzx, dzh, u * dm, dc


def _kept_output(gates, c):
    return gates


CELLS = {
    "rnn": Cell(_rnn_forward, _rnn_backward, _kept_output),
    "rnn_relu": Cell(_rnn_relu_forward, _rnn_relu_backward, _kept_output),
    "lstm": Cell(_lstm_forward, _lstm_backward, _lstm_output),
    "gru": Cell(_gru_forward, _gru_backward, _kept_output),
}


def _counting(x, lengths):
    """(T, ..., 1): whether a step of an example counts; None where all do."""
    if lengths is None:
        return None
    steps = jnp.arange(x.shape[-2]).reshape(-1, *(1 for _ in lengths.shape))
    return (steps < lengths[None])[..., None]


def _check(function, gates, x, h0, c0, W_ih, W_hh, b_ih, b_hh, W_hr, lengths, reverse):
    require_bool(f"{function}: reverse", reverse)
    arrays = {"x": x, "h0": h0, "weight_ih": W_ih, "weight_hh": W_hh}
    arrays |= {"c0": c0} if function == "lstm" else {}
    optional = {"bias_ih": b_ih, "bias_hh": b_hh, "weight_hr": W_hr}
    arrays |= {name: array for name, array in optional.items() if array is not None}
    require_floating(function, **arrays)
    if W_ih.ndim != 2 or W_ih.shape[0] % gates or x.ndim < 2:
        raise ShapeError(
            f"{function}: weight_ih has shape {W_ih.shape} and x {x.shape}, expected "
            f"({gates} * hidden_size, input_size) and (..., T, input_size)"
        )
    leading, (rows, inputs) = x.shape[:-2], W_ih.shape
    hidden = rows // gates
    outputs = hidden if W_hr is None else W_hr.shape[0]
    expected = {
        "x": (*x.shape[:-1], inputs),
        "h0": (*leading, outputs),
        "c0": (*leading, hidden),
        "weight_ih": W_ih.shape,
        "weight_hh": (rows, outputs),
        "bias_ih": (rows,),
        "bias_hh": (rows,),
        "weight_hr": (outputs, hidden),
    }
    for name, array in arrays.items():
        if array.shape != expected[name]:
            raise ShapeError(
                f"{function}: {name} has shape {array.shape}, expected {expected[name]}, for x of "
                f"shape {x.shape} and weight_ih of shape {W_ih.shape}"
            )
    if lengths is not None:
        _check_lengths(function, lengths, leading)


def _check_lengths(function, lengths, leading):
    require_arrays(function, lengths=lengths)
    if not jnp.issubdtype(lengths.dtype, jnp.integer):
        raise DtypeError(f"{function}: lengths are {lengths.dtype}, expected integers")
    if lengths.shape != leading:
        raise ShapeError(
            f"{function}: lengths have shape {lengths.shape}, expected {leading}, one for each "
            f"example"
        )
