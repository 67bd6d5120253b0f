"""Tuning curves of filters whose tuning is known."""

import numpy as np
import pytest
import torch
from command import enter, factory, options
from scipy import signal
from torch import nn

from deconv1d import InputError, Sonifier
from deconv1d.cli.commands import main

RATE = 8000
BANDS = ((200, 400), (800, 1200), (2000, 3000))


def bank(*bands, taps=257):
    """A convolution whose channels are band-passes."""
    convolution = nn.Conv1d(1, len(bands), taps, bias=False)
    filters = [signal.firwin(taps, band, pass_zero=False, fs=RATE) for band in bands]
    weight = torch.tensor(np.stack(filters)[:, None], dtype=torch.float32)
    convolution.weight = nn.Parameter(weight)
    return convolution


@pytest.fixture(scope="module")
def sonifier():
    return Sonifier(nn.Sequential(bank(*BANDS), nn.ReLU()), sample_rate=RATE)


@pytest.mark.parametrize("stimuli", ["tones", "noise"])
def test_band_passes_are_tuned_to_their_bands(sonifier, stimuli):
    found = sonifier.tuning("0", stimuli=stimuli, seconds=0.5, per_octave=6)
    for row, (low, high) in zip(found.rows, BANDS, strict=True):
        assert low * 0.9 < row.centre_hertz < high * 1.1
        assert row.bandwidth_hertz == pytest.approx(high - low, rel=0.35)
        assert row.q == pytest.approx(row.centre_hertz / row.bandwidth_hertz)
        assert row.best_level_db == 0


def test_the_response_of_a_filter_is_exact(sonifier):
    exact = sonifier.tuning("0", seconds=0.1, per_octave=1).filter
    for channel in range(len(BANDS)):
        taps = sonifier.model[0].weight[channel, 0].detach().numpy()
        _, wanted = signal.freqz(taps, worN=exact.frequencies, fs=RATE)
        np.testing.assert_allclose(exact.magnitude[channel], np.abs(wanted), atol=1e-6)


def test_mean_activation_is_that_of_a_rectified_tone(sonifier):
    """The mean of a half-wave rectified sine of amplitude a is a / pi."""
    found = sonifier.tuning("0", channel=1, levels=[-20], seconds=1.0, per_octave=12)
    place = int(np.abs(found.frequencies - 1000).argmin())
    assert found.activation[0, 0, place] == pytest.approx(0.1 / np.pi, rel=0.05)


def test_a_channel_that_saturates_has_another_best_level():
    class Quiet(nn.Module):
        def __init__(self):
            super().__init__()
            self.bank = bank((800, 1200))

        def forward(self, x):
            y = self.bank(x).abs()
            return (y - 4 * y * y).relu()

    sonifier = Sonifier(Quiet(), sample_rate=RATE)
    name = next(row.name for row in sonifier.layers(torch.randn(4000)) if "relu" in row.name)
    row = sonifier.tuning(name, levels=[-60, -20, 0], seconds=0.5).rows[0]
    assert row.best_level_db == -20
    assert 750 < row.centre_hertz < 1250


def test_a_deeper_layer_has_no_exact_response_and_a_dead_channel_no_centre():
    torch.manual_seed(0)
    deep = nn.Conv1d(3, 2, 5, bias=False)
    with torch.no_grad():
        deep.weight[1] = -deep.weight[1].abs()
    model = nn.Sequential(bank(*BANDS), nn.ReLU(), deep, nn.ReLU())
    found = Sonifier(model, sample_rate=RATE).tuning("2", seconds=0.2, per_octave=2)
    assert found.filter is None
    assert found.rows[1].centre_hertz is None
    assert "-" in str(found)


def test_curves_of_all_channels_are_those_of_each(sonifier):
    every = sonifier.tuning("0", seconds=0.1, per_octave=2)
    one = sonifier.tuning("0", channel=2, seconds=0.1, per_octave=2)
    assert one.channels == (2,)
    np.testing.assert_array_equal(one.activation[0], every.activation[2])
    axes = one.plot().axes
    assert len(axes[0].lines) == len(one.levels)
    assert len(axes) == 2


@pytest.mark.parametrize(
    ("options", "word"),
    [({"stimuli": "clicks"}, "stimuli"), ({"channel": None}, "no tuning curve")],
)
def test_what_cannot_be_used_is_said(sonifier, options, word):
    with pytest.raises(InputError, match=word):
        sonifier.tuning("0", seconds=0.1, **options)


def test_the_rate_must_be_known():
    with pytest.raises(InputError, match="sample rate"):
        Sonifier(bank(*BANDS)).tuning("0")


# --- the command ---------------------------------------------------------------------------------


def test_the_command_prints_a_table_and_writes_curves(tmp_path, monkeypatch, capsys):
    enter(tmp_path, monkeypatch)
    arguments = ["tuning", *options(), "--layer", "0", "--seconds", "0.1", "--per-octave", "1"]
    files = ["-o", "curves.csv", "--figure", "curves.png"]
    assert main([*arguments, "--channel", "1,3", "--levels=-20,0", *files]) == 0
    assert "centre hertz" in capsys.readouterr().out
    lines = (tmp_path / "curves.csv").read_text().splitlines()
    found = Sonifier(factory("mono"), sample_rate=RATE).tuning(
        "0", channel=[1, 3], levels=[-20, 0], seconds=0.1, per_octave=1
    )
    assert lines[0].startswith("layer,channel,stimuli,level_db,hertz")
    assert len(lines) == 1 + found.activation.size
    values = [float(line.split(",")[-1]) for line in lines[1:]]
    above = found.activation - found.silence[:, None, None]
    np.testing.assert_allclose(values, above.flatten(), rtol=1e-4, atol=1e-6)
    assert (tmp_path / "curves.png").stat().st_size > 1000


def test_the_command_refuses_what_is_no_number(tmp_path, monkeypatch, capsys):
    enter(tmp_path, monkeypatch)
    assert main(["tuning", *options(), "--layer", "0", "--channel", "first"]) == 2
    assert "--channel 'first' cannot be read" in capsys.readouterr().err


def test_a_row_says_itself_in_plain_words(sonifier):
    row = sonifier.tuning("0", channel=1, seconds=0.2).rows[0]
    assert row.sentence.startswith(f"It responds most to {row.centre_hertz:.0f} Hz at 0 dB")
