"""Containers that users write: names, keys, states, shared and tied weights, inputs and options."""

import copy
import dataclasses
import functools
import pickle
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import funcnet as fn
from funcnet import ops
from funcnet.errors import ConfigError, ParamsError, ShapeError
from funcnet.layers import Function
from tests.same_bits import assert_same_bits

KEY = jax.random.key(0)
X = jax.random.normal(jax.random.key(1), (5, 3))
CLOSE: Any = {"rtol": 2e-5, "atol": 1e-6}


@dataclasses.dataclass(frozen=True)
class CausalSelfAttention(fn.Container):
    width: int
    heads: int

    @property
    def children(self):
        return {
            "c_attn": fn.Linear(self.width, 3 * self.width),
            "c_proj": fn.Linear(self.width, self.width),
        }

    def connect(self, call, x, mask=None):
        batch, time, width = x.shape
        qkv = call.c_attn(x).reshape(batch, time, 3, self.heads, width // self.heads)
        q, k, v = (qkv[:, :, i] for i in range(3))
        y = jax.nn.dot_product_attention(q, k, v, mask=mask, is_causal=True)
        return call.c_proj(y.reshape(batch, time, width))


@dataclasses.dataclass(frozen=True)
class Block(fn.Container):
    width: int
    heads: int

    @property
    def children(self):
        return {
            "ln_1": fn.LayerNorm(self.width),
            "attn": CausalSelfAttention(self.width, self.heads),
            "ln_2": fn.LayerNorm(self.width),
            "mlp": fn.Sequential(
                c_fc=fn.Linear(self.width, 4 * self.width),
                act=fn.GELU("tanh"),
                c_proj=fn.Linear(4 * self.width, self.width),
            ),
        }

    def connect(self, call, x, mask=None):
        x = x + call.attn(call.ln_1(x), mask=mask)
        return x + call.mlp(call.ln_2(x))


@dataclasses.dataclass(frozen=True)
class GPT(fn.Container):
    vocabulary: int
    context: int
    width: int
    heads: int
    depth: int

    @property
    def children(self):
        return {
            "wte": fn.Embedding(self.vocabulary, self.width),
            "wpe": fn.Embedding(self.context, self.width),
            "h": fn.Sequential(*[Block(self.width, self.heads) for _ in range(self.depth)]),
            "ln_f": fn.LayerNorm(self.width),
        }

    def connect(self, call, ids, mask=None):
        x = call.wte(ids) + call.wpe(jnp.arange(ids.shape[-1]))[None]
        x = call.ln_f(call.h(x, mask=mask))
        return ops.linear(x, call.params["wte"]["weight"])


MODEL = GPT(vocabulary=11, context=6, width=8, heads=2, depth=2)
IDS = jax.random.randint(KEY, (3, 6), 0, 11)


def plain_gpt(params, ids, mask=None):
    """The same by jnp alone, from the same parameters."""

    def norm(p, x):
        mean = x.mean(axis=-1, keepdims=True)
        var = jnp.square(x - mean).mean(axis=-1, keepdims=True)
        return (x - mean) / jnp.sqrt(var + 1e-5) * p["weight"][None, None] + p["bias"][None, None]

    def linear(p, x):
        return x @ p["weight"].T + p["bias"][None, None]

    x = params["wte"]["weight"][ids] + params["wpe"]["weight"][None, : ids.shape[1]]
    for p in params["h"]:
        qkv = linear(p["attn"]["c_attn"], norm(p["ln_1"], x)).reshape(*ids.shape, 3, 2, 4)
        q, k, v = (qkv[:, :, i] for i in range(3))
        y = jax.nn.dot_product_attention(q, k, v, mask=mask, is_causal=True)
        x = x + linear(p["attn"]["c_proj"], y.reshape(x.shape))
        hidden = jax.nn.gelu(linear(p["mlp"]["c_fc"], norm(p["ln_2"], x)), approximate=True)
        x = x + linear(p["mlp"]["c_proj"], hidden)
    return norm(params["ln_f"], x) @ params["wte"]["weight"].T


@pytest.mark.slow
def test_a_gpt_with_a_tied_head_is_plain_jaxs_gradients_included():
    params, state = MODEL.init(KEY)
    targets = jnp.roll(IDS, -1, axis=1)
    loss = fn.CrossEntropyLoss()

    def ours(params):
        return loss(MODEL.apply(params, state, IDS)[0], targets)

    def plain(params):
        logits = jax.nn.log_softmax(plain_gpt(params, IDS))
        return -jnp.take_along_axis(logits, targets[..., None], axis=-1).mean()

    value, gradient = jax.jit(jax.value_and_grad(ours))(params)
    expected, expected_gradient = jax.jit(jax.value_and_grad(plain))(params)
    np.testing.assert_allclose(value, expected, **CLOSE)
    assert jax.tree.structure(gradient) == jax.tree.structure(params)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, **CLOSE), gradient, expected_gradient
    )
    assert float(jnp.abs(gradient["wte"]["weight"]).max()) > 0


