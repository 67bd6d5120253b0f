"""The decoded cache: what it keeps of a recording, and that nothing breaks it unnoticed."""

import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr
import torch

from reference_models.data import (
    Clip,
    ClipIndex,
    build_cache,
    cache,
    fsd50k,
    open_cache,
    speech_commands,
)

pyarrow = pytest.importorskip("pyarrow")
ROOT = Path(__file__).resolve().parents[1]


def noise(seed: int, samples: int, channels: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-0.5, 0.5, (samples, channels))


def list_folder(folder: Path) -> ClipIndex:
    """An index of all files of a folder."""
    clips = (Clip(p.name, str(p), 0, 0, 0, (0,), "train", "unread") for p in folder.iterdir())
    return ClipIndex("folder", ("sound",), False, tuple(sorted(clips)))


def list_numbers(count: int) -> ClipIndex:
    """An index whose clips `read_number` makes up."""
    clips = (Clip(f"{i:04d}", str(i), 0, 0, 0, (0,), "train", "unread") for i in range(count))
    return ClipIndex("numbers", ("sound",), False, tuple(clips))


def read_number(clip: Clip) -> np.ndarray:
    return noise(int(clip.path), 900 + int(clip.path))[:, 0]


def contents(folder: Path) -> dict[str, bytes]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.fixture
def small_shards(monkeypatch):
    monkeypatch.setattr(cache, "SHARD_CLIPS", 8)


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3"])
def test_a_stereo_recording_becomes_8_khz_mono_of_unit_peak(suffix, tmp_path):
    path = tmp_path / "source" / f"stereo.{suffix}"
    path.parent.mkdir()
    soundfile.write(path, noise(0, 44100, 2), 44100)
    clips = build_cache(list_folder(path.parent), tmp_path / "cache")
    stereo, rate = soundfile.read(path)
    expected = soxr.resample(stereo.mean(axis=1), rate, 8000)
    expected /= np.abs(expected).max()
    waveform = clips.waveform(0).numpy()
    assert len(waveform) == len(expected)
    assert np.abs(waveform).max() == 1.0
    np.testing.assert_allclose(waveform, expected, atol=2e-5)  # half a step of 16 bits, float32


