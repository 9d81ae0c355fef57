"""GPT-2: a decoder-only transformer, its names and initialisation those of the original.

Source: Radford et al., "Language models are unsupervised multitask learners", 2019, section 2.3.
Every derivative in it is that of a rule of `fn.ops`.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp

import funcnet as fn


@dataclasses.dataclass(frozen=True)
class CausalSelfAttention(fn.Container):
    """Each step attends to itself and to those before it."""

    width: int
    heads: int
    dropout: float

    @property
    def children(self):
        return {
            "c_attn": fn.Linear(self.width, 3 * self.width),
            "c_proj": fn.Linear(self.width, self.width),
            "resid_dropout": fn.Dropout(self.dropout),
        }

    def connect(self, call, x, cache=None):
        shape = (*x.shape[:-1], 3, self.heads, self.width // self.heads)
        qkv = call.c_attn(x).reshape(shape)  # one transpose for all three:
        q, k, v = jnp.moveaxis(qkv, (-3, -2), (0, -3))  # (batch, heads, time, width / heads) each
        drop = {"dropout_p": self.dropout if call.train else 0.0, "key": call.key}
        if cache is None:
            y = fn.ops.scaled_dot_product_attention(q, k, v, is_causal=True, **drop)
        else:
            cache = cache.extended(k, v)
            shown = cache.shown_to_last(x.shape[-2])[None, None]
            y = fn.ops.scaled_dot_product_attention(q, cache.keys, cache.values, shown, **drop)
        y = call.resid_dropout(call.c_proj(jnp.moveaxis(y, -3, -2).reshape(x.shape)))
        return y if cache is None else (y, cache)


@dataclasses.dataclass(frozen=True)
class Block(fn.Container):
    """Attention, then a network of two layers, each normalised first and beside the identity."""

    width: int
    heads: int
    dropout: float

    @property
    def children(self):
        return {
            "ln_1": fn.LayerNorm(self.width),
            "attn": CausalSelfAttention(self.width, self.heads, self.dropout),
            "ln_2": fn.LayerNorm(self.width),
            "mlp": fn.Sequential(
                c_fc=fn.Linear(self.width, 4 * self.width),
                act=fn.GELU("tanh"),
                c_proj=fn.Linear(4 * self.width, self.width),
                dropout=fn.Dropout(self.dropout),
            ),
        }

    def connect(self, call, x, cache=None):
        y = call.attn(call.ln_1(x), cache)
        y, cache = (y, None) if cache is None else y
        x = x + y
        x = x + call.mlp(call.ln_2(x))
        return x if cache is None else (x, cache)


@dataclasses.dataclass(frozen=True)
class GPT(fn.Container):
    """Tokens (batch, time) to logits (batch, time, vocabulary); the head is the embedding.

    `connect` takes the caches of the steps before, one a block, and then gives them back.
    """

    vocabulary: int
    context: int
    width: int
    heads: int
    layers: int
    dropout: float = 0.0

    @property
    def children(self):
        return {
            "wte": fn.Embedding(self.vocabulary, self.width),
            "wpe": fn.Embedding(self.context, self.width),
            "drop": fn.Dropout(self.dropout),
            "h": fn.Stack(*(Block(self.width, self.heads, self.dropout),) * self.layers),
            "ln_f": fn.LayerNorm(self.width),
        }

    def connect(self, call, tokens, caches=None):
        begin = 0 if caches is None else caches[0].length
        places = begin + jnp.arange(tokens.shape[-1])
        x = call.drop(call.wte(tokens) + call.wpe(places)[None])
        x = call.h(x, caches)
        x, caches = (x, None) if caches is None else x
        logits = fn.ops.linear(call.ln_f(x), call.params["wte"]["weight"])
        return logits if caches is None else (logits, caches)

    def init(self, key, dtype=jnp.float32):
        """GPT-2's: biases 0, weights normal, those that add to the residual stream smaller."""
        params, state = super().init(key, dtype)
        named, structure = jax.tree_util.tree_flatten_with_path(params)

        def drawn(place, path, array):
            name = jax.tree_util.keystr(path)
            if array.ndim < 2:
                return jnp.zeros_like(array) if "bias" in name else array
            scale = 0.02 / math.sqrt(2 * self.layers) if "c_proj" in name else 0.02
            return scale * jax.random.normal(jax.random.fold_in(key, place), array.shape, dtype)

        leaves = [drawn(place, *leaf) for place, leaf in enumerate(named)]
        return jax.tree.unflatten(structure, leaves), state

    def caches(self, batch, dtype=jnp.float32):
        """Empty caches for so many sequences."""
        shape = (batch, self.heads, self.context, self.width // self.heads)
        return tuple(fn.KeyValueCache.empty(shape, dtype) for _ in range(self.layers))
