"""Recordings as JSON: what another process, or another day, needs to judge the same rules."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from funcnet.testing.recorded.judge import Verdict, Verdicts
from funcnet.testing.recorded.rules import Example, RecordedRule, Traced


def encoded(rule: RecordedRule) -> dict[str, Any]:
    """A rule and its examples' arguments as dicts, lists, strings and numbers.

    Examples with other arguments than arrays, numbers, text, None, tuples, lists and dicts are left
    out: a function, or a key, cannot be written down.
    """
    examples = []
    for example in rule.examples.values():
        try:
            examples.append(_example(example))
        except TypeError:
            continue
    return {
        "key": rule.key,
        "rule": rule.name,
        "module": rule.module,
        "where": rule.where,
        "calls": rule.calls,
        "examples": examples,
        "ranges": {str(i): list(ends) for i, ends in rule.ranges.items()},
    }


def decoded(row: Mapping[str, Any], fn: Any) -> RecordedRule:
    """The rule of a recording, of which `fn` is the function.

    Raises:
        KeyError, ValueError, TypeError: this was not written by `encoded`.
    """
    examples = {}
    for i, written in enumerate(row["examples"]):
        args = tuple(map(_from_json, written["args"]))
        static = {int(k): _from_json(value) for k, value in written["static"].items()}
        leaves, structure = jax.tree.flatten(args, is_leaf=lambda x: isinstance(x, Traced))
        count = len(args) + len(static)
        examples[i] = Example(leaves, structure, static, count, bool(written["x64"]))
    ranges = {int(k): (float(ends[0]), float(ends[1])) for k, ends in row["ranges"].items()}
    known = (row["rule"], row["module"], row["where"], int(row["calls"]))
    return RecordedRule(fn, *known, examples, ranges)


def verdicts(found: Sequence[Mapping[str, Any]]) -> Verdicts:
    """The verdicts among the rows of a file, without their reports."""
    rows = [row["verdict"] for row in found if "verdict" in row]
    return Verdicts(
        Verdict(
            rule=row["rule"],
            module=row["module"],
            where=row["where"],
            calls=row["calls"],
            verdict=row["verdict"],
            finding=row["finding"],
            arguments=tuple(row["arguments"]),
        )
        for row in rows
    )


def _example(example: Example) -> dict[str, Any]:
    args = jax.tree.unflatten(example.structure, example.leaves)
    return {
        "args": [_to_json(arg) for arg in args],
        "static": {str(i): _to_json(value) for i, value in example.static.items()},
        "x64": example.x64,
    }


def _to_json(value: Any) -> Any:
    if isinstance(value, Traced):
        return {"shape": list(value.shape), "dtype": str(value.dtype)}
    if isinstance(value, np.ndarray):
        data = base64.b64encode(np.ascontiguousarray(value).tobytes()).decode()
        return {"shape": list(value.shape), "dtype": str(value.dtype), "data": data}
    if type(value) in (tuple, list):
        return {type(value).__name__: [_to_json(item) for item in value]}
    if type(value) is dict and all(isinstance(key, str) for key in value):
        return {"dict": {key: _to_json(item) for key, item in value.items()}}
    if value is None or isinstance(value, (bool, int, float, str)):
        return {"value": value}
    raise TypeError(f"{type(value).__name__} cannot be written down")


def _from_json(written: Mapping[str, Any]) -> Any:
    if "shape" in written:
        shape, dtype = tuple(written["shape"]), jax.numpy.dtype(written["dtype"])
        if "data" not in written:
            return Traced(shape, dtype)
        return np.frombuffer(base64.b64decode(written["data"]), dtype).reshape(shape)
    for kind in (tuple, list):
        if kind.__name__ in written:
            return kind(map(_from_json, written[kind.__name__]))
    if "dict" in written:
        return {key: _from_json(item) for key, item in written["dict"].items()}
    return written["value"]
