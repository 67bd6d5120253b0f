"""Masks: laws of the grid, oracles of each step, and channels whose cells are known."""

import warnings

import numpy as np
import pytest
import scipy.signal
import sklearn.linear_model
import torch
from torch import nn
from torch.testing import assert_close

from deconv1d import InputError, SilenceWarning, Sonifier, progress
from deconv1d.channels import means
from deconv1d.evaluation.identity import answers_of
from deconv1d.logger import SonificationLogger
from deconv1d.masks.budget import OPEN, SHARPNESS, unit, within_budget
from deconv1d.masks.draws import random_masks
from deconv1d.masks.effects import RIDGE, effects
from deconv1d.masks.grid import Grid
from deconv1d.masks.listen import STEPS
from deconv1d.masks.refine import refined
from deconv1d.masks.spectrogram import spectrogram_of
from deconv1d.masks.target import EVEN, target_of

RATE = 8000
TONES = (1200.0, 2600.0)  # hertz; far from each other, each well inside one band
SECONDS = 0.4


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=draws(seed))


class Bank(nn.Module):
    """One band-pass channel for each of some tones, rectified; the last channel is always 0."""

    def __init__(self, tones=TONES, *, width=250, taps: int = 65, audio_channels: int = 1):
        super().__init__()
        filters = [
            scipy.signal.firwin(taps, (f - width, f + width), pass_zero=False, fs=RATE)
            for f in tones
        ]
        self.conv = nn.Conv1d(audio_channels, len(TONES) + 1, taps, bias=False).double()
        weight = torch.from_numpy(np.stack([*filters, np.zeros(taps)]))
        self.conv.weight.data = weight[:, None].repeat(1, audio_channels, 1)
        self.act = nn.ReLU()
        self.head = nn.Linear(len(TONES) + 1, len(TONES) + 1, bias=False).double()
        self.head.weight.data = torch.eye(len(TONES) + 1, dtype=torch.float64) - 0.5

    def forward(self, x):
        return self.head(self.act(self.conv(x)).mean(-1))


def bursts() -> list[torch.Tensor]:
    """The tones, each at its own time, with some overlap."""
    time = torch.arange(round(SECONDS * RATE), dtype=torch.float64) / RATE
    edges = ((0.04, 0.24), (0.14, 0.36))
    gates = [((time >= start) & (time < stop)).double() for start, stop in edges]
    sounds = [torch.sin(2 * torch.pi * f * time) * g for f, g in zip(TONES, gates, strict=True)]
    return [sound / sound.square().mean().sqrt() for sound in sounds]


STEMS = bursts()
MIXTURE = sum(STEMS)
GRID = Grid(RATE, len(MIXTURE))


def pointing(sound, driver, other) -> float:
    """Share of a sound's energy under the driver's ideal ratio mask, at twice the mask's window."""
    window = 2 * GRID.window
    spectra = [
        torch.stft(
            x,
            window,
            window // 4,
            window=torch.hann_window(window, dtype=torch.float64),
            pad_mode="constant",
            return_complex=True,
        )
        for x in (sound, driver, other)
    ]
    energy, one, two = (each.abs().square() for each in spectra)
    ratio = torch.where(one + two > 1e-6 * (one + two).max(), one / (one + two), 0.5)
    return float((energy * ratio).sum() / energy.sum())


@pytest.fixture(scope="module")
def sonifier() -> Sonifier:
    return Sonifier(Bank(), sample_rate=RATE)


@pytest.fixture(scope="module")
def found(sonifier):
    return sonifier.sonify(MIXTURE, layer="conv", channel=[0, 1], method="mask")


# --- channels whose cells are known --------------------------------------------------------------


def test_each_channel_of_a_bank_is_heard_as_its_own_tone(found):
    assert pointing(found.waveform[0], *STEMS) > 0.99
    assert pointing(found.waveform[1], *STEMS[::-1]) > 0.99


