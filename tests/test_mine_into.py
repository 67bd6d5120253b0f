"""Mining into a folder: the same bytes however it is done, and nothing finished is lost."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from command import FACTORIES, ROOT, check_refused
from torch import nn

from deconv1d import FileError, InputError, LayerError, ModelError, Sonifier
from deconv1d.cli.commands import main
from deconv1d.mining import hearing
from deconv1d.mining.batches import BatchedMaps
from deconv1d.mining.findings import read_errors, read_layers, read_winners
from deconv1d.mining.plan import read_plan
from deconv1d.mining.ranking import Scores
from deconv1d.mining.run import mine_into
from deconv1d.mining.sources import list_clips, read_clip
from deconv1d.mining.worker import PlanWorker
from deconv1d.report.mined_report import write_report

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")
pytest.importorskip("filelock")

RATE = 1000
LENGTHS = (300, 300, 300, 300, 300, 411, 411, 700, 300, 300, 950, 411)


class Tiny(nn.Module):
    """Two convolutions, a pool and a linear layer; its layer names need care in paths."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv1d(1, 3, 5, stride=2)
        self.pool = nn.MaxPool1d(2)
        self.conv2 = nn.Conv1d(3, 4, 3, padding=1)
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        x = self.pool(torch.relu(self.conv1(x)))
        return self.head(torch.relu(self.conv2(x)).mean(-1))


def tiny(seed=0, cls=Tiny):
    torch.manual_seed(seed)
    return Sonifier(cls(), sample_rate=RATE)


