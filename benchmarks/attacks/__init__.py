"""Models that are hard to record and files that are hard to write, by the kind of fault."""

from . import (
    axes,
    detached,
    drawn,
    elsewhere,
    files,
    guests,
    memory,
    names,
    operands,
    precision,
    singular,
    spectra,
)
from .attack import Attack, Check

ATTACKS: tuple[Attack | Check, ...] = (
    *memory.ATTACKS,
    *axes.ATTACKS,
    *detached.ATTACKS,
    *operands.ATTACKS,
    *spectra.ATTACKS,
    *drawn.ATTACKS,
    *elsewhere.ATTACKS,
    *precision.ATTACKS,
    *guests.ATTACKS,
    *singular.ATTACKS,
    *names.ATTACKS,
    *files.ATTACKS,
)
