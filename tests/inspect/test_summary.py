"""`summary` shows what `init` and `apply` make, without computing anything."""

import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import funcnet as fn
from funcnet.errors import ShapeError
from tests.layers.test_composition import GPT, Recurrent, Scaled, Towers, Twice

KEY = jax.random.key(2)
INNER = fn.Sequential(fn.Tanh(), fn.Linear(3, 4, bias=False), fn.ReLU())
NESTED = fn.Sequential(fn.Linear(2, 3), INNER, fn.Linear(4, 3))


@pytest.mark.parametrize("batch", [(), (100,), (3, 4)])
def test_summary_tells_shapes_and_counts(batch, capsys):
    table = fn.summary(NESTED, (*batch, 2))
    assert [(row.path, row.output_shape, row.parameters) for row in table.rows] == [
        ("0", (*batch, 3), 9),
        ("1.0", (*batch, 3), 0),
        ("1.1", (*batch, 4), 12),
        ("1.2", (*batch, 4), 0),
        ("2", (*batch, 3), 15),
    ]
    assert [row.layer for row in table.rows] == [
        repr(layer) for layer in (NESTED.layers[0], *INNER.layers, NESTED.layers[2])
    ]
    params, _ = NESTED.init(KEY)
    assert table.parameters == 36 == sum(leaf.size for leaf in jax.tree.leaves(params))
    assert capsys.readouterr().out == f"{table}\n"
    assert repr(table) == "Summary(5 layers, 36 parameters)"


def test_summary_lines_up(capsys):
    table = str(fn.summary(fn.Sequential(fn.Linear(784, 512), fn.ReLU()), (784,)))
    assert table == textwrap.dedent("""\
           layer                                                 output shape  parameters
        ---------------------------------------------------------------------------------
        0  Linear(in_features=784, out_features=512, bias=True)  (512,)           401,920
        1  ReLU()                                                (512,)                 0
        ---------------------------------------------------------------------------------
           total                                                                  401,920""")


def test_summary_of_a_lone_layer():
    assert [row.path for row in fn.summary(fn.Linear(2, 3), (2,)).rows] == ["0"]


def test_summary_computes_nothing():
    """A model that no memory holds."""
    table = fn.summary(fn.Linear(10**6, 10**6), (10**6,))
    assert table.parameters == 10**12 + 10**6


def test_rows_have_the_names_of_children(capsys):
    model = GPT(vocabulary=11, context=6, width=8, heads=2, depth=1)
    table = fn.summary(model, (3, 6), jnp.int32)
    assert [row.path for row in table.rows] == [
        *("wte", "wpe", "h.0.ln_1", "h.0.attn.c_attn", "h.0.attn.c_proj", "h.0.attn", "h.0.ln_2"),
        *("h.0.mlp.c_fc", "h.0.mlp.act", "h.0.mlp.c_proj", "h.0", "ln_f", ""),
    ]
    assert table.rows[-3].layer == "Block"
    params, _ = model.init(KEY)
    assert table.parameters == sum(leaf.size for leaf in jax.tree.leaves(params))
    assert "h.0.attn.c_attn  Linear(" in capsys.readouterr().out


def test_a_row_for_each_call_counts_shared_weights_once():
    table = fn.summary(Twice(fn.Linear(3, 3)), (5, 3))
    assert [(row.path, row.parameters) for row in table.rows] == [
        *(("shared", 12), ("shared", 0), ("first", 0), ("", 0))
    ]
    assert table.rows[1].layer == "Linear(in_features=3, out_features=3, bias=True), call 2"
    assert table.parameters == 12


def test_shapes_of_trees():
    label = jax.ShapeDtypeStruct((5,), jnp.int32)
    table = fn.summary(Towers(), {"pixels": (5, 3), "label": label})
    last = table.rows[-1]
    assert last.output_shape == {"product": (5, 4), "label": (5,)}
    assert last.parameters == 4  # its own
    assert table.parameters == 16 + 20 + 4


def test_shapes_of_further_inputs_and_options():
    rows = fn.summary(Recurrent(), (2, 1, 3), inputs=((2, 4),)).rows
    assert rows[-1].output_shape == ((2, 1, 4), (2, 4))
    assert len(rows) == 3
    rows = fn.summary(fn.Sequential(Scaled()), (1, 3), scale=jnp.ones((4, 1))).rows
    assert rows[0].output_shape == (4, 3)


@pytest.mark.parametrize(
    "shape", [None, 3, np.int64(4), (2.0, 3), {"a": (True,)}, ((5, 3), "5"), (-1,)]
)
def test_what_is_not_a_shape_is_refused(shape):
    with pytest.raises(ShapeError, match=r"input_shape is .*, expected a tuple of integers"):
        fn.summary(fn.Linear(3, 2), shape)
