"""Augmentations against closed forms, over many clips at once."""

import math

import pytest
import torch
from torch import Tensor

from reference_models.augment import (
    augment,
    background,
    gaussian_noise,
    mixup,
    random_gain,
    time_mask,
)

CLIPS = 4000


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def noise(clips: int = CLIPS, samples: int = 50) -> Tensor:
    """Clips of different power, none of whose samples is zero."""
    draws = torch.Generator().manual_seed(1)
    waveforms = torch.randn(clips, 1, samples, dtype=torch.float64, generator=draws)
    return waveforms * torch.rand(clips, 1, 1, dtype=torch.float64, generator=draws).add(0.1)


def test_gain_is_uniform_in_decibels_for_half_of_the_clips(generator):
    waveforms = noise()
    ratio = random_gain(waveforms, generator=generator) / waveforms
    torch.testing.assert_close(ratio, ratio[..., :1].expand_as(ratio))  # one gain a clip
    decibels = 20 * ratio[:, 0, 0].log10()
    changed = decibels[decibels != 0]
    assert len(changed) / CLIPS == pytest.approx(0.5, abs=0.03)
    assert -18 <= changed.min() < -17.9
    assert 5.9 < changed.max() <= 6
    assert changed.mean() == pytest.approx(-6, abs=0.5)
    assert changed.std() == pytest.approx(24 / math.sqrt(12), abs=0.2)


def test_noise_is_gaussian_with_a_uniform_deviation_for_half_of_the_clips(generator):
    waveforms = noise(samples=1000)
    added = gaussian_noise(waveforms, generator=generator) - waveforms
    deviation = added.std(dim=-1)[:, 0]
    chosen = deviation > 0
    assert chosen.double().mean() == pytest.approx(0.5, abs=0.03)
    assert 0.0009 < deviation[chosen].min() < 0.0012
    assert 0.0146 < deviation[chosen].max() < 0.0165
    assert deviation[chosen].mean() == pytest.approx(0.008, abs=3e-4)
    white = added[chosen] / deviation[chosen, None, None]
    assert white.pow(4).mean() == pytest.approx(3, abs=0.05)  # a Gaussian's fourth moment
    assert (white[..., 1:] * white[..., :-1]).mean() == pytest.approx(0, abs=0.01)
    assert white[0, 0] @ white[1, 0] / 1000 == pytest.approx(0, abs=0.15)


@pytest.mark.parametrize("augmentation", [random_gain, gaussian_noise])
def test_probability_one_is_always_and_zero_is_never(augmentation, generator):
    waveforms = noise(clips=200)
    assert torch.equal(augmentation(waveforms, generator=generator, p=0.0), waveforms)
    always = augmentation(waveforms, generator=generator, p=1.0)
    assert (always != waveforms).any(dim=-1).all()


def test_time_masks_are_up_to_three_stretches_of_at_most_a_tenth(generator):
    waveforms = noise(samples=200)
    masked = time_mask(waveforms, generator=generator)
    hidden = (masked == 0)[:, 0]
    assert torch.equal(masked[~hidden[:, None]], waveforms[~hidden[:, None]])
    edges = torch.nn.functional.pad(hidden.int(), (1, 1)).diff(dim=-1)
    assert 2 < (edges == 1).sum(dim=-1).max() <= 3
    share = hidden.double().mean(dim=-1)
    assert 0.2 < share.max() <= 0.3
    # 0, 1, 2 or 3 masks, each of 0 to 20 samples: none is seen in 1/4 (1 + 1/21 + 1/21^2 + ...)
    assert (share == 0).double().mean() == pytest.approx(
        0.25 * sum(21.0**-k for k in range(4)), 0.1
    )


def test_one_time_mask_has_a_uniform_length_and_place(generator):
    waveforms = torch.ones(20_000, 1, 21)
    hidden = (time_mask(waveforms, generator=generator, masks=1, longest=0.5) == 0)[:, 0].double()
    length = hidden.sum(dim=-1)
    # Half of the clips have a mask of 0 to 10 samples.
    counts = torch.bincount(length.long(), minlength=11) / 20_000
    assert counts[1:].tolist() == pytest.approx([0.5 / 11] * 10, rel=0.15)
    start = hidden[length == 5].argmax(dim=-1)  # 0 to 16
    assert start.bincount(minlength=17).double().min() > 0.5 * len(start) / 17
    assert len(start.bincount()) == 17


@pytest.mark.parametrize("samples", [1, 9])
def test_time_mask_leaves_a_clip_too_short_for_a_tenth(samples, generator):
    waveforms = noise(clips=100, samples=samples)
    assert torch.equal(time_mask(waveforms, generator=generator), waveforms)


