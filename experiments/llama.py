"""Llama: rotary positions, RMSNorm, a gated network, and heads that share keys and values.

Source: Touvron et al., "Llama 2: open foundation and fine-tuned chat models", 2023, section 2.2.
The names are those of LlamaForCausalLM, whose weights `fn.interop.load_state_dict` reads with
`rename={"model": ""}`. Every derivative is that of a rule of `fn.ops`, but for the gate's product.
"""

import dataclasses

import jax.numpy as jnp

import funcnet as fn


@dataclasses.dataclass(frozen=True)
class Attention(fn.Container):
    """Causal attention of `heads` queries to `kv_heads` keys and values, turned by their places."""

    width: int
    heads: int
    kv_heads: int
    theta: float

    @property
    def children(self):
        size = self.width // self.heads
        return {
            "q_proj": fn.Linear(self.width, self.heads * size, bias=False),
            "k_proj": fn.Linear(self.width, self.kv_heads * size, bias=False),
            "v_proj": fn.Linear(self.width, self.kv_heads * size, bias=False),
            "o_proj": fn.Linear(self.heads * size, self.width, bias=False),
        }

    def connect(self, call, x, cache=None):
        def split(a):  # (batch, time, heads D) -> (batch, heads, time, D)
            return jnp.moveaxis(a.reshape(*a.shape[:-1], -1, self.width // self.heads), -3, -2)

        begin = 0 if cache is None else cache.length
        places = begin + jnp.arange(x.shape[-2])
        q, k, v = split(call.q_proj(x)), split(call.k_proj(x)), split(call.v_proj(x))
        q, k = (fn.ops.rotary_embedding(a, places, self.theta) for a in (q, k))
        shown = None
        if cache is not None:
            cache = cache.extended(k, v)
            k, v, shown = cache.keys, cache.values, cache.shown_to_last(x.shape[-2])[None, None]
        causal = cache is None
        y = fn.ops.scaled_dot_product_attention(q, k, v, shown, is_causal=causal, enable_gqa=True)
        y = call.o_proj(jnp.moveaxis(y, -3, -2).reshape(x.shape))
        return y if cache is None else (y, cache)


@dataclasses.dataclass(frozen=True)
class GatedMLP(fn.Container):
    """SwiGLU (Shazeer, "GLU variants improve transformer", 2020, equation 6)."""

    width: int
    hidden: int

    @property
    def children(self):
        return {
            "gate_proj": fn.Linear(self.width, self.hidden, bias=False),
            "up_proj": fn.Linear(self.width, self.hidden, bias=False),
            "down_proj": fn.Linear(self.hidden, self.width, bias=False),
        }

    def connect(self, call, x):
        return call.down_proj(fn.ops.silu(call.gate_proj(x)) * call.up_proj(x))


@dataclasses.dataclass(frozen=True)
class Block(fn.Container):
    """Attention and the gated network, each normalised first and beside the identity."""

    width: int
    heads: int
    kv_heads: int
    hidden: int
    theta: float = 10_000.0
    eps: float = 1e-6

    @property
    def children(self):
        return {
            "input_layernorm": fn.RMSNorm(self.width, self.eps),
            "self_attn": Attention(self.width, self.heads, self.kv_heads, self.theta),
            "post_attention_layernorm": fn.RMSNorm(self.width, self.eps),
            "mlp": GatedMLP(self.width, self.hidden),
        }

    def connect(self, call, x, cache=None):
        y = call.self_attn(call.input_layernorm(x), cache)
        y, cache = (y, None) if cache is None else y
        x = x + y
        x = x + call.mlp(call.post_attention_layernorm(x))
        return x if cache is None else (x, cache)


@dataclasses.dataclass(frozen=True)
class Llama(fn.Container):
    """Tokens (batch, time) to logits (batch, time, vocabulary)."""

    vocabulary: int
    layers: int
    block: Block

    @property
    def children(self):
        width = self.block.width
        return {
            "embed_tokens": fn.Embedding(self.vocabulary, width),
            "layers": fn.Stack(*(self.block,) * self.layers),
            "norm": fn.RMSNorm(width, self.block.eps),
            "lm_head": fn.Linear(width, self.vocabulary, bias=False),
        }

    def connect(self, call, tokens, caches=None):
        x = call.layers(call.embed_tokens(tokens), caches)
        x, caches = (x, None) if caches is None else x
        logits = call.lm_head(call.norm(x))
        return logits if caches is None else (logits, caches)
