"""Half precision where it pays: timed once for each kind of device, and heard to be the same.

once a process      a stack of convolutions in float32 and in half precision: which is faster?
once a layer        its first sonification is made both ways: do they point the same way?
after that          half precision where both say yes, float32 elsewhere
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import lru_cache, partial
from statistics import median
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from deconv1d.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Callable

    from deconv1d.sonification import Sonification

ALIKE = 0.9999
"""Least cosine similarity of a sonification to float32's."""
WORTH = 0.9
"""Half precision is chosen if it takes at most this share of float32's time."""


@dataclass(frozen=True)
class Trial:
    """How long half precision takes on a device.

    Attributes:
        dtype: The half type that was tried: float16 on a GPU, else bfloat16, which processors know.
        device: Type of the device, such as "cpu".
        ratio: Its time as a share of float32's.
    """

    dtype: torch.dtype
    device: str
    ratio: float

    @property
    def pays(self) -> bool:
        """Whether it is fast enough to be chosen."""
        return self.ratio <= WORTH

    def __str__(self) -> str:
        chosen = self.dtype if self.pays else torch.float32
        return (
            f"{_name(chosen)}, since {_name(self.dtype)} takes {self.ratio:.2f} x the time of "
            f"float32 on this {self.device}"
        )


@lru_cache
def trial(device: str) -> Trial:
    """Times a stack of convolutions and their transposes on a device, in float32 and in half.

    Args:
        device: Type of the device.
    """
    dtype = torch.float16 if device == "cuda" else torch.bfloat16
    seconds = [median(_seconds(device, kind) for _ in range(5)) for kind in (torch.float32, dtype)]
    return Trial(dtype, device, seconds[1] / seconds[0])


def _seconds(device: str, dtype: torch.dtype) -> float:
    """How long 3 layers of 64 channels take for 4,000 samples, forward and back."""
    weight = torch.ones(64, 64, 5, device=device, dtype=dtype)
    x = torch.ones(1, 64, 4000, device=device, dtype=dtype)
    with torch.inference_mode():
        _wait(device)
        started = time.perf_counter()
        for _ in range(3):
            x = nn.functional.conv1d(x, weight, padding=2)
        for _ in range(3):
            x = nn.functional.conv_transpose1d(x, weight, padding=2)
        _wait(device)
        return time.perf_counter() - started


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


class HalfWhereAlike:
    """Sonifies in half precision the layers whose first sound was like float32's.

    Args:
        in_half: Sonifies in half precision: waveform, layer and options to a sonification.
        in_full: The same in the model's own dtype.
    """

    def __init__(
        self, in_half: Callable[..., Sonification], in_full: Callable[..., Sonification]
    ) -> None:
        self._in_half, self._in_full = in_half, in_full
        self._alike: dict[tuple[str, str, str], bool] = {}

    def sonify(self, x: Any, layer: str, **options: Any) -> Sonification:
        """The sonification in half precision if that is known to be alike, else in full.

        Args:
            x: As for `Sonifier.sonify`.
            layer: As for `Sonifier.sonify`.
            options: The rest.
        """
        key = (layer, options["tap"], options["method"])
        known = key in self._alike
        half = (
            _try(partial(self._in_half, x, layer, **options))
            if self._alike.get(key, True)
            else None
        )
        if known and half is not None:
            return half
        full = self._in_full(x, layer, **options)
        if not known:
            self._alike[key] = half is not None and similarity(half.raw, full.raw) >= ALIKE
        return full


def _try(sonify: Callable[[], Sonification]) -> Sonification | None:
    """None if half precision cannot hold the values: float16 ends at 65504."""
    try:
        return sonify()
    except ModelError:
        return None


def similarity(one: Tensor, other: Tensor) -> float:
    """The least cosine similarity of two batches of waveforms; of silence to itself it is 1.

    Args:
        one: (..., time).
        other: The same shape.
    """
    one, other = (x.double().reshape(-1, x.shape[-1]) for x in (one, other))
    cosines = nn.functional.cosine_similarity(one, other, dim=-1, eps=torch.finfo(one.dtype).tiny)
    return float(cosines.where(one.any(-1) | other.any(-1), 1).min())


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
