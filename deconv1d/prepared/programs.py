"""`Sonifier.programs`: prepared programs where the model admits them, else plain sonification.

For work that sonifies one layer again and again (a training log, a removal experiment, repeated
draws): the first time a layer is sonified as usual, verification included; the second time it is
prepared; from then on its program runs. A model that cannot be prepared is sonified as usual every
time, and `refused` says why.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from deconv1d.errors import ModelError

if TYPE_CHECKING:
    from deconv1d.checks.verification import Verified
    from deconv1d.prepared.program import Program
    from deconv1d.sonification import Sonification
    from deconv1d.sonify import Sonifier

logger = logging.getLogger(__name__)

KEPT = 32
"""Programs of a sonifier; those that were not used for longest are dropped."""


class Programs:
    """Sonifies as its sonifier does, by programs from the second time on.

    Args:
        sonifier: Whose model, rate and options are used.

    Attributes:
        refused: Why a layer cannot be prepared, by the name it was asked for under.
    """

    def __init__(self, sonifier: Sonifier) -> None:
        self.refused: dict[str, str] = {}
        self._sonifier = sonifier
        self._known: OrderedDict[Any, tuple[Verified | None, Program | None]] = OrderedDict()

    def __repr__(self) -> str:
        prepared = sum(program is not None for _, program in self._known.values())
        return f"Programs({self._sonifier}, {prepared} prepared, {len(self.refused)} refused)"

    def __reduce__(self) -> tuple[type[Programs], tuple[Sonifier]]:
        # A copy, or what is unpickled, has none yet: they would hold another model's weights.
        return Programs, (self._sonifier,)

    def sonify(
        self,
        x: Any,
        layer: str,
        *,
        channel: Any = "most_active",
        tap: str = "block",
        seed: Any = "activation",
        method: str = "deconvnet",
    ) -> Sonification:
        """What `Sonifier.sonify` gives for the same arguments.

        Args:
            x: As for `Sonifier.sonify`, as are the rest; paths and lists are sonified as usual.
            layer: See there.
            channel: See there.
            tap: See there.
            seed: See there.
            method: See there.

        Raises:
            InputError, LayerError, ChannelError, PathError: As for `Sonifier.sonify`.
        """
        options: dict[str, Any] = {"layer": layer, "tap": tap, "method": method}
        shape = getattr(x, "shape", None)
        # Masks carry nothing back, and a peak is sonified on a crop, which is faster yet.
        usual = method == "mask" or (isinstance(seed, str) and seed == "peak")
        if usual or shape is None or layer in self.refused:
            return self._sonifier.sonify(x, channel=channel, seed=seed, **options)
        key = (layer, tap, method, tuple(shape), str(x.dtype))
        if key not in self._known:
            sonification = self._sonifier.sonify(x, channel=channel, seed=seed, **options)
            self._keep(key, sonification.verified, None)
            return sonification
        verified, program = self._known[key]
        try:
            program = program or self._sonifier.prepare(x, **options)
            sonification = program(x, channel=channel, seed=seed)
        except ModelError as error:
            # Either it cannot be prepared, or it was changed since: what is known is forgotten.
            del self._known[key]
            if program is None:
                self.refused[layer] = str(error)
                logger.info("Layer %r is recorded anew for every sound. %s", layer, error)
            return self._sonifier.sonify(x, channel=channel, seed=seed, **options)
        self._keep(key, verified, program)
        return replace(sonification, verified=verified)

    def _keep(self, key: Any, verified: Verified | None, program: Program | None) -> None:
        self._known[key] = verified, program
        self._known.move_to_end(key)
        while len(self._known) > KEPT:
            self._known.popitem(last=False)
