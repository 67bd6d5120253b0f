"""Networks measured as soon as they are trained, and the run on a GPU, at a tiny size."""

import json
import re
from collections import OrderedDict
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

pytest.importorskip("pyarrow")

from reference_models import gpu_run, networks, simclr
from reference_models.batches import seeded
from reference_models.checkpoint import load_checkpoint, load_classifier
from reference_models.cnn12 import projection_head
from reference_models.data import Clip, ClipIndex, ClipSet, build_cache
from reference_models.experiments.study import PRESETS, REGIMES, Study, pretrained
from reference_models.nt_xent import nt_xent
from reference_models.probing import WHOLE, best_block, probe_blocks, untrained
from reference_models.supervised import score

SPLITS = ["train"] * 18 + ["val"] * 9 + ["test"] * 9


def read_tone(clip: Clip) -> np.ndarray:
    noise = np.random.default_rng(number := int(clip.id.rpartition("_")[2])).normal(
        size=2600 + 100 * (number % 2)
    )
    return np.sin(0.3 * (1 + clip.labels[0]) * np.arange(len(noise))) + 0.1 * noise


def tones(folder: Path) -> ClipSet:
    clips = tuple(
        Clip(f"word/{'ab'[i % 2]}_nohash_{i}", "", 0, 0, 0, (i % 3,), split, "unread")
        for i, split in enumerate(SPLITS)
    )
    return build_cache(ClipIndex("tones", ("a", "b", "c"), False, clips), folder, read=read_tone)


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


# --- packing and the run on a GPU ----------------------------------------------------------------


@pytest.mark.parametrize("bits", [8, gpu_run.BITS])
def test_packed_clips_come_back_but_for_the_bits_that_are_left_out(tmp_path, bits):
    clips = tones(tmp_path / "cache")
    gpu_run.pack(clips, tmp_path / "packed", bits=bits)
    back = gpu_run.unpack(tmp_path / "packed", tmp_path / "other")
    assert (back.ids, back.classes, back.index.clip_hash) == (
        clips.ids,
        clips.classes,
        clips.index.clip_hash,
    )
    for split in ("train", "val", "test"):
        assert back.subset(split).ids == clips.subset(split).ids
    assert torch.equal(back.labels(), clips.labels())
    for number in range(len(clips)):
        error = (back.waveform(number) - clips.waveform(number)).abs().max()
        assert 0 < error < 0.51 / (2 ** (bits - 1) - 1)


