"""From bench.json to the page and the numbers in it: medians, ratios, and their spread.

Ratios are taken within a round, where both were measured under the same conditions, and then summed
up: the median, and in parentheses the quartiles.
"""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from experiments.bench.peers import PEERS

Bench = Mapping[str, Any]
Samples = Sequence[float]


class Spread(NamedTuple):
    """The median of some numbers, and their quartiles."""

    median: float
    low: float
    high: float

    def text(self, digits: int = 2, scale: float = 1.0, unit: str = "") -> str:
        """Return it as "2.10 (2.05 to 2.20)" with so many significant digits, at least."""
        median, low, high = (_number(scale * value, digits) for value in self)
        return f"{median}{unit} ({low} to {high})"


def spread(values: Samples) -> Spread:
    """Return the median and the quartiles; of a single number, that number thrice."""
    if len(values) == 1:
        return Spread(values[0], values[0], values[0])
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return Spread(median, low, high)


def ratio(numerator: Samples, denominator: Samples) -> Spread:
    """Return how many times as large one is as the other, round by round."""
    return spread([n / d for n, d in zip(numerator, denominator, strict=True)])


BUSY_LOAD = 0.5
"""Processes that wanted to run before the benchmark did, for each core: more disturb it."""
WIDE_SPREAD = 0.2
"""From quartile to quartile, as a share of the median: the same work differs by less when alone."""


def disturbances(bench: Bench) -> list[str]:
    """Return why the timings are not to be trusted, a sentence each; nothing on a quiet machine.

    What a --tiny run times is too short to tell.
    """
    if bench["config"].get("tiny"):
        return []
    found = []
    load, cores = bench.get("load"), bench["versions"]["cores"]
    if load is not None and load > BUSY_LOAD * cores:
        found.append(f"the load was {load:.1f} on {cores} cores before anything was measured")
    for workload in bench["workloads"].values():
        same = {"a large product": workload["product"]} | {
            entrant["title"]: entrant["seconds"]
            for entrant in workload["entrants"].values()
            if entrant["peer"].startswith("funcnet")
        }
        for title, seconds in same.items():
            median, low, high = spread(seconds)
            if (share := (high - low) / median) > WIDE_SPREAD:
                found.append(
                    f"{workload['title']}: between rounds, {title} differs by {100 * share:.0f} % "
                    f"(its quartiles)"
                )
    return found


def best(workload: Mapping[str, Any], peer: str) -> Samples | None:
    """Return the seconds of a peer's form with the smallest median; None if it was left out."""
    forms = [e["seconds"] for e in workload["entrants"].values() if e["peer"] == peer]
    return min(forms, key=statistics.median, default=None)


def share_of_limit(workload: Mapping[str, Any], name: str = "funcnet") -> Spread:
    """Return the rate of a workload's products as a share of a large product's on all cores."""
    operations = [s / workload["flops"] for s in workload["entrants"][name]["seconds"]]
    return ratio(workload["product"], operations)


def floors(workload: Mapping[str, Any], one_core: Samples) -> Spread:
    """Return how many times the arithmetic floor of one core a step takes.

    The floor is the products' operations at the rate of a large product on one core, since the
    steps of a single small network cannot be divided among cores.
    """
    floor = workload["flops"] * statistics.median(one_core)
    return spread([s / floor for s in workload["entrants"]["funcnet"]["seconds"]])


class Target(NamedTuple):
    """What a figure must reach."""

    workload: str
    entrant: str
    against: str
    """The name of a peer, "floor" or "limit"."""
    value: float
    at_most: bool = False


TARGETS = (
    Target("disk-1", "funcnet", "torch", 11),
    Target("disk-1", "funcnet", "optax", 2.2),
    Target("disk-1", "funcnet", "floor", 5, at_most=True),
    Target("disk-10", "funcnet", "torch", 20),
    Target("disk-10", "funcnet", "optax", 4),
    Target("disk-10", "funcnet-vectorized", "torch", 28),
    Target("disk-10", "funcnet-vectorized", "optax", 6),
    Target("mnist-1", "funcnet", "torch", 2.2),
    Target("mnist-1", "funcnet", "optax", 1.1),
    Target("mnist-1", "funcnet", "limit", 0.75),
    Target("mnist-10", "funcnet", "torch", 2.4),
    Target("mnist-10", "funcnet", "optax", 1.2),
    Target("mnist-10", "funcnet", "limit", 0.9),
)
COLD_TARGET = 0.7

