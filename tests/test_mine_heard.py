"""The winners' further sounds and figures of trust: masks, controls, what a card would say."""

import json
import re
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import soundfile
import torch
from torch import nn

from deconv1d import InputError, Sonifier
from deconv1d.evaluation.randomisation import random_seed
from deconv1d.masks.listen import listen
from deconv1d.mining.findings import read_layers, read_winners
from deconv1d.mining.run import mine_into
from deconv1d.mining.shards import Miner
from deconv1d.mining.trust import twin_of
from deconv1d.report.mined_folder import read_mined_folder
from deconv1d.report.mined_report import write_report
from deconv1d.sounding import to_peak_of

pytest.importorskip("pyarrow")
pytest.importorskip("filelock")

RATE = 2000
LENGTHS = (1500, 1500, 2001, 1800)
FIGURES = ("response", "identified", "control_margin", "permuted_margin", "sentence")


def network():
    torch.manual_seed(1)
    layers = nn.Conv1d(1, 6, 9, stride=2), nn.ReLU(), nn.Conv1d(6, 5, 5), nn.ReLU()
    return Sonifier(nn.Sequential(*layers), sample_rate=RATE)


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    root = tmp_path_factory.mktemp("clips")
    for number, length in enumerate(LENGTHS):
        noise = np.random.default_rng(number).normal(0, 0.1, length)
        tone = 0.4 * np.sin(2 * np.pi * 100 * (number + 1) * np.arange(length) / RATE)
        soundfile.write(root / f"{number}.wav", noise + tone, RATE, subtype="PCM_16")
    return root


def mined(out, clips, **options):
    options = {"layers": ["0", "2"], "top": 2, "batch": 2, **options}
    mine_into(out, [str(clips)], network, **options)
    return read_winners(out).to_pylist()


@pytest.fixture(scope="module")
def everything(clips, tmp_path_factory):
    out = tmp_path_factory.mktemp("out") / "all"
    return out, mined(out, clips, trust=True, mask=True)


def waveform(folder, name):
    return torch.from_numpy(soundfile.read(folder / name, dtype="float32")[0])


def heard_at(sonifier, x, sound, layer):
    """Activations on a sound at the clip's level, one forward pass by itself."""
    if not sound.any():
        return torch.zeros_like(sonifier.maps(x, layer=layer)[0].mean(-1))
    level = x.square().mean().sqrt() / sound.square().mean().sqrt()
    return sonifier.maps(sound * level, layer=layer)[0].mean(-1)


def test_the_figures_are_those_of_a_control_card(everything, clips):
    sonifier, (_, rows) = network(), everything
    told = []
    for row in rows[::2]:
        x = waveform(clips, row["clip"])
        if row["gain"] == 0:
            continue
        card = sonifier.control_card(x, layer=row["layer"], channel=row["channel"], draws=1)
        assert row["response"] == pytest.approx(card.response, rel=1e-4)
        assert row["identified"] == float(card.told)
        told.append(card.told)
        words = row["sentence"].split(":")[0].split("(")[0]
        assert words in card.verdict or "permuted" in row["sentence"] + card.verdict
    assert {True, False} == set(told)


def test_the_margins_are_those_of_controls_made_one_by_one(everything, clips):
    sonifier, (out, rows) = network(), everything
    twin = twin_of(sonifier)
    for row in rows[1::3]:
        x = waveform(clips, row["clip"])
        place = {"layer": row["layer"], "channel": row["channel"]}
        # Drawn for all of the layer's channels at once, as in mining.
        seed = partial(random_seed, generator=torch.Generator().manual_seed(0))
        others = {
            "control_margin": sonifier.sonify(x, **place, seed=seed).waveform,
            "permuted_margin": to_peak_of(x, twin.sonify(x, **place).raw)[0],
        }
        active = sonifier.maps(x, layer=row["layer"])[0].mean(-1)[row["channel"]]
        for name, sound in others.items():
            response = heard_at(sonifier, x, sound, row["layer"])[row["channel"]] / active
            assert row["response"] - row[name] == pytest.approx(float(response), rel=1e-4, abs=1e-4)
        written = waveform(out, row["control_path"])
        np.testing.assert_allclose(written, others["control_margin"], atol=1e-4)


def test_masked_recordings_are_those_of_the_method(everything, clips):
    sonifier, (out, rows) = network(), everything
    for row in rows[::5]:
        x = waveform(clips, row["clip"])
        alone = sonifier.sonify(x, layer=row["layer"], channel=row["channel"], method="mask")
        np.testing.assert_allclose(waveform(out, row["mask_path"]), alone.waveform, atol=1e-4)


