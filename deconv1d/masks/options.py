"""What can be asked of masks, and what cannot."""

from __future__ import annotations

from typing import Any, Literal

from deconv1d.errors import InputError
from deconv1d.rules.table import METHODS, Method

MASK: Literal["mask"] = "mask"
"""The method's name."""
Listening = Method | Literal["mask"]
LISTENING: tuple[Listening, ...] = (*METHODS, MASK)
"""All methods by which a layer can be listened to."""
BUDGET = 0.25
RIVALS = 8


def check_sonify_options(seed: Any, low_cut: float | None) -> None:
    """Raises InputError if `sonify` is asked for a mask together with how a map is carried back."""
    given = {"seed": seed, "low_cut": low_cut}
    usual = {"seed": "activation", "low_cut": None}
    for name, value in given.items():
        if value != usual[name]:
            raise InputError(
                f"A mask carries nothing back: expected {name}={usual[name]!r} with "
                f"method={MASK!r}, got {value!r}. Leave {name} out, or choose another method."
            )


def check_mask_options(budget: Any, rivals: Any, masks: int) -> None:
    """Raises InputError if a mask cannot be found with these; see `deconv1d.masks.listen`."""
    if not 0 < budget <= 1:
        raise InputError(
            f"The budget {budget!r} cannot be used: expected the share of the recording's energy "
            f"that a mask may keep, above 0 and up to 1. Give such as budget={BUDGET}."
        )
    if rivals is not None and (isinstance(rivals, bool) or not isinstance(rivals, int)):
        raise InputError(
            f"rivals={rivals!r} cannot be used: expected a number of channels, or None for no "
            f"rivals. Give such as rivals={RIVALS}."
        )
    if masks < 2 or masks % 2:
        raise InputError(
            f"masks={masks} cannot be used: expected an even number, since random masks come in "
            f"pairs. Give such as masks=64."
        )