@pytest.mark.parametrize(
    "wrong",
    [
        lambda mask: mask.flip(0),  # the other channel's
        lambda mask: 1 - mask,
        lambda mask: mask.roll(5, dims=-2),
        lambda mask: torch.ones_like(mask),
    ],
    ids=["another channel's", "inverted", "shifted in frequency", "open"],
)
def test_a_wrong_mask_does_not_point(found, wrong):
    sounds = spectrogram_of(MIXTURE, GRID).masked(wrong(found.mask))
    scores = pointing(sounds[0], *STEMS), pointing(sounds[1], *STEMS[::-1])
    assert sum(scores) / 2 < 0.9


def test_a_mask_tells_neighbouring_bands_apart_and_one_band_further_it_does_not_point():
    tones = [sum(GRID.hertz[band]) / 2 for band in (24, 25)]
    time = torch.arange(len(MIXTURE), dtype=torch.float64) / RATE
    stems = [torch.sin(2 * torch.pi * tone * time) for tone in tones]
    sonifier = Sonifier(Bank(tones, width=60, taps=257), sample_rate=RATE)
    options = {"layer": "conv", "channel": [0, 1]}
    found = sonifier.sonify(sum(stems), method="mask", **options)
    recording = spectrogram_of(sum(stems), GRID)

    def score(sounds) -> float:
        return (pointing(sounds[0], *stems) + pointing(sounds[1], *stems[::-1])) / 2

    assert score(found.waveform) > 0.99
    assert score(sonifier.sonify(sum(stems), **options).waveform) > 0.99  # the deconvnet's
    for step in (-1, 1):
        assert score(recording.masked(found.mask.roll(step, dims=-2))) < 0.5
    # Nor does the model itself take a wrong mask for the right one.
    wrong = {
        "one band lower": found.mask.roll(-1, dims=-2),
        "one band higher": found.mask.roll(1, dims=-2),
        "another channel's": found.mask.flip(0),
        "inverted": 1 - found.mask,
    }
    right = answers_of(sonifier, sum(stems), "conv", [0, 1], found.waveform)
    assert right.summary[0] == 1
    assert right.summary[2] > 1
    for name, mask in wrong.items():
        answers = answers_of(sonifier, sum(stems), "conv", [0, 1], recording.masked(mask))
        assert answers.summary[0] <= 0.5, name
        assert answers.summary[2] < 0.3, name


def test_a_channel_answers_its_mask_and_not_what_is_masked_out(sonifier):
    found = sonifier.sonify(MIXTURE, layer="conv", channel=[0, 1], method="mask", budget=0.6)
    whole, kept, left = (
        means(sonifier.maps(x, layer="conv"))[:, :2]
        for x in (MIXTURE[None, None], found.waveform[:, None], found.residual[:, None])
    )
    assert (kept.diagonal() > 2 * left.diagonal()).all()
    assert (torch.stack([kept[0, 1], kept[1, 0]]) < 0.05 * whole[0]).all()


def test_a_class_is_heard_as_what_speaks_for_it(sonifier):
    found = sonifier.sonify(MIXTURE, layer="head", channel=[0, 1], method="mask")
    assert pointing(found.waveform[0], *STEMS) > 0.99
    assert pointing(found.waveform[1], *STEMS[::-1]) > 0.99


def test_the_energy_kept_is_within_the_budget(sonifier):
    spectrogram = spectrogram_of(MIXTURE, GRID)
    for budget in (0.05, 0.25):
        found = sonifier.sonify(MIXTURE, layer="conv", channel=0, method="mask", budget=budget)
        kept = (found.mask.square() * spectrogram.energy).sum() / spectrogram.energy.sum()
        assert kept <= budget + 1e-9
        assert found.budget == budget


# --- what comes out ------------------------------------------------------------------------------


def test_the_residual_is_what_is_masked_out(found):
    masked_out = spectrogram_of(MIXTURE, GRID).masked(1 - found.mask)
    assert_close(found.residual, masked_out)
    assert found.method == "mask"
    assert_close(found.raw, found.waveform)


def test_several_channels_layers_and_clips_are_as_one_by_one(sonifier, found):
    batch = torch.stack([MIXTURE, MIXTURE.roll(500) + 0.1 * noise(len(MIXTURE))])[:, None]
    together = sonifier.listen(batch, layers=["conv", "head"], channel=[0, 1], generator=draws(3))
    assert together[0].waveform.shape == (2, *batch.shape)
    assert together[0].mask.shape == (2, 2, *GRID.shape)
    for number, clip in enumerate(batch):
        for both, layer in zip(together, ["conv", "head"], strict=True):
            alone = sonifier.sonify(
                clip[None], layer=layer, channel=number, method="mask", generator=draws(3)
            )
            assert_close(alone.mask[0], both.mask[number, number])
            assert_close(alone.waveform[0], both.waveform[number, number])


