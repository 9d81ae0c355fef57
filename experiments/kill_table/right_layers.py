"""Right rules of the layers and losses that networks are made of, with usual residuals."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from experiments.kill_table.rule import arrays, normal, right, rules_in

WIDE = ("float32", "float64", "bfloat16")  # where float16's range would end under stress
EPS = 1e-5


def _swap(x):
    return jnp.swapaxes(x, -1, -2)


def affine(x, params):
    """(..., 4), {"weight": (3, 4), "bias": (3,) or None} to (..., 3)."""
    y = x @ params["weight"].T
    bias = params["bias"]
    return y if bias is None else y + jnp.broadcast_to(bias, y.shape)


def _affine_bwd(residuals, g):
    x, params = residuals
    rows, grows = x.reshape(-1, x.shape[-1]), g.reshape(-1, g.shape[-1])
    dbias = None if params["bias"] is None else jnp.sum(grows, axis=0)
    return g @ params["weight"], {"weight": grows.T @ rows, "bias": dbias}


def affine_args(seed, size, dtype):
    """With a bias, and (size - 1) % 3 + 1 leading axes."""
    rng = np.random.default_rng(seed)
    leading = (size,) + (2,) * ((size - 1) % 3)
    params = {"weight": normal(rng, (3, 4), dtype), "bias": normal(rng, (3,), dtype)}
    return normal(rng, (*leading, 4), dtype), params


def no_bias_args(seed, size, dtype):
    """Without a bias."""
    x, params = affine_args(seed, size, dtype)
    return x, {**params, "bias": None}


@right(affine, affine_args)
def affine_map(residuals, g):
    """A dict argument, any number of leading axes."""
    return _affine_bwd(residuals, g)


@right(affine, no_bias_args)
def affine_map_without_bias(residuals, g):
    """None inside an argument, None inside its cotangent."""
    return _affine_bwd(residuals, g)


def softmax(x):
    """Over the last axis."""
    return jax.nn.softmax(x)


def _softmax_fwd(x):
    y = jax.nn.softmax(x)
    return y, y


@right(softmax, arrays("n 5"), fwd=_softmax_fwd)
def softmax_from_the_output(residuals, g):
    """The output is the only residual."""
    return (residuals * (g - jnp.sum(residuals * g, axis=-1, keepdims=True)),)


def log_softmax(x):
    """Over the last axis."""
    return jax.nn.log_softmax(x)


def _log_softmax_fwd(x):
    y = jax.nn.log_softmax(x)
    return y, y


@right(log_softmax, arrays("n 5"), fwd=_log_softmax_fwd)
def log_softmax_from_the_output(residuals, g):
    """exp(y) of the output brings the probabilities back."""
    return (g - jnp.exp(residuals) * jnp.sum(g, axis=-1, keepdims=True),)


def logsumexp(x):
    """Over the last axis."""
    return jax.nn.logsumexp(x, axis=-1)


def _logsumexp_fwd(x):
    y = logsumexp(x)
    return y, (x, y)


@right(logsumexp, arrays("n 5"), fwd=_logsumexp_fwd)
def log_sum_exp(residuals, g):
    """Input and output are the residuals."""
    x, y = residuals
    return (g[:, None] * jnp.exp(x - y[:, None]),)


def layer_norm(x, weight, bias):
    """(n, 6), (6,), (6,)."""
    return _layer_norm_fwd(x, weight, bias)[0]


def _layer_norm_fwd(x, weight, bias):
    centred = x - jnp.mean(x, axis=-1, keepdims=True)
    rstd = jax.lax.rsqrt(jnp.mean(centred**2, axis=-1, keepdims=True) + EPS)
    xhat = centred * rstd
    return xhat * weight[None] + bias[None], (xhat, rstd, weight)


@right(layer_norm, arrays("n 6", "6", "6"), fwd=_layer_norm_fwd, dtypes=WIDE)
def layer_norm_from_xhat(residuals, g):
    """The normalised input and 1/σ are kept, the input is not."""
    xhat, rstd, weight = residuals
    dxhat = g * weight[None]
    projection = xhat * jnp.mean(dxhat * xhat, axis=-1, keepdims=True)
    dx = rstd * (dxhat - jnp.mean(dxhat, axis=-1, keepdims=True) - projection)
    return dx, jnp.sum(g * xhat, axis=0), jnp.sum(g, axis=0)


def rms_norm(x, weight):
    """(n, 6) and (6,)."""
    return x * jax.lax.rsqrt(jnp.mean(x**2, axis=-1, keepdims=True) + EPS) * weight[None]


@right(rms_norm, arrays("n 6", "6"), dtypes=WIDE)
def rms_norm_recomputed(residuals, g):
    """The statistics are computed again on the way back."""
    x, weight = residuals
    rrms = jax.lax.rsqrt(jnp.mean(x**2, axis=-1, keepdims=True) + EPS)
    xhat = x * rrms
    dxhat = g * weight[None]
    dx = rrms * (dxhat - xhat * jnp.mean(dxhat * xhat, axis=-1, keepdims=True))
    return dx, jnp.sum(g * xhat, axis=0)


def batch_norm(x, weight):
    """(n + 2, 3) and (3,) to the output and the batch's mean and variance."""
    return _batch_norm_fwd(x, weight)[0]


