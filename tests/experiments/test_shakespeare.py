"""The gpt experiment in small: its files, its samples, a run resumed, and PyTorch beside."""

import gzip
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import funcnet as fn
from experiments import __main__ as command
from experiments import generation, shakespeare, texts
from experiments.gpt import GPT
from funcnet.errors import ConfigError, DataError

KEY = jax.random.key(0)
TINY = [
    *("gpt", "--characters", "3000", "--layers", "1", "--heads", "2", "--width", "8"),
    *("--context", "12", "--batch-size", "32", "--epochs", "2"),
]
FILES = {"results.json", "params.safetensors", "samples", "loss.png", "attention.png"}


@pytest.fixture(scope="module", autouse=True)
def short_samples():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shakespeare, "SAMPLE", 30)
        yield


@pytest.fixture(scope="module")
def finished(tmp_path_factory, short_samples):
    out = tmp_path_factory.mktemp("gpt")
    assert command.main([*TINY, "--out", str(out)]) == 0
    return out


@pytest.mark.slow
def test_every_file_is_there_and_no_other(finished):
    assert {path.name for path in finished.iterdir()} == FILES
    for name in ("loss.png", "attention.png"):
        assert (finished / name).read_bytes().startswith(b"\x89PNG")
    samples = [(finished / "samples" / f"epoch-{n}.txt").read_text() for n in (1, 2)]
    assert [len(text) for text in samples] == [31, 31]


@pytest.mark.slow
def test_results_tell_what_was_learned(finished):
    content = json.loads((finished / "results.json").read_text())
    assert content["config"]["width"] == 8
    history = content["history"]
    assert len(history["loss"]) == len(content["seconds"]) == 2
    assert history["loss"][1] < history["loss"][0]
    assert set(content["alphabet"]) == set(texts.read()[:3000])


@pytest.mark.slow
def test_a_run_that_is_resumed_ends_with_the_same_files(finished, tmp_path, monkeypatch):
    pytest.importorskip("orbax.checkpoint", reason="needs the extra checkpoint")
    stop_after = shakespeare.generate

    def interrupted(*args, **options):
        monkeypatch.setattr(shakespeare, "generate", stop_after)
        raise KeyboardInterrupt

    saved = [*TINY, "--out", str(tmp_path), "--checkpoint-every", "1"]
    monkeypatch.setattr(shakespeare, "generate", interrupted)
    assert command.main(saved) == 130
    assert command.main([*saved, "--resume"]) == 0
    for name in ("params.safetensors", "samples/epoch-2.txt", "loss.png", "attention.png"):
        assert (tmp_path / name).read_bytes() == (finished / name).read_bytes(), name
    histories = [
        json.loads((f / "results.json").read_text())["history"] for f in (tmp_path, finished)
    ]
    assert histories[0] == histories[1]


@pytest.mark.slow
def test_a_run_is_sampled(finished, capsys):
    arguments = ["gpt", "sample", str(finished), "--prompt", "HAM", "--length", "40"]
    assert command.main(arguments) == 0
    first = capsys.readouterr().out
    assert first.startswith("HAM")
    assert len(first) == 3 + 40 + 1
    assert command.main(arguments) == 0
    assert capsys.readouterr().out == first
    assert command.main([*arguments, "--seed", "1"]) == 0
    assert capsys.readouterr().out != first


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["gpt", "sample", "{out}", "--prompt", "é"], "never seen"),
        (["gpt", "sample", "{out}", "--prompt", ""], "at least one character"),
        (["gpt", "sample", "{out}", "--top-p", "2"], "--top-p is 2.0, expected above 0"),
        (["gpt", "sample", "{out}/samples"], "the folder of a run"),
        (
            ["gpt", "--width", "10", "--heads", "4"],
            "--width is 10, expected a multiple of --heads 4",
        ),
        (["gpt", "--characters", "500"], "expected more than 640"),
        (["gpt", "--text", "{out}/loss.png"], "not a text in UTF-8"),
        (["gpt", "--text", "{out}/nothing"], "No such file"),
        (["gpt", "--compare-torch", "--dropout", "0.1"], "neither --dropout nor"),
    ],
)
def test_mistakes_are_told_before_anything_is_trained(finished, arguments, says, capsys, tmp_path):
    arguments = [argument.replace("{out}", str(finished)) for argument in arguments]
    if "sample" not in arguments:
        arguments += ["--out", str(tmp_path)]
    try:
        code = command.main(arguments)
    except SystemExit as stop:  # an option that has no meaning
        code = stop.code
    assert code in (1, 2)
    error = " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert says in error
    assert not [path for path in tmp_path.iterdir() if path.name != "samples"]


def test_the_plays_are_checked(tmp_path, monkeypatch):
    damaged = tmp_path / "plays.txt.gz"
    damaged.write_bytes(gzip.compress(b"to be"))
    monkeypatch.setattr(texts, "PLAYS", damaged)
    with pytest.raises(DataError, match="damaged, its sha256 is"):
        texts.read()


def test_an_alphabet_undoes_itself():
    text = texts.read(characters=500)
    alphabet = texts.Alphabet("".join(sorted(set(text))))
    assert alphabet.decode(alphabet.encode(text)) == text
    assert len(texts.read()) == 881_962


