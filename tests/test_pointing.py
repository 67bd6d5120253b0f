"""The pointing game and self-identification, where the truth is planted."""

import numpy as np
import pytest
import torch
from bands import BANDS, RATE, bank, random_tower, tones
from torch import nn

from deconv1d import InputError, Sonifier
from deconv1d.evaluation.cells import best_cells, in_cells, random_cells
from deconv1d.evaluation.explanations import (
    captum,
    gated,
    integrated_gradients,
    itself,
    randomly_seeded,
    shuffled_twin,
    sonified,
)
from deconv1d.evaluation.identity import self_identification
from deconv1d.evaluation.intervals import WIDER, mean_of
from deconv1d.evaluation.pointing import (
    ORACLE,
    Pair,
    draw_pairs,
    pointed,
    pointing_game,
    selective,
    window_of,
)
from deconv1d.masks.grid import grid_of
from deconv1d.masks.spectrogram import spectrogram_of

WINDOW = window_of(RATE)
WORKING = {
    "deconvnet": sonified(),
    "guided": sonified(method="guided"),
    "gradient": sonified(method="gradient"),
    "deconvnet in cells": in_cells(sonified()),
    "integrated gradients in cells": in_cells(integrated_gradients(steps=3)),
    "minus rivals": in_cells(integrated_gradients(steps=3, rivals=8)),
    "mask": sonified(method="mask"),
}


@pytest.fixture(scope="module")
def sonifier():
    return Sonifier(bank(*BANDS), sample_rate=RATE)


@pytest.fixture(scope="module")
def mixtures():
    """Stems that are loud at once and drive two band-passes each."""
    low, high = tones(300, 1000), tones(2200, 3200)
    swell = 1 + torch.sin(torch.arange(len(low), dtype=torch.float64) / 500)
    return [Pair(torch.stack(stems)) for stems in ((low, high), (swell * high, swell * low))]


def draws(seed=0):
    return torch.Generator().manual_seed(seed)


def scores(sonifier, mixtures, explanations, layer="0"):
    found = pointing_game(sonifier, [layer], mixtures, explanations).scores[layer]
    return {name: tuple(values.mean(0).tolist()) for name, values in found.items()}


def wrong(explain, change):
    """An explanation, spoiled."""
    return lambda sonifier, x, layer, channels: change(
        x, explain(sonifier, x, layer, channels), channels
    )


