"""The report of a mined data set: one folder with a page, its sounds and their pictures.

The page's facts stand in it as JSON; a script draws the overview and each channel's page from them.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup

from deconv1d.audio import Samples, read_audio, write_audio, write_whole
from deconv1d.errors import FileError
from deconv1d.progress import bar
from deconv1d.report import PAGE, whole_folder
from deconv1d.report.mined_folder import (
    SOUNDS,
    MinedFolder,
    MinedLayer,
    Winner,
    read_mined_folder,
)
from deconv1d.report.sounds import levels_of, picture_png, playable, power_peak, rms
from deconv1d.templates import rendered

if TYPE_CHECKING:
    from deconv1d.evaluation.tuning import Tuning

FILES = (PAGE, "input-[0-9]*.wav", "input-[0-9]*.png", "top-[0-9]*.wav", "top-[0-9]*.png")
"""Patterns of the names in a report's folder."""
SHORTEST_LOOP = 0.25  # seconds; a shorter loop is a buzz of its own
TRUSTED = ("trust", "identified", "response")
"""Scores from 0 to 1 that say how far to trust a sonification; the first that is there counts."""
DETAILS = (
    "Each small square is one channel. A channel’s page has the recordings that it responds to "
    "most. Play one, and switch with the keys 1 to 5, at the same position, between the recording "
    "and what the channel’s map makes of it (the sonification). “Loop the strongest moment” "
    "repeats what the map’s largest value reads.",
    "A sonification that resembles its recording need not say much about the channel: what passes "
    "through every channel of the layer resembles it too. The blind test asks whether you can tell "
    "this channel’s sounds from those of its neighbours; the random seed, where there is one, is "
    "what the network makes of a map without meaning.",
    "All sounds of one player are played equally loud; a button brings back the levels of the "
    "paper, where each has its recording’s peak. Pictures show frequency (mel) upwards over the "
    "waveform, in decibels re the loudest point of the recording.",
)

Facts = dict[str, Any]


def write_report(
    mined: str | Path,
    other: str | Path | None = None,
    *,
    folder: str | Path,
    tuning: Mapping[str, Tuning] | None = None,
    other_tuning: Mapping[str, Tuning] | None = None,
    most: int | None = None,
    progress: bool = False,
) -> Path:
    """Writes a folder with a page to listen on; it opens from disk.

    Args:
        mined: A folder that `deconv1d mine` wrote. Of its winners the page shows the sounds that
            are there; it computes none.
        other: Another such folder, of another model, to show beside it.
        folder: Where; an older report there is replaced.
        tuning: Tuning curves by layer, as `Sonifier.tuning` gives them, for the channels' pages.
        other_tuning: The same of the other model.
        most: Show so many channels of each layer, those that respond most; None: all.
        progress: Whether to show a bar.

    Returns:
        The page.

    Raises:
        FileError: If a folder cannot be read or written.
        DependencyError: If pyarrow is not installed.
    """
    given = [(mined, tuning), *([] if other is None else [(other, other_tuning)])]
    read = [(read_mined_folder(source, most=most), curves or {}) for source, curves in given]
    sources = _named_apart([source for source, _ in read], [Path(source) for source, _ in given])
    with whole_folder(folder, names=FILES) as part:
        models = [
            _model(_Writer(part, f"model-{number}"), source, curves, progress=progress)
            for number, (source, (_, curves)) in enumerate(zip(sources, read, strict=True))
        ]
        page = _page(sources, models)
        write_whole(part / PAGE, page.encode())
    return Path(folder) / PAGE


def _named_apart(sources: Sequence[MinedFolder], folders: Sequence[Path]) -> list[MinedFolder]:
    """The same, but two of one name have their folders' names too: favourites go by the name."""
    if len({source.name for source in sources}) == len(sources):
        return list(sources)
    names = [folder.resolve().name for folder in folders]
    if len(set(names)) < len(names):
        names = [f"{name} {number + 1}" for number, name in enumerate(names)]
    return [
        replace(source, name=f"{source.name}, {name}")
        for source, name in zip(sources, names, strict=True)
    ]


def json_for_script(facts: Any) -> Markup:
    """Writes JSON that may stand in a script element: no character of it can end that element.

    Args:
        facts: What `json.dumps` takes; numbers that are not finite become null.
    """
    text = json.dumps(_finite(facts), separators=(",", ":"), allow_nan=False)
    # ASCII alone, so that no text is an end of a line in JavaScript; these three are HTML's.
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)  # escaped above


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value


