"""Small models that are hard to record, by the kind of fault that they provoke."""

from . import detached, elsewhere, memory

ATTACKS = (*memory.ATTACKS, *detached.ATTACKS, *elsewhere.ATTACKS)
