"""Wrong layers: convolution, pooling, attention, embedding, dropout, recurrence."""

import jax
import jax.numpy as jnp
import numpy as np

from experiments.kill_table.rule import arrays, normal, rules_in, wrong


def take(table, index):
    """Rows of a (4, 2) table."""
    return table[index]


def lookup_args(seed, size, dtype):
    """A table and indices, one of them repeated."""
    rng = np.random.default_rng(seed)
    index = np.concatenate([[1, 1], rng.integers(0, 4, size)])
    return normal(rng, (4, 2), dtype), jnp.asarray(index, jnp.int32)


@wrong(take, lookup_args, caught_by="formula", source="pytorch/pytorch#1631")
def repeated_index_written_once(residuals, g):
    """`set` where `add` is needed: a repeated index keeps one contribution."""
    table, index = residuals
    return jnp.zeros_like(table).at[index].set(g), None


@wrong(take, lookup_args, caught_by="formula")
def repeated_index_averaged(residuals, g):
    """Contributions of a repeated index are averaged, not summed."""
    table, index = residuals
    count = jnp.zeros(len(table), table.dtype).at[index].add(1)
    total = jnp.zeros_like(table).at[index].add(g)
    return total / jnp.maximum(count, 1)[:, None], None


def convolve(x, kernel):
    """Valid cross-correlation of (n,) with (3,)."""
    return jnp.correlate(x, kernel, mode="valid")


@wrong(convolve, arrays("7", "3"), caught_by="formula")
def kernel_not_flipped(residuals, g):
    """The transpose of a correlation is a convolution: the kernel turns around."""
    x, kernel = residuals
    return jnp.correlate(g, kernel, mode="full"), jnp.correlate(x, g, mode="valid")


@wrong(convolve, arrays("7", "3"), caught_by="formula")
def kernels_cotangent_reversed(residuals, g):
    """The kernel's cotangent is reversed as if the forward pass had flipped it."""
    x, kernel = residuals
    return jnp.convolve(g, kernel, mode="full"), jnp.correlate(x, g, mode="valid")[::-1]


def delay(x):
    """Shift (n,) by one step, in with a zero."""
    return jnp.concatenate([jnp.zeros_like(x[:1]), x[:-1]])


@wrong(delay, arrays("n"), caught_by="formula")
def shift_wraps_around(residuals, g):
    """A roll for a shift: what fell out at the end comes back in at the start."""
    del residuals
    return (jnp.roll(g, -1),)


def pool(x):
    """Maximum over pairs: (2n,) to (n,)."""
    return jnp.max(x.reshape(-1, 2), axis=-1)


def tied_pairs(seed, size, dtype):
    """Pairs, the first of them tied."""
    (x,) = arrays("n 2")(seed, size, dtype)
    return (x.at[0, 1].set(x[0, 0]).reshape(-1),)


@wrong(pool, tied_pairs, caught_by="kinks", source="Theano/Theano#4568")
def every_maximum_gets_all(residuals, g):
    """At a tie each maximum gets the whole cotangent: together twice as much as there is."""
    (x,) = residuals
    pairs = x.reshape(-1, 2)
    hit = pairs == jnp.max(pairs, axis=-1, keepdims=True)
    return ((hit * g[:, None]).reshape(x.shape),)


def near_pairs(seed, size, dtype):
    """Pairs, the first of them close."""
    (x,) = arrays("n 2")(seed, size, dtype)
    return (x.at[0, 1].set(x[0, 0] + 2.0**-8).reshape(-1),)


@wrong(pool, near_pairs, caught_by="formula", source="mni-ml/framework#22")
def maximum_found_with_a_tolerance(residuals, g):
    """The maximum is looked for with isclose(1e-2), and a neighbour gets a share."""
    (x,) = residuals
    pairs = x.reshape(-1, 2)
    hit = jnp.isclose(pairs, jnp.max(pairs, axis=-1, keepdims=True), atol=1e-2)
    return ((hit * g[:, None]).reshape(x.shape),)


def with_zeros(seed, size, dtype):
    """Numbers, the first two of them zero."""
    (x,) = arrays("n")(seed, size + 2, dtype)
    return (x.at[:2].set(0),)


def leaky_relu(x):
    """Slope 0.25 below zero."""
    return jnp.where(x > 0, x, 0.25 * x)


@wrong(leaky_relu, with_zeros, caught_by="kinks")
def both_branches_count_at_zero(residuals, g):
    """>= and <= overlap: at zero the slope is 1.25, steeper than either side."""
    (x,) = residuals
    return (g * (x >= 0) + 0.25 * g * (x <= 0),)


@wrong(jnp.abs, with_zeros, caught_by="formula")
def not_a_number_at_the_kink(residuals, g):
    """x/|x| for the sign: 0/0 at zero."""
    (x,) = residuals
    return (g * x / jnp.abs(x),)


