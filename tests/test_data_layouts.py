"""Data sets load as they are downloaded, with the traps that real copies hold."""

import csv
import hashlib
import io
import json
import sys
import tarfile
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import soundfile

from reference_models.data import arabic_commands, audioset, fsd50k, open_cache, speech_commands
from reference_models.data.__main__ import main
from reference_models.data.layouts import HELD_OUT, VIDEO, WORDS
from reference_models.data.sources import list_files, read_audio

TRICKY_IDS = [
    "-0RWZT-miFs",
    "--------_30",
    "Yabcdefghij",
    "YYYYYYYYYYY",
    "a_1_2_3_4_5",
    "123456789__",
]
NAMINGS = ["{}", "Y{}", "{}_30", "{}_30000_40000", "Y{}_30.000_40.000", "{}_30.000", "{}_0_10"]


def write_audio(path: Path, seconds: float = 0.2, rate: int = 8000) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    tone = 0.5 * np.sin(np.arange(round(seconds * rate)) * 0.3)
    soundfile.write(path, tone, rate)


def write_text(path: Path, *lines: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))


def write_audioset(root: Path) -> None:
    """Four classes out of alphabetical order, five files in five namings, one file missing."""
    header = (
        "# Segments csv",
        "# num_ytids=2",
        "# YTID, start_seconds, end_seconds, positive_labels",
    )
    lists = {
        "eval": ['Yabcdefghij, 30.000, 40.000, "/m/0k4j,/m/03v3yw"'],
        "balanced_train": [
            '-0RWZT-miFs, 420.000, 430.000, "/m/03v3yw,/m/0k4j,/m/03v3yw"',
            'a_1_2_3_4_5, 0.000, 10.000, "/m/05zppz"',
        ],
        "unbalanced_train": [
            '123456789__, 30.000, 40.000, "/m/0k4j"',
            'gonegonegon, 30.000, 40.000, "/m/0k4j"',
            '--------_30, 30.000, 40.000, "/m/09x0r"',
        ],
    }
    for name, rows in lists.items():
        write_text(root / "metadata" / f"{name}_segments.csv", *header, *rows)
    write_text(
        root / "class_labels_indices.csv",
        "index,mid,display_name",
        '0,/m/09x0r,"Speech"',
        '1,/m/05zppz,"Male speech, man speaking"',
        '2,/m/0k4j,"Car"',
        '3,/m/03v3yw,"Keys jangling"',
    )
    write_audio(root / "eval" / "YYabcdefghij.wav")
    write_audio(root / "balanced_train" / "-0RWZT-miFs_420.flac")
    write_audio(root / "balanced_train" / "Ya_1_2_3_4_5_0.000_10.000.wav")
    write_audio(root / "unbalanced_train" / "part07" / "123456789___30000_40000.ogg")
    write_audio(root / "unbalanced_train" / "part08" / "--------_30.mp3", rate=16000)


def write_fsd50k(root: Path) -> None:
    truth = root / "FSD50K.ground_truth"
    write_text(truth / "vocabulary.csv", "0,Bark,/m/05tny_", "1,Rain,/m/06mb1", "2,Purr,/m/02yds9")
    write_text(
        truth / "dev.csv",
        "fname,labels,mids,split",
        '0064760,"Rain,Bark","/m/06mb1,/m/05tny_",train',
        '63,"Bark,Bark","/m/05tny_,/m/05tny_",val',
    )
    write_text(truth / "eval.csv", "fname,labels,mids", "37199,Old_name_of_purr,/m/02yds9")
    write_audio(root / "FSD50K.dev_audio" / "0064760.wav")
    write_audio(root / "FSD50K.dev_audio" / "63.ogg")
    write_audio(root / "FSD50K.eval_audio" / "37199.flac")


def write_speech_commands(root: Path) -> None:
    write_text(root / "validation_list.txt", "./bed/b_nohash_0.wav", "yes/gone_nohash_0.wav")
    write_text(root / "testing_list.txt", "yes/c_nohash_1.wav")
    for name in ("bed/a_nohash_0.wav", "bed/b_nohash_0.flac", "yes/c_nohash_1.wav"):
        write_audio(root / name)
    write_audio(root / "_background_noise_" / "pink_noise.wav")
    write_text(root / "README.md", "v0.02")