def test_the_names_are_pytorchs_keys():
    params, state = MODEL.init(KEY)
    block = {"ln_1.weight", "ln_1.bias", "attn.c_attn.weight", "attn.c_attn.bias"}
    block |= {"attn.c_proj.weight", "attn.c_proj.bias", "ln_2.weight", "ln_2.bias"}
    block |= {"mlp.c_fc.weight", "mlp.c_fc.bias", "mlp.c_proj.weight", "mlp.c_proj.bias"}
    assert set(fn.interop.state_dict(params, state)) == {
        *("wte.weight", "wpe.weight", "ln_f.weight", "ln_f.bias"),
        *(f"h.{i}.{key}" for i in range(2) for key in block),
    }


@pytest.mark.slow
def test_fit_trains_it():
    result = fn.fit(
        MODEL,
        fn.CrossEntropyLoss(),
        optax.adam(1e-2),
        (np.asarray(IDS), np.roll(IDS, -1, axis=1)),
        epochs=3,
        batch_size=2,
        key=KEY,
        progress=False,
    )
    assert result.history["loss"][-1] < result.history["loss"][0]


def test_models_are_values():
    again = GPT(vocabulary=11, context=6, width=8, heads=2, depth=2)
    assert again == MODEL
    assert hash(MODEL) == hash(again)
    assert dataclasses.replace(MODEL, depth=1) != MODEL
    assert repr(MODEL) == "GPT(vocabulary=11, context=6, width=8, heads=2, depth=2)"
    assert MODEL.children is MODEL.children  # made, and kept:
    assert hash(MODEL) == hash(again)
    for copied in (pickle.loads(pickle.dumps(MODEL)), copy.deepcopy(MODEL), copy.copy(MODEL)):
        assert copied == MODEL
        assert copied.children == MODEL.children


def test_children_are_made_once():
    made = []

    class Counted(fn.Container):
        @property
        def children(self):
            made.append(self)
            return {"a": fn.Linear(3, 3), "b": jnp.tanh}

        def connect(self, call, x):
            return call.b(call.a(x))

    class Extended(Counted):
        @functools.cached_property
        def children(self):
            assert isinstance(super().children, dict)
            return {**super().children, "c": fn.ReLU()}

    model = Counted()
    params, state = model.init(KEY)
    model.apply(params, state, X)
    model.apply(params, state, X)
    assert made == [model]
    assert model.children == {"a": fn.Linear(3, 3), "b": Function(jnp.tanh)}
    assert list(Extended().children) == ["a", "b", "c"]
    assert list(Extended().init(KEY)[0]) == ["a", "b", "c"]


def test_slots_do_no_harm():
    @dataclasses.dataclass(frozen=True, slots=True)
    class Slotted(fn.Container):
        width: int

        @property
        def children(self):
            return {"a": fn.Linear(self.width, self.width)}

        def connect(self, call, x):
            return call.a(x)

    model = Slotted(3)
    assert model.children is model.children
    assert model == Slotted(3)
    assert model.apply(*model.init(KEY), X).value.shape == X.shape


@dataclasses.dataclass(frozen=True)
class Noise(fn.Module):
    """Adds noise where it is given a key, and counts its calls: random and stateful."""

    def init(self, key, dtype=jnp.float32):
        return (), jnp.int32(0)

    def apply(self, params, state, x, *, key=None, train=False):
        return (x if key is None else x + jax.random.normal(key, x.shape)), state + 1


@dataclasses.dataclass(frozen=True)
class Twice(fn.Container):
    """Calls one child as often as it says."""

    inner: fn.Module
    times: int = 2

    @property
    def children(self):
        return {"first": fn.Tanh(), "shared": self.inner}

    def connect(self, call, x):
        for _ in range(self.times):
            x = call.shared(x)
        return call.first(x)


