"""Masks heard through another STFT, shifted and in noise: robust ones stay, others are seen."""

import pytest
import torch
from bands import BANDS, RATE, bank, tones

from deconv1d import InputError, Sonifier
from deconv1d.evaluation.disturbed import (
    AS_IT_IS,
    DISTURBANCES,
    NOISE,
    NOISY,
    OTHER_STFT,
    SHIFTED,
    disturbed_masks,
    through_another_stft,
)
from deconv1d.masks.grid import Grid
from deconv1d.masks.spectrogram import spectrogram_of

CLIPS = [tones(300, 1000, 2200, 3200), tones(250, 1100, 2400, 3300)]


def test_masks_of_band_passes_outlive_every_disturbance():
    found = disturbed_masks(Sonifier(bank(*BANDS), sample_rate=RATE), ["0"], CLIPS).scores["0"]
    assert tuple(found) == DISTURBANCES
    for name in DISTURBANCES:
        identified, _, in_minus_out = found[name].mean(0).tolist()
        assert identified == 1, name
        assert in_minus_out > 1, name
    assert found[NOISY][0, 1] != found[AS_IT_IS][0, 1]
    assert found[SHIFTED][0, 1] == pytest.approx(float(found[AS_IT_IS][0, 1]), rel=0.02)
    assert found[OTHER_STFT][0, 1] == pytest.approx(float(found[AS_IT_IS][0, 1]), rel=0.1)


def test_what_hangs_on_the_sample_is_seen():
    """A model that answers the 2-sample grid of its input alone: one shift and it is silent."""

    class Even(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = bank(*BANDS)

        def forward(self, x):
            return self.layers(x * (torch.arange(x.shape[-1]) % 2 == 0))

    clip = CLIPS[0] * (torch.arange(len(CLIPS[0])) % 2 == 0)
    found = disturbed_masks(Sonifier(Even(), sample_rate=RATE), ["layers.0"], [clip])
    as_it_is, shifted = (found.scores["layers.0"][name][0, 1] for name in (AS_IT_IS, SHIFTED))
    assert shifted < 0.9 * as_it_is


@pytest.mark.parametrize("samples", [1600, 4000, 3993])
def test_another_stft_hears_the_same_cells(samples):
    x = sum(CLIPS)[:samples]
    grid = Grid(RATE, samples)
    masks = torch.ones(1, *grid.shape, dtype=x.dtype)
    torch.testing.assert_close(through_another_stft(x, masks, RATE)[0], x)
    masks[:, 16:] = 0
    own = spectrogram_of(x, grid).masked(masks)
    other = through_another_stft(x, masks, RATE)
    assert float(torch.cosine_similarity(own, other)) > 0.97
    assert not torch.allclose(own, other)


def test_windows_that_tell_fewer_bands_apart_are_refused():
    masks = torch.ones(1, *Grid(RATE, 4000).shape, dtype=torch.float64)
    with pytest.raises(InputError, match="tell apart, got 32"):
        through_another_stft(CLIPS[0], masks, RATE, window_seconds=0.008)


def test_noise_is_as_loud_as_it_says():
    assert pytest.approx(10 ** (-20 / 20)) == NOISE
