"""How ops are compared with PyTorch: values and cotangents in float64, and whether they agree."""

import jax
import jax.numpy as jnp
import numpy as np


def gradients(f, args, cotangent):
    """The value of `f` and the cotangents of its floating arguments, by funcnet's rules."""
    value, pullback = jax.vjp(f, *args)
    return value, pullback(jnp.asarray(cotangent))


def torch_gradients(f, args, cotangent):
    """The same from PyTorch's own backward passes."""
    import torch

    leaves = [torch.tensor(a, requires_grad=True) for a in args]
    value = f(*leaves)
    value.backward(torch.tensor(cotangent))
    return value.detach().numpy(), [np.asarray(leaf.grad) for leaf in leaves]


def agree(ours, theirs):
    np.testing.assert_allclose(ours[0], theirs[0], rtol=1e-9, atol=1e-9)
    assert len(ours[1]) == len(theirs[1])
    for a, b in zip(ours[1], theirs[1], strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9)