FAMILIES = {"funcnet": "funcnet", "funcnet-vectorized": "funcnet, vectorized"}
FAMILIES |= {name: peer.title for name, peer in PEERS.items()}
"""How the figure names everybody, in its order: PyTorch's thread counts are one."""

_AGAINST = {
    "torch": "times as fast as PyTorch eager",
    "optax": "times as fast as the donated jax.grad + optax step",
    "floor": "times the arithmetic floor of one core",
    "limit": "share of a large product's rate",
}


def page(bench: Bench, figure: str) -> str:
    """Return the whole page in Markdown.

    Args:
        bench: the content of bench.json.
        figure: the path of the picture, from the page.
    """
    sections = [
        _opening(bench),
        f"![Time of the peers relative to funcnet]({figure})\n" if bench["workloads"] else "",
        _targets(bench),
        *(_workload(w) for w in bench["workloads"].values()),
        _backward(bench.get("backward", [])),
        _networks(bench.get("networks", [])),
        _cold(bench.get("cold")),
        _memory(bench.get("memory")),
        _checker(bench.get("checker", [])),
        _sequences(bench.get("sequences", [])),
        _left_out(bench),
    ]
    return "\n".join(section for section in sections if section)


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table: the first column to the left, the others to the right."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def panels(bench: Bench) -> dict[str, dict[str, Spread]]:
    """Return what the figure shows: for each workload, each peer's time relative to funcnet's."""
    found = {}
    for workload in bench["workloads"].values():
        ours = workload["entrants"]["funcnet"]["seconds"]
        relative = {
            label: ratio(seconds, ours)
            for peer, label in FAMILIES.items()
            if (seconds := best(workload, peer))
        }
        found[workload["title"]] = relative
    return found


def _opening(bench: Bench) -> str:
    versions = bench["versions"]
    software = ", ".join(
        f"{name} {versions[name]}"
        for name in ("python", "funcnet", "jax", "jaxlib", "optax", "torch", "flax", "equinox")
        if name in versions
    )
    limit = ""
    if products := [s for w in bench["workloads"].values() for s in w["product"]]:
        rates = f"{1e-9 / statistics.median(products):.0f} GFLOP/s on all cores"
        if one_core := bench.get("one_core"):
            rates += f", {1e-9 / statistics.median(one_core):.0f} on one"
        limit = f"\n\nThe limit, a product of two 2,048 x 2,048 matrices: {rates}."
    busy = "".join(f"- {reason}\n" for reason in disturbances(bench))
    if busy:
        busy = (
            "\n**These timings are not to be trusted**: the machine was busy with something else. "
            f"Stop it and measure again.\n\n{busy}"
        )
    where = versions["device"] if bench["config"].get("gpu") else versions["cpu"]
    return f"""# Benchmark

Measured by `{bench["command"]}` on {where}, {versions["cores"]} cores: {software}.

Every workload is timed in rounds, each candidate once a round, {bench["config"]["rounds"]} rounds.
Ratios are taken within a round; given are their median and, in parentheses, their quartiles. Before
it is timed, every candidate has trained from funcnet's start, in funcnet's order of the examples,
and arrived at the same losses and the same parameters.{limit}
{busy}"""


def _targets(bench: Bench) -> str:
    rows = []
    for target in TARGETS:
        workload = bench["workloads"].get(target.workload)
        found = None if workload is None else _reached(target, workload, bench)
        goal = f"{'at most' if target.at_most else 'at least'} {_goal(target)}"
        title = (
            target.workload.replace("-", ", seeds ")
            if workload is None
            else _short(workload, target.entrant)
        )
        rows.append([title, _AGAINST[target.against], goal, *_verdict(found, target)])
    if cold := bench.get("cold"):
        rows.append(_cold_target(ratio(*_first_calls(cold))))
    heading = ["", "what", "target", "measured", ""]
    return f"## Against the targets\n\n{table(heading, rows)}"


def _reached(target: Target, workload: Mapping[str, Any], bench: Bench) -> Spread | None:
    if target.entrant not in workload["entrants"]:
        return None
    if target.against == "limit":
        return share_of_limit(workload)
    if target.against == "floor":
        one_core = bench.get("one_core")
        return floors(workload, one_core) if one_core else None
    seconds = best(workload, target.against)
    if not seconds:
        return None
    return ratio(seconds, workload["entrants"][target.entrant]["seconds"])


def _verdict(found: Spread | None, target: Target) -> list[str]:
    if found is None:
        return ["not measured", ""]
    reached = found.median <= target.value if target.at_most else found.median >= target.value
    scale, unit = (100, " %") if target.against == "limit" else (1, "")
    return [found.text(2, scale, unit), "reached" if reached else "**missed**"]


