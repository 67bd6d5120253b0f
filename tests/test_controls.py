"""The control card tells the truth where the truth is known, and costs what it says."""

import json
import warnings

import pytest
import torch
from bands import BANDS, RATE, bank, random_tower, shared_carrier, tones
from torch import nn
from torch.nn import functional as F
from untouched import untouched

from deconv1d import InputError, SilenceWarning, Sonifier, measure
from deconv1d import forward as forward_module
from deconv1d import sounding as sounding_module
from deconv1d.evaluation.controls import (
    BASELINES,
    CONTRASTED,
    EVERYTHING,
    FILTER,
    OTHER_CHANNELS,
    OTHER_SWITCHES,
    RANDOM_SEED,
)
from deconv1d.evaluation.faithfulness import faithfulness
from deconv1d.mirror import Deconvnet


@pytest.fixture(scope="module")
def x() -> torch.Tensor:
    """A sound with something in every band, at different times."""
    noise = torch.randn(4000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return noise * (1 + torch.sin(torch.arange(4000) / 300)) + tones(300, 1000, 2200)


# --- the truth ---------------------------------------------------------------------------------


@pytest.mark.parametrize("channel", range(len(BANDS)))
def test_a_band_pass_channel_is_specific(channel, x):
    card = Sonifier(bank(*BANDS), sample_rate=RATE).control_card(x, layer="0", channel=channel)
    assert card.specific >= 0.4
    assert "specific to the channel" in card.verdict
    assert card[OTHER_CHANNELS].similarity < 0.3
    assert card.effective_rank > 3.5
    assert card.answer > 1


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("depth", [3, 5])
def test_a_channel_of_random_layers_is_not(depth, seed, x):
    sonifier = Sonifier(random_tower(depth, seed), sample_rate=RATE)
    card = sonifier.control_card(x, layer=str(3 * depth), channel="most_active")
    assert card.specific <= 0.3
    assert "mostly the input" in card.verdict


def test_a_linear_network_has_no_switches_and_is_its_own_adjoint(x):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv1d(1, 3, 33, bias=False), nn.Conv1d(3, 5, 9, bias=False)).double()
    sonifier = Sonifier(model, sample_rate=RATE)
    card = sonifier.control_card(x, layer="1", channel=2, tap="output")
    same = card[OTHER_SWITCHES]
    assert (same.spearman, same.log_mel, same.coherence) == pytest.approx((1, 1, 1))
    assert (same.input_coherence_margin, same.response_margin) == pytest.approx((0, 0), abs=1e-9)
    seed = torch.zeros_like(model(x[None, None]))
    seed[:, 2] = 1
    inner = F.conv_transpose1d(seed, model[1].weight)
    gradient = F.conv_transpose1d(inner, model[0].weight)[0, 0].detach()
    ours = card.sounds["gradient"]
    torch.testing.assert_close(ours / ours.abs().max(), gradient / gradient.abs().max())


# --- the rows ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def card(x):
    sonifier = Sonifier(random_tower(3, seed=3), sample_rate=RATE)
    return sonifier.control_card(x, layer="9", channel="most_active", draws=2)


def test_every_control_has_its_row(card):
    sides = [
        f"{n}/4 redrawn from the {side} (MPRT)" for side in ("top", "bottom") for n in (1, 2, 3)
    ]
    several = {FILTER: 2, RANDOM_SEED: 2, OTHER_CHANNELS: 8}
    expected = [*sides, EVERYTHING, *several, OTHER_SWITCHES, *BASELINES]
    assert [control.control for control in card.controls] == expected
    for control in card.controls:
        assert control.draws == several.get(control.control, 1)
        assert (control.similarity_std > 0) == (control.draws > 1)
        assert 0 <= control.similarity <= 1
    assert card["input"].input_coherence_margin == pytest.approx(card.input - 1, abs=1e-6)
    assert card["input"].response_margin == pytest.approx(card.answer - 1)
    assert 1 <= card.effective_rank <= card.channels == 9


