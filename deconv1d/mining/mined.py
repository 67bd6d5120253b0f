"""What was mined from a data set: the top clips of every map, merged and kept in Parquet."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from deconv1d.audio import write_whole
from deconv1d.errors import ChannelError, DependencyError, FileError, InputError, LayerError
from deconv1d.table import Table

KEY = b"deconv1d"
"""Where the facts stand in the Parquet file's metadata, as JSON."""

AS_BYTES = ("utf-8", "surrogatepass")
"""Any text of Python as bytes and back. A file name that is no UTF-8 holds surrogates as a string
(see `os.fsdecode`), which are no characters: a string column of Parquet cannot hold them."""

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Ranking:
    """The top clips of every channel of one layer: arrays of shape (channels, places), best first.

    The order is total: the larger value, then the clip id, then the earlier position.

    Attributes:
        value: What the channels answer to the clip.
        clip: Its id, as an object; or a number that stands for it and sorts as it does.
        position: Index in time of the map's strongest moment.
        start_sample: First sample of the clip that this moment reads.
        end_sample: The sample after the last that it reads.
    """

    value: Array
    clip: Array
    position: Array
    start_sample: Array
    end_sample: Array

    def merged(self, other: Ranking, k: int) -> Ranking:
        """The top k of both."""
        pairs = zip(self.columns(), other.columns(), strict=True)
        both = Ranking(*(np.concatenate(pair, axis=1) for pair in pairs))
        if self.value.shape[1] < k:
            return both.best(k)
        # Most channels of most later clips have nothing that reaches the top k: those stay.
        # Equals, too: of two equal values the smaller id is better.
        rows = np.flatnonzero(other.value.max(1) >= self.value[:, -1])
        return self.replaced(rows, both.taken(rows).best(k)) if len(rows) else self

    def best(self, k: int) -> Ranking:
        """The top k, best first."""
        value, clip, position, *_ = self.columns()
        if clip.dtype == object:  # numbers in the order of the ids
            clip = np.unique(clip, return_inverse=True)[1].reshape(clip.shape)
        # The last key of lexsort counts most: the value, then the clip id, then the position.
        order = np.lexsort((position, clip, -value), axis=1)[:, :k]
        return Ranking(*(np.take_along_axis(column, order, 1) for column in self.columns()))

    def replaced(self, rows: Array, others: Ranking) -> Ranking:
        """The ranking with those of some channels in place of its own."""
        # Copies: rankings are frozen, and the one before may be in use elsewhere.
        columns = [column.copy() for column in self.columns()]
        for column, other in zip(columns, others.columns(), strict=True):
            column[rows] = other
        return Ranking(*columns)

    def taken(self, rows: Array) -> Ranking:
        """The places of some channels."""
        return Ranking(*(column[rows] for column in self.columns()))

    def __repr__(self) -> str:
        channels, places = self.value.shape
        return f"Ranking({places} places of {channels} channels)"

    def columns(self) -> list[Array]:
        """The arrays, in the order of the attributes."""
        return [getattr(self, f.name) for f in fields(self)]


@dataclass(frozen=True)
class Settings:
    """What the rankings are of; only those of equal settings can be merged.

    Attributes:
        layers: Full names, in the order asked for.
        k: How many clips are kept for each channel.
        score: "peak" or "mean".
        tap: "block" or "output".
        weights: SHA-256 of the model's parameters, buffers and structure.
    """

    layers: tuple[str, ...]
    k: int
    score: str
    tap: str
    weights: str


@dataclass(frozen=True)
class MinedRow:
    """One clip among a channel's top k.

    Attributes:
        layer: Full name.
        channel: Its number.
        rank: 0 for the best.
        clip: Clip id.
        value: By which it was ranked.
        position: Index in time of the map's strongest moment.
        start_sample: First sample of the clip that this moment reads.
        end_sample: The sample after the last that it reads: `clip[start_sample:end_sample]`.
    """

    layer: str
    channel: int
    rank: int
    clip: str
    value: float
    position: int
    start_sample: int
    end_sample: int


