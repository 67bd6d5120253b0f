"""What a command of `deconv1d` answers."""

from __future__ import annotations

from typing import Any, NamedTuple


class Answer(NamedTuple):
    """What a command has to say: for people, and for programs (`--json`)."""

    text: str
    facts: dict[str, Any]