def _goal(target: Target) -> str:
    return f"{100 * target.value:g} %" if target.against == "limit" else f"{target.value:g}"


def _short(workload: Mapping[str, Any], entrant: str) -> str:
    title = f"{workload['title'].split(':')[0]}, {workload['title'].rsplit(', ', 1)[1]}"
    return f"{title}, vectorized" if entrant == "funcnet-vectorized" else title


def _workload(workload: Mapping[str, Any]) -> str:
    entrants = workload["entrants"]
    ours = [name for name in ("funcnet", "funcnet-vectorized") if name in entrants]
    per = "step" if workload["seeds"] == 1 else "step and seed"
    header = ["", f"µs a {per}", *(f"relative to {entrants[name]['title']}" for name in ours)]
    rows = []
    for entrant in sorted(entrants.values(), key=lambda e: statistics.median(e["seconds"])):
        ratios = [ratio(entrant["seconds"], entrants[name]["seconds"]).text() for name in ours]
        rows.append([entrant["title"], spread(entrant["seconds"]).text(3, 1e6), *ratios])
    share = share_of_limit(workload)
    return (
        f"## {workload['title']}\n\n{table(header, rows)}\n"
        f"{workload['flops'] / 1e6:,.1f} million operations a step in matrix products; funcnet's "
        f"rate is {share.text(2, 100, ' %')} of a large product's on all cores.\n"
    )


def _backward(cases: Sequence[Mapping[str, Any]]) -> str:
    if not cases:
        return ""
    rows = [
        [
            case["title"],
            *(text for what in _PASSES for text in _against_autodiff(case[what])),
            *(f"{case[what][who]:,}" for what in _BYTES for who in ("rule", "autodiff")),
        ]
        for case in cases
    ]
    header = ["", *(text for title in _PASSES.values() for text in (title, "autodiff"))]
    header += [f"{what}, {who}" for what in _BYTES.values() for who in ("rule", "autodiff")]
    return f"## Backward passes alone\n\n{_ABOUT_BACKWARD}\n{table(header, rows)}\n{_SLOWER}"


def _against_autodiff(seconds: Mapping[str, Samples]) -> tuple[str, str]:
    rule, autodiff = seconds["rule"], seconds["autodiff"]
    return spread(rule).text(2, 1e6), ratio(autodiff, rule).text()


_ABOUT_BACKWARD = """\
Each rule against autodiff of the same function without its rule, whose time is given relative to
the rule's: above 1, the rule is faster. Alone: from residuals that are given. With the forward
pass: one program computes both. Each inside a loop, as in training; `experiments/bench/backward.py`
says what else matters. Bytes kept: residuals beside arguments and result. Bytes set aside: by XLA,
for the forward and the backward pass together.
"""
_SLOWER = """\
Where a rule takes longer alone, it mostly keeps less: `leaky_relu`, `mse_loss`, `l1_loss` and their
kin read arrays that are there anyway, where autodiff reads a mask or a difference kept beside them;
`dropout` unpacks its bits. `elu` takes an exponential for its slope, where autodiff adds 1 to
exp X - 1, which leaves small slopes no digit. It, `gelu`, `silu` and `softplus` end in a single
product of two arrays, for which jaxlib 0.10 has slower code than for any longer expression; 0.12
has not.
"""
_PASSES = {"seconds": "alone, µs", "seconds_of_both": "with the forward pass, µs"}
_BYTES = {"residual_bytes": "bytes kept", "temporary_bytes": "bytes set aside"}


def _networks(networks: Sequence[Mapping[str, Any]]) -> str:
    if not networks:
        return ""
    rows = [
        [
            network["title"],
            f"{network['bytes']['rule']:,.0f}",
            f"{network['bytes']['autodiff']:,.0f}",
            f"{network['bytes']['autodiff'] / network['bytes']['rule']:.2f}",
        ]
        for network in networks
    ]
    header = ["", "rules", "autodiff", "relative to the rules"]
    return (
        "## What the backward pass of a whole network keeps\n\n"
        f"Bytes per example, beside parameters and data.\n\n{table(header, rows)}"
    )


def _first_calls(cold: Mapping[str, Any]) -> tuple[Samples, Samples]:
    programs = cold["programs"]
    return programs["funcnet"]["first"], programs["scan"]["first"]


def _cold_target(found: Spread) -> list[str]:
    verdict = "reached" if found.median < COLD_TARGET else "**missed**"
    what = "share of the obvious scan's time"
    return ["D, cold first call", what, f"under {COLD_TARGET}", found.text(), verdict]