def _page(sources: Sequence[MinedFolder], models: Sequence[Facts]) -> str:
    channels = sum(len(layer["cells"]) for layer in models[0]["layers"])
    every = sum(layer.channels for layer in sources[0].layers)
    some = "" if channels == every else f" of {every}"
    about = (
        f"This page lets you hear {channels}{some} channels in {len(models[0]['layers'])} layers "
        f"of {sources[0].name}: for each the recordings that it responds to most, "
        f"{_out_of(sources[0])}, and what of them reaches it."
    )
    if len(models) > 1:
        about += f" Beside it stands {sources[1].name}, on its own winners."
    key = "-".join(source.key for source in sources)
    return rendered(
        "report.html",
        title=_title([source.name for source in sources]),
        paragraphs=[about],
        details=DETAILS,
        data=json_for_script({"key": key, "models": models}),
    )


def _title(names: Sequence[str]) -> str:
    return f"What {' and '.join(names)} respond{'s' if len(names) == 1 else ''} to"


def _out_of(source: MinedFolder) -> str:
    return "out of a data set" if source.clips is None else f"out of {source.clips} clips"


def _model(
    writer: _Writer, source: MinedFolder, tuning: Mapping[str, Tuning], *, progress: bool
) -> Facts:
    cells = sum(len(layer.winners) for layer in source.layers)
    with bar(total=cells, desc=source.name, unit="channels", shown=progress) as steps:
        return {
            "name": source.name,
            "layers": [
                _layer(writer, source, layer, number, tuning.get(layer.name), steps)
                for number, layer in enumerate(source.layers)
            ],
        }


def _layer(
    writer: _Writer,
    source: MinedFolder,
    layer: MinedLayer,
    number: int,
    tuning: Tuning | None,
    steps: Any,
) -> Facts:
    cells = []
    for channel, winners in sorted(layer.winners.items()):
        tops = [
            _top(writer, winner, source.sample_rate, f"{number}-{channel}-{rank}")
            for rank, winner in enumerate(winners)
        ]
        cells.append(_cell(channel, winners, tops))
        steps.update()
    return {
        "name": layer.name,
        "channels": layer.channels,
        "hop": _duration(layer.facts.get("hop"), source.sample_rate),
        "field": _duration(layer.facts.get("receptive_field"), source.sample_rate),
        "cells": cells,
        "tuning": None if tuning is None else tuning_facts(tuning),
    }


def _cell(channel: int, winners: Sequence[Winner], tops: Sequence[Facts]) -> Facts:
    scores = [score for winner in winners if (score := _trust(winner)) is not None]
    classes = Counter(winner.klass for winner in winners if winner.klass is not None)
    return {
        "channel": channel,
        "value": winners[0].value,
        "trust": sum(scores) / len(scores) if scores else None,
        "purity": max(classes.values()) / len(winners) if classes else None,
        "sentence": _sentence(winners, classes),
        "top": list(tops),
    }


def _trust(winner: Winner) -> float | None:
    named = (f for t in TRUSTED for name, f in winner.facts.items() if name.startswith(t))
    score = next(named, None)
    return None if score is None else min(1.0, max(0.0, score))


def _sentence(winners: Sequence[Winner], classes: Counter[str]) -> str:
    """What the winners say of their channel, in plain words."""
    below = f"{len(winners)} below" if len(winners) > 1 else "one below"
    parts = [f"Of all recordings it responds most to the {below}."]
    if len(winners) == 1:
        parts += [f"Its class: {klass}." for klass in classes]
    elif classes:
        named = ", ".join(f"{klass} ({count})" for klass, count in classes.most_common(3))
        parts.append(f"Their classes: {named}.")
    if not any(winner.value > 0 for winner in winners):
        parts.append("It is not active on any of them: the channel is dead on this data set.")
    return " ".join(parts)


def _duration(samples: Any, rate: int | None) -> str | None:
    if samples is None or rate is None:
        return None
    milliseconds = 1000 * float(samples) / rate
    return f"{milliseconds / 1000:.3g} s" if milliseconds >= 1000 else f"{milliseconds:.3g} ms"


# --- sounds of one winner ------------------------------------------------------------------------