def test_masks_of_one_generator_are_the_same_and_no_other_state_moves(sonifier, found):
    before = torch.random.get_rng_state()
    again = sonifier.sonify(MIXTURE, layer="conv", channel=[0, 1], method="mask")
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(again.waveform, found.waveform)
    other = sonifier.sonify(
        MIXTURE, layer="conv", channel=[0, 1], method="mask", generator=draws(1)
    )
    assert not torch.equal(other.waveform, found.waveform)


@pytest.mark.parametrize("channel", ["most_active", None, "all", 1])
def test_every_way_to_name_channels(sonifier, channel):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SilenceWarning)  # "all" holds the channel that is dead
        found = sonifier.sonify(MIXTURE, layer="conv", channel=channel, method="mask")
    leading = (3,) if channel == "all" else ()
    assert found.waveform.shape == (*leading, len(MIXTURE))
    assert found.mask.shape == (*leading, *GRID.shape)
    assert found.gain.shape == (*leading, 1)


def test_rivals_make_a_mask_the_channels_own(sonifier):
    alone, against = (
        sonifier.sonify(MIXTURE, layer="head", channel=0, method="mask", rivals=rivals)
        for rivals in (None, 8)
    )
    assert not torch.equal(alone.mask, against.mask)


def test_several_audio_channels_share_a_mask():
    sonifier = Sonifier(Bank(audio_channels=2), sample_rate=RATE)
    x = torch.stack([MIXTURE, 0.5 * MIXTURE])[None]
    found = sonifier.sonify(x, layer="conv", channel=0, method="mask")
    assert found.waveform.shape == x.shape
    assert found.mask.shape == (1, *GRID.shape)
    assert_close(found.waveform[0, 1], 0.5 * found.waveform[0, 0])
    assert pointing(found.waveform[0, 0], *STEMS) > 0.99


def test_a_model_that_takes_one_clip_at_a_time():
    class One(Bank):
        def forward(self, x):
            assert len(x) == 1
            return super().forward(x)

    found = Sonifier(One(), sample_rate=RATE).sonify(
        MIXTURE, layer="conv", channel=0, method="mask"
    )
    assert pointing(found.waveform, *STEMS) > 0.99


@pytest.mark.parametrize(("x", "channel"), [(MIXTURE, 2), (torch.zeros(4000).double(), 0)])
def test_a_dead_map_and_a_silent_input_give_silence(sonifier, x, channel):
    with pytest.warns(SilenceWarning):
        found = sonifier.sonify(x, layer="conv", channel=channel, method="mask")
    assert not found.waveform.any()
    assert not found.gain.any()


def test_half_precision_and_numpy_come_back_as_they_went_in():
    sonifier = Sonifier(Bank().float(), sample_rate=RATE)
    for x in (MIXTURE.half(), MIXTURE.float()):
        found = sonifier.sonify(x, layer="conv", channel=0, method="mask")
        assert found.waveform.dtype == x.dtype
    assert pointing(found.waveform.double(), *STEMS) > 0.99


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"budget": 0}, "above 0 and up to 1"),
        ({"rivals": "all"}, "number of channels, or None"),
        ({"seed": "peak"}, "expected seed='activation'"),
        ({"low_cut": 50.0}, "expected low_cut=None"),
    ],
)
def test_what_cannot_be_asked_of_a_mask(sonifier, options, message):
    with pytest.raises(InputError, match=message):
        sonifier.sonify(MIXTURE, layer="conv", channel=0, method="mask", **options)


def test_a_mask_needs_the_sample_rate():
    with pytest.raises(InputError, match="above 0 Hz, got None"):
        Sonifier(Bank()).sonify(MIXTURE, layer="conv", channel=0, method="mask")