def test_every_clip_gets_its_status(tmp_path):
    (source := tmp_path / "source").mkdir()
    soundfile.write(source / "ok.wav", noise(1, 800), 8000)
    soundfile.write(source / "short.wav", noise(1, 799), 8000)
    soundfile.write(source / "silent.wav", np.zeros(8000), 8000)
    soundfile.write(source / "nearly_silent.wav", np.full(8000, 1e-5), 8000, subtype="FLOAT")
    soundfile.write(source / "quiet.wav", noise(1, 8000) * 1e-3, 8000)
    soundfile.write(source / "nan.wav", np.full(8000, np.nan), 8000, subtype="FLOAT")
    (source / "empty.wav").write_bytes(b"")
    (source / "page.mp3").write_text("<html>404 Not Found</html>")
    for suffix in ("flac", "mp3"):
        soundfile.write(source / f"truncated.{suffix}", noise(1, 16000), 8000)
        whole = (source / f"truncated.{suffix}").read_bytes()
        (source / f"truncated.{suffix}").write_bytes(whole[: len(whole) // 2])
    soundfile.write(source / "header.wav", np.zeros(0), 8000)
    index = list_folder(source)
    missing = Clip("missing", "", 0, 0, 0, (0,), "train", "missing")
    index = ClipIndex(index.name, index.classes, index.multilabel, (*index.clips, missing))

    with pytest.warns(
        UserWarning, match="2 of 12 clips are usable .*1 missing, 2 short, 2 silent, 5"
    ):
        clips = build_cache(index, tmp_path / "cache")
    assert {clip.id: clip.status for clip in clips.index.clips} == {
        "ok.wav": "ok",
        "quiet.wav": "ok",
        "short.wav": "short",
        "header.wav": "short",
        "silent.wav": "silent",
        "nearly_silent.wav": "silent",
        "nan.wav": "undecodable",
        "empty.wav": "undecodable",
        "page.mp3": "undecodable",
        "truncated.flac": "undecodable",
        "truncated.mp3": "undecodable",
        "missing": "missing",
    }
    assert clips.ids == ["ok.wav", "quiet.wav"]
    assert clips.frames.tolist() == [800, 8000]


def test_a_cache_opens_as_it_was_built(tmp_path, small_shards):
    built = build_cache(list_numbers(20), tmp_path, read=read_number)
    opened = open_cache(tmp_path)
    assert opened.index == built.index
    assert opened.index.clip_hash == built.index.clip_hash
    for i in range(20):
        expected = read_number(built.index.clips[i]._replace(path=str(i)))
        expected = np.round(expected * (32767 / np.abs(expected).max())) / 32767
        np.testing.assert_allclose(opened.waveform(i).numpy(), expected, atol=1e-7)
        assert torch.equal(opened.waveform(i), built.waveform(i))


def test_the_bytes_do_not_depend_on_the_number_of_workers(tmp_path, small_shards):
    build_cache(list_numbers(20), tmp_path / "one", read=read_number, workers=1)
    build_cache(list_numbers(20), tmp_path / "five", read=read_number, workers=5)
    assert contents(tmp_path / "one") == contents(tmp_path / "five")


def test_a_finished_cache_is_not_written_to(tmp_path, small_shards):
    build_cache(list_numbers(20), tmp_path, read=read_number)
    written = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    build_cache(list_numbers(20), tmp_path, read=read_number)
    assert written == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}


def test_a_changed_data_set_decodes_only_the_shards_that_changed(tmp_path, small_shards):
    reads = []

    def read(clip: Clip) -> np.ndarray:
        reads.append(clip.id)
        return read_number(clip)

    build_cache(list_numbers(20), tmp_path, read=read)
    reads.clear()
    clips = build_cache(list_numbers(24), tmp_path, read=read)
    assert sorted(reads) == [f"{i:04d}" for i in range(16, 24)]
    assert len(clips) == len(open_cache(tmp_path)) == 24


BUILD_SLOWLY = """
import sys, time
from pathlib import Path
import test_data_cache as here
here.cache.SHARD_CLIPS = 8
def read(clip):
    time.sleep(0.02)
    return here.read_number(clip)
here.build_cache(here.list_numbers(60), sys.argv[1], read=read, workers=1)
"""


UNFINISHED = "shards/" + "[0-9a-f]" * 20 + ".partial"


def test_a_killed_build_goes_on_to_the_same_bytes(tmp_path, small_shards):
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    build = subprocess.Popen(
        [sys.executable, "-c", BUILD_SLOWLY, str(killed)], env=os.environ | {"PYTHONPATH": paths}
    )
    while len(list(killed.glob("shards/*.parquet"))) < 2 or not any(killed.glob(UNFINISHED)):
        assert build.poll() is None, "the build ended before it was killed"
        time.sleep(0.005)
    build.send_signal(signal.SIGKILL)
    build.wait()
    with pytest.raises(FileNotFoundError, match="no finished cache"):
        open_cache(killed)
    left = {path: path.stat().st_mtime_ns for path in killed.glob("shards/*.parquet")}
    shards = {path.name: path.read_bytes() for path in killed.glob("shards/*.int16")}

    resumed = build_cache(list_numbers(60), killed, read=read_number)
    build_cache(list_numbers(60), whole, read=read_number)
    assert len(resumed) == 60
    assert contents(killed) == contents(whole)
    assert shards.items() <= {path.name: path.read_bytes() for path in whole.glob("*/*")}.items()
    assert left == {path: path.stat().st_mtime_ns for path in left}


def test_a_full_disk_names_the_file_and_keeps_what_is_finished(tmp_path, small_shards):
    full, whole = tmp_path / "full", tmp_path / "whole"
    # shards of 8 grow by about 64 samples from one to the next: the third is over the limit
    limit = 2 * sum(range(900 + 8, 900 + 16)) + 64
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        with pytest.raises(OSError, match=r"cannot write '.*\.int16'.*finished shards are kept"):
            build_cache(list_numbers(60), full, read=read_number)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert len(list(full.glob("shards/*.parquet"))) == 2
    build_cache(list_numbers(60), full, read=read_number)
    build_cache(list_numbers(60), whole, read=read_number)
    assert contents(full) == contents(whole)


@pytest.mark.parametrize("harm", ["cut", "grown", "gone"])
def test_a_damaged_shard_is_named_and_built_again(harm, tmp_path, small_shards):
    build_cache(list_numbers(20), tmp_path, read=read_number)
    whole = contents(tmp_path)
    shard = sorted(tmp_path.glob("shards/*.int16"))[1]
    if harm == "gone":
        shard.unlink()
    else:
        data = shard.read_bytes()
        shard.write_bytes(data[:-2] if harm == "cut" else data + data)
    with pytest.raises((ValueError, FileNotFoundError), match=rf"{shard.name}.*build_cache again"):
        open_cache(tmp_path)
    build_cache(list_numbers(20), tmp_path, read=read_number)
    assert contents(tmp_path) == whole


@pytest.mark.parametrize("damage", ["empty", "cut", "zeros", "another table"])
def test_a_damaged_index_is_named(damage, tmp_path, small_shards):
    build_cache(list_numbers(20), tmp_path, read=read_number)
    listing = min(tmp_path.glob("shards/*.parquet"))
    for path in (tmp_path / "index.parquet", listing):
        if damage == "another table":
            pyarrow.parquet.write_table(pyarrow.table({"id": ["0000"]}), path)
            continue
        data = path.read_bytes()
        zeros = data[:4] + bytes(200) + data[204:]
        path.write_bytes({"empty": b"", "cut": data[:-100], "zeros": zeros}[damage])
    with pytest.raises(ValueError, match=r"index\.parquet.*delete this file"):
        open_cache(tmp_path)
    with pytest.raises(ValueError, match=rf"{listing.name}.*delete this file"):
        build_cache(list_numbers(20), tmp_path, read=read_number)
    listing.unlink()
    (tmp_path / "index.parquet").unlink()
    assert len(build_cache(list_numbers(20), tmp_path, read=read_number)) == 20


@pytest.mark.recordings
def test_real_recordings_decode_to_the_last_clip(recordings, tmp_path):
    index = fsd50k(recordings / "esc10_as_fsd50k")
    events = build_cache(index, tmp_path / "events")
    assert len(events) == 800
    assert events.frames.tolist() == [soundfile.info(clip.path).frames for clip in index.clips]
    with pytest.warns(UserWarning, match="of 105829"):
        index = speech_commands(recordings / "speech_commands")
    words = build_cache(index, tmp_path / "words")
    assert len(words) == 4482
    clip = index.clips[1234]
    recording, _ = soundfile.read(clip.path)
    expected = recording / np.abs(recording).max()
    np.testing.assert_allclose(words.waveform(1234).numpy(), expected, atol=2e-5)
