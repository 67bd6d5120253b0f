"""The control card tells the truth where the truth is known, and costs what it says."""

import json
import re
import warnings
from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from bands import BANDS, RATE, bank, random_tower, tones
from torch import nn
from torch.nn import functional as F
from untouched import untouched

from deconv1d import InputError, SilenceWarning, Sonifier, measure
from deconv1d import forward as forward_module
from deconv1d import sounding as sounding_module
from deconv1d.evaluation import controls
from deconv1d.evaluation.card import (
    EVERYTHING,
    FILTER,
    GIVEN_TWIN,
    OTHER_CHANNELS,
    RANDOM_SEED,
    verdict_of,
)
from deconv1d.evaluation.controls import BASELINES, OTHER_SWITCHES
from deconv1d.evaluation.faithfulness import activations
from deconv1d.evaluation.randomisation import cosine_convergence
from deconv1d.mirror import Deconvnet
from deconv1d.prepared.halves import PreparedMirror
from deconv1d.report import render_card
from deconv1d.table import Table


@pytest.fixture(scope="module")
def x() -> torch.Tensor:
    """A sound with something in every band, at different times."""
    noise = torch.randn(4000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return noise * (1 + torch.sin(torch.arange(4000) / 300)) + tones(300, 1000, 2200)


# --- the truth ---------------------------------------------------------------------------------


@pytest.mark.parametrize("channel", range(len(BANDS)))
def test_a_band_pass_channel_is_specific(channel, x):
    card = Sonifier(bank(*BANDS), sample_rate=RATE).control_card(x, layer="0", channel=channel)
    assert card.specific
    assert "specific to the channel" in card.verdict
    assert "A random map makes such a sound too" in card.verdict  # of its support, in its band
    assert card.told is True
    assert card.response > 1
    assert card[OTHER_CHANNELS].similarity < 0.3
    assert card[OTHER_CHANNELS].told == 0
    assert card[EVERYTHING].response < card.response
    assert card.place == 1 <= card.place_on_input


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("depth", [3, 5])
def test_a_channel_of_random_layers_is_not(depth, seed, x):
    sonifier = Sonifier(random_tower(depth, seed), sample_rate=RATE)
    card = sonifier.control_card(x, layer=str(3 * depth), channel="most_active")
    assert not card.specific
    assert "specific" not in card.verdict


def test_a_verdict_needs_every_fact(card):
    def verdict(**facts):
        return replace(card, **facts).verdict

    def table(**facts):
        rows = [
            replace(c, **(facts if c.control == FILTER else {"told": 0.0})) for c in card.controls
        ]
        return Table(rows)

    good = {"response": 0.8, "place": 2, "place_on_input": 2, "told": True}
    assert "specific to the channel." in verdict(**good, controls=table(told=0.4, response=1.0))
    for wrong, words in (
        ({"response": 0.4}, "hardly responds to this sound .0.40 .* place 2 of 16"),
        ({"place": 3}, "place 3. more than its rivals do, but .* on the input .place 2. respond"),
        ({"told": False}, "a rival responds more"),
        ({"told": None}, "cannot be told"),
        ({"controls": table(told=0.5, response=0.65)}, f"that of {FILTER}: the sound does not"),
    ):
        text = verdict(**{**good, "controls": table(told=0.0), **wrong})
        assert re.search(words, text), text
        assert "specific" not in text
    weak = {"controls": table(told=1.0, response=0.63)}
    assert "specific to the channel." in verdict(**good, **weak)


@pytest.mark.parametrize("response", [0.2, 0.5, 1.4])
@pytest.mark.parametrize(("place", "place_on_input"), [(1, 1), (3, 2), (2, 3)])
@pytest.mark.parametrize("told", [True, False, None])
@pytest.mark.parametrize("good", [[], [RANDOM_SEED], [FILTER], [EVERYTHING, RANDOM_SEED]])
def test_a_verdict_says_nothing_that_its_figures_deny(response, place, place_on_input, told, good):
    text = verdict_of(
        response=response,
        place=place,
        place_on_input=place_on_input,
        channels=16,
        told=told,
        as_good=good,
    )
    holds = {
        "hardly responds": response < 0.5,
        "a rival responds more": told is False,
        "more than its rivals do": told is True,
        "cannot be told": told is None,
        "that it leads on the input": place > place_on_input,
        "not so to that of permuted weights": not set(good) & {FILTER, EVERYTHING},
        "random map makes": RANDOM_SEED in good,
        f"that of {FILTER}": FILTER in good,
        f"that of {EVERYTHING}": EVERYTHING in good,
        "this sound is specific": told is True and response >= 0.5 and place <= place_on_input,
    }
    assert [words for words, true in holds.items() if words in text and not true] == []
    for number in re.findall(r"([\d.]+) of its response", text):
        assert float(number) == response
    said = [int(number) for number in re.findall(r"place (\d+)", text)]
    assert said in ([], [place], [place, place_on_input])


def test_coherence_is_above_that_of_noise_of_its_length(x):
    sonifier = Sonifier(bank(*BANDS), sample_rate=RATE)
    card = sonifier.control_card(x, layer="0", channel=1, draws=1)
    found = sonifier.sonify(x, layer="0", channel=1)
    chance = measure.unrelated_coherence(len(x))
    assert card.input == pytest.approx((float(found.coherence()) - chance) / (1 - chance))


def test_ablation_is_what_the_output_loses(x):
    """A head that reads one channel alone, and one that reads none of it."""
    sonifier = Sonifier(
        nn.Sequential(*bank(*BANDS), nn.Conv1d(4, 1, 1, bias=False)).double(), sample_rate=RATE
    )
    sonifier.model[2].weight.data[:] = 0
    sonifier.model[2].weight.data[0, 1] = 1
    with untouched(sonifier.model):
        own, other = (sonifier.control_card(x, layer="0", channel=c, draws=1) for c in (1, 0))
    assert own.ablation == pytest.approx(1)
    assert own.ablation_others == pytest.approx(0)
    assert other.ablation == pytest.approx(0)
    assert other.ablation_others == pytest.approx(1 / 3)
    assert "Without the channel the output changes by 100.0% (others: 0.0%)." in own.facts


def test_convergence_is_one_where_one_sound_comes_out():
    """A layer of rank one has a single sound, whatever is carried back; a bank has many."""
    x = tones(300, 1000, 2200)
    one = nn.Sequential(nn.Conv1d(1, 1, 4000, bias=False), nn.Conv1d(1, 4, 1, bias=False)).double()
    many = bank(*BANDS)[:1]
    for model, layer, low, high in ((one, "1", 0.99, 1), (many, "0", 0, 0.1)):
        sonifier = Sonifier(model, sample_rate=RATE)
        found = sonifier.sonify(x, layer=layer, channel=0)
        assert low <= abs(cosine_convergence(sonifier, found)) <= high


def test_a_twin_that_is_given_has_its_row_and_counts(x):
    """Of labels at random, or untrained; one that makes the same sound passes for the channel."""
    sonifier = Sonifier(bank(*BANDS), sample_rate=RATE)
    card = sonifier.control_card(x, layer="0", channel=1, draws=1, twin=sonifier)
    assert card[GIVEN_TWIN].similarity == pytest.approx(1)
    assert card.passing == [GIVEN_TWIN]
    assert not card.specific
    untrained = Sonifier(bank(*BANDS[::-1]), sample_rate=RATE)
    assert sonifier.control_card(x, layer="0", channel=1, draws=1, twin=untrained).specific


def test_a_linear_network_has_no_switches_and_is_its_own_adjoint(x, monkeypatch):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv1d(1, 3, 33, bias=False), nn.Conv1d(3, 5, 9, bias=False)).double()
    sonifier = Sonifier(model, sample_rate=RATE)
    monkeypatch.setattr(controls, "NOISY", 2)
    card = sonifier.control_card(x, layer="1", channel=2, tap="output", full=True)
    same = card[OTHER_SWITCHES]
    assert (same.spearman, same.log_mel, same.coherence) == pytest.approx((1, 1, 1))
    assert same.response == pytest.approx(card.response)
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
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(controls, "NOISY", 2)
        return sonifier.control_card(
            x, layer="9", channel="most_active", draws=2, full=True, random_state=1
        )


