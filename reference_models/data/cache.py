"""The decoded cache: 8 kHz mono int16 memory maps and a Parquet index.

    folder/index.parquet            the clip index; written last, so it stands for a finished cache
    folder/shards/<key>.int16       the waveforms of some hundred clips, one after the other
    folder/shards/<key>.parquet     their part of the index; written after the waveforms

A shard's key is a hash of the clips it was asked to hold. Whatever bears the right key is
finished and right, so a killed build loses the shard it was at, and a changed data set decodes
again only the shards that changed (those it had before stay until the folder is deleted).
"""

from __future__ import annotations

import hashlib
import logging
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from tqdm import tqdm

from reference_models.data.clips import FULL_SCALE, ClipSet
from reference_models.data.index import SAMPLE_RATE, Clip, ClipIndex
from reference_models.data.sources import Undecodable, read_audio

RECIPE = "int16 1"  # part of every shard's key: change it when the bytes of a clip change
SHARD_CLIPS = 256  # clips in a shard, at the least
MOST_SHARDS = 512  # each is one open file while training
SHORTEST = SAMPLE_RATE // 10  # samples; a clip with less is "short"
SILENCE = 2.0**-15  # one step of 16-bit audio; a clip with a lower peak is "silent"
NOTHING = np.zeros(0, dtype=np.int16)

Reader = Callable[[Clip], np.ndarray]
logger = logging.getLogger(__name__)


def build_cache(
    index: ClipIndex,
    folder: str | Path,
    *,
    read: Reader = read_audio,
    workers: int | None = None,
) -> ClipSet:
    """Reads every clip of an index into a cache, or finishes a build that was interrupted.

    Each clip is scaled to unit peak and becomes "ok", or else "undecodable", "short" or "silent".
    Threads read and one writes in the order of the index, so the bytes do not depend on how many
    there are. One process builds a folder at a time; a finished cache is not written to again.
    A recording replaced in place is not noticed: delete the cache then.

    Args:
        index: What to read.
        folder: Where the cache goes; made if missing.
        read: Gives the waveform of a clip: float, (samples,), 8 kHz; or raises `Undecodable`.
        workers: Reading threads (default: a few more than there are cores).

    Returns:
        The usable clips. A warning says how many of how many, if not all are.

    Raises:
        OSError: If the cache cannot be written (disk full); what is finished stays finished.
    """
    folder = Path(folder)
    (folder / "shards").mkdir(parents=True, exist_ok=True)
    size = max(SHARD_CLIPS, -(-len(index.clips) // MOST_SHARDS))
    clips: list[Clip] = []
    progress = tqdm(total=len(index.clips), desc=index.name, unit="clip", disable=None)
    with ThreadPoolExecutor(workers) as pool, progress:
        for first in range(0, len(index.clips), size):
            part = replace(index, clips=index.clips[first : first + size])
            shard = folder / "shards" / f"{_key(part)}.int16"
            if not (done := _load_finished(shard)):
                with closing(pool.map(partial(read_clip, read=read), part.clips)) as waveforms:
                    done = _write(part, waveforms, shard, progress)
            clips += done
            progress.update(len(clips) - progress.n)
    index = replace(index, clips=tuple(clips))
    finished = folder / "index.parquet"
    if not finished.exists() or ClipIndex.load(finished) != index:
        with _naming(finished):
            index.save(finished)
    _warn_of_losses(index)
    return ClipSet(index, folder)


def open_cache(folder: str | Path) -> ClipSet:
    """The clips of a finished cache.

    Raises:
        FileNotFoundError: If there is none in this folder, or a shard of it is gone.
        ValueError: If its index is damaged or a shard has the wrong size.
    """
    folder = Path(folder)
    if not (folder / "index.parquet").exists():
        raise FileNotFoundError(
            f"no finished cache in '{folder}': looked for 'index.parquet'; "
            f"run build_cache (an interrupted build goes on where it stopped)"
        )
    index = ClipIndex.load(folder / "index.parquet")
    held = Counter[str]()
    for clip in index.clips:
        if clip.status == "ok":
            held[clip.path] += clip.frames
    for shard, samples in held.items():
        _check_size(folder / shard, 2 * samples)
    return ClipSet(index, folder)


def _key(part: ClipIndex) -> str:
    """A hash of what a shard is to hold; free of folder names, so that a data set may move."""
    asked = [clip._replace(path=Path(clip.path).name) for clip in part.clips]
    return hashlib.sha256(repr((RECIPE, asked)).encode()).hexdigest()[:20]


def _load_finished(shard: Path) -> tuple[Clip, ...]:
    """The clips of a shard whose two files are there and whole, else none."""
    listing = shard.with_suffix(".parquet")
    if not (shard.exists() and listing.exists()):
        return ()
    clips = ClipIndex.load(listing).clips
    size = sum(clip.frames for clip in clips) * 2
    return clips if shard.stat().st_size == size else ()


def read_clip(clip: Clip, read: Reader) -> tuple[str, np.ndarray]:
    """Status and int16 waveform of a clip."""
    if clip.status == "missing":
        return "missing", NOTHING
    try:
        waveform = read(clip)
    except Undecodable as error:
        logger.info("%s", error)
        return "undecodable", NOTHING
    if len(waveform) < SHORTEST:
        return "short", NOTHING
    peak = np.abs(waveform).max()
    if peak < SILENCE:
        return "silent", NOTHING
    return "ok", np.round(waveform * (FULL_SCALE / peak)).astype(np.int16)


def _write(
    part: ClipIndex, waveforms: Iterable[tuple[str, np.ndarray]], shard: Path, progress: tqdm
) -> tuple[Clip, ...]:
    """Writes a shard and then its listing, each to a temporary name that is then renamed."""
    unfinished = shard.with_suffix(".partial")
    place = f"{shard.parent.name}/{shard.name}"
    clips, start = [], 0
    with _naming(shard), open(unfinished, "wb") as file:
        for clip, (status, samples) in zip(part.clips, waveforms, strict=True):
            if status == "ok":
                clip = clip._replace(path=place, start=start, rate=SAMPLE_RATE)
            clips.append(clip._replace(frames=len(samples), status=status))
            start += len(samples)
            file.write(samples.astype("<i2").tobytes())
            progress.update()
    part = replace(part, clips=tuple(clips))
    with _naming(shard):
        unfinished.replace(shard)
        part.save(shard.with_suffix(".parquet"))
    return part.clips


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Tells which file could not be written, and what is lost."""
    try:
        yield
    except OSError as error:
        raise OSError(
            f"cannot write '{path}': {error.strerror or error}; "
            f"free some space and run the same build again: finished shards are kept"
        ) from error


def _check_size(shard: Path, size: int) -> None:
    remedy = "run build_cache again: it makes this shard anew and keeps the others"
    if not shard.exists():
        raise FileNotFoundError(f"the cache lacks '{shard}' ({size} bytes); {remedy}")
    if shard.stat().st_size != size:
        raise ValueError(
            f"the cache is damaged: '{shard}' has {shard.stat().st_size} bytes, "
            f"expected {size}; {remedy}"
        )


def _warn_of_losses(index: ClipIndex) -> None:
    counts = Counter(clip.status for clip in index.clips)
    usable = counts.pop("ok", 0)
    if counts:
        lost = next(clip for clip in index.clips if clip.status != "ok")
        reasons = ", ".join(f"{count} {status}" for status, count in sorted(counts.items()))
        warnings.warn(
            f"{index.name}: {usable} of {len(index.clips)} clips are usable ({reasons}; the first "
            f"is {lost.id!r}, {lost.status}); the index keeps them all",
            stacklevel=3,
        )