@dataclass(frozen=True)
class Mined:
    """The top clips of every channel of some layers over a data set, or over a part of one.

    Attributes:
        settings: What the rankings are of.
        rankings: By layer.
        clips: Ids of the clips that were heard, sorted.
        skipped: By clip id, why it could not be used.
        contents: By clip id, SHA-256 of its waveform.
    """

    settings: Settings
    rankings: Mapping[str, Ranking]
    clips: tuple[str, ...]
    skipped: Mapping[str, str]
    contents: Mapping[str, str] = field(default_factory=dict)

    @property
    def clips_hash(self) -> str:
        """SHA-256 of the sorted ids of the clips that were heard."""
        return hashlib.sha256("\n".join(self.clips).encode(*AS_BYTES)).hexdigest()

    @property
    def rows(self) -> Table[MinedRow]:
        """Every row, by layer, channel and rank."""
        columns = self._columns()
        rows = zip(*columns.values(), strict=True)
        return Table([MinedRow(*row) for row in rows], title=str(self))

    def top(self, layer: str, channel: int) -> Table[MinedRow]:
        """The top clips of one channel, best first.

        Args:
            layer: Full name.
            channel: Its number.

        Raises:
            LayerError: If the layer was not mined.
            ChannelError: If it has no such channel.
        """
        if layer not in self.rankings:
            raise LayerError(
                f"Layer {layer!r} was not mined: expected one of "
                f"{', '.join(map(repr, self.rankings))}. Give one of these, or mine it."
            )
        columns = self.rankings[layer].columns()
        if not 0 <= channel < len(columns[0]):
            raise ChannelError(
                f"Channel {channel} is out of range in layer {layer!r}: expected 0 to "
                f"{len(columns[0]) - 1}. Give a number in this range."
            )
        places = zip(*(column[channel].tolist() for column in columns), strict=True)
        rows = [_row(layer, channel, rank, *place) for rank, place in enumerate(places)]
        return Table(rows, title=f"{layer}, channel {channel}")

    def merged(self, other: Mined) -> Mined:
        """What both were mined from, as if it had been mined at once.

        The order in which parts are merged does not matter.

        Raises:
            InputError: If the settings differ, or a clip is in both.
        """
        _check_parts(self, other)
        rankings = {
            layer: merge(self.rankings.get(layer), other.rankings.get(layer), self.settings.k)
            for layer in {**self.rankings, **other.rankings}
        }
        return Mined(
            self.settings,
            rankings,
            tuple(sorted(self.clips + other.clips)),
            dict(sorted({**self.skipped, **other.skipped}.items())),
            dict(sorted({**self.contents, **other.contents}.items())),
        )

    def save(self, path: str | Path) -> None:
        """Writes a Parquet file: one row a place, the facts as JSON in its metadata.

        Raises:
            FileError: If the file cannot be written.
            DependencyError: If pyarrow is not installed.
        """
        arrow, parquet = import_parquet()
        facts = {
            **{f.name: getattr(self.settings, f.name) for f in fields(self.settings)},
            "number_of_clips": len(self.clips),
            "clips_sha256": self.clips_hash,
            "clips": self.clips,
            "skipped": self.skipped,
            "contents": self.contents,
        }
        columns = self._columns()
        # Of the columns before they are encoded: `read` decodes them before it compares.
        facts["checksum"] = _checksum(columns, facts)
        table = arrow.table(_encoded(columns), schema=_schema(arrow, columns))
        # Not as escapes: two surrogates side by side would be read as one character.
        text = json.dumps(facts, ensure_ascii=False).encode(*AS_BYTES)
        table = table.replace_schema_metadata({KEY: text})
        # In memory first, so that `write_whole` can put all of the file in its place at once.
        content = arrow.BufferOutputStream()
        parquet.write_table(table, content)
        write_whole(path, content.getvalue().to_pybytes())

    @classmethod
    def read(cls, path: str | Path) -> Mined:
        """Reads what `save` wrote.

        Raises:
            FileError: If the file is missing, damaged or another's.
            DependencyError: If pyarrow is not installed.
        """
        arrow, parquet = import_parquet()
        try:
            table = parquet.read_table(readable(path))
            facts = json.loads(table.schema.metadata[KEY].decode(*AS_BYTES))
            columns = _decoded({f.name: table[f.name].to_pylist() for f in fields(MinedRow)})
            whole = facts.pop("checksum") == _checksum(columns, facts)
        except (OSError, arrow.ArrowException, KeyError, TypeError, ValueError) as error:
            raise FileError(
                f"{str(path)!r} cannot be read: expected a Parquet file of mined clips, got "
                f"{type(error).__name__}: {error}. Mine again, or give another path."
            ) from error
        if not whole:
            raise FileError(
                f"{str(path)!r} is damaged: expected the rows and facts that were written, got "
                f"others (the checksum differs). Mine again, or copy the file again."
            )
        settings = Settings(**{f.name: facts[f.name] for f in fields(Settings)})
        settings = replace(settings, layers=tuple(settings.layers))
        rankings = _rankings(columns, settings.layers)
        return cls(
            settings, rankings, tuple(facts["clips"]), facts["skipped"], facts.get("contents", {})
        )

    def _columns(self) -> dict[str, list[Any]]:
        """The columns of the table, as lists."""
        columns: dict[str, list[Any]] = {f.name: [] for f in fields(MinedRow)}
        for layer in (name for name in self.settings.layers if name in self.rankings):
            ranking = self.rankings[layer]
            channels, places = ranking.value.shape
            columns["layer"] += [layer] * channels * places
            columns["channel"] += np.repeat(np.arange(channels), places).tolist()
            columns["rank"] += np.tile(np.arange(places), channels).tolist()
            for f, column in zip(fields(ranking), ranking.columns(), strict=True):
                columns[f.name] += column.reshape(-1).tolist()
        return columns

    def __repr__(self) -> str:
        channels = sum(len(ranking.value) for ranking in self.rankings.values())
        return f"Mined({self}, {channels} channels of {len(self.rankings)} layers)"

    def __str__(self) -> str:
        s = self.settings
        skipped = f", {len(self.skipped)} skipped" if self.skipped else ""
        return f"top {s.k} of {len(self.clips)} clips by {s.score}{skipped}"