def test_the_contrasted_sound_is_the_one_that_sonify_makes(x):
    sonifier = Sonifier(random_tower(3, seed=3), sample_rate=RATE)
    for options in ({"layer": "9", "channel": "most_active"}, {"layer": "6", "channel": 5}):
        card = sonifier.control_card(x, draws=1, **options)
        found = sonifier.sonify(x, contrast="channels", **options)
        torch.testing.assert_close(card.sounds[CONTRASTED], found.waveform)
        heard = faithfulness(sonifier, found)
        assert card.own.answer == pytest.approx(float(heard.mask_in / heard.activation))
        assert f"it is {card.own.similarity:.2f} like theirs" in card.facts


def test_contrast_takes_off_what_channels_share(x):
    sonifier = Sonifier(shared_carrier(), sample_rate=RATE)
    card = sonifier.control_card(x, layer="0", channel=1, draws=1)
    assert card[OTHER_CHANNELS].similarity > 0.7
    assert card.own.similarity < 0.4


def test_a_random_seed_is_positive_with_the_maps_energy_and_support(x, monkeypatch):
    seeds = []
    carried = sounding_module.carry_back

    def watch(deconvnet, values, layout, channels, chunk):
        seeds.append(values[:, channels].clone())
        return carried(deconvnet, values, layout, channels, chunk)

    monkeypatch.setattr(sounding_module, "carry_back", watch)
    Sonifier(bank((200, 400)), sample_rate=RATE).control_card(x, layer="0", channel=0, draws=2)
    own, random = seeds[0], seeds[4:6]  # after all weights redrawn, and the filter twice
    for seed in random:
        assert torch.equal(seed > 0, own > 0)
        assert float(seed.square().sum()) == pytest.approx(float(own.square().sum()))


def test_redrawn_weights_are_the_same_numbers_in_a_functional_call(x, monkeypatch):
    model = random_tower(2)
    sonifier = Sonifier(model, sample_rate=RATE)
    given = []
    with_weights = Sonifier.with_weights

    def watch(self, weights):
        given.append(weights)
        return with_weights(self, weights)

    monkeypatch.setattr(Sonifier, "with_weights", watch)
    with untouched(model):
        sonifier.control_card(x, layer="6", channel=1, draws=1)
    everything = given.pop()  # for the smoothed test
    assert sorted(everything) == sorted(given[4])
    tops = [sorted(weights) for weights in given[:2]]
    assert tops == [["6.bias", "6.weight"], ["3.bias", "3.weight", "6.bias", "6.weight"]]
    bottoms = [sorted(weights) for weights in given[2:4]]
    assert bottoms == [["0.weight"], ["0.weight", "3.bias", "3.weight"]]
    for weights in given[:-1]:
        for name, weight in weights.items():
            own = model.get_parameter(name).detach()
            assert torch.equal(weight.flatten().sort().values, own.flatten().sort().values)
            assert weight.numel() < 20 or not torch.equal(weight, own)
    (name, weight), own = *given[-1].items(), model[6].weight.detach()
    assert name == "6.weight"
    changed = (weight != own).flatten(1).any(1)
    assert changed.nonzero().flatten().tolist() == [1]


def test_smoothed_randomisation_is_of_means_over_noisy_inputs(x, monkeypatch):
    """sMPRT by hand: the same noise for both, the mean of the sounds, then the similarity."""
    sonifier, heard = Sonifier(random_tower(3), sample_rate=RATE), []
    sonify = Sonifier.sonify

    def watch(self, given, **options):
        found = sonify(self, given, **options)
        heard.append((given, found))
        return found

    monkeypatch.setattr(Sonifier, "sonify", watch)
    card = sonifier.control_card(x, layer="3", channel=1)
    noisy = heard[-4:]
    assert torch.equal(noisy[0][0], noisy[2][0])
    assert torch.equal(noisy[1][0], noisy[3][0])
    for given, _ in noisy:
        level = 0.1 * float(x.max() - x.min())
        assert float((given - x).std()) == pytest.approx(level, rel=0.1)
    mine, theirs = (
        torch.stack([f.raw / f.raw.abs().max() for _, f in part]).mean(0)
        for part in (noisy[:2], noisy[2:])
    )
    scores = (
        measure.spearman(mine, theirs),
        measure.log_mel_correlation(mine, theirs, sample_rate=RATE).clamp(min=0),
        measure.mean_top_coherence(mine, theirs),
    )
    assert card.smooth == pytest.approx(float(sum(scores)) / 3)
    assert f"(sMPRT) {card.smooth:.2f}" in str(card)