def test_a_child_draws_by_its_place_in_the_dict():
    params, _ = Twice(fn.Linear(3, 3)).init(KEY)
    assert_same_bits(params["shared"], fn.Linear(3, 3).init(jax.random.fold_in(KEY, 1))[0])
    zero = jnp.zeros((2, 3))
    model = Twice(Noise(), times=1)
    output, _ = model.apply(*model.init(KEY), zero, key=KEY)
    noise = jax.random.normal(jax.random.fold_in(KEY, 1), zero.shape)
    assert_same_bits(output, jnp.tanh(noise))


def test_a_shared_child_has_one_weight_and_both_cotangents():
    model = Twice(fn.Linear(3, 3))
    params, state = model.init(KEY)
    weight, bias = params["shared"]["weight"], params["shared"]["bias"]

    def plain(weight):
        hidden = X @ weight.T + bias[None]
        return jnp.tanh(hidden @ weight.T + bias[None]).sum()

    np.testing.assert_allclose(
        jax.grad(lambda p: model.apply(p, state, X)[0].sum())(params)["shared"]["weight"],
        jax.grad(plain)(weight),
        **CLOSE,
    )


def test_a_second_call_has_the_state_of_the_first_and_another_key():
    model = Twice(Noise(), times=3)
    params, state = model.init(KEY)
    output, after = model.apply(params, state, jnp.zeros((2, 3)))
    assert after == {"first": (), "shared": 3}
    own = jax.random.fold_in(KEY, 1)
    keys = [own, jax.random.fold_in(own, 2**31 + 1), jax.random.fold_in(own, 2**31 + 2)]
    noise = sum(jax.random.normal(key, (2, 3)) for key in keys)
    output, _ = model.apply(params, state, jnp.zeros((2, 3)), key=KEY)
    np.testing.assert_allclose(output, jnp.tanh(noise), rtol=1e-6)
    with fn.debugging():  # no key twice
        model.apply(params, state, jnp.ones((2, 3)), key=KEY)


def test_no_two_calls_meet_in_a_key():
    """A container called again must not draw what a layer deeper within it drew before."""
    drawn = []

    @dataclasses.dataclass(frozen=True)
    class Spy(fn.Module):
        def apply(self, params, state, x, *, key: Any = None, train=False):
            drawn.append(tuple(np.asarray(jax.random.key_data(key))))
            return x, state

    inner = fn.Sequential(Spy(), fn.Sequential(Spy(), Spy(), fn.Sequential(Spy())))
    model = fn.Sequential(Twice(Twice(inner), times=3), Spy())
    model.apply(*model.init(KEY), X, key=KEY)
    assert len(drawn) == len(set(drawn)) == 3 * 2 * 4 + 1


@dataclasses.dataclass(frozen=True)
class Noisy(fn.Container):
    """Draws by itself, in training alone."""

    @property
    def children(self):
        return {"a": Noise()}

    def connect(self, call, x):
        if not call.train:
            return call.a(x)
        assert call.key is not None
        return call.a(x + jax.random.normal(call.key, x.shape))


def test_a_container_may_draw_by_itself():
    model = Noisy()
    params, state = model.init(KEY)
    zero = jnp.zeros((2, 3))
    output, _ = model.apply(params, state, zero, key=KEY, train=True)
    a, b = (jax.random.normal(jax.random.fold_in(KEY, i), zero.shape) for i in (2**31, 0))
    assert_same_bits(output, a + b)
    assert_same_bits(model.apply(params, state, zero)[0], zero)
    with fn.debugging():
        model.apply(params, state, zero, key=KEY, train=True)


@dataclasses.dataclass(frozen=True)
class Queries(fn.Container):
    """Children of names that `call` has uses for too."""

    @property
    def children(self):
        return {"key": fn.Linear(3, 2), "query": fn.Linear(3, 2), "train": fn.Tanh()}

    def connect(self, call, x):
        return call.train(call.query(x) * call.key(x))


def test_a_child_may_be_called_key():
    model = Queries()
    params, state = model.init(KEY)
    query, key = (ops.linear(X, *params[n].values()) for n in ("query", "key"))
    output, _ = model.apply(params, state, X, key=KEY, train=True)
    assert_same_bits(output, ops.tanh(query * key))


# Inputs and options


@dataclasses.dataclass(frozen=True)
class Scaled(fn.Module):
    """x * scale + shift: takes an input and an option."""

    def apply(self, params, state, x, shift=None, *, scale=1.0, key=None, train=False):
        return x * scale + (0 if shift is None else shift), state