def test_background_is_another_clip_at_a_true_power_ratio(generator):
    waveforms = noise(clips=500, samples=400)
    added = background(waveforms, generator=generator) - waveforms
    power = waveforms.square().mean(dim=-1) / added.square().mean(dim=-1)
    decibels = 10 * power.log10()
    assert 10 <= decibels.min() < 10.3
    assert 24.7 < decibels.max() <= 25
    assert decibels.mean() == pytest.approx(17.5, abs=0.7)
    unit = torch.nn.functional.normalize
    cosine = unit(added[:, 0], dim=-1) @ unit(waveforms[:, 0], dim=-1).T  # every pair of clips
    likeness, which = cosine.max(dim=-1)
    torch.testing.assert_close(likeness, torch.ones_like(likeness))
    assert (which != torch.arange(500)).all()
    assert len(which.unique()) > 250  # drawn for each clip: some twice, some never
    assert len((which - torch.arange(500)).unique()) > 250


def test_backgrounds_come_from_clean_clips(generator):
    """Clip i is the one-hot vector i, and noisy before the background is added."""
    clean = torch.eye(40)[:, None]
    noisy = clean + 0.01 * noise(clips=40, samples=40)
    added = background(noisy, generator=generator, clean=clean) - noisy
    assert ((added > 1e-4).sum(dim=-1) == 1).all()
    assert ((added.abs() > 1e-6).sum(dim=-1) == 1).all()


def test_background_and_silence(generator):
    waveforms = torch.tensor([[[0.0, 0.0]], [[1.0, -1.0]]])
    assert torch.equal(background(waveforms, generator=generator), waveforms)


def test_background_needs_another_clip(generator):
    with pytest.raises(ValueError, match=r"shape \(1, 1, 50\).*at least 2"):
        background(noise(clips=1), generator=generator)


def test_mixup_mixes_waveforms_and_targets_alike_with_a_share_for_each_clip(generator):
    # Clip i is the one-hot vector i, so a mixture spells out who is in it and how much.
    mixed, targets = mixup(torch.eye(500)[:, None], torch.eye(500), generator=generator)
    torch.testing.assert_close(mixed[:, 0], targets)
    share = targets.diagonal()
    torch.testing.assert_close(targets.sum(dim=1), torch.ones(500))
    assert ((targets > 0).sum(dim=1) <= 2).all()
    assert len(share.unique()) > 450
    assert (targets - share.diag()).gt(1e-4).sum(dim=0).max() == 1  # partners are a permutation


@pytest.mark.parametrize("alpha", [0.3, 2.0])
def test_mixup_shares_are_beta(alpha, generator):
    _, targets = mixup(torch.zeros(CLIPS, 1, 1), torch.eye(CLIPS), generator=generator, alpha=alpha)
    share = targets.diagonal()
    assert share.mean() == pytest.approx(0.5, abs=0.03)
    assert share.var() == pytest.approx(0.25 / (2 * alpha + 1), rel=0.05)


def test_mixup_of_multi_hot_rows(generator):
    targets = torch.tensor([[1.0, 1.0, 0.0], [0.0, 1.0, 1.0]])
    for _ in range(20):
        waveforms, mixed = mixup(targets[:, None], targets, generator=generator)
        torch.testing.assert_close(waveforms[:, 0], mixed)
        torch.testing.assert_close(mixed[:, 1], torch.ones(2))


NAMES = ("gain", "noise", "time_mask", "background")


def test_augment_applies_in_order(generator):
    waveforms = noise(clips=20)
    by_name = augment(waveforms, NAMES, generator=generator)
    generator.manual_seed(0)
    by_hand = random_gain(waveforms, generator=generator)
    by_hand = gaussian_noise(by_hand, generator=generator)
    by_hand = time_mask(by_hand, generator=generator)
    by_hand = background(by_hand, generator=generator, clean=waveforms)
    assert torch.equal(by_name, by_hand)
    assert augment(waveforms, (), generator=generator) is waveforms


def test_unknown_augmentation():
    with pytest.raises(ValueError, match=r"'reverb' is no augmentation; expected one of gain"):
        augment(noise(2), ("gain", "reverb"), generator=torch.Generator())


@pytest.mark.parametrize("augmentation", [random_gain, gaussian_noise, time_mask, background])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_generator_alone_decides_and_the_input_stays(augmentation, dtype):
    waveforms = noise(clips=20).to(dtype)
    before, state = waveforms.clone(), torch.get_rng_state()
    one, again, other = (
        augmentation(waveforms, generator=torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)
    )
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    assert one.dtype == dtype
    assert one.shape == waveforms.shape
    assert torch.equal(waveforms, before)
    assert torch.equal(torch.get_rng_state(), state)


def test_the_generator_alone_decides_a_mixup():
    waveforms, state = noise(clips=20), torch.get_rng_state()
    before = waveforms.clone()
    pairs = [
        mixup(waveforms, torch.eye(20), generator=torch.Generator().manual_seed(seed))
        for seed in (0, 0, 1)
    ]
    for one, again, other in zip(*pairs, strict=True):
        assert torch.equal(one, again)
        assert not torch.equal(one, other)
    assert pairs[0][0].dtype == torch.float64
    assert pairs[0][1].dtype == torch.float32
    assert torch.equal(waveforms, before)
    assert torch.equal(torch.get_rng_state(), state)
