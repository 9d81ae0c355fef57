"""Wrong under transformations: second order, jit, vmap, an empty batch, several devices."""

import jax
import jax.numpy as jnp
import numpy as np

from experiments.kill_table.rule import arrays, rules_in, wrong, wrong_function


def _detached_residual(x):
    return jnp.exp(x), jax.lax.stop_gradient(jnp.exp(x))


@wrong(
    jnp.exp,
    arrays("n"),
    caught_by="second_order",
    fwd=_detached_residual,
    source="pytorch/pytorch#76185",
)
def residual_detached(residuals, g):
    """The first derivative is right; the second takes the residual for a constant."""
    return (g * residuals,)


@wrong(jnp.tanh, arrays("n"), caught_by="second_order", source="tensorflow/tensorflow#7403")
def gradient_detached(residuals, g):
    """The slope is detached in the backward pass: the second derivative is zero."""
    (x,) = residuals
    return (g * jax.lax.stop_gradient(1 - jnp.tanh(x) ** 2),)


def _fwd_through_the_decorated(x):
    return fwd_calls_the_decorated_function.fn(x), (x,)


@wrong(
    jnp.sin,
    arrays("n"),
    caught_by="second_order",
    fwd=_fwd_through_the_decorated,
    source="jax-ml/jax#16049",
)
def fwd_calls_the_decorated_function(residuals, g):
    """Forward mode then meets a custom_vjp, and jax.hessian raises."""
    (x,) = residuals
    return (g * jnp.cos(x),)


@wrong(jnp.tanh, arrays("n"), caught_by="second_order")
def bwd_calls_the_decorated_function(residuals, g):
    """The backward pass is differentiable in reverse only."""
    (x,) = residuals
    return (g * (1 - bwd_calls_the_decorated_function.fn(x) ** 2),)


@wrong_function(arrays("n 3", "3 3"), caught_by="second_order")
def layer_whose_rule_has_no_hessian(x, w):
    """The same inside a larger function, where it is harder to see."""
    return fwd_calls_the_decorated_function.fn(x @ w) ** 2


_optimized = jax.custom_vjp(jnp.sin)
_optimized.defvjp(lambda x: (jnp.sin(x), x), lambda x, g: (g * jnp.cos(x),), optimize_remat=True)


@wrong_function(arrays("n"), caught_by="second_order", source="jax-ml/jax#22735")
def optimize_remat(x):
    """The option saves a recomputation and costs the second derivative."""
    return _optimized(x)


@wrong_function(arrays("n", "n"), caught_by="cotangents", source="jax-ml/jax#4008")
def closed_over_argument(x, w):
    """A rule says nothing about what its function closes over; JAX refuses to differentiate it."""

    @jax.custom_vjp
    def scaled(x):
        return x * w

    scaled.defvjp(lambda x: (x * w, w), lambda w, g: (g * w,))
    return scaled(x)


@wrong(jnp.abs, arrays("4"), caught_by="jit")
def python_if_on_a_value(residuals, g):
    """Works on values, not on tracers."""
    (x,) = residuals
    return (jnp.stack([g_i if x_i > 0 else -g_i for x_i, g_i in zip(x, g, strict=True)]),)


@wrong(jnp.sin, arrays("n"), caught_by="second_order")
def numpy_in_the_backward_pass(residuals, g):
    """NumPy needs values, and takes none from a tracer."""
    (x,) = residuals
    return (jnp.asarray(np.asarray(g) * np.cos(np.asarray(x)), x.dtype),)


def masked(x, mask):
    """(n,) and booleans (n,)."""
    return jnp.where(mask, x, 0)


def mask_args(seed, size, dtype):
    """Numbers and a mask."""
    (x,) = arrays("n")(seed, size, dtype)
    return x, jnp.arange(size) % 2 == 0


@wrong(
    masked,
    mask_args,
    caught_by="jit",
    nondiff_argnums=(1,),
    fwd=lambda x, mask: (masked(x, mask), ()),
    source="jax-ml/jax#20889",
)
def array_declared_static(mask, residuals, g):
    """For hashable configuration only: an array in nondiff_argnums is a tracer under jit."""
    del residuals
    return (jnp.where(mask, g, 0),)


_SAVED = {}


def _save_for_backward(x):
    _SAVED["x"] = x
    return jnp.sin(x), ()


@wrong(
    jnp.sin, arrays("n"), caught_by="repeat", fwd=_save_for_backward, source="pytorch/pytorch#58509"
)
def residual_kept_in_a_global(residuals, g):
    """Python state instead of a residual: the second call overwrites the first one's."""
    del residuals
    return (g * jnp.cos(_SAVED["x"]),)


_CALLS = {"count": 0}