def merge(first: Ranking | None, second: Ranking | None, k: int) -> Ranking:
    """The top k of two rankings, either of which may be of nothing yet."""
    found = [ranking for ranking in (first, second) if ranking is not None]
    return reduce(lambda a, b: a.merged(b, k), found)


def import_parquet() -> tuple[Any, Any]:
    """The modules pyarrow and pyarrow.parquet.

    Raises:
        DependencyError: If they are not installed.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise DependencyError(
            f"Mined clips cannot be kept in a file: expected pyarrow, which reads and writes "
            f"Parquet, got {error}. Install it: pip install 'deconv1d[reference]'"
        ) from error
    return pyarrow, pyarrow.parquet


def readable(path: str | Path) -> Any:
    """What Arrow reads: a path, or the file where the path is no UTF-8, which Arrow cannot open."""
    return str(path) if _is_utf8(str(path)) else open(path, "rb")


def _row(layer: str, channel: int, rank: int, value: float, clip: str, *place: int) -> MinedRow:
    return MinedRow(layer, channel, rank, clip, value, *place)


def _schema(arrow: Any, columns: Mapping[str, list[Any]]) -> Any:
    types = {"str": arrow.string(), "int": arrow.int64(), "float": arrow.float64()}
    kinds = {f.name: types[str(f.type)] for f in fields(MinedRow)}
    kinds |= dict.fromkeys(_no_text(columns), arrow.binary())
    return arrow.schema(list(kinds.items()))


def _encoded(columns: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """The columns as Parquet holds them: those with names that are no UTF-8 as bytes."""
    return columns | {n: [s.encode(*AS_BYTES) for s in columns[n]] for n in _no_text(columns)}


def _no_text(columns: Mapping[str, list[Any]]) -> list[str]:
    """The columns that a string column of Parquet cannot hold."""
    return [name for name in ("layer", "clip") if not all(map(_is_utf8, columns[name]))]


def _decoded(columns: dict[str, list[Any]]) -> dict[str, list[Any]]:
    return {
        name: [v.decode(*AS_BYTES) if isinstance(v, bytes) else v for v in values]
        for name, values in columns.items()
    }


def _is_utf8(text: str) -> bool:
    return not any(0xD800 <= ord(letter) < 0xE000 for letter in text)


def _checksum(columns: Mapping[str, list[Any]], facts: Mapping[str, Any]) -> str:
    """SHA-256 of rows and facts: Parquet has checksums of its pages, but nobody has to look."""
    content = json.dumps([columns, facts], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()


def _rankings(columns: Mapping[str, list[Any]], layers: Iterable[str]) -> dict[str, Ranking]:
    """Rows in `save`'s order -> arrays of shape (channels, places)."""
    layer, rank = np.array(columns["layer"], dtype=object), np.array(columns["rank"], dtype=int)
    rankings = {}
    for name in layers:
        rows = np.flatnonzero(layer == name)
        if len(rows):
            # `_columns` lets the rank run fastest: as many rows a channel as there are ranks.
            shape = (-1, int(rank[rows].max()) + 1)
            kinds = ((f.name, object if f.name == "clip" else None) for f in fields(Ranking))
            arrays = (np.array(columns[field], kind)[rows].reshape(shape) for field, kind in kinds)
            rankings[name] = Ranking(*arrays)
    return rankings


def _check_parts(first: Mined, second: Mined) -> None:
    for setting in fields(Settings):
        ours, theirs = (getattr(part.settings, setting.name) for part in (first, second))
        if ours != theirs:
            raise InputError(
                f"These mined clips cannot be merged: expected equal settings, got {setting.name} "
                f"{ours!r} and {theirs!r}. Mine both parts with the same model and settings."
            )
    # A clip in both would take two places of a ranking; skipped by one, the parts disagree on it.
    both = {*first.clips, *first.skipped} & {*second.clips, *second.skipped}
    if both:
        raise InputError(
            f"These mined clips cannot be merged: expected parts without a clip in common, got "
            f"{len(both)} such as {min(both)!r}. Give each part clips of its own."
        )
