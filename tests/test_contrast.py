"""Contrast: against a slow re-implementation, its laws, and sounds whose own part is known."""

import warnings

import numpy as np
import pytest
import scipy.signal
import torch
from bands import CARRIER, OWN, RATE, shared_carrier, tones
from oracles import random
from torch import nn
from torch.testing import assert_close

from deconv1d import InputError, SilenceWarning, Sonifier, measure
from deconv1d.contrast import FRAME, OTHERS, contrasted


def network(channels: int = 12, seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv1d(1, 4, 7), nn.ReLU(), nn.MaxPool1d(2), nn.Conv1d(4, channels, 5), nn.ReLU()
    ).double()


def slowly(own, others):
    """One mono sound without what the others explain, frame by frame, by least squares."""
    hop, samples = FRAME // 2, len(own)
    window = np.sqrt(scipy.signal.get_window("hann", FRAME))
    sounds = np.pad(np.stack([own, *others]), ((0, 0), (hop, 2 * FRAME)))
    rest = np.zeros(sounds.shape[1])
    for start in range(0, samples + hop, hop):
        mine, *rivals = sounds[:, start : start + FRAME] * window
        explained = np.stack(rivals, 1) @ np.linalg.lstsq(np.stack(rivals, 1), mine)[0]
        rest[start : start + FRAME] += window * (mine - explained)
    return rest[hop : hop + samples]


# --- laws of one sound and others --------------------------------------------------------------


@pytest.mark.parametrize("samples", [300, 1023, 1024, 1537, 5001])
def test_it_is_least_squares_in_each_frame(samples):
    own, others = random(samples), random(3, samples, seed=1)
    expected = torch.tensor(slowly(own.numpy(), others.numpy()))
    assert_close(contrasted(own, others), expected)


@pytest.mark.parametrize("shape", [(300,), (1, 1, 5001), (2, 2, 2600)])
def test_the_rest_is_orthogonal_to_every_other(shape):
    own, others = random(*shape), random(5, *shape, seed=1)
    others[1] = others[0] + 1e-4 * others[1]  # nearly one sound
    rest = contrasted(own, others)
    products = (rest * others).sum(-1) / others.norm(dim=-1)
    assert rest.norm() > 0.5 * own.norm()
    assert products.abs().max() < 1e-9 * own.norm()


def test_silence_stays_silent_and_levels_do_not_matter():
    own, others = random(2, 1, 3000), random(4, 2, 1, 3000, seed=1)
    rest = contrasted(own, others)
    assert not contrasted(0 * own, others).any()
    assert_close(contrasted(own, 0 * others), own)
    assert_close(contrasted(7 * own, others), 7 * rest)
    levels = torch.tensor([1e-20, -3.0, 1e20, 1.0], dtype=own.dtype)[:, None, None, None]
    assert_close(contrasted(own, levels * others), rest)
    with_silence = torch.cat([others, torch.zeros_like(others)])
    assert_close(contrasted(own, with_silence), rest)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_others_explain_wholly_is_exact_silence(dtype):
    others = random(4, 3000).to(dtype)
    own = others[0] - 2 * others[1] + others[3] / 3
    rest = contrasted(own, others)
    assert rest.dtype == dtype
    assert not rest.any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_quiet_own_part_survives_half_precision(dtype):
    others, mine = random(4, 3000), random(3000, seed=1)
    own = others.sum(0) + 0.1 * mine
    rest, expected = (contrasted(own.to(d), others.to(d)).double() for d in (dtype, own.dtype))
    assert (rest - expected).norm() < 0.15 * expected.norm()


def test_others_that_change_their_level_slowly_are_followed():
    fading = torch.linspace(1, 0.2, 16000, dtype=torch.float64)
    other, mine = random(16000), 0.1 * random(16000, seed=1)
    rest = contrasted(mine + fading * other, other[None])
    assert (rest - mine).norm() < 0.25 * mine.norm()


# --- laws of sonifications ---------------------------------------------------------------------


def test_a_sonification_by_hand():
    sonifier, x = Sonifier(network()), random(1, 1, 3001)
    plain = sonifier.sonify(x, layer="3", channel="all")
    order = plain.activation.mean(2)[0].argsort(descending=True).tolist()
    assert len(order) > OTHERS + 1
    for channel in (order[0], order[3], order[-1]):
        others = [other for other in order if other != channel][:OTHERS]
        expected = slowly(plain.raw[channel].flatten(), plain.raw[others].flatten(1))
        found = sonifier.sonify(x, layer="3", channel=channel, contrast="channels")
        assert_close(found.raw.flatten(), torch.tensor(expected))
        assert found.waveform.abs().max() == x.abs().max()
        assert (found.contrast, plain.contrast) == ("channels", None)


def test_every_way_to_ask_for_channels_gives_the_same():
    sonifier, x = Sonifier(network()), random(2, 1, 1801)
    options = {"layer": "3", "contrast": "channels"}
    everything = sonifier.sonify(x, channel="all", **options)
    assert everything.raw.shape == (12, 2, 1, 1801)
    for channel in range(0, 12, 3):
        assert_close(sonifier.sonify(x, channel=channel, **options).raw, everything.raw[channel])
    assert_close(sonifier.sonify(x, channel=[7, 2], **options).raw, everything.raw[[7, 2]])
    most = sonifier.sonify(x, channel="most_active", **options)
    for example, channel in enumerate(most.channel.tolist()):
        assert_close(most.raw[example], everything.raw[channel, example])
    again = sonifier.sonify(x, channel="all", **options)
    assert torch.equal(again.raw, everything.raw)