@pytest.mark.parametrize(("video", "naming"), list(product(TRICKY_IDS, NAMINGS)))
def test_a_video_id_is_read_from_every_file_name_in_use(video, naming):
    assert VIDEO.fullmatch(naming.format(video))[1] == video


def test_audioset(tmp_path):
    write_audioset(tmp_path)
    with pytest.warns(UserWarning, match="holds 5 of 6 clips"):
        index = audioset(tmp_path)
    assert index.classes == ("Speech", "Male speech, man speaking", "Car", "Keys jangling")
    assert index.multilabel
    found = {clip.id: (clip.labels, Path(clip.path).name) for clip in index.clips}
    assert found == {
        "Yabcdefghij": ((2, 3), "YYabcdefghij.wav"),
        "-0RWZT-miFs": ((2, 3), "-0RWZT-miFs_420.flac"),
        "a_1_2_3_4_5": ((1,), "Ya_1_2_3_4_5_0.000_10.000.wav"),
        "123456789__": ((2,), "123456789___30000_40000.ogg"),
        "gonegonegon": ((2,), ""),
        "--------_30": ((0,), "--------_30.mp3"),
    }
    assert [clip.id for clip in index.clips if clip.status == "missing"] == ["gonegonegon"]
    assert [clip.id for clip in index.clips if clip.split == "test"] == ["Yabcdefghij"]
    assert all(len(read_audio(clip)) >= 1600 for clip in index.clips if clip.path)


def test_balanced_audioset_needs_no_unbalanced_list(tmp_path):
    write_audioset(tmp_path)
    (tmp_path / "metadata" / "unbalanced_train_segments.csv").unlink()
    assert len(audioset(tmp_path, balanced=True).clips) == 3
    with pytest.raises(FileNotFoundError, match="no 'unbalanced_train_segments"):
        audioset(tmp_path)


def test_the_hold_out_is_a_tenth_and_depends_on_the_id_alone(tmp_path):
    write_audioset(tmp_path)
    videos = [f"{number:011d}" for number in range(2000)]
    rows = [f'{video}, 0.000, 10.000, "/m/0k4j"' for video in videos]
    segments = tmp_path / "metadata" / "unbalanced_train_segments.csv"

    def held_out(rows) -> set[str]:
        write_text(segments, *rows)
        with pytest.warns(UserWarning, match="clips"):
            clips = audioset(tmp_path).clips
        return {clip.id for clip in clips if clip.split == "val"} & set(videos)

    def digits(video: str) -> int:
        return int(hashlib.sha256(video.encode()).hexdigest()[:16], 16)

    whole = held_out(rows)
    assert whole == {video for video in videos if digits(video) < HELD_OUT * 2**64}
    assert held_out(rows[1999:499:-1]) == whole & set(videos[500:])


def test_clips_in_tar_shards_are_those_of_loose_files(tmp_path):
    write_audioset(tmp_path)
    (packed := tmp_path / "packed").mkdir()
    with pytest.warns(UserWarning, match="5 of 6"):
        loose = audioset(tmp_path)
    with tarfile.open(packed / "shard-000.tar", "w") as tar:
        for clip in loose.clips:
            if clip.path:
                tar.add(clip.path, arcname=f"train/{Path(clip.path).name}")
                Path(clip.path).rename(tmp_path / f"{clip.id}.backup")
    with pytest.warns(UserWarning, match="5 of 6"):
        tarred = audioset(tmp_path)
    for clip, was in zip(tarred.clips, loose.clips, strict=True):
        assert clip._replace(path="") == was._replace(path="")
        if clip.path:
            backup = was._replace(path=str(tmp_path / f"{clip.id}.backup"))
            np.testing.assert_array_equal(read_audio(clip), read_audio(backup))


