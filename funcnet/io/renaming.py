"""Keys under other names: how to rename them, and what to rename where it was not said."""

from collections.abc import Callable, Mapping
from typing import Any

from funcnet.errors import ParamsError

Rename = Mapping[str, str] | Callable[[str], str]

_WRAPPERS = {
    "module.": "torch.nn.DataParallel",
    "_orig_mod.": "torch.compile",
    "model.": "Lightning and others",
    "net.": "a wrapper",
}
_SHOWN = 10  # pairs with their shapes
_TYPED = 40  # entries of rename


def renamed(found: Mapping[str, Any], rename: Rename | None) -> dict[str, Any]:
    """Return the arrays under the keys that `rename` gives them.

    Args:
        found: the arrays by key.
        rename: a function of a key, or a dict from keys, or from names of modules, to ours: with
            {"fc1": "0", "module": ""}, "fc1.weight" is "0.weight" and "module.1.bias" is "1.bias".
            The longest entry that fits a key is taken; a key that none fits stays.

    Raises:
        ParamsError: two arrays get the same key, or an entry fits no key.
    """
    if rename is None:
        return dict(found)
    if callable(rename):
        names = {key: rename(key) for key in found}
    else:
        entries = {old.rstrip("."): new.rstrip(".") for old, new in rename.items()}
        fitting = {key: _longest_prefix(key, entries) for key in found}
        unused = [old for old in entries if old not in fitting.values()]
        if unused:
            raise ParamsError(
                f"rename: no key is or begins with {', '.join(map(repr, unused))}; expected keys "
                f"such as {', '.join(map(repr, [*found][:3]))}, or the names of their modules"
            )
        names = {
            key: key if old is None else _joined(entries[old], key[len(old) + 1 :])
            for key, old in fitting.items()
        }
    arrays: dict[str, Any] = {}
    for key, name in names.items():
        if name in arrays:
            raise ParamsError(f"rename: two arrays get the key {name!r}, one of them {key!r}")
        arrays[name] = found[key]
    return arrays


def _longest_prefix(key: str, entries: Mapping[str, str]) -> str | None:
    parts = key.split(".")
    prefixes = (".".join(parts[:length]) for length in range(len(parts), 0, -1))
    return next((prefix for prefix in prefixes if prefix in entries), None)


def _joined(*names: str) -> str:
    return ".".join(filter(None, names))


def paired_by_shape(
    missing: Mapping[str, tuple[int, ...]], surplus: Mapping[str, tuple[int, ...]]
) -> dict[str, str]:
    """Return surplus keys with the missing ones that they may stand for, in order.

    Modules whose arrays have the same names and shapes first, then arrays of the same last name
    and shape.
    """
    pairs: dict[str, str] = {}
    theirs = _modules(surplus)
    for module, arrays in _modules(missing).items():
        fitting = (name for name, found in theirs.items() if arrays.items() <= found.items())
        found = next(fitting, None)
        if found is not None:
            del theirs[found]
            pairs |= {_joined(found, last): _joined(module, last) for last in arrays}
    for key, shape in missing.items():
        if key not in pairs.values():
            alike = (
                other
                for other, found in surplus.items()
                if other not in pairs and (_last(other), found) == (_last(key), shape)
            )
            pairs |= {other: key for other in [next(alike, None)] if other is not None}
    return pairs


def _modules(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, dict[str, tuple[int, ...]]]:
    """The arrays of each module by their last names."""
    modules: dict[str, dict[str, tuple[int, ...]]] = {}
    for key, shape in shapes.items():
        modules.setdefault(key.rpartition(".")[0], {})[_last(key)] = shape
    return modules


def _last(key: str) -> str:
    return key.rpartition(".")[2]


def rename_advice(
    pairs: Mapping[str, str], found: Mapping[str, Any], expected: Mapping[str, Any]
) -> list[str]:
    """Sentences that say which `rename` of `load_state_dict` fits pairs of surplus and missing."""
    if not pairs:
        return []
    prefix = _wrapper(found, expected)
    if prefix:
        return [
            f"the keys begin with {prefix!r}, as {_WRAPPERS[prefix.partition('.')[0] + '.']} "
            f"writes them; fn.interop.load_state_dict(..., rename={{{prefix[:-1]!r}: ''}}) takes "
            f"that away"
        ]
    shown = [f"{old} {list(found[old].shape)} for {new}" for old, new in pairs.items()]
    rest = [f"and {len(shown) - _SHOWN} more"] if len(shown) > _SHOWN else []
    typed = _by_modules(pairs)
    more = ", ..." if len(typed) > _TYPED else ""
    entries = ", ".join(f"{old!r}: {new!r}" for old, new in [*typed.items()][:_TYPED])
    return [
        f"surplus and missing keys of one shape: {', '.join([*shown[:_SHOWN], *rest])}",
        f"if that is the order, fn.interop.load_state_dict(..., rename={{{entries}{more}}})",
    ]


def _wrapper(found: Mapping[str, Any], expected: Mapping[str, Any]) -> str:
    """What wrappers put before the keys, if more of them are expected without it; else ""."""
    prefix, matching = "", sum(key in expected for key in found)
    candidates = [*_WRAPPERS]
    while candidates:
        candidate = candidates.pop()
        fitting = sum(key.removeprefix(candidate) in expected for key in found)
        if fitting > matching:
            prefix, matching = candidate, fitting
        elif all(key.startswith(candidate) for key in found) and candidate.count(".") < 3:
            candidates += [candidate + wrapper for wrapper in _WRAPPERS]
    return prefix


def _by_modules(pairs: Mapping[str, str]) -> dict[str, str]:
    """The pairs as a `rename`: of whole modules where all their pairs agree."""
    targets: dict[str, set[str]] = {}
    for old, new in pairs.items():
        module, _, last = old.rpartition(".")
        target, _, new_last = new.rpartition(".")
        targets.setdefault(module, set()).add(target if last == new_last else "?")
    entries: dict[str, str] = {}
    for old, new in pairs.items():
        module, target = old.rpartition(".")[0], new.rpartition(".")[0]
        whole = module and target and targets[module] == {target}
        entries |= {module: target} if whole else {old: new}
    return entries


def without_tied(
    found: Mapping[str, Any], tied: Mapping[str, str] | None, expected: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the arrays without second copies of shared weights.

    Args:
        found: the arrays by key.
        tied: from the key of a copy to that of the weight it must equal. A file may hold either or
            both.
        expected: the keys of the model.

    Raises:
        ParamsError: a copy differs from its weight, or is itself a weight of the model.
    """
    arrays = dict(found)
    for copy, weight in (tied or {}).items():
        if copy in expected:
            raise ParamsError(
                f"tied: {copy!r} is a key of the model itself; expected a surplus key, and after "
                f"it the key that has its weight"
            )
        if copy not in arrays:
            continue
        value = arrays.pop(copy)
        kept = arrays.setdefault(weight, value)
        if value.dtype != kept.dtype or value.tobytes() != kept.tobytes():
            raise ParamsError(
                f"tied: {copy} and {weight} hold different numbers; expected one weight under two "
                f"names: leave it out of tied, and give the model both"
            )
    return arrays
