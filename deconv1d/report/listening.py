"""A folder with a page to listen on: recordings, a network's layers, and each layer's sounds."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from torch import Tensor

from deconv1d.audio import Samples, write_whole
from deconv1d.channels import means
from deconv1d.layers.table import LayerRow
from deconv1d.progress import bar
from deconv1d.report import PAGE, LayerEntry, Recording, render_page, whole_folder
from deconv1d.report.sounds import (
    PlayerSound,
    levels_of,
    mean_of,
    picture_png,
    power_peak,
    speed_of,
    wav_of,
)
from deconv1d.sonification import needed_rate
from deconv1d.sounding import to_peak_of

if TYPE_CHECKING:
    from deconv1d.sonify import Sonifier

LAYERS = 12
"""So many of a network's layers are shown unless others are asked for."""
LEVEL = 0.5
"""Peak of the input as the page plays it; the residual's is at most twice that."""
SOUNDS = ("input", "sonification", "masked", "residual")
FILES = (PAGE, *(f"{sound}{ending}" for sound in SOUNDS for ending in (".wav", ".png")))


@dataclass(frozen=True)
class Subject:
    """A recording that a network hears, and what the page says of both.

    Attributes:
        title: Plain text, unique in the page.
        about: One line of plain text.
        folder: Name of the folder of its sounds, unique in the page.
        sonifier: Of the network, with its sample rate.
        waveform: (time,), or (1, channels, time), of which the page plays the mean.
    """

    title: str
    about: str
    folder: str
    sonifier: Sonifier
    waveform: Tensor


@dataclass(frozen=True)
class Shown:
    """What of each network a page shows.

    Attributes:
        layers: By name; None: up to 12 convolutions (or other layers, if there are none).
        channel: A number, or "most_active".
        masks: Whether the recording is heard through masks as well, which takes most of the time.
        progress: Whether to say how far it is.
    """

    layers: Sequence[str] | None = None
    channel: int | str = "most_active"
    masks: bool = True
    progress: bool = True


def write_listening_page(
    folder: str | Path,
    title: str,
    paragraphs: Sequence[str],
    subjects: Sequence[Subject],
    shown: Shown,
) -> Path:
    """Writes a page, its sounds and pictures; an older page there is replaced.

    Args:
        folder: Where.
        title: Plain text.
        paragraphs: As for `render_page`.
        subjects: In the page's order.
        shown: What is shown of them.

    Returns:
        The page.

    Raises:
        FileError: If the folder cannot be written or holds something else.
        Deconv1dError: As `Sonifier.sonify`.
    """
    # Everything is written into `part`, which takes the folder's name when the page is complete.
    with whole_folder(folder, names=FILES) as part:
        writers = [_Writer.of(subject, shown, part / subject.folder) for subject in subjects]
        # Masks of a layer take about as long as all the rest that is made for it.
        total = sum((1 + shown.masks) * len(writer.names) for writer in writers)
        with bar(total=total, desc="page", unit="steps", shown=shown.progress) as steps:
            recordings = [writer.recording(steps) for writer in writers]
        page = render_page(title, paragraphs, recordings)
        write_whole(part / PAGE, page.encode("utf-8", "replace"))
    return Path(folder) / PAGE