@pytest.mark.parametrize("named_by", ["video_id", "path"])
def test_clips_in_parquet_tables_are_those_of_loose_files(named_by, tmp_path):
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")

    write_audioset(tmp_path)
    with pytest.warns(UserWarning, match="holds 5 of 6"):
        loose = audioset(tmp_path)
    recordings = {clip.id: read_audio(clip) for clip in loose.clips if clip.path}
    rows = []
    for clip in filter(lambda clip: clip.path, loose.clips):
        name = "recording.flac" if named_by == "video_id" else Path(clip.path).name
        audio = {"bytes": Path(clip.path).read_bytes(), "path": name}
        rows.append({"video_id": clip.id} if named_by == "video_id" else {})
        rows[-1].update(audio=audio, labels=["/m/0k4j"])
        Path(clip.path).unlink()
    table = arrow.Table.from_pylist(rows)
    parquet.write_table(table, tmp_path / "eval-00000.parquet", row_group_size=2)
    parquet.write_table(arrow.table({"n": [1]}), tmp_path / "statistics.parquet")
    with pytest.warns(UserWarning, match="holds 5 of 6"):
        packed = audioset(tmp_path)
    assert [clip.status for clip in packed.clips] == [clip.status for clip in loose.clips]
    for clip in filter(lambda clip: clip.path, packed.clips):
        np.testing.assert_array_equal(read_audio(clip), recordings[clip.id])


