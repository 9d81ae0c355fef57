"""Multi-head attention, and the layers of a transformer."""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.core import Tracer
from jaxtyping import Bool, Float, Int

from funcnet import ops
from funcnet._internal.checks import (
    require_arrays,
    require_bool,
    require_choice,
    require_floating_dtype,
    require_number,
    require_positive_int,
)
from funcnet._internal.fields import set_fields
from funcnet.errors import ConfigError, DtypeError, ShapeError
from funcnet.layers.activations import GELU, ReLU
from funcnet.layers.composition import Call, Container, Layer, children_of
from funcnet.layers.dropout import Dropout
from funcnet.layers.initializers import xavier_uniform
from funcnet.layers.linear import Linear
from funcnet.layers.module import Module, Params, State, naming
from funcnet.layers.normalization import LayerNorm

Mask = Bool[Array, "..."] | Float[Array, "..."] | None


class KeyValueCache(NamedTuple):
    """The keys and values of all steps so far, for causal attention that is fed piece by piece.

    A carry: a layer that is given one gives one back. Its size is fixed, so that a loop over steps
    is one compiled program.

    Attributes:
        keys: (..., heads, size, D).
        values: (..., heads, size, D).
        length: (), int32, how many of the places hold a step.
    """

    keys: Float[Array, "... heads size D"]
    values: Float[Array, "... heads size D"]
    length: Int[Array, ""]

    @classmethod
    def empty(cls, shape: tuple[int, ...], dtype: Any = jnp.float32) -> "KeyValueCache":
        """A cache without steps; `shape` is (..., heads, size, D)."""
        if len(shape) < 3:
            raise ShapeError(f"KeyValueCache: shape is {shape}, expected (..., heads, size, D)")
        zeros = jnp.zeros(shape, require_floating_dtype(dtype))
        return cls(zeros, zeros, jnp.int32(0))

    def extended(
        self, keys: Float[Array, "... heads L D"], values: Float[Array, "... heads L D"]
    ) -> "KeyValueCache":
        """The cache with L more steps; NaN where they find no room and JAX traces.

        Raises:
            ShapeError: the arrays do not fit, or there is no room for them.
        """
        steps, size = keys.shape[-2], self.keys.shape[-2]
        for name, new, kept in (("keys", keys, self.keys), ("values", values, self.values)):
            if (*new.shape[:-2], new.shape[-1]) != (*kept.shape[:-2], kept.shape[-1]):
                raise ShapeError(
                    f"KeyValueCache: {name} have shape {new.shape} and the cache {kept.shape}, "
                    f"expected the same but for the steps, the last axis but one"
                )
        full = self.length + steps > size
        if not isinstance(full, Tracer) and full:
            raise ShapeError(
                f"KeyValueCache: {steps} more steps behind {int(self.length)}, expected at most "
                f"{size} together; make it larger: KeyValueCache.empty((..., heads, size, D))"
            )

        def put(kept: Array, new: Array) -> Array:
            new = jnp.where(full, jnp.nan, new.astype(kept.dtype))
            return jax.lax.dynamic_update_slice_in_dim(kept, new, self.length, axis=-2)

        return KeyValueCache(put(self.keys, keys), put(self.values, values), self.length + steps)

    def shown_to_last(self, queries: int) -> Bool[Array, "queries size"]:
        """Which keys each of the last queries sees: those of all steps up to its own."""
        place = self.length - queries + jnp.arange(queries)
        return jnp.arange(self.keys.shape[-2])[None] <= place[:, None]


