"""dropout: each entry is zeroed with probability p, and the others grow by 1 / (1 - p).

    X (...)    inputs
    M (...)    mask, 1 with probability 1 - p and else 0, independent entries drawn from a key
    Y (...)    outputs

    Y = M * X / (1 - p)

so that the mean of Y over the masks is X. For a given mask that is linear, hence

    dX = M * dY / (1 - p)

Residual: M, one bit an entry: eight pieces of the last axis as the bits of one piece. Drawing M
again from the key, which would need no residual, takes ten times as long as the rest of the rule;
with eight neighbours in a byte, as `jnp.packbits` does it, the rule takes four times as long.

Each random word of 32 bits serves two neighbours, which halves the cost of the mask: an entry is
zeroed with the multiple of 2⁻¹⁶ next to p.

Source: Srivastava et al., "Dropout: a simple way to prevent neural networks from overfitting",
2014, section 4.
"""

from functools import reduce
from operator import or_

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Key

from funcnet._internal.checks import require_key, require_number
from funcnet.errors import DtypeError
from funcnet.ops._checks import require_floating
from funcnet.ops._rule import rule


def dropout(
    x: Float[Array, "..."],
    p: float = 0.5,
    training: bool = True,
    key: Key[Array, ""] | None = None,
) -> Float[Array, "..."]:
    """Zero each entry with probability p in training, and divide the others by 1 - p.

    The backward pass is derived in the docstring of funcnet/ops/dropout.py.

    Args:
        x: (...), floating.
        p: the probability, in [0, 1].
        training: whether anything is dropped; x is returned as it is otherwise.
        key: typed scalar key that the mask is drawn from; the same key and shape give the same
            mask in every dtype. Needed in training, unless p is 0.

    Returns:
        (...), in x's dtype.

    Raises:
        DtypeError: x is not a floating array, or the key is missing or none.
        ConfigError: p is not a number in [0, 1].
    """
    p = require_number("dropout: p", p, 0, 1)
    require_floating("dropout", x=x)
    if not training or p == 0:
        return x
    if key is None:
        raise DtypeError(
            "dropout: there is no key to draw from; pass key=jax.random.key(0), or training=False"
        )
    require_key(key)
    return _dropped(x, key, p)


def _dropout(x, key, p):
    return _masked(x, _mask(key, x.shape, p), p)


def _dropout_fwd(x, key, p):
    mask = _mask(key, x.shape, p)
    return _masked(x, mask, p), _packed(mask)  # (..., F), (..., ⌈F / 8⌉)


def _dropout_bwd(p, packed, dY):
    mask = _unpacked(packed, (dY.shape or (1,))[-1])  # (..., ⌈F / 8⌉) -> (..., F)
    # y = mask * x / (1 - p)
    return _masked(dY, mask, p), None  # a key has no cotangent


_dropped = rule(_dropout, _dropout_fwd, _dropout_bwd, nondiff_argnums=(2,))


def _mask(key, shape, p):
    """M as booleans, of the shape given; of shape (1,) for ()."""
    *leading, features = shape or (1,)
    words = jax.random.bits(key, (*leading, (features + 1) // 2), jnp.uint32)
    # Integers, not uniform floats: one mask for all dtypes of x. Halves side by side along the last
    # axis: a batch spread over devices needs no communication.
    halves = jnp.concatenate([words >> 16, words & 0xFFFF], axis=-1)[..., :features]
    return halves >= round(p * 2**16)


def _packed(mask):
    """Booleans (..., F) as bytes (..., ⌈F / 8⌉)."""
    behind = -mask.shape[-1] % 8
    padded = jnp.pad(mask, [(0, 0)] * (mask.ndim - 1) + [(0, behind)])
    pieces = jnp.split(padded.astype(jnp.uint8), 8, axis=-1)
    return reduce(or_, (piece << bit for bit, piece in enumerate(pieces)))


def _unpacked(packed, features):
    """Bytes (..., ⌈F / 8⌉) as booleans (..., F)."""
    pieces = [(packed & (1 << bit)) != 0 for bit in range(8)]
    return jnp.concatenate(pieces, axis=-1)[..., :features]


def _masked(a, mask, p):
    """M * A / (1 - p); 0 where all is dropped."""
    wide = a.astype(jnp.promote_types(a.dtype, jnp.float32))  # 1 / (1 - p) has too many digits
    scaled = wide * (0 if p == 1 else 1 / (1 - p))
    return jnp.where(mask.reshape(a.shape), scaled, 0).astype(a.dtype)
