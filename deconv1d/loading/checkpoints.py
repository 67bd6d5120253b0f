"""The state dict inside a checkpoint: trainers wrap it, and put prefixes before its names."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from deconv1d.errors import InputError

WRAPPINGS = ("state_dict", "model_state_dict", "model")
"""Under which names trainers keep a state dict, the usual ones first."""
PREFIXES = ("module.", "model.", "_orig_mod.")
"""What DDP, Lightning and torch.compile put before names."""
LISTED = 3
NESTED = 3
"""So many levels of dictionaries are searched for a state dict."""


class Unwrapped(NamedTuple):
    """A state dict, and what was done to get it; "" if nothing was."""

    state: Mapping[str, Any]
    said: str


def unwrap(checkpoint: Mapping[str, Any], wanted: Collection[str], key: str | None) -> Unwrapped:
    """Finds the state dict of a model in a checkpoint.

        {"epoch": 3, "state_dict": {"model.conv.weight": ..., "criterion.weight": ...}}
        wanted: conv.weight      found: state_dict, without "model.", and one name is left out

    Args:
        checkpoint: What was saved.
        wanted: The names in the model's own state dict.
        key: Where the state dict is, such as "ema.state_dict"; None: it is searched for.

    Raises:
        InputError: If there is nothing of that key.
    """
    state, said = (checkpoint, []) if key is None else (_at(checkpoint, key), [f"used {key!r}"])
    if key is None and not set(wanted) <= state.keys():
        states = dict(_states(checkpoint))
        usual = [name for name in states if name.split(".")[-1] in WRAPPINGS]
        # Of several the one that has the model's names is meant, and of these the usual one.
        fitting = [name for name in states if _prefix(states[name], wanted) is not None]
        ranked = sorted(fitting or usual or states, key=lambda name: _unlikely(name, usual))
        if ranked:
            chosen, *others = ranked
            state = states[chosen]
            also = f" ({', '.join(map(repr, others[:LISTED]))} would fit too)" * bool(fitting[1:])
            said.append(f"used its {chosen!r}{also}")
    prefix = _prefix(state, wanted)
    if prefix:
        others = [name for name in state if not name.startswith(prefix)]
        state = {n.removeprefix(prefix): v for n, v in state.items() if n.startswith(prefix)}
        said.append(f"took {prefix!r} off {len(state)} names")
        if others:
            said.append(f"left out {len(others)} without it ({', '.join(others[:LISTED])})")
    return Unwrapped(state, ", ".join(said))


def _at(checkpoint: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    states = dict(_states(checkpoint))
    if key in states:
        return states[key]
    if states:
        names = f"expected one of {', '.join(map(repr, states))}. Give one of these"
    else:
        names = "expected none, since the file is a state dict itself. Leave the key out"
    raise InputError(f"The weights have no state dict at the key {key!r}: {names}.")


def _states(
    part: Mapping[str, Any], depth: int = NESTED
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The state dicts inside a checkpoint, by their names with dots between levels."""
    for name, value in part.items():
        if _is_state(value):
            yield name, value
        elif isinstance(value, Mapping) and depth > 1:
            yield from ((f"{name}.{inner}", state) for inner, state in _states(value, depth - 1))


def _unlikely(name: str, usual: Sequence[str]) -> tuple[int, int]:
    """Sorts names of state dicts: those that are less deep come first, the usual ones before."""
    last = name.split(".")[-1]
    return name.count("."), WRAPPINGS.index(last) if name in usual else len(WRAPPINGS)


def _is_state(part: Any) -> bool:
    """Whether a part of a checkpoint is a state dict; that of an optimiser has other values."""
    if not isinstance(part, Mapping) or not part:
        return False
    return all(isinstance(name, str) for name in part) and any(
        isinstance(value, Tensor) for value in part.values()
    )


def _prefix(state: Mapping[str, Any], wanted: Collection[str]) -> str | None:
    """What stands before the model's names; None: not all of its names are there."""
    if not wanted:
        return ""
    first = next(iter(wanted))
    ends = [name.removesuffix(first) for name in state if name.endswith(first)]
    fitting = [p for p in ends if all(f"{p}{name}" in state for name in wanted)]
    # "model." comes before "teacher_model."; a prefix ends where a name does.
    fitting = [p for p in fitting if not p or p.endswith(".")]
    return min(fitting, key=_unusual, default=None)


def _unusual(prefix: str) -> tuple[bool, int]:
    parts = [f"{part}." for part in prefix.split(".") if part]
    return not set(parts) <= set(PREFIXES), len(prefix)