def test_a_batch_is_its_items():
    sonifier, x = Sonifier(network()), random(3, 1, 1501)
    x[1] = x[1].cumsum(-1)  # other channels answer it
    options = {"layer": "3", "channel": [1, 5], "contrast": "channels"}
    whole = sonifier.sonify(x, **options)
    tops = whole.activation.mean(2).argsort(1, descending=True)[:, : OTHERS + 1].sort(1).values
    assert not torch.equal(tops[0], tops[1])
    for example in range(3):
        alone = sonifier.sonify(x[example : example + 1], **options)
        assert_close(whole.raw[:, example : example + 1], alone.raw)


@pytest.mark.parametrize(
    "more", [{"seed": "peak"}, {"method": "guided"}, {"unpool": "spread"}, {"tap": "output"}]
)
def test_other_channels_are_carried_in_the_same_way(more):
    sonifier, x = Sonifier(network(4)), random(2001)
    plain = sonifier.sonify(x, layer="3", channel="all", **more)
    found = sonifier.sonify(x, layer="3", channel="all", contrast="channels", **more)
    for channel in range(4):
        others = [other for other in range(4) if other != channel]
        assert_close(found.raw[channel], contrasted(plain.raw[channel], plain.raw[others]))


def test_twins_explain_each_other():
    model = network(2)
    with torch.no_grad():
        model[3].weight[1], model[3].bias[1] = 2 * model[3].weight[0], 2 * model[3].bias[0]
    sonifier, x = Sonifier(model), random(1, 1, 2001)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sonifier.sonify(x, layer="3", channel="all")
    with pytest.warns(SilenceWarning, match="dead or explained by other channels"):
        found = sonifier.sonify(x, layer="3", channel="all", contrast="channels")
    assert not found.raw.any()
    assert not found.waveform.any()
    assert not found.gain.any()


def test_a_channel_whose_others_are_dead_stays_as_it_is():
    model = network(3)
    with torch.no_grad():
        model[3].bias[1:] = -100
    sonifier, x = Sonifier(model), random(1, 1, 2001)
    options = {"layer": "3", "channel": 0}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = sonifier.sonify(x, contrast="channels", **options)
    assert_close(found.raw, sonifier.sonify(x, **options).raw)


def test_ones_own_sonification_is_no_other_where_the_model_counts_examples_in_another_way():
    class EachEar(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = network(4)

        def forward(self, x):
            return self.net(x.flatten(0, 1)[:, None])

    sonifier, x = Sonifier(EachEar()), random(2, 2, 1801)
    x[1] = x[1].cumsum(-1)
    plain = sonifier.sonify(x, layer="net.3", channel="all")
    ranks = plain.activation.mean(2).argsort(1, descending=True)
    assert not torch.equal(ranks[0], ranks[2])
    found = sonifier.sonify(x, layer="net.3", channel="all", contrast="channels")
    assert torch.equal(found.raw.any(-1), plain.raw.any(-1))
    most = sonifier.sonify(x, layer="net.3", channel="most_active", contrast="channels")
    rest = plain.raw.flatten(1, 2)[ranks[:, 1:].T, torch.arange(4)].reshape(3, 2, 2, 1801)
    own = plain.raw.flatten(1, 2)[most.channel, torch.arange(4)].reshape(2, 2, 1801)
    assert_close(most.raw, contrasted(own, rest))


# --- where the own part is known ---------------------------------------------------------------


@pytest.mark.parametrize("channel", range(len(OWN)))
def test_a_shared_carrier_goes_and_the_own_band_stays(channel):
    x = random(8000) + tones(150, 220, seconds=1)
    sonifier = Sonifier(shared_carrier(), sample_rate=RATE)
    plain, own = (
        sonifier.sonify(x, layer="0", channel=channel, contrast=contrast)
        for contrast in (None, "channels")
    )
    before, after = (
        measure.band_energy(s.waveform, [CARRIER, *OWN], sample_rate=RATE) / s.waveform.norm() ** 2
        for s in (plain, own)
    )
    assert before[0] > 0.9
    assert after[0] < 0.05
    assert after[1 + channel] > 0.5
    assert after.argmax() == 1 + channel


# --- what cannot be contrasted -----------------------------------------------------------------


def test_what_makes_no_sense_is_an_error():
    sonifier, x = Sonifier(network()), random(1, 1, 501)
    with pytest.raises(InputError, match="Unknown contrast 'bed'"):
        sonifier.sonify(x, layer="3", channel=0, contrast="bed")
    with pytest.raises(InputError, match="All maps of layer '3' at once have no others"):
        sonifier.sonify(x, layer="3", channel=None, contrast="channels")
    alone = Sonifier(network(1))
    with pytest.raises(InputError, match="nothing to contrast with"):
        alone.sonify(x, layer="3", channel="all", contrast="channels")
