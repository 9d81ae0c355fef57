"""What a notebook shows: a short table for each result, and a summary once."""

import sys
from html.parser import HTMLParser
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import funcnet as fn

KEY = jax.random.key(0)
X = jax.random.normal(KEY, (40, 2))
Y = (X[:, 0] > 0).astype(int)
MODEL = fn.Sequential(fn.Linear(2, 3), jnp.tanh, fn.Residual(fn.Linear(3, 3)), fn.Linear(3, 2))


class Reader(HTMLParser):
    """Tags closed in their order, and the text of each cell, row by row."""

    def __init__(self, text):
        super().__init__()
        self.opened, self.rows = [], []
        self.feed(text)
        assert not self.opened

    def handle_starttag(self, tag, attrs):
        self.opened.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        assert self.opened.pop() == tag

    def handle_data(self, data):
        if self.opened and self.opened[-1] in ("td", "th"):
            self.rows[-1][-1] += data


def shown(value, most=4000):
    text = value._repr_html_()
    assert len(text) < most
    assert "<script" not in text
    return Reader(text).rows, text


def fitted(**options):
    options = {"epochs": 3, "key": KEY, "progress": False, **options}
    return fn.fit(MODEL, fn.CrossEntropyLoss(), optax.sgd(0.1), (X, Y), **options)


def test_a_result():
    result = fitted(validation=(X, Y))
    rows, text = shown(result)
    loss = result.history["loss"]
    assert rows[0] == ["history", "first epoch", "last epoch"]
    assert rows[1] == ["loss", f"{loss[0]:.4g}", f"{loss[-1]:.4g}"]
    assert rows[2][0] == "validation_loss"
    assert f"3 epochs in {result.seconds:.1f} s, accuracy {result.accuracy:.4g}" in text
    assert "best epoch 2" in text
    assert "diverged" not in text
    assert repr(result) == (
        f"FitResult(epochs=3, loss={loss[-1]:.4g}, "
        f"validation_loss={result.history['validation_loss'][-1]:.4g}, "
        f"accuracy={result.accuracy:.4g})"
    )


def test_a_result_of_no_epochs():
    result = fitted(epochs=0)
    rows, text = shown(result)
    assert len(rows) == 1
    assert "0 epochs" in text
    assert repr(result).startswith("FitResult(epochs=0, ")


def test_a_backward_pass():
    model = fn.Sequential(fn.Linear(2, 2), jnp.tanh)
    found = fn.backward(model, *model.init(KEY), fn.MSELoss(), X, X)
    rows, text = shown(found)
    assert rows[0] == ["layer", "shape of Y", "Y", "dY", "dX", "d params"]
    assert [row[0] for row in rows[1:]] == [trace.title for trace in found.layers]
    last = found.layers[-1]
    assert rows[-1][1:4] == [
        "(40, 2)",
        *(f"{np.sqrt(np.mean(np.square(a, dtype=np.float64))):.3g}" for a in (
            np.asarray(last.output), np.asarray(last.d_output)))
    ]  # fmt: skip
    assert rows[2][-1] == ""  # a layer without parameters
    assert f"loss = {float(found.loss):.6g}" in text


def test_a_report():
    report = fn.testing.check_vjp(fn.ops.relu, (X,), fast=True)
    rows, text = shown(report)
    assert [row[0] for row in rows[1:]] == [check.name for check in report.checks]
    assert "check_vjp: relu passed" in text
    assert repr(report) == f"Report(relu passed, {len(report.checks)} checks)"


def test_a_report_of_a_wrong_rule():
    wrong = jax.custom_vjp(lambda x: x * x)
    wrong.defvjp(lambda x: (x * x, x), lambda x, g: (g * x,))
    with pytest.raises(fn.testing.RuleError) as caught:
        fn.testing.check_vjp(wrong, (X,), fast=True)
    report = caught.value.report
    _, text = shown(report, 8000)
    assert "FAILED at &#x27;formula&#x27;" in text
    assert "&lt;lambda&gt;" in text
    assert "<pre>formula failed:" in text
    assert repr(report).startswith("Report(<lambda> FAILED at 'formula', ")


def test_a_page_marks_the_wrong_elements():
    wrong = jax.custom_vjp(lambda x, y: 3 * x * y)
    wrong.defvjp(
        lambda x, y: (3 * x * y, (x, y)),
        lambda r, g: ((3 * g * r[1]).at[1, 0].multiply(2), 3 * g * r[0]),
    )
    x = jnp.asarray([[0.5, -1.25], [2.0, 0.75], [1.5, -0.5]])
    with pytest.raises(fn.testing.RuleError) as caught:
        fn.testing.check_vjp(wrong, (x, x + 1), fast=True)
    page = caught.value.report.to_html()
    assert page.startswith("<!doctype html>")
    assert "x, for a dense random cotangent: 1 of 6 elements are wrong" in page
    rows = [row for row in Reader(page).rows if len(row) == 2 and "." in row[0]]
    assert len(rows) == 3
    assert page.count("<td class='wrong'>") == 1
    (picture,) = caught.value.report.pictures
    got, expected = picture.got[1, 0], picture.expected[1, 0]
    assert f"<td class='wrong'>{got:.4g}<br/><small>{expected:.4g}</small>" in page


def test_a_summary(capsys):
    table = fn.summary(MODEL, (2,))
    assert capsys.readouterr().out == f"{table}\n"
    rows, text = shown(table)
    assert rows[1] == ["0 Linear(in_features=2, out_features=3, bias=True)", "(3,)", "9"]
    assert "29 parameters" in text


@pytest.mark.parametrize("kernel", [True, False], ids=["notebook", "terminal"])
def test_a_summary_is_seen_once(kernel, capsys, monkeypatch):
    """A notebook shows what the cell returns; a terminal's IPython shows a repr of one line."""
    shell = SimpleNamespace(kernel=None) if kernel else SimpleNamespace()
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    table = fn.summary(MODEL, (2,))
    assert capsys.readouterr().out == ("" if kernel else f"{table}\n")
