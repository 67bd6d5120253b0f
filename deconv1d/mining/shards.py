"""A shard of clips -> the top clips of every channel among them, as a pure function."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from deconv1d.errors import Deconv1dError, ModelError
from deconv1d.forward import TooShort
from deconv1d.mining.batches import BatchedMaps
from deconv1d.mining.decoding import Group, Reader, Samples, decoded
from deconv1d.mining.long import WHOLE_SECONDS, LongClip, LongMaps, Peaks, open_clip
from deconv1d.mining.mined import KEY, Ranking, import_parquet, merge, readable
from deconv1d.mining.plan import Plan, at_once, group_clips
from deconv1d.mining.ranking import Scores, by_layer, ranked
from deconv1d.mining.sources import Clip
from deconv1d.sonify import Sonifier

Batch = list[tuple[Clip, Samples]]


@dataclass
class Shard:
    """What a shard gave.

    Attributes:
        rankings: By layer; ids as clips.
        clips: How many could be used.
        errors: By clip, why it could not be used.
    """

    rankings: dict[str, Ranking] = field(default_factory=dict)
    clips: int = 0
    errors: dict[str, str] = field(default_factory=dict)


class Miner:
    """Mines shards; made once in each worker.

    Args:
        sonifier: Of the plan's model.
        plan: What is asked for.
        read: Gives the waveform of a clip at a rate.
    """

    def __init__(self, sonifier: Sonifier, plan: Plan, read: Reader = open_clip) -> None:
        self.plan, self._read = plan, read
        self._channels: dict[str, int] = {}
        look = partial(Scores.of, score=plan.score)
        self._maps = BatchedMaps(sonifier.forward_pass, plan.layers, plan.tap, look)
        self._long = LongMaps(sonifier.forward_pass, plan.layers, plan.tap, plan.sample_rate)

    def __call__(self, task: tuple[int, Sequence[Clip]]) -> bytes:
        """The Parquet file of a shard.

        Args:
            task: Its number and its clips.
        """
        number, clips = task
        return encoded(self.mined(clips), self.plan, number)

    def mined(self, clips: Sequence[Clip]) -> Shard:
        """The top clips of every channel among some clips, in groups as the plan says."""
        shard = Shard()
        # Numbers in the order of the ids stand for them until the end: they sort faster.
        names = sorted(clip.clip for clip in clips)
        numbers = {name: number for number, name in enumerate(names)}
        best: Ranking | None = None
        size = group_clips(self.plan.batch)
        for group in decoded(clips, self.plan.sample_rate, size, self._read):
            for clip, waveform in group:
                if isinstance(waveform, LongClip):
                    best = self._with_long(best, clip, waveform, numbers, shard)
            # Of one length, since nothing is padded: see `deconv1d.mining.batches`.
            for same in self._by_length(group, shard):
                best = self._ranked(best, same, numbers, shard)
        if best is not None:
            ids = np.array(names, dtype=object)[best.clip]
            best = Ranking(best.value, ids, *best.columns()[2:])
            shard.rankings = by_layer(best, self._channels)
        return shard

    def _by_length(self, group: Group, shard: Shard) -> Iterable[Batch]:
        """The clips of a group that can be used, those of one length together."""
        lengths: dict[int, Batch] = {}
        for clip, waveform in group:
            if isinstance(waveform, Exception):
                shard.errors[clip.clip] = str(waveform)
            elif not isinstance(waveform, LongClip):
                lengths.setdefault(len(waveform), []).append((clip, waveform))
        return lengths.values()

    def _ranked(
        self, best: Ranking | None, same: Batch, numbers: Mapping[str, int], shard: Shard
    ) -> Ranking | None:
        """The ranking with clips of one length; those on which the model fails are left out."""
        size = at_once(self.plan.batch, len(same[0][1]))
        batches = (same[start : start + size] for start in range(0, len(same), size))
        scored = [each for batch in batches for each in self._scored(batch, shard)]
        if not scored:
            return best
        # Ranked together: to rank a batch takes nearly as long as to rank a few.
        ids = np.array([numbers[clip.clip] for batch, _ in scored for clip, _ in batch])
        scores = Scores.of_batches([scores for _, scores in scored])
        shard.clips += len(ids)
        return ranked(best, scores, ids, self.plan.top)

    def _scored(self, batch: Batch, shard: Shard) -> Iterator[tuple[Batch, Scores]]:
        """What the channels answer to a batch; if it fails, to each clip of it that does not."""
        try:
            found = self._maps([waveform for _, waveform in batch])
        except (torch.OutOfMemoryError, MemoryError) as error:
            raise ModelError(
                f"Memory ran out on {len(batch)} clips of {len(batch[0][1])} samples: expected a "
                f"batch that fits. Give a smaller --batch in another -o folder. {error}"
            ) from error
        except (Deconv1dError, RuntimeError, ValueError, IndexError) as error:
            # All of a batch have one length: if one is too short, each is.
            if isinstance(error, TooShort):
                shard.errors.update({clip.clip: str(error) for clip, _ in batch})
            elif len(batch) > 1:  # one clip may have spoilt it for the others
                for one in batch:
                    yield from self._scored([one], shard)
            else:
                shard.errors[batch[0][0].clip] = _why(error)
            return
        channels = [len(scores.values) for scores in found]
        self._channels = dict(zip(self.plan.layers, channels, strict=True))
        yield batch, Scores.of_layers(found)

    def _with_long(
        self,
        best: Ranking | None,
        clip: Clip,
        waveform: LongClip,
        numbers: Mapping[str, int],
        shard: Shard,
    ) -> Ranking | None:
        """The ranking with a long clip, in tiles or, if its layers have none, as a whole."""
        number = numbers[clip.clip]
        try:
            if not self._long.tiled(waveform):
                return self._ranked(best, [(clip, waveform.whole())], numbers, shard)
            peaks = self._long.peaks(waveform, self.plan.score)
            left_out = self._long.of_all_time(waveform)
        except (Deconv1dError, RuntimeError, ValueError, IndexError) as error:
            shard.errors[clip.clip] = _why(error)
            return best
        if left_out:
            shard.errors[clip.clip] = (
                f"Mined but for {', '.join(left_out)}: expected layers that read a stretch of "
                f"time in a clip of {waveform.seconds:.0f} s, got some that read all of it. Cut "
                f"it into clips of {WHOLE_SECONDS:.0f} s, or leave those layers out."
            )
        self._channels = dict(
            zip(self.plan.layers, (len(each.value) for each in peaks), strict=True)
        )
        shard.clips += 1
        return merge(best, _alone(peaks, number), self.plan.top)


def _alone(peaks: Sequence[Peaks], number: int) -> Ranking:
    """The ranking of one long clip, for the channels of all layers."""
    columns = (vars(each).values() for each in peaks)
    value, *places = (np.concatenate(column)[:, None] for column in zip(*columns, strict=True))
    return Ranking(value, np.full(value.shape, number), *places)


def _why(error: Exception) -> str:
    known = isinstance(error, Deconv1dError)
    return str(error) if known else f"{type(error).__name__}: {error}"


# --- the file of a shard -------------------------------------------------------------------------

COLUMNS = ("value", "clip", "position", "start_sample", "end_sample")


def encoded(shard: Shard, plan: Plan, number: int) -> bytes:
    """A Parquet file: one row a place, by layer, channel and rank."""
    arrow, parquet = import_parquet()
    layers = list(shard.rankings.items())
    columns: dict[str, Any] = {
        name: np.concatenate([getattr(r, name).reshape(-1) for _, r in layers] or [[]])
        for name in COLUMNS
    }
    columns["clip"] = arrow.array(columns["clip"], arrow.string())
    table = arrow.table(columns)
    facts = {
        "plan": plan.sha256,
        "shard": number,
        "layers": [[name, *ranking.value.shape] for name, ranking in layers],
        "clips": shard.clips,
        "errors": shard.errors,
    }
    facts["checksum"] = _checksum(table, facts)
    content = arrow.BufferOutputStream()
    parquet.write_table(table.replace_schema_metadata({KEY: json.dumps(facts)}), content)
    return bytes(content.getvalue().to_pybytes())


def read_shard(path: Path, plan: Plan, number: int) -> Shard | None:
    """What `encoded` wrote; None if the file is missing, damaged or another plan's."""
    arrow, parquet = import_parquet()
    try:
        table = parquet.read_table(readable(path))
        facts = json.loads(table.schema.metadata[KEY])
        checksum = facts.pop("checksum")  # it is of all other facts
        if checksum != _checksum(table.replace_schema_metadata(), facts):
            return None
        if (facts["plan"], facts["shard"]) != (plan.sha256, number):
            return None
    except (OSError, arrow.ArrowException, KeyError, TypeError, ValueError):
        return None
    columns = [table[name].to_numpy() for name in COLUMNS]
    shard, first = Shard(clips=facts["clips"], errors=facts["errors"]), 0
    for layer, channels, places in facts["layers"]:
        last = first + channels * places
        shard.rankings[layer] = Ranking(*(c[first:last].reshape(channels, places) for c in columns))
        first = last
    return shard


def _checksum(table: Any, facts: dict[str, Any]) -> str:
    # Parquet checks its pages only if it was told to, both when it wrote and when it reads.
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    for name in COLUMNS:
        values = table[name].to_numpy()
        digest.update("\n".join(values).encode() if name == "clip" else values.tobytes())
    return digest.hexdigest()
