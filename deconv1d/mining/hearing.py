"""The winners' sounds: each clip is run once, whatever the number of its winners."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.fx import Node

from deconv1d.audio import NoSpace, Samples, as_samples, encode_audio
from deconv1d.channels import chunk_of
from deconv1d.errors import Deconv1dError, InputError, SilenceWarning
from deconv1d.evaluation.card import EVERYTHING, RANDOM_SEED
from deconv1d.evaluation.randomisation import random_seed
from deconv1d.layers.axes import layout_of
from deconv1d.layers.maps import map_of
from deconv1d.masks.listen import listen
from deconv1d.masks.options import MASK
from deconv1d.mining.decoding import decoded
from deconv1d.mining.findings import folders_of, input_path, sound_path
from deconv1d.mining.long import LongClip, LongMaps, Stretch
from deconv1d.mining.plan import Plan
from deconv1d.mining.sources import Clip
from deconv1d.mining.trust import Judge, LayerSounds, twin_of
from deconv1d.mirror import mirror
from deconv1d.record.capture import Capture
from deconv1d.record.waveform import as_waveform
from deconv1d.seeds import Seed
from deconv1d.sonification import Sonification
from deconv1d.sounding import ReachedMap, sonify_map

if TYPE_CHECKING:
    from deconv1d.sonify import Sonifier

Place = tuple[str, int, int]
"""Layer, channel, rank."""
SUBTYPE = "PCM_16"
"""Enough to listen to; 24 bits take twice the disk."""


class Won(NamedTuple):
    """A place that a clip won, and the samples that its strongest moment reads."""

    layer: str
    channel: int
    rank: int
    first_sample: int
    last_sample: int

    @property
    def place(self) -> Place:
        """Which place it is."""
        return self[:3]


@dataclass(frozen=True)
class Heard:
    """What is written for some clips.

    Attributes:
        rows: By (layer, channel, rank): coherence, gain and paths, as in winners.parquet.
        files: Sound files, by their path in the folder.
        errors: By clip, why it could not be heard again.
    """

    rows: dict[Place, dict[str, Any]]
    files: dict[str, bytes]
    errors: dict[str, str]

    def to_json(self, plan: str) -> bytes:
        """All but the sounds.

        Args:
            plan: What the winners' sounds are of; see `Plan.sounds_sha256`.
        """
        rows = [[*place, row] for place, row in self.rows.items()]
        return json.dumps({"plan": plan, "rows": rows, "errors": self.errors}).encode()


class Listener:
    """Sonifies winners; made once in each worker.

    Args:
        sonifier: Of the plan's model.
        plan: What is asked for.
    """

    def __init__(self, sonifier: Sonifier, plan: Plan) -> None:
        self.plan, self._sonifier = plan, sonifier
        self._folders = folders_of(plan.layers)
        self._long = LongMaps(sonifier.forward_pass, plan.layers, plan.tap, plan.sample_rate)
        self._judge = Judge(sonifier, plan) if plan.trust else None
        self._twin: Sonifier | None = None

    def __call__(self, task: tuple[int, Sequence[tuple[Clip, Sequence[Won]]]]) -> Heard:
        """What is heard in some clips.

        Args:
            task: A number, and the clips with the places that they won.
        """
        heard = Heard({}, {}, {})
        places = {clip.clip: won for clip, won in task[1]}
        # Two in a group, so that four are in memory at most: mirrors take longer than reading.
        for group in decoded([clip for clip, _ in task[1]], self.plan.sample_rate, 2):
            for clip, waveform in group:
                try:
                    if isinstance(waveform, Exception):
                        raise waveform
                    for stretch, won in self._stretches(waveform, places[clip.clip]):
                        self._hear(clip.clip, stretch, won, heard)
                except NoSpace:  # no fault of the clip; the same command goes on when there is some
                    raise
                # Such as a file that was there when it was mined. The winner keeps its place.
                except Deconv1dError as error:
                    heard.errors[clip.clip] = str(error)
        return heard

    def _stretches(
        self, waveform: Samples | LongClip, won: Sequence[Won]
    ) -> Iterable[tuple[Stretch, Sequence[Won]]]:
        """What is heard of a clip: all of it; of a long one what lies around each moment."""
        if isinstance(waveform, LongClip):
            windows = [(each.first_sample, each.last_sample) for each in won]
            return (
                (stretch, [won[number] for number in numbers])
                for stretch, numbers in self._long.around(waveform, windows)
            )
        return [(Stretch(waveform, None), won)]

    def _hear(self, clip: str, stretch: Stretch, places: Sequence[Won], heard: Heard) -> None:
        waveform, won = stretch.samples, _by_layer(places)
        channels = {layer: [each.channel for each in group] for layer, group in won.items()}
        source = input_path(clip)
        if stretch.start is not None:
            source = f"{source.removesuffix('.flac')}-{stretch.start}.flac"
        heard.files[source] = self._flac(waveform)
        sounds = self._sounds(waveform, channels)
        masks = self._masks(waveform, channels) if self.plan.mask else {}
        trusted = {} if self._judge is None else self._judge(torch.from_numpy(waveform), sounds)
        for layer, group in won.items():
            for number, each in enumerate(group):
                row = self._write(heard, each, sounds[layer], masks.get(layer), number)
                more = trusted[layer][number] if trusted else {}
                first = {"sounds_from": stretch.start or 0, "input_path": source}
                heard.rows[each.place] = row | more | first

    def _write(
        self, heard: Heard, won: Won, sounds: _Sounds, masked: Tensor | None, number: int
    ) -> dict[str, Any]:
        """Adds a winner's sounds to the files; returns what is known of them."""
        tracks = {"path": ("", sounds.sonifications[number])}
        if RANDOM_SEED in sounds.controls:
            tracks["control_path"] = ("-control", sounds.controls[RANDOM_SEED][number])
        if masked is not None:
            tracks["mask_path"] = ("-mask", masked[number])
        row: dict[str, Any] = {
            "coherence": sounds.coherences[number],
            "gain": sounds.gains[number],
        }
        for column, (kind, sound) in tracks.items():
            path = sound_path(self._folders[won.layer], won.channel, won.rank, kind)
            heard.files[path], row[column] = self._flac(sound), path
        return row

    # --- sounds ---

    def _sounds(self, waveform: Samples, channels: Mapping[str, list[int]]) -> dict[str, _Sounds]:
        """Of each layer the sounds of the channels that won, with controls if they are wanted."""
        if self.plan.method == MASK:
            found = self._listened(waveform, channels)
            return {each.layer: _sounds_of(each) for each in found}
        sounds = {}
        for sonification, reached in self._sonified(self._sonifier, waveform, channels):
            own = channels[sonification.layer]
            controls: dict[str, Tensor] = {}
            if self.plan.trust:
                # A generator of its own: what is drawn must not depend on what was heard before.
                seed = partial(random_seed, generator=torch.Generator().manual_seed(0))
                controls[RANDOM_SEED] = self._carried(reached, own, seed).waveform
            sounds[sonification.layer] = _sounds_of(sonification, controls)
        if self.plan.trust:
            # A copy of the model: made with the first clip, since many runs hear nothing again.
            self._twin = self._twin or twin_of(self._sonifier)
            for sonification, _ in self._sonified(self._twin, waveform, channels):
                sounds[sonification.layer].controls[EVERYTHING] = sonification.waveform
        return sounds

    def _sonified(
        self, sonifier: Sonifier, waveform: Samples, channels: Mapping[str, list[int]]
    ) -> Iterator[tuple[Sonification, ReachedMap]]:
        """One for each layer, of all its channels that won, from one forward pass."""
        names = list(channels)
        captured, layers = sonifier.forward_pass.run_through(
            waveform, names, tap=self.plan.tap, method=self.plan.method
        )
        for name, layer, node in zip(names, layers, captured.taps, strict=True):
            assert node is not None  # `run_through` raises if it is
            reached = self._reached(replace(captured, taps=(node,)), layer, node, waveform)
            yield self._carried(reached, channels[name], self.plan.seed), reached

    def _carried(self, reached: ReachedMap, channels: list[int], seed: Seed) -> Sonification:
        with warnings.catch_warnings():  # the gain of a silent one is 0
            warnings.simplefilter("ignore", SilenceWarning)
            return sonify_map(
                reached, channel=channels, seed=seed, sample_rate=self.plan.sample_rate
            )

    def _reached(self, captured: Capture, layer: str, node: Node, waveform: Samples) -> ReachedMap:
        deconvnet = mirror(captured, rules=captured.rules, method=captured.method)
        return ReachedMap(
            layer=layer,
            tap=self.plan.tap,
            waveform=as_waveform(waveform),
            activation=map_of(captured),
            layout=layout_of(captured, node),
            carry_back=deconvnet,
            steps=deconvnet.steps,
            chunk=chunk_of(captured),
        )

    def _masks(self, waveform: Samples, channels: Mapping[str, list[int]]) -> dict[str, Tensor]:
        """The masked recordings, (channels, time), by layer; none of a clip too short for them."""
        try:
            return {each.layer: each.waveform for each in self._listened(waveform, channels)}
        except InputError:
            return {}

    def _listened(self, waveform: Samples, channels: Mapping[str, list[int]]) -> list[Sonification]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SilenceWarning)
            return listen(
                self._sonifier,
                waveform,
                layers=list(channels),
                channel=channels,
                tap=self.plan.tap,
                progress=False,
            )

    def _flac(self, sound: Samples | Tensor) -> bytes:
        """A FLAC file; a sound beyond full scale, as MP3 files may hold, is scaled to it."""
        samples = as_samples(sound)
        peak = np.abs(samples).max()
        rate = self.plan.sample_rate
        return encode_audio(samples / max(peak, 1), rate, file_format="FLAC", subtype=SUBTYPE)


@dataclass(frozen=True)
class _Sounds(LayerSounds):
    """A layer's sounds with what is written of them."""

    gains: Sequence[float]
    coherences: Sequence[float | None]


def _sounds_of(sonification: Sonification, controls: dict[str, Tensor] | None = None) -> _Sounds:
    assert isinstance(sonification.channel, list)  # lists are asked for
    return _Sounds(
        channels=sonification.channel,
        sonifications=sonification.waveform,
        controls={} if controls is None else controls,
        gains=sonification.gain.flatten().tolist(),
        coherences=_coherences(sonification),
    )


def _by_layer(places: Sequence[Won]) -> dict[str, list[Won]]:
    won: dict[str, list[Won]] = {}
    for each in places:
        won.setdefault(each.layer, []).append(each)
    return won


def _coherences(sonification: Sonification) -> list[float | None]:
    try:
        found: list[float | None] = sonification.coherence().flatten().tolist()
    except InputError:  # too short for two segments
        return [None] * sonification.gain.numel()
    return found