def test_the_gpu_run_at_a_tiny_size(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(gpu_run, "probe_blocks", partial(probe_blocks, blocks=(3, WHOLE)))
    tones(tmp_path / "cache")
    gpu_run.main(["pack", str(tmp_path / "cache"), "--out", str(tmp_path / "packed")])
    packed = tmp_path / "packed" / "waveforms.flac"
    assert f"{packed}: " in capsys.readouterr().out
    clips = gpu_run.unpack(tmp_path / "packed", tmp_path / "run" / "cache")
    tiny = {"width": 1 / 64, "seconds": 0.3, "batch_size": 6, "epochs": 2, "keep_every": 2}
    tiny["warmup_epochs"] = 0.5
    own = replace(gpu_run.SUPERVISED, **tiny)
    contrastive = replace(gpu_run.CONTRASTIVE, gap=-0.29, **tiny)
    found = gpu_run.train(clips, tmp_path / "run", own=own, contrastive=contrastive, device="cpu")
    assert json.loads((tmp_path / "run" / "results.json").read_text()).keys() == found.keys()
    assert len(found["contrastive"]["history"]) == 2
    assert found["supervised"]["test"]["clips"] == 9
    untrained_ones = [f"untrained-s{draw}" for draw in range(3)]
    for name in ("supervised", "contrastive", *untrained_ones):
        assert list(found[name]["probes"]) == ["3", str(WHOLE)]
    losses = {found[name]["probes"]["3"]["fit"]["gradient"] for name in untrained_ones}
    assert len(losses) == 3  # three draws
    stamp = (tmp_path / "run" / "supervised" / "result.json").stat().st_mtime_ns
    monkeypatch.setattr(gpu_run, "SUPERVISED", own)
    monkeypatch.setattr(gpu_run, "CONTRASTIVE", contrastive)
    again = ["train", str(tmp_path / "packed"), "--out", str(tmp_path / "run"), "--device", "cpu"]
    gpu_run.main([*again, "--width", str(1 / 64)])
    assert str(tmp_path / "run" / "results.json") in capsys.readouterr().out
    assert (tmp_path / "run" / "supervised" / "result.json").stat().st_mtime_ns == stamp


def test_a_folder_without_packed_clips_is_one_line(tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        gpu_run.main(["train", str(tmp_path), "--out", str(tmp_path / "run"), "--device", "cpu"])
    assert ended.value.code == 2
    assert "waveforms.flac" in (error := capsys.readouterr().err)
    assert error.count("\n") == 1


# --- probes by block -----------------------------------------------------------------------------


def test_probes_see_what_untrained_features_tell(tmp_path):
    clips = tones(tmp_path)
    found = probe_blocks(untrained(1 / 64, 0), clips, blocks=(1, WHOLE))
    assert list(found) == [1, WHOLE]
    for probed in found.values():
        assert probed["fit"]["converged"]
        assert probed["val"]["accuracy"] == max(probed["fit"]["tried"].values())
    assert found[WHOLE]["test"]["accuracy"] > 0.8  # three tones, far apart
    assert best_block({3: found[1], 5: found[1]}) == 3  # of equal ones the lowest


def test_untrained_encoders_are_drawn_by_number():
    one, again, other = (untrained(1 / 64, draw).features.conv5.weight for draw in (0, 0, 1))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


# --- networks of a study -------------------------------------------------------------------------


def test_every_network_is_measured_once(tmp_path, monkeypatch):
    clips = tones(tmp_path / "cache")
    monkeypatch.setattr(Study, "clips", lambda *_: clips)
    monkeypatch.setattr("reference_models.experiments.study.DRAWS", 2)
    monkeypatch.setattr(networks, "BLOCKS", (11,))
    monkeypatch.setattr(networks, "PROBED", ("words",))
    monkeypatch.setattr(networks, "FINETUNED", ("words",))
    study = Study(tmp_path / "results", replace(PRESETS["smoke"], runs=1))
    measured = tmp_path / "measured"
    paths = list(networks.measure_all(study, measured))
    assert [path.stem for path in paths] == [
        "untrained-s0",
        "untrained-s1",
        "audioset-supervised-s0",
        "audioset-contrastive-s0",
        "words-supervised-from-(audioset-supervised-s0)-s0",
        "words-supervised-from-(audioset-contrastive-s0)-s0",
        "words-supervised-s0",
    ]
    assert not any(str(tmp_path) in path.read_text() for path in paths)
    assert not list(networks.measure_all(study, measured))
    changed = replace(study.preset.contrastive, peak_rate=0.5)
    other = Study(study.folder, replace(study.preset, contrastive=changed))
    with pytest.raises(ValueError, match=r"contrastive-s0\.json' is of another run: its peak_rate"):
        list(networks.measure_all(other, measured))
    supervised = json.loads((measured / "audioset-supervised-s0.json").read_text())
    assert supervised["test"] == study.result(pretrained("supervised"))["test"]
    encoder = study.encoder(pretrained("supervised"))
    alone = probe_blocks(encoder, clips, blocks=(11,))[11]
    assert supervised["probes"]["words"]["11"]["test"] == alone["test"]
    shipped = list(networks.ship(study, measured, tmp_path, "python -m x"))
    assert [path.stem for path in shipped] == ["cnn12-w64-arabic-" + regime for regime in REGIMES]
    card = json.loads(shipped[1].with_suffix(".json").read_text())
    assert card["test"] == score(load_classifier(shipped[1]), clips.subset("test"))
    assert card["command"] == "python -m x"
    assert card["figures"]["words"]["whole"]["metric"] == "accuracy"
    assert len(card["figures"]["words"]["whole"]["untrained"]) == 2
    tensors, about = load_checkpoint(shipped[1])
    assert about == card
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float16}
    text = (measured / "networks.md").read_text()
    assert all(f"| {path.stem} |" in text for path in paths)
    assert re.search(r"- untrained, words: block 11 .* whole .* \(N=2\)", text)
    assert "- chance, words: 0.333" in text
    assert re.search(r"- supervised, words: block 11 \d\.\d+ \(N=1\)", text)


def test_the_plan_names_every_network(tmp_path, monkeypatch):
    clips = tones(tmp_path / "cache")
    monkeypatch.setattr(Study, "clips", lambda *_: clips)
    study = Study(tmp_path / "results", PRESETS["smoke"])
    monkeypatch.setattr(networks, "clip_seconds_per_second", lambda study: 0.5)
    lines = networks.plan(study).splitlines()
    assert len(lines) == 3 + len(networks.networks(study))
    cost = study.cost(pretrained("supervised"), clips.subset("train"))
    assert lines[2] == f"| audioset-supervised-s0 | {cost / 3600:.1f} | {cost / 0.5 / 60:.0f} |"


def test_the_contrastive_loss_is_also_that_of_held_out_clips(tmp_path):
    clips = tones(tmp_path / "cache")
    settings = simclr.Settings(
        width=1 / 64,
        seconds=0.3,
        gap=-0.29,
        batch_size=4,
        epochs=2,
        warmup_epochs=1,
        sonify_every=0,
    )
    history = simclr.train(clips, settings, tmp_path / "run")["history"]
    tensors, _ = load_checkpoint(tmp_path / "run" / "epoch-002.safetensors")
    encoder = untrained(1 / 64, 0)
    model = nn.Sequential(OrderedDict(encoder=encoder, projection=projection_head()))
    model.load_state_dict(tensors)
    draws = seeded("cpu", "validation")
    losses = []
    for batch in torch.randperm(9, generator=draws).split(4)[:2]:  # the ninth clip fills none
        pair = clips.subset("val").two_crops(batch, 2400, gap=-2320, generator=draws)
        with torch.no_grad():
            one, two = (model.eval()(crop) for crop in pair)
            losses.append(nt_xent(one, two, temperature=0.1).item())
    assert history[1]["val_loss"] == pytest.approx(np.mean(losses), rel=1e-5)