# Generation.

MODEL = GPT(7, 8, width=8, heads=2, layers=2)
PARAMS = jax.tree.map(lambda array: 8 * array, MODEL.init(KEY)[0])


@jax.jit
def logits(tokens):
    return MODEL.apply(PARAMS, MODEL.init(KEY)[1], tokens).value[0]


def logits_of(tokens):
    """Behind the last token; what stands behind it in the context is not seen."""
    context = jnp.asarray([[*tokens, *[0] * (MODEL.context - len(tokens))]])
    return np.asarray(logits(context)[len(tokens) - 1])


@pytest.mark.parametrize("length", [1, pytest.param(7, marks=pytest.mark.slow), 20])
def test_greedy_text_is_the_likeliest_step_by_step(length):
    prompt = [3, 1]
    found = generation.generate(MODEL, PARAMS, prompt, length, KEY, temperature=0)
    tokens = list(prompt)
    for _ in range(length):
        seen = tokens[: MODEL.context]
        if len(tokens) >= MODEL.context:  # half of the context stays whenever it is full
            full = MODEL.context + 1
            half = MODEL.context // 2
            beyond = (len(tokens) - full) // (half + 1)
            begin = full - half + beyond * (half + 1) if len(tokens) >= full else 0
            seen = tokens[begin:]
        tokens.append(int(logits_of(seen).argmax()))
    np.testing.assert_array_equal(found, tokens[2:])


def test_a_key_gives_the_same_text_however_long():
    params, _ = MODEL.init(KEY)  # near to uniform
    short = generation.generate(MODEL, params, [3], 5, KEY)
    long = generation.generate(MODEL, params, [3], 30, KEY)
    np.testing.assert_array_equal(long[:5], short)
    other = generation.generate(MODEL, params, [3], 30, jax.random.key(1))
    assert not np.array_equal(other, long)
    assert set(long) == set(range(7))


LOGITS = np.log(np.array([0.1, 0.4, 0.2, 0.3], np.float32))


@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p", "kept"),
    [
        (1.0, None, 1.0, {0, 1, 2, 3}),
        (1.0, 2, 1.0, {1, 3}),
        (1.0, 9, 1.0, {0, 1, 2, 3}),
        (1.0, None, 0.65, {1, 3}),
        (1.0, None, 0.75, {1, 2, 3}),
        (1.0, None, 1e-6, {1}),
        (1.0, 3, 0.5, {1, 3}),
        (0.0, None, 1.0, {1}),
        # Of a distribution as flat as this one, four of four make 0.8.
        (100.0, None, 0.8, {0, 1, 2, 3}),
    ],
)
def test_what_is_drawn_from(temperature, top_k, top_p, kept):
    found = np.asarray(generation.filtered(LOGITS, temperature, top_k, top_p))
    assert set(np.flatnonzero(np.isfinite(found))) == kept
    scale = temperature or 1.0
    np.testing.assert_allclose(found[list(kept)], LOGITS[list(kept)] / scale, rtol=1e-6)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"temperature": -1.0}, "--temperature is -1.0"),
        ({"top_k": 0}, "--top-k is 0"),
        ({"top_p": 0.0}, "--top-p is 0.0"),
    ],
)
def test_drawing_that_has_no_meaning_is_refused(options, says):
    with pytest.raises(ConfigError, match=says):
        generation.generate(MODEL, PARAMS, [1], 3, KEY, **options)


# Attention's picture.


@pytest.mark.slow
def test_maps_are_the_weights_of_each_head():
    tokens = np.array([1, 3, 2, 5, 0], np.int32)
    maps = shakespeare.attention_maps(MODEL, PARAMS, tokens)
    assert maps.shape == (2, 2, 5, 5)
    np.testing.assert_allclose(maps.sum(-1), 1, rtol=1e-5)
    assert not np.triu(maps, 1).any()
    assert maps.std(axis=-1).max() > 0.05
    # What the first block's attention makes of them is what it makes.
    state = MODEL.init(KEY)[1]
    rows = fn.backward(
        MODEL, PARAMS, state, shakespeare.LOSS, jnp.asarray(tokens[None]), jnp.asarray(tokens[None])
    ).layers
    seen = {row.path: row for row in rows}
    v = seen["h.0.attn.c_attn"].output[0].reshape(5, 3, 2, 4)[:, 2]
    heads = np.einsum("hij,jhd->ihd", maps[0], v).reshape(5, 8)
    np.testing.assert_allclose(heads, seen["h.0.attn.c_proj"].input[0], rtol=1e-4, atol=1e-6)


@pytest.mark.slow
@pytest.mark.torch
def test_pytorch_trains_the_same_from_the_same_start(tmp_path, capsys):
    assert command.main([*TINY, "--compare-torch", "--out", str(tmp_path)]) == 0
    content = json.loads((tmp_path / "results.json").read_text())
    np.testing.assert_allclose(content["torch"]["loss"], content["history"]["loss"], rtol=1e-4)
    assert max(content["torch"]["apart"]) < 1e-3
    assert "times as long as funcnet's" in capsys.readouterr().out