def test_every_control_has_its_row(card):
    sides = [
        f"{n}/4 permuted from the {side} (MPRT)" for side in ("top", "bottom") for n in (1, 2, 3)
    ]
    several = {EVERYTHING: 2, FILTER: 2, RANDOM_SEED: 2, OTHER_CHANNELS: 8}
    expected = [*several, *sides, OTHER_SWITCHES, *BASELINES]
    found = [control.control for control in card.controls]
    assert found == [name for name in expected if name in found]  # silent ones are left out
    assert {*several, OTHER_SWITCHES, *BASELINES} <= {*found}
    assert len(found) >= len(expected) - 2
    for control in card.controls:
        assert control.draws == several.get(control.control, 1)
        assert (control.similarity_std > 0) == (control.draws > 1)
        assert 0 <= control.similarity <= 1
        assert 0 <= control.told <= 1
    assert card["input"].response == pytest.approx(1)
    assert 1 <= card.place <= card.channels == 16
    assert 0 <= card.convergence <= 1
    assert card.ablation > 0 < card.ablation_others


def test_a_quick_card_has_what_the_verdict_needs(x):
    sonifier = Sonifier(random_tower(3, seed=3), sample_rate=RATE)
    card = sonifier.control_card(x, layer="9", draws=2)
    assert [c.control for c in card.controls] == [EVERYTHING, FILTER, RANDOM_SEED, OTHER_CHANNELS]
    assert card.full is None
    assert "sMPRT" not in str(card)