def test_a_damaged_parquet_table_is_named(tmp_path):
    pytest.importorskip("pyarrow")
    (tmp_path / "half.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(ValueError, match=r"half\.parquet.*fetch it again"):
        list_files(tmp_path)


def test_a_damaged_tar_shard_is_named(tmp_path):
    with tarfile.open(tmp_path / "whole.tar", "w") as tar:
        member = tarfile.TarInfo("a.wav")
        member.size = 5000
        tar.addfile(member, io.BytesIO(bytes(5000)))
    (tmp_path / "half.tar").write_bytes((tmp_path / "whole.tar").read_bytes()[:3000])
    with pytest.raises(ValueError, match=r"half\.tar"):
        list_files(tmp_path)


def test_a_label_that_the_class_list_lacks_is_an_error(tmp_path):
    write_audioset(tmp_path)
    write_text(tmp_path / "metadata" / "eval_segments.csv", 'Yabcdefghij, 0, 10, "/m/0k4j,/m/new"')
    with pytest.raises(ValueError, match=r"'Yabcdefghij': label '/m/new' .* 4 classes"):
        audioset(tmp_path)


def test_a_row_cut_off_is_an_error(tmp_path):
    write_audioset(tmp_path)
    write_text(tmp_path / "metadata" / "eval_segments.csv", "Yabcdefghij, 0.000, 10")
    with pytest.raises(ValueError, match=r"eval_segments\.csv': a row has 3 fields, expected 4"):
        audioset(tmp_path)


def test_an_id_listed_twice_is_an_error(tmp_path):
    write_fsd50k(tmp_path)
    write_text(
        tmp_path / "FSD50K.ground_truth" / "eval.csv", "fname,labels,mids", "63,Bark,/m/05tny_"
    )
    with pytest.raises(ValueError, match="'63' occurs more than once"):
        fsd50k(tmp_path)


def test_fsd50k(tmp_path):
    write_fsd50k(tmp_path)
    index = fsd50k(tmp_path)
    assert index.classes == ("Bark", "Rain", "Purr")
    assert index.multilabel
    assert [(clip.id, clip.labels, clip.split) for clip in index.clips] == [
        ("0064760", (0, 1), "train"),
        ("63", (0,), "val"),
        ("37199", (2,), "test"),
    ]


def test_fsd50k_goes_on_with_the_clips_there_are(tmp_path):
    write_fsd50k(tmp_path)
    (tmp_path / "FSD50K.dev_audio" / "63.ogg").unlink()
    with pytest.warns(UserWarning, match="holds 2 of 3 clips"):
        index = fsd50k(tmp_path)
    assert index.summary()["splits"]["val"] == {"missing": 1}


def test_speech_commands(tmp_path):
    write_speech_commands(tmp_path)
    with pytest.warns(UserWarning, match="holds 3 of 105829 clips"):
        index = speech_commands(tmp_path)
    assert index.classes == WORDS
    assert len(WORDS) == 35
    assert not index.multilabel
    bed, yes = (WORDS.index("bed"),), (WORDS.index("yes"),)
    assert [(clip.id, clip.labels, clip.split, clip.status) for clip in index.clips] == [
        ("bed/a_nohash_0", bed, "train", "unread"),
        ("bed/b_nohash_0", bed, "val", "unread"),
        ("yes/c_nohash_1", yes, "test", "unread"),
        ("yes/gone_nohash_0", yes, "val", "missing"),
    ]


def test_a_folder_that_is_no_word_is_an_error(tmp_path):
    write_speech_commands(tmp_path)
    write_audio(tmp_path / "_unknown_" / "x.wav")
    with pytest.raises(ValueError, match=r"'_unknown_' .* none of the 35 words"):
        speech_commands(tmp_path)


def test_arabic_commands_takes_its_words_from_the_folders(tmp_path):
    write_speech_commands(tmp_path)
    write_audio(tmp_path / "cancel" / "d_nohash_0.wav")
    with pytest.warns(UserWarning, match="Arabic Commands: .* holds 4 of 5 clips"):
        index = arabic_commands(tmp_path)
    assert index.classes == ("bed", "cancel", "yes")
    assert [(clip.id, clip.labels, clip.split) for clip in index.clips] == [
        ("bed/a_nohash_0", (0,), "train"),
        ("bed/b_nohash_0", (0,), "val"),
        ("cancel/d_nohash_0", (1,), "train"),
        ("yes/c_nohash_1", (2,), "test"),
        ("yes/gone_nohash_0", (2,), "val"),
    ]


@pytest.mark.parametrize("load", [arabic_commands, audioset, fsd50k, speech_commands])
def test_the_wrong_folder_says_what_was_looked_for(load, tmp_path):
    write_audio(tmp_path / "music" / "song.wav")
    with pytest.raises(FileNotFoundError, match=r"looked for .*\.(csv|txt)"):
        load(tmp_path)
    with pytest.raises(NotADirectoryError, match=r"song\.wav"):
        load(tmp_path / "music" / "song.wav")


def test_lists_without_audio_say_what_was_looked_for(tmp_path):
    write_fsd50k(tmp_path)
    for audio in tmp_path.glob("FSD50K.*_audio/*"):
        audio.unlink()
    with pytest.raises(
        FileNotFoundError, match="none of its 3 clips: looked for audio named '0064760'"
    ):
        fsd50k(tmp_path)


def test_the_command_builds_a_cache_or_refuses_in_one_line(tmp_path, monkeypatch, capsys):
    pytest.importorskip("pyarrow")
    cache = tmp_path / "cache"
    monkeypatch.setattr(sys, "argv", ["data", "--fsd50k", str(tmp_path), "--out", str(cache)])
    with pytest.raises(SystemExit) as refused:
        main()
    assert refused.value.code == 2
    assert "vocabulary.csv" in (line := capsys.readouterr().err)
    assert line.count("\n") == 1
    write_fsd50k(tmp_path)
    main()
    assert json.loads(capsys.readouterr().out) == open_cache(cache).index.summary()
    assert len(open_cache(cache)) == 3


@pytest.mark.recordings
def test_esc10_in_the_layout_of_fsd50k(recordings):
    index = fsd50k(recordings / "esc10_as_fsd50k")
    assert index.summary()["splits"] == {
        "train": {"unread": 480},
        "val": {"unread": 160},
        "test": {"unread": 160},
    }
    with open(recordings / "esc10_as_fsd50k" / "FSD50K.ground_truth" / "eval.csv") as file:
        labels = {row["fname"]: row["labels"].split(",") for row in csv.DictReader(file)}
    for clip in index.select("test").clips:
        assert sorted(index.classes[label] for label in clip.labels) == sorted(labels[clip.id])


@pytest.mark.recordings
def test_the_real_speech_commands_test_set(recordings):
    with pytest.warns(UserWarning, match="4482 of 105829"):
        index = speech_commands(recordings / "speech_commands")
    assert {clip.labels for clip in index.clips} == {(number,) for number in range(35)}
    assert {split: sum(counts.values()) for split, counts in index.summary()["splits"].items()} == {
        "train": 3164,
        "val": 399,
        "test": 919,
    }
    speakers = {
        split: {clip.id.split("/")[1].split("_")[0] for clip in index.select(split).clips}
        for split in ("train", "val", "test")
    }
    assert not speakers["train"] & speakers["test"]
    assert not speakers["train"] & speakers["val"]


@pytest.mark.recordings
def test_the_real_arabic_commands(recordings):
    index = arabic_commands(recordings / "arabic_commands")
    assert len(index.classes) == 30
    splits = ("train", "val", "test")
    assert [len(index.select(split).clips) for split in splits] == [5400, 1800, 1800]
    speakers = [
        {clip.id.split("/")[1].split("_")[0] for clip in index.select(s).clips} for s in splits
    ]
    assert [len(there) for there in speakers] == [18, 6, 6]
    assert len(set.union(*speakers)) == 30
