"""The benchmark refuses who computes something else, reckons right, and writes what it says.

Nothing here depends on how long anything takes.
"""

import dataclasses
import functools
import json
import re

import jax
import numpy as np
import pytest

pytest.importorskip("matplotlib", reason="needs the extra plots")
import funcnet as fn
from experiments import bench
from experiments.__main__ import main as command_line
from experiments.bench import (
    backward,
    checker,
    measure,
    peers,
    report,
    sequences,
    startup,
    training,
)
from experiments.bench.measure import DifferentError
from experiments.bench.peers import PEERS
from experiments.bench.peers.plain_jax import make as make_loop
from experiments.bench.workloads import (
    DISK,
    MNIST,
    TINY_DISK,
    TINY_MNIST,
    Network,
    every_workload,
)
from experiments.results import ResultsError
from funcnet.errors import ConfigError

KEY = jax.random.key(0)


@functools.cache
def reference(network: Network) -> training.Reference:
    return training.Reference(network, training.first_batches(network, network.data()), KEY)


# Who computes the same


# PyTorch's own, when its compiler is first imported.
SCRIPT_METHOD = pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is:DeprecationWarning")


@pytest.mark.parametrize(
    "network",
    [
        pytest.param(TINY_DISK, id="disk"),
        pytest.param(TINY_MNIST, id="mnist", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize(
    "name",
    [
        "optax",
        pytest.param("scan", marks=pytest.mark.slow),
        pytest.param("torch", marks=[pytest.mark.torch, pytest.mark.slow]),
        pytest.param("torch-compile", marks=[pytest.mark.torch, pytest.mark.slow, SCRIPT_METHOD]),
        pytest.param("flax", marks=[pytest.mark.bench, pytest.mark.slow]),
        pytest.param("flax-cached", marks=[pytest.mark.bench, pytest.mark.slow]),
        pytest.param("equinox", marks=[pytest.mark.bench, pytest.mark.slow]),
    ],
)
def test_every_peer_computes_what_funcnet_does(name, network):
    expected = reference(network)
    learner = PEERS[name].make(network, expected.data, "cpu")
    expected.require_same(name, learner)
    # From its start anew, not from where the check left it; and shuffled by itself.
    expected.require_same(name, learner)
    assert learner.train(2).shape == (2,)


class WrongLoss:
    """A peer that is right except for what it reports."""

    def __init__(self, learner, network):
        self.learner = learner
        self.set_parameters, self.parameters = learner.set_parameters, learner.parameters

    def train(self, epochs, orders=None):
        return self.learner.train(epochs, orders) * 1.001


class NeverTrained(WrongLoss):
    """A peer that reports what it should and learns nothing."""

    def train(self, epochs, orders=None):
        before = self.parameters()
        losses = self.learner.train(epochs, orders)
        self.set_parameters(before)
        return losses


class OwnOrder(WrongLoss):
    """A peer that does not visit the examples in the order given."""

    def train(self, epochs, orders=None):
        return self.learner.train(epochs)


class NotANumber(WrongLoss):
    """A peer that diverged."""

    def train(self, epochs, orders=None):
        return self.learner.train(epochs, orders) * np.nan


@pytest.mark.parametrize(
    ("wrong", "what"),
    [
        (WrongLoss, "loss"),
        (NeverTrained, "weight of layer 0"),
        (OwnOrder, "loss"),
        (NotANumber, "loss"),
    ],
)
def test_a_peer_that_is_wrong_is_an_error(wrong, what):
    expected = reference(TINY_DISK)
    peer = wrong(make_loop(TINY_DISK, expected.data, "cpu"), TINY_DISK)
    with pytest.raises(DifferentError, match=f"Wrong: .* steps from the same start its {what}"):
        expected.require_same("Wrong", peer)


def test_another_step_size_is_an_error():
    expected = reference(TINY_DISK)
    faster = dataclasses.replace(TINY_DISK, learning_rate=1.05 * TINY_DISK.learning_rate)
    with pytest.raises(DifferentError):
        expected.require_same("faster", make_loop(faster, expected.data, "cpu"))


@pytest.mark.slow
def test_seeds_trained_together_must_be_single_runs(monkeypatch):
    keys = jax.random.split(KEY, 2)
    data = training.first_batches(TINY_DISK, TINY_DISK.data())
    training.require_same_seeds("together", TINY_DISK, data, keys, False)
    original = training.Seeds.train
    monkeypatch.setattr(
        training.Seeds, "train", lambda self, epochs: np.nextafter(original(self, epochs), 9)
    )
    training.require_same_seeds("together", TINY_DISK, data, keys, True)
    with pytest.raises(DifferentError, match="seed 0 has other bits"):
        training.require_same_seeds("together", TINY_DISK, data, keys, False)


@pytest.mark.slow
def test_a_peer_that_is_missing_is_left_out_with_its_command(monkeypatch):
    def missing(name):
        raise ModuleNotFoundError("No module named 'equinox'", name="equinox")

    monkeypatch.setattr(peers.importlib, "import_module", missing)
    workload = every_workload(tiny=True, gpu=False)["disk-1"]
    data = TINY_DISK.data()
    found, left_out = training.peer_entrants(workload, data, ["equinox"], KEY, "cpu")
    assert found == {}
    assert left_out == ["equinox: equinox is missing, pip install 'funcnet[bench]'"]


# What is counted


def test_operations_of_a_step():
    # Forward 784 x 512 + 2 x 512 x 512 + 512 x 10, twice that backward but for the input's part.
    products = 784 * 512 + 2 * 512 * 512 + 512 * 10
    assert MNIST.flops == 2 * 100 * (3 * products - 784 * 512)
    assert DISK.flops == 800_000


@pytest.mark.slow
def test_bytes_kept_are_those_beside_what_is_there():
    case = next(c for c in backward.cases(TINY_MNIST) if c.title.startswith("relu"))
    assert backward.residual_bytes(case.op, case.arguments) == 0
    assert backward.residual_bytes(jax.numpy.sin, case.arguments) == case.arguments[0].nbytes
    disk, mnist = backward.networks_bytes([TINY_DISK, TINY_MNIST])
    # Each hidden layer's output and the logits' softmax; and the mean's divisor for the whole
    # batch; float32.
    batch = TINY_DISK.batch_size
    assert disk["bytes"]["rule"] == pytest.approx(4 * (2 * 25 + 2 + 1 / batch))
    assert mnist["bytes"]["rule"] == pytest.approx(4 * (16 + 10 + 1 / batch))
    assert mnist["bytes"]["autodiff"] > mnist["bytes"]["rule"]


def test_interleave_reverses_every_other_round():
    seen = []
    candidates = {
        name: measure.Candidate(name, lambda name=name: seen.append(name), 2.0) for name in "abc"
    }
    seconds = measure.interleave(candidates, 3, "test")
    assert "".join(seen) == "abccbaabc"
    assert {name: len(values) for name, values in seconds.items()} == {"a": 3, "b": 3, "c": 3}


# Arithmetic of the report, on made-up numbers


def entrant(peer, seconds):
    return {"title": f"title of {peer}", "peer": peer, "seconds": seconds}


WORKLOAD = {
    "title": "D: 2-25-25-25-2, batch 100, 1 seed",
    "seeds": 1,
    "flops": 800_000,
    "product": [2.5e-12, 2.5e-12, 2.5e-12],
    "entrants": {
        "funcnet": entrant("funcnet", [10e-6, 20e-6, 10e-6]),
        "torch-1": entrant("torch", [300e-6, 300e-6, 300e-6]),
        "torch-2": entrant("torch", [120e-6, 200e-6, 110e-6]),
        "optax": entrant("optax", [21e-6, 40e-6, 22e-6]),
    },
    "left_out": ["equinox: equinox is missing, pip install 'funcnet[bench]'"],
}
BENCH = {
    "command": "python -m experiments bench --workloads disk-1",
    "config": {"rounds": 3, "gpu": False},
    "versions": {"cpu": "a processor", "cores": 2, "device": "cpu", "jax": "0.10.2"},
    "one_core": [5e-12, 5e-12, 5e-12],
    "workloads": {"disk-1": WORKLOAD},
    "cold": {
        "steps": 20_000,
        "programs": {
            "funcnet": {"first": [0.5, 0.6, 0.5], "second": [0.3, 0.3, 0.3]},
            "scan": {"first": [1.0, 1.0, 1.0], "second": [0.6, 0.5, 0.6]},
        },
    },
    "memory": {
        "funcnet": {"title": "funcnet", "bytes": [2**28]},
        "torch": {"title": "PyTorch eager", "bytes": [2**29]},
    },
}


def test_medians_and_quartiles():
    assert report.spread([3.0, 1.0, 2.0, 5.0, 4.0]) == (3.0, 2.0, 4.0)
    assert report.spread([7.0]) == (7.0, 7.0, 7.0)
    assert report.spread([1.0, 2.0, 4.0]).text() == "2.0 (1.5 to 3.0)"
    assert report.spread([1234.5, 1234.5]).text() == "1,234 (1,234 to 1,234)"
    assert report.spread([0.0123]).text(2, 100, " %") == "1.2 % (1.2 to 1.2)"


def test_ratios_are_taken_within_a_round():
    # The second round was disturbed: both took twice as long, and the ratio does not show it.
    assert report.ratio([20.0, 40.0, 20.0], [10.0, 20.0, 10.0]) == (2.0, 2.0, 2.0)
    with pytest.raises(ValueError, match="zip"):
        report.ratio([1.0, 2.0], [1.0])


def test_the_best_thread_count_counts():
    assert report.best(WORKLOAD, "torch") == [120e-6, 200e-6, 110e-6]
    assert report.best(WORKLOAD, "flax") is None


def test_limits():
    # 800,000 operations in 10 µs are 80 GFLOP/s, of 400 on all cores; one core's floor is 4 µs.
    assert report.share_of_limit(WORKLOAD).median == pytest.approx(0.2)
    assert report.floors(WORKLOAD, BENCH["one_core"]).median == pytest.approx(2.5)


def test_the_page_says_what_was_reached_and_what_was_not():
    page = report.page(BENCH, "benchmark.png")
    lines = {
        tuple(cell.strip() for cell in line.strip("|\n").split("|"))
        for line in page.splitlines()
        if line.startswith("| D, 1 seed") or line.startswith("| D, cold")
    }
    assert lines == {
        (
            "D, 1 seed",
            "times as fast as PyTorch eager",
            "at least 11",
            "11 (10 to 12)",
            "reached",
        ),
        (
            "D, 1 seed",
            "times as fast as the donated jax.grad + optax step",
            "at least 2.2",
            "2.1 (2.0 to 2.1)",
            "**missed**",
        ),
        (
            "D, 1 seed",
            "times the arithmetic floor of one core",
            "at most 5",
            "2.5 (2.5 to 3.8)",
            "reached",
        ),
        (
            "D, cold first call",
            "share of the obvious scan's time",
            "under 0.7",
            "0.50 (0.50 to 0.55)",
            "reached",
        ),
    }
    assert page.count("not measured") == 10
    assert "`python -m experiments bench --workloads disk-1`" in page
    assert "400 GFLOP/s on all cores, 200 on one" in page
    assert "equinox is missing, pip install 'funcnet[bench]'" in page
    assert "| PyTorch eager | 512 (512 to 512) | 2.0 (2.0 to 2.0) |" in page


QUIET = {**WORKLOAD, "entrants": {"funcnet": entrant("funcnet", [10e-6, 11e-6, 10e-6])}}
DISTURBED = {**QUIET, "product": [2.5e-12, 5e-12, 2.5e-12]}


@pytest.mark.parametrize(
    ("changes", "reasons"),
    [
        ({"workloads": {"a": QUIET}}, []),
        ({"workloads": {"a": QUIET}, "load": 0.9}, []),
        ({"workloads": {"a": QUIET}, "load": None}, []),
        ({"workloads": {"a": QUIET}, "load": 3.1}, ["the load was 3.1 on 2 cores"]),
        ({"workloads": {"a": DISTURBED}}, ["between rounds, a large product differs by 50 %"]),
        ({}, ["between rounds, title of funcnet differs by 50 %"]),
        ({"config": {"tiny": True, "rounds": 3}, "load": 9.0}, []),
    ],
)
def test_a_busy_machine_is_told(changes, reasons):
    page = report.page({**BENCH, **changes}, "benchmark.png")
    assert ("not to be trusted" in page) == bool(reasons)
    found = report.disturbances({**BENCH, **changes})
    assert len(found) == len(reasons)
    for reason, text in zip(reasons, found, strict=True):
        assert reason in text
        assert f"- {text}\n" in page


def test_a_busy_machine_is_told_before_anything_is_measured(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(bench, "load", lambda: 100.0 * versions_cores())
    monkeypatch.setattr(bench, "add_part", lambda name, config, found: None)
    bench.main(bench.Config(workloads=("memory",), out=tmp_path))
    assert "will not be trustworthy" in capsys.readouterr().err
    assert "not to be trusted" in (tmp_path / "benchmark.md").read_text()
    assert json.loads((tmp_path / "bench.json").read_text())["load"] > 0


def versions_cores() -> int:
    return int(bench.versions()["cores"])


def test_no_rounds_are_refused():
    with pytest.raises(ConfigError, match="--rounds is 0, expected at least 1"):
        bench.Config(rounds=0)


def test_the_figure_shows_each_peer_once():
    (panel,) = report.panels(BENCH).values()
    assert list(panel) == ["funcnet", "PyTorch eager", "jax.grad + optax, donated step"]
    assert panel["funcnet"] == (1.0, 1.0, 1.0)


# The command


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """A run of everything that takes no process of its own, and of one peer."""
    out = tmp_path_factory.mktemp("bench")
    parts = ["disk-1", "disk-3", "backward"]
    options = ["--tiny", "--rounds", "2", "--peers", "optax", "scan", "--out", str(out)]
    assert command_line(["bench", "--workloads", *parts, *options]) == 0
    return out


@pytest.mark.slow
def test_a_run_writes_numbers_page_and_figure(measured):
    found = json.loads((measured / "bench.json").read_text())
    assert list(found["workloads"]) == ["disk-1", "disk-3"]
    for workload in found["workloads"].values():
        samples = [workload["product"], *(e["seconds"] for e in workload["entrants"].values())]
        assert all(len(seconds) == 2 and min(seconds) > 0 for seconds in samples)
    assert set(found["workloads"]["disk-3"]["entrants"]) == {
        *("funcnet", "funcnet-vectorized", "optax", "scan")
    }
    timed = {re.split(r"\W", case["title"])[0] for case in found["backward"]}
    assert timed == set(fn.ops.__all__) - {"concatenate"}  # which does no arithmetic
    assert (measured / "benchmark.png").read_bytes().startswith(b"\x89PNG")
    page = (measured / "benchmark.md").read_text()
    assert "--workloads disk-1 disk-3 backward" in page
    assert "## tiny D: 2-25-25-2, batch 50, 3 seeds" in page


@pytest.mark.slow
def test_the_page_can_be_made_again(measured, tmp_path):
    options = ["--render", str(measured / "bench.json"), "--out", str(tmp_path)]
    assert command_line(["bench", *options]) == 0
    for name in ("benchmark.md", "benchmark.png"):
        assert (tmp_path / name).read_bytes() == (measured / name).read_bytes()
    assert not (tmp_path / "bench.json").exists()


@pytest.mark.slow
def test_what_was_measured_survives_a_failure(monkeypatch, tmp_path):
    def fail(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(bench.training, "measure", lambda *arguments: WORKLOAD)
    monkeypatch.setattr(bench.backward, "measure", fail)
    config = bench.Config(
        workloads=("disk-1", "backward"), peers=(), rounds=1, tiny=True, out=tmp_path
    )
    with pytest.raises(KeyboardInterrupt):
        bench.main(config)
    assert list(bench.read(tmp_path / "bench.json")["workloads"]) == ["disk-1"]


@pytest.mark.slow
def test_processes_of_their_own():
    cold = startup.cold_calls(1, tiny=True)
    assert cold["steps"] == 20 * TINY_DISK.steps
    for calls in cold["programs"].values():
        assert calls["first"][0] > calls["second"][0] > 0
    memory = startup.peak_memory(["optax"], 1, tiny=True)
    assert list(memory) == ["nothing", "funcnet", "optax"]
    assert memory["optax"]["bytes"][0] > memory["nothing"]["bytes"][0] > 2**20


@pytest.mark.slow
def test_how_long_a_rule_takes_to_check():
    found = checker.measure(tiny=True)
    assert [{*rule} for rule in found] == [{"title", "full", "fast", "check_grads"}] * 2
    page = report.page({**BENCH, "checker": found}, "benchmark.png")
    assert f"| {found[0]['title']} |" in page


@pytest.mark.slow
@pytest.mark.torch
def test_sequences_beside_pytorch():
    found = sequences.measure(2, tiny=True)
    assert [len(case["seconds"]["ours"]) for case in found] == [2] * 4
    assert [len(case["wall"]["torch"]) for case in found] == [2] * 4
    peaks = found[-1]["peaks"]
    assert peaks.keys() == {"ours", "obvious", "torch", "torch.compile"}
    assert min(peaks.values()) > 100 * 2**20
    page = report.page({**BENCH, "sequences": found}, "benchmark.png")
    assert "| gru (2, 5, 3) to 4 |" in page


def test_what_computes_something_else_is_not_timed():
    sequences._require_same("a", "b", [1.0, np.ones(3)], [1.0, np.ones(3)])
    with pytest.raises(measure.DifferentError, match="a: b computes something else"):
        sequences._require_same("a", "b", [np.ones(3)], [np.array([1, 1, 1.1])])
    with pytest.raises(measure.DifferentError):
        sequences._require_same("a", "b", [np.array([np.nan])], [np.array([1.0])])


@pytest.mark.skipif(jax.default_backend() == "gpu", reason="there is a GPU")
def test_without_a_gpu_nothing_is_measured(tmp_path, capsys):
    assert command_line(["bench", "--gpu", "--out", str(tmp_path)]) == 0
    assert "JAX finds no GPU, so nothing was measured" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_gpu_command_runs_tiny_on_a_cpu(tmp_path):
    config = bench.Config(
        workloads=("disk-1",), peers=("optax",), rounds=1, tiny=True, gpu=True, out=tmp_path
    )
    bench.main(config)
    assert bench.read(tmp_path / "bench.json")["config"]["gpu"] is True
    assert list(every_workload(tiny=False, gpu=True)) == [
        f"{network}-{seeds}" for network in ("disk", "mnist") for seeds in (1, 10, 100, 1000)
    ]


@pytest.mark.torch
def test_a_cuda_graph_is_left_out_on_a_cpu():
    workload = every_workload(tiny=True, gpu=False)["disk-1"]
    data = TINY_DISK.data()
    found, left_out = training.peer_entrants(workload, data, ["torch-graph"], KEY, "cpu")
    assert found == {}
    assert left_out == ["PyTorch, CUDA graph of a step: CUDA graphs need a GPU"]


def test_unknown_workloads_are_named():
    with pytest.raises(ConfigError, match="--workloads: 'digits' is none of disk-1, disk-10"):
        bench.Config(workloads=("digits",))


@pytest.mark.parametrize("content", ["", "[]", '{"workloads": {}}', '{"workloads": 3}'])
def test_a_damaged_file_is_one_sentence(content, tmp_path, capsys):
    path = tmp_path / "bench.json"
    path.write_text(content)
    with pytest.raises(ResultsError, match=r"bench.json: damaged, or not written by"):
        bench.read(path)
    with pytest.raises(ResultsError, match=r"cannot be read \(No such file"):
        bench.read(tmp_path / "gone.json")