def attention(q, k, v):
    """One head: three of (n, 4)."""
    return jax.nn.softmax(q @ k.T / 2) @ v


def _attention_bwd(residuals, g, *, scale, mask=None):
    q, k, v = residuals
    scores = q @ k.T / 2
    p = jax.nn.softmax(scores if mask is None else jnp.where(mask, scores, -1e30))
    dp = g @ v.T
    ds = p * (dp - jnp.sum(p * dp, axis=-1, keepdims=True)) * scale
    return ds @ k, ds.T @ q, p.T @ g


@wrong(attention, arrays("n 4", "n 4", "n 4"), caught_by="formula")
def scale_of_the_scores_forgotten(residuals, g):
    """1/√d is in the forward pass only."""
    return _attention_bwd(residuals, g, scale=1)


def causal_attention(q, k, v):
    """One head in which nobody looks ahead."""
    scores = jnp.where(_causal(q), q @ k.T / 2, -1e30)
    return jax.nn.softmax(scores) @ v


def _causal(q):
    return jnp.tril(jnp.ones((len(q), len(q)), bool))


@wrong(
    causal_attention,
    arrays("n 4", "n 4", "n 4"),
    caught_by="formula",
    source="triton-lang/triton#4541",
)
def causal_mask_ignored(residuals, g):
    """The mask is in the forward pass only."""
    return _attention_bwd(residuals, g, scale=0.5)


@wrong(causal_attention, arrays("n 4", "n 4", "n 4"), caught_by="formula")
def causal_mask_off_by_one(residuals, g):
    """On the way back each query sees one step ahead."""
    ahead = jnp.eye(len(residuals[0]), k=1).astype(bool)
    return _attention_bwd(residuals, g, scale=0.5, mask=_causal(residuals[0]) | ahead)


def dropout_args(seed, size, dtype):
    """An input and a key."""
    (x,) = arrays("n 8")(seed, size, dtype)
    return x, jax.random.key(seed)


def dropout(x, key):
    """Keep with probability 1/2, and scale."""
    return jnp.where(jax.random.bernoulli(key, 0.5, x.shape), 2 * x, 0)


@wrong(dropout, dropout_args, caught_by="formula", source="state-spaces/mamba#1023")
def another_mask_on_the_way_back(residuals, g):
    """The mask is drawn again, from another key."""
    x, key = residuals
    key = jax.random.fold_in(key, 1)
    return jnp.where(jax.random.bernoulli(key, 0.5, x.shape), 2 * g, 0), None


@wrong(dropout, dropout_args, caught_by="formula")
def survivors_not_scaled(residuals, g):
    """1/keep is in the forward pass only."""
    x, key = residuals
    return jnp.where(jax.random.bernoulli(key, 0.5, x.shape), g, 0), None


def recurrent(x, w):
    """hₜ = tanh(w hₜ₋₁ + xₜ): (n,) and a scalar to the last h."""

    def step(h, x_t):
        return jnp.tanh(w * h + x_t), None

    return jax.lax.scan(step, jnp.zeros_like(w), x)[0]


@wrong(recurrent, arrays("n", ""), caught_by="formula")
def history_cut_at_the_last_step(residuals, g):
    """Backpropagation through time, truncated after one step."""
    x, w = residuals
    before = recurrent(x[:-1], w)
    d = g * (1 - jnp.tanh(w * before + x[-1]) ** 2)
    return jnp.zeros_like(x).at[-1].set(d), d * before


def causal_convolution(x, kernel, state):
    """A streaming layer's step: (t,), (4,) and (3,) to y and the last three inputs."""
    padded = jnp.concatenate([state, x])
    return jnp.correlate(padded, kernel, mode="valid"), padded[-3:]


def short_chunk(seed, size, dtype):
    """A chunk shorter than the state."""
    del size
    return arrays("2", "4", "3")(seed, 2, dtype)


@wrong(
    causal_convolution,
    short_chunk,
    caught_by="formula",
    source="fla-org/flash-linear-attention#1140",
)
def chunk_shorter_than_the_state(residuals, g):
    """The state's cotangent is taken to reach the chunk's inputs only."""
    x, kernel, state = residuals
    dy, dlast = g
    padded = jnp.concatenate([state, x])
    dpadded = jnp.convolve(dy, kernel, mode="full")
    dx = dpadded[3:] + dlast[-len(x) :]
    return dx, jnp.correlate(padded, dy, mode="valid"), dpadded[:3]


def ascending(x):
    """(12,), sorted: so many that no seed's permutation is its own inverse."""
    return jnp.sort(x)


@wrong(ascending, arrays("12"), caught_by="formula")
def permutation_not_inverted(residuals, g):
    """The cotangent is sorted along, with the permutation instead of its inverse."""
    (x,) = residuals
    return (g[jnp.argsort(x)],)


RULES = rules_in(globals())