@dataclass(frozen=True)
class _Writer:
    """Writes one recording's sounds and pictures into its folder."""

    subject: Subject
    shown: Shown
    folder: Path
    names: Sequence[str]
    rows: Mapping[str, LayerRow]

    @classmethod
    def of(cls, subject: Subject, shown: Shown, folder: Path) -> _Writer:
        """Chooses the layers."""
        table = list(subject.sonifier.layers(subject.waveform))
        names = _spread(table) if shown.layers is None else list(shown.layers)
        return cls(subject, shown, folder, names, {row.name: row for row in table})

    @property
    def rate(self) -> int:
        return needed_rate(self.subject.sonifier.sample_rate, "a page")

    def recording(self, steps: Any) -> Recording:
        """What the page shows of the recording; counts its steps."""
        self.folder.mkdir()
        masked = self._masked()
        steps.update(len(self.names) * self.shown.masks)
        entries: list[LayerEntry] = []
        for name, mask in zip(self.names, masked, strict=True):
            entries.append(self._layer(name, mask, f"layer-{len(entries) + 1}"))
            steps.update()
        return Recording(self.subject.title, self.subject.about, entries)

    def _masked(self) -> Sequence[Tensor | None]:
        """The recording through each layer's mask, at the recording's own peak."""
        if not self.shown.masks:
            return [None] * len(self.names)
        waveform = self.subject.waveform
        found = self.subject.sonifier.listen(
            waveform, layers=self.names, channel=self.shown.channel, progress=self.shown.progress
        )
        return [to_peak_of(waveform, own.waveform)[0] for own in found]

    def _layer(self, name: str, masked: Tensor | None, number: str) -> LayerEntry:
        """Writes a layer's sounds and pictures into its own folder in the recording's."""
        waveform = self.subject.waveform
        sonification = self.subject.sonifier.sonify(
            waveform, layer=name, channel=self.shown.channel
        )
        channel = sonification.channel
        assert isinstance(channel, int)
        tracks = {"input": waveform, "sonification": sonification.waveform}
        facts = self._facts(self.rows.get(sonification.layer), channel)
        if sonification.flagged:
            facts["ops with a gradient alone"] = f"{sonification.flagged:.0%}"
        facts["place on its sonification"] = self._rank(name, sonification.waveform, channel)
        if masked is not None:
            tracks["masked"] = masked
            facts["place on masked"] = self._rank(name, masked, channel)
        facts["difference (map, gradient)"] = str(sonification.verified)
        tracks["residual"] = sonification.residual
        short = _short(sonification.layer, self.rows)
        # The layer's own name where it may be a folder's.
        place = short if re.fullmatch(r"\w[\w.-]*", short) else number
        return LayerEntry(
            name=short,
            facts=facts,
            sounds=self._sounds(tracks, place),
            seconds=waveform.shape[-1] / (self.rate * speed_of(self.rate)),
        )

    def _sounds(self, tracks: Mapping[str, Tensor], layer: str) -> list[PlayerSound]:
        """Writes a layer's sounds and their pictures; the input lies beside all layers."""
        samples = {name: self._half(sound) for name, sound in tracks.items()}
        levels, peak = levels_of(samples), power_peak(samples["input"], self.rate) or None
        (self.folder / layer).mkdir()
        sounds = []
        for name, own in samples.items():
            stem = Path(name) if name == "input" else Path(layer, name)
            if not (self.folder / f"{stem}.png").exists():
                write_whole(self.folder / f"{stem}.wav", wav_of(own, self.rate))
                write_whole(self.folder / f"{stem}.png", picture_png(own, self.rate, peak))
            address = quote(f"{self.folder.name}/{stem.as_posix()}")
            sounds.append(
                PlayerSound(
                    name, f"{address}.wav", f"{address}.png", levels[name], speed_of(self.rate)
                )
            )
        return sounds

    def _half(self, sound: Tensor) -> Samples:
        """A sound as the page plays it, (time,): at half the level that gives the input peak 1."""
        peak = float(self.subject.waveform.abs().max()) or 1.0
        channels = sound.detach().cpu().reshape(-1, sound.shape[-1]).float()
        return mean_of(LEVEL / peak * channels)

    def _rank(self, layer: str, sound: Tensor, channel: int) -> str:
        """The channel's place among the layer's on a sound, 1 the most active."""
        heard = means(self.subject.sonifier.maps(sound, layer=layer))[0]
        return f"{int((heard > heard[channel]).sum()) + 1} of {len(heard)}"

    def _facts(self, row: LayerRow | None, channel: int) -> dict[str, str]:
        """What the page says of a layer, beside its name."""
        facts = {} if row is None else {"maps": str(row.channels)}
        facts["channel"] = str(channel)
        if row is not None:
            facts["hop"] = self._duration(row.hop)
            facts["reads"] = self._duration(row.receptive_field)
        return facts

    def _duration(self, samples: str | int | None) -> str:
        if samples is None:
            return "all"
        seconds = float(Fraction(samples)) / self.rate  # hops such as "5/2" are fractions
        return f"{seconds:.3g} s" if seconds >= 1 else f"{1000 * seconds:.3g} ms"


def _spread(table: Sequence[LayerRow]) -> list[str]:
    """Some of a network's layers, from low to high: convolutions, if it has any."""
    # A layer without a time axis, such as a classifier's last, has no moments to listen to.
    rows = [row for row in table if row.channels > 1 and row.hop is not None] or list(table)
    rows = [row for row in rows if "conv" in row.type.lower()] or rows
    count = min(LAYERS, len(rows))
    places = [round(n * (len(rows) - 1) / max(1, count - 1)) for n in range(count)]
    return [rows[place].name for place in places]


def _short(name: str, names: Collection[str]) -> str:
    """The shortest ending of a layer's name that no other layer has: it can be given as a name."""
    parts = name.split(".")
    endings = [".".join(parts[-count:]) for count in range(1, len(parts))]
    unique = (e for e in endings if sum(f".{other}".endswith(f".{e}") for other in names) == 1)
    return next(unique, name)