def _batch_norm_fwd(x, weight):
    mean = jnp.mean(x, axis=0)
    centred = x - mean[None]
    variance = jnp.mean(centred**2, axis=0)
    rstd = jax.lax.rsqrt(variance + EPS)[None]
    return (centred * rstd * weight[None], mean, variance), (centred, rstd, weight)


def batch_args(seed, size, dtype):
    """At least three examples."""
    return arrays("n 3", "3")(seed, size + 2, dtype)


@right(batch_norm, batch_args, fwd=_batch_norm_fwd, dtypes=WIDE)
def batch_norm_with_statistics(residuals, g):
    """Several outputs, each with a cotangent of its own."""
    centred, rstd, weight = residuals
    dy, dmean, dvariance = g
    n = centred.shape[0]
    xhat, dxhat = centred * rstd, dy * weight[None]
    projection = xhat * jnp.mean(dxhat * xhat, axis=0, keepdims=True)
    dx = rstd * (dxhat - jnp.mean(dxhat, axis=0, keepdims=True) - projection)
    dx += dmean[None] / n + dvariance[None] * 2 * centred / n
    return dx, jnp.sum(dy * xhat, axis=0)


def labels_args(seed, size, dtype):
    """Logits (size, 5) and integer labels."""
    rng = np.random.default_rng(seed)
    return normal(rng, (size, 5), dtype), jnp.asarray(rng.integers(0, 5, size), jnp.int32)


def cross_entropy(logits, labels):
    """Summed over the batch."""
    picked = jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], axis=-1)
    return -jnp.sum(picked)


@right(cross_entropy, labels_args)
def fused_cross_entropy(residuals, g):
    """Softmax less one-hot; integer labels."""
    logits, labels = residuals
    return g * (jax.nn.softmax(logits) - jax.nn.one_hot(labels, 5, dtype=logits.dtype)), None


def smoothed_args(seed, size, dtype):
    """Logits, labels, positive weights, and static configuration."""
    rng = np.random.default_rng(seed)
    weight = jnp.asarray(rng.uniform(0.5, 2, 5), dtype)
    return *labels_args(seed, size, dtype), weight, 0.1, "sum"


def smoothed_cross_entropy(logits, labels, weight, smoothing, reduction):
    """Class weights and label smoothing; static smoothing and reduction."""
    target = (1 - smoothing) * jax.nn.one_hot(labels, 5, dtype=logits.dtype) + smoothing / 5
    losses = -jnp.sum(target * weight[None] * jax.nn.log_softmax(logits), axis=-1)
    return jnp.sum(losses) if reduction == "sum" else losses


def _smoothed_fwd(logits, labels, weight, smoothing, reduction):
    y = smoothed_cross_entropy(logits, labels, weight, smoothing, reduction)
    return y, (logits, labels, weight)


@right(
    smoothed_cross_entropy,
    smoothed_args,
    fwd=_smoothed_fwd,
    nondiff_argnums=(3, 4),
)
def smoothed_weighted_cross_entropy(smoothing, reduction, residuals, g):
    """Static configuration in nondiff_argnums: a float and a string."""
    del reduction
    logits, labels, weight = residuals
    target = (1 - smoothing) * jax.nn.one_hot(labels, 5, dtype=logits.dtype) + smoothing / 5
    log_p = jax.nn.log_softmax(logits)
    weighted = target * weight[None]
    dlogits = jnp.exp(log_p) * jnp.sum(weighted, axis=-1, keepdims=True) - weighted
    return g * dlogits, None, -g * jnp.sum(target * log_p, axis=0)


def pool(x):
    """Maximum over pairs of (n, 2, 3), first maximum wins."""
    return jnp.max(x, axis=1)


def tied_args(seed, size, dtype):
    """The first pair tied throughout."""
    (x,) = arrays("n 2 3")(seed, size, dtype)
    return (x.at[0, 1].set(x[0, 0]),)


@right(pool, tied_args)
def max_pool_first_wins(residuals, g):
    """At a tie all goes to the first; autodiff shares it out."""
    (x,) = residuals
    first = jax.nn.one_hot(jnp.argmax(x, axis=1), 2, axis=1, dtype=x.dtype)
    return (first * g[:, None],)


def convolve(x, kernel):
    """(n + 2, 2) and (3, 2, 4) to (n, 4)."""
    windows = jnp.stack([x[i : len(x) - 2 + i] for i in range(3)], axis=1)
    return jnp.einsum("nki,kio->no", windows, kernel)


def convolve_args(seed, size, dtype):
    """An input two longer than the output."""
    rng = np.random.default_rng(seed)
    return normal(rng, (size + 2, 2), dtype), normal(rng, (3, 2, 4), dtype)


