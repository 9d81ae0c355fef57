"""GPT-2 and Llama as models: transformers', their caches, their initialisation, their rules."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import funcnet as fn
from experiments.gpt import GPT
from experiments.llama import Block, Llama
from tests.layers.test_rules_only import left_to_autodiff

KEY = jax.random.key(0)
VOCABULARY, CONTEXT = 31, 16
GPT2 = GPT(VOCABULARY, CONTEXT, width=24, heads=3, layers=2)
LLAMA = Llama(VOCABULARY, 2, Block(width=24, heads=6, kv_heads=2, hidden=40))
TOKENS = np.random.default_rng(0).integers(0, VOCABULARY, (2, 12))
COTANGENT = np.random.default_rng(1).normal(size=(*TOKENS.shape, VOCABULARY))


def like(model):
    return jax.eval_shape(lambda key: model.init(key, jnp.float64)[0], KEY)


def apply(model, params, *inputs):
    return model.apply(params, model.init(KEY)[1], *inputs).value


def theirs(module):
    """Random weights in float64; the logits and the gradients by key, of one random cotangent."""
    import torch

    module = module.double().eval()
    torch.manual_seed(0)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    logits = module(torch.from_numpy(TOKENS)).logits
    (logits * torch.from_numpy(COTANGENT)).sum().backward()
    gradients = {name: p.grad.numpy() for name, p in module.named_parameters()}
    return logits.detach().numpy(), gradients


def gpt2():
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=VOCABULARY,
        n_positions=CONTEXT,
        n_embd=24,
        n_layer=2,
        n_head=3,
        bos_token_id=0,
        eos_token_id=0,
    )
    return GPT2LMHeadModel(config)


@pytest.mark.torch
@pytest.mark.transformers
def test_gpt_is_gpt2(x64):
    import torch

    module = gpt2()
    logits, gradients = theirs(module)
    params = fn.interop.load_gpt2(module.state_dict(), like(GPT2))
    found, pullback = jax.vjp(lambda params: apply(GPT2, params, jnp.asarray(TOKENS)), params)
    np.testing.assert_allclose(found, logits, atol=1e-9)
    ours = fn.interop.gpt2_state_dict(pullback(jnp.asarray(COTANGENT))[0])
    assert len(gradients) == 28
    for name, expected in gradients.items():
        np.testing.assert_allclose(ours[name], expected, atol=1e-9, err_msg=name)
    # And back: all that the module has, the head's second copy included.
    arrays = fn.interop.gpt2_state_dict(params)
    module.load_state_dict({name: torch.from_numpy(a) for name, a in arrays.items()})


@pytest.mark.torch
@pytest.mark.transformers
def test_llama_is_llama(x64):
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=24,
        intermediate_size=40,
        num_hidden_layers=2,
        num_attention_heads=6,
        num_key_value_heads=2,
        rms_norm_eps=1e-6,
        bos_token_id=0,
        eos_token_id=0,
    )
    module = LlamaForCausalLM(config)
    logits, gradients = theirs(module)

    def ours(tree):
        return fn.interop.load_state_dict(tree, like(LLAMA), rename={"model": ""})[0]

    found, pullback = jax.vjp(
        lambda params: apply(LLAMA, params, jnp.asarray(TOKENS)), ours(module.state_dict())
    )
    # transformers takes the angles of rotary embeddings in float32.
    np.testing.assert_allclose(found, logits, atol=1e-5)
    got = fn.interop.state_dict(pullback(jnp.asarray(COTANGENT))[0])
    for name, expected in gradients.items():
        difference = np.abs(got[name.removeprefix("model.")] - expected).max()
        assert difference <= 1e-5 * np.abs(expected).max(), name


@pytest.mark.parametrize("model", [GPT2, LLAMA])
def test_steps_with_a_cache_are_steps_of_the_whole(model, x64):
    params, _ = model.init(KEY, jnp.float64)
    tokens = jnp.asarray(TOKENS)
    heads, size = (3, 8) if model is GPT2 else (2, 4)
    caches = tuple(fn.KeyValueCache.empty((2, heads, CONTEXT, size), jnp.float64) for _ in "ab")
    compiled = jax.jit(apply, static_argnums=0)
    found = []
    for begin, end in ((0, 5), (5, 6), (6, 12)):
        logits, caches = compiled(model, params, tokens[:, begin:end], caches)
        found.append(logits)
    whole = compiled(model, params, tokens)
    np.testing.assert_allclose(np.concatenate(found, 1), whole, rtol=1e-12, atol=1e-12)
    assert int(caches[0].length) == 12


def test_gpt_starts_as_gpt2_does():
    params, _ = GPT(500, 100, width=64, heads=4, layers=8).init(KEY)
    arrays = fn.interop.state_dict(params)
    for name, array in arrays.items():
        if array.ndim == 2:
            expected = 0.02 / 4 if "c_proj" in name else 0.02
            np.testing.assert_allclose(array.std(), expected, rtol=0.05, err_msg=name)
            assert abs(array.mean()) < 0.05 * expected
        else:
            assert (array == ("ln_" in name and name.endswith("weight"))).all()
    drawn = [a for name, a in arrays.items() if name.endswith("c_fc.weight")]
    assert not np.array_equal(drawn[0], drawn[1])


def test_gpt_leaves_nothing_to_autodiff():
    params, _ = GPT2.init(KEY)
    assert (
        left_to_autodiff(lambda params: apply(GPT2, params, jnp.asarray(TOKENS)), params) == set()
    )


def test_a_text_longer_than_the_context_is_refused():
    params, _ = GPT2.init(KEY)
    with pytest.raises(ValueError, match="layer wpe"):
        apply(GPT2, params, jnp.zeros((1, CONTEXT + 1), int))


def test_gpt2_of_another_size_is_refused():
    params, _ = GPT2.init(KEY)
    arrays = fn.interop.gpt2_state_dict(params)
    with pytest.raises(fn.errors.ParamsError, match=r"wte.weight"):
        fn.interop.load_gpt2(arrays, GPT(30, CONTEXT, 24, 3, 2).init(KEY)[0])
    arrays["lm_head.weight"] += 1
    with pytest.raises(fn.errors.ParamsError, match="hold different numbers"):
        fn.interop.load_gpt2(arrays, params)
    both = fn.interop.state_dict(params) | fn.interop.gpt2_state_dict(params)
    with pytest.raises(fn.errors.ParamsError, match="are both there"):
        fn.interop.load_gpt2(both, params)
    with pytest.raises(fn.errors.ParamsError, match="wte"):
        fn.interop.gpt2_state_dict({"weight": jnp.zeros(3)})


def test_a_file_of_gpt2s_is_read(tmp_path):
    params, _ = GPT2.init(KEY)
    arrays = fn.interop.gpt2_state_dict(params)
    # What older releases saved beside the parameters.
    arrays["transformer.h.0.attn.bias"] = np.ones((1, 1, 4, 4), bool)
    fn.save_params(tmp_path / "model.safetensors", arrays)
    found = fn.interop.load_gpt2(tmp_path / "model.safetensors", params)
    jax.tree.map(np.testing.assert_array_equal, found, params)
