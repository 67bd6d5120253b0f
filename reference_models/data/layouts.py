"""Data sets as people have them: the folder of a download in, a `ClipIndex` out.

Lists and audio files are found by name at any depth, so it does not matter into which folders,
tar shards or Parquet tables a copy was sorted; those of Speech Commands and Arabic Commands must
still lie in a folder for each word, beside the lists. Any of wav, flac, ogg and mp3 will do.
"""

from __future__ import annotations

import csv
import os
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath

from reference_models.data.index import Clip, ClipIndex, share
from reference_models.data.sources import is_audio, list_files

# fmt: off
WORDS = (
    "backward", "bed", "bird", "cat", "dog", "down", "eight", "five", "follow", "forward", "four",
    "go", "happy", "house", "learn", "left", "marvin", "nine", "no", "off", "on", "one", "right",
    "seven", "sheila", "six", "stop", "three", "tree", "two", "up", "visual", "wow", "yes", "zero",
)
# fmt: on
HELD_OUT = 0.1  # of AudioSet's training clips, for validation (the paper's choice)
SPEECH_COMMANDS_CLIPS = 105_829  # as published

# A video's id of 11 characters, with or without a "Y" before it and a start, or a start and an
# end, after it. No name can be read in two ways: after 11 characters comes "_", after 12 too.
VIDEO = re.compile(r"Y?([\w-]{11})(_\d+(\.\d+)?){0,2}", re.ASCII)

Listed = tuple[str, tuple[int, ...], str]  # id, labels, split


def audioset(root: str | Path, *, balanced: bool = False) -> ClipIndex:
    """AudioSet: 527 classes, several a clip; test is its eval list, val a tenth of its training.

    Whether a training clip is held out for validation depends on its id alone.

    Args:
        root: Holds `class_labels_indices.csv`, `eval_segments.csv`, the training lists, and audio
            named by the video's id ("-0RWZT-miFs.wav"; a "Y" before it and times after it, as in
            "Y-0RWZT-miFs_420.000_430.000.wav", are understood).
        balanced: Train on `balanced_train_segments.csv` alone, else also on the unbalanced list.

    Raises:
        FileNotFoundError: If a list, or every audio file, is missing.
        ValueError: If a list is malformed or names a label that the class list lacks.
    """
    names = ["class_labels_indices.csv", "eval_segments.csv", "balanced_train_segments.csv"]
    names += [] if balanced else ["unbalanced_train_segments.csv"]
    files = list_files(root)
    classes_csv, *segment_csvs = _find_lists("AudioSet", root, files, names)
    classes = list(_rows(classes_csv, fields=3))[1:]  # under a header: index, mid, display name
    numbers = {mid: number for number, (_, mid, _) in enumerate(classes)}

    def listed() -> Iterator[Listed]:
        for path in segment_csvs:
            for video, _, _, mids in _rows(path, fields=4):
                held_out = "val" if share(video) < HELD_OUT else "train"
                split = "test" if path == segment_csvs[0] else held_out
                yield video, _numbers(mids, numbers, f"{path}, clip {video!r}"), split

    audio = {}
    for path in filter(is_audio, files):
        if video := VIDEO.fullmatch(Path(path).stem):
            audio.setdefault(video[1], path)
    clips = _locate("AudioSet", root, listed(), audio)
    return ClipIndex("AudioSet", tuple(name for _, _, name in classes), True, clips)


def fsd50k(root: str | Path) -> ClipIndex:
    """FSD50K: 200 classes, several a clip, with its own train, val and test (eval).

    Args:
        root: Holds `FSD50K.ground_truth` (`dev.csv`, `eval.csv`, `vocabulary.csv`) and the audio
            (`FSD50K.dev_audio`, `FSD50K.eval_audio`).

    Raises:
        FileNotFoundError: If a list, or every audio file, is missing.
        ValueError: If a list is malformed or names a label that the vocabulary lacks.
    """
    files = list_files(root)
    names = ["vocabulary.csv", "dev.csv", "eval.csv"]
    vocabulary, dev, evaluation = _find_lists("FSD50K", root, files, names)
    classes = list(_rows(vocabulary, fields=3))  # no header: index, name, mid
    numbers = {mid: number for number, (_, _, mid) in enumerate(classes)}

    def listed() -> Iterator[Listed]:
        for path, fields in ((dev, 4), (evaluation, 3)):
            rows = _rows(path, fields=fields)
            next(rows)  # the header: fname, labels, mids, and in dev.csv split
            for fname, _, mids, *split in rows:
                where = f"{path}, clip {fname!r}"
                yield fname, _numbers(mids, numbers, where), split[0] if split else "test"

    audio = {Path(path).stem: path for path in filter(is_audio, reversed(files))}
    clips = _locate("FSD50K", root, listed(), audio)
    return ClipIndex("FSD50K", tuple(name for _, name, _ in classes), True, clips)


