"""Audio where it lies: files in folders or tar shards, found by name and decoded to 8 kHz mono."""

from __future__ import annotations

import io
import os
import tarfile
from functools import cache
from pathlib import Path

import numpy as np
import soundfile
import soxr

from reference_models.data.index import SAMPLE_RATE, Clip

SUFFIXES = (".wav", ".flac", ".ogg", ".mp3")


class Undecodable(ValueError):
    """An audio file that cannot be read to its end."""


def list_files(root: str | Path) -> list[str]:
    """Paths of all files under a folder, in a fixed order.

    The members of a tar archive (a WebDataset shard) are listed like files in a folder of its
    name: "shard-000.tar/-0RWZT-miFs.flac".

    Raises:
        NotADirectoryError: If `root` is no folder.
        ValueError: If a tar archive is damaged.
    """
    if not os.path.isdir(root):
        raise NotADirectoryError(f"'{root}' is no folder; expected the folder of a data set")
    found = []
    for folder, folders, files in os.walk(root, followlinks=True):
        folders.sort()
        for path in (os.path.join(folder, file) for file in sorted(files)):
            members = sorted(_members(path)) if path.endswith(".tar") else ()
            found += [f"{path}/{member}" for member in members] or [path]
    return found


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
    """What soundfile opens: the path, or the bytes of a tar archive's member."""
    archive, inside, member = path.partition(".tar/")
    if not inside or os.path.isdir(f"{archive}.tar"):
        return path
    offset, size = _members(f"{archive}.tar")[member]
    with open(f"{archive}.tar", "rb") as file:
        file.seek(offset)
        return io.BytesIO(file.read(size))


@cache
def _members(archive: str) -> dict[str, tuple[int, int]]:
    """Offset and size in bytes of each file in an uncompressed tar archive."""
    try:
        with tarfile.open(archive, "r:") as tar:
            return {m.name: (m.offset_data, m.size) for m in tar if m.isfile()}
    except tarfile.TarError as error:
        raise ValueError(
            f"cannot list the tar archive '{archive}': {error}; "
            f"expected an uncompressed tar; fetch it again, or move it out of the data set"
        ) from error