def test_how_far_the_search_is_is_said_where_it_was_asked_for(sonifier, monkeypatch, capsys):
    monkeypatch.setattr(progress, "EVERY", 0.0)
    for asked in (None, False, True):
        sonifier.listen(MIXTURE, layers=["conv"], channel=[0, 1], progress=asked)
        lines = capsys.readouterr().err.splitlines()
        assert bool(lines) == bool(asked)
    batches = 1 + STEPS  # the random masks fit into one; then one for each step
    assert lines[-1] == f"masks: {batches} of {batches} batches, 00:00 left"


# --- wherever a method can be named --------------------------------------------------------------


def test_a_mask_in_the_form_of_captums(sonifier, found):
    captum_form = pytest.importorskip("deconv1d.compare").NeuronSonification
    raw = captum_form(sonifier, "conv", method="mask").attribute(MIXTURE[None, None], 1)
    assert_close(raw[0, 0], found.waveform[1])


def test_a_mask_beside_other_methods(sonifier, found):
    compare = pytest.importorskip("deconv1d.compare").compare
    rows = compare(sonifier, MIXTURE, "conv", 1, methods=["mask", "deconvnet"])
    own = rows.sounds["mask"]
    assert_close(own / own.abs().max(), found.waveform[1] / found.waveform[1].abs().max())
    assert rows["mask"].selectivity > 100


def test_a_mask_in_the_logger(sonifier, found):
    class Writer:
        def add_audio(self, name, sound, step, sample_rate):
            self.sound = sound

        def add_image(self, *_, **__):
            pass

    writer = Writer()
    SonificationLogger(sonifier, MIXTURE, maps={"conv": 1}, writer=writer, method="mask").log(0)
    assert_close(writer.sound, found.waveform[1].float().clamp(-1, 1))


# --- laws and oracles of the steps ---------------------------------------------------------------


@pytest.mark.parametrize("samples", [1, 7, 100, 255, 1601])
@pytest.mark.parametrize("rate", [500, 8000, 22050, 44100])
def test_an_open_mask_gives_the_recording_back(rate, samples):
    x = noise(2, samples)
    spectrogram = spectrogram_of(x, Grid(rate, samples))
    masks = torch.rand(3, *spectrogram.grid.shape, generator=draws(), dtype=torch.float64)
    assert_close(spectrogram.masked(torch.ones_like(masks))[0], x, rtol=0, atol=1e-12)
    both = spectrogram.masked(masks) + spectrogram.masked(1 - masks)
    assert_close(both, x.expand_as(both), rtol=0, atol=1e-12)


def test_the_grid_is_one_of_hertz_and_milliseconds():
    low, high = Grid(8000, 8100), Grid(44100, round(8100 * 44100 / 8000))
    assert low.shape == high.shape == (32, 26)
    assert abs(high.window / 44100 - low.window / 8000) < 0.0005
    assert low.hertz[0][0] == high.hertz[0][0] == 0
    assert (low.hertz[-1][1], high.hertz[-1][1]) == (4000, 22050)
    assert Grid(500, 500).shape[0] < 32  # no band without a bin


def test_a_soft_mask_keeps_no_more_than_the_budget():
    scores, energy = noise(50, 4, 6), noise(4, 6, seed=1).square()
    whole = energy.sum()
    for budget in (0.01, 0.1, 0.3, 1.0):
        masks = within_budget(scores, energy, budget)
        kept = (masks.square() * energy).sum((1, 2))
        assert (kept <= budget * whole * (1 + 1e-9)).all()
        assert ((masks == 0) == (scores <= 0)).all()
        uncut = (masks > 0) & (masks < 1)
        factors = torch.where(uncut, masks / unit(scores) ** SHARPNESS, torch.nan).flatten(1)
        lowest = factors.nan_to_num(torch.inf).amin(1)
        assert_close(factors.nan_to_num(-torch.inf).amax(1), lowest)  # one factor for all cells
        assert (lowest <= OPEN + 1e-9).all()
        bound = torch.isclose(kept, budget * whole)
        assert (bound | torch.isclose(lowest, torch.tensor(OPEN).double())).all()


def test_random_masks_come_in_antithetic_pairs():
    masks = random_masks(GRID, 20, draws())
    assert masks.shape == (20, *GRID.shape)
    assert_close(masks[:10] + masks[10:], torch.ones(10, *GRID.shape))
    assert 0 <= masks.min() < 0.05 < 0.95 < masks.max() <= 1
    assert len(masks.unique(dim=0)) == 20


