"""Figures 6, 7 and B.3, the strided twin and SoundNet-8: their numbers, controls and claims."""

import csv
import json
import math
from dataclasses import replace

import numpy as np
import pytest
import scipy.signal
import torch
from sklearn.metrics import average_precision_score

from deconv1d import Sonifier
from deconv1d.errors import SilenceWarning
from reference_models.cnn12 import CNN12
from reference_models.evaluate import Interval
from reference_models.experiments import control_sounds, removal, shifts, similarity
from reference_models.experiments.curves import plot_curves
from reference_models.experiments.finding import FINDING, perform
from reference_models.experiments.removal import REMOVAL
from reference_models.experiments.shifts import SHIFTS, STRIDED
from reference_models.experiments.similarity import SIMILARITY
from reference_models.experiments.study import (
    LAYERS,
    PRESETS,
    REGIMES,
    Study,
    every_nth,
    pretrained,
    untrained,
)
from reference_models.statistics import Verdict, judge

EXPERIMENTS = [REMOVAL, SIMILARITY, SHIFTS, STRIDED]


@pytest.fixture(scope="module")
def study(soundfont, tmp_path_factory) -> Study:
    """A study of one run whose networks are trained and whose experiments are done."""
    preset = replace(PRESETS["smoke"], runs=1, events=40, clips=4)
    study = Study(tmp_path_factory.mktemp("study"), preset)
    for experiment in EXPERIMENTS:
        for network in experiment.networks(preset):
            study.train(network)
        perform(experiment, study)
    return study