@pytest.mark.parametrize(
    "model",
    [
        fn.Sequential(Scaled(), fn.ReLU(), fn.Sequential(Scaled(), jnp.negative)),
        fn.Sequential(a=Scaled(), b=fn.ReLU(), c=fn.Sequential(d=Scaled(), e=jnp.negative)),
    ],
)
def test_a_sequential_hands_inputs_and_options_to_who_takes_them(model):
    params, state = model.init(KEY)
    shift = jnp.full((5, 3), 0.5)
    hidden = ops.relu(X * 2 + shift)
    output, _ = model.apply(params, state, X, shift, scale=2.0)
    assert_same_bits(output, -(hidden * 2 + shift))
    assert_same_bits(model.apply(params, state, X, shift=shift, scale=2.0)[0], output)
    assert_same_bits(model.apply(params, state, X)[0], -ops.relu(X))


def test_branches_get_inputs_and_options_too():
    x, shift = jnp.ones((2, 3)), jnp.full((2, 3), 5.0)
    for container in (
        fn.Parallel(Scaled(), fn.ReLU()),
        fn.Residual(Scaled(), shortcut=fn.ReLU()),
        fn.Residual(fn.ReLU(), shortcut=Scaled()),
    ):
        output, _ = container.apply(*container.init(KEY), x, shift, scale=2.0)
        np.testing.assert_array_equal(output, 2 + 5 + 1)


def test_a_mask_reaches_every_block():
    params, state = MODEL.init(KEY)
    mask = jnp.ones((3, 1, 6, 6), bool).at[0, :, :, 2].set(False).at[0, :, 2, 2].set(True)
    output, _ = MODEL.apply(params, state, IDS, mask=mask)
    np.testing.assert_allclose(output, plain_gpt(params, IDS, mask), rtol=1e-4, atol=1e-5)
    assert not np.allclose(output, MODEL.apply(params, state, IDS)[0])


@dataclasses.dataclass(frozen=True)
class Anything(fn.Module):
    def apply(self, params, state, x, *inputs, key=None, train=False, **options):
        return (x, *inputs, *options.values()), state


def test_a_layer_may_take_anything():
    model = fn.Sequential(fn.ReLU(), Anything())
    output, _ = model.apply(*model.init(KEY), 1 + X**2, 2, 3, size=4)
    assert output[1:] == (2, 3, 4)


@dataclasses.dataclass(frozen=True)
class Wrong(fn.Container):
    """Gives its Linear an option that it does not take."""

    @property
    def children(self):
        return {"fc": fn.Linear(3, 3)}

    def connect(self, call, x, what="option"):
        if what == "option":
            return call.fc(x, mask=x)
        if what == "input":
            return call.fc(x, x)
        return call("fx", x) if what == "name" else call.fx(x)


@pytest.mark.parametrize(
    ("model", "inputs", "options", "says"),
    [
        (fn.Sequential(fn.ReLU()), (), {"mask": 1}, "Sequential got the option 'mask', .* none"),
        (fn.Sequential(Scaled()), (), {"size": 1}, r"option 'size', expected one of \['scale'"),
        (fn.Sequential(Scaled()), (1, 2), {}, "Sequential got 3 inputs, expected at most 2"),
        (fn.Parallel(fn.ReLU()), (1,), {}, "Parallel got 2 inputs, expected at most 1"),
        (fn.Sequential(), (1,), {}, "got 2 inputs, expected at most 1"),
        (Wrong(), (), {"mask": 1}, r"Wrong got the option 'mask', expected one of \['what'\]"),
        (Wrong(), ("option",), {}, r"^layer fc: Linear\(.*got the option 'mask', expected none"),
        (Wrong(), (), {"what": "input"}, r"^layer fc: Linear\(.*got 2 inputs, expected at most 1"),
        (Wrong(), ("name",), {}, r"Wrong has no child 'fx', expected one of \['fc'\]"),
        (fn.Sequential(a=Wrong()), (), {"what": "input"}, r"^layer a\.fc: "),
    ],
)
def test_what_nobody_takes_is_refused_by_name(model, inputs, options, says):
    params, state = model.init(KEY)
    with pytest.raises(ConfigError, match=says):
        model.apply(params, state, X, *inputs, **options)


def test_an_attribute_that_is_no_child_is_an_attribute_error():
    params, state = Wrong().init(KEY)
    with pytest.raises(AttributeError, match=r"no child 'fx', expected one of \['fc'\]"):
        Wrong().apply(params, state, X, "attribute")


# Carries


