"""A high-pass filter for listening."""

from __future__ import annotations

import torch
from torch import Tensor

from deconv1d.errors import InputError

ORDER = 8


def cut_lows(x: Tensor, hertz: float, sample_rate: float | None) -> Tensor:
    """Waveforms without what lies below a frequency; nothing is delayed.

    The magnitude is a Butterworth filter's of order 8, with half the power at `hertz`; the phase is
    zero. Four periods of silence are added, so that the end does not run into the start.

    Args:
        x: (..., time).
        hertz: Where the power is halved.
        sample_rate: In hertz.

    Raises:
        InputError: If the sample rate is unknown, or the frequency is not between 0 and half of it.
    """
    if sample_rate is None:
        raise InputError(
            "low_cut needs a sample rate: expected a number in hertz, got None. Give it once: "
            "Sonifier(model, sample_rate=8000)."
        )
    if not 0 < hertz < sample_rate / 2:
        raise InputError(
            f"low_cut={hertz!r} cannot be used at {sample_rate} Hz: expected hertz between 0 and "
            f"{sample_rate / 2:g}. Give for example low_cut=50."
        )
    samples = x.shape[-1]
    length = samples + round(4 * sample_rate / hertz)
    frequencies = torch.fft.rfftfreq(length, 1 / sample_rate, dtype=torch.float64, device=x.device)
    power = (frequencies / hertz) ** (2 * ORDER)
    magnitude = (power / (1 + power)).sqrt().nan_to_num(1.0)  # inf / inf, far above
    spectrum = torch.fft.rfft(x, length) * magnitude.to(x.dtype)
    filtered: Tensor = torch.fft.irfft(spectrum, length)
    return filtered[..., :samples]
