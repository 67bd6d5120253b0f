"""Reads what `deconv1d mine` wrote: the winners of every channel, and where their sounds are."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from deconv1d.errors import FileError, InputError
from deconv1d.masks.options import MASK
from deconv1d.mining.findings import LAYERS, WINNERS_FILE
from deconv1d.mining.mined import import_parquet, readable
from deconv1d.table import printable

NEEDED = ("clip", "layer", "channel", "rank", "value")
"""Columns without which winners cannot be shown; what else there is, is shown as well."""
SOUNDS = {
    "input": "input_path",
    "sonification": "path",
    "mask": "mask_path",
    "residual": "residual_path",
    "random seed": "control_path",
}
"""What a winner may have to listen to, in the order of the player's keys, and its column. Without a
residual the page has what the sonification leaves of the input."""
SENTENCES = ("verdict", "sentence")
CLASSES = ("class", "label")
PLACES = (
    "sounds_from",
    "channel",
    "rank",
    "value",
    "position",
    "first_sample",
    "last_sample",
    *SOUNDS.values(),
    *SENTENCES,
    *CLASSES,
)
"""Columns that the page shows in another way than as a number beside its name."""


@dataclass(frozen=True)
class Winner:
    """One of the inputs that a channel responds to most.

    Attributes:
        clip: Its id.
        klass: Its class, if there is one.
        value: The channel's response.
        window: First and last sample of its strongest moment in its sounds, or None.
        sounds: By name, files inside the mined folder.
        sentence: What the control card says of its sonification, if it was made.
        facts: Further numbers: coherence, scores of trust, gain.
    """

    clip: str
    klass: str | None
    value: float
    window: tuple[int, int] | None
    sounds: Mapping[str, Path]
    sentence: str | None
    facts: Mapping[str, float]


@dataclass(frozen=True)
class MinedLayer:
    """One layer of a mined folder.

    Attributes:
        name: Its full name.
        channels: How many it has.
        facts: What else is known of it, such as hop and receptive field, in samples.
        winners: By channel, the best first.
    """

    name: str
    channels: int
    facts: Mapping[str, Any]
    winners: Mapping[int, Sequence[Winner]]


@dataclass(frozen=True)
class MinedFolder:
    """What was mined from one data set with one model.

    Attributes:
        name: Of the model, or of the folder.
        sample_rate: In hertz, if it is known.
        key: Names these results: the same for the same winners.
        layers: In the network's order.
        clips: How many clips were heard, if it is known.
        method: How the sonifications were made: "deconvnet", "mask", ...
    """

    name: str
    sample_rate: int | None
    key: str
    layers: Sequence[MinedLayer]
    clips: int | None
    method: str = "deconvnet"


def read_mined_folder(folder: str | Path, *, most: int | None = None) -> MinedFolder:
    """Reads a folder that `deconv1d mine` wrote.

    Args:
        folder: Its name.
        most: Keep so many channels of each layer, those that respond most; None: all.

    Raises:
        InputError: If `most` is no number above 0.
        FileError: If a table is missing, damaged or lacks a column, or names a file outside.
        DependencyError: If pyarrow is not installed.
    """
    if most is not None and most < 1:
        raise InputError(
            f"most={most} cannot be used: expected how many channels of each layer to show, above "
            f"0. Leave it out for all."
        )
    folder = Path(folder)
    about, winners = _about(folder), _winners(folder)
    method = str(about.get("method", "deconvnet"))
    by_layer: dict[str, dict[int, list[Winner]]] = defaultdict(lambda: defaultdict(list))
    for row in sorted(winners, key=lambda row: int(row["rank"])):
        by_layer[str(row["layer"])][int(row["channel"])].append(_winner(row, folder, method))
    rate, clips = about.get("sample_rate"), about.get("clips")
    return MinedFolder(
        name=str(about.get("model") or folder.resolve().name),
        sample_rate=None if rate is None else int(rate),
        key=hashlib.sha256((folder / WINNERS_FILE).read_bytes()).hexdigest()[:16],
        layers=[
            MinedLayer(
                str(row["layer"]), int(row["channels"]), row, _strongest(by_layer[name], most)
            )
            for row in about["layers"]
            if (name := printable(str(row["layer"]))) in by_layer
        ],
        clips=clips if isinstance(clips, int) else None,
        method=method,
    )


def _strongest(winners: dict[int, list[Winner]], most: int | None) -> dict[int, list[Winner]]:
    """The channels whose best value is the largest."""
    order = sorted(winners, key=lambda channel: (-winners[channel][0].value, channel))
    return {channel: winners[channel] for channel in order[:most]}


def _about(folder: Path) -> dict[str, Any]:
    """What is said of the model and its layers."""
    path = _there(folder, LAYERS)
    try:
        about: dict[str, Any] = json.loads(path.read_text("utf-8"))
        complete = all({"layer", "channels"} <= set(row) for row in about["layers"])
    except (OSError, ValueError, TypeError, LookupError) as error:
        raise _damaged(path, "JSON with the model's layers", error) from error
    if not complete:
        raise _damaged(path, "'layer' and 'channels' of each layer", KeyError())
    return about


def _winners(folder: Path) -> list[dict[str, Any]]:
    """The rows of the table of winners, whose columns are as they must be."""
    (_, parquet), path = import_parquet(), _there(folder, WINNERS_FILE)
    try:
        rows: list[dict[str, Any]] = parquet.read_table(readable(path)).to_pylist()
    except Exception as error:  # pyarrow has many errors for a damaged file
        raise _damaged(path, "a table in Parquet", error) from error
    missing = [column for column in NEEDED if rows and column not in rows[0]]
    if missing or not rows:
        got = f"none of {', '.join(map(repr, missing))}" if rows else "no rows"
        raise FileError(
            f"{str(path)!r} cannot be shown: expected the columns {', '.join(map(repr, NEEDED))}, "
            f"got {got}. Mine again, with at least one clip that can be read."
        )
    return rows


def _there(folder: Path, name: str) -> Path:
    path = folder / name
    if not path.is_file():
        raise FileError(
            f"{str(folder)!r} holds nothing to show: expected {name!r} in it, as `deconv1d mine` "
            f"writes it at its end, got {'no such file' if folder.is_dir() else 'no such folder'}. "
            f"Give the folder that was mined into; if mining was stopped, run it again: it goes on."
        )
    return path


def _damaged(path: Path, expected: str, error: Exception) -> FileError:
    return FileError(
        f"{str(path)!r} cannot be read: expected {expected}, got {type(error).__name__}. Mine "
        f"again; what is finished is not done twice."
    )


def _winner(row: Mapping[str, Any], folder: Path, method: str) -> Winner:
    clip = _text(row["clip"])
    ends, begin = (row.get("first_sample"), row.get("last_sample")), row.get("sounds_from") or 0
    sounds = {name: row.get(column) for name, column in SOUNDS.items()}
    if method == MASK:  # what the winners were made of is a mask
        sounds["mask"], sounds["sonification"] = sounds["sonification"], None
    return Winner(
        clip=clip,
        klass=next((_text(row[name]) for name in CLASSES if row.get(name)), _class_of(clip)),
        value=float(row["value"]),
        window=None if None in ends else (int(ends[0] or 0) - begin, int(ends[1] or 0) - begin),
        sounds={name: _inside(folder, path) for name, path in sounds.items() if path},
        sentence=next((_text(row[name]) for name in SENTENCES if row.get(name)), None),
        facts={
            name: float(value)
            for name, value in row.items()
            if isinstance(value, int | float) and name not in PLACES
        },
    )


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _class_of(clip: str) -> str | None:
    """The folder that a clip is in: data sets of sounds have one for each class."""
    return PurePosixPath(clip).parent.name or None


def _inside(folder: Path, path: Any) -> Path:
    """A file of the folder; its name comes from a table, which must not lead anywhere else."""
    file = folder / str(path)
    if not file.resolve().is_relative_to(folder.resolve()):
        raise FileError(
            f"{str(folder / WINNERS_FILE)!r} names a sound outside its folder: expected a path "
            f"inside, got {str(path)!r}. Give a folder that `deconv1d mine` wrote."
        )
    return file