@dataclasses.dataclass(frozen=True)
class Recurrent(fn.Container):
    """Who gives a carry gets one back."""

    @property
    def children(self):
        return {"ih": fn.Linear(3, 4), "hh": fn.Linear(4, 4, bias=False)}

    def connect(self, call, x, h=None):
        inputs, last, outputs = call.ih(x), jnp.zeros((len(x), 4)) if h is None else h, []
        for t in range(x.shape[1]):
            last = ops.tanh(inputs[:, t] + call.hh(last))
            outputs.append(last)
        y = jnp.stack(outputs, axis=1)
        return y if h is None else (y, last)


def test_a_carry_goes_in_and_comes_out_and_gradients_flow_through_it():
    model = Recurrent()
    params, state = model.init(KEY)
    x = jax.random.normal(KEY, (2, 5, 3))

    def whole(params):
        return model.apply(params, state, x)[0]

    def pieces(params):
        (first, h), _ = model.apply(params, state, x[:, :2], jnp.zeros((2, 4)))
        (second, _), _ = model.apply(params, state, x[:, 2:], h)
        return jnp.concatenate([first, second], axis=1)

    np.testing.assert_allclose(pieces(params), whole(params), **CLOSE)
    of_whole, of_pieces = (
        jax.grad(lambda p, f=f: f(p)[:, -1].sum())(params) for f in (whole, pieces)
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **CLOSE), of_pieces, of_whole)
    stacked = fn.Sequential(model, fn.Linear(4, 2))
    assert stacked.apply(*stacked.init(KEY), x).value.shape == (2, 5, 2)


# Arrays of its own, functions, pytrees


@dataclasses.dataclass(frozen=True)
class Towers(fn.Container):
    """Takes a dict, gives a dict, and has a weight of its own."""

    @property
    def children(self):
        return {"image": fn.Sequential(fn.Linear(3, 4), jnp.tanh), "label": fn.Embedding(5, 4)}

    def own(self, key, dtype):
        return {"scale": jax.random.normal(key, (4,), dtype)}

    def connect(self, call, x):
        product = call.image(x["pixels"]) * call.label(x["label"])
        return {"product": product * call.params["scale"][None], "label": x["label"]}


BATCH = {"pixels": X, "label": jnp.arange(5)}


def test_arrays_of_its_own_stand_beside_the_childrens():
    model = Towers()
    params, state = model.init(KEY, jnp.bfloat16)
    assert params["scale"].dtype == jnp.bfloat16
    params, state = model.init(KEY)
    assert list(params) == ["image", "label", "scale"]
    assert state == {"image": ((), ()), "label": ()}
    assert_same_bits(params["scale"], jax.random.normal(jax.random.fold_in(KEY, 2**31), (4,)))
    output, after = model.apply(params, state, BATCH)
    expected = jnp.tanh(ops.linear(X, *params["image"][0].values())) * params["label"]["weight"]
    np.testing.assert_allclose(output["product"], expected * params["scale"][None], **CLOSE)
    assert after == state
    assert "scale" in fn.interop.state_dict(params)


class Changed(Towers):
    def own(self, key, dtype):
        return {"image": jnp.ones(1)}


class Numbered(Towers):
    children = property(lambda self: (fn.ReLU(),))  # pyright: ignore


def test_arrays_of_its_own_need_names_of_their_own():
    with pytest.raises(ConfigError, match="own array 'image' has the name of a child"):
        Changed().init(KEY)
    with pytest.raises(ConfigError, match="children without names, expected a dict"):
        Numbered().init(KEY)


@pytest.mark.parametrize(
    ("params", "says"),
    [
        (lambda p: {n: p[n] for n in ("image", "label")}, r"of entries \['image', 'label'\], exp"),
        (lambda p: {**p, "more": X}, r"a dict of \['image', 'label', 'scale'\]; make it with"),
        (lambda p: tuple(p.values()), "Towers got params of tuple, expected a dict"),
        (lambda p: {**p, "scale": X}, r"got params \{scale: \[5, 3\]\}, expected \{scale: \[4\]\}"),
    ],
)
def test_entries_of_another_model_are_refused(params, says):
    made, state = Towers().init(KEY)
    with pytest.raises(ParamsError, match=says):
        Towers().apply(params(made), state, BATCH)
    with pytest.raises(ParamsError, match="Towers got state of entries"):
        Towers().apply(made, {}, BATCH)