def test_the_same_seed_draws_the_same_card(x):
    sonifier = Sonifier(random_tower(1), sample_rate=RATE)
    one, two, three = (
        str(sonifier.control_card(x, layer="3", channel=1, random_state=seed)) for seed in (0, 0, 1)
    )
    assert one == two != three


def test_a_card_costs_at_most_forty_sonifications(x, monkeypatch):
    count = {"captures": 0, "seeds": 0}
    capture, forward = forward_module.capture, Deconvnet.__call__

    def counted_capture(*arguments, **more):
        count["captures"] += 1
        return capture(*arguments, **more)

    def counted_forward(self, seed):
        count["seeds"] += seed.shape[0] if seed.dim() > 3 else 1
        return forward(self, seed)

    monkeypatch.setattr(forward_module, "capture", counted_capture)
    monkeypatch.setattr(Deconvnet, "__call__", counted_forward)
    sonifier = Sonifier(random_tower(4), sample_rate=RATE)
    sonifier.sonify(x, layer="12", channel="most_active")
    assert count["seeds"] == 1
    count.update(captures=0, seeds=0)
    sonifier.control_card(x, layer="12")
    assert (count["captures"] + count["seeds"]) / 2 <= 40
    assert count["seeds"] >= 24


# --- what it looks like ------------------------------------------------------------------------


def test_a_card_prints_and_goes_into_json_and_html(card):
    text = str(card)
    assert card.verdict in text
    assert all(control.control in text for control in card.controls)
    facts = json.loads(json.dumps(card.to_dict()))
    assert len(facts["controls"]) == len(card.controls)
    assert facts["verdict"] == card.verdict
    assert facts["own"] == {"similarity": card.own.similarity, "answer": card.own.answer}
    html = card._repr_html_()
    assert html.count("<audio") == len(card.sounds) == len(card.controls) + 2
    assert card.verdict in html
    assert "<script" not in html


# --- bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"channel": [0, 1]}, "one channel and one clip"),
        ({"channel": None}, "one channel and one clip"),
        ({"other": torch.zeros(50)}, "other clip does not fit: expected shape .4000"),
    ],
)
def test_what_cannot_be_checked_is_said(more, message, x):
    sonifier = Sonifier(bank(*BANDS), sample_rate=RATE)
    with pytest.raises(InputError, match=message):
        sonifier.control_card(x, **{"layer": "0", "channel": 0, **more})


def test_several_clips_no_rate_and_silence_are_errors(x):
    sonifier = Sonifier(bank(*BANDS), sample_rate=RATE)
    with pytest.raises(InputError, match="one channel and one clip"):
        sonifier.control_card(torch.stack([x, x])[:, None], layer="0", channel=0)
    with pytest.raises(InputError, match="sample rate"):
        Sonifier(bank(*BANDS)).control_card(x, layer="0", channel=0)
    with pytest.warns(SilenceWarning), pytest.raises(InputError, match="Silence has no controls"):
        sonifier.control_card(torch.zeros_like(x), layer="0", channel=0)


def test_a_layer_of_one_channel_without_a_filter_cannot_be_told(x):
    class Rectified(nn.Module):
        def forward(self, x):
            return F.relu(x)

    card = Sonifier(Rectified(), sample_rate=RATE).control_card(x, layer="relu#1", channel=0)
    assert card.nearest is None
    assert card.own is None
    assert CONTRASTED not in card.sounds
    assert "Contrasted" not in card.facts
    assert "cannot be told" in card.verdict
    assert card.specific == 0
    assert card.complexity_rise is None
    assert "nan" not in str(card)


def test_controls_that_are_silent_do_not_count(x):
    model = bank(*BANDS)
    with torch.no_grad():
        model[0].weight[3] = 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        card = Sonifier(model, sample_rate=RATE).control_card(x, layer="0", channel=0)
    assert card[OTHER_CHANNELS].draws == 2
    assert card.channels == 3


def test_a_channel_that_its_twin_explains_has_no_own_sound(x):
    card = Sonifier(bank(BANDS[0], BANDS[0]), sample_rate=RATE).control_card(
        x, layer="0", channel=0
    )
    assert card.own is None
    assert CONTRASTED not in card.sounds
    assert "nothing is left" in card.facts
