"""The state dict inside a checkpoint: trainers wrap it, and put prefixes before its names."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from torch import Tensor

from deconv1d.errors import InputError

WRAPPINGS = ("state_dict", "model_state_dict", "model")
"""Under which names trainers keep a state dict, the usual ones first."""
PREFIXES = ("module.", "model.", "_orig_mod.")
"""What DDP, Lightning and torch.compile put before names."""
LISTED = 3


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
        found = [name for name, part in state.items() if _is_state(part)]
        usual = [name for name in WRAPPINGS if name in found]
        # Of several the one that has the model's names is meant, and of these the usual one.
        fitting = [n for n in (usual or found) if _prefix(state[n], wanted) is not None]
        if chosen := (fitting or usual or found[:1]):
            state = state[chosen[0]]
            said.append(f"used its {chosen[0]!r}")
    prefix = _prefix(state, wanted)
    if prefix:
        others = [name for name in state if not name.startswith(prefix)]
        state = {n.removeprefix(prefix): v for n, v in state.items() if n.startswith(prefix)}
        said.append(f"took {prefix!r} off {len(state)} names")
        if others:
            said.append(f"left out {len(others)} without it ({', '.join(others[:LISTED])})")
    return Unwrapped(state, ", ".join(said))


def _at(checkpoint: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    part: Any = checkpoint
    for name in (key,) if key in checkpoint else key.split("."):
        if not isinstance(part, Mapping) or name not in part:
            part = None
            break
        part = part[name]
    if not _is_state(part):
        names = ", ".join(repr(name) for name, value in checkpoint.items() if _is_state(value))
        raise InputError(
            f"The weights have no state dict at the key {key!r}: expected one of "
            f"{names or 'none, since the file is a state dict itself'}. Give one of these, or "
            f"leave the key out."
        )
    return part  # type: ignore[no-any-return]  # `_is_state` has seen that it is one


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