def test_effects_are_those_of_ridge_regression():
    masks, activations = noise(12, 3, 5), noise(12, 4, seed=1)
    centred = (masks - masks.mean(0)).flatten(1)
    penalty = RIDGE * float(centred.square().sum(1).mean())
    ridge = sklearn.linear_model.Ridge(alpha=penalty).fit(masks.flatten(1), activations)
    assert_close(effects(masks, activations).flatten(1), torch.from_numpy(ridge.coef_))


@pytest.mark.parametrize("shape", [(900,), (2, 900), (1, 2, 900)])
def test_slopes_are_the_derivatives_by_the_cells(shape):
    spectrogram = spectrogram_of(noise(*shape), Grid(RATE, 900))
    target = noise(3, *shape, seed=1)
    masks = torch.rand(3, *spectrogram.grid.shape, generator=draws(), dtype=torch.float64)
    masks.requires_grad_()
    sounds = spectrogram.masked(masks)
    (sounds**2 * target).sum().backward()
    # at a frame's edge the STFT is no exact adjoint of its inverse; inside it is one
    found = spectrogram.slopes((2 * sounds * target).detach())
    cosine = torch.cosine_similarity(found.flatten(), masks.grad.flatten(), dim=0)
    assert cosine > 0.99


def test_steps_count_gradients_by_amplitude():
    """A quiet tone with twice the gradient is kept before one that is four times as loud."""
    time = torch.arange(len(MIXTURE), dtype=torch.float64) / RATE
    quiet, loud = (torch.sin(2 * torch.pi * tone * time) for tone in TONES)
    recording = spectrogram_of(quiet + 4 * loud, GRID)
    [mask] = refined(
        torch.ones(1, *GRID.shape, dtype=torch.float64),
        recording,
        lambda sounds: (2 * quiet + loud).expand_as(sounds),
        budget=0.5,
        steps=3,
    )
    bands = [next(n for n, (low, high) in enumerate(GRID.hertz) if low <= f <= high) for f in TONES]
    on_quiet, on_loud = (mask[band, GRID.shape[1] // 2] for band in bands)
    assert on_quiet > 0.9 > on_loud


def test_steps_hear_the_recording_first_and_the_masks_last():
    recording = spectrogram_of(MIXTURE, GRID)
    between = sum(TONES) / 2
    shut = slice(0, next(n for n, (_, high) in enumerate(GRID.hertz) if high > between))
    scores = torch.ones(1, *GRID.shape, dtype=torch.float64)
    scores[:, shut] = 0
    shares = []

    def gradients(sounds):
        energy = spectrogram_of(sounds[0], GRID).energy
        shares.append(float(energy[shut].sum() / energy.sum()))
        return MIXTURE.expand_as(sounds)

    refined(scores, recording, gradients, budget=1, steps=8)
    whole = float(recording.energy[shut].sum() / recording.energy.sum())
    assert len(shares) == 8
    assert shares[0] > 0.5 * whole > 0.1
    assert shares[:7] == sorted(shares[:7], reverse=True)
    assert max(shares[-2:]) < 0.01


def test_a_target_weighs_the_most_active_rivals():
    activation = torch.tensor([4.0, 0.0, 2.0, 1.0, 8.0])
    target = target_of(activation, torch.tensor([2, 1, -1]), 2, signed=False)
    assert target.rivals.tolist() == [
        [True, False, False, False, True],
        [False] * 5,
        [False] * 5,
    ]
    even = torch.tensor(
        [[-EVEN / 8, 0, 1 / 2, 0, -EVEN / 16], [0.0] * 5, [1 / 20, 0, 0.1, 0.2, 1 / 40]]
    )
    assert_close(target.even(), even)
    loud = target.hard(torch.tensor([[4.0, 0, 2, 1, 80.0]] * 3))
    assert_close(loud[0, [0, 2, 4]], torch.tensor([0, 1 / 2, -1 / 8]), atol=1e-6, rtol=0)


def test_unit_scores_of_nothing_are_nothing():
    assert torch.equal(unit(-torch.ones(2, 3, 3)), torch.zeros(2, 3, 3))
