"""Audio where it lies, found by name and decoded to 8 kHz mono.

It may be files in folders, in tar archives (WebDataset shards) or in Parquet tables (as the Hugging
Face hub has them: `audio` with `bytes` and `path`).
"""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Callable
from functools import cache, lru_cache
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
import soundfile
import soxr

from reference_models.data.index import SAMPLE_RATE, Clip, load_pyarrow

SUFFIXES = (".wav", ".flac", ".ogg", ".mp3")


class Undecodable(ValueError):
    """An audio file that cannot be read to its end."""


def list_files(root: str | Path) -> list[str]:
    """Paths of all files under a folder, in a fixed order.

    The members of a tar archive and the rows of a Parquet table of recordings are listed like
    files in a folder of its name: "shard-000.tar/-0RWZT-miFs.flac".

    Raises:
        NotADirectoryError: If `root` is no folder.
        ValueError: If an archive or table is damaged.
    """
    if not os.path.isdir(root):
        raise NotADirectoryError(f"'{root}' is no folder; expected the folder of a data set")
    places = []
    for folder, folders, files in os.walk(root, followlinks=True):
        folders.sort()
        for path in (os.path.join(folder, file) for file in sorted(files)):
            archive = ARCHIVES.get(Path(path).suffix)
            members = sorted(archive.list(path)) if archive else ()
            places += [f"{path}/{member}" for member in members] or [path]
    return places


def is_audio(path: str) -> bool:
    """Whether the file name ends as those of audio files do."""
    return path.lower().endswith(SUFFIXES)


def read_audio(clip: Clip) -> np.ndarray:
    """The recording a clip names, mixed down and resampled: float32, (samples,), 8 kHz.

    Raises:
        Undecodable: If the file is damaged, is no audio, or holds values that are no numbers.
    """
    try:
        with soundfile.SoundFile(_open(clip.path)) as file:
            promised, rate = file.frames, file.samplerate
            frames = file.read(dtype="float32", always_2d=True)
    except (OSError, soundfile.SoundFileError) as error:
        raise Undecodable(f"cannot decode '{clip.path}': {error}") from error
    if len(frames) < 0.9 * promised:  # an MP3 without a header only estimates its length
        raise Undecodable(f"'{clip.path}' breaks off after {len(frames)} of {promised} frames")
    if not np.isfinite(frames).all():
        raise Undecodable(f"'{clip.path}' holds values that are not finite")
    mono = sum(frames.T) / frames.shape[1]  # ten times faster than frames.mean(axis=1)
    return soxr.resample(mono, rate, SAMPLE_RATE)


def _open(path: str) -> str | io.BytesIO:
    """What soundfile opens: the path, or the bytes of an archive's member."""
    for suffix, archive in ARCHIVES.items():
        name, inside, member = path.partition(f"{suffix}/")
        if inside and os.path.isfile(f"{name}{suffix}"):
            return io.BytesIO(archive.read(f"{name}{suffix}", member))
    return path


@cache
def _tar_members(path: str) -> dict[str, tuple[int, int]]:
    """Offset and size in bytes of each file in an uncompressed tar archive."""
    try:
        with tarfile.open(path, "r:") as tar:
            return {m.name: (m.offset_data, m.size) for m in tar if m.isfile()}
    except tarfile.TarError as error:
        raise ValueError(
            f"cannot list the tar archive '{path}': {error}; "
            f"expected an uncompressed tar; fetch it again, or move it out of the data set"
        ) from error


def _read_tar(path: str, member: str) -> bytes:
    offset, size = _tar_members(path)[member]
    with open(path, "rb") as file:
        file.seek(offset)
        return file.read(size)


@cache
def _parquet_members(path: str) -> dict[str, tuple[int, int]]:
    """Row group and row in it of each recording; none in a table that has no `audio`.

    A recording is named by `video_id` where the table has it, else by the file it was made from.
    """
    arrow = load_pyarrow()
    try:
        file = arrow.parquet.ParquetFile(path)
        columns = file.schema_arrow.names
        if "audio" not in columns:
            return {}
        wanted = ["audio.path", *({"video_id"} & set(columns))]
        members = {}
        for group in range(file.num_row_groups):
            rows = file.read_row_group(group, columns=wanted).to_pylist()
            for number, row in enumerate(rows):
                source = PurePosixPath(row["audio"]["path"] or "audio.wav")
                stem = row.get("video_id") or source.stem
                members[f"{stem}{source.suffix or '.wav'}"] = group, number
    except (arrow.ArrowException, OSError, KeyError, TypeError) as error:
        raise ValueError(
            f"cannot list the Parquet table '{path}': {' '.join(str(error).split())}; expected "
            f"rows of 'audio' with 'bytes' and 'path'; fetch it again, or move it out of the data "
            f"set"
        ) from error
    return members


def _read_parquet(path: str, member: str) -> bytes:
    group, row = _parquet_members(path)[member]
    return _row_group(path, group)[row].as_py()


@lru_cache(maxsize=1)
def _row_group(path: str, group: int) -> Any:
    """The recordings of one row group: clips are read in order, so one is kept."""
    file = load_pyarrow().parquet.ParquetFile(path)
    column = file.read_row_group(group, columns=["audio.bytes"])["audio"]
    return column.combine_chunks().field("bytes")


class Archive(NamedTuple):
    """A file that holds recordings: what they are called, and the bytes of one of them."""

    list: Callable[[str], dict[str, tuple[int, int]]]
    read: Callable[[str, str], bytes]


ARCHIVES = {
    ".tar": Archive(_tar_members, _read_tar),
    ".parquet": Archive(_parquet_members, _read_parquet),
}