def speech_commands(root: str | Path) -> ClipIndex:
    """Speech Commands v0.02: one of 35 words a clip, with its own train, val and test.

    Args:
        root: Holds `validation_list.txt`, `testing_list.txt` and a folder for each word.

    Raises:
        FileNotFoundError: If a list, or every audio file, is missing.
        ValueError: If there is a folder for some other word.
    """
    classes, listed, audio = _commands("Speech Commands", root)
    if strange := sorted(set(classes) - set(WORDS)):
        raise ValueError(
            f"Speech Commands: folder {strange[0]!r} in '{root}' is none of the 35 words, "
            f"expected {WORDS[0]!r} to {WORDS[-1]!r}; move it out of the data set"
        )
    numbered = _number(listed, WORDS)
    clips = _locate("Speech Commands", root, numbered, audio, SPEECH_COMMANDS_CLIPS)
    return ClipIndex("Speech Commands", WORDS, False, clips)


def arabic_commands(root: str | Path) -> ClipIndex:
    """Arabic Speech Commands: one Arabic word a clip, with train, val and test by speaker.

    Args:
        root: Holds `validation_list.txt`, `testing_list.txt` and a folder for each word, as Speech
            Commands does. The classes are the folders, in the order of the alphabet.

    Raises:
        FileNotFoundError: If a list, or every audio file, is missing.

    Source:
        Ghandoura et al., "Building and benchmarking an Arabic Speech Commands dataset for
        small-footprint keyword spotting" (2021), laid out as Speech Commands is.
    """
    classes, listed, audio = _commands("Arabic Commands", root)
    clips = _locate("Arabic Commands", root, _number(listed, classes), audio)
    return ClipIndex("Arabic Commands", classes, False, clips)


def _commands(
    name: str, root: str | Path
) -> tuple[tuple[str, ...], list[tuple[str, str, str]], dict[str, str]]:
    """Reads the layout of Speech Commands: words, clips as (id, word, split), audio files by id."""
    names = ["validation_list.txt", "testing_list.txt"]
    files = list_files(root)
    lists = _find_lists(name, root, files, names)
    splits = {}
    for path, split in zip(lists, ("val", "test"), strict=True):
        for line in Path(path).read_text(encoding="utf-8").split():
            # PurePosixPath takes "./" away; copies are often in another format than the lists say
            splits[str(PurePosixPath(line).with_suffix(""))] = split
    audio = {}
    for path in map(Path, filter(is_audio, files)):
        word = path.parent
        if word.parent == Path(lists[0]).parent and word.name != "_background_noise_":
            audio[f"{word.name}/{path.stem}"] = str(path)
    ids = sorted(audio.keys() | splits.keys())
    listed = [(id, id.split("/")[0], splits.get(id, "train")) for id in ids]
    return tuple(sorted({word for _, word, _ in listed})), listed, audio


def _number(listed: Iterable[tuple[str, str, str]], classes: Sequence[str]) -> list[Listed]:
    """The clips with the numbers of their words."""
    return [(id, (classes.index(word),), split) for id, word, split in listed]


def _find_lists(name: str, root: str | Path, files: list[str], wanted: list[str]) -> list[str]:
    """Paths of the files with the wanted names; of several, the one that lies highest."""
    there = sorted((path for path in files if os.path.basename(path) in wanted), key=_depth)
    lists = {os.path.basename(path): path for path in reversed(there)}
    if missing := [file for file in wanted if file not in lists]:
        raise FileNotFoundError(
            f"'{root}' is not {name} as it is downloaded: among its {len(files)} files there is no "
            f"{' and no '.join(map(repr, missing))}; looked for {', '.join(wanted)} at any depth; "
            f"give the folder that holds them and the audio"
        )
    return [lists[file] for file in wanted]


def _depth(path: str) -> int:
    return len(Path(path).parts)


def _rows(path: str, fields: int) -> Iterator[list[str]]:
    """The rows of a comma-separated list, its comments left out."""
    with open(path, newline="", encoding="utf-8-sig") as file:
        lines = (line for line in file if not line.startswith("#"))
        for row in csv.reader(lines, skipinitialspace=True):
            if len(row) != fields:
                raise ValueError(
                    f"'{path}': a row has {len(row)} fields, expected {fields}: {row}; "
                    f"fetch the list again as it was published"
                )
            yield row


def _numbers(mids: str, numbers: Mapping[str, int], where: str) -> tuple[int, ...]:
    """Class numbers of comma-joined mids, ascending, each once."""
    try:
        return tuple(sorted({numbers[mid.strip()] for mid in mids.split(",")}))
    except KeyError as error:
        raise ValueError(
            f"{where}: label {error} is not among the {len(numbers)} classes of the class list; "
            f"take both files from the same download"
        ) from error


def _locate(
    name: str,
    root: str | Path,
    listed: Iterable[Listed],
    audio: Mapping[str, str],
    expected: int = 0,
) -> tuple[Clip, ...]:
    """A clip for everything listed, "missing" where no audio file bears its id."""
    clips = tuple(
        Clip(id, audio.get(id, ""), 0, 0, 0, labels, split, "unread" if id in audio else "missing")
        for id, labels, split in listed
    )
    usable = sum(clip.status == "unread" for clip in clips)
    if not usable:
        first = clips[0].id if clips else "*"
        raise FileNotFoundError(
            f"'{root}' holds the lists of {name} but none of its {len(clips)} clips: looked for "
            f"audio named {first!r} with .wav, .flac, .ogg or .mp3, and so on; "
            f"give the folder that holds the lists and the audio"
        )
    if usable < (expected := max(expected, len(clips))):
        warnings.warn(f"{name}: '{root}' holds {usable} of {expected} clips", stacklevel=3)
    return clips
