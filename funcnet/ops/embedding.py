"""embedding: the rows of a table that integers name.

    i (...)       indices, integers, read below as one axis
    W (V, F)      weight: the table, a row for each of V indices
    Y (..., F)    outputs

    Y_n = W_{i_n}

Perturbing the table, δY_n = δW_{i_n}, hence

    δL = Σ_n <dY_n, δW_{i_n}> = Σ_v <Σ_{n: i_n = v} dY_n, δW_v>

    dW_v = Σ_{n: i_n = v} dY_n

the sum of the cotangents of all places that show row v; the row at padding_idx gets 0. Indices have
no cotangent.

Residuals: the indices, and W, of which only shape and dtype are needed; the caller holds both.
Half-precision sums are taken in float32.
"""

import jax
import jax.numpy as jnp
from jax import Array
from jax.lax import stop_gradient
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Float, Integer

from funcnet._internal.checks import require_int
from funcnet.errors import ConfigError, DtypeError, ShapeError
from funcnet.ops._checks import require_floating
from funcnet.ops._cotangents import like
from funcnet.ops._indices import as_int32
from funcnet.ops._rule import rule


def embedding(
    indices: Integer[Array, "..."],
    weight: Float[Array, "num_embeddings embedding_dim"],
    padding_idx: int | None = None,
) -> Float[Array, "... embedding_dim"]:
    """The rows of weight that the indices name.

    The backward pass is derived in the docstring of funcnet/ops/embedding.py.

    Args:
        indices: (...), integers in [0, V).
        weight: (V, F), floating.
        padding_idx: an index whose row gets no gradient; counted from the end if negative.

    Returns:
        (..., F), in weight's dtype. An index that names no row, a negative one too, gives NaN.

    Raises:
        ShapeError, DtypeError, ConfigError: the arguments do not fit each other.
    """
    _check(indices, weight)
    padding_idx = require_padding_idx("embedding: padding_idx", padding_idx, len(weight))
    return _looked_up(indices, weight, padding_idx)


def _embedding(indices, weight, padding_idx):
    rows, placed = jnp.asarray(weight).at[as_int32(indices)], jax.typeof(indices).sharding
    y = rows.get(  # (..., F)
        mode="fill",
        fill_value=jnp.nan,
        wrap_negative_indices=False,
        out_sharding=NamedSharding(placed.mesh, P(*placed.spec, None)),
    )
    if padding_idx is None:
        return y
    # y either way: it only tells what differentiates this function that these rows are constant
    return jnp.where((indices == padding_idx)[..., None], stop_gradient(y), y)


def _embedding_fwd(indices, weight, padding_idx):
    return _embedding(indices, weight, padding_idx), (indices, weight)


def _embedding_bwd(padding_idx, residuals, dY):
    indices, weight = residuals
    dY = dY.astype(jnp.promote_types(dY.dtype, jnp.float32))
    # y = weight[indices]
    dW = jnp.zeros(weight.shape, dY.dtype)
    dW = dW.at[as_int32(indices)].add(  # (..., F) -> (V, F)
        dY, mode="drop", wrap_negative_indices=False, out_sharding=jax.typeof(weight).sharding
    )
    if padding_idx is not None:
        dW = dW.at[padding_idx].set(0)
    return None, like(dW, weight)


_looked_up = rule(_embedding, _embedding_fwd, _embedding_bwd, nondiff_argnums=(2,))


def require_padding_idx(name: str, padding_idx: int | None, rows: int) -> int | None:
    """None, or a row's index counted from the front; ConfigError where there is no such row."""
    if padding_idx is None:
        return None
    number = require_int(name, padding_idx)
    if not -rows <= number < rows:
        raise ConfigError(f"{name} is {number}, expected {-rows} to {rows - 1}: one of the rows")
    return number % rows


def _check(indices, weight):
    require_floating("embedding", weight=weight)
    if weight.ndim != 2 or not len(weight):
        raise ShapeError(
            f"embedding: weight has shape {weight.shape}, expected (num_embeddings, embedding_dim) "
            f"and at least one embedding"
        )
    if not hasattr(indices, "dtype"):
        raise DtypeError(
            f"embedding: indices are {type(indices).__name__}, expected an array of integers; "
            f"convert them with jnp.asarray"
        )
    if not jnp.issubdtype(indices.dtype, jnp.integer):
        raise DtypeError(
            f"embedding: indices are {indices.dtype}{list(indices.shape)}, expected integers; "
            f"convert them, for example with indices.astype(jnp.int32)"
        )
