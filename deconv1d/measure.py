"""Numbers about sounds: how coherent two waveforms are, what one waveform's spectrum is like.

Tensors in, tensors out: any leading axes, time last, on the tensor's device and in its dtype
(half precision is measured and returned in float32). Silence gives 0 in every measure, never NaN.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from deconv1d.errors import InputError
from deconv1d.mel import hertz_to_mel, mel_to_hertz, triangles

SEGMENT_LENGTH = 256  # samples; SciPy's default for coherence and Welch spectra
MEL_SECONDS, MEL_BANDS, MEL_RANGE = 0.032, 40, 80.0  # frame, bands, decibels
CHUNK_SAMPLES = 2**17  # so many are framed at a time: the segments stay in the processor's cache


def coherence(x: Tensor, y: Tensor, *, segment_length: int = SEGMENT_LENGTH) -> Tensor:
    """Computes the magnitude-squared coherence of two waveforms, by Welch's method as in SciPy.

    Hann window, half overlap, each segment's mean removed. Frequency `k` is
    `k * sample_rate / segment_length` hertz.

    A frequency at which either waveform's power is below what rounding alone can leave there
    (the whole of a silent waveform) has coherence 0: such a component has nothing in common with
    anything. SciPy gives NaN, or the coherence of rounding noise.

    Args:
        x: Waveform, shape (..., time).
        y: Waveform of the same length; leading axes broadcast against those of `x`.
        segment_length: Samples per segment.

    Returns:
        Coherence between 0 and 1, shape (..., segment_length // 2 + 1).

    Raises:
        InputError: If a waveform is not a finite, non-empty floating tensor, the lengths differ,
            or fewer than two segments fit: the coherence of one segment is 1 at every frequency,
            whatever the two sounds.

    Source:
        The paper, section 4.2.1, equation 2. SciPy falls back to one segment for a short
        waveform; this raises.

    Example:
        >>> x = torch.randn(2, 8000)
        >>> coherence(x, 0.5 * x).shape
        torch.Size([2, 129])
    """
    x, y = _checked_pair(x, y)
    samples = x.shape[-1]
    _check_segments(samples, segment_length)
    # Pairs are measured some at a time, so that their spectra stay in the processor's cache.
    rows = max(1, CHUNK_SAMPLES // samples)
    x_chunks, y_chunks = (torch.split(w.reshape(-1, samples), rows) for w in (x, y))
    chunks = zip(x_chunks, y_chunks, strict=True)
    values = torch.cat([_coherence(*chunk, segment_length) for chunk in chunks])
    return values.reshape(*x.shape[:-1], -1)


def mean_top_coherence(
    x: Tensor, y: Tensor, *, top_k: int = 5, segment_length: int = SEGMENT_LENGTH
) -> Tensor:
    """Averages the coherence of the `top_k` most coherent frequencies of each pair.

    Args:
        x: Waveform, shape (..., time).
        y: Waveform of the same length; leading axes broadcast against those of `x`.
        top_k: How many frequencies to average.
        segment_length: Samples per segment.

    Returns:
        One number between 0 and 1 for each pair, shape (...).

    Raises:
        InputError: As `coherence`, and if there are fewer than `top_k` frequencies.

    Source:
        The paper, equation 3, for one pair; its mean over the pairs is the caller's `.mean()`.
    """
    frequencies = segment_length // 2 + 1
    if not 1 <= top_k <= frequencies:
        raise InputError(
            f"mean_top_coherence cannot average the top {top_k} frequencies: segments of "
            f"{segment_length} samples have {frequencies}. Give top_k from 1 to {frequencies}."
        )
    return coherence(x, y, segment_length=segment_length).topk(top_k).values.mean(-1)


def unrelated_coherence(
    samples: int, *, top_k: int = 5, segment_length: int = SEGMENT_LENGTH
) -> float:
    """What `mean_top_coherence` gives of two waveforms of noise that have nothing in common.

    Of two such waveforms cut into n independent segments, 1 - coherence is at each frequency the
    (n - 1)th root of a uniform random number, whose negative logarithm is exponential. The j-th
    largest of F exponential numbers is 1 / j + ... + 1 / F in the mean, so that the j-th highest
    coherence is near

        1 - exp(-(1 / j + ... + 1 / F) / (n - 1)).

    Half-overlapping segments under a Hann window share a sixth of their energy, so that N of them
    count as n = N / (1 + 2 (1 - 1 / N) / 36). It is 0.14 for half a second at 8 kHz, 0.007 for
    ten seconds; measured on noise, within 2 percent of itself.

    Args:
        samples: Length of the waveforms.
        top_k: As for `mean_top_coherence`.
        segment_length: As for `mean_top_coherence`.

    Raises:
        InputError: If two segments do not fit.

    Source:
        Distribution: Carter, Knapp, Nuttall (1973); overlap: Welch (1967).
    """
    _check_segments(samples, segment_length)
    segments = (samples - segment_length) // (segment_length - segment_length // 2) + 1
    independent = segments / (1 + 2 * (1 - 1 / segments) / 36)
    frequencies = segment_length // 2 + 1
    terms = 1 / torch.arange(1, frequencies + 1, dtype=torch.float64)
    largest = terms.flip(0).cumsum(0).flip(0)[:top_k]
    return float((1 - torch.exp(-largest / (independent - 1))).mean())


def band_energy(x: Tensor, bands: Sequence[tuple[float, float]], *, sample_rate: float) -> Tensor:
    """Computes the energy (sum of squared samples) of a waveform in each frequency band.

    Exact over the whole waveform by Parseval's theorem: bands that tile 0 to `sample_rate / 2`
    add up to the sum of the squared samples.

    Args:
        x: Waveform, shape (..., time).
        bands: Pairs (low, high) in hertz. Low is in the band, high is not, except that a band
            which reaches `sample_rate / 2` takes that frequency in.
        sample_rate: Samples per second.

    Returns:
        Energies, shape (..., number of bands).

    Raises:
        InputError: If `x` cannot be measured, or a band is not 0 <= low < high.
    """
    x = _checked(x, "x")
    edges = torch.as_tensor(bands, dtype=torch.float64)
    _check_bands(edges)
    samples = x.shape[-1]
    energy = _power(torch.fft.rfft(x)) / samples
    # Parseval: sum |x|^2 = sum |X|^2 / n over all n frequencies; rfft returns half of them.
    energy[..., 1 : (samples + 1) // 2] *= 2  # each stands for itself and its negative frequency
    low, high = edges[:, :1], edges[:, 1:]
    frequencies = _frequencies(samples, sample_rate, like=edges)
    inside = (frequencies >= low) & ((frequencies < high) | (high >= sample_rate / 2))
    return energy.matmul(inside.T.to(energy))


def spectral_centroid(x: Tensor, *, sample_rate: float) -> Tensor:
    """Computes the mean frequency in hertz, weighted by power; shape (...), 0 for silence.

    Args:
        x: Waveform, shape (..., time).
        sample_rate: Samples per second.

    Raises:
        InputError: If `x` cannot be measured.
    """
    shares, frequencies = _shares_in_hertz(x, sample_rate)
    return shares @ frequencies


def spectral_bandwidth(x: Tensor, *, sample_rate: float) -> Tensor:
    """Computes the standard deviation of frequency in hertz, weighted by power.

    Args:
        x: Waveform, shape (..., time).
        sample_rate: Samples per second.

    Returns:
        Bandwidth, shape (...), 0 for silence.

    Raises:
        InputError: If `x` cannot be measured.
    """
    shares, frequencies = _shares_in_hertz(x, sample_rate)
    centroid = (shares * frequencies).sum(-1, keepdim=True)
    return (shares * (frequencies - centroid).square()).sum(-1).sqrt()


def spectral_entropy(x: Tensor) -> Tensor:
    """Computes the Shannon entropy of a Welch spectrum, over its largest possible value.

    Args:
        x: Waveform, shape (..., time).

    Returns:
        Entropy, shape (...): near 0 for a pure tone, near 1 for white noise, 0 for silence.

    Raises:
        InputError: If `x` cannot be measured.
    """
    shares = _shares(x)
    # entr(p) = -p log p, and 0 at p = 0. The largest entropy is that of equal shares, log(bins).
    entropy: Tensor = torch.special.entr(shares).sum(-1)
    return entropy / math.log(max(2, shares.shape[-1]))


def spectral_flatness(x: Tensor) -> Tensor:
    """Computes the geometric over the arithmetic mean of a waveform's Welch spectrum.

    Args:
        x: Waveform, shape (..., time).

    Returns:
        Flatness, shape (...): near 0 for a pure tone, near 1 for white noise, 0 for silence.

    Raises:
        InputError: If `x` cannot be measured.
    """
    shares = _shares(x)
    bins = shares.shape[-1]
    geometric_mean = (shares.log().sum(-1) / max(1, bins)).exp()
    return geometric_mean * bins  # the arithmetic mean of shares is 1 / bins


def spearman(x: Tensor, y: Tensor) -> Tensor:
    """Computes the size of Spearman's rank correlation: 1 also for a waveform and its negative.

    Args:
        x: Waveform, shape (..., time).
        y: Waveform of the same length; leading axes broadcast against those of `x`.

    Returns:
        Between 0 and 1, shape (...); 0 where either is constant.

    Raises:
        InputError: If a waveform cannot be measured, or the lengths differ.
    """
    x, y = _checked_pair(x, y)
    return _correlation(_ranks(x), _ranks(y)).abs()


def log_mel_correlation(x: Tensor, y: Tensor, *, sample_rate: float) -> Tensor:
    """Correlates two waveforms' log-mel spectrograms, over all their times and bands.

    Frames of 32 ms, half overlapping (shorter waveforms: one frame), 40 triangular bands up to
    half the sample rate, levels from each spectrogram's loudest point down to 80 dB below it.

    Args:
        x: Waveform, shape (..., time).
        y: Waveform of the same length; leading axes broadcast against those of `x`.
        sample_rate: Samples per second.

    Returns:
        Between -1 and 1, shape (...); 0 where either is silent.

    Raises:
        InputError: If a waveform cannot be measured, or the lengths differ.
    """
    x, y = _checked_pair(x, y)
    levels = (_log_mel(w, sample_rate).flatten(-2) for w in (x, y))
    return _correlation(*levels)


def gini(x: Tensor) -> Tensor:
    """Computes the Gini index of magnitudes: 0 where all are alike, near 1 for a single click.

    Args:
        x: Waveform, shape (..., time).

    Returns:
        Sparsity, shape (...), 0 for silence.

    Raises:
        InputError: If `x` cannot be measured.

    Source:
        Hurley & Rickard, "Comparing measures of sparsity" (2009).
    """
    magnitudes = _checked(x, "x").abs().sort(-1).values
    samples = x.shape[-1]
    total = magnitudes.sum(-1)
    # Sorted magnitudes m_1 <= ... <= m_n: Gini = 1 - 2 sum_k m_k / sum(m) * (n - k + 1/2) / n.
    place = torch.arange(1, samples + 1, dtype=magnitudes.dtype, device=x.device)
    weighted = (magnitudes * (samples - place + 0.5)).sum(-1) / samples
    return torch.where(total > 0, 1 - 2 * _ratio(weighted, total, total > 0), 0)


def effective_rank(waveforms: Tensor) -> Tensor:
    """Counts how many different sounds there are among several, whatever their levels.

    The exponential of the entropy of the singular values' shares, of waveforms scaled to one
    energy: the number of waveforms if all are orthogonal, 1 if all are alike but for level and
    sign.

    Args:
        waveforms: Shape (..., sounds, time); silent ones do not count.

    Returns:
        Between 1 and the number of sounds, shape (...); 0 if all are silent.

    Raises:
        InputError: If the waveforms cannot be measured.

    Source:
        Roy & Vetterli, "The effective rank" (2007).
    """
    waveforms = _checked(waveforms, "waveforms")
    # With rows scaled to norm 1 the singular values s of the matrix have sum(s^2) = number of rows.
    energy = waveforms.square().sum(-1, keepdim=True)
    rows = _ratio(waveforms, energy.sqrt(), energy > 0).double()
    # The products of all pairs are few; the waveforms are long.
    values = torch.linalg.eigvalsh(rows @ rows.mT).clamp(min=0).sqrt().to(waveforms)
    total = values.sum(-1, keepdim=True)
    entropy = torch.special.entr(_ratio(values, total, total > 0)).sum(-1)
    return torch.where(total[..., 0] > 0, entropy.exp(), 0)


def _ranks(x: Tensor) -> Tensor:
    """Returns the rank of each sample in its waveform; equal samples share one."""
    ordered, x = x.sort(-1).values.contiguous(), x.contiguous()
    # Equal samples share the mean of the first and the last place that they could have.
    lowest = torch.searchsorted(ordered, x)
    return (lowest + torch.searchsorted(ordered, x, right=True)).to(x) / 2


def _correlation(x: Tensor, y: Tensor) -> Tensor:
    """Pearson's correlation along the last axis, 0 where either is constant."""
    x, y = (w - w.mean(-1, keepdim=True) for w in (x, y))
    # A constant waveform has variance 0, or rounding: its correlation is not defined, and 0 here.
    norm = (x.square().sum(-1) * y.square().sum(-1)).sqrt()
    return _ratio((x * y).sum(-1), norm, norm > torch.finfo(x.dtype).eps).clamp(-1, 1)


def _log_mel(x: Tensor, sample_rate: float) -> Tensor:
    """Decibels from 0 at the loudest point to -80, shape (..., frame, band); silence has -80."""
    length = min(x.shape[-1], max(2, round(MEL_SECONDS * sample_rate)))
    power = _power(_spectra(x, length))
    bands = _mel_bands(length, sample_rate, like=power)
    energy = power @ bands
    loudest = energy.amax((-2, -1), keepdim=True)
    floor = 10 ** (-MEL_RANGE / 10)
    # Below the floor two spectrograms would be compared by their noise.
    relative = _ratio(energy, loudest, loudest > 0).clamp(min=floor)
    return 10 * relative.log10()


def _mel_bands(length: int, sample_rate: float, *, like: Tensor) -> Tensor:
    """Returns triangles, equally spaced in mel, shape (frequency, band)."""
    frequencies = _frequencies(length, sample_rate, like=torch.empty(0, dtype=torch.float64))
    corners = mel_to_hertz(np.linspace(0, hertz_to_mel(sample_rate / 2), MEL_BANDS + 2))
    return torch.from_numpy(triangles(frequencies.numpy(), corners)).T.to(like)


def _coherence(x: Tensor, y: Tensor, segment_length: int) -> Tensor:
    """Computes the coherence of pairs, shape (pair, frequency)."""
    x_spectra, y_spectra = _spectra(x, segment_length), _spectra(y, segment_length)
    x_power, y_power = _mean_power(x_spectra), _mean_power(y_spectra)
    # Welch: C = |mean over segments of conj(X) Y|^2 / (mean |X|^2 mean |Y|^2).
    cross_power = _power((x_spectra.conj() * y_spectra).mean(-2))
    audible = _audible(x_power, segment_length) & _audible(y_power, segment_length)
    return _ratio(cross_power, x_power * y_power, audible).clamp(max=1)


def _shares(x: Tensor) -> Tensor:
    """Returns each frequency's share of the Welch power, without 0 Hz; silence has zeros."""
    x = _checked(x, "x")
    length = min(SEGMENT_LENGTH, x.shape[-1])
    power = _mean_power(_spectra(x, length))[..., 1:]
    power = torch.where(_audible(power, length), power, 0)
    total = power.sum(-1, keepdim=True)
    return _ratio(power, total, total > 0)


def _shares_in_hertz(x: Tensor, sample_rate: float) -> tuple[Tensor, Tensor]:
    """Returns `_shares(x)` and their frequencies."""
    shares = _shares(x)
    length = min(SEGMENT_LENGTH, x.shape[-1])
    return shares, _frequencies(length, sample_rate, like=shares)[1:]


def _spectra(x: Tensor, segment_length: int) -> Tensor:
    """Returns spectra of segments, scaled to peak 1, shape (..., segment, frequency)."""
    # Scaled to peak 1, the same power counts as audible whatever the level of the recording.
    peak = x.abs().amax(-1, keepdim=True).clamp(min=torch.finfo(x.dtype).tiny)
    segments = (x / peak).unfold(-1, segment_length, segment_length - segment_length // 2)
    window = torch.hann_window(segment_length, dtype=x.dtype, device=x.device)
    spectra: Tensor = torch.fft.rfft((segments - segments.mean(-1, keepdim=True)) * window)
    return spectra


def _power(spectrum: Tensor) -> Tensor:
    return torch.view_as_real(spectrum).square().sum(-1)


def _mean_power(spectra: Tensor) -> Tensor:
    """Averages `_power(spectra)` over the segments; summing the parts last is twice as fast."""
    return torch.view_as_real(spectra).square().mean(-3).sum(-1)


def _audible(power: Tensor, segment_length: int) -> Tensor:
    """Tells where there is more power than an error of epsilon on every sample could leave."""
    return power > (torch.finfo(power.dtype).eps * segment_length) ** 2


def _ratio(numerator: Tensor, denominator: Tensor, valid: Tensor) -> Tensor:
    """Returns the quotient where `valid`, else 0."""
    return torch.where(valid, numerator / torch.where(valid, denominator, 1), 0)


def _frequencies(length: int, sample_rate: float, *, like: Tensor) -> Tensor:
    """Frequencies in hertz of an rfft over `length` samples."""
    if not 0 < sample_rate < math.inf:
        raise InputError(
            f"Frequencies cannot be given in hertz: expected a sample_rate above 0, got "
            f"{sample_rate!r}. Give the samples per second that the waveform was read at."
        )
    return (torch.arange(length // 2 + 1, dtype=torch.float64) * sample_rate / length).to(like)


def _checked(x: Tensor, name: str) -> Tensor:
    """Returns the waveform in float32 or float64, or raises if it cannot be measured."""
    if not (isinstance(x, Tensor) and x.is_floating_point() and x.ndim and x.numel()):
        got = f"{x.dtype} of shape {tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
        raise InputError(
            f"{name} cannot be measured: expected a floating tensor with samples along its last "
            f"axis, got {got}. Give torch.as_tensor(waveform, dtype=torch.float32)."
        )
    if not torch.stack(x.aminmax()).isfinite().all():
        raise InputError(
            f"{name} cannot be measured: expected finite samples, got {int((~x.isfinite()).sum())} "
            f"of {x.numel()} that are NaN or infinite. Find where they come from."
        )
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _checked_pair(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Broadcasts both waveforms against each other, or raises if they do not fit."""
    x, y = _checked(x, "x"), _checked(y, "y")
    if x.shape[-1] == y.shape[-1] and x.device == y.device:
        # broadcast_shapes raises ValueError for leading axes that do not fit; the message is below.
        with contextlib.suppress(ValueError):
            shape = np.broadcast_shapes(x.shape, y.shape)
            return x.expand(shape), y.expand(shape)
    raise InputError(
        "x and y cannot be compared: expected one length, one device and leading axes that "
        f"broadcast, got {tuple(x.shape)} on {x.device} and {tuple(y.shape)} on {y.device}. Cut or "
        "pad one to the other's length, or move it to the other's device."
    )


def _check_segments(samples: int, segment_length: int) -> None:
    """Raises unless two segments fit."""
    needed = 2 * segment_length - segment_length // 2
    if segment_length < 2 or samples < needed:
        raise InputError(
            f"coherence needs two segments: expected segment_length of at least 2 and at least "
            f"{needed} samples, got segment_length={segment_length} and {samples} samples. "
            "Give a longer waveform, or a segment_length of at most two thirds of its samples."
        )


def _check_bands(bands: Tensor) -> None:
    """Raises unless each band is a pair of frequencies in rising order."""
    pairs = bands.ndim == 2 and bands.shape[1] == 2
    if not (pairs and (bands[:, 0] >= 0).all() and (bands[:, 0] < bands[:, 1]).all()):
        raise InputError(
            f"band_energy cannot use bands={bands.tolist()}: expected pairs (low, high) in hertz "
            "with 0 <= low < high. Give for example [(0, 500), (500, 4000)]."
        )