def sound(number: int, length: int) -> np.ndarray:
    return np.random.default_rng(number).uniform(-0.9, 0.9, length).astype(np.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Clips in folders, of several lengths and formats; two cannot be used."""
    root = tmp_path_factory.mktemp("data")
    for number, length in enumerate(LENGTHS):
        path = root / f"class {number % 3}" / f"{number:02d}.{'flac' if number % 2 else 'wav'}"
        path.parent.mkdir(exist_ok=True)
        soundfile.write(path, sound(number, length), RATE, subtype="PCM_16")
    (root / "class 0" / "broken.wav").write_bytes(b"RIFF nothing")
    soundfile.write(root / "class 1" / "empty.wav", np.zeros(0), RATE)
    (root / "notes.txt").write_text("no sound")
    return root


def mined(out, data, **options):
    options = {"batch": 2, "shard_clips": 8, **options}
    return mine_into(out, [str(data)], tiny, **options)


def contents(out: Path) -> dict[str, bytes]:
    """All that others read: not the list of clips with its paths, nor how the work was cut."""
    private = {"plan.json", "clips.parquet", ".lock"}
    files = (p for p in sorted(out.rglob("*")) if p.is_file() and p.name not in private)
    named = {str(p.relative_to(out)): p.read_bytes() for p in files}
    return {n: c for n, c in named.items() if not n.startswith(("shards/", "heard/"))}


@pytest.fixture(scope="module")
def whole(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("out") / "whole"
    assert mined(out, folder).one_by_one is None
    return out


def rows_of(out):
    return read_winners(out).to_pylist()


# --- what is found -------------------------------------------------------------------------------


@pytest.mark.parametrize("score", ["peak", "mean"])
def test_the_rows_are_those_of_a_sort_of_all(folder, tmp_path, score):
    mined(tmp_path / "out", folder, score=score)
    sonifier = tiny()
    clips = {c.clip: c for c in list_clips([str(folder)]) if not c.clip.endswith(BAD)}
    for layer in ("conv1", "conv2", "head"):
        maps = {n: sonifier.maps(read_clip(c, RATE), layer=layer)[0] for n, c in clips.items()}
        for channel in range(len(next(iter(maps.values())))):
            flat = {clip: map_[channel].reshape(-1) for clip, map_ in maps.items()}
            value = {c: float(m.max() if score == "peak" else m.mean()) for c, m in flat.items()}
            expected = sorted(value, key=lambda clip: (-value[clip], clip))[:3]
            rows = [
                r
                for r in rows_of(tmp_path / "out")
                if (r["layer"], r["channel"]) == (layer, channel)
            ]
            assert [row["clip"] for row in rows] == expected
            for row in rows:
                assert row["value"] == pytest.approx(value[row["clip"]], abs=1e-5)
                assert row["position"] == int(flat[row["clip"]].argmax())


BAD = ("broken.wav", "empty.wav")


def test_bad_clips_are_listed_with_the_reason(whole):
    errors = {row["clip"]: row["reason"] for row in read_errors(whole).to_pylist()}
    assert list(errors) == ["class 0/broken.wav", "class 1/empty.wav"]
    assert "libsndfile refuses" in errors["class 0/broken.wav"]
    assert "holds no sound" in errors["class 1/empty.wav"]


def test_all_layers_are_mined_each_block_once(whole):
    facts = read_layers(whole)
    layers = {row["layer"]: row for row in facts["layers"]}
    assert list(layers) == ["conv1", "conv2", "head"]
    assert (facts["sample_rate"], facts["model"], facts["clips"]) == (RATE, "Tiny", 14)
    conv1 = layers["conv1"]
    assert (conv1["type"], conv1["channels"], conv1["hop"], conv1["receptive_field"]) == (
        "Conv1d", 3, 4, 7,
    )  # fmt: skip
    assert layers["head"]["hop"] is None


def test_each_winner_is_heard_as_by_itself(whole, folder):
    sonifier = tiny()
    rows = rows_of(whole)
    for row in rows[::3]:
        x, _ = soundfile.read(folder / row["clip"], dtype="float32")
        alone = sonifier.sonify(x, layer=row["layer"], channel=row["channel"])
        written, rate = soundfile.read(whole / row["path"], dtype="float32")
        assert rate == RATE
        np.testing.assert_allclose(written, alone.waveform, atol=1e-4)
        np.testing.assert_allclose(soundfile.read(whole / row["input_path"])[0], x, atol=1e-4)
        assert row["gain"] == pytest.approx(float(alone.gain), rel=1e-5)
        if len(x) >= 384:  # two segments of coherence
            assert row["coherence"] == pytest.approx(float(alone.coherence()), abs=1e-4)
        else:
            assert row["coherence"] is None
    files = {str(p.relative_to(whole)) for p in whole.rglob("*.flac")}
    assert files == {row[name] for row in rows for name in ("path", "input_path")}


def test_the_window_is_what_the_moment_reads(whole):
    for row in rows_of(whole):
        if row["layer"] == "conv1":
            assert row["first_sample"] == 4 * row["position"]
            assert row["last_sample"] == row["first_sample"] + 6


# --- however it is done --------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 16, 100])
def test_the_size_of_the_shards_does_not_matter(whole, folder, tmp_path, size):
    mined(tmp_path / "out", folder, shard_clips=size)
    assert contents(tmp_path / "out") == contents(whole)


@pytest.mark.slow
def test_processes_give_the_same_bytes(whole, folder, tmp_path):
    mined(tmp_path / "out", folder, executor="process", workers=2)
    assert contents(tmp_path / "out") == contents(whole)


def hugging_face(folder: Path, path: Path) -> str:
    names = sorted(str(p.relative_to(folder)) for p in folder.rglob("*.*a*") if p.suffix != ".txt")
    audio = [{"bytes": (folder / n).read_bytes(), "path": n} for n in names]
    pq.write_table(
        pa.table({"label": list(range(len(names))), "audio": audio}), path, row_group_size=4
    )
    return str(path)


def tar_of(folder: Path, path: Path) -> str:
    with tarfile.open(path, "w") as tar:
        for file in sorted(p for p in folder.rglob("*") if p.is_file()):
            tar.add(file, str(file.relative_to(folder)))
    return str(path)


def index_of(folder: Path, path: Path) -> str:
    names = sorted(str(p.relative_to(folder)) for p in folder.rglob("*.*a*") if p.suffix != ".txt")
    rows = [{"path": str(folder / name), "id": name, "label": "x"} for name in names]
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        with open(path, "w", newline="") as file:
            writer = csv.DictWriter(file, rows[0], delimiter="\t" if path.suffix == ".tsv" else ",")
            writer.writeheader()
            writer.writerows(rows)
    return str(path)


SOURCES = {
    "a.tar": tar_of, "a.csv": index_of, "a.tsv": index_of, "index.parquet": index_of,
    "sounds.parquet": hugging_face,
}  # fmt: skip


@pytest.mark.parametrize("name", SOURCES)
def test_every_source_gives_the_same_clips(whole, folder, tmp_path, name):
    source = SOURCES[name](folder, tmp_path / name)
    mined(tmp_path / "out", source)
    for row, expected in zip(rows_of(tmp_path / "out"), rows_of(whole), strict=True):
        assert row["clip"].endswith(expected["clip"])
        assert row["value"] == expected["value"]
        assert row["position"] == expected["position"]


def test_globs_files_and_folders_of_tars_are_sources(folder, tmp_path):
    names = [c.clip for c in list_clips([f"{folder}/*/0*.flac"])]
    assert names == sorted(names)
    assert names[0] == "class 0/03.flac"
    (tmp_path / "tars").mkdir()
    tar_of(folder, tmp_path / "tars" / "0.tar")
    ids = [c.clip for c in list_clips([str(tmp_path / "tars")])]
    assert "0.tar/class 0/03.flac" in ids
    one = str(folder / "class 0" / "03.flac")
    assert [c.clip for c in list_clips([one])] == [one]


def test_clips_of_several_folders_are_told_apart_by_the_folder(tmp_path, monkeypatch):
    """As of data sets that have a folder for each class, with the same names in each."""
    for name in ("yes", "no"):
        (tmp_path / name).mkdir()
        soundfile.write(tmp_path / name / "0.wav", sound(0, 300), RATE)
    yes, no = str(tmp_path / "yes"), str(tmp_path / "no")
    for sources in ([yes, no], [yes + "/", no + "/."], [yes + "/*", no + "/*.wav"]):
        assert [c.clip for c in list_clips(sources)] == ["yes/0.wav", "no/0.wav"]
    assert [c.clip for c in list_clips([yes])] == ["0.wav"]
    monkeypatch.chdir(yes)
    assert [c.clip for c in list_clips([".", "../no"])] == ["yes/0.wav", "no/0.wav"]


def test_mp3_is_read_from_a_folder_and_from_a_tar(tmp_path):
    (tmp_path / "d").mkdir()
    soundfile.write(tmp_path / "d" / "a.mp3", sound(1, 16000), 16000)
    (clip,) = list_clips([str(tmp_path / "d")])
    (inside,) = list_clips([tar_of(tmp_path / "d", tmp_path / "a.tar")])
    np.testing.assert_array_equal(read_clip(clip, 8000), read_clip(inside, 8000))


def test_a_clip_s_value_does_not_depend_on_its_neighbours():
    maps = BatchedMaps(tiny().forward_pass, ["conv1", "conv2", "head"], "block")
    clip = sound(0, 300)
    others = [[sound(10 * n + m, 300) * 10**n for m in range(3)] for n in range(4)]
    found = [maps([clip, *neighbours]) for neighbours in others]
    for again in found[1:]:
        for first, other in zip(found[0], again, strict=True):
            assert torch.equal(first.maps[0], other.maps[0])
    for first, alone in zip(found[0], maps([clip]), strict=True):
        torch.testing.assert_close(first.maps[:1], alone.maps, rtol=0, atol=1e-6)


@pytest.mark.parametrize("score", ["peak", "mean"])
def test_scores_are_the_same_made_at_once_or_of_the_maps(score):
    layers, clips = ["conv1", "conv2", "head"], [sound(n, 300) for n in range(3)]
    maps = BatchedMaps(tiny().forward_pass, layers, "block")
    scores = BatchedMaps(tiny().forward_pass, layers, "block", partial(Scores.of, score=score))
    for _ in range(4):  # from the third time on by a generated forward pass
        for found, at_once in zip(maps(clips), scores(clips), strict=True):
            flat = found.maps.reshape(*found.maps.shape[:2], -1).double()
            expected = flat.amax(-1) if score == "peak" else flat.mean(-1)
            np.testing.assert_allclose(at_once.values.T, expected, rtol=1e-6)
            assert (flat.argmax(-1).numpy() == at_once.strongest.T).all()


class Mixes(Tiny):
    def forward(self, x):
        return super().forward(x - x.mean(0, keepdim=True) / 2)


class Looks(Tiny):
    def forward(self, x):
        return super().forward(x if x.abs().max() > 0.5 else 2 * x)


@pytest.mark.parametrize(
    ("cls", "reason"), [(Mixes, "mixes the clips"), (Looks, "looks at values")]
)
def test_a_model_that_does_not_admit_batches_runs_clip_by_clip(folder, tmp_path, cls, reason):
    found = mine_into(tmp_path / "out", [str(folder)], partial(tiny, cls=cls))
    assert reason in found.one_by_one
    sonifier = tiny(cls=cls)
    for row in rows_of(tmp_path / "out")[::4]:
        x, _ = soundfile.read(folder / row["clip"], dtype="float32")
        map_ = sonifier.maps(x, layer=row["layer"])[0, row["channel"]]
        assert row["value"] == pytest.approx(float(map_.max()), abs=1e-6)
    assert json.loads((tmp_path / "out" / "plan.json").read_text())["batch"] == 1


def test_the_model_runs_once_a_winning_clip(folder, tmp_path, monkeypatch):
    mined(tmp_path / "out", folder, layers=["conv1#1"])
    for file in (tmp_path / "out" / "heard").iterdir():
        file.unlink()
    passes, forward = [], Tiny.forward
    monkeypatch.setattr(Tiny, "forward", lambda self, x: (passes.append(1), forward(self, x))[1])
    before = {r["clip"] for r in rows_of(tmp_path / "out")}
    monkeypatch.setattr("deconv1d.mining.begin.BatchedMaps.why_one_by_one", lambda *_: None)
    for room in ("begin", "worker"):  # it reads forward's source
        name = f"deconv1d.mining.{room}.weights_hash"
        monkeypatch.setattr(name, lambda _: planned_hash(tmp_path))
    mine_into(tmp_path / "out", [str(folder)], partial(unverified), layers=["conv1#1"], batch=2)
    assert len(passes) == len(before) + 2  # and for the table of layers, and the probe


def unverified():
    torch.manual_seed(0)
    return Sonifier(Tiny(), sample_rate=RATE, verify=False)


def planned_hash(folder):
    return json.loads((folder / "out" / "plan.json").read_text())["model"]


# --- going on ------------------------------------------------------------------------------------


class Broken(Exception):
    pass


def breaking(after, monkeypatch):
    """Mining fails when so many shards are written, as by a kill."""
    from deconv1d.mining import work

    written, write = [], work.write_whole

    def failing(path, content):
        if len(written) == after:
            raise Broken
        written.append(path)
        write(path, content)

    monkeypatch.setattr(work, "write_whole", failing)


@pytest.mark.parametrize("after", [0, 1, 2, 4, 9])
def test_a_run_that_was_broken_off_goes_on_to_the_same_bytes(
    whole, folder, tmp_path, monkeypatch, after
):
    with monkeypatch.context() as patch:
        breaking(after, patch)
        with pytest.raises(Broken):
            mined(tmp_path / "out", folder)
    mined(tmp_path / "out", folder)
    assert contents(tmp_path / "out") == contents(whole)


@pytest.mark.parametrize("left", [None, b""])
def test_a_sound_that_is_gone_or_empty_is_made_again(whole, folder, tmp_path, left):
    mined(tmp_path / "out", folder)
    path = next((tmp_path / "out" / "sounds").rglob("*.flac"))
    path.unlink() if left is None else path.write_bytes(left)
    mined(tmp_path / "out", folder)
    assert contents(tmp_path / "out") == contents(whole)


def test_finished_shards_are_not_run_again(folder, tmp_path, monkeypatch):
    from deconv1d.mining.shards import Miner

    with monkeypatch.context() as patch:
        breaking(1, patch)
        with pytest.raises(Broken):
            mined(tmp_path / "out", folder)
    numbers, call = [], Miner.__call__
    monkeypatch.setattr(
        Miner, "__call__", lambda self, task: (numbers.append(task[0]), call(self, task))[1]
    )
    mined(tmp_path / "out", folder)
    assert numbers == [1]


def test_a_damaged_shard_is_mined_again(whole, folder, tmp_path):
    mined(tmp_path / "out", folder)
    path = tmp_path / "out" / "shards" / "000001.parquet"
    content = bytearray(path.read_bytes())
    for place in range(4, len(content), 11):  # some of these hit values
        content[place] ^= 8
    path.write_bytes(bytes(content))
    mined(tmp_path / "out", folder)
    assert contents(tmp_path / "out") == contents(whole)


KILLED = """
import os, signal, sys
sys.path.insert(0, {tests!r})
from test_mine_into import mined
from deconv1d.mining.shards import Miner

call = Miner.__call__
def killed(self, task):
    if task[0] == 1:
        os.kill(os.getpid(), {signal})
    return call(self, task)

Miner.__call__ = killed
mined({out!r}, {data!r})
"""


def test_a_killed_run_loses_at_most_the_shard_it_was_at(whole, folder, tmp_path):
    out, tests = tmp_path / "out", Path(__file__).parent
    code = KILLED.format(
        tests=str(tests), signal=int(signal.SIGKILL), out=str(out), data=str(folder)
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, timeout=600, capture_output=True
    )
    assert done.returncode != 0
    assert [p.name for p in (out / "shards").iterdir()] == ["000000.parquet"]
    mined(out, folder)
    assert contents(out) == contents(whole)


def test_ctrl_c_loses_at_most_the_shard_it_was_at(folder, tmp_path, monkeypatch, capsys):
    from deconv1d.mining.shards import Miner

    call = Miner.__call__

    def interrupted(self, task):
        if task[0] == 1:
            raise KeyboardInterrupt
        return call(self, task)

    monkeypatch.setattr(Miner, "__call__", interrupted)
    assert command(tmp_path / "out", folder, "--shard-clips", "8") == 130
    assert "interrupted" in capsys.readouterr().err
    assert [p.name for p in (tmp_path / "out" / "shards").iterdir()] == ["000000.parquet"]


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"top": 2}, "same top, 3, got 2"),
        ({"score": "mean"}, "same score"),
        ({"layers": ["conv1"]}, "same layers"),
        ({"shard_clips": 16}, "same shard_clips"),
        ({"seed": "ones"}, "same seed"),
        ({"threads": 2}, "same threads"),
    ],
)
def test_other_settings_are_refused(whole, folder, options, what):
    before = contents(whole)
    with pytest.raises(InputError, match=what):
        mined(whole, folder, **options)
    assert contents(whole) == before


def other_weights():
    return tiny(seed=1)


class Silu(Tiny):
    def forward(self, x):
        return self.head(self.conv2(nn.functional.silu(self.conv1(x))).mean(-1))


@pytest.mark.parametrize("load", [other_weights, partial(tiny, cls=Silu)])
def test_another_model_is_refused(whole, folder, load):
    with pytest.raises(InputError, match="weights and structure"):
        mine_into(whole, [str(folder)], load, batch=2, shard_clips=8)


def test_other_clips_are_refused(whole, folder, tmp_path):
    with pytest.raises(InputError, match="same number of clips"):
        mined(whole, folder / "class 1")


def test_audio_that_changed_under_the_same_name_is_refused(folder, tmp_path):
    source = tmp_path / "data"
    source.mkdir()
    for number in range(3):
        soundfile.write(source / f"{number}.wav", sound(number, 300), RATE)
    mined(tmp_path / "out", source)
    soundfile.write(source / "1.wav", sound(9, 300), RATE)
    os.utime(source / "1.wav", ns=(1, time.time_ns() + 10**9))
    with pytest.raises(InputError, match="ids, sizes and times of change"):
        mined(tmp_path / "out", source)


def random_each_time():
    return tiny(int.from_bytes(os.urandom(4)))


def test_a_worker_with_other_weights_is_refused(whole, folder, tmp_path):
    options = {"executor": "process", "workers": 1}
    with pytest.raises(ModelError, match="A worker has another model"):
        mine_into(tmp_path / "out", [str(folder)], random_each_time, **options)
    with pytest.raises(ModelError, match="A worker has another model"):
        PlanWorker(other_weights, read_plan(whole))


# --- bad input -----------------------------------------------------------------------------------


def test_an_empty_folder_leaves_nothing(tmp_path):
    (tmp_path / "data").mkdir()
    with pytest.raises(InputError, match="No clips were found"):
        mined(tmp_path / "out", tmp_path / "data")
    assert not (tmp_path / "out").exists()


def test_a_folder_inside_the_data_goes_on_and_does_not_mine_its_own_sounds(folder, tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    (data / "0.wav").write_bytes((folder / "class 0" / "00.wav").read_bytes())
    for source in (data, f"{data}/**/*.[wf]*", data):
        assert mined(data / "out", source).clips == 1


def test_clips_that_all_fail_are_not_blamed_on_each(tmp_path):
    (tmp_path / "data").mkdir()
    for number in range(3):
        soundfile.write(tmp_path / "data" / f"{number}.wav", np.zeros(2), RATE)
    with pytest.raises(InputError, match=r"among the first 3: .* too short"):
        mined(tmp_path / "out", tmp_path / "data")


class Overflows(Tiny):
    """Not finite on loud clips."""

    def forward(self, x):
        return super().forward(x / (x.abs().amax(-1, keepdim=True) < 0.8))


def test_a_clip_that_makes_maps_not_finite_is_listed_and_its_neighbours_count(tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    for number, level in enumerate((0.5, 1, 0.4, 0.3)):
        soundfile.write(data / f"{number}.wav", level * sound(number, 300), RATE)
    found = mine_into(tmp_path / "out", [str(data)], partial(tiny, cls=Overflows), batch=4)
    (row,) = read_errors(tmp_path / "out").to_pylist()
    assert row["clip"] == "1.wav"
    assert "NaN or infinite" in row["reason"]
    assert found.clips == 3


def test_pipes_and_devices_are_not_waited_for(folder, tmp_path):
    """A pipe never ends if nobody writes, a device may never end."""
    os.mkfifo(tmp_path / "pipe.wav")
    os.symlink("/dev/zero", tmp_path / "zero.wav")
    (tmp_path / "0.wav").write_bytes((folder / "class 0" / "00.wav").read_bytes())
    assert mined(tmp_path / "out", tmp_path / "*.wav").clips == 1
    index = "path\n0.wav\npipe.wav\nzero.wav\ngone.wav\nnul\0.wav\n"
    (tmp_path / "index.csv").write_text(index)
    assert mined(tmp_path / "out2", tmp_path / "index.csv").clips == 1
    reasons = [row["reason"] for row in read_errors(tmp_path / "out2").to_pylist()]
    words = ("No such file", "a zero byte", "a pipe", "a pipe")
    assert [word in reason for word, reason in zip(words, reasons, strict=True)] == 4 * [True]


def test_ids_may_hold_anything(folder, tmp_path):
    ids = ["a\nb", "<script>alert(1)</script>", "../../x", "\u202e", "a'b\"c", "", "NUL\0"]
    path = tmp_path / "index.csv"
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "id"])
        for number, name in enumerate(ids[:-1]):
            soundfile.write(tmp_path / f"{number}.wav", sound(number, 300), RATE)
            writer.writerow([f"{number}.wav", name])
    mined(tmp_path / "out", path)
    assert {row["clip"] for row in rows_of(tmp_path / "out")} <= set(ids)
    outside = [p for p in tmp_path.rglob("*.flac") if not p.is_relative_to(tmp_path / "out")]
    assert outside == []


def no_utf8(tmp_path: Path, where: str) -> str:
    """Clips of which two have names that are no UTF-8, in a folder of such a name or a tar file."""
    data = os.fsencode(tmp_path) + b"/dat\xe9"
    try:
        os.mkdir(data)
    except OSError:
        pytest.skip("this disk takes UTF-8 names alone")
    for number, name in enumerate([b"caf\xe9.wav", b"\xed\xa0\x80.wav", b"caf\xc3\xa9.wav"]):
        soundfile.write(tmp_path / "a.wav", sound(number, 300), RATE)
        os.rename(tmp_path / "a.wav", data + b"/" + name)
    (tmp_path / os.fsdecode(data) / os.fsdecode(b"bad\xff.wav")).write_bytes(b"RIFF nothing")
    if where == "tar":
        return tar_of(Path(os.fsdecode(data)), tmp_path / os.fsdecode(b"a\xe9.tar"))
    return os.fsdecode(data) + ("/*.wav" if where == "glob" else "")


@pytest.mark.parametrize("where", ["folder", "glob", "tar"])
@pytest.mark.parametrize("executor", ["serial", "process"])
def test_names_that_are_no_utf8_are_clips_up_to_the_report(tmp_path, where, executor):
    if executor == "process" and where != "folder":
        pytest.skip("the way to the workers is the same")
    out = tmp_path / os.fsdecode(b"out\xe9")
    source = no_utf8(tmp_path, where)
    for _ in range(2):  # the second goes on from the first
        found = mined(out, source, executor=executor, workers=1)
    assert (found.clips, found.errors) == (3, 1)
    clips = {row["clip"].rpartition("/")[2] for row in rows_of(out)}
    assert clips == {r"caf\xe9.wav", r"\xed\xa0\x80.wav", "caf\xe9.wav"}
    (bad,) = read_errors(out).to_pylist()
    assert bad["clip"].endswith(r"bad\xff.wav")
    page = write_report(out, folder=tmp_path / os.fsdecode(b"page\xe9"))
    assert r"caf\\xe9.wav" in page.read_text(encoding="utf-8")
    assert all((out / row["path"]).exists() for row in rows_of(out))


def test_the_command_takes_names_that_are_no_utf8(tmp_path, capsys):
    """What the command prints may hold the name of the folder."""
    out = str(tmp_path / os.fsdecode(b"out\xe9"))
    source = no_utf8(tmp_path, "folder")
    (tmp_path / "models.py").write_text(FACTORIES)
    model = ["--model", f"{tmp_path / 'models.py'}:mono", "--sample-rate", "1000"]
    assert main(["mine", *model, "--data", source, "-o", out]) == 0
    assert main(["report", out, "-o", out + "-page"]) == 0
    assert "page" in capsys.readouterr().out


def test_a_layer_whose_name_is_no_utf8_is_reported(folder, tmp_path):
    def load():
        model = nn.Sequential()
        model.add_module("\udcff", nn.Conv1d(1, 2, 3))
        return Sonifier(model, sample_rate=RATE)

    mine_into(tmp_path / "out", [str(folder)], load)
    (layer,) = read_layers(tmp_path / "out")["layers"]
    assert layer["layer"] == "\udcff"
    assert {row["layer"] for row in rows_of(tmp_path / "out")} == {r"\udcff"}
    page = write_report(tmp_path / "out", folder=tmp_path / "page")
    assert r'"name":"\udcff"' in page.read_text()


@pytest.mark.parametrize("name", ["\ud800", "a\0b", "\ud800*", "a\0*"])
def test_names_that_no_file_has_are_refused(folder, tmp_path, name):
    with pytest.raises((FileError, InputError), match=r"cannot be read|No clips were found"):
        mined(tmp_path / "out", name)
    with pytest.raises(FileError, match="cannot be written"):
        mined(tmp_path / name, folder)


def test_ids_that_come_twice_are_named(folder, tmp_path):
    path = tmp_path / "index.csv"
    path.write_text(f"path,id\n{folder}/class 0/00.wav,x\n{folder}/class 0/03.flac,x\n")
    with pytest.raises(InputError, match="got 'x' 2 times"):
        mined(tmp_path / "out", path)


@pytest.mark.parametrize(
    ("text", "error", "match"),
    [
        ("a,b\n1,2\n", InputError, "expected a column path .* got the columns 'a', 'b'"),
        ("", InputError, "got the columns none"),
        ("path\n\n,x\n", InputError, "has no path in row 1"),
        ("path\n\xff\n", FileError, "a table in UTF-8"),
    ],
)
def test_a_table_that_is_none_says_so(tmp_path, text, error, match):
    path = tmp_path / "index.csv"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(error, match=match):
        mined(tmp_path / "out", path)


def test_parquet_that_is_none_says_so(tmp_path):
    path = tmp_path / "index.parquet"
    path.write_bytes(b"PAR1 no")
    with pytest.raises(FileError, match="cannot be read"):
        mined(tmp_path / "out", path)
    tables = {
        "got the columns 'a'": {"a": [1]},
        "no path in row 1: .* got 7": {"path": [7, 8]},
        "no id in row 1": {"path": ["x.wav", "y.wav"], "id": [None, None]},
    }
    for match, columns in tables.items():
        pq.write_table(pa.table(columns), path)
        with pytest.raises(InputError, match=match):
            mined(tmp_path / "out", path)


def test_a_tar_that_is_cut_or_compressed_says_so(folder, tmp_path):
    path = Path(tar_of(folder, tmp_path / "a.tar"))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2 + 100])
    with pytest.raises((FileError, InputError), match="cannot be listed"):
        mined(tmp_path / "out", path)
    import gzip

    path.write_bytes(gzip.compress(whole))
    with pytest.raises(FileError, match="not compressed"):
        mined(tmp_path / "out", path)


def test_sounds_without_bytes_are_errors(folder, tmp_path):
    audio = [{"bytes": (folder / "class 0" / "00.wav").read_bytes(), "path": "a"}]
    audio += [{"bytes": None, "path": None}, {"bytes": None, "path": "gone.wav"}]
    pq.write_table(pa.table({"audio": audio}), tmp_path / "a.parquet")
    mined(tmp_path / "out", tmp_path / "a.parquet")
    reasons = [row["reason"] for row in read_errors(tmp_path / "out").to_pylist()]
    assert len(reasons) == 2
    assert any("got none" in r for r in reasons)
    assert any("Put it beside its table" in r for r in reasons)


def test_a_full_disk_is_said_and_nothing_finished_is_lost(whole, folder, tmp_path, monkeypatch):
    write, left = Path.write_bytes, [3]

    def full(self, content):
        if self.suffix == ".part":
            left[0] -= 1
            if left[0] < 0:
                raise OSError(28, "No space left on device")
        return write(self, content)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        with pytest.raises(FileError, match=r"No space left on device.*the same command goes on"):
            mined(tmp_path / "out", folder)
    assert len(list((tmp_path / "out" / "shards").iterdir())) == 2
    assert not list(tmp_path.rglob("*.part"))
    mined(tmp_path / "out", folder)
    assert contents(tmp_path / "out") == contents(whole)


def test_a_disk_that_is_full_while_sounds_are_encoded_is_not_the_clip_s_fault(
    whole, folder, tmp_path, monkeypatch
):
    encode, left = hearing.encode_audio, [7]

    def full(*given, **options):
        left[0] -= 1
        if left[0] < 0:
            monkeypatch.setattr(tempfile, "TemporaryFile", partial(open, "/dev/full", "w+b"))
        return encode(*given, **options)

    with monkeypatch.context() as patch:
        patch.setattr(hearing, "encode_audio", full)
        with pytest.raises(FileError, match="No space left on device"):
            mined(tmp_path / "out", folder)
    monkeypatch.undo()
    mined(tmp_path / "out", folder)
    assert contents(tmp_path / "out") == contents(whole)


def test_winners_that_could_not_be_heard_are_tried_again(whole, folder, tmp_path, monkeypatch):
    def fails(self, *given):
        raise InputError("The clip is on a disk that is not there.")

    with monkeypatch.context() as patch:
        patch.setattr(hearing.Listener, "_hear", fails)
        mined(tmp_path / "out", folder)
    assert "Not sonified" in read_errors(tmp_path / "out").to_pylist()[0]["reason"]
    mined(tmp_path / "out", folder)
    assert contents(tmp_path / "out") == contents(whole)


def test_a_folder_of_something_else_is_not_written_into(folder, tmp_path):
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(InputError, match=r"one that holds 'thesis.tex'"):
        mined(tmp_path, folder)
    with pytest.raises(InputError, match="got a file"):
        mined(tmp_path / "thesis.tex", folder)
    with pytest.raises(FileError, match="File name too long"):
        mined(tmp_path / ("x" * 300), folder)


def test_two_runs_into_one_folder_are_refused(whole, folder):
    from filelock import FileLock

    with FileLock(whole / ".lock"), pytest.raises(InputError, match="written by another run"):
        mined(whole, folder)


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"top": 0}, InputError, "top=0 .* for each channel"),
        ({"batch": 0}, InputError, "batch=0 .* at once"),
        ({"workers": 0}, InputError, "workers=0"),
        ({"executor": "threads"}, InputError, "Unknown executor"),
        ({"layers": ["conv9"]}, LayerError, "No layer"),
        ({"layers": ["conv1", "conv1"]}, LayerError, "asked for twice"),
    ],
)
def test_arguments_that_are_none(folder, tmp_path, options, error, match):
    with pytest.raises(error, match=match):
        mined(tmp_path / "out", folder, **options)
    assert not (tmp_path / "out").exists()


def test_a_source_that_is_missing_is_named(tmp_path):
    with pytest.raises(FileError, match="nowhere"):
        mined(tmp_path / "out", tmp_path / "nowhere")


# --- the command ---------------------------------------------------------------------------------


def command(out, data, *more):
    factory = f"{Path(__file__)}:Tiny"
    options = ["--model", factory, "--sample-rate", str(RATE), "--batch", "2"]
    return main(["mine", *options, "--data", str(data), "-o", str(out), *more])


def test_the_command_mines(folder, tmp_path, capsys):
    weights = tmp_path / "tiny.pt"
    torch.save(tiny().model.state_dict(), weights)
    assert command(tmp_path / "out", folder, "--weights", str(weights), "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["clips"], facts["errors"], facts["winners"]) == (12, 2, 27)
    assert read_layers(tmp_path / "out")["model"] == "test_mine_into:Tiny, tiny"
    assert len(rows_of(tmp_path / "out")) == 27


def test_the_command_says_what_is_wrong_in_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    check_refused(capsys, command("out", "nowhere"), "The source 'nowhere' cannot be read")


def test_the_lists_of_clips_do_not_grow_in_memory(tmp_path):
    """A list of 8,000 lines takes what one of 1,000 takes."""
    import tracemalloc

    from deconv1d.mining.plan import read_list, write_list
    from deconv1d.mining.sources import Clip

    peaks = []
    for count in (1024, 8192):
        tracemalloc.start()
        write_list(tmp_path / "list", (Clip(f"{n:06d}", f"/data/{n}.wav") for n in range(count)))
        for _ in read_list(tmp_path / "list"):
            pass
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 2 * peaks[0]
