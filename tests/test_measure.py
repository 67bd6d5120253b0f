"""Coherence against SciPy, spectra against SciPy's Welch estimate, and what has no spectrum."""

import math

import numpy as np
import pytest
import scipy.signal
import scipy.stats
import torch

from deconv1d import measure
from deconv1d.errors import InputError
from deconv1d.measure import (
    band_energy,
    coherence,
    effective_rank,
    gini,
    log_mel_correlation,
    mean_top_coherence,
    spearman,
    spectral_bandwidth,
    spectral_centroid,
    spectral_entropy,
    spectral_flatness,
    unrelated_coherence,
)

RATE = 8000
SHAPES = [spectral_entropy, spectral_flatness] + [
    lambda x, f=f: f(x, sample_rate=RATE) for f in (spectral_centroid, spectral_bandwidth)
]


def noise(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def pair(*shape: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Two waveforms with something in common, off centre and drifting."""
    x = noise(*shape) + torch.linspace(0, 5, shape[-1], dtype=torch.float64)
    return x, 0.5 * x.roll(3, -1) + noise(*shape, seed=1) - 0.7


def tone(hertz: float, samples: int = RATE) -> torch.Tensor:
    return torch.cos(2 * math.pi * hertz / RATE * torch.arange(samples, dtype=torch.float64))


@pytest.mark.parametrize(
    ("samples", "segment_length"),
    [(80_000, 256), (39_991, 256), (385, 256), (384, 256), (1000, 255), (50, 33), (3, 2)],
)
def test_coherence_equals_scipy(samples, segment_length):
    x, y = pair(2, 3, samples)
    expected = scipy.signal.coherence(x.numpy(), y.numpy(), nperseg=segment_length)[1]
    result = coherence(x, y, segment_length=segment_length)
    assert result.dtype == torch.float64
    np.testing.assert_allclose(result.numpy(), expected, rtol=0, atol=1e-10)


def test_coherence_in_float32_is_close_to_float64():
    x, y = pair(3, 8000)
    result = coherence(x.float(), y.float())
    assert result.dtype == torch.float32
    torch.testing.assert_close(result.double(), coherence(x, y), rtol=0, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_measured_in_float32(dtype):
    x, y = (waveform.to(dtype) for waveform in pair(1000))
    torch.testing.assert_close(coherence(x, y), coherence(x.float(), y.float()), rtol=0, atol=0)


def test_a_batch_is_its_items_whatever_the_chunks(monkeypatch):
    x, y = pair(7, 1000)
    one_by_one = torch.stack([coherence(a, b) for a, b in zip(x, y, strict=True)])
    monkeypatch.setattr(measure, "CHUNK_SAMPLES", 3000)
    torch.testing.assert_close(coherence(x, y), one_by_one, rtol=0, atol=1e-14)


def test_leading_axes_broadcast():
    x, y = pair(2, 3, 1000)
    torch.testing.assert_close(coherence(x[0, 0], y)[1, 2], coherence(x[0, 0], y[1, 2]))
    assert coherence(x[:, :1], y[:1]).shape == (2, 3, 129)


@pytest.mark.parametrize("scale", [1e-42, 1e-30, -1.0, 1e30, 1e38])
def test_coherence_ignores_scale(scale):
    x, y = (waveform.float() / 10 for waveform in pair(8000))
    scaled = coherence(x * scale, y)
    tolerance = 1e-5 if abs(scale) > 1e-38 else 0.05  # subnormal numbers have few digits
    torch.testing.assert_close(scaled, coherence(x, y), rtol=0, atol=tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("level", [0.0, 0.1, -3.0])
def test_silence_and_constants_have_no_coherence(dtype, level):
    silent, sound = torch.full((1000,), level, dtype=dtype), noise(1000, dtype=dtype)
    both = torch.stack([silent, sound])
    result = coherence(both, sound, segment_length=200)
    assert torch.equal(result[0], torch.zeros(101, dtype=dtype))
    assert 0.99 < result[1].min() <= result[1].max() <= 1
    assert torch.equal(coherence(silent, silent, segment_length=200), result[0])
    assert mean_top_coherence(silent, sound, segment_length=200) == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_rounding_beside_a_tone_has_no_coherence(dtype):
    x, y = tone(1000, 8).repeat(125).to(dtype), tone(2000, 8).repeat(125).to(dtype)
    assert torch.equal(coherence(x, y), torch.zeros(129, dtype=dtype))
    assert coherence(x, x).nonzero().squeeze(1).tolist() == [31, 32, 33]  # Hann's main lobe
    assert spectral_flatness(x) == 0


def test_mean_top_coherence_is_equation_3_for_each_pair():
    x, y = pair(4, 8000)
    values = scipy.signal.coherence(x.numpy(), y.numpy())[1]
    for top_k in (1, 5, 129):
        expected = np.sort(values, axis=-1)[..., -top_k:].mean(-1)
        result = mean_top_coherence(x, y, top_k=top_k).numpy()
        np.testing.assert_allclose(result, expected, rtol=0, atol=1e-10)
    assert torch.equal(mean_top_coherence(x, y), mean_top_coherence(x, y, top_k=5))


@pytest.mark.parametrize("top_k", [0, 130])
def test_mean_top_coherence_refuses_more_frequencies_than_there_are(top_k):
    with pytest.raises(InputError, match="top_k from 1 to 129"):
        mean_top_coherence(*pair(1000), top_k=top_k)


@pytest.mark.parametrize(("samples", "segment_length"), [(383, 256), (100, 256), (2, 2), (9, 1)])
def test_fewer_than_two_segments_are_an_error(samples, segment_length):
    with pytest.raises(InputError, match="two segments"):
        coherence(*pair(samples), segment_length=segment_length)


@pytest.mark.parametrize("shapes", [((1000,), (999,)), ((1000,), (1,)), ((2, 1000), (3, 1000))])
def test_waveforms_that_do_not_match_are_an_error(shapes):
    with pytest.raises(InputError, match="one length, one device and leading axes"):
        coherence(*(noise(*shape) for shape in shapes))


BAD = {
    "None": (None, "NoneType"),
    "array": (np.zeros(1000), "ndarray"),
    "integers": (torch.zeros(1000, dtype=torch.int16), "int16"),
    "complex": (torch.zeros(1000, dtype=torch.complex64), "complex64"),
    "scalar": (torch.tensor(1.0), r"shape \(\)"),
    "empty": (torch.zeros(3, 0), r"shape \(3, 0\)"),
    "nan": (torch.tensor([0.0, math.nan] * 500), "500 of 1000 that are NaN"),
    "infinity": (torch.tensor([0.0, -math.inf] * 500), "500 of 1000 that are NaN"),
}


@pytest.mark.parametrize(("waveform", "message"), BAD.values(), ids=BAD)
def test_what_cannot_be_measured_is_an_error(waveform, message):
    with pytest.raises(InputError, match=f"x cannot be measured.*{message}"):
        coherence(waveform, noise(1000))
    with pytest.raises(InputError, match=f"y cannot be measured.*{message}"):
        coherence(noise(1000), waveform)
    with pytest.raises(InputError, match=message):
        band_energy(waveform, [(0, 4000)], sample_rate=RATE)
    for shape in SHAPES:
        with pytest.raises(InputError, match=message):
            shape(waveform)


@pytest.mark.parametrize("samples", [1, 2, 255, 1000, 1001])
def test_bands_that_tile_the_spectrum_hold_all_the_energy(samples):
    x = noise(2, 3, samples) + 0.5
    energy = band_energy(x, [(0, 700), (700, 701), (701, 4000)], sample_rate=RATE)
    assert energy.shape == (2, 3, 3)
    torch.testing.assert_close(energy.sum(-1), x.square().sum(-1), rtol=1e-12, atol=0)


@pytest.mark.parametrize(("hertz", "band"), [(0, 0), (499, 0), (500, 1), (3000, 2), (4000, 2)])
def test_a_tone_is_in_the_band_that_begins_at_or_below_it(hertz, band):
    x = tone(hertz)
    energy = band_energy(x, [(0, 500), (500, 3000), (3000, 4000)], sample_rate=RATE)
    expected = torch.zeros(3, dtype=torch.float64)
    expected[band] = x.square().sum()
    torch.testing.assert_close(energy, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("bands", [[], [(500, 500)], [(-1, 500)], (0, 500), [(0, 1, 2)]])
def test_bands_must_rise(bands):
    with pytest.raises(InputError, match="0 <= low < high"):
        band_energy(noise(1000), bands, sample_rate=RATE)


@pytest.mark.parametrize("rate", [0, -8000, math.nan, math.inf])
def test_hertz_need_a_sample_rate(rate):
    with pytest.raises(InputError, match="sample_rate above 0"):
        spectral_centroid(noise(1000), sample_rate=rate)
    with pytest.raises(InputError, match="sample_rate above 0"):
        band_energy(noise(1000), [(0, 100)], sample_rate=rate)


@pytest.mark.parametrize("samples", [8000, 8001, 256, 201, 5])
def test_spectral_shapes_equal_those_of_scipys_welch_spectrum(samples):
    x = noise(3, samples).cumsum(-1)
    length = min(256, samples)
    frequencies, density = scipy.signal.welch(
        x.numpy(), RATE, nperseg=length, return_onesided=False
    )
    frequencies, density = np.abs(frequencies[1 : length // 2 + 1]), density[:, 1 : length // 2 + 1]
    share = density / density.sum(-1, keepdims=True)
    centroid = share @ frequencies
    bandwidth = [
        math.sqrt(row @ (frequencies - centre) ** 2)
        for row, centre in zip(share, centroid, strict=True)
    ]
    entropy = scipy.stats.entropy(share, axis=-1, base=len(frequencies))
    flatness = scipy.stats.gmean(density, axis=-1) / density.mean(-1)
    for shape, expected in zip(SHAPES, (entropy, flatness, centroid, bandwidth), strict=True):
        np.testing.assert_allclose(shape(x).numpy(), expected, rtol=1e-9)


def test_spectral_shapes_tell_a_tone_from_noise():
    x = torch.stack([tone(1000, 80_000), noise(80_000)])
    assert spectral_centroid(x, sample_rate=RATE).tolist() == pytest.approx([1000, 2000], rel=0.02)
    assert spectral_bandwidth(x, sample_rate=RATE)[0] < 20
    for shape in (spectral_entropy, spectral_flatness):
        low, high = shape(x).tolist()
        assert low < 0.3
        assert high > 0.97


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("samples", [1, 2, 3, 200, 1000])
def test_silence_and_constants_have_no_spectrum(dtype, samples):
    for level in (0.0, 0.1, 1e-42):
        x = torch.full((2, samples), level, dtype=dtype)
        for shape in SHAPES:
            assert torch.equal(shape(x), torch.zeros(2, dtype=dtype))


@pytest.mark.parametrize("samples", [2, 3])
def test_one_frequency_has_no_entropy_and_is_flat(samples):
    x = torch.arange(samples, dtype=torch.float64)
    assert spectral_entropy(x) == 0
    assert spectral_flatness(x) == 1


# --- how alike, how sparse, how many -------------------------------------------------------------


def test_spearman_is_scipys_with_ties_and_in_batches():
    x, y = (torch.round(w) for w in pair(2, 3, 501))
    values = spearman(x, -y)
    assert values.shape == (2, 3)
    for index in np.ndindex(2, 3):
        expected = scipy.stats.spearmanr(x[index], y[index]).statistic
        assert float(values[index]) == pytest.approx(expected, abs=1e-12)
        assert expected > 0.1


def test_spearman_of_a_constant_is_zero():
    assert spearman(torch.full((99,), 0.1), noise(99)[None].float()).tolist() == [0]


def test_log_mel_correlation_by_the_definition():
    x, y = pair(4000)
    length = 256  # 32 ms
    edges = 700 * (10 ** (np.linspace(0, 2595 * np.log10(1 + 4000 / 700), 42) / 2595) - 1)
    hertz = np.arange(length // 2 + 1) * RATE / length
    bands = np.stack([np.interp(hertz, edges[k : k + 3], [0, 1, 0]) for k in range(40)])
    levels = []
    for waveform in (x.numpy(), y.numpy()):
        starts = range(0, len(waveform) - length + 1, length // 2)
        frames = np.stack([waveform[s : s + length] for s in starts])
        window = scipy.signal.get_window("hann", length)
        frames = (frames - frames.mean(1, keepdims=True)) * window
        energy = np.abs(np.fft.rfft(frames)) ** 2 @ bands.T
        levels.append(10 * np.log10(np.maximum(energy / energy.max(), 1e-8)).ravel())
    expected = np.corrcoef(*levels)[0, 1]
    value = log_mel_correlation(x, y, sample_rate=RATE)
    assert float(value) == pytest.approx(expected, abs=1e-9)


def test_log_mel_correlation_knows_sound_from_level_phase_and_silence():
    x = tone(440) + torch.cat([torch.zeros(4000), tone(2000)[:4000]])

    def like(y):
        return float(log_mel_correlation(x, y, sample_rate=RATE))

    assert like(-0.01 * x) == pytest.approx(1)
    assert like(x.flip(0)) < 0.9
    assert like(torch.zeros_like(x)) == 0
    assert torch.isfinite(log_mel_correlation(x[:50], x[1:51], sample_rate=RATE))


@pytest.mark.parametrize(
    ("x", "expected"), [([3.0, -3, 3], 0), ([0, 0, 0, -9.0], 0.75), ([0.0], 0)]
)
def test_gini(x, expected):
    assert float(gini(torch.tensor(x))) == pytest.approx(expected)


def test_gini_is_the_mean_difference_of_all_pairs():
    x = noise(200).abs()
    pairs = (x[:, None] - x).abs().mean() / (2 * x.mean())
    assert float(gini(x)) == pytest.approx(float(pairs))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_effective_rank_counts_different_sounds(dtype):
    sounds = torch.stack([tone(100 * k) for k in range(1, 5)]).to(dtype)
    sounds *= torch.tensor([1.0, 1e-3, -5, 100]).to(dtype)[:, None]
    assert float(effective_rank(sounds)) == pytest.approx(4, abs=1e-3)
    assert float(effective_rank(sounds[[0, 0, 0]] * 3)) == pytest.approx(1, abs=1e-3)
    silent = torch.cat([sounds, torch.zeros_like(sounds)])
    assert float(effective_rank(silent)) == pytest.approx(4, abs=1e-3)
    assert float(effective_rank(torch.zeros(3, 50))) == 0


def test_effective_rank_by_the_definition_in_batches():
    sounds = noise(2, 5, 300)
    values = effective_rank(sounds)
    for one, group in zip(values, sounds.numpy(), strict=True):
        rows = group / np.linalg.norm(group, axis=1, keepdims=True)
        singular = np.linalg.svd(rows, compute_uv=False)
        expected = np.exp(scipy.stats.entropy(singular / singular.sum()))
        assert float(one) == pytest.approx(expected)


@pytest.mark.parametrize("samples", [600, 1000, 4000, 20000])
def test_unrelated_noise_has_the_coherence_that_its_length_gives(samples):
    x, y = torch.randn(2, 60, samples, generator=torch.Generator().manual_seed(0))
    found = float(mean_top_coherence(x, y).mean())
    assert unrelated_coherence(samples) == pytest.approx(found, rel=0.08)
    one = float(mean_top_coherence(x, y, top_k=1).mean())
    assert unrelated_coherence(samples, top_k=1) == pytest.approx(one, rel=0.2)


def test_two_segments_must_fit_for_unrelated_noise():
    with pytest.raises(InputError, match="two segments"):
        unrelated_coherence(300)