def test_a_quick_card_draws_each_control_once(x):
    sonifier = Sonifier(bank(*BANDS), sample_rate=RATE)
    quick = sonifier.control_card(x, layer="0", channel=1, quick=True)
    whole = sonifier.control_card(x, layer="0", channel=1)
    assert [c.control for c in quick.controls] == [c.control for c in whole.controls]
    assert [quick[name].draws for name in (EVERYTHING, FILTER, RANDOM_SEED)] == [1, 1, 1]
    assert [whole[name].draws for name in (EVERYTHING, FILTER, RANDOM_SEED)] == [3, 3, 3]
    for fact in ("response", "place", "told", "input", "ablation", "specific"):
        assert getattr(quick, fact) == getattr(whole, fact)
    with pytest.raises(InputError, match="quick or full"):
        sonifier.control_card(x, layer="0", quick=True, full=True)


@pytest.mark.parametrize("options", [{}, {"quick": True}, {"full": True}, {"twin": True}], ids=str)
def test_the_steps_of_a_card_are_all_counted(x, monkeypatch, options):
    """The remaining time is right: as many sounds are made and heard as was said at first."""
    monkeypatch.setattr(controls, "NOISY", 2)
    bars = []

    def counting(**asked):
        bars.append(SimpleNamespace(total=asked["total"], n=0))
        counted = lambda: setattr(bars[0], "n", bars[0].n + 1)  # noqa: E731
        return nullcontext(SimpleNamespace(update=counted))

    monkeypatch.setattr(controls, "bar", counting)
    sonifier = Sonifier(random_tower(2, 0), sample_rate=RATE)
    if options.pop("twin", False):
        options["twin"] = Sonifier(random_tower(2, 1), sample_rate=RATE)
    sonifier.control_card(x, layer="6", **options)
    assert bars[0].n == bars[0].total


def test_the_sounds_are_heard_at_the_inputs_rms(x):
    sonifier = Sonifier(random_tower(3, seed=3), sample_rate=RATE)
    found = sonifier.sonify(x, layer="9", channel="most_active")
    card = sonifier.control_card(x, layer="9", channel="most_active", draws=1)
    level = float((x.square().mean() / found.waveform.square().mean()).sqrt())
    heard = activations(sonifier, level * found.waveform, layer="9")[0]
    on_input = activations(sonifier, x, layer="9")[0]
    relative = heard / on_input
    best = on_input.argsort(descending=True)[:9]
    assert card.response == pytest.approx(float(relative[card.channel]))
    assert card.told == (int(best[relative[best].argmax()]) == card.channel)
    assert card.place == int((heard >= heard[card.channel]).sum())


def test_a_random_seed_is_positive_with_the_maps_energy_and_support(x, monkeypatch):
    seeds = []
    carried = sounding_module.carry_back

    def watch(deconvnet, values, layout, channels, chunk):
        seeds.append(values[:, channels].clone())
        return carried(deconvnet, values, layout, channels, chunk)

    monkeypatch.setattr(sounding_module, "carry_back", watch)
    Sonifier(bank((200, 400)), sample_rate=RATE).control_card(x, layer="0", channel=0, draws=2)
    own, random = seeds[0], seeds[5:7]  # after all weights permuted, and the filter, twice each
    for seed in random:
        assert torch.equal(seed > 0, own > 0)
        assert float(seed.square().sum()) == pytest.approx(float(own.square().sum()))


