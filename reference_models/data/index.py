"""The clip index: what a data set names, where it is, and whether it can be used."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

SAMPLE_RATE = 8000  # hertz, of every waveform in a cache


class Clip(NamedTuple):
    """One clip: `frames` frames of the file `path` from frame `start` on.

    Attributes:
        id: Unique in its data set ("-0RWZT-miFs", "64760", "yes/004ae714_nohash_0").
        path: In an index of sources: the audio file ("" if missing), or what a rendered clip is
            made from. In a cache: the shard that holds an ok clip; other clips keep their source.
        start: First frame of the clip in that file.
        frames: Number of frames; 0 until a clip is read.
        rate: Frames per second, hertz; 0 until a clip is read.
        labels: Positions in the class list, ascending, none twice.
        split: "train", "val" or "test".
        status: "ok"; "missing" (there is no file); "undecodable" (the file cannot be read to its
            end); "short" (under 0.1 s); "silent" (peak below one step of 16-bit audio); "unread"
            (a source that no cache has read yet).
    """

    id: str
    path: str
    start: int
    frames: int
    rate: int
    labels: tuple[int, ...]
    split: str
    status: str


@dataclass(frozen=True)
class ClipIndex:
    """Every clip that a data set names, usable or not.

    Attributes:
        name: The data set.
        classes: Names of the classes, in the data set's own order.
        multilabel: Whether a clip may have several labels.
        clips: All clips, in a fixed order.

    Raises:
        ValueError: If two clips have the same id.
    """

    name: str
    classes: tuple[str, ...]
    multilabel: bool
    clips: tuple[Clip, ...]

    def __post_init__(self):
        twice = [id for id, count in Counter(clip.id for clip in self.clips).items() if count > 1]
        if twice:
            raise ValueError(
                f"{self.name}: clip id {twice[0]!r} occurs more than once "
                f"({len(twice)} ids do), expected every id once; "
                f"take the doubled rows out of the data set's lists"
            )

    @property
    def clip_hash(self) -> str:
        """16 hex digits that stand for the set of ok clip ids, whatever their order."""
        ids = sorted(clip.id for clip in self.clips if clip.status == "ok")
        return hashlib.sha256("\n".join(ids).encode()).hexdigest()[:16]

    @property
    def content_hash(self) -> str:
        """The same of what a network learns from and is tested on: ids, their labels and splits."""
        rows = sorted((c.id, c.split, *map(str, c.labels)) for c in self.clips if c.status == "ok")
        return hashlib.sha256("\n".join(map(" ".join, rows)).encode()).hexdigest()[:16]

    def select(self, *splits: str) -> ClipIndex:
        """The clips of some splits.

        Raises:
            ValueError: If the data set has no such split.
        """
        there = {clip.split for clip in self.clips}
        if unknown := sorted(set(splits) - there):
            raise ValueError(
                f"{self.name}: no split {unknown[0]!r}; expected one of {sorted(there)}"
            )
        clips = tuple(clip for clip in self.clips if clip.split in splits)
        return replace(self, clips=clips)

    def summary(self) -> dict[str, Any]:
        """What a result file should say of its data: counts by split and status, and hashes.

        Example:
            `{"name": "FSD50K", "classes": 200, "clips": 51197, "clip_hash": "...",
            "content_hash": "...", "splits": {"test": {"ok": 10231}, "train": {"missing": 3, "ok":
            36793}, ...}}`
        """
        counts = Counter((clip.split, clip.status) for clip in self.clips)
        splits: dict[str, dict[str, int]] = {}
        for (split, status), count in sorted(counts.items()):
            splits.setdefault(split, {})[status] = count
        return {
            "name": self.name,
            "classes": len(self.classes),
            "clips": len(self.clips),
            "clip_hash": self.clip_hash,
            "content_hash": self.content_hash,
            "splits": splits,
        }

    def save(self, path: str | Path) -> None:
        """Writes the index as Parquet, a row a clip: to a temporary name first, then renamed."""
        arrow = load_pyarrow()
        rows = [clip._asdict() for clip in self.clips]
        about = {"name": self.name, "classes": self.classes, "multilabel": self.multilabel}
        schema = arrow.schema(
            [
                ("id", arrow.string()),
                ("path", arrow.string()),
                ("start", arrow.int64()),
                ("frames", arrow.int64()),
                ("rate", arrow.int64()),
                ("labels", arrow.list_(arrow.int32())),
                ("split", arrow.string()),
                ("status", arrow.string()),
            ],
            metadata={"index": json.dumps(about)},
        )
        partial = Path(f"{path}.partial")
        arrow.parquet.write_table(arrow.Table.from_pylist(rows, schema=schema), partial)
        partial.replace(path)

    @staticmethod
    def load(path: str | Path) -> ClipIndex:
        """The index that `save` wrote.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If the file is damaged.
        """
        arrow = load_pyarrow()
        try:
            table = arrow.parquet.read_table(path)
            about = json.loads(table.schema.metadata[b"index"])
            columns = {name: table[name].to_pylist() for name in Clip._fields}
        except FileNotFoundError:
            raise
        except (arrow.ArrowException, OSError, ValueError, KeyError, TypeError) as error:
            reason = " ".join(str(error).split())  # Arrow's messages have line breaks
            raise ValueError(
                f"cannot read the clip index '{path}': {reason}; expected a Parquet file as "
                f"written by build_cache; delete this file and build the cache again"
            ) from error
        columns["labels"] = map(tuple, columns["labels"])
        clips = tuple(map(Clip._make, zip(*columns.values(), strict=True)))
        return ClipIndex(about["name"], tuple(about["classes"]), about["multilabel"], clips)


def share(name: str) -> float:
    """A number in [0, 1) that depends on the name alone: splits made with it never change."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") / 2**64


def load_pyarrow() -> Any:
    """Returns pyarrow, or says how to install it.

    Raises:
        ImportError: It is not installed.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ImportError(
            "the cache of decoded clips needs pyarrow; pip install 'deconv1d[reference]'"
        ) from error
    return pyarrow