def _cold(cold: Mapping[str, Any] | None) -> str:
    if cold is None:
        return ""
    rows = []
    titles = {"funcnet": "funcnet", "scan": "the obvious scan"}
    scan = cold["programs"]["scan"]
    for name, title in titles.items():
        calls = cold["programs"][name]
        starting, scan_starting = (
            [first - second for first, second in zip(c["first"], c["second"], strict=True)]
            for c in (calls, scan)
        )
        rows.append(
            [
                title,
                spread(calls["first"]).text(),
                ratio(calls["first"], scan["first"]).text(),
                spread(starting).text(),
                ratio(starting, scan_starting).text(),
            ]
        )
    header = [
        "",
        "first call, s",
        "relative to the scan",
        "of it compiling, s",
        "relative to the scan",
    ]
    return (
        f"## Cold first call, D, {cold['steps']:,} steps\n\nFrom a fresh process with no "
        "compilation cache; initialisation, tracing and compiling included, imports not.\n"
        f"Compiling is what the second call saves.\n\n{table(header, rows)}"
    )


def _memory(memory: Mapping[str, Any] | None) -> str:
    if memory is None:
        return ""
    ours = memory["funcnet"]["bytes"]
    rows = [
        [
            process["title"],
            spread([size / 2**20 for size in process["bytes"]]).text(3),
            ratio(process["bytes"], ours).text(),
        ]
        for process in memory.values()
    ]
    return (
        "## Peak memory of a process that trains M for an epoch\n\n"
        f"{table(['', 'MiB', 'relative to funcnet'], rows)}"
    )


def _checker(rules: Sequence[Mapping[str, Any]]) -> str:
    if not rules:
        return ""
    ways = {"full": "check_vjp", "fast": "fast=True", "check_grads": "check_grads"}
    summary = []
    for way, title in ways.items():
        times = sorted(rule[way] for rule in rules)
        tenth = times[-max(1, len(times) // 10) :]
        summary.append(
            [title, *(f"{t:.2f}" for t in (statistics.median(times), tenth[0], times[-1]))]
        )
    slowest = sorted(rules, key=lambda rule: -rule["full"])
    rows = [[rule["title"], *(f"{rule[way]:.2f}" for way in ways)] for rule in slowest]
    return (
        "## How long a rule takes to check\n\n"
        f"Processor seconds, of {len(rules)} rules: the kill table, special functions and "
        "layers;\n`check_grads` is JAX's, order 2, reverse mode. Most of it is compiling.\n\n"
        f"{table(['', 'median', 'slowest tenth, from', 'slowest'], summary)}\n"
        f"{table(['rule', *ways.values()], rows)}"
    )


def _sequences(cases: Sequence[Mapping[str, Any]]) -> str:
    if not cases:
        return ""
    rows = []
    for case in cases:
        memory = ["", ""] if case["memory"] is None else [f"{m:,.1f}" for m in case["memory"]]
        rows.append([case["title"], *_beside(case["seconds"]), *memory, *_beside(case["wall"])])
    header = ["", "of PyTorch's", "of jax.grad's", "MiB, funcnet", "MiB, jax.grad"]
    header += ["all cores: of PyTorch's", "of jax.grad's"]
    peaks = {name: f"{size / 2**20:,.0f}" for name, size in cases[-1]["peaks"].items()}
    return (
        "## Sequences\n\n"
        "Processor time on one core, forward and backward, as a part of PyTorch's better form, "
        "eager or compiled,\nand of jax.grad of the obvious code; what XLA sets aside; and the "
        "same of the wall time on all cores.\n\n"
        f"{table(header, rows)}\n"
        f"The largest resident memory of a process after 3 steps of the last one, MiB: "
        f"{', '.join(f'{name} {size}' for name, size in peaks.items())}.\n"
    )


def _beside(seconds: Mapping[str, Sequence[float]]) -> list[str]:
    """Ours as a part of PyTorch's better form, and of jax.grad's."""
    forms = [seconds[name] for name in ("torch", "torch.compile") if name in seconds]
    theirs = min(forms, key=statistics.median)
    return [ratio(seconds["ours"], other).text() for other in (theirs, seconds["obvious"])]


def _left_out(bench: Bench) -> str:
    sentences = dict.fromkeys(s for w in bench["workloads"].values() for s in w["left_out"])
    if not sentences:
        return ""
    return "Left out:\n\n" + "".join(f"- {sentence}\n" for sentence in sentences)


def _number(value: float, digits: int) -> str:
    """Return a number with so many significant digits, and every digit before the point."""
    if value == 0:
        return "0"
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    return f"{value:,.{decimals}f}"