@right(convolve, convolve_args)
def convolution_as_matrix_products(residuals, g):
    """One product for each tap of the kernel."""
    x, kernel = residuals
    n = len(g)
    dkernel = jnp.stack([x[i : i + n].T @ g for i in range(3)])
    pieces = [jnp.pad(g @ kernel[i].T, ((i, 2 - i), (0, 0))) for i in range(3)]
    return functools.reduce(jnp.add, pieces)[: len(x)], dkernel  # an empty x has no outputs


def take(table, index):
    """Rows of a (4, 2) table."""
    return table[index]


def lookup_args(seed, size, dtype):
    """Indices with repetitions."""
    rng = np.random.default_rng(seed)
    index = np.concatenate([[1, 1], rng.integers(0, 4, size)])
    return normal(rng, (4, 2), dtype), jnp.asarray(index, jnp.int32)


@right(take, lookup_args)
def embedding(residuals, g):
    """A scatter-add."""
    table, index = residuals
    return jnp.zeros_like(table).at[index].add(g), None


def dropout_args(seed, size, dtype):
    """An input and a key."""
    (x,) = arrays("n 8")(seed, size, dtype)
    return x, jax.random.key(seed)


def masked(x, key):
    """Keep with probability 1/2, and scale."""
    return jnp.where(jax.random.bernoulli(key, 0.5, x.shape), 2 * x, 0)


@right(masked, dropout_args)
def dropout(residuals, g):
    """A random key among the arguments; the mask is drawn again, not kept."""
    x, key = residuals
    return jnp.where(jax.random.bernoulli(key, 0.5, x.shape), 2 * g, 0), None


def attention_of(q, k, v):
    """Causal, one head: three of (n, 4)."""
    return _probabilities(q, k) @ v


def _probabilities(q, k):
    mask = jnp.tril(jnp.ones((len(q), len(q)), bool))
    return jax.nn.softmax(jnp.where(mask, q @ k.T / 2, -jnp.inf))


@right(attention_of, arrays("n 4", "n 4", "n 4"), dtypes=WIDE)
def attention(residuals, g):
    """-∞ in the scores; the probabilities are computed again."""
    q, k, v = residuals
    p = _probabilities(q, k)
    dp = g @ v.T
    ds = p * (dp - jnp.sum(p * dp, axis=-1, keepdims=True)) / 2
    return ds @ k, ds.T @ q, p.T @ g


def _blockwise_fwd(q, k, v):
    """One key at a time, with a running maximum and sum: the scores never exist at once."""

    def add_key(carry, key_value):
        top, total, out = carry
        key, value = key_value
        score = q @ key
        new_top = jnp.maximum(top, score)
        shrink, weight = jnp.exp(top - new_top), jnp.exp(score - new_top)
        out = out * shrink[:, None] + weight[:, None] * value[None]
        return (new_top, total * shrink + weight, out), None

    start = (jnp.full_like(q[:, 0], -jnp.inf), jnp.zeros_like(q[:, 0]), jnp.zeros_like(q))
    (top, total, out), _ = jax.lax.scan(add_key, start, (k, v))
    out = out / total[:, None]
    return out, (q, k, v, out, top + jnp.log(total))


def blockwise(q, k, v):
    """Attention with a running softmax."""
    return _blockwise_fwd(q, k, v)[0]


@right(
    blockwise,
    arrays("n 4", "n 4", "n 4"),
    fwd=_blockwise_fwd,
    dtypes=("float32", "float64"),
)
def attention_recomputed_by_blocks(residuals, g):
    """A scan in both passes; output and log-sum-exp are the residuals."""
    q, k, v, out, lse = residuals
    delta = jnp.sum(out * g, axis=-1)

    def one_key(dq, key_value):
        key, value = key_value
        p = jnp.exp(q @ key - lse)
        ds = p * (g @ value - delta)
        return dq + ds[:, None] * key[None], (ds @ q, p @ g)

    dq, (dk, dv) = jax.lax.scan(one_key, jnp.zeros_like(q), (k, v))
    return dq, dk, dv


def recurrent(x, w):
    """hₜ = tanh(hₜ₋₁ w + xₜ): (n, 3), (3, 3) to every h."""

    def step(h, x_t):
        h = jnp.tanh(h @ w + x_t)
        return h, h

    return jax.lax.scan(step, jnp.zeros_like(x[0]), x)[1]


def _recurrent_fwd(x, w):
    h = recurrent(x, w)
    return h, (h, w)


def recurrent_args(seed, size, dtype):
    """A contraction, so that the past fades."""
    x, w = arrays("n 3", "3 3")(seed, size, dtype)
    return x, 0.3 * w


@right(recurrent, recurrent_args, fwd=_recurrent_fwd, dtypes=("float32", "float64"))
def backpropagation_through_time(residuals, g):
    """A reversed scan over the states."""
    h, w = residuals
    before = jnp.concatenate([jnp.zeros_like(h[:1]), h[:-1]])

    def step_back(dh, inputs):
        g_t, h_t = inputs
        da = (g_t + dh) * (1 - h_t**2)
        return da @ w.T, da

    _, da = jax.lax.scan(step_back, jnp.zeros_like(w[0]), (g, h), reverse=True)
    return da, before.T @ da


RULES = rules_in(globals())