def test_mask_is_a_method_of_the_winners(clips, tmp_path):
    rows = mined(tmp_path / "out", clips, layers=["2"], method="mask", trust=True)
    assert read_layers(tmp_path / "out")["method"] == "mask"
    x = waveform(clips, rows[0]["clip"])
    alone = network().sonify(x, layer="2", channel=rows[0]["channel"], method="mask")
    np.testing.assert_allclose(
        waveform(tmp_path / "out", rows[0]["path"]), alone.waveform, atol=1e-4
    )
    assert rows[0]["response"] > 0
    assert {(row["control_margin"], row["sentence"]) for row in rows} == {(None, None)}
    with pytest.raises(InputError, match="A mask carries nothing back"):
        mined(tmp_path / "other", clips, method="mask", seed="ones")


def test_without_the_options_nothing_of_it_is_there(clips, tmp_path):
    rows = mined(tmp_path / "out", clips)
    empty = {row[name] for row in rows for name in (*FIGURES, "mask_path", "control_path")}
    assert empty == {None}


def test_trust_and_masks_can_be_added_and_nothing_is_mined_again(
    everything, clips, tmp_path, monkeypatch
):
    mined(tmp_path / "out", clips)
    monkeypatch.setattr(Miner, "__call__", lambda *_: pytest.fail("mined again"))
    assert mined(tmp_path / "out", clips, trust=True, mask=True) == everything[1]
    # What is there is not taken away by a run that does not ask for it.
    assert mined(tmp_path / "out", clips) == everything[1]


# --- wrong versions, which the laws above notice -------------------------------------------------


def planted(monkeypatch, where, wrong, law, clips, out, **options):
    """Mines with a function exchanged; then a law of this file must fail."""
    with monkeypatch.context() as patch:
        patch.setattr(where, wrong)
        rows = mined(out, clips, **options)
    with pytest.raises(AssertionError):
        law((out, rows), clips)


def test_sounds_that_are_judged_at_another_level_are_noticed(clips, tmp_path, monkeypatch):
    law, where = test_the_figures_are_those_of_a_control_card, "deconv1d.mining.trust.to_rms"
    planted(monkeypatch, where, lambda x, level: x, law, clips, tmp_path / "out", trust=True)


def test_a_control_of_the_model_s_own_weights_is_noticed(clips, tmp_path, monkeypatch):
    law = test_the_margins_are_those_of_controls_made_one_by_one
    where = "deconv1d.mining.hearing.twin_of"
    planted(monkeypatch, where, lambda sonifier: sonifier, law, clips, tmp_path / "out", trust=True)


def test_masks_of_other_channels_are_noticed(clips, tmp_path, monkeypatch):
    def turned(*arguments, **options):
        found = listen(*arguments, **options)
        return [replace(each, waveform=each.waveform.roll(1, 0)) for each in found]

    law, where = test_masked_recordings_are_those_of_the_method, "deconv1d.mining.hearing.listen"
    planted(monkeypatch, where, turned, law, clips, tmp_path / "out", mask=True)


# --- what a report makes of it -------------------------------------------------------------------


def facts_of(page) -> dict:
    found = re.search(r'id="report-data">(.*?)</script>', page.read_text("utf-8"), re.DOTALL)
    return json.loads(found[1])


def test_the_page_has_five_sounds_of_each_winner_its_sentence_and_its_trust(everything, tmp_path):
    out, rows = everything
    page = write_report(out, folder=tmp_path / "page")
    (model,) = facts_of(page)["models"]
    cells = {(la["name"], c["channel"]): c for la in model["layers"] for c in la["cells"]}
    for row in rows:
        cell = cells[row["layer"], row["channel"]]
        top = cell["top"][row["rank"]]
        sounds = {name: stem for name, _, stem, _ in top["sounds"]}
        assert list(sounds) == ["input", "sonification", "mask", "residual", "random seed"]
        left = waveform(page.parent, f"{sounds['residual']}.wav")
        expected = waveform(out, row["input_path"]) - waveform(out, row["path"])
        expected /= max(1, float(expected.abs().max()))
        np.testing.assert_allclose(left, expected, atol=2**-14)
        assert top["sentence"] == row["sentence"]
        assert top["facts"].get("control margin") == row["control_margin"]
    for (layer, channel), cell in cells.items():
        own = [r["identified"] for r in rows if (r["layer"], r["channel"]) == (layer, channel)]
        known = [value for value in own if value is not None]
        assert cell["trust"] == (pytest.approx(sum(known) / len(known)) if known else None)
    assert len({cell["trust"] for cell in cells.values()}) > 1


def test_winners_that_were_masked_are_called_so(clips, tmp_path):
    mined(tmp_path / "out", clips, layers=["2"], method="mask")
    winner = read_mined_folder(tmp_path / "out").layers[0].winners[0][0]
    assert list(winner.sounds) == ["input", "mask"]
