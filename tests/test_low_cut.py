"""The high-pass for listening."""

import pytest
import scipy.signal
import torch
from bands import BANDS, RATE, bank, tones
from command import enter, samples, sonify, sound, write

from deconv1d import InputError, Sonifier
from deconv1d.low_cut import ORDER, cut_lows


@pytest.mark.parametrize("length", [1, 37, 4001])
def test_it_is_a_butterworth_filter_without_delay(length):
    x = torch.randn(2, length, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = cut_lows(x, 900.0, RATE)
    whole = length + round(4 * RATE / 900)
    sections = scipy.signal.butter(ORDER, 900, "highpass", analog=True, output="ba")
    frequencies = torch.fft.rfftfreq(whole, 1 / RATE, dtype=torch.float64)
    _, response = scipy.signal.freqs(*sections, worN=frequencies.numpy())
    spectrum = torch.fft.rfft(x, whole) * torch.from_numpy(abs(response))
    torch.testing.assert_close(found, torch.fft.irfft(spectrum, whole)[..., :length])


def test_lows_go_and_the_rest_stays():
    low, high = tones(20), tones(1000)
    kept = cut_lows(low + high, 50.0, RATE)[400:-400]
    torch.testing.assert_close(kept, high[400:-400], atol=0.01, rtol=0)


def test_a_sonification_without_lows_has_the_inputs_peak():
    sonifier = Sonifier(bank(*BANDS), sample_rate=RATE)
    x = tones(300, 1000)
    plain, cut = (sonifier.sonify(x, layer="0", channel=[0, 1], low_cut=c) for c in (None, 250.0))
    torch.testing.assert_close(cut.raw, cut_lows(plain.raw, 250.0, RATE))
    assert cut.waveform.abs().amax(-1).tolist() == pytest.approx([float(x.abs().max())] * 2)


def test_the_command_cuts_too(tmp_path, monkeypatch):
    enter(tmp_path, monkeypatch)
    clip = write("clip.wav", sound(2400))
    assert sonify(clip) == 0
    plain = samples("out.wav")
    assert sonify(clip, "--low-cut", "500") == 0
    assert abs(samples("out.wav") - plain).max() > 0.01


def test_what_cannot_be_cut_is_said():
    x = torch.randn(400, dtype=torch.float64)
    with pytest.raises(InputError, match="low_cut needs a sample rate"):
        Sonifier(bank(*BANDS)).sonify(x, layer="0", channel=0, low_cut=50)
    for hertz in (0, -1, 4000, float("nan")):
        with pytest.raises(InputError, match="expected hertz between 0 and 4000"):
            Sonifier(bank(*BANDS), sample_rate=RATE).sonify(x, layer="0", channel=0, low_cut=hertz)