def test_redrawn_weights_are_the_same_numbers_in_a_copy(x, monkeypatch):
    model = random_tower(2)
    sonifier = Sonifier(model, sample_rate=RATE)
    given = []
    with_weights = Sonifier.with_weights

    def watch(self, weights):
        given.append(weights)
        return with_weights(self, weights)

    monkeypatch.setattr(Sonifier, "with_weights", watch)
    with untouched(model):
        monkeypatch.setattr(controls, "NOISY", 2)
        sonifier.control_card(x, layer="6", channel=1, draws=1, full=True)
    everything, one_filter, *cascades = given[:6]
    assert sorted(everything) == sorted(given[-1])  # of the smoothed test
    tops = [sorted(weights) for weights in cascades[:2]]
    assert tops == [["6.bias", "6.weight"], ["3.bias", "3.weight", "6.bias", "6.weight"]]
    bottoms = [sorted(weights) for weights in cascades[2:4]]
    assert bottoms == [["0.weight"], ["0.weight", "3.bias", "3.weight"]]
    for weights in (everything, *cascades):
        for name, weight in weights.items():
            own = model.get_parameter(name).detach()
            assert torch.equal(weight.flatten().sort().values, own.flatten().sort().values)
            assert weight.numel() < 20 or not torch.equal(weight, own)
    (name, weight), own = *one_filter.items(), model[6].weight.detach()
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
    monkeypatch.setattr(controls, "NOISY", 2)
    card = sonifier.control_card(x, layer="3", channel=1, full=True)
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
    chance = measure.unrelated_coherence(len(x))
    scores = (
        measure.spearman(mine, theirs),
        measure.log_mel_correlation(mine, theirs, sample_rate=RATE).clamp(min=0),
        (measure.mean_top_coherence(mine, theirs) - chance).clamp(min=0) / (1 - chance),
    )
    assert card.full.smooth == pytest.approx(float(sum(scores)) / 3)
    assert f"(sMPRT) {card.full.smooth:.2f}" in str(card)


def test_smoothed_randomisation_draws_as_often_as_the_paper():
    assert controls.NOISY == 50


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
    bound = PreparedMirror.bound  # mirrors of graphs that ran before are used again, by this

    def counted_again(self, held):
        carry = bound(self, held)

        def counted_carry(seed):
            count["seeds"] += seed.shape[0] if seed.dim() > 3 else 1
            return carry(seed)

        return counted_carry

    monkeypatch.setattr(Deconvnet, "__call__", counted_forward)
    monkeypatch.setattr(PreparedMirror, "bound", counted_again)
    # Verification has captures of its own, once; they are not the card's.
    sonifier = Sonifier(random_tower(4), sample_rate=RATE, verify=False)
    sonifier.sonify(x, layer="12", channel="most_active")
    assert count["seeds"] == 1
    count.update(captures=0, seeds=0)
    sonifier.control_card(x, layer="12")
    assert (count["captures"] + count["seeds"]) / 2 <= 40
    assert count["seeds"] >= 20


# --- what it looks like ------------------------------------------------------------------------


def test_a_card_prints_and_goes_into_json_and_html(card):
    text = str(card)
    assert card.verdict in text
    assert all(control.control in text for control in card.controls)
    facts = json.loads(json.dumps(card.to_dict()))
    assert len(facts["controls"]) == len(card.controls)
    assert facts["verdict"] == card.verdict
    assert facts["full"] == {
        "complexity_rise": card.full.complexity_rise,
        "smooth": card.full.smooth,
    }
    assert facts["verified"]["signal"] == card.verified.signal < 1e-4
    assert str(card.verified) in text
    html = card._repr_html_()
    assert str(card.verified) in html
    # Of a full card the input is one of the controls, too.
    assert html.count("<audio") == len(card.sounds) == len(card.controls) + 1
    assert list(card.sounds)[:2] == ["input", "sonification"]
    assert 'data-first="1"' in html
    assert "<h3>Controls of layer" in html
    assert "<h1>Controls of layer" in render_card(card, level=1)
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
    assert card.told is None
    assert "cannot be told" in card.verdict
    assert not card.specific
    assert card.ablation is None
    assert "Without the channel" not in card.facts
    assert "nan" not in str(card)


def test_controls_that_are_silent_do_not_count(x):
    model = bank(*BANDS)
    with torch.no_grad():
        model[0].weight[3] = 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        card = Sonifier(model, sample_rate=RATE).control_card(x, layer="0", channel=0)
    assert card[OTHER_CHANNELS].draws == 2
