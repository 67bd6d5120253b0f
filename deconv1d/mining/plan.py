"""The plan of a run of mining: what is asked for, of which model, over which clips.

It is written before the first clip is run. A run into the same folder goes on where the last one
was, and is refused if it asks for anything else.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, fields, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from deconv1d.audio import write_whole
from deconv1d.errors import FileError, InputError
from deconv1d.mining.findings import CLIPS, PLAN
from deconv1d.mining.mined import import_parquet, readable
from deconv1d.mining.sources import Clip

FORMAT = 2
MINE, HEAR = "mine", "hear"
"""What a task is: of a shard, or of some of the winners."""
GROUPS_PER_SHARD, MOST_CLIPS, SHARDS = 4, 4096, 1000
"""A shard has four groups of clips, or more, up to so many clips, where there would else be more
than a thousand shards."""


BATCH_SAMPLES = 2**14
"""A batch of n clips has at most n times as many samples: longer clips go in smaller batches."""
LISTED = 1024
"""Lines of the list of clips that are in memory at a time."""


@dataclass(frozen=True)
class Plan:
    """What a run of mining is of.

    Attributes:
        model: SHA-256 of its weights and structure.
        sample_rate: In hertz.
        layers: Full names.
        top: How many clips are kept for each channel.
        score: "peak" or "mean".
        tap: "block" or "output".
        method: How the winners are carried back.
        seed: What of their maps is.
        batch: Most clips that are run at once.
        threads: Of torch, in each worker: the last bits of a value may depend on it.
        clips: How many there are.
        clips_sha256: Of their ids, sizes and times of change.
        shard_clips: How many make a shard.
        trust: Whether the model hears the winners' sounds and controls of them.
        mask: Whether the winners are also heard through masks.
        format: Of the files; others are not read.
    """

    model: str
    sample_rate: int
    layers: tuple[str, ...]
    top: int
    score: str
    tap: str
    method: str
    seed: str
    batch: int
    threads: int
    clips: int
    clips_sha256: str
    shard_clips: int
    trust: bool = False
    mask: bool = False
    format: int = FORMAT

    @property
    def sha256(self) -> str:
        """What shards of this plan, and of no other, are marked with."""
        # What is made of the winners later does not change who wins: `--trust` on a finished folder
        # must not mine it again.
        return replace(self, trust=False, mask=False).sounds_sha256

    @property
    def sounds_sha256(self) -> str:
        """What the winners' sounds of this plan, and of no other, are marked with."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()

    @property
    def shards(self) -> int:
        """How many there are."""
        return -(-self.clips // self.shard_clips)


def group_clips(batch: int) -> int:
    """So many clips are decoded together, and sorted into batches by their lengths.

    A shard is a whole number of groups: which clips are run in one batch, and with it the last bits
    of their values, then does not depend on the size of the shards.
    """
    return 4 * batch


def at_once(batch: int, samples: int) -> int:
    """How many clips of a length are run at once: one at least, fewer if they are longer."""
    return max(1, min(batch, batch * BATCH_SAMPLES // samples))


def shard_size(clips: int, batch: int) -> int:
    """How many clips make a shard, by default."""
    group = group_clips(batch)
    wanted = min(max(clips // SHARDS, GROUPS_PER_SHARD * group), MOST_CLIPS)
    return -(-wanted // group) * group


def read_plan(out: Path) -> Plan | None:
    """The plan of an earlier run into this folder; None: there was none.

    Raises:
        FileError: If it is damaged.
    """
    path = out / PLAN
    if not path.exists():
        return None
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        # JSON has no tuples, and a list never equals one in `check_same`.
        return Plan(**{**facts, "layers": tuple(facts["layers"])})
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise FileError(
            f"{str(path)!r} cannot be read: expected the plan of a run of mining, got "
            f"{type(error).__name__}: {error}. Give another -o folder, or delete this one."
        ) from error


def write_plan(out: Path, plan: Plan) -> None:
    """Writes the plan into the folder."""
    write_whole(out / PLAN, json.dumps(asdict(plan), indent=1).encode())


ADDED = ("trust", "mask")
"""What a later run may add to the winners that were found."""
WORDS = {
    "model": "weights and structure of the model (their SHA-256)",
    "clips": "number of clips",
    "clips_sha256": "ids, sizes and times of change of the clips (their SHA-256)",
}


def check_same(before: Plan, now: Plan, out: Path) -> None:
    """Raises InputError unless a plan is that of the earlier run."""
    for field in (f for f in fields(Plan) if f.name not in ADDED):
        then, asked = getattr(before, field.name), getattr(now, field.name)
        if then != asked:
            what = WORDS.get(field.name, field.name)
            raise InputError(
                f"{str(out)!r} holds what was mined by another plan: expected the same {what}, "
                f"{then!r}, got {asked!r}. Nothing was changed. Give what it was begun with, or "
                f"another -o folder."
            )


# --- the list of clips ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Listing:
    """How many clips were listed, and the SHA-256 of what they are."""

    clips: int
    sha256: str


def write_list(path: Path, clips: Iterable[Clip]) -> Listing:
    """Writes the list of clips; the memory that it takes is 8 bytes a clip.

    Raises:
        InputError: If two clips have one id.
        FileError: If the file cannot be written.
    """
    arrow, parquet = import_parquet()
    digest, marks, clips = hashlib.sha256(), array("Q"), iter(clips)
    schema = arrow.schema(
        [
            ("clip", "string"),
            ("path", "binary"),
            *((n, "int64") for n in ("place", "size", "changed")),
        ]
    )
    with (
        full_disk(path),
        open(path, "wb") as file,  # Arrow cannot open a path that is no UTF-8
        parquet.ParquetWriter(file, schema) as writer,
    ):
        while part := list(islice(clips, LISTED)):
            for clip in part:
                digest.update(repr((clip.clip, clip.place, clip.size, clip.changed)).encode())
                # 8 bytes stand for an id, so that ids need not stay in memory. Two ids may share
                # them by chance: `_check_different` looks.
                name = hashlib.blake2b(clip.clip.encode(), digest_size=8)
                marks.append(int.from_bytes(name.digest(), "little"))
            # Paths are bytes to the system; a string column would refuse some of them.
            rows = [{**asdict(clip), "path": os.fsencode(clip.path)} for clip in part]
            writer.write_table(arrow.Table.from_pylist(rows, schema))
    _check_different(path, marks)
    return Listing(len(marks), digest.hexdigest())


def _check_different(path: Path, marks: Any) -> None:
    """Raises InputError if an id comes twice; the ids themselves are not in memory."""
    values, counts = np.unique(np.asarray(marks, np.uint64), return_counts=True)
    suspects = set(values[counts > 1].tolist())
    if not suspects:
        return
    found = (
        clip.clip
        for clip in read_list(path)
        if int.from_bytes(hashlib.blake2b(clip.clip.encode(), digest_size=8).digest(), "little")
        in suspects
    )
    twice = [(clip, count) for clip, count in Counter(found).items() if count > 1]
    if twice:
        clip, count = twice[0]
        raise InputError(
            f"Clips cannot be told apart: expected an id that is each one's own, got "
            f"{clip!r} {count} times. Give a table with a column of ids, or the folder above."
        )


def read_list(path: Path) -> Iterator[Clip]:
    """The clips of a list, a few at a time."""
    _, parquet = import_parquet()
    # Without threads ahead of the reader, so that memory does not depend on the length.
    for batch in parquet.ParquetFile(readable(path)).iter_batches(LISTED, use_threads=False):
        for row in batch.to_pylist():
            yield Clip(**{**row, "path": os.fsdecode(row["path"])})


def shards_of(out: Path, plan: Plan, wanted: Iterable[int]) -> Iterator[tuple[int, list[Clip]]]:
    """Some shards, by number, with their clips, in order."""
    numbers = set(wanted)
    clips = read_list(out / CLIPS)
    for number in range(plan.shards):
        part = list(islice(clips, plan.shard_clips))
        if number in numbers:
            yield number, part


@contextlib.contextmanager
def full_disk(path: Path) -> Iterator[None]:
    """Turns what goes wrong on a disk into an error that says what to do."""
    try:
        yield
    except FileError:  # it is an OSError, too, and says already what to do
        raise
    except OSError as error:
        raise FileError(
            f"{str(path)!r} cannot be written: {error.strerror or error}. Give a folder that may "
            f"be written to and has space; what is finished is kept, and the same command goes on."
        ) from error