def test_a_function_is_a_layer_without_parameters():
    model = fn.Sequential(fn.Linear(3, 2), jnp.tanh, functools.partial(jnp.sum, axis=-1))
    assert repr(model.layers[1]) == "Function(tanh)"
    assert repr(model.layers[2]) == "Function(sum, axis=-1)"
    assert model == fn.Sequential(*model.layers)
    assert fn.Sequential(jnp.tanh) == fn.Sequential(jnp.tanh) != fn.Sequential(jnp.sin)
    assert hash(fn.Sequential(jnp.tanh)) == hash(fn.Sequential(jnp.tanh))
    params, state = model.init(KEY)
    assert params[1:] == state[1:] == ((), ())
    expected = jnp.tanh(ops.linear(X, *params[0].values())).sum(axis=-1)
    assert_same_bits(model.apply(params, state, X)[0], expected)
    with pytest.raises(ParamsError, match=r"layer 1: Function\(tanh\) got params"):
        model.apply((params[0], {"a": X}, ()), state, X)
    residual = fn.Residual(jnp.tanh, shortcut=jnp.sin)
    assert_same_bits(residual.apply(*residual.init(KEY), X)[0], jnp.tanh(X) + jnp.sin(X))


class Callable:
    def __call__(self, x):
        return x + 1

    def __repr__(self):
        return "Callable()"


def test_a_callable_object_is_a_layer_too():
    layer = Callable()
    model = fn.Parallel(layer, fn.Sequential())
    assert repr(model) == "Parallel(Function(Callable()), Sequential(), combine='sum')"
    assert_same_bits(model.apply(*model.init(KEY), X)[0], (X + 1) + X)
    with pytest.raises(ConfigError, match="Function got 3, expected a function"):
        Function(3)  # pyright: ignore


# Names


def named(children):
    @dataclasses.dataclass(frozen=True)
    class Named(fn.Container):
        @property
        def children(self):
            return children

    return Named()


@pytest.mark.parametrize("name", ["params", "_hidden", "a.b", "0", "a b", "", "class", 3])
def test_names_that_cannot_stand_behind_a_dot_are_refused(name):
    with pytest.raises(ConfigError, match=rf"Named has the child {name!r}, expected a name"):
        named({name: fn.ReLU()}).init(KEY)
    if isinstance(name, str):
        with pytest.raises(ConfigError, match=rf"Sequential has the layer {name!r}, expected"):
            fn.Sequential(**{name: fn.ReLU()})


@pytest.mark.parametrize(
    ("children", "says"),
    [
        ([fn.ReLU()], "Named's children are list, expected a tuple of layers or a dict"),
        ({"a": fn.ReLU}, "Named's child 'a' is .*, a class; expected a layer"),
        ((fn.ReLU(), 3), "Named's child 1 is 3 of type int; expected a layer"),
    ],
)
def test_what_is_not_a_layer_is_refused(children, says):
    with pytest.raises(ConfigError, match=says):
        named(children).init(KEY)


def test_a_sequential_names_its_layers():
    model = fn.Sequential(c_fc=fn.Linear(3, 4), act=jnp.tanh, self=fn.Linear(4, 2))
    plain = fn.Sequential(fn.Linear(3, 4), jnp.tanh, fn.Linear(4, 2))
    params, state = model.init(KEY)
    assert_same_bits(tuple(params.values()), plain.init(KEY)[0])
    assert_same_bits(model.apply(params, state, X)[0], plain.apply(*plain.init(KEY), X)[0])
    assert model != plain
    assert model.layers == plain.layers
    assert repr(fn.Sequential(a=fn.ReLU())) == "Sequential(a=ReLU())"
    assert fn.Sequential(a=fn.ReLU()) == fn.Sequential(a=fn.ReLU()) != fn.Sequential(b=fn.ReLU())
    with pytest.raises(ConfigError, match="1 layers without and 1 with a name, expected one kind"):
        fn.Sequential(fn.ReLU(), a=fn.ReLU())
    with pytest.raises(ShapeError, match=r"^layer c_fc: Linear\("):
        model.apply(params, state, jnp.ones((2, 7)))


def test_errors_name_the_path():
    params, state = MODEL.init(KEY)
    bad = jax.tree.map(lambda x: x, params)
    bad["h"][1]["attn"]["c_proj"]["weight"] = jnp.ones((8, 9))
    with pytest.raises(ParamsError, match=r"^layer h\.1\.attn\.c_proj: Linear\(") as raised:
        MODEL.apply(bad, state, IDS)
    assert raised.value.layer_path == ("h", 1, "attn", "c_proj")