@dataclass
class _Writer:
    """Writes sounds and pictures into a report; an input that several channels share once.

    Attributes:
        part: The report's folder while it is filled.
        folder: The model's folder in it.
    """

    part: Path
    folder: str

    def __post_init__(self) -> None:
        (self.part / self.folder).mkdir()
        self._inputs: dict[Path, str] = {}

    def write(self, name: str, heard: _Heard, winner: str, peak: float | None) -> str:
        """Writes one sound with its picture; returns their address without its ending."""
        if name == "input" and heard.file in self._inputs:
            return self._inputs[heard.file]
        short = f"input-{len(self._inputs)}" if name == "input" else f"top-{winner}-{name[:4]}"
        stem = f"{self.folder}/{short.replace(' ', '')}"
        samples, rate, _ = playable(heard.samples, heard.rate)
        target = self.part / f"{stem}.wav"
        # WAV, though mined sounds are FLAC: Chromium cannot seek in a short FLAC file, and gives up
        # on it ("demuxer seek failed"); the player seeks each time that it switches.
        loudest = max(1.0, float(np.abs(samples).max()))
        write_audio(target, samples / loudest, rate, subtype="PCM_16")
        write_whole(self.part / f"{stem}.png", picture_png(heard.samples, heard.rate, peak))
        if name == "input":
            self._inputs[heard.file] = stem
        return stem


@dataclass(frozen=True)
class _Heard:
    file: Path
    samples: Samples
    rate: int


def _top(writer: _Writer, winner: Winner, sample_rate: int | None, place: str) -> Facts:
    facts: Facts = {
        "clip": winner.clip,
        "class": winner.klass,
        "value": winner.value,
        "coherence": winner.facts.get("coherence"),
        "sentence": winner.sentence,
        "facts": {n.replace("_", " "): v for n, v in winner.facts.items() if n != "coherence"},
        "sounds": [],
        "problem": None,
    }
    heard, problem = _hear(winner)
    if not heard:
        return {**facts, "problem": problem}
    first = next(iter(heard.values()))
    peak = power_peak(first.samples, first.rate) or None
    levels = levels_of({name: sound.samples for name, sound in heard.items()})
    _, _, speed = playable(first.samples[:1], first.rate)
    scale = (sample_rate or first.rate) * speed
    return {
        **facts,
        "problem": problem,
        "seconds": len(first.samples) / (first.rate * speed),
        "speed": speed,
        **_moment(winner.window, scale),
        "sounds": [
            (name, round(levels[name], 4), writer.write(name, sound, place, peak),
             float(f"{rms(sound.samples):.4g}"))
            for name, sound in heard.items()
        ],
    }  # fmt: skip


def _hear(winner: Winner) -> tuple[dict[str, _Heard], str | None]:
    """The sounds of a winner that can be read, and what is wrong with the first that cannot."""
    heard, problem = {}, None
    for name, file in winner.sounds.items():
        try:
            samples, rate = read_audio(file)
        except FileError as error:
            problem = problem or f"The {name} cannot be played. {error}"
            continue
        heard[name] = _Heard(file, samples, rate)
    if {"input", "sonification"} <= set(heard) and "residual" not in heard:
        heard["residual"] = _residual(heard["input"], heard["sonification"])
    return {name: heard[name] for name in SOUNDS if name in heard}, problem


def _residual(x: _Heard, sonification: _Heard) -> _Heard:
    """What the sonification leaves of the input, as `Sonification.residual`."""
    samples = min(len(x.samples), len(sonification.samples))
    left = x.samples[:samples] - sonification.samples[:samples]
    return _Heard(sonification.file, left, x.rate)


def _moment(window: tuple[int, int] | None, rate: int) -> Facts:
    """Where the strongest moment begins and ends, in seconds; long enough to be looped."""
    if window is None:
        return {"start": None, "end": None}
    start, end = window[0] / rate, window[1] / rate
    spare = max(0.0, SHORTEST_LOOP - (end - start)) / 2
    return {"start": round(max(0.0, start - spare), 4), "end": round(end + spare, 4)}


# --- tuning curves -------------------------------------------------------------------------------


def tuning_facts(tuning: Tuning) -> Facts:
    """A layer's tuning curves for the page.

    Args:
        tuning: As from `Sonifier.tuning`.
    """
    above = tuning.activation - tuning.silence[:, None, None]
    channels = {}
    for place, (row, curves) in enumerate(zip(tuning.rows, above, strict=True)):
        exact = None
        if tuning.filter is not None:
            found = tuning.filter
            exact = np.interp(tuning.frequencies, found.frequencies, found.magnitude[place])
        channels[row.channel] = {
            "curves": [_short(curve) for curve in curves],
            "exact": None if exact is None else _short(exact),
            "sentence": str(row.sentence),
        }
    return {
        "stimuli": "pure tones" if tuning.stimuli == "tones" else "bands of noise",
        "hertz": _short(tuning.frequencies, 5),
        "levels": [float(level) for level in tuning.levels],
        "channels": channels,
    }


def _short(values: Any, digits: int = 3) -> list[float]:
    """Numbers with few digits: a page of thousands of channels stays small."""
    return [float(f"{value:.{digits}g}") for value in values]