def rows_of(study: Study, name: str) -> list[dict[str, str]]:
    with (study.folder / name / "numbers.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def draws(random_state: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(random_state)


# --- control sounds -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sonifier() -> Sonifier:
    torch.manual_seed(1)
    return Sonifier(CNN12(width=1 / 8).double().eval())


@pytest.fixture(scope="module")
def clips() -> torch.Tensor:
    return torch.randn(3, 1, 4801, dtype=torch.float64, generator=draws(2)).cumsum(-1) / 50


@pytest.mark.parametrize("layer", ["conv1", "conv5", "conv11"])
def test_rests_are_equally_loud_and_no_louder_than_the_input(sonifier, clips, layer):
    twin = control_sounds.twin_of(sonifier, draws())
    found = control_sounds.sounds(sonifier, twin, clips, layer=layer, draws=draws())
    own = sonifier.sonify(clips, layer=layer, channel="most_active").waveform
    assert torch.equal(found["sonification"], own)
    assert tuple(found) == ("sonification", *control_sounds.CONTROLS)
    rests = control_sounds.without(clips, found, 8000)
    heard = {name: control_sounds.audible(rest, 8000) for name, rest in rests.items()}
    loudness = heard["sonification"].square().sum(-1)
    for name, rest in rests.items():
        torch.testing.assert_close(heard[name].square().sum(-1), loudness, rtol=1e-9, atol=0)
        assert (rest.square().sum(-1) <= clips.square().sum(-1) * (1 + 1e-12)).all()
        torch.testing.assert_close(rest - heard[name], clips - control_sounds.audible(clips, 8000))
    assert not any(
        torch.allclose(rests[name], rests["sonification"]) for name in control_sounds.CONTROLS
    )


def test_the_sonification_is_removed_by_least_squares(clips):
    """No other gain of the same sound leaves less above 50 Hz, and its loudness plays no part."""
    sound = torch.randn(clips.shape, dtype=torch.float64, generator=draws(5)) + clips
    found = dict.fromkeys(("sonification", *control_sounds.CONTROLS), sound)
    rest = control_sounds.without(clips, found, 8000)["sonification"]
    high = control_sounds.audible(sound, 8000)
    assert (rest * high).sum(-1).abs().max() < 1e-9
    louder = {name: 7 * one for name, one in found.items()}
    torch.testing.assert_close(control_sounds.without(clips, louder, 8000)["sonification"], rest)


def test_what_is_below_50_hz_is_not_touched():
    time = torch.arange(8000, dtype=torch.float64) / 8000
    low, high = torch.sin(2 * torch.pi * 30 * time), torch.sin(2 * torch.pi * 300 * time)
    x = (low + high)[None, None]
    torch.testing.assert_close(control_sounds.audible(x, 8000), high[None, None])
    found = dict.fromkeys(("sonification", *control_sounds.CONTROLS), (9 * low + high)[None, None])
    rest = control_sounds.without(x, found, 8000)["sonification"]
    torch.testing.assert_close(rest, low[None, None])


def test_without_a_sonification_nothing_is_removed(clips):
    found = {name: torch.randn(clips.shape).double() for name in control_sounds.CONTROLS}
    rests = control_sounds.without(clips, {"sonification": 0 * clips, **found}, 8000)
    for rest in rests.values():
        torch.testing.assert_close(rest, clips)


def test_the_controls_are_what_they_are_called(sonifier, clips):
    twin = control_sounds.twin_of(sonifier, draws())
    found = control_sounds.sounds(sonifier, twin, clips, layer="conv4", draws=draws())
    one = sonifier.sonify(clips, layer="conv4", channel="most_active")
    with pytest.warns(SilenceWarning):
        every = sonifier.sonify(clips, layer="conv4", channel="all").raw
    for clip, channel in enumerate(one.channel):
        other = found["another channel"][clip]
        alike = torch.cosine_similarity(every[:, clip, 0], other, dim=-1)
        assert int(alike.argmax()) != int(channel)
        assert alike.max() == pytest.approx(1)
    unlearnt = twin.sonify(clips, layer="conv4", channel="most_active").raw
    alike = torch.cosine_similarity(unlearnt, found["random weights"], dim=-1)
    torch.testing.assert_close(alike, torch.ones_like(alike))


def test_a_twin_has_the_same_numbers_in_other_places(sonifier, clips):
    own = {name: weight.clone() for name, weight in sonifier.model.named_parameters()}
    twin = control_sounds.twin_of(sonifier, draws())
    maps, others = (s.maps(clips, layer="conv1") for s in (sonifier, twin))
    assert not torch.allclose(maps, others)
    assert all(torch.equal(own[name], w) for name, w in sonifier.model.named_parameters())


def test_noise_has_the_spectrum_of_the_input_and_another_waveform(clips):
    noise = control_sounds.noise_like(clips, draws())
    magnitudes, own = (torch.fft.rfft(w).abs()[..., 1:] for w in (noise, clips))
    torch.testing.assert_close(magnitudes, own)
    assert torch.cosine_similarity(noise, clips, dim=-1).abs().max() < 0.5


def test_another_channel_is_the_one_of_likest_activity_and_none_if_all_others_are_dead():
    maps = torch.zeros(3, 4, 5)
    maps[0, 1], maps[0, 2], maps[0, 3], maps[1, 3] = 4, 1, 3, 1
    channel = torch.tensor([1, 3, 0])
    kept = control_sounds.another(maps, channel)
    assert torch.equal(kept[0, 3], maps[0, 3])
    assert kept.count_nonzero() == 5
    assert not control_sounds.another(maps[:, :1] + 1, torch.zeros(3).long()).any()


# --- figure 6 -------------------------------------------------------------------------------------


def test_figure_6_recomputed_by_hand(study):
    """By scikit-learn from classifier, clips and sonifications, one clip at a time."""
    rows = rows_of(study, "figure-6")
    assert [(r["mode"], r["layer"]) for r in rows] == [
        (mode, layer) for mode in ("fonly", "full") for layer in LAYERS
    ]
    row = next(r for r in rows if (r["mode"], r["layer"]) == ("full", "conv3"))
    test = study.clips("fsd50k").subset("test")
    numbers = range(len(test))  # all of them
    network = study.classifier(removal.recogniser(study.preset, 0, "full"))
    heard = {"baseline": [], "as in the paper": [], "as in the paper, re-normalised": []}
    heard["sonification"] = []
    for number in numbers:
        x = test.waveform(number)[None, None]
        s = Sonifier(network.encoder).sonify(x, layer="conv3", channel="most_active").waveform
        rest = x - s
        high = control_sounds.audible(s, 8000)
        left = x - (x * high).sum() / high.square().sum().clamp(min=1e-30) * high
        for name, sound in zip(heard, (x, rest, rest / rest.abs().max(), left), strict=True):
            heard[name].append(network(sound).detach()[0])
    labels = test.labels(numbers).numpy()
    counted = labels.any(0) & ~labels.all(0)
    for name, outputs in heard.items():
        scores = torch.stack(outputs).numpy()
        expected = average_precision_score(labels[:, counted], scores[:, counted], average="macro")
        assert float(row[name]) == pytest.approx(expected, abs=1e-6)
    assert (study.folder / "figure-6" / "figure-6.png").stat().st_size > 10_000


def test_figure_6_of_words(study, monkeypatch):
    """Where what stands in for FSD50K has too few clips, the recognisers are of words."""
    of_words = replace(study, preset=replace(study.preset, recognised="words"))
    networks = REMOVAL.networks(of_words.preset)
    assert {network.data for network in networks} == {"words"}
    for network in networks:
        of_words.train(network)
    monkeypatch.setattr(removal, "NAME", "figure-6-of-words")
    monkeypatch.setattr(removal, "LAYERS", LAYERS[2:4])
    finding = removal.figure_6(of_words)
    assert {number.unit for number in finding.numbers} == {"accuracy"}
    for row in finding.rows:
        network = next(n for n in networks if n.frozen is (row["mode"] == "fonly"))
        assert row["baseline"] == of_words.result(network)["test"]["accuracy"]
    assert "FSD50K, these of Speech Commands" in finding.differs
    assert "these of" not in (study.folder / "figure-6" / "finding.json").read_text()


def planted(drop, control=lambda name, layer: 0.0, runs=3, way="sonification"):
    """Rows of figure 6: `drop(mode, random_state, layer)` is lost without the sonification.

    It is lost in one way alone of the two in which sonifications are removed.
    """
    return [
        {"mode": mode, "random_state": random_state, "layer": layer, "baseline": 0.9}
        | {"sonification": 0.9, "as in the paper": 0.9}
        | {way: 0.9 - drop(mode, random_state, number) + random_state / 1000}
        | {name: 0.9 - control(name, number) for name in control_sounds.CONTROLS}
        for mode in removal.MODES
        for random_state in range(runs)
        for number, layer in enumerate(LAYERS)
    ]


def test_claim_a_needs_more_harm_than_every_control_does():
    def drop(mode, random_state, layer):
        return 0.3 + 0.01 * layer

    held = removal.claims_a(planted(drop, lambda name, layer: 0.1), "mAP")
    assert [claim.of for claim in held] == ["fonly", "full"]
    assert [judge(claim.comparisons) for claim in held] == [Verdict.HOLDS] * 2
    assert held[0].gates == ("recogniser, fonly",)
    assert held[0].comparisons[0].estimate.n == 3  # networks, not layers
    one = planted(drop, lambda name, layer: 0.1 + 0.5 * (name == "random seed"))
    assert judge(removal.claims_a(one, "mAP")[0].comparisons) is Verdict.FAILS
    wavering = planted(lambda m, s, n: 0.1 + 0.3 * (s - 1), lambda name, layer: 0.1)
    assert judge(removal.claims_a(wavering, "mAP")[0].comparisons) is Verdict.FEW


def test_claim_l_is_the_loss_in_the_paper_s_way():
    rows = planted(lambda m, s, n: 0.25, way="as in the paper")
    (one, _) = removal.claims_l(rows, "mAP")
    assert one.comparisons[0].estimate.mean == pytest.approx(0.249)
    assert judge(one.comparisons) is Verdict.HOLDS


def test_claim_g_needs_a_steadier_fonly_and_a_more_robust_full_network_in_the_paper_s_way():
    def claimed(mode, random_state, layer):
        steep = 0.02 + 0.0001 * random_state
        return 0.5 + 0.001 * random_state if mode == "fonly" else 0.1 + steep * layer

    def verdict(drop):
        rows = planted(drop, way="as in the paper")
        return judge(removal.claim_g(rows, "mAP").comparisons)

    assert verdict(claimed) is Verdict.HOLDS
    assert verdict(lambda m, s, n: 0.4 - claimed(m, s, n)) is Verdict.FAILS
    swapped = {"fonly": "full", "full": "fonly"}
    assert verdict(lambda m, s, n: claimed(swapped[m], s, n)) is Verdict.FAILS
    noisy = verdict(lambda m, s, n: 0.3 + 0.1 * (s - 1) * (m == "full") * (n % 2))
    assert noisy is Verdict.FEW


# --- figure 7 -------------------------------------------------------------------------------------


def test_figure_7_is_the_coherence_of_the_most_active_maps(study):
    rows = rows_of(study, "figure-7")
    regimes = (*REGIMES, "untrained")
    assert [(r["regime"], r["layer"]) for r in rows] == [
        (regime, layer) for regime in regimes for layer in LAYERS
    ]
    test = study.clips("audioset").subset("test")
    for regime, network in (("supervised", pretrained("supervised")), ("untrained", untrained())):
        row = next(r for r in rows if (r["regime"], r["layer"]) == (regime, "conv2"))
        sonifier = Sonifier(study.encoder(network))
        values = []
        for number in every_nth(test, 4):
            x = test.waveform(number)
            s = sonifier.sonify(x, layer="conv2", channel="most_active")
            _, every = scipy.signal.coherence(x.double(), s.waveform.double())
            values.append(sorted(every)[-5:])
        assert float(row["sonification"]) == pytest.approx(np.mean(values), abs=1e-4)
        assert float(row["silent"]) == 0
    facts = json.loads((study.folder / "figure-7" / FINDING).read_text())
    falls = {n["name"]: n["estimate"]["mean"] for n in facts["numbers"] if "fall" in n["name"]}
    curves = {
        regime: [float(r["sonification"]) for r in rows if r["regime"] == regime]
        for regime in regimes
    }
    own = {regime: -10 * np.polyfit(range(11), y, 1)[0] for regime, y in curves.items()}
    own |= {f"{regime} minus untrained": own[regime] - own["untrained"] for regime in REGIMES}
    assert falls == {
        f"{name}, fall from layer 1 to 11": pytest.approx(x) for name, x in own.items()
    }


def coherent(height, control, runs=3):
    """Rows of figure 7: `height(regime, random_state, layer)` and `control(layer)` below them."""
    return [
        {
            "regime": regime,
            "random_state": random_state,
            "layer": layer,
            "sonification": height(regime, random_state, n),
        }
        | {m: height(regime, random_state, n) - control(n) for m in similarity.MINUS.values()}
        for regime in REGIMES
        for random_state in range(runs)
        for n, layer in enumerate(LAYERS)
    ]


def test_claims_b_and_c_are_of_slopes():
    def height(regime, random_state, layer):
        own, other = 0.08 + 0.001 * random_state, 0.032 - 0.001 * random_state
        return 1 - layer * (own if regime == "supervised" else other)

    rows = coherent(height, lambda layer: 0.5)
    assert similarity.falls(rows, "supervised", "sonification") == pytest.approx([0.8, 0.81, 0.82])
    claim_b, claim_c = similarity.claim_b(rows), similarity.claim_c(rows)
    assert [judge(claim.comparisons) for claim in (claim_b, claim_c)] == [Verdict.HOLDS] * 2
    assert str(claim_b.comparisons[1]).startswith("supervised, from layer 1 to 11 +0.810 coherence")
    assert claim_c.comparisons[0].estimate.mean == pytest.approx(0.5)
    rising = coherent(lambda *place: 1 - height(*place), lambda layer: 0.5)
    assert judge(similarity.claim_b(rising).comparisons) is Verdict.FAILS
    assert judge(similarity.claim_c(rising).comparisons) is Verdict.FAILS
    wavering = coherent(
        lambda regime, random_state, n: 0.5 + 0.02 * n * (random_state - 1), lambda layer: 0.5
    )
    assert judge(similarity.claim_b(wavering).comparisons) is Verdict.FEW


# --- figure B.3 and the strided twin --------------------------------------------------------------


def test_only_multiples_of_the_stride_move_a_sonification_exactly(study):
    rows = rows_of(study, "figure-b3")
    assert len(rows) == 2 * len(LAYERS)
    assert [int(row["stride"]) for row in rows[:11]] == [2, 4, 8, 16, 32, 64, 128, *[256] * 4]
    heard = [row for row in rows if row["shift 256"]]
    assert len(heard) > len(LAYERS)
    for row in heard:
        for shift in shifts.OFFSETS:
            error = float(row[f"shift {shift}"])
            assert (
                error == pytest.approx(0, abs=1e-12)
                if shift % int(row["stride"]) == 0
                else error > 1e-3
            )


@pytest.mark.parametrize("layer", ["conv2", "conv8"])
def test_a_shift_error_by_hand(layer):
    """Without biases silence is silence, and all of a sound between zeros is away from the ends."""
    torch.manual_seed(1)
    model = CNN12(width=1 / 8).double().eval()
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.zeros_(parameter)
    sonifier = Sonifier(model)
    sound = torch.zeros(shifts.LENGTH + 301, dtype=torch.float64)
    sound[11_000:12_000] = torch.randn(1000, generator=draws(), dtype=torch.float64)
    channel = shifts.loudest_map(sonifier, sound, layer=layer)
    one, other = (
        sonifier.sonify(x, layer=layer, channel=channel).raw
        for x in (sound[: shifts.LENGTH], sound[301:])
    )
    expected = float((one[301:] - other[:-301]).abs().max() / one.abs().max())
    assert expected > 0.01
    where = {"layer": layer, "channel": channel, "shifts": [301]}
    found = shifts.shift_errors(sonifier, sound, **where)
    assert found[301] == pytest.approx(expected, rel=1e-9)
    assert shifts.shift_errors(sonifier, 0 * sound, **where) == {301: None}


def test_the_twin_is_beside_the_network_itself(study):
    rows = rows_of(study, "strided-twin")
    plain = [row for row in rows_of(study, "figure-b3") if row["regime"] == "supervised"]
    own = [row for row in rows if row["network"] == "pooling"]
    for row, shifted in zip(own, plain, strict=True):
        if row["shift error"]:
            several = np.mean([float(shifted[f"shift {n}"]) for n in shifts.ANY])
            assert float(row["shift error"]) == pytest.approx(several)
    coherent = [r for r in rows_of(study, "figure-7") if r["regime"] == "supervised"]
    expected = [float(row["sonification"]) for row in coherent]
    assert [float(row["coherence"]) for row in own] == pytest.approx(expected, abs=1e-5)
    facts = json.loads((study.folder / "strided-twin" / FINDING).read_text())
    told = {n["name"]: n["estimate"]["mean"] for n in facts["numbers"]}
    for name, changes in shifts.POOLINGS.items():
        network = pretrained("supervised", **changes)
        assert told[f"{name}, recognition"] == study.result(network)["test"]["mAP"]


def moved(error: float, exact: float = 1e-15) -> list[dict]:
    """Rows of figure B.3: three networks of each regime that err at the paper's shift."""
    return [
        {"regime": regime, "random_state": random_state, "layer": layer}
        | {f"shift {n}": exact * (1 + random_state / 10) for n in shifts.WHOLE}
        | {"shift 8645": error * (1 + random_state / 10)}
        for regime in REGIMES
        for random_state in range(3)
        for layer in LAYERS
    ]


def test_the_claim_of_any_offset_fails_and_that_of_whole_strides_holds():
    assert judge(shifts.claim_m(moved(0.5)).comparisons) is Verdict.FAILS
    assert shifts.claim_m(moved(0.5)).comparisons[0].estimate.n == 6  # networks, of both regimes
    assert judge(shifts.claim_n(moved(0.5)).comparisons) is Verdict.HOLDS
    assert judge(shifts.claim_m(moved(0.005)).comparisons) is Verdict.HOLDS
    assert judge(shifts.claim_n(moved(0.5, exact=1e-3)).comparisons) is Verdict.FAILS


def test_claim_f_needs_steadier_and_closer_sounds_of_pooling():
    def rows(pooling, stride):
        sides = {"pooling": pooling, "stride": stride}
        return [
            {"network": name, "random_state": random_state, "layer": n}
            | {"shift error": e + n / 100 + random_state / spread}
            | {"coherence": c + random_state / spread}
            for spread, (name, (e, c)) in enumerate(sides.items(), start=1000)
            for random_state in range(3)
            for n in range(11)
        ]

    def verdict(found):
        return judge(shifts.claim_f(found).comparisons)

    assert verdict(rows((0.2, 0.9), (0.5, 0.6))) is Verdict.HOLDS
    assert verdict(rows((0.2, 0.5), (0.5, 0.6))) is Verdict.FAILS
    assert verdict(rows((0.6, 0.9), (0.5, 0.6))) is Verdict.FAILS
    dead = [*rows((0.2, 0.9), (0.5, 0.6))]
    dead[3] = dead[3] | {"shift error": None}
    (error, _) = shifts.claim_f(dead).comparisons
    assert error.estimate.n == 3


def test_panels_of_the_same_curves_share_a_legend():
    one, two = ({name: [Interval(1.0, 0.1, 3)] for name in names} for names in ("ab", "ac"))
    figure = plot_curves({"first": one, "second": one, "third": two}, ["conv1"], "mAP")
    legends = [axes.get_legend() for axes in figure.axes]
    assert legends[0] is None
    shown = [[text.get_text() for text in legend.get_texts()] for legend in legends[1:]]
    assert shown == [["a", "b"], ["a", "c"]]


def test_panels_of_two_units_have_two_axes():
    low, high = ({"a": [Interval(mean, 0.0, 2)] * 2} for mean in (0.1, 100.0))
    figure = plot_curves({"one": low, "two": high}, ["1", "2"], ("share", "hertz"))
    assert [axes.get_ylabel() for axes in figure.axes] == ["share", "hertz"]
    assert figure.axes[0].get_ylim()[1] < 1 < figure.axes[1].get_ylim()[0]


def test_curves_frame_a_picture_and_not_their_intervals():
    curves = {"a": [Interval(0.2, 9.0, 2), Interval(math.nan, math.nan, 0)]}
    figure = plot_curves({"one": curves | {"b": 2 * [Interval(0.4, 0.1, 2)]}}, ["1", "2"], "mAP")
    assert figure.axes[0].get_ylim() == pytest.approx((0.1, 0.5))
    alone = plot_curves({"one": curves}, ["1", "2"], "mAP", {"one": 0.6})
    assert alone.axes[0].get_ylim() == pytest.approx((0.0, 0.8))
