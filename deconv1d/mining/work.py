"""The work of a run of mining: shards are mined and merged, winners are sonified."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from deconv1d.audio import write_whole
from deconv1d.errors import FileError
from deconv1d.mining import findings
from deconv1d.mining.executors import Executor
from deconv1d.mining.hearing import Heard, Place, Won
from deconv1d.mining.mined import Ranking, merge
from deconv1d.mining.plan import (
    HEAR,
    MINE,
    Plan,
    full_disk,
    read_list,
    shards_of,
)
from deconv1d.mining.ranking import NOWHERE
from deconv1d.mining.shards import read_shard
from deconv1d.progress import bar

CLIPS_HEARD_AT_ONCE = 8


@dataclass(frozen=True)
class Work:
    """What is to be done in a folder, and by whom."""

    out: Path
    plan: Plan
    executor: Executor
    progress: bool

    def mined(self) -> tuple[dict[str, Ranking], int, dict[str, str]]:
        """The merged rankings, how many clips were used, and why others could not be."""
        numbers = range(self.plan.shards)
        todo = [n for n in numbers if read_shard(self._shard(n), self.plan, n) is None]
        # An iterator: the clips of a shard are read from the list when a worker is free for them.
        tasks = shards_of(self.out, self.plan, todo)
        left = sum(
            min(self.plan.shard_clips, self.plan.clips - n * self.plan.shard_clips) for n in todo
        )
        with bar(
            total=self.plan.clips,
            initial=self.plan.clips - left,
            desc="mining",
            unit="clips",
            shown=self.progress,
        ) as steps:
            for (_, (number, clips)), content in self.executor.run((MINE, task) for task in tasks):
                _write(self._shard(number), content)
                steps.update(len(clips))
        return self._merged()

    def _merged(self) -> tuple[dict[str, Ranking], int, dict[str, str]]:
        rankings: dict[str, Ranking] = {}
        errors: dict[str, str] = {}
        used = 0
        # What this run has just mined is read from its file, too: memory holds one shard, and a
        # file that cannot be read is found now instead of at the next run.
        for number in range(self.plan.shards):
            shard = read_shard(self._shard(number), self.plan, number)
            if shard is None:
                raise FileError(
                    f"{str(self._shard(number))!r} cannot be read: expected the shard that was "
                    f"written, got none or a damaged one. Run the same command again."
                )
            for layer, ranking in shard.rankings.items():
                rankings[layer] = merge(rankings.get(layer), ranking, self.plan.top)
            used += shard.clips
            errors.update(shard.errors)
        return rankings, used, dict(sorted(errors.items()))

    def _shard(self, number: int) -> Path:
        return self.out / findings.SHARDS / f"{number:06d}.parquet"

    # --- the winners ---

    def heard(self, rankings: dict[str, Ranking], errors: dict[str, str]) -> list[dict[str, Any]]:
        """The rows of winners.parquet; what cannot be heard is added to the errors."""
        rows = _rows(rankings, self.plan.layers)
        places: dict[str, list[Won]] = {}
        for row in rows:
            places.setdefault(row["clip"], []).append(Won(*(row[name] for name in Won._fields)))
        # Winners' clips in the order of the list: the same units at each run.
        units = range(-(-len(places) // CLIPS_HEARD_AT_ONCE))
        # Those with errors again: what was wrong with a disk, or with space, may be over.
        known = map(self._read_heard, units)
        todo = {n for n, facts in enumerate(known) if facts is None or facts["errors"]}
        clips = (clip for clip in read_list(self.out / findings.CLIPS) if clip.clip in places)
        tasks = (
            (number, [(clip, places[clip.clip]) for clip in part])
            for number in units
            if (part := list(islice(clips, CLIPS_HEARD_AT_ONCE))) and number in todo
        )
        with bar(
            total=len(units),
            initial=len(units) - len(todo),
            desc="sonifying",
            unit="units",
            shown=self.progress,
        ) as steps:
            for (_, (number, _)), heard in self.executor.run((HEAR, task) for task in tasks):
                self._write_heard(number, heard)
                steps.update()
        told: dict[Place, dict[str, Any]] = {}
        for number in units:
            facts = self._read_heard(number) or {"rows": [], "errors": {}}
            told |= {(layer, channel, rank): row for layer, channel, rank, row in facts["rows"]}
            errors |= {clip: f"Not sonified: {why}" for clip, why in facts["errors"].items()}
        for row in rows:
            row |= told.get((row["layer"], row["channel"], row["rank"]), {})
        return rows

    def _write_heard(self, number: int, heard: Heard) -> None:
        for name, content in heard.files.items():
            path = self.out / name
            with full_disk(path):
                path.parent.mkdir(parents=True, exist_ok=True)
            _write(path, content)
        # Last: where this file is, the sounds are.
        _write(self._heard(number), heard.to_json(self.plan.sounds_sha256))

    def _read_heard(self, number: int) -> dict[str, Any] | None:
        """What was heard in a unit; None: nothing yet, or a sound is gone."""
        try:
            facts: dict[str, Any] = json.loads(self._heard(number).read_text(encoding="utf-8"))
            named = [item for row in facts["rows"] for item in row[-1].items()]
            paths = [path for name, path in named if name.endswith("path")]
            whole = facts["plan"] == self.plan.sounds_sha256
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return facts if whole and all(map(self._is_there, paths)) else None

    def _is_there(self, path: str) -> bool:
        # A file without a byte is what a machine leaves that lost its power, or a full disk.
        with contextlib.suppress(OSError):
            return (self.out / path).stat().st_size > 0
        return False

    def _heard(self, number: int) -> Path:
        return self.out / findings.HEARD / f"{number:06d}.json"


def _write(path: Path, content: bytes) -> None:
    try:
        write_whole(path, content)
    except FileError as error:
        raise FileError(
            f"{error} What is finished is kept, and the same command goes on from there."
        ) from error


def _rows(rankings: dict[str, Ranking], layers: Sequence[str]) -> list[dict[str, Any]]:
    """One row a place, by layer, channel and rank; not heard yet."""
    rows = []
    for layer in layers:
        columns = [column.tolist() for column in rankings[layer].columns()]
        for channel, places in enumerate(zip(*columns, strict=True)):
            for rank, place in enumerate(zip(*places, strict=True)):
                value, clip, position, start, end = place
                if value == NOWHERE:
                    continue
                rows.append(
                    {
                        **dict.fromkeys(findings.WINNERS),
                        "clip": clip,
                        "layer": layer,
                        "channel": channel,
                        "rank": rank,
                        "value": value,
                        "position": position,
                        "first_sample": start,
                        "last_sample": end - 1,
                    }
                )
    return rows