def test_integrated_gradients_are_those_of_autograd(mixtures):
    """By batches and one by one; minus rivals: relative to the input, minus their mean."""
    model = nn.Sequential(*random_tower(2), nn.ReLU())
    x = mixtures[0].mixture[:3000]

    class OneByOne(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = model

        def forward(self, x):
            assert x.shape[0] == 1
            return self.inner(x)

    def activation(x):
        return model(x[None, None])[0].mean(-1)

    levels = [(n + 0.5) / 3 * x for n in range(3)]
    jacobian = sum(torch.autograd.functional.jacobian(activation, level) for level in levels) / 3
    heard = activation(x).detach()
    best, second, *_ = heard.argsort(descending=True).tolist()
    relative = jacobian / heard[:, None]
    for network, layer in ((model, "8"), (OneByOne(), "inner.8")):
        sonifier = Sonifier(network, sample_rate=RATE)
        plain = integrated_gradients(steps=3)(sonifier, x, layer, [second, best])
        torch.testing.assert_close(plain, jacobian[[second, best]] * len_of(model, x))
        told = integrated_gradients(steps=3, rivals=1)(sonifier, x, layer, [second, best])
        expected = torch.stack(
            [relative[second] - relative[best], relative[best] - relative[second]]
        )
        torch.testing.assert_close(told, expected * len_of(model, x))


def len_of(model, x):
    return model(x[None, None]).shape[-1]


# --- pointing ------------------------------------------------------------------------------------


def test_band_passes_point_to_their_tones(sonifier, mixtures):
    found = scores(sonifier, mixtures, WORKING)
    for name in WORKING:
        pointing, within = found[name]
        assert pointing >= 0.99, name
        assert within >= 0.45, name
    assert found[ORACLE][0] >= 0.995


def test_what_does_not_depend_on_the_channel_scores_one_half_exactly(sonifier, mixtures):
    noise = torch.randn(4000, generator=draws(), dtype=torch.float64)
    explanations = {
        "input": itself,
        "loudest cells": in_cells(itself),
        "noise": lambda s, x, layer, channels: noise.expand(len(channels), -1),
        "silence": lambda s, x, layer, channels: torch.zeros(len(channels), len(x)),
    }
    for pointing, within in (scores(sonifier, mixtures, explanations)[k] for k in explanations):
        assert pointing == pytest.approx(0.5)
        assert within == pytest.approx(0, abs=1e-6)


def test_wrong_explanations_fail(sonifier, mixtures):
    right = WORKING["integrated gradients in cells"]
    spoiled = {
        "inverted": wrong(right, lambda x, sounds, _: x - sounds),
        "another channel's": lambda s, x, layer, channels: right(
            s, x, layer, [(c + 2) % 4 for c in channels]
        ),
        "random cells": random_cells(draws()),
    }
    found = scores(sonifier, mixtures, spoiled)
    assert found["inverted"][0] < 0.4
    assert found["another channel's"][0] < 0.01
    assert abs(found["random cells"][0] - 0.5) < 0.2


@pytest.mark.parametrize("by", [(1, 0), (0, 1)])
def test_a_mask_that_is_off_by_one_cell_points_less(by):
    """A chessboard of tone bursts: one stem's cells are the other's neighbours."""
    column = torch.arange(4000) // 320
    even = (column % 2 == 0).double()
    one, two = (tones(1000) * on + tones(1110) * (1 - on) for on in (even, 1 - even))
    spectrogram = spectrogram_of(one + two, grid_of(RATE, 4000))
    scores = spectrogram.slopes(one[None]) - spectrogram.slopes(two[None])
    right, wrong = (
        pointed(spectrogram.masked(best_cells(s, spectrogram.energy)), one, two, window=WINDOW)
        for s in (scores, scores.roll(by, (1, 2)))
    )
    right, wrong = right[0, 0], wrong[0, 0]
    assert right > 0.7
    assert wrong < 0.5


def test_random_cells_score_one_half_within_their_interval(sonifier, mixtures):
    game = pointing_game(sonifier, ["0"], mixtures * 12, {"random": random_cells(draws())})
    mean = next(row.pointing for row in game.table if row.explanation == "random")
    assert mean.low < 0.5 < mean.high
    assert game.table[0].pairs == 24
    assert "0.5" in str(game.table)


def test_a_time_gate_points_where_stems_take_turns_but_never_within_frames():
    half = (torch.arange(4000) < 2000).double()
    pair = Pair(torch.stack([tones(300, 1000) * half, tones(2200, 3200) * (1 - half)]))
    pooled = Sonifier(nn.Sequential(*bank(*BANDS), nn.MaxPool1d(64)), sample_rate=RATE)
    found = scores(pooled, [pair], {"gate": gated})
    assert found["gate"][0] > 0.9
    assert abs(found["gate"][1]) < 0.02


def test_a_linear_channel_is_heard_through_its_adjoint():
    """The deconvnet of A is A^T A x: the band-pass twice, so the tone in its band alone."""
    model = bank(*BANDS)[:1]
    x = torch.stack([tones(300), tones(2200)])
    sound = sonified()(Sonifier(model, sample_rate=RATE), x.sum(0), "0", [0])
    filters = model[0].weight[:1]
    heard = nn.functional.conv1d(x.sum(0)[None, None], filters, padding=64)
    torch.testing.assert_close(sound, nn.functional.conv_transpose1d(heard, filters, padding=64)[0])
    assert pointed(sound, *x, window=WINDOW)[0, 0] > 0.99


def test_in_random_layers_a_mask_points_and_a_deconvnet_no_better_than_its_controls():
    """What a random layer mixes no deconvnet can tell apart; a mask asks the channel itself."""
    sonifier = Sonifier(random_tower(3), sample_rate=RATE)
    stems = {"low": [tones(300, 1000)], "high": [tones(2200, 3200)]}
    pairs = draw_pairs(stems, seconds=0.6, sample_rate=RATE)
    controls = {"random map": randomly_seeded(draws()), "gate": gated}
    explanations = {"deconvnet": sonified(), "mask": sonified(method="mask"), **controls}
    game = pointing_game(sonifier, ["9"], pairs, explanations, count=2)
    assert game.scores["9"]["deconvnet"].shape == (2, 2)
    for control in controls:
        assert game.advantage("9", "deconvnet", control).value < 0.1
        assert game.advantage("9", "mask", control).value > 0.25


def test_the_twin_has_the_models_maps_and_other_weights(sonifier, mixtures):
    x = mixtures[0].mixture
    twin = shuffled_twin(sonifier, draws())(sonifier, x, "0", [0, 1])
    own = sonified()(sonifier, x, "0", [0, 1])
    assert twin.shape == own.shape
    assert float(torch.cosine_similarity(twin, own).abs().max()) < 0.9


def test_captum_and_a_users_own_explanation_play_too(sonifier, mixtures):
    pytest.importorskip("captum")
    explanations = {
        "NeuronGradient": captum("NeuronGradient"),
        "mine": lambda s, x, n, c: x * torch.ones(len(c), 1),
    }
    found = scores(sonifier, mixtures[:1], explanations)
    assert found["NeuronGradient"][0] >= 0.99
    assert found["mine"][0] == pytest.approx(0.5)


def test_shares_by_hand():
    one, two = tones(500), tones(2000)
    sounds = torch.stack([one, two, one + two, 3 * one + two, 0 * one])
    found = pointed(sounds, one, two, window=WINDOW)
    assert found[:, 0].tolist() == pytest.approx([1, 0, 0.5, 0.9, 0.5], abs=5e-3)
    assert found[:, 1].tolist() == pytest.approx([0.5, -0.5, 0, 0.4, 0], abs=5e-3)
    quiet = torch.cat([torch.zeros(8000, dtype=one.dtype), one])
    parts = torch.stack([torch.cat([two[:2000], torch.zeros(10000, dtype=one.dtype)])])
    nothing = pointed(parts, quiet, quiet, window=WINDOW)  # where neither stem is
    assert nothing[0].tolist() == pytest.approx([0.5, 0], abs=1e-6)


def test_which_channels_are_selective():
    driver = torch.tensor([3.0, 2.9, 0.4, 6.0, 0.0, 1.0])
    other = torch.tensor([1.0, 1.0, 0.0, 0.0, 0.0, -1.0])
    mixture = torch.tensor([0.75, 3.0, 3.0, 1.4, 0.0, 1.0])
    assert selective(driver, other, mixture).tolist() == [True, False, False, False, False, True]


def test_a_pair_counts_only_with_selective_channels_both_ways(sonifier):
    both_low = Pair(torch.stack([tones(300), tones(250)]))
    one_way = Pair(torch.stack([tones(300, 2200), tones(310, 2210, 3200)]))
    game = pointing_game(sonifier, ["0"], [both_low, one_way], {"input": itself})
    assert game.scores["0"]["input"].shape == (0, 2)
    assert np.isnan(game.table[0].pointing.value)


# --- pairs ---------------------------------------------------------------------------------------


def recordings():
    burst = torch.zeros(3000).index_fill(0, torch.arange(500, 900), 1.0)
    return {
        "a": [burst * torch.rand(3000, generator=draws())],
        "b": [torch.rand(9001, generator=draws()), burst.roll(901)],
    }


@pytest.mark.parametrize("aligned", [False, True])
def test_stems_have_one_length_one_level_and_two_classes(aligned):
    pairs = draw_pairs(recordings(), seconds=0.5, sample_rate=RATE, aligned=aligned)
    drawn = [next(pairs) for _ in range(8)]
    for pair in drawn:
        assert pair.stems.shape == (2, 4000)
        assert len(set(pair.names)) == 2
        assert pair.stems.square().mean(1).tolist() == pytest.approx([0.01, 0.01], rel=1e-4)
    again = draw_pairs(recordings(), seconds=0.5, sample_rate=RATE, aligned=aligned)
    assert torch.equal(next(again).stems, drawn[0].stems)


def test_aligned_stems_are_loud_at_once():
    bursts = {
        k: [torch.zeros(3000).index_fill(0, torch.arange(i, i + 2000), 1.0)]
        for k, i in (("a", 0), ("b", 999))
    }
    apart, together = (
        next(
            draw_pairs(bursts, seconds=1.0, sample_rate=RATE, aligned=aligned, random_state=1)
        ).stems
        for aligned in (False, True)
    )
    assert float((together[0] * together[1]).sum()) > 0.99 * float(together[0].square().sum())
    assert float((apart[0] * apart[1]).sum()) < 0.6 * float(apart[0].square().sum())


def test_what_cannot_be_paired_or_tested_is_named(sonifier, mixtures):
    with pytest.raises(InputError, match="2 or more, got 1"):
        next(draw_pairs({"a": [torch.ones(9)]}, seconds=1.0, sample_rate=RATE))
    with pytest.raises(
        InputError, match=r"class '[ab]' cannot be a stem: expected sound, got silence"
    ):
        next(draw_pairs({k: [torch.zeros(9)] for k in "ab"}, seconds=1.0, sample_rate=RATE))
    with pytest.raises(InputError, match=r"'flat'.*layer '0'.*\(4, 4000\), got \(4000,\)"):
        pointing_game(sonifier, ["0"], mixtures, {"flat": lambda s, x, n, c: x})
    with pytest.raises(InputError, match="needs a sample rate"):
        pointing_game(Sonifier(bank(*BANDS)), ["0"], mixtures, {})


# --- intervals -----------------------------------------------------------------------------------


def test_an_interval_is_the_normal_one_widened():
    values = torch.randn(400, generator=draws(), dtype=torch.float64).tolist()
    found = mean_of(values)
    assert found.value == pytest.approx(np.mean(values))
    assert found.error == pytest.approx(WIDER * np.std(values) / 20, rel=0.1)
    assert mean_of([0.5, 0.5]) == (0.5, 0.5, 0.5)
    assert mean_of([0.25]) == (0.25, 0.25, 0.25)
    assert np.isnan(mean_of([]).value)


# --- identity ------------------------------------------------------------------------------------


def identified(sonifier, clips, explanations, layer="0", **options):
    found = self_identification(sonifier, [layer], clips, explanations, **options).scores[layer]
    return {name: tuple(values.mean(0).tolist()) for name, values in found.items()}


def test_band_passes_identify_themselves_and_wrong_sounds_do_not(sonifier):
    clips = [tones(300, 1000, 2200, 3200), tones(250, 1100, 2400, 3300)]
    right = WORKING["integrated gradients in cells"]
    spoiled = {
        "input": itself,
        "another channel's": wrong(right, lambda x, sounds, _: sounds.roll(1, 0)),
        "inverted": wrong(right, lambda x, sounds, _: x - sounds),
        "random cells": random_cells(draws()),
    }
    found = identified(sonifier, clips, WORKING | spoiled)
    for name in WORKING:
        assert found[name][0] == 1, name
        assert found[name][1] > 1.5, name
        assert found[name][2] > 1, name
    assert found["input"][0] <= 0.25
    assert found["input"][1:] == pytest.approx((1, 0))  # it takes all and leaves nothing
    assert found["another channel's"][0] == 0
    assert found["inverted"][0] == 0
    assert found["inverted"][2] < -0.5
    assert found["random cells"][0] <= 0.5
    assert found["random cells"][2] < 0.5


def test_activations_are_compared_relative_to_those_on_the_clip():
    """A loud channel that hears everything is not the most active on every sound."""
    model = bank((200, 400), (100, 3500))
    model[0].weight.data[1] *= 10
    found = identified(
        Sonifier(model, sample_rate=RATE), [tones(300, 1000, 2200)], {"own": sonified()}
    )
    assert found["own"][0] == 1


def test_the_level_of_a_sound_does_not_matter(sonifier):
    clip = tones(300, 1000, 2200, 3200)
    louder = {
        "as it is": sonified(),
        "louder": wrong(sonified(), lambda x, sounds, _: 100 * sounds),
    }
    found = identified(sonifier, [clip], louder)
    assert found["as it is"] == pytest.approx(found["louder"])


def test_sounds_can_be_disturbed_before_they_are_heard(sonifier):
    clip = tones(300, 1000, 2200, 3200)
    found = identified(sonifier, [clip], {"own": sonified()}, disturb=torch.zeros_like)
    assert found["own"] == (0, 0, 0)


def test_only_active_channels_take_part(sonifier):
    clips = [tones(300), tones(300, 1000)]
    found = self_identification(sonifier, ["0"], clips, {"own": sonified()}, most=2)
    assert found.table[0].clips == 2
    assert found.table[0].identified.value == 1


def test_models_that_take_no_channel_axis_or_no_batches_are_heard_too():
    class Flat(nn.Module):
        """Takes (batch, time)."""

        def __init__(self):
            super().__init__()
            self.layers = bank(*BANDS)

        def forward(self, x):
            assert x.dim() == 2
            return self.layers(x[:, None])

    class OneByOne(Flat):
        def forward(self, x):
            assert x.shape[0] == 1
            return self.layers(x.reshape(1, 1, -1))

    clip = tones(300, 1000, 2200, 3200)
    expected = identified(Sonifier(bank(*BANDS), sample_rate=RATE), [clip], {"own": sonified()})
    for model in (Flat(), OneByOne()):
        found = identified(
            Sonifier(model, sample_rate=RATE), [clip], {"own": sonified()}, layer="layers.0"
        )
        assert found["own"] == pytest.approx(expected["own"])


def test_the_best_cells_keep_at_most_the_budget_and_the_best_one():
    scores = torch.tensor([[[4.0, 3.0, 1.0, 0.0]], [[0.0, 1.0, 3.0, 2.0]]])
    energy = torch.tensor([[2.0, 1.0, 6.0, 1.0]])
    # Half of the energy is 5: the first has room for two cells; the best of the second has 6.
    expected = torch.tensor([[[1.0, 1.0, 0.0, 0.0]], [[0.0, 0.0, 1.0, 0.0]]])
    assert torch.equal(best_cells(scores, energy, budget=0.5), expected)
