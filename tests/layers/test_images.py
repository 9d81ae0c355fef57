"""Conv2d, the pooling layers and Flatten: options, parameters, PyTorch's results, and errors."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import funcnet as fn
from funcnet import ops
from funcnet.errors import ConfigError, DtypeError, ParamsError, ShapeError

KEY = jax.random.key(0)
NETWORK = fn.Sequential(
    fn.Conv2d(2, 4, 3, padding=1),
    fn.ReLU(),
    fn.MaxPool2d(2),
    fn.Conv2d(4, 6, (2, 3), stride=(2, 1), groups=2, bias=False),
    fn.AvgPool2d(2, 1),
    fn.AdaptiveAvgPool2d(1),
    fn.Flatten(-3),
    fn.Linear(6, 3),
)


def test_options_are_stored_as_pairs():
    assert repr(fn.MaxPool2d(2)) == (
        "MaxPool2d(kernel_size=(2, 2), stride=(2, 2), padding=(0, 0), dilation=(1, 1), "
        "ceil_mode=False)"
    )
    assert fn.Conv2d(1, 8, 3) == fn.Conv2d(1, np.int64(8), [3, 3], padding=(0, 0))  # pyright: ignore[reportArgumentType]
    assert fn.AvgPool2d(2) == fn.AvgPool2d((2, 2), 2) != fn.AvgPool2d(2, 1)
    assert (
        fn.AdaptiveAvgPool2d(3) == fn.AdaptiveAvgPool2d((3, 3)) != fn.AdaptiveAvgPool2d((3, None))
    )
    assert fn.Flatten() == fn.Flatten(1, -1)
    for layer in NETWORK.layers:
        assert eval(repr(layer), {**vars(fn)}) == layer
        assert hash(eval(repr(layer), {**vars(fn)})) == hash(layer)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_params_have_pytorchs_names_and_shapes(dtype):
    params, state = NETWORK.init(KEY, dtype=dtype)
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), params) == (
        {"weight": ((4, 2, 3, 3), jnp.dtype(dtype)), "bias": ((4,), jnp.dtype(dtype))},
        (),
        (),
        {"weight": ((6, 2, 2, 3), jnp.dtype(dtype))},
        (),
        (),
        (),
        {"weight": ((3, 6), jnp.dtype(dtype)), "bias": ((3,), jnp.dtype(dtype))},
    )
    assert state == ((),) * 8


@pytest.mark.parametrize("layer", [fn.Conv2d(3, 40, (2, 5)), fn.Conv2d(8, 40, 3, groups=4)])
def test_initial_params_have_pytorchs_distribution(layer):
    """Kolmogorov and Smirnov's distance from U[-1/√N, 1/√N], at the 0.1 % level."""
    bound = 1 / math.sqrt(layer.in_channels // layer.groups * math.prod(layer.kernel_size))
    params, _ = jax.vmap(layer.init)(jax.random.split(KEY, 50))
    for draws in params.values():
        draws = np.sort(np.asarray(draws, np.float64).ravel())
        assert -bound <= draws[0] < draws[-1] <= bound
        n = len(draws)
        above = np.arange(1, n + 1) / n - (draws / bound + 1) / 2
        assert max(above.max(), (1 / n - above).max()) < 1.95 / math.sqrt(n)


@pytest.mark.torch
@pytest.mark.usefixtures("x64")
def test_a_network_is_pytorchs_with_its_state_dict():
    """In values and gradients; the images become one pixel, so that Flatten's order is the same."""
    import torch
    from torch import nn

    theirs = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(4, 6, (2, 3), stride=(2, 1), groups=2, bias=False),
        nn.AvgPool2d(2, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(6, 3),
    ).double()
    like, state = jax.eval_shape(lambda: NETWORK.init(KEY, dtype=jnp.float64))
    params, state = fn.interop.load_state_dict(theirs.state_dict(), like, state)
    x = np.random.default_rng(0).normal(size=(5, 10, 9, 2))
    g = np.random.default_rng(1).normal(size=(5, 3))
    output, pullback = jax.vjp(lambda p: NETWORK.apply(p, state, jnp.asarray(x))[0], params)
    gradient = fn.interop.state_dict(pullback(jnp.asarray(g))[0])
    expected = theirs(torch.tensor(x).permute(0, 3, 1, 2))
    expected.backward(torch.tensor(g))
    np.testing.assert_allclose(output, expected.detach().numpy(), rtol=1e-9, atol=1e-9)
    for name, parameter in theirs.named_parameters():
        assert parameter.grad is not None
        np.testing.assert_allclose(gradient[name], parameter.grad.numpy(), rtol=1e-9, atol=1e-9)


def test_a_layer_is_its_op():
    x = jax.random.normal(KEY, (2, 7, 8, 4))
    conv = fn.Conv2d(4, 6, (2, 3), (2, 1), (1, 0), (1, 2), 2)
    params, state = conv.init(KEY)
    pairs = [
        (
            conv.apply(params, state, x)[0],
            ops.conv2d(x, params["weight"], params["bias"], (2, 1), (1, 0), (1, 2), 2),
        ),
        (
            fn.MaxPool2d(3, 2, 1, 2, ceil_mode=True).apply((), (), x)[0],
            ops.max_pool2d(x, 3, 2, 1, 2, True),
        ),
        (
            fn.AvgPool2d(3, 2, 1, True, False, 5).apply((), (), x)[0],
            ops.avg_pool2d(x, 3, 2, 1, True, False, 5),
        ),
        (
            fn.AdaptiveAvgPool2d((3, None)).apply((), (), x)[0],
            ops.adaptive_avg_pool2d(x, (3, None)),
        ),
    ]
    for ours, expected in pairs:
        np.testing.assert_array_equal(ours, expected)


def test_max_pool2d_keeps_one_byte_an_output():
    x = jax.random.normal(KEY, (2, 8, 8, 3))
    _, pullback = jax.vjp(lambda x: ops.max_pool2d(x, 2), x)
    kept = jax.tree.leaves(pullback)
    assert [(leaf.dtype, leaf.shape) for leaf in kept] == [(jnp.dtype("uint8"), (2, 4, 4, 3))]
    for pool in (lambda x: ops.avg_pool2d(x, 2), lambda x: ops.adaptive_avg_pool2d(x, 2)):
        assert jax.tree.leaves(jax.vjp(pool, x)[1]) == []


@pytest.mark.parametrize(
    ("axes", "shape", "expected"),
    [
        ((), (2, 3, 4, 5), (2, 60)),
        ((-3,), (2, 3, 4, 5), (2, 60)),
        ((-3,), (3, 4, 5), (60,)),
        ((1, 2), (2, 3, 4, 5), (2, 12, 5)),
        ((0,), (0, 3), (0,)),
        ((), (2, 3), (2, 3)),
    ],
)
def test_flatten(axes, shape, expected):
    x = jnp.arange(math.prod(shape), dtype=jnp.float32).reshape(shape)
    y, state = fn.Flatten(*axes).apply((), (), x)
    assert state == ()
    np.testing.assert_array_equal(y, x.reshape(expected))


def test_the_summary_shows_images(capsys):
    table = fn.summary(NETWORK, (5, 10, 9, 2))
    assert [row.output_shape for row in table.rows] == [
        (5, 10, 9, 4),
        (5, 10, 9, 4),
        (5, 5, 4, 4),
        (5, 2, 2, 6),
        (5, 1, 1, 6),
        (5, 1, 1, 6),
        (5, 6),
        (5, 3),
    ]
    assert table.parameters == 4 * 2 * 9 + 4 + 6 * 2 * 6 + 6 * 3 + 3


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: fn.Conv2d(0, 3, 3), "Conv2d's in_channels is 0, expected at least 1"),
        (lambda: fn.Conv2d(2, 3, (3, 3, 3)), "kernel_size is (3, 3, 3), expected an integer or a"),  # pyright: ignore[reportArgumentType]
        (lambda: fn.Conv2d(2, 3, 0), "Conv2d's kernel_size is 0, expected at least 1"),
        (lambda: fn.Conv2d(2, 3, 3, padding=-1), "Conv2d's padding is -1, expected at least 0"),
        (lambda: fn.Conv2d(2, 3, 3, padding="full"), "padding is 'full', expected 'same', 'valid'"),  # pyright: ignore[reportArgumentType]
        (lambda: fn.Conv2d(2, 3, 3, 2, "same"), "padding is 'same' with stride (2, 2)"),
        (lambda: fn.Conv2d(4, 3, 3, groups=2), "out_channels is 3, expected a multiple of groups"),
        (lambda: fn.Conv2d(2, 3, 3, bias=1), "Conv2d's bias is 1, expected True or False"),  # pyright: ignore[reportArgumentType]
        (lambda: fn.MaxPool2d(2, padding=2), "MaxPool2d's padding is 2, expected at most half"),
        (lambda: fn.MaxPool2d(2.5), "MaxPool2d's kernel_size is 2.5, expected an integer"),  # pyright: ignore[reportArgumentType]
        (lambda: fn.MaxPool2d(2, ceil_mode=1), "ceil_mode is 1, expected True or False"),  # pyright: ignore[reportArgumentType]
        (lambda: fn.AvgPool2d(2, divisor_override=0), "divisor_override is 0, expected another"),
        (lambda: fn.AvgPool2d(2, count_include_pad=0), "count_include_pad is 0, expected True"),  # pyright: ignore[reportArgumentType]
        (lambda: fn.AdaptiveAvgPool2d(0), "AdaptiveAvgPool2d's output_size is 0, expected at"),
        (lambda: fn.AdaptiveAvgPool2d((1, 2, 3)), "output_size is (1, 2, 3), expected an integer"),  # pyright: ignore[reportArgumentType]
        (lambda: fn.Flatten("1"), "Flatten's start_dim is '1', expected an integer"),  # pyright: ignore[reportArgumentType]
    ],
)
def test_options_without_meaning_are_refused(make, message):
    with pytest.raises(ConfigError) as error:
        make()
    assert message in str(error.value)