@wrong(jnp.sin, arrays("n"), caught_by="repeat", dtypes=("float64",))
def backward_pass_that_counts(residuals, g):
    """Every call's answer is a little larger than the last one's."""
    (x,) = residuals
    _CALLS["count"] += 1
    return (g * jnp.cos(x) * (1 + 1e-12 * _CALLS["count"]),)


def _host_product(x, g):
    """A kernel written for one example: everything is summed."""
    return np.asarray(np.sum(x * g), x.dtype) * np.ones_like(x)


def total_times(x):
    """Σx² / 2 times ones: (n,) to (n,)."""
    return jnp.full_like(x, jnp.sum(x))


@wrong(total_times, arrays("n"), caught_by="vmap", order=1, source="jax-ml/jax#23881")
def kernel_that_sums_over_the_batch(residuals, g):
    """The host kernel is told that it takes leading axes, and sums over them as well."""
    (x,) = residuals
    shape = jax.ShapeDtypeStruct(x.shape, x.dtype)
    return (
        jax.pure_callback(_host_product, shape, jnp.ones_like(x), g, vmap_method="expand_dims"),
    )


@jax.custom_batching.custom_vmap
def _outer(x, g):
    return x * jnp.sum(x * g)


@_outer.def_vmap
def _(axis_size, in_batched, x, g):
    del axis_size
    x = x if in_batched[0] else x[None]
    g = g if in_batched[1] else g[None]
    return x * jnp.sum(x * g), True


def half_square_of_the_sum_of_squares(x):
    """(Σx²)²/4 in disguise: x Σx², whose Jacobian is known."""
    return jnp.sum(x**2) ** 2 / 4


@wrong(half_square_of_the_sum_of_squares, arrays("n"), caught_by="vmap", order=1)
def batching_rule_that_sums_over_the_batch(residuals, g):
    """A custom_vmap inside the rule reduces over the batch axis too."""
    (x,) = residuals
    return (g * _outer(x, x),)


def _multiply_symbolic_fwd(x, w):
    kept = (x.value if x.perturbed else None, w.value if w.perturbed else None)
    return x.value * w.value, kept


def _multiply_symbolic_bwd(kept, g):
    x, w = kept
    dx = g * w if w is not None else jnp.zeros_like(g)
    dw = g * x if x is not None else jnp.zeros_like(g)
    return dx, dw


_symbolic = jax.custom_vjp(lambda x, w: x * w)
_symbolic.defvjp(_multiply_symbolic_fwd, _multiply_symbolic_bwd, symbolic_zeros=True)


@wrong_function(arrays("n", "n"), caught_by="alone", source="jax-ml/jax#14833")
def residual_kept_for_the_wrong_argument(x, w):
    """Keeps x if x is differentiated; but it is needed if w is. Both together: right."""
    return _symbolic(x, w)


def project(x, w):
    """(n, 3) @ (3, 2)."""
    return x @ w


@wrong(project, arrays("n 3", "3 2"), caught_by="empty")
def mean_times_size(residuals, g):
    """A mean times n is a sum, but for n = 0, where it is NaN."""
    x, w = residuals
    return g @ w.T, len(x) * jnp.mean(x[:, :, None] * g[:, None, :], axis=0)


@wrong(project, arrays("n 3", "3 2"), caught_by="empty")
def python_loop_over_the_batch(residuals, g):
    """Row by row, then stacked: there is nothing to stack in an empty batch."""
    x, w = residuals
    return jnp.stack([w @ g_i for g_i in g]), x.T @ g


@wrong(project, arrays("4 3", "3 2"), caught_by="auto_mesh", sharding=True)
def pinned_to_the_first_device(residuals, g):
    """The backward pass puts its work on one device by name."""
    x, w = residuals
    x, g = jax.device_put((x, g), jax.devices()[0])
    return g @ w.T, x.T @ g


@wrong(project, arrays("4 3", "3 2"), caught_by="explicit_mesh", sharding=True)
def product_over_the_sharded_axis(residuals, g):
    """x.T @ g contracts a sharded axis; an Explicit mesh wants to be told the result's sharding."""
    x, w = residuals
    return g @ w.T, x.T @ g


def column_scale(x, scale):
    """(4, 3) by (3,)."""
    return x * scale[None]


@wrong(
    column_scale,
    arrays("4 3", "3"),
    caught_by="shard_map",
    sharding=True,
    source="jax-ml/jax#3970",
)
def share_of_a_replicated_weight(residuals, g):
    """Each device keeps its own examples' share of a cotangent that all of them should add up."""
    x, scale = residuals
    return g * scale[None], jnp.sum(g * x, axis=0)


RULES = rules_in(globals())