@dataclasses.dataclass(frozen=True)
class MultiheadAttention(Container):
    """Attention of several heads side by side, each to a part of the features.

    As `torch.nn.MultiheadAttention` with `batch_first=True`; params have its names and layouts, so
    that weights travel. The masks *hide* where they are True, as there; those of
    `ops.scaled_dot_product_attention` show. A query from which every key is hidden gives only
    out_proj's bias.

    Args:
        embed_dim: the size of queries and outputs, a multiple of num_heads.
        num_heads: how many heads share it.
        dropout: the probability with which, in training, a weight is dropped.
        bias: whether the projections have biases.
        add_bias_kv: whether a learned key and value stand behind the others.
        add_zero_attn: whether a key and value of zeros stand behind them.
        kdim: the size of keys; None for embed_dim.
        vdim: the size of values; None for embed_dim.

    Raises:
        ConfigError: a size, number or option has no meaning.
    """

    embed_dim: int
    num_heads: int
    dropout: float = 0.0
    bias: bool = True
    add_bias_kv: bool = False
    add_zero_attn: bool = False
    kdim: int | None = None
    vdim: int | None = None

    def __post_init__(self) -> None:
        name = "MultiheadAttention"
        for size in ("embed_dim", "num_heads", "kdim", "vdim"):
            if getattr(self, size) is not None or size in ("embed_dim", "num_heads"):
                number = require_positive_int(f"{name}'s {size}", getattr(self, size))
                set_fields(self, **{size: number})
        set_fields(self, dropout=require_number(f"{name}'s dropout", self.dropout, 0, 1))
        for option in ("bias", "add_bias_kv", "add_zero_attn"):
            require_bool(f"{name}'s {option}", getattr(self, option))
        if self.embed_dim % self.num_heads:
            raise ConfigError(
                f"{name}'s embed_dim is {self.embed_dim}, expected a multiple of num_heads, "
                f"{self.num_heads}"
            )

    @property
    def children(self) -> dict[str, Module]:
        """The projection of what the heads found."""
        return {"out_proj": Linear(self.embed_dim, self.embed_dim, self.bias)}

    @property
    def _sizes(self) -> tuple[int, int, int]:
        """Of queries, keys and values."""
        return self.embed_dim, self.kdim or self.embed_dim, self.vdim or self.embed_dim

    def own(self, key: Array, dtype: Any) -> dict[str, Array]:
        """The projections of queries, keys and values, one array where they have one size."""
        E, sizes = self.embed_dim, self._sizes
        keys = jax.random.split(key, 5)
        if sizes == (E, E, E):
            made = {"in_proj_weight": xavier_uniform(keys[0], (3 * E, E), dtype)}
        else:
            made = {
                f"{each}_proj_weight": xavier_uniform(k, (E, size), dtype)
                for each, k, size in zip("qkv", keys[:3], sizes, strict=True)
            }
        if self.bias:
            made["in_proj_bias"] = jnp.zeros(3 * E, require_floating_dtype(dtype))
        if self.add_bias_kv:
            made |= {  # Xavier's normal distribution, of E inputs and outputs
                f"bias_{each}": jax.random.normal(k, (1, 1, E), dtype) / math.sqrt(E)
                for each, k in zip("kv", keys[3:], strict=True)
            }
        return made

    def init(self, key: Array, dtype: Any = jnp.float32) -> tuple[Params, State]:
        """Params with PyTorch's names; state has an empty entry for out_proj.

        {"in_proj_weight": (3 E, E), "in_proj_bias": (3 E,), "out_proj": Linear's}, and "bias_k" and
        "bias_v" (1, 1, E); "q_proj_weight" (E, E), "k_proj_weight" (E, kdim) and "v_proj_weight"
        (E, vdim) where the sizes differ. Weights start as Xavier's, out_proj's as Linear's, all
        biases 0 (bias_k and bias_v normal), as PyTorch's do.
        """
        params, state = super().init(key, dtype)
        if self.bias:
            out_proj = params["out_proj"]
            params["out_proj"] = out_proj | {"bias": jnp.zeros_like(out_proj["bias"])}
        return params, state

    def connect(
        self,
        call: Call,
        x: Float[Array, "... L embed_dim"],
        keys: Float[Array, "... S kdim"] | None = None,
        values: Float[Array, "... S vdim"] | None = None,
        *,
        key_padding_mask: Mask = None,
        attn_mask: Mask = None,
        is_causal: bool = False,
        need_weights: bool = False,
        cache: KeyValueCache | None = None,
    ) -> Any:
        """(..., L, embed_dim) -> (..., L, embed_dim), or with `need_weights` that and the weights.

        With a cache x holds the next steps of a sequence, each of which sees those up to its own,
        and the output is (y, cache), where y may again be a pair.

        Args:
            call: what applies out_proj.
            x: (..., L, embed_dim), the queries.
            keys: (..., S, kdim); None for the queries: self-attention.
            values: (..., S, vdim); None for the keys.
            key_padding_mask: (..., S), True where a key is padding, or numbers to add.
            attn_mask: (L, S), or (batch * heads, L, S); True where a key is hidden from a query, or
                numbers to add.
            is_causal: whether a query sees the keys up to its own place alone.
            need_weights: whether the weights are wanted too, (..., L, S), the mean of the heads'.
            cache: of the steps before, (..., heads, size, embed_dim / heads); S is its size.
        """
        if cache is not None:
            masks = {"attn_mask": attn_mask, "key_padding_mask": key_padding_mask}
            others = {"keys": keys, "values": values, **masks}
            self._require_alone(given=[name for name, a in others.items() if a is not None])
        keys = x if keys is None else keys
        values = keys if values is None else values
        with naming(self, x):
            self._check(x, keys, values)
            mask = self._mask(x, keys, key_padding_mask, attn_mask, is_causal)
        q, k, v = (self._split(a) for a in self._projected(call.params, x, keys, values))
        if cache is None:
            k, v = self._extended(call.params, k, v)
            is_causal = is_causal and k.shape[-2] == keys.shape[-2]
        else:
            with naming(self, x):
                cache = cache.extended(k, v)
            k, v, is_causal = cache.keys, cache.values, False
            shown = cache.shown_to_last(x.shape[-2])
            mask = shown.reshape((1,) * (k.ndim - 2) + shown.shape)
        options = {
            "attn_mask": mask,
            "is_causal": is_causal,
            "dropout_p": self.dropout if call.train else 0.0,
            "key": call.key,
        }
        with naming(self, x):
            y = ops.scaled_dot_product_attention(q, k, v, **options)
        y = call.out_proj(jnp.swapaxes(y, -2, -3).reshape(x.shape))
        if need_weights:  # of the unit vectors as values, the weights are the output
            units = jnp.eye(k.shape[-2], dtype=v.dtype)
            units = jnp.broadcast_to(units, (*k.shape[:-1], k.shape[-2]))
            y = y, ops.scaled_dot_product_attention(q, k, units, **options).mean(axis=-3)
        return y if cache is None else (y, cache)

    def _require_alone(self, given: list[str]) -> None:
        """A cache is of causal self-attention, and says itself what is seen."""
        if given or self.add_bias_kv or self.add_zero_attn:
            other = given[0] if given else "add_bias_kv or add_zero_attn"
            raise ConfigError(
                f"{self!r} got a cache together with {other}, expected self-attention to the steps "
                f"so far alone; leave out the one or the other"
            )

    def _check(self, x: Any, keys: Any, values: Any) -> None:
        require_arrays(repr(self), x=x, keys=keys, values=values)
        sizes = self._sizes
        shapes = x.shape, keys.shape, values.shape
        fits = x.ndim == keys.ndim == values.ndim >= 2 and keys.shape[:-1] == values.shape[:-1]
        if (
            not fits
            or x.shape[:-2] != keys.shape[:-2]
            or tuple(shape[-1] for shape in shapes) != sizes
        ):
            raise ShapeError(
                f"{self!r} got queries, keys and values of shapes {shapes[0]}, {shapes[1]} and "
                f"{shapes[2]}, expected (batch, L, {sizes[0]}), (batch, S, {sizes[1]}) and (batch, "
                f"S, {sizes[2]}), batch first; kdim and vdim set other sizes of keys and values"
            )

    def _projected(self, params: Params, x: Any, keys: Any, values: Any) -> list[Any]:
        """What the heads share as queries, keys and values, (..., embed_dim) each."""
        bias = params.get("in_proj_bias")
        if "in_proj_weight" in params and keys is x and values is x:
            return _thirds(ops.linear(x, params["in_proj_weight"], bias), -1)
        if "in_proj_weight" in params:
            weights = _thirds(params["in_proj_weight"], 0)
        else:
            weights = [params[f"{each}_proj_weight"] for each in "qkv"]
        biases = [None] * 3 if bias is None else _thirds(bias, 0)
        inputs = zip((x, keys, values), weights, biases, strict=True)
        return [ops.linear(*given) for given in inputs]

    def _split(self, a: Array) -> Array:
        """(..., T, embed_dim) as (..., heads, T, embed_dim / heads)."""
        heads = a.reshape(*a.shape[:-1], self.num_heads, self.embed_dim // self.num_heads)
        return jnp.swapaxes(heads, -2, -3)

    def _extended(self, params: Params, k: Array, v: Array) -> tuple[Array, Array]:
        """Keys and values, (..., heads, S, D), with the learned ones and the zeros behind them."""
        if self.add_bias_kv:
            k, v = (self._with_bias(a, params[f"bias_{n}"]) for a, n in ((k, "k"), (v, "v")))
        if self.add_zero_attn:
            behind = [(0, 0)] * (k.ndim - 2) + [(0, 1), (0, 0)]
            k, v = jnp.pad(k, behind), jnp.pad(v, behind)
        return k, v

    def _with_bias(self, a: Array, bias: Array) -> Array:
        learned = bias.astype(a.dtype).reshape(self.num_heads, 1, -1)
        learned = learned.reshape((1,) * (a.ndim - 3) + learned.shape)
        return ops.concatenate((a, jnp.broadcast_to(learned, (*a.shape[:-2], 1, a.shape[-1]))), -2)

    def _mask(self, x: Any, keys: Any, padding: Any, attn_mask: Any, is_causal: bool) -> Any:
        """One mask for the op, (batch or 1, heads or 1, L, S): True shows, numbers are added."""
        leading, L, S = x.shape[:-2], x.shape[-2], keys.shape[-2]
        masks = []
        if padding is not None:
            shapes = {(*leading, S): (*leading, 1, 1, S)}
            masks.append(self._placed("key_padding_mask", padding, shapes))
        if attn_mask is not None:
            ones = (1,) * len(leading)
            shapes = {
                (L, S): (*ones, 1, L, S),
                (math.prod(leading) * self.num_heads, L, S): (*leading, self.num_heads, L, S),
            }
            masks.append(self._placed("attn_mask", attn_mask, shapes))
        more = self.add_bias_kv + self.add_zero_attn
        if is_causal and more:  # the keys behind the others are for all queries
            hidden = jnp.arange(S)[None] > jnp.arange(L)[:, None]
            masks.append(hidden.reshape(*((1,) * len(leading)), 1, L, S))
        if not masks:
            return None
        if all(mask.dtype == bool for mask in masks):
            return ~_padded(functools.reduce(jnp.logical_or, masks), more)
        added = [
            jnp.where(mask, -jnp.inf, jnp.zeros((), x.dtype)) if mask.dtype == bool else mask
            for mask in masks
        ]
        return _padded(functools.reduce(jnp.add, added), more)

    def _placed(self, name: str, mask: Any, shapes: dict[tuple[int, ...], tuple[int, ...]]) -> Any:
        require_arrays(repr(self), **{name: mask})
        if mask.shape not in shapes:
            raise ShapeError(
                f"{self!r} got {name} of shape {mask.shape}, expected "
                f"{' or '.join(map(str, shapes))}"
            )
        if mask.dtype != bool and not jnp.issubdtype(mask.dtype, jnp.floating):
            raise DtypeError(
                f"{self!r} got {name} of {mask.dtype}, expected booleans, True where a key is "
                f"hidden, or floating point to add; convert it with {name}.astype(bool)"
            )
        return jnp.asarray(mask).reshape(shapes[mask.shape])


def _thirds(a: Array, axis: int) -> list[Array]:
    size = a.shape[axis] // 3
    return [jax.lax.slice_in_dim(a, i * size, (i + 1) * size, axis=axis) for i in range(3)]


def _padded(mask: Array, more: int) -> Array:
    """A mask with more keys behind the others, which every query sees."""
    return jnp.pad(mask, [(0, 0)] * (mask.ndim - 1) + [(0, more)])


class _TransformerLayer(Container):
    """What the encoder's and the decoder's layer share."""

    d_model: int
    nhead: int
    dim_feedforward: int
    dropout: float
    activation: str | Callable[[Any], Any]
    layer_norm_eps: float
    norm_first: bool
    bias: bool

    def __post_init__(self) -> None:
        name = type(self).__name__
        if isinstance(self.activation, str):
            require_choice(f"{name}'s activation", self.activation, tuple(_ACTIVATIONS))
        for option in ("norm_first", "bias"):
            require_bool(f"{name}'s {option}", getattr(self, option))
        children_of(self)  # which check the sizes

    def _attention(self) -> MultiheadAttention:
        return MultiheadAttention(self.d_model, self.nhead, self.dropout, self.bias)

    def _norm(self) -> LayerNorm:
        return LayerNorm(self.d_model, self.layer_norm_eps, bias=self.bias)

    def _feedforward(self) -> dict[str, Layer]:
        name = self.activation
        return {
            "linear1": Linear(self.d_model, self.dim_feedforward, self.bias),
            "activation": _ACTIVATIONS[name] if isinstance(name, str) else name,
            "dropout": Dropout(self.dropout),
            "linear2": Linear(self.dim_feedforward, self.d_model, self.bias),
        }

    def _sublayer(self, x: Any, norm: Callable[..., Any], block: Callable[[Any], Any]) -> Any:
        """A block beside the identity, normalised before it or behind the sum."""
        return x + block(norm(x)) if self.norm_first else norm(x + block(x))


_ACTIVATIONS = {"relu": ReLU(), "gelu": GELU()}


@dataclasses.dataclass(frozen=True)
class TransformerEncoderLayer(_TransformerLayer):
    """Self-attention, then a network of two layers, each beside the identity.

    As `torch.nn.TransformerEncoderLayer` with `batch_first=True`, with its names of parameters.
    Source: Vaswani et al., "Attention is all you need", 2017, section 3.1.

    Args:
        d_model: the size of inputs and outputs, a multiple of nhead.
        nhead: how many heads the attention has.
        dim_feedforward: the size between the two linear layers.
        dropout: the probability of the attention's weights and of all three Dropout layers.
        activation: "relu", "gelu", a layer or a function, between the two linear layers.
        layer_norm_eps: added to the variance.
        norm_first: whether LayerNorm stands before attention and feedforward, not behind.
        bias: whether linear layers and LayerNorms have one.

    Raises:
        ConfigError: a size, number or option has no meaning.
    """

    d_model: int
    nhead: int
    dim_feedforward: int = 2048
    dropout: float = 0.1
    activation: str | Callable[[Any], Any] = "relu"
    layer_norm_eps: float = 1e-5
    norm_first: bool = False
    bias: bool = True

    @property
    def children(self) -> dict[str, Layer]:
        """PyTorch's names, and the activation."""
        return {
            "self_attn": self._attention(),
            **self._feedforward(),
            "norm1": self._norm(),
            "norm2": self._norm(),
            "dropout1": Dropout(self.dropout),
            "dropout2": Dropout(self.dropout),
        }

    def connect(
        self,
        call: Call,
        x: Float[Array, "... L d_model"],
        *,
        src_mask: Mask = None,
        src_key_padding_mask: Mask = None,
        is_causal: bool = False,
    ) -> Any:
        """(..., L, d_model) -> (..., L, d_model).

        Args:
            call: what applies the children.
            x: (..., L, d_model).
            src_mask: as `MultiheadAttention`'s attn_mask: True hides.
            src_key_padding_mask: (..., L), True where x is padding.
            is_causal: whether a place sees those up to itself alone.
        """
        masks = {"attn_mask": src_mask, "key_padding_mask": src_key_padding_mask}

        def attended(x):
            return call.dropout1(call.self_attn(x, is_causal=is_causal, **masks))

        def fed_forward(x):
            hidden = call.dropout(call.activation(call.linear1(x)))
            return call.dropout2(call.linear2(hidden))

        x = self._sublayer(x, call.norm1, attended)
        return self._sublayer(x, call.norm2, fed_forward)


@dataclasses.dataclass(frozen=True)
class TransformerDecoderLayer(_TransformerLayer):
    """Self-attention, attention to an encoder's output, then a network of two layers.

    As `torch.nn.TransformerDecoderLayer` with `batch_first=True`, with its names of parameters.
    Source: Vaswani et al., "Attention is all you need", 2017, section 3.1.

    Args:
        d_model: the size of inputs and outputs, a multiple of nhead.
        nhead: how many heads each attention has.
        dim_feedforward: the size between the two linear layers.
        dropout: the probability of the attentions' weights and of all four Dropout layers.
        activation: "relu", "gelu", a layer or a function, between the two linear layers.
        layer_norm_eps: added to the variance.
        norm_first: whether LayerNorm stands before each part, not behind.
        bias: whether linear layers and LayerNorms have one.

    Raises:
        ConfigError: a size, number or option has no meaning.
    """

    d_model: int
    nhead: int
    dim_feedforward: int = 2048
    dropout: float = 0.1
    activation: str | Callable[[Any], Any] = "relu"
    layer_norm_eps: float = 1e-5
    norm_first: bool = False
    bias: bool = True

    @property
    def children(self) -> dict[str, Layer]:
        """PyTorch's names, and the activation."""
        return {
            "self_attn": self._attention(),
            "multihead_attn": self._attention(),
            **self._feedforward(),
            **{f"norm{i}": self._norm() for i in (1, 2, 3)},
            **{f"dropout{i}": Dropout(self.dropout) for i in (1, 2, 3)},
        }

    def connect(
        self,
        call: Call,
        x: Float[Array, "... L d_model"],
        memory: Float[Array, "... S d_model"] | None = None,
        *,
        tgt_mask: Mask = None,
        memory_mask: Mask = None,
        tgt_key_padding_mask: Mask = None,
        memory_key_padding_mask: Mask = None,
        tgt_is_causal: bool = False,
        memory_is_causal: bool = False,
    ) -> Any:
        """(..., L, d_model), (..., S, d_model) -> (..., L, d_model).

        Args:
            call: what applies the children.
            x: (..., L, d_model).
            memory: (..., S, d_model), the encoder's output; None for x.
            tgt_mask: as `MultiheadAttention`'s attn_mask, of x to itself: True hides.
            memory_mask: the same, of x to memory.
            tgt_key_padding_mask: (..., L), True where x is padding.
            memory_key_padding_mask: (..., S), True where memory is padding.
            tgt_is_causal: whether a place sees those of x up to itself alone.
            memory_is_causal: whether it sees those of memory up to its own place alone.
        """
        memory = x if memory is None else memory
        own = {
            "attn_mask": tgt_mask,
            "key_padding_mask": tgt_key_padding_mask,
            "is_causal": tgt_is_causal,
        }
        others = {
            "attn_mask": memory_mask,
            "key_padding_mask": memory_key_padding_mask,
            "is_causal": memory_is_causal,
        }

        def attended(x):
            return call.dropout1(call.self_attn(x, **own))

        def attended_to_memory(x):
            return call.dropout2(call.multihead_attn(x, memory, **others))

        def fed_forward(x):
            hidden = call.dropout(call.activation(call.linear1(x)))
            return call.dropout3(call.linear2(hidden))

        x = self._sublayer(x, call.norm1, attended)
        x = self._sublayer(x, call.norm2, attended_to_memory)
        return self._sublayer(x, call.norm3, fed_forward)