CONV = fn.Conv2d(2, 4, 3)


@pytest.mark.parametrize(
    ("layer", "x", "message"),
    [
        (CONV, jnp.ones((5, 2, 8, 9)), "move the channels to the end with jnp.moveaxis(x, -3, -1)"),
        (
            CONV,
            jnp.ones((5, 8, 9, 3)),
            "in_channels / groups, rows, columns)); set in_channels=3",
        ),
        (CONV, jnp.ones((8, 2)), "x has shape (8, 2), expected (..., height, width, channels)"),
        (
            fn.Conv2d(1, 4, 3),
            jnp.ones((5, 28)),
            "axes, for example with x[..., None] for one channel",
        ),
        (CONV, jnp.ones((5, 8, 2, 2)), "are smaller than the kernel, which covers 3 x 3; pad more"),
        (fn.MaxPool2d(3), jnp.ones((2, 2, 1)), "images of 2 x 2 pixels, 2 x 2 with padding, are"),
        (fn.MaxPool2d(3), jnp.ones((2, 2)), "expected (..., height, width, channels)"),
        (fn.Flatten(2), jnp.ones((2, 2)), "expected axes 2 to -1 in this order; with no batch"),
        (fn.Flatten(), jnp.ones(()), "got an input of shape ()"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(layer, x, message):
    params, state = layer.init(KEY)
    with pytest.raises(ShapeError) as error:
        layer.apply(params, state, x)
    assert message in str(error.value)


def test_params_and_dtypes_that_do_not_fit_are_refused():
    params, state = CONV.init(KEY)
    with pytest.raises(ParamsError, match=r"expected \{weight: \[4, 2, 3, 3\], bias: \[4\]\}"):
        CONV.apply({"weight": params["weight"]}, state, jnp.ones((8, 8, 2)))
    for layer in (CONV, fn.AvgPool2d(2), fn.Flatten()):
        params, state = layer.init(KEY)
        with pytest.raises(DtypeError, match="expected floating point"):
            layer.apply(params, state, jnp.ones((8, 8, 2), jnp.int32))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x, w: ops.conv2d(x, w[0]), "weight has shape (2, 3, 3), expected (out_channels"),
        (lambda x, w: ops.conv2d(x, w[:, :1]), "weight.shape[1] * groups = 1 channels on x's last"),
        (lambda x, w: ops.conv2d(x, w, groups=2), "weight.shape[1] * groups = 4 channels"),
        (lambda x, w: ops.conv2d(x, w, jnp.ones(3)), "bias has shape (3,), expected (4,)"),
        (lambda x, w: ops.conv2d(x[0, 0], w), "expected (..., height, width, channels)"),
        (lambda x, w: ops.conv2d(x[:, :2], w), "images of 2 x 7 pixels, 2 x 7 with padding"),
    ],
)
def test_arguments_of_conv2d_that_do_not_fit_are_refused(call, message):
    with pytest.raises(ShapeError) as error:
        call(jnp.ones((5, 6, 7, 2)), jnp.ones((4, 2, 3, 3)))
    assert message in str(error.value)
