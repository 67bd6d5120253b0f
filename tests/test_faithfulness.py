"""Faithfulness against numbers worked out by hand, and on channels that must or must not answer."""

import numpy as np
import pytest
import scipy.signal
import torch
from bands import BANDS, RATE, bank, tones
from untouched import untouched

from deconv1d import InputError, Sonifier
from deconv1d.evaluation.faithfulness import (
    activations,
    deletion_and_insertion,
    faithfulness,
    gain_by_percentile,
)


@pytest.fixture
def sonifier() -> Sonifier:
    return Sonifier(bank(*BANDS), sample_rate=RATE)


def test_a_band_pass_channel_answers_its_sonification_alone(sonifier):
    found = sonifier.sonify(tones(300, 1000, 2200, 3200), layer="0", channel=1)
    measured = faithfulness(sonifier, found)
    assert measured.rank_in.tolist() == [1]
    assert measured.selectivity > 3
    assert measured.increase == 1
    assert measured.drop == 0
    assert measured.average_gain > 0.3


def test_a_channel_that_made_most_of_the_input_misses_its_sonification(sonifier):
    x = tones(1000) + 0.1 * tones(300, 2200, 3200)
    measured = faithfulness(sonifier, sonifier.sonify(x, layer="0", channel=1))
    assert measured.mask_out < 0.5 * measured.activation
    assert measured.removed > 0.1


def test_the_numbers_by_hand(sonifier):
    x = torch.stack([tones(300, 1000), tones(2200, 3200, 1000)])[:, None]
    found = sonifier.sonify(x, layer="0", channel=[2, 0])
    measured = faithfulness(sonifier, found)
    model = sonifier.model
    for n, channel in enumerate([2, 0]):
        with torch.no_grad():
            whole, heard, rest = (
                model(w).mean(2) for w in (x, found.waveform[n], x - found.waveform[n])
            )
        torch.testing.assert_close(measured.activation[n], whole[:, channel])
        torch.testing.assert_close(measured.mask_in[n], heard[:, channel])
        torch.testing.assert_close(measured.mask_out[n], rest[:, channel])
        for example in range(2):
            values = heard[example].tolist()
            assert measured.rank_in[n, example] == 1 + sum(v > values[channel] for v in values)
            others = np.median(np.delete(values, channel))
            assert measured.selectivity[n, example] == pytest.approx(values[channel] / others)
            before, after, without = (
                float(a[example, channel] / a[example].sum()) for a in (whole, heard, rest)
            )
            assert measured.drop[n, example] == pytest.approx(max(0, before - after) / before)
            assert measured.average_gain[n, example] == pytest.approx(
                max(0, after - before) / (1 - before)
            )
            assert measured.removed[n, example] == pytest.approx(before - without)
            assert measured.increase[n, example] == (after > before)
    assert measured.to_dict()["rank_in"] == measured.rank_in.tolist()


def test_one_channel_for_each_example(sonifier):
    x = torch.stack([tones(300), tones(3200)])[:, None]
    found = sonifier.sonify(x, layer="0", channel="most_active")
    measured = faithfulness(sonifier, found)
    assert found.channel == [0, 3]
    whole = activations(sonifier, x, layer="0")
    torch.testing.assert_close(measured.activation, whole[[0, 1], [0, 3]])
    assert measured.rank_in.tolist() == [1, 1]


def test_silence_and_a_single_channel_give_numbers():
    sonifier = Sonifier(bank((200, 400)))
    for x in (torch.zeros(4000, dtype=torch.float64), tones(300)):
        with pytest.warns() if not x.any() else np.errstate():
            measured = faithfulness(sonifier, sonifier.sonify(x, layer="0", channel=0))
        assert not any(torch.isnan(value).any() for value in vars(measured).values())


def test_all_maps_at_once_have_no_channel(sonifier):
    with pytest.raises(InputError, match="channel=None"):
        faithfulness(sonifier, sonifier.sonify(tones(300), layer="0", channel=None))


def test_deleting_the_moments_of_the_sonification_beats_chance(sonifier):
    x = tones(1000)
    x[: len(x) * 3 // 4] = 0.01 * tones(3200)[: len(x) * 3 // 4]
    found = sonifier.sonify(x, layer="0", channel=1)
    curves = deletion_and_insertion(sonifier, found, steps=5, segments=20)
    assert curves.fraction.tolist() == [0, 0.2, 0.4, 0.6, 0.8, 1]
    assert curves.deletion[0] == curves.insertion[-1] == 1
    assert curves.deletion[-1] == curves.insertion[0] == 0
    assert curves.deletion[2] < 0.05
    assert curves.insertion[2] > 0.95
    assert curves.deletion_area < -0.2
    assert curves.insertion_area > 0.2


@pytest.mark.parametrize("channel", [[0, 1], None])
def test_curves_need_one_channel(sonifier, channel):
    found = sonifier.sonify(tones(300), layer="0", channel=channel)
    with pytest.raises(InputError, match="one channel"):
        deletion_and_insertion(sonifier, found)


def test_the_model_is_left_as_it_is(sonifier):
    sonifier.model.train()
    with untouched(sonifier.model):
        found = sonifier.sonify(tones(300), layer="0", channel=0)
        faithfulness(sonifier, found)


def test_coherence_of_a_sonification_has_the_shape_of_its_gain(sonifier):
    x = torch.stack([tones(300, 1000), tones(2200)])[:, None]
    one = sonifier.sonify(x, layer="0", channel=1)
    several = sonifier.sonify(x, layer="0", channel=[1, 2])
    values = several.coherence(top_k=3)
    assert values.shape == several.gain.shape == (2, 2)
    torch.testing.assert_close(values[0], one.coherence(top_k=3))
    a, b = x[0, 0].numpy(), one.waveform[0, 0].numpy()
    spectrum = scipy.signal.coherence(a, b)[1]
    assert float(values[0, 0]) == pytest.approx(np.sort(spectrum)[-3:].mean(), abs=1e-6)


def test_gain_by_percentile_by_hand(sonifier):
    """The channel hears the input less than 2 of 3 clips, its sonification less than none."""
    clips = [level * tones(1000) for level in (0.1, 0.4, 0.7)]
    found = sonifier.sonify(0.3 * tones(300, 1000, 2200, 3200), layer="0", channel=1)
    on_input, on_sound = (
        float(activations(sonifier, x, layer="0")[0, 1]) for x in (found.input, found.waveform)
    )
    on_clips = [float(activations(sonifier, x, layer="0")[0, 1]) for x in clips]
    before, after = (sum(c < a for c in on_clips) / 4 for a in (on_input, on_sound))
    assert (before, after) == (0.25, 0.75)
    assert float(gain_by_percentile(sonifier, found, clips)) == pytest.approx(2 / 3)
    worse = [0.001 * clips[0]]
    assert float(gain_by_percentile(sonifier, found, worse)) == 0


def test_gain_by_percentile_needs_clips_and_one_channel(sonifier):
    for channel, clips in ((1, []), ([0, 1], [tones(300)])):
        found = sonifier.sonify(tones(300, 1000), layer="0", channel=channel)
        with pytest.raises(InputError, match="others to compare with"):
            gain_by_percentile(sonifier, found, clips)
